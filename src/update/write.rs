//! Full updates made of images.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek as _, Write};

use bzip2::Compression;
use bzip2::write::BzEncoder;
use openssl::pkey::{PKey, Private};
use openssl::sha::{Sha256, sha256};
use openssl::sign::Signer;
use prost::Message as _;

use super::manifest::{
    DeltaArchiveManifest, Extent, InstallInfo, InstallOperation, InstallProcedure, OperationType,
    ProcedureType, Signature, Signatures,
};
use super::{BLOCK, Error, MAGIC, SIGNATURE_VERSION, VERSION};
use crate::target;

/// Blocks that one operation writes.
const CHUNK_BLOCKS: u64 = 256;
const CHUNK: u64 = CHUNK_BLOCKS * BLOCK;

/// What an update brings.
pub struct Source<'a> {
    /// The image of the partition; its length is a multiple of 4096.
    pub partition: &'a File,
    /// The kernel.
    pub kernel: Option<&'a File>,
}

/// How a payload is made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether chunks are compressed where that makes them smaller.
    pub compress: bool,
    /// Whether there is an operation that keeps clients happy that are too old to know of procedures.
    pub noop: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { compress: true, noop: true }
    }
}

/// Makes a payload with one signature, and returns its manifest. The same images and key make the same payload.
///
/// # Errors
/// [`Error::IncompleteBlock`], [`Error::Overflow`], or what the files or the key say.
pub fn generate(
    source: &Source<'_>,
    key: &PKey<Private>,
    options: Options,
    out: impl Write,
) -> Result<DeltaArchiveManifest, Error> {
    let spool = target::spool().map_err(Error::io("make a temporary file"))?;
    let mut data = Spool { file: BufWriter::new(spool), length: 0, compress: options.compress };
    let (partition_operations, info) = data.add(source.partition, true)?;
    let mut manifest = DeltaArchiveManifest {
        partition_operations,
        new_partition_info: Some(info),
        ..DeltaArchiveManifest::default()
    };
    if let Some(kernel) = source.kernel {
        let (operations, info) = data.add(kernel, false)?;
        manifest.procedures.push(InstallProcedure {
            r#type: ProcedureType::Kernel.into(),
            operations,
            old_info: None,
            new_info: Some(info),
        });
    }
    data.write(manifest, key, options.noop, out)
}

/// A chunk of an image, and what it is compressed if that is smaller.
type Packed<'a> = (&'a Vec<u8>, Option<Vec<u8>>);

/// The data of all operations, one after the other.
struct Spool {
    file: BufWriter<File>,
    length: u64,
    compress: bool,
}

impl Spool {
    /// Cuts an image into operations; `whole`: it must consist of whole blocks.
    fn add(&mut self, mut image: &File, whole: bool) -> Result<(Vec<InstallOperation>, InstallInfo), Error> {
        let failed = || Error::io("read the image");
        image.rewind().map_err(failed())?;
        let (mut operations, mut hash, mut size) = (Vec::new(), Sha256::new(), 0);
        // As many chunks at a time as there are processors: compressing is all the work.
        let batch = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        loop {
            let mut chunks = Vec::new();
            while chunks.len() < batch {
                let mut chunk = Vec::new();
                image.take(CHUNK).read_to_end(&mut chunk).map_err(failed())?;
                if chunk.is_empty() {
                    break;
                }
                hash.update(&chunk);
                chunks.push(chunk);
            }
            if chunks.is_empty() {
                break;
            }
            for (chunk, packed) in self.pack(&chunks)? {
                let (kind, stored) = match &packed {
                    Some(packed) => (OperationType::ReplaceBz, packed),
                    None => (OperationType::Replace, chunk),
                };
                let extent = Extent {
                    start_block: Some(size / BLOCK),
                    num_blocks: Some((chunk.len() as u64).div_ceil(BLOCK)),
                };
                size += chunk.len() as u64;
                operations.push(self.store(kind, stored, extent)?);
            }
        }
        if whole && size % BLOCK != 0 {
            return Err(Error::IncompleteBlock(size));
        }
        Ok((operations, InstallInfo { size: Some(size), hash: Some(hash.finish().into()) }))
    }

