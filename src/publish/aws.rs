//! Amazon EC2: a snapshot and its images in the region of each partition's bucket, copies in the others, lists of all.

mod preflight;

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::lists::{self, Region};
use super::{Act, Look, Phase, Release, Result, Step, Stopped, World, gate};
use crate::cloud::aws::api::{Api, Image, Permission, tag};
use crate::cloud::aws::failure::Error;
use crate::cloud::aws::images::{self, Kind, Order, first_snapshot};
use crate::cloud::aws::object::Location;
use crate::cloud::aws::snapshot::{self, Found};
use crate::cloud::aws::upload::{self, Request, Source, check_image_name};
use crate::cloud::aws::{Account, copy};
use crate::compress::Compression;
use crate::disk::Format;
use crate::release::{Aws, AwsPartition, DiskFormat, Selection};

/// The place.
pub struct Provider;

/// The smallest disk, in GiB.
const DISK: i64 = 8;

/// What all steps share.
struct Shared {
    facts: Aws,
    channel: String,
    version: String,
    board: String,
    /// The paravirtual images' name; that of the others has `-hvm` after it.
    name: String,
    description: String,
    credentials: Option<std::path::PathBuf>,
    /// By partition: in the region of its bucket.
    apis: Vec<OnceCell<Api>>,
}

impl super::Provider for Provider {
    fn name(&self) -> &'static str {
        "aws"
    }

    fn prepares(&self) -> bool {
        true
    }

    fn steps(&self, release: &Release) -> Vec<Step> {
        let Selection { channel, board, version, aws, .. } = &release.selection;
        let Some(facts) = aws else { return Vec::new() };
        let suffix = facts.board_suffixes.get(board).map_or("", String::as_str);
        let shared = Arc::new(Shared {
            facts: facts.clone(),
            channel: channel.clone(),
            version: version.clone(),
            board: board.clone(),
            name: image_name(&format!("{}-{channel}-{version}{suffix}", facts.name)),
            description: format!("{} {channel} {version}", facts.description),
            credentials: release.accounts.aws_credentials.clone(),
            apis: facts.partitions.iter().map(|_| OnceCell::new()).collect(),
        });
        let mut steps = Vec::new();
        for partition in 0..facts.partitions.len() {
            Shared::partition(&shared, partition, &mut steps);
        }
        if let (Some(tester), Some(first)) = (release.tester("aws"), facts.partitions.first()) {
            let place = Place {
                shared: shared.clone(),
                partition: 0,
                region: first.bucket_region.clone(),
                kind: Kind::Hvm,
            };
            let does = format!("test image {} in {} before it is public", place.name(), place.region);
            steps.push(gate::step("aws", does, Gate(place, tester)));
        }
        let list = facts.list_prefix.as_str();
        let needs = shared.images().map(|image| image.key()).collect();
        let does = format!("write the lists {list}* of images beside the build");
        let mut lists = Step::new("aws/lists", Phase::Prepare, does, Lists(shared.clone()));
        lists.needs = needs;
        steps.push(lists);
        steps
    }
}

/// As EC2 calls it, but for `amd64`.
fn architecture(board: &str) -> &str {
    super::metadata::architecture(board).1
}

/// An image's name in EC2: what is not allowed in it becomes `_`.
fn image_name(text: &str) -> String {
    let fine = |c: char| c.is_ascii_alphanumeric() || "()\\./_-".contains(c);
    text.chars().map(|c| if fine(c) { c } else { '_' }).collect()
}

/// An image in a region.
#[derive(Clone)]
struct Place {
    shared: Arc<Shared>,
    partition: usize,
    region: String,
    kind: Kind,
}

impl Shared {
    /// All images, in all regions.
    fn images(self: &Arc<Self>) -> impl Iterator<Item = Place> + use<> {
        let mut places = Vec::new();
        for (partition, facts) in self.facts.partitions.iter().enumerate() {
            for region in &facts.regions {
                for kind in [Kind::Hvm, Kind::Pv] {
                    let both = self.has_pv(facts) && self.facts.pv_kernel(region).is_some();
                    if kind == Kind::Hvm || both {
                        places.push(Place { shared: self.clone(), partition, region: region.clone(), kind });
                    }
                }
            }
        }
        places.into_iter()
    }

