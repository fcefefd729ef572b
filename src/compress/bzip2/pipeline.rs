//! bzip2 on several threads: cut at the marks, blocks decompressed side by side, put together in order.
//!
//! A mark may happen to be within a block. So the cuts are only tries: whoever puts the results together follows the
//! stream as a decoder does that reads it from the front, and joins a block that goes on beyond a cut with what
//! follows it. The outcome is that of such a decoder, with two exceptions, which no compressor brings about and chance
//! does not either: a block of more than [`MAX_BLOCK`] bytes, and one with more than [`MAX_JOINS`] marks within.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::super::{damaged, truncated};
use super::block::{self, Bits, Verdict};
use super::marks::{BITS, Finder, Mark};

/// 900 000 symbols of 20 bits, and the tables before them, are less.
const MAX_BLOCK: u64 = 2_400_000 * 8;
/// How often a block is joined with what follows.
const MAX_JOINS: u32 = 16;
/// Pieces of output of a block that may wait for their turn: all of an ordinary block, or the first of one that is
/// mostly repetition, whose thread then waits.
const QUEUE: usize = 8;
/// Bits of a stream's header.
const HEADER: u64 = 32;

/// The decoder.
pub struct Pipeline<W: Write> {
    inner: W,
    finder: Finder,
    /// Bits seen so far.
    seen: u64,
    /// What began with the last mark; before the first one, the header.
    current: Segment,
    /// Level of the stream to which the next block seems to belong.
    guess: u8,
    /// What is cut already, from the front.
    queue: VecDeque<Entry>,
    /// Level of the stream at the front, and the checksums of its blocks so far; none between streams.
    stream: Option<(u8, u32)>,
    /// Whether the last stream has ended.
    complete: bool,
    workers: Workers,
}

/// What begins with a mark, or with the data.
#[derive(Default)]
struct Segment {
    start: Option<Mark>,
    /// Number of the first bit.
    at: u64,
    bits: Bits,
}

struct Entry {
    segment: Arc<Segment>,
    /// The mark that follows; none at the end of the data.
    next: Option<Mark>,
    job: Option<Job>,
    /// Whether it is known to go on beyond its end.
    longer: bool,
    /// Of how many more segments it is made.
    joins: u32,
}

/// A block on its way.
struct Job {
    level: u8,
    results: Receiver<Message>,
}

enum Message {
    Output(Vec<u8>),
    Verdict(Verdict),
}

/// What came of looking at the front of the queue.
#[derive(PartialEq, Eq)]
enum Front {
    /// A step was made.
    Moved,
    /// Its thread is still at work.
    Waiting,
    /// It takes what follows to go on.
    Short,
}

impl<W: Write> Pipeline<W> {
    pub fn new(inner: W, workers: usize) -> Self {
        Self {
            inner,
            finder: Finder::default(),
            seen: 0,
            current: Segment::default(),
            guess: 0,
            queue: VecDeque::new(),
            stream: None,
            complete: false,
            workers: Workers::new(workers),
        }
    }

    pub fn inner_mut(&mut self) -> &mut W {
        &mut self.inner
    }

    /// Takes the next bytes.
    pub fn push(&mut self, data: &[u8]) -> io::Result<()> {
        let mut marks = Vec::new();
        self.finder.find(data, |mark, at| marks.push((mark, at)));
        let base = self.seen; // a whole number of bytes
        self.seen += data.len() as u64 * 8;
        let mut from = 0; // bytes of the data that are in the current segment
        for (mark, at) in marks {
            // Up to the byte in which the mark begins, which may have come earlier.
            let upto = at.div_ceil(8).saturating_sub(base / 8);
            let upto = usize::try_from(upto).unwrap_or(usize::MAX).clamp(from, data.len());
            self.current.bits.bytes.extend_from_slice(&data[from..upto]);
            from = upto;
            let next = self.split(mark, at);
            let whole = std::mem::replace(&mut self.current, next);
            self.cut(whole, Some(mark))?;
        }
        self.current.bits.bytes.extend_from_slice(&data[from..]);
        self.current.bits.length = self.seen - self.current.at;
        let limit = if self.current.start.is_none() { HEADER + u64::from(BITS) } else { MAX_BLOCK };
        if self.current.bits.length > limit {
            // Whatever is wrong before this is said first.
            while self.front(true)? == Front::Moved {}
            return Err(damaged(if self.stream.is_none() {
                "this is not bzip2"
            } else {
                "damaged bzip2 data"
            }));
        }
        while self.front(false)? == Front::Moved {}
        Ok(())
    }

