//! `ore openstack`: OpenStack.

mod gc;
mod images;

use ::mantle::cloud::openstack::api::Api;
use ::mantle::cloud::openstack::{self, sources};
use ::mantle::error::{Result, Section as _, WrapErr as _};
use ::mantle::http;
use clap::Args as _;

use super::group::{Account, Entry, Group, Who};

/// The group's record.
pub const GROUP: Group = Group {
    name: "openstack",
    about: "OpenStack machine utilities",
    prefix: "openstack-",
    options: Options::augment_args,
    verbs: &[Entry::of::<images::Create>(), Entry::of::<images::Delete>(), Entry::of::<gc::Gc>()],
    files: &[sources::FILES],
    environment: &[sources::ENVIRONMENT, http::ENVIRONMENT],
    examples: &[
        (
            "ore openstack create-image --file=coreos_production_openstack_image.img.bz2 --name=1.2.3",
            "Unpack an image while it is uploaded, and print its id.",
        ),
        (
            "ore openstack gc --dry-run > plan.json && ore openstack gc --apply=plan.json",
            "Look at what would be removed before it is.",
        ),
    ],
};

/// Whose OpenStack.
#[derive(clap::Args)]
#[group(skip)]
pub struct Options {
    #[command(flatten)]
    account: openstack::Account,
}

impl Account for Options {
    type Api = Api;

    async fn api(&self) -> Result<Api> {
        Api::new(&self.account).await.wrap_err("could not create OpenStack client").suggestion(
            "see whether `openstack token issue` works with the same clouds.yaml or variables, or see --config-file",
        )
    }

    async fn who(api: &Api) -> Result<Who> {
        let grant = api.grant();
        let named = |name: &str, id: &str| match name.is_empty() {
            true => id.to_owned(),
            false => name.to_owned(),
        };
        Ok(Who {
            account: format!("project {}", named(&grant.project, &grant.project_id)),
            identity: named(&grant.user, "a user without name"),
            location: api.region().map_or_else(|| "the only region".to_owned(), |r| format!("region {r}")),
            origin: api.login().source().origin.clone(),
        })
    }
}
