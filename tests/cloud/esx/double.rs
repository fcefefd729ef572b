//! A local vSphere: vcsim, and machines that really run behind it.
//!
//! vcsim knows of machines what they are to be, not what they do. What stands between it and its clients does the
//! difference: a machine that is powered on starts, its address is told to vcsim as its own tools would (by the setting
//! `SET.guest.ipAddress`, which vcsim has for that), its console is put into the file that its serial port names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use mantle::cloud::esx::xml::Element;
use serde_json::json;

use super::{action, asked, fault};
use crate::cloud::matrix::{Census, Double, No};
use crate::support::Env;
use crate::support::guard::Limit;
use crate::support::http::{self, Request, Response};
use crate::support::machines::{Aside, Guest, Machines, lock};
use crate::support::proxy::Proxy;
use crate::support::vcsim::{Model, PLAIN, Vcsim};

pub const USER: &str = "tests@vsphere.local";
pub const PASSWORD: &str = "SECRET-<of>&vsphere";
/// The machine that others are made of.
pub const BASE: &str = "DC0_C0_RP0_VM0";

/// The cloud; guests end with it.
pub struct VSphere {
    /// All requests go through it.
    pub proxy: Proxy,
    limit: Limit,
    face: Arc<Face>,
    /// What was there at first.
    first: BTreeSet<String>,
}

struct Face {
    vcsim: Vcsim,
    machines: Mutex<Option<Arc<dyn Machines>>>,
    /// Guests being started and stopped.
    aside: Aside,
    cookie: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Userdata by machine.
    userdata: BTreeMap<String, Vec<u8>>,
    guests: BTreeMap<String, Arc<dyn Guest>>,
    /// What consoles said, by the name of the machine.
    consoles: BTreeMap<String, Vec<u8>>,
    /// No tools report an address.
    mute: bool,
}

impl VSphere {
    pub fn start(machines: Arc<dyn Machines>) -> Option<Self> {
        let limit = machines.limit();
        Self::with(Some(machines), limit, PLAIN)
    }

    /// Without machines: for commands that start none.
    pub fn of_records(model: Model) -> Option<Self> {
        Self::with(None, Limit::PROGRAM, model)
    }

    fn with(machines: Option<Arc<dyn Machines>>, limit: Limit, model: Model) -> Option<Self> {
        let vcsim = Vcsim::start(USER, PASSWORD, model)?;
        let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
        let login = format!(
            "<Login><_this type=\"SessionManager\">SessionManager</_this><userName>{USER}</userName><password>{}</password></Login>",
            escape(PASSWORD)
        );
        let answer = http::send(vcsim.address, &soap(&login)).unwrap();
        let cookie =
            answer.header("set-cookie").expect("vcsim lets us in").split(';').next().unwrap().to_owned();
        let (aside, state) = (Aside::default(), Mutex::default());
        let face = Arc::new(Face { vcsim, machines: Mutex::new(machines), aside, cookie, state });
        let own = face.clone();
        let proxy = Proxy::before(move |request| own.answer(request));
        let first = face.vms().into_keys().collect();
        Some(Self { proxy, limit, face, first })
    }

    /// The file of profiles.
    pub fn profiles(&self) -> serde_json::Value {
        let server = format!("{}/sdk", self.proxy.url());
        json!({"default": {"server": server, "user": USER, "password": PASSWORD}})
    }

    /// Whether tools report addresses from now on.
    pub fn mute(&self, mute: bool) {
        lock(&self.face.state).mute = mute;
    }

    /// All machines: names by id.
    pub fn vms(&self) -> BTreeMap<String, String> {
        self.face.vms()
    }

    /// A property of a machine, as vcsim writes it.
    pub fn property(&self, id: &str, name: &str) -> Element {
        self.face.property("VirtualMachine", id, name)
    }

    /// Makes a machine of the base, as somebody else would.
    pub fn put(&self, name: &str, settings: &[(&str, &str)]) -> String {
        let base = self.first.iter().next().unwrap();
        let settings: String = settings.iter().map(|(k, v)| option(k, v)).collect();
        let of = |what: &str| self.face.property("VirtualMachine", base, what).own().to_owned();
        let spec = format!(
            "<CloneVM_Task><_this type=\"VirtualMachine\">{base}</_this><folder type=\"Folder\">{}</folder><name>{name}</name><spec>\
             <location><pool type=\"ResourcePool\">{}</pool></location><template>false</template><config>{settings}</config>\
             <powerOn>false</powerOn></spec></CloneVM_Task>",
            of("parent"),
            of("resourcePool"),
        );
        self.face.task(&spec);
        self.vms().into_iter().find(|(_, n)| n == name).expect("it was made").0
    }

    /// The environment with other variables than those of a profile.
    pub fn bare(&self) -> Env {
        let mut env = Env::new();
        env.set("MANTLE_POLL_SCALE", "0.002").guarded(self.limit);
        env
    }
}

impl Drop for VSphere {
    fn drop(&mut self) {
        lock(&self.face.machines).take();
        self.face.end();
    }
}

