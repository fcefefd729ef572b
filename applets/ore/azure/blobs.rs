//! `ore azure upload-blob`, and what all uploads of disks to Azure share.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ::mantle::applet::Context;
use ::mantle::cloud::azure::storage::{
    Credential, Environment, Key, Outcome, SUFFIX, Storage, Upload as Disk, UploadError,
};
use ::mantle::disk::vhd;
use ::mantle::error::{Result, eyre, usage};
use ::mantle::http::CallError;
use ::mantle::info;
use ::mantle::progress::Progress;
use clap::Parser;
use reqwest::Url;

use super::Options;
use super::classic::{self, switched_off};
use crate::ore::group::{Explain, Verb, unless_cancelled};

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
