//! What ore's groups of commands are made of: a record for each cloud, a typed struct for each verb.

use std::path::Path;

use ::mantle::applet::{Context, Terms};
use ::mantle::error::{Result, Section as _, Stop, WrapErr as _, eyre, usage};
use ::mantle::http::{CallError, Class};
use ::mantle::release::version::Versions;
use ::mantle::{info, poll};
use clap::{ArgMatches, Command, Parser};
use color_eyre::eyre::Report;
use futures_util::future::LocalBoxFuture;

/// A cloud's commands.
pub struct Group {
    /// What they stand under.
    pub name: &'static str,
    /// What they are for, in a few words.
    pub about: &'static str,
    /// What the account's options begin with where they stand beside those of other clouds; left out here. Empty: they
    /// always had their whole names.
    pub prefix: &'static str,
    /// Adds the account's options: `augment_args` of the verbs' [`Verb::Account`].
    pub options: fn(Command) -> Command,
    /// The commands.
    pub verbs: &'static [Entry],
    /// Files that they read or write, for the man page.
    pub files: &'static [Terms],
    /// Variables that no option is bound to, for the man page.
    pub environment: &'static [Terms],
    /// Command lines and what they do, for the man page.
    pub examples: Terms,
}

impl Group {
    /// The group with its options and commands.
    pub fn command(&self) -> Command {
        let group = self.without_prefix((self.options)(Command::new(self.name)));
        let verbs = self.verbs.iter().map(|v| self.without_prefix((v.command)()));
        // After the options: clap takes what is written about their structs for what the command does.
        group.about(self.about).long_about(None).subcommands(verbs)
    }

    /// Only the names on the command line: the ids are those that the structs are read back by.
    fn without_prefix(&self, command: Command) -> Command {
        command.mut_args(|a| {
            match a.get_long().and_then(|l| l.strip_prefix(self.prefix)).map(str::to_owned) {
                Some(name) => a.long(name),
                None => a,
            }
        })
    }

    /// Runs the command that was chosen.
    pub async fn run(&self, matches: &ArgMatches, context: &Context) -> Result<()> {
        let chosen = matches.subcommand().and_then(|(name, below)| {
            let verb = self.verbs.iter().find(|v| (v.command)().get_name() == name)?;
            Some((verb, below))
        });
        match chosen {
            Some((verb, below)) => (verb.run)(matches, below, context).await,
            // clap lets none but these through, and the bare group is answered for every applet.
            None => Err(usage(format!("ore {} has no such command", self.name))),
        }
    }
}

/// A command of a group: what is on its command line, and what it does.
///
/// What it does for people stands in `#[command(about, long_about)]`, not in a comment: that of a flattened struct
/// would take its place.
pub trait Verb: Parser + 'static {
    /// The options of the group.
    type Account: clap::Args;

    /// Does it.
    async fn run(self, account: Self::Account, context: &Context) -> Result<()>;
}

/// A [`Verb`] in a table.
pub struct Entry {
    command: fn() -> Command,
    /// Adds the options that it reads the account from.
    #[cfg(test)]
    account: fn(Command) -> Command,
    run: for<'a> fn(&'a ArgMatches, &'a ArgMatches, &'a Context) -> LocalBoxFuture<'a, Result<()>>,
}

impl Entry {
    /// The entry of a verb.
    pub const fn of<V: Verb>() -> Self {
        Self {
            command: V::command,
            #[cfg(test)]
            account: <V::Account as clap::Args>::augment_args,
            run: |group, verb, context| Box::pin(run::<V>(group, verb, context)),
        }
    }
}

async fn run<V: Verb>(group: &ArgMatches, verb: &ArgMatches, context: &Context) -> Result<()> {
    let account = <V::Account as clap::FromArgMatches>::from_arg_matches(group)?;
    V::from_arg_matches(verb)?.run(account, context).await
}

/// Options that say whose cloud it is.
pub trait Account: clap::Args {
    /// The cloud's API.
    type Api;

    /// The API. No request is sent.
    async fn api(&self) -> Result<Self::Api>;

    /// Asks the cloud who we are.
    async fn who(api: &Self::Api) -> Result<Who>;

    /// Asks who we are, before anything else is asked.
    async fn preflight(&self, api: &Self::Api, context: &Context) -> Result<Who> {
        unless_cancelled(context, Self::who(api)).await
    }

    /// The API, once the cloud has said who we are.
    async fn sign_in(&self, context: &Context) -> Result<Self::Api> {
        let api = self.api().await?;
        self.preflight(&api, context).await?;
        Ok(api)
    }

    /// As [`Account::sign_in`], for what removes things: says whose they are first.
    async fn sign_in_to_remove(&self, context: &Context) -> Result<Self::Api> {
        let api = self.api().await?;
        self.preflight(&api, context).await?.tell();
        Ok(api)
    }
}

/// Whom a cloud takes us for.
pub struct Who {
    /// The name that the cloud has for the account.
    pub account: String,
    /// The name that it has for us.
    pub identity: String,
    /// Where things are, such as a region.
    pub location: String,
    /// Where the keys come from.
    pub origin: String,
}

