//! Butane configs, which Fedora CoreOS's own program translates: <https://coreos.github.io/butane/>.

use std::time::Duration;

use super::{Error, Kind, LOG, UserData, warning};
use crate::process::{self, Command};

/// The program.
pub const PROGRAM: &str = "butane";
/// It takes milliseconds, and asks nobody else.
const LIMIT: Duration = Duration::from_secs(60);

impl UserData {
    /// A Butane config as Ignition, its keys kept; other kinds as they are. What the program says of a config that it
    /// takes is logged.
    ///
    /// # Errors
    /// When the program is not installed, or has something against the config.
    pub async fn translated(self) -> Result<Self, Error> {
        self.translated_as(&[]).await
    }

    /// As [`UserData::translated`]; what the program would only warn of is an error, too.
    ///
    /// # Errors
    /// As for [`UserData::translated`], and the above.
    pub async fn translated_strictly(self) -> Result<Self, Error> {
        self.translated_as(&["--strict"]).await
    }

    async fn translated_as(self, words: &[&str]) -> Result<Self, Error> {
        if self.kind != Kind::Butane {
            return Ok(self);
        }
        let program = process::find_program(PROGRAM).ok_or(Error::NoButane)?;
        // No files beside the config: userdata may come from anywhere.
        let command = Command::new(program).args(words).input(self.text.as_bytes());
        let made = command.output(LIMIT).await.map_err(Error::Butane)?;
        for line in String::from_utf8_lossy(&made.stderr).lines().filter(|line| !line.trim().is_empty()) {
            warning!(LOG, "Butane config: {line}");
        }
        let text = String::from_utf8(made.stdout).map_err(|_| Error::NotText)?;
        Ok(Self { kind: Kind::Ignition, text: text.into(), keys: self.keys })
    }
}
