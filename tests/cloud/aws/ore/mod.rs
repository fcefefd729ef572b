//! `ore aws` against moto, every request written down.

mod changes;
mod direct;
mod gc;
mod identity;
mod keys;
mod killed;
mod upload;
mod usage;

use std::path::PathBuf;

use regex::Regex;
use serde_json::Value;

use crate::cloud::aws;
use crate::support::guard::{self, Limit};
use crate::support::http::{self, Request};
use crate::support::moto::{Moto, REGION};
use crate::support::proxy::{Entry, Proxy};
use crate::support::{Env, Outcome, Running};

/// A cloud and somebody who uses it.
struct Cloud {
    moto: Moto,
    proxy: Proxy,
    env: Env,
}

impl Cloud {
    /// `None`, and a word on stdout, if moto is not installed.
    fn start(variables: &[(&str, &str)]) -> Option<Self> {
        let moto = Moto::start(variables)?;
        let proxy = Proxy::new(moto.address);
        let mut env = Env::new();
        env.set("AWS_ACCESS_KEY_ID", "AKIDTEST")
            .set("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
            .set("AWS_REGION", REGION)
            .set("AWS_EC2_METADATA_DISABLED", "true")
            .set("AWS_ENDPOINT_URL", proxy.url())
            .set("MANTLE_POLL_SCALE", "0.002");
        Some(Self { moto, proxy, env })
    }

    /// With a bucket and the import role; the journal is empty.
    fn initialized(variables: &[(&str, &str)]) -> Option<Self> {
        let cloud = Self::start(variables)?;
        cloud.initialize();
        Some(cloud)
    }

    fn initialize(&self) {
        self.ore(&["initialize", "--bucket=images"]).expect(0);
        self.proxy.take_journal();
    }

    /// For clients that are not ours.
    fn endpoint(&self) -> String {
        format!("http://{}", self.moto.address)
    }

    fn ore(&self, args: &[&str]) -> Outcome {
        self.env.mantle(&[&["ore", "aws"], args].concat())
    }

    fn start_ore(&self, args: &[&str]) -> Running {
        let mut command = self.env.command(env!("CARGO_BIN_EXE_mantle"));
        command.args(["ore", "aws"]).args(args);
        Running::new(command)
    }

    /// The operations since the last time, in order.
    fn actions(&self) -> Vec<String> {
        self.proxy.take_journal().iter().map(|e| aws::action(&e.request)).collect()
    }

    /// One call past the proxy, as from somebody else.
    #[track_caller]
    fn call(&self, service: &str, parameters: &[(&str, &str)]) -> String {
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(parameters);
        if service == "ec2" {
            body.append_pair("Version", "2016-11-15");
        }
        let signature = format!(
            "AWS4-HMAC-SHA256 Credential=AKIDOTHER/20260101/{REGION}/{service}/aws4_request, SignedHeaders=host, \
             Signature=00"
        );
        let request = Request::new("POST", "/")
            .with_header("Content-Type", "application/x-www-form-urlencoded")
            .with_header("Authorization", &signature)
            .with_body(body.finish());
        let answer = http::send(self.moto.address, &request).unwrap();
        assert_eq!(answer.status, 200, "{parameters:?}: {}", answer.text());
        answer.text()
    }

    /// Waits until the journal has a line like this.
    fn wait_for(&self, what: impl Fn(&Entry) -> bool) {
        guard::wait("a request", Limit::PROGRAM, || self.proxy.journal().iter().any(&what));
    }

    /// A raw disk of so many bytes in the home folder: different bytes everywhere.
    fn disk(&self, name: &str, size: usize) -> PathBuf {
        let mut state = 1u32;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let path = self.env.home().join(name);
        std::fs::write(&path, std::iter::repeat_with(next).take(size).collect::<Vec<_>>()).unwrap();
        path
    }

    /// Unfinished uploads at moto.
    fn parts(&self) -> usize {
        let signature = format!("AWS4-HMAC-SHA256 Credential=AKIDOTHER/20260101/{REGION}/s3/aws4_request");
        let request = Request::new("GET", "/images?uploads").with_header("Authorization", &signature);
        let answer = http::send(self.moto.address, &request).unwrap();
        answer.text().matches("<UploadId>").count()
    }

    /// Records of unfinished uploads.
    fn records(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.env.home().join(".local/state/mantle/aws")) else {
            return Vec::new();
        };
        let names = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|n| n.ends_with(".json")).collect()
    }

    fn object_exists(&self, path: &str) -> bool {
        let signature = format!("AWS4-HMAC-SHA256 Credential=AKIDOTHER/20260101/{REGION}/s3/aws4_request");
        let request = Request::new("HEAD", path).with_header("Authorization", &signature);
        http::send(self.moto.address, &request).unwrap().status == 200
    }
}

/// The only line of stdout, as JSON.
#[track_caller]
fn json(outcome: &Outcome) -> Value {
    assert_eq!(outcome.stdout.lines().count(), 1, "{}", outcome.stdout);
    serde_json::from_str(&outcome.stdout).unwrap()
}

/// All ids of a kind in a text.
fn ids(text: &str, kind: &str) -> Vec<String> {
    let found = Regex::new(&format!(">({kind}-[0-9a-f]{{8,17}})<")).unwrap();
    let mut ids: Vec<_> = found.captures_iter(text).map(|m| m[1].to_owned()).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// What `upload` is called with, for a raw disk.
fn upload<'a>(file: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let common = [
        "--object-format=RAW",
        "--name=n1",
        "--ami-name=img",
        "--disk-size-gib=1",
        "--bucket=s3://images/path",
    ];
    [&["upload", "--file", file], &common[..], more].concat()
}
