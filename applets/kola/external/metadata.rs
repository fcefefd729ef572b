//! What an external test says of itself: in its first lines, or in `kola.json` for all tests of a folder.

use std::fmt;
use std::time::Duration;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// How much of an executable is searched, in bytes.
pub const HEAD: usize = 8192;
const JSON_MARK: &str = "# kola:";
const YAML_MARK: &str = "## kola:";
const YAML_LINE: &str = "## ";

/// The keys as people see them.
pub const ABOUT: [(&str, &str); 12] = [
    (
        "platforms, distros, architectures",
        "Words apart by blanks; a leading ! makes them what the test is not for.",
    ),
    (
        "tags",
        "Words by which --tag chooses. needs-internet, platform-independent (not on clouds), skip-base-checks (no search for signs of trouble) and secure-boot mean something to kola.",
    ),
    ("requiredTag", "The test runs only with --tag of it."),
    (
        "exclusive",
        "true, the default: a machine of its own. false: shares one with others, and cannot reboot it.",
    ),
    ("conflicts", "Names of tests with which it shares no machine."),
    ("timeoutMin", "Minutes; without it 10, or 1 where the machine is shared."),
    ("description", "Shown by `kola list`."),
    ("creationDate", "YYYY-MM-DD: for 30 days its failures are warnings."),
    ("minMemory", "Memory of its machine in MiB."),
    ("additionalDisks", "List of SIZE[:serial=NAME], on platform qemu."),
    ("requiredHostPorts", "Ports of this host that no other test with this key uses meanwhile."),
    ("allowConfigWarnings", "true: what Butane warns of is no error."),
];

/// Something is wrong at a line of a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {text}")]
pub struct Fault {
    /// From 1.
    pub line: usize,
    /// What is wrong there.
    pub text: String,
}

impl Fault {
    fn new(line: usize, text: impl Into<String>) -> Self {
        Self { line, text: text.into() }
    }
}

/// Words, in a string apart by blanks, or as a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words(pub Vec<String>);

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Words;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("words apart by blanks, or a list of words")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Words, E> {
                Ok(Words(text.split_whitespace().map(str::to_owned).collect()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Words, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = list.next_element::<String>()? {
                    if word.is_empty() || word.contains(char::is_whitespace) {
                        return Err(A::Error::custom(format!("{word:?} in a list is not one word")));
                    }
                    words.push(word);
                }
                Ok(Words(words))
            }
        }
        from.deserialize_any(Read)
    }
}

impl Words {
    /// What is allowed and what is refused: a leading `!` makes the whole list one of exclusions.
    pub fn allowed_and_refused(&self) -> (Vec<String>, Vec<String>) {
        let mut words = self.0.clone();
        let Some(first) = words.first_mut() else { return Default::default() };
        match first.strip_prefix('!').map(str::to_owned) {
            None => (words, Vec::new()),
            Some(rest) => {
                *first = rest;
                words.retain(|word| !word.is_empty());
                (Vec::new(), words)
            }
        }
    }
}

/// A day, `YYYY-MM-DD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Day(pub chrono::NaiveDate);

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        chrono::NaiveDate::parse_from_str(&text, "%Y-%m-%d")
            .map(Day)
            .map_err(|_| D::Error::custom(format!("{text:?} is no day, such as 2026-11-29")))
    }
}

