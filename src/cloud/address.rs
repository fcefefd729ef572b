//! Addresses of stored objects: `gs://bucket/name`, `s3://bucket/name`.
//!
//! They look like URLs and are none: what comes after the bucket is the name, byte for byte. `?`, `#`, `%`, `+`, `;`,
//! blanks, `./` and `//` mean nothing in it; names that differ only there are different objects.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

/// A store of objects, as far as addresses tell them apart.
pub trait Store: Copy + Eq + fmt::Debug + std::hash::Hash {
    /// What its addresses begin with, without `://`.
    const SCHEME: &'static str;

    /// What is said of an address that begins otherwise.
    fn wrong_scheme(url: &str) -> String;
}

/// Google Cloud Storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Google;

impl Store for Google {
    const SCHEME: &'static str = "gs";

    fn wrong_scheme(url: &str) -> String {
        format!("URL missing gs:// scheme: {url}")
    }
}

/// Amazon S3, and servers that speak as it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Amazon;

impl Store for Amazon {
    const SCHEME: &'static str = "s3";

    fn wrong_scheme(url: &str) -> String {
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        format!("invalid s3 scheme; must be 's3://', not '{scheme}://'")
    }
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not of this store.
    #[error("{0}")]
    Scheme(String),
    /// It names no bucket, no object, or something that can be neither.
    #[error("{what} {url}")]
    Unusable {
        /// What is wrong with it.
        what: &'static str,
        /// The address as given.
        url: String,
    },
}

/// An object's place, a prefix of names, or with an empty name a whole bucket.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address<S> {
    /// The bucket.
    pub bucket: String,
    /// The object's name, or a prefix, byte for byte.
    pub name: String,
    store: PhantomData<S>,
}

impl<S: Store> Address<S> {
    /// The place of this name.
    pub fn new(bucket: impl Into<String>, name: impl Into<String>) -> Self {
        Self { bucket: bucket.into(), name: name.into(), store: PhantomData }
    }

    /// Whether a text begins as addresses of this store do; the case of the letters is of no importance.
    pub fn fits(text: &str) -> bool {
        text.split_once("://").is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case(S::SCHEME))
    }

    /// Reads the address of an object.
    ///
    /// # Errors
    /// As [`Address::from_str`]; also for no name, and for one that ends in a slash, which is a folder's.
    pub fn object(url: &str) -> Result<Self, Error> {
        let address: Self = url.parse()?;
        let fail = |what| Err(Error::Unusable { what, url: url.into() });
        match &*address.name {
            "" => fail("URL missing file path"),
            name if name.ends_with('/') => fail("URL must not be a directory path"),
            _ => Ok(address),
        }
    }

    /// Reads the address of a bucket, or of a prefix in it, to which a slash is added if it does not end in one.
    ///
    /// # Errors
    /// As [`Address::from_str`].
    pub fn prefix(url: &str) -> Result<Self, Error> {
        let mut address: Self = url.parse()?;
        if !address.name.is_empty() && !address.name.ends_with('/') {
            address.name.push('/');
        }
        Ok(address)
    }

    /// The place of another name in the same bucket.
    pub fn at(&self, name: impl Into<String>) -> Self {
        Self::new(&*self.bucket, name)
    }

    /// The place of a file in this folder; one slash is between them.
    pub fn join(&self, file: &str) -> Self {
        let slash = if self.name.is_empty() || self.name.ends_with('/') { "" } else { "/" };
        self.at(format!("{}{slash}{file}", self.name))
    }

    /// The last component of the name.
    pub fn base_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or_default()
    }

    /// The exact address, which may have control characters in it: for programs, not for terminals.
    pub fn url(&self) -> String {
        format!("{}://{}/{}", S::SCHEME, self.bucket, self.name)
    }
}

impl<S: Store> FromStr for Address<S> {
    type Err = Error;

    /// Reads the address of an object, a prefix or a bucket.
    ///
    /// # Errors
    /// [`Error`]: of another store, without a bucket, or with one that no store could have. What else a provider
    /// demands of the names of buckets is its own affair.
    fn from_str(url: &str) -> Result<Self, Error> {
        if !Self::fits(url) {
            return Err(Error::Scheme(S::wrong_scheme(url)));
        }
        let rest = &url[S::SCHEME.len() + "://".len()..];
        let (bucket, name) = rest.split_once('/').unwrap_or((rest, ""));
        let fail = |what| Err(Error::Unusable { what, url: url.into() });
        // Letters, digits, dots and hyphens; old buckets also have underscores, those of S3's first years capitals.
        let is_name = |c: u8| c.is_ascii_alphanumeric() || b".-_".contains(&c);
        match bucket {
            "" | "." | ".." => fail("URL missing bucket name"),
            _ if !bucket.bytes().all(is_name) || bucket.contains("..") => {
                fail("URL with a malformed bucket name")
            }
            _ => Ok(Self::new(bucket, name)),
        }
    }
}

