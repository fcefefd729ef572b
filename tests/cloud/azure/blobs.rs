//! `ore azure upload-blob` against Azurite, which judges signatures; Microsoft's client reads back what has arrived.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use openssl::hash::{MessageDigest, hash};
use serde_json::Value;

use super::asm::Asm;
use crate::support::emulators::{AZURITE, Emulator, azurite, environment};
use crate::support::guard::{self, Limit};
use crate::support::http::{Request, Response};
use crate::support::proxy::{Entry, Fault, Proxy};
use crate::support::{Env, Outcome, Running, installed, repository};

const MIB: u64 = 1 << 20;

/// Azurite, a proxy before it, and somebody with the account's key.
struct Bench {
    azurite: Emulator,
    python: PathBuf,
    proxy: Proxy,
    env: Env,
}

impl Bench {
    fn start() -> Option<Self> {
        let python = environment("python")?.join("bin/python");
        if !installed("qemu-img") {
            return None;
        }
        let azurite = azurite()?;
        let proxy = Proxy::new(azurite.address);
        let mut env = Env::new();
        env.set("AZURE_STORAGE_BLOB_ENDPOINT", proxy.url()).set("AZURE_STORAGE_KEY", AZURITE.1);
        env.set("MANTLE_POLL_SCALE", "0.01");
        Some(Self { azurite, python, proxy, env })
    }

    /// What is typed to upload a file.
    fn words<'a>(&self, blob: &'a str, file: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let mut words = vec!["ore", "azure", "upload-blob"];
        words.extend(more);
        words.extend([AZURITE.0, "vhds", blob, file]);
        words
    }

    fn upload(&self, blob: &str, file: &str, more: &[&str]) -> Outcome {
        self.env.mantle(&self.words(blob, file, more))
    }

    /// Microsoft's client.
    #[track_caller]
    fn judge(&self, words: &[&str]) -> String {
        let url = format!("http://{}/{}", self.azurite.address, AZURITE.0);
        let mut command = Command::new(&self.python);
        command.arg(repository().join("tests/cloud/azure/blobs.py")).args([&url, AZURITE.1]).args(words);
        let outcome = Running::new({
            command.env("PYTHONDONTWRITEBYTECODE", "1").current_dir(self.env.home());
            command
        });
        outcome.finish().expect(0).stdout
    }

    /// All blobs in the container.
    fn blobs(&self, more: &[&str]) -> Vec<Value> {
        let text = self.judge(&[&["read", "vhds"], more].concat());
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    /// A VHD of so many MiB with random bytes in these ranges, made by QEMU; its raw disk lies beside it.
    fn disk(&self, name: &str, kind: &str, mib: u64, data: &[(u64, u64)]) -> String {
        let raw = self.env.home().join(format!("{name}.raw"));
        let file = std::fs::File::create(&raw).unwrap();
        file.set_len(mib * MIB).unwrap();
        for (start, end) in data {
            file.write_all_at(&noise(usize::try_from(end - start).unwrap()), *start).unwrap();
        }
        let options = format!("subformat={kind},force_size=on");
        let made = format!("{name}.vhd");
        let mut convert = self.env.command("qemu-img");
        convert.args(["convert", "-O", "vpc", "-o", &options]).args([&raw, Path::new(&made)]);
        assert!(convert.status().unwrap().success());
        made
    }
}

/// Bytes of which none is zero for long.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Whether a request writes pages.
fn is_put(request: &Request) -> bool {
    request.target.contains("comp=page") && !request.target.contains("comp=pagelist")
}

/// What was sent in pages, in bytes; each call was as the service wants it.
fn sent(journal: &[Entry]) -> u64 {
    let mut sum = 0;
    for request in journal.iter().map(|e| &e.request).filter(|r| is_put(r)) {
        let range = request.header("x-ms-range").unwrap().strip_prefix("bytes=").unwrap();
        let (start, last) = range.split_once('-').unwrap();
        let (start, end): (u64, u64) = (start.parse().unwrap(), last.parse::<u64>().unwrap() + 1);
        assert!(start.is_multiple_of(512) && end.is_multiple_of(512), "{range}");
        assert_eq!(end - start, request.body.len() as u64, "{range}");
        assert!(request.body.len() as u64 <= 4 * MIB, "{range}");
        let md5 = hash(MessageDigest::md5(), &request.body).unwrap();
        assert_eq!(request.header("content-md5"), Some(&*openssl::base64::encode_block(&md5)));
        sum += end - start;
    }
    sum
}

