//! Payloads verified and applied. They may come from anywhere: nothing is believed before it is checked, and nothing is
//! written before the signature of all of it is.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _};

use bzip2::read::BzDecoder;
use openssl::sha::Sha256;
use prost::Message as _;

use super::manifest::{
    DeltaArchiveManifest, InstallInfo, InstallOperation, OperationType, ProcedureType, Signatures,
};
use super::{BLOCK, Error, HEADER, MAGIC, SIGNATURE_VERSION, VERSION, VerifyingKey};

/// Longest manifest that is read: an operation has some 60 bytes and writes a MiB.
const MAX_MANIFEST: u64 = 16 << 20;
/// Longest signatures that are read: one has some hundred bytes.
const MAX_SIGNATURES: u64 = 1 << 20;
/// Pieces in which data are read.
const PIECE: usize = 256 << 10;

/// What is known of a payload that was verified.
#[derive(Clone, Debug)]
pub struct Metadata {
    /// What is in it.
    pub manifest: DeltaArchiveManifest,
    /// Length of header and manifest in bytes: `MetadataSize` of Omaha.
    pub size: u64,
    /// SHA-256 of header and manifest: what `MetadataSignatureRsa` of Omaha signs.
    pub sha256: [u8; 32],
}

/// Where a payload is written to.
pub struct Targets<'a> {
    /// The partition's image; emptied first.
    pub partition: &'a File,
    /// The kernel; emptied first. Without it a payload with a kernel is refused.
    pub kernel: Option<&'a File>,
}

/// The bytes of a payload as they come: hashed, and counted.
struct Stream<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Stream<R> {
    fn exact(&mut self, length: u64, what: &'static str) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.take(length).read_to_end(&mut bytes).map_err(Error::io("read the payload"))?;
        if bytes.len() as u64 == length { Ok(bytes) } else { Err(Error::Truncated(what)) }
    }
}

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

/// Checks everything of a payload that can be checked without applying it: its form, the hash of each operation, and
/// that one of its signatures is by the key.
///
/// # Errors
/// The first thing that is not as it should be.
pub fn verify(payload: impl Read, key: &VerifyingKey) -> Result<Metadata, Error> {
    let mut stream = Stream { inner: BufReader::with_capacity(PIECE, payload), hash: Sha256::new() };
    let metadata = read_metadata(&mut stream)?;
    let manifest = &metadata.manifest;
    let mut at = 0;
    for (index, operation) in operations(manifest).enumerate() {
        let mut data = data_of(&mut stream, operation, &mut at, index)?;
        io::copy(&mut data, &mut io::sink()).map_err(Error::io("read the payload"))?;
        data.finish(operation, index)?;
    }
    let offset = manifest.signatures_offset.unwrap_or_default();
    if offset != at {
        return Err(Error::Manifest(format!("expected signatures offset {at} not {offset}")));
    }
    let size = manifest.signatures_size.unwrap_or_default();
    if size > MAX_SIGNATURES {
        return Err(Error::TooLong { what: "signatures", length: size });
    }
    let signed = stream.hash.clone().finish();
    let signatures = decode_signatures(&stream.exact(size, "signatures")?)?;
    let mut by_rule = signatures.signatures.iter().filter(|s| s.version == Some(SIGNATURE_VERSION));
    if !by_rule.any(|s| key.signed(&signed, s.data.as_deref().unwrap_or_default())) {
        return Err(Error::Signature);
    }
    match io::copy(&mut stream, &mut io::sink()).map_err(Error::io("read the payload"))? {
        0 => Ok(metadata),
        trailing => Err(Error::Trailing(trailing)),
    }
}

fn decode_signatures(bytes: &[u8]) -> Result<Signatures, Error> {
    Signatures::decode(bytes).map_err(|source| Error::Message { what: "signatures", source })
}

/// What a payload says is in it; nothing is verified.
pub(super) fn metadata(mut payload: &File) -> Result<Metadata, Error> {
    payload.rewind().map_err(Error::io("read the payload"))?;
    read_metadata(&mut Stream { inner: BufReader::new(payload), hash: Sha256::new() })
}

/// The signatures of a payload that was verified.
pub(super) fn signatures(mut payload: &File, metadata: &Metadata) -> Result<Signatures, Error> {
    let offset = metadata.manifest.signatures_offset.unwrap_or_default();
    let size = metadata.manifest.signatures_size.unwrap_or_default();
    payload.seek(SeekFrom::Start(metadata.size + offset)).map_err(Error::io("read the payload"))?;
    let mut stream = Stream { inner: payload, hash: Sha256::new() };
    decode_signatures(&stream.exact(size, "signatures")?)
}

