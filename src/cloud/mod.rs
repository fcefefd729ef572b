//! Clouds as ore and plume use them: accounts, credentials, APIs, images, uploads, what is left over. Machines there
//! are the business of `platform`.
//!
//! `gc`, `once`, `profile` and `resume` are what clouds share: what is left over is removed by the same rules
//! everywhere, orders without answers are not made twice, files of profiles are read, and uploads are gone on with in
//! the same way. The others are one cloud each.

pub mod address;
pub mod aws;
pub mod azure;
pub mod digitalocean;
pub mod esx;
pub mod gc;
pub mod google;
mod jwt;
pub mod once;
pub mod openstack;
pub mod packet;
pub mod profile;
pub mod resume;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Warns when more people than the user may read a file that holds secrets.
fn warn_if_others_may_read(component: &'static str, path: &Path) {
    let Ok(meta) = std::fs::metadata(path) else { return };
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        crate::warning!(component, "others may read the keys in {} (mode {mode:o})", path.display());
    }
}
