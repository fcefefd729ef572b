//! `cork create`, `enter`, `update`, `delete`: an SDK made of this machine's own programs, a user who is not root.

use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Bench;
use super::sdk::arch;
use crate::support::guard::{self, Limit};
use crate::support::{Outcome, Running, installed, repository};

/// The archive of the small SDK: made once for each state of its script. `MANTLE_TEST_SDK` names another one.
fn tree() -> Vec<u8> {
    static TREE: OnceLock<Vec<u8>> = OnceLock::new();
    TREE.get_or_init(|| match std::env::var_os("MANTLE_TEST_SDK") {
        Some(archive) => std::fs::read(archive).unwrap(),
        None => small_tree(),
    })
    .clone()
}

fn small_tree() -> Vec<u8> {
    let script = repository().join("tests/cork/sdk/tree.sh");
    let text = std::fs::read(&script).unwrap();
    let id = text.iter().fold(0_u32, |id, b| id.wrapping_mul(31).wrapping_add((*b).into()));
    let archive = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sdk-{id:08x}.tar"));
    if !archive.exists() {
        // Several tests may make it at the same time; the last one stays.
        let own = archive.with_extension(std::process::id().to_string());
        let made = Command::new(script).arg(&own).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        std::fs::rename(own, &archive).unwrap();
    }
    std::fs::read(archive).unwrap()
}

fn tarball(version: &str) -> String {
    format!("/sdk/{}/{version}/flatcar-sdk-{}-{version}.tar.bz2", arch(), arch())
}

/// A bench whose server has the SDK; None, and a word on stdout, where this cannot be tested.
fn bench() -> Option<Bench> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can make users and mounts for a test");
        return None;
    }
    if !["unshare", "setpriv", "sudo", "git", "newuidmap", "bash"].iter().all(|p| installed(p)) {
        return None;
    }
    let bench = Bench::new();
    bench.put_signed(&tarball("2.0.0"), &tree());
    Some(bench)
}

/// A script as a user who is not root; `with`: what they may use.
fn script(bench: &Bench, with: &str, script: &str) -> Command {
    let mut command = bench.env.command("/usr/bin/unshare");
    command.args(["--mount", "--propagation=private"]).arg(repository().join("tests/cork/sdk/as-user.sh"));
    let prepare = std::fs::read_to_string(repository().join("tests/cork/sdk/prepare.sh")).unwrap();
    let whole = format!("SDK={}\n{prepare}\n{script}", bench.server.url("/sdk"));
    // The one to be shipped, if it is there: what is unpacked may be larger.
    let mantle = std::env::var_os("MANTLE").unwrap_or_else(|| env!("CARGO_BIN_EXE_mantle").into());
    command.arg(std::path::absolute(mantle).unwrap()).arg(bench.env.home()).args([with, &whole]);
    command
}

fn run(bench: &Bench, with: &str, text: &str) -> Outcome {
    Running::new(script(bench, with, text)).finish()
}

