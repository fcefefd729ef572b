//! Values that must not be shown.

use std::fmt;

/// A value that must never be shown: not in logs, reports, `config show`, nor in the recorded command line.
///
/// Declaring an option with this type is what marks it as secret.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// What is shown instead.
    pub const MASK: &'static str = "***";

    /// The value itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::MASK)
    }
}
