//! `kola run`: the main job.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{ArgMatches, FromArgMatches as _};
use color_eyre::Section as _;
use color_eyre::eyre::{Result, WrapErr as _, bail, eyre};
use mantle::applet::Context;
use mantle::badness;
use mantle::error::{SUCCESS, Stop};
use mantle::harness::{self, Case, Outcome, T};
use mantle::network::discovery;
use mantle::platform::deployment::Deployment;
use mantle::platform::guest::Evidence;
use mantle::platform::{DRIVERS, MachineOptions};
use mantle::results::{Place, Uploader};
use mantle::ssh;
use mantle::target::{Fresh, Target};
use mantle::text::chain;
use semver::Version;
use tokio_util::sync::CancellationToken;

use super::choice;
use super::cluster::{Shared, TestCluster, blame};
use super::denylist::{Denylist, Here};
use super::external;
use super::flight::{Departures, Flight, both};
use super::options::Setup;
use super::order::{self, Order};
use super::partition::{self, Part};
use super::register::{self, Chosen, Config, Flag, Selection, Test};
use super::replay::Recipe;
use super::stored;

/// Options of `kola run` besides those by which tests are chosen.
#[derive(clap::Args, Debug, Clone)]
#[group(skip)]
pub struct Options {
    #[command(flatten)]
    choice: choice::Options,
    /// Run failed tests again, each at most N times, when all have been run [default without N: 1]
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "1", default_value = "0", hide_default_value = true)]
    rerun: u32,
    /// Run no more than this share of the tests again, in percent; one always may be
    #[arg(long, value_name = "PERCENT", default_value = "15")]
    rerun_limit: u32,
    /// Causes of failures after which a test is run again [default: all]
    #[arg(long, value_name = "CAUSE", value_delimiter = ',', value_parser = ["error", "panic", "timeout", "lost", "infra"])]
    rerun_cause: Vec<String>,
    /// Run each test N times, with its number behind its name
    #[arg(long, value_name = "N", default_value = "1", hide_default_value = true)]
    multiply: usize,
    #[command(flatten)]
    partition: partition::Options,
    /// Also store the results here while the run goes on, in a folder of their own: gs://BUCKET/PREFIX, s3://BUCKET/PREFIX, or a folder. `kola merge` puts those of several runs together
    #[arg(long, value_name = "PLACE")]
    results: Option<Place>,
    /// What to call the run that these tests are a part of; `kola merge` refuses parts of others
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    run_name: String,
    /// Give tests more time than they ask for, in percent
    #[arg(long, value_name = "PERCENT", default_value = "0", hide_default_value = true)]
    extend_timeout_percentage: u32,
    /// End with status 77 if tests failed, but only such whose failures are warnings
    #[arg(long)]
    on_warn_failure_exit_77: bool,
    /// Open a shell on the machine of a test that failed, before it is destroyed; one at a time, on a terminal only
    #[arg(long)]
    ssh_on_test_failure: bool,
    /// Of the chosen tests, only these: what kola replay runs
    #[arg(long, value_name = "TEST", hide = true)]
    only: Vec<String>,
    #[command(flatten)]
    order: order::Options,
}

impl Options {
    fn rerun(&self) -> harness::Rerun {
        let named = |fault: &harness::Fault| {
            self.rerun_cause.is_empty() || self.rerun_cause.iter().any(|cause| cause == fault.as_str())
        };
        let causes = harness::Fault::REPEATABLE.into_iter().filter(named).collect();
        harness::Rerun { times: self.rerun, percent: self.rerun_limit, causes }
    }
}

/// Exit status where only failures that are warnings occurred, if it is asked for.
const WARNED: u8 = 77;