    /// Whether a partition gets paravirtual images: they are made in the region of its bucket.
    fn has_pv(&self, partition: &AwsPartition) -> bool {
        self.facts.pv_kernel(&partition.bucket_region).is_some() && architecture(&self.board) != "arm64"
    }

    fn partition(shared: &Arc<Self>, partition: usize, steps: &mut Vec<Step>) {
        let facts = &shared.facts.partitions[partition];
        let AwsPartition { name, bucket_region, .. } = facts;
        let whose = Caller(shared.clone(), partition);
        steps.push(Step::new(
            format!("aws/{name}/caller"),
            Phase::Check,
            format!("use the account of {name}"),
            whose,
        ));
        for region in &facts.regions {
            preflight::steps(shared, partition, region, steps);
        }
        let does = format!("import snapshot {} in {bucket_region}", shared.name);
        let snapshot = Snapshot(shared.clone(), partition);
        steps.push(Step::new(shared.snapshot_key(partition), Phase::Prepare, does, snapshot));
        for place in shared.images().filter(|place| place.partition == partition) {
            let at_first = place.region == *bucket_region;
            let origin = Place { region: bucket_region.clone(), ..place.clone() };
            let (verb, needs) = match at_first {
                true => ("register", shared.snapshot_key(partition)),
                false => ("copy", origin.key()),
            };
            let does = format!("{verb} image {} in {}", place.name(), place.region);
            steps.push(Step::new(place.key(), Phase::Prepare, does, Make(place.clone())).after(needs));
            let does = format!("publish image {} in {}", place.name(), place.region);
            steps.push(Step::new(format!("{}/public", place.key()), Phase::Publish, does, Publish(place)));
        }
    }

    fn snapshot_key(&self, partition: usize) -> String {
        format!("aws/{}/snapshot", self.facts.partitions[partition].name)
    }

    /// The object that a partition's snapshot is imported from.
    fn object(&self, partition: usize) -> Location {
        let image = self.facts.image.as_str();
        let plain = Compression::of_name(image).map_or(image, |(_, plain)| plain);
        let key = format!("{}/{}/{plain}", self.board, self.version);
        Location::new(self.facts.partitions[partition].bucket.as_str(), key)
    }

    /// A partition's API in the region of its bucket.
    async fn api(&self, partition: usize) -> Result<&Api> {
        let AwsPartition { profile, bucket_region, .. } = &self.facts.partitions[partition];
        let open = || async {
            let account = Account {
                aws_region: Some(bucket_region.clone()),
                aws_profile: Some(profile.clone()),
                aws_credentials_file: self.credentials.clone(),
                ..Account::default()
            };
            Api::new(&account).await.map_err(Stopped::failed)
        };
        self.apis[partition].get_or_try_init(open).await
    }

    /// The same in another region.
    async fn api_in(&self, partition: usize, region: &str) -> Result<Api> {
        self.api(partition).await?.in_region(region).map_err(Stopped::failed)
    }

    fn tags(&self) -> Vec<(String, String)> {
        [("Channel", &self.channel), ("Version", &self.version)].map(|(k, v)| (k.into(), v.clone())).into()
    }

    /// Whether something of ours has all its tags.
    fn is_tagged(&self, tags: &[(String, String)]) -> bool {
        self.tags().iter().all(|(key, value)| tag(tags, key) == Some(value)) && tag(tags, "Name").is_some()
    }
}

fn stopped(error: Error) -> Stopped {
    let interrupted = error.is_interruption();
    Stopped::from(error, interrupted)
}

impl Place {
    fn name(&self) -> String {
        match self.kind {
            Kind::Hvm => format!("{}-hvm", self.shared.name),
            Kind::Pv => self.shared.name.clone(),
        }
    }

    fn key(&self) -> String {
        format!("aws/{}/{}", self.region, if self.kind == Kind::Hvm { "hvm" } else { "pv" })
    }

