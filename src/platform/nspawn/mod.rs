//! Platform `nspawn`: the guest's user space as a container, in about a second, without KVM.
//!
//! The machine is an overlay over the guest's tree, prepared by the real Ignition (`files` stage) and booted by
//! systemd-nspawn(1) on the flight's private network. It has no kernel, disks or firmware of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use super::local::Local;
use super::{
    CONSOLE_FILE, Error, Flight, FlightBase, LaunchRequest, Machine, News, Platform, Result, ResultExt,
    Target, Variables, image,
};
use crate::cause::{Cause, Diagnosis};
use crate::ledger::{self, Ledger, Leftover, Resource};
use crate::network::{Lease, Namespace};
use crate::process::{Command, Proc, cgroup, find_program};
use crate::ssh;
use crate::text::last_lines;

/// The descriptor under which a machine that outlives kola keeps the private network alive.
const NETWORK_FD: i32 = 9;

const BOOT: &str = include_str!("boot.sh");

/// Options of platform nspawn.
#[derive(clap::Args, Serialize, Clone, Debug)]
#[group(skip)]
pub struct Options {
    /// Root tree of the guest [default: that of mantle's own guest]
    #[arg(long, value_name = "DIR")]
    #[serde(rename = "root")]
    nspawn_root: Option<PathBuf>,
    /// Tree that holds the guest's Ignition [default: ignition-root beside the root tree]
    #[arg(long, value_name = "DIR")]
    #[serde(rename = "ignition")]
    nspawn_ignition: Option<PathBuf>,
}

/// The platform.
pub struct Nspawn;

impl Platform for Nspawn {
    const NAME: &'static str = "nspawn";
    const ABOUT: &'static str = "containers of systemd-nspawn on this host: the quick lane (root)";
    const INTERNET: bool = false;
    const PROPERTIES: &'static str = "nspawn";
    type Options = Options;
    type Prepared = Trees;

    fn prepare(options: Options, _target: &Target) -> Result<Trees> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Error::new("platform nspawn needs root; platform qemu-unpriv does not"));
        }
        for (program, package) in [("systemd-nspawn", "systemd-container"), ("unshare", "util-linux")] {
            if find_program(program).is_none() {
                return Err(Error::new(format!(
                    "{program} is not installed (Debian: apt-get install {package})"
                )));
            }
        }
        let root = match options.nspawn_root.or_else(default_root) {
            Some(root) => root,
            None => {
                return Err(Error::new(format!(
                    "no guest tree: build mantle's own guest (`make guest` in mantle's sources puts it in {}) or name one with \
                     --nspawn-root",
                    image::guest_dir().display()
                )));
            }
        };
        let ignition = options.nspawn_ignition.unwrap_or_else(|| root.with_file_name("ignition-root"));
        Ok(Trees { root: existing(&root, "usr")?, ignition: existing(&ignition, "usr/bin/ignition")? })
    }

    fn image(options: &Options, _board: &str) -> Option<image::Image> {
        let root = options.nspawn_root.clone().or_else(default_root)?;
        image::Image::open(root.with_file_name("guest.qcow2")).ok()
    }

    async fn flight(trees: Trees, base: FlightBase) -> Result<Arc<dyn Flight>> {
        let name = base.unique_name();
        let shared = Shared { trees, local: Local::new().await?, ledger: base.ledger };
        Ok(Arc::new(NspawnFlight { name, shared: Arc::new(shared) }))
    }
}

fn default_root() -> Option<PathBuf> {
    ["full", "base"].map(|v| image::guest_dir().join(v).join("root")).into_iter().find(|p| p.is_dir())
}

/// The folder with symlinks resolved, so that a moving link does not change machines under way.
fn existing(dir: &Path, inside: &str) -> Result<PathBuf> {
    let real = dir.canonicalize().during(|| format!("cannot find guest tree {}", dir.display()))?;
    if real.join(inside).symlink_metadata().is_err() {
        return Err(Error::new(format!("{} is no guest tree: it has no {inside}", real.display())));
    }
    if real.display().to_string().contains([',', ':', '\\']) {
        return Err(Error::new(format!(
            "{}: overlayfs does not take `,`, `:` or `\\` in a path",
            real.display()
        )));
    }
    Ok(real)
}

/// The trees that containers are made of, without symlinks in their paths.
#[derive(Clone, Debug)]
pub struct Trees {
    root: PathBuf,
    ignition: PathBuf,
}

struct Shared {
    trees: Trees,
    local: Arc<Local>,
    ledger: Arc<Ledger>,
}

