//! `ore azure create-gallery-image` and `delete-gallery-image`.

use ::mantle::applet::Context;
use ::mantle::cloud::azure::arm::{Definition, Generation, NewImage};
use ::mantle::error::{Result, eyre, usage};
use clap::Parser;

use super::Options;
use super::images::{blob, create, print, required};
use crate::ore::group::{Account as _, Explain as _, Verb};

/// As Azure spells it.
fn architecture(text: &str) -> Result<String, String> {
    match text.to_ascii_lowercase().as_str() {
        "x64" | "x86_64" | "amd64" => Ok("x64".into()),
        "arm64" | "aarch64" => Ok("Arm64".into()),
        _ => Err("it is neither x64 nor Arm64".into()),
    }
}

/// Three numbers, as the service takes them.
fn version(text: &str) -> Result<String, String> {
    let parts: Vec<_> = text.split('.').collect();
    match parts.len() == 3 && parts.iter().all(|p| p.parse::<i32>().is_ok_and(|n| n >= 0)) {
        true => Ok(text.into()),
        false => Err("it is no MAJOR.MINOR.PATCH".into()),
    }
}

#[derive(Parser)]
#[command(
    name = "create-gallery-image",
    about = "Create Azure Gallery image",
    long_about = "Make a version of an image in a compute gallery, and the gallery and the image where they are \
        missing. It is made of a managed image: of one that is there, or of one of the same name that is made of a page \
        blob first. Prints the ID of the version."
)]
pub struct Create {
    /// Name of the image in the gallery
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    gallery_image_name: String,

    /// Name of the gallery
    #[arg(long, value_name = "NAME", default_value = "kola")]
    gallery_name: String,

    /// Version of the image
    #[arg(long = "image-version", value_name = "VERSION", default_value = "1.0.0", value_parser = version)]
    version: String,

    /// URL of a page blob
    #[arg(long, value_name = "URL", conflicts_with = "image_id")]
    image_blob: Option<String>,

    /// ID of a managed image
    #[arg(long, value_name = "ID")]
    image_id: Option<String>,

    /// Resource group of the gallery
    #[arg(long, value_name = "GROUP", default_value = "kola")]
    resource_group: String,

    /// How machines of the image boot: V1 by a BIOS, V2 by UEFI
    #[arg(long, value_name = "GENERATION", default_value = "V2")]
    hyper_v_generation: Generation,

    /// Architecture of the image: x64 or Arm64
    #[arg(long, value_name = "ARCH", default_value = "x64", value_parser = architecture)]
    arch: String,
}

impl Verb for Create {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        let name = required(&self.gallery_image_name, "--gallery-image-name")?;
        let gallery = required(&self.gallery_name, "--gallery-name")?;
        let group = required(&self.resource_group, "--resource-group")?;
        let of = Definition { gallery, name, generation: self.hyper_v_generation, architecture: &self.arch };
        let source = match (&self.image_id, &self.image_blob) {
            (Some(id), _) if id.starts_with("/subscriptions/") => Ok(id),
            (Some(id), _) => return Err(usage(format!("--image-id={id}: it is no ID of an image"))),
            (None, Some(text)) => Err(blob(text, "--image-blob")?),
            (None, None) => return Err(usage("--image-blob or --image-id is required")),
        };
        let arm = account.sign_in(context).await?;
        let made;
        let source = match source {
            Ok(id) => id,
            Err(blob) => {
                let new = NewImage { name, blob, generation: Some(self.hyper_v_generation) };
                made = create(&arm, group, &new, context).await?;
                &made.id
            }
        };
        let version = arm.make_version(group, &of, &self.version, source, &context.cancel).await;
        print(&version.map_err(|e| e.explain("Couldn't create gallery image"))?)
    }
}

#[derive(Parser)]
#[command(
    name = "delete-gallery-image",
    about = "Delete Azure Gallery image",
    long_about = "Delete an image from a compute gallery with all its versions. The gallery stays, and so do the managed \
        images that the versions were made of."
)]
pub struct Delete {
    /// Name of the image in the gallery
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    gallery_image_name: String,

    /// Name of the gallery
    #[arg(long, value_name = "NAME", default_value = "kola")]
    gallery_name: String,

    /// Resource group of the gallery
    #[arg(long, value_name = "GROUP", default_value = "kola")]
    resource_group: String,
}

impl Verb for Delete {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        let name = required(&self.gallery_image_name, "--gallery-image-name")?;
        let gallery = required(&self.gallery_name, "--gallery-name")?;
        let group = required(&self.resource_group, "--resource-group")?;
        let arm = account.sign_in_to_remove(context).await?;
        let removed = arm.remove_definition(group, gallery, name, &context.cancel).await;
        match removed.map_err(|e| e.explain("Couldn't delete gallery image"))? {
            true => ::mantle::info!("ore", "deleted image {name} from gallery {gallery}"),
            false => {
                return Err(eyre!("there is no image {name} in gallery {gallery} of resource group {group}"));
            }
        }
        Ok(())
    }
}
