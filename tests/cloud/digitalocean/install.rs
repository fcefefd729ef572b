//! `ore do create-image --method=kexec`: the userdata of the droplet really runs, on a disk of its own.
//!
//! What systemd would do with it is done here: the files are written, the unit's commands run, the old root is put below
//! the new one, and the script is process 1 of its own namespace, so that its end of the power is real and is seen.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use mantle::text::percent::decode;
use serde_json::Value;

use super::double::{DigitalOcean, Odds, REGION};
use super::{action, error};
use crate::cloud::matrix::{Double as _, nothing_left};
use crate::support::http::{self, Reply, Response};
use crate::support::proxy::Fault;
use crate::support::{Env, Outcome, installed};

const DISK: u64 = 24 << 20;

/// What process 1 of a namespace ends by when the power goes off there; reboot(2).
const POWER_OFF: i32 = nix::sys::signal::Signal::SIGINT as i32;

/// The way of a system to its end: `$1` is the folder of its files, `$2` the partition with its root.
const END: &str = r#"
set -e
cd "$1"
mount -t tmpfs -o mode=755 run /run
mount -t proc proc /proc
mount --bind root /root
sh -e ./prepare
cd /run/initramfs
mkdir -p proc sys dev oldroot
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount "$2" oldroot
mkdir -p "oldroot/var/with blank"
mount -t tmpfs state "oldroot/var/with blank"
exec chroot . /shutdown poweroff
"#;

/// A disk with a partition, which a system was on.
struct Disk {
    file: PathBuf,
    device: String,
}

