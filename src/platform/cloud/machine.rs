//! One machine, from its order to its end.

use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::console::Recorder;
use super::{Console, Order, Provider, Shared, State, resource, variables};
use crate::http::CallError;
use crate::ledger::{Leftover, Resource};
use crate::platform::{Error, LaunchRequest, Machine, Result, ResultExt, keep_user_data};
use crate::poll::{self, Answer};
use crate::ssh;
use crate::text::chain;

/// Orders a machine and waits until it has its addresses.
pub(super) async fn launch<P: Provider>(
    shared: &Arc<Shared<P>>,
    request: LaunchRequest,
) -> Result<Arc<dyn Machine>> {
    let traits = P::TRAITS;
    if !request.options.disks.is_empty() {
        return Err(Error::Unsupported { platform: traits.platform, what: "additional disks" });
    }
    let conf = (request.render)(&variables::<P>())?;
    let user_data = if conf.is_empty() { "" } else { conf.text() };
    if user_data.len() > traits.user_data {
        let text = format!(
            "the userdata has {} bytes, {} takes {}",
            user_data.len(),
            traits.service,
            traits.user_data
        );
        return Err(Error::new(text));
    }
    let prepared = shared.prepared().await?;
    if request.cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    let token = uuid::Uuid::new_v4().to_string();
    let record = resource(&shared.provider, traits.machine, &token);
    let order = Order {
        token: &token,
        cluster: &request.cluster,
        flight: &shared.name,
        key: (!request.no_ssh_key_in_metadata).then(|| shared.key.authorized()),
        user_data,
        cancel: &request.cancel,
    };
    shared.ledger.create(&record).during(|| format!("cannot record {record}"))?;
    let mut made = None;
    let started = async {
        let id = made.insert(shared.provider.order(prepared, &order).await?).clone();
        let (address, private_ip) = running(&shared.provider, &request.cancel, &id).await?;
        let dir = request.output_dir.join(&id);
        let make = std::fs::DirBuilder::new().recursive(true).mode(0o777).create(&dir);
        make.during(|| format!("cannot create {}", dir.display()))?;
        keep_user_data(&dir, "user-data", user_data)?;
        Ok::<_, Error>((id, address, private_ip))
    };
    let error = match started.await {
        Ok((id, address, private_ip)) => {
            crate::info!(traits.platform, "machine {id} is at {address}");
            let console = Recorder::new(id.clone());
            let shared = shared.clone();
            return Ok(Arc::new(CloudMachine { id, address, private_ip, console, record, shared }));
        }
        Err(e) => e,
    };
    let ended = match made {
        Some(id) => shared.provider.end(&id).await,
        None => {
            let look = if error.is_certain() { Look::Once } else { Look::Often };
            end_by_token(&shared.provider, &token, look).await
        }
    };
    match ended {
        Ok(()) => shared.ledger.delete(&record),
        Err(e) => {
            let leftover = Leftover { resource: record, why: chain(&e) };
            crate::error!(traits.platform, "{leftover}");
            shared.ledger.keep(&leftover);
        }
    }
    Err(error)
}

/// Waits until the machine runs and has its addresses.
async fn running<P: Provider>(
    provider: &P,
    cancel: &CancellationToken,
    id: &str,
) -> Result<(String, String)> {
    let machine = P::TRAITS.machine;
    let ask = || async {
        let state = provider.state(id).await;
        match state
            .map_err(|source| Error::Call { what: format!("cannot look at {machine} {id}"), source })?
        {
            State::Running { address, private_ip } => Ok(Answer::Ready((address, private_ip))),
            State::Pending(state) => Ok(Answer::NotYet(state)),
            State::Missing => Ok(Answer::NotYet("not there".into())),
            State::Ended(why) => Err(Error::new(format!("{machine} {id} has ended: {why}"))),
        }
    };
    match P::TRAITS.running.until(format!("{machine} {id} running"), cancel, ask).await {
        Err(poll::Error::Cancelled) => Err(Error::Cancelled),
        other => other.during(|| format!("waiting for {machine} {id} to run")),
    }
}

/// How hard to look for a machine that may never have been made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// The order was refused for certain.
    Once,
    /// Its answer was lost, or the process died: the service may not show yet what it made.
    Often,
}

/// Ends the machines of an order, if there are any.
pub(super) async fn end_by_token<P: Provider>(
    provider: &P,
    token: &str,
    look: Look,
) -> Result<(), CallError> {
    let ask = || async {
        let found = provider.find(token).await?;
        let empty = found.is_empty() && look == Look::Often;
        Ok::<_, CallError>(if empty { Answer::NotYet("none".into()) } else { Answer::Ready(found) })
    };
    // Clean-up: the run's end does not end it.
    let found = match P::TRAITS.shown.until("a machine", &CancellationToken::new(), ask).await {
        Ok(found) => found,
        Err(poll::Error::Failed(e)) => return Err(e),
        Err(poll::Error::TimedOut { .. } | poll::Error::Cancelled) => Vec::new(),
    };
    for id in found {
        provider.end(&id).await?;
    }
    Ok(())
}

/// How often the console of a machine that is up is asked for. Accounts have limits on such calls, which all machines
/// of all runs share: EC2's are shared with the calls that runs cannot do without.
const CONSOLE_PACE: Duration = Duration::from_secs(30);

struct CloudMachine<P: Provider> {
    id: String,
    address: String,
    private_ip: String,
    console: Recorder,
    record: Resource,
    shared: Arc<Shared<P>>,
}

#[async_trait]
impl<P: Provider> Machine for CloudMachine<P> {
    fn id(&self) -> &str {
        &self.id
    }

    fn address(&self) -> String {
        self.address.clone()
    }

    fn private_ip(&self) -> String {
        self.private_ip.clone()
    }

    fn dialer(&self) -> Arc<dyn ssh::Dial> {
        self.shared.provider.dialer()
    }

    async fn console(&self) -> Option<Vec<u8>> {
        self.console.text(&self.shared.provider).await
    }

    fn console_pace(&self) -> Option<Duration> {
        match P::TRAITS.console {
            Console::None => None,
            // What was said some time ago changes at the machine's start and end only.
            _ if !self.shared.provider.console_is_live() => None,
            _ => Some(CONSOLE_PACE.mul_f64(poll::scale())),
        }
    }

    async fn console_now(&self) -> Option<Vec<u8>> {
        self.console.text_now(&self.shared.provider).await
    }

    async fn last_words(&self) -> Option<Vec<u8>> {
        self.console.last_words(&self.shared.provider).await
    }

    fn hints(&self) -> Vec<String> {
        let user = self.shared.user;
        let shell = match self.address.split_once(':') {
            Some((host, port)) if !port.contains(':') => format!("ssh -p {port} {user}@{host}"),
            _ => format!("ssh {user}@{}", self.address),
        };
        vec![format!("shell: {shell}"), format!("stop: {}", self.shared.provider.stop_command(&self.id))]
    }

    fn resource(&self) -> Resource {
        self.record.clone()
    }

    async fn destroy(&self) -> Vec<Leftover> {
        match self.shared.provider.end(&self.id).await {
            Ok(()) => {
                self.shared.ledger.delete(&self.record);
                Vec::new()
            }
            Err(e) => vec![Leftover { resource: self.record.clone(), why: chain(&e) }],
        }
    }
}
