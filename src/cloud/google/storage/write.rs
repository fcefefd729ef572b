//! Changing objects: new content in one request, copies, attributes, deletion.

use std::sync::atomic::{AtomicBool, Ordering};

use hyper::body::Bytes;
use reqwest::{Method, StatusCode, Url};
use serde::{Deserialize, Serialize};

use super::object::{FIELDS, number};
use super::{Attributes, Door, Error, Fingerprint, Location, Object, Storage};
use crate::http::{Answer, Call};

/// Descriptions are much shorter.
pub(super) const MAX_ANSWER: u64 = 1 << 20;

/// A copy that makes no headway for so many calls is given up.
const IDLE_REWRITES: u32 = 20;

/// Which version of an object may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnlyIf {
    /// Whatever is there.
    Any,
    /// There must be none.
    Absent,
    /// This generation must be there.
    Generation(u64),
}

impl OnlyIf {
    pub(super) fn apply(self, url: &mut Url) {
        let generation = match self {
            Self::Any => return,
            Self::Absent => 0,
            Self::Generation(generation) => generation,
        };
        url.query_pairs_mut().append_pair("ifGenerationMatch", &generation.to_string());
    }
}

/// An object to be copied without its content passing through here.
#[derive(Clone, Copy, Debug)]
pub struct Rewrite<'a> {
    /// The object to be copied.
    pub source: &'a Location,
    /// Its generation; another one is not copied.
    pub generation: u64,
    /// What its content is; `None` if the server does not say.
    pub fingerprint: Option<Fingerprint>,
    /// The attributes that the copy gets.
    pub attributes: &'a Attributes,
    /// Where the copy goes.
    pub destination: &'a Location,
    /// What must be there.
    pub only_if: OnlyIf,
}

/// The body of an upload's description.
#[derive(Serialize)]
pub(super) struct Description<'a> {
    name: &'a str,
    crc32c: String,
    #[serde(flatten)]
    attributes: &'a Attributes,
}

impl<'a> Description<'a> {
    pub(super) fn json(at: &'a Location, attributes: &'a Attributes, fingerprint: Fingerprint) -> Vec<u8> {
        let crc32c = super::format_crc32c(fingerprint.crc32c);
        let description = Self { name: &at.name, crc32c, attributes };
        serde_json::to_vec(&description).expect("a structure of strings is valid JSON")
    }
}

