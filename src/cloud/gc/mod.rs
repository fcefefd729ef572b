//! What is left over at a cloud: found by our mark and its age, and removed.
//!
//! A plan is made first, and can be looked at; one that is carried out later is checked again, thing by thing. The
//! rules are the same for all clouds and stand here; a cloud says what there is and removes it, see [`Collect`]:
//!
//! - nothing without our mark is touched, nothing with the tag [`KEEP`], nothing younger than the plan says, nothing
//!   whose age is not known;
//! - what vanished meanwhile counts as removed;
//! - a failure does not save the others; one bad thing does not save its batch;
//! - work that is cancelled stops between two requests.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

pub use self::plan::{Item, Plan, VERSION};
use crate::{info, warning};

/// The tag that keeps things from being removed, whatever its value.
pub const KEEP: &str = "mantle:keep";

const COMPONENT: &str = "gc";

/// A kind of things that a cloud's gc removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its name in plans and messages.
    pub name: &'static str,
    /// How many are removed by one request.
    pub batch: usize,
}

/// Something at the cloud that may be left over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The name of its [`Kind`].
    pub kind: &'static str,
    /// Unique among its kind, in the scope.
    pub id: String,
    /// Its name for people; may be empty.
    pub name: String,
    /// Whether it has our mark, as looked at here: filters of requests are not enough.
    pub ours: bool,
    /// Whether somebody protected it.
    pub kept: bool,
    /// When it was made; none: the cloud does not say, or says what is no time.
    pub created: Option<DateTime<Utc>>,
    /// How it is.
    pub state: State,
}

/// How something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// There, in the cloud's word for it.
    There(String),
    /// Gone, or on its way out.
    Ending,
    /// In a state in which it is left alone.
    Other(String),
    /// The cloud does not say.
    Unknown,
}

/// What became of something that a plan names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Now {
    /// It is so; whether it may still be removed is seen to here.
    There(Found),
    /// It is gone.
    Gone,
    /// It is to be left alone, for this reason.
    Spared(&'static str),
}

/// What came of the removal of one thing of a batch.
#[derive(Debug)]
pub enum Removal<E> {
    /// It is removed.
    Done,
    /// It was left alone, for this reason.
    Spared(&'static str),
    /// It could not be removed.
    Failed(E),
}

/// A cloud whose leftovers can be removed: one account in one region, project or the like.
pub trait Collect: Sync {
    /// Why a request fails.
    type Error: std::error::Error + Send + Sync + 'static;

    /// What is removed, in this order.
    const KINDS: &'static [Kind];