impl Shared {
    /// Removes what a container had outside of itself, and strikes it from the record; returns what is left.
    async fn remove(&self, record: &[Resource]) -> Vec<Leftover> {
        let mut left = Vec::new();
        for resource in record.iter().rev() {
            let gone = match resource.kind.as_str() {
                "cgroup" => cgroup::remove(Path::new(&resource.id)).await,
                _ => Ok(()),
            };
            match gone {
                Ok(()) => self.ledger.delete(resource),
                Err(e) => left.push(Leftover { resource: resource.clone(), why: e.to_string() }),
            }
        }
        left
    }

    /// Control groups for one container, on record before anything runs in them.
    async fn control_groups(&self, id: &str) -> Result<(Vec<PathBuf>, Vec<Resource>)> {
        let groups = cgroup::create(&format!("mantle-{id}")).during(|| "cannot make a control group")?;
        let resource = |dir: &PathBuf| Resource::local("cgroup", dir.display().to_string(), Nspawn::NAME);
        let record: Vec<Resource> = groups.iter().map(resource).collect();
        for resource in &record {
            if let Err(e) = self.ledger.create(resource) {
                self.give_up(&record).await;
                return Err(e).during(|| "cannot record a control group");
            }
        }
        Ok((groups, record))
    }

    /// After a launch that failed.
    async fn give_up(&self, record: &[Resource]) {
        for leftover in self.remove(record).await {
            crate::error!("nspawn", "{leftover}");
            self.ledger.keep(&leftover);
        }
    }
}

struct NspawnFlight {
    name: String,
    shared: Arc<Shared>,
}

#[async_trait]
impl Flight for NspawnFlight {
    fn name(&self) -> &str {
        &self.name
    }

    fn platform(&self) -> &'static str {
        Nspawn::NAME
    }

    fn lacking(&self) -> &'static [(&'static str, &'static str)] {
        const HOSTS: &str = "a container has its host's kernel";
        const NESTED: &str = "containers in containers are not set up";
        &[
            ("kernel", HOSTS),
            ("disks", "a container has no disks of its own"),
            ("firmware", "a container has no firmware"),
            ("nfs", HOSTS),
            ("ipvs", HOSTS),
            ("timesyncd", "a container has its host's clock"),
            ("docker", NESTED),
            ("podman", NESTED),
        ]
    }

    fn properties(&self) -> serde_json::Map<String, serde_json::Value> {
        let text = |p: &Path| serde_json::Value::from(p.display().to_string());
        [("root", &self.shared.trees.root), ("ignition", &self.shared.trees.ignition)]
            .into_iter()
            .map(|(k, p)| (k.to_owned(), text(p)))
            .collect()
    }

    async fn launch(&self, request: LaunchRequest) -> Result<Arc<dyn Machine>> {
        // Memory and CPUs are the host's: a wish for some is met as well as it can be.
        if !request.options.disks.is_empty() {
            return Err(Error::Unsupported { platform: Nspawn::NAME, what: "additional disks" });
        }
        let id = uuid::Uuid::new_v4();
        let dir = request.output_dir.join(id.to_string());
        std::fs::create_dir_all(&dir).during(|| format!("cannot create {}", dir.display()))?;
        let dir = dir.canonicalize().during(|| format!("cannot find {}", dir.display()))?;
        let lease = self.shared.local.net().allocate().during(|| "cannot get an address for a container")?;
        let address = lease.ipv4.to_string();
        let variables = Variables { public_ipv4: address.clone(), private_ipv4: address.clone() };
        let conf = (request.render)(&variables)?;
        let config = match (conf.is_ignition(), conf.is_empty()) {
            (_, true) => None,
            (true, _) => {
                let path = super::keep_user_data(&dir, "ignition.json", conf.text())?;
                if conf.needs_disks() {
                    return Err(Error::Order(
                        "the userdata asks for disks or kernel arguments, which a container does not have"
                            .into(),
                    ));
                }
                Some(path)
            }
            _ => return Err(Error::Order("platform nspawn only supports Ignition or empty configs".into())),
        };
        let namespace = Namespace::new().during(|| "cannot make a container's network")?;
        self.shared
            .local
            .net()
            .veth(&lease, &namespace, "eth0")
            .await
            .during(|| "cannot wire a container's network")?;

        let mount_point = dir.join("machine");
        std::fs::create_dir_all(&mount_point)
            .during(|| format!("cannot create {}", mount_point.display()))?;
        let console = dir.join(CONSOLE_FILE);
        let log =
            std::fs::File::create(&console).during(|| format!("cannot create {}", console.display()))?;
        let errors = log.try_clone().during(|| format!("cannot share {}", console.display()))?;
        let (groups, mut record) = self.shared.control_groups(&id.simple().to_string()).await?;
        let names: Vec<String> = groups.iter().map(|g| g.display().to_string()).collect();
        let mut command = Command::new("unshare")
            .env("CGROUPS", names.join(" "))
            .args([
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "--",
                "sh",
                "-c",
                BOOT,
                "boot.sh",
            ])
            .args([&self.shared.trees.root, &self.shared.trees.ignition, &mount_point])
            .arg(id.simple().to_string())
            .in_namespace(namespace.fd())
            .stdout(log)
            .stderr(errors);
        if let Some(config) = &config {
            command = command.arg(config);
        }
        if request.survive {
            // The bridge lives in the flight's namespace, which would go with this process.
            let network = self.shared.local.net().namespace().fd();
            let network = match network.try_clone() {
                Ok(network) => network,
                Err(e) => {
                    self.shared.give_up(&record).await;
                    return Err(e).during(|| "cannot keep the private network");
                }
            };
            command = command.survive().pass_fd(network, NETWORK_FD);
        }
        let process = match command.spawn().await {
            Ok(process) => process,
            Err(e) => {
                self.shared.give_up(&record).await;
                return Err(e).during(|| "cannot start a container");
            }
        };
        record.push(ledger::process(process.pid(), Nspawn::NAME));
        if let Err(e) = record.last().map_or(Ok(()), |process| self.shared.ledger.create(process)) {
            process.stop(Duration::ZERO).await;
            self.shared.give_up(&record).await;
            return Err(e).during(|| "cannot record a container");
        }
        crate::info!("nspawn", "machine {id} is process {} at {address}", process.pid());
        Ok(Arc::new(Container {
            id: id.to_string(),
            address,
            console,
            mount_point,
            process,
            record,
            shared: self.shared.clone(),
            told: AtomicBool::new(false),
            _network: (lease, namespace),
        }))
    }

    fn local(&self) -> Option<Arc<Local>> {
        Some(self.shared.local.clone())
    }

    async fn destroy(&self) -> Vec<Leftover> {
        self.shared.local.destroy().await;
        Vec::new()
    }
}

