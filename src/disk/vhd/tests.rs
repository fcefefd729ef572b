use std::os::unix::fs::FileExt as _;
use std::process::Command;

use super::*;
use crate::text::chain;

/// A disk of so many MiB with something in a few places, as a raw file.
fn raw(mib: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(mib * MIB).unwrap();
    for (at, byte) in [(0, 1), (3 * MIB + 512, 2), (mib * MIB - 512, 3)] {
        file.as_file().write_all_at(&[byte; 512], at).unwrap();
    }
    file
}

/// All of the stream, by its ranges of data.
fn stream(disk: &Disk) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(disk.size()).unwrap()];
    let mut at = 0;
    while let Some(range) = disk.next_data(at).unwrap() {
        assert!(range.start >= at && range.start < range.end && range.end <= disk.size(), "{range:?}");
        let [start, end] = [range.start, range.end].map(|n| usize::try_from(n).unwrap());
        disk.read_at(range.start, &mut bytes[start..end]).unwrap();
        at = range.end;
    }
    bytes.extend_from_slice(disk.stream_footer().bytes());
    bytes
}

fn qemu_img(words: &[&str]) -> Option<()> {
    let done = Command::new("qemu-img").args(words).output().ok()?;
    assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    Some(())
}

/// QEMU makes VHDs of a disk, we read them; we make one, QEMU reads it.
#[test]
fn qemu_and_we_agree_on_disks_of_every_kind() {
    let raw = raw(9);
    let content = std::fs::read(raw.path()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let from = raw.path().display().to_string();
    for kind in ["fixed", "dynamic"] {
        let made = at(kind);
        let options = format!("subformat={kind},force_size=on");
        if qemu_img(&["convert", "-O", "vpc", "-o", &options, &from, &made]).is_none() {
            println!("skipped: there is no qemu-img");
            return;
        }
        let disk = Disk::open(Path::new(&made)).unwrap();
        disk.validate(MAX_CLASSIC_SIZE).unwrap();
        assert_eq!((disk.size(), disk.is_plain()), (9 * MIB, kind == "fixed"), "{kind}");
        let stream = stream(&disk);
        assert!(stream[..content.len()] == content, "{kind}");
        // What would be uploaded is itself a disk with the same content.
        let ours = at("ours.vhd");
        std::fs::write(&ours, &stream).unwrap();
        qemu_img(&["compare", "-f", "vpc", "-F", "raw", &ours, &from]);
        assert_eq!(stream, self::stream(&Disk::open(Path::new(&ours)).unwrap()));
    }
    let disk = Disk::open_any(raw.path()).unwrap();
    assert!(disk.is_raw());
    disk.validate(MAX_SIZE).unwrap();
    let ours = at("of-raw.vhd");
    std::fs::write(&ours, stream(&disk)).unwrap();
    qemu_img(&["compare", "-f", "vpc", "-F", "raw", &ours, &from]);
    let error = Disk::open(raw.path()).unwrap_err().to_string();
    assert!(error.contains("it has no footer"), "{error}");
}

/// A dynamic disk of 5 MiB in blocks of 2 MiB, of which the second was never written to.
fn dynamic() -> Vec<u8> {
    let size = 5 * MIB;
    let footer = {
        let mut footer = *Footer::fixed(size, SystemTime::UNIX_EPOCH, [7; 16]).bytes();
        footer[16..24].copy_from_slice(&512u64.to_be_bytes());
        footer[60..64].copy_from_slice(&3u32.to_be_bytes());
        seal(&mut footer, 64);
        footer
    };
    let mut header = [0; 1024];
    header[..8].copy_from_slice(b"cxsparse");
    header[8..16].fill(0xff);
    header[16..24].copy_from_slice(&1536u64.to_be_bytes());
    header[28..32].copy_from_slice(&3u32.to_be_bytes());
    header[32..36].copy_from_slice(&(2u32 << 20).to_be_bytes());
    seal(&mut header, 36);
    let mut file = footer.to_vec();
    file.extend_from_slice(&header);
    let mut table = [0xff; 512];
    table[..4].copy_from_slice(&4u32.to_be_bytes());
    table[8..12].copy_from_slice(&(4u32 + 1 + 4096).to_be_bytes());
    file.extend_from_slice(&table);
    for fill in [1, 2] {
        file.extend_from_slice(&[0xff; 512]);
        file.extend_from_slice(&vec![fill; 2 << 20]);
    }
    file.extend_from_slice(&footer);
    file
}

fn seal(bytes: &mut [u8], at: usize) {
    let sum = footer::checksum(bytes, at);
    bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
}

fn open(bytes: &[u8]) -> Result<Disk> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    Disk::open(file.path())
}

