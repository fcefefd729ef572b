//! Trees made, moved on, changed by their users, and verified.

use nix::sys::signal::Signal;

use super::Bench;
use crate::support::guard::{self, Limit};

/// A manifest with everything in it.
fn rich(bench: &Bench) -> [String; 4] {
    let a = bench.commit("coreos/a", &[("file", "a\n"), ("tool", "#!/bin/sh\n")]);
    let b = bench.commit("coreos/b", &[("file", "b\n")]);
    let b2 = bench.commit("coreos/b", &[("file", "b later\n")]);
    bench.git("server/coreos/b.git", &["tag", "-a", "-m", "one", "v1", &b]);
    let c = bench.commit("coreos/c", &[("file", "c\n")]);
    bench.git("server/coreos/c.git", &["update-ref", "refs/pull/3/head", &c]);
    bench.git("server/coreos/c.git", &["commit", "-q", "--allow-empty", "-m", "later"]);
    bench.commit("coreos/d", &[("file", "d\n")]);
    bench.commit("coreos/extra", &[("file", "extra\n")]);
    bench.commit(
        super::MANIFEST,
        &[
            (
                "base.xml",
                "<manifest><remote name='github' alias='up' fetch='..' revision='refs/heads/master'/>\n\
                 <project name='coreos/d' remote='github' path='src/d'/></manifest>",
            ),
            (
                "default.xml",
                &format!(
                    "<manifest><include name='base.xml'/>\n<default remote='github' sync-j='2' sync-c='true'/>\n\
                     <project name='coreos/a' path='src/a' revision='{a}'>\n\
                     <copyfile src='file' dest='top/copied'/><linkfile src='tool' dest='bin/tool'/></project>\n\
                     <project name='coreos/b' path='src/a/in/b' revision='refs/tags/v1'/>\n\
                     <project name='coreos/c' path='src/c' revision='refs/pull/3/head'/>\n\
                     <project name='coreos/extra' groups='notdefault,more'/></manifest>"
                ),
            ),
        ],
    );
    [a, b, b2, c]
}

#[test]
fn trees_are_as_the_manifest_says() {
    let Some(bench) = Bench::new() else { return };
    let [a, b, _, c] = rich(&bench);
    let before = bench.outside();
    let outcome = bench.sync(&["--verify"]).expect(0);
    assert!(outcome.stderr.contains("4 projects are up to date"), "{}", outcome.stderr);
    assert_eq!([bench.head("src/a"), bench.head("src/a/in/b"), bench.head("src/c")], [a, b, c]);
    assert_eq!(bench.read("top/copied"), "a\n");
    assert_eq!(bench.at("bin/tool").read_link().unwrap().to_str(), Some("../src/a/tool"));
    assert_eq!(bench.read("src/d/file"), "d\n");
    assert!(!bench.at("coreos/extra").exists());
    assert!(bench.read(".repo/manifest.xml").contains("<include name=\"default.xml\"/>"));
    assert_eq!(bench.read(".repo/project.list"), "src/a\nsrc/a/in/b\nsrc/c\nsrc/d\n");
    bench.verify().expect(0);
    assert_eq!(bench.outside(), before);
    // Again: nothing moves. Other groups, and a local manifest: what they say.
    let tree = bench.tree();
    bench.sync(&[]).expect(0);
    assert_eq!(bench.tree(), tree);
    bench.env.write(
        "sdk/.repo/local_manifests/mine.xml",
        "<manifest><remove-project name='coreos/c'/><extend-project name='coreos/d' groups='x'/></manifest>",
    );
    let outcome = bench.sync(&["--manifest-groups=default,more"]).expect(0);
    assert!(outcome.stderr.contains("src/c is no project of the manifest any more"), "{}", outcome.stderr);
    assert_eq!(bench.read("coreos/extra/file"), "extra\n");
    bench.verify().expect(0);
}

#[test]
fn verification_sees_every_kind_of_change() {
    let Some(bench) = Bench::new() else { return };
    let [_, _, b2, _] = rich(&bench);
    bench.sync(&[]).expect(0);
    let complain = |what: &[&str]| {
        let outcome = bench.verify().expect(1);
        assert!(outcome.stderr.contains("Verify failed"), "{}", outcome.stderr);
        for what in what {
            assert!(outcome.stderr.contains(what), "{what}: {}", outcome.stderr);
        }
    };
    std::fs::write(bench.at("src/a/new"), "").unwrap();
    complain(&["Project dir src/a is not clean", "?? new"]);
    bench.git("sdk/src/a", &["add", "new"]);
    complain(&["Project dir src/a is not clean", "A  new"]);
    bench.git("sdk/src/a", &["reset", "-q", "--hard"]);
    std::fs::write(bench.at("src/a/file"), "changed\n").unwrap();
    complain(&["src/a is not clean", " M file"]);
    bench.git("sdk/src/a", &["checkout", "-q", "file"]);
    bench.verify().expect(0);
    bench.git("sdk/src/a/in/b", &["fetch", "-q", "up", "master"]);
    bench.git("sdk/src/a/in/b", &["checkout", "-q", &b2]);
    bench.git("sdk/src/d", &["commit", "-q", "--allow-empty", "-m", "mine"]);
    std::fs::remove_dir_all(bench.at("src/c")).unwrap();
    complain(&[&format!("src/a/in/b at {b2}, expected"), "src/d at ", "Project dir src/c is not there"]);
    // With the manifest gone there is nothing to compare with.
    std::fs::remove_file(bench.at(".repo/manifest.xml")).unwrap();
    complain(&["manifest.xml"]);
}

