//! Single sign-on beside botocore: the same services, the same files, and what both make of them, ask for and keep.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::super::super::api::Connection;
use super::super::super::endpoints::{Endpoint, Endpoints};
use super::super::{Keys, SLACK, Source, sources};
use super::*;
use crate::http::fake::{Asked, Fake, Said};
use crate::http::{self, Expires as _};

const URL: &str = "https://corp.example/start#/";

/// The portal and the renewal of tokens. What it says is in the names of the tokens.
fn answer(asked: &Asked) -> Said {
    // It tells what it was told.
    let told = ["clientSecret", "refreshToken"].map(|name| asked.get(name));
    let token = asked.headers.get("x-amz-sso_bearer_token").map_or("", String::as_str);
    let told = format!("no {told:?} {token}");
    let refused = |status: u16, code: &str| {
        let body = json!({"__type": code, "message": told, "error": code, "error_description": told});
        (status, body.to_string())
    };
    let path = asked.path.rsplit_once("/case-").and_then(|(_, rest)| rest.split_once('/'));
    match (&*asked.method, path.map(|(_, path)| path)) {
        ("POST", Some("token")) if asked.get("grantType") == "refresh_token" => {
            match asked.get("refreshToken") {
                "SECRET-refused" => refused(400, "InvalidGrantException"),
                "SECRET-once" => (
                    200,
                    json!({"accessToken": "SECRET-new", "expiresIn": 7200, "tokenType": "Bearer"})
                        .to_string(),
                ),
                _ if asked.get("clientSecret") != "SECRET-client" => refused(401, "InvalidClientException"),
                _ => {
                    let new = json!({"accessToken": "SECRET-new", "expiresIn": 7200, "refreshToken": "SECRET-next"});
                    (200, new.to_string())
                }
            }
        }
        ("GET", Some("federation/credentials")) => match token {
            "SECRET-taken-back" => refused(401, "UnauthorizedException"),
            "SECRET-stranger" => refused(403, "ForbiddenException"),
            token => {
                let end = (Utc::now() + TimeDelta::hours(1)).timestamp_millis();
                let id = format!("{}-{}", asked.get("account_id"), asked.get("role_name"));
                let keys = json!({"accessKeyId": id, "secretAccessKey": "SECRET-key", "sessionToken": token,
                        "expiration": end});
                (200, json!({"roleCredentials": keys}).to_string())
            }
        },
        _ => refused(404, "ResourceNotFoundException"),
    }
}

/// Times of tokens, relative to now.
fn within(minutes: i64) -> String {
    (Utc::now() + TimeDelta::minutes(minutes)).format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A token that is good for some minutes and can be renewed.
fn token(access: &str, minutes: i64, refresh: &str) -> Value {
    json!({"startUrl": URL, "region": "eu-west-1", "accessToken": access, "expiresAt": within(minutes),
        "clientId": "client", "clientSecret": "SECRET-client", "registrationExpiresAt": within(10_000),
        "refreshToken": refresh})
}

/// A token with some fields changed; those that are null are left out.
fn but(mut token: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        token[name] = value.clone();
    }
    let fields = token.as_object_mut().unwrap();
    fields.retain(|_, value| !value.is_null());
    token
}

const SESSION: &str = "[sso-session corp]\nsso_start_url = https://corp.example/start#/\nsso_region = eu-west-1\n\
    sso_registration_scopes = sso:account:access\n";
const BY_SESSION: &str =
    "[profile p]\nsso_session = corp\nsso_account_id = 123456789012\nsso_role_name = dev\n";
const LEGACY: &str = "[profile p]\nsso_start_url = https://corp.example/start#/\nsso_region = eu-west-1\n\
    sso_account_id = 123456789012\nsso_role_name = dev\n";
const ROLE: &str = "[profile p]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = s\n[profile s]\n\
    sso_session = corp\nsso_account_id = 123456789012\nsso_role_name = dev\n";
