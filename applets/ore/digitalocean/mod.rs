//! `ore do`: DigitalOcean.

mod gc;
mod images;
mod keys;

use ::mantle::cloud::digitalocean::{self, Api};
use ::mantle::error::{Result, Section as _, WrapErr as _};
use ::mantle::http::{self, Class};
use clap::Args as _;

use super::group::{Account, Entry, Group, Who};

/// The group's record.
pub const GROUP: Group = Group {
    name: "do",
    about: "DigitalOcean machine utilities",
    prefix: "do-",
    options: digitalocean::Account::augment_args,
    verbs: &[
        Entry::of::<images::Create>(),
        Entry::of::<images::Delete>(),
        Entry::of::<keys::Delete>(),
        Entry::of::<gc::Gc>(),
        Entry::of::<keys::List>(),
    ],
    files: &[digitalocean::FILES],
    environment: &[digitalocean::ENVIRONMENT, http::ENVIRONMENT],
    examples: &[
        (
            "ore do create-image --name=linux-1.2.3 --url=https://example.com/linux.img.bz2",
            "Let DigitalOcean fetch an image; kola run -p do --do-image=linux-1.2.3 tests it.",
        ),
        (
            "ore do gc --dry-run > plan.json && ore do gc --apply=plan.json",
            "Look at the droplets that would be removed before they are.",
        ),
    ],
};

impl Account for digitalocean::Account {
    type Api = Api;

    async fn api(&self) -> Result<Api> {
        Api::new(self).wrap_err("could not create DigitalOcean client")
    }

    async fn who(api: &Api) -> Result<Who> {
        let identity = api.identity().await.map_err(|e| {
            let class = e.class();
            let report =
                color_eyre::eyre::Report::new(e).wrap_err("could not complete DigitalOcean preflight check");
            match class {
                Some(Class::Denied) => report.suggestion(format!(
                    "see whether the token of {} is the one that you meant, and what it may do",
                    api.origin()
                )),
                _ => report,
            }
        })?;
        if !matches!(identity.status.as_str(), "" | "active") {
            ::mantle::warning!("ore", "DigitalOcean says of the account: {}", identity.status);
        }
        Ok(Who {
            account: identity.account,
            identity: identity.email,
            location: "all regions".into(),
            origin: api.origin().into(),
        })
    }
}
