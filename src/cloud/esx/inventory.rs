//! What there is at a vSphere, and which of it is meant.

use std::collections::BTreeMap;

use super::api::{Api, Object, Result, Way};
use super::sources::Wanted;
use super::vm::Machine;
use super::xml::{Element, Ref};
use crate::http::CallError;

const ALL: &[&str] = &["folder", "vm", "host", "datastore", "network", "pool"];

/// From the root to everything.
const WAYS: &[Way] = &[
    ("folder", "Folder", "childEntity", ALL),
    ("vm", "Datacenter", "vmFolder", &["folder"]),
    ("host", "Datacenter", "hostFolder", &["folder"]),
    ("datastore", "Datacenter", "datastoreFolder", &["folder"]),
    ("network", "Datacenter", "networkFolder", &["folder"]),
    ("pool", "ComputeResource", "resourcePool", &["inner"]),
    ("inner", "ResourcePool", "resourcePool", &["inner"]),
];

const NAMED: &[&str] = &["name", "parent"];

/// Datacenters, and what is in them.
#[derive(Debug)]
pub struct Inventory(BTreeMap<Ref, Object>);

/// Something with its inventory path.
#[derive(Clone, Debug)]
pub struct Named {
    /// Which.
    pub target: Ref,
    /// Its path, such as `/DC0/network/VM Network`.
    pub path: String,
}

impl Named {
    /// The last piece of its path.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

/// Where machines are made.
#[derive(Clone, Debug)]
pub struct Place {
    /// The datacenter.
    pub datacenter: Named,
    /// The folder.
    pub folder: Ref,
    /// The resource pool.
    pub pool: Ref,
    /// The datastore.
    pub datastore: Named,
    /// The network.
    pub network: Named,
    /// All networks of the datacenter.
    pub networks: Vec<Named>,
}

impl Inventory {
    /// Asks for it.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn of(api: &Api) -> Result<Self> {
        let root = api.session().content().await?.manager("rootFolder")?;
        let wanted: &[(&str, &[&str])] = &[
            ("Folder", NAMED),
            ("Datacenter", &["name", "parent", "vmFolder"]),
            ("ComputeResource", NAMED),
            ("ResourcePool", NAMED),
            ("Datastore", NAMED),
            ("Network", NAMED),
            ("VirtualMachine", NAMED),
        ];
        let found = api.retrieve(&[root], WAYS, wanted).await?;
        Ok(Self(found.into_iter().map(|o| (o.target.clone(), o)).collect()))
    }

    /// The inventory path: names from the root's children on.
    fn path(&self, of: &Ref) -> String {
        let (mut names, mut at) = (Vec::new(), self.0.get(of));
        // As deep as it goes; a server may lie.
        while let Some(object) = at.filter(|_| names.len() < 64) {
            let Some(parent) = object.target("parent") else { break };
            names.push(object.text("name"));
            at = self.0.get(&parent);
        }
        names.iter().rev().flat_map(|name| ["/", name]).collect()
    }

    fn all(&self, is_it: impl Fn(&Object) -> bool) -> Vec<Named> {
        let named = |o: &Object| Named { path: self.path(&o.target), target: o.target.clone() };
        let mut all: Vec<_> = self.0.values().filter(|o| is_it(o)).map(named).collect();
        all.sort_by(|a, b| a.path.cmp(&b.path));
        all
    }

    /// All machines.
    pub fn machines(&self) -> Vec<Machine> {
        let datacenters = self.all(|o| o.target.kind == "Datacenter");
        let machine = |vm: Named| {
            let is_in = |d: &&Named| vm.path.strip_prefix(&d.path).is_some_and(|rest| rest.starts_with('/'));
            let datacenter = datacenters.iter().find(is_in)?.clone();
            Some(Machine { vm, datacenter })
        };
        self.all(|o| o.target.kind == "VirtualMachine").into_iter().filter_map(machine).collect()
    }

    /// The machine of this name or inventory path in a datacenter.
    ///
    /// # Errors
    /// When there is none, or several.
    pub fn machine(&self, named: &str, datacenter: &Named) -> Result<Named> {
        let mut all: Vec<Named> = self
            .machines()
            .into_iter()
            .filter(|m| m.datacenter.target == datacenter.target)
            .map(|m| m.vm)
            .collect();
        all.sort_by(|a, b| a.path.cmp(&b.path));
        choose("VM", Some(named), &all, &[])
    }

    /// The datacenter that is meant.
    ///
    /// # Errors
    /// When it is not there, or it is not clear which is meant.
    pub fn datacenter(&self, wanted: &Wanted) -> Result<Named> {
        let all = self.all(|o| o.target.kind == "Datacenter");
        choose("datacenter", wanted.datacenter.as_deref(), &all, &all)
    }

