//! The chroot: `cork create`, `enter`, `delete`, `update`.

use std::ffi::OsString;
use std::path::{Component, PathBuf};

use ::mantle::applet::Context;
use ::mantle::args;
use ::mantle::error::{Report, Result, SUCCESS, Section as _, Stop, WrapErr as _, ensure, eyre, usage};
use ::mantle::release::version::Versions;
use ::mantle::sdk::chroot::dir::Dir;
use ::mantle::sdk::chroot::request::{self, Request};
use ::mantle::sdk::chroot::root::Root;
use ::mantle::sdk::chroot::user::User;
use ::mantle::sdk::chroot::{self, Error, SOURCE};
use ::mantle::{critical, info, notice, sdk};
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint};
use semver::Version;

use super::{repo, tarball, text};
use crate::downloads;

/// What a tree says about itself.
const RELEASE: &str = "usr/lib/os-release";
/// More than any of those has.
const MAX_RELEASE: u64 = 1 << 20;
/// What updates an SDK from inside, below the source tree.
const UPDATE: &str = "src/scripts/update_chroot";

/// The options that say which chroot is meant, and how names are resolved in it.
fn place_options(command: Command) -> Command {
    command
        .arg(
            Arg::new("chroot")
                .long("chroot")
                .value_name("DIR")
                .default_value("chroot")
                .value_parser(args::path_parser())
                .value_hint(ValueHint::DirPath)
                .help("Folder of the chroot, below the source root if it is relative"),
        )
        .arg(
            Arg::new("use-host-dns")
                .long("use-host-dns")
                .action(ArgAction::SetTrue)
                .default_value("true")
                .help("Resolve names in the chroot as this machine does; else by 8.8.8.8 and 8.8.4.4"),
        )
}

/// The options of what makes a chroot.
fn making_options(command: Command) -> Command {
    let command = place_options(repo::options(tarball::options(command)));
    command.arg(
        Arg::new("user-namespace").long("user-namespace").action(ArgAction::SetTrue).default_value("true").help(
            "Make the chroot without root if this machine lets users do that; images, which take loop devices, cannot be \
             built in it. With false, or if it does not, sudo is used",
        ),
    )
}

fn switch(id: &'static str, help: &'static str) -> Arg {
    Arg::new(id).long(id).action(ArgAction::SetTrue).help(help)
}

/// `cork create`.
pub fn create_command() -> Command {
    making_options(
        Command::new("create")
            .about("Download and unpack the SDK")
            .long_about(
                "Download the SDK's tarball, verify it, unpack it into a chroot, prepare that for you, and get the \
                 sources. The chroot is there when it is complete, or not at all: what a killed run left behind is \
                 removed by the next. Several chroots can stand side by side; their tarballs are kept in .cache/sdks \
                 below the source root.\n\n\
                 Who unpacks is root: of a user namespace if this machine has those for users (newuidmap, and ranges in \
                 /etc/subuid and /etc/subgid), else by sudo, which asks before the download begins.",
            ),
    )
    .arg(
        Arg::new("sdk-version")
            .long("sdk-version")
            .value_name("VERSION")
            .help("SDK version [default: what version.txt of the manifests says]"),
    )
    .arg(switch("replace", "Replace a chroot that is there; it is removed when the new one is complete"))
}

/// `cork enter`.
pub fn enter_command() -> Command {
    place_options(
        Command::new("enter")
            .about("Enter the SDK chroot, or run a command in it")
            .long_about(
                "Enter the SDK's chroot: a login shell, or the command after --, whose exit status is cork's. The source \
                 tree is in /mnt/host/source. Agents of SSH and GnuPG, GnuPG's folder and Google's credentials can be \
                 used inside; ~/.ssh/config, ~/.ssh/known_hosts and ~/.gitconfig are copied.\n\n\
                 All mounts are in a namespace of their own, and gone with the last process inside. A chroot that root \
                 unpacked is entered by sudo; one that a user namespace made, in such a namespace.",
            ),
    )
    .arg(
        Arg::new("bind-gpg-agent")
            .long("bind-gpg-agent")
            .action(ArgAction::SetTrue)
            .default_value("true")
            .help("Let GnuPG's agent be used inside"),
    )
    .arg(command_argument("COMMAND", "Command to run; NAME=VALUE before it sets variables"))
}

