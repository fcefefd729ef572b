//! `plume rehearse`: a release at doubles of all clouds, on this machine.
//!
//! The doubles run in this process. The stages of the release are processes of their own, whose environment is made from
//! nothing: no account, endpoint or setting of the user's is there to be found, and what asks for a server outside meets
//! a proxy that leads nowhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use ::mantle::applet::Context;
use ::mantle::args::{self, id};
use ::mantle::doubles::world::{Order, State, World};
use ::mantle::doubles::{Faults, sample};
use ::mantle::error::{Result, Section as _, Stop, WrapErr as _, eyre};
use ::mantle::folders::Unusable;
use ::mantle::process::Command as Child;
use ::mantle::publish::PROVIDERS;
use ::mantle::release::version::{FILE_NAME, Versions};
use ::mantle::release::{CHANNELS, Selection, Table, user};
use ::mantle::{input, notice, output, sdk};
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;

use super::release;
use crate::downloads;

/// The form of the report that `--json` prints.
const VERSION: u32 = 1;

/// The version of a sample build, unless another is asked for.
const SAMPLE: &str = "1.0.0";

/// How long a stage may take to obey when it is interrupted.
const GRACE: Duration = Duration::from_secs(10);

/// How often a stage is tried where some requests go wrong.
const TRIES: usize = 3;

/// The bucket with the build, if the table has it elsewhere than in Google Storage.
const SOURCE: &str = "gs://rehearsal-builds/{board}/{version}";

/// The subcommand.
pub fn command() -> Command {
    let option = |id: &'static str, value: &'static str| Arg::new(id).long(id).value_name(value);
    let folder = |id| option(id, "DIR").value_parser(args::path_parser()).value_hint(ValueHint::DirPath);
    let command = Command::new("rehearse").about("Rehearse a release on this machine, without any account").long_about(
        "Do all of a release at doubles of the clouds that run on this machine: `plume plan`, `plume pre-release`, `plume \
         release` and `plume verify`, as they are, to the places that the channel table names. No account is needed, none \
         is used, and no other machine is asked anything.\n\n\
         Without --build a small signed build is made up. Images are unpacked below $TMPDIR, and removed in the end.",
    );
    release::which(command)
        .arg(release::platforms(None))
        .arg(folder("build").help("Folder with the files of a build [default: a sample is made up]"))
        .arg(release::verify_key())
        .arg(
            option("faults", "PERCENT")
                .default_value("0")
                .value_parser(percent)
                .help("Let so many of a hundred requests go wrong: refused for now, not heard, answers lost"),
        )
        .arg(
            option("seed", "N")
                .default_value("1")
                .value_parser(clap::value_parser!(u64))
                .help("With another number, other requests go wrong"),
        )
        .arg(
            folder("keep")
                .help("New folder for all that was released: objects, blobs, and records of images"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("Print one document of JSON: the plan, what was found in the end, and what is where"),
        )
}

/// A share of a hundred, in millionths.
fn percent(text: &str) -> Result<u64, String> {
    let number: Option<f64> = text.strip_suffix('%').unwrap_or(text).trim().parse().ok();
    match number.filter(|n| (0.0..=50.0).contains(n)) {
        Some(number) => Ok((number * 10_000.0).round() as u64),
        None => Err("it is no number from 0 to 50".into()),
    }
}

/// A rehearsal that has begun.
struct Rehearsal<'a> {
    context: &'a Context,
    world: World,
    folder: &'a Path,
    /// What stands before the name of a stage.
    global: Vec<String>,
    /// What follows it.
    which: Vec<String>,
    verify_key: Option<String>,
    faults: Faults,
}

