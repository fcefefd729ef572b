//! Disk images: what they are, views of them that can be written, and the serial console of Container Linux.
//!
//! All temporary disks are files without a name: nothing is left of them, however a process ends. QEMU and qemu-img
//! get them as open descriptors.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::input;
use crate::platform::{Disk, Error, Result, ResultExt};
use crate::process::Command;
use crate::target::{Fresh, Target};

/// The descriptor under which QEMU and qemu-img find the copy of a base image.
pub const BASE_FD: RawFd = 100;
/// The descriptor under which qemu-img finds the file it is to fill.
const NEW_FD: RawFd = 101;
/// Longest time for qemu-img's small jobs.
const QUICK: Duration = Duration::from_secs(60);
/// Longest time for copying an image.
const COPY: Duration = Duration::from_secs(1800);
/// Number of Container Linux' OEM partition, which holds `grub.cfg`.
const OEM: usize = 6;

/// An image below the disks of machines.
#[derive(Debug)]
pub struct Base {
    /// Where it was found, free of links, so that a moving `latest` does not matter.
    pub path: PathBuf,
    /// As qemu-img names it.
    pub format: String,
    /// The changed copy to use instead, which has no name.
    copy: Option<File>,
}

#[derive(Deserialize)]
struct Info {
    format: String,
    #[serde(rename = "virtual-size")]
    virtual_size: u64,
}

/// Refuses what can be seen to be no image without opening it as one.
///
/// # Errors
/// What is wrong with the file.
pub fn check(path: &Path) -> Result<()> {
    let shown = path.display();
    if path.is_dir() {
        return Err(Error::new(format!("{shown} is a folder, not an image")));
    }
    let mut file = input::open_disk(path).during(|| format!("cannot open image {shown}"))?;
    let mut magic = [0; 6];
    let read = file.read(&mut magic).during(|| format!("cannot read image {shown}"))?;
    if read == 0 {
        return Err(Error::new(format!("image {shown} is empty")));
    }
    let packers: [(&[u8], &str); 4] = [
        (b"BZh", "bunzip2"),
        (&[0x1f, 0x8b], "gunzip"),
        (b"\xfd7zXZ\0", "unxz"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "unzstd"),
    ];
    match packers.iter().find(|(start, _)| magic.starts_with(start)) {
        Some((_, tool)) => Err(Error::new(format!("{shown} is compressed: unpack it with {tool} first"))),
        None => Ok(()),
    }
}

/// Refuses a text as primary disk, such as the error page of a download: QEMU would take it for a raw image.
///
/// # Errors
/// When the first sector is text.
pub fn check_primary(path: &Path) -> Result<()> {
    let mut start = Vec::new();
    let file = input::open_disk(path).during(|| format!("cannot open image {}", path.display()))?;
    file.take(512).read_to_end(&mut start).during(|| format!("cannot read image {}", path.display()))?;
    let text = start.iter().all(|&b| b >= b' ' || b"\t\r\n\x0c".contains(&b));
    // VMDK has text descriptors.
    if text && std::str::from_utf8(&start).is_ok() && !start.starts_with(b"# Disk DescriptorFile") {
        return Err(Error::new(format!("{} is a text, not an image", path.display())));
    }
    Ok(())
}

impl Base {
    /// Finds out what an image is.
    ///
    /// # Errors
    /// When it is missing, unreadable or no image.
    pub async fn open(path: &Path) -> Result<Self> {
        check(path)?;
        let path = path.canonicalize().during(|| format!("cannot find image {}", path.display()))?;
        let command = Command::new("qemu-img").args(["info", "--force-share", "--output=json"]).arg(&path);
        let output = command.output(QUICK).await.during(|| format!("cannot use image {}", path.display()))?;
        let info: Info = serde_json::from_slice(&output.stdout)
            .during(|| format!("qemu-img does not tell what {} is", path.display()))?;
        if info.virtual_size < 512 {
            return Err(Error::new(format!("{} is not an image: too short", path.display())));
        }
        Ok(Self { path, format: info.format, copy: None })
    }

    /// Whether machines get a changed copy.
    pub fn is_mangled(&self) -> bool {
        self.copy.is_some()
    }

