//! Command lines that are wrong, credentials that are missing, and what must never be shown.

use super::{Cloud, upload};
use crate::cloud::aws;
use crate::support::Env;
use crate::support::http::Response;
use crate::support::proxy::Proxy;

/// Somebody in front of a server that must not be asked.
fn somebody() -> (Env, Proxy) {
    let proxy = Proxy::before(|_| Some(Response::new(500, "text/plain", "")));
    let mut env = Env::new();
    env.set("AWS_ACCESS_KEY_ID", "AKIDTEST")
        .set("AWS_SECRET_ACCESS_KEY", "secret")
        .set("AWS_REGION", "us-west-2")
        .set("AWS_EC2_METADATA_DISABLED", "true")
        .set("AWS_ENDPOINT_URL", proxy.url());
    (env, proxy)
}

#[test]
fn usage_errors_end_with_2_and_ask_nobody() {
    let (env, proxy) = somebody();
    let file = env.write("disk.raw", "x");
    let vmdk = env.write("disk.vmdk", "KDMV");
    std::fs::write(&vmdk, {
        let mut header = vec![0u8; 512];
        header[..4].copy_from_slice(b"KDMV");
        header[4] = 3;
        header[12..20].copy_from_slice(&(9u64 << 21).to_le_bytes());
        header
    })
    .unwrap();
    let (file, vmdk) = (format!("--file={}", file.display()), format!("--file={}", vmdk.display()));
    let good = ["upload", &file, "--name=n1", "--object-format=RAW"];
    let wrong: &[(&[&str], &str)] = &[
        (&["extra"], "extra"),
        (&["--bucket=gs://images"], "invalid s3 scheme; must be 's3://', not 'gs://'"),
        (&["--bucket=s3:///path"], "URL missing bucket name s3:///path"),
        (&["--tags=a=b,c"], "invalid tag format; should be key=value, not c"),
        (&["--object-format=VHD"], "invalid ec2 image format: must be raw or vmdk"),
        (&["--disk-size-gib=0"], "no size of a disk"),
        (&["--disk-size-gib=70000"], "no size of a disk"),
        (&["--disk-size-gib=-1"], "number out of range"),
        (&["--grant-user=me"], "no number of an account"),
        (&["--ami-name=a+b"], "cannot name an image"),
        (&["--source-object=s3://images/x", "--source-snapshot=snap-1"], "At most one of"),
        (&["--source-object=s3://images"], "names a bucket, not an object"),
        (&["--source-snapshot=ami-1"], "does not begin with snap-"),
        (&["--source-snapshot=snap-1", "--disk-size-inspect"], "--disk-size-inspect cannot be used"),
        (&["--source-object=s3://images/x", "--direct"], "--direct cannot be used"),
        (&["--direct", "--object-format=VMDK"], "--direct writes raw images only"),
        (&["--create-pv", "--region=us-east-2"], "Region does not support PV"),
        (&["--access-id=AKID"], "--secret-key"),
        (&[&vmdk, "--object-format=VMDK"], "has 9 GiB, more than --disk-size-gib=8"),
    ];
    let others: &[(&[&str], &str)] = &[
        (&["gc", "extra"], "extra"),
        (&["gc", "--duration=-5h"], "a duration cannot be negative here"),
        (&["gc", "--dry-run", "--apply=plan"], "cannot be used with"),
        (&["gc", "--duration=1h", "--apply=plan"], "cannot be used with"),
        (&["gc", "--ledger=run", "--dry-run"], "cannot be used with"),
        (&["gc", "--ledger=run", "--apply=plan"], "cannot be used with"),
        (&["copy-image", "--image=ami-1"], "Specify one or more regions."),
        (&["copy-image", "us-east-1"], "--image is required"),
        (&["copy-image", "--image=ami-1", "us-east-1", "us-east-1"], "region us-east-1 is named twice"),
        (&["copy-image", "--image=ami-1", "us-west-2"], "in region us-west-2 already"),
        (&["delete-image"], "Specify --ami, --snapshot or both."),
        (&["delete-image", "--ami=snap-1"], "does not begin with ami-"),
        (&["initialize", "--bucket=s3://images/path"], "names more than a bucket"),
        (&["list-regions", "--all", "--disabled"], "cannot be used with"),
        (&["no-such-command"], "no-such-command"),
    ];
    let check = |args: &[&str], text: &str| {
        let outcome = env.mantle(&[&["ore", "aws"], args].concat()).expect(2);
        assert!(outcome.stderr.contains(text), "{args:?}: no {text:?} in {}", outcome.stderr);
        assert_eq!(outcome.stdout, "", "{args:?}");
    };
    for (args, text) in wrong {
        check(&[&good, *args].concat(), text);
    }
    for (args, text) in others {
        check(args, text);
    }
    assert!(proxy.journal().is_empty(), "{:?}", proxy.journal());
}

