//! Machines in clouds: the one driver for all of them.
//!
//! A cloud is a [`Provider`]: a handful of questions and orders. What must hold whatever the provider is here, once:
//! a ledger line before anything is made and struck after it is gone; orders whose answers were lost; the wait until a
//! machine has its addresses, with the last state in the error; what is shared, made once a flight; a console put
//! together from what the provider shows of it; the end, by id or, where none is known, by the token of the order.

mod console;
mod machine;
pub(super) mod released;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use self::machine::{Look, end_by_token};
use super::{Flight, FlightBase, LaunchRequest, Machine, Result, ResultExt, Variables};
use crate::conf::Unit;
use crate::http::CallError;
use crate::ledger::{self, Clean, Failure, Ledger, Leftover, Resource};
use crate::poll::Poll;
use crate::ssh;
use crate::text::chain;

/// A machine as its provider sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not to be seen: not yet, or no longer.
    Missing,
    /// On its way: in this state.
    Pending(String),
    /// Running, with its addresses: opaque text, with `:port` where sshd is not at 22.
    Running {
        /// Where it is reached from here.
        address: String,
        /// Its address among machines of the cluster.
        private_ip: String,
    },
    /// It will not run: why.
    Ended(String),
}

/// What a machine is ordered with.
pub struct Order<'a> {
    /// Unique: the machine must carry it, so that it is found should the answer be lost.
    pub token: &'a str,
    /// The cluster's unique name.
    pub cluster: &'a str,
    /// The flight's unique name, which is that of what [`Provider::open`] made.
    pub flight: &'a str,
    /// The public key for the provider's metadata, as authorized_keys(5) has it; `None`: none shall be there.
    pub key: Option<&'a str>,
    /// Userdata; may be empty.
    pub user_data: &'a str,
    /// Cancelled when nobody waits for the machine any more.
    pub cancel: &'a CancellationToken,
}

/// Until when a provider shows a machine's console.
#[derive(Clone, Copy, Debug)]
pub enum Console {
    /// There is none.
    None,
    /// Until the machine's end.
    WhileRunning,
    /// After the end too: so long and so often it is asked whether the last words are there.
    AfterEnd(Poll),
}

/// What differs from provider to provider.
#[derive(Clone, Copy, Debug)]
pub struct Traits {
    /// The platform's name in the registry.
    pub platform: &'static str,
    /// What the service is called in messages.
    pub service: &'static str,
    /// Kind of the ledger's entries for machines.
    pub machine: &'static str,
    /// Kind of the ledger's entry for what a flight owns as long as it lives, by its name; see [`Provider::open`].
    pub flight: Option<&'static str>,
    /// Length of userdata that the service takes, in bytes before encoding.
    pub user_data: usize,
    /// Shell variables of the guest's metadata service with its addresses.
    pub variables: (&'static str, &'static str),
    /// How often and how long it is asked whether an ordered machine runs.
    pub running: Poll,
    /// How long the service may not show a machine whose order it has taken.
    pub shown: Poll,
    /// Its consoles.
    pub console: Console,
    /// Features of the guest that the platform cannot offer, each with the reason.
    pub lacking: &'static [(&'static str, &'static str)],
}

/// A cloud, as far as its machines need it.
///
/// Calls are repeated by the provider's own API where that does no harm; deletions succeed when there is nothing to
/// delete; errors tell whether the call was executed ([`CallError::is_certain`]).
#[async_trait]
pub trait Provider: Send + Sync + Sized + 'static {
    /// What differs.
    const TRAITS: Traits;
    /// What machines share and the provider keeps, such as a network.
    type Shared: Send + Sync;

    /// Region, project or the like: what else names a resource in the ledger.
    fn place(&self) -> &str;

    /// Values for properties.json that are known by now.
    fn properties(&self) -> serde_json::Map<String, serde_json::Value>;

    /// The name of what a flight of this unique name owns as long as it lives, where it is not the same; `open` and
    /// `close` get it.
    fn owned(&self, flight: &str) -> String {
        flight.to_owned()
    }

    /// Makes what a flight owns as long as it lives, such as a key pair of this name; called if
    /// [`Traits::flight`] names its kind.
    async fn open(&self, name: &str, key: &str) -> Result<(), CallError> {
        let _ = (name, key);
        Ok(())
    }

    /// Removes what [`Provider::open`] made.
    async fn close(&self, name: &str) -> Result<(), CallError> {
        let _ = name;
        Ok(())
    }

    /// Units that machines need besides what their userdata say.
    fn units(&self) -> Vec<Unit> {
        Vec::new()
    }

    /// The end of the flight: nothing more will be asked.
    async fn leave(&self) {}

    /// Finds or makes what machines share; called once, by the first of them.
    ///
    /// # Errors
    /// What could not be found or made; then nothing is left of it, or `ledger` names it.
    async fn prepare(&self, ledger: &Ledger, cancel: &CancellationToken) -> Result<Self::Shared>;

    /// Orders one machine, marked as mantle's and with the token; returns its id.
    ///
    /// # Errors
    /// [`super::Error::Call`] where the service refused: it tells whether a machine may have been made.
    async fn order(&self, shared: &Self::Shared, order: &Order<'_>) -> Result<String>;

    /// Looks at a machine.
    async fn state(&self, id: &str) -> Result<State, CallError>;

    /// The ids of machines that an order with this token made and that are not on their way out.
    async fn find(&self, token: &str) -> Result<Vec<String>, CallError>;

    /// Ends a machine and all that goes with it.
    async fn end(&self, id: &str) -> Result<(), CallError>;

    /// What the service shows of a machine's console; `None` if it shows nothing.
    async fn console(&self, id: &str) -> Result<Option<Vec<u8>>, CallError> {
        let _ = id;
        Ok(None)
    }

    /// Whether [`Provider::console`] shows what was said up to now, not what was said some time ago.
    fn console_is_live(&self) -> bool {
        true
    }

    /// How machines are reached from here.
    fn dialer(&self) -> Arc<dyn ssh::Dial> {
        Arc::new(ssh::Direct)
    }

    /// The command with which a person ends the machine.
    fn stop_command(&self, id: &str) -> String;

    /// The same account in another place.
    ///
    /// # Errors
    /// When there is no such place.
    fn in_place(&self, place: &str) -> Result<Self, CallError>;

    /// Removes something else that the ledger names; `false`: there is no such kind.
    async fn remove(&self, kind: &str, id: &str) -> Result<bool, CallError> {
        let _ = (kind, id);
        Ok(false)
    }
}

