//! A test's view of its cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use color_eyre::eyre::{Result, WrapErr as _, bail, eyre};
use mantle::conf::UserData;
use mantle::harness::T;
use mantle::omaha;
use mantle::platform::MachineOptions;
use mantle::platform::deployment::Deployment;
use mantle::platform::guest::Guest;
use mantle::platform::local::Local;
use mantle::ssh;
use mantle::text::chain;
use tokio::sync::OnceCell;

use super::kolet;
use super::register::Test;
use super::torcx::Manifest;

/// The cluster of a test together with the test's state; cheap to clone.
#[derive(Clone)]
pub struct TestCluster {
    t: T,
    deployment: Arc<Deployment>,
    test: Arc<Test>,
    shared: Arc<Shared>,
    /// Ends with the last view of the cluster.
    omaha: Arc<OnceCell<Arc<omaha::Running>>>,
}

/// What all tests of a run have in common.
#[derive(Debug, Default)]
pub struct Shared {
    /// Architecture of the guests, as in `amd64`.
    pub architecture: String,
    /// Features of the image.
    pub features: Vec<String>,
    /// What `--torcx-manifest` names.
    pub torcx: Option<Manifest>,
    /// What `--update-payload` names.
    pub update_payload: Option<PathBuf>,
    /// Ports of this host that tests of the run use, each by one at a time.
    pub ports: Mutex<BTreeMap<u16, Arc<tokio::sync::Mutex<()>>>>,
}

impl Shared {
    /// Waits for ports of this host, which are the caller's until this is dropped.
    pub async fn hold_ports(&self, wanted: &[u16]) -> Vec<tokio::sync::OwnedMutexGuard<()>> {
        // In one order, so that no two wait for each other.
        let wanted: BTreeSet<u16> = wanted.iter().copied().collect();
        let mut held = Vec::new();
        for port in wanted {
            let lock = {
                let mut all = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
                all.entry(port).or_default().clone()
            };
            held.push(lock.lock_owned().await);
        }
        held
    }
}

/// The error of a machine that was not made, as the test's or the platform's.
pub fn blame(error: mantle::platform::Error) -> color_eyre::Report {
    if error.is_of_platform() { mantle::harness::infra(error) } else { error.into() }
}

impl TestCluster {
    /// A view of `deployment` for `test`.
    pub fn new(t: T, deployment: Arc<Deployment>, test: Arc<Test>, shared: Arc<Shared>) -> Self {
        Self { t, deployment, test, shared, omaha: Arc::default() }
    }

    /// The test's state: name, log, output folder.
    pub fn t(&self) -> &T {
        &self.t
    }

    /// Those of the features that image or platform do not offer here, with the reasons.
    pub fn missing(&self, features: &[&str]) -> Vec<String> {
        super::register::missing(
            features.iter().copied(),
            &self.shared.features,
            self.deployment.flight().lacking(),
        )
    }

    /// Adds a line to the test's log.
    #[track_caller]
    pub fn log(&self, text: impl std::fmt::Display) {
        self.t.log(text);
    }

    /// Marks the test failed and goes on.
    #[track_caller]
    pub fn error(&self, text: impl std::fmt::Display) {
        self.t.error(text);
    }

    /// The live machines, in order of creation.
    pub fn machines(&self) -> Vec<Arc<Guest>> {
        self.deployment.guests()
    }

