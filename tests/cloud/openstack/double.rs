//! A local OpenStack: machines that really run, and the records of Keystone, Nova, Neutron and Glance.
//!
//! openstacksdk is a client of it, too ([`super::clouds`]), and its answers have the shapes that the real services'
//! have ([`super::real`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use openssl::hash::{MessageDigest, hash};
use serde_json::{Value, json};

use super::{action, error};
use crate::cloud::matrix::{Census, Double, No};
use crate::support::Env;
use crate::support::guard::Limit;
use crate::support::http::{Request, Response};
use crate::support::machines::{Aside, Guest, Machines, Unmanned, lock};
use crate::support::proxy::Proxy;

pub const PROJECT: &str = "0123456789abcdef0123456789abcdef";
pub const REGION: &str = "RegionOne";
pub const PASSWORD: &str = "open-SECRET-sesame";
const USER: &str = "fedcba9876543210fedcba9876543210";
pub const INNER_NETWORK: &str = "11111111-1111-4111-8111-111111111111";
const OUTER: &str = "22222222-2222-4222-8222-222222222222";

/// The cloud; guests end with it.
pub struct OpenStack {
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

#[derive(Default)]
struct State {
    servers: BTreeMap<String, Server>,
    /// By name.
    pairs: BTreeMap<String, Value>,
    groups: BTreeMap<String, Value>,
    /// By id of the group.
    rules: BTreeMap<String, Vec<Value>>,
    floating: BTreeMap<String, Value>,
    images: BTreeMap<String, Value>,
    contents: BTreeMap<String, Vec<u8>>,
    /// How many tokens were given out; only the newest is good.
    tokens: usize,
    /// Items of a page.
    page: usize,
    /// Why servers do not come to run.
    fault: Option<String>,
    /// Servers are reached without floating IPs.
    direct: bool,
    /// Only version 2 of the identity API is there.
    old: bool,
    /// Glance says another hash than it should.
    forges: bool,
}

struct Server {
    body: Value,
    status: &'static str,
    /// The address that a floating IP leads to.
    address: Option<String>,
    guest: Option<Arc<dyn Guest>>,
}

fn id() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn now() -> String {
    chrono::Utc::now().format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl OpenStack {
    pub fn start(machines: Arc<dyn Machines>) -> Self {
        let limit = machines.limit();
        let face = Arc::new(Face { machines: Mutex::new(Some(machines)), ..Face::default() });
        lock(&face.state).page = 1000;
        let own = face.clone();
        Self { proxy: Proxy::before(move |request| Some(own.answer(request))), limit, face }
    }

    /// Without machines: for commands that start none.
    pub fn of_records() -> Self {
        Self::start(Arc::new(Unmanned))
    }

    /// Its Keystone, without version.
    pub fn auth_url(&self) -> String {
        format!("{}/identity", self.proxy.url())
    }

    /// The profile file.
    pub fn profile(&self) -> Value {
        json!({"default": {
            "auth_url": self.auth_url(), "tenant_name": "demo", "username": "robot", "password": PASSWORD,
            "user_domain": "default", "region_name": REGION,
        }})
    }

    /// Lists are shown so many items at a time.
    pub fn pages_of(&self, items: usize) {
        lock(&self.face.state).page = items;
    }

    /// No server comes to run, for this reason.
    pub fn fails(&self, fault: Option<&str>) {
        lock(&self.face.state).fault = fault.map(str::to_owned);
    }

    /// Servers are reached without floating IPs.
    pub fn is_direct(&self) {
        lock(&self.face.state).direct = true;
    }

    /// Only version 2 of the identity API is there.
    pub fn is_old(&self) {
        lock(&self.face.state).old = true;
    }

    /// Glance says another hash than it should.
    pub fn forges(&self) {
        lock(&self.face.state).forges = true;
    }

    /// The tokens given out so far are good no more.
    pub fn expire_tokens(&self) {
        lock(&self.face.state).tokens += 1;
    }

    /// Somebody else's server, or an old one of ours.
    pub fn put_server(&self, id: &str, status: &'static str, body: Value) {
        let server = Server { body, status, address: Some("192.0.2.7".into()), guest: None };
        lock(&self.face.state).servers.insert(id.into(), server);
    }

    /// A key pair.
    pub fn put_pair(&self, name: &str, created: &str) {
        let pair = json!({"name": name, "created_at": created, "public_key": "x", "fingerprint": "f", "type": "ssh"});
        lock(&self.face.state).pairs.insert(name.into(), pair);
    }

    /// A floating IP.
    pub fn put_floating(&self, id: &str, body: Value) {
        lock(&self.face.state).floating.insert(id.into(), described_floating(id, body));
    }

    /// An image.
    pub fn put_image(&self, id: &str, body: Value) {
        lock(&self.face.state).images.insert(id.into(), described_image(id, body));
    }

    /// A security group.
    pub fn put_group(&self, id: &str, description: &str) {
        lock(&self.face.state)
            .groups
            .insert(id.into(), json!({"id": id, "name": "kola", "description": description}));
    }

    /// The rules of all security groups.
    pub fn rules(&self) -> Vec<Value> {
        lock(&self.face.state).rules.values().flatten().cloned().collect()
    }

    /// The images by id.
    pub fn images(&self) -> BTreeMap<String, Value> {
        lock(&self.face.state).images.clone()
    }

    /// The content of an image.
    pub fn content(&self, id: &str) -> Vec<u8> {
        lock(&self.face.state).contents.get(id).cloned().unwrap_or_default()
    }

    /// What servers were ordered with, by id.
    pub fn orders(&self) -> BTreeMap<String, Value> {
        lock(&self.face.state).servers.iter().map(|(id, s)| (id.clone(), s.body.clone())).collect()
    }
}

impl Drop for OpenStack {
    fn drop(&mut self) {
        lock(&self.face.machines).take();
        self.face.end();
    }
}

impl Double for OpenStack {
    const NEEDED: &'static [&'static str] = &[
        "identity.versions",
        "tokens.create",
        "compute.versions",
        "flavors.list",
        "images.list",
        "networks.list",
        "os-keypairs.create",
        "security-groups.list",
        "servers.create",
        "servers.show",
        "ports.list",
        "floatingips.create",
        "floatingips.list",
        "servers.console",
        "floatingips.delete",
        "servers.delete",
        "os-keypairs.delete",
    ];
    const PREPARES: &'static [&'static str] =
        &["security-groups.create", "security-group-rules.create", "security-groups.update"];
    const POLLED: &'static [&'static str] = &["servers.show", "servers.console"];
    const COLLECT: &'static [&'static str] = &["ore", "openstack", "gc", "--ledger=out"];

    fn env(&self) -> Env {
        let mut env = Env::new();
        env.write(".config/openstack.json", &self.profile().to_string());
        env.set("MANTLE_POLL_SCALE", "0.001").guarded(self.limit);
        env
    }

    fn options(&self, image: &str) -> Vec<String> {
        let mut words =
            ["-p", "openstack", "-b", "debian", "--openstack-image", image].map(str::to_owned).to_vec();
        if !lock(&self.face.state).direct {
            words.push("--openstack-floating-ip-pool=public".into());
        }
        words
    }

    fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    fn image(&self) -> String {
        self.put_image("33333333-3333-4333-8333-333333333333", json!({"name": "mantle-guest"}));
        "mantle-guest".into()
    }

    fn census(&self) -> Census {
        let state = lock(&self.face.state);
        let of = |things: &BTreeMap<String, Value>| {
            things
                .iter()
                .map(|(id, v)| (id.clone(), v["description"].to_string()))
                .collect::<BTreeMap<_, _>>()
        };
        Census::from([
            (
                "server".into(),
                state.servers.iter().map(|(id, s)| (id.clone(), s.status.to_owned())).collect(),
            ),
            ("key pair".into(), of(&state.pairs)),
            ("security group".into(), of(&state.groups)),
            ("floating IP".into(), of(&state.floating)),
            ("image".into(), of(&state.images)),
        ])
    }

    fn running(&self) -> Vec<String> {
        let state = lock(&self.face.state);
        state.servers.iter().filter(|(_, s)| s.guest.is_some()).map(|(id, _)| id.clone()).collect()
    }

    fn reset(&self) {
        self.face.end();
        let mut state = lock(&self.face.state);
        *state = State { page: 1000, direct: state.direct, ..State::default() };
        drop(state);
        self.proxy.calm();
        self.proxy.take_journal();
    }

    fn action(request: &Request) -> String {
        action(request)
    }

    fn is_creation(action: &str) -> bool {
        action.ends_with(".create") && !["tokens.create", "security-group-rules.create"].contains(&action)
    }

    fn no(request: &Request, how: No) -> Response {
        match how {
            No::Forbidden => error(request, 403, "forbidden", "Policy doesn't allow it to be performed."),
            No::Throttled => error(request, 429, "overLimit", "This request was rate-limited."),
            No::Broken => error(request, 503, "serviceUnavailable", "The service is unavailable"),
        }
    }

    fn left(before: &Census, after: &Census) -> Vec<String> {
        let new = |kind: &'static str| {
            let things = after[kind].iter().filter(move |(id, _)| !before[kind].contains_key(*id));
            // The group stays for the next run, once it is finished.
            let things =
                things.filter(move |(_, text)| kind != "security group" || text.contains("unfinished"));
            things.map(move |(id, _)| format!("{kind} {id}"))
        };
        ["server", "key pair", "security group", "floating IP", "image"].into_iter().flat_map(new).collect()
    }
}

