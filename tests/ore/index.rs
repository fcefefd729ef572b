//! `ore gcloud index`: which pages there are, and what is in them.

use super::Bench;
use crate::support::gcs::Fault;

const TREE: [&str; 5] = ["p/a/x", "p/a/deep/y", "p/b/z2", "p/b/z10", "top"];

#[test]
fn one_folder_gets_one_page() {
    let bench = Bench::with(&TREE);
    assert_eq!(bench.changes(&["index", "gs://b/p"]), ["insert b/p/index.html"]);
    let page = bench.text("b", "p/index.html");
    assert!(page.contains("<title>b/p/</title>") && page.contains("<h1>b/p/</h1>"), "{page}");
    assert!(page.contains("[dir] <a href=\"a/\">a</a>") && page.contains("[dir] <a href=\"b/\">b</a>"));
    assert!(!page.contains("[file]"), "{page}");
    let stored = &bench.gcs.objects("b")["p/index.html"];
    assert_eq!(stored.attributes["contentType"], "text/html");
    assert_eq!(stored.attributes["cacheControl"], "public, max-age=60");
    // once more: nothing to do
    assert_eq!(bench.changes(&["index", "gs://b/p"]), [""; 0]);
    assert_eq!(bench.changes(&["index", "-f", "gs://b/p"]), ["insert b/p/index.html"]);
}

#[test]
fn all_folders_get_all_pages() {
    let bench = Bench::with(&TREE);
    bench.gcloud(&["index", "-r", "-D", "-T", "Our <files>", "gs://b"]).expect(0);
    assert_eq!(
        bench.gcs.names("b"),
        [
            "index.html",
            "p",
            "p/",
            "p/a",
            "p/a/",
            "p/a/deep",
            "p/a/deep/",
            "p/a/deep/index.html",
            "p/a/deep/y",
            "p/a/index.html",
            "p/a/x",
            "p/b",
            "p/b/",
            "p/b/index.html",
            "p/b/z10",
            "p/b/z2",
            "p/index.html",
            "top",
        ]
    );
    assert_eq!(bench.text("b", "p/a/"), bench.text("b", "p/a/index.html"));
    assert!(bench.text("b", "p/a/deep").contains("content=\"0;url=deep/\""));
    let page = bench.text("b", "p/b/");
    assert!(page.contains("<title>Our &lt;files&gt;/p/b/</title>"), "{page}");
    assert!(page.find("z2").unwrap() < page.find("z10").unwrap(), "natural order: {page}");
    let page = bench.text("b", "index.html");
    assert!(page.contains("href=\"top\"") && page.contains("href=\"p/\""), "{page}");
    assert!(!page.contains("index.html"), "pages are not listed: {page}");
    assert_eq!(bench.changes(&["index", "-r", "-D", "-T", "Our <files>", "gs://b"]), [""; 0]);
    // without -D nothing goes unless that is asked for
    assert_eq!(bench.changes(&["index", "-r", "-T", "Our <files>", "gs://b"]), [""; 0]);
    let gone = bench.changes(&["index", "-r", "-T", "Our <files>", "--delete", "gs://b/p/a"]);
    assert_eq!(gone, ["delete b/p/a", "delete b/p/a/", "delete b/p/a/deep", "delete b/p/a/deep/"]);
}

#[test]
fn pages_of_empty_folders_go_if_asked() {
    let bench = Bench::with(&["p/full/x"]);
    for name in ["p/old", "p/old/", "p/old/index.html", "p/gone", "p/gone/"] {
        bench.gcs.put("b", name, b"old page", "text/html");
    }
    bench.gcloud(&["index", "-r", "-D", "gs://b/p"]).expect(0);
    assert!(bench.gcs.names("b").contains(&"p/old/index.html".into()));
    let page = bench.text("b", "p/");
    assert!(page.contains("\"full/\"") && !page.contains("old") && !page.contains("gone"), "{page}");
    let outcome = bench.gcloud(&["index", "-r", "-D", "--delete", "-n", "gs://b/p"]).expect(0);
    let would: Vec<_> = outcome.stderr.lines().filter_map(|l| l.split_once("Would delete ")).collect();
    assert_eq!(would.len(), 5, "{}", outcome.stderr);
    let gone = bench.changes(&["index", "-r", "-D", "--delete", "gs://b/p"]);
    assert_eq!(
        gone,
        [
            "delete b/p/gone",
            "delete b/p/gone/",
            "delete b/p/old",
            "delete b/p/old/",
            "delete b/p/old/index.html",
        ]
    );
}

#[test]
fn without_recursion_folders_further_down_count_as_filled() {
    let bench = Bench::with(&["p/a/index.html", "p/x"]);
    let changes = bench.changes(&["index", "-D", "--delete", "gs://b/p"]);
    assert_eq!(changes, ["insert b/p", "insert b/p/", "insert b/p/index.html"]);
    assert!(bench.text("b", "p/").contains("href=\"a/\""));
}

#[test]
fn an_object_named_as_the_prefix_is_not_taken_for_its_redirect_without_reason() {
    let bench = Bench::with(&["readme", "p/x"]);
    let outcome = bench.gcloud(&["index", "-r", "-D", "--delete", "gs://b/readme"]).expect(0);
    assert!(outcome.stderr.contains("there is nothing in gs://b/readme/"), "{}", outcome.stderr);
    assert_eq!(bench.text("b", "readme"), "readme");
}

