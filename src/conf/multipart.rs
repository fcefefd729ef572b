//! Userdata of several parts: a MIME message of type `multipart/mixed` (RFC 2045, RFC 2046).

use super::{Additions, Error, cloudinit};

/// Headers longer than this are none.
const MAX_HEADERS: usize = 100;

/// Whether the text starts with headers that say `multipart/mixed`.
pub(super) fn is_multipart(text: &str) -> bool {
    content_type(text).is_some_and(|value| value.to_ascii_lowercase().contains("multipart/mixed"))
}

/// The value of the header `Content-Type`, unfolded.
fn content_type(text: &str) -> Option<String> {
    let mut value: Option<String> = None;
    let mut lines = text.lines().take(MAX_HEADERS).peekable();
    // The envelope line of a mailbox, which some tools write.
    lines.next_if(|line| line.starts_with("From "));
    for line in lines {
        if line.starts_with([' ', '\t']) {
            if let Some(value) = &mut value {
                value.push_str(line);
            }
            continue;
        }
        if value.is_some() {
            break;
        }
        let (name, rest) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("content-type") {
            value = Some(rest.trim().to_owned());
        }
    }
    value
}

fn boundary(text: &str) -> Result<String, Error> {
    let value = content_type(text).ok_or(Error::Multipart("no header Content-Type"))?;
    let parameter = value.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"'))
    });
    match parameter {
        Some(boundary) if (1..=70).contains(&boundary.len()) => Ok(boundary.to_owned()),
        Some(_) => Err(Error::Multipart("the boundary must have 1 to 70 characters")),
        None => Err(Error::Multipart("the header Content-Type names no boundary")),
    }
}

/// Adds a part of type `text/cloud-config` in front of the end, if there is anything to add.
pub(super) fn add(text: &str, add: &Additions, keys: &[String]) -> Result<String, Error> {
    let delimiter = format!("--{}", boundary(text)?);
    let last = format!("{delimiter}--");
    let mut offset = 0;
    let mut parts = 0;
    let mut end = None;
    for line in text.split_inclusive('\n') {
        match line.trim_end() {
            line if line == delimiter => parts += 1,
            line if line == last => {
                end = Some(offset);
                break;
            }
            _ => {}
        }
        offset += line.len();
    }
    if parts == 0 {
        return Err(Error::Multipart("no part starts with the boundary"));
    }
    let end = end.ok_or(Error::Multipart("the closing boundary is missing"))?;
    let addition = cloudinit::cloud_config("", add, keys)?;
    if addition.trim_end() == cloudinit::HEADER {
        return Ok(text.to_owned());
    }
    // YAML never starts a line with two dashes unless a document starts there, so the part cannot hold the boundary.
    let crlf = text.find('\n').is_some_and(|at| text[..at].ends_with('\r'));
    let eol = if crlf { "\r\n" } else { "\n" };
    let encoding = if addition.is_ascii() { "7bit" } else { "8bit" };
    let part = [
        delimiter.as_str(),
        "Content-Type: text/cloud-config; charset=\"utf-8\"",
        "MIME-Version: 1.0",
        &format!("Content-Transfer-Encoding: {encoding}"),
        "Content-Disposition: attachment; filename=\"kola.yaml\"",
        // Lets cloud-init add to the lists of earlier parts; coreos-cloudinit ignores it.
        "Merge-Type: list(append)+dict(recurse_list)+str()",
        "",
        &addition,
    ]
    .join(eol);
    Ok(format!("{}{part}{}", &text[..end], &text[end..]))
}