/// Runs the tests that match the patterns (all without one) and reports; returns the exit status.
///
/// # Errors
/// When a test failed, none was selected, or the run could not be made.
pub async fn run(matches: &ArgMatches, patterns: Vec<String>, context: &Context) -> Result<u8> {
    let mut options = Options::from_arg_matches(matches)?;
    options.order.seed();
    let setup = Setup::read(matches)?;
    // It is written at the end of a run that may be long.
    setup.general.tapfile.as_deref().map(Target::of).transpose()?;
    // Not only when a test reads it.
    existing(setup.general.update_payload.as_deref())?;
    let shared = Shared {
        architecture: setup.target.architecture().to_owned(),
        features: setup.features(),
        torcx: setup.general.torcx_manifest.as_deref().map(super::torcx::read).transpose()?,
        update_payload: setup.general.update_payload.clone(),
        ..Shared::default()
    };
    let order = options.order.read(setup.driver.name)?;
    // Tests that are named one by one are run here, whatever part they were in.
    let part = if options.only.is_empty() { options.partition.read(&order)? } else { None };
    let denylist = options.choice.denylist()?;
    let (tests, unread) = options.choice.tests(&denylist)?;
    let mut run = Run {
        choice: options.choice.choice(patterns),
        tests,
        unread,
        denylist,
        image: setup.facts.as_ref().map(|f| f.version.clone()),
        shared: Arc::new(shared),
        order,
        share: harness::Share {
            part: part.as_ref().map(Part::shown),
            run: options.run_name.clone(),
            system: format!("{} on {}", setup.target.distribution.name, setup.target.board),
            ..harness::Share::default()
        },
        part,
        consoles_warn: false,
        told: BTreeSet::new(),
        whole: Vec::new(),
        options,
        setup,
    };
    // Decide before anything is made: most mistakes end here.
    choice::check_patterns(&run.choice, &run.tests, &run.unread)?;
    let chosen = run.choose()?;
    let chosen = run.prepare(chosen).await?;
    // Where there are other parts, that this one has no tests must be known, too.
    if chosen.is_empty() && run.part.is_none() && run.options.results.is_none() {
        return Ok(SUCCESS);
    }
    let store = match &run.options.results {
        Some(place) => Some(stored::open(place.clone(), matches).await?),
        None => None,
    };
    let out = run.setup.output_dir(context).await?;
    let uploader = store.map(|store| Uploader::start(store, stored::folder(&run.share), out.clone()));
    run.share.told = uploader.as_ref().map(Uploader::listener);
    let result = run.on_platform(chosen, &out, context).await;
    let stored = match (uploader, &run.options.results) {
        (Some(uploader), Some(place)) => {
            let cancel = &context.cancel;
            stored::tell(&uploader.finish(cancel).await, place, &stored::folder(&run.share), cancel)
        }
        _ => Ok(()),
    };
    let warned = result?;
    stored?;
    Ok(if warned && run.options.on_warn_failure_exit_77 { WARNED } else { SUCCESS })
}

/// What tells the machine of a test from those of others: userdata and treatment.
type Kind = (Option<Config>, Vec<Flag>);

/// One `kola run`: what was asked for, and what is known of the image.
struct Run {
    setup: Setup,
    options: Options,
    choice: register::Choice,
    /// All that there are.
    tests: Vec<Arc<Test>>,
    /// Names of external ones that are denied.
    unread: Vec<String>,
    denylist: Denylist,
    /// Version of the image, once it is known.
    image: Option<String>,
    shared: Arc<Shared>,
    order: Order,
    /// The part of the tests that is run here.
    part: Option<Part>,
    /// Signs of trouble in consoles and journals are warnings.
    consoles_warn: bool,
    /// What people have been told.
    told: BTreeSet<String>,
    /// Which part this is, and who hears of results.
    share: harness::Share,
    /// The tests of all parts.
    whole: Vec<Arc<Test>>,
}

impl Run {
    /// The version of the image, where it is one that can be compared.
    fn version(&self) -> Option<Version> {
        self.image.as_deref().and_then(|version| Version::parse(version).ok())
    }

