//! `ore esx` against vcsim.

use serde_json::{Value, json};

use super::double::{BASE, PASSWORD, USER, VSphere};
use super::{action, fault, judged, told};
use crate::cloud::matrix::Double as _;
use crate::support::Env;
use crate::support::proxy::Fault;
use crate::support::vcsim::{Model, PLAIN, Vcsim};

const OVF: &str = include_str!("base.ovf");

fn start() -> Option<VSphere> {
    VSphere::of_records(PLAIN)
}

/// The package as files, with a manifest of these sums.
fn package(env: &Env, disk: &[u8]) -> String {
    let sum = |bytes: &[u8]| mantle::text::hex(&openssl::sha::sha256(bytes));
    let manifest = format!(
        "SHA256(base.ovf)= {}\nSHA256(disk.vmdk)= {}\n",
        sum(OVF.as_bytes()),
        sum(b"a disk of VMware")
    );
    let path = env.write("base.ova", "");
    let mut tar = tar::Builder::new(std::fs::File::create(&path).unwrap());
    for (name, content) in
        [("base.ovf", OVF.as_bytes()), ("base.mf", manifest.as_bytes()), ("disk.vmdk", disk)]
    {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content).unwrap();
    }
    tar.finish().unwrap();
    path.display().to_string()
}

#[test]
fn a_base_is_made_used_and_removed() {
    let Some(cloud) = start() else { return };
    let env = cloud.env();
    let before = cloud.census();
    let file = format!("--file={}", package(&env, b"a disk of VMware"));
    let outcome = env.mantle(&["ore", "esx", "create-base", &file, "--name=base-1"]).expect(0);
    assert_eq!(outcome.stdout, "base-1\n");
    let (id, _) = cloud.vms().into_iter().find(|(_, name)| name == "base-1").unwrap();
    let devices = cloud.property(&id, "config.hardware.device");
    assert!(devices.children().iter().any(|d| d.kind() == "VirtualDisk"));
    let journal = cloud.proxy.take_journal();
    let upload = journal.iter().find(|e| action(&e.request) == "upload").unwrap();
    assert_eq!(upload.request.body, b"a disk of VMware");
    assert_eq!(upload.request.header("content-type"), Some("application/x-vnd.vmware-streamVmdk"));
    assert_eq!(journal.last().map(|e| action(&e.request)).as_deref(), Some("Logout"));
    judged(&journal);
    // Its name is taken now.
    let outcome = env.mantle(&["ore", "esx", "create-base", &file, "--name=base-1"]).expect(1);
    let text = told(&outcome);
    assert!(
        text.contains("Couldn't create base VM")
            && text.contains("DuplicateName: there is /DC0/vm/base-1 already"),
        "{text}"
    );
    let outcome = env.mantle(&["ore", "esx", "remove-base", "--name=base-1"]).expect(0);
    assert!(told(&outcome).contains("removed /DC0/vm/base-1"), "{}", outcome.stderr);
    assert_eq!(cloud.census()["vm"], before["vm"]);
    let outcome = env.mantle(&["ore", "esx", "remove-base", "--name=base-1"]).expect(1);
    assert!(told(&outcome).contains("couldn't find VM: there is no \"base-1\""), "{}", outcome.stderr);
    judged(&cloud.proxy.take_journal());
}