/// `cork delete`.
pub fn delete_command() -> Command {
    place_options(Command::new("delete").about("Delete the SDK chroot").long_about(
        "Delete the SDK's chroot. Nothing is done if something is mounted in it; links in it are not followed. Sources \
         and downloads stay.",
    ))
}

/// `cork update`.
pub fn update_command() -> Command {
    making_options(
        Command::new("update")
            .about("Update the SDK chroot and the source tree")
            .long_about(
                "Update the sources to where the manifest wants them, and the chroot by src/scripts/update_chroot, which \
                 gets the arguments after --; if it fails, its exit status is cork's. If the manifest's version is older \
                 than the chroot's, you have to say what is to happen.",
            ),
    )
    .arg(
        Arg::new("sdk-version")
            .long("sdk-version")
            .value_name("VERSION")
            .help("SDK version for a new chroot [default: what version.txt on the server says]"),
    )
    .arg(
        Arg::new("new-version")
            .long("new-version")
            .value_name("VERSION")
            .help("Version of the updated chroot [default: what version.txt on the server says]"),
    )
    .arg(switch("create", "Create the chroot if there is none"))
    .arg(repo::force_sync())
    .arg(switch("downgrade-in-place", "Downgrade the chroot by its own means if its version is newer"))
    .arg(switch("downgrade-replace", "Replace the chroot if its version is newer"))
    .arg(command_argument("ARGS", "Arguments for update_chroot"))
}

fn command_argument(name: &'static str, help: &'static str) -> Arg {
    Arg::new("command").value_name(name).num_args(0..).help(help)
}

/// Which chroot, of whom.
struct Place {
    root: PathBuf,
    chroot: PathBuf,
    user: User,
}

impl Place {
    fn of(matches: &ArgMatches) -> Result<Self> {
        let root = sdk::repo_root()?;
        let root =
            root.canonicalize().wrap_err_with(|| format!("cannot use the source root {}", root.display()))?;
        let name = downloads::path(matches, "chroot").ok_or_else(|| usage("Missing --chroot=DIR"))?;
        let refuse = |why: &str| Err(usage(format!("--chroot={}: {why}", name.display())));
        if name.components().any(|part| part == Component::ParentDir) {
            return refuse("the path must not have .. in it");
        }
        let chroot = root.join(&name);
        let (Some(parent), Some(last)) = (chroot.parent(), chroot.file_name()) else {
            return refuse("this is no folder for a chroot");
        };
        let chroot = match parent.canonicalize() {
            // Below the root nobody should have to wonder where a name leads.
            Ok(real) if name.is_relative() && real != parent => {
                return Err(Error::Link { path: parent.into() }.into());
            }
            Ok(real) => real.join(last),
            Err(_) => chroot.clone(),
        };
        if root.starts_with(&chroot) {
            return refuse("the source root is in it");
        }
        Ok(Self { root, chroot, user: User::calling()? })
    }

    /// Whether there is a chroot; a link instead of one is an error.
    fn is_there(&self) -> Result<bool> {
        match self.chroot.symlink_metadata() {
            Ok(meta) if meta.is_symlink() => Err(Report::from(Error::Link { path: self.chroot.clone() })
                .suggestion("pass the folder that it leads to as --chroot")),
            Ok(_) => Ok(true),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e).wrap_err_with(|| format!("cannot look at {}", self.chroot.display())),
        }
    }

    fn request(&self, matches: &ArgMatches) -> Request {
        Request {
            repo_root: self.root.clone(),
            chroot: self.chroot.clone(),
            use_host_dns: args::flag(matches, "use-host-dns"),
            log_level: args::log_level(matches).to_string(),
            ..Request::default()
        }
    }
}

// The futures of whole steps are boxed here and below: nested, they are more than the compiler lays out.

