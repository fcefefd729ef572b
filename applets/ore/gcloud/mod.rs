//! `ore gcloud`: Google Cloud.

mod tree;

use std::path::PathBuf;

use ::mantle::args::path_parser;
use ::mantle::cloud::google::sources::{self, Choice};
use ::mantle::cloud::google::storage::Storage;
use ::mantle::error::Result;
use ::mantle::http;
use clap::{Args as _, ValueHint};

use super::group::{Entry, Group, given};
use crate::downloads;

/// The group's record.
pub const GROUP: Group = Group {
    name: "gcloud",
    about: "GCloud image creation and upload tools",
    prefix: "gce-",
    options: Options::augment_args,
    verbs: &[Entry::of::<tree::Index>(), Entry::of::<tree::Sync>()],
    files: &[sources::FILES],
    environment: &[sources::ENVIRONMENT, http::ENVIRONMENT],
    examples: &[
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
    /// Project of instances and images
    #[arg(long, value_name = "PROJECT", default_value = "coreos-gce-testing")]
    project: String,

    /// Zone of instances
    #[arg(long, value_name = "ZONE", default_value = "us-central1-a")]
    zone: String,

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

    /// Use the credentials of this Compute Engine machine
    #[arg(long)]
    service_auth: bool,

    /// Use the service account with this key, in Google's JSON form
    #[arg(long, value_name = "FILE", value_parser = path_parser(), value_hint = ValueHint::FilePath)]
    json_key: Option<PathBuf>,

    /// Compute Engine API to use in place of Google's
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,

    /// Cloud Storage API to use in place of Google's
    #[arg(long, value_name = "URL")]
    storage_endpoint: Option<String>,
}

impl Options {
    /// Cloud Storage as the options say.
    fn storage(self) -> Result<Storage> {
        let key = self.json_key.filter(|k| !k.as_os_str().is_empty());
        let choice = Choice { service: self.service_auth, key };
        downloads::storage_at(choice, downloads::SCOPES, given(self.storage_endpoint).as_deref())
    }
}
