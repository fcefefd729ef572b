//! How images come to be: DigitalOcean fetches them, or a droplet overwrites its own disk with one and is kept.
//!
//! The second way is older than the first and takes none of DigitalOcean's formats into account: what is on the disk is
//! what was fetched, byte by byte, and the image is a snapshot, whose droplets can have addresses of IPv6.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::images::{NewImage, Unresolved};
use super::{Api, COMPONENT, Image, MARK, NewDroplet, order};
use crate::conf::{self, Additions, IgnitionVersion, UserData};
use crate::http::CallError;
use crate::poll::{self, Answer, Poll};
use crate::text::chain;

/// How long an image may be fetched.
const FETCHED: Poll = Poll::seconds(15, 900);
/// How long a droplet may take to overwrite its disk.
const OFF: Poll = Poll::seconds(15, 600);
/// How long a snapshot may take.
const SNAPSHOT: Poll = Poll::seconds(15, 1800);

/// What DigitalOcean calls the systems on images that are fetched; it takes no other names.
pub const DISTRIBUTIONS: &[&str] = &[
    "Arch Linux",
    "CentOS",
    "CoreOS",
    "Debian",
    "Fedora",
    "Fedora Atomic",
    "FreeBSD",
    "Gentoo",
    "openSUSE",
    "RancherOS",
    "Rocky Linux",
    "Ubuntu",
    "Unknown",
];

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The name is taken: of two images of one name neither could be named.
    #[error("there is an image {name:?} already (id {id})")]
    Taken {
        /// The name.
        name: String,
        /// The image's id.
        id: u64,
    },
    /// The address cannot be one.
    #[error("{address:?} cannot be fetched: {reason}")]
    Address {
        /// What was given, without its query.
        address: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The image that the droplet is made of.
    #[error(transparent)]
    Base(#[from] Unresolved),
    /// A call failed.
    #[error("{what}")]
    Call {
        /// What was being done.
        what: String,
        /// What the service said.
        #[source]
        source: CallError,
    },
    /// The userdata, or a key, could not be made.
    #[error("{what}")]
    Made {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The service could not fetch the image, or lost it.
    #[error("image {id} is of no use: {why}")]
    Refused {
        /// Its id.
        id: u64,
        /// Why.
        why: String,
    },
    /// The image is not there in time. It may still come.
    #[error("image {id} is not there yet: {late}")]
    Late {
        /// Its id.
        id: u64,
        /// For how long it was waited.
        late: String,
    },
    /// The droplet did not overwrite itself.
    #[error("Failed waiting for droplet to power off ({0}). Did install fail?")]
    Install(String),
    /// The snapshot came to nothing.
    #[error("couldn't snapshot droplet: {0}")]
    Snapshot(String),
    /// The work was cancelled.
    #[error("interrupted")]
    Interrupted,
}

impl Failure {
    fn call(what: impl Into<String>) -> impl FnOnce(CallError) -> Self {
        let what = what.into();
        move |source| Self::Call { what, source }
    }
}

/// Whether an address can be fetched by somebody else's machine, and stand in a script.
///
/// # Errors
/// What is wrong with it.
pub fn check_address(address: &str) -> Result<(), Failure> {
    // The query of a signed address is a secret.
    let shown = address.split(['?', '#']).next().unwrap_or_default();
    let wrong = |reason| Err(Failure::Address { address: crate::http::mask::urls(shown), reason });
    match address.parse::<reqwest::Url>() {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {}
        Ok(url) if matches!(url.scheme(), "http" | "https") => return wrong("it names no server"),
        _ => {
            return wrong(
                "it must begin with http:// or https://, since it is fetched from DigitalOcean's side: no file of this \
                 machine can be uploaded",
            );
        }
    }
    let odd = |c: char| c.is_whitespace() || c.is_control() || "\"'`$\\".contains(c);
    match address.contains(odd) {
        true => wrong("quotes, backticks, backslashes, $ and white space must be written as % and digits"),
        false => Ok(()),
    }
}

/// An image of this name that is on its way.
///
/// # Errors
/// [`Failure::Taken`] when there is a finished one.
async fn unfinished(api: &Api, name: &str) -> Result<Option<u64>, Failure> {
    let mut there = api.images_named(name).await.map_err(Failure::call("couldn't list images"))?;
    there.sort_by_key(Image::is_unfinished);
    match there.first() {
        None => Ok(None),
        Some(image) if image.is_unfinished() => Ok(Some(image.id)),
        Some(image) => Err(Failure::Taken { name: name.into(), id: image.id }),
    }
}

/// Lets DigitalOcean fetch an image, and waits until it can be used; its id. One of the same name that is on its way,
/// as an earlier call left it, is waited for in its place.
///
/// # Errors
/// Any [`Failure`]. Of one that was refused, or interrupted, nothing is left; another may come yet.
pub async fn fetch(api: &Api, new: &NewImage<'_>, cancel: &CancellationToken) -> Result<u64, Failure> {
    check_address(new.url)?;
    let id = match unfinished(api, new.name).await? {
        Some(id) => {
            crate::info!(COMPONENT, "image {:?} is on its way already: waiting for it", new.name);
            id
        }
        None => ordered(api, new).await?,
    };
    let seen = std::cell::Cell::new(false);
    let ask = || async {
        let image = api.image(&id.to_string()).await.map_err(Failure::call("couldn't look at the image"))?;
        let refused = |why: String| Err(Failure::Refused { id, why });
        match image {
            None if seen.get() => refused("it has vanished".into()),
            None => Ok(Answer::NotYet("not there".into())),
            Some(image) if image.status == "available" => Ok(Answer::Ready(())),
            Some(image) if image.is_unfinished() => {
                seen.set(true);
                Ok(Answer::NotYet(image.status))
            }
            Some(image) if image.error_message.is_empty() => refused(format!("it is {}", image.status)),
            Some(image) => {
                let said = crate::http::clean(&image.error_message).unwrap_or_default();
                refused(format!("DigitalOcean says: {said}"))
            }
        }
    };
    let failure = match FETCHED.until(format!("image {id} available"), cancel, ask).await {
        Ok(()) => return Ok(id),
        Err(poll::Error::Failed(failure @ Failure::Refused { .. })) => failure,
        Err(poll::Error::Cancelled) => Failure::Interrupted,
        // It may come yet.
        Err(poll::Error::Failed(failure)) => return Err(failure),
        Err(late) => return Err(Failure::Late { id, late: late.to_string() }),
    };
    if let Err(e) = api.delete_image(id).await {
        crate::error!(COMPONENT, "image {id} is left: {}", chain(&e));
    }
    Err(failure)
}

/// Orders an image once: there is none of its name, so that one which is there after a lost answer is its own.
async fn ordered(api: &Api, new: &NewImage<'_>) -> Result<u64, Failure> {
    const TRIES: u32 = 3;
    let mut tries = 0;
    loop {
        let error = match api.create_image(new).await {
            Ok(image) => return Ok(image.id),
            Err(e) => e,
        };
        tries += 1;
        if error.is_doubtful() {
            let ask = || async {
                let found = unfinished(api, new.name).await?;
                Ok(found.map_or_else(|| Answer::NotYet("none".into()), Answer::Ready))
            };
            // It must be known whether it is there: the run's end does not end this.
            match order::SHOWN.until("the image", &CancellationToken::new(), ask).await {
                Ok(id) | Err(poll::Error::Failed(Failure::Taken { id, .. })) => return Ok(id),
                Err(poll::Error::Failed(failure)) => return Err(failure),
                Err(_) if tries < TRIES => continue,
                Err(_) => {}
            }
        }
        return Err(Failure::call("couldn't create image")(error));
    }
}

/// A program that is whole when its hash is right.
#[derive(Clone, Copy, Debug)]
pub struct Busybox<'a> {
    /// Where it is fetched from.
    pub url: &'a str,
    /// SHA-256 of the program, in hexadecimal digits.
    pub sha256: &'a str,
}

/// The busybox that upstream took, statically linked, for every x86.
pub const BUSYBOX: Busybox<'static> = Busybox {
    url: "https://busybox.net/downloads/binaries/1.27.1-i686/busybox",
    sha256: "b51b9328eb4e60748912e1c1867954a5cf7e9d5294781cae59ce225ed110523c",
};

