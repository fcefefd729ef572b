//! Requests as they come over the wire.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Decoded, without the query.
    pub path: Vec<String>,
    pub query: BTreeMap<String, String>,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    /// A short name of what is asked: `list`, `get`, `insert`, `begin`, `put`, `rewrite`, `compose`, `patch`,
    /// `delete`.
    pub fn kind(&self) -> &'static str {
        match (&*self.method, self.path.get(6).map(String::as_str)) {
            ("POST", Some("rewriteTo")) => "rewrite",
            ("POST", Some("compose")) => "compose",
            ("POST", _) if self.query.get("uploadType").is_some_and(|t| t == "resumable") => "begin",
            ("POST", _) => "insert",
            ("PUT", _) => "put",
            ("PATCH", _) => "patch",
            ("DELETE", _) => "delete",
            _ if self.path.len() == 5 => "list",
            _ => "get",
        }
    }

    /// Whether it asks for a change.
    pub fn changes(&self) -> bool {
        !matches!(self.kind(), "list" | "get")
    }

    /// Kind and `bucket/name` of what it is about: the destination of a rewrite.
    pub fn told(&self) -> String {
        let bucket = |at: usize| self.path.get(at).map_or("", String::as_str);
        let at = match self.kind() {
            "rewrite" => format!("{}/{}", bucket(8), bucket(10)),
            "list" => format!("{}/{}", bucket(3), self.query.get("prefix").map_or("", String::as_str)),
            "insert" => {
                let text = String::from_utf8_lossy(&self.body);
                let name = text.split("\"name\":\"").nth(1).and_then(|t| t.split('"').next());
                format!("{}/{}", bucket(4), name.unwrap_or_default())
            }
            "begin" | "put" => bucket(4).to_owned(),
            _ => format!("{}/{}", bucket(3), bucket(5)),
        };
        format!("{} {at}", self.kind())
    }
}

/// Description and content of a multipart upload.
pub fn multipart(request: &Request) -> (Value, Vec<u8>) {
    let boundary = request.headers["content-type"].split_once("boundary=").unwrap().1;
    let rest = request.body.strip_prefix(format!("--{boundary}\r\n").as_bytes()).unwrap();
    let rest = rest.strip_suffix(format!("\r\n--{boundary}--\r\n").as_bytes()).unwrap();
    let find = |hay: &[u8], needle: &[u8]| hay.windows(needle.len()).position(|w| w == needle).unwrap();
    let separator = format!("\r\n--{boundary}\r\n");
    let at = find(rest, separator.as_bytes());
    let (json, media) = (&rest[..at], &rest[at + separator.len()..]);
    let body = |part: &[u8]| part[find(part, b"\r\n\r\n") + 4..].to_vec();
    (serde_json::from_slice(&body(json)).unwrap(), body(media))
}

pub fn read_request(reader: &mut impl BufRead) -> Option<Request> {
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
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let path = path[1..].split('/').map(unescape).collect();
    let query = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    Some(Request { method, path, query, headers, body })
}

fn unescape(part: &str) -> String {
    let plus = part.replace('+', "%2B");
    form_urlencoded::parse(plus.as_bytes()).next().map(|(name, _)| name.into_owned()).unwrap_or_default()
}

/// Ends a connection with RST.
pub fn reset(stream: &TcpStream) -> Option<()> {
    let socket = socket2::SockRef::from(stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    None
}
