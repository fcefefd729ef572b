//! What a user can say about machines of their own laboratory.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::args::{parse_duration, path_parser};
use crate::secret::Secret;

/// Options of platform external; serialized as its part of properties.json.
#[derive(Clone, Debug, clap::Args, Serialize)]
#[group(skip)]
pub struct Options {
    /// Management host on which the commands run, reached by SSH [default: they run here]
    #[arg(long, value_name = "HOST[:PORT]")]
    #[serde(rename = "host")]
    pub(super) external_host: Option<String>,

    /// User on the management host
    #[arg(long, value_name = "USER")]
    #[serde(skip)]
    pub(super) external_user: Option<String>,

    /// Password on the management host. Command lines are no secret, /proc/PID/cmdline shows them to all: better are
    /// the variable and --external-key
    #[arg(long, env = "MANTLE_EXTERNAL_PASSWORD", hide_env_values = true, value_name = "PASSWORD")]
    #[serde(skip)]
    pub(super) external_password: Option<Secret>,

    /// Private key for the management host, without a passphrase
    #[arg(long, value_name = "FILE", value_parser = path_parser(), value_hint = clap::ValueHint::FilePath)]
    #[serde(skip)]
    pub(super) external_key: Option<PathBuf>,

    /// SOCKS5 proxy on the way to the management host
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip)]
    pub(super) external_socks: Option<String>,

    /// Commands (sh) that make a machine of the userdata in the file $USERDATA_FILE (in $USERDATA too, if it is not
    /// large), mark it with $MACHINE and print its address, or HOST:PORT of its sshd; a second word is its address among
    /// other machines
    #[arg(long, value_name = "COMMANDS")]
    #[serde(skip)]
    pub(super) external_provisioning_cmds: Option<String>,

    /// Command (sh) that shows the serial console of the machine $MACHINE with the address $IPADDR until it is ended
    #[arg(long, value_name = "COMMAND")]
    #[serde(skip)]
    pub(super) external_serial_console_cmd: Option<String>,

    /// Commands (sh) that free the machine $MACHINE, or find that there is none; $IPADDR is not set if its making was
    /// cut short
    #[arg(long, value_name = "COMMANDS")]
    #[serde(skip)]
    pub(super) external_deprovisioning_cmds: Option<String>,

    /// How long making a machine, or freeing it, may take
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "30m0s")]
    #[serde(skip)]
    pub(super) external_timeout: Duration,
}
