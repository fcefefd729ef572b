//! Inputs that are no files: said at once, where an open would wait for ever.

use std::process::Stdio;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

use crate::support::{Env, Running, installed};

const MANTLE: &str = env!("CARGO_BIN_EXE_mantle");

/// Command lines with a FIFO where a file is wanted, variables first as in a shell, and what their errors name.
const LINES: &[(&str, &str)] = &[
    ("kola run --qemu-image fifo", "fifo"),
    ("kola run --qemu-image beside", "beside.json"),
    ("kola run --qemu-image disk.img --qemu-bios ./fifo", "fifo"),
    ("kola run --qemu-image disk.img --qemu-kernel fifo", "fifo"),
    ("kola run --qemu-image disk.img --qemu-kernel disk.img --qemu-initrd fifo", "fifo"),
    ("kola run --qemu-image disk.img --tapfile fifo", "fifo"),
    ("kola run --qemu-image disk.img --torcx-manifest fifo", "fifo"),
    ("kola run --qemu-image disk.img --update-payload fifo", "fifo"),
    ("kola spawn --qemu-image fifo", "fifo"),
    ("kola spawn --qemu-image disk.img --userdata fifo", "fifo"),
    ("kola spawn --qemu-image disk.img --keys --key fifo", "fifo"),
    ("kola spawn --qemu-image disk.img --qemu-options fifo", "fifo"),
    ("kola bootchart --qemu-image fifo", "fifo"),
    ("kola mkimage fifo out.img", "fifo"),
    ("kola mkimage disk.img fifo", "fifo"),
    ("kola check-console fifo", "fifo"),
    ("kola cleanup run", "record of resources run"),
    ("kola --config fifo list", "fifo"),
    ("MANTLE_CONFIG=fifo kola list", "fifo"),
    ("config show --config fifo", "fifo"),
    ("gangue get file://@/fifo out", "fifo"),
    ("gangue get --json-key fifo gs://bucket/file out", "fifo"),
    ("gangue get --verify-key fifo file://@/disk.img out", "fifo"),
    ("GOOGLE_APPLICATION_CREDENTIALS=fifo gangue get gs://bucket/file out", "fifo"),
    ("BOTO_CONFIG=fifo gangue get gs://bucket/file out", "fifo"),
    ("SSL_CERT_FILE=fifo gangue get https://127.0.0.1:1/file out", "fifo"),
    ("cork download --verify-key fifo --sdk-version 1.2.3", "fifo"),
    ("plume channels --channels fifo", "fifo"),
    ("plume index --gce-json-key fifo -B amd64-usr -V 1.2.3", "fifo"),
    ("plume pre-release --verify-key fifo -C alpha -B amd64-usr -V 1.2.3", "fifo"),
    ("plume prune --apply fifo -C alpha", "fifo"),
    ("ore gcloud --json-key fifo sync gs://a/b gs://c/d", "fifo"),
    ("ore aws --credentials-file fifo list", "fifo"),
    ("AWS_SHARED_CREDENTIALS_FILE=fifo ore aws list", "fifo"),
    ("AWS_CONFIG_FILE=fifo ore aws list", "fifo"),
    ("AWS_CA_BUNDLE=fifo ore aws list", "fifo"),
    ("ore aws gc --apply fifo", "fifo"),
    ("ore aws upload --name x --file fifo", "fifo"),
    ("ore aws upload --name x --direct --object-format RAW --file fifo", "fifo"),
];

