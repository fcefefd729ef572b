//! Whose vSphere, and where in it.

use std::path::PathBuf;

use serde::{Serialize, Serializer};

/// Whose vSphere, and where in it. Commands for vSphere alone leave the prefix `esx-` out.
#[derive(Clone, Debug, Default, clap::Args, Serialize)]
#[group(skip)]
pub struct Account {
    /// ESX config file, JSON; $GOVC_URL is not looked at [default: ~/.config/esx.json]
    #[arg(long, value_name = "FILE", value_parser = crate::args::path_parser(), value_hint = clap::ValueHint::FilePath)]
    #[serde(skip)]
    pub esx_config_file: Option<PathBuf>,

    /// ESX server, as HOST[:PORT] or URL [default: $GOVC_URL, else that of the profile]
    #[arg(long, value_name = "SERVER")]
    #[serde(rename = "server", serialize_with = "text_or_empty")]
    pub esx_server: Option<String>,

    /// ESX profile of the config file; $GOVC_URL is not looked at [default: "default"]
    #[arg(long, value_name = "NAME")]
    #[serde(skip)]
    pub esx_profile: Option<String>,

    /// ESX datacenter, by name or inventory path [default: $GOVC_DATACENTER, that of the profile, or the only one]
    #[arg(long, value_name = "NAME")]
    #[serde(skip)]
    pub esx_datacenter: Option<String>,

    /// ESX resource pool, cluster or host, by name or inventory path [default: $GOVC_RESOURCE_POOL, that of the
    /// profile, or the only one of a cluster or host]
    #[arg(long, value_name = "NAME")]
    #[serde(skip)]
    pub esx_resource_pool: Option<String>,

    /// ESX datastore, by name or inventory path [default: $GOVC_DATASTORE, that of the profile, or the only one]
    #[arg(long, value_name = "NAME")]
    #[serde(skip)]
    pub esx_datastore: Option<String>,

    /// ESX network, by name or inventory path [default: $GOVC_NETWORK, that of the profile, or the only one]
    #[arg(long, value_name = "NAME")]
    #[serde(skip)]
    pub esx_network: Option<String>,

    /// ESX folder of virtual machines, by name or inventory path [default: $GOVC_FOLDER, that of the profile, or the
    /// datacenter's own]
    #[arg(long, value_name = "NAME")]
    #[serde(skip)]
    pub esx_folder: Option<String>,

    /// Trust the ESX server whatever its certificate, as $GOVC_INSECURE=true does; said whenever it is so
    #[arg(long)]
    #[serde(skip)]
    pub esx_insecure: bool,

    /// Certificates in PEM that are trusted for the ESX server [default: $GOVC_TLS_CA_CERTS, those of the profile, or
    /// the system's]
    #[arg(long, value_name = "FILE", value_parser = crate::args::path_parser(), value_hint = clap::ValueHint::FilePath)]
    #[serde(skip)]
    pub esx_ca_file: Option<PathBuf>,

    /// SHA-256 or SHA-1 of the ESX server's own certificate, which is trusted then [default: that of the profile]
    #[arg(long, value_name = "HEX", conflicts_with = "esx_insecure")]
    #[serde(skip)]
    pub esx_thumbprint: Option<String>,
}

/// properties.json always has a server, as upstream's did.
fn text_or_empty<S: Serializer>(text: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text.as_deref().unwrap_or_default())
}
