//! Identities of other providers that Google takes: workload identity federation
//! (<https://google.aip.dev/auth/4117>), and service accounts that one acts for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::{Value, json};

use super::credentials::{Answer, exchange, url_or};
use super::{Error, boto};
use crate::http::{Client, bearer};
use crate::process::{self, Command};
use crate::secret::Secret;

/// What tokens must allow that are only used to get others.
pub(super) const SCOPE_ALL: &str = "https://www.googleapis.com/auth/cloud-platform";

/// Where other identities are exchanged, unless the file says otherwise.
const STS: &str = "https://sts.googleapis.com/v1/token";

/// Without this variable set to 1, no program is run that a file names: files come from many places.
const ALLOW: &str = "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES";

/// An identity of another provider.
pub(super) struct External {
    audience: String,
    token_type: String,
    token_url: Url,
    source: Source,
    user_project: Option<String>,
    /// The account that one acts for then, for the program.
    acts_for: Option<String>,
}

/// Where the other provider's token is.
enum Source {
    File { path: PathBuf, format: Format },
    Url { url: Url, headers: BTreeMap<String, Secret>, format: Format },
    Program { command: Secret, limit: Duration, output: Option<PathBuf> },
}

/// How it is written there: as it is, or as a field of JSON.
#[derive(Default, Deserialize)]
struct Format {
    #[serde(rename = "type")]
    kind: Option<String>,
    subject_token_field_name: Option<String>,
}

/// The file, as far as it matters here.
#[derive(Deserialize)]
struct Config {
    audience: Option<String>,
    subject_token_type: Option<String>,
    token_url: Option<String>,
    service_account_impersonation_url: Option<String>,
    workforce_pool_user_project: Option<String>,
    credential_source: Option<CredentialSource>,
}

#[derive(Deserialize)]
struct CredentialSource {
    file: Option<PathBuf>,
    url: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, Secret>,
    executable: Option<Executable>,
    environment_id: Option<String>,
    #[serde(default)]
    format: Format,
}

#[derive(Deserialize)]
struct Executable {
    command: Option<Secret>,
    timeout_millis: Option<u64>,
    output_file: Option<PathBuf>,
}

impl External {
    /// That of a file; and the address by which it acts for a service account, if it does.
    pub(super) fn parse(file: Value) -> Result<(Self, Option<Url>), String> {
        let config: Config = serde_json::from_value(file).map_err(|_| "a field has not the expected form")?;
        let need = |field: Option<String>, name: &str| field.ok_or(format!("the field {name} is missing"));
        let acts_for = config.service_account_impersonation_url;
        let url = |text: &str| text.parse::<Url>().map_err(|_| format!("{text:?} is no URL"));
        let from = config.credential_source.ok_or("the field credential_source is missing")?;
        let source = match (from.file, from.url, from.executable) {
            (Some(path), None, None) => Source::File { path, format: from.format },
            (None, Some(text), None) if from.environment_id.is_none() => {
                Source::Url { url: url(&text)?, headers: from.headers, format: from.format }
            }
            (None, None, Some(program)) => Source::Program {
                command: program.command.ok_or("the field command of the executable is missing")?,
                limit: Duration::from_millis(program.timeout_millis.unwrap_or(30_000).clamp(5_000, 120_000)),
                output: program.output_file,
            },
            _ => return Err("credential_source names no file, no URL and no executable".into()),
        };
        let external = Self {
            audience: need(config.audience, "audience")?,
            token_type: need(config.subject_token_type, "subject_token_type")?,
            token_url: url_or(config.token_url.as_deref(), STS)?,
            source,
            user_project: config.workforce_pool_user_project,
            acts_for: acts_for.as_deref().and_then(account).map(str::to_owned),
        };
        Ok((external, acts_for.as_deref().map(url).transpose()?))
    }

    /// Gets the other provider's token and exchanges it.
    pub(super) async fn token(&self, http: &Client, origin: &str, scopes: &str) -> Result<Answer, Error> {
        let subject = self.subject(http, origin).await?;
        let options = self.user_project.as_ref().map(|p| json!({"userProject": p}).to_string());
        let mut form = vec![
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
            ("audience", self.audience.as_str()),
            ("subject_token_type", self.token_type.as_str()),
            ("subject_token", subject.expose()),
            ("scope", scopes),
        ];
        if let Some(options) = &options {
            form.push(("options", options));
        }
        exchange(http, origin, &self.token_url, &form).await
    }

