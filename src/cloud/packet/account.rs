//! Whose devices, and where the service is.

use std::path::PathBuf;

use reqwest::Url;

use super::SERVICE;
use crate::cloud::profile::{self, Profile};
use crate::http::CallError;
use crate::secret::Secret;
use crate::text::chain;

/// The API's root.
const BASE: &str = "https://api.packet.net";

/// Whose Packet. Commands for Packet alone leave the prefix `packet-` out.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Account {
    /// Packet config file [default: ~/.config/packet.json]
    #[arg(long, value_name = "FILE", value_parser = crate::args::path_parser(), value_hint = clap::ValueHint::FilePath)]
    pub packet_config_file: Option<PathBuf>,

    /// Profile in Packet's config file
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub packet_profile: String,

    /// Packet API key; command lines are no secret, better is the config file
    #[arg(long, value_name = "KEY")]
    pub packet_api_key: Option<Secret>,

    /// UUID of the Packet project
    #[arg(long, value_name = "UUID")]
    pub packet_project: Option<String>,

    /// Packet API to use in place of https://api.packet.net
    #[arg(long, env = "PACKET_API_URL", hide_env_values = true, value_name = "URL")]
    pub packet_api_url: Option<String>,
}

/// What is needed to call.
pub(super) struct Access {
    pub(super) key: Secret,
    pub(super) project: String,
    pub(super) base: Url,
    /// Where the key comes from, for people.
    pub(super) origin: String,
}

impl Account {
    /// Puts together what flags and file say; the file is read unless flags have key and project.
    pub(super) fn access(&self) -> Result<Access, CallError> {
        let text = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
        let key = self.packet_api_key.clone().filter(|k| !k.expose().is_empty());
        let (project, base) = (text(&self.packet_project), text(&self.packet_api_url));
        let (key, project, base, origin) = match (key, project) {
            (Some(key), Some(project)) => (key, project, base, "the command line".to_owned()),
            (key, project) => {
                let form = r#"it would be {"default": {"api_key": "...", "project": "..."}}"#;
                let wrong = |e: profile::Error| match e.is_absent() {
                    true => CallError::setup(format!("{}; {form}", chain(&e))),
                    false => CallError::setup(chain(&e)),
                };
                let file = self.packet_config_file.as_deref();
                let profile = Profile::load(SERVICE, file, ".config/packet.json", &self.packet_profile);
                let profile = profile.map_err(wrong)?;
                let key = match key {
                    Some(key) => key,
                    None => profile.required("api_key").map_err(wrong)?.into(),
                };
                let project = match project {
                    Some(project) => project,
                    None => profile.required("project").map_err(wrong)?,
                };
                let named = profile.text("api_url").map_err(wrong)?;
                (key, project, base.or(named), profile.origin())
            }
        };
        let url = base.unwrap_or_else(|| BASE.into());
        let parsed = Url::parse(&url).ok().filter(|u| matches!(u.scheme(), "http" | "https") && u.has_host());
        let base = parsed.ok_or_else(|| CallError::setup(format!("{url:?} is no URL of the Packet API")))?;
        Ok(Access { key, project, base, origin })
    }
}
