//! All clouds at once, a build to be released, and somebody who may.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use regex::Regex;
use serde_json::{Value, json};

use crate::cloud::azure::asm::Asm;
use crate::cloud::gce::double::{Gce, PROJECT, key_file};
use crate::gangue::{data, release_key, sign};
use crate::support::emulators::{AZURITE, Emulator, azurite};
use crate::support::gcs::{self, Gcs};
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
}

/// Packed, signed files of a build.
fn files() -> &'static BTreeMap<String, Vec<u8>> {
    static FILES: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    FILES.get_or_init(|| {
        let mut files = BTreeMap::new();
        let mut put = |name: &str, body: Vec<u8>| {
            files.insert(format!("{name}.sig"), sign(&body));
            files.insert(name.to_owned(), body);
        };
        put("ours_ami.bin.bz2", packed(&data(600 << 10)));
        put("ours_azure.vhd.bz2", packed(&vhd()));
        put("ours_gce.tar.gz", b"an archive".to_vec());
        put("ours_image.bin.bz2", b"the plain image".to_vec());
        files.insert("version.txt".into(), b"OURS_VERSION=2.0.0\n".to_vec());
        files
    })
}

fn packed(body: &[u8]) -> Vec<u8> {
    let mut packer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    packer.write_all(body).unwrap();
    packer.finish().unwrap()
}

/// A fixed VHD of 1 MiB; the format is Microsoft's "Virtual Hard Disk Image Format Specification".
fn vhd() -> Vec<u8> {
    let mut disk = data(1 << 20);
    disk[4096..900_000].fill(0);
    let mut footer = [0_u8; 512];
    footer[..8].copy_from_slice(b"conectix");
    footer[8..12].copy_from_slice(&2_u32.to_be_bytes());
    footer[12..16].copy_from_slice(&0x1_0000_u32.to_be_bytes());
    footer[16..24].fill(0xff);
    for size in [40..48, 48..56] {
        footer[size].copy_from_slice(&(1_u64 << 20).to_be_bytes());
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
        let moto = Moto::start(&[("MANTLE_IMPORT_POLLS", "1"), ("MANTLE_PENDING_POLLS", "1")])?;
        let azurite = azurite()?;
        let (aws, blobs, asm) = (Proxy::new(moto.address), Proxy::new(azurite.address), Asm::new());
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
        let world = Self { moto, aws, _azurite: azurite, blobs, asm, gce, gcs, env, round };
        world.begin();
        Some(world)
    }

    /// Everything as it is before a release; nothing is left of an earlier one.
    pub fn begin(&self) {
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
        for (name, body) in files() {
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
        for (name, body) in files() {
            let text = format!("OURS_VERSION={version}\n");
            let body = if name == "version.txt" { text.as_bytes() } else { body };
            let name = format!("alpha/boards/amd64-usr/{version}/{name}");
            self.gcs.put("builds", &name, body, "application/octet-stream");
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
            let is_read = ["Describe", "Get", "List", "HEAD", "GET"].iter().any(|w| action.starts_with(w));
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

    /// Fails if something that leads to images leads to one that is not public.
    #[track_caller]
    pub fn pointers_lead_to_what_is_public(&self) {
        for bucket in &BUCKETS[1..] {
            for (name, object) in self.gcs.objects(bucket) {
                if name.ends_with("ours_ami_all.json") {
                    let list: Value = serde_json::from_slice(&object.body).unwrap();
                    for region in list["amis"].as_array().unwrap() {
                        let there = self.images(region["name"].as_str().unwrap());
                        for ami in [&region["hvm"], &region["pv"]].into_iter().filter(|a| !a.is_null()) {
                            let all = there["images"].as_object().unwrap().values();
                            let image = all.flat_map(|i| i.as_array().unwrap()).find(|i| i["id"] == *ami);
                            assert_eq!(
                                image.unwrap()["public"],
                                true,
                                "{bucket}/{name} names {ami}: {there}"
                            );
                        }
                    }
                }
                if name.ends_with("ours_gce.txt") {
                    let line = String::from_utf8(object.body).unwrap();
                    let image = line.trim().rsplit('/').next().unwrap();
                    assert!(self.is_public(image), "{bucket}/{name} names {image}");
                }
            }
        }
        for (name, image) in self.gce.images() {
            if image["family"] == "ours-alpha" && name.starts_with("ours-alpha-2-") {
                assert!(self.is_public(&name), "the family leads to {name}");
            }
        }
    }

    pub fn is_public(&self, image: &str) -> bool {
        self.gce.policy(image).to_string().contains("allAuthenticatedUsers")
    }
}

fn armored() -> Vec<u8> {
    use sequoia_openpgp::serialize::SerializeInto as _;
    release_key().armored().to_vec().unwrap()
}

fn table(round: usize) -> String {
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
          simplestreams: {{ content-id: "com.example:alpha", index: ours_index.json, products: ours_products.json }}
        destinations:
          - {{ url: "gs://alpha-release", named-path: current }}
          - {{ url: "gs://mirror/ours", title: alpha.example.com, named-path: alpha, version-path: false, directories: true }}
"#
    )
}
