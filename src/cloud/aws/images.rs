//! Machine images: registered from snapshots, found by name, shared, tagged, listed and removed.

use std::sync::OnceLock;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::COMPONENT;
use super::MARK;
use super::api::{Api, Disk, Image, Permission, RegisterImage, tag};
use super::failure::{During as _, Error, Result};
use super::snapshot::tags;
use super::wait::{settled, until};
use crate::cloud::gc::KEEP;
use crate::poll::{Answer, Poll};
use crate::release::Table;
use crate::{info, warning};

/// Looks for the image that has our name already.
const DUPLICATE: Poll = Poll::seconds(10, 300);

/// The kind of volume that images start from.
pub const VOLUME_TYPE: &str = "gp2";

/// How the machines of an image are virtualized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// By hardware: all current instance types.
    Hvm,
    /// By Xen's paravirtualization: old types in some regions.
    Pv,
}

/// The boot loader of a region for paravirtual images (PV-GRUB; EC2 user guide, "User provided kernels").
///
/// # Errors
/// When the region has none.
pub fn pv_kernel(region: &str) -> Result<&'static str> {
    static TABLE: OnceLock<Option<Table>> = OnceLock::new();
    let table = TABLE.get_or_init(|| Table::builtin().ok()).as_ref(); // its tests prove that it can be read
    let found = table.and_then(|t| t.pv_kernel(region));
    found.ok_or_else(|| Error::Invalid("Region does not support PV".into()))
}

/// Whether a region has paravirtual machines.
pub fn supports_pv(region: &str) -> bool {
    pv_kernel(region).is_ok()
}

/// An image to be made of a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// Its name, unique in account and region.
    pub name: &'a str,
    /// For people; may be empty.
    pub description: &'a str,
    /// What it starts from.
    pub snapshot: &'a str,
    /// Size of the first disk.
    pub size_gib: i64,
    /// What the machines are: `x86_64` or `arm64`.
    pub architecture: &'a str,
}

impl Order<'_> {
    fn request(&self, kind: Kind, region: &str) -> Result<RegisterImage> {
        let device = |letter: char| match kind {
            Kind::Hvm => format!("/dev/xvd{letter}"),
            Kind::Pv => format!("/dev/sd{letter}"),
        };
        let disks = vec![
            Disk::Snapshot {
                device: device('a'),
                snapshot: self.snapshot.into(),
                size_gib: Some(self.size_gib),
                volume_type: Some(VOLUME_TYPE.into()),
            },
            Disk::Ephemeral { device: device('b'), name: "ephemeral0".into() },
        ];
        let common = RegisterImage {
            name: self.name.into(),
            description: Some(self.description.to_owned()).filter(|d| !d.is_empty()),
            architecture: self.architecture.into(),
            root_device: device('a'),
            disks,
            ..RegisterImage::default()
        };
        Ok(match kind {
            Kind::Hvm => RegisterImage {
                virtualization: "hvm".into(),
                ena: true,
                sriov: Some("simple".into()),
                ..common
            },
            Kind::Pv => RegisterImage {
                virtualization: "paravirtual".into(),
                kernel: Some(pv_kernel(region)?.into()),
                ..common
            },
        })
    }
}

/// Registers an image and names it; one of that name that is there is taken if it is made of the
/// same snapshot.
///
/// # Errors
/// When the provider refuses; [`Error::Different`] for an image of another snapshot.
pub async fn register(
    api: &Api,
    order: &Order<'_>,
    kind: Kind,
    cancel: &CancellationToken,
) -> Result<String> {
    let request = order.request(kind, api.region())?;
    let id = match api.register_image(&request).await {
        Ok(id) => id,
        Err(e) if e.code() == Some("InvalidAMIName.Duplicate") => existing(api, order, cancel).await?,
        Err(e) => return Err(e.into()),
    };
    settled(cancel, || async { api.create_tags(&[&id], &tags(order.name, &[])).await }).await?;
    Ok(id)
}

/// The image that has the name already; it may take a while to show.
async fn existing(api: &Api, order: &Order<'_>, cancel: &CancellationToken) -> Result<String> {
    let look = || async {
        Ok(match find(api, order.name).await? {
            Some(image) => Answer::Ready(image),
            None => Answer::NotYet("the name is taken but no image has it".into()),
        })
    };
    let image = until(DUPLICATE, format_args!("image {}", order.name), cancel, look).await?;
    if let Some(other) = first_snapshot(&image).filter(|s| *s != order.snapshot) {
        let Image { id, name, .. } = &image;
        let why = format!("image {id} named {name} is made of {other}, not of {}", order.snapshot);
        return Err(Error::Different(why));
    }
    info!(COMPONENT, "found existing image {}, reusing", image.id);
    Ok(image.id)
}

/// The account's image of a name.
///
/// # Errors
/// When there are several, or the call fails.
pub async fn find(api: &Api, name: &str) -> Result<Option<Image>> {
    let mut images = api.images(true, &[], &[("name", &[name])]).await?;
    images.retain(|i| i.name == name);
    if images.len() > 1 {
        let ids: Vec<_> = images.into_iter().map(|i| i.id).collect();
        return Err(Error::Invalid(format!("found multiple images with name {name:?}: {}", ids.join(", "))));
    }
    Ok(images.pop())
}

