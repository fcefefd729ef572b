//! `kola -p esx`, the whole way, against the local vSphere.

use std::sync::Arc;

use serde_json::json;

use super::double::{BASE, PASSWORD, USER, VSphere};
use super::{action, asked, fault, judged, told};
use crate::cloud::matrix::{Double as _, kola, matrices, nothing_left};
use crate::support::emulators;
use crate::support::machines::{Local, Pretended};
use crate::support::proxy::Fault;
use crate::support::vcsim::{Model, PLAIN};

/// Machines that only seem to be; `None` where even those cannot be.
fn pretended() -> Option<VSphere> {
    VSphere::start(Arc::new(Pretended::new()?))
}

/// Real guests: in containers, or as `MANTLE_TEST_MACHINES=qemu-unpriv` says, in virtual machines.
fn real() -> Option<VSphere> {
    let platform = std::env::var("MANTLE_TEST_MACHINES").unwrap_or_else(|_| "nspawn".into());
    VSphere::start(Arc::new(Local::new(&platform)?))
}

#[test]
fn real_tests_on_real_machines() {
    let Some(cloud) = real() else { return };
    let (env, image) = (cloud.env(), cloud.image());
    let before = cloud.census();
    // Tests that need no feature: there is no feature file to tell which this image has.
    let tests = ["cl.filesystem", "coreos.auth.verify", "systemd.sysusers.gshadow"];
    let outcome = kola(&cloud, &env, &image, "run", &tests).expect(0);
    for test in tests {
        assert!(outcome.stdout.contains(&format!("--- PASS: {test}")), "{}", outcome.stdout);
    }
    nothing_left(&cloud, &before, "a run");
    let folders =
        std::fs::read_dir(env.home().join("out/coreos.auth.verify")).unwrap().map(|e| e.unwrap().path());
    let is_machine = |p: &std::path::PathBuf| p.file_name().unwrap().to_string_lossy().starts_with("kola-");
    let folder = folders.into_iter().find(is_machine).unwrap();
    let console = std::fs::read_to_string(folder.join("console.txt")).unwrap();
    assert!(console.contains("ignition"), "{console}");
    let properties = std::fs::read_to_string(env.home().join("out/properties.json")).unwrap();
    let properties: serde_json::Value = serde_json::from_str(&properties).unwrap();
    let known = &properties["esx"];
    assert_eq!(
        (&known["server"], &known["base_vm_name"]),
        (&json!(cloud.proxy.address.to_string()), &json!(BASE))
    );
    let outcome = env.mantle(&["kola", "cleanup", "out"]).expect(0);
    assert_eq!(outcome.stdout, "out: nothing is left over\n");
    judged(&cloud.proxy.take_journal());
}

#[test]
fn a_machine_that_stays_has_all_that_was_ordered() {
    let Some(cloud) = pretended() else { return };
    let (env, image) = (cloud.env(), cloud.image());
    let before = cloud.census();
    let outcome = kola(&cloud, &env, &image, "spawn", &["--remove=false", "--shell=false"]).expect(0);
    let vms = cloud.vms();
    let (id, name) = vms.iter().find(|(id, _)| !before["vm"].contains_key(*id)).unwrap();
    assert!(outcome.stdout.contains(&format!("govc vm.destroy {name}")), "{}", outcome.stdout);
    let settings = cloud.property(id, "config.extraConfig");
    let setting = |key: &str| {
        let found = settings.children().iter().find(|s| s.said("key") == Some(key));
        found.and_then(|s| s.said("value")).unwrap_or_default().to_owned()
    };
    assert_eq!((setting("CreatedBy"), setting("mantle.launch").len()), ("mantle".into(), 36));
    assert_eq!(setting("guestinfo.coreos.config.data.encoding"), "base64");
    let userdata = openssl::base64::decode_block(&setting("guestinfo.coreos.config.data")).unwrap();
    let userdata = String::from_utf8(userdata).unwrap();
    assert!(userdata.contains("coreos-metadata.service") && userdata.contains("ens192"), "{userdata}");
    let devices = cloud.property(id, "config.hardware.device");
    let port = devices.children().iter().find(|d| d.kind() == "VirtualSerialPort").unwrap();
    assert_eq!(port.said("backing/fileName").unwrap(), format!("[LocalDS_0] {name}/serial.out"));
    // As others see it.
    judged(&cloud.proxy.take_journal());
    let (host, port) = (cloud.proxy.address.ip().to_string(), cloud.proxy.address.port().to_string());
    if let Some((content, text)) = emulators::python("client_vsphere.py", &[&host, &port, USER], PASSWORD) {
        let machines: serde_json::Value =
            if content { serde_json::from_str(&text).unwrap() } else { panic!("{text}") };
        let machine = &machines[name];
        assert_eq!((&machine["power"], &machine["networks"]), (&json!("poweredOn"), &json!(["VM Network"])));
        assert_eq!(machine["serial"], json!([format!("[LocalDS_0] {name}/serial.out")]));
        assert_eq!(machine["settings"]["CreatedBy"], "mantle");
        assert!(machine["addresses"][0].as_str().unwrap().starts_with("127.0.0.1:"), "{machine}");
        cloud.proxy.take_journal();
    }
    let outcome = env.mantle(&["kola", "cleanup", "out"]).expect(0);
    assert!(outcome.stdout.contains("removed vm"), "{}", outcome.stdout);
    nothing_left(&cloud, &before, "clean-up");
    judged(&cloud.proxy.take_journal());
}

