//! `plume plan`, `plume pre-release` and `plume release`, on all clouds at once.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::world::{BUILD, REGIONS, World};
use crate::cloud::{aws, gce};

/// The lists beside the build, by name.
fn lists(world: &World) -> BTreeMap<String, (String, String)> {
    let beside = world.gcs.contents("builds").into_iter();
    let lists = beside.filter_map(|(name, (body, attributes))| {
        let name = name.strip_prefix(BUILD)?.strip_prefix("ours_ami_")?.to_owned();
        let kind = attributes["contentType"].as_str()?.to_owned();
        (!name.starts_with("bin")).then_some((name, (body, kind)))
    });
    lists.filter(|(name, _)| name.ends_with(".txt") || name.ends_with(".json")).collect()
}

fn ami(world: &World, region: &str, name: &str) -> String {
    let images = world.images(region)["images"][name].as_array().unwrap().clone();
    assert_eq!(images.len(), 1, "{name} in {region}");
    images[0]["id"].as_str().unwrap().to_owned()
}

/// Whether any image anywhere can be used by everybody.
pub fn anything_public(world: &World) -> bool {
    let public = |region: &&str| world.images(region)["images"].to_string().contains(r#""public":true"#);
    REGIONS.iter().any(public)
        || world.asm.images().values().any(|image| image.permission.is_some())
        || world.gce.images().keys().any(|name| world.is_public(name))
}

/// What a dry run says that it would do; what a run says that it has done.
fn said(text: &str, word: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| Some(line.split_once(word)?.1.trim().to_owned()));
    // What happens to single objects at the destinations is compared with the requests.
    let of_objects = |line: &String| {
        let (verb, rest) = line.split_once(' ').unwrap_or_default();
        ["copy", "delete", "write"].contains(&verb)
            && rest.starts_with("gs://")
            && !rest.starts_with("gs://builds")
    };
    let mut lines: Vec<String> = lines.filter(|line| !of_objects(line)).collect();
    lines.sort();
    lines
}

