//! `mantle install`.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::support::{Env, places};

#[test]
fn everything_lands_where_a_distribution_puts_it() {
    let env = Env::new();
    let prefix = env.home().join("usr");
    let pretended = env.mantle(&["install", "-n", "--prefix", prefix.to_str().unwrap()]).expect(0).stdout;
    assert!(!prefix.exists(), "a dry run changes nothing");
    for _ in 0..2 {
        let outcome = env.mantle(&["install", "--prefix", prefix.to_str().unwrap()]).expect(0);
        assert_eq!(outcome.stdout, pretended, "a dry run tells the truth");
    }
    for name in [
        "man/man1/kola.1",
        "bash-completion/completions/kola",
        "zsh/site-functions/_kola",
        "fish/vendor_completions.d/kola.fish",
    ] {
        let meta = prefix.join("share").join(name).metadata().unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o644, "{name}");
    }
    let mut found = Vec::new();
    files(&prefix, &mut found);
    let mut listed: Vec<String> = pretended.lines().map(String::from).collect();
    listed.sort();
    found.sort();
    assert_eq!(found, listed, "what is there is what was listed");
    let advice = env.mantle(&["install", "--prefix", prefix.to_str().unwrap()]).expect(0).stderr;
    for part in ["installed ", "is not in $PATH", "share/zsh/site-functions $fpath)"] {
        assert!(advice.contains(part), "{advice}");
    }
    // the links are relative, so that a staged tree can be moved
    let moved = env.home().join("moved");
    std::fs::rename(&prefix, &moved).unwrap();
    let outcome = env.start(&moved.join("bin/kola"), &["version"]).finish().expect(0);
    assert!(outcome.stdout.starts_with("mantle/kola version"), "{}", outcome.stdout);
    // an installed mantle can install itself again over itself
    env.start(&moved.join("bin/mantle"), &["install", "--prefix", moved.to_str().unwrap()])
        .finish()
        .expect(0);
    env.start(&moved.join("bin/kola"), &["version"]).finish().expect(0);
}

fn files(folder: &std::path::Path, into: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            files(&path, into)
        } else {
            into.push(path.display().to_string())
        }
    }
}

#[test]
fn what_was_installed_can_be_removed_and_nothing_else() {
    let env = Env::new();
    let prefix = env.home().join("usr");
    let args = ["install", "--prefix", prefix.to_str().unwrap()];
    env.mantle(&args).expect(0);
    let by_hand = env.write("usr/share/man/man1/kola-run.1", ".TH MINE 1\n");
    std::fs::remove_file(prefix.join("bin/ore")).unwrap();
    let other = env.write("usr/bin/ore", "#!/bin/sh\n");
    let outcome = env.mantle(&[&args[..], &["--uninstall"]].concat()).expect(0);
    let mut left = Vec::new();
    files(&prefix, &mut left);
    left.sort();
    assert_eq!(left, [other.to_str().unwrap(), by_hand.to_str().unwrap()]);
    assert!(outcome.stderr.contains("bin/ore stays"), "{}", outcome.stderr);
}

#[test]
fn programs_of_other_origin_are_kept() {
    let env = Env::new();
    let stranger = env.write("usr/bin/kola", "#!/bin/sh\n");
    let prefix = env.home().join("usr");
    let args = ["install", "--prefix", prefix.to_str().unwrap()];
    let outcome = env.mantle(&args).expect(1);
    assert!(outcome.stderr.contains("--force"), "{}", outcome.stderr);
    assert!(!prefix.join("bin/mantle").exists(), "nothing was changed");
    assert_eq!(std::fs::read_to_string(&stranger).unwrap(), "#!/bin/sh\n");
    env.mantle(&[&args[..], &["--force"]].concat()).expect(0);
    assert!(stranger.is_symlink());
}

#[test]
fn links_to_files_stay_and_all_others_are_refused_before_anything_is_changed() {
    let env = Env::new();
    let prefix = env.home().join("usr");
    let install = |code| env.mantle(&["install", "--prefix", prefix.to_str().unwrap()]).expect(code);
    install(0);
    let man = prefix.join("share/man/man1");
    let (page, binary) = (man.join("kola.1"), prefix.join("bin/mantle"));
    let text = std::fs::read_to_string(&page).unwrap();
    let far = env.home().join("far");
    std::fs::create_dir(&far).unwrap();
    std::fs::write(far.join("page"), "old").unwrap();
    std::fs::rename(&binary, far.join("binary")).unwrap();
    std::fs::remove_file(&page).unwrap();
    symlink("../../../../far/page", &page).unwrap();
    symlink(far.join("binary"), &binary).unwrap();
    let before = far.join("binary").metadata().unwrap().ino();
    install(0);
    assert_eq!(std::fs::read_to_string(far.join("page")).unwrap(), text);
    assert_ne!(
        far.join("binary").metadata().unwrap().ino(),
        before,
        "it is a new file in the old one's place"
    );
    assert_eq!(std::fs::read_link(&page).unwrap(), Path::new("../../../../far/page"));
    assert_eq!(std::fs::read_link(&binary).unwrap(), far.join("binary"));
    assert_eq!(std::fs::read_dir(&far).unwrap().count(), 2);

    let installed = far.join("binary").metadata().unwrap().ino();
    let places = places::make(&man);
    for to in &places {
        for path in [&page, &binary] {
            let kept = std::fs::read_link(path).unwrap();
            std::fs::remove_file(path).unwrap();
            symlink(to, path).unwrap();
            for force in [&[][..], &["--force"]] {
                let args = [&["install", "--prefix", prefix.to_str().unwrap()], force].concat();
                let outcome = env.mantle(&args).expect(1);
                let said = format!("cannot replace {}: it ", path.display());
                assert!(outcome.stderr.contains(&said), "{to:?}: {}", outcome.stderr);
                assert!(outcome.stdout.is_empty(), "{to:?}: {}", outcome.stdout);
            }
            assert_eq!(std::fs::read_link(path).unwrap(), *to);
            std::fs::remove_file(path).unwrap();
            symlink(kept, path).unwrap();
        }
    }
    assert_eq!(far.join("binary").metadata().unwrap().ino(), installed);
    assert!(man.join("fifo").exists() && !man.join("nowhere").exists());
}