fn read_metadata(stream: &mut Stream<impl Read>) -> Result<Metadata, Error> {
    let header = match stream.exact(HEADER, "header") {
        Err(Error::Truncated(_)) => return Err(Error::Magic),
        header => header?,
    };
    let number = |at: usize| header[at..at + 8].iter().fold(0_u64, |n, &byte| n << 8 | u64::from(byte));
    if !header.starts_with(MAGIC) {
        return Err(Error::Magic);
    }
    match (number(4), number(12)) {
        (VERSION, 0) => return Err(Error::NoManifest),
        (VERSION, length) if length > MAX_MANIFEST => {
            return Err(Error::TooLong { what: "manifest", length });
        }
        (VERSION, _) => {}
        (version, _) => return Err(Error::Version(version)),
    }
    let bytes = stream.exact(number(12), "manifest")?;
    let sha256 = stream.hash.clone().finish();
    let manifest = DeltaArchiveManifest::decode(&*bytes)
        .map_err(|source| Error::Message { what: "manifest", source })?;
    if manifest.block_size.is_some_and(|size| u64::from(size) != BLOCK) {
        return Err(Error::BlockSize);
    }
    Ok(Metadata { manifest, size: HEADER + number(12), sha256 })
}

/// All operations in the order of their data. Those for old clients are none: they point at the signatures.
fn operations(manifest: &DeltaArchiveManifest) -> impl Iterator<Item = &InstallOperation> {
    manifest.partition_operations.iter().chain(manifest.procedures.iter().flat_map(|p| &p.operations))
}

fn wrong(operation: &InstallOperation, index: usize, why: impl Into<String>) -> Error {
    Error::Operation { index, why: why.into(), text: operation.to_text() }
}

/// The data of one operation: hashed, and not a byte more.
struct Data<'a, R> {
    stream: io::Take<&'a mut Stream<R>>,
    hash: Sha256,
}

/// Checks what an operation says of itself, and begins to read its data. `at` is where they have to be; it moves on.
fn data_of<'a, R: Read>(
    stream: &'a mut Stream<R>,
    operation: &InstallOperation,
    at: &mut u64,
    index: usize,
) -> Result<Data<'a, R>, Error> {
    let (offset, length) =
        (operation.data_offset.unwrap_or_default(), operation.data_length.unwrap_or_default());
    match OperationType::try_from(operation.r#type) {
        Ok(OperationType::Replace | OperationType::ReplaceBz) => {}
        _ => return Err(wrong(operation, index, "only full updates are supported")),
    }
    if u64::from(offset) != *at {
        return Err(wrong(operation, index, format!("expected payload data offset {at} not {offset}")));
    }
    if !operation.src_extents.is_empty() {
        return Err(wrong(operation, index, "replace contains source extents"));
    }
    if operation.data_sha256_hash.is_none() {
        return Err(wrong(operation, index, "missing payload data hash"));
    }
    *at += u64::from(length);
    Ok(Data { stream: stream.take(length.into()), hash: Sha256::new() })
}

impl<R: Read> Data<'_, R> {
    /// After all of the data: whether they were complete and have their hash.
    fn finish(self, operation: &InstallOperation, index: usize) -> Result<(), Error> {
        if self.stream.limit() > 0 {
            return Err(Error::Truncated("data"));
        }
        match operation.data_sha256_hash.as_deref() == Some(&self.hash.finish()[..]) {
            true => Ok(()),
            false => Err(wrong(operation, index, "the data do not have the hash that the manifest says")),
        }
    }
}

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

