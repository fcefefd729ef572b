//! `ore gcloud create-image`, `delete-images`, `deprecate-image`, `list-images`, `promote-image` and `update-image`.

use ::mantle::applet::Context;
use ::mantle::cloud::google::compute::{Compute, Deprecation, Milestone, NewImage};
use ::mantle::cloud::google::images::{self, FEATURES};
use ::mantle::cloud::google::storage::Location;
use ::mantle::error::{Result, Section as _, Stop, WrapErr as _, eyre, usage};
use ::mantle::output;
use ::mantle::text::chain;
use clap::{Parser, ValueEnum as _};
use futures_util::future::join_all;
use serde_json::json;

use super::Options;
use crate::ore::group::{Account as _, Explain as _, Json, Verb, given, unless_cancelled, user};

/// What an image is made with, besides its content.
#[derive(clap::Args)]
#[group(skip)]
pub struct Attributes {
    /// Family that the image becomes the newest one of
    #[arg(long, value_name = "FAMILY")]
    image_family: Option<String>,

    /// Description of the image
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    /// Licenses of the image: names in the project, or paths
    #[arg(long, value_name = "LICENSE", value_delimiter = ',')]
    license: Vec<String>,

    /// What guests of the image can do, such as UEFI_COMPATIBLE and GVNIC
    #[arg(long, value_name = "FEATURE", value_delimiter = ',', default_values = FEATURES)]
    guest_feature: Vec<String>,

    /// Architecture of the image: X86_64 or ARM64
    #[arg(long, value_name = "ARCH", value_parser = architecture)]
    arch: Option<String>,

    /// Let everybody with an account at Google use the image
    #[arg(long)]
    public: bool,
}

/// As Compute Engine spells it.
fn architecture(text: &str) -> Result<String, String> {
    match text.to_ascii_lowercase().as_str() {
        "x86_64" | "amd64" => Ok("X86_64".into()),
        "arm64" | "aarch64" => Ok("ARM64".into()),
        _ => Err("it is neither X86_64 nor ARM64".into()),
    }
}

impl Attributes {
    /// Makes an image of an object and waits until it is there; with `replace`, in place of one of the same name.
    pub async fn create(
        &self,
        compute: &Compute,
        name: &str,
        source: &Location,
        replace: bool,
        context: &Context,
    ) -> Result<(), images::Failure> {
        let mut licenses = Vec::new();
        for license in self.license.iter().filter(|l| !l.is_empty()) {
            let found = compute.license(license).await.map_err(images::Failure::call)?;
            licenses.push(found.ok_or_else(|| images::Failure::License(license.clone()))?);
        }
        let set = |value: &'_ Option<String>| value.as_deref().filter(|v| !v.is_empty()).map(str::to_owned);
        let (family, description) = (set(&self.image_family), set(&self.description));
        let features: Vec<String> = self.guest_feature.iter().filter(|f| !f.is_empty()).cloned().collect();
        let new = NewImage {
            name,
            source: &images::source(&source.bucket, &source.name),
            family: family.as_deref(),
            description: description.as_deref(),
            licenses: &licenses,
            features: &features,
            architecture: self.arch.as_deref(),
        };
        images::create(compute, &new, replace, &context.cancel).await?;
        if self.public {
            compute.publish_image(name).await.map_err(images::Failure::call)?;
        }
        Ok(())
    }
}

#[derive(Parser)]
#[command(
    name = "create-image",
    about = "Create GCE image",
    long_about = "Make an image of an archive in Cloud Storage, as builds leave it there: \
        SOURCE-ROOT/BOARD/VERSION/SOURCE-NAME. The image is called FAMILY-VERSION."
)]
pub struct Create {
    /// First part of the image's name [default: $USER]
    #[arg(long, value_name = "NAME")]
    family: Option<String>,

    /// Board of the build
    #[arg(long, value_name = "BOARD", default_value = "amd64-usr")]
    board: String,

    /// Version of the build
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,

    /// Where builds are [default: gs://users.developer.core-os.net/$USER/boards]
    #[arg(long, value_name = "URL")]
    source_root: Option<String>,

    /// Name of the archive
    #[arg(long, value_name = "NAME", default_value = "coreos_production_gce.tar.gz")]
    source_name: String,

    /// Replace an image of the same name
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    attributes: Attributes,
}

