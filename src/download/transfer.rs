//! One download: asks, writes, resumes, starts over, until all is there and proven, or the budget is spent.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::ahead::Rate;
use super::part::Part;
use super::source::{Opened, Resume, Source};
use super::writer::{Finished, Plan, Writer};
use super::{CheckError, Engine, Error, MakeCheck};
use crate::compress::{Compression, Decoder};
use crate::http::Budget;
use crate::progress::Progress;

/// How often a download starts over because its source changes.
const RESTARTS: u32 = 3;

/// What to download, and how.
pub struct Request<'a> {
    /// From where.
    pub source: &'a Source,
    /// To where; a regular file, or nothing yet.
    pub destination: &'a Path,
    /// Judges the content as it is at the source.
    pub check: Option<MakeCheck<'a>>,
    /// Decompresses what goes into the file. Such a download is not resumed after its process has ended.
    pub decompress: Option<Compression>,
}

/// What a download did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What the check says.
    pub verdict: Option<String>,
    /// Bytes in the file.
    pub written: u64,
    /// Bytes that were there from an earlier, interrupted download.
    pub resumed: u64,
    /// How long it took.
    pub elapsed: Duration,
}

impl Engine {
    /// Downloads to a file, which is replaced when all is proven right, and left as it is otherwise.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn get(&self, request: &Request<'_>, cancel: &CancellationToken) -> Result<Outcome, Error> {
        let work = async {
            let (part, outcome) = self.to_part(request).await?;
            tokio::task::spawn_blocking(move || part.commit()).await.map_err(Error::thread)??;
            Ok(outcome)
        };
        cancel.run_until_cancelled(work).await.unwrap_or(Err(Error::Interrupted))
    }

    /// Reads something short into memory.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::TooLong`] above `limit` bytes.
    pub async fn fetch(
        &self,
        source: &Source,
        limit: u64,
        cancel: &CancellationToken,
    ) -> Result<Vec<u8>, Error> {
        let work = async {
            let mut budget = self.http.retry().budget();
            loop {
                match self.fetch_once(source, limit).await {
                    Ok(content) => return Ok(content),
                    Err(e) => budget.again("download", e).await?,
                }
            }
        };
        cancel.run_until_cancelled(work).await.unwrap_or(Err(Error::Interrupted))
    }

    async fn fetch_once(&self, source: &Source, limit: u64) -> Result<Vec<u8>, Error> {
        let what = source.to_string();
        let Opened { head, mut body, .. } = self.open(source, None).await?;
        let corrupt = |source| Error::Corrupt { what: what.clone(), source };
        let mut content = Decoder::new(head.coding(), Vec::new()).map_err(corrupt)?;
        let (mut got, mut crc) = (0, 0);
        while let Some(piece) = body.next().await? {
            got += piece.len() as u64;
            crc = crc32c::crc32c_append(crc, &piece);
            std::io::Write::write_all(&mut content, &piece).map_err(corrupt)?;
            if got > limit || content.inner_mut().len() as u64 > limit {
                return Err(Error::TooLong { what, limit });
            }
        }
        if let Some(total) = head.total.filter(|t| *t != got) {
            return Err(Error::Truncated { what, got, total });
        }
        if head.crc32c.is_some_and(|c| c != crc) {
            return Err(Error::Checksum { what });
        }
        content.finish().map_err(corrupt)
    }

    /// Downloads to the partial file, proven right but not renamed yet.
    pub(super) async fn to_part(&self, request: &Request<'_>) -> Result<(Part, Outcome), Error> {
        let destination = request.destination.to_owned();
        let part =
            tokio::task::spawn_blocking(move || Part::open(&destination)).await.map_err(Error::thread)??;
        self.fill_part(request, part).await
    }

    /// As [`Engine::to_part`], into a part that is open already.
    pub(super) async fn fill_part(
        &self,
        request: &Request<'_>,
        part: Part,
    ) -> Result<(Part, Outcome), Error> {
        let started = Instant::now();
        let mut transfer = Transfer::new(self, request, part);
        let finished = match transfer.run().await {
            Ok(finished) => finished,
            Err(e) => {
                if e.is_about_content() {
                    transfer.part.remove();
                }
                return Err(e);
            }
        };
        let Finished { verdict, written } = finished;
        let Transfer { part, resumed, .. } = transfer;
        Ok((part, Outcome { verdict, written, resumed, elapsed: started.elapsed() }))
    }
}

