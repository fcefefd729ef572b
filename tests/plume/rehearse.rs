//! `plume rehearse`, and what it plays before: the doubles as Amazon's own client and an anonymous one see them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mantle::doubles::Faults;
use mantle::doubles::world::{Order, World};
use mantle::release::Table;
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::{Value, json};

use super::world::{Set, armored, table};
use crate::support::emulators::environment;
use crate::support::proxy::Proxy;
use crate::support::{Env, Outcome, repository};

/// A channel table, a key, a build.
fn env() -> Env {
    let env = Env::new();
    env.write("channels.yaml", &table(1));
    std::fs::write(env.home().join("key.asc"), armored()).unwrap();
    let build = env.home().join("build");
    std::fs::create_dir(&build).unwrap();
    for (name, body) in Set::Small.files() {
        std::fs::write(build.join(name), body).unwrap();
    }
    env
}

fn words<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let words = [
        "plume",
        "--channels=channels.yaml",
        "--distro=ours",
        "rehearse",
        "--channel=alpha",
        "--board=amd64-usr",
    ];
    [&words[..], more].concat()
}

/// Nothing is left in the temporary folder.
#[track_caller]
fn nothing_is_left(env: &Env) {
    let tmp = env.home().parent().unwrap().join("tmp");
    let left: Vec<PathBuf> = std::fs::read_dir(&tmp).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Fails if a process has this folder in its environment.
#[track_caller]
fn nobody_lives_in(folder: &Path) {
    let text = folder.to_str().unwrap().as_bytes();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        // Others end meanwhile.
        let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
        let lives = environment.windows(text.len()).any(|w| w == text);
        assert!(!lives, "{}", process.path().display());
    }
}

/// Somebody with accounts everywhere, whose use would be noticed.
fn trapped(env: &mut Env) -> Proxy {
    let trap = Proxy::before(|_| None);
    let url = trap.url();
    let google = crate::cloud::gce::double::key_file(&format!("{url}/token"));
    let key = env.write(".config/gcloud/application_default_credentials.json", &google);
    let keys = "aws_access_key_id = AKIDREAL\naws_secret_access_key = real\n";
    env.write(".aws/credentials", &format!("[default]\n{keys}"));
    env.write(".aws/config", &format!("[default]\nregion = us-east-1\nendpoint_url = {url}\n"));
    let profile = json!({"environments": [{"name": "Own", "storageEndpointSuffix": url}], "subscriptions": [
        {"id": "1", "name": "mine", "isDefault": true, "environmentName": "Own", "managementEndpointUrl": url},
    ]});
    env.write(".azure/azureProfile.json", &profile.to_string());
    env.write(".config/mantle/config.yaml", &format!("plume:\n  gce-json-key: {}\n", key.display()));
    env.set("GOOGLE_APPLICATION_CREDENTIALS", key);
    let settings = format!("BlobEndpoint={url};AccountName=devstoreaccount1;AccountKey=a2V5");
    env.set("AZURE_STORAGE_CONNECTION_STRING", settings);
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
        env.set(name, "REAL");
    }
    for name in [
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_EC2",
        "AWS_ENDPOINT_URL_S3",
        "AWS_ENDPOINT_URL_STS",
        "STORAGE_EMULATOR_HOST",
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE",
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE",
        "AZURE_STORAGE_BLOB_ENDPOINT",
        "http_proxy",
        "https_proxy",
        "ALL_PROXY",
    ] {
        env.set(name, url.clone());
    }
    trap
}

