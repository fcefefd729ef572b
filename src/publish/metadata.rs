//! Descriptions of a release for programs, beside the lists of images: Fedora CoreOS's stream metadata, and
//! simplestreams as Ubuntu's tools read them.
//!
//! Stream metadata: <https://docs.fedoraproject.org/en-US/fedora-coreos/stream-metadata/>. Simplestreams: the
//! `products:1.0` and `index:1.0` formats of lp:simplestreams, doc/README. They name images, hence they are written
//! when all of them are public. Their times are that of the build: who writes them again writes the same.

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::coreos::{Description, Gcp};
use super::{Act, Look, Phase, Release, Result, Stage, Step, Stopped, World};
use crate::release::{Metadata, Releases, Selection};
use crate::text::json_mistake;

/// The place.
pub struct Provider;

const KEY: &str = "metadata/files";
const JSON: &str = "application/json";

impl super::Provider for Provider {
    fn name(&self) -> &'static str {
        "metadata"
    }

    fn prepares(&self) -> bool {
        false
    }

    fn steps(&self, release: &Release) -> Vec<Step> {
        let Some(facts) = &release.selection.metadata else { return Vec::new() };
        let names: Vec<&str> = names(facts);
        let does = format!("write {} beside the build", names.join(", "));
        vec![Step::new(KEY, Phase::Publish, does, Describe(facts.clone())).only_to(Stage::Release)]
    }
}

/// Lets the descriptions wait for all that they name.
pub fn order(steps: &mut [Step]) {
    let named = |s: &Step| s.phase == Phase::Publish && s.key != KEY;
    let needs: Vec<String> = steps.iter().filter(|s| named(s)).map(|s| s.key.clone()).collect();
    steps.iter_mut().filter(|s| s.key == KEY).for_each(|step| step.needs.clone_from(&needs));
}

fn names(facts: &Metadata) -> Vec<&str> {
    let simple = facts.simplestreams.iter().flat_map(|s| [s.products.as_str(), s.index.as_str()]);
    let releases = facts.releases.iter().map(|r| r.file.as_str());
    facts.stream.as_deref().into_iter().chain(simple).chain(releases).collect()
}

/// What is named.
#[derive(Clone, Debug, Default)]
struct Images {
    /// Regions of EC2 with their images.
    aws: Vec<(String, String)>,
    /// Project, family and name of an image of Compute Engine.
    gce: Option<(String, Option<String>, String)>,
}

impl Images {
    /// `None`: they are not all known yet.
    fn of(world: &World<'_>, described: Option<&Description>) -> Option<Self> {
        let Selection { aws, gce, .. } = &world.release.selection;
        let mut images = Self::default();
        for region in aws.iter().flat_map(|aws| &aws.partitions).flat_map(|p| &p.regions) {
            let ami = world.known(&format!("aws/{region}/hvm"))?;
            images.aws.push((region.clone(), ami["ami"].as_str()?.to_owned()));
        }
        images.aws.sort();
        if let Some(gce) = gce {
            let name = world.known("gce/image")?["image"].as_str()?.to_owned();
            images.gce = Some((gce.project.clone(), Some(gce.family.clone()), name));
        }
        // What is not released by us may have been by those who built it.
        if let (None, Some(described)) = (aws, described) {
            images.aws = described.amis.iter().map(|ami| (ami.name.clone(), ami.hvm.clone())).collect();
            images.aws.sort();
        }
        if let (None, Some(Gcp { image, project: Some(project), family })) =
            (gce, described.and_then(|d| d.gcp.as_ref()))
        {
            images.gce = Some((project.clone(), family.clone(), image.clone()));
        }
        Some(images)
    }
}

/// A release, as the descriptions have it.
struct Described<'a> {
    channel: &'a str,
    version: &'a str,
    /// As the kernel calls it: `x86_64`.
    architecture: &'a str,
    /// When it was built.
    time: DateTime<Utc>,
    images: &'a Images,
    /// The files that can be had.
    artifacts: Value,
}

