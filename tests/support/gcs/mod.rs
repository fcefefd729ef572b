//! Google Storage that can be written to: mantle's own double, and it fails, falls silent and kills on request.
//!
//! What is judged against it is also judged against other people's emulators; this one has what they lack.

mod wire;

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mantle::doubles::Response;
use mantle::doubles::gcs::{Damage, Store, error};
pub use mantle::doubles::gcs::{Request, Stored};
use serde_json::{Map, Value};

use wire::{read_request, reset};

/// What to do with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// This status; nothing is done.
    Status(u16),
    /// This status, but what was asked for is done.
    StatusAfter(u16),
    /// A reset in place of an answer; nothing is done.
    Reset,
    /// A reset in place of an answer, but what was asked for is done.
    ResetAfter,
    /// Silence until the client leaves; nothing is done.
    Stall,
    /// SIGKILL to the client; nothing is done, nor for what else it has sent.
    Kill,
    /// SIGKILL to the client once what was asked for is done.
    KillAfter,
    /// The bytes of an upload are lost half-way: so many of them are kept.
    Keep(usize),
    /// A stored upload is damaged on its way, and the server does not see it.
    Flip,
    /// Somebody else stores `theirs` there first; then it is done, if it can be.
    Overtake,
    /// The upload in pieces that the request belongs to is forgotten first.
    Forget,
}

type Judge = Box<dyn FnMut(&Request, usize) -> Fault + Send>;

struct State {
    store: Store,
    judge: Judge,
    log: Vec<Request>,
    /// Requests on connections from before the last kill are not heard.
    epoch: u64,
    /// Nothing is heard: the client is dead, what it had sent must have no effect on the next.
    frozen: bool,
    victim: Option<i32>,
    last_client: Option<SocketAddr>,
    latency: Duration,
}

