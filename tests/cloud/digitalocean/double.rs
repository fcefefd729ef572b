//! A local DigitalOcean: machines that really run, and the records of droplets, keys and images.
//!
//! All that it is asked, and all that it answers but refusals, is judged by the vendor's own description of the
//! interface at its end: see [`super::complaints`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::{action, complaints, error, throttled};
use crate::cloud::matrix::{Census, Double, No};
use crate::support::Env;
use crate::support::guard::Limit;
use crate::support::http::{Request, Response};
use crate::support::machines::{Aside, Guest, Machines, Unmanned, lock};
use crate::support::proxy::Proxy;

pub const TOKEN: &str = "SECRET-token-of-the-tests";
pub const ACCOUNT: &str = "5df3e3004a17e242b7c20ca6c9fc25b701a47ece";
pub const REGION: &str = "sfo2";
const SIZES: &[&str] = &["s-1vcpu-1gb", "s-1vcpu-2gb", "s-2vcpu-4gb"];

/// Runs the userdata of a droplet that overwrites itself; whether the power was off at its end.
pub type Installer = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// The cloud; guests end with it.
pub struct DigitalOcean {
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
    /// One exchange of each form, to be judged.
    exchanges: Mutex<BTreeMap<String, (Request, Option<Response>)>>,
}

#[derive(Default)]
struct State {
    droplets: BTreeMap<u64, Droplet>,
    /// Name and public key by id.
    keys: BTreeMap<u64, (String, String)>,
    images: BTreeMap<u64, Value>,
    actions: BTreeMap<u64, Action>,
    made: u64,
    /// Items of a page, at most.
    page: usize,
    odds: Odds,
    installer: Option<Installer>,
}

/// What goes on besides.
#[derive(Clone, Default)]
pub struct Odds {
    /// So many lists do not show a droplet that was just made.
    pub unlisted: usize,
    /// So many orders of droplets are refused for a key that is not known everywhere yet.
    pub unknown_keys: usize,
    /// No more droplets than this.
    pub droplet_limit: Option<usize>,
    /// Droplets stay in this state for ever.
    pub droplets_stay: Option<&'static str>,
    /// Images that are fetched end so: in this state, for this reason.
    pub images_end: Option<(&'static str, &'static str)>,
    /// Actions end so.
    pub actions_end: Option<&'static str>,
}

struct Droplet {
    order: Value,
    status: &'static str,
    created: String,
    address: Option<String>,
    guest: Option<Arc<dyn Guest>>,
    /// How many lists will not show it.
    unlisted: usize,
    snapshots: Vec<u64>,
}

struct Action {
    droplet: u64,
    name: String,
    looks: usize,
    kind: &'static str,
}

impl DigitalOcean {
    pub fn start(machines: Arc<dyn Machines>) -> Self {
        let limit = machines.limit();
        let face = Arc::new(Face { machines: Mutex::new(Some(machines)), ..Face::default() });
        lock(&face.state).page = 200;
        let own = face.clone();
        let proxy = Proxy::before(move |request| {
            let answer = own.answer(request);
            own.note(request, &answer);
            Some(answer)
        });
        Self { proxy, limit, face }
    }

    /// Without machines: for commands that start none.
    pub fn of_records() -> Self {
        Self::start(Arc::new(Unmanned))
    }

    /// Lists are shown so many items at a time.
    pub fn pages_of(&self, items: usize) {
        lock(&self.face.state).page = items;
    }

    /// What goes on besides, from now on.
    pub fn odds(&self, odds: Odds) {
        lock(&self.face.state).odds = odds;
    }

    /// What runs the userdata of droplets that overwrite themselves.
    pub fn installer(&self, installer: Installer) {
        lock(&self.face.state).installer = Some(installer);
    }

    /// Somebody else's droplet, or an old one of ours.
    pub fn put_droplet(&self, name: &str, status: &'static str, created: &str, tags: &[&str]) -> u64 {
        let mut state = lock(&self.face.state);
        let order = json!({
            "name": name, "region": REGION, "size": SIZES[0], "image": 1, "tags": tags, "ipv6": false,
        });
        let address = Some("192.0.2.7".into());
        let (guest, created) = (None, created.to_owned());
        let droplet = Droplet { order, status, created, address, guest, unlisted: 0, snapshots: vec![] };
        let id = state.id();
        state.droplets.insert(id, droplet);
        id
    }

