//! kola: boots machines and tests them.

mod bootchart;
mod check_console;
mod choice;
mod cleanup;
mod cluster;
mod denylist;
mod doctor;
mod external;
mod flight;
mod kolet;
mod list;
mod merge;
mod options;
mod order;
mod partition;
pub mod register;
mod replay;
mod run;
mod spawn;
mod stored;
pub mod tests;
mod torcx;
mod updatepayload;
mod updates;

use std::path::PathBuf;

use ::mantle::applet::{Applet, Context, Manual, Section};
use ::mantle::args;
use ::mantle::cause::Cause;
use ::mantle::cloud::aws;
use ::mantle::cloud::azure::credentials::sources as azure;
use ::mantle::cloud::digitalocean;
use ::mantle::cloud::esx::sources as esx;
use ::mantle::cloud::google::sources as google;
use ::mantle::cloud::openstack::sources as openstack;
use ::mantle::cloud::packet;
use ::mantle::error::{Result, SUCCESS, usage};
use ::mantle::network::discovery;
use ::mantle::platform::image;
use clap::{Arg, ArgMatches, Args as _, Command, FromArgMatches as _};

/// The applet's record.
pub const APPLET: Applet = Applet {
    name: "kola",
    about: "The CoreOS Superdeep Borehole",
    command,
    run: |matches, context| Box::pin(run(matches, context)),
    manual: MANUAL,
};

const MANUAL: Manual = Manual {
    files: &[
        &[
            (
                "_kola_temp/<platform>-latest",
                "Results of the last run: reports, and a folder for each test and machine.",
            ),
            ("tests/kola", "External tests of the project in the current folder; see EXTERNAL TESTS."),
            (
                "kola-denylist.yaml",
                "Tests of the current folder's project that are known to fail; see DENY LIST.",
            ),
            (
                "~/.local/state/mantle/kola-times.json",
                "How long each test took on each platform, for the order of later runs; `merge` keeps the times of all parts here, and in a file of this name in its output folder. XDG_STATE_HOME moves it.",
            ),
            ("<image>.json", "What an image can do; without it, what its distribution can do."),
            ("~/.cache/mantle/guest", "mantle's own guest images, used when no image is named."),
        ],
        aws::FILES,
        azure::FILES,
        digitalocean::FILES,
        esx::FILES,
        google::FILES,
        openstack::FILES,
        packet::FILES,
    ],
    environment: &[
        &[
            (
                "GITHUB_ACTIONS, GITHUB_STEP_SUMMARY",
                "In a workflow of GitHub Actions, `run` annotates what did not pass and adds to the page of the workflow's run.",
            ),
            ("MANTLE_GUEST_DIR", "Where mantle's own guest images are."),
            ("MANTLE_SSH_DIR", "Where the socket of the SSH agent with the flight's key is made."),
            (
                discovery::VARIABLE,
                "The discovery service for etcd clusters on platforms whose machines do not reach kola, in place of \
                 https://discovery.etcd.io.",
            ),
            ("REPO_ROOT, BUILD_ROOT", "The SDK's source root and build output; absolute paths."),
            ("SSH_AUTH_SOCK", "The agent whose keys `spawn --keys` adds."),
            ("TMPDIR", "Where temporary disks and sockets are made."),
        ],
        aws::ENVIRONMENT,
        azure::ENVIRONMENT,
        digitalocean::ENVIRONMENT,
        esx::ENVIRONMENT,
        google::ENVIRONMENT,
        openstack::ENVIRONMENT,
        packet::ENVIRONMENT,
        ::mantle::harness::partition::ENVIRONMENT,
        mantle::http::ENVIRONMENT,
    ],
    examples: &[
        ("kola run 'coreos.*'", "Run the tests whose names begin with coreos. on the default platform."),
        (
            "kola run -p nspawn -j2",
            "Run all that need no machine of their own, two at a time, in containers.",
        ),
        ("kola run --qemu-firmware uefi -b fcos --qemu-image fcos.qcow2 fcos.basic", "Test another image."),
        (
            "kola run --warm -j2 'systemd.*' 'podman.*'",
            "Boot once what needs the same machine, and start the others from its state.",
        ),
        ("kola spawn -k --remove=false", "Start a machine that stays, open to your own SSH keys."),
        ("kola new disk.grows; kola run -E . 'ext.*'", "Begin a test of your own in tests/kola, and run it."),
        (
            "kola run --rerun -j auto --tag '!slow'",
            "Run all tests without that tag, those that fail once more.",
        ),
        (
            "kola run --sharding hash:2/8 --results gs://bucket/nightly-17",
            "Run the second of eight parts, and store its results where the others do.",
        ),
        ("kola merge gs://bucket/nightly-17 --output-dir merged", "Put the results of all parts together."),
        ("kola check-console console.txt.gz", "Look for signs of trouble in a console log."),
        (
            "kola run -p nspawn --partition hash:2/8",
            "Run the second of eight parts, on one of eight machines; in a job array of Slurm --partition hash says enough.",
        ),
        ("kola doctor -p nspawn", "See what platform nspawn needs on this host."),
        ("kola updatepayload --payload update.gz", "See whether a machine updates itself to a payload."),
        ("kola replay _kola_temp/qemu-latest", "Run again what did not pass in the last run."),
        ("kola cleanup _kola_temp/qemu-latest", "Remove what a killed run left behind."),
    ],
    sections,
    ..Manual::DEFAULT
};

