//! A local Packet: an API, a place for what devices boot, consoles, and machines that really run.
//!
//! It reads what it is given as the real one would: the script at the URL, the installer's userdata that the script
//! names, and the userdata within that is what the machine boots with.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::sos::Sos;
use super::{action, error};
use crate::cloud::matrix::{Census, Double, No};
use crate::support::Env;
use crate::support::guard::Limit;
use crate::support::http::{Request, Response};
use crate::support::machines::{Aside, Guest, Machines, Port, lock};
use crate::support::proxy::Proxy;

pub const PROJECT: &str = "11111111-2222-4333-8444-555555555555";
pub const TOKEN: &str = "SECRET-of-packet";
/// The most that is shown of a list at once, whatever is asked for.
const PAGE: usize = 1000;

/// The cloud; guests end with it.
pub struct Packet {
    /// All requests go through it.
    pub proxy: Proxy,
    /// How long a program that uses its machines may take before it is taken to hang.
    pub limit: Limit,
    face: Arc<Face>,
    /// Installers are done at once.
    discard: Port,
}

struct Face {
    machines: Mutex<Option<Arc<dyn Machines>>>,
    /// Guests being started and stopped.
    aside: Aside,
    state: Mutex<State>,
    sos: Option<Sos>,
}

#[derive(Default)]
struct State {
    devices: BTreeMap<String, Device>,
    /// Label and key by id.
    keys: BTreeMap<String, (String, String)>,
    objects: BTreeMap<String, Vec<u8>>,
    made: usize,
    /// What becomes of new devices.
    fate: Option<Fate>,
}

/// What becomes of new devices.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// They fail.
    Fails,
    /// They are never active.
    Pends,
    /// They have no public address.
    Hidden,
}

struct Device {
    body: Value,
    state: &'static str,
    address: Option<String>,
    created: String,
    locked: bool,
    /// How often its removal was refused because it is still being made.
    refusals: usize,
    guest: Option<Arc<dyn Guest>>,
}

impl Packet {
    pub fn start(machines: Arc<dyn Machines>) -> Self {
        let limit = machines.limit();
        Self::with(Some(machines), limit, Some(Sos::start()))
    }

    /// Without machines: for commands that start none.
    pub fn of_records() -> Self {
        Self::with(None, Limit::PROGRAM, None)
    }

    fn with(machines: Option<Arc<dyn Machines>>, limit: Limit, sos: Option<Sos>) -> Self {
        let (aside, state) = (Aside::default(), Mutex::default());
        let face = Arc::new(Face { machines: Mutex::new(machines), aside, state, sos });
        let own = face.clone();
        let proxy = Proxy::before(move |request| Some(own.answer(request)));
        Self { proxy, limit, face, discard: Port::new(drop) }
    }

    /// What becomes of devices from now on.
    pub fn fate(&self, fate: Option<Fate>) {
        lock(&self.face.state).fate = fate;
    }

    /// Somebody else's device, or an old one of ours.
    pub fn put_device(&self, id: &str, state: &'static str, tags: &[&str], created: &str, locked: bool) {
        let body = json!({"hostname": format!("host-{id}"), "tags": tags});
        let address = Some("192.0.2.7".into());
        let device =
            Device { body, state, address, created: created.into(), locked, refusals: 0, guest: None };
        lock(&self.face.state).devices.insert(id.into(), device);
    }

    /// A key of somebody's.
    pub fn put_key(&self, id: &str, label: &str) {
        lock(&self.face.state).keys.insert(id.into(), (label.into(), format!("key of {id}")));
    }

    /// The ids of devices.
    pub fn devices(&self) -> Vec<String> {
        lock(&self.face.state).devices.keys().cloned().collect()
    }

    /// What a device was ordered with.
    pub fn order(&self, id: &str) -> Value {
        lock(&self.face.state).devices[id].body.clone()
    }

