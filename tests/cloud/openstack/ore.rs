//! `ore openstack` against the local OpenStack, every request written down.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::double::{OpenStack, PASSWORD};
use super::{action, error, judged, told};
use crate::cloud::matrix::Double as _;
use crate::support::proxy::Fault;
use crate::support::{Env, Outcome};

/// The services and somebody who uses them.
struct Cloud {
    open: OpenStack,
    env: Env,
}

impl Cloud {
    fn new() -> Self {
        let open = OpenStack::of_records();
        let env = open.env();
        Self { open, env }
    }

    fn ore(&self, words: &[&str]) -> Outcome {
        let mut all = vec!["ore", "openstack"];
        all.extend(words);
        self.env.mantle(&all)
    }

    /// What was asked for, but for tokens; it was right.
    fn asked_for(&self) -> Vec<String> {
        let journal = self.open.proxy.take_journal();
        if !journal.is_empty() {
            judged(&journal);
        }
        let all = journal.iter().map(|e| action(&e.request));
        all.filter(|a| !["identity.versions", "tokens.create", "compute.versions"].contains(&&**a)).collect()
    }

    fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.env.home().join(name);
        std::fs::write(&path, content).unwrap();
        format!("--file={}", path.display())
    }

    /// A content as a program packs it.
    fn packed(&self, program: &str, content: &[u8]) -> Vec<u8> {
        let mut child =
            Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut stdin, content) = (child.stdin.take().unwrap(), content.to_vec());
        let writer = std::thread::spawn(move || stdin.write_all(&content));
        let out = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        out.stdout
    }
}

/// An image that is longer than what is read at once.
fn qcow2() -> Vec<u8> {
    let mut image = b"QFI\xfb".to_vec();
    image.extend((0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8));
    image
}

const CREATION: [&str; 4] = ["images.list", "images.create", "images.upload", "images.show"];

#[test]
fn images_are_uploaded_unpacked_on_the_way() {
    let cloud = Cloud::new();
    let content = qcow2();
    let raw = vec![7; 2 << 20];
    for (name, file, sent, format) in [
        ("plain", content.clone(), &content, "qcow2"),
        ("gz", cloud.packed("gzip", &content), &content, "qcow2"),
        ("bz2", cloud.packed("bzip2", &raw), &raw, "raw"),
    ] {
        let file = cloud.file("image", &file);
        let outcome = cloud.ore(&["create-image", &file, &format!("--name={name}")]).expect(0);
        let id = outcome.stdout.trim();
        assert_eq!(cloud.asked_for(), CREATION);
        let image = &cloud.open.images()[id];
        assert_eq!(
            (&image["name"], &image["disk_format"], &image["tags"]),
            (&json!(name), &json!(format), &json!(["mantle"]))
        );
        assert_eq!(image["container_format"], "bare");
        assert!(cloud.open.content(id) == *sent, "{name}");
    }
    // Everything that can be said; a second image of the name is said, too.
    let file = cloud.file("image", &raw);
    let words = [
        "create-image",
        &file,
        "--name=gz",
        "--disk-format=vmdk",
        "--property=hw_disk_bus=scsi",
        "--property=x=a=b",
        "--visibility=private",
        "--protected",
        "--json",
    ];
    let outcome = cloud.ore(&words).expect(0);
    assert!(told(&outcome).contains("there will be several images \"gz\""), "{}", outcome.stderr);
    assert!(told(&outcome).contains("the file looks like raw"), "{}", outcome.stderr);
    let made: Value = serde_json::from_str(outcome.stdout.lines().last().unwrap()).unwrap();
    assert_eq!((&made["os_hash_algo"], &made["size"]), (&json!("sha512"), &json!(2 << 20)));
    let image = &cloud.open.images()[made["id"].as_str().unwrap()];
    assert_eq!(
        (&image["hw_disk_bus"], &image["x"], &image["protected"]),
        (&json!("scsi"), &json!("a=b"), &json!(true))
    );
    assert_eq!((&image["visibility"], &image["disk_format"]), (&json!("private"), &json!("vmdk")));
    assert_eq!(cloud.asked_for(), [&CREATION[..], &["images.update"]].concat());
}

