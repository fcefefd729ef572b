//! How machines get there that others are made of: a package is uploaded under a lease.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderName};
use reqwest::{Method, Url};
use tokio_util::sync::CancellationToken;

use super::api::Api;
use super::inventory::{Inventory, Place};
use super::ova::{self, Package, Part};
use super::sources::Trust;
use super::vm::{self, setting};
use super::xml::{Element, Ref};
use super::{COMPONENT, soap};
use crate::http::{CallError, Class, Refusal, Repeat, Upload};
use crate::poll;
use crate::progress::Progress;
use crate::text::chain;

/// How often the server is told how far an upload is: it ends leases of which it hears nothing for five minutes.
const PACE: Duration = Duration::from_secs(2);

/// The setting of a machine that is being uploaded, by which it is found should that fail.
const UPLOAD: &str = "mantle.upload";

/// What stands after the settings in the description of a machine.
const AFTER_SETTINGS: &[&str] = &[
    "swapPlacement",
    "bootOptions",
    "vAppConfig",
    "ftInfo",
    "repConfig",
    "vAppConfigRemoved",
    "vAssertsEnabled",
    "changeTrackingEnabled",
    "firmware",
    "maxMksConnections",
    "guestAutoLockEnabled",
    "managedBy",
    "memoryReservationLockedToMax",
    "nestedHVEnabled",
    "vPMCEnabled",
    "scheduledHardwareUpgradeInfo",
    "vmProfile",
    "messageBusTunnelEnabled",
    "crypto",
    "migrateEncryption",
];

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The package cannot be used.
    #[error(transparent)]
    Package(#[from] ova::Error),
    /// The server does not take the description.
    #[error("building CreateImportSpecRequest: {0}")]
    Rejected(String),
    /// The disks did not arrive.
    #[error("uploading disks to ResourcePool")]
    Disks(#[source] CallError),
    /// A disk cannot be read.
    #[error("uploading disks to ResourcePool: {0}")]
    Disk(String),
    /// The work was cancelled.
    #[error("interrupted")]
    Interrupted,
}

/// Makes a machine of a package. After a failure none is left.
///
/// # Errors
/// Any [`Failure`].
pub async fn create(
    api: &Api,
    package: Package,
    name: &str,
    cancel: &CancellationToken,
) -> Result<(), Failure> {
    let (checked, stopped) = (package.clone(), cancel.clone());
    let verified = tokio::task::spawn_blocking(move || checked.verify(&stopped)).await;
    verified.map_err(|e| CallError::setup(format!("the package cannot be read: {e}")))??;
    let inventory = Inventory::of(api).await?;
    let place = inventory.place(&api.session().source().wanted)?;
    let same = inventory.machines().into_iter().find(|m| m.vm.name() == name);
    if let Some(same) = same.filter(|m| m.datacenter.target == place.datacenter.target) {
        let refusal = Refusal {
            code: Some("DuplicateName".into()),
            message: Some(format!("there is {} already", same.vm.path)),
            class: Class::Conflict,
            ..Refusal::default()
        };
        return Err(CallError::Refused {
            call: format!("ImportVApp {name}").into(),
            refusal: Box::new(refusal),
        }
        .into());
    }
    let (mut spec, files) = described(api, &place, &package, name).await?;
    let token = uuid::Uuid::new_v4().to_string();
    let config = spec.child_mut("configSpec");
    let config = config.ok_or_else(|| Failure::Rejected("it is no description of one machine".into()))?;
    config.insert_before(AFTER_SETTINGS, setting(UPLOAD, &token));
    let mut lease = None;
    let made = uploaded(api, &place, spec, &package, &files, &mut lease);
    let failure = match cancel.run_until_cancelled(made).await {
        Some(Ok(())) => return Ok(()),
        Some(Err(failure)) => failure,
        None => Failure::Interrupted,
    };
    clean_up(api, lease.as_ref(), name, &token).await;
    Err(failure)
}

/// A file that the server wants: for which device, its name in the package, and whether it is to be made.
struct Wanted {
    device: String,
    name: String,
    create: bool,
}

/// What the server makes of the description.
async fn described(
    api: &Api,
    place: &Place,
    package: &Package,
    name: &str,
) -> Result<(Element, Vec<Wanted>), Failure> {
    const CALL: &str = "CreateImportSpec";
    let mapping = |network: &String| {
        let same = place.networks.iter().find(|n| n.name() == network).unwrap_or(&place.network);
        let mapping = Element::new("networkMapping").with(Element::text("name", network));
        mapping.with(Element::reference("network", &same.target))
    };
    let params = Element::new("cisp")
        .with(Element::text("locale", "US"))
        .with(Element::new("deploymentOption"))
        .with(Element::text("entityName", name))
        .with_all(package.networks.iter().map(mapping));
    let with = [
        Element::text("ovfDescriptor", &package.descriptor),
        Element::reference("resourcePool", &place.pool),
        Element::reference("datastore", &place.datastore.target),
        params,
    ];
    let manager = api.session().content().await?.manager("ovfManager")?;
    let answer = api.call(CALL, &manager, CALL, with, Repeat::Freely).await?;
    let result = answer.at("returnval").ok_or_else(|| CallError::answer(CALL, "there is nothing in it"))?;
    let errors: Vec<_> = result.all("error").map(|e| soap::failure(e).to_string()).collect();
    if !errors.is_empty() {
        return Err(Failure::Rejected(errors.join("; ")));
    }
    for warning in result.all("warning") {
        crate::warning!(COMPONENT, "{}", soap::failure(warning));
    }
    let spec =
        result.at("importSpec").ok_or_else(|| Failure::Rejected("the server says nothing of it".into()))?;
    let wanted = |item: &Element| {
        let (device, name) = (item.said("deviceId")?.to_owned(), item.said("path")?.to_owned());
        Some(Wanted { device, name, create: item.said("create") == Some("true") })
    };
    Ok((spec.clone().named("spec"), result.all("fileItem").filter_map(wanted).collect()))
}

/// Gets a lease, and sends all that the server wants under it.
async fn uploaded(
    api: &Api,
    place: &Place,
    spec: Element,
    package: &Package,
    files: &[Wanted],
    lease: &mut Option<Ref>,
) -> Result<(), Failure> {
    const CALL: &str = "ImportVApp";
    let with = [spec, Element::reference("folder", &place.folder)];
    let answer = api.call(CALL, &place.pool, CALL, with, Repeat::IfNotExecuted).await?;
    let of = answer.target_at("returnval").ok_or_else(|| CallError::answer(CALL, "it names no lease"))?;
    *lease = Some(of.clone());
    let object = api.settled(CALL, &of, "state", &["ready", "error", "done"], &["error", "info"]).await?;
    if object.text("state") != "ready" {
        let refusal =
            object.get("error").map(|e| soap::failure(&Element::new("e").with(e.clone().named("fault"))));
        let mut refusal = refusal.unwrap_or_default();
        let said = object.get("error").and_then(|e| e.said("localizedMessage"));
        refusal.message = said.and_then(crate::http::clean).or(refusal.message);
        refusal.code = refusal.code.or_else(|| Some("the lease has failed".into()));
        return Err(CallError::Refused { call: CALL.into(), refusal: Box::new(refusal) }.into());
    }
    let urls = object.get("info").into_iter().flat_map(|info| info.all("deviceUrl"));
    let mut uploads = Vec::new();
    for device in urls {
        let Some(file) = files.iter().find(|f| Some(f.device.as_str()) == device.said("importKey")) else {
            continue;
        };
        let part = package.part(&file.name);
        let part =
            part.ok_or_else(|| Failure::Disk(format!("couldn't find file in archive: {:?}", file.name)))?;
        uploads.push((file, part.clone(), destination(api, device.said("url").unwrap_or_default())?));
    }
    let total = uploads.iter().map(|(_, part, _)| part.length).sum();
    let done = Arc::new(AtomicU64::new(0));
    let send = async {
        let mut before = 0;
        for (file, part, url) in uploads {
            send(api, file, &part, url, before, &done).await?;
            before += part.length;
        }
        Ok::<_, Failure>(())
    };
    tokio::select! {
        sent = send => sent?,
        lost = keep(api, &of, &done, total) => return Err(Failure::Disks(lost)),
    }
    complete(api, &of).await.map_err(Failure::Disks)
}

/// Where a device's content goes. `*` stands for the server itself.
fn destination(api: &Api, text: &str) -> Result<Url, Failure> {
    let sdk = &api.session().source().sdk;
    let own = sdk.host_str().unwrap_or_default();
    let url: Url = text
        .replacen("://*", &format!("://{own}"), 1)
        .parse()
        .map_err(|_| Failure::Disk("the server names no address for a disk".into()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Failure::Disk("the server names an odd address for a disk".into()));
    }
    if text.contains("://*") || url.host_str() == Some(own) {
        return Ok(api.session().beside(url.path()));
    }
    if matches!(api.session().source().trust, Trust::Thumbprint(_)) {
        let host = url.host_str().unwrap_or_default();
        return Err(Failure::Disk(format!(
            "disks go to {host}, of which the server's thumbprint says nothing"
        )));
    }
    Ok(url)
}

/// Sends a file, of which `done` knows how far it is.
async fn send(
    api: &Api,
    file: &Wanted,
    part: &Part,
    url: Url,
    before: u64,
    done: &Arc<AtomicU64>,
) -> Result<(), Failure> {
    let (from, done) = (part.clone(), done.clone());
    let unreadable = Arc::new(std::sync::Mutex::new(None::<io::Error>));
    let note = unreadable.clone();
    let content = Upload::new(Some(part.length), part.length, move |pieces| {
        done.store(before, Ordering::Relaxed);
        let mut progress = Progress::of_file(COMPONENT, &from.name);
        progress.answer(0, Some(from.length));
        let mut left = false;
        let read = from.read(|piece| {
            pieces.send(piece.to_vec()).inspect_err(|_| left = true)?;
            done.fetch_add(piece.len() as u64, Ordering::Relaxed);
            progress.advance(piece.len() as u64);
            Ok(())
        });
        // If the other end has left: what it said is told.
        if let Err(e) = read.map_err(|e| (!left).then_some(e))
            && let Some(e) = e
        {
            *note.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(e);
            pieces.fail();
        }
    });
    let method = if file.create { Method::PUT } else { Method::POST };
    let mut call = api.transfer(format!("the upload of {}", part.name), method, url);
    call = call.upload(content).header(CONTENT_TYPE, "application/x-vnd.vmware-streamVmdk");
    if file.create {
        call = call.header(HeaderName::from_static("overwrite"), "t");
    }
    let sent = call.repeat(Repeat::Freely).send().await;
    let unreadable = unreadable.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    match (sent, unreadable) {
        (Ok(_), _) => Ok(()),
        (Err(_), Some(source)) => Err(ova::Error::Read { path: part.path.clone(), source }.into()),
        (Err(e), None) => Err(Failure::Disks(e)),
    }
}

/// Tells the server how far it is until that fails: it keeps the lease, and the session, alive.
async fn keep(api: &Api, lease: &Ref, done: &AtomicU64, total: u64) -> CallError {
    const CALL: &str = "HttpNfcLeaseProgress";
    loop {
        tokio::time::sleep(PACE.mul_f64(poll::scale())).await;
        // 100 is said by its completion.
        let percent = (done.load(Ordering::Relaxed) * 100 / total.max(1)).min(99);
        if let Err(e) = api.call(CALL, lease, CALL, [Element::text("percent", percent)], Repeat::Freely).await
        {
            return e;
        }
    }
}

async fn complete(api: &Api, lease: &Ref) -> Result<(), CallError> {
    const CALL: &str = "HttpNfcLeaseComplete";
    match api.call(CALL, lease, CALL, [], Repeat::IfNotExecuted).await {
        Err(e) if e.is_doubtful() => {
            crate::warning!(COMPONENT, "{}; looking whether it was done", chain(&e));
            match api.object(lease, &["state"]).await? {
                Some(object) if object.text("state") != "done" => {
                    api.call(CALL, lease, CALL, [], Repeat::Freely).await.map(drop)
                }
                _ => Ok(()),
            }
        }
        other => other.map(drop),
    }
}

/// Gives the lease back, and removes what was made by then.
async fn clean_up(api: &Api, lease: Option<&Ref>, name: &str, token: &str) {
    const CALL: &str = "HttpNfcLeaseAbort";
    if let Some(lease) = lease
        && let Err(e) = api.call(CALL, lease, CALL, [], Repeat::Freely).await
    {
        crate::debug!(COMPONENT, "{}", chain(&e));
    }
    let left = async {
        let mut same = vm::machines(api).await?;
        same.retain(|m| m.vm.name() == name);
        for vm in vm::look_at_all(api, &same).await? {
            if vm.setting(UPLOAD) == Some(token) {
                vm::end(api, &vm.machine).await?;
            }
        }
        Ok::<_, CallError>(())
    };
    if let Err(e) = left.await {
        crate::error!(COMPONENT, "VM {name} may be left half made: {}", chain(&e));
    }
}