fn soap(body: &str) -> Request {
    let text = format!(
        "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" \
         xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\"><s:Body>{}</s:Body></s:Envelope>",
        body.replacen("><", " xmlns=\"urn:vim25\"><", 1)
    );
    Request::new("POST", "/sdk").with_header("SOAPAction", "urn:vim25/6.5").with_body(text)
}

fn option(key: &str, value: &str) -> String {
    format!(
        "<extraConfig xsi:type=\"OptionValue\"><key>{key}</key><value xsi:type=\"xsd:string\">{value}</value></extraConfig>"
    )
}

impl Face {
    /// Asks vcsim itself.
    fn ask(&self, body: &str) -> Element {
        let request = soap(body).with_header("Cookie", &self.cookie);
        let answer = http::send(self.vcsim.address, &request).unwrap();
        let envelope = Element::read(&answer.body).unwrap();
        envelope.at("Body").and_then(|b| b.children().first()).cloned().unwrap()
    }

    /// A task of vcsim's, until it is done.
    fn task(&self, body: &str) {
        let answer = self.ask(body);
        let task = answer.target_at("returnval").unwrap_or_else(|| panic!("no task: {answer:?}"));
        // A few milliseconds; it cannot be waited for without being asked.
        while self.property("Task", &task.id, "info.state").own() == "running" {
            std::thread::yield_now();
        }
    }

    fn property(&self, kind: &str, id: &str, name: &str) -> Element {
        let answer = self.ask(&format!(
            "<RetrieveProperties><_this type=\"PropertyCollector\">propertyCollector</_this><specSet><propSet><type>{kind}</type>\
             <pathSet>{name}</pathSet></propSet><objectSet><obj type=\"{kind}\">{id}</obj></objectSet></specSet></RetrieveProperties>"
        ));
        answer.at("returnval/propSet/val").cloned().unwrap_or_default()
    }

    fn reconfigure(&self, id: &str, settings: &[(&str, &str)]) {
        let settings: String = settings.iter().map(|(k, v)| option(k, v)).collect();
        self.task(&format!(
            "<ReconfigVM_Task><_this type=\"VirtualMachine\">{id}</_this><spec>{settings}</spec></ReconfigVM_Task>"
        ));
    }

    fn vms(&self) -> BTreeMap<String, String> {
        let way = |name: &str, kind: &str, path: &str| {
            format!(
                "<selectSet xsi:type=\"TraversalSpec\"><name>{name}</name><type>{kind}</type><path>{path}</path><skip>false</skip>\
                 <selectSet><name>f</name></selectSet><selectSet><name>d</name></selectSet></selectSet>"
            )
        };
        let answer = self.ask(&format!(
            "<RetrieveProperties><_this type=\"PropertyCollector\">propertyCollector</_this><specSet><propSet><type>VirtualMachine</type>\
             <pathSet>name</pathSet></propSet><objectSet><obj type=\"Folder\">group-d1</obj>{}{}</objectSet></specSet></RetrieveProperties>",
            way("f", "Folder", "childEntity"),
            way("d", "Datacenter", "vmFolder")
        ));
        let one = |o: &Element| {
            Some((o.target_at("obj")?.id, o.said("propSet/val").unwrap_or_default().to_owned()))
        };
        answer.all("returnval").filter_map(one).collect()
    }

    /// Ends all guests, and those under way.
    fn end(&self) {
        self.aside.finish();
        let guests = std::mem::take(&mut lock(&self.state).guests);
        for guest in guests.into_values() {
            guest.stop();
        }
    }

    fn answer(self: &Arc<Self>, request: &Request) -> Option<Response> {
        let (action, asked) = (action(request), asked(request));
        let of = asked.as_ref().and_then(|a| a.target_at("_this")).map(|r| r.id).unwrap_or_default();
        match action.as_str() {
            "console" => self.write_console(request),
            // vcsim would let it run on without its machine.
            "PowerOffVM_Task" => self.stop(&of),
            _ => {}
        }
        let answer = http::send(self.vcsim.address, request).ok()?;
        if answer.status != 200 {
            return Some(answer);
        }
        match action.as_str() {
            "ReconfigVM_Task" => self.note(&of, asked.as_ref()?),
            "PowerOnVM_Task" => {
                let here = self.clone();
                self.aside.begin(move || here.boot(&of));
            }
            "Destroy_Task" => {
                let mut state = lock(&self.state);
                state.userdata.remove(&of);
                // It may have come up after it was powered off.
                if let Some(guest) = state.guests.remove(&of) {
                    self.aside.begin(move || guest.stop());
                }
            }
            _ => {}
        }
        Some(answer)
    }

