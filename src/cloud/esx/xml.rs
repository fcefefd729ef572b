//! XML as far as vSphere and OVF use it: trees of elements, read with distrust and written by a library.

use quick_xml::Reader;
use quick_xml::Writer;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};

/// No document is nested deeper.
const DEPTH: usize = 64;

/// No document has more elements: a listing of ten thousand machines has a tenth.
const ELEMENTS: usize = 2_000_000;

/// The attribute that says which of several types an element has.
const XSI_TYPE: &str = "xsi:type";

/// An element: text, or other elements. Names have no prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    name: String,
    attributes: Vec<(String, String)>,
    children: Vec<Element>,
    text: String,
}

/// A managed object: what the server calls it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ref {
    /// Its type, such as `VirtualMachine`.
    pub kind: String,
    /// Its id, such as `vm-17`.
    pub id: String,
}

impl Ref {
    /// Of a type and an id.
    pub fn new(kind: &str, id: &str) -> Self {
        Self { kind: kind.into(), id: id.into() }
    }
}

impl Element {
    /// An empty one.
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// One with a text.
    pub fn text(name: &str, text: impl ToString) -> Self {
        Self { name: name.into(), text: text.to_string(), ..Self::default() }
    }

    /// One that refers to an object.
    pub fn reference(name: &str, to: &Ref) -> Self {
        Self::text(name, &to.id).attribute("type", &to.kind)
    }

    /// An empty one of one of several types.
    pub fn typed(name: &str, kind: &str) -> Self {
        Self::new(name).attribute(XSI_TYPE, kind)
    }

    /// With an attribute.
    #[must_use]
    pub fn attribute(mut self, name: &str, value: &str) -> Self {
        self.attributes.push((name.into(), value.into()));
        self
    }

    /// With another element in it.
    #[must_use]
    pub fn with(mut self, child: Self) -> Self {
        self.children.push(child);
        self
    }

    /// With others in it.
    #[must_use]
    pub fn with_all(mut self, children: impl IntoIterator<Item = Self>) -> Self {
        self.children.extend(children);
        self
    }

    /// Under another name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Replaces the first element of this name in it, or adds it at the end.
    pub fn set(&mut self, child: Self) {
        match self.children.iter_mut().find(|c| c.name == child.name) {
            Some(there) => *there = child,
            None => self.children.push(child),
        }
    }

    /// Adds an element before the first one of these names, at the end if there is none.
    pub fn insert_before(&mut self, names: &[&str], child: Self) {
        let at = self.children.iter().position(|c| names.contains(&&*c.name));
        self.children.insert(at.unwrap_or(self.children.len()), child);
    }

    /// The first element of this name in it, to be changed.
    pub fn child_mut(&mut self, name: &str) -> Option<&mut Self> {
        self.children.iter_mut().find(|c| c.name == name)
    }

    /// Takes all elements of a name out of it.
    pub fn remove(&mut self, name: &str) {
        self.children.retain(|c| c.name != name);
    }

    /// The elements in it.
    pub fn children(&self) -> &[Self] {
        &self.children
    }

