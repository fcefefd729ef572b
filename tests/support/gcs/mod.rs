//! Google Storage that can be written to, of our own: generations, preconditions, checksums, resumable uploads,
//! rewrites in several steps, pages also with a delimiter; it fails, falls silent and kills on request.
//!
//! What is judged against it is also judged against other people's emulators; this one has what they lack.

mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mantle::cloud::google::storage::{format_crc32c, parse_crc32c};
use serde_json::{Map, Value, json};

pub use wire::Request;
use wire::{multipart, read_request, reset};

/// Attributes that a client may choose.
const ATTRIBUTES: [&str; 6] =
    ["contentType", "cacheControl", "contentEncoding", "contentDisposition", "contentLanguage", "metadata"];

/// A stored object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub body: Vec<u8>,
    pub crc32c: u32,
    pub generation: u64,
    pub metageneration: u64,
    pub attributes: Map<String, Value>,
    /// The `predefinedAcl` of its upload.
    pub acl: Option<String>,
}

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

struct Session {
    bucket: String,
    description: Value,
    query: BTreeMap<String, String>,
    body: Vec<u8>,
}

struct State {
    objects: BTreeMap<(String, String), Stored>,
    sessions: BTreeMap<String, Session>,
    /// What came of those that are over; asked for when that answer was lost.
    finished: BTreeMap<String, Value>,
    rewrites: BTreeMap<String, usize>,
    judge: Judge,
    log: Vec<Request>,
    /// Requests on connections from before the last kill are not heard.
    epoch: u64,
    /// Nothing is heard: the client is dead, what it had sent must have no effect on the next.
    frozen: bool,
    victim: Option<i32>,
    last_client: Option<SocketAddr>,
    clock: u64,
    latency: Duration,
    page: usize,
    rewrite_step: usize,
    /// The only bearer token that may change things; `None`: anybody may.
    token: Option<String>,
}