    /// What the guest will find in its settings.
    fn note(&self, id: &str, asked: &Element) {
        let setting = |key: &str| {
            let mut all = asked.at("spec")?.all("extraConfig");
            all.find(|s| s.said("key") == Some(key)).and_then(|s| s.said("value")).map(str::to_owned)
        };
        let Some(data) = setting("guestinfo.ignition.config.data") else { return };
        let mut bytes = openssl::base64::decode_block(&data).unwrap();
        if setting("guestinfo.ignition.config.data.encoding").as_deref() == Some("gzip+base64") {
            let mut whole = Vec::new();
            std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut whole).unwrap();
            bytes = whole;
        }
        lock(&self.state).userdata.insert(id.to_owned(), bytes);
    }

    fn boot(&self, id: &str) {
        let (userdata, mute) = {
            let state = lock(&self.state);
            (state.userdata.get(id).cloned().unwrap_or_default(), state.mute)
        };
        let Some(machines) = lock(&self.machines).clone() else { return };
        let Ok(guest) = machines.start(&userdata) else { return };
        let address = guest.address();
        {
            let mut state = lock(&self.state);
            // Removed meanwhile: the guest goes with its last owner.
            if !state.userdata.contains_key(id) {
                return;
            }
            state.guests.insert(id.to_owned(), guest);
        }
        if !mute {
            self.reconfigure(id, &[("SET.guest.ipAddress", &address)]);
        }
    }

    fn stop(&self, id: &str) {
        let Some(guest) = lock(&self.state).guests.remove(id) else { return };
        let name = self.property("VirtualMachine", id, "name").own().to_owned();
        lock(&self.state).consoles.insert(name, guest.console());
        self.aside.begin(move || guest.stop());
    }

    /// Puts what a console has said by now where it is asked for.
    fn write_console(&self, request: &Request) {
        let name = request.path().split('/').nth(2).unwrap_or_default().to_owned();
        let vms = self.vms();
        let state = lock(&self.state);
        let live = state.guests.iter().find(|(id, _)| vms.get(*id) == Some(&name)).map(|(_, g)| g.clone());
        let last = state.consoles.get(&name).cloned();
        drop(state);
        let Some(text) = live.map(|g| g.console()).or(last) else { return };
        let put = Request::new("PUT", &request.target).with_header("Cookie", &self.cookie).with_body(text);
        let _ = http::send(self.vcsim.address, &put);
    }
}

impl Double for VSphere {
    const NEEDED: &'static [&'static str] = &[
        "RetrieveServiceContent",
        "Login",
        "RetrievePropertiesEx Folder",
        "CloneVM_Task",
        "ReconfigVM_Task",
        "PowerOnVM_Task",
        "PowerOffVM_Task",
        "console",
        "Destroy_Task",
        "DeleteDatastoreFile_Task",
        "Logout",
    ];
    const PREPARES: &'static [&'static str] = &[];
    const POLLED: &'static [&'static str] = &[
        "RetrievePropertiesEx VirtualMachine",
        "RetrievePropertiesEx Task",
        "CreatePropertyCollector",
        "CreateFilter",
        "WaitForUpdatesEx",
        "DestroyPropertyCollector",
        "console",
    ];
    const COLLECT: &'static [&'static str] = &["ore", "esx", "gc", "--ledger=out", "--duration=0s"];

    fn env(&self) -> Env {
        let env = self.bare();
        env.write(".config/esx.json", &self.profiles().to_string());
        env
    }

    fn options(&self, image: &str) -> Vec<String> {
        let base = format!("--esx-base-vm={image}");
        ["-p", "esx", "-b", "debian", &base].map(str::to_owned).into()
    }

    fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    fn image(&self) -> String {
        BASE.into()
    }

    fn census(&self) -> Census {
        let files = std::fs::read_dir(&self.face.vcsim.files).unwrap();
        let files =
            files.map(|e| (e.unwrap().file_name().to_string_lossy().into_owned(), String::new())).collect();
        Census::from([("vm".into(), self.vms()), ("file".into(), files)])
    }

    fn running(&self) -> Vec<String> {
        self.face.aside.finish();
        lock(&self.face.state).guests.keys().cloned().collect()
    }

    fn reset(&self) {
        self.face.end();
        for (id, name) in self.vms().into_iter().filter(|(id, _)| !self.first.contains(id)) {
            self.face.task(&format!(
                "<PowerOffVM_Task><_this type=\"VirtualMachine\">{id}</_this></PowerOffVM_Task>"
            ));
            self.face
                .task(&format!("<Destroy_Task><_this type=\"VirtualMachine\">{id}</_this></Destroy_Task>"));
            let _ = std::fs::remove_dir_all(self.face.vcsim.files.join(name));
        }
        *lock(&self.face.state) = State::default();
        self.proxy.calm();
        self.proxy.take_journal();
    }

    fn action(request: &Request) -> String {
        action(request)
    }

    fn is_creation(action: &str) -> bool {
        action == "CloneVM_Task"
    }

    fn no(request: &Request, how: No) -> Response {
        let plain = |status| Response::new(status, "text/html", "<html><body>no</body></html>");
        match how {
            No::Forbidden if request.method == "GET" => plain(403),
            No::Forbidden => fault("NoPermission", "Permission to perform this operation was denied."),
            No::Throttled => plain(429),
            No::Broken => plain(503),
        }
    }

    fn left(before: &Census, after: &Census) -> Vec<String> {
        let new = |kind: &'static str| {
            let ids = after[kind].keys().filter(move |id| !before[kind].contains_key(*id));
            ids.map(move |id| format!("{kind} {id}"))
        };
        new("vm").chain(new("file")).collect()
    }
}
