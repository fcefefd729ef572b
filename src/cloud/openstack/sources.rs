//! Where credentials for OpenStack are found: the profile file of older mantles, else where other tools find them.
//!
//! The first of these that is there: the JSON file (`--config-file`, `~/.config/openstack.json`); a cloud of
//! `clouds.yaml`; the `OS_*` variables. What stands in `clouds.yaml` and the variables means what it means to
//! openstacksdk, whose rules are these: <https://docs.openstack.org/openstacksdk/latest/user/config/configuration.html>.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{Account, Error};
use crate::applet::Terms;
use crate::cloud::profile::{self, Profile};
use crate::secret::Secret;

/// The JSON file in the home folder.
const JSON: &str = ".config/openstack.json";

/// Files, for the man page.
pub const FILES: Terms = &[
    (
        JSON_SHOWN,
        "Profiles of OpenStack: auth_url, username, password, tenant_id or tenant_name, user_domain, ...",
    ),
    (
        "clouds.yaml, secure.yaml, clouds-public.yaml",
        "Clouds of OpenStack, where there is no such profile file: in the current folder, ~/.config/openstack and \
         /etc/openstack.",
    ),
];
const JSON_SHOWN: &str = "~/.config/openstack.json";

/// Variables, for the man page.
pub const ENVIRONMENT: Terms = &[
    ("OS_CLOUD", "Cloud of clouds.yaml."),
    ("OS_CLIENT_CONFIG_FILE, OS_CLIENT_SECURE_FILE", "Files in place of clouds.yaml and secure.yaml."),
    (
        "OS_AUTH_URL, OS_USERNAME, OS_PASSWORD, OS_PROJECT_NAME, OS_APPLICATION_CREDENTIAL_ID, ...",
        "Credentials for OpenStack, where neither the profile file nor a cloud is chosen.",
    ),
];

/// A project, user or domain, by one of its two names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// Unique.
    Id(String),
    /// Unique in its domain.
    Name(String),
}

impl Named {
    fn of(id: Option<String>, name: Option<String>) -> Option<Self> {
        id.map(Self::Id).or(name.map(Self::Name))
    }
}

/// A user or project: its name is unique in its domain only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which.
    pub named: Named,
    /// Of which domain.
    pub domain: Option<Named>,
}

/// How one says who one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// A user with a password.
    Password(Member, Secret),
    /// A credential that a user made for a program; by id, or by name with its user.
    Application(Named, Option<Member>, Secret),
    /// A token that somebody else got.
    Token(Secret),
}

/// What the token is to be good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// What the credentials say by themselves.
    Own,
    /// A project.
    Project(Member),
    /// A domain.
    Domain(Named),
    /// All of the cloud.
    System,
}

/// Credentials as they are written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where they come from, for people.
    pub origin: String,
    /// Keystone: versioned or not.
    pub auth_url: String,
    /// The version of Keystone that was asked for.
    pub version: Option<u8>,
    /// Who.
    pub method: Method,
    /// For what.
    pub scope: Scope,
    /// Where.
    pub region: Option<String>,
    /// Which of a service's endpoints: `public`, `internal` or `admin`.
    pub interface: String,
    /// Certificates in PEM that replace the system's trust roots.
    pub roots: Option<PathBuf>,
    /// Endpoints in place of those of the catalogue, by type of service.
    pub endpoints: BTreeMap<String, String>,
    /// The external network that floating IPs are of.
    pub floating_ip_pool: Option<String>,
}

/// What is looked at: the process's own, or a test's.
#[derive(Clone, Default)]
pub struct Environment {
    /// The variables that begin with `OS_` and are not empty.
    pub variables: BTreeMap<String, String>,
    /// Folders in which `clouds.yaml` is looked for, in this order.
    pub folders: Vec<PathBuf>,
}

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        let config = std::env::var("XDG_CONFIG_HOME").ok().filter(|c| !c.is_empty()).map(PathBuf::from);
        let config = config.or_else(|| crate::folders::home().map(|home| home.join(".config")));
        let mut folders = vec![PathBuf::from(".")];
        folders.extend(config.map(|c| c.join("openstack")));
        folders.push("/etc/openstack".into());
        let all =
            std::env::vars_os().filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?)));
        Self { variables: all.filter(|(n, v)| n.starts_with("OS_") && !v.is_empty()).collect(), folders }
    }

    fn get(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }
}

