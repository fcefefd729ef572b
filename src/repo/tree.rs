//! What a manifest means: its includes read, defaults filled in, projects extended and removed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use super::names::{check_path, check_ref, check_url, is_commit, is_local, join_url};
use super::xml::{self, Element};
use super::{Error, MANIFESTS, REPO};
use crate::input;

/// Files that one manifest may include, all together.
const FILES: usize = 200;
/// Projects that a tree may have.
const PROJECTS: usize = 20_000;

/// Which manifest is meant.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    /// The one that the tree was last initialised with, and the local ones beside it.
    Active,
    /// A file of the manifests' repository.
    Named(&'a str),
}

/// One repository of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    /// Its name on the server.
    pub name: String,
    /// Where it lies, relative to the root of the tree.
    pub path: String,
    /// Where it comes from.
    pub url: String,
    /// What git calls the server.
    pub remote: String,
    /// A commit, or a reference (`refs/…`).
    pub revision: String,
    /// The branch that has the commit.
    pub upstream: Option<String>,
    /// What it belongs to, for the choice of projects.
    pub groups: BTreeSet<String>,
    /// Whether no other branch is wanted.
    pub only_branch: bool,
    /// Whether its submodules are wanted, too.
    pub submodules: bool,
    /// How many commits are wanted.
    pub depth: Option<u32>,
    /// What is put elsewhere in the tree.
    pub files: Vec<Placed>,
    /// Where it is named, for messages.
    pub place: String,
}

/// A file or folder of a project that appears elsewhere in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Whether it is a link, not a copy.
    pub link: bool,
    /// Relative to the project.
    pub from: String,
    /// Relative to the root of the tree.
    pub to: String,
}

/// All that a manifest asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// In the order of the manifest; no two at one path.
    pub projects: Vec<Project>,
    /// How many are to be fetched at a time.
    pub jobs: Option<u32>,
}

impl Tree {
    /// Reads a manifest of the tree at `root`; addresses in it may be relative to `url`, where the manifests come from.
    ///
    /// # Errors
    /// When a file cannot be read, or what it says makes no sense or would do harm.
    pub fn load(root: &Path, which: Which<'_>, url: &str) -> Result<Self, Error> {
        let repo = root.join(REPO);
        let mut files = Files { base: repo.join(MANIFESTS), open: Vec::new(), count: 0, found: Vec::new() };
        match which {
            Which::Named(name) => files.include(name, "the name of the manifest")?,
            Which::Active => {
                files.read(&repo.join("manifest.xml"))?;
                for path in local_manifests(&repo)? {
                    files.read(&path)?;
                }
            }
        }
        Builder::default().build(&files.found, url)
    }

    /// Leaves only the projects of these groups, as `repo init --groups` has them: names, or `-NAME` for all but those;
    /// empty for `default`.
    pub fn choose(&mut self, groups: &[String]) {
        let usual = ["default".to_owned()];
        let groups = if groups.is_empty() { &usual[..] } else { groups };
        let only_without = groups.iter().all(|group| group.starts_with('-'));
        self.projects.retain(|project| {
            let start = only_without && project.groups.contains("default");
            // The last one that fits counts.
            groups.iter().fold(start, |chosen, group| match group.strip_prefix('-') {
                Some(group) => chosen && !project.groups.contains(group),
                None => chosen || project.groups.contains(group),
            })
        });
    }
}

/// `local_manifest.xml`, then those of the folder by name.
fn local_manifests(repo: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let single = repo.join("local_manifest.xml");
    if single.exists() {
        found.push(single);
    }
    let folder = repo.join("local_manifests");
    let mut several = Vec::new();
    match std::fs::read_dir(&folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::io("read", &folder)(e)),
        Ok(entries) => {
            for entry in entries {
                let path = entry.map_err(Error::io("read", &folder))?.path();
                if path.extension().is_some_and(|e| e == "xml") {
                    several.push(path);
                }
            }
        }
    }
    several.sort();
    found.extend(several);
    Ok(found)
}

/// An element, and the name of its file.
type Found = (String, Element);