impl Who {
    /// Says it to people, who may have meant somebody else.
    pub fn tell(&self) {
        let Self { account, identity, location, origin } = self;
        info!("ore", "account {account}, {location}, as {identity}, with keys from {origin}");
    }
}

/// An error of the library as people should read it.
pub trait Explain: std::error::Error + Send + Sync + Sized + 'static {
    /// Whether it is only the end of work that was cancelled.
    fn is_interruption(&self) -> bool;

    /// Whether what was asked for cannot be.
    fn is_usage(&self) -> bool {
        false
    }

    /// What to do about it.
    fn advice(&self) -> Option<&'static str> {
        None
    }

    /// The page: `what` failed, why, what to do. Of an interruption people have been told.
    fn explain(self, what: &str) -> Report {
        if self.is_interruption() {
            return Stop::Interrupted.into();
        }
        let advice = self.advice();
        let report = match (self.is_usage(), what) {
            (true, _) => usage(self.to_string()),
            (false, "") => eyre!(self),
            (false, what) => eyre!(self).wrap_err(what.to_owned()),
        };
        match advice {
            Some(advice) => report.suggestion(advice),
            None => report,
        }
    }
}

/// Of a cloud whose calls have no errors of their own.
impl Explain for CallError {
    fn is_interruption(&self) -> bool {
        false
    }

    fn advice(&self) -> Option<&'static str> {
        match self.class()? {
            Class::Quota => Some("remove what is not needed any more (see gc), or ask for a larger quota"),
            Class::Capacity => Some("try another zone or type of machine, or try again later"),
            Class::Denied => {
                Some("see whether these credentials are those that you meant, and what they may do")
            }
            _ => None,
        }
    }
}

/// What was waited for.
impl<E: Explain> Explain for poll::Error<E> {
    fn is_interruption(&self) -> bool {
        match self {
            Self::Cancelled => true,
            Self::Failed(e) => e.is_interruption(),
            Self::TimedOut { .. } => false,
        }
    }

    fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Failed(e) => e.advice(),
            Self::TimedOut { .. } | Self::Cancelled => None,
        }
    }
}

/// Runs something that can be dropped at any point: it makes nothing.
pub async fn unless_cancelled<T>(context: &Context, work: impl Future<Output = Result<T>>) -> Result<T> {
    context.cancel.run_until_cancelled(work).await.unwrap_or(Err(Stop::Interrupted.into()))
}

/// `--json` of commands that list.
#[derive(clap::Args)]
#[group(skip)]
pub struct Json {
    /// Print one line of JSON, a list
    #[arg(long)]
    pub json: bool,
}

/// Whose work it is, for names: `$USER`, else the system's name for this user.
pub fn user() -> Result<String> {
    if let Some(user) = std::env::var("USER").ok().filter(|u| !u.is_empty()) {
        return Ok(user);
    }
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::current()).ok().flatten();
    user.map(|u| u.name).ok_or_else(|| eyre!("this user has no name").suggestion("set $USER"))
}

/// The version in the version.txt beside an image; `option` is what one can say instead.
pub fn version_beside(file: &Path, option: &str) -> Result<String> {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let versions = Versions::of_folder(folder).wrap_err("Unable to get version from image directory");
    Ok(versions.with_suggestion(|| format!("pass {option}, or have a version.txt beside the image"))?.version)
}

/// The text, unless it is empty: that stands for none, as it did upstream.
pub fn given(text: Option<String>) -> Option<String> {
    text.filter(|t| !t.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ore::GROUPS;

    fn ids(command: &Command) -> Vec<String> {
        command.get_arguments().map(|a| a.get_id().to_string()).collect()
    }

    #[test]
    fn verbs_read_the_options_of_their_group_and_have_others_themselves() {
        for group in GROUPS {
            let own = ids(&(group.options)(Command::new("x")));
            for verb in group.verbs {
                let name = format!("{} {}", group.name, (verb.command)().get_name());
                assert_eq!(ids(&(verb.account)(Command::new("x"))), own, "{name}");
                let clash: Vec<_> = ids(&(verb.command)()).into_iter().filter(|i| own.contains(i)).collect();
                assert!(clash.is_empty(), "{name}: {clash:?}");
            }
        }
    }

    #[test]
    fn groups_say_what_they_are_for_and_leave_their_prefix_out() {
        for group in GROUPS {
            let command = group.command();
            assert_eq!(command.get_about().map(ToString::to_string).as_deref(), Some(group.about));
            assert!(command.get_long_about().is_none(), "{}", group.name);
            for long in command.get_arguments().filter_map(clap::Arg::get_long) {
                let short = group.prefix.is_empty() || !long.starts_with(group.prefix);
                assert!(short, "{}: --{long}", group.name);
            }
            let names: Vec<_> = command.get_subcommands().map(Command::get_name).collect();
            assert!(names.is_sorted(), "{}: {names:?}", group.name);
        }
    }
}
