//! `gs://` URLs.

use std::fmt;

use super::Error;
use crate::text::percent::{decode, encode};

/// An object's place: `gs://bucket/name`, or a prefix of names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    /// The bucket.
    pub bucket: String,
    /// The object's name, or a prefix; not percent-encoded.
    pub name: String,
}

impl Location {
    /// Reads the URL of an object. Percent-encoded characters are decoded; a query or fragment is left out.
    ///
    /// # Errors
    /// [`Error::Url`]: another scheme, no bucket, no name, or a name that ends like a folder's.
    pub fn object(url: &str) -> Result<Self, Error> {
        let location = Self::parse(url)?;
        if location.name.is_empty() {
            return Err(Error::Url { what: "URL missing file path", url: url.into() });
        }
        if location.name.ends_with('/') {
            return Err(Error::Url { what: "URL must not be a directory path", url: url.into() });
        }
        Ok(location)
    }

    /// Reads the URL of a bucket, or of a prefix in it, which then ends in one slash.
    ///
    /// # Errors
    /// [`Error::Url`]: another scheme, or no bucket.
    pub fn prefix(url: &str) -> Result<Self, Error> {
        let Self { bucket, mut name } = Self::parse(url)?;
        if !name.is_empty() && !name.ends_with('/') {
            name.push('/');
        }
        Ok(Self { bucket, name })
    }

    fn parse(url: &str) -> Result<Self, Error> {
        let fail = |what| Error::Url { what, url: url.into() };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| fail("URL missing gs:// scheme:"))?;
        if !scheme.eq_ignore_ascii_case("gs") {
            return Err(fail("URL missing gs:// scheme:"));
        }
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let (bucket, name) = rest.split_once('/').unwrap_or((rest, ""));
        let decoded = |text| decode(text).ok_or_else(|| fail("invalid percent-encoding in URL"));
        let (bucket, name) = (decoded(bucket)?, decoded(name)?);
        if matches!(&*bucket, "" | "." | "..") {
            return Err(fail("URL missing bucket name"));
        }
        let name = name.strip_prefix('/').map(String::from).unwrap_or(name);
        Ok(Self { bucket, name })
    }

    /// The last component of the name.
    pub fn base_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or_default()
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name: Vec<String> = self.name.split('/').map(encode).collect();
        write!(f, "gs://{}/{}", self.bucket, name.join("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_objects() {
        for (url, bucket, name, shown) in [
            ("gs://b/o", "b", "o", "gs://b/o"),
            ("GS://b.c_d/p/%C3%BC%20%3F.bz2", "b.c_d", "p/ü ?.bz2", "gs://b.c_d/p/%C3%BC%20%3F.bz2"),
            ("gs://b/a/../o", "b", "a/../o", "gs://b/a/../o"),
            ("gs://b//o?x#y", "b", "o", "gs://b/o"),
        ] {
            let location = Location::object(url).unwrap();
            assert_eq!((&*location.bucket, &*location.name), (bucket, name));
            assert_eq!(location.to_string(), shown);
        }
        for (url, message) in [
            ("b/o", "URL missing gs:// scheme: b/o"),
            ("s3://b/o", "URL missing gs:// scheme: s3://b/o"),
            ("gs:///o", "URL missing bucket name gs:///o"),
            ("gs://b", "URL missing file path gs://b"),
            ("gs://b/", "URL missing file path gs://b/"),
            ("gs://b/d/", "URL must not be a directory path gs://b/d/"),
            ("gs://b/%zz", "invalid percent-encoding in URL gs://b/%zz"),
        ] {
            assert_eq!(Location::object(url).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn prefixes_end_in_one_slash() {
        for (url, name) in
            [("gs://b", ""), ("gs://b/", ""), ("gs://b/p/foo", "p/foo/"), ("gs://b//p/foo/", "p/foo/")]
        {
            assert_eq!(Location::prefix(url).unwrap().name, name, "{url}");
        }
    }
}