#[test]
fn a_release_goes_from_a_build_to_the_public() {
    let Some(world) = World::new() else { return };
    // What there is to be done is seen before it is.
    let plan = world.env.mantle(&World::words("plan", &["--json"])).expect(0);
    let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
    assert_eq!((&plan["version"], &plan["release"]), (&json!(1), &json!("ours alpha amd64-usr 2.0.0")));
    let states = |plan: &Value| -> BTreeMap<String, String> {
        let steps = plan["steps"].as_array().unwrap().iter();
        steps
            .map(|s| (s["key"].as_str().unwrap().to_owned(), s["state"].as_str().unwrap().to_owned()))
            .collect()
    };
    let todo = states(&plan);
    // Nothing is there yet that rights could be asked about, and S3 never tells.
    let unknown: Vec<&str> = todo.iter().filter(|(_, s)| *s == "unknown").map(|(k, _)| k.as_str()).collect();
    let of = |what: &str| REGIONS.map(|region| format!("aws/{region}/{what}"));
    let mut expected = [of("rights"), of("public-rights")].concat();
    expected.sort();
    assert_eq!(unknown, expected);
    let known = |s: &&String| *s == "todo" || *s == "done" || *s == "unknown";
    assert!(todo.len() > 35 && todo.values().all(|s| known(&s)), "{todo:?}");
    assert_eq!((&*todo["aws/us-east-1/pv/public"], &*todo["build/version"]), ("todo", "done"));
    let text = world.env.mantle(&World::words("plan", &[])).expect(0).stdout;
    assert!(text.contains("to do       copy image Ours-alpha-2.0.0-hvm in eu-north-1\n"), "{text}");
    let dry = world.before(&["-n"]).expect(0);
    assert_eq!(world.changes(), Vec::<String>::new());

    let done = world.before(&["--write-image-list=out.json"]).expect(0);
    assert_eq!(said(&dry.stderr, "Would "), said(&done.stderr, "Done: "));
    let (hvm, pv) = ("Ours-alpha-2.0.0-hvm", "Ours-alpha-2.0.0");
    let [west_h, west_p] = [hvm, pv].map(|name| ami(&world, "us-west-2", name));
    let [east_h, east_p] = [hvm, pv].map(|name| ami(&world, "us-east-1", name));
    let north = ami(&world, "eu-north-1", hvm);
    let all = format!(
        "{{\n  \"amis\": [\n    {{\n      \"name\": \"eu-north-1\",\n      \"hvm\": \"{north}\"\n    }},\n    {{\n      \
         \"name\": \"us-east-1\",\n      \"pv\": \"{east_p}\",\n      \"hvm\": \"{east_h}\"\n    }},\n    {{\n      \
         \"name\": \"us-west-2\",\n      \"pv\": \"{west_p}\",\n      \"hvm\": \"{west_h}\"\n    }}\n  ]\n}}\n"
    );
    let text = |body: String| (body, "text/plain".to_owned());
    let both = format!("us-east-1={east_p}|us-west-2={west_p}\n");
    let expected = BTreeMap::from([
        ("all.json".to_owned(), (all, "application/json".to_owned())),
        ("all.txt".into(), text(both.clone())),
        ("hvm.txt".into(), text(format!("eu-north-1={north}|us-east-1={east_h}|us-west-2={west_h}\n"))),
        ("hvm_eu-north-1.txt".into(), text(format!("{north}\n"))),
        ("hvm_us-east-1.txt".into(), text(format!("{east_h}\n"))),
        ("hvm_us-west-2.txt".into(), text(format!("{west_h}\n"))),
        ("pv.txt".into(), text(both)),
        ("pv_us-east-1.txt".into(), text(format!("{east_p}\n"))),
        ("pv_us-west-2.txt".into(), text(format!("{west_p}\n"))),
        ("us-east-1.txt".into(), text(format!("{east_p}\n"))),
        ("us-west-2.txt".into(), text(format!("{west_p}\n"))),
    ]);
    assert_eq!(lists(&world), expected);
    let list = std::fs::read_to_string(world.env.home().join("out.json")).unwrap();
    assert!(list.starts_with("{\n  \"aws\": {\n    \"amis\": [\n      {\n"), "{list}");
    assert!(list.ends_with("  \"azure\": {\n    \"image\": \"Ours-Alpha-2.0.0\"\n  }\n}\n"), "{list}");
    let west = world.images("us-west-2");
    let image = &west["images"][hvm][0];
    assert_eq!(image["description"], "Ours Linux alpha 2.0.0 (HVM)");
    assert_eq!(image["users"], json!(["111122223333"]));
    for tags in [&image["tags"], &image["snapshot_tags"]] {
        assert_eq!((&tags["Channel"], &tags["Version"]), (&json!("alpha"), &json!("2.0.0")));
    }
    assert_eq!((&west["objects"], &west["uploads"], &west["snapshots"]), (&json!([]), &json!(0), &json!(1)));
    let classic = &world.asm.images()["Ours-Alpha-2.0.0"];
    assert_eq!(classic.regions, ["East US", "West US"]);
    assert_eq!(classic.attributes, ["Ours", "Alpha", "2.0.0"]);
    assert!(!anything_public(&world));
    assert!(!world.gcs.names("alpha-release").iter().any(|n| n.contains("2.0.0")));
    aws::judged(&world.aws.journal());
    assert!(!world.changes().is_empty());

    // Again: nothing is left to be done.
    world.before(&[]).expect(0);
    assert_eq!(world.changes(), Vec::<String>::new());

    let dry = world.release(&["--dry-run"]).expect(0);
    assert_eq!(world.changes(), Vec::<String>::new());
    assert!(dry.stderr.contains("Would create GCE image ours-alpha-2-0-0-v"), "{}", dry.stderr);
    let done = world.release(&[]).expect(0);
    assert_eq!(said(&dry.stderr, "Would "), said(&done.stderr, "Done: "));
    aws::judged(&world.aws.journal());
    gce::judged(&world.gce.proxy.journal());
    // Each object that would be written, copied or deleted was, and no other.
    let log = world.gcs.take_log();
    let mut changed: Vec<String> = Vec::new();
    for request in log.iter().filter(|r| r.changes()) {
        let told = request.told();
        let (_, name) = told.split_once(' ').unwrap();
        if !name.starts_with("builds/") {
            changed.push(format!("gs://{name}"));
        }
    }
    let mut would: Vec<String> = Vec::new();
    for word in ["Would copy ", "Would write ", "Would delete "] {
        let lines = dry
            .stderr
            .lines()
            .filter_map(|line| line.split_once(word))
            .map(|(_, name)| name.trim().to_owned());
        would.extend(lines.filter(|name| name.starts_with("gs://") && !name.starts_with("gs://builds/")));
    }
    changed.sort();
    would.sort();
    assert_eq!(changed, would);
    released(&world);

    world.forget();
    let again = world.release(&[]).expect(0);
    assert_eq!(world.changes(), Vec::<String>::new(), "{}", again.stderr);
    let plan = world.env.mantle(&World::words("plan", &["--json"])).expect(0);
    let states = states(&serde_json::from_str(&plan.stdout).unwrap());
    assert!(states.values().all(|s| s == "done"), "{states:?}");
}

