//! The `mantle` binary: the applets and nothing else; what they share is the library.

mod cork;
mod downloads;
mod gangue;
mod kola;
mod kolet;
mod mantle;
mod ore;
mod plume;

use std::process::ExitCode;

use ::mantle::applet::{self, Applet};

/// All applets. A new one is a folder here, its `mod` line and its entry.
pub static APPLETS: &[Applet] =
    &[cork::APPLET, gangue::APPLET, kola::APPLET, kolet::APPLET, ore::APPLET, plume::APPLET];

fn main() -> ExitCode {
    ExitCode::from(applet::main(&mantle::APPLET, APPLETS, std::env::args_os().collect()))
}
