use std::path::Path;

use super::super::Account;
use super::super::api::{Api, Error as ApiError};
use super::super::environment::Environment;
use super::*;
use crate::http::fake::{Asked, Fake};

/// Files of a home folder.
fn home(files: &[(&str, &str)]) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join(".aws")).unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    dir
}

fn environment(home: &Path, values: &[(&str, &str)]) -> Environment {
    let home = home.display().to_string();
    let mut all = vec![("HOME", home.as_str()), ("MANTLE_POLL_SCALE", "0.001")];
    all.extend_from_slice(values);
    Environment::from(all.as_slice())
}

/// Where the keys come from, or what is wrong.
fn find(account: &Account, env: &Environment) -> String {
    let found = Profiles::load(account, env).and_then(|p| sources::find(account, env, &p));
    // Which file it was differs from run to run.
    let short = |origin: &str| origin.split(" in /").next().unwrap_or_default().to_owned();
    let text = match &found {
        Ok(Source::Static { origin, keys }) => {
            format!("{}:{} from {}", keys.id, keys.secret.expose(), short(origin))
        }
        Ok(Source::Role { source, arn, .. }) => format!("role {arn} by {}", short(&source.origin())),
        Ok(Source::WebIdentity { arn, .. }) => format!("web {arn}"),
        Ok(other) => other.origin(),
        Err(e) => format!("error: {e}").replace(&env.home().unwrap().display().to_string(), "~"),
    };
    let tells = |text: &str| text.replace("AWS_SECRET_ACCESS_KEY", "").contains("SECRET");
    assert!(matches!(found, Ok(Source::Static { .. })) || !tells(&text), "{text}");
    assert!(!tells(&format!("{found:?}")), "{found:?}");
    text
}

const CREDENTIALS: &str = "[default]\naws_access_key_id=DEF\naws_secret_access_key=SECRET-def\n\
    [two]\naws_access_key_id = TWO\naws_secret_access_key = SECRET-two\naws_session_token = SECRET-token\n\
    [half]\naws_access_key_id=HALF\n[self]\naws_access_key_id=SELF\naws_secret_access_key=SECRET-self\n";

const CONFIG: &str = "[default]\nregion = eu-west-1\n[profile conf]\naws_access_key_id=CONF\n\
    aws_secret_access_key=SECRET-conf\n[profile role]\nrole_arn=arn:r\nsource_profile=two\n\
    [profile role-of-role]\nrole_arn=arn:rr\nsource_profile=role\n[profile self]\nrole_arn=arn:s\nsource_profile=self\n\
    [profile loop]\nrole_arn=arn:l\nsource_profile=pool\n[profile pool]\nrole_arn=arn:p\nsource_profile=loop\n\
    [profile mfa]\nrole_arn=arn:m\nsource_profile=two\nmfa_serial=SECRET-serial\n\
    [profile env]\nrole_arn=arn:e\ncredential_source=Environment\n\
    [profile instance]\nrole_arn=arn:i\ncredential_source=Ec2InstanceMetadata\n\
    [profile strange]\nrole_arn=arn:x\ncredential_source=SECRET\n[profile alone]\nrole_arn=arn:a\n\
    [profile process]\ncredential_process=print SECRET\n[profile web]\nrole_arn=arn:w\nweb_identity_token_file=/t\n\
    [profile sso]\nsso_start_url=https://x\nsso_account_id=1\nsso_role_name=r\n\
    [profile login]\nlogin_session=SECRET\n[profile nothing]\nregion=us-east-1\n";

/// Options, home folder, environment; where the keys come from.
type Case<'a> = (&'a Account, &'a Path, &'a [(&'a str, &'a str)], &'a str);

