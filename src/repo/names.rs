//! Names in manifests: paths, branches, addresses. A manifest may come from anywhere, and its names become arguments of
//! git and places in the file system.

use std::path::Path;

/// A path below some folder: parts that are names, nothing that leads out of it or into the folders of git and repo.
///
/// # Errors
/// What is wrong with it.
pub fn check_path(path: &str) -> Result<(), String> {
    let bad = |why: &str| Err(format!("the path {path:?} {why}"));
    if path.is_empty() {
        return bad("is empty");
    }
    if path.len() > 1024 || path.chars().any(|c| c.is_control() || c == '\\') {
        return bad("is no sensible path");
    }
    if path.starts_with(['/', '~']) {
        return bad("is not relative");
    }
    for (at, part) in path.split('/').enumerate() {
        match part {
            "" => return bad("has an empty part"),
            "." => return bad("has a part \".\""),
            ".." => return bad("leads out of the tree"),
            part if part.eq_ignore_ascii_case(".git") => return bad("leads into a folder of git"),
            // `.repo`, and what else repo may keep there one day.
            part if at == 0 && part.to_ascii_lowercase().starts_with(".repo") => {
                return bad("leads into the folder of the manifests");
            }
            part if part.starts_with('-') => return bad("has a part that looks like an option"),
            _ => {}
        }
    }
    Ok(())
}

/// The name of a branch, tag, or other reference, by the rules of git-check-ref-format(1).
///
/// # Errors
/// What is wrong with it.
pub fn check_ref(name: &str) -> Result<(), String> {
    let bad_part = |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with(".lock");
    let bad_char = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
    let bad = name.is_empty()
        || name.len() > 512
        || name == "@"
        || name.starts_with('-')
        || name.ends_with('.')
        || name.contains("..")
        || name.contains("@{")
        || name.contains(bad_char)
        || name.split('/').any(bad_part);
    if bad { Err(format!("{name:?} is no name that git accepts")) } else { Ok(()) }
}

/// Whether a revision is the full name of a commit.
pub fn is_commit(revision: &str) -> bool {
    matches!(revision.len(), 40 | 64) && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether an address is in this machine's file system.
pub fn is_local(url: &str) -> bool {
    url.starts_with('/') || url.starts_with("file://")
}

/// Checks the address of a repository, which is absolute: git knows kinds that are commands (`ext::`).
///
/// # Errors
/// What is wrong with it.
pub fn check_url(url: &str) -> Result<(), String> {
    let shown = crate::http::mask::urls(url);
    let bad = |why: &str| Err(format!("the address {shown:?} {why}"));
    if url.is_empty() || url.starts_with('-') || url.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return bad("is none that git accepts");
    }
    if let Some((scheme, rest)) = url.split_once("://") {
        // What is before the colons of `ext::` is never that long a word, but `ext::x://y` has both.
        if !["https", "http", "git", "ssh", "file"].contains(&scheme.to_ascii_lowercase().as_str()) {
            return bad("is of a kind that is not allowed: use https, http, git, ssh, or file");
        }
        let host = rest.split('/').next().unwrap_or_default();
        let host = host.rsplit('@').next().unwrap_or_default();
        if host.starts_with('-') {
            return bad("has a host that looks like an option");
        }
        return Ok(());
    }
    if url.starts_with('/') {
        return Ok(());
    }
    // As in `git@github.com:coreos/manifest.git`.
    match url.split_once(':') {
        Some((host, path)) if !host.contains('/') && !path.is_empty() && !path.starts_with(':') => {
            let host = host.rsplit('@').next().unwrap_or_default();
            if host.is_empty() || host.starts_with('-') { bad("has no host") } else { Ok(()) }
        }
        _ => bad("is not absolute"),
    }
}

/// What a path on the command line means as an address: absolute where it is a folder here.
pub fn absolute_url(url: &str) -> String {
    let is_path = !url.contains("://") && Path::new(url).is_dir();
    match std::path::absolute(url) {
        Ok(path) if is_path => path.to_string_lossy().into_owned(),
        _ => url.to_owned(),
    }
}