    /// Says each line once: what is chosen twice, when the version of the image is known, is told once.
    fn tell(&mut self, lines: Vec<String>, warn: bool) {
        for line in lines {
            if self.told.insert(line.clone()) {
                if warn { mantle::warning!("kola", "{line}") } else { mantle::notice!("kola", "{line}") }
            }
        }
    }

    /// What is to be run of the chosen tests, told to people; nothing if all are denied, or in other parts.
    async fn prepare(&mut self, chosen: Chosen) -> Result<Vec<Arc<Test>>> {
        self.tell(left_out(&chosen), false);
        let here = Here {
            platforms: std::iter::once(self.setup.driver.name).chain(self.setup.driver.variant_of).collect(),
            architecture: &self.shared.architecture,
            version: self.image.as_deref(),
            stream: self.options.choice.denylist_stream.as_deref(),
            today: chrono::Utc::now().date_naive(),
        };
        let applied = self.denylist.apply(chosen.tests, &here);
        self.tell(applied.notices, false);
        self.tell(applied.warnings, true);
        self.consoles_warn = applied.consoles_warn;
        let mut tests = applied.tests;
        for test in &mut tests {
            translate(test).await?;
        }
        let mut tests = choice::multiplied(tests, self.options.multiply)?;
        if !self.options.only.is_empty() && !tests.is_empty() {
            tests.retain(|test| self.options.only.iter().any(|name| *name == test.name));
            if tests.is_empty() {
                bail!("none of these tests is to be run here: {}", self.options.only.join(", "));
            }
        }
        // Before there are parts: which tests are one on a machine is the same in all of them.
        let mut tests = external::share(tests, self.setup.target.distribution);
        self.whole.clone_from(&tests);
        if tests.is_empty() {
            mantle::notice!("kola", "all tests are denied: nothing to run");
        } else if let Some(part) = &self.part {
            let told;
            (tests, told) = part.of(&tests, &self.order);
            self.tell(vec![told], false);
        }
        Ok(tests)
    }

    /// Whether it depends on the version of the image which tests there are, and that is not known. Also if only other
    /// parts have those that it matters for: all must come to the same list.
    fn asks_for_version(&self) -> bool {
        let bounded = |t: &Arc<Test>| {
            (t.min_version.is_some() || t.end_version.is_some())
                && !self.choice.patterns.iter().any(|p| *p == t.name)
        };
        let asked = self.whole.iter().any(bounded) || self.denylist.asks_for_version(&self.whole);
        self.image.is_none() && !self.whole.is_empty() && asked
    }

    /// Makes a flight for these tests and runs them; returns whether a tolerated test failed. Without tests it is only
    /// said that there were none.
    async fn on_platform(&mut self, tests: Vec<Arc<Test>>, out: &Path, context: &Context) -> Result<bool> {
        if tests.is_empty() && !self.asks_for_version() {
            let suite = harness::run(Vec::new(), &self.harness(out), context.cancel.clone()).await;
            return nothing(suite, out);
        }
        let mut recipe = Recipe::new(&context.command_line, self.options.order.seed());
        recipe.write(out)?;
        let flight = Arc::new(Flight::new(&self.setup, out, context).await?);
        let result = self.on_flight(&flight, tests, out, &context.cancel).await;
        let properties = write_properties(out, &self.setup, &flight, context);
        if let (Err(_), Some(image)) = (&result, flight.driver.image()) {
            // What failed can be run again on the same image.
            match recipe.of_image(image).await.and_then(|()| recipe.write(out)) {
                Ok(()) => {}
                Err(e) => mantle::warning!("kola", "{e:#}: kola replay cannot tell whether it is the same"),
            }
        }
        let left = flight.destroy().await;
        let warned = both(result, left)?;
        properties?;
        let version = self.image.as_deref().unwrap_or("unknown");
        mantle::debug!("kola", "image version {version}");
        Ok(warned)
    }

