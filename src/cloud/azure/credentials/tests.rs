//! Where credentials are found, as a table; what is read of answers.

use std::path::Path;

use super::sources::{Environment, Found, find};
use super::*;
use crate::cloud::azure::Account;
use crate::text::chain;

const ID: &str = "11111111-2222-4333-8444-555555555555";

fn account() -> Account {
    Account {
        azure_profile: None,
        azure_subscription: Some(ID.into()),
        azure_auth: None,
        azure_location: "westus".into(),
        azure_endpoint: None,
    }
}

fn environment(home: &Path, variables: &[(&str, &str)]) -> Environment {
    let variables = variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    Environment { home: Some(home.to_owned()), variables, ..Environment::default() }
}

fn found(account: &Account, env: &Environment) -> Result<Found, String> {
    let http = Client::new(Limits::default(), Retry::default()).unwrap();
    find(account, env, &http).map_err(|e| chain(&e))
}

#[test]
fn the_first_that_is_there_is_taken() {
    let home = tempfile::tempdir().unwrap();
    let write = |name: &str| {
        let path = home.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = format!(r#"{{"clientId":"of {name}","clientSecret":"SECRET","tenantId":"t"}}"#);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (chosen, located) = (write("chosen"), write("located"));
    let app =
        [("AZURE_CLIENT_SECRET", "SECRET"), ("AZURE_CLIENT_ID", "of variables"), ("AZURE_TENANT_ID", "t")];
    let own = [("IDENTITY_ENDPOINT", "http://h/x"), ("IDENTITY_HEADER", "SECRET")];
    let all = [&[("AZURE_AUTH_LOCATION", located.as_str())][..], &app, &own].concat();
    let with_file = Account { azure_auth: Some(chosen.into()), ..account() };
    let cli = |variables: &[(&str, &str)]| Environment { cli: true, ..environment(home.path(), variables) };
    let identity = |account: &Account, env: &Environment| {
        let found = found(account, env).unwrap();
        assert!(!format!("{found:?}").contains("SECRET"), "{found:?}");
        found.credentials.identity()
    };
    assert_eq!(identity(&with_file, &cli(&all)), "application of chosen");
    assert_eq!(identity(&account(), &cli(&all)), "application of located");
    assert_eq!(identity(&account(), &cli(&[&app[..], &own].concat())), "application of variables");
    write(".azure/azureCreds.json");
    assert_eq!(identity(&account(), &cli(&own)), "application of .azure/azureCreds.json");
    write(".azure/credentials.json");
    assert_eq!(identity(&account(), &cli(&own)), "application of .azure/credentials.json");
    std::fs::remove_dir_all(home.path().join(".azure")).unwrap();
    assert_eq!(identity(&account(), &cli(&own)), "this machine's identity");
    let here = Environment { on_azure: true, ..cli(&[]) };
    assert_eq!(identity(&account(), &here), "this machine's identity");
    assert_eq!(identity(&account(), &cli(&[])), "the user of the Azure CLI");
    let none = found(&account(), &environment(home.path(), &[])).unwrap_err();
    assert!(none.starts_with("none were found"), "{none}");
}

#[test]
fn the_cloud_is_that_of_variables_profile_and_file() {
    let home = tempfile::tempdir().unwrap();
    let app = [("AZURE_CLIENT_SECRET", "SECRET"), ("AZURE_CLIENT_ID", "c"), ("AZURE_TENANT_ID", "t")];
    let cloud = |account: &Account, more: &[(&str, &str)]| {
        found(account, &environment(home.path(), &[&app[..], more].concat())).unwrap().cloud
    };
    assert_eq!(cloud(&account(), &[]), Cloud::public().unwrap());
    let china = Cloud::named("china").unwrap();
    assert_eq!(cloud(&account(), &[("AZURE_CLOUD", "cn")]), china);
    assert_eq!(cloud(&account(), &[("AZURE_AUTHORITY_HOST", "login.chinacloudapi.cn")]), china);
    std::fs::create_dir(home.path().join(".azure")).unwrap();
    let profile =
        format!(r#"{{"subscriptions":[{{"id":"{ID}","name":"x","environmentName":"AzureUSGovernment"}}]}}"#);
    std::fs::write(home.path().join(".azure/azureProfile.json"), profile).unwrap();
    assert_eq!(cloud(&account(), &[]), Cloud::named("gov").unwrap());
    assert_eq!(cloud(&account(), &[("AZURE_CLOUD", "cn")]), china);
    let elsewhere = Account { azure_endpoint: Some("http://127.0.0.1:1".into()), ..account() };
    let cloud = cloud(&elsewhere, &[]);
    // Tokens are still for the cloud's own.
    assert_eq!(
        (cloud.manager.as_str(), cloud.audience.as_str()),
        ("http://127.0.0.1:1/", "https://management.usgovcloudapi.net/")
    );
}

#[test]
fn answers_are_read_in_all_their_forms() {
    let now = 1_000_000;
    let left = |text: &str| {
        let token = read_token("x", text.as_bytes(), now)?;
        Ok::<_, Error>(token.expires.saturating_duration_since(Instant::now()).as_secs())
    };
    for (text, seconds) in [
        (r#"{"access_token":"t","expires_in":3599}"#, 3599),
        (r#"{"access_token":"t","expires_in":"3599","expires_on":"1"}"#, 3599),
        (r#"{"access_token":"t","expires_on":"1000100"}"#, 100),
        (r#"{"accessToken":"t","expires_on":1000100}"#, 100),
        (r#"{"access_token":"t","expires_in":999999999}"#, 86_400),
    ] {
        let is = left(text).unwrap();
        assert!((seconds - 2..=seconds).contains(&is), "{text}: {is}");
    }
    for text in [
        "",
        "SECRET",
        r#"{"access_token":""}"#,
        r#"{"access_token":"SECRET"}"#,
        r#"{"access_token":"SECRET\n","expires_in":1}"#,
        r#"{"access_token":"SECRET","expires_in":0}"#,
        r#"{"accessToken":"SECRET","expiresOn":"SECRET"}"#,
    ] {
        let error = chain(&left(text).unwrap_err());
        assert!(!error.contains("SECRET"), "{error}");
    }
}
