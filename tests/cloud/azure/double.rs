//! A local Resource Manager: machines that really run, and the records of all else. Resources are kept by their paths;
//! what makes and removes them takes its time in the three ways that Azure has for that.
//!
//! Microsoft's own clients must be content with it, and with what it is asked: see [`super::judged`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};

use super::{action, error, id_type};
use crate::cloud::matrix::{Census, Double, No};
use crate::support::Env;
use crate::support::emulators::AZURITE;
use crate::support::guard::Limit;
use crate::support::http::{Request, Response};
use crate::support::machines::{Aside, Guest, Machines, Unmanned, lock};
use crate::support::proxy::Proxy;

pub const SUBSCRIPTION: &str = "11111111-2222-4333-8444-555555555555";
pub const TENANT: &str = "tenant-1";
pub const CLIENT: &str = "client-1";
pub const SECRET: &str = "hush~client/secret+1";
/// What permissions to use a blob end with.
pub const SIGNATURE: &str = "hush-signature";
pub const LOCATION: &str = "westus";

/// The cloud; guests end with it.
pub struct Azure {
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
    /// By ID, in small letters: Azure's IDs are the same in all.
    resources: BTreeMap<String, Resource>,
    operations: BTreeMap<String, Operation>,
    /// How many tokens were given out; only the newest is good.
    tokens: usize,
    made: usize,
    /// Items of a page.
    page: usize,
    /// What becomes of operations of this kind.
    fates: BTreeMap<String, Fate>,
    /// Blobs by account, container and name.
    blobs: BTreeMap<String, Vec<u8>>,
}

/// What becomes of operations.
#[derive(Clone)]
pub enum Fate {
    /// They end in this error.
    Fails(&'static str, &'static str),
    /// They never end.
    Pends,
}

struct Resource {
    id: String,
    body: Value,
    /// `Creating`, `Succeeded`, `Failed` or `Deleting`.
    state: &'static str,
    /// How often it will say yet that it is not done.
    pending: usize,
    address: Option<String>,
    guest: Option<Arc<dyn Guest>>,
}

struct Operation {
    /// What it is about.
    id: String,
    removes: bool,
    fate: Option<Fate>,
    asked: usize,
}

/// The ID of something in a resource group of the subscription.
pub fn id(group: &str, below: &str) -> String {
    let slash = if below.is_empty() { "" } else { "/providers/" };
    format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}{slash}{below}")
}

impl Azure {
    pub fn start(machines: Arc<dyn Machines>) -> Self {
        let limit = machines.limit();
        let face = Arc::new(Face { machines: Mutex::new(Some(machines)), ..Face::default() });
        lock(&face.state).page = 500;
        let own = face.clone();
        Self { proxy: Proxy::before(move |request| Some(own.answer(request))), limit, face }
    }

    /// Without machines: for commands that start none.
    pub fn of_records() -> Self {
        Self::start(Arc::new(Unmanned))
    }

    /// Lists are shown so many items at a time.
    pub fn pages_of(&self, items: usize) {
        lock(&self.face.state).page = items;
    }

    /// What becomes of all operations of this action from now on; none: they end well.
    pub fn fate(&self, action: &str, fate: Option<Fate>) {
        let fates = &mut lock(&self.face.state).fates;
        match fate {
            Some(fate) => drop(fates.insert(action.into(), fate)),
            None => drop(fates.remove(action)),
        }
    }

    /// A token that is good.
    pub fn token(&self) -> String {
        lock(&self.face.state).token()
    }

    /// Something that is there.
    pub fn put(&self, id: &str, body: Value) {
        let state = if body["state"] == "Deleting" { "Deleting" } else { "Succeeded" };
        let resource = Resource { id: id.into(), body, state, pending: 0, address: None, guest: None };
        lock(&self.face.state).resources.insert(id.to_lowercase(), resource);
    }

    /// A blob that is there.
    pub fn put_blob(&self, path: &str, content: &[u8]) {
        lock(&self.face.state).blobs.insert(path.into(), content.into());
    }

    /// The paths of blobs.
    pub fn blobs(&self) -> Vec<String> {
        lock(&self.face.state).blobs.keys().cloned().collect()
    }