/// The keys. All may be missing: a test's own block says more than its folder's file, key by key.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Metadata {
    /// Machine architectures.
    pub architectures: Option<Words>,
    /// Platforms.
    pub platforms: Option<Words>,
    /// Distributions.
    pub distros: Option<Words>,
    /// Tags.
    pub tags: Option<Words>,
    /// The test runs only if this tag is asked for.
    pub required_tag: Option<String>,
    /// Whether it has its machine for itself.
    pub exclusive: Option<bool>,
    /// Tests it shares no machine with.
    pub conflicts: Option<Words>,
    /// Time limit in minutes.
    pub timeout_min: Option<u32>,
    /// What it tests.
    pub description: Option<String>,
    /// When it was written: for 30 days its failures are warnings.
    pub creation_date: Option<Day>,
    /// Memory of the machine, in MiB.
    pub min_memory: Option<u32>,
    /// Size of the primary disk, in GiB.
    pub min_disk: Option<u32>,
    /// The primary disk.
    pub primary_disk: Option<Words>,
    /// Disks besides the primary one.
    pub additional_disks: Option<Words>,
    /// Network cards besides the first.
    pub additional_nics: Option<u32>,
    /// Two NUMA nodes.
    pub numa_nodes: Option<bool>,
    /// Kernel arguments of every boot.
    pub append_kernel_args: Option<String>,
    /// Kernel arguments of the first boot.
    pub append_firstboot_kernel_args: Option<String>,
    /// Folders of this host that the machine sees.
    #[serde(rename = "bindMountHostRO")]
    pub bind_mount_host_ro: Option<Words>,
    /// Boot live media.
    pub boot_from: Option<String>,
    /// Machine type of a cloud.
    pub instance_type: Option<String>,
    /// No credentials of the cloud on the machine.
    pub no_instance_creds: Option<bool>,
    /// Warnings about the config do not count.
    pub allow_config_warnings: Option<bool>,
    /// Ports of this host that no other test may use meanwhile.
    pub required_host_ports: Option<Vec<u16>>,
}

