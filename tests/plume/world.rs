//! All clouds at once, a build to be released, and somebody who may.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use regex::Regex;
use serde_json::{Value, json};

use crate::cloud::aws;
use crate::cloud::azure::asm::Asm;
use crate::cloud::gce::double::{Gce, PROJECT, key_file};
use crate::gangue::{data, release_key, sign};
use crate::support::emulators::{AZURITE, Emulator, azurite};
use crate::support::gcs::{self, Gcs};
use crate::support::http::{self, Request, Response};
use crate::support::moto::Moto;
use crate::support::proxy::{Entry, Proxy};
use crate::support::{Env, Outcome, Running};

pub const REGIONS: [&str; 3] = ["us-west-2", "us-east-1", "eu-north-1"];
/// The buckets with the build and with what was released.
pub const BUCKETS: [&str; 3] = ["builds", "alpha-release", "mirror"];
pub const BUILD: &str = "alpha/boards/amd64-usr/2.0.0/";

/// The clouds.
pub struct World {
    pub moto: Moto,
    pub aws: Proxy,
    /// Ends with the world.
    _azurite: Emulator,
    pub blobs: Proxy,
    pub asm: Asm,
    pub gce: Gce,
    pub gcs: Gcs,
    pub env: Env,
    /// How often it was made anew: containers of blobs are not used twice.
    round: AtomicUsize,
    set: Set,
    account: Arc<Mutex<Account>>,
}

/// What moto does not know of an account at Amazon.
#[derive(Clone, Debug)]
pub struct Account {
    /// How many public images it may have in a region; `None`: the caller may not ask.
    pub public_images: Option<u64>,
    /// Calls that the caller may not make.
    pub denied: Vec<&'static str>,
    /// Whether it keeps images from being public.
    pub blocks: bool,
    /// When machines were last started of its images.
    pub launched: Option<String>,
}

impl Default for Account {
    fn default() -> Self {
        Self { public_images: Some(5), denied: Vec::new(), blocks: false, launched: None }
    }
}

impl Account {
    /// What the account decides; the rest is moto's.
    fn answer(&self, request: &Request) -> Option<Response> {
        if let Some(call) = request.header("x-amz-target") {
            let json = |status, body: Value| {
                Some(Response::new(status, "application/x-amz-json-1.1", body.to_string()))
            };
            let Some(quota) = self.public_images else {
                return json(400, json!({"__type": "AccessDeniedException", "Message": "not for you"}));
            };
            return match call {
                // As Amazon does for quotas that were never changed.
                "ServiceQuotasV20190624.GetServiceQuota" => {
                    json(400, json!({"__type": "NoSuchResourceException", "Message": "The request failed."}))
                }
                _ => json(
                    200,
                    json!({"Quota": {"ServiceCode": "ec2", "QuotaCode": "L-0E3CBAB9", "Value": quota as f64}}),
                ),
            };
        }
        let action = request.field("Action")?;
        let xml = |body: String| Some(Response::new(200, "text/xml", body));
        let state = if self.blocks { "block-new-sharing" } else { "unblocked" };
        match &*action {
            "GetImageBlockPublicAccessState" => {
                return xml(format!(
                    "<{action}Response><imageBlockPublicAccessState>{state}</imageBlockPublicAccessState></{action}Response>"
                ));
            }
            "GetSnapshotBlockPublicAccessState" => {
                return xml(format!("<{action}Response><state>{state}</state></{action}Response>"));
            }
            "DescribeImageAttribute" if request.field("Attribute").as_deref() == Some("lastLaunchedTime") => {
                let image = request.field("ImageId").unwrap_or_default();
                let time =
                    self.launched.as_ref().map(|time| format!("<value>{time}</value>")).unwrap_or_default();
                return xml(format!(
                    "<{action}Response><imageId>{image}</imageId><lastLaunchedTime>{time}</lastLaunchedTime></{action}Response>"
                ));
            }
            _ => {}
        }
        let dry = request.field("DryRun").as_deref() == Some("true");
        if self.denied.contains(&&*action) {
            return Some(aws::error(
                request,
                403,
                "UnauthorizedOperation",
                "You are not authorized to perform this operation.",
            ));
        }
        dry.then(|| {
            aws::error(
                request,
                412,
                "DryRunOperation",
                "Request would have succeeded, but DryRun flag is set.",
            )
        })
    }
}

