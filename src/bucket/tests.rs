//! Rules about names, and operations that fail together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::listing::{Entry, Listing, parent};
use super::{Error, Summary, pool, several};
use crate::cloud::google::storage;

fn listing(names: &[&str]) -> Listing {
    let mut listing = Listing::default();
    for name in names {
        let attributes = Arc::default();
        listing.insert(
            name,
            Entry { size: 0, generation: 1, metageneration: 1, crc32c: None, time: None, attributes },
        );
    }
    listing
}

#[test]
fn parents() {
    for (name, above) in [
        ("foo/bar/", "foo/"),
        ("foo/bar", "foo/"),
        ("foo", ""),
        ("foo/", ""),
        ("", ""),
        ("/", ""),
        ("a//", "a/"),
    ] {
        assert_eq!(parent(name), above, "{name}");
    }
}

#[test]
fn every_folder_of_every_object_is_known() {
    let listing = listing(&["a/b/c/x", "a/b/y", "z", "page/of/", "//double"]);
    let known: Vec<_> = listing.prefixes("").collect();
    assert_eq!(known, ["", "/", "//", "a/", "a/b/", "a/b/c/", "page/", "page/of/"]);
    assert_eq!(listing.prefixes("a/b/").collect::<Vec<_>>(), ["a/b/", "a/b/c/"]);
    assert_eq!(listing.below("a/b").map(|(n, _)| n).collect::<Vec<_>>(), ["a/b/c/x", "a/b/y"]);
    assert!(Listing::default().prefixes("").next().is_none());
}

#[test]
fn pages_are_told_from_content_by_their_names() {
    let mut listing =
        listing(&["a/b/x", "a", "a/", "a/index.html", "index.html", "a/bindex.html", "c/index.html"]);
    listing.add_prefix("only/listed/");
    for page in [
        "a",
        "a/",
        "a/index.html",
        "a/b",
        "a/b/",
        "a/b/index.html",
        "index.html",
        "only",
        "only/listed/",
        "c",
    ] {
        assert!(listing.is_index(page), "{page}");
    }
    for content in ["a/b/x", "a/bindex.html", "aindex.html", "d", "d/", "d/index.html", "index.htm", "ab"] {
        assert!(!listing.is_index(content), "{content}");
    }
}

fn error(n: usize) -> storage::Error {
    storage::Error::Answer { op: "insert", what: format!("gs://b/{n}"), reason: "odd".into() }
}

#[test]
fn errors_are_told_together() {
    let all = |n| several(&(0..n).map(error).collect::<Vec<_>>());
    assert_eq!(all(1), "storage.objects.insert gs://b/0: unexpected answer: odd");
    assert!(all(2).starts_with("2 operations failed:\n  storage.objects.insert gs://b/0: "));
    assert_eq!(all(10).lines().count(), 11);
    assert!(all(12).ends_with("gs://b/9: unexpected answer: odd\n  and 2 more"), "{}", all(12));
}

#[test]
fn summaries_are_short() {
    let mut summary = Summary { written: 1, copied: 2, deleted: 3, unchanged: 4, left_out: 0 };
    assert_eq!(summary.to_string(), "2 copied, 1 pages written, 3 deleted, 4 unchanged");
    summary.left_out = 5;
    assert!(summary.to_string().ends_with(", 4 unchanged, 5 left out"));
}

#[tokio::test(start_paused = true)]
async fn so_many_run_at_once_and_no_more() {
    let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = (0..500).map(|n| {
        let (running, most) = (&running, &most);
        async move {
            most.fetch_max(running.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
            running.fetch_sub(1, Ordering::Relaxed);
            Ok(n)
        }
    });
    let mut sum = 0;
    pool::run(work, |n| sum += n).await.unwrap();
    assert_eq!((sum, most.into_inner()), (500 * 499 / 2, pool::AT_ONCE));
}

#[tokio::test(start_paused = true)]
async fn after_an_error_nothing_is_begun_and_no_retries_are_waited_for() {
    let begun = AtomicUsize::new(0);
    let work = (0..1000).map(|n| {
        begun.fetch_add(1, Ordering::Relaxed);
        async move {
            match n {
                3 | 5 => Err(error(n)),
                // an answer that is on its way
                7 => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    Err(error(n))
                }
                8 => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    Ok(())
                }
                _ => {
                    tokio::time::sleep(Duration::from_secs(3600)).await;
                    Ok(())
                }
            }
        }
    });
    let started = tokio::time::Instant::now();
    let mut done = 0;
    let Err(Error::Failed(errors)) = pool::run(work, |()| done += 1).await else { panic!("no error") };
    let told: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!((done, begun.into_inner()), (1, pool::AT_ONCE));
    assert!(started.elapsed() < Duration::from_secs(10));
}
