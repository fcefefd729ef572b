//! A running machine as tests see it: SSH, journal, readiness, reboot. The same for every platform.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, OnceCell, watch};

use super::commands::Commands;
use super::distribution::{Distribution, OsRelease};
use super::{Error, Limits, Machine, News, Result, ResultExt, end};
use crate::badness;
use crate::cause::{Cause, Diagnosis};
use crate::journal;
use crate::ledger::Leftover;
use crate::ssh;
use crate::text::{chain, last_lines, strip_escapes};

/// How a guest is treated.
#[derive(Clone)]
pub struct Settings {
    /// The operating system it should be.
    pub distribution: &'static Distribution,
    /// Time allowed.
    pub limits: Limits,
    /// Do not switch SELinux to enforcing.
    pub no_enable_selinux: bool,
    /// Accept units that failed during boot.
    pub allow_failed_units: bool,
    /// Signs of trouble on the console that are expected.
    pub ignored_badness: Vec<badness::Flag>,
}

/// How long the words that explain a failure may take to follow it on the console.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How often the console of a machine is looked at while its boot is waited for: first, and at last.
const BOOT_LOOKS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// What a start or a reboot is waiting for, and what was last seen of it.
#[derive(Clone, Debug, Default)]
struct Waiting {
    what: &'static str,
    last: String,
}

/// A machine with its SSH connections and its journal.
pub struct Guest {
    machine: Arc<dyn Machine>,
    dir: PathBuf,
    ssh: ssh::Client,
    journal: journal::Recorder,
    settings: Settings,
    /// The journal stream of the present boot.
    following: Mutex<Option<journal::Following>>,
    prepared: OnceCell<()>,
    /// How far the console has been looked at, for all who ask.
    watch: Mutex<badness::Watch>,
    waiting: std::sync::Mutex<Waiting>,
    /// Set while the machine is expected to run: it has booted, and nobody waits for a reboot.
    up: watch::Sender<bool>,
    /// What was found on the console when the machine was lost.
    told: OnceLock<&'static str>,
    /// It goes on from the state of another one.
    woken: bool,
    commands: Commands,
}

/// Where a saved machine has the program by which its copies get random numbers of their own.
pub(super) const RESEEDER: &str = "/var/tmp/mantle-reseed";

/// Makes a machine that goes on from a state one of its own, as root. Arguments: the time, random bytes as digits, a
/// machine id. What was written to the journal stays readable: journalctl looks where the machine id says.
const RENEW: &str = r#"
set -e
date --utc --set "@$1" >/dev/null
printf %s "$2" >/dev/urandom
/var/tmp/mantle-reseed
rm -f /var/tmp/mantle-reseed
old=$(cat /etc/machine-id)
umount /etc/machine-id 2>/dev/null || :
echo "$3" >/etc/machine-id
for journals in /var/log/journal /run/log/journal; do
    [ ! -d "$journals/$old" ] || mv "$journals/$old" "$journals/$3"
done
for key in /etc/ssh/ssh_host_*_key; do
    [ -e "$key" ] || continue
    type=${key#/etc/ssh/ssh_host_}
    rm -f "$key" "$key.pub"
    ssh-keygen -q -t "${type%_key}" -N '' -f "$key"
done
systemctl restart systemd-journald
"#;

/// Whoever waits for a reboot tells what becomes of the machine; until this is dropped.
struct Rebooting<'a> {
    up: &'a watch::Sender<bool>,
    /// It will not come up any more, and this was told.
    over: bool,
}

impl Drop for Rebooting<'_> {
    fn drop(&mut self) {
        self.up.send_replace(!self.over);
    }
}

/// How many times the limit of a connection a first command may take, login and all.
const PROBE: u32 = 3;
/// How long the connections to a machine may take to close before it is ended all the same.
const LEAVE: Duration = Duration::from_secs(60);

/// A boot as the guest names it: `/proc/sys/kernel/random/boot_id` (random(4)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootId(String);

