//! Detached signatures and key files, as a download server might send them.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use mantle::openpgp::{Builtin, Keyring, Verifier};

static RELEASE_KEYS: LazyLock<Keyring> =
    LazyLock::new(|| Keyring::builtin(Builtin::Both).expect("a test sees to the table"));

fuzz_target!(|data: &[u8]| {
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    if let Ok(mut verifier) = Verifier::new(&RELEASE_KEYS, data, now) {
        verifier.update(b"not what any release key ever signed");
        assert!(verifier.finish().is_err());
    }
    if let Ok(keyring) = Keyring::parse(data) {
        keyring.describe();
        if let Ok(verifier) = Verifier::new(&keyring, data, now) {
            let _ = verifier.finish();
        }
    }
});