    /// The place that is meant.
    ///
    /// # Errors
    /// When something is not there, or it is not clear which is meant.
    pub fn place(&self, wanted: &Wanted) -> Result<Place> {
        let of = |kinds: &'static [&'static str]| move |o: &Object| kinds.contains(&&*o.target.kind);
        let datacenter = self.datacenter(wanted)?;
        let below = format!("{}/", datacenter.path);
        let inside = |mut all: Vec<Named>| {
            all.retain(|n| n.path.starts_with(&below));
            all
        };
        let pools = inside(self.all(of(&["ResourcePool", "VirtualApp"])));
        let is_root = |pool: &Named| {
            let parent = self.0.get(&pool.target).and_then(|o| o.target("parent"));
            parent.is_some_and(|p| p.kind.ends_with("ComputeResource"))
        };
        let roots: Vec<_> = pools.iter().filter(|p| is_root(p)).cloned().collect();
        let pool = choose("resource pool", wanted.pool.as_deref(), &pools, &roots)?;
        let datastores = inside(self.all(of(&["Datastore"])));
        let datastore = choose("datastore", wanted.datastore.as_deref(), &datastores, &datastores)?;
        let mut networks = inside(self.all(of(&["Network", "DistributedVirtualPortgroup"])));
        // These lead out of the house, to no machine.
        networks.retain(|n| !n.name().contains("DVUplinks"));
        let network = choose("network", wanted.network.as_deref(), &networks, &networks)?;
        let home = self.0.get(&datacenter.target).and_then(|d| d.target("vmFolder"));
        let home =
            home.ok_or_else(|| CallError::setup(format!("{} has no folder of machines", datacenter.path)))?;
        let home = Named { path: self.path(&home), target: home };
        let mut folders = self.all(of(&["Folder"]));
        folders.retain(|f| f.path == home.path || f.path.starts_with(&format!("{}/", home.path)));
        let folder = choose("folder", wanted.folder.as_deref(), &folders, &[home])?;
        let (folder, pool) = (folder.target, pool.target);
        Ok(Place { datacenter, folder, pool, datastore, network, networks })
    }
}

/// The one that is meant: by name or the end of its path; without that, the only one of those that go without saying.
fn choose(kind: &str, wanted: Option<&str>, all: &[Named], usual: &[Named]) -> Result<Named> {
    let list = |all: &[Named]| all.iter().map(|n| n.path.as_str()).collect::<Vec<_>>().join(", ");
    let Some(wanted) = wanted else {
        return match usual {
            [one] => Ok(one.clone()),
            [] => Err(CallError::setup(format!("there is no {kind}"))),
            several => Err(CallError::setup(format!(
                "default {kind} resolves to multiple instances, please specify one of {}",
                list(several)
            ))),
        };
    };
    let asked = wanted.trim_matches('/');
    let is_it = |path: &str| path.trim_start_matches('/') == asked || path.ends_with(&format!("/{asked}"));
    // The pool of a cluster or host goes by the name of that, too.
    let fits = |n: &&Named| is_it(&n.path) || n.path.strip_suffix("/Resources").is_some_and(is_it);
    let found: Vec<Named> = all.iter().filter(fits).cloned().collect();
    match &found[..] {
        [one] => Ok(one.clone()),
        // Machines are many.
        [] if kind == "VM" => Err(CallError::setup(format!("couldn't find VM: there is no {wanted:?}"))),
        [] => Err(CallError::setup(format!("there is no {kind} {wanted:?}; there are {}", list(all)))),
        several => Err(CallError::setup(format!("{kind} {wanted:?} may be any of {}", list(several)))),
    }
}

/// The backing of an ethernet card in a network.
///
/// # Errors
/// Any [`CallError`].
pub async fn backing(api: &Api, network: &Named) -> Result<Element> {
    if network.target.kind != "DistributedVirtualPortgroup" {
        let backing = Element::typed("backing", "VirtualEthernetCardNetworkBackingInfo");
        let name = Element::text("deviceName", network.name());
        return Ok(backing.with(name).with(Element::reference("network", &network.target)));
    }
    let odd = || CallError::setup(format!("{} has no switch", network.path));
    let group =
        api.object(&network.target, &["key", "config.distributedVirtualSwitch"]).await?.ok_or_else(odd)?;
    let switch = group.target("config.distributedVirtualSwitch").ok_or_else(odd)?;
    let switch = api.object(&switch, &["uuid"]).await?.ok_or_else(odd)?;
    let port = Element::new("port")
        .with(Element::text("switchUuid", switch.text("uuid")))
        .with(Element::text("portgroupKey", group.text("key")));
    Ok(Element::typed("backing", "VirtualEthernetCardDistributedVirtualPortBackingInfo").with(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(paths: &[&str]) -> Vec<Named> {
        paths.iter().map(|path| Named { target: Ref::new("X", path), path: (*path).to_owned() }).collect()
    }

    #[test]
    fn what_is_meant_is_found_or_asked_for() {
        let pools = named(&["/D/host/C1/Resources", "/D/host/C1/Resources/prod", "/D/host/C2/Resources"]);
        let ask = |wanted, usual: &[Named]| choose("resource pool", wanted, &pools, usual).map(|n| n.path);
        let say = |wanted, usual: &[Named]| ask(wanted, usual).unwrap_err().to_string();
        assert_eq!(ask(None, &pools[2..]).unwrap(), "/D/host/C2/Resources");
        assert_eq!(ask(Some("C1"), &[]).unwrap(), "/D/host/C1/Resources");
        assert_eq!(ask(Some("prod"), &[]).unwrap(), "/D/host/C1/Resources/prod");
        assert_eq!(ask(Some("/D/host/C2/Resources"), &[]).unwrap(), "/D/host/C2/Resources");
        assert!(say(None, &pools).ends_with("multiple instances, please specify one of /D/host/C1/Resources, /D/host/C1/Resources/prod, /D/host/C2/Resources"));
        assert!(say(Some("Resources"), &[]).contains("may be any of"));
        assert!(say(Some("x"), &[]).contains("there is no resource pool \"x\"; there are /D/host/C1"));
        assert_eq!(say(None, &[]), "there is no resource pool");
    }
}
