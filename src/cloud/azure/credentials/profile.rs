//! `azureProfile.json`: the subscriptions that somebody may use, as Azure's CLIs, the classic and the present one, keep
//! them.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Error;
use crate::secret::Secret;
use crate::text::json_mistake;

/// The file below the home folder.
pub const PROFILE: &str = ".azure/azureProfile.json";

/// The content of the file.
#[derive(Clone, Debug, Deserialize)]
pub struct Profile {
    /// Where it was read.
    #[serde(skip)]
    pub path: PathBuf,
    /// Clouds that the subscriptions are in; the classic CLI's.
    #[serde(default)]
    pub environments: Vec<Environment>,
    /// The subscriptions.
    #[serde(default)]
    pub subscriptions: Vec<Subscription>,
}

/// A cloud with its addresses.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Environment {
    /// `AzureCloud`, `AzureChinaCloud` or another.
    pub name: Option<String>,
    /// Of the classic service management.
    pub management_endpoint_url: Option<String>,
    /// What the names of storage servers end with, such as `.core.windows.net`.
    pub storage_endpoint_suffix: Option<String>,
    /// Where tokens are.
    pub active_directory_endpoint_url: Option<String>,
    /// Of the Resource Manager.
    pub resource_manager_endpoint_url: Option<String>,
}

/// A subscription.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subscription {
    /// Its ID, a UUID.
    pub id: String,
    /// Its name for people.
    #[serde(default)]
    pub name: String,
    /// Whose it is.
    pub tenant_id: Option<String>,
    /// Whether it is meant where none is named.
    #[serde(default)]
    pub is_default: bool,
    /// The name of its [`Environment`].
    pub environment_name: Option<String>,
    /// With which the classic service management is asked.
    pub management_certificate: Option<ManagementCertificate>,
    /// Of the classic service management, where the environment's is not meant.
    pub management_endpoint_url: Option<String>,
}

/// A client certificate with its key, in PEM form.
#[derive(Clone, Debug, Deserialize)]
pub struct ManagementCertificate {
    /// The private key.
    pub key: Secret,
    /// The certificate.
    pub cert: String,
}

impl Profile {
    /// Reads a profile: [`PROFILE`] in the home folder where none is named.
    ///
    /// # Errors
    /// When there is no such file, or it is something else.
    pub fn load(file: Option<&Path>) -> Result<Self, Error> {
        let path = match file.filter(|f| !f.as_os_str().is_empty()) {
            Some(file) => file.to_owned(),
            None => crate::folders::home().ok_or(Error::Homeless)?.join(PROFILE),
        };
        let text = super::read_text(&path)?;
        let read = serde_json::from_str::<Self>(&text);
        let profile = read.map_err(|e| Error::Invalid { path: path.clone(), reason: json_mistake(&e) })?;
        if profile.subscriptions.is_empty() {
            return Err(Error::Invalid { path, reason: "it contains no subscriptions".into() });
        }
        Ok(Self { path, ..profile })
    }

    /// The subscription with this name or ID; where none is named the default one, else the first.
    ///
    /// # Errors
    /// When there is no such one.
    pub fn subscription(&self, named: Option<&str>) -> Result<&Subscription, Error> {
        let all = &self.subscriptions;
        let found = match named {
            Some(named) => all.iter().find(|s| s.name == named || s.id.eq_ignore_ascii_case(named)),
            None => all.iter().find(|s| s.is_default).or_else(|| all.first()),
        };
        found.ok_or_else(|| Error::Subscription {
            named: named.unwrap_or_default().into(),
            path: self.path.clone(),
            there: all.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    /// The cloud that a subscription is in, if the profile describes it.
    pub fn environment(&self, subscription: &Subscription) -> Option<&Environment> {
        self.environments.iter().find(|e| e.name.is_some() && e.name == subscription.environment_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::chain;

    fn load(text: impl AsRef<[u8]>) -> Result<Profile, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.json");
        std::fs::write(&file, text).unwrap();
        Profile::load(Some(&file)).map_err(|e| chain(&e).replace(&folder.path().display().to_string(), ""))
    }

    #[test]
    fn subscriptions_are_chosen_by_name_id_or_default() {
        let text = "\u{feff}{\"environments\":[{\"name\":\"E\",\"storageEndpointSuffix\":\".s\"}],\"subscriptions\":[\
            {\"id\":\"A-1\",\"name\":\"one\",\"state\":\"Enabled\"},{\"id\":\"b-2\",\"name\":\"two\",\
            \"isDefault\":true,\"environmentName\":\"E\",\"managementCertificate\":{\"key\":\"SECRET\",\"cert\":\"c\"}}]}";
        let profile = load(text).unwrap();
        for (named, is) in [(None, "b-2"), (Some("one"), "A-1"), (Some("a-1"), "A-1"), (Some("two"), "b-2")] {
            assert_eq!(profile.subscription(named).unwrap().id, is, "{named:?}");
        }
        let two = profile.subscription(None).unwrap();
        let suffix = profile.environment(two).unwrap().storage_endpoint_suffix.as_deref();
        assert_eq!(suffix, Some(".s"));
        assert!(profile.environment(profile.subscription(Some("one")).unwrap()).is_none());
        assert!(!format!("{profile:?}").contains("SECRET"));
        let error = chain(&profile.subscription(Some("three")).unwrap_err());
        assert!(error.starts_with("Azure subscription named \"three\" doesn't exist in "), "{error}");
        assert!(error.ends_with("(there: one, two)"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secrets() {
        for (text, said) in [
            ("", "not the expected JSON"),
            ("{\"subscriptions\":\"SECRET\"}", "not the expected JSON"),
            ("{\"subscriptions\":[]}", "it contains no subscriptions"),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.contains(said) && !error.contains("SECRET"), "{error}");
            assert!(error.starts_with("cannot use the Azure file /p.json: "), "{error}");
        }
    }
}
