//! Platform external: the example of its README, and what becomes of commands that fail, hang or lose their master.

use std::path::Path;

use nix::sys::signal::Signal;

use super::{Kola, guest, root, until};
use crate::support::guard::Limit;
use crate::support::{Env, Outcome, installed, repository};

/// Files of the example.
fn example(file: &str) -> String {
    repository().join("src/platform/external/example").join(file).display().to_string()
}

/// The options that say by which script machines of the laboratory are made.
fn by(script: &str, variables: &str) -> Vec<String> {
    let commands = |step: &str| format!("{variables} sh {script} {step}");
    vec![
        format!("--external-provisioning-cmds={}", commands("provision")),
        format!("--external-serial-console-cmd={}", commands("console")),
        format!("--external-deprovisioning-cmds={}", commands("deprovision")),
    ]
}

/// Runs kola beside the example's host, by a script whose `kola` has all options but these.
fn in_laboratory(env: &Env, options: &[String], script: &str) -> Outcome {
    let mut words = vec![
        "-p external -b debian --output-dir ${OUT-out} --external-host=10.99.0.2 --external-user=root"
            .to_owned(),
        "--external-key=$LAB_KEY".to_owned(),
    ];
    words.extend(options.iter().map(|o| mantle::ssh::quote(o)));
    let binary = env!("CARGO_BIN_EXE_mantle");
    let script = format!("set -e\nkola() {{ {binary} kola \"$@\" {}; }}\n{script}", words.join(" "));
    let script = env.write("script", &script);
    env.start(Path::new("sh"), &[&example("lab.sh"), "sh", script.to_str().unwrap()]).finish()
}

fn can_have_laboratories() -> bool {
    root() && ["ip", "sshd", "unshare", "nsenter"].iter().all(|p| installed(p))
}

/// Nothing is left of machines: not in the laboratory, nor on record, nor in temporary folders.
#[track_caller]
fn nothing_left(env: &Env) {
    let names = |folder: &Path| -> Vec<_> {
        std::fs::read_dir(folder).into_iter().flatten().map(|e| e.unwrap().path()).collect()
    };
    assert_eq!(names(&env.home().join("lab")), Vec::<std::path::PathBuf>::new());
    assert_eq!(names(&env.home().parent().unwrap().join("tmp")), Vec::<std::path::PathBuf>::new());
    let outcome = env.mantle(&["kola", "cleanup", "out"]).expect(0);
    assert_eq!(outcome.stdout, "out: nothing is left over\n");
}

/// The only machine's folder in a folder.
fn machine(folder: &Path) -> std::path::PathBuf {
    let all = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let mut machines = all.filter(|p| p.join("user-data").exists());
    machines.next().unwrap()
}

#[test]
fn real_machines_of_a_laboratory() {
    if !can_have_laboratories() || !installed("systemd-nspawn") {
        return;
    }
    let Some(guest) = guest("root") else { return };
    let guest =
        ["full", "base"].map(|v| guest.join(v)).into_iter().find(|d| d.join("root").exists()).unwrap();
    let mut env = Env::new();
    env.guarded(Limit::MACHINES);
    let boot = repository().join("src/platform/nspawn/boot.sh");
    let (lab, boot, guest) = (env.home().join("lab"), boot.display(), guest.display());
    let options = by(&example("nspawn.sh"), &format!("STATE={} GUEST={guest} BOOT={boot}", lab.display()));
    let script = "kola run coreos.auth.verify cl.filesystem\n\
        # A proxy that others wrote.\n\
        ssh -q -i \"$LAB_KEY\" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
        -o ExitOnForwardFailure=yes -f -N -D 127.0.0.1:1080 root@10.99.0.2\n\
        OUT=through kola spawn --external-socks=127.0.0.1:1080";
    let outcome = in_laboratory(&env, &options, script).expect(0);
    for test in ["coreos.auth.verify", "cl.filesystem"] {
        assert!(outcome.stdout.contains(&format!("--- PASS: {test}")), "{}", outcome.stdout);
    }
    let folder = machine(&env.home().join("out/coreos.auth.verify"));
    let console = std::fs::read_to_string(folder.join("console.txt")).unwrap();
    assert!(console.contains("Ignition finished successfully"), "{console}");
    nothing_left(&env);
}

