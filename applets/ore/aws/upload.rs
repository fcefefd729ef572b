//! `ore aws upload`.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ::mantle::applet::Context;
use ::mantle::args::{self, Choices, path_parser};
use ::mantle::cloud::aws::images::pv_kernel;
use ::mantle::cloud::aws::object::{Location, default_bucket, location};
use ::mantle::cloud::aws::upload::{self, Request, Source, check_image_name, parse_tag};
use ::mantle::disk::{self, Content, Format, MAX_GIB};
use ::mantle::error::{Result, Section as _, WrapErr as _, eyre, usage};
use ::mantle::progress::Progress;
use ::mantle::release::version::Versions;
use ::mantle::{output, sdk, warning};
use clap::builder::{PossibleValue, TypedValueParser as _};
use clap::{Parser, ValueHint};

use super::Options;
use crate::ore::group::{Account as _, Explain as _, Verb, given, user};

/// What the SDK calls the image.
const FILE: &str = "coreos_production_ami_vmdk_image.vmdk";

fn formats() -> Vec<PossibleValue> {
    Format::ALL.iter().map(|format| PossibleValue::new(format.name())).collect()
}

#[derive(Parser)]
#[command(
    name = "upload",
    about = "Create AWS images",
    long_about = "Upload a disk image through S3, import it as a snapshot and register machine images of it; or write a \
        raw image straight into a snapshot with --direct. Whatever is there already under the same names is used: a \
        repeated command goes on where the last one stopped. The result is a line of JSON.\n\n\
        When the command is interrupted or the network fails, the parts that were uploaded stay, to be gone on with; \
        ore aws gc removes them if nobody does."
)]
pub struct Upload {
    #[arg(
        long,
        value_name = "FILE",
        value_parser = path_parser(),
        value_hint = ValueHint::FilePath,
        help = format!("Image to upload [default: the SDK's latest {FILE}]")
    )]
    file: Option<PathBuf>,

    /// Name of the uploaded image: tag of the snapshot, by which it is found again [default: COREOS_VERSION of the
    /// version.txt beside the file]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Name of the AMI, to which -hvm is added [default: Container-Linux-dev-$USER-<version>; the name without
    /// version.txt]
    #[arg(long, value_name = "NAME")]
    ami_name: Option<String>,

    /// Description of the AMI
    #[arg(long, value_name = "TEXT")]
    ami_description: Option<String>,

    /// Board, part of the default path in the bucket
    #[arg(long, value_name = "BOARD", default_value = "amd64-usr")]
    board: String,

    /// Bucket to upload to, s3://BUCKET[/PATH] [default: s3://coreos-dev-ami-import-<region>/$USER/<board>/<name>]
    #[arg(long, value_name = "URL")]
    bucket: Option<String>,

    /// Import this s3:// object, upload nothing
    #[arg(long, value_name = "URL")]
    source_object: Option<String>,

    /// Make the AMI of this snapshot, upload and import nothing
    #[arg(long, value_name = "SNAPSHOT")]
    source_snapshot: Option<String>,

    /// Format of file or object [default: VMDK; RAW with --direct]
    #[arg(long, value_name = "FORMAT", value_parser = Choices(formats).try_map(|text| text.parse::<Format>()))]
    object_format: Option<Format>,

    /// Size of the disk in GiB
    #[arg(long, value_name = "GIB", value_parser = args::parse_int::<u32>, default_value = "8")]
    disk_size_gib: u32,

    /// Take the size of the disk from the image
    #[arg(long)]
    disk_size_inspect: bool,

    /// Delete the uploaded object in the end
    #[arg(long, default_value = "true")]
    delete_object: bool,

    /// Start over: upload even if the object exists, and replace snapshot and AMIs
    #[arg(long)]
    force: bool,

    /// Accounts that may start machines of the AMI, by number
    #[arg(long, value_name = "ACCOUNT", value_delimiter = ',')]
    grant_user: Vec<String>,

    /// Create a paravirtual AMI too
    #[arg(long)]
    create_pv: bool,

    /// Tags of AMI and snapshot
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    tags: Vec<String>,

    /// Write the raw image straight into a snapshot, without bucket and import; zeros are not sent
    #[arg(long)]
    direct: bool,

    /// Go on with an interrupted upload, and leave one that can be gone on with
    #[arg(long, default_value = "true")]
    resume: bool,

    /// Show no progress
    #[arg(long)]
    quiet: bool,
}

