//! One external test on a machine: uploaded, run as a systemd unit, followed over its reboots.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use color_eyre::eyre::{Result, WrapErr as _, bail, eyre};
use mantle::platform::guest::Guest;
use mantle::process::Command;
use mantle::ssh::quote;
use mantle::text::chain;

use super::External;
use crate::kola::cluster::TestCluster;

const AGENT: &str = include_str!("agent.sh");
const REBOOT: &str = include_str!("reboot.sh");
/// Where the test's data is on the machine.
const DATA: &str = "/var/opt/kola/extdata";
/// How long packing a data folder may take.
const PACK: Duration = Duration::from_secs(600);
/// How often a test may reboot its machine: one that forgets its mark does so for ever.
const REBOOTS: u32 = 32;

/// A test as it is on a machine.
pub struct Unit<'a> {
    test: &'a External,
    /// Its number among those that share the machine.
    number: Option<usize>,
}

/// What the machine says of a test that ran.
enum News {
    Passed,
    Failed(String),
    /// It asks for a reboot, with its mark.
    Reboot {
        soft: bool,
        mark: String,
    },
}

impl News {
    fn read(text: &str) -> Result<Self> {
        let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
        match first.trim() {
            "passed" => Ok(Self::Passed),
            "reboot" | "soft-reboot" => {
                Ok(Self::Reboot { soft: first.trim() != "reboot", mark: rest.to_owned() })
            }
            other => match other.strip_prefix("failed: ") {
                Some(how) => Ok(Self::Failed(how.to_owned())),
                None => bail!("the machine's answer is not understood: {text:?}"),
            },
        }
    }
}

/// Runs a test on the cluster's machine, which it has for itself.
///
/// # Errors
/// When it fails, or cannot be run.
pub async fn alone(c: &TestCluster, test: &External) -> Result<()> {
    let machine = c.machine(0)?;
    let unit = Unit { test, number: None };
    unit.upload_data(&machine).await?;
    unit.run(c, &machine).await
}

impl<'a> Unit<'a> {
    /// A test that shares its machine, as number `number` of all.
    pub fn sharing(test: &'a External, number: usize) -> Self {
        Self { test, number: Some(number) }
    }

    /// With its number, where it has one.
    fn numbered(&self, name: &str) -> String {
        self.number.map_or_else(|| name.to_owned(), |n| format!("{name}-{n}"))
    }

    fn name(&self) -> String {
        format!("{}.service", self.numbered("kola-runext"))
    }

    /// File name on the machine; of two tests with the same name on one machine the number tells which it is.
    fn program(&self) -> String {
        self.numbered(&format!("kola-runext-{}", self.test.base))
    }

    fn data(&self) -> String {
        self.numbered(DATA)
    }

    /// The unit file. `%` would begin a specifier.
    fn text(&self) -> String {
        let program = self.program().replace('%', "%%");
        let values = [
            ("PATH", "@programs@:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
            ("KOLA_UNIT", self.name()),
            ("KOLA_TEST_EXE", self.test.base.clone()),
            ("KOLA_EXT_DATA", self.data()),
        ];
        let environment: String =
            values.iter().map(|(name, value)| format!("Environment={name}={value}\n")).collect();
        format!(
            "[Unit]\nDescription=kola test {}\n\n[Service]\nRemainAfterExit=yes\nEnvironmentFile=-/run/kola-runext-env\n\
             {environment}SyslogIdentifier={program}\nExecStart=@programs@/{program}\n",
            self.test.name
        )
    }

    /// A command of the agent.
    fn agent(words: &[&str]) -> String {
        let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
        format!("sudo sh -c {} sh {}", quote(AGENT), words.join(" "))
    }

    /// Sends the data folder, if there is one.
    ///
    /// # Errors
    /// When it cannot be packed or sent.
    pub async fn upload_data(&self, machine: &Guest) -> Result<()> {
        let Some(folder) = &self.test.data else { return Ok(()) };
        let archive = pack(folder).await?;
        let size = archive.len();
        let command = Self::agent(&["data", &self.data()]);
        machine
            .client()
            .run_with_input(&command, archive)
            .await
            .wrap_err_with(|| format!("sending {size} bytes of {}", folder.display()))?;
        Ok(())
    }

    /// Sends the program and runs it to its end.
    ///
    /// # Errors
    /// When it fails, or cannot be run.
    pub async fn run(&self, c: &TestCluster, machine: &Arc<Guest>) -> Result<()> {
        let file = self.test.file.clone();
        let program = tokio::task::spawn_blocking(move || {
            std::fs::read(&file).wrap_err_with(|| format!("cannot read {}", file.display()))
        })
        .await??;
        let (size, name) = (program.len().to_string(), self.name());
        let command = Self::agent(&["install", &self.program(), &size, &name, &self.text(), REBOOT]);
        machine
            .client()
            .run_with_input(&command, program)
            .await
            .wrap_err_with(|| format!("sending {size} bytes of {}", self.test.file.display()))?;
        let result = self.follow(c, machine).await;
        if result.is_err() {
            let status = format!("sudo systemctl status --no-pager -l --lines=40 {name}; true");
            let told = machine.ssh(&status).await.map(|told| told.stdout).unwrap_or_default();
            if !told.is_empty() {
                c.log(told);
            }
        }
        self.keep_journal(c, machine).await;
        result
    }

    /// Runs the unit, over all reboots that it asks for.
    async fn follow(&self, c: &TestCluster, machine: &Arc<Guest>) -> Result<()> {
        let allow = if self.number.is_none() { "allow" } else { "deny" };
        let mut mark = String::new();
        for reboots in 0..=REBOOTS {
            let boot = machine.boot_id().await.wrap_err("asking which boot it is")?;
            let command = Self::agent(&["run", &self.name(), allow, &self.environment(reboots, &mark)]);
            let answer = c.ssh(machine, &command).await.map_err(|e| {
                if e.is_lost() {
                    eyre!(
                        "the connection was lost while the test ran, and it had asked for no reboot: {}",
                        chain(&e)
                    )
                } else {
                    eyre!("running {}: {}", self.name(), chain(&e))
                }
            })?;
            let soft;
            (soft, mark) = match News::read(&answer)? {
                News::Passed => return Ok(()),
                News::Failed(how) => bail!("{} {how}", self.test.base),
                News::Reboot { soft, mark } => (soft, mark),
            };
            c.log(format!("reboots its machine{}, mark {mark:?}", if soft { " softly" } else { "" }));
            // The journal of this boot may not outlive it.
            self.keep_journal(c, machine).await;
            let count = if soft { Some(machine.soft_reboots().await?) } else { None };
            match machine.ssh(&Self::agent(&["grant"])).await {
                Err(e) if !e.is_lost() => return Err(e).wrap_err("granting a reboot"),
                _ => {}
            }
            match count {
                Some(count) => machine.wait_for_soft_reboot(&count).await?,
                None => machine.wait_for_reboot(&boot).await?,
            }
        }
        bail!("{} has rebooted its machine {REBOOTS} times and wants to once more", self.test.base)
    }

    fn environment(&self, reboots: u32, mark: &str) -> String {
        format!("KOLA_TEST={}\n{}", self.test.name, environment(reboots, mark))
    }

    /// Ends the test if it still runs, for those that use the machine after it.
    pub async fn stop(&self, machine: &Guest) {
        let _ = machine.ssh(&format!("sudo timeout 20 systemctl stop {}", self.name())).await;
    }

    /// Adds what the test has said in this boot to its file in the machine's folder.
    async fn keep_journal(&self, c: &TestCluster, machine: &Guest) {
        let command = format!("sudo journalctl -q -b --no-pager -o short-precise -t {}", self.program());
        let said = match machine.client().output(&command).await {
            Ok(said) => said.stdout,
            Err(e) => return c.log(format!("cannot get the journal of the test: {}", chain(&e))),
        };
        let path = c.machine_folder(machine).join(format!("{}.txt", self.test.name));
        let kept = tokio::task::spawn_blocking(move || {
            use std::io::Write as _;
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path)?;
            file.write_all(&said)
        });
        if let Ok(Err(e)) = kept.await {
            c.log(format!("cannot keep the journal of the test: {e}"));
        }
    }
}

