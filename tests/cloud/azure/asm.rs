//! A classic Azure of our own: images, operations, keys of storage accounts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use quick_xml::Reader;
use quick_xml::events::Event;
use serde_json::json;

use crate::support::Env;
use crate::support::http::{Request, Response};
use crate::support::proxy::Proxy;

pub const SUBSCRIPTION: &str = "11112222-3333-4444-5555-666677778888";

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

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    pub fields: Vec<(String, String)>,
    pub regions: Vec<String>,
    /// Offer, SKU, version.
    pub attributes: Vec<String>,
    pub permission: Option<String>,
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

/// The service; it lives as long as the test process.
#[derive(Clone)]
pub struct Asm {
    pub proxy: Proxy,
    state: Arc<Mutex<State>>,
}

impl Asm {
    pub fn new() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let own = state.clone();
        let proxy = Proxy::before(move |request| Some(answer(&mut own.lock().unwrap(), request)));
        Self { proxy, state }
    }

    pub fn images(&self) -> BTreeMap<String, Image> {
        self.state.lock().unwrap().images.clone()
    }

    pub fn put_image(&self, name: &str) {
        self.state.lock().unwrap().images.insert(name.into(), Image::default());
    }

    pub fn put_key(&self, account: &str, key: &str) {
        self.state.lock().unwrap().keys.insert(account.into(), key.into());
    }

    /// Forgets all images, operations and keys.
    pub fn forget(&self) {
        *self.state.lock().unwrap() = State::default();
    }

    /// The next operation fails.
    pub fn fail(&self, message: &str) {
        self.state.lock().unwrap().fails = Some(message.into());
    }

    /// What is asked, without the subscription.
    pub fn asked(&self) -> Vec<String> {
        let journal = self.proxy.take_journal();
        let line = |r: &Request| format!("{} {}", r.method, r.target.replace(SUBSCRIPTION, "S"));
        journal.iter().map(|e| line(&e.request)).collect()
    }

    /// Somebody with a profile for it, without certificate: it is reached without TLS. Blobs are stored there.
    pub fn env(&self, storage: &str) -> Env {
        let mut env = Env::new();
        env.set("MANTLE_POLL_SCALE", "0.001");
        let profile = json!({"environments": [{"name": "Own", "storageEndpointSuffix": storage}], "subscriptions": [
            {"id": "wrong", "name": "first", "managementEndpointUrl": "http://127.0.0.1:1"},
            {"id": SUBSCRIPTION, "name": "mine", "isDefault": true, "environmentName": "Own", "managementEndpointUrl": self.proxy.url()},
        ]});
        env.write(".azure/azureProfile.json", &format!("\u{feff}{profile}"));
        env
    }
}

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

fn answer(state: &mut State, request: &Request) -> Response {
    let version = request.header("x-ms-version").unwrap_or_default();
    if !["2014-10-01", "2015-04-01"].contains(&version) {
        return error(400, "MissingOrIncorrectVersionHeader", "which version?");
    }
    let kind = request.header("content-type").unwrap_or_default();
    if request.method != "GET" && kind != "application/xml" && !kind.starts_with("application/atom+xml") {
        return error(415, "UnsupportedMediaType", "what is it?");
    }
    let path: Vec<String> =
        request.path().split('/').skip(1).map(|p| mantle::text::percent::decode(p).unwrap()).collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let [SUBSCRIPTION, path @ ..] = &path[..] else {
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
