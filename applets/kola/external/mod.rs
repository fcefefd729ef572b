//! External tests: programs in any language, found in folders, run on machines as systemd units.
//!
//! A test is an executable below `tests/kola` of a project, with an optional config (`config.ign`, `config.bu`), an
//! optional folder `data` and a few lines about itself ([`metadata`]). README.md in this folder says how to write one.

mod bucket;
pub mod lint;
mod metadata;
pub mod scaffold;
mod unit;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use color_eyre::Section as _;
use color_eyre::eyre::{Result, eyre};
use mantle::applet::Section;
use mantle::platform::distribution::DISTRIBUTIONS;
use mantle::platform::{DRIVERS, Disk, Driver, MachineOptions};

use super::register::{Config, Flag, Test, Text};
pub use bucket::share;
pub use metadata::Day;
use metadata::{HEAD, Metadata};

/// Where a project keeps its tests.
const FOLDER: &str = "tests/kola";
/// Where installed tests are.
const INSTALLED: [&str; 2] = ["/usr/lib/kola/tests/kola", "/usr/lib/coreos-assembler/tests/kola"];
/// First part of all names.
const PREFIX: &str = "ext";
/// The script that takes its folder's name when it is alone there.
const ALONE: &str = "test.sh";
/// The folder that is uploaded with its neighbours.
const DATA: &str = "data";
/// Metadata of a folder.
const FOLDER_METADATA: &str = "kola.json";
/// How deep folders may be nested: links can lead anywhere.
const DEPTH: usize = 32;

/// External tests, for the man page.
pub fn sections() -> Vec<Section> {
    let about = [
        (
            "DIR/tests/kola",
            "Each executable below it is a test of project DIR (-E DIR; the current folder without -E), in any language: \
             ext.<DIR>.<folder>.<file>. A test.sh that is alone has its folder's name. In the same folder may be \
             config.ign or config.bu (userdata), data (a folder that goes along) and kola.json (keys for all its tests).",
        ),
        (
            "how it runs",
            "As root, as a systemd unit, with the variables KOLA_TEST, KOLA_TEST_EXE, KOLA_UNIT and KOLA_EXT_DATA (where \
             data is on the machine). It has passed when it ends with status 0. Its output goes to the journal, and \
             to <machine>/<test>.txt in the results.",
        ),
        (
            "reboots",
            "/tmp/autopkgtest-reboot MARK reboots; the test begins anew with AUTOPKGTEST_REBOOT_MARK=MARK. \
             /tmp/autopkgtest-reboot-prepare MARK returns when the test may reboot by itself; the same with soft-reboot. \
             tmt-reboot and rstrnt-reboot count in TMT_REBOOT_COUNT and RSTRNT_REBOOTCOUNT, and REBOOT [KEY] in SPREAD_REBOOT.",
        ),
        (
            "keys",
            "In the first 8192 bytes of the executable: a line `# kola: {JSON}`, or a line `## kola:` and below it YAML \
             in lines that begin with `## `. They count more than kola.json.",
        ),
    ];
    let own = |(name, about): (&str, &str)| (name.to_owned(), about.to_owned());
    vec![
        ("EXTERNAL TESTS", about.into_iter().map(own).collect()),
        ("KEYS OF EXTERNAL TESTS", metadata::ABOUT.into_iter().map(own).collect()),
    ]
}

/// A fault in a file of external tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    file: PathBuf,
    /// From 1, where a line is to blame.
    line: Option<usize>,
    text: String,
    advice: String,
    /// The tests can be run all the same.
    harmless: bool,
}

impl Fault {
    fn new(file: &Path, line: Option<usize>, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, text: text.into(), advice: advice.into(), harmless: false }
    }

    fn harmless(self) -> Self {
        Self { harmless: true, ..self }
    }
}

/// `FILE:LINE: what is wrong; what to do`, as compilers say it.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        let kind = if self.harmless { "warning: " } else { "" };
        write!(f, " {kind}{}", self.text)?;
        if !self.advice.is_empty() {
            write!(f, "; {}", self.advice)?;
        }
        Ok(())
    }
}

