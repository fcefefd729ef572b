//! Dynamic data: what only the machine knows, by way of the variables that coreos-metadata writes.

/// Where coreos-metadata writes them.
pub(super) const FILE: &str = "/run/metadata/coreos";
/// The service that does.
pub(super) const SERVICE: &str = "coreos-metadata.service";

/// The names that a config can use.
pub(super) const FIELDS: [&str; 5] =
    ["HOSTNAME", "PRIVATE_IPV4", "PUBLIC_IPV4", "PRIVATE_IPV6", "PUBLIC_IPV6"];

/// A platform as coreos-metadata knows it: its name, the variable of each of [`FIELDS`] ("" where it has none), and
/// whether the service must be told where it is.
#[derive(Debug, PartialEq, Eq)]
pub struct Platform {
    /// Its name for the transpiler.
    pub name: &'static str,
    variables: [&'static str; 5],
    pub(super) told: bool,
}

/// All of them.
pub static PLATFORMS: [Platform; 9] = [
    platform("azure", ["", "COREOS_AZURE_IPV4_DYNAMIC", "COREOS_AZURE_IPV4_VIRTUAL", "", ""]),
    Platform {
        told: true,
        ..platform("cloudstack-configdrive", ["CLOUDSTACK_LOCAL_HOSTNAME", "", "", "", ""])
    },
    platform(
        "custom",
        [
            "COREOS_CUSTOM_HOSTNAME",
            "COREOS_CUSTOM_PRIVATE_IPV4",
            "COREOS_CUSTOM_PUBLIC_IPV4",
            "COREOS_CUSTOM_PRIVATE_IPV6",
            "COREOS_CUSTOM_PUBLIC_IPV6",
        ],
    ),
    platform(
        "digitalocean",
        [
            "COREOS_DIGITALOCEAN_HOSTNAME",
            "COREOS_DIGITALOCEAN_IPV4_PRIVATE_0",
            "COREOS_DIGITALOCEAN_IPV4_PUBLIC_0",
            "COREOS_DIGITALOCEAN_IPV6_PRIVATE_0",
            "COREOS_DIGITALOCEAN_IPV6_PUBLIC_0",
        ],
    ),
    platform("ec2", ["COREOS_EC2_HOSTNAME", "COREOS_EC2_IPV4_LOCAL", "COREOS_EC2_IPV4_PUBLIC", "", ""]),
    platform("gce", ["COREOS_GCE_HOSTNAME", "COREOS_GCE_IP_LOCAL_0", "COREOS_GCE_IP_EXTERNAL_0", "", ""]),
    Platform {
        told: true,
        ..platform(
            "openstack-metadata",
            [
                "COREOS_OPENSTACK_HOSTNAME",
                "COREOS_OPENSTACK_IPV4_LOCAL",
                "COREOS_OPENSTACK_IPV4_PUBLIC",
                "",
                "",
            ],
        )
    },
    platform(
        "packet",
        [
            "COREOS_PACKET_HOSTNAME",
            "COREOS_PACKET_IPV4_PRIVATE_0",
            "COREOS_PACKET_IPV4_PUBLIC_0",
            "",
            "COREOS_PACKET_IPV6_PUBLIC_0",
        ],
    ),
    platform(
        "vagrant-virtualbox",
        ["COREOS_VAGRANT_VIRTUALBOX_HOSTNAME", "COREOS_VAGRANT_VIRTUALBOX_PRIVATE_IPV4", "", "", ""],
    ),
];

/// The variable of a platform that tells all there is: what a config asks for can be checked with it before it is known
/// where the config goes.
pub const ANY_CLOUD: &str = "${COREOS_CUSTOM_PRIVATE_IPV4}";

const fn platform(name: &'static str, variables: [&'static str; 5]) -> Platform {
    Platform { name, variables, told: false }
}

impl Platform {
    /// The platform of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        PLATFORMS.iter().find(|p| p.name == name)
    }

    /// The platform whose private or public address is in this variable of the shell, as in `${COREOS_EC2_IPV4_LOCAL}`.
    pub fn of_variable(text: &str) -> Option<&'static Self> {
        let variable = text.strip_prefix("${")?.strip_suffix('}')?;
        PLATFORMS.iter().find(|p| p.variables[1..3].contains(&variable))
    }

    fn variable(&self, field: &str) -> Option<&'static str> {
        let at = FIELDS.iter().position(|f| *f == field)?;
        Some(self.variables[at]).filter(|variable| !variable.is_empty())
    }
}

/// Where dynamic data comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dynamic<'a> {
    /// From nowhere: a config that asks for some is refused.
    Unknown,
    /// From coreos-metadata.
    Metadata(&'static Platform),
    /// The machine's IPv4 addresses are known before it boots.
    Addresses {
        /// Its own, as others outside of its network see it.
        public: &'a str,
        /// That among the machines of its network.
        private: &'a str,
    },
}

/// A value after its fields were replaced.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expanded {
    pub text: String,
    /// Whether it needs [`FILE`].
    pub metadata: bool,
}

