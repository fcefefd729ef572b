//! Where the commands of a laboratory run: on this machine, or on its management host.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Options;
use crate::platform::{Error, Result, ResultExt};
use crate::process::{Command, Proc, find_program};
use crate::ssh;

/// Runs a command so that it can be found again and ended, whoever started it.
const RUN: &str = include_str!("run.sh");
/// The largest userdata that goes into the environment, in bytes: Linux takes 128 KiB a variable (execve(2)).
const LARGEST_VARIABLE: usize = 96 << 10;
/// The longest commands, in bytes: with the script around them they must fit into one packet of SSH (RFC 4253, 6.1).
const LONGEST_COMMANDS: usize = 16 << 10;
/// For a connection to the management host, login included.
const CONNECT: Duration = Duration::from_secs(60);
/// How long freeing a machine may take at least: somebody who makes machines in seconds must not leave one for that.
const DEPROVISION: Duration = Duration::from_secs(300);
/// How much of what a console's command says on stderr is kept, in bytes.
const STDERR: u64 = 2 << 10;

/// The user's commands.
#[derive(Clone, Debug)]
pub(super) struct Commands {
    pub(super) provision: String,
    pub(super) console: Option<String>,
    pub(super) deprovision: String,
}

impl Commands {
    /// Those of the options; for clean-up `provision` may be missing.
    pub(super) fn of(options: &Options, cleaning: bool) -> Result<Self> {
        let given = |text: &Option<String>| text.clone().filter(|t| !t.trim().is_empty());
        let all = Self {
            provision: given(&options.external_provisioning_cmds)
                .or_else(|| cleaning.then(String::new))
                .ok_or_else(|| Error::new("platform external needs --external-provisioning-cmds"))?,
            console: given(&options.external_serial_console_cmd),
            deprovision: given(&options.external_deprovisioning_cmds).ok_or_else(|| {
                Error::new(
                    "platform external needs --external-deprovisioning-cmds (true, if nothing is to be done)",
                )
            })?,
        };
        for text in [Some(&all.provision), all.console.as_ref(), Some(&all.deprovision)].into_iter().flatten()
        {
            if text.len() > LONGEST_COMMANDS {
                return Err(Error::new(format!(
                    "commands of {} bytes are too long, {LONGEST_COMMANDS} are possible: put them into a script on the host",
                    text.len()
                )));
            }
        }
        Ok(all)
    }
}

/// A step in the life of a machine.
#[derive(Clone, Copy)]
pub(super) enum Step<'a> {
    /// It is made, of this userdata.
    Provision(&'a str),
    /// It is freed.
    Deprovision,
}

/// A laboratory.
#[derive(Clone)]
pub(super) struct Lab {
    pub(super) commands: Commands,
    host: Host,
    /// The host's name, empty for this one.
    pub(super) place: String,
    limit: Duration,
}

#[derive(Clone)]
enum Host {
    Here,
    There(ssh::Client),
}

impl Lab {
    /// Opens nothing yet.
    pub(super) fn new(options: &Options, commands: Commands) -> Result<Self> {
        let place = options.external_host.clone().unwrap_or_default();
        let host = match place.is_empty() {
            true => Host::Here,
            false => Host::There(client(options, &place)?),
        };
        Ok(Self { commands, host, place, limit: options.external_timeout })
    }

    /// Runs a step to its end and returns what it wrote to stdout. Dropping the future does not end the user's commands:
    /// [`Step::Deprovision`] does that first of all.
    pub(super) async fn run(&self, step: Step<'_>, machine: &str, address: Option<&str>) -> Result<String> {
        let (name, commands, input, what, limit) = match step {
            Step::Provision(data) => {
                ("provision", &self.commands.provision, data, "provisioning", self.limit)
            }
            Step::Deprovision => {
                let limit = self.limit.max(DEPROVISION);
                ("deprovision", &self.commands.deprovision, "", "deprovisioning", limit)
            }
        };
        let words = words(name, machine, commands, address);
        let failed = || format!("{what} commands of machine {machine} failed{}", self.on());
        match &self.host {
            Host::Here => {
                let command = Command::new("sh").args(&words[1..]).input(input);
                let output = command.output(limit).await.during(failed)?;
                Ok(String::from_utf8_lossy(&output.stdout).into_owned())
            }
            Host::There(client) => {
                let line = line(&words);
                let run = client.run_with_input(&line, input);
                match tokio::time::timeout(limit, run).await {
                    Ok(output) => Ok(output.during(failed)?.stdout),
                    Err(_) => Err(Error::new(format!(
                        "{}: they did not end within {} s",
                        failed(),
                        limit.as_secs()
                    ))),
                }
            }
        }
    }

