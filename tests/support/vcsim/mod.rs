//! vcsim, the simulator of the govmomi project, as a process of its own; `build` makes it once.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::repository;

/// A vCenter; it ends with this.
pub struct Vcsim {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// The folder with the files of its first datastore.
    pub files: PathBuf,
}

/// What there is in it.
#[derive(Clone, Copy)]
pub struct Model {
    pub scheme: &'static str,
    pub datacenters: usize,
    /// Hosts beside the cluster.
    pub hosts: usize,
    /// Machines of each host and cluster.
    pub machines: usize,
}

/// One of each.
pub const PLAIN: Model = Model { scheme: "http", datacenters: 1, hosts: 0, machines: 1 };

impl Vcsim {
    /// `None`, and a word on stdout, where it cannot be built.
    pub fn start(user: &str, password: &str, model: Model) -> Option<Self> {
        let home = std::env::var_os("HOME").map(PathBuf::from)?;
        let program = home.join(".cache/mantle/vcsimx");
        // Tests run side by side; the script is content with what is there.
        let mut built = Command::new("flock");
        built.arg(home.join(".cache/mantle")).arg(repository().join("tests/support/vcsim/build"));
        let built = built.arg(&program).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !built.is_ok_and(|s| s.success()) {
            println!("skipped: vcsim cannot be built; tests/setup.sh installs what it needs");
            return None;
        }
        let numbers = [model.datacenters, model.hosts, model.machines].map(|n| n.to_string());
        let mut command = Command::new(program);
        command.args([user, password, model.scheme]).args(numbers);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut words = line.split_whitespace().skip(1);
        let address = words.next().expect("vcsim does not start").parse().unwrap();
        Some(Self { child, address, files: words.next().unwrap().into() })
    }
}

impl Drop for Vcsim {
    fn drop(&mut self) {
        // Its end is what it waits for; it removes its files.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