/// The names of an architecture: as the kernel has it, and as Debian has it.
pub(super) fn architecture(board: &str) -> (&str, &str) {
    match board.strip_suffix("-usr").unwrap_or(board) {
        "amd64" | "x86_64" => ("x86_64", "amd64"),
        "arm64" | "aarch64" => ("aarch64", "arm64"),
        other => (other, other),
    }
}

fn text(value: &Value) -> String {
    // Maps with names for keys: it can be written.
    format!("{}\n", serde_json::to_string_pretty(value).unwrap_or_default())
}

impl Described<'_> {
    fn stream(&self) -> Value {
        let Self { channel, version, architecture, images, artifacts, .. } = self;
        let mut named = Map::new();
        if !images.aws.is_empty() {
            let region = |(region, ami): &(String, String)| {
                (region.clone(), json!({"release": version, "image": ami}))
            };
            let regions: Map<String, Value> = images.aws.iter().map(region).collect();
            named.insert("aws".into(), json!({ "regions": regions }));
        }
        if let Some((project, family, name)) = &images.gce {
            let mut gcp = json!({"release": version, "project": project, "name": name});
            if let Some(family) = family {
                gcp["family"] = family.as_str().into();
            }
            named.insert("gcp".into(), gcp);
        }
        json!({
            "stream": channel,
            "metadata": {
                "last-modified": self.last_modified(),
                "generator": concat!("mantle ", env!("CARGO_PKG_VERSION")),
            },
            "architectures": { *architecture: { "artifacts": artifacts, "images": named } },
        })
    }

    fn last_modified(&self) -> String {
        self.time.to_rfc3339_opts(SecondsFormat::Secs, true)
    }

    fn updated(&self) -> String {
        self.time.format("%a, %d %b %Y %H:%M:%S +0000").to_string()
    }

    fn product(&self, content_id: &str, debian: &str) -> String {
        format!("{content_id}:{debian}")
    }

    fn products(&self, content_id: &str, debian: &str) -> Value {
        let mut items = Map::new();
        for (region, ami) in &self.images.aws {
            let item = json!({"crsn": region, "id": ami, "root_store": "ssd", "virt": "hvm"});
            items.insert(format!("aws-{region}"), item);
        }
        if let Some((project, _, name)) = &self.images.gce {
            let id = format!("projects/{project}/global/images/{name}");
            items.insert("gce".into(), json!({"id": id, "virt": "kvm"}));
        }
        json!({
            "format": "products:1.0",
            "content_id": content_id,
            "datatype": "image-ids",
            "updated": self.updated(),
            "products": {
                self.product(content_id, debian): {
                    "arch": debian,
                    "version": self.version,
                    "release": self.channel,
                    "versions": { self.version: { "items": items } },
                },
            },
        })
    }

    fn index(&self, content_id: &str, debian: &str, path: &str) -> Value {
        json!({
            "format": "index:1.0",
            "updated": self.updated(),
            "index": {
                content_id: {
                    "format": "products:1.0",
                    "datatype": "image-ids",
                    "path": path,
                    "updated": self.updated(),
                    "products": [self.product(content_id, debian)],
                },
            },
        })
    }
}

/// The files.
struct Describe(Metadata);

