//! The documents: requests, responses, and the manifest that the SDK keeps beside an update payload.
//!
//! Attributes that a client leaves out are `None` or empty here, and those that nobody asks about are passed over.

use serde::{Deserialize, Serialize};

use super::{Error, xml};

/// The protocol's version, the only one.
pub const PROTOCOL: &str = "3.0";

/// What an event tells of, as numbers of [`Event::event_type`].
pub mod event_type {
    /// The payload has been downloaded.
    pub const DOWNLOAD_COMPLETE: u32 = 1;
    /// The payload has been written.
    pub const INSTALL_COMPLETE: u32 = 2;
    /// The update is complete.
    pub const UPDATE_COMPLETE: u32 = 3;
    /// The download has begun.
    pub const UPDATE_DOWNLOAD_STARTED: u32 = 13;
    /// The download has ended.
    pub const UPDATE_DOWNLOAD_FINISHED: u32 = 14;
}

/// How it went, as numbers of [`Event::event_result`].
pub mod event_result {
    /// It failed.
    pub const ERROR: u32 = 0;
    /// It went well.
    pub const SUCCESS: u32 = 1;
    /// It went well, and a reboot completes it.
    pub const SUCCESS_REBOOT: u32 = 2;
}

fn absent<T>(value: &Option<T>) -> bool {
    value.is_none()
}

fn not(value: &bool) -> bool {
    !value
}

/// What a client posts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "request", default)]
pub struct Request {
    /// `3.0`.
    #[serde(rename = "@protocol")]
    pub protocol: String,
    /// The client and its version.
    #[serde(rename = "@version", skip_serializing_if = "absent")]
    pub version: Option<String>,
    /// The client as it names itself to tell updaters apart.
    #[serde(rename = "@updaterversion", skip_serializing_if = "absent")]
    pub updater_version: Option<String>,
    /// Why it asks: `ondemandupdate` when a person wants it, `scheduler` otherwise.
    #[serde(rename = "@installsource", skip_serializing_if = "absent")]
    pub install_source: Option<String>,
    /// `1` for software of the whole machine.
    #[serde(rename = "@ismachine", skip_serializing_if = "absent")]
    pub is_machine: Option<String>,
    /// The machine's system.
    #[serde(skip_serializing_if = "absent")]
    pub os: Option<Os>,
    /// The applications, in order.
    #[serde(rename = "app", skip_serializing_if = "Vec::is_empty")]
    pub apps: Vec<RequestApp>,
}

/// The client's operating system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Os {
    /// As in `Chrome OS`.
    #[serde(rename = "@platform", skip_serializing_if = "absent")]
    pub platform: Option<String>,
    /// Its version.
    #[serde(rename = "@version", skip_serializing_if = "absent")]
    pub version: Option<String>,
    /// Its service pack; Container Linux says version and architecture.
    #[serde(rename = "@sp", skip_serializing_if = "absent")]
    pub service_pack: Option<String>,
    /// Its architecture.
    #[serde(rename = "@arch", skip_serializing_if = "absent")]
    pub architecture: Option<String>,
}

/// One application of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestApp {
    /// Which.
    #[serde(rename = "@appid")]
    pub id: String,
    /// The version that is installed.
    #[serde(rename = "@version")]
    pub version: String,
    /// The release channel (group) that it follows.
    #[serde(rename = "@track", skip_serializing_if = "absent")]
    pub track: Option<String>,
    /// The channel that it came from.
    #[serde(rename = "@from_track", skip_serializing_if = "absent")]
    pub from_track: Option<String>,
    /// The board, as in `amd64-usr`.
    #[serde(rename = "@board", skip_serializing_if = "absent")]
    pub board: Option<String>,
    /// This boot of the machine.
    #[serde(rename = "@bootid", skip_serializing_if = "absent")]
    pub boot_id: Option<String>,
    /// The machine.
    #[serde(rename = "@machineid", skip_serializing_if = "absent")]
    pub machine_id: Option<String>,
    /// The platform that the machine's image was made for.
    #[serde(rename = "@oem", skip_serializing_if = "absent")]
    pub oem: Option<String>,
    /// The version of what was added for that platform.
    #[serde(rename = "@oemversion", skip_serializing_if = "absent")]
    pub oem_version: Option<String>,
    /// The version that the machine was first installed with.
    #[serde(rename = "@alephversion", skip_serializing_if = "absent")]
    pub aleph_version: Option<String>,
    /// Whether it can apply differences.
    #[serde(rename = "@delta_okay", skip_serializing_if = "absent")]
    pub delta_okay: Option<String>,
    /// A sign of life.
    #[serde(skip_serializing_if = "absent")]
    pub ping: Option<Ping>,
    /// The question for an update.
    #[serde(rename = "updatecheck", skip_serializing_if = "absent")]
    pub update_check: Option<UpdateCheck>,
    /// What has happened, in order.
    #[serde(rename = "event", skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
}

