//! `ore gcloud destroy-instances` and `list-instances`.

use ::mantle::applet::Context;
use ::mantle::cloud::google::compute::{Compute, Instance};
use ::mantle::cloud::google::gc;
use ::mantle::error::{Result, Stop, eyre};
use ::mantle::output;
use ::mantle::text::chain;
use clap::Parser;
use futures_util::future::join_all;
use serde_json::json;

use super::Options;
use crate::ore::group::{Account as _, Explain as _, Json, Verb, unless_cancelled};

/// What the names of both commands begin with.
#[derive(clap::Args)]
#[group(skip)]
struct Which {
    /// What names of instances begin with, in place of --basename
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
}

impl Which {
    fn prefix<'a>(&'a self, account: &'a Options) -> &'a str {
        self.prefix.as_deref().unwrap_or(&account.basename)
    }
}

/// The instances of the zone whose names begin so.
async fn named(compute: &Compute, prefix: &str, context: &Context) -> Result<Vec<Instance>> {
    let all = unless_cancelled(context, async {
        compute.instances(None).await.map_err(|e| e.explain("Couldn't list instances"))
    });
    let mut found: Vec<_> = all.await?.into_iter().filter(|i| i.name.starts_with(prefix)).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

#[derive(Parser)]
#[command(name = "list-instances", about = "List instances on GCE")]
pub struct List {
    #[command(flatten)]
    which: Which,

    #[command(flatten)]
    form: Json,
}

impl Verb for List {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        let compute = account.sign_in(context).await?;
        let found = named(&compute, self.which.prefix(&account), context).await?;
        let external = |i: &Instance| i.interfaces.first().and_then(|n| n.external.clone());
        if self.form.json {
            let list: Vec<_> = found
                .iter()
                .map(|i| {
                    json!({
                        "name": i.name, "zone": i.zone, "status": i.status, "created": i.created,
                        "extIP": external(i), "intIP": i.interfaces.first().and_then(|n| n.internal.clone()),
                    })
                })
                .collect();
            return Ok(output::line(serde_json::to_string(&list)?)?);
        }
        for instance in &found {
            output::line(format!("{}:", instance.name))?;
            output::line(format!(" extIP: {}", external(instance).unwrap_or_default()))?;
        }
        Ok(())
    }
}

#[derive(Parser)]
#[command(
    name = "destroy-instances",
    about = "Destroy instances on GCE",
    long_about = "Delete the instances of the zone whose names begin as --basename, or --prefix, says, and wait until \
        they are gone."
)]
pub struct Destroy {
    #[command(flatten)]
    which: Which,
}

impl Verb for Destroy {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        let prefix = self.which.prefix(&account);
        if prefix.chars().count() < 2 {
            return Err(eyre!(
                "Prefix not specified or too short: names of instances to destroy must begin with two letters at least"
            ));
        }
        let compute = account.sign_in_to_remove(context).await?;
        let found = named(&compute, prefix, context).await?;
        if context.cancel.is_cancelled() {
            return Err(Stop::Interrupted.into());
        }
        ::mantle::info!("ore", "deleting the {} instances whose names begin with {prefix}", found.len());
        output::line(format!("{} instance(s) scheduled for deletion", found.len()))?;
        let removed = join_all(found.iter().map(|i| gc::end(&compute, &i.name))).await;
        let mut failed = 0;
        for (instance, outcome) in found.iter().zip(removed) {
            match outcome {
                Ok(()) => ::mantle::info!("ore", "deleted {}", instance.name),
                Err(e) => {
                    failed += 1;
                    ::mantle::error!("ore", "{} could not be deleted: {}", instance.name, chain(&e));
                }
            }
        }
        match failed {
            0 => Ok(()),
            n => Err(eyre!("Couldn't destroy instances: {n} of {} could not be deleted", found.len())),
        }
    }
}