impl Guest {
    /// Wraps a machine that was just launched; nothing is asked of it yet.
    ///
    /// # Errors
    /// When the journal files cannot be made in `dir`.
    pub fn new(
        machine: Arc<dyn Machine>,
        dir: &std::path::Path,
        login: ssh::Login,
        settings: Settings,
    ) -> Result<Self> {
        let journal = journal::Recorder::create(dir)
            .during(|| format!("cannot make journal files in {}", dir.display()))?;
        let ssh = machine.client(login, settings.limits.connect);
        let watch = Mutex::new(badness::Watch::new(&settings.ignored_badness));
        Ok(Self {
            machine,
            dir: dir.to_owned(),
            ssh,
            journal,
            settings,
            following: Mutex::new(None),
            prepared: OnceCell::new(),
            watch,
            waiting: std::sync::Mutex::default(),
            up: watch::Sender::new(false),
            told: OnceLock::new(),
            woken: false,
            commands: Commands::default(),
        })
    }

    /// The same for a machine that goes on from a saved state: before it counts as started, it gets the time, random
    /// numbers, a machine id and SSH host keys of its own. (The driver gives it an address.) What it keeps of the saved
    /// machine: what was in memory and on disk, the boot id, the name if it had one, the product's UUID.
    #[must_use]
    pub fn woken(self) -> Self {
        Self { woken: true, ..self }
    }

    /// The machine's unique id.
    pub fn id(&self) -> &str {
        self.machine.id()
    }

    /// Where sshd is reached from here.
    pub fn ip(&self) -> String {
        self.machine.address()
    }

    /// Address among machines of its cluster.
    pub fn private_ip(&self) -> String {
        self.machine.private_ip()
    }

    /// The driver's side of it.
    pub fn machine(&self) -> &Arc<dyn Machine> {
        &self.machine
    }

    /// Its connections.
    pub fn client(&self) -> &ssh::Client {
        &self.ssh
    }

    /// Set once the tools that tests need were put on it; they survive reboots.
    pub fn prepared(&self) -> &OnceCell<()> {
        &self.prepared
    }

    /// Runs a command; both outputs are trimmed, a status other than 0 is an error.
    ///
    /// # Errors
    /// The kinds of [`ssh::Error`].
    pub async fn ssh(&self, command: &str) -> std::result::Result<ssh::Output, ssh::Error> {
        let begun = Instant::now();
        let ended = self.ssh.run(command).await;
        self.commands.add(&self.dir, command, begun.elapsed(), &ended);
        ended
    }

    /// Waits until the machine is usable: journal streaming, systemd done, the right system, no failed unit.
    ///
    /// Fails at once when the machine dies or its console shows that it will never come up.
    ///
    /// # Errors
    /// A text that begins `machine "<id>" failed …`, with the cause behind it.
    pub async fn start(&self) -> Result<()> {
        let deadline = Instant::now() + self.settings.limits.boot;
        tokio::select! {
            biased; // who is doomed did not start, even if it answered
            why = self.doomed() => Err(why).during(|| format!("machine {:?} failed to start", self.id())),
            done = self.bring_up(deadline, None) => {
                self.up.send_replace(done.is_ok());
                done
            }
            never = self.narrate() => match never {},
        }
    }

    async fn bring_up(&self, deadline: Instant, old: Option<&BootId>) -> Result<()> {
        self.wait_for_ssh(deadline, old)
            .await
            .during(|| format!("machine {:?} failed to start", self.id()))?;
        if self.woken && old.is_none() {
            self.renew()
                .await
                .during(|| format!("machine {:?} failed to become one of its own", self.id()))?;
        }
        self.follow_journal().await.during(|| format!("machine {:?} failed to start", self.id()))?;
        let selinux =
            self.check(deadline).await.during(|| format!("machine {:?} failed basic checks", self.id()))?;
        if selinux && !self.settings.no_enable_selinux && self.settings.distribution.selinux {
            self.ssh("sudo setenforce 1")
                .await
                .during(|| format!("machine {:?} failed to enable selinux", self.id()))?;
        }
        Ok(())
    }