const KEYS: &str = "[p]\naws_access_key_id = STATIC\naws_secret_access_key = s\n";

/// A case: its name, the two files, what the token's file is named after, and what is in it.
type Row = (&'static str, String, &'static str, &'static str, Option<Value>);

fn rows() -> Vec<Row> {
    let session = |more: &str| format!("{SESSION}{BY_SESSION}{more}");
    let good = || Some(token("SECRET-good", 120, "SECRET-refresh"));
    vec![
        ("session", session(""), "", "corp", good()),
        ("session, named after the URL", session(""), "", URL, good()),
        (
            "session, 20 minutes left",
            session(""),
            "",
            "corp",
            Some(token("SECRET-old", 20, "SECRET-refresh")),
        ),
        (
            "session, 10 minutes left",
            session(""),
            "",
            "corp",
            Some(token("SECRET-old", 10, "SECRET-refresh")),
        ),
        ("session, expired", session(""), "", "corp", Some(token("SECRET-old", -10, "SECRET-refresh"))),
        (
            "session, no more refresh token",
            session(""),
            "",
            "corp",
            Some(token("SECRET-old", -10, "SECRET-once")),
        ),
        (
            "session, refused but good",
            session(""),
            "",
            "corp",
            Some(token("SECRET-old", 10, "SECRET-refused")),
        ),
        ("session, refused", session(""), "", "corp", Some(token("SECRET-old", -10, "SECRET-refused"))),
        (
            "session, expired, no refresh token",
            session(""),
            "",
            "corp",
            Some(but(token("SECRET-old", -10, ""), json!({"refreshToken": null}))),
        ),
        (
            "session, expired, no client's end",
            session(""),
            "",
            "corp",
            Some(but(token("SECRET-old", -10, "SECRET-refresh"), json!({"registrationExpiresAt": null}))),
        ),
        (
            "session, expired, and its client",
            session(""),
            "",
            "corp",
            Some(but(
                token("SECRET-old", -10, "SECRET-refresh"),
                json!({"registrationExpiresAt": within(-5)}),
            )),
        ),
        (
            "session, another client",
            session(""),
            "",
            "corp",
            Some(but(token("SECRET-old", -10, "SECRET-refresh"), json!({"clientSecret": "SECRET-other"}))),
        ),
        (
            "session, taken back",
            session(""),
            "",
            "corp",
            Some(token("SECRET-taken-back", 120, "SECRET-refresh")),
        ),
        (
            "session, no such role",
            session(""),
            "",
            "corp",
            Some(token("SECRET-stranger", 120, "SECRET-refresh")),
        ),
        ("session, never logged in", session(""), "", "corp", None),
        ("session, no token", session(""), "", "corp", Some(json!({"expiresAt": within(60)}))),
        ("session, no end", session(""), "", "corp", Some(but(good().unwrap(), json!({"expiresAt": null})))),
        ("session, rubbish", session(""), "", "corp", Some(json!("rubbish"))),
        (
            "session, old time",
            session(""),
            "",
            "corp",
            Some(but(good().unwrap(), json!({"expiresAt": within(60).replace('Z', "UTC")}))),
        ),
        ("session, not there", BY_SESSION.into(), "", "corp", good()),
        ("session, of the credentials file", BY_SESSION.into(), SESSION, "corp", good()),
        ("session, with the same region", session("sso_region = eu-west-1\n"), "", "corp", good()),
        ("session, with another region", session("sso_region = us-east-1\n"), "", "corp", good()),
        (
            "session, quoted",
            session("")
                .replace("[sso-session corp]", "[sso-session 'my corp']")
                .replace("= corp", "= my corp"),
            "",
            "my corp",
            good(),
        ),
        ("session, without region", session("").replace("sso_region = eu-west-1\n", ""), "", "corp", good()),
        ("session, without role", session("").replace("sso_role_name = dev\n", ""), "", "corp", good()),
        (
            "session, without account",
            session("").replace("sso_account_id = 123456789012\n", ""),
            "",
            "corp",
            good(),
        ),
        (
            "session, with neither",
            session("").replace("sso_role_name = dev\n", "").replace("sso_account_id = 123456789012\n", ""),
            "",
            "corp",
            good(),
        ),
        ("session and keys", session(""), KEYS, "corp", good()),
        (
            "session and process",
            session("credential_process = false\nregion = eu-west-3\n"),
            "",
            "corp",
            good(),
        ),
        ("session, split over both files", session(""), "[p]\nsso_role_name = ops\n", "corp", good()),
        ("role by session", format!("{SESSION}{ROLE}"), "", "corp", good()),
        (
            "role by session, expired",
            format!("{SESSION}{ROLE}"),
            "",
            "corp",
            Some(token("SECRET-x", -5, "SECRET-refused")),
        ),
        ("URL", LEGACY.into(), "", URL, good()),
        ("URL, named after the session", LEGACY.into(), "", "corp", good()),
        ("URL, 10 minutes left", LEGACY.into(), "", URL, Some(token("SECRET-old", 10, "SECRET-refresh"))),
        ("URL, expired", LEGACY.into(), "", URL, Some(token("SECRET-old", -10, "SECRET-refresh"))),
        ("URL, taken back", LEGACY.into(), "", URL, Some(token("SECRET-taken-back", 10, "SECRET-refresh"))),
        ("URL, never logged in", LEGACY.into(), "", URL, None),
        ("URL, without region", LEGACY.replace("sso_region = eu-west-1\n", ""), "", URL, good()),
        ("URL and keys", LEGACY.into(), KEYS, URL, good()),
        ("URL, beside a session", format!("{SESSION}{LEGACY}"), "", URL, good()),
    ]
}

/// A home folder with the files of a case.
fn home((_, config, credentials, named, token): &Row) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().join(".aws/sso/cache");
    std::fs::create_dir_all(&cache).unwrap();
    std::fs::write(home.path().join(".aws/config"), config).unwrap();
    std::fs::write(home.path().join(".aws/credentials"), credentials).unwrap();
    if let Some(token) = token {
        let text = token.as_str().map_or_else(|| token.to_string(), str::to_owned);
        std::fs::write(file(home.path(), named), text).unwrap();
    }
    home
}