impl Verb for Upload {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        let quiet = self.quiet;
        // What can be told without knowing the region comes before credentials are looked for.
        let plan = Plan::new(self)?;
        account.region().map_or(Ok(()), |r| plan.check_region(r))?;
        let api = account.api().await?;
        plan.check_region(api.region())?;
        let request = plan.request(api.region())?;
        account.preflight(&api, context).await?;
        let bar = Bar::new(&request, quiet);
        let outcome =
            upload::run(&api, &request, &|done, total| bar.show(done, total), &context.cancel).await;
        drop(bar);
        Ok(output::line(serde_json::to_string(&outcome.map_err(|e| e.explain(""))?)?)?)
    }
}

/// What the options say, as far as it does not depend on the region.
struct Plan {
    request: Request,
    /// Where to upload: nothing, a bucket, or a bucket and a path in it.
    bucket: Option<Location>,
    /// The object to import instead.
    object: Option<Location>,
    board: String,
    base: String,
}

fn url(option: &str, value: Option<String>) -> Result<Option<Location>> {
    given(value).map(|v| location(&v).map_err(|e| usage(format!("--{option}: {e}")))).transpose()
}

impl Plan {
    fn new(verb: Upload) -> Result<Self> {
        let (bucket, object) = (url("bucket", verb.bucket)?, url("source-object", verb.source_object)?);
        let snapshot = given(verb.source_snapshot);
        if object.is_some() && snapshot.is_some() {
            return Err(usage("At most one of --source-object and --source-snapshot may be specified."));
        }
        let elsewhere = object.is_some() || snapshot.is_some();
        if verb.disk_size_inspect && elsewhere {
            return Err(usage(
                "--disk-size-inspect cannot be used with --source-object or --source-snapshot.",
            ));
        }
        if verb.direct && elsewhere {
            return Err(usage("--direct cannot be used with --source-object or --source-snapshot."));
        }
        if object.as_ref().is_some_and(|o| o.name.is_empty()) {
            return Err(usage("--source-object names a bucket, not an object"));
        }
        if let Some(object) = object.as_ref().filter(|o| matches!(&*o.name, "." | "..")) {
            return Err(usage(format!("--source-object: no URL leads to {object}, whose key is dots alone")));
        }
        if let Some(id) = snapshot.as_ref().filter(|s| !s.starts_with("snap-")) {
            return Err(usage(format!("--source-snapshot={id} is no id: it does not begin with snap-")));
        }
        let format = match (verb.object_format, verb.direct) {
            (Some(Format::Vmdk), true) => {
                return Err(usage("--direct writes raw images only, not VMDK."));
            }
            (Some(format), _) => format,
            (None, true) => Format::Raw,
            (None, false) => Format::Vmdk,
        };
        let tags = verb.tags.iter().filter(|t| !t.is_empty());
        let tags = tags.map(|t| parse_tag(t).map_err(usage)).collect::<Result<Vec<_>>>()?;
        let users: Vec<_> = verb.grant_user.into_iter().filter(|u| !u.is_empty()).collect();
        if let Some(bad) = users.iter().find(|u| u.len() != 12 || !u.bytes().all(|b| b.is_ascii_digit())) {
            return Err(usage(format!(
                "--grant-user={bad} is no number of an account: those have 12 digits"
            )));
        }
        let size_gib = verb.disk_size_gib;
        if size_gib == 0 || u64::from(size_gib) > MAX_GIB {
            return Err(usage(format!(
                "--disk-size-gib={size_gib} is no size of a disk: 1 to {MAX_GIB} GiB are"
            )));
        }
        let file = match verb.file.filter(|f| !f.as_os_str().is_empty()) {
            Some(file) => file,
            None => sdk::image_dir("amd64-usr", "latest").map_err(|e| usage(e.to_string()))?.join(FILE),
        };
        let base = file.file_name().and_then(|n| n.to_str()).map(str::to_owned);
        let base = base.ok_or_else(|| usage(format!("--file={} does not name a file", file.display())))?;
        if !elsewhere {
            // Before its name is looked for in the file beside it.
            disk::content(&file).wrap_err_with(|| format!("Could not open image file {}", file.display()))?;
        }
        let (name, image_name) = names(given(verb.name), given(verb.ami_name), &file)?;
        for name in [&image_name, &format!("{image_name}-hvm")] {
            check_image_name(name).map_err(usage)?;
        }
        let source = match (&object, snapshot) {
            (_, Some(id)) => Source::Snapshot(id),
            (Some(_), None) => Source::Object,
            (None, None) if verb.direct => Source::Direct(file),
            (None, None) => Source::File(file),
        };
        let mut size_gib = i64::from(size_gib);
        if let Some(file) = source.file() {
            size_gib = disk_size(file, format, size_gib, verb.disk_size_inspect)?;
        }
        let request = Request {
            name,
            source,
            object: object.clone().unwrap_or_else(|| Location::new("", "")),
            format,
            size_gib,
            force: verb.force,
            delete_object: verb.delete_object,
            resume: verb.resume,
            image_name,
            description: verb.ami_description.unwrap_or_default(),
            users,
            tags,
            pv: verb.create_pv,
        };
        Ok(Self { request, bucket, object, board: verb.board, base })
    }

