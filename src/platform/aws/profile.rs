//! The instance profile that machines run with: a role that may read from S3. Made when missing, and kept.

use tokio_util::sync::CancellationToken;

use super::super::{Error, Result, ResultExt};
use crate::cloud::aws::api::{self, Api};
use crate::poll::{self, Answer, Poll};

const POLICY: &str = "AmazonS3ReadOnlyAccess";
const POLICY_TEXT: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:Get*","s3:List*"],"Resource":"*"}]}"#;
const READY: Poll = Poll::seconds(5, 30);

/// Who may take the role on: machines.
fn trust(partition: &str) -> String {
    let suffix = if partition == "aws-cn" { ".cn" } else { "" };
    format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"Service":"ec2.amazonaws.com{suffix}"}},"Action":"sts:AssumeRole"}}]}}"#
    )
}

/// Another run may do the same at the same time: what it made counts as made.
fn made(outcome: api::Result<()>) -> api::Result<()> {
    match outcome {
        Err(e) if !e.is(&["EntityAlreadyExists", "LimitExceeded"]) => Err(e),
        _ => Ok(()),
    }
}

/// Makes sure that there is an instance profile of this name, with its role.
///
/// # Errors
/// What could not be looked up or made.
pub(super) async fn ensure(api: &Api, name: &str, cancel: &CancellationToken) -> Result<()> {
    let there =
        api.instance_profile_ready(name).await.during(|| format!("getting instance profile {name:?}"))?;
    if there == Some(true) {
        return Ok(());
    }
    let role = api.create_role(name, "mantle role for testing", &trust(api.partition())).await;
    made(role).during(|| format!("creating role {name:?}"))?;
    let policy = api.put_role_policy(name, POLICY, POLICY_TEXT).await;
    policy.during(|| format!("adding {POLICY:?} policy to role {name:?}"))?;
    made(api.create_instance_profile(name).await).during(|| format!("creating instance profile {name:?}"))?;
    made(api.add_role_to_instance_profile(name, name).await)
        .during(|| format!("adding role {name:?} to instance profile {name:?}"))?;
    let ask = || async {
        Ok::<_, api::Error>(match api.instance_profile_ready(name).await? {
            Some(true) => Answer::Ready(()),
            Some(false) => Answer::NotYet("without role".into()),
            None => Answer::NotYet("not there".into()),
        })
    };
    match READY.until(format!("instance profile {name:?} ready"), cancel, ask).await {
        Err(poll::Error::Cancelled) => Err(Error::Cancelled),
        other => other.during(|| "waiting for instance profile to become ready"),
    }
}
