//! `cork download-image` and `cork download` against servers that behave and misbehave; the sources of the SDK; update
//! payloads.

mod chroot;
mod image;
mod repo;
mod sdk;
mod update;

use std::path::{Path, PathBuf};

use sequoia_openpgp::serialize::SerializeInto;

use crate::gangue::{release_key, sign};
use crate::support::server::Server;
use crate::support::{Env, Outcome, Running};

/// A sealed environment, a server, a key file `key.asc` that both know.
struct Bench {
    env: Env,
    server: Server,
}

impl Bench {
    fn new() -> Self {
        let mut env = Env::new();
        let server = Server::new();
        std::fs::write(env.home().join("key.asc"), release_key().armored().to_vec().unwrap()).unwrap();
        env.set("STORAGE_EMULATOR_HOST", server.address.to_string());
        // What is asked of the world arrives here as CONNECT, and fails.
        env.set("HTTPS_PROXY", server.url("/")).set("MANTLE_POLL_SCALE", "0.01");
        Self { env, server }
    }

    /// Serves a file and its signature.
    fn put_signed(&self, path: &str, body: &[u8]) {
        self.server.put(path, body);
        self.server.put(&format!("{path}.sig"), &sign(body));
    }

    fn start(&self, args: &[&str]) -> Running {
        let mut command = self.env.command(Path::new(env!("CARGO_BIN_EXE_mantle")));
        command.args(["cork", "-v"]).args(args);
        Running::new(command)
    }

    fn cork(&self, args: &[&str]) -> Outcome {
        self.start(args).finish()
    }

    /// Below the home folder.
    fn file(&self, name: &str) -> PathBuf {
        self.env.home().join(name)
    }

    #[track_caller]
    fn expect_file(&self, name: &str, body: &[u8]) {
        let found = std::fs::read(self.file(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(found == body, "{name}: the content differs");
    }

    /// The names in a folder below the home folder; none if it is not there.
    fn names(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.file(folder)) else { return Vec::new() };
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Paths and hosts that were asked for; forgets the requests.
    fn asked(&self) -> Vec<String> {
        self.server.take_log().into_iter().map(|r| r.target).collect()
    }
}
