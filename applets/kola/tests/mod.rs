//! The operating system tests, one file a topic. A new file is a `mod` line and an entry of [`SUITES`].

use super::register::Test;

mod cloudinit;
mod containers;
mod coretest;
mod crio;
mod docker;
mod etcd;
mod flannel;
mod helpers;
mod ignition;
mod kubernetes;
mod locksmith;
mod metadata;
mod misc;
mod network;
mod nfs;
mod omaha;
mod ostree;
mod podman;
mod rkt;
mod rpmostree;
#[cfg(feature = "test-platform")]
mod selftest;
mod selinux;
mod systemd;
mod torcx;
mod update;
mod verity;

/// All suites: what makes the tests of each file.
pub static SUITES: &[fn() -> Vec<Test>] = &[
    cloudinit::tests,
    coretest::tests,
    crio::tests,
    docker::tests,
    etcd::tests,
    flannel::tests,
    ignition::disks::tests,
    ignition::remote::tests,
    ignition::tests,
    kubernetes::tests,
    locksmith::tests,
    metadata::tests,
    misc::tests,
    network::tests,
    nfs::tests,
    omaha::tests,
    ostree::tests,
    podman::tests,
    rkt::tests,
    rpmostree::tests,
    selinux::tests,
    systemd::tests,
    torcx::tests,
    update::tests,
    verity::tests,
    #[cfg(feature = "test-platform")]
    selftest::tests,
];
