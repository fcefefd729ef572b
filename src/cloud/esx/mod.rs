//! vSphere: a vCenter, asked in SOAP.
//!
//! | file | what it is |
//! |---|---|
//! | `account`, `sources`, `session` | who one is, and where |
//! | `xml`, `soap` | what is asked and answered |
//! | `api` | objects, their properties, tasks, waits |
//! | `inventory` | what there is, and which of it is meant |
//! | `vm` | machines |
//! | `ova`, `import` | packages, and how they get there |
//! | `gc` | what is left over |

mod account;
pub mod api;
pub mod gc;
pub mod import;
pub mod inventory;
pub mod ova;
pub mod session;
pub mod soap;
pub mod sources;
pub mod vm;
pub mod xml;

pub use self::account::Account;

/// Who says so in messages.
const COMPONENT: &str = "esx";

/// The setting of machines that mantle makes, with its value.
pub const MARK: (&str, &str) = ("CreatedBy", "mantle");
