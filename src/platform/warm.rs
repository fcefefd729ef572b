//! Machines in a blink: of each kind one boots, and the others go on from its state.
//!
//! Machines are of one kind if nothing tells them apart but what is [renewed](super::guest::Guest::woken) when they
//! wake. Who asks while the state of a kind is still being made gets none, and boots: waiting would take as long.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::guest::{Guest, RESEEDER, Settings};
use super::{Error, Flight, LaunchRequest, Result, ResultExt, State, end};
use crate::ssh;
use crate::text::chain;

/// All that machines of one kind have in common, besides what a flight's all have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// As it is given to the machines.
    pub userdata: String,
    /// In MiB, if it is not the usual one.
    pub memory_mib: Option<u32>,
    /// Virtual CPUs, if not the usual number.
    pub cpus: Option<u32>,
    /// SELinux is left as it is.
    pub no_enable_selinux: bool,
    /// Units may fail while it boots.
    pub allow_failed_units: bool,
}

enum Slot {
    Making,
    Ready(State),
    /// It has failed once.
    None,
}

/// The states of a flight.
pub struct Store {
    flight: Arc<dyn Flight>,
    /// Takes the folders of the machines that boot.
    folder: PathBuf,
    slots: Mutex<HashMap<Kind, Slot>>,
    made: AtomicUsize,
    /// Reasons that were told.
    told: Mutex<HashSet<String>>,
    under_way: TaskTracker,
    closing: CancellationToken,
}

/// A program for x86-64 that has the kernel make new random numbers of all that was written to `/dev/urandom`
/// (`RNDRESEEDCRNG`, random(4)): by itself it does so now and then only, and until then two copies of a machine get the
/// same. The source is in `reseed.s`; no guest has a program for it, and few have an interpreter.
#[rustfmt::skip]
const RESEED: [u8; 177] = [
    0x7f, 0x45, 0x4c, 0x46, 0x02, 0x01, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x02, 0x00, 0x3e, 0x00, 0x01, 0x00, 0x00, 0x00, 0x78, 0x00, 0x40, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x40, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x40, 0x00, 0x38, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x01, 0x00, 0x00, 0x00, 0x05, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x40, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x40, 0x00, 0x00, 0x00, 0x00, 0x00,
    0xb1, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xb1, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xb8, 0x02, 0x00, 0x00, 0x00, 0x48, 0x8d, 0x3d,
    0x20, 0x00, 0x00, 0x00, 0xbe, 0x01, 0x00, 0x00, 0x00, 0x0f, 0x05, 0x89, 0xc7, 0xb8, 0x10, 0x00,
    0x00, 0x00, 0xbe, 0x07, 0x52, 0x00, 0x00, 0x31, 0xd2, 0x0f, 0x05, 0x89, 0xc7, 0xb8, 0x3c, 0x00,
    0x00, 0x00, 0x0f, 0x05, 0x2f, 0x64, 0x65, 0x76, 0x2f, 0x75, 0x72, 0x61, 0x6e, 0x64, 0x6f, 0x6d,
    0x00,
];

/// How a machine is booted whose state is to be saved.
pub struct Boot {
    /// The order; its folder is chosen here.
    pub request: LaunchRequest,
    /// How it is logged in to.
    pub login: ssh::Login,
    /// What it must be.
    pub settings: Settings,
}

impl Store {
    /// An empty store.
    pub fn new(flight: Arc<dyn Flight>, folder: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            flight,
            folder,
            slots: Mutex::default(),
            made: AtomicUsize::new(0),
            told: Mutex::default(),
            under_way: TaskTracker::new(),
            closing: CancellationToken::new(),
        })
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Kind, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state of a kind; made by a machine that boots so, if nobody has asked before. `None` if there is none, or not
    /// yet: the machine has to boot.
    pub async fn state(self: &Arc<Self>, kind: Kind, boot: Boot) -> Option<State> {
        {
            let mut slots = self.slots();
            match slots.get(&kind) {
                Some(Slot::Ready(state)) => return Some(state.clone()),
                Some(Slot::Making | Slot::None) => return None,
                None => slots.insert(kind.clone(), Slot::Making),
            };
        }
        let this = self.clone();
        let made = self.under_way.spawn(async move {
            let made = this.make(boot).await;
            let (slot, state) = match made {
                Ok(state) => (Slot::Ready(state.clone()), Some(state)),
                Err(e) => {
                    this.tell(&chain(&e));
                    (Slot::None, None)
                }
            };
            this.slots().insert(kind, slot);
            state
        });
        made.await.ok().flatten()
    }

    /// Boots a machine, and saves its state.
    async fn make(&self, boot: Boot) -> Result<State> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder.join(number.to_string());
        std::fs::create_dir_all(&folder).during(|| format!("cannot create {}", folder.display()))?;
        let warm = self.flight.warm()?;
        let request =
            LaunchRequest { output_dir: folder.clone(), cancel: self.closing.clone(), ..boot.request };
        let machine = warm.launch_to_save(request).await?;
        let dir = folder.join(machine.id());
        let save = async {
            let guest = Guest::new(machine.clone(), &dir, boot.login, boot.settings)?;
            guest.start().await?;
            let program = ssh::install_file(guest.client(), RESEED.to_vec(), RESEEDER, 0o755).await;
            let prepared = match program {
                Ok(()) => guest.ssh(&format!("sudo {RESEEDER} && sync")).await.map(drop),
                Err(e) => Err(e),
            };
            prepared.during(|| "the guest cannot be made to have random numbers of its own")?;
            guest.leave().await;
            machine.save().await
        };
        let saved = self.closing.run_until_cancelled(save).await.unwrap_or(Err(Error::Cancelled));
        for leftover in end(&*machine, &dir).await.left {
            crate::error!("platform", "{leftover}");
        }
        if matches!(saved, Ok(_) | Err(Error::Cancelled)) {
            // What it said is in the state, or of no interest; what failed is for people to look at.
            let _ = std::fs::remove_dir_all(&folder);
            let _ = std::fs::remove_dir(&self.folder);
        }
        saved
    }

    /// Says why machines boot, each reason once.
    pub fn tell(&self, why: &str) {
        if self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(why.to_owned()) {
            crate::notice!("platform", "machines boot: {why}");
        }
    }

    /// Ends what is under way, and forgets all states.
    pub async fn close(&self) {
        self.closing.cancel();
        self.under_way.close();
        self.under_way.wait().await;
        self.slots().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_program_asks_the_kernel() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reseed");
        std::fs::write(&path, RESEED).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let status = std::process::Command::new(&path).status().unwrap();
        // Only root may; others are told so.
        let expected = if nix::unistd::geteuid().is_root() { 0 } else { 255 };
        assert_eq!(status.code(), Some(expected));
    }
}
