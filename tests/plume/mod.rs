//! `plume index` and the channel table.

mod index;
