//! S3, as disks are imported through it. Of objects only lengths, tags and beginnings are kept: nobody reads them back.

use std::collections::BTreeMap;

use openssl::hash::{MessageDigest, hash};

use super::{State, element, leaf};
use crate::doubles::{Request, Response};
use crate::text::{hex, percent};

/// So much of an object's beginning is kept, in bytes.
const BEGIN: usize = 512;
/// No part but the last is shorter, in bytes.
const MIN_PART: u64 = 5 << 20;

#[derive(Default)]
pub(super) struct Bucket {
    pub objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Upload>,
}

#[derive(Clone)]
pub(super) struct Object {
    pub size: u64,
    pub begin: Vec<u8>,
    etag: String,
    metadata: Vec<(String, String)>,
}

struct Upload {
    key: String,
    metadata: Vec<(String, String)>,
    parts: BTreeMap<u64, Part>,
}

struct Part {
    size: u64,
    md5: Vec<u8>,
    begin: Vec<u8>,
}

impl Part {
    fn of(body: &[u8]) -> Self {
        let md5 = hash(MessageDigest::md5(), body).map(|sum| sum.to_vec()).unwrap_or_default();
        Self { size: body.len() as u64, md5, begin: body[..body.len().min(BEGIN)].to_vec() }
    }

    fn etag(&self) -> String {
        format!("\"{}\"", hex(&self.md5))
    }
}

impl Bucket {
    /// Keys and lengths of all objects.
    pub fn sizes(&self) -> BTreeMap<String, u64> {
        self.objects.iter().map(|(key, object)| (key.clone(), object.size)).collect()
    }
}

fn refused(status: u16, code: &str, message: &str) -> Response {
    let body = element("Error", leaf("Code", code) + &leaf("Message", message) + &leaf("RequestId", "r"));
    Response::new(status, "application/xml", body)
}

fn document(name: &str, inner: &str) -> Response {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><{name} xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{inner}</{name}>"
    );
    Response::new(200, "application/xml", body)
}

fn metadata(request: &Request) -> Vec<(String, String)> {
    let own = request.headers.iter().filter(|(name, _)| name.to_ascii_lowercase().starts_with("x-amz-meta-"));
    own.cloned().collect()
}

/// Does what is asked of `/BUCKET` or `/BUCKET/KEY`.
pub(super) fn answer(state: &mut State, request: &Request) -> Response {
    let decoded = percent::decode;
    let path = request.path().trim_start_matches('/');
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    let (Some(name), Some(key)) = (decoded(bucket), decoded(key)) else {
        return refused(400, "InvalidURI", "Couldn't parse the specified URI.");
    };
    let query: BTreeMap<String, String> = request.query().into_iter().collect();
    if key.is_empty() && request.method == "PUT" {
        return match state.buckets.contains_key(&name) {
            true => refused(409, "BucketAlreadyOwnedByYou", "you have it already"),
            false => {
                state.buckets.insert(name, Bucket::default());
                Response::empty(200)
            }
        };
    }
    let id = state.id("upload");
    let Some(bucket) = state.buckets.get_mut(&name) else {
        return refused(404, "NoSuchBucket", "The specified bucket does not exist");
    };
    if key.is_empty() {
        return bucket.uploads_or_head(request, &name, &query);
    }
    match query.get("uploadId") {
        Some(id) => bucket.upload(request, &name, &key, id, &query),
        None if query.contains_key("uploads") => {
            let upload = Upload { key: key.clone(), metadata: metadata(request), parts: BTreeMap::new() };
            bucket.uploads.insert(id.clone(), upload);
            let inner = leaf("Bucket", &name) + &leaf("Key", &key) + &leaf("UploadId", &id);
            document("InitiateMultipartUploadResult", &inner)
        }
        None => bucket.object(request, &key),
    }
}

impl Bucket {
    fn uploads_or_head(&self, request: &Request, name: &str, query: &BTreeMap<String, String>) -> Response {
        match request.method.as_str() {
            "HEAD" => Response::empty(200),
            "GET" if query.contains_key("uploads") => {
                let prefix = query.get("prefix").map_or("", String::as_str);
                let item = |(id, upload): (&String, &Upload)| {
                    element("Upload", leaf("Key", &upload.key) + &leaf("UploadId", id))
                };
                let fits = self.uploads.iter().filter(|(_, upload)| upload.key.starts_with(prefix));
                let inner = leaf("Bucket", name) + &leaf("IsTruncated", "false");
                document("ListMultipartUploadsResult", &(inner + &fits.map(item).collect::<String>()))
            }
            "GET" => {
                let prefix = query.get("prefix").map_or("", String::as_str);
                let fits = self.objects.iter().filter(|(key, _)| key.starts_with(prefix));
                let item = |(key, object): (&String, &Object)| {
                    let size = object.size.to_string();
                    element("Contents", leaf("Key", key) + &leaf("ETag", &object.etag) + &leaf("Size", &size))
                };
                let inner = leaf("Name", name) + &leaf("IsTruncated", "false");
                document("ListBucketResult", &(inner + &fits.map(item).collect::<String>()))
            }
            _ => refused(405, "MethodNotAllowed", "not on a bucket"),
        }
    }