/// What the unit's environment gets besides, by the number of reboots so far and the mark of the last one: as
/// autopkgtest, tmt, Restraint and spread have it.
fn environment(reboots: u32, mark: &str) -> String {
    let quoted = |text: &str| {
        format!(
            "\"{}\"",
            text.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$").replace('`', "\\`")
        )
    };
    let mut lines: String = ["TMT_REBOOT_COUNT", "RSTRNT_REBOOTCOUNT", "REBOOTCOUNT"]
        .iter()
        .map(|name| format!("{name}={reboots}\n"))
        .collect();
    let key = if mark.is_empty() { reboots.to_string() } else { quoted(mark) };
    lines.push_str(&format!("SPREAD_REBOOT={key}\n"));
    if !mark.is_empty() {
        lines.push_str(&format!("AUTOPKGTEST_REBOOT_MARK={}\n", quoted(mark)));
    }
    lines
}

/// The content of a folder as a packed tar archive, with what links lead to.
async fn pack(folder: &Path) -> Result<Vec<u8>> {
    let packed = Command::new("tar").args(["-czhf", "-", "-C"]).arg(folder).arg(".").output(PACK).await;
    Ok(packed.wrap_err_with(|| format!("cannot pack {}", folder.display()))?.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        assert!(matches!(News::read("passed"), Ok(News::Passed)));
        assert!(
            matches!(News::read("failed: exited with status 3"), Ok(News::Failed(how)) if how == "exited with status 3")
        );
        assert!(matches!(News::read("reboot\na b"), Ok(News::Reboot { soft: false, mark }) if mark == "a b"));
        assert!(
            matches!(News::read("soft-reboot"), Ok(News::Reboot { soft: true, mark }) if mark.is_empty())
        );
        assert!(News::read("what?").is_err());
    }

    #[test]
    fn marks_reach_the_environment_whole() {
        assert_eq!(
            environment(0, ""),
            "TMT_REBOOT_COUNT=0\nRSTRNT_REBOOTCOUNT=0\nREBOOTCOUNT=0\nSPREAD_REBOOT=0\n"
        );
        let text = environment(2, "it's \"a\" \\ $b");
        assert!(text.ends_with("AUTOPKGTEST_REBOOT_MARK=\"it's \\\"a\\\" \\\\ \\$b\"\n"), "{text}");
        assert!(text.contains("TMT_REBOOT_COUNT=2\n"));
    }

    #[tokio::test]
    async fn data_is_packed_with_what_links_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        std::fs::write(dir.path().join("far"), "content").unwrap();
        std::os::unix::fs::symlink("../far", dir.path().join("data/near")).unwrap();
        let packed = pack(&dir.path().join("data")).await.unwrap();
        let out = dir.path().join("out");
        std::fs::create_dir(&out).unwrap();
        let unpack = Command::new("tar").args(["-xzf", "-", "-C"]).arg(&out).input(packed);
        unpack.output(PACK).await.unwrap();
        assert_eq!(std::fs::read_to_string(out.join("near")).unwrap(), "content");
        assert!(!out.join("near").is_symlink());
    }
}
