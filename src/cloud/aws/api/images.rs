//! EC2: snapshots, import tasks, images, and who may use them.

use rusoto_ec2::{
    self as ec2, BlockDeviceMapping, CopyImageRequest, DeleteSnapshotRequest, DeregisterImageRequest,
    DescribeImageAttributeRequest, DescribeImagesRequest, DescribeImportSnapshotTasksRequest,
    DescribeSnapshotAttributeRequest, DescribeSnapshotsRequest, EbsBlockDevice, Ec2 as _, Ec2Client,
    GetEbsEncryptionByDefaultRequest, ImportSnapshotRequest, ModifyImageAttributeRequest,
    ModifySnapshotAttributeRequest, RegisterImageRequest, SnapshotDiskContainer, UserBucket,
};

use super::ec2::{filters, from_tags, owned};
use super::types::time;
use super::{
    Api, Disk, Filter, Image, ImportTask, Mapping, Permission, RegisterImage, Result, Snapshot, required,
};

fn snapshot(s: ec2::Snapshot) -> Option<Snapshot> {
    Some(Snapshot {
        id: s.snapshot_id?,
        status: s.state.unwrap_or_default(),
        progress: s.progress.filter(|p| !p.is_empty()),
        size_gib: s.volume_size.unwrap_or_default(),
        description: s.description.unwrap_or_default(),
        started: time(s.start_time.as_deref()),
        tags: from_tags(s.tags),
    })
}

fn import_task(t: ec2::ImportSnapshotTask) -> Option<ImportTask> {
    let detail = t.snapshot_task_detail.unwrap_or_default();
    Some(ImportTask {
        id: t.import_task_id?,
        description: t.description.or(detail.description).unwrap_or_default(),
        status: detail.status.unwrap_or_default(),
        progress: detail.progress,
        message: detail.status_message,
        snapshot: detail.snapshot_id.filter(|s| !s.is_empty()),
    })
}

fn image(i: ec2::Image) -> Option<Image> {
    let mapping = |m: BlockDeviceMapping| {
        Some(Mapping { device: m.device_name?, snapshot: m.ebs.and_then(|e| e.snapshot_id) })
    };
    Some(Image {
        id: i.image_id?,
        name: i.name.unwrap_or_default(),
        description: i.description,
        state: i.state.unwrap_or_default(),
        reason: i.state_reason.and_then(|r| r.message.or(r.code)),
        virtualization: i.virtualization_type.unwrap_or_default(),
        architecture: i.architecture.unwrap_or_default(),
        root_device: i.root_device_name.unwrap_or_default(),
        created: time(i.creation_date.as_deref()),
        public: i.public.unwrap_or_default(),
        mappings: i.block_device_mappings.unwrap_or_default().into_iter().filter_map(mapping).collect(),
        tags: from_tags(i.tags),
    })
}

fn disk(disk: &Disk) -> BlockDeviceMapping {
    match disk.clone() {
        Disk::Snapshot { device, snapshot, size_gib, volume_type } => BlockDeviceMapping {
            device_name: Some(device),
            ebs: Some(EbsBlockDevice {
                snapshot_id: Some(snapshot),
                volume_size: size_gib,
                volume_type,
                delete_on_termination: Some(true),
                ..Default::default()
            }),
            ..Default::default()
        },
        Disk::Ephemeral { device, name } => {
            BlockDeviceMapping { device_name: Some(device), virtual_name: Some(name), ..Default::default() }
        }
    }
}

/// The permission that a pair of group and account stands for.
fn permission(group: Option<String>, user: Option<String>) -> Option<Permission> {
    match (group.as_deref(), user) {
        (Some("all"), _) => Some(Permission::All),
        (_, user) => user.map(Permission::User),
    }
}

/// A permission as group and account.
fn group_and_user(permission: &Permission) -> (Option<String>, Option<String>) {
    match permission {
        Permission::All => (Some("all".into()), None),
        Permission::User(user) => (None, Some(user.clone())),
    }
}