    /// Ends the current segment at a bit, and returns what begins there.
    fn split(&mut self, mark: Mark, at: u64) -> Segment {
        let current = &mut self.current;
        current.bits.length = at - current.at;
        // Bytes from the one in which the mark begins on, which came before these data.
        let first = at / 8 - current.at / 8;
        let first = usize::try_from(first).unwrap_or(usize::MAX).min(current.bits.bytes.len());
        let bytes = current.bits.bytes[first..].to_vec();
        let keep = first + usize::from(!at.is_multiple_of(8));
        current.bits.bytes.truncate(keep);
        let skip = (at % 8) as u8;
        Segment { start: Some(mark), at, bits: Bits { bytes, skip, length: 0 } }
    }

    /// Queues a segment that is complete.
    fn cut(&mut self, segment: Segment, next: Option<Mark>) -> io::Result<()> {
        let Some(start) = segment.start else {
            let level = (segment.bits.length == HEADER).then(|| header(&segment.bits, 0)).flatten();
            let level = level.ok_or_else(|| damaged("this is not bzip2"))?;
            (self.guess, self.stream) = (level, Some((level, 0)));
            return Ok(());
        };
        while self.is_full() {
            // If only the next one helps, it is about to come.
            if self.front(true)? == Front::Short {
                break;
            }
        }
        if start == Mark::End
            && let Some(level) = end_of_stream(&segment).and_then(|(_, rest)| header(&segment.bits, rest))
        {
            self.guess = level;
        }
        let segment = Arc::new(segment);
        let job = match start {
            Mark::Block => Some(self.workers.start(&segment, next, self.guess)?),
            Mark::End => None,
        };
        self.queue.push_back(Entry { segment, next, job, longer: false, joins: 0 });
        Ok(())
    }

    /// Whether enough blocks are on their way.
    fn is_full(&self) -> bool {
        let limit = self.workers.limit;
        self.queue.len() >= 8 * limit || self.queue.iter().filter(|e| e.job.is_some()).count() >= limit
    }

    /// Deals with what is at the front of the queue; [`Front::Waiting`] if there is nothing.
    fn front(&mut self, wait: bool) -> io::Result<Front> {
        let Some(entry) = self.queue.front() else { return Ok(Front::Waiting) };
        match (entry.segment.start, self.stream) {
            (Some(Mark::Block), Some((level, _))) if entry.longer => {
                if self.queue.len() < 2 {
                    return Ok(Front::Short);
                }
                self.join()?;
                let verdict = self.here(level)?;
                self.judged(verdict)
            }
            (Some(Mark::Block), Some((level, _))) => {
                let verdict = match &entry.job {
                    Some(job) if job.level == level => match job.pass_on(&mut self.inner, wait)? {
                        Some(verdict) => verdict,
                        None => return Ok(Front::Waiting),
                    },
                    // The guess was wrong: a mark that is none looked like the end of a stream.
                    _ => self.here(level)?,
                };
                self.judged(verdict)
            }
            (Some(Mark::End), Some((_, crc))) => self.end(crc),
            // Only a header leads out of the state between streams, and no mark comes before it.
            _ => Err(damaged("damaged bzip2 data")),
        }
    }

    /// Decompresses the block at the front on this thread.
    fn here(&mut self, level: u8) -> io::Result<Verdict> {
        let Some(entry) = self.queue.front_mut() else { return Ok(Verdict::Damaged) };
        entry.job = None;
        let inner = &mut self.inner;
        block::decompress(&entry.segment.bits, entry.next, level, |piece| inner.write_all(&piece))
    }

