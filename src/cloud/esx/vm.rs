//! Virtual machines: made of another one, told what to be, looked at, removed with what they wrote.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use flate2::write::GzEncoder;
use openssl::base64;
use tokio_util::sync::CancellationToken;

use super::api::{Api, Object, Result};
use super::inventory::{Inventory, Named, Place};
use super::xml::{Element, Ref};
use super::{COMPONENT, MARK};
use crate::cloud::gc::KEEP;
use crate::cloud::once::{Once, SHOWN_AT_ONCE};
use crate::http::{CallError, Repeat};
use crate::poll::Poll;
use crate::text::chain;
use crate::text::percent::encode;

/// How long the server may not show a machine that it makes: as long as the copy takes.
pub const SHOWN: Poll = Poll::seconds(5, 60);

/// How often something is ordered whose orders seem to be lost.
const ORDERS: u32 = 3;

/// The setting with the token of the order that made a machine.
const LAUNCH: &str = "mantle.launch";

/// The setting with the time at which a machine was ordered: older servers do not know it.
const CREATED: &str = "mantle.created";

/// The file on the datastore that the serial port writes.
const CONSOLE: &str = "serial.out";

/// No console is longer, in bytes.
const MAX_CONSOLE: u64 = 64 << 20;

/// Where guests look for userdata; its encoding stands under the same name with `.encoding` after it.
const USER_DATA: [&str; 2] = ["guestinfo.coreos.config.data", "guestinfo.ignition.config.data"];

/// Userdata up to this length, in bytes, is not compressed.
const PLAIN: usize = 16 << 10;

/// The most that a setting takes, in bytes.
const SETTING: usize = 64 << 10;

const PROPERTIES: &[&str] = &[
    "name",
    "config.extraConfig",
    "config.files.logDirectory",
    "config.template",
    "runtime.powerState",
    "guest.net",
    "guest.ipAddress",
    "guest.toolsRunningStatus",
];

/// Where a machine is.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Which.
    pub vm: Named,
    /// Its datacenter.
    pub datacenter: Named,
}

/// A machine.
#[derive(Clone, Debug)]
pub struct Vm {
    /// Where it is.
    pub machine: Machine,
    /// Its name.
    pub name: String,
    /// Such as `poweredOn`.
    pub power: String,
    /// Whether others are made of it only.
    pub template: bool,
    /// Its addresses, as its tools report them.
    pub addresses: Vec<String>,
    /// Whether its tools run, in the server's word.
    pub tools: String,
    /// The folder with its files: `[datastore] path`.
    files: String,
    settings: BTreeMap<String, String>,
}

impl Vm {
    fn read(machine: Machine, object: &Object) -> Self {
        let settings = object.get("config.extraConfig").map(Element::children).unwrap_or_default();
        let setting =
            |s: &Element| Some((s.said("key")?.to_owned(), s.said("value").unwrap_or_default().to_owned()));
        let nets = object.get("guest.net").map(Element::children).unwrap_or_default();
        let mut addresses: Vec<_> =
            nets.iter().flat_map(|n| n.all("ipAddress")).map(|a| a.own().to_owned()).collect();
        addresses.extend(object.get("guest.ipAddress").map(|a| a.own().to_owned()));
        addresses.retain(|a| !a.is_empty());
        Self {
            machine,
            name: object.text("name").to_owned(),
            power: object.text("runtime.powerState").to_owned(),
            template: object.text("config.template") == "true",
            addresses,
            tools: object.text("guest.toolsRunningStatus").to_owned(),
            files: object.text("config.files.logDirectory").to_owned(),
            settings: settings.iter().filter_map(setting).collect(),
        }
    }

    /// Whether mantle made it.
    pub fn is_ours(&self) -> bool {
        self.settings.get(MARK.0).is_some_and(|value| value == MARK.1)
    }

    /// Whether somebody protected it.
    pub fn is_kept(&self) -> bool {
        self.template || self.settings.contains_key(KEEP)
    }

    /// When it was ordered, if mantle did it.
    pub fn created(&self) -> Option<DateTime<Utc>> {
        self.settings.get(CREATED)?.parse().ok()
    }

