//! Copies of and links to files of projects, elsewhere in the tree. Nothing on the way to either end may be a link, for
//! a project could have planted it.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::{self, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::state::Trace;
use super::{Error, LOG, Placed, Project};
use crate::text::hex;
use crate::{info, input, warning};

/// Longest file that is copied, in bytes: they are read as a whole.
const MAX_COPY: u64 = 64 << 20;

/// The folder at a relative path that [`super::names::check_path`] has let pass, made where it is not there. Nothing on
/// the way may be a link. Blocks.
///
/// # Errors
/// [`Error::Unsafe`] for links and what is no folder, or what the file system says.
pub(super) fn folder(root: &Path, path: &str) -> Result<PathBuf, Error> {
    let mut at = root.to_owned();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        at.push(part);
        match look(&at)? {
            Some(meta) if meta.is_dir() => {}
            Some(meta) => return Err(refused(&at, &meta, "a folder is to be there")),
            None => match std::fs::create_dir(&at) {
                // By another project, just now; by us or not, it is looked at.
                Err(e)
                    if e.kind() == io::ErrorKind::AlreadyExists
                        && at.symlink_metadata().is_ok_and(|m| m.is_dir()) => {}
                made => made.map_err(Error::io("make the folder", &at))?,
            },
        }
    }
    Ok(at)
}

/// What is at a path, if anything.
fn look(path: &Path) -> Result<Option<Metadata>, Error> {
    match path.symlink_metadata() {
        Ok(meta) => Ok(Some(meta)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("look at", path)(e)),
    }
}

fn refused(path: &Path, meta: &Metadata, wanted: &str) -> Error {
    let what = match meta {
        meta if meta.is_symlink() => "a link",
        meta if meta.is_file() => "a file",
        meta => input::kind(meta),
    };
    Error::unsafe_path(path, format!("{wanted}, and it is {what}"))
}

/// Puts files and links of projects in their places, and removes those that no project has any more, unless somebody
/// changed them. `force`: what was changed is replaced. Returns what was placed; blocks.
///
/// # Errors
/// The first that cannot be placed; what was done until then is in `placed`.
pub(super) fn place(
    root: &Path,
    projects: &[Project],
    placed: &mut BTreeMap<String, Trace>,
    force: bool,
) -> Result<(), Error> {
    let wanted: Vec<(&Project, &Placed)> =
        projects.iter().flat_map(|project| project.files.iter().map(move |file| (project, file))).collect();
    let obsolete = |to: &String| !wanted.iter().any(|(_, file)| &file.to == to);
    let old: Vec<String> = placed.keys().filter(|to| obsolete(to)).cloned().collect();
    for to in old {
        if let Some(trace) = placed.remove(&to) {
            remove(root, &to, &trace)?;
        }
    }
    for (project, file) in wanted {
        let trace = if file.link {
            link(root, project, file, placed.get(&file.to), force)?
        } else {
            copy(root, project, file, placed.get(&file.to), force)?
        };
        placed.insert(file.to.clone(), trace);
    }
    Ok(())
}

/// What is to be copied or linked to.
fn source(root: &Path, project: &Project, file: &Placed) -> Result<(PathBuf, Metadata), Error> {
    let mut at = root.to_owned();
    let inside = if file.from == "." { "" } else { &file.from };
    let mut meta = None;
    for part in project.path.split('/').chain(inside.split('/')).filter(|part| !part.is_empty()) {
        at.push(part);
        let here = look(&at)?.ok_or_else(|| {
            Error::unsafe_path(
                &at,
                format!("project {} has no such file to place at {}", project.name, file.to),
            )
        })?;
        if here.is_symlink() {
            return Err(Error::unsafe_path(&at, format!("it is a link and cannot be placed at {}", file.to)));
        }
        meta = Some(here);
    }
    meta.map(|meta| (at, meta)).ok_or_else(|| Error::unsafe_path(root, "there is no project"))
}

/// Where it goes: its folder, and its name there.
fn destination(root: &Path, to: &str) -> Result<PathBuf, Error> {
    let (parent, name) = to.rsplit_once('/').unwrap_or(("", to));
    Ok(folder(root, parent)?.join(name))
}

fn in_the_way(path: &Path) -> Error {
    Error::unsafe_path(path, "something else is there; move it away, or sync with --force-sync")
}

/// What it was last, or what is there.
fn digest(content: &[u8]) -> Trace {
    Trace::Copy(hex(&openssl::sha::sha256(content)))
}

