//! The built-in sync: every project fetched and checked out, several at a time.
//!
//! What is done once stays done: a sync that was interrupted or killed goes on where it was. Uncommitted changes stay;
//! where they would be lost the project is left as it is and the sync fails. With [`Options::force`] they give way, and
//! what was there is kept as a commit below `refs/mantle/rescue/`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::stream::{self, StreamExt as _};
use tokio_util::sync::CancellationToken;

use super::git::{Git, Repository};
use super::manifests::url_of;
use super::names::{self, is_commit};
use super::state::{self, Notes};
use super::{Error, LOG, Project, REPO, Tree, Which, placed};
use crate::progress::Progress;
use crate::text::chain;
use crate::{debug, error, info, notice, target, warning};

/// What was checked out last: moving on from it loses nothing.
const SYNCED: &str = "refs/mantle/synced";
/// Where what gave way is kept.
const RESCUE: &str = "refs/mantle/rescue";
/// Who makes commits of what gave way.
const IDENTITY: &[(&str, &str)] = &[
    ("GIT_AUTHOR_NAME", "mantle"),
    ("GIT_AUTHOR_EMAIL", "mantle@localhost"),
    ("GIT_COMMITTER_NAME", "mantle"),
    ("GIT_COMMITTER_EMAIL", "mantle@localhost"),
];

/// How a tree is brought up to date.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How many projects at a time; by default what the manifest says, or as many as there are processors.
    pub jobs: Option<u32>,
    /// How many commits of each project; by default what was asked for last time, or all.
    pub depth: Option<u32>,
    /// The groups of projects; by default those of last time, or the usual ones.
    pub groups: Option<Vec<String>>,
    /// Whether local changes give way.
    pub force: bool,
}

/// Brings the tree at `root` to where its manifest wants it.
///
/// # Errors
/// [`Error::Projects`] when some could not be brought there; the others are, and the log says why. Anything else
/// concerns all of the tree.
pub async fn sync(root: &Path, options: &Options, cancel: &CancellationToken) -> Result<(), Error> {
    let notes = Notes::open(root)?;
    let url = url_of(root, cancel).await?;
    let git = Git::new(&url, cancel)?;
    let mut state = state::read(root)?;
    state.depth = options.depth.or(state.depth);
    if let Some(groups) = &options.groups {
        state.groups.clone_from(groups);
    }
    let mut tree = Tree::load(root, Which::Active, &url)?;
    tree.choose(&state.groups);
    notes.write(&state)?;
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let jobs = options.jobs.or(tree.jobs).map_or(processors, |jobs| jobs as usize).clamp(1, 64);
    let work = Work {
        root,
        git: &git,
        notes: &notes,
        projects: &tree.projects,
        depth: state.depth,
        force: options.force,
    };
    let mut progress = Progress::of_steps(LOG, "projects", tree.projects.len() as u64);
    let mut failed = 0;
    // A project inside of another one waits for that: it is the outer one's checkout that may not plant links.
    for level in levels(&tree.projects) {
        let mut running = stream::iter(level).map(|project| work.one(project)).buffer_unordered(jobs);
        while let Some((project, done)) = running.next().await {
            match done {
                Ok(()) => {}
                // The others end for the same reason, each in order.
                Err(e) if e.is_interruption() => debug!(LOG, "{}: interrupted", project.path),
                Err(e) => {
                    failed += 1;
                    error!(LOG, "{}: {}", project.path, chain(&e));
                }
            }
            progress.advance(1);
        }
        if cancel.is_cancelled() {
            return Err(Error::interrupted());
        }
    }
    drop(progress);
    list_projects(root, &tree.projects)?;
    if failed > 0 {
        return Err(Error::Projects { failed, all: tree.projects.len() });
    }
    let (place_root, projects, force) = (root.to_owned(), tree.projects, options.force);
    let placing = tokio::task::spawn_blocking(move || {
        let done = placed::place(&place_root, &projects, &mut state.placed, force);
        (state, done, projects.len())
    });
    let (state, done, count) = placing.await.map_err(|e| Error::Thread(e.to_string()))?;
    notes.write(&state)?;
    done?;
    notice!(LOG, "{count} projects are up to date");
    Ok(())
}

/// The projects by how many others they are in.
fn levels(projects: &[Project]) -> Vec<Vec<&Project>> {
    let paths: BTreeMap<&str, ()> = projects.iter().map(|project| (project.path.as_str(), ())).collect();
    let mut levels: Vec<Vec<&Project>> = Vec::new();
    for project in projects {
        let slashes = project.path.match_indices('/');
        let depth = slashes.filter(|(at, _)| paths.contains_key(&project.path[..*at])).count();
        levels.resize_with(levels.len().max(depth + 1), Vec::new);
        levels[depth].push(project);
    }
    levels
}

