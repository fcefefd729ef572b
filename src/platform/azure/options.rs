//! What a user can say about machines at Azure.

use serde::Serialize;
use serde::ser::SerializeStruct as _;

use crate::cloud::azure::Account;
use crate::cloud::azure::arm::Generation;

/// What disks are attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Controller {
    /// What image and size agree on.
    Default,
    /// SCSI.
    Scsi,
    /// NVMe.
    Nvme,
}

/// Where consoles are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Console {
    /// Where Azure likes.
    Managed,
    /// In a storage account of the run.
    Account,
    /// Nowhere.
    None,
}

/// Options of platform azure.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    #[command(flatten)]
    pub(super) account: Account,

    /// Azure image: the ID of a managed image or of a gallery's, or the URL of a page blob with a disk
    #[arg(long, value_name = "IMAGE", default_value = "", hide_default_value = true)]
    pub(super) azure_disk_uri: String,

    /// Publisher of the Azure image, where no other is named
    #[arg(long, value_name = "NAME", default_value = "CoreOS")]
    pub(super) azure_publisher: String,

    /// Offer of the Azure image
    #[arg(long, value_name = "NAME", default_value = "CoreOS")]
    pub(super) azure_offer: String,

    /// SKU of the Azure image: the channel
    #[arg(long, value_name = "NAME", default_value = "alpha")]
    pub(super) azure_sku: String,

    /// Version of the Azure image; the newest release of the channel if it is empty
    #[arg(long, value_name = "VERSION", default_value = "", hide_default_value = true)]
    pub(super) azure_version: String,

    /// Azure machine size
    #[arg(long, value_name = "SIZE", default_value = "Standard_D2_v2")]
    pub(super) azure_size: String,

    /// How machines of a page blob boot: V1 by a BIOS, V2 by UEFI
    #[arg(long, value_name = "GENERATION", default_value = "V1")]
    pub(super) azure_hyper_v_generation: Generation,

    /// What disks are attached to
    #[arg(long, value_name = "KIND", default_value = "default")]
    pub(super) azure_disk_controller: Controller,

    /// ID of the identity that machines have at Azure
    #[arg(long, value_name = "ID")]
    pub(super) azure_vm_identity: Option<String>,

    /// Boot with Secure Boot and a TPM; needs an image of a gallery that supports it
    #[arg(long)]
    pub(super) azure_trusted_launch: bool,

    /// Existing subnet for the machines, in place of one of the run's own
    #[arg(long, value_name = "GROUP/NETWORK/SUBNET")]
    pub(super) azure_vnet_subnet_name: Option<String>,

    /// Reach machines by their private addresses; they get no public ones
    #[arg(long)]
    pub(super) azure_use_private_ips: bool,

    /// Where consoles are kept
    #[arg(long, value_name = "WHERE", default_value = "managed")]
    pub(super) azure_console: Console,

    /// Where the versions of releases are; {channel} stands for the channel
    #[arg(
        long,
        env = "MANTLE_RELEASE_URL",
        hide_env_values = true,
        value_name = "URL",
        default_value = "https://{channel}.release.core-os.net"
    )]
    pub(super) azure_release_url: String,
}

/// As properties.json has them.
impl Serialize for Options {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("azure", 7)?;
        out.serialize_field("diskUri", &self.azure_disk_uri)?;
        out.serialize_field("publisher", &self.azure_publisher)?;
        out.serialize_field("offer", &self.azure_offer)?;
        out.serialize_field("sku", &self.azure_sku)?;
        out.serialize_field("version", &self.azure_version)?;
        out.serialize_field("location", &self.account.azure_location)?;
        out.serialize_field("size", &self.azure_size)?;
        out.end()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn properties_hold_image_place_and_size() {
        let line =
            ["x", "--azure-sku=beta", "--azure-auth=/SECRET", "--azure-location=l", "--azure-disk-uri=d"];
        let json = serde_json::to_string(&Cli::try_parse_from(line).unwrap().options).unwrap();
        assert_eq!(
            json,
            r#"{"diskUri":"d","publisher":"CoreOS","offer":"CoreOS","sku":"beta","version":"","location":"l","size":"Standard_D2_v2"}"#
        );
    }
}
