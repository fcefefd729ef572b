//! `kola spawn`: machines for people.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::ArgMatches;
use color_eyre::Section as _;
use color_eyre::eyre::{Result, WrapErr as _, bail, eyre};
use mantle::applet::Context;
use mantle::conf::{self, Additions, Kind, UserData};
use mantle::output;
use mantle::platform::deployment::Deployment;
use mantle::platform::guest::Guest;
use mantle::platform::image::ignition_versions;
use mantle::platform::{Disk, MachineOptions};
use mantle::ssh;
use mantle::text::chain;
use serde::Deserialize;

use super::flight::{Departures, Flight, both};
use super::options::Setup;
use super::updates;

/// The flags of `kola spawn`.
#[derive(clap::Args, Debug, Clone)]
#[group(skip)]
pub struct Options {
    /// Number of machines
    #[arg(short = 'c', long, value_name = "N", default_value = "1", allow_negative_numbers = true)]
    nodecount: i64,
    /// File with userdata; its kind is recognised
    #[arg(short, long, value_name = "FILE")]
    userdata: Option<PathBuf>,
    /// Add SSH keys: those of --key, else of the agent and of ~/.ssh
    #[arg(short, long)]
    keys: bool,
    /// Public key file for --keys (repeatable, comma-separated)
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    key: Vec<PathBuf>,
    /// Open a shell on the last machine
    #[arg(short, long, default_value = "true")]
    shell: bool,
    /// Open the shell again when the machine is back from a reboot, or its connection was lost
    #[arg(long)]
    reconnect: bool,
    /// Destroy everything when done
    #[arg(short, long, default_value = "true")]
    remove: bool,
    /// Leave the machines running, with keys and without a shell
    #[arg(short = 't', long)]
    detach: bool,
    /// Tell what is being done
    #[arg(short = 'v', long = "verbose")]
    spawn_verbose: bool,
    /// Machine options (JSON) for platform qemu: {"AdditionalDisks": [{"Size": "1G", "DeviceOpts": ["serial=x"]}]}
    #[arg(long, value_name = "FILE")]
    qemu_options: Option<PathBuf>,
    /// Offer this build of the SDK, latest or a version, as an update
    #[arg(long, value_name = "VERSION")]
    omaha_package: Option<String>,
}

/// Starts machines, gives a shell, destroys them.
///
/// # Errors
/// Whatever went wrong first.
pub async fn run(matches: &ArgMatches, mut options: Options, context: &Context) -> Result<()> {
    if options.detach {
        (options.keys, options.spawn_verbose, options.shell, options.remove) = (true, true, false, false);
    }
    let setup = Setup::read(matches)?;
    let count = usize::try_from(options.nodecount).unwrap_or(0);
    if count == 0 {
        bail!("Cluster Failed: nodecount must be one or more");
    }
    let machine_options =
        options.qemu_options.as_deref().map(read_machine_options).transpose()?.unwrap_or_default();
    if options.qemu_options.is_some() && !setup.driver.name.starts_with("qemu") {
        mantle::warning!("kola", "--qemu-options means nothing on platform {}", setup.driver.name);
    }
    let user_data = user_data(&options, &setup).await?;
    let payload = match options.omaha_package.as_deref().filter(|version| !version.is_empty()) {
        Some(version) => {
            updates::check_platform(&setup, "--omaha-package")?;
            if !options.remove {
                mantle::warning!(
                    "kola",
                    "machines that stay find no update: the Omaha server ends with kola"
                );
            }
            Some(updates::build(&setup.target.board, version, &context.cancel).await?)
        }
        None => None,
    };
    let out = setup.output_dir(context).await.wrap_err("Setup failed")?;
    let flight = Flight::new(&setup, &out, context).await?;
    let departures =
        Departures { allow_failed_units: true, survive: !options.remove, ..Departures::default() };
    let result = match flight.new_cluster(out.clone(), departures) {
        Err(e) => Err(e),
        Ok(cluster) => {
            let work = async {
                // Until the machines are not ours any more.
                let omaha = match (&payload, flight.driver.local()) {
                    (Some(payload), Some(local)) => Some(updates::serve(&local, payload).await?),
                    _ => None,
                };
                let url = omaha.as_ref().map(mantle::omaha::Running::url);
                on_cluster(&flight, &cluster, &options, user_data, machine_options, count, url).await
            };
            let result = tokio::select! {
                result = work => result,
                () = context.cancel.cancelled() => Err(mantle::error::Stop::Interrupted.into()),
            };
            // Machines that are to stay do so only if all went well.
            if options.remove || result.is_err() {
                cluster.destroy().await;
            } else {
                tell_how_to_reach(&cluster)?;
                cluster.leave().await;
            }
            result
        }
    };
    if options.remove || result.is_err() {
        return both(result, flight.destroy().await);
    }
    flight.leave().await;
    result
}