fn json_answer(status: u16, value: &Value) -> Response {
    Response::new(status, "application/json", value.to_string())
}

fn empty(status: u16) -> Response {
    Response { status, ..Response::default() }
}

fn described_image(id: &str, mut body: Value) -> Value {
    let usual = json!({
        "id": id, "name": null, "status": "active", "visibility": "shared", "protected": false, "tags": [],
        "owner": PROJECT, "created_at": now(), "updated_at": now(), "container_format": "bare",
        "disk_format": "qcow2", "size": 1, "virtual_size": null, "min_disk": 0, "min_ram": 0, "checksum": null,
        "os_hash_algo": null, "os_hash_value": null, "os_hidden": false, "self": format!("/v2/images/{id}"),
        "file": format!("/v2/images/{id}/file"), "schema": "/v2/schemas/image",
    });
    for (key, value) in usual.as_object().unwrap() {
        if body[key].is_null() {
            body[key] = value.clone();
        }
    }
    body
}

fn described_floating(id: &str, mut body: Value) -> Value {
    let usual = json!({
        "id": id, "floating_network_id": OUTER, "floating_ip_address": "192.0.2.9", "fixed_ip_address": null,
        "port_id": null, "description": "", "created_at": now(), "status": "DOWN", "project_id": PROJECT,
        "tenant_id": PROJECT, "router_id": null, "updated_at": now(), "revision_number": 0, "tags": [],
    });
    for (key, value) in usual.as_object().unwrap() {
        if body[key].is_null() {
            body[key] = value.clone();
        }
    }
    body
}

