//! Parser of systemd's journal export format (systemd.io/JOURNAL_EXPORT_FORMATS).

/// The largest field value, and the longest line, in bytes.
pub const FIELD_LIMIT: usize = 16 << 20;
/// The largest entry, all its fields together, in bytes.
const ENTRY_LIMIT: usize = 64 << 20;
/// What a field costs besides its bytes, so that a stream of tiny fields is bounded too.
const FIELD_COST: usize = 64;

/// Why a stream is no journal export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A line begins with `=`.
    #[error("journal field without a name")]
    NoName,
    /// A field or line is above [`FIELD_LIMIT`]: a torn stream, most likely.
    #[error("journal field of more than {} MiB", FIELD_LIMIT >> 20)]
    FieldTooBig,
    /// An entry has too many or too large fields.
    #[error("journal entry of more than {} MiB", ENTRY_LIMIT >> 20)]
    EntryTooBig,
    /// A field with a length does not end with a newline.
    #[error("journal field longer than its length says")]
    NoEnd,
}

/// One journal entry: fields in the order they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    fields: Vec<(String, Vec<u8>)>,
}

impl Entry {
    /// The value of a field; of the last one where a name is repeated.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_slice())
    }

    /// All fields.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }
}

/// Takes the stream in pieces of any size and gives out complete entries.
///
/// An entry that is incomplete at the end of the stream is never given out. Memory is bounded by the limits above.
#[derive(Debug, Default)]
pub struct Parser {
    buffer: Vec<u8>,
    /// How much of `buffer` is known to hold no newline.
    scanned: usize,
    state: State,
    entry: Entry,
    size: usize,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Line,
    Length(String),
    Value(String, usize),
    Broken(Error),
}