struct Transfer<'a> {
    engine: &'a Engine,
    request: &'a Request<'a>,
    what: String,
    part: Part,
    progress: Progress,
    /// The most bytes there have ever been, for the budget.
    best: u64,
    resumed: u64,
    /// Whether the content comes from more than one answer.
    joined: bool,
    /// Whether several ranges at a time have been tried and given up.
    single: bool,
    /// Whether the source answers wrongly when it is asked for the rest.
    no_ranges: bool,
}

impl<'a> Transfer<'a> {
    fn new(engine: &'a Engine, request: &'a Request<'a>, part: Part) -> Self {
        let name =
            request.destination.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        Self {
            engine,
            request,
            what: request.source.to_string(),
            part,
            progress: Progress::of_file("download", &name),
            best: 0,
            resumed: 0,
            joined: false,
            single: false,
            no_ranges: false,
        }
    }

    /// Twice at most: content that proves wrong is fetched once more from zero, for it may be a matter of parts that
    /// do not fit or of damage on the way.
    async fn run(&mut self) -> Result<Finished, Error> {
        let engine = self.engine;
        let mut budget = engine.http.retry().budget();
        let mut resume =
            if self.request.decompress.is_none() { self.part.resume(self.request.source) } else { None };
        for second in [false, true] {
            let (intact, result) = match self.fill(resume.take(), &mut budget).await {
                Ok(writer) => (writer.head().crc32c.is_some(), writer.finish().await),
                // These are found out before all is there.
                Err(e @ (Error::Corrupt { .. } | Error::Differs { .. })) => (false, Err(e)),
                Err(e) => return Err(e),
            };
            match result {
                Err(e @ Error::Encoded { .. }) => return Err(e),
                Err(e) if e.is_about_content() && !second => {
                    // One answer with a checksum that fits is what the server has: asking again is no use.
                    if intact && !self.joined && matches!(e, Error::Rejected { .. }) {
                        return Err(e);
                    }
                    crate::warning!("download", "{}; starting over", crate::text::chain(&e));
                }
                other => return other,
            }
            (self.joined, self.single) = (false, true);
        }
        unreachable!("the second pass returns");
    }

    /// Fills the part with all bytes of one version.
    async fn fill(&mut self, resume: Option<Resume>, budget: &mut Budget<'_>) -> Result<Writer, Error> {
        let mut writer = None;
        if let Some(resume) = &resume {
            // Hashed before the server is asked, which would not wait with an answer in its hands.
            let started = self.writer(resume.head.clone(), resume.offset).await;
            match started {
                Ok(w) => {
                    (self.resumed, self.joined, self.best) = (resume.offset, true, resume.offset);
                    writer = Some(w);
                }
                Err(e @ (Error::Read { .. } | Error::Corrupt { .. })) => {
                    crate::warning!("download", "{}; starting over", crate::text::chain(&e));
                }
                Err(e) => return Err(e),
            }
        }
        let mut restarts = 0;
        loop {
            let error = match self.answer(&mut writer).await {
                Ok(true) => break,
                Ok(false) => continue,
                Err(e) => e,
            };
            if let Error::Range { .. } = error
                && !self.no_ranges
            {
                crate::warning!("download", "{error}; asking for all of it, from the first byte");
                (self.no_ranges, self.single) = (true, true);
                self.part.sends_rest(false);
                continue;
            }
            if let Error::Changed { .. } = error {
                restarts += 1;
                if restarts > RESTARTS {
                    return Err(error);
                }
                crate::info!("download", "{} has changed; starting over", self.what);
                self.forget(&mut writer).await;
                continue;
            }
            // Whoever brings more bytes than ever before is not broken.
            let position = writer.as_ref().map_or(0, Writer::position);
            if position > self.best {
                self.best = position;
                budget.refill();
            }
            budget.again("download", error).await?;
            if writer.as_ref().is_some_and(|w| w.head().validator.is_none()) {
                self.forget(&mut writer).await;
            }
        }
        // The loop ends with a writer only.
        writer.ok_or_else(|| Error::thread("no writer"))
    }

    async fn forget(&mut self, writer: &mut Option<Writer>) {
        (self.resumed, self.joined) = (0, false);
        if let Some(writer) = writer.take() {
            writer.abandon().await;
        }
    }

