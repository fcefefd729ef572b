//! Where credentials are found: the first that is there, in the order of [`find`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::boto::{self, Boto};
use super::credentials::{ClientId, Credentials, Kind, parse_client, url_or};
use super::{AUTH_URI, Error, TOKEN_URI, login};
use crate::http::Client;
use crate::secret::Secret;
use crate::text::json_mistake;

/// The cache of v0.12.0, below the home folder.
const CACHE: &str = ".mantle-cache-google.json";
/// The metadata server of Compute Engine.
const METADATA_HOST: &str = "169.254.169.254";
/// How long a person may take to allow access in the browser.
const LOGIN_LIMIT: Duration = Duration::from_secs(300);

/// Variables that name a file of credentials, for man pages.
pub const ENVIRONMENT: &[(&str, &str)] = &[
    ("GOOGLE_APPLICATION_CREDENTIALS", "Google credentials: a service account's key, or a user's."),
    (
        "BOTO_CONFIG, BOTO_PATH",
        "Files to read in place of ~/.boto; BOTO_PATH is a list, separated by colons.",
    ),
    (
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE, CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE",
        "Servers to use in place of Google's.",
    ),
    ("CLOUDSDK_CONFIG", "gcloud's folder of configuration in place of ~/.config/gcloud."),
    (
        "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES",
        "Set to 1, credentials of other providers may come from a program that their file names.",
    ),
    ("GCE_METADATA_HOST", "The metadata server, if not that of Compute Engine."),
    (
        "MANTLE_GOOGLE_CLIENT",
        "Client id file of the login in the browser, from Google's console; else [OAuth2] in ~/.boto is used.",
    ),
    ("STORAGE_EMULATOR_HOST", "A server to use in place of Google Storage, without credentials."),
];

/// Files of credentials, for man pages.
pub const FILES: &[(&str, &str)] = &[
    ("~/.boto", "Google credentials as gsutil keeps them; a login in the browser is stored here."),
    ("~/.config/gcloud/application_default_credentials.json", "Google credentials as gcloud keeps them."),
    ("~/.mantle-cache-google.json", "Access token left by mantle 0.12.0; used until it expires."),
];

/// What of the process's environment matters here.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// The home folder.
    pub home: Option<PathBuf>,
    /// `GOOGLE_APPLICATION_CREDENTIALS`
    pub application_credentials: Option<PathBuf>,
    /// `BOTO_CONFIG`, else `BOTO_PATH`, else `~/.boto`; later ones win.
    pub boto: Vec<PathBuf>,
    /// gcloud's folder of configuration.
    pub gcloud: Option<PathBuf>,
    /// `MANTLE_GOOGLE_CLIENT`
    pub client: Option<PathBuf>,
    /// `GCE_METADATA_HOST`
    pub metadata_host: Option<String>,
    /// Whether this is a machine of Compute Engine.
    pub on_gce: bool,
}

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        let set = |name| std::env::var_os(name).filter(|v| !v.is_empty());
        let path = |name| set(name).map(PathBuf::from);
        let home = path("HOME");
        let below = |name| home.as_ref().map(|h| h.join(name));
        let boto = match (path("BOTO_CONFIG"), set("BOTO_PATH")) {
            (Some(one), _) => vec![one],
            (None, Some(list)) => {
                std::env::split_paths(&list).filter(|p| !p.as_os_str().is_empty()).collect()
            }
            (None, None) => below(".boto").into_iter().collect(),
        };
        // What the firmware calls the machine; looked at first, because asking the network takes long elsewhere.
        let product = std::fs::read_to_string("/sys/class/dmi/id/product_name").unwrap_or_default();
        Self {
            application_credentials: path("GOOGLE_APPLICATION_CREDENTIALS"),
            boto,
            gcloud: path("CLOUDSDK_CONFIG").or_else(|| below(".config/gcloud")),
            client: path("MANTLE_GOOGLE_CLIENT"),
            metadata_host: set("GCE_METADATA_HOST").and_then(|h| h.into_string().ok()),
            on_gce: matches!(product.trim(), "Google" | "Google Compute Engine"),
            home,
        }
    }

    fn metadata_host(&self) -> &str {
        self.metadata_host.as_deref().unwrap_or(METADATA_HOST)
    }
}

