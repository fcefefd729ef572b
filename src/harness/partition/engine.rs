//! Which part this process is, by what the engine that started it says in the environment.
//!
//! Sources: [Kubernetes](https://kubernetes.io/docs/concepts/workloads/controllers/job/#completion-mode),
//! [Slurm](https://slurm.schedmd.com/job_array.html),
//! [GitLab](https://docs.gitlab.com/ci/variables/predefined_variables/),
//! [Buildkite](https://buildkite.com/docs/pipelines/configure/environment-variables),
//! [CircleCI](https://circleci.com/docs/reference/variables/).

use super::number;

/// How many parts there are, where the engine does not say it; where it does, both must be the same.
pub const SHARDS: &str = "MANTLE_SHARDS";

/// The variables that are read, with what they are for.
pub const ENVIRONMENT: &[(&str, &str)] = &[
    (
        SHARDS,
        "How many parts a suite has, where the engine does not tell it (a Job of Kubernetes). Where it does, both must \
         be the same.",
    ),
    ("JOB_COMPLETION_INDEX", "Which part to run, from 0, in an indexed Job of Kubernetes."),
    (
        "SLURM_ARRAY_TASK_ID, SLURM_ARRAY_TASK_MIN, SLURM_ARRAY_TASK_MAX, SLURM_ARRAY_TASK_STEP, SLURM_ARRAY_TASK_COUNT",
        "Which part to run, of how many, in a job array of Slurm without gaps.",
    ),
    ("CI_NODE_INDEX, CI_NODE_TOTAL", "Which part to run, from 1, of how many, in a parallel job of GitLab."),
    (
        "BUILDKITE_PARALLEL_JOB, BUILDKITE_PARALLEL_JOB_COUNT",
        "Which part to run, from 0, of how many, in a parallel step of Buildkite.",
    ),
    (
        "CIRCLE_NODE_INDEX, CIRCLE_NODE_TOTAL",
        "Which part to run, from 0, of how many, in a parallel job of CircleCI.",
    ),
];

/// An engine that says it in two variables, or, without the second, in one.
struct Engine {
    name: &'static str,
    index: &'static str,
    /// What the first part is called.
    first: u32,
    total: Option<&'static str>,
}

const ENGINES: [Engine; 4] = [
    Engine { name: "Kubernetes", index: "JOB_COMPLETION_INDEX", first: 0, total: None },
    Engine { name: "GitLab", index: "CI_NODE_INDEX", first: 1, total: Some("CI_NODE_TOTAL") },
    Engine {
        name: "Buildkite",
        index: "BUILDKITE_PARALLEL_JOB",
        first: 0,
        total: Some("BUILDKITE_PARALLEL_JOB_COUNT"),
    },
    Engine { name: "CircleCI", index: "CIRCLE_NODE_INDEX", first: 0, total: Some("CIRCLE_NODE_TOTAL") },
];

/// What the environment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which part, from 1.
    pub part: u32,
    /// Of how many.
    pub of: u32,
    /// Who says so, and in which variables: `Slurm (SLURM_ARRAY_TASK_ID=2, …)`.
    pub source: String,
}

/// Why the environment says nothing that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No engine is known here.
    #[error(
        "nothing says which part to run: neither an indexed Job of Kubernetes, nor a job array of Slurm, nor a parallel \
         job of GitLab, Buildkite or CircleCI is in the environment"
    )]
    Nowhere,
    /// A variable has a value that cannot be.
    #[error("{engine}: {variable} is {value:?}, which is no number that can be there")]
    Broken {
        /// Who set it.
        engine: &'static str,
        /// Which one.
        variable: &'static str,
        /// What is in it.
        value: String,
    },
    /// One variable is there, and the other is not.
    #[error("{engine}: {has} is there, but {lacks} is not set, which says how many parts there are")]
    Lacks {
        /// Who set it.
        engine: &'static str,
        /// The one that is there.
        has: &'static str,
        /// The one that is not.
        lacks: &'static str,
    },
    /// There is no such part.
    #[error("{told}: there is no such part of {of}")]
    Outside {
        /// Who says so.
        told: String,
        /// How many there are.
        of: u32,
    },
    /// Slurm's array has gaps: which place a task has in it is not known.
    #[error("{told}: the array has gaps; parts are from one number to another, in equal steps")]
    Gaps {
        /// What it says.
        told: String,
    },
    /// Two say different things.
    #[error("{one} and {other} contradict each other")]
    Contradiction {
        /// The first.
        one: String,
        /// The other.
        other: String,
    },
}

