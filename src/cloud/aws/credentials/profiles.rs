//! The shared files with profiles: `~/.aws/credentials` and `~/.aws/config`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::super::environment::Environment;
use super::super::{Account, COMPONENT};
use super::Error;
use super::ini::{self, Sections};
use crate::secret::Secret;

/// The content of the shared files, and the profile that was chosen.
#[derive(Default)]
pub struct Profiles {
    /// The chosen profile.
    pub(super) name: String,
    /// Somebody named it; it is not just the default.
    pub(super) named: bool,
    /// The files, those that do not exist too.
    pub(super) files: Vec<PathBuf>,
    /// The file that has keys only: its sections are named as the profiles.
    credentials: Sections,
    /// The other file: its sections are named `profile <name>`, but for `default`.
    config: Sections,
}

impl Profiles {
    /// Reads the files: the one that was named, or those that the AWS CLI reads.
    ///
    /// # Errors
    /// When a file is there and cannot be read, or makes no sense, or the one that was named is not there.
    pub fn load(account: &Account, env: &Environment) -> Result<Self, Error> {
        let set = |name: &Option<String>| name.clone().filter(|n| !n.is_empty());
        let wanted = set(&account.aws_profile).or_else(|| env.get("AWS_PROFILE").map(str::to_owned));
        let mut profiles = Self {
            named: wanted.is_some(),
            name: wanted.unwrap_or_else(|| "default".into()),
            ..Self::default()
        };
        if let Some(file) = &account.aws_credentials_file {
            profiles.credentials = read(file)?.ok_or_else(|| Error::Read {
                path: file.clone(),
                source: std::io::ErrorKind::NotFound.into(),
            })?;
            profiles.files = vec![file.clone()];
            return Ok(profiles);
        }
        let home = env.home();
        let place = |variable, name| {
            let expand = |path: &str| match (path.strip_prefix("~/"), &home) {
                (Some(rest), Some(home)) => home.join(rest),
                _ => PathBuf::from(path),
            };
            env.get(variable).map(expand).or_else(|| Some(home.as_ref()?.join(".aws").join(name)))
        };
        let credentials = place("AWS_SHARED_CREDENTIALS_FILE", "credentials");
        let config = place("AWS_CONFIG_FILE", "config");
        for (file, sections) in [(credentials, &mut profiles.credentials), (config, &mut profiles.config)] {
            if let Some(file) = file {
                *sections = read(&file)?.unwrap_or_default();
                profiles.files.push(file);
            }
        }
        Ok(profiles)
    }

    /// Whether any file has this profile.
    pub(super) fn has(&self, profile: &str) -> bool {
        self.credentials.contains_key(profile) || self.config.contains_key(&config_section(profile))
    }

    /// A value of a profile that is not empty; keys win over configuration.
    pub(super) fn of(&self, profile: &str, key: &str) -> Option<&str> {
        let own = self.credentials.get(profile).and_then(|s| s.get(key));
        let config = || self.config.get(&config_section(profile)).and_then(|s| s.get(key));
        own.map(Secret::expose)
            .filter(|v| !v.is_empty())
            .or_else(|| config().map(Secret::expose).filter(|v| !v.is_empty()))
    }

    /// A value of the chosen profile.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.of(&self.name, key)
    }
}

fn config_section(profile: &str) -> String {
    if profile == "default" { profile.to_owned() } else { format!("profile {profile}") }
}

/// The sections of a file; `None` when there is no such file.
fn read(path: &Path) -> Result<Option<Sections>, Error> {
    let unreadable = |source| Error::Read { path: path.to_owned(), source };
    let text = match std::fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes)
            .map_err(|_| Error::File { path: path.to_owned(), reason: "not UTF-8".into() })?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(unreadable(e)),
    };
    let sections = ini::parse(&text).map_err(|reason| Error::File { path: path.to_owned(), reason })?;
    let secret = sections.values().any(|s| s.contains_key("aws_secret_access_key"));
    let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode();
    if secret && mode & 0o077 != 0 {
        crate::warning!(
            COMPONENT,
            "others may read the keys in {} (mode {:o})",
            path.display(),
            mode & 0o777
        );
    }
    Ok(Some(sections))
}
