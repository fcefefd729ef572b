//! The shared files with profiles: `~/.aws/credentials` and `~/.aws/config`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::environment::Environment;
use super::super::{Account, COMPONENT, DEFAULT_REGION};
use super::Error;
use super::ini::{self, Section, Sections};
use crate::secret::Secret;

/// The content of the shared files, and the profile that was chosen.
#[derive(Default)]
pub struct Profiles {
    /// The chosen profile.
    pub(super) name: String,
    /// Somebody named it; it is not just the default.
    pub(super) named: bool,
    /// It was named on the command line, which is meant more than what the environment holds.
    pub(super) explicit: bool,
    /// The files, those that do not exist too.
    pub(super) files: Vec<PathBuf>,
    /// The file that has keys: its sections are named as the profiles.
    pub(super) credentials: File,
    /// The other file: its sections are named `profile <name>`, but for `default`.
    pub(super) config: File,
}

/// The profiles of a file.
#[derive(Default)]
pub(super) struct File {
    path: PathBuf,
    sections: BTreeMap<String, Section>,
    sso_sessions: BTreeMap<String, Section>,
}

impl File {
    /// A file of keys.
    fn of_credentials(path: PathBuf, sections: Sections) -> Self {
        let loose = sections.iter().map(|(name, values)| (name.trim().to_owned(), values.clone())).collect();
        Self { path, sections: preferred(sections, loose), sso_sessions: BTreeMap::new() }
    }

    /// A file of configuration.
    fn of_config(path: PathBuf, sections: Sections) -> Self {
        let named = |kind: &str, tidy: fn(&str) -> &str| {
            let name = |name: &str| match name {
                "default" if kind == "profile" => Some(name.to_owned()),
                _ if name.starts_with(kind) => {
                    <[String; 2]>::try_from(ini::words(name)?).ok().map(|[_, name]| name)
                }
                _ => None,
            };
            let of_kind = sections.iter().filter_map(|(n, values)| Some((name(tidy(n))?, values.clone())));
            of_kind.collect::<Sections>()
        };
        let all = |kind| preferred(named(kind, |name| name), named(kind, str::trim));
        Self { path, sections: all("profile"), sso_sessions: all("sso-session") }
    }

    /// A value that is not empty.
    pub(super) fn of(&self, profile: &str, key: &str) -> Option<&str> {
        let value = self.sections.get(profile).and_then(|s| s.get(key));
        value.map(Secret::expose).filter(|v| !v.is_empty())
    }

    /// A section of single sign-on that profiles share.
    pub(super) fn sso_session(&self, name: &str) -> Option<&Section> {
        self.sso_sessions.get(name)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Sections by name, the last of a name; those of `loose`, with blanks in the brackets, where there is no other.
fn preferred(exact: Sections, loose: Sections) -> BTreeMap<String, Section> {
    let mut sections: BTreeMap<_, _> = loose.into_iter().collect();
    sections.extend(exact);
    sections
}

impl Profiles {
    /// Reads the files: the one that was named, or those that the AWS CLI reads.
    ///
    /// # Errors
    /// When a file is there and cannot be read, or makes no sense, or the one that was named is not there.
    pub fn load(account: &Account, env: &Environment) -> Result<Self, Error> {
        let set = |name: &Option<String>| name.clone().filter(|n| !n.is_empty());
        let explicit = set(&account.aws_profile);
        let is_explicit = explicit.is_some();
        let variable = || env.first(&["AWS_PROFILE", "AWS_DEFAULT_PROFILE"]).map(str::to_owned);
        let wanted = explicit.or_else(variable);
        let mut profiles = Self {
            explicit: is_explicit,
            named: wanted.is_some(),
            name: wanted.unwrap_or_else(|| "default".into()),
            ..Self::default()
        };
        if let Some(file) = &account.aws_credentials_file {
            let sections = read(file)?.ok_or_else(|| Error::Read {
                path: file.clone(),
                source: std::io::ErrorKind::NotFound.into(),
            })?;
            profiles.credentials = File::of_credentials(file.clone(), sections);
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
        if let Some(path) = credentials {
            let sections = read(&path)?.unwrap_or_default();
            profiles.files.push(path.clone());
            profiles.credentials = File::of_credentials(path, sections);
        }
        if let Some(path) = config {
            let sections = read(&path)?.unwrap_or_default();
            profiles.files.push(path.clone());
            profiles.config = File::of_config(path, sections);
        }
        Ok(profiles)
    }

    /// Whether any file has this profile.
    pub(super) fn has(&self, profile: &str) -> bool {
        [&self.credentials, &self.config].iter().any(|file| file.sections.contains_key(profile))
    }

    /// A value of a profile that is not empty; keys win over configuration.
    pub(super) fn of(&self, profile: &str, key: &str) -> Option<&str> {
        self.credentials.of(profile, key).or_else(|| self.config.of(profile, key))
    }

    /// A value of the chosen profile.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.of(&self.name, key)
    }

    /// The region: the one that was asked for, that of the environment, that of the profile.
    pub fn region<'a>(&'a self, account: &'a Account, env: &'a Environment) -> &'a str {
        let environment = || env.first(&["AWS_REGION", "AWS_DEFAULT_REGION"]);
        account.region().or_else(environment).or_else(|| self.value("region")).unwrap_or(DEFAULT_REGION)
    }
}

/// The sections of a file; `None` when there is no such file.
fn read(path: &Path) -> Result<Option<Sections>, Error> {
    let unreadable = |source| Error::Read { path: path.to_owned(), source };
    let text = match crate::input::read(path) {
        Ok(bytes) => String::from_utf8(bytes)
            .map_err(|_| Error::File { path: path.to_owned(), reason: "not UTF-8".into() })?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(unreadable(e)),
    };
    let sections = ini::parse(&text).map_err(|reason| Error::File { path: path.to_owned(), reason })?;
    let secret = sections.iter().any(|(_, s)| s.contains_key("aws_secret_access_key"));
    if secret {
        crate::cloud::warn_if_others_may_read(COMPONENT, path);
    }
    Ok(Some(sections))
}
