//! The Omaha server as a guest reaches it that has no update_engine.

use std::net::Ipv4Addr;
use std::path::Path;

use color_eyre::eyre::{Result, WrapErr as _, ensure, eyre};
use mantle::omaha::{
    AppStatus, Request, RequestApp, Response, Running, Seen, Status, UpdateCheck, UpdateStatus,
};
use mantle::platform::guest::Guest;
use mantle::{omaha, ssh, update};
use openssl::pkey::PKey;
use openssl::rsa::Rsa;

use super::helpers::{seconds, start_native};
use crate::kola::cluster::TestCluster;
use crate::kola::register::{Native, Test};
use crate::kola::updates::PACKAGE;

/// The tests of this file.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("omaha.ping.http", ping)
            .description("A ping by HTTP to kola's Omaha server is answered and remembered")
            .distros(["debian"])
            .features(["private-network"]),
        Test::new("omaha.update.http", update_http)
            .description("The package of an update comes from the machine's own Omaha server as it is")
            .native([OMAHA])
            .distros(["debian"]),
    ]
}

/// An Omaha server on the machine that offers `/updates/update.gz`, until the machine's end.
pub(super) const OMAHA: Native = Native::new("Omaha", serve);
/// Its port.
pub(super) const PORT: u16 = 34567;
/// The file that it offers.
pub(super) const PAYLOAD: &str = "/updates/update.gz";

fn serve() -> Result<()> {
    // The runtime is kolet's own; this thread may block.
    tokio::runtime::Handle::current().block_on(async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await;
        let listener = listener.wrap_err_with(|| format!("cannot listen on TCP port {PORT}"))?;
        let running = Running::start(listener).wrap_err("cannot start the Omaha server")?;
        running.server.add_package(Path::new(PAYLOAD), PACKAGE).await.wrap_err("bad payload")?;
        std::future::pending().await
    })
}

/// Posts a request from the machine by curl.
async fn post(c: &TestCluster, m: &Guest, url: &str, app: RequestApp) -> Result<Response> {
    let request = Request { protocol: "3.0".into(), apps: vec![app], ..Request::default() }.to_xml()?;
    let command = format!(
        "printf %s {} | curl -sS --fail-with-body -H 'Content-Type: text/xml' --data-binary @- {}",
        ssh::quote(&request),
        ssh::quote(url)
    );
    Ok(Response::parse(c.must_ssh(m, &command).await?.as_bytes())?)
}

async fn ping(c: TestCluster) -> Result<()> {
    let (m, server) = (c.machine(0)?, c.omaha().await?);
    let app = RequestApp {
        id: update::APP_ID.into(),
        version: "1.2.3".into(),
        ping: Some(omaha::Ping::default()),
        ..RequestApp::default()
    };
    let response = post(&c, &m, &server.url(), app).await?;
    let answered = response.apps.first().and_then(|app| app.ping.clone());
    ensure!(answered == Some(Status::ok()), "the ping was not answered: {response:?}");
    let ours = |seen: &Seen| matches!(seen, Seen::Ping { version, .. } if version == "1.2.3");
    let seen = tokio::time::timeout(seconds(30), server.server.wait_for(ours)).await;
    ensure!(seen.is_ok(), "the server does not remember the ping: {:?}", server.server.seen());
    Ok(())
}

/// A small payload, signed by a key that nobody keeps.
fn payload() -> Result<Vec<u8>> {
    let image = tempfile::NamedTempFile::new().wrap_err("cannot make a temporary file")?;
    std::fs::write(image.path(), [0x5a; 64 * 4096]).wrap_err("cannot write a temporary file")?;
    let mut payload = Vec::new();
    let source = update::Source { partition: image.as_file(), kernel: None };
    update::generate(
        &source,
        &PKey::from_rsa(Rsa::generate(2048)?)?,
        update::Options::default(),
        &mut payload,
    )?;
    Ok(payload)
}

async fn update_http(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    let payload = tokio::task::spawn_blocking(payload).await??;
    ssh::install_file(m.client(), payload.clone(), PAYLOAD, 0o644).await?;
    start_native(&c, &m, OMAHA.name, &format!("curl -s http://127.0.0.1:{PORT}")).await?;
    let app = RequestApp {
        id: update::APP_ID.into(),
        version: "1.2.3".into(),
        update_check: Some(UpdateCheck::default()),
        ..RequestApp::default()
    };
    let url = format!("http://{}:{PORT}/v1/update", m.private_ip());
    let response = post(&c, &m, &url, app).await?;
    let app = response.apps.first().filter(|app| app.status == AppStatus::Ok);
    let check =
        app.and_then(|app| app.update_check.as_ref()).filter(|check| check.status == UpdateStatus::Ok);
    let named = check.and_then(|check| {
        let package = check.manifest.as_ref()?.packages.packages.first()?;
        Some((format!("{}{}", check.urls.as_ref()?.urls.first()?.code_base, package.name), package))
    });
    let (url, package) = named.ok_or_else(|| eyre!("there is no update in the response: {response:?}"))?;
    let sum = openssl::base64::decode_block(package.sha256.as_deref().unwrap_or_default())?;
    let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    let command = format!("curl -sSf {} | sha256sum", ssh::quote(&url));
    let got = c.must_ssh(&m, &command).await?;
    ensure!(got.starts_with(&sum), "the package at {url} has SHA-256 {got:?}, the response says {sum}");
    let sent: String = openssl::sha::sha256(&payload).iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(sum == sent, "the server says SHA-256 {sum}, the payload has {sent}");
    Ok(())
}
