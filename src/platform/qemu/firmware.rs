//! Firmware: SeaBIOS or any file by `-bios`, UEFI as two flash chips.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::command::Arch;
use super::options::Options;
use crate::platform::{Error, Result, ResultExt};

/// The firmware interface a guest finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The traditional BIOS.
    Bios,
    /// UEFI with variables of each machine's own.
    Uefi,
}

/// The firmware of a flight's machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// One read-only image: an absolute path, or a plain name in QEMU's data folder.
    Rom(PathBuf),
    /// UEFI: code that all machines share and the template of their variables.
    Flash {
        /// Read-only code.
        code: PathBuf,
        /// What every machine gets a copy of.
        vars: PathBuf,
    },
}

/// QEMU's name of SeaBIOS in a 256 KiB ROM; upstream's default on amd64.
const SEABIOS: &str = "bios-256k.bin";

/// Where distributions install UEFI for guests: Debian and Ubuntu, Fedora, Arch, openSUSE, QEMU itself.
const AMD64: [(&str, &str); 7] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/edk2-ovmf/x64/OVMF_CODE.fd", "/usr/share/edk2-ovmf/x64/OVMF_VARS.fd"),
    ("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),
    ("/usr/share/qemu/edk2-x86_64-code.fd", "/usr/share/qemu/edk2-i386-vars.fd"),
];
const ARM64: [(&str, &str); 4] = [
    ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
    ("/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw", "/usr/share/edk2/aarch64/vars-template-pflash.raw"),
    ("/usr/share/qemu/aavmf-aarch64-code.bin", "/usr/share/qemu/aavmf-aarch64-vars.bin"),
    ("/usr/share/qemu/edk2-aarch64-code.fd", "/usr/share/qemu/edk2-arm-vars.fd"),
];

impl Firmware {
    /// The firmware that the options ask for on a board.
    ///
    /// # Errors
    /// When the options contradict each other, the file is missing, or the distribution's UEFI is not installed.
    pub fn resolve(options: &Options, board: Arch) -> Result<Self> {
        let named = options.qemu_bios.as_deref().filter(|p| !p.as_os_str().is_empty());
        let kind = options.qemu_firmware.unwrap_or(match board {
            Arch::Amd64 => Kind::Bios,
            Arch::Arm64 => Kind::Uefi,
        });
        match (kind, named) {
            (Kind::Uefi, Some(file)) if options.qemu_firmware.is_some() && file != Path::new(SEABIOS) => {
                Err(Error::new(format!("either UEFI or the firmware {}, not both", file.display())))
            }
            (_, Some(file)) if options.qemu_firmware != Some(Kind::Uefi) => rom(file),
            (Kind::Bios, _) if board == Arch::Amd64 => rom(Path::new(SEABIOS)),
            (Kind::Bios, _) => Err(Error::new("there is no BIOS for arm64, only UEFI")),
            (Kind::Uefi, _) => uefi(board),
        }
    }
}

fn rom(file: &Path) -> Result<Firmware> {
    // QEMU itself prefers a file of that name over its data folder; but it will run in another folder than we do.
    if file.is_file() {
        let full = file.canonicalize().during(|| format!("cannot use firmware {}", file.display()))?;
        return Ok(Firmware::Rom(full));
    }
    if file.components().count() > 1 {
        return Err(Error::new(format!("there is no firmware file {}", file.display())));
    }
    Ok(Firmware::Rom(file.to_owned()))
}

fn uefi(board: Arch) -> Result<Firmware> {
    let (places, package): (&[_], _) = match board {
        Arch::Amd64 => (&AMD64, "ovmf"),
        Arch::Arm64 => (&ARM64, "qemu-efi-aarch64"),
    };
    let found = places.iter().find(|(code, vars)| Path::new(code).is_file() && Path::new(vars).is_file());
    match found {
        Some((code, vars)) => Ok(Firmware::Flash { code: code.into(), vars: vars.into() }),
        None => {
            Err(Error::new(format!("UEFI firmware is not installed; on Debian it is the package {package}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(bios: Option<&str>, kind: Option<Kind>, board: Arch) -> Result<Firmware> {
        let options = Options { qemu_bios: bios.map(Into::into), qemu_firmware: kind, ..Options::default() };
        Firmware::resolve(&options, board)
    }

    #[test]
    fn plain_names_are_left_to_qemu() {
        let seabios = Firmware::Rom(SEABIOS.into());
        assert_eq!(resolve(None, None, Arch::Amd64).unwrap(), seabios);
        assert_eq!(resolve(Some(""), Some(Kind::Bios), Arch::Amd64).unwrap(), seabios);
        assert_eq!(resolve(Some("x.bin"), None, Arch::Arm64).unwrap(), Firmware::Rom("x.bin".into()));
    }

    #[test]
    fn files_become_absolute_and_must_exist() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("fw.fd");
        std::fs::write(&file, "x").unwrap();
        let file = file.canonicalize().unwrap();
        assert_eq!(resolve(file.to_str(), None, Arch::Amd64).unwrap(), Firmware::Rom(file));
        let e = resolve(Some("/no/such.fd"), None, Arch::Amd64).unwrap_err();
        assert_eq!(e.to_string(), "there is no firmware file /no/such.fd");
    }

    #[test]
    fn contradictions_are_named() {
        let e = resolve(Some("my.fd"), Some(Kind::Uefi), Arch::Amd64).unwrap_err();
        assert_eq!(e.to_string(), "either UEFI or the firmware my.fd, not both");
        assert!(resolve(None, Some(Kind::Bios), Arch::Arm64).is_err());
    }
}
