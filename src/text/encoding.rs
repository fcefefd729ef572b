//! Which characters bytes stand for, and whether they stand for any.

/// An encoding of text that logs and configuration files come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// UTF-8, and ASCII with it.
    Utf8,
    /// UTF-16, low byte first: what Windows' shells write.
    Utf16Le,
    /// UTF-16, high byte first.
    Utf16Be,
}

impl Encoding {
    /// The encoding of a text that begins so, and the length of its byte order mark.
    ///
    /// Without a mark UTF-16 is told by the zeros in every other byte, which mostly Latin text has there.
    pub fn detect(head: &[u8]) -> (Self, usize) {
        for (mark, encoding) in
            [(&b"\xef\xbb\xbf"[..], Self::Utf8), (b"\xff\xfe", Self::Utf16Le), (b"\xfe\xff", Self::Utf16Be)]
        {
            if head.starts_with(mark) {
                return (encoding, mark.len());
            }
        }
        let pairs = head.len() / 2;
        let zeros = |odd: usize| head.chunks_exact(2).filter(|pair| pair[odd] == 0).count();
        let (high, low) = (zeros(0), zeros(1));
        let most = |n: usize| pairs >= 4 && n * 10 >= pairs * 7;
        let few = |n: usize| n * 10 <= pairs;
        match () {
            () if most(low) && few(high) => (Self::Utf16Le, 0),
            () if most(high) && few(low) => (Self::Utf16Be, 0),
            () => (Self::Utf8, 0),
        }
    }

    /// The name that people know.
    pub fn name(self) -> &'static str {
        match self {
            Self::Utf8 => "UTF-8",
            Self::Utf16Le => "UTF-16LE",
            Self::Utf16Be => "UTF-16BE",
        }
    }
}

/// Turns UTF-16 that arrives in pieces into UTF-8; UTF-8 stays as it is.
#[derive(Debug)]
pub struct Decoder {
    encoding: Encoding,
    /// Half of a unit.
    byte: Option<u8>,
    /// The first half of a pair of units.
    high: Option<u16>,
}

impl Decoder {
    /// A decoder of what follows the byte order mark.
    pub fn new(encoding: Encoding) -> Self {
        Self { encoding, byte: None, high: None }
    }

    /// Appends the text of `input` to `out`; what stands for no character becomes U+FFFD.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) {
        if self.encoding == Encoding::Utf8 {
            return out.extend_from_slice(input);
        }
        for &byte in input {
            let Some(first) = self.byte.take() else {
                self.byte = Some(byte);
                continue;
            };
            let unit = match self.encoding {
                Encoding::Utf16Be => u16::from_be_bytes([first, byte]),
                _ => u16::from_le_bytes([first, byte]),
            };
            let mut put = |c: Option<char>| {
                let c = c.unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            };
            match self.high.take() {
                Some(high) if (0xdc00..0xe000).contains(&unit) => {
                    let (high, low) = (u32::from(high) - 0xd800, u32::from(unit) - 0xdc00);
                    put(char::from_u32(0x10000 + (high << 10) + low));
                }
                high => {
                    if high.is_some() {
                        put(None);
                    }
                    if (0xd800..0xdc00).contains(&unit) {
                        self.high = Some(unit);
                    } else {
                        put(char::from_u32(unit.into()));
                    }
                }
            }
        }
    }
}

/// How many of the bytes are neither UTF-8 nor what terminals take: nearly none in a log, many in anything else.
pub fn not_text(bytes: &[u8]) -> usize {
    // Tab, line feed, vertical tab, form feed, carriage return, bell, backspace, escape.
    let control = |b: &u8| (*b < 0x20 && !matches!(b, 0x07..=0x0d | 0x1b)) || *b == 0x7f;
    bytes
        .utf8_chunks()
        .map(|c| c.invalid().len() + c.valid().as_bytes().iter().filter(|b| control(b)).count())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    fn decoded(encoding: Encoding, bytes: &[u8], piece: usize) -> String {
        let (mut decoder, mut out) = (Decoder::new(encoding), Vec::new());
        bytes.chunks(piece).for_each(|b| decoder.decode(b, &mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn encodings_are_told_by_mark_or_zeros() {
        let text = "Kernel panic \u{1f980}\u{e4}\n";
        for (encoding, mark, bytes) in [
            (Encoding::Utf8, &b"\xef\xbb\xbf"[..], text.as_bytes().to_vec()),
            (Encoding::Utf16Le, b"\xff\xfe", utf16(text, u16::to_le_bytes)),
            (Encoding::Utf16Be, b"\xfe\xff", utf16(text, u16::to_be_bytes)),
        ] {
            assert_eq!(Encoding::detect(&bytes), (encoding, 0));
            assert_eq!(Encoding::detect(&[mark, &bytes].concat()), (encoding, mark.len()));
            for piece in 1..5 {
                assert_eq!(decoded(encoding, &bytes, piece), text);
            }
        }
        // Zeros alone, or too little to tell.
        for plain in [&[0; 64][..], b"a\0", b"", b"\0a\0b\0\0\0\0\0\0", b"plain text"] {
            assert_eq!(Encoding::detect(plain), (Encoding::Utf8, 0), "{plain:?}");
        }
    }

    #[test]
    fn broken_utf16_loses_only_what_is_broken() {
        let units = |units: &[u16]| units.iter().flat_map(|u| u.to_le_bytes()).collect::<Vec<u8>>();
        let text = |u: &[u16]| decoded(Encoding::Utf16Le, &units(u), 1);
        assert_eq!(text(&[0xd800, 0x61, 0xdc00, 0x62]), "\u{fffd}a\u{fffd}b");
        assert_eq!(text(&[0xd83e, 0xdd80, 0x61]), "\u{1f980}a");
        assert_eq!(text(&[0xd83e, 0xd83e, 0xdd80]), "\u{fffd}\u{1f980}");
    }

    #[test]
    fn what_is_no_text_is_counted() {
        for (bytes, count) in [
            (&b"[ 0.1] \x1b[1mLinux\x1b[0m\x08\r\n\x07"[..], 0),
            ("\u{e4}\u{1f980}".as_bytes(), 0),
            (b"\0\0ab\x7f\x01", 4),
            (b"a\xff\xfeb", 2),
        ] {
            assert_eq!(not_text(bytes), count, "{bytes:?}");
        }
    }
}