/// Finds the credentials that an account means.
///
/// # Errors
/// When there are none, or what is there is not what it should be.
pub fn find(account: &Account, environment: &Environment) -> Result<Source, Error> {
    let named = account.openstack_config_file.as_deref().filter(|f| !f.as_os_str().is_empty());
    let mut source = match Profile::load("OpenStack", named, JSON, account.profile().unwrap_or_default()) {
        Ok(profile) => of_profile(&profile)?,
        Err(absent) if absent.is_absent() && named.is_none() => {
            match clouds(account.profile(), environment)? {
                Some(source) => source,
                None => return Err(absent.into()),
            }
        }
        Err(e) => return Err(e.into()),
    };
    let given = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    if let Some(region) = given(&account.openstack_region) {
        source.region = Some(region);
    }
    source.region = source.region.or_else(|| environment.get("OS_REGION_NAME"));
    if let Some(domain) = given(&account.openstack_domain) {
        let domain = Some(Named::Id(domain));
        match &mut source.method {
            Method::Password(user, _) | Method::Application(_, Some(user), _) => user.domain = domain.clone(),
            Method::Application(_, None, _) | Method::Token(_) => {}
        }
        if let Scope::Project(project) = &mut source.scope {
            project.domain = domain;
        }
    }
    Ok(source)
}

/// Those of a profile in the JSON file.
fn of_profile(profile: &Profile) -> Result<Source, profile::Error> {
    let auth_url = profile.required("auth_url")?;
    let domain = profile.text("user_domain")?.map(Named::Id);
    let user = Member { named: Named::Name(profile.required("username")?), domain: domain.clone() };
    let password = Secret::from(profile.required("password")?);
    let scope = match Named::of(profile.text("tenant_id")?, profile.text("tenant_name")?) {
        Some(named) => Scope::Project(Member { named, domain }),
        None => {
            // Says which setting is missing.
            Scope::Project(Member { named: Named::Name(profile.required("tenant_name")?), domain })
        }
    };
    Ok(Source {
        origin: profile.origin(),
        auth_url,
        version: None,
        method: Method::Password(user, password),
        scope,
        region: profile.text("region_name")?,
        interface: "public".into(),
        roots: profile.text("cacert")?.map(PathBuf::from),
        endpoints: BTreeMap::new(),
        floating_ip_pool: profile.text("floating_ip_pool")?,
    })
}

type Settings = Map<String, Value>;

/// Those of `clouds.yaml` and the variables; `None`: there is nothing of the kind.
fn clouds(named: Option<&str>, environment: &Environment) -> Result<Option<Source>, Error> {
    let file = |stem: &str, variable: &str| load(stem, environment.get(variable).as_deref(), environment);
    let main = file("clouds", "OS_CLIENT_CONFIG_FILE")?;
    let secure = file("secure", "OS_CLIENT_SECURE_FILE")?;
    let mut origin = main.as_ref().or(secure.as_ref()).map(|(path, _)| path.clone());
    let mut tree = main.map(|(_, tree)| tree).unwrap_or_default();
    if let Some((_, secure)) = secure {
        merge(&mut tree, secure);
    }
    let mut clouds = match tree.remove("clouds") {
        Some(Value::Object(clouds)) => clouds,
        None | Some(Value::Null) => Settings::new(),
        Some(_) => return Err(invalid(&origin, "clouds is no mapping")),
    };
    let chosen = named.map(str::to_owned).or_else(|| environment.get("OS_CLOUD"));
    let variables = variables(environment);
    let (name, own) = match chosen {
        Some(name) => match clouds.remove(&name) {
            Some(own) => (name, own),
            // "default" is what an absent profile means, too.
            None if name == profile::DEFAULT && named.is_some() && variables.is_some() => {
                origin = None;
                ("variables".into(), Value::Object(variables.unwrap_or_default()))
            }
            None if origin.is_none() && environment.get("OS_CLOUD").is_none() => return Ok(None),
            None => {
                let there = clouds.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                return Err(Error::NoCloud { name, there });
            }
        },
        None => match (variables, clouds.len()) {
            (Some(own), _) => {
                origin = None;
                ("variables".into(), Value::Object(own))
            }
            (None, 0) => return Ok(None),
            (None, 1) => clouds.into_iter().next().unwrap_or_default(),
            (None, _) => {
                let there = clouds.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                return Err(Error::WhichCloud { there });
            }
        },
    };
    let Value::Object(own) = own else {
        return Err(invalid(&origin, &format!("cloud {name:?} is no mapping")));
    };
    let mut cloud = Settings::new();
    let vendor = own.get("profile").or_else(|| own.get("cloud")).and_then(Value::as_str);
    if let Some(vendor) = vendor {
        let known = file("clouds-public", "OS_CLIENT_VENDOR_FILE")?.map(|(_, tree)| tree).unwrap_or_default();
        match known.get("public-clouds").and_then(|c| c.get(vendor)) {
            Some(Value::Object(settings)) => update(&mut cloud, settings.clone()),
            _ => crate::warning!(
                "openstack",
                "cloud {name:?} is of {vendor:?}, which no clouds-public.yaml describes"
            ),
        }
    }
    update(&mut cloud, own);
    let origin = match origin {
        Some(path) => format!("cloud {name:?} in {}", path.display()),
        None => "the OS_* variables".to_owned(),
    };
    of_settings(cloud, origin).map(Some)
}

