//! Files onto and from a machine, with root's rights there.

use super::{Client, Error, quote};

/// Puts `data` into the file `path` on the machine, owner root, with the given mode. Missing folders are made.
///
/// The content goes into a file beside it first and is renamed when all of it has arrived, so that nobody sees half
/// a file, and a running program can be replaced.
///
/// # Errors
/// [`Error::File`] with the failure of the command as its source.
pub async fn install_file(
    client: &Client,
    data: impl Into<Vec<u8>>,
    path: &str,
    mode: u32,
) -> Result<(), Error> {
    let data = data.into();
    let name = if path.starts_with('-') { format!("./{path}") } else { path.to_owned() };
    let folder = match name.rsplit_once('/') {
        Some(("", _)) => "/",
        Some((folder, _)) => folder,
        None => ".",
    };
    // $1 folder, $2 path, $3 mode, $4 length: a lost connection looks like the end of the file to cat.
    let script = r#"mkdir -p "$1" || exit 10
t=$2.partial.$$; trap 'rm -f "$t"' EXIT
umask 077 && cat >"$t" && [ "$(wc -c <"$t")" -eq "$4" ] && chmod "$3" "$t" && mv -fT "$t" "$2" || exit 11"#;
    let command =
        format!("sudo sh -c {} sh {} {} {mode:o} {}", quote(script), quote(folder), quote(&name), data.len());
    match client.run_with_input(&command, data).await {
        Ok(_) => Ok(()),
        Err(source) => {
            let step = match source.exit_status() {
                Some(10) => "failed creating directory of",
                _ => "failed to install",
            };
            Err(Error::File { step, path: path.to_owned(), source: Box::new(source) })
        }
    }
}

/// The content of a file on the machine, up to the limit of a command's output (64 MiB).
///
/// # Errors
/// [`Error::File`] with the failure of the command as its source.
pub async fn read_file(client: &Client, path: &str) -> Result<Vec<u8>, Error> {
    let failed =
        |source| Error::File { step: "cannot read", path: path.to_owned(), source: Box::new(source) };
    let output = client.output(&format!("sudo cat -- {}", quote(path))).await.map_err(failed)?;
    match output.status {
        0 => Ok(output.stdout),
        status => {
            let stderr = super::trimmed(&output.stderr);
            Err(failed(Error::Exit { status, stdout: String::new(), stderr }))
        }
    }
}
