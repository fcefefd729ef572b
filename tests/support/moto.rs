//! Amazon's interfaces by moto, with the additions of `moto_server.py`.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::emulators::{environment, free_port};
use super::guard::{Guard, Limit};
use super::http::{self, Request};
use super::repository;

/// The region that tests use unless they need two.
pub const REGION: &str = "us-west-2";

/// Killed at the end of the test.
pub struct Moto {
    child: Child,
    /// Where it listens, for all services.
    pub address: SocketAddr,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Moto {
    /// Starts it with variables that `moto_server.py` reads; `None`, and a word on stdout, if it is not installed.
    pub fn start(variables: &[(&str, &str)]) -> Option<Self> {
        let python = environment("moto_server")?.join("bin/python");
        // The port can be taken between the question and the start: then the program ends, and another is tried.
        for _ in 0..5 {
            let port = free_port();
            let mut child = Command::new(&python)
                .arg(repository().join("tests/support/moto_server.py"))
                .args(["-H", "127.0.0.1", "-p", &port.to_string()])
                .env("MOTO_EC2_LOAD_DEFAULT_AMIS", "false") // a second, and 100 MiB
                .env("MOTO_ENABLE_AMI_VALIDATION", "1")
                .env("MOTO_ENABLE_KEYPAIR_VALIDATION", "1")
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .envs(variables.iter().copied())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let guard = Guard::new("moto's first answer", Limit::PROGRAM);
            loop {
                // Somebody else's may answer where ours is about to fail.
                let who = Request::new("POST", "/mantle/pid").with_body("{}");
                if http::send(address, &who)
                    .is_ok_and(|answer| answer.text().trim() == child.id().to_string())
                {
                    return Some(Self { child, address });
                }
                if child.try_wait().unwrap().is_some() {
                    break;
                }
                guard.check();
                std::thread::park_timeout(Duration::from_millis(20));
            }
        }
        panic!("moto does not start; run it by hand: {} tests/support/moto_server.py", python.display());
    }

    /// Forgets everything that was made.
    pub fn reset(&self) {
        let answer = http::send(self.address, &Request::new("POST", "/moto-api/reset")).unwrap();
        assert_eq!(answer.status, 200);
    }

    /// Says something to `moto_server.py`: see `control` there.
    pub fn control(&self, word: &str, what: &Value) -> Value {
        control(self.address, word, what)
    }
}

/// As [`Moto::control`], for those who only know where it listens.
pub fn control(address: SocketAddr, word: &str, what: &Value) -> Value {
    let request = Request::new("POST", &format!("/mantle/{word}")).with_body(what.to_string());
    let answer = http::send(address, &request).unwrap();
    assert_eq!(answer.status, 200, "{word} {what}: {}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}
