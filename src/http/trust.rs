//! Whose certificates are trusted, and why one is not.

use std::path::{Path, PathBuf};

use openssl::x509::X509;

const FILE: &str = "SSL_CERT_FILE";
const FOLDERS: &str = "SSL_CERT_DIR";

/// A variable that names certificates which cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the trusted certificates of ${variable} ({}): {reason}", .path.display())]
pub struct Unusable {
    /// The variable.
    pub variable: &'static str,
    /// Its value.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// Whose certificates OpenSSL will trust, for people; it would take no notice of what cannot be used.
pub fn roots() -> Result<String, Unusable> {
    roots_of(crate::folders::variable(FILE), crate::folders::variable(FOLDERS))
}

fn roots_of(file: Option<PathBuf>, folders: Option<PathBuf>) -> Result<String, Unusable> {
    let mut trusted = Vec::new();
    if let Some(path) = file {
        match check_file(&path) {
            Ok(()) => trusted.push(format!("${FILE}={}", path.display())),
            Err(reason) => return Err(Unusable { variable: FILE, path, reason }),
        }
    }
    if let Some(path) = folders {
        if !std::env::split_paths(&path).any(|folder| std::fs::read_dir(folder).is_ok()) {
            let reason = "it names no folder that can be read".into();
            return Err(Unusable { variable: FOLDERS, path, reason });
        }
        trusted.push(format!("${FOLDERS}={}", path.display()));
    }
    match trusted.is_empty() {
        true => Ok(format!("the system's certificates, as ${FILE} names no others")),
        false => Ok(trusted.join(", ")),
    }
}

fn check_file(path: &Path) -> Result<(), String> {
    let text = crate::input::read(path).map_err(|e| e.to_string())?;
    match X509::stack_from_pem(&text) {
        Ok(certificates) if !certificates.is_empty() => Ok(()),
        _ => Err("there are no certificates in PEM in it".into()),
    }
}

/// Why a certificate was refused, in OpenSSL's words without its codes; `None` for other errors.
pub fn refusal(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let text = crate::text::chain(error);
    if !text.contains("certificate verify failed") {
        return None;
    }
    // Several libraries quote each other: `error:0A000086:SSL routines:…:certificate verify failed:….c:1889: (reason)`.
    let reason =
        text.rsplit_once('(').and_then(|(_, rest)| rest.split_once(')')).map(|(reason, _)| reason.to_owned());
    Some(reason.filter(|r| !r.is_empty()).unwrap_or_else(|| "it could not be verified".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| Some(dir.path().join(name));
        std::fs::write(dir.path().join("text"), "no certificate").unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (file, folders, name, reason) in [
            (at("missing"), None, "$SSL_CERT_FILE", "No such file"),
            (at("text"), None, "$SSL_CERT_FILE", "no certificates in PEM"),
            (at("fifo"), None, "$SSL_CERT_FILE", "not a plain file"),
            (at(""), None, "$SSL_CERT_FILE", "not a plain file"),
            (None, at("missing"), "$SSL_CERT_DIR", "no folder"),
        ] {
            let error = roots_of(file, folders).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(reason), "{error}");
        }
        assert!(roots_of(None, at("")).unwrap().contains("$SSL_CERT_DIR="));
        assert!(roots_of(None, None).unwrap().contains("the system's"));
    }

    #[test]
    fn reasons_are_said_without_codes() {
        let raw = "error:0A000086:SSL routines:tls_post_process_server_certificate:certificate verify failed:../ssl/x.c:1889:";
        let twice = std::io::Error::other(format!("{raw}: {raw} (self-signed certificate)"));
        assert_eq!(refusal(&twice).as_deref(), Some("self-signed certificate"));
        assert_eq!(refusal(&std::io::Error::other(raw)).as_deref(), Some("it could not be verified"));
        assert_eq!(refusal(&std::io::Error::other("connection refused (x)")), None);
    }
}
