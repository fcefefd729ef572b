//! `cork setup`: how the machine runs programs for arm64, as builds for it do.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use ::mantle::error::{Result, Section as _, WrapErr as _};
use ::mantle::{info, notice};

/// Read by systemd-binfmt.service; binfmt.d(5).
const FILE: &str = "/etc/binfmt.d/qemu-aarch64.conf";
/// Programs for 64-bit Arm by the first bytes of their ELF header, and what runs them.
const CONTENT: &str = r":qemu-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff:/usr/bin/qemu-aarch64-static:";

/// Writes the file, unless there is one.
pub fn run() -> Result<()> {
    let path = Path::new(FILE);
    let file = (|| {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        OpenOptions::new().write(true).create_new(true).open(path)
    })();
    let mut file = match file {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            info!("cork", "{FILE} is there already");
            return Ok(());
        }
        file => file
            .wrap_err_with(|| format!("cannot write {FILE}"))
            .suggestion("run it as root: sudo cork setup")?,
    };
    let written = file.write_all(CONTENT.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a rule would be taken for one.
        let _ = std::fs::remove_file(path);
    }
    written.wrap_err_with(|| format!("cannot write {FILE}"))?;
    notice!("cork", "wrote {FILE}; systemctl restart systemd-binfmt makes it count");
    Ok(())
}
