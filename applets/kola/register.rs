//! What a kola test is, and which tests apply to a given platform, system and image.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::NaiveDate;
use clap::builder::PossibleValue;
use color_eyre::eyre::Result;
use futures_util::future::BoxFuture;
use mantle::badness;
use mantle::conf::{IgnitionVersion, UserData};
use mantle::platform::distribution::Distribution;
use mantle::platform::{DRIVERS, Driver, MachineOptions};
use semver::Version;

use super::cluster::TestCluster;
use super::external::External;

/// A text that is written in this program or was read while it runs.
pub type Text = Cow<'static, str>;

/// Userdata of a test, by kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Config {
    /// Ignition JSON of any version.
    Ignition(Text),
    /// A Container Linux Config: Ignition of the version that the guest reads.
    ContainerLinux(Text),
    /// A cloud-config.
    CloudInit(Text),
    /// A script.
    Script(Text),
    /// A Butane config, which another program makes Ignition of before the run.
    Butane(Text),
    /// Present but empty.
    Empty,
}

impl Config {
    /// As the library knows it.
    pub fn user_data(&self) -> UserData {
        match self {
            Self::Ignition(text) => UserData::ignition(text.as_ref()),
            Self::ContainerLinux(text) => UserData::container_linux_config(text.as_ref()),
            Self::CloudInit(text) => UserData::cloud_config(text.as_ref()),
            Self::Script(text) => UserData::script(text.as_ref()),
            Self::Butane(text) => UserData::butane(text.as_ref()),
            Self::Empty => UserData::empty(),
        }
    }

    /// The feature an image needs to understand it, where configs without a version become one of `version`.
    fn feature(&self, version: IgnitionVersion) -> Option<&'static str> {
        let of = |version| match version {
            IgnitionVersion::V2 => "ign2",
            IgnitionVersion::V3 => "ign3",
        };
        match self {
            Self::Ignition(text) => Some(of(match major_version(text) {
                Some(1) => return Some("ign1"),
                Some(3) => IgnitionVersion::V3,
                _ => IgnitionVersion::V2,
            })),
            Self::ContainerLinux(_) => Some(of(version)),
            Self::Butane(_) => Some("ign3"),
            Self::CloudInit(_) | Self::Script(_) => Some("cloudinit"),
            Self::Empty => None,
        }
    }

    /// The same for a system that speaks Ignition 3, if it is of version 2 and can be said there.
    fn as_version_3(&self) -> Option<Self> {
        match self {
            Self::Ignition(text) if major_version(text) == Some(2) => {
                mantle::conf::as_version_3(text).ok().map(|text| Self::Ignition(text.into()))
            }
            _ => None,
        }
    }
}

/// The major version of an Ignition config, if it tells one.
fn major_version(text: &str) -> Option<u64> {
    let config: serde_json::Value = serde_json::from_str(text).ok()?;
    if config.get("ignitionVersion").is_some() {
        return Some(1);
    }
    config["ignition"]["version"].as_str()?.split('.').next()?.parse().ok()
}

/// A function that kolet runs on the machine. It is always part of this program, which is sent there.
#[derive(Clone, Copy)]
pub struct Native {
    /// Unique in its test.
    pub name: &'static str,
    /// The function; blocking, as kolet does nothing else.
    pub run: fn() -> Result<()>,
    /// What image and platform must offer for it; the rest of the test goes on without it.
    pub features: &'static [&'static str],
}

impl Native {
    /// A function that needs nothing special.
    pub const fn new(name: &'static str, run: fn() -> Result<()>) -> Self {
        Self { name, run, features: &[] }
    }

    /// The same function, run only where these features are.
    pub const fn needs(mut self, features: &'static [&'static str]) -> Self {
        self.features = features;
        self
    }
}

/// Departures from how a test is usually treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flag {
    /// The flight's key does not go into userdata.
    NoSshKeyInUserData,
    /// The flight's key does not go into the platform's metadata.
    NoSshKeyInMetadata,
    /// An emergency shell on the console is no failure.
    NoEmergencyShellCheck,
    /// SELinux is left as it is.
    NoEnableSelinux,
    /// Not on platforms without Internet.
    RequiresInternetAccess,
}