/// Rehearses.
pub async fn run(matches: &ArgMatches, context: &Context) -> Result<()> {
    let started = Instant::now();
    let keep = downloads::path(matches, "keep");
    if let Some(keep) = &keep {
        let mut there = match std::fs::read_dir(keep) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            there => Some(there.map_err(Unusable::at(keep))?),
        };
        if there.as_mut().is_some_and(|there| there.next().is_some()) {
            return Err(eyre!("--keep={}: there is something already", keep.display()));
        }
    }
    let places = release::places(&args::strings(matches, "platform"), ::mantle::publish::Stage::Whole)?;
    let folder = tempfile::Builder::new().prefix("mantle-rehearsal-").tempdir();
    let folder = folder.wrap_err("cannot make a temporary folder")?;
    let (selection, channels) = select(matches, &folder)?;
    let build = downloads::path(matches, "build");
    let (build, own_key) = match build {
        Some(build) => (build, None),
        None => {
            let (selection, folder) = (selection.clone(), folder.path().to_owned());
            let made = tokio::task::spawn_blocking(move || sample::make(&selection, &folder)).await??;
            (made.folder, Some(made.key))
        }
    };
    let key = own_key.or_else(|| downloads::path(matches, "verify-key"));
    let verify_key = match key {
        Some(key) => Some(format!("--verify-key={}", std::path::absolute(&key)?.display())),
        None => None,
    };
    let from = build.clone();
    let files = tokio::task::spawn_blocking(move || files(&from)).await??;
    if !files.contains_key(FILE_NAME) {
        let report = eyre!("{}: there is no {FILE_NAME}", build.display());
        return Err(report.suggestion("a build without that file is none, or is not complete"));
    }
    let share = matches.get_one::<u64>("faults").copied().unwrap_or_default();
    let faults = Faults { share, seed: matches.get_one::<u64>("seed").copied().unwrap_or_default() };
    let order = Order { selection: &selection, files: &files, folder: folder.path(), faults };
    let world = World::start(&order).await?;
    let rehearsal = Rehearsal {
        context,
        folder: folder.path(),
        global: global(matches, &channels, &world),
        which: which(&selection, &places),
        verify_key,
        faults,
        world,
    };
    let name = format!(
        "{} {} {} {}",
        super::text(matches, "distro").unwrap_or("cl"),
        selection.channel,
        selection.board,
        selection.version
    );
    notice!("plume", "Rehearsing {name}: nothing of it leaves this machine");
    let done = rehearsal.run(&places, args::flag(matches, "json")).await;
    if let Some(keep) = keep {
        let kept = tokio::task::block_in_place(|| {
            std::fs::create_dir_all(&keep).and_then(|()| rehearsal.world.keep(&keep))
        });
        kept.map_err(Unusable::at(&keep))?;
    }
    let (plan, verified) = done?;
    let strangers = rehearsal.world.strangers();
    if !strangers.is_empty() {
        return Err(eyre!("the release wants more than was rehearsed: {}", strangers.join(", ")));
    }
    let (state, asked, seconds) =
        (rehearsal.world.state(), rehearsal.world.asked(), started.elapsed().as_secs_f64());
    if args::flag(matches, "json") {
        let report = json!({
            "version": VERSION,
            "release": name,
            "seconds": (seconds * 1000.0).round() / 1000.0,
            "faults": { "percent": share as f64 / 10_000.0, "seed": faults.seed },
            "plan": plan,
            "verify": verified,
            "requests": asked,
            "state": state,
        });
        output::line(serde_json::to_string_pretty(&report)?)?;
        return Ok(());
    }
    output::line(format!("Rehearsed {name} in {seconds:.1} s"))?;
    for line in summary(&state) {
        output::line(format!("  {line}"))?;
    }
    for asked in &asked {
        let wrong = match asked.faults {
            0 => String::new(),
            n => format!(", {n} of them went wrong"),
        };
        output::line(format!("  {:<5}  {} requests{wrong}", asked.service, asked.requests))?;
    }
    Ok(())
}

