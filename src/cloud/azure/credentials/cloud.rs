//! The clouds that Azure is: the public one, those of countries, and those that files describe.

use reqwest::Url;

use super::Error;

/// Where the services of one cloud are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cloud {
    /// Where tokens are.
    pub authority: Url,
    /// The Resource Manager.
    pub manager: Url,
    /// What tokens for the Resource Manager are for.
    pub audience: String,
    /// The classic service management.
    pub management: Url,
    /// What the names of storage servers end with, such as `core.windows.net`; or the URL of a server.
    pub storage: String,
}

/// What files may say of a cloud; empty texts say nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Named<'a> {
    pub authority: Option<&'a str>,
    pub manager: Option<&'a str>,
    pub management: Option<&'a str>,
    pub storage: Option<&'a str>,
}

/// The clouds that everybody knows, by what people and tools call them: authority, manager, management, storage.
const KNOWN: &[(&[&str], [&str; 4])] = &[
    (
        &["public", "pub", "azurecloud", "azurepubliccloud"],
        [
            "https://login.microsoftonline.com/",
            "https://management.azure.com/",
            "https://management.core.windows.net/",
            "core.windows.net",
        ],
    ),
    (
        &["china", "cn", "azurechinacloud"],
        [
            "https://login.chinacloudapi.cn/",
            "https://management.chinacloudapi.cn/",
            "https://management.core.chinacloudapi.cn/",
            "core.chinacloudapi.cn",
        ],
    ),
    (
        &["government", "gov", "usgovernment", "azureusgovernment", "azureusgovernmentcloud"],
        [
            "https://login.microsoftonline.us/",
            "https://management.usgovcloudapi.net/",
            "https://management.core.usgovcloudapi.net/",
            "core.usgovcloudapi.net",
        ],
    ),
];

impl Cloud {
    /// The public one.
    ///
    /// # Errors
    /// Never: its addresses are URLs.
    pub fn public() -> Result<Self, Error> {
        Self::known(&KNOWN[0].1)
    }

    fn known([authority, manager, management, storage]: &[&str; 4]) -> Result<Self, Error> {
        Ok(Self {
            authority: url(authority)?,
            manager: url(manager)?,
            audience: (*manager).to_owned(),
            management: url(management)?,
            storage: (*storage).to_owned(),
        })
    }

    /// A cloud of this name.
    ///
    /// # Errors
    /// When nobody calls one so.
    pub fn named(name: &str) -> Result<Self, Error> {
        let lower = name.to_ascii_lowercase();
        let found = KNOWN.iter().find(|(names, _)| names.contains(&lower.as_str()));
        let (_, addresses) = found.ok_or_else(|| Error::Cloud(name.to_owned()))?;
        Self::known(addresses)
    }

    /// The cloud whose tokens are at this address.
    ///
    /// # Errors
    /// When the address is no URL.
    pub fn with_authority(&self, text: &str) -> Result<Self, Error> {
        let text = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let authority = url(&text)?;
        for (_, known) in KNOWN {
            let known = Self::known(known)?;
            if known.authority == authority {
                return Ok(known);
            }
        }
        Ok(Self { authority, ..self.clone() })
    }

    /// This one, but for what a file says. Tokens are for the address of the Resource Manager as the file has it.
    ///
    /// # Errors
    /// When something in it is no URL.
    pub fn but(mut self, named: &Named<'_>) -> Result<Self, Error> {
        let given = |text: Option<&str>| text.filter(|t| !t.is_empty()).map(str::to_owned);
        if let Some(text) = given(named.authority) {
            self = self.with_authority(&text)?;
        }
        if let Some(text) = given(named.manager) {
            (self.manager, self.audience) = (url(&text)?, text);
        }
        if let Some(text) = given(named.management) {
            self.management = url(&text)?;
        }
        if let Some(text) = given(named.storage) {
            self.storage = text.trim_start_matches('.').to_owned();
        }
        Ok(self)
    }
}

/// An address of a service, with a slash at its end.
pub(super) fn url(text: &str) -> Result<Url, Error> {
    let no = || Error::Address(text.to_owned());
    let url: Url = format!("{}/", text.trim_end_matches('/')).parse().map_err(|_| no())?;
    let is_service = matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none();
    if is_service { Ok(url) } else { Err(no()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clouds_have_names_and_are_known_by_their_authority() {
        for (name, authority) in [
            ("pub", "https://login.microsoftonline.com/"),
            ("AzureCloud", "https://login.microsoftonline.com/"),
            ("cn", "https://login.chinacloudapi.cn/"),
            ("AzureUSGovernment", "https://login.microsoftonline.us/"),
        ] {
            assert_eq!(Cloud::named(name).unwrap().authority.as_str(), authority);
        }
        assert!(Cloud::named("moon").unwrap_err().to_string().contains("moon"));
        let public = Cloud::public().unwrap();
        let gov = public.with_authority("login.microsoftonline.us").unwrap();
        assert_eq!(gov.manager.as_str(), "https://management.usgovcloudapi.net/");
        let own = public.with_authority("http://127.0.0.1:1/adfs").unwrap();
        assert_eq!(
            (own.authority.as_str(), own.manager.clone()),
            ("http://127.0.0.1:1/adfs/", public.manager.clone())
        );
    }

    #[test]
    fn files_say_more() {
        let named = Named {
            manager: Some("http://127.0.0.1:1"),
            storage: Some(".core.x"),
            authority: Some(""),
            ..Named::default()
        };
        let cloud = Cloud::public().unwrap().but(&named).unwrap();
        assert_eq!(
            (cloud.manager.as_str(), cloud.audience.as_str(), cloud.storage.as_str()),
            ("http://127.0.0.1:1/", "http://127.0.0.1:1", "core.x")
        );
        for bad in ["x", "ftp://h/", "http://", "http://h/?a=b"] {
            assert!(Cloud::public().unwrap().but(&Named { manager: Some(bad), ..named }).is_err(), "{bad}");
        }
    }
}
