//! What no output may take the place of.

use std::path::{Path, PathBuf};

/// Makes what can be made in a folder, and says what links for a test may lead to: standard output, a device, nothing,
/// a FIFO, a folder. Tests make links of their own: the real `/dev/stdout` is never touched, which root would destroy
/// if something went wrong.
pub fn make(folder: &Path) -> Vec<PathBuf> {
    let (fifo, below) = (folder.join("fifo"), folder.join("below"));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::create_dir(&below).unwrap();
    vec!["/proc/self/fd/1".into(), "/dev/null".into(), folder.join("nowhere"), fifo, below]
}