impl Storage {
    /// Stores short content in one request; the server refuses it unless it arrives intact.
    pub(super) async fn insert_at_once(
        &self,
        at: &Location,
        content: &Bytes,
        description: &[u8],
        content_type: Option<&str>,
        url: &Url,
        fingerprint: Fingerprint,
    ) -> Result<Object, Error> {
        let mut random = [0; 16];
        // Without random numbers the boundary is merely easier to guess, and the checksum tells.
        let _ = openssl::rand::rand_bytes(&mut random);
        let boundary = format!("mantle-{:032x}", u128::from_ne_bytes(random));
        let mut body = Vec::with_capacity(content.len() + description.len() + 300);
        let typed = content_type.filter(|t| t.bytes().all(|b| (b' '..=b'~').contains(&b)));
        let typed = typed.unwrap_or("application/octet-stream");
        body.extend_from_slice(
            format!("--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n").as_bytes(),
        );
        body.extend_from_slice(description);
        body.extend_from_slice(format!("\r\n--{boundary}\r\nContent-Type: {typed}\r\n\r\n").as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        let kind = format!("multipart/related; boundary={boundary}");
        let mut url = url.clone();
        url.query_pairs_mut().append_pair("uploadType", "multipart");
        let call = self.call("insert", &at.to_string(), Method::POST, url).body(&kind, body);
        let changed = self.change(call, self.is_ours(at, fingerprint)).await?;
        match changed {
            Changed::Answer(answer) => stored("insert", at, &answer, fingerprint),
            Changed::Before(object) => Ok(object),
        }
    }

    /// Copies an object on the server's side and returns the copy.
    ///
    /// # Errors
    /// Any [`Error`]; transient ones have been retried. Status 412: source or destination are not what they were.
    pub async fn rewrite(&self, copy: &Rewrite<'_>) -> Result<Object, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Progress {
            done: bool,
            rewrite_token: Option<String>,
            #[serde(default, deserialize_with = "number")]
            total_bytes_rewritten: u64,
            resource: Option<Object>,
        }
        let (from, to) = (copy.source, copy.destination);
        let body = serde_json::to_vec(copy.attributes).expect("a structure of strings is valid JSON");
        let path = ["b", &from.bucket, "o", &from.name, "rewriteTo", "b", &to.bucket, "o", &to.name];
        self.object_url(from)?;
        let mut base = self.checked_url(to, &path)?;
        copy.only_if.apply(&mut base);
        base.query_pairs_mut()
            .append_pair("ifSourceGenerationMatch", &copy.generation.to_string())
            .append_pair("fields", &format!("done,rewriteToken,totalBytesRewritten,resource({FIELDS})"));
        let mut token = None::<String>;
        let (mut copied, mut idle) = (0, 0);
        let answered =
            |reason: &str| Error::Answer { op: "rewrite", what: to.to_string(), reason: reason.into() };
        loop {
            let mut url = base.clone();
            if let Some(token) = &token {
                url.query_pairs_mut().append_pair("rewriteToken", token);
            }
            let call = self.call("rewrite", &to.to_string(), Method::POST, url);
            let call = call.body("application/json", body.clone());
            let ours = async {
                match copy.fingerprint {
                    Some(fingerprint) => self.is_ours(to, fingerprint).await,
                    None => Ok(None),
                }
            };
            let answer = match self.change(call, ours).await? {
                Changed::Answer(answer) => answer,
                Changed::Before(object) => return Ok(object),
            };
            let progress: Progress =
                serde_json::from_slice(&answer.body).map_err(|e| answered(&e.to_string()))?;
            if progress.done {
                let object = progress.resource.ok_or_else(|| answered("done, but no object"))?;
                if copy.fingerprint.is_some_and(|f| !f.fits(&object)) {
                    return Err(answered("the copy differs from the original"));
                }
                return Ok(object);
            }
            idle = if progress.total_bytes_rewritten > copied { 0 } else { idle + 1 };
            copied = copied.max(progress.total_bytes_rewritten);
            token = Some(progress.rewrite_token.ok_or_else(|| answered("not done, but no token"))?);
            if idle >= IDLE_REWRITES {
                return Err(answered("the copy makes no headway"));
            }
        }
    }

    /// Changes the attributes of an object, given those that it has, and returns it.
    ///
    /// # Errors
    /// Any [`Error`]; transient ones have been retried. Status 412: the object is not what it was.
    pub async fn patch(
        &self,
        at: &Location,
        (generation, metageneration): (u64, u64),
        from: &Attributes,
        to: &Attributes,
    ) -> Result<Object, Error> {
        let mut url = self.object_url(at)?;
        OnlyIf::Generation(generation).apply(&mut url);
        url.query_pairs_mut()
            .append_pair("ifMetagenerationMatch", &metageneration.to_string())
            .append_pair("fields", FIELDS);
        let body = difference(from, to);
        let call = self.call("patch", &at.to_string(), Method::PATCH, url).body("application/json", body);
        let ours = async {
            let object = self.get(at).await?;
            Ok((object.generation == generation && object.attributes() == *to).then_some(object))
        };
        match self.change(call, ours).await? {
            Changed::Answer(answer) => described("patch", at, &answer),
            Changed::Before(object) => Ok(object),
        }
    }

