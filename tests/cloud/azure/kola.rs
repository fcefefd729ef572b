//! `kola -p azure`, the whole way, against the local Resource Manager.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::double::{Azure, Fate, SECRET, SIGNATURE, id};
use super::{action, error, id_type, judged};
use crate::cloud::matrix::{Double as _, kola, matrices, nothing_left};
use crate::support::Env;
use crate::support::http::{self, Reply, Response};
use crate::support::machines::{Local, Pretended};
use crate::support::proxy::Fault;

/// Machines that only seem to be; `None` where even those cannot be.
fn pretended() -> Option<Azure> {
    Some(Azure::start(Arc::new(Pretended::new()?)))
}

/// Real guests: in containers, or as `MANTLE_TEST_MACHINES=qemu-unpriv` says, in virtual machines.
fn real() -> Option<Azure> {
    let platform = std::env::var("MANTLE_TEST_MACHINES").unwrap_or_else(|_| "nspawn".into());
    Some(Azure::start(Arc::new(Local::new(&platform)?)))
}

/// The folder of the only machine of a run.
fn folder(env: &Env, below: &str) -> PathBuf {
    let all = std::fs::read_dir(env.home().join(below)).unwrap().map(|e| e.unwrap().path());
    let mut machines = all.filter(|p| p.file_name().unwrap().to_string_lossy().starts_with("kola-"));
    machines.next().unwrap()
}

#[test]
fn real_tests_on_real_machines() {
    let Some(azure) = real() else { return };
    let (env, image) = (azure.env(), azure.image());
    let before = azure.census();
    // Tests that need no feature: there is no feature file to tell which this image has.
    let tests = ["cl.filesystem", "coreos.auth.verify", "systemd.sysusers.gshadow"];
    let outcome = kola(&azure, &env, &image, "run", &tests).expect(0);
    for test in tests {
        assert!(outcome.stdout.contains(&format!("--- PASS: {test}")), "{}", outcome.stdout);
    }
    nothing_left(&azure, &before, "a run");
    let folder = folder(&env, "out/coreos.auth.verify");
    let console = std::fs::read_to_string(folder.join("console.txt")).unwrap();
    assert!(console.contains("ignition"), "{console}");
    let properties = std::fs::read_to_string(env.home().join("out/properties.json")).unwrap();
    let properties: Value = serde_json::from_str(&properties).unwrap();
    let expected = json!({
        "diskUri": image, "publisher": "CoreOS", "offer": "CoreOS", "sku": "alpha", "version": "",
        "location": "westus", "size": "Standard_D2_v2",
    });
    assert_eq!(properties["azure"], expected);
    let outcome = env.mantle(&["kola", "cleanup", "out"]).expect(0);
    assert_eq!(outcome.stdout, "out: nothing is left over\n");
    let journal = azure.proxy.take_journal();
    // One group for all tests.
    assert_eq!(journal.iter().filter(|e| action(&e.request) == "resourceGroups.put").count(), 1);
    assert_eq!(journal.iter().filter(|e| action(&e.request) == "virtualMachines.put").count(), 3);
    judged(&journal);
}

#[test]
fn a_real_machine_for_people_with_its_console_in_an_account() {
    let Some(azure) = real() else { return };
    let (env, image) = (azure.env(), azure.image());
    let before = azure.census();
    let outcome = kola(&azure, &env, &image, "spawn", &["-v", "--azure-console=account"]).expect(0);
    assert!(outcome.stdout.contains(" spawned at 127.0.0.1:"), "{}", outcome.stdout);
    nothing_left(&azure, &before, "a shell");
    let journal = azure.proxy.take_journal();
    let asked = |name: &str| journal.iter().any(|e| action(&e.request) == name);
    assert!(asked("storageAccounts.put") && asked("storageAccounts.ListServiceSas") && asked("blob.get"));
    assert!(!asked("virtualMachines.retrieveBootDiagnosticsData"));
    judged(&journal);
}

