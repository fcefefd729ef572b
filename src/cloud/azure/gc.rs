//! What is left over at Azure: resource groups of runs, with everything in them.
//!
//! Other groups, and what is in them, are never touched.

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::CREATED;
use super::arm::{Arm, Group, Unfinished};
use crate::cloud::gc::{Collect, Found, Item, Kind, Now, Removal, State};
use crate::http::CallError;
use crate::poll;

/// All deletions are begun before the first is waited for.
const GROUP: Kind = Kind { name: "resource group", batch: 20 };

/// What the names of runs' resource groups begin with: other groups are not ours, whatever their tags.
pub const PREFIX: &str = "kola-cluster";

/// Tag of groups that stay, whatever its value.
pub const KEEP: &str = crate::cloud::gc::KEEP;

/// One subscription.
pub struct Collector {
    arm: Arm,
    /// Groups without time of creation count as old.
    untagged: bool,
}

impl Collector {
    /// In the subscription of the API; `untagged`: groups that do not say when they were made count as old.
    pub fn new(arm: Arm, untagged: bool) -> Self {
        Self { arm, untagged }
    }

    fn found(&self, group: &Group) -> Found {
        let created = group.tags.get(CREATED).and_then(|t| DateTime::parse_from_rfc3339(t).ok());
        let unknown = self.untagged.then_some(DateTime::UNIX_EPOCH);
        Found {
            kind: GROUP.name,
            id: group.name.clone(),
            name: String::new(),
            ours: group.name.starts_with(PREFIX),
            kept: group.tags.contains_key(KEEP),
            created: created.map(|t| t.to_utc()).or(unknown),
            state: match group.properties.provisioning_state.as_deref() {
                None => State::Unknown,
                Some("Deleting") => State::Ending,
                Some(state) => State::There(state.into()),
            },
        }
    }
}

/// Removes a resource group and waits until it is gone. That there is none is fine.
///
/// # Errors
/// Any [`CallError`].
pub async fn end(arm: &Arm, name: &str) -> Result<(), CallError> {
    // It is a removal: the end of the work must not end it.
    arm.remove_group(name, &CancellationToken::new()).await.map(drop).map_err(call_error)
}

/// The failure of a call inside; that an operation takes too long is one, too.
pub fn call_error(unfinished: Unfinished) -> CallError {
    match unfinished {
        poll::Error::Failed(e) => e,
        late => CallError::answer("an operation at Azure", late.to_string()),
    }
}

impl Collect for Collector {
    type Error = CallError;

    const KINDS: &'static [Kind] = &[GROUP];

    fn scope(&self) -> Vec<(&'static str, String)> {
        vec![("subscription", self.arm.subscription().to_owned())]
    }

    async fn find(&self, _before: DateTime<Utc>) -> Result<Vec<Found>, CallError> {
        Ok(self.arm.groups().await?.iter().map(|g| self.found(g)).collect())
    }

    async fn recheck(&self, items: &[Item], _before: DateTime<Utc>) -> Result<Vec<Now>, CallError> {
        let look = |item: &Item| {
            let name = item.id.clone();
            async move {
                let group = self.arm.group(&name).await?;
                Ok::<_, CallError>(group.map_or(Now::Gone, |g| Now::There(self.found(&g))))
            }
        };
        futures_util::future::try_join_all(items.iter().map(look)).await
    }

    async fn remove(
        &self,
        batch: &[Item],
        _before: DateTime<Utc>,
    ) -> Result<Vec<Removal<CallError>>, CallError> {
        let removed = join_all(batch.iter().map(|item| end(&self.arm, &item.id))).await;
        Ok(removed.into_iter().map(|r| r.map_or_else(Removal::Failed, |()| Removal::Done)).collect())
    }

    fn is_gone(error: &CallError) -> bool {
        error.is_not_found()
    }
}