    /// A setting of it.
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.settings.get(key).map(String::as_str)
    }

    /// Whether an order with this token made it.
    pub fn is_of(&self, token: &str) -> bool {
        self.settings.get(LAUNCH).is_some_and(|launch| launch == token)
    }

    /// The address at which it is reached: of version 4, if there is one; none that is good for one link only.
    pub fn address(&self) -> Option<&str> {
        let local = |a: &str| a.starts_with("169.254.") || a.to_ascii_lowercase().starts_with("fe80:");
        let good = || self.addresses.iter().map(String::as_str).filter(|a| !local(a));
        good().find(|a| a.matches(':').count() < 2).or_else(|| good().next())
    }
}

/// All machines, wherever they are.
///
/// # Errors
/// Any [`CallError`].
pub async fn machines(api: &Api) -> Result<Vec<Machine>> {
    Ok(Inventory::of(api).await?.machines())
}

/// A machine as it is now; `None`: it is gone.
///
/// # Errors
/// Any [`CallError`].
pub async fn look(api: &Api, machine: &Machine) -> Result<Option<Vm>> {
    let object = api.object(&machine.vm.target, PROPERTIES).await?;
    Ok(object.map(|o| Vm::read(machine.clone(), &o)))
}

/// Machines as they are now, without those that are gone.
///
/// # Errors
/// Any [`CallError`].
pub async fn look_at_all(api: &Api, machines: &[Machine]) -> Result<Vec<Vm>> {
    let targets: Vec<Ref> = machines.iter().map(|m| m.vm.target.clone()).collect();
    let found = api.retrieve(&targets, &[], &[("VirtualMachine", PROPERTIES)]).await?;
    let by_target: BTreeMap<_, _> = found.iter().map(|o| (&o.target, o)).collect();
    let read = |m: &Machine| Some(Vm::read(m.clone(), by_target.get(&m.vm.target)?));
    Ok(machines.iter().filter_map(read).collect())
}

/// What machines are made of.
#[derive(Clone, Debug)]
pub struct Base {
    /// The machine.
    pub vm: Named,
    card: Element,
    snapshot: Option<Ref>,
}

/// A machine to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewVm<'a> {
    /// Where.
    pub place: &'a Place,
    /// The backing of its ethernet card.
    pub backing: &'a Element,
    /// Its name, which nobody else uses.
    pub name: &'a str,
    /// What it is found by.
    pub token: &'a str,
}

/// The kinds of ethernet cards.
fn is_card(device: &Element) -> bool {
    const CARDS: [&str; 7] =
        ["E1000", "E1000e", "PCNet32", "Vmxnet", "Vmxnet2", "Vmxnet3", "SriovEthernetCard"];
    device.kind().strip_prefix("Virtual").is_some_and(|kind| CARDS.contains(&kind))
}

const DEVICES: &str = "config.hardware.device";

