//! The EBS direct APIs: snapshots written block by block.

use hyper::body::Bytes;
use rusoto_core::RusotoError;
use rusoto_ebs::{
    CompleteSnapshotRequest, Ebs as _, EbsClient, PutSnapshotBlockRequest, StartSnapshotRequest, Tag,
};

use super::super::endpoints::Service;
use super::{Api, Repeat, Result, required};

/// Size of a block in bytes.
pub const BLOCK: usize = 512 << 10;

impl Api {
    async fn ebs<T, E, F>(&self, call: &'static str, once: impl Fn(EbsClient) -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, RusotoError<E>>>,
    {
        let once = |client, region| once(EbsClient::new_with_client(client, region));
        self.call(Service::Ebs, call, Repeat::Freely, once).await
    }

    /// Begins an empty snapshot; returns its id. Orders with the same token begin one between them.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn start_snapshot(
        &self,
        size_gib: i64,
        description: &str,
        tags: &[(String, String)],
        client_token: &str,
    ) -> Result<String> {
        let call = "StartSnapshot";
        let tags: Vec<Tag> = tags
            .iter()
            .map(|(key, value)| Tag { key: Some(key.clone()), value: Some(value.clone()) })
            .collect();
        let once = |c: EbsClient| {
            let request = StartSnapshotRequest {
                volume_size: size_gib,
                description: Some(description.to_owned()).filter(|d| !d.is_empty()),
                tags: Some(tags.clone()).filter(|t| !t.is_empty()),
                client_token: Some(client_token.to_owned()),
                ..Default::default()
            };
            async move { c.start_snapshot(request).await }
        };
        required(call, "SnapshotId", self.ebs(call, once).await?.snapshot_id)
    }

    /// Writes one block of [`BLOCK`] bytes, at `index` times that.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn put_block(&self, snapshot: &str, index: u32, content: Bytes) -> Result<()> {
        let (data, hashed) = (content.clone(), content);
        let hash = tokio::task::spawn_blocking(move || openssl::sha::sha256(&hashed)).await;
        let call = "PutSnapshotBlock";
        let hash = hash.map_err(|e| super::Error::answer(call, e.to_string()))?;
        let checksum = openssl::base64::encode_block(&hash);
        let once = |c: EbsClient| {
            let request = PutSnapshotBlockRequest {
                snapshot_id: snapshot.to_owned(),
                block_index: index.into(),
                data_length: data.len() as i64,
                checksum: checksum.clone(),
                checksum_algorithm: "SHA256".into(),
                block_data: data.clone(),
                ..Default::default()
            };
            async move { c.put_snapshot_block(request).await }
        };
        self.ebs(call, once).await?;
        Ok(())
    }

    /// Ends a snapshot of which so many blocks were written; returns its status, `pending` as a rule.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn complete_snapshot(&self, snapshot: &str, changed_blocks: u32) -> Result<String> {
        let call = "CompleteSnapshot";
        let once = |c: EbsClient| {
            let request = CompleteSnapshotRequest {
                snapshot_id: snapshot.to_owned(),
                changed_blocks_count: changed_blocks.into(),
                ..Default::default()
            };
            async move { c.complete_snapshot(request).await }
        };
        Ok(self.ebs(call, once).await?.status.unwrap_or_default())
    }
}
