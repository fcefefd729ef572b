//! Amazon: images and snapshots of EC2 in all regions, objects of S3, who calls.
//!
//! Answers: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/>, <https://docs.aws.amazon.com/AmazonS3/latest/API/>.

mod ec2;
mod s3;

use std::collections::BTreeMap;
use std::sync::Mutex;

use chrono::{SecondsFormat, Utc};
use quick_xml::escape::escape;
use serde::Serialize;

use self::ec2::Region;
pub use self::ec2::{Image, Snapshot};
use self::s3::Bucket;
use super::{Double, Request, Response, lock};

/// Whose everything is.
pub const ACCOUNT: &str = "123456789012";

/// The double.
#[derive(Default)]
pub struct Aws {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    regions: BTreeMap<String, Region>,
    buckets: BTreeMap<String, Bucket>,
    /// What orders with a token of the client's led to.
    tokens: BTreeMap<String, String>,
    /// How many things were made; their ids.
    made: u64,
}

/// What is there, as others see it.
#[derive(Clone, Debug, Serialize)]
pub struct Inventory {
    /// By region.
    pub regions: BTreeMap<String, Holdings>,
    /// By bucket: keys of objects, and their lengths in bytes.
    pub buckets: BTreeMap<String, BTreeMap<String, u64>>,
}

/// What a region has.
#[derive(Clone, Debug, Serialize)]
pub struct Holdings {
    /// Images.
    pub images: Vec<Image>,
    /// Snapshots.
    pub snapshots: Vec<Snapshot>,
}

impl Aws {
    /// Makes a bucket, as its owner did long ago.
    pub fn put_bucket(&self, name: &str) {
        lock(&self.state).buckets.entry(name.to_owned()).or_default();
    }

    /// What is there.
    pub fn inventory(&self) -> Inventory {
        let state = lock(&self.state);
        let holdings = |region: &Region| Holdings {
            images: region.images.values().cloned().collect(),
            snapshots: region.snapshots.values().cloned().collect(),
        };
        Inventory {
            regions: state.regions.iter().map(|(name, region)| (name.clone(), holdings(region))).collect(),
            buckets: state.buckets.iter().map(|(name, bucket)| (name.clone(), bucket.sizes())).collect(),
        }
    }
}

impl Double for Aws {
    fn answer(&self, request: &Request) -> Response {
        // Credential=KEY/DAY/REGION/SERVICE/aws4_request; Signature Version 4.
        let scope = request.header("authorization").and_then(|a| a.split_once("Credential=")).map(|a| a.1);
        let scope: Vec<&str> =
            scope.unwrap_or_default().split(',').next().unwrap_or_default().split('/').collect();
        let mut state = lock(&self.state);
        match scope[..] {
            [_, _, region, "ec2", "aws4_request"] => ec2::answer(&mut state, region, request),
            [_, _, _, "s3", "aws4_request"] => s3::answer(&mut state, request),
            [_, _, _, "sts", "aws4_request"]
                if request.field("Action").as_deref() == Some("GetCallerIdentity") =>
            {
                caller()
            }
            [_, _, _, service, "aws4_request"] => {
                refused(400, "InvalidAction", &format!("{service} has no such action here"))
            }
            _ => refused(401, "AuthFailure", "the request is not signed"),
        }
    }

    fn busy(&self) -> Response {
        refused(503, "Unavailable", "The service is unavailable. Please try again shortly.")
    }
}

impl State {
    /// A new id.
    fn id(&mut self, kind: &str) -> String {
        self.made += 1;
        format!("{kind}-{:017x}", self.made)
    }
}

fn caller() -> Response {
    let who = [
        leaf("Arn", &format!("arn:aws:iam::{ACCOUNT}:user/rehearsal")),
        leaf("UserId", "AIDAREHEARSAL"),
        leaf("Account", ACCOUNT),
    ];
    let body = format!(
        "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult>{}\
         </GetCallerIdentityResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata>\
         </GetCallerIdentityResponse>",
        who.concat()
    );
    Response::new(200, "text/xml", body)
}

/// A refusal of EC2.
fn refused(status: u16, code: &str, message: &str) -> Response {
    let body = format!(
        "<?xml version=\"1.0\"?><Response><Errors><Error>{}{}</Error></Errors><RequestID>r</RequestID></Response>",
        leaf("Code", code),
        leaf("Message", message)
    );
    Response::new(status, "text/xml", body)
}

