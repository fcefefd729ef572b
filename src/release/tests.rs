use std::collections::BTreeSet;

use super::index::{Job, Plan, plan};
use super::*;

fn table() -> Table {
    Table::builtin().unwrap()
}

fn cl() -> Distribution {
    table().distribution("cl").unwrap().clone()
}

fn flatcar() -> Distribution {
    table().distribution("flatcar").unwrap().clone()
}

#[test]
fn the_historical_channels_are_complete() {
    let cl = cl();
    let names: Vec<&str> = cl.channels.keys().map(String::as_str).collect();
    assert_eq!(names, ["alpha", "beta", "developer", "stable", "user"]);
    for (name, channel) in &cl.channels {
        assert_eq!(channel.boards, ["amd64-usr"]);
        let released = matches!(name.as_str(), "alpha" | "beta" | "stable");
        let gce = channel.gce.as_ref().unwrap();
        assert_eq!(gce.family, format!("coreos-{name}"));
        assert_eq!(gce.project, if released { "coreos-cloud" } else { "coreos-gce-testing" });
        assert_eq!(gce.licenses.len(), usize::from(released));
        assert_eq!(gce.keep, if name == "user" { 2 } else { 25 });
        assert!(gce.dated && gce.board_suffixes.is_empty());
        assert_eq!(
            (&*gce.image, &*gce.publish),
            ("coreos_production_gce.tar.gz", "coreos_production_gce.txt")
        );
        let aws = channel.aws.as_ref().unwrap();
        assert_eq!(aws.name, if released { "CoreOS" } else { "Container-Linux" });
        assert_eq!(aws.image, "coreos_production_ami_vmdk_image.vmdk.bz2");
        assert_eq!((aws.format, &*aws.list_prefix), (DiskFormat::Vmdk, "coreos_production_ami_"));
        assert_eq!(aws.pv_kernels.len(), 11);
        assert_eq!(aws.pv_kernel("eu-central-1"), Some("aki-184c7a05"));
        assert_eq!(aws.pv_kernel("us-east-2"), None);
        let partitions: Vec<_> = aws
            .partitions
            .iter()
            .map(|p| {
                (&*p.name, &*p.profile, &*p.bucket_region, p.regions.len(), p.launch_permissions.concat())
            })
            .collect();
        let expected = match name.as_str() {
            "user" => vec![
                ("AWS West", "coreos-cl", "us-west-2", 3, String::new()),
                ("AWS East", "coreos-cl", "us-east-1", 1, "595879546273".into()),
            ],
            "developer" => vec![("AWS West", "coreos-cl", "us-west-2", 1, String::new())],
            _ => vec![
                ("AWS", "default", "us-west-2", 16, "017021077683".into()),
                ("AWS GovCloud", "govcloud", "us-gov-west-1", 2, String::new()),
                ("AWS China", "china", "cn-north-1", 2, String::new()),
            ],
        };
        assert_eq!(partitions, expected, "{name}");
        for partition in &aws.partitions {
            let kind = if released { "prod" } else { "dev" };
            assert_eq!(partition.bucket, format!("coreos-{kind}-ami-import-{}", partition.bucket_region));
        }
        assert_eq!(channel.azure.is_some(), released);
        let Some(azure) = &channel.azure else { continue };
        let classic = azure.classic.as_ref().unwrap();
        let title = format!("CoreOS {}{}", name[..1].to_uppercase(), &name[1..]);
        assert_eq!((&classic.label, &classic.family), (&title, &title));
        assert_eq!((&*azure.account, &*azure.container), ("coreos", "publish"));
        let clouds: Vec<_> =
            classic.environments.iter().map(|e| (&*e.subscription, e.extra_containers.concat())).collect();
        assert_eq!(
            clouds,
            [
                ("BizSpark", "pre-publish".to_owned()),
                ("BlackForest", String::new()),
                ("Mooncake", String::new())
            ]
        );
    }
}