/// The snapshot of an image's first disk that has one.
pub fn first_snapshot(image: &Image) -> Option<&str> {
    image.mappings.iter().find_map(|m| m.snapshot.as_deref())
}

/// Gives images and snapshots tags; those that they have already are replaced.
///
/// # Errors
/// When the provider refuses.
pub async fn label(
    api: &Api,
    ids: &[&str],
    tags: &[(String, String)],
    cancel: &CancellationToken,
) -> Result<()> {
    settled(cancel, || async { api.create_tags(ids, tags).await }).await
}

/// Lets accounts start machines of an image.
///
/// # Errors
/// When the provider refuses.
pub async fn grant(api: &Api, image: &str, users: &[String], cancel: &CancellationToken) -> Result<()> {
    let users: Vec<_> = users.iter().cloned().map(Permission::User).collect();
    settled(cancel, || async { api.add_launch_permissions(image, &users).await }).await
}

/// Lets everybody use an image and the snapshot it is made of.
///
/// # Errors
/// When there is no such image, it has no snapshot, or the provider refuses.
pub async fn publish(api: &Api, image: &str, cancel: &CancellationToken) -> Result<()> {
    let there = api.images(false, &[image], &[]).await?;
    let there = there.first().ok_or_else(|| Error::Invalid(format!("there is no image {image}")))?;
    let snapshot = first_snapshot(there)
        .ok_or_else(|| Error::Invalid(format!("no backing block device for {image}")))?;
    let all = [Permission::All];
    settled(cancel, || async { api.add_volume_permissions(snapshot, &all).await })
        .await
        .during(format!("cannot publish snapshot {snapshot}"))?;
    settled(cancel, || async { api.add_launch_permissions(image, &all).await })
        .await
        .during(format!("cannot publish image {image}"))
}

/// Whether something must not be removed.
pub fn is_kept(tags: &[(String, String)]) -> bool {
    tag(tags, KEEP).is_some()
}

/// Removes the images of these names with their snapshots, and our other snapshots named `name`; `keep` stays.
///
/// # Errors
/// When an image is protected or public, or the provider refuses.
pub async fn replace(api: &Api, images: &[&str], name: &str, keep: &str) -> Result<()> {
    let there = api.images(true, &[], &[("name", images)]).await?;
    let there: Vec<_> = there.iter().filter(|i| images.contains(&i.name.as_str())).collect();
    if let Some(image) = there.iter().find(|i| is_kept(&i.tags)) {
        return Err(Error::Invalid(format!("image {} has the tag {KEEP}", image.id)));
    }
    if let Some(image) = there.iter().find(|i| i.public) {
        return Err(Error::Invalid(format!(
            "image {} is public: delete it first if that is meant",
            image.id
        )));
    }
    let mut snapshots: Vec<String> = Vec::new();
    for image in there {
        info!(COMPONENT, "deregistering image {} ({})", image.id, image.name);
        api.deregister_image(&image.id).await?;
        snapshots.extend(image.mappings.iter().filter_map(|m| m.snapshot.clone()));
    }
    for other in api.snapshots(&[("tag:Name", &[name]), ("tag:CreatedBy", &[MARK.1])]).await? {
        if is_kept(&other.tags) {
            warning!(COMPONENT, "snapshot {} stays: it has the tag {KEEP}", other.id);
        } else if tag(&other.tags, "Name") == Some(name) && tag(&other.tags, MARK.0) == Some(MARK.1) {
            snapshots.push(other.id);
        }
    }
    snapshots.sort_unstable();
    snapshots.dedup();
    for snapshot in snapshots.iter().filter(|s| *s != keep) {
        info!(COMPONENT, "deleting snapshot {snapshot}");
        match api.delete_snapshot(snapshot).await {
            // Another image is made of it.
            Err(e) if e.is(&["InvalidSnapshot.InUse"]) => {
                warning!(COMPONENT, "snapshot {snapshot} stays: {e}")
            }
            other => other?,
        }
    }
    Ok(())
}

/// Removes an image, a snapshot or both.
///
/// # Errors
/// When the provider refuses; when one is not there, unless `allow_missing`.
pub async fn delete(
    api: &Api,
    image: Option<&str>,
    snapshot: Option<&str>,
    allow_missing: bool,
) -> Result<()> {
    if let Some(image) = image {
        let what = format!("couldn't deregister image {image}");
        let known = allow_missing || !api.images(false, &[image], &[]).await.during(&*what)?.is_empty();
        known.then_some(()).ok_or_else(|| Error::Invalid("there is no such image".into())).during(&*what)?;
        api.deregister_image(image).await.during(&*what)?;
    }
    if let Some(snapshot) = snapshot {
        let what = format!("couldn't delete snapshot {snapshot}");
        let known = allow_missing || api.snapshot(snapshot).await.during(&*what)?.is_some();
        known
            .then_some(())
            .ok_or_else(|| Error::Invalid("there is no such snapshot".into()))
            .during(&*what)?;
        api.delete_snapshot(snapshot).await.during(&*what)?;
    }
    Ok(())
}

