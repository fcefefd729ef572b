//! `plume plan`, `plume pre-release`, `plume release`, `plume rollback` and `plume verify`.

use std::path::Path;

use ::mantle::applet::Context;
use ::mantle::args;
use ::mantle::cloud::aws::api::Api;
use ::mantle::cloud::azure::arm::Arm;
use ::mantle::cloud::google::Account as GoogleAccount;
use ::mantle::cloud::google::compute::{ALL_ZONES, Compute};
use ::mantle::cloud::google::sources::Choice;
use ::mantle::cloud::{aws, azure};
use ::mantle::error::{Result, Section as _, Stop, WrapErr as _, eyre, usage};
use ::mantle::http::CallError;
use ::mantle::publish::journal::Journal;
use ::mantle::publish::{
    self, Accounts, Build, Finding, PROVIDERS, Phase, Release, Stage, State, Step, World,
};
use ::mantle::release::{Error, user};
use ::mantle::text::{chain, did_you_mean};
use ::mantle::{info, notice, output, sdk, target};
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint};
use color_eyre::eyre::Report;
use serde_json::{Map, Value, json};

use super::gate;
use crate::downloads;

/// The form of the plan that `--json` prints.
const VERSION: u32 = 1;

fn option(id: &'static str, value: &'static str) -> Arg {
    Arg::new(id).long(id).value_name(value)
}

fn file(id: &'static str) -> Arg {
    option(id, "FILE").value_parser(args::path_parser()).value_hint(ValueHint::FilePath)
}

/// What says which release is meant, and whose clouds.
fn common(command: Command) -> Command {
    which(command)
        .arg(file("aws-credentials").help("AWS credentials file [default: as the AWS CLI does]"))
        .arg(file("azure-profile").help("Azure profile, or a file of publish settings [default: ~/.azure/azureProfile.json]"))
        .arg(file("azure-auth").help(
            "File with the credentials of an application at Azure, for channels without the classic API [default: \
             ~/.azure/credentials.json]",
        ))
}

/// What says which release is meant.
pub fn which(command: Command) -> Command {
    command
        .arg(
            option("board", "BOARD")
                .short('B')
                .help("Board [default: the SDK's default board, else this machine's]"),
        )
        .arg(
            option("channel", "CHANNEL")
                .short('C')
                .default_value("user")
                .value_parser(args::Choices(super::channels))
                .help("Channel of the table, or another of --channels"),
        )
        .arg(
            option("version", "VERSION")
                .short('V')
                .help("Version [default: that of .repo/manifests/version.txt below the SDK's root]"),
        )
}

/// `--platform`.
pub fn platforms(default: Option<&'static str>) -> Arg {
    let all: Vec<&str> = PROVIDERS.iter().map(|p| p.name()).collect();
    let prepared: Vec<&str> = PROVIDERS.iter().filter(|p| p.prepares()).map(|p| p.name()).collect();
    let arg = option("platform", "PLATFORM").value_delimiter(',').action(ArgAction::Append);
    match default {
        Some(default) => arg.default_value(default).help(format!(
            "Platforms to upload images to (repeatable, comma-separated): {}",
            prepared.join(", ")
        )),
        None => arg.help(format!(
            "Only these of {} (repeatable, comma-separated) [default: all that the channel is released to]",
            all.join(", ")
        )),
    }
}

fn dry_run() -> Arg {
    Arg::new("dry-run")
        .short('n')
        .long("dry-run")
        .action(ArgAction::SetTrue)
        .help("Only show what would be done; nothing is changed")
}

/// `--verify-key`.
pub fn verify_key() -> Arg {
    downloads::verify_key()
}

fn json_form() -> Arg {
    Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print one document of JSON")
}

fn mass_delete() -> Arg {
    Arg::new("allow-mass-delete")
        .long("allow-mass-delete")
        .action(ArgAction::SetTrue)
        .help("Go on even if most of what a folder of files has would be deleted")
}

