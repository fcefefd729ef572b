//! The bytes of pages. The plain ones are as mantle 0.12.0 wrote them, so that old pages need no rewriting, except that
//! links lead to every name.

pub mod details;

use std::fmt::Write as _;

use crate::text::percent::encode;

/// What all pages are.
pub const CONTENT_TYPE: &str = "text/html";
/// How long readers may keep pages.
pub const CACHE_CONTROL: &str = "public, max-age=60";

/// The page that leads from a folder's name without its slash to the folder.
pub fn redirect(prefix: &str) -> String {
    format!(
        "<html><head>\n<meta http-equiv=\"refresh\" content=\"0;url={}/\">\n</head></html>\n",
        encode(base_name(prefix))
    )
}

/// The page that lists a folder: names of folders and of objects in it, without what is above.
pub fn folder<'a>(
    title: &str,
    folders: impl Iterator<Item = &'a str>,
    objects: impl Iterator<Item = &'a str>,
) -> String {
    let title = escape(title);
    let mut page = format!(
        "<html>\n    <head>\n\t<title>{title}</title>\n\t<meta http-equiv=\"X-Clacks-Overhead\" content=\"GNU Terry \
         Pratchett\" />\n    </head>\n    <body>\n    <h1>{title}</h1>\n    "
    );
    let mut list = |kind, names: &mut dyn Iterator<Item = &'a str>, slash| {
        for name in names {
            let (href, text) = (href(name), escape(name));
            let _ = write!(page, "\n\t[{kind}] <a href=\"{href}{slash}\">{text}</a> <br/>\n    ");
        }
        page.push_str("\n    ");
    };
    let (mut folders, mut objects) = (folders, objects);
    list("dir", &mut folders, "/");
    list("file", &mut objects, "");
    page.push_str("</body>\n</html>\n");
    page
}

/// The last component of a name or a folder.
pub fn base_name(name: &str) -> &str {
    let name = name.strip_suffix('/').unwrap_or(name);
    name.rsplit('/').next().unwrap_or_default()
}

/// A relative reference (RFC 3986, 4.2) to a name in the same folder, safe in a quoted attribute.
///
/// All but the unreserved characters are encoded, in lower case. A name with a colon would be taken for a scheme by
/// readers that decode first, an empty one for the top of the site: `./` goes before those.
fn href(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 2);
    if name.contains(':') || name.is_empty() {
        out.push_str("./");
    }
    for &byte in name.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02x}");
        }
    }
    out
}

/// Text for HTML: ASCII, because the plain pages do not say how they are encoded. Control characters, which HTML has no
/// place for, become U+FFFD.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push_str("&#65533;"),
            c if c.is_ascii() => out.push(c),
            c => {
                let _ = write!(out, "&#{};", u32::from(c));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::google::storage::format_crc32c;

    fn mark(page: &str) -> (usize, String) {
        (page.len(), format_crc32c(crc32c::crc32c(page.as_bytes())))
    }

    fn page(title: &str, folders: &[&str], objects: &[&str]) -> String {
        folder(title, folders.iter().copied(), objects.iter().copied())
    }

    #[test]
    fn pages_are_those_of_upstream() {
        for (page, size, crc) in [
            (redirect("boards/amd64-usr/"), 83, "xH9jaw=="),
            (page("bkt/p/dir/", &[], &["obj"]), 234, "6+V4fQ=="),
            (page("bkt/", &["dir"], &[]), 222, "R1Grmw=="),
            (page("bkt/", &["d2", "dir"], &["f2", "f10"]), 341, "veDLcQ=="),
        ] {
            assert_eq!(mark(&page), (size, crc.to_owned()), "{page}");
        }
    }

    #[test]
    fn every_name_has_a_live_link() {
        for (name, link) in [
            ("docker:17.03.torcx.tgz", "./docker%3a17.03.torcx.tgz"),
            ("what?.txt", "what%3f.txt"),
            ("a#b", "a%23b"),
            ("100%25", "100%2525"), // a name with a percent sign of its own, not an encoded one
            ("633.1.0+2015", "633.1.0%2b2015"),
            ("ü <\">'&", "%c3%bc%20%3c%22%3e%27%26"),
            ("a\\b", "a%5cb"),
            ("plain-1.0_x~.bin", "plain-1.0_x~.bin"),
        ] {
            let text = page("t", &[name], &[name]);
            assert!(text.contains(&format!("[file] <a href=\"{link}\">")), "{name}: {text}");
            assert!(text.contains(&format!("[dir] <a href=\"{link}/\">")), "{name}: {text}");
            // as a browser does it
            let base = reqwest::Url::parse("https://storage.googleapis.com/b/p/").unwrap();
            let found = base.join(link).unwrap();
            let path = crate::text::percent::decode(found.path().strip_prefix("/b/p/").unwrap()).unwrap();
            assert_eq!((path.as_str(), found.query(), found.fragment()), (name, None, None));
        }
        let text = page("t", &[""], &[]);
        assert!(text.contains("href=\".//\""), "{text}");
        assert!(redirect("a:b c/").contains("url=a%3Ab%20c/\""));
    }

    #[test]
    fn pages_are_ascii() {
        let text = page("ü/", &["ßu\u{308}"], &["\u{1f980}.bin"]);
        assert!(text.is_ascii() && text.contains("<title>&#252;/</title>"), "{text}");
        assert!(text.contains(">&#223;u&#776;</a>") && text.contains(">&#129408;.bin</a>"), "{text}");
    }

    #[test]
    fn names_cannot_break_out_of_the_page() {
        let name = "<script>alert('1')</script>\"&\u{1}\n";
        let text = page(name, &[name], &[name]);
        assert!(!text.contains("<script") && !text.contains('\u{1}'), "{text}");
        assert!(
            text.contains("&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&#34;&amp;&#65533;&#65533;</a>")
        );
    }
}