#[test]
fn a_machine_that_stays_has_all_that_was_ordered() {
    let Some(azure) = pretended() else { return };
    let (env, image) = (azure.env(), azure.image());
    let before = azure.census();
    let who = id("images", "Microsoft.ManagedIdentity/userAssignedIdentities/me");
    let identity = format!("--azure-vm-identity={who}");
    let words = [
        "--remove=false",
        "--shell=false",
        "--azure-size=Standard_D4s_v5",
        "--azure-disk-controller=nvme",
        "--azure-trusted-launch",
        "--azure-location=northeurope",
        &identity,
    ];
    let outcome =
        kola(&azure, &env, &id("images", "Microsoft.Compute/images/none"), "spawn", &words).expect(1);
    assert!(outcome.stderr.contains("images/none"), "{}", outcome.stderr);
    assert_eq!(azure.ids("resourceGroups"), [id("images", "")]);
    let outcome = kola(&azure, &env, &image, "spawn", &words).expect(0);
    let [machine] = &azure.ids("virtualMachines")[..] else { panic!() };
    let name = machine.rsplit('/').next().unwrap();
    let told = format!("az vm delete --yes --name {name} --resource-group kola-cluster-");
    assert!(outcome.stdout.contains(&told), "{}", outcome.stdout);
    let order = azure.order(machine);
    assert_eq!((&order["location"], &order["tags"]["createdBy"]), (&json!("northeurope"), &json!("mantle")));
    assert_eq!(order["identity"]["userAssignedIdentities"], json!({who: {}}));
    let properties = &order["properties"];
    assert_eq!(properties["hardwareProfile"]["vmSize"], "Standard_D4s_v5");
    assert_eq!(properties["storageProfile"]["imageReference"], json!({"id": image}));
    assert_eq!(properties["storageProfile"]["diskControllerType"], "NVMe");
    assert_eq!(properties["securityProfile"]["securityType"], "TrustedLaunch");
    assert_eq!(properties["diagnosticsProfile"]["bootDiagnostics"], json!({"enabled": true}));
    let os = &properties["osProfile"];
    assert_eq!((&os["adminUsername"], os["computerName"].as_str()), (&json!("core"), Some(name)));
    let key = &os["linuxConfiguration"]["ssh"]["publicKeys"][0];
    assert_eq!(key["path"], "/home/core/.ssh/authorized_keys");
    assert!(key["keyData"].as_str().unwrap().starts_with("ssh-rsa "));
    let data = openssl::base64::decode_block(os["customData"].as_str().unwrap()).unwrap();
    assert!(serde_json::from_slice::<Value>(&data).unwrap()["ignition"].is_object());
    let group = azure.order(&machine[..machine.find("/providers/").unwrap()]);
    assert!(chrono::DateTime::parse_from_rfc3339(group["tags"]["createdAt"].as_str().unwrap()).is_ok());
    let outcome = env.mantle(&["kola", "cleanup", "out"]).expect(0);
    assert!(outcome.stdout.contains("removed resource group kola-cluster-"), "{}", outcome.stdout);
    nothing_left(&azure, &before, "clean-up");
    judged(&azure.proxy.take_journal());
}

