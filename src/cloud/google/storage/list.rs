//! Listing objects, several pages at once.
//!
//! The pages of one listing come one after the other, because each names the next. But the names are sorted, and a
//! listing can be limited to a range of them: when there is a second page, the names of folders further on cut the
//! rest into ranges that are listed at the same time.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde::Deserialize;

use super::object::FIELDS;
use super::{Error, Location, Object, Storage};

/// How many pages are asked for at once; each takes up to 1 MiB while it is read.
const AT_ONCE: usize = 12;

/// Folders deeper than this below the prefix are not looked at for places to cut.
const DEPTH: usize = 8;

/// One answer of a listing, in the order of names; different answers come in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Objects.
    pub objects: Vec<Object>,
    /// Prefixes one level further down; none in a recursive listing.
    pub prefixes: Vec<String>,
}

/// A page as it is sent.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Sent {
    items: Vec<Object>,
    prefixes: Vec<String>,
    next_page_token: Option<String>,
}

/// A part of the names below a prefix.
#[derive(Clone, Debug, Default)]
struct Range {
    /// The first name, or one before it; the empty one is before all.
    from: Arc<str>,
    /// Whether `from` itself belongs to it.
    inclusive: bool,
    /// The first name that no longer belongs to it.
    until: Option<Arc<str>>,
}

impl Range {
    fn contains(&self, name: &str) -> bool {
        let begun = if self.inclusive { name >= &*self.from } else { name > &*self.from };
        begun && self.until.as_deref().is_none_or(|u| name < u)
    }
}

/// What to ask next.
enum Step {
    /// The page of a range; whether the range may be cut if there is another.
    Page { range: Range, token: Option<String>, cut: bool },
    /// Where to cut the rest of a range, of which a page ends with this name.
    Cut { range: Range, token: String, last: String },
}

/// What came of a step.
enum Done {
    Page { range: Range, cut: bool, sent: Sent },
    Cut { range: Range, token: String, last: String, places: Vec<String> },
}

impl Storage {
    /// All objects below a prefix, and, unless `recursive`, the prefixes one level further down; both sorted.
    ///
    /// # Errors
    /// Any [`Error`]; transient ones have been retried.
    pub async fn list(
        &self,
        prefix: &Location,
        recursive: bool,
    ) -> Result<(Vec<Object>, Vec<String>), Error> {
        let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
        self.list_pages(prefix, recursive, &mut |page| {
            objects.extend(page.objects);
            prefixes.extend(page.prefixes);
        })
        .await?;
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        prefixes.sort();
        Ok((objects, prefixes))
    }

