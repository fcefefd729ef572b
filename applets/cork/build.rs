//! `cork build`: update payloads of the image that was built last.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ::mantle::applet::Context;
use ::mantle::args;
use ::mantle::error::{Result, Section as _, Stop, WrapErr as _, usage};
use ::mantle::target::{Fresh, Target};
use ::mantle::update::{self, Error, Generator, Targets, VerifyingKey};
use ::mantle::{input, notice, output, sdk};
use clap::{Arg, ArgMatches, Command, ValueHint};
use color_eyre::eyre::Report;

use super::text;

const LOG: &str = "update";

/// The group and its commands.
pub fn command() -> Command {
    let file = |id: &'static str, help: &'static str| {
        Arg::new(id)
            .long(id)
            .value_name("FILE")
            .value_parser(args::path_parser())
            .value_hint(ValueHint::FilePath)
            .help(help)
    };
    let payload = || {
        Arg::new("payload")
            .value_name("FILE")
            .required(true)
            .value_parser(args::path_parser())
            .value_hint(ValueHint::FilePath)
            .help("The payload")
    };
    let public = || {
        file("public-key", "Key that signed the payload, in PEM [default: the SDK's, else the developer key]")
    };
    Command::new("build")
        .about("Build something from the images of the SDK")
        .subcommand(
            Command::new("update")
                .about("Build the full update of the latest image")
                .long_about(
                    "Build the full update payload of the latest image of the default board, and its description for \
                     an update server: coreos_production_update.gz and .xml beside the image. An update that is there \
                     and fits its description stays.\n\n\
                     delta_generator does it if it is in PATH, and cork on all processors if not.",
                )
                .arg(file(
                    "private-key",
                    "Key that signs the payload, in PEM \
                     [default: /usr/share/update_engine/update-payload-key.key.pem, also in the chroot]",
                ))
                .arg(
                    Arg::new("generator")
                        .long("generator")
                        .value_name("NAME")
                        .default_value("auto")
                        .value_parser(["auto", "delta_generator", "builtin"])
                        .help("What makes the payload"),
                ),
        )
        .subcommand(
            Command::new("dump")
                .hide(true)
                .about("Print what an update payload says of itself, and verify it")
                .arg(payload())
                .arg(public()),
        )
        .subcommand(
            Command::new("apply")
                .hide(true)
                .about("Verify an update payload and write what is in it")
                .arg(payload())
                .arg(public())
                .arg(file("partition", "Where the partition goes").default_value("out"))
                .arg(file("kernel", "Where the kernel goes; needed if there is one")),
        )
}

/// Runs a command of the group.
///
/// # Errors
/// Whatever it fails by.
pub async fn run(matches: &ArgMatches, context: &Context) -> Result<()> {
    match matches.subcommand() {
        Some(("update", m)) => full(m, context).await,
        Some(("dump", m)) => dump(m).await,
        Some(("apply", m)) => apply(m).await,
        _ => Err(usage("cork build has no such command")),
    }
}

/// The path that an option has, if it has one.
fn path(matches: &ArgMatches, id: &str) -> Option<PathBuf> {
    matches.get_one::<PathBuf>(id).filter(|path| !path.as_os_str().is_empty()).cloned()
}

/// A file of the SDK: here, if we are in the chroot, else in the usual chroot.
fn of_sdk(path: &str) -> PathBuf {
    let here = PathBuf::from(path);
    let inside = sdk::repo_root().map(|root| root.join("chroot").join(path.trim_start_matches('/')));
    match inside {
        Ok(inside) if !here.exists() && inside.exists() => inside,
        _ => here,
    }
}

async fn full(matches: &ArgMatches, context: &Context) -> Result<()> {
    let given = path(matches, "private-key");
    let key = given.clone().unwrap_or_else(|| of_sdk(update::PRIVATE_KEY));
    let generator = match text(matches, "generator") {
        Some("builtin") => Generator::Builtin,
        Some("delta_generator") => match Generator::find() {
            Generator::Builtin => return Err(usage("--generator: there is no delta_generator in PATH")),
            found => found,
        },
        _ => Generator::find(),
    };
    let folder = sdk::image_dir(&sdk::default_board(), "latest")?;
    let made = update::full_update(&folder, &key, &generator, &context.cancel).await;
    let payload = made.map_err(|e| match e {
        Error::Interrupted(_) => Stop::Interrupted.into(),
        e => {
            let hint = match &e {
                Error::Key { .. } if given.is_none() => Some("pass --private-key=FILE with a key of yours"),
                Error::Release(_) => {
                    Some("build an image first; $BUILD_ROOT and src/scripts/.default_board say where")
                }
                _ => None,
            };
            let report = Report::new(e).wrap_err("Building full update failed");
            match hint {
                Some(hint) => report.suggestion(hint),
                None => report,
            }
        }
    })?;
    notice!(LOG, "the update is {}", payload.display());
    Ok(())
}

/// The key that payloads are verified with.
fn public(matches: &ArgMatches) -> Result<VerifyingKey> {
    if let Some(path) = path(matches, "public-key") {
        return VerifyingKey::read(&path).wrap_err_with(|| format!("--public-key={}", path.display()));
    }
    let usual = of_sdk(update::PUBLIC_KEY);
    match usual.exists() {
        true => Ok(VerifyingKey::read(&usual)?),
        false => Ok(VerifyingKey::from_pem(update::DEVELOPER_KEY.as_bytes())?),
    }
}

/// Opens the payload.
fn open(matches: &ArgMatches) -> Result<(PathBuf, File)> {
    let path = path(matches, "payload").ok_or_else(|| usage("Missing FILE"))?;
    let file = input::open(&path).wrap_err_with(|| format!("cannot read {}", path.display()))?;
    Ok((path, file))
}

/// Standard output, as `dump` writes to it.
struct Out;

impl Write for Out {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        output::write(data)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn dump(matches: &ArgMatches) -> Result<()> {
    let (key, (path, file)) = (public(matches)?, open(matches)?);
    let work = tokio::task::spawn_blocking(move || update::dump(&file, &key, Out));
    work.await?.wrap_err_with(|| format!("the payload {} is not good", path.display()))
}

async fn apply(matches: &ArgMatches) -> Result<()> {
    let (key, (payload, file)) = (public(matches)?, open(matches)?);
    let partition = path(matches, "partition").ok_or_else(|| usage("Missing --partition=FILE"))?;
    let kernel = path(matches, "kernel");
    let begin = |path: &Path| -> Result<Fresh> {
        let failed = || format!("cannot write {}", path.display());
        let place = Target::file(path).wrap_err_with(failed)?;
        Fresh::new(Target::File(place), 0o666).wrap_err_with(failed)
    };
    let (partition, kernel) = (begin(&partition)?, kernel.as_deref().map(begin).transpose()?);
    let work = tokio::task::spawn_blocking(move || -> Result<()> {
        let targets = Targets { partition: partition.file(), kernel: kernel.as_ref().map(Fresh::file) };
        let applied = update::apply(&file, &key, &targets);
        applied.wrap_err_with(|| format!("cannot apply {}", payload.display()))?;
        partition.commit()?;
        kernel.map_or(Ok(()), |kernel| Ok(kernel.commit()?))
    });
    work.await?
}
