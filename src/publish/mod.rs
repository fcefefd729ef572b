//! A release as a transaction: one plan, which is shown, rehearsed and carried out.
//!
//! A [`Step`] is data (a key, what it does, what it needs) with two functions: one looks whether it is done already,
//! the other does it. Looking changes nothing; a plan that is shown, a dry run and a real run all begin with it, and
//! nothing is changed while one step is known to be impossible. Everything is found again by its name, so that a run
//! that was interrupted anywhere is finished by the next. [`journal`] records what cannot be looked at.
//!
//! | phase | what happens | who sees it |
//! |---|---|---|
//! | [`Phase::Check`] | nothing: sources, rights, names, limits are looked at | nobody |
//! | [`Phase::Prepare`] | images are uploaded, made and copied (`plume pre-release`) | the owner |
//! | [`Phase::Publish`] | images become public (`plume release` from here on) | who knows an image's id |
//! | [`Phase::Files`] | the folder of the version is filled | who knows the version |
//! | [`Phase::Point`] | what leads to the newest release: families, `current`, pages | everybody |
//! | [`Phase::Retire`] | what is older than what is kept goes | everybody |
//!
//! A phase begins when the one before it is done; before [`Phase::Files`] all images are looked at once more, so that
//! nothing ever points at what is not public.
//!
//! To add a place to publish to: a file here with a [`Provider`], and its line in [`PROVIDERS`].

mod aws;
mod azure;
mod build;
mod coreos;
mod files;
pub mod gate;
mod gce;
pub mod journal;
mod lists;
mod metadata;
mod run;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use chrono::NaiveDate;
use serde::Serialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

pub use self::build::Build;
pub use self::run::{Finding, State, carry_out, survey};
use crate::bucket::Expected;
use crate::cloud::azure as azure_cloud;
use crate::cloud::google::sources::Choice;
use crate::release::Selection;
use crate::text::chain;

/// Who speaks in the log.
const COMPONENT: &str = "plume";

/// In what came of a step: how many things it has changed, where it may have found nothing to be changed.
const CHANGES: &str = "changes";

/// In what came of a step: why it is no good, though it is done. The step has failed then.
const REFUSED: &str = "refused";

/// The places that releases go to, in the order in which they are shown.
pub const PROVIDERS: &[&dyn Provider] =
    &[&aws::Provider, &azure::Provider, &gce::Provider, &metadata::Provider, &files::Provider];

/// A place that releases go to.
pub trait Provider: Sync {
    /// Its name, with which the keys of its steps begin.
    fn name(&self) -> &'static str;

    /// Whether images can be there before they are public.
    fn prepares(&self) -> bool;

    /// All that a release takes there; nothing if the channel is not released to it. Nothing is asked of anybody.
    fn steps(&self, release: &Release) -> Vec<Step>;
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step failed.
    #[error("cannot {what}")]
    Step {
        /// What it does.
        what: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// Several did.
    #[error("{} steps failed:\n  {}", .0.len(), .0.join("\n  "))]
    Several(Vec<String>),
    /// The release cannot be; nothing has been changed.
    #[error("{}", .0.join("\n"))]
    Impossible(Vec<String>),
    /// The record of the release cannot be kept.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// The work was cancelled; the next run goes on where this one stopped.
    #[error("interrupted")]
    Interrupted,
}

/// Why a step failed; it knows no more of it than people do.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A result of one step: [`Stopped`] tells an interruption from a failure.
pub type Result<T, E = Stopped> = std::result::Result<T, E>;

/// Why a step was not done.
#[derive(Debug)]
pub enum Stopped {
    /// It failed.
    Failed(Cause),
    /// The work was cancelled.
    Interrupted,
}

impl Stopped {
    /// A failure in words.
    fn words(text: impl Into<String>) -> Self {
        Self::Failed(text.into().into())
    }

    /// A failure of something that can also be interrupted.
    fn from(error: impl std::error::Error + Send + Sync + 'static, interrupted: bool) -> Self {
        if interrupted { Self::Interrupted } else { Self::Failed(Box::new(error)) }
    }

    /// A failure of something that is over when it is cancelled.
    fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Failed(Box::new(error))
    }
}

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(cause) => f.write_str(&chain(&**cause)),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