/// The server; its threads end with the connections they serve.
#[derive(Clone)]
pub struct Gcs {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Gcs {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = State {
            store: Store::default(),
            judge: Box::new(|_, _| Fault::None),
            log: Vec::new(),
            epoch: 0,
            frozen: false,
            victim: None,
            last_client: None,
            latency: Duration::ZERO,
        };
        let server = Self { address: listener.local_addr().unwrap(), state: Arc::new(Mutex::new(state)) };
        let here = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (here, stream) = (here.clone(), stream.unwrap());
                let epoch = {
                    let mut state = here.state.lock().unwrap();
                    state.last_client = stream.peer_addr().ok();
                    state.epoch
                };
                std::thread::spawn(move || here.serve(&stream, epoch));
            }
        });
        server
    }

    /// Stores an object.
    pub fn put(&self, bucket: &str, name: &str, body: &[u8], content_type: &str) {
        self.state.lock().unwrap().store.put(bucket, name, body, content_type);
    }

    /// Removes an object.
    pub fn remove(&self, bucket: &str, name: &str) {
        self.state.lock().unwrap().store.objects.remove(&(bucket.into(), name.into()));
    }

    /// Removes all objects of a bucket.
    pub fn empty(&self, bucket: &str) {
        self.state.lock().unwrap().store.objects.retain(|(b, _), _| b != bucket);
    }

    /// Changes an object behind the client's back.
    pub fn change(&self, bucket: &str, name: &str, change: impl FnOnce(&mut Stored)) {
        change(self.state.lock().unwrap().store.objects.get_mut(&(bucket.into(), name.into())).unwrap());
    }

    /// All objects of a bucket.
    pub fn objects(&self, bucket: &str) -> BTreeMap<String, Stored> {
        let state = self.state.lock().unwrap();
        let of = state.store.objects.iter().filter(|((b, _), _)| b == bucket);
        of.map(|((_, name), stored)| (name.clone(), stored.clone())).collect()
    }

    /// The same without what differs from run to run: bodies and attributes.
    pub fn contents(&self, bucket: &str) -> BTreeMap<String, (String, Map<String, Value>)> {
        let text = |s: &Stored| String::from_utf8_lossy(&s.body).into_owned();
        self.objects(bucket).into_iter().map(|(n, s)| (n, (text(&s), s.attributes))).collect()
    }

    /// Names in a bucket.
    pub fn names(&self, bucket: &str) -> Vec<String> {
        self.objects(bucket).into_keys().collect()
    }

    /// Decides on each request; the number counts all requests from 0 since the log was taken.
    pub fn judge(&self, judge: impl FnMut(&Request, usize) -> Fault + Send + 'static) {
        self.state.lock().unwrap().judge = Box::new(judge);
    }

    /// Whom [`Fault::Kill`] kills; that waits until it is known.
    pub fn set_victim(&self, id: i32) {
        self.state.lock().unwrap().victim = Some(id);
    }

    /// Hears the next client, once all that the dead one has sent is gone.
    pub fn thaw(&self) {
        // Connections are accepted in order: after this one there is none of the dead client's.
        let marker = TcpStream::connect(self.address).unwrap().local_addr().unwrap();
        while self.state.lock().unwrap().last_client != Some(marker) {
            std::thread::yield_now();
        }
        let mut state = self.state.lock().unwrap();
        (state.epoch, state.frozen, state.victim) = (state.epoch + 1, false, None);
        state.judge = Box::new(|_, _| Fault::None);
    }

    /// The requests so far; forgets them.
    pub fn take_log(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    /// How long every answer takes.
    pub fn set_latency(&self, latency: Duration) {
        self.state.lock().unwrap().latency = latency;
    }

    /// How many results a page of a listing has at most.
    pub fn set_page(&self, results: usize) {
        self.state.lock().unwrap().store.page = results;
    }

    /// How many bytes one call of a rewrite copies.
    pub fn set_rewrite_step(&self, bytes: usize) {
        self.state.lock().unwrap().store.rewrite_step = bytes as u64;
    }

    /// Only this bearer token may change things.
    pub fn set_token(&self, token: &str) {
        self.state.lock().unwrap().store.token = Some(token.to_owned());
    }

    fn serve(&self, stream: &TcpStream, epoch: u64) -> Option<()> {
        let _ = stream.set_nodelay(true);
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        loop {
            let request = read_request(&mut reader)?;
            let (latency, fault) = {
                let mut state = self.state.lock().unwrap();
                if state.epoch != epoch || state.frozen {
                    return None;
                }
                let number = state.log.len();
                state.log.push(request.clone());
                (state.latency, (state.judge)(&request, number))
            };
            if !latency.is_zero() {
                // Nobody sends: this is a pause.
                let (_sender, pause) = std::sync::mpsc::channel::<()>();
                let _ = pause.recv_timeout(latency);
            }
            let answer = match fault {
                Fault::Status(status) => error(status, "made up by the test"),
                Fault::Reset => return reset(stream),
                Fault::Stall => {
                    let _ = (&*stream).read(&mut [0; 1]);
                    return None;
                }
                Fault::Kill => {
                    self.kill();
                    return None;
                }
                _ => {
                    let mut state = self.state.lock().unwrap();
                    if state.epoch != epoch || state.frozen {
                        return None;
                    }
                    state.meddle(&request, fault);
                    let damage = match fault {
                        Fault::Keep(bytes) => Damage::Keep(bytes),
                        Fault::Flip => Damage::Flip,
                        _ => Damage::None,
                    };
                    state.store.answer(&request, damage)
                }
            };
            let answer = match fault {
                Fault::StatusAfter(status) => error(status, "made up by the test"),
                Fault::ResetAfter => return reset(stream),
                Fault::KillAfter => {
                    self.kill();
                    return None;
                }
                _ => answer,
            };
            let Response { status, headers, body, .. } = answer;
            let mut head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len());
            for (name, value) in headers {
                head += &format!("{name}: {value}\r\n");
            }
            let mut whole = (head + "\r\n").into_bytes();
            whole.extend_from_slice(&body);
            (&*stream).write_all(&whole).ok()?;
        }
    }

    fn kill(&self) {
        loop {
            let mut state = self.state.lock().unwrap();
            state.frozen = true;
            if let Some(victim) = state.victim {
                let victim = nix::unistd::Pid::from_raw(victim);
                nix::sys::signal::kill(victim, nix::sys::signal::Signal::SIGKILL).unwrap();
                return;
            }
            drop(state);
            std::thread::yield_now();
        }
    }
}

impl State {
    /// What happens before a request is answered.
    fn meddle(&mut self, request: &Request, fault: Fault) {
        if fault == Fault::Overtake {
            let told = request.told();
            let (bucket, name) = told.split_once(' ').unwrap().1.split_once('/').unwrap();
            self.store.store(bucket, name, b"theirs".to_vec(), Map::new(), None);
        }
        if fault == Fault::Forget {
            self.store.forget_sessions();
        }
    }
}