/// What a test does, run on this host; as often as the test is run.
pub type Body = Arc<dyn Fn(TestCluster) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// A test: one record, one function. Made by [`Test::new`] and the setters below, from texts of this program or
/// from what was read at run time.
#[derive(Clone)]
pub struct Test {
    /// Unique; dot-separated, the first part is a package, `coreos`, or a distribution.
    pub name: Text,
    /// The name it is registered by, where it is one of several runs of it.
    pub copy_of: Option<Text>,
    /// What it tests, in a few words; "" if nobody said.
    pub description: Text,
    /// Entry point.
    pub body: Body,
    /// Functions run on the guest.
    pub native: Vec<Native>,
    /// Userdata of all machines; absent: a config that does nothing.
    pub user_data: Option<Config>,
    /// The same for systems that speak Ignition 3.
    pub user_data_v3: Option<Config>,
    /// Machines started before the body; 0: the test starts its own.
    pub cluster_size: usize,
    /// Allowed platforms; empty: all.
    pub platforms: Vec<Text>,
    /// Refused platforms.
    pub exclude_platforms: Vec<Text>,
    /// Allowed distributions; empty: all.
    pub distros: Vec<Text>,
    /// Refused distributions.
    pub exclude_distros: Vec<Text>,
    /// Distributions on which the test needs no Internet although it is flagged so: they have what it fetches elsewhere.
    pub offline_distros: Vec<Text>,
    /// Allowed architectures; empty: all.
    pub architectures: Vec<Text>,
    /// First version of the image it is for.
    pub min_version: Option<Text>,
    /// First version it is no longer for.
    pub end_version: Option<Text>,
    /// Departures.
    pub flags: Vec<Flag>,
    /// What image and platform must offer.
    pub features: Vec<Text>,
    /// After one failed subtest the others are skipped.
    pub fail_fast: bool,
    /// Time for the whole test on bare hardware, machines included; multiplied by the platform's slowness.
    pub timeout: Duration,
    /// Refused architectures.
    pub exclude_architectures: Vec<Text>,
    /// What it can be chosen by, besides its name.
    pub tags: Vec<Text>,
    /// It is run only where this tag is asked for.
    pub required_tag: Option<Text>,
    /// When it was written: for 30 days its failures are warnings.
    pub created: Option<NaiveDate>,
    /// Why its failures are warnings, if they are.
    pub warn: Option<Text>,
    /// Wishes for its machines.
    pub machine: MachineOptions,
    /// What it asks of machines and cannot have here.
    pub beyond: Vec<&'static str>,
    /// Ports of this host that no other test may use meanwhile.
    pub host_ports: Vec<u16>,
    /// Warnings about its config are errors.
    pub strict_config: bool,
    /// What it is made of, where it was found in a folder.
    pub external: Option<Arc<External>>,
}

/// Tag of tests whose machines are not searched for signs of trouble.
pub const SKIP_BASE_CHECKS: &str = "skip-base-checks";
/// Tag of tests that need the Internet.
const NEEDS_INTERNET: &str = "needs-internet";
/// Tag of tests that need not be run on each platform.
const PLATFORM_INDEPENDENT: &str = "platform-independent";
/// Tag of tests that need a firmware which starts only what is signed.
const SECURE_BOOT: &str = "secure-boot";
/// How long the failures of a new test are warnings, in days.
const GRACE: i64 = 30;

/// A setter for each field of the same name.
impl Test {
    /// A test of what `body` does: on one machine, without userdata, everywhere, in 10 minutes.
    pub fn new<F>(name: impl Into<Text>, body: impl Fn(TestCluster) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        Self {
            name: name.into(),
            copy_of: None,
            description: Text::default(),
            body: Arc::new(move |cluster| Box::pin(body(cluster))),
            native: Vec::new(),
            user_data: None,
            user_data_v3: None,
            cluster_size: 1,
            platforms: Vec::new(),
            exclude_platforms: Vec::new(),
            distros: Vec::new(),
            exclude_distros: Vec::new(),
            offline_distros: Vec::new(),
            architectures: texts(["amd64"]),
            min_version: None,
            end_version: None,
            flags: Vec::new(),
            features: Vec::new(),
            fail_fast: false,
            timeout: Duration::from_secs(600),
            exclude_architectures: Vec::new(),
            tags: Vec::new(),
            required_tag: None,
            created: None,
            warn: None,
            machine: MachineOptions::default(),
            beyond: Vec::new(),
            host_ports: Vec::new(),
            strict_config: false,
            external: None,
        }
    }

    /// Sets what it tests, in a few words.
    pub fn description(mut self, text: impl Into<Text>) -> Self {
        self.description = text.into();
        self
    }

    /// Sets the functions that run on the guest.
    pub fn native(mut self, functions: impl AsRef<[Native]>) -> Self {
        self.native = functions.as_ref().to_vec();
        self
    }

    /// Sets the userdata.
    pub fn user_data(mut self, config: Config) -> Self {
        self.user_data = Some(config);
        self
    }

    /// Sets an Ignition config as userdata.
    pub fn ignition(self, config: impl Into<Text>) -> Self {
        self.user_data(Config::Ignition(config.into()))
    }

    /// Sets a Container Linux Config as userdata: one description for all versions of Ignition.
    pub fn container_linux(self, config: impl Into<Text>) -> Self {
        self.user_data(Config::ContainerLinux(config.into()))
    }

    /// Sets a cloud-config as userdata.
    pub fn cloud_config(self, config: impl Into<Text>) -> Self {
        self.user_data(Config::CloudInit(config.into()))
    }

    /// Sets a script as userdata.
    pub fn script(self, script: impl Into<Text>) -> Self {
        self.user_data(Config::Script(script.into()))
    }

    /// Sets the Ignition config for systems that speak version 3, where it differs from the other in more than the version.
    pub fn ignition_v3(mut self, config: impl Into<Text>) -> Self {
        self.user_data_v3 = Some(Config::Ignition(config.into()));
        self
    }

