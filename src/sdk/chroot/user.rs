//! For whom the chroot is: the user who called, not the one who does the work.

use std::ffi::{CStr, CString};
use std::path::PathBuf;

use nix::unistd::{Gid, Group, Uid, getuid};

use super::Error;
use crate::folders;

/// The variable by which sudo tells who called.
pub(super) const CALLER: &str = "SUDO_USER";

/// A user of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The name of the main group.
    pub group: String,
    /// What people call them.
    pub full_name: String,
    /// The number.
    pub uid: Uid,
    /// The number of the main group.
    pub gid: Gid,
    /// The home folder on this machine.
    pub home: PathBuf,
}

impl User {
    /// Who called: root that sudo made is whoever called sudo.
    ///
    /// # Errors
    /// When the user database does not know them.
    pub fn calling() -> Result<Self, Error> {
        if getuid().is_root() && std::env::var_os(CALLER).is_some_and(|v| !v.is_empty()) {
            return Self::of_sudo();
        }
        let found = nix::unistd::User::from_uid(getuid());
        let user = Self::found(found, || format!("user {}", getuid()))?;
        let home = folders::variable("HOME").unwrap_or_else(|| user.home.clone());
        Ok(Self { home, ..user })
    }

    /// Who called sudo.
    ///
    /// # Errors
    /// Without `SUDO_USER`, or when the user database does not know that name.
    pub fn of_sudo() -> Result<Self, Error> {
        let name = std::env::var(CALLER).ok().filter(|n| !n.is_empty());
        let name = name.ok_or_else(|| Error::User(format!("{CALLER} environment variable is not set.")))?;
        Self::found(nix::unistd::User::from_name(&name), || format!("user {name}"))
    }

    fn found(found: nix::Result<Option<nix::unistd::User>>, who: impl Fn() -> String) -> Result<Self, Error> {
        let user = match found {
            Ok(Some(user)) => user,
            Ok(None) => return Err(Error::User(format!("the user database does not know {}", who()))),
            Err(e) => return Err(Error::User(format!("cannot look up {}: {e}", who()))),
        };
        let group = Group::from_gid(user.gid).ok().flatten();
        Ok(Self {
            group: group.map_or_else(|| user.name.clone(), |g| g.name),
            full_name: user.gecos.to_string_lossy().split(',').next().unwrap_or_default().to_owned(),
            name: user.name,
            uid: user.uid,
            gid: user.gid,
            home: user.dir,
        })
    }

    /// The address that commits are made with when `EMAIL` says no other: at this machine's full name.
    pub fn email(&self) -> String {
        let host = nix::unistd::gethostname().unwrap_or_default();
        format!("{}@{}", self.name, full_name(&host.to_string_lossy(), canonical))
    }
}

/// The full name of a host, by what `canonical` knows.
fn full_name(host: &str, canonical: impl Fn(&str) -> Option<String>) -> String {
    match host {
        "" | "localhost" | "(none)" => "localhost.".into(),
        _ => canonical(host).unwrap_or_else(|| {
            // An address that cannot be mistaken for somebody else's.
            if host.contains('.') { host.to_owned() } else { format!("{host}.invalid.") }
        }),
    }
}

/// The canonical name of a host, if it resolves.
#[expect(unsafe_code, reason = "getaddrinfo has no safe wrapper that gives the canonical name")]
fn canonical(host: &str) -> Option<String> {
    let host = CString::new(host).ok()?;
    // SAFETY: an all-zero addrinfo is what getaddrinfo(3) asks of hints; the list is freed once, after its last use, and
    // the canonical name is a string that ends with a zero while the list lives.
    unsafe {
        let mut hints: libc::addrinfo = std::mem::zeroed();
        (hints.ai_flags, hints.ai_socktype) = (libc::AI_CANONNAME, libc::SOCK_STREAM);
        let mut list = std::ptr::null_mut();
        if libc::getaddrinfo(host.as_ptr(), std::ptr::null(), &raw const hints, &raw mut list) != 0
            || list.is_null()
        {
            return None;
        }
        let name = (*list).ai_canonname;
        let name = (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned());
        libc::freeaddrinfo(list);
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_get_full_names() {
        for (host, known, name) in [
            ("", Some("x"), "localhost."),
            ("localhost", Some("x"), "localhost."),
            ("(none)", None, "localhost."),
            ("box", Some("box.example.com"), "box.example.com"),
            ("box", None, "box.invalid."),
            ("box.example.com", None, "box.example.com"),
        ] {
            assert_eq!(full_name(host, |_| known.map(String::from)), name, "{host}");
        }
    }
}
