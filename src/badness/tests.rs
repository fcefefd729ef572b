use std::io::Read;

use super::*;

fn found(source: Source, text: &str) -> Vec<String> {
    let found = scan(text.as_bytes(), source, &[]).unwrap();
    found.iter().map(|f| format!("{}{f}", if f.severity == Severity::Warn { "warn: " } else { "" })).collect()
}

/// Paragraphs of the corpus: what is to be found, and the text.
fn corpus() -> Vec<(Vec<String>, String)> {
    let unescape = |line: &str| {
        [("\\e", "\x1b"), ("\\r", "\r"), ("\\t", "\t"), ("\\0", "\0")]
            .iter()
            .fold(line.to_owned(), |line, (name, c)| line.replace(name, c))
    };
    let paragraph = |p: &str| {
        let lines = || p.lines().filter(|l| !l.starts_with('#'));
        let findings = lines().filter_map(|l| l.strip_prefix("> ")).map(str::to_owned).collect();
        let text: Vec<String> = lines().filter(|l| !l.starts_with("> ")).map(unescape).collect();
        (findings, text.join("\n"))
    };
    let all = include_str!("../../tests/corpora/consoles.txt").split("\n\n").map(paragraph);
    all.filter(|(_, text)| !text.is_empty()).collect()
}

fn sorted(mut findings: Vec<String>) -> Vec<String> {
    findings.sort();
    findings
}

#[test]
fn each_check_finds_its_lines_and_no_other() {
    let mut seen = Vec::new();
    for (findings, text) in corpus() {
        let findings = sorted(findings);
        let whole = format!("boring line\r\n{text}\nand more\n");
        assert_eq!(sorted(found(Source::Console, &whole)), findings, "{text:?}");
        // Without a final newline as well.
        assert_eq!(sorted(found(Source::Console, &text)), findings, "{text:?}");
        seen.extend(findings);
    }
    for check in CHECKS.iter().filter(|c| c.times == 1) {
        let example = seen.iter().any(|f| f.trim_start_matches("warn: ").starts_with(check.label));
        assert!(example, "no example for {}", check.label);
    }
}

#[test]
fn pieces_of_any_size_give_the_same() {
    for (findings, text) in corpus() {
        let text = format!("first\n{text}\nlast");
        for size in [1, 2, 3, 5, 7, 16, 40, 99] {
            let mut scanner = Scanner::new(Source::Console, &[]);
            for piece in text.as_bytes().chunks(size) {
                scanner.push(piece);
            }
            let labels: Vec<&str> = scanner.finish().iter().map(|f| f.label).collect();
            assert_eq!(labels.len(), findings.len(), "{labels:?}, pieces of {size}");
        }
    }
}

#[test]
fn the_table_is_sound() {
    let starts: std::collections::BTreeSet<&str> = CHECKS.iter().flat_map(|c| c.looks).map(|l| l.0).collect();
    for start in &starts {
        assert!(!start.is_empty() && start.is_ascii() && !start.contains(['\r', '\x1b']), "{start:?}");
        let longer = starts.iter().find(|s| *s != start && s.starts_with(start));
        assert_eq!(longer, None, "begins with {start:?}");
        let rests: Vec<&str> =
            CHECKS.iter().flat_map(|c| c.looks).filter(|l| l.0 == *start).map(|l| l.1).collect();
        assert!(rests.len() == 1 || rests.iter().all(|r| !r.is_empty()), "{start:?}: {rests:?}");
    }
    let labels: std::collections::BTreeSet<&str> = CHECKS.iter().map(|c| c.label).collect();
    assert_eq!(labels.len(), CHECKS.len(), "labels are unique");
    for check in CHECKS {
        check.looks.iter().map(|l| l.1).chain(check.unless).for_each(|pattern| drop(compile(pattern)));
        assert!(!check.fatal || check.console == Some(Severity::Fail), "{}", check.label);
        assert!(!check.fatal || check.cause.is_some(), "{}", check.label);
    }
    // Those of v0.12.0, unchanged.
    let upstream = CHECKS.iter().take_while(|c| c.since == "0.12.0").map(|c| c.label);
    assert_eq!(
        upstream.collect::<Vec<_>>(),
        [
            "emergency shell",
            "kernel panic",
            "kernel oops",
            "kernel warning",
            "failure of disk under I/O",
            "coreos-metadata failure to set up initramfs network",
            "excessive bonding link status messages",
            "ext4 delayed allocation failure",
            "GRUB memory corruption",
            "Ignition fetch cancellation race",
            "initrd-cleanup.service terminated",
            "bad page table",
            "Go panic",
            "segfault",
            "core dump"
        ]
    );
}