/// What is released, and a table that has its build in Google Storage.
fn select(matches: &ArgMatches, folder: &TempDir) -> Result<(Selection, PathBuf)> {
    let table = super::table(matches)?;
    let given = |id: &str| super::text(matches, id).map(str::to_owned);
    let (distro, channel) =
        (given("distro").unwrap_or_else(|| "cl".into()), given("channel").unwrap_or_default());
    let board = given("board").unwrap_or_else(sdk::default_board);
    let version = match (given("version"), downloads::path(matches, "build")) {
        (Some(version), _) => version,
        (None, Some(build)) => {
            Versions::of_folder(&build).map_err(|e| eyre!(e).suggestion("or pass --version"))?.version
        }
        (None, None) => sdk::manifest_version().unwrap_or_else(|| SAMPLE.into()),
    };
    let selection =
        super::distribution(&table, matches)?.select(&channel, &board, &version, user().as_deref());
    let selection = selection.map_err(super::explain)?;
    let mut text = match downloads::path(matches, "channels") {
        Some(path) => input::read_to_string(&path).map_err(Unusable::at(&path))?,
        None => CHANNELS.to_owned(),
    };
    let at = folder.path().join("channels.yaml");
    let is_stored = selection.source.starts_with("gs://");
    if !is_stored {
        notice!("plume", "{} is rehearsed as a folder of Google Storage", selection.source);
        let mut document: serde_yaml::Value = serde_yaml::from_str(&text)?;
        document["distributions"][distro.as_str()]["channels"][channel.as_str()]["source"] = SOURCE.into();
        text = serde_yaml::to_string(&document)?;
    }
    std::fs::write(&at, text).map_err(Unusable::at(&at))?;
    if is_stored {
        return Ok((selection, at));
    }
    let table = Table::read(&at)?;
    let selection =
        super::distribution(&table, matches)?.select(&channel, &board, &version, user().as_deref());
    Ok((selection.map_err(super::explain)?, at))
}

/// The files of a folder, by their names below it. Blocks.
fn files(folder: &Path) -> Result<BTreeMap<String, PathBuf>, Unusable> {
    let (mut files, mut folders) = (BTreeMap::new(), vec![(String::new(), folder.to_owned())]);
    while let Some((prefix, folder)) = folders.pop() {
        let entries = std::fs::read_dir(&folder).map_err(Unusable::at(&folder))?;
        for entry in entries {
            let entry = entry.map_err(Unusable::at(&folder))?;
            let path = entry.path();
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            // Links to files are files, those to folders would lead around.
            if entry.file_type().map_err(Unusable::at(&path))?.is_dir() {
                folders.push((format!("{name}/"), path));
            } else if path.metadata().map_err(Unusable::at(&path))?.is_file() {
                files.insert(name, path);
            }
        }
    }
    Ok(files)
}

fn global(matches: &ArgMatches, channels: &Path, world: &World) -> Vec<String> {
    let mut words = vec![
        "--no-config".to_owned(),
        format!("--channels={}", channels.display()),
        format!("--gce-json-key={}", world.google_key().display()),
    ];
    words.extend(super::text(matches, "distro").map(|distro| format!("--distro={distro}")));
    let is_set = |id: &str| matches.try_get_one::<bool>(id).ok().flatten().copied().unwrap_or_default();
    words.extend(is_set(id::LOG_VERBOSE).then(|| "--verbose".to_owned()));
    words.extend(is_set(id::LOG_DEBUG).then(|| "--debug".to_owned()));
    words
}

fn which(selection: &Selection, places: &[String]) -> Vec<String> {
    let Selection { channel, board, version, .. } = selection;
    let mut words =
        vec![format!("--channel={channel}"), format!("--board={board}"), format!("--version={version}")];
    words.extend((!places.is_empty()).then(|| format!("--platform={}", places.join(","))));
    words
}

