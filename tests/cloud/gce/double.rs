//! A local Compute Engine: machines that really run, and the records of instances, images and operations.
//!
//! What it is asked is judged by Google's own description of the interface: see [`super::judged`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

pub use mantle::doubles::gce::Fate;
use mantle::doubles::gce::{Call, Records, json_answer, missing, page};
use serde_json::{Value, json};

use super::{action, error};
use crate::cloud::matrix::{Census, Double, No};
use crate::support::Env;
use crate::support::guard::Limit;
use crate::support::http::{Request, Response};
use crate::support::machines::{Aside, Guest, Machines, Unmanned, lock};
use crate::support::proxy::Proxy;

pub const PROJECT: &str = "project-1";
pub const ZONE: &str = "zone-1-a";

/// The service shows so much of a console at once.
const CONSOLE: usize = 64 << 10;

/// The cloud; guests end with it.
pub struct Gce {
    /// All requests go through it.
    pub proxy: Proxy,
    /// How long a program that uses its machines may take before it is taken to hang.
    pub limit: Limit,
    face: Arc<Face>,
}

#[derive(Default)]
struct Face {
    /// Taken away at the end: the proxy's threads hold the face for ever.
    machines: Mutex<Option<Arc<dyn Machines>>>,
    /// Guests being started and stopped.
    aside: Aside,
    state: Mutex<State>,
}

struct State {
    /// By zone and name.
    instances: BTreeMap<(String, String), Instance>,
    /// Images, operations, tokens.
    records: Records,
}

impl Default for State {
    fn default() -> Self {
        let mut records = Records::new(PROJECT);
        records.licenses.insert("mine".into());
        Self { instances: BTreeMap::new(), records }
    }
}

struct Instance {
    body: Value,
    status: &'static str,
    address: Option<String>,
    guest: Option<Arc<dyn Guest>>,
}

impl Gce {
    pub fn start(machines: Arc<dyn Machines>) -> Self {
        let limit = machines.limit();
        let face = Arc::new(Face { machines: Mutex::new(Some(machines)), ..Face::default() });
        let own = face.clone();
        Self { proxy: Proxy::before(move |request| Some(own.answer(request))), limit, face }
    }

    /// Without machines: for commands that start none.
    pub fn of_records() -> Self {
        Self::start(Arc::new(Unmanned))
    }

    /// The root of the API.
    pub fn url(&self) -> String {
        format!("{}/compute/v1/", self.proxy.url())
    }

    /// Lists are shown so many items at a time.
    pub fn pages_of(&self, items: usize) {
        lock(&self.face.state).records.page = items;
    }

    /// What becomes of all operations of this action from now on; none: they end well.
    pub fn fate(&self, action: &str, fate: Option<Fate>) {
        let fates = &mut lock(&self.face.state).records.fates;
        match fate {
            Some(fate) => drop(fates.insert(action.into(), fate)),
            None => drop(fates.remove(action)),
        }
    }

    /// A token that is good.
    pub fn token(&self) -> String {
        lock(&self.face.state).records.token()
    }

    /// The tokens given out so far are good no more.
    pub fn expire_tokens(&self) {
        lock(&self.face.state).records.tokens += 1;
    }

    /// Somebody else's instance, or an old one of ours.
    pub fn put_instance(&self, zone: &str, name: &str, status: &'static str, body: Value) {
        let mut body = body;
        body["name"] = name.into();
        let instance = Instance { body, status, address: Some("192.0.2.7".into()), guest: None };
        lock(&self.face.state).instances.insert((zone.into(), name.into()), instance);
    }

    /// An image.
    pub fn put_image(&self, name: &str, body: Value) {
        lock(&self.face.state).records.put_image(name, body);
    }

    /// The images by name.
    pub fn images(&self) -> BTreeMap<String, Value> {
        lock(&self.face.state).records.images.clone()
    }

    /// Who may do what with an image.
    pub fn policy(&self, image: &str) -> Value {
        lock(&self.face.state).records.policies.get(image).cloned().unwrap_or_default()
    }

    /// Nobody may use the images any more whose names begin so.
    pub fn unpublish(&self, begin: &str) {
        lock(&self.face.state).records.policies.retain(|name, _| !name.starts_with(begin));
    }

    /// The names of instances.
    pub fn names(&self) -> Vec<String> {
        lock(&self.face.state).instances.keys().map(|(_, name)| name.clone()).collect()
    }

    /// What an instance was ordered with.
    pub fn order(&self, name: &str) -> Value {
        lock(&self.face.state).instances[&(ZONE.to_owned(), name.to_owned())].body.clone()
    }
}

impl Drop for Gce {
    fn drop(&mut self) {
        lock(&self.face.machines).take();
        self.face.end();
    }
}

