//! Compute Engine: images, who may use them, the operations that make and change them; tokens for all that.
//!
//! Answers: <https://cloud.google.com/compute/docs/reference/rest/v1>.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use serde_json::{Value, json};

use super::{Double, Request, Response, lock};

/// Items of a page, unless told otherwise.
const PAGE: usize = 500;

/// What becomes of operations.
#[derive(Clone, Debug)]
pub enum Fate {
    /// They end in this error: code and message.
    Fails(&'static str, &'static str),
    /// They never end.
    Pends,
}

#[derive(Debug)]
struct Operation {
    zone: Option<String>,
    fate: Option<Fate>,
    /// How often its end was waited for.
    waits: usize,
}

/// The records of a project.
#[derive(Debug)]
pub struct Records {
    /// Images by name.
    pub images: BTreeMap<String, Value>,
    /// Who may do what with them.
    pub policies: BTreeMap<String, Value>,
    /// Names of licences that there are.
    pub licenses: BTreeSet<String>,
    /// What becomes of operations of this kind.
    pub fates: BTreeMap<String, Fate>,
    /// How many tokens were given out; only the newest is good.
    pub tokens: usize,
    /// Items of a page.
    pub page: usize,
    project: String,
    operations: BTreeMap<String, Operation>,
    /// Operations by the `requestId` of what began them.
    requests: BTreeMap<String, String>,
    made: usize,
}

/// What is asked.
#[derive(Debug)]
pub struct Call {
    /// The operation, as of [`action`].
    pub action: String,
    /// The root of the API, as the client has it.
    pub root: String,
    /// What follows the project.
    pub path: Vec<String>,
    /// The parameters.
    pub query: BTreeMap<String, String>,
    /// The body; null if there is none.
    pub body: Value,
}

/// The operation, such as `instances.insert`; anything that is none: method and path.
pub fn action(request: &Request) -> String {
    let path: Vec<&str> = request.path().trim_matches('/').split('/').collect();
    let below = match path.as_slice() {
        ["token"] => return "token".into(),
        ["compute", "v1", "projects", _, "zones" | "regions", _, below @ ..] => below,
        ["compute", "v1", "projects", _, "aggregated", collection] => {
            return format!("{collection}.aggregatedList");
        }
        ["compute", "v1", "projects", _, "global", below @ ..] => below,
        _ => return format!("{} {}", request.method, request.path()),
    };
    match (request.method.as_str(), below) {
        ("GET", ["instances", _, "serialPort"]) => "instances.getSerialPortOutput".into(),
        ("GET", ["images", "family", _]) => "images.getFromFamily".into(),
        (_, [collection, _, verb]) => format!("{collection}.{verb}"),
        ("GET", [collection]) => format!("{collection}.list"),
        ("POST", [collection]) => format!("{collection}.insert"),
        ("GET", [collection, _]) => format!("{collection}.get"),
        ("DELETE", [collection, _]) => format!("{collection}.delete"),
        ("PATCH", [collection, _]) => format!("{collection}.patch"),
        _ => format!("{} {}", request.method, request.path()),
    }
}

/// An error as the services say it.
pub fn error(status: u16, reason: &str, message: &str) -> Response {
    let body = json!({"error": {
        "code": status, "message": message, "errors": [{"reason": reason, "message": message, "domain": "global"}],
    }});
    Response::new(status, "application/json", body.to_string())
}

/// The refusal of what is not there.
pub fn missing(what: &str) -> Response {
    error(404, "notFound", &format!("The resource '{what}' was not found"))
}

/// An answer.
pub fn json_answer(value: &Value) -> Response {
    Response::new(200, "application/json; charset=UTF-8", value.to_string())
}

/// The page of a list that is asked for; `length`: items of a page, `items`: the form they have.
pub fn page(
    all: &[Value],
    query: &BTreeMap<String, String>,
    length: usize,
    items: impl Fn(&[Value]) -> Value,
) -> Response {
    let start: usize =
        query.get("pageToken").and_then(|t| t.strip_prefix("from ")?.parse().ok()).unwrap_or(0);
    let start = start.min(all.len());
    let end = (start + length).min(all.len());
    let mut value = json!({});
    if start < end {
        value["items"] = items(&all[start..end]);
    }
    if end < all.len() {
        value["nextPageToken"] = format!("from {end}").into();
    }
    json_answer(&value)
}

