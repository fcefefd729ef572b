//! `ore esx create-base` and `remove-base`.

use std::path::PathBuf;

use ::mantle::applet::Context;
use ::mantle::args::path_parser;
use ::mantle::cloud::esx::api::Api;
use ::mantle::cloud::esx::import::{self, Failure};
use ::mantle::cloud::esx::inventory::Inventory;
use ::mantle::cloud::esx::ova::Package;
use ::mantle::cloud::esx::vm::{self, Machine};
use ::mantle::error::{Result, usage};
use ::mantle::{info, output, sdk, warning};
use clap::{Parser, ValueHint};

use super::{Options, within};
use crate::ore::group::{Explain as _, Verb, given, unless_cancelled, version_beside};

/// What the SDK calls the package.
const FILE: &str = "coreos_production_vmware_ova.ova";

#[derive(Parser)]
#[command(
    name = "create-base",
    about = "Create base VM on ESX",
    long_about = "Upload a package (OVA, or OVF with its files beside it) as a virtual machine that others are cloned from, \
        and print its name. The files are compared with the sums of the package's manifest before anything is sent; after \
        a failure no machine is left. Networks of the package that are called as none at the server become the default one."
)]
pub struct Create {
    #[arg(
        long,
        value_name = "FILE",
        value_parser = path_parser(),
        value_hint = ValueHint::FilePath,
        help = format!("Package to upload [default: the SDK's latest {FILE}]")
    )]
    file: Option<PathBuf>,

    /// Name of the base VM [default: the version in the version.txt beside the file]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

impl Verb for Create {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        let file = match self.file.filter(|f| !f.as_os_str().is_empty()) {
            Some(file) => file,
            None => sdk::image_dir("amd64-usr", "latest").map_err(|e| usage(e.to_string()))?.join(FILE),
        };
        let name = match given(self.name) {
            Some(name) => name,
            None => version_beside(&file, "--name")?,
        };
        const FAILED: &str = "Couldn't create base VM";
        // Before anybody is asked for anything.
        let opened = tokio::task::spawn_blocking(move || Package::open(&file)).await?;
        let package = opened.map_err(|e| Failure::from(e).explain(FAILED))?;
        if !package.has_manifest() {
            warning!("ore", "the package has no manifest: nothing tells whether it is whole");
        }
        within(&account, context, false, async |api| {
            import::create(api, package, &name, &context.cancel).await.map_err(|e| e.explain(FAILED))
        })
        .await?;
        Ok(output::line(&name)?)
    }
}

#[derive(Parser)]
#[command(name = "remove-base", about = "Remove base VM on ESX")]
pub struct Remove {
    /// Name or inventory path of the base VM
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

impl Verb for Remove {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        let name = given(self.name).ok_or_else(|| usage("--name is required"))?;
        within(&account, context, true, async |api| {
            let machine = unless_cancelled(context, find(api, &name)).await?;
            vm::end(api, &machine).await.map_err(|e| e.explain("Couldn't delete base VM"))?;
            info!("ore", "removed {}", machine.vm.path);
            Ok(())
        })
        .await
    }
}

/// The machine that is meant.
async fn find(api: &Api, name: &str) -> Result<Machine> {
    let found = async {
        let inventory = Inventory::of(api).await?;
        let datacenter = inventory.datacenter(&api.session().source().wanted)?;
        let vm = inventory.machine(name, &datacenter)?;
        Ok(Machine { vm, datacenter })
    };
    found.await.map_err(|e: ::mantle::http::CallError| e.explain("Couldn't delete base VM"))
}
