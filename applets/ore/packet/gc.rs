//! `ore packet gc`.

use ::mantle::applet::Context;
use ::mantle::cloud::packet::gc::Collector;
use ::mantle::error::Result;
use ::mantle::ledger::Clean;
use ::mantle::platform::packet::leftovers;
use clap::Parser;

use super::{Api, Options};
use crate::ore::gc::{self, Garbage};
use crate::ore::group::Verb;

#[derive(Parser)]
#[command(
    name = "gc",
    about = "GC resources in Packet",
    long_about = "Delete the devices of the project that have the tag mantle and were made long enough ago. Those that \
        are locked, have the tag mantle:keep, or are still being made stay. Keys and stored objects are never touched, \
        but for those that --ledger names."
)]
pub struct Gc {
    #[command(flatten)]
    options: gc::Options,
}

impl Garbage for Options {
    type Collector = Collector;

    const PLATFORM: &'static str = "packet";

    fn collector(&self, api: Api, _who: String) -> Collector {
        Collector::new(api.packet)
    }

    fn cleaner(api: Api) -> impl Clean {
        leftovers(api.packet, api.store, api.choice)
    }
}

impl Verb for Gc {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        gc::run(self.options, "ore packet gc", &account, context).await
    }
}
