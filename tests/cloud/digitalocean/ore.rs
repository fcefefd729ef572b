//! `ore do` against the local DigitalOcean, every request written down.

use serde_json::{Value, json};

use super::double::{ACCOUNT, DigitalOcean, Odds, REGION, TOKEN};
use super::{action, error};
use crate::cloud::matrix::Double as _;
use crate::support::proxy::Fault;
use crate::support::{Env, Outcome};

/// The cloud and somebody who uses it.
struct Cloud {
    cloud: DigitalOcean,
    env: Env,
}

impl Cloud {
    fn new() -> Self {
        let cloud = DigitalOcean::of_records();
        let mut env = cloud.env();
        env.set("NO_COLOR", "1");
        Self { cloud, env }
    }

    fn ore(&self, words: &[&str]) -> Outcome {
        let mut all = vec!["ore", "do"];
        all.extend(words);
        self.env.mantle(&all)
    }
}

/// A text with one blank between its words: messages are broken into lines.
fn words(outcome: &Outcome) -> String {
    outcome.stderr.split_whitespace().collect::<Vec<_>>().join(" ")
}

const CREATE: &[&str] =
    &["create-image", "-n", "linux-1", "-u", "https://example.com/linux.img.bz2?token=SECRET-1"];

#[test]
fn images_are_fetched() {
    let user = Cloud::new();
    let outcome = user.ore(CREATE).expect(0);
    let images = user.cloud.images();
    let [(id, image)] = images.iter().collect::<Vec<_>>()[..] else { panic!("{images:?}") };
    assert_eq!(outcome.stdout, format!("{id}\n"));
    assert_eq!(image["url"], "https://example.com/linux.img.bz2?token=SECRET-1");
    assert_eq!((&image["name"], &image["region"]), (&json!("linux-1"), &json!(REGION)));
    assert_eq!((&image["distribution"], &image["tags"]), (&json!("CoreOS"), &json!(["mantle"])));
    assert!(!outcome.stderr.contains("SECRET"), "{}", outcome.stderr);
    let mut asked = user.cloud.asked_for();
    asked.dedup();
    assert_eq!(asked, ["account.get", "images.list", "images.create", "images.get"]);
    // Its name is taken now.
    let outcome = user.ore(CREATE).expect(1);
    assert!(words(&outcome).contains(&format!("there is an image \"linux-1\" already (id {id})")));
    assert!(words(&outcome).contains("ore do delete-image"), "{}", outcome.stderr);
    assert!(outcome.stdout.is_empty());
    let more = ["--region=nyc3", "--distribution=Fedora", "--description=for tests", "--name=linux-2"];
    user.ore(&[&CREATE[..1], &more, &CREATE[3..]].concat()).expect(0);
    let images = user.cloud.images();
    let image = images.values().find(|i| i["name"] == "linux-2").unwrap();
    assert_eq!((&image["region"], &image["distribution"]), (&json!("nyc3"), &json!("Fedora")));
    assert_eq!(image["description"], "for tests");
}

#[test]
fn images_that_cannot_be_fetched_say_why_and_are_gone() {
    let user = Cloud::new();
    for (status, reason, says) in [
        ("deleted", "The image is not in a supported format", "The image is not in a supported format"),
        ("deleted", "", "it is deleted"),
        ("pending", "Checksum mismatch", "Checksum mismatch"),
    ] {
        user.cloud.odds(Odds { images_end: Some((status, reason)), ..Odds::default() });
        let outcome = user.ore(CREATE).expect(1);
        assert!(words(&outcome).contains(says), "{says}: {}", outcome.stderr);
        assert!(user.cloud.images().is_empty() && outcome.stdout.is_empty());
    }
}

#[test]
fn images_that_take_too_long_are_gone_on_with() {
    let user = Cloud::new();
    // Never seen as anything else.
    user.cloud.odds(Odds { images_end: Some(("pending", "")), ..Odds::default() });
    let outcome = user.ore(CREATE).expect(1);
    assert!(words(&outcome).contains("not within 900 s"), "{}", outcome.stderr);
    assert!(words(&outcome).contains("run the same command again"), "{}", outcome.stderr);
    let images: Vec<u64> = user.cloud.images().into_keys().collect();
    user.cloud.odds(Odds::default());
    let outcome = user.ore(CREATE).expect(0);
    assert_eq!(outcome.stdout, format!("{}\n", images[0]));
    assert_eq!(user.cloud.images().len(), 1);
}