fn run(program: &str, words: &[&str]) -> String {
    let out = Command::new(program).args(words).output().unwrap();
    assert!(out.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

impl Disk {
    /// `None`, and a word on stdout, where it cannot be.
    fn new(folder: &Path) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: loop devices need root");
            return None;
        }
        if !["losetup", "addpart", "mke2fs", "unshare", "busybox", "wget"].iter().all(|p| installed(p)) {
            return None;
        }
        let file = folder.join("disk");
        let mut junk = std::fs::File::create(&file).unwrap();
        for _ in 0..DISK >> 20 {
            junk.write_all(&vec![0xa5; 1 << 20]).unwrap();
        }
        let device = run("losetup", &["--find", "--show", "--partscan", file.to_str().unwrap()]);
        let disk = Self { file, device };
        run("addpart", &[&disk.device, "1", "2048", &((DISK >> 9) - 2048).to_string()]);
        run("mke2fs", &["-q", "-F", &disk.partition()]);
        Some(disk)
    }

    fn partition(&self) -> String {
        format!("{}p1", self.device)
    }

    /// Runs a droplet's userdata to its end; whether the power went off.
    fn boot(&self, folder: &Path, userdata: &str) -> bool {
        let json: Value = serde_json::from_str(userdata).unwrap();
        for file in json["storage"]["files"].as_array().unwrap() {
            let path = folder.join(file["path"].as_str().unwrap().trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let text = decode(file["contents"]["source"].as_str().unwrap().strip_prefix("data:,").unwrap());
            std::fs::write(&path, text.unwrap()).unwrap();
            let mode = u32::try_from(file["mode"].as_u64().unwrap()).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let unit = json["systemd"]["units"][0]["contents"].as_str().unwrap();
        let mut commands: Vec<_> = unit.lines().filter_map(|l| l.strip_prefix("ExecStart=")).collect();
        // The one that is not run: it would be this machine's end.
        assert_eq!(commands.pop(), Some("/bin/systemctl --no-block poweroff"));
        assert!(!commands.iter().any(|c| c.contains("systemctl")), "{unit}");
        std::fs::write(folder.join("prepare"), commands.join("\n").replace("%%", "%")).unwrap();
        let status = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", END, "sh"])
            .arg(folder)
            .arg(self.partition())
            .stdin(Stdio::null())
            .status()
            .unwrap();
        // unshare ends as its child did.
        status.signal() == Some(POWER_OFF) || status.code() == Some(128 + POWER_OFF)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

/// The cloud, whose droplets overwrite this disk, and somebody who uses it.
struct Cloud {
    cloud: DigitalOcean,
    env: Env,
    disk: Arc<Disk>,
    image: Vec<u8>,
    url: String,
    busybox: [String; 2],
}

impl Cloud {
    fn new() -> Option<Self> {
        let cloud = DigitalOcean::of_records();
        let mut env = cloud.env();
        // What the droplet does takes its time, which the clock of the tests knows nothing of.
        env.set("MANTLE_POLL_SCALE", "0.05").set("NO_COLOR", "1");
        let disk = Arc::new(Disk::new(&env.home())?);
        let image: Vec<u8> = (0..3_000_000_u32).flat_map(|n| (n / 7).to_le_bytes()).take(3 << 20).collect();
        let mut packed = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        packed.write_all(&image).unwrap();
        let packed = packed.finish().unwrap();
        let server = http::serve(move |request| {
            let body = match request.path() {
                "/an%20image.bz2" => packed.clone(),
                "/half.bz2" => packed[..packed.len() / 2].to_vec(),
                "/busy%20box" => std::fs::read("/bin/busybox").unwrap(),
                _ => return Reply::Answer(Response::new(404, "text/plain", "no")),
            };
            Reply::Answer(Response::new(200, "application/octet-stream", body))
        });
        let hash = run("sha256sum", &["/bin/busybox"]);
        let hash = hash.split(' ').next().unwrap();
        let busybox =
            [format!("--busybox-url=http://{server}/busy%20box"), format!("--busybox-sha256={hash}")];
        cloud.put_image("base", "snapshot", &[REGION]);
        let (to, folder) = (disk.clone(), env.home());
        cloud.installer(Arc::new(move |userdata| to.boot(&folder, userdata)));
        Some(Self { cloud, env, disk, image, url: format!("http://{server}"), busybox })
    }

    fn create(&self, path: &str, more: &[&str]) -> Outcome {
        let url = format!("--url={}/{path}", self.url);
        let [at, hash] = &self.busybox;
        let words = [
            "ore",
            "do",
            "create-image",
            "--method=kexec",
            "--name=linux-1",
            "--base-image=base",
            &url,
            at,
            hash,
        ];
        self.env.mantle(&[&words[..], more].concat())
    }
}

#[test]
fn a_droplet_overwrites_its_disk_and_is_made_an_image() {
    let Some(user) = Cloud::new() else { return };
    let outcome = user.create("an%20image.bz2", &[]).expect(0);
    let images = user.cloud.images();
    let (id, made) = images.iter().find(|(_, i)| i["name"] == "linux-1").unwrap();
    assert_eq!((outcome.stdout, made["type"].as_str()), (format!("{id}\n"), Some("snapshot")));
    let written = std::fs::read(&user.disk.file).unwrap();
    let (image, rest) = written.split_at(user.image.len());
    assert!(image == user.image, "the image is on the disk");
    assert!(rest.iter().all(|b| *b == 0), "the rest is empty");
    assert!(user.cloud.droplets().is_empty() && user.cloud.keys().is_empty());
    let mut asked = user.cloud.asked_for();
    asked.dedup();
    let expected = [
        "account.get",
        "images.list",
        "keys.create",
        "droplets.create",
        "droplets.get",
        "droplets.snapshot",
        "actions.get",
        "droplets.snapshots",
        "droplets.delete",
        "keys.list",
        "keys.delete",
    ];
    // The second list finds the image to boot.
    assert_eq!(asked, expected);
}

#[test]
fn installs_that_fail_leave_nothing() {
    let Some(mut user) = Cloud::new() else { return };
    user.env.set("MANTLE_POLL_SCALE", "0.01");
    let before = user.cloud.census();
    let wrong = format!("--busybox-sha256={}", "0".repeat(64));
    for (path, hash) in [("missing.bz2", None), ("half.bz2", None), ("an%20image.bz2", Some(wrong))] {
        if let Some(hash) = hash {
            user.busybox[1] = hash;
        }
        let outcome = user.create(path, &[]).expect(1);
        let said = outcome.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            said.contains("Failed waiting for droplet to power off (time limit exceeded"),
            "{path}: {said}"
        );
        assert!(said.contains("Did install fail?"), "{path}: {said}");
        assert!(outcome.stdout.is_empty());
        nothing_left(&user.cloud, &before, path);
    }
}

/// A cloud whose droplets power off at once, as far as anybody sees.
fn quick() -> (DigitalOcean, Env) {
    let cloud = DigitalOcean::of_records();
    let mut env = cloud.env();
    env.set("NO_COLOR", "1");
    cloud.put_image("base", "snapshot", &[REGION]);
    cloud.installer(Arc::new(|_| true));
    (cloud, env)
}

const CREATE: &[&str] = &[
    "ore",
    "do",
    "create-image",
    "--method=kexec",
    "--name=a b",
    "--base-image=base",
    "--url=http://h/x.bz2",
];

#[test]
fn what_goes_wrong_with_an_install_leaves_nothing() {
    let (cloud, env) = quick();
    let before = cloud.census();
    let mut actions = cloud_actions(&cloud, &env);
    actions.retain(|a| a != "account.get");
    for image in cloud.images().keys().filter(|id| !before["image"].contains_key(&id.to_string())) {
        env.mantle(&["ore", "do", "delete-image", &format!("--id={image}")]).expect(0);
    }
    let ends = ["droplets.delete", "keys.list", "keys.delete"];
    for action_name in actions {
        for fault in [
            Fault::Answer(error(403, "forbidden", "not allowed")),
            Fault::ResetAfter,
            Fault::Answer(error(503, "service_unavailable", "later")),
        ] {
            let forbidden = matches!(&fault, Fault::Answer(a) if a.status == 403);
            let broken = matches!(&fault, Fault::Answer(a) if a.status == 503);
            if broken && !action_name.ends_with("create") && action_name != "droplets.snapshot" {
                continue; // every call is repeated then
            }
            let (name, again) = (action_name.clone(), fault.clone());
            cloud.proxy.on(move |r| action(r) == name, 0, 1, again);
            let outcome = env.mantle(CREATE);
            let what = format!("{action_name} {fault:?}: {}", outcome.stderr);
            // What is only in doubt is gone on with.
            assert_eq!(outcome.code, i32::from(forbidden), "{what}");
            let left = DigitalOcean::left(&before, &cloud.census());
            let made = cloud.images().into_iter().find(|(_, i)| i["name"] == "a b").map(|(id, _)| id);
            if ends.contains(&action_name.as_str()) && forbidden {
                // The image is there, and what could not be removed is said.
                assert_eq!(made.map(|id| format!("{id}\n")), Some(outcome.stdout), "{what}");
                assert!(outcome.stderr.contains("is left: "), "{what}");
                assert_eq!(left.len(), 2, "{left:?}: {what}");
            } else if !forbidden {
                assert_eq!(made.map(|id| format!("{id}\n")), Some(outcome.stdout), "{what}");
                assert_eq!(left.len(), 1, "{left:?}: {what}");
            } else if action_name != "droplets.snapshots" {
                assert!(left.is_empty(), "{left:?}: {what}");
            }
            cloud.reset();
            cloud.put_image("base", "snapshot", &[REGION]);
            cloud.installer(Arc::new(|_| true));
        }
    }
}

/// What an undisturbed run asks for, each once.
fn cloud_actions(cloud: &DigitalOcean, env: &Env) -> Vec<String> {
    env.mantle(CREATE).expect(0);
    let mut asked = cloud.asked_for();
    asked.sort();
    asked.dedup();
    assert!(asked.len() > 9, "{asked:?}");
    asked
}

#[test]
fn actions_that_fail_say_so_and_leave_nothing() {
    let (cloud, env) = quick();
    let before = cloud.census();
    cloud.odds(Odds { actions_end: Some("errored"), ..Odds::default() });
    let outcome = env.mantle(CREATE).expect(1);
    let said = outcome.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("couldn't snapshot droplet: snapshot failed: it is errored"), "{said}");
    nothing_left(&cloud, &before, "a failed snapshot");
    // Container Linux is gone from there.
    let outcome = env.mantle(&[&CREATE[..5], &CREATE[6..]].concat()).expect(1);
    let said = outcome.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("DigitalOcean has no image \"coreos-stable\" any more"), "{said}");
    nothing_left(&cloud, &before, "no image to boot");
}

#[test]
fn interrupted_installs_leave_nothing() {
    let (cloud, mut env) = quick();
    // It never powers off.
    cloud.installer(Arc::new(|_| false));
    env.set("MANTLE_POLL_SCALE", "1");
    let before = cloud.census();
    let running = env.start(Path::new(env!("CARGO_BIN_EXE_mantle")), CREATE);
    crate::support::guard::wait("the droplet", crate::support::guard::Limit::PROGRAM, || {
        cloud.proxy.journal().iter().any(|e| action(&e.request) == "droplets.get")
    });
    running.signal(nix::sys::signal::Signal::SIGTERM);
    running.finish().expect(143);
    nothing_left(&cloud, &before, "an interruption");
}
