//! `ore azure`'s commands for the classic API, against a double of our own.

use std::net::SocketAddr;

use openssl::pkey::{PKey, Private};
use openssl::ssl::SslVerifyMode;
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;
use serde_json::{Value, json};

use super::asm::{Asm, SUBSCRIPTION, error, read};
use crate::support::emulators::environment;
use crate::support::http::{self, Response};
use crate::support::proxy::{Entry, Fault};
use crate::support::{Env, Outcome, repository, tls};

fn ore(env: &Env, words: &[&str]) -> Outcome {
    env.mantle(&[&["ore", "azure"], words].concat())
}

const CREATE: [&str; 4] = ["create-image", "--name=a b/ü", "--label=L <1>", "--blob=https://b/x.vhd"];
const REPLICATE: [&str; 5] =
    ["replicate-image", "a b/ü", "--sku=alpha", "--version=1.2.3", "--region=East US,West US"];

#[test]
fn images_are_made_copied_shared_and_taken_back() {
    let asm = Asm::new();
    let env = asm.env("storage.test");
    let outcome =
        ore(&env, &[&CREATE[..], &["--family=f", "--published-date=2026-01-02"]].concat()).expect(0);
    assert!(
        outcome.stdout.is_empty() && outcome.stderr.contains("Creating Azure API..."),
        "{}",
        outcome.stderr
    );
    let polls = |id: &str| vec![format!("GET /S/operations/{id}"); 3];
    assert_eq!(asm.asked(), [vec!["POST /S/services/images".to_owned()], polls("op-0")].concat());
    let fields = &asm.images()["a b/ü"].fields;
    let fields: Vec<_> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(
        fields,
        [
            ("Category", "Public"),
            ("Label", "L <1>"),
            ("MediaLink", "https://b/x.vhd"),
            ("Name", "a b/ü"),
            ("OS", "Linux"),
            ("ImageFamily", "f"),
            ("PublishedDate", "2026-01-02"),
            ("ShowInGui", "false"),
            ("IconUri", "coreos-globe-color-lg-100px.png"),
            ("RecommendedVMSize", "Medium"),
            ("SmallIconUri", "coreos-globe-color-lg-45px.png"),
        ]
    );
    ore(&env, &REPLICATE).expect(0);
    let image = "/S/services/images/a%20b%2F%C3%BC";
    assert_eq!(asm.asked(), [vec![format!("PUT {image}/replicate")], polls("op-1")].concat());
    let there = &asm.images()["a b/ü"];
    assert_eq!(
        (&there.regions[..], &there.attributes[..]),
        (&["East US".into(), "West US".into()][..], &["CoreOS".into(), "alpha".into(), "1.2.3".into()][..],)
    );
    ore(&env, &["replicate-image", "a b/ü", "--sku=s", "--version=1.0.0+b"]).expect(0);
    assert_eq!(asm.images()["a b/ü"].regions.len(), 28);
    asm.asked();
    ore(&env, &["share-image", "a b/ü"]).expect(0);
    assert_eq!(asm.asked()[0], format!("PUT {image}/share?permission=public"));
    ore(&env, &["share-image", "--permission=msdn", "a b/ü"]).expect(0);
    assert_eq!(asm.images()["a b/ü"].permission.as_deref(), Some("msdn"));
    ore(&env, &["unreplicate-image", "a b/ü"]).expect(0);
    assert!(asm.images()["a b/ü"].regions.is_empty());
    // One that is there is not made again.
    let outcome = ore(&env, &CREATE).expect(1);
    assert!(outcome.stderr.contains("Couldn't create image"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("ConflictError: The image already exists."), "{}", outcome.stderr);
}

#[test]
fn only_what_may_pass_is_tried_again() {
    let asm = Asm::new();
    let env = asm.env("storage.test");
    asm.put_image("i");
    let replicate = ["replicate-image", "i", "--sku=s", "--version=1.0.0"];
    let changes = |asm: &Asm| asm.asked().iter().filter(|a| !a.starts_with("GET")).count();
    // Something else is being done to the image: later, then.
    asm.proxy.on(|r| r.method == "PUT", 0, 2, Fault::Answer(error(409, "ConflictError", "busy")));
    ore(&env, &replicate).expect(0);
    assert_eq!(changes(&asm), 3);
    asm.proxy.calm();
    for (status, code) in [(404, "ResourceNotFound"), (400, "BadRequest"), (403, "ForbiddenError")] {
        asm.proxy.on(|r| r.method != "GET", 0, 1, Fault::Answer(error(status, code, "no")));
        let outcome = ore(&env, &replicate).expect(1);
        assert!(outcome.stderr.contains(&format!("{code}: no (HTTP {status}")), "{}", outcome.stderr);
        assert_eq!(changes(&asm), 1, "{code}");
        asm.proxy.calm();
    }
    for fault in [Fault::ResetAfter, Fault::ResetBefore, Fault::Answer(error(503, "ServerBusy", "later"))] {
        asm.proxy.on(|_| true, 0, 1, fault.clone());
        asm.proxy.on(|r| r.target.contains("operations"), 1, 1, fault);
        ore(&env, &replicate).expect(0);
        asm.proxy.calm();
    }
    // The answer to the order is lost: what is there then is of its making.
    asm.asked();
    asm.proxy.on(|r| r.method == "POST", 0, 1, Fault::ResetAfter);
    ore(&env, &CREATE).expect(0);
    let asked = asm.asked();
    assert_eq!(asked[..2], ["POST /S/services/images"; 2]);
    assert!(asked[2].starts_with("GET /S/services/images/"), "{asked:?}");
    asm.proxy.calm();
    // To another place with the same method and body.
    let mut moved = Response::new(307, "text/plain", "");
    let to = format!("{}/{SUBSCRIPTION}/services/images/i/unreplicate?moved", asm.proxy.url());
    moved.headers.push(("Location".into(), to));
    asm.proxy.on(|r| r.method == "PUT", 0, 1, Fault::Answer(moved));
    ore(&env, &["unreplicate-image", "i"]).expect(0);
    assert_eq!(asm.asked()[1], "PUT /S/services/images/i/unreplicate?moved");
    asm.proxy.calm();
    asm.fail("no room in East US");
    let outcome = ore(&env, &replicate).expect(1);
    assert!(
        outcome.stderr.contains("BadRequest: no room in East US (HTTP 400, request op-"),
        "{}",
        outcome.stderr
    );
    // Answers that are none.
    for body in ["", "<html>", "{}", "<Operation><Status>Lost</Status></Operation>"] {
        asm.proxy.on(|r| r.target.contains("operations"), 0, 1, Fault::Garbage(body.into()));
        let outcome = ore(&env, &replicate).expect(1);
        assert!(outcome.stderr.contains("Get Operation Status cannot be understood"), "{}", outcome.stderr);
        asm.proxy.calm();
    }
}

/// The service behind TLS, which asks for a certificate; whom it trusts, and a certificate that it takes.
struct Guarded {
    asm: Asm,
    address: SocketAddr,
    authority: X509,
    client: (X509, PKey<Private>),
}

impl Guarded {
    fn start() -> Self {
        let asm = Asm::new();
        let (authority, authority_key) = tls::certificate("authority", None);
        let (server, server_key) = tls::certificate("server", Some((&authority, &authority_key)));
        let client = tls::certificate("client", Some((&authority, &authority_key)));
        let mut acceptor = tls::acceptor(&server, &server_key);
        let mut trusted = X509StoreBuilder::new().unwrap();
        trusted.add_cert(authority.clone()).unwrap();
        acceptor.set_verify_cert_store(trusted.build()).unwrap();
        acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        let plain = asm.proxy.address;
        let address = tls::serve(acceptor, move |request| http::send(plain, &request).unwrap());
        Self { asm, address, authority, client }
    }
}

fn text(pem: Vec<u8>) -> String {
    String::from_utf8(pem).unwrap()
}

#[test]
fn a_certificate_says_who_one_is() {
    let Guarded { asm, address, authority, client: (client, client_key) } = Guarded::start();
    let (other, other_key) = tls::certificate("other", None);
    let mut env = asm.env("storage.test");
    env.write("ca.pem", &text(authority.to_pem().unwrap()));
    env.set("SSL_CERT_FILE", "ca.pem");
    let entry = |name: &str, key: &str, cert: &X509| {
        json!({"id": SUBSCRIPTION, "name": name, "managementEndpointUrl": format!("https://{address}"),
            "managementCertificate": {"key": key, "cert": text(cert.to_pem().unwrap())}})
    };
    let rsa = text(client_key.rsa().unwrap().private_key_to_pem().unwrap());
    let foreign = text(other_key.private_key_to_pem_pkcs8().unwrap());
    let mut bare = entry("bare", "", &client);
    bare["managementCertificate"] = Value::Null;
    let profile = json!({"subscriptions": [
        entry("right", &rsa, &client), entry("foreign", &foreign, &other), entry("mixed", &foreign, &client),
        entry("odd", "SECRET", &client), bare,
    ]});
    env.write(".azure/azureProfile.json", &profile.to_string());
    asm.put_image("i");
    let mut container = openssl::pkcs12::Pkcs12::builder();
    let container = container.name("x").pkey(&client_key).cert(&client).build2("").unwrap().to_der().unwrap();
    env.write("a.publishsettings", &format!(
        "<PublishData><PublishProfile SchemaVersion=\"2.0\"><Subscription ServiceManagementUrl=\"https://{address}\" \
         Id=\"{SUBSCRIPTION}\" Name=\"right\" ManagementCertificate=\"{}\"/></PublishProfile></PublishData>",
        openssl::base64::encode_block(&container)
    ));
    let share = ["share-image", "i"];
    for options in [&[][..], &["--azure-subscription=right"], &["--azure-profile=a.publishsettings"]] {
        ore(&env, &[options, &share].concat()).expect(0);
        assert_eq!(asm.asked().len(), 4);
    }
    for (options, told) in [
        ("--azure-subscription=foreign", "Share OS Image failed"),
        ("--azure-subscription=mixed", "its key is another certificate's"),
        ("--azure-subscription=odd", "there is no key in PEM"),
        ("--azure-subscription=bare", "has no management certificate"),
        ("--azure-subscription=none", "doesn't exist in"),
        ("--azure-profile=missing", "Failed to read Azure Profile \"missing\""),
        ("--azure-profile=ca.pem", "not the expected JSON"),
    ] {
        let outcome = ore(&env, &[&["--debug", options], &share[..]].concat()).expect(1);
        assert!(outcome.stderr.contains(told), "{options}: {}", outcome.stderr);
        assert!(
            !outcome.stderr.contains("SECRET") && !outcome.stderr.contains("BEGIN"),
            "{}",
            outcome.stderr
        );
    }
    assert!(asm.asked().is_empty());
}

/// The double is what Microsoft's own client expects.
#[test]
fn microsofts_client_takes_our_double_for_the_service() {
    let Some(python) = environment("python") else { return };
    let Guarded { asm, address, authority, client: (client, client_key) } = Guarded::start();
    asm.put_key("acc", "a2V5");
    let mut env = asm.env("storage.test");
    env.write("ca.pem", &text(authority.to_pem().unwrap()));
    let own = [client_key.private_key_to_pem_pkcs8().unwrap(), client.to_pem().unwrap()].concat();
    let own = env.write("own.pem", &text(own)).display().to_string();
    env.set("REQUESTS_CA_BUNDLE", "ca.pem").set("PYTHONDONTWRITEBYTECODE", "1");
    let script = repository().join("tests/cloud/azure/classic.py").display().to_string();
    let words = ["-W", "ignore", &script, &address.to_string(), &own, SUBSCRIPTION];
    let outcome = env.start(&python.join("bin/python"), &words).finish().expect(0);
    let expected = [
        r#"["add", "Succeeded", 3, null]"#,
        r#"["replicate", "Succeeded", 3, null]"#,
        r#"["unreplicate", "Succeeded", 3, null]"#,
        r#"["conflict", true]"#,
        r#"["missing", true]"#,
        r#"["keys", "a2V5", "x"]"#,
    ];
    assert_eq!(outcome.stdout.lines().collect::<Vec<_>>(), expected);
    // It asks for the same things as we do.
    let theirs = asm.proxy.take_journal();
    let env = asm.env("storage.test");
    let replicate = ["--offer=offer", "--sku=sku", "--version=1.0.0", "--region=East US,West US", "theirs"];
    ore(&env, &[&["replicate-image"], &replicate[..]].concat()).expect(0);
    let body = |journal: &[Entry]| {
        let found = journal.iter().find(|e| e.request.target.ends_with("/services/images/theirs/replicate"));
        let request = found.unwrap().request.clone();
        (request.method.clone(), request.header("x-ms-version").map(str::to_owned), read(&request.body))
    };
    assert_eq!(body(&theirs), body(&asm.proxy.take_journal()));
}

#[test]
fn mistakes_are_told_before_anything_is_asked() {
    let asm = Asm::new();
    let env = asm.env("storage.test");
    let replicate = ["replicate-image", "i", "--sku=s", "--version=1.0.0"];
    for (words, told) in [
        (&["create-image"][..], "--name is required"),
        (&["create-image", "--name=n", "--blob=b"], "--label is required"),
        (&["create-image", "--name=n", "--label=l", "--blob="], "--blob is required"),
        (&["create-image", "x"], "unexpected argument"),
        (&["replicate-image"], "expecting 1 argument, got 0"),
        (&["replicate-image", "a", "b"], "expecting 1 argument, got 2"),
        (&["replicate-image", "a", "--offer="], "offer name is required"),
        (&["replicate-image", "a"], "sku is required"),
        (&["replicate-image", "a", "--sku=s"], "version is required"),
        (&["replicate-image", "a", "--sku=s", "--version=1.2"], "version is not valid semver"),
        (&[&replicate[..], &["--region="]].concat(), "at least one region"),
        (&["share-image"], "expecting 1 argument, got 0"),
        (&["share-image", "a", "--permission="], "permission is required"),
        (&["share-image", "a", "--permission=all"], "public, msdn and private"),
        (&["unreplicate-image"], "expecting 1 argument, got 0"),
    ] {
        let outcome = ore(&env, words).expect(2);
        assert!(outcome.stderr.contains(told), "{words:?}: {}", outcome.stderr);
    }
    for verb in ["create-image", "replicate-image", "share-image", "unreplicate-image", "upload-blob"] {
        let help = ore(&env, &[verb, "--help"]).expect(0).stdout;
        assert!(help.contains("switched off"), "{verb}: {help}");
    }
    assert!(asm.asked().is_empty());
}