#[test]
fn a_build_is_released_and_no_account_is_used() {
    let mut env = env();
    let trap = trapped(&mut env);
    let more = ["--build=build", "--verify-key=key.asc", "--version=2.0.0", "--keep=kept"];
    let Outcome { stdout, .. } = env.mantle(&words(&more)).expect(0);
    assert!(trap.journal().is_empty(), "{:?}", trap.journal());
    for told in [
        "to do       copy image Ours-alpha-2.0.0-hvm in eu-north-1\n",
        "done        share image Ours-Alpha-2.0.0 in mine with everybody\n",
        "Rehearsed ours alpha amd64-usr 2.0.0 in ",
        " Ours-alpha-2.0.0-hvm (public)",
        "image Ours-Alpha-2.0.0 (public) in East US, West US\n",
        "image ours-alpha-0-0-1-v20200102: deprecated\n",
    ] {
        assert!(stdout.contains(told), "{told:?}: {stdout}");
    }
    assert!(!stdout.contains("(private)"), "{stdout}");
    let kept = |name: &str| std::fs::read(env.home().join("kept").join(name)).unwrap();
    let image = "ours_image.bin.bz2";
    for folder in ["amd64-usr/2.0.0", "amd64-usr/current"] {
        assert_eq!(kept(&format!("gcs/alpha-release/{folder}/{image}")), Set::Small.files()[image]);
    }
    let disk = kept("azure/mine/devstoreaccount1/publish-1/ours-2.0.0-alpha.vhd");
    assert!(disk.len() == (1 << 20) + 512 && disk[1 << 20..].starts_with(b"conectix"));
    let state: Value = serde_json::from_slice(&kept("state.json")).unwrap();
    assert_eq!(state["aws"]["regions"]["us-east-1"]["images"].as_array().unwrap().len(), 2);
    nothing_is_left(&env);
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Report {
    version: u32,
    release: String,
    seconds: f64,
    faults: Share,
    plan: Findings,
    verify: Findings,
    requests: Vec<Asked>,
    state: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Share {
    percent: f64,
    seed: u64,
}

#[derive(Deserialize)]
struct Findings {
    steps: Vec<BTreeMap<String, Value>>,
    #[serde(default)]
    left_out: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    service: String,
    requests: u64,
    faults: u64,
}

#[test]
fn a_sample_is_released_though_requests_go_wrong() {
    let env = env();
    let outcome = env.mantle(&words(&["--faults=5%", "--seed=3", "--json"])).expect(0);
    let report: Report = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((report.version, &*report.release), (1, "ours alpha amd64-usr 1.0.0"));
    assert_eq!((report.faults.percent, report.faults.seed), (5.0, 3));
    assert!(report.seconds > 0.0);
    assert!(report.plan.steps.iter().any(|s| s["state"] == "todo"));
    assert!(report.verify.steps.len() > 30 && report.verify.steps.iter().all(|s| s["state"] == "done"));
    assert!(report.verify.left_out.is_empty(), "{:?}", report.verify.left_out);
    let services: Vec<&str> = report.requests.iter().map(|a| a.service.as_str()).collect();
    assert_eq!(services, ["aws", "azure", "gce", "gcs"]);
    let faults: u64 = report.requests.iter().map(|a| a.faults).sum();
    assert!(report.requests.iter().all(|a| a.requests > 10) && faults > 5, "{faults}");
    let state: Vec<&str> = report.state.keys().map(String::as_str).collect();
    assert_eq!(state, ["aws", "azure", "gce", "gcs"]);
    nothing_is_left(&env);
}

#[test]
fn a_web_address_is_rehearsed_in_a_bucket() {
    let env = Env::new();
    let words =
        ["plume", "--distro=flatcar", "rehearse", "-C", "developer", "-B", "arm64-usr", "-V", "4000.0.0+x"];
    let outcome = env.mantle(&words).expect(0);
    assert!(
        outcome.stderr.contains("/images/arm64/4000.0.0%2Bx is rehearsed as a folder"),
        "{}",
        outcome.stderr
    );
    assert!(outcome.stdout.contains("Flatcar-developer-4000.0.0_x-arm64-hvm (public)"), "{}", outcome.stdout);
}

#[test]
fn an_interrupted_rehearsal_leaves_nothing() {
    let env = env();
    let mut running = env.start(Path::new(env!("CARGO_BIN_EXE_mantle")), &words(&[]));
    // The plan has been printed.
    running.wait_for("What is not kept:");
    running.signal(Signal::SIGINT);
    running.finish().expect(130);
    nothing_is_left(&env);
    nobody_lives_in(&env.home().parent().unwrap().join("tmp/mantle-rehearsal-"));
}

#[test]
fn what_cannot_be_rehearsed_is_refused() {
    let env = env();
    let refused = |more: &[&str], code: i32, told: &str| {
        let outcome = env.mantle(&words(more)).expect(code);
        assert!(outcome.stderr.contains(told), "{more:?}: {}", outcome.stderr);
        nothing_is_left(&env);
    };
    refused(&["--build=missing", "-V=1"], 1, "missing");
    refused(&["--build=build"], 1, "pass --version");
    std::fs::create_dir(env.home().join("empty")).unwrap();
    refused(&["--build=empty", "-V=1"], 1, "empty: there is no version.txt");
    refused(&["--keep=build"], 1, "there is something already");
    refused(&["--faults=90"], 2, "it is no number from 0 to 50");
    refused(&["--platform=esx"], 2, "Unknown platform");
    let only = ["--build=build", "-V=2.0.0", "--platform=aws"];
    refused(&only, 1, "the rehearsal has ended at `plume pre-release`");
    let image = env.home().join("build/ours_ami.bin.bz2");
    let mut body = std::fs::read(&image).unwrap();
    body[1000] ^= 1;
    std::fs::write(&image, body).unwrap();
    let signed = [&only[..], &["--verify-key=key.asc"]].concat();
    refused(&signed, 1, "the rehearsal has ended at `plume pre-release`");
}

#[test]
fn amazons_client_and_an_anonymous_one_see_the_release() {
    let Some(python) = environment("moto_server") else { return };
    let env = env();
    let (table, file) = (table(1), env.home().join("channels.yaml"));
    let table = Table::parse(&table, "channels.yaml").unwrap();
    let selection = table.distribution("ours").unwrap().select("alpha", "amd64-usr", "2.0.0", None).unwrap();
    let files: BTreeMap<String, PathBuf> =
        Set::Small.files().keys().map(|name| (name.clone(), env.home().join("build").join(name))).collect();
    let folder = tempfile::tempdir().unwrap();
    let order =
        Order { selection: &selection, files: &files, folder: folder.path(), faults: Faults::default() };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(World::start(&order)).unwrap();
    let mut inside = Env::new();
    for (name, value) in world.environment() {
        inside.set(name, value);
    }
    let global = [
        format!("--channels={}", file.display()),
        format!("--gce-json-key={}", world.google_key().display()),
        "--distro=ours".into(),
    ];
    let accounts = [
        format!("--aws-credentials={}", world.aws_credentials().display()),
        format!("--azure-profile={}", world.azure_profile().display()),
    ];
    let key = format!("--verify-key={}", env.home().join("key.asc").display());
    let which = ["--channel=alpha", "--board=amd64-usr", "--version=2.0.0"].map(str::to_owned);
    let run = |stage: &str, more: &[&String]| {
        let all = ["plume".to_owned()].into_iter().chain(global.clone()).chain([stage.to_owned()]);
        let all = all.chain(which.clone()).chain(accounts.clone()).chain(more.iter().map(|m| (*m).clone()));
        let all: Vec<String> = all.collect();
        inside.mantle(&all.iter().map(String::as_str).collect::<Vec<_>>()).expect(0)
    };
    run("pre-release", &[&key]);
    run("release", &[]);
    assert_eq!(world.strangers(), Vec::<String>::new());

    let state = serde_json::to_value(world.state()).unwrap();
    let regions: Vec<&String> = state["aws"]["regions"].as_object().unwrap().keys().collect();
    assert_eq!(regions, ["eu-north-1", "us-east-1", "us-west-2"]);
    let output = std::process::Command::new(python.join("bin/python"))
        .arg(repository().join("tests/plume/read_aws.py"))
        .arg(&world.environment()["AWS_ENDPOINT_URL"])
        .args(&regions)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(seen, state["aws"]["regions"]);

    // Without any account: what the public reads is looked at, and what was left out is said.
    let mut nobody = Env::new();
    for name in
        ["STORAGE_EMULATOR_HOST", "no_proxy", "https_proxy", "http_proxy", "AWS_EC2_METADATA_DISABLED"]
    {
        nobody.set(name, &world.environment()[name]);
    }
    let channels = format!("--channels={}", file.display());
    let words = ["plume", &channels, "--distro=ours", "verify", "-C=alpha", "-B=amd64-usr", "-V=2.0.0", &key];
    let outcome = nobody.mantle(&words).expect(0);
    let good = "done        find good signatures in gs://alpha-release/amd64-usr/2.0.0/";
    assert!(outcome.stdout.contains(good), "{}", outcome.stdout);
    for place in ["aws", "azure", "gce", "metadata"] {
        assert!(outcome.stderr.contains(&format!("{place} was left out: ")), "{}", outcome.stderr);
        assert!(!outcome.stdout.contains("publish image"), "{}", outcome.stdout);
    }
    let report = nobody.mantle(&[&words[..], &["--json"]].concat()).expect(0).stdout;
    let report: Findings = serde_json::from_str(&report).unwrap();
    assert_eq!(report.left_out.len(), 4, "{:?}", report.left_out);
}
