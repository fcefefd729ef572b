//! `mantle install`: the binary, its names, man pages and completions where a distribution would put them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use mantle::args;
use mantle::error::{Result, Section, WrapErr, eyre};
use mantle::output;
use mantle::target::{Fresh, Target};

use super::{APPLET, generate};
use crate::APPLETS;

/// What one path is to become.
enum Piece {
    /// A copy of the running binary.
    Binary,
    /// A symbolic link to the binary beside it.
    Link,
    /// A text.
    Text(String),
}

pub fn run(matches: &ArgMatches) -> Result<u8> {
    let prefix = matches.get_one::<PathBuf>("prefix").ok_or_else(|| eyre!("no prefix to install to"))?;
    let pretend = args::flag(matches, "dry-run");
    let pieces = pieces(prefix);
    if args::flag(matches, "uninstall") {
        return uninstall(prefix, &pieces, pretend);
    }
    // Before anything is changed.
    if !args::flag(matches, "force") {
        refuse_strangers(&pieces)?;
    }
    refuse_places(&pieces)?;
    for (path, piece) in &pieces {
        if !pretend {
            put(path, piece).wrap_err_with(|| format!("cannot install {}", path.display()))?;
        }
        output::line(path.display())?;
    }
    if !pretend {
        mantle::notice!("mantle", "installed {} files below {}", pieces.len(), prefix.display());
        advise(prefix);
    }
    Ok(0)
}

/// Says what a shell still has to be told to find what was installed.
fn advise(prefix: &Path) {
    let prefix = std::path::absolute(prefix).unwrap_or_else(|_| prefix.to_owned());
    let bin = prefix.join("bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|folder| folder == bin) {
        mantle::notice!(
            "mantle",
            "{} is not in $PATH: export PATH=\"{}:$PATH\"",
            bin.display(),
            bin.display()
        );
    }
    // zsh's own builds look into these.
    if ![Path::new("/usr"), Path::new("/usr/local")].contains(&prefix.as_path()) {
        let functions = prefix.join("share/zsh/site-functions");
        let line = format!("fpath=({} $fpath)", functions.display());
        mantle::notice!(
            "mantle",
            "zsh finds the completions with this line in ~/.zshrc, before compinit: {line}"
        );
    }
}

/// Removes what an installation put there: links to mantle, texts that it generated, and mantle itself, last.
fn uninstall(prefix: &Path, pieces: &[(PathBuf, Piece)], pretend: bool) -> Result<u8> {
    let mut removed = 0;
    for (path, piece) in pieces.iter().rev() {
        if fs::symlink_metadata(path).is_err() {
            continue;
        }
        let ours = match piece {
            Piece::Link => is_ours(path),
            Piece::Text(_) => generate::is_generated(path),
            Piece::Binary => is_mantle(path),
        };
        if !ours {
            mantle::warning!("mantle", "{} stays: it was not installed by mantle", path.display());
            continue;
        }
        if !pretend {
            fs::remove_file(path).wrap_err_with(|| format!("cannot remove {}", path.display()))?;
        }
        output::line(path.display())?;
        removed += 1;
    }
    if !pretend {
        mantle::notice!("mantle", "removed {removed} files below {}", prefix.display());
    }
    Ok(0)
}

/// Whether a file is a mantle: this one or one that says so.
fn is_mantle(path: &Path) -> bool {
    let same = |other: &Path| match (fs::metadata(path), fs::metadata(other)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    };
    if same(Path::new("/proc/self/exe")) {
        return true;
    }
    let said = std::process::Command::new(path).arg("--version").env("MANTLE_CONFIG", "/dev/null").output();
    said.is_ok_and(|said| said.stdout.starts_with(b"mantle version "))
}

fn pieces(prefix: &Path) -> Vec<(PathBuf, Piece)> {
    let bin = prefix.join("bin");
    let mut pieces = vec![(bin.join(APPLET.name), Piece::Binary)];
    pieces.extend(APPLETS.iter().map(|a| (bin.join(a.name), Piece::Link)));
    let share = prefix.join("share");
    for (path, text) in generate::files("all") {
        let name = path.file_name().unwrap_or_default();
        let folder = match path.parent().and_then(Path::file_name).and_then(|f| f.to_str()) {
            Some("bash") => "bash-completion/completions",
            Some("zsh") => "zsh/site-functions",
            Some("fish") => "fish/vendor_completions.d",
            _ => "man/man1",
        };
        pieces.push((share.join(folder).join(name), Piece::Text(text)));
    }
    pieces
}

/// Fails if a program of another origin has one of our names there.
fn refuse_strangers(pieces: &[(PathBuf, Piece)]) -> Result<()> {
    for (path, piece) in pieces {
        if matches!(piece, Piece::Link) && fs::symlink_metadata(path).is_ok() && !is_ours(path) {
            return Err(eyre!("{} exists and is not a link to mantle", path.display()))
                .suggestion("pass --force to replace it, or another --prefix");
        }
    }
    Ok(())
}

/// Fails if something that no file or link of ours may replace is in the way, forced or not.
fn refuse_places(pieces: &[(PathBuf, Piece)]) -> Result<()> {
    for (path, piece) in pieces {
        let refused = match piece {
            // Links are what is put there, hence what may be replaced.
            Piece::Link if fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink()) => Ok(()),
            _ => Target::file(path).map(drop),
        };
        refused.suggestion("remove it, or pass another --prefix")?;
    }
    Ok(())
}

/// Whether a path leads to the mantle beside it: by a link of either kind, even a dangling one.
fn is_ours(path: &Path) -> bool {
    let beside = path.with_file_name(APPLET.name);
    let same = match (fs::metadata(path), fs::metadata(beside)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    };
    same || fs::read_link(path).is_ok_and(|to| to.file_name().is_some_and(|n| n == APPLET.name))
}

fn put(path: &Path, piece: &Piece) -> Result<()> {
    let folder = path.parent().ok_or_else(|| eyre!("it has no folder"))?;
    fs::create_dir_all(folder)?;
    // Made under another name and moved, so that whoever uses the old one is not disturbed.
    if let Piece::Link = piece {
        let place = tempfile::TempDir::with_prefix_in(".mantle-", folder)?;
        let link = place.path().join("link");
        symlink(APPLET.name, &link)?;
        return Ok(fs::rename(link, path)?);
    }
    let path = Target::file(path)?;
    let mut running = fs::File::open("/proc/self/exe")?;
    let is_same = fs::symlink_metadata(&path)
        .is_ok_and(|at| running.metadata().is_ok_and(|r| at.ino() == r.ino() && at.dev() == r.dev()));
    let fresh = match piece {
        Piece::Text(text) => {
            let fresh = Fresh::new(Target::File(path), 0o600)?;
            fresh.file().write_all(text.as_bytes())?;
            fresh.file().set_permissions(fs::Permissions::from_mode(0o644))?;
            fresh
        }
        _ if is_same => return Ok(()), // this very file
        _ => {
            let fresh = Fresh::new(Target::File(path), 0o600)?;
            std::io::copy(&mut running, &mut fresh.file())?;
            fresh.file().set_permissions(fs::Permissions::from_mode(0o755))?;
            fresh
        }
    };
    Ok(fresh.commit()?)
}
