//! `kola lint`: external tests, checked without running them.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use color_eyre::Section as _;
use color_eyre::eyre::{Result, eyre};
use mantle::conf::{Additions, Error, IgnitionVersion, Kind, UserData};
use mantle::output;
use mantle::text::chain;

use super::{External, FOLDER, FOLDER_METADATA, Fault, Found, project};

/// What the command does.
pub const ABOUT: &str = "Check external tests without running them: what they say of themselves, their configs, and whether \
    a machine can start them. Each fault is a line FILE:LINE: WHAT; WHAT TO DO.";

/// Checks the tests of projects and prints their faults.
///
/// # Errors
/// When there is a fault or no test, or stdout fails.
pub async fn run(projects: &[PathBuf]) -> Result<()> {
    let mut found = Found::default();
    for folder in projects {
        if !project(&mut found, folder, &|_| false)? {
            return Err(eyre!("{} has no folder {FOLDER}", folder.display())
                .suggestion("`kola new` makes a first test there"));
        }
    }
    let mut faults = std::mem::take(&mut found.faults);
    for test in found.tests.values() {
        faults.extend(startable(test));
        faults.extend(conflicts(test, &found));
        let of_config = config(test).await;
        faults.extend(of_config.filter(|fault| !faults.contains(fault)));
    }
    for folder in projects {
        idle(&folder.join(FOLDER), &found, &mut faults);
    }
    faults.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    for fault in &faults {
        output::line(fault)?;
    }
    let bad = faults.iter().filter(|fault| !fault.harmless).count();
    let count = found.tests.len();
    let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    output::line(format_args!("{}, {}", plural(count, "test"), plural(bad, "fault")))?;
    match (bad, count) {
        (0, 0) => Err(eyre!("there is no test").suggestion("`kola new` makes a first one")),
        (0, _) => Ok(()),
        _ => Err(eyre!("external tests have faults")),
    }
}

/// Whether a machine can start the program at all.
fn startable(test: &External) -> Option<Fault> {
    let mut head = Vec::new();
    let read = std::fs::File::open(&test.file).and_then(|file| file.take(256).read_to_end(&mut head));
    if read.is_err() || head.starts_with(b"\x7fELF") {
        return None;
    }
    let Some(line) = head.strip_prefix(b"#!") else {
        let text = "is neither a script that begins with #! nor a program: a machine cannot start it";
        return Some(Fault::new(
            &test.file,
            Some(1),
            text,
            "let its first line name what runs it, such as #!/bin/sh",
        ));
    };
    let line = line.split(|b| *b == b'\n').next().unwrap_or_default();
    if line.ends_with(b"\r") {
        let text = "its lines end as in Windows: a machine would look for an interpreter of another name";
        return Some(Fault::new(&test.file, Some(1), text, "store it with plain line feeds"));
    }
    let interpreter = String::from_utf8_lossy(line).trim().to_owned();
    (!interpreter.starts_with('/')).then(|| {
        let text = format!("{interpreter:?} is no absolute path of an interpreter");
        Fault::new(&test.file, Some(1), text, "write it as #!/usr/bin/env NAME")
    })
}

/// Conflicts with tests that there are not.
fn conflicts(test: &External, found: &Found) -> Option<Fault> {
    let names = test.metadata.conflicts.clone()?.0;
    let unknown = names.iter().find(|name| !found.tests.contains_key(*name))?;
    let advice = mantle::text::did_you_mean(unknown, found.tests.keys().map(String::as_str))
        .unwrap_or_else(|| "write its full name, as `kola list` shows it".into());
    Some(Fault::new(&test.file, None, format!("conflicts with {unknown}, which there is not"), advice))
}

/// What is wrong with the config of its folder.
async fn config(test: &External) -> Option<Fault> {
    let folder = test.file.parent()?;
    let (name, user_data) = match test.config.as_ref()?.user_data() {
        data if data.kind() == Kind::Butane => ("config.bu", data),
        data => ("config.ign", data),
    };
    let path = folder.join(name);
    let strict = test.metadata.allow_config_warnings != Some(true);
    let made = if strict { user_data.translated_strictly().await } else { user_data.translated().await };
    match made {
        Ok(ignition) => ignition_fault(&path, &ignition),
        Err(Error::NoButane) => {
            let fault = Fault::new(&path, None, "was not checked: butane is not installed", "install it");
            Some(fault.harmless())
        }
        Err(e) => Some(Fault::new(&path, None, chain(&e), "")),
    }
}

fn ignition_fault(path: &Path, config: &UserData) -> Option<Fault> {
    let add = Additions::default();
    let e = mantle::conf::render(Some(config), IgnitionVersion::V3, "192.0.2.1", "192.0.2.1", &add).err()?;
    let line = match &e {
        Error::Json(e) => Some(e.line()),
        _ => None,
    };
    Some(Fault::new(path, line, chain(&e), ""))
}

/// Folders that say something about tests and have none.
fn idle(folder: &Path, found: &Found, faults: &mut Vec<Fault>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut says = None;
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        // Links were followed to look for tests; here a loop of them must not be.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && name != super::DATA && !name.starts_with('.')
        {
            idle(&path, found, faults);
        } else if [FOLDER_METADATA, "config.ign", "config.bu"].contains(&name.as_str()) {
            says.get_or_insert(path);
        }
    }
    let tested = found.tests.values().any(|t| t.file.parent() == Some(folder))
        || faults.iter().any(|fault| fault.file.parent() == Some(folder));
    if let (Some(path), false) = (says, tested) {
        let fault = Fault::new(&path, None, "there is no test in its folder", "build it, or `chmod +x` it");
        faults.push(fault.harmless());
    }
}