fn invalid(path: &Option<PathBuf>, reason: &str) -> Error {
    Error::Invalid { path: path.clone().unwrap_or_default(), reason: reason.into() }
}

/// The first file of this name: that which a variable names, else in one of the folders.
fn load(
    stem: &str,
    named: Option<&str>,
    environment: &Environment,
) -> Result<Option<(PathBuf, Settings)>, Error> {
    let usual = environment
        .folders
        .iter()
        .flat_map(|folder| [".yaml", ".yml", ".json"].map(|suffix| folder.join(format!("{stem}{suffix}"))));
    let Some(path) = named.map(PathBuf::from).into_iter().chain(usual).find(|p| p.exists()) else {
        return Ok(None);
    };
    let text =
        crate::input::read_to_string(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
    if stem != "clouds-public" {
        crate::cloud::warn_if_others_may_read("openstack", &path);
    }
    parse(&path, &text).map(|tree| Some((path, tree)))
}

fn parse(path: &Path, text: &str) -> Result<Settings, Error> {
    let invalid = |reason: String| Error::Invalid { path: path.into(), reason };
    // The reason must not quote the file: it holds secrets. A place helps.
    let tree: serde_yaml::Value = serde_yaml::from_str(text).map_err(|e| {
        let place = e.location().map(|l| format!(" at line {}, column {}", l.line(), l.column()));
        invalid(format!("it is no YAML{}", place.unwrap_or_default()))
    })?;
    match serde_json::to_value(tree) {
        Ok(Value::Object(tree)) => Ok(tree),
        Ok(Value::Null) => Ok(Settings::new()),
        _ => Err(invalid("it is no mapping of clouds".into())),
    }
}

/// Puts one tree over another, down to its leaves.
fn merge(under: &mut Settings, over: Settings) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Object(under)), Value::Object(over)) => merge(under, over),
            (_, value) => drop(under.insert(key, value)),
        }
    }
}

/// Puts the settings of one cloud over others: those of `auth` one by one, all else as a whole.
fn update(under: &mut Settings, over: Settings) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Object(auth)), Value::Object(over)) if key == "auth" => auth.extend(over),
            (_, value) => drop(under.insert(key, value)),
        }
    }
}

/// The cloud that the variables describe; `None`: they only choose one, or there are none.
fn variables(environment: &Environment) -> Option<Settings> {
    const SELECT: [&str; 6] = [
        "OS_CLOUD",
        "OS_CLOUD_NAME",
        "OS_REGION_NAME",
        "OS_CLIENT_CONFIG_FILE",
        "OS_CLIENT_SECURE_FILE",
        "OS_CLIENT_VENDOR_FILE",
    ];
    let told = &environment.variables;
    told.keys().any(|n| !SELECT.contains(&n.as_str())).then(|| {
        told.iter().map(|(n, v)| (n["OS_".len()..].to_ascii_lowercase(), v.as_str().into())).collect()
    })
}

/// Reads the settings of a cloud: those of `auth` may stand beside it, too, and win there.
struct Reader {
    cloud: Settings,
    auth: Settings,
    origin: String,
}

impl Reader {
    fn text(&self, names: &[&str]) -> Option<String> {
        let written = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(on) => Some(on.to_string()),
            _ => None,
        };
        let one = |name: &str| {
            let spelled = [name.to_owned(), name.replace('_', "-")];
            let of = |map: &Settings| spelled.iter().find_map(|n| map.get(n).and_then(written));
            of(&self.cloud).or_else(|| of(&self.auth)).filter(|t| !t.is_empty())
        };
        names.iter().find_map(|n| one(n))
    }

    fn missing(&self, what: &str) -> Error {
        Error::Incomplete { origin: self.origin.clone(), what: what.into() }
    }

    /// A user or project. Its domain may be said for both of them, or as a default.
    fn member(&self, id: &[&str], name: &[&str], kind: &str, scoped: bool) -> Option<Member> {
        let named = Named::of(self.text(id), self.text(name))?;
        let domain = |what: &str| {
            let own = self.text(&[&format!("{kind}_domain_{what}")]);
            let of_both = || self.text(&[&format!("domain_{what}")]).filter(|_| scoped);
            own.or_else(of_both).or_else(|| self.text(&[&format!("default_domain_{what}")]))
        };
        Some(Member { named, domain: Named::of(domain("id"), domain("name")) })
    }
}

