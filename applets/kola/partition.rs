//! `--partition`: which part of the tests this machine runs, when several share them.

use std::collections::HashMap;
use std::sync::Arc;

use color_eyre::Section as _;
use color_eyre::eyre::Result;
use mantle::applet::Section;
use mantle::error::{refused, usage};
use mantle::harness::partition::{self, Asked, EngineError, Partition, SHARDS, Scheme};

use super::order::Order;
use super::register::Test;

/// Which part is run.
#[derive(clap::Args, Debug, Clone)]
#[group(skip)]
pub struct Options {
    /// Run one part of the tests, the others run elsewhere: count, hash, slice or weighted, and :M/N, part M of N [default of M/N: what Kubernetes, Slurm, GitLab, Buildkite or CircleCI say]
    #[arg(long, value_name = "SCHEME[:M/N]", visible_alias = "sharding")]
    partition: Option<Asked>,
}

impl Options {
    /// The part that is asked for, or that the environment says.
    ///
    /// # Errors
    /// When the environment does not say it, or when other machines may know other durations.
    pub fn read(&self, order: &Order) -> Result<Option<Part>> {
        let Some(Asked { by, place }) = self.partition else { return Ok(None) };
        if by == Scheme::Weighted && !order.is_given() {
            return Err(usage("--partition weighted needs --durations FILE").suggestion(
                "name the same file on all machines: what kola-times.json of a machine holds that ran all tests, or {}; \
                 without one, --partition count",
            ));
        }
        if let Some((part, of)) = place {
            return Ok(Some(Part { partition: Partition { by, part, of }, source: "as asked for".into() }));
        }
        let get = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        let found = partition::found(&get).map_err(|e| {
            let advice = match &e {
                EngineError::Lacks { lacks, .. } if *lacks == SHARDS => {
                    format!("set {SHARDS} to the Job's completions, in the container's env")
                }
                EngineError::Gaps { .. } => {
                    format!("sbatch --array=1-8, say; or name the part: --partition {by}:M/N")
                }
                _ => format!("name the part: --partition {by}:M/N"),
            };
            refused(e.to_string()).suggestion(advice)
        })?;
        let partition = Partition { by, part: found.part, of: found.of };
        Ok(Some(Part { partition, source: format!("as the environment says, {}", found.source) }))
    }
}

/// Which part of the tests is run, and who said so.
pub struct Part {
    partition: Partition,
    source: String,
}

impl Part {
    /// The same as results have it.
    pub fn shown(&self) -> mantle::harness::Part {
        let Partition { by, part, of } = self.partition;
        let number = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        mantle::harness::Part { by: by.to_string(), part: number(part), of: number(of) }
    }

    /// The tests of this part, and a line that says which part this is, why, and how many tests are in it.
    pub fn of(&self, whole: &[Arc<Test>], order: &Order) -> (Vec<Arc<Test>>, String) {
        let Self { partition, source } = self;
        let names: Vec<&str> = whole.iter().map(|test| test.name.as_ref()).collect();
        let known: HashMap<&str, _> =
            whole.iter().filter_map(|test| Some((test.name.as_ref(), order.duration(test)?))).collect();
        let has = partition.has(&names, |name| known.get(name).copied());
        let mine: Vec<_> =
            whole.iter().zip(has).filter(|(_, has)| *has).map(|(test, _)| test.clone()).collect();
        let mut told = format!("part {partition}, {source}: {} of {} tests", mine.len(), whole.len());
        if partition.by == Scheme::Weighted {
            told.push_str(&format!(", by the durations of {}", known.len()));
        }
        (mine, told)
    }
}

/// How tests are shared out, for the man page.
pub fn section() -> Section {
    let mut entries = vec![(
        "--partition SCHEME:M/N".to_owned(),
        "Runs part M of N, on one of N machines that know nothing of each other: with the same image, patterns and \
         options, each test is in exactly one part. Tests that share a machine stay together. A part without tests \
         succeeds. Without :M/N, the engine that started kola says it, see ENVIRONMENT; kola prints which part it took, \
         and why. Values that are broken or contradict each other are refused."
            .to_owned(),
    )];
    entries.extend(Scheme::ALL.map(|scheme| (scheme.as_str().to_owned(), scheme.about().to_owned())));
    entries.push((
        "--durations FILE".to_owned(),
        "What weighted goes by, on all machines the same file: seconds by platform and test, in JSON, as kola keeps them \
         in kola-times.json. It is only read; for one to begin with, {} will do."
            .to_owned(),
    ));
    ("MORE THAN ONE MACHINE", entries)
}
