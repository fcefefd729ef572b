//! Userdata: what a machine is told to become at its first boot, and what kola adds to it.
//!
//! A [`UserData`] is what a test or a user gives: a kind, a text and perhaps SSH keys, not yet validated.
//! [`render`] turns it into the [`Conf`] of one machine: variables replaced, checked, and extended with the
//! flight's own units, drop-ins, files and keys.

mod butane;
mod cloudinit;
pub mod container_linux;
mod ignition;
mod keys;
mod kinds;
mod multipart;
#[cfg(test)]
mod tests;
mod tree;
mod upgrade;
mod yaml;

use std::io::{self, Read};
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use semver::Version;

use self::container_linux::Dynamic;
use crate::compress::Compression;
use crate::text::encoding::{Decoder, Encoding};
use crate::{debug, warning};

const LOG: &str = "platform/conf";
/// More than any platform delivers; bounds what a small gzip stream may grow to.
const MAX_SIZE: usize = 16 << 20;

/// Why userdata cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It starts like a gzip stream but is none.
    #[error("cannot decompress the userdata")]
    Gzip(#[source] io::Error),
    /// It is larger, after decompression, than any platform takes.
    #[error("userdata is larger than {} MiB", MAX_SIZE >> 20)]
    TooLarge,
    /// It holds bytes that are not text.
    #[error("userdata is not UTF-8 text")]
    NotText,
    /// An Ignition config that is no JSON.
    #[error("config is not valid JSON")]
    Json(#[source] serde_json::Error),
    /// A cloud-config that is no YAML.
    #[error("cloud-config is not valid YAML")]
    Yaml(#[source] serde_yaml::Error),
    /// Well-formed, but a part of it is not what the format asks for.
    #[error("config is not valid: {path}: {reason}")]
    Invalid {
        /// Where, such as `storage.files[0].path`.
        path: String,
        /// What is wrong there.
        reason: String,
    },
    /// An Ignition version nobody here knows; or none at all.
    #[error(
        "unsupported config version {0}; known are ignitionVersion 1 and ignition.version 2.0.0 to 2.5.0 and 3.x"
    )]
    Version(String),
    /// A MIME message whose parts cannot be told apart.
    #[error("multipart userdata is not valid: {0}")]
    Multipart(&'static str),
    /// Something cannot be added to this kind of userdata.
    #[error("cannot add {what} to the userdata: {reason}")]
    Addition {
        /// What was to be added.
        what: String,
        /// Why not.
        reason: &'static str,
    },
    /// Nothing that a machine can be configured with.
    #[error(
        "userdata is not recognised: it is no Ignition config, cloud-config, script or Container Linux Config; it looks \
         most like {0}"
    )]
    Unrecognised(String),
    /// A version that the image's Ignition cannot read.
    #[error("config is not valid: ignition.version: the image's Ignition reads {readable}, not {version}")]
    Unreadable {
        /// What the config declares.
        version: Version,
        /// What the image takes.
        readable: String,
    },
    /// A Container Linux Config with faults.
    #[error("parsing Container Linux config")]
    ContainerLinux(#[source] container_linux::Report),
    /// A config of version 2 that asks for what version 3 does not have.
    #[error("config cannot be said in Ignition 3: {path}: {reason}")]
    NotInVersion3 {
        /// Where in the config of version 2, such as `storage.files[0].filesystem`.
        path: String,
        /// What is in the way.
        reason: String,
    },
    /// The program that translates Butane configs is not there.
    #[error("it is a Butane config, which the program {} translates: it is not installed", butane::PROGRAM)]
    NoButane,
    /// The program that translates Butane configs does not like this one.
    #[error("translating the Butane config")]
    Butane(#[source] crate::process::Error),
    /// A Butane config that was not translated before ([`UserData::translated`]).
    #[error("a Butane config must become Ignition before a machine gets it")]
    Untranslated,
}

impl Error {
    fn invalid(path: &str, reason: impl Into<String>) -> Self {
        let path = if path.is_empty() { "top level" } else { path };
        Self::Invalid { path: path.to_owned(), reason: reason.into() }
    }
}

/// The formats a machine can be configured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Nothing at all; nothing can be added either.
    Empty,
    /// YAML after a line `#cloud-config`.
    CloudConfig,
    /// A program, run once.
    Script,
    /// Ignition's JSON, of any version.
    Ignition,
    /// The YAML that a transpiler turns into Ignition.
    ContainerLinuxConfig,
    /// The YAML with a `variant` that Butane turns into Ignition.
    Butane,
    /// A MIME message holding several of the others.
    Multipart,
}

