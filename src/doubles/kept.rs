//! What doubles have, as files for people to look at.

use std::fs::{self, File};
use std::io::{self, Seek as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::blobs::Blobs;
use super::gcs::Gcs;

/// The path that an object's name has below a folder. Names are not paths: what would lead elsewhere, or be a folder and
/// a file at once, is encoded as in URLs; a name that is the beginning of another's path gets a `%` at its end.
fn path_of(name: &str, others: &[&str]) -> PathBuf {
    let parts: Vec<&str> = name.split('/').collect();
    let encoded = |part: &str| match part {
        "" => "%2F".to_owned(),
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        part => part.replace('%', "%25").replace('\0', "%00"),
    };
    let mut path: PathBuf = parts.iter().map(|part| encoded(part)).collect();
    let folder = format!("{name}/");
    if others.iter().any(|other| other.starts_with(&folder)) {
        path.as_mut_os_string().push("%");
    }
    path
}

/// A name as that of one file.
pub(super) fn file_name(name: &str) -> PathBuf {
    path_of(&name.replace('%', "%25").replace('/', "%2F"), &[])
}

fn create(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    File::options().write(true).create_new(true).mode(0o666).open(path)
}

fn copy(mut file: &File, to: &Path) -> io::Result<()> {
    file.rewind()?;
    io::copy(&mut file, &mut create(to)?).map(drop)
}

/// Writes all objects below `folder/BUCKET`. Blocks.
///
/// # Errors
/// When files cannot be written.
pub fn objects(gcs: &Gcs, folder: &Path) -> io::Result<()> {
    let store = gcs.store();
    for ((bucket, name), stored) in &store.objects {
        let of_bucket = store.objects.keys().filter(|(b, _)| b == bucket);
        let others: Vec<&str> = of_bucket.map(|(_, n)| n.as_str()).collect();
        let to = folder.join(path_of(bucket, &[])).join(path_of(name, &others));
        match stored.file() {
            Some(file) => copy(file, &to)?,
            None => io::Write::write_all(&mut create(&to)?, &stored.body)?,
        }
    }
    Ok(())
}

/// Writes all blobs below `folder/ACCOUNT/CONTAINER`. Blocks.
///
/// # Errors
/// When files cannot be written.
pub fn blobs(blobs: &Blobs, folder: &Path) -> io::Result<()> {
    let all = blobs.blobs();
    let names: Vec<&str> = all.keys().map(String::as_str).collect();
    for (name, blob) in &all {
        let content: &Arc<File> = blob.content();
        copy(content, &folder.join(path_of(name, &names)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_path_of_its_own_below_the_folder() {
        let names = ["a", "a/", "a/b", "a/b/", "/a", "../x", "./x", "a%", "a//b", "%2F", ""];
        let paths: Vec<PathBuf> = names.iter().map(|name| path_of(name, &names)).collect();
        let shown: Vec<&str> = paths.iter().map(|p| p.to_str().unwrap()).collect();
        let expected = [
            "a%", "a/%2F%", "a/b%", "a/b/%2F", "%2F/a", "%2E%2E/x", "%2E/x", "a%25", "a/%2F/b", "%252F",
            "%2F%",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn objects_become_files() {
        let folder = tempfile::tempdir().unwrap();
        let gcs = Gcs::default();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("source"), "from a file").unwrap();
        for (name, body) in [("v", "page"), ("v/", "page, too"), ("v/image", "image")] {
            gcs.store().put("bkt", name, body.as_bytes(), "text/plain");
        }
        gcs.store().put_file("bkt", "v/file", &at("source"), "text/plain").unwrap();
        objects(&gcs, &at("out")).unwrap();
        let read = |name: &str| fs::read_to_string(at("out/bkt").join(name)).unwrap();
        assert_eq!(
            ["v%", "v/%2F", "v/image", "v/file"].map(read),
            ["page", "page, too", "image", "from a file"]
        );
        assert!(objects(&gcs, &at("out")).is_err(), "what is there stays");
    }
}
