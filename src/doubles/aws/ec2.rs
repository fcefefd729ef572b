//! EC2: snapshots that are imported, images that are registered and copied, who may use them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{ACCOUNT, State, element, leaf, now, refused};
use crate::doubles::{Request, Response};

/// An import or a copy is under way for so many looks.
const LOOKS: u32 = 1;
/// Bytes of a GiB.
const GIB: u64 = 1 << 30;
/// What a disk of VMware in the form for streams begins with; "Virtual Disk Format 5.0".
const VMDK: &[u8] = b"KDMV";

/// What a region has.
#[derive(Default)]
pub(super) struct Region {
    pub snapshots: BTreeMap<String, Snapshot>,
    pub images: BTreeMap<String, Image>,
    tasks: BTreeMap<String, Task>,
}

/// A snapshot.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// Its id.
    pub id: String,
    /// Its size in GiB.
    pub size_gib: u64,
    /// What EC2 says of it.
    pub description: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Who may make volumes of it: accounts, or `all`.
    pub permissions: BTreeSet<String>,
    started: String,
}

/// An image.
#[derive(Clone, Debug, Serialize)]
pub struct Image {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// What machines of it are.
    pub architecture: String,
    /// How they are virtualized.
    pub virtualization: String,
    /// The kernel that they boot, if they need one.
    pub kernel: Option<String>,
    /// The device they start from.
    pub root_device: String,
    /// The snapshot of that device.
    pub snapshot: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Who may start machines of it: accounts, or `all`.
    pub permissions: BTreeSet<String>,
    ena: bool,
    sriov: Option<String>,
    #[serde(skip)]
    mappings: Vec<BTreeMap<String, String>>,
    created: String,
    /// It is pending for so many looks.
    #[serde(skip)]
    looks: u32,
}

impl Image {
    /// Whether everybody may start machines of it.
    pub fn is_public(&self) -> bool {
        self.permissions.contains("all")
    }
}

struct Task {
    id: String,
    description: String,
    format: String,
    bucket: String,
    key: String,
    size_gib: u64,
    /// Why it fails, if it does.
    trouble: Option<&'static str>,
    looks: u32,
    snapshot: Option<String>,
}

/// The fields of a form.
struct Form(BTreeMap<String, String>);

impl Form {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default().to_owned()
    }

    /// `NAME.1`, `NAME.2`, …
    fn list(&self, name: &str) -> Vec<String> {
        (1..).map_while(|n| self.0.get(&format!("{name}.{n}")).cloned()).collect()
    }

    /// The fields below `NAME.1.`, `NAME.2.`, …
    fn structures(&self, name: &str) -> Vec<BTreeMap<String, String>> {
        let below = |n: usize| -> BTreeMap<String, String> {
            let prefix = format!("{name}.{n}.");
            let fields =
                self.0.iter().filter_map(|(k, v)| Some((k.strip_prefix(&prefix)?.to_owned(), v.clone())));
            fields.collect()
        };
        (1..).map(below).take_while(|fields| !fields.is_empty()).collect()
    }

    /// Whether something fits all filters; `value`: what it has under a filter's name.
    fn fits(&self, value: impl Fn(&str) -> Option<String>) -> bool {
        self.structures("Filter").iter().all(|filter| {
            let there = filter.get("Name").and_then(|name| value(name));
            let mut wanted = filter.iter().filter(|(name, _)| name.starts_with("Value.")).map(|(_, v)| v);
            wanted.any(|wanted| there.as_ref() == Some(wanted))
        })
    }

    /// Accounts and groups that are added.
    fn added(&self, what: &str) -> BTreeSet<String> {
        let added = self.structures(&format!("{what}.Add")).into_iter();
        added.filter_map(|one| one.get("Group").or(one.get("UserId")).cloned()).collect()
    }
}

