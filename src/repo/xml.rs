//! The XML of manifests: read with the place of everything, and written.
//!
//! A file is at most [`MAX_SIZE`] bytes; entities cannot be defined, so that what is read is never longer than what is
//! there.

use std::fmt::Write as _;

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use crate::warning;

use super::LOG;

/// Longest manifest that is read, in bytes; Android's, with a thousand projects, have 200 000.
pub const MAX_SIZE: usize = 4 << 20;
/// Deepest nesting that is read; projects in projects are rare.
const DEPTH: usize = 16;
/// Elements of a file at most.
const ELEMENTS: usize = 20_000;

/// What an element may have, in the order in which it is written.
struct Kind {
    name: &'static str,
    /// A `!` behind the name: it must be there.
    attributes: &'static [&'static str],
    children: &'static [&'static str],
    text: bool,
}

const fn kind(name: &'static str, attributes: &'static [&'static str]) -> Kind {
    Kind { name, attributes, children: &[], text: false }
}

const ROOT: &str = "manifest";

const KINDS: &[Kind] = &[
    Kind {
        children: &[
            "include",
            "notice",
            "remote",
            "default",
            "manifest-server",
            "project",
            "extend-project",
            "remove-project",
            "repo-hooks",
        ],
        ..kind(ROOT, &[])
    },
    kind("include", &["name!"]),
    Kind { text: true, ..kind("notice", &[]) },
    kind("remote", &["name!", "alias", "fetch!", "review", "revision"]),
    kind("default", &["remote", "revision", "dest-branch", "sync-j", "sync-c", "sync-s"]),
    kind("manifest-server", &["url!"]),
    Kind {
        children: &["annotation", "project", "copyfile", "linkfile"],
        ..kind(
            "project",
            &[
                "name!",
                "path",
                "remote",
                "revision",
                "dest-branch",
                "groups",
                "sync-c",
                "sync-s",
                "upstream",
                "clone-depth",
                "force-path",
            ],
        )
    },
    kind("extend-project", &["name!", "path", "groups", "revision", "remote"]),
    kind("remove-project", &["name!", "optional"]),
    kind("annotation", &["name!", "value!", "keep"]),
    kind("copyfile", &["src!", "dest!"]),
    kind("linkfile", &["src!", "dest!"]),
    kind("repo-hooks", &["in-project!", "enabled-list!"]),
];

/// One element with what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// What it is called.
    pub name: &'static str,
    /// Where it begins, from 1.
    pub line: usize,
    /// In the order of the format, each once.
    attributes: Vec<(&'static str, String)>,
    /// In the order of the document.
    pub children: Vec<Element>,
    /// Of a notice.
    pub text: String,
}

impl Element {
    /// An empty element at no line.
    fn new(kind: &Kind) -> Self {
        Self { name: kind.name, line: 0, attributes: Vec::new(), children: Vec::new(), text: String::new() }
    }

    /// The value of an attribute that is there and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(n, _)| *n == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// The value of an attribute that every element of this kind has.
    pub fn required(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    fn kind(&self) -> &'static Kind {
        find(self.name).unwrap_or(&KINDS[0])
    }

    fn write(&self, depth: usize, out: &mut String) {
        let indent = "  ".repeat(depth);
        let mut tag = format!("{indent}<{}", self.name);
        for (name, value) in &self.attributes {
            // Writing to a string cannot fail.
            let _ = write!(tag, " {name}=\"{}\"", escape(value));
        }
        out.push_str(&tag);
        if self.children.is_empty() && self.text.is_empty() {
            out.push_str("/>\n");
            return;
        }
        out.push('>');
        if self.children.is_empty() {
            out.push_str(&escape(&self.text));
        } else {
            out.push('\n');
            self.children.iter().for_each(|child| child.write(depth + 1, out));
            out.push_str(&indent);
        }
        let _ = writeln!(out, "</{}>", self.name);
    }
}

fn find(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A manifest that does nothing but include another one, as `repo init` leaves it.
pub fn including(name: &str) -> String {
    let mut root = Element::new(&KINDS[0]);
    let mut include = Element::new(&KINDS[1]);
    include.attributes.push(("name", name.to_owned()));
    root.children.push(include);
    write(&root)
}

/// Writes a manifest: the usual first line, two spaces for each level, attributes in the order of the format. The
/// elements stay in the order of the document, which has a meaning where projects are removed.
pub fn write(root: &Element) -> String {
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    root.write(0, &mut text);
    text
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub why: String,
}

/// Reads a manifest; `file` is what warnings call it. What no manifest of the format has is left out, with a warning.
///
/// # Errors
/// When it is no XML, no manifest, has a document type, or lacks what it must have.
pub fn read(document: &[u8], file: &str) -> Result<Element, Malformed> {
    let at_start = |why: String| Malformed { line: 1, why };
    if document.len() > MAX_SIZE {
        return Err(at_start(format!("it is longer than {MAX_SIZE} bytes")));
    }
    let text = std::str::from_utf8(document).map_err(|e| at_start(format!("it is not UTF-8: {e}")))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader::from_str(text);
    reader.config_mut().check_end_names = true;
    let mut open: Vec<Element> = Vec::new();
    let mut root = None;
    let mut skipped = 0_usize; // depth below an element that is left out
    let (mut elements, mut line, mut counted) = (0_usize, 1_usize, 0_usize);
    loop {
        let start = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX).min(text.len());
        line += text.as_bytes()[counted..start].iter().filter(|b| **b == b'\n').count();
        counted = start;
        let wrong = |why: String| Malformed { line, why };
        let event = reader.read_event().map_err(|e| wrong(e.to_string()))?;
        let is_empty = matches!(event, Event::Empty(_));
        match event {
            Event::Eof if open.is_empty() && skipped == 0 => {
                return root.ok_or_else(|| wrong("it has no element".into()));
            }
            Event::Eof => return Err(wrong("it ends early".into())),
            Event::DocType(_) => {
                return Err(wrong("it has a document type, which manifests have no need of".into()));
            }
            Event::Start(_) | Event::Empty(_) if skipped > 0 => skipped += usize::from(!is_empty),
            Event::Start(start) | Event::Empty(start) => {
                elements += 1;
                if elements > ELEMENTS {
                    return Err(wrong(format!("it has more than {ELEMENTS} elements")));
                }
                if open.len() >= DEPTH {
                    return Err(wrong(format!("it is nested deeper than {DEPTH} elements")));
                }
                let name = String::from_utf8_lossy(start.name().into_inner()).into_owned();
                let kind = match open.last() {
                    None if root.is_some() => return Err(wrong("it has more than one element".into())),
                    None if name != ROOT => {
                        return Err(wrong(format!("it is no manifest: its element is <{name}>")));
                    }
                    None => &KINDS[0],
                    Some(parent) => {
                        match find(&name).filter(|kind| parent.kind().children.contains(&kind.name)) {
                            Some(kind) => kind,
                            None => {
                                warning!(LOG, "{file}:{line}: <{name}> is not understood and left out");
                                skipped += usize::from(!is_empty);
                                continue;
                            }
                        }
                    }
                };
                let element = element(kind, &start, line, file).map_err(wrong)?;
                if is_empty {
                    close(element, &mut open, &mut root);
                } else {
                    open.push(element);
                }
            }
            Event::End(_) if skipped > 0 => skipped -= 1,
            Event::End(_) => {
                if let Some(element) = open.pop() {
                    close(element, &mut open, &mut root);
                }
            }
            Event::Text(part) => {
                let part = part.decode().map_err(|e| wrong(e.to_string()))?;
                add_text(&part, &mut open, skipped).map_err(wrong)?;
            }
            Event::CData(part) => {
                let part = part.decode().map_err(|e| wrong(e.to_string()))?;
                add_text(&part, &mut open, skipped).map_err(wrong)?;
            }
            Event::GeneralRef(entity) => {
                let character = entity.resolve_char_ref().map_err(|e| wrong(e.to_string()))?;
                let name = entity.decode().map_err(|e| wrong(e.to_string()))?;
                let text = match character {
                    Some(character) => character.to_string(),
                    None => quick_xml::escape::resolve_predefined_entity(&name)
                        .ok_or_else(|| wrong(format!("the entity &{name}; is not defined")))?
                        .to_owned(),
                };
                add_text(&text, &mut open, skipped).map_err(wrong)?;
            }
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
        }
    }
}

fn close(element: Element, open: &mut [Element], root: &mut Option<Element>) {
    match open.last_mut() {
        Some(parent) => parent.children.push(element),
        None => *root = Some(element),
    }
}

fn add_text(text: &str, open: &mut [Element], skipped: usize) -> Result<(), String> {
    match open.last_mut() {
        _ if skipped > 0 => {}
        Some(element) if element.kind().text => element.text.push_str(text),
        _ if text.trim().is_empty() => {}
        Some(element) => return Err(format!("<{}> has text in it", element.name)),
        None => return Err("there is text outside of its element".into()),
    }
    Ok(())
}

fn element(kind: &'static Kind, start: &BytesStart<'_>, line: usize, file: &str) -> Result<Element, String> {
    let mut given: Vec<(String, String)> = Vec::new();
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|e| format!("<{}>: {e}", kind.name))?;
        let name = String::from_utf8_lossy(attribute.key.into_inner()).into_owned();
        let value = attribute.normalized_value(XmlVersion::Implicit1_0);
        let value = value.map_err(|e| format!("<{} {name}>: {e}", kind.name))?;
        given.push((name, value.into_owned()));
    }
    let mut element = Element { line, ..Element::new(kind) };
    for spec in kind.attributes {
        let name = spec.trim_end_matches('!');
        match given.iter().position(|(given, _)| given == name) {
            Some(at) => element.attributes.push((name, given.swap_remove(at).1)),
            None if name.len() < spec.len() => return Err(format!("<{}> has no {name}", kind.name)),
            None => {}
        }
        if name.len() < spec.len() && element.get(name).is_none() {
            return Err(format!("<{}> has an empty {name}", kind.name));
        }
    }
    for (name, _) in given {
        warning!(LOG, "{file}:{line}: {name} of <{}> is not understood and left out", kind.name);
    }
    Ok(element)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `repo manifest -r` writes it, but for blank lines.
    const PINNED: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<manifest>
  <notice>Your sources &amp; ours.</notice>
  <remote name="cros" alias="origin" fetch="https://chromium.example" review="https://review.example"/>
  <remote name="github" fetch=".."/>
  <default remote="github" revision="refs/heads/master" sync-j="4" sync-c="true"/>
  <manifest-server url="https://server.example/"/>
  <project name="coreos/ä" path="src/a" revision="0123456789012345678901234567890123456789" groups="minilayout, b" upstream="refs/heads/master">
    <annotation name="x" value="&lt;y&gt; &quot;z&quot;" keep="true"/>
    <project name="nested" path="in"/>
    <copyfile src="a" dest="b"/>
    <linkfile src="c" dest="d"/>
  </project>
  <extend-project name="coreos/b" path="c" groups="g"/>
  <remove-project name="coreos/c"/>
  <repo-hooks in-project="coreos/hooks" enabled-list="pre-upload"/>
