//! The signed statement with which a service account asks for a token (RFC 7523).

use openssl::pkey::{PKey, Private};
use serde_json::json;

use crate::cloud::jwt::{Algorithm, sign};

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
    sign(Algorithm::Rs256, &[], &claims, key)
}

#[cfg(test)]
mod tests {
    use openssl::rsa::Rsa;

    use super::*;

    #[test]
    fn the_claims_are_those_of_a_service_account() {
        let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let token = assertion("me@x.iam", &key, "a b", "https://t/", 1_000_010).unwrap();
        let claims =
            json!({"iss":"me@x.iam","scope":"a b","aud":"https://t/","iat":1_000_000,"exp":1_003_600});
        assert_eq!(crate::cloud::jwt::tests::parts(&token), (json!({"alg":"RS256","typ":"JWT"}), claims));
    }
}