/// A refusal.
struct No(u16, &'static str, String);

type Result<T, E = No> = std::result::Result<T, E>;

fn no<T>(code: &'static str, message: impl Into<String>) -> Result<T> {
    Err(No(400, code, message.into()))
}

/// Does what is asked of a region.
pub(super) fn answer(state: &mut State, region: &str, request: &Request) -> Response {
    let form = Form(request.form().into_iter().collect());
    let action = form.text("Action");
    match run(state, region, &action, &form) {
        Ok(body) => {
            let body = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?><{action}Response \
                 xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId>{body}</{action}Response>"
            );
            Response::new(200, "text/xml;charset=UTF-8", body)
        }
        Err(No(status, code, message)) => refused(status, code, &message),
    }
}

fn run(state: &mut State, region: &str, action: &str, form: &Form) -> Result<String> {
    if form.get("DryRun").is_some_and(|dry| dry == "true") {
        return Err(No(
            412,
            "DryRunOperation",
            "Request would have succeeded, but DryRun flag is set.".into(),
        ));
    }
    // The order was given before, and its answer lost.
    let token = form.get("ClientToken").map(|token| format!("{region} {action} {token}"));
    if let Some(known) = token.as_ref().and_then(|token| state.tokens.get(token)) {
        return Ok(known.clone());
    }
    let done = match action {
        "ImportSnapshot" => import(state, region, form),
        "CopyImage" => copy(state, region, form),
        "RegisterImage" => register(state, region, form),
        _ => state.regions.entry(region.to_owned()).or_default().run(region, action, form),
    };
    if let (Ok(body), Some(token)) = (&done, token) {
        state.tokens.insert(token, body.clone());
    }
    done
}

fn import(state: &mut State, region: &str, form: &Form) -> Result<String> {
    let [format, bucket, key] = ["Format", "UserBucket.S3Bucket", "UserBucket.S3Key"]
        .map(|name| form.text(&format!("DiskContainer.{name}")));
    if !["VMDK", "RAW", "VHD"].contains(&format.to_uppercase().as_str()) {
        return no("InvalidParameter", format!("The value {format} for parameter Format is invalid"));
    }
    let object = state.buckets.get(&bucket).and_then(|b| b.objects.get(&key));
    let Some(object) = object else { return no("InvalidParameter", "The given S3 object is not accessible") };
    let broken = format.eq_ignore_ascii_case("VMDK") && !object.begin.starts_with(VMDK);
    let trouble = broken.then_some("ClientError: Disk validation failed [Unsupported VMDK File]");
    let (size_gib, description) = (object.size.div_ceil(GIB).max(1), form.text("Description"));
    let id = state.id("import-snap");
    let task = Task {
        id: id.clone(),
        description,
        format,
        bucket,
        key,
        size_gib,
        trouble,
        looks: 0,
        snapshot: None,
    };
    let shown = task.show();
    state.regions.entry(region.to_owned()).or_default().tasks.insert(id, task);
    Ok(shown)
}

fn register(state: &mut State, region: &str, form: &Form) -> Result<String> {
    let (name, root) = (form.text("Name"), form.text("RootDeviceName"));
    let id = state.id("ami");
    let there = state.regions.entry(region.to_owned()).or_default();
    there.check_name(&name)?;
    let mut mappings = form.structures("BlockDeviceMapping");
    for mapping in &mut mappings {
        let Some(snapshot) = mapping.get("Ebs.SnapshotId") else { continue };
        let size = there.snapshot(snapshot)?.size_gib.to_string();
        mapping.entry("Ebs.VolumeSize".into()).or_insert(size);
    }
    let start = mappings.iter().find(|m| m.get("DeviceName") == Some(&root));
    let Some(snapshot) = start.and_then(|m| m.get("Ebs.SnapshotId")).cloned() else {
        return no("InvalidBlockDeviceMapping", "The device mapping of the root device is missing.");
    };
    let or = |name: &str, default: &str| form.get(name).unwrap_or(default).to_owned();
    let image = Image {
        id: id.clone(),
        name,
        description: form.get("Description").map(str::to_owned),
        architecture: or("Architecture", "i386"),
        virtualization: or("VirtualizationType", "paravirtual"),
        kernel: form.get("KernelId").map(str::to_owned),
        root_device: root,
        snapshot,
        tags: BTreeMap::new(),
        permissions: BTreeSet::new(),
        ena: form.get("EnaSupport") == Some("true"),
        sriov: form.get("SriovNetSupport").map(str::to_owned),
        mappings,
        created: now(),
        looks: 0,
    };
    there.images.insert(id.clone(), image);
    Ok(leaf("imageId", &id))
}