/// Upstream wrote `href="#ZgotmplZ"` for the first, and left `?` and `#` as they are.
#[test]
fn every_name_has_a_live_link() {
    let names = ["docker:17.03.torcx.tgz", "a?b", "a#b", "100%25", "ü <&>\"'", "1+2", "dir:1/x"];
    let bench = Bench::with(&names);
    bench.gcloud(&["index", "-r", "-D", "gs://b"]).expect(0);
    let page = bench.text("b", "index.html");
    assert!(!page.contains("ZgotmplZ"));
    let base = reqwest::Url::parse("http://host/b/").unwrap();
    let links: Vec<String> =
        page.split("href=\"").skip(1).map(|p| p.split('"').next().unwrap().into()).collect();
    let mut found: Vec<String> = links
        .iter()
        .map(|link| {
            let url = base.join(link).unwrap();
            assert_eq!((url.host_str(), url.query(), url.fragment()), (Some("host"), None, None), "{link}");
            let name = url.path().strip_prefix("/b/").unwrap().replace('+', "%2B");
            form_urlencoded::parse(name.as_bytes()).next().unwrap().0.into_owned()
        })
        .collect();
    found.sort();
    let mut expected: Vec<_> = names.map(|n| if n == "dir:1/x" { "dir:1/" } else { n }).to_vec();
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert!(links.contains(&"./docker%3a17.03.torcx.tgz".to_owned()), "{links:?}");
}

/// Upstream never repaired a page that was there with another type.
#[test]
fn the_type_of_a_page_is_repaired_without_sending_it_again() {
    let bench = Bench::with(&["p/x"]);
    bench.gcloud(&["index", "gs://b/p"]).expect(0);
    bench.gcs.change("b", "p/index.html", |o| {
        o.attributes.insert("contentType".into(), "application/octet-stream".into());
        o.attributes.remove("cacheControl");
    });
    assert_eq!(bench.changes(&["index", "gs://b/p"]), ["patch b/p/index.html"]);
    let stored = &bench.gcs.objects("b")["p/index.html"];
    assert_eq!(stored.attributes["contentType"], "text/html");
    assert_eq!(stored.attributes["cacheControl"], "public, max-age=60");
}

#[test]
fn a_change_behind_our_back_is_not_overwritten() {
    let bench = Bench::with(&["p/x"]);
    bench.gcs.judge(|r, _| if r.kind() == "insert" { Fault::Overtake } else { Fault::None });
    let outcome = bench.gcloud(&["index", "gs://b/p"]).expect(1);
    assert!(outcome.stderr.contains("412"), "{}", outcome.stderr);
    assert_eq!(bench.text("b", "p/index.html"), "theirs");
    bench.gcs.judge(|_, _| Fault::None);
    bench.gcloud(&["index", "gs://b/p"]).expect(0);
}

#[test]
fn several_places_in_one_go() {
    let bench = Bench::with(&["p/x", "q/y"]);
    bench.gcloud(&["index", "gs://b/p/", "gs://b/q"]).expect(0);
    assert_eq!(bench.gcs.names("b"), ["p/index.html", "p/x", "q/index.html", "q/y"]);
}

/// Each row of a page: link, text, time and size.
fn rows(page: &str) -> Vec<[&str; 4]> {
    page.lines()
        .filter(|line| line.starts_with("<tr><td>"))
        .map(|row| {
            let part = |before: &str, after: char| {
                row.split_once(before).map_or("", |(_, rest)| rest.split(after).next().unwrap())
            };
            let text = row.split_once("\">").map_or("", |(_, rest)| rest.split("</a>").next().unwrap());
            [part("href=\"", '"'), text, part("datetime=\"", '"'), part(" bytes\">", '<')]
        })
        .collect()
}

#[test]
fn pages_in_detail_have_times_sizes_and_the_folder_above() {
    let bench = Bench::with(&["p/a/x", "p/z10", "p/z2", "p/\u{fc} <1>.img"]);
    bench.gcs.put("b", "p/big", &vec![0; 3 << 19], "application/octet-stream");
    bench.gcs.change("b", "p/z2", |stored| stored.generation = 1_600_000_000_000_000);
    let args = ["index", "-r", "-D", "--html-style=details", "gs://b"];
    bench.gcloud(&args).expect(0);
    let page = bench.text("b", "p/");
    assert_eq!(page, bench.text("b", "p/index.html"));
    let rows = rows(&page);
    let names: Vec<_> = rows.iter().map(|row| (row[0], row[1])).collect();
    assert_eq!(
        names,
        [
            ("../", "../"),
            ("a/", "a/"),
            ("big", "big"),
            ("z2", "z2"),
            ("z10", "z10"),
            ("%c3%bc%20%3c1%3e.img", "&#252; &lt;1&gt;.img"),
        ]
    );
    assert_eq!(rows[2][3], "1.50 MiB");
    assert_eq!((rows[3][2], rows[3][3]), ("2020-09-13T12:26:40Z", "4 B"));
    assert!(!bench.text("b", "index.html").contains("../"), "above the top there is nothing");
    assert!(bench.text("b", "p/a").contains("content=\"0; url=a/\""), "{}", bench.text("b", "p/a"));
    // Times are those of the content: pages do not change by themselves, nor by another type of what they list.
    assert_eq!(bench.changes(&args), [""; 0]);
    bench.gcs.change("b", "p/z2", |stored| stored.metageneration += 1);
    assert_eq!(bench.changes(&args), [""; 0]);
    // The other style replaces them, and is as ever.
    assert_eq!(bench.changes(&["index", "-r", "-D", "gs://b"]).len(), 7);
    assert!(bench.text("b", "p/a/").starts_with("<html>\n    <head>\n\t<title>b/p/a/</title>"));
}
