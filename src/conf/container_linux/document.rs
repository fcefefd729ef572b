//! YAML with the place of each value, as far as configs need it.
//!
//! Scalars keep their text: what `0644` or `yes` means depends on what is wanted there, and Container Linux Config goes by
//! YAML 1.1, in which they are 420 and true.

use std::collections::HashMap;
use std::fmt;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::report::Fault;

/// No config is nested deeper.
const MAX_DEPTH: usize = 64;
/// Values in all, those that aliases repeat counted each time.
const MAX_VALUES: usize = 200_000;
/// Bytes of text in all, counted likewise.
const MAX_TEXT: usize = 32 << 20;
/// The scanner's time grows with the square of the depth, so absurd depths never reach it.
const MAX_OPEN: usize = 5_000;

/// A place in the text; both are counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

impl From<Span> for Place {
    fn from(span: Span) -> Self {
        Self { line: span.start.line(), column: span.start.col() + 1 }
    }
}

/// A value and where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub at: Place,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// `plain`: not quoted, so that it may also be a number, a flag or nothing.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub key: String,
    pub at: Place,
    pub value: Node,
}

impl Node {
    /// Whether nothing is said here.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// Values and bytes of text in it.
    fn size(&self) -> (usize, usize) {
        let add = |a: (usize, usize), b: (usize, usize)| (a.0 + b.0, a.1 + b.1);
        match &self.value {
            Value::Scalar { text, .. } => (1, text.len()),
            Value::List(list) => list.iter().map(Self::size).fold((1, 0), add),
            Value::Map(map) => map.iter().map(|e| add(e.value.size(), (0, e.key.len()))).fold((1, 0), add),
        }
    }
}

/// A list or mapping that has begun.
struct Open {
    at: Place,
    anchor: usize,
    what: What,
}

enum What {
    List(Vec<Node>),
    /// With the key whose value comes next.
    Map(Vec<Entry>, Option<(String, Place)>),
}

struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    root: Option<Node>,
    values: usize,
    text: usize,
}

/// Reads one document; `None` if there is nothing in it.
///
/// # Errors
/// What is no YAML, more than one document, a key twice in a mapping, a key that is no text, a tag that would change a
/// value's meaning, and documents that no machine could need.
pub(super) fn parse(text: &str) -> Result<Option<Node>, Fault> {
    let mut open = 0_usize;
    for (i, line) in text.lines().enumerate() {
        for byte in line.bytes() {
            match byte {
                b'[' | b'{' => open += 1,
                b']' | b'}' => open = open.saturating_sub(1),
                _ => {}
            }
        }
        if open > MAX_OPEN {
            let at = Place { line: i + 1, column: 1 };
            return Err(Fault::at(at, "more open brackets than a config can need"));
        }
    }
    let mut builder = Builder { open: Vec::new(), anchors: HashMap::new(), root: None, values: 0, text: 0 };
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| {
            let at = Place { line: e.marker().line(), column: e.marker().col() + 1 };
            Fault::at(at, format!("not valid YAML: {}", e.info()))
        })?;
        let at = Place::from(span);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            Event::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    return Err(Fault::at(at, "a second document begins here; a config is one"));
                }
            }
            Event::Alias(anchor) => builder.alias(at, anchor)?,
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && !check_tag(at, tag.as_deref())?;
                builder.add(anchor, Node { at, value: Value::Scalar { text: text.into_owned(), plain } })?;
            }
            Event::SequenceStart(anchor, tag) => {
                check_tag(at, tag.as_deref())?;
                builder.begin(at, anchor, What::List(Vec::new()))?;
            }
            Event::MappingStart(anchor, tag) => {
                check_tag(at, tag.as_deref())?;
                builder.begin(at, anchor, What::Map(Vec::new(), None))?;
            }
            Event::SequenceEnd | Event::MappingEnd => builder.end()?,
        }
    }
    Ok(builder.root.filter(|root| !root.is_null()))
}

