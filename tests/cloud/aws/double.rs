//! A local EC2: machines that really run behind moto, which does the rest.
//!
//! moto keeps the records (instances with tags and states, networks, key pairs, roles); this face starts and
//! stops guests as RunInstances and TerminateInstances say, gives them addresses, and reads their consoles.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use regex::Regex;
use serde_json::json;

use crate::cloud::aws;
use crate::cloud::matrix::{Census, Double, No};
use crate::support::Env;
use crate::support::guard::Limit;
use crate::support::http::{self, Request, Response};
use crate::support::machines::{Aside, Guest, Machines};
use crate::support::moto::{Moto, REGION, control};
use crate::support::proxy::Proxy;

/// Amazon gives so much of a console.
const CONSOLE: usize = 64 * 1024;

/// The cloud; guests and moto end with it.
pub struct Ec2 {
    /// All requests go through it.
    pub proxy: Proxy,
    pub moto: Moto,
    /// How long a program that uses its machines may take before it is taken to hang.
    pub limit: Limit,
    face: Arc<Face>,
}

struct Face {
    moto: SocketAddr,
    /// Taken away at the end: the proxy's threads hold the face for ever.
    machines: Mutex<Option<Arc<dyn Machines>>>,
    /// Guests being started and stopped.
    aside: Aside,
    instances: Mutex<BTreeMap<String, Instance>>,
    /// So many times GetConsoleOutput has nothing to say of an instance.
    mute: Mutex<usize>,
    id: Regex,
}

struct Instance {
    userdata: Vec<u8>,
    guest: Option<Arc<dyn Guest>>,
    stopped: bool,
    consoles: usize,
    /// Of a type from before Nitro: its newest console output cannot be asked for.
    old: bool,
}

impl Ec2 {
    /// `None`, and a word on stdout, if moto is not installed.
    pub fn start(machines: Arc<dyn Machines>) -> Option<Self> {
        let moto = Moto::start(&[("MANTLE_MACHINES", "1")])?;
        let limit = machines.limit();
        let face = Arc::new(Face {
            moto: moto.address,
            machines: Mutex::new(Some(machines)),
            aside: Aside::default(),
            instances: Mutex::default(),
            mute: Mutex::new(0),
            id: Regex::new("<instanceId>(i-[0-9a-f]+)</instanceId>").unwrap(),
        });
        let own = face.clone();
        Some(Self { proxy: Proxy::before(move |request| own.answer(request)), moto, limit, face })
    }

    /// The endpoint of all services.
    pub fn url(&self) -> String {
        self.proxy.url()
    }

    /// One call past the proxy, as from somebody else; fails unless it succeeds.
    #[track_caller]
    pub fn call(&self, service: &str, parameters: &[(&str, &str)]) -> String {
        let answer = http::send(self.moto.address, &form(service, parameters)).unwrap();
        assert_eq!(answer.status, 200, "{parameters:?}: {}", answer.text());
        answer.text()
    }

    /// The first so many answers about a console are empty.
    pub fn mute_consoles(&self, times: usize) {
        *self.face.mute.lock().unwrap() = times;
    }

    /// The userdata that an instance was started with.
    pub fn userdata(&self, id: &str) -> Vec<u8> {
        self.face.instances.lock().unwrap()[id].userdata.clone()
    }
}