    fn object(&mut self, request: &Request, key: &str) -> Response {
        match request.method.as_str() {
            "PUT" => {
                let part = Part::of(&request.body);
                let object = Object {
                    size: part.size,
                    etag: part.etag(),
                    begin: part.begin,
                    metadata: metadata(request),
                };
                let answer = Response::empty(200).with("ETag", object.etag.clone());
                self.objects.insert(key.to_owned(), object);
                answer
            }
            "HEAD" => match self.objects.get(key) {
                Some(object) => {
                    let answer = Response::empty(200).with("ETag", object.etag.clone());
                    let answer = answer.with("Content-Length", object.size.to_string());
                    object
                        .metadata
                        .iter()
                        .fold(answer, |answer, (name, value)| answer.with(name, value.clone()))
                }
                None => Response::empty(404),
            },
            "DELETE" => {
                self.objects.remove(key);
                Response::empty(204)
            }
            _ => refused(405, "MethodNotAllowed", "contents of objects are not kept"),
        }
    }

    fn upload(
        &mut self,
        request: &Request,
        bucket: &str,
        key: &str,
        id: &str,
        query: &BTreeMap<String, String>,
    ) -> Response {
        let Some(upload) = self.uploads.get_mut(id).filter(|upload| upload.key == key) else {
            return refused(404, "NoSuchUpload", "The specified upload does not exist.");
        };
        let number = query.get("partNumber").and_then(|n| n.parse::<u64>().ok());
        match (request.method.as_str(), number) {
            ("PUT", Some(number @ 1..=10_000)) => {
                let part = Part::of(&request.body);
                let etag = part.etag();
                upload.parts.insert(number, part);
                Response::empty(200).with("ETag", etag)
            }
            ("GET", _) => {
                let item = |(number, part): (&u64, &Part)| {
                    let size = part.size.to_string();
                    let fields = leaf("PartNumber", &number.to_string()) + &leaf("ETag", &part.etag());
                    element("Part", fields + &leaf("Size", &size))
                };
                let inner = leaf("Bucket", bucket) + &leaf("Key", key) + &leaf("UploadId", id);
                let parts: String = upload.parts.iter().map(item).collect();
                document("ListPartsResult", &(inner + &leaf("IsTruncated", "false") + &parts))
            }
            ("POST", _) => {
                // Numbers and tags of all parts, in their order; nothing else has numbers and tags there.
                let text = request.text();
                let named = |part: (&u64, &Part)| {
                    let etag = part.1.etag();
                    text.contains(&format!("<PartNumber>{}</PartNumber>", part.0))
                        && (text.contains(&etag) || text.contains(&etag.replace('"', "&quot;")))
                };
                let last = upload.parts.len().saturating_sub(1);
                let long = |(n, part): (usize, &Part)| n == last || part.size >= MIN_PART;
                if upload.parts.is_empty() || !upload.parts.iter().all(named) {
                    return refused(
                        400,
                        "InvalidPart",
                        "One or more of the specified parts could not be found.",
                    );
                }
                if !upload.parts.values().enumerate().all(long) {
                    return refused(400, "EntityTooSmall", "A part is smaller than the minimum allowed size");
                }
                let sums: Vec<u8> = upload.parts.values().flat_map(|p| p.md5.clone()).collect();
                let object = Object {
                    size: upload.parts.values().map(|p| p.size).sum(),
                    begin: upload.parts.values().next().map(|p| p.begin.clone()).unwrap_or_default(),
                    etag: format!("\"{}-{}\"", hex(&Part::of(&sums).md5), upload.parts.len()),
                    metadata: upload.metadata.clone(),
                };
                let inner = leaf("Bucket", bucket) + &leaf("Key", key) + &leaf("ETag", &object.etag);
                self.uploads.remove(id);
                self.objects.insert(key.to_owned(), object);
                document("CompleteMultipartUploadResult", &inner)
            }
            ("DELETE", _) => {
                self.uploads.remove(id);
                Response::empty(204)
            }
            _ => refused(400, "InvalidArgument", "no such request of an upload"),
        }
    }
}
