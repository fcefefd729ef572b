//! Orders of droplets. The API has no tokens for them, and names are not unique: what an order that was not answered
//! has made is looked for by its name, which nobody else uses, before it is made again.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::droplets::NewDroplet;
use super::{Api, COMPONENT, Droplet, MARK};
use crate::cloud::once::Once;
use crate::http::{CallError, Class};
use crate::poll::Poll;

/// Between two tries.
const PAUSE: Duration = Duration::from_secs(10);

/// How long lists may not show a droplet that was just made.
pub const SHOWN: Poll = Poll::seconds(2, 10);

/// Orders a droplet whose name is unique and whose tags have [`MARK`] among them; its id. `doubt` is set when a try
/// before the last one may have made another of that name, which nothing shows yet.
///
/// # Errors
/// Any [`CallError`], after as many tries as it is worth.
pub async fn droplet(
    api: &Api,
    new: &NewDroplet<'_>,
    cancel: &CancellationToken,
    doubt: &AtomicBool,
) -> Result<u64, CallError> {
    let order = || async { Ok(api.create_droplet(new).await?.id) };
    let find = || async {
        let there = named(api, new.name).await?;
        Ok(there.into_iter().find(|d| d.name == new.name).map(|d| d.id))
    };
    let again = |error: &CallError, tries| (tries < tries_for(error)).then_some(PAUSE);
    Once { component: COMPONENT, shown: SHOWN, cancel, doubt }.make(order, find, again).await
}

/// How many tries an error is worth: a new key may not be known yet everywhere; other droplets may make room; what is
/// wrong with an order may be that its tags are new.
fn tries_for(error: &CallError) -> u32 {
    let message = error.message().unwrap_or_default().to_ascii_lowercase();
    match error.status() {
        Some(422) if message.contains("key") => 30,
        Some(422) => 3,
        _ if error.class() == Some(Class::Quota) => 3,
        _ if error.is_doubtful() => 6,
        _ => 1,
    }
}

/// The droplets of ours that have a name of which this is the end.
pub async fn named(api: &Api, end: &str) -> Result<Vec<Droplet>, CallError> {
    Ok(api.droplets(MARK).await?.into_iter().filter(|d| d.name.ends_with(end)).collect())
}

/// The name of a droplet: what `base` begins with, and the first 20 hexadecimal digits of a token.
pub fn name(base: &str, token: &str) -> String {
    /// Names are those of hosts, whose labels have no more characters.
    const LABEL: usize = 63;
    let digits = digits(token);
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let base: String = base.chars().map(allowed).take(LABEL - 1 - digits.len()).collect();
    match base.trim_matches('-') {
        "" => format!("{MARK}-{digits}"),
        base => format!("{base}-{digits}"),
    }
}

/// What the names of a token's droplets end with.
pub fn digits(token: &str) -> String {
    token.chars().filter(char::is_ascii_hexdigit).take(20).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Refusal;

    #[test]
    fn names_are_those_of_hosts_and_end_with_the_token() {
        let token = "12345678-9abc-4def-8123-456789abcdef";
        for (base, is) in [
            ("kola", "kola-123456789abc4def8123"),
            ("My_Tests", "my-tests-123456789abc4def8123"),
            ("-ü-", "mantle-123456789abc4def8123"),
            ("", "mantle-123456789abc4def8123"),
        ] {
            assert_eq!(name(base, token), is);
            assert!(name(base, token).ends_with(&digits(token)));
        }
        assert_eq!(name(&"x".repeat(99), token).len(), 63);
    }

    #[test]
    fn errors_are_worth_different_numbers_of_tries() {
        let of = |status, message: &str, class| {
            let message = Some(message.to_owned());
            let refusal = Box::new(Refusal { status, message, class, ..Refusal::default() });
            tries_for(&CallError::Refused { call: "x".into(), refusal })
        };
        assert_eq!(of(422, "1 are invalid key identifiers for Droplet creation.", Class::Invalid), 30);
        assert_eq!(of(422, "will exceed your droplet limit", Class::Quota), 3);
        assert_eq!(of(422, "You specified an invalid size.", Class::Invalid), 3);
        assert_eq!(of(503, "", Class::Trouble), 6);
        assert_eq!(of(403, "", Class::Denied), 1);
        assert_eq!(of(429, "", Class::Throttled), 1);
    }
}