#[test]
fn the_first_place_that_has_keys_wins() {
    let dir = home(&[(".aws/credentials", CREDENTIALS), (".aws/config", CONFIG)]);
    let empty = home(&[]);
    let keys = [("AWS_ACCESS_KEY_ID", "ENV"), ("AWS_SECRET_ACCESS_KEY", "SECRET-env")];
    let profile = |name: &str| Account { aws_profile: Some(name.into()), ..Account::default() };
    let flags = Account {
        aws_access_id: Some("FLAG".into()),
        aws_secret_key: Some("SECRET-flag".to_owned().into()),
        ..Account::default()
    };
    let half = Account { aws_access_id: Some("FLAG".into()), ..Account::default() };
    let file = |name: &str, profile: Option<&str>| Account {
        aws_credentials_file: Some(dir.path().join(name)),
        aws_profile: profile.map(str::to_owned),
        ..Account::default()
    };
    let none = Account::default();
    let cases: &[Case<'_>] = &[
        (&flags, dir.path(), &keys, "FLAG:SECRET-flag from the command line"),
        (&half, dir.path(), &keys, "error: the access key id option is given, the secret key option is not"),
        (&file(".aws/credentials", Some("two")), dir.path(), &keys, "TWO:SECRET-two from profile \"two\""),
        (&file(".aws/credentials", None), empty.path(), &[], "DEF:SECRET-def from profile \"default\""),
        (&none, dir.path(), &keys, "ENV:SECRET-env from the environment"),
        (&profile("two"), dir.path(), &keys, "TWO:SECRET-two from profile \"two\""),
        (
            &none,
            dir.path(),
            &[keys[0], keys[1], ("AWS_PROFILE", "two")],
            "ENV:SECRET-env from the environment",
        ),
        (&profile("env"), dir.path(), &keys, "role arn:e by the environment"),
        (&none, dir.path(), &[("AWS_DEFAULT_PROFILE", "two")], "TWO:SECRET-two from profile \"two\""),
        (
            &none,
            dir.path(),
            &[("AWS_ACCESS_KEY", "OLD"), ("AWS_SECRET_KEY", "SECRET-old")],
            "OLD:SECRET-old from the environment",
        ),
        (
            &none,
            dir.path(),
            &[("AWS_ACCESS_KEY_ID", "ENV")],
            "error: AWS_ACCESS_KEY_ID is given, AWS_SECRET_ACCESS_KEY is not",
        ),
        (&none, dir.path(), &[], "DEF:SECRET-def from profile \"default\""),
        (&profile("two"), dir.path(), &[("AWS_PROFILE", "conf")], "TWO:SECRET-two from profile \"two\""),
        (&profile(""), dir.path(), &[("AWS_PROFILE", "conf")], "CONF:SECRET-conf from profile \"conf\""),
        (
            &profile("half"),
            dir.path(),
            &[],
            "error: profile \"half\": ~/.aws/credentials: aws_access_key_id is given, aws_secret_access_key is not",
        ),
        (&profile("role"), dir.path(), &[], "role arn:r by profile \"two\""),
        (&profile("role-of-role"), dir.path(), &[], "role arn:rr by role arn:r"),
        (&profile("self"), dir.path(), &[], "role arn:s by profile \"self\""),
        (&profile("loop"), dir.path(), &[], "error: profile \"loop\": its sources lead back to it"),
        (&profile("env"), dir.path(), &[], "error: profile \"env\": there are no keys in the environment"),
        (&profile("instance"), dir.path(), &[], "role arn:i by the metadata service http://169.254.169.254"),
        (
            &profile("strange"),
            dir.path(),
            &[],
            "error: profile \"strange\": its credential_source is not known",
        ),
        (
            &profile("alone"),
            dir.path(),
            &[],
            "error: profile \"alone\": its role has neither source_profile nor credential_source",
        ),
        (&profile("process"), dir.path(), &[], "the credential_process of profile \"process\""),
        (&profile("web"), dir.path(), &[], "web arn:w"),
        (&profile("nothing"), dir.path(), &[], "error: profile \"nothing\": it has no keys"),
        (
            &none,
            empty.path(),
            &[("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"), ("AWS_ROLE_ARN", "arn:we")],
            "web arn:we",
        ),
        (
            &none,
            empty.path(),
            &[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x")],
            "the container's agent",
        ),
        (
            &none,
            empty.path(),
            &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://evil.example/x")],
            "error: no keys from the container's agent: its URI is neither https nor on this machine",
        ),
        (&none, empty.path(), &[], "the metadata service http://169.254.169.254"),
    ];
    for (i, (account, home, env, expected)) in cases.iter().enumerate() {
        assert_eq!(find(account, &environment(home, env)), *expected, "case {i}");
    }
    let error = find(&profile("absent"), &environment(dir.path(), &[]));
    assert!(error.starts_with("error: no profile \"absent\" in ~/") && error.ends_with("config"), "{error}");
    let error = find(&profile("mfa"), &environment(dir.path(), &[]));
    assert!(error.contains("MFA"), "{error}");
    let error = find(&profile("sso"), &environment(dir.path(), &[]));
    let reason = "it is set up for single sign-on, but sso_region is missing";
    assert_eq!(error, format!("error: profile \"sso\": {reason}"));
    let error = find(&profile("login"), &environment(dir.path(), &[]));
    assert!(error.contains("those of aws login") && error.contains("export-credentials"), "{error}");
    let error = find(&none, &environment(empty.path(), &[("AWS_EC2_METADATA_DISABLED", "TRUE")]));
    assert!(error.starts_with("error: NoCredentialProviders: no valid providers in chain"), "{error}");
    let error = find(&file("absent", None), &environment(dir.path(), &[]));
    assert!(error.starts_with("error: cannot read ~/"), "{error}");
    std::fs::write(dir.path().join("bad"), "[default]\nSECRET\n").unwrap();
    let error = find(&file("bad", None), &environment(dir.path(), &[]));
    assert!(error.ends_with("bad: line 2: neither a section nor `key = value`"), "{error}");
}

#[tokio::test]
async fn regions_come_from_flag_environment_profile() {
    let dir = home(&[(".aws/credentials", CREDENTIALS), (".aws/config", CONFIG)]);
    let region = async |flag: Option<&str>, env: &[(&str, &str)]| {
        let account = Account { aws_region: flag.map(str::to_owned), ..Account::default() };
        Api::with_environment(&account, &environment(dir.path(), env)).await.map(|a| a.region().to_owned())
    };
    let both = [("AWS_REGION", "us-east-2"), ("AWS_DEFAULT_REGION", "us-east-1")];
    assert_eq!(region(Some("cn-north-1"), &both).await.unwrap(), "cn-north-1");
    assert_eq!(region(Some(""), &both).await.unwrap(), "us-east-2");
    assert_eq!(region(None, &both[1..]).await.unwrap(), "us-east-1");
    assert_eq!(region(None, &[]).await.unwrap(), "eu-west-1");
    assert_eq!(region(None, &[("AWS_PROFILE", "two")]).await.unwrap(), "us-west-2");
    let e = region(Some("mars"), &[]).await.unwrap_err();
    assert!(e.to_string().starts_with("could not find partition for \"mars\""), "{e}");
}

const CALLER: &str = "<GetCallerIdentityResponse><GetCallerIdentityResult><Account>123456789012</Account>\
    <Arn>arn:aws:iam::123456789012:user/u</Arn></GetCallerIdentityResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></GetCallerIdentityResponse>";

fn assumed(id: &str, minutes: i64) -> String {
    let end = (Utc::now() + chrono::TimeDelta::minutes(minutes)).to_rfc3339();
    format!(
        "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>{id}</AccessKeyId><SecretAccessKey>SECRET-\
         {id}</SecretAccessKey><SessionToken>SECRET-token</SessionToken><Expiration>{end}</Expiration></Credentials>\
         </AssumeRoleResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></AssumeRoleResponse>"
    )
}

/// The access key id that a request was signed with.
fn signer(asked: &Asked) -> String {
    let header = asked.headers.get("authorization").map(String::as_str).unwrap_or_default();
    header.split("Credential=").nth(1).and_then(|r| r.split('/').next()).unwrap_or("nobody").to_owned()
}

async fn api(home: &Path, fake: &Fake, profile: &str, env: &[(&str, &str)]) -> Api {
    let account = Account {
        aws_profile: Some(profile.to_owned()).filter(|p| !p.is_empty()),
        aws_endpoint: Some(fake.url.clone()),
        ..Account::default()
    };
    Api::with_environment(&account, &environment(home, env)).await.unwrap()
}

#[tokio::test]
async fn roles_are_assumed_in_a_chain_and_renewed() {
    let dir = home(&[(".aws/credentials", CREDENTIALS), (".aws/config", CONFIG)]);
    let mut number = 0;
    // Each set of keys is as good as expired at once.
    let fake = Fake::start(move |asked| match asked.get("Action") {
        "AssumeRole" => {
            number += 1;
            (200, assumed(&format!("KEY{number}"), 1))
        }
        _ => (200, CALLER.into()),
    })
    .await;
    let api = api(dir.path(), &fake, "role-of-role", &[]).await;
    assert_eq!(api.caller().await.unwrap().account, "123456789012");
    api.caller().await.unwrap();
    let seen: Vec<String> = fake
        .journal()
        .iter()
        .map(|a| format!("{} {} by {}", a.get("Action"), a.get("RoleArn"), signer(a)))
        .collect();
    let expected = [
        "AssumeRole arn:r by TWO",
        "AssumeRole arn:rr by KEY1",
        "GetCallerIdentity  by KEY2",
        "AssumeRole arn:r by TWO",
        "AssumeRole arn:rr by KEY3",
        "GetCallerIdentity  by KEY4",
    ];
    assert_eq!(seen, expected);
    let first = &fake.journal()[0];
    assert!(first.get("RoleSessionName").starts_with("mantle-"));
    assert_eq!(first.headers.get("x-amz-security-token").map(String::as_str), Some("SECRET-token"));
}

#[tokio::test]
async fn keys_by_single_sign_on_are_renewed_while_its_token_is_good() {
    let config =
        "[profile p]\nsso_start_url=https://x\nsso_region=eu-west-1\nsso_account_id=1\nsso_role_name=r\n";
    let token = |minutes| {
        let end = (Utc::now() + chrono::TimeDelta::minutes(minutes)).to_rfc3339();
        serde_json::json!({"accessToken": "SECRET-token", "expiresAt": end}).to_string()
    };
    let dir = home(&[(".aws/config", config)]);
    let cache = dir.path().join(".aws/sso/cache");
    std::fs::create_dir_all(&cache).unwrap();
    let file = cache.join(format!("{}.json", crate::text::hex(&openssl::sha::sha1(b"https://x"))));
    std::fs::write(&file, token(60)).unwrap();
    let mut number = 0;
    // Each set of keys is as good as expired at once.
    let fake = Fake::start(move |asked| match asked.path.as_str() {
        "/federation/credentials" => {
            number += 1;
            let end = (Utc::now() + chrono::TimeDelta::minutes(1)).timestamp_millis();
            let keys = serde_json::json!({"accessKeyId": format!("KEY{number}"), "secretAccessKey": "SECRET",
                "sessionToken": "SECRET-session", "expiration": end});
            (200, serde_json::json!({"roleCredentials": keys}).to_string())
        }
        _ => (200, CALLER.into()),
    })
    .await;
    let api = api(dir.path(), &fake, "p", &[]).await;
    api.caller().await.unwrap();
    api.caller().await.unwrap();
    let signers: Vec<_> = fake.journal().iter().map(signer).collect();
    assert_eq!(signers, ["nobody", "KEY1", "nobody", "KEY2"]);
    // Somebody else has logged out: the keys at hand are good for a minute yet.
    std::fs::write(&file, token(-1)).unwrap();
    api.caller().await.unwrap();
    assert_eq!(signer(fake.journal().last().unwrap()), "KEY2");
}

#[tokio::test]
async fn web_identities_are_not_signed_and_keys_are_kept() {
    let dir = home(&[("token", "SECRET-jwt\n")]);
    let fake = Fake::start(|asked| match asked.get("Action") {
        "AssumeRoleWithWebIdentity" => {
            (200, assumed("WEB", 60).replace("AssumeRole", "AssumeRoleWithWebIdentity"))
        }
        _ => (200, CALLER.into()),
    })
    .await;
    let token = dir.path().join("token").display().to_string();
    let env = [("AWS_WEB_IDENTITY_TOKEN_FILE", token.as_str()), ("AWS_ROLE_ARN", "arn:w")];
    let api = api(dir.path(), &fake, "", &env).await;
    api.caller().await.unwrap();
    api.caller().await.unwrap();
    let journal = fake.journal();
    assert_eq!(fake.actions(), ["AssumeRoleWithWebIdentity", "GetCallerIdentity", "GetCallerIdentity"]);
    assert_eq!((signer(&journal[0]).as_str(), journal[0].get("WebIdentityToken")), ("nobody", "SECRET-jwt"));
    assert_eq!(signer(&journal[2]), "WEB");
}

#[tokio::test]
async fn instances_and_containers_give_keys() {
    let dir = home(&[("token", "SECRET-agent")]);
    let fake = Fake::start(|asked| {
        let keys = |id: &str| {
            format!(
                r#"{{"Code":"Success","AccessKeyId":"{id}","SecretAccessKey":"SECRET","Token":"SECRET-t"}}"#
            )
        };
        let header = |name: &str| asked.headers.get(name).map(String::as_str).unwrap_or_default();
        match (asked.action().as_str(), header("x-aws-ec2-metadata-token"), header("authorization")) {
            ("PUT /latest/api/token", ..) if header("x-aws-ec2-metadata-token-ttl-seconds") == "21600" => {
                (200, "SECRET-imds".into())
            }
            ("GET /latest/meta-data/iam/security-credentials/", "SECRET-imds", _) => {
                (200, "the-role\n".into())
            }
            ("GET /latest/meta-data/iam/security-credentials/the-role", "SECRET-imds", _) => {
                (200, keys("IMDS"))
            }
            ("GET /v2/agent", _, "SECRET-agent") => (200, keys("ECS")),
            ("GetCallerIdentity", ..) => (200, CALLER.into()),
            _ => (401, String::new()),
        }
    })
    .await;
    let metadata = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", fake.url.as_str())];
    api(dir.path(), &fake, "", &metadata).await.caller().await.unwrap();
    let (token, url) = (dir.path().join("token").display().to_string(), format!("{}/v2/agent", fake.url));
    let container = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.as_str()),
    ];
    api(dir.path(), &fake, "", &container).await.caller().await.unwrap();
    let signers: Vec<String> = fake.journal().iter().map(signer).filter(|s| s != "nobody").collect();
    assert_eq!(signers, ["IMDS", "ECS"]);
}

