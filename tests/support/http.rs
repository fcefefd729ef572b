//! HTTP/1.1 on bare sockets: for servers that misbehave, and for looking at every byte of a request.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

pub use mantle::doubles::{Request, Response};

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
}

/// What becomes of a request.
pub enum Reply {
    Answer(Response),
    /// The connection is reset.
    Reset,
    /// So many bytes of the body, then the end of the connection.
    Truncate(Response, usize),
    /// So many bytes of the body, then silence until the client leaves.
    Stall(Response, usize),
    /// Not even a status line, until the client leaves.
    Silence,
}

/// Serves on a free port of loopback for as long as the test process lives.
pub fn serve(handler: impl Fn(Request) -> Reply + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let handler = Arc::new(handler);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(stream), handler) = (stream, handler.clone()) else { continue };
            std::thread::spawn(move || connection(&stream, &*handler));
        }
    });
    address
}

fn connection(stream: &TcpStream, handler: &(dyn Fn(Request) -> Reply + Send + Sync)) -> Option<()> {
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let request = read_request(&mut reader, stream)?;
        let head = request.method == "HEAD";
        let close = request.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("close"));
        match handler(request) {
            Reply::Answer(answer) => write(stream, &answer, head, answer.body.len()).ok()?,
            Reply::Reset => return reset(stream),
            Reply::Truncate(answer, bytes) => {
                write(stream, &answer, head, bytes.min(answer.body.len())).ok()?;
                return stream.shutdown(Shutdown::Both).ok();
            }
            Reply::Stall(answer, bytes) => {
                write(stream, &answer, head, bytes.min(answer.body.len())).ok()?;
                return wait_for_end(stream);
            }
            Reply::Silence => return wait_for_end(stream),
        }
        if close {
            return stream.shutdown(Shutdown::Both).ok();
        }
    }
}

fn wait_for_end(mut stream: &TcpStream) -> Option<()> {
    while stream.read(&mut [0; 256]).ok()? > 0 {}
    None
}

/// Ends a connection with RST.
fn reset(stream: &TcpStream) -> Option<()> {
    let socket = socket2::SockRef::from(stream);
    socket.set_linger(Some(Duration::ZERO)).ok()
}

/// Writes an answer, with so many bytes of its body.
///
/// # Errors
/// When the client has left.
pub fn write(mut stream: impl Write, answer: &Response, head: bool, bytes: usize) -> io::Result<()> {
    let mut text = format!("HTTP/1.1 {} X\r\n", answer.status);
    let mut sized = answer.status == 204 || answer.status == 304;
    for (name, value) in &answer.headers {
        // Of a HEAD the length is that of the body which does not come.
        let length = name.eq_ignore_ascii_case("content-length");
        if (length && !head) || ["transfer-encoding", "connection"].contains(&&*name.to_ascii_lowercase()) {
            continue;
        }
        sized |= length;
        let _ = write!(text, "{name}: {value}\r\n");
    }
    if !sized {
        let _ = write!(text, "Content-Length: {}\r\n", answer.body.len());
    }
    text.push_str("\r\n");
    let mut bytes_out = text.into_bytes();
    if !head {
        bytes_out.extend_from_slice(&answer.body[..bytes]);
    }
    stream.write_all(&bytes_out)
}

fn read_headers(reader: &mut impl BufRead) -> Option<Vec<(String, String)>> {
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { return Some(headers) };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

fn read_body(reader: &mut impl BufRead, headers: &[(String, String)]) -> Option<Option<Vec<u8>>> {
    if header(headers, "transfer-encoding").is_some_and(|t| t.eq_ignore_ascii_case("chunked")) {
        let mut body = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let size = usize::from_str_radix(line.trim().split(';').next()?, 16).ok()?;
            let start = body.len();
            body.resize(start + size, 0);
            reader.read_exact(&mut body[start..]).ok()?;
            reader.read_line(&mut String::new()).ok()?;
            if size == 0 {
                return Some(Some(body));
            }
        }
    }
    let Some(length) = header(headers, "content-length") else { return Some(None) };
    let mut body = vec![0; length.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    Some(Some(body))
}

/// Reads a request; who waits for a word before the body gets it on `stream`.
pub fn read_request(reader: &mut impl BufRead, mut stream: impl Write) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers = read_headers(reader)?;
    if header(&headers, "expect").is_some() {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    let body = read_body(reader, &headers)?.unwrap_or_default();
    Some(Request { method, target, headers, body })
}

/// Sends a request to another server, and reads all of the answer.
///
/// # Errors
/// When there is no whole answer.
pub fn send(address: SocketAddr, request: &Request) -> io::Result<Response> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut text = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    for (name, value) in &request.headers {
        let dropped = ["connection", "content-length", "expect", "transfer-encoding"];
        if !dropped.contains(&&*name.to_ascii_lowercase()) {
            let _ = write!(text, "{name}: {value}\r\n");
        }
    }
    if request.header("host").is_none() {
        let _ = write!(text, "Host: {address}\r\n");
    }
    let _ = write!(text, "Content-Length: {}\r\nConnection: close\r\n\r\n", request.body.len());
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(&request.body);
    stream.write_all(&bytes)?;
    let mut reader = BufReader::new(stream);
    let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "the answer is cut short");
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let status = line.split_whitespace().nth(1).and_then(|s| s.parse().ok()).ok_or_else(cut)?;
        let headers = read_headers(&mut reader).ok_or_else(cut)?;
        if status == 100 {
            continue;
        }
        if request.method == "HEAD" || status == 204 || status == 304 {
            return Ok(Response { status, headers, ..Response::default() });
        }
        let body = match read_body(&mut reader, &headers).ok_or_else(cut)? {
            Some(body) => body,
            None => {
                let mut body = Vec::new();
                reader.read_to_end(&mut body)?;
                body
            }
        };
        return Ok(Response { status, headers, body, ..Response::default() });
    }
}