    fn facts(&self) -> &AwsPartition {
        &self.shared.facts.partitions[self.partition]
    }

    async fn api(&self) -> Result<Api> {
        self.shared.api_in(self.partition, &self.region).await
    }

    /// Whether nothing is missing of an image but that it be public.
    async fn is_complete(&self, api: &Api, image: &Image) -> Result<bool> {
        if image.state != "available" || !self.shared.is_tagged(&image.tags) {
            return Ok(false);
        }
        let Some(snapshot) = first_snapshot(image) else { return Ok(false) };
        let snapshot = api.snapshot(snapshot).await.map_err(Stopped::failed)?;
        if !snapshot.is_some_and(|s| self.shared.is_tagged(&s.tags)) {
            return Ok(false);
        }
        let wanted = &self.facts().launch_permissions;
        if wanted.is_empty() {
            return Ok(true);
        }
        let there = api.launch_permissions(&image.id).await.map_err(Stopped::failed)?;
        Ok(wanted.iter().all(|user| there.contains(&Permission::User(user.clone()))))
    }
}

/// Whether the credentials of a partition are good.
struct Caller(Arc<Shared>, usize);

#[async_trait(?Send)]
impl Act for Caller {
    async fn look(&self, _: &World<'_>) -> Result<Look> {
        let Self(shared, partition) = self;
        for name in [&shared.name, &format!("{}-hvm", shared.name)] {
            if let Err(why) = check_image_name(name) {
                return Ok(Look::Impossible(why));
            }
        }
        let caller = shared.api(*partition).await?.caller().await.map_err(Stopped::failed)?;
        Ok(Look::Done(json!({"account": caller.account})))
    }

    async fn run(&self, _: &World<'_>) -> Result<Value> {
        Ok(Value::Null)
    }
}

/// The snapshot that a partition's images are made of.
struct Snapshot(Arc<Shared>, usize);

#[async_trait(?Send)]
impl Act for Snapshot {
    async fn look(&self, world: &World<'_>) -> Result<Look> {
        let Self(shared, partition) = self;
        let api = shared.api(*partition).await?;
        match snapshot::find(api, &shared.name).await.map_err(stopped)? {
            Some(Found::Snapshot { id, .. }) => {
                let object = shared.object(*partition);
                let left = api.head_object(&object.bucket, &object.name).await.map_err(Stopped::failed)?;
                Ok(match left {
                    None => Look::Done(json!({"snapshot": id})),
                    Some(_) => Look::Todo(vec![format!("delete {object}")]),
                })
            }
            // Its task has what it needs.
            Some(Found::Task(_)) => Ok(Look::Todo(Vec::new())),
            None => match world.release.build.has(&shared.facts.image, world.release).await? {
                true => Ok(Look::Todo(Vec::new())),
                false => {
                    let url = world.release.build.url_of(&shared.facts.image);
                    Ok(Look::Impossible(format!("File not found: {url}")))
                }
            },
        }
    }

    async fn run(&self, world: &World<'_>) -> Result<Value> {
        let Self(shared, partition) = self;
        let Aws { image, format, .. } = &shared.facts;
        let (api, object) = (shared.api(*partition).await?, shared.object(*partition));
        if let Some(Found::Snapshot { id, .. }) = snapshot::find(api, &shared.name).await.map_err(stopped)? {
            api.delete_object(&object.bucket, &object.name).await.map_err(Stopped::failed)?;
            return Ok(json!({"snapshot": id}));
        }
        let file = world.release.build.image(image, world.release).await?;
        let request = Request {
            name: shared.name.clone(),
            source: Source::File(file),
            object,
            format: match format {
                DiskFormat::Vmdk => Format::Vmdk,
                DiskFormat::Raw => Format::Raw,
            },
            size_gib: DISK,
            force: false,
            delete_object: true,
            resume: true,
            image_name: shared.name.clone(),
            description: shared.description.clone(),
            users: Vec::new(),
            tags: Vec::new(),
            pv: false,
        };
        let id = upload::snapshot(api, &request, &|_, _| {}, &world.release.cancel).await.map_err(stopped)?;
        Ok(json!({"snapshot": id}))
    }
}

