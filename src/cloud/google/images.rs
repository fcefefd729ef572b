//! Images of Compute Engine: their names, and how they come to be.

use tokio_util::sync::CancellationToken;

use super::compute::{Compute, NewImage, Unfinished};
use crate::http::{CallError, Class};
use crate::poll;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The service refuses, or takes too long.
    #[error(transparent)]
    Unfinished(#[from] Unfinished),
    /// There is no license of this name.
    #[error("Invalid GCE license {0}: the project has none of this name")]
    License(String),
}

impl Failure {
    /// That of a call.
    pub fn call(error: CallError) -> Self {
        Self::Unfinished(poll::Error::Failed(error))
    }

    /// Whether there is an image of the same name.
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Unfinished(poll::Error::Failed(e)) if e.class() == Some(Class::Conflict))
    }
}

/// Where Compute Engine reads objects of Cloud Storage.
const STORAGE: &str = "https://storage.googleapis.com";

/// What images can do whose makers say nothing else.
pub const FEATURES: &[&str] = &["VIRTIO_SCSI_MULTIQUEUE"];

/// The name of an image for a path or version: `633.1.0+2015` is `v633-1-0-2015`.
///
/// # Errors
/// When that is no name for Compute Engine; what is wrong with it.
pub fn name(path: &str) -> Result<String, String> {
    let mut name = path.replace(['.', '+', '/'], "-");
    match name.chars().next() {
        Some(first) if first.is_ascii_uppercase() => {
            name.replace_range(..1, &first.to_ascii_lowercase().to_string())
        }
        Some(first) if !first.is_ascii_lowercase() => name.insert(0, 'v'),
        _ => {}
    }
    check_name(&name)?;
    Ok(name)
}

/// Whether Compute Engine takes this as a name: `[a-z]([-a-z0-9]{0,61}[a-z0-9])?`.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), String> {
    let wrong = |reason: &str| Err(format!("{name:?} is no name for Compute Engine: {reason}"));
    let is_allowed = |c: char| c == '-' || c.is_ascii_lowercase() || c.is_ascii_digit();
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        wrong("it must begin with a letter from a to z")
    } else if let Some(bad) = name.chars().find(|&c| !is_allowed(c)) {
        wrong(&format!("it has {bad:?}; letters from a to z, digits and - are allowed"))
    } else if name.len() > 63 {
        wrong("it is longer than 63 characters")
    } else if name.ends_with('-') {
        wrong("it ends with -")
    } else {
        Ok(())
    }
}

/// The address by which Compute Engine reads an object.
pub fn source(bucket: &str, object: &str) -> String {
    let object: Vec<_> = object.split('/').map(crate::text::percent::encode).collect();
    format!("{STORAGE}/{bucket}/{}", object.join("/"))
}

/// Makes an image and waits until it is there; with `replace`, one of the same name is removed first.
///
/// # Errors
/// Any [`Unfinished`]; [`crate::http::Class::Conflict`] if the name is taken.
pub async fn create(
    compute: &Compute,
    new: &NewImage<'_>,
    replace: bool,
    cancel: &CancellationToken,
) -> Result<(), Unfinished> {
    if replace {
        remove(compute, new.name, cancel).await?;
    }
    let request = uuid::Uuid::new_v4().to_string();
    let operation = compute.insert_image(new, &request).await.map_err(poll::Error::Failed)?;
    compute.done(operation, &format!("image {}", new.name), cancel).await
}

/// Removes an image and waits until it is gone; whether there was one.
///
/// # Errors
/// Any [`Unfinished`].
pub async fn remove(compute: &Compute, name: &str, cancel: &CancellationToken) -> Result<bool, Unfinished> {
    match compute.delete_image(name).await.map_err(poll::Error::Failed)? {
        None => Ok(false),
        Some(operation) => {
            compute.done(operation, &format!("deletion of image {name}"), cancel).await.map(|()| true)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_of_versions() {
        for (path, is) in [
            ("633.1.0+2015-03-31-1538", "v633-1-0-2015-03-31-1538"),
            ("Alpha-1.2.3", "alpha-1-2-3"),
            ("me/amd64-usr/1.2", "me-amd64-usr-1-2"),
            ("/x", "v-x"),
        ] {
            assert_eq!(name(path).unwrap(), is);
        }
        let long = "x".repeat(64);
        for (path, reason) in [
            ("", "must begin"),
            ("a_b", "'_'"),
            ("alphA", "'A'"),
            ("1.", "ends with"),
            (&*long, "longer"),
            ("ü", "'ü'"),
        ] {
            let error = name(path).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn sources_are_addresses() {
        assert_eq!(source("b", "a b/c+1.tar.gz"), "https://storage.googleapis.com/b/a%20b/c%2B1.tar.gz");
    }
}