/// The part of Amazon that a region is in: nothing is copied from one to another.
fn partition(region: &str) -> &str {
    ["cn-", "us-gov-"].into_iter().find(|begin| region.starts_with(begin)).unwrap_or_default()
}

fn copy(state: &mut State, region: &str, form: &Form) -> Result<String> {
    let (name, source, from) = (form.text("Name"), form.text("SourceImageId"), form.text("SourceRegion"));
    let missing = || No(400, "InvalidAMIID.NotFound", format!("The image id '[{source}]' does not exist"));
    let original = state.regions.get(&from).filter(|_| partition(&from) == partition(region));
    let original = original.and_then(|r| r.images.get(&source)).cloned().ok_or_else(missing)?;
    let size_gib =
        state.regions.get(&from).and_then(|r| r.snapshots.get(&original.snapshot)).map_or(1, |s| s.size_gib);
    let (id, snapshot) = (state.id("ami"), state.id("snap"));
    let there = state.regions.entry(region.to_owned()).or_default();
    there.check_name(&name)?;
    let description = format!(
        "Copied for DestinationAmi {id} from SourceAmi {source} for SourceSnapshot {}.",
        original.snapshot
    );
    there.add_snapshot(snapshot.clone(), size_gib, description);
    let mut mappings = original.mappings.clone();
    for of in mappings.iter_mut().filter_map(|m| m.get_mut("Ebs.SnapshotId")) {
        of.clone_from(&snapshot);
    }
    // Neither tags nor permissions are copied.
    let image = Image {
        id: id.clone(),
        name,
        description: form.get("Description").map(str::to_owned),
        snapshot,
        tags: BTreeMap::new(),
        permissions: BTreeSet::new(),
        mappings,
        created: now(),
        looks: LOOKS,
        ..original
    };
    there.images.insert(id.clone(), image);
    Ok(leaf("imageId", &id))
}

impl Region {
    fn check_name(&self, name: &str) -> Result<()> {
        if !(3..=128).contains(&name.len()) {
            return no("InvalidAMIName.Malformed", "AMI names must be between 3 and 128 characters long");
        }
        match self.images.values().find(|image| image.name == name) {
            Some(image) => no(
                "InvalidAMIName.Duplicate",
                format!("AMI name {name} is already in use by AMI {}", image.id),
            ),
            None => Ok(()),
        }
    }

    fn add_snapshot(&mut self, id: String, size_gib: u64, description: String) {
        let (tags, permissions) = (BTreeMap::new(), BTreeSet::new());
        let snapshot = Snapshot { id: id.clone(), size_gib, description, tags, permissions, started: now() };
        self.snapshots.insert(id, snapshot);
    }

    fn image(&mut self, id: &str) -> Result<&mut Image> {
        let missing = No(400, "InvalidAMIID.NotFound", format!("The image id '[{id}]' does not exist"));
        self.images.get_mut(id).ok_or(missing)
    }

    fn snapshot(&mut self, id: &str) -> Result<&mut Snapshot> {
        let missing = No(400, "InvalidSnapshot.NotFound", format!("The snapshot '{id}' does not exist."));
        self.snapshots.get_mut(id).ok_or(missing)
    }

