//! Clouds without clouds: other people's servers and our own fakes, and kola and ore against them.
//!
//! A folder a cloud: what is particular to its requests (`mod.rs`), machines behind its interface (`double.rs`),
//! and kola and ore against that (`kola.rs`, `ore`). What must hold of kola in each of them is in `matrix.rs`.

pub mod aws;
pub mod azure;
mod digitalocean;
mod esx;
pub mod gce;
pub mod matrix;
mod openstack;
mod packet;
