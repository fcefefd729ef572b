//! cork: the manager of the Container Linux SDK.

mod build;
mod chroot;
mod image;
mod repo;
mod setup;
mod tarball;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ::mantle::applet::{Applet, Context, Manual};
use ::mantle::args::{self, Choices, list};
use ::mantle::cloud::google::sources;
use ::mantle::download::{self, Engine, Signed, Source, Update, signature};
use ::mantle::error::{EXIT_STATUS, Result, SUCCESS, Section as _, usage};
use ::mantle::http;
use ::mantle::openpgp::Keyring;
use ::mantle::release::{Distribution, Downloads, Error, Table};
use ::mantle::text::did_you_mean;
use clap::builder::PossibleValue;
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint};
use color_eyre::eyre::Report;

use crate::downloads;

/// What cork does in processes of their own.
pub use ::mantle::sdk::chroot::request::ENTRIES;

/// The applet's record.
pub const APPLET: Applet = Applet {
    name: "cork",
    about: "The CoreOS SDK manager",
    command,
    run: |matches, context| Box::pin(run(matches, context)),
    manual: Manual {
        files: &[
            sources::FILES,
            &[
                (
                    ".repo/manifests, .repo/manifest.xml",
                    "The manifests of a source tree, and the one that counts.",
                ),
                (
                    ".repo/local_manifest.xml, .repo/local_manifests/*.xml",
                    "Manifests of yours: what they add, extend and remove.",
                ),
                (
                    "~/.gnupg/pubring.kbx",
                    "Keys that may sign the tag of the manifests, besides the release keys.",
                ),
            ],
        ],
        environment: &[
            &[
                ("REPO_ROOT", "The root of the SDK's source tree; an absolute path."),
                (
                    "BUILD_ROOT",
                    "Where images are built; an absolute path [default: src/build below the source root].",
                ),
                (
                    "GNUPGHOME",
                    "The folder of GnuPG's keyring, and of its agent, which can be used in the chroot [default: ~/.gnupg].",
                ),
                (
                    "EMAIL, GIT_*, USE, FEATURES, http_proxy and their like",
                    "Kept in the chroot, as its /etc/sudoers.d/90_env_keep says; EMAIL is made of your name and this \
                     machine's if it is not set.",
                ),
                ("SSH_AUTH_SOCK", "The SSH agent that can be used in the chroot."),
            ],
            sources::ENVIRONMENT,
            http::ENVIRONMENT,
        ],
        exit_status: EXIT_STATUS,
        examples: &[
            (
                "cork download-image --platform=qemu --root=stable",
                "Get the current stable image into the SDK's cache; the file is there only if its signature is right.",
            ),
            (
                "cork download-image --platform=qemu_uefi,gce --root=lts-2024 --board=arm64 --cache-dir=images",
                "Get the images of an LTS stream for two platforms.",
            ),
            ("cork create", "Make a chroot of the SDK that the manifests want, and get the sources."),
            ("cork enter -- ./build_packages", "Run a command in it, from src/scripts."),
            ("cork update -- --jobs=4", "Update sources and SDK; update_chroot gets --jobs=4."),
            ("cork download --sdk-version=3033.0.0", "Get the tarball of an SDK."),
            (
                "cork sync --manifest-branch=refs/tags/v3033.0.0 --verify-signature --verify",
                "Get the sources of a release: its tag is signed by a key that is trusted, the tree is what it says.",
            ),
            (
                "cork build update --private-key=key.pem",
                "Build the update of the latest image, signed by a key of yours.",
            ),
        ],
        ..Manual::DEFAULT
    },
};

/// The distribution when nobody asks for another: the one whose servers exist.
const DEFAULT_DISTRO: &str = "flatcar";

/// The distributions that have downloads.
fn distributions() -> Vec<PossibleValue> {
    let table = Table::builtin().ok();
    let with_downloads = table.iter().flat_map(Table::distributions).filter(|(_, d)| d.downloads.is_some());
    with_downloads.map(|(name, _)| PossibleValue::new(name.to_owned())).collect()
}

/// What the distributions' downloads know of something, each once.
fn known(of: fn(&Downloads) -> Vec<String>) -> Vec<PossibleValue> {
    let table = Table::builtin().ok();
    let downloads = table.iter().flat_map(Table::distributions).filter_map(|(_, d)| d.downloads.as_ref());
    let names: BTreeSet<String> = downloads.flat_map(of).collect();
    names.into_iter().map(PossibleValue::new).collect()
}

