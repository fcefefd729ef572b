//! The messages of a payload: package `chromeos_update_engine`, proto2. Written by hand for prost, since there are six
//! and they will not change; a `.proto` file would need protoc wherever mantle is built.

/// What is in a payload and what to do with it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaArchiveManifest {
    /// What writes the partition.
    #[prost(message, repeated, tag = "1")]
    pub partition_operations: Vec<InstallOperation>,
    /// For clients too old to know of procedures: one operation that does nothing to the signatures.
    #[prost(message, repeated, tag = "2")]
    pub noop_operations: Vec<InstallOperation>,
    /// Bytes of a block; 4096 if absent.
    #[prost(uint32, optional, tag = "3")]
    pub block_size: Option<u32>,
    /// Where the signatures are, from the end of the manifest.
    #[prost(uint64, optional, tag = "4")]
    pub signatures_offset: Option<u64>,
    /// Their length.
    #[prost(uint64, optional, tag = "5")]
    pub signatures_size: Option<u64>,
    /// The partition that a difference starts from.
    #[prost(message, optional, tag = "8")]
    pub old_partition_info: Option<InstallInfo>,
    /// The partition when all is done.
    #[prost(message, optional, tag = "9")]
    pub new_partition_info: Option<InstallInfo>,
    /// What writes anything else.
    #[prost(message, repeated, tag = "10")]
    pub procedures: Vec<InstallProcedure>,
}

/// One step: some data, and where they go.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InstallOperation {
    /// How.
    #[prost(enumeration = "OperationType", required, tag = "1")]
    pub r#type: i32,
    /// Where its data are, from the end of the manifest.
    #[prost(uint32, optional, tag = "2")]
    pub data_offset: Option<u32>,
    /// Their length.
    #[prost(uint32, optional, tag = "3")]
    pub data_length: Option<u32>,
    /// What a difference starts from.
    #[prost(message, repeated, tag = "4")]
    pub src_extents: Vec<Extent>,
    /// Its length.
    #[prost(uint64, optional, tag = "5")]
    pub src_length: Option<u64>,
    /// Where the result goes.
    #[prost(message, repeated, tag = "6")]
    pub dst_extents: Vec<Extent>,
    /// Its length.
    #[prost(uint64, optional, tag = "7")]
    pub dst_length: Option<u64>,
    /// SHA-256 of the data.
    #[prost(bytes = "vec", optional, tag = "8")]
    pub data_sha256_hash: Option<Vec<u8>>,
}

/// How an operation makes its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum OperationType {
    /// The data are it.
    Replace = 0,
    /// The data are it, compressed by bzip2.
    ReplaceBz = 1,
    /// Blocks are copied.
    Move = 2,
    /// The data are a difference to blocks.
    Bsdiff = 3,
}

/// Blocks one after the other.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Extent {
    /// The first; [`Extent::HOLE`] for none.
    #[prost(uint64, optional, tag = "1")]
    pub start_block: Option<u64>,
    /// How many.
    #[prost(uint64, optional, tag = "2")]
    pub num_blocks: Option<u64>,
}

impl Extent {
    /// The first block of an extent that is nowhere.
    pub const HOLE: u64 = u64::MAX;
}

/// The content of a partition or file.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct InstallInfo {
    /// Its length in bytes.
    #[prost(uint64, optional, tag = "1")]
    pub size: Option<u64>,
    /// Its SHA-256.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub hash: Option<Vec<u8>>,
}

/// What writes something that is not the partition.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InstallProcedure {
    /// What it is.
    #[prost(enumeration = "ProcedureType", required, tag = "1")]
    pub r#type: i32,
    /// The steps.
    #[prost(message, repeated, tag = "2")]
    pub operations: Vec<InstallOperation>,
    /// What a difference starts from.
    #[prost(message, optional, tag = "3")]
    pub old_info: Option<InstallInfo>,
    /// It when all is done.
    #[prost(message, optional, tag = "4")]
    pub new_info: Option<InstallInfo>,
}

/// What a procedure writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ProcedureType {
    /// The kernel.
    Kernel = 0,
}

/// The end of a payload.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Signatures {
    /// By different keys, or by different rules.
    #[prost(message, repeated, tag = "1")]
    pub signatures: Vec<Signature>,
}

/// One signature.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Signature {
    /// The rule: 2 is RSA PKCS#1 v1.5 of a SHA-256.
    #[prost(uint32, optional, tag = "1")]
    pub version: Option<u32>,
    /// The signature.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub data: Option<Vec<u8>>,
}
