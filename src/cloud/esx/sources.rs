//! Who one is at a vSphere, and where: options, the variables of govc, or a profile of `~/.config/esx.json`.

use std::path::PathBuf;

use reqwest::Url;

use super::Account;
use crate::applet::Terms;
use crate::cloud::profile::{self, Profile};
use crate::secret::Secret;

/// The service in messages.
const SERVICE: &str = "ESX";
/// The file of profiles, below the home folder.
const PROFILES: &str = ".config/esx.json";

/// Files, for the man page.
pub const FILES: Terms = &[(
    "~/.config/esx.json",
    "Profiles of ESX: server, user, password, datacenter, resource_pool, datastore, network, folder, insecure, ca_file, \
     thumbprint.",
)];

/// Variables, for the man page.
pub const ENVIRONMENT: Terms = &[
    (
        "GOVC_URL, GOVC_USERNAME, GOVC_PASSWORD",
        "ESX server, user and password, where no profile or file is named.",
    ),
    (
        "GOVC_DATACENTER, GOVC_RESOURCE_POOL, GOVC_DATASTORE, GOVC_NETWORK, GOVC_FOLDER",
        "Where things are made in vSphere.",
    ),
    ("GOVC_INSECURE, GOVC_TLS_CA_CERTS", "Whether the ESX server is trusted, and by which certificates."),
];

/// Why one is nobody. No message quotes a secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A profile cannot be used.
    #[error(transparent)]
    Profile(#[from] profile::Error),
    /// Something is missing.
    #[error("{origin}: there is no {what}")]
    Incomplete {
        /// Where it was looked for.
        origin: String,
        /// What.
        what: &'static str,
    },
    /// The server's address is none.
    #[error("parsing ESX URL: {origin}: {reason}")]
    Url {
        /// Where it stands.
        origin: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A setting is none.
    #[error("{origin}: {reason}")]
    Setting {
        /// Where it stands.
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// A file of certificates cannot be read.
    #[error("cannot read the certificates {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Whether the server is who it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// By a certificate of somebody the system trusts.
    System,
    /// By a certificate of those in this file.
    Roots(PathBuf),
    /// By this very certificate: its SHA-1 or SHA-256.
    Thumbprint(Vec<u8>),
    /// It is not asked for.
    Insecure,
}

/// Where things are made; what is not named is the only one there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The datacenter.
    pub datacenter: Option<String>,
    /// The resource pool.
    pub pool: Option<String>,
    /// The datastore.
    pub datastore: Option<String>,
    /// The network.
    pub network: Option<String>,
    /// The folder of virtual machines.
    pub folder: Option<String>,
}

/// All that one has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where user and password come from, for people.
    pub origin: String,
    /// The address of the SOAP interface.
    pub sdk: Url,
    /// The user.
    pub user: String,
    /// The password.
    pub password: Secret,
    /// Whether the server is trusted.
    pub trust: Trust,
    /// Where things are made.
    pub wanted: Wanted,
}