#[test]
fn findings_tell_their_place() {
    let mut text = "noise\n".repeat(100_000);
    text.push_str("one\r\n\x1b[1mtwo\x1b[0m\r\n[ 1] Oops: x\r\nthree\r\nfour\nfive\n");
    for size in [1 << 20, 4097, 100] {
        let mut scanner = Scanner::new(Source::Console, &[]);
        text.as_bytes().chunks(size).for_each(|piece| scanner.push(piece));
        let found = scanner.finish();
        let f = &found[0];
        assert_eq!((f.line, f.text.as_str()), (100_003, "[ 1] Oops: x"));
        assert_eq!((f.before.join(","), f.after.join(",")), ("one,two".into(), "three,four".into()));
    }
    let edge = scan(&b"Oops: x"[..], Source::Console, &[]).unwrap();
    assert_eq!((edge[0].line, &edge[0].before, &edge[0].after), (1, &vec![], &vec![]));
    let long = format!("{}Oops: {}", "a".repeat(9000), "\u{e4}".repeat(9000));
    let cut = scan(long.as_bytes(), Source::Console, &[]).unwrap();
    assert!(cut[0].text.contains("Oops: ") && cut[0].text.ends_with("..."), "{}", cut[0].text);
    assert!(cut[0].text.len() <= SHOWN + 3);
}

#[test]
fn a_console_that_grows_is_watched() {
    let mut watch = Watch::new(&[]);
    let mut console = b"booting\n".to_vec();
    watch.see(&console);
    assert_eq!((watch.fatal(), watch.seen()), (None, 8));
    console.extend_from_slice(b"Failed to start x.\nKernel panic - not sync");
    watch.see(&console);
    assert_eq!(watch.fatal(), None, "a unit that failed is none");
    assert_eq!(watch.findings().len(), 1);
    console.extend_from_slice(b"ing: z\nmore\n");
    watch.see(&console);
    assert_eq!(watch.fatal().map(ToString::to_string).as_deref(), Some("kernel panic (z)"));
    // Only its end is shown, or it starts anew: what was fatal stays so.
    watch.see(b"login: ");
    assert!(watch.fatal().is_some() && watch.findings().is_empty());
    let mut off = Watch::new(&[Flag::NoEmergencyShellCheck]);
    off.see(b"You are in emergency mode\nCRITICAL : Ignition failed: x\n");
    assert_eq!(off.fatal(), None);
}

#[test]
fn findings_are_told_once_and_in_the_order_of_the_table() {
    let text =
        "core dumped\npanic: one\npanic: two\nOops: x\nOops: y\nSIGSEGV\nKernel panic - not syncing: \r\n";
    assert_eq!(
        found(Source::Console, text),
        ["kernel panic ()", "kernel oops", "Go panic (one)", "segfault", "core dump"]
    );
}

#[test]
fn ten_bonding_messages_anywhere_in_the_text_are_too_many() {
    let line = "bond0: link status up for interface eth1, enabling it in 200 ms\n";
    let label = "excessive bonding link status messages";
    assert_eq!(found(Source::Console, &format!("{line}noise\n").repeat(10)), [label]);
    assert_eq!(found(Source::Journal, &line.trim_end().repeat(10)), [label]);
    assert_eq!(found(Source::Console, &line.repeat(9)), [""; 0]);
    assert_eq!(found(Source::Console, &line.replace("200 ms", "now").repeat(20)), [""; 0]);
}

#[test]
fn journals_have_their_own_severities() {
    let journal = |text| found(Source::Journal, text);
    assert_eq!(journal("kernel: Kernel panic - not syncing: x"), ["kernel panic (x)"]);
    assert_eq!(journal("app[7]: panic: x"), ["warn: Go panic (x)"]);
    assert_eq!(journal("SIGSEGV core dump"), ["warn: segfault", "warn: core dump"]);
    assert_eq!(
        journal("Failed to start CoreOS Static Network Agent"),
        ["warn: coreos-metadata failure to set up initramfs network"]
    );
    assert_eq!(journal("alloc magic is broken"), [""; 0]);
}

#[test]
fn flags_turn_checks_off() {
    let text = "You are in emergency mode\nOops: x\n";
    let found = scan(text.as_bytes(), Source::Console, &[Flag::NoEmergencyShellCheck]).unwrap();
    assert_eq!(found.iter().map(|f| f.label).collect::<Vec<_>>(), ["kernel oops"]);
}