    /// Machine `index` in order of creation.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn machine(&self, index: usize) -> Result<Arc<Guest>> {
        self.machines().get(index).cloned().ok_or_else(|| eyre!("the cluster has no machine {index}"))
    }

    /// The folder of a machine of this cluster.
    pub fn machine_folder(&self, machine: &Guest) -> PathBuf {
        self.deployment.settings().output_dir.join(machine.id())
    }

    /// The torcx package list that was given to the run.
    pub fn torcx(&self) -> Option<&Manifest> {
        self.shared.torcx.as_ref()
    }

    /// Architecture of the guests, as in `amd64`.
    pub fn architecture(&self) -> &str {
        &self.shared.architecture
    }

    /// How much slower than on bare hardware guests run here; waits inside tests are multiplied by it.
    pub fn slowness(&self) -> f64 {
        self.deployment.flight().slowness()
    }

    /// The name of the guest's distribution.
    pub fn distro(&self) -> &'static str {
        self.deployment.settings().guest.distribution.name
    }

    /// The userdata that the test registered for this distribution.
    pub fn user_data(&self) -> Option<UserData> {
        self.test.config(self.deployment.settings().guest.distribution).map(|config| config.user_data())
    }

    /// Starts one more machine.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn new_machine(&self, user_data: Option<UserData>) -> Result<Arc<Guest>> {
        self.new_machine_with(user_data, MachineOptions::default()).await
    }

    /// Starts one more machine with wishes.
    ///
    /// # Errors
    /// When it does not come up, or the platform cannot meet a wish.
    pub async fn new_machine_with(
        &self,
        user_data: Option<UserData>,
        options: MachineOptions,
    ) -> Result<Arc<Guest>> {
        self.deployment.new_machine(user_data, options).await.map_err(blame)
    }

    /// Destroys one machine before the test ends.
    pub async fn destroy_machine(&self, machine: &Arc<Guest>) {
        self.deployment.remove(machine).await;
    }

    /// kola's services on the private network.
    ///
    /// # Errors
    /// On platforms without one.
    pub fn local(&self) -> Result<Arc<Local>> {
        self.deployment
            .flight()
            .local()
            .ok_or_else(|| eyre!("platform {} has no private network", self.deployment.flight().platform()))
    }

    /// The cluster's own Omaha server, which guests of the private network reach; started by the first call.
    ///
    /// # Errors
    /// As [`TestCluster::local`], and when it cannot listen.
    pub async fn omaha(&self) -> Result<Arc<omaha::Running>> {
        let local = self.local()?;
        let start = async || Ok::<_, color_eyre::Report>(Arc::new(local.omaha().await?));
        self.omaha.get_or_try_init(start).await.cloned()
    }

    /// The file of `--update-payload`, if the run has one.
    pub fn update_payload(&self) -> Option<&std::path::Path> {
        self.shared.update_payload.as_deref()
    }

    /// Runs a command; stderr goes to the test's log.
    ///
    /// # Errors
    /// The kinds of [`ssh::Error`].
    pub async fn ssh(&self, machine: &Guest, command: &str) -> std::result::Result<String, ssh::Error> {
        let result = machine.ssh(command).await;
        let (stdout, stderr) = match &result {
            Ok(out) => (out.stdout.clone(), out.stderr.as_str()),
            Err(e) => (String::new(), e.stderr()),
        };
        for line in stderr.lines() {
            self.t.log(line);
        }
        result.map(|_| stdout)
    }

    /// Runs a command that has to succeed; returns its stdout.
    ///
    /// # Errors
    /// When it does not: the text has command, stdout and status.
    pub async fn must_ssh(&self, machine: &Guest, command: &str) -> Result<String> {
        self.ssh(machine, command)
            .await
            .map_err(|e| eyre!("{command:?} failed: output {}, status {}", e.stdout(), chain(&e)))
    }

    /// Runs a command and requires its stdout to contain `text`.
    ///
    /// # Errors
    /// When the command fails or the text is missing.
    pub async fn assert_output_contains(&self, machine: &Guest, command: &str, text: &str) -> Result<()> {
        let out = self.must_ssh(machine, command).await?;
        if !out.contains(text) {
            bail!("{command:?}: {text:?} not found in output {out:?}");
        }
        Ok(())
    }

    /// Runs a subtest on the same cluster; true unless it failed.
    pub async fn run<F>(&self, name: &str, f: impl FnOnce(Self) -> F + Send + 'static) -> bool
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let parent = self.clone();
        self.t.run(name, move |t| f(Self { t, ..parent })).await
    }

    /// Inside a subtest: lets it run beside its later siblings.
    #[cfg_attr(
        not(feature = "test-platform"),
        expect(dead_code, reason = "no OS test has parallel subtests yet")
    )]
    pub async fn parallel(&self) {
        self.t.parallel().await;
    }

    /// Runs a native function of this test on the machine, as a subtest of that name.
    ///
    /// # Errors
    /// When the test has no such function. A failure of the function fails the subtest only.
    pub async fn run_native(&self, function: &str, machine: &Arc<Guest>) -> Result<bool> {
        let Some(native) = self.test.native.iter().find(|n| n.name == function) else {
            bail!("test {} has no native function {function:?}", self.test.name);
        };
        let missing = self.missing(native.features);
        if !missing.is_empty() {
            let reason = format!("needs {}", missing.join(", "));
            return Ok(self.run(function, async move |_: Self| Err(mantle::harness::skip(reason))).await);
        }
        self.drop_kolet(machine).await?;
        let command =
            format!("./kolet run {} {}", ssh::quote(self.test.registered_name()), ssh::quote(function));
        let machine = machine.clone();
        Ok(self
            .run(function, async move |c: Self| {
                let show = |out: &str| {
                    if !out.trim().is_empty() {
                        c.log(format!("kolet:\n{}", out.trim()));
                    }
                };
                match machine.ssh(&format!("{command} 2>&1")).await {
                    Ok(out) => show(&out.stdout),
                    Err(e) => {
                        show(e.stdout());
                        c.error(format!("kolet: {}", chain(&e)));
                    }
                }
                Ok(())
            })
            .await)
    }

    /// Runs all native functions of this test on the machine, in the order of registration.
    ///
    /// # Errors
    /// As [`TestCluster::run_native`].
    pub async fn run_natives(&self, machine: &Arc<Guest>) -> Result<()> {
        for native in &self.test.native {
            self.run_native(native.name, machine).await?;
        }
        Ok(())
    }

    /// Puts kolet on the machine as `~/kolet`, once.
    ///
    /// # Errors
    /// When there is no kolet for the guest, or it cannot be sent.
    pub async fn drop_kolet(&self, machine: &Guest) -> Result<()> {
        let label = self.deployment.settings().guest.distribution.label_kolet;
        kolet::install(machine, &self.shared.architecture, label)
            .await
            .wrap_err_with(|| format!("dropping kolet on machine {}", machine.id()))
    }
}
