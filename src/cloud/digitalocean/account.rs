//! Whose DigitalOcean, and where.

use std::path::PathBuf;

use crate::secret::Secret;

/// Whose DigitalOcean, and where. Commands for DigitalOcean alone leave the prefix `do-` out.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(skip)]
pub struct Account {
    /// DigitalOcean file of profiles [default: ~/.config/digitalocean.json, else doctl's file]
    #[arg(long, value_name = "FILE", value_parser = crate::args::path_parser(), value_hint = clap::ValueHint::FilePath)]
    pub do_config_file: Option<PathBuf>,

    /// DigitalOcean profile in that file [default: default]
    #[arg(long, value_name = "NAME")]
    pub do_profile: Option<String>,

    /// DigitalOcean token; no file is read then. Command lines are no secret, /proc/PID/cmdline shows them to all:
    /// better are $DIGITALOCEAN_ACCESS_TOKEN or a file
    #[arg(long, value_name = "TOKEN")]
    pub do_token: Option<Secret>,

    /// DigitalOcean API to use in place of DigitalOcean's
    #[arg(long, value_name = "URL")]
    pub do_api_url: Option<String>,
}
