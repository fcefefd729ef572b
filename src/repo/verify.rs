//! Whether a tree is what a manifest says.

use std::path::Path;

use futures_util::stream::{self, StreamExt as _};
use tokio_util::sync::CancellationToken;

use super::git::Git;
use super::manifests::url_of;
use super::names::is_commit;
use super::sync::tracking;
use super::{Error, LOG, Project, Tree, Which, state};
use crate::{error, info};

/// How many changes of a project are named.
const NAMED: usize = 5;

/// Checks that every project of a manifest is there, at the commit that the manifest says, and unchanged: no changes,
/// whether staged or not, and no files that git does not know. A branch, tag, or pull request is what was fetched last.
///
/// # Errors
/// [`Error::Unverified`] when something differs, which the log names; or what cannot be read.
pub async fn verify(root: &Path, which: Which<'_>, cancel: &CancellationToken) -> Result<(), Error> {
    let url = url_of(root, cancel).await?;
    let git = Git::new(&url, cancel)?;
    let mut tree = Tree::load(root, which, &url)?;
    let state = state::read(root)?;
    if !state.groups.is_empty() {
        tree.choose(&state.groups);
    }
    let tree = &tree;
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // In the order of the manifest.
    let mut checked = stream::iter(&tree.projects).map(|p| check(root, &git, tree, p)).buffered(jobs);
    let mut good = true;
    while let Some(complaints) = checked.next().await {
        for complaint in complaints? {
            error!(LOG, "{complaint}");
            good = false;
        }
    }
    if good {
        info!(LOG, "{} projects are as the manifest says", tree.projects.len());
        Ok(())
    } else {
        Err(Error::Unverified)
    }
}

/// What is wrong with a project.
async fn check(root: &Path, git: &Git, tree: &Tree, project: &Project) -> Result<Vec<String>, Error> {
    let path = &project.path;
    let dir = root.join(path);
    if !dir.join(".git").exists() {
        // What is only for those who ask for it need not be there.
        return Ok(match project.groups.contains("default") {
            true => vec![format!("Project dir {path} is not there")],
            false => Vec::new(),
        });
    }
    let repository = git.at(&dir);
    let mut complaints = Vec::new();
    let head = repository.commit("HEAD").await?;
    let revision = &project.revision;
    let expected = if is_commit(revision) {
        Some(revision.clone())
    } else {
        repository.commit(&tracking(revision, &project.remote)).await?
    };
    match (&head, &expected) {
        (Some(head), Some(expected)) if head == expected => {}
        (_, None) => complaints.push(format!("Project dir {path} has no {revision}: it was never fetched")),
        (head, Some(expected)) => {
            let head = head.as_deref().unwrap_or("no commit");
            complaints.push(format!("Project dir {path} at {head}, expected {expected}"));
        }
    }
    let status = repository
        .run(&[
            "status",
            "--porcelain=v1",
            "-z",
            "--untracked-files=all",
            "--ignore-submodules=none",
            "--no-renames",
        ])
        .await?;
    let changes = changes(&status, &foreign(tree, project));
    if !changes.is_empty() {
        let more = changes.len().saturating_sub(NAMED);
        let named = changes.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        complaints.push(format!("Project dir {path} is not clean, git status says: {named}{more}"));
    }
    Ok(complaints)
}

/// What the manifest itself puts into a project's folder: other projects, copies and links; relative to it.
fn foreign<'a>(tree: &'a Tree, project: &Project) -> Vec<&'a str> {
    let inside = |path: &'a str| path.strip_prefix(project.path.as_str())?.strip_prefix('/');
    let projects = tree.projects.iter().map(|p| p.path.as_str());
    let files = tree.projects.iter().flat_map(|p| p.files.iter().map(|file| file.to.as_str()));
    projects.chain(files).filter_map(inside).collect()
}

/// The lines of `git status` but for what the manifest put there.
fn changes(status: &[u8], foreign: &[&str]) -> Vec<String> {
    let text = String::from_utf8_lossy(status);
    let is_foreign = |line: &str| {
        let untracked = line.strip_prefix("?? ").map(|path| path.trim_end_matches('/'));
        untracked.is_some_and(|path| {
            foreign
                .iter()
                .any(|f| path.strip_prefix(f).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
        })
    };
    let clean = |line: &str| line.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    text.split('\0').filter(|line| !line.is_empty() && !is_foreign(line)).map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_manifest_put_there_is_no_change() {
        let status = b" M a\0?? b/\0?? b2\0?? c/d\0?? link\0A  b\0?? odd\nname\0";
        assert_eq!(changes(status, &["b", "c", "link"]), [" M a", "?? b2", "A  b", "?? odd?name"]);
    }
}
