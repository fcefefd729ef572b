//! DigitalOcean: who one is, droplets, keys, images, what is left over.
//!
//! | file | what it is |
//! |---|---|
//! | `account`, `token` | who one is, and where the API is |
//! | `api`, `droplets`, `keys`, `images`, `refusal` | the API, with plain types |
//! | `order` | orders that are made once, whatever becomes of their answers |
//! | `create` | images: those that DigitalOcean fetches, and those of a droplet that overwrites itself |
//! | `gc` | what is left over |

mod account;
mod api;
pub mod create;
mod droplets;
pub mod gc;
mod images;
mod keys;
pub mod order;
mod refusal;
mod token;

pub use self::account::Account;
pub use self::api::{Api, Identity, Result};
pub use self::droplets::{Action, Droplet, NewDroplet};
pub use self::images::{Image, NewImage, Unresolved};
pub use self::keys::Key;

/// Tag of everything that mantle makes at DigitalOcean.
pub const MARK: &str = "mantle";

const COMPONENT: &str = "do";

/// Files that are read, for man pages.
pub const FILES: &[(&str, &str)] = &[
    (
        "~/.config/digitalocean.json",
        "DigitalOcean tokens by profile: {\"default\": {\"token\": \"...\"}}; \"api_url\" beside it is another API.",
    ),
    (
        "~/.config/doctl/config.yaml",
        "DigitalOcean tokens by context, as doctl keeps them; read where there is no file of profiles.",
    ),
];

/// Variables that no option is bound to, for man pages.
pub const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "DIGITALOCEAN_ACCESS_TOKEN, DIGITALOCEAN_TOKEN",
        "DigitalOcean token, unless an option has one; no file is read then.",
    ),
    ("DIGITALOCEAN_API_URL", "Server to use in place of DigitalOcean's."),
    ("DIGITALOCEAN_CONTEXT", "doctl's context to use, unless an option names a file or a profile."),
];
