//! The `repo` tool, for who has it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Error, Options, Origin, state};
use crate::process::{Command, find_program};

/// How long it has to end its own children when it is told to end.
const GRACE: Duration = Duration::from_secs(10);

/// The `repo` program of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool(PathBuf);

/// Whether the built-in sync made the tree at `root`; the tool would not know what to do with it.
pub fn is_built_in(root: &Path) -> bool {
    state::exists(root)
}

impl Tool {
    /// Looks for it in `PATH`.
    pub fn find() -> Option<Self> {
        find_program("repo").map(Self)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// `repo init`.
    ///
    /// # Errors
    /// When it fails.
    pub async fn init(
        &self,
        root: &Path,
        origin: &Origin,
        name: &str,
        options: &Options,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        let mut args = vec!["init".to_owned()];
        args.extend(["--manifest-url".into(), origin.url.clone()]);
        args.extend(["--manifest-branch".into(), origin.branch.clone()]);
        args.extend(["--manifest-name".into(), name.to_owned()]);
        args.extend(options.depth.map(|depth| format!("--depth={depth}")));
        args.extend(options.groups.as_ref().map(|groups| format!("--groups={}", groups.join(","))));
        self.run(root, &args, cancel).await
    }

    /// `repo sync`.
    ///
    /// # Errors
    /// When it fails.
    pub async fn sync(
        &self,
        root: &Path,
        options: &Options,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        let mut args = vec!["sync".to_owned(), "--no-clone-bundle".to_owned()];
        args.extend(options.force.then(|| "--force-sync".to_owned()));
        args.extend(options.jobs.map(|jobs| format!("--jobs={jobs}")));
        self.run(root, &args, cancel).await
    }

    async fn run(&self, root: &Path, args: &[String], cancel: &CancellationToken) -> Result<(), Error> {
        let proc = Command::new(&self.0).args(args).current_dir(root).spawn().await?;
        let status = tokio::select! {
            () = cancel.cancelled() => {
                proc.stop(GRACE).await;
                return Err(Error::interrupted());
            }
            status = proc.wait() => status,
        };
        if status.success() {
            return Ok(());
        }
        let what = format!("repo {}", args.first().map_or("", String::as_str));
        Err(Error::Git { what, why: format!("it ended with {status}; what it says is above") })
    }
}