/// `cork create`.
pub async fn create(matches: &ArgMatches, context: &Context) -> Result<u8> {
    let version = match text(matches, "sdk-version") {
        Some(version) => version.to_owned(),
        None => match Versions::of_folder(&sdk::repo_root()?.join(".repo/manifests")) {
            Ok(Versions { sdk_version: Some(version), .. }) => {
                info!("cork", "Found SDK version {version} in local repo");
                version
            }
            _ => sdk_version(remote_versions(matches, context).await?)?,
        },
    };
    Box::pin(unpack(matches, &version, args::flag(matches, "replace"), context)).await?;
    Box::pin(repo::update(matches, false, context)).await?;
    Ok(SUCCESS)
}

async fn remote_versions(matches: &ArgMatches, context: &Context) -> Result<Versions> {
    match Box::pin(repo::remote_versions(matches, context)).await {
        Err(e) if !is_interruption(&e) => Err(e.wrap_err("Reading from remote repo failed")),
        other => other,
    }
}

fn sdk_version(versions: Versions) -> Result<String> {
    versions.sdk_version.ok_or_else(|| eyre!("version.txt of the manifests names no SDK"))
}

fn is_interruption(report: &Report) -> bool {
    matches!(report.downcast_ref(), Some(Stop::Interrupted))
}

/// Downloads an SDK and makes it the chroot.
async fn unpack(matches: &ArgMatches, version: &str, replace: bool, context: &Context) -> Result<()> {
    let place = Place::of(matches)?;
    let there = place.is_there()?;
    if there && !replace {
        return Err(Report::from(Error::Exists(place.chroot))
            .wrap_err("Create failed")
            .suggestion("cork update brings it up to date; --replace makes it anew"));
    }
    let root = match there {
        true => Root::for_tree(&place.chroot, &place.user)?, // whoever made the old one can remove it
        false => Root::for_new(&place.user, args::flag(matches, "user-namespace")).await?,
    };
    if let Some(parent) = place.chroot.parent() {
        std::fs::create_dir_all(parent).wrap_err_with(|| format!("cannot make {}", parent.display()))?;
    }
    root.warm_up().await?;
    let tarball = root.kept_warm(Box::pin(tarball::get(matches, version, context))).await;
    let tarball = match tarball {
        Err(e) if is_interruption(&e) => return Err(e),
        tarball => tarball.wrap_err("Download failed")?,
    };
    let how = match root {
        Root::Namespace => " in a user namespace: images cannot be built in it (--user-namespace=false)",
        _ => "",
    };
    notice!("cork", "unpacking {} into {}{how}", tarball.name, place.chroot.display());
    let request = Request { replace, archive: tarball.name, size: tarball.size, ..place.request(matches) };
    let status = root.call(request::CREATE, &request, &place.user, Some(tarball.file), &context.cancel).await;
    ended(status, context, "Create failed")?;
    notice!("cork", "created {}", place.chroot.display());
    Ok(())
}

/// What became of a part that runs as root, and has said why if it failed.
fn ended(status: Result<u8, Error>, context: &Context, failed: &'static str) -> Result<()> {
    match status.wrap_err(failed)? {
        SUCCESS => Ok(()),
        _ if context.cancel.is_cancelled() => Err(Stop::Interrupted.into()),
        130 => Err(Stop::Interrupted.into()),
        _ => Err(eyre!("{failed}; the reason stands above")),
    }
}

/// `cork enter`: becomes the command; returns only if that fails.
pub fn enter(matches: &ArgMatches) -> Result<u8> {
    let place = Place::of(matches)?;
    let command = args::words(matches, "command");
    let (root, mut request) = entering(&place, matches, &command)?;
    request.bind_gpg_agent = args::flag(matches, "bind-gpg-agent");
    Err(root.exec(request::ENTER, &request, &place.user, &environment(&place.user)).into())
}

/// Prepares what can be done without rights, and says what has to be asked of root.
fn entering(place: &Place, matches: &ArgMatches, command: &[String]) -> Result<(Root, Request)> {
    if !place.is_there()? {
        return Err(eyre!("there is no chroot {}", place.chroot.display()).suggestion("cork create makes it"));
    }
    chroot::copy_settings(&place.chroot, &place.user)
        .wrap_err("cannot copy your settings into the chroot")?;
    let mut words = vec!["-i".to_owned(), "--".into()];
    if !command.is_empty() {
        // Words like NAME=VALUE may come first.
        words.extend(["env".to_owned(), "--".into()]);
        words.extend_from_slice(command);
    }
    let root = Root::for_tree(&place.chroot, &place.user)?;
    Ok((root, Request { cmd: words, ..place.request(matches) }))
}

