//! All formats held to the same rules; bzip2 on several threads held to what one thread says.

mod crafted;

use std::io::{self, Write};

use super::{Compression, Decoder};

/// Pseudo-random numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, limit: usize) -> usize {
        self.next() as usize % limit
    }
}

/// Bytes of mixed kinds: noise, text of few letters, repetition.
fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut out = Vec::with_capacity(length);
    while out.len() < length {
        let n = random.below(20_000) + 1;
        match random.below(4) {
            0 => out.extend((0..n).map(|_| random.next() as u8)),
            1 => out.extend((0..n).map(|_| b'a' + (random.next() % 5) as u8)),
            2 => out.resize(out.len() + 4 * n, random.next() as u8),
            _ => out.extend((0..n).map(|i| (i / 7) as u8)),
        }
    }
    out.truncate(length);
    out
}

fn pack(compression: Compression, data: &[u8], level: u32) -> Vec<u8> {
    let finish = match compression {
        Compression::Gzip => {
            let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
            e.write_all(data).unwrap();
            e.finish()
        }
        Compression::Bzip2 => {
            let mut e = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::new(level));
            e.write_all(data).unwrap();
            e.finish()
        }
        Compression::Xz => {
            let mut e = liblzma::write::XzEncoder::new(Vec::new(), level.min(3));
            e.write_all(data).unwrap();
            e.finish()
        }
        Compression::Zstd => {
            let mut e = zstd::Encoder::new(Vec::new(), level as i32).unwrap();
            e.include_checksum(true).unwrap();
            e.write_all(data).unwrap();
            e.finish()
        }
    };
    finish.unwrap()
}

/// What a decoder with so many workers makes of pieces of at most so many bytes.
fn unpack(compression: Compression, workers: usize, piece: usize, data: &[u8]) -> io::Result<Vec<u8>> {
    let mut decoder = Decoder::with_workers(Some(compression), Vec::new(), workers)?;
    for part in data.chunks(piece) {
        decoder.write_all(part)?;
    }
    decoder.finish()
}

const FORMATS: [Compression; 4] = [Compression::Gzip, Compression::Bzip2, Compression::Xz, Compression::Zstd];

#[test]
fn names_promise_formats() {
    assert_eq!(Compression::of_name("image.bin.bz2"), Some((Compression::Bzip2, "image.bin")));
    assert_eq!(Compression::of_name("a/b.tar.gz"), Some((Compression::Gzip, "a/b.tar")));
    assert_eq!(Compression::of_name("x.xz"), Some((Compression::Xz, "x")));
    assert_eq!(Compression::of_name("x.zst"), Some((Compression::Zstd, "x")));
    for none in ["image.bin", ".gz", "dir/.bz2", "gz", ""] {
        assert_eq!(Compression::of_name(none), None, "{none}");
    }
}

#[test]
fn without_a_format_bytes_go_on_as_they_are() {
    let mut decoder = Decoder::new(None, Vec::new()).unwrap();
    decoder.write_all(b"abc").unwrap();
    decoder.inner_mut().push(b'd');
    assert_eq!(decoder.finish().unwrap(), b"abcd");
}

#[test]
fn all_formats_keep_the_rules() {
    for format in FORMATS {
        for workers in [1, 2] {
            let try_with = |piece, data: &[u8]| unpack(format, workers, piece, data);
            let kind = |data: &[u8]| try_with(1000, data).unwrap_err().kind();
            let (one, two) = (content(1, 300_000), content(2, 70_000));
            let (a, b) = (pack(format, &one, 1), pack(format, &two, 3));
            for piece in [7, 4096, usize::MAX] {
                assert!(try_with(piece, &a).unwrap() == one, "{format:?} {piece}");
            }
            let nothing = pack(format, b"", 1);
            assert_eq!(try_with(1, &nothing).unwrap(), b"");
            let both = [&a[..], &nothing, &b].concat();
            assert!(try_with(1000, &both).unwrap() == [&one[..], &two].concat(), "{format:?}");

            assert_eq!(kind(b""), io::ErrorKind::UnexpectedEof, "{format:?}");
            let ends = [1, 2, 3, 5, 10, 50, a.len() / 2, a.len() - 9, a.len() - 1];
            for end in ends {
                assert_eq!(kind(&a[..end]), io::ErrorKind::UnexpectedEof, "{format:?} ends after {end}");
                let cut = [&a[..], &b[..end.min(b.len() - 1)]].concat();
                assert_eq!(kind(&cut), io::ErrorKind::UnexpectedEof, "{format:?} ends after {end} more");
            }
            assert_eq!(
                kind(&[&a[..], b"garbage of some length"].concat()),
                io::ErrorKind::InvalidData,
                "{format:?}"
            );
            assert_eq!(kind(b"no such format at all"), io::ErrorKind::InvalidData, "{format:?}");
            let mut flipped = a.clone();
            flipped[a.len() / 2] ^= 4;
            assert_eq!(kind(&flipped), io::ErrorKind::InvalidData, "{format:?}");

            let padded = try_with(1000, &[&a[..], &[0; 64]].concat());
            let may_pad = matches!(format, Compression::Gzip | Compression::Xz);
            assert_eq!(padded.is_ok(), may_pad, "{format:?}");
        }
    }
}

