//! The lists of machine images that lie beside a build.

use serde::{Deserialize, Serialize};

/// The images of a region.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Region {
    /// The region.
    pub name: String,
    /// The paravirtual image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pv: Option<String>,
    /// The image for all others.
    pub hvm: String,
}

/// A file of lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// Its name without what the names of all begin with.
    pub name: String,
    /// Its media type.
    pub kind: &'static str,
    /// What is in it.
    pub content: String,
}

const TEXT: &str = "text/plain";
const JSON: &str = "application/json";

/// The names of the files in the order in which they are written: those of the regions, then those of all.
pub fn names<'a>(regions: impl IntoIterator<Item = (&'a str, bool)>) -> Vec<(String, &'static str)> {
    let mut regions: Vec<_> = regions.into_iter().collect();
    regions.sort_unstable();
    let mut names = Vec::new();
    for (region, pv) in regions {
        names.push((format!("hvm_{region}.txt"), TEXT));
        if pv {
            names.push((format!("pv_{region}.txt"), TEXT));
            names.push((format!("{region}.txt"), TEXT));
        }
    }
    names.push(("all.json".into(), JSON));
    names.extend(["hvm.txt", "pv.txt", "all.txt"].map(|name| (name.to_owned(), TEXT)));
    names
}

/// The files, in the order of [`names`].
pub fn files(regions: &[Region]) -> Vec<List> {
    let mut regions = regions.to_vec();
    regions.sort_by(|a, b| a.name.cmp(&b.name));
    let joined = |ami: fn(&Region) -> Option<&str>| {
        let pairs = regions.iter().filter_map(|r| Some(format!("{}={}", r.name, ami(r)?)));
        format!("{}\n", pairs.collect::<Vec<_>>().join("|"))
    };
    let content = |name: &str| -> String {
        match name {
            "all.json" => json(&regions),
            "hvm.txt" => joined(|r| Some(&r.hvm)),
            "pv.txt" | "all.txt" => joined(|r| r.pv.as_deref()),
            one => {
                let one = one.strip_suffix(".txt").unwrap_or(one);
                let (region, hvm) = match one.strip_prefix("hvm_") {
                    Some(region) => (region, true),
                    None => (one.strip_prefix("pv_").unwrap_or(one), false),
                };
                let region = regions.iter().find(|r| r.name == region);
                let ami = region.and_then(|r| if hvm { Some(r.hvm.as_str()) } else { r.pv.as_deref() });
                format!("{}\n", ami.unwrap_or_default())
            }
        }
    };
    let names = names(regions.iter().map(|r| (r.name.as_str(), r.pv.is_some())));
    names.into_iter().map(|(name, kind)| List { content: content(&name), name, kind }).collect()
}

fn json(regions: &[Region]) -> String {
    let document = serde_json::json!({ "amis": regions });
    // Lists of maps with names for keys: it can be written.
    format!("{}\n", serde_json::to_string_pretty(&document).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_written_as_they_have_always_been() {
        let region = |name: &str, pv: Option<&str>, hvm: &str| Region {
            name: name.into(),
            pv: pv.map(Into::into),
            hvm: hvm.into(),
        };
        let files =
            files(&[region("us-west-2", Some("ami-2p"), "ami-2h"), region("eu-north-1", None, "ami-1h")]);
        let found: Vec<_> = files.iter().map(|f| (f.name.as_str(), f.kind, f.content.as_str())).collect();
        let all = "{\n  \"amis\": [\n    {\n      \"name\": \"eu-north-1\",\n      \"hvm\": \"ami-1h\"\n    },\n    {\n      \
                   \"name\": \"us-west-2\",\n      \"pv\": \"ami-2p\",\n      \"hvm\": \"ami-2h\"\n    }\n  ]\n}\n";
        assert_eq!(
            found,
            [
                ("hvm_eu-north-1.txt", "text/plain", "ami-1h\n"),
                ("hvm_us-west-2.txt", "text/plain", "ami-2h\n"),
                ("pv_us-west-2.txt", "text/plain", "ami-2p\n"),
                ("us-west-2.txt", "text/plain", "ami-2p\n"),
                ("all.json", "application/json", all),
                ("hvm.txt", "text/plain", "eu-north-1=ami-1h|us-west-2=ami-2h\n"),
                ("pv.txt", "text/plain", "us-west-2=ami-2p\n"),
                ("all.txt", "text/plain", "us-west-2=ami-2p\n"),
            ]
        );
        let hvm_only = super::files(&[region("r", None, "ami-1")]);
        assert_eq!(hvm_only.last().map(|f| f.content.as_str()), Some("\n"));
    }
}
