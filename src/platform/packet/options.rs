//! What a user can say about machines at Packet.

use std::path::PathBuf;

use serde::{Serialize, Serializer};

use crate::cloud::google::sources::Choice;
use crate::cloud::packet::{Account, store};

/// Options of platform packet; serialized as its part of properties.json.
#[derive(Clone, Debug, clap::Args, Serialize)]
#[group(skip)]
pub struct Options {
    #[command(flatten)]
    #[serde(skip)]
    pub(super) account: Account,

    #[command(flatten)]
    #[serde(flatten)]
    pub(super) hardware: Hardware,

    #[command(flatten)]
    #[serde(skip)]
    pub(super) store: store::Options,

    // Those of platform gce, word for word: who uploads to Google is somebody there.
    /// Use the credentials of this Compute Engine machine
    #[arg(long)]
    #[serde(skip)]
    pub(super) gce_service_auth: bool,

    /// Use the credentials in this file, in Google's JSON form, such as the key of a service account
    #[arg(long, value_name = "FILE", value_parser = crate::args::path_parser(), value_hint = clap::ValueHint::FilePath)]
    #[serde(skip)]
    pub(super) gce_json_key: Option<PathBuf>,
}

impl Options {
    /// Which credentials Google gets.
    pub(super) fn choice(&self) -> Choice {
        let key = self.gce_json_key.clone().filter(|k| !k.as_os_str().is_empty());
        Choice { service: self.gce_service_auth, key }
    }
}

/// What machines are made of. Commands for Packet alone leave the prefix `packet-` out.
#[derive(Clone, Debug, clap::Args, Serialize)]
#[group(skip)]
pub struct Hardware {
    /// Packet facility code
    #[arg(long, value_name = "CODE", default_value = "sjc1")]
    #[serde(rename = "facility")]
    pub packet_facility: String,

    /// Packet metro code; any of its facilities will do, --packet-facility is not looked at
    #[arg(long, value_name = "CODE")]
    #[serde(skip)]
    pub packet_metro: Option<String>,

    /// Packet plan slug [default: baremetal_0 for amd64-usr, baremetal_2a for arm64-usr]
    #[arg(long, value_name = "SLUG")]
    #[serde(rename = "plan", serialize_with = "or_empty")]
    pub packet_plan: Option<String>,

    /// Packet hardware reservation to use: its UUID, or next-available
    #[arg(long, value_name = "UUID", conflicts_with = "packet_spot_price_max")]
    #[serde(skip)]
    pub packet_hardware_reservation: Option<String>,

    /// Take a spot machine, which may be taken away, for at most so many dollars an hour
    #[arg(long, value_name = "DOLLARS", value_parser = price)]
    #[serde(skip)]
    pub packet_spot_price_max: Option<f64>,

    /// Packet installer image base URL, non-https [default: by the board]
    #[arg(long, value_name = "URL")]
    #[serde(rename = "installer", serialize_with = "or_empty")]
    pub packet_installer_image_base_url: Option<String>,

    /// Packet image URL [default: by the board]
    #[arg(long, value_name = "URL")]
    #[serde(rename = "image", serialize_with = "or_empty")]
    pub packet_image_url: Option<String>,
}

fn price(text: &str) -> Result<f64, String> {
    let price = text.parse().ok().filter(|p: &f64| p.is_finite() && *p > 0.0);
    price.ok_or_else(|| "not a sum of dollars, such as 0.25".into())
}

fn or_empty<S: Serializer>(text: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text.as_deref().unwrap_or_default())
}