    /// What the harness is told of the run.
    fn harness(&self, out: &Path) -> harness::Options {
        harness::Options {
            output_dir: out.to_owned(),
            parallel: self.setup.parallel(),
            platform: self.setup.driver.name.to_owned(),
            version: self.version().as_ref().map(Version::to_string).unwrap_or_default(),
            progress: harness::Progress::detect(),
            ordered: true,
            rerun: self.options.rerun(),
            share: harness::Share {
                names: Some(self.whole.iter().map(|test| test.name.to_string()).collect()),
                ..self.share.clone()
            },
        }
    }

    /// The run proper, between the making and the end of the flight; returns whether a tolerated test failed.
    async fn on_flight(
        &mut self,
        flight: &Arc<Flight>,
        mut tests: Vec<Arc<Test>>,
        out: &Path,
        cancel: &CancellationToken,
    ) -> Result<bool> {
        if self.asks_for_version() {
            self.image = image_version(flight, out, cancel).await?;
            if self.image.is_none() && cancel.is_cancelled() && self.share.part.is_some() {
                // With another list of tests than the other shares have nothing could be said of this one.
                return Err(Stop::Interrupted.into());
            }
            let chosen = self.choose()?;
            tests = self.prepare(chosen).await?;
            if tests.is_empty() {
                let suite = harness::run(Vec::new(), &self.harness(out), cancel.clone()).await;
                return nothing(suite, out);
            }
        }
        let options = self.harness(out);
        self.order.sort(&mut tests, options.parallel);
        let kinds = self.kinds(&tests);
        if self.setup.general.warm {
            tell_kinds(&kinds, tests.len());
        }
        let case = |test: Arc<Test>| {
            let boots = kinds.get(&self.kind(&test)).is_none_or(|tests| *tests < 2);
            self.case(test, flight, boots, cancel)
        };
        let cases = tests.into_iter().map(case).collect();
        let suite = harness::run_then(cases, &options, cancel.clone(), async || flight.end().await).await;
        let copied =
            self.setup.general.tapfile.as_ref().map(|to| copy(&out.join("test.tap"), to)).unwrap_or(Ok(()));
        if let Ok(summary) | Err(harness::Error::Failed(summary)) = &suite {
            self.order.learn(summary);
            tell_end(summary, out, self.options.only.is_empty())?;
            tell_github(summary, &format!("kola on {}", self.setup.driver.name))?;
        }
        let verdict = if suite.is_ok() { "PASS" } else { "FAIL" };
        mantle::output::line(format_args!("{verdict}, output in {}", out.display()))?;
        let warned = suite?.count(Outcome::Warn) > 0;
        copied?;
        Ok(warned)
    }

    /// What the one machine of a test is made with; `None` if it has several, or makes them itself: those tell each other
    /// apart by more than is renewed when they go on from one state.
    fn kind(&self, test: &Test) -> Option<Kind> {
        let config = test.config(self.setup.target.distribution).map(Cow::into_owned);
        let plain = test.machine.is_usual() && !test.skips_base_checks();
        (test.cluster_size == 1 && plain).then(|| (config, test.flags.clone()))
    }

    /// How many of the tests have the same kind of machine.
    fn kinds(&self, tests: &[Arc<Test>]) -> HashMap<Option<Kind>, usize> {
        let mut kinds = HashMap::new();
        for kind in tests.iter().map(|test| self.kind(test)).filter(Option::is_some) {
            *kinds.entry(kind).or_insert(0) += 1;
        }
        kinds
    }

    /// The harness's view of a test; with `boots`, its machines boot.
    fn case(&self, test: Arc<Test>, flight: &Arc<Flight>, boots: bool, cancel: &CancellationToken) -> Case {
        let job = Arc::new(Job {
            boots,
            shell: self.options.ssh_on_test_failure,
            cancel: cancel.clone(),
            missing: test.missing_features(&self.selection(flight.driver.lacking())),
            flight: flight.clone(),
            shared: self.shared.clone(),
            consoles_warn: self.consoles_warn,
            test,
        });
        let more = f64::from(self.options.extend_timeout_percentage) / 100.0;
        let timeout = job.test.timeout.mul_f64(flight.driver.slowness() * (1.0 + more));
        Case::new(job.test.name.clone(), timeout, move |t| {
            let job = job.clone();
            async move { job.run(t).await }
        })
    }

