//! `ore gcloud` against the local Compute Engine and a local Cloud Storage, every request written down.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::double::{Fate, Gce, PROJECT, ZONE};
use super::{action, judged};
use crate::cloud::matrix::Double as _;
use crate::support::gcs::Gcs;
use crate::support::{Env, Outcome, Running, installed};

/// Both services and somebody who uses them.
struct Cloud {
    gce: Gce,
    gcs: Gcs,
    env: Env,
}

impl Cloud {
    fn new() -> Self {
        let (gce, gcs) = (Gce::of_records(), Gcs::new());
        let mut env = gce.env();
        env.set("STORAGE_EMULATOR_HOST", gcs.address.to_string());
        Self { gce, gcs, env }
    }

    fn ore(&self, words: &[&str]) -> Outcome {
        let mut all = vec!["ore", "gcloud"];
        all.extend(words);
        self.env.mantle(&all)
    }

    /// The same by a person at a terminal, who answers every question so.
    fn asked(&self, words: &str, answers: &str) -> Outcome {
        let line = format!("{} ore gcloud {words}", env!("CARGO_BIN_EXE_mantle"));
        let mut command = self.env.command("script");
        command.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped());
        let answers = self.env.write("answers", answers);
        command.stdin(std::fs::File::open(answers).unwrap());
        Running::new(command).finish()
    }

    /// What was asked of Compute Engine, but for tokens; it was right.
    fn asked_for(&self) -> Vec<String> {
        let journal = self.gce.proxy.take_journal();
        let journal: Vec<_> = journal.into_iter().filter(|e| action(&e.request) != "token").collect();
        if !journal.is_empty() {
            judged(&journal);
        }
        journal.iter().map(|e| action(&e.request)).collect()
    }

    /// An archive that Compute Engine takes.
    fn archive(&self) -> PathBuf {
        let folder = self.env.home();
        let disk = std::fs::File::create(folder.join("disk.raw")).unwrap();
        disk.set_len(1 << 30).unwrap();
        let mut tar = Command::new("tar");
        tar.args(["--format=oldgnu", "-Sczf", "image.tar.gz", "disk.raw"]).current_dir(&folder);
        assert!(tar.status().unwrap().success());
        folder.join("image.tar.gz")
    }
}

const FEATURES: &str = "VIRTIO_SCSI_MULTIQUEUE";

#[test]
fn images_are_made_of_what_builds_leave() {
    let cloud = Cloud::new();
    let create = |more: &[&str]| {
        let mut words =
            vec!["create-image", "--family=me", "--version=1.2.3+4", "--source-root=gs://builds/x"];
        words.extend(more);
        cloud.ore(&words)
    };
    let outcome = create(&[]).expect(1);
    let source = "gs://builds/x/amd64-usr/1.2.3+4/coreos_production_gce.tar.gz";
    assert!(outcome.stderr.contains(&format!("Source image {source} does not exist")), "{}", outcome.stderr);
    assert!(cloud.asked_for().is_empty());
    cloud.gcs.put("builds", "x/amd64-usr/1.2.3+4/coreos_production_gce.tar.gz", b"x", "application/x-gzip");
    let outcome = create(&[]).expect(0);
    assert_eq!(outcome.stdout, "Creating image in GCE: me-1-2-3-4...\n");
    assert_eq!(cloud.asked_for(), ["images.insert", "operations.wait", "operations.wait"]);
    let image = &cloud.gce.images()["me-1-2-3-4"];
    let address = "https://storage.googleapis.com/builds/x/amd64-usr/1.2.3%2B4/coreos_production_gce.tar.gz";
    assert_eq!(image["rawDisk"]["source"], address);
    assert_eq!(image["guestOsFeatures"], json!([{"type": FEATURES}]));
    let outcome = create(&[]).expect(1);
    assert!(outcome.stderr.contains("--force"), "{}", outcome.stderr);
    assert_eq!(cloud.asked_for(), ["images.insert"]);
    let more =
        ["--force", "--image-family=fam", "--license=mine", "--arch=arm64", "--public", "--description=D"];
    create(&[&more[..], &["--guest-feature=UEFI_COMPATIBLE,GVNIC"]].concat()).expect(0);
    let wait = ["operations.wait", "operations.wait"];
    let policy = ["images.getIamPolicy", "images.setIamPolicy"];
    let expected =
        [&["licenses.get", "images.delete"][..], &wait, &["images.insert"], &wait, &policy].concat();
    assert_eq!(cloud.asked_for(), expected);
    let image = &cloud.gce.images()["me-1-2-3-4"];
    assert_eq!(
        (&image["family"], &image["description"], &image["architecture"]),
        (&json!("fam"), &json!("D"), &json!("ARM64"))
    );
    assert_eq!(image["guestOsFeatures"], json!([{"type": "UEFI_COMPATIBLE"}, {"type": "GVNIC"}]));
    assert_eq!(
        cloud.gce.policy("me-1-2-3-4")["bindings"],
        json!([{"role": "roles/compute.imageUser", "members": ["allAuthenticatedUsers"]}])
    );
    let outcome = create(&["--license=nobodys"]).expect(1);
    assert!(outcome.stderr.contains("Invalid GCE license nobodys"), "{}", outcome.stderr);
}