/// An external test, read.
#[derive(Clone, Debug)]
pub struct External {
    /// Full name.
    name: String,
    /// The executable.
    file: PathBuf,
    /// Its name, which is part of names on the machine.
    base: String,
    /// What goes along.
    data: Option<PathBuf>,
    config: Option<Config>,
    metadata: Metadata,
}

/// What a search has found.
#[derive(Default)]
struct Found {
    /// By name.
    tests: BTreeMap<String, External>,
    faults: Vec<Fault>,
    /// Names of tests that nobody wants read.
    denied: Vec<String>,
}

/// Which tests are not even read, by their names.
pub type Denied<'a> = &'a dyn Fn(&str) -> bool;

/// External tests that were read, and the names of those that were not, as they are denied.
pub type Tests = (Vec<Arc<Test>>, Vec<String>);

/// All external tests of these projects (of the current folder if there is none) and the installed ones; those that
/// are denied are not read.
///
/// # Errors
/// Every fault that keeps a test from being read, with its place.
pub fn find(projects: &[PathBuf], denied: Denied<'_>) -> Result<Tests> {
    let mut found = Found::default();
    for root in INSTALLED {
        let _ = search(&mut found, Path::new(root), PREFIX, denied);
    }
    if projects.is_empty() {
        project(&mut found, Path::new("."), denied).map(drop)?;
    }
    for folder in projects {
        if !project(&mut found, folder, denied)? {
            let kind = if folder.is_dir() { "has no folder tests/kola" } else { "is no folder" };
            return Err(eyre!("--exttest: {} {kind}", folder.display())
                .suggestion("`kola new` makes a first test there"));
        }
    }
    let bad: Vec<&Fault> = found.faults.iter().filter(|fault| !fault.harmless).collect();
    for fault in found.faults.iter().filter(|fault| fault.harmless) {
        mantle::warning!("kola", "{fault}");
    }
    if let Some((first, others)) = bad.split_first() {
        let mut report = eyre!("an external test cannot be read: {first}");
        for fault in others.iter().take(9) {
            report = report.note(fault.to_string());
        }
        if others.len() > 9 {
            report = report.note(format!("and {} more", others.len() - 9));
        }
        return Err(report
            .suggestion("mend it, or leave it out by --denylist-test; `kola lint DIR` shows all faults"));
    }
    Ok((found.tests.into_values().map(|test| Arc::new(test.registered())).collect(), found.denied))
}

/// Reads a project's tests; false if it has no folder for them.
fn project(found: &mut Found, folder: &Path, denied: Denied<'_>) -> Result<bool> {
    let root = folder.join(FOLDER);
    if !root.is_dir() {
        return Ok(false);
    }
    let name = project_name(folder)?;
    search(found, &root, &format!("{PREFIX}.{name}"), denied)?;
    Ok(true)
}

/// The name that a project's folder gives to its tests.
///
/// # Errors
/// When the folder cannot be found or its name cannot be part of a test's.
fn project_name(folder: &Path) -> Result<String> {
    let real = folder.canonicalize().map_err(|e| eyre!("cannot find {}: {e}", folder.display()))?;
    let name = real.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    if !fits(&name) {
        return Err(eyre!(
            "the folder {} has external tests, but {name:?} cannot be part of their names",
            real.display()
        )
        .suggestion(format!("rename it: {NAMES}")));
    }
    Ok(name)
}

/// What names are made of: they become names of units, files and folders.
const NAMES: &str = "letters, digits and `-_+@.` are allowed";

fn fits(name: &str) -> bool {
    !name.is_empty()
        && name.len() < 128
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_+@.".contains(c))
}

fn search(found: &mut Found, root: &Path, prefix: &str, denied: Denied<'_>) -> Result<()> {
    let Ok(real) = root.canonicalize() else { return Ok(()) };
    walk(found, root, prefix, denied, &mut vec![real]);
    Ok(())
}