    /// Goes on after the block at the front.
    fn judged(&mut self, verdict: Verdict) -> io::Result<Front> {
        if verdict == Verdict::Longer {
            if let Some(entry) = self.queue.front_mut() {
                (entry.longer, entry.job) = (true, None);
            }
            return Ok(Front::Moved);
        }
        if let Some(error) = block::error(&verdict) {
            return Err(error);
        }
        let own = self.queue.pop_front().and_then(|e| e.segment.bits.word(u64::from(BITS)));
        let own = own.ok_or_else(truncated)?; // a block that is right has its checksum
        if let Some((_, crc)) = &mut self.stream {
            *crc = crc.rotate_left(1) ^ own;
        }
        Ok(Front::Moved)
    }

    /// Joins the first two of the queue, of which there are two.
    fn join(&mut self) -> io::Result<()> {
        let (Some(mut first), Some(second)) = (self.queue.pop_front(), self.queue.pop_front()) else {
            return Err(truncated());
        };
        drop((first.job.take(), second.job));
        if first.joins >= MAX_JOINS {
            return Err(damaged("a bzip2 block with too many marks within"));
        }
        let mut bits = first.segment.bits.clone();
        bits.join(&second.segment.bits);
        if bits.length > MAX_BLOCK {
            return Err(damaged("damaged bzip2 data"));
        }
        let segment = Segment { start: first.segment.start, at: first.segment.at, bits };
        let joins = first.joins + 1;
        let segment = Arc::new(segment);
        self.queue.push_front(Entry { segment, next: second.next, job: None, longer: false, joins });
        Ok(())
    }

    /// Goes on after the end of a stream, which is at the front.
    fn end(&mut self, crc: u32) -> io::Result<Front> {
        loop {
            let Some(entry) = self.queue.front() else { return Err(truncated()) };
            let segment = &entry.segment;
            if let Some(own) = segment.bits.word(u64::from(BITS))
                && own != crc
            {
                return Err(damaged("the content differs from its checksum"));
            }
            let rest = end_of_stream(segment);
            let length = segment.bits.length;
            // A mark that is none may be within the checksum and the header of the next stream.
            let is_short = rest.is_none_or(|(_, at)| length < at + HEADER);
            match (rest, entry.next) {
                (_, Some(_)) if is_short && self.queue.len() < 2 => return Ok(Front::Short),
                (_, Some(_)) if is_short => self.join()?,
                (Some((_, at)), None) if at == length => {
                    (self.stream, self.complete) = (None, true);
                    self.queue.pop_front();
                    return Ok(Front::Moved);
                }
                (Some((_, at)), next) => {
                    let level = header(&segment.bits, at);
                    match (level, next) {
                        (Some(level), Some(_)) if length == at + HEADER => {
                            self.stream = Some((level, 0));
                            self.queue.pop_front();
                            return Ok(Front::Moved);
                        }
                        _ if is_short && begins_header(&segment.bits, at) => return Err(truncated()),
                        (None, _) => return Err(damaged("garbage after the end")),
                        (Some(_), None) if length < at + HEADER + u64::from(BITS) => return Err(truncated()),
                        _ => return Err(damaged("damaged bzip2 data")),
                    }
                }
                (None, _) => return Err(truncated()),
            }
        }
    }

    /// There is no more data.
    pub fn finish(mut self) -> io::Result<W> {
        let mut last = std::mem::take(&mut self.current);
        last.bits.length = self.seen - last.at;
        if last.start.is_none() {
            // The first bytes of a header, or all of it, or something else.
            let is_header = begins_header(&last.bits, 0);
            return Err(if is_header { truncated() } else { damaged("this is not bzip2") });
        }
        self.cut(last, None)?;
        while !self.queue.is_empty() {
            if self.front(true)? == Front::Short {
                return Err(truncated());
            }
        }
        if !self.complete {
            return Err(truncated());
        }
        let Self { inner, .. } = self;
        Ok(inner)
    }
}

/// The checksum of a stream, and where the byte after it begins, as the number of a bit of the segment.
fn end_of_stream(segment: &Segment) -> Option<(u32, u64)> {
    let crc = segment.bits.word(u64::from(BITS))?;
    let end = segment.at + u64::from(BITS) + 32;
    let rest = end.next_multiple_of(8) - segment.at;
    (rest <= segment.bits.length).then_some((crc, rest))
}

