//! The full update of an image folder of the SDK, made unless it is there.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::{APP_ID, Error, Options, Source, generate, private_key};
use crate::omaha::{self, Action, Actions, Packages, Update, Url, Urls};
use crate::release::version::Versions;
use crate::target::{Fresh, Target};
use crate::{info, notice};

const LOG: &str = "update";
/// First part of the names of the files.
const PREFIX: &str = "coreos_production_update";
const KERNEL: &str = "coreos_production_image.vmlinuz";

/// Makes the full update of an image folder: of the partition `coreos_production_update.bin` and, if it is there, of the
/// kernel, signed by the key in a PEM file. An update that its description fits is kept. Returns the payload,
/// `coreos_production_update.gz`, which is not gzip. Blocks.
///
/// # Errors
/// When something is missing in the folder, or cannot be written there.
pub fn full_update(folder: &Path, key: &Path) -> Result<PathBuf, Error> {
    let file = |suffix: &str| folder.join(format!("{PREFIX}.{suffix}"));
    let (payload, description) = (file("gz"), file("xml"));
    if is_described(folder, &payload, &description)? {
        info!(LOG, "Using update manifest: {}", description.display());
        return Ok(payload);
    }
    let versions = Versions::of_folder(folder)?;
    let key = private_key(key)?;
    let open = |path: &Path| File::open(path).map_err(Error::io(format!("read {}", path.display())));
    let partition = open(&file("bin"))?;
    let kernel = match File::open(folder.join(KERNEL)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            notice!(LOG, "there is no {KERNEL}: the update has no kernel");
            None
        }
        opened => Some(opened.map_err(Error::io(format!("read {}", folder.join(KERNEL).display())))?),
    };
    notice!(LOG, "Generating update payload: {}", payload.display());
    let failed = |path: &Path| Error::io(format!("write {}", path.display()));
    let place = |path: &Path| Target::file(path).map_err(|e| failed(path)(io::Error::other(e)));
    let fresh = Fresh::new(Target::File(place(&payload)?), 0o666).map_err(failed(&payload))?;
    generate(
        &Source { partition: &partition, kernel: kernel.as_ref() },
        &key,
        Options::default(),
        fresh.file(),
    )?;
    fresh.commit().map_err(failed(&payload))?;

    let package = omaha::Package { required: true, ..omaha::describe(&payload)? };
    let action = Action {
        event: "postinstall".into(),
        sha256: package.sha256.clone().unwrap_or_default(),
        ..Action::default()
    };
    let update = Update {
        app_id: APP_ID.into(),
        version: versions.version,
        urls: Urls { urls: vec![Url::default()] },
        packages: Packages { packages: vec![package] },
        actions: Actions { actions: vec![action] },
        ..Update::default()
    };
    crate::target::replace(&description, 0o666, update.to_xml()?.as_bytes()).map_err(failed(&description))?;
    Ok(payload)
}

/// Whether there is a description, and the payload is as it says.
fn is_described(folder: &Path, payload: &Path, description: &Path) -> Result<bool, Error> {
    let text = match std::fs::read(description) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::io(format!("read {}", description.display()))(e)),
    };
    let Ok(update) = Update::parse(&text) else { return Ok(false) };
    let [package] = &update.packages.packages[..] else {
        let count = update.packages.packages.len();
        let text = format!("{} contains {count} packages, expected 1", description.display());
        return Err(Error::Manifest(text));
    };
    let base = update.urls.urls.first().map(|url| url.code_base.as_str()).unwrap_or_default();
    if folder.join(base).join(&package.name) != payload {
        return Ok(false);
    }
    let Ok(there) = omaha::describe(payload) else { return Ok(false) };
    let same = there.size == package.size && there.sha1 == package.sha1;
    Ok(same && package.sha256.as_ref().is_none_or(|sha256| Some(sha256) == there.sha256.as_ref()))
}
