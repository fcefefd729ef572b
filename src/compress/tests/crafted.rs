//! Streams of bzip2 that no compressor would make: with marks within blocks.

use super::expect_same;

const BLOCK: u64 = 0x3141_5926_5359;
const END: u64 = 0x1772_4538_5090;

#[derive(Default)]
struct Bits(Vec<bool>);

impl Bits {
    fn put(&mut self, value: u64, bits: u32) {
        self.0.extend((0..bits).rev().map(|i| value >> i & 1 == 1));
    }

    fn bytes(&self) -> Vec<u8> {
        let byte = |c: &[bool]| (0..8).fold(0, |b, i| b << 1 | u8::from(c.get(i) == Some(&true)));
        self.0.chunks(8).map(byte).collect()
    }
}

/// The checksum of bzip2: that of Ethernet, with the highest bit first.
fn crc(data: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in data {
        crc ^= u32::from(*byte) << 24;
        for _ in 0..8 {
            crc = if crc >> 31 == 1 { crc << 1 ^ 0x04c1_1db7 } else { crc << 1 };
        }
    }
    !crc
}

/// A block whose symbols have codes of eight bits each: their bytes are in the stream as they are.
fn put_block(out: &mut Bits, crc: u32, symbols: &[u8]) {
    out.put(BLOCK, 48);
    out.put(u64::from(crc), 32);
    out.put(0, 1); // not randomised
    out.put(0, 24); // the place of the original
    out.put(0xffff, 16); // all bytes are used
    out.put(0xfffc, 16); // but the last two of the first sixteen
    for _ in 1..16 {
        out.put(0xffff, 16);
    }
    out.put(2, 3); // tables
    let mut selectors = symbols.len().div_ceil(50).max(1) as u64 + 1;
    let at = |n: u64| (out.0.len() as u64 + 15 + n + 2 * (5 + 256)) % 8;
    while at(selectors) != 0 {
        selectors += 1; // so that the symbols begin with a byte
    }
    out.put(selectors, 15);
    (0..selectors).for_each(|_| out.put(0, 1));
    for _ in 0..2 {
        out.put(8, 5);
        (0..256).for_each(|_| out.put(0, 1));
    }
    for symbol in symbols {
        assert_ne!(*symbol, 255, "that is the end of the block");
        out.put(u64::from(*symbol), 8);
    }
    out.put(255, 8);
}

/// A stream of such blocks. What they hold is whatever the library makes of them.
fn stream(level: u8, blocks: &[&[u8]]) -> Vec<u8> {
    let mut out = Bits::default();
    let (mut all, mut combined) = (Vec::new(), 0_u32);
    out.put(0x425a_6830 + u64::from(level), 32);
    for symbols in blocks {
        let mut alone = Bits::default();
        alone.put(0x425a_6839, 32);
        put_block(&mut alone, 0, symbols);
        let mut library = bzip2::Decompress::new(false);
        let mut content = Vec::with_capacity(1 << 20);
        // The library puts out the content before it finds that the checksum is wrong.
        let _ = library.decompress_vec(&alone.bytes(), &mut content);
        put_block(&mut out, crc(&content), symbols);
        combined = combined.rotate_left(1) ^ crc(&content);
        all.extend(content);
    }
    out.put(END, 48);
    out.put(u64::from(combined), 32);
    let out = out.bytes();
    assert!(expect_same(&out, "crafted").unwrap() == all);
    out
}

fn symbols(length: usize, marks: &[(usize, u64)]) -> Vec<u8> {
    let mut symbols: Vec<u8> = (0..length).map(|i| (i * 37 % 200) as u8 + 2).collect();
    for (at, mark) in marks {
        symbols[*at..at + 6].copy_from_slice(&mark.to_be_bytes()[2..]);
    }
    symbols
}

#[test]
fn marks_within_blocks_are_seen_through() {
    let plain = symbols(3000, &[]);
    stream(1, &[&plain]);
    stream(1, &[&plain, &plain, &plain]);
    for mark in [BLOCK, END] {
        let marked = symbols(3000, &[(1000, mark)]);
        stream(1, &[&marked]);
        stream(9, &[&plain, &marked, &plain, &plain]);
        stream(1, &[&marked, &marked, &marked, &marked, &marked, &marked, &marked]);
        // right at the beginning and the end, and one after the other
        stream(1, &[&symbols(300, &[(0, mark), (6, END), (12, BLOCK), (294, mark)]), &plain]);
    }
    let many: Vec<_> = (0..12).map(|i| (i * 50, if i % 3 == 0 { END } else { BLOCK })).collect();
    let many = symbols(1000, &many);
    let one = stream(1, &[&plain, &many, &plain]);
    assert!(expect_same(&one.repeat(3), "streams").is_ok());
}

#[test]
fn what_looks_like_another_stream_is_seen_through() {
    // The end of a stream, the header of another, smaller one, and a block, all within a block: the level that is
    // guessed for the next true block is wrong.
    let mut trap = symbols(3000, &[(1000, END), (1014, BLOCK)]);
    trap[1010..1014].copy_from_slice(b"BZh1");
    let plain = symbols(150_000, &[]);
    stream(9, &[&trap, &plain, &plain, &trap, &plain]);
}

#[test]
fn damage_near_marks_within_is_still_damage() {
    let marked = symbols(2000, &[(500, BLOCK), (600, END)]);
    let good = stream(1, &[&marked, &marked]);
    for at in (0..good.len()).step_by(13) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        let _ = expect_same(&bad, &format!("damage at {at}"));
    }
}

#[test]
fn too_many_marks_are_refused() {
    use crate::compress::Compression;
    let many: Vec<_> = (0..40).map(|i| (i * 6, BLOCK)).collect();
    let mut out = Bits::default();
    out.put(0x425a_6831, 32);
    put_block(&mut out, 0, &symbols(1000, &many));
    let result = super::unpack(Compression::Bzip2, 2, 100_000, &out.bytes());
    assert!(result.unwrap_err().to_string().contains("too many marks"));
}