    /// As [`Storage::list`], handing over page by page, in no particular order.
    ///
    /// # Errors
    /// Any [`Error`]; transient ones have been retried.
    pub async fn list_pages(
        &self,
        prefix: &Location,
        recursive: bool,
        each: &mut (dyn FnMut(Page) + Send),
    ) -> Result<(), Error> {
        let mut waiting =
            VecDeque::from([Step::Page { range: Range::default(), token: None, cut: recursive }]);
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < AT_ONCE
                && let Some(step) = waiting.pop_front()
            {
                running.push(self.step(prefix, recursive, step));
            }
            let Some(done) = running.next().await else { return Ok(()) };
            match done? {
                Done::Page { range, cut, sent } => {
                    let last = sent.items.iter().map(|o| &o.name).chain(&sent.prefixes).max().cloned();
                    let objects = sent.items.into_iter();
                    let page = Page {
                        objects: objects
                            .filter(|o| o.name.starts_with(&prefix.name) && range.contains(&o.name))
                            .collect(),
                        prefixes: sent.prefixes,
                    };
                    each(page);
                    let Some(token) = sent.next_page_token.filter(|t| !t.is_empty()) else { continue };
                    // A server that does not heed the range: its tokens lead on, and what is outside is left out.
                    let heeded = |last: &String| range.contains(last);
                    let over = |last: &String| range.until.as_deref().is_some_and(|u| **last >= *u);
                    match last {
                        Some(last) if over(&last) => {}
                        Some(last) if cut && heeded(&last) => {
                            waiting.push_back(Step::Cut { range, token, last });
                        }
                        _ => waiting.push_back(Step::Page { range, token: Some(token), cut: false }),
                    }
                }
                Done::Cut { range, token, places, .. } if places.is_empty() => {
                    waiting.push_back(Step::Page { range, token: Some(token), cut: false });
                }
                Done::Cut { range, last, places, .. } => {
                    let mut from: Arc<str> = last.into();
                    let mut inclusive = false;
                    let ends = places.into_iter().map(|p| Some(Arc::from(p))).chain([range.until.clone()]);
                    for until in ends {
                        let part = Range { from: from.clone(), inclusive, until: until.clone() };
                        waiting.push_back(Step::Page { range: part, token: None, cut: true });
                        (from, inclusive) = (until.unwrap_or_default(), true);
                    }
                }
            }
        }
    }

    async fn step(&self, prefix: &Location, recursive: bool, step: Step) -> Result<Done, Error> {
        match step {
            Step::Page { range, token, cut } => {
                let fields = format!("items({FIELDS}),prefixes,nextPageToken");
                let sent =
                    self.page(prefix, &prefix.name, !recursive, &range, token.as_deref(), &fields).await?;
                Ok(Done::Page { range, cut, sent })
            }
            Step::Cut { range, token, last } => {
                let rest = Range { from: last.as_str().into(), inclusive: false, until: range.until.clone() };
                let folders = folders(&prefix.name, &last).take(DEPTH);
                let pages = folders.map(|folder| self.page(prefix, folder, true, &rest, None, "prefixes"));
                let mut places = BTreeSet::new();
                for page in join_all(pages).await {
                    places.extend(page?.prefixes.into_iter().filter(|p| rest.contains(p)));
                }
                Ok(Done::Cut { range, token, last, places: spread(places, AT_ONCE - 1) })
            }
        }
    }

    async fn page(
        &self,
        listed: &Location,
        prefix: &str,
        delimited: bool,
        range: &Range,
        token: Option<&str>,
        fields: &str,
    ) -> Result<Sent, Error> {
        let mut url = self.url(&["b", &listed.bucket, "o"]);
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("prefix", prefix);
            if delimited {
                query.append_pair("delimiter", "/");
            }
            if !range.from.is_empty() {
                query.append_pair("startOffset", &range.from);
            }
            if let Some(until) = &range.until {
                query.append_pair("endOffset", until);
            }
            if let Some(token) = token {
                query.append_pair("pageToken", token);
            }
            query.append_pair("fields", fields);
        }
        let what = listed.to_string();
        let sent: Sent = self.json("list", &what, &url).await?;
        if token.is_some() && sent.next_page_token.as_deref() == token {
            return Err(Error::Answer { op: "list", what, reason: "the same page again".into() });
        }
        Ok(sent)
    }
}

/// The folders that hold a name, from the prefix downwards.
fn folders<'a>(prefix: &str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let start = if name.starts_with(prefix) { prefix.len() } else { name.len() };
    let below = name[start..].match_indices('/').map(move |(at, _)| &name[..start + at + 1]);
    std::iter::once(&name[..start]).chain(below)
}

/// At most so many of the places, evenly spread.
fn spread(places: BTreeSet<String>, most: usize) -> Vec<String> {
    let all = places.len();
    let chosen = all.min(most);
    let mut next = (1..=chosen).map(|n| n * all / (chosen + 1)).peekable();
    let wanted = |at: usize, next: &mut std::iter::Peekable<_>| next.next_if_eq(&at).is_some();
    places.into_iter().enumerate().filter_map(|(at, place)| wanted(at, &mut next).then_some(place)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_a_name() {
        let of = |prefix, name| folders(prefix, name).collect::<Vec<_>>();
        assert_eq!(of("p/", "p/a/b/c"), ["p/", "p/a/", "p/a/b/"]);
        assert_eq!(of("", "c"), [""]);
        assert_eq!(of("", "/a"), ["", "/"]);
    }

    #[test]
    fn places_are_spread_evenly() {
        let places = |n: usize| (0..n).map(|i| format!("{i:03}")).collect();
        assert_eq!(spread(places(3), 5), ["000", "001", "002"]);
        assert_eq!(spread(places(100), 3), ["025", "050", "075"]);
        assert!(spread(places(0), 3).is_empty());
        for n in 0..50 {
            assert_eq!(spread(places(n), 11).len(), n.min(11), "{n}");
        }
    }

    #[test]
    fn ranges_have_ends() {
        let range = Range { from: "b".into(), inclusive: false, until: Some("d".into()) };
        let inside = |name| range.contains(name);
        assert!(inside("b0") && inside("c"));
        assert!(!inside("a") && !inside("b") && !inside("d"));
        assert!(Range { inclusive: true, ..range.clone() }.contains("b"));
        assert!(Range::default().contains("x"));
    }
}