/// A sign of life.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ping {
    /// `1` if it was in use.
    #[serde(rename = "@active", skip_serializing_if = "absent")]
    pub active: Option<String>,
    /// Days since it was last in use.
    #[serde(rename = "@a", skip_serializing_if = "absent")]
    pub days_active: Option<String>,
    /// Days since the last ping.
    #[serde(rename = "@r", skip_serializing_if = "absent")]
    pub days_roll_call: Option<String>,
}

/// The question for an update.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdateCheck {
    /// Beginning of the only versions that are wanted.
    #[serde(rename = "@targetversionprefix", skip_serializing_if = "absent")]
    pub target_version_prefix: Option<String>,
}

/// Something that has happened to an application.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// What: see [`event_type`].
    #[serde(rename = "@eventtype")]
    pub event_type: u32,
    /// How it went: see [`event_result`].
    #[serde(rename = "@eventresult")]
    pub event_result: u32,
    /// The client's own number for what went wrong.
    #[serde(rename = "@errorcode", skip_serializing_if = "absent")]
    pub error_code: Option<String>,
    /// The version before.
    #[serde(rename = "@previousversion", skip_serializing_if = "absent")]
    pub previous_version: Option<String>,
}

/// What the server answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "response", default)]
pub struct Response {
    /// `3.0`.
    #[serde(rename = "@protocol")]
    pub protocol: String,
    /// The server as it names itself.
    #[serde(rename = "@server")]
    pub server: String,
    /// How far the server's day is.
    #[serde(rename = "daystart")]
    pub day_start: DayStart,
    /// The applications, in the order of the request.
    #[serde(rename = "app", skip_serializing_if = "Vec::is_empty")]
    pub apps: Vec<ResponseApp>,
}

/// How far the server's day is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DayStart {
    /// Seconds since midnight.
    #[serde(rename = "@elapsed_seconds")]
    pub elapsed_seconds: u64,
}

/// One application of a response.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResponseApp {
    /// Which.
    #[serde(rename = "@appid")]
    pub id: String,
    /// Whether the server knows it.
    #[serde(rename = "@status")]
    pub status: AppStatus,
    /// The answer to a ping.
    #[serde(skip_serializing_if = "absent")]
    pub ping: Option<Status>,
    /// The answer to the question for an update.
    #[serde(rename = "updatecheck", skip_serializing_if = "absent")]
    pub update_check: Option<ResponseUpdateCheck>,
    /// One for each event.
    #[serde(rename = "event", skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Status>,
}

/// Whether something was taken note of: `ok`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// `ok`.
    #[serde(rename = "@status")]
    pub status: String,
}

impl Status {
    /// It was.
    pub fn ok() -> Self {
        Self { status: "ok".into() }
    }
}

/// What the server says of an application.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppStatus {
    /// All is well.
    #[default]
    #[serde(rename = "ok")]
    Ok,
    /// Not for this client.
    #[serde(rename = "restricted")]
    Restricted,
    /// There is none of this id.
    #[serde(rename = "error-unknownApplication")]
    UnknownApplication,
    /// The id is none.
    #[serde(rename = "error-invalidAppId")]
    InvalidAppId,
    /// The version is none.
    #[serde(rename = "error-invalidVersion")]
    InvalidVersion,
    /// The server failed.
    #[serde(rename = "error-internal")]
    Internal,
}

/// What the server says to the question for an update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateStatus {
    /// There is none.
    #[default]
    #[serde(rename = "noupdate")]
    NoUpdate,
    /// There is one.
    #[serde(rename = "ok")]
    Ok,
    /// Not for this system.
    #[serde(rename = "error-osnotsupported")]
    OsNotSupported,
    /// Not by this protocol.
    #[serde(rename = "error-unsupportedProtocol")]
    UnsupportedProtocol,
    /// Not on this host.
    #[serde(rename = "error-pluginRestrictedHost")]
    PluginRestrictedHost,
    /// The version that is installed is not the one of its hash.
    #[serde(rename = "error-hash")]
    Hash,
    /// The server failed.
    #[serde(rename = "error-internal")]
    Internal,
}

/// The answer to the question for an update.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResponseUpdateCheck {
    /// Whether there is one.
    #[serde(rename = "@status")]
    pub status: UpdateStatus,
    /// Where its packages are.
    #[serde(skip_serializing_if = "absent")]
    pub urls: Option<Urls>,
    /// What it is.
    #[serde(skip_serializing_if = "absent")]
    pub manifest: Option<Manifest>,
}

/// Places that all have the same packages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Urls {
    /// In order of preference.
    #[serde(rename = "url")]
    pub urls: Vec<Url>,
}

