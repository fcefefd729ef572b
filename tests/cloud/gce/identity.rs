//! Who one is at Google besides a service account with a key: identities of other providers, and accounts that one
//! acts for.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::double::{Gce, key_file};
use super::error;
use crate::cloud::matrix::Double as _;
use crate::support::Env;
use crate::support::http::{self, Reply, Request, Response};

const FEDERATED: &str = "federated-hush";
const SUBJECT: &str = "subject-hush";
const ACTS_FOR: &str = "robot@other.iam";

/// Google's servers of tokens, and one of the other provider's.
struct Servers {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Servers {
    fn start(gce: &Arc<Gce>) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (note, gce) = (asked.clone(), gce.clone());
        let answer = move |request: &Request| -> Option<Value> {
            let form: Vec<_> = request.form();
            let field = |name: &str| form.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
            let bearer = request.header("authorization").and_then(|a| a.strip_prefix("Bearer "));
            match request.path() {
                "/subject" if request.header("x-who") == Some("hush-header") => {
                    Some(json!({"id": SUBJECT, "other": 1}))
                }
                "/sts" => {
                    let right = field("grant_type")
                        == Some("urn:ietf:params:oauth:grant-type:token-exchange")
                        && field("audience") == Some("//iam/pool")
                        && field("subject_token") == Some(SUBJECT)
                        && field("subject_token_type") == Some("urn:ietf:params:oauth:token-type:jwt");
                    let token = match field("scope")?.contains("cloud-platform") {
                        true => FEDERATED.to_owned(),
                        false => gce.token(),
                    };
                    right.then(|| json!({"access_token": token, "expires_in": 3600, "token_type": "Bearer"}))
                }
                path if path.ends_with(&format!("/{ACTS_FOR}:generateAccessToken")) => {
                    let body: Value = serde_json::from_slice(&request.body).unwrap();
                    let scopes = body["scope"].to_string();
                    let right = bearer.is_some_and(|b| b == FEDERATED || b.starts_with("token-"));
                    (right && scopes.contains("/auth/compute") && body["lifetime"] == "3600s")
                        .then(|| json!({"accessToken": gce.token(), "expireTime": "2099-01-01T00:00:00Z"}))
                }
                _ => None,
            }
        };
        let address = http::serve(move |request| {
            note.lock().unwrap().push(request.clone());
            Reply::Answer(match answer(&request) {
                Some(value) => Response::new(200, "application/json", value.to_string()),
                // It repeats what came.
                None => error(403, "forbidden", &format!("{:?} {}", request.headers, request.text())),
            })
        });
        Self { address, asked }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Credentials of another provider's, for one who acts for an account or not.
    fn external(&self, source: &Value, acts: bool) -> Value {
        let mut file = json!({
            "type": "external_account", "audience": "//iam/pool",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": self.url("/sts"), "credential_source": source,
        });
        if acts {
            file["service_account_impersonation_url"] = self.acts_at().into();
        }
        file
    }

    fn acts_at(&self) -> String {
        self.url(&format!("/v1/projects/-/serviceAccounts/{ACTS_FOR}:generateAccessToken"))
    }
}

/// Lists images with the credentials of a file: the exit status, and all that was said.
#[track_caller]
fn list(env: &mut Env, file: &Value) -> (i32, String) {
    let path = env.write("who.json", &file.to_string());
    env.set("GOOGLE_APPLICATION_CREDENTIALS", path);
    let outcome = env.mantle(&["ore", "gcloud", "list-images", "--debug"]);
    let text = format!("{}{}", outcome.stdout, outcome.stderr);
    for secret in [SUBJECT, FEDERATED, "hush-header", "Bearer token-"] {
        assert!(!text.contains(secret), "{secret} shows: {text}");
    }
    (outcome.code, text)
}

#[test]
fn identities_of_other_providers_are_exchanged() {
    let gce = Arc::new(Gce::of_records());
    gce.put_image("here", json!({}));
    let servers = Servers::start(&gce);
    let mut env = gce.env();
    let token = env.write("token", &format!("{SUBJECT}\n"));
    let json_token = env.write("token.json", &json!({"id": SUBJECT}).to_string());
    let format = json!({"type": "json", "subject_token_field_name": "id"});
    let said = json!({"version": 1, "success": true, "token_type": "x", "id_token": SUBJECT});
    let program = env.program(
        "give me",
        &format!(
            "#!/bin/sh\ntest \"$1\" = 'a b' && test \"$GOOGLE_EXTERNAL_ACCOUNT_AUDIENCE\" = //iam/pool || exit 3\n\
             echo '{said}'\n"
        ),
    );
    env.set("GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES", "1");
    let command = format!("'{}' 'a b'", program.display());
    for source in [
        json!({"file": token}),
        json!({"file": json_token, "format": format}),
        json!({"url": servers.url("/subject"), "headers": {"x-who": "hush-header"}, "format": format}),
        json!({"executable": {"command": command, "timeout_millis": 30000}}),
    ] {
        for acts in [false, true] {
            let (code, text) = list(&mut env, &servers.external(&source, acts));
            assert_eq!(code, 0, "{source}: {text}");
            assert!(text.contains("here"), "{text}");
            let asked = std::mem::take(&mut *servers.asked.lock().unwrap());
            assert_eq!(asked.iter().any(|r| r.path().contains(ACTS_FOR)), acts);
        }
    }
}

#[test]
fn what_fails_on_the_way_is_said_without_the_tokens() {
    let gce = Arc::new(Gce::of_records());
    let servers = Servers::start(&gce);
    let mut env = gce.env();
    let wrong = env.write("wrong", "wrong-subject-hush");
    let fails = env.program("fails", "#!/bin/sh\necho subject-hush >&2\nexit 3\n");
    let says = json!({"version": 1, "success": false, "code": "E17", "message": SUBJECT});
    let says = env.program("says", &format!("#!/bin/sh\necho '{says}'\n"));
    let run = |program: &std::path::Path| json!({"executable": {"command": program.display().to_string()}});
    let url = json!({"url": servers.url("/subject"), "headers": {"x-who": "hush-header-2"}});
    for (allowed, source, told) in [
        (true, json!({"file": "/nonexistent"}), "cannot read credentials /nonexistent"),
        (true, json!({"file": wrong}), "403 Forbidden"),
        (true, url, "403 Forbidden"),
        (true, run(&fails), "the executable ended with"),
        (true, run(&says), "E17"),
        (false, run(&says), "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES=1"),
    ] {
        match allowed {
            true => env.set("GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES", "1"),
            false => env.unset("GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES"),
        };
        let (code, text) = list(&mut env, &servers.external(&source, true));
        assert_eq!(code, 1, "{source}: {text}");
        assert!(text.contains(told), "{source}: {text}");
    }
    assert!(gce.proxy.take_journal().is_empty());
}

#[test]
fn accounts_are_acted_for() {
    let gce = Arc::new(Gce::of_records());
    gce.put_image("here", json!({}));
    let servers = Servers::start(&gce);
    let mut env = gce.env();
    let source: Value = serde_json::from_str(&key_file(&format!("{}/token", gce.proxy.url()))).unwrap();
    let file = json!({
        "type": "impersonated_service_account", "source_credentials": source,
        "service_account_impersonation_url": servers.acts_at(), "delegates": [],
    });
    let (code, text) = list(&mut env, &file);
    assert_eq!(code, 0, "{text}");
    let destroyed = env.mantle(&["ore", "gcloud", "delete-images", "here"]).expect(0);
    assert!(destroyed.stderr.contains(&format!("as {ACTS_FOR}")), "{}", destroyed.stderr);
}