fn of_settings(mut cloud: Settings, origin: String) -> Result<Source, Error> {
    let auth = match cloud.remove("auth") {
        Some(Value::Object(auth)) => auth,
        _ => Settings::new(),
    };
    // Of several regions the first one is meant, unless one is chosen.
    let first = cloud
        .get("regions")
        .and_then(|r| r.get(0))
        .and_then(|r| r.as_str().or_else(|| r.get("name").and_then(Value::as_str)).map(str::to_owned));
    let reader = Reader { cloud, auth, origin };
    for (setting, instead) in [("cert", "name none"), ("key", "name none")] {
        if reader.cloud.get(setting).is_some_and(|v| !v.is_null()) {
            let what = format!("{setting} is set, but mantle has no client certificates; {instead}");
            return Err(Error::Unsupported { origin: reader.origin, what });
        }
    }
    let is_false = |text: String| ["false", "no", "0"].contains(&text.to_ascii_lowercase().as_str());
    let unverified = reader.text(&["verify"]).is_some_and(is_false)
        || reader.text(&["insecure"]).is_some_and(|t| t.eq_ignore_ascii_case("true") || t == "1");
    if unverified {
        let what =
            "it asks for certificates to be ignored, which mantle does not; name the authority in cacert"
                .into();
        return Err(Error::Unsupported { origin: reader.origin, what });
    }
    let auth_url = reader.text(&["auth_url"]).ok_or_else(|| reader.missing("auth_url"))?;
    // Other tools want the type said; what is there tells as well.
    let is_application =
        reader.text(&["password"]).is_none() && reader.text(&["application_credential_secret"]).is_some();
    let usual = if is_application { "v3applicationcredential" } else { "password" };
    let kind = reader.text(&["auth_type", "auth_plugin"]).unwrap_or_else(|| usual.into());
    let project =
        reader.member(&["project_id", "tenant_id"], &["project_name", "tenant_name"], "project", true);
    let user = reader.member(&["user_id"], &["username", "user_name"], "user", project.is_some());
    let secret = |name: &str| reader.text(&[name]).map(Secret::from);
    let application =
        Named::of(reader.text(&["application_credential_id"]), reader.text(&["application_credential_name"]));
    let (method, version) = match kind.as_str() {
        "password" | "v3password" | "v2password" => {
            let user = user.ok_or_else(|| reader.missing("username"))?;
            let password = secret("password").ok_or_else(|| reader.missing("password"))?;
            let version = match kind.as_str() {
                "v2password" => Some(2),
                "v3password" => Some(3),
                _ => None,
            };
            (Method::Password(user, password), version)
        }
        "v3applicationcredential" => {
            let which = application.ok_or_else(|| reader.missing("application_credential_id"))?;
            let secret = secret("application_credential_secret")
                .ok_or_else(|| reader.missing("application_credential_secret"))?;
            let owner = if matches!(which, Named::Id(_)) { None } else { user };
            if owner.is_none() && matches!(which, Named::Name(_)) {
                return Err(reader.missing("user_id or username beside application_credential_name"));
            }
            (Method::Application(which, owner, secret), Some(3))
        }
        "token" | "v3token" | "v2token" => {
            let token = reader.text(&["token", "auth_token"]).ok_or_else(|| reader.missing("token"))?;
            let version = match kind.as_str() {
                "v2token" => Some(2),
                "v3token" => Some(3),
                _ => None,
            };
            (Method::Token(token.into()), version)
        }
        other => {
            let what = format!(
                "its auth_type is {other:?}; mantle knows password, v3applicationcredential and token"
            );
            return Err(Error::Unsupported { origin: reader.origin, what });
        }
    };
    let asked = reader.text(&["identity_api_version"]);
    let version = version.or(match asked.as_deref() {
        Some("2" | "2.0") => Some(2),
        Some("3") => Some(3),
        _ => None,
    });
    let scope = match (&method, project) {
        (Method::Application(..), _) => Scope::Own,
        (_, Some(project)) => Scope::Project(project),
        (_, None) => match Named::of(reader.text(&["domain_id"]), reader.text(&["domain_name"])) {
            Some(domain) => Scope::Domain(domain),
            None if reader.text(&["system_scope"]).is_some() => Scope::System,
            None => Scope::Own,
        },
    };
    let interface = reader.text(&["interface", "endpoint_type"]).unwrap_or_else(|| "public".into());
    let endpoints = ["compute", "image", "network"].into_iter().filter_map(|service| {
        Some((service.to_owned(), reader.text(&[&format!("{service}_endpoint_override")])?))
    });
    Ok(Source {
        auth_url,
        version,
        method,
        scope,
        region: reader.text(&["region_name"]).or(first),
        interface: interface.strip_suffix("URL").unwrap_or(&interface).to_owned(),
        roots: reader.text(&["cacert"]).map(PathBuf::from),
        endpoints: endpoints.collect(),
        floating_ip_pool: reader.text(&["floating_ip_pool"]),
        origin: reader.origin,
    })
}