impl Records {
    /// A project that has nothing.
    pub fn new(project: &str) -> Self {
        Self {
            images: BTreeMap::new(),
            policies: BTreeMap::new(),
            licenses: BTreeSet::new(),
            fates: BTreeMap::new(),
            tokens: 0,
            page: PAGE,
            project: project.into(),
            operations: BTreeMap::new(),
            requests: BTreeMap::new(),
            made: 0,
        }
    }

    /// A token that is good.
    pub fn token(&mut self) -> String {
        self.tokens += 1;
        format!("token-{}", self.tokens)
    }

    /// Puts an image there that is ready.
    pub fn put_image(&mut self, name: &str, mut body: Value) {
        body["name"] = name.into();
        body["status"] = "READY".into();
        self.images.insert(name.into(), body);
    }

    /// Whether an operation of this kind does its work.
    pub fn does(&self, action: &str) -> bool {
        !self.fates.contains_key(action)
    }

    /// Begins an operation and describes it.
    pub fn begin(&mut self, call: &Call, zone: Option<&str>) -> Response {
        self.made += 1;
        let name = format!("operation-{}", self.made);
        let fate = self.fates.get(&call.action).cloned();
        self.operations.insert(name.clone(), Operation { zone: zone.map(str::to_owned), fate, waits: 0 });
        if let Some(request) = call.query.get("requestId") {
            self.requests.insert(request.clone(), name.clone());
        }
        self.describe(&call.root, &name)
    }

    fn describe(&self, root: &str, name: &str) -> Response {
        let Some(operation) = self.operations.get(name) else { return missing(name) };
        let mut value = json!({"kind": "compute#operation", "name": name, "status": "PENDING"});
        if let Some(zone) = &operation.zone {
            value["zone"] = format!("{root}projects/{}/zones/{zone}", self.project).into();
        }
        // The first wait is given up by the service, as it does after two minutes.
        if operation.waits == 1 || operation.waits > 0 && matches!(operation.fate, Some(Fate::Pends)) {
            value["status"] = "RUNNING".into();
        } else if operation.waits > 1 {
            value["status"] = "DONE".into();
            if let Some(Fate::Fails(code, message)) = &operation.fate {
                value["error"] = json!({"errors": [{"code": code, "message": message}]});
                value["httpErrorStatusCode"] = 503.into();
                value["httpErrorMessage"] = "SERVICE UNAVAILABLE".into();
            }
        }
        json_answer(&value)
    }

    /// What is asked by whom that may; else the answer to it.
    ///
    /// # Errors
    /// The answer, where there is nothing more to be done.
    pub fn take(&mut self, request: &Request) -> Result<Call, Box<Response>> {
        let action = action(request);
        if action == "token" {
            let token = self.token();
            let answer = json!({"access_token": token, "token_type": "Bearer", "expires_in": 3599});
            return Err(json_answer(&answer).into());
        }
        if request.header("authorization") != Some(&format!("Bearer token-{}", self.tokens)) {
            return Err(error(401, "authError", "Invalid Credentials").into());
        }
        let root = format!("http://{}/compute/v1/", request.header("host").unwrap_or_default());
        let mut path = request.path().trim_matches('/').split('/').skip(3).map(str::to_owned);
        if path.next().as_ref() != Some(&self.project) {
            return Err(error(404, "notFound", "The resource 'projects' was not found").into());
        }
        let query: BTreeMap<String, String> = request.query().into_iter().collect();
        // Ordered before, with an answer that was lost.
        if let Some(known) = query.get("requestId").and_then(|id| self.requests.get(id)) {
            return Err(self.describe(&root, known).into());
        }
        let body = serde_json::from_slice(&request.body).unwrap_or_default();
        Ok(Call { action, root, path: path.collect(), query, body })
    }

    fn described(&self, image: &Value, root: &str) -> Value {
        let mut image = image.clone();
        let name = image["name"].as_str().unwrap_or_default();
        image["selfLink"] = format!("{root}projects/{}/global/images/{name}", self.project).into();
        image
    }

