//! Google Storage: generations, preconditions, checksums, resumable uploads, rewrites in several steps, pages also with a
//! delimiter.
//!
//! Answers: <https://cloud.google.com/storage/docs/json_api/v1>. There is any bucket that is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Map, Value, json};

use super::{Double, Response, lock};
use crate::cloud::google::storage::{format_crc32c, parse_crc32c};
use crate::text::percent;

/// Attributes that a client may choose.
const ATTRIBUTES: [&str; 6] =
    ["contentType", "cacheControl", "contentEncoding", "contentDisposition", "contentLanguage", "metadata"];

/// Pieces of resumable uploads have a multiple of so many bytes.
const PIECE: usize = 256 << 10;

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET` and the like.
    pub method: String,
    /// Decoded, without the query.
    pub path: Vec<String>,
    /// Its parameters.
    pub query: BTreeMap<String, String>,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// All of the body.
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

impl From<&super::Request> for Request {
    fn from(request: &super::Request) -> Self {
        let part = |part: &str| percent::decode(part).unwrap_or_default();
        Self {
            method: request.method.clone(),
            path: request.path().trim_start_matches('/').split('/').map(part).collect(),
            query: request.query().into_iter().collect(),
            headers: request.headers.iter().map(|(n, v)| (n.to_ascii_lowercase(), v.clone())).collect(),
            body: request.body.clone(),
        }
    }
}

/// A content that is a file.
#[derive(Clone, Debug)]
pub struct Backing {
    file: Arc<File>,
    size: u64,
}

impl PartialEq for Backing {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.file, &other.file)
    }
}

impl Eq for Backing {}

/// A stored object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its content, unless that is a file.
    pub body: Vec<u8>,
    /// The file that is its content.
    pub backing: Option<Backing>,
    /// Checksum of its content.
    pub crc32c: u32,
    /// Which version of the content it is: when it was stored, in microseconds.
    pub generation: u64,
    /// Which version of the attributes.
    pub metageneration: u64,
    /// What a client has chosen.
    pub attributes: Map<String, Value>,
    /// The `predefinedAcl` of its upload.
    pub acl: Option<String>,
}

impl Stored {
    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.backing.as_ref().map_or(self.body.len() as u64, |b| b.size)
    }

    /// The file that is its content.
    pub fn file(&self) -> Option<&Arc<File>> {
        self.backing.as_ref().map(|b| &b.file)
    }

    fn bytes(&self) -> io::Result<Vec<u8>> {
        let Some(Backing { file, size }) = &self.backing else { return Ok(self.body.clone()) };
        let mut bytes = vec![0; usize::try_from(*size).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

/// How an upload goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Damage {
    /// Not at all.
    #[default]
    None,
    /// Of a piece only so many bytes are kept.
    Keep(usize),
    /// It is damaged on its way, and the server does not see it.
    Flip,
}

struct Session {
    bucket: String,
    description: Value,
    query: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// What is stored.
pub struct Store {
    /// By bucket and name.
    pub objects: BTreeMap<(String, String), Stored>,
    /// How many results a page of a listing has at most.
    pub page: usize,
    /// How many bytes one call of a rewrite copies.
    pub rewrite_step: u64,
    /// The only bearer token that may change things; `None`: anybody may.
    pub token: Option<String>,
    sessions: BTreeMap<String, Session>,
    /// What came of those that are over; asked for when that answer was lost.
    finished: BTreeMap<String, Value>,
    rewrites: BTreeMap<String, u64>,
    clock: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            page: 1000,
            rewrite_step: u64::MAX,
            token: None,
            sessions: BTreeMap::new(),
            finished: BTreeMap::new(),
            rewrites: BTreeMap::new(),
            clock: 1_700_000_000_000_000,
        }
    }
}

fn json_answer(value: &Value) -> Response {
    Response::new(200, "application/json", value.to_string())
}

/// A refusal, as Google says it.
pub fn error(status: u16, reason: &str) -> Response {
    let body = json!({"error": {"code": status, "message": reason, "errors": [{"reason": reason}]}});
    Response { status, ..json_answer(&body) }
}

fn invalid(what: &str) -> Box<Response> {
    error(400, what).into()
}

type Answer<T> = Result<T, Box<Response>>;

fn read(body: &[u8]) -> Answer<Value> {
    serde_json::from_slice(body).map_err(|_| invalid("parseError"))
}

/// The name in a description.
fn name_of(description: &Value) -> Answer<&str> {
    description["name"].as_str().filter(|n| !n.is_empty()).ok_or_else(|| invalid("required: name"))
}

/// Description and content of a multipart upload.
fn multipart(request: &Request) -> Option<(Value, Vec<u8>)> {
    let boundary = request.headers.get("content-type")?.split_once("boundary=")?.1;
    let rest = request.body.strip_prefix(format!("--{boundary}\r\n").as_bytes())?;
    let rest = rest.strip_suffix(format!("\r\n--{boundary}--\r\n").as_bytes())?;
    let find = |hay: &[u8], needle: &[u8]| memchr::memmem::find(hay, needle);
    let separator = format!("\r\n--{boundary}\r\n");
    let at = find(rest, separator.as_bytes())?;
    let (json, media) = (&rest[..at], &rest[at + separator.len()..]);
    let body = |part: &[u8]| Some(part[find(part, b"\r\n\r\n")? + 4..].to_vec());
    Some((serde_json::from_slice(&body(json)?).ok()?, body(media)?))
}

impl Store {
    /// Stores an object.
    pub fn put(&mut self, bucket: &str, name: &str, body: &[u8], content_type: &str) {
        let attributes = Map::from_iter([("contentType".to_owned(), Value::from(content_type))]);
        self.store(bucket, name, body.to_vec(), attributes, None);
    }

    /// Stores a file, which is read when it is asked for: it must not change. Blocks.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn put_file(&mut self, bucket: &str, name: &str, path: &Path, content_type: &str) -> io::Result<()> {
        let mut file = File::open(path)?;
        let (mut piece, mut crc32c, mut size) = (vec![0; PIECE], 0, 0);
        loop {
            match file.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => {
                    crc32c = crc32c::crc32c_append(crc32c, &piece[..read]);
                    size += read as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.put(bucket, name, b"", content_type);
        if let Some(stored) = self.objects.get_mut(&(bucket.to_owned(), name.to_owned())) {
            (stored.crc32c, stored.backing) = (crc32c, Some(Backing { file: Arc::new(file), size }));
        }
        Ok(())
    }

    /// Forgets the uploads in pieces that are under way.
    pub fn forget_sessions(&mut self) {
        self.sessions.clear();
        self.finished.clear();
    }

    /// Puts an object there.
    pub fn store(
        &mut self,
        bucket: &str,
        name: &str,
        body: Vec<u8>,
        attributes: Map<String, Value>,
        acl: Option<String>,
    ) -> Stored {
        let crc32c = crc32c::crc32c(&body);
        self.keep(bucket, name, Stored { body, crc32c, attributes, acl, ..Stored::nothing() })
    }

    /// Puts an object there as a new version.
    fn keep(&mut self, bucket: &str, name: &str, stored: Stored) -> Stored {
        self.clock += 1;
        let stored = Stored { generation: self.clock, metageneration: 1, ..stored };
        self.objects.insert((bucket.into(), name.into()), stored.clone());
        stored
    }

    /// Does what is asked.
    pub fn answer(&mut self, request: &Request, damage: Damage) -> Response {
        self.done(request, damage).unwrap_or_else(|refused| *refused)
    }

    fn done(&mut self, request: &Request, damage: Damage) -> Answer<Response> {
        if let Some(token) = &self.token
            && request.changes()
            && request.headers.get("authorization") != Some(&format!("Bearer {token}"))
        {
            return Err(error(401, "authError").into());
        }
        let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
        let query = |name: &str| request.query.get(name).map(String::as_str);
        match (&*request.method, &path[..]) {
            ("GET", ["storage", "v1", "b", bucket, "o"]) => Ok(self.list(bucket, request)),
            ("GET", ["storage", "v1", "b", bucket, "o", name]) => {
                let stored = self.find(bucket, name)?;
                if query("alt") == Some("media") {
                    let (body, file) = (stored.body.clone(), stored.file().cloned());
                    return Ok(Response { status: 200, headers: Vec::new(), body, file });
                }
                Ok(json_answer(&describe(name, stored)))
            }
            ("DELETE", ["storage", "v1", "b", bucket, "o", name]) => {
                self.find(bucket, name)?;
                self.check(bucket, name, &request.query)?;
                self.objects.remove(&((*bucket).into(), (*name).into()));
                Ok(Response::empty(204))
            }
            ("PATCH", ["storage", "v1", "b", bucket, "o", name]) => {
                self.check(bucket, name, &request.query)?;
                let patch = read(&request.body)?;
                let patch = patch.as_object().ok_or_else(|| invalid("parseError"))?;
                if let Some(key) = patch.keys().find(|key| !ATTRIBUTES.contains(&key.as_str())) {
                    return Err(invalid(&format!("{key} cannot be changed")));
                }
                let key = ((*bucket).to_owned(), (*name).to_owned());
                let Some(stored) = self.objects.get_mut(&key) else {
                    return Err(error(404, "notFound").into());
                };
                for (key, value) in patch {
                    match value {
                        Value::Null => drop(stored.attributes.remove(key)),
                        value => drop(stored.attributes.insert(key.clone(), value.clone())),
                    }
                }
                stored.metageneration += 1;
                Ok(json_answer(&describe(name, stored)))
            }
            ("POST", ["storage", "v1", "b", from, "o", name, "rewriteTo", "b", to, "o", new]) => {
                self.rewrite((from, name), (to, new), request)
            }
            ("POST", ["storage", "v1", "b", bucket, "o", name, "compose"]) => {
                self.compose(bucket, name, request)
            }
            ("POST", ["upload", "storage", "v1", "b", bucket, "o"]) => match query("uploadType") {
                Some("multipart") => {
                    let sent = multipart(request);
                    let (description, mut body) = sent.ok_or_else(|| invalid("badContent"))?;
                    if let (Damage::Flip, Some(first)) = (damage, body.first_mut()) {
                        *first ^= 1;
                    }
                    self.insert(bucket, &description, body, &request.query, damage == Damage::Flip)
                }
                Some("resumable") => {
                    let description = read(&request.body)?;
                    self.check(bucket, name_of(&description)?, &request.query)?;
                    self.clock += 1;
                    let id = format!("session-{}", self.clock);
                    let place =
                        format!("/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={id}");
                    let host = request.headers.get("host").map_or("", String::as_str);
                    let location = format!("http://{host}{place}");
                    let (query, body) = (request.query.clone(), Vec::new());
                    let session = Session { bucket: (*bucket).into(), description, query, body };
                    self.sessions.insert(id, session);
                    Ok(Response::empty(200).with("Location", location))
                }
                _ => Err(invalid("uploadType")),
            },
            ("PUT", ["upload", "storage", "v1", "b", _, "o"]) => self.piece(request, damage),
            _ => Err(error(404, "no such request").into()),
        }
    }

    fn find(&self, bucket: &str, name: &str) -> Answer<&Stored> {
        let found = self.objects.get(&(bucket.to_owned(), name.to_owned()));
        found.ok_or_else(|| error(404, "notFound").into())
    }

    /// Refuses what does not meet its preconditions.
    fn check(&self, bucket: &str, name: &str, query: &BTreeMap<String, String>) -> Answer<()> {
        let found = self.objects.get(&(bucket.to_owned(), name.to_owned()));
        for (key, there) in [
            ("ifGenerationMatch", found.map_or(0, |f| f.generation)),
            ("ifMetagenerationMatch", found.map_or(0, |f| f.metageneration)),
        ] {
            if query.get(key).is_some_and(|wanted| *wanted != there.to_string()) {
                return Err(error(412, "conditionNotMet").into());
            }
        }
        Ok(())
    }

    fn insert(
        &mut self,
        bucket: &str,
        description: &Value,
        body: Vec<u8>,
        query: &BTreeMap<String, String>,
        blind: bool,
    ) -> Answer<Response> {
        let name = name_of(description)?;
        self.check(bucket, name, query)?;
        let sent = description["crc32c"].as_str().map(|c| parse_crc32c(c).ok_or_else(|| invalid("invalid")));
        let sent = sent.transpose()?;
        if !blind && sent.is_some_and(|c| c != crc32c::crc32c(&body)) {
            return Err(invalid("invalid"));
        }
        let stored =
            self.store(bucket, name, body, attributes(description), query.get("predefinedAcl").cloned());
        Ok(json_answer(&describe(name, &stored)))
    }

    /// A piece of a resumable upload.
    fn piece(&mut self, request: &Request, damage: Damage) -> Answer<Response> {
        let id = request.query.get("upload_id").ok_or_else(|| invalid("upload_id"))?;
        if let Some(object) = self.finished.get(id) {
            return Ok(json_answer(object));
        }
        let session = self.sessions.get_mut(id).ok_or_else(|| error(410, "gone"))?;
        let range =
            request.headers.get("content-range").and_then(|r| r.strip_prefix("bytes ")?.split_once('/'));
        let (range, total) = range.ok_or_else(|| invalid("Content-Range"))?;
        let number = |text: &str| text.parse::<usize>().map_err(|_| invalid("Content-Range"));
        let total = number(total)?;
        if let Some((from, to)) = range.split_once('-') {
            let (from, to) = (number(from)?, number(to)?);
            if to + 1 != from + request.body.len() {
                return Err(invalid("Content-Range"));
            }
            if !request.body.len().is_multiple_of(PIECE) && to + 1 != total {
                return Err(invalid("not a multiple of 256 KiB"));
            }
            if from != session.body.len() {
                return Err(invalid("invalid offset"));
            }
            let kept = match damage {
                Damage::Keep(n) => n.min(request.body.len()),
                _ => request.body.len(),
            };
            session.body.extend_from_slice(&request.body[..kept]);
        }
        if session.body.len() < total {
            let answer = Response::empty(308);
            return Ok(match session.body.len() {
                0 => answer,
                n => answer.with("Range", format!("bytes=0-{}", n - 1)),
            });
        }
        let session = self.sessions.remove(id).ok_or_else(|| error(410, "gone"))?;
        let Session { bucket, description, query, body } = session;
        let answer = self.insert(&bucket, &description, body, &query, false)?;
        self.finished.insert(id.clone(), read(&answer.body)?);
        Ok(answer)
    }

    fn rewrite(&mut self, from: (&str, &str), to: (&str, &str), request: &Request) -> Answer<Response> {
        let source = self.find(from.0, from.1)?.clone();
        let wanted = request.query.get("ifSourceGenerationMatch");
        if wanted.is_some_and(|g| *g != source.generation.to_string()) {
            return Err(error(412, "conditionNotMet").into());
        }
        self.check(to.0, to.1, &request.query)?;
        let before = match request.query.get("rewriteToken") {
            Some(token) => self.rewrites.remove(token).unwrap_or_default(),
            None => 0,
        };
        let (done, size) = (before.saturating_add(self.rewrite_step), source.size());
        if done < size {
            self.clock += 1;
            let token = format!("rewrite-{}", self.clock);
            self.rewrites.insert(token.clone(), done);
            return Ok(json_answer(&json!({
                "kind": "storage#rewriteResponse", "done": false, "rewriteToken": token,
                "totalBytesRewritten": done.to_string(), "objectSize": size.to_string(),
            })));
        }
        let chosen = match &request.body[..] {
            b"" => source.attributes.clone(),
            json => attributes(&read(json)?),
        };
        // That of a content which somebody has changed unseen is another than was said of it.
        let crc32c = source.backing.as_ref().map_or_else(|| crc32c::crc32c(&source.body), |_| source.crc32c);
        let stored = self.keep(to.0, to.1, Stored { attributes: chosen, acl: None, crc32c, ..source });
        Ok(json_answer(&json!({
            "kind": "storage#rewriteResponse", "done": true, "totalBytesRewritten": size.to_string(),
            "objectSize": size.to_string(), "resource": describe(to.1, &stored),
        })))
    }

    fn compose(&mut self, bucket: &str, name: &str, request: &Request) -> Answer<Response> {
        let order = read(&request.body)?;
        let sources = order["sourceObjects"].as_array().filter(|sources| (1..=32).contains(&sources.len()));
        let sources = sources.ok_or_else(|| invalid("1 to 32 sources"))?;
        self.check(bucket, name, &request.query)?;
        let mut body = Vec::new();
        for source in sources {
            let found = self.find(bucket, name_of(source)?)?;
            if source["generation"].as_str() != Some(&*found.generation.to_string()) {
                return Err(error(404, "notFound").into());
            }
            body.extend(found.bytes().map_err(|e| error(500, &e.to_string()))?);
        }
        let acl = request.query.get("destinationPredefinedAcl").cloned();
        let stored = self.store(bucket, name, body, attributes(&order["destination"]), acl);
        Ok(json_answer(&describe(name, &stored)))
    }

    fn list(&self, bucket: &str, request: &Request) -> Response {
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
        let wanted = fields.split_once("items(").map(|(_, f)| f.split(')').next().unwrap_or_default());
        if let Some(wanted) = wanted {
            let wanted: Vec<&str> = wanted.split(',').collect();
            for item in items.iter_mut().filter_map(Value::as_object_mut) {
                item.retain(|key, _| wanted.contains(&&**key));
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
        json_answer(&page)
    }
}

impl Stored {
    fn nothing() -> Self {
        let (body, attributes) = (Vec::new(), Map::new());
        Self { body, backing: None, crc32c: 0, generation: 0, metageneration: 0, attributes, acl: None }
    }
}

fn attributes(description: &Value) -> Map<String, Value> {
    let chosen = description.as_object().into_iter().flatten();
    chosen.filter(|(k, _)| ATTRIBUTES.contains(&&***k)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn describe(name: &str, stored: &Stored) -> Value {
    // Generations are microseconds, as Google's are.
    let time = chrono::DateTime::from_timestamp_micros(stored.generation.cast_signed()).unwrap_or_default();
    let time = time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let mut json = json!({
        "kind": "storage#object", "name": name, "size": stored.size().to_string(),
        "generation": stored.generation.to_string(), "metageneration": stored.metageneration.to_string(),
        "crc32c": format_crc32c(stored.crc32c), "storageClass": "STANDARD", "timeCreated": time,
    });
    for (key, value) in &stored.attributes {
        json[key] = value.clone();
    }
    json
}

/// The double.
#[derive(Default)]
pub struct Gcs(Mutex<Store>);

impl Gcs {
    /// What is stored.
    pub fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.0)
    }
}

impl Double for Gcs {
    fn answer(&self, request: &super::Request) -> Response {
        self.store().answer(&request.into(), Damage::None)
    }

    fn busy(&self) -> Response {
        error(503, "backendError")
    }
}
