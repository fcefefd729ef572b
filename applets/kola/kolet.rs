//! Getting kolet onto guests: this very binary under another name, sent once per machine.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use color_eyre::Section as _;
use color_eyre::eyre::{Result, WrapErr as _, eyre};
use mantle::platform::guest::Guest;
use tokio::sync::OnceCell;

/// The binary, compressed; made once per process.
static PACKED: OnceCell<Vec<u8>> = OnceCell::const_new();

/// Puts kolet on the machine as `~/kolet`, once.
///
/// # Errors
/// When there is no kolet for the architecture, or sending it fails.
pub async fn install(machine: &Guest, architecture: &str, label: bool) -> Result<()> {
    machine.prepared().get_or_try_init(async || send(machine, architecture, label).await).await.map(|&()| ())
}

async fn send(machine: &Guest, architecture: &str, label: bool) -> Result<()> {
    let packed = PACKED
        .get_or_try_init(async || {
            let path = locate(architecture)?;
            tokio::task::spawn_blocking(move || pack(&path)).await?
        })
        .await?;
    let size = packed.len();
    let label = if label { " && chcon -t bin_t kolet.partial" } else { "" };
    // Complete before it bears its name, and in one round trip.
    let command = format!(
        "gzip -dc >kolet.partial && \
         sudo sh -c 'chown root:root kolet.partial && chmod 0755 kolet.partial{label} && mv kolet.partial kolet'"
    );
    machine
        .client()
        .run_with_input(&command, packed.clone())
        .await
        .wrap_err_with(|| format!("sending {size} bytes of kolet"))?;
    Ok(())
}

fn pack(path: &Path) -> Result<Vec<u8>> {
    let mut raw = Vec::new();
    std::fs::File::open(path)
        .and_then(|mut f| f.read_to_end(&mut raw))
        .wrap_err_with(|| format!("cannot read {}", path.display()))?;
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    packer.write_all(&raw)?;
    Ok(packer.finish()?)
}

/// The kolet for an architecture: this binary if it is static and fits, else where upstream looked.
///
/// # Errors
/// When there is none.
pub fn locate(architecture: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().wrap_err("cannot find this program's own file")?;
    if architecture == mantle::sdk::host_architecture() && is_static(&own) {
        return Ok(own);
    }
    let dir = own.parent().map(Path::to_path_buf).unwrap_or_default();
    let places = [
        PathBuf::from("./kolet"),
        dir.join("kolet"),
        dir.join(architecture).join("kolet"),
        Path::new("/usr/lib/kola").join(architecture).join("kolet"),
    ];
    places.iter().find(|p| p.is_file() && is_static(p)).cloned().ok_or_else(|| {
        eyre!("Unable to locate kolet binary for {architecture}")
            .note("a guest's C library is older than the builder's: only a statically linked mantle can go there")
            .suggestion("use the release build (`make release`), or put a static mantle beside this one as `kolet`")
    })
}

/// Whether an ELF file asks for no dynamic loader: no program header of type PT_INTERP (elf(5)).
fn is_static(path: &Path) -> bool {
    let mut head = vec![0; 64 * 1024];
    let Ok(n) = std::fs::File::open(path).and_then(|mut f| f.read(&mut head)) else { return false };
    let head = &head[..n];
    let u16_at = |at: usize| head.get(at..at + 2).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]])));
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return false;
    }
    let (Some(Ok(table)), Some(size), Some(count)) = (
        head.get(32..40).map(|b| usize::try_from(b.iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b)))),
        u16_at(54),
        u16_at(56),
    ) else {
        return false;
    };
    let interpreter =
        |i| head.get(table.saturating_add(i * size)..).is_some_and(|h| h.starts_with(&[3, 0, 0, 0]));
    !(0..count).any(interpreter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_files_are_told_from_dynamic_ones() {
        assert!(!is_static(Path::new("/bin/sh")));
        assert!(!is_static(Path::new("/etc/passwd")));
        assert!(!is_static(Path::new("/nonexistent")));
        let mut elf = vec![0u8; 64 + 2 * 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = 2;
        elf[64] = 1;
        elf[64 + 56] = 6;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &elf).unwrap();
        assert!(is_static(file.path()));
        elf[64 + 56] = 3;
        std::fs::write(file.path(), &elf).unwrap();
        assert!(!is_static(file.path()));
    }
}