/// An image, made of the snapshot or copied from where it was.
struct Make(Place);

#[async_trait(?Send)]
impl Act for Make {
    async fn look(&self, _: &World<'_>) -> Result<Look> {
        let Self(place) = self;
        let api = place.api().await?;
        match images::find(&api, &place.name()).await.map_err(stopped)? {
            Some(image) if place.is_complete(&api, &image).await? => Ok(Look::Done(json!({"ami": image.id}))),
            _ => Ok(Look::Todo(Vec::new())),
        }
    }

    async fn run(&self, world: &World<'_>) -> Result<Value> {
        let Self(place) = self;
        let ami = match place.region == place.facts().bucket_region {
            true => self.register(world).await?,
            false => self.copy(world).await?,
        };
        Ok(json!({"ami": ami}))
    }
}

impl Make {
    async fn register(&self, world: &World<'_>) -> Result<String> {
        let Self(place) = self;
        let (shared, cancel) = (&place.shared, &world.release.cancel);
        let api = place.api().await?;
        let key = shared.snapshot_key(place.partition);
        let known = world.known(&key).and_then(|v| v["snapshot"].as_str().map(str::to_owned));
        let snapshot =
            known.ok_or_else(|| Stopped::words(format!("there is no snapshot {}", shared.name)))?;
        let there = api.snapshot(&snapshot).await.map_err(Stopped::failed)?;
        let (name, architecture) =
            (place.name(), if architecture(&shared.board) == "arm64" { "arm64" } else { "x86_64" });
        let description = match place.kind {
            Kind::Hvm => format!("{} (HVM)", shared.description),
            Kind::Pv => format!("{} (PV)", shared.description),
        };
        let order = Order {
            name: &name,
            description: &description,
            snapshot: &snapshot,
            size_gib: there.map_or(DISK, |s| s.size_gib.max(DISK)),
            architecture,
        };
        let ami = images::register(&api, &order, place.kind, cancel).await.map_err(stopped)?;
        let users = &place.facts().launch_permissions;
        if !users.is_empty() {
            images::grant(&api, &ami, users, cancel).await.map_err(stopped)?;
        }
        images::label(&api, &[&ami, &snapshot], &shared.tags(), cancel).await.map_err(stopped)?;
        Ok(ami)
    }

    async fn copy(&self, world: &World<'_>) -> Result<String> {
        let Self(place) = self;
        let origin = Place { region: place.facts().bucket_region.clone(), ..place.clone() };
        let known = world.known(&origin.key()).and_then(|v| v["ami"].as_str().map(str::to_owned));
        let missing = || Stopped::words(format!("there is no image {} in {}", place.name(), origin.region));
        let image = known.ok_or_else(missing)?;
        let api = place.shared.api(place.partition).await?;
        let copied = copy::run(api, &image, std::slice::from_ref(&place.region), &world.release.cancel).await;
        let copied = copied.map_err(stopped)?.pop().ok_or_else(missing)?;
        copied.outcome.map_err(stopped)
    }
}

/// An image that everybody may use.
struct Publish(Place);

#[async_trait(?Send)]
impl Act for Publish {
    async fn look(&self, world: &World<'_>) -> Result<Look> {
        let Self(place) = self;
        let api = place.api().await?;
        let Some(image) = images::find(&api, &place.name()).await.map_err(stopped)? else {
            let why = format!(
                "there is no image {} in {}: it is made before the release",
                place.name(),
                place.region
            );
            return Ok(Look::After(place.key(), why));
        };
        // Those that describe it need not wait until it is public to know its id.
        world.learn(&place.key(), json!({"ami": image.id}));
        if !image.public {
            return Ok(Look::Todo(Vec::new()));
        }
        let Some(snapshot) = first_snapshot(&image) else {
            return Ok(Look::Impossible(format!("no backing block device for {}", image.id)));
        };
        let shared = api.volume_permissions(snapshot).await.map_err(Stopped::failed)?;
        Ok(match shared.contains(&Permission::All) {
            true => Look::Done(json!({"ami": image.id})),
            false => Look::Todo(Vec::new()),
        })
    }

