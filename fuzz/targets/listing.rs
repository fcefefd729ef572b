//! Object descriptions as a storage server might send them, and the pages that would be made of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mantle::bucket::{IndexOptions, pages_of};
use mantle::cloud::google::storage::{Location, Object};

/// A page of a listing, as far as objects go.
#[derive(serde::Deserialize)]
struct Page {
    items: Vec<Object>,
}

fuzz_target!(|data: &[u8]| {
    let page: Result<Page, _> = serde_json::from_slice(data);
    let one = serde_json::from_slice::<Object>(data).into_iter();
    let many = serde_json::from_slice::<Vec<Object>>(data).into_iter().flatten();
    let objects = page.into_iter().flat_map(|page| page.items).chain(one).chain(many);
    let options = IndexOptions {
        title: None,
        recursive: true,
        delete: true,
        directories: true,
        index_html: true,
        force: false,
        dry_run: false,
    };
    let at = Location { bucket: "bucket".into(), name: String::new() };
    let pages = pages_of(&at, objects, &options);
    assert!(pages.iter().all(|(_, content)| content.starts_with(b"<html>")));
});