/// Userdata as given: kind, text and SSH keys. Immutable and cheap to clone; not validated before [`render`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserData {
    kind: Kind,
    text: Arc<str>,
    keys: Arc<[String]>,
}

impl UserData {
    fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into().into(), keys: Arc::default() }
    }

    /// No userdata in the machine, as opposed to a configuration that does nothing.
    pub fn empty() -> Self {
        Self::new(Kind::Empty, "")
    }

    /// An Ignition config.
    pub fn ignition(text: impl Into<String>) -> Self {
        Self::new(Kind::Ignition, text)
    }

    /// An Ignition config that does nothing.
    pub fn no_op(version: IgnitionVersion) -> Self {
        Self::ignition(ignition::noop(version))
    }

    /// A cloud-config, with its first line `#cloud-config`.
    pub fn cloud_config(text: impl Into<String>) -> Self {
        Self::new(Kind::CloudConfig, text)
    }

    /// A script, with its `#!` line.
    pub fn script(text: impl Into<String>) -> Self {
        Self::new(Kind::Script, text)
    }

    /// A Container Linux Config.
    pub fn container_linux_config(text: impl Into<String>) -> Self {
        Self::new(Kind::ContainerLinuxConfig, text)
    }

    /// A Butane config.
    pub fn butane(text: impl Into<String>) -> Self {
        Self::new(Kind::Butane, text)
    }

    /// A MIME message of type `multipart/mixed`, with its headers.
    pub fn multipart(text: impl Into<String>) -> Self {
        Self::new(Kind::Multipart, text)
    }

    /// Guesses the kind from the content, which may be compressed with gzip, have a byte order mark or be UTF-16 (it is
    /// kept as plain UTF-8).
    ///
    /// In this order: no bytes at all, a first line `#cloud-config`, a first line starting with `#!`, a header
    /// `Content-Type: multipart/mixed`, JSON (what begins with a brace or bracket: whether it is right is seen by
    /// [`render`]), YAML with Butane's key `variant`, YAML with a key of Container Linux Config.
    ///
    /// # Errors
    /// A broken gzip stream, more than 16 MiB, bytes that are no text, or a text of none of these kinds.
    pub fn detect(bytes: &[u8]) -> Result<Self, Error> {
        let unpacked;
        let bytes = match Compression::of_content(bytes) {
            _ if bytes.starts_with(&[0x1f, 0x8b]) => {
                unpacked = gunzip(bytes)?;
                &unpacked
            }
            Some(other) => {
                return Err(Error::Unrecognised(format!("{} data; unpack it first", other.name())));
            }
            None => bytes,
        };
        if bytes.len() > MAX_SIZE {
            return Err(Error::TooLarge);
        }
        let (encoding, mark) = Encoding::detect(bytes);
        let mut decoded = Vec::new();
        Decoder::new(encoding).decode(&bytes[mark..], &mut decoded);
        let text = String::from_utf8(decoded).map_err(|_| Error::NotText)?;
        Ok(Self::new(kinds::recognise(&text)?, text))
    }

    /// The format.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether keys that are added reach the machine.
    pub fn takes_keys(&self) -> bool {
        match self.kind {
            Kind::Empty => false,
            Kind::Script => self.contains(cloudinit::KEYS_MARK),
            Kind::CloudConfig
            | Kind::Ignition
            | Kind::ContainerLinuxConfig
            | Kind::Butane
            | Kind::Multipart => true,
        }
    }

    /// The text, as given or changed by [`UserData::subst`].
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether `needle` occurs in the text.
    pub fn contains(&self, needle: &str) -> bool {
        self.text.contains(needle)
    }

    /// With every `old` in the text replaced by `new`, as it stands: nothing is escaped.
    #[must_use]
    pub fn subst(&self, old: &str, new: &str) -> Self {
        if old.is_empty() || !self.contains(old) {
            return self.clone();
        }
        Self { text: self.text.replace(old, new).into(), ..self.clone() }
    }

    /// With one more public key (authorized_keys form) for the user `core`.
    #[must_use]
    pub fn add_key(&self, key: impl Into<String>) -> Self {
        let keys = self.keys.iter().cloned().chain([key.into()]).collect();
        Self { keys, ..self.clone() }
    }
}

/// Whether an Ignition config can be part of another one for a system of this version: see [`merged`].
pub fn can_be_merged(text: &str, version: IgnitionVersion) -> bool {
    let Ok(root) = serde_json::from_str(text) else { return false };
    let Ok((found, _)) = ignition::version(&root) else { return false };
    match version {
        IgnitionVersion::V2 => found.major == 2,
        IgnitionVersion::V3 => found.major == 3,
    }
}

