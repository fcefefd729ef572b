//! `~/.boto`, the configuration of gsutil, where the README says Google's credentials are.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Error;
use crate::secret::Secret;
use crate::target::{Fresh, Target};

/// The values of a boto file that matter here; those of later files win.
#[derive(Clone, Debug, Default)]
pub struct Boto {
    values: BTreeMap<(String, String), Secret>,
}

impl Boto {
    /// Adds the content of a file: sections in brackets, `key = value` or `key: value`, comments after # or ;.
    pub fn add(&mut self, text: &str) {
        let mut section = String::new();
        for line in text.lines() {
            let line = line.trim();
            if line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                section = name.trim().to_owned();
            } else if let Some((key, value)) = line.split_once(['=', ':']) {
                let key = (section.clone(), key.trim().to_ascii_lowercase());
                self.values.insert(key, Secret::from(value.trim().to_owned()));
            }
        }
    }

    /// A value that is there and not empty.
    pub fn get(&self, section: &str, key: &str) -> Option<&str> {
        let value = self.values.get(&(section.to_owned(), key.to_owned()))?;
        Some(value.expose()).filter(|v| !v.is_empty())
    }
}

/// Writes values into a boto file, changing nothing else in it. The file is replaced whole and is 0600.
///
/// # Errors
/// [`Error::Read`], [`Error::Write`].
pub fn store(path: &Path, values: &[(&str, &str, &str)]) -> Result<(), Error> {
    let old = match crate::input::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
    };
    let mut text = old;
    for (section, key, value) in values {
        text = set(&text, section, key, value);
    }
    write_secret(path, text.as_bytes())
}

/// The text with one value set: in its line, else at the end of its section, else in a new section.
fn set(text: &str, section: &str, key: &str, value: &str) -> String {
    let line = format!("{key} = {value}");
    let mut lines: Vec<&str> = text.lines().collect();
    let header = format!("[{section}]");
    let Some(start) = lines.iter().position(|l| l.trim() == header) else {
        let gap = if text.is_empty() { "" } else { "\n" };
        let text = text.trim_end_matches('\n');
        let nl = if text.is_empty() { "" } else { "\n" };
        return format!("{text}{nl}{gap}{header}\n{line}\n");
    };
    let end = lines[start + 1..]
        .iter()
        .position(|l| l.trim_start().starts_with('['))
        .map_or(lines.len(), |n| start + 1 + n);
    let is_key = |l: &&str| l.split_once(['=', ':']).is_some_and(|(k, _)| k.trim().eq_ignore_ascii_case(key));
    match lines[start + 1..end].iter().position(is_key) {
        Some(n) => lines[start + 1 + n] = &line,
        None => lines.insert(start + 1, &line),
    }
    lines.join("\n") + "\n"
}

/// Replaces a file that only its owner may read. A symbolic link keeps its place; its target is replaced.
pub(super) fn write_secret(path: &Path, content: &[u8]) -> Result<(), Error> {
    let write = || {
        let target = Target::file(path).map_err(std::io::Error::other)?;
        let fresh = Fresh::new(Target::File(target), 0o600)?;
        fresh.file().write_all(content)?;
        fresh.file().sync_all()?;
        fresh.commit()
    };
    write().map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// Reads a file of credentials, with a warning if others can read it too. `None` if it is not there.
pub(super) fn read_secret(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    /// No file of credentials is longer.
    const MAX: u64 = 1 << 20;
    let fail = |source| Error::Read { path: path.to_owned(), source };
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fail(e)),
    };
    // Not a pipe from which a shell hands over a secret: its mode and size say nothing.
    if meta.is_file() && meta.mode() & 0o044 != 0 {
        let name = path.display();
        crate::warning!("google", "{name} holds a secret and others can read it: chmod 600 {name}");
    }
    let file = crate::input::Stream::open(path).map_err(fail)?;
    let mut content = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX + 1), &mut content).map_err(fail)?;
    if content.len() as u64 > MAX {
        return Err(Error::Invalid { path: path.to_owned(), reason: "longer than 1 MiB".into() });
    }
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn values_are_read_and_later_files_win() {
        let mut boto = Boto::default();
        boto.add("# c\n[Credentials]\ngs_oauth2_refresh_token = 1//a=b\n;x\n[OAuth2]\nclient_id: i\nclient_secret=\n");
        assert_eq!(boto.get("Credentials", "gs_oauth2_refresh_token"), Some("1//a=b"));
        assert_eq!(boto.get("OAuth2", "client_id"), Some("i"));
        assert_eq!(boto.get("OAuth2", "client_secret"), None);
        boto.add("[OAuth2]\nclient_id = j\n");
        assert_eq!(boto.get("OAuth2", "client_id"), Some("j"));
        assert!(!format!("{boto:?}").contains("1//a"));
    }

    #[test]
    fn storing_keeps_the_rest_and_the_file_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".boto");
        std::fs::write(
            &path,
            "# mine\n[Boto]\nhttps_validate_certificates = True\n[OAuth2]\nclient_id = old\n",
        )
        .unwrap();
        let values = [
            ("Credentials", "gs_oauth2_refresh_token", "tok"),
            ("OAuth2", "client_id", "new"),
            ("OAuth2", "client_secret", "s"),
        ];
        store(&path, &values).unwrap();
        let expected = "# mine\n[Boto]\nhttps_validate_certificates = True\n[OAuth2]\nclient_secret = s\n\
                        client_id = new\n\n[Credentials]\ngs_oauth2_refresh_token = tok\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        store(&path, &values).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let fresh = dir.path().join("fresh");
        store(&fresh, &values[..1]).unwrap();
        assert_eq!(
            std::fs::read_to_string(&fresh).unwrap(),
            "[Credentials]\ngs_oauth2_refresh_token = tok\n"
        );
    }
}
