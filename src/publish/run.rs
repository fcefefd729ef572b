//! Plans looked at, and carried out.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::stream::{self, FuturesUnordered, StreamExt as _};
use serde::Serialize;
use serde_json::Value;

use super::journal::Journal;
use super::{CHANGES, COMPONENT, Cause, Error, Look, Phase, REFUSED, Result, Step, Stopped, World, place};
use crate::poll::{Answer, Poll};
use crate::{info, notice};

/// Steps under way at once, of each place.
const PARALLEL: usize = 8;

/// Looks whether what was made public is seen to be.
const PUBLIC: Poll = Poll::seconds(5, 300);

/// Whether a step is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is done.
    Done,
    /// It is to be done.
    Todo,
    /// It cannot be.
    Impossible,
    /// A check found nothing in the way, but could not tell all.
    Unknown,
}

/// A step as it was found.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Its key.
    pub key: String,
    /// Its phase.
    pub phase: Phase,
    /// What it does.
    pub does: String,
    /// The keys of those that it needs.
    pub needs: Vec<String>,
    /// Whether it is to be done.
    pub state: State,
    /// What exactly is to be done, or why it cannot be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

/// Steps in the order in which they can be done: groups of those that do not need each other.
fn groups(steps: &[Step]) -> Vec<Vec<usize>> {
    let at: BTreeMap<&str, usize> = steps.iter().enumerate().map(|(i, s)| (s.key.as_str(), i)).collect();
    let mut depths = vec![None; steps.len()];
    let mut groups = BTreeMap::<(Phase, usize), Vec<usize>>::new();
    // A step that needs itself would never be reached; the plans are ours and have none.
    while depths.iter().any(Option::is_none) {
        let before = depths.clone();
        for (i, step) in steps.iter().enumerate().filter(|(i, _)| before[*i].is_none()) {
            let within = step.needs.iter().filter_map(|key| at.get(key.as_str()));
            let within: Vec<usize> = within.copied().filter(|n| steps[*n].phase == step.phase).collect();
            if within.iter().all(|n| before[*n].is_some()) {
                let depth = within.iter().filter_map(|n| before[*n]).map(|d: usize| d + 1).max().unwrap_or(0);
                depths[i] = Some(depth);
                groups.entry((step.phase, depth)).or_default().push(i);
            }
        }
        if depths == before {
            let rest = (0..steps.len()).filter(|i| depths[*i].is_none()).collect();
            groups.insert((Phase::Retire, usize::MAX), rest);
            break;
        }
    }
    groups.into_values().collect()
}

/// Looks at every step; changes nothing. What came of those that are done is known to the world then.
///
/// # Errors
/// [`Error::Interrupted`], and no other: what cannot be looked at is found to be impossible.
pub async fn survey(steps: &[Step], world: &World<'_>, journal: &Journal) -> Result<Vec<Finding>, Error> {
    let mut findings: Vec<Option<Finding>> = vec![None; steps.len()];
    for group in groups(steps) {
        let looks = stream::iter(group).map(|i| async move {
            let look = world.release.cancel.run_until_cancelled(steps[i].act.look(world)).await;
            (i, look.unwrap_or(Err(Stopped::Interrupted)))
        });
        let looks: Vec<(usize, Result<Look>)> = looks.buffer_unordered(PARALLEL).collect().await;
        for (i, look) in looks {
            let step = &steps[i];
            let (state, details) = match look {
                Err(Stopped::Interrupted) => return Err(Error::Interrupted),
                Err(failed) => (State::Impossible, vec![failed.to_string()]),
                Ok(Look::Done(value)) => {
                    world.learn(&step.key, value);
                    (State::Done, Vec::new())
                }
                Ok(Look::Todo(details)) => (State::Todo, details),
                Ok(Look::Always) => (State::Todo, Vec::new()),
                Ok(Look::Untold) => match journal.recorded(&step.key) {
                    Some(value) => {
                        world.learn(&step.key, value);
                        (State::Done, Vec::new())
                    }
                    None => (State::Todo, Vec::new()),
                },
                Ok(Look::Remembered(wanted)) => match journal.recorded(&step.key) {
                    Some(value) if is_good(&value, &wanted) => {
                        world.learn(&step.key, value);
                        (State::Done, Vec::new())
                    }
                    _ => (State::Todo, Vec::new()),
                },
                Ok(Look::After(key, why)) => {
                    let maker = steps.iter().position(|s| s.key == key);
                    let will_be =
                        maker.and_then(|m| findings[m].as_ref()).is_some_and(|f| f.state == State::Todo);
                    if will_be { (State::Todo, Vec::new()) } else { (State::Impossible, vec![why]) }
                }
                Ok(Look::Impossible(why)) => (State::Impossible, vec![why]),
                Ok(Look::Unknown(lines)) => (State::Unknown, lines),
            };
            let (key, does, needs) = (step.key.clone(), step.does.clone(), step.needs.clone());
            findings[i] = Some(Finding { key, phase: step.phase, does, needs, state, details });
        }
    }
    Ok(findings.into_iter().flatten().collect())
}

