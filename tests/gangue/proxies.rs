//! Proxies and certificates of the environment, and secrets in what is said.

use std::net::{SocketAddr, TcpListener};

use openssl::pkey::{PKey, Private};
use openssl::x509::X509;

use super::{Bench, PATH};
use crate::support::http::{Reply, Response, serve};
use crate::support::tls::{self, certificate};
use crate::support::{Env, Outcome};

fn get(env: &Env, url: &str) -> Outcome {
    env.mantle(&["gangue", "get", "--verify=false", url, "out/"])
}

#[test]
fn a_proxy_that_fails_is_named_with_its_variable() {
    let mut bench = Bench::new(100);
    let refused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(); // closed again at once
    bench.env.set("http_proxy", format!("http://bob:PW@{refused}"));
    let outcome = get(&bench.env, "http://target.test/x").expect(1);
    let named =
        format!("no answer from http://target.test/x through the proxy http://{refused} of $http_proxy");
    assert!(outcome.stderr.contains(&named), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("PW"), "{}", outcome.stderr);
    // addresses are excepted, too
    for except in ["*", "127.0.0.0/8"] {
        bench.env.set("NO_PROXY", except);
        get(&bench.env, &bench.url("http")).expect(0);
    }
    // nothing is asked while a variable is malformed
    bench.server.take_log();
    bench.env.unset("NO_PROXY");
    for (value, said) in
        [("http://bob:PW@[bad", "http://***@[bad"), ("socks5://h:1", "socks5:// proxies are not supported")]
    {
        bench.env.set("http_proxy", value);
        let outcome = get(&bench.env, &bench.url("http")).expect(1);
        assert!(
            outcome.stderr.contains("$http_proxy") && outcome.stderr.contains(said),
            "{}",
            outcome.stderr
        );
    }
    assert!(bench.server.take_log().is_empty());
}

#[test]
fn a_wrong_proxy_password_is_tried_once() {
    let tries = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = tries.clone();
    let proxy = serve(move |request| {
        seen.lock().unwrap().push(request.header("proxy-authorization").map(String::from));
        Reply::Answer(Response::new(407, "text/plain", "who are you?"))
    });
    let mut bench = Bench::new(100);
    for name in ["http_proxy", "https_proxy"] {
        bench.env.set(name, format!("http://bob:PW@{proxy}"));
    }
    for scheme in ["http", "https"] {
        let outcome = get(&bench.env, &format!("{scheme}://target.test/x")).expect(1);
        let named = format!("the proxy http://{proxy} of ${scheme}_proxy refuses");
        assert!(outcome.stderr.contains(&named), "{}", outcome.stderr);
        let tries = std::mem::take(&mut *tries.lock().unwrap());
        assert_eq!(tries, [Some("Basic Ym9iOlBX".into())], "{scheme}");
        assert!(!outcome.stderr.contains("PW"), "{}", outcome.stderr);
    }
}

#[test]
fn trusted_certificates_that_cannot_be_used_are_no_secret() {
    let mut bench = Bench::new(100);
    bench.env.write("text", "no certificate");
    for (value, said) in [("nowhere", "No such file"), ("text", "no certificates in PEM")] {
        bench.env.set("SSL_CERT_FILE", value);
        let outcome = get(&bench.env, &bench.url("http")).expect(1);
        let named = format!("$SSL_CERT_FILE ({value})");
        assert!(outcome.stderr.contains(&named) && outcome.stderr.contains(said), "{}", outcome.stderr);
    }
    assert!(bench.server.take_log().is_empty());
}

/// A server of one file over TLS.
fn serve_tls(certificate: &X509, key: &PKey<Private>) -> SocketAddr {
    tls::serve(tls::acceptor(certificate, key), |_| Response::new(200, "text/plain", "hello"))
}

#[test]
fn an_unknown_authority_is_told_once_in_words() {
    let mut bench = Bench::new(100);
    let (authority, authority_key) = certificate("Our CA", None);
    let (other, _) = certificate("Their CA", None);
    let (own, own_key) = certificate("server", Some((&authority, &authority_key)));
    let url = format!("https://{}/hello", serve_tls(&own, &own_key));
    let pem = |c: &X509| String::from_utf8(c.to_pem().unwrap()).unwrap();
    bench.env.write("ours.pem", &pem(&authority));
    bench.env.write("theirs.pem", &pem(&other));
    for (value, trusted) in [
        (None, "the system's certificates, as $SSL_CERT_FILE names no others"),
        (Some("theirs.pem"), "$SSL_CERT_FILE=theirs.pem"),
    ] {
        if let Some(value) = value {
            bench.env.set("SSL_CERT_FILE", value);
        }
        let text = get(&bench.env, &url).expect(1).stderr;
        let said = format!("the certificate of {url} is not trusted: unable to get local issuer certificate");
        assert_eq!(text.matches(&said).count(), 1, "{text}");
        assert!(text.contains(trusted), "no {trusted} in {text}");
        for raw in ["error:", "SSL routines", "verify failed", "trying again"] {
            assert!(!text.contains(raw), "{raw}: {text}");
        }
        assert_eq!(text.matches("issuer").count(), 1, "{text}");
    }
    bench.env.set("SSL_CERT_FILE", "ours.pem");
    get(&bench.env, &url).expect(0);
    assert_eq!(std::fs::read(bench.file("hello")).unwrap(), b"hello");
}

#[test]
fn passwords_in_urls_and_answers_are_not_shown() {
    let bench = Bench::new(100);
    for url in ["ftp://bob:PW@h/x", "http://bob:PW@[bad/x"] {
        let outcome = get(&bench.env, url).expect(2);
        assert!(!outcome.stderr.contains("PW") && outcome.stderr.contains("***@"), "{}", outcome.stderr);
    }
    // servers that repeat what they were told
    let echo = serve(|request| {
        let authorization = request.header("authorization").unwrap_or_default().to_owned();
        let text = format!("refused: {} {authorization} hushhush/1 hushhush%2F1", request.target);
        Reply::Answer(Response::new(403, "text/plain", text))
    });
    for query in ["X-Amz-Signature=hushhush%2F1", "sig=hushhush%2f1"] {
        let outcome = get(&bench.env, &format!("http://bob:PWPW@{echo}{PATH}?{query}")).expect(1);
        assert!(outcome.stderr.contains("refused: "), "{}", outcome.stderr);
        for secret in ["hushhush", "PWPW", "Ym9i"] {
            assert!(!outcome.stderr.contains(secret), "{secret}: {}", outcome.stderr);
        }
    }
}
