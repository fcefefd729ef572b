//! `ore openstack gc`.

use ::mantle::applet::Context;
use ::mantle::cloud::openstack::api::Api;
use ::mantle::cloud::openstack::gc::Collector;
use ::mantle::error::Result;
use ::mantle::ledger::Clean;
use ::mantle::platform::openstack::leftovers;
use clap::Parser;

use super::Options;
use crate::ore::gc::{self, Garbage};
use crate::ore::group::Verb;

#[derive(Parser)]
#[command(
    name = "gc",
    about = "GC resources in OpenStack",
    long_about = "Delete what is old enough in the project: servers with the metadata CreatedBy=mantle and their \
        floating IPs, floating IPs of such servers that are left alone, key pairs that are named as those of kola are \
        (kola-UUID) and that no server has, and images with the tag mantle that no server has. Locked servers, \
        protected images, and servers and images with the metadata or tag mantle:keep stay. Networks, security groups, \
        volumes and all other images are never touched."
)]
pub struct Gc {
    #[command(flatten)]
    options: gc::Options,
}

impl Garbage for Options {
    type Collector = Collector;

    const PLATFORM: &'static str = "openstack";

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
        gc::run(self.options, "ore openstack gc", &account, context).await
    }
}