#[test]
fn destinations_are_those_of_old() {
    let mut text = String::new();
    for (name, channel) in &cl().channels {
        for d in &channel.destinations {
            let title = d.title.as_deref().unwrap_or("-");
            let (version, folders) = (d.version_path, d.directories);
            text +=
                &format!("{name} {} {title} {} {version} {folders} {}\n", d.url, d.named_path, d.index_html);
        }
    }
    assert_eq!(
        text,
        "alpha gs://alpha.release.core-os.net - current true false true\n\
         alpha gs://coreos-alpha alpha.release.core-os.net current true true true\n\
         alpha gs://storage.core-os.net/coreos - alpha true false true\n\
         alpha gs://coreos-net-storage/coreos storage.core-os.net alpha true true true\n\
         beta gs://beta.release.core-os.net - current true false true\n\
         beta gs://coreos-beta beta.release.core-os.net current true true true\n\
         beta gs://storage.core-os.net/coreos - beta false false true\n\
         beta gs://coreos-net-storage/coreos storage.core-os.net beta false true true\n\
         stable gs://stable.release.core-os.net - current true false true\n\
         stable gs://coreos-stable stable.release.core-os.net current true true true\n\
         user gs://users.developer.core-os.net/$USER/releases - current true true true\n"
    );
}

#[test]
fn flatcar_is_beside_them() {
    let flatcar = flatcar();
    assert!(flatcar.channels.values().all(|c| c.destinations.is_empty()));
    let lts = flatcar.select("lts", "arm64-usr", "4081.3.0", None).unwrap();
    assert_eq!(lts.source, "https://bincache.flatcar-linux.net/images/arm64/4081.3.0");
    let (gce, aws, azure) = (lts.gce.unwrap(), lts.aws.unwrap(), lts.azure.unwrap());
    assert_eq!((&*gce.family, gce.keep, gce.dated), ("flatcar-lts", 10, false));
    assert_eq!((aws.format, &*aws.board_suffixes["arm64-usr"]), (DiskFormat::Raw, "-arm64"));
    assert_eq!(aws.partitions[0].regions.len(), 20);
    assert_eq!((&*azure.account, azure.resource_group.as_deref()), ("flatcar0001", Some("flatcar")));
    assert!(azure.classic.is_none() && aws.pv_kernels.is_empty());
}

#[test]
fn a_release_is_selected_by_channel_board_and_version() {
    let cl = cl();
    let selected = cl.select("user", "amd64-usr", "1.2.3+dev", Some("a b")).unwrap();
    assert_eq!(selected.source, "gs://users.developer.core-os.net/a b/boards/amd64-usr/1.2.3+dev");
    let at = selected.destinations[0].location().unwrap();
    assert_eq!((&*at.bucket, &*at.name), ("users.developer.core-os.net", "a b/releases/"));
    let beta = cl.select("beta", "amd64-usr", "1.2.3", None).unwrap();
    let show = |places: Vec<crate::cloud::google::storage::Location>| {
        places.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        show(beta.destinations[0].final_prefixes(&beta.board, &beta.version).unwrap()),
        "gs://beta.release.core-os.net/amd64-usr/1.2.3/ gs://beta.release.core-os.net/amd64-usr/current/"
    );
    assert_eq!(
        show(beta.destinations[2].final_prefixes(&beta.board, &beta.version).unwrap()),
        "gs://storage.core-os.net/coreos/amd64-usr/beta/"
    );
    assert_eq!(
        show(beta.destinations[2].parent_prefixes(&beta.board).unwrap()),
        "gs://storage.core-os.net/coreos/ gs://storage.core-os.net/coreos/amd64-usr/"
    );
    let complaint =
        |channel, board, version| cl.select(channel, board, version, None).unwrap_err().to_string();
    for (channel, board, version, text) in [
        ("beta", "", "1", "board is required"),
        ("", "amd64-usr", "1", "channel is required"),
        ("beta", "amd64-usr", "", "version is required"),
        ("gamma", "amd64-usr", "1", "Unknown channel: gamma"),
        ("beta", "arm64-usr", "1", "Unknown board \"arm64-usr\" for channel \"beta\""),
        ("beta", "amd64-usr", "../1", "\"../1\" cannot be a version"),
    ] {
        assert_eq!(complaint(channel, board, version), text);
    }
    for user in [None, Some(".."), Some("a/b"), Some("")] {
        assert!(matches!(cl.select("user", "amd64-usr", "1", user), Err(Error::NoUser { .. })), "{user:?}");
    }
    assert!(cl.channels["user"].destinations[0].location().is_err());
    // a board beside those of the clouds is files only
    let mut wide = cl.clone();
    wide.channels.get_mut("beta").unwrap().boards.push("arm64-usr".into());
    let beta = wide.select("beta", "arm64-usr", "1", None).unwrap();
    assert!(beta.gce.is_none() && beta.azure.is_none() && beta.aws.is_none());
}