#[test]
fn an_upload_that_fails_leaves_nothing() {
    let Some(cloud) = start() else { return };
    let env = cloud.env();
    let before = cloud.census();
    let damaged = format!("--file={}", package(&env, b"a disk of someone"));
    let outcome = env.mantle(&["ore", "esx", "create-base", &damaged, "--name=b"]).expect(1);
    assert!(told(&outcome).contains("\"disk.vmdk\" is damaged"), "{}", outcome.stderr);
    assert!(cloud.proxy.take_journal().iter().all(|e| action(&e.request) != "ImportVApp"));
    let file = format!("--file={}", package(&env, b"a disk of VMware"));
    for (at, name, says) in [
        ("CreateImportSpec", "InvalidArgument", "InvalidArgument: planned"),
        ("ImportVApp", "InsufficientResourcesFault", "InsufficientResourcesFault: planned"),
        ("upload", "NoDiskSpace", "NoDiskSpace: planned"),
        ("HttpNfcLeaseComplete", "Timedout", "uploading disks to ResourcePool"),
        ("Login", "InvalidLogin", "InvalidLogin: planned"),
    ] {
        cloud.proxy.rule(move |request| match action(request) == at {
            true => Fault::Answer(fault(name, "planned")),
            false => Fault::None,
        });
        let text = told(&env.mantle(&["ore", "esx", "create-base", &file, "--name=b"]).expect(1));
        assert!(text.contains(says), "{at}: {text}");
        assert_eq!(cloud.census()["vm"], before["vm"], "{at}");
        let journal = cloud.proxy.take_journal();
        let aborted = journal.iter().any(|e| action(&e.request) == "HttpNfcLeaseAbort");
        assert_eq!(aborted, ["upload", "HttpNfcLeaseComplete"].contains(&at), "{at}");
        cloud.proxy.calm();
    }
    // A lease that turns out to be an error.
    cloud.proxy.rule(|request| match action(request) == "RetrievePropertiesEx HttpNfcLease" {
        true => {
            let lease = super::asked(request).unwrap().target_at("specSet/objectSet/obj").unwrap().id;
            let body = format!(
                "<E xmlns:xsi=\"x\"><Body><RetrievePropertiesExResponse><returnval><objects><obj type=\"HttpNfcLease\">{lease}</obj>\
                 <propSet><name>state</name><val>error</val></propSet><propSet><name>error</name><val>\
                 <localizedMessage>The datastore is full.</localizedMessage></val></propSet></objects></returnval>\
                 </RetrievePropertiesExResponse></Body></E>"
            );
            Fault::Garbage(body.into_bytes())
        }
        false => Fault::None,
    });
    let text = told(&env.mantle(&["ore", "esx", "create-base", &file, "--name=b"]).expect(1));
    assert!(text.contains("The datastore is full."), "{text}");
    assert_eq!(cloud.census()["vm"], before["vm"]);
    cloud.proxy.calm();
    // The session ends in the middle, and the lease with it.
    cloud.proxy.take_journal();
    cloud.proxy.on(
        |request| action(request) == "HttpNfcLeaseComplete",
        0,
        1,
        Fault::Answer(fault("NotAuthenticated", "gone")),
    );
    let outcome = env.mantle(&["ore", "esx", "create-base", &file, "--name=b"]).expect(1);
    assert!(
        told(&outcome).contains("the session ended, and the upload's lease with it"),
        "{}",
        outcome.stderr
    );
    assert_eq!(cloud.census()["vm"], before["vm"]);
    let logins = cloud.proxy.take_journal().iter().filter(|e| action(&e.request) == "Login").count();
    assert_eq!(logins, 2);
    env.mantle(&["ore", "esx", "create-base", &file, "--name=b"]).expect(0);
}

const OURS: [(&str, &str); 2] = [("CreatedBy", "mantle"), ("mantle.created", "2026-01-02T03:04:05Z")];

fn name(n: u32) -> String {
    format!("kola-01234567-89ab-4def-8123-{n:012}-0123456789")
}

#[test]
fn machines_are_listed_removed_and_collected() {
    let Some(cloud) = start() else { return };
    let env = cloud.env();
    let (old, kept, young, alike) = (name(1), name(2), name(3), name(4));
    cloud.put(&old, &OURS);
    cloud.put(&kept, &[OURS[0], OURS[1], ("mantle:keep", "")]);
    cloud.put(&young, &[OURS[0], ("mantle.created", "2999-01-01T00:00:00Z")]);
    cloud.put(&alike, &[]);
    cloud.put("precious", &OURS);
    let outcome = env.mantle(&["ore", "esx", "list-vms", "--json"]).expect(0);
    let listed: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 6);
    let one = listed.as_array().unwrap().iter().find(|v| v["name"] == *old).unwrap();
    assert_eq!((&one["created_by_mantle"], &one["power"]), (&json!(true), &json!("poweredOff")));
    let outcome = env.mantle(&["ore", "esx", "list-vms", "--pattern=kola-*"]).expect(0);
    assert!(outcome.stdout.contains(&*old) && !outcome.stdout.contains(BASE), "{}", outcome.stdout);
    // A plan, looked at and carried out.
    let plan = env.mantle(&["ore", "esx", "gc", "--dry-run"]).expect(0).stdout;
    let items: Value = serde_json::from_str(&plan).unwrap();
    let names: Vec<_> = items["items"].as_array().unwrap().iter().map(|i| i["name"].clone()).collect();
    assert_eq!(names, [json!(old)], "{plan}");
    let file = env.write("plan.json", &plan);
    env.mantle(&["ore", "esx", "gc", &format!("--apply={}", file.display())]).expect(0);
    let there: Vec<String> = cloud.vms().into_values().collect();
    assert!(!there.contains(&old) && [&kept, &young, &alike].iter().all(|n| there.contains(n)), "{there:?}");
    // Only what mantle made, and nobody protected.
    let outcome = env.mantle(&["ore", "esx", "remove-vms", "--pattern=kola-*"]).expect(0);
    assert!(
        told(&outcome).contains(&format!("spared /DC0/vm/{alike}: mantle did not make it")),
        "{}",
        outcome.stderr
    );
    let there: Vec<String> = cloud.vms().into_values().collect();
    assert!(!there.contains(&young) && there.contains(&kept) && there.contains(&alike), "{there:?}");
    env.mantle(&["ore", "esx", "remove-vms", "--pattern=kola-*", "--unmarked"]).expect(0);
    assert!(!cloud.vms().values().any(|n| *n == alike));
    judged(&cloud.proxy.take_journal());
    for (words, says) in [
        (&["remove-vms"][..], "--pattern is required"),
        (&["remove-vms", "--pattern=["], "syntax error in pattern"),
        (&["remove-base"], "--name is required"),
        (&["remove-base", "--name="], "--name is required"),
    ] {
        let outcome = env.mantle(&[&["ore", "esx"], words].concat()).expect(2);
        assert!(told(&outcome).contains(says), "{}", outcome.stderr);
    }
    let outcome = env.mantle(&["ore", "esx", "create-base", "--file=/nowhere", "--name=x"]).expect(1);
    assert!(told(&outcome).contains("cannot read /nowhere"), "{}", outcome.stderr);
}

