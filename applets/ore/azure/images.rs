//! `ore azure create-image-arm`, `delete-blob` and `delete-image`.

use ::mantle::applet::Context;
use ::mantle::cloud::azure::arm::{Arm, Generation, Image, NewImage};
use ::mantle::error::{Result, eyre, usage};
use ::mantle::output;
use clap::Parser;
use serde_json::json;

use super::Options;
use crate::ore::group::{Account as _, Explain as _, Verb, unless_cancelled};

/// A name that has to be there, and the option that it comes from.
pub(super) fn required<'a>(name: &'a str, option: &str) -> Result<&'a str> {
    match name {
        "" => Err(usage(format!("{option} is required"))),
        // Of a path in the service's addresses.
        name if name.contains('/') => Err(usage(format!("{option}={name}: a name has no /"))),
        name => Ok(name),
    }
}

/// The address of a page blob, from an option.
pub(super) fn blob<'a>(text: &'a str, option: &str) -> Result<&'a str> {
    match reqwest::Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.path().len() > 1 => Ok(text),
        _ if text.is_empty() => Err(usage(format!("{option} is required"))),
        _ => Err(usage(format!("{option}={text}: it is no URL of a page blob"))),
    }
}

/// Makes a managed image of a page blob.
pub(super) async fn create(arm: &Arm, group: &str, new: &NewImage<'_>, context: &Context) -> Result<Image> {
    arm.make_image(group, new, &context.cancel).await.map_err(|e| e.explain("Couldn't create image"))
}

/// Says what was made.
pub(super) fn print(image: &Image) -> Result<()> {
    Ok(output::line(json!({"ID": image.id, "Location": image.location}).to_string())?)
}

#[derive(Parser)]
#[command(
    name = "create-image-arm",
    about = "Create Azure image from a blob",
    long_about = "Make a managed image of a page blob in a storage account, and print its ID."
)]
pub struct Create {
    /// Name of the image
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    image_name: String,

    /// URL of the page blob
    #[arg(long, value_name = "URL", default_value = "", hide_default_value = true)]
    image_blob: String,

    /// Resource group of the image
    #[arg(long, value_name = "GROUP", default_value = "kola")]
    resource_group: String,

    /// How machines of the image boot: V1 by a BIOS, V2 by UEFI [default: V1]
    #[arg(long, value_name = "GENERATION")]
    hyper_v_generation: Option<Generation>,
}

impl Verb for Create {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        let new = NewImage {
            name: required(&self.image_name, "--image-name")?,
            blob: blob(&self.image_blob, "--image-blob")?,
            generation: self.hyper_v_generation,
        };
        let group = required(&self.resource_group, "--resource-group")?;
        let arm = account.sign_in(context).await?;
        print(&create(&arm, group, &new, context).await?)
    }
}

#[derive(Parser)]
#[command(name = "delete-image", about = "Delete an Azure image")]
pub struct Delete {
    /// Name of the image
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    image_name: String,

    /// Resource group of the image
    #[arg(long, value_name = "GROUP", default_value = "kola")]
    resource_group: String,
}

impl Verb for Delete {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        let name = required(&self.image_name, "--image-name")?;
        let group = required(&self.resource_group, "--resource-group")?;
        let arm = account.sign_in_to_remove(context).await?;
        let removed = arm.remove_image(group, name, &context.cancel).await;
        match removed.map_err(|e| e.explain("Couldn't delete image"))? {
            true => ::mantle::info!("ore", "deleted image {name}"),
            false => return Err(eyre!("there is no image {name} in resource group {group}")),
        }
        Ok(())
    }
}

#[derive(Parser)]
#[command(name = "delete-blob", about = "Delete a blob from an Azure storage account")]
pub struct DeleteBlob {
    /// Storage account of the blob
    #[arg(long, value_name = "ACCOUNT", default_value = "kola")]
    storage_account: String,

    /// Container of the blob
    #[arg(long, value_name = "CONTAINER", default_value = "vhds")]
    container: String,

    /// Name of the blob
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    blob_name: String,

    /// Resource group of the storage account
    #[arg(long, value_name = "GROUP", default_value = "kola")]
    resource_group: String,
}

impl Verb for DeleteBlob {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        let storage = required(&self.storage_account, "--storage-account")?;
        let container = required(&self.container, "--container")?;
        let group = required(&self.resource_group, "--resource-group")?;
        let blob = self.blob_name.as_str();
        if blob.is_empty() {
            return Err(usage("--blob-name is required"));
        }
        let arm = account.sign_in_to_remove(context).await?;
        let removed = unless_cancelled(context, async {
            let removed = arm.remove_blob(group, storage, container, blob).await;
            removed.map_err(|e| e.explain("Couldn't delete blob"))
        });
        match removed.await? {
            true => ::mantle::info!("ore", "deleted blob {container}/{blob}"),
            false => return Err(eyre!("there is no blob {blob} in container {container} of {storage}")),
        }
        Ok(())
    }
}
