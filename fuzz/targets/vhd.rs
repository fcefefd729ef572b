//! VHDs as somebody might hand them over: what is opened is read within its bounds, and its stream ends in a sound footer.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mantle::disk::vhd::{Disk, Footer, Kind, MAX_SIZE};

static FILE: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("mantle-fuzz-{}.vhd", std::process::id())));

/// Puts a checksum where one has to be: the fuzzer would never find it.
fn seal(bytes: &mut [u8], at: usize) {
    bytes[at..at + 4].fill(0);
    let sum = bytes.iter().fold(0u32, |sum, b| sum.wrapping_add(u32::from(*b)));
    bytes[at..at + 4].copy_from_slice(&(!sum).to_be_bytes());
}

/// Makes a disk of any bytes: cookies, a kind, checksums.
fn dress(bytes: &mut [u8]) {
    let Some(end) = bytes.len().checked_sub(512) else { return };
    let footer = &mut bytes[end..];
    footer[..8].copy_from_slice(b"conectix");
    let kind = 2 + u32::from(footer[63] % 3);
    footer[60..64].copy_from_slice(&kind.to_be_bytes());
    if let Some(room) = end.checked_sub(1024) {
        let at = usize::from(u16::from_be_bytes([footer[22], footer[23]])) % (room + 1);
        footer[16..24].copy_from_slice(&(at as u64).to_be_bytes());
        seal(footer, 64);
        let header = &mut bytes[at..at + 1024];
        header[..8].copy_from_slice(b"cxsparse");
        seal(header, 36);
    } else {
        seal(footer, 64);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&first, data)) = data.split_first() else { return };
    let mut bytes = data.to_vec();
    if first & 1 == 1 {
        dress(&mut bytes);
    }
    std::fs::write(&*FILE, &bytes).expect("there is room");
    let Ok(disk) = Disk::open_any(&FILE) else { return };
    let _ = disk.validate(MAX_SIZE);
    let (mut at, mut budget) = (0, 8 << 20);
    while let Some(range) = disk.next_data(at).expect("it can be read") {
        assert!(at <= range.start && range.start < range.end && range.end <= disk.size());
        let some = (range.end - range.start).min(budget);
        let mut piece = vec![0; some as usize];
        disk.read_at(range.start, &mut piece).expect("what is there can be read");
        (at, budget) = (range.end, budget - some);
        if budget == 0 {
            break;
        }
    }
    let footer = Footer::read(disk.stream_footer().bytes()).expect("our own");
    assert!(footer.is_sound() && footer.kind() == Ok(Kind::Fixed) && footer.size() == disk.size());
});
