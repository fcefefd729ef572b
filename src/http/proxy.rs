//! Which proxy a URL is asked through: the variables of the environment as curl reads them.
//!
//! More is understood than curl does where Go, hence this program's predecessor, does so: `HTTP_PROXY` in capitals
//! (not in CGI programs, whose clients can set it), `*` among others, `*.domain`, `host:port`; and entries of
//! `no_proxy` may be separated by blanks alone, addresses may be in brackets, `/0` is every address.
//! An empty variable counts as absent.

use std::net::IpAddr;

use reqwest::Url;

/// Variables for man pages.
pub const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "http_proxy, https_proxy, all_proxy",
        "Proxies for http:// URLs, https:// URLs, and both; each a URL, with user and password before the host if \
         need be. In capitals, they count where those in small letters are not set.",
    ),
    (
        "no_proxy, NO_PROXY",
        "Hosts that no proxy is used for, separated by commas: names with all that is below them, addresses, ranges \
         such as 10.0.0.0/8, HOST:PORT, or * for all.",
    ),
    (
        "SSL_CERT_FILE, SSL_CERT_DIR",
        "A file of certificates in PEM, and folders of such files by their hashes, to trust in place of the system's.",
    ),
];

/// A variable that names no proxy.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the proxy of ${variable} ({value}): {reason}")]
pub struct Malformed {
    /// The variable.
    pub variable: &'static str,
    /// Its value, without its secrets.
    pub value: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A proxy, and who said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// The variable that names it.
    pub variable: &'static str,
    /// Where it is.
    pub url: Url,
}

/// For messages: without user and password.
impl std::fmt::Display for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the proxy {} of ${}", super::shown(&self.url).trim_end_matches('/'), self.variable)
    }
}

/// The proxies of the environment.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    except: Vec<Except>,
}

/// An entry of `no_proxy`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Except {
    All,
    /// A host and those below it, in lower case.
    Domain(String, Option<u16>),
    /// An address with so many bits, all of them for one host.
    Network(IpAddr, u32, Option<u16>),
}

const HTTP: [&str; 4] = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
const HTTPS: [&str; 4] = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];

impl Proxies {
    /// What the environment of this process says.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn from_environment() -> Result<Self, Malformed> {
        Self::read(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Malformed> {
        let is_cgi = variable("REQUEST_METHOD").is_some();
        let set = |name: &str| {
            let value = variable(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
            value.filter(|_| !(is_cgi && name == "HTTP_PROXY"))
        };
        let first = |names: [&'static str; 4]| -> Result<Option<Proxy>, Malformed> {
            let found = names.into_iter().find_map(|name| Some((name, set(name)?)));
            found.map(|(variable, value)| parse(variable, &value)).transpose()
        };
        let except = set("no_proxy").or_else(|| set("NO_PROXY")).unwrap_or_default();
        let entries = except.split([',', ' ', '\t']).filter(|entry| !entry.is_empty());
        let except = entries.filter_map(Except::parse).collect();
        Ok(Self { http: first(HTTP)?, https: first(HTTPS)?, except })
    }

    /// The proxy that a URL is asked through.
    pub fn of(&self, url: &Url) -> Option<&Proxy> {
        let proxy = match url.scheme() {
            "http" => self.http.as_ref(),
            "https" => self.https.as_ref(),
            _ => None,
        }?;
        let host = url.host_str()?.trim_end_matches('.').to_ascii_lowercase();
        let port = url.port_or_known_default();
        (!self.except.iter().any(|entry| entry.has(&host, port))).then_some(proxy)
    }
}

fn parse(variable: &'static str, value: &str) -> Result<Proxy, Malformed> {
    let malformed =
        |reason: String| Malformed { variable, value: super::mask::urls(&with_scheme(value)), reason };
    let url: Url = with_scheme(value).parse().map_err(|e| malformed(format!("{e}")))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(Proxy { variable, url }),
        "http" | "https" => Err(malformed("it has no host".into())),
        other => Err(malformed(format!("{other}:// proxies are not supported, only http:// and https://"))),
    }
}

fn with_scheme(value: &str) -> String {
    if value.contains("://") { value.to_owned() } else { format!("http://{value}") }
}

fn address(text: &str) -> Option<IpAddr> {
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    inner.parse().ok()
}

fn bits(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    }
}

impl Except {
    fn parse(entry: &str) -> Option<Self> {
        if entry == "*" {
            return Some(Self::All);
        }
        if let Some((network, length)) = entry.split_once('/') {
            let network = address(network)?;
            return Some(Self::Network(
                network,
                length.parse().ok().filter(|l| *l <= bits(network).1)?,
                None,
            ));
        }
        if let Some(network) = address(entry) {
            return Some(Self::Network(network, bits(network).1, None));
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (entry, None),
        };
        if let Some(network) = address(host) {
            return Some(Self::Network(network, bits(network).1, port));
        }
        let host = host.strip_prefix('*').unwrap_or(host);
        let host = host.strip_prefix('.').unwrap_or(host).trim_end_matches('.').to_ascii_lowercase();
        (!host.is_empty()).then_some(Self::Domain(host, port))
    }

    fn has(&self, host: &str, port: Option<u16>) -> bool {
        let fits = |wanted: &Option<u16>| wanted.is_none() || *wanted == port;
        match self {
            Self::All => true,
            Self::Domain(domain, wanted) => {
                let below = host.strip_suffix(domain.as_str());
                fits(wanted)
                    && address(host).is_none()
                    && below.is_some_and(|b| b.is_empty() || b.ends_with('.'))
            }
            Self::Network(network, length, wanted) => {
                let Some(host) = address(host) else { return false };
                let ((a, width), (b, other)) = (bits(*network), bits(host));
                let shift = width - length;
                fits(wanted) && width == other && (a ^ b).checked_shr(shift).unwrap_or(0) == 0
            }
        }
    }
}

#[cfg(test)]
mod tests;
