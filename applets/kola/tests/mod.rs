//! The operating system tests, one file a topic. A new file is a `mod` line and an entry of [`SUITES`].

mod coretest;
mod helpers;
mod misc;

use super::register::Test;

/// All suites.
pub static SUITES: &[&[Test]] = &[coretest::TESTS, misc::TESTS];
