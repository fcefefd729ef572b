//! The committed man pages and completions are those that this version makes.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::{Env, installed, places, repository};

const REPAIR: &str = "repair with: cargo run -- generate all --out .";

fn read(folder: &Path, below: &str, into: &mut BTreeMap<String, Vec<u8>>) {
    let Ok(entries) = std::fs::read_dir(folder.join(below)) else { return };
    for entry in entries {
        let entry = entry.unwrap();
        let name = format!("{below}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            read(folder, &name, into);
        } else {
            into.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
}

fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    read(folder, "man", &mut files);
    read(folder, "completions", &mut files);
    files
}

#[test]
fn committed_files_are_fresh() {
    let env = Env::new();
    let out = env.home().join("out");
    env.mantle(&["generate", "all", "--out", out.to_str().unwrap()]).expect(0);
    let (made, committed) = (tree(&out), tree(repository()));
    let missing: Vec<_> = made.keys().filter(|f| !committed.contains_key(*f)).collect();
    let orphaned: Vec<_> = committed.keys().filter(|f| !made.contains_key(*f)).collect();
    let stale: Vec<_> = made
        .iter()
        .filter(|(f, text)| committed.get(*f).is_some_and(|c| c != *text))
        .map(|(f, _)| f)
        .collect();
    assert!(missing.is_empty(), "not committed: {missing:?}; {REPAIR}");
    assert!(orphaned.is_empty(), "no longer made: {orphaned:?}; {REPAIR}");
    assert!(stale.is_empty(), "out of date: {stale:?}; {REPAIR}");
}

#[test]
fn the_environment_leaves_no_trace() {
    let make = |env: &Env| {
        let out = env.home().join("out");
        env.mantle(&["generate", "all", "--out", out.to_str().unwrap()]).expect(0);
        tree(&out)
    };
    let plain = make(&Env::new());
    let mut odd = Env::new();
    let config = odd.write("c.yaml", "log-level: TRACE");
    odd.set("MANTLE_CONFIG", config)
        .set("USER", "somebody")
        .set("COLUMNS", "40")
        .set("TERM", "xterm-256color");
    for name in ["AWS_REGION", "REPO_ROOT", "BUILD_ROOT", "CLICOLOR_FORCE"] {
        odd.set(name, "odd");
    }
    assert!(plain == make(&odd), "generated files depend on the environment");
    for name in ["AWS_REGION", "REPO_ROOT", "BUILD_ROOT"] {
        odd.set(name, "");
    }
    assert!(plain == make(&odd), "generated files depend on empty variables");
}

#[test]
fn generating_removes_its_own_orphans_only() {
    let env = Env::new();
    let out = env.home().to_str().unwrap().to_owned();
    env.mantle(&["generate", "all", "--out", &out]).expect(0);
    std::fs::copy(env.home().join("man/kola.1"), env.home().join("man/orphan.1")).unwrap();
    env.write("man/by-hand.1", ".TH BY-HAND 1\n");
    env.mantle(&["generate", "man", "--out", &out]).expect(0);
    assert!(!env.home().join("man/orphan.1").exists());
    assert!(env.home().join("man/by-hand.1").exists());
}

#[test]
fn generated_files_go_where_links_lead_or_nowhere() {
    let env = Env::new();
    let out = env.home().join("out");
    let generate = |code| env.mantle(&["generate", "man", "--out", out.to_str().unwrap()]).expect(code);
    generate(0);
    let page = out.join("man/kola.1");
    let text = std::fs::read_to_string(&page).unwrap();
    std::fs::remove_file(&page).unwrap();
    let far = env.write("far/page", "old");
    symlink(&far, &page).unwrap();
    generate(0);
    assert_eq!((std::fs::read_to_string(&far).unwrap(), std::fs::read_link(&page).unwrap()), (text, far));
    for to in places::make(&env.home()) {
        std::fs::remove_file(&page).unwrap();
        symlink(&to, &page).unwrap();
        // Another one would be written first.
        std::fs::write(out.join("man/cork.1"), "changed").unwrap();
        let outcome = generate(1);
        let said = format!("cannot replace {}: it ", page.display());
        assert!(outcome.stderr.contains(&said), "{to:?}: {}", outcome.stderr);
        assert_eq!(std::fs::read_link(&page).unwrap(), to);
        assert_eq!(std::fs::read_to_string(out.join("man/cork.1")).unwrap(), "changed", "{to:?}");
    }
    assert!(!env.home().join("nowhere").exists());
}

#[test]
fn man_pages_are_well_formed() {
    if !installed("groff") {
        return;
    }
    let env = Env::new();
    for (name, _) in tree(repository()).iter().filter(|(name, _)| name.starts_with("man/")) {
        let page = repository().join(name);
        let args = ["-man", "-Tutf8", "-ww", "-z", page.to_str().unwrap()];
        let outcome = env.start(Path::new("groff"), &args).finish().expect(0);
        assert_eq!(outcome.stderr, "", "{name}");
    }
}