#[test]
fn an_order_of_an_image_whose_answer_is_lost_is_not_made_twice() {
    let user = Cloud::new();
    user.cloud.proxy.on(|r| action(r) == "images.create", 0, 1, Fault::ResetAfter);
    let outcome = user.ore(CREATE).expect(0);
    let images = user.cloud.images();
    assert_eq!(images.keys().map(|id| format!("{id}\n")).collect::<Vec<_>>(), [outcome.stdout]);
    user.cloud.reset();
    user.cloud.proxy.on(
        |r| action(r) == "images.create",
        0,
        1,
        Fault::Answer(error(503, "service_unavailable", "later")),
    );
    user.ore(CREATE).expect(0);
    assert_eq!(user.cloud.images().len(), 1);
}

#[test]
fn interrupted_images_are_gone() {
    let user = Cloud::new();
    user.cloud.odds(Odds { images_end: Some(("pending", "")), ..Odds::default() });
    let mut all = vec!["ore", "do"];
    all.extend(CREATE);
    // Long waits: the interruption comes in one of them.
    let mut env = user.cloud.env();
    env.set("MANTLE_POLL_SCALE", "1");
    let running = env.start(std::path::Path::new(env!("CARGO_BIN_EXE_mantle")), &all);
    crate::support::guard::wait("the image to be pending", crate::support::guard::Limit::PROGRAM, || {
        user.cloud.images().values().any(|i| i["status"] == "pending")
    });
    running.signal(nix::sys::signal::Signal::SIGINT);
    let outcome = running.finish().expect(130);
    assert!(user.cloud.images().is_empty(), "{}", outcome.stderr);
}

#[test]
fn what_cannot_be_is_refused_before_any_request() {
    let user = Cloud::new();
    let file = user.env.write("linux.img.bz2", "BZh9");
    let file = format!("--url={}", file.display());
    for (line, code, says) in [
        (vec!["create-image"], 1, "Image name must be specified"),
        (vec!["create-image", "--name=x"], 1, "Image URL must be specified"),
        (vec!["create-image", "--name=x", &file], 2, "no file of this machine can be uploaded"),
        (vec!["create-image", "--name=x", &file], 2, "put the image where everybody can read it"),
        (vec!["create-image", "--name=x", "--url=http://h/$(id)"], 2, "must be written as %"),
        (vec!["create-image", "--name=x", "--url=http://h/x", "--method=magic"], 2, "custom"),
        (vec!["create-image", "--name=x", "--url=http://h/x", "--distribution=Plan 9"], 2, "CoreOS"),
        (
            vec!["create-image", "--method=kexec", "-nx", "-uhttp://h/x", "--busybox-url=b"],
            2,
            "no file of this machine",
        ),
        (
            vec!["create-image", "--method=kexec", "-nx", "-uhttp://h/x", "--busybox-sha256=b"],
            2,
            "64 hexadecimal digits",
        ),
        (vec!["create-image", "x"], 2, "unexpected argument"),
        (vec!["delete-image"], 1, "Image name must be specified"),
        (vec!["delete-image", "--name=x", "--id=1"], 2, "cannot be used with"),
        (vec!["delete-image", "--id=x"], 2, "--id"),
        (vec!["delete-keys"], 2, "Specify at least one key."),
        (vec!["list-keys", "x"], 2, "unexpected argument"),
        (vec!["gc", "--duration=-1h"], 2, "--duration"),
        (vec!["gc", "x"], 2, "unexpected argument"),
        (vec!["--api-url=x", "list-keys"], 1, "is no URL of the DigitalOcean API"),
    ] {
        let outcome = user.ore(&line);
        assert_eq!(outcome.code, code, "{line:?}: {}", outcome.stderr);
        assert!(words(&outcome).contains(says), "{line:?}: {}", outcome.stderr);
        assert!(outcome.stdout.is_empty(), "{line:?}");
    }
    assert!(user.cloud.proxy.take_journal().is_empty());
}

#[test]
fn images_are_deleted_by_their_name() {
    let user = Cloud::new();
    let once = user.cloud.put_image("once", "custom", &["nyc3"]);
    let first = user.cloud.put_image("twice", "custom", &[REGION]);
    let second = user.cloud.put_image("twice", "snapshot", &[REGION]);
    let outcome = user.ore(&["delete-image", "-n", "none"]).expect(1);
    assert!(words(&outcome).contains("couldn't find image \"none\""), "{}", outcome.stderr);
    let outcome = user.ore(&["delete-image", "--name=twice"]).expect(1);
    let says = format!("found multiple images named \"twice\": {first}, {second}");
    assert!(words(&outcome).contains(&says), "{}", outcome.stderr);
    assert_eq!(user.cloud.images().len(), 3);
    let outcome = user.ore(&["delete-image", "--name=once"]).expect(0);
    assert!(words(&outcome).contains(&format!("account {ACCOUNT}, all regions, as sammy@example.com")));
    user.ore(&["delete-image", &format!("--id={first}")]).expect(0);
    assert_eq!(user.cloud.images().into_keys().collect::<Vec<_>>(), [second]);
    let outcome = user.ore(&["delete-image", &format!("--id={once}")]).expect(1);
    assert!(words(&outcome).contains("couldn't find image"), "{}", outcome.stderr);
}

