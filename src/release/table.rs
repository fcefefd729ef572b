//! The fields of the channel table (`channels.yaml`).

use std::collections::BTreeMap;

use serde::Deserialize;

/// Everything there is to know about one family of releases.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Distribution {
    /// Its name for people.
    pub title: String,
    /// Why its servers cannot be reached any more, if so: a clause for messages.
    #[serde(default)]
    pub retired: Option<String>,
    /// Why none of its channels has a destination, if so: a clause for messages.
    #[serde(default)]
    pub no_destinations: Option<String>,
    /// The boards that are released to clouds; for others a release is only files.
    pub cloud_boards: Vec<String>,
    /// The manifest of the SDK's source projects.
    #[serde(default)]
    pub manifest: Option<Manifest>,
    /// The update server (Omaha), a URL.
    #[serde(default)]
    pub update_server: Option<String>,
    /// What the public can download, and where.
    #[serde(default)]
    pub downloads: Option<Downloads>,
    /// The channels by name.
    pub channels: BTreeMap<String, Channel>,
}

/// A git repository for `repo`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Manifest {
    /// The repository.
    pub url: String,
    /// Its branch.
    pub branch: String,
}

/// Public downloads.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Downloads {
    /// The domain of all of the distribution's own servers.
    pub domain: String,
    /// What the names of all files begin with.
    pub prefix: String,
    /// The boards there are files for.
    pub boards: Vec<String>,
    /// The channels, as [`Downloads::root`] takes them.
    pub channels: Vec<String>,
    /// Those of them that have several streams, one a year, beside the newest.
    #[serde(default)]
    pub stream_channels: Vec<String>,
    /// Folder of a channel's release: a URL with `{channel}`, `{board}` and `{version}` to be filled in.
    pub root: String,
    /// The folder when nobody asks for another, with `{board}` to be filled in.
    pub default_root: String,
    /// The SDK's tarballs.
    pub sdk: Sdk,
    /// The files a platform needs: for each, the ends of its possible names, the newest first.
    pub platforms: BTreeMap<String, Vec<Vec<String>>>,
}

/// The SDK's tarballs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Sdk {
    /// Name of a tarball, with `{arch}` and `{version}` to be filled in.
    pub name: String,
    /// Folder that has them below `<arch>/<version>/`: a URL.
    pub url: String,
}

/// A channel: what its releases are made from and where they go.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Channel {
    /// Folder of a build: a `gs://` or web URL with `{board}` or `{arch}`, and `{version}`, to be filled in. `$USER`
    /// stands for the user's name.
    pub source: String,
    /// The boards that are built.
    pub boards: Vec<String>,
    /// The file that says that a build is complete.
    #[serde(default = "version_file")]
    pub complete: String,
    /// Google Compute Engine.
    #[serde(default)]
    pub gce: Option<Gce>,
    /// Microsoft Azure.
    #[serde(default)]
    pub azure: Option<Azure>,
    /// Amazon EC2.
    #[serde(default)]
    pub aws: Option<Aws>,
    /// Descriptions of the release for programs, written beside the build; none unless they are asked for.
    #[serde(default)]
    pub metadata: Option<Metadata>,
    /// The buckets that the files are copied to, in this order.
    #[serde(default)]
    pub destinations: Vec<Destination>,
}

/// Descriptions of a release for programs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Metadata {
    /// The file with stream metadata, as Fedora CoreOS has it.
    #[serde(default)]
    pub stream: Option<String>,
    /// Simplestreams, as Ubuntu has them.
    #[serde(default)]
    pub simplestreams: Option<Simplestreams>,
    /// The file of a build with what CoreOS Assembler says about it: the artifacts, their SHA-256, and images that
    /// others have made of it already.
    #[serde(default)]
    pub build: Option<String>,
    /// The index of all releases, as Fedora CoreOS has it; it needs `build`.
    #[serde(default)]
    pub releases: Option<Releases>,
}

/// An index of releases.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Releases {
    /// The file that is written.
    pub file: String,
    /// Where the index is that the release is added to: a `gs://` or web URL; `{channel}` is filled in.
    pub index: String,
    /// Where the release is described, for the index: a URL; `{channel}` and `{version}` are filled in.
    pub release: String,
}

/// Simplestreams.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Simplestreams {
    /// The name of the content, such as `com.example:alpha`.
    pub content_id: String,
    /// The file that names the other.
    pub index: String,
    /// The file with the images.
    pub products: String,
}

