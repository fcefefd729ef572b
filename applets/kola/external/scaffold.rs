//! `kola new`: a first external test.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use color_eyre::Section as _;
use color_eyre::eyre::{Result, WrapErr as _, eyre};
use mantle::output;
use mantle::ssh::quote;

use super::{ALONE, FOLDER, NAMES, PREFIX, fits, project_name};

/// What the command does.
pub const ABOUT: &str = "Make an external test to begin with, in tests/kola of a project: a program that kola puts on a \
    machine and runs there. It passes as it is; `kola run -E DIR` runs it, `kola lint DIR` checks it.";

/// A language that a test can be begun in.
pub struct Language {
    /// Value of `--language`.
    pub name: &'static str,
    /// Files, by name, with content and whether it is executable.
    files: &'static [(&'static str, &'static str, bool)],
    /// Name of the program, where it is not the folder's own.
    program: &'static str,
    /// What builds it.
    build: Option<&'static str>,
}

/// All of them.
pub const LANGUAGES: [Language; 3] = [
    Language {
        name: "shell",
        files: &[(ALONE, include_str!("templates/test.sh"), true)],
        program: ALONE,
        build: None,
    },
    Language {
        name: "python",
        files: &[("run", include_str!("templates/run.py"), true)],
        program: "run",
        build: None,
    },
    Language {
        name: "c",
        files: &[
            ("run.c", include_str!("templates/run.c"), false),
            ("Makefile", include_str!("templates/Makefile"), false),
            ("kola.json", include_str!("templates/kola.json"), false),
        ],
        program: "run",
        build: Some("make -C"),
    },
];

/// Makes the files and says what is next.
///
/// # Errors
/// When the name cannot be one, the folder is there already, or a file cannot be made.
pub fn run(project: &Path, name: &str, language: &str) -> Result<()> {
    let Some(language) = LANGUAGES.iter().find(|l| l.name == language) else {
        return Err(eyre!("there is no template in {language:?}"));
    };
    if let Some(part) = name.split('.').find(|part| !fits(part) || *part == super::DATA) {
        return Err(eyre!("{part:?} cannot be part of a test's name")
            .suggestion(format!("{NAMES}, and each dot begins a folder, such as disk.grows")));
    }
    let prefix = format!("{PREFIX}.{}", project_name(project)?);
    let folder = name.split('.').fold(project.join(FOLDER), |folder, part| folder.join(part));
    if folder.exists() {
        return Err(eyre!("{} is there already", folder.display()).suggestion("choose another name"));
    }
    std::fs::create_dir_all(&folder).wrap_err_with(|| format!("cannot create {}", folder.display()))?;
    for (file, content, executable) in language.files {
        let path = folder.join(file);
        let mode = if *executable { 0o777 } else { 0o666 };
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)
            .and_then(|mut f| std::io::Write::write_all(&mut f, content.replace("@NAME@", name).as_bytes()))
            .wrap_err_with(|| format!("cannot write {}", path.display()))?;
        output::line(path.display())?;
    }
    let test = match language.program {
        ALONE => format!("{prefix}.{name}"),
        program => format!("{prefix}.{name}.{program}"),
    };
    let dir = quote(&project.display().to_string());
    if let Some(build) = language.build {
        output::line(format_args!("{build} {} # builds it", quote(&folder.display().to_string())))?;
    }
    output::line(format_args!("kola lint {dir} # checks it"))?;
    output::line(format_args!("kola run -E {dir} {test} # runs it"))?;
    Ok(())
}