#[tokio::test]
async fn programs_give_keys_and_their_failures_show_no_secret() {
    let run = async |command: &str| {
        let source = Source::Process { profile: "p".into(), command: command.to_owned().into() };
        let dir = home(&[]);
        let fake = Fake::start(|_| (500, String::new())).await;
        let api =
            api(dir.path(), &fake, "", &[("AWS_ACCESS_KEY_ID", "A"), ("AWS_SECRET_ACCESS_KEY", "B")]).await;
        let sts = Connection {
            http: api.http().clone(),
            endpoint: super::super::endpoints::Endpoint { url: fake.url.clone(), region: "us-east-1".into() },
            endpoints: Default::default(),
            calls: Arc::new(http::Calls::new("test", http::Retry::scaled(0.001), 1, 1)),
        };
        source.fetch(&sts, &|| Ok(api.http().clone())).await
    };
    let keys = run(
        r#"echo '{"Version":1,"AccessKeyId":"PROC","SecretAccessKey":"s","Expiration":"2999-01-01T00:00:00Z"}'"#,
    );
    let keys = keys.await.unwrap();
    assert_eq!((keys.id.as_str(), keys.token.is_none()), ("PROC", true));
    assert!(keys.is_valid_for(SLACK));
    for (command, reason) in [
        ("echo SECRET >&2; exit 3", "it ended with exit status: 3"),
        ("echo SECRET", "its output is not JSON of version 1"),
        (
            r#"echo '{"Version":1,"AccessKeyId":{"x":"SECRET"}}'"#,
            "its answer has no AccessKeyId or SecretAccessKey",
        ),
        (
            r#"echo '{"Version":1,"AccessKeyId":"A","SecretAccessKey":"s","Expiration":"SECRET"}'"#,
            "its Expiration is no time",
        ),
        (
            r#"echo '{"Version":1,"AccessKeyId":"A","SecretAccessKey":"SECRET","Expiration":"2020-01-01T01:00:00+01:00"}'"#,
            "its keys expired at 2020-01-01T00:00:00Z",
        ),
    ] {
        let e = run(command).await.unwrap_err();
        assert_eq!(e.to_string(), format!("no keys from the credential_process of profile \"p\": {reason}"));
        assert!(!crate::text::chain(&e).contains("SECRET"));
    }
}

#[tokio::test]
async fn refusals_of_sts_name_the_role_and_hide_the_token() {
    let dir = home(&[(".aws/credentials", CREDENTIALS), (".aws/config", CONFIG)]);
    let fake = Fake::start(|_| {
        let body = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>SECRET-two and SECRET-token may not\
            </Message></Error><RequestId>r1</RequestId></ErrorResponse>";
        (403, body.into())
    })
    .await;
    let e = api(dir.path(), &fake, "role", &[]).await.caller().await.unwrap_err();
    assert!(matches!(e, ApiError::Credentials { .. }));
    assert_eq!(
        crate::text::chain(&e),
        "cannot get AWS credentials: cannot assume role arn:r: AssumeRole: AccessDenied: *** and *** may not (HTTP \
         403, request r1)"
    );
}
