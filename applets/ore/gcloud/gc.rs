//! `ore gcloud gc`.

use ::mantle::applet::Context;
use ::mantle::cloud::google::compute::{ALL_ZONES, Compute};
use ::mantle::cloud::google::gc::Collector;
use ::mantle::error::Result;
use ::mantle::ledger::Clean;
use ::mantle::platform::gce::leftovers;
use clap::Parser;

use super::Options;
use crate::ore::gc::{self, Garbage};
use crate::ore::group::Verb;

#[derive(Parser)]
#[command(
    name = "gc",
    about = "GC resources in GCE",
    long_about = "Delete the instances of the zone that have the metadata created-by=mantle and were made long enough \
        ago. Instances that are stopped, have the label mantle-keep or are protected from deletion stay. Images, \
        networks, firewall rules, buckets and objects are never touched."
)]
pub struct Gc {
    /// Look at all zones of the project
    #[arg(long, conflicts_with = "ledger")]
    all_zones: bool,

    #[command(flatten)]
    options: gc::Options,
}

impl Garbage for Options {
    type Collector = Collector;

    const PLATFORM: &'static str = "gce";

    fn collector(&self, compute: Compute, _who: String) -> Collector {
        Collector::new(compute)
    }

    fn cleaner(compute: Compute) -> impl Clean {
        leftovers(compute)
    }
}

impl Verb for Gc {
    type Account = Options;

    async fn run(self, mut account: Options, context: &Context) -> Result<()> {
        if self.all_zones {
            account.account.gce_zone = ALL_ZONES.into();
        }
        gc::run(self.options, "ore gcloud gc", &account, context).await
    }
}