#[test]
fn the_user_is_known() {
    assert!(user().is_some_and(|name| !name.is_empty()));
}

#[test]
fn mistakes_are_told_with_their_place() {
    for (find, put, complaint) in [
        (
            "boards: [amd64-usr]\n        gce",
            "boards: []\n        gce",
            "distribution cl, channel alpha, boards: there is none",
        ),
        (
            "bucket-region: us-gov-west-1",
            "bucket-region: mars-1",
            "distribution cl, channel alpha, aws.partitions[1].bucket-region: BucketRegion mars-1 is not listed in Regions",
        ),
        (
            "[us-gov-west-1, us-gov-east-1]",
            "[us-gov-west-1, us-east-1]",
            "distribution cl, channel alpha, aws.partitions[1].regions: us-east-1 is listed twice",
        ),
        (
            "\"gs://coreos-beta\"",
            "\"http://coreos-beta\"",
            "distribution cl, channel beta, destinations[1].url: URL missing gs:// scheme: http://coreos-beta",
        ),
        (
            "\"gs://coreos-beta\"",
            "\"gs://beta.release.core-os.net/\"",
            "distribution cl, channel beta, destinations[1].url: the same destination again",
        ),
        (
            "stable/boards/{board}/{version}",
            "stable/boards/{bord}/{version}",
            "distribution cl, channel stable, source: nothing is known to put in for \"{bord}/\"",
        ),
        (
            "stable/boards/{board}/{version}",
            "stable/boards/{board}",
            "distribution cl, channel stable, source: it lacks {version}, or {board} or {arch}",
        ),
        (
            "https://public.update",
            "ftp://public.update",
            "distribution flatcar, update-server: \"ftp://public.update.flatcar-linux.net\" does not begin with https:// or http://",
        ),
        (
            "publish: coreos_production_gce.txt\n          keep: 2\n",
            "publish: a/b\n          keep: 2\n",
            "distribution cl, channel user, gce.publish: \"a/b\" cannot name a file or folder",
        ),
        (
            "{ arm64-usr: -arm64 }",
            "{ mips-usr: -mips }",
            "distribution flatcar, channel alpha, gce.board-suffixes: \"mips-usr\" is not among the boards",
        ),
        (
            "\"017021077683\"",
            "\"root\"",
            "distribution cl, channel alpha, aws.partitions[0].launch-permissions: \"root\" is no account number",
        ),
        (
            "stream-channels: [lts]",
            "stream-channels: [its]",
            "distribution flatcar, downloads.stream-channels: \"its\" is not among the channels",
        ),
        (
            "label: CoreOS Stable",
            "label: \"\"",
            "distribution cl, channel stable, azure.classic.label: it is empty",
        ),
        ("[[_vmware_ova.ova]]", "[[]]", "distribution cl, downloads.platforms.esx: there is no file"),
        (
            "subscription: Mooncake",
            "subscription: BizSpark",
            "distribution cl, channel alpha, azure.classic.environments[2].subscription: the same subscription again",
        ),
    ] {
        assert!(CHANNELS.contains(find), "{find}");
        let found = Table::parse(&CHANNELS.replace(find, put), "my.yaml").unwrap_err();
        assert_eq!(found.to_string(), format!("my.yaml: {complaint}"));
    }
    for (find, put, parts) in [
        (
            "named-path: current",
            "named_path: current",
            ["channels.user.destinations", "unknown field `named_path`"],
        ),
        ("keep: 25", "keep: many", ["channels.developer.gce.keep", "invalid type"]),
        ("        boards: [amd64-usr]\n", "", ["channels", "missing field `boards`"]),
        ("distributions:", "distribution:", ["unknown field `distribution`", "line"]),
        ("format: vmdk", "format: vdi", ["channels.user.aws.format", "unknown variant `vdi`"]),
    ] {
        let shown = Table::parse(&CHANNELS.replace(find, put), "my.yaml").unwrap_err().to_string();
        assert!(shown.starts_with("my.yaml: ") && parts.iter().all(|p| shown.contains(p)), "{shown}");
    }
}