    /// Deletes one version of an object. That there is none any more is no error.
    ///
    /// # Errors
    /// Any [`Error`]; transient ones have been retried. Status 412: the object is not what it was.
    pub async fn delete(&self, at: &Location, (generation, metageneration): (u64, u64)) -> Result<(), Error> {
        let mut url = self.object_url(at)?;
        OnlyIf::Generation(generation).apply(&mut url);
        url.query_pairs_mut().append_pair("ifMetagenerationMatch", &metageneration.to_string());
        let call = self.call("delete", &at.to_string(), Method::DELETE, url);
        match self.change(call, std::future::ready(Ok(None))).await {
            Err(e) if e.status() != Some(StatusCode::NOT_FOUND) => Err(e),
            _ => Ok(()),
        }
    }

    /// A change, tried until it succeeds. A refusal because the object is no longer what it was may come from an
    /// earlier try whose answer was lost: `ours` then looks whether what is there is what was to be.
    pub(super) async fn change(
        &self,
        call: Call<'_, Door>,
        ours: impl Future<Output = Result<Option<Object>, Error>>,
    ) -> Result<Changed, Error> {
        let doubt = AtomicBool::new(false);
        match self.checked(call.limit(MAX_ANSWER).data().doubt(&doubt).send().await).await {
            Err(e)
                if e.status() == Some(StatusCode::PRECONDITION_FAILED) && doubt.load(Ordering::Relaxed) =>
            {
                ours.await?.map(Changed::Before).ok_or(e)
            }
            outcome => outcome.map(Changed::Answer),
        }
    }

    /// The object, if its content is this.
    pub(super) async fn is_ours(
        &self,
        at: &Location,
        fingerprint: Fingerprint,
    ) -> Result<Option<Object>, Error> {
        match self.get(at).await {
            Ok(object) => Ok(fingerprint.fits(&object).then_some(object)),
            Err(e) if e.status() == Some(StatusCode::NOT_FOUND) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// How a change came about.
pub(super) enum Changed {
    /// By the try that this is the answer to.
    Answer(Answer),
    /// By an earlier try; this is the object as it was found.
    Before(Object),
}

/// The object of an answer.
pub(super) fn described(op: &'static str, at: &Location, answer: &Answer) -> Result<Object, Error> {
    serde_json::from_slice(&answer.body).map_err(|e| Error::Answer {
        op,
        what: at.to_string(),
        reason: e.to_string(),
    })
}

/// The object of an answer, if its content is what was sent: not every server checks that.
pub(super) fn stored(
    op: &'static str,
    at: &Location,
    answer: &Answer,
    fingerprint: Fingerprint,
) -> Result<Object, Error> {
    let object = described(op, at, answer)?;
    if fingerprint.fits(&object) {
        return Ok(object);
    }
    let reason = "what is stored differs from what was sent".into();
    Err(Error::Answer { op, what: at.to_string(), reason })
}

/// A merge patch (RFC 7396) that turns one set of attributes into another.
fn difference(from: &Attributes, to: &Attributes) -> String {
    use serde_json::Value;
    let object = |attributes| match serde_json::to_value(attributes) {
        Ok(Value::Object(map)) => map,
        _ => serde_json::Map::new(), // cannot be: a structure of strings is an object
    };
    let (old, mut new) = (object(from), object(to));
    for (key, value) in old {
        if let (Value::Object(old), Value::Object(new)) = (value, new.entry(key).or_insert(Value::Null)) {
            for (key, _) in old {
                new.entry(key).or_insert(Value::Null);
            }
        }
    }
    Value::Object(new).to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn patches_name_what_goes() {
        let attributes = |kind: Option<&str>, own: &[(&str, &str)]| Attributes {
            content_type: kind.map(String::from),
            metadata: Some(own.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect::<BTreeMap<_, _>>()),
            ..Attributes::default()
        };
        let (from, to) =
            (attributes(Some("a/b"), &[("x", "1"), ("y", "2")]), attributes(None, &[("x", "3")]));
        assert_eq!(difference(&from, &to), r#"{"metadata":{"x":"3","y":null},"contentType":null}"#);
        assert_eq!(difference(&to, &Attributes::default()), r#"{"metadata":null}"#);
    }
}
