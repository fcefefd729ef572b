//! Records a machine's journal into its output folder, across reboots.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Formatter, Parser};
use crate::ssh;

/// The readable journal.
pub const TEXT_FILE: &str = "journal.txt";
/// The journal as exported, compressed; a gzip member per recording.
const RAW: &str = "journal-raw.txt.gz";
/// A stream that has been silent for this long is taken as drained.
const IDLE: Duration = Duration::from_millis(100);
/// How long writing what was received may take when a recording is stopped.
const FINISH: Duration = Duration::from_secs(10);
/// Pieces of a reader's stream, in bytes.
const PIECE: usize = 64 << 10;

/// Writes `journal.txt` and `journal-raw.txt.gz` of one machine.
///
/// Dropping it ends a recording at once; [`Recorder::stop`] first takes in what is on its way.
pub struct Recorder {
    text: PathBuf,
    files: Arc<Mutex<Files>>,
    running: tokio::sync::Mutex<Option<Running>>,
}

struct Files {
    text: File,
    raw: File,
    formatter: Formatter,
    cursor: Option<String>,
}

struct Running {
    task: JoinHandle<()>,
    /// Sent with the time limit for draining; dropped, it ends the task at once.
    stop: oneshot::Sender<Duration>,
}

/// Watches a recording from outside; it goes on when this is dropped.
#[derive(Clone, Debug)]
pub struct Following {
    end: watch::Receiver<Option<End>>,
}

type End = Option<Arc<ssh::Error>>;

impl Following {
    /// Waits for the end of the stream. An error is given only where the command itself failed: that the connection
    /// or the session closes is the normal end.
    pub async fn ended(&mut self) -> Option<Arc<ssh::Error>> {
        match self.end.wait_for(Option::is_some).await {
            Ok(end) => end.clone().flatten(),
            // The recording was stopped or dropped.
            Err(_) => None,
        }
    }
}

/// Where a journal comes from.
enum Source {
    Ssh(ssh::Stream),
    Reader(Box<dyn AsyncRead + Send + Unpin>),
}

impl Source {
    async fn next(&mut self) -> Option<Result<Vec<u8>, ssh::Error>> {
        match self {
            Self::Ssh(stream) => stream.next().await,
            Self::Reader(reader) => {
                let mut piece = Vec::with_capacity(PIECE);
                match reader.read_buf(&mut piece).await {
                    Ok(1..) => Some(Ok(piece)),
                    Ok(0) => None,
                    Err(error) => {
                        crate::debug!("journal", "journal stream ended: {error}");
                        None
                    }
                }
            }
        }
    }
}

impl Recorder {
    /// Opens the two files in `dir` for appending; makes them if they are missing.
    ///
    /// # Errors
    /// When a file cannot be opened.
    pub fn create(dir: &Path) -> io::Result<Self> {
        let open = |name| OpenOptions::new().create(true).append(true).open(dir.join(name));
        let files =
            Files { text: open(TEXT_FILE)?, raw: open(RAW)?, formatter: Formatter::new(), cursor: None };
        Ok(Self {
            text: dir.join(TEXT_FILE),
            files: Arc::new(Mutex::new(files)),
            running: tokio::sync::Mutex::new(None),
        })
    }

    /// Starts recording from the machine's journal: all of this boot, or what came after the last entry recorded.
    /// An earlier recording is ended first. Returns once the remote command runs.
    ///
    /// # Errors
    /// When the remote command cannot be started.
    pub async fn follow(&self, client: &ssh::Client) -> Result<Following, ssh::Error> {
        let mut running = self.running.lock().await;
        end(running.take(), Duration::ZERO).await;
        let from = match &lock(&self.files).cursor {
            Some(cursor) => format!("--after-cursor {}", ssh::quote(cursor)),
            None => "--boot".to_owned(),
        };
        let command = format!("journalctl --output=export --follow --lines=all {from}");
        let stream = client.stream(&command).await?;
        Ok(self.start(&mut running, Source::Ssh(stream)))
    }

    /// Starts recording from any stream in the export format, for example a virtio port or a local `journalctl`.
    /// An earlier recording is ended first.
    pub async fn follow_reader(&self, reader: impl AsyncRead + Send + Unpin + 'static) -> Following {
        let mut running = self.running.lock().await;
        end(running.take(), Duration::ZERO).await;
        self.start(&mut running, Source::Reader(Box::new(reader)))
    }

