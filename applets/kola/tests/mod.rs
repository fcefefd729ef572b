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

/// All suites.
pub static SUITES: &[&[Test]] = &[
    coretest::TESTS,
    docker::TESTS,
    etcd::TESTS,
    ignition::TESTS,
    ignition::disks::TESTS,
    ignition::remote::TESTS,
    misc::TESTS,
    network::TESTS,
    nfs::TESTS,
    podman::TESTS,
    systemd::TESTS,
    #[cfg(feature = "test-platform")]
    selftest::TESTS,
];
