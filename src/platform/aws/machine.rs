//! One instance: its order.

use tokio_util::sync::CancellationToken;

use super::network::Network;
use super::{Aws, LAUNCH};
use crate::cloud::aws::MARK;
use crate::cloud::aws::api::{self, RunInstance};
use crate::platform::cloud::Order;
use crate::platform::{Error, Result};
use crate::poll::{self, Answer, Poll};
use crate::text::chain;

/// How long EC2 may not know an instance profile that IAM has, or what it made itself.
const VISIBLE: Poll = Poll::seconds(5, 25);
const RUNNING: &str = "error running instances";

/// Orders the instance: in the first subnet whose zone has room, as soon as EC2 knows the instance profile.
pub(super) async fn run(aws: &Aws, network: &Network, order: &Order<'_>) -> Result<String> {
    let mut wanted = RunInstance {
        image: aws.image.clone(),
        instance_type: aws.instance_type.clone(),
        key_name: order.key.map(|_| order.flight.to_owned()),
        security_group: network.group.clone(),
        subnet: String::new(),
        user_data: order.user_data.as_bytes().to_vec(),
        profile: Some(aws.profile.clone()).filter(|p| !p.is_empty()),
        tags: vec![
            ("Name".into(), order.cluster.to_owned()),
            (MARK.0.into(), MARK.1.into()),
            (LAUNCH.into(), order.token.to_owned()),
        ],
        client_token: order.token.to_owned(),
    };
    let mut full = None;
    for (i, subnet) in network.subnets.iter().enumerate() {
        wanted.subnet.clone_from(subnet);
        if i > 0 {
            // Orders that differ must not have the same token.
            wanted.client_token = uuid::Uuid::new_v4().to_string();
        }
        match visible(aws, &wanted, order.cancel).await {
            Ok(id) => return Ok(id),
            Err(poll::Error::Failed(e)) if has_no_room(&e) => {
                crate::info!("aws", "no room in {subnet}: {}", chain(&e));
                full = Some(e);
            }
            Err(poll::Error::Failed(source)) => return Err(Error::Call { what: RUNNING.into(), source }),
            Err(poll::Error::Cancelled) => return Err(Error::Cancelled),
            Err(late) => return Err(Error::new(format!("{RUNNING}: {late}"))),
        }
    }
    match full {
        Some(source) => Err(Error::Call { what: RUNNING.into(), source }),
        None => Err(Error::new(format!("{RUNNING}: there is no subnet"))),
    }
}

async fn visible(
    aws: &Aws,
    order: &RunInstance,
    cancel: &CancellationToken,
) -> Result<String, poll::Error<api::Error>> {
    let ask = || async {
        match aws.api.run_instance(order).await {
            Ok(instance) => Ok(Answer::Ready(instance.id)),
            Err(e) if is_not_visible(&e) => Ok(Answer::NotYet(e.to_string())),
            Err(e) => Err(e),
        }
    };
    VISIBLE.until("instance profile and network known to EC2", cancel, ask).await
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