#[test]
fn files_and_credentials_are_looked_at_before_anybody_is_asked() {
    let (mut env, proxy) = somebody();
    let ore = |env: &Env, args: &[&str]| env.mantle(&[&["ore", "aws"], args].concat()).expect(1);
    let outcome = ore(&env, &["upload", "--file=missing.vmdk", "--name=n1"]);
    assert!(outcome.stderr.contains("Error: Could not open image file missing.vmdk"), "{}", outcome.stderr);
    let outcome = ore(&env, &["upload", "--file=missing.vmdk"]);
    assert!(outcome.stderr.contains("Error: Could not open image file missing.vmdk"), "{}", outcome.stderr);
    std::fs::write(env.home().join("nameless.vmdk"), "KDMV").unwrap();
    let outcome = ore(&env, &["upload", "--file=nameless.vmdk"]);
    assert!(outcome.stderr.contains("pass --name, or put the SDK's version.txt"), "{}", outcome.stderr);
    for (name, content, text) in [
        ("a.vmdk", &b"BZh91AY"[..], "is packed"),
        ("b.vmdk", b"QFI\xfb\0\0\0\x03", "is a qcow2 image"),
        ("c.vmdk", b"# Disk DescriptorFile\n", "only the description of a VMDK"),
        ("d.vmdk", b"", "is empty"),
    ] {
        std::fs::write(env.home().join(name), content).unwrap();
        let outcome = ore(&env, &["upload", "--file", name, "--name=n1"]);
        assert!(outcome.stderr.contains(text), "{}", outcome.stderr);
    }
    env.unset("AWS_ACCESS_KEY_ID").unset("AWS_SECRET_ACCESS_KEY");
    for command in [&["gc"][..], &["initialize"], &["list"], &["copy-image", "--image=ami-1", "us-east-1"]] {
        let outcome = ore(&env, command);
        let told = ["could not create AWS client", "could not complete AWS preflight check"];
        assert!(told.iter().any(|t| outcome.stderr.contains(&format!("Error: {t}"))), "{}", outcome.stderr);
    }
    assert!(proxy.journal().is_empty());
}

#[test]
fn version_txt_names_what_is_not_named() {
    let Some(cloud) = Cloud::initialized(&[]) else { return };
    let version = "COREOS_BUILD=1\nCOREOS_VERSION=1967.3.0+dev\nCOREOS_VERSION_ID=1967.3.0\nCOREOS_BUILD_ID=\"dev\"\n\
                   COREOS_SDK_VERSION=1911.3.0\n";
    let file = cloud.env.write("image/disk.raw", "content");
    cloud.env.write("image/version.txt", version);
    let common = ["upload", "--file", file.to_str().unwrap(), "--object-format=RAW", "--bucket=s3://images"];
    let outcome = cloud.ore(&[&common[..], &["--disk-size-inspect"]].concat()).expect(0);
    let line = super::json(&outcome);
    assert_eq!(line["S3Object"], "s3://images/tester/amd64-usr/1967.3.0+dev/disk.raw");
    let images = cloud.call("ec2", &[("Action", "DescribeImages"), ("Owner.1", "self")]);
    assert!(images.contains("<name>Container-Linux-dev-tester-1967.3.0-dev-hvm</name>"), "{images}");
    assert!(images.contains("<volumeSize>1</volumeSize>"), "{images}");
    // Without version.txt the name will do.
    std::fs::remove_file(cloud.env.home().join("image/version.txt")).unwrap();
    cloud.ore(&[&common[..], &["--name=mine+1"]].concat()).expect(0);
    let images = cloud.call("ec2", &[("Action", "DescribeImages"), ("Owner.1", "self")]);
    assert!(images.contains("<name>Container-Linux-dev-tester-mine-1-hvm</name>"), "{images}");
}

#[test]
fn every_option_of_upstream_is_there() {
    let env = Env::new();
    let group = ["--access-id", "--credentials-file", "--profile", "--region", "--secret-key", "--endpoint"];
    for (command, options) in [
        ("copy-image", &["--image"][..]),
        ("gc", &["--duration"]),
        ("initialize", &["--bucket"]),
        (
            "upload",
            &[
                "--ami-description",
                "--ami-name",
                "--board",
                "--bucket",
                "--create-pv",
                "--delete-object",
                "--disk-size-gib",
                "--disk-size-inspect",
                "--file",
                "--force",
                "--grant-user",
                "--name",
                "--object-format",
                "--source-object",
                "--source-snapshot",
                "--tags",
            ],
        ),
    ] {
        let help = env.mantle(&["ore", "aws", command, "--help"]).expect(0).stdout;
        for option in group.iter().chain(options) {
            assert!(
                help.contains(&format!("{option} ")) || help.contains(&format!("{option}[")),
                "{command} {option}"
            );
        }
    }
}

#[test]
fn secrets_are_never_shown() {
    let Some(mut cloud) = Cloud::initialized(&[]) else { return };
    cloud.env.unset("AWS_ACCESS_KEY_ID").unset("AWS_SECRET_ACCESS_KEY");
    let file = cloud.disk("disk.raw", 600);
    let keys = ["--access-id=AKIDFLAG", "--secret-key=hush-flag-hush", "--log-level=TRACE"];
    let mut texts = vec![cloud.ore(&upload(file.to_str().unwrap(), &keys)).expect(0)];
    assert!(
        cloud.proxy.take_journal().iter().all(|e| e
            .request
            .header("authorization")
            .unwrap()
            .contains("AKIDFLAG"))
    );
    cloud.env.write(
        ".aws/credentials",
        "[default]\naws_access_key_id = AKIDFILE\naws_secret_access_key = hush-file-hush\naws_session_token = hush-token-hush\n",
    );
    texts.push(cloud.ore(&["gc", "--log-level=TRACE"]).expect(0));
    let denied = (403, "SignatureDoesNotMatch", "x-amz-security-token:hush-token-hush");
    aws::fail(&cloud.proxy, aws::is(&["GetCallerIdentity"]), 0, 1, denied);
    texts.push(cloud.ore(&["list", "--debug"]).expect(1));
    for crate::support::Outcome { stdout, stderr, .. } in texts {
        assert!(!stdout.contains("hush") && !stderr.contains("hush"), "{stdout}{stderr}");
    }
    for entry in cloud.proxy.journal() {
        assert!(!entry.request.target.contains("hush"), "{}", entry.request.target);
    }
}
