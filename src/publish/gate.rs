//! A test of images that are uploaded, before anything is public.
//!
//! Who tests is not known here. An image that has passed is not tested again: the journal has its name.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Look, Phase, REFUSED, Result, Stage, Step, World};

/// An image that somebody else can start machines of, with the same credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// At Amazon.
    Aws {
        /// Its id.
        ami: String,
        /// Where it is.
        region: String,
        /// Whose credentials are used: the profile.
        profile: String,
        /// The file with that profile, if it is not where the AWS CLI looks.
        credentials: Option<PathBuf>,
    },
    /// At Compute Engine.
    Gce {
        /// Its project.
        project: String,
        /// Its name.
        name: String,
        /// The key, as JSON, if one is named.
        key: Option<PathBuf>,
    },
}

impl Image {
    /// What tells it from all others.
    fn id(&self) -> String {
        match self {
            Self::Aws { ami, region, .. } => format!("{region}/{ami}"),
            Self::Gce { project, name, .. } => format!("projects/{project}/global/images/{name}"),
        }
    }
}

/// How a test ended.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Why it did not pass.
    pub refused: Option<String>,
    /// Where its results are.
    pub folder: PathBuf,
}

/// Who tests images.
#[async_trait(?Send)]
pub trait Tester: std::fmt::Debug + Send + Sync {
    /// Tests an image to the end.
    ///
    /// # Errors
    /// When the test cannot be made, or was interrupted.
    async fn test(&self, image: &Image, world: &World<'_>) -> Result<Verdict>;
}

/// A gate: only images of this place that pass become public, and nothing does if one of them does not.
#[derive(Clone, Debug)]
pub struct Gate {
    /// The place: the name of a provider.
    pub place: String,
    /// Who tests its images.
    pub tester: Arc<dyn Tester>,
}

/// With what the keys of these steps end.
const KEY: &str = "/tested";

/// The step that tests an image of a place.
pub(super) fn step(place: &str, does: String, act: impl super::Act + 'static) -> Step {
    Step::new(format!("{place}{KEY}"), Phase::Publish, does, act).only_in(&[Stage::Release, Stage::Whole])
}

/// Lets all that becomes public wait for the tests.
pub(super) fn order(steps: &mut [Step]) {
    let tests: Vec<String> = steps.iter().filter(|s| s.key.ends_with(KEY)).map(|s| s.key.clone()).collect();
    // What a test needs is not public either.
    let mut before: Vec<String> = tests.clone();
    let needed = steps.iter().filter(|s| tests.contains(&s.key)).flat_map(|s| s.needs.clone());
    before.extend(needed);
    let later = |s: &&mut Step| s.phase == Phase::Publish && !before.contains(&s.key);
    steps.iter_mut().filter(later).for_each(|step| step.needs.extend(tests.iter().cloned()));
}

/// What a look at a test finds, of an image that is there.
pub(super) fn look(image: &Image) -> Look {
    Look::Remembered(json!({"tested": image.id()}))
}

/// Tests an image.
pub(super) async fn run(tester: &dyn Tester, image: &Image, world: &World<'_>) -> Result<Value> {
    let Verdict { refused, folder } = tester.test(image, world).await?;
    let mut value = json!({"tested": image.id(), "folder": folder});
    if let Some(why) = refused {
        value[REFUSED] = why.into();
    }
    Ok(value)
}
