//! What comes after a release: it is looked at, gone back from, and old ones go.

use serde_json::{Value, json};

use super::world::{REGIONS, World};
use crate::support::emulators;

/// Where the folder that always has the newest release, and the family, lead.
fn newest(world: &World) -> (String, String, Vec<String>) {
    let at = |bucket: &str, name: &str| world.gcs.contents(bucket)[name].0.clone();
    let active = |image: &&Value| {
        image["family"] == "ours-alpha"
            && matches!(image["deprecated"]["state"].as_str(), None | Some("ACTIVE"))
    };
    let images = world.gce.images();
    let family =
        images.values().filter(active).map(|i| i["name"].as_str().unwrap()[..16].to_owned()).collect();
    let current = at("alpha-release", "amd64-usr/current/version.txt");
    (current, at("mirror", "ours/amd64-usr/alpha/version.txt"), family)
}

#[test]
fn a_release_is_verified_gone_back_from_and_pruned() {
    let Some(world) = World::new() else { return };
    world.put_build("1.9.0");
    for version in ["1.9.0", "2.0.0"] {
        world.env.mantle(&World::words_of("pre-release", version, &["--verify-key=key.asc"])).expect(0);
        world.env.mantle(&World::words_of("release", version, &[])).expect(0);
    }
    let is = |version: &str| {
        let text = format!("OURS_VERSION={version}\n");
        (text.clone(), text, vec![format!("ours-alpha-{}", version.replace('.', "-"))])
    };
    assert_eq!(newest(&world), is("2.0.0"));
    let there = world.gcs.contents("alpha-release");
    let document = |name: &str| -> Value {
        serde_json::from_str(&there[&format!("amd64-usr/current/{name}")].0).unwrap()
    };
    let judged = [
        ("stream", "ours_stream.json"),
        ("products", "ours_products.json"),
        ("index", "ours_index.json"),
        ("releases", "ours_releases.json"),
    ];
    let lines = judged.map(|(schema, name)| json!({"schema": schema, "document": document(name)}));
    emulators::judged("judge_schema.py", &[], lines);
    let stream = document("ours_stream.json");
    let west = &stream["architectures"]["x86_64"]["images"]["aws"]["regions"]["us-west-2"];
    let ami = &world.images("us-west-2")["images"]["Ours-alpha-2.0.0-hvm"][0]["id"];
    assert_eq!(*west, json!({"release": "2.0.0", "image": ami}));
    let disk = &stream["architectures"]["x86_64"]["artifacts"]["qemu"]["formats"]["qcow2.xz"]["disk"];
    let folder = "https://storage.googleapis.com/alpha-release/amd64-usr/2.0.0";
    assert_eq!(disk["location"], format!("{folder}/ours-2.0.0-qemu.x86_64.qcow2.xz"));

    // As it should be, and changed by somebody.
    world.changes();
    let verify = || world.env.mantle(&World::words("verify", &["--verify-key=key.asc"]));
    let outcome = verify().expect(0);
    assert!(
        outcome.stdout.contains("done        find good signatures in gs://alpha-release/amd64-usr/2.0.0/"),
        "{}",
        outcome.stdout
    );
    assert_eq!(world.changes(), Vec::<String>::new());
    world.gcs.change("alpha-release", "amd64-usr/2.0.0/ours_image.bin.bz2", |object| {
        object.body = b"another image".to_vec();
        object.crc32c = crc32c::crc32c(&object.body);
    });
    world.gce.unpublish("ours-alpha-2-0-0-v");
    let outcome = verify().expect(1);
    for wrong in [
        "WRONG       copy the build to gs://alpha-release/amd64-usr/2.0.0/",
        "WRONG       find good signatures in gs://alpha-release/amd64-usr/2.0.0/",
        "WRONG       publish image ours-alpha-2-0-0-v",
    ] {
        assert!(outcome.stdout.contains(wrong), "{wrong}: {}", outcome.stdout);
    }
    assert!(outcome.stderr.contains("things are not as they should be"), "{}", outcome.stderr);
    world.release(&[]).expect(0);
    verify().expect(0);

    // Back, and forth again.
    let back = |version: &str, more: &[&str]| world.env.mantle(&World::words_of("rollback", version, more));
    let outcome = back("1.8.0", &[]).expect(1);
    assert!(outcome.stderr.contains("nothing has been changed"), "{}", outcome.stderr);
    world.changes();
    let dry = back("1.9.0", &["-n"]).expect(0);
    assert!(
        dry.stderr.contains("Would make the image of 1.9.0 active in family ours-alpha"),
        "{}",
        dry.stderr
    );
    assert_eq!(world.changes(), Vec::<String>::new());
    back("1.9.0", &[]).expect(0);
    assert_eq!(newest(&world), is("1.9.0"));
    world.pointers_lead_to_what_is_public();
    for region in REGIONS {
        assert!(!world.images(region).to_string().contains(r#""public":false"#), "{region}");
    }
    world.release(&[]).expect(0);
    assert_eq!(newest(&world), is("2.0.0"));

    // Old ones go, the newest stays.
    let prune = |more: &[&str]| {
        let words = ["plume", "--channels=channels.yaml", "--distro=ours", "prune", "--channel=alpha"];
        world.env.mantle(&[&words[..], more].concat())
    };
    world.changes();
    prune(&["--keep-last=0"]).expect(0); // none is old enough
    assert_eq!(world.changes(), Vec::<String>::new());
    world.moto.control("age", &json!({"seconds": 40 * 24 * 3600}));
    let plan = prune(&["-n"]).expect(0).stdout;
    let plans: Vec<Value> = plan.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let names = |plan: &Value| -> Vec<String> {
        let mut names: Vec<String> = plan["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["name"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(plans.len(), 3, "{plan}");
    assert_eq!(names(&plans[0]), ["Ours-alpha-1.9.0", "Ours-alpha-1.9.0-hvm"]);
    assert_eq!(
        (&plans[2]["region"], names(&plans[2])),
        (&json!("eu-north-1"), vec!["Ours-alpha-1.9.0-hvm".to_owned()])
    );
    assert_eq!(world.changes(), Vec::<String>::new());
    let file = world.env.write("plan.json", &plan);
    let apply = format!("--apply={}", file.display());
    // What machines were started of lately stays, also if that is known only after the plan.
    let lately = chrono::Utc::now() - chrono::TimeDelta::days(3);
    world.account(|account| {
        account.launched = Some(lately.to_rfc3339_opts(chrono::SecondsFormat::Secs, true));
    });
    let items = |plan: &str| -> usize {
        let plans = plan.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
        plans.map(|plan| plan["items"].as_array().unwrap().len()).sum()
    };
    assert_eq!(items(&prune(&["-n", "--days-last-launched=7"]).expect(0).stdout), 0);
    assert_eq!(items(&prune(&["-n", "--days-last-launched=2"]).expect(0).stdout), 5);
    prune(&[&apply, "--days-last-launched=7"]).expect(0);
    assert_eq!(world.changes(), Vec::<String>::new());
    world.account(|account| account.launched = None);
    assert_eq!(items(&prune(&["-n", "--days-last-launched=7"]).expect(0).stdout), 5);
    prune(&[&apply]).expect(0);
    for region in REGIONS {
        let there = world.images(region);
        let names: Vec<&String> = there["images"].as_object().unwrap().keys().collect();
        assert!(names.iter().all(|n| n.starts_with("Ours-alpha-2.0.0")), "{region}: {names:?}");
    }
    assert_eq!(world.images("us-west-2")["snapshots"], 1);
    prune(&[]).expect(0);
    world.release(&[]).expect(0);
    assert!(
        world
            .env
            .mantle(&["plume", "prune", "--apply=missing.json"])
            .expect(1)
            .stderr
            .contains("missing.json")
    );
}