/// The subcommands, in the order in which a release needs them.
pub fn commands() -> [Command; 5] {
    let before = Command::new("pre-release")
        .about("Run pre-release steps for CoreOS")
        .long_about(
            "Do everything of a release that can be done before anything is public: get the images, verified by their \
             signatures, upload them, make machine images of them and copy these to all regions, and write the lists of \
             images beside the build.\n\n\
             Whatever is there already is used: a repeated command goes on where the last one stopped. Nothing is begun \
             before all that can be known to be in the way has been looked at.",
        );
    let release = Command::new("release").about("Publish a new CoreOS release.").long_about(
        "Publish what `plume pre-release` made: images become public, then files are copied to where the public finds \
         them, and last of all that leads to the newest release is changed: image families, folders such as `current`, \
         index pages. That waits until every image is seen to be public.\n\n\
         With --test-gate, nothing becomes public before `kola run` has passed on the images; an image that has passed \
         is not tested again.\n\n\
         A repeated command goes on where the last one stopped.",
    );
    let plan = Command::new("plan").about("Show what a release would change, and where").long_about(
        "Look at everything that `plume pre-release` and `plume release` would do, and say of each step whether it is \
         done, to be done, or impossible, and why. Nothing is changed. Exit status 1: there is something impossible.",
    );
    let back = Command::new("rollback").about("Make what leads to the newest release lead to an older one").long_about(
        "Go back to a version that was released before: image families, folders such as `current` and index pages lead \
         to it again. Images of other versions stay public, and folders of versions stay as they are: whoever names them \
         still finds them. It is refused unless everything of the version is public.",
    );
    let verify = Command::new("verify").about("See whether a release is as it should be").long_about(
        "Look at everything that a release made: images in all regions and whether everybody may use them, the lists of \
         them, files and their signatures, and what leads to the newest release. Nothing is changed. Exit status 1: \
         something is not as the release left it, or as it would leave it.\n\n\
         Without an account at a cloud its images are left out, and that is said; files and what leads to them are looked \
         at as the public sees them.",
    );
    [
        gate::options(common(plan).arg(platforms(None)).arg(mass_delete()).arg(json_form())),
        common(before)
            .arg(platforms(Some("aws,azure")))
            .arg(verify_key())
            .arg(file("write-image-list").help("File for a list of the images, as JSON"))
            .arg(dry_run()),
        gate::options(common(release).arg(platforms(None)).arg(mass_delete()).arg(dry_run())),
        common(verify).arg(platforms(None)).arg(mass_delete()).arg(verify_key()).arg(json_form()),
        common(back).arg(platforms(None)).arg(mass_delete()).arg(dry_run()),
    ]
}

/// `plume pre-release`.
pub async fn before(matches: &ArgMatches, context: &Context) -> Result<()> {
    let job = Job::new(matches, Stage::Prepare, context)?;
    let world = World::new(&job.release, args::flag(matches, "dry-run"));
    job.run(&world).await?;
    if let (Some(path), false) = (downloads::path(matches, "write-image-list"), world.dry_run) {
        let list = image_list(&job, &world);
        write(&path, &list).await?;
    }
    if !world.dry_run {
        info!("plume", "Pre-release complete, run `plume release` to finish.");
    }
    Ok(())
}

/// `plume release`.
pub async fn release(matches: &ArgMatches, context: &Context) -> Result<()> {
    let job = Job::new(matches, Stage::Release, context)?;
    job.run(&World::new(&job.release, args::flag(matches, "dry-run"))).await
}

/// `plume rollback`.
pub async fn back(matches: &ArgMatches, context: &Context) -> Result<()> {
    let job = Job::new(matches, Stage::Rollback, context)?;
    job.run(&World::new(&job.release, args::flag(matches, "dry-run"))).await
}

/// `plume plan`.
pub async fn plan(matches: &ArgMatches, context: &Context) -> Result<()> {
    show(matches, Stage::Whole, context).await
}

/// `plume verify`.
pub async fn verify(matches: &ArgMatches, context: &Context) -> Result<()> {
    show(matches, Stage::Verify, context).await
}