#[test]
fn what_could_not_be_uploaded_is_not_left() {
    let cloud = Cloud::new();
    let content = qcow2();
    let file = cloud.file("image", &content);
    let create = |file: &str| cloud.ore(&["create-image", file, "--name=x"]);
    // Refused, broken off, or not as it was sent.
    for (what, fault, said) in [
        ("refused", Fault::Answer(error(&upload(), 403, "Forbidden", "no room for you")), "no room for you"),
        ("reset", Fault::ResetBefore, "no answer from"),
    ] {
        cloud.open.proxy.calm();
        cloud.open.proxy.on(|r| action(r) == "images.upload", 0, 9, fault);
        let outcome = create(&file).expect(1);
        let text = told(&outcome);
        assert!(text.contains("Couldn't create image") && text.contains(said), "{what}: {text}");
        assert!(cloud.open.images().is_empty() && outcome.stdout.is_empty(), "{what}");
    }
    cloud.open.proxy.calm();
    let cut = cloud.packed("gzip", &content);
    let outcome = create(&cloud.file("cut.gz", &cut[..cut.len() / 2])).expect(1);
    assert!(told(&outcome).contains("end early"), "{}", outcome.stderr);
    assert!(cloud.open.images().is_empty());
    cloud.open.forges();
    let outcome = create(&file).expect(1);
    assert!(told(&outcome).contains("SHA-512") && cloud.open.images().is_empty(), "{}", outcome.stderr);
    // An answer that is lost is no failure: the image tells.
    let cloud = Cloud::new();
    let file = cloud.file("image", &content);
    for lost in ["images.create", "images.upload", "images.show"] {
        cloud.open.proxy.calm();
        cloud.open.proxy.on(move |r| action(r) == lost, 0, 1, Fault::ResetAfter);
        let outcome = cloud.ore(&["create-image", &file, "--name=x"]).expect(0);
        assert!(cloud.open.content(outcome.stdout.trim()) == content, "{lost}");
    }
    assert_eq!(cloud.open.images().len(), 3);
}

fn upload() -> crate::support::http::Request {
    crate::support::http::Request::new("PUT", "/image/v2/images/x/file")
}

#[test]
fn images_are_deleted_by_id_or_by_a_name_that_is_one() {
    let cloud = Cloud::new();
    let id = |n: u8| {
        format!(
            "{0}{0}{0}{0}{0}{0}{0}{0}-{0}{0}{0}{0}-4{0}{0}{0}-8{0}{0}{0}-{0}{0}{0}{0}{0}{0}{0}{0}{0}{0}{0}{0}",
            n
        )
    };
    cloud.open.put_image(&id(1), json!({"name": "a"}));
    cloud.open.put_image(&id(2), json!({"name": "twin"}));
    cloud.open.put_image(&id(3), json!({"name": "twin"}));
    cloud.open.put_image(&id(4), json!({"name": "safe", "protected": true}));
    let outcome = cloud.ore(&["delete-image", "--id=a"]).expect(0);
    assert!(told(&outcome).contains("as robot, with keys from profile \"default\""), "{}", outcome.stderr);
    let outcome = cloud.ore(&["delete-image", "--id=twin"]).expect(1);
    assert!(told(&outcome).contains(&id(2)) && told(&outcome).contains(&id(3)), "{}", outcome.stderr);
    let outcome = cloud.ore(&["delete-image", "--json", &format!("--id={}", id(3))]).expect(0);
    assert_eq!(outcome.stdout, format!("[{{\"id\":\"{}\",\"name\":\"twin\"}}]\n", id(3)));
    let outcome = cloud.ore(&["delete-image", "--id=none"]).expect(1);
    assert!(told(&outcome).contains("Couldn't find image"), "{}", outcome.stderr);
    let outcome = cloud.ore(&["delete-image", "--id=safe"]).expect(1);
    assert!(told(&outcome).contains("is protected"), "{}", outcome.stderr);
    assert_eq!(cloud.open.images().into_keys().collect::<Vec<_>>(), [id(2), id(4)]);
    cloud.asked_for();
}