/// How large the images of a build are.
#[derive(Clone, Copy, Debug)]
pub enum Set {
    /// Each is sent in one piece.
    Small,
    /// Each is sent in several.
    Full,
}

impl Set {
    /// Disk of Amazon's image.
    pub fn ami(self) -> Vec<u8> {
        match self {
            Self::Small => data(600 << 10),
            Self::Full => thin(23),
        }
    }

    /// Disk of Azure's image, with its footer.
    pub fn vhd(self) -> Vec<u8> {
        match self {
            Self::Small => vhd(data(1 << 20)),
            Self::Full => vhd(thin(17)),
        }
    }

    /// Packed, signed files of a build.
    pub fn files(self) -> &'static BTreeMap<String, Vec<u8>> {
        static FILES: [OnceLock<BTreeMap<String, Vec<u8>>>; 2] = [OnceLock::new(), OnceLock::new()];
        FILES[self as usize].get_or_init(|| files(&self.ami(), &self.vhd()))
    }
}

/// So many MiB with something in each, mostly nothing.
fn thin(mib: usize) -> Vec<u8> {
    let mut disk = vec![0; mib << 20];
    let some = data(mib << 12);
    for (n, part) in some.chunks(1 << 12).enumerate() {
        disk[n << 20..][..1 << 12].copy_from_slice(part);
    }
    disk
}

fn files(ami: &[u8], vhd: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut put = |name: &str, body: Vec<u8>| {
        files.insert(format!("{name}.sig"), sign(&body));
        files.insert(name.to_owned(), body);
    };
    put("ours_ami.bin.bz2", packed(ami));
    put("ours_azure.vhd.bz2", packed(vhd));
    put("ours_gce.tar.gz", b"an archive".to_vec());
    put("ours_image.bin.bz2", b"the plain image".to_vec());
    files.insert("version.txt".into(), b"OURS_VERSION=2.0.0\n".to_vec());
    files.insert("ours_meta.json".into(), meta("2.0.0"));
    files
}

/// What CoreOS Assembler would say about a build.
fn meta(version: &str) -> Vec<u8> {
    let sum = "5a".repeat(32);
    let meta = json!({
        "buildid": version, "ostree-commit": sum, "coreos-assembler.basearch": "x86_64",
        "images": {"qemu": {"path": format!("ours-{version}-qemu.x86_64.qcow2.xz"), "sha256": sum}},
    });
    meta.to_string().into_bytes()
}

/// An image as it lies beside others: packed, and its signature.
pub fn packed_and_signed(name: &str, body: &[u8]) -> [(String, Vec<u8>); 2] {
    let packed = packed(body);
    [(format!("{name}.sig"), sign(&packed)), (name.to_owned(), packed)]
}

fn packed(body: &[u8]) -> Vec<u8> {
    let mut packer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    packer.write_all(body).unwrap();
    packer.finish().unwrap()
}

/// A fixed VHD; the format is Microsoft's "Virtual Hard Disk Image Format Specification".
fn vhd(mut disk: Vec<u8>) -> Vec<u8> {
    disk[4096..900_000].fill(0);
    let length = disk.len() as u64;
    let mut footer = [0_u8; 512];
    footer[..8].copy_from_slice(b"conectix");
    footer[8..12].copy_from_slice(&2_u32.to_be_bytes());
    footer[12..16].copy_from_slice(&0x1_0000_u32.to_be_bytes());
    footer[16..24].fill(0xff);
    for size in [40..48, 48..56] {
        footer[size].copy_from_slice(&length.to_be_bytes());
    }
    footer[60..64].copy_from_slice(&2_u32.to_be_bytes());
    let sum: u32 = footer.iter().map(|b| u32::from(*b)).sum();
    footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
    disk.extend_from_slice(&footer);
    disk
}

impl World {
    /// `None`, and a word on stdout, if some emulator is not installed.
    pub fn new() -> Option<Self> {
        Self::with(Set::Small)
    }