/// Prints what a look at all steps finds.
async fn show(matches: &ArgMatches, stage: Stage, context: &Context) -> Result<()> {
    let mut job = Job::new(matches, stage, context)?;
    let left_out = match stage {
        Stage::Verify => job.leave_out().await,
        _ => Vec::new(),
    };
    let world = World::new(&job.release, true);
    let findings = job.look(&world).await?;
    if args::flag(matches, "json") {
        let mut plan = json!({"version": VERSION, "release": job.release.name(), "steps": findings});
        if stage == Stage::Verify {
            let item = |(place, why): &(&str, String)| json!({"place": place, "reason": why});
            plan["left_out"] = left_out.iter().map(item).collect();
        }
        output::line(serde_json::to_string_pretty(&plan)?)?;
    } else {
        let mut phase = None;
        for finding in &findings {
            if phase != Some(finding.phase) {
                output::line(format!("{}:", title(finding.phase)))?;
                phase = Some(finding.phase);
            }
            let state = match finding.state {
                State::Done => "done",
                State::Todo => "to do",
                State::Impossible if stage == Stage::Verify => "WRONG",
                State::Impossible => "IMPOSSIBLE",
                State::Unknown => "unknown",
            };
            output::line(format!("  {state:<10}  {}", finding.does))?;
            for detail in &finding.details {
                output::line(format!("{:14}{detail}", ""))?;
            }
        }
    }
    for (place, why) in &left_out {
        notice!("plume", "{place} was left out: {why}");
    }
    match findings.iter().filter(|f| f.state == State::Impossible).count() {
        0 => Ok(()),
        n if stage == Stage::Verify => {
            Err(eyre!("{n} of {} things are not as they should be", findings.len()))
        }
        n => Err(eyre!("{n} of {} steps cannot be done", findings.len())),
    }
}

fn title(phase: Phase) -> &'static str {
    match phase {
        Phase::Check => "Checks",
        Phase::Prepare => "Before the release (plume pre-release)",
        Phase::Publish => "Images become public (plume release, to the end)",
        Phase::Files => "Files of the version",
        Phase::Point => "What leads to the newest release",
        Phase::Retire => "What is not kept",
    }
}

/// A stage of a release.
struct Job {
    release: Release,
    steps: Vec<Step>,
    places: Vec<String>,
}

impl Job {
    fn new(matches: &ArgMatches, stage: Stage, context: &Context) -> Result<Self> {
        let table = super::table(matches)?;
        let distribution = super::distribution(&table, matches)?;
        let given = |id: &str| super::text(matches, id).map(str::to_owned);
        let board = given("board").unwrap_or_else(sdk::default_board);
        let version = given("version").or_else(sdk::manifest_version).unwrap_or_default();
        let channel = given("channel").unwrap_or_default();
        let selection = distribution.select(&channel, &board, &version, user().as_deref());
        let selection = selection.map_err(|e| match e {
            Error::Required("version") => super::explain(e).suggestion("pass --version"),
            e => super::explain(e),
        })?;
        let places = places(&args::strings(matches, "platform"), stage)?;
        let distro = super::text(matches, "distro").unwrap_or("cl");
        let gates = gate::read(matches, distro, &board, &places)?;
        let google = Choice { service: false, key: downloads::path(matches, "gce-json-key") };
        let key = matches.try_get_one::<std::path::PathBuf>("verify-key").ok().flatten();
        let keyring = downloads::keyring(key.map(std::path::PathBuf::as_path))?;
        let storage = downloads::storage(google.clone(), downloads::SCOPES)?;
        let engine = downloads::engine(google.clone(), downloads::SCOPES)?;
        let cache = sdk::cache_root()?.join("images").join(&channel).join(&board).join(&version);
        let build = Build::new(&selection.source, storage, engine, keyring, cache, ".".into());
        let azure = azure::Account {
            azure_profile: downloads::path(matches, "azure-profile"),
            azure_subscription: None,
            azure_auth: downloads::path(matches, "azure-auth"),
            azure_location: "westus".into(),
            azure_endpoint: None,
        };
        let aws_credentials = downloads::path(matches, "aws-credentials");
        let allow = matches.try_get_one::<bool>("allow-mass-delete").ok().flatten();
        let release = Release {
            distribution: super::text(matches, "distro").unwrap_or("cl").to_owned(),
            selection,
            date: chrono::Utc::now().date_naive(),
            build,
            accounts: Accounts { google, aws_credentials, azure },
            gates,
            allow_mass_delete: allow.copied().unwrap_or_default(),
            cancel: context.cancel.clone(),
        };
        let steps = publish::plan(&release, stage, &places);
        for provider in PROVIDERS.iter().filter(|p| stage != Stage::Prepare || p.prepares()) {
            let is_meant = places.is_empty() || places.iter().any(|p| p == provider.name());
            let begins = format!("{}/", provider.name());
            if is_meant && !steps.iter().any(|s| s.key.starts_with(&begins)) {
                notice!("plume", "{}: nothing to be done for {}", provider.name(), release.name());
            }
        }
        Ok(Self { release, steps, places })
    }