/// The port of a server.
fn port(server: &str) -> String {
    format!("{}-port", &server[..server.len().min(31)])
}

impl State {
    fn catalogue(&self, root: &str) -> Vec<(&'static str, &'static str, String)> {
        vec![
            ("identity", "keystone", format!("{root}/identity")),
            ("compute", "nova", format!("{root}/compute/v2.1")),
            ("network", "neutron", format!("{root}/network")),
            ("image", "glance", format!("{root}/image")),
        ]
    }

    fn token(&mut self, request: &Request, root: &str) -> Response {
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let auth = &body["auth"];
        let refused =
            || error(request, 401, "Unauthorized", "The request you have made requires authentication.");
        let user = &auth["identity"]["password"]["user"];
        let application = &auth["identity"]["application_credential"];
        let good = if request.path().contains("v2.0") {
            auth["passwordCredentials"]["password"] == PASSWORD
        } else {
            match auth["identity"]["methods"][0].as_str() {
                Some("password") => {
                    let domain = &user["domain"];
                    let known =
                        user["id"] == USER || domain["id"] == "default" || domain["name"] == "Default";
                    user["password"] == PASSWORD && known
                }
                Some("application_credential") => application["secret"] == PASSWORD,
                Some("token") => auth["identity"]["token"]["id"] == PASSWORD,
                _ => false,
            }
        };
        if !good {
            return refused();
        }
        self.tokens += 1;
        let token = format!("token-SECRET-{}", self.tokens);
        let ends = (chrono::Utc::now() + chrono::TimeDelta::hours(1)).format("%Y-%m-%dT%H:%M:%S.000000Z");
        if request.path().contains("v2.0") {
            let services: Vec<Value> = self
                .catalogue(root)
                .into_iter()
                .map(|(kind, name, url)| {
                    let endpoint =
                        json!({"region": REGION, "publicURL": url, "internalURL": url, "adminURL": url});
                    json!({"type": kind, "name": name, "endpoints": [endpoint]})
                })
                .collect();
            let body = json!({"access": {
                "token": {"id": token, "expires": now(), "tenant": {"id": PROJECT, "name": "demo"}},
                "user": {"name": "robot", "id": USER}, "serviceCatalog": services,
            }});
            // Version 2 has no time of issue in old clouds: this token is over at once, and got anew each time.
            let mut body = body;
            body["access"]["token"]["expires"] = ends.to_string().into();
            return json_answer(200, &body);
        }
        let services: Vec<Value> = self
            .catalogue(root)
            .into_iter()
            .map(|(kind, name, url)| {
                let endpoints: Vec<Value> = ["public", "internal", "admin"]
                    .into_iter()
                    .map(|interface| {
                        json!({
                            "id": id().replace('-', ""), "interface": interface, "region": REGION,
                            "region_id": REGION, "url": url,
                        })
                    })
                    .collect();
                json!({"id": id().replace('-', ""), "type": kind, "name": name, "endpoints": endpoints})
            })
            .collect();
        let mut answer = json_answer(
            201,
            &json!({"token": {
                "methods": ["password"], "expires_at": ends.to_string(),
                "issued_at": chrono::Utc::now().format("%Y-%m-%dT%H:%M:%S.000000Z").to_string(),
                "user": {"id": USER, "name": "robot", "domain": {"id": "default", "name": "Default"}, "password_expires_at": null},
                "project": {"id": PROJECT, "name": "demo", "domain": {"id": "default", "name": "Default"}},
                "is_domain": false, "roles": [], "audit_ids": ["a"], "catalog": services,
            }}),
        );
        answer.headers.push(("X-Subject-Token".into(), token));
        answer
    }

