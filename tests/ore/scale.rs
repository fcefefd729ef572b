//! Trees of many objects: listings in many pages.

use std::collections::BTreeSet;

use super::{object, runtime, storage};
use crate::support::gcs::Gcs;

/// Names of trees of different shapes.
fn shapes() -> Vec<Vec<String>> {
    let flat = (0..300).map(|n| format!("p/object{n}")).collect();
    let wide = (0..60).flat_map(|d| (0..5).map(move |n| format!("p/d{d:03}/o{n}"))).collect();
    let deep = (0..12).flat_map(|d| (0..25).map(move |n| format!("p/{}o{n}", "sub/".repeat(d)))).collect();
    let skewed = (0..240)
        .map(|n| format!("p/boards/amd64-usr/{}/f{n}", n / 40))
        .chain((0..40).map(|n| format!("p/boards/arm64-usr/{n}/x")))
        .chain(["p/a".into(), "p/zz".into(), "p/ü".into(), "p//".into(), "p/boards".into()])
        .collect();
    vec![flat, wide, deep, skewed, vec![]]
}

#[test]
fn every_object_is_listed_once_however_many_pages_there_are() {
    for mut names in shapes() {
        names.sort();
        for page in [3, 20, 1000] {
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
