//! Whose OpenStack, and where.

use std::path::PathBuf;

use serde::{Serialize, Serializer};

/// Whose OpenStack, and where. Commands for OpenStack alone leave the prefix `openstack-` out.
#[derive(Clone, Debug, Default, clap::Args, Serialize)]
#[group(skip)]
pub struct Account {
    /// OpenStack config file, JSON; nothing else is looked at [default: ~/.config/openstack.json, else clouds.yaml and
    /// $OS_... as other tools do]
    #[arg(long, value_name = "FILE", value_parser = crate::args::path_parser(), value_hint = clap::ValueHint::FilePath)]
    #[serde(skip)]
    pub openstack_config_file: Option<PathBuf>,

    /// OpenStack profile of the config file, or cloud of clouds.yaml [default: "default", or $OS_CLOUD]
    #[arg(long, value_name = "NAME")]
    #[serde(skip)]
    pub openstack_profile: Option<String>,

    /// OpenStack region [default: that of the profile, else $OS_REGION_NAME]
    #[arg(long, value_name = "REGION")]
    #[serde(rename = "region", serialize_with = "text_or_empty")]
    pub openstack_region: Option<String>,

    /// OpenStack domain ID of user and project [default: that of the profile]
    #[arg(long, value_name = "ID")]
    #[serde(skip)]
    pub openstack_domain: Option<String>,
}

/// properties.json always has a region, as upstream's did.
fn text_or_empty<S: Serializer>(text: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text.as_deref().unwrap_or_default())
}

impl Account {
    /// The profile or cloud that was asked for; an empty one counts as absent.
    pub(super) fn profile(&self) -> Option<&str> {
        self.openstack_profile.as_deref().filter(|p| !p.is_empty())
    }
}
