//! Long files: uploaded in parts side by side, which the server then puts together
//! (<https://cloud.google.com/storage/docs/composite-objects>).
//!
//! Parts lie beside the object and say in their metadata what they are, so that a second upload of the same file goes
//! on with those that are there, and takes away what older uploads have left.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use futures_util::future::join_all;
use futures_util::stream::{StreamExt as _, TryStreamExt as _, iter};
use reqwest::Method;
use reqwest::StatusCode;
use serde_json::json;

use super::object::FIELDS;
use super::upload::{Fingerprint, fingerprints};
use super::write::{Changed, stored};
use super::{Attributes, Error, Location, Object, OnlyIf, Storage};
use crate::cloud::google::MARK;

/// Files up to this length are uploaded as a whole, in bytes.
const LONG: u64 = 32 << 20;

/// The server puts together no more parts at once.
const PARTS: u64 = 32;

/// Parts have whole multiples of this, in bytes.
const UNIT: u64 = 8 << 20;

/// Parts under way at once: more is only more memory.
const AT_ONCE: usize = 4;

/// What names of parts have after the object's.
const SUFFIX: &str = ".mantle-part-";

/// A part of a file.
struct Part {
    at: Location,
    offset: u64,
    fingerprint: Fingerprint,
}

/// What came of an upload.
#[derive(Debug)]
pub struct Stored {
    /// The object.
    pub object: Object,
    /// Parts that could not be removed.
    pub left: Vec<(Location, Error)>,
}

impl Storage {
    /// Stores the content of a file, in parts where it is long; `progress` hears how many of how many bytes have
    /// arrived. What an earlier upload of the same file has left is gone on with.
    ///
    /// # Errors
    /// As [`Storage::insert_file`].
    pub async fn store_file(
        &self,
        at: &Location,
        path: &Path,
        attributes: &Attributes,
        acl: Option<&str>,
        only_if: OnlyIf,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<Stored, Error> {
        let length = tokio::fs::metadata(path).await;
        let length = length.map_err(|source| Error::File { path: path.to_owned(), source })?.len();
        let unit = length.div_ceil(PARTS).next_multiple_of(UNIT).max(UNIT);
        let (whole, pieces) = fingerprints(path, unit).await?;
        let total = whole.size;
        if total <= LONG || pieces.len() < 2 {
            let mut tell = |done| progress(done, total);
            let object = self.insert_file(at, path, whole, attributes, acl, only_if, &mut tell).await?;
            return Ok(Stored { object, left: self.remove_parts(at).await? });
        }
        let part = |(n, fingerprint): (usize, &Fingerprint)| Part {
            at: at.at(format!("{}{SUFFIX}{:08x}-{n:02}", at.name, whole.crc32c)),
            offset: n as u64 * unit,
            fingerprint: *fingerprint,
        };
        let parts: Vec<Part> = pieces.iter().enumerate().map(part).collect();
        let told = Mutex::new((vec![0; parts.len()], progress));
        let tell = |n: usize, done: u64| {
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            let (arrived, progress) = &mut *told;
            arrived[n] = done;
            progress(arrived.iter().sum(), total);
        };
        let uploads = parts.iter().enumerate().map(|(n, part)| {
            let tell = &tell;
            async move { self.store_part(path, part, &mut |done| tell(n, done)).await }
        });
        let made: Vec<Object> = iter(uploads).buffered(AT_ONCE).try_collect().await?;
        let object = self.compose(at, &parts, &made, whole, attributes, acl, only_if).await?;
        Ok(Stored { object, left: self.remove_parts(at).await? })
    }

    /// Uploads a part, unless it is there.
    async fn store_part(
        &self,
        path: &Path,
        part: &Part,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Object, Error> {
        if let Some(object) = self.is_ours(&part.at, part.fingerprint).await? {
            progress(part.fingerprint.size);
            return Ok(object);
        }
        let metadata = BTreeMap::from([(MARK.0.to_owned(), MARK.1.to_owned())]);
        let attributes = Attributes { metadata: Some(metadata), ..Attributes::default() };
        let Part { at, offset, fingerprint } = part;
        self.insert_region(at, path, *offset, *fingerprint, &attributes, None, OnlyIf::Any, progress).await
    }

    /// Has the server put parts together.
    #[expect(clippy::too_many_arguments, reason = "what an object is made of")]
    async fn compose(
        &self,
        at: &Location,
        parts: &[Part],
        made: &[Object],
        whole: Fingerprint,
        attributes: &Attributes,
        acl: Option<&str>,
        only_if: OnlyIf,
    ) -> Result<Object, Error> {
        let mut url = self.checked_url(at, &["b", &at.bucket, "o", &at.name, "compose"])?;
        only_if.apply(&mut url);
        if let Some(acl) = acl {
            url.query_pairs_mut().append_pair("destinationPredefinedAcl", acl);
        }
        url.query_pairs_mut().append_pair("fields", FIELDS);
        let source = |(part, object): (&Part, &Object)| {
            let generation = object.generation.to_string();
            json!({"name": part.at.name, "generation": generation})
        };
        let sources: Vec<_> = parts.iter().zip(made).map(source).collect();
        let body = json!({"sourceObjects": sources, "destination": attributes});
        let call = self.call("compose", &at.to_string(), Method::POST, url).json(&body);
        let ours = self.is_ours(at, whole);
        match self.change(call, ours).await? {
            Changed::Answer(answer) => stored("compose", at, &answer, whole),
            Changed::Before(object) => Ok(object),
        }
    }

    /// Removes the parts of this upload and of older ones: what has such a name and our mark.
    async fn remove_parts(&self, at: &Location) -> Result<Vec<(Location, Error)>, Error> {
        let prefix = at.at(format!("{}{SUFFIX}", at.name));
        let (page, _) = self.list(&prefix, true).await?;
        let is_ours = |o: &Object| {
            let mark = o.metadata.as_ref().and_then(|m| m.get(MARK.0));
            mark.is_some_and(|v| v == MARK.1)
        };
        let removals = page.into_iter().filter(is_ours).map(|object| {
            let part = at.at(&object.name);
            async move {
                let removed = self.delete(&part, (object.generation, object.metageneration)).await;
                removed.err().map(|e| (part, e))
            }
        });
        let failed = join_all(removals).await.into_iter().flatten();
        // Somebody else has replaced it: it is not the one that was made here.
        Ok(failed.filter(|(_, e)| e.status() != Some(StatusCode::PRECONDITION_FAILED)).collect())
    }
}