    /// Compresses chunks, each in a thread.
    fn pack<'a>(&self, chunks: &'a [Vec<u8>]) -> Result<Vec<Packed<'a>>, Error> {
        if !self.compress {
            return Ok(chunks.iter().map(|chunk| (chunk, None)).collect());
        }
        let smaller = |chunk: &[u8]| -> io::Result<Option<Vec<u8>>> {
            let mut packer = BzEncoder::new(Vec::new(), Compression::best());
            packer.write_all(chunk)?;
            let packed = packer.finish()?;
            Ok((packed.len() < chunk.len()).then_some(packed))
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = chunks.iter().map(|chunk| scope.spawn(move || smaller(chunk))).collect();
            let lost = |_| io::Error::other("a thread that compresses has ended");
            let done = chunks
                .iter()
                .zip(threads)
                .map(|(chunk, thread)| Ok((chunk, thread.join().map_err(lost).and_then(|packed| packed)?)));
            done.collect::<io::Result<_>>()
        })
        .map_err(Error::io("compress the image"))
    }

    fn store(&mut self, kind: OperationType, data: &[u8], to: Extent) -> Result<InstallOperation, Error> {
        let offset = u32::try_from(self.length).map_err(|_| Error::Overflow)?;
        let length = u32::try_from(data.len()).map_err(|_| Error::Overflow)?;
        self.file.write_all(data).map_err(Error::io("write to a temporary file"))?;
        self.length += u64::from(length);
        Ok(InstallOperation {
            r#type: kind.into(),
            data_offset: Some(offset),
            data_length: Some(length),
            dst_extents: vec![to],
            data_sha256_hash: Some(sha256(data).into()),
            ..InstallOperation::default()
        })
    }

    /// Writes all parts of the payload.
    fn write(
        self,
        mut manifest: DeltaArchiveManifest,
        key: &PKey<Private>,
        noop: bool,
        out: impl Write,
    ) -> Result<DeltaArchiveManifest, Error> {
        // As long as the real one: what is signed says how long the signature is.
        let size = signatures(vec![0; key.size()]).encoded_len() as u64;
        manifest.signatures_offset = Some(self.length);
        manifest.signatures_size = Some(size);
        if noop {
            let nowhere = Extent { start_block: Some(Extent::HOLE), num_blocks: Some(size.div_ceil(BLOCK)) };
            manifest.noop_operations.push(InstallOperation {
                r#type: OperationType::Replace.into(),
                data_offset: Some(u32::try_from(self.length).map_err(|_| Error::Overflow)?),
                data_length: Some(u32::try_from(size).map_err(|_| Error::Overflow)?),
                dst_extents: vec![nowhere],
                ..InstallOperation::default()
            });
        }
        let encoded = manifest.encode_to_vec();
        let mut out =
            Signing { inner: out, signer: Signer::new(openssl::hash::MessageDigest::sha256(), key)? };
        let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(Error::io("write the payload"));
        put(MAGIC)?;
        put(&VERSION.to_be_bytes())?;
        put(&(encoded.len() as u64).to_be_bytes())?;
        put(&encoded)?;
        let spooled =
            self.file.into_inner().map_err(|e| Error::io("write to a temporary file")(e.into_error()));
        let mut spooled = spooled?;
        spooled.rewind().map_err(Error::io("read a temporary file"))?;
        io::copy(&mut spooled, &mut out).map_err(Error::io("write the payload"))?;
        let signature = out.signer.sign_to_vec()?;
        let mut out = out.inner;
        out.write_all(&signatures(signature).encode_to_vec()).map_err(Error::io("write the payload"))?;
        out.flush().map_err(Error::io("write the payload"))?;
        Ok(manifest)
    }
}

fn signatures(data: Vec<u8>) -> Signatures {
    Signatures { signatures: vec![Signature { version: Some(SIGNATURE_VERSION), data: Some(data) }] }
}

/// Signs what goes through.
struct Signing<'a, W> {
    inner: W,
    signer: Signer<'a>,
}

impl<W: Write> Write for Signing<'_, W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(data)?;
        self.signer.update(&data[..written])?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