fn file(home: &Path, named: &str) -> PathBuf {
    let name = crate::text::hex(&openssl::sha::sha1(named.as_bytes()));
    home.join(".aws/sso/cache").join(format!("{name}.json"))
}

/// What is in the token's file afterwards, with what is renewed marked; and that nothing lies beside it.
fn kept(home: &Path, row: &Row) -> String {
    let path = file(home, row.3);
    let names: Vec<_> =
        std::fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().path()).collect();
    let Ok(text) = std::fs::read_to_string(&path) else {
        assert!(names.is_empty(), "{names:?}");
        return "no file".into();
    };
    assert_eq!(names, std::slice::from_ref(&path));
    let Ok(mut json) = serde_json::from_str::<Value>(&text) else { return text };
    if row.4.as_ref() != Some(&json) {
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let end = json["expiresAt"].as_str().unwrap().to_owned();
        let end = DateTime::parse_from_rfc3339(&end).unwrap().to_utc() - Utc::now();
        assert!(end > TimeDelta::minutes(110) && end < TimeDelta::minutes(121), "{end}");
        json["expiresAt"] = "two hours from now".into();
    }
    json.to_string()
}

/// What was asked in a case: of whom, with what.
fn asked(journal: &[Asked], case: &str) -> Vec<String> {
    let of_case = journal.iter().filter(|a| a.path.starts_with(case));
    let line = |a: &Asked| {
        let token = a.headers.get("x-amz-sso_bearer_token").map_or("", String::as_str);
        let signed = if a.headers.contains_key("authorization") { " signed" } else { "" };
        format!("{} {} {:?} {token}{signed}", a.method, a.path, a.form)
    };
    of_case.map(line).collect()
}