/// The sections that only kola's man page has.
fn sections() -> Vec<Section> {
    let mut all = external::sections();
    all.push(denylist::section());
    all.push(verdicts());
    all.push(causes());
    all.push(partition::section());
    all.extend(feature_file());
    all
}

/// How tests end, for the man page.
fn verdicts() -> Section {
    let entries = [
        ("PASS, SKIP", "It passed, or could not be done here: the reason is told."),
        ("FAIL", "It failed, each time that it was run."),
        ("FLAKY", "It failed, and passed when it was run again (--rerun). The run can succeed."),
        (
            "INFRA",
            "Its machine could not be made, or was killed from outside: the platform failed, nothing is known about the \
             test.",
        ),
        (
            "WARN",
            "It failed, which the deny list tolerates, or it is not yet 30 days old. The run can succeed.",
        ),
    ];
    let text = |(name, about): &(&str, &str)| ((*name).to_owned(), (*about).to_owned());
    ("VERDICTS", entries.iter().map(text).collect())
}

/// Why machines fail tests, for the man page.
fn causes() -> Section {
    let text = |cause: Cause| (cause.to_string(), cause.about().to_owned());
    ("CAUSES", Cause::ALL.into_iter().map(text).collect())
}

/// The feature file beside an image, for the man page.
fn feature_file() -> Vec<Section> {
    let field = |f: &image::Field| {
        let optional = if f.required { "" } else { " Optional." };
        (f.name.to_owned(), format!("{}{optional} Such as \"{}\": {}", f.about, f.name, f.example))
    };
    let mut fields = vec![(
        "<image>.json".to_owned(),
        "A JSON object beside an image, which says what the image is and can do. Without it the image is taken for one \
         of --distro with all of that distribution's features. The fields:"
            .to_owned(),
    )];
    fields.extend(image::FIELDS.iter().map(field));
    let features = image::FEATURES.iter().map(|(name, about)| ((*name).to_owned(), (*about).to_owned()));
    vec![("FEATURE FILE", fields), ("FEATURES", features.collect())]
}