/// What the user asked for.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Those of this machine, from the metadata server; wins over the key.
    pub service: bool,
    /// A key file.
    pub key: Option<PathBuf>,
}

/// Finds credentials: those chosen; else `$GOOGLE_APPLICATION_CREDENTIALS`, `~/.boto`, those of gcloud, the cache of
/// v0.12.0, those of a Compute Engine machine; `None` if there are none.
///
/// A chosen or named file that is broken is an error; one that merely lies about is left out with a warning.
///
/// # Errors
/// As said; and when the HTTP client cannot be set up.
pub async fn find(
    choice: &Choice,
    env: &Environment,
    scopes: &[&str],
    http: &Client,
) -> Result<Option<Credentials>, Error> {
    if choice.service {
        return Credentials::from_metadata(env.metadata_host(), scopes).map(Some);
    }
    if let Some(path) = choice.key.as_ref().or(env.application_credentials.as_ref()) {
        return Credentials::from_file(path, scopes, http).map(Some);
    }
    let boto = read_boto(env);
    let found = [from_boto(&boto, scopes, http), from_gcloud(env, scopes, http)];
    for source in found {
        match source {
            Ok(Some(credentials)) => return Ok(Some(credentials)),
            Ok(None) => {}
            Err(e) => crate::warning!("google", "{}; looking further", crate::text::chain(&e)),
        }
    }
    match from_cache(env, &boto, scopes, http).await {
        Ok(Some(credentials)) => return Ok(Some(credentials)),
        Ok(None) => {}
        Err(e) => crate::warning!("google", "could not use the cached token: {}", crate::text::chain(&e)),
    }
    if env.on_gce || env.metadata_host.is_some() {
        return Credentials::from_metadata(env.metadata_host(), scopes).map(Some);
    }
    Ok(None)
}

/// Lets the user allow access in the browser and stores the result in the first boto file.
///
/// `None` if the user has given this program no client id.
///
/// # Errors
/// When the login fails or its result cannot be stored.
pub async fn log_in(env: &Environment, scopes: &[&str], http: &Client) -> Result<Option<Credentials>, Error> {
    let boto = read_boto(env);
    let Some(client) = client_id(env, &boto)? else { return Ok(None) };
    let tokens = login::login(&client, scopes, http, LOGIN_LIMIT).await?;
    if let Some(refresh_token) = &tokens.refresh_token
        && let Some(path) = env.boto.last()
    {
        let values = [
            ("Credentials", "gs_oauth2_refresh_token", refresh_token.as_str()),
            ("OAuth2", "client_id", &client.id),
            ("OAuth2", "client_secret", client.secret.expose()),
        ];
        boto::store(path, &values)?;
        crate::notice!("google", "stored the login in {}", path.display());
    }
    let lifetime = tokens.expires_in.map(Duration::from_secs);
    let kind = match tokens.refresh_token {
        Some(token) => Kind::User { client, refresh_token: token.into() },
        None => Kind::Fixed,
    };
    let credentials = Credentials::new("the login in the browser".into(), kind, scopes, http);
    Ok(Some(credentials.with_token(tokens.access_token, lifetime).await))
}

fn read_boto(env: &Environment) -> Boto {
    let mut boto = Boto::default();
    for path in &env.boto {
        match boto::read_secret(path) {
            Ok(Some(content)) => boto.add(&String::from_utf8_lossy(&content)),
            Ok(None) => {}
            Err(e) => crate::warning!("google", "{}; looking further", crate::text::chain(&e)),
        }
    }
    boto
}