#[test]
fn disks_of_every_kind_arrive_and_are_known_again() {
    let Some(mut bench) = Bench::start() else { return };
    let data = [(0, 5 * MIB + 100), (9 * MIB + 300, 9 * MIB + 4400), (15 * MIB, 16 * MIB)];
    let in_blocks = 5 * MIB + 4096 + 8192 + MIB;
    for kind in ["fixed", "dynamic", "raw"] {
        let file = match kind {
            "raw" => "fixed.raw".to_owned(),
            kind => bench.disk(kind, kind, 16, &data),
        };
        let more: &[&str] = if kind == "raw" { &["--validate=false"] } else { &[] };
        let blob = format!("dir a/{kind} ü.vhd");
        let outcome = bench.upload(&blob, &file, more).expect(0);
        assert!(outcome.stdout.is_empty(), "{}", outcome.stdout);
        assert!(outcome.stderr.contains("Blob uploaded to \"http://127.0.0.1:"), "{}", outcome.stderr);
        assert_eq!(sent(&bench.proxy.take_journal()), in_blocks + 512, "{kind}");
        // Once more: nothing is to be done.
        let outcome = bench.upload(&blob, &file, more).expect(0);
        assert!(outcome.stderr.contains("already exists, with the same content"), "{}", outcome.stderr);
        assert_eq!(sent(&bench.proxy.take_journal()), 0);
    }
    let kinds =
        ["fixed", "dynamic", "raw"].map(|kind| (kind, format!("dir a/{kind} ü.vhd"), format!("{kind}.back")));
    let files: Vec<&str> = kinds.iter().flat_map(|(_, blob, file)| [file.as_str(), blob.as_str()]).collect();
    let found = bench.blobs(&files);
    for (kind, blob, file) in &kinds {
        // Its footer is right, and its content that of the disk, says QEMU.
        let mut compare = bench.env.command("qemu-img");
        compare.args(["compare", "-f", "vpc", "-F", "raw", file, "fixed.raw"]);
        assert!(compare.status().unwrap().success(), "{kind}");
        let found = found.iter().find(|b| b["name"] == **blob).unwrap();
        assert_eq!((&found["sealed"], &found["size"]), (&found["md5"], &(16 * MIB + 512).into()), "{kind}");
        let metadata: Value =
            serde_json::from_str(found["metadata"]["diskmetadata"].as_str().unwrap()).unwrap();
        let name = if *kind == "raw" { "fixed.raw".to_owned() } else { format!("{kind}.vhd") };
        assert_eq!(metadata["fileMetaData"]["fileName"], name);
        let sizes = found["ranges"].as_array().unwrap().iter();
        let ranges: u64 = sizes.map(|r| r[1].as_u64().unwrap() - r[0].as_u64().unwrap()).sum();
        assert_eq!(ranges, in_blocks + 512, "{kind}");
    }
    sparse(&bench, 128, 10);
    // Another file: refused, unless it is to take the place.
    let other = bench.disk("other", "fixed", 16, &[(0, 512)]);
    let blob = "dir a/fixed ü.vhd";
    let outcome = bench.upload(blob, &other, &[]).expect(1);
    assert!(outcome.stderr.contains("Uploading blob failed"), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("already exists") && outcome.stderr.contains("--overwrite"),
        "{}",
        outcome.stderr
    );
    let signatures = bench.judge(&["others", "vhds"]);
    let (good, expired) = signatures.trim().split_once('\n').unwrap();
    for (blob, told) in
        [("text.vhd", "it is no page blob"), ("foreign.vhd", "does not say what it was made from")]
    {
        let outcome = bench.upload(blob, &other, &[]).expect(1);
        assert!(outcome.stderr.contains(told), "{}", outcome.stderr);
    }
    assert_eq!(sent(&bench.proxy.take_journal()), 0);
    bench.upload(blob, &other, &["--overwrite"]).expect(0);
    bench.upload("foreign.vhd", &other, &["--overwrite"]).expect(0);
    assert_eq!(sent(&bench.proxy.take_journal()), 2 * (4096 + 512));

    // Signatures in place of the key; they are shown nowhere.
    bench.env.unset("AZURE_STORAGE_KEY");
    let signature = good.split('&').find_map(|p| p.strip_prefix("sig=")).unwrap();
    let tampered = good.replace("sp=rw", "sp=rwx");
    for (sas, code) in [(good, 0), (&*format!("?{good}"), 0), (expired, 1), (&*tampered, 1)] {
        bench.env.set("AZURE_STORAGE_SAS_TOKEN", sas);
        let outcome = bench.upload("signed.vhd", &other, &["--debug"]).expect(code);
        assert!(
            !outcome.stderr.contains(signature) && !outcome.stderr.contains("sig="),
            "{}",
            outcome.stderr
        );
        assert!(code == 0 || outcome.stderr.contains("403"), "{}", outcome.stderr);
    }
    bench.env.unset("AZURE_STORAGE_SAS_TOKEN");
    for key in ["U0VDUkVU", "SECRET!"] {
        bench.env.set("AZURE_STORAGE_KEY", key);
        let outcome = bench.upload("signed.vhd", &other, &["--debug"]).expect(1);
        assert!(!outcome.stderr.contains(key), "{}", outcome.stderr);
    }
    for word in ["AccountName=devstoreaccount1;AccountKey", "DefaultEndpointsProtocol=http;AccountKey"] {
        bench.env.unset("AZURE_STORAGE_KEY");
        bench
            .env
            .set("AZURE_STORAGE_CONNECTION_STRING", format!("{word}={};BlobEndpoint=http://h", AZURITE.1));
        bench.upload("signed.vhd", &other, &[]).expect(0);
    }

    // The key comes from the classic API, the place from the profile.
    let asm = Asm::new();
    let env = asm.env(&bench.proxy.url());
    let file = bench.env.home().join(&other).display().to_string();
    let words = bench.words("classic.vhd", &file, &[]);
    let outcome = env.mantle(&words).expect(1);
    assert!(outcome.stderr.contains("Fetching storage service keys failed"), "{}", outcome.stderr);
    for (key, code, told) in [
        ("U0VDUkVU", 1, "403"),
        ("SECRET!", 1, "is no base64"),
        ("", 1, "is no base64"),
        (AZURITE.1, 0, "Blob uploaded to"),
    ] {
        asm.put_key(AZURITE.0, key);
        asm.asked();
        let outcome = env.mantle(&[&words[..3], &["--debug"], &words[3..]].concat()).expect(code);
        assert!(outcome.stderr.contains(told), "{key}: {}", outcome.stderr);
        assert!(key.is_empty() || !outcome.stderr.contains(key), "{}", outcome.stderr);
        assert_eq!(asm.asked(), ["GET /S/services/storageservices/devstoreaccount1/keys"]);
    }
}