#[test]
fn what_the_user_changed_stays() {
    let Some(bench) = Bench::new() else { return };
    bench.commit("coreos/a", &[("one", "1\n"), ("two", "2\n")]);
    bench.commit("coreos/b", &[("one", "1\n")]);
    bench.manifest(
        "<project name='coreos/a' path='a'><copyfile src='one' dest='copied'/></project><project name='coreos/b' path='b'/>",
    );
    bench.sync(&[]).expect(0);
    // Not in the way of what is new: it stays, and the project moves on.
    std::fs::write(bench.at("a/two"), "mine\n").unwrap();
    std::fs::write(bench.at("a/own"), "mine\n").unwrap();
    let next = bench.commit("coreos/a", &[("one", "1 later\n")]);
    bench.sync(&[]).expect(0);
    assert_eq!((bench.head("a"), bench.read("a/two")), (next.clone(), "mine\n".into()));
    assert_eq!(bench.read("copied"), "1 later\n");
    // In the way: the project is left, the others move on.
    bench.commit("coreos/a", &[("two", "2 later\n"), ("own", "theirs\n")]);
    let b = bench.commit("coreos/b", &[("one", "1 later\n")]);
    let outcome = bench.sync(&[]).expect(1);
    assert!(outcome.stderr.contains("1 of 2 projects failed"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("would be overwritten"), "{}", outcome.stderr);
    assert_eq!((bench.head("a"), bench.head("b")), (next.clone(), b));
    assert_eq!((bench.read("a/two"), bench.read("a/own")), ("mine\n".into(), "mine\n".into()));
    // Forced: it gives way, and can be had back.
    bench.sync(&["--force-sync"]).expect(0);
    assert_eq!((bench.read("a/two"), bench.read("a/own")), ("2 later\n".into(), "theirs\n".into()));
    let rescued = bench.git("sdk/a", &["for-each-ref", "--format=%(refname)", "refs/mantle/rescue"]);
    assert_eq!(bench.git("sdk/a", &["show", &format!("{rescued}:two")]), "mine");
    assert_eq!(bench.git("sdk/a", &["show", &format!("{rescued}:own")]), "mine");
    bench.verify().expect(0);
    // Commits without a branch are not lost either.
    bench.git("sdk/b", &["commit", "-q", "--allow-empty", "-m", "mine"]);
    let mine = bench.head("b");
    bench.commit("coreos/b", &[("one", "1 even later\n")]);
    let outcome = bench.sync(&[]).expect(1);
    assert!(outcome.stderr.contains("would be lost"), "{}", outcome.stderr);
    assert_eq!(bench.head("b"), mine);
    // On a branch they are ahead: that is work in progress, and it is left.
    bench.git("sdk/b", &["checkout", "-q", "-b", "work"]);
    let outcome = bench.sync(&[]).expect(1);
    assert!(outcome.stderr.contains("rebase it"), "{}", outcome.stderr);
    bench.sync(&["--force-sync"]).expect(0);
    assert_eq!(bench.git("sdk/b", &["rev-parse", "work"]), mine);
    // A copy that somebody changed stays until it is forced away.
    std::fs::write(bench.at("copied"), "mine\n").unwrap();
    let outcome = bench.sync(&[]).expect(1);
    assert!(outcome.stderr.contains("something else is there"), "{}", outcome.stderr);
    assert_eq!(bench.read("copied"), "mine\n");
    bench.sync(&["--force-sync"]).expect(0);
    assert_eq!(bench.read("copied"), "1 later\n");
}

#[test]
fn only_as_much_as_is_asked_for_is_fetched() {
    let Some(bench) = Bench::new() else { return };
    bench.commit("coreos/a", &[("one", "1\n")]);
    let a = bench.commit("coreos/a", &[("one", "2\n")]);
    bench.git("server/coreos/a.git", &["branch", "other"]);
    bench.commit("coreos/a", &[("one", "3\n")]);
    bench.manifest(&format!(
        "<project name='coreos/a' path='a' clone-depth='1' revision='{a}'/>\
         <project name='coreos/a' path='b' sync-c='true'/><project name='coreos/a' path='c'/>"
    ));
    bench.sync(&[]).expect(0);
    let count = |path: &str| bench.git(path, &["rev-list", "--count", "HEAD"]);
    assert_eq!([count("sdk/a"), count("sdk/b")], ["1", "3"]);
    let branches = |path: &str| bench.git(path, &["for-each-ref", "--format=%(refname)", "refs/remotes"]);
    assert_eq!(branches("sdk/b"), "refs/remotes/origin/master");
    assert_eq!(branches("sdk/c"), "refs/remotes/origin/master\nrefs/remotes/origin/other");
    bench.verify().expect(0);
    let Some(bench) = Bench::new() else { return };
    bench.commit("coreos/a", &[]);
    bench.commit("coreos/a", &[]);
    bench.manifest("<project name='coreos/a' path='a'/>");
    bench.sync(&["--depth=1", "-j", "1"]).expect(0);
    assert_eq!(bench.git("sdk/a", &["rev-list", "--count", "HEAD"]), "1");
}

#[test]
fn the_repo_tool_is_used_where_it_is() {
    let Some(mut bench) = Bench::new() else { return };
    let log = bench.env.home().join("calls");
    bench.env.program(
        "repo",
        "#!/bin/sh\necho \"$PWD $*\" >>$CALLS\n[ \"$FAIL\" = $1 ] && exit 7\nmkdir -p .repo/manifests\n\
         [ $1 = sync ] || exit 0\necho '<manifest/>' >.repo/manifests/release.xml\n",
    );
    bench.env.set("CALLS", &log);
    let args =
        ["sync", "--manifest-url=https://example.invalid/m.git", "--manifest-name=release.xml", "--verify"];
    let sync = |bench: &Bench, more: &[&str]| {
        let _ = std::fs::remove_file(&log);
        let outcome = bench.start(&[&args[..], more].concat()).finish();
        let root = format!("{} ", bench.at("").display().to_string().trim_end_matches('/'));
        let calls = std::fs::read_to_string(&log).unwrap_or_default();
        (outcome, calls.replace(&root, ""))
    };
    let (outcome, calls) = sync(&bench, &["--manifest-branch=flatcar-master", "--force-sync", "-j3"]);
    outcome.expect(0);
    assert_eq!(
        calls,
        "init --manifest-url https://example.invalid/m.git --manifest-branch flatcar-master --manifest-name release.xml\n\
         sync --no-clone-bundle --force-sync --jobs=3\n"
    );
    for (step, count) in [("init", 1), ("sync", 2)] {
        bench.env.set("FAIL", step);
        let (outcome, calls) = sync(&bench, &[]);
        let outcome = outcome.expect(1);
        assert!(outcome.stderr.contains(&format!("repo {step} failed")), "{}", outcome.stderr);
        assert_eq!(calls.lines().count(), count);
    }
    // A tree that cork made stays cork's.
    bench.env.unset("FAIL");
    bench.manifest("");
    bench.sync(&[]).expect(0);
    let url = format!("--manifest-url={}/{}.git", bench.url, super::MANIFEST);
    let _ = std::fs::remove_file(&log);
    bench.start(&["sync", &url, "--manifest-branch=master"]).finish().expect(0);
    assert!(!log.exists());
}

#[test]
fn an_interrupted_sync_leaves_no_git_and_goes_on() {
    let Some(bench) = Bench::new() else { return };
    bench.commit("coreos/a", &[("one", "1\n")]);
    bench.manifest("<project name='coreos/a' path='a'/>");
    let real = bench.git.display();
    bench.env.program(
        "git",
        &format!(
            "#!/bin/sh\ncase \"$*\" in *sdk/a/.git*fetch*) echo $$ >$HOME/pid; echo waiting >&2; sleep 1000;; esac\nexec {real} \"$@\"\n"
        ),
    );
    let pid = bench.env.home().join("pid");
    let running = bench.start_sync(&[]);
    let told = || std::fs::read_to_string(&pid).is_ok_and(|pid| pid.ends_with('\n'));
    guard::wait("the number of git", Limit::PROGRAM, told);
    running.signal(Signal::SIGINT);
    running.finish().expect(130);
    let pid: i32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    assert!(nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_err(), "git lives on");
    bench.env.program("git", &format!("#!/bin/sh\nexec {real} \"$@\"\n"));
    bench.sync(&["--verify"]).expect(0);
}

#[test]
fn servers_that_are_away_are_asked_again_and_named() {
    let Some(bench) = Bench::new() else { return };
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("--manifest-url=git://{nobody}/m.git");
    let outcome = bench.start(&["sync", &url, "--sync-with=builtin"]).finish().expect(1);
    assert!(outcome.stderr.contains("repo init failed"), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.matches("trying again").count(), 2, "{}", outcome.stderr);
    bench.manifest("<project name='coreos/gone' path='a'/>");
    let outcome = bench.sync(&["--manifest-branch=nowhere"]).expect(1);
    assert!(outcome.stderr.contains("there is no branch or tag \"nowhere\""), "{}", outcome.stderr);
    let outcome = bench.sync(&[]).expect(1);
    assert!(outcome.stderr.contains("1 of 1 projects failed"), "{}", outcome.stderr);
    let outcome = bench.sync(&["--manifest-name=other.xml"]).expect(1);
    assert!(outcome.stderr.contains("other.xml"), "{}", outcome.stderr);
}