    /// The names of objects.
    pub fn objects(&self) -> Vec<String> {
        lock(&self.face.state).objects.keys().cloned().collect()
    }

    /// The place for objects.
    pub fn storage(&self) -> String {
        format!("{}/storage/boot", self.proxy.url())
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        lock(&self.face.machines).take();
        self.face.end();
    }
}

impl Double for Packet {
    const NEEDED: &'static [&'static str] = &[
        "ssh-keys.create",
        "objects.put",
        "devices.create",
        "devices.get",
        "objects.delete",
        "devices.delete",
        "ssh-keys.list",
        "ssh-keys.delete",
    ];
    const PREPARES: &'static [&'static str] = &[];
    const POLLED: &'static [&'static str] = &["devices.get"];
    const COLLECT: &'static [&'static str] = &["ore", "packet", "gc", "--ledger=out", "--duration=0s"];

    fn env(&self) -> Env {
        let mut env = Env::new();
        let sos = self.face.sos.as_ref().map_or_else(|| "127.0.0.1:1".to_owned(), Sos::address);
        let config = json!({"default": {"api_key": TOKEN, "project": PROJECT}});
        env.write(".config/packet.json", &config.to_string());
        env.set("PACKET_API_URL", self.proxy.url())
            .set("PACKET_SOS_HOST", sos)
            .set("PACKET_DISCARD_PORT", self.discard.address.port().to_string())
            .set("PACKET_STORAGE_URL", self.storage())
            .set("MANTLE_POLL_SCALE", "0.001")
            .guarded(self.limit);
        env
    }

    fn options(&self, image: &str) -> Vec<String> {
        let image = format!("--packet-image-url={image}");
        ["-p", "packet", "-b", "debian", &image].map(str::to_owned).into()
    }

    fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    fn image(&self) -> String {
        "http://images.example/guest.bin.bz2".into()
    }

    fn census(&self) -> Census {
        let state = lock(&self.face.state);
        let devices = state.devices.iter().map(|(id, d)| (id.clone(), d.state.to_owned())).collect();
        let keys = state.keys.iter().map(|(id, (label, _))| (id.clone(), label.clone())).collect();
        let objects = state.objects.keys().map(|name| (name.clone(), String::new())).collect();
        Census::from([("device".into(), devices), ("ssh-key".into(), keys), ("object".into(), objects)])
    }

    fn running(&self) -> Vec<String> {
        let state = lock(&self.face.state);
        state.devices.iter().filter(|(_, d)| d.guest.is_some()).map(|(id, _)| id.clone()).collect()
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
        action.ends_with(".create") || action == "objects.put"
    }

    fn no(_: &Request, how: No) -> Response {
        match how {
            No::Forbidden => error(403, "You are not authorized to do this"),
            No::Throttled => error(429, "Too many requests"),
            No::Broken => error(503, "Something went wrong"),
        }
    }

    fn left(before: &Census, after: &Census) -> Vec<String> {
        let new = |kind: &'static str| {
            let ids = after[kind].keys().filter(move |id| !before[kind].contains_key(*id));
            ids.map(move |id| format!("{kind} {id}"))
        };
        new("device").chain(new("ssh-key")).chain(new("object")).collect()
    }
}

fn answer(status: u16, value: &Value) -> Response {
    Response::new(status, "application/json; charset=utf-8", value.to_string())
}

fn nothing() -> Response {
    Response { status: 204, ..Response::default() }
}

impl Face {
    /// Ends all guests, and those under way.
    fn end(&self) {
        let all = std::mem::take(&mut lock(&self.state).devices);
        for (id, _) in all {
            if let Some(sos) = &self.sos {
                sos.end(&id, b"");
            }
        }
        self.aside.finish();
    }

    fn new_keys(&self, state: &State) {
        if let Some(sos) = &self.sos {
            sos.keys(&state.keys.values().map(|(_, key)| format!("{key}\n")).collect::<String>());
        }
    }

