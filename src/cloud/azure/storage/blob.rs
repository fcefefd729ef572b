//! One page blob, call by call.

use std::ops::Range;

use hyper::body::Bytes;
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderName, IF_NONE_MATCH};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;

use super::extents::Extents;
use super::header as h;
use super::metadata::FileMetadata;
use super::{Result, Storage};
use crate::cloud::azure::xml;
use crate::http::{Answer, CallError};

/// What a blob of a disk is.
const KIND: &str = "application/octet-stream";

/// The longest list of ranges that is believed, in bytes.
const MAX_LIST: u64 = 64 << 20;

/// A page blob, which may be there or not.
#[derive(Clone, Debug)]
pub struct PageBlob {
    pub(super) storage: Storage,
    pub(super) container: String,
    pub(super) name: String,
    url: Url,
}

/// What there is under a blob's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Its type is the right one.
    pub is_page_blob: bool,
    /// Its length in bytes.
    pub size: u64,
    /// MD5 of the whole content in base64; only finished blobs have it.
    pub md5: Option<String>,
    /// The number that changes when it is made anew.
    pub sequence: u64,
    /// What it is made from.
    pub file: Option<FileMetadata>,
}

/// The answer to Get Page Ranges.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct PageList {
    page_range: Vec<PageRange>,
    next_marker: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PageRange {
    start: u64,
    /// The last byte.
    end: u64,
}

impl PageBlob {
    pub(super) fn new(storage: Storage, container: &str, name: &str) -> Result<Self> {
        let url = storage.at(container, Some(name))?;
        Ok(Self { storage, container: container.into(), name: name.into(), url })
    }

    /// Its address, without any signature.
    pub fn url(&self) -> &Url {
        &self.url
    }

    fn with(&self, query: &str) -> Url {
        let mut url = self.url.clone();
        url.set_query(Some(query));
        url
    }

    /// Whether an upload of it was finished; `None`: there is nothing of this name.
    ///
    /// # Errors
    /// Those of a call.
    pub async fn is_finished(&self) -> Result<Option<bool>> {
        Ok(self.properties().await?.map(|p| p.is_page_blob && p.md5.is_some()))
    }

    /// What there is; `None`: nothing.
    pub(super) async fn properties(&self) -> Result<Option<Properties>> {
        let call = self.storage.call("Get Blob Properties", Method::HEAD, self.url.clone());
        let Answer { status, headers, .. } = call.accept(StatusCode::NOT_FOUND).send().await?;
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let text = |name: HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
        let number = |name: HeaderName| text(name).and_then(|t| t.parse().ok());
        Ok(Some(Properties {
            is_page_blob: text(h::BLOB_TYPE) == Some("PageBlob"),
            size: number(CONTENT_LENGTH).unwrap_or_default(),
            md5: text(h::CONTENT_MD5).map(str::to_owned),
            sequence: number(h::SEQUENCE).unwrap_or_default(),
            file: text(h::DISK_METADATA).and_then(FileMetadata::of_header),
        }))
    }

    /// Makes it, with zeros for content; replaces one that is there only if told to.
    pub(super) async fn create(
        &self,
        size: u64,
        sequence: u64,
        file: &FileMetadata,
        replace: bool,
    ) -> Result<()> {
        // The metadata come with it: a blob without them could not be gone on with.
        let call = self.storage.call("Put Blob", Method::PUT, self.url.clone());
        let call = call
            .header(h::BLOB_TYPE, "PageBlob")
            .header(h::BLOB_LENGTH, size.to_string())
            .header(h::BLOB_KIND, KIND)
            .header(h::SEQUENCE, sequence.to_string())
            .header(h::DISK_METADATA, file.to_header());
        let call = if replace { call } else { call.header(IF_NONE_MATCH, "*") };
        call.send().await.map(drop)
    }

    /// Writes some pages.
    pub(super) async fn put(&self, start: u64, bytes: Bytes, md5: &[u8], sequence: u64) -> Result<()> {
        const NAME: &str = "Put Page";
        let sum = openssl::base64::encode_block(md5);
        let range = start..start + bytes.len() as u64;
        let call = self.storage.call(NAME, Method::PUT, self.with("comp=page")).data().bytes(bytes);
        let call = call
            .header(h::PAGE_WRITE, "update")
            .header(h::RANGE, range_header(&range))
            .header(h::CONTENT_MD5, &sum)
            .header(h::IF_SEQUENCE, sequence.to_string());
        let answer = call.send().await?;
        match text_of(&answer.headers, &h::CONTENT_MD5) {
            Some(theirs) if theirs != sum => {
                Err(CallError::answer(NAME, "what arrived has another MD5 than what was sent"))
            }
            _ => Ok(()),
        }
    }

    /// Makes some pages zeros again.
    pub(super) async fn clear(&self, range: &Range<u64>, sequence: u64) -> Result<()> {
        let call = self.storage.call("Put Page (clear)", Method::PUT, self.with("comp=page"));
        let call = call
            .header(h::PAGE_WRITE, "clear")
            .header(h::RANGE, range_header(range))
            .header(h::IF_SEQUENCE, sequence.to_string());
        call.send().await.map(drop)
    }

    /// The pages that were written, and not cleared since.
    pub(super) async fn ranges(&self) -> Result<Extents> {
        const NAME: &str = "Get Page Ranges";
        let (mut ranges, mut marker) = (Vec::new(), None::<String>);
        loop {
            let mut url = self.with("comp=pagelist");
            if let Some(marker) = &marker {
                url.query_pairs_mut().append_pair("marker", marker);
            }
            let answer = self.storage.call(NAME, Method::GET, url).limit(MAX_LIST).send().await?;
            let page: PageList = xml::answer(NAME, &answer.body)?;
            let odd = page.page_range.iter().any(|r| r.end < r.start || r.end == u64::MAX);
            if odd {
                return Err(CallError::answer(NAME, "a range ends before it begins"));
            }
            ranges.extend(page.page_range.into_iter().map(|r| r.start..r.end + 1));
            match page.next_marker.filter(|m| !m.is_empty()) {
                Some(next) if marker.as_ref() == Some(&next) => {
                    return Err(CallError::answer(NAME, "the same page again"));
                }
                None => return Ok(Extents::of(ranges)),
                next => marker = next,
            }
        }
    }

    /// Marks it as finished, with the MD5 of its content.
    pub(super) async fn seal(&self, md5: &[u8]) -> Result<()> {
        let call = self.storage.call("Set Blob Properties", Method::PUT, self.with("comp=properties"));
        // What is not named is lost.
        let call = call.header(h::BLOB_MD5, openssl::base64::encode_block(md5)).header(h::BLOB_KIND, KIND);
        call.send().await.map(drop)
    }

    /// Its content, up to so many bytes.
    ///
    /// # Errors
    /// Those of a call; of class [`crate::http::Class::NotFound`] when it is not there.
    pub async fn read(&self, limit: u64) -> Result<Vec<u8>> {
        let call = self.storage.call("Get Blob", Method::GET, self.url.clone()).limit(limit).data();
        Ok(call.send().await?.body)
    }

    /// Removes it; whether it was there.
    ///
    /// # Errors
    /// Those of a call.
    pub async fn delete(&self) -> Result<bool> {
        let call = self.storage.call("Delete Blob", Method::DELETE, self.url.clone());
        Ok(call.accept(StatusCode::NOT_FOUND).send().await?.status != StatusCode::NOT_FOUND)
    }
}

fn range_header(range: &Range<u64>) -> String {
    format!("bytes={}-{}", range.start, range.end - 1)
}

fn text_of<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}
