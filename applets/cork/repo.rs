//! The sources of the SDK: `cork verify`, and what `cork create` and `cork update` do to them.

use std::path::PathBuf;

use ::mantle::applet::Context;
use ::mantle::args;
use ::mantle::error::{Result, Section as _, Stop, WrapErr as _, usage};
use ::mantle::openpgp::{Builtin, Keyring, gnupg};
use ::mantle::release::Table;
use ::mantle::release::version::Versions;
use ::mantle::repo::{self, Error, Options, Origin, Tool, Which};
use ::mantle::{debug, info, sdk};
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint};
use color_eyre::eyre::Report;

use super::text;

const LOG: &str = "sdk/repo";
/// The manifest when nobody asks for another.
const MANIFEST: &str = "default.xml";

/// Adds the options of everything that makes or updates the tree of sources. The command may have `--distro`, which
/// chooses where the manifests come from by default.
pub fn options(command: Command) -> Command {
    let option = |id: &'static str, value: &'static str| Arg::new(id).long(id).value_name(value);
    let switch = |id: &'static str| Arg::new(id).long(id).action(ArgAction::SetTrue);
    command
        .arg(
            option("manifest-url", "URL")
                .value_hint(ValueHint::Url)
                .help("Repository of the manifests [default: the distribution's]"),
        )
        .arg(
            option("manifest-branch", "NAME")
                .help("Branch of the manifests, or a tag as refs/tags/NAME [default: the distribution's]"),
        )
        .arg(option("manifest-name", "FILE").default_value(MANIFEST).help("The manifest in its repository"))
        .arg(
            option("manifest-groups", "LIST")
                .help("Groups of projects, comma-separated; -NAME for all but those"),
        )
        .arg(switch("verify").help("Check the source tree against the manifest"))
        .arg(switch("verify-signature").help("Verify the signature of the manifest's tag"))
        .arg(
            option("manifest-key", "FILE")
                .value_parser(args::path_parser())
                .value_hint(ValueHint::FilePath)
                .help("Keys that may sign the tag [default: the release keys and those of GnuPG's keyring]"),
        )
        .arg(option("jobs", "N").short('j').value_parser(clap::value_parser!(u32).range(1..=64)).help(
            "Fetch so many projects at a time [default: the manifest's number, or one for each processor]",
        ))
        .arg(
            option("depth", "N")
                .value_parser(clap::value_parser!(u32).range(1..))
                .help("Fetch only so many commits of each project [default: all, or what the manifest says]"),
        )
        .arg(
            option("sync-with", "TOOL").default_value("auto").value_parser(["auto", "repo", "builtin"]).help(
                "What fetches the sources: the repo tool, or cork itself; auto takes repo if it is in PATH",
            ),
        )
}

/// The option `--force-sync`.
pub fn force_sync() -> Arg {
    Arg::new("force-sync").long("force-sync").action(ArgAction::SetTrue).help(
        "Replace what differs from the manifest, also local changes; cork itself keeps these in refs/mantle/rescue",
    )
}

/// The value of an option that the command may not have.
fn maybe<'m>(matches: &'m ArgMatches, id: &str) -> Option<&'m str> {
    matches.try_get_one::<String>(id).ok().flatten().map(String::as_str).filter(|text| !text.is_empty())
}

/// Where the manifests come from.
fn origin(matches: &ArgMatches) -> Result<Origin> {
    let (url, branch) = (text(matches, "manifest-url"), text(matches, "manifest-branch"));
    let table = Table::builtin()?;
    let distribution = table.distribution(maybe(matches, "distro").unwrap_or(super::DEFAULT_DISTRO))?;
    let usual = distribution.manifest.as_ref();
    let url = url.or(usual.map(|m| m.url.as_str()));
    let url = url.ok_or_else(|| usage("Missing --manifest-url=URL: this distribution has no manifests"))?;
    let branch = branch.or(usual.map(|m| m.branch.as_str())).unwrap_or("master");
    Origin::new(url, branch).map_err(|e| usage(format!("--manifest-url, --manifest-branch: {e}")))
}

/// The keys that may sign the tag, if it is to be verified.
fn keyring(matches: &ArgMatches) -> Result<Option<Keyring>> {
    if !args::flag(matches, "verify-signature") {
        return Ok(None);
    }
    if let Some(path) = matches.get_one::<PathBuf>("manifest-key").filter(|path| !path.as_os_str().is_empty())
    {
        return Keyring::read(path)
            .wrap_err_with(|| format!("cannot use --manifest-key={}", path.display()))
            .map(Some);
    }
    let mut keyring = Keyring::builtin(Builtin::Both)?;
    if let Some(folder) = gnupg::folder() {
        keyring.extend(Keyring::of_gnupg(&folder)?);
    }
    for line in keyring.describe() {
        debug!(LOG, "trusted: {line}");
    }
    Ok(Some(keyring))
}