/// Finds it. `variable` is the environment: a variable's value, if it is not empty.
///
/// # Errors
/// When something is missing or not what it should be.
pub fn find(account: &Account, variable: impl Fn(&str) -> Option<String>) -> Result<Source, Error> {
    let given = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    let file = account.esx_config_file.as_deref().filter(|f| !f.as_os_str().is_empty());
    let chosen = file.is_some() || given(&account.esx_profile).is_some();
    let by_option = given(&account.esx_server);
    let by_variable = variable("GOVC_URL").filter(|_| !chosen);
    let who = by_variable.is_some() || by_option.is_some() && variable("GOVC_USERNAME").is_some();
    let profile = match who && !chosen {
        true => None,
        false => {
            Some(Profile::load(SERVICE, file, PROFILES, account.esx_profile.as_deref().unwrap_or_default())?)
        }
    };
    let setting = |key: &str| match &profile {
        Some(profile) => profile.text(key),
        None => Ok(None),
    };
    let origin = profile.as_ref().map_or_else(|| "the variables of govc".to_owned(), Profile::origin);
    let missing = |what| Error::Incomplete { origin: origin.clone(), what };
    let (place, server) = match (by_option, by_variable) {
        (Some(server), _) => ("the option for the server".to_owned(), server),
        (None, Some(server)) => ("$GOVC_URL".to_owned(), server),
        (None, None) => (origin.clone(), setting("server")?.ok_or_else(|| missing("server"))?),
    };
    let (sdk, named, password) = address(&place, &server)?;
    let (user, password) = match &profile {
        Some(profile) => (profile.required("user")?, profile.required("password")?.into()),
        None => (
            variable("GOVC_USERNAME").or(named).ok_or_else(|| missing("user ($GOVC_USERNAME)"))?,
            variable("GOVC_PASSWORD")
                .map(Secret::from)
                .or(password)
                .ok_or_else(|| missing("password ($GOVC_PASSWORD)"))?,
        ),
    };
    let choice =
        |option: &Option<String>, name: &str, key: &str| match given(option).or_else(|| variable(name)) {
            Some(value) => Ok(Some(value)),
            None => setting(key),
        };
    let wanted = Wanted {
        datacenter: choice(&account.esx_datacenter, "GOVC_DATACENTER", "datacenter")?,
        pool: choice(&account.esx_resource_pool, "GOVC_RESOURCE_POOL", "resource_pool")?,
        datastore: choice(&account.esx_datastore, "GOVC_DATASTORE", "datastore")?,
        network: choice(&account.esx_network, "GOVC_NETWORK", "network")?,
        folder: choice(&account.esx_folder, "GOVC_FOLDER", "folder")?,
    };
    let roots = account.esx_ca_file.clone().filter(|f| !f.as_os_str().is_empty());
    let thumbprint = given(&account.esx_thumbprint);
    // What is on the command line comes first, and the stricter before the looser.
    let trust = if let Some(text) = thumbprint {
        Trust::Thumbprint(print("the option for it", &text)?)
    } else if let Some(roots) = roots {
        Trust::Roots(roots)
    } else if account.esx_insecure {
        Trust::Insecure
    } else if let Some(text) = setting("thumbprint")? {
        Trust::Thumbprint(print(&origin, &text)?)
    } else if insecure(profile.as_ref(), variable("GOVC_INSECURE"))? {
        Trust::Insecure
    } else if let Some(roots) = variable("GOVC_TLS_CA_CERTS").or(setting("ca_file")?) {
        Trust::Roots(roots.into())
    } else {
        Trust::System
    };
    Ok(Source { origin, sdk, user, password, trust, wanted })
}

/// The address, and the user and password that stand in it.
fn address(place: &str, server: &str) -> Result<(Url, Option<String>, Option<Secret>), Error> {
    let wrong = |reason| Error::Url { origin: place.to_owned(), reason };
    let whole = if server.contains("://") { server.to_owned() } else { format!("https://{server}") };
    let mut url: Url = whole.parse().map_err(|_| wrong("it is no HOST[:PORT] and no URL"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wrong("it is no address of http or https"));
    }
    if url.path() == "/" {
        url.set_path("/sdk");
    }
    let text = |text: &str| crate::text::percent::decode(text).filter(|t| !t.is_empty());
    let (user, password) = (text(url.username()), url.password().and_then(text));
    // Both were allowed by the scheme.
    let _ = (url.set_username(""), url.set_password(None));
    Ok((url, user, password.map(Secret::from)))
}

