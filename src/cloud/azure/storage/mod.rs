//! Blob storage of one account, as far as disks need it: page blobs, written in parallel and gone on with.
//!
//! The API: <https://learn.microsoft.com/rest/api/storageservices/blob-service-rest-api>.

mod access;
mod blob;
mod extents;
mod metadata;
mod place;
mod scan;
mod upload;

use std::borrow::Cow;

use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Method, StatusCode, Url};

pub use self::access::{Credential, Key, Sas, Tokens};
pub use self::blob::PageBlob;
pub use self::place::{ENVIRONMENT, Environment, Place, SUFFIX};
pub use self::upload::{Error as UploadError, Outcome, Report, Upload};

use self::access::Door;
use super::xml;
use crate::http::{Call, CallError, Calls, Class, Client, Limits, Retry, Service, Setup};
use crate::poll;

/// Result of calls.
pub type Result<T, E = CallError> = std::result::Result<T, E>;

const COMPONENT: &str = "azure";

/// Tokens of Azure AD are taken since 2017-11-09, pages of page ranges are given since this one.
const VERSION: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-ms-version"), HeaderValue::from_static("2020-10-02"));

/// Short calls under way at once.
const CONTROL: usize = 8;
/// Pages under way at once; so many of 4 MiB are in memory.
const DATA: usize = 8;

/// Names of headers.
mod header {
    use reqwest::header::HeaderName;

    pub const BLOB_TYPE: HeaderName = HeaderName::from_static("x-ms-blob-type");
    pub const BLOB_LENGTH: HeaderName = HeaderName::from_static("x-ms-blob-content-length");
    pub const BLOB_MD5: HeaderName = HeaderName::from_static("x-ms-blob-content-md5");
    pub const BLOB_KIND: HeaderName = HeaderName::from_static("x-ms-blob-content-type");
    pub const SEQUENCE: HeaderName = HeaderName::from_static("x-ms-blob-sequence-number");
    pub const IF_SEQUENCE: HeaderName = HeaderName::from_static("x-ms-if-sequence-number-eq");
    pub const PAGE_WRITE: HeaderName = HeaderName::from_static("x-ms-page-write");
    pub const RANGE: HeaderName = HeaderName::from_static("x-ms-range");
    pub const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
    pub const DISK_METADATA: HeaderName = HeaderName::from_static("x-ms-meta-diskmetadata");
}

/// One account's blobs. Clones share connections and places.
#[derive(Clone, Debug)]
pub struct Storage {
    service: Service<Door>,
    root: Url,
}

impl Storage {
    /// The blobs of an account, and what opens it. Nothing is asked.
    ///
    /// # Errors
    /// [`CallError::Setup`] for names that no account has, and when the client cannot be set up.
    pub fn new(place: &Place, account: &str, credential: Credential) -> Result<Self> {
        let root = place.of(account)?;
        if matches!(credential, Credential::Bearer(_)) && root.scheme() != "https" {
            let what = format!("tokens are not sent to {root}: it is not https");
            return Err(CallError::setup(what));
        }
        let retry = Retry::scaled(poll::scale());
        // Signatures cover the address.
        let setup = Setup { redirects: false, ..Setup::default() };
        let http =
            Client::with(Limits::of_service(poll::scale()), retry.clone(), &setup).map_err(|source| {
                CallError::Setup { what: "cannot use HTTP".into(), source: Some(source.into()) }
            })?;
        let calls = Calls::new(COMPONENT, retry, CONTROL, DATA);
        let door = Door { account: account.to_owned(), credential };
        Ok(Self { service: Service::new(http, calls, door, xml::refusal), root })
    }

    /// Where the account's blobs are.
    pub fn root(&self) -> &Url {
        &self.root
    }

    /// A page blob, which may be there or not.
    ///
    /// # Errors
    /// [`CallError::Setup`] for names that no container or blob has.
    pub fn page_blob(&self, container: &str, name: &str) -> Result<PageBlob> {
        PageBlob::new(self.clone(), container, name)
    }

    /// Makes a private container, if there is none of this name. Who may only write blobs may not: then whether there
    /// is one is found out with the first blob.
    async fn make_container(&self, name: &str) -> Result<()> {
        let mut url = self.at(name, None)?;
        url.set_query(Some("restype=container"));
        let call = self.call("Create Container", Method::PUT, url).accept(StatusCode::CONFLICT).send();
        match call.await {
            Ok(answer) if answer.status == StatusCode::CONFLICT => {
                let code = answer.headers.get("x-ms-error-code").and_then(|v| v.to_str().ok());
                match code.is_none_or(|code| code == "ContainerAlreadyExists") {
                    true => Ok(()),
                    false => Err(CallError::setup(format!(
                        "container {name} cannot be made: {}",
                        code.unwrap_or_default()
                    ))),
                }
            }
            Err(e) if e.class() == Some(Class::Denied) && !self.has_key() => {
                crate::debug!(COMPONENT, "{e}; container {name} may be there");
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// Whether everything is allowed.
    fn has_key(&self) -> bool {
        matches!(self.service.access().credential, Credential::Key(_))
    }

    fn call(&self, name: impl Into<Cow<'static, str>>, method: Method, url: Url) -> Call<'_, Door> {
        let (version, value) = VERSION;
        self.service.call(name, method, url).header(version, value)
    }

    /// The address of a container or of a blob in it.
    fn at(&self, container: &str, blob: Option<&str>) -> Result<Url> {
        let wrong = |what: &str, why: &str| {
            CallError::setup(format!("{:?} is no name of a {what}: {why}", blob.unwrap_or(container)))
        };
        let is_name = (3..=63).contains(&container.len())
            && container.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
            && !container.starts_with('-')
            && !container.ends_with('-')
            && !container.contains("--");
        if !is_name && container != "$root" {
            let why = "those are 3 to 63 small letters, digits and single hyphens";
            return Err(CallError::setup(format!("{container:?} is no name of a container: {why}")));
        }
        let mut url = self.root.clone();
        let mut path = format!("{}{container}", url.path());
        if let Some(blob) = blob {
            if blob.is_empty() || blob.chars().count() > 1024 {
                return Err(wrong("blob", "those have 1 to 1024 characters"));
            }
            if blob.ends_with(['/', '.']) || blob.split('/').any(|s| matches!(s, "." | "..")) {
                return Err(wrong("blob", "dots and slashes at such places lead elsewhere"));
            }
            for segment in blob.split('/') {
                path.push('/');
                path.push_str(&crate::text::percent::encode(segment));
            }
        }
        url.set_path(&path);
        Ok(url)
    }
}

#[cfg(test)]
mod tests;