    /// Resolves, with the reason, once nothing more is to be expected of the machine: it ended without being told to, or
    /// its console says something [fatal](badness::Check::fatal).
    ///
    /// To be raced against whatever waits for the machine, by any number of waits at once: each look at the console goes
    /// on where the last one ended, and what was fatal once stays so.
    pub async fn doomed(&self) -> Diagnosis {
        tokio::select! {
            death = self.machine.died() => match self.look().await {
                // The console often says why a machine ended.
                Some(finding) => self.explain(&finding).await,
                None => death,
            },
            finding = self.fatal_console(BOOT_LOOKS) => self.explain(&finding).await,
        }
    }

    /// Resolves, with how, once the machine is lost although it was up: it ended without being told to, or its console
    /// says something [fatal](badness::Check::fatal) that is not expected of it. The first line tells it in short, the
    /// last one names the machine's folder.
    ///
    /// To be raced against all that uses the machine. Whoever waits for a boot or a reboot is told there what became of
    /// it: meanwhile, and after one that failed so, this says nothing. What is watched where: the driver tells the death,
    /// where it can (clouds cannot), and [how often](Machine::console_pace) consoles are worth a look.
    pub async fn lost(&self) -> Diagnosis {
        let mut up = self.up.subscribe();
        loop {
            // The sender is a field of self, so it lives.
            let _ = up.wait_for(|up| *up).await;
            tokio::select! {
                biased;
                _ = up.wait_for(|up| !up) => {}
                how = self.loss() => return how,
            }
        }
    }

    /// As [`Guest::lost`], but only when the machine has ended, not for what its console says: for people who want to
    /// look at it as long as there is something to look at.
    pub async fn ended(&self) -> Diagnosis {
        let death = self.machine.died().await;
        self.obituary(death.told(|how| format!("died: {how}")))
    }

    async fn loss(&self) -> Diagnosis {
        let fatal = async {
            match self.machine.console_pace() {
                Some(pace) => self.fatal_console((pace, pace)).await,
                None => std::future::pending().await,
            }
        };
        let (death, finding) = tokio::select! {
            death = self.machine.died() => (Some(death), self.look().await),
            finding = fatal => (None, Some(finding)),
        };
        let explained = match &finding {
            Some(finding) => {
                let _ = self.told.set(finding.label);
                Some(self.explain(finding).await)
            }
            None => None,
        };
        self.obituary(match (death, explained) {
            (Some(death), None) => death.told(|how| format!("died: {how}")),
            // What the console says came first.
            (Some(death), Some(why)) => {
                let how = death.text.lines().next().unwrap_or_default().to_owned();
                why.told(|why| format!("died: {how}, after {why}"))
            }
            (None, why) => why.unwrap_or_default().told(|why| format!("was given up: {why}")),
        })
    }

    fn obituary(&self, why: Diagnosis) -> Diagnosis {
        let (id, dir) = (self.id(), self.dir.display());
        why.told(|how| format!("machine {id:?} {how}\nits folder: {dir}"))
    }

