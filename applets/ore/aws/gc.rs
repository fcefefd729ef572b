//! `ore aws gc`.

use ::mantle::applet::Context;
use ::mantle::cloud::aws::api::Api;
use ::mantle::cloud::aws::gc::Collector;
use ::mantle::error::Result;
use ::mantle::ledger::Clean;
use ::mantle::platform::aws::leftovers;
use clap::Parser;

use super::Options;
use crate::ore::gc::{self, Garbage};
use crate::ore::group::Verb;

#[derive(Parser)]
#[command(
    name = "gc",
    about = "GC resources in AWS",
    long_about = "Terminate the instances of the region that have the tag CreatedBy=mantle and were started long enough \
        ago, and remove the parts of image uploads that were given up on this computer. Instances with the tag \
        mantle:keep stay. Images, snapshots, volumes, networks, security groups, roles, keys and buckets are never \
        touched."
)]
pub struct Gc {
    #[command(flatten)]
    options: gc::Options,
}

impl Garbage for Options {
    type Collector = Collector;

    const PLATFORM: &'static str = "aws";

    fn collector(&self, api: Api, who: String) -> Collector {
        Collector::new(api, who)
    }

    fn cleaner(api: Api) -> impl Clean {
        leftovers(api)
    }
}

impl Verb for Gc {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        gc::run(self.options, "ore aws gc", &account, context).await
    }
}