/// `--distro`.
fn distro() -> Arg {
    Arg::new("distro")
        .long("distro")
        .value_name("NAME")
        .env("MANTLE_DISTRO")
        .value_parser(Choices(distributions))
        .help("Distribution [default: what the other options tell, else flatcar]")
}

fn command() -> Command {
    let option = |id: &'static str, value: &'static str| Arg::new(id).long(id).value_name(value);
    let file = |id: &'static str| {
        option(id, "FILE").value_parser(args::path_parser()).value_hint(ValueHint::FilePath)
    };
    let json_key = || {
        file("json-key").help("Use the service account with this key, in Google's JSON form, for gs:// URLs")
    };
    Command::new("cork")
        .long_about(
            "Makes, enters and updates the SDK of Container Linux and Flatcar and its sources, builds updates, and gets images. A file appears only when \
             its signature is right, a chroot only when it is complete; an interrupted download resumes where it stopped.",
        )
        .subcommand(chroot::create_command())
        .subcommand(chroot::enter_command())
        .subcommand(chroot::delete_command())
        .subcommand(chroot::update_command())
        .subcommand(
            Command::new("setup")
                .about("Let this machine run arm64 programs, as builds for arm64 do")
                .long_about(
                    "Write /etc/binfmt.d/qemu-aarch64.conf, unless it is there. Needs root. It counts from the next boot \
                     on, or when systemd-binfmt is restarted.",
                ),
        )
        .subcommand(build::command())
        .subcommand(
            tarball::options(Command::new("download"))
                .about("Download and verify the SDK tarball")
                .long_about(
                    "Download the SDK's tarball into .cache/sdks below the root of the source tree. A tarball that is \
                     there and fits its signature stays, and nothing is asked of the server; a damaged one is \
                     replaced.\n\n\
                     The servers of Container Linux are gone; with --distro=cl, pass --sdk-url with a mirror.",
                )
                .arg(option("sdk-version", "VERSION").help("SDK version")),
        )
        .subcommand(
            Command::new("download-image")
                .about("Download and verify current images")
                .long_about(
                    "Download the images of a release, and its version.txt, into a local cache. Files that are there \
                     and fit their signatures stay. version.txt has no signature.\n\n\
                     The servers of Container Linux are gone; with --distro=cl, pass --root with a mirror.",
                )
                .arg(option("root", "URL").value_hint(ValueHint::Url).help(
                    "Where the images are: a URL (https, http, gs, file), or a channel for its current release: \
                     alpha, beta, stable, lts, or lts-YEAR for a stream of lts [default: alpha]",
                ))
                .arg(
                    option("board", "BOARD")
                        .value_parser(Choices(|| known(|d| d.boards.clone())))
                        .help("Board of a channel's images [default: amd64-usr]"),
                )
                .arg(distro())
                .arg(
                    option("cache-dir", "DIR")
                        .value_parser(args::path_parser())
                        .value_hint(ValueHint::DirPath)
                        .help("Where to put the files [default: .cache/images below the source root]"),
                )
                .arg(
                    option("image-prefix", "NAME").help(
                        "What the names of the files begin with [default: coreos_production or flatcar_production]",
                    ),
                )
                .arg(json_key())
                .arg(downloads::verify_key())
                .arg(
                    Arg::new("verify")
                        .long("verify")
                        .action(ArgAction::SetTrue)
                        .default_value("true")
                        .help("Verify the signatures"),
                )
                .arg(
                    list(option("platform", "NAME"))
                        .value_parser(Choices(|| known(|d| d.platforms.keys().cloned().collect())))
                        .help(
                            "Platforms to get images for (repeatable, comma-separated); azure, digitalocean, hetzner \
                             and openstack are Flatcar's only",
                        ),
                ),
        )
        .subcommand(
            repo::options(
                Command::new("sync")
                    .about("Make or update the source tree")
                    .long_about(
                        "Make or update the tree of the SDK's sources, without a chroot: get the manifests, verify \
                         their tag if asked to, bring every project to where the manifest wants it. An interrupted \
                         sync goes on where it was; files of yours that are not committed stay.\n\n\
                         The repo tool does it if it is in PATH, unless cork itself made the tree.",
                    ),
            )
            .arg(distro())
            .arg(repo::force_sync()),
        )
        .subcommand(
            Command::new("verify")
                .about("Check the source tree against its manifest")
                .long_about(
                    "Check that every project of the manifest .repo/manifest.xml is there, at the commit that the \
                     manifest says, and unchanged: nothing changed or staged, no files that git does not know. Where \
                     the manifest names a branch, tag or pull request, that is what was fetched last.",
                ),
        )
}

