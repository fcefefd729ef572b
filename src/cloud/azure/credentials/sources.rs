//! Where credentials are found: the first that is there, in the order of [`find`]; and the subscription and the cloud
//! that go with them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use reqwest::header::HeaderName;
use serde::Deserialize;

use super::cloud::{Named, url};
use super::profile::{PROFILE, Profile};
use super::{Certificate, Cloud, Credentials, Error, Kind, Proof, read_secret, read_text};
use crate::cloud::azure::Account;
use crate::http::Client;
use crate::secret::Secret;
use crate::text::json_mistake;

/// Files of applications, below the home folder: late Container Linux's, and Fedora CoreOS's.
const FILES_OF_APPLICATIONS: [&str; 2] = [".azure/credentials.json", ".azure/azureCreds.json"];

/// Where machines at Azure ask for tokens of their own.
const METADATA: &str = "http://169.254.169.254";

/// What the firmware of all machines at Azure calls their chassis.
const CHASSIS: &str = "7783-7084-3265-9085-8269-3286-77";

/// Variables that matter here, for man pages.
pub const ENVIRONMENT: &[(&str, &str)] = &[
    ("AZURE_AUTH_LOCATION, AZURE_CREDENTIALS", "Files with the credentials of an application at Azure."),
    (
        "AZURE_CLIENT_ID, AZURE_TENANT_ID, AZURE_CLIENT_SECRET, AZURE_CLIENT_CERTIFICATE_PATH, \
         AZURE_CLIENT_CERTIFICATE_PASSWORD, AZURE_CLIENT_SEND_CERTIFICATE_CHAIN, AZURE_FEDERATED_TOKEN_FILE",
        "An application at Azure, and how it proves what it is: with a secret, a certificate, or a token of another \
         provider's.",
    ),
    ("AZURE_SUBSCRIPTION_ID", "The Azure subscription, unless a file or an option names another."),
    ("AZURE_CLOUD", "Azure's cloud: public, china or government."),
    ("AZURE_AUTHORITY_HOST", "Where tokens for Azure come from."),
    (
        "IDENTITY_ENDPOINT, IDENTITY_HEADER, AZURE_POD_IDENTITY_AUTHORITY_HOST",
        "Where this machine asks for tokens of its own, if not as machines at Azure do.",
    ),
];

/// Files of credentials, for man pages.
pub const FILES: &[(&str, &str)] = &[
    ("~/.azure/azureProfile.json", "Subscriptions at Azure, as the Azure CLI keeps them."),
    (
        "~/.azure/credentials.json, ~/.azure/azureCreds.json",
        "An application at Azure with its secret, as `az ad sp create-for-rbac --json-auth` makes the first.",
    ),
];

/// What of the process's environment matters here.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// The home folder.
    pub home: Option<PathBuf>,
    /// Variables; those that are not empty.
    pub variables: BTreeMap<String, String>,
    /// Whether this is a machine at Azure.
    pub on_azure: bool,
    /// Whether the Azure CLI is installed.
    pub cli: bool,
}

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        let chassis = std::fs::read_to_string("/sys/class/dmi/id/chassis_asset_tag").unwrap_or_default();
        let names = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
            let ours = name.starts_with("AZURE_") || name.starts_with("IDENTITY_");
            (ours && !value.is_empty()).then_some((name, value))
        };
        Self {
            home: crate::folders::home(),
            variables: std::env::vars_os().filter_map(names).collect(),
            on_azure: chassis.trim() == CHASSIS,
            cli: crate::process::find_program("az").is_some(),
        }
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    fn in_home(&self, name: &str) -> Option<PathBuf> {
        self.home.as_ref().map(|h| h.join(name)).filter(|p| p.exists())
    }
}

/// Who one is, and where.
#[derive(Debug)]
pub struct Found {
    /// For the Resource Manager.
    pub credentials: Credentials,
    /// The subscription's ID.
    pub subscription: String,
    /// The cloud.
    pub cloud: Cloud,
}

/// A file with an application: Azure's form, and that of Fedora CoreOS's tools. All fields are optional here so that a
/// missing one can be named.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(alias = "appId")]
    client_id: Option<String>,
    #[serde(alias = "password")]
    client_secret: Option<Secret>,
    #[serde(alias = "subscription")]
    subscription_id: Option<String>,
    #[serde(alias = "tenant")]
    tenant_id: Option<String>,
    active_directory_endpoint_url: Option<String>,
    resource_manager_endpoint_url: Option<String>,
    management_endpoint_url: Option<String>,
    storage_endpoint_suffix: Option<String>,
}

