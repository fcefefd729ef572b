use std::collections::{BTreeMap, HashMap};

use super::*;

/// Numbers that only depend on where they begin: SplitMix64.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn shuffle<T>(&mut self, all: &mut [T]) {
        for at in (1..all.len()).rev() {
            let other = usize::try_from(self.below(at as u64 + 1)).unwrap();
            all.swap(at, other);
        }
    }
}

/// Some names, no two the same, and what is known of how long they take.
fn suite(numbers: &mut Numbers, most: u64) -> (Vec<String>, HashMap<String, Duration>) {
    const WORDS: [&str; 8] = ["coreos", "a1", "a01", "a10", "ünï", "x y", "Z", ""];
    let mut durations = HashMap::new();
    let names: Vec<String> = (0..numbers.below(most))
        .map(|n| {
            let word = |k: u64| WORDS[usize::try_from(k % 8).unwrap()];
            let name = format!("{}.{}.{n}", word(numbers.next()), word(numbers.next()));
            if numbers.below(4) > 0 {
                let milliseconds = 1 << numbers.below(20);
                durations.insert(name.clone(), Duration::from_millis(milliseconds + numbers.below(3)));
            }
            name
        })
        .collect();
    (names, durations)
}

fn named<'a>(
    by: Scheme,
    names: &[&'a str],
    of: u32,
    durations: &HashMap<String, Duration>,
) -> BTreeMap<&'a str, u32> {
    let parts = by.parts(names, of, |name| durations.get(name).copied());
    assert_eq!(parts.len(), names.len());
    names.iter().copied().zip(parts).collect()
}

#[test]
fn every_test_is_in_one_part_whatever_the_order() {
    for seed in 0..60 {
        let mut numbers = Numbers(seed);
        let (names, durations) = suite(&mut numbers, 120);
        let of = u32::try_from(1 + numbers.below(40)).unwrap();
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        for by in Scheme::ALL {
            let first = named(by, &names, of, &durations);
            numbers.shuffle(&mut names);
            assert_eq!(named(by, &names, of, &durations), first, "seed {seed}, {by}: the order counts");
            let mut runs: BTreeMap<&str, u32> = BTreeMap::new();
            for part in 1..=of {
                let has = Partition { by, part, of }.has(&names, |name| durations.get(name).copied());
                for (name, _) in names.iter().zip(has).filter(|(_, has)| *has) {
                    *runs.entry(name).or_default() += 1;
                }
            }
            assert!(runs.len() == names.len() && runs.values().all(|n| *n == 1), "seed {seed}, {by}:{of}");
        }
    }
}

#[test]
fn each_scheme_keeps_its_word() {
    for seed in 0..60 {
        let mut numbers = Numbers(seed);
        let (names, durations) = suite(&mut numbers, 200);
        let of = u32::try_from(1 + numbers.below(30)).unwrap();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let sizes = |by: Scheme| {
            let mut sizes = vec![0; of as usize];
            named(by, &names, of, &durations).values().for_each(|part| sizes[*part as usize - 1] += 1);
            sizes
        };
        for by in [Scheme::Count, Scheme::Slice] {
            let sizes = sizes(by);
            assert!(
                sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1,
                "seed {seed}, {by}: {sizes:?}"
            );
        }
        let mut sorted = names.clone();
        sorted.sort_by(|a, b| crate::natural::compare(a, b).then(a.cmp(b)));
        let slices = Scheme::Slice.parts(&sorted, of, |_| None);
        assert!(slices.is_sorted(), "seed {seed}: {slices:?}");
        // Whoever leaves moves nobody.
        let fewer = &names[..names.len() / 2];
        let (all, some) =
            (named(Scheme::Hash, &names, of, &durations), named(Scheme::Hash, fewer, of, &durations));
        assert!(some.iter().all(|(name, part)| all[name] == *part));
        // Graham: no part has more than the mean and one test.
        let weights = weights(&names, |name| durations.get(name).copied());
        let mut loads = vec![0; of as usize];
        let parts = Scheme::Weighted.parts(&names, of, |name| durations.get(name).copied());
        parts.iter().zip(&weights).for_each(|(part, weight)| loads[*part as usize - 1] += weight);
        let (sum, longest) = (weights.iter().sum::<u64>(), weights.iter().max().copied().unwrap_or(0));
        assert!(*loads.iter().max().unwrap() <= sum / u64::from(of) + longest, "seed {seed}: {loads:?}");
    }
}

