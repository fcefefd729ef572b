//! Integration tests: one binary, a module a topic.

#![expect(clippy::unwrap_used, reason = "a broken expectation is a failed test")]
#![expect(clippy::print_stdout, reason = "skipped tests say why")]

mod cli;
mod cloud;
mod cork;
mod gangue;
mod generated;
mod kola;
mod ore;
mod plume;
mod setup;
mod support;

use std::path::Path;

/// Folders that hold data, not modules.
const DATA: [&str; 4] = ["corpora", "fixtures", "guest", "snapshots"];

#[test]
fn every_file_is_listed_as_a_module() {
    let mut lost = Vec::new();
    unlisted(&support::repository().join("tests"), "main.rs", &mut lost);
    assert!(lost.is_empty(), "no `mod` line for {lost:?}: these tests never run");
}

fn unlisted(folder: &Path, list: &str, lost: &mut Vec<String>) {
    let modules = std::fs::read_to_string(folder.join(list)).unwrap_or_default();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let (name, stem) =
            (path.file_name().unwrap().to_string_lossy(), path.file_stem().unwrap().to_string_lossy());
        let code = path.is_dir() || name.ends_with(".rs");
        if name == list || !code || DATA.contains(&&*name) {
            continue;
        }
        let line = format!("mod {stem};");
        if !modules.lines().any(|l| l.trim_start_matches("pub ").trim_start_matches("pub(crate) ") == line) {
            lost.push(path.display().to_string());
        }
        if path.is_dir() {
            unlisted(&path, "mod.rs", lost);
        }
    }
}
