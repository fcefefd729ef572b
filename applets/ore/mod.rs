//! ore: cloud images and virtual machines.
//!
//! A cloud is a folder with a [`Group`], and its place in [`GROUPS`]; a verb is a struct that is a [`group::Verb`], and
//! its place in the group's record. All else is made of these: commands, help, man pages.

mod aws;
mod azure;
mod digitalocean;
mod esx;
mod gc;
mod gcloud;
mod group;
mod openstack;
mod packet;

use ::mantle::applet::{Applet, Context, Manual, Terms};
use ::mantle::args;
use ::mantle::error::{EXIT_STATUS, Result, SUCCESS, usage};
use ::mantle::log::{self, Level};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use self::group::Group;

/// The clouds, in the order of help.
const GROUPS: &[Group] = &[
    aws::GROUP,
    azure::GROUP,
    digitalocean::GROUP,
    esx::GROUP,
    gcloud::GROUP,
    openstack::GROUP,
    packet::GROUP,
];

/// One list of what all groups have in one of their lists.
macro_rules! of_all_groups {
    ($list:ident, $empty:expr) => {{
        const COUNT: usize = {
            let (mut count, mut group) = (0, 0);
            while group < GROUPS.len() {
                count += GROUPS[group].$list.len();
                group += 1;
            }
            count
        };
        &{
            let mut all = [$empty; COUNT];
            let (mut at, mut group) = (0, 0);
            while group < GROUPS.len() {
                let mut item = 0;
                while item < GROUPS[group].$list.len() {
                    all[at] = GROUPS[group].$list[item];
                    at += 1;
                    item += 1;
                }
                group += 1;
            }
            all
        }
    }};
}

const FILES: &[Terms] = of_all_groups!(files, &[] as Terms);
const ENVIRONMENT: &[Terms] = of_all_groups!(environment, &[] as Terms);
const EXAMPLES: Terms = of_all_groups!(examples, ("", ""));

/// The applet's record.
pub const APPLET: Applet = Applet {
    name: "ore",
    about: "Cloud image creation and upload tools",
    command,
    run: |matches, context| Box::pin(run(matches, context)),
    manual: Manual {
        files: FILES,
        environment: ENVIRONMENT,
        exit_status: EXIT_STATUS,
        examples: EXAMPLES,
        ..Manual::DEFAULT
    },
};

fn command() -> Command {
    Command::new("ore")
        .long_about("Cloud image and virtual machine utility. Progress is logged at level INFO unless another is chosen.")
        .subcommands(GROUPS.iter().map(Group::command))
}

async fn run(matches: ArgMatches, context: Context) -> Result<u8> {
    // Upstream always showed these lines; an option that is given still decides.
    let chosen = matches.value_source(args::id::LOG_LEVEL).is_some_and(|s| s != ValueSource::DefaultValue);
    if !chosen && args::log_level(&matches) == Level::Notice {
        log::set_level(Level::Info);
    }
    let named = matches.subcommand().and_then(|(name, m)| Some((GROUPS.iter().find(|g| g.name == name)?, m)));
    // `version`, `help` and the bare name are answered for every applet before this is called.
    let (group, matches) = named.ok_or_else(|| usage("ore has no such command"))?;
    group.run(matches, &context).await?;
    Ok(SUCCESS)
}
