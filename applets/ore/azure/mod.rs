//! `ore azure`: Microsoft Azure.

mod blobs;
mod classic;
mod gallery;
mod gc;
mod images;

use ::mantle::cloud::azure::arm::Arm;
use ::mantle::cloud::azure::credentials::sources;
use ::mantle::cloud::azure::{self, storage};
use ::mantle::error::{Result, WrapErr as _};
use ::mantle::http;
use clap::Args as _;

use super::group::{Account, Entry, Group, Who};

/// The group's record.
pub const GROUP: Group = Group {
    name: "azure",
    about: "azure image and vm utilities",
    prefix: "",
    options: Options::augment_args,
    verbs: &[
        Entry::of::<gallery::Create>(),
        Entry::of::<classic::Create>(),
        Entry::of::<images::Create>(),
        Entry::of::<images::DeleteBlob>(),
        Entry::of::<gallery::Delete>(),
        Entry::of::<images::Delete>(),
        Entry::of::<gc::Gc>(),
        Entry::of::<classic::Replicate>(),
        Entry::of::<classic::Share>(),
        Entry::of::<classic::Unreplicate>(),
        Entry::of::<blobs::Upload>(),
        Entry::of::<blobs::UploadArm>(),
    ],
    files: &[sources::FILES],
    environment: &[sources::ENVIRONMENT, storage::ENVIRONMENT, http::ENVIRONMENT],
    examples: &[
        (
            "ore azure upload-blob account vhds image.vhd coreos_production_azure_image.vhd",
            "Store a disk as a page blob; repeated after an interruption, the command goes on.",
        ),
        (
            "ore azure create-image-arm --image-name=me-1 --image-blob=https://kola.blob.core.windows.net/vhds/me.vhd",
            "Make a managed image of a page blob.",
        ),
        (
            "ore azure gc --dry-run > plan.json && ore azure gc --apply=plan.json",
            "Look at what would be removed before it is.",
        ),
    ],
};

/// Whose Azure.
#[derive(clap::Args)]
#[group(skip)]
pub struct Options {
    #[command(flatten)]
    account: azure::Account,

    /// What `gc` was told about resource groups that do not say when they were made.
    #[arg(skip)]
    untagged: bool,
}

impl Options {
    /// The same for the classic API, which knows the profile alone.
    fn classic(&self) -> azure::classic::Account {
        let azure::Account { azure_profile, azure_subscription, .. } = &self.account;
        azure::classic::Account {
            azure_profile: azure_profile.clone(),
            azure_subscription: azure_subscription.clone(),
        }
    }
}

impl Account for Options {
    type Api = Arm;

    async fn api(&self) -> Result<Arm> {
        ::mantle::info!("ore", "Creating Azure API...");
        Arm::new(&self.account).wrap_err("could not create Azure client")
    }

    /// Asks for a token only: the subscription is what options and files say, and what one may do there is found out
    /// when one does it.
    async fn who(arm: &Arm) -> Result<Who> {
        let credentials = arm.credentials();
        credentials.token().await.wrap_err("could not sign in to Azure")?;
        Ok(Who {
            account: format!("subscription {}", arm.subscription()),
            identity: credentials.identity(),
            location: format!("location {}", arm.location()),
            origin: credentials.origin().to_owned(),
        })
    }
}
