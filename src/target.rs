//! Where an output lands, and how it gets there without harming what is there already.
//!
//! | the path is | what happens |
//! |---|---|
//! | nothing yet, or a plain file | a file takes its place in one step, when all of it is written |
//! | a link to a plain file | the same in the folder of the file it leads to; the link stays |
//! | `-`, or a link that ends at this process's standard output | the bytes go there |
//! | a folder, a device, a FIFO, a socket, a link to one of these or to nothing | refused, by [`Target::of`] |
//!
//! Renaming over a path that is not a plain file would destroy it for everybody: `/dev/stdout` is a link, `/dev/null` is
//! writable for root.

use std::fs::{File, Permissions};
use std::io::{self, Read as _, Seek as _, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::input::kind;

/// The kernel follows no more links than this either.
const MAX_LINKS: usize = 40;
/// Pieces in which a file is copied to standard output.
const PIECE: usize = 256 << 10;

/// Where an output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// A plain file, or nothing yet; the path itself is no link.
    File(PathBuf),
}

/// Why nothing can be written to a path.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Something that must not be replaced by a file.
    #[error("cannot replace {}: it is {what}", .path.display())]
    Kind {
        /// The path as it was given.
        path: PathBuf,
        /// What is there.
        what: String,
    },
    /// The file system does not tell what is there.
    #[error("cannot look at {}", .path.display())]
    Look {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Target {
    /// Where an output that is to be at `path` really goes. Nothing is changed.
    ///
    /// # Errors
    /// [`Refused`], see the table above.
    pub fn of(path: &Path) -> Result<Self, Refused> {
        if path == Path::new("-") {
            return Ok(Self::Stdout);
        }
        let refuse = |what: String| Refused::Kind { path: path.to_owned(), what };
        let mut at = path.to_owned();
        for followed in 0..=MAX_LINKS {
            let look = |source| Refused::Look { path: at.clone(), source };
            let meta = match std::fs::symlink_metadata(&at) {
                Ok(meta) => meta,
                Err(e) if e.kind() == io::ErrorKind::NotFound && followed == 0 => return Ok(Self::File(at)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    return Err(refuse(format!("a link to {}, which is not there", at.display())));
                }
                Err(e) => return Err(look(e)),
            };
            if meta.is_file() {
                return Ok(Self::File(at));
            }
            if !meta.is_symlink() {
                let link = if followed > 0 { "a link to " } else { "" };
                return Err(refuse(format!("{link}{}", kind(&meta))));
            }
            let folder = at.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let folder = folder.canonicalize().map_err(look)?;
            // What is there names an open file of a process, which need not have a name any more.
            if folder.starts_with("/proc") {
                return match is_own_stdout(&folder, &at) {
                    true => Ok(Self::Stdout),
                    false => Err(refuse("a link into /proc that is not standard output".into())),
                };
            }
            // As the kernel's fs.protected_symlinks has it, which may be off: others must not choose what we replace.
            let around = std::fs::metadata(&folder).map_err(look)?;
            let is_open_to_all = around.mode() & 0o1002 == 0o1002;
            if is_open_to_all && meta.uid() != nix::unistd::geteuid().as_raw() && meta.uid() != around.uid() {
                return Err(refuse("another user's link in a folder that everybody can write to".into()));
            }
            at = folder.join(std::fs::read_link(&at).map_err(look)?);
        }
        Err(refuse("a link that leads nowhere".into()))
    }

    /// As [`Target::of`], for outputs that have to be files.
    ///
    /// # Errors
    /// [`Refused`]; also for what ends at standard output. A file named `-` is a file here.
    pub fn file(path: &Path) -> Result<PathBuf, Refused> {
        let spelled = if path == Path::new("-") { Path::new("./-") } else { path };
        match Self::of(spelled)? {
            Self::File(path) => Ok(path),
            Self::Stdout => {
                Err(Refused::Kind { path: path.to_owned(), what: "a link to standard output".into() })
            }
        }
    }
}

/// Whether a name in a folder of `/proc` is descriptor 1 of this process.
fn is_own_stdout(folder: &Path, at: &Path) -> bool {
    let own = std::fs::canonicalize("/proc/self");
    at.file_name().is_some_and(|name| name == "1")
        && folder.file_name().is_some_and(|name| name == "fd")
        // /proc/PID/fd and /proc/PID/task/TID/fd
        && own.is_ok_and(|own| folder.starts_with(own))
}

/// An output that is being written: beside its place, under a name of its own.
///
/// Dropped before [`Fresh::commit`], it leaves no trace.
#[derive(Debug)]
pub struct Fresh(Inner);

#[derive(Debug)]
enum Inner {
    Stdout(File),
    File(NamedTempFile, PathBuf),
}

impl Fresh {
    /// Begins an output that goes to `target`. A file gets the permissions `mode`, less what the umask takes.
    ///
    /// What goes to standard output is kept in the folder for temporary files until it is complete.
    ///
    /// # Errors
    /// What the file system says.
    pub fn new(target: Target, mode: u32) -> io::Result<Self> {
        match target {
            Target::Stdout => Ok(Self(Inner::Stdout(spool()?))),
            Target::File(path) => {
                let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                let file = tempfile::Builder::new()
                    .prefix(".mantle-")
                    .permissions(Permissions::from_mode(mode))
                    .tempfile_in(folder)?;
                Ok(Self(Inner::File(file, path)))
            }
        }
    }

    /// The file that grows.
    pub fn file(&self) -> &File {
        match &self.0 {
            Inner::Stdout(file) => file,
            Inner::File(file, _) => file.as_file(),
        }
    }

    /// Puts what was written in its place.
    ///
    /// # Errors
    /// What the file system or standard output says; what was there before is there still.
    pub fn commit(self) -> io::Result<()> {
        match self.0 {
            Inner::Stdout(mut file) => {
                file.rewind()?;
                to_stdout(&file)
            }
            Inner::File(file, path) => {
                refuse_changed(&path)?;
                file.persist(&path).map(drop).map_err(|e| e.error)
            }
        }
    }
}

/// Refuses a place that something else than a plain file has taken since it was looked at.
pub(crate) fn refuse_changed(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if !meta.is_file() => {
            let what = if meta.is_symlink() { "a link" } else { kind(&meta) };
            Err(io::Error::other(format!("it has become {what}")))
        }
        _ => Ok(()),
    }
}

