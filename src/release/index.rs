//! Which prefixes of which buckets get new index pages for a choice of channels, boards and versions.

use super::select::below;
use super::{Destination, Distribution, Error, is_component};
use crate::cloud::google::storage::Location;

/// One prefix whose index pages are to be made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The bucket and prefix.
    pub at: Location,
    /// Whether everything below gets its pages too.
    pub recursive: bool,
    /// What the pages call the bucket; else its name.
    pub title: Option<String>,
    /// Whether pages are objects named as the folders.
    pub directories: bool,
    /// Whether pages are objects named `index.html`.
    pub index_html: bool,
}

/// What is to be done, and what was left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order; no job twice, though channels share buckets.
    pub jobs: Vec<Job>,
    /// Channels, and URLs of their destinations, that have nothing of what was asked for, and why.
    pub skipped: Vec<String>,
}

/// Plans for a channel, a board and a version, each of which may be `None` for any.
///
/// With neither board nor version, each destination is done as a whole. Else its top is done alone, then each board:
/// as a whole if the version is open, else alone, and after it the folder of the version.
///
/// # Errors
/// [`Error::UnknownChannel`], [`Error::BoardNowhere`], [`Error::Name`], [`Error::NoUser`]; [`Error::NoDestinations`]
/// for a distribution that never has any.
pub fn plan(
    distribution: &Distribution,
    channel: Option<&str>,
    board: Option<&str>,
    version: Option<&str>,
    user: Option<&str>,
) -> Result<Plan, Error> {
    let names: Vec<&str> = match channel {
        Some(name) => vec![name],
        None => distribution.channels.keys().map(String::as_str).collect(),
    };
    let mut channels = Vec::with_capacity(names.len());
    for name in names {
        channels.push((name, distribution.channel(name, user)?));
    }
    if let Some(name) = board
        && !channels.iter().any(|(_, c)| c.boards.iter().any(|b| b == name))
    {
        let mut known: Vec<String> = channels.into_iter().flat_map(|(_, c)| c.boards).collect();
        known.sort();
        known.dedup();
        return Err(Error::BoardNowhere { name: name.into(), known });
    }
    if let Some(value) = version.filter(|v| !is_component(v)) {
        return Err(Error::Name { what: "version", value: value.into() });
    }
    if let Some(reason) = &distribution.no_destinations {
        let title = distribution.title.clone();
        return Err(Error::NoDestinations { title, reason: reason.clone() });
    }
    let mut plan = Plan::default();
    for (name, channel) in &channels {
        let boards: Vec<&str> =
            channel.boards.iter().map(String::as_str).filter(|b| board.is_none_or(|one| one == *b)).collect();
        if channel.destinations.is_empty() {
            plan.skipped.push(format!("channel {name} has no destinations"));
        } else if boards.is_empty() {
            plan.skipped.push(format!("channel {name} has no board {}", board.unwrap_or_default()));
            continue;
        }
        for destination in &channel.destinations {
            match version {
                Some(version) if !destination.version_path && version != destination.named_path => {
                    let url = &destination.url;
                    plan.skipped
                        .push(format!("{url} has no folder {version}, only {}", destination.named_path));
                }
                _ => plan.destination(destination, board.is_none(), &boards, version)?,
            }
        }
    }
    Ok(plan)
}

impl Plan {
    fn destination(
        &mut self,
        destination: &Destination,
        any_board: bool,
        boards: &[&str],
        version: Option<&str>,
    ) -> Result<(), Error> {
        // The table has been checked and `$USER` is gone: nothing is left that could be wrong with the URL.
        let top = destination.location().map_err(|_| Error::NoUser { url: destination.url.clone() })?;
        let mut push = |at: Location, recursive: bool| {
            let Destination { title, directories, index_html, .. } = destination.clone();
            let job = Job { at, recursive, title, directories, index_html };
            if !self.jobs.contains(&job) {
                self.jobs.push(job);
            }
        };
        if any_board && version.is_none() {
            push(top, true);
            return Ok(());
        }
        push(top.clone(), false);
        for board in boards {
            let board = below(&top, board);
            match version {
                None => push(board, true),
                Some(version) => {
                    push(board.clone(), false);
                    push(below(&board, version), true);
                }
            }
        }
        Ok(())
    }
}
