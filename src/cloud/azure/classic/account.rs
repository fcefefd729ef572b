//! Whose subscription: the classic CLI's profile, or a file of publish settings.

use std::path::{Path, PathBuf};

use reqwest::Url;
use serde::Deserialize;

use crate::cloud::azure::storage::SUFFIX;
use crate::cloud::warn_if_others_may_read;
use crate::http::{Identity, Unfit};
use crate::secret::Secret;
use crate::text::json_mistake;

/// Where the public cloud is managed.
const MANAGEMENT: &str = "https://management.core.windows.net";

/// Where the profile is in the user's home.
const IN_HOME: &str = ".azure/azureProfile.json";

/// Files that are read, for manuals.
pub const FILES: &[(&str, &str)] = &[(
    "~/.azure/azureProfile.json",
    "Subscriptions and their certificates, as Azure's classic CLI keeps them; a file of publish settings will do, too.",
)];

/// Whose classic Azure.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(skip)]
pub struct Account {
    /// Azure profile, or a file of publish settings [default: ~/.azure/azureProfile.json]
    #[arg(long, value_name = "FILE", value_parser = crate::args::path_parser(), value_hint = clap::ValueHint::FilePath)]
    pub azure_profile: Option<PathBuf>,

    /// Azure subscription, by its name in the profile [default: the profile's default one, else its first]
    #[arg(long, value_name = "NAME")]
    pub azure_subscription: Option<String>,
}

