//! `kola merge`: the results of runs that had a share of the tests each, as those of one run.

use std::path::{Path, PathBuf};

use clap::{ArgMatches, FromArgMatches as _};
use color_eyre::Section as _;
use color_eyre::eyre::{Report, Result, WrapErr as _, eyre};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use mantle::applet::Context;
use mantle::error::{SUCCESS, Stop, usage};
use mantle::harness::merge::{self, Files, Merge, Source};
use mantle::results::{Error, Listing, Place, Store};
use tokio_util::sync::CancellationToken;

use super::options::General;
use super::run::{copy, tell_end, tell_github};
use super::{order, stored};

/// What it does.
pub const ABOUT: &str = "\
Put the results of several runs together, each of which ran a share of the tests: reports of all formats, and one exit \
status. A SOURCE is the output folder of a run, a place that --results names, or the output folder of an earlier merge.

What is missing is a failure and is named: shares without results, tests that ran nowhere or twice. Of several runs of \
one share the one that came to its end counts, so a share that was killed and begun anew is no failure. Shares of \
different runs, tests, platforms or images are refused. Merging again, also what was merged before with what came \
late, gives the same.

The clocks of the machines do not matter; that one is wrong is told. How long each test took replaces what \
kola-times.json knows, and is in a file of this name in the output folder: give it to machines that share the tests of \
the next run.";

/// How it is called.
pub const EXAMPLES: &str = "Examples:
  kola merge gs://bucket/nightly-17 --output-dir merged
  kola merge results/part-* --output-dir merged
  kola merge merged late --output-dir merged";

/// Requests at once.
const AT_ONCE: usize = 8;
/// The folder of reports, and the files in it that a merge is made of.
const REPORTS: &str = "reports";
const EVENTS: &str = "events.ndjson";
const SELECTION: &str = "selection.json";
const OTHERS: [&str; 2] = [SELECTION, "merge.json"];

/// Options of `kola merge`.
#[derive(clap::Args, Debug, Clone)]
#[group(skip)]
pub struct Options {
    /// Where results are: gs://BUCKET/PREFIX, s3://BUCKET/PREFIX or a folder, of one run or with a folder for each
    #[arg(value_name = "SOURCE", required = true)]
    source: Vec<Place>,
}

/// Merges; returns the exit status.
///
/// # Errors
/// When a test failed or is missing, or nothing can be merged.
pub async fn run(matches: &ArgMatches, options: Options, context: &Context) -> Result<u8> {
    let general = General::from_arg_matches(matches)?;
    let out =
        general.output_dir.ok_or_else(|| usage("kola merge needs --output-dir DIR, for the reports"))?;
    let scratch = tempfile::tempdir().wrap_err("cannot make a temporary folder")?;
    let mut sources = Vec::new();
    for place in options.source {
        let name = place.to_string();
        let store = stored::open(place, matches).await?;
        let find = find(&store, scratch.path(), sources.len(), &context.cancel);
        let found = context.cancel.run_until_cancelled(find).await.ok_or(Stop::Interrupted)?;
        let found =
            found.map_err(stored::explain).wrap_err_with(|| format!("cannot read the results in {name}"))?;
        if found.is_empty() {
            return Err(eyre!(
                "there are no results in {name}: neither reports/{EVENTS}, nor a folder with it"
            ));
        }
        sources.extend(found);
    }
    let to = out.clone();
    let merged = tokio::task::spawn_blocking(move || {
        let merge = merge::read(sources)?;
        merge::prepare(&to)?;
        let summary = merge.write(&to)?;
        Ok::<_, merge::Error>((merge, summary))
    });
    let (merge, summary) = merged.await?.map_err(explain)?;
    let mut order = order::Options::default().read(merge.platform())?;
    let times = out.join(order::FILE);
    order.replace(&summary, &times).wrap_err_with(|| format!("cannot write {}", times.display()))?;
    tell(&merge, &out)?;
    tell_end(&summary, &out, false)?;
    tell_github(&summary, &format!("kola on {}, merged", merge.platform()))?;
    if let Some(to) = &general.tapfile {
        copy(&out.join("test.tap"), to)?;
    }
    let verdict = if merge.passed() { "PASS" } else { "FAIL" };
    mantle::output::line(format_args!("{verdict}, output in {}", out.display()))?;
    match merge.passed() {
        true => Ok(SUCCESS),
        false if summary.bad.is_empty() => Err(eyre!("the run has not come to a good end")),
        false => Err(eyre!("harness: test suite failed")),
    }
}

fn tell(merge: &Merge, out: &Path) -> Result<()> {
    for note in merge.notes() {
        mantle::warning!("kola", "{note}");
    }
    let (of, there) = merge.parts();
    if of > 1 {
        mantle::notice!(
            "kola",
            "{there} of {of} parts have results; what was merged is in {}/{REPORTS}/merge.json",
            out.display()
        );
    }
    if !merge.problems().is_empty() {
        mantle::output::line("Not as it should be:")?;
    }
    for problem in merge.problems() {
        mantle::output::line(format_args!("    {problem}"))?;
    }
    Ok(())
}

/// The error with advice.
fn explain(error: merge::Error) -> Report {
    let advice = match &error {
        merge::Error::Mixed { .. } => {
            Some("name the results of one run only, each of its parts with the same options")
        }
        merge::Error::Occupied(_) => {
            Some("name a folder that does not exist yet, an empty one, or that of a former merge")
        }
        _ => None,
    };
    let report = Report::new(error);
    match advice {
        Some(advice) => report.suggestion(advice),
        None => report,
    }
}

/// The runs at a place: itself, or the folders in it.
async fn find(
    store: &Store,
    scratch: &Path,
    number: usize,
    cancel: &CancellationToken,
) -> Result<Vec<Source>, Error> {
    let own = store.list("").await?;
    if own.folders.iter().any(|name| name == REPORTS)
        && let Some(source) = source(store, "", scratch.join(number.to_string()), cancel).await?
    {
        return Ok(vec![source]);
    }
    let inner = own
        .folders
        .iter()
        .enumerate()
        .map(|(n, folder)| source(store, folder, scratch.join(format!("{number}-{n}")), cancel));
    let found: Vec<Option<Source>> = stream::iter(inner).buffered(AT_ONCE).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

/// The run of a folder, if it has events. From a cloud they are got first.
async fn source(
    store: &Store,
    folder: &str,
    scratch: PathBuf,
    cancel: &CancellationToken,
) -> Result<Option<Source>, Error> {
    let below = |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
    let Listing { files, .. } = match store.list(&below(REPORTS)).await {
        Err(Error::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Listing::default()
        }
        listed => listed?,
    };
    let has = |name: &str| files.iter().any(|(file, _)| file == name);
    if !has(EVENTS) {
        return Ok(None);
    }
    let stored = files.iter().find(|(file, _)| file == SELECTION).and_then(|(_, time)| *time);
    let name = store.called(folder).trim_end_matches('/').to_owned();
    if let Place::Folder(at) = store.place() {
        let folder = at.join(folder);
        let files = Files::Folder(folder.clone(), String::new());
        return Ok(Some(Source { name, folder, files, stored }));
    }
    let reports = scratch.join(REPORTS);
    std::fs::create_dir_all(&reports).map_err(|source| Error::File {
        action: "create",
        path: reports.clone(),
        source,
    })?;
    for file in [EVENTS].into_iter().chain(OTHERS.into_iter().filter(|file| has(file))) {
        store.fetch(&below(&format!("{REPORTS}/{file}")), &reports.join(file), cancel).await?;
    }
    Ok(Some(Source { files: Files::Place(name.clone()), name, folder: scratch, stored }))
}