/// Kills the upload at its n-th request, before or after the service has seen it; false when it ended before.
fn kill_at(bench: &Bench, words: &[&str], n: usize, before: bool) -> bool {
    let victim = Arc::new(AtomicI32::new(0));
    let (shot, mut seen) = (victim.clone(), 0);
    bench.proxy.take_journal();
    bench.proxy.rule(move |_| {
        seen += 1;
        match seen == n + 1 {
            true if before => {
                while shot.load(Ordering::SeqCst) == 0 {
                    std::thread::yield_now();
                }
                let _ = kill(Pid::from_raw(shot.load(Ordering::SeqCst)), Signal::SIGKILL);
                Fault::ResetBefore
            }
            true => Fault::Stall,
            false => Fault::None,
        }
    });
    let running = bench.env.start(Path::new(env!("CARGO_BIN_EXE_mantle")), words);
    victim.store(running.id(), Ordering::SeqCst);
    if !before {
        guard::wait(&format!("request {n} or the last one"), Limit::PROGRAM, || {
            let journal = bench.proxy.journal();
            let last = |e: &Entry| e.request.target.contains("comp=properties") && e.status.is_some();
            journal.get(n).is_some_and(|e| e.forwarded) || journal.last().is_some_and(last)
        });
        if bench.proxy.journal().get(n).is_some_and(|e| e.forwarded && e.status.is_none()) {
            running.signal(Signal::SIGKILL);
        }
    }
    let outcome = running.finish();
    bench.proxy.calm();
    assert!([0, -9].contains(&outcome.code), "{}: {}", outcome.code, outcome.stderr);
    outcome.code != 0
}

