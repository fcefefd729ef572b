//! One instance, from RunInstances to TerminateInstances.

use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::super::{Error, LaunchRequest, Machine, Result, ResultExt, Variables, keep_user_data};
use super::console::Console;
use super::{LAUNCH, NAME, Shared, dialer};
use crate::cloud::aws::MARK;
use crate::cloud::aws::api::{self, Api, Instance, RunInstance};
use crate::ledger::{Leftover, Resource};
use crate::poll::{self, Answer, Poll};
use crate::ssh;
use crate::text::chain;

/// Kind of a ledger entry: an instance, by the value of its tag [`LAUNCH`].
pub(super) const KIND: &str = "instance";

/// What EC2 takes, before encoding.
const MAX_USER_DATA: usize = 16 << 10;
const RUNNING: Poll = Poll::seconds(10, 600);
/// How long EC2 may not know an instance profile that IAM has, or what it made itself.
const VISIBLE: Poll = Poll::seconds(5, 25);

/// Shell variables of Container Linux's metadata service.
fn variables() -> Variables {
    Variables {
        public_ipv4: "${COREOS_EC2_IPV4_PUBLIC}".into(),
        private_ipv4: "${COREOS_EC2_IPV4_LOCAL}".into(),
    }
}

/// Starts an instance and waits until it has its addresses.
pub(super) async fn launch(shared: &Arc<Shared>, request: LaunchRequest) -> Result<Arc<dyn Machine>> {
    let cancel = &request.cancel;
    if !request.options.disks.is_empty() {
        return Err(Error::Unsupported { platform: NAME, what: "additional disks" });
    }
    let conf = (request.render)(&variables())?;
    let user_data = if conf.is_empty() { "" } else { conf.text() };
    if user_data.len() > MAX_USER_DATA {
        return Err(Error::new(format!(
            "the userdata has {} bytes, EC2 takes {MAX_USER_DATA}",
            user_data.len()
        )));
    }
    let network = shared.prepared().await?;
    if cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    let token = uuid::Uuid::new_v4().to_string();
    let record = Resource {
        kind: KIND.into(),
        id: token.clone(),
        platform: NAME.into(),
        place: shared.api.region().to_owned(),
    };
    let order = RunInstance {
        image: shared.image.clone(),
        instance_type: shared.instance_type.clone(),
        key_name: (!request.no_ssh_key_in_metadata).then(|| shared.name.clone()),
        security_group: network.group.clone(),
        subnet: String::new(),
        user_data: user_data.as_bytes().to_vec(),
        profile: Some(shared.profile.clone()).filter(|p| !p.is_empty()),
        tags: vec![
            ("Name".into(), request.cluster.clone()),
            (MARK.0.into(), MARK.1.into()),
            (LAUNCH.into(), token.clone()),
        ],
        client_token: token,
    };
    shared.ledger.create(&record).during(|| "cannot record an instance")?;
    let mut made = None;
    let started = async {
        let id = made.insert(run(shared, cancel, order, &network.subnets).await?.id);
        let running = running(shared, cancel, id).await?;
        let dir = request.output_dir.join(&running.id);
        let make = std::fs::DirBuilder::new().recursive(true).mode(0o777).create(&dir);
        make.during(|| format!("cannot create {}", dir.display()))?;
        keep_user_data(&dir, "user-data", user_data)?;
        Ok::<_, Error>(running)
    };
    let error = match started.await {
        Ok(instance) => {
            crate::info!("platform/aws", "machine {} is at {}", instance.id, address(&instance));
            let console = Console::new(shared.api.clone(), instance.id.clone(), shared.latest.clone());
            return Ok(Arc::new(AwsMachine { instance, console, record, shared: shared.clone() }));
        }
        Err(e) => e,
    };
    let ended = match made {
        Some(id) => terminate(&shared.api, &id).await,
        None => end(&shared.api, &record.id, if is_certain(&error) { Look::Once } else { Look::Often }).await,
    };
    match ended {
        Ok(()) => shared.ledger.delete(&record),
        Err(e) => shared.ledger.keep(&Leftover { resource: record, why: chain(&e) }),
    }
    Err(error)
}

/// Whether no instance was made, as far as the error of the order tells.
fn is_certain(error: &Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = cause {
        if let Some(e) = e.downcast_ref::<api::Error>() {
            return e.is_certain();
        }
        cause = e.source();
    }
    false
}

/// Orders the instance: in the first subnet whose zone has room, as soon as EC2 knows the instance profile.
async fn run(
    shared: &Shared,
    cancel: &CancellationToken,
    mut order: RunInstance,
    subnets: &[String],
) -> Result<Instance> {
    let mut full = None;
    for (i, subnet) in subnets.iter().enumerate() {
        order.subnet.clone_from(subnet);
        if i > 0 {
            // Orders that differ must not have the same token.
            order.client_token = uuid::Uuid::new_v4().to_string();
        }
        let ask = || async {
            match shared.api.run_instance(&order).await {
                Ok(instance) => Ok(Answer::Ready(instance)),
                Err(e) if is_not_visible(&e) => Ok(Answer::NotYet(e.to_string())),
                Err(e) => Err(e),
            }
        };
        match VISIBLE.until("instance profile and network known to EC2", cancel, ask).await {
            Err(poll::Error::Failed(e)) if has_no_room(&e) => {
                crate::info!("platform/aws", "no room in {subnet}: {}", chain(&e));
                full = Some(e);
            }
            Err(poll::Error::Cancelled) => return Err(Error::Cancelled),
            other => return other.during(|| "error running instances"),
        }
    }
    match full {
        Some(e) => Err(e).during(|| "error running instances"),
        None => Err(Error::new("error running instances: there is no subnet")),
    }
}