/// What was found, before the cloud is known.
struct Source {
    origin: String,
    kind: Kind,
    file: File,
}

/// Finds credentials: a chosen file; those that `$AZURE_AUTH_LOCATION` or `$AZURE_CREDENTIALS` names; an application in
/// variables; the files in the home folder; the machine's own; those of the Azure CLI.
///
/// # Errors
/// When there are none; when those that come first are broken; when nothing says which subscription is meant.
pub fn find(account: &Account, env: &Environment, http: &Client) -> Result<Found, Error> {
    let mut source = source(account, env)?;
    let (subscription, profile) = subscription(account, env, source.file.subscription_id.as_deref())?;
    let mut cloud = match env.variable("AZURE_CLOUD") {
        Some(name) => Cloud::named(name)?,
        None => Cloud::public()?,
    };
    let authority = env.variable("AZURE_AUTHORITY_HOST");
    if let Some(host) = authority {
        cloud = cloud.with_authority(host)?;
    }
    let own = profile.as_ref().and_then(|p| Some((p, p.subscription(Some(&subscription)).ok()?)));
    if let Some((profile, own)) = own {
        match (profile.environment(own), own.environment_name.as_deref()) {
            (Some(environment), _) => {
                cloud = cloud.but(&Named {
                    authority: environment.active_directory_endpoint_url.as_deref(),
                    manager: environment.resource_manager_endpoint_url.as_deref(),
                    management: environment.management_endpoint_url.as_deref(),
                    storage: environment.storage_endpoint_suffix.as_deref(),
                })?;
            }
            (None, Some(name)) if authority.is_none() && env.variable("AZURE_CLOUD").is_none() => {
                cloud = Cloud::named(name).unwrap_or(cloud);
            }
            _ => {}
        }
    }
    cloud = cloud.but(&Named {
        authority: source.file.active_directory_endpoint_url.as_deref(),
        manager: source.file.resource_manager_endpoint_url.as_deref(),
        management: source.file.management_endpoint_url.as_deref(),
        storage: source.file.storage_endpoint_suffix.as_deref(),
    })?;
    if let Some(host) = authority {
        cloud.authority = cloud.with_authority(host)?.authority;
    }
    if let Some(manager) = account.azure_endpoint.as_deref().filter(|e| !e.is_empty()) {
        cloud.manager = url(manager)?;
    }
    if let Kind::Cli { subscription: of } = &mut source.kind {
        *of = Some(subscription.clone());
    }
    let credentials = Credentials::new(source.origin, source.kind, &cloud, http)?;
    Ok(Found { credentials, subscription, cloud })
}

fn source(account: &Account, env: &Environment) -> Result<Source, Error> {
    let named = account.azure_auth.as_deref().filter(|p| !p.as_os_str().is_empty());
    let variables = ["AZURE_AUTH_LOCATION", "AZURE_CREDENTIALS"];
    let named = named.or_else(|| variables.iter().find_map(|v| env.variable(v)).map(Path::new));
    if let Some(path) = named {
        return from_file(path);
    }
    if let Some(source) = from_variables(env)? {
        return Ok(source);
    }
    if let Some(path) = FILES_OF_APPLICATIONS.iter().find_map(|name| env.in_home(name)) {
        return from_file(&path);
    }
    let managed = |origin: &str, url, header| {
        let client = env.variable("AZURE_CLIENT_ID").map(str::to_owned);
        let kind = Kind::Managed { url, header, client };
        Source { origin: origin.into(), kind, file: File::default() }
    };
    if let (Some(endpoint), Some(secret)) =
        (env.variable("IDENTITY_ENDPOINT"), env.variable("IDENTITY_HEADER"))
    {
        let mut url: reqwest::Url = endpoint.parse().map_err(|_| Error::Address(endpoint.to_owned()))?;
        url.query_pairs_mut().append_pair("api-version", "2019-08-01");
        let header = (HeaderName::from_static("x-identity-header"), secret.to_owned().into());
        return Ok(managed("the identity of this app", url, header));
    }
    let host = env.variable("AZURE_POD_IDENTITY_AUTHORITY_HOST");
    if env.on_azure || host.is_some() {
        let mut url = url(host.unwrap_or(METADATA))?.join("metadata/identity/oauth2/token");
        if let Ok(url) = &mut url {
            url.query_pairs_mut().append_pair("api-version", "2018-02-01");
        }
        let url = url.map_err(|_| Error::Address(host.unwrap_or(METADATA).to_owned()))?;
        let header = (HeaderName::from_static("metadata"), "true".to_owned().into());
        return Ok(managed("the metadata server of this machine", url, header));
    }
    if env.cli {
        let kind = Kind::Cli { subscription: None };
        return Ok(Source { origin: "the Azure CLI".into(), kind, file: File::default() });
    }
    Err(Error::Missing)
}