/// A part of the way; see the top of the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Nothing is changed.
    Check,
    /// Nothing becomes public.
    Prepare,
    /// Images become public.
    Publish,
    /// Files of the version appear.
    Files,
    /// Pointers are flipped.
    Point,
    /// Old things go.
    Retire,
}

/// Which phases a plan is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// What can be done before anything is public.
    Prepare,
    /// The rest.
    Release,
    /// All of it.
    Whole,
    /// What leads to the newest release leads to this one again, which is public already.
    Rollback,
    /// All of it was done, and is as it was left.
    Verify,
}

impl Stage {
    fn has(self, step: &Step) -> bool {
        let of_phase = match (self, step.phase) {
            (_, Phase::Check) | (Self::Whole, _) => true,
            // What is kept of older releases is another matter.
            (Self::Verify, phase) => phase != Phase::Retire,
            (Self::Prepare, phase) => phase == Phase::Prepare,
            (Self::Release, phase) => phase > Phase::Prepare,
            // Images are looked at, not changed.
            (Self::Rollback, phase) => matches!(phase, Phase::Publish | Phase::Point),
        };
        of_phase && (step.stages.is_empty() || step.stages.contains(&self))
    }
}

/// One thing to be done.
pub struct Step {
    /// Its name: the provider's, and what tells it from the provider's others.
    pub key: String,
    /// When it is done.
    pub phase: Phase,
    /// What it does, as an order.
    pub does: String,
    /// The keys of those in the same phase that must be done before.
    pub needs: Vec<String>,
    /// The stages that have it; none: any.
    stages: &'static [Stage],
    act: Box<dyn Act>,
}

impl Step {
    fn new(key: impl Into<String>, phase: Phase, does: impl Into<String>, act: impl Act + 'static) -> Self {
        Self { key: key.into(), phase, does: does.into(), needs: Vec::new(), stages: &[], act: Box::new(act) }
    }

    fn after(mut self, key: impl Into<String>) -> Self {
        self.needs.push(key.into());
        self
    }

    /// [`Stage::Release`] stands for all stages but those that go back.
    fn only_to(self, stage: Stage) -> Self {
        self.only_in(match stage {
            Stage::Prepare => &[Stage::Prepare],
            Stage::Release => &[Stage::Prepare, Stage::Release, Stage::Whole, Stage::Verify],
            Stage::Whole => &[Stage::Whole],
            Stage::Rollback => &[Stage::Rollback],
            Stage::Verify => &[Stage::Verify],
        })
    }

    fn only_in(mut self, stages: &'static [Stage]) -> Self {
        self.stages = stages;
        self
    }

    /// What has been done must be; it is not done any more.
    fn into_check(self) -> Self {
        Self { act: Box::new(Must(self.act)), ..self }
    }
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Step").field("key", &self.key).field("phase", &self.phase).finish_non_exhaustive()
    }
}

/// What a look at a step found.
#[derive(Debug)]
enum Look {
    /// It is done; what came of it.
    Done(Value),
    /// It is to be done: what exactly, if there is more to say than what the step says.
    Todo(Vec<String>),
    /// Its subject is missing: fine if the step of this key will make it, else this is why it cannot be.
    After(String, String),
    /// Nobody can tell, and doing it again does no harm: the journal decides.
    Untold,
    /// The same, if the journal has these values of it: what was done was done to this, and it was good.
    Remembered(Value),
    /// It looks for itself, each time, and does no more than it has to.
    Always,
    /// It cannot be: why.
    Impossible(String),
    /// Of a check: there is nothing known to be in the way, but these things cannot be told.
    Unknown(Vec<String>),
}

