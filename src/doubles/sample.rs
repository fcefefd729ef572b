//! A small signed build: files with the names that a release wants, and a key of their own.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use sequoia_openpgp::cert::{Cert, CertBuilder};
use sequoia_openpgp::policy::StandardPolicy;
use sequoia_openpgp::serialize::SerializeInto as _;
use sequoia_openpgp::serialize::stream::{Message, Signer};

use crate::release::Selection;
use crate::release::version::FILE_NAME;

/// The size of its disks, in bytes.
const DISK: usize = 1 << 20;

/// A build that was made.
#[derive(Debug)]
pub struct Sample {
    /// The folder of its files.
    pub folder: PathBuf,
    /// The public part of the key that signed them.
    pub key: PathBuf,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] io::Error),
    /// There is no key, or no signature.
    #[error("cannot sign the sample build: {0}")]
    Key(String),
}

/// Makes a build below a folder. The secret part of its key is never written. Blocks.
///
/// # Errors
/// [`Error`].
pub fn make(selection: &Selection, folder: &Path) -> Result<Sample, Error> {
    let cannot = |e: sequoia_openpgp::anyhow::Error| Error::Key(e.to_string());
    let builder = CertBuilder::new().add_userid("Rehearsal <rehearsal@localhost>").add_signing_subkey();
    let (cert, _) = builder.generate().map_err(cannot)?;
    let key = folder.join("key.asc");
    std::fs::write(&key, cert.armored().to_vec().map_err(cannot)?)?;
    let folder = folder.join("build");
    std::fs::create_dir(&folder)?;
    let (aws, azure, gce) = (&selection.aws, &selection.azure, &selection.gce);
    let mut files: Vec<(&str, Vec<u8>)> = Vec::new();
    if let Some(aws) = aws {
        let mut disk = noise(DISK);
        // A disk of VMware begins so, and none of its other fields is looked at here.
        disk[..4].copy_from_slice(b"KDMV");
        files.push((&aws.image, disk));
    }
    files.extend(azure.as_ref().map(|azure| (azure.image.as_str(), vhd())));
    files.extend(gce.as_ref().map(|gce| (gce.image.as_str(), noise(DISK / 16))));
    for (name, content) in files {
        let content = packed(name, &content)?;
        std::fs::write(folder.join(format!("{name}.sig")), sign(&cert, &content).map_err(cannot)?)?;
        std::fs::write(folder.join(name), content)?;
    }
    if let Some(name) = selection.metadata.as_ref().and_then(|metadata| metadata.build.as_ref()) {
        std::fs::write(folder.join(name), description(selection))?;
    }
    std::fs::write(
        folder.join(FILE_NAME),
        format!("COREOS_VERSION={0}\nCOREOS_VERSION_ID={0}\n", selection.version),
    )?;
    Ok(Sample { folder, key })
}

/// What CoreOS Assembler says of a build, as far as releases need it.
fn description(selection: &Selection) -> String {
    let digits = "5a".repeat(32);
    let version = &selection.version;
    let arch = if selection.board.starts_with("arm64") { "aarch64" } else { "x86_64" };
    let disk =
        serde_json::json!({ "path": format!("sample-{version}-qemu.{arch}.qcow2.xz"), "sha256": digits });
    serde_json::json!({
        "buildid": version, "ostree-commit": digits, "coreos-assembler.basearch": arch, "images": { "qemu": disk },
    })
    .to_string()
}

fn sign(cert: &Cert, content: &[u8]) -> sequoia_openpgp::Result<Vec<u8>> {
    let policy = StandardPolicy::new();
    let key = cert.keys().with_policy(&policy, None).secret().for_signing().next();
    let key = key.ok_or_else(|| io::Error::other("the key cannot sign"))?.key().clone();
    let mut signature = Vec::new();
    let mut signer = Signer::new(Message::new(&mut signature), key.into_keypair()?)?.detached().build()?;
    signer.write_all(content)?;
    signer.finalize()?;
    Ok(signature)
}

/// Bytes that differ from place to place.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// A fixed VHD, mostly of zeros; Microsoft's "Virtual Hard Disk Image Format Specification".
fn vhd() -> Vec<u8> {
    let mut disk = noise(DISK);
    disk[DISK / 256..DISK - DISK / 8].fill(0);
    let mut footer = [0_u8; 512];
    footer[..8].copy_from_slice(b"conectix");
    footer[8..12].copy_from_slice(&2_u32.to_be_bytes());
    footer[12..16].copy_from_slice(&0x1_0000_u32.to_be_bytes());
    footer[16..24].fill(0xff);
    for size in [40..48, 48..56] {
        footer[size].copy_from_slice(&(DISK as u64).to_be_bytes());
    }
    footer[60..64].copy_from_slice(&2_u32.to_be_bytes());
    let sum: u32 = footer.iter().map(|b| u32::from(*b)).sum();
    footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
    disk.extend_from_slice(&footer);
    disk
}

/// Packed as the name says.
fn packed(name: &str, content: &[u8]) -> io::Result<Vec<u8>> {
    match name.rsplit('.').next() {
        Some("bz2") => {
            let mut packer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            packer.write_all(content)?;
            packer.finish()
        }
        Some("gz") => {
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packer.write_all(content)?;
            packer.finish()
        }
        Some("xz") => {
            let mut packer = liblzma::write::XzEncoder::new(Vec::new(), 1);
            packer.write_all(content)?;
            packer.finish()
        }
        Some("zst") => zstd::stream::encode_all(content, 1),
        _ => Ok(content.to_vec()),
    }
}
