//! Who one is at Azure: every place where credentials are found, what is asked of servers of tokens, and that no secret
//! is ever said.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::pkcs12::Pkcs12;
use openssl::pkey::{PKey, Private};
use openssl::x509::{X509, X509NameBuilder};
use serde_json::{Value, json};

use super::double::{Azure, CLIENT, LOCATION, SECRET, SUBSCRIPTION, TENANT, id};
use super::{action, judged};
use crate::cloud::matrix::Double as _;
use crate::support::Env;
use crate::support::http::{self, Reply, Request, Response};

/// Words that nobody may say.
const HUSH: &[&str] = &[SECRET, "hush~client", "hush-token", "hush-subject", "hush-header", "hush-password"];

/// Somebody without credentials, who knows where Azure is.
fn nobody(azure: &Azure) -> Env {
    let mut env = azure.env();
    std::fs::remove_file(env.home().join(".azure/credentials.json")).unwrap();
    env.set("AZURE_AUTHORITY_HOST", azure.proxy.url()).set("AZURE_SUBSCRIPTION_ID", SUBSCRIPTION);
    env
}

/// Looks for leftovers: the exit status, and all that was said. The requests were right.
#[track_caller]
fn gc(azure: &Azure, env: &Env, more: &[&str]) -> (i32, String) {
    let endpoint = format!("--azure-endpoint={}", azure.proxy.url());
    let mut words = vec!["ore", "azure", &endpoint, "gc", "--debug"];
    words.extend(more);
    let outcome = env.mantle(&words);
    let text = format!("{}{}", outcome.stdout, outcome.stderr);
    for secret in HUSH {
        assert!(!text.contains(secret), "{secret} shows: {text}");
    }
    (outcome.code, text)
}

/// The form of the last request for a token.
fn form(azure: &Azure) -> Vec<(String, String)> {
    let journal = azure.proxy.take_journal();
    judged(&journal);
    journal.iter().rfind(|e| action(&e.request) == "token").map(|e| e.request.form()).unwrap_or_default()
}

fn field(form: &[(String, String)], name: &str) -> String {
    form.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()).unwrap_or_default()
}

fn certificate() -> (PKey<Private>, X509) {
    let key = PKey::from_rsa(openssl::rsa::Rsa::generate(2048).unwrap()).unwrap();
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "me").unwrap();
    let name = name.build();
    let mut builder = X509::builder().unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(9).unwrap()).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    (key, builder.build())
}

#[test]
fn applications_prove_themselves_in_each_way() {
    let azure = Azure::of_records();
    let mut env = nobody(&azure);
    let (code, text) = gc(&azure, &env, &[]);
    assert!(code == 1 && text.contains("none were found"), "{text}");
    env.set("AZURE_CLIENT_SECRET", SECRET);
    let (code, text) = gc(&azure, &env, &[]);
    assert!(code == 1 && text.contains("AZURE_CLIENT_ID is not set"), "{text}");
    env.set("AZURE_CLIENT_ID", CLIENT).set("AZURE_TENANT_ID", TENANT);
    let (code, text) = gc(&azure, &env, &[]);
    assert!(
        code == 0 && text.contains(&format!("as application {CLIENT}, with keys from the environment")),
        "{text}"
    );
    let sent = form(&azure);
    assert_eq!(field(&sent, "scope"), "https://management.azure.com/.default");
    env.unset("AZURE_CLIENT_SECRET");
    // A token of another provider's.
    let subject = env.write("subject", "eyhush-subject\n");
    env.set("AZURE_FEDERATED_TOKEN_FILE", &subject);
    assert_eq!(gc(&azure, &env, &[]).0, 0);
    assert_eq!(field(&form(&azure), "client_assertion"), "eyhush-subject");
    // Certificates: PEM with and without password, PKCS #12.
    let (key, certificate) = certificate();
    let plain = key.private_key_to_pem_pkcs8().unwrap();
    let cipher = openssl::symm::Cipher::aes_256_cbc();
    let locked = key.private_key_to_pem_pkcs8_passphrase(cipher, b"hush-password").unwrap();
    let public = certificate.to_pem().unwrap();
    let packed = Pkcs12::builder().pkey(&key).cert(&certificate).build2("hush-password").unwrap();
    let file = env.home().join("certificate");
    env.set("AZURE_CLIENT_CERTIFICATE_PATH", &file).set("AZURE_CLIENT_SEND_CERTIFICATE_CHAIN", "true");
    for (content, password) in [
        ([plain.clone(), public.clone()].concat(), None),
        ([public.clone(), locked.clone()].concat(), Some("hush-password")),
        (packed.to_der().unwrap(), Some("hush-password")),
    ] {
        std::fs::write(&file, content).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        match password {
            Some(password) => env.set("AZURE_CLIENT_CERTIFICATE_PASSWORD", password),
            None => env.unset("AZURE_CLIENT_CERTIFICATE_PASSWORD"),
        };
        let (code, text) = gc(&azure, &env, &[]);
        assert_eq!(code, 0, "{text}");
        let statement = field(&form(&azure), "client_assertion");
        let part = |n: usize| -> Value {
            let text = statement.split('.').nth(n).unwrap().replace('-', "+").replace('_', "/");
            let text = format!("{text}{}", "=".repeat((4 - text.len() % 4) % 4));
            serde_json::from_slice(&openssl::base64::decode_block(&text).unwrap()).unwrap()
        };
        let (header, claims) = (part(0), part(1));
        assert_eq!(header["x5c"], json!([openssl::base64::encode_block(&certificate.to_der().unwrap())]));
        assert_eq!(claims["aud"], format!("{}/{TENANT}/oauth2/v2.0/token", azure.proxy.url()));
        assert_eq!((&claims["iss"], &claims["sub"]), (&json!(CLIENT), &json!(CLIENT)));
    }
    for (content, told) in [
        (b"hush-password".to_vec(), "it is neither PEM nor PKCS #12"),
        (public, "it has no private key that the password opens"),
        (plain, "it has no certificate"),
        (locked, "it has no certificate"),
    ] {
        std::fs::write(&file, content).unwrap();
        let (code, text) = gc(&azure, &env, &[]);
        assert!(code == 1 && text.contains(told), "{told}: {text}");
    }
}

