//! Plans of what is to be removed, as commands read them, and what they say of the outcome.

use std::io::Read as _;
use std::path::Path;

use ::mantle::cloud::gc::Outcome;
use ::mantle::error::{Result, Stop, WrapErr as _, eyre};
use ::mantle::info;
use ::mantle::input::Stream;
use ::mantle::text::chain;

/// Longer plans are refused; one of 10 000 machines has 2 MB.
const MAX_PLAN: u64 = 64 << 20;

/// Says what came of a plan, an item a line; `what` begins the failure. `is_interruption`: whether an error is only the end of cancelled work.
pub fn report<E: std::error::Error + 'static>(
    component: &'static str,
    what: &str,
    outcome: Outcome<E>,
    cancelled: bool,
    is_interruption: impl Fn(&E) -> bool,
) -> Result<()> {
    let Outcome { removed, spared, failed, open } = outcome;
    for item in &removed {
        info!(component, "removed {item}");
    }
    for (item, why) in &spared {
        info!(component, "spared {item}: {why}");
    }
    let mut interrupted = cancelled && !open.is_empty();
    for item in open.iter().filter(|_| !cancelled) {
        ::mantle::error!(component, "{item} may be there: the cloud did not say what came of it");
    }
    for (item, error) in &failed {
        if is_interruption(error) {
            interrupted = true;
        } else {
            ::mantle::error!(component, "{item} could not be removed: {}", chain(error));
        }
    }
    match failed.len() + open.len() {
        _ if interrupted => Err(Stop::Interrupted.into()),
        0 => Ok(()),
        n => Err(eyre!("{what}: {n} of {} could not be removed", removed.len() + n)),
    }
}

/// Reads a file of plans; `-` is standard input.
pub fn read(path: &Path) -> Result<String> {
    let open = || if path == Path::new("-") { Stream::stdin() } else { Stream::open(path) };
    let mut text = String::new();
    let failed = || format!("cannot read the plan {}", path.display());
    open().and_then(|f| f.take(MAX_PLAN + 1).read_to_string(&mut text)).wrap_err_with(failed)?;
    if text.len() as u64 > MAX_PLAN {
        return Err(eyre!("{}: it is longer than {} MiB", failed(), MAX_PLAN >> 20));
    }
    Ok(text)
}