    /// Looks at the console, with pauses that double from the first one up to the second.
    async fn fatal_console(&self, (mut pause, most): (Duration, Duration)) -> badness::Finding {
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(most);
            if let Some(finding) = self.look().await {
                tokio::time::sleep(LAST_WORDS).await;
                return finding;
            }
        }
    }

    /// Looks at what is new on the console; returns what was fatal on it, now or before.
    async fn look(&self) -> Option<badness::Finding> {
        let mut watch = self.watch.lock().await;
        match self.machine.console_news(watch.seen()).await {
            Some(News::More(text)) => watch.push(&text),
            Some(News::Whole(text)) => watch.see(&text),
            None => {}
        }
        watch.fatal().cloned()
    }

    /// A fatal finding with the lines of the console that explain it.
    async fn explain(&self, finding: &badness::Finding) -> Diagnosis {
        let text = self.machine.console().await.unwrap_or_default();
        let last = last_lines(&text, 15);
        let explained = if finding.label == badness::IGNITION_FAILURE {
            let stage = ignition_failure(&text).unwrap_or_else(|| "see the console".to_owned());
            match ignition_reports(&text).join("\n") {
                none if none.is_empty() => format!("Ignition failed ({stage}):\n{last}"),
                reports => format!("Ignition failed ({stage}):\n{reports}\nlast console lines:\n{last}"),
            }
        } else {
            format!("{finding} on the console:\n{last}")
        };
        Diagnosis::new(finding.cause.unwrap_or_default(), explained)
    }

    /// Why the machine, which was up, does not answer any more; `None` if it does. Asked by a connection of its own.
    pub async fn silence(&self) -> Option<Diagnosis> {
        let client = self.ssh.anew();
        let limit = PROBE * self.settings.limits.connect;
        let asked = tokio::time::timeout(limit, client.run("true")).await;
        client.close().await;
        let (cause, last) = match asked {
            Ok(Ok(_) | Err(ssh::Error::Exit { .. })) => return None,
            Ok(Err(e)) => (if e.is_unreachable() { Cause::NoNetwork } else { Cause::NoSsh }, chain(&e)),
            Err(_) => (Cause::NoSsh, format!("a command was not answered within {} s", limit.as_secs())),
        };
        Some(self.obituary(Diagnosis::new(cause, format!("does not answer any more: {last}"))))
    }

    fn wait_for(&self, what: &'static str, last: &str) {
        let mut waiting = self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *waiting = Waiting { what, last: last.to_owned() };
    }

    /// Says what a long wait is for, every 30 s on bare hardware; never resolves.
    async fn narrate(&self) -> std::convert::Infallible {
        let begun = Instant::now();
        // The limit of a connection is 20 s, and scaled as this must be.
        let every = self.settings.limits.connect.mul_f64(1.5);
        loop {
            tokio::time::sleep(every).await;
            let Waiting { what, last } =
                self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
            let console = self.machine.console().await.map(|c| last_lines(&c, 1)).unwrap_or_default();
            let console = if console.is_empty() {
                String::new()
            } else {
                format!("; its console's last line: {console}")
            };
            crate::notice!(
                "platform",
                "machine {}: waiting for {what} since {} s of at most {} s; last seen: {last}{console}",
                self.id(),
                begun.elapsed().as_secs(),
                self.settings.limits.boot.as_secs(),
            );
        }
    }

    /// Probes sshd, from 50 ms upwards; with `old`, until the machine answers from another boot.
    async fn wait_for_ssh(&self, deadline: Instant, old: Option<&BootId>) -> Result<(), Diagnosis> {
        let mut pause = Duration::from_millis(50);
        let (mut last, mut reached) = ("no answer".to_owned(), false);
        while Instant::now() < deadline {
            self.wait_for("sshd", &last);
            let left = deadline.saturating_duration_since(Instant::now());
            // A login that succeeded proves nothing yet: its command may never be answered, where another one is.
            let probe = left.min(PROBE * self.settings.limits.connect);
            match tokio::time::timeout(probe, self.boot_id()).await {
                Ok(Ok(id)) if old != Some(&id) => return Ok(()),
                Ok(Ok(_)) => "the machine still answers from the old boot".clone_into(&mut last),
                Ok(Err(e)) => {
                    reached = !e.is_unreachable();
                    last = chain(&e);
                }
                Err(_) if probe < left => {
                    last = format!("a command was not answered within {} s", probe.as_secs());
                }
                Err(_) => break,
            }
            if old.is_some() {
                self.ssh.reset();
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(Duration::from_secs(1));
        }
        let limit = self.settings.limits.boot.as_secs();
        let console = self.machine.console().await.unwrap_or_default();
        let cause = match Cause::of_console(&console) {
            // That of the boot before says how far that one got.
            Some(cause) if old.is_none() => cause,
            _ if reached => Cause::NoSsh,
            _ => Cause::NoNetwork,
        };
        let console = last_lines(&console, 15);
        let console =
            if console.is_empty() { String::new() } else { format!("\nlast console lines:\n{console}") };
        let text = format!("ssh unreachable within {limit} s: {last}{console}");
        Err(Diagnosis::new(cause, text))
    }

    /// Which boot the machine is in.
    ///
    /// # Errors
    /// As [`Guest::ssh`].
    pub async fn boot_id(&self) -> std::result::Result<BootId, ssh::Error> {
        // Not on record: while a boot is waited for, this is asked again and again.
        Ok(BootId(self.ssh.run("cat /proc/sys/kernel/random/boot_id").await?.stdout))
    }

    async fn renew(&self) -> Result<()> {
        self.wait_for("an identity of its own", "an answer");
        let mut random = [0; 64];
        openssl::rand::rand_bytes(&mut random).during(|| "no random numbers")?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let command = format!(
            "sudo sh -c {} renew {:.3} {} {}",
            ssh::quote(RENEW),
            now.as_secs_f64(),
            crate::text::hex(&random),
            uuid::Uuid::new_v4().simple()
        );
        self.ssh(&command).await.map(drop).during(|| "cannot renew it")
    }

    async fn follow_journal(&self) -> std::result::Result<(), ssh::Error> {
        let mut following = self.following.lock().await;
        *following = None;
        *following = Some(self.journal.follow(&self.ssh).await?);
        Ok(())
    }

    /// The basic checks, in one round trip where possible; returns whether SELinux could be enforced.
    async fn check(&self, deadline: Instant) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        let state = self.wait_for_systemd(deadline).await?;
        let script = "cat /etc/os-release || exit 90; echo; echo @@failed; \
             systemctl --no-legend --plain --state failed list-units; echo @@selinux; \
             if PATH=$PATH:/usr/sbin:/sbin type -P setenforce >/dev/null && [ -e /sys/fs/selinux/enforce ]; then echo yes; fi";
        let out = match self.ssh(script).await {
            Err(e) if e.exit_status() == Some(90) => return Err(e).during(|| "no /etc/os-release file")?,
            other => other.during(|| "could not check the machine")?,
        };
        let (os, rest) = out.stdout.split_once("@@failed").unwrap_or((&out.stdout, ""));
        let (failed, selinux) = rest.split_once("@@selinux").unwrap_or((rest, ""));
        let os = OsRelease::parse(os);
        let distribution = self.settings.distribution;
        if !distribution.accepts(&os) {
            let text = format!(
                "not a supported instance: {}-{}; distribution {} expects {}{}",
                os.get("ID"),
                os.get("VARIANT_ID"),
                distribution.name,
                distribution.accepted(),
                super::distribution::DISTRIBUTIONS
                    .iter()
                    .find(|d| d.accepts(&os))
                    .map(|d| format!(", this is {}", d.name))
                    .unwrap_or_default(),
            );
            return Err(text.into());
        }
        let failed = failed.trim();
        if !failed.is_empty() && !self.settings.allow_failed_units {
            let unit = failed.split_whitespace().next().unwrap_or_default();
            let quoted = ssh::quote(unit);
            let detail = self
                .ssh(&format!("systemctl status --no-pager -l {quoted}; sudo journalctl -b --no-pager -n 20 -u {quoted}; true"))
                .await
                .map(|o| o.stdout)
                .unwrap_or_default();
            let text = format!("some systemd units failed:\n{failed}\n{detail}");
            return Err(Diagnosis::new(Cause::UnitFailed, text).into());
        }
        crate::debug!("platform", "machine {} is {state}", self.id());
        Ok(selinux.trim() == "yes")
    }

    /// Waits for the end of the boot: by event where systemd can (`--wait`, since 240), else by probing.
    async fn wait_for_systemd(&self, deadline: Instant) -> Result<String, Diagnosis> {
        let mut pause = Duration::from_millis(50);
        // As root, over systemd's private socket: others are not told of the end of the boot unless somebody
        // else has subscribed to systemd's signals. Bounded all the same.
        let mut command = "sudo timeout 20 systemctl is-system-running --wait";
        let mut last = "no answer".to_owned();
        while Instant::now() < deadline {
            self.wait_for("the end of its boot", &last);
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = match tokio::time::timeout(left, self.ssh.output(command)).await {
                Err(_) => break,
                Ok(Err(e)) => {
                    last = chain(&e);
                    String::new()
                }
                Ok(Ok(out)) => {
                    let errors = String::from_utf8_lossy(&out.stderr);
                    if errors.contains("--wait") {
                        command = "systemctl is-system-running";
                    }
                    String::from_utf8_lossy(&out.stdout).trim().to_owned()
                }
            };
            match answer.as_str() {
                "" | "initializing" | "starting" | "stopping" => {
                    if !answer.is_empty() {
                        last = answer;
                    }
                }
                _ => return Ok(answer),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(Duration::from_secs(1));
        }
        let jobs = self.ssh("systemctl list-jobs --no-pager").await.map(|o| o.stdout).unwrap_or_default();
        let jobs = if jobs.is_empty() { jobs } else { format!("; waiting jobs:\n{jobs}") };
        let limit = self.settings.limits.boot.as_secs();
        let text =
            format!("ssh unreachable: could not check if machine is running within {limit} s: {last}{jobs}");
        Err(Diagnosis::new(Cause::Boot, text))
    }

    /// Reboots the machine and waits until it is usable again.
    ///
    /// # Errors
    /// When the command cannot be given, or the machine does not come back.
    pub async fn reboot(&self) -> Result<()> {
        let old = self.boot_id().await.during(|| "issuing reboot command failed")?;
        let stop: String = self
            .settings
            .distribution
            .stop_before_reboot
            .iter()
            .map(|unit| format!("sudo systemctl stop {unit} && "))
            .collect();
        match self.ssh(&format!("{stop}sudo reboot")).await {
            Err(e) if !e.is_lost() => return Err(e).during(|| "issuing reboot command failed"),
            _ => {}
        }
        self.wait_for_reboot(&old).await
    }

    /// Waits until the machine is usable in another boot than `old`, whoever started the reboot.
    ///
    /// # Errors
    /// When it does not come back in time, or not whole.
    pub async fn wait_for_reboot(&self, old: &BootId) -> Result<()> {
        self.ssh.reset();
        let deadline = Instant::now() + self.settings.limits.boot;
        let mut watched = Rebooting { up: &self.up, over: false };
        self.up.send_replace(false);
        tokio::select! {
            why = self.doomed() => {
                watched.over = true;
                Err(why).during(|| format!("machine {:?} failed to reboot", self.id()))
            }
            done = self.bring_up(deadline, Some(old)) => done,
            never = self.narrate() => match never {},
        }
    }

    /// How often user space was started anew without another boot (`systemctl soft-reboot`), as systemd counts it.
    ///
    /// # Errors
    /// As [`Guest::ssh`].
    pub async fn soft_reboots(&self) -> std::result::Result<String, ssh::Error> {
        Ok(self.ssh("systemctl show --value --property=SoftRebootsCount").await?.stdout)
    }

    /// Waits until the machine is usable again after a soft reboot: systemd counts another number than `before`.
    ///
    /// # Errors
    /// When it does not come back in time, or not whole.
    pub async fn wait_for_soft_reboot(&self, before: &str) -> Result<()> {
        let deadline = Instant::now() + self.settings.limits.boot;
        let counted = async {
            loop {
                self.ssh.reset();
                match tokio::time::timeout(PROBE * self.settings.limits.connect, self.soft_reboots()).await {
                    Ok(Ok(now)) if !now.is_empty() && now != before => return,
                    _ => tokio::time::sleep(Duration::from_secs(1)).await,
                }
            }
        };
        tokio::select! {
            () = counted => self.bring_up(deadline, None).await,
            () = tokio::time::sleep_until(deadline.into()) => {
                let limit = self.settings.limits.boot.as_secs();
                Err(Error::new(format!("machine {:?} did not reboot softly within {limit} s", self.id())))
            }
        }
    }

    /// Closes all connections and lets the machine run on.
    pub async fn leave(&self) {
        self.journal.stop(self.settings.limits.drain).await;
        drop(self.following.lock().await.take());
        self.ssh.close().await;
    }

    /// Ends the machine, in the order that [`end`] keeps; returns what it said and what is left of it.
    pub async fn destroy(&self) -> Evidence {
        // Connections that hang keep no machine alive.
        if tokio::time::timeout(LEAVE, self.leave()).await.is_err() {
            crate::warning!("platform", "the connections to machine {} do not close", self.id());
        }
        let ended = end(&*self.machine, &self.dir).await;
        let journal = self.journal.text().unwrap_or_else(|e| {
            crate::warning!("platform", "cannot read the journal of machine {}: {e}", self.id());
            Vec::new()
        });
        let told = self.told.get().copied();
        Evidence { id: self.id().to_owned(), console: ended.console, journal, told, left: ended.left }
    }
}