    /// Does what is asked of images, operations and licences.
    pub fn answer(&mut self, call: &Call) -> Response {
        let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
        let Call { action, root, query, body, .. } = call;
        match (action.as_str(), &path[..]) {
            ("operations.wait", [.., name, "wait"]) => {
                if let Some(operation) = self.operations.get_mut(*name) {
                    operation.waits += 1;
                }
                self.describe(root, name)
            }
            ("images.get", [_, _, name]) => match self.images.get(*name) {
                Some(image) => json_answer(&self.described(image, root)),
                None => missing(name),
            },
            ("images.getFromFamily", [_, _, _, family]) => {
                let newest = self.images.values().rfind(|i| {
                    i["family"] == *family
                        && matches!(i["deprecated"]["state"].as_str(), None | Some("ACTIVE"))
                });
                newest.map_or_else(|| missing(family), |image| json_answer(&self.described(image, root)))
            }
            ("images.list", _) => {
                let filter = query.get("filter").map_or("", String::as_str);
                let prefix =
                    filter.strip_prefix("name eq ^").and_then(|f| f.strip_suffix(".*")).unwrap_or("");
                let family = filter.strip_prefix("family = \"").and_then(|f| f.strip_suffix('"'));
                let fits = |i: &&Value| {
                    i["name"].as_str().unwrap_or_default().starts_with(prefix)
                        && family.is_none_or(|f| i["family"] == f)
                };
                let all: Vec<Value> =
                    self.images.values().filter(fits).map(|i| self.described(i, root)).collect();
                page(&all, query, self.page, |items| json!(items))
            }
            ("images.insert", _) => {
                let name = body["name"].as_str().unwrap_or_default().to_owned();
                if self.images.contains_key(&name) {
                    return error(409, "alreadyExists", &format!("The resource '{name}' already exists"));
                }
                if self.does(action) {
                    self.put_image(&name, body.clone());
                }
                self.begin(call, None)
            }
            ("images.delete", [_, _, name]) => {
                if !self.images.contains_key(*name) {
                    return missing(name);
                }
                if self.does(action) {
                    self.images.remove(*name);
                }
                self.begin(call, None)
            }
            ("images.deprecate", [_, _, name, _]) => {
                let Some(image) = self.images.get_mut(*name) else { return missing(name) };
                image["deprecated"] = body.clone();
                self.begin(call, None)
            }
            ("images.patch", [_, _, name]) => {
                let Some(image) = self.images.get_mut(*name) else { return missing(name) };
                for (key, value) in body.as_object().into_iter().flatten() {
                    image[key] = value.clone();
                }
                self.begin(call, None)
            }
            ("images.getIamPolicy", [_, _, name, _]) => {
                json_answer(self.policies.get(*name).unwrap_or(&json!({"etag": "ACAB"})))
            }
            ("images.setIamPolicy", [_, _, name, _]) => {
                let policy = body["policy"].clone();
                if policy["etag"] != "ACAB" {
                    return error(412, "conditionNotMet", "There were concurrent policy changes");
                }
                self.policies.insert((*name).into(), policy.clone());
                json_answer(&policy)
            }
            ("licenses.get", [_, _, name]) if self.licenses.contains(*name) => {
                let link = format!("{root}projects/{}/global/licenses/{name}", self.project);
                json_answer(&json!({ "selfLink": link }))
            }
            (_, path) => missing(&path.join("/")),
        }
    }
}

/// The double, of a project that has no machines.
#[derive(Debug)]
pub struct Gce(Mutex<Records>);

impl Gce {
    /// With these records.
    pub fn new(records: Records) -> Self {
        Self(Mutex::new(records))
    }

    /// The images by name, each with who may do what with it.
    pub fn images(&self) -> BTreeMap<String, Value> {
        let records = lock(&self.0);
        let policy = |name: &str| records.policies.get(name).cloned().unwrap_or_default();
        let with = |(name, image): (&String, &Value)| {
            let mut image = image.clone();
            image["policy"] = policy(name);
            (name.clone(), image)
        };
        records.images.iter().map(with).collect()
    }
}

impl Double for Gce {
    fn answer(&self, request: &Request) -> Response {
        let mut records = lock(&self.0);
        match records.take(request) {
            Ok(call) => records.answer(&call),
            Err(answer) => *answer,
        }
    }

    fn busy(&self) -> Response {
        error(503, "backendError", "Internal error encountered")
    }
}
