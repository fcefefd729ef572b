//! Against a Keystone whose answers are written here: what it is asked, and what becomes of what it says.

use serde_json::json;

use super::login::Login;
use super::sources::{Member, Method, Named, Scope, Source};
use crate::http::fake::Fake;
use crate::http::{Access as _, Client, Limits, Retry};
use crate::secret::Secret;
use crate::text::chain;

fn source(auth_url: &str) -> Source {
    let member = |name: &str| Member { named: Named::Name(name.into()), domain: None };
    Source {
        origin: "a test".into(),
        auth_url: auth_url.into(),
        version: None,
        method: Method::Password(member("robot"), Secret::from("hush-hush".to_owned())),
        scope: Scope::Project(member("demo")),
        region: None,
        interface: "public".into(),
        roots: None,
        endpoints: Default::default(),
        floating_ip_pool: None,
    }
}

fn login(source: Source) -> Login {
    let retry = Retry { tries: 2, ..Retry::scaled(0.001) };
    let http = Client::direct(Limits::default(), retry.clone()).unwrap();
    Login::new(source, http, retry)
}

fn versions(all: &[(&str, &str, &str)]) -> String {
    let one = |(id, status, href): &(&str, &str, &str)| json!({"id": id, "status": status, "links": [{"rel": "self", "href": href}]});
    json!({"versions": {"values": all.iter().map(one).collect::<Vec<_>>()}}).to_string()
}

#[tokio::test]
async fn the_newest_version_is_spoken_at_the_same_server() {
    for (path, all, asked) in [
        (
            "",
            vec![("v3.14", "stable", "http://elsewhere.invalid/identity/v3/")],
            "POST /identity/v3/auth/tokens",
        ),
        ("", vec![("v2.0", "stable", "x"), ("v3.0", "current", "")], "POST /v3/auth/tokens"),
        ("/", vec![("v2.0", "supported", "http://h/v2.0/"), ("v3.9", "deprecated", "")], "POST /v2.0/tokens"),
        ("/v3", vec![], "POST /v3/auth/tokens"),
        ("/keystone/v2.0/", vec![], "POST /keystone/v2.0/tokens"),
    ] {
        let text = versions(&all);
        let fake = Fake::start(
            move |asked| if asked.method == "GET" { (300, text.clone()) } else { (404, "{}".into()) },
        );
        let fake = fake.await;
        assert!(login(source(&format!("{}{path}", fake.url))).proof().await.is_err());
        assert_eq!(fake.actions().last().map(String::as_str), Some(asked), "{path}");
    }
    let none = Fake::start(|_| (300, versions(&[("v9", "stable", "")]))).await;
    let error = login(source(&none.url)).proof().await.unwrap_err();
    assert!(chain(&error).contains("has no version 3 nor 2"), "{}", chain(&error));
}

#[tokio::test]
async fn hostile_answers_are_errors_without_secrets() {
    let echo =
        json!({"error": {"code": 401, "title": "Unauthorized", "message": "no hush-hush here"}}).to_string();
    for (status, body, said) in [
        (
            401,
            echo,
            "names no domain of the user, so it was taken to be \"default\": identity auth/tokens: Unauthorized",
        ),
        (201, "{}".to_owned(), "there is no X-Subject-Token"),
        (200, "<html>".to_owned(), "there is no X-Subject-Token"),
        (503, "x".to_owned(), "identity auth/tokens: x (HTTP 503)"),
    ] {
        let fake = Fake::start(move |_| (status, body.clone())).await;
        let error = login(source(&format!("{}/v3", fake.url))).proof().await.unwrap_err();
        let text = chain(&error);
        assert!(text.contains(said) && !text.contains("hush-hush"), "{text}");
    }
    for url in ["", "h:5000", "ftp://h/"] {
        let error = login(source(url)).proof().await.unwrap_err();
        assert!(chain(&error).contains("no address of a Keystone"), "{}", chain(&error));
    }
}

#[tokio::test]
async fn a_token_is_used_until_it_ends_or_is_refused() {
    // By the service's clock, which is far off.
    let good = json!({"token": {
        "issued_at": "2020-01-01T00:00:00.000000Z", "expires_at": "2020-01-01T01:00:00.000000Z",
        "project": {"id": "p", "name": "demo"}, "user": {"name": "robot"}, "extra": [1],
    }})
    .to_string();
    let fake = Fake::with_headers(move |_| (201, vec![("X-Subject-Token", "t")], good.clone())).await;
    let login = login(source(&format!("{}/v3/", fake.url)));
    let first = login.proof().await.unwrap();
    assert_eq!(login.grant().await.unwrap().project_id, "p");
    assert_eq!(fake.journal().len(), 1);
    let refused = crate::http::CallError::Refused {
        call: "x".into(),
        refusal: Box::new(crate::http::Refusal {
            status: 401,
            class: crate::http::Class::Expired,
            ..Default::default()
        }),
    };
    assert!(login.refused(&first, &refused).await.unwrap());
    login.proof().await.unwrap();
    assert_eq!(fake.journal().len(), 2);
    assert_eq!(format!("{login:?}"), "Login(a test)");
    assert!(!format!("{first:?}").contains("\"t\""));
}