impl Base {
    /// Looks at a machine that others are to be made of.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn of(api: &Api, vm: Named) -> Result<Self> {
        let object = api.object(&vm.target, &[DEVICES, "snapshot"]).await?;
        let object = object.ok_or_else(|| CallError::setup(format!("{} is gone", vm.path)))?;
        let devices = object.get(DEVICES).map(Element::children).unwrap_or_default();
        let card = devices.iter().find(|d| is_card(d)).cloned();
        let card = card.ok_or_else(|| CallError::setup(format!("{}: No network device found.", vm.path)))?;
        let snapshot = object.get("snapshot").and_then(|s| s.target_at("currentSnapshot"));
        Ok(Self { vm, card, snapshot })
    }

    /// What a machine is to be: `backing` is that of its ethernet card.
    fn spec(&self, place: &Place, backing: &Element, token: &str) -> Element {
        let mut card = self.card.clone();
        // It is another card: the server gives it an address of its own.
        card.remove("macAddress");
        if card.at("addressType").is_some() {
            card.set(Element::text("addressType", "generated"));
        }
        card.set(backing.clone());
        let mut location =
            Element::new("location").with(Element::reference("datastore", &place.datastore.target));
        if self.snapshot.is_some() {
            location = location.with(Element::text("diskMoveType", "createNewChildDiskBacking"));
        }
        let location = location.with(Element::reference("pool", &place.pool)).with(change("edit", card));
        let created = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
        let marks = [MARK, (LAUNCH, token), (CREATED, &created)];
        let spec = Element::new("spec")
            .with(location)
            .with(Element::text("template", false))
            .with(Element::new("config").with_all(marks.map(|(key, value)| setting(key, value))))
            .with(Element::text("powerOn", false));
        match &self.snapshot {
            Some(snapshot) => spec.with(Element::reference("snapshot", snapshot)),
            None => spec,
        }
    }

    /// Makes a machine of it, which does not run yet; `doubt` is set when there may be two of them.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn clone_to(
        &self,
        api: &Api,
        new: &NewVm<'_>,
        cancel: &CancellationToken,
        doubt: &AtomicBool,
    ) -> Result<Machine> {
        let NewVm { place, backing, name, token } = *new;
        let machine = |target: Ref| {
            let path = format!("{}/.../{name}", place.datacenter.path);
            Machine { vm: Named { target, path }, datacenter: place.datacenter.clone() }
        };
        let call = format!("CloneVM_Task {name}");
        let order = || async {
            let with = [
                Element::reference("folder", &place.folder),
                Element::text("name", name),
                self.spec(place, backing, token),
            ];
            let of = &self.vm.target;
            let task =
                api.begin(call.clone().into(), of, "CloneVM_Task", with, Repeat::IfNotExecuted).await?;
            let ended = api.end_of(call.clone().into(), &task);
            tokio::pin!(ended);
            let done = tokio::select! {
                done = &mut ended => done,
                () = cancel.cancelled() => {
                    // It is waited for all the same: what comes of it must be known.
                    let stopped = api.call("CancelTask", &task, "CancelTask", [], Repeat::Never).await;
                    if let Err(e) = stopped {
                        crate::debug!(COMPONENT, "{}", chain(&e));
                    }
                    ended.await
                }
            };
            let made = done?.target("info.result");
            made.map(machine).ok_or_else(|| CallError::answer(call.clone(), "it names no machine"))
        };
        let find = || async { Ok(machines(api).await?.into_iter().find(|m| m.vm.name() == name)) };
        let once = Once { component: COMPONENT, shown: SHOWN, cancel, doubt };
        once.make(order, find, again).await
    }
}

fn again(error: &CallError, tries: u32) -> Option<Duration> {
    (error.is_doubtful() && tries < ORDERS).then_some(Duration::from_secs(1))
}

/// A change of a device.
fn change(operation: &str, device: Element) -> Element {
    let change = Element::typed("deviceChange", "VirtualDeviceConfigSpec");
    change.with(Element::text("operation", operation)).with(device.named("device"))
}

/// A setting of a machine.
pub fn setting(key: &str, value: &str) -> Element {
    let value = Element::text("value", value).attribute("xsi:type", "xsd:string");
    Element::typed("extraConfig", "OptionValue").with(Element::text("key", key)).with(value)
}

/// Userdata as settings hold it, and the name of its encoding.
///
/// # Errors
/// When it is too long.
pub fn encoded(user_data: &str) -> Result<(String, &'static str)> {
    let bytes = user_data.as_bytes();
    let (text, encoding) = if bytes.len() <= PLAIN {
        (base64::encode_block(bytes), "base64")
    } else {
        let mut packed = GzEncoder::new(Vec::new(), flate2::Compression::best());
        packed.write_all(bytes).expect("memory takes what is written");
        (base64::encode_block(&packed.finish().expect("memory takes what is written")), "gzip+base64")
    };
    match text.len() {
        ..=SETTING => Ok((text, encoding)),
        long => Err(CallError::setup(format!(
            "the userdata has {long} bytes in {encoding}, vSphere takes {SETTING}"
        ))),
    }
}

