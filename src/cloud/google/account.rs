//! Whose Google Cloud, and where.

use std::path::PathBuf;

use super::sources::Choice;

/// Whose Google Cloud, and where. Commands for Google alone leave the prefix `gce-` out.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Account {
    /// Google Cloud project of instances and images
    #[arg(
        long,
        env = "CLOUDSDK_CORE_PROJECT",
        hide_env_values = true,
        value_name = "PROJECT",
        default_value = "coreos-gce-testing"
    )]
    pub gce_project: String,

    /// Google Cloud zone of instances
    #[arg(
        long,
        env = "CLOUDSDK_COMPUTE_ZONE",
        hide_env_values = true,
        value_name = "ZONE",
        default_value = "us-central1-a"
    )]
    pub gce_zone: String,

    /// Use the credentials of this Compute Engine machine
    #[arg(long)]
    pub gce_service_auth: bool,

    /// Use the credentials in this file, in Google's JSON form, such as the key of a service account
    #[arg(long, value_name = "FILE", value_parser = crate::args::path_parser(), value_hint = clap::ValueHint::FilePath)]
    pub gce_json_key: Option<PathBuf>,

    /// Compute Engine API to use in place of Google's
    #[arg(long, value_name = "URL")]
    pub gce_endpoint: Option<String>,
}

impl Account {
    /// Which credentials were asked for.
    pub fn choice(&self) -> Choice {
        let key = self.gce_json_key.clone().filter(|k| !k.as_os_str().is_empty());
        Choice { service: self.gce_service_auth, key }
    }
}
