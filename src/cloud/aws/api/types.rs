//! What the calls speak of, in plain types.

use chrono::{DateTime, Utc};

/// Tags in the order given.
pub type Tags = Vec<(String, String)>;

/// A filter of a listing: its name, and the values of which one must match.
pub type Filter<'a> = (&'a str, &'a [&'a str]);

/// The value of a tag.
pub fn tag<'a>(tags: &'a [(String, String)], name: &str) -> Option<&'a str> {
    tags.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

/// A time as AWS writes it: RFC 3339.
pub(super) fn time(text: Option<&str>) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text?).ok().map(|t| t.to_utc())
}

/// An EBS snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// `snap-…`
    pub id: String,
    /// `pending`, `completed`, `error`, ….
    pub status: String,
    /// In percent, such as `35%`.
    pub progress: Option<String>,
    /// Size of its volumes in GiB.
    pub size_gib: i64,
    /// For people.
    pub description: String,
    /// When it was begun; absent if AWS did not say, or said nonsense.
    pub started: Option<DateTime<Utc>>,
    /// Its tags.
    pub tags: Tags,
}

/// The task that makes a snapshot of an object in S3.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportTask {
    /// `import-snap-…`
    pub id: String,
    /// As given with the order.
    pub description: String,
    /// `active`, `completed`, `deleting`, `deleted`, ….
    pub status: String,
    /// In percent, without sign.
    pub progress: Option<String>,
    /// What it is doing, or why it failed.
    pub message: Option<String>,
    /// The snapshot, in the end.
    pub snapshot: Option<String>,
}

/// A machine image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// `ami-…`
    pub id: String,
    /// Unique in account and region.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// `pending`, `available`, `failed`, ….
    pub state: String,
    /// Why it failed.
    pub reason: Option<String>,
    /// `hvm` or `paravirtual`.
    pub virtualization: String,
    /// `x86_64`, `arm64`, ….
    pub architecture: String,
    /// Such as `/dev/xvda`.
    pub root_device: String,
    /// When it was registered.
    pub created: Option<DateTime<Utc>>,
    /// Anybody may start machines of it.
    pub public: bool,
    /// Its disks.
    pub mappings: Vec<Mapping>,
    /// Its tags.
    pub tags: Tags,
}

/// A disk of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// Such as `/dev/xvda`.
    pub device: String,
    /// The snapshot it is made of.
    pub snapshot: Option<String>,
}

/// An order for an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegisterImage {
    /// Unique in account and region.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// `x86_64` or `arm64`.
    pub architecture: String,
    /// `hvm` or `paravirtual`.
    pub virtualization: String,
    /// Of paravirtual images: the boot loader, `aki-…`.
    pub kernel: Option<String>,
    /// Such as `/dev/xvda`.
    pub root_device: String,
    /// Enhanced networking by ENA.
    pub ena: bool,
    /// Enhanced networking by SR-IOV: `simple`.
    pub sriov: Option<String>,
    /// `legacy-bios` or `uefi`; the account's default if absent.
    pub boot_mode: Option<String>,
    /// Disks.
    pub disks: Vec<Disk>,
}

/// A disk of an image to be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disk {
    /// Made of a snapshot.
    Snapshot {
        /// Such as `/dev/xvda`.
        device: String,
        /// `snap-…`
        snapshot: String,
        /// Size in GiB; the snapshot's if absent.
        size_gib: Option<i64>,
        /// `gp2`, `gp3`, …; the account's default if absent.
        volume_type: Option<String>,
    },
    /// A disk of the host, where the instance type has one.
    Ephemeral {
        /// Such as `/dev/xvdb`.
        device: String,
        /// Such as `ephemeral0`.
        name: String,
    },
}

/// Who may use an image or snapshot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    /// Everybody.
    All,
    /// One account, by its number.
    User(String),
}

/// An AWS region as the account sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Such as `us-west-2`.
    pub name: String,
    /// Whether the account can use it.
    pub opted_in: bool,
}

/// An order for one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunInstance {
    /// `ami-…`
    pub image: String,
    /// Such as `m4.large`.
    pub instance_type: String,
    /// Key pair; none if absent.
    pub key_name: Option<String>,
    /// `sg-…`
    pub security_group: String,
    /// `subnet-…`
    pub subnet: String,
    /// Plain userdata, not encoded; absent when empty.
    pub user_data: Vec<u8>,
    /// Name of the instance profile.
    pub profile: Option<String>,
    /// Put on the instance when it is made.
    pub tags: Tags,
    /// Orders with the same token make one machine between them.
    pub client_token: String,
}

/// A machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance {
    /// `i-…`
    pub id: String,
    /// `pending`, `running`, `shutting-down`, `terminated`, `stopping`, `stopped`.
    pub state: String,
    /// Why it is in that state, if AWS says so.
    pub reason: Option<String>,
    /// Public address; not parsed, as a fake cloud may say `127.0.0.1:40022`.
    pub public_ip: Option<String>,
    /// Address in the VPC.
    pub private_ip: Option<String>,
    /// When it was started.
    pub launched: Option<DateTime<Utc>>,
    /// Its tags.
    pub tags: Tags,
}

/// A public key known to EC2.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPair {
    /// Unique in account and region.
    pub name: String,
    /// Its tags.
    pub tags: Tags,
}

/// A security group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecurityGroup {
    /// `sg-…`
    pub id: String,
    /// Unique in its VPC.
    pub name: String,
    /// The VPC, if it is in one.
    pub vpc: Option<String>,
    /// Its tags.
    pub tags: Tags,
}

/// A subnet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subnet {
    /// `subnet-…`
    pub id: String,
    /// Such as `us-west-2a`.
    pub zone: String,
}

/// A route table with its links to subnets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTable {
    /// `rtb-…`
    pub id: String,
    /// `rtbassoc-…` of all links but that of a main table.
    pub associations: Vec<String>,
}

/// An Internet gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gateway {
    /// `igw-…`
    pub id: String,
    /// The VPCs it is attached to.
    pub vpcs: Vec<String>,
    /// Its tags.
    pub tags: Tags,
}

/// Something let in by a security group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// `tcp`, `udp`, `icmp`.
    pub protocol: &'static str,
    /// First port, or type of ICMP; -1 for all.
    pub from: i64,
    /// Last port, or code of ICMP; -1 for all.
    pub to: i64,
    /// From where: `None` for members of the group itself.
    pub cidr: Option<&'static str>,
}

/// An object in S3.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectHead {
    /// In bytes.
    pub size: u64,
    /// With its quotation marks.
    pub etag: String,
    /// SHA-256 of the content, if whoever stored it wrote it down: see [`DIGEST`].
    pub sha256: Option<String>,
}

/// The metadata of objects that holds the SHA-256 of their content, in hexadecimal digits.
pub const DIGEST: &str = "mantle-sha256";

/// A private network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vpc {
    /// `vpc-…`
    pub id: String,
    /// Its tags.
    pub tags: Tags,
}