#[test]
fn hostile_tables_are_errors() {
    let deep = "[".repeat(100_000);
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c]\ndistributions: [*d,*d,*d,*d,*d,*d]\n";
    for text in ["", "7", "distributions: {}", "distributions: {x: {}}", &deep, bomb, "\u{0}", "a: *b"] {
        assert!(Table::parse(text, "f").is_err());
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("big.yaml");
    std::fs::write(&path, " ".repeat(300_000)).unwrap();
    assert!(matches!(Table::read(&path), Err(Error::Read { .. })));
    assert!(matches!(Table::read(folder.path()), Err(Error::Read { .. })));
    std::fs::write(&path, CHANNELS).unwrap();
    assert_eq!(Table::read(&path).unwrap().distributions().count(), 3);
}

#[test]
fn roots_of_downloads() {
    let (cl, flatcar) = (cl().downloads.unwrap(), flatcar().downloads.unwrap());
    assert_eq!(cl.default_root("amd64-usr"), "https://alpha.release.core-os.net/amd64-usr/current/");
    assert_eq!(cl.root("beta", "amd64-usr").unwrap(), "gs://beta.release.core-os.net/amd64-usr/current/");
    assert_eq!(flatcar.board("arm64"), Ok("arm64-usr"));
    assert_eq!(flatcar.board("arm64-usr"), Ok("arm64-usr"));
    assert!(flatcar.board("mips").is_err() && flatcar.board("").is_err() && flatcar.board("-usr").is_err());
    for (text, url) in [
        ("stable", "https://stable.release.flatcar-linux.net/arm64-usr/current/"),
        ("lts", "https://lts.release.flatcar-linux.net/arm64-usr/current/"),
        ("lts-2024", "https://lts.release.flatcar-linux.net/arm64-usr/current-2024/"),
        ("file:///srv", "file:///srv"),
    ] {
        assert_eq!(flatcar.root(text, "arm64-usr").unwrap(), url);
    }
    for text in ["", "edge", "lts-24", "stable-2024", "lts-", "lts-20x4", "Stable"] {
        assert!(matches!(flatcar.root(text, "amd64-usr"), Err(RootError::Unknown { .. })), "{text}");
    }
    assert!(cl.root("lts", "amd64-usr").is_err());
    for url in
        ["https://u@alpha.release.core-os.net:1/x", "gs://beta.release.core-os.net", "http://CORE-OS.net/"]
    {
        assert!(cl.owns(url), "{url}");
    }
    for url in ["https://example.org/core-os.net", "https://notcore-os.net/", "http://core-os.net.x/", ""] {
        assert!(!cl.owns(url), "{url}");
    }
}

#[test]
fn names_of_files() {
    let (name, url) = flatcar().downloads.unwrap().sdk(None, "amd64", "3033.0.0");
    assert_eq!(name, "flatcar-sdk-amd64-3033.0.0.tar.bz2");
    assert_eq!(url, format!("https://mirror.release.flatcar-linux.net/sdk/amd64/3033.0.0/{name}"));
    let (name, url) = cl().downloads.unwrap().sdk(Some("gs://b/sdk/"), "amd64", "717.0.0");
    assert_eq!(url, format!("gs://b/sdk/amd64/717.0.0/{name}"));
    assert_eq!(file_in("https://h/a//", "f"), "https://h/a/f");
    assert_eq!(file_in("https://h/a/?key=x/", "f"), "https://h/a/f?key=x/");
    assert_eq!(file_in("https://h/a#x", "1+2/f#?%"), "https://h/a/1%2B2/f%23%3F%25#x");
    for store in ["gs", "GS", "s3"] {
        for (folder, file) in
            [("b/a?", "b/a?/f#?%"), ("b/a#1/", "b/a#1/f#?%"), ("b/a//", "b/a//f#?%"), ("b", "b/f#?%")]
        {
            assert_eq!(file_in(&format!("{store}://{folder}"), "f#?%"), format!("{store}://{file}"));
        }
    }
}

/// A plan as text: `*` marks what is done with everything below.
fn shown(plan: &Plan) -> Vec<String> {
    plan.jobs.iter().map(|j| format!("{}{}", j.at, if j.recursive { "*" } else { "" })).collect()
}

