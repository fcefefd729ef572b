//! The mounts of a chroot, in a namespace of their own: they are seen by nobody else, and end with the last process
//! inside.

use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, chroot, fchdir};

use super::dir::Dir;
use super::{COMPONENT, Error, SOURCE};
use crate::debug;

/// Options of mount(8) that are flags of mount(2).
const OPTIONS: [(&str, MsFlags); 27] = [
    ("ro", MsFlags::MS_RDONLY),
    ("nosuid", MsFlags::MS_NOSUID),
    ("nodev", MsFlags::MS_NODEV),
    ("noexec", MsFlags::MS_NOEXEC),
    ("sync", MsFlags::MS_SYNCHRONOUS),
    ("remount", MsFlags::MS_REMOUNT),
    ("mand", MsFlags::MS_MANDLOCK),
    ("dirsync", MsFlags::MS_DIRSYNC),
    ("noatime", MsFlags::MS_NOATIME),
    ("nodiratime", MsFlags::MS_NODIRATIME),
    ("bind", MsFlags::MS_BIND),
    ("rbind", MsFlags::MS_BIND.union(MsFlags::MS_REC)),
    ("x-move", MsFlags::MS_MOVE),
    ("silent", MsFlags::MS_SILENT),
    ("unbindable", MsFlags::MS_UNBINDABLE),
    ("runbindable", MsFlags::MS_UNBINDABLE.union(MsFlags::MS_REC)),
    ("private", MsFlags::MS_PRIVATE),
    ("rprivate", MsFlags::MS_PRIVATE.union(MsFlags::MS_REC)),
    ("slave", MsFlags::MS_SLAVE),
    ("rslave", MsFlags::MS_SLAVE.union(MsFlags::MS_REC)),
    ("shared", MsFlags::MS_SHARED),
    ("rshared", MsFlags::MS_SHARED.union(MsFlags::MS_REC)),
    ("relatime", MsFlags::MS_RELATIME),
    ("iversion", MsFlags::MS_I_VERSION),
    ("strictatime", MsFlags::MS_STRICTATIME),
    ("rw", MsFlags::empty()),
    ("defaults", MsFlags::empty()),
];

/// Splits options as mount(8) takes them: into flags, and what is left for the file system.
pub fn options(text: &str) -> (MsFlags, String) {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for word in text.split(',').filter(|w| !w.is_empty()) {
        match OPTIONS.iter().find(|(name, _)| *name == word) {
            Some((_, flag)) => flags |= *flag,
            None => data.push(word),
        }
    }
    (flags, data.join(","))
}

/// The error for a call that failed, in upstream's words.
pub fn failed(what: String, errno: Errno) -> Error {
    Error::Mount { what, source: errno.into() }
}

/// Gives this process, which has one thread, mounts of its own: those made outside still arrive, none leaves.
///
/// # Errors
/// [`Error::Mount`].
pub fn isolate() -> Result<(), Error> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|e| failed("unshare of mounts".into(), e))?;
    let (flags, _) = options("rslave");
    mount(None::<&Path>, "/", None::<&Path>, flags, None::<&Path>)
        .map_err(|e| failed("rslave on /".into(), e))
}

/// Whether this process is root in a user namespace only, where whole trees of mounts can be bound, no parts of them.
pub fn is_nested() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"]
}

/// Binds what one descriptor is of to where another one is.
///
/// # Errors
/// [`Error::Mount`].
pub fn bind(from: &Dir, to: &Dir, recursive: bool) -> Result<(), Error> {
    let word = if recursive { "rbind" } else { "bind" };
    mount(Some(&from.magic()), &to.magic(), Some("none"), options(word).0, None::<&Path>)
        .map_err(|e| failed(format!("{word} {} to {}", from.name().display(), to.name().display()), e))
}

/// Mounts a file system of a kind.
fn kind(kind: &str, to: &Dir, text: &str) -> Result<(), Errno> {
    let (flags, data) = options(text);
    mount(Some(kind), &to.magic(), Some(kind), flags, Some(data.as_str()))
}

fn fresh(name: &str, to: &Dir, options: &str) -> Result<(), Error> {
    kind(name, to, options).map_err(|e| failed(format!("mount {name} to {}", to.name().display()), e))
}

