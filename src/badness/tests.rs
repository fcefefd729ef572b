use super::*;

fn found(source: Source, text: &str) -> Vec<String> {
    let found = scan(text.as_bytes(), source, &[]).unwrap();
    found.iter().map(|f| format!("{}{f}", if f.severity == Severity::Warn { "warn: " } else { "" })).collect()
}

/// For each check: a text that has it (not as the first line), the finding, and a text that only looks like it.
const TABLE: &[(&str, &str, &str)] = &[
    (
        "Press Enter for emergency shell or wait 5 minutes",
        "emergency shell",
        "press enter for emergency shell",
    ),
    ("[  OK  ] Starting Emergency Shell...", "emergency shell", "Starting emergency Shell"),
    ("You are in emergency mode. After logging in", "emergency shell", "You are in rescue mode"),
    (
        "[ 1.2] Kernel panic - not syncing: VFS: Unable to mount root fs\r",
        "kernel panic (VFS: Unable to mount root fs)",
        "Kernel panic - syncing: x",
    ),
    ("[ 1.2] Oops: 0002 [#1] SMP", "kernel oops", "oops: sorry"),
    (
        "WARNING: CPU: 0 PID: 4321 at fs/inode.c:280 drop_nlink+0x31/0x40\r",
        "kernel warning (fs/inode.c:280 drop_nlink+0x31/0x40)",
        "WARNING: CPU: x PID: 1 at y\nWARNING: CPU: 1 PID: 2 at \r\nz",
    ),
    (
        "sd 0:0:0:0: rejecting I/O to offline device",
        "failure of disk under I/O",
        "rejecting I/O to dead device",
    ),
    (
        "Failed to start CoreOS Static Network Agent.",
        "coreos-metadata failure to set up initramfs network",
        "Failed to start CoreOS Metadata Agent",
    ),
    (
        "EXT4-fs (sda9): Delayed block allocation failed for inode 12 at logical offset 3 with max blocks 4 with error 5, sorry",
        "ext4 delayed allocation failure (error 5)",
        "EXT4-fs (sda9): mounted filesystem with ordered data mode",
    ),
    ("alloc magic is broken at 0x7ffd", "GRUB memory corruption", "alloc magic was broken"),
    ("free magic broken", "GRUB memory corruption", "free magic is not broken"),
    (
        "ignition[421]: failed to fetch config: context canceled",
        "Ignition fetch cancellation race",
        "ignition[421]: failed to fetch config: not found",
    ),
    (
        "initrd-cleanup.service: Main process exited, code=killed, status=15/TERM",
        "initrd-cleanup.service terminated",
        "initrd-cleanup.service: Main process exited, code=exited, status=0/SUCCESS",
    ),
    (
        "mm/pgtable-generic.c:33: bad p4d 00000000",
        "bad page table (p4d)",
        "mm/pgtable-generic.c:33: bad page",
    ),
    ("mm/pgtable-generic.c:8: bad pte", "bad page table (pte)", "mm/pgtable-generic.c:: bad pte"),
    (
        "panic: runtime error: index out of range\r",
        "Go panic (runtime error: index out of range)",
        "panic:nothing",
    ),
    ("x.service: main process: SIGSEGV", "segfault", "SIGSE GV"),
    ("Main process exited, code=dumped, status=11/SEGV", "segfault", "status=1/SEGV"),
    ("Core dump to |/usr/lib/systemd", "core dump", "core-dump"),
    ("(core dumped)", "core dump", "CORE DUMP"),
];

#[test]
fn each_check_finds_its_lines_and_no_other() {
    for &(bad, finding, good) in TABLE {
        let text = format!("boring line\r\n{bad}\nand more\n");
        assert_eq!(found(Source::Console, &text), [finding], "{bad:?}");
        assert_eq!(found(Source::Console, &format!("boring\n{good}\nand more\n")), [""; 0], "{good:?}");
        // Without a final newline as well.
        assert_eq!(found(Source::Console, bad), [finding], "{bad:?}");
    }
    for check in CHECKS.iter().filter(|c| c.times == 1) {
        assert!(TABLE.iter().any(|(_, f, _)| f.starts_with(check.label)), "no example for {}", check.label);
    }
}

#[test]
fn pieces_of_any_size_give_the_same() {
    for &(bad, finding, _) in TABLE {
        let text = format!("first\n{bad}\nlast");
        for size in 1..text.len() {
            let mut scanner = Scanner::new(Source::Console, &[]);
            for piece in text.as_bytes().chunks(size) {
                scanner.push(piece);
            }
            let found: Vec<String> = scanner.finish().iter().map(ToString::to_string).collect();
            assert_eq!(found, [finding], "pieces of {size}");
        }
    }
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
    let hostile = b"WARNING: CPU: EXT4-fs (panic-: \xff\0".repeat(10_000);
    for _ in 0..10 {
        scanner.push(&hostile);
        assert!(scanner.pending.capacity() < 2 * CHUNK + 4 * WINDOW);
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

#[tokio::test]
async fn files_are_checked() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "Oops: x").unwrap();
    let found = check_file(file.path(), Source::Console, &[]).await.unwrap();
    assert_eq!(found, [Finding { label: "kernel oops", capture: None, severity: Severity::Fail }]);
    assert!(check_file("/nonexistent", Source::Console, &[]).await.is_err());
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