#[test]
fn gzip_headers_may_have_all_fields() {
    let build = || flate2::GzBuilder::new().filename("name").comment("comment").extra(vec![1, 0, 2]).mtime(7);
    let mut e = build().write(Vec::new(), flate2::Compression::fast());
    e.write_all(b"content").unwrap();
    let whole = e.finish().unwrap();
    for piece in [1, 1000] {
        assert_eq!(unpack(Compression::Gzip, 1, piece, &whole).unwrap(), b"content");
    }
    // with a checksum of the header
    let mut with_crc = vec![0x1f, 0x8b, 8, 2, 0, 0, 0, 0, 0, 3];
    let mut crc = flate2::Crc::new();
    crc.update(&with_crc);
    with_crc.extend(&crc.sum().to_le_bytes()[..2]);
    with_crc.extend(&pack(Compression::Gzip, b"content", 1)[10..]);
    assert_eq!(unpack(Compression::Gzip, 1, 3, &with_crc).unwrap(), b"content");
    with_crc[10] ^= 1;
    assert!(unpack(Compression::Gzip, 1, 3, &with_crc).is_err());
    for (at, what) in [(0, "magic"), (1, "magic"), (2, "method"), (3, "flags")] {
        let mut bad = whole.clone();
        bad[at] |= 0x60;
        bad[at] ^= 0x81;
        assert!(unpack(Compression::Gzip, 1, 3, &bad).is_err(), "{what}");
    }
    // zeros are the end: nothing but zeros may follow
    let late = [&whole[..], &[0; 8], &whole].concat();
    assert!(unpack(Compression::Gzip, 1, 3, &late).is_err());
}

#[test]
fn memory_is_bounded_whatever_the_header_says() {
    // A frame that asks for a window of 2 GiB: descriptor without content size, window exponent 21.
    let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 1, 0, 0];
    let error = unpack(Compression::Zstd, 1, 100, &zstd).unwrap_err();
    assert!(error.to_string().contains("too much memory"), "{error}");
    // A dictionary of 1 GiB, for three bytes.
    let mut options = liblzma::stream::LzmaOptions::new_preset(0).unwrap();
    options
        .dict_size(1 << 30)
        .mode(liblzma::stream::Mode::Fast)
        .match_finder(liblzma::stream::MatchFinder::HashChain3);
    options.nice_len(32);
    let mut filters = liblzma::stream::Filters::new();
    filters.lzma2(&options);
    let stream = liblzma::stream::Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc32);
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream.unwrap());
    encoder.write_all(b"abc").unwrap();
    let xz = encoder.finish().unwrap();
    let error = unpack(Compression::Xz, 1, 100, &xz).unwrap_err();
    assert!(error.to_string().contains("more than 128 MiB"), "{error}");
}

#[test]
fn failures_of_the_writer_are_passed_on() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(data.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(data.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for format in FORMATS {
        for workers in [1, 3] {
            let packed = pack(format, &content(3, 900_000), 1);
            let mut decoder = Decoder::with_workers(Some(format), Full(500_000), workers).unwrap();
            let result = decoder.write_all(&packed).and_then(|()| decoder.finish().map(drop));
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::StorageFull, "{format:?}");
        }
    }
}

/// Fails unless several threads come to the same result as one.
#[track_caller]
fn expect_same(data: &[u8], what: &str) -> io::Result<Vec<u8>> {
    let one = unpack(Compression::Bzip2, 1, usize::MAX, data);
    for (workers, piece) in [(2, 100_000), (5, 1 + data.len() / 2)] {
        let more = unpack(Compression::Bzip2, workers, piece, data);
        match (&one, &more) {
            (Ok(a), Ok(b)) => assert!(a == b, "{what}: the content differs"),
            (Err(_), Err(_)) => {}
            _ => panic!("{what}: {:?} on one thread, {:?} on {workers}", one.is_ok(), more.map(|m| m.len())),
        }
    }
    one
}

