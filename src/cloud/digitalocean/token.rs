//! Where the token comes from: the first that is there of an option, the environment, the file of profiles, and the
//! file of doctl, DigitalOcean's own tool.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Account;
use crate::cloud::profile::{self, Profile};
use crate::secret::Secret;

/// The service in messages.
const SERVICE: &str = "DigitalOcean";
/// The file of profiles, below the home folder.
const PROFILES: &str = ".config/digitalocean.json";
/// The context that doctl means where none is named: the token at the top of its file.
const DEFAULT_CONTEXT: &str = "default";

/// Why there is no token. No message quotes one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file of profiles cannot be used.
    #[error(transparent)]
    Profile(#[from] profile::Error),
    /// doctl's file cannot be read.
    #[error("cannot read doctl's config {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// doctl's file is not what it should be.
    #[error("cannot use doctl's config {}: {reason}", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The token is none.
    #[error("the token of {0} has characters that no token has")]
    Odd(String),
    /// There is none anywhere.
    #[error(
        "there is no token: neither an option nor $DIGITALOCEAN_ACCESS_TOKEN nor ~/{PROFILES} nor doctl's config has \
         one (`doctl auth init` asks for one and keeps it)"
    )]
    Missing,
}

/// What of the process's environment matters here.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `DIGITALOCEAN_ACCESS_TOKEN`, else `DIGITALOCEAN_TOKEN`, with the name of the one that is set.
    pub token: Option<(&'static str, Secret)>,
    /// `DIGITALOCEAN_API_URL`
    pub api_url: Option<String>,
    /// `DIGITALOCEAN_CONTEXT`
    pub context: Option<String>,
    /// doctl's file, whether it is there or not.
    pub doctl: Option<PathBuf>,
}

impl Environment {
    /// Reads it.
    pub fn of_process() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|t| !t.is_empty());
        let token = ["DIGITALOCEAN_ACCESS_TOKEN", "DIGITALOCEAN_TOKEN"];
        let config = crate::folders::variable("XDG_CONFIG_HOME").filter(|p| p.is_absolute());
        let config = config.or_else(|| Some(crate::folders::home()?.join(".config")));
        Self {
            token: token.into_iter().find_map(|name| Some((name, Secret::from(text(name)?)))),
            api_url: text("DIGITALOCEAN_API_URL"),
            context: text("DIGITALOCEAN_CONTEXT"),
            doctl: config.map(|folder| folder.join("doctl/config.yaml")),
        }
    }
}

/// A token, where it is from, and the API that it is for if that place says.
#[derive(Clone, Debug)]
pub struct Token {
    /// Where it is from, for people.
    pub origin: String,
    /// The token.
    pub secret: Secret,
    /// The root of the API.
    pub api_url: Option<String>,
}

/// Finds the token.
///
/// # Errors
/// When there is none, or a place that was named has none.
pub fn find(account: &Account, environment: &Environment) -> Result<Token, Error> {
    let found = search(account, environment)?;
    match crate::http::bearer(&found.secret) {
        Some(_) => Ok(found),
        None => Err(Error::Odd(found.origin)),
    }
}

fn search(account: &Account, environment: &Environment) -> Result<Token, Error> {
    if let Some(secret) = account.do_token.clone().filter(|t| !t.expose().is_empty()) {
        return Ok(Token { origin: "the command line".into(), secret, api_url: None });
    }
    if let Some((name, secret)) = environment.token.clone() {
        return Ok(Token { origin: format!("${name}"), secret, api_url: None });
    }
    let file = account.do_config_file.as_deref().filter(|f| !f.as_os_str().is_empty());
    let named = account.do_profile.as_deref().filter(|p| !p.is_empty());
    let chosen = file.is_some() || named.is_some();
    if chosen || environment.context.is_none() {
        match Profile::load(SERVICE, file, PROFILES, named.unwrap_or_default()) {
            Ok(profile) => {
                return Ok(Token {
                    origin: profile.origin(),
                    secret: Secret::from(profile.required("token")?),
                    api_url: profile.text("api_url")?,
                });
            }
            Err(e) if e.is_absent() && !chosen => {}
            Err(e) => return Err(e.into()),
        }
    }
    match &environment.doctl {
        Some(path) => of_doctl(path, environment.context.as_deref())?.ok_or(Error::Missing),
        None => Err(Error::Missing),
    }
}

/// doctl's file, as far as it matters here.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Doctl {
    access_token: Option<String>,
    api_url: Option<String>,
    auth_contexts: Option<std::collections::BTreeMap<String, Option<String>>>,
    context: Option<String>,
}