/// Whether a record has these values, and was good.
fn is_good(record: &Value, wanted: &Value) -> bool {
    let mut wanted = wanted.as_object().into_iter().flatten();
    record.get(REFUSED).is_none() && wanted.all(|(name, value)| record.get(name) == Some(value))
}

/// Does what a [`survey`] of the same steps found to be done yet.
///
/// # Errors
/// [`Error::Impossible`] before anything is changed; the errors of steps: those that are under way end then, later
/// phases are not begun.
pub async fn carry_out(
    steps: &[Step],
    findings: &[Finding],
    world: &World<'_>,
    journal: &Journal,
) -> Result<(), Error> {
    refuse_the_impossible(findings)?;
    let mut done: Vec<bool> =
        findings.iter().map(|f| matches!(f.state, State::Done | State::Unknown)).collect();
    // What a step was found to have done may be outdated by those that it needs.
    for group in groups(steps) {
        for i in group {
            let outdated = |key: &String| steps.iter().position(|s| s.key == *key).is_some_and(|n| !done[n]);
            done[i] = done[i] && !steps[i].needs.iter().any(outdated);
        }
    }
    let mut phases: Vec<Phase> = steps.iter().map(|step| step.phase).collect();
    phases.sort_unstable();
    phases.dedup();
    let mut published = false;
    for phase in phases {
        let waiting: Vec<usize> =
            (0..steps.len()).filter(|i| steps[*i].phase == phase && !done[*i]).collect();
        if waiting.is_empty() {
            continue;
        }
        if phase > Phase::Publish && !published {
            everything_is_public(steps, world).await?;
            published = true;
        }
        carry_out_phase(steps, phase, waiting, &mut done, world, journal).await?;
    }
    Ok(())
}

