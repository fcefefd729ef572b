//! What a user can say about droplets.

use serde::Serialize;

use crate::cloud::digitalocean::Account;

/// Options of platform do; serialized as its part of properties.json.
#[derive(Clone, Debug, clap::Args, Serialize)]
#[group(skip)]
pub struct Options {
    #[command(flatten)]
    #[serde(skip)]
    pub(super) account: Account,

    /// DigitalOcean region slug
    #[arg(long, value_name = "REGION", default_value = "sfo2")]
    #[serde(rename = "region")]
    pub(super) do_region: String,

    /// DigitalOcean size slug
    #[arg(long, value_name = "SIZE", default_value = "s-1vcpu-2gb")]
    #[serde(rename = "size")]
    pub(super) do_size: String,

    /// DigitalOcean image: an id, the name of one of the account's own, or alpha, beta or stable for those of
    /// Container Linux, which are there no more
    #[arg(long, value_name = "IMAGE", default_value = "alpha")]
    #[serde(rename = "image")]
    pub(super) do_image: String,

    /// DigitalOcean private network, by its id [default: that of the region]
    #[arg(long, value_name = "UUID")]
    #[serde(skip)]
    pub(super) do_vpc: Option<String>,
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
    fn properties_hold_region_size_and_image_and_no_secret() {
        let cli = Cli::try_parse_from(["x", "--do-image=i", "--do-token=SECRET", "--do-profile=p"]).unwrap();
        let json = serde_json::to_string(&cli.options).unwrap();
        assert_eq!(json, r#"{"region":"sfo2","size":"s-1vcpu-2gb","image":"i"}"#);
        assert!(!format!("{:?}", cli.options).contains("SECRET"));
    }
}
