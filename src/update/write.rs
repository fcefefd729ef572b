//! Full updates made of images.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek as _, Write};
use std::sync::{Mutex, PoisonError, mpsc};

use bzip2::Compression;
use bzip2::write::BzEncoder;
use openssl::pkey::{PKey, Private};
use openssl::sha::{Sha256, sha256};
use openssl::sign::Signer;
use prost::Message as _;
use tokio_util::sync::CancellationToken;

use super::manifest::{
    DeltaArchiveManifest, Extent, InstallInfo, InstallOperation, InstallProcedure, OperationType,
    ProcedureType, Signature, Signatures,
};
use super::{BLOCK, Error, LOG, MAGIC, SIGNATURE_VERSION, VERSION};
use crate::progress::Progress;
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
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether chunks are compressed where that makes them smaller.
    pub compress: bool,
    /// Whether there is an operation that keeps clients happy that are too old to know of procedures.
    pub noop: bool,
    /// Ends the work early.
    pub cancel: CancellationToken,
}

impl Default for Options {
    fn default() -> Self {
        Self { compress: true, noop: true, cancel: CancellationToken::new() }
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
    let mut data = Spool { file: BufWriter::new(spool), length: 0, options };
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
    data.write(manifest, key, out)
}

/// A chunk of an image as it is stored.
struct Packed {
    kind: OperationType,
    data: Vec<u8>,
    sha256: [u8; 32],
}

/// A chunk that is to be packed, and who waits for it.
struct Job {
    chunk: Vec<u8>,
    reply: mpsc::Sender<io::Result<Packed>>,
}

/// The data of all operations, one after the other.
struct Spool {
    file: BufWriter<File>,
    length: u64,
    options: Options,
}

impl Spool {
    /// Cuts an image into operations; `whole`: it must consist of whole blocks.
    fn add(&mut self, image: &File, whole: bool) -> Result<(Vec<InstallOperation>, InstallInfo), Error> {
        // Compressing is all the work: a thread for each processor, and enough chunks ahead that none of them waits.
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let compress = self.options.compress;
        std::thread::scope(|scope| {
            let (jobs, queue) = mpsc::channel::<Job>();
            let queue = std::sync::Arc::new(Mutex::new(queue));
            for _ in 0..workers {
                let queue = queue.clone();
                scope.spawn(move || {
                    loop {
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok(job) = next else { return };
                        // Nobody waits any more where the work has failed.
                        let _ = job.reply.send(pack(job.chunk, compress));
                    }
                });
            }
            // Its end is what the threads end by.
            self.cut(image, whole, &jobs, 2 * workers)
        })
    }

    fn cut(
        &mut self,
        mut image: &File,
        whole: bool,
        jobs: &mpsc::Sender<Job>,
        ahead: usize,
    ) -> Result<(Vec<InstallOperation>, InstallInfo), Error> {
        let failed = || Error::io("read the image");
        let lost =
            |_| Error::io("compress the image")(io::Error::other("a thread that compresses has ended"));
        image.rewind().map_err(failed())?;
        let length = image.metadata().map_err(failed())?.len();
        let mut progress = Progress::of_file(LOG, "image");
        progress.answer(0, Some(length));
        let (mut operations, mut hash, mut size) = (Vec::new(), Sha256::new(), 0);
        let mut waiting = VecDeque::new();
        let mut at_end = false;
        loop {
            while !at_end && waiting.len() < ahead {
                let mut chunk = Vec::new();
                image.take(CHUNK).read_to_end(&mut chunk).map_err(failed())?;
                if chunk.is_empty() {
                    at_end = true;
                    break;
                }
                hash.update(&chunk);
                let (reply, answer) = mpsc::channel();
                waiting.push_back((chunk.len() as u64, answer));
                jobs.send(Job { chunk, reply }).map_err(|_| lost(mpsc::RecvError))?;
            }
            let Some((length, answer)) = waiting.pop_front() else { break };
            if self.options.cancel.is_cancelled() {
                return Err(Error::interrupted());
            }
            let packed = answer.recv().map_err(lost)?.map_err(Error::io("compress the image"))?;
            let to = Extent { start_block: Some(size / BLOCK), num_blocks: Some(length.div_ceil(BLOCK)) };
            size += length;
            operations.push(self.store(&packed, to)?);
            progress.advance(length);
        }
        if whole && size % BLOCK != 0 {
            return Err(Error::IncompleteBlock(size));
        }
        Ok((operations, InstallInfo { size: Some(size), hash: Some(hash.finish().into()) }))
    }

    fn store(&mut self, packed: &Packed, to: Extent) -> Result<InstallOperation, Error> {
        let offset = u32::try_from(self.length).map_err(|_| Error::Overflow)?;
        let length = u32::try_from(packed.data.len()).map_err(|_| Error::Overflow)?;
        self.file.write_all(&packed.data).map_err(Error::io("write to a temporary file"))?;
        self.length += u64::from(length);
        Ok(InstallOperation {
            r#type: packed.kind.into(),
            data_offset: Some(offset),
            data_length: Some(length),
            dst_extents: vec![to],
            data_sha256_hash: Some(packed.sha256.into()),
            ..InstallOperation::default()
        })
    }

    /// Writes all parts of the payload.
    fn write(
        self,
        mut manifest: DeltaArchiveManifest,
        key: &PKey<Private>,
        out: impl Write,
    ) -> Result<DeltaArchiveManifest, Error> {
        // As long as the real one: what is signed says how long the signature is.
        let size = signatures(vec![0; key.size()]).encoded_len() as u64;
        manifest.signatures_offset = Some(self.length);
        manifest.signatures_size = Some(size);
        if self.options.noop {
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

/// Compresses a chunk if that makes it smaller.
fn pack(chunk: Vec<u8>, compress: bool) -> io::Result<Packed> {
    let mut stored = (OperationType::Replace, chunk);
    if compress {
        let mut packer = BzEncoder::new(Vec::new(), Compression::best());
        packer.write_all(&stored.1)?;
        let packed = packer.finish()?;
        if packed.len() < stored.1.len() {
            stored = (OperationType::ReplaceBz, packed);
        }
    }
    let (kind, data) = stored;
    Ok(Packed { kind, sha256: sha256(&data), data })
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
