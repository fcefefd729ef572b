//! The options by which tests are found and chosen: those of `kola run` and `kola list`.

use std::path::PathBuf;
use std::sync::Arc;

use color_eyre::Section as _;
use color_eyre::eyre::{Report, Result, bail, eyre};

use super::denylist::Denylist;
use super::external;
use super::register::{self, Test};

/// What tests are there, and which of them.
#[derive(clap::Args, Debug, Clone)]
#[group(skip)]
pub struct Options {
    /// Project whose external tests (in tests/kola) are there, too (repeatable) [default: the current folder]
    #[arg(short = 'E', long, value_name = "DIR")]
    exttest: Vec<PathBuf>,
    /// Choose the tests with a tag besides those that match a pattern; !TAG: leave them out (repeatable)
    #[arg(long, value_name = "TAG", value_delimiter = ',')]
    tag: Vec<String>,
    /// Leave out the tests that need the Internet
    #[arg(long)]
    no_net: bool,
    /// Run tests tagged platform-independent on clouds, too
    #[arg(long)]
    run_platform_independent: bool,
    /// Leave out the tests whose names match (repeatable); external ones are not even read
    #[arg(long, value_name = "GLOB")]
    denylist_test: Vec<String>,
    /// Tests that are known to fail [default: kola-denylist.yaml, if it is there]
    #[arg(long, value_name = "FILE")]
    denylist_file: Option<PathBuf>,
    /// Release stream of the image, for the entries of the deny list that name streams
    #[arg(long, value_name = "NAME")]
    pub denylist_stream: Option<String>,
}

impl Options {
    /// The choice that the options and these patterns make.
    pub fn choice(&self, patterns: Vec<String>) -> register::Choice {
        let (refused, tags): (Vec<&String>, Vec<&String>) =
            self.tag.iter().partition(|tag| tag.starts_with('!'));
        register::Choice {
            patterns,
            tags: tags.into_iter().cloned().collect(),
            refused_tags: refused.into_iter().map(|tag| tag[1..].to_owned()).collect(),
            no_net: self.no_net,
            platform_independent: self.run_platform_independent,
        }
    }

    /// The deny list, of the file and of the command line.
    ///
    /// # Errors
    /// Those of [`Denylist::read`].
    pub fn denylist(&self) -> Result<Denylist> {
        Denylist::read(self.denylist_file.as_deref(), &self.denylist_test)
    }

    /// All tests there are: those of this program and external ones; and the names of the external ones that are denied
    /// and were not read.
    ///
    /// # Errors
    /// Those of [`external::find`].
    pub fn tests(&self, denylist: &Denylist) -> Result<external::Tests> {
        let (external, unread) = external::find(&self.exttest, &|name| denylist.refuses(name))?;
        Ok((register::with(external), unread))
    }
}

/// Refuses patterns that match no test although others do.
///
/// # Errors
/// Names them, with what may have been meant.
pub fn check_patterns(choice: &register::Choice, tests: &[Arc<Test>], unread: &[String]) -> Result<()> {
    let mut idle = choice.idle_patterns(tests)?;
    if idle.len() == choice.patterns.len() {
        return Ok(());
    }
    idle.retain(|pattern| !matches_one(pattern, unread));
    if idle.is_empty() {
        return Ok(());
    }
    Err(with_guesses(eyre!("no test matches {}", idle.join(", ")), choice, tests))
}

/// Whether a pattern matches one of these names.
pub fn matches_one(pattern: &str, names: &[String]) -> bool {
    names.iter().any(|name| mantle::glob::matches(pattern, name).unwrap_or(false))
}

/// The report, with what each pattern may have meant.
pub fn with_guesses(mut report: Report, choice: &register::Choice, tests: &[Arc<Test>]) -> Report {
    for text in choice.patterns.iter().filter_map(|p| register::did_you_mean(p, tests)) {
        report = report.suggestion(text);
    }
    report
}

/// Each test `times` times, its number behind its name.
pub fn multiplied(tests: Vec<Arc<Test>>, times: usize) -> Result<Vec<Arc<Test>>> {
    if times == 0 {
        bail!("--multiply: 0 runs of each test are none");
    }
    if times == 1 {
        return Ok(tests);
    }
    let copies = |test: &Arc<Test>| {
        (0..times)
            .map(|n| {
                let mut copy = Test::clone(test);
                copy.name = format!("{}{n}", test.name).into();
                copy.copy_of = Some(test.name.clone());
                Arc::new(copy)
            })
            .collect::<Vec<_>>()
    };
    Ok(tests.iter().flat_map(copies).collect())
}
