//! `ore aws`: Amazon Web Services.

mod gc;
mod images;
mod upload;

use ::mantle::cloud::aws::api::Api;
use ::mantle::cloud::aws::failure::Error;
use ::mantle::cloud::aws::{self, Keys};
use ::mantle::error::{Result, Section as _, WrapErr as _};
use ::mantle::http;
use clap::Args as _;

use super::group::{Account, Entry, Explain, Group, Who};

/// The group's record.
pub const GROUP: Group = Group {
    name: "aws",
    about: "aws image and vm utilities",
    prefix: "aws-",
    options: Options::augment_args,
    verbs: &[
        Entry::of::<images::Copy>(),
        Entry::of::<images::Delete>(),
        Entry::of::<gc::Gc>(),
        Entry::of::<images::Initialize>(),
        Entry::of::<images::List>(),
        Entry::of::<images::ListRegions>(),
        Entry::of::<upload::Upload>(),
    ],
    files: &[
        aws::FILES,
        &[(
            "$XDG_STATE_HOME/mantle/aws",
            "Records of uploads to AWS that are not finished; ~/.local/state if the variable is not set.",
        )],
    ],
    environment: &[aws::ENVIRONMENT, http::ENVIRONMENT],
    examples: &[
        (
            "ore aws upload --file=image.bin --object-format=RAW --direct --name=1.2.3 --ami-name=linux-1.2.3",
            "Write a raw image into a snapshot and register the AMI linux-1.2.3-hvm; repeat the command if it is interrupted.",
        ),
        (
            "ore aws gc --dry-run > plan.json && ore aws gc --apply=plan.json",
            "Look at what would be terminated before it is.",
        ),
    ],
};

/// Whose AWS, with the keys that only ore takes on its command line.
#[derive(clap::Args)]
#[group(skip)]
pub struct Options {
    #[command(flatten)]
    account: aws::Account,

    #[command(flatten)]
    keys: Keys,
}

impl Options {
    /// The region, if it was asked for.
    fn region(&self) -> Option<&str> {
        self.account.region()
    }
}

impl Account for Options {
    type Api = Api;

    async fn api(&self) -> Result<Api> {
        let account = self.account.clone().with_keys(self.keys.clone());
        Api::new(&account).await.wrap_err("could not create AWS client").suggestion(
            "see whether `aws sts get-caller-identity` works with the same --profile, --region and variables",
        )
    }

    async fn who(api: &Api) -> Result<Who> {
        let caller = api.caller().await.wrap_err("could not complete AWS preflight check")?;
        let (location, origin) = (api.region().to_owned(), api.origin());
        Ok(Who { account: caller.account, identity: caller.arn, location, origin })
    }
}

impl Explain for Error {
    fn is_interruption(&self) -> bool {
        Self::is_interruption(self)
    }

    fn advice(&self) -> Option<&'static str> {
        match self.code() {
            _ if self.is_difference() => Some(
                "pass --force to replace what is there, or give this image a name of its own with --name and --ami-name",
            ),
            Some("BucketAlreadyExists") => Some("another account has this bucket: pass another --bucket"),
            Some("NoSuchBucket") => Some("make the bucket with `ore aws initialize`"),
            // The import of a snapshot, the first call that needs the role.
            Some("InvalidParameter") if self.to_string() == "unable to create snapshot" => {
                Some("make the role vmimport, and let it read this bucket, with `ore aws initialize`")
            }
            _ => None,
        }
    }
}