/// A place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Url {
    /// What the name of a package is appended to.
    #[serde(rename = "@codebase")]
    pub code_base: String,
}

/// An update as a response describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Manifest {
    /// The new version; may be empty.
    #[serde(rename = "@version")]
    pub version: String,
    /// Its files.
    pub packages: Packages,
    /// What is to be done with them.
    pub actions: Actions,
}

/// The files of an update.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Packages {
    /// In order.
    #[serde(rename = "package")]
    pub packages: Vec<Package>,
}

/// A file of an update.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Package {
    /// Its name, without folders.
    #[serde(rename = "@name")]
    pub name: String,
    /// Its SHA-1 in base64.
    #[serde(rename = "@hash")]
    pub sha1: String,
    /// Its SHA-256 in base64.
    #[serde(rename = "@hash_sha256", skip_serializing_if = "absent")]
    pub sha256: Option<String>,
    /// Its length in bytes.
    #[serde(rename = "@size")]
    pub size: u64,
    /// Whether the update needs it.
    #[serde(rename = "@required")]
    pub required: bool,
}

/// What is to be done with the files of an update.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Actions {
    /// In order.
    #[serde(rename = "action")]
    pub actions: Vec<Action>,
}

/// What is to be done at some point of an update.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Action {
    /// The point: `postinstall`.
    #[serde(rename = "@event")]
    pub event: String,
    /// The new version, for people.
    #[serde(rename = "@DisplayVersion", skip_serializing_if = "absent")]
    pub display_version: Option<String>,
    /// The SHA-256 of the payload in base64: update_engine wants it here.
    #[serde(rename = "@sha256")]
    pub sha256: String,
    /// Whether root has to do it.
    #[serde(rename = "@needsadmin", skip_serializing_if = "not")]
    pub needs_admin: bool,
    /// Whether the payload is a difference.
    #[serde(rename = "@IsDeltaPayload", skip_serializing_if = "not")]
    pub is_delta: bool,
    /// Whether a client that failed may try again at once.
    #[serde(rename = "@DisablePayloadBackoff", skip_serializing_if = "not")]
    pub disable_backoff: bool,
    /// How often a place may fail.
    #[serde(rename = "@MaxFailureCountPerUrl", skip_serializing_if = "absent")]
    pub max_failures: Option<u32>,
    /// A signature of the payload's metadata in base64.
    #[serde(rename = "@MetadataSignatureRsa", skip_serializing_if = "absent")]
    pub metadata_signature: Option<String>,
    /// The length of the payload's metadata in bytes.
    #[serde(rename = "@MetadataSize", skip_serializing_if = "absent")]
    pub metadata_size: Option<u64>,
    /// By when it should be done.
    #[serde(rename = "@deadline", skip_serializing_if = "absent")]
    pub deadline: Option<String>,
    /// Where people read more.
    #[serde(rename = "@MoreInfo", skip_serializing_if = "absent")]
    pub more_info: Option<String>,
    /// Whether a person is asked first.
    #[serde(rename = "@Prompt", skip_serializing_if = "not")]
    pub prompt: bool,
}

/// An update as the SDK describes it beside a payload (`coreos_production_update.xml`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "update", default)]
pub struct Update {
    /// The application.
    #[serde(rename = "@appid")]
    pub app_id: String,
    /// The version that a difference starts from.
    #[serde(rename = "@previousversion", skip_serializing_if = "absent")]
    pub previous_version: Option<String>,
    /// The new version.
    #[serde(rename = "@version")]
    pub version: String,
    /// Whether only clients that want differences get it.
    #[serde(rename = "@respect_delta_okay", skip_serializing_if = "not")]
    pub respect_delta_okay: bool,
    /// Where the packages are, relative to this file.
    pub urls: Urls,
    /// Its files.
    pub packages: Packages,
    /// What is to be done with them.
    pub actions: Actions,
}

impl Request {
    /// Reads a request of this version of the protocol.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn parse(document: &[u8]) -> Result<Self, Error> {
        let request: Self = xml::read("request", document)?;
        check("request", &request.protocol)?;
        Ok(request)
    }

    /// The document.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn to_xml(&self) -> Result<String, Error> {
        xml::write(self, '\t', 1)
    }
}

impl Response {
    /// Reads a response of this version of the protocol.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn parse(document: &[u8]) -> Result<Self, Error> {
        let response: Self = xml::read("response", document)?;
        check("response", &response.protocol)?;
        Ok(response)
    }

    /// The document.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn to_xml(&self) -> Result<String, Error> {
        xml::write(self, '\t', 1)
    }
}