/// From the first to the last command, by either way to be root.
#[test]
fn from_create_to_delete() {
    let Some(bench) = bench() else { return };
    bench.put_signed(&tarball("1.0.0"), &tree());
    for (with, owner) in [("sudo", "0"), ("namespace", "3000000")] {
        let text = r#"
echo '[alias] x = y' >>~/.gitconfig
mkdir -m 700 ~/.ssh ~/.gnupg
echo 'Host x' >~/.ssh/config
chmod 600 ~/.ssh/config
cork -v create $sources
run=$(ls -A chroot/run)
expect "$(stat -c %u chroot)" OWNER
expect "$(stat -c %u chroot/home/alice)" 4242
expect "$(readlink chroot/home/alice/trunk)" /mnt/host/source
grep -qF 'Alice $(touch /srv/tmp/pwned) `touch' chroot/etc/passwd
[ ! -e /srv/tmp/pwned ] || die "the full name was run"
[ -d src/scripts/.git ] || die "no sources"
expect "$(ls -A | xargs)" ".cache .repo chroot src"
status 1 cork create $sources
status 7 cork enter -- sh -c 'exit 7'
status 143 cork enter -- sh -c 'kill $$'
expect "$(cork enter -- id -un)" alice
expect "$(cork enter -- A=b printenv A)" b
expect "$(GIT_AUTHOR_NAME=me STRANGE=1 cork enter -- sh -c 'echo $GIT_AUTHOR_NAME,$STRANGE,$HOME,$PWD')" \
    me,,/home/alice,/home/alice/trunk/src/scripts
cork enter -- sh -c 'echo $EMAIL' | grep -q '^alice@.'
expect "$(EMAIL=a@b cork enter -- printenv EMAIL)" a@b
expect "$(cork enter -- cat .ssh/config /home/alice/.ssh/config 2>/dev/null)" 'Host x'
cork enter -- cat /home/alice/.gitconfig | grep -q alias
expect "$(echo typed | cork enter -- cat)" typed
cork enter -- sh -c 'echo made >/mnt/host/source/made; sudo touch /by-root; sudo touch /dev/new 2>/dev/null || echo ro' | grep -qx ro
expect "$(cat made; stat -c %u made)" "$(printf 'made\n4242')"
expect "$(stat -c %u chroot/by-root)" OWNER
cork enter -- sh -c 'echo x >/dev/null; exec 3<>/dev/shm/x; stat -c %a /run /dev/shm' | xargs | grep -qx '755 1777'
cork enter -- sh -c 'stat -c "%U %a" /run/user/4242 /home/alice/.gnupg; echo $GNUPGHOME' | xargs |
    grep -qx 'alice 755 alice 700 /home/alice/.gnupg'
cork enter --use-host-dns=false -- cat /etc/resolv.conf | xargs | grep -qx 'nameserver 8.8.8.8 nameserver 8.8.4.4'
expect "$(cork enter -- cat /etc/resolv.conf)" "$(cat /etc/resolv.conf)"
expect "$(mounted)" 0
expect "$(ls -A chroot/proc chroot/mnt/host/source)" "$(printf 'chroot/mnt/host/source:\n\nchroot/proc:')"
expect "$(ls -A chroot/run)" "$run"
cork update $sources -- one two | grep -x 'updating as alice with: one two'
[ -e chroot/updated ] || die "not updated"
status 7 cork update $sources -- fail
release 1.0.0 1.0.0
status 1 cork update $sources
status 2 cork update --downgrade-in-place --downgrade-replace
status 0 cork update $sources --downgrade-in-place
cork update $sources --downgrade-replace
[ ! -e chroot/by-root ] || die "not replaced"
cork create $sources --chroot=second
cork create $sources --chroot=second --replace
expect "$(cork enter --chroot=second -- id -un)" alice
expect "$(ls .cache/sdks | grep -c 'bz2$')" 2
cork delete --chroot=second
cork delete
cork delete
expect "$(ls -A | xargs)" ".cache .repo made src"
status 1 cork update $sources
status 1 cork enter
cork update $sources --create
cork delete
expect "$(ls -A | xargs)" ".cache .repo made src"
echo all is well
"#;
        let outcome = run(&bench, with, &text.replace("OWNER", owner)).expect(0);
        assert!(outcome.stdout.ends_with("all is well\n"), "{}\n{}", outcome.stdout, outcome.stderr);
        for said in [
            "Path already exists: /srv/root/chroot",
            "Downgrade from 2.0.0 to 1.0.0 required!",
            "Refusing to downgrade.",
            "update_chroot failed: exit status 7",
            "cork create makes it",
        ] {
            assert!(outcome.stderr.contains(said), "{with}: no {said:?} in {}", outcome.stderr);
        }
    }
}