/// What the variables that were asked for say; remembers them.
struct Asking<'a> {
    engine: &'static str,
    get: &'a dyn Fn(&str) -> Option<String>,
    told: Vec<String>,
}

impl Asking<'_> {
    /// The number in a variable; an empty one counts as absent.
    fn number(&mut self, variable: &'static str) -> Result<Option<u32>, Error> {
        let Some(value) = (self.get)(variable).filter(|value| !value.is_empty()) else { return Ok(None) };
        self.told.push(format!("{variable}={value}"));
        match number(&value) {
            Some(number) => Ok(Some(number)),
            None => Err(Error::Broken { engine: self.engine, variable, value }),
        }
    }

    fn needed(&mut self, variable: &'static str, beside: &'static str) -> Result<u32, Error> {
        let missing = Error::Lacks { engine: self.engine, has: beside, lacks: variable };
        self.number(variable)?.ok_or(missing)
    }

    fn source(&self) -> String {
        format!("{} ({})", self.engine, self.told.join(", "))
    }

    /// The part with this number from 0, if there is one.
    fn found(self, zero: Option<u32>, of: u32) -> Result<Found, Error> {
        let source = self.source();
        match zero.filter(|zero| *zero < of) {
            Some(zero) => Ok(Found { part: zero + 1, of, source }),
            None => Err(Error::Outside { told: source, of }),
        }
    }
}

/// The part that the environment says, which `get` asks for a variable.
///
/// # Errors
/// [`Error`]: it says nothing, nothing that can be, or different things.
pub fn found(get: &dyn Fn(&str) -> Option<String>) -> Result<Found, Error> {
    let asking = |engine| Asking { engine, get, told: Vec::new() };
    let mut all = Vec::new();
    for engine in &ENGINES {
        let mut asking = asking(engine.name);
        let Some(index) = asking.number(engine.index)? else { continue };
        let of = asking.needed(engine.total.unwrap_or(SHARDS), engine.index)?;
        all.push(asking.found(index.checked_sub(engine.first), of)?);
    }
    all.extend(slurm(asking("Slurm"))?);
    let Some(first) = all.first().cloned() else { return Err(Error::Nowhere) };
    let differs = |other: &&Found| (other.part, other.of) != (first.part, first.of);
    if let Some(other) = all.iter().find(differs) {
        return Err(Error::Contradiction { one: first.source, other: other.source.clone() });
    }
    let mut told = asking(SHARDS);
    match told.number(SHARDS)? {
        Some(of) if of != first.of => {
            Err(Error::Contradiction { one: first.source, other: format!("{SHARDS}={of}") })
        }
        _ => Ok(first),
    }
}

/// Slurm numbers the tasks of an array as it was told to, and says how.
fn slurm(mut asking: Asking<'_>) -> Result<Option<Found>, Error> {
    const ID: &str = "SLURM_ARRAY_TASK_ID";
    let Some(id) = asking.number(ID)? else { return Ok(None) };
    let min = asking.needed("SLURM_ARRAY_TASK_MIN", ID)?;
    let max = asking.needed("SLURM_ARRAY_TASK_MAX", ID)?;
    let step = asking.number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
    let count = asking.number("SLURM_ARRAY_TASK_COUNT")?;
    let of = max.checked_sub(min).map_or(0, |span| (span / step).saturating_add(1));
    let place = id.checked_sub(min);
    if count.is_some_and(|count| count != of) || place.is_some_and(|place| place % step != 0) {
        return Err(Error::Gaps { told: asking.source() });
    }
    asking.found(place.map(|place| place / step), of).map(Some)
}