    /// The same with a build of another size.
    pub fn with(set: Set) -> Option<Self> {
        let moto = Moto::start(&[("MANTLE_IMPORT_POLLS", "1"), ("MANTLE_PENDING_POLLS", "1")])?;
        let azurite = azurite()?;
        let account = Arc::<Mutex<Account>>::default();
        let (own, server) = (account.clone(), moto.address);
        let aws = Proxy::before(move |request| {
            let said = own.lock().unwrap_or_else(PoisonError::into_inner).answer(request);
            said.or_else(|| http::send(server, request).ok())
        });
        let (blobs, asm) = (Proxy::new(azurite.address), Asm::new());
        let (gce, gcs) = (Gce::of_records(), Gcs::new());
        let mut env = asm.env(&blobs.url());
        let key = env.write("google.json", &key_file(&format!("{}/token", gce.proxy.url())));
        env.write(
            ".aws/credentials",
            "[default]\naws_access_key_id = AKIDTEST\naws_secret_access_key = wJalrXUtnFEMI\n",
        );
        std::fs::write(env.home().join("key.asc"), armored()).unwrap();
        env.set("GOOGLE_APPLICATION_CREDENTIALS", key)
            .set("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", gce.url())
            .set("STORAGE_EMULATOR_HOST", gcs.address.to_string())
            .set("AWS_ENDPOINT_URL", aws.url())
            .set("AWS_EC2_METADATA_DISABLED", "true")
            .set("MANTLE_POLL_SCALE", "0.050");
        let round = AtomicUsize::new(0);
        let world = Self { moto, aws, _azurite: azurite, blobs, asm, gce, gcs, env, round, set, account };
        world.begin();
        Some(world)
    }

