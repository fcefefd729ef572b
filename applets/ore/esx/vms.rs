//! `ore esx list-vms` and `remove-vms`.

use ::mantle::applet::Context;
use ::mantle::cloud::esx::api::Api;
use ::mantle::cloud::esx::vm::{self, Vm};
use ::mantle::error::{Result, eyre, usage};
use ::mantle::glob::Pattern;
use ::mantle::text::{chain, tabbed};
use ::mantle::{error, info, output};
use clap::Parser;
use serde_json::json;

use super::{Options, within};
use crate::ore::group::{Explain as _, Json, Verb, given, unless_cancelled};

#[derive(Parser)]
#[command(name = "list-vms", about = "List VMs on ESX")]
pub struct List {
    /// List VMs with such names only
    #[arg(long, value_name = "PATTERN")]
    pattern: Option<String>,

    #[command(flatten)]
    form: Json,
}

impl Verb for List {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        let pattern = pattern(given(self.pattern).as_deref().unwrap_or("*"))?;
        let vms =
            within(&account, context, false, async |api| matching(api, &pattern, context).await).await?;
        if self.form.json {
            let one = |vm: &Vm| {
                json!({
                    "name": vm.name,
                    "path": vm.machine.vm.path,
                    "power": vm.power,
                    "address": vm.address(),
                    "template": vm.template,
                    "created_by_mantle": vm.is_ours(),
                    "created": vm.created().map(|c| c.to_rfc3339()),
                })
            };
            return Ok(output::line(serde_json::to_string(&vms.iter().map(one).collect::<Vec<_>>())?)?);
        }
        let row = |vm: &Vm| {
            let ours = if vm.is_ours() { "mantle" } else { "" };
            [&*vm.name, &*vm.power, vm.address().unwrap_or_default(), ours].map(str::to_owned)
        };
        let rows: Vec<_> = vms.iter().map(row).collect();
        Ok(output::write(tabbed(["NAME", "POWER", "ADDRESS", "CREATED BY"], &rows).as_bytes())?)
    }
}

#[derive(Parser)]
#[command(
    name = "remove-vms",
    about = "Remove VMs on ESX",
    long_about = "Power off and remove the VMs with such names that mantle made, and what they wrote. Templates and VMs with \
        the setting mantle:keep stay."
)]
pub struct Remove {
    /// Remove VMs with such names, as 'kola-*'
    #[arg(long, value_name = "PATTERN")]
    pattern: Option<String>,

    /// Remove also VMs that mantle did not make
    #[arg(long)]
    unmarked: bool,
}

impl Verb for Remove {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        let named = given(self.pattern).ok_or_else(|| usage("--pattern is required"))?;
        let pattern = pattern(&named)?;
        within(&account, context, true, async |api| {
            let vms = matching(api, &pattern, context).await?;
            let (mut failed, mut count) = (0, 0);
            for vm in vms {
                if vm.is_kept() || !vm.is_ours() && !self.unmarked {
                    let why = if vm.is_kept() { "it is protected" } else { "mantle did not make it" };
                    info!("ore", "spared {}: {why}", vm.machine.vm.path);
                    continue;
                }
                // Between two machines.
                unless_cancelled(context, async { Ok(()) }).await?;
                count += 1;
                match vm::end(api, &vm.machine).await {
                    Ok(_) => info!("ore", "removed {}", vm.machine.vm.path),
                    Err(e) => {
                        failed += 1;
                        error!("ore", "{} could not be removed: {}", vm.machine.vm.path, chain(&e));
                    }
                }
            }
            match failed {
                0 => Ok(()),
                n => Err(eyre!("Couldn't remove VMs: {n} of {count} could not be removed")),
            }
        })
        .await
    }
}

fn pattern(text: &str) -> Result<Pattern> {
    Pattern::new(text).map_err(|e| usage(format!("--pattern={text}: {e}")))
}

/// The machines with such names, by path.
async fn matching(api: &Api, pattern: &Pattern, context: &Context) -> Result<Vec<Vm>> {
    unless_cancelled(context, async {
        let found = async {
            let mut machines = vm::machines(api).await?;
            machines.retain(|m| pattern.matches(m.vm.name()));
            vm::look_at_all(api, &machines).await
        };
        found.await.map_err(|e| e.explain("Couldn't list VMs"))
    })
    .await
}
