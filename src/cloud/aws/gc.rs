//! What is left over: found as a plan, which can be looked at, kept, and carried out later.
//!
//! Only machines with our mark, and uploads that were recorded on this computer, are ever removed; never images,
//! snapshots, volumes, networks, security groups, roles, buckets and complete objects.

use chrono::{DateTime, SubsecRound as _, Utc};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::MARK;
use super::api::{Api, Instance, tag};
use super::failure::{Error, Result};
use super::images::is_kept;
use super::object;
use super::unfinished::{self, Slot, Work};
use crate::{info, warning};

/// The version of the form of plans.
pub const VERSION: u32 = 1;
/// Machines in one request.
const CHUNK: usize = 100;
/// The states of machines that are removed; those that are left are on their way out.
const LIVE: [&str; 4] = ["pending", "running", "stopping", "stopped"];

/// What is to be removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Of this form: [`VERSION`].
    pub version: u32,
    /// The account, by number.
    pub account: String,
    /// The region.
    pub region: String,
    /// Nothing younger is removed.
    #[serde(with = "stamp")]
    pub before: DateTime<Utc>,
    /// The things.
    pub items: Vec<Item>,
}

/// The kind of a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A machine.
    Instance,
    /// The parts of an object whose upload was given up, recorded on this computer.
    Upload,
}

/// One thing to be removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Its kind.
    pub kind: Kind,
    /// The machine's id; of uploads the object's URL.
    pub id: String,
    /// Its name; may be empty.
    pub name: String,
    /// When it was made, of uploads when they were last worked on.
    #[serde(with = "stamp")]
    pub created: DateTime<Utc>,
    /// The state in which it was found.
    pub state: String,
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            Kind::Instance => "instance",
            Kind::Upload => "upload",
        };
        write!(f, "{kind} {}", self.id)?;
        if !self.name.is_empty() {
            write!(f, " ({})", self.name)?;
        }
        Ok(())
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Removed, or found to be gone.
    pub removed: Vec<Item>,
    /// Left alone, because they are not as the plan has them.
    pub spared: Vec<(Item, &'static str)>,
    /// Could not be removed.
    pub failed: Vec<(Item, Error)>,
}

/// Finds what was made before a time and is left over.
///
/// # Errors
/// When a call fails.
pub async fn plan(api: &Api, account: &str, before: DateTime<Utc>) -> Result<Plan> {
    let instances = api.instances(&[("tag:CreatedBy", &[MARK.1])], &[]).await?;
    let mut items: Vec<Item> = instances.iter().filter_map(|i| instance_item(i, before)).collect();
    items.extend(uploads(api.region(), before).into_iter().map(|(_, item, _)| item));
    items.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
    Ok(Plan { version: VERSION, account: account.into(), region: api.region().into(), before, items })
}

/// The machine as an item, if it is to be removed; says why not where that is worth knowing.
fn instance_item(instance: &Instance, before: DateTime<Utc>) -> Option<Item> {
    let Instance { id, state, tags, .. } = instance;
    // The filter has seen to this, unless somebody else answers than EC2.
    if tag(tags, MARK.0) != Some(MARK.1) {
        return None;
    }
    let Some(created) = instance.launched else {
        warning!("ore", "ec2: skipping instance {id}, whose launch time is not known");
        return None;
    };
    if created > before {
        return None;
    }
    match state.as_str() {
        "terminated" | "shutting-down" => return None,
        "" => {
            warning!("ore", "ec2: skipping instance {id}, whose state is not known");
            return None;
        }
        state if !LIVE.contains(&state) => {
            info!("ore", "ec2: skipping instance in state {state}");
            return None;
        }
        _ => {}
    }
    if is_kept(tags) {
        info!("ore", "ec2: skipping instance {id}, which is protected");
        return None;
    }
    let name = tag(tags, "Name").unwrap_or_default().to_owned();
    Some(Item { kind: Kind::Instance, id: id.clone(), name, created, state: state.clone() })
}

/// The uploads given up on this computer before a time; they are locked while the slot is held.
fn uploads(region: &str, before: DateTime<Utc>) -> Vec<(Slot, Item, Work)> {
    let mut found = Vec::new();
    for (slot, record) in unfinished::abandoned(region, before) {
        let item = match &record.work {
            Work::Multipart { bucket, key, .. } => Item {
                kind: Kind::Upload,
                id: format!("s3://{bucket}/{key}"),
                name: record.file.display().to_string(),
                created: slot.modified().unwrap_or_default().trunc_subsecs(0),
                state: "unfinished".into(),
            },
            // The provider gives these up by itself, an hour after the last block.
            Work::Snapshot { id, .. } => {
                let id = id.as_deref().unwrap_or("whose id is not known");
                info!("ore", "ebs: skipping unfinished snapshot {id}: snapshots are never removed by gc");
                continue;
            }
        };
        found.push((slot, item, record.work));
    }
    found
}