fn from_boto(boto: &Boto, scopes: &[&str], http: &Client) -> Result<Option<Credentials>, Error> {
    if let Some(path) = boto.get("Credentials", "gs_service_key_file") {
        return Credentials::from_file(Path::new(path), scopes, http).map(Some);
    }
    let Some(token) = boto.get("Credentials", "gs_oauth2_refresh_token") else { return Ok(None) };
    let Some(client) = client_of_boto(boto) else {
        crate::warning!(
            "google",
            "the boto file has gs_oauth2_refresh_token but no [OAuth2] client_id and client_secret: not used"
        );
        return Ok(None);
    };
    let kind = Kind::User { client, refresh_token: Secret::from(token.to_owned()) };
    Ok(Some(Credentials::new("the boto file".into(), kind, scopes, http)))
}

fn from_gcloud(env: &Environment, scopes: &[&str], http: &Client) -> Result<Option<Credentials>, Error> {
    let Some(folder) = &env.gcloud else { return Ok(None) };
    let path = folder.join("application_default_credentials.json");
    match Credentials::from_file(&path, scopes, http) {
        Ok(credentials) => Ok(Some(credentials)),
        Err(Error::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn client_of_boto(boto: &Boto) -> Option<ClientId> {
    let url = |key, default| url_or(boto.get("OAuth2", key), default).ok();
    Some(ClientId {
        id: boto.get("OAuth2", "client_id")?.to_owned(),
        secret: Secret::from(boto.get("OAuth2", "client_secret")?.to_owned()),
        auth_uri: url("provider_authorization_uri", AUTH_URI)?,
        token_uri: url("provider_token_uri", TOKEN_URI)?,
    })
}

fn client_id(env: &Environment, boto: &Boto) -> Result<Option<ClientId>, Error> {
    let Some(path) = &env.client else { return Ok(client_of_boto(boto)) };
    let not_there = || Error::Read { path: path.clone(), source: std::io::ErrorKind::NotFound.into() };
    let content = boto::read_secret(path)?.ok_or_else(not_there)?;
    parse_client(&content).map(Some).map_err(|reason| Error::Invalid { path: path.clone(), reason })
}

/// The cache as v0.12.0 wrote it.
#[derive(Deserialize)]
struct Cached {
    access_token: Option<String>,
    refresh_token: Option<Secret>,
    expiry: Option<String>,
}

async fn from_cache(
    env: &Environment,
    boto: &Boto,
    scopes: &[&str],
    http: &Client,
) -> Result<Option<Credentials>, Error> {
    let Some(path) = env.home.as_ref().map(|h| h.join(CACHE)) else { return Ok(None) };
    let Some(content) = boto::read_secret(&path)? else { return Ok(None) };
    let invalid = |reason| Error::Invalid { path: path.clone(), reason };
    let cached: Cached = serde_json::from_slice(&content).map_err(|e| invalid(json_mistake(&e)))?;
    let origin = path.display().to_string();
    let lifetime = match cached.expiry.as_deref() {
        None | Some("0001-01-01T00:00:00Z") => None, // Go's zero time: it never expires
        Some(text) => {
            let at = chrono::DateTime::parse_from_rfc3339(text);
            let at = at.map_err(|_| invalid("expiry is no date".into()))?;
            Some((at.to_utc() - chrono::Utc::now()).to_std().unwrap_or_default())
        }
    };
    let client = client_id(env, boto)?;
    let kind = match (cached.refresh_token, client) {
        (Some(refresh_token), Some(client)) if !refresh_token.expose().is_empty() => {
            Kind::User { client, refresh_token }
        }
        _ => Kind::Fixed,
    };
    let credentials = Credentials::new(origin, kind, scopes, http);
    let token = cached.access_token.filter(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_graphic()));
    let credentials = match token {
        Some(token) => credentials.with_token(token, lifetime).await,
        None => credentials,
    };
    credentials.token().await?; // found out now, while there are other sources
    Ok(Some(credentials))
}