async fn on_cluster(
    flight: &Flight,
    cluster: &Arc<Deployment>,
    options: &Options,
    user_data: Option<UserData>,
    machine_options: MachineOptions,
    count: usize,
    omaha: Option<String>,
) -> Result<()> {
    let say = |text: String| if options.spawn_verbose { output::line(text) } else { Ok(()) };
    let mut starts = Vec::new();
    for _ in 0..count {
        say("Spawning machine...".into())?;
        starts.push(cluster.new_machine(user_data.clone(), machine_options.clone()));
    }
    let machines: Vec<Arc<Guest>> = tokio::select! {
        machines = futures_util::future::try_join_all(starts) => machines.wrap_err("Spawning instance failed")?,
        how = cluster.lost() => return Err(how.into()),
    };
    for machine in &machines {
        if let Some(url) = &omaha {
            updates::set_server(machine, url).await?;
        }
        say(format!("Machine {} spawned at {}", machine.id(), machine.ip()))?;
    }
    mantle::debug!("kola", "agent with the flight's key: SSH_AUTH_SOCK={}", flight.agent_socket().display());
    let Some(last) = machines.last().filter(|_| options.shell) else { return Ok(()) };
    if !std::io::stdin().is_terminal() {
        mantle::notice!("kola", "stdin is no terminal: no shell");
        return Ok(());
    }
    if options.remove {
        // By PROMPT_COMMAND, since a user's own start-up file may set PS1 after this one.
        let prompt = br#"if [ -n "$PS1" ]; then
    PROMPT_COMMAND='case $PS1 in *bound*) ;; *) PS1="\[\033[0;31m\][bound]\[\033[0m\] $PS1" ;; esac'
    echo 'This machine is destroyed when you leave this shell (kola spawn --remove=false keeps it).'
fi
"#;
        ssh::install_file(last.client(), prompt.to_vec(), "/etc/profile.d/kola-spawn-bound.sh", 0o755)
            .await
            .wrap_err("Setting shell prompt failed")?;
    }
    let term = std::env::var("TERM").unwrap_or_default();
    loop {
        // Not for what its console says, nor for the other machines: people may want to look at that.
        let left = tokio::select! {
            left = last.client().shell(&term) => left,
            how = last.ended() => return Err(how.into()),
        };
        let lost = match left {
            Ok(()) if options.reconnect && is_going_down(last).await => "the machine goes down".to_owned(),
            Ok(()) => return Ok(()),
            // The connection breaks before it is known why.
            Err(e) => match tokio::time::timeout(Duration::from_secs(1), last.ended()).await {
                Ok(how) => return Err(how.into()),
                Err(_) if options.reconnect && e.is_lost() => chain(&e),
                Err(_) => return Err(e).wrap_err("Manhole failed"),
            },
        };
        mantle::notice!("kola", "{lost}; waiting for the machine, Ctrl-C ends that");
        last.client().reset();
        tokio::select! {
            back = last.start() => back.wrap_err("Manhole failed")?,
            how = last.ended() => return Err(how.into()),
        }
    }
}

