//! New content: short content in one request, long content in pieces that survive a lost connection.
//!
//! <https://cloud.google.com/storage/docs/performing-resumable-uploads>

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::body::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderName, LOCATION, RANGE};
use reqwest::{Method, StatusCode, Url};

use super::object::FIELDS;
use super::write::{Description, MAX_ANSWER, stored};
use super::{Attributes, Error, Location, Object, OnlyIf, Storage, name};
use crate::http::{self, Answer, CallError, Class, Refusal, Repeat, Transient};

/// Content up to this length is sent in one request.
const SHORT: u64 = 1 << 20;

/// The pieces of longer content; the protocol asks for multiples of [`SMALLEST`].
const PIECE: u64 = 8 << 20;

/// The smallest pieces, for lines that need too long for larger ones.
const SMALLEST: u64 = 256 << 10;

/// What an upload in pieces will bring.
const CONTENT_LENGTH_TO_COME: HeaderName = HeaderName::from_static("x-upload-content-length");
const CONTENT_TYPE_TO_COME: HeaderName = HeaderName::from_static("x-upload-content-type");

/// How often an upload that the server has forgotten is begun anew.
const RESTARTS: u32 = 3;

/// What tells one content from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Length, in bytes.
    pub size: u64,
    /// Checksum (Castagnoli).
    pub crc32c: u32,
}

impl Fingerprint {
    /// That of some bytes.
    pub fn of(content: &[u8]) -> Self {
        Self { size: content.len() as u64, crc32c: crc32c::crc32c(content) }
    }

    /// Whether an object has this content, as far as the server says.
    pub fn fits(&self, object: &Object) -> bool {
        object.size == self.size && object.crc32c == Some(self.crc32c)
    }
}

/// The fingerprint of a file, read on a thread of its own.
///
/// # Errors
/// [`Error::File`].
pub async fn fingerprint(path: &Path) -> Result<Fingerprint, Error> {
    Ok(fingerprints(path, u64::MAX).await?.0)
}

