//! The ssh-agent protocol (draft-miller-ssh-agent): our own agent, so that people and programs can log in with the
//! flight's key, and the client side that lists the keys of a user's agent.

use std::fs::Permissions;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openssl::base64::encode_block;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Error;
use super::key::{COMMENT, Key, RsaHash, string};

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
const FLAG_SHA256: u32 = 2;
const FLAG_SHA512: u32 = 4;
/// The longest message either way, in bytes; OpenSSH has the same limit.
const MESSAGE_LIMIT: usize = 256 << 10;
/// The longest path of a UNIX socket (`sun_path` with its final zero byte).
const SOCKET_PATH: usize = 107;
/// How long a user's agent may take for its answer.
const ANSWER: Duration = Duration::from_secs(10);

/// An agent that holds one key; its socket is for this user only.
///
/// Dropping it ends it and removes its folder; [`Agent::close`] also waits for that.
pub struct Agent {
    // Removed with everything in it when dropped.
    folder: Option<tempfile::TempDir>,
    socket: PathBuf,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Agent {
    /// Serves `key` on `<dir>/mantle-ssh-<random>/agent.<pid>`; `dir` must exist.
    ///
    /// When that path is too long for a socket, the system's folder for temporary files takes the place of `dir`.
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the folder or the socket cannot be made.
    pub fn start(dir: &Path, key: Arc<Key>) -> Result<Self, Error> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Agent { step: "cannot make the agent's socket in", path, source }
        };
        let name = format!("agent.{}", std::process::id());
        let make = |dir: &Path| {
            // Readable by its owner only: tempfile makes folders with mode 0700.
            tempfile::Builder::new().prefix("mantle-ssh-").tempdir_in(dir).map_err(failed(dir))
        };
        let mut folder = make(dir)?;
        if folder.path().join(&name).as_os_str().as_bytes().len() > SOCKET_PATH {
            folder = make(&std::env::temp_dir())?;
        }
        let socket = folder.path().join(name);
        let listener = UnixListener::bind(&socket).map_err(failed(folder.path()))?;
        std::fs::set_permissions(&socket, Permissions::from_mode(0o600)).map_err(failed(folder.path()))?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(serve(listener, key, stop.clone(), tasks.clone()));
        tasks.close();
        Ok(Self { folder: Some(folder), socket, stop, tasks })
    }

    /// The socket, for `SSH_AUTH_SOCK`.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Ends the agent and removes its folder.
    ///
    /// # Errors
    /// When the folder cannot be removed.
    pub async fn close(mut self) -> Result<(), Error> {
        self.stop.cancel();
        self.tasks.wait().await;
        match self.folder.take() {
            Some(folder) => {
                let path = folder.path().to_owned();
                folder.close().map_err(|source| Error::Agent {
                    step: "cannot remove the agent's folder",
                    path,
                    source,
                })
            }
            None => Ok(()),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(listener: UnixListener, key: Arc<Key>, stop: CancellationToken, tasks: TaskTracker) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (key, stop) = (key.clone(), stop.clone());
                tasks.spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        // A client that goes away or talks nonsense only ends its own connection.
                        result = converse(stream, &key) => if let Err(error) = result {
                            crate::debug!("ssh", "agent connection ended: {error}");
                        }
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: wait for some to be closed.
                crate::warning!("ssh", "agent cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(mut stream: UnixStream, key: &Key) -> io::Result<()> {
    loop {
        let mut length = [0; 4];
        match stream.read_exact(&mut length).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        };
        let mut request = vec![0; checked_length(length)?];
        stream.read_exact(&mut request).await?;
        stream.write_all(&string(&answer(&request, key))).await?;
    }
}

fn checked_length(length: [u8; 4]) -> io::Result<usize> {
    match u32::from_be_bytes(length) as usize {
        length @ 1..=MESSAGE_LIMIT => Ok(length),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "agent message of impossible length")),
    }
}

/// The reply to one request (without the length before it).
fn answer(request: &[u8], key: &Key) -> Vec<u8> {
    let mut rest = &request[1..];
    match request[0] {
        REQUEST_IDENTITIES => [
            vec![IDENTITIES_ANSWER],
            1u32.to_be_bytes().to_vec(),
            string(key.blob()),
            string(COMMENT.as_bytes()),
        ]
        .concat(),
        SIGN_REQUEST => (|| {
            let (blob, data, flags) =
                (take_string(&mut rest)?, take_string(&mut rest)?, take_u32(&mut rest)?);
            if blob != key.blob() {
                return None;
            }
            let hash = match flags {
                f if f & FLAG_SHA512 != 0 => RsaHash::Sha512,
                f if f & FLAG_SHA256 != 0 => RsaHash::Sha256,
                _ => RsaHash::Sha1,
            };
            let signature = key.sign(hash, data).ok()?;
            Some([vec![SIGN_RESPONSE], string(&signature)].concat())
        })()
        .unwrap_or_else(|| vec![FAILURE]),
        _ => vec![FAILURE],
    }
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    let (head, tail) = rest.split_first_chunk::<4>()?;
    *rest = tail;
    Some(u32::from_be_bytes(*head))
}

