//! Released images: from the name of a channel to the AMI of a region.

use serde::Deserialize;

use super::super::cloud::released;
use super::super::{Error, Result, ResultExt};

const CHANNELS: &[&str] = &["alpha", "beta", "stable"];

/// The list of a release's images, `coreos_production_ami_all.json`.
#[derive(Deserialize)]
struct List {
    amis: Vec<Ami>,
}

#[derive(Deserialize)]
struct Ami {
    /// The region.
    name: String,
    #[serde(default)]
    hvm: String,
}

/// The AMI that `image` means in this region: that of a channel's newest release, else the text itself. `base` is
/// the URL of the release servers, with `{channel}` for the channel.
///
/// # Errors
/// When the channel's list cannot be had, or does not name the region.
pub(super) async fn resolve(image: &str, base: &str, board: &str, region: &str) -> Result<String> {
    if !CHANNELS.contains(&image) {
        return Ok(image.to_owned());
    }
    let url = released::url(base, image, board, "coreos_production_ami_all.json");
    let body = released::fetch("platform/aws", &url).await?;
    let list: List = serde_json::from_slice(&body).during(|| format!("{url} is not a list of AMIs"))?;
    let ami = list.amis.into_iter().find(|a| a.name == region && !a.hvm.is_empty());
    ami.map(|a| a.hvm).ok_or_else(|| Error::new(format!("no {image} image for region {region}")))
}
