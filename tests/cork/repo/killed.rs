//! Syncs that are killed, and run again.

use super::Bench;
use crate::support::guard::{self, Limit};

/// A tree of two projects, and what comes later; both as they should be.
fn bench() -> Option<Bench> {
    let bench = Bench::new()?;
    for name in ["coreos/a", "coreos/b"] {
        bench.commit(name, &[("one", "1\n"), ("two/three", "3\n"), ("gone", "x\n")]);
    }
    bench.manifest(
        "<project name='coreos/a' path='a'><copyfile src='one' dest='copied'/><linkfile src='two' dest='linked'/></project>\
         <project name='coreos/b' path='a/in/b'/>",
    );
    Some(bench)
}

fn later(bench: &Bench) {
    for name in ["coreos/a", "coreos/b"] {
        std::fs::remove_file(bench.env.home().join(format!("server/{name}.git/gone"))).unwrap();
        bench.commit(name, &[("one", "1 later\n"), ("two/four", "4\n")]);
    }
}

/// A git that kills whoever started it, for the call of this number: before its work, or after it.
fn deadly(bench: &Bench, call: usize, after: bool) {
    let real = bench.git.display();
    let (before, after) = if after { ("", "kill -9 $PPID") } else { ("kill -9 $PPID; exit 9", "") };
    bench.env.program(
        "git",
        &format!(
            "#!/bin/sh\necho >>$HOME/calls\n[ $(wc -l <$HOME/calls) = {call} ] || exec {real} \"$@\"\n{before}\n{real} \"$@\"\n{after}\n"
        ),
    );
}

fn healthy(bench: &Bench) {
    bench.env.program("git", &format!("#!/bin/sh\nexec {} \"$@\"\n", bench.git.display()));
    let _ = std::fs::remove_file(bench.env.home().join("calls"));
}

/// Kills a sync at every so manyeth call of git, first of a new tree, then of one that has something to fetch.
fn killed(every: usize, first: usize) {
    let mut call = first;
    loop {
        let Some(bench) = bench() else { return };
        let mut killed = 0;
        for round in 0..2 {
            if round == 1 {
                later(&bench);
            }
            deadly(&bench, call, call.is_multiple_of(2));
            // One after the other, so that numbers mean something.
            let outcome = bench.sync(&["-j1"]);
            healthy(&bench);
            if outcome.code != 0 {
                killed += 1;
                bench.sync(&["--verify"]).expect(0);
            }
            bench.verify().expect(0);
            let one = if round == 0 { "1\n" } else { "1 later\n" };
            assert_eq!((bench.read("copied"), bench.read("a/in/b/one")), (one.into(), one.into()), "{call}");
            assert_eq!(bench.at("linked/four").exists(), round == 1, "{call}");
            assert_eq!(bench.at("a/gone").exists(), round == 0, "{call}");
        }
        if killed == 0 {
            assert!(call > 20, "only {call} calls");
            return;
        }
        call += every;
    }
}

#[test]
fn a_killed_sync_goes_on() {
    killed(11, 4);
}

#[test]
#[ignore = "minutes; make check-full"]
fn a_sync_that_is_killed_at_any_call_goes_on() {
    killed(1, 1);
}

#[test]
fn a_checkout_that_was_killed_is_finished_and_nothing_is_lost() {
    let Some(bench) = bench() else { return };
    bench.sync(&[]).expect(0);
    later(&bench);
    std::fs::write(bench.at("a/own"), "mine\n").unwrap();
    let real = bench.git.display();
    // Half of its work is done, its locks are there, and everybody is gone.
    bench.env.program(
        "git",
        &format!(
            "#!/bin/sh\ncase \"$*\" in *sdk/a/.git*checkout*) cd $HOME/sdk/a; printf '1 la' >one; mkdir -p two; echo 4 >two/four
             touch .git/index.lock .git/HEAD.lock .git/shallow.lock .git/refs/mantle/synced.lock .git/objects/pack/tmp_pack_x
             kill -9 $PPID; exit 9;; esac\nexec {real} \"$@\"\n"
        ),
    );
    let outcome = bench.sync(&["-j1"]);
    assert_ne!(outcome.code, 0, "{}", outcome.stderr);
    healthy(&bench);
    std::fs::write(bench.at("a/two/three"), "mine since\n").unwrap();
    let outcome = bench.sync(&[]).expect(0);
    assert!(outcome.stderr.contains("the last sync was killed here"), "{}", outcome.stderr);
    assert_eq!(
        (bench.read("a/one"), bench.read("a/two/three"), bench.read("a/own")),
        ("1 later\n".into(), "3\n".into(), "mine\n".into())
    );
    let rescued = bench.git("sdk/a", &["for-each-ref", "--format=%(refname)", "refs/mantle/rescue"]);
    assert_eq!(bench.git("sdk/a", &["show", &format!("{rescued}:two/three")]), "mine since");
    std::fs::remove_file(bench.at("a/own")).unwrap();
    bench.verify().expect(0);
    assert!(!bench.at("a/.git/objects/pack/tmp_pack_x").exists());
}

#[test]
fn two_at_a_time_are_refused() {
    let Some(bench) = bench() else { return };
    let real = bench.git.display();
    bench.env.program(
        "git",
        &format!("#!/bin/sh\ncase \"$*\" in *fetch*) touch $HOME/fetching; while ! [ -e $HOME/go ]; do sleep 0.05; done;; esac\nexec {real} \"$@\"\n"),
    );
    let first = bench.start_sync(&[]);
    guard::wait("the first fetch", Limit::PROGRAM, || bench.env.home().join("fetching").exists());
    let outcome = bench.sync(&[]).expect(1);
    assert!(outcome.stderr.contains("another sync is at work"), "{}", outcome.stderr);
    std::fs::write(bench.env.home().join("go"), "").unwrap();
    first.finish().expect(0);
    bench.verify().expect(0);
}
