//! What a user can say about machines at a vSphere.

use serde::Serialize;

use crate::cloud::esx::Account;

/// Options of platform esx; serialized as its part of properties.json.
#[derive(Clone, Debug, clap::Args, Serialize)]
#[group(skip)]
pub struct Options {
    #[command(flatten)]
    #[serde(flatten)]
    pub(super) account: Account,

    /// ESX base VM that machines are cloned from, by name or inventory path; linked to its snapshot, if it has one
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    #[serde(rename = "base_vm_name")]
    pub(super) esx_base_vm: String,
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
    fn properties_hold_server_and_base() {
        let of = |words: &[&str]| {
            let cli = Cli::try_parse_from([&["x"], words].concat()).unwrap();
            serde_json::to_string(&cli.options).unwrap()
        };
        assert_eq!(of(&["--esx-network=n", "--esx-insecure"]), r#"{"server":"","base_vm_name":""}"#);
        assert_eq!(of(&["--esx-server=s", "--esx-base-vm=b"]), r#"{"server":"s","base_vm_name":"b"}"#);
    }
}