/// What a droplet that overwrites itself is made of.
#[derive(Clone, Copy, Debug)]
pub struct Install<'a> {
    /// The name of the image to make.
    pub name: &'a str,
    /// The address of a raw disk, compressed with bzip2, that is given without asking who wants it.
    pub url: &'a str,
    /// The region's slug.
    pub region: &'a str,
    /// The droplet's size: the image fits all whose disks are no smaller.
    pub size: &'a str,
    /// The image that the droplet boots: one of Container Linux, or of what reads Ignition 2 and has systemd, wget and
    /// sha256sum.
    pub base: &'a str,
    /// What works while the disk is overwritten.
    pub busybox: Busybox<'a>,
}

/// The image that was made, and what else is there that should not be.
#[derive(Debug)]
pub struct Installed {
    /// The image's id.
    pub image: u64,
    /// What could not be removed, a line each.
    pub left: Vec<String>,
}

/// Makes an image of a droplet that overwrites its disk with what is at an address; removes droplet and key.
///
/// # Errors
/// Any [`Failure`]; what could not be removed has been said then.
pub async fn install(
    api: &Api,
    install: &Install<'_>,
    cancel: &CancellationToken,
) -> Result<Installed, Failure> {
    check_address(install.url)?;
    check_address(install.busybox.url)?;
    let user_data = user_data(install)?;
    if let Some(id) = unfinished(api, install.name).await? {
        return Err(Failure::Taken { name: install.name.into(), id });
    }
    let base = api.resolve(install.base, install.region).await?;
    let token = uuid::Uuid::new_v4().to_string();
    let key_name = format!("ore-{token}");
    let made = |source| Failure::Made { what: "couldn't make an SSH key", source };
    let key = tokio::task::spawn_blocking(crate::ssh::Key::generate).await.map_err(|e| made(e.into()))?;
    let key = key.map_err(|e| made(e.into()))?;
    if cancel.is_cancelled() {
        return Err(Failure::Interrupted);
    }
    let mut droplet = Ordered::default();
    let outcome = async {
        let failed = Failure::call("couldn't create an SSH key");
        let key = api.create_key(&key_name, key.authorized()).await.map_err(failed)?;
        let name = order::name(&format!("{}-install", install.name), &token);
        let new = NewDroplet {
            name: &name,
            region: install.region,
            size: install.size,
            image: base.id,
            key,
            ipv6: !base.is_custom(),
            vpc: None,
            user_data: &user_data,
            tags: &[MARK],
        };
        overwritten(api, install, &new, &mut droplet, cancel).await
    };
    let outcome = outcome.await;
    let mut left = Vec::new();
    if let Err(e) = droplet.remove(api, &token).await {
        left.push(format!("droplet {} is left: {}", order::digits(&token), chain(&e)));
    }
    if let Err(e) = api.delete_keys(&[&key_name]).await {
        left.push(format!("key {key_name} is left: {}", chain(&e)));
    }
    match outcome {
        Ok(image) => Ok(Installed { image, left }),
        Err(failure) => {
            for line in left {
                crate::error!(COMPONENT, "{line}");
            }
            Err(failure)
        }
    }
}