    fn describe(&self, server: &str, root: &str) -> Value {
        let Server { body, status, address, .. } = &self.servers[server];
        let mut value = body.clone();
        value["id"] = server.into();
        value["status"] = (*status).into();
        if value["created"].is_null() {
            value["created"] = now().into();
        }
        for (key, usual) in [
            ("metadata", json!({})),
            ("locked", json!(false)),
            ("tenant_id", json!(PROJECT)),
            ("user_id", json!(USER)),
            ("key_name", Value::Null),
            ("name", json!("")),
        ] {
            if value[key].is_null() {
                value[key] = usual;
            }
        }
        value["updated"] = value["created"].clone();
        value["links"] = json!([{"rel": "self", "href": format!("{root}/compute/v2.1/servers/{server}")}]);
        if value["image"].is_null() {
            value["image"] = match body["imageRef"].as_str() {
                Some(image) => json!({"id": image, "links": []}),
                None => json!(""),
            };
        }
        value["OS-EXT-STS:task_state"] = if *status == "BUILD" { json!("spawning") } else { Value::Null };
        value["accessIPv6"] = "".into();
        value["accessIPv4"] = match address {
            Some(address) if self.direct => address.clone().into(),
            _ => "".into(),
        };
        for asked in ["imageRef", "flavorRef", "networks", "user_data", "block_device_mapping_v2"] {
            value.as_object_mut().unwrap().remove(asked);
        }
        value["addresses"] = match address {
            Some(_) => json!({"private": [{
                "version": 4, "addr": "10.0.0.5", "OS-EXT-IPS:type": "fixed", "OS-EXT-IPS-MAC:mac_addr": "fa:16:3e:00:00:01",
            }]}),
            None => json!({}),
        };
        if *status == "ERROR" {
            let message = self.fault.as_deref().unwrap_or("no machines");
            value["fault"] = json!({"code": 500, "created": now(), "message": message});
        }
        value
    }
}