/// The bytes of a thumbprint, however it is written.
fn print(place: &str, text: &str) -> Result<Vec<u8>, Error> {
    let wrong = || Error::Setting {
        origin: place.to_owned(),
        reason: "a thumbprint is the SHA-1 or SHA-256 of a certificate in hexadecimal digits".into(),
    };
    let digits: String = text.chars().filter(|c| !matches!(c, ':' | ' ')).collect();
    if !digits.is_ascii() || !matches!(digits.len(), 40 | 64) {
        return Err(wrong());
    }
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| wrong());
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn insecure(profile: Option<&Profile>, variable: Option<String>) -> Result<bool, Error> {
    match variable.map(|v| v.to_ascii_lowercase()) {
        None => Ok(profile.map(|p| p.flag("insecure")).transpose()?.unwrap_or_default()),
        Some(text) if ["1", "t", "true"].contains(&&*text) => Ok(true),
        Some(text) if ["0", "f", "false"].contains(&&*text) => Ok(false),
        Some(_) => {
            let (origin, reason) = ("$GOVC_INSECURE".to_owned(), "it must be true or false".to_owned());
            Err(Error::Setting { origin, reason })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::chain;

    const FILE: &str = r#"{"default":{"server":"vc.example","user":"u","password":"SECRET-p","datacenter":"D"},
        "b":{"server":"https://b:8443/x","user":"u","password":"SECRET-b","insecure":true,"network":"n"},
        "c":{"server":"c","user":"u","password":"SECRET-c","thumbprint":"00:11"},
        "d":{"server":"d","password":"SECRET-d"}, "e":{"server":"ftp://e","user":"u","password":"SECRET"},
        "f":{"user":"u","password":"SECRET"}, "g":{"server":"http://[","user":"u","password":"SECRET"}}"#;

    fn of(
        profile: &str,
        change: impl FnOnce(&mut Account),
        variables: &[(&str, &str)],
    ) -> Result<Source, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("esx.json");
        std::fs::write(&file, FILE).unwrap();
        let mut account = Account::default();
        if !profile.is_empty() {
            (account.esx_config_file, account.esx_profile) = (Some(file), Some(profile.into()));
        }
        change(&mut account);
        let get = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        find(&account, get).map_err(|e| chain(&e))
    }

    #[test]
    fn the_first_place_wins() {
        let plain = of("default", |_| {}, &[("GOVC_URL", "https://x:SECRET@no")]).unwrap();
        assert_eq!((plain.sdk.as_str(), plain.password.expose()), ("https://vc.example/sdk", "SECRET-p"));
        assert_eq!((plain.trust, plain.wanted.datacenter.as_deref()), (Trust::System, Some("D")));
        let b = of("b", |_| {}, &[("GOVC_NETWORK", "env")]).unwrap();
        assert_eq!((b.sdk.as_str(), b.trust), ("https://b:8443/x", Trust::Insecure));
        assert_eq!(b.wanted.network.as_deref(), Some("env"));
        let b = of(
            "b",
            |a| a.esx_server = Some("http://127.0.0.1:8989/sdk".into()),
            &[("GOVC_INSECURE", "false")],
        );
        let b = b.unwrap();
        assert_eq!((b.sdk.as_str(), b.trust), ("http://127.0.0.1:8989/sdk", Trust::System));
        let url = ("GOVC_URL", "https://ad%40min:SECRET%2fx@vc:444");
        let govc = of("", |a| a.esx_insecure = true, &[url]).unwrap();
        assert_eq!((govc.user.as_str(), govc.password.expose()), ("ad@min", "SECRET/x"));
        assert_eq!((govc.sdk.as_str(), govc.trust), ("https://vc:444/sdk", Trust::Insecure));
        let both = [url, ("GOVC_USERNAME", "u"), ("GOVC_PASSWORD", "SECRET-v"), ("GOVC_TLS_CA_CERTS", "/ca")];
        let govc = of("", |a| a.esx_thumbprint = Some("aB:".repeat(20)), &both).unwrap();
        assert_eq!((govc.user.as_str(), govc.password.expose()), ("u", "SECRET-v"));
        assert_eq!(govc.trust, Trust::Thumbprint(vec![0xab; 20]));
        assert_eq!(of("", |_| {}, &both).unwrap().trust, Trust::Roots("/ca".into()));
    }

    #[test]
    fn what_is_wrong_is_said_without_secrets() {
        for (profile, variables, says) in [
            ("none", &[][..], "no such profile \"none\""),
            ("c", &[], "a thumbprint is the SHA-1"),
            ("d", &[], "it has no user"),
            ("e", &[], "parsing ESX URL: profile \"e\""),
            ("f", &[], "there is no server"),
            ("g", &[], "no HOST[:PORT] and no URL"),
            ("default", &[("GOVC_INSECURE", "SECRET")], "$GOVC_INSECURE: it must be true or false"),
            ("", &[("GOVC_URL", "https://u@h")], "there is no password ($GOVC_PASSWORD)"),
            ("", &[("GOVC_URL", "h"), ("GOVC_PASSWORD", "SECRET")], "there is no user ($GOVC_USERNAME)"),
        ] {
            let error = of(profile, |_| {}, variables).unwrap_err();
            assert!(error.contains(says) && !error.contains("SECRET"), "{profile}: {error}");
        }
    }
}
