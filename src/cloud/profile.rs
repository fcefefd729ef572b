//! Files of profiles, as DigitalOcean, ESX, OpenStack and Packet have theirs in the user's home: a JSON object of
//! profiles by name, each an object of settings by name.
//!
//! Settings that nobody asks for are nobody's business. No error quotes a value: most of them are secrets.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// The profile that is meant where none is named.
pub const DEFAULT: &str = "default";

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no folder to look in.
    #[error("couldn't read {service} config: neither $HOME nor the user database names a home folder")]
    Homeless {
        /// Whose file.
        service: &'static str,
    },
    /// The file cannot be read.
    #[error("couldn't read {service} config: open {}", .path.display())]
    Read {
        /// Whose file.
        service: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("couldn't read {service} config: {}: {reason}", .path.display())]
    Invalid {
        /// Whose file.
        service: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file is empty as far as profiles go.
    #[error("couldn't read {service} config: {service} config {:?} contains no profiles", .path)]
    Empty {
        /// Whose file.
        service: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// There are others.
    #[error("no such profile {profile:?} in {} (there: {there})", .path.display())]
    Missing {
        /// The one that was asked for.
        profile: String,
        /// The file.
        path: PathBuf,
        /// Those that are there.
        there: String,
    },
    /// A setting is missing or of the wrong kind.
    #[error("profile {profile:?} in {}: {reason}", .path.display())]
    Setting {
        /// The profile.
        profile: String,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Error {
    /// Whether there is no such file: then one may look elsewhere.
    pub fn is_absent(&self) -> bool {
        match self {
            Self::Homeless { .. } => true,
            Self::Read { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

/// The settings of one profile.
pub struct Profile {
    path: PathBuf,
    name: String,
    settings: Map<String, Value>,
}

impl Profile {
    /// Reads a profile, [`DEFAULT`] if `profile` is empty, from a file: `in_home` in the home folder where no other is
    /// named. Warns when others may read the file.
    ///
    /// # Errors
    /// When there is no such file or profile, or the file is something else.
    pub fn load(
        service: &'static str,
        file: Option<&Path>,
        in_home: &str,
        profile: &str,
    ) -> Result<Self, Error> {
        let path = match file.filter(|f| !f.as_os_str().is_empty()) {
            Some(file) => file.to_owned(),
            None => crate::folders::home().ok_or(Error::Homeless { service })?.join(in_home),
        };
        let bytes = crate::input::read(&path).map_err(|source| Error::Read {
            service,
            path: path.clone(),
            source,
        })?;
        let invalid = |reason: String| Error::Invalid { service, path: path.clone(), reason };
        // What stands after the first value never counted.
        let first = serde_json::Deserializer::from_slice(&bytes).into_iter::<Value>().next();
        let profiles = match first {
            Some(Ok(Value::Object(profiles))) => profiles,
            Some(Ok(_)) => return Err(invalid("it is no JSON object of profiles".into())),
            Some(Err(e)) => return Err(invalid(format!("it is no JSON: {e}"))),
            None => return Err(invalid("it is empty".into())),
        };
        super::warn_if_others_may_read(service, &path);
        if profiles.is_empty() {
            return Err(Error::Empty { service, path });
        }
        let name = if profile.is_empty() { DEFAULT } else { profile }.to_owned();
        match profiles.get(&name) {
            Some(Value::Object(settings)) => Ok(Self { settings: settings.clone(), path, name }),
            Some(_) => Err(Error::Setting { path, profile: name, reason: "it is no JSON object".into() }),
            None => {
                let there = profiles.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                Err(Error::Missing { profile: name, path, there })
            }
        }
    }

    /// Where the settings come from, for people.
    pub fn origin(&self) -> String {
        format!("profile {:?} in {}", self.name, self.path.display())
    }

    fn wrong(&self, reason: String) -> Error {
        Error::Setting { profile: self.name.clone(), path: self.path.clone(), reason }
    }

    /// A text; empty ones and null count as absent.
    ///
    /// # Errors
    /// When it is something else.
    pub fn text(&self, setting: &str) -> Result<Option<String>, Error> {
        match self.settings.get(setting) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone()).filter(|t| !t.is_empty())),
            Some(_) => Err(self.wrong(format!("{setting} must be a string"))),
        }
    }

    /// A text that has to be there.
    ///
    /// # Errors
    /// When it is absent, or something else.
    pub fn required(&self, setting: &str) -> Result<String, Error> {
        self.text(setting)?.ok_or_else(|| self.wrong(format!("it has no {setting}")))
    }

    /// A switch; off where it is absent.
    ///
    /// # Errors
    /// When it is neither true nor false.
    pub fn flag(&self, setting: &str) -> Result<bool, Error> {
        match self.settings.get(setting) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(on)) => Ok(*on),
            Some(_) => Err(self.wrong(format!("{setting} must be true or false"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::chain;

    fn load(text: &str, profile: &str) -> Result<Profile, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.json");
        std::fs::write(&file, text).unwrap();
        Profile::load("Toy", Some(&file), "unused", profile)
            .map_err(|e| chain(&e).replace(&dir.path().display().to_string(), ""))
    }

    #[test]
    fn settings_are_read_by_name_and_kind() {
        let text =
            r#"{"default":{"token":"SECRET","more":{"x":1},"on":true,"none":null,"empty":""}, "b": {}} junk"#;
        let profile = load(text, "").unwrap();
        assert_eq!(profile.required("token").unwrap(), "SECRET");
        assert!(profile.flag("on").unwrap() && !profile.flag("off").unwrap());
        for absent in ["none", "empty", "other"] {
            assert_eq!(profile.text(absent).unwrap(), None);
        }
        for wrong in [
            profile.text("on").map(drop),
            profile.flag("token").map(drop),
            profile.required("empty").map(drop),
        ] {
            let text = chain(&wrong.unwrap_err());
            assert!(text.starts_with("profile \"default\" in ") && !text.contains("SECRET"), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secrets() {
        for (text, profile, said) in [
            ("", "", "couldn't read Toy config: /c.json: it is empty"),
            (
                "{\"SECRET\"",
                "",
                "couldn't read Toy config: /c.json: it is no JSON: EOF while parsing an object",
            ),
            ("\"SECRET\"", "", "couldn't read Toy config: /c.json: it is no JSON object of profiles"),
            ("{}", "", "couldn't read Toy config: Toy config \"/c.json\" contains no profiles"),
            ("{\"a\":{},\"b\":{}}", "", "no such profile \"default\" in /c.json (there: a, b)"),
            ("{\"a\":\"SECRET\"}", "a", "profile \"a\" in /c.json: it is no JSON object"),
        ] {
            let error = load(text, profile).err().unwrap();
            assert!(error.starts_with(said) && !error.contains("SECRET"), "{error}");
        }
        let absent = Profile::load("Toy", Some(Path::new("/nowhere/x")), "", "").err().unwrap();
        assert!(absent.is_absent(), "{absent}");
        assert_eq!(
            chain(&absent),
            "couldn't read Toy config: open /nowhere/x: No such file or directory (os error 2)"
        );
    }
}