fn from_file(path: &Path) -> Result<Source, Error> {
    let invalid = |reason: String| Error::Invalid { path: path.to_owned(), reason };
    let mut file: File = serde_json::from_str(&read_text(path)?).map_err(|e| invalid(json_mistake(&e)))?;
    let need = |field: Option<String>, name: &str| {
        field.filter(|f| !f.is_empty()).ok_or_else(|| invalid(format!("it has no {name}")))
    };
    let kind = Kind::Application {
        client: need(file.client_id.take(), "clientId")?,
        tenant: need(file.tenant_id.take(), "tenantId")?,
        proof: Proof::Secret(
            file.client_secret.take().ok_or_else(|| invalid("it has no clientSecret".into()))?,
        ),
        old: true,
    };
    Ok(Source { origin: path.display().to_string(), kind, file })
}

fn from_variables(env: &Environment) -> Result<Option<Source>, Error> {
    let proof = if let Some(secret) = env.variable("AZURE_CLIENT_SECRET") {
        Proof::Secret(secret.to_owned().into())
    } else if let Some(file) = env.variable("AZURE_CLIENT_CERTIFICATE_PATH") {
        let password = env.variable("AZURE_CLIENT_CERTIFICATE_PASSWORD").map(|p| Secret::from(p.to_owned()));
        let chain = env.variable("AZURE_CLIENT_SEND_CERTIFICATE_CHAIN");
        let chain = chain.is_some_and(|c| c == "1" || c.eq_ignore_ascii_case("true"));
        let path = Path::new(file);
        let read = Certificate::read(&read_secret(path)?, password.as_ref(), chain);
        let invalid = |reason: &str| Error::Invalid { path: path.to_owned(), reason: reason.into() };
        Proof::Certificate(Box::new(read.map_err(invalid)?))
    } else if let Some(file) = env.variable("AZURE_FEDERATED_TOKEN_FILE") {
        Proof::Federated(file.into())
    } else {
        return Ok(None);
    };
    let need = |name: &str| {
        let missing = || Error::Variable(format!("{name} is not set"));
        env.variable(name).map(str::to_owned).ok_or_else(missing)
    };
    let kind = Kind::Application {
        client: need("AZURE_CLIENT_ID")?,
        tenant: need("AZURE_TENANT_ID")?,
        proof,
        old: false,
    };
    Ok(Some(Source { origin: "the environment's variables".into(), kind, file: File::default() }))
}

/// The subscription's ID, and the profile, if there is one.
fn subscription(
    account: &Account,
    env: &Environment,
    of_file: Option<&str>,
) -> Result<(String, Option<Profile>), Error> {
    let given = account.azure_profile.as_deref().filter(|p| !p.as_os_str().is_empty());
    let usual = env.in_home(PROFILE);
    let profile = match (given, &usual) {
        (Some(path), _) => Some(Profile::load(Some(path))),
        (None, Some(path)) => Some(Profile::load(Some(path))),
        (None, None) => None,
    };
    let is_id = |text: &&str| uuid::Uuid::try_parse(text).is_ok();
    let known = match account.subscription() {
        Some(named) if is_id(&named) => Some(named),
        Some(named) => {
            let profile = profile.unwrap_or_else(|| Profile::load(given))?;
            return Ok((profile.subscription(Some(named))?.id.clone(), Some(profile)));
        }
        None => of_file.filter(|s| !s.is_empty()).or(env.variable("AZURE_SUBSCRIPTION_ID")),
    };
    match (known, profile) {
        (Some(id), profile) => {
            // A broken one that nobody asked for does not matter then.
            let profile = if given.is_some() { profile.transpose()? } else { profile.and_then(Result::ok) };
            Ok((id.to_owned(), profile))
        }
        (None, Some(profile)) => {
            let profile = profile?;
            Ok((profile.subscription(None)?.id.clone(), Some(profile)))
        }
        (None, None) => Err(Error::NoSubscription(format!("~/{PROFILE}"))),
    }
}
