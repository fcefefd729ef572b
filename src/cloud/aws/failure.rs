//! What can go wrong with images, snapshots and clean-up.

use std::io;
use std::path::Path;

use super::api;
use crate::cloud::resume;
use crate::folders::Unusable;

/// A result of the work with images and what is left over.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why making, copying or removing something failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call to AWS failed.
    #[error(transparent)]
    Api(#[from] api::Error),
    /// A step of the work failed.
    #[error("{what}")]
    Step {
        /// The step.
        what: String,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// An upload cannot be gone on with.
    #[error(transparent)]
    Resume(#[from] resume::Error),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] Unusable),
    /// Something that was asked for, found or answered is not as it should be.
    #[error("{0}")]
    Invalid(String),
    /// What lies under a name, and would be used again, is not what was to be put there, or cannot be told to be.
    #[error("{0}")]
    Different(String),
    /// The work was cancelled.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// A failure of a file.
    pub fn file(path: &Path, source: io::Error) -> Self {
        Unusable::at(path)(source).into()
    }

    /// The error without the steps around it.
    pub fn root(&self) -> &Self {
        match self {
            Self::Step { source, .. } => source.root(),
            other => other,
        }
    }

    /// Whether the work was cancelled.
    pub fn is_interruption(&self) -> bool {
        matches!(self.root(), Self::Interrupted)
    }

    /// Whether something else lies under a name.
    pub fn is_difference(&self) -> bool {
        matches!(self.root(), Self::Different(_))
    }

    /// The provider's code for the refusal, such as `InvalidAMIID.NotFound`.
    pub fn code(&self) -> Option<&str> {
        match self.root() {
            Self::Api(error) => error.code(),
            _ => None,
        }
    }
}

/// Names the step in which something failed.
pub trait During<T> {
    /// Puts the step before the error.
    ///
    /// # Errors
    /// The error, with the step.
    fn during(self, what: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<Error>> During<T> for std::result::Result<T, E> {
    fn during(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|e| Error::Step { what: what.into(), source: Box::new(e.into()) })
    }
}