/// For `make test-full`: the same with a virtual machine, which takes a minute to boot under emulation.
#[test]
#[ignore = "boots a virtual machine"]
fn real_virtual_machines_of_a_laboratory() {
    if !can_have_laboratories() || !installed("qemu-system-x86_64") {
        return;
    }
    let Some(guest) = guest("guest.qcow2") else { return };
    let image =
        ["full", "base"].map(|v| guest.join(v).join("guest.qcow2")).into_iter().find(|d| d.exists()).unwrap();
    let mut env = Env::new();
    env.guarded(Limit::MACHINES);
    let variables = format!(
        "STATE={} IMAGE={} HOST=10.99.0.2",
        env.home().join("lab").display(),
        image.canonicalize().unwrap().display()
    );
    let options = by(&example("qemu.sh"), &variables);
    let outcome = in_laboratory(&env, &options, "kola run cl.filesystem").expect(0);
    assert!(outcome.stdout.contains("--- PASS: cl.filesystem"), "{}", outcome.stdout);
    let console = std::fs::read_to_string(machine(&env.home().join("out/cl.filesystem")).join("console.txt"));
    assert!(console.unwrap().contains("Linux version"));
    nothing_left(&env);
}

/// Commands that run here; what they are told goes to files in the home folder.
fn here(provision: &str, deprovision: &str) -> Vec<String> {
    vec![
        "spawn".into(),
        "-p=external".into(),
        "-b=debian".into(),
        "--output-dir=out".into(),
        format!("--external-provisioning-cmds={provision}"),
        format!("--external-deprovisioning-cmds=echo \"$MACHINE ${{IPADDR-unset}}\" >>freed; {deprovision}"),
    ]
}

fn words(all: &[String]) -> Vec<&str> {
    all.iter().map(String::as_str).collect()
}

/// Processes whose environment has this variable.
fn processes_with(variable: &str) -> Vec<String> {
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|e| e.ok().map(|e| e.path()));
    all.filter(|p| {
        let environment = std::fs::read(p.join("environ")).unwrap_or_default();
        environment.split(|b| *b == 0).any(|v| v == variable.as_bytes())
    })
    .map(|p| p.display().to_string())
    .collect()
}

fn read(env: &Env, name: &str) -> String {
    std::fs::read_to_string(env.home().join(name)).unwrap_or_default()
}

/// The machine that was freed, once.
#[track_caller]
fn freed(env: &Env, address: &str) -> String {
    let text = read(env, "freed");
    let lines: Vec<&str> = text.lines().collect();
    let [line] = lines[..] else { panic!("freed: {text:?}") };
    let (machine, told) = line.split_once(' ').unwrap();
    assert_eq!(told, address);
    machine.to_owned()
}

const HANG: &str = "echo $MACHINE >made; sleep 1000 & sleep 1000";

#[test]
fn interrupted_makings_are_undone() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let env = Env::new();
        let kola = Kola::start(&env, &words(&here(HANG, "true")));
        until("the machine is being made", || read(&env, "made").ends_with('\n'));
        kola.signal(signal);
        let outcome = kola.finish();
        assert_eq!(outcome.code, code, "{}", outcome.stderr);
        let machine = freed(&env, "unset");
        assert_eq!(read(&env, "made").trim(), machine);
        assert_eq!(processes_with(&format!("MACHINE={machine}")), Vec::<String>::new());
        nothing_left(&env);
    }
}

