//! Certificates of our own, and servers that show them.

use std::io::{BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::ssl::{SslAcceptor, SslAcceptorBuilder, SslMethod};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};

use super::http::{self, Request, Response};

/// A certificate of this name for 127.0.0.1, by an authority or by itself.
pub fn certificate(name: &str, authority: Option<(&X509, &PKey<Private>)>) -> (X509, PKey<Private>) {
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

/// What a server shows.
pub fn acceptor(certificate: &X509, key: &PKey<Private>) -> SslAcceptorBuilder {
    let mut acceptor = SslAcceptor::mozilla_intermediate(SslMethod::tls()).unwrap();
    acceptor.set_certificate(certificate).unwrap();
    acceptor.set_private_key(key).unwrap();
    acceptor
}

/// Serves over TLS on a free port of loopback for as long as the test process lives.
pub fn serve(
    acceptor: SslAcceptorBuilder,
    handler: impl Fn(Request) -> Response + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (acceptor, handler) = (acceptor.build(), Arc::new(handler));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (acceptor, handler) = (acceptor.clone(), handler.clone());
            std::thread::spawn(move || -> Option<()> {
                let mut stream = BufReader::new(acceptor.accept(stream.ok()?).ok()?);
                loop {
                    let request = http::read_request(&mut stream, std::io::sink())?;
                    let head = request.method == "HEAD";
                    let answer = handler(request);
                    let stream = stream.get_mut();
                    http::write(&mut *stream, &answer, head, answer.body.len()).ok()?;
                    stream.flush().ok()?;
                }
            });
        }
    });
    address
}
