//! `ore azure gc`.

use ::mantle::applet::Context;
use ::mantle::cloud::azure::arm::Arm;
use ::mantle::cloud::azure::gc::Collector;
use ::mantle::error::Result;
use ::mantle::ledger::Clean;
use ::mantle::platform::azure::leftovers;
use clap::Parser;

use super::Options;
use crate::ore::gc::{self, Garbage};
use crate::ore::group::Verb;

#[derive(Parser)]
#[command(
    name = "gc",
    about = "GC resources in Azure",
    long_about = "Delete the resource groups of the subscription whose names begin with kola-cluster and whose tag \
        createdAt is old enough, with everything in them. Groups with the tag mantle:keep stay. Nothing else is ever \
        touched."
)]
pub struct Gc {
    /// Groups of such names without a time of creation are garbage, too
    #[arg(long, conflicts_with = "ledger")]
    include_untagged: bool,

    #[command(flatten)]
    options: gc::Options,
}

impl Garbage for Options {
    type Collector = Collector;

    const PLATFORM: &'static str = "azure";

    fn collector(&self, arm: Arm, _who: String) -> Collector {
        Collector::new(arm, self.untagged)
    }

    fn cleaner(arm: Arm) -> impl Clean {
        leftovers(arm)
    }
}

impl Verb for Gc {
    type Account = Options;

    async fn run(self, mut account: Options, context: &Context) -> Result<()> {
        account.untagged = self.include_untagged;
        gc::run(self.options, "ore azure gc", &account, context).await
    }
}