/// What is set for the chroot besides what is set already.
fn environment(user: &User) -> Vec<(&'static str, OsString)> {
    match std::env::var_os("EMAIL") {
        Some(_) => Vec::new(),
        None => vec![("EMAIL", user.email().into())],
    }
}

/// `cork delete`.
pub async fn delete(matches: &ArgMatches, context: &Context) -> Result<()> {
    let place = Place::of(matches)?;
    let there = place.is_there()?;
    let left = chroot::left_over(&place.chroot);
    let Some(tree) = there.then(|| place.chroot.clone()).or(left) else {
        info!("cork", "{} does not exist", place.chroot.display());
        return Ok(());
    };
    let root = Root::for_tree(&tree, &place.user)?;
    notice!("cork", "Removing SDK at {}", place.chroot.display());
    let request = place.request(matches);
    let status = root.call(request::DELETE, &request, &place.user, None, &context.cancel).await;
    ended(status, context, "Delete failed")?;
    notice!("cork", "Removed");
    Ok(())
}

/// `cork update`.
pub async fn update(matches: &ArgMatches, context: &Context) -> Result<u8> {
    let [in_place, by_new] = ["downgrade-in-place", "downgrade-replace"].map(|id| args::flag(matches, id));
    if in_place && by_new {
        return Err(usage("Conflicting downgrade options"));
    }
    let place = Place::of(matches)?;
    let given = |id| text(matches, id).map(String::from);
    let (new, sdk) = match (given("new-version"), given("sdk-version")) {
        (Some(new), Some(sdk)) => (new, sdk),
        (new, sdk) => {
            let remote = remote_versions(matches, context).await?;
            (new.unwrap_or_else(|| remote.version.clone()), sdk.map_or_else(|| sdk_version(remote), Ok)?)
        }
    };
    let new = parse(&new)?;
    match installed(&place)? {
        None => {
            ensure_creation(matches, &place)?;
            Box::pin(unpack(matches, &sdk, false, context)).await?;
        }
        Some(installed) if new.cmp_precedence(&installed).is_lt() => {
            notice!("cork", "Downgrade from {installed} to {new} required!");
            if by_new {
                Box::pin(unpack(matches, &sdk, true, context)).await?;
            } else if !in_place {
                return Err(eyre!("Refusing to downgrade.").suggestion(
                    "pass --downgrade-replace for a new chroot, or --downgrade-in-place to keep this one",
                ));
            }
        }
        Some(_) => {}
    }
    Box::pin(repo::update(matches, args::flag(matches, "force-sync"), context)).await?;
    let mut command = vec![format!("{SOURCE}/{UPDATE}")];
    command.extend(args::words(matches, "command"));
    let (root, request) = entering(&place, matches, &command)?;
    let status = root.wait(request::ENTER, &request, &place.user, &environment(&place.user)).await?;
    match status {
        SUCCESS => Ok(SUCCESS),
        _ if context.cancel.is_cancelled() => Err(Stop::Interrupted.into()),
        status => {
            critical!("cork", "update_chroot failed: exit status {status}");
            Ok(status)
        }
    }
}

fn ensure_creation(matches: &ArgMatches, place: &Place) -> Result<()> {
    let advice = "cork create makes one; so does cork update --create";
    ensure!(
        args::flag(matches, "create"),
        eyre!("there is no SDK in {}", place.chroot.display()).suggestion(advice)
    );
    Ok(())
}

/// The version of the chroot, if there is one.
fn installed(place: &Place) -> Result<Option<Version>> {
    if !place.is_there()? {
        return Ok(None);
    }
    let Some(text) = Dir::open(&place.chroot)?.read(RELEASE, MAX_RELEASE)? else { return Ok(None) };
    let file = place.chroot.join(RELEASE);
    let text = String::from_utf8_lossy(&text);
    parse(&Versions::parse_os_release(&text, &file.display().to_string())?.version).map(Some)
}

fn parse(version: &str) -> Result<Version> {
    Version::parse(version).wrap_err_with(|| format!("{version:?} is no version as 1234.5.6 is"))
}
