//! `ore esx`: vSphere.

mod base;
mod gc;
mod vms;

use ::mantle::applet::Context;
use ::mantle::cloud::esx::api::Api;
use ::mantle::cloud::esx::{self, import, sources};
use ::mantle::error::{Result, Section as _, WrapErr as _};
use ::mantle::http::{self, CallError};
use clap::Args as _;

use super::group::{Account, Entry, Explain, Group, Who, unless_cancelled};

/// The group's record.
pub const GROUP: Group = Group {
    name: "esx",
    about: "ESX machine utilities",
    prefix: "esx-",
    options: Options::augment_args,
    verbs: &[
        Entry::of::<base::Create>(),
        Entry::of::<gc::Gc>(),
        Entry::of::<vms::List>(),
        Entry::of::<base::Remove>(),
        Entry::of::<vms::Remove>(),
    ],
    files: &[sources::FILES],
    environment: &[sources::ENVIRONMENT, http::ENVIRONMENT],
    examples: &[
        (
            "ore esx create-base --file=coreos_production_vmware_ova.ova --name=1.2.3",
            "Upload a virtual machine that others are cloned from.",
        ),
        ("ore esx list-vms --pattern='kola-*'", "List the machines of kola."),
    ],
};

/// Whose vSphere.
#[derive(clap::Args)]
#[group(skip)]
pub struct Options {
    #[command(flatten)]
    account: esx::Account,
}

impl Account for Options {
    type Api = Api;

    async fn api(&self) -> Result<Api> {
        Api::new(&self.account).await.wrap_err("could not create ESX client").suggestion(
            "write ~/.config/esx.json, or set GOVC_URL, GOVC_USERNAME and GOVC_PASSWORD; see --thumbprint and --ca-file \
             for servers with certificates of their own",
        )
    }

    async fn who(api: &Api) -> Result<Who> {
        let server = api.check().await.map_err(|e| e.explain("could not complete ESX preflight check"))?;
        let source = api.session().source();
        Ok(Who {
            account: format!("server {}", api.place()),
            identity: source.user.clone(),
            location: server,
            origin: source.origin.clone(),
        })
    }
}

/// Does something within a session that is ended after it, whatever came of it.
async fn within<T>(
    account: &Options,
    context: &Context,
    removes: bool,
    work: impl AsyncFnOnce(&Api) -> Result<T>,
) -> Result<T> {
    let api = match removes {
        true => account.sign_in_to_remove(context).await?,
        false => account.sign_in(context).await?,
    };
    let done = work(&api).await;
    // A session that stays would end by itself.
    let leave = async {
        api.leave().await;
        Ok(())
    };
    let _ = unless_cancelled(context, leave).await;
    done
}

impl Explain for import::Failure {
    fn is_interruption(&self) -> bool {
        matches!(self, Self::Interrupted | Self::Package(::mantle::cloud::esx::ova::Error::Interrupted))
    }

    fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Call(e) if e.is(&["DuplicateName"]) => {
                Some("choose another name, or remove that one (see remove-base)")
            }
            Self::Disks(e) if e.is_not_found() => {
                Some("the session ended, and the upload's lease with it: try again")
            }
            Self::Call(e) | Self::Disks(e) => <CallError as Explain>::advice(e),
            Self::Package(_) => Some("get the package again, or name another by --file"),
            Self::Rejected(_) | Self::Disk(_) | Self::Interrupted => None,
        }
    }
}
