//! The security group that machines share. It is made once in a project, and stays.
//!
//! While it is being made its description carries a token, by which the ledger names it: a group that a dying run left
//! half made is known by that, and never used.

use std::sync::atomic::AtomicBool;

use tokio_util::sync::CancellationToken;

use super::{Error, NAME, Result, ResultExt as _};
use crate::cloud::once::{Once, SHOWN_AT_ONCE};
use crate::cloud::openstack::api::{Api, Group, NewRule, again};
use crate::http::CallError;
use crate::ledger::{Ledger, Leftover, Resource};
use crate::text::chain;

/// Kind of the ledger's entry for a group that is being made.
pub const KIND: &str = "security group";

/// The name of the group.
const GROUP: &str = "kola";

/// What its description says once all rules are there.
const FINISHED: &str = "machines of kola";

/// What its description begins with until then.
const UNFINISHED: &str = "mantle-unfinished ";

const RULES: [NewRule; 4] = [
    NewRule { family: "IPv4", ports: None },
    NewRule { family: "IPv4", ports: Some((22, 22)) },
    NewRule { family: "IPv6", ports: None },
    NewRule { family: "IPv4", ports: Some((2379, 2380)) },
];

fn is_unfinished(group: &Group) -> bool {
    group.description.as_deref().is_some_and(|d| d.starts_with(UNFINISHED))
}

/// The finished groups of the name; those that somebody is making, or never will, do not count.
async fn finished(api: &Api) -> Result<Vec<Group>> {
    let all = api.security_groups(GROUP).await.during(|| "finding security group")?;
    Ok(all.into_iter().filter(|g| !is_unfinished(g)).collect())
}

/// The id of the group, which is made if it is not there.
pub async fn find_or_make(api: &Api, ledger: &Ledger) -> Result<String> {
    let mut there = finished(api).await?;
    if there.len() > 1 {
        let ids: Vec<_> = there.iter().map(|g| g.id.as_str()).collect();
        let text = format!("finding security group: {} are called {GROUP:?}: {}", ids.len(), ids.join(", "));
        return Err(Error::new(text));
    }
    if let Some(group) = there.pop() {
        return Ok(group.id);
    }
    let token = uuid::Uuid::new_v4().to_string();
    let record =
        Resource { kind: KIND.into(), id: token.clone(), platform: NAME.into(), place: api.place().into() };
    ledger.create(&record).during(|| format!("cannot record {record}"))?;
    let error = match make(api, &token).await {
        Ok(id) => {
            ledger.delete(&record);
            return Ok(id);
        }
        Err(e) => e,
    };
    match remove_unfinished(api, &token).await {
        Ok(()) => ledger.delete(&record),
        Err(e) => ledger.keep(&Leftover { resource: record, why: chain(&e) }),
    }
    Err(error)
}

async fn make(api: &Api, token: &str) -> Result<String> {
    let failed = |what: &str| {
        let what = format!("cannot create the security group {GROUP:?}: {what}");
        move |source| Error::Call { what, source }
    };
    let description = format!("{UNFINISHED}{token}");
    let order = || async { Ok(api.make_security_group(GROUP, &description).await?.id) };
    let find = || async {
        let all = api.security_groups(GROUP).await?;
        Ok(all.into_iter().find(|g| g.description.as_deref() == Some(&description)).map(|g| g.id))
    };
    let (cancel, doubt) = (CancellationToken::new(), AtomicBool::new(false));
    let once = Once { component: NAME, shown: SHOWN_AT_ONCE, cancel: &cancel, doubt: &doubt };
    let id = once.make(order, find, again).await.map_err(failed("making it"))?;
    for rule in RULES {
        api.make_rule(&id, rule).await.map_err(failed("its rules"))?;
    }
    api.describe_security_group(&id, FINISHED).await.map_err(failed("finishing it"))?;
    if doubt.into_inner() {
        remove_unfinished(api, token).await.map_err(failed("removing a second one"))?;
    }
    // Others may have made theirs at the same time. All of them see the same groups now, and keep the same one.
    let mut there = finished(api).await?;
    there.retain(|g| g.description.as_deref() == Some(FINISHED));
    there.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    match there.into_iter().next() {
        Some(first) if first.id != id => {
            match api.delete_security_group(&id).await {
                Ok(()) => {}
                Err(e) => {
                    crate::warning!(NAME, "a second security group {GROUP:?} is left, {id}: {}", chain(&e))
                }
            }
            Ok(first.id)
        }
        _ => Ok(id),
    }
}

/// Removes the group that was being made with this token, if it never was finished.
pub async fn remove_unfinished(api: &Api, token: &str) -> Result<(), CallError> {
    let description = format!("{UNFINISHED}{token}");
    let all = api.security_groups(GROUP).await?;
    for group in all.into_iter().filter(|g| g.description.as_deref() == Some(&description)) {
        api.delete_security_group(&group.id).await?;
    }
    Ok(())
}