/// The address that `fetch` of a remote means in a manifest from `manifest_url`: itself, or one relative to that.
///
/// # Errors
/// When it climbs above the host.
pub fn join_url(manifest_url: &str, fetch: &str) -> Result<String, String> {
    let is_relative = fetch.split('/').next().is_some_and(|part| part == "." || part == "..");
    if !is_relative {
        return Ok(fetch.trim_end_matches('/').to_owned());
    }
    // `https://host/a/b`: all up to the host stays; `host:a/b`: up to the colon; `/a/b`: the slash.
    let base = manifest_url.trim_end_matches('/');
    let fixed = match base.split_once("://") {
        Some((scheme, rest)) => scheme.len() + 3 + rest.find('/').unwrap_or(rest.len()),
        None if base.starts_with('/') => 0,
        None => base.find(':').map_or(0, |at| at + 1),
    };
    let (host, path) = base.split_at(fixed);
    let separator = if path.starts_with('/') { "/" } else { "" };
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    // The manifest's repository is the file in this comparison.
    parts.pop();
    for part in fetch.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.pop().is_none() && separator.is_empty() => {
                return Err(format!("the fetch address {fetch:?} leads above the host of the manifest"));
            }
            ".." => {}
            part => parts.push(part),
        }
    }
    Ok(format!("{host}{separator}{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_in_the_tree() {
        for good in ["a", "src/third_party/coreos-overlay", "a.b/..c", "x/.github", "b/.repo"] {
            assert_eq!(check_path(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "/a",
            "~/a",
            "..",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            ".git",
            "a/.GIT/hooks",
            ".repo/x",
            ".Repo",
            ".repo2",
            "-a",
            "a/-b",
            "a\nb",
            "a\\b",
            "a\0b",
        ] {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn references_are_those_of_git() {
        for good in ["master", "refs/heads/a-b", "refs/pull/3/head", "v1.2.3", "a@b"] {
            assert_eq!(check_ref(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "-a",
            "--upload-pack=x",
            "a b",
            "a..b",
            "a:b",
            "+a:b",
            "a^",
            "a~1",
            "@",
            "a@{1}",
            "/a",
            "a/",
            "a//b",
            ".a",
            "a.lock",
            "a.",
            "a\u{7f}",
            "a*",
        ] {
            assert!(check_ref(bad).is_err(), "{bad:?}");
        }
        assert!(is_commit(&"a1".repeat(20)) && is_commit(&"A1".repeat(32)));
        assert!(!is_commit("abc") && !is_commit(&"g1".repeat(20)));
    }

    #[test]
    fn addresses_are_no_commands() {
        for good in [
            "https://github.com/coreos",
            "ssh://git@host:22/x",
            "git@github.com:coreos/x.git",
            "host:x",
            "/srv/git",
            "file:///srv",
            "git://127.0.0.1:9418/x",
        ] {
            assert_eq!(check_url(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "ext::sh -c id",
            "ext::sh",
            "ext::x://y",
            "fd::17",
            "-x",
            "--upload-pack=id",
            "ssh://-oProxyCommand=id/x",
            "ssh://user@-oProxyCommand=id/x",
            "-oProxyCommand=id:x",
            "u@-o:x",
            "relative",
            "a/b:c",
            "ftp://host/x",
            "https://host/a b",
            "host:",
            ":x",
        ] {
            assert!(check_url(bad).is_err(), "{bad:?}");
        }
        let shown = check_url("gopher://u:secret@host/").unwrap_err();
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn relative_addresses_start_at_the_manifest() {
        for (manifest, fetch, url) in [
            ("https://github.com/coreos/manifest.git", "..", "https://github.com/"),
            ("https://github.com/coreos/manifest.git", ".", "https://github.com/coreos"),
            ("https://github.com/coreos/manifest.git", "../x/y/", "https://github.com/x/y"),
            ("https://github.com/coreos/manifest.git/", "https://other/", "https://other"),
            ("git@github.com:coreos/manifest", "..", "git@github.com:"),
            ("/srv/git/manifest", ".", "/srv/git"),
            ("file:///srv/git/manifest", "../other", "file:///srv/other"),
            ("https://host/m", "../../../x", "https://host/x"),
        ] {
            assert_eq!(join_url(manifest, fetch).as_deref(), Ok(url), "{manifest} {fetch}");
        }
        assert!(join_url("host:m", "../../x").is_err());
    }
}