impl Face {
    /// Ends all guests, and those under way.
    fn end(&self) {
        lock(&self.state).servers.clear();
        self.aside.finish();
    }

    fn answer(self: &Arc<Self>, request: &Request) -> Response {
        let action = action(request);
        let mut state = lock(&self.state);
        let root = format!("http://{}", request.header("host").unwrap_or_default());
        match action.as_str() {
            "identity.versions" => {
                let version = |id: &str, status: &str, path: &str| {
                    json!({
                        "id": id, "status": status, "updated": "2026-01-01T00:00:00Z", "media-types": [],
                        "links": [{"rel": "self", "href": format!("{root}/identity/{path}/")}],
                    })
                };
                let third = version("v3.14", "stable", "v3");
                let second = version("v2.0", "stable", "v2.0");
                let all = if state.old { vec![second] } else { vec![third] };
                return json_answer(300, &json!({"versions": {"values": all}}));
            }
            "tokens.create" => return state.token(request, &root),
            _ => {}
        }
        if request.header("x-auth-token") != Some(&format!("token-SECRET-{}", state.tokens)) {
            return error(request, 401, "Unauthorized", "The request you have made requires authentication.");
        }
        let path: Vec<&str> = request.path().trim_matches('/').split('/').skip(2).collect();
        let query: BTreeMap<String, String> = request.query().into_iter().collect();
        let body = || serde_json::from_slice::<Value>(&request.body).unwrap_or_default();
        let missing =
            |what: &str| error(request, 404, "itemNotFound", &format!("{what} could not be found."));
        let conflict = |code: &str, text: &str| error(request, 409, code, text);
        let page = state.page;
        let list = |key: &str, id: &str, all: Vec<Value>| {
            listed(request, &root, &query, page, (key, id), &all, Value::clone)
        };
        match (action.as_str(), &path[..]) {
            ("compute.versions", _) => json_answer(
                200,
                &json!({"version": {
                    "id": "v2.1", "status": "CURRENT", "version": "2.93", "min_version": "2.1",
                    "updated": "2013-07-23T11:33:21Z", "media-types": [],
                    "links": [{"rel": "self", "href": format!("{root}/compute/v2.1/")}],
                }}),
            ),
            ("network.versions" | "image.versions", _) => {
                let (id, below) = if action.starts_with("network") {
                    ("v2.0", "network/v2.0")
                } else {
                    ("v2.15", "image/v2")
                };
                let link = json!({"rel": "self", "href": format!("{root}/{below}/")});
                json_answer(200, &json!({"versions": [{"id": id, "status": "CURRENT", "links": [link]}]}))
            }
            ("flavors.list", _) => {
                let flavor = |id: &str, name: &str| json!({"id": id, "name": name, "ram": 512, "vcpus": 1, "disk": 1, "links": []});
                list("flavors", "id", vec![flavor("1", "m1.tiny"), flavor("2", "m1.small")])
            }
            ("networks.list", _) => {
                let network = |id: &str, name: &str, external: bool| json!({"id": id, "name": name, "router:external": external, "status": "ACTIVE", "tenant_id": PROJECT});
                let all = vec![network(OUTER, "public", true), network(INNER_NETWORK, "private", false)];
                list("networks", "id", filtered(all, &query, &["id", "name"]))
            }
            ("os-keypairs.create", _) => {
                let mut pair = body()["keypair"].clone();
                let name = pair["name"].as_str().unwrap_or_default().to_owned();
                if state.pairs.contains_key(&name) {
                    return conflict("conflictingRequest", &format!("Key pair '{name}' already exists."));
                }
                pair["fingerprint"] = "00:11".into();
                pair["type"] = "ssh".into();
                pair["user_id"] = USER.into();
                let mut kept = pair.clone();
                kept["created_at"] = now().trim_end_matches('Z').into();
                state.pairs.insert(name, kept);
                json_answer(201, &json!({"keypair": pair}))
            }
            ("os-keypairs.list", _) => {
                let all = state.pairs.values().map(|pair| {
                    let mut pair = pair.clone();
                    pair.as_object_mut().unwrap().remove("created_at");
                    json!({"keypair": pair})
                });
                list("keypairs", "keypair", all.collect())
            }
            ("os-keypairs.show", [_, name]) => match state.pairs.get(*name) {
                Some(pair) => json_answer(200, &json!({"keypair": pair})),
                None => missing(name),
            },
            ("os-keypairs.delete", [_, name]) => match state.pairs.remove(*name) {
                Some(_) => empty(204),
                None => missing(name),
            },
            ("security-groups.list", _) => {
                let all = state.groups.values().cloned().collect();
                list("security_groups", "id", filtered(all, &query, &["name"]))
            }
            ("security-groups.create", _) => {
                let mut group = body()["security_group"].clone();
                let id = id();
                group["id"] = id.clone().into();
                group["created_at"] = now().into();
                group["tenant_id"] = PROJECT.into();
                state.groups.insert(id, group.clone());
                group["security_group_rules"] = json!([]);
                json_answer(201, &json!({"security_group": group}))
            }
            ("security-groups.update", [_, id]) => {
                let Some(group) = state.groups.get_mut(*id) else { return missing(id) };
                group["description"] = body()["security_group"]["description"].clone();
                json_answer(200, &json!({"security_group": group}))
            }
            ("security-groups.delete", [_, id]) => match state.groups.remove(*id) {
                Some(_) => {
                    state.rules.remove(*id);
                    empty(204)
                }
                None => missing(id),
            },
            ("security-group-rules.create", _) => {
                let rule = body()["security_group_rule"].clone();
                let group = rule["security_group_id"].as_str().unwrap_or_default().to_owned();
                if !state.groups.contains_key(&group) {
                    return missing(&group);
                }
                let rules = state.rules.entry(group).or_default();
                if rules.contains(&rule) {
                    return conflict("SecurityGroupRuleExists", "Security group rule already exists.");
                }
                rules.push(rule.clone());
                let mut made = rule;
                made["id"] = id().into();
                json_answer(201, &json!({"security_group_rule": made}))
            }
            ("ports.list", _) => {
                let ports = state.servers.keys().map(|s| {
                    json!({"id": port(s), "device_id": s, "network_id": INNER_NETWORK, "status": "ACTIVE", "fixed_ips": []})
                });
                list("ports", "id", filtered(ports.collect(), &query, &["device_id"]))
            }
            ("floatingips.list", _) => {
                let all = state.floating.values().cloned().collect();
                list("floatingips", "id", filtered(all, &query, &["description", "port_id"]))
            }
            ("floatingips.create", _) => {
                let order = body()["floatingip"].clone();
                if order["floating_network_id"] != OUTER {
                    return missing("network");
                }
                let behind = state.servers.iter().find(|(s, _)| order["port_id"] == port(s));
                let Some(address) = behind.and_then(|(_, s)| s.address.clone()) else {
                    return missing("port");
                };
                let id = id();
                let mut made = described_floating(&id, order);
                made["floating_ip_address"] = address.into();
                made["fixed_ip_address"] = "10.0.0.5".into();
                state.floating.insert(id, made.clone());
                json_answer(201, &json!({"floatingip": made}))
            }
            ("floatingips.delete", [_, id]) => match state.floating.remove(*id) {
                Some(_) => empty(204),
                None => missing(id),
            },
            ("servers.create", _) => {
                let order = body()["server"].clone();
                let data = order["user_data"].as_str().unwrap_or_default();
                let userdata = openssl::base64::decode_block(data).unwrap();
                let id = id();
                let server = Server { body: order, status: "BUILD", address: None, guest: None };
                state.servers.insert(id.clone(), server);
                let (here, key) = (self.clone(), id.clone());
                self.aside.begin(move || here.boot(&key, &userdata));
                let links = json!([{"rel": "self", "href": format!("{root}/compute/v2.1/servers/{id}")}]);
                json_answer(
                    202,
                    &json!({"server": {
                        "id": id, "links": links, "OS-DCF:diskConfig": "MANUAL", "security_groups": [], "adminPass": "pw",
                    }}),
                )
            }
            ("servers.show", [_, id]) => match state.servers.contains_key(*id) {
                true => json_answer(200, &json!({"server": state.describe(id, &root)})),
                false => error(request, 404, "itemNotFound", &format!("Instance {id} could not be found.")),
            },
            ("servers.list", _) => {
                // A regular expression, says Nova; the product sends plain digits.
                let name = query.get("name").cloned().unwrap_or_default();
                let fits = |s: &Server| s.body["name"].as_str().unwrap_or_default().contains(&name);
                let ids = state.servers.iter().filter(|(_, s)| fits(s)).map(|(id, _)| json!({"id": id}));
                // Described are those of the page only: there may be very many.
                let describe = |shown: &Value| state.describe(shown["id"].as_str().unwrap(), &root);
                listed(request, &root, &query, page, ("servers", "id"), &ids.collect::<Vec<_>>(), describe)
            }
            ("servers.delete", [_, id]) => {
                let Some(server) = state.servers.remove(*id) else {
                    return error(
                        request,
                        404,
                        "itemNotFound",
                        &format!("Instance {id} could not be found."),
                    );
                };
                let port = port(id);
                for floating in state.floating.values_mut().filter(|f| f["port_id"] == port) {
                    floating["port_id"] = Value::Null;
                }
                if let Some(guest) = server.guest {
                    self.aside.begin(move || guest.stop());
                }
                empty(204)
            }
            ("servers.console", [_, id, _]) => {
                let Some(server) = state.servers.get(*id) else { return missing(id) };
                if !body()["os-getConsoleOutput"].is_object() {
                    return error(request, 400, "badRequest", "There is no such action");
                }
                let guest = server.guest.clone();
                drop(state);
                let Some(guest) = guest else {
                    return conflict("conflictingRequest", &format!("Instance {id} is not ready"));
                };
                json_answer(200, &json!({"output": String::from_utf8_lossy(&guest.console())}))
            }
            ("images.list", _) => {
                let mut all: Vec<Value> = state.images.values().cloned().collect();
                if let Some(tag) = query.get("tag") {
                    all.retain(|i| i["tags"].as_array().unwrap().iter().any(|t| t == tag));
                }
                list("images", "id", filtered(all, &query, &["name"]))
            }
            ("images.show", [_, id]) => match state.images.get(*id) {
                Some(image) => json_answer(200, image),
                None => error(request, 404, "Not Found", &format!("No image found with ID {id}")),
            },
            ("images.create", _) => {
                let order = body();
                let id = order["id"].as_str().map_or_else(id, str::to_owned);
                if state.images.contains_key(&id) {
                    return conflict("Conflict", &format!("Image ID {id} already exists!"));
                }
                let mut image = described_image(&id, order);
                image["status"] = "queued".into();
                image["size"] = Value::Null;
                state.images.insert(id, image.clone());
                json_answer(201, &image)
            }
            ("images.upload", [_, id, _]) => {
                let forges = state.forges;
                let Some(image) = state.images.get_mut(*id) else { return missing(id) };
                if image["status"] != "queued" {
                    return conflict(
                        "Conflict",
                        "Image status transition from active to saving is not allowed",
                    );
                }
                let digest = |kind| mantle::text::hex(&hash(kind, &request.body).unwrap());
                image["status"] = "active".into();
                image["size"] = request.body.len().into();
                image["checksum"] = digest(MessageDigest::md5()).into();
                image["os_hash_algo"] = "sha512".into();
                image["os_hash_value"] =
                    if forges { "0".repeat(128) } else { digest(MessageDigest::sha512()) }.into();
                state.contents.insert((*id).into(), request.body.clone());
                empty(204)
            }
            ("images.download", [_, id, _]) => match state.contents.get(*id) {
                Some(content) => Response::new(200, "application/octet-stream", content.clone()),
                None => empty(204),
            },
            ("images.update", [_, id]) => {
                let Some(image) = state.images.get_mut(*id) else { return missing(id) };
                for change in body().as_array().cloned().unwrap_or_default() {
                    let key = change["path"].as_str().unwrap_or_default().trim_matches('/').to_owned();
                    image[key] = change["value"].clone();
                }
                json_answer(200, image)
            }
            ("images.delete", [_, id]) => match state.images.get(*id).map(|i| i["protected"] == true) {
                Some(true) => error(
                    request,
                    403,
                    "Forbidden",
                    &format!("Image {id} is protected and cannot be deleted."),
                ),
                Some(false) => {
                    state.images.remove(*id);
                    state.contents.remove(*id);
                    empty(204)
                }
                None => error(request, 404, "Not Found", &format!("Failed to find image {id} to delete")),
            },
            _ => missing(request.path()),
        }
    }