/// Does the steps of a phase: each as soon as those that it needs are done, however long others take.
async fn carry_out_phase(
    steps: &[Step],
    phase: Phase,
    mut waiting: Vec<usize>,
    done: &mut [bool],
    world: &World<'_>,
    journal: &Journal,
) -> Result<(), Error> {
    let at: BTreeMap<&str, usize> = steps.iter().enumerate().map(|(i, s)| (s.key.as_str(), i)).collect();
    let (mut running, mut busy) = (FuturesUnordered::new(), BTreeMap::<&str, usize>::new());
    let (mut failures, mut interrupted) = (Vec::<(String, Cause)>::new(), false);
    loop {
        // What is not public yet does no harm: it is made as far as it can be, to be there for the next run.
        let goes_on = !interrupted && (failures.is_empty() || phase <= Phase::Prepare);
        waiting.retain(|i| {
            let step = &steps[*i];
            let mut needs = step.needs.iter().filter_map(|key| at.get(key.as_str()));
            let is_ready = needs.all(|n| done[*n] || steps[*n].phase != phase);
            let slots = busy.entry(place(&step.key)).or_default();
            let begins = goes_on && is_ready && *slots < PARALLEL;
            if begins {
                *slots += 1;
                let i = *i;
                running.push(async move { (i, run(step, world).await) });
            }
            !begins
        });
        let Some((i, made)) = running.next().await else { break };
        busy.entry(place(&steps[i].key)).and_modify(|slots| *slots -= 1);
        match made {
            Ok(value) => {
                let refused = value[REFUSED].as_str().map(str::to_owned);
                journal.record(&steps[i].key, value).await?;
                done[i] = refused.is_none();
                failures.extend(refused.map(|why| (steps[i].does.clone(), why.into())));
            }
            Err(Stopped::Interrupted) => interrupted = true,
            Err(Stopped::Failed(source)) => failures.push((steps[i].does.clone(), source)),
        }
    }
    match (failures.len(), failures.pop()) {
        (_, None) if interrupted => Err(Error::Interrupted),
        (_, None) => match waiting.first() {
            None => Ok(()),
            Some(i) => {
                let source = "it waits for a step that waits for it".into();
                Err(Error::Step { what: steps[*i].does.clone(), source })
            }
        },
        (1, Some((what, source))) => Err(Error::Step { what, source }),
        (_, Some(last)) => {
            failures.push(last);
            let line = |(what, cause)| format!("cannot {what}: {}", Stopped::Failed(cause));
            Err(Error::Several(failures.into_iter().map(line).collect()))
        }
    }
}

/// Does a step.
async fn run(step: &Step, world: &World<'_>) -> Result<Value> {
    // Steps stop by themselves, between two calls: what they make would be lost sight of.
    if world.release.cancel.is_cancelled() {
        return Err(Stopped::Interrupted);
    }
    info!(COMPONENT, "to {}", step.does);
    let value = step.act.run(world).await?;
    if value.get(REFUSED).is_some() {
        return Ok(value);
    }
    world.learn(&step.key, value.clone());
    match value[CHANGES].as_u64() {
        Some(0) => info!(COMPONENT, "already done: {}", step.does),
        _ => notice!(COMPONENT, "Done: {}", step.does),
    }
    Ok(value)
}

fn refuse_the_impossible(findings: &[Finding]) -> Result<(), Error> {
    let impossible = findings.iter().filter(|f| f.state == State::Impossible);
    let lines: Vec<String> =
        impossible.map(|f| format!("cannot {}: {}", f.does, f.details.join("; "))).collect();
    if lines.is_empty() { Ok(()) } else { Err(Error::Impossible(lines)) }
}

/// Looks at every image once more; clouds need a while to see what they were told.
async fn everything_is_public(steps: &[Step], world: &World<'_>) -> Result<(), Error> {
    for step in steps.iter().filter(|s| s.phase == Phase::Publish) {
        let look = || async {
            match step.act.look(world).await {
                Err(stopped) => Err(stopped),
                Ok(Look::Todo(_) | Look::After(..)) => Ok(Answer::NotYet("not seen to be done".into())),
                Ok(Look::Impossible(why)) => Err(Stopped::words(why)),
                Ok(Look::Done(_) | Look::Untold | Look::Remembered(_) | Look::Always | Look::Unknown(_)) => {
                    Ok(Answer::Ready(()))
                }
            }
        };
        let seen = PUBLIC.until(&step.does, &world.release.cancel, look).await;
        seen.map_err(|e| match e {
            crate::poll::Error::Cancelled | crate::poll::Error::Failed(Stopped::Interrupted) => {
                Error::Interrupted
            }
            crate::poll::Error::Failed(Stopped::Failed(source)) => {
                Error::Step { what: step.does.clone(), source }
            }
            crate::poll::Error::TimedOut { last, limit, .. } => {
                let source =
                    format!("{last} after {} s", Duration::from_secs(limit.as_secs()).as_secs()).into();
                Error::Step { what: step.does.clone(), source }
            }
        })?;
    }
    Ok(())
}