    /// Takes a droplet's tag away, or gives it another.
    pub fn retag(&self, id: u64, tags: &[&str]) {
        lock(&self.face.state).droplets.get_mut(&id).unwrap().order["tags"] = json!(tags);
    }

    /// An image.
    pub fn put_image(&self, name: &str, kind: &str, regions: &[&str]) -> u64 {
        lock(&self.face.state).put_image(name, kind, "available", regions)
    }

    /// A key.
    pub fn put_key(&self, name: &str) -> u64 {
        let mut state = lock(&self.face.state);
        let id = state.id();
        state.keys.insert(id, (name.into(), format!("ssh-rsa {id}")));
        id
    }

    /// The names of droplets by id.
    pub fn droplets(&self) -> BTreeMap<u64, String> {
        let state = lock(&self.face.state);
        state.droplets.iter().map(|(id, d)| (*id, d.order["name"].as_str().unwrap().to_owned())).collect()
    }

    /// What a droplet was ordered with.
    pub fn order(&self, id: u64) -> Value {
        lock(&self.face.state).droplets[&id].order.clone()
    }

    /// The names of keys, and the keys.
    pub fn keys(&self) -> Vec<(String, String)> {
        lock(&self.face.state).keys.values().cloned().collect()
    }

    /// The images by id.
    pub fn images(&self) -> BTreeMap<u64, Value> {
        lock(&self.face.state).images.clone()
    }

    /// What was asked for since the last call, in order.
    pub fn asked_for(&self) -> Vec<String> {
        self.proxy.take_journal().iter().map(|e| action(&e.request)).collect()
    }
}

impl Drop for DigitalOcean {
    fn drop(&mut self) {
        lock(&self.face.machines).take();
        self.face.end();
        // It may hold a disk, which has to go.
        lock(&self.face.state).installer = None;
        let exchanges: Vec<_> = std::mem::take(&mut *lock(&self.face.exchanges)).into_values().collect();
        if !std::thread::panicking() && !exchanges.is_empty() {
            let complaints = complaints(&exchanges);
            assert!(complaints.is_empty(), "complaints:\n{complaints}\nof {exchanges:#?}");
        }
    }
}

impl Double for DigitalOcean {
    const NEEDED: &'static [&'static str] = &[
        "account.get",
        "images.list",
        "keys.create",
        "droplets.create",
        "droplets.get",
        "droplets.delete",
        "keys.list",
        "keys.delete",
    ];
    const PREPARES: &'static [&'static str] = &[];
    const POLLED: &'static [&'static str] = &["droplets.get"];
    const COLLECT: &'static [&'static str] = &["ore", "do", "gc", "--ledger=out", "--duration=0s"];

    fn env(&self) -> Env {
        let mut env = Env::new();
        env.write(".config/digitalocean.json", &json!({"default": {"token": TOKEN}}).to_string());
        env.set("DIGITALOCEAN_API_URL", self.proxy.url())
            .set("MANTLE_POLL_SCALE", "0.001")
            .guarded(self.limit);
        env
    }

    fn options(&self, image: &str) -> Vec<String> {
        ["-p", "do", "-b", "debian", "--do-image", image].map(str::to_owned).into()
    }

    fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    fn image(&self) -> String {
        self.put_image("mantle-guest", "custom", &[REGION]);
        "mantle-guest".into()
    }

    fn census(&self) -> Census {
        let state = lock(&self.face.state);
        let droplets = state.droplets.iter().map(|(id, d)| (id.to_string(), d.status.to_owned()));
        let keys = state.keys.iter().map(|(id, (name, _))| (id.to_string(), name.clone()));
        let images = state.images.keys().map(|id| (id.to_string(), String::new()));
        Census::from([
            ("droplet".into(), droplets.collect()),
            ("key".into(), keys.collect()),
            ("image".into(), images.collect()),
        ])
    }

    fn running(&self) -> Vec<String> {
        let state = lock(&self.face.state);
        let guests = state.droplets.iter().filter(|(_, d)| d.guest.is_some());
        guests.map(|(id, _)| id.to_string()).collect()
    }

    fn reset(&self) {
        self.face.end();
        *lock(&self.face.state) = State { page: 200, ..State::default() };
        self.proxy.calm();
        self.proxy.take_journal();
    }

    fn action(request: &Request) -> String {
        action(request)
    }

    fn is_creation(action: &str) -> bool {
        action.ends_with(".create")
    }

    fn no(_: &Request, how: No) -> Response {
        match how {
            No::Forbidden => error(403, "forbidden", "You are not authorized to perform this operation"),
            No::Throttled => throttled(chrono::Utc::now().timestamp() + 1),
            No::Broken => error(503, "service_unavailable", "Server Error"),
        }
    }

    fn left(before: &Census, after: &Census) -> Vec<String> {
        let new = |kind: &'static str| {
            let ids = after[kind].iter().filter(move |(id, _)| !before[kind].contains_key(*id));
            ids.map(move |(id, what)| format!("{kind} {id} {what}"))
        };
        new("droplet").chain(new("key")).chain(new("image")).collect()
    }
}

