//! plume on local stores and clouds.

mod index;
mod killed;
mod later;
mod release;
mod world;
