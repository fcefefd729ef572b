//! Connections through another host: its sshd opens them (`direct-tcpip`, RFC 4254, 7.2), as `ssh -J` does.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use super::connect::{authenticate, wait};
use super::{Dial, Direct, Login, keep_alive, with_port};

/// A host that connects to others for us. As of guests, its host key is not checked: what is said to a guest is
/// encrypted for the guest.
#[derive(Clone, Debug)]
pub struct Jump {
    host: String,
    login: Login,
}

/// What is carried at once, in bytes.
const PIECE: usize = 32 << 10;

impl Jump {
    /// Through the sshd at `host`, or `host:port`.
    pub fn new(host: &str, login: Login) -> Self {
        Self { host: with_port(host), login }
    }

    fn open(
        &self,
        address: &str,
        timeout: Duration,
    ) -> io::Result<(ssh2::Session, TcpStream, ssh2::Channel)> {
        let deadline = Instant::now() + timeout;
        let socket = Direct.dial(&self.host, timeout)?;
        socket.set_nodelay(true)?;
        let mut session = ssh2::Session::new()?;
        let left = || {
            let left = deadline.saturating_duration_since(Instant::now()).as_millis();
            // 0 would mean: for ever.
            u32::try_from(left).unwrap_or(u32::MAX).max(1)
        };
        session.set_timeout(left());
        session.set_tcp_stream(socket.try_clone()?);
        session.handshake()?;
        session.set_timeout(left());
        authenticate(&session, &self.login, deadline).map_err(io::Error::other)?;
        session.set_timeout(left());
        let (host, port) = split(address)?;
        let channel = session.channel_direct_tcpip(host, port, None)?;
        Ok((session, socket, channel))
    }
}

/// Host and port of `host:port` or `[address]:port`.
fn split(address: &str) -> io::Result<(&str, u16)> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidInput, format!("{address:?} has no port"));
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    Ok((host, port.parse().map_err(|_| wrong())?))
}

impl Dial for Jump {
    fn dial(&self, address: &str, timeout: Duration) -> io::Result<TcpStream> {
        let (session, socket, channel) = self
            .open(address, timeout)
            .map_err(|e| io::Error::new(e.kind(), format!("through {}: {e}", self.host)))?;
        let (near, far) = pair()?;
        keep_alive(&near)?;
        session.set_blocking(false);
        crate::debug!("ssh", "connected to {address} through {}", self.host);
        let name = format!("jump to {address}");
        // It ends with either of its ends: that of the host, or that which the caller has.
        let carry = move || {
            let _ = carry(&socket, channel, &far);
            let _ = far.shutdown(Shutdown::Both);
            session.set_blocking(true);
            session.set_timeout(1000);
            let _ = session.disconnect(None, "done", None);
        };
        std::thread::Builder::new().name(name).spawn(carry)?;
        Ok(near)
    }
}

/// Two ends of a connection on loopback.
fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    loop {
        let (far, from) = listener.accept()?;
        // Somebody else on this machine may have been quicker.
        if from == near.local_addr()? {
            far.set_nodelay(true)?;
            return Ok((near, far));
        }
    }
}