impl Double for Ec2 {
    const NEEDED: &'static [&'static str] =
        &["ImportKeyPair", "RunInstances", "TerminateInstances", "GetConsoleOutput", "DeleteKeyPair"];
    const PREPARES: &'static [&'static str] = &["CreateSubnet"];
    const POLLED: &'static [&'static str] = &["DescribeInstances", "GetConsoleOutput", "GetInstanceProfile"];
    const COLLECT: &'static [&'static str] = &["ore", "aws", "gc", "--ledger=out", "--duration=0s"];

    fn env(&self) -> Env {
        let mut env = Env::new();
        env.set("AWS_ENDPOINT_URL", self.url())
            .set("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
            .set("AWS_SECRET_ACCESS_KEY", "example")
            .set("AWS_REGION", REGION)
            .set("AWS_EC2_METADATA_DISABLED", "true")
            .set("MANTLE_POLL_SCALE", "0.001")
            .guarded(self.limit);
        env
    }

    fn options(&self, image: &str) -> Vec<String> {
        ["-p", "aws", "-b", "debian", "--aws-ami", image].map(str::to_owned).into()
    }

    fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    fn image(&self) -> String {
        let zone = format!("{REGION}a");
        let volume = [("Action", "CreateVolume"), ("Size", "1"), ("AvailabilityZone", &zone)];
        let volume = element(&self.call("ec2", &volume), "volumeId");
        let snapshot = [("Action", "CreateSnapshot"), ("VolumeId", &volume)];
        let snapshot = element(&self.call("ec2", &snapshot), "snapshotId");
        let image = [
            ("Action", "RegisterImage"),
            ("Name", "mantle-guest"),
            ("Architecture", "x86_64"),
            ("VirtualizationType", "hvm"),
            ("RootDeviceName", "/dev/xvda"),
            ("BlockDeviceMapping.1.DeviceName", "/dev/xvda"),
            ("BlockDeviceMapping.1.Ebs.SnapshotId", &snapshot),
        ];
        element(&self.call("ec2", &image), "imageId")
    }

    fn census(&self) -> Census {
        serde_json::from_value(self.moto.control("census", &json!({"region": REGION}))).unwrap()
    }

    fn running(&self) -> Vec<String> {
        let instances = self.face.instances.lock().unwrap();
        instances.iter().filter(|(_, i)| !i.stopped).map(|(id, _)| id.clone()).collect()
    }

    fn reset(&self) {
        self.face.end();
        self.moto.reset();
        self.proxy.calm();
        self.proxy.take_journal();
    }

    fn action(request: &Request) -> String {
        aws::action(request)
    }

    fn is_creation(action: &str) -> bool {
        ["Create", "Import", "Run", "Put", "Add"].iter().any(|verb| action.starts_with(verb))
    }

    fn no(request: &Request, how: No) -> Response {
        match how {
            No::Forbidden => aws::error(request, 403, "UnauthorizedOperation", "You are not authorized"),
            No::Throttled => aws::throttled(request),
            No::Broken => aws::error(request, 500, "InternalError", "An internal error has occurred"),
        }
    }

    /// Kept for the next run: one whole network and the role.
    fn left(before: &Census, after: &Census) -> Vec<String> {
        let new = |kind: &'static str| {
            let ids = after[kind].keys().filter(move |id| !before[kind].contains_key(*id));
            ids.map(move |id| format!("{kind} {id}"))
        };
        let state = |thing: &String| &after["instance"][thing.split_once(' ').unwrap().1];
        let mut left: Vec<String> = new("instance").filter(|i| state(i) != "terminated").collect();
        left.extend(new("key-pair"));
        left.extend(after["unfinished"].keys().map(|id| format!("part of a network {id}")));
        let group = |thing: &String| &after["group"][thing.split_once(' ').unwrap().1];
        let networks = new("group").filter(|g| group(g) == "kola").count();
        let kinds = ["vpc", "subnet", "gateway", "route-table"];
        match networks {
            0 => left.extend(kinds.into_iter().flat_map(new)),
            1 => left.extend(["vpc", "gateway"].into_iter().flat_map(|kind| new(kind).skip(1))),
            n => left.push(format!("{n} networks")),
        }
        left
    }
}

impl Drop for Ec2 {
    fn drop(&mut self) {
        self.face.machines.lock().unwrap().take();
        self.face.end();
    }
}

/// A form as a client sends it, as far as moto looks at it: the signature tells the service.
pub fn form(service: &str, parameters: &[(&str, &str)]) -> Request {
    let version = match service {
        "iam" => "2010-05-08",
        "sts" => "2011-06-15",
        _ => "2016-11-15",
    };
    let mut body = form_urlencoded::Serializer::new(String::new());
    body.extend_pairs(parameters).append_pair("Version", version);
    let signature = format!(
        "AWS4-HMAC-SHA256 Credential=AKIDFOREIGN/20260101/{REGION}/{service}/aws4_request, SignedHeaders=host, \
         Signature=00"
    );
    Request::new("POST", "/")
        .with_header("Content-Type", "application/x-www-form-urlencoded")
        .with_header("Authorization", &signature)
        .with_body(body.finish())
}

/// The text of the first element of this name.
#[track_caller]
pub fn element(xml: &str, name: &str) -> String {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let (_, rest) = xml.split_once(&open).unwrap_or_else(|| panic!("no {name} in {xml}"));
    rest.split_once(&close).unwrap().0.to_owned()
}