impl Rehearsal<'_> {
    /// All stages; what the plan said, and what was found in the end, if that is to be told as JSON.
    async fn run(&self, places: &[String], json: bool) -> Result<(Value, Value)> {
        let form = json.then(|| "--json".to_owned());
        let key = self.verify_key.clone();
        let plan = self.stage("plan", form.clone().into_iter().collect(), None, json).await?;
        let prepared: Vec<&str> = PROVIDERS.iter().filter(|p| p.prepares()).map(|p| p.name()).collect();
        let prepared: Vec<&str> = prepared
            .into_iter()
            .filter(|p| places.is_empty() || places.iter().any(|place| place == p))
            .collect();
        if !prepared.is_empty() {
            let only = Some(format!("--platform={}", prepared.join(",")));
            self.stage("pre-release", key.clone().into_iter().collect(), only, false).await?;
        }
        self.stage("release", Vec::new(), None, false).await?;
        let verified = self.stage("verify", form.into_iter().chain(key).collect(), None, json).await?;
        Ok((plan, verified))
    }

    /// A stage, in a process that knows nothing but this world. `platforms`: others than the rest has.
    async fn stage(
        &self,
        name: &str,
        more: Vec<String>,
        platforms: Option<String>,
        read: bool,
    ) -> Result<Value> {
        let which = self.which.iter().filter(|word| platforms.is_none() || !word.starts_with("--platform="));
        let mut words: Vec<String> = self.global.iter().cloned().chain([name.to_owned()]).collect();
        words.extend(which.cloned().chain(platforms.clone()).chain(more));
        words.push(format!("--aws-credentials={}", self.world.aws_credentials().display()));
        words.push(format!("--azure-profile={}", self.world.azure_profile().display()));
        words.push(format!("--azure-auth={}", self.world.azure_auth().display()));
        let mut tries = if self.faults.share > 0 { TRIES } else { 1 };
        loop {
            tries -= 1;
            match self.process(&words, read).await? {
                (true, text) if read => return Ok(serde_json::from_str(&text)?),
                (true, _) => return Ok(Value::Null),
                (false, _) if tries > 0 => {
                    notice!("plume", "`plume {name}` again: it goes on where it stopped")
                }
                (false, _) => return Err(eyre!("the rehearsal has ended at `plume {name}`")),
            }
        }
    }

    /// Whether it ended well, and what it has printed.
    async fn process(&self, words: &[String], read: bool) -> Result<(bool, String)> {
        let mut child =
            Child::new("/proc/self/exe").arg0("plume").args(words).env_clear().current_dir(self.folder);
        for (name, value) in self.world.environment() {
            child = child.env(name, value);
        }
        // What a terminal looks like, and whose the release is, are no accounts.
        for name in ["TERM", "NO_COLOR"] {
            if let Some(value) = std::env::var_os(name) {
                child = child.env(name, value);
            }
        }
        if let Some(user) = user() {
            child = child.env("USER", user);
        }
        if read {
            child = child.stdout(Stdio::piped());
        }
        let mut child = child.spawn().await?;
        let stdout = child.stdout.take();
        let ended = async {
            let mut text = String::new();
            if let Some(mut stdout) = stdout {
                stdout.read_to_string(&mut text).await?;
            }
            Ok::<_, std::io::Error>((child.wait().await, text))
        };
        match self.context.cancel.run_until_cancelled(ended).await {
            Some(ended) => {
                let (status, text) = ended?;
                Ok((status.success(), text))
            }
            None => {
                child.stop(GRACE).await;
                Err(Stop::Interrupted.into())
            }
        }
    }
}

/// What is where, a line each.
fn summary(state: &State) -> Vec<String> {
    let mut lines = Vec::new();
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    for (region, there) in state.aws.regions.iter().filter(|(_, there)| !there.images.is_empty()) {
        let images: Vec<String> = there
            .images
            .iter()
            .map(|i| format!("{} {} ({})", i.id, i.name, if i.is_public() { "public" } else { "private" }))
            .collect();
        lines.push(format!("aws    {region}: {}", images.join(", ")));
    }
    for (name, azure) in &state.azure {
        for (image, there) in &azure.images {
            let whose = there.permission.as_deref().unwrap_or("private");
            lines.push(format!("azure  {name}: image {image} ({whose}) in {}", there.regions.join(", ")));
        }
        for (blob, there) in &azure.blobs {
            let finished = if there.md5.is_some() { "" } else { ", not finished" };
            lines.push(format!("azure  {name}: blob {blob}, {} bytes{finished}", there.size));
        }
    }
    for (name, image) in &state.gce {
        let family = image["family"].as_str().unwrap_or_default();
        let leads = match image["deprecated"]["state"].as_str() {
            Some("DEPRECATED" | "OBSOLETE" | "DELETED") => "deprecated",
            _ if family.is_empty() => "in no family",
            _ => "the newest of its family",
        };
        lines.push(format!("gce    image {name}: {leads}"));
    }
    for (bucket, there) in &state.gcs {
        let bytes: u64 = there.values().sum();
        lines.push(format!("gcs    gs://{bucket}: {}, {bytes} bytes", count(there.len(), "object")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_a_hundred() {
        assert_eq!(["0", "5%", "0.5", "50 %"].map(percent), [Ok(0), Ok(50_000), Ok(5_000), Ok(500_000)]);
        for bad in ["", "%", "-1", "51", "NaN", "five"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
    }
}
