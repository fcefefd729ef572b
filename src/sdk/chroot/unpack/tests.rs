//! Archives that are made by hand, most of them hostile. They need root, as unpacking does.

use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::process::Command;

use super::*;

/// A member by its bytes: a name of any kind, a type, a link.
fn member(name: &[u8], kind: u8, link: &[u8], content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link);
    header.as_mut_bytes()[156] = kind;
    header.set_mode(0o4751);
    header.set_uid(12);
    header.set_gid(34);
    header.set_mtime(1_000_000_000);
    header.set_size(content.len() as u64);
    if let b'3' | b'4' = kind {
        header.set_device_major(link[0].into()).unwrap();
        header.set_device_minor(link[1].into()).unwrap();
        header.as_mut_bytes()[157..159].fill(0);
    }
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// A member with records of pax before it.
fn with_records(records: &[(&str, &[u8])], after: Vec<u8>) -> Vec<u8> {
    let mut text = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let digits = (rest + 2).to_string().len();
        write!(text, "{} {key}=", rest + digits).unwrap();
        text.extend_from_slice(value);
        text.push(b'\n');
    }
    [member(b"pax", b'x', b"", &text), after].concat()
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    [members.concat(), vec![0; 1024]].concat()
}

struct Bench(tempfile::TempDir);

impl Bench {
    /// `None`, and a word on stdout, without root.
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: only root can unpack");
            return None;
        }
        let bench = Self(tempfile::tempdir().unwrap());
        for name in ["tree", "outside"] {
            std::fs::create_dir(bench.0.path().join(name)).unwrap();
        }
        Some(bench)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn unpack(&self, bytes: &[u8]) -> Result<(), Error> {
        let tree = Dir::open(&self.at("tree").canonicalize().unwrap()).unwrap();
        unpack(bytes, bytes.len() as u64, "sdk.tar", &tree, &|| false)
    }

    /// What went wrong, and that nothing came out.
    fn refused(&self, members: &[Vec<u8>]) -> String {
        let error = self.unpack(&archive(members)).unwrap_err();
        assert_eq!(std::fs::read_dir(self.at("outside")).unwrap().count(), 0);
        crate::text::chain(&error)
    }
}