/// The error as the command reports it.
fn report(error: Error) -> Report {
    if error.is_interruption() {
        return Stop::Interrupted.into();
    }
    let advice = match &error {
        Error::NoGit => Some("install git"),
        Error::Tag(_) => Some(
            "if you trust whoever signed it, pass --manifest-key=FILE with the key, or import it with gpg --import; \
             without --verify-signature any tag is taken",
        ),
        Error::Busy(_) => Some("wait until it has ended"),
        _ => None,
    };
    let report = Report::new(error);
    match advice {
        Some(advice) => report.suggestion(advice),
        None => report,
    }
}

/// The versions that the manifests name on their server.
///
/// # Errors
/// When they cannot be fetched, or the tag that is to be verified does not count.
pub async fn remote_versions(matches: &ArgMatches, context: &Context) -> Result<Versions> {
    let (origin, keyring) = (origin(matches)?, keyring(matches)?);
    repo::remote_versions(&origin, keyring.as_ref(), &context.cancel).await.map_err(report)
}

/// Brings the tree of sources to where the manifest wants it: init, the tag if it is to be verified, sync, the tree if
/// it is to be verified. `force_sync`: local changes give way.
///
/// # Errors
/// The first step that fails.
pub async fn update(matches: &ArgMatches, force_sync: bool, context: &Context) -> Result<()> {
    let (root, origin, keyring) = (sdk::repo_root()?, origin(matches)?, keyring(matches)?);
    let name = text(matches, "manifest-name").unwrap_or(MANIFEST);
    let number = |id: &str| matches.get_one::<u32>(id).copied();
    let groups = text(matches, "manifest-groups");
    let options = Options {
        jobs: number("jobs"),
        depth: number("depth"),
        groups: groups.map(|groups| groups.split(',').map(|group| group.trim().to_owned()).collect()),
        force: force_sync,
    };
    let cancel = &context.cancel;
    let step = |result: std::result::Result<(), Error>, what: &'static str| match result {
        Err(e) if e.is_interruption() => Err(report(e)),
        result => result.map_err(report).wrap_err(what),
    };
    let by_tag = |result: &std::result::Result<(), Error>| matches!(result, Err(Error::Tag(_)));
    match tool(matches, &root)? {
        Some(tool) => {
            info!(LOG, "the sources are synced by {}", tool.path().display());
            step(tool.init(&root, &origin, name, &options, cancel).await, "repo init failed")?;
            if let Some(keyring) = &keyring {
                let verified = repo::verify_tag(&root, &origin, keyring, cancel).await;
                step(verified.map(drop), "repo tag verification failed")?;
            }
            step(tool.sync(&root, &options, cancel).await, "repo sync failed")?;
        }
        None => {
            // The tag is verified before anything is checked out.
            let made = repo::init(&root, &origin, name, keyring.as_ref(), force_sync, cancel).await;
            let what = if by_tag(&made) { "repo tag verification failed" } else { "repo init failed" };
            step(made, what)?;
            if let Some(keyring) = &keyring {
                let verified = repo::verify_tag(&root, &origin, keyring, cancel).await;
                step(verified.map(drop), "repo tag verification failed")?;
            }
            step(repo::sync(&root, &options, cancel).await, "repo sync failed")?;
        }
    }
    if args::flag(matches, "verify") {
        step(repo::verify(&root, Which::Named(name), cancel).await, "Verify failed")?;
    }
    Ok(())
}

/// The `repo` tool, if it is to be used.
fn tool(matches: &ArgMatches, root: &std::path::Path) -> Result<Option<Tool>> {
    match text(matches, "sync-with") {
        Some("builtin") => Ok(None),
        Some("repo") => match Tool::find() {
            Some(tool) => Ok(Some(tool)),
            None => Err(usage("--sync-with=repo: there is no repo in PATH")),
        },
        _ if repo::is_built_in(root) => Ok(None),
        _ => Ok(Tool::find()),
    }
}

/// `cork verify`: the tree against its own manifest.
///
/// # Errors
/// When it differs.
pub async fn verify(context: &Context) -> Result<()> {
    let root = sdk::repo_root()?;
    let verified = repo::verify(&root, Which::Active, &context.cancel).await;
    match verified {
        Err(e) if e.is_interruption() => Err(report(e)),
        verified => {
            let is_there = root.join(".repo").exists();
            let verified = verified.map_err(report).wrap_err("Verify failed");
            if is_there { verified } else { verified.suggestion("cork sync makes a tree of sources") }
        }
    }
}