    /// The IDs of resources of a type, such as `virtualMachines`.
    pub fn ids(&self, kind: &str) -> Vec<String> {
        let state = lock(&self.face.state);
        state.resources.values().map(|r| r.id.clone()).filter(|id| id_type(id) == kind).collect()
    }

    /// What something was made with.
    pub fn order(&self, id: &str) -> Value {
        lock(&self.face.state).resources[&id.to_lowercase()].body.clone()
    }

    /// The file of an application that may do everything.
    pub fn auth_file(&self) -> String {
        let url = self.proxy.url();
        json!({
            "clientId": CLIENT, "clientSecret": SECRET, "subscriptionId": SUBSCRIPTION, "tenantId": TENANT,
            "activeDirectoryEndpointUrl": url, "resourceManagerEndpointUrl": format!("{url}/"),
            "storageEndpointSuffix": url, "galleryEndpointUrl": "https://gallery.azure.com/",
        })
        .to_string()
    }
}

impl Drop for Azure {
    fn drop(&mut self) {
        lock(&self.face.machines).take();
        self.face.end();
    }
}

impl Double for Azure {
    const NEEDED: &'static [&'static str] = &[
        "token",
        "images.get",
        "resourceGroups.put",
        "networkSecurityGroups.put",
        "virtualNetworks.put",
        "publicIPAddresses.put",
        "networkInterfaces.put",
        "virtualMachines.put",
        "operation",
        "virtualMachines.get",
        "virtualMachines.retrieveBootDiagnosticsData",
        "blob.get",
        "virtualMachines.delete",
        "resourceGroups.delete",
    ];
    const PREPARES: &'static [&'static str] = &[];
    const POLLED: &'static [&'static str] = &[
        "operation",
        "virtualMachines.get",
        "networkInterfaces.get",
        "publicIPAddresses.get",
        "virtualMachines.retrieveBootDiagnosticsData",
        "blob.get",
    ];
    const COLLECT: &'static [&'static str] = &["ore", "azure", "gc", "--ledger=out", "--duration=0s"];

    fn env(&self) -> Env {
        let mut env = Env::new();
        env.write(".azure/credentials.json", &self.auth_file());
        env.set("MANTLE_POLL_SCALE", "0.001").guarded(self.limit);
        env
    }

    fn options(&self, image: &str) -> Vec<String> {
        ["-p", "azure", "-b", "debian", "--azure-disk-uri", image].map(str::to_owned).into()
    }

    fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    fn image(&self) -> String {
        self.put(&id("images", ""), json!({"location": LOCATION}));
        let image = id("images", "Microsoft.Compute/images/mantle-guest");
        self.put(&image, json!({"location": LOCATION, "properties": {}}));
        image
    }

    fn census(&self) -> Census {
        let state = lock(&self.face.state);
        let all = state.resources.values().map(|r| (r.id.clone(), r.state.to_owned())).collect();
        Census::from([("resource".into(), all)])
    }

    fn running(&self) -> Vec<String> {
        let state = lock(&self.face.state);
        state.resources.values().filter(|r| r.guest.is_some()).map(|r| r.id.clone()).collect()
    }

    fn reset(&self) {
        self.face.end();
        *lock(&self.face.state) = State { page: 500, ..State::default() };
        self.proxy.calm();
        self.proxy.take_journal();
    }

    fn action(request: &Request) -> String {
        action(request)
    }

    fn is_creation(action: &str) -> bool {
        action.ends_with(".put")
    }

    fn no(request: &Request, how: No) -> Response {
        match how {
            No::Forbidden => error(403, "AuthorizationFailed", "The client does not have authorization"),
            No::Throttled if action(request) == "virtualMachines.put" => {
                error(409, "AnotherOperationInProgress", "Another operation is in progress")
            }
            No::Throttled => {
                let mut no = error(429, "TooManyRequests", "Slow down");
                no.headers.push(("Retry-After".into(), "7".into()));
                no
            }
            No::Broken => error(503, "InternalServerError", "Encountered internal server error"),
        }
    }

    fn left(before: &Census, after: &Census) -> Vec<String> {
        after["resource"].keys().filter(|id| !before["resource"].contains_key(*id)).cloned().collect()
    }
}

