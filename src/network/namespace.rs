//! Network namespaces without a name.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::sync::oneshot;

use super::Error;

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace, held by its descriptor, and one thread that lives in it.
///
/// Sockets, devices and `/proc/sys/net` belong to the namespace of the *thread* that opens them, and stay there
/// wherever they are used later: have them opened by [`Namespace::run`]. The namespace ends with the last clone
/// of this value, unless descriptors from [`Namespace::fd`], sockets or programs still hold it.
#[derive(Clone, Debug)]
pub struct Namespace {
    fd: Arc<OwnedFd>,
    jobs: mpsc::Sender<Job>,
}

impl Namespace {
    /// Makes a new, empty namespace; the one of the caller does not change.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] without CAP_SYS_ADMIN, [`Error::Io`] when the kernel has no resources.
    pub fn new() -> Result<Self, Error> {
        let (ready, made) = mpsc::sync_channel(1);
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("netns".into())
            .spawn(move || {
                let fd = unshare(CloneFlags::CLONE_NEWNET)
                    .map_err(io::Error::from)
                    .and_then(|()| File::open("/proc/thread-self/ns/net"));
                let failed = fd.is_err();
                if ready.send(fd).is_err() || failed {
                    return;
                }
                for job in queue {
                    // The one who asked learns of a panic by the missing answer; the thread must live on.
                    let _ = catch_unwind(AssertUnwindSafe(job));
                }
            })
            .map_err(Error::io("start the thread of a network namespace"))?;
        let fd = made.recv().map_err(|_| Error::Lost)?.map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => Error::NotPermitted(source),
            _ => Error::Io { action: "make a network namespace".into(), source },
        })?;
        Ok(Self { fd: Arc::new(fd.into()), jobs })
    }

    /// The descriptor of the namespace, for `process::Command::in_namespace`.
    pub fn fd(&self) -> Arc<OwnedFd> {
        self.fd.clone()
    }

    /// A path that opens this namespace, for programs that want one (`systemd-nspawn --network-namespace-path=`,
    /// `nsenter --net=`). Good while this process holds the namespace.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd())
    }

    /// Runs `work` on the namespace's thread. For short work, such as opening a socket: everybody shares it.
    ///
    /// # Errors
    /// [`Error::Lost`] when `work` panics.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(move || drop(reply.send(work())))?;
        answer.await.map_err(|_| Error::Lost)
    }

    /// As [`Namespace::run`] for code that is not async; blocks the calling thread meanwhile.
    ///
    /// # Errors
    /// [`Error::Lost`] when `work` panics.
    pub fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.send(move || drop(reply.send(work())))?;
        answer.recv().map_err(|_| Error::Lost)
    }

    fn send(&self, job: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        self.jobs.send(Box::new(job)).map_err(|_| Error::Lost)
    }
}

/// Connects to addresses inside a namespace; the connection keeps working outside.
#[derive(Clone, Debug)]
pub struct Dialer {
    namespace: Namespace,
}

impl Dialer {
    /// A dialer for this namespace, which it keeps alive.
    pub fn new(namespace: &Namespace) -> Self {
        Self { namespace: namespace.clone() }
    }

    /// Connects to `address` (`10.0.0.2:22`, `[fd00::2]:22`), at most for `timeout`. Blocks the calling thread,
    /// not the namespace's: any number of connections can be in the making.
    ///
    /// # Errors
    /// `InvalidInput` if the address is not numeric, otherwise what connect(2) says.
    pub fn dial(&self, address: &str, timeout: Duration) -> io::Result<TcpStream> {
        let address: SocketAddr = address.parse().map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{address:?} is not a numeric address with a port"),
            )
        })?;
        let socket = self
            .namespace
            .run_blocking(move || Socket::new(Domain::for_address(address), Type::STREAM, None))
            .map_err(io::Error::other)??;
        socket.connect_timeout(&SockAddr::from(address), timeout)?;
        Ok(socket.into())
    }
}
