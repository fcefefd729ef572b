//! `ore packet`: Packet.

mod device;
mod gc;
mod keys;

use std::path::PathBuf;

use ::mantle::cloud::google::sources::{self, Choice};
use ::mantle::cloud::packet::{self, Packet, store};
use ::mantle::error::{Result, WrapErr as _};
use ::mantle::http;
use clap::Args as _;

use super::group::{Account, Entry, Explain as _, Group, Who};

/// The group's record.
pub const GROUP: Group = Group {
    name: "packet",
    about: "Packet machine utilities; the service was closed on 2026-06-30 as far as we know, others may speak as it did (--api-url)",
    prefix: "packet-",
    options: Options::augment_args,
    verbs: &[
        Entry::of::<device::Create>(),
        Entry::of::<keys::Delete>(),
        Entry::of::<gc::Gc>(),
        Entry::of::<keys::List>(),
    ],
    files: &[packet::FILES],
    environment: &[packet::ENVIRONMENT, sources::ENVIRONMENT, http::ENVIRONMENT],
    examples: &[(
        "ore packet --storage-url=s3://bucket/boot create-device --hostname=test --userdata-file=config.ign",
        "Make a device whose installer fetches what it needs from S3.",
    )],
};

/// Whose Packet.
#[derive(clap::Args)]
#[group(skip)]
pub struct Options {
    #[command(flatten)]
    account: packet::Account,

    #[command(flatten)]
    store: store::Options,

    /// Use the credentials of this Compute Engine machine for Google Storage
    #[arg(long)]
    gs_service_auth: bool,

    /// Use the credentials in this file for Google Storage
    #[arg(long, value_name = "FILE", value_parser = ::mantle::args::path_parser(), value_hint = clap::ValueHint::FilePath)]
    gs_json_key: Option<PathBuf>,
}

impl Options {
    /// Which credentials Google gets, if anything is stored there.
    fn choice(&self) -> Choice {
        let key = self.gs_json_key.clone().filter(|k| !k.as_os_str().is_empty());
        Choice { service: self.gs_service_auth, key }
    }
}

/// The service, and where what devices boot is stored.
pub struct Api {
    packet: Packet,
    store: store::Options,
    choice: Choice,
}

impl Account for Options {
    type Api = Api;

    async fn api(&self) -> Result<Api> {
        let packet = Packet::new(&self.account).wrap_err("could not create Packet client")?;
        Ok(Api { packet, store: self.store.clone(), choice: self.choice() })
    }

    async fn who(api: &Api) -> Result<Who> {
        let packet = &api.packet;
        let project = packet.project();
        let name = packet.project_name().await;
        let name = name.map_err(|e| e.explain(&format!("querying project {project}")))?;
        Ok(Who {
            account: format!("project {project}"),
            identity: "the owner of the key".into(),
            location: if name.is_empty() { "without a name".into() } else { format!("named {name:?}") },
            origin: packet.origin().to_owned(),
        })
    }
}