/// The files of a manifest, as they are read.
struct Files {
    base: PathBuf,
    open: Vec<PathBuf>,
    count: usize,
    found: Vec<Found>,
}

impl Files {
    /// Reads a file of the manifests' repository.
    fn include(&mut self, name: &str, place: &str) -> Result<(), Error> {
        check_path(name).map_err(|why| Error::manifest(place, why))?;
        let path = self.base.join(name);
        let real = path.canonicalize().map_err(Error::io("read", &path))?;
        let base = self.base.canonicalize().map_err(Error::io("read", &self.base))?;
        if !real.starts_with(base) {
            let why = format!("{name:?} is a link that leads out of the manifests' repository");
            return Err(Error::manifest(place, why));
        }
        self.read(&path)
    }

    fn read(&mut self, path: &Path) -> Result<(), Error> {
        let file = path.display().to_string();
        self.count += 1;
        if self.count > FILES {
            return Err(Error::manifest(&file, format!("more than {FILES} files are included")));
        }
        let real = path.canonicalize().map_err(Error::io("read", path))?;
        if self.open.contains(&real) {
            return Err(Error::manifest(&file, "it includes itself"));
        }
        let size = std::fs::metadata(&real).map_err(Error::io("read", path))?.len();
        if size > xml::MAX_SIZE as u64 {
            return Err(Error::manifest(&file, format!("it is longer than {} bytes", xml::MAX_SIZE)));
        }
        let document = input::read(&real).map_err(Error::io("read", path))?;
        let root =
            xml::read(&document, &file).map_err(|e| Error::manifest(&format!("{file}:{}", e.line), e.why))?;
        self.open.push(real);
        for element in root.children {
            if element.name == "include" {
                let place = format!("{file}:{}", element.line);
                self.include(element.required("name"), &place)?;
            } else {
                self.found.push((file.clone(), element));
            }
        }
        self.open.pop();
        if self.found.len() > PROJECTS {
            return Err(Error::manifest(&file, format!("there are more than {PROJECTS} elements")));
        }
        Ok(())
    }
}

/// What projects are made with.
#[derive(Default)]
struct Builder<'a> {
    url: &'a str,
    remotes: HashMap<&'a str, (&'a str, &'a Element)>,
    default: Option<&'a Element>,
    /// With the names of the projects that they are in.
    projects: Vec<(Project, Vec<String>)>,
}

impl<'a> Builder<'a> {
    fn build(mut self, found: &'a [Found], url: &'a str) -> Result<Tree, Error> {
        self.url = url;
        let same = |a: &Element, b: &Element| xml::write(a) == xml::write(b);
        for (file, element) in found {
            let place = format!("{file}:{}", element.line);
            match element.name {
                "remote" => {
                    let name = element.required("name");
                    check_ref(name).map_err(|why| Error::manifest(&place, format!("remote: {why}")))?;
                    match self.remotes.get(name) {
                        Some((_, other)) if !same(other, element) => {
                            let why = format!("there is another remote {name:?}, which differs");
                            return Err(Error::manifest(&place, why));
                        }
                        _ => drop(self.remotes.insert(name, (file, element))),
                    }
                }
                "default" => match self.default {
                    Some(other) if !same(other, element) => {
                        return Err(Error::manifest(&place, "there is another <default>, which differs"));
                    }
                    _ => self.default = Some(element),
                },
                _ => {}
            }
        }
        for (file, element) in found {
            let place = format!("{file}:{}", element.line);
            match element.name {
                "project" => self.add(file, element, None)?,
                "extend-project" => self.extend(&place, element)?,
                "remove-project" => self.remove(&place, element)?,
                _ => {}
            }
        }
        let jobs = self.default.and_then(|d| d.get("sync-j")).and_then(|jobs| jobs.parse().ok());
        let projects: Vec<Project> = self.projects.into_iter().map(|(project, _)| project).collect();
        disjoint(&projects)?;
        Ok(Tree { projects, jobs })
    }

