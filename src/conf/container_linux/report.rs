//! What is wrong with a config, and where.

use std::fmt;

use super::document::Place;

/// One thing that is wrong, or only odd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where in the text; unknown for what only shows in the whole.
    pub place: Option<Place>,
    /// Where in the tree, such as `storage.files[0].mode`; empty for the whole.
    pub path: String,
    /// What.
    pub what: String,
}

impl Fault {
    /// A fault of the text itself.
    pub(super) fn at(place: Place, what: impl Into<String>) -> Self {
        Self { place: Some(place), path: String::new(), what: what.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = self.place {
            write!(f, "{place}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.what)
    }
}

/// All that is wrong with a config, in the order of the text; a line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report(pub Vec<Fault>);

impl Report {
    pub(super) fn new(mut faults: Vec<Fault>) -> Self {
        faults.sort_by_key(|fault| fault.place);
        Self(faults)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}
