//! Where keys come from.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use reqwest::header::HeaderValue;
use reqwest::{Method, Url};
use serde_json::Value;

use super::super::api::{self, Connection};
use super::super::environment::Environment;
use super::super::{Account, COMPONENT};
use super::profiles::File;
use super::sso::{self, SignOn};
use super::{Error, Keys, Profiles};
use crate::http::Client;
use crate::process::{self, Command};
use crate::secret::Secret;

/// The instance's metadata service, unless the environment names another.
const METADATA: &str = "http://169.254.169.254";
/// The server that a relative URI of a container belongs to.
const CONTAINER: &str = "http://169.254.170.2";
/// Answers of these servers are short.
const MAX_ANSWER: u64 = 1 << 20;
/// How long a program that gives keys may think.
const PROCESS: Duration = Duration::from_secs(60);
/// More profiles than this in a row are a mistake.
const MAX_CHAIN: usize = 10;

/// A place that gives keys.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// Keys at hand.
    Static { origin: String, keys: Keys },
    /// A program that prints them.
    Process { profile: String, command: Secret },
    /// Those of a role, which the keys of another source may take on.
    Role {
        source: Box<Source>,
        arn: String,
        session: String,
        external_id: Option<String>,
        duration: Option<i64>,
    },
    /// Those of a role, which the bearer of a token may take on.
    WebIdentity { token_file: PathBuf, arn: String, session: String },
    /// Those of a role, which whoever signed on may take on.
    SignOn(SignOn),
    /// The container's agent.
    Container { url: Url, authorization: Authorization },
    /// The instance's metadata service; `last` when it is only the last resort.
    Instance { endpoint: String, last: bool },
}

/// Makes the client for servers on this machine or link.
pub(super) type Near<'a> = dyn Fn() -> Result<Client, Error> + Send + Sync + 'a;

/// What a container shows its agent.
#[derive(Clone, Debug)]
pub(super) enum Authorization {
    None,
    Token(Secret),
    File(PathBuf),
}

/// The first place that has keys.
pub(super) fn find(account: &Account, env: &Environment, profiles: &Profiles) -> Result<Source, Error> {
    if let Some(keys) = pair(
        ("the access key id option", account.aws_access_id.as_deref()),
        ("the secret key option", account.aws_secret_key.as_ref().map(Secret::expose)),
        None,
    )? {
        return Ok(Source::Static { origin: "the command line".into(), keys });
    }
    if account.aws_credentials_file.is_some() {
        return of_profile(profiles, &profiles.name, env, &mut Vec::new())?
            .ok_or_else(|| Error::Profile { name: profiles.name.clone(), reason: "it has no keys".into() });
    }
    // A profile that somebody named must be there, even where its keys are not asked for: its region is.
    if profiles.named && !profiles.has(&profiles.name) {
        return Err(Error::NoProfile { name: profiles.name.clone(), files: profiles.files.clone() });
    }
    // As Amazon's CLI does: variables with keys win over the one with a profile, and not over a profile that was named
    // with the command.
    if !profiles.explicit
        && let Some(source) = of_environment(env)?
    {
        return Ok(source);
    }
    let variables = (env.get("AWS_WEB_IDENTITY_TOKEN_FILE"), env.get("AWS_ROLE_ARN"));
    let assumes = profiles.value("role_arn").is_some() && profiles.value("web_identity_token_file").is_none();
    if let (Some(token_file), Some(arn)) = variables
        && !profiles.explicit
        && !assumes
    {
        return Ok(Source::WebIdentity {
            token_file: token_file.into(),
            arn: arn.to_owned(),
            session: session(env.get("AWS_ROLE_SESSION_NAME")),
        });
    }
    // It is meant, so nothing takes its place.
    if profiles.named {
        return of_profile(profiles, &profiles.name, env, &mut Vec::new())?
            .ok_or_else(|| Error::Profile { name: profiles.name.clone(), reason: "it has no keys".into() });
    }
    if profiles.has(&profiles.name)
        && let Some(source) = of_profile(profiles, &profiles.name, env, &mut Vec::new())?
    {
        return Ok(source);
    }
    match of_container(env)? {
        Some(source) => Ok(source),
        None => of_instance(env, true).ok_or(Error::None(None)),
    }
}

/// Both halves, or none.
fn pair(
    (id_name, id): (&str, Option<&str>),
    (secret_name, secret): (&str, Option<&str>),
    token: Option<&str>,
) -> Result<Option<Keys>, Error> {
    let half = |given: &str, missing: &str| Error::Half { given: given.into(), missing: missing.into() };
    match (id, secret) {
        (Some(id), Some(secret)) => Ok(Some(Keys {
            id: id.to_owned(),
            secret: secret.to_owned().into(),
            token: token.map(|t| t.to_owned().into()),
            expires: None,
        })),
        (Some(_), None) => Err(half(id_name, secret_name)),
        (None, Some(_)) => Err(half(secret_name, id_name)),
        (None, None) => Ok(None),
    }
}

