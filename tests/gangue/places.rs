//! Where downloads land: links, standard output, what may not be replaced, and names that others use.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Bench, PATH, sign};
use crate::support::server::Fault::{Reset, Truncate};
use crate::support::{Outcome, Running};

/// `gangue get` of the file to a path below the home folder.
fn command(bench: &Bench, to: &str, options: &[&str]) -> Command {
    let mut command = bench.env.command(Path::new(env!("CARGO_BIN_EXE_mantle")));
    command.args(["gangue", "get", "--verify-key=key.asc", &bench.url("http"), to]).args(options);
    command
}

fn get(bench: &Bench, to: &str, options: &[&str]) -> Outcome {
    Running::new(command(bench, to, options)).finish()
}

/// The same, and the bytes that came on standard output.
fn get_bytes(bench: &Bench, to: &str, options: &[&str]) -> (i32, Vec<u8>, String) {
    let output = command(bench, to, options).stderr(Stdio::piped()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), output.stdout, stderr)
}

#[test]
fn standard_output_gets_what_is_right_and_the_link_stays() {
    let bench = Bench::new(3_000_000);
    // never the real /dev/stdout: whoever is root would destroy it if this went wrong
    symlink("/proc/self/fd/1", bench.file("stdout")).unwrap();
    symlink("stdout", bench.file("again")).unwrap();
    for to in ["-", "out/stdout", "out/again", "/proc/self/fd/1"] {
        for options in [&[][..], &["--verify=false"]] {
            bench.server.faults(vec![Truncate(1_000_000), Reset]);
            let (code, bytes, stderr) = get_bytes(&bench, to, options);
            assert_eq!(code, 0, "{to} {options:?}: {stderr}");
            assert!(bytes == bench.body, "{to} {options:?}");
            assert!(stderr.contains("standard output: 3000000 bytes in "), "{stderr}");
        }
    }
    // nothing before the signature is known to be right
    bench.server.put(&format!("{PATH}.sig"), &sign(b"something else"));
    for to in ["-", "out/stdout"] {
        let (code, bytes, stderr) = get_bytes(&bench, to, &[]);
        assert_eq!((code, bytes.len()), (1, 0), "{to}: {stderr}");
        assert!(!stderr.contains("are kept in"), "{stderr}");
    }
    bench.server.take_log();
    let (code, _, stderr) = get_bytes(&bench, "-", &["--keep-sig"]);
    assert_eq!((code, bench.server.take_log().len()), (2, 0), "{stderr}");
    assert_eq!(bench.names(), ["again", "stdout"]);
    assert_eq!(std::fs::read_link(bench.file("stdout")).unwrap(), Path::new("/proc/self/fd/1"));
    let left: Vec<_> = std::fs::read_dir(bench.env.home()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert_eq!(std::fs::read_dir(bench.env.home().join("../tmp")).unwrap().count(), 0);
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let bench = Bench::new(3_000_000);
    Running::new(command(&bench, "-", &[])).hang_up().expect(0);
}

#[test]
fn links_to_files_stay_and_all_others_are_refused_before_any_request() {
    let bench = Bench::new(1000);
    std::fs::create_dir(bench.file("far")).unwrap();
    std::fs::write(bench.file("far/y"), "old").unwrap();
    symlink("far/y", bench.file("x")).unwrap();
    get(&bench, "out/x", &["--keep-sig"]).expect(0);
    assert_eq!(std::fs::read_link(bench.file("x")).unwrap(), Path::new("far/y"));
    assert!(std::fs::read(bench.file("far/y")).unwrap() == bench.body);
    let far: Vec<_> = std::fs::read_dir(bench.file("far")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(far.len(), 2, "the file and its signature: {far:?}");
    bench.server.take_log();

    nix::unistd::mkfifo(&bench.file("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (link, to) in
        [("null", "/dev/null"), ("dangling", "nowhere"), ("pipe", "fifo"), ("stderr", "/proc/self/fd/2")]
    {
        symlink(to, bench.file(link)).unwrap();
    }
    let before = bench.names();
    for to in ["/dev/null", "out/null", "out/dangling", "out/pipe", "out/fifo", "out/stderr"] {
        for options in [&[][..], &["--verify=false"]] {
            let outcome = get(&bench, to, options).expect(1);
            assert!(
                outcome.stderr.contains(&format!("cannot replace {to}: it is ")),
                "{to}: {}",
                outcome.stderr
            );
        }
    }
    assert!(bench.server.take_log().is_empty());
    assert_eq!(bench.names(), before);
}

/// Browsers and other downloaders use these names, too.
#[test]
fn files_that_are_not_ours_are_never_touched() {
    let bench = Bench::new(1_000_000);
    let foreign = ["image.bin.part", "image.bin.part.json", "image.bin.sig"];
    let put = |name: &str| std::fs::write(bench.file(name), format!("somebody's {name}")).unwrap();
    let intact = |context: &str| {
        for name in foreign {
            let text = std::fs::read_to_string(bench.file(name)).unwrap();
            assert_eq!(text, format!("somebody's {name}"), "{context}");
        }
    };
    foreign.iter().for_each(|name| put(name));
    for options in [&[][..], &["--verify=false"]] {
        // nothing comes; half of it comes; the rest comes; all is there already; another version
        bench.server.put(PATH, &bench.body);
        let _ = std::fs::remove_file(bench.file("image.bin"));
        for (faults, code) in [
            (vec![crate::support::server::Fault::Status(404, ""); 2], 1),
            (vec![Truncate(500_000), Reset, Reset, Reset, Reset], 1),
            (vec![], 0),
            (vec![], 0),
        ] {
            bench.server.faults(faults.clone());
            let outcome = bench.get("http", options).expect(code);
            intact(&format!("{options:?} {faults:?}: {}", outcome.stderr));
            let taken = bench.file("image.bin.2.part").exists();
            assert_eq!(taken, code == 1 && faults.len() == 5, "{options:?} {faults:?}: {}", outcome.stderr);
        }
        assert!(std::fs::read(bench.file("image.bin")).unwrap() == bench.body);
    }
    assert_eq!(bench.names().len(), 4);
    // a signature of the release key is what --keep-sig left, hence goes
    std::fs::write(bench.file("image.bin.sig"), sign(b"an older version")).unwrap();
    bench.get("http", &[]).expect(0);
    assert!(!bench.file("image.bin.sig").exists());
}

#[test]
fn the_last_line_names_file_size_rate_and_signer() {
    let bench = Bench::new(300_000);
    let outcome = get(&bench, "out/image.bin", &[]).expect(0);
    let last = outcome.stderr.lines().last().unwrap();
    for word in ["Verified file out/image.bin: 300000 bytes in ", "MB/s", "by Tests <tests@localhost>"] {
        assert!(last.contains(word), "{word}: {}", outcome.stderr);
    }
    let outcome = get(&bench, "out/image.bin", &[]).expect(0);
    let last = outcome.stderr.lines().last().unwrap();
    for word in ["Verified existing file out/image.bin: 300000 bytes, ", "by Tests <tests@localhost>"] {
        assert!(last.contains(word), "{word}: {}", outcome.stderr);
    }
    let outcome = get(&bench, "out/image.bin", &["--verify=false"]).expect(0);
    assert!(
        outcome.stderr.contains("out/image.bin is up to date: 300000 bytes, not verified"),
        "{}",
        outcome.stderr
    );
    for option in ["-q", "--quiet"] {
        let outcome = get(&bench, "out/image.bin", &[option]).expect(0);
        assert_eq!((&*outcome.stdout, &*outcome.stderr), ("", ""));
    }
}
