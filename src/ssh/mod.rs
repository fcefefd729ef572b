//! The guest as seen through its sshd: commands, streams, files and an interactive shell over SSH.
//!
//! A [`Client`] stands for one machine. It keeps a small pool of logged-in sessions, because a login costs about
//! a second in an emulated guest and a command on an open session a fraction of that. libssh2 lets one blocking
//! call stop all channels of a session, so a session lives on one thread, does one command at a time, and is
//! ended from outside by shutting its socket: that is what dropping any future of this module does.
//!
//! Host keys are not checked: the machines are new, and their keys were made a moment ago.

mod agent;
mod client;
mod connect;
mod farewell;
mod files;
mod jump;
mod key;
mod session;
mod shell;
mod socks;
#[cfg(test)]
pub(crate) mod tests;

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use agent::{Agent, agent_keys};
pub use client::{Client, Stream};
pub use files::{install_file, read_file};
pub use jump::Jump;
pub use key::Key;
pub use shell::restore_terminal;
pub use socks::Socks;

/// The cause of an error: from the system, from libssh2 or from OpenSSL.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// What can go wrong between us and a guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No session could be opened: no TCP connection, no banner, no handshake or no login.
    #[error("{step} {address}")]
    Connect {
        /// What was tried, worded so that the address follows.
        step: &'static str,
        /// The address with its port.
        address: String,
        /// Why it failed.
        #[source]
        source: Cause,
    },
    /// The command ran and its exit status was not 0.
    #[error("command exited with status {status}{}", tail(stderr))]
    Exit {
        /// Its exit status.
        status: i32,
        /// Its stdout, trimmed.
        stdout: String,
        /// Its stderr, trimmed.
        stderr: String,
    },
    /// A signal ended the command.
    #[error("command was ended by signal {signal}{}", tail(stderr))]
    Signal {
        /// The signal's name without `SIG`, for example `TERM`.
        signal: String,
        /// The command's stdout, trimmed.
        stdout: String,
        /// Its stderr, trimmed.
        stderr: String,
    },
    /// The connection ended before the command's exit status came: normal while a machine reboots.
    #[error("connection to {address} lost during a command")]
    Lost {
        /// The address with its port.
        address: String,
        /// What was seen of it.
        #[source]
        source: Cause,
    },
    /// The server did not start the command.
    #[error("cannot start a command on {address}")]
    Start {
        /// The address with its port.
        address: String,
        /// The server's answer.
        #[source]
        source: Cause,
    },
    /// No answer in time.
    #[error("no answer from {address} within {} s", limit.as_secs_f32())]
    Timeout {
        /// The address with its port.
        address: String,
        /// How long we waited.
        limit: Duration,
    },
    /// A command wrote more than is kept in memory; use a stream.
    #[error("output of a command exceeds {} MiB", limit >> 20)]
    TooMuch {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The client was closed.
    #[error("ssh client for {address} is closed")]
    Closed {
        /// The address with its port.
        address: String,
    },
    /// A key could not be made or used.
    #[error("cannot make an ssh key")]
    Key(#[source] Cause),
    /// The agent's socket could not be made, or a user's agent could not be asked.
    #[error("{step} {}", path.display())]
    Agent {
        /// What was tried, worded so that the path follows.
        step: &'static str,
        /// The socket or its folder.
        path: std::path::PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The terminal of this process could not be read or switched.
    #[error("cannot use the terminal")]
    Terminal(#[source] io::Error),
    /// A file could not be put on the machine.
    #[error("{step} {path}")]
    File {
        /// What was tried, worded so that the path follows.
        step: &'static str,
        /// The path on the machine.
        path: String,
        /// Why it failed.
        #[source]
        source: Box<Error>,
    },
}

impl Error {
    /// Whether the connection or the exit status went missing during a command, as happens when a machine reboots.
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Lost { .. } => true,
            Self::File { source, .. } => source.is_lost(),
            _ => false,
        }
    }

    /// Whether no session could be opened: the machine is not up, or does not know our key.
    pub fn is_connect(&self) -> bool {
        match self {
            Self::Connect { .. } => true,
            Self::File { source, .. } => source.is_connect(),
            _ => false,
        }
    }

    /// Whether nothing at all was heard of the machine, not even that nobody listens.
    pub fn is_unreachable(&self) -> bool {
        use io::ErrorKind::{HostUnreachable, NetworkDown, NetworkUnreachable, TimedOut};
        match self {
            Self::Connect { step, source, .. } => {
                let source = source.downcast_ref::<io::Error>();
                let silent = |e: &io::Error| {
                    matches!(e.kind(), HostUnreachable | NetworkDown | NetworkUnreachable | TimedOut)
                };
                *step == connect::DIALLING && source.is_some_and(silent)
            }
            Self::File { source, .. } => source.is_unreachable(),
            _ => false,
        }
    }

    /// What the command wrote to stdout before it failed, trimmed.
    pub fn stdout(&self) -> &str {
        match self {
            Self::Exit { stdout, .. } | Self::Signal { stdout, .. } => stdout,
            _ => "",
        }
    }

    /// What the command wrote to stderr before it failed, trimmed.
    pub fn stderr(&self) -> &str {
        match self {
            Self::Exit { stderr, .. } | Self::Signal { stderr, .. } => stderr,
            _ => "",
        }
    }

    /// The command's exit status, if it ran to its end.
    pub fn exit_status(&self) -> Option<i32> {
        match self {
            Self::Exit { status, .. } => Some(*status),
            Self::File { source, .. } => source.exit_status(),
            _ => None,
        }
    }
}

/// The end of what a command said on stderr, as it follows in an error text.
fn tail(stderr: &str) -> String {
    let text = stderr.trim();
    if text.is_empty() {
        return String::new();
    }
    let start = text.len().saturating_sub(2000);
    let start = (start..=text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    format!(": {}", text[start..].trim())
}

/// Opens TCP connections to guests; local flights do it inside their network namespace.
pub trait Dial: Send + Sync {
    /// Connects to `address` (with port), for at most `timeout`. Blocks: it is called on a session's own thread.
    ///
    /// # Errors
    /// Why there is no connection.
    fn dial(&self, address: &str, timeout: Duration) -> io::Result<TcpStream>;
}

/// Connects from this process's own network.
#[derive(Clone, Copy, Debug, Default)]
pub struct Direct;

impl Dial for Direct {
    fn dial(&self, address: &str, timeout: Duration) -> io::Result<TcpStream> {
        let deadline = Instant::now() + timeout;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for target in address.to_socket_addrs()? {
            // connect_timeout refuses a zero duration.
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            match TcpStream::connect_timeout(&target, left) {
                Ok(stream) => {
                    keep_alive(&stream)?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// Stands in for a machine, in tests of what is above SSH.
#[cfg(feature = "test-platform")]
#[async_trait::async_trait]
pub trait Responder: Send + Sync {
    /// What the command would have done.
    ///
    /// # Errors
    /// What would have gone wrong.
    async fn answer(&self, command: &str, input: &[u8]) -> Result<RawOutput, Error>;

    /// The journal in export format.
    fn journal(&self) -> Vec<u8>;
}

/// Turns on TCP keep-alive: probes after 30 s of silence, so that a vanished peer ends a command in minutes.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let every = Duration::from_secs(30);
    let probes = socket2::TcpKeepalive::new().with_time(every).with_interval(every).with_retries(4);
    socket2::SockRef::from(stream).set_tcp_keepalive(&probes)
}

/// Gives an address the port 22 unless it has one; bare IPv6 addresses get brackets.
///
/// `10.0.0.2` → `10.0.0.2:22`, `host:2222` stays, `[::1]` → `[::1]:22`, `::1` → `[::1]:22`.
pub fn with_port(address: &str) -> String {
    if address.starts_with('[') {
        return if address.ends_with(']') { format!("{address}:22") } else { address.to_owned() };
    }
    match address.matches(':').count() {
        0 => format!("{address}:22"),
        1 => address.to_owned(),
        _ => format!("[{address}]:22"),
    }
}

/// Quotes a word for a POSIX shell. Words of harmless characters stay as they are.
pub fn quote(word: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(harmless) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Who logs in, and how.
#[derive(Clone)]
pub struct Login {
    /// The user on the machine.
    pub user: String,
    /// The proof of being that user.
    pub auth: Auth,
}

/// How a [`Login`] proves itself.
#[derive(Clone)]
pub enum Auth {
    /// By a key pair.
    Key(Arc<Key>),
    /// By a private key in PEM or OpenSSH's form, as it stands in a user's file, without a passphrase.
    PrivateKey(crate::secret::Secret),
    /// By the keys of the user's SSH agent.
    Agent,
    /// By a password; also tried as the answer to keyboard-interactive prompts.
    Password(String),
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let auth = match self.auth {
            Auth::Key(_) | Auth::PrivateKey(_) => "key",
            Auth::Agent => "agent",
            Auth::Password(_) => "password",
        };
        f.debug_struct("Login").field("user", &self.user).field("auth", &auth).finish()
    }
}

impl Login {
    /// A login by key.
    pub fn key(user: impl Into<String>, key: Arc<Key>) -> Self {
        Self { user: user.into(), auth: Auth::Key(key) }
    }

    /// A login by the private key in a file, without a passphrase.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn key_file(user: impl Into<String>, file: &std::path::Path) -> std::io::Result<Self> {
        let key = crate::input::read_to_string(file)?;
        Ok(Self { user: user.into(), auth: Auth::PrivateKey(key.into()) })
    }

    /// A login by password.
    pub fn password(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { user: user.into(), auth: Auth::Password(password.into()) }
    }
}

/// What a successful command wrote, without white space around it; bytes that are not UTF-8 are replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
}

/// How a command ended and all it wrote, untouched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawOutput {
    /// Its exit status.
    pub status: i32,
    /// Its stdout.
    pub stdout: Vec<u8>,
    /// Its stderr.
    pub stderr: Vec<u8>,
}

fn trimmed(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}
