//! `ore azure upload-blob` and `upload-blob-arm`.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ::mantle::applet::Context;
use ::mantle::args::path_parser;
use ::mantle::cloud::azure::storage::{
    Credential, Environment, Key, Outcome, SUFFIX, Storage, Upload as Disk, UploadError,
};
use ::mantle::disk::vhd;
use ::mantle::error::{Result, eyre, usage};
use ::mantle::http::CallError;
use ::mantle::progress::Progress;
use ::mantle::{info, output, sdk};
use clap::{Parser, ValueHint};
use reqwest::Url;
use serde_json::json;

use super::Options;
use super::classic::{self, switched_off};
use super::images::required;
use crate::ore::group::{Account as _, Explain, Verb, given, unless_cancelled, user, version_beside};

/// How disks are uploaded.
#[derive(clap::Args)]
#[group(skip)]
pub struct Choices {
    /// Begin anew and replace the blob, if it is there
    #[arg(long)]
    overwrite: bool,

    /// Refuse what Azure makes no disk of; a raw disk is taken without this only
    #[arg(long, default_value = "true")]
    validate: bool,
}

impl Choices {
    /// Looks at names and at the file, before anybody is asked for anything. `limit`: the largest disk, in bytes.
    pub async fn check(&self, blob: &str, file: &Path, limit: u64) -> Result<()> {
        if !self.validate {
            return Ok(());
        }
        if !blob.to_ascii_lowercase().ends_with(".vhd") {
            return Err(usage("Blob name should end with .vhd"));
        }
        let file = file.to_owned();
        let check = move || vhd::Disk::open(&file).and_then(|disk| disk.validate(limit));
        tokio::task::spawn_blocking(check).await?.map_err(|e| UploadError::from(e).explain(""))
    }

    /// Uploads a disk, and says so. Where the blob is then.
    pub async fn upload(
        &self,
        storage: &Storage,
        (container, blob): (&str, &str),
        file: &Path,
        limit: u64,
        context: &Context,
    ) -> Result<Url> {
        let blob = storage.page_blob(container, blob).map_err(|e| usage(e.to_string()))?;
        let name = blob.url().to_string();
        // One bar after the other: for what is read, then for what is sent.
        let bar = Mutex::new(None::<(String, Progress)>);
        let report = |what: &str, done: u64, total: u64| {
            let Ok(mut bar) = bar.lock() else { return };
            if bar.as_ref().is_none_or(|(of, _)| of != what) {
                *bar = None; // the old one has to go first
                *bar =
                    Some((what.to_owned(), Progress::of_file("ore", &format!("{what} {}", file.display()))));
            }
            if let Some((_, bar)) = bar.as_mut() {
                bar.reach(done, total);
            }
        };
        let disk = Disk {
            file,
            overwrite: self.overwrite,
            validate: self.validate.then_some(limit),
            report: &report,
            cancel: &context.cancel,
        };
        let uploaded = blob.upload(&disk).await;
        *bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
        match uploaded.map_err(|e| e.explain("Uploading blob failed"))? {
            Outcome::Uploaded { sent, resumed } => {
                let more = if resumed > 0 { format!(", {resumed} were there") } else { String::new() };
                info!("ore", "{sent} bytes sent{more}");
                info!("ore", "Blob uploaded to {name:?}");
            }
            Outcome::Finished => info!("ore", "blob {name:?} already exists, with the same content"),
        }
        Ok(blob.url().clone())
    }
}

impl Explain for UploadError {
    fn is_interruption(&self) -> bool {
        matches!(self, Self::Interrupted)
    }

    fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Disk(vhd::Error::Malformed { problem: vhd::Problem::NoFooter, .. }) => Some(
                "a raw disk is uploaded with --validate=false, or convert it: qemu-img convert -O vpc -o \
                      subformat=fixed,force_size=on",
            ),
            Self::Disk(vhd::Error::Malformed { problem: vhd::Problem::Uneven(_), .. }) => {
                Some("resize it to whole MiB: qemu-img resize")
            }
            Self::Exists(_) | Self::Foreign { .. } => {
                Some("pass --overwrite to replace it, or choose another name")
            }
            e if e.may_pass() => Some("the same command goes on with what has arrived"),
            Self::Call(e) => e.advice(),
            _ => None,
        }
    }
}

#[derive(Parser)]
#[command(
    name = "upload-blob",
    about = "Upload a blob to Azure storage",
    long_about = switched_off!(
        "Store a disk as a page blob: a VHD of any kind becomes a fixed one, and what is zeros is not sent. Repeated after \
         an interruption or a failure, the command goes on with what has arrived. The storage account's key comes from the \
         environment ($AZURE_STORAGE_KEY and the like), which needs no classic API, else from the subscription."
    )
)]
pub struct Upload {
    #[command(flatten)]
    choices: Choices,

    /// Storage account, container, name of the blob, file
    #[arg(value_name = "ACCOUNT CONTAINER BLOB FILE")]
    arguments: Vec<String>,
}

impl Verb for Upload {
    type Account = Options;