fn connection(http: &http::Client, env: &Environment) -> Connection {
    Connection {
        http: http.clone(),
        endpoint: Endpoint { url: "http://127.0.0.1:1".into(), region: "us-east-1".into() },
        endpoints: Endpoints::new(None, env, None),
        calls: Arc::new(http::Calls::new("test", http::Retry::scaled(0.001), 1, 1)),
    }
}

/// What mantle makes of a case, and its words for what is wrong.
async fn ours(http: &http::Client, case: &Case) -> (String, String) {
    let variables: Vec<_> = case.environment.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let env = Environment::from(&*variables);
    let account = Account { aws_profile: case.profile.clone(), ..Account::default() };
    let profiles = Profiles::load(&account, &env).unwrap();
    let region = profiles.value("region").unwrap_or("-").to_owned();
    let failed = |e: super::super::Error| {
        let kind = match &e {
            super::super::Error::Profile { reason, .. } if reason == "it has no keys" => "nothing",
            _ => "error",
        };
        (kind.to_owned(), crate::text::chain(&e))
    };
    let source = match sources::find(&account, &env, &profiles) {
        Ok(source) => source,
        Err(e) => return failed(e),
    };
    let connection = connection(http, &env);
    let keys = async |source: &Source| source.fetch(&connection, &|| unreachable!()).await;
    let found = match &source {
        Source::Role { arn, source, .. } => keys(source).await.map(|k: Keys| format!("{arn} by {}", k.id)),
        other => keys(other).await.map(|k| {
            assert!(k.is_valid_for(SLACK));
            format!("{}:{}:{}", k.id, k.secret.expose(), k.token.as_ref().map_or("", |t| t.expose()))
        }),
    };
    let place = source.place();
    assert!(!place.contains("SECRET"), "{place}");
    match found {
        Ok(keys) => (format!("{keys} {region}"), place),
        Err(e) => failed(e),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_read_renewed_and_kept_as_botocore_does() {
    let fake = Fake::start(answer).await;
    let rows = rows();
    let case = |n: usize, home: &Path| {
        let url = format!("{}/case-{n}", fake.url);
        let endpoints = [("AWS_ENDPOINT_URL_SSO", url.as_str()), ("AWS_ENDPOINT_URL_SSO_OIDC", url.as_str())];
        Case { profile: Some("p".into()), environment: environment(home, &endpoints) }
    };
    let (theirs_at, ours_at): (Vec<_>, Vec<_>) = rows.iter().map(|row| (home(row), home(row))).unzip();
    let cases: Vec<_> = theirs_at.iter().enumerate().map(|(n, home)| case(n, home.path())).collect();
    let said = tokio::task::spawn_blocking(move || theirs(&cases)).await.unwrap();
    let Some(said) = said else { return };
    let their_journal = fake.journal();
    let http = http::Client::direct(http::Limits::default(), http::Retry::scaled(0.001)).unwrap();
    for (n, row) in rows.iter().enumerate() {
        let (name, home) = (row.0, ours_at[n].path());
        let (answer, words) = ours(&http, &case(n, home)).await;
        assert_eq!(answer, said[n], "{name}: {words}");
        assert!(!words.contains("SECRET"), "{name}: {words}");
        let path = format!("/case-{n}/");
        let journal = fake.journal().split_off(their_journal.len());
        assert_eq!(asked(&journal, &path), asked(&their_journal, &path), "{name}");
        assert_eq!(kept(home, row), kept(theirs_at[n].path(), row), "{name}");
        let is_of_login = !["no such role", "not there", "credentials file", "another region", "without"]
            .iter()
            .any(|mistake| name.contains(mistake));
        if answer == "error" && is_of_login {
            let session = !name.starts_with("URL");
            let advice = if session { "--sso-session corp" } else { "--profile p" };
            assert!(words.ends_with(&format!("; run aws sso login {advice}")), "{name}: {words}");
        }
    }
}