#[test]
fn archives_and_raw_disks_are_uploaded() {
    let cloud = Cloud::new();
    let archive = cloud.archive();
    let raw = cloud.env.home().join("raw.bin");
    std::fs::write(&raw, b"boot").unwrap();
    let upload = |file: &std::path::Path, more: &[&str]| {
        let file = format!("--file={}", file.display());
        let mut words = vec!["upload", &file, "--name=1.2.3", "--bucket=gs://users"];
        words.extend(more);
        cloud.ore(&words)
    };
    let outcome = upload(&archive, &[]).expect(0);
    let told = format!(
        "Writing {} to gs://users ...\n(Sometimes this takes a few minutes)\nUpload successful!\n\
         Creating image in GCE: tester-amd64-usr-1-2-3...\n",
        archive.display()
    );
    assert_eq!(outcome.stdout, told);
    assert_eq!(cloud.asked_for(), ["images.insert", "operations.wait", "operations.wait"]);
    let stored = &cloud.gcs.objects("users")["tester/amd64-usr/1.2.3.tar.gz"];
    assert_eq!(stored.body, std::fs::read(&archive).unwrap());
    assert_eq!(stored.acl.as_deref(), Some("authenticatedRead"));
    assert_eq!(stored.attributes["contentType"], "application/x-gzip");
    // Nobody is there to be asked.
    let outcome = upload(&raw, &[]).expect(1);
    assert!(
        outcome.stderr.contains("already exists") && outcome.stderr.contains("--force"),
        "{}",
        outcome.stderr
    );
    let outcome = upload(&raw, &["--force"]).expect(0);
    assert!(outcome.stdout.contains("Overriding existing file..."), "{}", outcome.stdout);
    let wait = ["operations.wait", "operations.wait"];
    assert_eq!(cloud.asked_for(), [&["images.delete"][..], &wait, &["images.insert"], &wait].concat());
    let stored = &cloud.gcs.objects("users")["tester/amd64-usr/1.2.3.tar.gz"];
    let packed = cloud.env.home().join("packed.tar.gz");
    std::fs::write(&packed, &stored.body).unwrap();
    let unpacked = Command::new("tar").arg("-xSOf").arg(&packed).output().unwrap().stdout;
    assert_eq!((unpacked.len(), &unpacked[..4]), (1 << 30, &b"boot"[..]));
    let left: Vec<_> = std::fs::read_dir(cloud.env.home().join("../tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    // A path of one's own.
    upload(&archive, &["--bucket=gs://users/mine/"]).expect(0);
    assert!(cloud.gcs.names("users").contains(&"mine/1.2.3.tar.gz".to_owned()));
    assert!(cloud.gce.images().contains_key("mine-1-2-3"));
}

#[test]
fn a_person_is_asked_before_anything_is_replaced() {
    if !installed("script") {
        return;
    }
    let cloud = Cloud::new();
    let archive = cloud.archive();
    let words = format!("upload --file={} --name=1 --bucket=gs://b/me", archive.display());
    cloud.gcs.put("b", "me/1.tar.gz", b"old", "application/x-gzip");
    cloud.gce.put_image("me-1", json!({"description": "old"}));
    let outcome = cloud.asked(&words, "n\nn\n").expect(0);
    for told in [
        "File me/1.tar.gz already exists on Google Storage. Overwrite? (y/n):",
        "Skipped file upload",
        "Image me-1 already exists on GCE. Overwrite? (y/n):",
        "Skipped GCE image creation",
    ] {
        assert!(outcome.stdout.contains(told), "{told}: {}", outcome.stdout);
    }
    assert_eq!(cloud.gcs.objects("b")["me/1.tar.gz"].body, b"old");
    assert_eq!(cloud.gce.images()["me-1"]["description"], "old");
    assert_eq!(cloud.asked_for(), ["images.insert"]);
    let outcome = cloud.asked(&words, "y\nyes\n").expect(0);
    assert!(outcome.stdout.contains("Image me-1 successfully created in GCE"), "{}", outcome.stdout);
    assert_ne!(cloud.gcs.objects("b")["me/1.tar.gz"].body, b"old");
    assert_eq!(cloud.gce.images()["me-1"]["description"], Value::Null);
}

#[test]
fn what_is_no_image_is_refused_before_any_request() {
    let cloud = Cloud::new();
    let at = |name: &str, content: &[u8]| {
        let path = cloud.env.home().join(name);
        std::fs::write(&path, content).unwrap();
        format!("--file={}", path.display())
    };
    let qcow = at("a.qcow2", b"QFI\xfb....");
    let packed = at("a.bin.bz2", b"BZh91AY");
    let odd = at("a.tar.gz", &[0x1f, 0x8b, 8, 0]);
    let raw = at("raw", b"x");
    for (words, code, told) in [
        (vec!["upload", "--name=1", &qcow], 1, "qemu-img convert"),
        (vec!["upload", "--name=1", &packed], 1, "bunzip2"),
        (vec!["upload", "--name=1", &odd], 1, "cannot be unpacked"),
        (vec!["upload", "--name=1", "--file=missing"], 1, "missing"),
        (vec!["upload", &raw], 1, "--name"),
        (vec!["upload", "--name=a_b", &raw], 2, "is no name for Compute Engine"),
        (vec!["upload", "--name=1", "--bucket=http://x", &raw], 2, "URL missing gs:// scheme"),
        (vec!["upload", "--name=1", "--bucket=gs://", &raw], 2, "URL missing bucket name"),
        (vec!["create-image"], 2, "--version is required"),
        (vec!["create-image", "--version=1", "--arch=mips"], 2, "X86_64"),
        (vec!["delete-images"], 2, "Specify image name(s)."),
        (vec!["delete-images", "A"], 2, "is no name"),
        (vec!["list-images", "--prefix=.*"], 2, "no name of an image begins so"),
        (vec!["update-image", "--image-name=a"], 2, "nothing to change"),
        (vec!["deprecate-image", "--image-name=a", "--state=GONE"], 2, "GONE"),
        (vec!["destroy-instances", "--prefix=k"], 1, "too short"),
        (vec!["gc", "--all-zones", "--ledger=x"], 2, "cannot be used with"),
    ] {
        let outcome = cloud.ore(&words);
        assert_eq!(outcome.code, code, "{words:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(told), "{words:?}: {}", outcome.stderr);
    }
    assert!(cloud.gce.proxy.take_journal().is_empty());
}

#[test]
fn without_keys_nothing_is_asked_and_help_is_told() {
    let mut cloud = Cloud::new();
    cloud.env.unset("GOOGLE_APPLICATION_CREDENTIALS");
    let outcome = cloud.ore(&["list-images"]).expect(1);
    assert!(outcome.stderr.contains("gcloud auth application-default login"), "{}", outcome.stderr);
    let broken = cloud.env.write("broken.json", r#"{"type":"service_account","client_email":"x"}"#);
    let outcome = cloud.ore(&[&format!("--json-key={}", broken.display()), "list-images"]).expect(1);
    assert!(outcome.stderr.contains("private_key is missing"), "{}", outcome.stderr);
    assert!(cloud.gce.proxy.take_journal().is_empty());
}

#[test]
fn lists_have_all_pages() {
    let cloud = Cloud::new();
    for n in 0..25 {
        cloud.gce.put_image(&format!("kola-{n:02}"), json!({"family": "k"}));
        cloud.gce.put_instance(ZONE, &format!("kola-{n:02}"), "RUNNING", json!({}));
    }
    cloud.gce.put_image("other", json!({}));
    cloud.gce.put_instance(ZONE, "other", "RUNNING", json!({}));
    cloud.gce.pages_of(10);
    let outcome = cloud.ore(&["list-images", "--prefix=kola-"]).expect(0);
    assert_eq!((outcome.stdout.lines().count(), outcome.stdout.lines().next()), (25, Some("kola-00")));
    let outcome = cloud.ore(&["list-images", "--json"]).expect(0);
    let list: Vec<Value> = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((list.len(), &list[0]["family"]), (26, &json!("k")));
    let outcome = cloud.ore(&["list-instances"]).expect(0);
    assert!(outcome.stdout.starts_with("kola-00:\n extIP: 192.0.2.7\nkola-01:\n"), "{}", outcome.stdout);
    assert_eq!(outcome.stdout.lines().count(), 50);
    for words in [&["--basename=oth", "list-instances"][..], &["list-instances", "--prefix=oth"]] {
        assert_eq!(cloud.ore(words).expect(0).stdout, "other:\n extIP: 192.0.2.7\n");
    }
    let asked = cloud.asked_for();
    assert_eq!(asked.iter().filter(|a| *a == "images.list").count(), 6);
}

#[test]
fn images_are_deleted_and_what_fails_is_said() {
    let cloud = Cloud::new();
    for name in ["a", "b", "c"] {
        cloud.gce.put_image(name, json!({}));
    }
    let outcome = cloud.ore(&["delete-images", "a", "missing", "b"]).expect(1);
    assert!(outcome.stderr.contains("there is no image missing"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("project project-1"), "{}", outcome.stderr);
    assert_eq!(cloud.gce.images().into_keys().collect::<Vec<_>>(), ["c"]);
    cloud.gce.fate("images.delete", Some(Fate::Fails("RESOURCE_IN_USE_BY_ANOTHER_RESOURCE", "in use by x")));
    let outcome = cloud.ore(&["delete-images", "c"]).expect(1);
    assert!(outcome.stderr.contains("in use by x"), "{}", outcome.stderr);
    cloud.asked_for();
}

#[test]
fn families_stand_for_what_was_promoted() {
    let cloud = Cloud::new();
    for name in ["f-1", "f-2", "f-3"] {
        cloud.gce.put_image(name, json!({"family": "f"}));
    }
    cloud.gce.put_image("f-0", json!({"family": "f", "deprecated": {"state": "OBSOLETE"}}));
    cloud.gce.put_image("f-9", json!({"family": "other"}));
    cloud.ore(&["deprecate-image", "--image-name=f-2"]).expect(0);
    assert_eq!(cloud.gce.images()["f-2"]["deprecated"], json!({"state": "DEPRECATED"}));
    let promote = ["promote-image", "--image-name=f-2", "--family=f"];
    cloud.ore(&promote).expect(0);
    let images = cloud.gce.images();
    let state = |name: &str| images[name]["deprecated"]["state"].clone();
    assert_eq!(
        (state("f-2"), state("f-1"), state("f-3")),
        (json!("ACTIVE"), json!("DEPRECATED"), json!("DEPRECATED"))
    );
    assert_eq!((state("f-0"), state("f-9")), (json!("OBSOLETE"), Value::Null));
    let address = format!("{}projects/{PROJECT}/global/images/f-2", cloud.gce.url());
    assert_eq!(images["f-1"]["deprecated"]["replacement"], address);
    cloud.asked_for();
    // Again: nothing is to be done.
    cloud.ore(&promote).expect(0);
    assert_eq!(cloud.asked_for(), ["images.list"]);
    let outcome = cloud.ore(&["promote-image", "--image-name=f-9", "--family=f"]).expect(1);
    assert!(outcome.stderr.contains("family f has no image f-9"), "{}", outcome.stderr);
    let update = ["update-image", "--image-name=f-9", "--family=f", "--description=new", "--public"];
    cloud.ore(&update).expect(0);
    assert_eq!(cloud.gce.images()["f-9"]["description"], "new");
    cloud.asked_for();
}

#[test]
fn instances_are_destroyed_by_their_names() {
    let cloud = Cloud::new();
    for name in ["kola-1", "kola-2", "mine"] {
        cloud.gce.put_instance(ZONE, name, "RUNNING", json!({}));
    }
    cloud.gce.put_instance("elsewhere", "kola-3", "RUNNING", json!({}));
    let outcome = cloud.ore(&["destroy-instances"]).expect(0);
    assert_eq!(outcome.stdout, "2 instance(s) scheduled for deletion\n");
    assert!(
        outcome.stderr.contains("project project-1, zone zone-1-a, as robot@project-1.iam"),
        "{}",
        outcome.stderr
    );
    assert_eq!(cloud.gce.names(), ["kola-3", "mine"]);
    cloud.gce.fate("instances.delete", Some(Fate::Fails("X", "no")));
    cloud.ore(&["--basename=mine", "destroy-instances"]).expect(1);
    cloud.asked_for();
}

/// Instances that look alike but for one thing, many of them; the names of those that are left over.
fn lookalikes(gce: &Gce, many: usize) -> Vec<String> {
    let marked = json!({"items": [{"key": "created-by", "value": "mantle"}]});
    let old = "2026-01-01T00:00:00.000-08:00";
    let is = |body: &[(&str, Value)]| {
        let mut value = json!({"metadata": marked, "creationTimestamp": old});
        for (key, other) in body {
            value[*key] = other.clone();
        }
        value
    };
    for n in 0..many {
        let body = is(&[("metadata", json!({"items": [{"key": "created-by", "value": "Mantle"}]}))]);
        gce.put_instance(ZONE, &format!("kola-{n:05}"), "RUNNING", body);
    }
    let young = chrono::Utc::now().to_rfc3339();
    gce.put_instance(ZONE, "young", "RUNNING", is(&[("creationTimestamp", young.into())]));
    gce.put_instance(ZONE, "odd", "RUNNING", is(&[("creationTimestamp", "long ago".into())]));
    gce.put_instance(ZONE, "stopped", "TERMINATED", is(&[]));
    gce.put_instance(ZONE, "kept", "RUNNING", is(&[("labels", json!({"mantle-keep": ""}))]));
    gce.put_instance(ZONE, "guarded", "RUNNING", is(&[("deletionProtection", json!(true))]));
    gce.put_instance(
        ZONE,
        "labelled",
        "RUNNING",
        is(&[("metadata", json!({})), ("labels", json!({"created-by": "mantle"}))]),
    );
    gce.put_instance("zone-2-b", "far", "RUNNING", is(&[]));
    for name in ["x-1", "x-2", "zz"] {
        gce.put_instance(ZONE, name, "RUNNING", is(&[]));
    }
    ["x-1", "x-2", "zz"].map(str::to_owned).into()
}

#[test]
fn gc_removes_what_is_left_over_and_nothing_else() {
    let cloud = Cloud::new();
    let left = lookalikes(&cloud.gce, 10_000);
    let all = cloud.gce.names();
    let plan = cloud.ore(&["gc", "--dry-run"]).expect(0).stdout;
    let planned: Value = serde_json::from_str(&plan).unwrap();
    let ids: Vec<_> =
        planned["items"].as_array().unwrap().iter().map(|i| i["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["zone-1-a/x-1", "zone-1-a/x-2", "zone-1-a/zz"]);
    assert_eq!(cloud.gce.names(), all);
    let plan = cloud.env.write("plan.json", &plan);
    let outcome = cloud.ore(&["--zone=zone-2-b", "gc", "--apply", plan.to_str().unwrap()]).expect(1);
    assert!(outcome.stderr.contains("the plan is for zone zone-1-a, not for zone-2-b"), "{}", outcome.stderr);
    cloud.gce.put_instance(ZONE, "x-2", "RUNNING", json!({"labels": {"mantle-keep": "1"}}));
    cloud.ore(&["gc", "--apply", plan.to_str().unwrap()]).expect(0);
    let expected =
        |gone: &[&str]| all.iter().filter(|n| !gone.contains(&n.as_str())).cloned().collect::<Vec<_>>();
    assert_eq!(cloud.gce.names(), expected(&["x-1", "zz"]));
    let outcome = cloud.ore(&["gc"]).expect(0);
    assert!(outcome.stdout.is_empty(), "{}", outcome.stdout);
    cloud.ore(&["gc", "--all-zones"]).expect(0);
    assert_eq!(cloud.gce.names(), expected(&["x-1", "zz", "far"]));
    assert_eq!(left.len(), 3);
    let journal = cloud.gce.proxy.take_journal();
    judged(&journal[journal.len() - 60..]);
}

#[test]
fn gc_goes_on_after_a_failure() {
    let cloud = Cloud::new();
    lookalikes(&cloud.gce, 0);
    cloud.gce.expire_tokens();
    cloud.gce.fate("instances.delete", Some(Fate::Fails("BACKEND", "not today")));
    let outcome = cloud.ore(&["gc"]).expect(1);
    assert!(outcome.stderr.contains("3 of 3 could not be removed"), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.matches("not today").count(), 3, "{}", outcome.stderr);
}
