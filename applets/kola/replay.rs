//! `kola replay`: what failed in a run is run again, from the folder that the run has left.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use color_eyre::Section as _;
use color_eyre::eyre::{Result, WrapErr as _, bail, eyre};
use mantle::secret::Secret;
use mantle::ssh::quote;
use openssl::hash::{Hasher, MessageDigest};
use serde::{Deserialize, Serialize};

/// For the page of the command.
pub const ABOUT: &str = "Run the tests again that did not pass in a run, or some of its tests, with the options of that run \
     and the same seed. DIR is the output folder of the run, perhaps brought from another machine; the image must be \
     the same, byte for byte. Results go to a folder beside it. Options behind -- are added to those of the run, such \
     as one that says where the image is on this machine.";

/// The file in a run's output folder that tells how it was made.
const FILE: &str = "replay.json";

/// Arguments of `kola replay`.
#[derive(clap::Args, Debug, Clone)]
#[group(skip)]
pub struct Options {
    /// Output folder of the run
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Tests to run [default: those that did not pass]
    #[arg(value_name = "TEST")]
    tests: Vec<String>,
    /// Take another image than that of the run
    #[arg(long)]
    other_image: bool,
    /// Options that are added to those of the run
    #[arg(last = true, value_name = "OPTION")]
    more: Vec<OsString>,
}

/// How a run was made.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Recipe {
    /// Version of mantle.
    version: String,
    /// Where it was started: the options may name files from there.
    folder: PathBuf,
    /// The command line behind `kola`; secrets are masked.
    arguments: Vec<String>,
    /// What the order of the tests was made with.
    seed: u64,
    /// The image, once something has failed: it takes a while to read.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<Image>,
}

/// The file that machines were booted from.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
struct Image {
    path: PathBuf,
    sha256: String,
}

impl Recipe {
    /// That of this process: its command line, secrets masked.
    pub fn new(command_line: &[String], seed: u64) -> Self {
        let own = command_line.iter().position(|word| word == "kola").map_or(1, |at| at + 1);
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            folder: std::env::current_dir().unwrap_or_default(),
            arguments: command_line.get(own..).unwrap_or_default().to_vec(),
            seed,
            image: None,
        }
    }

    /// Notes the image; reads all of it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn of_image(&mut self, path: &Path) -> Result<()> {
        self.image = Some(Image { path: path.to_owned(), sha256: sha256(path).await? });
        Ok(())
    }

    /// Puts it into the output folder of the run.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, out: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        let path = out.join(FILE);
        mantle::target::replace(&path, 0o666, &text)
            .wrap_err_with(|| format!("cannot write {}", path.display()))
    }

    fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let text = std::fs::read(&path).wrap_err_with(|| format!("cannot read {}", path.display()));
        let text =
            text.suggestion("name the output folder of a run, as in `kola replay _kola_temp/qemu-latest`")?;
        serde_json::from_slice(&text).wrap_err_with(|| format!("{} was not written by kola", path.display()))
    }
}

async fn sha256(path: &Path) -> Result<String> {
    let file = path.to_owned();
    let read = move || {
        let mut file = std::fs::File::open(file)?;
        let mut hasher = Hasher::new(MessageDigest::sha256()).map_err(std::io::Error::other)?;
        std::io::copy(&mut file, &mut hasher)?;
        let digest = hasher.finish().map_err(std::io::Error::other)?;
        Ok::<_, std::io::Error>(mantle::text::hex(&digest))
    };
    tokio::task::spawn_blocking(read).await?.wrap_err_with(|| format!("cannot read {}", path.display()))
}

/// What replay needs of report.json.
#[derive(Deserialize)]
struct Report {
    tests: Option<Vec<Row>>,
}

#[derive(Deserialize)]
struct Row {
    name: String,
    result: String,
}