#[test]
fn keys_are_listed_and_deleted() {
    let user = Cloud::new();
    user.cloud.pages_of(10);
    let ids: Vec<u64> = (0..25).map(|n| user.cloud.put_key(&format!("key-{n:02}"))).collect();
    user.cloud.put_key("key-00");
    let outcome = user.ore(&["list-keys"]).expect(0);
    assert_eq!(outcome.stdout.lines().count(), 26);
    assert!(outcome.stdout.starts_with("key-00\nkey-01\n"), "{}", outcome.stdout);
    assert_eq!(user.cloud.asked_for(), ["account.get", "keys.list", "keys.list", "keys.list"]);
    let outcome = user.ore(&["list-keys", "--json"]).expect(0);
    let list: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(list[1], json!({"id": ids[1], "name": "key-01"}));
    // All of a name; what is not there is said, and the others go.
    let outcome = user.ore(&["delete-keys", "key-00", "none", "key-24"]).expect(1);
    assert!(words(&outcome).contains("No such key: none"), "{}", outcome.stderr);
    let names: Vec<String> = user.cloud.keys().into_iter().map(|(name, _)| name).collect();
    assert_eq!((names.len(), names.first().map(String::as_str)), (23, Some("key-01")));
    user.cloud.proxy.on(
        |r| action(r) == "keys.delete",
        0,
        1,
        Fault::Answer(error(403, "forbidden", "not this one")),
    );
    let outcome = user.ore(&["delete-keys", "key-01", "key-02"]).expect(1);
    assert!(words(&outcome).contains("Couldn't delete key: key-01"), "{}", outcome.stderr);
    assert!(words(&outcome).contains("not this one"), "{}", outcome.stderr);
    assert_eq!(user.cloud.keys().len(), 22);
}

#[test]
fn tokens_that_are_refused_are_named_by_their_place() {
    let user = Cloud::new();
    for line in [
        &["list-keys"][..],
        &["delete-keys", "x"],
        &["delete-image", "--name=x"],
        CREATE,
        &["create-image", "--method=kexec", "-nx", "-uhttp://h/x"],
        &["gc"],
        &["gc", "--dry-run"],
    ] {
        let outcome = user.ore(&[&["--token=SECRET-wrong"], line].concat()).expect(1);
        let said = words(&outcome);
        assert!(said.contains("could not complete DigitalOcean preflight check"), "{said}");
        assert!(said.contains("unauthorized: Unable to authenticate you (HTTP 401"), "{said}");
        assert!(said.contains("token of the command line"), "{said}");
        assert!(!said.contains("SECRET"), "{said}");
        assert_eq!(user.cloud.asked_for(), ["account.get"]);
        let outcome = user.ore(&[&["--profile=none"], line].concat()).expect(1);
        assert!(words(&outcome).contains("no such profile \"none\""), "{}", outcome.stderr);
        assert!(user.cloud.asked_for().is_empty());
    }
}

/// Droplets that look alike but for one thing, many of them; the ids of those that are left over.
fn lookalikes(cloud: &DigitalOcean, many: usize) -> Vec<u64> {
    let old = "2026-01-01T00:00:00Z";
    let put = |name: &str, tags: &[&str]| cloud.put_droplet(name, "active", old, tags);
    for n in 0..many {
        let tags: &[&str] = match n % 5 {
            0 => &["Mantle"],
            1 => &["mantle:x", "x"],
            2 => &["not-mantle"],
            3 => &[],
            _ => &["mantle", "mantle:keep"],
        };
        put(&format!("kola-{n:05}"), tags);
    }
    cloud.put_droplet("young", "active", &chrono::Utc::now().to_rfc3339(), &["mantle"]);
    cloud.put_droplet("archived", "archive", old, &["mantle"]);
    put("kept", &["mantle:keep", "mantle"]);
    vec![
        put("kola-x", &["mantle"]),
        cloud.put_droplet("off", "off", old, &["a", "mantle"]),
        cloud.put_droplet("new", "new", "2026-01-01T02:00:00+02:00", &["mantle"]),
    ]
}

