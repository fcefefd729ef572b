//! `ore gcloud upload`.

use std::path::{Path, PathBuf};

use ::mantle::applet::Context;
use ::mantle::args::path_parser;
use ::mantle::cloud::google::storage::{self, Attributes, Location, OnlyIf, Storage};
use ::mantle::cloud::google::{archive, images};
use ::mantle::disk::{self, Content};
use ::mantle::error::{Result, Section as _, Stop, eyre, usage};
use ::mantle::progress::Progress;
use ::mantle::text::chain;
use ::mantle::{output, sdk, target};
use clap::{Parser, ValueHint};
use color_eyre::eyre::Report;
use tokio_util::sync::CancellationToken;

use super::Options;
use super::images::Attributes as ImageAttributes;
use crate::ore::group::{Account as _, Explain, Verb, given, unless_cancelled, user, version_beside};

/// What the SDK calls the image.
const FILE: &str = "coreos_production_gce.tar.gz";

/// Who may read the uploaded archive: everybody with an account at Google.
const ACL: &str = "authenticatedRead";

#[derive(Parser)]
#[command(
    name = "upload",
    about = "Upload os image",
    long_about = "Store an image in Cloud Storage and make a GCE image of it. A raw image is packed as Compute Engine \
        wants it; an archive is checked and stored as it is. A long one is uploaded in parts, and a repeated command goes \
        on with those that have arrived. The archive is BUCKET/PATH/NAME.tar.gz, the image is \
        called PATH-NAME."
)]
pub struct Upload {
    /// gs://BUCKET[/PATH]; without a path, it is $USER/BOARD
    #[arg(long, value_name = "URL", default_value = "gs://users.developer.core-os.net")]
    bucket: String,

    /// Name of the archive, and last part of the image's [default: COREOS_VERSION of the version.txt beside the file]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Board, part of the default path in the bucket
    #[arg(long, value_name = "BOARD", default_value = "amd64-usr")]
    board: String,

    #[arg(
        long,
        value_name = "FILE",
        value_parser = path_parser(),
        value_hint = ValueHint::FilePath,
        help = format!("Archive or raw image to upload [default: the SDK's latest {FILE}]")
    )]
    file: Option<PathBuf>,

    /// Replace archive and image without asking
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    attributes: ImageAttributes,
}

impl Verb for Upload {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        let file = match self.file.filter(|f| !f.as_os_str().is_empty()) {
            Some(file) => file,
            None => sdk::image_dir("amd64-usr", "latest").map_err(|e| usage(e.to_string()))?.join(FILE),
        };
        let place = place(&self.bucket, self.name, &self.board, &file)?;
        let name = images::name(place.name.strip_suffix(".tar.gz").unwrap_or(&place.name)).map_err(usage)?;
        // Before anybody is asked for anything.
        let is_raw = look(&file).await?;
        let compute = account.sign_in(context).await?;
        let storage = account.storage()?;
        let stored = unless_cancelled(context, async { Ok(storage.get(&place).await) }).await?;
        let only_if = match stored {
            Ok(object) => {
                let question = format!("File {} already exists on Google Storage. Overwrite?", place.name);
                if !self.force && !super::confirm(question, FORCE).await? {
                    output::line("Skipped file upload")?;
                    None
                } else {
                    output::line("Overriding existing file...")?;
                    Some(OnlyIf::Generation(object.generation))
                }
            }
            Err(e) if e.status() == Some(reqwest::StatusCode::NOT_FOUND) => Some(OnlyIf::Absent),
            Err(e) => return Err(failed(e)),
        };
        let mut left = 0;
        if let Some(only_if) = only_if {
            output::line(format!("Writing {} to gs://{} ...", file.display(), place.bucket))?;
            output::line("(Sometimes this takes a few minutes)")?;
            let packed = if is_raw { Some(pack(&file, context).await?) } else { None };
            let archive = packed.as_ref().map_or(file.as_path(), |p| p.path());
            left = store(&storage, &place, archive, only_if, context).await?;
            output::line("Upload successful!")?;
        }
        output::line(format!("Creating image in GCE: {name}..."))?;
        let create = |replace| self.attributes.create(&compute, &name, &place, replace, context);
        match create(self.force).await {
            Ok(()) => {}
            Err(e) if e.is_taken() && !self.force => {
                let question = format!("Image {name} already exists on GCE. Overwrite?");
                if !super::confirm(question, FORCE).await? {
                    output::line("Skipped GCE image creation")?;
                } else {
                    output::line("Overriding existing image...")?;
                    create(true).await.map_err(|e| e.explain("Creating GCE image failed"))?;
                    output::line(format!("Image {name} successfully created in GCE"))?;
                }
            }
            Err(e) => return Err(e.explain("Creating GCE image failed")),
        }
        match left {
            0 => Ok(()),
            n => Err(eyre!("{n} parts of the upload are left beside {place}")
                .suggestion("the same command with --force removes them")),
        }
    }
}

