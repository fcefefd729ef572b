//! Azure: what is stored there (page blobs), and the classic service management.
//!
//! | file | what it is |
//! |---|---|
//! | `storage/` | blobs of one account: keys, signed addresses or tokens; disks as page blobs |
//! | `classic/` | the management API of before 2014, which Azure switched off in 2024 |
//! | `xml` | what both say and how they refuse |

pub mod classic;
pub mod storage;
mod xml;