#[test]
fn a_growing_text_is_judged_at_once() {
    let mut scanner = Scanner::new(Source::Console, &[]);
    scanner.push(b"You are in emer");
    assert!(scanner.findings().is_empty());
    scanner.push(b"gency mode");
    assert_eq!(scanner.findings()[0].label, "emergency shell");
}

#[test]
fn giant_lines_need_little_memory_and_keep_their_findings() {
    let mut scanner = Scanner::new(Source::Console, &[]);
    // Each start asks for a rest that never comes.
    let hostile = b"WARNING: CPU: EXT4-fs (panic-: \xff\x01".repeat(10_000);
    for _ in 0..10 {
        scanner.push(&hostile);
        assert!(scanner.text.capacity() < 3 * CHUNK + 4 * WINDOW);
    }
    scanner.push(b"panic: ");
    scanner.push(&b"x".repeat(100_000));
    scanner.push(b"alloc magic is broken");
    let found = scanner.finish();
    assert_eq!(found.iter().map(|f| f.label).collect::<Vec<_>>(), ["GRUB memory corruption", "Go panic"]);
    assert_eq!(found[1].capture.as_ref().map(String::len), Some(WINDOW));
}

#[test]
fn read_errors_are_errors() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("gone"))
        }
    }
    assert_eq!(scan(Broken, Source::Console, &[]).unwrap_err().to_string(), "gone");
}

fn examined(bytes: &[u8]) -> (Vec<String>, Option<&'static str>, Examined) {
    let examined = examine(bytes, Source::Console, &[]);
    let found = examined.findings.iter().map(ToString::to_string).collect();
    (found, examined.unread.as_ref().map(Unread::kind), examined)
}

#[test]
fn what_was_not_looked_at_is_said() {
    let noise: Vec<u8> = (0..20_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mostly = [&b"[ 0.1] Linux version 6.1\n".repeat(1000)[..], &noise[..500]].concat();
    for (name, bytes, reason) in [
        ("nothing", &b""[..], Some("empty")),
        ("mark", b"\xef\xbb\xbf", Some("empty")),
        ("blanks", b" \r\n\x1b[0m\n", Some("empty")),
        ("noise", &noise, Some("binary")),
        ("zeros", &[0; 1000], Some("binary")),
        ("a journal file", b"LPKSHHRH\0\0\0\0\x01\x01\x01\0\0\0", Some("binary")),
        ("a log with noise", &mostly, None),
        ("a log", b"Linux", None),
    ] {
        assert_eq!(examined(bytes).1, reason, "{name}");
    }
    struct Broken(bool);
    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if std::mem::replace(&mut self.0, true) {
                return Err(io::Error::other("gone"));
            }
            let said = b"Oops: x\n and so on";
            buffer[..said.len()].copy_from_slice(said);
            Ok(said.len())
        }
    }
    let cut = examine(Broken(false), Source::Console, &[]);
    assert_eq!((cut.findings.len(), cut.unread.map(|u| u.kind())), (1, Some("unreadable")));
}

#[test]
fn other_encodings_are_read() {
    let text = "\u{e4}hm\nKernel panic - not syncing: \u{fc}\r\nx\n";
    let utf16 = |bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
    let (little, big) = (utf16(u16::to_le_bytes), utf16(u16::to_be_bytes));
    for bytes in [
        [b"\xff\xfe", &little[..]].concat(),
        [b"\xfe\xff", &big[..]].concat(),
        [b"\xef\xbb\xbf", text.as_bytes()].concat(),
        little,
        big,
    ] {
        let (found, unread, examined) = examined(&bytes);
        assert_eq!((found, unread), (vec!["kernel panic (\u{fc})".to_owned()], None));
        assert_eq!((examined.lines, examined.findings[0].line), (3, 2));
    }
}

/// Measures the budget of 126 MB in 0.5 s; run it in an optimised build with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn measure_126_mb() {
    let line =
        "[   12.345678] systemd[1]: Started Network Time Synchronization; EXT4-fs mounted, link is up.\r\n";
    let text = line.repeat(126_000_000 / line.len());
    let began = std::time::Instant::now();
    let found = scan(text.as_bytes(), Source::Console, &[]).unwrap();
    println!("{} bytes, {} findings, {:?}", text.len(), found.len(), began.elapsed());
}