impl Parser {
    /// A parser at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a piece of the stream and hands each entry that it completes to `found`.
    ///
    /// # Errors
    /// When the stream is no journal export; the same error again for all that follows.
    pub fn push(&mut self, data: &[u8], mut found: impl FnMut(Entry)) -> Result<(), Error> {
        if let State::Broken(error) = self.state {
            return Err(error);
        }
        self.buffer.extend_from_slice(data);
        let mut at = 0;
        let result = loop {
            match self.step(&mut at, &mut found) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        match result {
            Ok(()) => drop(self.buffer.drain(..at)),
            Err(error) => *self = Self { state: State::Broken(error), ..Self::default() },
        }
        result
    }

    /// Takes one element from the buffer at `at`; false when it is not complete yet.
    fn step(&mut self, at: &mut usize, found: &mut impl FnMut(Entry)) -> Result<bool, Error> {
        let rest = &self.buffer[*at..];
        match std::mem::take(&mut self.state) {
            State::Line => {
                let Some(end) = rest[self.scanned..].iter().position(|&b| b == b'\n') else {
                    self.scanned = rest.len();
                    return if rest.len() > FIELD_LIMIT { Err(Error::FieldTooBig) } else { Ok(false) };
                };
                let line = &rest[..self.scanned + end];
                self.scanned = 0;
                *at += line.len() + 1;
                match line.iter().position(|&b| b == b'=') {
                    Some(0) => return Err(Error::NoName),
                    Some(split) => {
                        let (name, value) = (text(&line[..split]), line[split + 1..].to_vec());
                        self.add(name, value)?;
                    }
                    // Blank lines end an entry; before the first field there is none to end.
                    None if line.is_empty() => {
                        self.size = 0;
                        let entry = std::mem::take(&mut self.entry);
                        if !entry.fields.is_empty() {
                            found(entry);
                        }
                    }
                    None => self.state = State::Length(text(line)),
                }
                Ok(true)
            }
            State::Length(name) => {
                let Some(length) = rest.first_chunk::<8>() else {
                    self.state = State::Length(name);
                    return Ok(false);
                };
                let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
                if length > FIELD_LIMIT {
                    return Err(Error::FieldTooBig);
                }
                *at += 8;
                self.state = State::Value(name, length);
                Ok(true)
            }
            State::Value(name, length) => {
                let Some(end) = rest.get(length) else {
                    self.state = State::Value(name, length);
                    return Ok(false);
                };
                if *end != b'\n' {
                    return Err(Error::NoEnd);
                }
                let value = rest[..length].to_vec();
                *at += length + 1;
                self.add(name, value)?;
                Ok(true)
            }
            State::Broken(error) => Err(error),
        }
    }

    fn add(&mut self, name: String, value: Vec<u8>) -> Result<(), Error> {
        if value.len() > FIELD_LIMIT {
            return Err(Error::FieldTooBig);
        }
        self.size += name.len() + value.len() + FIELD_COST;
        if self.size > ENTRY_LIMIT {
            return Err(Error::EntryTooBig);
        }
        self.entry.fields.push((name, value));
        Ok(())
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(stream: &[u8], piece: usize) -> (Vec<Entry>, Result<(), Error>) {
        let (mut parser, mut entries) = (Parser::new(), Vec::new());
        for data in stream.chunks(piece) {
            if let Err(error) = parser.push(data, |entry| entries.push(entry)) {
                return (entries, Err(error));
            }
        }
        (entries, Ok(()))
    }

    fn entry(fields: &[(&str, &[u8])]) -> Entry {
        Entry { fields: fields.iter().map(|(n, v)| ((*n).to_owned(), v.to_vec())).collect() }
    }

    #[test]
    fn entries_come_out_whatever_the_pieces() {
        let mut stream = b"\n\n__CURSOR=s=1;i=2\nMESSAGE=a=b\nEMPTY=\n\nMESSAGE\n".to_vec();
        stream.extend(7u64.to_le_bytes());
        stream.extend(b"one\n\ntw\nNEXT=1\n\n\n\nTORN=x\n");
        let expected = [
            entry(&[("__CURSOR", b"s=1;i=2"), ("MESSAGE", b"a=b"), ("EMPTY", b"")]),
            entry(&[("MESSAGE", b"one\n\ntw"), ("NEXT", b"1")]),
        ];
        for piece in 1..=stream.len() {
            assert_eq!(parse(&stream, piece), (expected.to_vec(), Ok(())));
        }
        assert_eq!(expected[0].get("MESSAGE"), Some(&b"a=b"[..]));
        assert_eq!(expected[0].get("NONE"), None);
        assert_eq!(entry(&[("A", b"1"), ("A", b"2")]).get("A"), Some(&b"2"[..]));
    }

    #[test]
    fn broken_streams_end_with_an_error_and_stay_ended() {
        assert_eq!(parse(b"A=1\n\n=x\n\nB=2\n\n", 3), (vec![entry(&[("A", b"1")])], Err(Error::NoName)));
        let huge = [b"NAME\n".as_slice(), &u64::MAX.to_le_bytes(), b"x"].concat();
        assert_eq!(parse(&huge, 1).1, Err(Error::FieldTooBig));
        let long = [b"NAME\n".as_slice(), &1u64.to_le_bytes(), b"xy"].concat();
        assert_eq!(parse(&long, 2).1, Err(Error::NoEnd));
        assert_eq!(parse(&vec![b'x'; FIELD_LIMIT + 2], 1 << 20).1, Err(Error::FieldTooBig));
        let many = b"A=\n".repeat(ENTRY_LIMIT / FIELD_COST + 1);
        assert_eq!(parse(&many, 1 << 20).1, Err(Error::EntryTooBig));
        let mut parser = Parser::new();
        assert!(parser.push(b"=\n", |_| {}).is_err());
        assert_eq!(parser.push(b"A=1\n\n", |_| panic!("nothing may come")), Err(Error::NoName));
    }

    #[test]
    fn any_bytes_are_survived() {
        // A simple generator: the same bytes in every run.
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            b"A=\n\0\x01B="[(state >> 16) as usize % 7]
        };
        for _ in 0..200 {
            let stream: Vec<u8> = (0..500).map(|_| next()).collect();
            assert_eq!(parse(&stream, 500), parse(&stream, 7));
        }
    }
}
