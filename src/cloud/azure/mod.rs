//! Azure: who one is (credentials), machines and images there (Resource Manager), what is stored there (page blobs), the
//! classic service management, and what is left over.
//!
//! | file | what it is |
//! |---|---|
//! | `account`, `credentials/` | who one is, in which cloud and subscription |
//! | `arm/` | the Resource Manager, with plain types |
//! | `storage/` | blobs of one account: keys, signed addresses or tokens; disks as page blobs |
//! | `classic/` | the management API of before 2014, which Azure switched off in 2024 |
//! | `xml` | what blobs and the classic API say and how they refuse |
//! | `gc` | what is left over |

mod account;
pub mod arm;
pub mod classic;
pub mod credentials;
pub mod gc;
pub mod storage;
mod xml;

pub use self::account::Account;

/// Tag of everything that mantle makes at Azure, with its value.
pub const MARK: (&str, &str) = ("createdBy", "mantle");

/// Tag with the time when a resource group was made: Azure does not say.
pub const CREATED: &str = "createdAt";