fn copy(
    root: &Path,
    project: &Project,
    file: &Placed,
    before: Option<&Trace>,
    force: bool,
) -> Result<Trace, Error> {
    let (from, meta) = source(root, project, file)?;
    if !meta.is_file() {
        return Err(refused(&from, &meta, "a file is to be copied"));
    }
    if meta.len() > MAX_COPY {
        return Err(Error::unsafe_path(&from, "it is too long to be copied"));
    }
    let content = input::read(&from).map_err(Error::io("read", &from))?;
    let trace = digest(&content);
    let to = destination(root, &file.to)?;
    match look(&to)? {
        None => {}
        Some(there) if there.is_file() => {
            let old = input::read(&to).map_err(Error::io("read", &to))?;
            if old == content {
                return Ok(trace);
            }
            if !force && before != Some(&digest(&old)) {
                return Err(in_the_way(&to));
            }
        }
        Some(there) if there.is_symlink() => replaceable_link(&to, before, force)?,
        Some(there) => return Err(refused(&to, &there, "a file is to be there")),
    }
    let mode = meta.permissions().mode() & 0o777;
    let write = |fresh: &Path| {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(fresh)?;
        file.write_all(&content)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))
    };
    put(&to, write)?;
    info!(LOG, "copied {} to {}", from.display(), to.display());
    Ok(trace)
}

fn link(
    root: &Path,
    project: &Project,
    file: &Placed,
    before: Option<&Trace>,
    force: bool,
) -> Result<Trace, Error> {
    let (from, _) = source(root, project, file)?;
    let to = destination(root, &file.to)?;
    let inside = from.strip_prefix(root).unwrap_or(&from);
    let up = "../".repeat(file.to.matches('/').count());
    let target = Path::new(&up).join(inside);
    let trace = Trace::Link(target.display().to_string());
    match look(&to)? {
        None => {}
        Some(there) if there.is_symlink() => {
            if std::fs::read_link(&to).is_ok_and(|old| old == target) {
                return Ok(trace);
            }
            replaceable_link(&to, before, force)?;
        }
        Some(there) if there.is_file() => {
            let old = input::read(&to).map_err(Error::io("read", &to))?;
            if !force && before != Some(&digest(&old)) {
                return Err(in_the_way(&to));
            }
        }
        Some(there) => return Err(refused(&to, &there, "a link is to be there")),
    }
    put(&to, |fresh| symlink(&target, fresh))?;
    info!(LOG, "linked {} to {}", to.display(), target.display());
    Ok(trace)
}

/// A link may be replaced if it is as it was placed.
fn replaceable_link(path: &Path, before: Option<&Trace>, force: bool) -> Result<(), Error> {
    let old = std::fs::read_link(path).map_err(Error::io("read", path))?;
    match before {
        _ if force => Ok(()),
        Some(Trace::Link(target)) if Path::new(target) == old => Ok(()),
        _ => Err(in_the_way(path)),
    }
}

/// Makes something beside its place, and puts it there in one step.
fn put(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Of a run that was killed: the name is ours.
    let fresh = path.with_file_name(format!(".mantle-new-{name}"));
    let put = || {
        match std::fs::remove_file(&fresh) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        make(&fresh)?;
        std::fs::rename(&fresh, path)
    };
    put().map_err(Error::io("write", path))
}

/// Removes what no project has any more, if it is as it was placed.
fn remove(root: &Path, to: &str, trace: &Trace) -> Result<(), Error> {
    let mut at = root.to_owned();
    let parts: Vec<&str> = to.split('/').collect();
    for (index, part) in parts.iter().enumerate() {
        at.push(part);
        let is_last = index + 1 == parts.len();
        match look(&at)? {
            None => return Ok(()),
            Some(meta) if !is_last && !meta.is_dir() => return Ok(()),
            _ => {}
        }
    }
    let same = match trace {
        Trace::Link(target) => std::fs::read_link(&at).is_ok_and(|old| old == Path::new(target)),
        Trace::Copy(_) => !at.is_symlink() && input::read(&at).is_ok_and(|old| digest(&old) == *trace),
    };
    if !same {
        warning!(LOG, "{} is in no manifest any more; it was changed and is left", at.display());
        return Ok(());
    }
    info!(LOG, "removing {}: it is in no manifest any more", at.display());
    std::fs::remove_file(&at).map_err(Error::io("remove", &at))
}