    fn run(&mut self, region: &str, action: &str, form: &Form) -> Result<String> {
        match action {
            "GetEbsEncryptionByDefault" => Ok(leaf("ebsEncryptionByDefault", "false")),
            "DescribeImportSnapshotTasks" => self.tasks(region, form),
            "DescribeSnapshots" => {
                for id in form.list("SnapshotId") {
                    self.snapshot(&id)?;
                }
                let wanted = form.list("SnapshotId");
                let fits = |s: &&Snapshot| {
                    (wanted.is_empty() || wanted.contains(&s.id))
                        && form.fits(|name| match name.strip_prefix("tag:") {
                            Some(tag) => s.tags.get(tag).cloned(),
                            None if name == "status" => Some("completed".into()),
                            None => None,
                        })
                };
                let items: String = self.snapshots.values().filter(fits).map(Snapshot::show).collect();
                Ok(element("snapshotSet", items))
            }
            "DescribeImages" => {
                let wanted = form.list("ImageId");
                for id in &wanted {
                    self.image(id)?;
                }
                let fits = |i: &Image| {
                    (wanted.is_empty() || wanted.contains(&i.id))
                        && form.fits(|name| match (name, name.strip_prefix("tag:")) {
                            (_, Some(tag)) => i.tags.get(tag).cloned(),
                            ("name", _) => Some(i.name.clone()),
                            ("is-public", _) => Some(i.is_public().to_string()),
                            ("state", _) => Some(i.state().to_owned()),
                            _ => None,
                        })
                };
                let mut items = String::new();
                for image in self.images.values_mut().filter(|i| fits(i)) {
                    items += &image.show();
                    image.looks = image.looks.saturating_sub(1);
                }
                Ok(element("imagesSet", items))
            }
            "CreateTags" => {
                let tags = form.structures("Tag");
                let pair = |tag: &BTreeMap<String, String>| {
                    Some((tag.get("Key")?.clone(), tag.get("Value").cloned().unwrap_or_default()))
                };
                for id in form.list("ResourceId") {
                    let there = match id.starts_with("ami-") {
                        true => &mut self.image(&id)?.tags,
                        false => &mut self.snapshot(&id)?.tags,
                    };
                    there.extend(tags.iter().filter_map(pair));
                }
                Ok(leaf("return", "true"))
            }
            "ModifyImageAttribute" => {
                let added = form.added("LaunchPermission");
                self.image(&form.text("ImageId"))?.permissions.extend(added);
                Ok(leaf("return", "true"))
            }
            "ModifySnapshotAttribute" => {
                let added = form.added("CreateVolumePermission");
                self.snapshot(&form.text("SnapshotId"))?.permissions.extend(added);
                Ok(leaf("return", "true"))
            }
            "DescribeImageAttribute" => {
                let image = self.image(&form.text("ImageId"))?;
                Ok(leaf("imageId", &image.id) + &element("launchPermission", permissions(&image.permissions)))
            }
            "DescribeSnapshotAttribute" => {
                let snapshot = self.snapshot(&form.text("SnapshotId"))?;
                let there = element("createVolumePermission", permissions(&snapshot.permissions));
                Ok(leaf("snapshotId", &snapshot.id) + &there)
            }
            "DeregisterImage" => {
                let id = form.text("ImageId");
                self.image(&id)?;
                self.images.remove(&id);
                Ok(leaf("return", "true"))
            }
            "DeleteSnapshot" => {
                let id = form.text("SnapshotId");
                self.snapshot(&id)?;
                if let Some(image) = self.images.values().find(|i| i.snapshot == id) {
                    let message = format!("The snapshot {id} is currently in use by {}", image.id);
                    return no("InvalidSnapshot.InUse", message);
                }
                self.snapshots.remove(&id);
                Ok(leaf("return", "true"))
            }
            _ => no("InvalidAction", format!("The action {action} is not valid for this web service.")),
        }
    }

    fn tasks(&mut self, region: &str, form: &Form) -> Result<String> {
        let wanted = form.list("ImportTaskId");
        if let Some(id) = wanted.iter().find(|id| !self.tasks.contains_key(*id)) {
            return no("InvalidConversionTaskId.Malformed", format!("Import task ID {id} does not exist"));
        }
        let (mut items, mut made) = (String::new(), Vec::new());
        for task in self.tasks.values_mut().filter(|t| wanted.is_empty() || wanted.contains(&t.id)) {
            if task.looks >= LOOKS && task.trouble.is_none() && task.snapshot.is_none() {
                // One for each task, and unlike those of other regions.
                let number = task.id.rsplit('-').next().unwrap_or_default();
                let id = format!("snap-1{}", number.get(1..).unwrap_or_default());
                made.push((
                    id.clone(),
                    task.size_gib,
                    format!("Created by AWS-VMImport service for {}", task.id),
                ));
                task.snapshot = Some(id);
            }
            items += &element("item", task.show());
            task.looks += 1;
        }
        for (id, size_gib, description) in made {
            crate::debug!(super::super::COMPONENT, "{region}: snapshot {id}");
            self.add_snapshot(id, size_gib, description);
        }
        Ok(element("importSnapshotTaskSet", items))
    }
}