/// One Ignition config that a system of this version takes for all of these: each is in it as a `data:` URL, once.
pub fn merged(configs: &[String], version: IgnitionVersion) -> String {
    let mut seen = std::collections::HashSet::new();
    let parts: Vec<serde_json::Value> = configs
        .iter()
        .filter(|config| seen.insert(config.as_str()))
        .map(|config| serde_json::json!({ "source": ignition::data_url(config.as_bytes()) }))
        .collect();
    let (number, key) = match version {
        IgnitionVersion::V2 => ("2.0.0", "append"),
        IgnitionVersion::V3 => ("3.0.0", "merge"),
    };
    serde_json::json!({ "ignition": { "version": number, "config": { key: parts } } }).to_string()
}

fn gunzip(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    MultiGzDecoder::new(bytes).take(MAX_SIZE as u64 + 1).read_to_end(&mut out).map_err(Error::Gzip)?;
    Ok(out)
}

/// What the flight puts into every machine's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Additions {
    /// systemd units.
    pub units: Vec<Unit>,
    /// Drop-ins of systemd units, in the given order.
    pub dropins: Vec<DropIn>,
    /// Files.
    pub files: Vec<File>,
    /// Public keys of the user `core`, in authorized_keys form. Those already there are not repeated.
    pub keys: Vec<String>,
}

/// A systemd unit; one of the same name in the userdata takes over contents and enablement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Full name, such as `noop.service`.
    pub name: String,
    /// The unit file; empty leaves the contents alone.
    pub contents: String,
    /// Whether it is enabled.
    pub enable: bool,
}

/// A drop-in; one of the same name for the same unit in the userdata is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropIn {
    /// Full name of the unit it belongs to.
    pub unit: String,
    /// File name, such as `10-debug.conf`.
    pub name: String,
    /// The file.
    pub contents: String,
}

impl DropIn {
    /// Makes a systemd unit log all it does: what `--debug-systemd-unit` asks for.
    pub fn debug(unit: impl Into<String>) -> Self {
        Self {
            unit: unit.into(),
            name: "10-debug.conf".into(),
            contents: "[Service]\nEnvironment=SYSTEMD_LOG_LEVEL=debug\n".into(),
        }
    }
}

/// A file owned by root; one of the same path in the userdata is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Absolute path in the machine.
    pub path: String,
    /// The content.
    pub contents: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// Which Ignition a machine without userdata is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IgnitionVersion {
    /// 2.0.0, for Container Linux.
    V2,
    /// 3.0.0, for Fedora CoreOS and RHEL CoreOS.
    V3,
}

/// The configuration of one machine, ready to be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conf {
    kind: Kind,
    text: String,
    ignition: Option<ignition::Facts>,
}

impl Conf {
    /// The format delivered.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether Ignition reads it.
    pub fn is_ignition(&self) -> bool {
        self.kind == Kind::Ignition
    }

    /// Whether the machine gets nothing.
    pub fn is_empty(&self) -> bool {
        self.kind == Kind::Empty
    }

    /// The text to deliver.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The version an Ignition config declares (1.0.0 for `ignitionVersion: 1`); `None` for other kinds.
    pub fn ignition_version(&self) -> Option<Version> {
        self.ignition.as_ref().map(|facts| facts.version.clone())
    }

    /// Whether an Ignition that reads these versions, as [semver] requirements, reads this; other kinds always pass.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    pub fn check_readable(&self, versions: &[semver::VersionReq]) -> Result<(), Error> {
        let Some(version) = self.ignition_version() else { return Ok(()) };
        if versions.iter().any(|range| range.matches(&version)) {
            return Ok(());
        }
        let ranges: Vec<String> = versions.iter().map(ToString::to_string).collect();
        Err(Error::Unreadable { version, readable: ranges.join(" and ") })
    }

    /// Whether Ignition must work on disks or kernel arguments: `disks`, `raid`, `filesystems` or `luks` of
    /// `storage`, or `kernelArguments`, are there and not empty.
    pub fn needs_disks(&self) -> bool {
        self.ignition.as_ref().is_some_and(|facts| facts.needs_disks)
    }

    /// Whether Ignition must fetch something over the network.
    pub fn needs_network(&self) -> bool {
        self.ignition.as_ref().is_some_and(|facts| facts.needs_network)
    }
}