/// Gives what is mounted in a folder more options, read-only among them; those that it has stay.
fn remount(root: &Dir, name: &str, more: &str) -> Result<(), Error> {
    let to = root.dir(name)?; // what is on top now
    let have = nix::sys::statvfs::fstatvfs(&to).map_err(|e| failed(format!("look at {name}"), e))?;
    let mut flags = options("bind,remount").0 | options(more).0;
    for (mounted, flag) in [
        (libc::ST_NOSUID, MsFlags::MS_NOSUID),
        (libc::ST_NODEV, MsFlags::MS_NODEV),
        (libc::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (libc::ST_NOATIME, MsFlags::MS_NOATIME),
        (libc::ST_RELATIME, MsFlags::MS_RELATIME),
    ] {
        if have.flags().bits() & mounted != 0 {
            flags |= flag;
        }
    }
    mount(None::<&Path>, &to.magic(), Some("none"), flags, None::<&Path>)
        .map_err(|e| failed(format!("remount on {}", to.name().display()), e))
}

/// Mounts all that a chroot has of the system, and the source tree if there is one to bind. Returns the new root.
///
/// # Errors
/// [`Error::Mount`]; [`Error::Link`] if a place for a mount is a link, or behind one.
pub fn system(parent: &Dir, name: &OsStr, source: Option<&Path>) -> Result<Dir, Error> {
    const VIRTUAL: &str = "ro,nosuid,nodev,noexec";
    let nested = is_nested();
    let below = parent.dir(name)?;
    if let Some(source) = source {
        bind(&Dir::open(source)?, &below.make(SOURCE, 0o755)?, true)?;
    }
    bind(&below, &below, true)?;
    let root = parent.dir(name)?;
    for (kind_name, place) in [("proc", "proc"), ("sysfs", "sys")] {
        let to = root.make(place, 0o755)?;
        match kind(kind_name, &to, VIRTUAL) {
            // A user namespace has no processes and networks of its own to show.
            Err(Errno::EPERM) if nested => {
                bind(&Dir::open(&Path::new("/").join(place))?, &to, true)?;
                remount(&root, place, VIRTUAL)?;
            }
            other => other.map_err(|e| failed(format!("mount {kind_name} to {}", to.name().display()), e))?,
        }
    }
    if !nested && let Ok(formats) = root.dir("proc/sys/fs/binfmt_misc") {
        // For programs of other machines, as builds for them run; not every kernel has it.
        if let Err(e) = kind("binfmt_misc", &formats, "rw,nosuid,nodev,noexec,relatime") {
            debug!(COMPONENT, "no binfmt_misc inside: {e}");
        }
    }
    fresh("tmpfs", &root.make("run", 0o755)?, "nosuid,nodev,mode=755")?;
    let devices = Dir::open(Path::new("/dev"))?;
    bind(&devices, &root.make("dev", 0o755)?, nested)?;
    remount(&root, "dev", "ro")?;
    if !nested {
        bind(&devices.dir("pts")?, &root.dir("dev/pts")?, false)?;
    }
    shared_memory(&root)?;
    Ok(root)
}

/// Shared memory of its own, where the machine has it.
fn shared_memory(root: &Dir) -> Result<(), Error> {
    let outside = Path::new("/dev/shm");
    let Ok(meta) = outside.symlink_metadata() else { return Ok(()) };
    if !meta.is_symlink() {
        return fresh("tmpfs", &root.dir("dev/shm")?, "nosuid,nodev");
    }
    let real = outside.canonicalize().map_err(Error::at("look at", outside))?;
    if real != Path::new("/run/shm") {
        return Err(Error::Kind { path: real, wanted: "/run/shm: Unexpected shm path" });
    }
    root.make("run/shm", 0o1777).map(drop)
}

/// Makes a folder the root of this process, for good, and one below it the current one.
///
/// # Errors
/// What the kernel says.
pub fn change_root(root: &Dir, current: &Path) -> Result<(), Error> {
    // Through the descriptor: the path may be another folder's meanwhile.
    fchdir(root.as_fd())
        .and_then(|()| chroot("."))
        .map_err(|e| super::dir::failed(e, "enter", root.name()))?;
    chdir(current).map_err(|e| super::dir::failed(e, "enter", current))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_split() {
        let nodev_nosuid = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
        for (text, flags, data) in [
            ("", MsFlags::empty(), ""),
            ("nodev,nosuid,mode=755", nodev_nosuid, "mode=755"),
            ("mode=755,nodev,other", MsFlags::MS_NODEV, "mode=755,other"),
            ("rslave", MsFlags::MS_SLAVE | MsFlags::MS_REC, ""),
        ] {
            assert_eq!(options(text), (flags, data.to_owned()), "{text}");
        }
    }
}