    fn answer(self: &Arc<Self>, request: &Request) -> Response {
        let action = action(request);
        let mut state = lock(&self.state);
        let path: Vec<&str> = request.path().trim_matches('/').split('/').collect();
        let last = path.last().copied().unwrap_or_default().to_owned();
        if let Some(method) = action.strip_prefix("objects.") {
            return match method {
                "put" => {
                    state.objects.insert(request.path().to_owned(), request.body.clone());
                    Response { status: 201, ..Response::default() }
                }
                "delete" => match state.objects.remove(request.path()) {
                    Some(_) => nothing(),
                    None => Response { status: 404, ..Response::default() },
                },
                _ => match state.objects.get(request.path()) {
                    Some(object) => Response::new(200, "application/octet-stream", object.clone()),
                    None => Response { status: 404, ..Response::default() },
                },
            };
        }
        if request.header("x-auth-token") != Some(TOKEN) {
            return error(401, "Invalid authentication token");
        }
        if request.header("x-consumer-token").is_none() && action == "devices.create" {
            return error(400, "no consumer");
        }
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let missing = || error(404, "Not found");
        if path.first() == Some(&"projects") && path.get(1) != Some(&PROJECT) {
            return missing();
        }
        match action.as_str() {
            "projects.get" => answer(200, &json!({"id": PROJECT, "name": "tests"})),
            "ssh-keys.list" => {
                let one = |(id, (label, key)): (&String, &(String, String))| json!({"id": id, "label": label, "key": key});
                answer(200, &json!({"ssh_keys": state.keys.iter().map(one).collect::<Vec<_>>()}))
            }
            "ssh-keys.create" => {
                let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
                if state.keys.values().any(|(_, key)| *key == text("key")) {
                    return error(422, "Key has already been taken");
                }
                state.made += 1;
                let id = format!("key-{}", state.made);
                state.keys.insert(id.clone(), (text("label"), text("key")));
                self.new_keys(&state);
                answer(201, &json!({"id": id, "label": text("label"), "key": text("key")}))
            }
            "ssh-keys.delete" => match state.keys.remove(&last) {
                Some(_) => {
                    self.new_keys(&state);
                    nothing()
                }
                None => missing(),
            },
            "devices.create" => {
                let id = uuid::Uuid::new_v4().to_string();
                let userdata = match userdata(&state, &body) {
                    Ok(userdata) => userdata,
                    Err(reason) => return error(422, &reason),
                };
                let created = chrono::Utc::now().to_rfc3339();
                let (state_now, address) = ("provisioning", None);
                let device = Device {
                    body,
                    state: state_now,
                    address,
                    created,
                    locked: false,
                    refusals: 0,
                    guest: None,
                };
                let shown = device.describe(&id);
                state.devices.insert(id.clone(), device);
                if let Some(sos) = &self.sos {
                    sos.add(&id);
                }
                let here = self.clone();
                self.aside.begin(move || here.boot(&id, &userdata));
                answer(201, &shown)
            }
            "devices.get" => match state.devices.get(&last) {
                Some(device) => answer(200, &device.describe(&last)),
                None => missing(),
            },
            "devices.list" => {
                let query: BTreeMap<String, String> = request.query().into_iter().collect();
                let number = |name: &str| query.get(name).and_then(|n| n.parse::<usize>().ok());
                let (page, length) =
                    (number("page").unwrap_or(1), number("per_page").unwrap_or(10).min(PAGE));
                let all = state.devices.iter().skip((page - 1) * length).take(length);
                let devices: Vec<Value> = all.map(|(id, d)| d.describe(id)).collect();
                let total = state.devices.len();
                let meta = json!({
                    "current_page": page, "total": total, "last_page": total.div_ceil(length).max(1),
                });
                answer(200, &json!({"devices": devices, "meta": meta}))
            }
            "devices.delete" => {
                let Some(device) = state.devices.get_mut(&last) else { return missing() };
                if device.locked {
                    return error(422, "Cannot delete a locked item");
                }
                if device.state == "provisioning" && device.refusals < 2 {
                    device.refusals += 1;
                    return error(422, "Cannot delete a device while it is provisioning");
                }
                let device = state.devices.remove(&last).unwrap();
                drop(state);
                let console = device.guest.as_ref().map(|g| g.console()).unwrap_or_default();
                if let Some(sos) = &self.sos {
                    sos.end(&last, &console);
                }
                if let Some(guest) = device.guest {
                    self.aside.begin(move || guest.stop());
                }
                nothing()
            }
            _ => missing(),
        }
    }

