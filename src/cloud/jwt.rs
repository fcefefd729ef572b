//! Signed statements: JSON web tokens (RFC 7519) in the compact form of RFC 7515, with RSA keys.

use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Padding;
use openssl::sign::{RsaPssSaltlen, Signer};
use serde_json::Value;

/// How statements are signed (RFC 7518, 3.3 and 3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// PKCS #1, version 1.5, with SHA-256.
    Rs256,
    /// PSS with SHA-256.
    Ps256,
}

/// Signs `claims`; `header` has what stands in the header besides type and algorithm.
///
/// # Errors
/// When the key cannot sign so.
pub fn sign(
    algorithm: Algorithm,
    header: &[(&str, Value)],
    claims: &Value,
    key: &PKey<Private>,
) -> Result<String, openssl::error::ErrorStack> {
    let name = match algorithm {
        Algorithm::Rs256 => "RS256",
        Algorithm::Ps256 => "PS256",
    };
    let mut whole = serde_json::json!({"alg": name, "typ": "JWT"});
    for (field, value) in header {
        whole[*field] = value.clone();
    }
    let part = |value: &Value| base64url(value.to_string().as_bytes());
    let text = format!("{}.{}", part(&whole), part(claims));
    let mut signer = Signer::new(MessageDigest::sha256(), key)?;
    if algorithm == Algorithm::Ps256 {
        signer.set_rsa_padding(Padding::PKCS1_PSS)?;
        signer.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH)?;
    }
    let signature = signer.sign_oneshot_to_vec(text.as_bytes())?;
    Ok(format!("{text}.{}", base64url(&signature)))
}

/// Base64 with the alphabet for URLs, without padding (RFC 4648, 5).
pub fn base64url(data: &[u8]) -> String {
    openssl::base64::encode_block(data).trim_end_matches('=').replace('+', "-").replace('/', "_")
}

#[cfg(test)]
pub(crate) mod tests {
    use openssl::rsa::Rsa;
    use openssl::sign::Verifier;
    use serde_json::json;

    use super::*;

    /// Undoes [`base64url`].
    fn standard(text: &str) -> Vec<u8> {
        let text = text.replace('-', "+").replace('_', "/");
        openssl::base64::decode_block(&format!("{text}{}", "=".repeat((4 - text.len() % 4) % 4))).unwrap()
    }

    /// Header and claims of a statement.
    pub(crate) fn parts(token: &str) -> (Value, Value) {
        let mut parts = token.split('.').map(|part| serde_json::from_slice(&standard(part)));
        (parts.next().unwrap().unwrap(), parts.next().unwrap().unwrap())
    }

    #[test]
    fn statements_are_signed() {
        let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        for (algorithm, name) in [(Algorithm::Rs256, "RS256"), (Algorithm::Ps256, "PS256")] {
            let token = sign(algorithm, &[("x5t", json!("x"))], &json!({"iss": "me"}), &key).unwrap();
            let (text, signature) = token.rsplit_once('.').unwrap();
            let mut verifier = Verifier::new(MessageDigest::sha256(), &key).unwrap();
            if algorithm == Algorithm::Ps256 {
                verifier.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
            }
            assert!(verifier.verify_oneshot(&standard(signature), text.as_bytes()).unwrap());
            let expected = (json!({"alg": name, "typ": "JWT", "x5t": "x"}), json!({"iss": "me"}));
            assert_eq!(parts(&token), expected);
        }
    }

    #[test]
    fn base64_has_no_padding_and_no_characters_of_urls() {
        assert_eq!(base64url(&[0xfb, 0xff, 0xfe, 0]), "-__-AA");
    }
}