impl Metadata {
    /// That of an executable, from its first [`HEAD`] bytes.
    ///
    /// # Errors
    /// The line and what is wrong there.
    pub fn of_executable(bytes: &[u8]) -> Result<Self, Fault> {
        let cut = bytes.len() > HEAD;
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(HEAD)]);
        let mut found: Option<(usize, Self)> = None;
        let mut lines =
            text.lines().enumerate().map(|(n, line)| (n + 1, line.trim_end_matches('\r'))).peekable();
        while let Some((number, line)) = lines.next() {
            let read = if let Some(rest) = line.strip_prefix(YAML_MARK) {
                if !rest.trim().is_empty() {
                    return Err(Fault::new(
                        number,
                        format!(
                            "{YAML_MARK} stands alone: the keys follow below, each line after `{YAML_LINE}`"
                        ),
                    ));
                }
                let mut yaml = String::new();
                let mut last = number;
                while let Some((at, inner)) = lines.next_if(|(_, l)| l.starts_with(YAML_LINE) || *l == "##") {
                    yaml.push_str(inner.strip_prefix(YAML_LINE).unwrap_or_default());
                    yaml.push('\n');
                    last = at;
                }
                if cut && lines.peek().is_none() {
                    return Err(Fault::new(
                        last,
                        format!("the block is not whole in the first {HEAD} bytes: move it up"),
                    ));
                }
                yaml_block(&yaml, number)?
            } else if let Some(json) = line.strip_prefix(JSON_MARK) {
                if cut && lines.peek().is_none() {
                    return Err(Fault::new(
                        number,
                        format!("the object is not whole in the first {HEAD} bytes: move it up"),
                    ));
                }
                serde_json::from_str(json).map_err(|e| Fault::new(number, plain(&e.to_string())))?
            } else {
                continue;
            };
            if let Some((first, _)) = &found {
                return Err(Fault::new(number, format!("a second block; the first is at line {first}")));
            }
            found = Some((number, read));
        }
        Ok(found.map(|(_, metadata)| metadata).unwrap_or_default())
    }

    /// That of a folder's file.
    ///
    /// # Errors
    /// The line and what is wrong there.
    pub fn of_folder(json: &[u8]) -> Result<Self, Fault> {
        serde_json::from_slice(json).map_err(|e| Fault::new(e.line(), plain(&e.to_string())))
    }

    /// With what `other` says where this says nothing.
    pub fn or(self, other: Self) -> Self {
        Self {
            architectures: self.architectures.or(other.architectures),
            platforms: self.platforms.or(other.platforms),
            distros: self.distros.or(other.distros),
            tags: self.tags.or(other.tags),
            required_tag: self.required_tag.or(other.required_tag),
            exclusive: self.exclusive.or(other.exclusive),
            conflicts: self.conflicts.or(other.conflicts),
            timeout_min: self.timeout_min.or(other.timeout_min),
            description: self.description.or(other.description),
            creation_date: self.creation_date.or(other.creation_date),
            min_memory: self.min_memory.or(other.min_memory),
            min_disk: self.min_disk.or(other.min_disk),
            primary_disk: self.primary_disk.or(other.primary_disk),
            additional_disks: self.additional_disks.or(other.additional_disks),
            additional_nics: self.additional_nics.or(other.additional_nics),
            numa_nodes: self.numa_nodes.or(other.numa_nodes),
            append_kernel_args: self.append_kernel_args.or(other.append_kernel_args),
            append_firstboot_kernel_args: self
                .append_firstboot_kernel_args
                .or(other.append_firstboot_kernel_args),
            bind_mount_host_ro: self.bind_mount_host_ro.or(other.bind_mount_host_ro),
            boot_from: self.boot_from.or(other.boot_from),
            instance_type: self.instance_type.or(other.instance_type),
            no_instance_creds: self.no_instance_creds.or(other.no_instance_creds),
            allow_config_warnings: self.allow_config_warnings.or(other.allow_config_warnings),
            required_host_ports: self.required_host_ports.or(other.required_host_ports),
        }
    }

    /// Whether the test has its machine for itself.
    pub fn is_exclusive(&self) -> bool {
        self.exclusive.unwrap_or(true)
    }

    /// The time limit: its own, else 10 minutes, or one where it shares a machine.
    pub fn timeout(&self) -> Duration {
        let usual = if self.is_exclusive() { 10 } else { 1 };
        Duration::from_secs(60 * u64::from(self.timeout_min.unwrap_or(usual)))
    }

    /// The keys that ask for a machine unlike others: no two of such tests can share one.
    pub fn wishes(&self) -> Vec<&'static str> {
        let set = [
            ("minMemory", self.min_memory.is_some()),
            ("minDisk", self.min_disk.is_some()),
            ("primaryDisk", self.primary_disk.is_some()),
            ("additionalDisks", self.additional_disks.is_some()),
            ("additionalNics", self.additional_nics.is_some_and(|n| n > 0)),
            ("numaNodes", self.numa_nodes == Some(true)),
            ("appendKernelArgs", self.append_kernel_args.is_some()),
            ("appendFirstbootKernelArgs", self.append_firstboot_kernel_args.is_some()),
            ("bindMountHostRO", self.bind_mount_host_ro.is_some()),
            ("bootFrom", self.boot_from.is_some()),
            ("instanceType", self.instance_type.is_some()),
            ("noInstanceCreds", self.no_instance_creds == Some(true)),
        ];
        set.into_iter().filter_map(|(key, asked)| asked.then_some(key)).collect()
    }

    /// What does not go together.
    ///
    /// # Errors
    /// What, and what to do.
    pub fn check(&self) -> Result<(), String> {
        if self.is_exclusive() {
            return match &self.conflicts {
                Some(_) => Err(
                    "conflicts are for tests that share a machine: add `exclusive: false`, or take them out"
                        .into(),
                ),
                None => Ok(()),
            };
        }
        let mut alone = self.wishes();
        if self.allow_config_warnings == Some(true) {
            alone.push("allowConfigWarnings");
        }
        if alone.is_empty() {
            return Ok(());
        }
        Err(format!(
            "a test that shares a machine cannot have {}: take it out, or `exclusive: false`",
            alone.join(", ")
        ))
    }
}

fn yaml_block(yaml: &str, mark: usize) -> Result<Metadata, Fault> {
    if yaml.trim().is_empty() {
        return Ok(Metadata::default());
    }
    serde_yaml::from_str(yaml).map_err(|e| {
        let line = e.location().map_or(mark, |at| mark + at.line());
        Fault::new(line, plain(&e.to_string()))
    })
}

