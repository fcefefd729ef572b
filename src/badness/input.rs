//! Consoles as they are kept: compressed, in other encodings, or no consoles at all.

use std::io::{self, Read, Write};

use super::{CHUNK, Finding, Flag, Scanner, Source};
use crate::compress::{Compression, Decoder};
use crate::text::encoding::{self, Encoding};

/// By so much of the beginning of a text its encoding is told.
const HEAD: usize = 4096;
/// So much of each piece of a text is looked at to see whether it is one.
const SAMPLE: usize = 4096;

/// What a look through a file or stream came to.
#[derive(Debug)]
pub struct Examined {
    /// What was found, in the order of the checks.
    pub findings: Vec<Finding>,
    /// How the input was packed.
    pub compression: Option<Compression>,
    /// How its characters were written.
    pub encoding: Encoding,
    /// Length of the text, unpacked, in bytes.
    pub bytes: u64,
    /// Ends of lines in it.
    pub lines: u64,
    /// Why `findings` do not speak for the whole input: without this, no finding means that it is clean.
    pub unread: Option<Unread>,
}

/// Why something was not, or not wholly, looked through.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// There is nothing in it, or nothing that can be seen.
    #[error("it is empty")]
    Empty,
    /// It is not text.
    #[error("it is not text but {0}")]
    Binary(&'static str),
    /// Reading ended with an error.
    #[error("reading it failed after {bytes} bytes of text: {source}")]
    Read {
        /// How much was looked through.
        bytes: u64,
        /// What the system said.
        source: io::Error,
    },
    /// It is damaged or incomplete.
    #[error("its {packed} data could not be unpacked after {bytes} bytes of text: {source}")]
    Packed {
        /// The program that packed it.
        packed: &'static str,
        /// How much was looked through.
        bytes: u64,
        /// What is wrong with it.
        source: io::Error,
    },
}

impl Unread {
    /// A word for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Binary(_) => "binary",
            Self::Read { .. } => "unreadable",
            Self::Packed { .. } => "damaged",
        }
    }
}

/// Contents that are told by how they begin, with what to do about them.
const KINDS: &[(&[u8], &str)] = &[
    (b"LPKSHHRH", "a systemd journal file; `journalctl --file` makes text of it"),
    (b"PK\x03\x04", "a zip archive; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (b"\x04\x22\x4d\x18", "lz4 data; unpack it first"),
    (b"\x89LZO", "lzop data; unpack it first"),
    (b"\x5d\x00\x00", "lzma data; unpack it first"),
    (b"\x1f\x9d", "data of compress(1); unpack it first"),
    (b"\x7fELF", "a program or a memory dump"),
    (b"QFI\xfb", "a qcow2 disk image"),
    (b"\x89PNG", "a picture"),
];

/// Searches a whole input, unpacking and decoding it as it is read: gzip, xz, zstd and bzip2, UTF-16 with and without
/// a byte order mark. Blocking. Memory is bounded; xz may ask for up to 128 MiB.
pub fn examine(mut reader: impl Read, source: Source, flags: &[Flag]) -> Examined {
    let mut buffer = vec![0; CHUNK];
    let (mut filled, mut failed) = (0, None);
    // Enough to tell the compression by.
    while filled < 8 && failed.is_none() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => failed = Some(e),
        }
    }
    let compression = Compression::of_content(&buffer[..filled]);
    let mut text = Text::new(Scanner::new(source, flags));
    let unpacked = unpack(&mut reader, &mut buffer, filled, compression, &mut text, &mut failed);
    text.end();
    let (bytes, kind) = (text.bytes, text.kind);
    let encoding = text.encoding.unwrap_or(Encoding::Utf8);
    let (blank, lines) = (text.scanner.is_blank(), text.scanner.lines());
    let unread = match (failed, unpacked, compression) {
        (Some(source), ..) => Some(Unread::Read { bytes, source }),
        (None, Err(source), Some(packed)) => Some(Unread::Packed { packed: packed.name(), bytes, source }),
        (None, Err(source), None) => Some(Unread::Read { bytes, source }),
        // A text may well hold some noise of a serial line.
        _ if text.rubbish * 5 > text.sampled => Some(Unread::Binary(kind.unwrap_or("binary data"))),
        _ if blank => Some(Unread::Empty),
        _ => None,
    };
    Examined { findings: text.scanner.finish(), compression, encoding, bytes, lines, unread }
}

/// Reads all of the input into `text`; an error of the reader goes to `failed`.
fn unpack(
    reader: &mut impl Read,
    buffer: &mut [u8],
    mut filled: usize,
    compression: Option<Compression>,
    text: &mut Text,
    failed: &mut Option<io::Error>,
) -> io::Result<()> {
    let mut decoder = Decoder::with_workers(compression, text, 1)?;
    while filled > 0 {
        decoder.write_all(&buffer[..filled])?;
        filled = loop {
            match reader.read(buffer) {
                Ok(n) => break n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    *failed = Some(e);
                    return Ok(());
                }
            }
        };
    }
    // No bytes at all are no broken stream either.
    decoder.finish().map(drop)
}

/// Takes the unpacked content, finds out its encoding and hands its text to the scanner.
struct Text {
    scanner: Scanner,
    /// The beginning, until the encoding is known.
    head: Vec<u8>,
    encoding: Option<Encoding>,
    kind: Option<&'static str>,
    decoder: encoding::Decoder,
    decoded: Vec<u8>,
    bytes: u64,
    sampled: usize,
    rubbish: usize,
}

impl Text {
    fn new(scanner: Scanner) -> Self {
        Self {
            scanner,
            head: Vec::new(),
            encoding: None,
            kind: None,
            decoder: encoding::Decoder::new(Encoding::Utf8),
            decoded: Vec::new(),
            bytes: 0,
            sampled: 0,
            rubbish: 0,
        }
    }

    /// Decides by what has come so far.
    fn begin(&mut self) {
        let head = std::mem::take(&mut self.head);
        let (encoding, mark) = Encoding::detect(&head[..head.len().min(HEAD)]);
        self.encoding = Some(encoding);
        self.decoder = encoding::Decoder::new(encoding);
        self.kind = KINDS.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, kind)| *kind);
        self.take(&head[mark..]);
    }

    fn take(&mut self, content: &[u8]) {
        let mut decoded = std::mem::take(&mut self.decoded);
        let text = if self.encoding == Some(Encoding::Utf8) {
            content
        } else {
            decoded.clear();
            self.decoder.decode(content, &mut decoded);
            &decoded
        };
        let sample = &text[..text.len().min(SAMPLE)];
        self.sampled += sample.len();
        self.rubbish += encoding::not_text(sample);
        self.bytes += text.len() as u64;
        self.scanner.push(text);
        self.decoded = decoded;
    }

    fn end(&mut self) {
        if self.encoding.is_none() {
            self.begin();
        }
    }
}

impl Write for Text {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.encoding.is_some() {
            self.take(data);
        } else {
            self.head.extend_from_slice(data);
            if self.head.len() >= HEAD {
                self.begin();
            }
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