    /// Sets how many machines are started before the body.
    pub fn cluster_size(mut self, machines: usize) -> Self {
        self.cluster_size = machines;
        self
    }

    /// Sets the allowed platforms.
    pub fn platforms(mut self, names: impl IntoIterator<Item = impl Into<Text>>) -> Self {
        self.platforms = texts(names);
        self
    }

    /// Sets the refused platforms.
    pub fn exclude_platforms(mut self, names: impl IntoIterator<Item = impl Into<Text>>) -> Self {
        self.exclude_platforms = texts(names);
        self
    }

    /// Sets the allowed distributions.
    pub fn distros(mut self, names: impl IntoIterator<Item = impl Into<Text>>) -> Self {
        self.distros = texts(names);
        self
    }

    /// Sets the refused distributions.
    pub fn exclude_distros(mut self, names: impl IntoIterator<Item = impl Into<Text>>) -> Self {
        self.exclude_distros = texts(names);
        self
    }

    /// Sets the distributions on which no Internet is needed.
    pub fn offline_distros(mut self, names: impl IntoIterator<Item = impl Into<Text>>) -> Self {
        self.offline_distros = texts(names);
        self
    }

    /// Sets the first version of the image.
    pub fn min_version(mut self, version: impl Into<Text>) -> Self {
        self.min_version = Some(version.into());
        self
    }

    /// Sets the first version that is too late.
    pub fn end_version(mut self, version: impl Into<Text>) -> Self {
        self.end_version = Some(version.into());
        self
    }

    /// Sets the departures from how tests are treated.
    pub fn flags(mut self, flags: impl IntoIterator<Item = Flag>) -> Self {
        self.flags = flags.into_iter().collect();
        self
    }

    /// Sets what image and platform must offer.
    pub fn features(mut self, names: impl IntoIterator<Item = impl Into<Text>>) -> Self {
        self.features = texts(names);
        self
    }

    /// After one failed subtest, skip the others.
    pub fn fail_fast(mut self) -> Self {
        self.fail_fast = true;
        self
    }

    /// Sets the time for the whole test.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }
}

fn texts(from: impl IntoIterator<Item = impl Into<Text>>) -> Vec<Text> {
    from.into_iter().map(Into::into).collect()
}

/// Whether a list has the name.
fn listed(list: &[Text], name: &str) -> bool {
    list.iter().any(|text| text == name)
}

impl Test {
    /// Whether the flag is set.
    pub fn has(&self, flag: Flag) -> bool {
        self.flags.contains(&flag)
    }

    /// The name that kolet knows it by, too.
    pub fn registered_name(&self) -> &str {
        self.copy_of.as_ref().unwrap_or(&self.name)
    }