fn of_environment(env: &Environment) -> Result<Option<Source>, Error> {
    let keys = pair(
        ("AWS_ACCESS_KEY_ID", env.first(&["AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY"])),
        ("AWS_SECRET_ACCESS_KEY", env.first(&["AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY"])),
        env.first(&["AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"]),
    )?;
    Ok(keys.map(|keys| Source::Static { origin: "the environment".into(), keys }))
}

/// What a profile says; `visited` are the profiles that led here.
fn of_profile(
    profiles: &Profiles,
    name: &str,
    env: &Environment,
    visited: &mut Vec<String>,
) -> Result<Option<Source>, Error> {
    if !profiles.has(name) {
        return Err(Error::NoProfile { name: name.to_owned(), files: profiles.files.clone() });
    }
    let wrong = |reason: &str| Error::Profile { name: name.to_owned(), reason: reason.to_owned() };
    let value = |key: &str| profiles.of(name, key);
    let again = visited.iter().any(|v| v == name);
    // Both halves are of one file.
    let keys_of = |file: &File| {
        let keys = pair(
            ("aws_access_key_id", file.of(name, "aws_access_key_id")),
            ("aws_secret_access_key", file.of(name, "aws_secret_access_key")),
            file.of(name, "aws_security_token").or_else(|| file.of(name, "aws_session_token")),
        )
        .map_err(|e| wrong(&format!("{}: {e}", file.path().display())))?;
        let origin = || format!("profile {name:?} in {}", file.path().display());
        Ok::<_, Error>(keys.map(|keys| Source::Static { origin: origin(), keys }))
    };
    // A profile may be its own source: then it is its keys that are meant, as in any source that has both.
    let keys = ["aws_access_key_id", "aws_secret_access_key"].into_iter().any(|key| value(key).is_some());
    if again && visited.last().is_some_and(|v| v == name) {
        if !keys {
            return Err(wrong("it is its own source, and has no keys"));
        }
    } else if again || visited.len() >= MAX_CHAIN {
        return Err(wrong("its sources lead back to it"));
    }
    let source_with_keys = keys && !visited.is_empty() && value("web_identity_token_file").is_none();
    if let Some(arn) = value("role_arn").filter(|_| !source_with_keys) {
        if value("mfa_serial").is_some() {
            return Err(wrong(
                "its role asks for an MFA code, which mantle cannot give; export temporary keys",
            ));
        }
        let session = session(value("role_session_name"));
        if let Some(token_file) = value("web_identity_token_file") {
            return Ok(Some(Source::WebIdentity {
                token_file: token_file.into(),
                arn: arn.to_owned(),
                session,
            }));
        }
        let source = match (value("source_profile"), value("credential_source")) {
            (Some(_), Some(_)) => {
                return Err(wrong("source_profile and credential_source exclude each other"));
            }
            (Some(source), None) => {
                visited.push(name.to_owned());
                of_profile(profiles, source, env, visited)?
                    .ok_or_else(|| wrong(&format!("its source, profile {source:?}, has no keys")))?
            }
            (None, Some("Environment")) => {
                of_environment(env)?.ok_or_else(|| wrong("there are no keys in the environment"))?
            }
            (None, Some("Ec2InstanceMetadata")) => {
                of_instance(env, false).ok_or_else(|| wrong("the metadata service is disabled"))?
            }
            (None, Some("EcsContainer")) => {
                of_container(env)?.ok_or_else(|| wrong("this is no container of ECS"))?
            }
            (None, Some(_)) => return Err(wrong("its credential_source is not known")),
            (None, None) => return Err(wrong("its role has neither source_profile nor credential_source")),
        };
        let duration = match value("duration_seconds").map(str::parse) {
            None => None,
            Some(Ok(seconds)) => Some(seconds),
            Some(Err(_)) => return Err(wrong("its duration_seconds is not a number")),
        };
        return Ok(Some(Source::Role {
            source: Box::new(source),
            arn: arn.to_owned(),
            session,
            external_id: value("external_id").map(str::to_owned),
            duration,
        }));
    }
    if let Some(sign_on) = sso::of_profile(profiles, name, env)? {
        return Ok(Some(Source::SignOn(sign_on)));
    }
    if let Some(keys) = keys_of(&profiles.credentials)? {
        return Ok(Some(keys));
    }
    if value("login_session").is_some() {
        return Err(wrong(
            "its keys are those of aws login, which only Amazon's tools read; have a profile with \
             credential_process = aws configure export-credentials --profile …",
        ));
    }
    if let Some(command) = value("credential_process") {
        let command = command.to_owned().into();
        return Ok(Some(Source::Process { profile: name.to_owned(), command }));
    }
    keys_of(&profiles.config)
}

