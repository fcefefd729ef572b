//! Raw images written straight into a snapshot, past S3 and the import: the EBS direct APIs.
//!
//! Blocks of zeros are not sent: a new snapshot has them already. See
//! <https://docs.aws.amazon.com/ebs/latest/userguide/ebs-accessing-snapshot.html>.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt as _};
use hyper::body::Bytes;
use tokio_util::sync::CancellationToken;

use super::COMPONENT;
use super::api::Api;
use super::failure::{Error, Result};
use super::object::{Report, may_pass, read_at};
use super::snapshot::tags;
use super::unfinished::{Identity, Record, Slot, Work};
use super::wait::until;
use crate::disk::sparse::is_zero;
use crate::poll::{Answer, Poll};
use crate::{info, warning};

/// Length of a block in bytes; the only one that the API has.
pub const BLOCK: u64 = 512 << 10;
/// Blocks on their way at the same time; so many of them are in memory. The account's limit is 1000 a second.
const PARALLEL: usize = 32;
/// How far apart records of the progress are written.
const RECORDS: Duration = Duration::from_secs(2);
/// Looks at a snapshot that is being completed.
const COMPLETION: Poll = Poll::seconds(5, 3600);

/// An image to be written into a snapshot.
pub struct Direct<'a> {
    /// The raw image.
    pub file: &'a Path,
    /// The snapshot's name.
    pub name: &'a str,
    /// Size of its volumes, not less than the image.
    pub size_gib: i64,
    /// Further tags.
    pub tags: &'a [(String, String)],
    /// Whether to go on with an earlier attempt, and to leave the snapshot unfinished if this one stops.
    pub resume: bool,
    /// Told how much is done.
    pub report: Report<'a>,
    /// Stops the work.
    pub cancel: &'a CancellationToken,
}

/// The state of the work: what the record says, and where it is kept.
struct State {
    slot: Slot,
    record: Record,
    token: String,
    id: Option<String>,
    below: u32,
    changed: u32,
}

impl State {
    fn save(&mut self) -> Result<()> {
        let Work::Snapshot { size_gib, .. } = self.record.work else { return Ok(()) };
        let (token, id, below, changed) = (self.token.clone(), self.id.clone(), self.below, self.changed);
        self.record.work = Work::Snapshot { token, id, size_gib, below, changed };
        Ok(self.slot.save(&self.record)?)
    }
}