/// The server; its threads end with the connections they serve.
#[derive(Clone)]
pub struct Gcs {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

/// What is to be answered.
struct Answer(u16, Vec<(&'static str, String)>, Vec<u8>);

impl Answer {
    fn json(value: &Value) -> Self {
        Self(200, vec![("Content-Type", "application/json".into())], value.to_string().into_bytes())
    }

    fn error(status: u16, reason: &str) -> Self {
        let body = json!({"error": {"code": status, "message": reason, "errors": [{"reason": reason}]}});
        Self { 0: status, ..Self::json(&body) }
    }
}

impl Gcs {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = State {
            objects: BTreeMap::new(),
            sessions: BTreeMap::new(),
            finished: BTreeMap::new(),
            rewrites: BTreeMap::new(),
            judge: Box::new(|_, _| Fault::None),
            log: Vec::new(),
            epoch: 0,
            frozen: false,
            victim: None,
            last_client: None,
            clock: 1_700_000_000_000_000,
            latency: Duration::ZERO,
            page: 1000,
            rewrite_step: usize::MAX,
            token: None,
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
        let mut state = self.state.lock().unwrap();
        let attributes = Map::from_iter([("contentType".to_owned(), Value::from(content_type))]);
        state.store(bucket, name, body.to_vec(), attributes, None);
    }

    /// Removes an object.
    pub fn remove(&self, bucket: &str, name: &str) {
        self.state.lock().unwrap().objects.remove(&(bucket.into(), name.into()));
    }

    /// Removes all objects of a bucket.
    pub fn empty(&self, bucket: &str) {
        self.state.lock().unwrap().objects.retain(|(b, _), _| b != bucket);
    }

    /// Changes an object behind the client's back.
    pub fn change(&self, bucket: &str, name: &str, change: impl FnOnce(&mut Stored)) {
        change(self.state.lock().unwrap().objects.get_mut(&(bucket.into(), name.into())).unwrap());
    }

    /// All objects of a bucket.
    pub fn objects(&self, bucket: &str) -> BTreeMap<String, Stored> {
        let state = self.state.lock().unwrap();
        let of = state.objects.iter().filter(|((b, _), _)| b == bucket);
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
        self.state.lock().unwrap().page = results;
    }

    /// How many bytes one call of a rewrite copies.
    pub fn set_rewrite_step(&self, bytes: usize) {
        self.state.lock().unwrap().rewrite_step = bytes;
    }

    /// Only this bearer token may change things.
    pub fn set_token(&self, token: &str) {
        self.state.lock().unwrap().token = Some(token.to_owned());
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
                Fault::Status(status) => Answer::error(status, "made up by the test"),
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
                    state.answer(&request, fault)
                }
            };
            let answer = match fault {
                Fault::StatusAfter(status) => Answer::error(status, "made up by the test"),
                Fault::ResetAfter => return reset(stream),
                Fault::KillAfter => {
                    self.kill();
                    return None;
                }
                _ => answer,
            };
            let Answer(status, headers, body) = answer;
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
    fn store(
        &mut self,
        bucket: &str,
        name: &str,
        body: Vec<u8>,
        attributes: Map<String, Value>,
        acl: Option<String>,
    ) -> Stored {
        self.clock += 1;
        let (crc32c, generation) = (crc32c::crc32c(&body), self.clock);
        let stored = Stored { body, crc32c, generation, metageneration: 1, attributes, acl };
        self.objects.insert((bucket.into(), name.into()), stored.clone());
        stored
    }

    /// What happens before a request is answered.
    fn meddle(&mut self, request: &Request, fault: Fault) {
        if fault == Fault::Overtake {
            let told = request.told();
            let (bucket, name) = told.split_once(' ').unwrap().1.split_once('/').unwrap();
            self.store(bucket, name, b"theirs".to_vec(), Map::new(), None);
        }
        if fault == Fault::Forget {
            self.sessions.clear();
            self.finished.clear();
        }
    }

    fn answer(&mut self, request: &Request, fault: Fault) -> Answer {
        if let Some(token) = &self.token
            && request.changes()
            && request.headers.get("authorization") != Some(&format!("Bearer {token}"))
        {
            return Answer::error(401, "authError");
        }
        let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
        let query = |name: &str| request.query.get(name).map(String::as_str);
        match (&*request.method, &path[..]) {
            ("GET", ["storage", "v1", "b", bucket, "o"]) => self.list(bucket, request),
            ("GET", ["storage", "v1", "b", bucket, "o", name]) => {
                let Some(stored) = self.find(bucket, name) else { return Answer::error(404, "notFound") };
                if query("alt") == Some("media") {
                    return Answer(200, vec![], stored.body.clone());
                }
                Answer::json(&describe(name, stored))
            }
            ("DELETE", ["storage", "v1", "b", bucket, "o", name]) => {
                if self.find(bucket, name).is_none() {
                    return Answer::error(404, "notFound");
                }
                if let Some(refused) = self.refused(bucket, name, &request.query) {
                    return refused;
                }
                self.objects.remove(&((*bucket).into(), (*name).into()));
                Answer(204, vec![], vec![])
            }
            ("PATCH", ["storage", "v1", "b", bucket, "o", name]) => {
                if let Some(refused) = self.refused(bucket, name, &request.query) {
                    return refused;
                }
                let Some(stored) = self.objects.get_mut(&((*bucket).into(), (*name).into())) else {
                    return Answer::error(404, "notFound");
                };
                let patch: Map<String, Value> = serde_json::from_slice(&request.body).unwrap();
                for (key, value) in patch {
                    assert!(ATTRIBUTES.contains(&&*key), "{key} cannot be changed");
                    match value {
                        Value::Null => drop(stored.attributes.remove(&key)),
                        value => drop(stored.attributes.insert(key, value)),
                    }
                }
                stored.metageneration += 1;
                Answer::json(&describe(name, stored))
            }
            ("POST", ["storage", "v1", "b", from, "o", name, "rewriteTo", "b", to, "o", new]) => {
                self.rewrite((from, name), (to, new), request)
            }
            ("POST", ["storage", "v1", "b", bucket, "o", name, "compose"]) => {
                self.compose(bucket, name, request)
            }
            ("POST", ["upload", "storage", "v1", "b", bucket, "o"]) => match query("uploadType") {
                Some("multipart") => {
                    let (description, mut body) = multipart(request);
                    if fault == Fault::Flip {
                        body[0] ^= 1;
                    }
                    self.insert(bucket, &description, body, &request.query, fault == Fault::Flip)
                }
                Some("resumable") => {
                    let description: Value = serde_json::from_slice(&request.body).unwrap();
                    let name = description["name"].as_str().unwrap();
                    if let Some(refused) = self.refused(bucket, name, &request.query) {
                        return refused;
                    }
                    self.clock += 1;
                    let id = format!("session-{}", self.clock);
                    let place =
                        format!("/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={id}");
                    let host = &request.headers["host"];
                    let (query, body) = (request.query.clone(), Vec::new());
                    let session = Session { bucket: (*bucket).into(), description, query, body };
                    self.sessions.insert(id, session);
                    Answer(200, vec![("Location", format!("http://{host}{place}"))], vec![])
                }
                other => panic!("uploadType {other:?}"),
            },
            ("PUT", ["upload", "storage", "v1", "b", _, "o"]) => self.piece(request, fault),
            other => panic!("no such request: {other:?}"),
        }
    }

    fn find(&self, bucket: &str, name: &str) -> Option<&Stored> {
        self.objects.get(&(bucket.into(), name.into()))
    }

    /// The refusal, if a precondition is not met.
    fn refused(&self, bucket: &str, name: &str, query: &BTreeMap<String, String>) -> Option<Answer> {
        let found = self.find(bucket, name);
        let number = |key: &str| query.get(key).map(|v| v.parse::<u64>().unwrap());
        let generation = found.map_or(0, |f| f.generation);
        let metageneration = found.map_or(0, |f| f.metageneration);
        let met = number("ifGenerationMatch").is_none_or(|g| g == generation)
            && number("ifMetagenerationMatch").is_none_or(|m| m == metageneration);
        (!met).then(|| Answer::error(412, "conditionNotMet"))
    }

    fn insert(
        &mut self,
        bucket: &str,
        description: &Value,
        body: Vec<u8>,
        query: &BTreeMap<String, String>,
        blind: bool,
    ) -> Answer {
        let name = description["name"].as_str().unwrap();
        if let Some(refused) = self.refused(bucket, name, query) {
            return refused;
        }
        let sent = description["crc32c"].as_str().map(|c| parse_crc32c(c).unwrap());
        if !blind && sent.is_some_and(|c| c != crc32c::crc32c(&body)) {
            return Answer::error(400, "invalid");
        }
        let chosen = attributes(description);
        let stored = self.store(bucket, name, body, chosen, query.get("predefinedAcl").cloned());
        Answer::json(&describe(name, &stored))
    }

    /// A piece of a resumable upload.
    fn piece(&mut self, request: &Request, fault: Fault) -> Answer {
        let id = &request.query["upload_id"];
        if let Some(object) = self.finished.get(id) {
            return Answer::json(object);
        }
        let Some(session) = self.sessions.get_mut(id) else { return Answer::error(410, "gone") };
        let range = request.headers["content-range"].strip_prefix("bytes ").unwrap().to_owned();
        let (range, total) = range.split_once('/').unwrap();
        let total: usize = total.parse().unwrap();
        if let Some((from, to)) = range.split_once('-') {
            let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
            assert_eq!(to + 1 - from, request.body.len());
            assert!(
                request.body.len().is_multiple_of(256 << 10) || to + 1 == total,
                "not a multiple of 256 KiB"
            );
            if from != session.body.len() {
                return Answer::error(400, "invalid offset");
            }
            let kept = match fault {
                Fault::Keep(n) => n.min(request.body.len()),
                _ => request.body.len(),
            };
            session.body.extend_from_slice(&request.body[..kept]);
        }
        if session.body.len() < total {
            let headers = match session.body.len() {
                0 => vec![],
                n => vec![("Range", format!("bytes=0-{}", n - 1))],
            };
            return Answer(308, headers, vec![]);
        }
        let Session { bucket, description, query, body } = self.sessions.remove(id).unwrap();
        let answer = self.insert(&bucket, &description, body, &query, false);
        if answer.0 == 200 {
            self.finished.insert(id.clone(), serde_json::from_slice(&answer.2).unwrap());
        }
        answer
    }

    fn rewrite(&mut self, from: (&str, &str), to: (&str, &str), request: &Request) -> Answer {
        let Some(source) = self.find(from.0, from.1).cloned() else { return Answer::error(404, "notFound") };
        let wanted = request.query.get("ifSourceGenerationMatch");
        if wanted.is_some_and(|g| *g != source.generation.to_string()) {
            return Answer::error(412, "conditionNotMet");
        }
        if let Some(refused) = self.refused(to.0, to.1, &request.query) {
            return refused;
        }
        let before = match request.query.get("rewriteToken") {
            Some(token) => self.rewrites.remove(token).unwrap_or_default(),
            None => 0,
        };
        let done = before.saturating_add(self.rewrite_step);
        if done < source.body.len() {
            self.clock += 1;
            let token = format!("rewrite-{}", self.clock);
            self.rewrites.insert(token.clone(), done);
            return Answer::json(&json!({
                "kind": "storage#rewriteResponse", "done": false, "rewriteToken": token,
                "totalBytesRewritten": done.to_string(), "objectSize": source.body.len().to_string(),
            }));
        }
        let chosen = match &request.body[..] {
            b"" => source.attributes.clone(),
            json => attributes(&serde_json::from_slice(json).unwrap()),
        };
        let size = source.body.len().to_string();
        let stored = self.store(to.0, to.1, source.body, chosen, None);
        Answer::json(&json!({
            "kind": "storage#rewriteResponse", "done": true, "totalBytesRewritten": size, "objectSize": size,
            "resource": describe(to.1, &stored),
        }))
    }

    fn compose(&mut self, bucket: &str, name: &str, request: &Request) -> Answer {
        let order: Value = serde_json::from_slice(&request.body).unwrap();
        let sources = order["sourceObjects"].as_array().unwrap();
        assert!((1..=32).contains(&sources.len()), "{} sources", sources.len());
        if let Some(refused) = self.refused(bucket, name, &request.query) {
            return refused;
        }
        let mut body = Vec::new();
        for source in sources {
            match self.find(bucket, source["name"].as_str().unwrap()) {
                Some(found) if source["generation"].as_str() == Some(&*found.generation.to_string()) => {
                    body.extend_from_slice(&found.body);
                }
                _ => return Answer::error(404, "notFound"),
            }
        }
        let chosen = attributes(&order["destination"]);
        let acl = request.query.get("destinationPredefinedAcl").cloned();
        let stored = self.store(bucket, name, body, chosen, acl);
        Answer::json(&describe(name, &stored))
    }

    fn list(&self, bucket: &str, request: &Request) -> Answer {
        let query = |name: &str| request.query.get(name).map_or("", String::as_str);
        let (prefix, until, fields) = (query("prefix"), query("endOffset"), query("fields"));
        let start = query("startOffset").max(query("pageToken"));
        let most = query("maxResults").parse().unwrap_or(self.page).min(self.page);
        let from = (bucket.to_owned(), start.max(prefix).to_owned());
        let (mut items, mut prefixes, mut next) = (Vec::new(), BTreeSet::new(), None);
        for ((_, name), stored) in
            self.objects.range(from..).take_while(|((b, n), _)| b == bucket && n.starts_with(prefix))
        {
            if !until.is_empty() && &**name >= until {
                break;
            }
            let folder = match query("delimiter") {
                "" => None,
                delimiter => name[prefix.len()..]
                    .find(delimiter)
                    .map(|at| &name[..prefix.len() + at + delimiter.len()]),
            };
            if folder.is_some_and(|f| prefixes.contains(f)) {
                continue;
            }
            if items.len() + prefixes.len() == most {
                next = Some(folder.unwrap_or(name).to_owned());
                break;
            }
            match folder {
                Some(folder) => drop(prefixes.insert(folder.to_owned())),
                None => items.push(describe(name, stored)),
            }
        }
        let mut page = json!({"kind": "storage#objects"});
        // As Google does: only the fields that are asked for.
        let wanted = fields.split_once("items(").map(|(_, f)| f.split(')').next().unwrap());
        if let Some(wanted) = wanted {
            let wanted: Vec<&str> = wanted.split(',').collect();
            for item in &mut items {
                item.as_object_mut().unwrap().retain(|key, _| wanted.contains(&&**key));
            }
        }
        if !items.is_empty() && (wanted.is_some() || fields.is_empty()) {
            page["items"] = items.into();
        }
        if !prefixes.is_empty() && (fields.is_empty() || fields.contains("prefixes")) {
            page["prefixes"] = prefixes.into_iter().collect::<Vec<_>>().into();
        }
        if let Some(next) = next.filter(|_| fields.is_empty() || fields.contains("nextPageToken")) {
            page["nextPageToken"] = next.into();
        }
        Answer::json(&page)
    }
}

fn attributes(description: &Value) -> Map<String, Value> {
    let chosen = description.as_object().unwrap().iter();
    chosen.filter(|(k, _)| ATTRIBUTES.contains(&&***k)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn describe(name: &str, stored: &Stored) -> Value {
    // Generations are microseconds, as Google's are.
    let time = chrono::DateTime::from_timestamp_micros(stored.generation.cast_signed()).unwrap();
    let time = time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let mut json = json!({
        "kind": "storage#object", "name": name, "size": stored.body.len().to_string(),
        "generation": stored.generation.to_string(), "metageneration": stored.metageneration.to_string(),
        "crc32c": format_crc32c(stored.crc32c), "storageClass": "STANDARD", "timeCreated": time,
    });
    for (key, value) in &stored.attributes {
        json[key] = value.clone();
    }
    json
}