/// Carries out a plan at once, as it was just made.
///
/// Goes on after a failure; stops between two requests once cancelled.
pub async fn execute(api: &Api, plan: &Plan, cancel: &CancellationToken) -> Outcome {
    let mut outcome = Outcome::default();
    let of = |kind| plan.items.iter().filter(move |i| i.kind == kind).cloned().collect::<Vec<_>>();
    for batch in of(Kind::Instance).chunks(CHUNK) {
        if cancel.is_cancelled() {
            outcome.failed.extend(batch.iter().map(|item| (item.clone(), Error::Interrupted)));
            continue;
        }
        terminate(api, batch.to_vec(), cancel, &mut outcome).await;
    }
    remove_uploads(api, &of(Kind::Upload), plan.before, &mut outcome).await;
    outcome
}

/// Carries out a plan that was made earlier: each thing is looked at again first.
///
/// # Errors
/// When the plan is for another account or region, of another form, or a look-up fails.
pub async fn apply(api: &Api, account: &str, plan: &Plan, cancel: &CancellationToken) -> Result<Outcome> {
    let refuse = |what: &str, is: &str, here: &str| {
        Err(Error::Invalid(format!("the plan is for {what} {is}, not for {here}")))
    };
    if plan.version != VERSION {
        return refuse("version", &plan.version.to_string(), &VERSION.to_string());
    }
    if plan.account != account {
        return refuse("account", &plan.account, account);
    }
    if plan.region != api.region() {
        return refuse("region", &plan.region, api.region());
    }
    let mut checked = Plan { items: Vec::new(), ..plan.clone() };
    let mut outcome = Outcome::default();
    let (instances, others): (Vec<_>, Vec<_>) = plan.items.iter().partition(|i| i.kind == Kind::Instance);
    for chunk in instances.chunks(CHUNK) {
        let ids: Vec<_> = chunk.iter().map(|i| i.id.as_str()).collect();
        // By filter: a request for ids fails as a whole if one of them is gone.
        let there = api.instances(&[("instance-id", &ids)], &[]).await?;
        for item in chunk {
            match recheck(item, there.iter().find(|i| i.id == item.id), plan.before) {
                Ok(()) => checked.items.push((*item).clone()),
                Err(GONE) => outcome.removed.push((*item).clone()),
                Err(why) => outcome.spared.push(((*item).clone(), why)),
            }
        }
    }
    checked.items.extend(others.into_iter().cloned());
    let done = execute(api, &checked, cancel).await;
    outcome.removed.extend(done.removed);
    outcome.spared.extend(done.spared);
    outcome.failed.extend(done.failed);
    Ok(outcome)
}

const GONE: &str = "it is gone";

/// Whether a machine is still what the plan says; else why not.
fn recheck(item: &Item, instance: Option<&Instance>, before: DateTime<Utc>) -> Result<(), &'static str> {
    let Some(instance) = instance else { return Err(GONE) };
    match instance_item(instance, before) {
        _ if matches!(instance.state.as_str(), "terminated" | "shutting-down") => Err(GONE),
        None => Err("it is not to be removed any more"),
        // Started anew since then: somebody uses it.
        Some(now) if now.created != item.created => Err("it was started again"),
        Some(_) => Ok(()),
    }
}

async fn terminate(api: &Api, batch: Vec<Item>, cancel: &CancellationToken, outcome: &mut Outcome) {
    let ids: Vec<_> = batch.iter().map(|i| i.id.as_str()).collect();
    match api.terminate(&ids).await {
        Ok(()) => outcome.removed.extend(batch),
        Err(e) if batch.len() == 1 => {
            let gone = e.is_not_found();
            for (item, error) in batch.into_iter().zip([e]) {
                match gone {
                    true => outcome.removed.push(item),
                    false => outcome.failed.push((item, error.into())),
                }
            }
        }
        Err(e) => {
            // One bad id spoils the batch.
            info!("ore", "ec2: terminating {} instances one by one: {e}", batch.len());
            for item in batch {
                let done = match cancel.is_cancelled() {
                    true => Err(Error::Interrupted),
                    false => match api.terminate(&[&item.id]).await {
                        Err(e) if !e.is_not_found() => Err(e.into()),
                        _ => Ok(()),
                    },
                };
                match done {
                    Ok(()) => outcome.removed.push(item),
                    Err(e) => outcome.failed.push((item, e)),
                }
            }
        }
    }
}

