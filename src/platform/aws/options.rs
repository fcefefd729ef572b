//! What a user can say about machines at AWS.

use serde::Serialize;

use crate::cloud::aws::Account;

/// Options of platform aws; serialized as its part of properties.json.
#[derive(Clone, Debug, clap::Args, Serialize)]
#[group(skip)]
pub struct Options {
    #[command(flatten)]
    #[serde(flatten)]
    pub(super) account: Account,

    /// AWS AMI ID, or (alpha|beta|stable) to use the latest image
    #[arg(long, value_name = "AMI", default_value = "alpha")]
    #[serde(rename = "ami")]
    pub(super) aws_ami: String,

    /// AWS instance type
    #[arg(long, value_name = "TYPE", default_value = "m4.large")]
    #[serde(rename = "type")]
    pub(super) aws_type: String,

    /// AWS security group name
    #[arg(long, value_name = "NAME", default_value = "kola")]
    #[serde(skip)]
    pub(super) aws_sg: String,

    /// AWS IAM instance profile name
    #[arg(long, value_name = "NAME", default_value = "kola")]
    #[serde(skip)]
    pub(super) aws_iam_profile: String,

    /// Where the lists of released AMIs are; {channel} stands for the channel
    #[arg(
        long,
        alias = "release-url", // of version 0.13.0
        env = "MANTLE_RELEASE_URL",
        hide_env_values = true,
        value_name = "URL",
        default_value = "https://{channel}.release.core-os.net"
    )]
    #[serde(skip)]
    pub(super) aws_release_url: String,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cloud::aws::Keys;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
        #[command(flatten)]
        keys: Keys,
    }

    #[test]
    fn properties_hold_region_image_and_type_and_no_secret() {
        let line = ["x", "--aws-region=eu-west-1", "--aws-access-id=AKIA", "--aws-secret-key=hidden"];
        let cli = Cli::try_parse_from(line).unwrap();
        let account = cli.options.account.clone().with_keys(cli.keys);
        assert_eq!(account.aws_secret_key.as_ref().unwrap().expose(), "hidden");
        let shown = format!("{account:?}") + &serde_json::to_string(&account).unwrap();
        assert!(!shown.contains("hidden"), "{shown}");
        assert_eq!(
            serde_json::to_string(&cli.options).unwrap(),
            r#"{"region":"eu-west-1","ami":"alpha","type":"m4.large"}"#
        );
        assert!(Cli::try_parse_from(["x", "--aws-access-id=AKIA"]).is_err());
    }
}