fn json_answer(status: u16, value: &Value) -> Response {
    Response::new(status, "application/json; charset=utf-8", value.to_string())
}

fn with(mut answer: Response, headers: &[(&str, String)]) -> Response {
    answer.headers.extend(headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    answer
}

/// Where a resource is that this one cannot be without.
fn parents(id: &str, body: &Value) -> Vec<String> {
    let mut all: Vec<Value> = Vec::new();
    let properties = &body["properties"];
    match id_type(id) {
        "virtualMachines" => {
            let interfaces = properties["networkProfile"]["networkInterfaces"].as_array().cloned();
            all.extend(interfaces.unwrap_or_default().iter().map(|i| i["id"].clone()));
            all.push(properties["storageProfile"]["imageReference"]["id"].clone());
        }
        "networkInterfaces" => {
            let ip = &properties["ipConfigurations"][0]["properties"];
            all.push(ip["publicIPAddress"]["id"].clone());
            let network =
                ip["subnet"]["id"].as_str().and_then(|s| s.split("/subnets/").next().map(str::to_owned));
            all.push(network.map_or(Value::Null, Value::from));
        }
        "virtualNetworks" => {
            all.push(properties["subnets"][0]["properties"]["networkSecurityGroup"]["id"].clone());
        }
        "versions" => all.push(properties["storageProfile"]["source"]["id"].clone()),
        _ => {}
    }
    all.iter()
        .filter_map(Value::as_str)
        .filter(|id| id.starts_with("/subscriptions/"))
        .map(str::to_lowercase)
        .collect()
}

impl State {
    fn token(&mut self) -> String {
        self.tokens += 1;
        format!("hush-token-{}", self.tokens)
    }

    /// The address of a new operation.
    fn operation(&mut self, root: &str, id: &str, action: &str, removes: bool) -> String {
        self.made += 1;
        let name = format!("operation-{}", self.made);
        let fate = self.fates.get(action).cloned();
        self.operations.insert(name.clone(), Operation { id: id.to_lowercase(), removes, fate, asked: 0 });
        format!(
            "{root}/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/locations/{LOCATION}/operations/{name}?api-version=2024-07-01"
        )
    }

    /// How an operation is: its status, and the error that it has ended in.
    fn status(&mut self, name: &str) -> Option<(&'static str, Value)> {
        let operation = self.operations.get_mut(name)?;
        operation.asked += 1;
        let (asked, removes, id) = (operation.asked, operation.removes, operation.id.clone());
        match operation.fate.clone() {
            Some(Fate::Pends) => return Some(("InProgress", Value::Null)),
            Some(Fate::Fails(code, message)) => {
                if let Some(resource) = self.resources.get_mut(&id).filter(|_| !removes) {
                    resource.state = "Failed";
                }
                return Some(("Failed", json!({"code": code, "message": message})));
            }
            None => {}
        }
        let resource = self.resources.get_mut(&id);
        if removes {
            return Some((if resource.is_some() { "InProgress" } else { "Succeeded" }, Value::Null));
        }
        let Some(resource) = resource else {
            return Some(("Failed", json!({"code": "OperationPreempted", "message": "it was deleted"})));
        };
        // Machines are done when they run; all else at the first question.
        if id_type(&id) != "virtualmachines" && asked > 0 {
            resource.state = "Succeeded";
        }
        match resource.state {
            "Failed" => {
                Some(("Failed", json!({"code": "InternalExecutionError", "message": "it did not start"})))
            }
            "Succeeded" => Some(("Succeeded", Value::Null)),
            _ => Some(("InProgress", Value::Null)),
        }
    }

    /// A resource as it is shown.
    fn show(&mut self, id: &str) -> Option<Value> {
        let key = id.to_lowercase();
        let address = match id_type(&key) {
            "publicipaddresses" => self.user_of("networkInterfaces", &key).and_then(|i| self.address_of(&i)),
            // Without a public address this one is all that the machine has.
            "networkinterfaces" => {
                let ip = self
                    .resources
                    .get(&key)
                    .map(|r| &r.body["properties"]["ipConfigurations"][0]["properties"]);
                let public = ip.is_some_and(|ip| ip["publicIPAddress"].is_object());
                Some(self.address_of(&key).filter(|_| !public).unwrap_or_else(|| "10.0.0.4".into()))
            }
            _ => None,
        };
        let resource = self.resources.get_mut(&key)?;
        // What has no operation of its own is done after it was looked at.
        if resource.pending > 0 {
            resource.pending -= 1;
            if resource.pending == 0 {
                resource.state = "Succeeded";
            }
        }
        let mut value = resource.body.clone();
        let name = resource.id.rsplit('/').next().unwrap_or_default();
        value["id"] = resource.id.clone().into();
        value["name"] = name.into();
        value["type"] = kind(&resource.id).into();
        value["properties"]["provisioningState"] = resource.state.into();
        match id_type(&key) {
            "publicipaddresses" => {
                if let Some(address) = address {
                    value["properties"]["ipAddress"] = address.into();
                }
            }
            "networkinterfaces" => {
                let ip = &mut value["properties"]["ipConfigurations"][0]["properties"];
                ip["privateIPAddress"] = address.into();
            }
            // It keeps this to itself.
            "virtualmachines" => {
                drop(value["properties"]["osProfile"].as_object_mut().map(|o| o.remove("customData")))
            }
            _ => {}
        }
        Some(value)
    }

    /// What cannot be without this one.
    fn user_of(&self, kind: &str, key: &str) -> Option<String> {
        let mut all = self.resources.values().filter(|r| id_type(&r.id) == kind);
        let user = all.find(|r| parents(&r.id, &r.body).iter().any(|p| p == key))?;
        Some(user.id.to_lowercase())
    }

    /// The address of the guest with this interface.
    fn address_of(&self, interface: &str) -> Option<String> {
        self.resources[&self.user_of("virtualMachines", interface)?].address.clone()
    }

    /// Removes something with all that is below it; the guests that were.
    fn remove(&mut self, key: &str) -> Vec<Arc<dyn Guest>> {
        let below = format!("{key}/");
        let gone: Vec<String> =
            self.resources.keys().filter(|k| *k == key || k.starts_with(&below)).cloned().collect();
        gone.iter().filter_map(|k| self.resources.remove(k)?.guest).collect()
    }
}

/// The full type of a resource.
fn kind(id: &str) -> String {
    match id.split_once("/providers/") {
        Some((_, below)) => {
            let mut parts = below.split('/');
            let mut kind = parts.next().unwrap_or_default().to_owned();
            for part in parts.step_by(2) {
                kind += &format!("/{part}");
            }
            kind
        }
        None => "Microsoft.Resources/resourceGroups".into(),
    }
}

impl Face {
    /// Ends all guests, and those under way.
    fn end(&self) {
        lock(&self.state).resources.clear();
        self.aside.finish();
    }

    fn answer(self: &Arc<Self>, request: &Request) -> Response {
        let action = action(request);
        let path = request.path().trim_end_matches('/');
        let query: BTreeMap<String, String> = request.query().into_iter().collect();
        let root = format!("http://{}", request.header("host").unwrap_or_default());
        let mut state = lock(&self.state);
        match action.as_str() {
            "token" => return token(&mut state, request),
            "blob.get" | "blob.delete" => {
                if query.get("sig").map(String::as_str) != Some(SIGNATURE) {
                    return Response::new(
                        403,
                        "application/xml",
                        "<Error><Code>AuthenticationFailed</Code></Error>",
                    );
                }
                let key = path.trim_start_matches('/').to_owned();
                if let Some(machine) = key.strip_prefix("console/") {
                    let guest = state.resources.get(&format!("/{machine}")).and_then(|r| r.guest.clone());
                    drop(state);
                    return match guest {
                        Some(guest) => Response::new(200, "application/octet-stream", guest.console()),
                        None => {
                            Response::new(404, "application/xml", "<Error><Code>BlobNotFound</Code></Error>")
                        }
                    };
                }
                let found = match action.as_str() {
                    "blob.get" => state.blobs.get(&key).cloned(),
                    _ => state.blobs.remove(&key),
                };
                return match (found, action.as_str()) {
                    (Some(content), "blob.get") => Response::new(200, "application/octet-stream", content),
                    (Some(_), _) => Response::new(202, "application/xml", ""),
                    (None, _) => {
                        Response::new(404, "application/xml", "<Error><Code>BlobNotFound</Code></Error>")
                    }
                };
            }
            _ => {}
        }
        if request.header("authorization") != Some(&format!("Bearer hush-token-{}", state.tokens)) {
            return error(401, "ExpiredAuthenticationToken", "The access token expiry UTC time is earlier");
        }
        if !query.contains_key("api-version") {
            return error(400, "MissingApiVersionParameter", "The api-version query parameter is required");
        }
        if !path.to_lowercase().starts_with(&format!("/subscriptions/{SUBSCRIPTION}")) {
            return error(404, "SubscriptionNotFound", "The subscription could not be found");
        }
        if action == "operation" {
            let name = path.rsplit('/').next().unwrap_or_default();
            // Deletions of groups have no record: where the outcome will be, 202 says that it is not there yet.
            let outcome = path.contains("/operationresults/");
            return match state.status(name) {
                None => error(404, "NotFound", "The operation was not found"),
                Some(("InProgress", _)) if outcome => with(
                    Response::new(202, "text/plain", ""),
                    &[("Location", format!("{root}{}", request.target)), ("Retry-After", "3".into())],
                ),
                Some(("Failed", no)) if outcome => error(
                    409,
                    no["code"].as_str().unwrap_or_default(),
                    no["message"].as_str().unwrap_or_default(),
                ),
                // Of what was made, the outcome is the thing itself.
                Some((status, _)) if outcome && status == "Succeeded" => {
                    let id = state.operations[name].id.clone();
                    match state.show(&id) {
                        Some(value) => json_answer(200, &value),
                        None => Response::new(200, "text/plain", ""),
                    }
                }
                Some((status, no)) => {
                    let mut value = json!({"status": status, "name": name});
                    if !no.is_null() {
                        value["error"] = no;
                    }
                    with(json_answer(200, &value), &[("Retry-After", "1".into())])
                }
            };
        }
        let group = path.split('/').nth(4).unwrap_or_default();
        let group_key = id(group, "").to_lowercase();
        let key = path.to_lowercase();
        let in_group = path.split('/').count() > 5 && key.contains("/resourcegroups/");
        if in_group && !state.resources.contains_key(&group_key) {
            return error(
                404,
                "ResourceGroupNotFound",
                &format!("Resource group '{group}' could not be found."),
            );
        }
        let missing = || {
            let code = if in_group { "ResourceNotFound" } else { "ResourceGroupNotFound" };
            error(404, code, &format!("'{path}' was not found."))
        };
        let verb = action.rsplit('.').next().unwrap_or_default();
        match verb {
            "list" => {
                let below = format!("{key}/");
                let children: Vec<String> = state
                    .resources
                    .keys()
                    .filter(|k| k.strip_prefix(&below).is_some_and(|rest| !rest.contains('/')))
                    .cloned()
                    .collect();
                let start: usize = query.get("$skiptoken").and_then(|t| t.parse().ok()).unwrap_or(0);
                let end = (start + state.page).min(children.len());
                let items: Vec<Value> = children[start..end].iter().filter_map(|k| state.show(k)).collect();
                let mut value = json!({"value": items});
                if end < children.len() {
                    let version = &query["api-version"];
                    value["nextLink"] = format!("{root}{path}?api-version={version}&$skiptoken={end}").into();
                }
                // Those of the market are a plain list.
                if action == "marketVersions.list" {
                    return json_answer(200, &value["value"]);
                }
                json_answer(200, &value)
            }
            "get" => match state.show(&key) {
                Some(mut value) => {
                    if query.get("$expand").is_some_and(|e| e == "instanceView") {
                        let uri = value["properties"]["diagnosticsProfile"]["bootDiagnostics"]["storageUri"]
                            .clone();
                        let name = value["name"].as_str().unwrap_or_default();
                        let blob = format!(
                            "{}bootdiagnostics-x/{name}.serialconsole.log",
                            uri.as_str().unwrap_or_default()
                        );
                        let at = blob.strip_prefix(&format!("{root}/")).unwrap_or_default().to_owned();
                        let guest = state.resources.get(&key).and_then(|r| r.guest.clone());
                        if let Some(guest) = guest {
                            state.blobs.insert(at, guest.console());
                        }
                        value["properties"]["instanceView"] =
                            json!({"bootDiagnostics": {"serialConsoleLogBlobUri": blob}});
                    }
                    json_answer(200, &value)
                }
                None => missing(),
            },
            "retrieveBootDiagnosticsData" => {
                let machine = key.trim_end_matches("/retrievebootdiagnosticsdata");
                let enabled = state.resources.get(machine).map(|r| {
                    r.body["properties"]["diagnosticsProfile"]["bootDiagnostics"]["enabled"] == true
                });
                match enabled {
                    None => missing(),
                    Some(false) => error(409, "BootDiagnosticsNotEnabled", "Boot diagnostics is not enabled"),
                    Some(true) => {
                        let blob =
                            |what: &str| format!("{root}/{what}{machine}?sv=2021-01-01&sr=b&sig={SIGNATURE}");
                        json_answer(
                            200,
                            &json!({
                                "serialConsoleLogBlobUri": blob("console"), "consoleScreenshotBlobUri": blob("screen"),
                            }),
                        )
                    }
                }
            }
            "listKeys" if !state.resources.contains_key(key.trim_end_matches("/listkeys")) => missing(),
            "listKeys" => match state.fates.get(&action) {
                Some(Fate::Fails(code, message)) => error(403, code, message),
                _ => json_answer(
                    200,
                    &json!({"keys": [
                        {"keyName": "key1", "permissions": "FULL", "value": AZURITE.1},
                        {"keyName": "key2", "permissions": "FULL", "value": "c2Vjb25k"},
                    ]}),
                ),
            },
            "ListServiceSas" => {
                let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
                let account = path.rsplit('/').nth(1).unwrap_or_default();
                let of = body["canonicalizedResource"].as_str().unwrap_or_default();
                match of.starts_with(&format!("/blob/{account}/")) && body["signedPermission"].is_string() {
                    true => json_answer(
                        200,
                        &json!({"serviceSasToken": format!("sv=2021-01-01&sr=b&sig={SIGNATURE}")}),
                    ),
                    false => error(400, "InvalidRequestPropertyValue", "The value is invalid"),
                }
            }
            "put" => self.put(state, request, path, &key, &action, &root),
            "delete" => {
                if !state.resources.contains_key(&key) {
                    // Groups that are not there are not found; all else is as if it were gone.
                    return if in_group { Response::new(204, "text/plain", "") } else { missing() };
                }
                let used = state.resources.values().find(|r| parents(&r.id, &r.body).contains(&key));
                if let Some(by) =
                    used.filter(|_| ["networkInterfaces", "publicIPAddresses"].contains(&id_type(path)))
                {
                    return error(400, "InUse", &format!("'{path}' is in use by '{}'", by.id));
                }
                let does = !state.fates.contains_key(&action);
                let at = state.operation(&root, &key, &action, true);
                let own = &state.resources[&key];
                let interfaces = parents(&own.id, &own.body);
                if does {
                    let mut guests = state.remove(&key);
                    if id_type(&key) == "virtualmachines" {
                        for interface in interfaces.iter().filter(|i| id_type(i) == "networkinterfaces") {
                            guests.extend(state.remove(interface));
                        }
                    }
                    for guest in guests {
                        self.aside.begin(move || guest.stop());
                    }
                }
                let answer = Response::new(202, "text/plain", "");
                match in_group {
                    true => with(answer, &[("Azure-AsyncOperation", at), ("Retry-After", "10".into())]),
                    false => with(answer, &[("Location", at.replace("/operations/", "/operationresults/"))]),
                }
            }
            _ => error(404, "NotFound", &format!("there is no {action}")),
        }
    }

    fn put(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
        request: &Request,
        path: &str,
        key: &str,
        action: &str,
        root: &str,
    ) -> Response {
        let Ok(body) = serde_json::from_slice::<Value>(&request.body) else {
            return error(400, "InvalidRequestContent", "The request content was invalid");
        };
        if body["location"].as_str().is_none() && !path.contains("/subnets/") {
            return error(400, "LocationRequired", "The location property is required");
        }
        if let Some(no) = parents(path, &body).iter().find(|p| !state.resources.contains_key(*p)) {
            return error(
                400,
                "InvalidResourceReference",
                &format!("Resource {no} referenced by {path} was not found"),
            );
        }
        let above = path.rsplitn(3, '/').last().unwrap_or_default().to_lowercase();
        let nested = path.split("/providers/").nth(1).is_some_and(|b| b.split('/').count() > 3);
        if nested && !state.resources.contains_key(&above) {
            return error(
                404,
                "ParentResourceNotFound",
                "Can not perform requested operation on nested resource",
            );
        }
        let fate = state.fates.get(action).cloned();
        let known = state.resources.contains_key(key);
        let machine = id_type(path) == "virtualMachines";
        if !known {
            let group = !path.contains("/providers/");
            let done = if group { "Succeeded" } else { "Creating" };
            let resource = Resource {
                id: path.into(),
                body: body.clone(),
                state: done,
                pending: 0,
                address: None,
                guest: None,
            };
            state.resources.insert(key.into(), resource);
            if machine && fate.is_none() {
                let data = body["properties"]["osProfile"]["customData"].as_str().unwrap_or_default();
                let userdata = openssl::base64::decode_block(data).unwrap_or_default();
                let (here, key) = (self.clone(), key.to_owned());
                self.aside.begin(move || here.boot(&key, &userdata));
            }
        }
        let shown = state.show(path).unwrap_or_default();
        let status = if known { 200 } else { 201 };
        match id_type(path) {
            "resourceGroups" => json_answer(status, &shown),
            // Only the resource itself says how far it is.
            "galleries" | "images" | "versions" if path.contains("/galleries/") && fate.is_none() => {
                if let Some(resource) = state.resources.get_mut(key).filter(|_| !known) {
                    resource.pending = 2;
                }
                json_answer(status, &shown)
            }
            "storageAccounts" => {
                let at =
                    state.operation(root, key, action, false).replace("/operations/", "/operationresults/");
                with(Response::new(202, "text/plain", ""), &[("Location", at), ("Retry-After", "17".into())])
            }
            _ => {
                let at = state.operation(root, key, action, false);
                with(
                    json_answer(status, &shown),
                    &[("Azure-AsyncOperation", at), ("Retry-After", "1".into())],
                )
            }
        }
    }

    fn boot(&self, key: &str, userdata: &[u8]) {
        let Some(machines) = lock(&self.machines).clone() else { return };
        let guest = machines.start(userdata);
        let mut state = lock(&self.state);
        // Deleted, or forgotten, meanwhile: the guest goes with its last owner.
        let Some(resource) = state.resources.get_mut(key) else { return };
        match guest {
            Ok(guest) => {
                resource.address = Some(guest.address());
                resource.guest = Some(guest);
                resource.state = "Succeeded";
            }
            Err(reason) => {
                resource.body["tags"]["why"] = reason.into();
                resource.state = "Failed";
            }
        }
    }
}

/// The server of tokens.
fn token(state: &mut State, request: &Request) -> Response {
    let field = |name: &str| request.field(name).unwrap_or_default();
    let proof = field("client_secret") == SECRET || field("client_assertion").starts_with("ey");
    let path = request.path();
    let wanted = match path.ends_with("/oauth2/v2.0/token") {
        true => field("scope").ends_with("/.default"),
        false => path.ends_with("/oauth2/token") && field("resource").starts_with("http"),
    };
    if !path.starts_with(&format!("/{TENANT}/")) || field("client_id") != CLIENT || !proof || !wanted {
        let no = json!({"error": "invalid_client", "error_description": format!("AADSTS7000215: {}", request.text())});
        return json_answer(401, &no);
    }
    let token = state.token();
    // Of old, all numbers are texts.
    json_answer(200, &json!({"token_type": "Bearer", "access_token": token, "expires_in": "3599"}))
}