#[test]
fn what_does_not_exist_is_said_before_anything_is_made() {
    let Some(cloud) = pretended() else { return };
    let (env, image) = (cloud.env(), cloud.image());
    for (base, words, said) in [
        ("none", &[][..], "couldn't find VM: there is no \"none\""),
        ("", &[], "Base VM Name must be supplied"),
        (&*image, &["--esx-network=x"], "there is no network \"x\"; there are /DC0/network/VM Network"),
        (&*image, &["--esx-datastore=x"], "there is no datastore \"x\""),
        (&*image, &["--esx-datacenter=x"], "there is no datacenter \"x\"; there are /DC0"),
        (&*image, &["--esx-resource-pool=x"], "there is no resource pool \"x\""),
        (&*image, &["--esx-folder=x"], "there is no folder \"x\""),
        (&*image, &["--esx-profile=other"], "no such profile \"other\""),
        (&*image, &["--esx-config-file=/nowhere"], "couldn't read ESX config: open /nowhere"),
        (&*image, &["--esx-server=ftp://x"], "parsing ESX URL"),
    ] {
        let outcome = kola(&cloud, &env, base, "spawn", words);
        let text = told(&outcome);
        assert!([1, 3].contains(&outcome.code) && text.contains(said), "{said}: {} {text}", outcome.code);
    }
    // By name and by path.
    let words = [
        "--esx-network=VM Network",
        "--esx-folder=/DC0/vm",
        "--esx-resource-pool=DC0_C0",
        "--esx-datacenter=DC0",
    ];
    kola(&cloud, &env, &format!("/DC0/vm/{image}"), "spawn", &words).expect(0);
    drop(cloud);
    let two = Model { hosts: 1, ..PLAIN };
    let Some(cloud) = VSphere::of_records(two) else { return };
    let text = told(&kola(&cloud, &cloud.env(), &image, "spawn", &[]).expect(1));
    assert!(text.contains("default resource pool resolves to multiple instances, please specify one of /DC0/host/DC0_C0/Resources"), "{text}");
}

