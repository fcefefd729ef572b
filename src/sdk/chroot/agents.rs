//! What of the user's follows into the chroot: agents of SSH and GnuPG, GnuPG's folder, Google's credentials.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use nix::unistd::{setfsgid, setfsuid};
use serde_json::Value;

use super::dir::{Dir, Owner};
use super::user::User;
use super::{COMPONENT, Error, home, mounts};
use crate::{debug, input};

/// More than any credentials have.
const MAX_CREDENTIALS: u64 = 1 << 20;

/// Variables to set inside, or to remove.
pub type Changes = Vec<(&'static str, Option<OsString>)>;

/// A chroot whose system is mounted.
pub struct Inside<'i> {
    pub root: &'i Dir,
    pub user: &'i User,
}

impl Inside<'_> {
    fn owner(&self) -> Owner {
        Some((self.user.uid, self.user.gid))
    }

    /// The user's folder in /run.
    fn run(&self) -> PathBuf {
        Path::new("run/user").join(self.user.uid.to_string())
    }

    /// Makes what is wanted: the user's folder in /run, and there what was asked for; returns the variables to change.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn furnish(&self, with_gpg_agent: bool) -> Result<Changes, Error> {
        self.root.make(self.run(), 0o755)?.chown(self.owner())?;
        let mut changes = Changes::new();
        self.ssh_agent(&mut changes)?;
        self.gnupg(&mut changes)?;
        if with_gpg_agent {
            self.gnupg_agent()?;
        }
        self.google(&mut changes)?;
        Ok(changes)
    }

    /// A folder of the user's with a name that is new: its path inside, and itself.
    fn fresh(&self, prefix: &str) -> Result<(PathBuf, Dir), Error> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let path = self.run().join(format!("{prefix}-{}", &id[..8]));
        let dir = self.root.make(&path, 0o700)?;
        dir.chown(self.owner())?;
        Ok((Path::new("/").join(path), dir))
    }

    fn ssh_agent(&self, changes: &mut Changes) -> Result<(), Error> {
        const VARIABLE: &str = "SSH_AUTH_SOCK";
        let socket = std::env::var_os(VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from);
        let Some(socket) = socket.filter(|s| s.is_absolute()) else { return Ok(()) };
        let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else { return Ok(()) };
        // The folder: an agent that is restarted makes its socket anew.
        let Some(folder) = self.folder_outside(folder)? else { return Ok(()) };
        let (path, dir) = self.fresh("agent")?;
        mounts::bind(&folder, &dir, mounts::is_nested())?;
        changes.push((VARIABLE, Some(path.join(name).into())));
        Ok(())
    }

    fn gnupg(&self, changes: &mut Changes) -> Result<(), Error> {
        const VARIABLE: &str = "GNUPGHOME";
        let named = std::env::var_os(VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from);
        let outside = named.unwrap_or_else(|| self.user.home.join(".gnupg"));
        let Some(folder) = self.folder_outside(&outside)? else {
            changes.push((VARIABLE, None));
            return Ok(());
        };
        let place = home(self.user).join(".gnupg");
        self.bind_private(&folder, &place)?;
        changes.push((VARIABLE, Some(Path::new("/").join(place).into())));
        Ok(())
    }

    fn gnupg_agent(&self) -> Result<(), Error> {
        let place = self.run().join("gnupg");
        match self.folder_outside(&Path::new("/").join(&place))? {
            Some(folder) => self.bind_private(&folder, &place),
            None => Ok(()),
        }
    }

    /// Binds a folder to one of the user's that is made for it, if it is not there.
    fn bind_private(&self, folder: &Dir, place: &Path) -> Result<(), Error> {
        let is_new = self.root.stat(place)?.is_none();
        let dir = self.root.make(place, 0o700)?;
        if is_new {
            dir.chown(self.owner())?;
        }
        mounts::bind(folder, &dir, mounts::is_nested())
    }

    /// A folder outside, if there is one that the user may enter: not root's eyes decide.
    fn folder_outside(&self, path: &Path) -> Result<Option<Dir>, Error> {
        let found = self.as_user(|| {
            let real = path.canonicalize().ok().filter(|p| p.is_dir())?;
            Dir::open(&real).ok()
        });
        if found.is_none() {
            debug!(COMPONENT, "there is no folder {}", path.display());
        }
        Ok(found)
    }

    /// Opens files with the user's rights only.
    fn as_user<T>(&self, work: impl FnOnce() -> T) -> T {
        let (gid, uid) = (setfsgid(self.user.gid), setfsuid(self.user.uid));
        let result = work();
        setfsuid(uid);
        setfsgid(gid);
        result
    }

    fn google(&self, changes: &mut Changes) -> Result<(), Error> {
        const FILE: &str = "GOOGLE_APPLICATION_CREDENTIALS";
        const BOTO: &str = "BOTO_PATH";
        let named = std::env::var_os(FILE).filter(|v| !v.is_empty()).map(PathBuf::from);
        let usual = || self.user.home.join(".config/gcloud/application_default_credentials.json");
        let path = named.unwrap_or_else(usual);
        let json = match self.as_user(|| input::open(&path)) {
            Ok(file) => read(file, &path)?,
            Err(e) => {
                debug!(COMPONENT, "no credentials of Google for the chroot: {}: {e}", path.display());
                changes.extend([(FILE, None), (BOTO, None)]);
                return Ok(());
            }
        };
        let (folder, dir) = self.fresh("google")?;
        // gsutil makes it with too many rights for a moment if it is not there.
        dir.make("tracker-files", 0o700)?.chown(self.owner())?;
        let key = folder.join("application_default_credentials.json");
        let boto = boto(&json, &key, &folder).map_err(|source| Error::at("use", &path)(source))?;
        dir.write("application_default_credentials.json", 0o600, self.owner(), &json)?;
        dir.write("boto", 0o600, self.owner(), boto.as_bytes())?;
        let own = Path::new("/").join(home(self.user)).join(".boto");
        let mut paths = folder.join("boto").into_os_string();
        paths.push(":");
        paths.push(own);
        changes.extend([(BOTO, Some(paths)), (FILE, Some(key.into()))]);
        Ok(())
    }
}