    /// The userdata for a distribution. A system that speaks Ignition 3 gets what the test has for it, else the
    /// translation of what it has of version 2.
    pub fn config(&self, distribution: &Distribution) -> Option<Cow<'_, Config>> {
        let usual = self.user_data.as_ref();
        let own = match distribution.ignition {
            IgnitionVersion::V2 => None,
            IgnitionVersion::V3 => match &self.user_data_v3 {
                Some(config) => Some(Cow::Borrowed(config)),
                None => usual.and_then(Config::as_version_3).map(Cow::Owned),
            },
        };
        own.or(usual.map(Cow::Borrowed))
    }

    /// Console checks that are off for this test.
    pub fn ignored_badness(&self) -> Vec<badness::Flag> {
        if self.has(Flag::NoEmergencyShellCheck) {
            vec![badness::Flag::NoEmergencyShellCheck]
        } else {
            Vec::new()
        }
    }

    /// Whether the test's name matches one of the patterns.
    ///
    /// # Errors
    /// When a pattern is malformed.
    pub fn matches(&self, patterns: &[String]) -> Result<bool> {
        let mut matched = false;
        for pattern in patterns {
            matched |= mantle::glob::matches(pattern, &self.name)
                .map_err(|e| color_eyre::eyre::eyre!("{e}: {pattern}"))?;
        }
        Ok(matched)
    }

    /// Why the test is not for this platform, if it is not. A variant of a platform runs that platform's tests,
    /// unless either is refused.
    pub fn excluded_on(&self, driver: &Driver) -> Option<String> {
        let names: Vec<&str> = std::iter::once(driver.name).chain(driver.variant_of).collect();
        if !self.platforms.is_empty() && !names.iter().any(|name| listed(&self.platforms, name)) {
            return Some(format!("is for platform {} only", self.platforms.join(", ")));
        }
        let refused = names.iter().any(|name| listed(&self.exclude_platforms, name));
        refused.then(|| format!("is not for platform {}", driver.name))
    }

    /// Whether it has the tag, or one that follows from what else is known of it.
    pub fn tagged(&self, tag: &str) -> bool {
        listed(&self.tags, tag)
            || (tag == NEEDS_INTERNET && self.has(Flag::RequiresInternetAccess))
            || self.required_tag.as_deref() == Some(tag)
    }

    /// Whether its machines are not searched for signs of trouble.
    pub fn skips_base_checks(&self) -> bool {
        self.tagged(SKIP_BASE_CHECKS)
    }

    /// Why its failures do not count, if they do not.
    pub fn tolerated(&self) -> Option<String> {
        let young = self.created.filter(|day| {
            let age = (chrono::Utc::now().date_naive() - *day).num_days();
            (0..GRACE).contains(&age)
        });
        match (&self.warn, young) {
            (Some(reason), _) => Some(reason.to_string()),
            (None, Some(day)) => Some(format!("the test is new: of {day}")),
            (None, None) => None,
        }
    }

    /// Why the test is not for this distribution, if it is not.
    pub fn excluded_for(&self, distro: &str) -> Option<String> {
        if !self.distros.is_empty() && !listed(&self.distros, distro) {
            return Some(format!("is for distribution {} only", self.distros.join(", ")));
        }
        listed(&self.exclude_distros, distro).then(|| format!("is not for distribution {distro}"))
    }

    /// Why the test is not for this target, if it is not.
    pub fn excluded(&self, pattern_is_name: bool, target: &Selection<'_>) -> Option<String> {
        // Bounds are versions of Container Linux; other systems count in their own way.
        let numbered = matches!(target.distribution.name, "cl" | "flatcar");
        if let (Some(version), true, false) = (&target.version, numbered, pattern_is_name) {
            let bound = |text: &Option<Text>| text.as_deref().and_then(|t| Version::parse(t).ok());
            if let Some(min) = bound(&self.min_version).filter(|min| version < min) {
                return Some(format!("needs version {min} or later, the image is {version}"));
            }
            if let Some(end) = bound(&self.end_version).filter(|end| version >= end) {
                return Some(format!("is for versions before {end}, the image is {version}"));
            }
        }
        let online = self.has(Flag::RequiresInternetAccess)
            && !listed(&self.offline_distros, target.distribution.name);
        if online && !target.driver.internet {
            return Some(format!("needs the Internet, which platform {} does not give", target.driver.name));
        }
        let elsewhere =
            self.excluded_on(target.driver).or_else(|| self.excluded_for(target.distribution.name));
        if elsewhere.is_some() {
            return elsewhere;
        }
        if !self.architectures.is_empty() && !listed(&self.architectures, target.architecture) {
            return Some(format!("is for architecture {} only", self.architectures.join(", ")));
        }
        if listed(&self.exclude_architectures, target.architecture) {
            return Some(format!("is not for architecture {}", target.architecture));
        }
        let wished = !self.machine.disks.is_empty() && !target.driver.name.starts_with("qemu");
        let mut beyond = self.beyond.clone();
        beyond.extend(wished.then_some("additionalDisks"));
        beyond.extend(self.tagged(SECURE_BOOT).then_some(SECURE_BOOT));
        if !beyond.is_empty() {
            let (what, platform) = (beyond.join(", "), target.driver.name);
            return Some(format!("asks for {what}, which machines of platform {platform} cannot have here"));
        }
        None
    }

    /// The features that this target lacks for the test, with the reason where the platform gives one.
    pub fn missing_features(&self, target: &Selection<'_>) -> Vec<String> {
        let version = target.distribution.ignition;
        let config = self.config(target.distribution).and_then(|config| config.feature(version));
        let needed: BTreeSet<&str> = self.features.iter().map(AsRef::as_ref).chain(config).collect();
        missing(needed, target.features, target.lacking)
    }
}

/// Those of the needed features that neither image nor machine offer, or that the platform lacks, with the reason.
pub fn missing<'a>(
    needed: impl IntoIterator<Item = &'a str>,
    features: &[String],
    lacking: &[(&'static str, &'static str)],
) -> Vec<String> {
    let reason = |feature: &str| {
        if let Some((_, why)) = lacking.iter().find(|(f, _)| *f == feature) {
            return Some(format!("{feature} ({why})"));
        }
        let there = features.iter().any(|f| f == feature) || PLATFORM_FEATURES.contains(&feature);
        (!there).then(|| format!("{feature} (the image does not have it)"))
    };
    needed.into_iter().filter_map(reason).collect()
}

/// What the machine itself offers, whatever its image; a platform may lack them. In its `cluster-network` machines of a
/// cluster reach each other, in its `private-network` they also reach kola's services.
pub const PLATFORM_FEATURES: &[&str] = &["cluster-network", "disks", "firmware", "kernel", "private-network"];

/// What tests are selected for.
pub struct Selection<'a> {
    /// The platform.
    pub driver: &'a Driver,
    /// The operating system.
    pub distribution: &'static Distribution,
    /// Architecture as in `amd64`.
    pub architecture: &'a str,
    /// Version of the image, if known.
    pub version: Option<Version>,
    /// Features of the image.
    pub features: &'a [String],
    /// Features that the platform cannot offer.
    pub lacking: &'a [(&'static str, &'static str)],
}

/// The tests that were chosen, and those that were not although their names match, with the reasons.
pub struct Chosen {
    /// In natural order of names.
    pub tests: Vec<Arc<Test>>,
    /// Name and reason.
    pub left_out: Vec<(Text, String)>,
}

