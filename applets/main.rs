//! The `mantle` binary.
fn main() {}