fn answer(status: u16, value: &Value) -> Response {
    let mut response = Response::new(status, "application/json; charset=utf-8", value.to_string());
    for (name, value) in [("RateLimit-Limit", 5000), ("RateLimit-Remaining", 4816)] {
        response.headers.push((name.into(), value.to_string()));
    }
    response
}

fn missing() -> Response {
    error(404, "not_found", "The resource you requested could not be found.")
}

fn refused(message: &str) -> Response {
    error(422, "unprocessable_entity", message)
}

fn gone() -> Response {
    Response { status: 204, ..Response::default() }
}

impl State {
    fn id(&mut self) -> u64 {
        self.made += 1;
        3_164_000 + self.made
    }

    fn put_image(&mut self, name: &str, kind: &str, status: &str, regions: &[&str]) -> u64 {
        let id = self.id();
        let image = json!({
            "id": id, "name": name, "type": kind, "distribution": "CoreOS", "slug": null, "public": false,
            "regions": regions, "created_at": "2026-05-04T22:23:02Z", "min_disk_size": 10, "size_gigabytes": 2.34,
            "description": "", "tags": [], "status": status, "error_message": "", "looks": 0,
        });
        self.images.insert(id, image);
        id
    }

    fn image(&self, id: &str) -> Option<&Value> {
        let is_it = |i: &&Value| i["slug"] == id || id.parse::<u64>().is_ok_and(|id| i["id"] == id);
        self.images.values().find(is_it)
    }

    /// What is wrong with the order of a droplet.
    fn fault(&self, order: &Value) -> Option<String> {
        let size = order["size"].as_str().unwrap_or_default();
        let user_data = order["user_data"].as_str().unwrap_or_default();
        let keys = order["ssh_keys"].as_array().cloned().unwrap_or_default();
        let unknown: Vec<_> = keys
            .iter()
            .filter(|k| !k.as_u64().is_some_and(|k| self.keys.contains_key(&k)))
            .map(Value::to_string)
            .collect();
        let image = self.image(&order["image"].to_string());
        if !SIZES.contains(&size) {
            return Some("You specified an invalid size for Droplet creation.".into());
        }
        let Some(image) = image else {
            return Some("You specified an invalid image for Droplet creation.".into());
        };
        let region = order["region"].as_str().unwrap_or_default();
        if !image["regions"].as_array().unwrap().iter().any(|r| r == region) {
            return Some("The image is not available in the selected region.".into());
        }
        if image["type"] == "custom" && order["ipv6"] == true {
            return Some("IPv6 is not supported on Droplets of custom images.".into());
        }
        if !unknown.is_empty() || keys.is_empty() {
            return Some(format!("{} are invalid key identifiers for Droplet creation.", unknown.join(", ")));
        }
        (user_data.len() > 64 << 10).then(|| "User data is too long (maximum is 64 KB)".into())
    }
}

impl Face {
    /// Ends all guests, and those under way.
    fn end(&self) {
        lock(&self.state).droplets.clear();
        self.aside.finish();
    }