    fn fallback(&self, element: &'a Element, name: &str) -> Option<&'a str> {
        element.get(name).or_else(|| self.default?.get(name))
    }

    fn switch(&self, element: &'a Element, name: &str, place: &str) -> Result<bool, Error> {
        match self.fallback(element, name).map(str::to_ascii_lowercase).as_deref() {
            None | Some("false" | "no" | "0") => Ok(false),
            Some("true" | "yes" | "1") => Ok(true),
            Some(other) => Err(Error::manifest(place, format!("{name}={other:?} is neither true nor false"))),
        }
    }

    /// What git calls a remote, the address of a project there, and the revision of its projects.
    fn remote(&self, name: &str, place: &str) -> Result<(String, String, Option<&'a str>), Error> {
        let (_, remote) = self
            .remotes
            .get(name)
            .ok_or_else(|| Error::manifest(place, format!("there is no remote {name:?} in the manifest")))?;
        let alias = remote.get("alias").unwrap_or(name);
        check_ref(alias).map_err(|why| Error::manifest(place, format!("remote: {why}")))?;
        let url = join_url(self.url, remote.required("fetch")).map_err(|why| Error::manifest(place, why))?;
        Ok((alias.to_owned(), url, remote.get("revision")))
    }

    fn address(&self, base: &str, name: &str, place: &str) -> Result<String, Error> {
        let separator = if base.ends_with([':', '/']) { "" } else { "/" };
        let url = format!("{base}{separator}{name}.git");
        check_url(&url).map_err(|why| Error::manifest(place, why))?;
        if is_local(&url) && !is_local(self.url) {
            let why = format!("{url:?} is a folder of this machine, and the manifest is from elsewhere");
            return Err(Error::manifest(place, why));
        }
        Ok(url)
    }

    fn add(
        &mut self,
        file: &str,
        element: &'a Element,
        parent: Option<(&Project, &[String])>,
    ) -> Result<(), Error> {
        let place = format!("{file}:{}", element.line);
        let wrong = |why: String| Error::manifest(&place, why);
        let own = element.required("name");
        check_path(own).map_err(|why| wrong(why.replacen("path", "name", 1)))?;
        let path = element.get("path").unwrap_or(own);
        check_path(path).map_err(wrong)?;
        let (name, path) = match parent {
            Some((parent, _)) => (format!("{}/{own}", parent.name), format!("{}/{path}", parent.path)),
            None => (own.to_owned(), path.to_owned()),
        };
        let missing = |what: &str| {
            wrong(format!(
                "project {name}: no {what}, and no default for it: missing required field in manifest"
            ))
        };
        let remote = self.fallback(element, "remote").ok_or_else(|| missing("remote"))?;
        let (remote, base, usual) = self.remote(remote, &place)?;
        let revision = element.get("revision").or(usual).or_else(|| self.default?.get("revision"));
        let revision = full_revision(revision.ok_or_else(|| missing("revision"))?).map_err(wrong)?;
        let upstream = element.get("upstream").map(full_revision).transpose().map_err(wrong)?;
        let depth = element.get("clone-depth").map(|depth| {
            depth
                .parse()
                .ok()
                .filter(|d| *d > 0)
                .ok_or_else(|| wrong(format!("clone-depth={depth:?} is no number")))
        });
        let mut groups = split_groups(element.get("groups"));
        groups.extend(["all".to_owned(), format!("name:{name}"), format!("path:{path}")]);
        if !groups.contains("notdefault") {
            groups.insert("default".into());
        }
        let mut files = Vec::new();
        for child in element.children.iter().filter(|c| matches!(c.name, "copyfile" | "linkfile")) {
            let at = |why: String| {
                Error::manifest(&format!("{file}:{}", child.line), format!("{}: {why}", child.name))
            };
            let (link, from, to) = (child.name == "linkfile", child.required("src"), child.required("dest"));
            // The whole project may be linked to.
            if !(link && from == ".") {
                check_path(from).map_err(at)?;
            }
            check_path(to).map_err(at)?;
            files.push(Placed { link, from: from.to_owned(), to: to.to_owned() });
        }
        let project = Project {
            url: self.address(&base, &name, &place)?,
            remote,
            revision,
            upstream,
            groups,
            only_branch: self.switch(element, "sync-c", &place)?,
            submodules: self.switch(element, "sync-s", &place)?,
            depth: depth.transpose()?,
            files,
            place: place.clone(),
            name,
            path,
        };
        if self.projects.len() >= PROJECTS {
            return Err(wrong(format!("there are more than {PROJECTS} projects")));
        }
        let mut around = parent.map(|(_, around)| around.to_vec()).unwrap_or_default();
        self.projects.push((project.clone(), around.clone()));
        around.push(project.name.clone());
        for child in element.children.iter().filter(|child| child.name == "project") {
            self.add(file, child, Some((&project, &around)))?;
        }
        Ok(())
    }

    fn extend(&mut self, place: &str, element: &'a Element) -> Result<(), Error> {
        let (name, path) = (element.required("name"), element.get("path"));
        let wrong = |why: String| Error::manifest(place, why);
        let revision = element.get("revision").map(full_revision).transpose().map_err(wrong)?;
        let remote = match element.get("remote").map(|remote| self.remote(remote, place)).transpose()? {
            Some((alias, base, _)) => Some((alias, self.address(&base, name, place)?)),
            None => None,
        };
        let mut count = 0;
        for (project, _) in &mut self.projects {
            if project.name != name || path.is_some_and(|path| project.path != path) {
                continue;
            }
            count += 1;
            let groups = split_groups(element.get("groups"));
            if groups.contains("notdefault") {
                project.groups.remove("default");
            }
            project.groups.extend(groups);
            if let Some(revision) = &revision {
                project.revision.clone_from(revision);
            }
            if let Some((alias, url)) = &remote {
                project.remote.clone_from(alias);
                project.url.clone_from(url);
            }
        }
        match count {
            0 => Err(wrong(format!("there is no project {name:?} before it to extend"))),
            _ => Ok(()),
        }
    }

    fn remove(&mut self, place: &str, element: &Element) -> Result<(), Error> {
        let name = element.required("name");
        let before = self.projects.len();
        self.projects.retain(|(project, around)| project.name != name && !around.iter().any(|a| a == name));
        let optional = element.get("optional").is_some_and(|o| o.eq_ignore_ascii_case("true"));
        if self.projects.len() == before && !optional {
            return Err(Error::manifest(place, format!("there is no project {name:?} before it to remove")));
        }
        Ok(())
    }
}

fn split_groups(groups: Option<&str>) -> BTreeSet<String> {
    let split = groups.unwrap_or_default().split(|c: char| c == ',' || c.is_whitespace());
    split.filter(|group| !group.is_empty()).map(str::to_owned).collect()
}

/// A revision as git has it in full: a plain name is a branch.
fn full_revision(revision: &str) -> Result<String, String> {
    check_ref(revision)?;
    match revision {
        commit if is_commit(commit) => Ok(commit.to_ascii_lowercase()),
        full if full.starts_with("refs/") => Ok(full.to_owned()),
        branch => Ok(format!("refs/heads/{branch}")),
    }
}

/// Refuses two things at one place.
fn disjoint(projects: &[Project]) -> Result<(), Error> {
    let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
    for project in projects {
        if let Some(other) = taken.insert(&project.path, &project.place) {
            let why = format!("the path {:?} is taken already, at {other}", project.path);
            return Err(Error::manifest(&project.place, why));
        }
    }
    for project in projects {
        for file in &project.files {
            let inside = |path: &str| taken.contains_key(path);
            // Neither at the place of something else, nor above it.
            let below = format!("{}/", file.to);
            let above = taken
                .range::<str, _>((Bound::Included(below.as_str()), Bound::Unbounded))
                .next()
                .is_some_and(|(p, _)| p.starts_with(&below));
            if inside(&file.to) || above {
                let why = format!("the destination {:?} is taken already", file.to);
                return Err(Error::manifest(&project.place, why));
            }
            taken.insert(&file.to, &project.place);
        }
    }
    Ok(())
}
