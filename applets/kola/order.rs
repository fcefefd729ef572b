//! How many tests run at once, in which order, and how long they took before.
//!
//! The times of earlier runs are in `mantle/kola-times.json` in the user's state folder (`$XDG_STATE_HOME`, else
//! `~/.local/state`): seconds by platform and test. It only says what to start first; who removes it loses nothing else.
//! A file of the same form that is named in its place also says how tests are shared out among machines.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use color_eyre::Section as _;
use color_eyre::eyre::{Result, WrapErr as _, bail};
use mantle::harness::Summary;
use mantle::platform::qemu;

use super::external::is_local;
use super::options::Setup;
use super::register::Test;

/// The file of the times.
pub const FILE: &str = "kola-times.json";
/// How much memory of the host auto leaves alone, in MiB.
const SPARE_MIB: u64 = 512;
/// What a container takes besides what it shares with others, in MiB: measured as 60 on our guest.
const CONTAINER_MIB: u64 = 256;
/// What QEMU takes besides the memory of its machine, in MiB.
const QEMU_MIB: u64 = 128;
/// Tests at once for each processor where machines are not on this host: they only wait.
const REMOTE: usize = 4;

/// In which order tests are started.
#[derive(clap::Args, Debug, Clone, Default)]
#[group(skip)]
pub struct Options {
    /// Order in which tests are started: longest (first those that took longest in earlier runs), random, or name [default: longest where several run at once, else name]
    #[arg(long, value_name = "ORDER", value_parser = ["longest", "random", "name"])]
    order: Option<String>,
    /// Seed of the order, to repeat it; it is printed
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Durations of earlier runs, in place of this user's own: for --partition weighted, on all machines the same file, and for the order
    #[arg(long, value_name = "FILE")]
    durations: Option<PathBuf>,
}

impl Options {
    /// The seed; chosen now unless it was given.
    pub fn seed(&mut self) -> u64 {
        *self.seed.get_or_insert_with(|| u64::from(uuid::Uuid::new_v4().as_fields().0))
    }

    /// The order, with the times of earlier runs on a platform.
    ///
    /// # Errors
    /// When the file of durations cannot be read.
    pub fn read(&self, platform: &str) -> Result<Order> {
        let file = mantle::folders::state().map(|folder| folder.join(FILE));
        let times = file.as_deref().map(read).unwrap_or_default();
        let given = self.durations.as_deref().map(durations).transpose()?;
        Ok(Order { options: self.clone(), platform: platform.to_owned(), file, times, given })
    }
}

/// Seconds by platform and test.
type Times = BTreeMap<String, BTreeMap<String, f64>>;

/// The durations in a file that was named.
fn durations(file: &Path) -> Result<Times> {
    let advice = "it is a JSON object as kola keeps it in kola-times.json: {\"qemu\": {\"coreos.auth.verify\": 21.5}}, \
                  seconds by platform and test; {} to begin with";
    let text = mantle::input::read(file)
        .wrap_err_with(|| format!("cannot read the durations in {}", file.display()))
        .suggestion(advice)?;
    let times: Times = serde_json::from_slice(&text)
        .wrap_err_with(|| format!("{} holds no durations", file.display()))
        .suggestion(advice)?;
    let mut all = times.iter().flat_map(|(platform, tests)| tests.iter().map(move |test| (platform, test)));
    if let Some((platform, (test, seconds))) =
        all.find(|(_, (_, s))| Duration::try_from_secs_f64(**s).is_err())
    {
        bail!("{}: {test} on {platform} cannot have taken {seconds} s", file.display());
    }
    Ok(times)
}

/// The order of a run's tests.
pub struct Order {
    options: Options,
    platform: String,
    file: Option<PathBuf>,
    times: Times,
    /// What was named to be used in their place.
    given: Option<Times>,
}

impl Order {
    /// Whether the durations were named, rather than this user's own.
    pub fn is_given(&self) -> bool {
        self.given.is_some()
    }

    /// How long a test took before, as far as it is known.
    pub fn duration(&self, test: &Test) -> Option<Duration> {
        let known = self.given.as_ref().unwrap_or(&self.times).get(&self.platform)?;
        let seconds = known.get(test.name.as_ref()).or_else(|| known.get(test.registered_name()))?;
        Duration::try_from_secs_f64(*seconds).ok()
    }

    /// Sorts the tests, of which so many run at once; says how, where names do not say it.
    pub fn sort(&self, tests: &mut [Arc<Test>], parallel: usize) {
        let usual = if parallel > 1 && tests.len() > 1 { "longest" } else { "name" };
        let order = self.options.order.as_deref().unwrap_or(usual);
        tests.sort_by(|a, b| mantle::natural::compare(&a.name, &b.name));
        if order == "name" {
            return;
        }
        let seed = self.options.clone().seed();
        let longest = order == "longest";
        // Who has never been timed may take longest.
        let rank =
            |test: &Test| if longest { self.duration(test).unwrap_or(Duration::MAX) } else { Duration::ZERO };
        tests.sort_by_key(|test| (std::cmp::Reverse(rank(test)), mix(seed, &test.name)));
        let timed = tests.iter().filter(|test| self.duration(test).is_some()).count();
        let how = if longest {
            format!("longest first by earlier runs ({timed} of {} timed)", tests.len())
        } else {
            "random".to_owned()
        };
        mantle::notice!("kola", "order of the tests: {how}; --order {order} --seed {seed} repeats it");
    }