#[test]
fn blocks_that_were_never_written_to_are_zeros() {
    let disk = open(&dynamic()).unwrap();
    disk.validate(MAX_SIZE).unwrap();
    let stream = stream(&disk);
    let mib = 1 << 20;
    assert_eq!(stream.len(), 5 * mib + 512);
    assert!(stream[..2 * mib].iter().all(|b| *b == 1));
    assert!(stream[2 * mib..4 * mib].iter().all(|b| *b == 0));
    assert!(stream[4 * mib..5 * mib].iter().all(|b| *b == 2));
    assert_eq!(disk.next_data(2 << 20).unwrap(), Some(4 << 20..5 << 20));
    // Across what is there and what is not.
    let mut piece = vec![9; 3 * mib];
    disk.read_at(mib as u64, &mut piece).unwrap();
    assert!(piece == stream[mib..4 * mib]);
}

#[test]
fn what_is_wrong_with_a_disk_is_told() {
    let good = dynamic();
    let end = good.len() - 512;
    let changed = |at: usize, bytes: &[u8]| {
        let mut disk = good.clone();
        disk[at..at + bytes.len()].copy_from_slice(bytes);
        disk
    };
    let resealed = |at: usize, bytes: &[u8], footer: bool| {
        let mut disk = changed(at, bytes);
        if footer {
            seal(&mut disk[end..], 64)
        } else {
            seal(&mut disk[512..1536], 36)
        }
        disk
    };
    for (disk, told) in [
        (vec![], "it is empty"),
        (vec![1; 100], "no footer"),
        (good[..end].to_vec(), "no footer"),
        (good[512..].to_vec(), "the header of the dynamic disk is missing"),
        (changed(512, b"x"), "header of the dynamic disk is missing"),
        (changed(600, b"x"), "header of the dynamic disk has a wrong checksum"),
        (resealed(512 + 32, &3u32.to_be_bytes(), false), "impossible size of blocks"),
        (resealed(512 + 32, &0u32.to_be_bytes(), false), "impossible size of blocks"),
        (resealed(512 + 28, &2u32.to_be_bytes(), false), "too short for the disk"),
        (resealed(512 + 16, &u64::MAX.to_be_bytes(), false), "does not fit into the file"),
        (changed(1536, &0xffff_fffeu32.to_be_bytes()), "leads out of the file"),
        (resealed(end + 60, &9u32.to_be_bytes(), true), "unknown type of disk (9)"),
        (resealed(end + 60, &4u32.to_be_bytes(), true), "differencing disk"),
        (resealed(end + 48, &0u64.to_be_bytes(), true), "it is empty"),
        (resealed(end + 48, &(5 * MIB + 1).to_be_bytes(), true), "not a multiple of 1 MiB"),
        (resealed(end + 48, &u64::MAX.to_be_bytes(), true), "too short for the disk"),
        (resealed(end + 60, &2u32.to_be_bytes(), true), "and the file has"),
    ] {
        let error = chain(&open(&disk).err().unwrap_or_else(|| panic!("{told}")));
        assert!(error.contains(told), "{error} for {told}");
    }
    for (disk, limit, told) in [
        (changed(end + 30, b"x"), MAX_SIZE, "checksum of its footer"),
        (resealed(end + 48, &(5 * MIB - 512).to_be_bytes(), true), MAX_SIZE, "not a multiple of 1 MiB"),
        (good.clone(), 4 * MIB, "is more than 0 GiB"),
    ] {
        let error = chain(&open(&disk).unwrap().validate(limit).unwrap_err());
        assert!(error.contains(told), "{error} for {told}");
    }
}

#[test]
fn raw_disks_always_give_the_same_stream() {
    let file = raw(2);
    file.as_file().set_len(2 * MIB + 5).unwrap();
    let streams = [0, 1].map(|_| stream(&Disk::open_any(file.path()).unwrap()));
    assert_eq!(streams[0], streams[1]);
    assert_eq!(streams[0].len() as u64, 3 * MIB + SECTOR);
}
