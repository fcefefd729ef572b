//! Released images: from the name of a channel to the AMI of a region.

use std::sync::LazyLock;

use reqwest::{Method, Url};
use serde::Deserialize;

use super::super::{Error, Result, ResultExt};
use crate::http::{Client, Limits, Retry, shown};

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
    let url = base.replace("{channel}", image);
    let url = format!("{}/{board}/current/coreos_production_ami_all.json", url.trim_end_matches('/'));
    let body = fetch(&url).await?;
    let list: List = serde_json::from_slice(&body).during(|| format!("{url} is not a list of AMIs"))?;
    let ami = list.amis.into_iter().find(|a| a.name == region && !a.hvm.is_empty());
    ami.map(|a| a.hvm).ok_or_else(|| Error::new(format!("no {image} image for region {region}")))
}

/// Bodies by URL.
type Bodies = Vec<(String, Vec<u8>)>;

/// What was fetched: everything at most once per process.
static FETCHED: LazyLock<tokio::sync::Mutex<Bodies>> = LazyLock::new(Default::default);

async fn fetch(text: &str) -> Result<Vec<u8>> {
    // Held while fetching: the others wait for this one's answer.
    let mut fetched = FETCHED.lock().await;
    if let Some((_, body)) = fetched.iter().find(|(url, _)| url == text) {
        return Ok(body.clone());
    }
    let url: Url = text.parse().during(|| format!("cannot fetch {text:?}"))?;
    let client = Client::new(Limits::from_environment(), Retry::from_environment())
        .during(|| "cannot look up the image of a channel")?;
    let answer = client.call("platform/aws", &[], |c| c.request(Method::GET, url.clone())).await;
    let body = match answer {
        Ok(answer) => answer.body,
        Err(e) => match e.status() {
            Some(status) => {
                return Err(Error::new(format!("fetching {}: HTTP {}", shown(&url), status.as_u16())));
            }
            None => return Err(e).during(|| format!("fetching {}", shown(&url))),
        },
    };
    fetched.push((text.to_owned(), body.clone()));
    Ok(body)
}