impl Describe {
    /// Names and contents; `None`: what they name is not known yet.
    async fn files(&self, world: &World<'_>) -> Result<Option<Vec<(String, String)>>> {
        let Selection { channel, board, version, .. } = &world.release.selection;
        let (kernel, debian) = architecture(board);
        let build = &world.release.build;
        let described = match &self.0.build {
            Some(name) => Some(Description::read(build, name, kernel, world.release).await?),
            None => None,
        };
        let Some(images) = Images::of(world, described.as_ref()) else { return Ok(None) };
        let time = build.time(world.release).await?;
        let url = |path: &str| build.public_url(path, world.release);
        let artifacts = described.as_ref().map_or_else(|| json!({}), |d| d.artifacts(version, kernel, url));
        let release = Described { channel, version, architecture: kernel, time, images: &images, artifacts };
        let mut files = Vec::new();
        if let Some(name) = &self.0.stream {
            files.push((name.clone(), text(&release.stream())));
        }
        if let Some(simple) = &self.0.simplestreams {
            files.push((simple.products.clone(), text(&release.products(&simple.content_id, debian))));
            let index = release.index(&simple.content_id, debian, &simple.products);
            files.push((simple.index.clone(), text(&index)));
        }
        if let (Some(Releases { file, index, release: url }), Some(described)) =
            (&self.0.releases, &described)
        {
            let wrong = |why: String| Stopped::words(format!("{index}: {why}"));
            let old = build.short_at(&index.parse().map_err(Stopped::failed)?, world.release).await?;
            let old = old.map(|bytes| serde_json::from_slice(&bytes).map_err(|e| wrong(json_mistake(&e))));
            let new = described.index(old.transpose()?, channel, kernel, url, &release.last_modified());
            files.push((file.clone(), text(&new.map_err(wrong)?)));
        }
        Ok(Some(files))
    }
}

#[async_trait(?Send)]
impl Act for Describe {
    async fn look(&self, world: &World<'_>) -> Result<Look> {
        let build = &world.release.build;
        let write = |name: &str| format!("write {}", build.url_of(name));
        let Some(files) = self.files(world).await? else {
            return Ok(Look::Todo(names(&self.0).into_iter().map(write).collect()));
        };
        let mut missing = Vec::new();
        for (name, content) in files {
            if !build.is_written(&name, &content, JSON).await? {
                build.expected(&name, &content, JSON).into_iter().for_each(|file| world.expect(file));
                missing.push(write(&name));
            }
        }
        Ok(if missing.is_empty() { Look::Done(Value::Null) } else { Look::Todo(missing) })
    }

    async fn run(&self, world: &World<'_>) -> Result<Value> {
        let files = self.files(world).await?;
        for (name, content) in files.ok_or_else(|| Stopped::words("not all images are known"))? {
            world.release.build.write(&name, &content, JSON).await?;
        }
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_name_the_images() {
        let images = Images {
            aws: vec![("eu-north-1".into(), "ami-1".into()), ("us-west-2".into(), "ami-2".into())],
            gce: Some(("p".into(), Some("f".into()), "f-1-2-3".into())),
        };
        let time = "2026-01-02T03:04:05Z".parse().unwrap();
        let of = Described {
            channel: "alpha",
            version: "1.2.3",
            architecture: "x86_64",
            time,
            images: &images,
            artifacts: json!({}),
        };
        let stream = of.stream();
        let here = &stream["architectures"]["x86_64"]["images"];
        assert_eq!(here["aws"]["regions"]["us-west-2"], json!({"release": "1.2.3", "image": "ami-2"}));
        assert_eq!(
            here["gcp"],
            json!({"release": "1.2.3", "project": "p", "family": "f", "name": "f-1-2-3"})
        );
        assert_eq!(stream["metadata"]["last-modified"], "2026-01-02T03:04:05Z");
        let products = of.products("com.example:alpha", "amd64");
        assert_eq!(products["updated"], "Fri, 02 Jan 2026 03:04:05 +0000");
        let items = &products["products"]["com.example:alpha:amd64"]["versions"]["1.2.3"]["items"];
        assert_eq!(items["aws-eu-north-1"]["id"], "ami-1");
        assert_eq!(items["gce"]["id"], "projects/p/global/images/f-1-2-3");
        let index = of.index("com.example:alpha", "amd64", "products.json");
        assert_eq!(index["index"]["com.example:alpha"]["products"], json!(["com.example:alpha:amd64"]));
    }
}