    fn start(&self, running: &mut Option<Running>, source: Source) -> Following {
        let (stop, stopped) = oneshot::channel();
        let (ended, end) = watch::channel(None);
        let files = self.files.clone();
        let task = tokio::spawn(async move {
            let how = record(source, files, stopped).await;
            let _ = ended.send(Some(how));
        });
        *running = Some(Running { task, stop });
        Following { end }
    }

    /// Ends the recording: takes in what is on its way until the stream is silent for a moment, for at most `drain`,
    /// and writes it out.
    pub async fn stop(&self, drain: Duration) {
        let running = self.running.lock().await.take();
        end(running, drain).await;
    }

    /// The readable journal as recorded so far.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn text(&self) -> io::Result<Vec<u8>> {
        std::fs::read(&self.text)
    }
}

async fn end(running: Option<Running>, drain: Duration) {
    let Some(Running { mut task, stop }) = running else { return };
    let _ = stop.send(drain);
    if timeout(drain + FINISH, &mut task).await.is_err() {
        crate::warning!("journal", "recording does not end; the end of the journal may be missing");
        task.abort();
    }
}

fn lock(files: &Mutex<Files>) -> MutexGuard<'_, Files> {
    files.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes pieces from the source until it ends or somebody stops it, and finishes the files.
async fn record(mut source: Source, files: Arc<Mutex<Files>>, mut stop: oneshot::Receiver<Duration>) -> End {
    let mut end = None;
    let mut deadline: Option<Instant> = None;
    let raw = lock(&files).raw.try_clone();
    let mut sink = match raw {
        Ok(raw) => {
            Some(Sink { files, gzip: GzEncoder::new(raw, Compression::best()), parser: Parser::new() })
        }
        Err(error) => {
            crate::warning!("journal", "cannot record: {error}");
            None
        }
    };
    while let Some(mut writer) = sink.take() {
        let piece = match deadline {
            None => tokio::select! {
                piece = source.next() => piece,
                drain = &mut stop => match drain {
                    Ok(drain) => {
                        deadline = Some(Instant::now() + drain);
                        sink = Some(writer);
                        continue;
                    }
                    // The recorder is gone.
                    Err(_) => None,
                },
            },
            Some(deadline) => {
                timeout_at(deadline.min(Instant::now() + IDLE), source.next()).await.ok().flatten()
            }
        };
        let piece = match piece {
            Some(Ok(piece)) => Some(piece),
            Some(Err(error)) => {
                if !error.is_lost() {
                    crate::debug!("journal", "journal stream ended: {error}");
                    end = Some(Arc::new(error));
                }
                None
            }
            None => None,
        };
        // Compression and the disk may take their time: not on a thread of the runtime.
        let written = tokio::task::spawn_blocking(move || match piece {
            Some(piece) => writer.write(&piece).map(|()| Some(writer)),
            None => writer.gzip.finish().map(|_| None).map_err(WriteError::File),
        });
        match written.await {
            Ok(Ok(next)) => sink = next,
            Ok(Err(error)) => crate::warning!("journal", "recording ended: {error}"),
            Err(_) => {}
        }
    }
    end
}

/// One recording's way into the files.
struct Sink {
    files: Arc<Mutex<Files>>,
    gzip: GzEncoder<File>,
    parser: Parser,
}

#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("cannot write the journal: {0}")]
    File(io::Error),
    #[error(transparent)]
    Format(#[from] super::Error),
}

