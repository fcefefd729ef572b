//! `ore azure`, as far as the Resource Manager does it, every request written down.

use serde_json::{Value, json};

use super::double::{Azure, Fate, LOCATION, SUBSCRIPTION, id};
use super::{action, error, judged};
use crate::cloud::matrix::Double as _;
use crate::support::emulators::{AZURITE, azurite, python};
use crate::support::proxy::Fault;
use crate::support::{Env, Outcome, installed};

/// The service and somebody who uses it.
struct Cloud {
    azure: Azure,
    env: Env,
}

impl Cloud {
    fn new() -> Self {
        let azure = Azure::of_records();
        azure.put(&id("kola", ""), json!({"location": LOCATION}));
        let env = azure.env();
        Self { azure, env }
    }

    fn ore(&self, words: &[&str]) -> Outcome {
        let mut all = vec!["ore", "azure"];
        all.extend(words);
        self.env.mantle(&all)
    }

    /// What was asked of the Resource Manager, but for tokens; it was right.
    fn asked_for(&self) -> Vec<String> {
        let journal = self.azure.proxy.take_journal();
        if !journal.is_empty() {
            judged(&journal);
        }
        journal.iter().map(|e| action(&e.request)).filter(|a| a != "token").collect()
    }
}

const BLOB: &str = "--image-blob=https://kola.blob.core.windows.net/vhds/me.vhd";

