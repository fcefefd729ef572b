//! Trees of many objects: listings in many pages, and a server for `benches/index.sh`.

use std::collections::BTreeSet;

use super::{object, runtime, storage};
use crate::support::gcs::Gcs;

/// Names of trees of different shapes.
fn shapes() -> Vec<Vec<String>> {
    let flat = (0..700).map(|n| format!("p/object{n}")).collect();
    let wide = (0..100).flat_map(|d| (0..7).map(move |n| format!("p/d{d:03}/o{n}"))).collect();
    let deep = (0..12).flat_map(|d| (0..60).map(move |n| format!("p/{}o{n}", "sub/".repeat(d)))).collect();
    let skewed = (0..600)
        .map(|n| format!("p/boards/amd64-usr/{}/f{n}", n / 100))
        .chain((0..60).map(|n| format!("p/boards/arm64-usr/{n}/x")))
        .chain(["p/a".into(), "p/zz".into(), "p/ü".into(), "p//".into(), "p/boards".into()])
        .collect();
    vec![flat, wide, deep, skewed, vec![]]
}

#[test]
fn every_object_is_listed_once_however_many_pages_there_are() {
    for mut names in shapes() {
        names.sort();
        for page in [1, 7, 50, 1000] {
            if page == 1 && names.len() > 700 {
                continue; // takes long and shows nothing more
            }
            let gcs = Gcs::new();
            names.iter().for_each(|n| gcs.put("b", n, b"", "text/plain"));
            for outside in ["o/x", "p", "p0", "q"] {
                gcs.put("b", outside, b"", "text/plain");
            }
            gcs.set_page(page);
            let storage = storage(gcs.address);
            let list = |recursive| {
                let (objects, prefixes) =
                    runtime().block_on(storage.list(&object("b", "p/"), recursive)).unwrap();
                (objects.into_iter().map(|o| o.name).collect::<Vec<_>>(), prefixes)
            };
            assert_eq!(list(true), (names.clone(), vec![]), "pages of {page}");
            let log = gcs.take_log();
            let items: usize = names.len();
            let most = 2 + 10 * items.div_ceil(page);
            assert!(log.len() <= most, "{} requests for {items} objects in pages of {page}", log.len());
            let (mut files, mut folders) = (Vec::new(), BTreeSet::new());
            for name in &names {
                match name["p/".len()..].split_once('/') {
                    Some((folder, _)) => drop(folders.insert(format!("p/{folder}/"))),
                    None => files.push(name.clone()),
                }
            }
            assert_eq!(list(false), (files, folders.into_iter().collect()), "pages of {page}");
        }
    }
}

#[test]
fn folders_are_listed_side_by_side() {
    let gcs = Gcs::new();
    for name in (0..100).flat_map(|d| (0..100).map(move |n| format!("p/d{d:03}/o{n}"))) {
        gcs.put("b", &name, b"", "text/plain");
    }
    // When a request is answered, how many others have come that are not answered yet?
    gcs.set_latency(std::time::Duration::from_millis(30));
    let storage = storage(gcs.address);
    let (objects, _) = runtime().block_on(storage.list(&object("b", "p/"), true)).unwrap();
    assert_eq!(objects.len(), 10_000);
    let log = gcs.take_log();
    let tokens = log.iter().filter(|r| r.query.contains_key("pageToken")).count();
    assert_eq!(tokens, 0, "no page had to wait for the one before it");
    assert!(log.len() < 20, "{}", log.len());
}

/// Serves a tree for `benches/index.sh`, which ends this process; does nothing otherwise.
#[test]
fn serve() {
    let Ok(tree) = std::env::var("MANTLE_BENCH_TREE") else { return };
    let numbers: Vec<u64> = tree.split(' ').map(|n| n.parse().unwrap()).collect();
    let [port, folders, objects, latency] = numbers[..] else { panic!("PORT FOLDERS OBJECTS LATENCY") };
    let gcs = Gcs::listen(&format!("127.0.0.1:{port}"));
    gcs.forget_log();
    for name in
        (0..folders).flat_map(|d| (0..objects).map(move |n| format!("boards/d{d:04}/object-{n}.bin.bz2")))
    {
        gcs.put("bucket", &name, name.as_bytes(), "application/octet-stream");
    }
    gcs.set_latency(std::time::Duration::from_millis(latency));
    println!("serving on {}", gcs.address);
    loop {
        std::thread::park();
    }
}