    async fn subject(&self, http: &Client, origin: &str) -> Result<Secret, Error> {
        let wrong = |reason: String| Error::Answer { origin: origin.to_owned(), reason };
        let (text, format) = match &self.source {
            Source::File { path, format } => (read(path)?, format),
            Source::Url { url, headers, format } => {
                let header = |(name, value): (&String, &Secret)| {
                    let mut value = HeaderValue::from_str(value.expose()).ok()?;
                    value.set_sensitive(true);
                    Some((name.parse::<HeaderName>().ok()?, value))
                };
                let headers: Option<Vec<_>> = headers.iter().map(header).collect();
                let headers = headers.ok_or_else(|| wrong("a header of credential_source is none".into()))?;
                let answer = http.call("google", &[], |http| {
                    let request = http.request(Method::GET, url.clone());
                    headers.iter().fold(request, |r, (name, value)| r.header(name, value.clone()))
                });
                let failed = |source| Error::Token { origin: origin.to_owned(), source };
                (answer.await.map_err(failed)?.body, format)
            }
            Source::Program { command, limit, output } => {
                return self.said(command, *limit, output.as_deref()).await.map_err(wrong);
            }
        };
        subject_of(&text, format).map_err(wrong)
    }

    /// The token that a program says, or has said not long ago.
    async fn said(&self, command: &Secret, limit: Duration, output: Option<&Path>) -> Result<Secret, String> {
        if std::env::var_os(ALLOW).is_none_or(|v| v != "1") {
            return Err(format!(
                "the file names a program that gives a token: set {ALLOW}=1 to let it be run"
            ));
        }
        if let Some(known) = output.and_then(|path| crate::input::read(path).ok())
            && let Ok(token) = said_by(&known, Utc::now())
        {
            return Ok(token);
        }
        // In words, as Google's libraries do: no shell.
        let words = shlex(command.expose()).ok_or("the command of the executable has an open quote")?;
        let (program, arguments) = words.split_first().ok_or("the command of the executable is empty")?;
        let mut run = Command::new(program)
            .args(arguments)
            .env("GOOGLE_EXTERNAL_ACCOUNT_AUDIENCE", &self.audience)
            .env("GOOGLE_EXTERNAL_ACCOUNT_TOKEN_TYPE", &self.token_type)
            .env("GOOGLE_EXTERNAL_ACCOUNT_INTERACTIVE", "0");
        if let Some(account) = &self.acts_for {
            run = run.env("GOOGLE_EXTERNAL_ACCOUNT_IMPERSONATED_EMAIL", account);
        }
        if let Some(output) = output {
            run = run.env("GOOGLE_EXTERNAL_ACCOUNT_OUTPUT_FILE", output);
        }
        // Neither the command nor what it says is shown: both may hold secrets.
        let done = run.output(limit).await.map_err(|e| match e {
            process::Error::Failed { status, .. } => format!("the executable ended with {status}"),
            process::Error::TimedOut { limit, .. } => {
                format!("the executable did not end within {} s", limit.as_secs())
            }
            _ => "the executable cannot be run".into(),
        })?;
        said_by(&done.stdout, Utc::now())
    }
}

/// The token in what a program says.
fn said_by(text: &[u8], now: DateTime<Utc>) -> Result<Secret, String> {
    #[derive(Deserialize)]
    struct Said {
        version: Option<u32>,
        success: Option<bool>,
        id_token: Option<Secret>,
        saml_response: Option<Secret>,
        expiration_time: Option<i64>,
        code: Option<String>,
    }
    let said: Said =
        serde_json::from_slice(text).map_err(|_| "what the executable says is not the expected JSON")?;
    if said.version != Some(1) {
        return Err("what the executable says is not of version 1".into());
    }
    if said.success != Some(true) {
        let code = said.code.as_deref().and_then(crate::http::clean).unwrap_or_else(|| "no code".into());
        return Err(format!("the executable says that it failed: {code}"));
    }
    if said.expiration_time.is_some_and(|end| end <= now.timestamp()) {
        return Err("the token of the executable has expired already".into());
    }
    said.id_token.or(said.saml_response).ok_or_else(|| "the executable says no token".into())
}

/// Reads a file with a token, whoever may read it.
fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let missing = || Error::Read { path: path.to_owned(), source: std::io::ErrorKind::NotFound.into() };
    boto::read_secret(path)?.ok_or_else(missing)
}

/// The token in a text.
fn subject_of(text: &[u8], format: &Format) -> Result<Secret, String> {
    let text = std::str::from_utf8(text).map_err(|_| "the token is not text")?;
    let token = match format.kind.as_deref() {
        None | Some("text") => text.trim().to_owned(),
        Some("json") => {
            let field = format.subject_token_field_name.as_deref();
            let field = field.ok_or("the field subject_token_field_name is missing")?;
            let json: Value = serde_json::from_str(text).map_err(|_| "the token is not in JSON")?;
            json[field].as_str().ok_or(format!("there is no {field} in the JSON with the token"))?.to_owned()
        }
        Some(other) => return Err(format!("the token has the unknown format {other:?}")),
    };
    if token.is_empty() { Err("the token is empty".into()) } else { Ok(token.into()) }
}

