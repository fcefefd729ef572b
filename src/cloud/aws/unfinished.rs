//! What of an interrupted upload to AWS can be gone on with.

use serde::{Deserialize, Serialize};

use crate::cloud::resume;
pub use crate::cloud::resume::Identity;

/// The place of a record.
pub type Slot = resume::Slot<Work>;
/// A record.
pub type Record = resume::Record<Work>;

/// What is unfinished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// An S3 multipart upload.
    Multipart {
        /// The bucket.
        bucket: String,
        /// The object's key.
        key: String,
        /// The id of the upload; none: it was about to be begun.
        upload: Option<String>,
        /// Length of all parts but the last, in bytes.
        part: u64,
    },
    /// A snapshot that is written by the EBS block API.
    Snapshot {
        /// With this token the provider finds the snapshot again, should its answer have been lost.
        token: String,
        /// The snapshot, once known.
        id: Option<String>,
        /// Size of the volume in GiB.
        size_gib: i64,
        /// All blocks below this one are written.
        below: u32,
        /// How many of them were not empty.
        changed: u32,
    },
}

impl resume::Work for Work {
    const CLOUD: &'static str = "aws";
}