/// Makes one machine's configuration: replaces the address variables, checks the userdata and adds to it.
///
/// No userdata means an Ignition config that does nothing, of version `default`. `$public_ipv4` and
/// `$private_ipv4` are replaced in Ignition and Container Linux Configs only (cloud-config readers know them); an empty
/// address leaves its variable alone. What a kind cannot carry is left out: everything in empty userdata, units in
/// scripts. Lost keys of `user_data` are warned of.
///
/// A Container Linux Config becomes Ignition of the version `default`. Its own fields (`{PRIVATE_IPV4}`) stand for the
/// addresses, or, where these are variables of a cloud's metadata, for that cloud's variables.
///
/// # Errors
/// The userdata is not what its kind demands; the error names the place.
pub fn render(
    user_data: Option<&UserData>,
    default: IgnitionVersion,
    public_ipv4: &str,
    private_ipv4: &str,
    add: &Additions,
) -> Result<Conf, Error> {
    let no_op;
    let user_data = match user_data {
        Some(user_data) => user_data,
        None => {
            no_op = UserData::no_op(default);
            &no_op
        }
    };
    let keys = keys::unique(user_data.keys.iter().chain(&add.keys));
    let kind = user_data.kind;
    let plain = |text| Conf { kind, text, ignition: None };
    match kind {
        Kind::Empty => {
            if !user_data.keys.is_empty() {
                warning!(LOG, "the userdata is empty: SSH keys cannot be added to it");
            }
            debug!(LOG, "empty userdata: nothing added");
            Ok(plain(String::new()))
        }
        Kind::CloudConfig => cloudinit::cloud_config(&user_data.text, add, &keys).map(plain),
        Kind::Script => {
            if !user_data.keys.is_empty() && !user_data.contains(cloudinit::KEYS_MARK) {
                warning!(LOG, "the script holds no {}: SSH keys cannot be added to it", cloudinit::KEYS_MARK);
            }
            cloudinit::script(&user_data.text, add, &keys).map(plain)
        }
        Kind::Multipart => multipart::add(&user_data.text, add, &keys).map(plain),
        Kind::Ignition => finish(&addressed(user_data, public_ipv4, private_ipv4), add, &keys),
        Kind::ContainerLinuxConfig => {
            let text = addressed(user_data, public_ipv4, private_ipv4);
            let ignition = translate(&text, default, public_ipv4, private_ipv4)?;
            finish(&ignition.to_string(), add, &keys)
        }
        Kind::Butane => Err(Error::Untranslated),
    }
}

/// The text with its address variables replaced.
fn addressed(user_data: &UserData, public_ipv4: &str, private_ipv4: &str) -> String {
    let mut user_data = user_data.clone();
    for (variable, value) in [("$public_ipv4", public_ipv4), ("$private_ipv4", private_ipv4)] {
        if !value.is_empty() {
            user_data = user_data.subst(variable, value);
        }
    }
    user_data.text().to_owned()
}

fn finish(text: &str, add: &Additions, keys: &[String]) -> Result<Conf, Error> {
    let (text, facts) = ignition::add(text, add, keys)?;
    Ok(Conf { kind: Kind::Ignition, text, ignition: Some(facts) })
}

/// A Container Linux Config as Ignition of a version; what is odd about it is logged.
fn translate(
    text: &str,
    version: IgnitionVersion,
    public_ipv4: &str,
    private_ipv4: &str,
) -> Result<serde_json::Value, Error> {
    let dynamic = match container_linux::Platform::of_variable(private_ipv4) {
        Some(platform) => Dynamic::Metadata(platform),
        // Variables of a platform whose metadata has no names here.
        None if private_ipv4.is_empty() || private_ipv4.starts_with('$') => Dynamic::Unknown,
        None => Dynamic::Addresses { public: public_ipv4, private: private_ipv4 },
    };
    let translated = container_linux::translate(text, dynamic).map_err(Error::ContainerLinux)?;
    for fault in &translated.warnings {
        warning!(LOG, "Container Linux config: {fault}");
    }
    match version {
        IgnitionVersion::V2 => Ok(translated.ignition),
        IgnitionVersion::V3 => upgrade::to_v3(translated.ignition),
    }
}

/// An Ignition config of version 2.x as one of version 3 that does the same; one of version 3 stays as it is.
///
/// # Errors
/// [`Error::NotInVersion3`] with the path of what version 3 has no words for, and those of [`render`].
pub fn as_version_3(text: &str) -> Result<String, Error> {
    let root: serde_json::Value = serde_json::from_str(text).map_err(Error::Json)?;
    match ignition::version(&root)?.0.major {
        1 => Err(Error::NotInVersion3 {
            path: "ignitionVersion".into(),
            reason: "only configs of version 2 are translated".into(),
        }),
        2 => Ok(upgrade::to_v3(root)?.to_string()),
        _ => Ok(text.to_owned()),
    }
}
