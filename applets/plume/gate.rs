//! The gate of `plume release`: kola, a process of its own, tests images before they are public.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::mantle::args;
use ::mantle::error::{Result, Section as _, usage};
use ::mantle::folders::Unusable;
use ::mantle::platform::distribution::Distribution;
use ::mantle::process;
use ::mantle::publish::gate::{Gate, Image, Tester, Verdict};
use ::mantle::publish::{Stopped, World};
use ::mantle::{info, notice};
use async_trait::async_trait;
use clap::{Arg, ArgAction, ArgMatches, Command};

/// The places whose images kola can start before they are public.
const PLACES: [&str; 2] = ["aws", "gce"];

/// How long kola may take to remove its machines once it is told to end.
const GRACE: Duration = Duration::from_secs(300);

/// The options of the gate.
pub fn options(command: Command) -> Command {
    let option = |id: &'static str, value: &'static str| {
        Arg::new(id).long(id).value_name(value).action(ArgAction::Append)
    };
    command
        .arg(option("test-gate", "PLATFORM").value_delimiter(',').value_parser(PLACES).help(
            "Test the image of this platform with `kola run` before anything is public (repeatable, comma-separated)",
        ))
        .arg(
            option("test-pattern", "PATTERN")
                .requires("test-gate")
                .help("Pattern of the tests that the gate runs (repeatable) [default: all]"),
        )
        .arg(
            option("test-option", "OPTION")
                .requires("test-gate")
                .allow_hyphen_values(true)
                .help("Option for the gate's `kola run`, such as --parallel=4 (repeatable)"),
        )
}

/// The gates that a command line asks for.
///
/// # Errors
/// When a place is tested that is not released to.
pub fn read(matches: &ArgMatches, distribution: &str, board: &str, places: &[String]) -> Result<Vec<Gate>> {
    if matches.try_get_many::<String>("test-gate").ok().flatten().is_none() {
        return Ok(Vec::new());
    }
    let named = args::strings(matches, "test-gate");
    if let Some(name) = named.iter().find(|name| !places.is_empty() && !places.contains(name)) {
        return Err(usage(format!("--test-gate={name} tests what --platform leaves out"))
            .suggestion(format!("add {name} to --platform")));
    }
    let kola = Arc::new(Kola {
        distribution: Distribution::named(distribution).map(|d| d.name),
        board: board.to_owned(),
        options: args::strings(matches, "test-option"),
        patterns: args::strings(matches, "test-pattern"),
        runs: AtomicUsize::new(0),
    });
    Ok(named.into_iter().map(|place| Gate { place, tester: kola.clone() }).collect())
}

/// `kola run`.
#[derive(Debug)]
struct Kola {
    /// As kola calls it, if it knows it.
    distribution: Option<&'static str>,
    board: String,
    options: Vec<String>,
    patterns: Vec<String>,
    runs: AtomicUsize,
}

impl Kola {
    /// Whether the user has chosen something.
    fn has(&self, long: &str, short: &str) -> bool {
        self.options.iter().any(|o| {
            o == long || o.starts_with(&format!("{long}=")) || (o.starts_with(short) && !o.starts_with("--"))
        })
    }

    /// The words after `kola run`; the user's options win.
    fn words(&self, image: &Image, folder: &std::path::Path) -> Vec<String> {
        let mut words = Vec::new();
        let mut add = |name: &str, value: &str| words.push(format!("{name}={value}"));
        let platform = match image {
            Image::Aws { ami, region, profile, credentials } => {
                add("--aws-ami", ami);
                add("--aws-region", region);
                add("--aws-profile", profile);
                if let Some(file) = credentials {
                    add("--aws-credentials-file", &file.to_string_lossy());
                }
                "aws"
            }
            Image::Gce { project, name, key } => {
                add("--gce-image", &format!("projects/{project}/global/images/{name}"));
                add("--gce-project", project);
                if let Some(file) = key {
                    add("--gce-json-key", &file.to_string_lossy());
                }
                "gce"
            }
        };
        let chosen = [
            ("--platform", "-p", Some(platform)),
            ("--distro", "-b", self.distribution),
            ("--board", "--board", Some(self.board.as_str())),
        ];
        for (long, short, value) in chosen {
            if let Some(value) = value.filter(|_| !self.has(long, short)) {
                add(long, value);
            }
        }
        add("--output-dir", &folder.to_string_lossy());
        words.extend(self.options.iter().cloned());
        words.push("--".into());
        words.extend(self.patterns.iter().cloned());
        words
    }
}

#[async_trait(?Send)]
impl Tester for Kola {
    async fn test(&self, image: &Image, world: &World<'_>) -> std::result::Result<Verdict, Stopped> {
        let failed = |e: std::io::Error| Stopped::Failed(e.into());
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        let name = format!("plume-{}-{}-{run}", world.release.selection.version, std::process::id());
        let all: PathBuf = std::path::absolute("_kola_temp").map_err(failed)?;
        tokio::fs::create_dir_all(&all)
            .await
            .map_err(Unusable::at(&all))
            .map_err(|e| Stopped::Failed(e.into()))?;
        let folder = all.join(name);
        let binary = std::fs::read_link("/proc/self/exe").map_err(failed)?;
        let words = self.words(image, &folder);
        info!("plume", "kola run {}", words.join(" "));
        let kola = process::Command::new(binary).args(["kola", "run"]).args(words).spawn().await;
        let kola = kola.map_err(|e| Stopped::Failed(e.into()))?;
        let Some(status) = world.release.cancel.run_until_cancelled(kola.wait()).await else {
            notice!("plume", "waiting for kola to remove its machines");
            kola.stop(GRACE).await;
            return Err(Stopped::Interrupted);
        };
        let results = format!("its results are in {}", folder.display());
        notice!("plume", "kola has ended with {status}; {results}");
        let refused = (!status.success()).then(|| format!("kola has ended with {status}; {results}"));
        Ok(Verdict { refused, folder })
    }
}