/// Whether a machine is about to power off or to reboot, as far as it can tell: a shell that ended so was not left.
async fn is_going_down(machine: &Guest) -> bool {
    match machine.client().output("systemctl is-system-running").await {
        Ok(state) => state.stdout.starts_with(b"stopping"),
        Err(e) => e.is_lost(),
    }
}

fn tell_how_to_reach(cluster: &Deployment) -> Result<()> {
    for machine in cluster.guests() {
        for hint in machine.machine().hints() {
            output::line(hint)?;
        }
    }
    Ok(())
}

/// The userdata of the machines, refused here if it cannot work: a machine would tell so only after its boot, or never.
async fn user_data(options: &Options, setup: &Setup) -> Result<Option<UserData>> {
    let default = setup.target.distribution.ignition;
    // Local machines have addresses that are known before they boot; clouds have variables for them.
    let address = if setup.driver.metadata { conf::container_linux::ANY_CLOUD } else { "192.0.2.1" };
    let mut data = match &options.userdata {
        None => None,
        Some(path) => {
            let read = async {
                let data = UserData::detect(&read_text(path)?)?.translated().await?;
                let conf = conf::render(Some(&data), default, address, address, &Additions::default())?;
                let versions = ignition_versions(setup.facts.as_ref(), &setup.features())?;
                if !versions.is_empty() {
                    conf.check_readable(&versions)?;
                }
                reachable(&data, setup)?;
                Ok::<_, color_eyre::Report>(data)
            };
            Some(
                read.await
                    .wrap_err_with(|| path.display().to_string())
                    .wrap_err("Reading userdata failed")?,
            )
        }
    };
    if options.keys {
        let mut with_keys = data.unwrap_or_else(|| UserData::no_op(default));
        for key in public_keys(&options.key)? {
            with_keys = with_keys.add_key(&key);
        }
        data = Some(with_keys);
    }
    Ok(data)
}

/// Refuses userdata with which nobody could log in: the wait for sshd would last until its limit.
fn reachable(data: &UserData, setup: &Setup) -> Result<()> {
    if setup.driver.metadata {
        return Ok(());
    }
    let reads_cloud_config = setup.features().iter().any(|f| f == "cloudinit");
    let cause = match data.kind() {
        Kind::CloudConfig | Kind::Script | Kind::Multipart if !reads_cloud_config => {
            "the image reads Ignition configs only".to_owned()
        }
        _ if data.takes_keys() => return Ok(()),
        Kind::Empty => "the userdata is empty, and a key cannot be added to nothing".to_owned(),
        _ => "the script has no line @SSH_KEYS@ where keys could go".to_owned(),
    };
    Err(eyre!("no SSH key can reach the machine on platform {}: {cause}", setup.driver.name)
        .suggestion("without --userdata a machine gets a config that does nothing but let kola in"))
}

/// The keys of `--key`, else those of the agent and of `~/.ssh`.
fn public_keys(files: &[PathBuf]) -> Result<Vec<String>> {
    if !files.is_empty() {
        return files.iter().map(|f| read_key(f)).collect();
    }
    let mut keys = Vec::new();
    if let Some(socket) = std::env::var_os("SSH_AUTH_SOCK").filter(|s| !s.is_empty()) {
        keys.extend(ssh::agent_keys(Path::new(&socket))?);
    }
    if let Some(home) = std::env::var_os("HOME").filter(|h| !h.is_empty()) {
        for kind in ["rsa", "dsa", "ecdsa", "ed25519"] {
            let file = Path::new(&home).join(format!(".ssh/id_{kind}.pub"));
            if file.is_file() {
                keys.push(read_key(&file)?);
            }
        }
    }
    if keys.is_empty() {
        return Err(eyre!("there are no SSH keys to add").suggestion(
            "name public key files with --key, start an ssh-agent, or make a key with ssh-keygen",
        ));
    }
    Ok(keys)
}

