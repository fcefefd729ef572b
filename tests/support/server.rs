//! A server of files over HTTP and of Google Storage's JSON API, which misbehaves on request.
//!
//! Written on bare sockets, because most of its work is what an HTTP library would not do.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use mantle::cloud::google::storage::format_crc32c;

/// Something to serve, under a path such as `/b/o`.
#[derive(Clone, Debug)]
pub struct Content {
    pub body: Vec<u8>,
    /// Entity tag with its quotes; none: the server gives no validator.
    pub etag: Option<String>,
    pub generation: u64,
    /// Stored gzipped, as Google's `contentEncoding` says.
    pub gzipped: bool,
}

/// What to do with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// An error status, with further headers (each line ended).
    Status(u16, &'static str),
    /// A reset in place of an answer.
    Reset,
    /// So many bytes of the body, then the end of the connection.
    Truncate(usize),
    /// So many bytes of the body, then a reset.
    ResetAfter(usize),
    /// So many bytes of the body, then silence until the client leaves.
    Stall(usize),
    /// The whole body from the start, whatever range was asked for.
    IgnoreRange,
    /// A part that begins elsewhere than asked.
    WrongPart,
    /// A part that does not say which it is.
    NamelessPart,
    /// At most so many bytes of the part that was asked for, as a part of its own.
    Slice(usize),
    /// So many bytes of the body, then the end of the connection; the content is another afterwards.
    ChangeAfter(usize),
    /// A bit flipped in the middle of the body.
    Flip,
    /// No length; the end of the connection is the end of the body.
    NoLength,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Whether it asks for content, not for a signature or a description.
    pub fn is_for_data(&self) -> bool {
        !self.target.contains(".sig")
            && (!self.target.contains("/storage/v1/") || self.target.contains("alt=media"))
    }
}

type Judge = Box<dyn FnMut(&Request, usize) -> Fault + Send>;
type Special = Box<dyn FnMut(&Request) -> Option<(u16, String)> + Send>;

struct State {
    contents: BTreeMap<String, Content>,
    log: Vec<Request>,
    judge: Judge,
    special: Special,
}

