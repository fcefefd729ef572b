//! A classic Azure: mantle's own double of it behind a proxy, and somebody who may use it.

use std::collections::BTreeMap;
use std::sync::Arc;

use mantle::doubles::Double as _;
use mantle::doubles::classic::Classic;
pub use mantle::doubles::classic::{Image, error, read};
use serde_json::json;

use crate::support::Env;
use crate::support::http::Request;
use crate::support::proxy::Proxy;

pub const SUBSCRIPTION: &str = "11112222-3333-4444-5555-666677778888";

/// The service; it lives as long as the test process.
#[derive(Clone)]
pub struct Asm {
    pub proxy: Proxy,
    classic: Arc<Classic>,
}

impl Asm {
    pub fn new() -> Self {
        let classic = Arc::new(Classic::new(SUBSCRIPTION));
        let own = classic.clone();
        let proxy = Proxy::before(move |request| Some(own.answer(request)));
        Self { proxy, classic }
    }

    pub fn images(&self) -> BTreeMap<String, Image> {
        self.classic.images()
    }

    pub fn put_image(&self, name: &str) {
        self.classic.put_image(name);
    }

    pub fn put_key(&self, account: &str, key: &str) {
        self.classic.put_key(account, key);
    }

    /// Forgets all images, operations and keys.
    pub fn forget(&self) {
        self.classic.forget();
    }

    /// The next operation fails.
    pub fn fail(&self, message: &str) {
        self.classic.fail(message);
    }

    /// What is asked, without the subscription.
    pub fn asked(&self) -> Vec<String> {
        let journal = self.proxy.take_journal();
        let line = |r: &Request| format!("{} {}", r.method, r.target.replace(SUBSCRIPTION, "S"));
        journal.iter().map(|e| line(&e.request)).collect()
    }

    /// Somebody with a profile for it, without certificate: it is reached without TLS. Blobs are stored there.
    pub fn env(&self, storage: &str) -> Env {
        let mut env = Env::new();
        env.set("MANTLE_POLL_SCALE", "0.001");
        let profile = json!({"environments": [{"name": "Own", "storageEndpointSuffix": storage}], "subscriptions": [
            {"id": "wrong", "name": "first", "managementEndpointUrl": "http://127.0.0.1:1"},
            {"id": SUBSCRIPTION, "name": "mine", "isDefault": true, "environmentName": "Own", "managementEndpointUrl": self.proxy.url()},
        ]});
        env.write(".azure/azureProfile.json", &format!("\u{feff}{profile}"));
        env
    }
}
