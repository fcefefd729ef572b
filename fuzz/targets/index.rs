//! Index pages of objects with any names: every link leads to the name it shows, and no name is more than text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mantle::bucket::{IndexOptions, pages_of};
use mantle::cloud::google::storage::{Location, Object};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let object = |name: &str| -> Object {
        let description = serde_json::json!({ "name": name, "size": "1", "generation": "1" });
        serde_json::from_value(description).expect("a name, a size and a generation are enough")
    };
    let options = IndexOptions {
        title: None,
        recursive: true,
        delete: false,
        directories: false,
        index_html: true,
        force: false,
        dry_run: false,
    };
    let at = Location { bucket: "bucket".into(), name: String::new() };
    for (name, page) in pages_of(&at, text.split('\0').filter(|n| !n.is_empty()).map(object), &options) {
        let folder = name.strip_suffix("index.html").expect("only such pages were asked for");
        let page = std::str::from_utf8(&page).expect("names are text");
        let mut marks = 0;
        for link in page.split("<a href=\"").skip(1) {
            let (href, rest) = link.split_once("\">").expect("a link ends");
            let (shown, _) = rest.split_once("</a> <br/>\n").expect("its text ends");
            assert!(!shown.contains(['<', '>', '"', '\'']), "{shown}");
            let base = url::Url::parse("https://host/bucket/").expect("a base");
            let to = base.join(href).expect("a relative reference");
            assert_eq!(to.host_str(), Some("host"), "{href}");
            assert!(to.query().is_none() && to.fragment().is_none(), "{href}");
            marks += 1;
        }
        assert_eq!(page.matches('<').count(), 11 + marks * 3, "{folder:?}: {page}");
    }
});
