//! The recipes in `deploy`: what their engines' schemas say of them, and that the commands in them run every test once.
#![cfg(feature = "test-platform")]

use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use serde_json::Value;

use crate::support::emulators::environment;
use crate::support::{Env, Outcome, Running, repository};

/// Options of the recipes that take machines of QEMU, and ours in their place.
const QEMU: &str = "-p qemu-unpriv --qemu-image image.qcow2 -j auto";
const SCRIPTED: &str = "-p scripted -b debian --scripted-plan plan.json -E p ext.*";

fn recipe(name: &str) -> (PathBuf, String) {
    let path = repository().join("deploy").join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    (path, text)
}

fn documents(text: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(text).map(|d| Value::deserialize(d).unwrap()).collect()
}

/// A folder with seven tests that pass on scripted machines, and with kola.
fn project() -> Env {
    let mut env = Env::new();
    env.set("MANTLE_TEST_PLATFORM", "1");
    env.write("plan.json", r#"{"answers": [{"command": "KOLA_TEST=", "stdout": "passed"}]}"#);
    for n in 0..7 {
        let path = env.write(&format!("p/tests/kola/t{n}"), "#!/bin/sh\n");
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_mantle"), env.home().join("kola")).unwrap();
    env
}

/// Runs a line of a recipe as its engine does.
fn shell(env: &Env, line: &str) -> Outcome {
    let mut command = env.command("/bin/sh");
    command.args(["-eu", "-c", line]);
    Running::new(command).finish()
}

/// Fails if not each test is in one of these folders of results.
#[track_caller]
fn each_once(folders: impl IntoIterator<Item = PathBuf>) {
    let mut names: Vec<String> = Vec::new();
    for folder in folders {
        let json = std::fs::read(folder.join("reports/report.json")).unwrap();
        let json: Value = serde_json::from_slice(&json).unwrap();
        let tests = json["tests"].as_array().into_iter().flatten();
        names.extend(tests.map(|test| test["name"].as_str().unwrap().to_owned()));
    }
    names.sort();
    assert_eq!(names, (0..7).map(|n| format!("ext.p.t{n}")).collect::<Vec<_>>());
}

/// Whether somebody else's program in the Python environment is content with a text, and what it says.
fn judge(program: &str, args: &[&str], text: &str) -> Option<(bool, String)> {
    let folder = environment(program)?;
    let env = Env::new();
    let path = env.write("judged.yaml", text);
    let mut command = env.command(folder.join("bin").join(program));
    command.args(args).arg(path);
    let outcome = Running::new(command).finish();
    Some((outcome.code == 0, outcome.stdout + &outcome.stderr))
}

/// Fails if the judge refuses a text, or takes the same with a mistake in it.
#[track_caller]
fn judged(program: &str, args: &[&str], text: &str, (right, wrong): (&str, &str)) {
    let Some((good, said)) = judge(program, args, text) else { return };
    assert!(good, "{said}");
    assert!(text.contains(right));
    let (good, said) = judge(program, args, &text.replacen(right, wrong, 1)).unwrap();
    assert!(!good, "{wrong} is taken: {said}");
}

#[test]
fn the_job_of_kubernetes_is_one() {
    let (_, text) = recipe("kubernetes/job.yaml");
    let with_kvm = text.replace("# kvm: ", "");
    assert_ne!(text, with_kvm);
    for text in [&text, &with_kvm] {
        for version in ["1.33", "1.37"] {
            let mistake = ("completionMode: Indexed", "completionsMode: Indexed");
            judged("kubernetes-validate", &["--strict", "-k", version], text, mistake);
        }
    }
    let job = documents(&text).pop().unwrap();
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    let of = job["spec"]["completions"].as_u64().unwrap();
    assert_eq!(container["env"][0], serde_json::json!({ "name": "MANTLE_SHARDS", "value": of.to_string() }));
    let devices = |text: &str| {
        let job = documents(text).pop().unwrap();
        job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["devices.kubevirt.io/kvm"]
            .clone()
    };
    assert_eq!((devices(&text), devices(&with_kvm)), (Value::Null, Value::from("1")));

    let mut env = project();
    env.set("MANTLE_SHARDS", of.to_string());
    let words = container["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
    for index in 0..of {
        env.set("JOB_COMPLETION_INDEX", index.to_string());
        let place = |word: &str| {
            word.replace("$(JOB_COMPLETION_INDEX)", &index.to_string())
                .replace("/results", &env.home().display().to_string())
        };
        let ours =
            |word: &str| word.starts_with("--partition") || word.starts_with("--output-dir") || word == "run";
        let words: Vec<String> = words.clone().filter(|word| ours(word)).map(place).collect();
        assert_eq!(words.len(), 3);
        shell(&env, &format!("./kola {} {SCRIPTED}", words.join(" "))).expect(0);
    }
    each_once((0..of).map(|index| env.home().join(format!("part-{index}"))));
}

/// What guests need on this machine, the images of kola's jobs have, too.
#[test]
fn images_have_what_qemu_needs() {
    let ((_, text), (_, gitlab)) = (recipe("kubernetes/Containerfile"), recipe("gitlab/kola.yml"));
    let needed = std::fs::read_to_string(repository().join("tests/guest/packages-run.txt")).unwrap();
    // Those are for other platforms: qemu with networks of its own, containers.
    let others = ["dnsmasq-base", "iproute2", "systemd-container"];
    let names = needed.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split_whitespace().next());
    for name in names.filter(|name| !others.contains(name)) {
        for (file, text) in [("Containerfile", &text), ("kola.yml", &gitlab)] {
            assert!(text.split_whitespace().any(|word| word == name), "{file} has no {name}");
        }
    }
}

#[test]
fn the_workflow_of_github_is_one() {
    let (_, text) = recipe("github/kola.yml");
    let mistake = ("runs-on:", "run-on:");
    judged("check-jsonschema", &["--builtin-schema", "vendor.github-workflows"], &text, mistake);
    let workflow = documents(&text).remove(0);
    let job = &workflow["jobs"]["kola"];
    let parts = job["strategy"]["matrix"]["part"].as_array().unwrap();
    let line = job["steps"].as_array().unwrap().iter().filter_map(|step| step["run"].as_str());
    let line = line.clone().find(|line| line.contains("kola run")).unwrap();
    assert!(line.contains(QEMU));
    let env = project();
    for part in parts {
        let line = line
            .replace("${{ matrix.part }}", &part.to_string())
            .replace("${{ strategy.job-total }}", &parts.len().to_string())
            .replace(QEMU, SCRIPTED);
        shell(&env, &line).expect(0);
    }
    each_once(parts.iter().map(|part| env.home().join(format!("part-{part}"))));
}

#[test]
fn the_file_of_gitlab_is_one() {
    let (_, text) = recipe("gitlab/kola.yml");
    let args = ["--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci"];
    judged("check-jsonschema", &args, &text, ("parallel: 4", "parallel: four"));
    let file = documents(&text).remove(0);
    let job = &file["kola"];
    let of = job["parallel"].as_u64().unwrap();
    let line = job["script"][0].as_str().unwrap();
    assert!(line.contains(QEMU));
    let mut env = project();
    env.set("CI_NODE_TOTAL", of.to_string());
    for part in 1..=of {
        env.set("CI_NODE_INDEX", part.to_string());
        shell(&env, &line.replace(QEMU, SCRIPTED)).expect(0);
    }
    each_once((1..=of).map(|part| env.home().join(format!("part-{part}"))));
}

/// What `make test-slurm` does with a real one.
#[test]
fn the_array_of_slurm_is_one() {
    let (script, _) = recipe("slurm/kola.sbatch");
    let mut env = project();
    env.write("times.json", r#"{"scripted": {"ext.p.t1": 100}}"#);
    let home = env.home();
    env.set("SLURM_SUBMIT_DIR", &home).set("KOLA", home.join("kola")).set("SLURM_ARRAY_TASK_MIN", "1");
    env.set("SLURM_ARRAY_TASK_MAX", "3").set("SLURM_ARRAY_TASK_COUNT", "3").set("SLURM_ARRAY_TASK_STEP", "1");
    let task = |env: &mut Env, job: &str, task: usize| {
        env.set("SLURM_ARRAY_JOB_ID", job).set("SLURM_ARRAY_TASK_ID", task.to_string());
        let mut command = env.command(Path::new("/bin/sh"));
        command.arg(&script).args(SCRIPTED.split(' '));
        Running::new(command).finish().expect(0).stderr
    };
    for job in ["7", "8"] {
        if job == "8" {
            env.set("DURATIONS", "times.json");
        }
        let said: String = (1..=3).map(|n| task(&mut env, job, n)).collect();
        assert!(
            said.contains(if job == "7" {
                "part count:3/3, as the env"
            } else {
                "part weighted:3/3, as the env"
            }),
            "{said}"
        );
        // Requeued: the same folder, and nothing twice, although other durations are known by now.
        env.write("times.json", r#"{"scripted": {"ext.p.t0": 50, "ext.p.t2": 60, "ext.p.t4": 70}}"#);
        task(&mut env, job, 2);
        each_once((1..=3).map(|n| home.join(format!("kola-{job}/part-{n}"))));
    }
}
