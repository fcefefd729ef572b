//! A command runs inside a chroot, as the user who called.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use nix::unistd::geteuid;

use super::agents::Inside;
use super::dir::Dir;
use super::request::Request;
use super::user::User;
use super::{Error, SOURCE, home, mounts, remove};
use crate::input;

/// Runs the command in place of this process, which is root and has one thread; returns only if that fails.
///
/// Nothing has to be undone then: all mounts are this process's own.
pub fn enter(request: &Request) -> Error {
    match prepare(request) {
        Ok(mut command) => Error::at("run /usr/bin/sudo in", &request.chroot)(command.exec()),
        Err(e) => e,
    }
}

fn prepare(request: &Request) -> Result<Command, Error> {
    if !geteuid().is_root() {
        return Err(Error::Root("entering a chroot needs root".into()));
    }
    let user = User::of_sudo()?;
    let (parent, name) = request.place()?;
    if remove::look(&parent, &name)?.is_none() {
        return Err(Error::Kind { path: request.chroot.clone(), wanted: "there" });
    }
    let chroot = parent.dir(&name)?;
    chroot.make(SOURCE.trim_start_matches('/'), 0o755)?;
    name_servers(&chroot, request.use_host_dns)?;
    mounts::isolate()?;
    // Opened again: the descriptors of before are of mounts that are not this process's own.
    let (parent, name) = request.place()?;
    let root = mounts::system(&parent, &name, Some(&request.repo_root))?;
    let changes = Inside { root: &root, user: &user }.furnish(request.bind_gpg_agent)?;
    let current = if request.cmd_dir.is_empty() { "/" } else { &request.cmd_dir };
    mounts::change_root(&root, Path::new(current))?;
    let mut command = Command::new("/usr/bin/sudo");
    command.args(["-u", &user.name]).args(&request.cmd);
    for (name, value) in changes {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Ok(command)
}

/// Says where names are resolved. A link in that place is replaced: it may lead to the machine's own file.
fn name_servers(chroot: &Dir, as_outside: bool) -> Result<(), Error> {
    const FILE: &str = "/etc/resolv.conf";
    const PUBLIC: &[u8] = b"nameserver 8.8.8.8\nnameserver 8.8.4.4\n";
    let content = match as_outside {
        false => PUBLIC.to_vec(),
        true => match input::read(Path::new(FILE)) {
            Ok(content) => content,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::at("read", Path::new(FILE))(e)),
        },
    };
    chroot.make("etc", 0o755)?.write("resolv.conf", 0o644, None, &content)
}

/// Settings that are copied into the user's home inside.
const SETTINGS: [&str; 3] = [".ssh/config", ".ssh/known_hosts", ".gitconfig"];

/// Copies the user's settings into the home inside; for who called, with their rights.
///
/// # Errors
/// [`Error::Kind`] if there is no such home; [`Error::Link`] if a link lies in the way; what the file system says.
pub fn copy_settings(chroot: &Path, user: &User) -> Result<(), Error> {
    let root = Dir::open(chroot)?;
    let owner = geteuid().is_root().then_some((user.uid, user.gid));
    let inside = home(user);
    for name in SETTINGS {
        let from = user.home.join(name);
        let Ok(meta) = std::fs::metadata(&from) else { continue };
        let content = input::read(&from).map_err(Error::at("read", &from))?;
        if root.stat(&inside)?.is_none() {
            return Err(Error::User(format!("{} has no user {}", chroot.display(), user.name)));
        }
        let below = inside.join(name);
        let (folder, file) = (below.parent().unwrap_or(&inside), below.file_name().unwrap_or_default());
        let is_new = root.stat(folder)?.is_none();
        let folder = root.make(folder, 0o700)?;
        if is_new {
            folder.chown(owner)?;
        }
        let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777;
        let mode = match folder.stat(file)? {
            None => mode,
            Some(stat) if stat.st_mode & libc::S_IFMT == libc::S_IFREG => stat.st_mode & 0o777,
            Some(stat) if super::dir::is_link(&stat) => return Err(Error::Link { path: folder.path(file) }),
            Some(_) => return Err(Error::Kind { path: folder.path(file), wanted: "a plain file" }),
        };
        folder.write(&file.to_string_lossy(), mode, owner, &content)?;
    }
    Ok(())
}