impl Verb for Create {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        let version = given(self.version).ok_or_else(|| usage("--version is required"))?;
        let family = given(self.family).map_or_else(user, Ok)?;
        let root = match given(self.source_root) {
            Some(root) => root,
            None => format!("gs://users.developer.core-os.net/{}/boards", user()?),
        };
        let root = Location::prefix(&root).map_err(|e| usage(format!("--source-root: {e}")))?;
        let source = root.join(&self.board).join(&version).join(&self.source_name);
        let name = images::name(&format!("{family}-{version}")).map_err(usage)?;
        let compute = account.sign_in(context).await?;
        let storage = account.storage()?;
        let there = unless_cancelled(context, async { Ok(storage.get(&source).await) }).await?;
        match there {
            Ok(_) => {}
            Err(e) if e.status() == Some(reqwest::StatusCode::NOT_FOUND) => {
                return Err(eyre!("Source image {source} does not exist"));
            }
            Err(e) => return Err(eyre!(e).wrap_err(format!("cannot look at {source}"))),
        }
        output::line(format!("Creating image in GCE: {name}..."))?;
        let made = self.attributes.create(&compute, &name, &source, self.force, context).await;
        made.map_err(|e| {
            let is_taken = e.is_taken();
            let report = e.explain("Creating GCE image failed");
            if is_taken {
                report.suggestion("pass --force to replace the image that is there")
            } else {
                report
            }
        })
    }
}

#[derive(Parser)]
#[command(name = "delete-images", about = "Delete GCE images")]
pub struct Delete {
    /// Names of images
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

impl Verb for Delete {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        if self.names.is_empty() {
            return Err(usage("Specify image name(s)."));
        }
        for name in &self.names {
            images::check_name(name).map_err(usage)?;
        }
        let compute = account.sign_in_to_remove(context).await?;
        let removals = self.names.iter().map(|name| images::remove(&compute, name, &context.cancel));
        let (mut failed, mut interrupted) = (0, false);
        for (name, outcome) in self.names.iter().zip(join_all(removals).await) {
            match outcome {
                Ok(true) => ::mantle::info!("ore", "deleted image {name}"),
                Ok(false) => {
                    failed += 1;
                    ::mantle::error!("ore", "there is no image {name} in project {}", compute.project());
                }
                Err(e) if e.is_interruption() => interrupted = true,
                Err(e) => {
                    failed += 1;
                    ::mantle::error!("ore", "image {name} could not be deleted: {}", chain(&e));
                }
            }
        }
        match failed {
            _ if interrupted => Err(Stop::Interrupted.into()),
            0 => Ok(()),
            n => Err(eyre!("Couldn't delete images: {n} of {} could not be deleted", self.names.len())),
        }
    }
}

#[derive(Parser)]
#[command(name = "list-images", about = "List GCE images")]
pub struct List {
    /// What names of images begin with
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    prefix: String,

    #[command(flatten)]
    form: Json,
}

impl Verb for List {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        let is_name = |c: char| c == '-' || c.is_ascii_lowercase() || c.is_ascii_digit();
        if !self.prefix.chars().all(is_name) {
            return Err(usage(format!("--prefix={}: no name of an image begins so", self.prefix)));
        }
        let compute = account.sign_in(context).await?;
        let filter = format!("name eq ^{}.*", self.prefix);
        let mut found = unless_cancelled(context, async {
            compute.images(Some(&filter)).await.map_err(|e| e.explain("Couldn't list images"))
        })
        .await?;
        found.retain(|i| i.name.starts_with(&self.prefix));
        found.sort_by(|a, b| a.name.cmp(&b.name));
        if self.form.json {
            let list: Vec<_> = found
                .iter()
                .map(|i| {
                    json!({
                        "name": i.name, "family": i.family, "status": i.status, "created": i.creation_timestamp,
                        "description": i.description, "deprecated": i.deprecated,
                    })
                })
                .collect();
            return Ok(output::line(serde_json::to_string(&list)?)?);
        }
        found.iter().try_for_each(|i| output::line(&i.name)).map_err(Into::into)
    }
}

#[derive(Parser)]
#[command(
    name = "deprecate-image",
    about = "Change deprecation status of a GCE image",
    long_about = "Say whether an image should be used: ACTIVE ones should, DEPRECATED ones can, OBSOLETE and DELETED \
        ones cannot be. Nothing is deleted."
)]
pub struct Deprecate {
    /// Name of the image
    #[arg(long = "image-name", value_name = "NAME", required = true)]
    name: String,

    /// How far the image is on its way out
    #[arg(
        long,
        value_name = "STATE",
        default_value = "DEPRECATED",
        value_parser = ["ACTIVE", "DEPRECATED", "OBSOLETE", "DELETED"],
        ignore_case = true
    )]
    state: String,

    /// Image to use in its place: a name in the project, a path or a URL
    #[arg(long, value_name = "IMAGE")]
    replacement: Option<String>,
}

