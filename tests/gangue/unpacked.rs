//! Verified as it is at the source, decompressed on the way to the file.

use std::io::Write;

use mantle::download::{Compression, Engine, Error, Request, Signed, Update, signature};
use mantle::http::{Client, Limits, Retry};
use mantle::openpgp::Keyring;
use tokio_util::sync::CancellationToken;

use super::{Bench, PATH, sign};
use crate::support::server::Fault;

const LENGTH: usize = 400_000;

fn pack(compression: Compression, data: &[u8]) -> Vec<u8> {
    let packed = match compression {
        Compression::Gzip => {
            let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            e.write_all(data).unwrap();
            e.finish()
        }
        Compression::Bzip2 => {
            let mut e = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            e.write_all(data).unwrap();
            e.finish()
        }
        Compression::Xz => {
            let mut e = liblzma::write::XzEncoder::new(Vec::new(), 0);
            e.write_all(data).unwrap();
            e.finish()
        }
        Compression::Zstd => zstd::encode_all(data, 1),
    };
    packed.unwrap()
}

/// A server with a signed compressed file; the bench's body is what is in it.
fn bench(compression: Compression) -> (Bench, Vec<u8>) {
    let bench = Bench::new(LENGTH);
    let packed = pack(compression, &bench.body);
    bench.server.put(PATH, &packed);
    bench.server.put(&format!("{PATH}.sig"), &sign(&packed));
    (bench, packed)
}

fn engine() -> Engine {
    let retry = Retry { first: std::time::Duration::from_millis(5), ..Retry::default() };
    Engine::new(Client::new(Limits::default(), retry).unwrap(), None)
}

fn update(bench: &Bench, compression: Compression) -> Result<Update, Error> {
    let keyring = Keyring::read(&bench.env.home().join("key.asc")).unwrap();
    let (source, destination) = (bench.url("http").parse().unwrap(), bench.file("image.bin"));
    let signed = Signed {
        source: &source,
        destination: &destination,
        keep_signature: false,
        decompress: Some(compression),
        verifier: &|bytes| signature::check(&keyring, bytes),
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(engine().update_signed(&signed, &CancellationToken::new()))
}

#[test]
fn one_pass_verifies_and_decompresses() {
    for compression in [Compression::Gzip, Compression::Bzip2, Compression::Xz, Compression::Zstd] {
        let (bench, packed) = bench(compression);
        let half = packed.len() / 2;
        bench.server.faults(vec![Fault::Truncate(half), Fault::ResetAfter(1000), Fault::IgnoreRange]);
        for round in 0..2 {
            let update = update(&bench, compression).unwrap();
            let Update::Replaced(outcome) = update else { panic!("{compression:?}: {update:?}") };
            assert_eq!(outcome.written, LENGTH as u64);
            assert!(outcome.verdict.unwrap().starts_with("good signature"));
            bench.expect_only_the_file();
            let requests = bench.requests_for_data();
            // the signature does not say whether the file that is there is right
            assert_eq!(requests, if round == 0 { 3 } else { 1 }, "{compression:?}");
        }
    }
}

#[test]
fn what_is_not_verified_or_damaged_does_not_land() {
    for compression in [Compression::Gzip, Compression::Bzip2, Compression::Xz, Compression::Zstd] {
        let old = |bench: &Bench| {
            assert_eq!(bench.names(), ["image.bin"], "{compression:?}");
            assert_eq!(std::fs::read(bench.file("image.bin")).unwrap(), b"old");
        };
        // another content that is compressed well, but not signed
        let (bench, packed) = bench(compression);
        std::fs::write(bench.file("image.bin"), "old").unwrap();
        bench.server.put(PATH, &pack(compression, b"another"));
        let error = update(&bench, compression).unwrap_err();
        assert!(matches!(error, Error::Rejected { .. }), "{compression:?}: {error:?}");
        old(&bench);
        // content that is signed, but no whole compressed file; with garbage after it; none at all
        let cut = &packed[..packed.len() - 5];
        let longer = [&packed[..], b"garbage garbage"].concat();
        for bad in [cut, &longer, b"something else altogether"] {
            bench.server.put(PATH, bad);
            bench.server.put(&format!("{PATH}.sig"), &sign(bad));
            let error = update(&bench, compression).unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{compression:?}: {error:?}");
            assert!(error.to_string().contains("/b/dir/image.bin"), "{error}");
            old(&bench);
        }
        // damage on the way is repaired
        bench.server.put(PATH, &packed);
        bench.server.put(&format!("{PATH}.sig"), &sign(&packed));
        bench.server.faults(vec![Fault::Flip]);
        update(&bench, compression).unwrap();
        bench.expect_only_the_file();
    }
}

#[test]
fn a_cancelled_download_leaves_nothing_of_what_it_unpacked() {
    for compression in [Compression::Gzip, Compression::Bzip2] {
        let (bench, packed) = bench(compression);
        std::fs::write(bench.file("image.bin"), "old").unwrap();
        bench.server.faults(vec![Fault::Stall(packed.len() - 10)]);
        let (source, destination) = (bench.url("http").parse().unwrap(), bench.file("image.bin"));
        let request = Request {
            source: &source,
            destination: &destination,
            check: None,
            decompress: Some(compression),
        };
        let part = bench.file("image.bin.part");
        // Blocks of bzip2 may wait in memory for the next bytes.
        let least = if compression == Compression::Bzip2 { 0 } else { 1 };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let cancel = CancellationToken::new();
        let result = runtime.block_on(async {
            let engine = engine();
            let started = async {
                while !part.metadata().is_ok_and(|m| m.len() >= least) {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
                cancel.cancel();
            };
            tokio::join!(engine.get(&request, &cancel), started).0
        });
        assert!(matches!(result, Err(Error::Interrupted)), "{result:?}");
        assert_eq!(bench.names(), ["image.bin"]);
        assert_eq!(std::fs::read(bench.file("image.bin")).unwrap(), b"old");
    }
}