#[test]
fn every_choice_of_channel_board_and_version_is_planned() {
    let cl = cl();
    let channels = [None, Some("alpha"), Some("beta"), Some("developer"), Some("stable"), Some("user")];
    let versions = [None, Some("1.2.3"), Some("current"), Some("alpha"), Some("beta")];
    let mut seen = BTreeSet::new();
    for channel in channels {
        for board in [None, Some("amd64-usr")] {
            for version in versions {
                let found = plan(&cl, channel, board, version, Some("me")).unwrap();
                let mut expected: Vec<String> = Vec::new();
                let chosen =
                    cl.channels.iter().filter(|(name, _)| channel.is_none_or(|c| c == name.as_str()));
                for d in chosen.flat_map(|(_, c)| &c.destinations) {
                    let (url, both) = (d.url.replace("$USER", "me"), (board, version));
                    let lines = match both {
                        (None, None) => vec![format!("{url}/*")],
                        (Some(b), None) => vec![format!("{url}/"), format!("{url}/{b}/*")],
                        (_, Some(v)) if v == "1.2.3" && d.named_path == "beta" => vec![],
                        (_, Some(v)) if ["current", "alpha"].contains(&v) && d.named_path == "beta" => vec![],
                        (_, Some(v)) => vec![
                            format!("{url}/"),
                            format!("{url}/amd64-usr/"),
                            format!("{url}/amd64-usr/{v}/*"),
                        ],
                    };
                    // alpha and beta share buckets
                    expected.extend(lines.into_iter().filter(|l| !expected.contains(l)).collect::<Vec<_>>());
                }
                assert_eq!(shown(&found), expected, "{channel:?} {board:?} {version:?}");
                assert!(found.jobs.iter().all(|j| j.index_html));
                seen.extend(shown(&found));
            }
        }
    }
    assert!(seen.len() > 30, "{seen:?}");
}

#[test]
fn plans_keep_the_kinds_of_pages_and_say_what_is_left_out() {
    let cl = cl();
    let found = plan(&cl, Some("beta"), Some("amd64-usr"), Some("1.2.3"), None).unwrap();
    let kinds: Vec<_> = found.jobs.iter().map(|j| (j.title.as_deref(), j.directories)).collect();
    let second = (Some("beta.release.core-os.net"), true);
    assert_eq!(kinds, [(None, false), (None, false), (None, false), second, second, second]);
    assert_eq!(
        found.skipped,
        [
            "gs://storage.core-os.net/coreos has no folder 1.2.3, only beta",
            "gs://coreos-net-storage/coreos has no folder 1.2.3, only beta"
        ]
    );
    let none = plan(&cl, Some("developer"), None, None, None).unwrap();
    assert_eq!((none.jobs.len(), none.skipped), (0, vec!["channel developer has no destinations".into()]));
    let complaint = |distribution: &Distribution, channel, board, version| {
        plan(distribution, channel, board, version, None).unwrap_err().to_string()
    };
    assert_eq!(complaint(&cl, Some("gamma"), None, None), "Unknown channel: gamma");
    assert_eq!(complaint(&cl, Some("beta"), Some("arm64-usr"), None), "Unknown board: arm64-usr");
    assert_eq!(complaint(&cl, Some("beta"), None, Some("a/b")), "\"a/b\" cannot be a version");
    assert!(complaint(&cl, None, None, None).contains("$USER"));
    assert_eq!(
        complaint(&flatcar(), Some("stable"), None, None),
        "Flatcar has no destinations: the files of Flatcar are copied to its servers by its build pipeline"
    );
}

#[test]
fn a_board_of_one_channel_is_not_looked_for_in_the_others() {
    let mut cl = cl();
    cl.channels.get_mut("stable").unwrap().boards.push("arm64-usr".into());
    let found = plan(&cl, None, Some("arm64-usr"), None, Some("me")).unwrap();
    assert_eq!(
        shown(&found),
        [
            "gs://stable.release.core-os.net/",
            "gs://stable.release.core-os.net/arm64-usr/*",
            "gs://coreos-stable/",
            "gs://coreos-stable/arm64-usr/*"
        ]
    );
    assert_eq!(found.skipped.len(), 4, "{:?}", found.skipped);
    let both = plan(&cl, Some("stable"), None, Some("1"), None).unwrap();
    let first: Vec<Job> = both.jobs.into_iter().filter(|j| j.title.is_none()).collect();
    assert_eq!(
        shown(&Plan { jobs: first, skipped: vec![] })[1..],
        [
            "gs://stable.release.core-os.net/amd64-usr/",
            "gs://stable.release.core-os.net/amd64-usr/1/*",
            "gs://stable.release.core-os.net/arm64-usr/",
            "gs://stable.release.core-os.net/arm64-usr/1/*"
        ]
    );
}
