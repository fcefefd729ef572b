//! Keeps a file as its source has it, with or without a signature beside it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::part::Part;
use super::transfer::{Outcome, Request};
use super::{Check, Compression, Engine, Error, MakeVerifier, Source};
use crate::target;

/// A detached signature is not longer; those of our keys have about 0.5 KiB.
const MAX_SIGNATURE: u64 = 1 << 20;
/// Pieces in which files are read.
const PIECE: usize = 256 << 10;

/// What an update found.
#[derive(Clone, Debug)]
pub enum Update {
    /// The file was right already.
    Current {
        /// What the check says of it.
        verdict: Option<String>,
    },
    /// The file is new.
    Replaced(Outcome),
}

/// A file with a detached signature beside it.
pub struct Signed<'a> {
    /// The file; the signature is at the same place with `.sig` added.
    pub source: &'a Source,
    /// To where.
    pub destination: &'a Path,
    /// Whether the signature is to be kept, as `<destination>.sig`; else one of that name goes.
    pub keep_signature: bool,
    /// Decompresses what goes into the file; the signature is over what is at the source. A file that is there
    /// already cannot be judged by that signature, hence is downloaded again.
    pub decompress: Option<Compression>,
    /// Makes the check from the signature's bytes.
    pub verifier: MakeVerifier<'a>,
}

impl Engine {
    /// Updates a file without a check.
    ///
    /// # Errors
    /// Any [`Error`]; the file is as it was then.
    pub async fn update(
        &self,
        source: &Source,
        destination: &Path,
        cancel: &CancellationToken,
    ) -> Result<Update, Error> {
        Part::place(destination)?; // before anything is asked of a server
        let request = Request { source, destination, check: None, decompress: None };
        let work = async {
            let (mut part, outcome) = self.to_part(&request).await?;
            let destination = destination.to_owned();
            tokio::task::spawn_blocking(move || {
                // Byte for byte the same: the old file keeps its date.
                if same(&part.file(), &destination) {
                    part.remove();
                    return Ok(Update::Current { verdict: None });
                }
                part.commit().map(|()| Update::Replaced(outcome))
            })
            .await
            .map_err(Error::thread)?
        };
        cancel.run_until_cancelled(work).await.unwrap_or(Err(Error::Interrupted))
    }

    /// Updates a file that is signed: the signature is fetched first; a file that fits it stays.
    ///
    /// # Errors
    /// Any [`Error`]; the file is as it was then.
    pub async fn update_signed(
        &self,
        signed: &Signed<'_>,
        cancel: &CancellationToken,
    ) -> Result<Update, Error> {
        let Signed { source, destination, keep_signature, decompress, verifier } = signed;
        let mut beside = destination.as_os_str().to_owned();
        beside.push(".sig");
        let beside = PathBuf::from(beside);
        // Before anything is asked of a server.
        Part::place(destination)?;
        if *keep_signature {
            Part::place(&beside)?;
        }
        let signature_source = source.with_suffix(".sig");
        let signature = self.fetch(&signature_source, MAX_SIGNATURE, cancel).await?;
        let make = || verifier(&signature);
        let rejected = |what: String| move |source| Error::Rejected { what, source };
        // A signature that is none is found out before the data is asked for.
        let check = make().map_err(rejected(signature_source.to_string()))?;
        let verdict = match decompress {
            None => cancel
                .run_until_cancelled(verify(destination, check))
                .await
                .unwrap_or(Err(Error::Interrupted))?,
            Some(_) => None,
        };
        let update = match verdict {
            Some(verdict) => {
                Part::discard(destination);
                Update::Current { verdict: Some(verdict) }
            }
            None => {
                let request = Request { source, destination, check: Some(&make), decompress: *decompress };
                Update::Replaced(self.get(&request, cancel).await?)
            }
        };
        let keep_signature = *keep_signature;
        let old = match keep_signature {
            true => None,
            // What any of the keys made for this name is no use any more; what else may be there is not ours.
            false => read_short(&beside).filter(|old| *old == signature || verifier(old).is_ok()),
        };
        let settle = move || match (keep_signature, old) {
            (true, _) if read_short(&beside).is_some_and(|old| old == signature) => Ok(()),
            (true, _) => target::replace(&beside, 0o666, &signature).map_err(|e| Error::write(&beside, e)),
            (false, Some(_)) => std::fs::remove_file(&beside).map_err(|e| Error::write(&beside, e)),
            (false, None) => {
                if beside.symlink_metadata().is_ok() {
                    crate::notice!("download", "{} is no signature of ours and stays", beside.display());
                }
                Ok(())
            }
        };
        tokio::task::spawn_blocking(settle).await.map_err(Error::thread)??;
        Ok(update)
    }

    /// Downloads to a file without a name, from which all of it can be read.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn spool(
        &self,
        source: &Source,
        verifier: Option<MakeVerifier<'_>>,
        cancel: &CancellationToken,
    ) -> Result<(File, Outcome), Error> {
        let signature = match verifier {
            Some(_) => self.fetch(&source.with_suffix(".sig"), MAX_SIGNATURE, cancel).await?,
            None => Vec::new(),
        };
        let make = verifier.map(|verifier| move || verifier(&signature));
        if let Some(Err(reason)) = make.as_ref().map(|make| make()) {
            return Err(Error::Rejected { what: source.with_suffix(".sig").to_string(), source: reason });
        }
        let name = source.base_name().unwrap_or_default();
        let check = make.as_ref().map(|make| make as super::MakeCheck<'_>);
        let request = Request { source, destination: Path::new(&name), check, decompress: None };
        let work = async {
            let part = tokio::task::spawn_blocking(Part::spool).await.map_err(Error::thread)??;
            let (part, outcome) = self.fill_part(&request, part).await?;
            let file = part.file().try_clone().map_err(|e| Error::read(part.path(), e))?;
            Ok((file, outcome))
        };
        cancel.run_until_cancelled(work).await.unwrap_or(Err(Error::Interrupted))
    }
}

/// What the check says of a file that is there; `None` if it is not, or not right.
async fn verify(path: &Path, mut check: Box<dyn Check>) -> Result<Option<String>, Error> {
    let path = path.to_owned();
    let work = move || {
        let mut file = crate::input::open(&path).ok()?;
        let mut buffer = vec![0; PIECE];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => check.update(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None, // it is going to be replaced
            }
        }
        check.finish().ok()
    };
    tokio::task::spawn_blocking(work).await.map_err(Error::thread)
}

fn same(part: &File, path: &Path) -> bool {
    let compare = || -> io::Result<bool> {
        let meta = std::fs::metadata(path)?;
        let length = part.metadata()?.len();
        if !meta.is_file() || meta.len() != length {
            return Ok(false);
        }
        let old = crate::input::open(path)?;
        let (mut a, mut b) = (vec![0; PIECE], vec![0; PIECE]);
        let mut at = 0;
        while at < length {
            let n = usize::try_from(length - at).unwrap_or(PIECE).min(PIECE);
            part.read_exact_at(&mut a[..n], at)?;
            old.read_exact_at(&mut b[..n], at)?;
            if a[..n] != b[..n] {
                return Ok(false);
            }
            at += n as u64;
        }
        Ok(true)
    };
    compare().unwrap_or(false)
}

/// A plain file that may be a signature; `None` for anything else.
fn read_short(path: &Path) -> Option<Vec<u8>> {
    let meta = std::fs::metadata(path).ok()?;
    if !meta.is_file() || meta.len() > MAX_SIGNATURE {
        return None;
    }
    crate::input::read(path).ok()
}