/// Removes the parts of those uploads that are still given up.
async fn remove_uploads(api: &Api, items: &[Item], before: DateTime<Utc>, outcome: &mut Outcome) {
    if items.is_empty() {
        return;
    }
    let mut there = uploads(api.region(), before);
    for item in items {
        let Some(at) = there.iter().position(|(_, found, _)| found.id == item.id) else {
            outcome.spared.push((item.clone(), "it is not recorded as given up any more"));
            continue;
        };
        let (slot, _, work) = there.swap_remove(at);
        let Work::Multipart { bucket, key, upload, .. } = work else { continue };
        match object::abandon(api, &bucket, &key, upload.as_deref()).await {
            Ok(()) => {
                slot.clear();
                outcome.removed.push(item.clone());
            }
            Err(e) => outcome.failed.push((item.clone(), e)),
        }
    }
}

/// Times in plans: RFC 3339.
mod stamp {
    use chrono::{DateTime, SecondsFormat, Utc};
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
        let text = String::deserialize(deserializer)?;
        DateTime::parse_from_rfc3339(&text).map(|t| t.to_utc()).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn instance(state: &str, launched: &str, tags: &[(&str, &str)]) -> Instance {
        Instance {
            id: "i-1".into(),
            state: state.into(),
            launched: Some(launched).filter(|l| !l.is_empty()).map(at),
            tags: tags.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            ..Instance::default()
        }
    }

    const OLD: &str = "2026-01-01T10:00:00Z";
    const LIMIT: &str = "2026-01-01T12:00:00Z";
    const OURS: (&str, &str) = ("CreatedBy", "mantle");

    fn goes(instance: &Instance) -> bool {
        instance_item(instance, at(LIMIT)).is_some()
    }

    #[test]
    fn only_old_marked_and_live_machines_go() {
        for state in LIVE {
            assert!(goes(&instance(state, OLD, &[OURS])), "{state}");
        }
        assert!(goes(&instance("running", LIMIT, &[("Name", "kola-1"), OURS])), "just old enough");
        for (why, other) in [
            ("young", instance("running", "2026-01-01T12:00:01Z", &[OURS])),
            ("unmarked", instance("running", OLD, &[])),
            ("another's", instance("running", OLD, &[("CreatedBy", "Mantle")])),
            ("another tag", instance("running", OLD, &[("createdby", "mantle"), ("Owner", "mantle")])),
            ("protected", instance("running", OLD, &[OURS, ("mantle:keep", "")])),
            ("gone", instance("terminated", OLD, &[OURS])),
            ("going", instance("shutting-down", OLD, &[OURS])),
            ("odd", instance("rebooting", OLD, &[OURS])),
            ("stateless", instance("", OLD, &[OURS])),
            ("timeless", instance("running", "", &[OURS])),
        ] {
            assert!(!goes(&other), "{why}");
        }
    }

    #[test]
    fn plans_are_checked_again_before_they_are_applied() {
        let item = instance_item(&instance("running", OLD, &[OURS]), at(LIMIT)).unwrap();
        let check = |now: Option<&Instance>| recheck(&item, now, at(LIMIT));
        assert_eq!(check(Some(&instance("stopped", OLD, &[OURS]))), Ok(()));
        assert_eq!(check(None), Err(GONE));
        assert_eq!(check(Some(&instance("terminated", OLD, &[OURS]))), Err(GONE));
        assert_eq!(check(Some(&instance("running", LIMIT, &[OURS]))), Err("it was started again"));
        let kept = instance("running", OLD, &[OURS, ("mantle:keep", "x")]);
        assert_eq!(check(Some(&kept)), Err("it is not to be removed any more"));
    }

    #[test]
    fn plans_survive_being_written() {
        let item = instance_item(&instance("running", OLD, &[OURS, ("Name", "kola-1")]), at(LIMIT)).unwrap();
        let plan = Plan {
            version: VERSION,
            account: "123456789012".into(),
            region: "us-west-2".into(),
            before: at(LIMIT),
            items: vec![item],
        };
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(
            text,
            r#"{"version":1,"account":"123456789012","region":"us-west-2","before":"2026-01-01T12:00:00Z","items":[{"kind":"instance","id":"i-1","name":"kola-1","created":"2026-01-01T10:00:00Z","state":"running"}]}"#
        );
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
        assert!(serde_json::from_str::<Plan>(&text.replace("\"name\"", "\"nmae\"")).is_err());
    }
}
