//! The full update of an image folder of the SDK, made unless it is there.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{APP_ID, Error, LOG, Options, Source, VerifyingKey, generate, private_key, verify};
use crate::omaha::{self, Action, Actions, Packages, Update, Url, Urls};
use crate::process::{self, Command, find_program};
use crate::release::version::Versions;
use crate::target::{self, Fresh, Target};
use crate::{info, notice};

/// First part of the names of the files.
const PREFIX: &str = "coreos_production_update";
const KERNEL: &str = "coreos_production_image.vmlinuz";
/// What makes payloads in the SDK.
const EXTERNAL: &str = "delta_generator";
/// How long it has to end when it is told to.
const GRACE: Duration = Duration::from_secs(5);

/// Who makes payloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Generator {
    /// This library.
    Builtin,
    /// The `delta_generator` of update_engine, by its path.
    External(PathBuf),
}

impl Generator {
    /// The external one if it is in `PATH`.
    pub fn find() -> Self {
        find_program(EXTERNAL).map_or(Self::Builtin, Self::External)
    }
}

/// Makes the full update of an image folder: of the partition `coreos_production_update.bin` and, if it is there, of the
/// kernel, signed by the key in a PEM file. An update that its description fits is kept. Returns the payload,
/// `coreos_production_update.gz`, which is not gzip.
///
/// # Errors
/// When something is missing in the folder, or cannot be written there; when the external generator fails, or makes
/// what does not verify.
pub async fn full_update(
    folder: &Path,
    key: &Path,
    generator: &Generator,
    cancel: &CancellationToken,
) -> Result<PathBuf, Error> {
    let file = |suffix: &str| folder.join(format!("{PREFIX}.{suffix}"));
    let (payload, description) = (file("gz"), file("xml"));
    let look = (folder.to_owned(), payload.clone(), description.clone());
    if blocking(move || is_described(&look.0, &look.1, &look.2)).await? {
        info!(LOG, "Using update manifest: {}", description.display());
        return Ok(payload);
    }
    let versions = Versions::of_folder(folder)?;
    let secret = private_key(key)?;
    let partition = file("bin");
    let kernel = folder.join(KERNEL);
    let open = |path: &Path| File::open(path).map_err(Error::io(format!("read {}", path.display())));
    let image = open(&partition)?;
    let kernel = match File::open(&kernel) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            notice!(LOG, "there is no {KERNEL}: the update has no kernel");
            None
        }
        opened => Some((opened.map_err(Error::io(format!("read {}", kernel.display())))?, kernel)),
    };
    notice!(LOG, "Generating update payload: {}", payload.display());
    let place = Target::file(&payload).map_err(|e| unwritten(&payload)(io::Error::other(e)))?;
    match generator {
        Generator::Builtin => {
            let options = Options { cancel: cancel.clone(), ..Options::default() };
            blocking(move || {
                let fresh = Fresh::new(Target::File(place.clone()), 0o666).map_err(unwritten(&place))?;
                let source = Source { partition: &image, kernel: kernel.as_ref().map(|(kernel, _)| kernel) };
                generate(&source, &secret, options, fresh.file())?;
                fresh.commit().map_err(unwritten(&place))
            })
            .await?;
        }
        Generator::External(program) => {
            // Beside its place, so that it can be moved there in one step.
            let aside = tempfile::Builder::new().prefix(".mantle-").tempdir_in(folder);
            let aside = aside.map_err(unwritten(&payload))?;
            let made = aside.path().join("payload");
            let mut command = Command::new(program).arg("-new_image").arg(&partition);
            if let Some((_, kernel)) = &kernel {
                command = command.arg("-new_kernel").arg(kernel);
            }
            command = command.arg("-out_file").arg(&made).arg("-private_key").arg(key);
            run(command, cancel).await?;
            let verifying = VerifyingKey::of(&secret)?;
            blocking(move || {
                let file = File::open(&made).map_err(Error::io(format!("read what {EXTERNAL} made")))?;
                verify(file, &verifying)?;
                std::fs::rename(&made, &place).map_err(unwritten(&place))
            })
            .await?;
        }
    }
    let done = payload.clone();
    blocking(move || describe(&payload, &description, versions.version)).await?;
    Ok(done)
}

fn unwritten(path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    Error::io(format!("write {}", path.display()))
}

/// Does something that takes its time in a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::io("finish a thread")(io::Error::other(e)))?
}

/// Runs the external generator, which says what it does on our output.
async fn run(command: Command, cancel: &CancellationToken) -> Result<(), Error> {
    let proc = command.spawn().await?;
    let status = tokio::select! {
        () = cancel.cancelled() => {
            proc.stop(GRACE).await;
            return Err(Error::interrupted());
        }
        status = proc.wait() => status,
    };
    match status.success() {
        true => Ok(()),
        false => {
            Err(process::Error::Failed { program: EXTERNAL.into(), status, stderr: String::new() }.into())
        }
    }
}

/// Writes the description of a payload.
fn describe(payload: &Path, description: &Path, version: String) -> Result<(), Error> {
    let package = omaha::Package { required: true, ..omaha::describe(payload)? };
    let action = Action {
        event: "postinstall".into(),
        sha256: package.sha256.clone().unwrap_or_default(),
        ..Action::default()
    };
    let update = Update {
        app_id: APP_ID.into(),
        version,
        urls: Urls { urls: vec![Url::default()] },
        packages: Packages { packages: vec![package] },
        actions: Actions { actions: vec![action] },
        ..Update::default()
    };
    target::replace(description, 0o666, update.to_xml()?.as_bytes()).map_err(unwritten(description))
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