#[test]
fn an_upload_killed_anywhere_is_finished_by_the_next() {
    let Some(bench) = Bench::start() else { return };
    let data = [(0, 4 * MIB + 9000), (7 * MIB, 7 * MIB + 9000), (11 * MIB, 11 * MIB + 9000)];
    let file = bench.disk("d", "fixed", 12, &data);
    bench.upload("whole.vhd", &file, &[]).expect(0);
    let whole = sent(&bench.proxy.take_journal());
    let mut kills = 0;
    for before in [true, false] {
        for n in 0.. {
            let blob = format!("{n}-{before}.vhd");
            let words = bench.words(&blob, &file, &[]);
            if !kill_at(&bench, &words, n, before) {
                break;
            }
            let first = sent(&bench.proxy.take_journal());
            let outcome = bench.env.mantle(&words);
            assert_eq!(outcome.code, 0, "after a kill at {blob}: {}", outcome.stderr);
            // Not more than the pages that were under way; and the footer.
            let second = sent(&bench.proxy.take_journal());
            assert!(first + second <= whole + 4 * 4 * MIB + 512, "{blob}: {first} and {second} of {whole}");
            if n > 9 {
                assert!(second <= 512, "{blob}: {second} bytes again");
            }
            kills += 1;
        }
    }
    assert!(kills > 20, "only {kills} requests");
    let blobs = bench.blobs(&[]);
    assert_eq!(blobs.len(), kills + 3, "those, the whole one, and two that were not killed");
    for blob in &blobs {
        for what in ["size", "md5", "sealed", "ranges", "metadata"] {
            let whole = blobs.iter().find(|b| b["name"] == "whole.vhd").unwrap();
            assert_eq!(blob[what], whole[what], "{what} of {}", blob["name"]);
        }
        assert_eq!(blob["md5"], blob["sealed"]);
    }
}

/// An answer that the service gives when it is overworked.
fn busy() -> Response {
    let body = "<?xml version=\"1.0\"?><Error><Code>ServerBusy</Code><Message>later</Message></Error>";
    let mut answer = Response::new(503, "application/xml", body);
    answer.headers.push(("x-ms-error-code".into(), "ServerBusy".into()));
    answer
}

#[test]
fn what_goes_wrong_on_the_way_is_tried_again_or_told() {
    let Some(bench) = Bench::start() else { return };
    let file = bench.disk("d", "dynamic", 10, &[(0, 5 * MIB)]);
    bench.upload("whole.vhd", &file, &[]).expect(0);
    let requests = bench.proxy.take_journal().len();
    for n in 0..requests {
        // Every answer is lost once, every request meets a busy server once.
        for (name, fault) in [("lost", Fault::ResetAfter), ("busy", Fault::Answer(busy()))] {
            bench.proxy.on(|_| true, n, 1, fault);
            let outcome = bench.upload(&format!("{name}-{n}.vhd"), &file, &[]);
            assert_eq!(outcome.code, 0, "{name} {n}: {}", outcome.stderr);
            assert!(outcome.stderr.contains("trying again"), "{name} {n}: {}", outcome.stderr);
            bench.proxy.calm();
        }
    }
    // One place never arrives: the others do, and the next attempt sends what is missing.
    let at = |start: u64| {
        move |r: &Request| {
            is_put(r) && r.header("x-ms-range") == Some(&*format!("bytes={start}-{}", start + 4 * MIB - 1))
        }
    };
    bench.proxy.take_journal();
    bench.proxy.on(at(0), 0, 99, Fault::Answer(busy()));
    let outcome = bench.upload("one.vhd", &file, &[]).expect(1);
    assert!(
        outcome.stderr.contains("4194304 bytes of blob \"one.vhd\" could not be uploaded"),
        "{}",
        outcome.stderr
    );
    assert!(outcome.stderr.contains("the same command goes on"), "{}", outcome.stderr);
    bench.proxy.calm();
    bench.proxy.take_journal();
    bench.upload("one.vhd", &file, &[]).expect(0);
    assert_eq!(sent(&bench.proxy.take_journal()), 4 * MIB + 512);
    // A refusal for good ends it at once.
    let no = Response::new(
        403,
        "application/xml",
        "<Error><Code>AuthorizationFailure</Code><Message>no</Message></Error>",
    );
    bench.proxy.on(is_put, 0, 1, Fault::Answer(no));
    let outcome = bench.upload("no.vhd", &file, &[]).expect(1);
    assert!(outcome.stderr.contains("Put Page: AuthorizationFailure"), "{}", outcome.stderr);
    bench.proxy.calm();
    // Somebody makes the blob anew while it is written: no page of ours gets into theirs.
    let other = bench.disk("other", "fixed", 10, &[(0, 512)]);
    let mut direct = Env::new();
    direct.set("AZURE_STORAGE_BLOB_ENDPOINT", format!("http://{}", bench.azurite.address));
    direct.set("AZURE_STORAGE_KEY", AZURITE.1);
    let path = bench.env.home().join(&other).display().to_string();
    let mut once = true;
    bench.proxy.rule(move |r| {
        if is_put(r) && std::mem::take(&mut once) {
            let words = ["ore", "azure", "upload-blob", "--overwrite", AZURITE.0, "vhds", "x.vhd", &path];
            direct.mantle(&words).expect(0);
        }
        Fault::None
    });
    let outcome = bench.upload("x.vhd", &file, &[]).expect(1);
    assert!(outcome.stderr.contains("SequenceNumberConditionNotMet"), "{}", outcome.stderr);
    bench.proxy.calm();
    let blobs = bench.blobs(&[]);
    let found = |name: &str| blobs.iter().find(|b| b["name"] == name).unwrap();
    assert_eq!(found("x.vhd")["md5"], found("x.vhd")["sealed"]);
    assert_ne!(found("x.vhd")["md5"], found("whole.vhd")["md5"]);
    let all = blobs.iter().filter(|b| !["no.vhd", "x.vhd"].contains(&b["name"].as_str().unwrap()));
    for blob in all {
        assert_eq!(blob["md5"], found("whole.vhd")["sealed"], "{}", blob["name"]);
        assert_eq!(blob["md5"], blob["sealed"], "{}", blob["name"]);
    }
}

