//! The folder that takes a run's results: which one, and when it may be emptied.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Component, Path, PathBuf};

use tokio_util::sync::CancellationToken;

use crate::ledger::{self, Leftover, Resource};

/// The file that marks a folder as ours to empty.
pub const MARKER: &str = ".harness_temp";

/// Why the output folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path is empty.
    #[error("harness: no output directory provided")]
    NotGiven,
    /// The path names the current folder, which is never emptied.
    #[error("harness: refused to use the current directory as output directory: it would be emptied")]
    Current,
    /// The folder exists and nothing says that it may be emptied.
    #[error("harness: refused to remove existing output directory: {}", .0.display())]
    Refused(PathBuf),
    /// Another run works in it.
    #[error("harness: refused to empty {}: another run is using it", .0.display())]
    InUse(PathBuf),
    /// Its record names what is left of a former run: without the record nobody would find it.
    #[error("harness: refused to empty {}: its {} names {} left over, the first is {}", .path.display(), ledger::FILE,
        things(.left.len()), .left[0])]
    LeftOver {
        /// The folder.
        path: PathBuf,
        /// What is left, at least one thing.
        left: Vec<Resource>,
    },
    /// Something else sits where the link to the newest run belongs.
    #[error("{} exists and is not a symlink", .0.display())]
    NotSymlink(PathBuf),
    /// The file system said no.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried, such as `create`.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

fn things(count: usize) -> String {
    if count == 1 { "one thing".into() } else { format!("{count} things") }
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + use<'a> {
    move |source| Error::Io { action, path: path.to_owned(), source }
}

/// The shortest equal path, without asking the file system: no `.`, no `x/..`, no doubled or final `/`.
fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match (part, out.components().next_back()) {
            (Component::CurDir, _) | (Component::ParentDir, Some(Component::RootDir)) => {}
            (Component::ParentDir, Some(Component::Normal(_))) => {
                out.pop();
            }
            _ => out.push(part),
        }
    }
    out
}

/// Makes `path` an empty folder with our [`MARKER`] in it and returns the path, cleaned.
///
/// An existing folder is used only if it is empty or holds the marker, whatever its name; its own inode, owner and
/// mode stay. Parents are not created.
///
/// # Errors
/// [`Error::NotGiven`], [`Error::Current`], [`Error::Refused`], [`Error::InUse`], [`Error::LeftOver`], or what the file
/// system says.
pub fn prepare(path: &Path) -> Result<PathBuf, Error> {
    if path.as_os_str().is_empty() {
        return Err(Error::NotGiven);
    }
    let path = clean(path);
    if path.as_os_str().is_empty() {
        return Err(Error::Current);
    }
    match fs::DirBuilder::new().mode(0o777).create(&path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            if !path.is_dir() || !(path.join(MARKER).exists() || is_empty(&path)?) {
                return Err(Error::Refused(path));
            }
            let left = left_over(&path)?;
            if !left.is_empty() {
                return Err(Error::LeftOver { path, left });
            }
            empty(&path)?;
        }
        Err(e) => return Err(failed("create", &path)(e)),
    }
    mark(&path)?;
    Ok(path)
}

fn is_empty(path: &Path) -> Result<bool, Error> {
    Ok(fs::read_dir(path).map_err(failed("read", path))?.next().is_none())
}

/// What the record in a folder says is left; nothing if it has none. Refuses what another run works with.
fn left_over(path: &Path) -> Result<Vec<Resource>, Error> {
    match ledger::is_in_use(path)
        .and_then(|used| if used { Ok(None) } else { ledger::left_over(path).map(Some) })
    {
        Ok(None) => Err(Error::InUse(path.to_owned())),
        Ok(Some(left)) => Ok(left),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(failed("read", &path.join(ledger::FILE))(e)),
    }
}

