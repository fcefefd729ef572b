//! Microsoft Azure: the disk as a blob; of channels that say so, an image of the classic API in each of its clouds.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::{Act, COMPONENT, Look, Phase, Release, Result, Step, Stopped, World};
use crate::cloud::azure::Account;
use crate::cloud::azure::arm::Arm;
use crate::cloud::azure::classic::{self, Classic, NewImage, Permission, Unfinished};
use crate::cloud::azure::storage::{Credential, Environment, Key, Place, Storage, Upload, UploadError};
use crate::disk::vhd;
use crate::info;
use crate::poll;
use crate::release::{Azure, AzureEnvironment, ClassicAzure, Selection};

/// The place.
pub struct Provider;

/// What all steps share.
struct Shared {
    facts: Azure,
    channel: String,
    version: String,
    account: Account,
    /// By environment of the classic API; one without any.
    storages: Vec<OnceCell<Storage>>,
}

impl super::Provider for Provider {
    fn name(&self) -> &'static str {
        "azure"
    }

    fn prepares(&self) -> bool {
        true
    }

    fn steps(&self, release: &Release) -> Vec<Step> {
        let Selection { channel, version, azure, .. } = &release.selection;
        let Some(facts) = azure else { return Vec::new() };
        let environments = facts.classic.as_ref().map_or(1, |classic| classic.environments.len());
        let shared = Arc::new(Shared {
            facts: facts.clone(),
            channel: channel.clone(),
            version: version.clone(),
            account: release.accounts.azure.clone(),
            storages: (0..environments).map(|_| OnceCell::new()).collect(),
        });
        let mut steps = Vec::new();
        match &facts.classic {
            Some(classic) => {
                for (at, environment) in classic.environments.iter().enumerate() {
                    Shared::environment(&shared, classic, at, environment, &mut steps);
                }
            }
            None => steps.push(Shared::blob(&shared, 0, &facts.account, &facts.container)),
        }
        steps
    }
}

