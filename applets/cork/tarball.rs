//! `cork download`: the SDK's tarball.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ::mantle::applet::Context;
use ::mantle::cloud::google::SCOPE_STORAGE_READ;
use ::mantle::cloud::google::sources::Choice;
use ::mantle::download::Source;
use ::mantle::error::{Result, Stop, WrapErr as _, eyre, usage};
use ::mantle::openpgp::{self, Keyring};
use ::mantle::release::Table;
use ::mantle::{notice, sdk};
use clap::ArgMatches;

use super::text;
use crate::downloads;

/// Downloads the tarball of one version, unless it is there already.
pub async fn run(matches: &ArgMatches, context: &Context) -> Result<()> {
    let version = text(matches, "sdk-version").ok_or_else(|| usage("Missing --sdk-version=VERSION"))?;
    let plain = version.bytes().all(|b| b.is_ascii_alphanumeric() || b"-+._".contains(&b));
    if !plain || version.starts_with('.') {
        return Err(usage(format!("--sdk-version={version} is no version")));
    }
    let table = Table::builtin()?;
    let folder = text(matches, "sdk-url");
    let (distribution, files) = super::distribution(&table, text(matches, "distro"), folder, None)?;
    let arch = sdk::portage_architecture()
        .ok_or_else(|| eyre!("there is no SDK for {} machines", sdk::host_architecture()))?;
    let (name, url) = files.sdk(folder, arch, version);
    let source: Source = url.parse().map_err(|e| usage(format!("{e}")))?;
    let destination = sdk::cache_root()?.join("sdks").join(name);
    let keyring = super::keyring(matches)?;
    let (path, keys) = (destination.clone(), keyring.clone());
    let cached = tokio::task::spawn_blocking(move || cached(&path, &keys));
    let cached = tokio::select! {
        biased;
        () = context.cancel.cancelled() => return Err(Stop::Interrupted.into()),
        cached = cached => cached.wrap_err("the verifying thread failed")?,
    };
    if cached {
        return Ok(());
    }
    let choice = Choice { service: false, key: downloads::path(matches, "json-key") };
    let engine = downloads::engine(choice, &[SCOPE_STORAGE_READ])?;
    let update = super::update(&engine, &source, &destination, Some(&keyring), context).await;
    let update = update.map_err(|e| {
        let report = downloads::explain(e, &source);
        super::mourn(report, distribution, folder.is_none(), "--sdk-url")
    })?;
    downloads::report("sdk", &update, &destination);
    Ok(())
}

/// Whether the tarball is there and fits the signature beside it. Blocks.
fn cached(path: &Path, keyring: &Keyring) -> bool {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".sig");
    let beside = PathBuf::from(beside);
    if !path.is_file() || !beside.is_file() {
        return false;
    }
    match openpgp::verify_file(keyring, &beside, path, SystemTime::now()) {
        Ok(verified) => {
            notice!("sdk", "Verified existing file {}: signed by {}", path.display(), verified.signer);
            true
        }
        Err(e) => {
            notice!("sdk", "{} does not fit its signature and is looked up anew: {e}", path.display());
            false
        }
    }
}