    /// Keeps an exchange to be judged, unless there is one like it.
    fn note(&self, request: &Request, answer: &Response) {
        if request.header("authorization") != Some(&format!("Bearer {TOKEN}")) {
            return;
        }
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let fields: BTreeSet<String> = body
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, v)| format!("{name}{}", v.is_null()))
            .collect();
        let parameters: BTreeSet<String> = request.query().into_iter().map(|(name, _)| name).collect();
        let form = format!("{} {fields:?} {parameters:?} {}", action(request), answer.status);
        let fine = answer.status < 300 && answer.body.len() < 100_000;
        let exchange = (request.clone(), fine.then(|| answer.clone()));
        lock(&self.exchanges).entry(form).or_insert(exchange);
    }

    fn answer(self: &Arc<Self>, request: &Request) -> Response {
        let action = action(request);
        let mut state = lock(&self.state);
        let state = &mut *state;
        if request.header("authorization") != Some(&format!("Bearer {TOKEN}")) {
            return error(401, "unauthorized", "Unable to authenticate you");
        }
        let path: Vec<&str> = request.path().trim_matches('/').split('/').skip(1).collect();
        let query: BTreeMap<String, String> = request.query().into_iter().collect();
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let number = |at: usize| path.get(at).and_then(|n| n.parse::<u64>().ok()).unwrap_or_default();
        match action.as_str() {
            "account.get" => answer(
                200,
                &json!({"account": {
                    "droplet_limit": 25, "floating_ip_limit": 5, "email": "sammy@example.com", "name": "Sammy",
                    "uuid": "b6fr89dbf6d9156cace5f3c78dc9851d957381ef", "email_verified": true, "status": "active",
                    "status_message": " ", "team": {"uuid": ACCOUNT, "name": "My Team"},
                }}),
            ),
            "keys.create" => {
                let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
                let (name, public) = (text("name"), text("public_key"));
                if state.keys.values().any(|(_, k)| *k == public) {
                    return refused("SSH Key is already in use on your account");
                }
                let id = state.id();
                state.keys.insert(id, (name, public));
                answer(201, &json!({"ssh_key": key(id, &state.keys[&id])}))
            }
            "keys.list" => {
                let all: Vec<_> = state.keys.iter().collect();
                page("ssh_keys", &all, |(id, k)| key(**id, k), request, state.page)
            }
            "keys.delete" => state.keys.remove(&number(2)).map_or_else(missing, |_| gone()),
            "droplets.create" => {
                if state.odds.unknown_keys > 0 {
                    state.odds.unknown_keys -= 1;
                    return refused("1 are invalid key identifiers for Droplet creation.");
                }
                if state.odds.droplet_limit.is_some_and(|limit| state.droplets.len() >= limit) {
                    return refused("creating this/these droplet(s) will exceed your droplet limit");
                }
                if let Some(fault) = state.fault(&body) {
                    return refused(&fault);
                }
                let id = state.id();
                let unlisted = state.odds.unlisted;
                let user_data = body["user_data"].as_str().unwrap_or_default().to_owned();
                let created = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
                let (address, guest, snapshots) = (None, None, Vec::new());
                let status = "new";
                state.droplets.insert(
                    id,
                    Droplet { order: body, status, created, address, guest, unlisted, snapshots },
                );
                let here = self.clone();
                let installer =
                    state.installer.clone().filter(|_| user_data.contains("install-prep.service"));
                self.aside.begin(move || match installer {
                    Some(installer) => {
                        if installer(&user_data)
                            && let Some(droplet) = lock(&here.state).droplets.get_mut(&id)
                        {
                            droplet.status = "off";
                        }
                    }
                    None => here.boot(id, user_data.as_bytes()),
                });
                answer(202, &json!({"droplet": state.describe(id), "links": {"actions": []}}))
            }
            "droplets.get" if state.droplets.contains_key(&number(1)) => {
                answer(200, &json!({"droplet": state.describe(number(1))}))
            }
            "droplets.list" => {
                let wanted = query.get("tag_name");
                let mut ids = Vec::new();
                for (id, droplet) in &mut state.droplets {
                    let mut tags = droplet.order["tags"].as_array().into_iter().flatten();
                    if wanted.is_some_and(|tag| !tags.any(|t| t == tag)) {
                        continue;
                    }
                    match droplet.unlisted {
                        0 => ids.push(*id),
                        _ => droplet.unlisted -= 1,
                    }
                }
                page("droplets", &ids, |id| state.describe(*id), request, state.page)
            }
            "droplets.delete" => match state.droplets.remove(&number(1)) {
                None => missing(),
                Some(droplet) => {
                    if let Some(guest) = droplet.guest {
                        self.aside.begin(move || guest.stop());
                    }
                    gone()
                }
            },
            "droplets.snapshot" => {
                let Some(droplet) = state.droplets.get(&number(1)) else { return missing() };
                if body["type"] != "snapshot" || droplet.status != "off" {
                    return refused("Droplet is currently on. Please power it off to run this event.");
                }
                if state.actions.values().any(|a| a.droplet == number(1)) {
                    return refused("Droplet already has a pending event.");
                }
                let name = body["name"].as_str().unwrap_or_default().to_owned();
                let id = state.id();
                let action = Action { droplet: number(1), name, looks: 0, kind: "snapshot" };
                state.actions.insert(id, action);
                answer(201, &json!({"action": state.action(id)}))
            }
            "droplets.actions" => {
                let ids: Vec<u64> =
                    state.actions.iter().filter(|(_, a)| a.droplet == number(1)).map(|(id, _)| *id).collect();
                page("actions", &ids, |id| state.action(*id), request, state.page)
            }
            "actions.get" if state.actions.contains_key(&number(1)) => {
                let looked = state.actions.get_mut(&number(1)).unwrap();
                looked.looks += 1;
                let (droplet, name) = (looked.droplet, looked.name.clone());
                if looked.looks == 2 && state.odds.actions_end.is_none() {
                    let image = state.put_image(&name, "snapshot", "available", &[REGION]);
                    if let Some(droplet) = state.droplets.get_mut(&droplet) {
                        droplet.snapshots.push(image);
                    }
                }
                answer(200, &json!({"action": state.action(number(1))}))
            }
            "droplets.snapshots" if state.droplets.contains_key(&number(1)) => {
                let ids = state.droplets[&number(1)].snapshots.clone();
                let snapshot = |id: &u64| {
                    let mut image = described(&state.images[id]);
                    image["type"] = "snapshot".into();
                    image
                };
                page("snapshots", &ids, snapshot, request, state.page)
            }
            "images.create" => {
                let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
                if !text("url").starts_with("http") {
                    return refused("URL is invalid");
                }
                let id = state.put_image(&text("name"), "custom", "NEW", &[]);
                let image = state.images.get_mut(&id).unwrap();
                for (field, value) in body.as_object().into_iter().flatten() {
                    image[field] = value.clone();
                }
                answer(202, &json!({"image": described(image)}))
            }
            "images.list" => {
                let all: Vec<_> = state.images.values().filter(|i| i["public"] == false).collect();
                page("images", &all, |i| described(i), request, state.page)
            }
            "images.get" => {
                let id = state.image(path[1]).map(|i| i["id"].as_u64().unwrap());
                let Some(image) = id.and_then(|id| state.images.get_mut(&id)) else { return missing() };
                let looks = image["looks"].as_u64().unwrap() + 1;
                image["looks"] = looks.into();
                match (image["status"].as_str().unwrap(), state.odds.images_end) {
                    ("NEW", _) => image["status"] = "pending".into(),
                    ("pending", Some((status, reason))) => {
                        image["status"] = status.into();
                        image["error_message"] = reason.into();
                    }
                    ("pending", None) => {
                        image["status"] = "available".into();
                        image["regions"] = json!([image["region"]]);
                    }
                    _ => {}
                }
                answer(200, &json!({"image": described(image)}))
            }
            "images.delete" => match state.images.remove(&number(1)) {
                Some(_) => gone(),
                None => missing(),
            },
            _ => missing(),
        }
    }

    fn boot(&self, id: u64, userdata: &[u8]) {
        let Some(machines) = lock(&self.machines).clone() else { return };
        let stays = lock(&self.state).odds.droplets_stay;
        if let Some(status) = stays {
            if let Some(droplet) = lock(&self.state).droplets.get_mut(&id) {
                droplet.status = status;
            }
            return;
        }
        let guest = machines.start(userdata);
        let mut state = lock(&self.state);
        // Deleted, or forgotten, meanwhile: the guest goes with its last owner.
        let Some(droplet) = state.droplets.get_mut(&id) else { return };
        match guest {
            Ok(guest) => {
                droplet.address = Some(guest.address());
                droplet.guest = Some(guest);
                droplet.status = "active";
            }
            Err(_) => droplet.status = "off",
        }
    }
}

