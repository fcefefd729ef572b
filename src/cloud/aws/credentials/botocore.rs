//! Files, variables and options beside Amazon's own reading of them: botocore, on which its CLI stands.

mod sso;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::super::Account;
use super::super::environment::Environment;
use super::{Profiles, Source, sources};

/// Options, files and variables.
struct Case {
    profile: Option<String>,
    environment: BTreeMap<String, String>,
}

impl Case {
    /// What mantle makes of it: keys and region, or what kind of nothing.
    fn ours(&self) -> String {
        let variables: Vec<_> = self.environment.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let env = Environment::from(&*variables);
        let account = Account { aws_profile: self.profile.clone(), ..Account::default() };
        let Ok(profiles) = Profiles::load(&account, &env) else { return "error".into() };
        let keys = match sources::find(&account, &env, &profiles) {
            Ok(Source::Static { keys, .. }) => {
                let token = keys.token.as_ref().map(|t| t.expose().to_owned()).unwrap_or_default();
                format!("{}:{}:{token}", keys.id, keys.secret.expose())
            }
            Ok(Source::Role { arn, source, .. }) => match *source {
                Source::Static { keys, .. } => format!("{arn} by {}", keys.id),
                other => format!("{arn} by {}", other.origin()),
            },
            Ok(Source::WebIdentity { .. }) => "assume-role-with-web-identity".into(),
            Ok(Source::Process { .. }) => "custom-process".into(),
            Ok(other) => other.origin(),
            Err(super::Error::None(_)) => return "nothing".into(),
            Err(super::Error::Profile { reason, .. }) if reason == "it has no keys" => {
                return "nothing".into();
            }
            Err(_) => return "error".into(),
        };
        let named = account.region().is_some()
            || env.first(&["AWS_REGION", "AWS_DEFAULT_REGION"]).is_some()
            || profiles.value("region").is_some();
        let region = if named { profiles.region(&account, &env) } else { "-" };
        format!("{keys} {region}")
    }
}

/// What botocore makes of them; `None`, and a word on stdout, when it is not installed.
fn theirs(cases: &[Case]) -> Option<Vec<String>> {
    let named = std::env::var_os("MANTLE_TEST_VENV").map(PathBuf::from);
    let usual = || std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache/mantle/test-venv"));
    let python = named.or_else(usual)?.join("bin/python");
    if !python.exists() {
        println!("skipped: no {}; tests/setup.sh installs it", python.display());
        return None;
    }
    let input: Vec<_> = cases
        .iter()
        .map(|c| serde_json::json!({"profile": c.profile, "environment": c.environment}))
        .collect();
    let mut child = Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cloud/aws/profiles.py"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&serde_json::to_vec(&input).unwrap()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// Why mantle differs, and where: the case, botocore's answer, mantle's.
type Differences<'a> = [(&'a str, &'a [(&'a str, &'a str, &'a str)])];

/// Compares; all differences are meant.
#[track_caller]
fn compare(cases: &[(String, Case)], differences: &Differences<'_>) {
    let mut bare = Vec::new();
    for (_, case) in cases {
        bare.push(Case { profile: case.profile.clone(), environment: case.environment.clone() });
    }
    let Some(theirs) = theirs(&bare) else { return };
    let mut found: Vec<_> = cases
        .iter()
        .zip(&theirs)
        .map(|((name, case), theirs)| (name.as_str(), theirs.as_str(), case.ours()))
        .filter(|(_, theirs, ours)| theirs != ours)
        .collect();
    found.sort();
    let meant = differences.iter().flat_map(|(_, cases)| *cases);
    let mut meant: Vec<_> = meant.map(|(n, t, o)| (*n, *t, (*o).to_owned())).collect();
    meant.sort();
    assert_eq!(found, meant, "{found:#?}");
}

/// The environment of a home folder where nobody gives keys unasked.
fn environment(home: &Path, more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let home = home.display().to_string();
    let own = [("HOME", home.as_str()), ("AWS_EC2_METADATA_DISABLED", "true")];
    own.iter().chain(more).map(|&(n, v)| (n.to_owned(), v.to_owned())).collect()
}

