//! Integration tests: one binary, a module a topic.

#![expect(clippy::unwrap_used, reason = "a broken expectation is a failed test")]
#![expect(clippy::print_stdout, reason = "skipped tests say why")]

mod cli;
mod cloud;
mod cork;
mod deploy;
mod gangue;
mod generated;
mod kola;
mod ore;
mod plume;
mod setup;
mod support;

use std::path::Path;

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
        if name == list || !holds_code(&path) {
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

/// Folders without any code hold data, whatever their names are.
fn holds_code(path: &Path) -> bool {
    if !path.is_dir() {
        return path.extension().is_some_and(|e| e == "rs");
    }
    std::fs::read_dir(path).unwrap().any(|entry| holds_code(&entry.unwrap().path()))
}