/// A step's two functions.
#[async_trait(?Send)]
trait Act: Send + Sync {
    /// Looks at what is there; changes nothing.
    async fn look(&self, world: &World<'_>) -> Result<Look>;

    /// Does it, or what is missing of it; what came of it.
    async fn run(&self, world: &World<'_>) -> Result<Value>;
}

/// What was done before.
struct Must(Box<dyn Act>);

#[async_trait(?Send)]
impl Act for Must {
    async fn look(&self, world: &World<'_>) -> Result<Look> {
        Ok(match self.0.look(world).await? {
            Look::Todo(details) if details.is_empty() => Look::Impossible("it is not done".into()),
            Look::Todo(details) => Look::Impossible(format!("it is not done: {}", details.join("; "))),
            Look::After(_, why) => Look::Impossible(why),
            Look::Untold | Look::Remembered(_) | Look::Always => Look::Done(Value::Null),
            other => other,
        })
    }

    async fn run(&self, _: &World<'_>) -> Result<Value> {
        Ok(Value::Null)
    }
}

/// Whose credentials are used.
#[derive(Clone, Debug)]
pub struct Accounts {
    /// Google's.
    pub google: Choice,
    /// Amazon's: a file of credentials, in place of those that the AWS CLI looks for.
    pub aws_credentials: Option<PathBuf>,
    /// Microsoft's.
    pub azure: azure_cloud::Account,
}

/// A release, and with what it is made.
#[derive(Debug)]
pub struct Release {
    /// The name of the distribution.
    pub distribution: String,
    /// What is released, and to where.
    pub selection: Selection,
    /// The day, in UTC.
    pub date: NaiveDate,
    /// The files that were built.
    pub build: Build,
    /// Whose clouds.
    pub accounts: Accounts,
    /// Replace most of what a folder of files has, if the release comes to that.
    pub allow_mass_delete: bool,
    /// What tests images before they are public.
    pub gates: Vec<gate::Gate>,
    /// Stops the work.
    pub cancel: CancellationToken,
}

impl Release {
    /// Who tests the images of a place.
    fn tester(&self, place: &str) -> Option<Arc<dyn gate::Tester>> {
        self.gates.iter().find(|gate| gate.place == place).map(|gate| gate.tester.clone())
    }

    /// Distribution, channel, board and version.
    pub fn name(&self) -> String {
        let Selection { channel, board, version, .. } = &self.selection;
        format!("{} {channel} {board} {version}", self.distribution)
    }
}

/// What steps see of a run.
pub struct World<'a> {
    /// The release.
    pub release: &'a Release,
    /// Whether nothing is to be changed.
    pub dry_run: bool,
    known: Mutex<BTreeMap<String, Value>>,
    expected: Mutex<Vec<Expected>>,
}

impl<'a> World<'a> {
    /// A run that has not begun.
    pub fn new(release: &'a Release, dry_run: bool) -> Self {
        Self { release, dry_run, known: Mutex::default(), expected: Mutex::default() }
    }

    /// What came of a step.
    pub fn known(&self, key: &str) -> Option<Value> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn learn(&self, key: &str, value: Value) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), value);
    }

    /// Says what will be stored in the source before files are copied.
    fn expect(&self, object: Expected) {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).push(object);
    }

    fn expected(&self) -> Vec<Expected> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The steps of a stage at these places, or at all if none is named.
pub fn plan(release: &Release, stage: Stage, places: &[String]) -> Vec<Step> {
    let chosen = |p: &&&dyn Provider| places.is_empty() || places.iter().any(|name| name == p.name());
    let mut steps: Vec<Step> = build::steps(release);
    steps.extend(PROVIDERS.iter().filter(chosen).flat_map(|p| p.steps(release)));
    steps.retain(|step| stage.has(step));
    // Checks of places where this stage does nothing have nothing to check.
    let used: Vec<String> =
        steps.iter().filter(|s| s.phase != Phase::Check).map(|s| place(&s.key).to_owned()).collect();
    let is_used =
        |step: &Step| used.iter().any(|u| u == place(&step.key)) || place(&step.key) == build::PLACE;
    steps.retain(|step| step.phase != Phase::Check || is_used(step));
    let is_checked = |step: &Step| match stage {
        Stage::Rollback => step.phase == Phase::Publish,
        Stage::Verify => step.phase != Phase::Check,
        Stage::Prepare | Stage::Release | Stage::Whole => false,
    };
    steps = steps.into_iter().map(|step| if is_checked(&step) { step.into_check() } else { step }).collect();
    gate::order(&mut steps);
    metadata::order(&mut steps);
    steps.sort_by_key(|step| step.phase);
    steps
}

/// The place that a step is about.
fn place(key: &str) -> &str {
    key.split('/').next().unwrap_or_default()
}
