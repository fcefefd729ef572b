//! `cork download-image`: the images of a release.

use std::path::{Path, PathBuf};

use ::mantle::applet::Context;
use ::mantle::args;
use ::mantle::cloud::google::SCOPE_STORAGE_READ;
use ::mantle::cloud::google::sources::Choice;
use ::mantle::download::{Engine, Error, Source};
use ::mantle::error::{Result, WrapErr as _, usage};
use ::mantle::openpgp::Keyring;
use ::mantle::release::version::{self, Versions};
use ::mantle::release::{Distribution, Downloads, RootError, Table, file_in};
use ::mantle::target::{self, Target};
use ::mantle::{info, notice, sdk, warning};
use clap::ArgMatches;
use clap::parser::ValueSource;
use color_eyre::eyre::Report;
use reqwest::StatusCode;

use super::text;
use crate::downloads;

/// Why there is no version file.
#[derive(Debug, thiserror::Error)]
enum VersionError {
    #[error(transparent)]
    Download(#[from] Error),
    #[error(transparent)]
    Content(#[from] version::Error),
}

/// Where the files are, what they are called, where they go.
struct Order<'t> {
    distribution: &'t Distribution,
    downloads: &'t Downloads,
    root: String,
    folder: PathBuf,
    /// For each file its possible names, the first one preferred.
    files: Vec<Vec<String>>,
}

/// Downloads the version file, then the images, in order.
pub async fn run(matches: &ArgMatches, context: &Context) -> Result<()> {
    let table = Table::builtin()?;
    let order = order(&table, matches)?;
    let first = source(&order.root, version::FILE_NAME)?;
    // Before anything is asked of a server: a bad key file would be found out last otherwise.
    let keyring = if super::verifies(matches) {
        Some(super::keyring(matches)?)
    } else {
        warning!("cork", "the images are not verified");
        None
    };
    let path = order.folder.join(version::FILE_NAME);
    for place in order.places() {
        Target::file(&place)?; // the first file may be far ahead of the last one
    }
    let choice = Choice { service: false, key: downloads::path(matches, "json-key") };
    let engine = downloads::engine(choice, &[SCOPE_STORAGE_READ])?;
    let versions = update_version(&engine, &first, &path, context).await.map_err(|e| match e {
        VersionError::Download(e) => order.explain(e, &first),
        VersionError::Content(e) => Report::new(e),
    });
    let versions = versions.wrap_err("downloading version.txt")?;
    info!("cork", "{first} says: version {}", versions.version);
    for names in &order.files {
        order.update(&engine, names, keyring.as_ref(), context).await?;
    }
    Ok(())
}

/// Reads and validates all options.
fn order<'t>(table: &'t Table, matches: &ArgMatches) -> Result<Order<'t>> {
    let (root, prefix) = (text(matches, "root"), text(matches, "image-prefix"));
    let (distribution, downloads) =
        super::distribution(table, text(matches, "distro"), root.filter(|r| r.contains("://")), prefix)?;
    let board = text(matches, "board").unwrap_or("amd64-usr");
    let refuse = |e: RootError| match &e {
        RootError::Unknown { text, channels } => super::choice(&format!("--root: {e}"), text, channels),
        RootError::Board { name, known } => super::choice(&format!("--board: {e}"), name, known),
    };
    let typed = matches.value_source("board") == Some(ValueSource::CommandLine);
    if typed && root.is_some_and(|r| r.contains("://")) {
        return Err(usage("--board goes with a channel: a URL as --root is of one board already"));
    }
    let board = downloads.board(board).map_err(refuse)?;
    let root = match root {
        Some(root) => downloads.root(root, board).map_err(refuse)?,
        None => downloads.default_root(board),
    };
    let folder = match matches.get_one::<PathBuf>("cache-dir") {
        Some(folder) if folder.as_os_str().is_empty() => return Err(usage("Missing --cache-dir=FILEPATH")),
        Some(folder) => folder.clone(),
        None => sdk::cache_root()?.join("images"),
    };
    let prefix = prefix.unwrap_or(&downloads.prefix);
    if prefix.contains('/') {
        return Err(usage(format!("--image-prefix={prefix} has a slash")));
    }
    let files = files(downloads, prefix, &args::strings(matches, "platform"))?;
    Ok(Order { distribution, downloads, root, folder, files })
}

