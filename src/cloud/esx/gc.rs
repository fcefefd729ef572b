//! What is left over at a vSphere: machines with our mark. What others are made of has none, and templates stay.

use chrono::{DateTime, Utc};
use futures_util::future::join_all;

use super::api::Api;
use super::vm::{self, Machine, Vm};
use crate::cloud::gc::{Collect, Found, Item, Kind, Now, Removal, State};
use crate::http::CallError;

const VM: Kind = Kind { name: "vm", batch: 20 };

/// One server.
pub struct Collector(Api);

impl Collector {
    /// Of all that the user sees.
    pub fn new(api: Api) -> Self {
        Self(api)
    }

    /// The machines of a batch that are there.
    async fn there(&self, items: &[Item]) -> Result<Vec<Vm>, CallError> {
        let mut all = vm::machines(&self.0).await?;
        all.retain(|m| items.iter().any(|i| i.id == m.vm.target.id));
        vm::look_at_all(&self.0, &all).await
    }
}

/// Whether a name is such as mantle gives: it ends with a UUID and ten hexadecimal digits. Only of those the settings are
/// asked for.
pub fn is_made_up(name: &str) -> bool {
    let Some((rest, digits)) = name.rsplit_once('-') else { return false };
    let uuid = rest.len().checked_sub(36).and_then(|at| rest.get(at..));
    digits.len() == 10
        && digits.bytes().all(|b| b.is_ascii_hexdigit())
        && uuid.is_some_and(|u| uuid::Uuid::try_parse(u).is_ok())
}

impl Collect for Collector {
    type Error = CallError;

    const KINDS: &'static [Kind] = &[VM];

    fn scope(&self) -> Vec<(&'static str, String)> {
        vec![("server", self.0.place().to_owned())]
    }

    async fn find(&self, _before: DateTime<Utc>) -> Result<Vec<Found>, CallError> {
        let mut machines: Vec<Machine> = vm::machines(&self.0).await?;
        machines.retain(|m| is_made_up(m.vm.name()));
        Ok(vm::look_at_all(&self.0, &machines).await?.iter().map(found).collect())
    }

    async fn recheck(&self, items: &[Item], _before: DateTime<Utc>) -> Result<Vec<Now>, CallError> {
        let there = self.there(items).await?;
        let now = |item: &Item| {
            let vm = there.iter().find(|vm| vm.machine.vm.target.id == item.id);
            vm.map_or(Now::Gone, |vm| Now::There(found(vm)))
        };
        Ok(items.iter().map(now).collect())
    }

    async fn remove(&self, batch: &[Item], _: DateTime<Utc>) -> Result<Vec<Removal<CallError>>, CallError> {
        let there = self.there(batch).await?;
        let remove = async |item: &Item| match there.iter().find(|vm| vm.machine.vm.target.id == item.id) {
            None => Removal::Done,
            Some(vm) => match vm::end(&self.0, &vm.machine).await {
                Ok(_) => Removal::Done,
                Err(e) => Removal::Failed(e),
            },
        };
        Ok(join_all(batch.iter().map(remove)).await)
    }

    fn is_gone(error: &CallError) -> bool {
        error.is_not_found()
    }
}

fn found(vm: &Vm) -> Found {
    Found {
        kind: VM.name,
        id: vm.machine.vm.target.id.clone(),
        name: vm.name.clone(),
        ours: vm.is_ours(),
        kept: vm.is_kept(),
        created: vm.created(),
        state: match vm.power.as_str() {
            "" => State::Unknown,
            power => State::There(power.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ours_are_known() {
        assert!(is_made_up("kola-01234567-89ab-4def-8123-456789abcdef-0123456789"));
        assert!(is_made_up("my-tests-01234567-89ab-4def-8123-456789abcdef-abcdef0123"));
        for other in
            ["", "x", "kola-0123456789", "01234567-89ab-4def-8123-456789abcdef", "ü-01234567-0123456789"]
        {
            assert!(!is_made_up(other), "{other}");
        }
    }
}