#[test]
fn a_fifo_is_named_and_not_opened() {
    if !["qemu-system-x86_64", "qemu-img"].iter().all(|p| installed(p)) {
        return;
    }
    for (line, named) in LINES {
        let mut env = Env::new();
        if !line.contains("redentials") && !line.contains("AWS_CONFIG_FILE") {
            env.set("AWS_ACCESS_KEY_ID", "AKIA")
                .set("AWS_SECRET_ACCESS_KEY", "s")
                .set("AWS_REGION", "us-west-2");
        }
        // Where nobody listens, should it come to a request.
        env.set("AWS_ENDPOINT_URL", "http://127.0.0.1:1");
        std::fs::create_dir(env.home().join("run")).unwrap();
        for name in ["fifo", "beside.json", "run/resources.jsonl"] {
            nix::unistd::mkfifo(&env.home().join(name), Mode::S_IRWXU).unwrap();
        }
        for name in ["disk.img", "beside"] {
            std::fs::File::create(env.home().join(name)).unwrap().set_len(1 << 20).unwrap();
        }
        env.write("disk.img.json", r#"{"distro": "debian", "board": "amd64-usr", "version": "1"}"#);
        let line = &line.replace('@', env.home().to_str().unwrap());
        let words: Vec<&str> = line.split(' ').collect();
        let args = match words[0].split_once('=') {
            Some((name, value)) => {
                env.set(name, value);
                &words[1..]
            }
            None => &words[..],
        };
        let outcome = env.mantle(args);
        assert!([1, 2, 3].contains(&outcome.code), "{line}: {outcome:?}");
        assert!(outcome.stderr.contains(named), "{line}: {}", outcome.stderr);
    }
}

#[test]
fn pipes_of_the_shell_are_read_where_texts_are_wanted() {
    if !installed("bash") {
        return;
    }
    let env = Env::new();
    let run = |line: &str| {
        let script = line.replace("mantle", MANTLE);
        env.start("bash".as_ref(), &["-c", &script]).finish()
    };
    run("mantle kola check-console <(echo fine)").expect(0);
    run("echo fine | mantle kola check-console /dev/stdin").expect(0);
    run("mantle kola check-console <(echo 'Kernel panic - not syncing: x')").expect(1);
    let key = "gangue get --json-key <(echo '{}') gs://bucket/file out";
    let said = run(&format!("mantle {key}")).expect(1).stderr;
    assert!(!said.contains("plain file"), "{said}");
}

/// File names are bytes, not texts.
#[test]
fn names_that_are_no_text_work() {
    use std::os::unix::ffi::OsStrExt as _;
    let env = Env::new();
    let name = std::ffi::OsStr::from_bytes(b"odd-\xff.txt");
    std::fs::write(env.home().join(name), "fine\n").unwrap();
    std::fs::write(env.home().join("config"), "log-level: INFO\n").unwrap();
    let config = std::ffi::OsStr::from_bytes(b"config-\xfe");
    std::fs::rename(env.home().join("config"), env.home().join(config)).unwrap();
    let folder = std::ffi::OsStr::from_bytes(b"folder-\xfd");
    let word = std::ffi::OsStr::new;
    for (args, code) in [
        (&[word("kola"), word("check-console"), name][..], 0),
        (&[word("kola"), word("list"), word("--config"), config], 0),
        (&[word("install"), word("--prefix"), folder], 0),
        (&[word("install"), word("--uninstall"), word("--prefix"), folder], 0),
        (&[word("plume"), word("channels"), word("--channels"), name], 1),
    ] {
        let outcome = env.command(MANTLE).args(args).output().unwrap();
        let said = String::from_utf8_lossy(&outcome.stderr);
        assert_eq!(outcome.status.code(), Some(code), "{args:?}: {said}");
        assert!(!said.contains("No such file"), "{args:?}: {said}");
    }
}

/// A person's Ctrl-C, or the end of a session, while nothing comes.
#[test]
fn one_signal_ends_the_wait_for_an_input() {
    for args in
        [&["kola", "check-console", "-v", "-"][..], &["kola", "check-console", "-v", "-", "/dev/null"]]
    {
        let env = Env::new();
        let mut command = env.command(MANTLE);
        command.args(args).stdin(Stdio::piped());
        let mut running = Running::new(command);
        running.wait_for("Reading input");
        running.signal(Signal::SIGTERM);
        let outcome = running.finish().expect(143);
        assert!(!outcome.stderr.contains("press Ctrl-C again\nError"), "{}", outcome.stderr);
    }
}