    /// Takes how long the tests of a merged run took in place of what was known, also into a file of its own. Merging the
    /// same again changes nothing.
    ///
    /// # Errors
    /// When that file cannot be written.
    pub fn replace(&mut self, summary: &Summary, copy: &Path) -> std::io::Result<()> {
        let seconds = |lasted: &std::time::Duration| (lasted.as_secs_f64() * 1000.0).round() / 1000.0;
        let merged: BTreeMap<String, f64> =
            summary.times.iter().map(|(name, lasted)| (name.clone(), seconds(lasted))).collect();
        let platform = self.platform.clone();
        write(copy, &Times::from([(platform.clone(), merged.clone())]))?;
        self.times.entry(platform).or_default().extend(merged);
        self.keep();
        Ok(())
    }

    /// Keeps how long the tests took, for later runs.
    pub fn learn(&mut self, summary: &Summary) {
        let known = self.times.entry(self.platform.clone()).or_default();
        for (name, lasted) in &summary.times {
            let now = lasted.as_secs_f64();
            let before = known.get(name).copied().unwrap_or(now);
            // The latest counts half, that one slow run does not stay for long.
            known.insert(name.clone(), ((before + now) * 500.0).round() / 1000.0);
        }
        self.keep();
    }

    fn keep(&self) {
        let Some(file) = &self.file else { return };
        if let Err(e) = write(file, &self.times) {
            mantle::info!("kola", "cannot keep the times of tests in {}: {e}", file.display());
        }
    }
}

fn write(file: &Path, times: &Times) -> std::io::Result<()> {
    std::fs::create_dir_all(file.parent().unwrap_or(file))?;
    let text = serde_json::to_vec_pretty(times).map_err(std::io::Error::other)?;
    mantle::target::replace(file, 0o666, &text)
}

/// What is in the file; nothing if it is not there or not understood.
fn read(file: &Path) -> Times {
    let text = std::fs::read(file).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// A number for a name, another one with each seed.
fn mix(seed: u64, name: &str) -> u64 {
    let mut z = name.bytes().fold(seed ^ 0x9e37_79b9_7f4a_7c15, |z, byte| {
        (z ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// How many tests run at once by themselves: as the processors of this host allow, and, where the machines are on it,
/// its free memory.
pub fn automatic(setup: &Setup) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if !is_local(setup.driver) {
        return cores * REMOTE;
    }
    let asked = setup.matches.try_get_one::<u32>("qemu_memory").ok().flatten().copied();
    let machine = match setup.driver.name {
        "nspawn" => CONTAINER_MIB,
        "scripted" => 1,
        _ => u64::from(asked.unwrap_or(qemu::MEMORY_MIB)) + QEMU_MIB,
    };
    fitting(cores, available_mib(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default()), machine)
}

fn fitting(cores: usize, available: Option<u64>, machine: u64) -> usize {
    let room = available.map_or(u64::MAX, |mib| mib.saturating_sub(SPARE_MIB) / machine.max(1));
    cores.min(usize::try_from(room).unwrap_or(usize::MAX)).max(1)
}

/// `MemAvailable` of proc_meminfo(5), in MiB.
fn available_mib(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_processors_bound_what_runs_at_once() {
        assert_eq!(available_mib("MemTotal: 9 kB\nMemAvailable:    2097152 kB\n"), Some(2048));
        assert_eq!(fitting(8, Some(8192), 1024), 7);
        assert_eq!(fitting(2, Some(8192), 1024), 2);
        assert_eq!(fitting(8, Some(300), 1024), 1);
        assert_eq!(fitting(8, None, 1024), 8);
    }

    fn order(kind: &str, seed: u64) -> Order {
        let times = BTreeMap::from([(
            "qemu".to_owned(),
            BTreeMap::from([("a.1".to_owned(), 5.0), ("a.2".to_owned(), 50.0)]),
        )]);
        Order {
            options: Options { order: Some(kind.to_owned()), seed: Some(seed), durations: None },
            platform: "qemu".to_owned(),
            file: None,
            times,
            given: None,
        }
    }

    fn sorted(order: &Order) -> Vec<String> {
        let mut tests: Vec<_> =
            (0..10).rev().map(|n| Arc::new(Test::new(format!("a.{n}"), async |_| Ok(())))).collect();
        order.sort(&mut tests, 2);
        tests.iter().map(|t| t.name.to_string()).collect()
    }

    #[test]
    fn the_unknown_and_the_longest_begin_and_a_seed_repeats_the_rest() {
        let names = sorted(&order("longest", 1));
        assert_eq!(names[8..], ["a.2", "a.1"]);
        assert_eq!(names, sorted(&order("longest", 1)));
        assert_ne!(names, sorted(&order("longest", 2)));
        assert_ne!(sorted(&order("random", 1)), sorted(&order("random", 2)));
        assert!(sorted(&order("name", 1)).is_sorted());
    }
}