    async fn run(&self, world: &World<'_>) -> Result<Value> {
        let Self(place) = self;
        let api = place.api().await?;
        let image = images::find(&api, &place.name()).await.map_err(stopped)?;
        let image = image.ok_or_else(|| Stopped::words(format!("there is no image {}", place.name())))?;
        images::publish(&api, &image.id, &world.release.cancel).await.map_err(stopped)?;
        Ok(json!({"ami": image.id}))
    }
}

/// A test of the first of the images: the others are copies of it, or of its snapshot.
struct Gate(Place, Arc<dyn gate::Tester>);

impl Gate {
    async fn image(&self) -> Result<Option<gate::Image>> {
        let Self(place, _) = self;
        let found = images::find(&place.api().await?, &place.name()).await.map_err(stopped)?;
        Ok(found.map(|image| gate::Image::Aws {
            ami: image.id,
            region: place.region.clone(),
            profile: place.facts().profile.clone(),
            credentials: place.shared.credentials.clone(),
        }))
    }
}

#[async_trait(?Send)]
impl Act for Gate {
    async fn look(&self, _: &World<'_>) -> Result<Look> {
        Ok(match self.image().await? {
            Some(image) => gate::look(&image),
            None => Look::After(self.0.key(), format!("there is no image {}", self.0.name())),
        })
    }

    async fn run(&self, world: &World<'_>) -> Result<Value> {
        let image = self.image().await?;
        let image = image.ok_or_else(|| Stopped::words(format!("there is no image {}", self.0.name())))?;
        gate::run(&*self.1, &image, world).await
    }
}

/// The files that list the images.
struct Lists(Arc<Shared>);

impl Lists {
    fn regions(&self, world: &World<'_>) -> Option<Vec<Region>> {
        let ami = |key: &str| world.known(key).and_then(|v| v["ami"].as_str().map(str::to_owned));
        let mut regions = Vec::<Region>::new();
        for place in self.0.images() {
            let ami = ami(&place.key())?;
            match (place.kind, regions.iter_mut().find(|r| r.name == place.region)) {
                (Kind::Pv, Some(region)) => region.pv = Some(ami),
                (_, _) => regions.push(Region { name: place.region, pv: None, hvm: ami }),
            }
        }
        regions.sort();
        Some(regions)
    }

    fn name(&self, list: &str) -> String {
        format!("{}{list}", self.0.facts.list_prefix)
    }
}

#[async_trait(?Send)]
impl Act for Lists {
    async fn look(&self, world: &World<'_>) -> Result<Look> {
        let build = &world.release.build;
        let Some(regions) = self.regions(world) else {
            let all: Vec<Place> = self.0.images().collect();
            let hvm = all.iter().filter(|p| p.kind == Kind::Hvm);
            let has_pv = |region: &str| all.iter().any(|p| p.kind == Kind::Pv && p.region == region);
            let names = lists::names(hvm.map(|p| (p.region.as_str(), has_pv(&p.region))));
            let lines = names.iter().map(|(name, _)| format!("write {}", build.url_of(&self.name(name))));
            return Ok(Look::Todo(lines.collect()));
        };
        let mut missing = Vec::new();
        for list in lists::files(&regions) {
            let name = self.name(&list.name);
            if !build.is_written(&name, &list.content, list.kind).await? {
                missing.push(format!("write {}", build.url_of(&name)));
            }
        }
        Ok(if missing.is_empty() { Look::Done(json!({"amis": regions})) } else { Look::Todo(missing) })
    }

    async fn run(&self, world: &World<'_>) -> Result<Value> {
        let regions = self.regions(world).ok_or_else(|| Stopped::words("not all images are known"))?;
        for list in lists::files(&regions) {
            world.release.build.write(&self.name(&list.name), &list.content, list.kind).await?;
        }
        Ok(json!({"amis": regions}))
    }
}