#[test]
fn files_of_applications_name_all_that_is_needed() {
    let azure = Azure::of_records();
    let mut env = nobody(&azure);
    env.unset("AZURE_AUTHORITY_HOST").unset("AZURE_SUBSCRIPTION_ID");
    let ore = |env: &Env, more: &[&str]| {
        let outcome = env.mantle(&[&["ore", "azure"][..], more, &["gc", "--debug"]].concat());
        let text = format!("{}{}", outcome.stdout, outcome.stderr);
        assert!(HUSH.iter().all(|h| !text.contains(h)), "{text}");
        (outcome.code, text)
    };
    // In UTF-16 with a byte order mark, as some shells write it.
    let utf16: Vec<u8> =
        format!("\u{feff}{}", azure.auth_file()).encode_utf16().flat_map(u16::to_le_bytes).collect();
    let file = env.write("auth.json", "");
    std::fs::write(&file, utf16).unwrap();
    let chosen = format!("--azure-auth={}", file.display());
    assert_eq!(ore(&env, &[&chosen]).0, 0);
    let sent = form(&azure);
    assert_eq!(field(&sent, "resource"), format!("{}/", azure.proxy.url()));
    env.set("AZURE_AUTH_LOCATION", &file);
    assert_eq!(ore(&env, &[]).0, 0);
    env.unset("AZURE_AUTH_LOCATION");
    // As Fedora CoreOS's tools have it.
    let file = json!({"appId": CLIENT, "password": SECRET, "subscription": SUBSCRIPTION, "tenant": TENANT});
    env.write(".azure/azureCreds.json", &file.to_string());
    env.set("AZURE_AUTHORITY_HOST", azure.proxy.url());
    let endpoint = format!("--azure-endpoint={}", azure.proxy.url());
    assert_eq!(ore(&env, &[&endpoint]).0, 0);
    for (file, told) in [
        (json!({"appId": CLIENT, "password": SECRET}), "it has no tenantId"),
        (json!({"clientId": CLIENT, "tenantId": TENANT}), "it has no clientSecret"),
        (json!({"clientSecret": [SECRET]}), "not the expected JSON"),
        (json!({"clientId": CLIENT, "clientSecret": SECRET, "tenantId": TENANT}), "no subscription is named"),
    ] {
        env.write(".azure/azureCreds.json", &file.to_string());
        let (code, text) = ore(&env, &[&endpoint]);
        assert!(code == 1 && text.contains(told), "{told}: {text}");
    }
    // A wrong secret, which the server repeats in its refusal.
    let wrong = azure.auth_file().replace(CLIENT, "client-2");
    env.write(".azure/credentials.json", &wrong);
    let (code, text) = ore(&env, &[]);
    assert!(
        code == 1 && text.contains("cannot get a token with") && text.contains("AADSTS7000215"),
        "{text}"
    );
    let open = env.home().join(".azure/credentials.json");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(ore(&env, &[]).1.contains("others may read the keys in"));
}