/// The README's section, line by line as it stands there; where it asks things of Flatcar's servers, the configuration
/// file names ours.
#[test]
fn the_readme_is_right() {
    let Some(bench) = bench() else { return };
    bench.put_signed(&tarball("1.0.0"), &tree());
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let section = readme.split("\n## ").find(|s| s.starts_with("The SDK\n")).unwrap();
    let lines = section.split_once("```sh\n").unwrap().1.split_once("```").unwrap().0;
    assert_eq!(lines.lines().count(), 7, "{lines}");
    let before = r#"
unset REPO_ROOT
export MANTLE_CONFIG=/srv/tmp/config.yaml
options="{sdk-url: '$SDK', manifest-url: 'file:///srv/tmp/manifest.git', manifest-branch: master, sync-with: builtin}"
echo "cork: {create: $options, update: $options}" >$MANTLE_CONFIG
cat >/srv/tmp/scripts.git/build_packages <<'END'
#!/bin/bash
sudo mkdir -p /build/amd64-usr && echo "built by $(id -un) in $PWD" | sudo tee /build/amd64-usr/log
END
chmod +x /srv/tmp/scripts.git/build_packages
commit scripts.git
"#;
    let (forth, back) = lines.split_once("cork update --downgrade-replace").unwrap();
    let text = format!(
        "{before}\n{forth}\n[ -e chroot/updated ] && [ -e chroot/build/amd64-usr/log ]\nrelease 1.0.0 1.0.0\n\
         cork update --downgrade-replace{back}\nexpect \"$(ls -A | xargs)\" '.cache .repo src'"
    );
    for with in ["sudo", "both"] {
        let outcome = run(&bench, with, &text).expect(0);
        for said in ["built by alice in /home/alice/trunk/src/scripts", "updating as alice with:"] {
            assert!(outcome.stdout.contains(said), "{with}: {outcome:?}");
        }
        let without_root = outcome.stderr.contains("in a user namespace");
        assert_eq!(without_root, with == "both", "{}", outcome.stderr);
    }
}

#[test]
fn without_any_way_to_be_root() {
    let Some(bench) = bench() else { return };
    let outcome = run(&bench, "neither", "status 1 cork create $sources; expect \"$(ls -A)\" ''").expect(0);
    assert!(outcome.stderr.contains("sudo refused"), "{}", outcome.stderr);
    assert!(bench.asked().iter().all(|t| !t.contains("/sdk/")), "asked before a download began");
}