/// The channel as it stands in names of images.
fn capitalised(channel: &str) -> String {
    let mut letters = channel.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

impl Shared {
    fn image_name(&self, classic: &ClassicAzure) -> String {
        format!("{}-{}-{}", classic.offer, capitalised(&self.channel), self.version)
    }

    fn blob(shared: &Arc<Self>, at: usize, place: &str, container: &str) -> Step {
        let does = format!("upload blob {} to container {container} of {place}", shared.facts.blob);
        let blob = Blob { shared: shared.clone(), at, container: container.into() };
        Step::new(format!("azure/{place}/{container}"), Phase::Prepare, does, blob)
    }

    fn environment(
        shared: &Arc<Self>,
        classic: &ClassicAzure,
        at: usize,
        environment: &AzureEnvironment,
        steps: &mut Vec<Step>,
    ) {
        let AzureEnvironment { subscription: place, extra_containers } = environment;
        let key = |what: &str| format!("azure/{place}/{what}");
        let container = &shared.facts.container;
        for container in [container].into_iter().chain(extra_containers) {
            steps.push(Self::blob(shared, at, place, container));
        }
        let name = shared.image_name(classic);
        let image = Image { shared: shared.clone(), classic: classic.clone(), at, name: name.clone() };
        let image = |act: Verb| ClassicAct { image: image.clone(), verb: act };
        let check = format!("find subscription {place:?}");
        steps.push(Step::new(key("subscription"), Phase::Check, check, image(Verb::Find)));
        let does = format!("register image {name} in {place}");
        let image_step = Step::new(key("image"), Phase::Prepare, does, image(Verb::Register));
        steps.push(image_step.after(key(container)));
        let does = format!("replicate image {name} in {place}");
        steps.push(
            Step::new(key("regions"), Phase::Prepare, does, image(Verb::Replicate)).after(key("image")),
        );
        let does = format!("share image {name} in {place} with everybody");
        steps.push(Step::new(key("public"), Phase::Publish, does, image(Verb::Share)));
    }

    /// The subscription of an environment of the classic API.
    async fn subscription(&self, environment: &AzureEnvironment) -> Result<classic::Subscription> {
        let account = classic::Account {
            azure_profile: self.account.azure_profile.clone().filter(|p: &PathBuf| !p.as_os_str().is_empty()),
            azure_subscription: Some(environment.subscription.clone()),
        };
        let found = tokio::task::spawn_blocking(move || account.subscription()).await;
        found.map_err(Stopped::failed)?.map_err(Stopped::failed)
    }

    async fn classic(&self, environment: &AzureEnvironment) -> Result<Classic> {
        Classic::new(&self.subscription(environment).await?).map_err(Stopped::failed)
    }

    async fn storage(&self, at: usize) -> Result<&Storage> {
        let open = || async {
            let Azure { account, resource_group, classic, .. } = &self.facts;
            if let Some(environment) = classic.as_ref().and_then(|c| c.environments.get(at)) {
                // Each cloud has an account of this name: keys of the environment are those of one at most.
                let subscription = self.subscription(environment).await?;
                let api = Classic::new(&subscription).map_err(Stopped::failed)?;
                let key =
                    api.storage_key(account).await.and_then(|key| Key::new(&key)).map_err(Stopped::failed)?;
                let place = Place::new(&subscription.suffix).map_err(Stopped::failed)?;
                return Storage::new(&place, account, Credential::Key(key)).map_err(Stopped::failed);
            }
            let arm = Arm::new(&self.account).map_err(Stopped::failed)?;
            let place = arm.blobs().map_err(Stopped::failed)?;
            let credential = match Environment::of_process().credential(account).map_err(Stopped::failed)? {
                Some(credential) => credential,
                None => {
                    let group = resource_group.as_deref().unwrap_or_default();
                    arm.storage_credential(group, account).await.map_err(Stopped::failed)?
                }
            };
            Storage::new(&place, account, credential).map_err(Stopped::failed)
        };
        self.storages[at].get_or_try_init(open).await
    }
}

/// The disk, in a container.
struct Blob {
    shared: Arc<Shared>,
    at: usize,
    container: String,
}

#[async_trait(?Send)]
impl Act for Blob {
    async fn look(&self, world: &World<'_>) -> Result<Look> {
        let Azure { blob, image, .. } = &self.shared.facts;
        let storage = self.shared.storage(self.at).await?;
        let page = storage.page_blob(&self.container, blob).map_err(Stopped::failed)?;
        if page.is_finished().await.map_err(Stopped::failed)? == Some(true) {
            return Ok(Look::Done(json!({"url": page.url().as_str()})));
        }
        Ok(match world.release.build.has(image, world.release).await? {
            true => Look::Todo(Vec::new()),
            false => Look::Impossible(format!("File not found: {}", world.release.build.url_of(image))),
        })
    }

    async fn run(&self, world: &World<'_>) -> Result<Value> {
        let Azure { blob, image, classic, .. } = &self.shared.facts;
        let file = world.release.build.image(image, world.release).await?;
        let storage = self.shared.storage(self.at).await?;
        let page = storage.page_blob(&self.container, blob).map_err(Stopped::failed)?;
        let limit = if classic.is_some() { vhd::MAX_CLASSIC_SIZE } else { vhd::MAX_SIZE };
        let upload = Upload {
            file: &file,
            overwrite: false,
            validate: Some(limit),
            report: &|_, _, _| {},
            cancel: &world.release.cancel,
        };
        let uploaded = page.upload(&upload).await;
        uploaded.map_err(|e| {
            let interrupted = matches!(e, UploadError::Interrupted);
            Stopped::from(e, interrupted)
        })?;
        info!(COMPONENT, "blob {} is complete", page.url());
        Ok(json!({"url": page.url().as_str()}))
    }
}

/// An image of the classic API in one of its clouds.
#[derive(Clone)]
struct Image {
    shared: Arc<Shared>,
    classic: ClassicAzure,
    at: usize,
    name: String,
}

/// What is done with it.
enum Verb {
    Find,
    Register,
    Replicate,
    Share,
}

struct ClassicAct {
    image: Image,
    verb: Verb,
}

fn stopped(error: Unfinished) -> Stopped {
    let interrupted = matches!(error, poll::Error::Cancelled);
    Stopped::from(error, interrupted)
}

impl Image {
    fn environment(&self) -> &AzureEnvironment {
        &self.classic.environments[self.at]
    }

    fn order(&self, link: String, date: String) -> NewImage {
        let ClassicAzure { label, family, description, recommended_size, icon, small_icon, .. } =
            &self.classic;
        let mut order = NewImage::new(self.name.clone(), label.clone(), link);
        order.description = description.clone();
        order.image_family = family.clone();
        order.published_date = date;
        order.recommended_vm_size = recommended_size.clone();
        order.icon_uri = icon.clone();
        order.small_icon_uri = small_icon.clone();
        order
    }
}

#[async_trait(?Send)]
impl Act for ClassicAct {
    async fn look(&self, _: &World<'_>) -> Result<Look> {
        let Self { image, verb } = self;
        let environment = image.environment();
        if let Verb::Find = verb {
            image.shared.subscription(environment).await?;
            return Ok(Look::Done(Value::Null));
        }
        let api = image.shared.classic(environment).await?;
        let there = api.has_image(&image.name).await.map_err(Stopped::failed)?;
        let key = format!("azure/{}/image", environment.subscription);
        Ok(match (verb, there) {
            (Verb::Register, true) => Look::Done(json!({"image": image.name})),
            (Verb::Register, false) => Look::Todo(Vec::new()),
            // The API does not say where an image is, nor for whom.
            (_, true) => Look::Untold,
            (_, false) => Look::After(key, format!("there is no image {}", image.name)),
        })
    }

    async fn run(&self, world: &World<'_>) -> Result<Value> {
        let Self { image, verb } = self;
        let Image { shared, classic, name, .. } = image;
        let (api, cancel) = (shared.classic(image.environment()).await?, &world.release.cancel);
        match verb {
            Verb::Find => {}
            Verb::Register => {
                let storage = shared.storage(image.at).await?;
                let blob = storage
                    .page_blob(&shared.facts.container, &shared.facts.blob)
                    .map_err(Stopped::failed)?;
                let date = world.release.date.format("%Y-%m-%d").to_string();
                let order = image.order(blob.url().to_string(), date);
                if !api.has_image(name).await.map_err(Stopped::failed)? {
                    api.add_image(&order, cancel).await.map_err(stopped)?;
                }
            }
            Verb::Replicate => {
                let regions = api.locations().await.map_err(Stopped::failed)?;
                if regions.is_empty() {
                    return Err(Stopped::words("no location has machines"));
                }
                let attributes =
                    (classic.offer.as_str(), &*capitalised(&shared.channel), shared.version.as_str());
                api.replicate_image(name, attributes, &regions, cancel).await.map_err(stopped)?;
            }
            Verb::Share => api.share_image(name, Permission::Public, cancel).await.map_err(stopped)?,
        }
        Ok(json!({"image": name}))
    }
}
