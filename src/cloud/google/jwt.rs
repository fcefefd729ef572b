//! The signed statement with which a service account asks for a token (RFC 7523).

use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::sign::Signer;
use serde_json::json;

/// How long a statement is valid, in seconds.
const LIFETIME: i64 = 3600;
/// How far the clock of this machine may be ahead, in seconds.
const SLACK: i64 = 10;

/// A JSON web token: `account` asks `audience` for `scopes`; `now` in Unix seconds.
pub fn assertion(
    account: &str,
    key: &PKey<Private>,
    scopes: &str,
    audience: &str,
    now: i64,
) -> Result<String, openssl::error::ErrorStack> {
    let issued = now - SLACK;
    let claims = json!({
        "iss": account, "scope": scopes, "aud": audience, "iat": issued, "exp": issued + LIFETIME,
    });
    let header = json!({"alg": "RS256", "typ": "JWT"});
    let text =
        format!("{}.{}", base64url(header.to_string().as_bytes()), base64url(claims.to_string().as_bytes()));
    let mut signer = Signer::new(MessageDigest::sha256(), key)?;
    let signature = signer.sign_oneshot_to_vec(text.as_bytes())?;
    Ok(format!("{text}.{}", base64url(&signature)))
}

/// Base64 with the alphabet for URLs, without padding (RFC 4648, 5).
pub fn base64url(data: &[u8]) -> String {
    openssl::base64::encode_block(data).trim_end_matches('=').replace('+', "-").replace('/', "_")
}

#[cfg(test)]
mod tests {
    use openssl::rsa::Rsa;
    use openssl::sign::Verifier;

    use super::*;

    #[test]
    fn the_claims_are_signed() {
        let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let token = assertion("me@x.iam", &key, "a b", "https://t/", 1_000_010).unwrap();
        let (text, signature) = token.rsplit_once('.').unwrap();
        let standard = |t: &str| {
            let t = t.replace('-', "+").replace('_', "/");
            openssl::base64::decode_block(&format!("{t}{}", "=".repeat((4 - t.len() % 4) % 4))).unwrap()
        };
        let mut verifier = Verifier::new(MessageDigest::sha256(), &key).unwrap();
        assert!(verifier.verify_oneshot(&standard(signature), text.as_bytes()).unwrap());
        let (header, claims) = text.split_once('.').unwrap();
        assert_eq!(standard(header), br#"{"alg":"RS256","typ":"JWT"}"#);
        let claims: serde_json::Value = serde_json::from_slice(&standard(claims)).unwrap();
        assert_eq!(
            claims,
            json!({"iss":"me@x.iam","scope":"a b","aud":"https://t/","iat":1_000_000,"exp":1_003_600})
        );
    }

    #[test]
    fn base64_has_no_padding_and_no_characters_of_urls() {
        assert_eq!(base64url(&[0xfb, 0xff, 0xfe, 0]), "-__-AA");
    }
}
