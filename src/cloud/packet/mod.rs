//! Packet, later Equinix Metal: machines without anything below them, which an installer that boots from the network
//! makes of our image.
//!
//! The provider closed its service on 2026-06-30 as far as we know. Its API lives on in services that speak as it did,
//! so every endpoint can be another.
//!
//! | file | what it is |
//! |---|---|
//! | `account` | who one is, and where |
//! | `api` | the service, with plain types |
//! | `boot` | what the installer is told: iPXE script and userdata |
//! | `store` | where those two are fetched from |
//! | `console` | the serial console, by SSH |
//! | `device` | all of that in its order: from a description to a device that has booted our image |
//! | `gc` | what is left over |

mod account;
pub mod api;
pub mod boot;
pub mod console;
pub mod device;
pub mod gc;
pub mod store;

pub use self::account::Account;
pub use self::api::Packet;

/// Tag of every device that mantle makes.
pub const MARK: &str = "mantle";
/// What the tag with the token of an order begins with.
pub const LAUNCH: &str = "mantle-launch=";
/// What the service is called in messages.
pub const SERVICE: &str = "Packet";

/// For help: what became of the service.
pub const CLOSED: &str = "The provider closed its service on 2026-06-30 as far as we know; for services that speak as it did there are \
     options and variables for every endpoint.";

/// Files that are read, for man pages.
pub const FILES: &[(&str, &str)] = &[(
    "~/.config/packet.json",
    "Packet's profiles: {\"default\": {\"api_key\": ..., \"project\": ..., \"api_url\": ...}}.",
)];

/// Variables that no option is bound to, for man pages.
pub const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "PACKET_SOS_HOST",
        "Host, or HOST:PORT, of Packet's serial consoles in place of sos.FACILITY.packet.net.",
    ),
    ("PACKET_DISCARD_PORT", "Port at which a device's installer listens until it is done, in place of 9."),
    (
        "MANTLE_STORAGE_DOWNLOAD_URL",
        "Where devices fetch from Google Storage, in place of http://storage-download.googleapis.com.",
    ),
];

/// A variable of the environment, unless it is empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

#[cfg(test)]
mod tests;
