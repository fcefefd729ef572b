//! The environment variables that AWS's tools heed, as a value: tests give their own.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Environment variables. An empty one counts as absent.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Those of this process; variables that are not UTF-8 are left out.
    pub fn of_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
        )
    }

    /// The value of a variable that is set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// The first of several names that is set.
    pub fn first(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|n| self.get(n))
    }

    /// Whether a switch is on: `true`, whatever its case.
    pub fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| v.eq_ignore_ascii_case("true"))
    }

    /// What waits are multiplied with, for tests.
    pub fn scale(&self) -> f64 {
        crate::http::retry::scale_of(self.get("MANTLE_POLL_SCALE"))
    }

    /// The home folder: `$HOME`, else that of the user's passwd entry.
    pub fn home(&self) -> Option<PathBuf> {
        let passwd = || nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|u| u.dir);
        self.get("HOME").map(PathBuf::from).or_else(passwd)
    }
}

impl From<&[(&str, &str)]> for Environment {
    fn from(values: &[(&str, &str)]) -> Self {
        Self(values.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(values: [(&str, &str); N]) -> Self {
        Self(values.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
    }
}
