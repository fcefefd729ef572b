//! The discipline, with a cloud of ten lines.

use std::sync::Mutex;

use super::*;

/// Things that are there, and what they are asked.
struct Toy {
    there: Mutex<Vec<Found>>,
    /// One id a request.
    removed: Mutex<Vec<Vec<String>>>,
    /// Ids that spoil a batch, and are refused alone.
    stubborn: &'static [&'static str],
    /// Cancelled by the removal of this id.
    killed_by: Option<(&'static str, CancellationToken)>,
    account: &'static str,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(&'static str);

impl Toy {
    fn of(there: Vec<Found>) -> Self {
        Self {
            there: Mutex::new(there),
            removed: Mutex::default(),
            stubborn: &[],
            killed_by: None,
            account: "me",
        }
    }

    fn left(&self) -> Vec<String> {
        self.there.lock().unwrap().iter().map(|f| f.id.clone()).collect()
    }

    fn requests(&self) -> Vec<Vec<String>> {
        std::mem::take(&mut self.removed.lock().unwrap())
    }
}

impl Collect for Toy {
    type Error = Refused;

    const KINDS: &'static [Kind] = &[Kind { name: "machine", batch: 2 }, Kind { name: "address", batch: 1 }];

    fn scope(&self) -> Vec<(&'static str, String)> {
        vec![("project", self.account.to_owned()), ("zone", "here".to_owned())]
    }

    async fn find(&self, _: DateTime<Utc>) -> Result<Vec<Found>, Refused> {
        Ok(self.there.lock().unwrap().clone())
    }

    async fn recheck(&self, items: &[Item], _: DateTime<Utc>) -> Result<Vec<Now>, Refused> {
        let there = self.there.lock().unwrap();
        let now = |item: &Item| match there.iter().find(|f| f.id == item.id) {
            Some(found) => Now::There(found.clone()),
            None => Now::Gone,
        };
        Ok(items.iter().map(now).collect())
    }

    async fn remove(&self, batch: &[Item], _: DateTime<Utc>) -> Result<Vec<Removal<Refused>>, Refused> {
        let ids: Vec<_> = batch.iter().map(|i| i.id.clone()).collect();
        self.removed.lock().unwrap().push(ids.clone());
        if let Some((id, cancel)) = &self.killed_by
            && ids.iter().any(|i| i == id)
        {
            cancel.cancel();
        }
        if ids.iter().any(|i| self.stubborn.contains(&i.as_str())) {
            return Err(Refused("stubborn"));
        }
        let mut there = self.there.lock().unwrap();
        if ids.iter().any(|i| there.iter().all(|f| f.id != *i)) {
            return Err(Refused("no such thing"));
        }
        there.retain(|f| !ids.contains(&f.id));
        Ok(batch.iter().map(|_| Removal::Done).collect())
    }

    fn is_gone(error: &Refused) -> bool {
        error.0 == "no such thing"
    }
}

const OLD: &str = "2026-01-01T10:00:00Z";
const LIMIT: &str = "2026-01-01T12:00:00Z";
const YOUNG: &str = "2026-01-01T12:00:01Z";

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn machine(id: &str) -> Found {
    Found {
        kind: "machine",
        id: id.into(),
        name: String::new(),
        ours: true,
        kept: false,
        created: Some(at(OLD)),
        state: State::There("up".into()),
    }
}

fn ids(items: &[Item]) -> Vec<&str> {
    items.iter().map(|i| i.id.as_str()).collect()
}

async fn planned(toy: &Toy) -> Plan {
    plan(toy, at(LIMIT), &CancellationToken::new()).await.unwrap()
}

/// Each differs in one thing from what is removed.
fn not_garbage() -> Vec<Found> {
    vec![
        Found { ours: false, ..machine("foreign") },
        Found { kept: true, ..machine("kept") },
        Found { created: Some(at(YOUNG)), ..machine("young") },
        Found { created: None, ..machine("timeless") },
        Found { state: State::Ending, ..machine("ending") },
        Found { state: State::Other("odd".into()), ..machine("odd") },
        Found { state: State::Unknown, ..machine("stateless") },
    ]
}

