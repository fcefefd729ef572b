//! `gangue get` against servers that behave, misbehave, and die.

mod credentials;
mod emulators;
mod faults;
mod get;
mod killed;
mod places;
mod proxies;
mod ranges;
mod unpacked;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use sequoia_openpgp as openpgp;

use crate::support::server::Server;
use openpgp::cert::prelude::*;
use openpgp::packet::Key;
use openpgp::packet::key::{SecretParts, UnspecifiedRole};
use openpgp::policy::StandardPolicy;
use openpgp::serialize::SerializeInto;
use openpgp::serialize::stream::{Message, Signer};

use crate::support::{Env, Outcome, Running};

/// A release key of the tests' own.
pub(crate) fn release_key() -> &'static Cert {
    static KEY: OnceLock<Cert> = OnceLock::new();
    KEY.get_or_init(|| {
        let builder = CertBuilder::new().add_userid("Tests <tests@localhost>").add_signing_subkey();
        builder.generate().unwrap().0
    })
}

/// The part of it that signs.
fn signing_key() -> Key<SecretParts, UnspecifiedRole> {
    let policy = StandardPolicy::new();
    let key = release_key().keys().with_policy(&policy, None).for_signing().next().unwrap().key().clone();
    key.parts_into_secret().unwrap()
}

/// A detached signature by the release key.
pub(crate) fn sign(data: &[u8]) -> Vec<u8> {
    let pair = signing_key().into_keypair().unwrap();
    let mut signature = Vec::new();
    let mut signer = Signer::new(Message::new(&mut signature), pair).unwrap().detached().build().unwrap();
    std::io::Write::write_all(&mut signer, data).unwrap();
    signer.finalize().unwrap();
    signature
}

/// Bytes that differ from place to place.
pub(crate) fn data(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(&mut next).take(length).collect()
}

/// A server with a signed file at `/b/dir/image.bin`, a sealed environment, a folder to download to.
struct Bench {
    env: Env,
    server: Server,
    body: Vec<u8>,
}

const PATH: &str = "/b/dir/image.bin";

impl Bench {
    /// With a file of this many bytes.
    fn new(length: usize) -> Self {
        let mut env = Env::new();
        let server = Server::new();
        let body = data(length);
        server.put(PATH, &body);
        server.put(&format!("{PATH}.sig"), &sign(&body));
        std::fs::write(env.home().join("key.asc"), release_key().armored().to_vec().unwrap()).unwrap();
        std::fs::create_dir(env.home().join("out")).unwrap();
        env.set("STORAGE_EMULATOR_HOST", server.address.to_string());
        env.set("MANTLE_POLL_SCALE", "0.05"); // retries after 25 ms, silence for 2 s is too long
        Self { env, server, body }
    }

    /// The URL of the file: `gs` or `http`.
    fn url(&self, scheme: &str) -> String {
        if scheme == "gs" { format!("gs:/{PATH}") } else { self.server.url(PATH) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.env.home().join("out").join(name)
    }

    /// `gangue get`, trusting the release key of the tests, into the folder.
    fn get(&self, scheme: &str, options: &[&str]) -> Outcome {
        self.start(scheme, options).finish()
    }

    fn start(&self, scheme: &str, options: &[&str]) -> Running {
        Running::new(self.command(scheme, options))
    }

    fn command(&self, scheme: &str, options: &[&str]) -> Command {
        let mut command = self.env.command(Path::new(env!("CARGO_BIN_EXE_mantle")));
        command.args(["gangue", "-v", "get", "--verify-key=key.asc", &self.url(scheme), "out"]).args(options);
        command
    }

    /// The names in the folder.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.env.home().join("out"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Fails unless the folder holds the right file and nothing else.
    #[track_caller]
    fn expect_only_the_file(&self) {
        assert_eq!(self.names(), ["image.bin"]);
        assert!(std::fs::read(self.file("image.bin")).unwrap() == self.body, "the content differs");
    }

    /// How many bodies were asked for; forgets the requests.
    fn requests_for_data(&self) -> usize {
        self.server.take_log().iter().filter(|r| r.is_for_data()).count()
    }
}