/// Removes what a former run with this folder left on this machine, so that [`prepare`] can empty it; `tell` hears of
/// each. Does nothing in folders that are not ours, nor while a machine that a former run kept is running.
///
/// # Errors
/// [`Error::InUse`], or what the file system says of the record. What could not be removed stays on record.
pub async fn clean_up(
    path: &Path,
    cancel: &CancellationToken,
    tell: impl FnMut(&Resource, Result<(), &Leftover>),
) -> Result<(), Error> {
    let left = if path.join(MARKER).exists() { left_over(path)? } else { Vec::new() };
    if left.is_empty() || left.iter().any(ledger::is_running) {
        return Ok(());
    }
    let cleaned = ledger::clean_up(path, Resource::is_local, &ledger::Local, cancel, tell).await;
    cleaned.map(drop).map_err(|e| match e {
        ledger::Error::InUse(path) => Error::InUse(path),
        ledger::Error::File { path, source } => failed("use", &path)(source),
    })
}

/// Removes everything in `path` but the marker, so that an interrupted removal can be done again.
fn empty(path: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(path).map_err(failed("read", path))? {
        let entry = entry.map_err(failed("read", path))?;
        let (name, below) = (entry.file_name(), entry.path());
        if name == MARKER {
            continue;
        }
        // The type of the entry itself: a link is removed, never followed.
        let kind = entry.file_type().map_err(failed("examine", &below))?;
        let removed = if kind.is_dir() { fs::remove_dir_all(&below) } else { fs::remove_file(&below) };
        removed.map_err(failed("remove", &below))?;
    }
    Ok(())
}

fn mark(path: &Path) -> Result<(), Error> {
    let marker = path.join(MARKER);
    fs::write(&marker, b"").map_err(failed("create", &marker))
}

/// Sees to it that the folder is there when the tests start; what it holds already is kept.
pub(super) fn ensure(path: &Path) -> Result<(), Error> {
    let path = clean(path);
    if path.as_os_str().is_empty() {
        return Err(Error::NotGiven);
    }
    if path.is_dir() { Ok(()) } else { prepare(&path).map(drop) }
}

/// Makes and prepares `_kola_temp/<platform>-<local time>-<pid>` below the current folder, points the link
/// `_kola_temp/<platform>-latest` to it and returns its (relative) path.
///
/// # Errors
/// As [`prepare`], and [`Error::NotSymlink`].
pub fn default(platform: &str) -> Result<PathBuf, Error> {
    default_in(Path::new("_kola_temp"), platform)
}