impl Api {
    /// The account's own snapshots, of all pages.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn snapshots(&self, by: &[Filter<'_>]) -> Result<Vec<Snapshot>> {
        let (mut found, mut next) = (Vec::new(), None);
        loop {
            let request = DescribeSnapshotsRequest {
                owner_ids: Some(vec!["self".into()]),
                filters: filters(by),
                max_results: Some(1000),
                next_token: next,
                ..Default::default()
            };
            let once = |c: Ec2Client, r| async move { c.describe_snapshots(r).await };
            let page = self.ec2("DescribeSnapshots", request, once).await?;
            found.extend(page.snapshots.unwrap_or_default().into_iter().filter_map(snapshot));
            next = page.next_token.filter(|t| !t.is_empty());
            if next.is_none() {
                return Ok(found);
            }
        }
    }

    /// One snapshot, whoever owns it; `None` when it does not exist.
    ///
    /// # Errors
    /// Any [`super::Error`] but that.
    pub async fn snapshot(&self, id: &str) -> Result<Option<Snapshot>> {
        let request =
            DescribeSnapshotsRequest { snapshot_ids: Some(vec![id.to_owned()]), ..Default::default() };
        let once = |c: Ec2Client, r| async move { c.describe_snapshots(r).await };
        match self.ec2("DescribeSnapshots", request, once).await {
            Ok(answer) => Ok(answer.snapshots.unwrap_or_default().into_iter().find_map(snapshot)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// All import tasks that AWS remembers, of all pages.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn import_tasks(&self) -> Result<Vec<ImportTask>> {
        let (mut found, mut next) = (Vec::new(), None);
        loop {
            let request = DescribeImportSnapshotTasksRequest { next_token: next, ..Default::default() };
            let once = |c: Ec2Client, r| async move { c.describe_import_snapshot_tasks(r).await };
            let page = self.ec2("DescribeImportSnapshotTasks", request, once).await?;
            found.extend(page.import_snapshot_tasks.unwrap_or_default().into_iter().filter_map(import_task));
            next = page.next_token.filter(|t| !t.is_empty());
            if next.is_none() {
                return Ok(found);
            }
        }
    }

    /// One import task; `None` when AWS does not know it (yet).
    ///
    /// # Errors
    /// Any [`super::Error`] but that.
    pub async fn import_task(&self, id: &str) -> Result<Option<ImportTask>> {
        let request = DescribeImportSnapshotTasksRequest {
            import_task_ids: Some(vec![id.to_owned()]),
            ..Default::default()
        };
        let once = |c: Ec2Client, r| async move { c.describe_import_snapshot_tasks(r).await };
        match self.ec2("DescribeImportSnapshotTasks", request, once).await {
            Ok(answer) => {
                Ok(answer.import_snapshot_tasks.unwrap_or_default().into_iter().find_map(import_task))
            }
            Err(e)
                if e.is_not_found()
                    || e.is(&["InvalidConversionTaskId.Malformed", "InvalidConversionTaskId"]) =>
            {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Orders a snapshot of an object in S3, of format `VMDK`, `RAW` or `VHD`; returns the task's id.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn import_snapshot(
        &self,
        description: &str,
        format: &str,
        bucket: &str,
        key: &str,
    ) -> Result<String> {
        let call = "ImportSnapshot";
        let request = ImportSnapshotRequest {
            description: Some(description.to_owned()),
            disk_container: Some(SnapshotDiskContainer {
                description: Some(description.to_owned()),
                format: Some(format.to_owned()),
                user_bucket: Some(UserBucket {
                    s3_bucket: Some(bucket.to_owned()),
                    s3_key: Some(key.to_owned()),
                }),
                ..Default::default()
            }),
            client_token: Some(uuid::Uuid::new_v4().to_string()),
            ..Default::default()
        };
        let answer = self.ec2(call, request, |c, r| async move { c.import_snapshot(r).await }).await?;
        required(call, "import task", answer.import_task_id)
    }

    /// Registers an image; returns its id. Names are unique, so that a second order fails.
    ///
    /// # Errors
    /// Any [`super::Error`]; `InvalidAMIName.Duplicate` when the name is taken, also by this call when its answer
    /// was lost.
    pub async fn register_image(&self, order: &RegisterImage) -> Result<String> {
        let call = "RegisterImage";
        let request = RegisterImageRequest {
            name: order.name.clone(),
            description: order.description.clone(),
            architecture: Some(order.architecture.clone()).filter(|a| !a.is_empty()),
            virtualization_type: Some(order.virtualization.clone()).filter(|v| !v.is_empty()),
            kernel_id: order.kernel.clone(),
            root_device_name: Some(order.root_device.clone()).filter(|d| !d.is_empty()),
            ena_support: order.ena.then_some(true),
            sriov_net_support: order.sriov.clone(),
            boot_mode: order.boot_mode.clone(),
            block_device_mappings: Some(order.disks.iter().map(disk).collect()),
            ..Default::default()
        };
        let answer = self.ec2(call, request, |c, r| async move { c.register_image(r).await }).await?;
        required(call, "image", answer.image_id)
    }

    /// Images: the account's own if `owner_self`, of these ids, by these filters. Ids that do not exist are an error
    /// of EC2's, `InvalidAMIID.NotFound`.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn images(&self, owner_self: bool, ids: &[&str], by: &[Filter<'_>]) -> Result<Vec<Image>> {
        let request = DescribeImagesRequest {
            owners: owner_self.then(|| vec!["self".into()]),
            image_ids: (!ids.is_empty()).then(|| owned(ids)),
            filters: filters(by),
            ..Default::default()
        };
        let answer =
            self.ec2("DescribeImages", request, |c, r| async move { c.describe_images(r).await }).await?;
        Ok(answer.images.unwrap_or_default().into_iter().filter_map(image).collect())
    }

    /// Orders a copy of another region's image in this region; returns the copy's id.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn copy_image(
        &self,
        source_region: &str,
        source_image: &str,
        name: &str,
        description: Option<&str>,
        client_token: &str,
    ) -> Result<String> {
        let call = "CopyImage";
        let request = CopyImageRequest {
            source_region: source_region.to_owned(),
            source_image_id: source_image.to_owned(),
            name: name.to_owned(),
            description: description.map(str::to_owned),
            client_token: Some(client_token.to_owned()),
            ..Default::default()
        };
        let answer = self.ec2(call, request, |c, r| async move { c.copy_image(r).await }).await?;
        required(call, "image", answer.image_id)
    }

    /// Who may start machines of an image, besides its owner.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn launch_permissions(&self, image: &str) -> Result<Vec<Permission>> {
        let request = DescribeImageAttributeRequest {
            attribute: "launchPermission".into(),
            image_id: image.to_owned(),
            ..Default::default()
        };
        let once = |c: Ec2Client, r| async move { c.describe_image_attribute(r).await };
        let answer = self.ec2("DescribeImageAttribute", request, once).await?;
        let permissions = answer.launch_permissions.unwrap_or_default().into_iter();
        Ok(permissions.filter_map(|p| permission(p.group, p.user_id)).collect())
    }

    /// Lets others start machines of an image.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn add_launch_permissions(&self, image: &str, permissions: &[Permission]) -> Result<()> {
        if permissions.is_empty() {
            return Ok(());
        }
        let one = |p: &Permission| {
            let (group, user_id) = group_and_user(p);
            ec2::LaunchPermission { group, user_id }
        };
        let request = ModifyImageAttributeRequest {
            attribute: Some("launchPermission".into()),
            image_id: image.to_owned(),
            launch_permission: Some(ec2::LaunchPermissionModifications {
                add: Some(permissions.iter().map(one).collect()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let once = |c: Ec2Client, r| async move { c.modify_image_attribute(r).await };
        self.ec2("ModifyImageAttribute", request, once).await
    }

    /// Lets others make volumes of a snapshot.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn add_volume_permissions(&self, snapshot: &str, permissions: &[Permission]) -> Result<()> {
        if permissions.is_empty() {
            return Ok(());
        }
        let one = |p: &Permission| {
            let (group, user_id) = group_and_user(p);
            ec2::CreateVolumePermission { group, user_id }
        };
        let request = ModifySnapshotAttributeRequest {
            attribute: Some("createVolumePermission".into()),
            snapshot_id: snapshot.to_owned(),
            create_volume_permission: Some(ec2::CreateVolumePermissionModifications {
                add: Some(permissions.iter().map(one).collect()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let once = |c: Ec2Client, r| async move { c.modify_snapshot_attribute(r).await };
        self.ec2("ModifySnapshotAttribute", request, once).await
    }

    /// Who may make volumes of a snapshot, besides its owner.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn volume_permissions(&self, snapshot: &str) -> Result<Vec<Permission>> {
        let request = DescribeSnapshotAttributeRequest {
            attribute: "createVolumePermission".into(),
            snapshot_id: snapshot.to_owned(),
            ..Default::default()
        };
        let once = |c: Ec2Client, r| async move { c.describe_snapshot_attribute(r).await };
        let answer = self.ec2("DescribeSnapshotAttribute", request, once).await?;
        let permissions = answer.create_volume_permissions.unwrap_or_default().into_iter();
        Ok(permissions.filter_map(|p| permission(p.group, p.user_id)).collect())
    }

    /// Whether new snapshots of the region are encrypted, whoever makes them: such ones cannot be public.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn encrypts_snapshots(&self) -> Result<bool> {
        let request = GetEbsEncryptionByDefaultRequest::default();
        let once = |c: Ec2Client, r| async move { c.get_ebs_encryption_by_default(r).await };
        let answer = self.ec2("GetEbsEncryptionByDefault", request, once).await?;
        Ok(answer.ebs_encryption_by_default.unwrap_or_default())
    }

    /// Takes an image away; its snapshots stay. One that is gone is no error.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn deregister_image(&self, id: &str) -> Result<()> {
        let request = DeregisterImageRequest { image_id: id.to_owned(), ..Default::default() };
        let once = |c: Ec2Client, r| async move { c.deregister_image(r).await };
        match self.ec2("DeregisterImage", request, once).await {
            Err(e) if !(e.is_not_found() || e.is(&["InvalidAMIID.Unavailable"])) => Err(e),
            _ => Ok(()),
        }
    }

    /// Deletes a snapshot; one that is gone is no error.
    ///
    /// # Errors
    /// Any [`super::Error`]; `InvalidSnapshot.InUse` while an image is made of it.
    pub async fn delete_snapshot(&self, id: &str) -> Result<()> {
        let request = DeleteSnapshotRequest { snapshot_id: id.to_owned(), ..Default::default() };
        let once = |c: Ec2Client, r| async move { c.delete_snapshot(r).await };
        match self.ec2("DeleteSnapshot", request, once).await {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(()),
        }
    }
}
