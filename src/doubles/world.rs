//! All clouds that a release goes to, and somebody who may use them: doubles on ports of loopback, files with
//! credentials for them alone, an environment that has nothing else.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::Serialize;
use serde_json::{Value, json};

use super::aws::{Aws, Inventory};
use super::blobs::{Blob, Blobs};
use super::classic::{Classic, Image};
use super::gce::{Gce, Records};
use super::gcs::Gcs;
use super::{Double, Faults, Request, Response, Server, kept, lock};
use crate::cloud::google::storage::Location;
use crate::folders::Unusable;
use crate::release::Selection;
use crate::{debug, target};

/// Waits for what clouds do in their own time are so much shorter.
const POLL_SCALE: &str = "0.050";

/// Who asks for the world.
#[derive(Debug)]
pub struct Order<'a> {
    /// What is released there; its build is in Google Storage.
    pub selection: &'a Selection,
    /// The build: files by their names.
    pub files: &'a BTreeMap<String, PathBuf>,
    /// An empty folder of its own, which is removed later.
    pub folder: &'a Path,
    /// What goes wrong.
    pub faults: Faults,
}

/// Why there is no world.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] Unusable),
    /// There is no port.
    #[error("cannot serve the doubles of the clouds")]
    Port(#[source] io::Error),
    /// There is no key.
    #[error("cannot make a key")]
    Key(#[from] openssl::error::ErrorStack),
    /// The build is elsewhere.
    #[error("the build is not in Google Storage but at {0}")]
    Source(String),
}

/// One of Azure's clouds.
struct Azure {
    name: String,
    classic: Arc<Classic>,
    blobs: Arc<Blobs>,
    servers: [Server; 2],
}

/// The world.
pub struct World {
    folder: PathBuf,
    aws: (Arc<Aws>, Server),
    azure: Vec<Azure>,
    gce: (Arc<Gce>, Server),
    gcs: (Arc<Gcs>, Server),
    outside: (Arc<Outside>, Server),
    /// What opens the storage of channels without the classic API.
    storage: Option<String>,
}

/// How often a service was asked.
#[derive(Clone, Debug, Serialize)]
pub struct Asked {
    /// The service.
    pub service: &'static str,
    /// Requests, those that went wrong among them.
    pub requests: u64,
    /// Those that went wrong.
    pub faults: u64,
}

/// What is there.
#[derive(Clone, Debug, Serialize)]
pub struct State {
    /// Amazon's.
    pub aws: Inventory,
    /// Microsoft's, by cloud.
    pub azure: BTreeMap<String, AzureState>,
    /// Images of Compute Engine.
    pub gce: BTreeMap<String, Value>,
    /// By bucket of Google Storage: names of objects, and their lengths in bytes.
    pub gcs: BTreeMap<String, BTreeMap<String, u64>>,
}

/// What one of Azure's clouds has.
#[derive(Clone, Debug, Serialize)]
pub struct AzureState {
    /// Images of the classic API.
    pub images: BTreeMap<String, Image>,
    /// By `ACCOUNT/CONTAINER/BLOB`.
    pub blobs: BTreeMap<String, Blob>,
}

/// Everything that is not in this world: a proxy that leads nowhere, and remembers who wanted to go.
#[derive(Default)]
struct Outside(Mutex<Vec<String>>);

impl Double for Outside {
    fn answer(&self, request: &Request) -> Response {
        let wanted = format!("{} {}", request.method, request.target.split('?').next().unwrap_or_default());
        debug!(super::COMPONENT, "somebody wants to leave: {wanted}");
        lock(&self.0).push(wanted);
        Response::new(403, "text/plain", "there is nothing outside")
    }

    fn busy(&self) -> Response {
        Response::empty(503)
    }
}

fn subscription(number: usize) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

impl World {
    /// Makes the world, with the build in it and an older image where there are families.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn start(order: &Order<'_>) -> Result<Self, Error> {
        let Order { selection, files, folder, faults } = order;
        let source =
            Location::prefix(&selection.source).map_err(|_| Error::Source(selection.source.clone()))?;
        let mut number = 0;
        let mut serve = async |double: Arc<dyn Double>, faults: Faults| {
            number += 1;
            Server::start(double, number, faults).await.map_err(Error::Port)
        };
        let aws = Arc::new(Aws::default());
        for partition in selection.aws.iter().flat_map(|aws| &aws.partitions) {
            aws.put_bucket(&partition.bucket);
        }
        let aws = (aws.clone(), serve(aws, *faults).await?);
        let gce = Arc::new(Gce::new(records(selection)));
        let gce = (gce.clone(), serve(gce, *faults).await?);
        let gcs = Arc::new(Gcs::default());
        let (stored, files) = (gcs.clone(), (*files).clone());
        let put = tokio::task::spawn_blocking(move || {
            for (name, path) in files {
                let at = source.join(&name);
                let kind = "application/octet-stream";
                stored.store().put_file(&at.bucket, &at.name, &path, kind).map_err(Unusable::at(&path))?;
            }
            Ok::<_, Unusable>(())
        });
        put.await.map_err(|e| Error::Port(io::Error::other(e)))??;
        let gcs = (gcs.clone(), serve(gcs, *faults).await?);
        let (mut azure, mut storage) = (Vec::new(), None);
        let environments = selection.azure.iter().flat_map(|azure| match &azure.classic {
            Some(classic) => classic.environments.iter().map(|e| e.subscription.clone()).collect(),
            None => vec!["Azure".to_owned()],
        });
        for (at, name) in environments.enumerate() {
            let classic = Arc::new(Classic::new(&subscription(at)));
            let blobs = Arc::new(Blobs::new(folder.to_path_buf()));
            let servers = [serve(classic.clone(), *faults).await?, serve(blobs.clone(), *faults).await?];
            if let Some(facts) = &selection.azure {
                let mut key = [0; 32];
                openssl::rand::rand_bytes(&mut key)?;
                let key = openssl::base64::encode_block(&key);
                classic.put_key(&facts.account, &key);
                let place = servers[1].url();
                let settings = format!("BlobEndpoint={place};AccountName={};AccountKey={key}", facts.account);
                storage = Some(settings).filter(|_| facts.classic.is_none());
            }
            azure.push(Azure { name, classic, blobs, servers });
        }
        let outside = Arc::new(Outside::default());
        let outside = (outside.clone(), serve(outside, Faults::default()).await?);
        let world = Self { folder: folder.to_path_buf(), aws, azure, gce, gcs, outside, storage };
        world.write_credentials(selection).await?;
        Ok(world)
    }

    async fn write_credentials(&self, selection: &Selection) -> Result<(), Error> {
        let profiles = selection.aws.iter().flat_map(|aws| &aws.partitions).map(|p| p.profile.as_str());
        let mut ini = String::new();
        for profile in std::collections::BTreeSet::from_iter(profiles) {
            ini += &format!(
                "[{profile}]\naws_access_key_id = AKIDREHEARSAL\naws_secret_access_key = rehearsal\n"
            );
        }
        let environment = |at: usize, azure: &Azure| {
            let suffix = azure.servers[1].url();
            json!({"name": format!("cloud-{at}"), "storageEndpointSuffix": suffix})
        };
        let subscribed = |at: usize, azure: &Azure| {
            json!({
                "id": subscription(at), "name": azure.name, "environmentName": format!("cloud-{at}"),
                "managementEndpointUrl": azure.servers[0].url(),
            })
        };
        let all = || self.azure.iter().enumerate();
        let profile = json!({
            "environments": all().map(|(at, azure)| environment(at, azure)).collect::<Vec<_>>(),
            "subscriptions": all().map(|(at, azure)| subscribed(at, azure)).collect::<Vec<_>>(),
        });
        let auth = json!({
            "clientId": subscription(1), "clientSecret": "rehearsal", "subscriptionId": subscription(0),
            "tenantId": subscription(2),
        });
        let token_uri = format!("{}/token", self.gce.1.url());
        let paths = [self.aws_credentials(), self.azure_profile(), self.azure_auth(), self.google_key()];
        let write = tokio::task::spawn_blocking(move || {
            let key = openssl::pkey::PKey::from_rsa(openssl::rsa::Rsa::generate(2048)?)?;
            let pem = String::from_utf8_lossy(&key.private_key_to_pem_pkcs8()?).into_owned();
            let google = json!({
                "type": "service_account", "client_email": "rehearsal@localhost", "private_key": pem,
                "private_key_id": "1", "token_uri": token_uri,
            });
            let texts = [ini, profile.to_string(), auth.to_string(), google.to_string()];
            for (path, text) in paths.iter().zip(texts) {
                target::replace(path, 0o600, text.as_bytes()).map_err(Unusable::at(path))?;
            }
            Ok::<_, Error>(())
        });
        write.await.map_err(|e| Error::Port(io::Error::other(e)))?
    }

    /// A file of credentials for Amazon, with all profiles.
    pub fn aws_credentials(&self) -> PathBuf {
        self.folder.join("aws")
    }

    /// A profile for Azure's classic API.
    pub fn azure_profile(&self) -> PathBuf {
        self.folder.join("azureProfile.json")
    }

    /// An application at Azure.
    pub fn azure_auth(&self) -> PathBuf {
        self.folder.join("azure.json")
    }

    /// The key of a service account at Google.
    pub fn google_key(&self) -> PathBuf {
        self.folder.join("google.json")
    }

    /// The whole environment of a process that lives in this world. What is not named there must not be there.
    pub fn environment(&self) -> BTreeMap<&'static str, String> {
        let home = self.folder.display().to_string();
        let nowhere = self.outside.1.url();
        let mut all = BTreeMap::from([
            ("HOME", home.clone()),
            ("TMPDIR", home.clone()),
            ("REPO_ROOT", home),
            ("AWS_ENDPOINT_URL", self.aws.1.url()),
            ("AWS_EC2_METADATA_DISABLED", "true".into()),
            ("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", format!("{}/compute/v1/", self.gce.1.url())),
            ("STORAGE_EMULATOR_HOST", self.gcs.1.address.to_string()),
            ("MANTLE_POLL_SCALE", POLL_SCALE.into()),
            ("no_proxy", "127.0.0.1".into()),
        ]);
        for variable in ["http_proxy", "https_proxy", "all_proxy"] {
            all.insert(variable, nowhere.clone());
        }
        if let Some(storage) = &self.storage {
            all.insert("AZURE_STORAGE_CONNECTION_STRING", storage.clone());
        }
        all
    }

    /// How often each service was asked.
    pub fn asked(&self) -> Vec<Asked> {
        let one = |service, servers: Vec<&Server>| {
            let counts = servers.into_iter().map(Server::counts);
            let (requests, faults) = counts.fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
            Asked { service, requests, faults }
        };
        vec![
            one("aws", vec![&self.aws.1]),
            one("azure", self.azure.iter().flat_map(|azure| &azure.servers).collect()),
            one("gce", vec![&self.gce.1]),
            one("gcs", vec![&self.gcs.1]),
        ]
    }

    /// What was asked of servers that are not in this world; nobody has reached them.
    pub fn strangers(&self) -> Vec<String> {
        lock(&self.outside.0.0).clone()
    }

    /// What is there.
    pub fn state(&self) -> State {
        let mut gcs = BTreeMap::<String, BTreeMap<String, u64>>::new();
        for ((bucket, name), stored) in &self.gcs.0.store().objects {
            gcs.entry(bucket.clone()).or_default().insert(name.clone(), stored.size());
        }
        let azure = self.azure.iter().map(|azure| {
            let state = AzureState { images: azure.classic.images(), blobs: azure.blobs.blobs() };
            (azure.name.clone(), state)
        });
        State { aws: self.aws.0.inventory(), azure: azure.collect(), gce: self.gce.0.images(), gcs }
    }

    /// Writes all there is below a folder: objects and blobs as files, everything else as `state.json`. Blocks.
    ///
    /// # Errors
    /// When files cannot be written.
    pub fn keep(&self, folder: &Path) -> io::Result<()> {
        kept::objects(&self.gcs.0, &folder.join("gcs"))?;
        for azure in &self.azure {
            kept::blobs(&azure.blobs, &folder.join("azure").join(kept::file_name(&azure.name)))?;
        }
        let mut text = serde_json::to_vec_pretty(&self.state()).map_err(io::Error::other)?;
        text.push(b'\n');
        target::replace(&folder.join("state.json"), 0o666, &text)
    }
}

/// The project of a channel, with an older image in its family.
fn records(selection: &Selection) -> Records {
    let Some(gce) = &selection.gce else { return Records::new("none") };
    let mut records = Records::new(&gce.project);
    records.licenses.extend(gce.licenses.iter().cloned());
    let suffix = gce.board_suffixes.get(&selection.board).map_or("", String::as_str);
    let date = if gce.dated { "-v20200102" } else { "" };
    let older = json!({"family": gce.family, "creationTimestamp": "2020-01-02T00:00:00Z"});
    records.put_image(&format!("{}-0-0-1{date}{suffix}", gce.family), older);
    records
}