#[tokio::test]
async fn only_what_is_ours_old_live_and_unprotected_goes() {
    let mut all = not_garbage();
    all.push(Found { created: Some(at(LIMIT)), ..machine("just-old-enough") });
    all.push(Found { kind: "address", ..machine("address") });
    all.push(machine("old"));
    let toy = Toy::of(all);
    let plan = planned(&toy).await;
    assert_eq!(ids(&plan.items), ["address", "old", "just-old-enough"], "oldest first");
    let outcome = execute(&toy, &plan, &CancellationToken::new()).await;
    assert_eq!(toy.requests(), [vec!["old", "just-old-enough"], vec!["address"]], "kinds in their order");
    assert_eq!(outcome.removed.len(), 3);
    assert_eq!(toy.left(), not_garbage().into_iter().map(|f| f.id).collect::<Vec<_>>());
    assert!(planned(&toy).await.items.is_empty());
}

#[tokio::test]
async fn plans_are_checked_again_before_they_are_applied() {
    let toy = Toy::of(["a", "gone", "changed", "anew"].map(machine).to_vec());
    let mut plan = planned(&toy).await;
    // Meanwhile one went, the others are not what they were; and somebody writes others into the plan.
    *toy.there.lock().unwrap() = [vec![machine("a")], not_garbage()].concat();
    toy.there.lock().unwrap().push(Found { kept: true, ..machine("changed") });
    toy.there.lock().unwrap().push(Found { created: Some(at(LIMIT)), ..machine("anew") });
    let example = plan.items[0].clone();
    for other in not_garbage() {
        plan.items.push(Item {
            id: other.id,
            created: other.created.unwrap_or(example.created),
            ..example.clone()
        });
    }
    plan.items.push(example.clone()); // twice
    let outcome = apply(&toy, &plan, &CancellationToken::new()).await.unwrap();
    assert_eq!(ids(&outcome.removed), ["gone", "ending", "a"], "{outcome:?}");
    assert_eq!(toy.requests(), [["a"]]);
    let spared: Vec<_> = outcome.spared.iter().map(|(i, why)| (i.id.as_str(), *why)).collect();
    for id in ["changed", "foreign", "kept", "young", "timeless", "odd", "stateless"] {
        assert!(spared.contains(&(id, NOT_ANY_MORE)), "{id}: {spared:?}");
    }
    assert!(spared.contains(&("anew", "it was started again")), "{spared:?}");
    assert_eq!(spared.len(), 8);
}

#[tokio::test]
async fn plans_for_elsewhere_are_refused_before_anything_is_asked() {
    let toy = Toy::of(vec![machine("a")]);
    let plan = planned(&toy).await;
    let refused = async |plan: Plan| {
        let outcome = apply(&toy, &plan, &CancellationToken::new()).await;
        outcome.unwrap_err().to_string()
    };
    let with = |at: usize, value: &str| {
        let mut other = plan.clone();
        other.scope[at].1 = value.into();
        other
    };
    assert_eq!(refused(with(0, "you")).await, "the plan is for project you, not for me");
    assert_eq!(refused(with(1, "there")).await, "the plan is for zone there, not for here");
    let mut other = plan.clone();
    other.scope.pop();
    assert_eq!(refused(other).await, "the plan does not say for which zone it is");
    let mut other = plan.clone();
    other.scope.push(("region".into(), "r".into()));
    assert_eq!(refused(other).await, "the plan is for region r, not for project me, zone here");
    let other = Plan { version: 2, ..plan.clone() };
    assert_eq!(refused(other).await, "the plan is for version 2, not for 1");
    let mut other = plan.clone();
    other.items[0].kind = "bucket".into();
    assert_eq!(refused(other).await, "the plan names bucket a, which gc does not remove");
    assert!(toy.requests().is_empty());
    assert_eq!(toy.left(), ["a"]);
}

