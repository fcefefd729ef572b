//! The repository of the manifests: fetched, its tag verified, checked out.

use std::path::Path;

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::git::{Git, Repository, is_missing};
use super::names::{absolute_url, check_path, check_ref, check_url};
use super::state::{self, Notes};
use super::{Error, LOG, MANIFESTS, REPO, Tree, Which, tag, xml};
use crate::http::mask;
use crate::info;
use crate::openpgp::{Keyring, Verified};
use crate::release::version::{self, Versions};
use crate::target::{Fresh, Target};

/// What git calls the server of the manifests.
const REMOTE: &str = "origin";

/// What notes of work at their checkout are under: no project has this path.
const MARKER: &str = ".repo/manifests";

/// Where the manifests come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The address of their repository.
    pub url: String,
    /// A branch or tag there: plain, `refs/heads/…` or `refs/tags/…`.
    pub branch: String,
}

impl Origin {
    /// Checks and completes what a user says.
    ///
    /// # Errors
    /// When git would not take the address or the name.
    pub fn new(url: &str, branch: &str) -> Result<Self, Error> {
        let url = absolute_url(url);
        check_url(&url).map_err(Error::Branch)?;
        check_ref(branch).map_err(Error::Branch)?;
        Ok(Self { url, branch: branch.to_owned() })
    }

    /// The name of the tag, if it can be one.
    pub fn tag(&self) -> Option<&str> {
        match self.branch.strip_prefix("refs/tags/") {
            Some(tag) => Some(tag),
            None => Some(self.branch.as_str()).filter(|branch| !branch.starts_with("refs/")),
        }
    }

    /// What to ask the server for, in turn.
    fn candidates(&self, signed: bool) -> Vec<String> {
        let branch = &self.branch;
        match branch.starts_with("refs/") {
            true => vec![branch.clone()],
            false if signed => vec![format!("refs/tags/{branch}")],
            false => vec![format!("refs/heads/{branch}"), format!("refs/tags/{branch}")],
        }
    }

    /// Fetches the branch or tag into a repository. Returns the local name of what was fetched.
    async fn fetch(
        &self,
        repository: &Repository,
        options: &[&str],
        signed: bool,
        force: bool,
    ) -> Result<String, Error> {
        let mut missing = None;
        for reference in self.candidates(signed) {
            let (local, refspec) = match reference.strip_prefix("refs/heads/") {
                Some(branch) => {
                    let local = format!("refs/remotes/{REMOTE}/{branch}");
                    (local.clone(), format!("+{reference}:{local}"))
                }
                // A tag that was fetched before and is another one now is refused by git.
                None if reference.starts_with("refs/tags/") && !force => {
                    (reference.clone(), format!("{reference}:{reference}"))
                }
                None => (reference.clone(), format!("+{reference}:{reference}")),
            };
            match repository.fetch(options, &self.url, &[&refspec]).await {
                Ok(()) => return Ok(local),
                Err(e) if is_missing(&e) => missing = Some(e),
                Err(Error::Git { what, why }) if why.contains("clobber existing tag") => {
                    let why = format!(
                        "{} is another tag now than when it was last fetched; \
                         if that is as it should be, remove the old one: git -C {} tag -d {}",
                        reference,
                        repository.dir().display(),
                        reference.trim_start_matches("refs/tags/"),
                    );
                    return Err(Error::Git { what, why });
                }
                Err(e) => return Err(e),
            }
        }
        let url = mask::urls(&self.url);
        let kind = if signed { "tag" } else { "branch or tag" };
        match missing {
            Some(_) => Err(Error::Branch(format!("there is no {kind} {:?} at {url}", self.branch))),
            None => Err(Error::Branch(format!("{:?} is no branch and no tag", self.branch))),
        }
    }
}

/// Fetches the manifests and checks them out below `root`, and makes `name` the one that counts. With a keyring the
/// branch has to be a tag that one of its keys has signed, which is seen to before anything is checked out. `force`:
/// what was changed in the checkout is given up.
///
/// # Errors
/// When git fails, a tag does not count, or there is no such manifest.
pub async fn init(
    root: &Path,
    origin: &Origin,
    name: &str,
    keyring: Option<&Keyring>,
    force: bool,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let fresh = !root.join(REPO).exists();
    let made = make(root, origin, name, keyring, force, cancel).await;
    if fresh && matches!(&made, Err(e) if !e.is_interruption()) {
        // It would make this folder the root of whatever is begun below it later.
        let _ = std::fs::remove_dir_all(root.join(REPO));
    }
    made
}