    /// Everything as it is before a release; nothing is left of an earlier one.
    pub fn begin(&self) {
        self.account(|account| *account = Account::default());
        let round = self.round.fetch_add(1, Ordering::Relaxed);
        self.env.write("channels.yaml", &table(round));
        for folder in [".local", ".cache", "out.json"] {
            let path = self.env.home().join(folder);
            let _ = std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path));
        }
        self.moto.reset();
        self.env.mantle(&["ore", "aws", "--region=us-west-2", "initialize", "--bucket=images"]).expect(0);
        self.asm.forget();
        self.asm.put_key(AZURITE.0, AZURITE.1);
        crate::cloud::matrix::Double::reset(&self.gce);
        for (name, day, deprecated) in [
            ("ours-alpha-1-2-0-v20250102", 1, true),
            ("ours-alpha-1-3-0-v20250203", 2, true),
            ("ours-alpha-1-9-0-v20250304", 3, false),
        ] {
            let mut body =
                json!({"family": "ours-alpha", "creationTimestamp": format!("2025-03-0{day}T00:00:00Z")});
            if deprecated {
                body["deprecated"] = json!({"state": "DEPRECATED"});
            }
            self.gce.put_image(name, body);
        }
        for bucket in BUCKETS {
            self.gcs.empty(bucket);
        }
        for (name, body) in self.set.files() {
            self.gcs.put("builds", &format!("{BUILD}{name}"), body, "application/octet-stream");
        }
        for (bucket, folder) in [
            ("alpha-release", "amd64-usr/1.9.0/"),
            ("alpha-release", "amd64-usr/current/"),
            ("mirror", "ours/amd64-usr/alpha/"),
        ] {
            for name in ["version.txt", "ours_image.bin.bz2", "old.txt"] {
                self.gcs.put(bucket, &format!("{folder}{name}"), b"1.9.0", "text/plain");
            }
        }
        self.forget();
    }

    /// Changes what the account at Amazon may.
    pub fn account(&self, change: impl FnOnce(&mut Account)) {
        change(&mut self.account.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Forgets what was asked.
    pub fn forget(&self) {
        self.gcs.take_log();
        self.asm.asked();
        for proxy in [&self.aws, &self.blobs, &self.gce.proxy] {
            proxy.take_journal();
        }
    }

    /// What is typed for a command.
    pub fn words<'a>(command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        Self::words_of(command, "2.0.0", more)
    }

    /// The same for another version.
    pub fn words_of<'a>(command: &'a str, version: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let words = ["plume", "--channels=channels.yaml", "--distro=ours", command, "--channel=alpha"];
        [&words[..], &["--board=amd64-usr", "--version", version], more].concat()
    }

    /// Another build.
    pub fn put_build(&self, version: &str) {
        for (name, body) in self.set.files() {
            let text = format!("OURS_VERSION={version}\n");
            let body = match name.as_str() {
                "version.txt" => text.clone().into_bytes(),
                "ours_meta.json" => meta(version),
                _ => body.clone(),
            };
            let name = format!("alpha/boards/amd64-usr/{version}/{name}");
            self.gcs.put("builds", &name, &body, "application/octet-stream");
        }
    }

    pub fn before(&self, more: &[&str]) -> Outcome {
        self.env.mantle(&Self::words("pre-release", &[&["--verify-key=key.asc"], more].concat()))
    }

    pub fn release(&self, more: &[&str]) -> Outcome {
        self.env.mantle(&Self::words("release", more))
    }

    pub fn start(&self, command: &str) -> Running {
        let key: &[&str] = if command == "pre-release" { &["--verify-key=key.asc"] } else { &[] };
        self.env.start(Path::new(env!("CARGO_BIN_EXE_mantle")), &Self::words(command, key))
    }

    /// All requests since the last time that change something.
    pub fn changes(&self) -> Vec<String> {
        let mut changes: Vec<String> = Vec::new();
        let reads = ["GET", "HEAD"];
        for Entry { request, .. } in self.aws.take_journal() {
            let action = crate::cloud::aws::action(&request);
            let is_read = ["Describe", "Get", "List", "HEAD", "GET"].iter().any(|w| action.starts_with(w))
                || request.field("DryRun").as_deref() == Some("true")
                || request.header("x-amz-target").is_some();
            changes.extend((!is_read).then_some(action));
        }
        for Entry { request, .. } in [self.blobs.take_journal(), self.gce.proxy.take_journal()].concat() {
            let is_read = reads.contains(&request.method.as_str()) || request.path() == "/token";
            changes.extend((!is_read).then(|| format!("{} {}", request.method, request.target)));
        }
        changes.extend(self.asm.asked().into_iter().filter(|line| !line.starts_with("GET ")));
        changes.extend(self.gcs.take_log().iter().filter(|r| r.changes()).map(gcs::Request::told));
        changes
    }

    /// A region's images as others see them.
    pub fn images(&self, region: &str) -> Value {
        self.moto.control("published", &json!({"region": region}))
    }

    /// Everything that is there, without what differs from run to run.
    pub fn state(&self) -> Value {
        let buckets: BTreeMap<&str, _> = BUCKETS.iter().map(|b| (*b, self.gcs.contents(b))).collect();
        let regions: BTreeMap<&str, Value> = REGIONS.iter().map(|r| (*r, self.images(r))).collect();
        let classic: BTreeMap<_, _> =
            self.asm.images().into_iter().map(|(n, i)| (n, format!("{i:?}"))).collect();
        let images = self.gce.images();
        let policies: BTreeMap<&String, Value> = images.keys().map(|n| (n, self.gce.policy(n))).collect();
        let state =
            json!({"gcs": buckets, "aws": regions, "classic": classic, "gce": images, "public": policies});
        let text = Regex::new("ami-[0-9a-f]+").unwrap().replace_all(&state.to_string(), "ami-X").into_owned();
        let text = Regex::new("publish-[0-9]+").unwrap().replace_all(&text, "publish-N").into_owned();
        let times = r"20\d\d-\d\d-\d\dT[0-9:.]+Z|\w{3}, \d\d \w{3} 20\d\d [0-9:]+ \+0000";
        let text = Regex::new(times).unwrap().replace_all(&text, "<time>").into_owned();
        let text = text.replace(&self.gce.url(), "gce/").replace(&self.blobs.url(), "blobs");
        serde_json::from_str(&text).unwrap()
    }

    /// Fails if something that leads to images leads to one that is not public; how many are led to.
    #[track_caller]
    pub fn pointers_lead_to_what_is_public(&self) -> usize {
        // First what leads somewhere, then whether that is public: nothing ceases to be.
        let mut led = BTreeSet::new();
        for bucket in &BUCKETS[1..] {
            for (name, object) in self.gcs.objects(bucket) {
                let Ok(text) = String::from_utf8(object.body) else { continue };
                let named = images().find_iter(&text).map(|found| found.as_str().to_owned());
                led.extend(named.map(|image| (image, format!("{bucket}/{name}"))));
            }
        }
        for (name, image) in self.gce.images() {
            if image["family"] == "ours-alpha" && name.starts_with("ours-alpha-2-") {
                led.insert((name, "the family".to_owned()));
            }
        }
        if led.is_empty() {
            return 0;
        }
        let there: Vec<Value> = REGIONS.iter().map(|region| self.images(region)).collect();
        let amis = there.iter().flat_map(|t| t["images"].as_object().unwrap().values());
        let public: BTreeSet<&str> = amis
            .flat_map(|images| images.as_array().unwrap())
            .filter(|image| image["public"] == true)
            .filter_map(|image| image["id"].as_str())
            .collect();
        for (image, by) in &led {
            let is_public =
                if image.starts_with("ami-") { public.contains(&**image) } else { self.is_public(image) };
            assert!(is_public, "{by} leads to {image}, which is not public: {there:?}");
        }
        led.len()
    }

    /// Looks where the pointers lead while the work is done, and after it: what comes of the work.
    pub fn observed<T>(&self, work: impl FnOnce() -> T) -> T {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let observer = scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    self.pointers_lead_to_what_is_public();
                    std::thread::park_timeout(Duration::from_millis(30));
                }
                self.pointers_lead_to_what_is_public()
            });
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            over.store(true, Ordering::SeqCst);
            let led = observer.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause));
            let result = result.unwrap_or_else(|cause| std::panic::resume_unwind(cause));
            // Lists of three folders, their descriptions, the family.
            assert!(led > 20, "only {led} pointers lead to an image after a release");
            result
        })
    }

    /// All clouds but Google Storage.
    pub fn proxies(&self) -> [&Proxy; 4] {
        [&self.aws, &self.blobs, &self.asm.proxy, &self.gce.proxy]
    }

    /// Nothing goes wrong from now on.
    pub fn calm(&self) {
        for proxy in self.proxies() {
            proxy.calm();
        }
        self.gcs.thaw();
    }

    pub fn is_public(&self, image: &str) -> bool {
        self.gce.policy(image).to_string().contains("allAuthenticatedUsers")
    }
}

