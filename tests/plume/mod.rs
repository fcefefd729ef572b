//! plume on local stores and clouds.

mod described;
mod faults;
mod flatcar;
mod gated;
mod index;
mod killed;
mod later;
mod rehearse;
mod release;
mod world;