    /// What a plan is for: account, region, project, …, with their values.
    fn scope(&self) -> Vec<(&'static str, String)>;

    /// Everything that may be left over; what is younger than `before` may be left out. All pages are read.
    fn find(&self, before: DateTime<Utc>) -> impl Future<Output = Result<Vec<Found>, Self::Error>> + Send;

    /// Looks at things of one kind again, no more than a batch of them: one answer each, in order.
    fn recheck(
        &self,
        items: &[Item],
        before: DateTime<Utc>,
    ) -> impl Future<Output = Result<Vec<Now>, Self::Error>> + Send;

    /// Removes a batch of one kind: one answer each, in order.
    ///
    /// # Errors
    /// When the request failed as a whole; then the things are removed one by one.
    fn remove(
        &self,
        batch: &[Item],
        before: DateTime<Utc>,
    ) -> impl Future<Output = Result<Vec<Removal<Self::Error>>, Self::Error>> + Send;

    /// Whether an error says that there is no such thing.
    fn is_gone(error: &Self::Error) -> bool;
}

/// Why nothing was begun.
#[derive(Debug, thiserror::Error)]
pub enum Error<E: std::error::Error + 'static> {
    /// A look-up failed.
    #[error(transparent)]
    Cloud(#[from] E),
    /// The plan is for another account, region, version, ….
    #[error("the plan is for {what} {is}, not for {here}")]
    Elsewhere {
        /// What differs.
        what: String,
        /// What the plan says.
        is: String,
        /// What is here.
        here: String,
    },
    /// The plan does not say for which account, region, … it is.
    #[error("the plan does not say for which {0} it is")]
    Nowhere(&'static str),
    /// The plan names something that is never removed.
    #[error("the plan names {0}, which gc does not remove")]
    Kind(String),
    /// The work was cancelled.
    #[error("interrupted")]
    Interrupted,
}

/// What came of a plan.
#[derive(Debug)]
pub struct Outcome<E> {
    /// Removed, or found to be gone.
    pub removed: Vec<Item>,
    /// Left alone, because they are not as the plan has them.
    pub spared: Vec<(Item, &'static str)>,
    /// Could not be removed.
    pub failed: Vec<(Item, E)>,
    /// Not come to, because the work was cancelled; or the cloud did not say what came of it.
    pub open: Vec<Item>,
}

impl<E> Default for Outcome<E> {
    fn default() -> Self {
        Self { removed: Vec::new(), spared: Vec::new(), failed: Vec::new(), open: Vec::new() }
    }
}

/// Finds what was made before a time and is left over.
///
/// # Errors
/// When a call fails, or the work is cancelled.
pub async fn plan<C: Collect>(
    cloud: &C,
    before: DateTime<Utc>,
    cancel: &CancellationToken,
) -> Result<Plan, Error<C::Error>> {
    let found = unless(cancel, cloud.find(before)).await?;
    let mut items: Vec<Item> = found.into_iter().filter_map(|f| judge(f, before).ok()).collect();
    items.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
    let scope = cloud.scope().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Ok(Plan { version: VERSION, scope, before, items })
}

/// Carries out a plan at once, as it was just made.
///
/// Goes on after a failure; stops between two requests once cancelled.
pub async fn execute<C: Collect>(cloud: &C, plan: &Plan, cancel: &CancellationToken) -> Outcome<C::Error> {
    let mut outcome = Outcome::default();
    for batch in batches::<C>(&plan.items) {
        if cancel.is_cancelled() {
            outcome.open.extend(batch);
        } else {
            remove(cloud, batch, plan.before, cancel, &mut outcome).await;
        }
    }
    outcome
}

/// Carries out a plan that was made earlier: each thing is looked at again first.
///
/// # Errors
/// When the plan is for another account or region, of another form, a look-up fails, or the work is cancelled before
/// anything was removed.
pub async fn apply<C: Collect>(
    cloud: &C,
    plan: &Plan,
    cancel: &CancellationToken,
) -> Result<Outcome<C::Error>, Error<C::Error>> {
    check::<C>(plan, cloud.scope())?;
    let mut still = Plan { items: Vec::new(), ..plan.clone() };
    let mut early = Outcome::<C::Error>::default();
    for batch in batches::<C>(&plan.items) {
        let now = unless(cancel, cloud.recheck(&batch, plan.before)).await?;
        // One for which there is no answer is left alone.
        let now = now.into_iter().chain(std::iter::repeat(Now::Spared("it could not be looked at again")));
        for (item, now) in batch.into_iter().zip(now) {
            match compare(&item, now, plan.before) {
                Ok(()) => still.items.push(item),
                Err(GONE) => early.removed.push(item),
                Err(why) => early.spared.push((item, why)),
            }
        }
    }
    let mut outcome = execute(cloud, &still, cancel).await;
    outcome.removed.splice(..0, early.removed);
    outcome.spared.splice(..0, early.spared);
    Ok(outcome)
}

/// Refuses a plan that is not for this place.
fn check<C: Collect>(plan: &Plan, scope: Vec<(&'static str, String)>) -> Result<(), Error<C::Error>> {
    let elsewhere = |what: &str, is: &str, here: &str| {
        Err(Error::Elsewhere { what: what.into(), is: is.into(), here: here.into() })
    };
    if plan.version != VERSION {
        return elsewhere("version", &plan.version.to_string(), &VERSION.to_string());
    }
    for (name, here) in &scope {
        match plan.scope.iter().find(|(n, _)| n == name) {
            Some((_, is)) if is != here => return elsewhere(name, is, here),
            Some(_) => {}
            None => return Err(Error::Nowhere(name)),
        }
    }
    if let Some((name, is)) = plan.scope.iter().find(|(n, _)| scope.iter().all(|(s, _)| s != n)) {
        let here = scope.iter().map(|(n, v)| format!("{n} {v}")).collect::<Vec<_>>().join(", ");
        return elsewhere(name, is, &here);
    }
    match plan.items.iter().find(|i| C::KINDS.iter().all(|k| k.name != i.kind)) {
        Some(item) => Err(Error::Kind(item.to_string())),
        None => Ok(()),
    }
}

/// Looks something up, which can be dropped at any point.
async fn unless<T, E: std::error::Error + 'static>(
    cancel: &CancellationToken,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Error<E>> {
    match cancel.run_until_cancelled(work).await {
        Some(done) => Ok(done?),
        None => Err(Error::Interrupted),
    }
}

/// The things by kind, in batches; what is named twice, once.
fn batches<C: Collect>(items: &[Item]) -> Vec<Vec<Item>> {
    let mut seen = BTreeSet::new();
    let mut of_kind = |kind: &Kind| {
        let mine = |i: &&Item| i.kind == kind.name && seen.insert((kind.name, i.id.clone()));
        items.iter().filter(mine).cloned().collect::<Vec<_>>()
    };
    let chunks =
        |kind: &Kind| of_kind(kind).chunks(kind.batch.max(1)).map(<[Item]>::to_vec).collect::<Vec<_>>();
    C::KINDS.iter().flat_map(chunks).collect()
}

const GONE: &str = "it is gone";
const NOT_ANY_MORE: &str = "it is not to be removed any more";

/// The thing as an item of a plan, if it is to be removed; says why not where that is worth knowing.
fn judge(found: Found, before: DateTime<Utc>) -> Result<Item, &'static str> {
    let Found { kind, id, name, ours, kept, created, state } = found;
    if !ours {
        return Err(NOT_ANY_MORE);
    }
    if state == State::Ending {
        return Err(GONE);
    }
    let Some(created) = created else {
        warning!(COMPONENT, "skipping {kind} {id}, whose time of creation is not known");
        return Err(NOT_ANY_MORE);
    };
    if created > before {
        return Err(NOT_ANY_MORE);
    }
    let state = match state {
        State::There(state) => state,
        State::Ending => return Err(GONE),
        State::Other(state) => {
            info!(COMPONENT, "skipping {kind} {id} in state {state}");
            return Err(NOT_ANY_MORE);
        }
        State::Unknown => {
            warning!(COMPONENT, "skipping {kind} {id}, whose state is not known");
            return Err(NOT_ANY_MORE);
        }
    };
    if kept {
        info!(COMPONENT, "skipping {kind} {id}, which is protected");
        return Err(NOT_ANY_MORE);
    }
    Ok(Item { kind: kind.into(), id, name, created, state })
}

/// Whether something is still what the plan says; else why not.
fn compare(item: &Item, now: Now, before: DateTime<Utc>) -> Result<(), &'static str> {
    let found = match now {
        Now::There(found) => found,
        Now::Gone => return Err(GONE),
        Now::Spared(why) => return Err(why),
    };
    if found.kind != item.kind || found.id != item.id {
        return Err("it could not be looked at again");
    }
    // Started anew since then: somebody uses it.
    let anew = found.ours && found.created.is_some_and(|c| c != item.created);
    match judge(found, before) {
        Err(GONE) => Err(GONE),
        _ if anew => Err("it was started again"),
        other => other.map(|_| ()),
    }
}

/// Removes a batch, one by one if it is refused as a whole.
async fn remove<C: Collect>(
    cloud: &C,
    batch: Vec<Item>,
    before: DateTime<Utc>,
    cancel: &CancellationToken,
    outcome: &mut Outcome<C::Error>,
) {
    match cloud.remove(&batch, before).await {
        Ok(removals) => note::<C>(batch, removals, outcome),
        Err(e) if batch.len() == 1 => note::<C>(batch, vec![Removal::Failed(e)], outcome),
        Err(e) => {
            info!(COMPONENT, "removing {} things one by one: {e}", batch.len());
            for item in batch {
                if cancel.is_cancelled() {
                    outcome.open.push(item);
                    continue;
                }
                let one = [item];
                let removals = match cloud.remove(&one, before).await {
                    Ok(removals) => removals,
                    Err(e) => vec![Removal::Failed(e)],
                };
                note::<C>(one.to_vec(), removals, outcome);
            }
        }
    }
}

/// Notes what came of a batch; what there is no answer for stays open.
fn note<C: Collect>(batch: Vec<Item>, removals: Vec<Removal<C::Error>>, outcome: &mut Outcome<C::Error>) {
    let mut removals = removals.into_iter();
    for item in batch {
        match removals.next() {
            Some(Removal::Done) => outcome.removed.push(item),
            Some(Removal::Failed(e)) if C::is_gone(&e) => outcome.removed.push(item),
            Some(Removal::Failed(e)) => outcome.failed.push((item, e)),
            Some(Removal::Spared(why)) => outcome.spared.push((item, why)),
            None => outcome.open.push(item),
        }
    }
}