impl Verb for Deprecate {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        images::check_name(&self.name).map_err(usage)?;
        let state = Milestone::from_str(&self.state, true).map_err(usage)?;
        let compute = account.sign_in(context).await?;
        let replacement = given(self.replacement).map(|r| compute.image_url(&r)).transpose();
        let replacement = replacement.map_err(|e| usage(format!("--replacement: {e}")))?;
        let status = Deprecation { state: Some(state), replacement };
        let call = compute.deprecate_image(&self.name, &status).await;
        done(&compute, call, &format!("deprecation of image {}", self.name), context).await
    }
}

#[derive(Parser)]
#[command(
    name = "promote-image",
    about = "Promote a GCE image as the one of its family",
    long_about = "Make an image the one that its family stands for: it becomes ACTIVE, and then the others of the family \
        become DEPRECATED, with it as their replacement. A second run completes what was interrupted."
)]
pub struct Promote {
    /// Name of the image
    #[arg(long = "image-name", value_name = "NAME", required = true)]
    name: String,

    /// Family of the image
    #[arg(long, value_name = "FAMILY", required = true)]
    family: String,
}

impl Verb for Promote {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        images::check_name(&self.name).map_err(usage)?;
        images::check_name(&self.family).map_err(usage)?;
        let compute = account.sign_in(context).await?;
        let filter = format!("family = \"{}\"", self.family);
        let all = unless_cancelled(context, async {
            compute.images(Some(&filter)).await.map_err(|e| e.explain("Couldn't list images"))
        });
        let all: Vec<_> =
            all.await?.into_iter().filter(|i| i.family.as_deref() == Some(&self.family)).collect();
        let Some(image) = all.iter().find(|i| i.name == self.name) else {
            return Err(eyre!(
                "family {} has no image {} in project {}",
                self.family,
                self.name,
                compute.project()
            )
            .suggestion(
                "see the images with `ore gcloud list-images --json`, or put it there with `ore gcloud \
                             update-image`",
            ));
        };
        let state = |i: &::mantle::cloud::google::compute::Image| i.deprecated.as_ref().and_then(|d| d.state);
        // First the new one: the family never stands for nothing.
        if state(image).is_some_and(|s| s != Milestone::Active) {
            let call = compute.deprecate_image(
                &self.name,
                &Deprecation { state: Some(Milestone::Active), replacement: None },
            );
            done(&compute, call.await, &format!("promotion of image {}", self.name), context).await?;
        }
        let replacement = Some(compute.image_url(&self.name).wrap_err("cannot name the replacement")?);
        let others =
            all.iter().filter(|i| i.name != self.name && state(i).is_none_or(|s| s == Milestone::Active));
        for other in others {
            let status = Deprecation { state: Some(Milestone::Deprecated), replacement: replacement.clone() };
            let call = compute.deprecate_image(&other.name, &status).await;
            done(&compute, call, &format!("deprecation of image {}", other.name), context).await?;
        }
        Ok(())
    }
}

#[derive(Parser)]
#[command(
    name = "update-image",
    about = "Update the family and the description of a GCE image, and who may use it"
)]
pub struct Update {
    /// Name of the image
    #[arg(long = "image-name", value_name = "NAME", required = true)]
    name: String,

    /// Family that the image becomes one of
    #[arg(long, value_name = "FAMILY")]
    family: Option<String>,

    /// Description of the image
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    /// Let everybody with an account at Google use the image
    #[arg(long)]
    public: bool,
}

impl Verb for Update {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        images::check_name(&self.name).map_err(usage)?;
        let mut fields = serde_json::Map::new();
        for (key, value) in [("family", self.family), ("description", self.description)] {
            if let Some(value) = value {
                fields.insert(key.into(), value.into());
            }
        }
        if fields.is_empty() && !self.public {
            return Err(usage("nothing to change: pass --family, --description or --public"));
        }
        let compute = account.sign_in(context).await?;
        if !fields.is_empty() {
            let call = compute.patch_image(&self.name, &fields.into()).await;
            done(&compute, call, &format!("change of image {}", self.name), context).await?;
        }
        if self.public {
            compute.publish_image(&self.name).await.map_err(|e| e.explain("Couldn't publish the image"))?;
        }
        Ok(())
    }
}

/// Waits for what a call has begun.
async fn done(
    compute: &Compute,
    call: ::mantle::cloud::google::compute::Result<::mantle::cloud::google::compute::Operation>,
    what: &str,
    context: &Context,
) -> Result<()> {
    let operation = call.map_err(|e| e.explain(""))?;
    compute.done(operation, what, &context.cancel).await.map_err(|e| e.explain(""))
}
