//! `ore do gc`.

use ::mantle::applet::Context;
use ::mantle::cloud::digitalocean::{Account, Api, gc::Collector};
use ::mantle::error::Result;
use ::mantle::ledger::Clean;
use ::mantle::platform::digitalocean::leftovers;
use clap::Parser;

use crate::ore::gc::{self, Garbage};
use crate::ore::group::Verb;

#[derive(Parser)]
#[command(
    name = "gc",
    about = "GC resources in DigitalOcean",
    long_about = "Delete the droplets of the account, in all regions, that have the tag mantle and were made long enough \
        ago. Droplets that are archived or have the tag mantle:keep stay. Images, snapshots, networks and keys are never \
        touched; for keys there is delete-keys."
)]
pub struct Gc {
    #[command(flatten)]
    options: gc::Options,
}

impl Garbage for Account {
    type Collector = Collector;

    const PLATFORM: &'static str = "do";

    fn collector(&self, api: Api, who: String) -> Collector {
        Collector::new(api, who)
    }

    fn cleaner(api: Api) -> impl Clean {
        leftovers(api)
    }
}

impl Verb for Gc {
    type Account = Account;

    async fn run(self, account: Account, context: &Context) -> Result<()> {
        gc::run(self.options, "ore do gc", &account, context).await
    }
}
