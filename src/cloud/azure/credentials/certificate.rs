//! Applications that prove themselves with a certificate: they sign a statement with its key.

use chrono::{DateTime, Utc};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkcs12::Pkcs12;
use openssl::pkey::{PKey, Private};
use openssl::x509::X509;
use serde_json::{Value, json};

use crate::cloud::jwt::{Algorithm, base64url, sign};
use crate::secret::Secret;

/// How long a statement is valid, in seconds.
const LIFETIME: i64 = 600;

/// A certificate with its private key. [`std::fmt::Debug`] shows no secret.
pub struct Certificate {
    key: PKey<Private>,
    certificate: X509,
    /// What is sent along: the certificate and those above it, or nothing.
    chain: Vec<X509>,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificate(***)")
    }
}

impl Certificate {
    /// Reads PEM or PKCS #12; with `chain`, the whole chain goes to the server. What is wrong with it, without what
    /// is in it.
    ///
    /// # Errors
    /// When it is no certificate with an RSA key.
    pub fn read(content: &[u8], password: Option<&Secret>, chain: bool) -> Result<Self, &'static str> {
        let secret = password.map_or("", Secret::expose);
        let (key, mut all) = match content.windows(10).any(|w| w == b"-----BEGIN") {
            true => {
                let key = PKey::private_key_from_pem_passphrase(content, secret.as_bytes());
                let key = key.map_err(|_| "it has no private key that the password opens")?;
                (key, X509::stack_from_pem(content).map_err(|_| "it has no certificate")?)
            }
            false => {
                let packed = Pkcs12::from_der(content).map_err(|_| "it is neither PEM nor PKCS #12")?;
                let parsed = packed.parse2(secret).map_err(|_| "the password does not open it")?;
                let key = parsed.pkey.ok_or("it has no private key")?;
                let above = parsed.ca.into_iter().flatten();
                (key, parsed.cert.into_iter().chain(above).collect())
            }
        };
        if key.rsa().is_err() {
            return Err("its key is no RSA key");
        }
        let own = all.iter().position(|c| c.public_key().is_ok_and(|public| public.public_eq(&key)));
        let certificate = all.remove(own.ok_or("it has no certificate for its key")?);
        all.insert(0, certificate.clone());
        Ok(Self { key, certificate, chain: if chain { all } else { Vec::new() } })
    }

    /// The statement that this is the application `client`, for the server at `audience`.
    pub fn assertion(&self, client: &str, audience: &str, now: DateTime<Utc>) -> Result<String, ErrorStack> {
        let print = base64url(&self.certificate.digest(MessageDigest::sha256())?);
        let mut header = vec![("x5t#S256", Value::from(print))];
        if !self.chain.is_empty() {
            let der = |c: &X509| Ok(Value::from(openssl::base64::encode_block(&c.to_der()?)));
            header.push(("x5c", self.chain.iter().map(der).collect::<Result<_, ErrorStack>>()?));
        }
        let issued = now.timestamp();
        let claims = json!({
            "aud": audience, "iss": client, "sub": client, "jti": uuid::Uuid::new_v4().to_string(),
            "iat": issued, "nbf": issued, "exp": issued + LIFETIME,
        });
        sign(Algorithm::Ps256, &header, &claims, &self.key)
    }
}