/// The fingerprint of a file, and those of its parts of `unit` bytes, the last of which may be shorter.
///
/// # Errors
/// [`Error::File`].
pub(super) async fn fingerprints(path: &Path, unit: u64) -> Result<(Fingerprint, Vec<Fingerprint>), Error> {
    let path = path.to_owned();
    let fail = |source, path: &Path| Error::File { path: path.to_owned(), source };
    let reading = tokio::task::spawn_blocking(move || {
        let read = || {
            let mut file = crate::input::open(&path)?;
            let mut buffer = vec![0; 1 << 18];
            let nothing = Fingerprint { size: 0, crc32c: 0 };
            let (mut whole, mut parts) = (nothing, Vec::new());
            let mut part = nothing;
            loop {
                // No read goes beyond the end of a part.
                let most = usize::try_from(unit - part.size).unwrap_or(usize::MAX).min(buffer.len());
                match file.read(&mut buffer[..most]) {
                    Ok(0) => {
                        parts.extend((part.size > 0).then_some(part));
                        return Ok((whole, parts));
                    }
                    Ok(n) => {
                        for sum in [&mut whole, &mut part] {
                            sum.size += n as u64;
                            sum.crc32c = crc32c::crc32c_append(sum.crc32c, &buffer[..n]);
                        }
                        if part.size == unit {
                            parts.push(std::mem::replace(&mut part, nothing));
                        }
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
        };
        read().map_err(|e| fail(e, &path))
    });
    reading.await.unwrap_or_else(|e| Err(fail(io::Error::other(e), Path::new("file"))))
}

/// Where content comes from.
enum Content {
    Bytes(Bytes),
    /// Part of a file, from this offset on.
    File {
        file: Arc<File>,
        path: PathBuf,
        from: u64,
    },
}

impl Content {
    /// A piece of it.
    async fn piece(&self, offset: u64, length: u64) -> Result<Bytes, Error> {
        let (file, path, from) = match self {
            Self::Bytes(bytes) => {
                let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(bytes.len());
                return Ok(bytes.slice(at(offset)..at(offset + length)));
            }
            Self::File { file, path, from } => (file.clone(), path, *from),
        };
        let reading = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
            file.read_exact_at(&mut buffer, from + offset).map(|()| Bytes::from(buffer))
        });
        let read = reading.await.unwrap_or_else(|e| Err(io::Error::other(e)));
        read.map_err(|source| Error::File { path: path.clone(), source })
    }
}

impl Storage {
    /// Stores content and returns the object; the server refuses content that does not arrive intact.
    ///
    /// `acl` is one of the API's predefined access lists.
    ///
    /// # Errors
    /// Any [`Error`]; transient ones have been retried. Status 412: what is there is not what `only_if` says.
    pub async fn insert(
        &self,
        at: &Location,
        content: Bytes,
        attributes: &Attributes,
        acl: Option<&str>,
        only_if: OnlyIf,
    ) -> Result<Object, Error> {
        let fingerprint = Fingerprint::of(&content);
        let url = self.insert_url(at, acl, only_if);
        let description = Description::json(at, attributes, fingerprint);
        let kind = attributes.content_type.as_deref();
        if fingerprint.size <= SHORT {
            return self.insert_at_once(at, &content, &description, kind, &url, fingerprint).await;
        }
        let content = Content::Bytes(content);
        self.insert_in_pieces(at, &content, &description, kind, &url, fingerprint, &mut |_| {}).await
    }

    /// Stores the content of a file whose [`fingerprint`] was taken; `progress` hears how many bytes have arrived.
    ///
    /// # Errors
    /// As [`Storage::insert`]; [`Error::File`].
    #[expect(clippy::too_many_arguments, reason = "what an upload needs")]
    pub async fn insert_file(
        &self,
        at: &Location,
        path: &Path,
        fingerprint: Fingerprint,
        attributes: &Attributes,
        acl: Option<&str>,
        only_if: OnlyIf,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Object, Error> {
        self.insert_region(at, path, 0, fingerprint, attributes, acl, only_if, progress).await
    }

    /// The same with part of a file, from an offset on; its length is that of the fingerprint.
    #[expect(clippy::too_many_arguments, reason = "what an upload needs")]
    pub(super) async fn insert_region(
        &self,
        at: &Location,
        path: &Path,
        from: u64,
        fingerprint: Fingerprint,
        attributes: &Attributes,
        acl: Option<&str>,
        only_if: OnlyIf,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Object, Error> {
        let open = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || crate::input::open(&open)).await;
        let file = opened
            .unwrap_or_else(|e| Err(io::Error::other(e)))
            .map_err(|source| Error::File { path: path.to_owned(), source })?;
        let content = Content::File { file: Arc::new(file), path: path.to_owned(), from };
        let url = self.insert_url(at, acl, only_if);
        let description = Description::json(at, attributes, fingerprint);
        let kind = attributes.content_type.as_deref();
        if fingerprint.size <= SHORT {
            let bytes = content.piece(0, fingerprint.size).await?;
            let object = self.insert_at_once(at, &bytes, &description, kind, &url, fingerprint).await?;
            progress(fingerprint.size);
            return Ok(object);
        }
        self.insert_in_pieces(at, &content, &description, kind, &url, fingerprint, progress).await
    }

    fn insert_url(&self, at: &Location, acl: Option<&str>, only_if: OnlyIf) -> Url {
        let mut url = self.upload_url(&at.bucket);
        only_if.apply(&mut url);
        if let Some(acl) = acl {
            url.query_pairs_mut().append_pair("predefinedAcl", acl);
        }
        url.query_pairs_mut().append_pair("fields", FIELDS);
        url
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one upload, made ready by the two callers above"
    )]
    async fn insert_in_pieces(
        &self,
        at: &Location,
        content: &Content,
        description: &[u8],
        content_type: Option<&str>,
        url: &Url,
        whole: Fingerprint,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Object, Error> {
        let mut budget = self.http().retry().budget();
        let mut url = url.clone();
        url.query_pairs_mut().append_pair("uploadType", "resumable");
        // Whether an earlier try may have stored everything, and how much has arrived at most.
        let (mut doubt, mut best, mut restarts) = (false, 0, 0);
        'session: loop {
            let begun = self.begin(at, description, content_type, &url, whole).await;
            let session = match begun {
                Ok(session) => session,
                Err(e) if doubt && is_conflict(&e) => {
                    let found = self.is_ours(at, whole).await?.ok_or(e)?;
                    progress(whole.size);
                    return Ok(found);
                }
                Err(e) => {
                    budget.again("storage", e).await?;
                    continue;
                }
            };
            let (mut offset, mut length, mut ask) = (0, PIECE, false);
            loop {
                let piece = match ask {
                    true => Bytes::new(),
                    false => content.piece(offset, length.min(whole.size - offset)).await?,
                };
                let sent = piece.len() as u64;
                let error = match self.put(at, &session, piece, offset, whole.size).await {
                    Ok(answer) if answer.status != StatusCode::PERMANENT_REDIRECT => {
                        progress(whole.size);
                        return stored("insert", at, &answer, whole);
                    }
                    Ok(answer) => {
                        let arrived = arrived(&answer.headers);
                        if arrived > whole.size || (!ask && arrived > offset + sent) {
                            let reason = "more has arrived than was sent".into();
                            return Err(Error::Answer { op: "insert", what: at.to_string(), reason });
                        }
                        let stuck = !ask && arrived <= offset;
                        (offset, ask) = (arrived, false);
                        if arrived > best {
                            best = arrived;
                            budget.refill();
                            progress(best);
                        }
                        if !stuck {
                            continue;
                        }
                        let refusal = Box::new(Refusal {
                            status: StatusCode::PERMANENT_REDIRECT.as_u16(),
                            message: Some("nothing of a piece was kept".into()),
                            class: Class::Trouble,
                            ..Refusal::default()
                        });
                        Error::Call(CallError::Refused { call: name("insert", at).into(), refusal })
                    }
                    Err(e) => e,
                };
                match error.status() {
                    Some(StatusCode::NOT_FOUND | StatusCode::GONE) if restarts < RESTARTS => {
                        crate::warning!(
                            "storage",
                            "{}; uploading {at} from the start",
                            crate::text::chain(&error)
                        );
                        restarts += 1;
                        continue 'session;
                    }
                    Some(StatusCode::PRECONDITION_FAILED) if doubt => {
                        let found = self.is_ours(at, whole).await?.ok_or(error)?;
                        progress(whole.size);
                        return Ok(found);
                    }
                    _ => {}
                }
                if matches!(
                    &error,
                    Error::Call(CallError::Transport { source: http::Error::Stalled { .. }, .. })
                ) {
                    length = (length / 2).max(SMALLEST);
                }
                (doubt, ask) = (doubt || error.is_transient(), true);
                budget.again("storage", error).await?;
            }
        }
    }

    /// Begins an upload in pieces and returns where they go; that URL is a secret.
    async fn begin(
        &self,
        at: &Location,
        description: &[u8],
        content_type: Option<&str>,
        url: &Url,
        whole: Fingerprint,
    ) -> Result<Url, Error> {
        let call = self
            .call("insert", &at.to_string(), Method::POST, url.clone())
            .body("application/json; charset=UTF-8", description.to_vec())
            .header(CONTENT_LENGTH_TO_COME, whole.size)
            .limit(MAX_ANSWER)
            .repeat(Repeat::Never);
        let call = match content_type {
            Some(kind) => call.header(CONTENT_TYPE_TO_COME, kind),
            None => call,
        };
        let answer = self.checked(call.send().await).await?;
        let session = answer.headers.get(LOCATION).and_then(|l| l.to_str().ok());
        session.and_then(|l| url.join(l).ok()).ok_or_else(|| Error::Answer {
            op: "insert",
            what: at.to_string(),
            reason: "no place to upload to".into(),
        })
    }

    /// Sends a piece; an empty one asks how much has arrived.
    async fn put(
        &self,
        at: &Location,
        session: &Url,
        piece: Bytes,
        offset: u64,
        total: u64,
    ) -> Result<Answer, Error> {
        let range = match piece.len() as u64 {
            0 => format!("bytes */{total}"),
            length => format!("bytes {offset}-{}/{total}", offset + length - 1),
        };
        let call = self
            .call("insert", &at.to_string(), Method::PUT, session.clone())
            .unsigned()
            .header(CONTENT_LENGTH, piece.len())
            .header(CONTENT_RANGE, range)
            .bytes(piece)
            .accept(StatusCode::PERMANENT_REDIRECT)
            .limit(MAX_ANSWER)
            .data()
            .repeat(Repeat::Never);
        self.checked(call.send().await).await
    }
}

fn is_conflict(error: &Error) -> bool {
    error.status() == Some(StatusCode::PRECONDITION_FAILED)
}

/// How many bytes the server has, by the `Range` of its answer: `bytes=0-N`, or none.
fn arrived(headers: &HeaderMap) -> u64 {
    let range = headers.get(RANGE).and_then(|r| r.to_str().ok());
    let last = range.and_then(|r| r.strip_prefix("bytes=")?.strip_prefix("0-")?.parse::<u64>().ok());
    last.map_or(0, |n| n.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_answers() {
        let of = |text: &str| arrived(&HeaderMap::from_iter([(RANGE, text.parse().unwrap())]));
        assert_eq!(of("bytes=0-262143"), 262_144);
        for nothing in ["", "bytes=5-9", "0-9", "bytes=0-x", "bytes=0--1"] {
            assert_eq!(of(nothing), 0, "{nothing}");
        }
        assert_eq!(of("bytes=0-18446744073709551615"), u64::MAX);
    }

    #[tokio::test]
    async fn files_have_fingerprints() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"123456789").unwrap();
        let found = fingerprint(file.path()).await.unwrap();
        assert_eq!(found, Fingerprint { size: 9, crc32c: 0xe306_9283 });
        assert_eq!(found, Fingerprint::of(b"123456789"));
        let missing = fingerprint(Path::new("/nonexistent/x")).await.unwrap_err();
        assert_eq!(missing.to_string(), "cannot read /nonexistent/x");
        let (whole, parts) = fingerprints(file.path(), 4).await.unwrap();
        assert_eq!(whole, found);
        assert_eq!(parts, [Fingerprint::of(b"1234"), Fingerprint::of(b"5678"), Fingerprint::of(b"9")]);
    }
}