/// Whether EC2 does not know yet what was made a moment ago: the instance profile, the network, the key.
fn is_not_visible(e: &api::Error) -> bool {
    let profile = e.is(&["InvalidParameterValue"])
        && e.message().is_some_and(|m| m.contains("iamInstanceProfile.name"));
    profile || e.is(&["InvalidGroup.NotFound", "InvalidSubnetID.NotFound", "InvalidKeyPair.NotFound"])
}

/// Whether another zone may take what this one refused.
fn has_no_room(e: &api::Error) -> bool {
    e.is(&["InsufficientInstanceCapacity", "Unsupported"])
}

/// Waits until the instance runs and has a public address.
async fn running(shared: &Shared, cancel: &CancellationToken, id: &str) -> Result<Instance> {
    let ask = || async {
        let found = match shared.api.instances(&[], &[id]).await {
            Err(e) if e.is(&["InvalidInstanceID.NotFound"]) => None,
            other => other.during(|| format!("describing {id}"))?.into_iter().next(),
        };
        let Some(instance) = found else { return Ok(Answer::NotYet("not there".into())) };
        match (instance.state.as_str(), &instance.public_ip) {
            ("running", Some(_)) => Ok(Answer::Ready(instance)),
            ("running", None) => Ok(Answer::NotYet("running, without public address".into())),
            ("terminated" | "shutting-down" | "stopped" | "stopping", _) => {
                let reason = instance.reason.as_deref().unwrap_or("no reason given");
                Err(Error::new(format!("instance {id} is {}: {reason}", instance.state)))
            }
            (state, _) => Ok(Answer::NotYet(state.to_owned())),
        }
    };
    match RUNNING.until(format!("instance {id} running"), cancel, ask).await {
        Err(poll::Error::Cancelled) => Err(Error::Cancelled),
        other => other.during(|| "waiting for instances to run"),
    }
}

/// How hard to look for an instance that may never have been made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// The order was refused, or its instance is known.
    Once,
    /// The process died with its order: EC2 may not show yet what it made.
    Often,
}

/// Ends the instance of a launch, if there is one.
///
/// # Errors
/// When it cannot be found out, or not be ended.
pub(super) async fn end(api: &Api, token: &str, look: Look) -> api::Result<()> {
    /// Time for EC2 to show what it has.
    const SHOWN: Poll = Poll::seconds(2, 10);
    let filter = format!("tag:{LAUNCH}");
    let by: &[api::Filter<'_>] = &[(&filter, &[token])];
    let ask = || async {
        let found = api.instances(by, &[]).await?;
        let empty = found.is_empty() && look == Look::Often;
        Ok::<_, api::Error>(if empty { Answer::NotYet("no instance".into()) } else { Answer::Ready(found) })
    };
    let found = match SHOWN.until("instance", &CancellationToken::new(), ask).await {
        Ok(found) => found,
        Err(poll::Error::Failed(e)) => return Err(e),
        Err(poll::Error::TimedOut { .. } | poll::Error::Cancelled) => Vec::new(),
    };
    for instance in found.iter().filter(|i| !matches!(i.state.as_str(), "terminated" | "shutting-down")) {
        terminate(api, &instance.id).await?;
    }
    Ok(())
}

async fn terminate(api: &Api, id: &str) -> api::Result<()> {
    match api.terminate(&[id]).await {
        Err(e) if !e.is_not_found() => Err(e),
        _ => Ok(()),
    }
}

fn address(instance: &Instance) -> String {
    instance.public_ip.clone().unwrap_or_default()
}

struct AwsMachine {
    instance: Instance,
    console: Console,
    record: Resource,
    shared: Arc<Shared>,
}

#[async_trait]
impl Machine for AwsMachine {
    fn id(&self) -> &str {
        &self.instance.id
    }

    fn address(&self) -> String {
        address(&self.instance)
    }

    fn private_ip(&self) -> String {
        self.instance.private_ip.clone().unwrap_or_default()
    }

    fn dialer(&self) -> Arc<dyn ssh::Dial> {
        dialer()
    }

    async fn console(&self) -> Option<Vec<u8>> {
        Some(self.console.text().await)
    }

    fn hints(&self) -> Vec<String> {
        let address = address(&self.instance);
        let shell = match address.split_once(':') {
            Some((host, port)) if !port.contains(':') => format!("ssh -p {port} core@{host}"),
            _ => format!("ssh core@{address}"),
        };
        let (region, id) = (self.shared.api.region(), &self.instance.id);
        vec![
            format!("shell: {shell}"),
            format!("stop: aws --region {region} ec2 terminate-instances --instance-ids {id}"),
        ]
    }

    async fn console_now(&self) -> Option<Vec<u8>> {
        self.console.before_end().await;
        Some(self.console.text().await)
    }

    async fn last_words(&self) -> Option<Vec<u8>> {
        Some(self.console.after_end().await)
    }

    fn resource(&self) -> Resource {
        self.record.clone()
    }

    async fn destroy(&self) -> Vec<Leftover> {
        match terminate(&self.shared.api, &self.instance.id).await {
            Ok(()) => {
                self.shared.ledger.delete(&self.record);
                Vec::new()
            }
            Err(e) => vec![Leftover { resource: self.record.clone(), why: chain(&e) }],
        }
    }
}
