//! Control groups (cgroups(7)) for containers whose systemd wants a tree of its own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Makes a group of this name below the present one in each hierarchy that systemd uses: cgroup v2 and, on older
/// hosts, v1's `name=systemd`. Returns their folders; none where no such hierarchy is mounted.
///
/// # Errors
/// When a group cannot be made; nothing is left then.
pub fn create(name: &str) -> io::Result<Vec<PathBuf>> {
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mut made: Vec<PathBuf> = Vec::new();
    for base in bases(&own, &mounts) {
        let dir = base.join(name);
        if let Err(e) = fs::create_dir(&dir) {
            made.iter().for_each(|d| drop(fs::remove_dir(d)));
            return Err(io::Error::new(e.kind(), format!("{}: {e}", dir.display())));
        }
        made.push(dir);
    }
    Ok(made)
}

/// The folders of the present process's groups in systemd's hierarchies.
fn bases(own: &str, mounts: &str) -> Vec<PathBuf> {
    let mounted = |matches: &dyn Fn(&str, &str) -> bool| {
        mounts.lines().find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let mut right = right.split(' ');
            let (kind, options) = (right.next()?, right.nth(1)?);
            let mut left = left.split(' ').skip(3);
            let (root, point) = (left.next()?, left.next()?);
            (root == "/" && matches(kind, options)).then(|| PathBuf::from(point))
        })
    };
    let group = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let point = match (number, controllers) {
            ("0", "") => mounted(&|kind, _| kind == "cgroup2")?,
            (_, "name=systemd") => {
                mounted(&|kind, options| kind == "cgroup" && options.split(',').any(|o| o == "name=systemd"))?
            }
            _ => return None,
        };
        Some(point.join(path.trim_start_matches('/')))
    };
    own.lines().filter_map(group).filter(|p| p.is_dir()).collect()
}

/// Removes a group with all groups below it, once its processes are gone; waits for the last of them a moment.
///
/// # Errors
/// When processes stay in it.
pub async fn remove(dir: &Path) -> io::Result<()> {
    let mut pause = Duration::from_millis(2);
    loop {
        match remove_now(dir) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && pause < Duration::from_secs(2) => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            other => return other,
        }
    }
}

/// Removes a group with all groups below it.
///
/// # Errors
/// When there are processes in it. A group that is not there is no error.
pub fn remove_now(dir: &Path) -> io::Result<()> {
    match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
        Ok(entries) => {
            for entry in entries.filter_map(Result::ok).filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
                remove_now(&entry.path())?;
            }
        }
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_where_they_are_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let (v1, v2) = (dir.path().join("systemd"), dir.path().join("unified"));
        fs::create_dir_all(v1.join("a/b")).unwrap();
        fs::create_dir_all(&v2).unwrap();
        let mounts = format!(
            "30 23 0:26 / {} rw,relatime - cgroup cgroup rw,name=systemd\n\
             31 23 0:27 / {} rw - cgroup2 cgroup2 rw,nsdelegate\n\
             32 23 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n",
            v1.display(),
            v2.display()
        );
        assert_eq!(bases("9:name=systemd:/a/b\n4:cpu:/\n0::/\n", &mounts), [v1.join("a/b"), v2.clone()]);
        assert_eq!(bases("9:name=systemd:/gone\n", &mounts), Vec::<PathBuf>::new());
    }
}
