//! What imports need once per account and region: a bucket, and a role that lets AWS read it.
//!
//! See <https://docs.aws.amazon.com/vm-import/latest/userguide/required-permissions.html>.

use serde_json::json;

use super::COMPONENT;
use super::api::{self, Api};
use super::failure::{During as _, Error, Result};
use crate::info;

/// The role that imports take on; the name is AWS's.
const ROLE: &str = "vmimport";

/// Makes whatever is missing.
///
/// # Errors
/// When somebody else has the bucket, or the provider refuses.
pub async fn run(api: &Api, bucket: &str) -> Result<()> {
    create_bucket(api, bucket).await.during(format!("could not initialize bucket {bucket}"))?;
    create_role(api, bucket).await.during(format!("could not create import role for {bucket}"))
}

async fn create_bucket(api: &Api, bucket: &str) -> Result<()> {
    match api.create_bucket(bucket).await {
        Err(e) if !e.is(&["BucketAlreadyOwnedByYou"]) => return Err(e.into()),
        _ => info!(COMPONENT, "bucket {bucket} is there"),
    }
    Ok(())
}

async fn create_role(api: &Api, bucket: &str) -> Result<()> {
    if !api.role_exists(ROLE).await? {
        let made = api.create_role(ROLE, "", &trust().to_string()).await;
        // Another process was faster.
        made.or_else(|e| if e.is(&["EntityAlreadyExists"]) { Ok(()) } else { Err(e) })?;
        info!(COMPONENT, "created role {ROLE}");
    }
    if !api.role_policy_exists(ROLE, bucket).await? {
        let policy = permissions(api.partition(), bucket).to_string();
        api.put_role_policy(ROLE, bucket, &policy).await.map_err(explain)?;
        info!(COMPONENT, "created policy {bucket} of role {ROLE}");
    }
    Ok(())
}

/// There is one role for all buckets of an account, and little room for its policies.
fn explain(error: api::Error) -> Error {
    if error.is(&["LimitExceeded"]) {
        return Error::Invalid(format!(
            "role {ROLE} has no room for another policy: use a bucket that it has a policy for, or remove one ({error})"
        ));
    }
    error.into()
}

/// Who may take on the role: the import service.
fn trust() -> serde_json::Value {
    json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Principal": { "Service": "vmie.amazonaws.com" },
            "Action": "sts:AssumeRole",
            "Condition": { "StringEquals": { "sts:ExternalId": "vmimport" } }
        }]
    })
}

/// What the role may do.
fn permissions(partition: &str, bucket: &str) -> serde_json::Value {
    let arn = format!("arn:{partition}:s3:::{bucket}");
    json!({
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["s3:ListBucket", "s3:GetBucketLocation", "s3:GetObject"],
                "Resource": [arn, format!("{arn}/*")]
            },
            {
                "Effect": "Allow",
                "Action": ["ec2:ModifySnapshotAttribute", "ec2:CopySnapshot", "ec2:RegisterImage", "ec2:Describe*"],
                "Resource": "*"
            }
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_name_the_partition() {
        let policy = permissions("aws-cn", "images");
        assert_eq!(
            policy["Statement"][0]["Resource"],
            json!(["arn:aws-cn:s3:::images", "arn:aws-cn:s3:::images/*"])
        );
        assert_eq!(policy["Statement"][1]["Resource"], "*");
        assert_eq!(trust()["Statement"][0]["Condition"]["StringEquals"]["sts:ExternalId"], "vmimport");
    }
}
