//! Clouds as ore and plume use them: accounts, credentials, APIs, images, uploads, what is left over. Machines there
//! are the business of `platform`.
//!
//! `gc` and `resume` are what clouds share: what is left over is removed by the same rules everywhere, and uploads are
//! gone on with in the same way. The others are one cloud each.

pub mod address;
pub mod aws;
pub mod gc;
pub mod google;
pub mod resume;
