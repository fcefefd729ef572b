//! Names in addresses of stored objects: every command works on exactly what was named, by what the store then has.

use super::Bench;

/// What readers of web URLs cut off, decode or tidy up.
pub const ODD: [&str; 16] = [
    "rel#1", "rel?a=b", "rel%20x", "rel%2Fx", "rel%", "r+l", "r;l", "r&l", "rel ", "rel\r", " rel", "./rel",
    "../rel", "/rel", "a//rel", "ü\\rel",
];

/// What is listed, copied and deleted is what was named; its neighbours stay as they are.
#[test]
fn sync_and_index_work_on_exactly_what_was_named() {
    for odd in ODD {
        let bench = Bench::with(&["rel/keep", "src/new", "keep"]);
        for name in ["old1", "old2", "old3"] {
            bench.put("b", &format!("{odd}/{name}"));
        }
        let (from, to) = ("gs://b/src", format!("gs://b/{odd}"));
        let outcome = bench.gcloud(&["sync", "-r", "--delete", from, &to]).expect(0);
        let shown = format!("{:?} will be deleted", format!("gs://b/{odd}/"));
        assert!(outcome.stderr.contains(&shown), "no {shown} in {}", outcome.stderr);
        let mut names = vec!["keep".into(), "rel/keep".into(), "src/new".into(), format!("{odd}/new")];
        names.sort();
        assert_eq!(bench.gcs.names("b"), names, "{odd:?}");
        // the other way round: copied from there
        bench.gcloud(&["sync", "-r", &to, "gs://c"]).expect(0);
        assert_eq!(bench.gcs.names("c"), ["new"], "{odd:?}");
        bench.gcs.take_log();
        bench.gcloud(&["index", &to]).expect(0);
        names.push(format!("{odd}/index.html"));
        names.sort();
        assert_eq!(bench.gcs.names("b"), names, "{odd:?}");
        assert!(bench.text("b", &format!("{odd}/index.html")).contains("href=\"new\""));
    }
}

#[test]
fn gangue_gets_exactly_what_was_named() {
    for odd in ODD {
        let bench = Bench::with(&["rel", "keep"]);
        bench.put("b", odd);
        bench.env.mantle(&["gangue", "get", "--verify=false", &format!("gs://b/{odd}"), "out"]).expect(0);
        assert_eq!(std::fs::read_to_string(bench.env.home().join("out")).unwrap(), odd);
    }
}

#[test]
fn buckets_are_no_place_for_queries() {
    let bench = Bench::with(&["x"]);
    for bad in ["gs://b#1/x", "gs://b?x/y", "gs://%62/x"] {
        for args in [&["index", bad][..], &["sync", "gs://b", bad], &["sync", bad, "gs://b"]] {
            let outcome = bench.gcloud(args).expect(2);
            assert!(outcome.stderr.contains("URL with a malformed bucket name"), "{}", outcome.stderr);
        }
    }
    assert!(bench.gcs.take_log().is_empty());
}

/// A mistyped source must not empty the destination, however small that is.
#[test]
fn an_empty_source_is_refused() {
    let bench = Bench::with(&["release/1", "only/pages/index.html", "deep/er/x"]);
    for source in ["gs://b/bulids", "gs://b/only/pages", "gs://b/deep"] {
        let r: &[&str] = if source.ends_with("deep") { &[] } else { &["-r"] };
        let sync = |more: &[&str]| {
            bench.gcloud(&[&["sync", "--delete"], r, more, &[source, "gs://b/release"]].concat())
        };
        let outcome = sync(&[]).expect(1);
        assert!(outcome.stderr.contains(&format!("there is nothing in {source}/")), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(if r.is_empty() { "pass -r" } else { "--allow-empty-source" }));
        let outcome = sync(&["-n"]).expect(0);
        for text in ["without a dry run this is refused", "Would delete gs://b/release/1"] {
            assert!(outcome.stderr.contains(text), "{}", outcome.stderr);
        }
        assert!(bench.gcs.take_log().iter().all(|r| !r.changes()));
    }
    let args = ["sync", "-r", "--delete", "--allow-empty-source", "gs://b/bulids", "gs://b/release"];
    assert_eq!(bench.changes(&args), ["delete b/release/1"]);
}

/// Redirects of `rel//` and `rel/index.html/` would be named as pages of `rel/`.
#[test]
fn names_of_pages_that_meet_are_told_apart() {
    let bench = Bench::with(&["rel//img", "rel/a", "rel/index.html/x", "index.html/y"]);
    let args = ["index", "-r", "-D", "--delete", "gs://b"];
    let outcome = bench.gcloud(&args).expect(0);
    for folder in ["rel//", "rel/index.html/", "index.html/"] {
        let text = format!("gs://b/{folder} gets no redirect");
        assert!(outcome.stderr.contains(&text), "no {text} in {}", outcome.stderr);
    }
    for page in ["rel/", "rel/index.html", "index.html"] {
        assert!(bench.text("b", page).contains("<h1>"), "{page}");
    }
    assert_eq!(bench.changes(&args), [""; 0]);
}

#[test]
fn data_under_the_name_of_a_page_stays() {
    let names = ["docs", "docs/", "docs/index.html", "docs/x"];
    let bench = Bench::with(&names);
    for args in [&["index", "-r", "-D", "-f", "gs://b/docs"][..], &["index", "-r", "--delete", "gs://b/docs"]]
    {
        let outcome = bench.gcloud(args).expect(0);
        assert!(
            outcome.stderr.contains("gs://b/docs has the name of a page and is none"),
            "{}",
            outcome.stderr
        );
        for name in names {
            assert_eq!(bench.text("b", name), name);
        }
    }
}
