//! What a user can say about machines at Google.

use serde::Serialize;

use crate::cloud::google::Account;

/// Options of platform gce; serialized as its part of properties.json.
#[derive(Clone, Debug, clap::Args, Serialize)]
#[group(skip)]
pub struct Options {
    #[command(flatten)]
    #[serde(skip)]
    pub(super) account: Account,

    /// GCE image: a name or family/NAME in the project, projects/PROJECT/global/images/..., or a full URL
    #[arg(
        long,
        value_name = "IMAGE",
        default_value = "projects/coreos-cloud/global/images/family/coreos-alpha"
    )]
    #[serde(rename = "image")]
    pub(super) gce_image: String,

    /// GCE machine type
    #[arg(long, value_name = "TYPE", default_value = "n1-standard-1")]
    #[serde(rename = "type")]
    pub(super) gce_machinetype: String,

    /// GCE disk type
    #[arg(long, value_name = "TYPE", default_value = "pd-ssd")]
    #[serde(skip)]
    pub(super) gce_disktype: String,

    /// GCE network
    #[arg(long, value_name = "NETWORK", default_value = "default")]
    #[serde(skip)]
    pub(super) gce_network: String,
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
    fn properties_hold_image_and_type() {
        let cli =
            Cli::try_parse_from(["x", "--gce-image=i", "--gce-json-key=/k", "--gce-project=p"]).unwrap();
        let json = serde_json::to_string(&cli.options).unwrap();
        assert_eq!(json, r#"{"image":"i","type":"n1-standard-1"}"#);
    }
}
