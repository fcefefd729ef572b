//! Signed tags, judged by the keys that are trusted and not by the gpg program.

use std::time::SystemTime;

use super::git::Repository;
use super::{Error, LOG};
use crate::openpgp::{self, Keyring, Verified, verify_reader};
use crate::{notice, warning};

const BEGIN: &[u8] = b"-----BEGIN PGP SIGNATURE-----";
const END: &[u8] = b"-----END PGP SIGNATURE-----";
/// Longest tag that is read, in bytes; real ones have a thousand.
const MAX_TAG: usize = 1 << 20;

/// Why a tag does not count.
#[derive(Debug, thiserror::Error)]
pub enum TagError {
    /// Not there.
    #[error("there is no tag {0}")]
    Missing(String),
    /// A plain name for a commit, which everybody can make.
    #[error("the tag {0} is lightweight: it has no signature")]
    Lightweight(String),
    /// A tag object without signature.
    #[error("the tag {0} is not signed")]
    Unsigned(String),
    /// Signed by other means.
    #[error("the tag {0} is signed by {1}, not by OpenPGP")]
    Kind(String, &'static str),
    /// Not of the form that git writes.
    #[error("the tag {tag} is malformed: {why}")]
    Malformed {
        /// Its name.
        tag: String,
        /// What is wrong with it.
        why: String,
    },
    /// The object is of another tag: somebody gave it a name that its signer did not.
    #[error("the tag {tag} is forged: what was signed is the tag {signed:?}")]
    Renamed {
        /// Its name in the repository.
        tag: String,
        /// Its name by its signer.
        signed: String,
    },
    /// The checkout is not what the tag is of.
    #[error("the tag {tag} is of commit {commit}, but {head} is checked out")]
    Elsewhere {
        /// Its name.
        tag: String,
        /// What it is of.
        commit: String,
        /// What is there.
        head: String,
    },
    /// The checkout has changes that nobody signed.
    #[error("the checkout of the tag {tag} was changed: {what}")]
    Changed {
        /// Its name.
        tag: String,
        /// One of the changed files.
        what: String,
    },
    /// The signature does not count.
    #[error("the signature of the tag {tag} is not accepted")]
    Signature {
        /// Its name.
        tag: String,
        /// Why.
        #[source]
        source: Box<openpgp::Error>,
    },
}

/// Verifies a tag of a repository; says who signed it, and returns that and the commit.
pub(super) async fn verify(
    repository: &Repository,
    tag: &str,
    keyring: &Keyring,
) -> Result<(Verified, String), Error> {
    let reference = format!("refs/tags/{tag}");
    let object = repository.ask(&["rev-parse", "--quiet", "--verify", &reference]).await?;
    let object = object.ok_or_else(|| TagError::Missing(tag.to_owned()))?;
    if repository.line(&["cat-file", "-t", &object]).await? != "tag" {
        return Err(TagError::Lightweight(tag.to_owned()).into());
    }
    let malformed = |why: &str| TagError::Malformed { tag: tag.to_owned(), why: why.to_owned() };
    let size = repository.line(&["cat-file", "-s", &object]).await?;
    if size.parse().map_or(true, |size: usize| size > MAX_TAG) {
        return Err(malformed("it is too long").into());
    }
    let content = repository.run(&["cat-file", "tag", &object]).await?;
    let (data, signature) = split(tag, &content)?;
    let commit = check_header(tag, data)?;
    let verified = verify_reader(keyring, signature, data, SystemTime::now())
        .map_err(|e| TagError::Signature { tag: tag.to_owned(), source: Box::new(e) })?;
    for text in &verified.warnings {
        warning!(LOG, "{tag}: {text}");
    }
    notice!(LOG, "the tag {tag} is signed by {} with key {}", verified.signer, verified.fingerprint);
    // What was signed is a name for these bytes; the commit has to be there, too.
    match repository.commit(&commit).await? {
        Some(found) if found == commit => Ok((verified, commit)),
        _ => Err(malformed("its commit is not there").into()),
    }
}

/// Verifies a tag, and that nothing else is checked out.
pub(super) async fn verify_checkout(
    repository: &Repository,
    tag: &str,
    keyring: &Keyring,
) -> Result<Verified, Error> {
    let (verified, commit) = verify(repository, tag, keyring).await?;
    let head = repository.commit("HEAD").await?.unwrap_or_else(|| "nothing".into());
    if head != commit {
        return Err(TagError::Elsewhere { tag: tag.to_owned(), commit, head }.into());
    }
    let status = ["status", "--porcelain", "--untracked-files=all", "--ignored=no"];
    match repository.ask(&status).await? {
        Some(what) => Err(TagError::Changed { tag: tag.to_owned(), what }.into()),
        None => Ok(verified),
    }
}

/// Parts a tag object into what is signed and the signature, as git does.
fn split<'a>(tag: &str, content: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), TagError> {
    let starts: Vec<usize> = (0..content.len())
        .filter(|at| content[*at..].starts_with(b"-----BEGIN ") && (*at == 0 || content[at - 1] == b'\n'))
        .collect();
    let Some(&start) = starts.last() else { return Err(TagError::Unsigned(tag.to_owned())) };
    let (data, signature) = content.split_at(start);
    let kind = |marker: &str| signature.starts_with(marker.as_bytes());
    if kind("-----BEGIN SSH SIGNATURE-----") {
        return Err(TagError::Kind(tag.to_owned(), "an SSH key"));
    }
    if kind("-----BEGIN SIGNED MESSAGE-----") {
        return Err(TagError::Kind(tag.to_owned(), "an X.509 certificate"));
    }
    if !signature.starts_with(BEGIN) {
        return Err(TagError::Unsigned(tag.to_owned()));
    }
    // Words behind the signature would be shown with the tag and nobody signed them.
    let end = signature.windows(END.len()).position(|window| window == END);
    match end {
        Some(end) if signature[end + END.len()..].iter().all(u8::is_ascii_whitespace) => {
            Ok((data, signature))
        }
        _ => Err(TagError::Malformed { tag: tag.to_owned(), why: "something follows its signature".into() }),
    }
}