fn session(named: Option<&str>) -> String {
    named.map_or_else(|| format!("mantle-{}", Utc::now().timestamp()), str::to_owned)
}

fn of_container(env: &Environment) -> Result<Option<Source>, Error> {
    let relative = env.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").map(|path| format!("{CONTAINER}{path}"));
    let Some(text) = relative.or_else(|| env.get("AWS_CONTAINER_CREDENTIALS_FULL_URI").map(str::to_owned))
    else {
        return Ok(None);
    };
    let wrong =
        |reason: &str| Error::Source { origin: "the container's agent".into(), reason: reason.into() };
    let url: Url = text.parse().map_err(|_| wrong("its URI is not valid"))?;
    let near = |host: &str| {
        let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        host == "localhost"
            || address.is_some_and(|a| a.is_loopback())
            || ["169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"].contains(&host)
    };
    if url.scheme() != "https" && !(url.scheme() == "http" && url.host_str().is_some_and(near)) {
        return Err(wrong("its URI is neither https nor on this machine"));
    }
    let authorization = match env.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
        Some(file) => Authorization::File(file.into()),
        None => env
            .get("AWS_CONTAINER_AUTHORIZATION_TOKEN")
            .map_or(Authorization::None, |t| Authorization::Token(t.to_owned().into())),
    };
    Ok(Some(Source::Container { url, authorization }))
}

