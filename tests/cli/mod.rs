//! The command line: what all applets share, and mantle's own commands.

mod completions;
mod config;
mod conventions;
mod dispatch;
mod ending;
mod help;
mod inputs;
mod install;
mod readme;
