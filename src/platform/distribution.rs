//! The operating systems kola knows: what tells them apart, and what differs in handling them.

use std::collections::BTreeMap;

use crate::conf::IgnitionVersion;

/// Facts about one operating system family, as named by `--distro`.
#[derive(Debug)]
pub struct Distribution {
    /// Value of `--distro`.
    pub name: &'static str,
    /// Accepted pairs of `ID` and `VARIANT_ID` (os-release(5)); an empty variant means none is set.
    ids: &'static [(&'static str, &'static str)],
    /// The user that tests log in as.
    pub user: &'static str,
    /// Ignition version of the config a machine gets when the test brings none.
    pub ignition: IgnitionVersion,
    /// Units to stop before a reboot, so that nobody reconnects to the system going down.
    pub stop_before_reboot: &'static [&'static str],
    /// Whether SELinux is switched to enforcing where it is active.
    pub selinux: bool,
    /// Whether the serial console line is added to raw images (Container Linux's OEM partition).
    pub mangle: bool,
    /// What a kolet binary needs to be allowed to run, if anything.
    pub label_kolet: bool,
    /// Features of every image of this family (see `kola list --help`); other families' images say so themselves.
    pub features: &'static [&'static str],
}

/// All of them, in the order of `--help`.
pub static DISTRIBUTIONS: &[Distribution] = &[
    Distribution {
        name: "cl",
        ids: &[("coreos", ""), ("flatcar", "")],
        user: "core",
        ignition: IgnitionVersion::V2,
        stop_before_reboot: &["sshd.socket"],
        selinux: true,
        mangle: true,
        label_kolet: false,
        features: &[
            "ab-usr",
            "btrfs",
            "cgpt",
            "cloudinit",
            "dbus",
            "docker",
            "etcd",
            "flannel",
            "ign1",
            "ign2",
            "ipvs",
            "journal-remote",
            "locksmith",
            "mdadm",
            "networkd",
            "nfs",
            "rkt",
            "ro-usr",
            "selinux",
            "timesyncd",
            "torcx",
            "update-engine",
            "verity",
            "xfs",
        ],
    },
    Distribution {
        name: "fcos",
        ids: &[("fedora", "coreos")],
        user: "core",
        ignition: IgnitionVersion::V3,
        stop_before_reboot: &[],
        selinux: true,
        mangle: false,
        label_kolet: true,
        features: &["dbus", "ign3", "nfs", "podman", "ro-usr", "rpm-ostree", "selinux", "xfs"],
    },
    Distribution {
        name: "rhcos",
        ids: &[("rhcos", ""), ("rhcos", "coreos")],
        user: "core",
        ignition: IgnitionVersion::V2,
        stop_before_reboot: &[],
        selinux: true,
        mangle: false,
        label_kolet: true,
        features: &["crio", "dbus", "ign2", "nfs", "podman", "ro-usr", "rpm-ostree", "selinux", "xfs"],
    },
    Distribution {
        name: "flatcar",
        ids: &[("flatcar", "")],
        user: "core",
        ignition: IgnitionVersion::V3,
        stop_before_reboot: &["sshd.socket"],
        selinux: true,
        mangle: false,
        label_kolet: false,
        features: &[
            "ab-usr",
            "btrfs",
            "cgpt",
            "cloudinit",
            "dbus",
            "docker",
            "ign2",
            "ign3",
            "ipvs",
            "mdadm",
            "networkd",
            "nfs",
            "ro-usr",
            "selinux",
            "timesyncd",
            "update-engine",
            "verity",
            "xfs",
        ],
    },
    Distribution {
        name: "debian",
        ids: &[("debian", "")],
        user: "core",
        ignition: IgnitionVersion::V3,
        stop_before_reboot: &[],
        selinux: false,
        mangle: false,
        label_kolet: false,
        features: &[],
    },
];

impl Distribution {
    /// The distribution of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        DISTRIBUTIONS.iter().find(|d| d.name == name)
    }

    /// Whether a machine with this os-release is one of this distribution.
    pub fn accepts(&self, os: &OsRelease) -> bool {
        // Early Fedora CoreOS put the whole name into ID; upstream's check knows it that way.
        let old_fcos = self.name == "fcos" && os.get("ID") == "fedora-coreos";
        old_fcos
            || self.ids.iter().any(|&(id, variant)| os.get("ID") == id && os.get("VARIANT_ID") == variant)
    }

    /// The `ID` and `VARIANT_ID` it accepts, for messages.
    pub fn accepted(&self) -> String {
        let pair = |&(id, variant): &(&str, &str)| {
            if variant.is_empty() { format!("ID={id}") } else { format!("ID={id} VARIANT_ID={variant}") }
        };
        self.ids.iter().map(pair).collect::<Vec<_>>().join(" or ")
    }
}

/// The content of an os-release file (os-release(5)).
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct OsRelease(BTreeMap<String, String>);

impl OsRelease {
    /// Parses `NAME=value` lines; quotes and backslashes as in the shell subset of os-release(5).
    pub fn parse(text: &str) -> Self {
        let unquote = |raw: &str| {
            let inner = ['"', '\'']
                .iter()
                .find_map(|&q| raw.strip_prefix(q).and_then(|r| r.strip_suffix(q)))
                .unwrap_or(raw);
            let mut value = String::new();
            let mut escaped = false;
            for c in inner.chars() {
                if c == '\\' && !escaped {
                    escaped = true;
                } else {
                    value.push(c);
                    escaped = false;
                }
            }
            value
        };
        let lines = text.lines().map(str::trim).filter(|l| !l.starts_with('#'));
        Self(
            lines.filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), unquote(v.trim()))).collect(),
        )
    }

    /// The value of a field, empty if it is not set.
    pub fn get(&self, field: &str) -> &str {
        self.0.get(field).map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_are_told_apart() {
        let named = |name| Distribution::named(name).unwrap();
        let fcos = OsRelease::parse("ID=fedora\nVARIANT_ID=coreos\n");
        assert!(named("fcos").accepts(&fcos));
        assert!(!named("cl").accepts(&fcos));
        assert!(named("fcos").accepts(&OsRelease::parse("ID=fedora-coreos")));
        assert!(!named("fcos").accepts(&OsRelease::parse("ID=fedora\nVARIANT_ID=server")));
        assert!(named("cl").accepts(&OsRelease::parse("ID=flatcar")));
        assert!(named("debian").accepts(&OsRelease::parse("# x\nID='debian'\nVERSION_ID=\"1.2\"")));
    }

    #[test]
    fn os_release_values_are_unquoted() {
        let os = OsRelease::parse("NAME=\"a \\\"b\\\" c\"\nPLAIN=x\n\nnonsense\n");
        assert_eq!((os.get("NAME"), os.get("PLAIN"), os.get("MISSING")), ("a \"b\" c", "x", ""));
    }

    #[test]
    fn features_are_sorted_and_names_unique() {
        for d in DISTRIBUTIONS {
            assert!(d.features.is_sorted(), "{}", d.name);
            assert_eq!(DISTRIBUTIONS.iter().filter(|o| o.name == d.name).count(), 1);
        }
    }
}