    /// Leaves out what nobody can look at who has no account: images. What is left is what the public reads.
    async fn leave_out(&mut self) -> Vec<(&'static str, String)> {
        let mut left_out = Vec::new();
        let is_planned = |place: &str| self.steps.iter().any(|s| is_of(s, place));
        let Accounts { google, aws_credentials, azure } = self.release.accounts.clone();
        let selection = &self.release.selection;
        let mut without = None;
        let amazon = selection.aws.iter().filter(|_| is_planned("aws"));
        for partition in amazon.flat_map(|aws| &aws.partitions) {
            let account = aws::Account {
                aws_region: Some(partition.bucket_region.clone()),
                aws_profile: Some(partition.profile.clone()),
                aws_credentials_file: aws_credentials.clone(),
                ..aws::Account::default()
            };
            // Where a machine may give keys, the first call tells whether it does.
            let called = match Api::new(&account).await {
                Ok(api) => api.caller().await.map(drop),
                Err(e) => Err(e),
            };
            if let Err(e @ CallError::Credentials { .. }) = called {
                without.get_or_insert_with(|| chain(&e));
            }
        }
        left_out.extend(without.filter(|_| aws_credentials.is_none()).map(|why| ("aws", why)));
        if let Some(facts) = selection.azure.as_ref().filter(|_| is_planned("azure")) {
            let without = match &facts.classic {
                Some(_) => {
                    let account = azure::classic::Account { azure_profile: None, azure_subscription: None };
                    let found = tokio::task::spawn_blocking(move || account.subscription()).await;
                    let absent = found.ok().and_then(Result::err).filter(|e| e.is_absent());
                    absent.filter(|_| azure.azure_profile.is_none()).map(|e| chain(&e))
                }
                None => match Arm::new(&azure) {
                    Err(e @ CallError::Credentials { .. }) if azure.azure_auth.is_none() => Some(chain(&e)),
                    _ => None,
                },
            };
            left_out.extend(without.map(|why| ("azure", why)));
        }
        if let (Some(facts), None) = (selection.gce.as_ref().filter(|_| is_planned("gce")), &google.key) {
            let account = GoogleAccount {
                gce_project: facts.project.clone(),
                gce_zone: ALL_ZONES.into(),
                gce_service_auth: google.service,
                gce_json_key: None,
                gce_endpoint: None,
            };
            if let Err(e @ CallError::Credentials { .. }) = Compute::new(&account, false).await {
                left_out.push(("gce", chain(&e)));
            }
        }
        if left_out.iter().any(|(place, _)| ["aws", "gce"].contains(place)) && is_planned("metadata") {
            left_out.push(("metadata", "it names images that were left out".into()));
        }
        self.steps.retain(|step| !left_out.iter().any(|(place, _)| is_of(step, place)));
        left_out
    }

    async fn look(&self, world: &World<'_>) -> Result<Vec<Finding>> {
        let name = self.release.name();
        let journal = tokio::task::spawn_blocking(move || Journal::look(&name)).await??;
        publish::survey(&self.steps, world, &journal).await.map_err(explain)
    }

