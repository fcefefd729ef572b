//! A cluster with its guests: creation that cannot be lost, destruction that leaves nothing.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::guest::{Evidence, Guest, Settings};
use super::warm::{Boot, Kind, Store};
use super::{
    DESTROY, Error, Flight, LaunchRequest, MachineOptions, Result, ResultExt, State, Variables, end,
};
use crate::cause::Diagnosis;
use crate::conf::{Additions, UserData};
use crate::ledger::{Ledger, Leftover};
use crate::ssh;
use crate::text::chain;

/// What a cluster is made with.
#[derive(Clone)]
pub struct ClusterSettings {
    /// Folder of the cluster; machines get folders in it.
    pub output_dir: PathBuf,
    /// First part of the cluster's name.
    pub base_name: String,
    /// Do not put the flight's key into userdata.
    pub no_ssh_key_in_user_data: bool,
    /// Do not put the flight's key into the platform's metadata.
    pub no_ssh_key_in_metadata: bool,
    /// What every machine's userdata gets besides.
    pub additions: Additions,
    /// How guests are treated.
    pub guest: Settings,
    /// The key that opens every machine of the flight.
    pub key: Arc<ssh::Key>,
    /// Leave machines running when this process ends.
    pub survive: bool,
    /// Record of what must be removed.
    pub ledger: Arc<Ledger>,
    /// States to start machines from, so that they need not boot.
    pub warm: Option<Arc<Store>>,
}

/// A cluster and the guests in it.
pub struct Deployment {
    flight: Arc<dyn Flight>,
    /// A unique name.
    name: String,
    settings: ClusterSettings,
    guests: Mutex<Vec<Arc<Guest>>>,
    /// Tells when there are other guests than before.
    changed: watch::Sender<()>,
    evidence: Mutex<Vec<Evidence>>,
    /// Creations and removals under way; destruction waits for them.
    under_way: TaskTracker,
    closed: AtomicBool,
    /// Ends the waits of launches.
    closing: CancellationToken,
}