/// What is there after a release.
#[track_caller]
fn released(world: &World) {
    for region in REGIONS {
        let there = world.images(region);
        assert!(!there.to_string().contains(r#""public":false"#), "{there}");
    }
    assert_eq!(world.asm.images()["Ours-Alpha-2.0.0"].permission.as_deref(), Some("public"));
    let images = world.gce.images();
    let names: Vec<&str> = images.keys().map(String::as_str).collect();
    let [old, older, new] = names[..] else { panic!("{names:?}") };
    assert_eq!((old, older), ("ours-alpha-1-3-0-v20250203", "ours-alpha-1-9-0-v20250304"));
    assert!(new.starts_with("ours-alpha-2-0-0-v") && world.is_public(new), "{new}");
    let (new, description) = (&images[new], "Ours, alpha, 2.0.0, amd64-usr published on 20");
    assert!(new["description"].as_str().unwrap().starts_with(description), "{new}");
    assert_eq!(new["family"], "ours-alpha");
    let source = format!("https://storage.googleapis.com/builds/{BUILD}ours_gce.tar.gz");
    assert_eq!(new["rawDisk"]["source"], source);
    let deprecated = &images[older]["deprecated"];
    assert_eq!(deprecated["state"], "DEPRECATED");
    assert!(
        deprecated["replacement"].as_str().unwrap().ends_with(new["name"].as_str().unwrap()),
        "{deprecated}"
    );
    let line = format!("projects/project-1/global/images/{}\n", new["name"].as_str().unwrap());
    for (bucket, folder) in [
        ("builds", BUILD),
        ("alpha-release", "amd64-usr/2.0.0/"),
        ("alpha-release", "amd64-usr/current/"),
        ("mirror", "ours/amd64-usr/alpha/"),
    ] {
        let there = world.gcs.contents(bucket);
        let at = |name: &str| there.get(&format!("{folder}{name}")).map(|(body, _)| body.as_str());
        assert_eq!(at("ours_gce.txt"), Some(line.as_str()), "{bucket}/{folder}");
        assert_eq!(at("version.txt"), Some("OURS_VERSION=2.0.0\n"));
        assert!(at("ours_ami_all.json").is_some() && at("old.txt").is_none(), "{bucket}/{folder}");
    }
    let names = world.gcs.names("mirror");
    for page in ["ours", "ours/", "ours/amd64-usr", "ours/amd64-usr/", "ours/amd64-usr/alpha/index.html"] {
        assert!(names.iter().any(|n| n == page), "{page}: {names:?}");
    }
    let page = &world.gcs.contents("alpha-release")["amd64-usr/index.html"].0;
    assert!(page.contains("2.0.0/") && page.contains("1.9.0/"), "{page}");
    world.pointers_lead_to_what_is_public();
}

#[test]
fn what_is_in_the_way_is_found_before_anything_is_changed() {
    let Some(world) = World::new() else { return };
    let refused = |command: &str, what: &str| {
        let more: &[&str] = if command == "pre-release" { &["--verify-key=key.asc"] } else { &[] };
        let outcome = world.env.mantle(&World::words(command, more)).expect(1);
        assert!(outcome.stderr.contains(what), "{what:?} in {}", outcome.stderr);
        assert!(outcome.stderr.contains("nothing has been changed"), "{}", outcome.stderr);
        let dry = world.env.mantle(&World::words(command, &[more, &["-n"]].concat())).expect(1);
        assert!(dry.stderr.contains(what), "{}", dry.stderr);
        assert_eq!(world.changes(), Vec::<String>::new());
    };
    // Nothing was made before: there is nothing to publish.
    refused("release", "there is no image Ours-alpha-2.0.0-hvm in eu-north-1");
    let outcome = world.env.mantle(&World::words("release", &[])).expect(1);
    assert!(outcome.stderr.contains("there is no image Ours-Alpha-2.0.0"), "{}", outcome.stderr);
    world.moto.control("encrypt", &json!({"region": "us-east-1"}));
    refused("pre-release", "new snapshots in us-east-1 are encrypted by default");
    world.begin();
    world.gcs.remove("builds", &format!("{BUILD}ours_azure.vhd.bz2"));
    refused("pre-release", "File not found: gs://builds/alpha/boards/amd64-usr/2.0.0/ours_azure.vhd.bz2");
    world.begin();
    world.gcs.remove("builds", &format!("{BUILD}version.txt"));
    refused("pre-release", "File not found: gs://builds/alpha/boards/amd64-usr/2.0.0/version.txt");
    refused("release", "File not found: gs://builds/alpha/boards/amd64-usr/2.0.0/version.txt");
    world.begin();
    let table = std::fs::read_to_string(world.env.home().join("channels.yaml")).unwrap();
    world.env.write("channels.yaml", &table.replace("public-images: 5", "public-images: 1"));
    refused("pre-release", "over its limit of 1");
    world.env.write("channels.yaml", &table);
    // The account says what it may have, and what it may.
    world.account(|account| account.public_images = Some(0));
    refused("pre-release", "over its limit of 0");
    world.account(|account| account.public_images = Some(5));
    world.account(|account| account.blocks = true);
    refused("pre-release", "the account blocks public access to new images in eu-north-1");
    world.account(|account| account.blocks = false);
    for call in ["ImportSnapshot", "RegisterImage"] {
        world.account(|account| account.denied = vec![call]);
        refused("pre-release", &format!("{call}: "));
    }
    world.account(|account| account.denied.clear());
    // What cannot be asked is said to be unknown.
    world.env.write("channels.yaml", &table.replace("              public-images: 5\n", ""));
    world.account(|account| account.public_images = None);
    let plan = world.env.mantle(&World::words("plan", &[])).expect(0).stdout;
    assert!(plan.contains("unknown     have public images in us-east-1\n"), "{plan}");
    assert!(plan.contains("how many public images the account may have: "), "{plan}");
    world.account(|account| account.public_images = Some(5));
    world.changes();
    world.env.write("channels.yaml", &table.replace("subscription: mine", "subscription: theirs"));
    refused("pre-release", "Azure subscription named \"theirs\" doesn't exist");
    world.env.write("channels.yaml", &table.replace("[mine]", "[nobody's]"));
    refused("release", "Invalid GCE license nobody's");
    world.env.write("channels.yaml", &table);
    // Most of what a folder has would be gone.
    world.before(&[]).expect(0);
    world.changes();
    for call in ["ModifyImageAttribute", "ModifySnapshotAttribute"] {
        world.account(|account| account.denied = vec![call]);
        refused("release", &format!("{call}: "));
    }
    world.account(|account| account.denied.clear());
    for n in 0..40 {
        world.gcs.put("alpha-release", &format!("amd64-usr/current/{n}"), b"x", "text/plain");
    }
    refused("release", "would be deleted");
    world.release(&["--allow-mass-delete"]).expect(0);
    assert!(!world.gcs.names("alpha-release").iter().any(|n| n == "amd64-usr/current/7"));
}

#[test]
fn mistakes_on_the_command_line_are_told_without_asking_anybody() {
    let env = crate::support::Env::new();
    for (words, told) in [
        (
            &["pre-release", "-B=amd64-usr", "-C=alpha", "-V=1.0.0", "--platform=esx"][..],
            "Unknown platform \"esx\"",
        ),
        (
            &["pre-release", "-B=amd64-usr", "-C=alpha", "-V=1.0.0", "--platform=gce"],
            "Unknown platform \"gce\"",
        ),
        (&["release", "-B=amd64-usr", "-C=alpha", "-V=1.0.0", "--platform=awz"], "aws"),
        (&["release", "-B=amd64-usr", "-C=alpah", "-V=1.0.0"], "Unknown channel: alpah"),
        (
            &["release", "-B=arm64-usr", "-C=alpha", "-V=1.0.0"],
            "Unknown board \"arm64-usr\" for channel \"alpha\"",
        ),
        (&["release", "-B=amd64-usr", "-C=alpha"], "--version is required"),
        (&["plan", "-B=amd64-usr", "-C=alpha", "-V=1.0/2"], "version"),
        (&["release", "-B=amd64-usr", "-C=alpha", "-V=1.0.0", "more"], "more"),
    ] {
        let outcome = env.mantle(&[&["plume"], words].concat()).expect(2);
        assert!(outcome.stderr.contains(told), "{words:?}: {}", outcome.stderr);
    }
}
