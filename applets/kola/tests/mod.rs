//! The operating system tests, one file a topic. A new file is a `mod` line and an entry of [`SUITES`].

use super::register::Test;

mod containers;
mod coretest;
mod docker;
mod etcd;
mod helpers;
mod ignition;
mod misc;
mod network;
mod nfs;
mod podman;
#[cfg(feature = "test-platform")]
mod selftest;
mod systemd;

/// All suites: what makes the tests of each file.
pub static SUITES: &[fn() -> Vec<Test>] = &[
    coretest::tests,
    docker::tests,
    etcd::tests,
    ignition::tests,
    ignition::disks::tests,
    ignition::remote::tests,
    misc::tests,
    network::tests,
    nfs::tests,
    podman::tests,
    systemd::tests,
    #[cfg(feature = "test-platform")]
    selftest::tests,
];
