//! `ore esx gc`.

use ::mantle::applet::Context;
use ::mantle::cloud::esx::api::Api;
use ::mantle::cloud::esx::gc::Collector;
use ::mantle::error::Result;
use ::mantle::ledger::Clean;
use ::mantle::platform::esx::leftovers;
use clap::Parser;

use super::Options;
use crate::ore::gc::{self, Garbage};
use crate::ore::group::Verb;

#[derive(Parser)]
#[command(
    name = "gc",
    about = "GC resources on ESX",
    long_about = "Delete VMs that are old enough and that mantle made: their names end with a UUID and ten digits, and they \
        have the setting CreatedBy=mantle. Templates, VMs with the setting mantle:keep, VMs that others are cloned from, and \
        all other VMs are never touched."
)]
pub struct Gc {
    #[command(flatten)]
    options: gc::Options,
}

impl Garbage for Options {
    type Collector = Collector;

    const PLATFORM: &'static str = "esx";

    fn collector(&self, api: Api, _who: String) -> Collector {
        Collector::new(api)
    }

    fn cleaner(api: Api) -> impl Clean {
        leftovers(api)
    }
}

impl Verb for Gc {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        gc::run(self.options, "ore esx gc", &account, context).await
    }
}
