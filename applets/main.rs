//! The `mantle` binary: the applets and nothing else; what they share is the library.

mod cork;
mod downloads;
mod gangue;
mod kola;
mod kolet;
mod mantle;
mod ore;
mod plans;
mod plume;

use std::process::ExitCode;

use ::mantle::applet::{self, Applet};
use ::mantle::multicall::{self, Entry};

/// All applets. A new one is a folder here, its `mod` line and its entry.
pub static APPLETS: &[Applet] =
    &[cork::APPLET, gangue::APPLET, kola::APPLET, kolet::APPLET, ore::APPLET, plume::APPLET];

/// What the binary calls itself for, in processes of their own.
static ENTRIES: &[&[Entry]] = &[cork::ENTRIES];

fn main() -> ExitCode {
    let argv: Vec<_> = std::env::args_os().collect();
    let called = multicall::call(ENTRIES, &argv);
    ExitCode::from(called.unwrap_or_else(|| applet::main(&mantle::APPLET, APPLETS, argv)))
}