/// By what tests are chosen, before it is looked at where they can run.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Patterns of names; none: all.
    pub patterns: Vec<String>,
    /// Tags of which a test has one, where any are given.
    pub tags: Vec<String>,
    /// Tags that it does not have.
    pub refused_tags: Vec<String>,
    /// None that needs the Internet.
    pub no_net: bool,
    /// Those that need not run on each platform, too.
    pub platform_independent: bool,
}

impl Choice {
    /// Whether the test is asked for: by its name or a tag; `Some` with the reason if it is left out all the same.
    ///
    /// # Errors
    /// When a pattern is malformed.
    pub fn wants(&self, test: &Test) -> Result<Option<Result<(), String>>> {
        let named = !self.patterns.is_empty() && test.matches(&self.patterns)?;
        let tagged = self.tags.iter().any(|tag| test.tagged(tag));
        let all = self.patterns.is_empty() && self.tags.is_empty();
        if !(named || tagged || all) {
            return Ok(None);
        }
        if self.no_net && test.tagged(NEEDS_INTERNET) {
            return Ok(Some(Err("needs the Internet (--no-net)".to_owned())));
        }
        if let Some(tag) = self.refused_tags.iter().find(|tag| test.tagged(tag)) {
            return Ok(Some(Err(format!("has the tag {tag}"))));
        }
        if let Some(tag) = test.required_tag.as_ref().filter(|tag| !self.tags.iter().any(|t| t == *tag)) {
            return Ok(Some(Err(format!("is run only with --tag {tag}"))));
        }
        Ok(Some(Ok(())))
    }

    /// The patterns that no test's name matches.
    ///
    /// # Errors
    /// When a pattern is malformed.
    pub fn idle_patterns<'a>(&'a self, tests: &[Arc<Test>]) -> Result<Vec<&'a str>> {
        let mut idle = Vec::new();
        for pattern in &self.patterns {
            let one = std::slice::from_ref(pattern);
            let mut matched = false;
            for test in tests {
                matched |= test.matches(one)?;
            }
            if !matched {
                idle.push(pattern.as_str());
            }
        }
        Ok(idle)
    }
}

/// Chooses among tests.
///
/// # Errors
/// When a pattern is malformed.
pub fn select(tests: &[Arc<Test>], choice: &Choice, target: &Selection<'_>) -> Result<Chosen> {
    let mut chosen = Chosen { tests: Vec::new(), left_out: Vec::new() };
    for test in tests {
        let Some(wanted) = choice.wants(test)? else { continue };
        let named = choice.patterns.iter().any(|p| *p == test.name);
        let everywhere = !test.tagged(PLATFORM_INDEPENDENT) || choice.platform_independent;
        let local = super::external::is_local(target.driver);
        let once = || {
            (!everywhere && !local)
                .then(|| "need not be run on each platform (--run-platform-independent)".to_owned())
        };
        match wanted.err().or_else(|| test.excluded(named, target)).or_else(once) {
            None => chosen.tests.push(test.clone()),
            Some(reason) => chosen.left_out.push((test.name.clone(), reason)),
        }
    }
    Ok(chosen)
}

/// All tests that people may choose from: those of this program and these, in natural order of names.
pub fn with(external: Vec<Arc<Test>>) -> Vec<Arc<Test>> {
    let mut tests: Vec<_> = all().cloned().chain(external).collect();
    tests.sort_by(|a, b| mantle::natural::compare(&a.name, &b.name));
    tests
}

/// All tests of this program, made once, in natural order of names.
fn registry() -> &'static [Arc<Test>] {
    static REGISTRY: OnceLock<Vec<Arc<Test>>> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        let mut tests: Vec<_> = super::tests::SUITES.iter().flat_map(|suite| suite()).map(Arc::new).collect();
        tests.sort_by(|a, b| mantle::natural::compare(&a.name, &b.name));
        tests
    })
}

/// All registered tests in natural order of names, without those for hidden platforms only.
pub fn all() -> impl Iterator<Item = &'static Arc<Test>> {
    let show = mantle::platform::show_hidden();
    let hidden = |t: &Test| {
        !t.platforms.is_empty() && t.platforms.iter().all(|p| Driver::named(p).is_some_and(|d| d.hidden))
    };
    registry().iter().filter(move |t| show || !hidden(t))
}

/// The test of this name.
pub fn named(name: &str) -> Option<&'static Arc<Test>> {
    registry().iter().find(|t| t.name == name)
}

/// `did you mean "…"?`, if a word that names none of these tests is like the name of one.
pub fn did_you_mean(word: &str, tests: &[Arc<Test>]) -> Option<String> {
    if word.contains(['*', '?', '[', '\\']) || tests.iter().any(|t| t.name == word) {
        return None;
    }
    mantle::text::did_you_mean(word, tests.iter().map(|t| t.name.as_ref()))
}