impl Dynamic<'_> {
    /// Replaces `{FIELD}` by what stands for it.
    ///
    /// # Errors
    /// Why it cannot.
    pub(super) fn expand(self, value: &str) -> Result<Expanded, String> {
        let (mut text, mut metadata) = (String::new(), false);
        let mut rest = value;
        while let Some(open) = rest.find(['{', '}']) {
            if matches!(self, Self::Unknown) {
                return Err("platform must be specified to use templating".into());
            }
            let (before, tail) = rest.split_at(open);
            let Some((field, after)) = tail.strip_prefix('{').and_then(|tail| tail.split_once('}')) else {
                return Err(format!("a brace without its partner in {value:?}"));
            };
            // `$private_ipv4` was replaced by a variable of the shell: the same thing under another name.
            let shell = before.ends_with('$');
            text.push_str(before.strip_suffix('$').filter(|_| shell).unwrap_or(before));
            text.push_str(&self.field(field, shell, &mut metadata)?);
            rest = after;
        }
        text.push_str(rest);
        Ok(Expanded { text, metadata })
    }

    fn field(self, field: &str, shell: bool, metadata: &mut bool) -> Result<String, String> {
        let unknown = || {
            let hint =
                crate::text::did_you_mean(field, FIELDS).map(|text| format!("; {text}")).unwrap_or_default();
            format!("unknown field {field:?}{hint}")
        };
        match self {
            Self::Unknown => Err("platform must be specified to use templating".into()),
            Self::Metadata(platform) => {
                let variable = match shell {
                    true => platform.variables.iter().find(|v| **v == field && !v.is_empty()).copied(),
                    false if !FIELDS.contains(&field) => return Err(unknown()),
                    false => platform.variable(field),
                };
                *metadata = true;
                variable
                    .map(|variable| format!("${{{variable}}}"))
                    .ok_or_else(|| format!("platform {} does not tell {field}", platform.name))
            }
            Self::Addresses { public, private } => match field {
                "PRIVATE_IPV4" if !shell => Ok(private.to_owned()),
                "PUBLIC_IPV4" if !shell => Ok(public.to_owned()),
                _ if FIELDS.contains(&field) => Err(format!("{field} is not known before the machine boots")),
                _ => Err(unknown()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_become_variables_or_addresses() {
        let ec2 = Dynamic::Metadata(Platform::named("ec2").unwrap());
        let known = Dynamic::Addresses { public: "198.51.100.7", private: "10.0.0.7" };
        let expand = |dynamic: Dynamic<'_>, text| dynamic.expand(text).map(|e| (e.text, e.metadata));
        let ok = |text: &str, metadata| Ok((text.to_owned(), metadata));
        assert_eq!(
            expand(ec2, "http://{PRIVATE_IPV4}:2380,{HOSTNAME}"),
            ok("http://${COREOS_EC2_IPV4_LOCAL}:2380,${COREOS_EC2_HOSTNAME}", true)
        );
        assert_eq!(expand(ec2, "a${COREOS_EC2_IPV4_LOCAL}b"), ok("a${COREOS_EC2_IPV4_LOCAL}b", true));
        assert_eq!(expand(ec2, "plain $x"), ok("plain $x", false));
        assert_eq!(expand(known, "{PRIVATE_IPV4}/{PUBLIC_IPV4}"), ok("10.0.0.7/198.51.100.7", false));
        assert_eq!(expand(Dynamic::Unknown, "plain"), ok("plain", false));
        for (dynamic, text, why) in [
            (Dynamic::Unknown, "{X}", "platform must be specified to use templating"),
            (Dynamic::Unknown, "a}", "platform must be specified to use templating"),
            (ec2, "{PRIVATE_IP4}", "unknown field \"PRIVATE_IP4\"; did you mean \"PRIVATE_IPV4\"?"),
            (ec2, "{PRIVATE_IPV6}", "platform ec2 does not tell PRIVATE_IPV6"),
            (ec2, "${HOME}", "platform ec2 does not tell HOME"),
            (ec2, "{", "a brace without its partner in \"{\""),
            (ec2, "}{", "a brace without its partner in \"}{\""),
            (known, "{HOSTNAME}", "HOSTNAME is not known before the machine boots"),
            (known, "{}", "unknown field \"\""),
        ] {
            assert_eq!(expand(dynamic, text), Err(why.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_platform_is_known_by_its_variables() {
        assert!(PLATFORMS.is_sorted_by_key(|p| p.name));
        let mut seen = std::collections::BTreeSet::new();
        for platform in &PLATFORMS {
            for variable in platform.variables.iter().filter(|v| !v.is_empty()) {
                assert!(seen.insert(variable), "{variable} is of two platforms");
            }
            for variable in platform.variables[1..3].iter().filter(|v| !v.is_empty()) {
                assert_eq!(Platform::of_variable(&format!("${{{variable}}}")), Some(platform));
            }
        }
        let any = Platform::of_variable(ANY_CLOUD).unwrap();
        assert!(any.variables.iter().all(|v| !v.is_empty()));
        assert_eq!(Platform::of_variable("${COREOS_ESX_IPV4_PRIVATE_0}"), None);
        assert_eq!(Platform::of_variable("10.0.0.2"), None);
    }
}
