//! XML in and out. Documents come from whoever can reach the server, so they are looked through before they are read.

use quick_xml::Reader;
use quick_xml::events::Event;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Error, MAX_DOCUMENT};

/// Deepest nesting that is read; Omaha needs seven levels.
const DEPTH: usize = 16;
/// Elements of a document at most; a request of update_engine has ten.
const ELEMENTS: usize = 4096;

/// Reads a document whose root element is `root`.
pub(super) fn read<T: DeserializeOwned>(root: &'static str, document: &[u8]) -> Result<T, Error> {
    let malformed = |why: String| Error::Malformed { wanted: root, why };
    if document.len() > MAX_DOCUMENT {
        return Err(malformed(format!("it is longer than {MAX_DOCUMENT} bytes")));
    }
    let text = std::str::from_utf8(document).map_err(|e| malformed(format!("it is not UTF-8: {e}")))?;
    inspect(root, text).map_err(malformed)?;
    quick_xml::de::from_str(text).map_err(|e| malformed(e.to_string()))
}

/// Refuses what is not one element `root`, and what could cost more than its length.
fn inspect(root: &str, text: &str) -> Result<(), String> {
    let mut reader = Reader::from_str(text);
    reader.config_mut().check_end_names = true;
    let (mut depth, mut elements, mut roots) = (0_usize, 0_usize, 0_usize);
    loop {
        let event = reader.read_event().map_err(|e| format!("{e} at byte {}", reader.error_position()))?;
        let started = match &event {
            Event::Eof if roots == 0 => return Err("it has no element".into()),
            Event::Eof if depth > 0 => return Err("it ends early".into()),
            Event::Eof => return Ok(()),
            // Definitions of entities: nothing here needs them, and their expansion has no bound.
            Event::DocType(_) => return Err("it has a document type".into()),
            Event::Start(start) | Event::Empty(start) => start,
            Event::End(_) => {
                depth -= 1;
                continue;
            }
            Event::Text(text) if depth == 0 && !text.iter().all(u8::is_ascii_whitespace) => {
                return Err("it has text outside of its element".into());
            }
            _ => continue,
        };
        if depth == 0 {
            roots += 1;
            let name = String::from_utf8_lossy(started.name().into_inner()).into_owned();
            if name != root {
                return Err(format!("its element is {name:?}"));
            }
            if roots > 1 {
                return Err("it has more than one element".into());
            }
        }
        elements += 1;
        if elements > ELEMENTS {
            return Err(format!("it has more than {ELEMENTS} elements"));
        }
        if matches!(event, Event::Start(_)) {
            depth += 1;
        }
        if depth > DEPTH {
            return Err(format!("it is nested deeper than {DEPTH} elements"));
        }
    }
}

/// Writes a document with the usual first line, indented by `indent` characters `with`.
pub(super) fn write<T: Serialize>(value: &T, with: char, indent: usize) -> Result<String, Error> {
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let mut serializer = quick_xml::se::Serializer::new(&mut text);
    serializer.indent(with, indent);
    value.serialize(serializer)?;
    text.push('\n');
    Ok(text)
}