/// A file without a name for what may be as large as an image.
///
/// It is in `$TMPDIR`, else in `/var/tmp`: `/tmp` is often memory.
///
/// # Errors
/// What the file system says.
pub fn spool() -> io::Result<File> {
    tempfile::tempfile_in(spool_folder())
}

/// Where [`spool`] makes its files.
pub fn spool_folder() -> PathBuf {
    crate::folders::variable("TMPDIR").unwrap_or_else(|| "/var/tmp".into())
}

/// Copies the rest of a file to standard output. Blocks.
///
/// # Errors
/// What either side says.
pub fn to_stdout(mut file: &File) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(n) => crate::output::write(&piece[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        if crate::output::closed() {
            return Ok(());
        }
    }
}

/// Puts a complete file in place of an older one, or leaves the older one. `mode` as in [`Fresh::new`].
///
/// # Errors
/// [`Refused`] as an [`io::Error`], or what the file system says.
pub fn replace(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let path = Target::file(path).map_err(io::Error::other)?;
    let fresh = Fresh::new(Target::File(path), mode)?;
    fresh.file().write_all(content)?;
    fresh.commit()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn links_to_files_are_kept_and_their_files_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::fs::create_dir(dir.join("far")).unwrap();
        std::fs::write(dir.join("far/file"), "old").unwrap();
        symlink("far/file", dir.join("one")).unwrap();
        symlink(dir.join("one"), dir.join("two")).unwrap();
        for name in ["two", "one", "far/file", "new"] {
            replace(&dir.join(name), 0o600, name.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(dir.join(name)).unwrap(), name);
        }
        assert_eq!(std::fs::read_link(dir.join("two")).unwrap(), dir.join("one"));
        assert_eq!(std::fs::read_link(dir.join("one")).unwrap(), Path::new("far/file"));
        assert_eq!(names(&dir), ["far", "new", "one", "two"]);
        assert_eq!(names(&dir.join("far")), ["file"]);
        assert_eq!(dir.join("new").metadata().unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_is_no_file_is_refused_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("folder")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for (name, to) in [
            ("to-fifo", "fifo"),
            ("to-folder", "folder"),
            ("to-device", "/dev/null"),
            ("dangling", "nowhere"),
            ("loop", "loop"),
            ("to-stderr", "/proc/self/fd/2"),
            ("to-other", "/proc/1/fd/1"),
        ] {
            symlink(to, at(name)).unwrap();
        }
        let before = names(dir.path());
        for (name, what) in [
            ("folder", "it is a folder"),
            ("fifo", "it is a FIFO"),
            ("socket", "it is a socket"),
            ("to-fifo", "it is a link to a FIFO"),
            ("to-folder", "it is a link to a folder"),
            ("to-device", "it is a link to a device"),
            ("dangling", "which is not there"),
            ("loop", "a link that leads nowhere"),
            ("to-stderr", "it is a link into /proc that is not standard output"),
            ("to-other", "it is a link into /proc that is not standard output"),
        ] {
            let error = Target::of(&at(name)).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains(name), "{name}: {error}");
            replace(&at(name), 0o644, b"x").unwrap_err();
        }
        assert_eq!(names(dir.path()), before);
        assert!(at("to-stderr").is_symlink() && at("dangling").is_symlink());
        assert!(Target::of(Path::new("/dev/null")).unwrap_err().to_string().contains("a device"));
    }

    #[test]
    fn standard_output_is_known_by_all_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        symlink("/proc/self/fd/1", at("stdout")).unwrap();
        symlink("stdout", at("again")).unwrap();
        symlink(format!("/proc/{}/fd/1", std::process::id()), at("number")).unwrap();
        for name in ["stdout", "again", "number"] {
            assert_eq!(Target::of(&at(name)).unwrap(), Target::Stdout, "{name}");
            assert!(Target::file(&at(name)).is_err(), "{name}");
        }
        assert_eq!(Target::of(Path::new("-")).unwrap(), Target::Stdout);
        assert_eq!(Target::file(Path::new("-")).unwrap(), Path::new("./-"));
        assert_eq!(Target::of(Path::new("/proc/self/fd/1")).unwrap(), Target::Stdout);
    }

    #[test]
    fn a_strangers_link_in_an_open_folder_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "old").unwrap();
        let link = dir.path().join("link");
        symlink("file", &link).unwrap();
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: only root can give a link away");
            return;
        }
        std::os::unix::fs::lchown(&link, Some(12345), Some(12345)).unwrap();
        assert!(Target::of(&link).is_ok(), "the folder is private");
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o1777)).unwrap();
        let error = Target::of(&link).unwrap_err().to_string();
        assert!(error.contains("another user's link"), "{error}");
    }

    #[test]
    fn a_place_that_changes_meanwhile_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let fresh = Fresh::new(Target::of(&path).unwrap(), 0o644).unwrap();
        symlink("/dev/null", &path).unwrap();
        let error = fresh.commit().unwrap_err();
        assert!(error.to_string().contains("has become a link"), "{error}");
        assert_eq!(names(dir.path()), ["x"]);
    }
}