impl Direct<'_> {
    /// Writes the snapshot and waits until it is complete; its id.
    ///
    /// After an interruption, or a failure that may pass, the unfinished snapshot stays with a record of it here, and
    /// the same call goes on from there; the provider gives it up after an hour without blocks. After a refusal
    /// nothing stays.
    ///
    /// # Errors
    /// When the file cannot be read or changes meanwhile, the provider refuses, or the work is cancelled.
    pub async fn run(&self, api: &Api) -> Result<String> {
        let identity = Identity::of(self.file)?;
        let file = Arc::new(crate::input::open_disk(self.file).map_err(|e| Error::file(self.file, e))?);
        let slot = if self.resume { slot(api, self.name)? } else { Slot::none() };
        let mut state = self.begin(api, slot, &identity).await?;
        let id = match &state.id {
            Some(id) => id.clone(),
            None => {
                let tags = tags(self.name, self.tags);
                // Not cancelled halfway; and should the answer be lost, the token finds the snapshot again.
                let started = api.start_snapshot(self.size_gib, self.name, &tags, &state.token).await;
                if let Err(e) = &started
                    && e.is_certain()
                {
                    state.slot.clear();
                }
                let id = started?;
                info!(COMPONENT, "created snapshot {id}");
                state.id = Some(id.clone());
                state.save()?;
                id
            }
        };
        let written = match self.write(api, &file, &identity, &id, &mut state).await {
            Ok(()) => self.complete(api, &id, state.changed).await,
            Err(e) => Err(e),
        };
        match written {
            Err(e) if self.resume && may_pass(&e) => {
                info!(COMPONENT, "snapshot {id} stays unfinished: repeat the command to go on");
                Err(e)
            }
            Err(e) => {
                match api.delete_snapshot(&id).await {
                    Ok(()) => state.slot.clear(),
                    Err(e) => warning!(COMPONENT, "unfinished snapshot {id} could not be deleted: {e}"),
                }
                Err(e)
            }
            Ok(()) => {
                state.slot.clear();
                Ok(id)
            }
        }
    }

    /// What to go on with, or a record of a new attempt.
    async fn begin(&self, api: &Api, slot: Slot, identity: &Identity) -> Result<State> {
        if let Some(record) = slot.load()
            && let Work::Snapshot { token, id, size_gib, below, changed } = record.work.clone()
        {
            let same = record.identity == *identity && size_gib == self.size_gib;
            match (id, same) {
                (None, true) => return Ok(State { slot, record, token, id: None, below: 0, changed: 0 }),
                (Some(id), true) => {
                    let there = api.snapshot(&id).await?;
                    if there.is_some_and(|s| matches!(s.status.as_str(), "pending" | "completed")) {
                        info!(COMPONENT, "going on with snapshot {id} from block {below}");
                        return Ok(State { slot, record, token, id: Some(id), below, changed });
                    }
                }
                (Some(id), false) => {
                    api.delete_snapshot(&id).await?;
                    info!(COMPONENT, "deleted unfinished snapshot {id} of another file");
                }
                (None, false) => {}
            }
        }
        let token = uuid::Uuid::new_v4().to_string();
        let work =
            Work::Snapshot { token: token.clone(), id: None, size_gib: self.size_gib, below: 0, changed: 0 };
        let place = api.region().to_owned();
        let record = Record { place, file: self.file.into(), identity: identity.clone(), work };
        slot.save(&record)?;
        Ok(State { slot, record, token, id: None, below: 0, changed: 0 })
    }

    /// Sends the blocks that are not zero, several at a time.
    async fn write(
        &self,
        api: &Api,
        file: &Arc<File>,
        identity: &Identity,
        id: &str,
        state: &mut State,
    ) -> Result<()> {
        let size = identity.size;
        let blocks = u32::try_from(size.div_ceil(BLOCK))
            .map_err(|_| Error::Invalid("the image is too large".into()))?;
        let jobs = (state.below..blocks).map(|index| async move {
            let block = read_block(file.clone(), index, size).await.map_err(|e| Error::file(self.file, e))?;
            if let Some(block) = block {
                api.put_block(id, index, block).await?;
                return Ok(1);
            }
            Ok::<u32, Error>(0)
        });
        // In order, so that one number tells how far the work is.
        let mut jobs = stream::iter(jobs).buffered(PARALLEL);
        let mut saved = Instant::now();
        (self.report)(u64::from(state.below) * BLOCK, size);
        let outcome = loop {
            let job = tokio::select! {
                biased;
                () = self.cancel.cancelled() => break Err(Error::Interrupted),
                job = jobs.next() => job,
            };
            match job {
                None => break Ok(()),
                Some(Err(e)) => break Err(e),
                Some(Ok(sent)) => {
                    state.below += 1;
                    state.changed += sent;
                }
            }
            (self.report)((u64::from(state.below) * BLOCK).min(size), size);
            if saved.elapsed() >= RECORDS {
                state.save()?;
                saved = Instant::now();
            }
        };
        drop(jobs);
        state.save()?;
        outcome?;
        match Identity::of(self.file)? == *identity {
            true => Ok(()),
            false => Err(Error::Invalid(format!("{} changed while it was uploaded", self.file.display()))),
        }
    }

    /// Seals the snapshot and waits for the provider to be done with it.
    async fn complete(&self, api: &Api, id: &str, changed: u32) -> Result<()> {
        let sealed = api.complete_snapshot(id, changed).await;
        let look = || async {
            let there = api.snapshot(id).await?;
            let status = there.map_or_else(|| "unknown".to_owned(), |s| s.status);
            match status.as_str() {
                "completed" => Ok(Answer::Ready(())),
                "error" => Err(Error::Invalid(format!("snapshot {id} failed"))),
                _ => Ok(Answer::NotYet(status)),
            }
        };
        // A conflict: an earlier attempt sealed it, its answer lost.
        if let Err(e) = sealed
            && !e.is(&["ConflictException"])
        {
            return Err(e.into());
        }
        until(COMPLETION, format_args!("snapshot {id} complete"), self.cancel, look).await
    }
}

fn slot(api: &Api, name: &str) -> Result<Slot> {
    Ok(Slot::open(api.region(), &format!("snapshot {name}"))?)
}

/// Forgets an earlier attempt, now that the snapshot is complete.
///
/// # Errors
/// While another process works on it.
pub fn forget(api: &Api, name: &str, complete: &str) -> Result<()> {
    let slot = slot(api, name)?;
    if let Some(record) = slot.load()
        && matches!(&record.work, Work::Snapshot { id: Some(id), .. } if id == complete)
    {
        slot.clear();
    }
    Ok(())
}

/// A block of the file, filled up with zeros; `None` if there is nothing else in it.
async fn read_block(file: Arc<File>, index: u32, size: u64) -> std::io::Result<Option<Bytes>> {
    let start = u64::from(index) * BLOCK;
    let bytes = read_at(file, start, BLOCK.min(size - start)).await?;
    if is_zero(&bytes) {
        return Ok(None);
    }
    if bytes.len() as u64 == BLOCK {
        return Ok(Some(bytes));
    }
    let mut whole = bytes.to_vec();
    whole.resize(usize::try_from(BLOCK).expect("half a MiB"), 0);
    Ok(Some(whole.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn blocks_are_padded_and_empty_ones_left_out() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let mut content = vec![0u8; BLOCK as usize * 2 + 10];
        content[BLOCK as usize * 2 + 9] = 7;
        content[3] = 1;
        std::fs::write(path.path(), &content).unwrap();
        let file = Arc::new(File::open(path.path()).unwrap());
        let size = content.len() as u64;
        let first = read_block(file.clone(), 0, size).await.unwrap().unwrap();
        assert_eq!((first.len() as u64, first[3]), (BLOCK, 1));
        assert_eq!(read_block(file.clone(), 1, size).await.unwrap(), None);
        let last = read_block(file, 2, size).await.unwrap().unwrap();
        assert_eq!((last.len() as u64, last[9], last[10]), (BLOCK, 7, 0));
    }
}