/// Checks the lines before the message, which say what the tag is of; returns the commit.
fn check_header(tag: &str, data: &[u8]) -> Result<String, TagError> {
    let malformed = |why: &str| TagError::Malformed { tag: tag.to_owned(), why: why.to_owned() };
    let text = String::from_utf8_lossy(data);
    let mut lines = text.lines();
    let mut field = |name: &str| {
        lines.next().and_then(|line| line.strip_prefix(name)).and_then(|rest| rest.strip_prefix(' '))
    };
    let object = field("object").ok_or_else(|| malformed("it has no object"))?;
    match field("type") {
        Some("commit") => {}
        _ => return Err(malformed("it is not of a commit")),
    }
    match field("tag") {
        Some(signed) if signed == tag => Ok(object.to_owned()),
        Some(signed) => Err(TagError::Renamed { tag: tag.to_owned(), signed: signed.to_owned() }),
        None => Err(malformed("it has no name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "object 0123456789012345678901234567890123456789\ntype commit\ntag v1\ntagger A <a> 0 +0000\n\nv1\n";
    const SIG: &str = "-----BEGIN PGP SIGNATURE-----\n\nabc\n-----END PGP SIGNATURE-----\n";

    #[test]
    fn tags_are_parted_as_git_does() {
        let whole = format!("{HEAD}{SIG}");
        let (data, signature) = split("v1", whole.as_bytes()).unwrap();
        assert_eq!((data, signature), (HEAD.as_bytes(), SIG.as_bytes()));
        assert_eq!(check_header("v1", data).unwrap(), "0123456789012345678901234567890123456789");
        // The last signature counts; an earlier one is part of the message.
        let twice = format!("{HEAD}{SIG}{SIG}");
        assert_eq!(split("v1", twice.as_bytes()).unwrap().0.len(), HEAD.len() + SIG.len());
        for (content, why) in [
            (HEAD.to_owned(), "not signed"),
            (format!("{HEAD}x {SIG}"), "not signed"),
            (format!("{HEAD}{SIG}and more"), "something follows"),
            (format!("{HEAD}-----BEGIN PGP SIGNATURE-----\nabc"), "something follows"),
            (format!("{HEAD}-----BEGIN SSH SIGNATURE-----\nabc"), "an SSH key"),
            (format!("{HEAD}{SIG}-----BEGIN PGP MESSAGE-----\n"), "not signed"),
        ] {
            let error = split("v1", content.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{content}: {error}");
        }
        for (text, why) in [
            (HEAD.replace("tag v1", "tag v0"), "forged: what was signed is the tag \"v0\""),
            (HEAD.replace("commit", "tree"), "not of a commit"),
            (HEAD.replace("object ", "tree "), "no object"),
            (HEAD.replace("tag v1\n", ""), "no name"),
        ] {
            let error = check_header("v1", text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