    fn boot(&self, id: &str, userdata: &[u8]) {
        let Some(machines) = lock(&self.machines).clone() else { return };
        let faulty = lock(&self.state).fault.is_some();
        let guest = if faulty { Err(String::new()) } else { machines.start(userdata) };
        let mut state = lock(&self.state);
        // Deleted, or forgotten, meanwhile: the guest goes with its last owner.
        let Some(server) = state.servers.get_mut(id) else { return };
        match guest {
            Ok(guest) => {
                server.address = Some(guest.address());
                server.guest = Some(guest);
                server.status = "ACTIVE";
            }
            Err(_) => server.status = "ERROR",
        }
    }
}

/// The things whose fields are as the query says.
fn filtered(all: Vec<Value>, query: &BTreeMap<String, String>, fields: &[&str]) -> Vec<Value> {
    let fits = |thing: &Value| fields.iter().all(|f| query.get(*f).is_none_or(|wanted| thing[*f] == *wanted));
    all.into_iter().filter(fits).collect()
}

/// A page of a list, in the form of the service.
fn listed(
    request: &Request,
    root: &str,
    query: &BTreeMap<String, String>,
    page: usize,
    (key, id): (&str, &str),
    all: &[Value],
    describe: impl Fn(&Value) -> Value,
) -> Response {
    let name = |thing: &Value| match id {
        "keypair" => thing["keypair"]["name"].as_str().unwrap_or_default().to_owned(),
        _ => thing[id].as_str().unwrap_or_default().to_owned(),
    };
    let asked = query.get("limit").and_then(|l| l.parse().ok()).unwrap_or(page);
    let length = page.min(asked);
    let start = match query.get("marker") {
        Some(marker) => all.iter().position(|t| name(t) == *marker).map_or(all.len(), |at| at + 1),
        None => 0,
    };
    let end = (start + length).min(all.len());
    let shown: Vec<Value> = all[start..end].iter().map(describe).collect();
    let mut body = json!({key: shown});
    if request.path().starts_with("/image") {
        body["first"] = "/v2/images".into();
        body["schema"] = "/v2/schemas/images".into();
    }
    if end < all.len() {
        let mut next = form_urlencoded::Serializer::new(String::new());
        next.extend_pairs(query.iter().filter(|(k, _)| *k != "marker"));
        next.append_pair("marker", &name(&all[end - 1]));
        let next = next.finish();
        if request.path().starts_with("/image") {
            body["next"] = format!("/v2/images?{next}").into();
        } else {
            // As behind a proxy: under a name that leads nowhere.
            let href = format!("{}{}?{next}", root.replace("127.0.0.1", "inner.invalid"), request.path());
            body[format!("{key}_links")] = json!([{"rel": "next", "href": href}]);
        }
    }
    json_answer(200, &body)
}