struct Container {
    id: String,
    address: String,
    console: PathBuf,
    mount_point: PathBuf,
    process: Proc,
    record: Vec<Resource>,
    shared: Arc<Shared>,
    told: AtomicBool,
    /// Kept while the container lives: its address, and the far end of its cable.
    _network: (Lease, Namespace),
}

#[async_trait]
impl Machine for Container {
    fn id(&self) -> &str {
        &self.id
    }

    fn address(&self) -> String {
        self.address.clone()
    }

    fn private_ip(&self) -> String {
        self.address.clone()
    }

    fn dialer(&self) -> Arc<dyn ssh::Dial> {
        self.shared.local.dialer()
    }

    async fn died(&self) -> Diagnosis {
        let status = self.process.wait().await;
        if self.told.load(Ordering::SeqCst) {
            return std::future::pending().await;
        }
        let words = self.console().await.unwrap_or_default();
        use std::os::unix::process::ExitStatusExt as _;
        // Ended from inside it has a status; a signal came from this host.
        let cause = if status.signal().is_some() { Cause::Died } else { Cause::Ended };
        let words = last_lines(&words, 15);
        Diagnosis::new(cause, format!("the container ended with {status}\nits last words:\n{words}"))
    }

    async fn console(&self) -> Option<Vec<u8>> {
        tokio::fs::read(&self.console).await.ok()
    }

    async fn console_news(&self, seen: usize) -> Option<News> {
        News::of_file(&self.console, seen).await.ok()
    }

    fn hints(&self) -> Vec<String> {
        let pid = self.process.pid();
        vec![
            format!(
                "machine {}: nsenter --net=/proc/{pid}/fd/{NETWORK_FD} ssh core@{}",
                self.id, self.address
            ),
            format!("stop it: kill -KILL -{pid}"),
        ]
    }

    fn resource(&self) -> Resource {
        ledger::process(self.process.pid(), Nspawn::NAME)
    }

    async fn destroy(&self) -> Vec<Leftover> {
        self.told.store(true, Ordering::SeqCst);
        self.process.stop(Duration::ZERO).await;
        let mut left = self.shared.remove(&self.record).await;
        // Empty by now: the mount went with its namespace.
        if let Err(e) = std::fs::remove_dir(&self.mount_point) {
            let folder = Resource::local("folder", self.mount_point.display().to_string(), Nspawn::NAME);
            left.push(Leftover { resource: folder, why: e.to_string() });
        }
        left
    }
}