#[tokio::test]
async fn one_that_cannot_be_removed_does_not_save_the_others() {
    let toy = Toy { stubborn: &["b"], ..Toy::of(["a", "b", "c", "d", "e"].map(machine).to_vec()) };
    let plan = planned(&toy).await;
    toy.there.lock().unwrap().retain(|f| f.id != "d");
    let outcome = execute(&toy, &plan, &CancellationToken::new()).await;
    assert_eq!(toy.left(), ["b"]);
    assert_eq!(ids(&outcome.removed), ["a", "c", "d", "e"], "what vanished is removed");
    assert_eq!(outcome.failed.iter().map(|(i, _)| i.id.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(toy.requests(), [&["a", "b"][..], &["a"], &["b"], &["c", "d"], &["c"], &["d"], &["e"]]);
}

#[tokio::test]
async fn cancelled_work_stops_between_two_requests_and_names_the_rest() {
    for (killer, stubborn, requests, open) in [
        ("a", &[][..], 1, &["c", "d", "e"][..]),
        ("c", &[], 2, &["e"]),
        ("e", &[], 3, &[]),
        ("a", &["a"], 1, &["a", "b", "c", "d", "e"]),
    ] {
        let cancel = CancellationToken::new();
        let toy = Toy {
            killed_by: Some((killer, cancel.clone())),
            stubborn,
            ..Toy::of(["a", "b", "c", "d", "e"].map(machine).to_vec())
        };
        let plan = planned(&toy).await;
        let outcome = execute(&toy, &plan, &cancel).await;
        assert_eq!(toy.requests().len(), requests, "{killer}");
        assert_eq!(ids(&outcome.open), open, "{killer}");
        assert_eq!(outcome.removed.len() + open.len(), 5, "{killer}: each is somewhere");
        // The next run finishes it.
        let toy = Toy::of(toy.there.lock().unwrap().clone());
        let again = execute(&toy, &planned(&toy).await, &CancellationToken::new()).await;
        assert_eq!((ids(&again.removed), toy.left().len()), (open.to_vec(), 0), "{killer}");
    }
    let toy = Toy::of(vec![machine("a")]);
    let cancel = CancellationToken::new();
    let made = planned(&toy).await;
    cancel.cancel();
    assert!(matches!(plan(&toy, at(LIMIT), &cancel).await, Err(Error::Interrupted)));
    assert!(matches!(apply(&toy, &made, &cancel).await, Err(Error::Interrupted)));
    assert_eq!(toy.left(), ["a"]);
}

#[test]
fn plans_survive_being_written() {
    let plan = Plan {
        version: VERSION,
        scope: vec![("account".into(), "123456789012".into()), ("region".into(), "us-west-2".into())],
        before: at(LIMIT),
        items: vec![Item {
            kind: "instance".into(),
            id: "i-1".into(),
            name: "kola-1".into(),
            created: at(OLD),
            state: "running".into(),
        }],
    };
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(
        text,
        r#"{"version":1,"account":"123456789012","region":"us-west-2","before":"2026-01-01T12:00:00Z","items":[{"kind":"instance","id":"i-1","name":"kola-1","created":"2026-01-01T10:00:00Z","state":"running"}]}"#
    );
    let read = |text: &str| serde_json::from_str::<Plan>(text);
    assert_eq!(read(&text).unwrap(), plan);
    for (from, to) in [
        ("\"name\"", "\"nmae\""),
        ("\"version\":1,", ""),
        ("\"version\":1", "\"version\":\"1\""),
        ("\"us-west-2\"", "7"),
        ("T12:00:00Z", ""),
        ("\"items\"", "\"tems\""),
    ] {
        assert!(read(&text.replace(from, to)).is_err(), "{to}");
    }
}