/// What a destroyed machine leaves behind.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The machine's id.
    pub id: String,
    /// All that its serial console said.
    pub console: Vec<u8>,
    /// Its journal as text.
    pub journal: Vec<u8>,
    /// Label of the check whose finding on the console [`Guest::lost`] told: it need not be told again.
    pub told: Option<&'static str>,
    /// What could not be removed.
    pub left: Vec<Leftover>,
}

/// The stage in which Ignition gave up, if the console says so.
fn ignition_failure(console: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(console);
    let line = text.lines().rev().find(|l| {
        l.contains("Ignition failed (stage ")
            || l.contains("Ignition has failed. Please ensure your config is valid")
    })?;
    Some(
        line.split_once("(stage ")
            .and_then(|(_, r)| r.split(')').next())
            .unwrap_or("see the console")
            .to_owned(),
    )
}

/// What Ignition says about the config: its reports with their places, and its errors.
fn ignition_reports(console: &[u8]) -> Vec<String> {
    let text = strip_escapes(&String::from_utf8_lossy(console));
    let report =
        |l: &&str| ["error at ", "warning at ", "ERROR    : ", "CRITICAL : "].iter().any(|m| l.contains(m));
    let mut reports: Vec<String> = text.lines().filter(report).map(|l| l.trim().to_owned()).collect();
    reports.dedup();
    let old = reports.len().saturating_sub(20);
    reports.split_off(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_of_ignition_are_picked_out() {
        let text = b"ignition[7]: Stage: fetch\r\nignition[7]: error at $.passwd.users.1: duplicate entry defined\r\n\
            ignition[7]: CRITICAL : Ignition failed: config is not valid\r\nbye\r\n";
        let reports = ignition_reports(text);
        assert_eq!(reports.len(), 2, "{reports:?}");
        assert!(reports[0].ends_with("duplicate entry defined"));
    }

    #[tokio::test]
    async fn a_console_is_read_from_where_it_was_left() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let news = async |seen| News::of_file(file.path(), seen).await.unwrap();
        std::fs::write(file.path(), "one").unwrap();
        assert_eq!(news(0).await, News::More(b"one".to_vec()));
        std::fs::write(file.path(), "one two").unwrap();
        assert_eq!(news(3).await, News::More(b" two".to_vec()));
        assert_eq!(news(7).await, News::More(Vec::new()));
        // Somebody has emptied it.
        assert_eq!(news(8).await, News::Whole(b"one two".to_vec()));
        assert!(News::of_file("/no/such/console".as_ref(), 0).await.is_err());
    }

    #[test]
    fn the_console_tells_of_ignition() {
        let text = b"x\nIgnition failed (stage files)\r\n[ 1.0] power off\n";
        assert_eq!(ignition_failure(text).as_deref(), Some("files"));
        assert_eq!(ignition_failure(b"Ignition finished successfully"), None);
    }
}