/// What is left over is found among many that only look like it.
fn collected_among(count: usize) {
    let Some(cloud) = VSphere::of_records(Model { machines: count, ..PLAIN }) else { return };
    let (env, old) = (cloud.env(), name(99_999_999));
    cloud.put(&old, &OURS);
    cloud.proxy.take_journal();
    let outcome = env.mantle(&["ore", "esx", "gc"]).expect(0);
    assert!(outcome.stderr.contains(&old) || outcome.stdout.contains(&old), "{outcome:?}");
    let asked = cloud.proxy.take_journal().len();
    assert!(asked < 20 + count / 100, "{asked} requests");
    let there = cloud.vms();
    assert!(there.len() == count && !there.values().any(|n| *n == old), "{}", there.len());
}

#[test]
fn gc_spares_hundreds_of_look_alikes() {
    collected_among(500);
}

#[test]
#[ignore = "vcsim takes long to make them; make check-full"]
fn gc_spares_ten_thousand_look_alikes() {
    collected_among(10_000);
}

#[test]
fn who_one_is_comes_from_variables_and_servers_are_known_by_certificates() {
    let Some(vcsim) = Vcsim::start(USER, PASSWORD, Model { scheme: "https", ..PLAIN }) else { return };
    let list = |words: &[&str], variables: &[(&str, &str)]| {
        let mut env = Env::new();
        env.set("GOVC_URL", vcsim.address.to_string())
            .set("GOVC_USERNAME", USER)
            .set("GOVC_PASSWORD", PASSWORD);
        env.set("MANTLE_POLL_SCALE", "0.01");
        for (name, value) in variables {
            env.set(name, *value);
        }
        env.mantle(&[&["ore", "esx", "list-vms"], words].concat())
    };
    let outcome = list(&[], &[]).expect(1);
    assert!(told(&outcome).contains("the certificate of"), "{}", outcome.stderr);
    for (words, variables) in [(&["--insecure"][..], &[][..]), (&[], &[("GOVC_INSECURE", "true")])] {
        let outcome = list(words, variables).expect(0);
        assert!(outcome.stdout.contains(BASE), "{}", outcome.stdout);
        assert!(
            told(&outcome).contains("is not checked: whoever answers gets the password"),
            "{}",
            outcome.stderr
        );
    }
    let outcome =
        list(&[&format!("--thumbprint={}", "00".repeat(32))], &[("GOVC_INSECURE", "true")]).expect(1);
    let text = told(&outcome);
    let is = text.split("its thumbprint is ").nth(1).expect(&text).split_whitespace().next().unwrap();
    let outcome = list(&[&format!("--thumbprint={is}")], &[]).expect(0);
    assert!(outcome.stdout.contains(BASE) && !told(&outcome).contains("not checked"), "{}", outcome.stderr);
    let outcome = list(&[], &[("GOVC_INSECURE", "true"), ("GOVC_PASSWORD", "SECRET-other")]).expect(1);
    let text = told(&outcome);
    assert!(
        text.contains("could not complete ESX preflight check") && text.contains("InvalidLogin"),
        "{text}"
    );
    assert!(!text.contains("SECRET"), "{text}");
}
