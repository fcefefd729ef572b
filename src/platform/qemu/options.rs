//! What a user can say about QEMU machines.

use std::path::PathBuf;

use serde::Serialize;

use super::{accel, firmware};

/// Options of the platforms `qemu` and `qemu-unpriv`; serialized as their part of properties.json.
#[derive(Clone, Debug, Default, clap::Args, Serialize)]
#[group(skip)]
pub struct Options {
    /// Disk image of the machines, raw or qcow2; it stays unmodified
    #[arg(long, value_name = "FILE")]
    #[serde(rename = "image")]
    pub qemu_image: Option<PathBuf>,

    /// Firmware: a file, or a plain name that QEMU finds in its own data folder
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub qemu_bios: Option<PathBuf>,

    /// Do not make the serial port the console of a raw Container Linux image
    #[arg(long)]
    #[serde(skip)]
    pub qemu_skip_mangle: bool,

    /// How guest code is executed; auto runs a few instructions under KVM to find out whether it works
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    #[serde(skip)]
    pub qemu_accel: accel::Choice,

    /// Memory of a machine in MiB
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(16..))]
    #[serde(skip)]
    pub qemu_memory: Option<u32>,

    /// Virtual CPUs of a machine
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=255))]
    #[serde(skip)]
    pub qemu_cpus: Option<u32>,

    /// Kind of firmware; uefi takes the distribution's OVMF or AAVMF [default: bios, uefi on arm64]
    #[arg(long, value_enum, value_name = "KIND")]
    #[serde(skip)]
    pub qemu_firmware: Option<firmware::Kind>,

    /// Start this kernel instead of the image's boot loader
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub qemu_kernel: Option<PathBuf>,

    /// Initial RAM disk of the kernel
    #[arg(long, value_name = "FILE", requires = "qemu_kernel")]
    #[serde(skip)]
    pub qemu_initrd: Option<PathBuf>,

    /// Command line of the kernel
    #[arg(long, value_name = "ARGS", requires = "qemu_kernel", allow_hyphen_values = true)]
    #[serde(skip)]
    pub qemu_append: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn parses_and_shows_only_the_image() {
        let line =
            ["x", "--qemu-image", "a.img", "--qemu-accel=tcg", "--qemu-memory=512", "--qemu-firmware=uefi"];
        let options = Cli::try_parse_from(line).unwrap().options;
        assert_eq!(options.qemu_accel, accel::Choice::Tcg);
        assert_eq!(options.qemu_memory, Some(512));
        assert_eq!(serde_json::to_string(&options).unwrap(), r#"{"image":"a.img"}"#);
    }

    #[test]
    fn refuses_nonsense() {
        for line in [
            ["x", "--qemu-cpus=0"],
            ["x", "--qemu-memory=1"],
            ["x", "--qemu-append=quiet"],
            ["x", "--qemu-accel=hvf"],
        ] {
            assert!(Cli::try_parse_from(line).is_err(), "{line:?}");
        }
    }
}