fn resource<P: Provider>(provider: &P, kind: &str, id: &str) -> Resource {
    Resource {
        kind: kind.into(),
        id: id.into(),
        platform: P::TRAITS.platform.into(),
        place: provider.place().into(),
    }
}

/// What all machines of a flight share.
struct Shared<P: Provider> {
    provider: P,
    name: String,
    key: Arc<ssh::Key>,
    /// Whose account on the guests.
    user: &'static str,
    cancel: CancellationToken,
    ledger: Arc<Ledger>,
    prepared: OnceCell<P::Shared>,
}

impl<P: Provider> Shared<P> {
    /// What machines share, found or made by the first of them.
    async fn prepared(&self) -> Result<&P::Shared> {
        self.prepared.get_or_try_init(|| self.provider.prepare(&self.ledger, &self.cancel)).await
    }
}

/// A flight at a provider.
pub struct CloudFlight<P: Provider> {
    shared: Arc<Shared<P>>,
    owned: Option<Resource>,
}

impl<P: Provider> CloudFlight<P> {
    /// Makes what the flight owns, once it is known with what: `provider` signs in and looks things up, makes nothing,
    /// and is given up when the run is interrupted.
    ///
    /// # Errors
    /// Those of `provider`; when something cannot be made: then nothing is left of it, or the ledger names it.
    pub async fn start(provider: impl Future<Output = Result<P>>, base: FlightBase) -> Result<Self> {
        let provider =
            base.cancel.run_until_cancelled(provider).await.unwrap_or(Err(super::Error::Cancelled))?;
        let name = base.unique_name();
        let owned = P::TRAITS.flight.map(|kind| resource(&provider, kind, &provider.owned(&name)));
        if let Some(owned) = &owned {
            base.ledger.create(owned).during(|| format!("cannot record {owned}"))?;
            if let Err(e) = provider.open(&owned.id, base.key.authorized()).await {
                // Nothing was made, for certain; else it may be there.
                let gone = if e.is_certain() { Ok(()) } else { provider.close(&owned.id).await };
                match gone {
                    Ok(()) => base.ledger.delete(owned),
                    Err(e) => {
                        base.ledger.keep(&Leftover { resource: owned.clone(), why: chain(&e) });
                    }
                }
                return Err(super::Error::Call { what: format!("cannot make {owned}"), source: e });
            }
        }
        let shared = Shared {
            provider,
            name,
            key: base.key,
            user: base.target.distribution.user,
            cancel: base.cancel,
            ledger: base.ledger,
            prepared: OnceCell::new(),
        };
        Ok(Self { shared: Arc::new(shared), owned })
    }
}

#[async_trait]
impl<P: Provider> Flight for CloudFlight<P> {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn platform(&self) -> &'static str {
        P::TRAITS.platform
    }

    fn lacking(&self) -> &'static [(&'static str, &'static str)] {
        P::TRAITS.lacking
    }

    fn properties(&self) -> serde_json::Map<String, serde_json::Value> {
        self.shared.provider.properties()
    }

    fn units(&self) -> Vec<Unit> {
        self.shared.provider.units()
    }

    async fn launch(&self, request: LaunchRequest) -> Result<Arc<dyn Machine>> {
        machine::launch(&self.shared, request).await
    }

    async fn destroy(&self) -> Vec<Leftover> {
        let mut left = Vec::new();
        if let Some(owned) = &self.owned {
            match self.shared.provider.close(&owned.id).await {
                Ok(()) => self.shared.ledger.delete(owned),
                Err(e) => left.push(Leftover { resource: owned.clone(), why: chain(&e) }),
            }
        }
        self.shared.provider.leave().await;
        left
    }
}

fn variables<P: Provider>() -> Variables {
    let (public, private) = P::TRAITS.variables;
    Variables { public_ipv4: public.into(), private_ipv4: private.into() }
}

/// Removes what a run left at a provider, in whatever place it is, and what it left on this machine.
pub struct Leftovers<P: Provider>(P);

impl<P: Provider> Leftovers<P> {
    /// With this account.
    pub fn new(provider: P) -> Self {
        Self(provider)
    }
}

#[async_trait]
impl<P: Provider> Clean for Leftovers<P> {
    async fn remove(&self, resource: &Resource) -> Result<(), Failure> {
        if resource.is_local() {
            return ledger::Local.remove(resource).await;
        }
        let elsewhere;
        let provider = match resource.place == self.0.place() {
            true => &self.0,
            false => {
                elsewhere = self.0.in_place(&resource.place)?;
                &elsewhere
            }
        };
        let kind = resource.kind.as_str();
        if Some(kind) == P::TRAITS.flight {
            provider.close(&resource.id).await?;
        } else if kind == P::TRAITS.machine {
            end_by_token(provider, &resource.id, Look::Often).await?;
        } else if !provider.remove(kind, &resource.id).await? {
            return Err(format!("this version of mantle does not know what a {kind} is").into());
        }
        Ok(())
    }
}
