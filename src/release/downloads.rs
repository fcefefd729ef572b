//! Roots and names of public downloads.

use super::select::is_stored;
use super::{Downloads, architecture, fill};
use crate::text::percent::encode;

/// Why a text is no root of downloads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// No URL and no channel.
    #[error("{text:?} is neither a URL nor a channel")]
    Unknown {
        /// The text.
        text: String,
        /// What would be a channel.
        channels: Vec<String>,
    },
    /// There are no files for this board.
    #[error("unknown board {name:?}")]
    Board {
        /// The name asked for.
        name: String,
        /// Those that are there.
        known: Vec<String>,
    },
}

impl Downloads {
    /// The board of this name, which may lack its `-usr`.
    ///
    /// # Errors
    /// [`RootError::Board`].
    pub fn board(&self, name: &str) -> Result<&str, RootError> {
        let found = self.boards.iter().find(|b| *b == name || architecture(b) == name);
        found
            .map(String::as_str)
            .ok_or_else(|| RootError::Board { name: name.into(), known: self.boards.clone() })
    }

    /// The folder when nobody asks for another: a URL.
    pub fn default_root(&self, board: &str) -> String {
        fill(&self.default_root, &[("board", board)])
    }

    /// The folder that a text means: a URL as it is, else a channel's current release. A channel with streams takes a
    /// year too: `lts-2024`.
    ///
    /// # Errors
    /// [`RootError::Unknown`].
    pub fn root(&self, text: &str, board: &str) -> Result<String, RootError> {
        if text.contains("://") {
            return Ok(text.to_owned());
        }
        let is_channel = |name: &str| self.channels.iter().any(|c| c == name);
        let is_year = |text: &str| text.len() == 4 && text.bytes().all(|b| b.is_ascii_digit());
        let stream = text
            .rsplit_once('-')
            .filter(|(channel, year)| self.stream_channels.iter().any(|c| c == channel) && is_year(year));
        let (channel, version) = match stream {
            Some((channel, year)) => (channel, format!("current-{year}")),
            None if is_channel(text) => (text, "current".into()),
            None => {
                let years = self.stream_channels.iter().map(|c| format!("{c}-YEAR"));
                let channels = self.channels.iter().cloned().chain(years).collect();
                return Err(RootError::Unknown { text: text.into(), channels });
            }
        };
        Ok(fill(&self.root, &[("channel", channel), ("board", board), ("version", &version)]))
    }

    /// Whether a URL is of the distribution's own servers.
    pub fn owns(&self, url: &str) -> bool {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = host.rsplit('@').next().unwrap_or_default();
        let host = host.split(':').next().unwrap_or_default().to_ascii_lowercase();
        host.strip_suffix(self.domain.as_str())
            .is_some_and(|before| before.is_empty() || before.ends_with('.'))
    }

    /// The SDK's tarball: its name, and its place below a folder, or below the usual one.
    pub fn sdk(&self, folder: Option<&str>, arch: &str, version: &str) -> (String, String) {
        let name = fill(&self.sdk.name, &[("arch", arch), ("version", version)]);
        let url = file_in(folder.unwrap_or(&self.sdk.url), &format!("{arch}/{version}/{name}"));
        (name, url)
    }
}

/// The URL of a file in a folder that is a URL: a path below it. On the web the path is encoded and a query stays at
/// the end; in a store everything is taken as it is.
pub fn file_in(folder: &str, path: &str) -> String {
    if is_stored(folder) {
        let slash = if folder.ends_with('/') { "" } else { "/" };
        return format!("{folder}{slash}{path}");
    }
    let (folder, query) = folder.split_at(folder.find(['?', '#']).unwrap_or(folder.len()));
    let path = path.split('/').map(encode).collect::<Vec<_>>().join("/");
    format!("{}/{path}{query}", folder.trim_end_matches('/'))
}
