//! `ore openstack create-image` and `delete-image`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ::mantle::applet::Context;
use ::mantle::args::path_parser;
use ::mantle::cloud::openstack::api::{Api, Image};
use ::mantle::cloud::openstack::images::{self, Failure, Source, Wanted};
use ::mantle::error::{Result, eyre, usage};
use ::mantle::{info, output, sdk, warning};
use clap::{Parser, ValueHint};
use serde_json::json;

use super::Options;
use crate::ore::group::{Account as _, Explain, Json, Verb, given, unless_cancelled};

/// What the SDK calls the image.
const FILE: &str = "coreos_production_openstack_image.img";

#[derive(Parser)]
#[command(
    name = "create-image",
    about = "Create OpenStack image",
    long_about = "Upload an image, wait until it can be used, and print its id. A file that is packed with gzip, bzip2, \
        xz or zstd is unpacked on the way. What the service got is compared with what was sent; after a failure no image \
        is left. The image gets the tag mantle, so that gc removes it one day unless it is protected."
)]
pub struct Create {
    #[arg(
        long,
        value_name = "FILE",
        value_parser = path_parser(),
        value_hint = ValueHint::FilePath,
        help = format!("Image to upload [default: the SDK's latest {FILE}]")
    )]
    file: Option<PathBuf>,

    /// Name of the image
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// How the disk is written down in the file [default: as the file looks]
    #[arg(long, value_name = "FORMAT", value_parser = ["qcow2", "raw", "vmdk"])]
    disk_format: Option<String>,

    /// Property of the image, such as hw_disk_bus=scsi; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = property)]
    property: Vec<(String, String)>,

    /// Who may see the image [default: the service's]
    #[arg(long, value_name = "WHO", value_parser = ["private", "shared", "community", "public"])]
    visibility: Option<String>,

    /// Protect the image from deletion
    #[arg(long)]
    protected: bool,

    /// Print a line of JSON in place of the id
    #[arg(long)]
    json: bool,
}

/// Names that are the image's own fields, which properties would replace.
const FIELDS: [&str; 14] = [
    "checksum",
    "container_format",
    "disk_format",
    "id",
    "min_disk",
    "min_ram",
    "name",
    "owner",
    "protected",
    "size",
    "status",
    "tags",
    "virtual_size",
    "visibility",
];

fn property(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, _)) if FIELDS.contains(&key) => {
            Err(format!("{key} is no property: the image itself has a field of this name"))
        }
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it is not KEY=VALUE".into()),
    }
}

impl Verb for Create {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        let name = given(self.name).ok_or_else(|| usage("--name is required"))?;
        let file = match self.file.filter(|f| !f.as_os_str().is_empty()) {
            Some(file) => file,
            None => sdk::image_dir("amd64-usr", "latest").map_err(|e| usage(e.to_string()))?.join(FILE),
        };
        // Before anybody is asked for anything.
        let opened = tokio::task::spawn_blocking(move || Source::open(&file)).await?;
        let source = opened.map_err(|e| e.explain("Couldn't create image"))?;
        let format = self.disk_format.unwrap_or_else(|| source.format.name().to_owned());
        if format != source.format.name() {
            warning!("ore", "the file looks like {}, but is uploaded as {format}", source.format);
        }
        let api = account.sign_in(context).await?;
        let same = unless_cancelled(context, async {
            api.images_named(&name).await.map_err(|e| e.explain("Couldn't look for images of the name"))
        });
        let same = same.await?;
        if !same.is_empty() {
            warning!("ore", "there will be several images {name:?}; of this name there is: {}", ids(&same));
        }
        let properties: BTreeMap<String, String> = self.property.into_iter().collect();
        let wanted = Wanted {
            name: &name,
            format: &format,
            visibility: self.visibility.as_deref(),
            protected: self.protected,
            properties: &properties,
        };
        let made = images::create(&api, &source, &wanted, &context.cancel).await;
        let image = made.map_err(|e| e.explain("Couldn't create image"))?;
        match self.json {
            false => output::line(&image.id)?,
            true => output::line(serde_json::to_string(&json!({
                "id": image.id,
                "name": image.name,
                "disk_format": image.disk_format,
                "size": image.size,
                "visibility": image.visibility,
                "os_hash_algo": image.os_hash_algo,
                "os_hash_value": image.os_hash_value,
            }))?)?,
        }
        Ok(())
    }
}

#[derive(Parser)]
#[command(name = "delete-image", about = "Delete image on OpenStack")]
pub struct Delete {
    /// Id or name of the image
    #[arg(long, value_name = "IMAGE")]
    id: Option<String>,

    #[command(flatten)]
    form: Json,
}

impl Verb for Delete {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        let named = given(self.id).ok_or_else(|| usage("--id is required"))?;
        let api = account.sign_in_to_remove(context).await?;
        let found = unless_cancelled(context, find(&api, &named)).await?;
        api.delete_image(&found.id).await.map_err(|e| e.explain("Couldn't delete image"))?;
        match self.form.json {
            true => output::line(serde_json::to_string(&json!([{"id": found.id, "name": found.name}]))?)?,
            false => info!("ore", "deleted image {}", found.id),
        }
        Ok(())
    }
}

/// The image that is meant.
async fn find(api: &Api, named: &str) -> Result<Image> {
    let found = api.image_named(named).await.map_err(|e| e.explain("Couldn't find image"))?;
    let project = &api.grant().project;
    found.ok_or_else(|| eyre!("Couldn't find image: project {project:?} has no image {named:?}"))
}

fn ids(images: &[Image]) -> String {
    images.iter().map(|i| i.id.as_str()).collect::<Vec<_>>().join(", ")
}

impl Explain for Failure {
    fn is_interruption(&self) -> bool {
        matches!(self, Self::Interrupted)
    }

    fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Call(e) => Explain::advice(e),
            Self::Differs { .. } | Self::Late(_) => Some("try again"),
            _ => None,
        }
    }
}