/// Why a profile cannot be used. Nothing of it but names is quoted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no folder to look in.
    #[error("Failed to read Azure Profile: neither $HOME nor the user database names a home folder")]
    Homeless,
    /// It cannot be read.
    #[error("Failed to read Azure Profile {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("Failed to read Azure Profile {path:?}: {reason}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is nothing in it.
    #[error("Azure profile {0:?} contains no subscriptions")]
    Empty(PathBuf),
    /// There are others.
    #[error("Azure subscription named {name:?} doesn't exist in {path:?} (there: {there})")]
    Missing {
        /// The one that was asked for.
        name: String,
        /// The file.
        path: PathBuf,
        /// Those that are there.
        there: String,
    },
    /// A subscription lacks something, or it cannot be used.
    #[error("Azure subscription {name:?} in {path:?}: {reason}")]
    Unusable {
        /// The subscription.
        name: String,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Error {
    /// Whether there is no such file: then one may do without it.
    pub fn is_absent(&self) -> bool {
        match self {
            Self::Homeless => true,
            Self::Read { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

/// A subscription that can be managed.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Its ID.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where it is managed.
    pub management: Url,
    /// Ends the names of its storage's hosts; or an address.
    pub suffix: String,
    /// Who manages it. The classic API wants to know, where it is reached by TLS; the profile of newer CLIs has none.
    pub identity: Option<Identity>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Profile {
    environments: Vec<Environment>,
    subscriptions: Vec<Entry>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Environment {
    name: Option<String>,
    management_endpoint_url: Option<String>,
    storage_endpoint_suffix: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Entry {
    id: Option<String>,
    name: Option<String>,
    is_default: Option<bool>,
    environment_name: Option<String>,
    management_certificate: Option<Certificate>,
    management_endpoint_url: Option<String>,
    /// PKCS#12 in base64, as publish settings have it.
    #[serde(skip)]
    container: Option<Secret>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Certificate {
    key: Option<String>,
    cert: Option<String>,
}

/// A file of publish settings. Its first version has certificate and address once for all subscriptions.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PublishData {
    publish_profile: Vec<PublishProfile>,
}

#[derive(Deserialize)]
struct PublishProfile {
    #[serde(rename = "@ManagementCertificate")]
    certificate: Option<String>,
    #[serde(rename = "@Url")]
    url: Option<String>,
    #[serde(rename = "Subscription", default)]
    subscriptions: Vec<Published>,
}

#[derive(Deserialize)]
struct Published {
    #[serde(rename = "@Id")]
    id: String,
    #[serde(rename = "@Name")]
    name: String,
    #[serde(rename = "@ServiceManagementUrl")]
    url: Option<String>,
    #[serde(rename = "@ManagementCertificate")]
    certificate: Option<String>,
}

impl Account {
    /// The subscription that is meant.
    ///
    /// # Errors
    /// When there is none, or its certificate cannot be used.
    pub fn subscription(&self) -> Result<Subscription, Error> {
        let path = match self.azure_profile.as_ref().filter(|p| !p.as_os_str().is_empty()) {
            Some(path) => path.clone(),
            None => crate::folders::home().ok_or(Error::Homeless)?.join(IN_HOME),
        };
        let bytes = crate::input::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        warn_if_others_may_read("azure", &path);
        let name = self.azure_subscription.as_deref().filter(|s| !s.is_empty());
        choose(&path, &bytes, name)
    }
}

fn choose(path: &Path, bytes: &[u8], name: Option<&str>) -> Result<Subscription, Error> {
    let invalid = |reason: String| Error::Invalid { path: path.to_owned(), reason };
    // Windows puts a byte order mark before it.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let profile = match bytes.trim_ascii_start().starts_with(b"<") {
        true => published(bytes).map_err(|reason| invalid(reason.into()))?,
        false => serde_json::from_slice(bytes).map_err(|e| invalid(json_mistake(&e)))?,
    };
    let Profile { environments, subscriptions } = profile;
    if subscriptions.is_empty() {
        return Err(Error::Empty(path.to_owned()));
    }
    let named = |entry: &&Entry| entry.name.as_deref() == name;
    let chosen = match name {
        Some(_) => subscriptions.iter().find(named),
        None => subscriptions.iter().find(|s| s.is_default == Some(true)).or(subscriptions.first()),
    };
    let Some(entry) = chosen else {
        let there: Vec<_> = subscriptions.iter().filter_map(|s| s.name.as_deref()).collect();
        let name = name.unwrap_or_default().to_owned();
        return Err(Error::Missing { name, path: path.to_owned(), there: there.join(", ") });
    };
    let name = entry.name.clone().unwrap_or_default();
    let unusable = |reason: String| Error::Unusable { name: name.clone(), path: path.to_owned(), reason };
    let id = entry.id.clone().filter(|id| !id.is_empty()).ok_or_else(|| unusable("it has no id".into()))?;
    let environment = environments.iter().find(|e| e.name.is_some() && e.name == entry.environment_name);
    let url = entry.management_endpoint_url.as_deref();
    let url = url.or_else(|| environment?.management_endpoint_url.as_deref());
    let url = url.filter(|u| !u.is_empty()).unwrap_or(MANAGEMENT);
    let management = Url::parse(url).ok().filter(|u| matches!(u.scheme(), "http" | "https"));
    let management = management.ok_or_else(|| unusable(format!("{url:?} is no URL of a management API")))?;
    let suffix = environment.and_then(|e| e.storage_endpoint_suffix.clone()).filter(|s| !s.is_empty());
    let identity = identity_of(entry).transpose().map_err(|e| unusable(e.to_string()))?;
    Ok(Subscription { id, name, management, suffix: suffix.unwrap_or_else(|| SUFFIX.into()), identity })
}

/// The certificate, if there is one.
fn identity_of(entry: &Entry) -> Option<Result<Identity, Unfit>> {
    if let Some(container) = &entry.container {
        let der = openssl::base64::decode_block(container.expose().trim()).unwrap_or_default();
        return Some(Identity::from_pkcs12(&der));
    }
    let certificate = entry.management_certificate.as_ref()?;
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    Some(Identity::from_pem(format!("{}\n{}", text(&certificate.key), text(&certificate.cert)).as_bytes()))
}

/// Reads publish settings as a profile.
fn published(bytes: &[u8]) -> Result<Profile, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8")?;
    let data: PublishData = quick_xml::de::from_str(text).map_err(|_| "it is no file of publish settings")?;
    let entries = data.publish_profile.into_iter().flat_map(|profile| {
        let PublishProfile { certificate, url, subscriptions } = profile;
        subscriptions.into_iter().map(move |one| Entry {
            id: Some(one.id),
            name: Some(one.name),
            management_endpoint_url: one.url.or_else(|| url.clone()),
            container: one.certificate.or_else(|| certificate.clone()).map(Secret::from),
            ..Entry::default()
        })
    });
    Ok(Profile { environments: Vec::new(), subscriptions: entries.collect() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::text::chain;

    fn pem() -> (String, String) {
        let (key, certificate) = crate::http::identity_for_tests();
        let text = |pem: Vec<u8>| String::from_utf8(pem).unwrap();
        (text(key.private_key_to_pem_pkcs8().unwrap()), text(certificate.to_pem().unwrap()))
    }

    fn of(text: &str, name: Option<&str>) -> Result<Subscription, String> {
        choose(Path::new("/p"), text.as_bytes(), name).map_err(|e| chain(&e))
    }

    #[test]
    fn the_subscription_that_is_meant_is_found() {
        let (key, cert) = pem();
        let cert = json!({"key": key, "cert": cert});
        let profile = json!({
            "environments": [
                {"name": "AzureCloud", "storageEndpointSuffix": ".core.windows.net", "more": 1},
                {"name": "Own", "managementEndpointUrl": "http://own/", "storageEndpointSuffix": "http://s/"},
            ],
            "subscriptions": [
                {"id": "1", "name": "first", "environmentName": "AzureCloud", "managementCertificate": cert},
                {"id": "2", "name": "second", "environmentName": "Own", "isDefault": true},
                {"id": "3", "name": "third", "managementEndpointUrl": "https://m", "managementCertificate": cert},
                {"id": "4", "name": "bare"},
                {"id": "5", "name": "odd", "managementCertificate": {"key": "SECRET", "cert": "SECRET"}},
                {"name": "nobody"},
            ],
        });
        for text in [profile.to_string(), format!("\u{feff}{profile}")] {
            let of = |name| of(&text, name).unwrap();
            let (first, second, third) = (of(Some("first")), of(None), of(Some("third")));
            assert_eq!(
                (&*first.id, first.management.as_str()),
                ("1", "https://management.core.windows.net/")
            );
            assert_eq!((&*first.suffix, first.identity.is_some()), (".core.windows.net", true));
            assert_eq!(
                (&*second.id, second.management.as_str(), &*second.suffix),
                ("2", "http://own/", "http://s/")
            );
            assert_eq!((third.management.as_str(), &*third.suffix), ("https://m/", SUFFIX));
        }
        let text = profile.to_string();
        for (name, told) in [
            ("odd", "subscription \"odd\" in \"/p\": the client certificate cannot be used"),
            ("nobody", "subscription \"nobody\" in \"/p\": it has no id"),
            ("other", "subscription named \"other\" doesn't exist in \"/p\" (there: first, second"),
        ] {
            let error = of(&text, Some(name)).unwrap_err();
            assert!(error.starts_with(&format!("Azure {told}")) && !error.contains("SECRET"), "{error}");
        }
        for (text, told) in [
            ("", "Failed to read Azure Profile \"/p\": not the expected JSON"),
            ("{\"SECRET", "Failed to read Azure Profile \"/p\": not the expected JSON"),
            ("{}", "Azure profile \"/p\" contains no subscriptions"),
            ("<SECRET/>", "Failed to read Azure Profile \"/p\": it is no file of publish settings"),
        ] {
            let error = of(text, None).unwrap_err();
            assert!(error.starts_with(told) && !error.contains("SECRET"), "{error}");
        }
    }

    #[test]
    fn publish_settings_of_both_versions_are_read() {
        let (key, certificate) = crate::http::identity_for_tests();
        let mut container = openssl::pkcs12::Pkcs12::builder();
        let container = container.name("x").pkey(&key).cert(&certificate).build2("").unwrap();
        let container = openssl::base64::encode_block(&container.to_der().unwrap());
        let newer = format!(
            r#"<?xml version="1.0" encoding="utf-8"?><PublishData><PublishProfile SchemaVersion="2.0"
            PublishMethod="AzureServiceManagementAPI"><Subscription ServiceManagementUrl="https://m"
            Id="1" Name="one" ManagementCertificate="{container}"/><Subscription Id="2" Name="two"
            ServiceManagementUrl="https://n" ManagementCertificate="SECRET"/></PublishProfile></PublishData>"#
        );
        let older = format!(
            r#"<PublishData><PublishProfile Url="https://m" ManagementCertificate="{container}">
            <Subscription Id="1" Name="one"/></PublishProfile></PublishData>"#
        );
        for text in [&newer, &older] {
            let one = of(text, None).unwrap();
            assert_eq!(
                (&*one.id, one.management.as_str(), one.identity.is_some()),
                ("1", "https://m/", true)
            );
        }
        let error = of(&newer, Some("two")).unwrap_err();
        assert!(error.contains("PKCS#12") && !error.contains("SECRET"), "{error}");
    }
}