/// The server; its threads end with the connections they serve.
#[derive(Clone)]
pub struct Server {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = State {
            contents: BTreeMap::new(),
            log: Vec::new(),
            judge: Box::new(|_, _| Fault::None),
            special: Box::new(|_| None),
        };
        let server = Self { address: listener.local_addr().unwrap(), state: Arc::new(Mutex::new(state)) };
        let here = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let here = here.clone();
                std::thread::spawn(move || here.serve(stream.unwrap()));
            }
        });
        server
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Serves a body under a path; a change gives it a new tag and generation.
    pub fn put(&self, path: &str, body: &[u8]) {
        let mut state = self.state.lock().unwrap();
        let generation = state.contents.get(path).map_or(1, |c| c.generation + 1);
        let etag = Some(format!("\"v{generation}\""));
        state.contents.insert(path.into(), Content { body: body.into(), etag, generation, gzipped: false });
    }

    pub fn change(&self, path: &str, change: impl FnOnce(&mut Content)) {
        change(self.state.lock().unwrap().contents.get_mut(path).unwrap());
    }

    /// Decides on each request; the number counts all requests from 0.
    pub fn judge(&self, judge: impl FnMut(&Request, usize) -> Fault + Send + 'static) {
        self.state.lock().unwrap().judge = Box::new(judge);
    }

    /// The n-th request for data, from 0, meets the n-th fault; the rest go well.
    pub fn faults(&self, faults: Vec<Fault>) {
        let mut faults = faults.into_iter();
        self.judge(
            move |r, _| if r.is_for_data() { faults.next().unwrap_or(Fault::None) } else { Fault::None },
        );
    }

    /// Answers some requests in another way: status and JSON.
    pub fn special(&self, special: impl FnMut(&Request) -> Option<(u16, String)> + Send + 'static) {
        self.state.lock().unwrap().special = Box::new(special);
    }

    /// The requests so far; forgets them.
    pub fn take_log(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        loop {
            let request = read_request(&mut reader)?;
            let (fault, special, content, path) = {
                let mut state = self.state.lock().unwrap();
                let number = state.log.len();
                state.log.push(request.clone());
                let fault = (state.judge)(&request, number);
                let special = (state.special)(&request);
                let path = plain_path(&request.target);
                (fault, special, state.contents.get(&path).cloned(), path)
            };
            let mut out = &stream;
            if let Fault::Reset = fault {
                return reset(&stream);
            }
            if let Fault::Status(code, headers) = fault {
                let text = format!("HTTP/1.1 {code} Trouble\r\n{headers}Content-Length: 0\r\n\r\n");
                out.write_all(text.as_bytes()).ok()?;
                continue;
            }
            let is_data = content.is_some()
                && (!request.target.contains("/storage/v1/") || request.target.contains("alt=media"));
            if let (Fault::Stall(_), false) = (&fault, is_data) {
                let _ = out.read(&mut [0; 1]); // until the client leaves
                return None;
            }
            if let Some((code, json)) = special {
                let text = format!("HTTP/1.1 {code} X\r\nContent-Length: {}\r\n\r\n{json}", json.len());
                out.write_all(text.as_bytes()).ok()?;
                continue;
            }
            let Some(content) = content else {
                let text = "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot here\n";
                out.write_all(text.as_bytes()).ok()?;
                continue;
            };
            if request.target.contains("/storage/v1/") && !request.target.contains("alt=media") {
                let json = describe(&path, &content);
                let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{json}", json.len());
                out.write_all(text.as_bytes()).ok()?;
                continue;
            }
            self.send(&stream, &request, &path, content, &fault)?;
        }
    }

    /// One body; `None` when the connection is over.
    fn send(
        &self,
        mut out: &TcpStream,
        request: &Request,
        path: &str,
        content: Content,
        fault: &Fault,
    ) -> Option<()> {
        let body = &content.body;
        let generation = request
            .target
            .split('&')
            .find_map(|p| p.strip_prefix("generation="))
            .map(|g| g.parse() == Ok(content.generation));
        if generation == Some(false) {
            out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").ok()?;
            return Some(());
        }
        let current = request.header("if-range").is_none_or(|v| Some(v) == content.etag.as_deref());
        let range: Option<(usize, Option<usize>)> = request
            .header("range")
            .filter(|_| current && *fault != Fault::IgnoreRange)
            .map(|r| r.strip_prefix("bytes=").unwrap().split_once('-').unwrap())
            .map(|(from, last)| (from.parse().unwrap(), last.parse().ok()));
        let from = range.map(|(from, _)| from);
        // one after the last byte
        let end = range.and_then(|(_, last)| last).map_or(body.len(), |last| body.len().min(last + 1));
        let end = match (fault, from) {
            (Fault::Slice(n), Some(from)) => end.min(from + n),
            _ => end,
        };
        let mut head = String::new();
        if from.is_some_and(|f| f >= body.len()) {
            head = format!(
                "HTTP/1.1 416 X\r\nContent-Range: bytes */{}\r\nContent-Length: 0\r\n\r\n",
                body.len()
            );
            out.write_all(head.as_bytes()).ok()?;
            return Some(());
        }
        let start = from.unwrap_or(0);
        match from {
            Some(from) => {
                let told = if *fault == Fault::WrongPart { from - 1 } else { from };
                head += "HTTP/1.1 206 Partial Content\r\n";
                if *fault != Fault::NamelessPart {
                    head += &format!("Content-Range: bytes {told}-{}/{}\r\n", end - 1, body.len());
                }
            }
            None => head += "HTTP/1.1 200 OK\r\n",
        }
        if let Some(etag) = &content.etag {
            head += &format!("ETag: {etag}\r\n");
        }
        if content.gzipped {
            head += "Content-Encoding: gzip\r\n";
        }
        let part = &mut body[start..end].to_vec();
        if *fault == Fault::Flip {
            let middle = part.len() / 2;
            part[middle] ^= 1;
        }
        match fault {
            Fault::NoLength => head += "Connection: close\r\n",
            _ => head += &format!("Content-Length: {}\r\n", part.len()),
        }
        head += "\r\n";
        out.write_all(head.as_bytes()).ok()?;
        let cut = |n: usize| &part[..n.min(part.len())];
        match *fault {
            Fault::Truncate(n) | Fault::ChangeAfter(n) => {
                out.write_all(cut(n)).ok()?;
                if let Fault::ChangeAfter(_) = fault {
                    let other: Vec<u8> = body.iter().map(|b| b.wrapping_add(1)).collect();
                    self.put(path, &other);
                }
                out.shutdown(Shutdown::Both).ok()?;
                None
            }
            Fault::ResetAfter(n) => {
                out.write_all(cut(n)).ok()?;
                reset(out)
            }
            Fault::Stall(n) => {
                out.write_all(cut(n)).ok()?;
                let _ = out.read(&mut [0; 1]); // until the client leaves
                None
            }
            Fault::NoLength => {
                out.write_all(part).ok()?;
                out.shutdown(Shutdown::Both).ok()?;
                None
            }
            _ => out.write_all(part).ok(),
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |l: &String| l.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, target, headers, body: String::from_utf8(body).unwrap() })
}

/// `/b/o` for both `/b/o` and Google's `/storage/v1/b/b/o/o`.
fn plain_path(target: &str) -> String {
    let path = target.split('?').next().unwrap();
    match path.strip_prefix("/storage/v1/b/").and_then(|p| p.split_once("/o/")) {
        Some((bucket, name)) => format!("/{bucket}/{}", name.replace("%2F", "/")),
        None => path.to_owned(),
    }
}

fn describe(path: &str, content: &Content) -> String {
    let (_, name) = path[1..].split_once('/').unwrap();
    let mut json = serde_json::json!({
        "kind": "storage#object", "name": name, "size": content.body.len().to_string(),
        "generation": content.generation.to_string(), "metageneration": "1",
        "crc32c": format_crc32c(crc32c::crc32c(&content.body)), "surprise": null,
    });
    if content.gzipped {
        json["contentEncoding"] = "gzip".into();
    }
    json.to_string()
}

/// Ends a connection with RST.
fn reset(stream: &TcpStream) -> Option<()> {
    let socket = socket2::SockRef::from(stream);
    socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
    None
}