/// An element with a text.
fn leaf(name: &str, text: &str) -> String {
    format!("<{name}>{}</{name}>", escape(text))
}

/// An element with others.
fn element(name: &str, inner: impl AsRef<str>) -> String {
    format!("<{name}>{}</{name}>", inner.as_ref())
}

/// The time as EC2 writes it.
fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(aws: &Aws, region: &str, form: &str) -> Response {
        let scope =
            format!("AWS4-HMAC-SHA256 Credential=K/20260101/{region}/ec2/aws4_request, SignedHeaders=x");
        aws.answer(&Request::new("POST", "/").with_header("authorization", &scope).with_body(form))
    }

    fn store(aws: &Aws, key: &str, body: &[u8]) -> Response {
        let scope = "AWS4-HMAC-SHA256 Credential=K/20260101/us-west-2/s3/aws4_request, SignedHeaders=x";
        let request = Request::new("PUT", &format!("/bkt/{key}")).with_header("authorization", scope);
        aws.answer(&request.with_body(body))
    }

    fn between<'t>(text: &'t str, name: &str) -> &'t str {
        text.split_once(&format!("<{name}>")).and_then(|(_, t)| t.split_once("</")).map_or("", |(t, _)| t)
    }

    #[test]
    fn from_an_object_to_a_copied_image() {
        let aws = Aws::default();
        assert_eq!(store(&aws, "disk", b"x").status, 404);
        aws.put_bucket("bkt");
        assert_eq!(store(&aws, "disk", b"not a disk of VMware").status, 200);
        let import = |format: &str| {
            let disk = format!("DiskContainer.Format={format}&DiskContainer.UserBucket.S3Bucket=bkt");
            let form =
                format!("Action=ImportSnapshot&Description=d&{disk}&DiskContainer.UserBucket.S3Key=disk");
            let task = between(&ask(&aws, "us-west-2", &form).text(), "importTaskId").to_owned();
            let form = format!("Action=DescribeImportSnapshotTasks&ImportTaskId.1={task}");
            let look = |_, _| ask(&aws, "us-west-2", &form).text();
            (0..9).fold(String::new(), look)
        };
        assert_eq!(between(&import("VMDK"), "status"), "deleted");
        let task = import("RAW");
        let snapshot = between(&task, "snapshotId");
        assert!(snapshot.starts_with("snap-"), "{task}");
        let register = format!(
            "Action=RegisterImage&Name=image&RootDeviceName=/dev/xvda&BlockDeviceMapping.1.DeviceName=/dev/xvda&\
             BlockDeviceMapping.1.Ebs.SnapshotId={snapshot}"
        );
        let image = ask(&aws, "us-west-2", &register).text();
        let image = between(&image, "imageId");
        assert_eq!(between(&ask(&aws, "us-west-2", &register).text(), "Code"), "InvalidAMIName.Duplicate");
        let there = ask(&aws, "us-west-2", &format!("Action=DescribeImages&ImageId.1={image}"));
        assert_eq!(between(&there.text(), "isPublic"), "false");
        let publish = format!(
            "Action=ModifyImageAttribute&ImageId={image}&LaunchPermission.Add.1.Group=all&Attribute=launchPermission"
        );
        assert_eq!(between(&ask(&aws, "us-west-2", &publish).text(), "return"), "true");
        let copy =
            format!("Action=CopyImage&SourceRegion=us-west-2&SourceImageId={image}&Name=image&ClientToken=t");
        let copied = ask(&aws, "eu-north-1", &copy).text();
        assert_eq!(copied, ask(&aws, "eu-north-1", &copy).text(), "the same order again");
        assert_eq!(between(&ask(&aws, "cn-north-1", &copy).text(), "Code"), "InvalidAMIID.NotFound");
        let inventory = aws.inventory();
        assert!(inventory.regions["us-west-2"].images[0].is_public());
        assert!(!inventory.regions["eu-north-1"].images[0].is_public());
        let dry =
            ask(&aws, "us-west-2", &format!("Action=CopyImage&SourceImageId={image}&Name=dry&DryRun=true"));
        assert_eq!(dry.status, 412, "nothing is done");
        assert_eq!(ask(&aws, "us-west-2", "Action=RunInstances").status, 400);
        assert_eq!(aws.answer(&Request::new("POST", "/")).status, 401);
    }
}
