//! How evenly 2000 tests are shared out, and how long choosing takes: `cargo run --release --example shards`.
//!
//! The durations are those that tests of our catalogue took, in `durations.json`, each up to a fifth longer or shorter.
//! `known` is what the scheme weighted goes by in practice: what each test took another time, and nothing of one in
//! twenty.

#![expect(clippy::print_stdout, reason = "that is what it is for")]
#![expect(clippy::unwrap_used, reason = "our own data")]

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use mantle::harness::partition::Scheme;

const TESTS: u64 = 2000;

/// From -20 to 20: the same for the same number and round.
fn percent(n: u64, round: u64) -> f64 {
    let mixed =
        (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(round.wrapping_mul(0xbf58_476d_1ce4_e5b9));
    ((mixed >> 33) % 41) as f64 - 20.0
}

fn main() {
    let text = include_str!("durations.json");
    let measured: BTreeMap<String, BTreeMap<String, f64>> = serde_json::from_str(text).unwrap();
    for (platform, durations) in &measured {
        let base: Vec<(&String, f64)> = durations.iter().map(|(name, seconds)| (name, *seconds)).collect();
        let took = |n: u64, round: u64| {
            let (_, seconds) = base[usize::try_from(n).unwrap() % base.len()];
            Duration::from_secs_f64(seconds * (1.0 + percent(n, round) / 100.0))
        };
        // Neighbours are alike, as in a catalogue.
        let mut names: Vec<String> =
            (0..TESTS).map(|n| format!("{}.{n}", base[usize::try_from(n).unwrap() % base.len()].0)).collect();
        let now: HashMap<String, Duration> =
            (0..).zip(&names).map(|(n, name)| (name.clone(), took(n, 0))).collect();
        let before: HashMap<String, Duration> = (0..)
            .zip(&names)
            .filter(|(n, _)| n % 20 != 0)
            .map(|(n, name)| (name.clone(), took(n, 1)))
            .collect();
        names.sort();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let sum: f64 = now.values().map(Duration::as_secs_f64).sum();
        let longest = now.values().max().unwrap().as_secs_f64();
        println!("{platform}: {TESTS} tests, {sum:.0} s, the longest {longest:.1} s");
        println!("parts  mean s  max/mean: count   hash  slice  weighted  known   choosing");
        for of in [1, 2, 5, 10, 20, 50, 100, 200] {
            let mean = sum / f64::from(of);
            let ratio = |by: Scheme, durations: &HashMap<String, Duration>| {
                let mut loads = vec![0.0; of as usize];
                for (name, part) in
                    names.iter().zip(by.parts(&names, of, |name| durations.get(name).copied()))
                {
                    loads[part as usize - 1] += now[*name].as_secs_f64();
                }
                loads.into_iter().fold(0.0, f64::max) / mean
            };
            let [count, hash, slice] = [Scheme::Count, Scheme::Hash, Scheme::Slice].map(|by| ratio(by, &now));
            let weighted = ratio(Scheme::Weighted, &now);
            let began = Instant::now();
            let known = ratio(Scheme::Weighted, &before);
            let choosing = began.elapsed().as_secs_f64() * 1000.0;
            println!(
                "{of:>5} {mean:>7.0}            {count:>5.2}  {hash:>5.2}  {slice:>5.2}     {weighted:>5.3}  {known:>5.3}  {choosing:>5.1} ms"
            );
        }
    }
}