/// What people may want to run, for completions: each test, and `a.b.*` for each beginning that several share.
pub fn names_and_patterns() -> Vec<PossibleValue> {
    let mut tests: Vec<&Test> = all().map(Arc::as_ref).collect();
    tests.sort_by_key(|t| &t.name);
    let mut shared: BTreeMap<&str, usize> = BTreeMap::new();
    for test in &tests {
        for (dot, _) in test.name.match_indices('.') {
            *shared.entry(&test.name[..dot]).or_default() += 1;
        }
    }
    let patterns = shared.into_iter().filter(|(_, tests)| *tests > 1).map(|(beginning, tests)| {
        PossibleValue::new(format!("{beginning}.*")).help(format!("{tests} tests"))
    });
    let names =
        tests.into_iter().map(|t| PossibleValue::new(t.name.to_string()).help(t.description.to_string()));
    patterns.chain(names).collect()
}

/// Names of all platforms that people may choose.
pub fn platforms() -> Vec<&'static str> {
    DRIVERS.iter().filter(|d| !d.hidden).map(|d| d.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantle::platform::distribution::DISTRIBUTIONS;

    #[test]
    fn every_registration_is_sound() {
        for test in registry() {
            assert!(!test.description.is_empty(), "{} has no description", test.name);
            for name in &test.features {
                let known = mantle::platform::image::FEATURES.iter().any(|(known, _)| known == name);
                let odd = PLATFORM_FEATURES.contains(&name.as_ref()) || name == "no-such-feature";
                assert!(known || odd, "{}: {name} is in no table", test.name);
            }
        }
        let distros: Vec<&str> = DISTRIBUTIONS.iter().map(|d| d.name).collect();
        let clouds = ["aws", "azure", "do", "esx", "gce", "openstack", "packet"];
        let known = |p: &Text| clouds.contains(&p.as_ref()) || DRIVERS.iter().any(|d| d.name == *p);
        let mut names = BTreeSet::new();
        for test in all() {
            assert!(names.insert(&test.name), "test {} already registered", test.name);
            assert!(test.name.contains('.') || test.name == "packages", "{} has no namespace", test.name);
            assert!(
                test.platforms.iter().chain(&test.exclude_platforms).all(known),
                "{}: unknown platform",
                test.name
            );
            let mut listed = test.distros.iter().chain(&test.exclude_distros);
            assert!(listed.all(|d| distros.contains(&d.as_ref())), "{}: unknown distribution", test.name);
            let version = |v: &str| Version::parse(v).unwrap_or_else(|e| panic!("{}: {v}: {e}", test.name));
            if let (Some(min), Some(end)) =
                (test.min_version.as_deref().map(version), test.end_version.as_deref().map(version))
            {
                assert!(min < end, "test {} has an invalid version range", test.name);
            }
            let mut natives = BTreeSet::new();
            assert!(test.native.iter().all(|n| natives.insert(n.name)), "{}: native twice", test.name);
            for config in [&test.user_data, &test.user_data_v3].into_iter().flatten() {
                let user_data = config.user_data().subst("$machine0", "10.0.0.2");
                let plain = mantle::conf::Additions::default();
                let versions = match config {
                    // Only for systems that speak version 2.
                    Config::ContainerLinux(_) if test.distros == ["cl"] => &[IgnitionVersion::V2][..],
                    _ => &[IgnitionVersion::V2, IgnitionVersion::V3],
                };
                for version in versions {
                    if let Err(e) =
                        mantle::conf::render(Some(&user_data), *version, "10.0.0.2", "10.0.0.2", &plain)
                    {
                        panic!("{}: {}", test.name, mantle::text::chain(&e));
                    }
                }
            }
            if let Some(v3) = &test.user_data_v3 {
                let feature = v3.feature(IgnitionVersion::V3);
                assert!(!matches!(feature, Some("ign1" | "ign2")), "{}: not Ignition 3", test.name);
            }
        }
    }

    /// A file of this repository.
    fn repository(path: &str) -> std::path::PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
    }

    /// Where a test departs from upstream on purpose: the column, what the catalogue has, and what is here.
    const DEPARTURES: &[(&str, &str, &str, &str)] = &[
        // It is made in the test, which knows the address of the server.
        ("cl.omaha.ping", "userdata", "clc", "-"),
        // The fault of Ignition's that they are left out for is mended.
        ("coreos.ignition.v2_2.security.tls", "platforms", "-do,-packet,-qemu", "-do,-packet"),
        // kola would switch it on after the reboot and prove nothing.
        ("coreos.selinux.enforce", "flags", "-", "no-selinux"),
    ];

    /// Distributions and platforms that upstream does not have: what a test says of them is ours.
    const OURS: [&str; 4] = ["debian", "flatcar", "nspawn", "scripted"];

    /// As the catalogue writes what is allowed and what is refused.
    fn bounds(allowed: &[Text], refused: &[Text]) -> String {
        let known = |list: &[Text]| {
            let mut names: Vec<String> =
                list.iter().filter(|n| !OURS.contains(&n.as_ref())).map(|n| n.to_string()).collect();
            names.sort();
            names
        };
        match (known(allowed), known(refused)) {
            (a, r) if a.is_empty() && r.is_empty() => "all".into(),
            (a, r) => {
                a.into_iter().chain(r.into_iter().map(|n| format!("-{n}"))).collect::<Vec<_>>().join(",")
            }
        }
    }

    fn flags(test: &Test) -> String {
        let named = |flag: &Flag| match flag {
            Flag::NoSshKeyInUserData => "no-key-in-userdata",
            Flag::NoSshKeyInMetadata => "no-key-in-metadata",
            Flag::NoEmergencyShellCheck => "emergency",
            Flag::NoEnableSelinux => "no-selinux",
            Flag::RequiresInternetAccess => "internet",
        };
        let mut names: Vec<&str> =
            test.flags.iter().map(named).chain(test.fail_fast.then_some("fail-fast")).collect();
        names.sort_unstable();
        if names.is_empty() { "-".into() } else { names.join(",") }
    }

    fn kind(test: &Test) -> String {
        match &test.user_data {
            None => "-".into(),
            Some(Config::ContainerLinux(_)) => "clc".into(),
            Some(Config::CloudInit(_)) => "cloud-config".into(),
            Some(Config::Script(_)) => "script".into(),
            Some(Config::Butane(_)) => "butane".into(),
            Some(Config::Empty) => "empty".into(),
            Some(Config::Ignition(text)) => {
                let tree: serde_json::Value = serde_json::from_str(text).unwrap();
                match tree["ignition"]["version"].as_str() {
                    Some(version) => format!("ign{}", version.rsplit_once('.').unwrap().0),
                    None => "ign1".into(),
                }
            }
        }
    }

    #[test]
    fn tests_are_bound_as_in_the_catalogue() {
        let text = std::fs::read_to_string(repository("tests/corpora/catalogue.tsv")).unwrap();
        let columns =
            ["distributions", "platforms", "machines", "flags", "from", "before", "natives", "userdata"];
        let major = |version: &Option<Text>| {
            version.as_deref().map_or("-".to_owned(), |v| v.split('.').next().unwrap().to_owned())
        };
        let mut names = BTreeSet::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let fields: Vec<&str> = line.split('\t').collect();
            let (name, wanted) = fields.split_first().unwrap();
            assert!(names.insert(*name), "{name} is there twice");
            let test = named(name).unwrap_or_else(|| panic!("there is no test {name}"));
            let got = [
                bounds(&test.distros, &test.exclude_distros),
                bounds(&test.platforms, &test.exclude_platforms),
                test.cluster_size.to_string(),
                flags(test),
                major(&test.min_version),
                major(&test.end_version),
                test.native.len().to_string(),
                kind(test),
            ];
            for ((column, got), wanted) in columns.iter().zip(&got).zip(wanted) {
                let departure = DEPARTURES.iter().find(|d| (d.0, d.1) == (name, column));
                let wanted = match departure {
                    Some((_, _, upstream, here)) => {
                        assert_eq!(upstream, wanted, "{name}: the departure is from something else");
                        here
                    }
                    None => wanted,
                };
                assert_eq!(got, wanted, "{name}: {column}");
            }
        }
        assert_eq!(names.len(), 105);
    }

    /// The features of each guest that tests/guest/build.sh makes: what all have, and what a variant adds.
    fn features_of_the_guests() -> Vec<Vec<String>> {
        let script = std::fs::read_to_string(repository("tests/guest/build.sh")).unwrap();
        let lists = |mark: &'static str| {
            let lists = script.lines().filter_map(move |line| line.split_once(mark)?.1.split_once(')'));
            lists.map(|(names, _)| names.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        };
        let all = lists("features=(").next().unwrap();
        lists("features+=(").map(|variant| [all.clone(), variant].concat()).collect()
    }

    /// Why the test cannot run on any guest on any platform of this machine, if it cannot.
    fn never_run(test: &Test, guests: &[Vec<String>]) -> Option<String> {
        let reasons: Option<Vec<String>> = guests.iter().map(|features| cannot_run(test, features)).collect();
        reasons?.into_iter().min_by_key(String::len)
    }

    /// Why the test cannot run on a guest with these features on any platform of this machine, if it cannot.
    fn cannot_run(test: &Test, features: &[String]) -> Option<String> {
        let local = ["nspawn", "qemu"].map(|name| Driver::named(name).unwrap());
        let reasons = local.map(|driver| {
            let target = Selection {
                driver,
                distribution: Distribution::named("debian").unwrap(),
                architecture: "amd64",
                version: None,
                features,
                lacking: &[],
            };
            let missing = test.missing_features(&target);
            let missing = (!missing.is_empty()).then(|| format!("needs {}", missing.join(", ")));
            test.excluded(true, &target).or(missing)
        });
        // The platform that does run it decides.
        let [first, second] = reasons;
        second.filter(|_| first.is_some())
    }

    /// `UPDATE_SNAPSHOTS=1` writes the page anew.
    #[test]
    fn tests_that_never_ran_are_on_their_page() {
        let guests = features_of_the_guests();
        for known in ["docker", "selinux", "update-engine"] {
            let with =
                guests.iter().filter(|g| g.iter().any(|f| f == known) && g.iter().any(|f| f == "ign3"));
            assert_eq!(with.count(), 1, "{known}: {guests:?}");
        }
        let mut page = String::from(
            "# Tests that have never run on their real image\n\n\
             Made from what each test says of itself: no image that we can have or build is one of these. They are \
             written by upstream's\nbehaviour, and their userdata, commands and parsers have unit tests. Every other \
             test runs on one of our own guests.\n\n| test | why |\n|---|---|\n",
        );
        for test in registry().iter().filter(|t| !t.name.starts_with("selftest.")) {
            if let Some(reason) = never_run(test, &guests) {
                page.push_str(&format!("| `{}` | {reason} |\n", test.name));
            }
        }
        let path = repository("applets/kola/tests/NEVER_RUN.md");
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            std::fs::write(&path, &page).unwrap();
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(there == page, "{} is not up to date; UPDATE_SNAPSHOTS=1 renews it", path.display());
    }

    #[test]
    fn one_description_becomes_what_the_guest_reads() {
        let named = |name| Distribution::named(name).unwrap();
        let test = |config| Test::new("a.b", async |_| Ok(())).user_data(config);
        let feature = |test: &Test, distro: &Distribution| {
            test.config(distro).and_then(|config| config.feature(distro.ignition))
        };
        let v2 =
            r#"{"ignition":{"version":"2.0.0"},"systemd":{"units":[{"name":"a.service","enable":true}]}}"#;
        let odd = r#"{"ignition":{"version":"2.0.0"},"unheard":{"of":1}}"#;
        let table = [
            (Config::Ignition(v2.into()), "ign2", "ign3"),
            (Config::Ignition(odd.into()), "ign2", "ign2"),
            (Config::Ignition(r#"{"ignitionVersion":1}"#.into()), "ign1", "ign1"),
            (Config::ContainerLinux("docker: {}".into()), "ign2", "ign3"),
            (Config::CloudInit("#cloud-config".into()), "cloudinit", "cloudinit"),
            (Config::Script("#!/bin/sh".into()), "cloudinit", "cloudinit"),
        ];
        for (config, for_cl, for_debian) in table {
            let test = test(config);
            assert_eq!(feature(&test, named("cl")), Some(for_cl));
            assert_eq!(feature(&test, named("debian")), Some(for_debian));
        }
        let test = test(Config::Ignition(v2.into()));
        let Some(Config::Ignition(text)) = test.config(named("debian")).map(Cow::into_owned) else {
            panic!()
        };
        assert!(text.contains("3.0.0") && text.contains("enabled"), "{text}");
        let own = test.ignition_v3(r#"{"ignition":{"version":"3.1.0"}}"#);
        assert!(
            matches!(own.config(named("debian")).as_deref(), Some(Config::Ignition(t)) if t.contains("3.1.0"))
        );
    }

    #[test]
    fn versions_bind_unless_the_test_is_named() {
        let test = Test::new("a.b", async |_| Ok(())).min_version("2.0.0").end_version("3.0.0");
        let mut target = Selection {
            driver: &DRIVERS[0],
            distribution: Distribution::named("cl").unwrap(),
            architecture: "amd64",
            version: Some(Version::new(1, 9, 0)),
            features: &[],
            lacking: &[],
        };
        assert!(test.excluded(false, &target).unwrap().contains("2.0.0 or later"));
        assert_eq!(test.excluded(true, &target), None);
        target.version = Some(Version::new(3, 0, 0));
        assert!(test.excluded(false, &target).is_some());
        target.distribution = Distribution::named("debian").unwrap();
        assert_eq!(test.excluded(false, &target), None);
        target.distribution = Distribution::named("cl").unwrap();
        target.version = None;
        assert_eq!(test.excluded(false, &target), None);
    }

    #[test]
    fn a_test_can_be_made_from_what_was_read() {
        let name = format!("ext.{}", std::process::id());
        let platforms: Vec<String> = vec!["qemu".to_owned()];
        let test = Arc::new(Test::new(name.clone(), async |_| Ok(())).platforms(platforms).cluster_size(0));
        let shared = test.clone();
        assert_eq!((shared.name.as_ref(), &shared.platforms[..]), (name.as_str(), &[Text::from("qemu")][..]));
        assert!(Arc::ptr_eq(&shared.body, &test.body));
    }

    #[test]
    fn missing_features_say_who_lacks_them() {
        let test = Test::new("a.b", async |_| Ok(()))
            .features(["docker", "kernel", "nfs"])
            .ignition(r#"{"ignitionVersion": 1}"#);
        let features = ["docker".to_owned()];
        let target = Selection {
            driver: &DRIVERS[0],
            distribution: Distribution::named("debian").unwrap(),
            architecture: "amd64",
            version: None,
            features: &features,
            lacking: &[("kernel", "containers share the host's")],
        };
        let missing = test.missing_features(&target).join("; ");
        assert_eq!(
            missing,
            "ign1 (the image does not have it); kernel (containers share the host's); nfs (the image does not have it)"
        );
    }
}
