//! What was run on a machine, when, how long, and how it ended: a file in the machine's folder.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use chrono::{SecondsFormat, Utc};

use crate::ssh;

/// Its name in the folder of a machine.
pub const FILE: &str = "commands.txt";
/// How much of a command is kept, in characters.
const KEPT: usize = 200;

/// Keeps the record; made with the first command.
#[derive(Debug, Default)]
pub(super) struct Commands(std::sync::Mutex<Option<File>>);

impl Commands {
    /// Adds a command. That it cannot be kept is said, and stops nothing.
    pub(super) fn add<T>(&self, dir: &Path, command: &str, took: Duration, ended: &Result<T, ssh::Error>) {
        let path = dir.join(FILE);
        let write = || {
            let mut file = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if file.is_none() {
                *file = Some(File::options().append(true).create(true).open(&path)?);
            }
            let time = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
            let line = format!("{time} {:.3}s {}: {}\n", took.as_secs_f64(), how(ended), brief(command));
            file.as_mut().map_or(Ok(()), |file| file.write_all(line.as_bytes()))
        };
        if let Err(e) = write() {
            crate::debug!("platform", "cannot add to {}: {e}", path.display());
        }
    }
}

fn how<T>(ended: &Result<T, ssh::Error>) -> String {
    match ended {
        Ok(_) => "status 0".into(),
        Err(ssh::Error::Exit { status, .. }) => format!("status {status}"),
        Err(ssh::Error::Signal { signal, .. }) => format!("signal {signal}"),
        Err(ssh::Error::Lost { .. }) => "connection lost".into(),
        Err(_) => "not run".into(),
    }
}

/// A command in one line.
fn brief(command: &str) -> String {
    let line = command.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(KEPT) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_one_line_each() {
        let dir = tempfile::tempdir().unwrap();
        let commands = Commands::default();
        commands.add(dir.path(), "echo a\n  echo b", Duration::from_millis(1500), &Ok(()));
        let failed = ssh::Error::Exit { status: 3, stdout: String::new(), stderr: String::new() };
        commands.add(dir.path(), &"x".repeat(300), Duration::ZERO, &Err::<(), _>(failed));
        let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        let lines: Vec<&str> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        assert_eq!(lines[0], "1.500s status 0: echo a echo b");
        assert!(lines[1].starts_with("0.000s status 3: xxx") && lines[1].ends_with("x…"), "{text}");
    }
}