#[test]
fn images_are_made_published_or_of_a_gallery() {
    let Some(azure) = pretended() else { return };
    let mut env = azure.env();
    azure.image();
    let gallery = id("images", "Microsoft.Compute/galleries/g/images/i/versions/1.0.0");
    azure.put(&gallery, json!({"location": "westus", "properties": {}}));
    let market = format!(
        "/subscriptions/{}/providers/Microsoft.Compute/locations/westus/publishers/CoreOS/artifacttypes/vmimage/offers\
         /CoreOS/skus/beta/versions/1745.7.0",
        super::double::SUBSCRIPTION
    );
    azure.put(&market, json!({"location": "westus"}));
    let released = http::serve(|request| {
        Reply::Answer(match request.path() {
            "/beta/amd64-usr/current/version.txt" => {
                Response::new(200, "text/plain", "COREOS_BUILD=1745\nCOREOS_VERSION=1745.7.0\n")
            }
            "/stable/amd64-usr/current/version.txt" => Response::new(200, "text/plain", "COREOS_BUILD=1\n"),
            _ => Response::new(404, "text/plain", "no"),
        })
    });
    env.set("MANTLE_RELEASE_URL", format!("http://{released}/{{channel}}"));
    let before = azure.census();
    let mut all = Vec::new();
    let mut image = || {
        let journal = azure.proxy.take_journal();
        let of = |name: &str| journal.iter().find(|e| action(&e.request) == name).map(|e| e.request.text());
        let order: Value = serde_json::from_str(&of("virtualMachines.put").unwrap()).unwrap();
        let image = of("images.put").map(|text| serde_json::from_str::<Value>(&text).unwrap());
        all.extend(journal);
        (order["properties"]["storageProfile"]["imageReference"].clone(), image.unwrap_or_default())
    };
    kola(&azure, &env, "", "spawn", &["--azure-sku=beta"]).expect(0);
    let published = json!({"publisher": "CoreOS", "offer": "CoreOS", "sku": "beta", "version": "1745.7.0"});
    assert_eq!(image().0, published);
    kola(&azure, &env, &gallery, "spawn", &[]).expect(0);
    assert_eq!(image().0, json!({"id": gallery}));
    let community = "/CommunityGalleries/g/Images/i/Versions/latest";
    kola(&azure, &env, community, "spawn", &[]).expect(0);
    assert_eq!(image().0, json!({"communityGalleryImageId": community}));
    let blob = "https://kola.blob.core.windows.net/vhds/x.vhd";
    kola(&azure, &env, blob, "spawn", &["--azure-hyper-v-generation=V2"]).expect(0);
    let (reference, made) = image();
    assert!(reference["id"].as_str().unwrap().ends_with("/images/kola-image"), "{reference}");
    assert_eq!(made["properties"]["hyperVGeneration"], "V2");
    assert_eq!(
        made["properties"]["storageProfile"]["osDisk"],
        json!({"osType": "Linux", "osState": "Generalized", "blobUri": blob})
    );
    for (words, told) in [
        (["--azure-sku=stable", ""], "couldn't find COREOS_VERSION in version.txt"),
        (["--azure-sku=alpha", ""], "unable to fetch release bucket alpha version"),
        (["--azure-sku=beta", "--azure-version=1"], "cannot use the Azure image"),
    ] {
        let words: Vec<_> = words.into_iter().filter(|w| !w.is_empty()).collect();
        let outcome = kola(&azure, &env, "", "spawn", &words).expect(1);
        assert!(outcome.stderr.contains(told), "{words:?}: {}", outcome.stderr);
    }
    nothing_left(&azure, &before, "images");
    judged(&all);
}

#[test]
fn private_machines_have_no_public_address_and_a_foreign_network() {
    let Some(azure) = pretended() else { return };
    let (env, image) = (azure.env(), azure.image());
    azure.put(&id("lab", ""), json!({"location": "westus"}));
    azure.put(&id("lab", "Microsoft.Network/virtualNetworks/n"), json!({"location": "westus"}));
    let before = azure.census();
    let words = ["--azure-use-private-ips", "--azure-vnet-subnet-name=lab/n/s"];
    kola(&azure, &env, &image, "spawn", &words).expect(0);
    let journal = azure.proxy.take_journal();
    let asked = |name: &str| journal.iter().any(|e| action(&e.request) == name);
    assert!(!asked("publicIPAddresses.put") && !asked("virtualNetworks.put") && asked("virtualMachines.put"));
    nothing_left(&azure, &before, "private machines");
    judged(&journal);
}

#[test]
fn wrong_images_are_refused_before_any_request() {
    let Some(azure) = pretended() else { return };
    let outcome = kola(&azure, &azure.env(), "name", "spawn", &[]);
    assert!(outcome.code != 0 && outcome.stderr.contains("neither the ID of an image"), "{}", outcome.stderr);
    assert!(azure.proxy.take_journal().is_empty());
}

