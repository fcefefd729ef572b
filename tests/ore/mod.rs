//! `ore`, with Google Storage of our own and other people's.

mod addresses;
mod command;
mod emulators;
mod faults;
mod index;
mod killed;
mod scale;
mod sync;
mod uploads;

pub use addresses::ODD;

use mantle::cloud::google::sources::{Choice, Environment};
use mantle::cloud::google::storage::{Location, Options, Storage};
use mantle::http::{Client, Limits, Retry};

use crate::support::gcs::Gcs;
use crate::support::{Env, Outcome};

/// A server and a sealed environment that leads to it.
struct Bench {
    env: Env,
    gcs: Gcs,
}

impl Bench {
    fn new() -> Self {
        let mut env = Env::new();
        let gcs = Gcs::new();
        env.set("STORAGE_EMULATOR_HOST", gcs.address.to_string());
        env.set("MANTLE_POLL_SCALE", "0.02"); // retries after 10 ms
        Self { env, gcs }
    }

    /// With these objects in bucket `b`; what each holds is its name.
    fn with(names: &[&str]) -> Self {
        let bench = Self::new();
        names.iter().for_each(|name| bench.put("b", name));
        bench
    }

    fn put(&self, bucket: &str, name: &str) {
        self.gcs.put(bucket, name, name.as_bytes(), "application/octet-stream");
    }

    /// `ore gcloud …`
    fn gcloud(&self, args: &[&str]) -> Outcome {
        self.env.mantle(&[&["ore", "gcloud"], args].concat())
    }

    /// `ore gcloud …`, which must succeed; then the kinds of requests that change things, sorted.
    #[track_caller]
    fn changes(&self, args: &[&str]) -> Vec<String> {
        self.gcs.take_log();
        self.gcloud(args).expect(0);
        let mut told: Vec<_> = self.gcs.take_log().iter().filter(|r| r.changes()).map(|r| r.told()).collect();
        told.sort();
        told
    }

    /// The text of an object.
    #[track_caller]
    fn text(&self, bucket: &str, name: &str) -> String {
        let objects = self.gcs.objects(bucket);
        let object = objects.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", objects.keys()));
        String::from_utf8(object.body.clone()).unwrap()
    }
}

/// A client in this process.
fn storage(address: std::net::SocketAddr) -> Storage {
    let retry = Retry { first: std::time::Duration::from_millis(5), ..Retry::default() };
    let http = Client::direct(Limits::default(), retry).unwrap();
    let options = Options {
        base: format!("http://{address}/storage/v1/").parse().unwrap(),
        emulator: true,
        choice: Choice::default(),
        environment: Environment::default(),
        scopes: &[],
        interactive: false,
    };
    Storage::new(http, options)
}

fn object(bucket: &str, name: &str) -> Location {
    Location::new(bucket, name)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