    /// Takes a copy of a raw Container Linux image whose boot loader makes the serial port the main console:
    /// without it, errors of the initramfs never reach `console.txt`. The copy goes when this value does.
    ///
    /// # Errors
    /// When copying or mounting fails, or the image has no OEM partition.
    pub async fn mangle(&mut self) -> Result<()> {
        if self.format != "raw" {
            crate::debug!("qemu", "{} is {}, not raw: left as it is", self.path.display(), self.format);
            return Ok(());
        }
        let during = || format!("cannot make the serial port the console of {}", self.path.display());
        let copy =
            tempfile::tempfile_in("/var/tmp").during(|| "cannot make a file in /var/tmp").during(during)?;
        copy_image(&self.path, &copy).await.during(during)?;
        add_serial_console(&copy).await.during(during)?;
        self.copy = Some(copy);
        Ok(())
    }

    /// The descriptor of the copy, for the child that opens disks made by [`Base::overlay`].
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub fn copy(&self) -> Result<Option<File>> {
        self.copy.as_ref().map(File::try_clone).transpose().during(|| "cannot duplicate a descriptor")
    }

    /// A disk that starts with the image's content.
    ///
    /// # Errors
    /// When the temporary folder is full or cannot be written.
    pub async fn overlay(&self) -> Result<File> {
        let path = match self.copy {
            Some(_) => format!("/proc/self/fd/{BASE_FD}").into(),
            None => self.path.clone(),
        };
        let words = ["-o", "lazy_refcounts=on", "-F", self.format.as_str(), "-b"].map(Into::into);
        create(words.into_iter().chain([path.into_os_string()]).collect(), None, self.copy()?).await
    }
}

/// Makes an additional disk; also returns the options of its device.
///
/// # Errors
/// When the size makes no sense, the file below is no image, or the temporary folder is full.
pub async fn disk(wish: &Disk) -> Result<(File, Vec<String>)> {
    match wish {
        Disk::Empty { size, device } => {
            let digits = size.trim_end_matches(['k', 'K', 'M', 'G', 'T']);
            let sane = size.len() - digits.len() <= 1 && digits.parse::<u64>().is_ok_and(|n| n > 0);
            if !sane {
                let text = format!("invalid disk size {size:?}: use a number with suffix K, M, G or T");
                return Err(Error::new(text));
            }
            Ok((create(Vec::new(), Some(size), None).await?, device.clone()))
        }
        Disk::Backed { file, device } => Ok((Base::open(file).await?.overlay().await?, device.clone())),
    }
}

/// A file without a name in the temporary folder.
///
/// # Errors
/// When the folder cannot be written.
pub fn unnamed() -> Result<File> {
    let dir = std::env::temp_dir();
    tempfile::tempfile_in(&dir).during(|| format!("cannot make a file in {}", dir.display()))
}

/// A disk with the content of another one, which nobody writes to any more.
///
/// # Errors
/// When the temporary folder is full or cannot be written.
pub async fn copy_of(disk: &File) -> Result<File> {
    let copy = unnamed()?;
    copy_image(Path::new(&format!("/proc/{}/fd/{}", std::process::id(), disk.as_raw_fd())), &copy).await?;
    Ok(copy)
}

/// Makes a qcow2 file without a name in the temporary folder.
async fn create(options: Vec<std::ffi::OsString>, size: Option<&str>, base: Option<File>) -> Result<File> {
    let dir = std::env::temp_dir();
    let during = || format!("cannot make a disk in {}", dir.display());
    let file = tempfile::tempfile_in(&dir).during(during)?;
    let mut command = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .args(options)
        .arg(format!("/proc/self/fd/{NEW_FD}"))
        .args(size)
        .pass_fd(file.try_clone().during(during)?.into(), NEW_FD);
    if let Some(base) = base {
        command = command.pass_fd(base.into(), BASE_FD);
    }
    command.output(QUICK).await.during(during)?;
    Ok(file)
}

/// A file of its own with an image's data: shared with it where the file system can, with its holes otherwise.
async fn copy_image(from: &Path, to: &File) -> Result<()> {
    let during = || format!("cannot copy {}", from.display());
    let command = Command::new("cp")
        .args(["--sparse=always", "--reflink=auto", "--"])
        .arg(from)
        .arg(format!("/proc/self/fd/{NEW_FD}"))
        .pass_fd(to.try_clone().during(during)?.into(), NEW_FD);
    command.output(COPY).await.during(during)?;
    Ok(())
}