async fn run(matches: ArgMatches, context: Context) -> Result<u8> {
    match matches.subcommand() {
        Some(("build", m)) => build::run(m, &context).await?,
        Some(("create", m)) => return chroot::create(m, &context).await,
        Some(("enter", m)) => return chroot::enter(m),
        Some(("delete", m)) => chroot::delete(m, &context).await?,
        Some(("update", m)) => return chroot::update(m, &context).await,
        Some(("setup", _)) => setup::run()?,
        Some(("download", m)) => tarball::run(m, &context).await?,
        Some(("download-image", m)) => image::run(m, &context).await?,
        Some(("sync", m)) => repo::update(m, args::flag(m, "force-sync"), &context).await?,
        Some(("verify", _)) => repo::verify(&context).await?,
        // `version`, `help` and the bare name are answered for every applet before this is called.
        _ => return Err(usage("cork has no such command")),
    }
    Ok(SUCCESS)
}

/// The text of an option that is given and not empty.
fn text<'m>(matches: &'m ArgMatches, id: &str) -> Option<&'m str> {
    matches.get_one::<String>(id).map(String::as_str).filter(|t| !t.is_empty())
}

/// The distribution asked for; else the one that `url` or `prefix` betrays; else the usual one.
fn distribution<'t>(
    table: &'t Table,
    named: Option<&str>,
    url: Option<&str>,
    prefix: Option<&str>,
) -> Result<(&'t Distribution, &'t Downloads)> {
    let betrayed = || {
        let of = |d: &Downloads| url.is_some_and(|u| d.owns(u)) || prefix.is_some_and(|p| d.prefix == p);
        table.distributions().find(|(_, d)| d.downloads.as_ref().is_some_and(of)).map(|(name, _)| name)
    };
    let name = named.or_else(betrayed).unwrap_or(DEFAULT_DISTRO);
    let distribution = table.distribution(name).map_err(|e| match e {
        Error::UnknownDistribution { ref known, .. } => choice(&e.to_string(), name, known),
        other => other.into(),
    })?;
    let downloads = distribution.downloads.as_ref();
    Ok((distribution, downloads.ok_or_else(|| usage(format!("{name} has no public downloads")))?))
}

/// A usage error that lists what is accepted and names the nearest.
fn choice(complaint: &str, value: &str, accepted: &[String]) -> Report {
    let report = usage(complaint).suggestion(format!("accepted are {}", accepted.join(", ")));
    match did_you_mean(value, accepted.iter().map(String::as_str)) {
        Some(question) => report.suggestion(question),
        None => report,
    }
}

/// Advice for a failure at the distribution's own servers, if these do not exist any more.
fn mourn(report: Report, distribution: &Distribution, own: bool, option: &str) -> Report {
    match &distribution.retired {
        Some(reason) if own => {
            report.suggestion(format!("{reason}: pass {option} with a mirror, or --distro={DEFAULT_DISTRO}"))
        }
        _ => report,
    }
}

/// The keys to verify with.
fn keyring(matches: &ArgMatches) -> Result<Keyring> {
    downloads::keyring(matches.get_one::<PathBuf>("verify-key").map(PathBuf::as_path))
}

/// Whether signatures are to be looked at.
fn verifies(matches: &ArgMatches) -> bool {
    args::flag(matches, "verify")
}

/// Updates a file, which must fit its signature if there are keys to judge that.
async fn update(
    engine: &Engine,
    source: &Source,
    destination: &Path,
    keyring: Option<&Keyring>,
    context: &Context,
) -> Result<Update, download::Error> {
    let Some(keyring) = keyring else { return engine.update(source, destination, &context.cancel).await };
    let verifier = &|bytes: &[u8]| signature::check(keyring, bytes);
    let signed = Signed { source, destination, keep_signature: true, verifier, decompress: None };
    engine.update_signed(&signed, &context.cancel).await
}
