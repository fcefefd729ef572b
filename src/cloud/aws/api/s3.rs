//! S3: buckets and objects, the latter also in parts.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use hyper::body::Bytes;
use rusoto_core::{ByteStream, RusotoError};
use rusoto_s3::{
    AbortMultipartUploadRequest, CompleteMultipartUploadRequest, CompletedMultipartUpload, CompletedPart,
    CreateBucketConfiguration, CreateBucketRequest, CreateMultipartUploadRequest, DeleteObjectRequest,
    GetObjectRequest, HeadObjectRequest, ListMultipartUploadsRequest, ListObjectsV2Request, ListPartsRequest,
    PutObjectRequest, S3 as _, S3Client, UploadPartRequest,
};

use super::super::endpoints::Service;
use super::types::DIGEST;
use super::{Api, ObjectHead, Repeat, Result, required};

/// The region whose buckets must not name their location.
const FIRST_REGION: &str = "us-east-1";

/// What is written down with an object.
fn metadata(sha256: &str) -> Option<HashMap<String, String>> {
    Some(HashMap::from([(DIGEST.to_owned(), sha256.to_owned())]))
}

/// An object as listings have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub key: String,
    /// Length, in bytes.
    pub size: u64,
    /// When it was stored.
    pub time: Option<DateTime<Utc>>,
}

/// A body in one piece.
fn stream(bytes: Bytes) -> ByteStream {
    let size = bytes.len();
    ByteStream::new_with_size(futures_util::stream::once(std::future::ready(Ok(bytes))), size)
}

impl Api {
    async fn s3<T, E, F>(&self, call: &'static str, once: impl Fn(S3Client) -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, RusotoError<E>>>,
    {
        let once = |client, region| once(S3Client::new_with_client(client, region));
        self.call(Service::S3, call, Repeat::Freely, once).await
    }

    /// Makes a bucket in this region.
    ///
    /// # Errors
    /// Any [`super::Error`]; `BucketAlreadyOwnedByYou` when it is there.
    pub async fn create_bucket(&self, bucket: &str) -> Result<()> {
        let place = Some(self.region().to_owned()).filter(|r| r != FIRST_REGION);
        let once = |c: S3Client| {
            let request = CreateBucketRequest {
                bucket: bucket.to_owned(),
                create_bucket_configuration: place
                    .clone()
                    .map(|p| CreateBucketConfiguration { location_constraint: Some(p) }),
                ..Default::default()
            };
            async move { c.create_bucket(request).await }
        };
        self.s3("CreateBucket", once).await?;
        Ok(())
    }

    /// Size and hash of an object; `None` when it does not exist.
    ///
    /// # Errors
    /// Any [`super::Error`] but that.
    pub async fn head_object(&self, bucket: &str, key: &str) -> Result<Option<ObjectHead>> {
        let call = "HeadObject";
        let once = |c: S3Client| {
            let request =
                HeadObjectRequest { bucket: bucket.to_owned(), key: key.to_owned(), ..Default::default() };
            async move { c.head_object(request).await }
        };
        match self.s3(call, once).await {
            Ok(head) => Ok(Some(ObjectHead {
                size: required(call, "size", head.content_length.and_then(|l| l.try_into().ok()))?,
                etag: head.e_tag.unwrap_or_default(),
                sha256: head.metadata.and_then(|mut m| m.remove(DIGEST)),
            })),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A piece of an object, from an offset on, with the tag of the object that it is of; less than `length` bytes at
    /// its end.
    ///
    /// # Errors
    /// Any [`super::Error`]; `PreconditionFailed` when the object has not the tag `etag`.
    pub async fn get_range(
        &self,
        bucket: &str,
        key: &str,
        etag: Option<&str>,
        offset: u64,
        length: u64,
    ) -> Result<(Vec<u8>, String)> {
        let call = "GetObject";
        let once = |c: S3Client| {
            let request = GetObjectRequest {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
                range: Some(format!("bytes={offset}-{}", offset + length.max(1) - 1)),
                if_match: etag.map(str::to_owned),
                ..Default::default()
            };
            async move { c.get_object(request).await }
        };
        let answer = self.s3(call, once).await?;
        let tag = answer.e_tag.unwrap_or_default();
        let body = required(call, "body", answer.body)?;
        // It is in memory already.
        let pieces = body.map_ok(|piece| piece.to_vec()).try_concat().await;
        Ok((pieces.map_err(|e| super::Error::answer(call, e.to_string()))?, tag))
    }

    /// The objects that lie directly in a folder, and the folders in it: names that begin with `prefix`, with the times
    /// at which they were stored, and with a slash at the end.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn list_folder(&self, bucket: &str, prefix: &str) -> Result<(Vec<Listed>, Vec<String>)> {
        let (mut objects, mut folders, mut token) = (Vec::new(), Vec::new(), None::<String>);
        loop {
            let once = |c: S3Client| {
                let request = ListObjectsV2Request {
                    bucket: bucket.to_owned(),
                    prefix: Some(prefix.to_owned()),
                    delimiter: Some("/".to_owned()),
                    continuation_token: token.clone(),
                    ..Default::default()
                };
                async move { c.list_objects_v2(request).await }
            };
            let page = self.s3("ListObjectsV2", once).await?;
            objects.extend(page.contents.unwrap_or_default().into_iter().filter_map(|object| {
                let time = object.last_modified.and_then(|t| DateTime::parse_from_rfc3339(&t).ok());
                Some(Listed {
                    key: object.key?,
                    size: u64::try_from(object.size?).ok()?,
                    time: time.map(|t| t.to_utc()),
                })
            }));
            folders.extend(page.common_prefixes.unwrap_or_default().into_iter().filter_map(|p| p.prefix));
            match (page.is_truncated, page.next_continuation_token) {
                (Some(true), Some(next)) if token.as_ref() != Some(&next) => token = Some(next),
                _ => return Ok((objects, folders)),
            }
        }
    }

    /// Stores a small object, with the SHA-256 of its content.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn put_object(&self, bucket: &str, key: &str, content: Bytes, sha256: &str) -> Result<()> {
        let once = |c: S3Client| {
            let request = PutObjectRequest {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
                body: Some(stream(content.clone())),
                metadata: metadata(sha256),
                ..Default::default()
            };
            async move { c.put_object(request).await }
        };
        self.s3("PutObject", once).await?;
        Ok(())
    }

    /// Begins an object in parts, with the SHA-256 of the whole; returns the upload's id.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn create_multipart(&self, bucket: &str, key: &str, sha256: &str) -> Result<String> {
        let call = "CreateMultipartUpload";
        let once = |client, region| {
            let c = S3Client::new_with_client(client, region);
            let request = CreateMultipartUploadRequest {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
                metadata: metadata(sha256),
                ..Default::default()
            };
            async move { c.create_multipart_upload(request).await }
        };
        required(call, "UploadId", self.call(Service::S3, call, Repeat::IfNotExecuted, once).await?.upload_id)
    }