impl State {
    fn describe(&self, id: u64) -> Value {
        let Droplet { order, status, created, address, snapshots, .. } = &self.droplets[&id];
        let mut v4 = Vec::new();
        if let Some(address) = address {
            v4.push(json!({"ip_address": "10.128.192.124", "netmask": "255.255.0.0", "gateway": "nil",
                "type": "private"}));
            v4.push(json!({"ip_address": address, "netmask": "255.255.240.0", "gateway": "192.241.165.1",
                "type": "public"}));
        }
        let image = self.image(&order["image"].to_string()).map_or_else(|| json!({"id": 1}), described);
        let size = json!({
            "slug": order["size"], "memory": 1024, "vcpus": 1, "disk": 25, "transfer": 1.0, "price_monthly": 5.0,
            "price_hourly": 0.007, "regions": [REGION], "available": true, "description": "Basic",
        });
        json!({
            "id": id, "name": order["name"], "memory": 1024, "vcpus": 1, "disk": 25, "locked": false,
            "status": status, "kernel": null, "created_at": created, "features": ["private_networking"],
            "backup_ids": [], "next_backup_window": null, "snapshot_ids": snapshots, "image": image,
            "volume_ids": [], "size": size, "size_slug": order["size"],
            "networks": {"v4": v4, "v6": []}, "tags": order["tags"],
            "region": {"name": "San Francisco 2", "slug": order["region"], "features": ["private_networking"],
                "available": true, "sizes": [order["size"]]},
        })
    }