    fn selection<'a>(&'a self, lacking: &'a [(&'static str, &'static str)]) -> Selection<'a> {
        Selection {
            driver: self.setup.driver,
            distribution: self.setup.target.distribution,
            architecture: &self.shared.architecture,
            version: self.version(),
            features: &self.shared.features,
            lacking,
        }
    }

    /// The tests for this image.
    fn choose(&self) -> Result<Chosen> {
        let chosen = register::select(&self.tests, &self.choice, &self.selection(&[]))?;
        let denied = |pattern: &String| choice::matches_one(pattern, &self.unread);
        if !chosen.tests.is_empty() || self.choice.patterns.iter().any(denied) {
            return Ok(chosen);
        }
        let (platform, distribution) = (self.setup.driver.name, self.setup.target.distribution.name);
        let mut report =
            eyre!("harness: no tests to run on platform {platform} for distribution {distribution}");
        if chosen.left_out.is_empty() {
            let asked: Vec<String> = self
                .choice
                .patterns
                .iter()
                .cloned()
                .chain(self.choice.tags.iter().map(|t| format!("tag {t}")))
                .collect();
            report = report
                .wrap_err(format!("no test matches {}", asked.join(", ")))
                .suggestion("`kola list` shows all tests; `*` and `?` are wildcards");
        }
        report = choice::with_guesses(report, &self.choice, &self.tests);
        for (name, reason) in chosen.left_out.iter().take(10) {
            report = report.note(format!("{name} {reason}"));
        }
        if chosen.left_out.len() > 10 {
            report = report.note(format!("and {} more", chosen.left_out.len() - 10));
        }
        Err(report)
    }
}

/// The end of a run without tests, which is as it should be.
fn nothing(suite: std::result::Result<harness::Summary, harness::Error>, out: &Path) -> Result<bool> {
    match suite {
        Ok(_) | Err(harness::Error::NoTests) => {}
        Err(e) => return Err(e.into()),
    }
    mantle::output::line(format_args!("PASS, no tests here, output in {}", out.display()))?;
    Ok(false)
}

/// One test of a run; it may be run again.
struct Job {
    test: Arc<Test>,
    flight: Arc<Flight>,
    shared: Arc<Shared>,
    /// What the test needs and does not get here.
    missing: Vec<String>,
    /// No other test has machines of the same kind.
    boots: bool,
    /// People get a shell on its machine when it has failed.
    shell: bool,
    cancel: CancellationToken,
    consoles_warn: bool,
}

impl Job {
    /// One test: cluster, machines, body, destruction, checks of what the machines said.
    async fn run(&self, t: T) -> Result<()> {
        if !self.missing.is_empty() {
            return Err(harness::skip(format!("needs {}", self.missing.join(", "))));
        }
        let test = &self.test;
        if let Some(reason) = test.tolerated() {
            t.tolerate(reason);
        }
        let _ports = self.shared.hold_ports(&test.host_ports).await;
        let departures = Departures {
            no_ssh_key_in_user_data: test.has(Flag::NoSshKeyInUserData),
            no_ssh_key_in_metadata: test.has(Flag::NoSshKeyInMetadata),
            no_enable_selinux: test.has(Flag::NoEnableSelinux),
            allow_failed_units: test.skips_base_checks(),
            ignored_badness: test.ignored_badness(),
            boots: self.boots,
            ..Departures::default()
        };
        let deployment = self.flight.new_cluster(t.output_dir()?, departures)?;
        t.set_fail_fast(test.fail_fast);
        let cluster = TestCluster::new(t.clone(), deployment.clone(), test.clone(), self.shared.clone());
        let body = {
            let (test, deployment) = (test.clone(), deployment.clone());
            async move {
                start_machines(&cluster, &deployment, &test).await?;
                (test.body)(cluster).await
            }
        };
        let result = t.body_on(deployment.lost(), body).await;
        let failed = t.failed() || result.as_ref().is_err_and(harness::is_failure);
        // A test may have failed because it could not reach a machine, or may have been waiting for one.
        let silence = if failed { deployment.silence().await } else { None };
        if failed && silence.is_none() && self.shell {
            self.show(&t, &deployment).await;
        }
        let evidence = deployment.destroy().await;
        // First, as it is the cause of what is found below.
        t.settle(result);
        if let Some(silence) = &silence {
            t.blame(silence);
        }
        for machine in &evidence {
            for leftover in &machine.left {
                t.error(leftover);
            }
            if !test.skips_base_checks() {
                check_evidence(&t, machine, &test.ignored_badness(), self.consoles_warn);
            }
        }
        Ok(())
    }
}