#[test]
fn tests_without_a_duration_count_as_the_median() {
    let known = |name: &str| match name {
        "a" => Some(Duration::from_secs(1)),
        "b" => Some(Duration::from_secs(5)),
        "c" => Some(Duration::from_secs(60)),
        "instant" => Some(Duration::ZERO),
        _ => None,
    };
    assert_eq!(weights(&["new", "a", "b", "c"], known), [5000, 1000, 5000, 60000]);
    assert_eq!(weights(&["new", "newer"], known), [1, 1]);
    assert_eq!(weights(&["instant"], known), [1]);
    // Ties go by name, and to the first of the parts that have least to do.
    assert_eq!(Scheme::Weighted.parts(&["d", "c", "b", "a"], 2, |_| None), [2, 1, 2, 1]);
    assert_eq!(Scheme::Weighted.parts(&["a", "b", "c"], 2, known), [2, 2, 1]);
    assert_eq!(Scheme::Weighted.parts(&["a"], u32::MAX, known), [1]);
    assert!(Scheme::Slice.parts(&[], 3, known).is_empty());
}

#[test]
fn parts_are_read_and_written() {
    for text in ["count:1/1", "hash:2/8", "slice:200/200", "weighted:7/4294967295"] {
        assert_eq!(text.parse::<Partition>().unwrap().to_string(), text);
    }
    assert_eq!("weighted".parse(), Ok(Asked { by: Scheme::Weighted, place: None }));
    assert_eq!("hash".parse::<Partition>(), Err(Malformed::Shape));
    for text in ["hash:0/3", "hash:4/3", "count:1/0"] {
        assert_eq!(text.parse::<Asked>(), Err(Malformed::Place), "{text}");
    }
    for text in [
        "",
        "2/3",
        "hash:",
        "hash:1",
        "hash:+1/3",
        "hash:1/ 3",
        "hash:1/3/4",
        "Hash:1/3",
        "hash:1/4294967296",
    ] {
        assert_eq!(text.parse::<Asked>(), Err(Malformed::Shape), "{text}");
    }
    let json = serde_json::to_string(&"hash:2/8".parse::<Partition>().unwrap()).unwrap();
    assert_eq!(json, r#"{"by":"hash","part":2,"of":8}"#);
    assert_eq!(serde_json::from_str::<Partition>(&json).unwrap().to_string(), "hash:2/8");
}

#[test]
fn the_hash_is_fnv1() {
    // The first values of the published test vectors.
    assert_eq!(
        [fnv1(b""), fnv1(b"a"), fnv1(b"foobar")],
        [0xcbf2_9ce4_8422_2325, 0xaf63_bd4c_8601_b7be, 0x340d_8765_a4dd_a9c2]
    );
}

fn asked(environment: &[(&str, &str)]) -> Result<(u32, u32, String), String> {
    let get =
        |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    found(&get).map(|found| (found.part, found.of, found.source)).map_err(|e| e.to_string())
}

#[test]
fn engines_say_which_part_it_is() {
    let part = |environment: &[(&str, &str)]| asked(environment).map(|(part, of, _)| (part, of));
    assert_eq!(part(&[("JOB_COMPLETION_INDEX", "0"), ("MANTLE_SHARDS", "3")]), Ok((1, 3)));
    assert_eq!(part(&[("CI_NODE_INDEX", "2"), ("CI_NODE_TOTAL", "2")]), Ok((2, 2)));
    assert_eq!(part(&[("BUILDKITE_PARALLEL_JOB", "4"), ("BUILDKITE_PARALLEL_JOB_COUNT", "5")]), Ok((5, 5)));
    assert_eq!(part(&[("CIRCLE_NODE_INDEX", "0"), ("CIRCLE_NODE_TOTAL", "1")]), Ok((1, 1)));
    let slurm = |id, min, max, step, count| {
        let names = ["ID", "MIN", "MAX", "STEP", "COUNT"].map(|n| format!("SLURM_ARRAY_TASK_{n}"));
        let all: Vec<_> = names.iter().map(String::as_str).zip([id, min, max, step, count]).collect();
        asked(&all)
    };
    let (part_, of, source) = slurm("3", "1", "4", "1", "4").unwrap();
    assert_eq!((part_, of), (3, 4));
    assert!(source.starts_with("Slurm (SLURM_ARRAY_TASK_ID=3, SLURM_ARRAY_TASK_MIN=1, "), "{source}");
    assert_eq!(slurm("6", "0", "6", "2", "4").map(|f| (f.0, f.1)), Ok((4, 4)));
    assert_eq!(slurm("5", "0", "7", "5", "2").map(|f| (f.0, f.1)), Ok((2, 2)));
    assert_eq!(slurm("5", "5", "5", "", "").map(|f| (f.0, f.1)), Ok((1, 1)));
    for (id, min, max, step, count, told) in [
        ("5", "1", "5", "1", "3", "gaps"),
        ("3", "0", "6", "2", "4", "gaps"),
        ("9", "1", "5", "1", "5", "no such part of 5"),
        ("0", "1", "5", "1", "5", "no such part of 5"),
        ("1", "5", "1", "1", "", "no such part of 0"),
        ("one", "1", "5", "1", "5", "SLURM_ARRAY_TASK_ID is \"one\""),
        ("1", "", "5", "1", "5", "SLURM_ARRAY_TASK_MIN is not set"),
    ] {
        let error = slurm(id, min, max, step, count).unwrap_err();
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn an_environment_that_cannot_be_is_named() {
    for (environment, told) in [
        (&[][..], "nothing says which part"),
        (&[("MANTLE_SHARDS", "3")], "nothing says which part"),
        // GitLab sets the total for every job.
        (&[("CI_NODE_TOTAL", "1")], "nothing says which part"),
        (&[("JOB_COMPLETION_INDEX", "0")], "MANTLE_SHARDS is not set"),
        (
            &[("JOB_COMPLETION_INDEX", "3"), ("MANTLE_SHARDS", "3")],
            "MANTLE_SHARDS=3): there is no such part of 3",
        ),
        (&[("CI_NODE_INDEX", "0"), ("CI_NODE_TOTAL", "3")], "no such part of 3"),
        (&[("CI_NODE_INDEX", "1"), ("CI_NODE_TOTAL", "-3")], "CI_NODE_TOTAL is \"-3\""),
        (
            &[("CI_NODE_INDEX", "1"), ("CI_NODE_TOTAL", "3"), ("MANTLE_SHARDS", "4")],
            "MANTLE_SHARDS=4 contradict",
        ),
        (
            &[
                ("CI_NODE_INDEX", "1"),
                ("CI_NODE_TOTAL", "3"),
                ("BUILDKITE_PARALLEL_JOB", "1"),
                ("BUILDKITE_PARALLEL_JOB_COUNT", "3"),
            ],
            "CI_NODE_TOTAL=3) and Buildkite (BUILDKITE_PARALLEL_JOB=1",
        ),
    ] {
        let error = asked(environment).unwrap_err();
        assert!(error.contains(told), "{error}");
    }
}

/// As many tests as there may be one day, which take as long as those of our catalogue did.
#[test]
fn parts_by_duration_take_about_the_same_time() {
    let measured = include_str!("../../../benches/durations.json");
    let measured: BTreeMap<String, BTreeMap<String, f64>> = serde_json::from_str(measured).unwrap();
    for (platform, times) in measured {
        let times: Vec<f64> = times.into_values().collect();
        let mut numbers = Numbers(1);
        let names: Vec<String> = (0..2000).map(|n| format!("test.{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut durations = HashMap::new();
        for name in &names {
            let time = times[usize::try_from(numbers.below(times.len() as u64)).unwrap()];
            let share = 0.8 + numbers.below(401) as f64 / 1000.0;
            durations.insert(*name, Duration::from_secs_f64(time * share));
        }
        let (sum, longest) = (durations.values().sum::<Duration>(), *durations.values().max().unwrap());
        assert!(sum / 200 >= longest, "{platform}: one test is longer than a part");
        for of in [1, 2, 3, 7, 10, 32, 50, 99, 150, 200] {
            let mut loads = vec![Duration::ZERO; of as usize];
            let parts = Scheme::Weighted.parts(&names, of, |name| durations.get(name).copied());
            names.iter().zip(parts).for_each(|(name, part)| loads[part as usize - 1] += durations[name]);
            let ratio = loads.iter().max().unwrap().as_secs_f64() / (sum / of).as_secs_f64();
            assert!(ratio <= 1.1, "{platform}, {of} parts: the longest takes {ratio:.3} of the mean");
        }
    }
}
