//! Where the blobs of an account are, and by what one may get at them.

use std::collections::BTreeMap;

use reqwest::Url;

use super::access::{Credential, Key};
use crate::http::CallError;
use crate::secret::Secret;

/// Ends the names of the public cloud's hosts.
pub const SUFFIX: &str = "core.windows.net";

/// The address of blobs in place of the account's own, and strings of settings: conventions of Azure's tools.
const ENDPOINT: &str = "AZURE_STORAGE_BLOB_ENDPOINT";
const CONNECTION: &str = "AZURE_STORAGE_CONNECTION_STRING";
const KEY: &str = "AZURE_STORAGE_KEY";
const SAS: &str = "AZURE_STORAGE_SAS_TOKEN";

/// What the variables are for, for manuals.
pub const ENVIRONMENT: &[(&str, &str)] = &[
    (
        ENDPOINT,
        "Address of an account's blobs, or of a server that has them below the account's name, as Azurite.",
    ),
    (CONNECTION, "BlobEndpoint, EndpointSuffix, AccountKey and SharedAccessSignature of it are heeded."),
    (KEY, "Key of the storage account."),
    (SAS, "Shared access signature for the storage account."),
];

/// Where the blobs of accounts are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(Root);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Root {
    /// Each account has a host of its own, which ends so.
    Suffix(String),
    /// One address for all, below which an account has its name.
    Address(Url),
}

impl Place {
    /// A suffix of hosts, or a whole address.
    ///
    /// # Errors
    /// [`CallError::Setup`] for what is neither.
    pub fn new(place: &str) -> Result<Self, CallError> {
        let place = place.trim_matches('.');
        let wrong = |why: &str| CallError::setup(format!("{place:?} is no place of blobs: {why}"));
        if !place.contains("://") {
            let is_name = |c: u8| c.is_ascii_alphanumeric() || b"-.".contains(&c);
            return match !place.is_empty() && place.bytes().all(is_name) {
                true => Ok(Self(Root::Suffix(place.to_owned()))),
                false => Err(wrong("it should end names of hosts, or be a URL")),
            };
        }
        let url = Url::parse(place).map_err(|e| wrong(&e.to_string()))?;
        match matches!(url.scheme(), "http" | "https") && url.query().is_none() {
            true => Ok(Self(Root::Address(url))),
            false => Err(wrong("it should begin with https:// and have no parameters")),
        }
    }

    /// The address of an account's blobs. It ends in a slash.
    ///
    /// # Errors
    /// [`CallError::Setup`] for names that no account has.
    pub fn of(&self, account: &str) -> Result<Url, CallError> {
        let is_name = (3..=24).contains(&account.len())
            && account.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if !is_name {
            return Err(CallError::setup(format!(
                "{account:?} is no name of a storage account: those are 3 to 24 small letters and digits"
            )));
        }
        let text = match &self.0 {
            Root::Suffix(suffix) => format!("https://{account}.blob.{suffix}/"),
            Root::Address(url) => {
                let own_host = url.host_str().is_some_and(|h| h.starts_with(&format!("{account}.")));
                let path = url.path().trim_matches('/');
                let named = own_host || path.rsplit('/').next() == Some(account);
                let segments = [path, if named { "" } else { account }];
                let path: String =
                    segments.iter().filter(|s| !s.is_empty()).map(|s| format!("{s}/")).collect();
                let mut url = url.clone();
                url.set_path(&path);
                return Ok(url);
            }
        };
        Url::parse(&text).map_err(|e| CallError::setup(format!("{text}: {e}")))
    }
}

/// What the environment says about storage.
#[derive(Clone, Default)]
pub struct Environment {
    /// `$AZURE_STORAGE_BLOB_ENDPOINT`
    pub endpoint: Option<String>,
    /// `$AZURE_STORAGE_CONNECTION_STRING`
    pub connection: Option<String>,
    /// `$AZURE_STORAGE_KEY`
    pub key: Option<String>,
    /// `$AZURE_STORAGE_SAS_TOKEN`
    pub sas: Option<String>,
}

impl Environment {
    /// The process's.
    pub fn of_process() -> Self {
        let get = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
        Self { endpoint: get(ENDPOINT), connection: get(CONNECTION), key: get(KEY), sas: get(SAS) }
    }

