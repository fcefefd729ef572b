//! Files of this machine that are decompressed to others.

use std::path::Path;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::part::Part;
use super::source::{Opened, Source, open_file};
use super::transfer::Outcome;
use super::writer::{Plan, Writer};
use super::{Compression, Error};
use crate::progress::Progress;

/// Decompresses a file into another, which is replaced when all is there and right, safe from a crash, and is left as
/// it was otherwise. Until then it grows as `<to>.part`.
///
/// # Errors
/// [`Error::Corrupt`] for data that are damaged, end early, or are followed by others; [`Error::Read`] and
/// [`Error::Write`]; [`Error::Interrupted`].
pub async fn decompress(
    from: &Path,
    to: &Path,
    compression: Compression,
    cancel: &CancellationToken,
) -> Result<Outcome, Error> {
    let started = Instant::now();
    let work = async {
        let what = from.display().to_string();
        let from = from.to_owned();
        let Opened { head, mut body, .. } = open_file(&from, None).await?;
        let destination = to.to_owned();
        let begin = move || {
            let mut part = Part::open(&destination)?;
            part.begin(&Source::File(from), &head, false)?;
            Ok::<_, Error>((part, head))
        };
        let (part, head) = tokio::task::spawn_blocking(begin).await.map_err(Error::thread)??;
        let mut progress = Progress::of_file(
            "download",
            &to.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
        );
        progress.answer(0, head.total);
        let plan = Plan { check: None, other: None, decompress: Some(compression) };
        let total = head.total;
        let mut writer = Writer::start(part.file(), &what, part.path(), head, plan, 0).await?;
        while let Some(piece) = body.next().await? {
            let length = piece.len() as u64;
            writer.push(piece).await?;
            progress.advance(length);
        }
        if let Some(total) = total.filter(|t| *t != writer.position()) {
            return Err(Error::Truncated { what, got: writer.position(), total });
        }
        let finished = writer.finish().await?;
        tokio::task::spawn_blocking(move || part.commit()).await.map_err(Error::thread)??;
        let elapsed = started.elapsed();
        Ok(Outcome { verdict: None, written: finished.written, resumed: 0, elapsed })
    };
    cancel.run_until_cancelled(work).await.unwrap_or(Err(Error::Interrupted))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_file_is_replaced_by_what_another_holds_or_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("x.bz2"), dir.path().join("new/x"));
        let cancel = CancellationToken::new();
        let content: Vec<u8> = (0..500_000_u32).map(|i| (i % 1021 * (i >> 12)) as u8).collect();
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::new(1));
        encoder.write_all(&content).unwrap();
        let packed = encoder.finish().unwrap();
        std::fs::write(&from, &packed).unwrap();
        let outcome = decompress(&from, &to, Compression::Bzip2, &cancel).await.unwrap();
        assert_eq!(outcome.written, content.len() as u64);
        assert!(std::fs::read(&to).unwrap() == content);
        assert_eq!(names(to.parent().unwrap()), ["x"]);

        std::fs::write(&to, "old").unwrap();
        std::fs::write(&from, &packed[..packed.len() - 3]).unwrap();
        let error = decompress(&from, &to, Compression::Bzip2, &cancel).await.unwrap_err();
        assert!(matches!(&error, Error::Corrupt { what, .. } if what.ends_with("x.bz2")), "{error:?}");
        let nowhere = dir.path().join("nowhere");
        let error = decompress(&nowhere, &to, Compression::Gzip, &cancel).await.unwrap_err();
        assert!(matches!(error, Error::Read { .. }), "{error:?}");
        cancel.cancel();
        let error = decompress(&from, &to, Compression::Bzip2, &cancel).await.unwrap_err();
        assert!(matches!(error, Error::Interrupted), "{error:?}");
        assert_eq!(names(to.parent().unwrap()), ["x"]);
        assert_eq!(std::fs::read(&to).unwrap(), b"old");
    }
}
