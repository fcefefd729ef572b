use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::disk::vhd::MIB;
use crate::http::fake::{Asked, Fake, SaidMore};
use crate::secret::Secret;
use crate::text::chain;

/// Tokens with numbers.
struct Desk(AtomicU32);

#[async_trait]
impl Tokens for Desk {
    async fn token(&self) -> Result<Secret> {
        Ok(format!("token-{}", self.0.load(Ordering::Relaxed)).into())
    }

    async fn refused(&self, _: &Secret, error: &CallError) -> Result<bool> {
        assert_eq!(error.class(), Some(Class::Expired));
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }
}

async fn storage(
    credential: Credential,
    handler: impl FnMut(&Asked) -> SaidMore + Send + 'static,
) -> (Fake, Storage) {
    let fake = Fake::with_headers(handler).await;
    let retry = Retry::scaled(0.001);
    let http = Client::direct(Limits::default(), retry.clone()).unwrap();
    let door = Door { account: "acc".into(), credential };
    let service = Service::new(http, Calls::new("test", retry, CONTROL, DATA), door, xml::refusal);
    let root = Place::new(&fake.url).unwrap().of("acc").unwrap();
    (fake, Storage { service, root })
}

#[tokio::test]
async fn tokens_are_renewed_and_only_sent_by_tls() {
    let desk = Arc::new(Desk(AtomicU32::new(1)));
    let (fake, storage) = storage(Credential::Bearer(desk.clone()), |asked| {
        match asked.headers["authorization"] == "Bearer token-2" {
            true => {
                (200, vec![("x-ms-blob-type", "PageBlob"), ("x-ms-blob-sequence-number", "7")], String::new())
            }
            false => (401, vec![("x-ms-error-code", "InvalidAuthenticationInfo")], String::new()),
        }
    })
    .await;
    let blob = storage.page_blob("vhds", "a b/c.vhd").unwrap();
    let there = blob.properties().await.unwrap().unwrap();
    assert_eq!((there.is_page_blob, there.sequence, there.md5), (true, 7, None));
    assert_eq!(fake.actions(), ["HEAD /acc/vhds/a%20b/c.vhd"; 2]);
    assert_eq!(fake.journal()[1].headers["x-ms-version"], "2020-10-02");
    let place = Place::new("http://127.0.0.1:1").unwrap();
    let error = Storage::new(&place, "acc", Credential::Bearer(desk)).unwrap_err().to_string();
    assert!(error.contains("it is not https"), "{error}");
}

#[tokio::test]
async fn ranges_have_all_pages_and_are_not_believed_when_odd() {
    let page = |ranges: &str, next: &str| {
        format!("\u{feff}<?xml version=\"1.0\"?><PageList>{ranges}<NextMarker>{next}</NextMarker></PageList>")
    };
    let range = |start: u64, end: u64| {
        format!(
            "<PageRange><Start>{start}</Start><End>{end}</End></PageRange><ClearRange><Start>0</Start><End>1</End></ClearRange>"
        )
    };
    let lists = [
        (page(&(range(0, 511) + &range(1024, 2047)), "m"), page(&range(512, 1023), ""), Some(2048)),
        (page("", "m"), "<PageList/>".into(), Some(0)),
        (page("", "m"), page("", "m"), None),
        (page(&range(512, 0), ""), String::new(), None),
        (page(&range(0, u64::MAX), ""), String::new(), None),
        ("SECRET".into(), String::new(), None),
    ];
    for (first, second, size) in lists {
        let key = Credential::Key(Key::new(&Secret::from("a2V5".to_owned())).unwrap());
        let (_fake, storage) = storage(key, move |asked| {
            let text = if asked.get("marker") == "m" { second.clone() } else { first.clone() };
            (200, vec![], text)
        })
        .await;
        let found = storage.page_blob("vhds", "x").unwrap().ranges().await;
        match size {
            Some(size) => assert_eq!(found.unwrap().size(), size),
            None => assert!(!chain(&found.unwrap_err()).contains("SECRET")),
        }
    }
}

/// A service that takes everything, and says then that a page is missing.
#[tokio::test]
async fn what_did_not_arrive_is_noticed_at_the_end() {
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(2 * MIB).unwrap();
    disk.as_file().write_all_at(b"x", MIB).unwrap();
    for missing in [true, false] {
        let put = Arc::new(Mutex::new(Vec::<String>::new()));
        let ranges = put.clone();
        let key = Credential::Key(Key::new(&Secret::from("a2V5".to_owned())).unwrap());
        let (fake, storage) = storage(key, move |asked| {
            let mut put = put.lock().unwrap();
            match (&*asked.method, asked.get("comp")) {
                ("HEAD", _) => return (404, vec![("x-ms-error-code", "BlobNotFound")], String::new()),
                (_, "page") => put.push(asked.headers["x-ms-range"].clone()),
                (_, "pagelist") => {
                    let seen = put.iter().skip(usize::from(missing)).map(|r| {
                        let (start, end) = r.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
                        format!("<PageRange><Start>{start}</Start><End>{end}</End></PageRange>")
                    });
                    return (200, vec![], format!("<PageList>{}</PageList>", seen.collect::<String>()));
                }
                _ => {}
            }
            (201, vec![], String::new())
        })
        .await;
        let upload = Upload {
            file: disk.path(),
            overwrite: false,
            validate: None,
            report: &|_, _, _| {},
            cancel: &CancellationToken::new(),
        };
        let done = storage.page_blob("vhds", "x").unwrap().upload(&upload).await;
        let sent = ranges.lock().unwrap().clone();
        assert_eq!(sent, ["bytes=1048576-1052671", "bytes=2097152-2097663"]);
        // Azure refuses orders whose length is not told.
        let orders = fake.journal().into_iter().filter(|a| a.method == "PUT");
        for order in orders {
            assert!(order.headers.contains_key("content-length"), "{order:?}");
        }
        let sealed = fake.journal().iter().any(|a| a.get("comp") == "properties");
        match missing {
            true => {
                let error = done.unwrap_err();
                let told = "4096 bytes of blob \"x\" could not be uploaded";
                assert!(error.may_pass() && chain(&error).contains(told), "{}", chain(&error));
                assert!(!sealed);
            }
            false => {
                assert_eq!(done.unwrap(), Outcome::Uploaded { sent: 4096 + 512, resumed: 0 });
                assert!(sealed);
            }
        }
    }
    let upload = Upload {
        file: Path::new("/nowhere"),
        overwrite: false,
        validate: None,
        report: &|_, _, _| {},
        cancel: &CancellationToken::new(),
    };
    let key = Credential::Key(Key::new(&Secret::from("a2V5".to_owned())).unwrap());
    let (fake, storage) = storage(key, |_| (500, vec![], String::new())).await;
    let error = storage.page_blob("vhds", "x").unwrap().upload(&upload).await.unwrap_err();
    assert!(chain(&error).contains("/nowhere"), "{}", chain(&error));
    assert!(fake.journal().is_empty());
}
