//! plume on local stores and clouds.

mod index;
mod killed;
mod release;
mod world;