impl Sink {
    fn write(&mut self, piece: &[u8]) -> Result<(), WriteError> {
        self.gzip.write_all(piece).map_err(WriteError::File)?;
        let mut files = lock(&self.files);
        let files = &mut *files;
        let mut text = String::new();
        let parsed = self.parser.push(piece, |entry| {
            files.formatter.write(&entry, &mut text);
            if let Some(cursor) = entry.get("__CURSOR") {
                files.cursor = Some(String::from_utf8_lossy(cursor).into_owned());
            }
        });
        files.text.write_all(text.as_bytes()).map_err(WriteError::File)?;
        Ok(parsed?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use tokio::io::AsyncWriteExt;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn unpack(dir: &Path) -> String {
        let mut text = String::new();
        flate2::read::MultiGzDecoder::new(File::open(dir.join(RAW)).unwrap())
            .read_to_string(&mut text)
            .unwrap();
        text
    }

    fn entry(number: u32, boot: &str) -> String {
        format!(
            "__CURSOR=c{number}\n__REALTIME_TIMESTAMP=1136214245000000\nMESSAGE=m{number}\n_BOOT_ID={boot}\n\n"
        )
    }

    fn messages(recorder: &Recorder) -> Vec<String> {
        let text = String::from_utf8(recorder.text().unwrap()).unwrap();
        text.lines().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect()
    }

    #[tokio::test]
    async fn one_file_holds_all_boots() {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::create(dir.path()).unwrap();
        let first = entry(1, "a") + "TORN=";
        let mut following = recorder.follow_reader(io::Cursor::new(first.clone())).await;
        assert!(following.ended().await.is_none());
        let (mut writer, reader) = tokio::io::duplex(1024);
        let mut following = recorder.follow_reader(reader).await;
        writer.write_all(entry(2, "b").as_bytes()).await.unwrap();
        recorder.stop(LONG).await;
        assert!(following.ended().await.is_none());
        assert_eq!(messages(&recorder), ["m1", "--", "m2"]);
        assert_eq!(unpack(dir.path()), first + &entry(2, "b"));
        assert_eq!(lock(&recorder.files).cursor.as_deref(), Some("c2"));
        // Another recorder goes on in the same files.
        let recorder = Recorder::create(dir.path()).unwrap();
        recorder.follow_reader(io::Cursor::new(entry(3, "b"))).await.ended().await;
        assert_eq!(messages(&recorder), ["m1", "--", "m2", "m3"]);
        recorder.stop(Duration::ZERO).await;
    }

    #[tokio::test]
    async fn a_broken_stream_is_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::create(dir.path()).unwrap();
        let torn = entry(1, "a") + "MESSAGE\n\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}rest";
        assert!(recorder.follow_reader(io::Cursor::new(torn)).await.ended().await.is_none());
        assert_eq!(messages(&recorder), ["m1"]);
        assert!(unpack(dir.path()).ends_with("rest"));
    }

    #[tokio::test]
    async fn dropping_ends_the_recording() {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::create(dir.path()).unwrap();
        let (writer, reader) = tokio::io::duplex(1024);
        let mut following = recorder.follow_reader(reader).await;
        drop(recorder);
        assert!(timeout(LONG, following.ended()).await.unwrap().is_none());
        drop(writer);
    }

    #[tokio::test]
    async fn a_machines_journal_is_followed_over_ssh() {
        let Some(server) = ssh::tests::Server::start() else { return };
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::create(dir.path()).unwrap();
        let client = server.client();
        // A journalctl that shows how it was called and goes on until its folder is gone.
        let home = server.dir.path().display();
        let script = format!(
            "#!/bin/sh\nprintf '__CURSOR=s=1;it\\047s\\n__REALTIME_TIMESTAMP=1136214245000000\\nMESSAGE=%s\\n\\n' \"$*\"\n\
             while test -e {home}; do sleep 0.05; done\n"
        );
        let path = server.dir.path().join("bin/journalctl");
        ssh::install_file(&client, script, path.to_str().unwrap(), 0o755).await.unwrap();
        let calls = async |count: usize| loop {
            let text = String::from_utf8(recorder.text().unwrap()).unwrap();
            let lines: Vec<_> =
                text.lines().map(|line| line.split_once(": ").unwrap().1.to_owned()).collect();
            if lines.len() == count {
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let mut first = recorder.follow(&client).await.unwrap();
        assert_eq!(timeout(LONG, calls(1)).await.unwrap(), ["--output=export --follow --lines=all --boot"]);
        let mut second = recorder.follow(&client).await.unwrap();
        assert!(first.ended().await.is_none());
        let lines = timeout(LONG, calls(2)).await.unwrap();
        assert_eq!(lines[1], "--output=export --follow --lines=all --after-cursor s=1;it's");
        server.kill();
        assert!(second.ended().await.is_none());
        // A command that fails says so.
        ssh::install_file(&client, "#!/bin/sh\nexit 1\n", path.to_str().unwrap(), 0o755).await.unwrap();
        let error = recorder.follow(&client).await.unwrap().ended().await.unwrap();
        assert_eq!(error.exit_status(), Some(1));
        client.close().await;
    }
}