/// Copies a raw Container Linux image and adds the serial console line to its boot loader (`kola mkimage`).
///
/// # Errors
/// As [`Base::mangle`]; what `output` was before is left alone then.
pub async fn specialize(input: &Path, output: &Path) -> Result<()> {
    let during = || format!("cannot write {}", output.display());
    let target = Target::of(output).map_err(std::io::Error::other).during(during)?;
    let base = Base::open(input).await?;
    if base.format != "raw" {
        return Err(Error::new(format!(
            "{} is {}, only raw images can be changed",
            input.display(),
            base.format
        )));
    }
    let new = Fresh::new(target, 0o644).during(during)?;
    copy_image(&base.path, new.file()).await?;
    add_serial_console(new.file()).await?;
    let done = tokio::task::spawn_blocking(move || new.commit()).await;
    done.map_err(std::io::Error::other).and_then(|done| done).during(during)
}

/// Arguments: offset, length, image, mount point. In a mount namespace of its own, so that the mount and its loop
/// device vanish with the shell however that ends. The image may be hostile: no link is followed.
const ADD_LINE: &str = r#"
set -e
umask 022
mount -o "loop,nosuid,nodev,noexec,offset=$1,sizelimit=$2" "$3" "$4"
file=$4/grub.cfg
line='set linux_console="console=ttyS0,115200"'
if [ -L "$file" ] || { [ -e "$file" ] && [ ! -f "$file" ]; }; then
    echo "grub.cfg on the OEM partition is not a file" >&2
    exit 1
fi
if ! grep -qsxF "$line" "$file"; then
    [ ! -s "$file" ] || [ -z "$(tail -c 1 "$file")" ] || echo >>"$file"
    printf '%s\n' "$line" >>"$file"
fi
umount "$4"
"#;

async fn add_serial_console(image: &File) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::new("mounting the OEM partition takes root"));
    }
    let (offset, length) = partition(image, OEM)?;
    let dir = tempfile::Builder::new()
        .prefix("kola-qemu-")
        .tempdir()
        .during(|| "cannot make a folder to mount on")?;
    let _alone = lock().await?;
    let command = Command::new("unshare")
        .args(["--mount", "--", "sh", "-c", ADD_LINE, "sh"])
        .args([offset.to_string(), length.to_string(), format!("/proc/self/fd/{NEW_FD}")])
        .arg(dir.path())
        .pass_fd(image.try_clone().during(|| "cannot duplicate a descriptor")?.into(), NEW_FD);
    command.output(QUICK).await.during(|| "cannot change grub.cfg on the OEM partition")?;
    Ok(())
}

/// Makes sure that one process at a time mounts an OEM partition: they all bear one UUID, and btrfs (Flatcar) refuses
/// to mount a second file system of the same.
async fn lock() -> Result<nix::fcntl::Flock<File>> {
    use nix::fcntl::{Flock, FlockArg};
    const PATH: &str = "/run/mantle-oem.lock";
    let mut file =
        File::options().create(true).append(true).open(PATH).during(|| format!("cannot open {PATH}"))?;
    let deadline = tokio::time::Instant::now() + QUICK;
    let mut pause = Duration::from_millis(50);
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, e)) if tokio::time::Instant::now() > deadline => {
                return Err(e).during(|| format!("cannot lock {PATH}"));
            }
            Err((same, _)) => file = same,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// Offset and length in bytes of a GPT partition (UEFI specification, chapter 5), with sectors of 512 bytes.
fn partition(image: &File, number: usize) -> Result<(u64, u64)> {
    const SECTOR: u64 = 512;
    let missing =
        || Error::new(format!("the image has no partition {number}; is it a Container Linux disk image?"));
    let read = |buffer: &mut [u8], at| image.read_exact_at(buffer, at).map_err(|_| missing());
    let mut header = [0; 92];
    read(&mut header, SECTOR)?;
    let long = |bytes: &[u8], at: usize| {
        u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of 8 bytes is 8 bytes long"))
    };
    // At 80: number of entries and size of each, both of 32 bits.
    let (count, size) = (long(&header, 80) & 0xffff_ffff, long(&header, 80) >> 32);
    if !header.starts_with(b"EFI PART") || number as u64 > count || !(128..=4096).contains(&size) {
        return Err(missing());
    }
    let entries = long(&header, 72).checked_mul(SECTOR).ok_or_else(missing)?;
    let at = entries.checked_add((number as u64 - 1) * size).ok_or_else(missing)?;
    let mut entry = [0; 48];
    read(&mut entry, at)?;
    let (first, last) = (long(&entry, 32), long(&entry, 40));
    let sectors = last.checked_sub(first).and_then(|n| n.checked_add(1)).ok_or_else(missing)?;
    let end = image.metadata().map_err(|_| missing())?.len();
    match (first.checked_mul(SECTOR), sectors.checked_mul(SECTOR)) {
        (Some(offset), Some(length)) if first > 0 && offset.checked_add(length).is_some_and(|e| e <= end) => {
            Ok((offset, length))
        }
        _ => Err(missing()),
    }
}