    fn boot(&self, id: &str, userdata: &[u8]) {
        let fate = lock(&self.state).fate;
        let machines = lock(&self.machines).clone();
        let guest = match (fate, machines) {
            (Some(Fate::Pends), _) => return,
            (Some(Fate::Fails), _) => Err("planned".to_owned()),
            (_, None) => Ok(None),
            (_, Some(machines)) => machines.start(userdata).map(Some),
        };
        let mut state = lock(&self.state);
        // Deleted, or forgotten, meanwhile: the guest goes with its last owner.
        let Some(device) = state.devices.get_mut(id) else { return };
        match guest {
            Ok(guest) => {
                if fate.is_none() {
                    device.address = Some(guest.as_ref().map_or_else(|| "127.0.0.1".into(), |g| g.address()));
                }
                device.guest = guest;
                device.state = "active";
            }
            Err(_) => device.state = "failed",
        }
    }
}

/// The userdata that a device boots with in the end: what its script's installer puts into a file.
fn userdata(state: &State, order: &Value) -> Result<Vec<u8>, String> {
    let object = |url: &str| {
        let path = url.split_once("://").and_then(|(_, rest)| Some(format!("/{}", rest.split_once('/')?.1)));
        let found = path.and_then(|path| state.objects.get(&path)).cloned();
        found.and_then(|o| String::from_utf8(o).ok()).ok_or_else(|| format!("there is nothing at {url}"))
    };
    if order["operating_system"] != "custom_ipxe" {
        return Err("no such operating system".into());
    }
    let script = object(order["ipxe_script_url"].as_str().unwrap_or_default())?;
    let kernel = script.lines().find(|l| l.starts_with("kernel ")).ok_or("the script loads no kernel")?;
    let url = kernel.split_whitespace().find_map(|w| w.strip_prefix("coreos.config.url="));
    let installer: Value = serde_json::from_str(&object(url.ok_or("the kernel has no config")?)?)
        .map_err(|e| format!("no userdata: {e}"))?;
    let files = installer["storage"]["files"].as_array().cloned().unwrap_or_default();
    let file = files.iter().find(|f| f["path"] == "/userdata").ok_or("no userdata")?;
    let source = file["contents"]["source"].as_str().unwrap_or_default();
    let text = source.strip_prefix("data:;base64,").ok_or("no data")?;
    openssl::base64::decode_block(text).map_err(|e| e.to_string())
}

impl Device {
    fn describe(&self, id: &str) -> Value {
        let of = json!({"href": format!("/devices/{id}")});
        let mut addresses =
            vec![json!({"address": "10.99.1.2", "address_family": 4, "public": false, "assigned_to": of})];
        if let Some(address) = &self.address {
            let six =
                json!({"address": "2001:db8::1", "address_family": 6, "public": true, "assigned_to": of});
            let four = json!({"address": address, "address_family": 4, "public": true, "assigned_to": of});
            addresses.extend([six, four]);
        }
        json!({
            "id": id, "hostname": self.body["hostname"], "state": self.state, "tags": self.body["tags"],
            "locked": self.locked, "created_at": self.created, "ip_addresses": addresses,
            "facility": {"code": "sjc1", "name": "Sunnyvale"}, "surprise": null,
        })
    }
}
