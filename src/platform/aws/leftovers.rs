//! What the ledger of a run that died names, removed.

use async_trait::async_trait;

use super::super::ResultExt;
use super::{KEY_PAIR, machine, network};
use crate::cloud::aws::api::Api;
use crate::ledger::{self, Clean, Failure, Resource};

/// Removes leftovers at AWS, in whatever region they are, and those of the same run on this machine.
pub struct Leftovers {
    api: Api,
}

impl Leftovers {
    /// With this account.
    pub fn new(api: Api) -> Self {
        Self { api }
    }
}

#[async_trait]
impl Clean for Leftovers {
    async fn remove(&self, resource: &Resource) -> Result<(), Failure> {
        if resource.is_local() {
            return ledger::Local.remove(resource).await;
        }
        let what = || format!("cannot remove {} {} of {}", resource.kind, resource.id, resource.place);
        let api = if resource.place == self.api.region() {
            self.api.clone()
        } else {
            self.api.in_region(&resource.place).during(what)?
        };
        let removed = match resource.kind.as_str() {
            KEY_PAIR => api.delete_key_pair(&resource.id).await,
            machine::KIND => machine::end(&api, &resource.id, machine::Look::Often).await,
            network::KIND => network::remove(&api, &resource.id).await,
            _ => return Err(format!("{}: mantle does not know how", what()).into()),
        };
        Ok(removed.during(what)?)
    }
}