#[test]
fn gc_removes_what_is_left_over_and_nothing_else() {
    let user = Cloud::new();
    let left = lookalikes(&user.cloud, 10_000);
    // What the service would never say.
    user.cloud.put_droplet("odd", "active", "long ago", &["mantle"]);
    user.cloud.put_key("kola-1");
    user.cloud.put_image("mantle", "custom", &[REGION]);
    let all: Vec<u64> = user.cloud.droplets().into_keys().collect();
    // A service that knows no filter by tag: what is ours is looked at here.
    let plan = user.ore(&["gc", "--dry-run"]).expect(0).stdout;
    let planned: Value = serde_json::from_str(&plan).unwrap();
    let ids: Vec<String> =
        planned["items"].as_array().unwrap().iter().map(|i| i["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, left.iter().map(u64::to_string).collect::<Vec<_>>());
    assert_eq!(user.cloud.droplets().len(), all.len());
    let pages = user.cloud.asked_for().iter().filter(|a| *a == "droplets.list").count();
    assert!(pages > 9, "{pages}");
    // Meanwhile one has become somebody else's, and one is to be kept.
    user.cloud.retag(left[0], &["theirs"]);
    user.cloud.retag(left[1], &["mantle", "mantle:keep"]);
    let file = user.env.write("plan.json", &plan);
    let other = user.env.write("other.json", &plan.replace(ACCOUNT, "another"));
    let outcome = user.ore(&["gc", "--apply", other.to_str().unwrap()]).expect(1);
    assert!(words(&outcome).contains("the plan is for account another"), "{}", outcome.stderr);
    let outcome = user.ore(&["gc", "--apply", file.to_str().unwrap()]).expect(0);
    assert!(words(&outcome).contains(&format!("removed droplet {}", left[2])), "{}", outcome.stderr);
    let expected: Vec<u64> = all.iter().copied().filter(|id| *id != left[2]).collect();
    assert_eq!(user.cloud.droplets().into_keys().collect::<Vec<_>>(), expected);
    user.cloud.retag(left[0], &["mantle"]);
    user.cloud.retag(left[1], &["mantle"]);
    let outcome = user.ore(&["gc"]).expect(0);
    assert!(outcome.stdout.is_empty(), "{}", outcome.stdout);
    let expected: Vec<u64> = all.into_iter().filter(|id| !left.contains(id)).collect();
    assert_eq!(user.cloud.droplets().into_keys().collect::<Vec<_>>(), expected);
    assert_eq!((user.cloud.keys().len(), user.cloud.images().len()), (1, 1));
    // Nothing to do, nothing to say.
    assert!(user.ore(&["gc"]).expect(0).stdout.is_empty());
}

#[test]
fn gc_goes_on_after_a_failure_and_takes_what_is_gone_for_removed() {
    let user = Cloud::new();
    let left = lookalikes(&user.cloud, 0);
    let refused = format!("/v2/droplets/{}", left[1]);
    let gone = format!("/v2/droplets/{}", left[2]);
    user.cloud.proxy.rule(move |r| match (r.method.as_str(), r.path()) {
        ("DELETE", path) if path == refused => Fault::Answer(error(403, "forbidden", "not today")),
        ("DELETE", path) if path == gone => Fault::Answer(error(404, "not_found", "gone")),
        _ => Fault::None,
    });
    let outcome = user.ore(&["gc"]).expect(1);
    assert!(words(&outcome).contains("not today"), "{}", outcome.stderr);
    assert!(words(&outcome).contains("1 of 3 could not be removed"), "{}", outcome.stderr);
    assert!(!user.cloud.droplets().contains_key(&left[0]));
}

#[test]
fn answers_that_are_none_are_told_apart() {
    let user = Cloud::new();
    for (fault, says) in [
        (Fault::Garbage(b"{\"droplets\": 7}".to_vec()), "cannot be understood"),
        (Fault::Garbage(b"<html>SECRET".to_vec()), "cannot be understood"),
        (Fault::Garbage(format!("{{\"account\": \"{TOKEN}\"}}").into_bytes()), "cannot be understood"),
        (Fault::Truncate(5), "account.get"),
        (Fault::Answer(error(500, "server_error", "no")), "server_error: no"),
    ] {
        user.cloud.proxy.calm();
        user.cloud.proxy.rule(move |_| fault.clone());
        let outcome = user.ore(&["list-keys"]).expect(1);
        assert!(words(&outcome).contains(says), "{says}: {}", outcome.stderr);
        assert!(!outcome.stderr.contains("SECRET"), "{}", outcome.stderr);
    }
}