fn take_string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take_u32(rest)? as usize;
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

/// The public keys in the agent behind `socket`, as lines of `authorized_keys`: type, base64, comment.
///
/// Blocks for as long as the agent takes, at most 10 s.
///
/// # Errors
/// When the agent cannot be reached or gives no proper answer.
pub fn agent_keys(socket: &Path) -> Result<Vec<String>, Error> {
    let failed = |step| move |source| Error::Agent { step, path: socket.to_owned(), source };
    let mut stream =
        std::os::unix::net::UnixStream::connect(socket).map_err(failed("couldn't connect to unix socket"))?;
    let mut ask = || {
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        stream.write_all(&string(&[REQUEST_IDENTITIES]))?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut reply = vec![0; checked_length(length)?];
        stream.read_exact(&mut reply)?;
        identities(&reply).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an agent's answer"))
    };
    ask().map_err(failed("couldn't talk to ssh-agent at"))
}

fn identities(reply: &[u8]) -> Option<Vec<String>> {
    let mut rest = reply.strip_prefix(&[IDENTITIES_ANSWER])?;
    let mut keys = Vec::new();
    for _ in 0..take_u32(&mut rest)? {
        let (blob, comment) = (take_string(&mut rest)?, take_string(&mut rest)?);
        let kind = std::str::from_utf8(take_string(&mut &*blob)?).ok()?;
        let line = format!("{kind} {} {}", encode_block(blob), String::from_utf8_lossy(comment));
        // The line will stand in configuration files: nothing in it may begin a new one.
        if line.chars().any(char::is_control) {
            return None;
        }
        keys.push(line.trim_end().to_owned());
    }
    Some(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::hash::MessageDigest;
    use openssl::pkey::PKey;
    use openssl::rsa::Rsa;
    use openssl::sign::Verifier;

    fn verify(key: &Key, digest: MessageDigest, data: &[u8], signature: &[u8]) -> bool {
        let rsa = Rsa::private_key_from_pem(key.pem().as_bytes()).unwrap();
        let key = PKey::from_rsa(rsa).unwrap();
        Verifier::new(digest, &key).unwrap().verify_oneshot(signature, data).unwrap()
    }

    #[test]
    fn signs_with_the_hash_the_flags_ask_for() {
        let key = Key::generate().unwrap();
        for (flags, name, digest) in [
            (0, "ssh-rsa", MessageDigest::sha1()),
            (2, "rsa-sha2-256", MessageDigest::sha256()),
            (4, "rsa-sha2-512", MessageDigest::sha512()),
            (6, "rsa-sha2-512", MessageDigest::sha512()),
        ] {
            let request =
                [vec![SIGN_REQUEST], string(key.blob()), string(b"data"), u32::to_be_bytes(flags).into()];
            let reply = answer(&request.concat(), &key);
            assert_eq!(reply[0], SIGN_RESPONSE);
            let mut rest = &reply[1..];
            let mut signature = take_string(&mut rest).unwrap();
            assert!(rest.is_empty());
            assert_eq!(take_string(&mut signature).unwrap(), name.as_bytes());
            assert!(verify(&key, digest, b"data", take_string(&mut signature).unwrap()));
            assert!(signature.is_empty());
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let key = Key::generate().unwrap();
        for request in [&[0][..], &[255, 1], &[SIGN_REQUEST], &[SIGN_REQUEST, 0, 0, 0, 9, 1]] {
            assert_eq!(answer(request, &key), [FAILURE]);
        }
        let other = [vec![SIGN_REQUEST], string(b"not our key"), string(b"data"), vec![0; 4]].concat();
        assert_eq!(answer(&other, &key), [FAILURE]);
        assert!(checked_length([0; 4]).is_err());
        assert!(checked_length([255; 4]).is_err());
        assert!(identities(&[IDENTITIES_ANSWER, 255, 255, 255, 255]).is_none());
        assert!(identities(&[FAILURE]).is_none());
    }

    #[tokio::test]
    async fn serves_its_key_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let key = Arc::new(Key::generate().unwrap());
        let agent = Agent::start(dir.path(), key.clone()).unwrap();
        let socket = agent.socket().to_owned();
        assert!(socket.parent().unwrap().file_name().unwrap().to_str().unwrap().starts_with("mantle-ssh-"));
        let ask = socket.clone();
        let keys = tokio::task::spawn_blocking(move || agent_keys(&ask)).await.unwrap().unwrap();
        assert_eq!(keys, [key.authorized()]);
        agent.close().await.unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(agent_keys(&socket).is_err());
    }

    #[tokio::test]
    async fn long_paths_move_to_the_temporary_folder() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(100));
        std::fs::create_dir(&deep).unwrap();
        let agent = Agent::start(&deep, Arc::new(Key::generate().unwrap())).unwrap();
        assert!(agent.socket().exists());
        assert_eq!(std::fs::read_dir(&deep).unwrap().count(), 0);
        let folder = agent.socket().parent().unwrap().to_owned();
        drop(agent);
        assert!(!folder.exists());
    }
}