/// A droplet, as far as it is known.
#[derive(Default)]
struct Ordered {
    asked: bool,
    id: Option<u64>,
    doubt: AtomicBool,
}

impl Ordered {
    /// Removes it, and its twins, should answers have been lost.
    async fn remove(&self, api: &Api, token: &str) -> Result<(), CallError> {
        if let Some(id) = self.id {
            api.delete_droplet(id).await?;
        }
        if self.asked && (self.doubt.load(Ordering::Relaxed) || self.id.is_none()) {
            for droplet in order::named(api, &order::digits(token)).await? {
                api.delete_droplet(droplet.id).await?;
            }
        }
        Ok(())
    }
}

/// The image of a droplet that has overwritten itself.
async fn overwritten(
    api: &Api,
    install: &Install<'_>,
    new: &NewDroplet<'_>,
    droplet: &mut Ordered,
    cancel: &CancellationToken,
) -> Result<u64, Failure> {
    droplet.asked = true;
    let made = order::droplet(api, new, cancel, &droplet.doubt).await;
    let id = made.map_err(|source| match cancel.is_cancelled() {
        true => Failure::Interrupted,
        false => Failure::Call { what: "couldn't create droplet".into(), source },
    })?;
    droplet.id = Some(id);
    crate::info!(COMPONENT, "droplet {id} overwrites its disk; it powers off when it is done");
    let ask = || async {
        let there = api.droplet(id).await.map_err(|e| Failure::Install(chain(&e)))?;
        match there.map(|d| d.status) {
            Some(status) if status == "off" => Ok(Answer::Ready(())),
            Some(status) if status == "archive" => Err(Failure::Install("it is in the archive".into())),
            Some(status) => Ok(Answer::NotYet(status)),
            None => Ok(Answer::NotYet("not there".into())),
        }
    };
    OFF.until(format!("droplet {id} off"), cancel, ask).await.map_err(|e| ended(e, Failure::Install))?;
    let failed = |e: CallError| Failure::Snapshot(chain(&e));
    let action = api.snapshot(id, install.name).await.map_err(failed)?.id;
    crate::info!(COMPONENT, "droplet {id} is off; its disk is made an image");
    let ask = || async {
        let action = api.action(action).await.map_err(failed)?;
        match action.status.as_str() {
            "completed" => Ok(Answer::Ready(())),
            "in-progress" => Ok(Answer::NotYet(action.status)),
            other => Err(Failure::Snapshot(format!("snapshot failed: it is {other}"))),
        }
    };
    let done = SNAPSHOT.until(format!("snapshot of droplet {id}"), cancel, ask).await;
    done.map_err(|e| ended(e, Failure::Snapshot))?;
    let ask = || async {
        let there = api.snapshots(id).await.map_err(failed)?;
        let image = there.into_iter().find(|i| i.name == install.name);
        Ok(image.map_or_else(|| Answer::NotYet("none".into()), |image| Answer::Ready(image.id)))
    };
    let found = order::SHOWN.until("the image", cancel, ask).await;
    found.map_err(|e| ended(e, Failure::Snapshot))
}