#[test]
fn subscriptions_have_names_and_clouds() {
    let azure = Azure::of_records();
    let mut env = azure.env();
    let url = azure.proxy.url();
    let profile = json!({
        "environments": [{"name": "Mine", "resourceManagerEndpointUrl": url, "storageEndpointSuffix": ".x"}],
        "subscriptions": [
            {"id": "99999999-0000-4000-8000-000000000000", "name": "other", "environmentName": "Mine"},
            {"id": SUBSCRIPTION, "name": "the one", "isDefault": true, "environmentName": "Mine",
             "managementCertificate": {"key": "hush-header", "cert": "hush-header"}},
        ],
    });
    env.write(".azure/azureProfile.json", &format!("\u{feff}{profile}"));
    let ore = |env: &Env, more: &[&str]| env.mantle(&[&["ore", "azure"][..], more, &["gc"]].concat());
    ore(&env, &["--azure-subscription=the one"]).expect(0);
    let outcome = ore(&env, &["--azure-subscription=other"]).expect(1);
    assert!(outcome.stderr.contains("SubscriptionNotFound"), "{}", outcome.stderr);
    let outcome = ore(&env, &["--azure-subscription=third"]).expect(1);
    assert!(
        outcome.stderr.contains("Azure subscription named \"third\" doesn't exist"),
        "{}",
        outcome.stderr
    );
    // Without a file of an application: the default one of the profile, and its cloud.
    std::fs::remove_file(env.home().join(".azure/credentials.json")).unwrap();
    env.set("AZURE_CLIENT_ID", CLIENT).set("AZURE_TENANT_ID", TENANT).set("AZURE_CLIENT_SECRET", SECRET);
    env.set("AZURE_AUTHORITY_HOST", &url);
    ore(&env, &[]).expect(0);
    assert_eq!(field(&form(&azure), "scope"), format!("{url}/.default"));
    env.set("AZURE_CLOUD", "moon");
    let outcome = ore(&env, &[]).expect(1);
    assert!(outcome.stderr.contains("$AZURE_CLOUD is \"moon\""), "{}", outcome.stderr);
}

/// A server of tokens of this machine, which must be asked so.
fn machine(azure: &Arc<Azure>, right: fn(&Request) -> bool) -> (String, Arc<Mutex<Vec<Request>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (note, azure) = (asked.clone(), azure.clone());
    let address = http::serve(move |request| {
        note.lock().unwrap().push(request.clone());
        Reply::Answer(match right(&request) {
            true => {
                let until = (chrono::Utc::now().timestamp() + 3600).to_string();
                let token =
                    json!({"access_token": azure.token(), "expires_on": until, "token_type": "Bearer"});
                Response::new(200, "application/json", token.to_string())
            }
            false => {
                Response::new(400, "application/json", format!("{:?} {}", request.headers, request.target))
            }
        })
    });
    (format!("http://{address}"), asked)
}

#[test]
fn machines_have_identities_of_their_own() {
    let azure = Arc::new(Azure::of_records());
    azure.put(
        &id("kola-cluster-1", ""),
        json!({"location": LOCATION, "tags": {"createdAt": "2026-01-01T00:00:00Z"}}),
    );
    let mut env = nobody(&azure);
    let (url, asked) = machine(&azure, |r| {
        r.path() == "/metadata/identity/oauth2/token" && r.header("metadata") == Some("true")
    });
    env.set("AZURE_POD_IDENTITY_AUTHORITY_HOST", &url).set("AZURE_CLIENT_ID", "identity-1");
    let (code, text) = gc(&azure, &env, &[]);
    assert!(code == 0 && text.contains("as this machine's identity identity-1"), "{text}");
    let query = asked.lock().unwrap()[0].query();
    let expected = [
        ("api-version", "2018-02-01"),
        ("resource", "https://management.azure.com"),
        ("client_id", "identity-1"),
    ];
    assert_eq!(query, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
    env.unset("AZURE_CLIENT_ID");
    let (url, asked) = machine(&azure, |r| r.header("x-identity-header") == Some("hush-header"));
    env.set("IDENTITY_ENDPOINT", format!("{url}/msi/token")).set("IDENTITY_HEADER", "hush-header");
    let (code, text) = gc(&azure, &env, &[]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(asked.lock().unwrap()[0].query()[0], ("api-version".into(), "2019-08-01".into()));
    env.set("IDENTITY_HEADER", "hush-header-2");
    let (code, text) = gc(&azure, &env, &[]);
    assert!(code == 1 && text.contains("cannot get a token with the identity of this app"), "{text}");
}

#[test]
fn the_azure_cli_is_asked_last() {
    let azure = Azure::of_records();
    let env = nobody(&azure);
    let until = chrono::Utc::now().timestamp() + 3600;
    let said =
        json!({"accessToken": azure.token(), "expires_on": until, "expiresOn": "2099-01-01 00:00:00.000000"});
    let want = format!(
        "account get-access-token --output json --resource https://management.azure.com --subscription {SUBSCRIPTION}"
    );
    env.program("az", &format!("#!/bin/sh\ntest \"$*\" = '{want}' || exit 3\necho '{said}'\n"));
    let (code, text) = gc(&azure, &env, &[]);
    assert!(
        code == 0 && text.contains("as the user of the Azure CLI, with keys from the Azure CLI"),
        "{text}"
    );
    for (script, told) in [
        ("echo hush-token >&2; exit 1", "`az login` may help"),
        ("echo '{\"accessToken\": \"hush-token-9\"}'", "does not say how long"),
        (
            "echo '{\"accessToken\": \"hush-token-9\", \"expiresOn\": \"2001-01-01 00:00:00.0\"}'",
            "has expired already",
        ),
        ("echo 'hush-token'", "the answer is no token"),
    ] {
        env.program("az", &format!("#!/bin/sh\n{script}\n"));
        let (code, text) = gc(&azure, &env, &[]);
        assert!(code == 1 && text.contains(told), "{told}: {text}");
    }
}