    /// Copies what the console's command writes into a file, until it ends by itself; says how that was.
    pub(super) async fn console(
        &self,
        command: &str,
        machine: &str,
        address: &str,
        file: &Path,
    ) -> Result<()> {
        let words = words("console", machine, command, Some(address));
        let failed = || format!("the console of machine {machine}{}", self.on());
        let mut file =
            tokio::fs::File::create(file).await.during(|| format!("cannot create {}", file.display()))?;
        match &self.host {
            Host::Here => {
                let child = Command::new("sh").args(&words[1..]).stdout(Stdio::piped());
                let mut child = child.stderr(Stdio::piped()).spawn().await.during(failed)?;
                let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
                let words = tokio::spawn(last_of(stderr));
                if let Some(mut stdout) = stdout {
                    tokio::io::copy(&mut stdout, &mut file).await.during(failed)?;
                }
                ended(&child, words).await.during(failed)
            }
            Host::There(client) => {
                let mut stream = client.stream(&line(&words)).await.during(failed)?;
                while let Some(piece) = stream.next().await {
                    file.write_all(&piece.during(failed)?).await.during(failed)?;
                    file.flush().await.during(failed)?;
                }
                Ok(())
            }
        }
    }

    fn on(&self) -> String {
        if self.place.is_empty() { String::new() } else { format!(" on {}", self.place) }
    }

    /// Closes the connections to the host.
    pub(super) async fn close(&self) {
        if let Host::There(client) = &self.host {
            client.close().await;
        }
    }
}

/// The command line of a step.
fn words(step: &str, machine: &str, commands: &str, address: Option<&str>) -> Vec<String> {
    let most = LARGEST_VARIABLE.to_string();
    let words = ["sh", "-c", RUN, "run.sh", step, machine, commands, &most];
    words.into_iter().chain(address).map(str::to_owned).collect()
}

/// The same for a shell.
fn line(words: &[String]) -> String {
    words.iter().map(|w| ssh::quote(w)).collect::<Vec<_>>().join(" ")
}

/// The beginning of what a program says on stderr; all of it is read.
async fn last_of(pipe: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let mut text = Vec::new();
    if let Some(mut pipe) = pipe {
        // What cannot be read is not known: the exit status will do.
        let _ = (&mut pipe).take(STDERR).read_to_end(&mut text).await;
        let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    }
    String::from_utf8_lossy(&text).trim().to_owned()
}

async fn ended(child: &Proc, words: tokio::task::JoinHandle<String>) -> Result<()> {
    let status = child.wait().await;
    let words = words.await.unwrap_or_default();
    match status.success() {
        true => Ok(()),
        false => Err(Error::new(format!("its command ended with {status}: {words}"))),
    }
}

/// The client for the management host; nothing is connected yet.
fn client(options: &Options, host: &str) -> Result<ssh::Client> {
    let given = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    let user = given(&options.external_user)
        .ok_or_else(|| Error::new("the management host needs a user: --external-user"))?;
    let password = options.external_password.as_ref().filter(|p| !p.expose().is_empty());
    let login = match (&options.external_key, password) {
        (Some(file), _) => {
            let what = || format!("cannot read the private key {}", file.display());
            ssh::Login::key_file(user, file).during(what)?
        }
        (None, Some(password)) => ssh::Login::password(user, password.expose()),
        (None, None) => {
            return Err(Error::new(
                "the management host needs a key or a password: --external-key, or $MANTLE_EXTERNAL_PASSWORD",
            ));
        }
    };
    let dialer: Arc<dyn ssh::Dial> = match given(&options.external_socks) {
        Some(proxy) => Arc::new(ssh::Socks::new(&proxy).during(|| "cannot use --external-socks")?),
        None => Arc::new(ssh::Direct),
    };
    Ok(ssh::Client::new(dialer, host, login, CONNECT))
}

/// What must be there for commands that run here.
pub(super) fn check_here(options: &Options) -> Result<()> {
    if options.external_host.as_deref().unwrap_or_default().is_empty() && find_program("setsid").is_none() {
        return Err(Error::new("setsid is not installed (Debian: apt-get install util-linux)"));
    }
    Ok(())
}