#[test]
fn what_is_wrong_on_the_command_line_is_said_before_any_request() {
    let cloud = Cloud::new();
    let file = cloud.file("image", b"x");
    let empty = cloud.file("empty", b"");
    for (words, code, word) in [
        (vec!["create-image", &file], 2, "--name is required"),
        (vec!["create-image", "--name=x", "--file=missing"], 1, "missing"),
        (vec!["create-image", "--name=x", &empty], 1, "it is empty"),
        (vec!["create-image", "--name=x", &file, "--disk-format=tar"], 2, "tar"),
        (vec!["create-image", "--name=x", &file, "--property=x"], 2, "KEY=VALUE"),
        (vec!["create-image", "--name=x", &file, "--property=name=y"], 2, "name is no property"),
        (vec!["create-image", "--name=x", &file, "--visibility=all"], 2, "all"),
        (vec!["create-image", "--name=x"], 1, "coreos_production_openstack_image.img"),
        (vec!["delete-image"], 2, "--id is required"),
        (vec!["gc", "--duration=-1h"], 2, "--duration"),
        (vec!["--profile=none", "gc"], 1, "no such profile \"none\""),
        (vec!["--config-file=/nowhere", "gc"], 1, "couldn't read OpenStack config: open /nowhere"),
    ] {
        let outcome = cloud.ore(&words);
        assert_eq!(outcome.code, code, "{words:?}: {}", outcome.stderr);
        assert!(told(&outcome).contains(word), "{words:?}: {}", outcome.stderr);
    }
    assert!(cloud.open.proxy.take_journal().is_empty());
}

#[test]
fn wrong_keys_are_said_without_the_keys() {
    let cloud = Cloud::new();
    let mut profile = cloud.open.profile();
    profile["default"]["password"] = "wrong-SECRET".into();
    profile["nameless"] = profile["default"].clone();
    profile["nameless"].as_object_mut().unwrap().remove("user_domain");
    profile["bare"] = json!({"auth_url": cloud.open.auth_url(), "username": "SECRET"});
    cloud.env.write(".config/openstack.json", &profile.to_string());
    for (profile, word) in [
        ("default", "requires authentication"),
        ("nameless", "names no domain of the user, so it was taken to be \"default\""),
        ("bare", "it has no password"),
    ] {
        let outcome = cloud.ore(&[&format!("--profile={profile}"), "gc", "--dry-run"]).expect(1);
        let text = told(&outcome);
        assert!(text.contains("could not create OpenStack client") && text.contains(word), "{text}");
        assert!(!text.contains("SECRET"), "{text}");
    }
    cloud.env.write(".config/openstack.json", "{}");
    let outcome = cloud.ore(&["gc"]).expect(1);
    assert!(told(&outcome).contains("contains no profiles"), "{}", outcome.stderr);
    assert_ne!(PASSWORD, "");
}

/// Things that look alike but for one thing, many of them; the ids of those that are left over.
fn lookalikes(open: &OpenStack, many: usize) -> [&'static str; 5] {
    const OLD: &str = "2026-01-01T00:00:00Z";
    let young = chrono::Utc::now().format("%Y-%m-%dT%H:%M:%SZ").to_string();
    let server = |fields: Value| {
        let mut body = json!({"name": "kola-x", "created": OLD, "metadata": {"CreatedBy": "mantle"}});
        for (key, value) in fields.as_object().unwrap() {
            body[key] = value.clone();
        }
        body
    };
    for n in 0..many {
        open.put_server(&format!("s{n:05}"), "ACTIVE", server(json!({"metadata": {"CreatedBy": "Mantle"}})));
        if n % 10 == 0 {
            open.put_floating(&format!("f{n:05}"), json!({"created_at": OLD, "description": "mantle"}));
            open.put_image(
                &format!("i{n:05}"),
                json!({"created_at": OLD, "name": "kola", "tags": ["mantle2"]}),
            );
            open.put_pair(&format!("kola-{n:05}"), OLD);
        }
    }
    let used = "kola-0b0f6a4e-1111-4222-8333-444455550000";
    for (id, status, fields) in [
        ("young", "ACTIVE", json!({"created": young})),
        ("odd", "ACTIVE", json!({"created": "long ago"})),
        ("gone", "SOFT_DELETED", json!({})),
        ("locked", "ACTIVE", json!({"locked": true, "key_name": used, "imageRef": "used"})),
        ("kept", "ACTIVE", json!({"metadata": {"CreatedBy": "mantle", "mantle:keep": ""}})),
        ("left-1", "ACTIVE", json!({})),
        ("left-2", "ERROR", json!({})),
    ] {
        open.put_server(id, status, server(fields));
    }
    open.put_pair(used, "2026-01-01T00:00:00");
    open.put_pair("kola-0b0f6a4e-1111-4222-8333-444455551111", "2026-01-01T00:00:00.000000");
    open.put_pair("kola-0b0f6a4e-1111-4222-8333-444455552222", &young);
    let ours = "mantle-launch 0b0f6a4e-1111-4222-8333-444455556666";
    open.put_floating("f-left", json!({"created_at": OLD, "description": ours}));
    open.put_floating("f-used", json!({"created_at": OLD, "description": ours, "port_id": "elsewhere"}));
    open.put_floating("f-young", json!({"created_at": young, "description": ours}));
    for (id, fields) in [
        ("i-left", json!({})),
        ("i-safe", json!({"protected": true})),
        ("i-kept", json!({"tags": ["mantle", "mantle:keep"]})),
        ("used", json!({})),
        ("i-young", json!({"created_at": young})),
    ] {
        let mut body = json!({"created_at": OLD, "tags": ["mantle"]});
        for (key, value) in fields.as_object().unwrap() {
            body[key] = value.clone();
        }
        open.put_image(id, body);
    }
    ["f-left", "i-left", "kola-0b0f6a4e-1111-4222-8333-444455551111", "left-1", "left-2"]
}

