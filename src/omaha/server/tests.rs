//! The server as curl and a scripted client see it, over loopback.

use std::time::Duration;

use super::*;
use crate::omaha::{UpdateCheck, event_result, event_type};
use crate::process::{Command, find_program};

const LONG: Duration = Duration::from_secs(60);
const APP: &str = "{E96281A6-D1AF-4BDE-9A0A-97B76E56DC57}";
const REQUEST: &str = include_str!("../data/request.xml");

async fn start() -> Running {
    Running::start(TcpListener::bind("127.0.0.1:0").await.unwrap()).unwrap()
}

/// What curl prints; its last line is the status.
async fn curl(running: &Running, path: &str, args: &[&str]) -> (String, u16) {
    let url = format!("http://{}{path}", running.address);
    let words = [&["-sS", "-w", "\n%{http_code}", &url], args].concat();
    let out = Command::new("curl").args(words).output(LONG).await.unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (body.to_owned(), status.parse().unwrap())
}

macro_rules! needs_curl {
    () => {
        if find_program("curl").is_none() {
            return println!("skipped: curl is not installed");
        }
    };
}

async fn post(running: &Running, path: &str, kind: &str, body: &str) -> (String, u16) {
    let kind = format!("Content-Type: {kind}");
    curl(running, path, &["-H", &kind, "--data-binary", body]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_posts_requests() {
    needs_curl!();
    let running = start().await;
    let (body, status) = post(&running, "/v1/update/", "text/xml", REQUEST).await;
    assert_eq!(status, 200, "{body}");
    let response = Response::parse(body.as_bytes()).unwrap();
    let [app, other] = &response.apps[..] else { panic!("{body}") };
    assert_eq!((app.id.as_str(), app.status), (APP, AppStatus::Ok));
    assert_eq!(app.ping, Some(Status::ok()));
    assert_eq!(app.update_check.as_ref().unwrap().status, UpdateStatus::NoUpdate);
    assert_eq!(app.events, [Status::ok(), Status::ok()]);
    assert_eq!(other.id, "a<b>&\"c\"");
    assert_eq!((&other.ping, &other.update_check, other.events.len()), (&None, &None, 0));
    assert!(body.contains("<daystart elapsed_seconds=\"0\"/>\n\t<app appid="), "{body}");

    // What it was told can be asked for.
    let seen = running.server.seen();
    let version = "2023.5.0".to_owned();
    assert_eq!(seen.len(), 4, "{seen:?}");
    let check =
        Seen::UpdateCheck { app: APP.into(), version: version.clone(), answer: UpdateStatus::NoUpdate };
    assert_eq!(seen[1], check);
    let complete =
        |s: &Seen| matches!(s, Seen::Event { event, .. } if event.event_type == event_type::UPDATE_COMPLETE);
    let Seen::Event { event, .. } = running.server.wait_for(complete).await else { panic!() };
    assert_eq!(event.event_result, event_result::SUCCESS_REBOOT);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_gets_400() {
    needs_curl!();
    let running = start().await;
    let good = "<request protocol=\"3.0\"><app appid=\"a\"><ping/></app></request>";
    for kind in ["text/xml", "application/xml", "", "Text/XML; charset=\"UTF-8\"", "text/xml;charset="] {
        assert_eq!(post(&running, "/v1/update", kind, good).await.1, 200, "{kind}");
    }
    for (path, kind, body) in [
        ("/v1/update", "application/json", good),
        ("/v1/update", "text/xml; charset=latin1", good),
        ("/v1/update", "text/xml", "<request protocol=\"2.0\"/>"),
        ("/v1/update", "text/xml", "<!DOCTYPE a><request protocol=\"3.0\"/>"),
        ("/v1/update/x", "text/xml", "hello"),
        // No application is none that is well.
        ("/v1/update", "text/xml", "<request protocol=\"3.0\"/>"),
    ] {
        let (said, status) = post(&running, path, kind, body).await;
        assert_eq!(status, 400, "{kind} {body}: {said}");
        assert!(said.contains("Bad Omaha Request") || said.contains("<response"), "{said}");
    }
    assert_eq!(curl(&running, "/v1/update/", &[]).await, ("Expected a POST\n".into(), 400));
    assert_eq!(post(&running, "/v1/updates", "text/xml", good).await.1, 404);
    assert_eq!(curl(&running, "/", &[]).await.1, 404);
    assert_eq!(running.server.seen().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_are_served() {
    needs_curl!();
    let running = start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("payload");
    let content: Vec<u8> = (0..600_000_u32).map(|i| (i % 251) as u8).collect();
    std::fs::write(&file, &content).unwrap();
    let server = &running.server;
    for bad in ["../update.gz", ".hidden", "a/b", ""] {
        let refused = server.add_package(&file, bad).await.unwrap_err().to_string();
        assert_eq!(refused, format!("invalid package name {bad:?}"));
    }
    let missing = server.add_package(&folder.path().join("none"), "update.gz").await.unwrap_err();
    assert!(missing.to_string().contains("none"), "{missing}");
    assert!(server.add_package(folder.path(), "update.gz").await.is_err());
    server.add_package(&file, "update.gz").await.unwrap();

    // A client that does as it is told: asks, fetches what the answer names, compares, tells.
    let check = RequestApp {
        id: APP.into(),
        version: "1.0.0".into(),
        update_check: Some(UpdateCheck::default()),
        ..RequestApp::default()
    };
    let ask = |app: RequestApp| {
        let request = Request { protocol: "3.0".into(), apps: vec![app], ..Request::default() };
        request.to_xml().unwrap()
    };
    let (body, _) = post(&running, "/v1/update/", "text/xml", &ask(check.clone())).await;
    let response = Response::parse(body.as_bytes()).unwrap();
    let offer = response.apps[0].update_check.clone().unwrap();
    let (place, manifest) = (&offer.urls.unwrap().urls[0].code_base, offer.manifest.unwrap());
    assert_eq!(*place, format!("http://{}/packages/", running.address));
    let package = &manifest.packages.packages[0];
    let sha256 = openssl::base64::encode_block(&openssl::sha::sha256(&content));
    let sha1 = openssl::base64::encode_block(&openssl::sha::sha1(&content));
    assert_eq!((package.name.as_str(), package.size, &package.sha1), ("update.gz", 600_000, &sha1));
    assert_eq!(package.sha256.as_deref(), Some(sha256.as_str()));
    let action = &manifest.actions.actions[0];
    assert_eq!(
        (action.event.as_str(), &action.sha256, action.disable_backoff),
        ("postinstall", &sha256, true)
    );
    let got = folder.path().join("got");
    let to = ["-o", got.to_str().unwrap()];
    assert_eq!(curl(&running, "/packages/update.gz", &to).await.1, 200);
    assert!(std::fs::read(&got).unwrap() == content);

    // Parts, heads, and what is not there.
    let part = [&to[..], &["-r", "250-599"]].concat();
    assert_eq!(curl(&running, "/packages/update.gz", &part).await.1, 206);
    assert!(std::fs::read(&got).unwrap() == content[250..600]);
    // Going on with a download that broke off.
    std::fs::write(&got, &content[..1000]).unwrap();
    assert_eq!(curl(&running, "/packages/update.gz", &[&to[..], &["-C", "-"]].concat()).await.1, 206);
    assert!(std::fs::read(&got).unwrap() == content);
    let (head, _) = curl(&running, "/packages/update.gz", &["-I"]).await;
    assert!(head.to_lowercase().contains("content-length: 600000\r\n"), "{head}");
    assert_eq!(curl(&running, "/packages/update.gz", &["-r", "600000-"]).await.1, 416);
    for path in ["/packages/", "/packages/other", "/packages/../payload", "/packages/%2e%2e/payload"] {
        assert_eq!(curl(&running, path, &["--path-as-is"]).await.1, 404, "{path}");
    }
    assert_eq!(curl(&running, "/packages/update.gz", &["-X", "DELETE"]).await.1, 405);

    let told = Event { event_type: event_type::UPDATE_COMPLETE, event_result: 1, ..Event::default() };
    let app = RequestApp { events: vec![told.clone()], update_check: None, ..check };
    post(&running, "/v1/update/", "text/xml", &ask(app)).await;
    let seen = server.seen();
    assert_eq!(seen[1], Seen::Download { package: "update.gz".into() });
    assert_eq!(seen.last(), Some(&Seen::Event { app: APP.into(), version: "1.0.0".into(), event: told }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_may_decide_what_clients_are_told() {
    needs_curl!();
    let running = start().await;
    running.server.set_policy(|app| match app.id.as_str() {
        "late" => Verdict::Withhold(UpdateStatus::OsNotSupported),
        "broken" => Verdict::Refuse(AppStatus::Internal),
        "known" => Verdict::Offer,
        _ => Verdict::Refuse(AppStatus::UnknownApplication),
    });
    let ask = async |ids: &[&str]| {
        let apps: String =
            ids.iter().map(|id| format!("<app appid=\"{id}\"><ping/><updatecheck/></app>")).collect();
        let body = format!("<request protocol=\"3.0\">{apps}</request>");
        let (body, status) = post(&running, "/v1/update/", "text/xml", &body).await;
        (Response::parse(body.as_bytes()).unwrap().apps, status)
    };
    let (apps, status) = ask(&["strange", "late"]).await;
    assert_eq!((apps[0].status, &apps[0].ping, status), (AppStatus::UnknownApplication, &None, 200));
    assert_eq!(apps[1].update_check.as_ref().unwrap().status, UpdateStatus::OsNotSupported);
    assert_eq!(ask(&["strange"]).await.1, 400);
    assert_eq!(ask(&["strange", "broken"]).await.1, 500);
    assert_eq!(ask(&["broken", "known"]).await.1, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_what_was_seen_has_a_bound() {
    let server = Arc::new(Server::new());
    let seen = |n: usize| Seen::Download { package: n.to_string() };
    let waiting = {
        let server = server.clone();
        tokio::spawn(async move { server.wait_for(|s| *s == seen(REMEMBERED + 5)).await })
    };
    for n in 0..REMEMBERED + 10 {
        server.remember(seen(n));
    }
    assert_eq!(waiting.await.unwrap(), seen(REMEMBERED + 5));
    assert_eq!((server.seen().len(), &server.seen()[0]), (REMEMBERED, &seen(10)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_ends_with_its_owner() {
    let running = start().await;
    let address = running.address;
    tokio::net::TcpStream::connect(address).await.unwrap();
    drop(running);
    let gone = async {
        while TcpListener::bind(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, gone).await.unwrap();
}
