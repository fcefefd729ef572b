//! A device's serial console: an SSH session to the host of its data centre, with the device for a user.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::variable;
use crate::poll::{Answer, Poll};
use crate::ssh;
use crate::text::chain;

/// For one connection, login included.
const CONNECT: Duration = Duration::from_secs(60);
/// How often and how long a session is tried: a new device may not be known there yet.
const ATTACH: Poll = Poll::seconds(5, 60);

/// The host of the serial consoles of a data centre.
pub fn host(facility: &str) -> String {
    variable("PACKET_SOS_HOST").unwrap_or_else(|| format!("sos.{facility}.packet.net"))
}

/// A console that is listened to; the session ends with it.
pub struct Console {
    text: Arc<Mutex<Vec<u8>>>,
    over: watch::Receiver<bool>,
    _task: AbortOnDropHandle<()>,
}

impl Console {
    /// Opens a session and returns once its shell has started; none, with a warning, where that cannot be.
    pub async fn attach(
        host: &str,
        device: &str,
        key: Arc<ssh::Key>,
        cancel: &CancellationToken,
    ) -> Option<Self> {
        let client = ssh::Client::new(Arc::new(ssh::Direct), host, ssh::Login::key(device, key), CONNECT);
        let last = Mutex::new(None);
        let ask = || async {
            Ok::<_, std::convert::Infallible>(match client.listen().await {
                Ok(stream) => Answer::Ready(stream),
                Err(e) => {
                    let text = chain(&e);
                    *lock(&last) = Some(text.clone());
                    Answer::NotYet(text)
                }
            })
        };
        let Ok(mut stream) = ATTACH.until(format!("the console of {device}"), cancel, ask).await else {
            let why = lock(&last).take().unwrap_or_default();
            crate::warning!("packet", "no serial console of device {device} at {host}: {why}");
            return None;
        };
        let (text, (ended, over)) = (Arc::<Mutex<Vec<u8>>>::default(), watch::channel(false));
        let (own, device) = (text.clone(), device.to_owned());
        let task = tokio::spawn(async move {
            // Kept: its end would be the session's.
            let _client = client;
            while let Some(piece) = stream.next().await {
                match piece {
                    Ok(piece) => lock(&own).extend_from_slice(&piece),
                    Err(e) => crate::debug!("packet", "the console of {device} has ended: {}", chain(&e)),
                }
            }
            ended.send_replace(true);
        });
        Some(Self { text, over, _task: AbortOnDropHandle::new(task) })
    }

    /// All that was said so far.
    pub fn whole(&self) -> Vec<u8> {
        lock(&self.text).clone()
    }

    /// What the image has said: without the installer. Until its boot loader is seen, nothing; if the session has ended
    /// without that, everything.
    pub fn image(&self) -> Vec<u8> {
        let text = self.whole();
        match (cut(&text), *self.over.borrow()) {
            (Some(image), _) => image.to_vec(),
            (None, false) => Vec::new(),
            (None, true) => {
                crate::warning!("packet", "a console does not show where the installed image begins");
                text
            }
        }
    }

    /// Waits until the session has ended, so long at most.
    pub async fn ended(&self, limit: Duration) {
        let mut over = self.over.clone();
        let _ = tokio::time::timeout(limit, over.wait_for(|over| *over)).await;
    }
}

fn lock<T>(place: &Mutex<T>) -> MutexGuard<'_, T> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What follows the kernel's first words after those of the boot loader, which the installer has none of.
pub fn cut(text: &[u8]) -> Option<&[u8]> {
    let grub = memchr::memmem::find(text, b"GNU GRUB")?;
    let kernel = memchr::memmem::find(&text[grub..], b"Linux version")?;
    Some(&text[grub + kernel..])
}