/// Looks through one folder; `above` are the real folders on the way, to see when a link leads back.
fn walk(found: &mut Found, folder: &Path, prefix: &str, denied: Denied<'_>, above: &mut Vec<PathBuf>) {
    let read = std::fs::read_dir(folder).and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>());
    let mut entries: Vec<PathBuf> = match read {
        Ok(entries) => entries.into_iter().map(|entry| entry.path()).collect(),
        Err(e) => return found.faults.push(Fault::new(folder, None, format!("cannot be read: {e}"), "")),
    };
    entries.sort();
    let mut programs = Vec::new();
    let (mut data, mut outdated) = (None, None);
    for path in entries {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with('.') || name.ends_with('~') {
            continue;
        }
        // Links are followed.
        let meta = match path.metadata() {
            Ok(meta) => meta,
            Err(e) => {
                let fault = Fault::new(
                    &path,
                    None,
                    format!("cannot be looked at: {e}"),
                    "remove it, or mend the link",
                );
                found.faults.push(fault.harmless());
                continue;
            }
        };
        if meta.is_dir() && name == DATA {
            data = Some(path);
        } else if meta.is_dir() {
            descend(found, &path, &name, prefix, denied, above);
        } else if name == "config.fcc" {
            outdated = Some(path);
        } else if meta.is_file() && !special(&name) {
            if meta.permissions().mode() & 0o111 != 0 {
                programs.push((path, name));
            } else if begins_like_a_script(&path) {
                let fault = Fault::new(
                    &path,
                    None,
                    "begins with #! but cannot be executed: it is no test",
                    format!("`chmod +x {name}` makes it one"),
                );
                found.faults.push(fault.harmless());
            }
        }
    }
    let alone = matches!(&programs[..], [(_, name)] if name == ALONE);
    let named: Vec<(String, PathBuf, String)> = programs
        .into_iter()
        .map(|(path, base)| (if alone { prefix.to_owned() } else { format!("{prefix}.{base}") }, path, base))
        .collect();
    let (refused, wanted): (Vec<_>, Vec<_>) = named.into_iter().partition(|(name, _, _)| denied(name));
    found.denied.extend(refused.into_iter().map(|(name, _, _)| name));
    if wanted.is_empty() {
        return;
    }
    if let Some(path) = outdated {
        let text = "Butane configs have another name now";
        found.faults.push(Fault::new(&path, None, text, "rename it to config.bu"));
    }
    let shared = folder_metadata(folder);
    let config = folder_config(folder);
    for (name, file, base) in wanted {
        let read = (|| {
            let test = External {
                metadata: own_metadata(&file)?.or(shared.clone()?),
                config: config.clone()?,
                data: data.clone(),
                name: name.clone(),
                file: file.clone(),
                base: base.clone(),
            };
            test.check()?;
            Ok(test)
        })();
        let test: External = match read {
            Ok(test) => test,
            Err(fault) => {
                // One fault of the folder is one fault, however many tests are in it.
                if !found.faults.contains(&fault) {
                    found.faults.push(fault);
                }
                continue;
            }
        };
        if let Some(other) = found.tests.insert(name.clone(), test) {
            let text = format!("a second test of the name {name}; the first is {}", other.file.display());
            found.faults.push(Fault::new(&file, None, text, "rename one of them"));
        }
    }
}

fn descend(
    found: &mut Found,
    path: &Path,
    name: &str,
    prefix: &str,
    denied: Denied<'_>,
    above: &mut Vec<PathBuf>,
) {
    let Ok(real) = path.canonicalize() else { return };
    if above.contains(&real) || above.len() >= DEPTH {
        let fault = Fault::new(
            path,
            None,
            "leads back to a folder it is in, or too deep: it is passed over",
            "remove the link",
        );
        return found.faults.push(fault.harmless());
    }
    above.push(real);
    walk(found, path, &format!("{prefix}.{name}"), denied, above);
    above.pop();
}

/// Files that are no tests whatever their permissions.
fn special(name: &str) -> bool {
    name == FOLDER_METADATA || name.starts_with("config.") || name.starts_with("README")
}

fn begins_like_a_script(path: &Path) -> bool {
    let mut head = [0; 2];
    std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut head)).is_ok() && &head == b"#!"
}