/// How a channel appears in Google Compute Engine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Gce {
    /// The project that owns the images.
    pub project: String,
    /// The image family, with which the images' names begin.
    pub family: String,
    /// What the images' descriptions begin with.
    pub description: String,
    /// Names of the licences.
    #[serde(default)]
    pub licenses: Vec<String>,
    /// The image file in the build; `{arch}` and `{version}` are filled in.
    pub image: String,
    /// The file beside it that will name the published image.
    pub publish: String,
    /// How many deprecated images are kept.
    pub keep: u32,
    /// Images that are never deleted, however old.
    #[serde(default)]
    pub protected: Vec<String>,
    /// Whether a release lets everybody use the image; else that is left as the project has it.
    #[serde(default)]
    pub public: bool,
    /// Whether the images' names end in the date of their publication.
    #[serde(default = "yes")]
    pub dated: bool,
    /// What a board adds to the images' names.
    #[serde(default)]
    pub board_suffixes: BTreeMap<String, String>,
}

/// How a channel appears in Microsoft Azure.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Azure {
    /// The image file in the build; `{arch}` and `{version}` are filled in.
    pub image: String,
    /// The storage account.
    pub account: String,
    /// The resource group of the account; classic accounts have none.
    #[serde(default)]
    pub resource_group: Option<String>,
    /// The container for the blobs.
    pub container: String,
    /// Name of the blob, with `{channel}`, `{arch}` and `{version}` to be filled in.
    pub blob: String,
    /// What the retired service management API made of the blobs.
    #[serde(default)]
    pub classic: Option<ClassicAzure>,
}

/// Operating system images of Azure's service management API.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ClassicAzure {
    /// The offer, with which the images' names begin.
    pub offer: String,
    /// The images' label.
    pub label: String,
    /// The images' family.
    pub family: String,
    /// For people who choose an image.
    pub description: String,
    /// A size of machines that suits.
    pub recommended_size: String,
    /// File name of the icon.
    pub icon: String,
    /// File name of the small icon.
    pub small_icon: String,
    /// The clouds to publish in, in this order.
    pub environments: Vec<AzureEnvironment>,
}

/// A subscription in one of Azure's clouds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AzureEnvironment {
    /// The subscription's name in the Azure profile.
    pub subscription: String,
    /// Containers that get the blob beside the usual one.
    #[serde(default)]
    pub extra_containers: Vec<String>,
}

/// How a channel appears in Amazon EC2.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Aws {
    /// What the images' names begin with.
    pub name: String,
    /// What the images' descriptions begin with.
    pub description: String,
    /// The image file in the build; `{arch}` and `{version}` are filled in.
    pub image: String,
    /// The format of that file, when decompressed.
    pub format: DiskFormat,
    /// What the names of the lists of images begin with.
    pub list_prefix: String,
    /// What a board adds to the images' names.
    #[serde(default)]
    pub board_suffixes: BTreeMap<String, String>,
    /// The regions that can run paravirtual machines, and the ids of the kernels these boot.
    #[serde(default)]
    pub pv_kernels: BTreeMap<String, String>,
    /// The parts of AWS to publish in, in this order.
    pub partitions: Vec<AwsPartition>,
}

/// What EC2 imports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFormat {
    /// VMware's, in the form for streams.
    Vmdk,
    /// The bytes of the disk.
    Raw,
}

/// A part of AWS with its own account, or a use of one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AwsPartition {
    /// For people.
    pub name: String,
    /// The profile in the credentials file.
    pub profile: String,
    /// The bucket through which images are imported.
    pub bucket: String,
    /// Where that is, and thus the region that has the image first.
    pub bucket_region: String,
    /// Accounts that may start the images before they are public.
    #[serde(default)]
    pub launch_permissions: Vec<String>,
    /// All regions to publish in.
    pub regions: Vec<String>,
    /// How many public images the account may have in a region, if that is known: a release that would have more is
    /// refused before it begins.
    #[serde(default)]
    pub public_images: Option<usize>,
}

/// A bucket that the public reads.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Destination {
    /// `gs://bucket` or `gs://bucket/prefix`; `$USER` stands for the user's name.
    pub url: String,
    /// What the index pages call the bucket; else its name.
    #[serde(default)]
    pub title: Option<String>,
    /// The folder of a board that always has the newest release.
    pub named_path: String,
    /// Whether each release also has a folder named as its version.
    #[serde(default = "yes")]
    pub version_path: bool,
    /// Whether index pages are objects named as the folders, for servers without a notion of index pages.
    #[serde(default)]
    pub directories: bool,
    /// Whether index pages are objects named `index.html`.
    #[serde(default = "yes")]
    pub index_html: bool,
}

fn yes() -> bool {
    true
}

fn version_file() -> String {
    super::version::FILE_NAME.into()
}
