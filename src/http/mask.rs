//! Secrets in texts: in URLs that may be malformed, and in what servers say.

use form_urlencoded::byte_serialize;
use reqwest::header::HeaderValue;

/// What stands for a secret.
const MASK: &str = "***";

/// A text with the user information of everything in it that looks like a URL masked, well-formed or not.
pub fn urls(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        masked.push_str(before);
        // A password may have any of `/?#` in it if nobody encoded it: up to the last `@` of the word, be it too much.
        let word = after.find(|c: char| c.is_whitespace() || c == '"').unwrap_or(after.len());
        let authority = after.find(['/', '?', '#']).unwrap_or(word).min(word);
        let user = after[..authority].rfind('@').or_else(|| {
            let is_suspect = after[..authority].contains(':') && !has_port(&after[..authority]);
            is_suspect.then(|| after[..word].rfind('@')).flatten()
        });
        rest = match user {
            Some(at) => {
                masked.push_str(MASK);
                &after[at..]
            }
            None => after,
        };
    }
    masked.push_str(rest);
    masked
}

/// Whether what is behind the colon may be a port.
fn has_port(authority: &str) -> bool {
    authority.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether a parameter of a query holds a secret, by its name: signed URLs and tokens of several providers.
pub fn is_secret_parameter(name: &str) -> bool {
    const PARTS: [&str; 9] = [
        "signature",
        "token",
        "secret",
        "credential",
        "password",
        "passwd",
        "apikey",
        "accesskey",
        "assertion",
    ];
    let name: String =
        name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    matches!(&*name, "sig" | "key" | "code" | "codeverifier" | "auth" | "authorization" | "awsaccesskeyid")
        || PARTS.iter().any(|part| name.contains(part))
}

/// The password in a header of basic authentication.
pub fn basic_password(header: &HeaderValue) -> Option<String> {
    let pair = openssl::base64::decode_block(header.to_str().ok()?.strip_prefix("Basic ")?).ok()?;
    let pair = String::from_utf8(pair).ok()?;
    pair.split_once(':').map(|(_, password)| password.to_owned()).filter(|p| !p.is_empty())
}

/// The forms in which a server may repeat a value: as it is, in URLs and forms, in JSON, in HTML.
pub fn forms(secret: &str) -> Vec<String> {
    let percent = |is_plain: fn(u8) -> bool, upper: bool| -> String {
        secret
            .bytes()
            .map(|b| match (is_plain(b), upper) {
                (true, _) => char::from(b).to_string(),
                (false, true) => format!("%{b:02X}"),
                (false, false) => format!("%{b:02x}"),
            })
            .collect()
    };
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let alphanumeric = |b: u8| b.is_ascii_alphanumeric();
    let path = |b: u8| b.is_ascii_alphanumeric() || b"-._~/!$&'()*,;=:@".contains(&b);
    let json = serde_json::Value::from(secret).to_string();
    let json = json.trim_matches('"').to_owned();
    let html = secret.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    let mut forms = vec![
        secret.to_owned(),
        percent(unreserved, true),
        percent(unreserved, false),
        percent(alphanumeric, true),
        percent(alphanumeric, false),
        percent(path, true),
        percent(path, false),
        byte_serialize(secret.as_bytes()).collect(),
        json.replace('/', "\\/"),
        json.replace('+', "\\u002b").replace('/', "\\u002f"),
        json,
        html.replace('\'', "&#39;").replace('+', "&#43;").replace('=', "&#61;"),
        html.replace('\'', "&#x27;"),
        html,
        openssl::base64::encode_block(secret.as_bytes()),
    ];
    forms.retain(|form| !form.is_empty());
    // The longest first: a short one may be a part of it.
    forms.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
    forms.dedup();
    forms
}

/// Masks a secret in a text, in all its [`forms`].
pub fn secret(text: String, secret: &str) -> String {
    if secret.is_empty() {
        return text;
    }
    forms(secret).iter().fold(text, |text, form| text.replace(form, MASK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_information_of_whatever_looks_like_a_url_is_masked() {
        for (text, masked) in [
            ("ftp://bob:PW@h/x", "ftp://***@h/x"),
            ("http://bob:PW@[bad/x", "http://***@[bad/x"),
            ("http://bob:P/W?#@h/x", "http://***@h/x"),
            ("http://bob@h/x", "http://***@h/x"),
            ("no http://a:b@h/ but https://c:d@i/", "no http://***@h/ but https://***@i/"),
            ("http://h/x", "http://h/x"),
            ("http://h:80/a@b", "http://h:80/a@b"),
            ("http://h/a@b", "http://h/a@b"),
            ("://bob:PW@h", "://***@h"),
            ("a@b", "a@b"),
            ("", ""),
        ] {
            assert_eq!(urls(text), masked, "{text}");
        }
    }

    #[test]
    fn a_secret_is_masked_in_every_encoding() {
        let value = "1//ab+c=&\"d'e <f>";
        for form in [
            value,
            "1%2F%2Fab%2Bc%3D%26%22d%27e%20%3Cf%3E",
            "1%2f%2fab%2bc%3d%26%22d%27e%20%3cf%3e",
            "1%2F%2Fab%2Bc%3D%26%22d%27e+%3Cf%3E",
            "1//ab+c=&\\\"d'e <f>",
            "1\\/\\/ab+c=&\\\"d'e <f>",
            "1//ab+c=&amp;&quot;d'e &lt;f&gt;",
            "1//ab&#43;c&#61;&amp;&quot;d&#39;e &lt;f&gt;",
            "MS8vYWIrYz0mImQnZSA8Zj4=",
        ] {
            assert_eq!(secret(format!("<{form}>"), value), "<***>", "{form}");
        }
        assert_eq!(secret("x".into(), ""), "x");
    }

    #[test]
    fn parameters_that_hold_secrets_are_known() {
        for name in [
            "X-Amz-Signature",
            "X-Amz-Credential",
            "X-Amz-Security-Token",
            "AWSAccessKeyId",
            "Signature",
            "sig",
            "key",
            "X-Goog-Signature",
            "X-Goog-Credential",
            "access_token",
            "api_key",
            "client_secret",
        ] {
            assert!(is_secret_parameter(name), "{name}");
        }
        for name in ["prefix", "delimiter", "X-Amz-Date", "generation", "alt", "se", "sp", "keys"] {
            assert!(!is_secret_parameter(name), "{name}");
        }
    }
}
