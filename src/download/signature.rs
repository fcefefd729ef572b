//! Detached OpenPGP signatures as checks of downloads.

use std::time::SystemTime;

use super::{Check, CheckError};
use crate::openpgp::{Keyring, Verified, Verifier};
use crate::warning;

/// Verification while the data streams by.
struct Streaming(Verifier);

impl Check for Streaming {
    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn finish(self: Box<Self>) -> Result<String, CheckError> {
        let Verified { signer, fingerprint, created, warnings, .. } = self.0.finish()?;
        for text in warnings {
            warning!("download", "{text}");
        }
        let created = chrono::DateTime::<chrono::Utc>::from(created).format("%Y-%m-%d");
        Ok(format!("good signature of {created} by {signer}, key {fingerprint}"))
    }
}

/// The check that a detached signature by one of the keys demands.
///
/// # Errors
/// When the signature cannot be accepted whatever the data is.
pub fn check(keyring: &Keyring, signature: &[u8]) -> Result<Box<dyn Check>, CheckError> {
    Ok(Box::new(Streaming(Verifier::new(keyring, signature, SystemTime::now())?)))
}
