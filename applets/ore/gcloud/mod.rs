//! `ore gcloud`: Google Cloud.

mod gc;
mod images;
mod instances;
mod tree;
mod upload;

use std::io::IsTerminal as _;

use ::mantle::cloud::google::compute::Compute;
use ::mantle::cloud::google::storage::Storage;
use ::mantle::cloud::google::{self, sources};
use ::mantle::error::{Result, Section as _, WrapErr as _, eyre};
use ::mantle::http;
use clap::Args as _;

use super::group::{Account, Entry, Group, Who, given};
use crate::downloads;

/// The group's record.
pub const GROUP: Group = Group {
    name: "gcloud",
    about: "GCloud image creation and upload tools",
    prefix: "gce-",
    options: Options::augment_args,
    verbs: &[
        Entry::of::<images::Create>(),
        Entry::of::<images::Delete>(),
        Entry::of::<images::Deprecate>(),
        Entry::of::<instances::Destroy>(),
        Entry::of::<gc::Gc>(),
        Entry::of::<tree::Index>(),
        Entry::of::<images::List>(),
        Entry::of::<instances::List>(),
        Entry::of::<images::Promote>(),
        Entry::of::<tree::Sync>(),
        Entry::of::<images::Update>(),
        Entry::of::<upload::Upload>(),
    ],
    files: &[sources::FILES],
    environment: &[sources::ENVIRONMENT, http::ENVIRONMENT],
    examples: &[
        (
            "ore gcloud upload --file=image.bin --bucket=gs://bucket/me --name=1.2.3",
            "Pack a raw image, store it and make the image me-1-2-3 of it.",
        ),
        (
            "ore gcloud gc --all-zones --dry-run > plan.json && ore gcloud gc --all-zones --apply=plan.json",
            "Look at what would be removed before it is.",
        ),
        (
            "ore gcloud index -r -D gs://bucket/boards/",
            "Give every folder below boards an index.html, a page of its own, and a redirect to it.",
        ),
        (
            "ore gcloud sync -n -r --delete gs://builds/1.2.3 gs://releases/1.2.3",
            "See what would be copied and deleted to make one place as the other.",
        ),
    ],
};

/// Whose Google Cloud.
#[derive(clap::Args)]
#[group(skip)]
pub struct Options {
    #[command(flatten)]
    account: google::Account,

    /// What names of instances begin with
    #[arg(long, value_name = "NAME", default_value = "kola")]
    basename: String,

    /// Has no effect on these commands
    #[arg(long, value_name = "IMAGE", default_value = "", hide_default_value = true)]
    image: String,

    /// Has no effect on these commands
    #[arg(long, value_name = "TYPE", default_value = "n1-standard-1")]
    machinetype: String,

    /// Has no effect on these commands
    #[arg(long, value_name = "TYPE", default_value = "pd-ssd")]
    disktype: String,

    /// Has no effect on these commands
    #[arg(long, value_name = "NETWORK", default_value = "default")]
    network: String,

    /// Cloud Storage API to use in place of Google's
    #[arg(long, value_name = "URL")]
    storage_endpoint: Option<String>,
}

impl Options {
    /// Cloud Storage as the options say.
    fn storage(&self) -> Result<Storage> {
        let endpoint = given(self.storage_endpoint.clone());
        downloads::storage_at(self.account.choice(), downloads::SCOPES, endpoint.as_deref())
    }
}

impl Account for Options {
    type Api = Compute;

    async fn api(&self) -> Result<Compute> {
        Compute::new(&self.account, downloads::is_interactive()).await.wrap_err("could not create GCE client")
    }

    /// Asks for a token only: the project is what the options say, and what the account may do there is found out
    /// when it does it.
    async fn who(compute: &Compute) -> Result<Who> {
        let credentials = compute.credentials();
        credentials.token().await.wrap_err("could not sign in to Google")?;
        let (account, identity) = (format!("project {}", compute.project()), credentials.identity());
        let location = match compute.zone() {
            google::compute::ALL_ZONES => "all zones".to_owned(),
            zone => format!("zone {zone}"),
        };
        Ok(Who { account, identity, location, origin: credentials.origin().to_owned() })
    }
}

/// Asks a person, on a terminal; where nobody is there to answer, says what helps.
async fn confirm(question: String, instead: &'static str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(eyre!("{question}: nobody is there to say").suggestion(instead));
    }
    let answer = tokio::task::spawn_blocking(move || {
        ::mantle::output::write(format!("{question} (y/n):").as_bytes())?;
        let mut line = String::new();
        match std::io::stdin().read_line(&mut line)? {
            0 => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)),
            _ => Ok(line),
        }
    });
    let answer = answer.await?.wrap_err("Scanning overwrite input")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
