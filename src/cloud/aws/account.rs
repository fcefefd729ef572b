//! Whose AWS, and where.

use std::path::PathBuf;

use serde::{Serialize, Serializer};

use crate::secret::Secret;

/// The region where neither the user nor a profile names one.
pub const DEFAULT_REGION: &str = "us-west-2";

/// Whose AWS, and where. Commands for AWS alone leave the prefix `aws-` out.
#[derive(Clone, Debug, Default, clap::Args, Serialize)]
#[group(skip)]
pub struct Account {
    /// AWS region [default: that of the profile, else us-west-2]
    #[arg(long, env = "AWS_REGION", hide_env_values = true, value_name = "REGION")]
    #[serde(rename = "region", serialize_with = "region_or_default")]
    pub aws_region: Option<String>,

    /// AWS profile; wins over keys in the environment [default: $AWS_PROFILE, $AWS_DEFAULT_PROFILE, else default]
    #[arg(long, value_name = "NAME")]
    #[serde(skip)]
    pub aws_profile: Option<String>,

    /// AWS credentials file; nothing else is looked at [default: as the AWS CLI does]
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub aws_credentials_file: Option<PathBuf>,

    /// URL of all AWS services, in place of Amazon's
    #[arg(long, value_name = "URL")]
    #[serde(skip)]
    pub aws_endpoint: Option<String>,

    /// Access key id, from [`Keys`].
    #[arg(skip)]
    #[serde(skip)]
    pub aws_access_id: Option<String>,

    /// Secret key, from [`Keys`].
    #[arg(skip)]
    #[serde(skip)]
    pub aws_secret_key: Option<Secret>,
}

/// Keys on the command line, for commands that take them so.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(skip)]
pub struct Keys {
    /// AWS access key id; its other ways in are those of the secret key
    #[arg(long, value_name = "ID", requires = "aws_secret_key")]
    pub aws_access_id: Option<String>,

    /// AWS secret key. Command lines are no secret, /proc/PID/cmdline shows them to all: better are
    /// $AWS_ACCESS_KEY_ID and $AWS_SECRET_ACCESS_KEY, or a profile in the credentials file
    #[arg(long, value_name = "KEY", requires = "aws_access_id")]
    pub aws_secret_key: Option<Secret>,
}

impl Account {
    /// The account with keys from the command line; empty ones count as absent.
    #[must_use]
    pub fn with_keys(mut self, keys: Keys) -> Self {
        self.aws_access_id = keys.aws_access_id.filter(|k| !k.is_empty());
        self.aws_secret_key = keys.aws_secret_key.filter(|k| !k.expose().is_empty());
        self
    }

    /// The region that was asked for; an empty one counts as absent.
    pub fn region(&self) -> Option<&str> {
        self.aws_region.as_deref().filter(|r| !r.is_empty())
    }
}

/// properties.json always has a region, as upstream's did.
fn region_or_default<S: Serializer>(region: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    let named = region.as_deref().filter(|r| !r.is_empty());
    serializer.serialize_str(named.unwrap_or(DEFAULT_REGION))
}
