//! Google's credentials: each source, in order, renewed when refused, and never shown.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;

use mantle::cloud::google::sources::{self, Environment};
use mantle::http::{Client, Limits, Retry};
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::sign::Verifier;
use serde_json::json;

use super::{Bench, PATH};
use crate::support::server::{Fault, Request};

/// A bench whose bucket is private: only these tokens open it, one after the other.
fn private(tokens: &'static [&'static str], each: usize) -> Bench {
    let mut bench = Bench::new(10_000);
    let url = bench.server.url("/");
    bench.env.unset("STORAGE_EMULATOR_HOST").set("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE", url);
    let mut used = 0;
    bench.server.judge(move |r, _| {
        if !r.target.contains("/storage/v1/") {
            return Fault::None;
        }
        let token = tokens[(used / each).min(tokens.len() - 1)];
        if r.header("authorization") != Some(&format!("Bearer {token}")) {
            used = used.next_multiple_of(each);
            return Fault::Status(401, "");
        }
        used += 1;
        Fault::None
    });
    bench
}

fn is_token_request(r: &Request) -> bool {
    r.method == "POST" && r.target == "/token"
}

fn field(form: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(form.as_bytes()).find(|(k, _)| k == name).map(|(_, v)| v.into_owned())
}

/// Tokens hush-1, hush-2, ... to whoever asks with this refresh token.
fn give_tokens(bench: &Bench, refresh_token: &'static str) {
    let mut given = 0;
    bench.server.special(move |r| {
        is_token_request(r).then(|| {
            let right =
                [("client_id", "me"), ("client_secret", "hush-client"), ("refresh_token", refresh_token)];
            if right.iter().any(|(k, v)| field(&r.body, k).as_deref() != Some(v)) {
                return (400, r#"{"error":"invalid_grant","error_description":"Token revoked."}"#.into());
            }
            given += 1;
            (200, json!({"access_token": format!("hush-{given}"), "expires_in": 3599}).to_string())
        })
    });
}

#[track_caller]
fn expect_hushed(bench: &Bench, options: &[&str], code: i32) -> String {
    let outcome = bench.get("gs", &[&["-d"], options].concat()).expect(code);
    assert!(!outcome.stderr.contains("hush") && !outcome.stderr.contains("PRIVATE"), "{}", outcome.stderr);
    outcome.stderr
}

fn key_file(bench: &Bench) -> PKey<Private> {
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let pem = String::from_utf8(key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    let text = json!({
        "type": "service_account", "client_email": "robot@x.iam", "private_key": pem,
        "token_uri": bench.server.url("/token"),
    });
    bench.env.write("key.json", &text.to_string());
    key
}

fn decode(text: &str) -> Vec<u8> {
    let text = text.replace('-', "+").replace('_', "/");
    openssl::base64::decode_block(&format!("{text}{}", "=".repeat((4 - text.len() % 4) % 4))).unwrap()
}

#[test]
fn a_service_account_signs_for_its_tokens() {
    // two requests a file, two files: the token is refused after three
    let bench = private(&["hush-1", "hush-2"], 3);
    let key = key_file(&bench);
    let audience = bench.server.url("/token");
    let mut given = 0;
    bench.server.special(move |r| {
        is_token_request(r).then(|| {
            assert_eq!(field(&r.body, "grant_type").unwrap(), "urn:ietf:params:oauth:grant-type:jwt-bearer");
            let assertion = field(&r.body, "assertion").unwrap();
            let (text, signature) = assertion.rsplit_once('.').unwrap();
            let mut verifier = Verifier::new(MessageDigest::sha256(), &key).unwrap();
            assert!(verifier.verify_oneshot(&decode(signature), text.as_bytes()).unwrap());
            let claims: serde_json::Value =
                serde_json::from_slice(&decode(text.split_once('.').unwrap().1)).unwrap();
            assert_eq!(
                (claims["iss"].as_str(), claims["aud"].as_str()),
                (Some("robot@x.iam"), Some(&*audience))
            );
            assert!(claims["scope"].as_str().unwrap().contains("devstorage.full_control"));
            given += 1;
            (200, json!({"access_token": format!("hush-{given}"), "expires_in": 3600}).to_string())
        })
    });
    expect_hushed(&bench, &["--json-key=key.json"], 0);
    bench.expect_only_the_file();
    let log = bench.server.take_log();
    assert_eq!(log.iter().filter(|r| is_token_request(r)).count(), 2);
}

#[test]
fn a_broken_key_is_an_error_before_any_request() {
    let bench = private(&["hush-1"], 9);
    bench
        .env
        .write("key.json", r#"{"client_email":"a","private_key":"-----BEGIN PRIVATE KEY-----\nhush\n"}"#);
    let text = expect_hushed(&bench, &["--json-key=key.json"], 1);
    assert!(text.contains("parsing key.json: private_key is no private key"), "{text}");
    let text = expect_hushed(&bench, &["--json-key=nowhere.json"], 1);
    assert!(text.contains("cannot read credentials nowhere.json"), "{text}");
    assert!(bench.server.take_log().is_empty() && bench.names().is_empty());
}

#[test]
fn a_chosen_key_that_gives_no_token_is_an_error() {
    let bench = private(&["hush-1"], 9);
    key_file(&bench);
    bench.server.special(|r| is_token_request(r).then(|| (400, r#"{"error":"invalid_grant"}"#.into())));
    let text = expect_hushed(&bench, &["--json-key=key.json"], 1);
    assert!(text.contains("cannot get a token with key.json") && text.contains("invalid_grant"), "{text}");
}

#[test]
fn each_source_is_found_and_the_first_wins() {
    let user = |bench: &Bench| {
        json!({
            "type": "authorized_user", "client_id": "me", "client_secret": "hush-client",
            "refresh_token": "hush-refresh", "token_uri": bench.server.url("/token"),
        })
        .to_string()
    };
    let boto = |bench: &Bench| {
        format!(
            "[Credentials]\ngs_oauth2_refresh_token = hush-refresh\n[OAuth2]\nclient_id = me\n\
             client_secret = hush-client\nprovider_token_uri = {}\n",
            bench.server.url("/token")
        )
    };
    let broken = "[Credentials]\ngs_service_key_file = /nowhere/key.json\n";
    type Arrange<'a> = &'a dyn Fn(&mut Bench);
    let sources: [(&str, Arrange<'_>); 5] = [
        ("the variable", &|b| {
            let path = b.env.write("adc.json", &user(b));
            b.env.write(".boto", broken);
            b.env.set("GOOGLE_APPLICATION_CREDENTIALS", path);
        }),
        ("~/.boto", &|b| {
            b.env.write(".boto", &boto(b));
            b.env.write(".config/gcloud/application_default_credentials.json", "{}");
        }),
        ("BOTO_PATH", &|b| {
            let path = b.env.write("elsewhere", &boto(b));
            b.env.set("BOTO_PATH", format!("/nowhere/boto:{}", path.display()));
        }),
        ("gcloud", &|b| {
            b.env.write(".boto", broken); // lies about: left out with a warning
            b.env.write(".config/gcloud/application_default_credentials.json", &user(b));
        }),
        ("the cache", &|b| {
            let boto = boto(b).replace("gs_oauth2_refresh_token = hush-refresh", "");
            b.env.write(".boto", &boto);
            let cache =
                r#"{"access_token":"hush-0","refresh_token":"hush-refresh","expiry":"2019-01-01T00:00:00Z"}"#;
            b.env.write(".mantle-cache-google.json", cache);
        }),
    ];
    for (name, arrange) in sources {
        let mut bench = private(&["hush-1"], 99);
        give_tokens(&bench, "hush-refresh");
        arrange(&mut bench);
        let text = expect_hushed(&bench, &[], 0);
        assert_eq!(text.contains("looking further"), name == "gcloud", "{name}: {text}");
        bench.expect_only_the_file();
    }
}

/// Some servers repeat the form that they were sent, percent-encoded as it came.
#[test]
fn an_echoed_refresh_token_is_masked() {
    let bench = private(&["hush-1"], 9);
    bench.server.special(|r| {
        is_token_request(r).then(|| {
            assert!(r.body.contains("hush%2Fre%2Bfresh%3D"), "{}", r.body);
            (400, json!({"error": "invalid_grant", "error_description": r.body}).to_string())
        })
    });
    let user = json!({
        "type": "authorized_user", "client_id": "me", "client_secret": "hush/client",
        "refresh_token": "1//hush/re+fresh=", "token_uri": bench.server.url("/token"),
    });
    bench.env.write("user.json", &user.to_string());
    for options in [&["--json-key=user.json"][..], &[]] {
        if options.is_empty() {
            bench.env.write(".config/gcloud/application_default_credentials.json", &user.to_string());
        }
        let text = expect_hushed(&bench, options, 1);
        for masked in ["refresh_token=***", "client_secret=***"] {
            assert!(text.contains(masked), "no {masked} in {text}");
        }
    }
}

#[test]
fn a_cached_token_is_used_while_it_lasts() {
    let bench = private(&["hush-0"], 99);
    let expiry = chrono::Utc::now() + chrono::TimeDelta::hours(1);
    let cache = json!({"access_token": "hush-0", "token_type": "Bearer", "expiry": expiry.to_rfc3339()});
    let path = bench.env.write(".mantle-cache-google.json", &cache.to_string());
    expect_hushed(&bench, &[], 0);
    bench.expect_only_the_file();
    std::fs::write(&path, cache.to_string().replace("20", "10")).unwrap(); // a thousand years ago
    let text = expect_hushed(&bench, &["--verify=false"], 1);
    assert!(text.contains("could not use the cached token"), "{text}");
}

#[test]
fn the_metadata_server_gives_tokens() {
    let mut bench = private(&["hush-1"], 99);
    bench.server.special(|r| {
        (r.target == "/computeMetadata/v1/instance/service-accounts/default/token").then(|| {
            assert_eq!(r.header("metadata-flavor"), Some("Google"));
            (200, json!({"access_token": "hush-1", "expires_in": 300, "token_type": "Bearer"}).to_string())
        })
    });
    let host = bench.server.address.to_string();
    bench.env.set("GCE_METADATA_HOST", host);
    expect_hushed(&bench, &["--service-auth"], 0);
    std::fs::remove_file(bench.file("image.bin")).unwrap();
    expect_hushed(&bench, &[], 0); // found by itself
    bench.expect_only_the_file();
    bench.env.set("GCE_METADATA_HOST", "127.0.0.1:1");
    let text = expect_hushed(&bench, &["--service-auth"], 1);
    assert!(text.contains("not on Google Compute Engine"), "{text}");
}

#[test]
fn public_objects_need_no_credentials() {
    let bench = private(&[], 1);
    bench.server.judge(|r, _| match r.header("authorization") {
        Some(_) => Fault::Status(401, ""),
        None => Fault::None,
    });
    expect_hushed(&bench, &[], 0);
    // nor do credentials that have been revoked stand in the way
    give_tokens(&bench, "another");
    let boto = format!(
        "[Credentials]\ngs_oauth2_refresh_token = hush-refresh\n[OAuth2]\nclient_id = me\n\
         client_secret = hush-client\nprovider_token_uri = {}\n",
        bench.server.url("/token")
    );
    bench.env.write(".boto", &boto);
    bench.server.put(PATH, &bench.body);
    let text = expect_hushed(&bench, &["--verify=false"], 0);
    assert!(text.contains("going on without credentials") && text.contains("Token revoked."), "{text}");
    bench.expect_only_the_file();
}

#[test]
fn a_private_object_without_credentials_says_what_helps() {
    let bench = private(&["hush-1"], 9);
    let text = expect_hushed(&bench, &[], 1);
    assert!(text.contains("without credentials") && text.contains("pass --json-key"), "{text}");
    assert_eq!(bench.server.take_log().len(), 1);
}

#[test]
fn a_readable_secret_is_warned_of() {
    use std::os::unix::fs::PermissionsExt;
    let bench = private(&["hush-1"], 9);
    let path = bench.env.write(".boto", "[Boto]\n");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(expect_hushed(&bench, &[], 1).contains("chmod 600"));
}

#[test]
fn a_login_in_the_browser_is_stored_for_the_next_time() {
    let bench = private(&["hush-access"], 9);
    let token_uri = bench.server.url("/token");
    let (tell, asked) = mpsc::channel();
    bench.server.special(move |r| {
        is_token_request(r).then(|| {
            tell.send(r.body.clone()).unwrap();
            (
                200,
                json!({"access_token": "hush-access", "expires_in": 99, "refresh_token": "hush-new"})
                    .to_string(),
            )
        })
    });
    let boto = bench.env.home().join(".boto");
    let client = json!({"installed": {
        "client_id": "me", "client_secret": "hush-client", "auth_uri": "https://auth.example/go?x=y",
        "token_uri": token_uri,
    }});
    let client = bench.env.write("client.json", &client.to_string());
    let environment =
        Environment { boto: vec![boto.clone()], client: Some(client), ..Environment::default() };

    let (show, shown) = mpsc::channel();
    mantle::log::set_sink(Some(Box::new(move |line| {
        if let Some((_, address)) = line.split_once("on this machine: ") {
            show.send(address.to_owned()).unwrap();
        }
    })));
    let browser = std::thread::spawn(move || {
        let address: reqwest::Url = shown.recv().unwrap().parse().unwrap();
        assert_eq!(address.host_str(), Some("auth.example"));
        let query = address.query().unwrap().to_owned();
        let field = |name| field(&query, name).unwrap();
        assert_eq!(
            (field("x"), field("response_type"), field("client_id")),
            ("y".into(), "code".into(), "me".into())
        );
        let redirect: reqwest::Url = field("redirect_uri").parse().unwrap();
        let visit = |path: String| {
            let mut stream = TcpStream::connect(("127.0.0.1", redirect.port().unwrap())).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let mut page = String::new();
            stream.read_to_string(&mut page).unwrap();
            page
        };
        // what is not our browser's answer changes nothing
        assert!(visit("/favicon.ico".into()).starts_with("HTTP/1.1 404"));
        assert!(visit("/?code=forged&state=guess".into()).starts_with("HTTP/1.1 404"));
        assert!(visit(format!("/?code=4/x&state={}", field("state"))).contains("Access allowed"));
        field("code_challenge")
    });
    let http = Client::new(Limits::default(), Retry::default()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let credentials = runtime.block_on(sources::log_in(&environment, &["scope"], &http)).unwrap().unwrap();
    mantle::log::set_sink(None);
    let challenge = browser.join().unwrap();
    let form = asked.recv().unwrap();
    let verifier = field(&form, "code_verifier").unwrap();
    let hash = openssl::sha::sha256(verifier.as_bytes());
    assert_eq!(decode(&challenge), hash);
    assert_eq!(field(&form, "code").as_deref(), Some("4/x"));
    assert_eq!(runtime.block_on(credentials.token()).unwrap().value().expose(), "hush-access");
    let stored = std::fs::read_to_string(&boto).unwrap();
    assert!(
        stored.contains("gs_oauth2_refresh_token = hush-new") && stored.contains("client_id = me"),
        "{stored}"
    );
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(boto.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

/// The address that the login asks somebody to open, answered by `browser` with the query of the redirect.
fn log_in_with(browser: impl FnOnce(&str) -> String + Send + 'static, token: (u16, &'static str)) -> String {
    let bench = private(&["hush-access"], 9);
    bench.server.special(move |r| is_token_request(r).then(|| (token.0, token.1.into())));
    let client = json!({"installed": {
        "client_id": "me", "client_secret": "hush-client", "auth_uri": "https://auth.example/go",
        "token_uri": bench.server.url("/token"),
    }});
    let client = bench.env.write("client.json", &client.to_string());
    let boto = bench.env.home().join(".boto");
    let environment =
        Environment { boto: vec![boto.clone()], client: Some(client), ..Environment::default() };
    let (show, shown) = mpsc::channel();
    mantle::log::set_sink(Some(Box::new(move |line| {
        if let Some((_, address)) = line.split_once("on this machine: ") {
            show.send(address.to_owned()).unwrap();
        }
    })));
    let visitor = std::thread::spawn(move || {
        let address: reqwest::Url = shown.recv().unwrap().parse().unwrap();
        let query = address.query().unwrap().to_owned();
        let redirect: reqwest::Url = field(&query, "redirect_uri").unwrap().parse().unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", redirect.port().unwrap())).unwrap();
        let answer = browser(&field(&query, "state").unwrap());
        write!(stream, "GET /?{answer} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut page = String::new();
        let _ = stream.read_to_string(&mut page);
    });
    let retry = Retry { tries: 2, first: std::time::Duration::from_millis(1), ..Retry::default() };
    let http = Client::new(Limits::default(), retry).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let error = runtime.block_on(sources::log_in(&environment, &["scope"], &http)).unwrap_err();
    mantle::log::set_sink(None);
    visitor.join().unwrap();
    assert!(!boto.exists(), "a login that failed is not stored");
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(e) = cause {
        text += &format!(": {e}");
        cause = e.source();
    }
    assert!(!text.contains("hush"), "{text}");
    text
}

#[test]
fn a_login_that_is_refused_is_not_stored() {
    let text = log_in_with(|state| format!("error=access_denied&state={state}"), (200, ""));
    assert_eq!(text, "the login failed: access_denied");
}

#[test]
fn a_code_that_is_not_accepted_is_not_stored() {
    let gone = r#"{"error":"invalid_grant","error_description":"Malformed auth code."}"#;
    let text = log_in_with(|state| format!("code=hush-code&state={state}"), (400, gone));
    assert!(text.contains("the login in the browser") && text.contains("Malformed auth code."), "{text}");
    let text = log_in_with(|state| format!("code=hush-code&state={state}"), (200, r#"{"token":"hush"}"#));
    assert!(text.contains("the answer is no token"), "{text}");
}

#[test]
fn a_machine_without_a_service_account_says_so() {
    let mut bench = private(&["hush-1"], 99);
    let host = bench.server.address.to_string();
    bench.env.set("GCE_METADATA_HOST", host);
    let text = expect_hushed(&bench, &["--service-auth"], 1);
    assert!(text.contains("this machine has no service account"), "{text}");
}

#[test]
fn passing_troubles_of_the_token_server_are_waited_out() {
    let bench = private(&["hush-1"], 99);
    key_file(&bench);
    let mut asked = 0;
    bench.server.special(move |r| {
        is_token_request(r).then(|| {
            asked += 1;
            match asked {
                1 => (503, String::new()),
                2 => (429, r#"{"error":"slow_down"}"#.into()),
                _ => (200, json!({"access_token": "hush-1", "expires_in": 3600}).to_string()),
            }
        })
    });
    let text = expect_hushed(&bench, &["--json-key=key.json"], 0);
    assert_eq!(text.matches("trying again in").count(), 2, "{text}");
    bench.expect_only_the_file();
}

#[test]
fn an_interrupt_ends_the_wait_for_a_token() {
    use nix::sys::signal::Signal;
    let mut bench = Bench::new(1000);
    bench.env.set("MANTLE_POLL_SCALE", "10"); // nothing but the signal ends the silence
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    bench
        .env
        .unset("STORAGE_EMULATOR_HOST")
        .set("GCE_METADATA_HOST", silent.local_addr().unwrap().to_string());
    let url = bench.server.url("/");
    bench.env.set("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE", url);
    let running = bench.start("gs", &["--service-auth"]);
    let (connection, _) = silent.accept().unwrap();
    running.signal(Signal::SIGINT);
    let outcome = running.finish().expect(130);
    assert!(bench.names().is_empty(), "{}", outcome.stderr);
    drop(connection);
}