/// What is sent of a disk with so many MiB of data in one of `size` MiB, in places far apart; in bytes.
fn sparse(bench: &Bench, size: u64, data: u64) {
    let step = size / data;
    let places: Vec<_> = (0..data).map(|n| (n * step * MIB, (n * step + 1) * MIB)).collect();
    let file = bench.disk("sparse", "fixed", size, &places);
    bench.upload("sparse.vhd", &file, &[]).expect(0);
    let sent = sent(&bench.proxy.take_journal());
    assert!(sent <= (data + 1) * MIB, "{sent} bytes for {data} MiB");
}

#[test]
#[ignore = "400 MiB of memory and a quarter of a minute; disks_of_every_kind_arrive does it in small"]
fn of_a_disk_of_1_gib_with_200_mib_of_data_no_more_than_201_are_sent() {
    let Some(bench) = Bench::start() else { return };
    sparse(&bench, 1024, 200);
}

#[test]
fn mistakes_are_told_before_anything_is_asked() {
    let mut env = Env::new();
    let proxy = Proxy::before(|_| None);
    env.set("AZURE_STORAGE_BLOB_ENDPOINT", proxy.url()).set("AZURE_STORAGE_KEY", "a2V5");
    env.write("raw.vhd", &"x".repeat(2048));
    let long = "a".repeat(25);
    for (words, code, told) in [
        (vec![], 2, "Expecting 4 arguments, got 0"),
        (vec!["acc", "vhds", "a.vhd"], 2, "Expecting 4 arguments, got 3"),
        (vec!["acc", "vhds", "a.vhd", "raw.vhd", "x"], 2, "Expecting 4 arguments, got 5"),
        (vec!["acc", "vhds", "a.img", "raw.vhd"], 2, "Blob name should end with .vhd"),
        (vec!["acc", "vhds", "a.VHD", "missing"], 1, "No such file"),
        (vec!["acc", "vhds", "a.vhd", "."], 1, "it is a folder"),
        (vec!["acc", "vhds", "a.vhd", "raw.vhd"], 1, "--validate=false"),
        (vec!["--validate=false", "A", "vhds", "a", "raw.vhd"], 2, "no name of a storage account"),
        (vec!["--validate=false", &long, "vhds", "a", "raw.vhd"], 2, "no name of a storage account"),
        (vec!["--validate=false", "acc", "V", "a", "raw.vhd"], 2, "no name of a container"),
        (vec!["--validate=false", "acc", "a--b", "a", "raw.vhd"], 2, "no name of a container"),
        (vec!["--validate=false", "acc", "vhds", "a/../b", "raw.vhd"], 2, "no name of a blob"),
        (vec!["--validate=false", "acc", "vhds", "", "raw.vhd"], 2, "no name of a blob"),
        (vec!["--validate=false", "acc", "vhds", "a", "/dev/null"], 1, "null"),
    ] {
        let outcome = env.mantle(&[&["ore", "azure", "upload-blob"], &words[..]].concat());
        assert_eq!(outcome.code, code, "{words:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(told), "{words:?}: {}", outcome.stderr);
    }
    assert!(proxy.take_journal().is_empty());
}