/// Verifies a payload and writes what it holds.
///
/// # Errors
/// As [`verify`], before anything is written; and when what is written is not what the payload says it should be.
pub fn apply(mut payload: &File, key: &VerifyingKey, targets: &Targets<'_>) -> Result<Metadata, Error> {
    let rewind = |mut payload: &File| payload.rewind().map_err(Error::io("read the payload"));
    rewind(payload)?;
    let metadata = verify(payload, key)?;
    let manifest = &metadata.manifest;
    let mut kernel = None;
    for procedure in &manifest.procedures {
        match (ProcedureType::try_from(procedure.r#type), targets.kernel) {
            (Ok(ProcedureType::Kernel), Some(file)) if kernel.is_none() => kernel = Some((procedure, file)),
            (Ok(ProcedureType::Kernel), Some(_)) => {
                return Err(Error::Manifest("the payload has two kernels".into()));
            }
            (Ok(ProcedureType::Kernel), None) => {
                return Err(Error::Manifest("the payload has a kernel, for which there is no place".into()));
            }
            (Err(_), _) => {
                let text = format!("the payload has a procedure of unknown type {}", procedure.r#type);
                return Err(Error::Manifest(text));
            }
        }
    }
    payload.seek(SeekFrom::Start(metadata.size)).map_err(Error::io("read the payload"))?;
    let mut stream = Stream { inner: BufReader::with_capacity(PIECE, payload), hash: Sha256::new() };
    let mut place = Place { at: 0, index: 0 };
    let info = &manifest.new_partition_info;
    if !manifest.partition_operations.is_empty() || info.is_some() {
        place.write(&mut stream, &manifest.partition_operations, info, targets.partition, "partition")?;
    }
    if let Some((procedure, file)) = kernel {
        place.write(&mut stream, &procedure.operations, &procedure.new_info, file, "kernel")?;
    }
    Ok(metadata)
}

/// How far a payload is applied.
struct Place {
    at: u64,
    index: usize,
}

impl Place {
    /// Writes one file by its operations, and compares it with what it should be.
    fn write(
        &mut self,
        stream: &mut Stream<impl Read>,
        operations: &[InstallOperation],
        info: &Option<InstallInfo>,
        mut file: &File,
        what: &'static str,
    ) -> Result<(), Error> {
        let info = info.as_ref().and_then(|info| Some((info.size?, info.hash.as_deref()?)));
        let Some((size, hash)) = info else {
            return Err(Error::Manifest(format!("the payload does not say size and hash of the {what}")));
        };
        // A full update writes every block once; anything else could make a file without bound.
        let blocks = operations
            .iter()
            .flat_map(|o| &o.dst_extents)
            .try_fold(0_u64, |sum, e| sum.checked_add(e.num_blocks.unwrap_or_default()));
        if blocks != Some(size.div_ceil(BLOCK)) {
            let text = format!("the operations do not write the {size} bytes of the {what}");
            return Err(Error::Manifest(text));
        }
        let failed = || Error::io(format!("write the {what}"));
        file.set_len(0).map_err(failed())?;
        for operation in operations {
            let index = self.index;
            self.index += 1;
            let mut data = data_of(stream, operation, &mut self.at, index)?;
            match OperationType::try_from(operation.r#type) {
                Ok(OperationType::ReplaceBz) => {
                    // What follows the end of the stream, as some makers leave it, is read below.
                    let mut unpacked = BzDecoder::new(BufReader::new(&mut data));
                    place(&mut unpacked, operation, size, file, index)?;
                    match unpacked.read(&mut [0]) {
                        Ok(0) => {}
                        Ok(_) => {
                            return Err(wrong(operation, index, "there are more data than blocks for them"));
                        }
                        Err(e) => {
                            return Err(wrong(operation, index, format!("its data cannot be read: {e}")));
                        }
                    }
                }
                _ => {
                    place(&mut data, operation, size, file, index)?;
                    if data.stream.limit() > 0 {
                        return Err(wrong(operation, index, "there are more data than blocks for them"));
                    }
                }
            }
            io::copy(&mut data, &mut io::sink()).map_err(Error::io("read the payload"))?;
            data.finish(operation, index)?;
        }
        file.rewind().map_err(failed())?;
        let written = digest(file).map_err(Error::io(format!("read the {what}")))?;
        if written == (size, hash.try_into().unwrap_or_default()) {
            Ok(())
        } else {
            Err(Error::Written(what))
        }
    }
}

/// Writes the result of an operation into its blocks. An extent that goes past the end is cut there: the last one of
/// real updates does.
fn place(
    from: &mut impl Read,
    operation: &InstallOperation,
    size: u64,
    mut file: &File,
    index: usize,
) -> Result<(), Error> {
    for extent in &operation.dst_extents {
        let (first, count) = (extent.start_block.unwrap_or_default(), extent.num_blocks.unwrap_or_default());
        let start = first.checked_mul(BLOCK).filter(|start| *start < size);
        let (Some(start), Some(length)) = (start, count.checked_mul(BLOCK)) else {
            return Err(wrong(operation, index, "an extent lies past the end"));
        };
        let length = length.min(size - start);
        file.seek(SeekFrom::Start(start)).map_err(Error::io("write to a file"))?;
        let copied = io::copy(&mut from.take(length), &mut file);
        let copied =
            copied.map_err(|e| wrong(operation, index, format!("its data cannot be written: {e}")))?;
        if copied < length {
            return Err(wrong(operation, index, "there are fewer data than blocks for them"));
        }
    }
    file.flush().map_err(Error::io("write to a file"))
}

/// Length and SHA-256 of a file from where it stands.
pub(super) fn digest(mut file: &File) -> io::Result<(u64, [u8; 32])> {
    let (mut hash, mut size, mut piece) = (Sha256::new(), 0, vec![0; PIECE]);
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok((size, hash.finish())),
            Ok(read) => {
                hash.update(&piece[..read]);
                size += read as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