fn read(file: File, path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    file.take(MAX_CREDENTIALS).read_to_end(&mut bytes).map_err(Error::at("read", path))?;
    Ok(bytes)
}

/// The configuration of gsutil for credentials in JSON.
fn boto(json: &[u8], key: &Path, folder: &Path) -> std::io::Result<String> {
    let invalid = |what: String| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
    let value: Value = serde_json::from_slice(json).map_err(|e| invalid(crate::text::json_mistake(&e)))?;
    let field = |name: &str| {
        let text = value.get(name).and_then(Value::as_str);
        let text = text.filter(|t| !t.contains(char::is_control));
        text.ok_or_else(|| invalid(format!("the credentials have no {name}")))
    };
    let credentials = match field("type")? {
        "authorized_user" => format!(
            "[Credentials]\ngs_oauth2_refresh_token = {}\n\n[OAuth2]\nclient_id = {}\nclient_secret = {}\n\n",
            field("refresh_token")?,
            field("client_id")?,
            field("client_secret")?
        ),
        "service_account" => format!("[Credentials]\ngs_service_key_file = {}\n\n", key.display()),
        _ => String::new(),
    };
    Ok(format!("{credentials}[GSUtil]\nstate_dir = {}\n", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_of_gsutil() {
        let (key, folder) = (Path::new("/run/k.json"), Path::new("/run/g"));
        let user = br#"{"type":"authorized_user","refresh_token":"r","client_id":"i","client_secret":"s"}"#;
        assert_eq!(
            boto(user, key, folder).unwrap(),
            "[Credentials]\ngs_oauth2_refresh_token = r\n\n[OAuth2]\nclient_id = i\nclient_secret = s\n\n\
             [GSUtil]\nstate_dir = /run/g\n"
        );
        let service = br#"{"type":"service_account","private_key":"SECRET"}"#;
        assert_eq!(
            boto(service, key, folder).unwrap(),
            "[Credentials]\ngs_service_key_file = /run/k.json\n\n[GSUtil]\nstate_dir = /run/g\n"
        );
        let other = br#"{"type":"external_account"}"#;
        assert_eq!(boto(other, key, folder).unwrap(), "[GSUtil]\nstate_dir = /run/g\n");
        for bad in [&b"{"[..], br#"{"type":"authorized_user","refresh_token":"a\n[x]"}"#, br#"{"t":1}"#] {
            let error = boto(bad, key, folder).unwrap_err();
            assert!(!error.to_string().contains("[x]"), "{error}");
        }
    }
}