/// How a wait ended, as a failure; `late` is what it is when the time was over.
fn ended(e: poll::Error<Failure>, late: impl FnOnce(String) -> Failure) -> Failure {
    match e {
        poll::Error::Failed(failure) => failure,
        poll::Error::Cancelled => Failure::Interrupted,
        e @ poll::Error::TimedOut { .. } => late(e.to_string()),
    }
}

/// What runs in place of the system once that has ended, from memory, with nothing but busybox.
const SHUTDOWN: &str = include_str!("shutdown.sh");

/// The userdata of a droplet that overwrites itself: Ignition, made of a Container Linux Config.
///
/// # Errors
/// [`Failure::Address`]; the config could not be translated.
pub fn user_data(install: &Install<'_>) -> Result<String, Failure> {
    let config = UserData::container_linux_config(config(install));
    let conf = conf::render(Some(&config), IgnitionVersion::V2, "", "", &Additions::default());
    let made = |source: conf::Error| Failure::Made {
        what: "couldn't make the droplet's userdata",
        source: source.into(),
    };
    Ok(conf.map_err(made)?.text().to_owned())
}

fn config(install: &Install<'_>) -> String {
    let Busybox { url, sha256 } = install.busybox;
    // Specifiers of systemd begin with this.
    let url = url.replace('%', "%%");
    let unit = format!(
        "[Unit]\n\
         Description=Prepare to overwrite the disk\n\
         After=multi-user.target\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         ExecStart=/usr/bin/wget -O /root/initramfs/busybox {url}\n\
         ExecStart=/bin/sh -c \"echo '{sha256}  /root/initramfs/busybox' | /usr/bin/sha256sum -c -\"\n\
         ExecStart=/bin/chmod +x /root/initramfs/busybox\n\
         ExecStart=/bin/mkdir -p /run/initramfs\n\
         ExecStart=/bin/cp -a /root/initramfs/. /run/initramfs/\n\
         ExecStart=/bin/systemctl --no-block poweroff\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    );
    let file = |path: &str, mode: u32, text: &str| json!({"path": path, "filesystem": "root", "mode": mode, "contents": {"inline": text}});
    // JSON is YAML.
    json!({
        "storage": {"files": [
            file("/root/initramfs/etc/resolv.conf", 0o644, "nameserver 8.8.8.8\n"),
            file("/root/initramfs/shutdown", 0o755, &SHUTDOWN.replace("@URL@", install.url)),
        ]},
        "systemd": {"units": [{"name": "install-prep.service", "enabled": true, "contents": unit}]},
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const INSTALL: Install<'static> = Install {
        name: "image",
        url: "https://example.com/a%20b.bin.bz2?x=1&y=2",
        region: "sfo2",
        size: "s-1vcpu-1gb",
        base: "stable",
        busybox: Busybox { url: "http://mirror/b%20b", sha256: BUSYBOX.sha256 },
    };

    #[test]
    fn addresses_are_those_that_others_can_fetch() {
        for good in ["http://h/x", "https://h:1/x.bz2?a=%22&b=1"] {
            check_address(good).unwrap();
        }
        for (bad, says) in [
            ("", "no file of this machine can be uploaded"),
            ("image.bin.bz2", "no file of this machine can be uploaded"),
            ("/image.bin.bz2", "no file of this machine can be uploaded"),
            ("file:///image", "no file of this machine can be uploaded"),
            ("gs://b/o", "no file of this machine can be uploaded"),
            ("http://h/a b", "white space"),
            ("http://h/$(reboot)", "white space"),
            ("http://h/`reboot`", "white space"),
            ("http://h/\"; reboot", "white space"),
            ("http://h/\\", "white space"),
            ("http://h/?token=SECRET\n", "white space"),
            ("http://me:SECRET@h/$", "white space"),
        ] {
            let error = check_address(bad).unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("SECRET"), "{bad}: {error}");
        }
    }

    #[test]
    fn userdata_is_ignition_with_two_files_and_a_unit() {
        let text = user_data(&INSTALL).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["ignition"]["version"], "2.2.0");
        let files = json["storage"]["files"].as_array().unwrap();
        let shown: Vec<_> =
            files.iter().map(|f| (f["path"].as_str().unwrap(), f["mode"].as_u64().unwrap())).collect();
        let expected = [("/root/initramfs/etc/resolv.conf", 0o644), ("/root/initramfs/shutdown", 0o755)];
        assert_eq!(shown, expected);
        let source = files[1]["contents"]["source"].as_str().unwrap();
        let script = crate::text::percent::decode(source.strip_prefix("data:,").unwrap()).unwrap();
        assert!(script.starts_with("#!/busybox sh\n"), "{script}");
        assert!(script.contains("\"https://example.com/a%20b.bin.bz2?x=1&y=2\""), "{script}");
        assert!(!script.contains("@URL@"));
        let unit = &json["systemd"]["units"][0];
        assert_eq!((&unit["name"], &unit["enabled"]), (&json!("install-prep.service"), &json!(true)));
        let unit = unit["contents"].as_str().unwrap();
        assert!(unit.contains("busybox http://mirror/b%%20b\n") && unit.contains(BUSYBOX.sha256), "{unit}");
        assert!(text.len() < 64 << 10);
    }

    #[test]
    fn finished_images_take_their_name() {
        let image = |status: &str, error: &str| Image {
            status: status.into(),
            error_message: error.into(),
            ..Image::default()
        };
        assert!(image("NEW", "").is_unfinished() && image("pending", "").is_unfinished());
        assert!(!image("available", "").is_unfinished() && !image("pending", "no").is_unfinished());
    }
}
