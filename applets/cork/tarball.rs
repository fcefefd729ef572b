//! `cork download`: the SDK's tarball.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ::mantle::applet::Context;
use ::mantle::args;
use ::mantle::cloud::google::SCOPE_STORAGE_READ;
use ::mantle::cloud::google::sources::Choice;
use ::mantle::download::Source;
use ::mantle::error::{Result, Stop, WrapErr as _, eyre, usage};
use ::mantle::openpgp::{self, Keyring};
use ::mantle::release::Table;
use ::mantle::{input, notice, sdk};
use clap::{Arg, ArgMatches, Command, ValueHint};

use super::text;
use crate::downloads;

/// More than any signature has.
const MAX_SIGNATURE: u64 = 1 << 20;

/// A tarball that fits its signature, open: this very file is the one that was looked at.
pub struct Tarball {
    /// Its name.
    pub name: String,
    /// How many bytes it has.
    pub size: u64,
    /// At its beginning.
    pub file: File,
}

/// The options that say which tarball, and whose signature counts.
pub fn options(command: Command) -> Command {
    command
        .arg(downloads::verify_key())
        .arg(
            Arg::new("json-key")
                .long("json-key")
                .value_name("FILE")
                .value_parser(args::path_parser())
                .value_hint(ValueHint::FilePath)
                .help("Use the service account with this key, in Google's JSON form, for gs:// URLs"),
        )
        .arg(super::distro())
        .arg(
            Arg::new("sdk-url")
                .long("sdk-url")
                .value_name("URL")
                .value_hint(ValueHint::Url)
                .help("Folder that has the tarballs, as ARCH/VERSION/NAME [default: the distribution's]"),
        )
}

/// Downloads the tarball of the version that is asked for, unless it is there already.
pub async fn run(matches: &ArgMatches, context: &Context) -> Result<()> {
    let version = text(matches, "sdk-version").ok_or_else(|| usage("Missing --sdk-version=VERSION"))?;
    get(matches, version, context).await.map(drop)
}

/// The tarball of one version: the one that is there, or a new one.
///
/// # Errors
/// When there is none that fits its signature.
pub async fn get(matches: &ArgMatches, version: &str, context: &Context) -> Result<Tarball> {
    let plain = version.bytes().all(|b| b.is_ascii_alphanumeric() || b"-+._".contains(&b));
    if !plain || version.starts_with('.') || version.is_empty() {
        return Err(usage(format!("--sdk-version={version} is no version")));
    }
    let table = Table::builtin()?;
    let folder = text(matches, "sdk-url");
    let (distribution, files) = super::distribution(&table, text(matches, "distro"), folder, None)?;
    let arch = sdk::portage_architecture()
        .ok_or_else(|| eyre!("there is no SDK for {} machines", sdk::host_architecture()))?;
    let (name, url) = files.sdk(folder, arch, version);
    let source: Source = url.parse().map_err(|e| usage(format!("{e}")))?;
    let destination = sdk::cache_root()?.join("sdks").join(&name);
    let keyring = super::keyring(matches)?;
    let (path, keys) = (destination.clone(), keyring.clone());
    let cached = tokio::task::spawn_blocking(move || cached(&path, &keys));
    let cached = tokio::select! {
        biased;
        () = context.cancel.cancelled() => return Err(Stop::Interrupted.into()),
        cached = cached => cached.wrap_err("the verifying thread failed")?,
    };
    let file = match cached {
        Some(file) => file,
        None => {
            let choice = Choice { service: false, key: downloads::path(matches, "json-key") };
            let engine = downloads::engine(choice, &[SCOPE_STORAGE_READ])?;
            let update = super::update(&engine, &source, &destination, Some(&keyring), context).await;
            let update = update.map_err(|e| {
                let report = downloads::explain(e, &source);
                super::mourn(report, distribution, folder.is_none(), "--sdk-url")
            })?;
            downloads::report("sdk", &update, &destination);
            input::open(&destination).wrap_err_with(|| format!("cannot open {}", destination.display()))?
        }
    };
    let size = file.metadata().map(|m| m.len());
    let size = size.wrap_err_with(|| format!("cannot look at {}", destination.display()))?;
    Ok(Tarball { name, size, file })
}

/// The tarball, if it is there and fits the signature beside it. Blocks.
fn cached(path: &Path, keyring: &Keyring) -> Option<File> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".sig");
    let beside = PathBuf::from(beside);
    if !path.is_file() || !beside.is_file() {
        return None;
    }
    let verify = || {
        let mut signature = Vec::new();
        input::open(&beside)?.take(MAX_SIGNATURE).read_to_end(&mut signature)?;
        let mut file = input::open(path)?;
        let verified = openpgp::verify_reader(keyring, &signature, &file, SystemTime::now())?;
        file.rewind()?;
        Ok::<_, color_eyre::eyre::Report>((file, verified))
    };
    match verify() {
        Ok((file, verified)) => {
            notice!("sdk", "Verified existing file {}: signed by {}", path.display(), verified.signer);
            Some(file)
        }
        Err(e) => {
            notice!("sdk", "{} does not fit its signature and is looked up anew: {e}", path.display());
            None
        }
    }
}