fn default_in(base: &Path, platform: &str) -> Result<PathBuf, Error> {
    match fs::DirBuilder::new().mode(0o777).create(base) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed("create", base)(e)),
        _ => {}
    }
    let time = chrono::Local::now().format("%Y-%m-%d-%H%M");
    let name = format!("{platform}-{time}-{}", std::process::id());
    let path = prepare(&base.join(&name))?;
    let (made, latest) = (path.join("latest"), base.join(format!("{platform}-latest")));
    if fs::symlink_metadata(&latest).is_ok_and(|m| !m.is_symlink()) {
        return Err(Error::NotSymlink(latest));
    }
    symlink(&name, &made).map_err(failed("create", &made))?;
    fs::rename(&made, &latest).map_err(failed("replace", &latest))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn paths_are_cleaned() {
        for (path, want) in [
            ("", ""),
            (".", ""),
            ("./", ""),
            ("a/..", ""),
            ("..", ".."),
            ("../a/", "../a"),
            ("a/./b//c/../d", "a/b/d"),
            ("/../a", "/a"),
            ("a/../../b", "../b"),
        ] {
            assert_eq!(clean(Path::new(path)), Path::new(want), "{path:?}");
        }
    }

    #[test]
    fn nothing_foreign_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(prepare(Path::new("")), Err(Error::NotGiven)));
        for path in [".", "./", "./x/.."] {
            assert!(matches!(prepare(Path::new(path)), Err(Error::Current)), "{path}");
        }
        let foreign = dir.path().join("results");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("thesis"), "x").unwrap();
        let text = prepare(&foreign.join("../results/")).unwrap_err().to_string();
        assert_eq!(
            text,
            format!("harness: refused to remove existing output directory: {}", foreign.display())
        );
        assert_eq!(names(&foreign), ["thesis"]);
        let file = dir.path().join("_file_temp");
        fs::write(&file, "x").unwrap();
        assert!(matches!(prepare(&file), Err(Error::Refused(_))));
        let text = prepare(&dir.path().join("no/such")).unwrap_err().to_string();
        assert_eq!(text, format!("cannot create {}", dir.path().join("no/such").display()));
    }

    #[test]
    fn own_folders_are_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        let out = dir.path().join("out");
        assert_eq!(prepare(&out).unwrap(), out);
        assert_eq!(names(&out), [MARKER]);
        fs::create_dir_all(out.join("a/b")).unwrap();
        fs::write(out.join("a/b/f"), "x").unwrap();
        symlink(&outside, out.join("link")).unwrap();
        ensure(&out).unwrap();
        assert_eq!(names(&out), [MARKER, "a", "link"], "starting the tests keeps what is there");
        prepare(&out).unwrap();
        assert_eq!(names(&out), [MARKER]);
        assert_eq!(names(&outside), ["kept"]);

        let void = dir.path().join("void");
        fs::create_dir(&void).unwrap();
        prepare(&void).unwrap();
        assert_eq!(names(&void), [MARKER]);
        // a name says nothing: others have such folders, too
        let named = dir.path().join("_foo_temp");
        fs::create_dir(&named).unwrap();
        fs::write(named.join("f"), "x").unwrap();
        assert!(matches!(prepare(&named), Err(Error::Refused(_))));
        assert_eq!(names(&named), ["f"]);
    }

    #[tokio::test]
    async fn a_record_of_what_is_left_is_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let (out, local) = (dir.path().join("out"), dir.path().join("local"));
        prepare(&out).unwrap();
        fs::create_dir(&local).unwrap();
        let ledger = ledger::Ledger::open(&out).unwrap();
        ledger.create(&Resource::local("folder", local.display().to_string(), "qemu")).unwrap();
        ledger.create(&Resource::local("instance", "i-1", "aws")).unwrap();
        assert!(matches!(prepare(&out), Err(Error::InUse(_))));
        let cancel = CancellationToken::new();
        let cleaned = clean_up(&out, &cancel, |_, _| panic!("in use")).await;
        assert!(matches!(cleaned, Err(Error::InUse(_))) && local.exists());
        drop(ledger);
        let text = prepare(&out).unwrap_err().to_string();
        assert!(text.ends_with(&format!("2 things left over, the first is folder {}", local.display())));
        // in a folder that is not ours nothing is touched
        fs::remove_file(out.join(MARKER)).unwrap();
        clean_up(&out, &cancel, |_, _| panic!("not ours")).await.unwrap();
        fs::write(out.join(MARKER), "").unwrap();
        let mut told = Vec::new();
        clean_up(&out, &cancel, |r, done| told.push((r.kind.clone(), done.is_ok()))).await.unwrap();
        assert_eq!(told, [("folder".to_owned(), true)]);
        assert!(!local.exists());
        let text = prepare(&out).unwrap_err().to_string();
        assert!(text.ends_with("its resources.jsonl names one thing left over, the first is instance i-1"));
        ledger::Ledger::open(&out).unwrap().delete(&Resource::local("instance", "i-1", "aws"));
        prepare(&out).unwrap();
        assert_eq!(names(&out), [MARKER]);
    }

    #[test]
    fn default_folder_has_a_link_to_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("_kola_temp");
        let first = default_in(&base, "qemu").unwrap();
        let name = first.file_name().unwrap().to_str().unwrap().to_owned();
        let shape = regex::Regex::new(r"^qemu-\d{4}-\d\d-\d\d-\d{4}-\d+$").unwrap();
        assert!(shape.is_match(&name), "{name}");
        assert!(name.ends_with(&format!("-{}", std::process::id())));
        assert_eq!(fs::read_link(base.join("qemu-latest")).unwrap(), Path::new(&name));
        assert_eq!(names(&first), [MARKER]);
        default_in(&base, "qemu").unwrap();
        default_in(&base, "gce").unwrap();
        assert_eq!(fs::read_dir(&base).unwrap().count(), 4);

        fs::remove_file(base.join("qemu-latest")).unwrap();
        fs::write(base.join("qemu-latest"), "").unwrap();
        let text = default_in(&base, "qemu").unwrap_err().to_string();
        assert_eq!(text, format!("{} exists and is not a symlink", base.join("qemu-latest").display()));
    }
}