/// The changes that give a machine a console, and userdata if they are not empty. `None`: it has them.
fn configuration(object: &Object, user_data: &str) -> Result<Option<Element>> {
    let devices = object.get(DEVICES).map(Element::children).unwrap_or_default();
    let files = object.text("config.files.logDirectory").trim_end_matches('/');
    let odd = |reason: &str| CallError::answer("RetrievePropertiesEx", reason);
    if files.is_empty() {
        return Err(odd("the machine has no folder of files"));
    }
    let console = format!("{files}/{CONSOLE}");
    let backing = Element::typed("backing", "VirtualSerialPortFileBackingInfo")
        .with(Element::text("fileName", &console));
    let port = devices.iter().find(|d| d.kind() == "VirtualSerialPort");
    if port.is_some_and(|p| p.said("backing/fileName") == Some(&console)) {
        return Ok(None);
    }
    let port = match port {
        Some(port) => {
            let mut port = port.clone();
            port.set(backing);
            change("edit", port)
        }
        None => {
            let controller =
                devices.iter().find(|d| d.kind() == "VirtualSIOController").and_then(|d| d.said("key"));
            let controller =
                controller.ok_or_else(|| odd("the machine has no controller for a serial port"))?;
            let connectable =
                ["startConnected", "allowGuestControl", "connected"].map(|name| Element::text(name, true));
            let port = Element::typed("device", "VirtualSerialPort")
                .with(Element::text("key", -1))
                .with(backing)
                .with(Element::new("connectable").with_all(connectable))
                .with(Element::text("controllerKey", controller))
                .with(Element::text("yieldOnPoll", true));
            change("add", port)
        }
    };
    let spec = Element::new("spec").with(port);
    if user_data.is_empty() {
        return Ok(Some(spec));
    }
    let (data, encoding) = encoded(user_data)?;
    let empty = Element::default();
    let properties = object.get("config.vAppConfig").unwrap_or(&empty);
    let property = |name: &str, value: &str| {
        let mut info = properties.all("property").find(|p| p.said("id") == Some(name))?.clone();
        info.remove("value");
        info.set(Element::text("defaultValue", value));
        let spec = Element::new("property").with(Element::text("operation", "edit"));
        Some(spec.with(info.named("info")))
    };
    let both = |name: &&str| Some([property(name, &data)?, property(&format!("{name}.encoding"), encoding)?]);
    // Images that were made for it have a place for it; guests of all others look at the settings.
    Ok(Some(match USER_DATA.iter().find_map(both) {
        Some(both) => spec.with(Element::typed("vAppConfig", "VmConfigSpec").with_all(both)),
        None => spec.with_all(
            USER_DATA
                .iter()
                .flat_map(|name| [setting(name, &data), setting(&format!("{name}.encoding"), encoding)]),
        ),
    }))
}

/// Gives a machine that does not run yet its userdata and a console.
///
/// # Errors
/// Any [`CallError`].
pub async fn configure(
    api: &Api,
    machine: &Machine,
    user_data: &str,
    cancel: &CancellationToken,
) -> Result<()> {
    let (of, name) = (&machine.vm.target, machine.vm.name());
    let seen = || async {
        let object = api.object(of, &[DEVICES, "config.files.logDirectory", "config.vAppConfig"]).await?;
        object.ok_or_else(|| CallError::setup(format!("{name} is gone")))
    };
    let Some(spec) = configuration(&seen().await?, user_data)? else { return Ok(()) };
    let order = || async {
        let call = format!("ReconfigVM_Task {name}");
        api.task(call, of, "ReconfigVM_Task", [spec.clone()], Repeat::IfNotExecuted).await.map(drop)
    };
    let find = || async { Ok(configuration(&seen().await?, user_data)?.is_none().then_some(())) };
    once(cancel, &AtomicBool::new(false)).make(order, find, again).await
}

fn once<'a>(cancel: &'a CancellationToken, doubt: &'a AtomicBool) -> Once<'a> {
    Once { component: COMPONENT, shown: SHOWN_AT_ONCE, cancel, doubt }
}

/// Lets a machine run.
///
/// # Errors
/// Any [`CallError`].
pub async fn power_on(api: &Api, machine: &Machine, cancel: &CancellationToken) -> Result<()> {
    const POWER: &str = "runtime.powerState";
    let (of, name) = (&machine.vm.target, machine.vm.name());
    let order = || async {
        let call = format!("PowerOnVM_Task {name}");
        api.task(call, of, "PowerOnVM_Task", [], Repeat::IfNotExecuted).await.map(drop)
    };
    let find = || async {
        let object = api.object(of, &[POWER]).await?;
        Ok(object.is_some_and(|o| o.text(POWER) == "poweredOn").then_some(()))
    };
    once(cancel, &AtomicBool::new(false)).make(order, find, again).await
}