/// Lists the projects as the `repo` tool does, and names those that are none any more.
fn list_projects(root: &Path, projects: &[Project]) -> Result<(), Error> {
    let path = root.join(REPO).join("project.list");
    let before = crate::input::read_to_string(&path).unwrap_or_default();
    let mut paths: Vec<&str> = projects.iter().map(|project| project.path.as_str()).collect();
    paths.sort_unstable();
    for old in before.lines().filter(|old| paths.binary_search(old).is_err()) {
        // Work may be in it that nobody has but the user.
        if names::check_path(old).is_ok() && root.join(old).join(".git").exists() {
            warning!(
                LOG,
                "{old} is no project of the manifest any more; it is left as it is, remove it if you like"
            );
        }
    }
    let text: String = paths.iter().map(|path| format!("{path}\n")).collect();
    target::replace(&path, 0o666, text.as_bytes()).map_err(Error::io("write", &path))
}

/// What all projects of a sync share.
struct Work<'a> {
    root: &'a Path,
    git: &'a Git,
    notes: &'a Notes,
    projects: &'a [Project],
    depth: Option<u32>,
    force: bool,
}

impl<'a> Work<'a> {
    async fn one(&self, project: &'a Project) -> (&'a Project, Result<(), Error>) {
        let done = self.bring(project).await;
        // When we interrupted git its work is half done, as if it had been killed.
        if !matches!(&done, Err(e) if e.is_interruption()) {
            self.notes.end(&project.path);
        }
        (project, done)
    }

    async fn bring(&self, project: &Project) -> Result<(), Error> {
        let (root, path) = (self.root.to_owned(), project.path.clone());
        let dir = tokio::task::spawn_blocking(move || placed::folder(&root, &path)).await;
        let dir = dir.map_err(|e| Error::Thread(e.to_string()))??;
        let repository = self.git.at(&dir);
        let inner = self.inner(&project.path);
        prepare(self.git, &repository, self.notes, &project.path, &inner).await?;
        self.notes.begin(&project.path, "")?;
        let url = format!("remote.{}.url", project.remote);
        if repository.ask(&["config", "--get", &url]).await?.as_deref() != Some(&project.url) {
            repository.run(&["config", "--replace-all", &url, &project.url]).await?;
            let spec = format!("remote.{}.fetch", project.remote);
            let usual = format!("+refs/heads/*:refs/remotes/{}/*", project.remote);
            repository.run(&["config", "--replace-all", &spec, &usual]).await?;
        }
        let commit = self.fetch(&repository, project).await?;
        begin_checkout(&repository, self.notes, &project.path, &commit).await?;
        checkout(&repository, &commit, &inner, self.force).await?;
        if project.submodules {
            let args = ["submodule", "update", "--init", "--recursive", "--progress"];
            repository.run(&args).await?;
        }
        Ok(())
    }

    /// The projects inside of one, relative to it.
    fn inner(&self, path: &str) -> Vec<String> {
        let below = |p: &'a Project| p.path.strip_prefix(path)?.strip_prefix('/').map(str::to_owned);
        self.projects.iter().filter_map(below).collect()
    }

    /// Gets what a project's revision means, and returns the commit.
    async fn fetch(&self, repository: &Repository, project: &Project) -> Result<String, Error> {
        let revision = &project.revision;
        let depth = self.depth.or(project.depth).map(|depth| format!("--depth={depth}"));
        let mut options: Vec<&str> = depth.as_deref().into_iter().collect();
        let absent = || Error::Git {
            what: format!("git fetch of {}", project.name),
            why: format!("{} has no commit {revision}", crate::http::mask::urls(&project.url)),
        };
        if is_commit(revision) {
            // Nothing of a commit ever changes.
            if let Some(commit) = repository.commit(revision).await? {
                return Ok(commit);
            }
            info!(LOG, "{}: fetching {revision}", project.path);
            options.push("--no-tags");
            // Old servers give only what has a name.
            if let Err(first) = repository.fetch(&options, &project.remote, &[revision]).await {
                if first.is_interruption() {
                    return Err(first);
                }
                debug!(LOG, "{}: {first}; fetching all branches", project.path);
                let all = ["+refs/heads/*:refs/remotes/".to_owned() + &project.remote + "/*"];
                let upstream =
                    project.upstream.as_ref().filter(|upstream| upstream.starts_with("refs/heads/"));
                let one = upstream.map(|branch| refspec(branch, &project.remote).1);
                let wanted = match &one {
                    Some(one) if project.only_branch => one.as_str(),
                    _ => &all[0],
                };
                repository.fetch(&["--tags"], &project.remote, &[wanted]).await?;
            }
            return repository.commit(revision).await?.ok_or_else(absent);
        }
        info!(LOG, "{}: fetching {revision}", project.path);
        let (local, spec) = refspec(revision, &project.remote);
        let all = format!("+refs/heads/*:refs/remotes/{}/*", project.remote);
        let mut wanted = vec![spec.as_str()];
        if project.only_branch || depth.is_some() {
            options.push("--no-tags");
        } else if !revision.starts_with("refs/heads/") {
            wanted.push(&all);
        } else {
            wanted = vec![&all];
        }
        repository.fetch(&options, &project.remote, &wanted).await?;
        repository.commit(&local).await?.ok_or_else(absent)
    }
}