impl Face {
    /// Ends all guests, and those under way.
    fn end(&self) {
        self.instances.lock().unwrap().clear();
        self.aside.finish();
    }

    fn answer(self: &Arc<Self>, request: &Request) -> Option<Response> {
        let action = aws::action(request);
        let console = (action == "GetConsoleOutput").then(|| self.console(request)).flatten();
        if console.is_some() {
            return console;
        }
        let answer = http::send(self.moto, request).ok()?;
        if answer.status == 200 && aws::service(request) == "ec2" {
            match action.as_str() {
                "RunInstances" => self.run(request, &answer),
                "TerminateInstances" | "StopInstances" => self.stop(request),
                _ => {}
            }
        }
        Some(answer)
    }

    fn run(self: &Arc<Self>, request: &Request, answer: &Response) {
        let userdata = request.field("UserData").unwrap_or_default();
        let userdata = openssl::base64::decode_block(&userdata).unwrap();
        let kind = request.field("InstanceType").unwrap_or_default();
        let old = ["m1.", "m2.", "m3.", "m4.", "c3.", "c4.", "t1.", "t2.", "r3.", "r4."]
            .iter()
            .any(|prefix| kind.starts_with(prefix));
        for found in self.id.captures_iter(&answer.text()) {
            let (id, region) = (found[1].to_owned(), aws::region(request));
            {
                let mut instances = self.instances.lock().unwrap();
                if instances.contains_key(&id) {
                    continue; // the same request again
                }
                let new =
                    Instance { userdata: userdata.clone(), guest: None, stopped: false, consoles: 0, old };
                instances.insert(id.clone(), new);
            }
            let (here, userdata) = (self.clone(), userdata.clone());
            self.aside.begin(move || here.boot(&id, &region, &userdata));
        }
    }

    fn boot(&self, id: &str, region: &str, userdata: &[u8]) {
        let Some(machines) = self.machines.lock().unwrap().clone() else { return };
        let guest = machines.start(userdata);
        let mut instances = self.instances.lock().unwrap();
        // Terminated, or forgotten, meanwhile: the guest goes with its last owner.
        let Some(instance) = instances.get_mut(id).filter(|i| !i.stopped) else { return };
        let what = match &guest {
            Ok(guest) => json!({"region": region, "id": id, "address": guest.address()}),
            Err(reason) => json!({"region": region, "id": id, "failed": reason}),
        };
        instance.stopped = guest.is_err();
        instance.guest = guest.ok();
        control(self.moto, "machine", &what);
    }

    fn stop(&self, request: &Request) {
        for (name, id) in request.form() {
            if !name.starts_with("InstanceId.") {
                continue;
            }
            let guest = {
                let mut instances = self.instances.lock().unwrap();
                let Some(instance) = instances.get_mut(&id) else { continue };
                instance.stopped = true;
                instance.guest.clone()
            };
            // Amazon answers at once; the machine ends when it likes.
            self.aside.begin(move || {
                if let Some(guest) = guest {
                    guest.stop();
                }
            });
        }
    }

    /// `None` of instances that are not ours: moto has an answer.
    fn console(&self, request: &Request) -> Option<Response> {
        let id = request.field("InstanceId")?;
        let (guest, mute) = {
            let mut instances = self.instances.lock().unwrap();
            let instance = instances.get_mut(&id)?;
            if request.field("Latest").as_deref() == Some("true") && instance.old {
                let words = "This instance type does not support retrieving the latest console logs";
                return Some(aws::error(request, 400, "UnsupportedOperation", words));
            }
            instance.consoles += 1;
            (instance.guest.clone(), instance.consoles <= *self.mute.lock().unwrap())
        };
        let text = guest.filter(|_| !mute).map(|g| g.console()).unwrap_or_default();
        let text = &text[text.len().saturating_sub(CONSOLE)..];
        let output = match text {
            [] => String::new(),
            text => format!("<output>{}</output>", openssl::base64::encode_block(text)),
        };
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <GetConsoleOutputResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
             <requestId>r</requestId><instanceId>{id}</instanceId><timestamp>{}</timestamp>{output}\
             </GetConsoleOutputResponse>",
            chrono::Utc::now().format("%Y-%m-%dT%H:%M:%S.000Z")
        );
        Some(Response::new(200, "text/xml;charset=UTF-8", body))
    }
}