/// The profiles that are asked for in every file of the corpus.
const NAMES: [&str; 14] = [
    "default",
    "p1",
    "p2",
    "p3",
    "P1",
    "Default",
    "My Mac's Pro",
    "Mac's",
    "\"p1\"",
    "two words",
    "a b",
    "profile p1",
    "preview",
    "p2] see [p3",
];

#[test]
fn files_are_read_as_botocore_reads_them() {
    let home = tempfile::tempdir().unwrap();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cloud/aws/ini");
    let mut files: Vec<_> = std::fs::read_dir(&corpus).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let mut cases = Vec::new();
    for file in &files {
        let text = String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned();
        let stem = file.file_stem().unwrap().to_string_lossy();
        for (role, this, other) in [
            ("credentials", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"),
            ("config", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"),
        ] {
            let path = file.display().to_string();
            let environment =
                environment(home.path(), &[(this, path.as_str()), (other, "/nonexistent/file")]);
            let likely =
                |name: &&str| *name == "default" || stem == "quotes-in-names" || text.contains(*name);
            for name in NAMES.into_iter().filter(likely) {
                let case = Case { profile: Some(name.into()), environment: environment.clone() };
                cases.push((format!("{stem} as {role}: {name}"), case));
            }
        }
    }
    compare(
        &cases,
        &[
            (
                "blanks inside the brackets are no part of a name, if no other section has it",
                &[
                    ("blanks-in-brackets as credentials: default", "error", "AKD:sd: -"),
                    ("blanks-in-brackets as credentials: p1", "error", "AK1:s1: -"),
                    ("blanks-in-brackets as config: default", "error", "AKD:sd: -"),
                    ("blanks-in-brackets as config: p2", "error", "AK3:s3: -"),
                ],
            ),
            (
                "a byte order mark is passed over",
                &[
                    ("bom as credentials: default", "error", "AKD:sd: -"),
                    ("bom as credentials: p1", "error", "AK1:s1: -"),
                    ("bom as credentials: profile p1", "error", "AK1:s1: eu-west-1"),
                    ("bom as config: default", "error", "AKD:sd: -"),
                    ("bom as config: p1", "error", "AK1:s1: eu-west-1"),
                ],
            ),
            (
                "comments behind what is one word, but not behind secrets, are passed over",
                &[
                    (
                        "comments-behind as credentials: default",
                        "AKD # mine:sd: eu-west-1 ; home",
                        "AKD:sd: eu-west-1",
                    ),
                    (
                        "comments-behind as config: default",
                        "AKD # mine:sd: eu-west-1 ; home",
                        "AKD:sd: eu-west-1",
                    ),
                ],
            ),
            (
                "what comes twice counts as it came last",
                &[
                    ("keys-twice as credentials: default", "error", "AK2:s: -"),
                    ("keys-twice as config: default", "error", "AK2:s: -"),
                    ("sections-twice as credentials: default", "error", "AK2:s2: -"),
                    ("sections-twice as credentials: p1", "error", "nothing"),
                    ("sections-twice as config: default", "error", "AK2:s2: -"),
                ],
            ),
            (
                "what nobody asks for, nested, may be anything",
                &[
                    ("nested-words as credentials: default", "error", "AKD:sd: -"),
                    ("nested-words as config: default", "error", "AKD:sd: -"),
                ],
            ),
            (
                "empty keys are no keys, and secrets without their ids are said",
                &[
                    ("empty-values as credentials: p1", ":: -", "nothing"),
                    ("halves as credentials: p1", "nothing", "error"),
                    ("halves as credentials: p2", ":s2: -", "error"),
                    ("halves as credentials: profile p1", "nothing", "error"),
                    ("halves as config: p1", "nothing", "error"),
                ],
            ),
        ],
    );
}

const CREDENTIALS: &str = "[default]\naws_access_key_id=DEF\naws_secret_access_key=sd\n\
    [prod]\naws_access_key_id=PROD\naws_secret_access_key=sp\naws_session_token=tp\n\
    [both]\naws_access_key_id=BOTH\naws_secret_access_key=sb\nregion=eu-north-1\n";

const CONFIG: &str = "[default]\nregion=eu-west-1\n[profile prod]\nregion=eu-west-2\n[profile both]\nregion=eu-west-3\n\
    aws_access_key_id=CONF\naws_secret_access_key=sc\n[profile here]\naws_access_key_id=HERE\n\
    aws_secret_access_key=sh\n[profile env]\nrole_arn=arn:aws:iam::123456789012:role/env\n\
    credential_source=Environment\nregion=us-east-2\n[profile role]\n\
    role_arn=arn:aws:iam::123456789012:role/role\nsource_profile=prod\n[profile keyed]\n\
    role_arn=arn:aws:iam::123456789012:role/keyed\nsource_profile=prod\naws_access_key_id=KEYED\n\
    aws_secret_access_key=sk\n[profile over]\nrole_arn=arn:aws:iam::123456789012:role/over\nsource_profile=keyed\n\
    [profile self]\nrole_arn=arn:aws:iam::123456789012:role/self\nsource_profile=self\naws_access_key_id=SELF\n\
    aws_secret_access_key=ss\n[profile web]\nrole_arn=arn:aws:iam::123456789012:role/web\n\
    web_identity_token_file=/token\n[profile process]\n\
    credential_process=echo '{\"Version\":1,\"AccessKeyId\":\"PROC\",\"SecretAccessKey\":\"s\"}'\n\
    aws_access_key_id=NOT\naws_secret_access_key=s\n[profile nothing]\nregion=us-east-1\n";

#[test]
fn options_variables_and_files_give_the_keys_and_the_region_of_botocore() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".aws")).unwrap();
    std::fs::write(home.path().join(".aws/credentials"), CREDENTIALS).unwrap();
    std::fs::write(home.path().join(".aws/config"), CONFIG).unwrap();
    let bare = tempfile::tempdir().unwrap();
    let options = [
        None,
        Some("default"),
        Some("prod"),
        Some("both"),
        Some("here"),
        Some("env"),
        Some("role"),
        Some("over"),
        Some("self"),
        Some("web"),
        Some("process"),
        Some("nothing"),
        Some("absent"),
    ];
    let keys = [("AWS_ACCESS_KEY_ID", "ENV"), ("AWS_SECRET_ACCESS_KEY", "se")];
    let token = [("AWS_SESSION_TOKEN", "te")];
    let legacy = [("AWS_SECURITY_TOKEN", "tl"), ("AWS_SESSION_TOKEN", "te")];
    let region = [("AWS_DEFAULT_REGION", "ap-south-1")];
    let web = [("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"), ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/w")];
    let variables: [(&str, Vec<(&str, &str)>); 12] = [
        ("nothing", vec![]),
        ("keys", keys.to_vec()),
        ("keys and token", [&keys[..], &token].concat()),
        ("keys and tokens", [&keys[..], &legacy].concat()),
        ("region", region.to_vec()),
        ("keys and region", [&keys[..], &region].concat()),
        ("AWS_PROFILE", vec![("AWS_PROFILE", "prod")]),
        ("keys and AWS_PROFILE", [&keys[..], &[("AWS_PROFILE", "prod")]].concat()),
        ("AWS_DEFAULT_PROFILE", vec![("AWS_DEFAULT_PROFILE", "both")]),
        ("AWS_PROFILE with a role", vec![("AWS_PROFILE", "role")]),
        ("web identity", web.to_vec()),
        ("web identity and AWS_PROFILE", [&web[..], &[("AWS_PROFILE", "role")]].concat()),
    ];
    let mut cases = Vec::new();
    for (name, variables) in &variables {
        for (files, home) in [("files", home.path()), ("no files", bare.path())] {
            // Without files there is nothing to choose.
            for option in options.iter().take(if files == "files" { options.len() } else { 3 }) {
                let case =
                    Case { profile: option.map(str::to_owned), environment: environment(home, variables) };
                let option = option.map_or_else(|| "no option".into(), |o| format!("--profile {o}"));
                cases.push((format!("{option}, {name}, {files}"), case));
            }
        }
    }
    compare(&cases, &[]);
}