const FORCE: &str = "pass --force to replace what is there, or another --name";

/// Where the archive goes.
fn place(bucket: &str, name: Option<String>, board: &str, file: &Path) -> Result<Location> {
    let bucket = Location::prefix(bucket).map_err(|e| usage(format!("--bucket: {e}")))?;
    let name = match given(name) {
        Some(name) => name,
        None => version_beside(file, "--name")?,
    };
    let folder = match bucket.name.as_str() {
        "" => bucket.at(format!("{}/{board}/", user()?)),
        _ => bucket,
    };
    Ok(folder.join(&format!("{name}.tar.gz")))
}

/// Whether a file is a raw image; if not, it is an archive that Compute Engine takes.
async fn look(file: &Path) -> Result<bool> {
    let file = file.to_owned();
    tokio::task::spawn_blocking(move || {
        let shown = file.display();
        match disk::content(&file)? {
            Content::Other => Ok(true),
            Content::Packed("gunzip") => Ok(archive::check(&file).map(|()| false)?),
            Content::Packed(tool) => {
                Err(eyre!("{shown} is packed")
                    .suggestion(format!("unpack it with {tool}: it is packed anew")))
            }
            Content::Qcow2 | Content::Vmdk | Content::VmdkDescriptor => {
                Err(eyre!("{shown} is no raw image").suggestion("convert it with `qemu-img convert -O raw`"))
            }
        }
    })
    .await?
}

/// Packs a raw image; the archive is removed in the end.
async fn pack(image: &Path, context: &Context) -> Result<tempfile::NamedTempFile> {
    let (image, cancel) = (image.to_owned(), context.cancel.clone());
    let work = move || -> Result<tempfile::NamedTempFile, archive::Error> {
        let folder = target::spool_folder();
        let made = tempfile::Builder::new().prefix("mantle-").suffix(".tar.gz").tempfile_in(&folder);
        let to =
            made.map_err(|source| archive::Error::Write { image: image.clone(), path: folder, source })?;
        let mut bar = Progress::of_file("ore", &format!("packing {}", image.display()));
        archive::pack(&image, to.as_file(), to.path(), &cancel, |done, total| bar.reach(done, total))?;
        Ok(to)
    };
    tokio::task::spawn_blocking(work).await?.map_err(|e| match e {
        archive::Error::Interrupted => Stop::Interrupted.into(),
        e @ archive::Error::Write { .. } => {
            eyre!(e).suggestion("have room there, or set $TMPDIR to a folder that has")
        }
        e => eyre!(e),
    })
}

/// Stores the archive; what is there is replaced only if it is what it was. Returns how many parts are left of the
/// upload.
async fn store(
    storage: &Storage,
    place: &Location,
    file: &Path,
    only_if: OnlyIf,
    context: &Context,
) -> Result<usize> {
    let attributes = Attributes { content_type: Some("application/x-gzip".into()), ..Attributes::default() };
    let mut bar = Progress::of_file("ore", &place.to_string());
    let mut progress = |done, total| bar.reach(done, total);
    let work = storage.store_file(place, file, &attributes, Some(ACL), only_if, &mut progress);
    let cancel: &CancellationToken = &context.cancel;
    match cancel.run_until_cancelled(work).await {
        None => Err(Stop::Interrupted.into()),
        Some(Err(e)) => Err(failed(e)),
        Some(Ok(stored)) => {
            for (part, error) in &stored.left {
                ::mantle::error!("ore", "{part} is left: it could not be removed: {}", chain(error));
            }
            Ok(stored.left.len())
        }
    }
}

fn failed(error: storage::Error) -> Report {
    let needs_credentials = error.needs_credentials();
    let report = eyre!(error).wrap_err("Uploading image failed");
    match needs_credentials {
        true => report
            .suggestion("pass --json-key, or let `gcloud auth application-default login` make credentials"),
        false => report,
    }
}

impl Explain for images::Failure {
    fn is_interruption(&self) -> bool {
        matches!(self, Self::Unfinished(e) if Explain::is_interruption(e))
    }

    fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Unfinished(e) => Explain::advice(e),
            Self::License(_) => None,
        }
    }
}
