//! Copies of an image in other regions, with its tags and permissions.

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::COMPONENT;
use super::api::{Api, Image, Permission};
use super::failure::{During as _, Error, Result};
use super::images::{self, first_snapshot, pv_kernel};
use super::wait::{settled, until};
use crate::info;
use crate::poll::{Answer, Poll};

/// Looks at a copy.
const COPY: Poll = Poll::seconds(30, 30 * 60);

/// An image as it is in its own region.
#[derive(Debug)]
struct Original {
    image: Image,
    region: String,
    snapshot_tags: Vec<(String, String)>,
    permissions: Vec<Permission>,
}

/// What came of one region.
#[derive(Debug)]
pub struct Copied {
    /// The region.
    pub region: String,
    /// The copy, or why there is none (or an incomplete one).
    pub outcome: Result<String>,
}

/// Copies an image to other regions, all at the same time; a copy that is there is completed.
///
/// # Errors
/// When the image itself cannot be looked at. What happens in one region does not concern the others.
pub async fn run(
    api: &Api,
    image: &str,
    regions: &[String],
    cancel: &CancellationToken,
) -> Result<Vec<Copied>> {
    let original = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Error::Interrupted),
        original = look(api, image) => original,
    }?;
    if original.image.virtualization == "paravirtual" {
        for region in regions {
            pv_kernel(region).during(format!("cannot copy paravirtual image {image} to {region}"))?;
        }
    }
    let copies = regions.iter().map(|region| {
        let original = &original;
        async move {
            let outcome = match api.in_region(region) {
                Ok(there) => copy(&there, original, cancel).await,
                Err(e) => Err(e.into()),
            };
            Copied { region: region.clone(), outcome }
        }
    });
    Ok(join_all(copies).await)
}

async fn look(api: &Api, id: &str) -> Result<Original> {
    let image = api.images(false, &[id], &[]).await?.into_iter().find(|i| i.id == id);
    let image = image.ok_or_else(|| Error::Invalid(format!("couldn't find image {id}")))?;
    let missing = || Error::Invalid(format!("no backing block device for {id}"));
    let snapshot = first_snapshot(&image).ok_or_else(missing)?;
    let there = api.snapshot(snapshot).await?;
    let there = there.ok_or_else(|| Error::Invalid(format!("couldn't find snapshot {snapshot} of {id}")))?;
    let permissions = api.launch_permissions(id).await?;
    Ok(Original { region: api.region().into(), snapshot_tags: there.tags, permissions, image })
}

/// Tags whose names begin with this are the provider's and cannot be set.
fn own(tags: &[(String, String)]) -> Vec<(String, String)> {
    tags.iter().filter(|(key, _)| !key.starts_with("aws:")).cloned().collect()
}

async fn copy(there: &Api, original: &Original, cancel: &CancellationToken) -> Result<String> {
    let Original { image, region, .. } = original;
    let id = match images::find(there, &image.name).await? {
        Some(copy) => {
            info!(COMPONENT, "{}: found existing image {}, reusing", there.region(), copy.id);
            copy.id
        }
        None if cancel.is_cancelled() => return Err(Error::Interrupted),
        None => {
            // The same order, should it be repeated after a lost answer, makes no second copy.
            let token = uuid::Uuid::new_v4().to_string();
            let description = image.description.as_deref();
            let id = there.copy_image(region, &image.id, &image.name, description, &token).await?;
            info!(COMPONENT, "{}: copying to image {id}", there.region());
            id
        }
    };
    finish(there, &id, original, cancel).await.during(format!("image {id}"))?;
    Ok(id)
}

/// Waits for a copy, tags and shares it.
async fn finish(there: &Api, id: &str, original: &Original, cancel: &CancellationToken) -> Result<()> {
    let look = || async {
        let image = match there.images(false, &[id], &[]).await {
            Err(e) if e.is_not_found() => None,
            other => other?.into_iter().next(),
        };
        match image {
            None => Ok(Answer::NotYet("unknown".into())),
            Some(image) => judge(&image),
        }
    };
    until(COPY, format_args!("image {id} available"), cancel, look).await?;
    let tags = own(&original.image.tags);
    if !tags.is_empty() {
        settled(cancel, || async { there.create_tags(&[id], &tags).await })
            .await
            .during("couldn't create tags")?;
    }
    let tags = own(&original.snapshot_tags);
    if !tags.is_empty() {
        let copy =
            settled(cancel, || async { there.images(false, &[id], &[]).await }).await?.into_iter().next();
        let copy = copy.ok_or_else(|| Error::Invalid(format!("couldn't find image {id}")))?;
        let missing = || Error::Invalid(format!("no backing block device for {id}"));
        let snapshot = first_snapshot(&copy).ok_or_else(missing)?;
        settled(cancel, || async { there.create_tags(&[snapshot], &tags).await })
            .await
            .during("couldn't create tags")?;
    }
    if !original.permissions.is_empty() {
        settled(cancel, || async { there.add_launch_permissions(id, &original.permissions).await })
            .await
            .during("couldn't grant launch permission")?;
    }
    // Two copies at the same time make two images of one name.
    images::find(there, &original.image.name).await.during("checking for duplicate images")?;
    Ok(())
}

/// What the state of a copy means.
fn judge(image: &Image) -> Result<Answer<()>> {
    match image.state.as_str() {
        "available" => Ok(Answer::Ready(())),
        "failed" | "invalid" | "deregistered" | "error" => {
            let reason = image.reason.as_deref().map(|r| format!(": {r}")).unwrap_or_default();
            Err(Error::Invalid(format!("the copy is {}{reason}", image.state)))
        }
        other => Ok(Answer::NotYet(other.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_that_never_become_available_end_the_wait() {
        let judged = |state: &str| judge(&Image { state: state.into(), ..Image::default() });
        assert!(matches!(judged("available"), Ok(Answer::Ready(()))));
        assert!(matches!(judged("pending"), Ok(Answer::NotYet(s)) if s == "pending"));
        for state in ["failed", "invalid", "deregistered", "error"] {
            assert!(judged(state).is_err(), "{state}");
        }
    }

    #[test]
    fn tags_of_the_provider_are_not_copied() {
        let tags = [("Name".to_owned(), "n".to_owned()), ("aws:x".to_owned(), "y".to_owned())];
        assert_eq!(own(&tags), tags[..1]);
    }
}