/// The level in a stream's header.
fn header(bits: &Bits, at: u64) -> Option<u8> {
    let [b'B', b'Z', b'h', digit @ b'1'..=b'9'] = bits.word(at)?.to_be_bytes() else { return None };
    Some(digit - b'0')
}

/// Whether whole bytes from here to the end, or the first four, are those of a header.
fn begins_header(bits: &Bits, at: u64) -> bool {
    let first = usize::try_from((at + u64::from(bits.skip)) / 8).unwrap_or(usize::MAX);
    let bytes = bits.bytes.get(first..).unwrap_or_default();
    bytes.iter().zip(b"BZh").all(|(a, b)| a == b) && bytes.get(3).is_none_or(|b| (b'1'..=b'9').contains(b))
}

impl Job {
    /// Passes on what the block's thread puts out; its verdict, if that is there.
    fn pass_on(&self, inner: &mut impl Write, wait: bool) -> io::Result<Option<Verdict>> {
        loop {
            let message = if wait {
                self.results.recv().ok()
            } else {
                match self.results.try_recv() {
                    Ok(message) => Some(message),
                    Err(TryRecvError::Empty) => return Ok(None),
                    Err(TryRecvError::Disconnected) => None,
                }
            };
            match message {
                Some(Message::Output(piece)) => inner.write_all(&piece)?,
                Some(Message::Verdict(verdict)) => return Ok(Some(verdict)),
                None => return Err(io::Error::other("a decompressing thread failed")),
            }
        }
    }
}

/// What a thread is to do.
struct Task {
    segment: Arc<Segment>,
    next: Option<Mark>,
    level: u8,
    results: SyncSender<Message>,
}

/// The threads. They take tasks in order, so that the one at the front is never behind one that waits.
struct Workers {
    most: usize,
    /// Blocks that may be on their way.
    limit: usize,
    threads: Vec<JoinHandle<()>>,
    tasks: Option<Sender<Task>>,
    waiting: Arc<Mutex<Receiver<Task>>>,
    stop: Arc<AtomicBool>,
}

impl Workers {
    fn new(most: usize) -> Self {
        let (tasks, waiting) = channel();
        let (waiting, stop) = (Arc::new(Mutex::new(waiting)), Arc::default());
        Self { most, limit: 2 * most, threads: Vec::new(), tasks: Some(tasks), waiting, stop }
    }

    /// Gives a block to a thread, of which there are no more than blocks have come.
    fn start(&mut self, segment: &Arc<Segment>, next: Option<Mark>, level: u8) -> io::Result<Job> {
        if self.threads.len() < self.most {
            let (waiting, stop) = (self.waiting.clone(), self.stop.clone());
            let thread = std::thread::Builder::new().name("bunzip2".into()).stack_size(256 << 10);
            self.threads.push(thread.spawn(move || work(&waiting, &stop))?);
        }
        let (sender, results) = sync_channel(QUEUE);
        let task = Task { segment: segment.clone(), next, level, results: sender };
        if let Some(tasks) = &self.tasks {
            // Fails only if all threads are gone, which the job finds out.
            let _ = tasks.send(task);
        }
        Ok(Job { level, results })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks = None;
        for thread in self.threads.drain(..) {
            // One that panicked has ended, too.
            let _ = thread.join();
        }
    }
}

fn work(waiting: &Mutex<Receiver<Task>>, stop: &AtomicBool) {
    loop {
        let task = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Task { segment, next, level, results }) = task else { return };
        if stop.load(Ordering::Relaxed) {
            return;
        }
        // A failure to send means that nobody wants the block any more.
        let put = |piece| {
            if stop.load(Ordering::Relaxed) {
                Err(())
            } else {
                results.send(Message::Output(piece)).map_err(drop)
            }
        };
        if let Ok(verdict) = block::decompress(&segment.bits, next, level, put) {
            let _ = results.send(Message::Verdict(verdict));
        }
    }
}