    /// Stores one part, numbered from 1; returns its ETag.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn upload_part(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
        number: i64,
        content: Bytes,
    ) -> Result<String> {
        let call = "UploadPart";
        let once = |c: S3Client| {
            let request = UploadPartRequest {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
                upload_id: upload.to_owned(),
                part_number: number,
                body: Some(stream(content.clone())),
                ..Default::default()
            };
            async move { c.upload_part(request).await }
        };
        required(call, "ETag", self.s3(call, once).await?.e_tag)
    }

    /// The parts that are there: number, ETag, size in bytes.
    ///
    /// # Errors
    /// Any [`super::Error`]; `NoSuchUpload` when the upload is gone.
    pub async fn list_parts(&self, bucket: &str, key: &str, upload: &str) -> Result<Vec<(i64, String, u64)>> {
        let (mut parts, mut marker) = (Vec::new(), None);
        loop {
            let once = |c: S3Client| {
                let request = ListPartsRequest {
                    bucket: bucket.to_owned(),
                    key: key.to_owned(),
                    upload_id: upload.to_owned(),
                    part_number_marker: marker,
                    ..Default::default()
                };
                async move { c.list_parts(request).await }
            };
            let page = self.s3("ListParts", once).await?;
            parts.extend(
                page.parts
                    .unwrap_or_default()
                    .into_iter()
                    .filter_map(|p| Some((p.part_number?, p.e_tag?, u64::try_from(p.size?).ok()?))),
            );
            match (page.is_truncated, page.next_part_number_marker) {
                (Some(true), Some(next)) if Some(next) != marker => marker = Some(next),
                _ => return Ok(parts),
            }
        }
    }

    /// The unfinished uploads of keys with this prefix: key, upload's id.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn multiparts(&self, bucket: &str, prefix: &str) -> Result<Vec<(String, String)>> {
        let (mut uploads, mut marker) = (Vec::new(), (None, None));
        loop {
            let once = |c: S3Client| {
                let request = ListMultipartUploadsRequest {
                    bucket: bucket.to_owned(),
                    prefix: Some(prefix.to_owned()),
                    key_marker: marker.0.clone(),
                    upload_id_marker: marker.1.clone(),
                    ..Default::default()
                };
                async move { c.list_multipart_uploads(request).await }
            };
            let page = self.s3("ListMultipartUploads", once).await?;
            let page_uploads = page.uploads.unwrap_or_default();
            uploads.extend(page_uploads.into_iter().filter_map(|u| Some((u.key?, u.upload_id?))));
            let next = (page.next_key_marker, page.next_upload_id_marker);
            match page.is_truncated {
                Some(true) if next.0.is_some() && next != marker => marker = next,
                _ => return Ok(uploads),
            }
        }
    }

    /// Makes the object of its parts: number and ETag, in order.
    ///
    /// # Errors
    /// Any [`super::Error`], also one that comes in an answer of status 200. After a lost answer the upload may be
    /// gone (`NoSuchUpload`) because the object is complete.
    pub async fn complete_multipart(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
        parts: &[(i64, String)],
    ) -> Result<()> {
        let once = |c: S3Client| {
            let part = |(number, etag): &(i64, String)| CompletedPart {
                part_number: Some(*number),
                e_tag: Some(etag.clone()),
            };
            let request = CompleteMultipartUploadRequest {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
                upload_id: upload.to_owned(),
                multipart_upload: Some(CompletedMultipartUpload {
                    parts: Some(parts.iter().map(part).collect()),
                }),
                ..Default::default()
            };
            async move { c.complete_multipart_upload(request).await }
        };
        self.s3("CompleteMultipartUpload", once).await?;
        Ok(())
    }

    /// Gives up an upload; one that is gone is no error.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn abort_multipart(&self, bucket: &str, key: &str, upload: &str) -> Result<()> {
        let once = |c: S3Client| {
            let request = AbortMultipartUploadRequest {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
                upload_id: upload.to_owned(),
                ..Default::default()
            };
            async move { c.abort_multipart_upload(request).await }
        };
        match self.s3("AbortMultipartUpload", once).await {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(()),
        }
    }

    /// Deletes an object; one that is gone is no error.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn delete_object(&self, bucket: &str, key: &str) -> Result<()> {
        let once = |c: S3Client| {
            let request =
                DeleteObjectRequest { bucket: bucket.to_owned(), key: key.to_owned(), ..Default::default() };
            async move { c.delete_object(request).await }
        };
        match self.s3("DeleteObject", once).await {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(()),
        }
    }
}