#[test]
fn machines_that_fail_say_why_and_leave_nothing() {
    let Some(cloud) = pretended() else { return };
    let (env, image) = (cloud.env(), cloud.image());
    let before = cloud.census();
    for (at, name, message) in [
        ("CloneVM_Task", "InsufficientStorageSpace", "Insufficient disk space on datastore LocalDS_0."),
        ("CloneVM_Task", "DuplicateName", "The name already exists."),
        ("ReconfigVM_Task", "InvalidArgument", "A specified parameter was not correct."),
        ("PowerOnVM_Task", "NoCompatibleHost", "The host is in maintenance mode."),
    ] {
        cloud.proxy.rule(move |request| match action(request) == at {
            true => Fault::Answer(fault(name, message)),
            false => Fault::None,
        });
        let text = told(&kola(&cloud, &env, &image, "spawn", &[]).expect(1));
        assert!(text.contains(&format!("{name}: {message}")), "{text}");
        nothing_left(&cloud, &before, name);
        cloud.proxy.calm();
    }
    // A task that was taken on, and failed.
    cloud.proxy.rule(|request| {
        let is_it = asked(request).is_some_and(|a| {
            a.target_at("specSet/objectSet/obj").is_some_and(|o| o.kind == "Task")
                && a.at("specSet/propSet").is_some()
        });
        if !is_it {
            return Fault::None;
        }
        let task = asked(request).unwrap().target_at("specSet/objectSet/obj").unwrap().id;
        let body = format!(
            "<E xmlns:xsi=\"x\"><Body><RetrievePropertiesExResponse><returnval><objects><obj type=\"Task\">{task}</obj>\
             <propSet><name>info.state</name><val>error</val></propSet><propSet><name>info.error</name><val><fault xsi:type=\"NoDiskSpace\"/>\
             <localizedMessage>The datastore is full.</localizedMessage></val></propSet></objects></returnval>\
             </RetrievePropertiesExResponse></Body></E>"
        );
        Fault::Garbage(body.into_bytes())
    });
    let text = told(&kola(&cloud, &env, &image, "spawn", &[]).expect(1));
    assert!(text.contains("NoDiskSpace: The datastore is full."), "{text}");
    cloud.proxy.calm();
    env.mantle(&["kola", "cleanup", "out"]).expect(0);
    nothing_left(&cloud, &before, "a failed task");
}

#[test]
fn without_tools_there_is_no_address_and_that_is_said() {
    let Some(cloud) = pretended() else { return };
    let (env, image) = (cloud.env(), cloud.image());
    let before = cloud.census();
    cloud.mute(true);
    let text = told(&kola(&cloud, &env, &image, "spawn", &[]).expect(1));
    assert!(text.contains("VMware Tools report no address") && text.contains("not within 1000 s"), "{text}");
    nothing_left(&cloud, &before, "no tools");
}

#[test]
fn sessions_that_end_are_begun_anew() {
    let Some(cloud) = pretended() else { return };
    let (env, image) = (cloud.env(), cloud.image());
    let before = cloud.census();
    let mut seen = 0;
    cloud.proxy.rule(move |request| {
        let free = ["RetrieveServiceContent", "Login", "Logout"];
        seen += usize::from(!free.contains(&&*action(request)));
        match seen % 3 == 0 && !free.contains(&&*action(request)) {
            true => Fault::Answer(fault("NotAuthenticated", "The session is not authenticated.")),
            false => Fault::None,
        }
    });
    kola(&cloud, &env, &image, "spawn", &[]).expect(0);
    nothing_left(&cloud, &before, "new sessions");
    let logins = cloud.proxy.take_journal().iter().filter(|e| action(&e.request) == "Login").count();
    assert!(logins > 2, "{logins}");
}

matrices!(
    pretended,
    end: "Destroy_Task",
    interrupts: ["Login", "CloneVM_Task", "ReconfigVM_Task", "PowerOnVM_Task"],
    last: "Logout"
);

#[test]
fn secrets_never_show() {
    let Some(cloud) = pretended() else { return };
    let (mut env, image) = (cloud.env(), cloud.image());
    env.set("NO_COLOR", "1");
    for refuse in ["", "Login", "CloneVM_Task", "Destroy_Task"] {
        cloud.proxy.calm();
        // Refuses, and repeats all that came.
        cloud.proxy.rule(move |request| match !refuse.is_empty() && action(request) == refuse {
            true => {
                let said = request.text().replace('<', " ").replace("&amp;", "&amp;amp;");
                Fault::Answer(fault("NoPermission", &format!("who are you? {said}")))
            }
            false => Fault::None,
        });
        let outcome = kola(&cloud, &env, &image, "spawn", &["--debug"]);
        let mut text = format!("{}{}", outcome.stdout, outcome.stderr);
        for file in ["out/properties.json", "out/ledger.jsonl"] {
            text += &std::fs::read_to_string(env.home().join(file)).unwrap_or_default();
        }
        for secret in [PASSWORD, "SECRET"] {
            assert!(!text.contains(secret), "{refuse}: {secret} shows:\n{text}");
        }
    }
}