/// A machine's own copy of a small file, without a name.
///
/// # Errors
/// When the file cannot be read or the copy not be written.
pub fn private_copy(of: &Path) -> Result<File> {
    let data = input::read(of).during(|| format!("cannot read {}", of.display()))?;
    let mut copy = tempfile::tempfile().during(|| "cannot make a temporary file")?;
    copy.write_all(&data).during(|| "cannot write a temporary file")?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::find_program;

    fn has(programs: &[&str]) -> bool {
        let missing = programs.iter().find(|p| find_program(p).is_none());
        missing.iter().for_each(|p| crate::warning!("test", "skipped: no {p}"));
        missing.is_none()
    }

    async fn sh(script: &str, dir: &Path) -> String {
        let out = Command::new("sh").args(["-ec", script]).current_dir(dir).output(QUICK).await.unwrap();
        String::from_utf8(out.stdout).unwrap()
    }

    /// qemu-img's view of an unnamed disk.
    async fn info(file: &File) -> serde_json::Value {
        let command = Command::new("qemu-img").args(["info", "--output=json", "/proc/self/fd/9"]);
        let out = command.pass_fd(file.try_clone().unwrap().into(), 9).output(QUICK).await.unwrap();
        serde_json::from_slice(&out.stdout).unwrap()
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = |content: &[u8]| {
            let path = dir.path().join("f");
            std::fs::write(&path, content).unwrap();
            check(&path).unwrap_err().to_string()
        };
        assert!(file(b"BZh91AY").ends_with("is compressed: unpack it with bunzip2 first"));
        assert!(file(b"").ends_with("is empty"));
        std::fs::write(dir.path().join("f"), "<html>\n<title>404 Not Found</title>\n").unwrap();
        assert!(check(&dir.path().join("f")).is_ok());
        let e = check_primary(&dir.path().join("f")).unwrap_err();
        assert!(e.to_string().ends_with("is a text, not an image"), "{e}");
        std::fs::write(dir.path().join("f"), [0; 512]).unwrap();
        check_primary(&dir.path().join("f")).unwrap();
        let e = check(dir.path()).unwrap_err();
        assert!(e.to_string().ends_with("is a folder, not an image"), "{e}");
        let e = check(Path::new("/no/such.img")).unwrap_err();
        assert_eq!(e.to_string(), "cannot open image /no/such.img");
    }

    #[tokio::test]
    async fn overlays_name_the_real_file_and_its_format() {
        if !has(&["qemu-img"]) {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        sh(
            "truncate -s 3M v1,x.img; ln -s v1,x.img latest; qemu-img create -q -f qcow2 q.img 5M",
            dir.path(),
        )
        .await;
        let overlay = Base::open(&dir.path().join("latest")).await.unwrap().overlay().await.unwrap();
        let told = info(&overlay).await;
        let real = dir.path().canonicalize().unwrap().join("v1,x.img");
        assert_eq!(told["virtual-size"], 3 << 20);
        assert_eq!(told["backing-filename"], real.to_str().unwrap());
        assert_eq!(told["backing-filename-format"], "raw");
        let wish = Disk::Backed { file: dir.path().join("q.img"), device: vec!["serial=b".into()] };
        let (file, device) = disk(&wish).await.unwrap();
        assert_eq!(
            (&info(&file).await["backing-filename-format"], device),
            (&"qcow2".into(), vec!["serial=b".to_owned()])
        );
    }

    #[tokio::test]
    async fn empty_disks_have_sane_sizes() {
        let empty = |size: &str| Disk::Empty { size: size.into(), device: vec![] };
        for size in ["", "M", "-1G", "1KK", "0", "1G -o x", "1.5G", "99999999999999999999"] {
            let e = disk(&empty(size)).await.unwrap_err();
            assert!(e.to_string().starts_with("invalid disk size"), "{e}");
        }
        if has(&["qemu-img"]) {
            let (file, _) = disk(&empty("2G")).await.unwrap();
            assert_eq!(info(&file).await["virtual-size"], 2u64 << 30);
        }
    }

    #[test]
    fn partition_tables_may_be_hostile() {
        let mut image = tempfile::tempfile().unwrap();
        assert!(partition(&image, 6).is_err());
        let mut disk = vec![0; 64 << 10];
        disk[512..520].copy_from_slice(b"EFI PART");
        disk[512 + 72..][..8].copy_from_slice(&2u64.to_le_bytes());
        disk[512 + 80..][..4].copy_from_slice(&128u32.to_le_bytes());
        disk[512 + 84..][..4].copy_from_slice(&128u32.to_le_bytes());
        let entry = 1024 + 5 * 128;
        for (first, last, good) in
            [(40u64, 79u64, true), (40, u64::MAX, false), (80, 40, false), (0, 0, false), (40, 400, false)]
        {
            disk[entry + 32..][..8].copy_from_slice(&first.to_le_bytes());
            disk[entry + 40..][..8].copy_from_slice(&last.to_le_bytes());
            std::io::Seek::rewind(&mut image).unwrap();
            image.write_all(&disk).unwrap();
            assert_eq!(partition(&image, 6).ok(), good.then_some((40 * 512, 40 * 512)), "{first} {last}");
        }
        assert!(partition(&image, 129).is_err());
    }

    /// A disk like Container Linux': partition 6 is an ext4 file system with the given `grub.cfg`.
    async fn container_linux(dir: &Path, grub: &str) -> PathBuf {
        std::fs::create_dir(dir.join("oem")).unwrap();
        sh(grub, &dir.join("oem")).await;
        sh(
            "truncate -s 40M disk.img; sgdisk -n 6:4096:+16M disk.img >/dev/null
             truncate -s 16M oem.img; mke2fs -q -t ext4 -d oem oem.img
             dd if=oem.img of=disk.img bs=512 seek=4096 conv=notrunc status=none",
            dir,
        )
        .await;
        dir.join("disk.img")
    }

    const PROGRAMS: [&str; 5] = ["qemu-img", "sgdisk", "mke2fs", "debugfs", "unshare"];

    async fn grub_of(image: &File, dir: &Path) -> String {
        let command = Command::new("sh").args(["-ec", "dd if=/proc/self/fd/9 of=part bs=512 skip=4096 count=32768 status=none; debugfs -R 'cat /grub.cfg' part 2>/dev/null"]);
        let out = command
            .current_dir(dir)
            .pass_fd(image.try_clone().unwrap().into(), 9)
            .output(QUICK)
            .await
            .unwrap();
        String::from_utf8(out.stdout).unwrap()
    }

    #[tokio::test]
    async fn serial_console_is_added_to_a_copy() {
        if !has(&PROGRAMS) || !nix::unistd::geteuid().is_root() {
            crate::warning!("test", "skipped: needs root and {PROGRAMS:?}");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let disk = container_linux(dir.path(), "printf 'set a=b' > grub.cfg").await;
        let before = std::fs::read(&disk).unwrap();
        let mut base = Base::open(&disk).await.unwrap();
        base.mangle().await.unwrap();
        assert!(base.is_mangled());
        let text = grub_of(base.copy.as_ref().unwrap(), dir.path()).await;
        assert_eq!(text, "set a=b\nset linux_console=\"console=ttyS0,115200\"\n");
        assert!(std::fs::read(&disk).unwrap() == before, "the image itself must stay as it is");
        let overlay = base.overlay().await.unwrap();
        let command =
            Command::new("qemu-img").args(["compare", "-F", "raw", "/proc/self/fd/9", "/proc/self/fd/100"]);
        let command =
            command.pass_fd(overlay.into(), 9).pass_fd(base.copy().unwrap().unwrap().into(), BASE_FD);
        command.output(QUICK).await.unwrap();

        let out = dir.path().join("out.img");
        specialize(&disk, &out).await.unwrap();
        assert_eq!(grub_of(&File::open(&out).unwrap(), dir.path()).await, text);
        specialize(&out, &out).await.unwrap();
        assert_eq!(grub_of(&File::open(&out).unwrap(), dir.path()).await, text, "twice is once");
    }

    #[tokio::test]
    async fn hostile_and_foreign_images_are_refused() {
        if !has(&PROGRAMS) || !nix::unistd::geteuid().is_root() {
            crate::warning!("test", "skipped: needs root and {PROGRAMS:?}");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("host-file");
        let disk = container_linux(dir.path(), &format!("ln -s {} grub.cfg", target.display())).await;
        let out = dir.path().join("out.img");
        specialize(&disk, &out).await.unwrap_err();
        assert!(!target.exists() && !out.exists());
        std::fs::write(dir.path().join("text"), vec![b'x'; 4096]).unwrap();
        let e = specialize(&dir.path().join("text"), &out).await.unwrap_err();
        assert!(e.to_string().contains("no partition 6"), "{e}");
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.iter().all(|n| !n.to_string_lossy().starts_with(".mantle")), "{left:?}");
    }
}