impl Update {
    /// Reads the SDK's description of an update.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn parse(document: &[u8]) -> Result<Self, Error> {
        xml::read("update", document)
    }

    /// The document, as the SDK writes it.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn to_xml(&self) -> Result<String, Error> {
        xml::write(self, ' ', 2)
    }
}

fn check(wanted: &'static str, protocol: &str) -> Result<(), Error> {
    if protocol == PROTOCOL {
        return Ok(());
    }
    Err(Error::Malformed { wanted, why: format!("its protocol is {protocol:?}, not {PROTOCOL:?}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &str = include_str!("data/request.xml");
    const RESPONSE: &str = include_str!("data/response.xml");
    const UPDATE: &str = include_str!("data/update.xml");

    #[test]
    fn requests_are_read() {
        let request = Request::parse(REQUEST.as_bytes()).unwrap();
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        assert_eq!(text(&request.version), "CoreOSUpdateEngine-0.1.0.0");
        assert_eq!(text(&request.os.unwrap().service_pack), "2023.5.0_x86_64");
        let [app, other] = &request.apps[..] else { panic!("{:?}", request.apps) };
        assert_eq!(app.id, "{E96281A6-D1AF-4BDE-9A0A-97B76E56DC57}");
        assert_eq!((app.version.as_str(), text(&app.board).as_str()), ("2023.5.0", "amd64-usr"));
        assert_eq!((text(&app.track), text(&app.machine_id)), ("stable".into(), "0123".into()));
        assert_eq!(text(&app.ping.clone().unwrap().active), "1");
        assert!(app.update_check.is_some());
        // Events need not stand together.
        let told: Vec<(u32, u32)> = app.events.iter().map(|e| (e.event_type, e.event_result)).collect();
        assert_eq!(told, [(event_type::UPDATE_COMPLETE, event_result::SUCCESS_REBOOT), (13, 0)]);
        assert_eq!(text(&app.events[0].previous_version), "");
        assert_eq!(text(&app.events[1].error_code), "37");
        assert!(other.id == "a<b>&\"c\"" && other.ping.is_none() && other.update_check.is_none());
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let request = Request::parse(REQUEST.as_bytes()).unwrap();
        assert_eq!(Request::parse(request.to_xml().unwrap().as_bytes()).unwrap(), request);
        let response = Response::parse(RESPONSE.as_bytes()).unwrap();
        assert_eq!(response.to_xml().unwrap(), RESPONSE);
        let update = Update::parse(UPDATE.as_bytes()).unwrap();
        assert_eq!(update.to_xml().unwrap(), UPDATE);
        assert_eq!(update.packages.packages[0].size, 4096);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let refused = |document: &str| Request::parse(document.as_bytes()).unwrap_err().to_string();
        for (document, why) in [
            ("", "it has no element"),
            ("<request", "not an Omaha request"),
            ("<request protocol=\"3.0\">", "it ends early"),
            ("<request protocol=\"3.0\"></wrong>", "not an Omaha request"),
            ("<request protocol=\"2.0\"/>", "its protocol is \"2.0\""),
            ("<request/>", "its protocol is \"\""),
            ("<response protocol=\"3.0\"/>", "its element is \"response\""),
            ("<request protocol=\"3.0\"/><request protocol=\"3.0\"/>", "more than one element"),
            ("<request protocol=\"3.0\"/>x", "text outside"),
            (
                "<request protocol=\"3.0\"><app><event eventtype=\"x\"/></app></request>",
                "not an Omaha request",
            ),
            ("<request protocol=\"3.0\" protocol=\"3.0\"/>", "not an Omaha request"),
            ("<!DOCTYPE request [<!ENTITY a \"b\">]><request protocol=\"3.0\"/>", "document type"),
            ("<request protocol=\"&a;\"/>", "not an Omaha request"),
            (&"<a>".repeat(100), "its element is \"a\""),
            (&format!("<request>{}", "<a>".repeat(100_000)), "nested deeper"),
            (&format!("<request>{}</request>", "<app/>".repeat(10_000)), "more than 4096 elements"),
            (&" ".repeat(2 << 20), "longer than"),
        ] {
            assert!(refused(document).contains(why), "{document:.80}: {}", refused(document));
        }
        assert!(Request::parse(b"<request protocol=\"3.0\" version=\"\xff\"/>").is_err());
    }

    #[test]
    fn statuses_are_the_words_of_the_protocol() {
        let app = |status: &str| {
            let text =
                format!("<response protocol=\"3.0\"><app appid=\"a\" status=\"{status}\"/></response>");
            Response::parse(text.as_bytes()).map(|r| r.apps[0].status)
        };
        assert_eq!(app("error-unknownApplication").unwrap(), AppStatus::UnknownApplication);
        assert_eq!(app("restricted").unwrap(), AppStatus::Restricted);
        assert!(app("fine").is_err());
    }
}
