//! Clouds as ore and plume use them: accounts, credentials, APIs, images, uploads, what is left over. Machines there
//! are the business of `platform`.

pub mod aws;
pub mod google;