async fn make(
    root: &Path,
    origin: &Origin,
    name: &str,
    keyring: Option<&Keyring>,
    force: bool,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    check_path(name).map_err(|why| Error::manifest("the name of the manifest", why))?;
    let notes = Notes::open(root)?;
    let git = Git::new(&origin.url, cancel)?;
    let dir = root.join(REPO).join(MANIFESTS);
    std::fs::create_dir_all(&dir).map_err(Error::io("make the folder", &dir))?;
    let repository = git.at(&dir);
    info!(LOG, "fetching the manifests from {}", mask::urls(&origin.url));
    super::sync::prepare(&git, &repository, &notes, MARKER, &[]).await?;
    notes.begin(MARKER, "")?;
    let work = async {
        let url = format!("remote.{REMOTE}.url");
        repository.run(&["config", "--replace-all", &url, &origin.url]).await?;
        let spec = format!("remote.{REMOTE}.fetch");
        let usual = format!("+refs/heads/*:refs/remotes/{REMOTE}/*");
        repository.run(&["config", "--replace-all", &spec, &usual]).await?;
        let local = origin.fetch(&repository, &["--no-tags"], keyring.is_some(), force).await?;
        let commit = match keyring {
            Some(keyring) => {
                let name = origin.tag().ok_or_else(|| not_a_tag(origin))?;
                tag::verify(&repository, name, keyring).await?.1
            }
            None => repository.commit(&local).await?.ok_or_else(|| {
                Error::Branch(format!("{:?} at {} is no commit", origin.branch, mask::urls(&origin.url)))
            })?,
        };
        super::sync::begin_checkout(&repository, &notes, MARKER, &commit).await?;
        super::sync::checkout(&repository, &commit, &[], force).await
    };
    let done = work.await;
    if !matches!(&done, Err(e) if e.is_interruption()) {
        notes.end(MARKER);
    }
    done?;
    // Before it counts: it has to be there and make sense.
    Tree::load(root, Which::Named(name), &origin.url)?;
    write_active(root, name)?;
    let state = state::read(root)?;
    notes.write(&state)
}

fn not_a_tag(origin: &Origin) -> Error {
    Error::Branch(format!("{:?} is no tag, and only tags are signed", origin.branch))
}

/// Makes a manifest the one that counts.
fn write_active(root: &Path, name: &str) -> Result<(), Error> {
    let path = root.join(REPO).join("manifest.xml");
    let text = xml::including(name);
    let write = || {
        // Of an old `repo`: a link to the manifest, which must not be written to.
        if path.is_symlink() {
            std::fs::remove_file(&path)?;
        }
        let fresh = Fresh::new(Target::File(path.clone()), 0o666)?;
        std::io::Write::write_all(&mut fresh.file(), text.as_bytes())?;
        fresh.commit()
    };
    write().map_err(Error::io("write", &path))
}

/// Verifies the tag of the checkout of the manifests, and that nothing else is checked out.
///
/// # Errors
/// [`Error::Tag`], or when git fails.
pub async fn verify_tag(
    root: &Path,
    origin: &Origin,
    keyring: &Keyring,
    cancel: &CancellationToken,
) -> Result<Verified, Error> {
    let name = origin.tag().ok_or_else(|| not_a_tag(origin))?;
    let repository = Git::new(&origin.url, cancel)?.at(&root.join(REPO).join(MANIFESTS));
    tag::verify_checkout(&repository, name, keyring).await
}

/// Where the manifests of a tree come from; for one without, the tree itself.
pub(super) async fn url_of(root: &Path, cancel: &CancellationToken) -> Result<String, Error> {
    let dir = root.join(REPO).join(MANIFESTS);
    let own = || dir.display().to_string();
    // Asking for a setting makes no connection, whatever its kind.
    let repository = Git::new(&own(), cancel)?.at(&dir);
    Ok(repository.ask(&["config", "--get", "remote.origin.url"]).await?.unwrap_or_else(own))
}

/// The versions that a branch or tag of the manifests names, without a tree. With a keyring it has to be a signed tag.
///
/// # Errors
/// When it cannot be fetched, or its tag does not count, or its `version.txt` names no release.
pub async fn remote_versions(
    origin: &Origin,
    keyring: Option<&Keyring>,
    cancel: &CancellationToken,
) -> Result<Versions, Error> {
    let is_known = ["refs/heads/", "refs/tags/"].iter().any(|prefix| origin.branch.starts_with(prefix));
    if origin.branch.starts_with("refs/") && !is_known {
        return Err(Error::Branch(format!("SDK version cannot be detected for {:?}", origin.branch)));
    }
    let git = Git::new(&origin.url, cancel)?;
    let folder = std::env::temp_dir();
    let folder = TempDir::new().map_err(Error::io("make a folder in", &folder))?;
    let repository = git.at(folder.path());
    git.init(folder.path()).await?;
    let options = ["--no-tags", "--depth=1"];
    let local = origin.fetch(&repository, &options, keyring.is_some(), false).await;
    let local = local.map_err(|e| prefixed(e, "clone", &origin.branch))?;
    let commit = match keyring {
        Some(keyring) => {
            let name = origin.tag().ok_or_else(|| not_a_tag(origin))?;
            tag::verify(&repository, name, keyring).await?.1
        }
        None => local,
    };
    let file = version::FILE_NAME;
    let blob = format!("{commit}:{file}");
    let shown = format!("{file} of {} at {}", origin.branch, mask::urls(&origin.url));
    let absent = || Error::Branch(format!("there is no {shown}"));
    let size = repository.ask(&["cat-file", "-s", &blob]).await?.ok_or_else(absent)?;
    if size.parse().map_or(true, |size: u64| size > version::MAX_SIZE) {
        return Err(Error::Branch(format!("{shown} is too long")));
    }
    let text = repository.run(&["cat-file", "blob", &blob]).await?;
    Ok(Versions::parse_version_txt(&String::from_utf8_lossy(&text), &shown)?)
}

fn prefixed(error: Error, verb: &str, branch: &str) -> Error {
    match error {
        Error::Git { why, .. } => Error::Git { what: format!("'git {verb} {branch}' failed"), why },
        other => other,
    }
}