/// The names of the files that the platforms need, none twice.
fn files(downloads: &Downloads, prefix: &str, platforms: &[String]) -> Result<Vec<Vec<String>>> {
    if platforms.is_empty() {
        return Err(usage("Must specify 1 or more platforms to download"));
    }
    let mut files = Vec::new();
    for platform in platforms {
        let suffixes = downloads.platforms.get(platform).ok_or_else(|| {
            let known: Vec<String> = downloads.platforms.keys().cloned().collect();
            super::choice(&format!("platform not supported: {platform}"), platform, &known)
        })?;
        for alternatives in suffixes {
            let names: Vec<String> = alternatives.iter().map(|suffix| format!("{prefix}{suffix}")).collect();
            if !files.contains(&names) {
                files.push(names);
            }
        }
    }
    Ok(files)
}

fn source(root: &str, name: &str) -> Result<Source> {
    file_in(root, name).parse().map_err(|e| usage(format!("--root: {e}")))
}

impl Order<'_> {
    /// Every path that may be written, signatures included.
    fn places(&self) -> Vec<PathBuf> {
        let names = self.files.iter().flatten().flat_map(|name| [name.clone(), format!("{name}.sig")]);
        let names = names.chain([version::FILE_NAME.to_owned()]);
        names.map(|name| self.folder.join(name)).collect()
    }

    fn explain(&self, error: Error, source: &Source) -> Report {
        let report = downloads::explain(error, source);
        super::mourn(report, self.distribution, self.downloads.owns(&self.root), "--root")
    }

    /// Updates one file, under the first of its names that is there.
    async fn update(
        &self,
        engine: &Engine,
        names: &[String],
        keyring: Option<&Keyring>,
        context: &Context,
    ) -> Result<()> {
        let doing = if keyring.is_some() { "updating signed file" } else { "downloading image" };
        let mut failure = None;
        for (at, name) in names.iter().enumerate() {
            let source = source(&self.root, name)?;
            let path = self.folder.join(name);
            match super::update(engine, &source, &path, keyring, context).await {
                Ok(update) => {
                    downloads::report("cork", &update, &path);
                    return Ok(());
                }
                Err(e) => {
                    let missing = e.status() == Some(StatusCode::NOT_FOUND);
                    // If none is there, the one that was looked for first is what is missed.
                    failure.get_or_insert_with(|| self.explain(e, &source));
                    match names.get(at + 1).filter(|_| missing) {
                        Some(next) => notice!("cork", "there is no {name}; looking for {next}"),
                        None => break,
                    }
                }
            }
        }
        match failure {
            Some(report) => Err(report.wrap_err(doing)),
            None => Ok(()), // a file without names is none
        }
    }
}

/// Updates the version file, which has no signature, and reads it; only what names a release lands.
async fn update_version(
    engine: &Engine,
    source: &Source,
    path: &Path,
    context: &Context,
) -> Result<Versions, VersionError> {
    let content = engine.fetch(source, version::MAX_SIZE, &context.cancel).await?;
    let text = String::from_utf8_lossy(&content);
    let versions = Versions::parse_version_txt(&text, &source.to_string())?;
    let path = path.to_owned();
    let keep = move || {
        if std::fs::read(&path).is_ok_and(|old| old == content) {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        let write = || {
            std::fs::create_dir_all(folder)?;
            target::replace(&path, 0o666, &content) // less what the umask takes
        };
        write().map_err(|source| Error::Write { path: path.clone(), source })
    };
    tokio::task::spawn_blocking(keep).await.map_err(|e| Error::Thread(e.to_string()))??;
    Ok(versions)
}
