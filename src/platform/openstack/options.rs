//! What a user can say about machines at an OpenStack.

use std::path::PathBuf;

use serde::Serialize;

use crate::cloud::openstack::Account;

/// Options of platform openstack; serialized as its part of properties.json.
#[derive(Clone, Debug, clap::Args, Serialize)]
#[group(skip)]
pub struct Options {
    #[command(flatten)]
    #[serde(flatten)]
    pub(super) account: Account,

    /// OpenStack image, by id or name
    #[arg(long, value_name = "IMAGE", default_value = "", hide_default_value = true)]
    #[serde(rename = "image")]
    pub(super) openstack_image: String,

    /// OpenStack flavor, by id or name
    #[arg(long, value_name = "FLAVOR", default_value = "1")]
    #[serde(rename = "flavor")]
    pub(super) openstack_flavor: String,

    /// OpenStack network, by id or name [default: the first one]
    #[arg(long, value_name = "NETWORK", default_value = "", hide_default_value = true)]
    #[serde(skip)]
    pub(super) openstack_network: String,

    /// OpenStack network that floating IPs are taken of, by id or name [default: that of the profile, else servers get none]
    #[arg(long, value_name = "NETWORK", default_value = "", hide_default_value = true)]
    #[serde(skip)]
    pub(super) openstack_floating_ip_pool: String,

    /// Run OpenStack servers from volumes of so many GiB, made of the image
    #[arg(long, value_name = "GIB", value_parser = clap::value_parser!(u32).range(1..))]
    #[serde(skip)]
    pub(super) openstack_boot_volume: Option<u32>,

    /// Type of these volumes [default: the cloud's]
    #[arg(long, value_name = "TYPE", requires = "openstack_boot_volume")]
    #[serde(skip)]
    pub(super) openstack_boot_volume_type: Option<String>,

    /// Give OpenStack servers their metadata on a disk, too
    #[arg(long)]
    #[serde(skip)]
    pub(super) openstack_config_drive: bool,

    /// Reach OpenStack servers through SSH to this host
    #[arg(long, value_name = "HOST[:PORT]")]
    #[serde(skip)]
    pub(super) openstack_host: Option<String>,

    /// User on that host [default: $USER]
    #[arg(long, value_name = "USER", requires = "openstack_host")]
    #[serde(skip)]
    pub(super) openstack_user: Option<String>,

    /// Private key for that host [default: those of the SSH agent]
    #[arg(long, value_name = "FILE", requires = "openstack_host", value_parser = crate::args::path_parser(), value_hint = clap::ValueHint::FilePath)]
    #[serde(skip)]
    pub(super) openstack_keyfile: Option<PathBuf>,
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
    fn properties_hold_region_image_and_flavor() {
        let words = ["x", "--openstack-image=i", "--openstack-profile=p", "--openstack-network=n"];
        let cli = Cli::try_parse_from(words).unwrap();
        let json = serde_json::to_string(&cli.options).unwrap();
        assert_eq!(json, r#"{"region":"","image":"i","flavor":"1"}"#);
    }
}
