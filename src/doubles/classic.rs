//! Azure's classic API: images, the operations that make them, keys of storage accounts; of one subscription.
//!
//! Answers: <https://learn.microsoft.com/previous-versions/azure/reference/jj157191(v=azure.100)>.

use std::collections::BTreeMap;
use std::sync::Mutex;

use quick_xml::Reader;
use quick_xml::events::Event;
use serde::Serialize;

use super::{Double, Request, Response, lock};
use crate::text::percent;

/// The fields of an image, in the only order that the service takes.
const FIELDS: [&str; 15] = [
    "Category",
    "Label",
    "MediaLink",
    "Name",
    "OS",
    "Eula",
    "Description",
    "ImageFamily",
    "PublishedDate",
    "ShowInGui",
    "PrivacyUri",
    "IconUri",
    "RecommendedVMSize",
    "SmallIconUri",
    "Language",
];

/// An image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Image {
    /// What it was ordered with, in order.
    pub fields: Vec<(String, String)>,
    /// Where it is.
    pub regions: Vec<String>,
    /// Offer, SKU, version.
    pub attributes: Vec<String>,
    /// For whom; nobody else, if nothing is said.
    pub permission: Option<String>,
}

/// The double.
pub struct Classic {
    subscription: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    images: BTreeMap<String, Image>,
    /// Questions that are answered with "in progress" yet, and what becomes of them.
    operations: BTreeMap<String, (usize, Option<String>)>,
    /// The next operation fails so.
    fails: Option<String>,
    keys: BTreeMap<String, String>,
}

impl Classic {
    /// The API of a subscription, by its ID.
    pub fn new(subscription: &str) -> Self {
        Self { subscription: subscription.into(), state: Mutex::default() }
    }

    /// All images, by name.
    pub fn images(&self) -> BTreeMap<String, Image> {
        lock(&self.state).images.clone()
    }

    /// An image of which nothing but its name is known.
    pub fn put_image(&self, name: &str) {
        lock(&self.state).images.insert(name.into(), Image::default());
    }

    /// The key of a storage account, in base64.
    pub fn put_key(&self, account: &str, key: &str) {
        lock(&self.state).keys.insert(account.into(), key.into());
    }

    /// Forgets all images, operations and keys.
    pub fn forget(&self) {
        *lock(&self.state) = State::default();
    }

    /// The next operation fails.
    pub fn fail(&self, message: &str) {
        lock(&self.state).fails = Some(message.into());
    }
}

impl Double for Classic {
    fn answer(&self, request: &Request) -> Response {
        answer(&mut lock(&self.state), &self.subscription, request)
    }

    fn busy(&self) -> Response {
        error(503, "ServerBusy", "The server (or an internal component) is currently unavailable.")
    }
}

/// A refusal, as the API says it.
pub fn error(status: u16, code: &str, message: &str) -> Response {
    let body = format!(
        "<Error xmlns=\"http://schemas.microsoft.com/windowsazure\" xmlns:i=\"http://www.w3.org/2001/XMLSchema-instance\">\
         <Code>{code}</Code><Message>{message}</Message></Error>"
    );
    Response::new(status, "application/xml; charset=utf-8", body)
}

/// The texts of the elements that hold no others, in their order; the root and its namespace.
pub fn read(body: &[u8]) -> Option<(String, Vec<(String, String)>)> {
    let mut reader = Reader::from_reader(body);
    let (mut root, mut open, mut texts, mut text) = (None, Vec::new(), Vec::new(), String::new());
    loop {
        match reader.read_event().ok()? {
            Event::Start(e) => {
                let name = String::from_utf8(e.name().as_ref().to_vec()).ok()?;
                let space = e.try_get_attribute("xmlns").ok()?;
                let right = |v: &[u8]| v == b"http://schemas.microsoft.com/windowsazure";
                if root.is_none() {
                    root = Some(name.clone()).filter(|_| space.is_some_and(|s| right(&s.value)));
                    root.as_ref()?;
                }
                open.push(name);
                text.clear();
            }
            Event::Text(e) => text.push_str(&e.decode().ok()?),
            Event::GeneralRef(e) => {
                text.push_str(quick_xml::escape::resolve_predefined_entity(&e.decode().ok()?)?)
            }
            Event::End(_) => {
                let name = open.pop()?;
                if !text.is_empty() {
                    texts.push((name, std::mem::take(&mut text)));
                }
            }
            Event::Empty(_) => return None,
            Event::Eof => return Some((root?, texts)),
            _ => {}
        }
    }
}