#[test]
fn members_become_what_they_were() {
    let Some(bench) = Bench::new() else { return };
    let records: &[(&str, &[u8])] = &[
        ("path", "usr/lib/ein sehr langer Name mit ü".as_bytes()),
        ("uid", b"3000000"),
        ("mtime", b"1234567890.123"),
        ("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        ("SCHILY.xattr.trusted.evil", b"x"),
    ];
    let long = vec![b'n'; 200];
    let members = [
        member(b"./", b'5', b"", b""),
        member(b"./usr/", b'5', b"", b""),
        member(b"./usr/bin/", b'5', b"", b""),
        member(b"./usr/bin/tool", b'0', b"", b"content"),
        member(b"./usr/bin/same", b'1', b"./usr/bin/tool", b""),
        member(b"./bin", b'2', b"usr/bin", b""),
        member(b"./etc/absolute", b'2', b"/etc/passwd", b""),
        member(b"./fifo", b'6', b"", b""),
        member(b"./dev/null", b'3', &[1, 3], b""),
        member(b"./dev/mem", b'3', &[1, 1], b""),
        member(b"./dev/sda", b'4', &[8, 0], b""),
        with_records(records, member(b"short", b'0', b"", b"capable")),
        [member(b"././@LongLink", b'L', b"", &long), member(b"cut", b'0', b"", b"")].concat(),
        member(b"./twice", b'0', b"", b"first"),
        member(b"./twice", b'2', b"second", b""),
    ];
    bench.unpack(&archive(&members)).unwrap();
    let tree = |name: &str| bench.at("tree").join(name);
    let meta = |name: &str| tree(name).symlink_metadata().unwrap();
    let tool = meta("usr/bin/tool");
    assert_eq!((tool.uid(), tool.gid(), tool.mode() & 0o7777), (12, 34, 0o4751));
    assert_eq!((tool.mtime(), tool.ino()), (1_000_000_000, meta("usr/bin/same").ino()));
    for folder in ["", "usr", "usr/bin"] {
        let meta = meta(folder);
        assert_eq!(
            (meta.uid(), meta.mtime(), meta.permissions().mode() & 0o7777),
            (12, 1_000_000_000, 0o4751)
        );
    }
    assert_eq!(std::fs::read_link(tree("bin")).unwrap(), Path::new("usr/bin"));
    assert_eq!((meta("bin").uid(), meta("bin").mtime()), (12, 1_000_000_000));
    assert_eq!(std::fs::read_link(tree("etc/absolute")).unwrap(), Path::new("/etc/passwd"));
    assert!(meta("fifo").file_type().is_fifo() && meta("fifo").mode() & 0o7777 == 0o4751);
    assert_eq!(meta("dev/null").rdev(), libc::makedev(1, 3));
    assert!(!tree("dev/mem").exists() && !tree("dev/sda").exists());
    let named = "usr/lib/ein sehr langer Name mit ü";
    assert_eq!((meta(named).uid(), meta(named).mtime()), (3_000_000, 1_234_567_890));
    let names: Vec<_> = xattr::list(tree(named)).unwrap().collect();
    assert_eq!(names, ["security.capability"]);
    assert!(tree(std::str::from_utf8(&long).unwrap()).is_file());
    assert!(meta("twice").is_symlink());
    assert_eq!(meta("usr/lib").uid(), 0); // not in the archive
}

#[test]
fn nothing_leaves_the_tree() {
    let Some(bench) = Bench::new() else { return };
    let outside = bench.at("outside").display().to_string();
    std::os::unix::fs::symlink(&outside, bench.at("tree/planted")).unwrap();
    let absolute = format!("{outside}/x");
    for name in ["../outside/x", "a/../../outside/x", "..", "/", &absolute] {
        for kind in [b'0', b'5', b'6'] {
            let text = bench.refused(&[member(name.as_bytes(), kind, b"", b"")]);
            assert!(text.contains("outside of the tree") && text.contains(name), "{text}");
        }
    }
    // links of the archive, and of who waits for it: to the folder, to a file in it that is not there yet
    let file = format!("{outside}/file");
    let link = |name: &[u8], to: &str| member(name, b'2', to.as_bytes(), b"");
    for members in [
        vec![link(b"l", &outside), member(b"l/x", b'0', b"", b"evil")],
        vec![link(b"l", "../outside"), member(b"l/x/y", b'5', b"", b"")],
        vec![link(b"a", "b"), link(b"b", &outside), member(b"a/x", b'0', b"", b"")],
        vec![member(b"d/", b'5', b"", b""), link(b"d/l", &outside), member(b"d/l/x", b'6', b"", b"")],
        vec![member(b"planted/x", b'0', b"", b"evil")],
        vec![link(b"l", &outside), member(b"h", b'1', b"l/../../etc/passwd", b"")],
        vec![link(b"l", &outside), member(b"h", b'1', b"l/x", b"")],
        vec![member(b"h", b'1', b"/etc/passwd", b"")],
        vec![member(b"h", b'1', b"../outside", b"")],
    ] {
        let text = bench.refused(&members);
        assert!(text.contains("symbolic link") || text.contains("outside of the tree"), "{text}");
    }
    // A member takes the place of a link; it does not go through it.
    bench.unpack(&archive(&[link(b"f", &file), member(b"f", b'0', b"", b"new")])).unwrap();
    assert!(!bench.at("outside/file").exists() && bench.at("tree/f").is_file());
    bench.unpack(&archive(&[link(b"g", &outside), member(b"g/", b'5', b"", b"")])).unwrap();
    assert!(!bench.at("tree/g").is_symlink());
    // A second name of a link is a link.
    bench.unpack(&archive(&[link(b"p", "/etc/passwd"), member(b"q", b'1', b"p", b"")])).unwrap();
    assert!(bench.at("tree/q").is_symlink());
}

#[test]
fn damaged_archives_are_told_from_short_ones() {
    let Some(bench) = Bench::new() else { return };
    let whole = archive(&[member(b"file", b'0', b"", &[7; 5000])]);
    for (bytes, what) in [
        (whole[..3000].to_vec(), "ends"),
        (whole[..100].to_vec(), "cannot unpack"),
        ([&whole[..148], b"999999", &whole[154..]].concat(), "cksum"),
        (archive(&[member(b"s", b'S', b"", b"")]), "sparse"),
        (archive(&[member(b"v", b'V', b"", b"")]), "not supported"),
        (archive(&[member(b"l", b'2', b"", b"")]), "a link to nothing"),
        (archive(&[member(b"", b'0', b"", b"")]), "no name"),
        (archive(&[member(b".", b'0', b"", b"")]), "no folder"),
        (archive(&[member(b"n", b'L', b"", &[b'x'; 8192])]), "says 8192 bytes about itself"),
        (archive(&[with_records(&[("size", b"99999999999")], member(b"f", b'0', b"", b""))]), "8 GiB"),
        (archive(&[with_records(&[("GNU.sparse.major", b"1")], member(b"f", b'0', b"", b""))]), "sparse"),
        (archive(&[with_records(&[("uid", b"4294967295")], member(b"f", b'0', b"", b""))]), "owner"),
        (archive(&[with_records(&[("uid", b"-1")], member(b"f", b'0', b"", b""))]), "uid"),
        (archive(&[with_records(&[("path", b"a\0b")], member(b"f", b'0', b"", b""))]), "zero"),
    ] {
        let text = crate::text::chain(&bench.unpack(&bytes).expect_err(what));
        assert!(text.contains(what), "{what}: {text}");
    }
}

#[test]
fn compressed_archives_are_seen_to_their_end() {
    let Some(bench) = Bench::new() else { return };
    // Many blocks of bzip2, which do not compress.
    let noise: Vec<u8> = (0_u32..80_000).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let whole = archive(&[member(b"a", b'0', b"", &noise), member(b"b", b'0', b"", b"last")]);
    for program in ["bzip2", "gzip", "xz", "zstd"] {
        let mut input = tempfile::tempfile().unwrap();
        input.write_all(&whole).unwrap();
        std::io::Seek::rewind(&mut input).unwrap();
        let Ok(packed) = Command::new(program).arg("-1c").stdin(input).output() else {
            println!("skipped: {program}");
            continue;
        };
        let packed = packed.stdout;
        bench.unpack(&packed).unwrap();
        assert_eq!(std::fs::read(bench.at("tree/a")).unwrap(), noise);
        assert_eq!(std::fs::read(bench.at("tree/b")).unwrap(), b"last");
        let text = crate::text::chain(&bench.unpack(&packed[..packed.len() / 2]).unwrap_err());
        assert!(text.contains("compressed data end early"), "{program}: {text}");
        // the checksum at the end, after all members
        let mut flipped = packed.clone();
        let at = flipped.len() - 5;
        flipped[at] ^= 0xff;
        bench.unpack(&flipped).unwrap_err();
    }
}

#[test]
fn work_stops_when_asked() {
    let Some(bench) = Bench::new() else { return };
    let bytes = archive(&[member(b"a", b'0', b"", &vec![1; 4 << 20]), member(b"b", b'0', b"", b"")]);
    let tree = Dir::open(&bench.at("tree").canonicalize().unwrap()).unwrap();
    let asked = std::cell::Cell::new(0);
    let stopped = || {
        asked.set(asked.get() + 1);
        asked.get() > 3
    };
    let error = unpack(&bytes[..], bytes.len() as u64, "sdk.tar", &tree, &stopped).unwrap_err();
    assert!(matches!(error, Error::Interrupted), "{error}");
    assert!(!bench.at("tree/b").exists());
}

#[test]
fn trees_end_and_nothing_else() {
    let Some(bench) = Bench::new() else { return };
    let parent = Dir::open(&bench.0.path().canonicalize().unwrap()).unwrap();
    std::fs::write(bench.at("outside/file"), "stays").unwrap();
    std::os::unix::fs::symlink("../outside", bench.at("tree/link")).unwrap();
    // deeper than there are descriptors, and than a path may be long
    let mut here = parent.dir("tree").unwrap();
    for _ in 0..3000 {
        mkdirat(&here, "deep", Mode::S_IRWXU).unwrap();
        here = here.dir("deep").unwrap();
    }
    drop(here);
    super::super::remove::tree(&parent, "tree".as_ref(), &|| false).unwrap();
    assert!(!bench.at("tree").exists());
    assert_eq!(std::fs::read(bench.at("outside/file")).unwrap(), b"stays");
    super::super::remove::tree(&parent, "tree".as_ref(), &|| false).unwrap(); // it is gone
}
