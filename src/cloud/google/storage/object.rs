//! What Cloud Storage says of an object.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, de};

/// An object's description: the resource `storage#object`, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Object {
    /// The name, without the bucket.
    pub name: String,
    /// Length of the stored content, in bytes.
    #[serde(deserialize_with = "number")]
    pub size: u64,
    /// Number of this version of the content.
    #[serde(deserialize_with = "number")]
    pub generation: u64,
    /// Number of this version of the description.
    #[serde(default, deserialize_with = "number")]
    pub metageneration: u64,
    /// Checksum of the stored content (Castagnoli).
    #[serde(default, deserialize_with = "crc")]
    pub crc32c: Option<u32>,
    /// When this version of the content was stored; a change of the description does not change it.
    #[serde(default, deserialize_with = "time")]
    pub time_created: Option<DateTime<Utc>>,
    /// MD5 of the stored content in base64; composite objects have none.
    pub md5_hash: Option<String>,
    /// Media type.
    pub content_type: Option<String>,
    /// How the content is stored: `gzip`, or as it is.
    pub content_encoding: Option<String>,
    /// `Cache-Control` of public answers.
    pub cache_control: Option<String>,
    /// `Content-Disposition` of public answers.
    pub content_disposition: Option<String>,
    /// `Content-Language` of public answers.
    pub content_language: Option<String>,
    /// The owner's own keys and values.
    pub metadata: Option<BTreeMap<String, String>>,
}

/// The fields of the resource that [`Object`] has.
pub(super) const FIELDS: &str = "name,size,generation,metageneration,crc32c,timeCreated,md5Hash,contentType,\
                                 contentEncoding,cacheControl,contentDisposition,contentLanguage,metadata";

impl Object {
    /// What the owner of the object chose.
    pub fn attributes(&self) -> Attributes {
        let set = |value: &Option<String>| value.clone().filter(|v| !v.is_empty());
        Attributes {
            content_type: set(&self.content_type),
            content_encoding: set(&self.content_encoding),
            cache_control: set(&self.cache_control),
            content_disposition: set(&self.content_disposition),
            content_language: set(&self.content_language),
            metadata: self.metadata.clone().filter(|m| !m.is_empty()),
        }
    }
}

/// What the owner of an object chooses besides its name and content. Absent and empty are the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Attributes {
    /// Media type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// How the content is stored: `gzip`, or as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    /// `Cache-Control` of public answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_control: Option<String>,
    /// `Content-Disposition` of public answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_disposition: Option<String>,
    /// `Content-Language` of public answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_language: Option<String>,
    /// The owner's own keys and values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
}

/// 64-bit numbers travel as strings; emulators send some as numbers.
pub(super) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Number(u64),
    }
    match Either::deserialize(deserializer)? {
        Either::Number(n) => Ok(n),
        Either::Text(text) => text.parse().map_err(|_| de::Error::custom("not a number")),
    }
}

fn crc<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    parse_crc32c(&text).map(Some).ok_or_else(|| de::Error::custom("not a CRC32C"))
}

/// A time of RFC 3339. It is for people only: one that cannot be read is as none.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.and_then(|t| DateTime::parse_from_rfc3339(&t).ok()).map(|t| t.to_utc()))
}

/// Reads a CRC32C as Google writes it: big-endian, in base64.
pub fn parse_crc32c(text: &str) -> Option<u32> {
    let bytes = openssl::base64::decode_block(text).ok()?;
    let crc = u32::from_be_bytes(*bytes.first_chunk()?);
    // The decoder counts the padding as data and takes too much of it.
    (format_crc32c(crc) == text).then_some(crc)
}

/// Writes a CRC32C as Google does.
pub fn format_crc32c(crc: u32) -> String {
    openssl::base64::encode_block(&crc.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_big_endian_base64() {
        // the check value of the Castagnoli polynomial: 0xe3069283 for the nine digits
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(format_crc32c(0xe306_9283), "4waSgw==");
        assert_eq!(parse_crc32c("4waSgw=="), Some(0xe306_9283));
        for bad in ["", "4waSgw", "4waSg===", "AAAAAAAA", "????"] {
            assert_eq!(parse_crc32c(bad), None, "{bad}");
        }
    }

    #[test]
    fn descriptions_with_strings_and_numbers() {
        let object: Object = serde_json::from_str(
            r#"{"name":"a","size":"7","generation":1700000000000001,"crc32c":"4waSgw==","new":{},"md5Hash":null}"#,
        )
        .unwrap();
        assert_eq!(
            (object.size, object.generation, object.crc32c),
            (7, 1_700_000_000_000_001, Some(0xe306_9283))
        );
        for bad in [
            r#"{"name":"a","size":"-7","generation":"1"}"#,
            r#"{"name":"a","size":"7"}"#,
            r#"{"name":"a","size":"7","generation":"1","crc32c":"x"}"#,
        ] {
            assert!(serde_json::from_str::<Object>(bad).is_err(), "{bad}");
        }
    }
}
