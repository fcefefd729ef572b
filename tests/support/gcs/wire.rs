//! Requests as they come over the wire.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::net::TcpStream;
use std::time::Duration;

use mantle::doubles::gcs::Request;

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