/// Words as a shell would split them, without anything that a shell would replace. `None`: a quote is not closed.
fn shlex(text: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().push(chars.next()?),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

/// The account in the address by which one acts for it: `…/serviceAccounts/ACCOUNT:generateAccessToken`.
pub(super) fn account(url: &str) -> Option<&str> {
    url.rsplit('/').next()?.strip_suffix(":generateAccessToken")
}

/// A token of an account that somebody with another token acts for
/// (<https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateAccessToken>).
pub(super) async fn acting_for(
    http: &Client,
    origin: &str,
    url: &Url,
    delegates: &[String],
    token: &str,
    scopes: &str,
) -> Result<Answer, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Given {
        access_token: String,
        expire_time: String,
    }
    let wrong = |reason: &str| Error::Answer { origin: origin.to_owned(), reason: reason.into() };
    let token = bearer(&Secret::from(token.to_owned())).ok_or_else(|| wrong("the token is malformed"))?;
    let scopes: Vec<_> = scopes.split(' ').collect();
    let mut body = json!({"scope": scopes, "lifetime": "3600s"});
    if !delegates.is_empty() {
        body["delegates"] = delegates.into();
    }
    let answer = http
        .call("google", &[], |http| {
            http.request(Method::POST, url.clone())
                .header(AUTHORIZATION, token.clone())
                .header(CONTENT_TYPE, "application/json")
                .header(ACCEPT, "application/json")
                .body(body.to_string())
        })
        .await
        .map_err(|source| Error::Token { origin: origin.to_owned(), source })?;
    let given: Given = serde_json::from_slice(&answer.body).map_err(|_| wrong("the answer is no token"))?;
    let end: DateTime<Utc> = given.expire_time.parse().map_err(|_| wrong("the token's end is no time"))?;
    let left = (end - Utc::now()).num_seconds().max(0);
    Ok(Answer {
        access_token: given.access_token,
        expires_in: Some(u64::try_from(left).unwrap_or_default()),
        refresh_token: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_in_texts_and_in_json() {
        let of = |text: &str, format: Value| {
            subject_of(text.as_bytes(), &serde_json::from_value(format).unwrap())
                .map(|t| t.expose().to_owned())
        };
        assert_eq!(of(" tok\n", json!({})).unwrap(), "tok");
        let format = json!({"type": "json", "subject_token_field_name": "id"});
        assert_eq!(of(r#"{"id":"tok"}"#, format.clone()).unwrap(), "tok");
        for (text, format) in [
            ("", json!({})),
            ("hush", format.clone()),
            (r#"{"x":"hush"}"#, format),
            (r#"{"id":"hush"}"#, json!({"type": "json"})),
            ("hush", json!({"type": "xml"})),
        ] {
            let error = of(text, format).unwrap_err();
            assert!(!error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn programs_say_tokens_or_why_not() {
        let now = DateTime::from_timestamp(1_000, 0).unwrap();
        let of = |text: Value| said_by(text.to_string().as_bytes(), now).map(|t| t.expose().to_owned());
        let good = json!({"version": 1, "success": true, "id_token": "tok", "expiration_time": 1_001});
        assert_eq!(of(good).unwrap(), "tok");
        assert_eq!(of(json!({"version": 1, "success": true, "saml_response": "s"})).unwrap(), "s");
        for (text, told) in [
            (json!({"version": 2}), "version 1"),
            (json!({"version": 1, "success": false, "code": "401", "message": "hush"}), "401"),
            (json!({"version": 1, "success": true, "id_token": "hush", "expiration_time": 1_000}), "expired"),
            (json!({"version": 1, "success": true}), "no token"),
            (json!([]), "JSON"),
        ] {
            let error = of(text).unwrap_err();
            assert!(error.contains(told) && !error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn commands_are_words() {
        let words = |text| shlex(text).map(|w| w.join("|"));
        assert_eq!(words(r#"/a/b --x='c d' "e \"f" g\ h ''"#).unwrap(), r#"/a/b|--x=c d|e "f|g h|"#);
        assert!(words("a 'b").is_none() && words("").unwrap().is_empty());
    }

    #[test]
    fn files_say_what_is_missing() {
        for (file, told) in [
            (json!({}), "credential_source"),
            (json!({"credential_source": {}}), "names no file"),
            (json!({"credential_source": {"file": "t"}}), "audience"),
            (json!({"credential_source": {"url": "x", "environment_id": "aws1"}}), "names no file"),
            (json!({"credential_source": {"url": "x"}, "audience": "a"}), "is no URL"),
            (json!({"credential_source": {"executable": {}}}), "command"),
            (json!({"audience": 5}), "expected form"),
        ] {
            let Err(reason) = External::parse(file.clone()) else { panic!("{file} accepted") };
            assert!(reason.contains(told), "{file}: {reason}");
        }
        let url = "https://iam/v1/projects/-/serviceAccounts/a@b.iam:generateAccessToken";
        assert_eq!(account(url), Some("a@b.iam"));
    }
}