#[test]
fn gc_removes_what_is_left_over_and_nothing_else() {
    let cloud = Cloud::new();
    let left = lookalikes(&cloud.open, 10_000);
    cloud.open.pages_of(500);
    let before = cloud.open.census();
    let plan = cloud.ore(&["gc", "--dry-run"]).expect(0).stdout;
    let planned: Value = serde_json::from_str(&plan).unwrap();
    let mut ids: Vec<_> =
        planned["items"].as_array().unwrap().iter().map(|i| i["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, left);
    assert_eq!(cloud.open.census(), before);
    let file = cloud.env.write("plan.json", &plan);
    let mut elsewhere = planned.clone();
    elsewhere["region"] = "Mars".into();
    let other = cloud.env.write("other.json", &elsewhere.to_string());
    let outcome = cloud.ore(&["gc", "--apply", other.to_str().unwrap()]).expect(1);
    assert!(told(&outcome).contains("the plan is for region Mars, not for RegionOne"), "{}", outcome.stderr);
    // Somebody wants one of them meanwhile.
    cloud.open.put_server(
        "left-2",
        "ACTIVE",
        json!({"created": "2026-01-01T00:00:00Z", "metadata": {"CreatedBy": "mantle", "mantle:keep": "1"}}),
    );
    cloud.ore(&["gc", "--apply", file.to_str().unwrap()]).expect(0);
    let after = cloud.open.census();
    let mut gone: Vec<String> = Vec::new();
    for (kind, things) in &before {
        gone.extend(things.keys().filter(|id| !after[kind].contains_key(*id)).cloned());
    }
    gone.sort_unstable();
    assert_eq!(gone, ["f-left", "i-left", "kola-0b0f6a4e-1111-4222-8333-444455551111", "left-1"]);
    let outcome = cloud.ore(&["gc"]).expect(0);
    assert!(outcome.stdout.is_empty(), "{}", outcome.stdout);
    assert_eq!(cloud.open.census(), after);
    let journal = cloud.open.proxy.take_journal();
    judged(&journal[journal.len() - 60..]);
}

#[test]
fn gc_goes_on_after_a_failure() {
    let cloud = Cloud::new();
    lookalikes(&cloud.open, 0);
    cloud.open.expire_tokens();
    cloud.open.proxy.rule(|request| match action(request).as_str() {
        "servers.delete" => Fault::Answer(error(request, 409, "conflictingRequest", "not today")),
        _ => Fault::None,
    });
    let outcome = cloud.ore(&["gc"]).expect(1);
    assert!(told(&outcome).contains("2 of 5 could not be removed"), "{}", outcome.stderr);
    assert_eq!(told(&outcome).matches("not today").count(), 2, "{}", outcome.stderr);
}