/// A key of a service account; made once, since that takes long.
pub fn key_file(token_uri: &str) -> String {
    static PEM: OnceLock<String> = OnceLock::new();
    let pem = PEM.get_or_init(|| {
        let key = openssl::pkey::PKey::from_rsa(openssl::rsa::Rsa::generate(2048).unwrap()).unwrap();
        String::from_utf8(key.private_key_to_pem_pkcs8().unwrap()).unwrap()
    });
    json!({
        "type": "service_account", "client_email": "robot@project-1.iam", "private_key": pem, "private_key_id": "1",
        "token_uri": token_uri,
    })
    .to_string()
}

impl Double for Gce {
    const NEEDED: &'static [&'static str] = &[
        "token",
        "images.get",
        "instances.insert",
        "operations.wait",
        "instances.get",
        "instances.getSerialPortOutput",
        "instances.delete",
    ];
    const PREPARES: &'static [&'static str] = &[];
    const POLLED: &'static [&'static str] =
        &["instances.get", "instances.getSerialPortOutput", "operations.wait"];
    const COLLECT: &'static [&'static str] = &["ore", "gcloud", "gc", "--ledger=out", "--duration=0s"];

    fn env(&self) -> Env {
        let mut env = Env::new();
        let key = env.write("key.json", &key_file(&format!("{}/token", self.proxy.url())));
        env.set("GOOGLE_APPLICATION_CREDENTIALS", key)
            .set("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", self.url())
            .set("CLOUDSDK_CORE_PROJECT", PROJECT)
            .set("CLOUDSDK_COMPUTE_ZONE", ZONE)
            .set("MANTLE_POLL_SCALE", "0.001")
            .guarded(self.limit);
        env
    }

    fn options(&self, image: &str) -> Vec<String> {
        ["-p", "gce", "-b", "debian", "--gce-image", image].map(str::to_owned).into()
    }

    fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    fn image(&self) -> String {
        self.put_image("mantle-guest", json!({}));
        "mantle-guest".into()
    }

    fn census(&self) -> Census {
        let state = lock(&self.face.state);
        let instances = state.instances.iter().map(|((zone, name), i)| (format!("{zone}/{name}"), i.status));
        let instances = instances.map(|(id, status)| (id, status.to_owned())).collect();
        let images = state.records.images.keys().map(|name| (name.clone(), "READY".to_owned())).collect();
        Census::from([("instance".into(), instances), ("image".into(), images)])
    }

    fn running(&self) -> Vec<String> {
        let state = lock(&self.face.state);
        let guests = state.instances.iter().filter(|(_, i)| i.guest.is_some());
        guests.map(|((_, name), _)| name.clone()).collect()
    }

    fn reset(&self) {
        self.face.end();
        *lock(&self.face.state) = State::default();
        self.proxy.calm();
        self.proxy.take_journal();
    }

    fn action(request: &Request) -> String {
        action(request)
    }

    fn is_creation(action: &str) -> bool {
        action.ends_with(".insert")
    }

    fn no(request: &Request, how: No) -> Response {
        match how {
            // The server of tokens has words of its own.
            No::Throttled if action(request) == "token" => error(429, "rateLimitExceeded", "Slow down"),
            No::Forbidden => error(403, "forbidden", "Required permission is missing"),
            No::Throttled => error(403, "rateLimitExceeded", "Rate Limit Exceeded"),
            No::Broken => error(503, "backendError", "Internal error encountered"),
        }
    }

    fn left(before: &Census, after: &Census) -> Vec<String> {
        let new = |kind: &'static str| {
            let ids = after[kind].keys().filter(move |id| !before[kind].contains_key(*id));
            ids.map(move |id| format!("{kind} {id}"))
        };
        new("instance").chain(new("image")).collect()
    }
}

impl Face {
    /// Ends all guests, and those under way.
    fn end(&self) {
        lock(&self.state).instances.clear();
        self.aside.finish();
    }

