//! A channel, a board and a version: everything about that release.

use super::check::USER;
use super::{
    Aws, Azure, Channel, Destination, Distribution, Error, Gce, Metadata, Releases, architecture, fill,
    is_component,
};
use crate::cloud::address::{self, Address, Amazon, Google};
use crate::cloud::google::storage::Location;
use crate::text::percent::encode;

/// One release of a channel for a board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The channel's name.
    pub channel: String,
    /// The board.
    pub board: String,
    /// The version.
    pub version: String,
    /// Folder of the build, without a slash at its end: a URL.
    pub source: String,
    /// The file that says that the build is complete.
    pub complete: String,
    /// Google Compute Engine, if the board goes there.
    pub gce: Option<Gce>,
    /// Microsoft Azure, if the board goes there.
    pub azure: Option<Azure>,
    /// Amazon EC2, if the board goes there.
    pub aws: Option<Aws>,
    /// Descriptions for programs.
    pub metadata: Option<Metadata>,
    /// The buckets to copy the files to, in this order.
    pub destinations: Vec<Destination>,
}

impl Distribution {
    /// The channel of this name, `$USER` in its URLs replaced by `user`.
    ///
    /// # Errors
    /// [`Error::UnknownChannel`]; [`Error::NoUser`] if the channel needs one.
    pub fn channel(&self, name: &str, user: Option<&str>) -> Result<Channel, Error> {
        let channel = self.channels.get(name).ok_or_else(|| {
            let known = self.channels.keys().cloned().collect();
            Error::UnknownChannel { name: name.into(), known }
        })?;
        let mut channel = channel.clone();
        let urls = channel.destinations.iter_mut().map(|d| &mut d.url).chain([&mut channel.source]);
        for url in urls.filter(|url| url.contains(USER)) {
            let user = user.filter(|u| is_component(u)).ok_or_else(|| Error::NoUser { url: url.clone() })?;
            *url = url.replace(USER, &as_part_of(url, user));
        }
        Ok(channel)
    }

    /// Everything about a release. Clouds are left out for boards that are not released to them.
    ///
    /// # Errors
    /// [`Error::Required`], [`Error::UnknownChannel`], [`Error::UnknownBoard`], [`Error::Name`], [`Error::NoUser`].
    pub fn select(
        &self,
        channel: &str,
        board: &str,
        version: &str,
        user: Option<&str>,
    ) -> Result<Selection, Error> {
        for (what, value) in [("board", board), ("channel", channel), ("version", version)] {
            if value.is_empty() {
                return Err(Error::Required(what));
            }
        }
        let Channel { source, boards, complete, gce, azure, aws, metadata, destinations } =
            self.channel(channel, user)?;
        if !boards.iter().any(|b| b == board) {
            return Err(Error::UnknownBoard { board: board.into(), channel: channel.into() });
        }
        if !is_component(version) {
            return Err(Error::Name { what: "version", value: version.into() });
        }
        let version_text = as_part_of(&source, version);
        let values = [("board", board), ("arch", architecture(board)), ("version", &*version_text)];
        let names = [("channel", channel), ("arch", architecture(board)), ("version", version)];
        let named = |template: &str| fill(template, &names);
        let cloud = self.cloud_boards.iter().any(|b| b == board);
        Ok(Selection {
            channel: channel.into(),
            board: board.into(),
            version: version.into(),
            source: without_slash(fill(&source, &values)),
            complete,
            gce: gce.filter(|_| cloud).map(|gce| Gce { image: named(&gce.image), ..gce }),
            azure: azure.filter(|_| cloud).map(|azure| Azure {
                blob: named(&azure.blob),
                image: named(&azure.image),
                ..azure
            }),
            aws: aws.filter(|_| cloud).map(|aws| Aws { image: named(&aws.image), ..aws }),
            metadata: metadata.map(|metadata| Metadata {
                releases: metadata.releases.map(|releases| Releases {
                    index: fill(&releases.index, &[("channel", &as_part_of(&releases.index, channel))]),
                    release: {
                        let put = |value| as_part_of(&releases.release, value);
                        fill(&releases.release, &[("channel", &put(channel)), ("version", &put(version))])
                    },
                    ..releases
                }),
                ..metadata
            }),
            destinations,
        })
    }
}

impl Destination {
    /// The bucket and prefix.
    ///
    /// # Errors
    /// When `$USER` is still in it: take the destination from [`Distribution::channel`].
    pub fn location(&self) -> Result<Location, address::Error> {
        if self.url.contains(USER) {
            return Err(address::Error::Unusable { what: "unresolved user in URL", url: self.url.clone() });
        }
        Location::prefix(&self.url)
    }

    /// The folders that get a release's files: `<path>/<board>/<version>`, if there is one for each version, and
    /// `<path>/<board>/<named path>`.
    ///
    /// # Errors
    /// As [`Destination::location`].
    pub fn final_prefixes(&self, board: &str, version: &str) -> Result<Vec<Location>, address::Error> {
        let board = below(&self.location()?, board);
        let version = self.version_path.then_some(version);
        Ok(version.into_iter().chain([&*self.named_path]).map(|name| below(&board, name)).collect())
    }

    /// The folders above them, whose index pages name them: `<path>` and `<path>/<board>`.
    ///
    /// # Errors
    /// As [`Destination::location`].
    pub fn parent_prefixes(&self, board: &str) -> Result<Vec<Location>, address::Error> {
        let path = self.location()?;
        let board = below(&path, board);
        Ok(vec![path, board])
    }
}

/// A value as it is put into a URL: encoded for the web, as it is for stores, in whose names nothing is encoded.
pub(super) fn as_part_of(url: &str, value: &str) -> String {
    if is_stored(url) { value.to_owned() } else { encode(value) }
}

/// Whether an address is that of a store, where everything after the bucket is a name.
pub(super) fn is_stored(url: &str) -> bool {
    Address::<Google>::fits(url) || Address::<Amazon>::fits(url)
}

fn without_slash(mut url: String) -> String {
    if url.ends_with('/') {
        url.pop();
    }
    url
}

/// The folder of this name in a folder.
pub(super) fn below(folder: &Location, name: &str) -> Location {
    folder.at(format!("{}{name}/", folder.name))
}

impl Aws {
    /// The id of the kernel that paravirtual machines boot in a region; none: there are no such machines.
    pub fn pv_kernel(&self, region: &str) -> Option<&str> {
        self.pv_kernels.get(region).map(String::as_str)
    }
}
