//! Pages with a table: names, times and sizes, and a link to the folder above. They are whole documents of HTML, and
//! need neither scripts nor other files.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};

use super::{base_name, escape, href};

/// What both kinds begin with.
const HEAD: &str = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
    <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n";

/// In the colours that the reader has chosen for the browser, readable on a small screen.
const STYLE: &str = "<style>\n\
    :root { color-scheme: light dark; }\n\
    body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }\n\
    h1 { font-size: 1.25rem; overflow-wrap: anywhere; }\n\
    table { border-collapse: collapse; width: 100%; }\n\
    th, td { text-align: left; vertical-align: top; padding: 0.2rem 0 0.2rem 1.5rem; white-space: nowrap; }\n\
    th:first-child, td:first-child { width: 100%; padding-left: 0; white-space: normal; overflow-wrap: anywhere; }\n\
    th:last-child, td:last-child { text-align: right; }\n\
    thead th { border-bottom: 1px solid; }\n\
    tbody tr:hover { background: rgba(128, 128, 128, 0.15); }\n\
    td { font-variant-numeric: tabular-nums; }\n\
    </style>\n";

/// The page that lists a folder: `above` says whether there is a folder above it; objects have a size in bytes and the
/// time when they were stored.
pub fn folder<'a>(
    title: &str,
    above: bool,
    folders: impl Iterator<Item = &'a str>,
    objects: impl Iterator<Item = (&'a str, u64, Option<DateTime<Utc>>)>,
) -> String {
    let title = escape(title);
    let mut page = format!(
        "{HEAD}<title>{title}</title>\n{STYLE}</head>\n<body>\n<h1>{title}</h1>\n<table>\n<thead>\n<tr><th \
         scope=\"col\">Name</th><th scope=\"col\">Stored (UTC)</th><th scope=\"col\">Size</th></tr>\n</thead>\n<tbody>\n"
    );
    let mut row = |href: &str, text: &str, time: &str, size: &str| {
        let _ =
            writeln!(page, "<tr><td><a href=\"{href}\">{text}</a></td><td>{time}</td><td>{size}</td></tr>");
    };
    if above {
        row("../", "../", "", "");
    }
    for name in folders {
        row(&format!("{}/", href(name)), &format!("{}/", escape(name)), "", "");
    }
    for (name, bytes, time) in objects {
        let time = time.map(|t| {
            let exact = t.format("%Y-%m-%dT%H:%M:%SZ");
            format!("<time datetime=\"{exact}\">{}</time>", t.format("%Y-%m-%d %H:%M"))
        });
        let size = format!("<span title=\"{bytes} bytes\">{}</span>", indicatif::BinaryBytes(bytes));
        row(&href(name), &escape(name), &time.unwrap_or_default(), &size);
    }
    page.push_str("</tbody>\n</table>\n</body>\n</html>\n");
    page
}

/// The page that leads from a folder's name without its slash to the folder.
pub fn redirect(prefix: &str) -> String {
    let (to, name) = (href(base_name(prefix)), escape(base_name(prefix)));
    format!(
        "{HEAD}<title>{name}/</title>\n<meta http-equiv=\"refresh\" content=\"0; url={to}/\">\n</head>\n<body>\n\
         <p><a href=\"{to}/\">{name}/</a></p>\n</body>\n</html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_times_sizes_and_the_folder_above() {
        let time = DateTime::from_timestamp(1_700_000_000, 0);
        let files = [("ü \"1\".img", 1_610_612_736, time), ("empty", 0, None)];
        let page = folder("b/p/", true, ["x<y"].into_iter(), files.into_iter());
        assert!(page.is_ascii(), "{page}");
        let rows: Vec<_> = page.lines().filter(|l| l.starts_with("<tr><td>")).collect();
        assert_eq!(
            rows,
            [
                "<tr><td><a href=\"../\">../</a></td><td></td><td></td></tr>",
                "<tr><td><a href=\"x%3cy/\">x&lt;y/</a></td><td></td><td></td></tr>",
                "<tr><td><a href=\"%c3%bc%20%221%22.img\">&#252; &#34;1&#34;.img</a></td><td><time \
                 datetime=\"2023-11-14T22:13:20Z\">2023-11-14 22:13</time></td><td><span title=\"1610612736 \
                 bytes\">1.50 GiB</span></td></tr>",
                "<tr><td><a href=\"empty\">empty</a></td><td></td><td><span title=\"0 bytes\">0 B</span></td></tr>",
            ]
        );
        let top = folder("b/", false, [].into_iter(), [].into_iter());
        assert!(!top.contains("../") && !top.contains("<script"), "{top}");
        assert!(redirect("a/x y/").contains("content=\"0; url=x%20y/\""));
    }
}