/// What is in a folder's `kola.json`.
fn folder_metadata(folder: &Path) -> Result<Metadata, Fault> {
    let path = folder.join(FOLDER_METADATA);
    match std::fs::read(&path) {
        Ok(bytes) => Metadata::of_folder(&bytes).map_err(|f| Fault::new(&path, Some(f.line), f.text, "")),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Metadata::default()),
        Err(e) => Err(Fault::new(&path, None, format!("cannot be read: {e}"), "")),
    }
}

fn own_metadata(path: &Path) -> Result<Metadata, Fault> {
    let mut head = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(HEAD as u64 + 1).read_to_end(&mut head))
        .map_err(|e| Fault::new(path, None, format!("cannot be read: {e}"), ""))?;
    Metadata::of_executable(&head).map_err(|f| Fault::new(path, Some(f.line), f.text, ""))
}

/// The config of a folder's tests; of two, Ignition's counts.
fn folder_config(folder: &Path) -> Result<Option<Config>, Fault> {
    type Kind = fn(Text) -> Config;
    let kinds: [(&str, Kind); 2] = [("config.ign", Config::Ignition), ("config.bu", Config::Butane)];
    for (name, kind) in kinds {
        let path = folder.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => return Ok(Some(kind(text.into()))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Fault::new(&path, None, format!("cannot be read: {e}"), "")),
        }
    }
    Ok(None)
}

/// Architectures by their names in rpm, which tests use, too.
fn architecture(name: &str) -> String {
    match name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
    .to_owned()
}

impl External {
    /// What can be seen to be wrong before a machine is made.
    fn check(&self) -> Result<(), Fault> {
        let fault = |text: String, advice: &str| Err(Fault::new(&self.file, None, text, advice));
        if let Some(part) = self.name.split('.').find(|part| !fits(part)) {
            return fault(
                format!("{part:?} cannot be part of a test's name"),
                &format!("rename it: {NAMES}"),
            );
        }
        if let Err(text) = self.metadata.check() {
            return fault(text, "");
        }
        if let Err(text) = self.disks() {
            return fault(text, "");
        }
        let meta = &self.metadata;
        let known_platforms: Vec<&str> =
            DRIVERS.iter().map(|d| d.name).chain(["esx", "gcp", "vmware"]).collect();
        let known_distros: Vec<&str> = DISTRIBUTIONS.iter().map(|d| d.name).collect();
        let architectures = ["amd64", "arm64", "x86_64", "aarch64", "ppc64le", "s390x", "riscv64"];
        for (key, words, known) in [
            ("platforms", &meta.platforms, &known_platforms[..]),
            ("distros", &meta.distros, &known_distros[..]),
            ("architectures", &meta.architectures, &architectures[..]),
        ] {
            let (allowed, refused) = words.clone().unwrap_or_default().allowed_and_refused();
            for word in allowed.iter().chain(&refused) {
                if !known.contains(&word.as_str()) {
                    let advice = mantle::text::did_you_mean(word, known.iter().copied())
                        .unwrap_or_else(|| format!("known are {}", known.join(", ")));
                    return fault(format!("{key}: {word:?} is not known"), &advice);
                }
            }
        }
        Ok(())
    }

    /// The additional disks, `SIZE[:serial=NAME]` each.
    fn disks(&self) -> Result<Vec<Disk>, String> {
        let specs = self.metadata.additional_disks.clone().unwrap_or_default().0;
        let disk = |(n, spec): (usize, &String)| {
            let (size, options) = spec.split_once(':').unwrap_or((spec, ""));
            let number = size.trim_end_matches(['K', 'M', 'G', 'T']);
            if number.is_empty()
                || !number.bytes().all(|b| b.is_ascii_digit())
                || size.len() - number.len() > 1
            {
                return Err(format!("additionalDisks: {spec:?} does not begin with a size such as 5G"));
            }
            let options: Vec<&str> = options.split(',').filter(|o| !o.is_empty()).collect();
            for option in &options {
                let key = option.split('=').next().unwrap_or_default();
                if !["mpath", "4k", "512e", "channel", "serial", "wwn"].contains(&key) {
                    return Err(format!("additionalDisks: {spec:?}: {option:?} is no option of a disk"));
                }
            }
            let mut device: Vec<String> =
                options.iter().filter(|o| o.starts_with("serial=")).map(|o| (*o).to_owned()).collect();
            if device.is_empty() {
                device.push(format!("serial=disk{}", n + 1));
            }
            Ok(Disk::Empty { size: size.to_owned(), device })
        };
        specs.iter().enumerate().map(disk).collect()
    }

