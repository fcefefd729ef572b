//! What release servers say, which several clouds ask for the images of channels.

use std::sync::LazyLock;

use reqwest::{Method, Url};

use super::super::{Error, Result, ResultExt};
use crate::http::{Client, Limits, Retry, shown};

/// Bodies by URL.
type Bodies = Vec<(String, Vec<u8>)>;

/// What was fetched: everything at most once per process.
static FETCHED: LazyLock<tokio::sync::Mutex<Bodies>> = LazyLock::new(Default::default);

/// The address of a file of a channel's newest release for a board. `base` is the URL of the release servers, with
/// `{channel}` for the channel.
pub fn url(base: &str, channel: &str, board: &str, file: &str) -> String {
    let url = base.replace("{channel}", channel);
    format!("{}/{board}/current/{file}", url.trim_end_matches('/'))
}

/// Fetches a small file, at most once per process; `component` is who asks, for messages.
///
/// # Errors
/// When it cannot be had.
pub async fn fetch(component: &str, text: &str) -> Result<Vec<u8>> {
    // Held while fetching: the others wait for this one's answer.
    let mut fetched = FETCHED.lock().await;
    if let Some((_, body)) = fetched.iter().find(|(url, _)| url == text) {
        return Ok(body.clone());
    }
    let url: Url = text.parse().during(|| format!("cannot fetch {text:?}"))?;
    let client = Client::new(Limits::from_environment(), Retry::from_environment())
        .during(|| "cannot look up the image of a channel")?;
    let answer = client.call(component, &[], |c| c.request(Method::GET, url.clone())).await;
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