    /// Settings by their names in small letters.
    fn settings(&self) -> BTreeMap<String, &str> {
        let pairs = self.connection.as_deref().unwrap_or_default().split(';');
        // Values are base64 and query strings: they have `=` in them.
        let pairs = pairs.filter_map(|pair| pair.trim().split_once('='));
        pairs.map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim())).collect()
    }

    /// Where blobs are: as the environment says, else by the suffix (or address) of the cloud.
    ///
    /// # Errors
    /// As [`Place::new`].
    pub fn place(&self, cloud: &str) -> Result<Place, CallError> {
        let settings = self.settings();
        let get = |name: &str| settings.get(name).copied().filter(|v| !v.is_empty());
        let local = get("usedevelopmentstorage").filter(|v| v.eq_ignore_ascii_case("true"));
        let local = local.map(|_| "http://127.0.0.1:10000");
        let named = self.endpoint.as_deref().or_else(|| get("blobendpoint"));
        Place::new(named.or(local).or_else(|| get("endpointsuffix")).unwrap_or(cloud))
    }

    /// What opens an account, if the environment has it. A string of settings that is for another account has not.
    ///
    /// # Errors
    /// [`CallError::Setup`] for what is no key.
    pub fn credential(&self, account: &str) -> Result<Option<Credential>, CallError> {
        let settings = self.settings();
        let ours = settings.get("accountname").is_none_or(|name| *name == account);
        let get = |name: &str| settings.get(name).copied().filter(|v| ours && !v.is_empty());
        let secret = |text: &str| Secret::from(text.to_owned());
        if let Some(key) = self.key.as_deref().or_else(|| get("accountkey")) {
            return Ok(Some(Credential::Key(Key::new(&secret(key))?)));
        }
        let sas = self.sas.as_deref().or_else(|| get("sharedaccesssignature"));
        sas.map(|sas| Credential::sas(&secret(sas))).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_have_hosts_or_folders() {
        for (place, url) in [
            ("core.windows.net", "https://acc1.blob.core.windows.net/"),
            (".core.chinacloudapi.cn", "https://acc1.blob.core.chinacloudapi.cn/"),
            ("http://127.0.0.1:10000", "http://127.0.0.1:10000/acc1/"),
            ("http://127.0.0.1:10000/acc1", "http://127.0.0.1:10000/acc1/"),
            ("http://127.0.0.1:10000/acc1/", "http://127.0.0.1:10000/acc1/"),
            ("https://proxy/azure/", "https://proxy/azure/acc1/"),
            ("https://acc1.blob.core.windows.net/", "https://acc1.blob.core.windows.net/"),
        ] {
            assert_eq!(Place::new(place).unwrap().of("acc1").unwrap().as_str(), url, "{place}");
        }
        for place in ["", "core windows", "ftp://x/", "https://x/?sig=SECRET", "https://"] {
            let error = Place::new(place).unwrap_err().to_string();
            assert!(error.contains("is no place of blobs"), "{error}");
        }
        for account in ["", "ab", "Acc", "a.b", "a/b", "abcdefghijklmnopqrstuvwxy"] {
            assert!(Place::new(SUFFIX).unwrap().of(account).is_err(), "{account}");
        }
    }

    #[test]
    fn the_environment_is_heeded_in_order() {
        let of = |text: &str| Environment { connection: Some(text.into()), ..Environment::default() };
        let place = |e: &Environment| e.place(SUFFIX).unwrap().of("acc").unwrap().to_string();
        assert_eq!(place(&Environment::default()), "https://acc.blob.core.windows.net/");
        let all = of("DefaultEndpointsProtocol=https;AccountName=acc;AccountKey=a2V5PQ==;EndpointSuffix=c.d");
        assert_eq!(place(&all), "https://acc.blob.c.d/");
        assert!(matches!(all.credential("acc"), Ok(Some(Credential::Key(_)))));
        assert!(matches!(all.credential("other"), Ok(None)));
        let sas = of("BlobEndpoint=http://h:1/acc;SharedAccessSignature=sv=1&sig=a%3D");
        assert_eq!(place(&sas), "http://h:1/acc/");
        assert!(matches!(sas.credential("acc"), Ok(Some(Credential::Sas(_)))));
        assert_eq!(place(&of("UseDevelopmentStorage=true")), "http://127.0.0.1:10000/acc/");
        let named = Environment { endpoint: Some("http://e".into()), ..sas };
        assert_eq!(place(&named), "http://e/acc/");
        let keyed = Environment { key: Some("SECRET!".into()), ..named };
        let error = keyed.credential("acc").err().unwrap().to_string();
        assert!(error.contains("is no base64") && !error.contains("SECRET"), "{error}");
    }
}
