//! `ore azure create-image`, `replicate-image`, `share-image` and `unreplicate-image`: the classic API.

use ::mantle::applet::Context;
use ::mantle::cloud::azure::classic::{Account, Classic, NewImage, Permission, Subscription};
use ::mantle::error::{Result, Section as _, eyre, usage};
use ::mantle::info;
use clap::{Parser, ValueEnum as _};

use super::Options;
use crate::ore::group::{Explain as _, Verb, given};

/// Ends the descriptions of all that goes through the classic API.
macro_rules! switched_off {
    ($text:literal) => {
        concat!(
            $text,
            "\n\nThis speaks the classic API (ASM, with a management certificate), which Azure switched off on \
             2024-08-31: it works where something else answers at the profile's managementEndpointUrl."
        )
    };
}
pub(super) use switched_off;

/// The regions that there were at upstream's end.
const REGIONS: &[&str] = &[
    "East US",
    "West US",
    "South Central US",
    "Central US",
    "North Central US",
    "East US 2",
    "North Europe",
    "West Europe",
    "Southeast Asia",
    "East Asia",
    "Japan West",
    "Japan East",
    "Brazil South",
    "Australia Southeast",
    "Australia East",
    "Central India",
    "South India",
    "West India",
    "Canada Central",
    "Canada East",
    "UK North",
    "UK South 2",
    "West US 2",
    "West Central US",
    "UK West",
    "UK South",
    "Central US EUAP",
    "East US 2 EUAP",
];

/// The subscription that the options choose.
pub async fn subscription(account: &Account) -> Result<Subscription> {
    info!("ore", "Creating Azure API...");
    let account = account.clone();
    let found = tokio::task::spawn_blocking(move || account.subscription()).await?;
    found.map_err(|e| eyre!(e).suggestion(CHOOSE))
}

const CHOOSE: &str = "pass --azure-profile and --azure-subscription of one with a management certificate";

/// The classic API of a subscription.
pub fn open(subscription: &Subscription) -> Result<Classic> {
    let api = Classic::new(subscription).map_err(|e| e.explain("could not create Azure client"));
    api.suggestion(CHOOSE)
}

/// The classic API of the subscription that the options choose.
async fn api(options: &Options) -> Result<Classic> {
    open(&subscription(&options.classic()).await?)
}

/// The one argument that there has to be.
fn one(arguments: Vec<String>) -> Result<String> {
    let count = arguments.len();
    let mut arguments = arguments.into_iter().filter(|a| !a.is_empty());
    match (count, arguments.next()) {
        (1, Some(argument)) => Ok(argument),
        _ => Err(usage(format!("expecting 1 argument, got {count}"))),
    }
}

fn required(text: Option<String>, what: &str) -> Result<String> {
    given(text).ok_or_else(|| usage(format!("{what} is required")))
}

#[derive(Parser)]
#[command(
    name = "create-image",
    about = "Create Azure image",
    long_about = switched_off!("Register a page blob as an operating system image, and wait until that is done.")
)]
pub struct Create {
    /// Image name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Image label
    #[arg(long, value_name = "LABEL")]
    label: Option<String>,

    /// Image description
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    /// Source blob (its URL)
    #[arg(long, value_name = "URL")]
    blob: Option<String>,

    /// Image family
    #[arg(long, value_name = "FAMILY")]
    family: Option<String>,

    /// Image published date [default: today]
    #[arg(long, value_name = "YYYY-MM-DD")]
    published_date: Option<String>,

    /// Recommended VM size
    #[arg(long, value_name = "SIZE", default_value = "Medium")]
    recommended_vm_size: String,

    /// Icon URI
    #[arg(long, value_name = "URI", default_value = "coreos-globe-color-lg-100px.png")]
    icon_uri: String,

    /// Small icon URI
    #[arg(long, value_name = "URI", default_value = "coreos-globe-color-lg-45px.png")]
    small_icon_uri: String,
}

impl Verb for Create {
    type Account = Options;