/// Where a reference of a server is kept, and what git is told to fetch it.
pub(super) fn refspec(reference: &str, remote: &str) -> (String, String) {
    let local = tracking(reference, remote);
    (local.clone(), format!("+{reference}:{local}"))
}

/// Where a reference of a server is kept.
pub(super) fn tracking(reference: &str, remote: &str) -> String {
    match reference.strip_prefix("refs/heads/") {
        Some(branch) => format!("refs/remotes/{remote}/{branch}"),
        None => reference.to_owned(),
    }
}

/// Makes a repository where there is none, and brings one in order whose sync was killed. `inner`: the projects inside
/// of it.
pub(super) async fn prepare(
    git: &Git,
    repository: &Repository,
    notes: &Notes,
    path: &str,
    inner: &[String],
) -> Result<(), Error> {
    let own = repository.dir().join(".git");
    // `repo` makes files or links of that name.
    let is_ours = own.symlink_metadata().map_or(true, |meta| meta.is_dir());
    let killed = notes.killed(path);
    if is_ours && (killed.is_some() || !own.join("HEAD").exists()) {
        notes.begin(path, killed.as_deref().unwrap_or_default())?;
        clean(own).await?;
        // It may have been killed while it was made; there is no harm in that where it was not.
        git.init(repository.dir()).await?;
    } else if killed.is_some() {
        clean(repository.git_dir().await?).await?;
    }
    if let Some(commit) = killed {
        info!(LOG, "{path}: the last sync was killed here");
        if is_commit(&commit) && repository.commit(&commit).await?.is_some() {
            resume(repository, inner, &commit).await?;
        }
    }
    Ok(())
}

async fn clean(git_dir: PathBuf) -> Result<(), Error> {
    let cleaning = tokio::task::spawn_blocking(move || remove_leftovers(&git_dir));
    cleaning.await.map_err(|e| Error::Thread(e.to_string()))
}

/// Removes the lock files and unfinished packs of a git that was killed. Blocks.
fn remove_leftovers(git_dir: &Path) {
    let remove = |path: &Path| {
        debug!(LOG, "removing {}, of a git that was killed", path.display());
        // It will be complained about where it is in the way.
        let _ = std::fs::remove_file(path);
    };
    let mut folders = vec![(git_dir.to_owned(), false), (git_dir.join("refs"), true)];
    folders.push((git_dir.join("objects/pack"), false));
    while let Some((folder, deep)) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok) {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            let kind = entry.file_type();
            if kind.as_ref().is_ok_and(std::fs::FileType::is_dir) {
                if deep {
                    folders.push((path, true));
                }
            } else if name.ends_with(".lock") || name.starts_with("tmp_") {
                remove(&path);
            }
        }
    }
}

/// Notes that a commit is checked out next. Only where no file was changed: what is neither old nor new afterwards comes
/// from the checkout.
pub(super) async fn begin_checkout(
    repository: &Repository,
    notes: &Notes,
    path: &str,
    commit: &str,
) -> Result<(), Error> {
    let moves = repository.commit("HEAD").await?.as_deref() != Some(commit);
    let can_resume = moves && !is_dirty(repository).await?;
    notes.begin(path, if can_resume { commit } else { "" })
}

/// Finishes a checkout that was killed: the working tree is part old, part new. One that would not have begun is left.
async fn resume(repository: &Repository, inner: &[String], commit: &str) -> Result<(), Error> {
    let head = repository.commit("HEAD").await?;
    if head.as_deref() == Some(commit) && !is_dirty(repository).await? {
        return Ok(());
    }
    let branch = head.is_some() && on_branch(repository).await?;
    let was_allowed = match &head {
        None => true,
        Some(head) if branch => repository.test(&["merge-base", "--is-ancestor", head, commit]).await?,
        Some(_) => is_kept(repository, commit).await?,
    };
    if !was_allowed {
        return Ok(());
    }
    // It may be work that was begun since.
    rescue(repository, inner, commit).await?;
    match branch {
        true => repository.run(&["reset", "--hard", "-q", commit]).await.map(drop),
        false => repository.run(&["checkout", "--force", "--detach", "--progress", commit]).await.map(drop),
    }
}

async fn on_branch(repository: &Repository) -> Result<bool, Error> {
    repository.test(&["symbolic-ref", "-q", "HEAD"]).await
}