/// Reads a plain file, or what a shell hands over by `<(command)`.
fn read_text(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    mantle::input::Stream::open(path)?.read_to_end(&mut text)?;
    Ok(text)
}

fn read_key(file: &Path) -> Result<String> {
    let text = read_text(file).wrap_err_with(|| format!("cannot read key {}", file.display()))?;
    let text = String::from_utf8_lossy(&text);
    let line = text.trim();
    let mut words = line.split_whitespace();
    let (kind, blob) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let known = kind.starts_with("ssh-") || kind.starts_with("ecdsa-") || kind.starts_with("sk-");
    if line.lines().count() != 1 || !known || openssl::base64::decode_block(blob).is_err() {
        bail!("{} holds no SSH public key", file.display());
    }
    Ok(line.to_owned())
}

/// Machine options as upstream wrote them; keys match without regard to case.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct OptionsFile {
    additionaldisks: Vec<DiskEntry>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct DiskEntry {
    size: String,
    backingfile: String,
    deviceopts: Vec<String>,
}

fn read_machine_options(path: &Path) -> Result<MachineOptions> {
    let text = read_text(path)
        .wrap_err_with(|| path.display().to_string())
        .wrap_err("Could not read machine options")?;
    parse_machine_options(&text)
        .wrap_err_with(|| format!("Could not unmarshal machine options: {}", path.display()))
}

fn parse_machine_options(text: &[u8]) -> Result<MachineOptions> {
    let file: OptionsFile = serde_json::from_value(lower_keys(serde_json::from_slice(text)?))?;
    let disk = |entry: DiskEntry| match (entry.size.as_str(), entry.backingfile.as_str()) {
        ("", "") => bail!("Disks need either Size or BackingFile specified"),
        (_, "") => Ok(Disk::Empty { size: entry.size, device: entry.deviceopts }),
        ("", _) => Ok(Disk::Backed { file: entry.backingfile.into(), device: entry.deviceopts }),
        _ => bail!("Only one of Size and BackingFile can be specified"),
    };
    let disks = file.additionaldisks.into_iter().map(disk).collect::<Result<_>>()?;
    Ok(MachineOptions { disks, ..MachineOptions::default() })
}

fn lower_keys(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(map) => map.into_iter().map(|(k, v)| (k.to_ascii_lowercase(), lower_keys(v))).collect(),
        Value::Array(items) => items.into_iter().map(lower_keys).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_options_are_read_as_upstream_wrote_them() {
        let text = br#"{"AdditionalDisks": [{"Size": "520M", "DeviceOpts": ["serial=secondary"]}, {"backingFile": "/x"}]}"#;
        let disks = parse_machine_options(text).unwrap().disks;
        assert_eq!(
            disks,
            [
                Disk::Empty { size: "520M".into(), device: vec!["serial=secondary".into()] },
                Disk::Backed { file: "/x".into(), device: vec![] }
            ]
        );
        let error = |text: &[u8]| parse_machine_options(text).unwrap_err().to_string();
        assert!(error(br#"{"AdditionalDisks": [{}]}"#).contains("either Size or BackingFile"));
        assert!(error(br#"{"AdditionalDisks": [{"Size": "1G", "BackingFile": "/x"}]}"#).contains("Only one"));
        assert!(error(br#"{"Disks": []}"#).contains("disks"));
    }

    #[test]
    fn key_files_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("id_x.pub");
        std::fs::write(&file, "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA me@here\n").unwrap();
        assert!(read_key(&file).unwrap().starts_with("ssh-ed25519"));
        std::fs::write(&file, "-----BEGIN OPENSSH PRIVATE KEY-----\n").unwrap();
        assert!(read_key(&file).unwrap_err().to_string().contains("no SSH public key"));
    }
}