/// Something of ours, as lists show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// `instance`, `key-pair`, `image`, `snapshot`.
    pub kind: &'static str,
    /// Its id, of key pairs the name.
    pub id: String,
    /// Its name; may be empty.
    pub name: String,
    /// When it was made, RFC 3339; empty if that is not known.
    pub created: String,
    /// Its state; may be empty.
    pub state: String,
    /// Whether [`KEEP`] is among its tags.
    pub kept: bool,
}

/// Everything in the region with our mark.
///
/// # Errors
/// When a call fails.
pub async fn list(api: &Api) -> Result<Vec<Listed>> {
    let mark: &[(&str, &[&str])] = &[("tag:CreatedBy", &[MARK.1])];
    let name = |tags: &[(String, String)]| tag(tags, "Name").unwrap_or_default().to_owned();
    let ours = |tags: &[(String, String)]| tag(tags, MARK.0) == Some(MARK.1);
    let time = |time: Option<DateTime<Utc>>| {
        time.map(|t| t.to_rfc3339_opts(SecondsFormat::Secs, true)).unwrap_or_default()
    };
    let mut listed = Vec::new();
    for i in api.instances(mark, &[]).await?.into_iter().filter(|i| ours(&i.tags)) {
        let (name, kept) = (name(&i.tags), is_kept(&i.tags));
        listed.push(Listed {
            kind: "instance",
            id: i.id,
            name,
            created: time(i.launched),
            state: i.state,
            kept,
        });
    }
    for k in api.key_pairs(mark).await?.into_iter().filter(|k| ours(&k.tags)) {
        let kept = is_kept(&k.tags);
        let (name, state) = (k.name.clone(), String::new());
        listed.push(Listed { kind: "key-pair", id: k.name, name, created: String::new(), state, kept });
    }
    for i in api.images(true, &[], mark).await?.into_iter().filter(|i| ours(&i.tags)) {
        let kept = is_kept(&i.tags);
        listed.push(Listed {
            kind: "image",
            id: i.id,
            name: i.name,
            created: time(i.created),
            state: i.state,
            kept,
        });
    }
    for s in api.snapshots(mark).await?.into_iter().filter(|s| ours(&s.tags)) {
        let (name, kept) = (name(&s.tags), is_kept(&s.tags));
        listed.push(Listed {
            kind: "snapshot",
            id: s.id,
            name,
            created: time(s.started),
            state: s.status,
            kept,
        });
    }
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use super::super::api::Mapping;
    use super::*;

    const ORDER: Order<'_> =
        Order { name: "n", description: "", snapshot: "snap-1", size_gib: 8, architecture: "x86_64" };

    #[test]
    fn images_are_registered_as_upstream_did() {
        let hvm = ORDER.request(Kind::Hvm, "us-east-2").unwrap();
        assert_eq!(
            (hvm.root_device.as_str(), hvm.ena, hvm.sriov.as_deref()),
            ("/dev/xvda", true, Some("simple"))
        );
        assert_eq!(
            (hvm.virtualization.as_str(), hvm.kernel.as_deref(), hvm.description),
            ("hvm", None, None)
        );
        let pv = Order { description: "d", ..ORDER }.request(Kind::Pv, "us-east-1").unwrap();
        assert_eq!((pv.root_device.as_str(), pv.ena, pv.sriov.as_deref()), ("/dev/sda", false, None));
        assert_eq!((pv.kernel.as_deref(), pv.description.as_deref()), (Some("aki-919dcaf8"), Some("d")));
        assert_eq!(
            pv.disks,
            [
                Disk::Snapshot {
                    device: "/dev/sda".into(),
                    snapshot: "snap-1".into(),
                    size_gib: Some(8),
                    volume_type: Some("gp2".into())
                },
                Disk::Ephemeral { device: "/dev/sdb".into(), name: "ephemeral0".into() }
            ]
        );
        let error = ORDER.request(Kind::Pv, "us-east-2").unwrap_err();
        assert_eq!(error.to_string(), "Region does not support PV");
        assert!(supports_pv("cn-north-1") && !supports_pv("eu-north-1"));
    }

    #[test]
    fn the_first_disk_with_a_snapshot_counts() {
        let disk = |device: &str, snapshot: Option<&str>| Mapping {
            device: device.into(),
            snapshot: snapshot.map(Into::into),
        };
        let mappings = vec![
            disk("/dev/xvdb", None),
            disk("/dev/xvda", Some("snap-1")),
            disk("/dev/xvdc", Some("snap-2")),
        ];
        let image = Image { mappings, ..Image::default() };
        assert_eq!(first_snapshot(&image), Some("snap-1"));
        assert_eq!(first_snapshot(&Image::default()), None);
    }

    #[test]
    fn the_protection_tag_counts_whatever_its_value() {
        assert!(is_kept(&[(KEEP.into(), String::new())]) && is_kept(&[(KEEP.into(), "until 2030".into())]));
        assert!(!is_kept(&[("mantle:kept".into(), "yes".into())]));
    }
}