#[test]
fn images_are_made_and_deleted() {
    let cloud = Cloud::new();
    let create = ["create-image-arm", "--image-name=me", BLOB];
    let outcome = cloud.ore(&create).expect(0);
    let image = id("kola", "Microsoft.Compute/images/me");
    assert_eq!(outcome.stdout, format!("{{\"ID\":\"{image}\",\"Location\":\"westus\"}}\n"));
    assert!(outcome.stderr.contains("Creating Azure API..."), "{}", outcome.stderr);
    assert_eq!(cloud.asked_for(), ["images.put", "operation", "images.get"]);
    let disk = &cloud.azure.order(&image)["properties"]["storageProfile"]["osDisk"];
    assert_eq!((&disk["osState"], &disk["osType"]), (&json!("Generalized"), &json!("Linux")));
    cloud.azure.fate("images.put", Some(Fate::Fails("InvalidParameter", "the blob is no VHD")));
    let outcome = cloud.ore(&create).expect(1);
    assert!(outcome.stderr.contains("Couldn't create image"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("InvalidParameter: the blob is no VHD"), "{}", outcome.stderr);
    let outcome = cloud.ore(&["--azure-location=northeurope", "delete-image", "--image-name=me"]).expect(0);
    assert!(
        outcome
            .stderr
            .contains(&format!("subscription {SUBSCRIPTION}, location northeurope, as application"))
    );
    assert!(cloud.azure.ids("images").is_empty());
    let outcome = cloud.ore(&["delete-image", "--image-name=me"]).expect(1);
    assert!(outcome.stderr.contains("there is no image me in resource group kola"), "{}", outcome.stderr);
    let outcome =
        cloud.ore(&["create-image-arm", "--image-name=me", BLOB, "--resource-group=none"]).expect(1);
    assert!(outcome.stderr.contains("ResourceGroupNotFound"), "{}", outcome.stderr);
    cloud.asked_for();
}

#[test]
fn galleries_are_filled_and_emptied() {
    let cloud = Cloud::new();
    let words = ["create-gallery-image", "--gallery-image-name=me", BLOB, "--arch=arm64"];
    let outcome = cloud.ore(&words).expect(0);
    let version = id("kola", "Microsoft.Compute/galleries/kola/images/me/versions/1.0.0");
    let made: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(made, json!({"ID": version, "Location": "westus"}));
    let asked = cloud.asked_for();
    let puts: Vec<_> = asked.iter().filter(|a| a.ends_with(".put")).collect();
    assert_eq!(puts, ["images.put", "galleries.put", "images.put", "versions.put"]);
    let managed = id("kola", "Microsoft.Compute/images/me");
    let definition = cloud.azure.order(&id("kola", "Microsoft.Compute/galleries/kola/images/me"));
    assert_eq!(definition["properties"]["hyperVGeneration"], "V2");
    assert_eq!(definition["properties"]["architecture"], "Arm64");
    assert_eq!(cloud.azure.order(&version)["properties"]["storageProfile"]["source"]["id"], managed);
    // Another version: gallery and definition are there.
    let more = format!("--image-id={managed}");
    cloud.ore(&["create-gallery-image", "--gallery-image-name=me", &more, "--image-version=1.0.1"]).expect(0);
    let asked = cloud.asked_for();
    assert_eq!(asked.iter().filter(|a| a.ends_with(".put")).collect::<Vec<_>>(), ["versions.put"]);
    cloud.ore(&["delete-gallery-image", "--gallery-image-name=me"]).expect(0);
    assert!(cloud.azure.ids("versions").is_empty());
    assert_eq!(cloud.azure.ids("images"), [managed]);
    let outcome = cloud.ore(&["delete-gallery-image", "--gallery-image-name=me"]).expect(1);
    assert!(outcome.stderr.contains("there is no image me in gallery kola"), "{}", outcome.stderr);
    cloud.asked_for();
}

#[test]
fn blobs_are_deleted_with_a_permission_for_them_alone() {
    let cloud = Cloud::new();
    cloud.azure.put(&id("kola", "Microsoft.Storage/storageAccounts/kola"), json!({"location": LOCATION}));
    for name in ["a b.vhd", "other.vhd"] {
        cloud.azure.put_blob(&format!("kola/vhds/{}", name.replace(' ', "%20")), b"x");
    }
    cloud.ore(&["delete-blob", "--blob-name=a b.vhd"]).expect(0);
    assert_eq!(cloud.asked_for(), ["storageAccounts.ListServiceSas", "blob.delete"]);
    assert_eq!(cloud.azure.blobs(), ["kola/vhds/other.vhd"]);
    let outcome = cloud.ore(&["delete-blob", "--blob-name=a b.vhd"]).expect(1);
    assert!(outcome.stderr.contains("there is no blob a b.vhd"), "{}", outcome.stderr);
}

#[test]
fn what_cannot_be_is_refused_before_any_request() {
    let cloud = Cloud::new();
    for (words, code, told) in [
        (vec!["create-image-arm"], 2, "--image-name is required"),
        (vec!["create-image-arm", "--image-name=a"], 2, "--image-blob is required"),
        (vec!["create-image-arm", "--image-name=a/b", BLOB], 2, "a name has no /"),
        (vec!["create-image-arm", "--image-name=a", "--image-blob=x"], 2, "it is no URL of a page blob"),
        (vec!["create-image-arm", "--image-name=a", BLOB, "--hyper-v-generation=V3"], 2, "V3"),
        (vec!["create-gallery-image"], 2, "--gallery-image-name is required"),
        (vec!["create-gallery-image", "--gallery-image-name=a"], 2, "--image-blob or --image-id is required"),
        (
            vec!["create-gallery-image", "--gallery-image-name=a", "--image-id=x"],
            2,
            "it is no ID of an image",
        ),
        (
            vec!["create-gallery-image", "--gallery-image-name=a", BLOB, "--image-version=1"],
            2,
            "MAJOR.MINOR.PATCH",
        ),
        (
            vec!["create-gallery-image", "--gallery-image-name=a", BLOB, "--arch=mips"],
            2,
            "neither x64 nor Arm64",
        ),
        (vec!["delete-gallery-image"], 2, "--gallery-image-name is required"),
        (vec!["delete-image"], 2, "--image-name is required"),
        (vec!["delete-blob"], 2, "--blob-name is required"),
        (vec!["delete-blob", "--blob-name=a", "--container="], 2, "--container is required"),
        (vec!["gc", "--include-untagged", "--ledger=x"], 2, "cannot be used with"),
        (vec!["--azure-location=", "gc"], 1, "the Azure location has no name"),
        (vec!["--azure-auth=/nonexistent", "gc"], 1, "cannot read the Azure file /nonexistent"),
        (vec!["--azure-subscription=other", "gc"], 1, "azureProfile.json"),
        (vec!["--azure-endpoint=x", "gc"], 1, "is no URL of an Azure service"),
    ] {
        let outcome = cloud.ore(&words);
        assert_eq!(outcome.code, code, "{words:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(told), "{words:?}: {}", outcome.stderr);
    }
    assert!(cloud.azure.proxy.take_journal().is_empty());
}

#[test]
fn faults_of_the_service_are_outlasted_or_told() {
    let cloud = Cloud::new();
    cloud.azure.proxy.on(
        |r| action(r) == "images.put",
        0,
        2,
        Fault::Answer(error(429, "TooManyRequests", "x")),
    );
    cloud.azure.proxy.on(|r| action(r) == "operation", 0, 1, Fault::ResetAfter);
    cloud.azure.proxy.on(|r| action(r) == "images.get", 0, 1, Fault::Truncate(9));
    cloud.ore(&["create-image-arm", "--image-name=me", BLOB]).expect(0);
    cloud.azure.proxy.calm();
    for (fault, told) in [
        (Fault::Answer(error(403, "AuthorizationFailed", "no right")), "AuthorizationFailed: no right"),
        (Fault::Answer(error(409, "OperationNotAllowed", "quota exceeded")), "ask for a larger quota"),
        (Fault::Garbage(b"<html>".to_vec()), "cannot be understood"),
    ] {
        cloud.azure.proxy.on(|r| action(r).starts_with("resourceGroups."), 0, 99, fault);
        let outcome = cloud.ore(&["gc"]).expect(1);
        assert!(outcome.stderr.contains(told), "{told}: {}", outcome.stderr);
        cloud.azure.proxy.calm();
    }
    // Pages that lead elsewhere get no token.
    let page = json!({"value": [], "nextLink": "http://127.0.0.1:1/subscriptions"}).to_string();
    cloud.azure.proxy.on(|r| action(r) == "resourceGroups.list", 0, 9, Fault::Garbage(page.into_bytes()));
    let outcome = cloud.ore(&["gc"]).expect(1);
    assert!(outcome.stderr.contains("on another server"), "{}", outcome.stderr);
}

/// Groups that look alike but for one thing, many of them.
fn lookalikes(azure: &Azure, many: usize) {
    let old = "2026-01-01T00:00:00Z";
    let tags = |created: &str| json!({"createdBy": "mantle", "createdAt": created});
    let put = |name: &str, tags: Value| azure.put(&id(name, ""), json!({"location": LOCATION, "tags": tags}));
    for n in 0..many {
        put(&format!("kola-{n:05}"), tags(old));
    }
    put("Kola-cluster-0", tags(old));
    put("my-kola-cluster-1", tags(old));
    put("kola-cluster-young", tags(&chrono::Utc::now().to_rfc3339()));
    put("kola-cluster-odd", tags("long ago"));
    put("kola-cluster-untagged", json!({}));
    put("kola-cluster-null", Value::Null);
    let mut kept = tags(old);
    kept["mantle:keep"] = "".into();
    put("kola-cluster-kept", kept);
    let leaving = json!({"location": LOCATION, "tags": tags(old), "state": "Deleting"});
    azure.put(&id("kola-cluster-leaving", ""), leaving);
    for name in ["a", "b", "c"] {
        put(&format!("kola-cluster-{name}"), tags(old));
    }
    azure.put(&id("kola-cluster-a", "Microsoft.Network/virtualNetworks/n"), json!({"location": LOCATION}));
}

fn names(azure: &Azure) -> Vec<String> {
    let mut all: Vec<_> =
        azure.ids("resourceGroups").iter().map(|i| i.rsplit('/').next().unwrap().to_owned()).collect();
    all.sort();
    all
}

#[test]
fn gc_removes_what_is_left_over_and_nothing_else() {
    let cloud = Cloud::new();
    lookalikes(&cloud.azure, 10_000);
    let all = names(&cloud.azure);
    let plan = cloud.ore(&["gc", "--dry-run"]).expect(0).stdout;
    let planned: Value = serde_json::from_str(&plan).unwrap();
    let ids: Vec<_> =
        planned["items"].as_array().unwrap().iter().map(|i| i["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["kola-cluster-a", "kola-cluster-b", "kola-cluster-c"]);
    assert_eq!(planned["subscription"], SUBSCRIPTION);
    assert_eq!(names(&cloud.azure), all);
    let plan = cloud.env.write("plan.json", &plan);
    let other = "--azure-subscription=99999999-2222-4333-8444-555555555555";
    let outcome = cloud.ore(&[other, "gc", "--apply", plan.to_str().unwrap()]).expect(1);
    assert!(
        outcome.stderr.contains(&format!("the plan is for subscription {SUBSCRIPTION}")),
        "{}",
        outcome.stderr
    );
    let kept = json!({"createdAt": "2026-01-01T00:00:00Z", "mantle:keep": "1"});
    cloud.azure.put(&id("kola-cluster-b", ""), json!({"location": LOCATION, "tags": kept}));
    cloud.ore(&["gc", "--apply", plan.to_str().unwrap()]).expect(0);
    let expected =
        |gone: &[&str]| all.iter().filter(|n| !gone.contains(&n.as_str())).cloned().collect::<Vec<_>>();
    assert_eq!(names(&cloud.azure), expected(&["kola-cluster-a", "kola-cluster-c"]));
    assert!(cloud.azure.ids("virtualNetworks").is_empty());
    let outcome = cloud.ore(&["gc"]).expect(0);
    assert!(outcome.stdout.is_empty(), "{}", outcome.stdout);
    assert_eq!(
        outcome.stderr.matches("whose time of creation is not known").count(),
        3,
        "{}",
        outcome.stderr
    );
    cloud.ore(&["gc", "--include-untagged"]).expect(0);
    let untagged = ["kola-cluster-untagged", "kola-cluster-null", "kola-cluster-odd"];
    assert_eq!(
        names(&cloud.azure),
        expected(&[&["kola-cluster-a", "kola-cluster-c"][..], &untagged].concat())
    );
    let journal = cloud.azure.proxy.take_journal();
    // Many pages.
    assert!(journal.iter().filter(|e| action(&e.request) == "resourceGroups.list").count() > 40);
    judged(&journal[journal.len() - 40..]);
}

#[test]
fn gc_goes_on_after_a_failure() {
    let cloud = Cloud::new();
    lookalikes(&cloud.azure, 0);
    cloud.azure.fate("resourceGroups.delete", Some(Fate::Fails("ScopeLocked", "not today")));
    let outcome = cloud.ore(&["gc"]).expect(1);
    assert!(outcome.stderr.contains("3 of 3 could not be removed"), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.matches("not today").count(), 3, "{}", outcome.stderr);
    // All are begun before the first is waited for to its end.
    cloud.azure.fate("resourceGroups.delete", Some(Fate::Pends));
    cloud.azure.proxy.take_journal();
    cloud.ore(&["gc"]).expect(1);
    let journal = cloud.azure.proxy.take_journal();
    let order: Vec<_> = journal.iter().map(|e| action(&e.request)).collect();
    let last = order.iter().rposition(|a| a == "resourceGroups.delete").unwrap();
    let asked = |part: &[String]| part.iter().filter(|a| *a == "operation").count();
    assert!(asked(&order[..last]) * 3 < asked(&order), "{order:?}");
}

/// A disk of 3 MiB, of which one holds something.
fn disk(env: &Env) -> bool {
    let made = std::fs::File::create(env.home().join("disk.raw")).unwrap();
    made.set_len(3 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&made, &[7; 1 << 20], 1 << 20).unwrap();
    let mut convert = env.command("qemu-img");
    convert.args(["convert", "-O", "vpc", "-o", "subformat=dynamic,force_size=on", "disk.raw", "disk.vhd"]);
    installed("qemu-img") && convert.status().unwrap().success()
}

#[test]
fn disks_are_uploaded_with_the_key_that_the_resource_manager_gives() {
    let mut cloud = Cloud::new();
    let Some(azurite) = azurite() else { return };
    if !disk(&cloud.env) {
        return;
    }
    cloud.azure.put(&id("kola", &format!("Microsoft.Storage/storageAccounts/{}", AZURITE.0)), json!({}));
    let blobs = format!("http://{}", azurite.address);
    cloud.env.set("AZURE_STORAGE_BLOB_ENDPOINT", &blobs);
    let account = format!("--storage-account={}", AZURITE.0);
    let upload = ["upload-blob-arm", &account, "--file=disk.vhd"];
    // A name has to come from somewhere.
    let outcome = cloud.ore(&upload).expect(1);
    assert!(outcome.stderr.contains("pass --blob-name, or have a version.txt"), "{}", outcome.stderr);
    cloud.env.write(
        "version.txt",
        "COREOS_VERSION=1.2.3\nCOREOS_VERSION_ID=1.2.3\nCOREOS_BUILD_ID=\nCOREOS_SDK_VERSION=1.0.0\n",
    );
    let url = format!("{blobs}/{}/vhds/Container-Linux-dev-tester-1.2.3.vhd", AZURITE.0);
    for sent in ["bytes sent", "already exists, with the same content"] {
        let outcome = cloud.ore(&upload).expect(0);
        assert_eq!(outcome.stdout, format!("{{\"URL\":\"{url}\"}}\n"));
        assert!(outcome.stderr.contains(sent), "{}", outcome.stderr);
    }
    assert_eq!(cloud.asked_for(), ["storageAccounts.listKeys"; 2]);
    // Who may not have the key has a token, which is for https only.
    let refused = Fate::Fails("AuthorizationFailed", "no right to list keys");
    cloud.azure.fate("storageAccounts.listKeys", Some(refused));
    let outcome = cloud.ore(&upload).expect(1);
    assert!(
        outcome.stderr.contains("no right to list keys (HTTP 403): trying with a token"),
        "{}",
        outcome.stderr
    );
    assert!(outcome.stderr.contains("it is not https"), "{}", outcome.stderr);
    cloud.azure.fate("storageAccounts.listKeys", None);
    let outcome = cloud.ore(&["upload-blob-arm", "--file=disk.vhd", "--blob-name=x.vhd"]).expect(1);
    assert!(outcome.stderr.contains("Fetching storage service keys failed"), "{}", outcome.stderr);
    cloud.azure.proxy.take_journal();
    for (words, said) in [
        (["--file=disk.vhd", "--blob-name=x.vhd", "--storage-account=NO"], "is no name of a storage account"),
        (["--file=disk.vhd", "--blob-name=x.vhd", "--storage-account="], "--storage-account is required"),
        (["--file=disk.vhd", "--blob-name=x", &account], "Blob name should end with .vhd"),
        (["--file=disk.raw", "--blob-name=x.vhd", &account], "it has no footer"),
    ] {
        let outcome = cloud.ore(&[&["upload-blob-arm"][..], &words].concat());
        assert!(outcome.code != 0 && outcome.stderr.contains(said), "{words:?}: {outcome:?}");
    }
    assert!(cloud.asked_for().is_empty());
}

#[test]
fn microsofts_clients_are_content_with_the_double() {
    use crate::support::machines::Pretended;
    let Some(machines) = Pretended::new() else { return };
    let azure = Azure::start(std::sync::Arc::new(machines));
    azure.pages_of(3);
    let Some((content, text)) =
        python("peer_azure.py", &[&azure.proxy.url(), SUBSCRIPTION, &azure.token()], "")
    else {
        return;
    };
    assert!(content, "{text}");
    let journal = azure.proxy.take_journal();
    assert!(journal.len() > 60, "{}", journal.len());
    // What they ask is right for the judge, too, and a mistake is not.
    judged(&journal);
    let mut wrong = journal.iter().find(|e| action(&e.request) == "virtualMachines.put").unwrap().clone();
    wrong.request.body = wrong.request.text().replace("hardwareProfile", "hardwareprofile").into_bytes();
    let line = json!({"method": "PUT", "target": wrong.request.target, "body": wrong.request.text()});
    let (content, text) = python("judge_azure.py", &[], &line.to_string()).unwrap();
    assert!(!content && text.contains("VirtualMachineProperties has no such field"), "{text}");
}
