//! Google Storage as far as `benches/index.sh` needs it, from the standard library alone: it lists a tree of objects
//! in pages of 1000 and accepts uploads. usage: index-server FOLDERS OBJECTS LATENCY_MS; prints its address.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

const PAGE: usize = 1000;

struct Tree {
    /// Name and description, by name.
    objects: Vec<(String, String)>,
    latency: Duration,
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).map(|n| n.parse().expect("a number")).collect();
    let [folders, each, latency] = numbers[..] else { panic!("FOLDERS OBJECTS LATENCY_MS") };
    let mut objects = Vec::new();
    for (folder, object) in (0..folders).flat_map(|f| (0..each).map(move |o| (f, o))) {
        let name = format!("boards/d{folder:04}/object-{object}.bin.bz2");
        let json = format!(
            "{{\"name\":\"{name}\",\"size\":\"{object}\",\"generation\":\"1700000000000001\",\"metageneration\":\"1\",\
             \"crc32c\":\"4waSgw==\",\"md5Hash\":\"2a6rirkVBEsl0bzTOzNtzA==\",\"contentType\":\"application/x-bzip2\",\
             \"cacheControl\":\"public, max-age=3600\"}}"
        );
        objects.push((name, json));
    }
    objects.sort();
    let tree = Arc::new(Tree { objects, latency: Duration::from_millis(latency as u64) });
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    println!("{}", listener.local_addr().expect("an address"));
    for stream in listener.incoming() {
        let (tree, stream) = (tree.clone(), stream.expect("a connection"));
        std::thread::spawn(move || serve(&tree, &stream));
    }
}

fn serve(tree: &Tree, stream: &TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let mut words = line.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut length = 0;
        loop {
            line.clear();
            reader.read_line(&mut line).ok()?;
            match line.trim_end().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.parse().ok()?
                }
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        std::thread::sleep(tree.latency);
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let (status, answer) = match (&*method, path) {
            ("GET", "/storage/v1/b/bucket/o") => (200, list(tree, query)),
            ("POST", _) => (200, stored(&body)?),
            _ => (404, String::new()),
        };
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", answer.len());
        let mut stream = stream;
        stream.write_all((head + &answer).as_bytes()).ok()?;
    }
}

fn list(tree: &Tree, query: &str) -> String {
    let query: HashMap<&str, String> =
        query.split('&').filter_map(|p| p.split_once('=')).map(|(k, v)| (k, v.replace("%2F", "/"))).collect();
    let get = |key| query.get(key).map_or("", String::as_str);
    let (prefix, until) = (get("prefix"), get("endOffset"));
    let start = get("startOffset").max(get("pageToken")).max(prefix);
    let from = tree.objects.partition_point(|(name, _)| &**name < start);
    let (mut items, mut prefixes, mut next) = (Vec::new(), Vec::<&str>::new(), "");
    for (name, json) in &tree.objects[from..] {
        if !name.starts_with(prefix) || !until.is_empty() && &**name >= until {
            break;
        }
        let folder = match get("delimiter") {
            "" => None,
            _ => name[prefix.len()..].find('/').map(|at| &name[..=prefix.len() + at]),
        };
        if folder.is_some() && prefixes.last().copied() == folder {
            continue;
        }
        if items.len() + prefixes.len() == PAGE {
            next = folder.unwrap_or(name);
            break;
        }
        match folder {
            Some(folder) => prefixes.push(folder),
            None => items.push(json.as_str()),
        }
    }
    let token = if next.is_empty() { String::new() } else { format!(",\"nextPageToken\":\"{next}\"") };
    let only_prefixes = get("fields") == "prefixes";
    let items = if only_prefixes { String::new() } else { items.join(",") };
    let token = if only_prefixes { String::new() } else { token };
    format!("{{\"items\":[{items}],\"prefixes\":{prefixes:?}{token}}}")
}

/// The description of what a multipart upload brings.
fn stored(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let value = |key: &str| text.split_once(&format!("\"{key}\":\""))?.1.split('"').next();
    let boundary = text.split("\r\n").next()?;
    let media = text.split_once(boundary)?.1.split_once(boundary)?.1;
    let content = media.split_once("\r\n\r\n")?.1.rsplit_once("\r\n--")?.0;
    Some(format!(
        "{{\"name\":\"{}\",\"size\":\"{}\",\"generation\":\"2\",\"metageneration\":\"1\",\"crc32c\":\"{}\"}}",
        value("name")?,
        content.len(),
        value("crc32c")?
    ))
}