/// The token of a context in doctl's file, of the one that the file names if `context` names none; nothing where there
/// is no file, or it has no token and no context was asked for.
fn of_doctl(path: &Path, context: Option<&str>) -> Result<Option<Token>, Error> {
    let text = match crate::input::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && context.is_none() => return Ok(None),
        Err(source) => return Err(Error::Read { path: path.into(), source }),
    };
    let invalid = |reason: String| Error::Invalid { path: path.into(), reason };
    // What the parser says may quote the file.
    let place = |e: serde_yaml::Error| {
        let at = e.location().map(|l| format!(" at line {}, column {}", l.line(), l.column()));
        invalid(format!("it is not the expected YAML{}", at.unwrap_or_default()))
    };
    let file: Option<Doctl> = serde_yaml::from_str(&text).map_err(place)?;
    let file = file.unwrap_or_default();
    super::super::warn_if_others_may_read(super::COMPONENT, path);
    let filled = |text: Option<String>| text.filter(|t| !t.is_empty());
    let written = filled(file.context);
    let name = context.or(written.as_deref()).unwrap_or(DEFAULT_CONTEXT);
    let mut contexts = file.auth_contexts.unwrap_or_default();
    let token = match name {
        DEFAULT_CONTEXT => filled(file.access_token),
        _ => filled(contexts.remove(name).flatten()),
    };
    match token {
        Some(token) => Ok(Some(Token {
            origin: format!("context {name:?} in {}", path.display()),
            secret: Secret::from(token),
            api_url: filled(file.api_url),
        })),
        None if name == DEFAULT_CONTEXT && context.is_none() => Ok(None),
        None => {
            let mut there: Vec<&str> = contexts.keys().map(String::as_str).collect();
            there.insert(0, DEFAULT_CONTEXT);
            Err(invalid(format!("it has no token for the context {name:?} (contexts: {})", there.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCTL: &str = "access-token: SECRET-top\napi-url: http://doctl/\nauth-contexts:\n  work: SECRET-work\n  \
                         bare: \"\"\ncontext: work\n";

    struct Place {
        folder: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap() }
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        }

        fn profiles(&self, text: &str) -> Account {
            Account { do_config_file: Some(self.write("digitalocean.json", text)), ..Account::default() }
        }
    }

    #[test]
    fn the_first_place_wins() {
        let place = Place::new();
        let file = r#"{"default":{"token":"SECRET-d","api_url":"http://d/"},"p":{"token":"SECRET-p"}}"#;
        let mut account = place.profiles(file);
        let mut environment = Environment {
            token: Some(("DIGITALOCEAN_TOKEN", Secret::from("SECRET-env".to_owned()))),
            doctl: Some(place.write("doctl.yaml", DOCTL)),
            ..Environment::default()
        };
        account.do_token = Some(Secret::from("SECRET-flag".to_owned()));
        let is = |account: &Account, environment: &Environment| {
            let token = find(account, environment).unwrap();
            (token.secret.expose().to_owned(), token.origin, token.api_url)
        };
        assert_eq!(
            is(&account, &environment),
            ("SECRET-flag".to_owned(), "the command line".to_owned(), None)
        );
        account.do_token = Some(Secret::from(String::new()));
        assert_eq!(is(&account, &environment).0, "SECRET-env");
        environment.token = None;
        // The option's file wins over doctl's context.
        environment.context = Some("work".into());
        let (token, origin, api_url) = is(&account, &environment);
        assert_eq!((token.as_str(), api_url.as_deref()), ("SECRET-d", Some("http://d/")));
        assert!(origin.starts_with("profile \"default\" in "), "{origin}");
        account.do_profile = Some("p".into());
        assert_eq!(is(&account, &environment).0, "SECRET-p");
        let account = Account::default();
        let (token, origin, api_url) = is(&account, &environment);
        assert_eq!((token.as_str(), api_url.as_deref()), ("SECRET-work", Some("http://doctl/")));
        assert!(origin.starts_with("context \"work\" in "), "{origin}");
        environment.context = Some("default".into());
        assert_eq!(is(&account, &environment).0, "SECRET-top");
    }

    #[test]
    fn the_file_of_doctl_names_its_context() {
        let place = Place::new();
        let of = |text: &str, context: Option<&str>| of_doctl(&place.write("doctl.yaml", text), context);
        assert_eq!(of(DOCTL, None).unwrap().unwrap().secret.expose(), "SECRET-work");
        assert!(of("", None).unwrap().is_none());
        assert!(of("access-token: \"\"\n", None).unwrap().is_none());
        assert!(of_doctl(&place.folder.path().join("none"), None).unwrap().is_none());
        for (text, context, says) in [
            (DOCTL, Some("bare"), "no token for the context \"bare\" (contexts: default, work)"),
            (DOCTL, Some("none"), "(contexts: default, bare, work)"),
            ("context: gone\naccess-token: SECRET\n", None, "\"gone\" (contexts: default)"),
            ("access-token: [SECRET]\n", None, "not the expected YAML"),
            ("access-token: {SECRET: \n", None, "not the expected YAML"),
            ("- SECRET\n", None, "not the expected YAML"),
        ] {
            let error = crate::text::chain(&of(text, context).unwrap_err());
            assert!(error.contains(says) && !error.contains("SECRET"), "{error}");
        }
        let error = of_doctl(&place.folder.path().join("none"), Some("work")).unwrap_err();
        assert!(crate::text::chain(&error).contains("No such file"));
    }

    #[test]
    fn what_is_wrong_with_profiles_is_said_without_secrets() {
        let place = Place::new();
        for (text, says) in [
            (r#"{"default":{"token":""}}"#, "it has no token"),
            (r#"{"default":{"Token":"SECRET"}}"#, "it has no token"),
            (r#"{"default":{"token":["SECRET"]}}"#, "token must be a string"),
            (r#"{"other":{"token":"SECRET"}}"#, "no such profile \"default\""),
            (r#"{"default":{"token":"SECRET\n"}}"#, "characters that no token has"),
            ("{}", "contains no profiles"),
            ("SECRET", "it is no JSON"),
        ] {
            let error =
                crate::text::chain(&find(&place.profiles(text), &Environment::default()).unwrap_err());
            assert!(error.contains(says) && !error.contains("SECRET"), "{text}: {error}");
        }
        let account =
            Account { do_config_file: Some(place.folder.path().join("none")), ..Account::default() };
        let error = crate::text::chain(&find(&account, &Environment::default()).unwrap_err());
        assert!(error.contains("couldn't read DigitalOcean config: open ") && error.contains("No such file"));
    }
}