impl Job {
    /// A shell on the first machine of a test that has failed, until people leave it.
    async fn show(&self, t: &T, deployment: &Deployment) {
        let Some(machine) = deployment.guests().into_iter().next() else { return };
        mantle::notice!(
            "kola",
            "{} has failed; this is its machine {}, until you leave it",
            t.name(),
            machine.id()
        );
        let term = std::env::var("TERM").unwrap_or_default();
        let left = tokio::select! {
            left = machine.client().shell(&term) => left,
            _ = machine.ended() => return,
            () = self.cancel.cancelled() => return,
        };
        if let Err(e) = left {
            mantle::warning!("kola", "no shell on machine {}: {}", machine.id(), chain(&e));
        }
    }
}

async fn start_machines(cluster: &TestCluster, deployment: &Arc<Deployment>, test: &Test) -> Result<()> {
    if test.cluster_size == 0 {
        return Ok(());
    }
    let mut user_data = cluster.user_data();
    if let Some(data) = &user_data
        && data.contains("$discovery")
    {
        let url = match cluster.local() {
            Ok(local) => local.discovery_url(test.cluster_size).await.map_err(|e| chain(&e)),
            // Machines that do not reach kola reach what everybody does.
            Err(_) => discovery::public_url(test.cluster_size).await.map_err(|e| chain(&e)),
        };
        let url = url.map_err(|e| harness::skip(format!("Failed to create discovery endpoint: {e}")))?;
        user_data = Some(data.subst("$discovery", &url));
    }
    deployment
        .new_machines(user_data.as_ref(), &test.machine, test.cluster_size)
        .await
        .map_err(blame)
        .wrap_err("Cluster failed starting machines")?;
    if !test.native.is_empty() {
        let machines = cluster.machines();
        futures_util::future::try_join_all(machines.iter().map(|m| cluster.drop_kolet(m))).await?;
    }
    Ok(())
}

/// Looks through what a machine said for signs of trouble; finds become failures of the test.
fn check_evidence(t: &T, machine: &Evidence, ignored: &[badness::Flag], only_warn: bool) {
    let sources = [
        ("console", badness::Source::Console, &machine.console),
        ("journal", badness::Source::Journal, &machine.journal),
    ];
    for (name, source, text) in sources {
        let mut scanner = badness::Scanner::new(source, ignored);
        scanner.push(text);
        for finding in scanner.finish() {
            if let Some(cause) = finding.cause {
                t.suspect(cause);
            }
            if source == badness::Source::Console && machine.told == Some(finding.label) {
                continue;
            }
            let text = format!("Found {finding} on machine {} {name}", machine.id);
            match finding.severity {
                badness::Severity::Fail if !only_warn => t.error(text),
                badness::Severity::Fail | badness::Severity::Warn => t.log(format_args!("warning: {text}")),
            }
        }
    }
}