    /// One answer: passes its bytes on to the writer, which is a new one if the answer begins at zero.
    ///
    /// Whether all is there; if not, it is to be asked for once more.
    async fn answer(&mut self, writer: &mut Option<Writer>) -> Result<bool, Error> {
        let resume = writer.as_ref().and_then(|w| {
            let validator = w.head().validator.clone()?;
            Some(Resume { offset: w.position(), head: w.head().clone(), validator }).filter(|r| r.offset > 0)
        });
        let asked = resume.as_ref().filter(|_| !self.no_ranges);
        let Opened { head, offset, end, mut body } = self.engine.open(self.request.source, asked).await?;
        // The part holds what is sent, unchanged.
        let whole = self.request.decompress.is_none() && !head.gzipped;
        let is_same =
            |r: &Resume| head.validator.as_ref() == Some(&r.validator) && head.total == r.head.total;
        if let (Some(_), true) = (&writer, offset > 0) {
            crate::info!("download", "resuming {} from byte {offset}", self.what);
            self.joined = true;
            self.part.sends_rest(true);
        } else if whole && resume.as_ref().is_some_and(is_same) {
            // Nothing is given up before there is more of it.
            crate::info!("download", "{} comes from its first byte again", self.what);
            (self.resumed, self.joined) = (0, true);
            self.part.sends_rest(false);
        } else {
            if resume.is_some() {
                crate::info!("download", "{} cannot be resumed or has changed; starting over", self.what);
            }
            self.forget(writer).await;
            self.part.begin(self.request.source, &head, whole)?;
            *writer = Some(self.writer(head.clone(), 0).await?);
        }
        let Some(writer) = writer.as_mut() else { return Err(Error::thread("no writer")) };
        self.progress.answer(writer.position(), head.total);
        let (mut rate, mut is_ahead) = (Rate::default(), false);
        // The place of the next byte of this answer: before the writer's for what is there already.
        let mut at = offset;
        while head.total != Some(writer.position()) && (is_ahead || end != Some(at)) {
            let asked = Instant::now();
            let piece = match body.next().await {
                Err(e) if is_ahead => {
                    // Nothing is lost, and the single stream finds out whether it is more than a passing trouble.
                    crate::info!("download", "{}; going on with one connection", crate::text::chain(&e));
                    self.single = true;
                    return Ok(false);
                }
                piece => piece?,
            };
            let Some(mut piece) = piece else { break };
            rate.add(piece.len() as u64, asked);
            let known = writer.position() - at;
            if known > 0 {
                let old = piece.split_to(usize::try_from(known).map_or(piece.len(), |k| k.min(piece.len())));
                let length = old.len() as u64;
                writer.again(old, at).await?;
                at += length;
            }
            let length = piece.len() as u64;
            if length == 0 {
                continue;
            }
            if !is_ahead && end.is_some_and(|e| at + length > e) {
                let reason = "a part came that is longer than it says";
                return Err(Error::Range { what: self.what.clone(), reason });
            }
            if head.total.is_some_and(|t| writer.position() + length > t) {
                let reason = "more bytes came than were announced".into();
                return Err(Error::Protocol { what: self.what.clone(), reason });
            }
            writer.push(piece).await?;
            at += length;
            self.progress.advance(length);
            let rest = head.total.map_or(0, |t| t - writer.position());
            if !self.single
                && !is_ahead
                && rate.is_worth(self.engine.ranges(), rest)
                && let Some(ahead) = self.engine.ahead(self.request.source, writer.head(), writer.position())
            {
                crate::info!("download", "{} is slow: several connections", self.what);
                (body, is_ahead, self.joined) = (ahead, true, true);
            }
        }
        match head.total {
            // A slice, all of which came.
            Some(total) if end.is_some_and(|e| e == at && e < total) => Ok(false),
            Some(total) if total != writer.position() => {
                Err(Error::Truncated { what: self.what.clone(), got: writer.position(), total })
            }
            _ => Ok(true),
        }
    }

    async fn writer(&self, head: super::source::Head, position: u64) -> Result<Writer, Error> {
        let check = self.request.check.map(|make| make()).transpose();
        let check =
            check.map_err(|source: CheckError| Error::Rejected { what: self.what.clone(), source })?;
        // Which bytes were signed of content that is encoded is not known before.
        let other = self.request.check.filter(|_| head.gzipped || head.coding.is_some());
        let other = other.and_then(|make| make().ok());
        let plan = Plan { check, other, decompress: self.request.decompress };
        Writer::start(self.part.file(), &self.what, self.part.path(), head, plan, position).await
    }
}
