//! Stands before any server: writes down every request, and lets some of them go wrong.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::http::{self, Reply, Request, Response};

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Fault {
    None,
    /// This answer; the server never sees the request.
    Answer(Response),
    /// The connection is reset; the server never sees the request.
    ResetBefore,
    /// The server does it; then the connection is reset: the answer is lost.
    ResetAfter,
    /// Everything goes well, later.
    Delay(Duration),
    /// The server does it; no answer ever comes.
    Stall,
    /// The server does it; so many bytes of its answer come, then the connection ends.
    Truncate(usize),
    /// The server does it; so many bytes of its answer come, then nothing until the client leaves.
    Trickle(usize),
    /// The body of the server's answer is replaced by this.
    Garbage(Vec<u8>),
}

/// One line of the journal.
#[derive(Clone, Debug)]
pub struct Entry {
    pub request: Request,
    /// What the client saw; `None` when it saw no whole answer.
    pub status: Option<u16>,
    /// Whether the server saw the request.
    pub forwarded: bool,
}

type Rule = Box<dyn FnMut(&Request) -> Fault + Send>;
type Watch = Box<dyn FnMut(&Request, &Response) + Send>;

#[derive(Default)]
struct State {
    journal: Vec<Entry>,
    /// How many entries were taken away before the present first one.
    taken: usize,
    rules: Vec<Rule>,
    watches: Vec<Watch>,
    latency: Duration,
}

/// The proxy; it lives as long as the test process.
#[derive(Clone)]
pub struct Proxy {
    /// Where clients find it.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    /// Stands before the server at this address.
    pub fn new(server: SocketAddr) -> Self {
        Self::before(move |request| http::send(server, request).ok())
    }

    /// Stands before whatever answers; none: the connection is reset.
    pub fn before(server: impl Fn(&Request) -> Option<Response> + Send + Sync + 'static) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let own = state.clone();
        let address = http::serve(move |request| handle(&own, request, &server));
        Self { address, state }
    }

    /// Its address as clients take it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Adds a rule, which is asked about every request; the first that does not say [`Fault::None`] wins.
    pub fn rule(&self, rule: impl FnMut(&Request) -> Fault + Send + 'static) {
        lock(&self.state).rules.push(Box::new(rule));
    }

    /// The n-th request (from 0) of those that match, and the `times - 1` after it, meet a fault.
    pub fn on(
        &self,
        mut matches: impl FnMut(&Request) -> bool + Send + 'static,
        n: usize,
        times: usize,
        fault: Fault,
    ) {
        let mut seen = 0;
        self.rule(move |request| {
            if !matches(request) {
                return Fault::None;
            }
            seen += 1;
            if (n + 1..=n + times).contains(&seen) { fault.clone() } else { Fault::None }
        });
    }

    /// Shows every answer of the server to a function.
    pub fn watch(&self, watch: impl FnMut(&Request, &Response) + Send + 'static) {
        lock(&self.state).watches.push(Box::new(watch));
    }

    /// Forgets all rules and watches.
    pub fn calm(&self) {
        let mut state = lock(&self.state);
        state.rules.clear();
        state.watches.clear();
    }

    /// Every answer takes so much longer.
    pub fn latency(&self, latency: Duration) {
        lock(&self.state).latency = latency;
    }

    /// All requests so far.
    pub fn journal(&self) -> Vec<Entry> {
        lock(&self.state).journal.clone()
    }

    /// All requests so far; forgets them.
    pub fn take_journal(&self) -> Vec<Entry> {
        let mut state = lock(&self.state);
        state.taken += state.journal.len();
        std::mem::take(&mut state.journal)
    }
}

#[expect(clippy::disallowed_methods, reason = "to be slow is what is asked for")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn handle(
    state: &Mutex<State>,
    request: Request,
    server: &(dyn Fn(&Request) -> Option<Response> + Send + Sync),
) -> Reply {
    let (fault, latency, number) = {
        let mut state = lock(state);
        let mut fault = Fault::None;
        for rule in &mut state.rules {
            // All rules see all requests, so that their counts are right.
            let said = rule(&request);
            if let Fault::None = fault {
                fault = said;
            }
        }
        state.journal.push(Entry { request: request.clone(), status: None, forwarded: false });
        (fault, state.latency, state.taken + state.journal.len() - 1)
    };
    pause(latency);
    let note = |status: Option<u16>, forwarded: bool| {
        // The entry may have been taken meanwhile.
        let mut state = lock(state);
        let entry = number.checked_sub(state.taken).and_then(|n| state.journal.get_mut(n));
        if let Some(entry) = entry {
            (entry.status, entry.forwarded) = (status, forwarded);
        }
    };
    match fault {
        Fault::Answer(answer) => {
            note(Some(answer.status), false);
            return Reply::Answer(answer);
        }
        Fault::ResetBefore => return Reply::Reset,
        Fault::Delay(time) => pause(time),
        _ => {}
    }
    let Some(mut answer) = server(&request) else { return Reply::Reset };
    for watch in &mut lock(state).watches {
        watch(&request, &answer);
    }
    let whole = matches!(fault, Fault::None | Fault::Delay(_) | Fault::Garbage(_));
    note(whole.then_some(answer.status), true);
    match fault {
        Fault::ResetAfter => Reply::Reset,
        Fault::Stall => Reply::Silence,
        Fault::Truncate(bytes) => Reply::Truncate(answer, bytes),
        Fault::Trickle(bytes) => Reply::Stall(answer, bytes),
        Fault::Garbage(body) => {
            answer.body = body;
            Reply::Answer(answer)
        }
        _ => Reply::Answer(answer),
    }
}
