//! `ore azure`: Azure.

mod blobs;
mod classic;

use ::mantle::cloud::azure::{classic as library, storage};
use ::mantle::http;
use clap::Args as _;

use super::group::{Entry, Group};

/// The group's record.
pub const GROUP: Group = Group {
    name: "azure",
    about: "azure image and vm utilities",
    // Upstream's names have the prefix here, too.
    prefix: "ore-azure-",
    options: Options::augment_args,
    verbs: &[
        Entry::of::<classic::Create>(),
        Entry::of::<classic::Replicate>(),
        Entry::of::<classic::Share>(),
        Entry::of::<classic::Unreplicate>(),
        Entry::of::<blobs::Upload>(),
    ],
    files: &[library::FILES],
    environment: &[storage::ENVIRONMENT, http::ENVIRONMENT],
    examples: &[(
        "ore azure upload-blob account vhds image.vhd coreos_production_azure_image.vhd",
        "Store a disk as a page blob; repeated after an interruption, the command goes on.",
    )],
};

/// Whose Azure.
#[derive(clap::Args)]
#[group(skip)]
pub struct Options {
    #[command(flatten)]
    pub classic: library::Account,
}