    fn action(&self, id: u64) -> Value {
        let action = &self.actions[&id];
        let status = match (action.looks, self.odds.actions_end) {
            (0..2, _) => "in-progress",
            (_, Some(end)) => end,
            (_, None) => "completed",
        };
        json!({
            "id": id, "status": status, "type": action.kind, "started_at": "2026-05-04T22:23:02Z",
            "completed_at": null, "resource_id": action.droplet, "resource_type": "droplet",
            "region": {"name": "San Francisco 2", "slug": REGION, "features": [], "available": true, "sizes": []},
            "region_slug": REGION,
        })
    }
}

fn key(id: u64, (name, public): &(String, String)) -> Value {
    json!({"id": id, "name": name, "public_key": public, "fingerprint": format!("3b:16:e4:{id}")})
}

fn described(image: &Value) -> Value {
    let mut image = image.clone();
    for own in ["looks", "url", "region"] {
        image.as_object_mut().unwrap().remove(own);
    }
    image
}

/// The part of a list that is asked for.
fn page<T>(
    kind: &str,
    all: &[T],
    describe: impl Fn(&T) -> Value,
    request: &Request,
    most: usize,
) -> Response {
    let query: BTreeMap<String, String> = request.query().into_iter().collect();
    let of = |name: &str, default: usize| query.get(name).and_then(|n| n.parse().ok()).unwrap_or(default);
    let length = of("per_page", 20).min(most);
    let start = ((of("page", 1) - 1) * length).min(all.len());
    let end = (start + length).min(all.len());
    let mut links = json!({});
    if end < all.len() {
        // Where it leads is the server's own word for it: nobody is to go there with a token.
        let next = format!("https://api.digitalocean.com{}?page={}", request.path(), of("page", 1) + 1);
        links = json!({"pages": {"next": next, "last": "https://api.digitalocean.com/last"}});
    }
    let items: Vec<Value> = all[start..end].iter().map(describe).collect();
    answer(200, &json!({kind: items, "links": links, "meta": {"total": all.len()}}))
}