/// Whether the tag makes it text.
fn check_tag(at: Place, tag: Option<&Tag>) -> Result<bool, Fault> {
    let Some(tag) = tag else { return Ok(false) };
    match (tag.is_yaml_core_schema(), tag.suffix.as_str()) {
        (true, "str") => Ok(true),
        (true, "int" | "float" | "bool" | "null" | "map" | "seq") => Ok(false),
        _ => Err(Fault::at(at, format!("the tag {}{} has no meaning here", tag.handle, tag.suffix))),
    }
}

impl Builder {
    fn spend(&mut self, at: Place, (values, text): (usize, usize)) -> Result<(), Fault> {
        self.values += values;
        self.text += text;
        if self.values > MAX_VALUES || self.text > MAX_TEXT {
            return Err(Fault::at(at, "the document is too large, its aliases counted"));
        }
        Ok(())
    }

    fn begin(&mut self, at: Place, anchor: usize, what: What) -> Result<(), Fault> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Fault::at(at, "nested deeper than a config can need"));
        }
        self.open.push(Open { at, anchor, what });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Fault> {
        let Some(Open { at, anchor, what }) = self.open.pop() else { return Ok(()) };
        let value = match what {
            What::List(list) => Value::List(list),
            What::Map(map, _) => Value::Map(merged(map)?),
        };
        self.add(anchor, Node { at, value })
    }

    fn alias(&mut self, at: Place, anchor: usize) -> Result<(), Fault> {
        // Its size is looked at before it is copied: copies of copies grow fast.
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(Fault::at(at, "an alias of something that is not complete yet"));
        };
        let size = node.size();
        let node = node.clone();
        self.spend(at, size)?;
        self.place(node)
    }

    fn add(&mut self, anchor: usize, node: Node) -> Result<(), Fault> {
        if let Value::Scalar { text, .. } = &node.value {
            self.spend(node.at, (1, text.len()))?;
        } else {
            self.spend(node.at, (1, 0))?;
        }
        if anchor != 0 {
            self.spend(node.at, node.size())?;
            self.anchors.insert(anchor, node.clone());
        }
        self.place(node)
    }

    fn place(&mut self, node: Node) -> Result<(), Fault> {
        match self.open.last_mut().map(|open| &mut open.what) {
            None => self.root = Some(node),
            Some(What::List(list)) => list.push(node),
            Some(What::Map(map, key)) => match key.take() {
                Some((key, at)) => map.push(Entry { key, at, value: node }),
                None => {
                    let Value::Scalar { text, .. } = node.value else {
                        return Err(Fault::at(node.at, "a key must be text"));
                    };
                    *key = Some((text, node.at));
                }
            },
        }
        Ok(())
    }
}

/// Resolves merge keys (`<<`) and refuses keys that occur twice.
fn merged(map: Vec<Entry>) -> Result<Vec<Entry>, Fault> {
    let mut first: HashMap<String, Place> = HashMap::new();
    let (mut out, mut sources) = (Vec::with_capacity(map.len()), Vec::new());
    for entry in map {
        if entry.key == "<<" {
            sources.push(entry.value);
            continue;
        }
        if let Some(place) = first.insert(entry.key.clone(), entry.at) {
            return Err(Fault::at(
                entry.at,
                format!("the key {:?} is also on line {}", entry.key, place.line),
            ));
        }
        out.push(entry);
    }
    for source in sources {
        let maps = match source.value {
            Value::List(list) => list,
            _ => vec![source],
        };
        for map in maps {
            let Value::Map(entries) = map.value else {
                return Err(Fault::at(map.at, "a merge key (<<) takes mappings only"));
            };
            for entry in entries {
                if !first.contains_key(&entry.key) {
                    first.insert(entry.key.clone(), entry.at);
                    out.push(entry);
                }
            }
        }
    }
    Ok(out)
}