fn answer(state: &mut State, subscription: &str, request: &Request) -> Response {
    let version = request.header("x-ms-version").unwrap_or_default();
    if !["2014-10-01", "2015-04-01"].contains(&version) {
        return error(400, "MissingOrIncorrectVersionHeader", "which version?");
    }
    let kind = request.header("content-type").unwrap_or_default();
    if request.method != "GET" && kind != "application/xml" && !kind.starts_with("application/atom+xml") {
        return error(415, "UnsupportedMediaType", "what is it?");
    }
    let path: Vec<String> = request.path().split('/').skip(1).filter_map(percent::decode).collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let Some((_, path)) = path.split_first().filter(|(first, _)| **first == subscription) else {
        return error(403, "ForbiddenError", "whose subscription?");
    };
    let missing = error(404, "ResourceNotFound", "there is no such thing");
    match (request.method.as_str(), path) {
        ("GET", ["operations", id]) => {
            let Some((left, fails)) = state.operations.get_mut(*id) else { return missing };
            let (status, more) = match (*left, fails) {
                (0, None) => ("Succeeded", "<HttpStatusCode>200</HttpStatusCode>".into()),
                (0, Some(message)) => (
                    "Failed",
                    format!(
                        "<HttpStatusCode>400</HttpStatusCode><Error><Code>BadRequest</Code><Message>{message}</Message></Error>"
                    ),
                ),
                _ => ("InProgress", String::new()),
            };
            *left = left.saturating_sub(1);
            let body = format!(
                "\u{feff}<Operation xmlns=\"http://schemas.microsoft.com/windowsazure\"><ID>{id}</ID>\
                 <Status>{status}</Status>{more}</Operation>"
            );
            Response::new(200, "application/xml", body)
        }
        ("GET", ["locations"]) => {
            let place = |name: &str, service: &str| {
                format!(
                    "<Location><Name>{name}</Name><DisplayName>{name}</DisplayName><AvailableServices>\
                     <AvailableService>{service}</AvailableService><AvailableService>Storage</AvailableService>\
                     </AvailableServices></Location>"
                )
            };
            let places = [("East US", "Compute"), ("West US", "Compute"), ("Stored", "HighMemory")]
                .map(|(n, s)| place(n, s));
            let body = format!(
                "<Locations xmlns=\"http://schemas.microsoft.com/windowsazure\">{}</Locations>",
                places.concat()
            );
            Response::new(200, "application/xml", body)
        }
        ("GET", ["services", "images", name]) => match state.images.contains_key(*name) {
            true => Response::new(200, "application/xml", "<OSImage/>"),
            false => missing,
        },
        ("GET", ["services", "storageservices", account, "keys"]) => match state.keys.get(*account) {
            Some(key) => Response::new(
                200,
                "application/xml",
                format!(
                    "<?xml version=\"1.0\"?><StorageService xmlns=\"http://schemas.microsoft.com/windowsazure\"><Url>u</Url>\
                 <StorageServiceKeys><Primary>{key}</Primary><Secondary>x</Secondary></StorageServiceKeys></StorageService>"
                ),
            ),
            None => missing,
        },
        ("POST", ["services", "images"]) => {
            let Some((root, fields)) = read(&request.body) else { return error(400, "BadRequest", "XML") };
            let at = |name: &String| FIELDS.iter().position(|f| f == name);
            let places: Option<Vec<_>> = fields.iter().map(|(name, _)| at(name)).collect();
            if root != "OSImage" || !places.is_some_and(|p| p.is_sorted_by(|a, b| a < b)) {
                return error(400, "BadRequest", "unknown fields, or in the wrong order");
            }
            let name = fields.iter().find(|(n, _)| n == "Name").map(|(_, v)| v.clone());
            let Some(name) = name else { return error(400, "BadRequest", "no name") };
            if state.images.contains_key(&name) {
                return error(409, "ConflictError", "The image already exists.");
            }
            state.images.insert(name, Image { fields, ..Image::default() });
            begun(state)
        }
        ("PUT", ["services", "images", name, verb]) => {
            let Some(image) = state.images.get_mut(*name) else { return missing };
            match *verb {
                "share" => {
                    image.permission =
                        request.query().into_iter().find(|(n, _)| n == "permission").map(|p| p.1)
                }
                "unreplicate" if request.body.is_empty() => image.regions.clear(),
                "replicate" => match read(&request.body) {
                    Some((root, texts)) if root == "ReplicationInput" => {
                        let of = |region: bool| {
                            texts
                                .iter()
                                .filter(move |(n, _)| (n == "Region") == region)
                                .map(|(_, v)| v.clone())
                        };
                        (image.regions, image.attributes) = (of(true).collect(), of(false).collect());
                    }
                    _ => return error(400, "BadRequest", "XML"),
                },
                _ => return missing,
            }
            begun(state)
        }
        _ => missing,
    }
}

/// An operation that is in progress twice.
fn begun(state: &mut State) -> Response {
    let id = format!("op-{}", state.operations.len());
    let fails = state.fails.take();
    state.operations.insert(id.clone(), (2, fails));
    let mut answer = Response::new(202, "application/xml", "");
    answer.headers.push(("x-ms-request-id".into(), id));
    answer
}