#[test]
fn what_a_killed_run_has_left_is_freed_by_its_ledger() {
    let env = Env::new();
    let kola = Kola::start(&env, &words(&here(HANG, "true")));
    until("the machine is being made", || read(&env, "made").ends_with('\n'));
    kola.signal(Signal::SIGKILL);
    kola.finish();
    let machine = read(&env, "made").trim().to_owned();
    assert!(!processes_with(&format!("MACHINE={machine}")).is_empty(), "it has died with kola");
    let outcome = env.mantle(&["kola", "cleanup", "out"]).expect(1);
    assert!(outcome.stderr.contains("--external-deprovisioning-cmds"), "{}", outcome.stderr);
    let other = ["--external-host=h", "--external-user=u", "--external-password=SECRET"];
    let free = here("x", "true").pop().unwrap();
    let outcome = env.mantle(&[&["kola", "cleanup", "out", &free][..], &other].concat()).expect(1);
    assert!(outcome.stderr.contains("it was made on this machine, the options name h"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("SECRET"), "{}", outcome.stderr);
    let outcome = env.mantle(&["kola", "cleanup", "out", &free]).expect(0);
    assert!(outcome.stdout.contains(&format!("removed machine {machine}")), "{}", outcome.stdout);
    assert_eq!(freed(&env, "unset"), machine);
    assert_eq!(processes_with(&format!("MACHINE={machine}")), Vec::<String>::new());
    // The folder of the SSH agent's socket was on record, too.
    nothing_left(&env);
}

#[test]
fn failures_say_what_the_commands_said() {
    for (provision, told) in [
        ("echo no rack is free >&2; exit 7", "exit status: 7: no rack is free"),
        ("true", "its provisioning commands printed nothing"),
        ("echo 10.0.0.1; echo no luck today", "\"10.0.0.1\\nno luck today\""),
    ] {
        let env = Env::new();
        let outcome = Kola::start(&env, &words(&here(provision, "true"))).finish();
        assert_eq!(outcome.code, 1);
        assert!(outcome.stderr.contains(told), "{told}: {}", outcome.stderr);
        freed(&env, "unset");
        nothing_left(&env);
    }
    let env = Env::new();
    let kola = Kola::start(
        &env,
        &words(&here("echo $MACHINE >made; exit 1", "echo the door is locked >&2; exit 3")),
    );
    let outcome = kola.finish();
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("is left: deprovisioning commands"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("exit status: 3: the door is locked"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("one thing is left over"), "{}", outcome.stderr);
    env.mantle(&["kola", "cleanup", "out", &here("x", "true").pop().unwrap()]).expect(0);
    nothing_left(&env);
}

#[test]
fn makings_without_end_are_given_up() {
    let env = Env::new();
    let options = [here(HANG, "true"), vec!["--external-timeout=300ms".into()]].concat();
    let outcome = Kola::start(&env, &words(&options)).finish();
    assert_eq!(outcome.code, 1);
    let said = outcome.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("did not end within"), "{said}");
    let machine = freed(&env, "unset");
    assert_eq!(processes_with(&format!("MACHINE={machine}")), Vec::<String>::new());
    nothing_left(&env);
}

#[test]
fn userdata_comes_in_a_file_and_in_the_environment_unless_it_is_large() {
    for (size, variable) in [(10, "set"), (200_000, "unset")] {
        let env = Env::new();
        let text = "x".repeat(size);
        env.write(
            "config.ign",
            &format!(r#"{{"ignition":{{"version":"2.0.0"}},"storage":{{"files":[{{"filesystem":"root","path":"/x","contents":{{"source":"data:,{text}"}}}}]}}}}"#),
        );
        let provision = "cp \"$USERDATA_FILE\" copy; test \"${USERDATA-}\" = \"$(cat copy)\" && echo set >variable || \
            echo ${USERDATA+set but other}unset >variable; exit 1";
        let options = [here(provision, "true"), vec!["--userdata=config.ign".into()]].concat();
        let outcome = Kola::start(&env, &words(&options)).finish();
        assert_eq!(outcome.code, 1, "{}", outcome.stderr);
        assert!(read(&env, "copy").contains(&text), "{}", outcome.stderr);
        assert_eq!(read(&env, "variable").trim(), variable);
        let kept = std::fs::read_to_string(machine(&env.home().join("out")).join("user-data")).unwrap();
        assert_eq!(read(&env, "copy"), kept);
    }
}

#[test]
fn commands_on_another_host_are_ended_with_the_run() {
    if !can_have_laboratories() {
        return;
    }
    let env = Env::new();
    let home = env.home().display().to_string();
    let options = vec![
        format!("--external-provisioning-cmds=cd {home}; {HANG}"),
        format!("--external-deprovisioning-cmds=echo \"$MACHINE ${{IPADDR-unset}}\" >>{home}/freed"),
    ];
    let script = "kola spawn &\n\
        until [ -s made ]; do sleep 0.05; done\n\
        kill -INT $(pgrep -f 'kola spawn' | tail -n 1)\n\
        status=0; wait $! || status=$?\n\
        ! pgrep -f 'sleep 1000' || exit 99\n\
        exit $status";
    let outcome = in_laboratory(&env, &options, script);
    assert_eq!(outcome.code, 130, "{}{}", outcome.stdout, outcome.stderr);
    assert_eq!(freed(&env, "unset"), read(&env, "made").trim());
    nothing_left(&env);
}

#[test]
fn a_host_that_does_not_let_us_in_is_named_and_no_secret() {
    let mut env = Env::new();
    env.set("MANTLE_EXTERNAL_PASSWORD", "SECRET");
    let nobody = crate::support::emulators::free_port();
    let host = format!("--external-host=127.0.0.1:{nobody}");
    let options = [here("x", "y"), vec![host, "--external-user=u".into()]].concat();
    let outcome = Kola::start(&env, &words(&options)).finish();
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains(&format!("cannot connect to 127.0.0.1:{nobody}")), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("SECRET") && !outcome.stdout.contains("SECRET"), "{}", outcome.stderr);
}