async fn is_dirty(repository: &Repository) -> Result<bool, Error> {
    let status = ["status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all"];
    Ok(repository.ask(&status).await?.is_some())
}

/// Keeps what is in the working tree as a commit, if there is a file that neither HEAD nor `next` have as it is.
async fn rescue(repository: &Repository, inner: &[String], next: &str) -> Result<(), Error> {
    let git_dir = repository.git_dir().await?;
    let index = git_dir.join("mantle-index");
    // The copy knows which files are unchanged.
    if std::fs::copy(git_dir.join("index"), &index).is_err() {
        let _ = std::fs::remove_file(&index);
    }
    let aside = repository.with_index(&index);
    let mut args: Vec<String> = ["add", "--all", "--", "."].map(str::to_owned).to_vec();
    args.extend(inner.iter().map(|path| format!(":(exclude,literal){path}")));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    aside.run(&args).await?;
    let found = aside.line(&["write-tree"]).await?;
    let _ = std::fs::remove_file(&index);
    let mut own = differing(repository, next, &found).await?;
    if repository.commit("HEAD").await?.is_some() {
        let too = differing(repository, "HEAD", &found).await?;
        own.retain(|path| too.contains(path));
    }
    if own.is_empty() {
        return Ok(());
    }
    let head = repository.commit("HEAD").await?;
    let text = "The working tree before a sync replaced it";
    let mut args = vec!["commit-tree", &found, "-m", text];
    if let Some(head) = &head {
        args.extend(["-p", head]);
    }
    let commit = repository.run_with(&args, IDENTITY).await?;
    let commit = String::from_utf8_lossy(&commit).trim().to_owned();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let name = format!("{RESCUE}/{now}");
    repository.run(&["update-ref", &name, &commit]).await?;
    warning!(LOG, "what was changed in {} is kept as {name}", repository.dir().display());
    Ok(())
}

/// The files that a tree has and another one has not, or not as they are.
async fn differing(repository: &Repository, from: &str, to: &str) -> Result<BTreeSet<Vec<u8>>, Error> {
    let names =
        repository.run(&["diff-tree", "-r", "-z", "--name-only", "--diff-filter=d", from, to]).await?;
    Ok(names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

/// Checks out a commit: a branch of the user is moved on if it has nothing of its own, anything else is left for the
/// detached commit. `inner`: the projects inside of this one.
pub(super) async fn checkout(
    repository: &Repository,
    commit: &str,
    inner: &[String],
    force: bool,
) -> Result<(), Error> {
    let head = repository.commit("HEAD").await?;
    let refuse = |why: String| Error::unsafe_path(repository.dir(), why);
    let is_ancestor =
        async |old: &str, new: &str| repository.test(&["merge-base", "--is-ancestor", old, new]).await;
    match head {
        Some(head) if head == commit && !force => {}
        Some(_) if force => {
            rescue(repository, inner, commit).await?;
            if !is_kept(repository, commit).await? {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let name = format!("{RESCUE}/{now}-commits");
                repository.run(&["update-ref", &name, "HEAD"]).await?;
                warning!(
                    LOG,
                    "commits of {} that nobody else has are kept as {name}",
                    repository.dir().display()
                );
            }
            repository.run(&["checkout", "--force", "--detach", "--progress", commit]).await?;
        }
        Some(head) if on_branch(repository).await? => {
            if is_ancestor(&head, commit).await? {
                repository.run(&["merge", "--ff-only", "--quiet", "--no-overwrite-ignore", commit]).await?;
            } else if is_ancestor(commit, &head).await? {
                notice!(
                    LOG,
                    "{}: its branch is ahead of the manifest and is left",
                    repository.dir().display()
                );
            } else {
                let why =
                    format!("its branch has commits of its own and {commit} is to be checked out: rebase it");
                return Err(refuse(why));
            }
        }
        Some(_) if !is_kept(repository, commit).await? => {
            let why = "its commits have no branch and would be lost: give them one (git branch NAME), or sync with --force-sync";
            return Err(refuse(why.into()));
        }
        _ => {
            let args = ["checkout", "--detach", "--progress", "--no-overwrite-ignore", commit];
            repository.run(&args).await?;
        }
    }
    repository.run(&["update-ref", SYNCED, commit]).await.map(drop)
}

/// Whether HEAD is in some branch or tag, or in what is checked out next, or is what was synced.
async fn is_kept(repository: &Repository, next: &str) -> Result<bool, Error> {
    let (head, synced) = (repository.commit("HEAD").await?, repository.commit(SYNCED).await?);
    if head == synced || repository.test(&["merge-base", "--is-ancestor", "HEAD", next]).await? {
        return Ok(true);
    }
    let refs = ["for-each-ref", "--count=1", "--contains=HEAD", "refs/heads", "refs/remotes", "refs/tags"];
    Ok(repository.ask(&refs).await?.is_some())
}