#[test]
fn blocks_are_put_together_as_one_thread_does() {
    let mut all = Vec::new();
    let mut expected = Vec::new();
    for (seed, length) in [0, 1, 2, 99_980, 100_000, 100_001, 250_000, 777_777].into_iter().enumerate() {
        for level in [1, 9] {
            let plain = content(seed as u64, length);
            let packed = pack(Compression::Bzip2, &plain, level);
            assert!(expect_same(&packed, &format!("{length} bytes, level {level}")).unwrap() == plain);
            all.extend(packed);
            expected.extend(plain);
        }
    }
    assert!(expect_same(&all, "all of them").unwrap() == expected);
    // Each byte for itself, over the seams of streams.
    let small = [pack(Compression::Bzip2, b"a", 1), pack(Compression::Bzip2, b"", 9)].concat().repeat(5);
    assert_eq!(unpack(Compression::Bzip2, 2, 1, &small).unwrap(), b"aaaaa");
}

#[test]
fn blocks_of_mere_repetition_are_not_kept_in_memory() {
    // Far more than a thread may put out ahead of its turn.
    let zeros = vec![0; 6_000_000];
    let packed = [pack(Compression::Bzip2, &zeros, 9), pack(Compression::Bzip2, b"end", 9)].concat();
    let out = unpack(Compression::Bzip2, 2, 10, &packed).unwrap();
    assert!(out.len() == zeros.len() + 3 && out.ends_with(b"\0end"));
}

#[test]
fn mutations_are_judged_as_one_thread_does() {
    let small: Vec<Vec<u8>> =
        (0..6).map(|i| pack(Compression::Bzip2, &content(i, 150 * i as usize), 1 + i as u32)).collect();
    let small = small.concat();
    let large = [
        pack(Compression::Bzip2, &content(8, 260_000), 1),
        pack(Compression::Bzip2, &content(9, 120_000), 9),
    ]
    .concat();
    let mut random = Random(7);
    for (data, rounds) in [(&small, 1500), (&large, 60)] {
        for round in 0..rounds {
            let mut bad = data.clone();
            let at = random.below(bad.len());
            let kind = random.below(6);
            match kind {
                0 | 1 => bad[at] ^= 1 << random.below(8),
                2 => bad.truncate(at),
                3 => drop(bad.drain(at..(at + 1 + random.below(30)).min(data.len()))),
                4 => bad.insert(at, random.next() as u8),
                _ => {
                    let from = random.below(bad.len());
                    let piece = bad[from..(from + 200).min(data.len())].to_vec();
                    bad.splice(at..at, piece);
                }
            }
            let _ = expect_same(&bad, &format!("round {round}, kind {kind} at {at}"));
        }
    }
    for length in [1, 10, 1000] {
        let noise: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        let _ = expect_same(&noise, "noise");
        let _ = expect_same(&[b"BZh9", &noise[..]].concat(), "noise after a header");
    }
}

#[test]
fn each_truncation_is_one() {
    let streams = [pack(Compression::Bzip2, &content(5, 600), 1), pack(Compression::Bzip2, b"x", 9)].concat();
    let seam = streams.len() - pack(Compression::Bzip2, b"x", 9).len();
    for end in 0..streams.len() {
        let result = expect_same(&streams[..end], "truncation");
        let several = unpack(Compression::Bzip2, 2, 3, &streams[..end]);
        if end == seam {
            assert!(result.is_ok());
        } else {
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{end}");
            assert_eq!(several.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{end}");
        }
    }
}

#[test]
fn threads_end_with_their_decoder() {
    let packed = pack(Compression::Bzip2, &content(4, 2_000_000), 1);
    let mut decoder = Decoder::with_workers(Some(Compression::Bzip2), Vec::new(), 4).unwrap();
    decoder.write_all(&packed[..packed.len() / 2]).unwrap();
    drop(decoder); // returns only after its threads have ended
    let zeros = pack(Compression::Bzip2, &vec![0; 8_000_000], 9);
    let mut decoder = Decoder::with_workers(Some(Compression::Bzip2), Vec::new(), 4).unwrap();
    decoder.write_all(&zeros).unwrap();
    drop(decoder);
}