impl Task {
    fn show(&self) -> String {
        let mut detail = leaf("description", &self.description) + &leaf("format", &self.format);
        detail += &element("userBucket", leaf("s3Bucket", &self.bucket) + &leaf("s3Key", &self.key));
        detail += &match (self.trouble, &self.snapshot) {
            (Some(trouble), _) if self.looks >= LOOKS => {
                leaf("status", "deleted") + &leaf("statusMessage", trouble)
            }
            (_, Some(snapshot)) => {
                leaf("status", "completed") + &leaf("progress", "100") + &leaf("snapshotId", snapshot)
            }
            _ => leaf("status", "active") + &leaf("progress", "28"),
        };
        leaf("importTaskId", &self.id)
            + &leaf("description", &self.description)
            + &element("snapshotTaskDetail", detail)
    }
}

impl Snapshot {
    fn show(&self) -> String {
        let fields = [
            leaf("snapshotId", &self.id),
            leaf("volumeId", "vol-ffffffff"),
            leaf("status", "completed"),
            leaf("startTime", &self.started),
            leaf("progress", "100%"),
            leaf("ownerId", ACCOUNT),
            leaf("volumeSize", &self.size_gib.to_string()),
            leaf("description", &self.description),
            leaf("encrypted", "false"),
            tags(&self.tags),
        ];
        element("item", fields.concat())
    }
}

impl Image {
    fn state(&self) -> &'static str {
        if self.looks == 0 { "available" } else { "pending" }
    }

    fn show(&self) -> String {
        let some =
            |name: &str, text: &Option<String>| text.as_deref().map(|t| leaf(name, t)).unwrap_or_default();
        let mapping = |m: &BTreeMap<String, String>| {
            let field = |name: &str, at: &str| m.get(at).map(|v| leaf(name, v)).unwrap_or_default();
            let ebs = [
                field("snapshotId", "Ebs.SnapshotId"),
                field("volumeSize", "Ebs.VolumeSize"),
                field("volumeType", "Ebs.VolumeType"),
                field("deleteOnTermination", "Ebs.DeleteOnTermination"),
            ];
            let ebs = ebs.concat();
            let ebs = if ebs.is_empty() { ebs } else { element("ebs", ebs + &leaf("encrypted", "false")) };
            element("item", field("deviceName", "DeviceName") + &field("virtualName", "VirtualName") + &ebs)
        };
        let fields = [
            leaf("imageId", &self.id),
            leaf("imageLocation", &format!("{ACCOUNT}/{}", self.name)),
            leaf("imageState", self.state()),
            leaf("imageOwnerId", ACCOUNT),
            leaf("creationDate", &self.created),
            leaf("isPublic", &self.is_public().to_string()),
            leaf("architecture", &self.architecture),
            leaf("imageType", "machine"),
            some("kernelId", &self.kernel),
            some("sriovNetSupport", &self.sriov),
            if self.ena { leaf("enaSupport", "true") } else { String::new() },
            leaf("name", &self.name),
            some("description", &self.description),
            leaf("rootDeviceType", "ebs"),
            leaf("rootDeviceName", &self.root_device),
            element("blockDeviceMapping", self.mappings.iter().map(mapping).collect::<String>()),
            leaf("virtualizationType", &self.virtualization),
            tags(&self.tags),
            leaf("hypervisor", "xen"),
        ];
        element("item", fields.concat())
    }
}

fn tags(tags: &BTreeMap<String, String>) -> String {
    let item = |(key, value): (&String, &String)| element("item", leaf("key", key) + &leaf("value", value));
    element("tagSet", tags.iter().map(item).collect::<String>())
}

fn permissions(there: &BTreeSet<String>) -> String {
    let item = |who: &String| element("item", leaf(if who == "all" { "group" } else { "userId" }, who));
    there.iter().map(item).collect()
}
