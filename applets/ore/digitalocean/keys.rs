//! `ore do delete-keys` and `list-keys`.

use ::mantle::applet::Context;
use ::mantle::cloud::digitalocean::{Account, Key};
use ::mantle::error::{Result, Stop, eyre, usage};
use ::mantle::output;
use ::mantle::text::chain;
use clap::Parser;
use serde_json::json;

use crate::ore::group::{Account as _, Explain as _, Json, Verb, unless_cancelled};

#[derive(Parser)]
#[command(name = "list-keys", about = "List SSH keys of the account at DigitalOcean")]
pub struct List {
    #[command(flatten)]
    form: Json,
}

impl Verb for List {
    type Account = Account;

    async fn run(self, account: Account, context: &Context) -> Result<()> {
        let api = account.sign_in(context).await?;
        let keys = unless_cancelled(context, async {
            api.keys().await.map_err(|e| e.explain("Couldn't list keys"))
        })
        .await?;
        if self.form.json {
            let list: Vec<_> = keys.iter().map(|k| json!({"id": k.id, "name": k.name})).collect();
            return Ok(output::line(serde_json::to_string(&list)?)?);
        }
        keys.iter().try_for_each(|k| output::line(&k.name)).map_err(Into::into)
    }
}

#[derive(Parser)]
#[command(
    name = "delete-keys",
    about = "Delete SSH keys of the account at DigitalOcean",
    long_about = "Delete all SSH keys of the account that have one of these names. Runs that were killed leave keys named \
        kola-... and ore-..., which gc does not touch."
)]
pub struct Delete {
    /// Names of keys
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

impl Verb for Delete {
    type Account = Account;

    async fn run(self, account: Account, context: &Context) -> Result<()> {
        if self.names.is_empty() {
            return Err(usage("Specify at least one key."));
        }
        let api = account.sign_in_to_remove(context).await?;
        let all = unless_cancelled(context, async {
            api.keys().await.map_err(|e| e.explain("Couldn't list keys"))
        })
        .await?;
        let mut failed = 0;
        for name in &self.names {
            let named: Vec<&Key> = all.iter().filter(|k| k.name == *name).collect();
            if named.is_empty() {
                failed += 1;
                ::mantle::error!("ore", "No such key: {name}");
            }
            for key in named {
                if context.cancel.is_cancelled() {
                    return Err(Stop::Interrupted.into());
                }
                match api.delete_key(key.id).await {
                    Ok(()) => ::mantle::info!("ore", "deleted key {name} ({})", key.id),
                    Err(e) => {
                        failed += 1;
                        ::mantle::error!("ore", "Couldn't delete key: {name} ({}): {}", key.id, chain(&e));
                    }
                }
            }
        }
        match failed {
            0 => Ok(()),
            n => Err(eyre!("Couldn't delete keys: {n} could not be deleted")),
        }
    }
}