/// The top-level tests of a run that did not pass: what failed, also if it passed later, and what was interrupted.
fn not_passed(dir: &Path) -> Result<Vec<String>> {
    let path = dir.join("reports/report.json");
    let text = std::fs::read(&path).wrap_err_with(|| format!("cannot read {}", path.display()))?;
    let report: Report = serde_json::from_slice(&text)
        .wrap_err_with(|| format!("{} was not written by kola", path.display()))?;
    let rows = report.tests.unwrap_or_default().into_iter();
    let bad = rows.filter(|row| !row.name.contains('/') && !["PASS", "SKIP"].contains(&&*row.result));
    let mut names: Vec<String> = bad.map(|row| row.name).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// Becomes `kola run`; returns only if that cannot be.
///
/// # Errors
/// When the folder is not that of a run, nothing has failed, or the image is another one.
pub async fn run(options: &Options) -> Result<()> {
    let dir =
        options.dir.canonicalize().wrap_err_with(|| format!("cannot find {}", options.dir.display()))?;
    let recipe = Recipe::read(&dir)?;
    let tests = if options.tests.is_empty() { not_passed(&dir)? } else { options.tests.clone() };
    if tests.is_empty() {
        let e = eyre!("all tests of {} passed, or were skipped", options.dir.display());
        return Err(e.suggestion("name the tests to run"));
    }
    if let Some(masked) = recipe.arguments.iter().position(|word| word.ends_with(Secret::MASK)) {
        let option = match recipe.arguments[masked].split_once('=') {
            Some((name, _)) => name,
            None => masked.checked_sub(1).map_or("", |before| &recipe.arguments[before]),
        };
        let e = eyre!("the run was given a secret by {option}, which is not on record");
        return Err(
            e.suggestion("keep it in a credentials file or the environment instead, and run the tests anew")
        );
    }
    if recipe.version != env!("CARGO_PKG_VERSION") {
        mantle::warning!("kola", "the run was made by mantle {}", recipe.version);
    }
    if recipe.folder.is_dir() {
        std::env::set_current_dir(&recipe.folder)
            .wrap_err_with(|| format!("cannot go to {}", recipe.folder.display()))?;
    } else {
        mantle::warning!("kola", "{} is not there: files are looked for from here", recipe.folder.display());
    }
    if let Some(known) = recipe.image.as_ref().filter(|_| !options.other_image && options.more.is_empty()) {
        let now = sha256(&known.path)
            .await
            .suggestion("say where it is, as in `kola replay DIR -- --qemu-image FILE`")?;
        if now != known.sha256 {
            let e =
                eyre!("{} is not what it was: the run had SHA-256 {}", known.path.display(), known.sha256);
            return Err(e.suggestion("--other-image takes it all the same"));
        }
    }
    let mut beside = dir.clone().into_os_string();
    beside.push("-replay");
    let mut words: Vec<OsString> = vec!["kola".into()];
    words.extend(recipe.arguments.iter().map(OsString::from));
    words.extend([format!("--seed={}", recipe.seed).into(), "--output-dir".into(), beside]);
    words.extend(tests.into_iter().map(|test| format!("--only={test}").into()));
    words.extend(options.more.iter().cloned());
    let shown: Vec<String> = words.iter().map(|word| quote(&word.to_string_lossy())).collect();
    mantle::notice!("kola", "mantle {}", shown.join(" "));
    let program = std::env::current_exe().wrap_err("cannot find this program")?;
    let e = Command::new(&program).args(&words[0..]).exec();
    bail!("cannot run {}: {e}", program.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_kept_without_the_names_of_the_program() {
        let words = |line: &str| line.split(' ').map(String::from).collect::<Vec<_>>();
        for line in ["kola run -p qemu x", "mantle kola run -p qemu x"] {
            assert_eq!(Recipe::new(&words(line), 7).arguments, words("run -p qemu x"));
        }
    }

    #[test]
    fn what_did_not_pass_is_found() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("reports")).unwrap();
        let row = |name: &str, result: &str| format!(r#"{{"name": "{name}", "result": "{result}"}}"#);
        let rows =
            [row("b", "FAIL"), row("b/sub", "FAIL"), row("a", "FLAKY"), row("c", "PASS"), row("d", "SKIP")];
        std::fs::write(
            dir.path().join("reports/report.json"),
            format!(r#"{{"tests": [{}]}}"#, rows.join(",")),
        )
        .unwrap();
        assert_eq!(not_passed(dir.path()).unwrap(), ["a", "b"]);
    }
}