#[test]
fn agents_and_credentials_can_be_used_inside() {
    let Some(bench) = bench() else { return };
    let text = r#"
cork create $sources
eval "$(ssh-agent -a /srv/tmp/agent.sock)" >/dev/null
trap 'kill $SSH_AGENT_PID' EXIT
cork enter -- sh -c 'test -S $SSH_AUTH_SOCK && case $SSH_AUTH_SOCK in /run/user/4242/agent-*/agent.sock) ;; *) exit 1 ;; esac'
status 0 cork enter -- sh -c 'test -z "$BOTO_PATH$GOOGLE_APPLICATION_CREDENTIALS"'
echo '{"type":"authorized_user","refresh_token":"SECRET","client_id":"i","client_secret":"SECRET"}' >/srv/tmp/key.json
export GOOGLE_APPLICATION_CREDENTIALS=/srv/tmp/key.json
# in a file, as the login shell would take the variables of a word for its own
cat >look.sh <<'END'
b=${BOTO_PATH%%:*}
stat -c "%U %a" $b $GOOGLE_APPLICATION_CREDENTIALS ${b%/*} ${b%/*}/tracker-files
grep -q "gs_oauth2_refresh_token = SECRET" $b && grep -q SECRET $GOOGLE_APPLICATION_CREDENTIALS
echo ${BOTO_PATH##*:}
END
cork -d enter -- sh /mnt/host/source/look.sh | xargs >out
expect "$(cat out)" "alice 600 alice 600 alice 700 alice 700 /home/alice/.boto"
# not what root may read, and the user may not
export GOOGLE_APPLICATION_CREDENTIALS=/srv/etc/shadow
status 0 cork enter -- sh -c 'test -z "$GOOGLE_APPLICATION_CREDENTIALS"'
echo all is well
"#;
    for with in ["sudo", "namespace"] {
        let outcome = run(&bench, with, text).expect(0);
        assert!(
            outcome.stdout.ends_with("all is well\n") && !outcome.stderr.contains("SECRET"),
            "{outcome:?}"
        );
    }
}

/// What is typed, the size of the window, and jobs: as in any shell.
#[test]
fn a_terminal_is_one_inside() {
    let Some(bench) = bench() else { return };
    if !installed("tmux") {
        return;
    }
    let text = r#"
cork create $sources
t() { tmux -S /srv/tmp/tmux "$@"; }
seen() {
    for _ in $(seq 600); do
        t capture-pane -p | grep -q "$1" && return
        sleep 0.1
    done
    t capture-pane -p >&2
    die "no $1 on the terminal"
}
t new-session -d -x 91 -y 31 'trap : INT; cork enter; echo status $?; cork enter -- sh -c "echo be""gun; sleep 1000"; echo then $?; cat'
seen 'alice@\|\$'
t send-keys 'stty size; tty' Enter
seen '^31 91'
seen /dev/pts
t send-keys 'sleep 1000' Enter
sleep 0.3
t send-keys C-c
t send-keys 'echo status was $?' Enter
seen 'status was 130'
t send-keys 'exit 5' Enter
seen 'status 5'
seen begun
t send-keys C-c
seen 'then 130'
t kill-server
expect "$(mounted)" 0
echo all is well
"#;
    for with in ["sudo", "namespace"] {
        let outcome = run(&bench, with, text).expect(0);
        assert!(outcome.stdout.ends_with("all is well\n"), "{outcome:?}");
    }
}

/// Root's own chroot, without a user's name: for tests of what needs no other user.
fn as_root(bench: &Bench, args: &[&str]) -> Running {
    let mut command = bench.env.command(env!("CARGO_BIN_EXE_mantle"));
    command.arg("cork").args(args);
    command
        .env("REPO_ROOT", root(bench))
        .env("SUDO_USER", "root")
        .env("MANTLE_VERIFY_KEY", bench.file("key.asc"));
    Running::new(command)
}

fn root(bench: &Bench) -> PathBuf {
    let root = bench.file("root");
    std::fs::create_dir_all(&root).unwrap();
    root
}

/// What is asked of the part that makes a chroot of an archive: `cork create` without sources.
fn create(bench: &Bench, archive: &Path) -> Running {
    let request = serde_json::json!({"Chroot": root(bench).join("chroot"), "Archive": "sdk.tar", "Size": 1});
    let mut command = bench.env.command(env!("CARGO_BIN_EXE_mantle"));
    command.args(["_MULTICALL_ENTRYPOINT_createChroot", &request.to_string()]).env("SUDO_USER", "root");
    command.stdin(std::fs::File::open(archive).unwrap());
    Running::new(command)
}

fn archive(bench: &Bench) -> PathBuf {
    let path = bench.file("sdk.tar");
    std::fs::write(&path, tree()).unwrap();
    path
}

#[test]
fn planted_links_are_not_followed() {
    let Some(bench) = bench() else { return };
    create(&bench, &archive(&bench)).finish().expect(0);
    let outside = bench.file("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), "untouched").unwrap();
    bench.env.write(".ssh/config", "Host x\n");
    let chroot = root(&bench).join("chroot");
    let enter = || as_root(&bench, &["enter", "--", "true"]).finish();
    enter().expect(0);
    // /root inside is the home of root, and HOME is not asked for it
    for place in ["mnt/host/source", "mnt/host", "mnt", "run", "proc", "sys", "dev", "etc"] {
        for to in [outside.display().to_string(), "../../outside".into(), "usr".into()] {
            let path = chroot.join(place);
            let kept = bench.file("kept");
            std::fs::rename(&path, &kept).unwrap();
            symlink(&to, &path).unwrap();
            let outcome = enter().expect(1);
            assert!(outcome.stderr.contains("symbolic link"), "{place} -> {to}: {}", outcome.stderr);
            assert!(path.is_symlink());
            std::fs::remove_file(&path).unwrap();
            std::fs::rename(&kept, &path).unwrap();
        }
    }
    let resolv = chroot.join("etc/resolv.conf");
    std::fs::remove_file(&resolv).unwrap();
    symlink(outside.join("file"), &resolv).unwrap();
    as_root(&bench, &["enter", "--use-host-dns=false", "--", "true"]).finish().expect(0);
    assert!(!resolv.is_symlink());
    assert_eq!(std::fs::read_to_string(outside.join("file")).unwrap(), "untouched");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    // the chroot itself
    let real = root(&bench).join("real");
    std::fs::rename(&chroot, &real).unwrap();
    symlink("real", &chroot).unwrap();
    for args in [&["enter"][..], &["delete"], &["create", "--sdk-version=2.0.0", "--replace"]] {
        let outcome = as_root(&bench, args).finish().expect(1);
        assert!(outcome.stderr.contains("symbolic link"), "{args:?}: {}", outcome.stderr);
    }
    assert!(real.join("usr/bin/bash").exists() && chroot.is_symlink());
    let place = chroot.display().to_string();
    for entry in ["createChroot", "enterChroot", "deleteChroot"] {
        let mut command = bench.env.command(env!("CARGO_BIN_EXE_mantle"));
        let request = serde_json::json!({"Chroot": place, "RepoRoot": root(&bench)}).to_string();
        command.args([&format!("_MULTICALL_ENTRYPOINT_{entry}"), &request]).env("SUDO_USER", "root");
        let outcome = Running::new(command).finish().expect(1);
        assert!(outcome.stderr.contains("symbolic link"), "{entry}: {}", outcome.stderr);
    }
    assert!(real.join("usr/bin/bash").exists());
}

/// Planted where settings are copied to.
#[test]
fn settings_do_not_follow_links() {
    let Some(bench) = bench() else { return };
    let text = r#"
echo 'Host x' >/srv/home/.gitconfig.d
mkdir -p ~/.ssh && echo 'Host x' >~/.ssh/config
cork create $sources
echo untouched >/srv/tmp/file
ln -s /srv/tmp/file chroot/home/alice/.gitconfig
status 1 cork enter -- true
rm chroot/home/alice/.gitconfig
rm -rf chroot/home/alice/.ssh
ln -s /srv/tmp chroot/home/alice/.ssh
status 1 cork enter -- true
rm chroot/home/alice/.ssh
mkdir -p ~/.gnupg
ln -s /srv/tmp chroot/home/alice/.gnupg
status 1 cork enter -- true
rm chroot/home/alice/.gnupg
status 0 cork enter -- true
expect "$(cat /srv/tmp/file; ls /srv/tmp | grep -c config)" "$(printf 'untouched\n0')"
echo all is well
"#;
    let outcome = run(&bench, "sudo", text).expect(0);
    assert!(outcome.stdout.ends_with("all is well\n"), "{outcome:?}");
    assert_eq!(outcome.stderr.matches("symbolic link").count(), 3, "{}", outcome.stderr);
}

#[test]
fn hostile_tarballs_leave_nothing() {
    let Some(bench) = bench() else { return };
    let header = || {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header
    };
    let mut through = tar::Builder::new(Vec::new());
    let mut link = header();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    through.append_link(&mut link, "etc", "/etc").unwrap();
    let mut file = header();
    file.set_size(4);
    through.append_data(&mut file, "etc/mantle-was-here", &b"evil"[..]).unwrap();
    let whole = tree();
    for (bytes, what) in [
        (through.into_inner().unwrap(), "symbolic link"),
        (whole[..whole.len() / 2].to_vec(), "ends"),
        (b"no archive at all".repeat(100), "cannot unpack"),
        (vec![0; 10240], "preparation of the chroot failed"), // an empty one has no shell
    ] {
        bench.put_signed(&tarball("6.6.6"), &bytes);
        let url = format!("--sdk-url={}", bench.server.url("/sdk"));
        let _ = std::fs::remove_dir_all(root(&bench).join(".cache"));
        let outcome = as_root(&bench, &["create", "--sdk-version=6.6.6", &url]).finish().expect(1);
        assert!(
            outcome.stderr.contains(what) && outcome.stderr.contains("Create failed"),
            "{}",
            outcome.stderr
        );
        assert_eq!(bench.names("root"), [".cache"]);
    }
    assert!(!Path::new("/etc/mantle-was-here").exists());
    // One that somebody else signed is not even looked into.
    bench.server.put(&format!("{}.sig", tarball("6.6.6")), &crate::gangue::sign(b"another"));
    let _ = std::fs::remove_dir_all(root(&bench).join(".cache"));
    let url = format!("--sdk-url={}", bench.server.url("/sdk"));
    let outcome = as_root(&bench, &["create", "--sdk-version=6.6.6", &url]).finish().expect(1);
    assert!(outcome.stderr.contains("Download failed"), "{}", outcome.stderr);
    assert!(!bench.names("root").iter().any(|n| n.contains("chroot")));
}

/// The processes that have to do with a folder: their command line names it, or something of it is mounted for them.
fn processes(folder: &Path) -> Vec<i32> {
    let name = folder.display().to_string();
    let numbers =
        std::fs::read_dir("/proc").unwrap().filter_map(|e| e.unwrap().file_name().to_str()?.parse().ok());
    let about = |id: &i32| {
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let mounts = std::fs::read_to_string(format!("/proc/{id}/mountinfo")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&name) || mounts.contains(&name)
    };
    numbers.filter(about).collect()
}

#[test]
fn a_kill_at_any_point_blocks_nothing() {
    let Some(bench) = bench() else { return };
    let archive = archive(&bench);
    let (folder, new) = (root(&bench), root(&bench).join(".chroot.new"));
    let mounts = || std::fs::read_to_string("/proc/self/mounts").unwrap();
    let before = mounts();
    // States that a creation goes through, as seen from outside.
    let states: [(&str, &dyn Fn() -> bool); 7] = [
        ("at once", &|| true),
        ("the folder", &|| new.exists()),
        ("the first program", &|| new.join("usr/bin/bash").exists()),
        ("the last file", &|| new.join("usr/lib/os-release").exists()),
        ("the preparation", &|| new.join("etc/gshadow").exists()),
        ("the user's groups", &|| new.join("etc/sudoers.d/90_env_keep").exists()),
        ("the end", &|| new.join("etc/debian_chroot").exists() || folder.join("chroot").exists()),
    ];
    for (state, reached) in states {
        for signal in [Signal::SIGKILL, Signal::SIGTERM] {
            let _ = std::fs::remove_dir_all(&new);
            let running = create(&bench, &archive);
            guard::wait(state, Limit::PROGRAM, || reached() || processes(&folder).is_empty());
            let _ = kill(Pid::from_raw(running.id()), signal);
            let outcome = running.finish();
            // all that it started ends with it
            guard::wait("the end of all", Limit::PROGRAM, || processes(&folder).is_empty());
            assert_eq!(mounts(), before, "{state}");
            if outcome.code == 130 {
                assert!(!new.exists(), "{state}: {outcome:?}");
            }
            if folder.join("chroot").exists() {
                as_root(&bench, &["delete"]).finish().expect(0);
            }
        }
    }
    // Two at the same time: one of them is told so. Killed while it deletes: the next one goes on.
    create(&bench, &archive).finish().expect(0);
    let delete = as_root(&bench, &["delete"]);
    guard::wait("the deletion", Limit::PROGRAM, || !folder.join("chroot").exists());
    delete.signal(Signal::SIGKILL);
    drop(delete.finish());
    guard::wait("the end of all", Limit::PROGRAM, || processes(&folder).is_empty());
    as_root(&bench, &["delete"]).finish().expect(0);
    assert!(bench.names("root").is_empty(), "{:?}", bench.names("root"));
    create(&bench, &archive).finish().expect(0);
    // Killed while somebody is inside: the mounts were theirs.
    let mut enter = as_root(&bench, &["enter", "--", "sh", "-c", "echo inside; exec sleep 1000"]);
    enter.wait_for("inside");
    let inside = processes(&folder);
    assert_eq!(mounts(), before);
    enter.signal(Signal::SIGKILL);
    for id in inside {
        let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
    }
    drop(enter.finish());
    assert_eq!(mounts(), before);
    as_root(&bench, &["delete"]).finish().expect(0);
    assert!(bench.names("root").is_empty());
}

/// Who asked is gone: the part that works as root undoes what it has begun.
#[test]
fn nobody_waits_any_more() {
    let Some(bench) = bench() else { return };
    let archive = archive(&bench);
    let running = create(&bench, &archive);
    guard::wait("the unpacking", Limit::PROGRAM, || root(&bench).join(".chroot.new/usr").exists());
    let outcome = running.hang_up();
    assert!(outcome.code == 130 || outcome.code == 0, "{outcome:?}");
    assert_eq!(bench.names("root"), if outcome.code == 0 { vec!["chroot".to_owned()] } else { vec![] });
}

#[test]
fn what_is_mounted_is_not_deleted() {
    let Some(bench) = bench() else { return };
    create(&bench, &archive(&bench)).finish().expect(0);
    let other = bench.file("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("file"), "stays").unwrap();
    let script = format!(
        "mount --bind {} {root}/chroot/run && exec env REPO_ROOT={root} {} cork delete",
        other.display(),
        env!("CARGO_BIN_EXE_mantle"),
        root = root(&bench).display()
    );
    let mut command = bench.env.command("/usr/bin/unshare");
    command.args(["--mount", "--propagation=private", "sh", "-c", &script]);
    let outcome = Running::new(command).finish().expect(1);
    assert!(
        outcome.stderr.contains("mounted") && outcome.stderr.contains("Delete failed"),
        "{}",
        outcome.stderr
    );
    assert_eq!(bench.names("other"), ["file"]);
    assert_eq!(bench.names("root"), ["chroot"]);
    assert!(root(&bench).join("chroot/usr/bin/bash").exists());
    // Nor what is no chroot.
    std::fs::create_dir_all(root(&bench).join("src/scripts")).unwrap();
    for (name, code) in [("src", 1), ("..", 2), (".", 2), ("/", 2), ("", 2), ("../other", 2)] {
        let outcome = as_root(&bench, &["delete", "--chroot", name]).finish().expect(code);
        assert!(!outcome.stderr.contains("Removed"), "{name}: {}", outcome.stderr);
    }
    let inside = bench.file("root").metadata().unwrap().ino();
    as_root(&bench, &["delete", "--chroot", bench.file("root/chroot").to_str().unwrap()]).finish().expect(0);
    assert_eq!(
        (bench.names("root"), bench.file("root").metadata().unwrap().ino()),
        (vec!["src".to_owned()], inside)
    );
}

#[test]
fn entries_refuse_what_is_no_request() {
    let Some(bench) = bench() else { return };
    let entry = |name: &str, args: &[&str], user: Option<&str>| {
        let mut command = bench.env.command(env!("CARGO_BIN_EXE_mantle"));
        command.arg(format!("_MULTICALL_ENTRYPOINT_{name}")).args(args);
        command.envs(user.map(|user| ("SUDO_USER", user)));
        Running::new(command).finish().expect(1).stderr
    };
    let request = r#"{"Chroot":"/nowhere/chroot","RepoRoot":"/nowhere"}"#;
    for (name, args, user, said) in [
        ("enterChroot", &[request][..], None, "SUDO_USER environment variable is not set."),
        ("createChroot", &[request], None, "SUDO_USER environment variable is not set."),
        ("enterChroot", &[request], Some("no such user"), "no such user"),
        ("enterChroot", &[request], Some("root"), "/nowhere"),
        ("enterChroot", &[r#"{"Chroot":"chroot"}"#], Some("root"), "absolute"),
        ("enterChroot", &["{"], Some("root"), "not understood"),
        ("enterChroot", &[], Some("root"), "exactly one argument"),
        ("enterChroot", &[request, request], Some("root"), "exactly one argument"),
        ("leaveChroot", &[request], Some("root"), "no entry leaveChroot"),
    ] {
        let text = entry(name, args, user);
        assert!(text.contains(said), "{name} {args:?}: {text}");
    }
}

/// `cork setup`, with an /etc of its own.
#[test]
fn setup_writes_one_file_once() {
    let Some(bench) = bench() else { return };
    let script = format!(
        r"mkdir -p etc; cp /etc/passwd /etc/group etc; mount --bind etc /etc; cork='{} cork'
$cork setup && cat /etc/binfmt.d/qemu-aarch64.conf && stat -c %a /etc/binfmt.d
echo other >/etc/binfmt.d/qemu-aarch64.conf; $cork setup && cat /etc/binfmt.d/qemu-aarch64.conf
setpriv --reuid 4242 --clear-groups env REPO_ROOT=/ $cork setup; rm -r /etc/binfmt.d; setpriv --reuid 4242 --clear-groups $cork setup",
        env!("CARGO_BIN_EXE_mantle")
    );
    let mut command = bench.env.command("/usr/bin/unshare");
    command.args(["--mount", "--propagation=private", "sh", "-c", &script]);
    let outcome = Running::new(command).finish();
    let rule = r":qemu-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff:/usr/bin/qemu-aarch64-static:";
    assert_eq!(outcome.stdout, format!("{rule}755\nother\n"), "{}", outcome.stderr);
}
