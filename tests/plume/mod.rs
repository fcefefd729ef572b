//! plume on local stores and clouds.

mod described;
mod faults;
mod flatcar;
mod gated;
mod index;
mod killed;
mod later;
mod release;
mod world;