/// Says how the run ended: each test that failed with its line that matters and what its machines left, then the
/// counts. With `again`, also how to run what did not pass once more.
pub(super) fn tell_end(summary: &harness::Summary, out: &Path, again: bool) -> Result<()> {
    use mantle::output::line;
    if !summary.bad.is_empty() {
        line("Not passed:")?;
    }
    for record in &summary.bad {
        let kind = match (record.outcome, record.cause) {
            (Outcome::Fail, None) => String::new(),
            _ => format!(" ({})", record.kind()),
        };
        let (name, headline) = (&record.name, record.headline());
        line(format_args!("    {name}{kind}: {headline}"))?;
        for run in record.earlier.iter().map(AsRef::as_ref).chain([&**record]) {
            for file in said_by_machines(&harness::folder_of_attempt(out, name, run.attempt), name) {
                line(format_args!("        {}", file.display()))?;
            }
        }
    }
    if !summary.bad.is_empty() && again {
        line(format_args!("To run them again: kola replay {}", ssh::quote(&out.display().to_string())))?;
    }
    if !summary.not_rerun.is_empty() {
        let names = summary.not_rerun.join(" ");
        line(format_args!("Not run again, as --rerun-limit allows no more: {names}"))?;
    }
    if !summary.flaky.is_empty() {
        line("Failed, and passed when run again:")?;
    }
    for record in &summary.flaky {
        line(format_args!("    {}: {}", record.name, record.headline()))?;
    }
    line(format_args!("{summary} in {} s", summary.lasted.as_secs()))?;
    Ok(())
}

/// Annotates the run, and adds to its page, in a workflow of GitHub Actions.
pub(super) fn tell_github(summary: &harness::Summary, heading: &str) -> Result<()> {
    if std::env::var_os("GITHUB_ACTIONS").is_none_or(|on| on != "true") {
        return Ok(());
    }
    for command in harness::github::annotations(summary) {
        mantle::output::line(command)?;
    }
    let Some(page) = std::env::var_os("GITHUB_STEP_SUMMARY").filter(|p| !p.is_empty()) else { return Ok(()) };
    let add = || {
        let mut page = std::fs::File::options().append(true).create(true).open(&page)?;
        page.write_all(harness::github::step_summary(summary, heading).as_bytes())
    };
    add().wrap_err_with(|| format!("cannot add to GITHUB_STEP_SUMMARY, {}", Path::new(&page).display()))
}

/// The consoles and journals in the folder of a test, and what an external one has said, as far as there is something
/// in them.
fn said_by_machines(folder: &Path, test: &str) -> Vec<PathBuf> {
    let mut machines: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    machines.sort();
    let files = machines.iter().flat_map(|machine| {
        let own = format!("{test}.txt");
        [mantle::platform::CONSOLE_FILE, mantle::journal::TEXT_FILE, &own].map(|name| machine.join(name))
    });
    files.filter(|file| std::fs::metadata(file).is_ok_and(|m| m.len() > 0)).collect()
}

/// How many tests will not boot machines of their own.
fn tell_kinds(kinds: &HashMap<Option<Kind>, usize>, tests: usize) {
    let shared = kinds.values().filter(|tests| **tests > 1);
    let (count, warm) = shared.fold((0, 0), |(count, sum), tests| (count + 1, sum + tests));
    let kinds = match count {
        0 => {
            return mantle::notice!(
                "kola",
                "all tests boot machines of their own: no two need the same kind"
            );
        }
        1 => "one kind of machine, which boots once".to_owned(),
        n => format!("{n} kinds of machines, each of which boots once"),
    };
    let rest = if warm < tests { "; the others boot their own" } else { "" };
    mantle::notice!("kola", "{warm} of {tests} tests need {kinds}{rest}");
}

/// One line for each reason, so that nothing is left out in silence.
fn left_out(chosen: &Chosen) -> Vec<String> {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, reason) in &chosen.left_out {
        reasons.entry(reason).or_default().push(name);
    }
    let line = |(reason, names): (&str, Vec<&str>)| match names.len() {
        1 => format!("left out {}: it {reason}", names[0]),
        n => format!("left out {n} tests, as each {reason}: {}", names.join(" ")),
    };
    reasons.into_iter().map(line).collect()
}