    /// The options of disks that no driver of ours has.
    fn odd_disks(&self) -> bool {
        let specs = self.metadata.additional_disks.clone().unwrap_or_default().0;
        let plain = |o: &str| o.is_empty() || o.starts_with("serial=") || o == "channel=virtio";
        specs
            .iter()
            .any(|spec| spec.split_once(':').is_some_and(|(_, options)| !options.split(',').all(plain)))
    }

    /// Keys that ask for what no machine of ours can be.
    fn beyond(&self) -> Vec<&'static str> {
        let meta = &self.metadata;
        let mut keys = meta.wishes();
        keys.retain(|key| !matches!(*key, "minMemory" | "additionalDisks"));
        if self.odd_disks() {
            keys.push("additionalDisks with other options than serial");
        }
        if meta.no_instance_creds == Some(true) {
            // Machines get no credentials of a cloud unless an option asks for them.
            keys.retain(|key| *key != "noInstanceCreds");
        }
        keys
    }

    /// As kola knows tests.
    fn registered(self) -> Test {
        let this = Arc::new(self);
        let meta = &this.metadata;
        let lists = |words: &Option<metadata::Words>| words.clone().unwrap_or_default().allowed_and_refused();
        let body = this.clone();
        let mut test = Test::new(this.name.clone(), move |c| {
            let this = body.clone();
            async move { unit::alone(&c, &this).await }
        });
        (test.platforms, test.exclude_platforms) = texts(lists(&meta.platforms));
        (test.distros, test.exclude_distros) = texts(lists(&meta.distros));
        let (allowed, refused) = lists(&meta.architectures);
        let known = |names: Vec<String>| names.iter().map(|n| architecture(n)).collect::<Vec<_>>();
        (test.architectures, test.exclude_architectures) = texts((known(allowed), known(refused)));
        test.description = meta.description.clone().unwrap_or_default().into();
        test.user_data = this.config.clone();
        test.timeout = meta.timeout();
        test.tags = meta.tags.clone().unwrap_or_default().0.into_iter().map(Text::from).collect();
        test.tags.push("external".into());
        test.required_tag = meta.required_tag.clone().map(Text::from);
        if test.tags.iter().any(|tag| tag == "needs-internet") {
            test.flags.push(Flag::RequiresInternetAccess);
        }
        test.created = meta.creation_date.map(|day| day.0);
        test.machine = MachineOptions {
            disks: this.disks().unwrap_or_default(),
            memory_mib: meta.min_memory,
            ..MachineOptions::default()
        };
        test.beyond = this.beyond();
        test.host_ports = meta.required_host_ports.clone().unwrap_or_default();
        test.strict_config = meta.allow_config_warnings != Some(true);
        test.external = Some(this);
        test
    }

    /// Whether it may share a machine.
    fn shares(&self) -> bool {
        !self.metadata.is_exclusive()
    }

    fn conflicts_with(&self, other: &Self) -> bool {
        let names = |test: &Self| test.metadata.conflicts.clone().unwrap_or_default().0;
        names(self).contains(&other.name) || names(other).contains(&self.name)
    }

    /// How long it may take, on bare hardware.
    fn timeout(&self) -> Duration {
        self.metadata.timeout()
    }
}

fn texts((allowed, refused): (Vec<String>, Vec<String>)) -> (Vec<Text>, Vec<Text>) {
    let all = |names: Vec<String>| names.into_iter().map(Text::from).collect();
    (all(allowed), all(refused))
}

/// Whether the platform is one of this host, whose machines cost nothing but time.
pub fn is_local(driver: &Driver) -> bool {
    ["qemu", "qemu-unpriv", "nspawn", "scripted"].contains(&driver.name)
}