    async fn run(self, options: Options, context: &Context) -> Result<()> {
        let name = required(self.name, "--name")?;
        let (label, blob) = (required(self.label, "--label")?, required(self.blob, "--blob")?);
        let today = || chrono::Local::now().format("%Y-%m-%d").to_string();
        let mut image = NewImage::new(name, label, blob);
        image.description = self.description.unwrap_or_default();
        image.image_family = self.family.unwrap_or_default();
        image.published_date = given(self.published_date).unwrap_or_else(today);
        image.icon_uri = self.icon_uri;
        image.recommended_vm_size = self.recommended_vm_size;
        image.small_icon_uri = self.small_icon_uri;
        let api = api(&options).await?;
        let added = api.add_image(&image, &context.cancel).await;
        added.map_err(|e| e.explain("Couldn't create image"))
    }
}

#[derive(Parser)]
#[command(
    name = "replicate-image",
    about = "Replicate an OS image in Azure",
    long_about = switched_off!(
        "Copy an image into regions. The list is the whole of it: regions that are not in it lose theirs."
    )
)]
pub struct Replicate {
    /// Offer of the image
    #[arg(long, value_name = "OFFER", default_value = "CoreOS")]
    offer: String,

    /// SKU of the image
    #[arg(long, value_name = "SKU")]
    sku: Option<String>,

    /// Version of the image
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,

    /// Target regions
    #[arg(long, value_name = "REGION", value_delimiter = ',', default_values = REGIONS)]
    region: Vec<String>,

    /// Name of the image
    #[arg(value_name = "IMAGE")]
    image: Vec<String>,
}

impl Verb for Replicate {
    type Account = Options;

    async fn run(self, options: Options, context: &Context) -> Result<()> {
        let image = one(self.image)?;
        let offer = required(Some(self.offer), "offer name")?;
        let sku = required(self.sku, "sku")?;
        let version = required(self.version, "version")?;
        semver::Version::parse(&version).map_err(|e| usage(format!("version is not valid semver: {e}")))?;
        let regions: Vec<String> = self.region.into_iter().filter(|r| !r.is_empty()).collect();
        if regions.is_empty() {
            return Err(usage("at least one region is required"));
        }
        let api = api(&options).await?;
        let attributes = (&*offer, &*sku, &*version);
        let done = api.replicate_image(&image, attributes, &regions, &context.cancel).await;
        done.map_err(|e| e.explain(&format!("Couldn't replicate image {image}")))
    }
}

#[derive(Parser)]
#[command(
    name = "share-image",
    about = "Set permissions on an azure OS image",
    long_about = switched_off!("Say who may use an image.")
)]
pub struct Share {
    /// Image permission: public, msdn or private
    #[arg(long, value_name = "PERMISSION", default_value = "public")]
    permission: String,

    /// Name of the image
    #[arg(value_name = "IMAGE")]
    image: Vec<String>,
}

impl Verb for Share {
    type Account = Options;

    async fn run(self, options: Options, context: &Context) -> Result<()> {
        let image = one(self.image)?;
        let permission = required(Some(self.permission), "permission")?;
        let permission = Permission::from_str(&permission, false)
            .map_err(|_| usage(format!("permission {permission:?} is none of public, msdn and private")))?;
        let done = api(&options).await?.share_image(&image, permission, &context.cancel).await;
        done.map_err(|e| e.explain(&format!("Couldn't share image {image}")))
    }
}

#[derive(Parser)]
#[command(
    name = "unreplicate-image",
    about = "Unreplicate an OS image in Azure",
    long_about = switched_off!("Remove an image from all regions.")
)]
pub struct Unreplicate {
    /// Name of the image
    #[arg(value_name = "IMAGE")]
    image: Vec<String>,
}

impl Verb for Unreplicate {
    type Account = Options;

    async fn run(self, options: Options, context: &Context) -> Result<()> {
        let image = one(self.image)?;
        let done = api(&options).await?.unreplicate_image(&image, &context.cancel).await;
        done.map_err(|e| e.explain(&format!("Couldn't unreplicate image {image}")))
    }
}