/// Makes Ignition of a test's Butane config.
async fn translate(test: &mut Arc<Test>) -> Result<()> {
    let Some(config @ Config::Butane(_)) = &test.user_data else { return Ok(()) };
    let user_data = config.user_data();
    let strict = test.strict_config;
    let made = if strict { user_data.translated_strictly().await } else { user_data.translated().await };
    let made = made.wrap_err_with(|| format!("{} cannot be run: its config.bu", test.name)).suggestion(
        "install butane (https://coreos.github.io/butane/), or keep what it makes of the config as config.ign beside it",
    )?;
    Arc::make_mut(test).user_data = Some(Config::Ignition(made.text().to_owned().into()));
    Ok(())
}

/// Asks a machine without userdata for its version: only when nothing else tells it. `None` also when the run is
/// interrupted meanwhile: no test will start.
async fn image_version(flight: &Flight, out: &Path, cancel: &CancellationToken) -> Result<Option<String>> {
    mantle::info!("kola", "Creating cluster to check the image's version");
    let cluster = flight.new_cluster(out.join("get_cluster_semver"), Departures::default())?;
    let ask = async {
        let machine = cluster.new_machine(None, MachineOptions::default()).await?;
        let text = machine.ssh(". /etc/os-release && echo \"$VERSION_ID\"").await?.stdout;
        Ok::<_, color_eyre::Report>(text)
    };
    let answer = tokio::select! {
        answer = ask => Some(answer),
        how = cluster.lost() => Some(Err(how.into())),
        () = cancel.cancelled() => None,
    };
    cluster.destroy().await;
    let Some(answer) = answer else { return Ok(None) };
    let text = answer.wrap_err("finding out the image's version")?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn existing(payload: Option<&Path>) -> Result<()> {
    match payload {
        Some(p) if !p.is_file() => Err(eyre!("update payload {} is not a file", p.display())),
        _ => Ok(()),
    }
}

/// Copies a report to where somebody wants it.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    let put = || -> std::io::Result<()> {
        let mut report = std::fs::File::open(from)?;
        let fresh = Fresh::new(Target::of(to).map_err(std::io::Error::other)?, 0o666)?;
        std::io::copy(&mut report, &mut fresh.file())?;
        fresh.commit()
    };
    put().wrap_err_with(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

/// Writes properties.json: what was run, on what, with which options. Secrets are masked.
fn write_properties(out: &Path, setup: &Setup, flight: &Flight, context: &Context) -> Result<()> {
    let mut root = serde_json::Map::new();
    root.insert("cmdline".into(), context.command_line.clone().into());
    root.insert("platform".into(), setup.driver.name.into());
    root.insert("distro".into(), setup.target.distribution.name.into());
    root.insert("board".into(), setup.target.board.clone().into());
    for driver in DRIVERS.iter().filter(|d| !d.hidden || d.name == setup.driver.name) {
        if root.contains_key(driver.properties_key) {
            continue;
        }
        let mut values = driver.read(&setup.matches)?.properties()?;
        if driver.properties_key == setup.driver.properties_key
            && let Some(values) = values.as_object_mut()
        {
            values.extend(flight.driver.properties());
        }
        root.insert(driver.properties_key.into(), values);
    }
    let mut text = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut writer = serde_json::Serializer::with_formatter(&mut text, format);
    serde::Serialize::serialize(&root, &mut writer)?;
    text.push(b'\n');
    let path = out.join("properties.json");
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .and_then(|mut file| file.write_all(&text))
        .wrap_err_with(|| format!("cannot write {}", path.display()))
}

/// The positional arguments: at most one was allowed upstream; several patterns are a union here.
pub fn patterns(matches: &ArgMatches) -> Result<Vec<String>> {
    let given: Vec<String> = matches.get_many("pattern").map(|v| v.cloned().collect()).unwrap_or_default();
    for pattern in &given {
        if let Err(e) = mantle::glob::matches(pattern, "") {
            bail!("{e}: {pattern}");
        }
    }
    Ok(given)
}