</manifest>
"#;

    #[test]
    fn what_repo_writes_comes_back_unchanged() {
        let read = |text: &str| super::read(text.as_bytes(), "x").unwrap();
        let manifest = read(PINNED);
        assert_eq!(write(&manifest), PINNED);
        let project = manifest.children.iter().find(|e| e.name == "project").unwrap();
        assert_eq!((project.line, project.get("path"), project.get("remote")), (8, Some("src/a"), None));
        assert_eq!(project.children[0].required("value"), "<y> \"z\"");
        // Comments, blank lines, other orders and tags that are closed apart make no difference.
        let other = "\u{feff}<?xml version='1.0'?><!-- a --><manifest>\n\n <remote fetch='..' name='g'></remote>\n</manifest>";
        let plain = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<manifest>\n  <remote name=\"g\" fetch=\"..\"/>\n</manifest>\n";
        assert_eq!(write(&read(other)), plain);
        assert_eq!(read(&including("a&b.xml")).children[0].required("name"), "a&b.xml");
    }

    #[test]
    fn what_is_not_understood_is_left_out() {
        let text = "<manifest><contactinfo a='b'>text<x/><x>y</x></contactinfo><project name='a' sync-tags='x'/><annotation/></manifest>";
        let manifest = read(text.as_bytes(), "x").unwrap();
        assert_eq!(manifest.children.len(), 1);
        assert!(!write(&manifest).contains("sync-tags"));
    }

    #[test]
    fn refusals_say_where() {
        let deep = format!("<manifest>{}", "<project name='a'>".repeat(20));
        let many = format!("<manifest>{}</manifest>", "<project name='a'/>".repeat(ELEMENTS + 1));
        let laughs =
            "<?xml version='1.0'?>\n<!DOCTYPE m [<!ENTITY a 'ha'><!ENTITY b '&a;&a;'>]>\n<manifest/>";
        for (text, line, why) in [
            ("", 1, "no element"),
            ("<manifest>\n", 2, "ends early"),
            ("<manifest></project>", 1, "manifest"),
            ("<project name='a'/>", 1, "it is no manifest"),
            ("<manifest/>\n<manifest/>", 2, "more than one"),
            ("<manifest>\n<project/>\n</manifest>", 2, "<project> has no name"),
            ("<manifest>\n\n<project name=''/></manifest>", 3, "empty name"),
            ("<manifest><project name='a' name='b'/></manifest>", 1, "duplicate"),
            ("<manifest>\nwords</manifest>", 1, "text in it"),
            ("<manifest><notice>&lol;</notice></manifest>", 1, "not defined"),
            ("<manifest><project name='&lol;'/></manifest>", 1, "lol"),
            ("<manifest><!-- ", 1, "omment"),
            (laughs, 2, "document type"),
            (&deep, 1, "nested deeper"),
            (&many, 1, "more than 20000"),
        ] {
            let error = read(text.as_bytes(), "x").unwrap_err();
            assert!(error.why.contains(why) && error.line == line, "{text:.60}: {error:?}");
        }
        assert!(read(b"<manifest>\xff</manifest>", "x").unwrap_err().why.contains("UTF-8"));
        assert!(read(&vec![b' '; MAX_SIZE + 1], "x").unwrap_err().why.contains("longer"));
    }
}