impl Deployment {
    /// Makes an empty cluster on a flight.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub fn new(flight: Arc<dyn Flight>, settings: ClusterSettings) -> Result<Arc<Self>> {
        std::fs::create_dir_all(&settings.output_dir)
            .during(|| format!("cannot create {}", settings.output_dir.display()))?;
        let name = format!("{}-{}", settings.base_name, uuid::Uuid::new_v4());
        Ok(Arc::new(Self {
            flight,
            name,
            closing: CancellationToken::new(),
            settings,
            guests: Mutex::default(),
            evidence: Mutex::default(),
            changed: watch::Sender::new(()),
            under_way: TaskTracker::new(),
            closed: AtomicBool::new(false),
        }))
    }

    /// The flight it belongs to.
    pub fn flight(&self) -> &Arc<dyn Flight> {
        &self.flight
    }

    /// What it was made with.
    pub fn settings(&self) -> &ClusterSettings {
        &self.settings
    }

    /// The live guests, in order of creation.
    pub fn guests(&self) -> Vec<Arc<Guest>> {
        lock(&self.guests).clone()
    }

    /// Resolves, with how, once one of the machines is lost that are up: see [`Guest::lost`]. Machines that are made
    /// meanwhile count too; those that are removed do not, from the moment on at which this is asked for.
    ///
    /// To be raced against everything that uses the machines.
    pub async fn lost(&self) -> Diagnosis {
        let mut changes = self.changed.subscribe();
        loop {
            let guests = self.guests();
            let mut losses: FuturesUnordered<_> = guests.iter().map(|guest| guest.lost()).collect();
            tokio::select! {
                biased;
                // The sender is a field of self, so it lives.
                _ = changes.changed() => {}
                Some(how) = losses.next() => return how,
            }
        }
    }

    /// What is known of the first machine that does not answer any more: see [`Guest::silence`].
    pub async fn silence(&self) -> Option<Diagnosis> {
        let guests = self.guests();
        let asked = futures_util::future::join_all(guests.iter().map(|guest| guest.silence()));
        asked.await.into_iter().flatten().next()
    }

    /// Starts a machine and waits until it is usable.
    ///
    /// Dropping the returned future loses nothing: the creation goes on, and [`Deployment::destroy`] waits for it.
    ///
    /// # Errors
    /// The driver's, or those of [`Guest::start`]; a machine that does not start is destroyed, its console kept.
    pub async fn new_machine(
        self: &Arc<Self>,
        user_data: Option<UserData>,
        options: MachineOptions,
    ) -> Result<Arc<Guest>> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(Error::Cancelled);
        }
        if let Some(state) = self.saved(user_data.as_ref(), &options).await {
            match self.start(user_data.clone(), options.clone(), Some(state)).await {
                Err(Error::Cancelled) => return Err(Error::Cancelled),
                Err(e) if !self.closed.load(Ordering::SeqCst) => {
                    crate::notice!("platform", "a machine boots, as its state is of no use: {}", chain(&e));
                }
                woken => return woken,
            }
        }
        self.start(user_data, options, None).await
    }

    /// Launches a machine, from a state or not, and waits until it is usable.
    async fn start(
        self: &Arc<Self>,
        user_data: Option<UserData>,
        options: MachineOptions,
        state: Option<State>,
    ) -> Result<Arc<Guest>> {
        let (this, woken) = (self.clone(), state.is_some());
        // Only the launch must not be cut in two; waiting for the boot may be dropped at any moment.
        let launch = self.under_way.spawn(async move { this.launch(user_data, options, state).await });
        let guest = launch.await.during(|| "the creation of a machine failed")??;
        if let Err(e) = guest.start().await {
            self.remove(&guest).await;
            if woken {
                // Another machine takes its place, and will have its say.
                lock(&self.evidence)
                    .retain(|evidence| evidence.id != guest.id() || !evidence.left.is_empty());
            }
            return Err(e);
        }
        Ok(guest)
    }

    /// The state that a machine can be started from; `None` if it has to boot.
    async fn saved(&self, user_data: Option<&UserData>, options: &MachineOptions) -> Option<State> {
        let store = self.settings.warm.as_ref()?;
        let request = self.request(user_data.cloned(), options.clone());
        let rendered = |address: &str| {
            let variables = Variables { public_ipv4: address.into(), private_ipv4: address.into() };
            // What cannot be rendered is told by the launch.
            (request.render)(&variables).ok().map(|conf| conf.text().to_owned())
        };
        let (one, other) = (rendered("192.0.2.1")?, rendered("192.0.2.2")?);
        let why = if let Err(e) = self.flight.warm() {
            chain(&e)
        } else if request.survive {
            "they are to outlive this process".to_owned()
        } else if !options.disks.is_empty() {
            "those with more disks than one have no saved state".to_owned()
        } else if self.settings.no_ssh_key_in_user_data {
            "without the flight's key in its userdata no machine can be renewed".to_owned()
        } else if one != other {
            "userdata that names the machine's address fits no other machine".to_owned()
        } else {
            let guest = &self.settings.guest;
            let kind = Kind {
                userdata: one,
                memory_mib: options.memory_mib,
                cpus: options.cpus,
                no_enable_selinux: guest.no_enable_selinux,
                allow_failed_units: guest.allow_failed_units,
            };
            return store.state(kind, Boot { request, login: self.login(), settings: guest.clone() }).await;
        };
        store.tell(&why);
        None
    }

    fn login(&self) -> ssh::Login {
        ssh::Login::key(self.settings.guest.distribution.user, self.settings.key.clone())
    }

    fn request(&self, user_data: Option<UserData>, options: MachineOptions) -> LaunchRequest {
        let default = self.settings.guest.distribution.ignition;
        let mut additions = self.settings.additions.clone();
        additions.units.extend(self.flight.units());
        if !self.settings.no_ssh_key_in_user_data {
            additions.keys.push(self.settings.key.authorized().to_owned());
        }
        LaunchRequest {
            cluster: self.name.clone(),
            cancel: self.closing.clone(),
            render: Arc::new(move |v| {
                crate::conf::render(user_data.as_ref(), default, &v.public_ipv4, &v.private_ipv4, &additions)
                    .during(|| "cannot render userdata")
            }),
            options,
            output_dir: self.settings.output_dir.clone(),
            survive: self.settings.survive,
            no_ssh_key_in_metadata: self.settings.no_ssh_key_in_metadata,
        }
    }

    async fn launch(
        &self,
        user_data: Option<UserData>,
        options: MachineOptions,
        state: Option<State>,
    ) -> Result<Arc<Guest>> {
        let request = self.request(user_data, options);
        let woken = state.is_some();
        let machine = match state {
            Some(state) => self.flight.warm()?.wake(&state, request).await.map_err(Error::of_launch)?,
            None => self.flight.launch(request).await.map_err(Error::of_launch)?,
        };
        let dir = self.settings.output_dir.join(machine.id());
        match Guest::new(machine.clone(), &dir, self.login(), self.settings.guest.clone()) {
            Ok(guest) => {
                let guest = Arc::new(if woken { guest.woken() } else { guest });
                lock(&self.guests).push(guest.clone());
                self.changed.send_replace(());
                Ok(guest)
            }
            Err(e) => {
                self.keep(&end(&*machine, &dir).await.left);
                Err(e)
            }
        }
    }

    /// Starts `count` machines at once with the same userdata and wishes; on the first error those that came up are
    /// destroyed.
    ///
    /// # Errors
    /// The first failure.
    pub async fn new_machines(
        self: &Arc<Self>,
        user_data: Option<&UserData>,
        options: &MachineOptions,
        count: usize,
    ) -> Result<Vec<Arc<Guest>>> {
        let starts = (0..count).map(|_| self.new_machine(user_data.cloned(), options.clone()));
        match futures_util::future::try_join_all(starts).await {
            Ok(guests) => Ok(guests),
            Err(e) => {
                for guest in self.guests() {
                    self.remove(&guest).await;
                }
                Err(e)
            }
        }
    }

    /// Destroys one guest and keeps what it said.
    ///
    /// Dropping the returned future loses nothing, as with [`Deployment::new_machine`].
    pub async fn remove(self: &Arc<Self>, guest: &Arc<Guest>) {
        let ours = {
            let mut guests = lock(&self.guests);
            let before = guests.len();
            guests.retain(|g| !Arc::ptr_eq(g, guest));
            guests.len() < before
        };
        if !ours {
            return;
        }
        self.changed.send_replace(());
        let (this, guest) = (self.clone(), guest.clone());
        let removal = self.under_way.spawn(async move {
            let evidence = guest.destroy().await;
            this.keep(&evidence.left);
            lock(&this.evidence).push(evidence);
        });
        if let Err(e) = removal.await {
            crate::error!("platform", "the removal of a machine failed: {e}");
        }
    }

    /// Sees to it that what is left is on record and said.
    fn keep(&self, left: &[Leftover]) {
        for leftover in left {
            crate::error!("platform", "{leftover}");
            self.settings.ledger.keep(leftover);
        }
    }

    /// Destroys all guests, side by side; returns what all its machines said, and what is left of them.
    pub async fn destroy(self: &Arc<Self>) -> Vec<Evidence> {
        self.closed.store(true, Ordering::SeqCst);
        self.closing.cancel();
        self.under_way.close();
        if tokio::time::timeout(DESTROY, self.under_way.wait()).await.is_err() {
            crate::error!(
                "platform",
                "the creation or removal of a machine has not ended after {} s",
                DESTROY.as_secs()
            );
        }
        let guests = self.guests();
        futures_util::future::join_all(guests.iter().map(|g| self.remove(g))).await;
        std::mem::take(&mut *lock(&self.evidence))
    }
}

impl Deployment {
    /// Lets go of everything without ending it: machines started with `survive` run on after this process.
    pub async fn leave(&self) {
        self.under_way.close();
        self.under_way.wait().await;
        for guest in self.guests() {
            guest.leave().await;
            // A dropped machine is destroyed; a forgotten one is not.
            std::mem::forget(guest);
        }
    }
}

fn lock<T>(place: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    place.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
