//! Proxies and certificates of the environment, and secrets in what is said.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::ssl::{SslAcceptor, SslMethod};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};

use super::{Bench, PATH};
use crate::support::http::{Reply, Response, serve};
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

/// A certificate of this name for 127.0.0.1, by an authority or by itself.
fn certificate(name: &str, authority: Option<(&X509, &PKey<Private>)>) -> (X509, PKey<Private>) {
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_text("CN", name).unwrap();
    let subject = subject.build();
    let mut new = X509::builder().unwrap();
    new.set_version(2).unwrap();
    new.set_serial_number(&BigNum::from_u32(1).unwrap().to_asn1_integer().unwrap()).unwrap();
    new.set_subject_name(&subject).unwrap();
    new.set_issuer_name(authority.map_or(&subject, |(a, _)| a.subject_name())).unwrap();
    new.set_pubkey(&key).unwrap();
    new.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    new.set_not_after(&Asn1Time::days_from_now(9).unwrap()).unwrap();
    let extension = match authority {
        Some(_) => SubjectAlternativeName::new().ip("127.0.0.1").build(&new.x509v3_context(None, None)),
        None => BasicConstraints::new().critical().ca().build(),
    };
    new.append_extension(extension.unwrap()).unwrap();
    new.sign(authority.map_or(&*key, |(_, k)| k), MessageDigest::sha256()).unwrap();
    (new.build(), key)
}

/// A server of one file over TLS.
fn serve_tls(certificate: &X509, key: &PKey<Private>) -> SocketAddr {
    let mut acceptor = SslAcceptor::mozilla_intermediate(SslMethod::tls()).unwrap();
    acceptor.set_certificate(certificate).unwrap();
    acceptor.set_private_key(key).unwrap();
    let acceptor = acceptor.build();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = acceptor.accept(stream.unwrap()) else { continue };
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n > 0) {
                head.push(byte[0]);
            }
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
            let _ = stream.shutdown();
        }
    });
    address
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