/// Numbers that only look random: SplitMix64.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// Whatever names an image of ours.
fn images() -> &'static Regex {
    static IMAGES: OnceLock<Regex> = OnceLock::new();
    IMAGES.get_or_init(|| Regex::new(r"ami-[0-9a-f]{17}|ours-alpha-2-0-0-v\d{8}").unwrap())
}

pub fn armored() -> Vec<u8> {
    use sequoia_openpgp::serialize::SerializeInto as _;
    release_key().armored().to_vec().unwrap()
}

pub fn table(round: usize) -> String {
    let account = AZURITE.0;
    format!(
        r#"distributions:
  ours:
    title: Ours
    cloud-boards: [amd64-usr]
    channels:
      alpha:
        source: "gs://builds/alpha/boards/{{board}}/{{version}}"
        boards: [amd64-usr, arm64-usr]
        gce:
          project: {PROJECT}
          family: ours-alpha
          description: Ours, alpha
          licenses: [mine]
          image: ours_gce.tar.gz
          publish: ours_gce.txt
          keep: 2
          public: true
        azure:
          image: ours_azure.vhd.bz2
          account: {account}
          container: publish-{round}
          blob: "ours-{{version}}-{{channel}}.vhd"
          classic:
            offer: Ours
            label: Ours Alpha
            family: Ours Alpha
            description: Ours for those who look ahead.
            recommended-size: Medium
            icon: big.png
            small-icon: small.png
            environments: [{{ subscription: mine, extra-containers: [pre-publish-{round}] }}]
        aws:
          name: Ours
          description: Ours Linux
          image: ours_ami.bin.bz2
          format: raw
          list-prefix: ours_ami_
          pv-kernels: {{ us-west-2: aki-fc8f11cc, us-east-1: aki-919dcaf8 }}
          partitions:
            - name: AWS
              profile: default
              bucket: images
              bucket-region: us-west-2
              launch-permissions: ["111122223333"]
              regions: [us-west-2, us-east-1, eu-north-1]
              public-images: 5
        metadata:
          stream: ours_stream.json
          build: ours_meta.json
          releases: {{ file: ours_releases.json, index: "gs://alpha-release/releases.json", release: "https://example.com/{{version}}.json" }}
          simplestreams: {{ content-id: "com.example:alpha", index: ours_index.json, products: ours_products.json }}
        destinations:
          - {{ url: "gs://alpha-release", named-path: current }}
          - {{ url: "gs://mirror/ours", title: alpha.example.com, named-path: alpha, version-path: false, directories: true }}
"#
    )
}