    async fn run(self, options: Options, context: &Context) -> Result<()> {
        let count = self.arguments.len();
        let Ok([account, container, blob, file]) = <[String; 4]>::try_from(self.arguments) else {
            return Err(usage(format!("Expecting 4 arguments, got {count}")));
        };
        let (file, limit) = (PathBuf::from(file), vhd::MAX_CLASSIC_SIZE);
        self.choices.check(&blob, &file, limit).await?;
        let environment = Environment::of_process();
        // A wrong name of an account is told before anybody is asked about it.
        environment.place(SUFFIX).and_then(|p| p.of(&account)).map_err(|e| usage(e.to_string()))?;
        let credential = environment.credential(&account).map_err(|e| e.explain(""))?;
        let storage = match credential {
            Some(credential) => {
                let suffix = known_suffix(&options)?;
                open(&environment, &suffix, &account, credential)
            }
            None => {
                let subscription = classic::subscription(&options.classic()).await?;
                let api = classic::open(&subscription)?;
                let key = unless_cancelled(context, async { Ok(api.storage_key(&account).await) }).await?;
                let key = key.and_then(|key| Key::new(&key));
                let key = key.map_err(|e| e.explain("Fetching storage service keys failed"))?;
                open(&environment, &subscription.suffix, &account, Credential::Key(key))
            }
        };
        let storage = storage.map_err(|e| e.explain("Uploading blob failed"))?;
        self.choices.upload(&storage, (&container, &blob), &file, limit, context).await?;
        Ok(())
    }
}

fn open(
    environment: &Environment,
    suffix: &str,
    account: &str,
    credential: Credential,
) -> Result<Storage, CallError> {
    Storage::new(&environment.place(suffix)?, account, credential)
}

/// What ends the names of storage hosts, as the profile says if there is one.
fn known_suffix(options: &Options) -> Result<String> {
    match options.classic().subscription() {
        Ok(subscription) => Ok(subscription.suffix),
        Err(e) if e.is_absent() && options.account.azure_profile.is_none() => Ok(SUFFIX.into()),
        Err(e) => Err(eyre!(e)),
    }
}

/// What the SDK calls the image.
const FILE: &str = "coreos_production_azure_image.vhd";

#[derive(Parser)]
#[command(
    name = "upload-blob-arm",
    about = "Upload a blob to Azure storage (Resource Manager)",
    long_about = "Store a disk as a page blob, as upload-blob does, and print its URL. The storage account's key comes \
        from the environment ($AZURE_STORAGE_KEY and the like), else from the Resource Manager; who may not have it uses \
        a token of their own."
)]
pub struct UploadArm {
    #[command(flatten)]
    choices: Choices,

    /// Storage account of the blob
    #[arg(long, value_name = "ACCOUNT", default_value = "kola")]
    storage_account: String,

    /// Container of the blob
    #[arg(long, value_name = "CONTAINER", default_value = "vhds")]
    container: String,

    /// Name of the blob [default: Container-Linux-dev-$USER-VERSION.vhd, VERSION of the version.txt beside the file]
    #[arg(long, value_name = "NAME")]
    blob_name: Option<String>,

    #[arg(
        long,
        value_name = "FILE",
        value_parser = path_parser(),
        value_hint = ValueHint::FilePath,
        help = format!("Disk to upload [default: the SDK's latest {FILE}]")
    )]
    file: Option<PathBuf>,

    /// Resource group of the storage account
    #[arg(long, value_name = "GROUP", default_value = "kola")]
    resource_group: String,
}

impl Verb for UploadArm {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        let name = required(&self.storage_account, "--storage-account")?;
        let group = required(&self.resource_group, "--resource-group")?;
        let file = match self.file.filter(|f| !f.as_os_str().is_empty()) {
            Some(file) => file,
            None => sdk::image_dir("amd64-usr", "latest").map_err(|e| usage(e.to_string()))?.join(FILE),
        };
        let blob = match given(self.blob_name) {
            Some(blob) => blob,
            None => format!("Container-Linux-dev-{}-{}.vhd", user()?, version_beside(&file, "--blob-name")?),
        };
        let limit = vhd::MAX_SIZE;
        self.choices.check(&blob, &file, limit).await?;
        let environment = Environment::of_process();
        let arm = account.sign_in(context).await?;
        let place = arm.blobs().map_err(|e| e.explain(""))?;
        // A wrong name of an account is told before anybody is asked about it.
        place.of(name).map_err(|e| usage(e.to_string()))?;
        let credential = match environment.credential(name).map_err(|e| e.explain(""))? {
            Some(credential) => credential,
            None => {
                let fetched = async { Ok(arm.storage_credential(group, name).await) };
                let fetched = unless_cancelled(context, fetched).await?;
                fetched.map_err(|e| e.explain("Fetching storage service keys failed"))?
            }
        };
        let storage = Storage::new(&place, name, credential);
        let storage = storage.map_err(|e| e.explain("Uploading blob failed"))?;
        let url = self.choices.upload(&storage, (&self.container, &blob), &file, limit, context).await?;
        Ok(output::line(json!({"URL": url.as_str()}).to_string())?)
    }
}
