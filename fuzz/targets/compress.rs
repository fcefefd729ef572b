//! Compressed streams: one thread and two come to the same verdict and the same bytes, in bounded memory.
#![no_main]

use std::io::{self, Write};

use libfuzzer_sys::fuzz_target;
use mantle::compress::{Compression, Decoder};

/// Takes so much and no more, as a disk does.
struct Limited(Vec<u8>);

impl Write for Limited {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.0.len() + data.len() > 4 << 20 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn decode(compression: Compression, data: &[u8], workers: usize, piece: usize) -> io::Result<Vec<u8>> {
    let mut decoder = Decoder::with_workers(Some(compression), Limited(Vec::new()), workers)?;
    for piece in data.chunks(piece) {
        decoder.write_all(piece)?;
    }
    decoder.finish().map(|limited| limited.0)
}

fuzz_target!(|data: &[u8]| {
    let Some((&kind, data)) = data.split_first() else { return };
    let all = [Compression::Gzip, Compression::Bzip2, Compression::Xz, Compression::Zstd];
    let compression = all[usize::from(kind) % all.len()];
    let (one, two) = (decode(compression, data, 1, 1 << 20), decode(compression, data, 2, 7));
    match (one, two) {
        (Ok(one), Ok(two)) => assert!(one == two),
        (Err(_), Err(_)) => {}
        (one, two) => panic!("{:?} and {:?}", one.map(|v| v.len()), two.map(|v| v.len())),
    }
});