/// Carries bytes both ways until one side ends.
fn carry(socket: &TcpStream, mut channel: ssh2::Channel, far: &TcpStream) -> io::Result<()> {
    far.set_nonblocking(true)?;
    let (mut to_host, mut to_caller) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; PIECE];
    let (mut caller_ended, mut told) = (false, false);
    loop {
        let mut busy = false;
        if to_host.is_empty() && !caller_ended {
            match soon((&*far).read(&mut buffer))? {
                Some(0) => caller_ended = true,
                Some(n) => to_host.extend_from_slice(&buffer[..n]),
                None => {}
            }
        }
        if !to_host.is_empty() {
            if let Some(n) = soon(channel.write(&to_host))? {
                to_host.drain(..n);
                busy = true;
            }
        } else if caller_ended && !told {
            match channel.send_eof() {
                Ok(()) => told = true,
                Err(e) => drop(soon(Err::<usize, _>(e.into()))?),
            }
        }
        if to_caller.is_empty()
            && let Some(n) = soon(channel.read(&mut buffer))?
        {
            if n == 0 && channel.eof() {
                return Ok(());
            }
            to_caller.extend_from_slice(&buffer[..n]);
        }
        if !to_caller.is_empty()
            && let Some(n) = soon((&*far).write(&to_caller))?
        {
            to_caller.drain(..n);
            busy = true;
        }
        if busy {
            continue;
        }
        let mut of_socket = PollFlags::POLLIN;
        of_socket.set(PollFlags::POLLOUT, !to_host.is_empty() || caller_ended && !told);
        let mut of_far = PollFlags::empty();
        of_far.set(PollFlags::POLLIN, to_host.is_empty() && !caller_ended);
        of_far.set(PollFlags::POLLOUT, !to_caller.is_empty());
        if !to_caller.is_empty() {
            // Nothing more is read before the caller has this.
            of_socket.remove(PollFlags::POLLIN);
        }
        let mut fds = vec![PollFd::new(socket.as_fd(), of_socket)];
        if !of_far.is_empty() {
            fds.push(PollFd::new(far.as_fd(), of_far));
        }
        wait(&mut fds, None)?;
    }
}

/// `None` for what is not ready yet.
fn soon(done: io::Result<usize>) -> io::Result<Option<usize>> {
    match done {
        Ok(n) => Ok(Some(n)),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_hosts_and_ports() {
        assert_eq!(split("h:22").unwrap(), ("h", 22));
        assert_eq!(split("[::1]:2222").unwrap(), ("::1", 2222));
        for bad in ["h", "h:", "h:x", "h:70000"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }

    use std::sync::Arc;

    use crate::ssh::tests::Server;
    use crate::ssh::{Client, Key};

    /// Far longer than anything here takes; only a hang reaches it.
    const LONG: Duration = Duration::from_secs(60);

    fn through(host: &Server, key: &Key, guest: &Server) -> Client {
        let file = host.dir.path().join("identity");
        std::fs::write(&file, key.pem()).unwrap();
        let jump = Jump::new(&host.address, Login::key_file("root", &file).unwrap());
        Client::new(Arc::new(jump), &guest.address, Login::key("root", guest.key.clone()), LONG)
    }

    #[tokio::test]
    async fn a_guest_is_reached_through_another_host() {
        let (Some(host), Some(guest)) = (Server::start(), Server::start()) else { return };
        let client = through(&host, &host.key, &guest);
        assert_eq!(client.run("echo here").await.unwrap().stdout, "here");
        let input: Vec<u8> = (0..3_000_000_u32).map(|i| i as u8).collect();
        let echoed = client.output_with_input("cat", input.clone()).await.unwrap();
        assert!(echoed.stdout == input);
        let raw = client.output("exit 7").await.unwrap();
        assert_eq!(raw.status, 7);
        // The end of the host is the end of the session; another one is made.
        host.kill();
        assert_eq!(client.run("echo again").await.unwrap().stdout, "again");
        client.close().await;
    }

    #[tokio::test]
    async fn what_is_in_the_way_is_said() {
        let (Some(host), Some(guest)) = (Server::start(), Server::start()) else { return };
        let stranger = Key::generate().unwrap();
        let error = through(&host, &stranger, &guest).run("true").await.unwrap_err();
        let text = crate::text::chain(&error);
        assert!(error.is_connect() && text.contains(&format!("through {}", host.address)), "{text}");
        // The host lets us in; nobody listens behind it.
        let jump = Jump::new(&host.address, Login::key("root", host.key.clone()));
        let client = Client::new(Arc::new(jump), "127.0.0.1:1", Login::key("root", guest.key.clone()), LONG);
        let error = client.run("true").await.unwrap_err();
        assert!(error.is_connect(), "{error}");
        let nowhere = Jump::new("127.0.0.1:1", Login::key("root", host.key.clone()));
        let error = nowhere.dial(&guest.address, LONG).unwrap_err();
        assert!(error.to_string().starts_with("through 127.0.0.1:1: "), "{error}");
    }
}