    /// Refuses what the region cannot do.
    fn check_region(&self, region: &str) -> Result<()> {
        match self.request.pv {
            true => pv_kernel(region).map(|_| ()).map_err(|e| usage(e.to_string())),
            false => Ok(()),
        }
    }

    /// What is to be made, in this region.
    fn request(self, region: &str) -> Result<Request> {
        let Self { mut request, bucket, object, board, base } = self;
        if object.is_none() {
            let to = bucket.unwrap_or_else(|| Location::new(default_bucket(region), ""));
            let folder = match to.name.as_str() {
                "" => to.at(format!("{}/{board}/{}", user()?, request.name)),
                _ => to,
            };
            request.object = folder.join(&base);
        }
        Ok(request)
    }
}

/// The names of image and AMI.
fn names(name: Option<String>, image_name: Option<String>, file: &Path) -> Result<(String, String)> {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let version = Versions::of_folder(folder).map(|v| v.version);
    let (name, version) = match (name, version) {
        (Some(name), Ok(version)) => (name, version),
        (Some(name), Err(_)) => (name.clone(), name),
        (None, Ok(version)) => (version.clone(), version),
        (None, Err(e)) => {
            return Err(eyre!(e)
                .wrap_err("the image has no name: no --name, and no version beside it")
                .suggestion("pass --name, or put the SDK's version.txt beside the image"));
        }
    };
    let guess =
        || -> Result<String> { Ok(format!("Container-Linux-dev-{}-{}", user()?, version.replace('+', "-"))) };
    let image_name = image_name.map_or_else(guess, Ok).wrap_err("could not guess image name")?;
    Ok((name, image_name))
}

/// Looks into the file before anything is sent: whether it is what it should be, and how large its disk is.
fn disk_size(file: &Path, format: Format, asked: i64, inspect: bool) -> Result<i64> {
    let shown = file.display();
    let open = || format!("Could not open image file {shown}");
    let content = disk::content(file).wrap_err_with(open)?;
    if !file.is_file() {
        return Err(eyre!("{}: it is not a file", open()));
    }
    match (content, format) {
        (Content::Packed(tool), _) => {
            return Err(eyre!("{shown} is packed").suggestion(format!("unpack it with {tool}")));
        }
        (Content::Qcow2, _) => {
            return Err(
                eyre!("{shown} is a qcow2 image").suggestion("convert it with `qemu-img convert -O raw`")
            );
        }
        (Content::VmdkDescriptor, _) => {
            return Err(eyre!("{shown} is only the description of a VMDK").suggestion(
                "make one file of it with `qemu-img convert -O vmdk -o subformat=streamOptimized`",
            ));
        }
        (Content::Vmdk, Format::Raw) => {
            return Err(eyre!("{shown} is a VMDK").suggestion("pass --object-format=VMDK"));
        }
        (Content::Other, Format::Vmdk) => {
            warning!(
                "ore",
                "{shown} does not look like a VMDK; pass --object-format=RAW if it is a plain disk"
            );
        }
        (Content::Vmdk, Format::Vmdk) | (Content::Other, Format::Raw) => {}
    }
    let bytes = disk::virtual_size(file).wrap_err("Unable to query size of disk")?;
    if bytes == 0 {
        return Err(eyre!("{shown} is empty"));
    }
    let inside = i64::try_from(disk::gib(bytes)).wrap_err("Unable to query size of disk")?;
    let known = content == Content::Vmdk || format == Format::Raw;
    match inspect {
        true if inside as u64 > MAX_GIB => {
            Err(eyre!("the disk in {shown} has {inside} GiB, more than {MAX_GIB}"))
        }
        true => Ok(inside),
        false if known && inside > asked => {
            Err(usage(format!("the disk in {shown} has {inside} GiB, more than --disk-size-gib={asked}"))
                .suggestion("pass --disk-size-inspect"))
        }
        false => Ok(asked),
    }
}

/// The bar of an upload, there from its first bytes.
struct Bar {
    name: String,
    bar: Option<Mutex<Option<Progress>>>,
}

impl Bar {
    fn new(request: &Request, quiet: bool) -> Self {
        let file = request.source.file().map(PathBuf::from).unwrap_or_default();
        let name = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        Self { name, bar: (!quiet).then(|| Mutex::new(None)) }
    }

    fn show(&self, done: u64, total: u64) {
        let Some(Ok(mut bar)) = self.bar.as_ref().map(Mutex::lock) else { return };
        bar.get_or_insert_with(|| Progress::of_file("ore", &self.name)).reach(done, total);
    }
}