/// For messages: as it is typed, but control characters are escaped.
impl<S: Store> fmt::Display for Address<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.url().chars() {
            match c {
                c if c.is_control() => write!(f, "{}", c.escape_default())?,
                c => write!(f, "{c}")?,
            }
        }
        Ok(())
    }
}

/// In quotation marks, which show where a name with blanks ends.
impl<S: Store> fmt::Debug for Address<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.url())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What parsers of web URLs cut off, decode, or tidy up.
    const NAMES: [&str; 18] = [
        "o",
        "rel#1",
        "a?b=c",
        "100%25",
        "a%2Fb",
        "%zz",
        "a+b",
        "a;b",
        "a&b",
        "a\rb",
        "line\n",
        "trailing ",
        " leading",
        "./a/../b/.",
        "/leading",
        "a//b",
        "\\ü\u{301}\u{7f}",
        "gs://b/o",
    ];

    #[test]
    fn names_are_taken_byte_for_byte() {
        fn check<S: Store>() {
            for name in NAMES {
                let url = format!("{}://bkt/{name}", S::SCHEME);
                let address = Address::<S>::object(&url).unwrap();
                assert_eq!((&*address.bucket, &*address.name), ("bkt", name));
                assert_eq!(address.url(), url);
                assert_eq!(Address::<S>::prefix(&url).unwrap().name, format!("{name}/"));
                assert!(!address.to_string().chars().any(char::is_control));
            }
        }
        check::<Google>();
        check::<Amazon>();
        assert_eq!(Address::<Google>::new("b", "a b\r ").to_string(), "gs://b/a b\\r ");
        assert_eq!(format!("{:?}", Address::<Google>::new("b", "a\r ")), r#""gs://b/a\r ""#);
    }

    #[test]
    fn what_is_no_address_is_told() {
        for (url, message) in [
            ("b/o", "URL missing gs:// scheme: b/o"),
            ("s3://b/o", "URL missing gs:// scheme: s3://b/o"),
            ("gs:///o", "URL missing bucket name gs:///o"),
            ("gs://../o", "URL missing bucket name gs://../o"),
            ("gs://b#1/o", "URL with a malformed bucket name gs://b#1/o"),
            ("gs://b?x/o", "URL with a malformed bucket name gs://b?x/o"),
            ("gs://a%62/o", "URL with a malformed bucket name gs://a%62/o"),
            ("gs://u@b/o", "URL with a malformed bucket name gs://u@b/o"),
            ("gs://b ", "URL with a malformed bucket name gs://b "),
            ("gs://b", "URL missing file path gs://b"),
            ("gs://b/", "URL missing file path gs://b/"),
            ("gs://b/d/", "URL must not be a directory path gs://b/d/"),
            ("gs://b//", "URL must not be a directory path gs://b//"),
        ] {
            assert_eq!(Address::<Google>::object(url).unwrap_err().to_string(), message);
        }
        for (url, message) in [
            ("gs://b/o", "invalid s3 scheme; must be 's3://', not 'gs://'"),
            ("b", "invalid s3 scheme; must be 's3://', not '://'"),
            ("s3:///o", "URL missing bucket name s3:///o"),
        ] {
            assert_eq!(Address::<Amazon>::object(url).unwrap_err().to_string(), message);
        }
        assert_eq!(Address::<Google>::object("GS://B.c_d/o"), Ok(Address::new("B.c_d", "o")));
    }

    #[test]
    fn prefixes_end_in_a_slash() {
        for (url, name) in [
            ("gs://b", ""),
            ("gs://b/", ""),
            ("gs://b/p/foo", "p/foo/"),
            ("gs://b/p/foo/", "p/foo/"),
            ("gs://b/p//", "p//"),
            ("gs://b//p", "/p/"),
            ("gs://b//", "/"),
        ] {
            assert_eq!(Address::<Google>::prefix(url).unwrap().name, name, "{url}");
        }
    }

    #[test]
    fn files_lie_in_folders() {
        for (folder, file) in
            [("", "f"), ("a", "a/f"), ("a/", "a/f"), ("a//", "a//f"), ("/", "/f"), ("a#", "a#/f")]
        {
            assert_eq!(Address::<Amazon>::new("b", folder).join("f").name, file);
        }
    }
}
