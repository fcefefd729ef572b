//! What an unfinished blob says of the file that it is made from: that is how a repeated upload knows it again.

use std::path::Path;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// A file, as upstream wrote it into the metadata of blobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileMetadata {
    /// Its name without folders.
    pub file_name: String,
    /// Its length in bytes.
    pub file_size: u64,
    /// Length of the stream that is uploaded, in bytes.
    pub vhd_size: u64,
    /// When it was last changed; RFC 3339, in any zone.
    pub last_modified_time: String,
    /// MD5 of the file in base64.
    pub md5_hash: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DiskMetadata {
    file_meta_data: FileMetadata,
}

impl FileMetadata {
    /// Of a file and the stream made of it.
    pub fn new(path: &Path, size: u64, stream: u64, modified: DateTime<Utc>, md5: &[u8]) -> Self {
        Self {
            file_name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            file_size: size,
            vhd_size: stream,
            last_modified_time: modified.to_rfc3339_opts(SecondsFormat::Secs, true),
            md5_hash: openssl::base64::encode_block(md5),
        }
    }

    /// As the value of a header: JSON in ASCII.
    pub fn to_header(&self) -> String {
        let json = serde_json::to_string(&DiskMetadata { file_meta_data: self.clone() });
        let json = json.expect("texts and numbers can always be written");
        let mut ascii = String::with_capacity(json.len());
        let mut units = [0; 2];
        for c in json.chars() {
            match c {
                ' '..='~' => ascii.push(c),
                _ => {
                    ascii.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
                }
            }
        }
        ascii
    }

    /// Reads such a value; `None`: it is none.
    pub fn of_header(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().map(|disk: DiskMetadata| disk.file_meta_data)
    }

    /// What differs between the file here and the one that a blob was made from; a line each.
    pub fn differences(&self, theirs: &Self) -> Vec<String> {
        let seconds = |text: &str| DateTime::parse_from_rfc3339(text).ok().map(|t| t.timestamp());
        let (ours, there) = (seconds(&self.last_modified_time), seconds(&theirs.last_modified_time));
        let pairs = [
            ("file name", self.file_name == theirs.file_name, &self.file_name, &theirs.file_name),
            (
                "file size",
                self.file_size == theirs.file_size,
                &self.file_size.to_string(),
                &theirs.file_size.to_string(),
            ),
            (
                "VHD size",
                self.vhd_size == theirs.vhd_size,
                &self.vhd_size.to_string(),
                &theirs.vhd_size.to_string(),
            ),
            (
                "time of change",
                ours.is_some() && ours == there,
                &self.last_modified_time,
                &theirs.last_modified_time,
            ),
            ("MD5", self.md5_hash == theirs.md5_hash, &self.md5_hash, &theirs.md5_hash),
        ];
        let different = pairs.into_iter().filter(|(_, same, ..)| !same);
        different.map(|(what, _, ours, theirs)| format!("{what}: {ours:?} here, {theirs:?} there")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_ascii_and_are_read_again() {
        let time = DateTime::from_timestamp(1_700_000_000, 5).unwrap();
        let ours = FileMetadata::new(Path::new("/x/bild ü\u{1F600}\n\".vhd"), 5, 6, time, &[1; 16]);
        let header = ours.to_header();
        assert!(header.bytes().all(|b| (b' '..=b'~').contains(&b)), "{header}");
        assert_eq!(FileMetadata::of_header(&header), Some(ours.clone()));
        // As upstream wrote it, in another zone.
        let theirs = r#"{"fileMetaData":{"fileName":"other.vhd","fileSize":5,"vhdSize":6,
            "lastModifiedTime":"2023-11-14T23:13:20.000000005+01:00","md5Hash":"AQEBAQEBAQEBAQEBAQEBAQ=="}}"#;
        let theirs = FileMetadata::of_header(theirs).unwrap();
        let differences = ours.differences(&theirs);
        assert_eq!(differences.len(), 1, "{differences:?}");
        assert!(differences[0].starts_with("file name: "), "{differences:?}");
        let other = FileMetadata::new(Path::new("y"), 1, 2, time + chrono::TimeDelta::seconds(1), &[2; 16]);
        assert_eq!(ours.differences(&other).len(), 5);
        for none in ["", "{}", "[]", "{\"fileMetaData\":{}}"] {
            assert_eq!(FileMetadata::of_header(none), None);
        }
    }
}