    fn answer(self: &Arc<Self>, request: &Request) -> Response {
        let mut state = lock(&self.state);
        let call = match state.records.take(request) {
            Ok(call) => call,
            Err(answer) => return *answer,
        };
        let Call { action, root, path, query, body } = &call;
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        match (action.as_str(), &path[..]) {
            ("instances.insert", ["zones", zone, _]) => {
                let body = body.clone();
                let name = body["name"].as_str().unwrap_or_default().to_owned();
                let key = ((*zone).to_owned(), name.clone());
                if state.instances.contains_key(&key) {
                    return error(409, "alreadyExists", "The resource already exists");
                }
                if state.records.does(action) {
                    let items = body["metadata"]["items"].as_array().cloned().unwrap_or_default();
                    let data = items.iter().find(|i| i["key"] == "user-data");
                    let userdata = data.and_then(|d| d["value"].as_str()).unwrap_or_default().to_owned();
                    let instance = Instance { body, status: "PROVISIONING", address: None, guest: None };
                    state.instances.insert(key.clone(), instance);
                    let here = self.clone();
                    self.aside.begin(move || here.boot(&key, userdata.as_bytes()));
                }
                state.records.begin(&call, Some(zone))
            }
            ("instances.delete", ["zones", zone, _, name]) => {
                let key = ((*zone).to_owned(), (*name).to_owned());
                if !state.instances.contains_key(&key) {
                    return missing(name);
                }
                if state.records.does(action)
                    && let Some(Instance { guest: Some(guest), .. }) = state.instances.remove(&key)
                {
                    self.aside.begin(move || guest.stop());
                }
                state.records.begin(&call, Some(zone))
            }
            ("instances.get", ["zones", zone, _, name]) => {
                let key = ((*zone).to_owned(), (*name).to_owned());
                match state.instances.get(&key) {
                    Some(instance) => json_answer(&instance.describe(root, zone)),
                    None => missing(name),
                }
            }
            ("instances.list", ["zones", zone, _]) => {
                let fits = fits(query);
                let all = state.instances.iter().filter(|((z, _), i)| z == zone && fits(&i.body));
                let all: Vec<Value> = all.map(|((z, _), i)| i.describe(root, z)).collect();
                page(&all, query, state.records.page, |items| json!(items))
            }
            ("instances.aggregatedList", _) => {
                let all: Vec<Value> = state.instances.iter().map(|((z, _), i)| i.describe(root, z)).collect();
                page(&all, query, state.records.page, |items| {
                    let mut zones = serde_json::Map::new();
                    for item in items {
                        let zone = item["zone"].as_str().unwrap_or_default();
                        let zone = format!("zones/{}", zone.rsplit('/').next().unwrap_or_default());
                        let entry = zones.entry(zone).or_insert_with(|| json!({"instances": []}));
                        entry["instances"].as_array_mut().unwrap().push(item.clone());
                    }
                    zones.insert("zones/empty".into(), json!({"warning": {"code": "NO_RESULTS_ON_PAGE"}}));
                    zones.into()
                })
            }
            ("instances.getSerialPortOutput", ["zones", zone, _, name, _]) => {
                let key = ((*zone).to_owned(), (*name).to_owned());
                let Some(instance) = state.instances.get(&key) else { return missing(name) };
                let guest = instance.guest.clone();
                drop(state);
                let text = guest.map(|g| g.console()).unwrap_or_default();
                let start: usize = query.get("start").and_then(|s| s.parse().ok()).unwrap_or(0);
                let start = start.min(text.len());
                let end = (start + CONSOLE).min(text.len());
                let contents = String::from_utf8_lossy(&text[start..end]).into_owned();
                json_answer(
                    &json!({"contents": contents, "start": start.to_string(), "next": end.to_string()}),
                )
            }
            _ => state.records.answer(&call),
        }
    }

    fn boot(&self, key: &(String, String), userdata: &[u8]) {
        let Some(machines) = lock(&self.machines).clone() else { return };
        let guest = machines.start(userdata);
        let mut state = lock(&self.state);
        // Deleted, or forgotten, meanwhile: the guest goes with its last owner.
        let Some(instance) = state.instances.get_mut(key) else { return };
        match guest {
            Ok(guest) => {
                instance.address = Some(guest.address());
                instance.guest = Some(guest);
                instance.status = "RUNNING";
            }
            Err(reason) => {
                instance.body["statusMessage"] = reason.into();
                instance.status = "TERMINATED";
            }
        }
    }
}

impl Instance {
    fn describe(&self, root: &str, zone: &str) -> Value {
        let mut value = self.body.clone();
        value["zone"] = format!("{root}projects/{PROJECT}/zones/{zone}").into();
        value["status"] = self.status.into();
        if value["creationTimestamp"].is_null() {
            value["creationTimestamp"] = chrono::Utc::now().to_rfc3339().into();
        }
        let mut access = json!({"type": "ONE_TO_ONE_NAT", "name": "External NAT"});
        if let Some(address) = &self.address {
            access["natIP"] = address.clone().into();
        }
        value["networkInterfaces"] = json!([{"networkIP": "10.128.0.2", "accessConfigs": [access]}]);
        value
    }
}

/// Whether something has the label that a filter asks for.
fn fits(query: &BTreeMap<String, String>) -> impl Fn(&Value) -> bool + use<> {
    let wanted = query.get("filter").and_then(|f| {
        let (key, value) = f.strip_prefix("labels.")?.split_once('=')?;
        Some((key.to_owned(), value.trim_matches('"').to_owned()))
    });
    move |body| wanted.as_ref().is_none_or(|(key, value)| body["labels"][key] == *value)
}