    async fn run(&self, world: &World<'_>) -> Result<()> {
        if world.dry_run {
            let findings = self.look(world).await?;
            for finding in findings.iter().filter(|f| f.state == State::Todo) {
                notice!("plume", "Would {}", finding.does);
                finding.details.iter().for_each(|line| info!("plume", "  {line}"));
            }
            let impossible = findings.iter().filter(|f| f.state == State::Impossible);
            let lines: Vec<String> =
                impossible.map(|f| format!("cannot {}: {}", f.does, f.details.join("; "))).collect();
            return if lines.is_empty() { Ok(()) } else { Err(explain(publish::Error::Impossible(lines))) };
        }
        let name = self.release.name();
        let journal = tokio::task::spawn_blocking(move || Journal::open(&name)).await??;
        let findings = publish::survey(&self.steps, world, &journal).await.map_err(explain)?;
        for finding in findings.iter().filter(|f| f.state == State::Done && f.phase != Phase::Check) {
            info!("plume", "already done: {}", finding.does);
        }
        let unknown: Vec<&String> =
            findings.iter().filter(|f| f.state == State::Unknown).flat_map(|f| &f.details).collect();
        unknown.iter().for_each(|line| info!("plume", "not known: {line}"));
        if !unknown.is_empty() {
            notice!(
                "plume",
                "{} things cannot be known before the work; `plume plan` names them",
                unknown.len()
            );
        }
        publish::carry_out(&self.steps, &findings, world, &journal).await.map_err(explain)
    }
}

/// Whether a step is about a place.
fn is_of(step: &Step, place: &str) -> bool {
    step.key.strip_prefix(place).is_some_and(|rest| rest.starts_with('/'))
}

/// The platforms that were asked for.
pub fn places(names: &[String], stage: Stage) -> Result<Vec<String>> {
    let known: Vec<&str> =
        PROVIDERS.iter().filter(|p| stage != Stage::Prepare || p.prepares()).map(|p| p.name()).collect();
    let names: Vec<String> = names.iter().filter(|n| !n.is_empty()).cloned().collect();
    if let Some(name) = names.iter().find(|n| !known.contains(&n.as_str())) {
        let report =
            usage(format!("Unknown platform {name:?}")).suggestion(format!("known are {}", known.join(", ")));
        return Err(match did_you_mean(name, known.iter().copied()) {
            Some(question) => report.suggestion(question),
            None => report,
        });
    }
    Ok(names)
}

/// The images of the platforms that were uploaded to.
fn image_list(job: &Job, world: &World<'_>) -> Value {
    let mut list = Map::new();
    if let Some(amis) = world.known("aws/lists") {
        list.insert("aws".into(), amis);
    }
    let image = job.steps.iter().filter(|s| s.key.starts_with("azure/") && s.key.ends_with("/image"));
    if let Some(image) = image.filter_map(|s| world.known(&s.key)).next() {
        list.insert("azure".into(), image);
    } else if job.places.iter().any(|p| p == "azure") {
        let blob = job.steps.iter().filter(|s| s.key.starts_with("azure/")).find_map(|s| world.known(&s.key));
        list.extend(blob.map(|blob| ("azure".to_owned(), blob)));
    }
    list.into()
}

async fn write(path: &Path, list: &Value) -> Result<()> {
    let (to, text) = (path.to_owned(), format!("{}\n", serde_json::to_string_pretty(list)?));
    let written = tokio::task::spawn_blocking(move || target::replace(&to, 0o666, text.as_bytes())).await?;
    written.wrap_err_with(|| format!("cannot write {}", path.display()))
}

/// The error with advice.
fn explain(error: publish::Error) -> Report {
    match error {
        publish::Error::Interrupted => Stop::Interrupted.into(),
        publish::Error::Impossible(_) => eyre!(error)
            .wrap_err("nothing has been changed")
            .suggestion("`plume plan` shows all steps of the release"),
        publish::Error::Step { .. } | publish::Error::Several(_) => {
            eyre!(error).suggestion("the same command goes on where this one stopped")
        }
        publish::Error::Journal(_) => eyre!(error),
    }
}