fn command() -> Command {
    let switch = |id: &'static str| Arg::new(id).action(clap::ArgAction::SetTrue);
    let pattern = Arg::new("pattern")
        .value_name("GLOB")
        .num_args(0..)
        .value_parser(args::Choices(register::names_and_patterns))
        .hide_possible_values(true)
        .help("Patterns of test names [default: *]");
    let path = |id: &'static str, name: &'static str, help: &'static str| {
        Arg::new(id).value_name(name).value_parser(clap::value_parser!(PathBuf)).required(true).help(help)
    };
    let kola = options::General::augment_args(Command::new("kola"))
        .long_about("Boots machines on a platform, runs tests on them and reports; or just boots them for you.")
        .subcommand(
            run::Options::augment_args(Command::new("run"))
                .about("Run kola tests by category")
                .long_about(
                    "Run all tests whose names match a pattern, or all tests. Patterns are shell globs and must match \
                     the whole name. Results go to _kola_temp/<platform>-latest.",
                )
                .after_help(
                    "Examples:\n  kola run 'coreos.*'\n  kola run -p nspawn -j2\n  kola run --qemu-image my.qcow2 -b debian debian.basic",
                )
                .arg(pattern.clone()),
        )
        .subcommand(
            choice::Options::augment_args(Command::new("list"))
                .about("List kola test names")
                .long_about(
                    "List the tests whose names match a pattern, or all tests; with --platform or --distro only those \
                     for that platform or distribution.",
                )
                .after_help("Examples:\n  kola list 'coreos.ignition.*'\n  kola list -p nspawn -b debian")
                .arg(switch("json").long("json").help("Print JSON"))
                .arg(pattern.clone()),
        )
        .subcommand(
            merge::Options::augment_args(Command::new("merge"))
                .about("Put the results of several runs together")
                .long_about(merge::ABOUT)
                .after_help(merge::EXAMPLES),
        )
        .subcommand(
            Command::new("new")
                .about("Make an external test to begin with")
                .long_about(external::scaffold::ABOUT)
                .after_help("Examples:\n  kola new disk.grows\n  kola new --language python network.names")
                .arg(
                    Arg::new("name")
                        .value_name("NAME")
                        .required(true)
                        .help("The test's name; each dot begins a folder in tests/kola"),
                )
                .arg(
                    Arg::new("language")
                        .long("language")
                        .value_name("LANGUAGE")
                        .default_value("shell")
                        .value_parser(external::scaffold::LANGUAGES.map(|l| l.name))
                        .help("What to write it in"),
                )
                .arg(
                    Arg::new("project")
                        .short('E')
                        .long("exttest")
                        .value_name("DIR")
                        .default_value(".")
                        .value_parser(clap::value_parser!(PathBuf))
                        .help("The project whose folder tests/kola gets the test"),
                ),
        )
        .subcommand(
            Command::new("lint")
                .about("Check external tests without running them")
                .long_about(external::lint::ABOUT)
                .after_help("Example:\n  kola lint .")
                .arg(
                    Arg::new("dir")
                        .value_name("DIR")
                        .num_args(0..)
                        .default_value(".")
                        .value_parser(clap::value_parser!(PathBuf))
                        .help("Projects with external tests in tests/kola"),
                ),
        )
        .subcommand(spawn::Options::augment_args(Command::new("spawn")).about("Spawn machines and open a shell").after_help(
            "Examples:\n  kola spawn\n  kola spawn -k --remove=false\n  kola spawn -c3 --userdata config.ign",
        ))
        .subcommand(
            check_console::Options::augment_args(Command::new("check-console"))
                .about("Check console output for badness")
                .long_about(check_console::ABOUT),
        )
        .subcommand(
            Command::new("bootchart")
                .about("Boot a machine and print its boot as SVG")
                .override_usage("kola bootchart > bootchart.svg"),
        )
        .subcommand(
            updatepayload::Options::augment_args(Command::new("updatepayload"))
                .about("Test serving a update_engine payload")
                .long_about(
                    "Boot a machine, have it update itself to the payload from kola's own Omaha server, invalidate \
                     what it was booted from, and update it again: both halves of /usr are written and booted.",
                ),
        )
        .subcommand(
            Command::new("mkimage")
                .about("Specialize image for running kola qemu tests (requires root)")
                .long_about(
                    "Copy a raw Container Linux image (coreos_*_image.bin) and make the serial port its main console. \
                     `kola run` does this by itself.",
                )
                .arg(path("input", "INPUT", "The raw image"))
                .arg(path("output", "OUTPUT", "The copy to make")),
        )
        .subcommand(
            replay::Options::augment_args(Command::new("replay"))
                .about("Run again what did not pass in a run")
                .long_about(replay::ABOUT)
                .after_help(
                    "Examples:\n  kola replay _kola_temp/qemu-latest\n  kola replay bundle coreos.basic -- --qemu-image here.qcow2",
                ),
        )
        .subcommand(
            Command::new("doctor")
                .about("Say what this host can do and what it lacks")
                .long_about(
                    "Check for each platform of this host what a run would check before it makes anything, and say how \
                     to get what is missing. Fails if the platform that `kola run` would use cannot be used.",
                ),
        )
        .subcommand(
            Command::new("cleanup")
                .about("Remove what a killed run left behind")
                .after_help("Example:\n  kola cleanup _kola_temp/qemu-latest")
                .arg(path("dir", "DIR", "Output folder of that run")),
        );
    // Platforms for tests of kola itself stay out of generated pages.
    ::mantle::platform::augment(kola, ::mantle::platform::show_hidden())
}

async fn run(matches: ArgMatches, context: Context) -> Result<u8> {
    match matches.subcommand() {
        Some(("run", m)) => return run::run(m, run::patterns(m)?, &context).await,
        Some(("merge", m)) => {
            return merge::run(m, merge::Options::from_arg_matches(m)?, &context).await;
        }
        Some(("list", m)) => list::run(m, &run::patterns(m)?, args::flag(m, "json"))?,
        Some(("spawn", m)) => spawn::run(m, spawn::Options::from_arg_matches(m)?, &context).await?,
        Some(("check-console", m)) => {
            let options = check_console::Options::from_arg_matches(m)?;
            return tokio::task::spawn_blocking(move || check_console::run(&options)).await?;
        }
        Some(("bootchart", m)) => bootchart::run(m, &context).await?,
        Some(("updatepayload", m)) => {
            let options = updatepayload::Options::from_arg_matches(m)?;
            updatepayload::run(m, options, &context).await?;
        }
        Some(("mkimage", m)) => {
            let file = |id| m.get_one::<PathBuf>(id).cloned().unwrap_or_default();
            ::mantle::platform::qemu::specialize(&file("input"), &file("output")).await?;
        }
        Some(("new", m)) => {
            let word = |id| m.get_one::<String>(id).map_or("", String::as_str);
            let project = m.get_one::<PathBuf>("project").cloned().unwrap_or_default();
            external::scaffold::run(&project, word("name"), word("language"))?;
        }
        Some(("lint", m)) => {
            let folders: Vec<PathBuf> = m.get_many("dir").map(|v| v.cloned().collect()).unwrap_or_default();
            external::lint::run(&folders).await?;
        }
        Some(("replay", m)) => replay::run(&replay::Options::from_arg_matches(m)?).await?,
        Some(("doctor", m)) => doctor::run(m).await?,
        Some(("cleanup", m)) => {
            cleanup::run(&m.get_one::<PathBuf>("dir").cloned().unwrap_or_default(), m, &context).await?;
        }
        // `version`, `help` and the bare name are answered for every applet before this is called.
        _ => return Err(usage("kola has no such command")),
    }
    Ok(SUCCESS)
}