/// Ends a machine and removes it with all that it wrote, whether it runs or not; what its console has said. That it is
/// gone is fine.
///
/// # Errors
/// Any [`CallError`].
pub async fn end(api: &Api, machine: &Machine) -> Result<Option<Vec<u8>>> {
    let Some(vm) = look(api, machine).await? else { return Ok(None) };
    let (of, name) = (&vm.machine.vm.target, &vm.name);
    if vm.power != "poweredOff" {
        let call = format!("PowerOffVM_Task {name}");
        if let Err(e) = api.task(call, of, "PowerOffVM_Task", [], Repeat::Freely).await {
            // If it matters, the machine cannot be removed.
            crate::debug!(COMPONENT, "{}", chain(&e));
        }
    }
    // Now nobody writes it any more, and it is there yet.
    let console = match console(api, &vm).await {
        Ok(text) => text,
        Err(e) => {
            crate::warning!(COMPONENT, "no last words of {name}: {}", chain(&e));
            None
        }
    };
    let order = || async {
        let call = format!("Destroy_Task {name}");
        match api.task(call, of, "Destroy_Task", [], Repeat::IfNotExecuted).await {
            Err(e) if e.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    };
    let find = || async { Ok(api.object(of, &["name"]).await?.is_none().then_some(())) };
    // Clean-up: the run's end does not end it.
    once(&CancellationToken::new(), &AtomicBool::new(false)).make(order, find, again).await?;
    clear(api, &vm).await?;
    Ok(console)
}

/// The datastore and the path of a place such as `[datastore] path/`.
fn place(files: &str) -> Option<(&str, &str)> {
    let (datastore, path) = files.strip_prefix('[')?.split_once(']')?;
    Some((datastore, path.trim().trim_matches('/'))).filter(|(d, p)| !d.is_empty() && !p.is_empty())
}

/// Removes what is left in the folder of a machine that is gone: the server removes only what it made itself.
async fn clear(api: &Api, vm: &Vm) -> Result<()> {
    let Some((datastore, path)) = place(&vm.files) else { return Ok(()) };
    // Never more than its own.
    if !path.rsplit('/').next().is_some_and(|last| last.starts_with(&vm.name)) {
        crate::warning!(COMPONENT, "{} is left: it is not named as {} was", vm.files, vm.name);
        return Ok(());
    }
    let manager = api.session().content().await?.manager("fileManager")?;
    let name = format!("[{datastore}] {path}");
    let with =
        [Element::text("name", &name), Element::reference("datacenter", &vm.machine.datacenter.target)];
    let call = format!("DeleteDatastoreFile_Task {name}");
    match api.task(call, &manager, "DeleteDatastoreFile_Task", with, Repeat::Freely).await {
        Err(e) if e.is_not_found() => Ok(()),
        // Without a word of what is missing.
        Err(e) if e.is(&["InvalidDatastorePath"]) => Ok(()),
        other => other.map(drop),
    }
}

/// What a machine's console has said; `None`: nothing that can be read now.
///
/// # Errors
/// Any [`CallError`].
pub async fn console(api: &Api, vm: &Vm) -> Result<Option<Vec<u8>>> {
    let Some((datastore, path)) = place(&vm.files) else { return Ok(None) };
    let pieces: Vec<String> = path.split('/').map(encode).collect();
    let mut url = api.session().beside(&format!("/folder/{}/{CONSOLE}", pieces.join("/")));
    let datacenter = vm.machine.datacenter.path.trim_start_matches('/');
    url.query_pairs_mut().append_pair("dcPath", datacenter).append_pair("dsName", datastore);
    api.file(format!("the console of {}", vm.name), url, MAX_CONSOLE).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(properties: &[(&str, &str)]) -> Object {
        let sets: String = properties
            .iter()
            .map(|(name, val)| format!("<propSet><name>{name}</name><val>{val}</val></propSet>"))
            .collect();
        let text = format!("<objects xmlns:xsi='x'><obj type='VirtualMachine'>vm-1</obj>{sets}</objects>");
        Object::read(&Element::read(text.as_bytes()).unwrap()).unwrap()
    }

    fn machine() -> Machine {
        let named = |path: &str| Named { target: Ref::new("X", path), path: path.into() };
        Machine { vm: named("/D/vm/v"), datacenter: named("/D") }
    }

    #[test]
    fn addresses_are_those_that_lead_there() {
        let net = |addresses: &[&str]| {
            let all: String = addresses.iter().map(|a| format!("<ipAddress>{a}</ipAddress>")).collect();
            let net = format!("<GuestNicInfo>{all}</GuestNicInfo>");
            Vm::read(machine(), &object(&[("guest.net", &net), ("name", "v")])).address().map(str::to_owned)
        };
        assert_eq!(net(&["fe80::1", "169.254.1.1"]), None);
        assert_eq!(net(&["fd00::1", "192.0.2.1"]).as_deref(), Some("192.0.2.1"));
        assert_eq!(net(&["FE80::1", "fd00::1"]).as_deref(), Some("fd00::1"));
        assert_eq!(net(&["127.0.0.1:40022"]).as_deref(), Some("127.0.0.1:40022"));
        assert_eq!(net(&[]), None);
    }

    #[test]
    fn marks_are_read_back() {
        let options: String = [MARK, (LAUNCH, "t"), (CREATED, "2026-01-02T03:04:05Z")]
            .map(|(key, value)| {
                format!(
                    "<OptionValue><key>{key}</key><value xsi:type='xsd:string'>{value}</value></OptionValue>"
                )
            })
            .concat();
        let vm =
            Vm::read(machine(), &object(&[("config.extraConfig", &options), ("config.template", "false")]));
        assert!(vm.is_ours() && !vm.is_kept() && vm.is_of("t") && !vm.is_of("u"));
        assert_eq!(vm.created().unwrap().to_rfc3339(), "2026-01-02T03:04:05+00:00");
        let vm = Vm::read(machine(), &object(&[("config.template", "true")]));
        assert!(!vm.is_ours() && vm.is_kept() && vm.created().is_none());
    }

    const SIO: &str = "<VirtualDevice xsi:type='VirtualSIOController'><key>400</key></VirtualDevice>";

    #[test]
    fn userdata_go_where_the_guest_looks_for_them() {
        let files = ("config.files.logDirectory", "[d s] v_1/");
        let plain = configuration(&object(&[(DEVICES, SIO), files]), "hello").unwrap().unwrap();
        let device = plain.at("deviceChange/device").unwrap();
        assert_eq!(plain.said("deviceChange/operation"), Some("add"));
        assert_eq!((device.kind(), device.said("controllerKey")), ("VirtualSerialPort", Some("400")));
        assert_eq!(device.said("backing/fileName"), Some("[d s] v_1/serial.out"));
        let settings: Vec<_> =
            plain.all("extraConfig").map(|s| (s.said("key").unwrap(), s.said("value").unwrap())).collect();
        assert_eq!(
            settings[..2],
            [(USER_DATA[0], "aGVsbG8="), ("guestinfo.coreos.config.data.encoding", "base64")]
        );
        assert_eq!(settings.len(), 4);
        // An image made for it has properties for both.
        let property = |key: u8, id: &str| {
            format!("<property><key>{key}</key><id>{id}</id><type>string</type><value>old</value></property>")
        };
        let vapp = format!(
            "{}{}",
            property(3, USER_DATA[1]),
            property(4, "guestinfo.ignition.config.data.encoding")
        );
        let made = configuration(&object(&[(DEVICES, SIO), files, ("config.vAppConfig", &vapp)]), "hello")
            .unwrap()
            .unwrap();
        let properties: Vec<_> = made.at("vAppConfig").unwrap().all("property").collect();
        assert_eq!(made.all("extraConfig").count(), 0);
        assert_eq!(properties[0].said("operation"), Some("edit"));
        assert_eq!(
            (properties[0].said("info/key"), properties[0].said("info/defaultValue")),
            (Some("3"), Some("aGVsbG8="))
        );
        assert_eq!(
            (properties[1].said("info/value"), properties[1].said("info/defaultValue")),
            (None, Some("base64"))
        );
        // Half of them is none.
        let half = property(3, USER_DATA[0]);
        let made = configuration(&object(&[(DEVICES, SIO), files, ("config.vAppConfig", &half)]), "x")
            .unwrap()
            .unwrap();
        assert_eq!((made.at("vAppConfig"), made.all("extraConfig").count()), (None, 4));
        // A port that is there is used, and one that is as it should be is left alone.
        let port = |file: &str| {
            format!(
                "{SIO}<VirtualDevice xsi:type='VirtualSerialPort'><key>9000</key><backing><fileName>{file}</fileName></backing></VirtualDevice>"
            )
        };
        let made = configuration(&object(&[(DEVICES, &port("[x] y")), files]), "").unwrap().unwrap();
        assert_eq!(
            (made.said("deviceChange/operation"), made.said("deviceChange/device/key")),
            (Some("edit"), Some("9000"))
        );
        assert_eq!(made.children().len(), 1);
        assert!(
            configuration(&object(&[(DEVICES, &port("[d s] v_1/serial.out")), files]), "x")
                .unwrap()
                .is_none()
        );
        for (devices, files) in [("", files), (SIO, ("config.files.logDirectory", ""))] {
            assert!(configuration(&object(&[(DEVICES, devices), files]), "x").is_err());
        }
    }

    #[test]
    fn long_userdata_are_packed_and_too_long_ones_refused() {
        assert_eq!(encoded("x").unwrap(), ("eA==".into(), "base64"));
        let (text, encoding) = encoded(&"line\n".repeat(20_000)).unwrap();
        assert_eq!(encoding, "gzip+base64");
        let packed = base64::decode_block(&text).unwrap();
        let mut whole = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&packed[..]), &mut whole).unwrap();
        assert_eq!(whole.len(), 100_000);
        let random: String = (0..9000).map(|_| uuid::Uuid::new_v4().to_string()).collect();
        assert!(encoded(&random).unwrap_err().to_string().contains("vSphere takes 65536"));
    }

    #[test]
    fn clones_have_a_network_a_mark_and_a_card_of_their_own() {
        let card = "<d xsi:type='VirtualVmxnet3'><key>4000</key><backing xsi:type='Old'/><controllerKey>100</controllerKey>\
                    <addressType>assigned</addressType><macAddress>00:50:56:00:00:01</macAddress></d>";
        let card = Element::read(card.as_bytes()).unwrap();
        let named = |path: &str| Named { target: Ref::new("X", path), path: path.into() };
        let place = Place {
            datacenter: named("/D"),
            folder: Ref::new("Folder", "f"),
            pool: Ref::new("ResourcePool", "p"),
            datastore: named("/D/datastore/ds"),
            network: named("/D/network/n"),
            networks: Vec::new(),
        };
        let mut base = Base { vm: named("/D/vm/base"), card, snapshot: None };
        let backing = Element::typed("backing", "New");
        let spec = base.spec(&place, &backing, "token");
        let device = spec.at("location/deviceChange/device").unwrap();
        assert_eq!((device.kind(), device.at("backing").unwrap().kind()), ("VirtualVmxnet3", "New"));
        assert_eq!((device.at("macAddress"), device.said("addressType")), (None, Some("generated")));
        assert_eq!((spec.said("powerOn"), spec.at("location/diskMoveType")), (Some("false"), None));
        let marks: Vec<_> =
            spec.at("config").unwrap().children().iter().map(|s| s.said("key").unwrap()).collect();
        assert_eq!(marks, [MARK.0, LAUNCH, CREATED]);
        base.snapshot = Some(Ref::new("VirtualMachineSnapshot", "s"));
        let spec = base.spec(&place, &backing, "token");
        assert_eq!(spec.said("location/diskMoveType"), Some("createNewChildDiskBacking"));
        assert_eq!(spec.said("snapshot"), Some("s"));
    }

    #[test]
    fn folders_of_files_are_understood() {
        assert_eq!(place("[ds 1] a/b/"), Some(("ds 1", "a/b")));
        for odd in ["", "[ds]", "[ds] /", "ds/a", "[] a"] {
            assert_eq!(place(odd), None, "{odd}");
        }
    }
}