    /// Those of a name in it.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |c| c.name == name)
    }

    /// The first one on a way of names with slashes between them.
    pub fn at(&self, way: &str) -> Option<&Self> {
        way.split('/').try_fold(self, |at, name| at.children.iter().find(|c| c.name == name))
    }

    /// The text of the first one on a way, if it is not empty.
    pub fn said(&self, way: &str) -> Option<&str> {
        self.at(way).map(|e| e.text.as_str()).filter(|t| !t.is_empty())
    }

    /// Its own text.
    pub fn own(&self) -> &str {
        &self.text
    }

    /// Its value for an attribute, whatever the prefix.
    pub fn value(&self, attribute: &str) -> Option<&str> {
        let is_it = |name: &str| name.rsplit(':').next() == Some(attribute);
        self.attributes.iter().find(|(name, _)| is_it(name)).map(|(_, value)| value.as_str())
    }

    /// The type that it says it has, of several.
    pub fn kind(&self) -> &str {
        let said = self.attributes.iter().find(|(name, _)| name == XSI_TYPE);
        said.map_or("", |(_, kind)| kind.rsplit(':').next().unwrap_or_default())
    }

    /// The object that it refers to.
    pub fn target(&self) -> Option<Ref> {
        let kind = self.attributes.iter().find(|(name, _)| name == "type")?;
        (!self.text.is_empty()).then(|| Ref { kind: kind.1.clone(), id: self.text.clone() })
    }

    /// The object that the first one on a way refers to.
    pub fn target_at(&self, way: &str) -> Option<Ref> {
        self.at(way)?.target()
    }

    /// Reads a document.
    ///
    /// # Errors
    /// What is wrong, without a word of the document.
    pub fn read(document: &[u8]) -> Result<Self, &'static str> {
        const ODD: &str = "it is no XML";
        let text = std::str::from_utf8(document).map_err(|_| "it is not UTF-8")?;
        let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}'));
        let (mut open, mut root, mut count) = (Vec::<Self>::new(), None, 0);
        loop {
            match reader.read_event().map_err(|_| ODD)? {
                Event::Start(tag) => {
                    count += 1;
                    if open.len() == DEPTH || count > ELEMENTS || root.is_some() {
                        return Err("it is nested too deep, or too long");
                    }
                    open.push(Self::of_tag(&tag).ok_or(ODD)?);
                }
                Event::Empty(tag) => {
                    count += 1;
                    let element = Self::of_tag(&tag).ok_or(ODD)?;
                    match open.last_mut() {
                        Some(parent) if count <= ELEMENTS => parent.children.push(element),
                        None if root.is_none() => root = Some(element),
                        _ => return Err(ODD),
                    }
                }
                Event::End(_) => {
                    let mut done = open.pop().ok_or(ODD)?;
                    if !done.children.is_empty() {
                        done.text.clear(); // only blanks between elements
                    }
                    match open.last_mut() {
                        Some(parent) => parent.children.push(done),
                        None => root = Some(done),
                    }
                }
                Event::Text(text) => {
                    let text = text.decode().map_err(|_| ODD)?;
                    if let Some(element) = open.last_mut() {
                        element.text.push_str(&text);
                    }
                }
                Event::CData(text) => {
                    let text = text.decode().map_err(|_| ODD)?;
                    open.last_mut().ok_or(ODD)?.text.push_str(&text);
                }
                Event::GeneralRef(entity) => {
                    let place = &mut open.last_mut().ok_or(ODD)?.text;
                    match entity.resolve_char_ref().map_err(|_| ODD)? {
                        Some(c) => place.push(c),
                        None => {
                            let name = entity.decode().map_err(|_| ODD)?;
                            place.push_str(
                                resolve_predefined_entity(&name).ok_or("it has entities of its own")?,
                            );
                        }
                    }
                }
                Event::DocType(_) => return Err("it defines a type of document of its own"),
                Event::Eof if open.is_empty() => return root.ok_or(ODD),
                Event::Eof => return Err("it ends in the middle"),
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            }
        }
    }

    fn of_tag(tag: &BytesStart<'_>) -> Option<Self> {
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
        let mut element = Self { name: text(tag.local_name().as_ref())?, ..Self::default() };
        for attribute in tag.attributes() {
            let attribute = attribute.ok()?;
            let name = text(attribute.key.as_ref())?;
            if name == "xmlns" || name.starts_with("xmlns:") {
                continue;
            }
            // Whatever the server calls the namespace.
            let name = if name.ends_with(":type") { XSI_TYPE.to_owned() } else { name };
            // Entities other than XML's own are an error.
            let value =
                quick_xml::escape::unescape(std::str::from_utf8(&attribute.value).ok()?).ok()?.into_owned();
            element.attributes.push((name, value));
        }
        Some(element)
    }

    /// Writes it.
    fn write(&self, writer: &mut Writer<Vec<u8>>) -> std::io::Result<()> {
        let attributes = self.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let tag = BytesStart::new(&self.name).with_attributes(attributes);
        if self.children.is_empty() && self.text.is_empty() {
            return writer.write_event(Event::Empty(tag));
        }
        writer.write_event(Event::Start(tag))?;
        if self.children.is_empty() {
            writer.write_event(Event::Text(BytesText::new(&self.text)))?;
        }
        for child in &self.children {
            child.write(writer)?;
        }
        writer.write_event(Event::End(BytesEnd::new(&self.name)))
    }

    /// The envelope in which a request is sent (SOAP 1.1), with this in it.
    pub fn envelope(self) -> Vec<u8> {
        let envelope = Self::new("soapenv:Envelope")
            .attribute("xmlns:soapenv", "http://schemas.xmlsoap.org/soap/envelope/")
            .attribute("xmlns:xsd", "http://www.w3.org/2001/XMLSchema")
            .attribute("xmlns:xsi", "http://www.w3.org/2001/XMLSchema-instance")
            .with(Self::new("soapenv:Body").with(self.attribute("xmlns", "urn:vim25")));
        let mut writer = Writer::new(br#"<?xml version="1.0" encoding="UTF-8"?>"#.to_vec());
        envelope.write(&mut writer).expect("memory takes what is written");
        writer.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let said = Element::new("Say")
            .with(Element::reference("_this", &Ref::new("Folder", "group-v3")))
            .with(Element::typed("spec", "Special").with(Element::text("name", "a<b>&\"c\" ü")))
            .with(Element::new("nothing"));
        let text = String::from_utf8(said.envelope()).unwrap();
        assert!(text.contains(r#"<Say xmlns="urn:vim25"><_this type="Folder">group-v3</_this>"#), "{text}");
        let read = Element::read(text.as_bytes()).unwrap();
        let say = read.at("Body/Say").unwrap();
        assert_eq!(say.said("spec/name"), Some("a<b>&\"c\" ü"));
        assert_eq!((say.at("spec").unwrap().kind(), say.said("nothing")), ("Special", None));
        assert_eq!(say.target_at("_this"), Some(Ref::new("Folder", "group-v3")));
        // A server may call the namespace of types as it likes.
        let odd = br#"<a:x xmlns:q="u"><v q:type="xsd:int" type="Task">1&#50;&amp;<![CDATA[<]]></v> </a:x>"#;
        let odd = Element::read(odd).unwrap();
        let v = odd.at("v").unwrap();
        assert_eq!((v.kind(), v.own(), v.target().unwrap().kind.as_str()), ("int", "12&<", "Task"));
        assert_eq!((odd.name(), odd.own(), odd.children().len()), ("x", "", 1));
    }

    #[test]
    fn hostile_documents_are_refused() {
        let deep = format!("{}{}", "<a>".repeat(100), "</a>".repeat(100));
        let laughs = r#"<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><l>&b;</l>"#;
        for bad in [
            "",
            "<a",
            "<a>",
            "<a></b>",
            "</a>",
            "<a/><b/>",
            "<a/>&lt;",
            "<a>&SECRET;</a>",
            "<a b='&SECRET;'/>",
            "<a b=1/>",
            "\u{0}",
            laughs,
            &deep,
        ] {
            let error = Element::read(bad.as_bytes());
            assert!(error.as_ref().is_err_and(|e| !e.contains("SECRET")), "{bad}: {error:?}");
        }
        assert!(Element::read(b"<a>\xff</a>").is_err());
        assert!(Element::read("\u{feff}<?xml version='1.0'?><!-- x --><a/>\n".as_bytes()).is_ok());
    }
}