#[test]
fn operations_that_fail_say_why_and_leave_nothing() {
    let Some(azure) = pretended() else { return };
    for (at, code, message) in [
        (
            "virtualMachines.put",
            "SkuNotAvailable",
            "The requested size is currently not available in location westus",
        ),
        ("virtualMachines.put", "OperationNotAllowed", "exceeding approved standardDFamily Cores quota"),
        ("networkInterfaces.put", "SubnetIsFull", "The subnet has not enough addresses"),
        ("virtualNetworks.put", "ResourceCountExceedsLimit", "Cannot create more than 50 virtual networks"),
    ] {
        azure.reset();
        let (env, image) = (azure.env(), azure.image());
        let before = azure.census();
        azure.fate(at, Some(Fate::Fails(code, message)));
        let outcome = kola(&azure, &env, &image, "spawn", &[]).expect(1);
        let said = outcome.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(code) && said.contains(message), "{said}");
        nothing_left(&azure, &before, code);
        let gone = azure.proxy.take_journal();
        let deleted = |kind: &str| gone.iter().any(|e| action(&e.request) == format!("{kind}.delete"));
        if at == "virtualMachines.put" {
            // Not left to the group's end.
            assert!(
                deleted("virtualMachines") && deleted("networkInterfaces") && deleted("publicIPAddresses")
            );
        }
        env.mantle(&["kola", "cleanup", "out"]).expect(0);
    }
}

#[test]
fn operations_that_never_end_are_given_up() {
    let Some(azure) = pretended() else { return };
    let (env, image) = (azure.env(), azure.image());
    let before = azure.census();
    azure.fate("virtualMachines.put", Some(Fate::Pends));
    let outcome = kola(&azure, &env, &image, "spawn", &[]).expect(1);
    let said = outcome.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("not within 1800 s") && said.contains("last seen as: InProgress"), "{said}");
    nothing_left(&azure, &before, "an operation without end");
}

#[test]
fn deletions_that_fail_are_left_and_said() {
    let Some(azure) = pretended() else { return };
    let (env, image) = (azure.env(), azure.image());
    let before = azure.census();
    azure.fate("resourceGroups.delete", Some(Fate::Fails("ScopeLocked", "The scope cannot perform delete")));
    let outcome = kola(&azure, &env, &image, "spawn", &[]).expect(1);
    assert!(outcome.stderr.contains("ScopeLocked"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("one thing is left over"), "{}", outcome.stderr);
    azure.fate("resourceGroups.delete", None);
    env.mantle(&["kola", "cleanup", "out"]).expect(0);
    nothing_left(&azure, &before, "clean-up");
}

#[test]
fn tokens_that_expire_are_renewed() {
    let Some(azure) = pretended() else { return };
    let (env, image) = (azure.env(), azure.image());
    let before = azure.census();
    let mut seen = 0;
    azure.proxy.rule(move |request| {
        let asked = !["token", "blob.get"].contains(&&*action(request));
        seen += usize::from(asked);
        match asked && seen % 5 == 0 {
            true => Fault::Answer(error(401, "ExpiredAuthenticationToken", "The access token expiry")),
            false => Fault::None,
        }
    });
    kola(&azure, &env, &image, "spawn", &[]).expect(0);
    nothing_left(&azure, &before, "renewed tokens");
    let tokens = azure.proxy.take_journal().iter().filter(|e| action(&e.request) == "token").count();
    assert!(tokens > 1, "{tokens}");
}

matrices!(
    pretended,
    end: "virtualMachines.delete",
    interrupts: [
        "token",
        "images.get",
        "resourceGroups.put",
        "virtualNetworks.put",
        "networkInterfaces.put",
        "virtualMachines.put",
        "virtualMachines.get"
    ],
    last: "resourceGroups.delete"
);

#[test]
fn secrets_never_show() {
    let Some(azure) = pretended() else { return };
    let (mut env, image) = (azure.env(), azure.image());
    for refuse in [false, true] {
        if refuse {
            // Refuses, and repeats all that came.
            azure.proxy.rule(|request| {
                let text =
                    format!("who are you? {:?} {} {}", request.headers, request.target, request.text());
                Fault::Answer(error(403, "AuthorizationFailed", &text))
            });
        }
        env.set("NO_COLOR", "1");
        for console in ["managed", "account"] {
            let console = format!("--azure-console={console}");
            let outcome = kola(&azure, &env, &image, "spawn", &["--debug", &console]);
            let text = format!("{}{}", outcome.stdout, outcome.stderr);
            for secret in [SECRET, "hush~client", "hush-token", SIGNATURE] {
                assert!(!text.contains(secret), "{secret} shows:\n{text}");
            }
        }
    }
    assert_eq!(id_type(&image), "images");
}