fn of_instance(env: &Environment, last: bool) -> Option<Source> {
    if env.is_true("AWS_EC2_METADATA_DISABLED") {
        return None;
    }
    let endpoint = env.get("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or(METADATA).trim_end_matches('/');
    Some(Source::Instance { endpoint: endpoint.to_owned(), last })
}

impl Source {
    /// What it is, for messages.
    pub(super) fn origin(&self) -> String {
        match self {
            Self::Static { origin, .. } => origin.clone(),
            Self::Process { profile, .. } => format!("the credential_process of profile {profile:?}"),
            Self::Role { arn, .. } | Self::WebIdentity { arn, .. } => format!("role {arn}"),
            Self::SignOn(sign_on) => sign_on.origin(),
            Self::Container { .. } => "the container's agent".into(),
            Self::Instance { endpoint, .. } => format!("the metadata service {endpoint}"),
        }
    }

    /// What it is, and what that in turn has its keys from.
    pub(super) fn place(&self) -> String {
        match self {
            Self::Role { source, .. } => {
                format!("{}, taken on with those of {}", self.origin(), source.place())
            }
            Self::SignOn(sign_on) => sign_on.place(),
            other => other.origin(),
        }
    }

    /// Gets keys.
    pub(super) fn fetch<'a>(
        &'a self,
        sts: &'a Connection,
        near: &'a Near<'a>,
    ) -> BoxFuture<'a, Result<Keys, Error>> {
        Box::pin(async move {
            let refused = |arn: &str, source| Error::Role { role: arn.to_owned(), source: Box::new(source) };
            match self {
                Self::Static { keys, .. } => Ok(keys.clone()),
                Self::Process { command, .. } => self.run(command).await,
                Self::Role { source, arn, session, external_id, duration } => {
                    let keys = source.fetch(sts, near).await?;
                    api::assume_role(sts, keys, arn, session, external_id.as_deref(), *duration)
                        .await
                        .map_err(|e| refused(arn, e))
                }
                Self::WebIdentity { token_file, arn, session } => {
                    let token = secret_file(token_file).await?;
                    api::assume_role_with_web_identity(sts, arn, session, &token)
                        .await
                        .map_err(|e| refused(arn, e))
                }
                Self::SignOn(sign_on) => sign_on.fetch(sts).await,
                Self::Container { url, authorization } => {
                    let token = match authorization {
                        Authorization::None => None,
                        Authorization::Token(token) => Some(token.clone()),
                        Authorization::File(path) => Some(secret_file(path).await?),
                    };
                    let header = token.as_ref().map(|t| ("authorization", t));
                    let answer = self.get(&near()?, Method::GET, url.clone(), header).await?;
                    self.keys(&answer, "Token")
                }
                Self::Instance { endpoint, last } => match self.instance(&near()?, endpoint).await {
                    Err(e @ Error::Http { .. }) if *last => Err(Error::None(Some(Box::new(e)))),
                    outcome => outcome,
                },
            }
        })
    }

    /// Version 2 of the instance's metadata service: a token first.
    async fn instance(&self, near: &Client, endpoint: &str) -> Result<Keys, Error> {
        let url = |path: &str| {
            format!("{endpoint}/latest/{path}").parse::<Url>().map_err(|_| self.wrong("its URL is not valid"))
        };
        let lifetime = "21600".to_owned().into();
        let lifetime = Some(("x-aws-ec2-metadata-token-ttl-seconds", &lifetime));
        let token = self.get(near, Method::PUT, url("api/token")?, lifetime).await?;
        let token = text(&token).map(|t| Secret::from(t.to_owned()));
        let token = token.ok_or_else(|| self.wrong("it gave no token"))?;
        let header = Some(("x-aws-ec2-metadata-token", &token));
        let roles = "meta-data/iam/security-credentials";
        let list = self.get(near, Method::GET, url(&format!("{roles}/"))?, header).await?;
        let role = text(&list).and_then(|t| t.lines().next()).map(str::trim).unwrap_or_default();
        let plain = |c: char| c.is_ascii_alphanumeric() || "+=,.@_-".contains(c);
        if role.is_empty() || !role.chars().all(plain) {
            return Err(self.wrong("the instance has no role"));
        }
        let answer = self.get(near, Method::GET, url(&format!("{roles}/{role}"))?, header).await?;
        self.keys(&answer, "Token")
    }

    async fn get(
        &self,
        near: &Client,
        method: Method,
        url: Url,
        header: Option<(&str, &Secret)>,
    ) -> Result<Vec<u8>, Error> {
        let mut budget = near.retry().budget();
        loop {
            let request = near.request(method.clone(), url.clone());
            let request = match header {
                Some((name, secret)) => {
                    let value = HeaderValue::from_str(secret.expose());
                    let mut value = value.map_err(|_| self.wrong("its token is not one line of text"))?;
                    value.set_sensitive(true);
                    request.header(name, value)
                }
                None => request,
            };
            match near.once(request, &[], MAX_ANSWER).await {
                Ok(answer) => return Ok(answer.body),
                Err(e) => budget
                    .again(COMPONENT, e)
                    .await
                    .map_err(|source| Error::Http { origin: self.origin(), source })?,
            }
        }
    }

    async fn run(&self, command: &Secret) -> Result<Keys, Error> {
        // Neither the command nor what it says is shown: both may hold secrets.
        let output = Command::new("sh").arg("-c").arg(command.expose()).output(PROCESS).await;
        let output = output.map_err(|e| match e {
            process::Error::Failed { status, .. } => self.wrong(&format!("it ended with {status}")),
            process::Error::TimedOut { limit, .. } => {
                self.wrong(&format!("it did not end within {} s", limit.as_secs()))
            }
            _ => self.wrong("it cannot be run"),
        })?;
        let json: Option<Value> = serde_json::from_slice(&output.stdout).ok();
        if json.is_none_or(|j| j["Version"] != 1) {
            return Err(self.wrong("its output is not JSON of version 1"));
        }
        let keys = self.keys(&output.stdout, "SessionToken")?;
        match keys.expires {
            Some(end) if end <= Utc::now() => {
                Err(self.wrong(&format!("its keys expired at {}", end.format("%Y-%m-%dT%H:%M:%SZ"))))
            }
            _ => Ok(keys),
        }
    }

    /// Keys in JSON, as all of these servers and programs give them.
    fn keys(&self, json: &[u8], token: &str) -> Result<Keys, Error> {
        let json: Value = serde_json::from_slice(json).map_err(|_| self.wrong("its answer is not JSON"))?;
        if let Some(code) = json["Code"].as_str().filter(|c| *c != "Success") {
            let code: String = code.chars().filter(char::is_ascii_alphanumeric).take(60).collect();
            return Err(self.wrong(&format!("it says {code}")));
        }
        let value = |name: &str| json[name].as_str().filter(|v| !v.is_empty()).map(str::to_owned);
        let (Some(id), Some(secret)) = (value("AccessKeyId"), value("SecretAccessKey")) else {
            return Err(self.wrong("its answer has no AccessKeyId or SecretAccessKey"));
        };
        let expires = match value("Expiration").map(|t| DateTime::parse_from_rfc3339(&t)) {
            None => None,
            Some(Ok(time)) => Some(time.to_utc()),
            Some(Err(_)) => return Err(self.wrong("its Expiration is no time")),
        };
        Ok(Keys { id, secret: secret.into(), token: value(token).map(Secret::from), expires })
    }

    fn wrong(&self, reason: &str) -> Error {
        Error::Source { origin: self.origin(), reason: reason.to_owned() }
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().map(str::trim).filter(|t| !t.is_empty())
}

async fn secret_file(path: &std::path::Path) -> Result<Secret, Error> {
    let unreadable = |source| Error::Read { path: path.to_owned(), source };
    Ok(crate::input::read_to_string(path).map_err(unreadable)?.trim().to_owned().into())
}