/// A mistake as the readers tell it, without their own count of lines, with the key that was meant.
fn plain(told: &str) -> String {
    let text = told.split(" at line ").next().unwrap_or(told);
    let Some(rest) = text.split("unknown field `").nth(1) else { return text.to_owned() };
    let mut ticked = rest.split('`');
    let key = ticked.next().unwrap_or_default();
    let known: Vec<&str> = ticked.skip(1).step_by(2).collect();
    match mantle::text::did_you_mean(key, known.iter().copied()) {
        Some(guess) => format!("unknown key {key:?}; {guess}"),
        None => format!("unknown key {key:?}; known are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Words {
        Words(text.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn both_forms_are_read() {
        let yaml = b"#!/bin/sh\n## kola:\n##   exclusive: false\n##   tags: \"a b\"\n##\n##   timeoutMin: 5\n##   creationDate: 2026-11-01\n##   bindMountHostRO: [\"/a,/b\"]\nset -e\n## exclusive: true\n";
        let read = Metadata::of_executable(yaml).unwrap();
        assert_eq!(
            (read.exclusive, read.tags.clone(), read.timeout_min),
            (Some(false), Some(words("a b")), Some(5))
        );
        assert_eq!(read.bind_mount_host_ro, Some(words("/a,/b")));
        assert!(read.creation_date.is_some());
        let json = b"#!/usr/bin/python3\n# kola: {\"exclusive\": false, \"tags\": \"a b\", \"requiredHostPorts\": [80]}\n";
        let read = Metadata::of_executable(json).unwrap();
        assert_eq!((read.exclusive, read.required_host_ports), (Some(false), Some(vec![80])));
        // To the end of the file, the last line without its end.
        let read = Metadata::of_executable(b"## kola:\n## timeoutMin: 7").unwrap();
        assert_eq!(read.timeout_min, Some(7));
        assert_eq!(Metadata::of_executable(b"\x7fELF\x02\x00\xff").unwrap(), Metadata::default());
    }

    #[test]
    fn faults_name_their_line() {
        let long = [b"#!/bin/sh\n## kola:\n".to_vec(), b"## tags: x\n".repeat(1000)].concat();
        for (text, line, told) in [
            (
                &b"#!/bin/sh\n\n## kola:\n##   tags: x\n##   exclusiv: false\n"[..],
                5,
                "did you mean \"exclusive\"?",
            ),
            (b"# kola: {\"platform\": \"qemu\"}\n", 1, "did you mean \"platforms\"?"),
            (b"\n# kola: {\"zzz\": 1}\n", 2, "known are architectures, platforms"),
            (b"## kola:\n## timeoutMin: soon\n", 2, "timeoutMin"),
            (b"## kola:\n## creationDate: yesterday\n", 2, "is no day, such as"),
            (b"## kola: {}\n", 1, "stands alone"),
            (b"## kola:\n## tags: x\n\n# kola: {}\n", 4, "a second block; the first is at line 1"),
            (b"# kola: {\n", 1, "EOF while parsing"),
            (&long, 745, "not whole in the first 8192 bytes"),
        ] {
            let fault = Metadata::of_executable(text).unwrap_err();
            assert_eq!(fault.line, line, "{fault}");
            assert!(fault.text.contains(told), "{fault}");
        }
        assert_eq!(Metadata::of_folder(b"{\n\"tags\": \"x\",\n\"tag\": 1}").unwrap_err().line, 3);
    }

    #[test]
    fn what_the_executable_says_counts_more() {
        let own = Metadata::of_executable(b"## kola:\n## exclusive: false\n").unwrap();
        let folder = Metadata::of_folder(b"{\"exclusive\": true, \"tags\": \"x\"}").unwrap();
        let both = own.or(folder);
        assert_eq!((both.is_exclusive(), both.tags.clone()), (false, Some(words("x"))));
        assert_eq!(both.timeout(), Duration::from_secs(60));
        assert_eq!(Metadata::default().timeout(), Duration::from_secs(600));
    }

    #[test]
    fn some_keys_do_not_go_together() {
        let check = |yaml: &str| yaml_block(yaml, 1).unwrap().check();
        assert!(check("conflicts: a").unwrap_err().contains("exclusive: false"));
        assert_eq!(check("conflicts: a\nexclusive: false"), Ok(()));
        assert!(check("exclusive: false\nminMemory: 4096").unwrap_err().contains("minMemory"));
        assert_eq!(check("minMemory: 4096"), Ok(()));
    }

    #[test]
    fn lists_allow_or_refuse() {
        let both = |text| words(text).allowed_and_refused();
        assert_eq!(both("a b"), (vec!["a".into(), "b".into()], vec![]));
        assert_eq!(both("!a b"), (vec![], vec!["a".into(), "b".into()]));
        assert_eq!(both("! a"), (vec![], vec!["a".into()]));
        assert_eq!(both(""), (vec![], vec![]));
    }
}
