//! `ore packet list-keys` and `delete-keys`.

use ::mantle::applet::Context;
use ::mantle::cloud::packet::device::remove_keys;
use ::mantle::error::{Result, Stop, eyre};
use ::mantle::output;
use ::mantle::text::chain;
use clap::Parser;
use serde_json::json;

use super::Options;
use crate::ore::group::{Account as _, Explain as _, Json, Verb, unless_cancelled};

#[derive(Parser)]
#[command(name = "list-keys", about = "List Packet SSH keys")]
pub struct List {
    #[command(flatten)]
    form: Json,
}

impl Verb for List {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        let packet = account.sign_in(context).await?.packet;
        let all = async { packet.keys().await.map_err(|e| e.explain("Couldn't list keys")) };
        let keys = unless_cancelled(context, all).await?;
        if self.form.json {
            let list: Vec<_> = keys.iter().map(|k| json!({"id": k.id, "label": k.label})).collect();
            return Ok(output::line(serde_json::to_string(&list)?)?);
        }
        for key in keys {
            output::line(key.label.unwrap_or_default())?;
        }
        Ok(())
    }
}

#[derive(Parser)]
#[command(
    name = "delete-keys",
    about = "Delete Packet SSH keys",
    long_about = "Delete all SSH keys of the account that have one of these labels."
)]
pub struct Delete {
    /// Label of the keys
    #[arg(value_name = "KEY", required = true)]
    labels: Vec<String>,
}

impl Verb for Delete {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        let packet = account.sign_in_to_remove(context).await?.packet;
        let mut failed = 0;
        for label in &self.labels {
            if context.cancel.is_cancelled() {
                return Err(Stop::Interrupted.into());
            }
            match remove_keys(&packet, label).await {
                Ok(0) => {
                    failed += 1;
                    ::mantle::error!("ore", "there is no key {label:?}");
                }
                Ok(n) => ::mantle::info!("ore", "deleted {n} key(s) {label:?}"),
                Err(e) => {
                    failed += 1;
                    ::mantle::error!("ore", "key {label:?} could not be deleted: {}", chain(&e));
                }
            }
        }
        match failed {
            0 => Ok(()),
            n => Err(eyre!("Couldn't delete keys: {n} of {} could not be deleted", self.labels.len())),
        }
    }
}
