//! A new chroot gets the user who called: by a script, run as root inside, with values as arguments.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};

use super::request::{PROVISION, Request};
use super::user::User;
use super::{COMPONENT, Error, home, mounts, watch};
use crate::log::{self, Level};
use crate::{info, multicall, process};

/// What is run.
const SCRIPT: &str = include_str!("provision.sh");

/// Prepares an unpacked tree for its user, in a process of its own: its mounts and all it starts end with it, and it
/// ends with this one.
///
/// # Errors
/// [`Error::Program`] when it fails, having said why on stderr; [`Error::Interrupted`].
pub fn provision(request: &Request) -> Result<(), Error> {
    let json = serde_json::to_string(request).map_err(Error::Request)?;
    let failed = || Error::at("prepare", &request.chroot);
    let words = multicall::words(PROVISION, &[json.as_ref()]).map_err(failed())?;
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null());
    process::tie(&mut command);
    let status = command.spawn().and_then(|mut child| watch::wait(&mut child)).map_err(failed())?;
    if watch::stopped() {
        return Err(Error::Interrupted);
    }
    match status.success() {
        true => Ok(()),
        false => Err(Error::Program { what: "the preparation of the chroot", status }),
    }
}

/// That process.
///
/// # Errors
/// As [`provision`].
pub fn run(request: &Request) -> Result<(), Error> {
    let user = User::of_sudo()?;
    mounts::isolate()?;
    let (parent, name) = request.place()?;
    let root = mounts::system(&parent, &name, None)?;
    mounts::change_root(&root, Path::new("/"))?;
    // The first child of the new namespace is its init: with it all end.
    unshare(CloneFlags::CLONE_NEWPID).map_err(|e| mounts::failed("unshare of processes".into(), e))?;
    let mut command = Command::new("/usr/bin/env");
    command.args(["-i", "/bin/bash", "--login"]);
    if log::enabled(Level::Debug) {
        command.arg("-x");
    }
    let (uid, gid) = (user.uid.to_string(), user.gid.to_string());
    command.args(["-c", SCRIPT, "provision", &uid, &gid, &user.name, &user.group, &user.full_name]);
    command.arg(Path::new("/").join(home(&user))).stdin(Stdio::null()).stdout(Stdio::piped());
    process::tie(&mut command);
    let mut run = || {
        let mut child = command.spawn()?;
        for line in child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).split(b'\n')) {
            info!(COMPONENT, "{}", String::from_utf8_lossy(&line?));
        }
        child.wait()
    };
    let status = run().map_err(Error::at("run /bin/bash in", &request.chroot))?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::Program { what: "the preparing script", status }),
    }
}
