//! Payloads made, changed in every way, and refused; images written by them.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::sync::OnceLock;

use openssl::pkey::{PKey, Private};
use openssl::sha::sha256;
use prost::Message as _;

use super::manifest::*;
use super::*;

/// Made once: a key costs more than all the rest.
fn key() -> &'static PKey<Private> {
    static KEY: OnceLock<PKey<Private>> = OnceLock::new();
    KEY.get_or_init(|| PKey::from_rsa(openssl::rsa::Rsa::generate(2048).unwrap()).unwrap())
}

fn verifying(key: &PKey<Private>) -> VerifyingKey {
    VerifyingKey::from_pem(&key.public_key_to_pem().unwrap()).unwrap()
}

fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

fn content(mut file: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Bytes that do not compress, the same each time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn made(image: &[u8], kernel: Option<&[u8]>, options: Options) -> (Vec<u8>, DeltaArchiveManifest) {
    let (image, kernel) = (file(image), kernel.map(file));
    let mut payload = Vec::new();
    let source = Source { partition: &image, kernel: kernel.as_ref() };
    let manifest = generate(&source, key(), options, &mut payload).unwrap();
    (payload, manifest)
}

/// Applies a payload to new files.
fn applied(payload: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let (partition, kernel) = (file(b"old"), file(b"old"));
    apply(&file(payload), &verifying(key()), &Targets { partition: &partition, kernel: Some(&kernel) })?;
    Ok((content(&partition), content(&kernel)))
}

/// A payload of any parts, well signed.
fn assembled(manifest: &DeltaArchiveManifest, data: &[u8]) -> Vec<u8> {
    let encoded = manifest.encode_to_vec();
    let mut payload = [&MAGIC[..], &VERSION.to_be_bytes(), &(encoded.len() as u64).to_be_bytes()].concat();
    payload.extend([&encoded, data].concat());
    let mut signer = openssl::sign::Signer::new(openssl::hash::MessageDigest::sha256(), key()).unwrap();
    let data = signer.sign_oneshot_to_vec(&payload).unwrap();
    let signature = Signature { version: Some(2), data: Some(data) };
    payload.extend(Signatures { signatures: vec![signature] }.encode_to_vec());
    payload
}

/// A small update by hand: two operations for the partition, one compressed, one for the kernel.
fn small() -> (DeltaArchiveManifest, Vec<u8>, Vec<u8>) {
    let (plain, kernel) = (noise(4096), noise(5000));
    let mut packer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
    packer.write_all(&[7; 2 * 4096]).unwrap();
    let packed = packer.finish().unwrap();
    let (mut data, mut operations) = (Vec::new(), Vec::new());
    for (kind, bytes, first, count) in [
        (OperationType::Replace, &plain, 2, 1),
        (OperationType::ReplaceBz, &packed, 0, 2),
        (OperationType::Replace, &kernel, 0, 2),
    ] {
        operations.push(InstallOperation {
            r#type: kind.into(),
            data_offset: Some(u32::try_from(data.len()).unwrap()),
            data_length: Some(u32::try_from(bytes.len()).unwrap()),
            dst_extents: vec![Extent { start_block: Some(first), num_blocks: Some(count) }],
            data_sha256_hash: Some(sha256(bytes).to_vec()),
            ..InstallOperation::default()
        });
        data.extend(bytes);
    }
    let image = [vec![7; 2 * 4096], plain].concat();
    let info = |bytes: &[u8]| {
        Some(InstallInfo { size: Some(bytes.len() as u64), hash: Some(sha256(bytes).to_vec()) })
    };
    let procedure = InstallProcedure {
        r#type: ProcedureType::Kernel.into(),
        operations: operations.split_off(2),
        old_info: None,
        new_info: info(&kernel),
    };
    let manifest = DeltaArchiveManifest {
        partition_operations: operations,
        block_size: Some(4096),
        signatures_offset: Some(data.len() as u64),
        signatures_size: Some(264),
        new_partition_info: info(&image),
        procedures: vec![procedure],
        ..DeltaArchiveManifest::default()
    };
    (manifest, data, image)
}

#[test]
fn images_come_out_as_they_went_in() {
    // A chunk that compresses, one that does not, and a last one that is shorter.
    let image = [vec![0; 1 << 20], noise(1 << 20), vec![1; 3 * 4096]].concat();
    let kernel = noise(70_001);
    let (payload, manifest) = made(&image, Some(&kernel), Options::default());
    let kinds: Vec<i32> = manifest.partition_operations.iter().map(|o| o.r#type).collect();
    assert_eq!(kinds, [1, 0, 1]);
    assert!(payload.len() < image.len());
    let known = verify(&*payload, &verifying(key())).unwrap();
    assert_eq!(known.manifest, manifest);
    let size = usize::try_from(known.size).unwrap();
    assert_eq!(known.sha256, sha256(&payload[..size]));
    let noop = &manifest.noop_operations[0];
    assert_eq!(u64::from(noop.data_offset.unwrap()), manifest.signatures_offset.unwrap());
    assert_eq!(noop.dst_extents[0], Extent { start_block: Some(u64::MAX), num_blocks: Some(1) });
    assert!(applied(&payload).unwrap() == (image.clone(), kernel.clone()));
    // The same parts make the same payload.
    assert!(made(&image, Some(&kernel), Options::default()).0 == payload);

    let (plain, manifest) =
        made(&image, None, Options { compress: false, noop: false, ..Options::default() });
    assert!(manifest.procedures.is_empty() && manifest.noop_operations.is_empty());
    // What any client can do: the data are the image.
    let start = plain.len() - 264 - image.len();
    assert!(plain[start..][..image.len()] == image);
    assert!(applied(&plain).unwrap().0 == image);
}

#[test]
fn what_is_no_image_is_refused() {
    let (image, mut out) = (file(&[1; 4097]), Vec::new());
    let source = Source { partition: &image, kernel: None };
    let refused = generate(&source, key(), Options::default(), &mut out).unwrap_err();
    assert!(refused.to_string().contains("incomplete block"), "{refused}");
    assert!(out.is_empty());
}

#[test]
fn manifests_are_encoded_as_upstream_did() {
    let (payload, _) =
        made(&[0xff; 4096], None, Options { compress: false, noop: false, ..Options::default() });
    let hex: String = payload[..20 + 94].iter().map(|b| format!("{b:02x}")).collect();
    let hash = "f47a8ec3e9aff2318d896942282ad4fe37d6391c82914f54a5da8a37de1300c6";
    let manifest = format!("0a2f0800100018802032040800100142 20{hash}2080202888024a250880201220{hash}");
    let header = "4372415500000000000000010000000000 00005e";
    assert_eq!(hex, format!("{header}{manifest}").replace(' ', ""));
    assert_eq!(payload.len(), 4474);
    assert_eq!(payload[20 + 94 + 4096..][..8], [0x0a, 0x85, 0x02, 0x08, 0x02, 0x12, 0x80, 0x02]);
    let empty = DeltaArchiveManifest {
        signatures_offset: Some(0),
        signatures_size: Some(264),
        ..DeltaArchiveManifest::default()
    };
    let payload = assembled(&empty, &[]);
    let hex: String = payload[..25].iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!((hex.as_str(), payload.len()), ("43724155000000000000000100000000000000052000288802", 289));
    verify(&*payload, &verifying(key())).unwrap();
    assert!(applied(&payload).is_ok());
}

#[test]
fn openssl_finds_the_signature_good() {
    if crate::process::find_program("openssl").is_none() {
        return println!("skipped: openssl is not installed");
    }
    let (payload, _) = made(&noise(8192), None, Options::default());
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (signed, signature) = payload.split_at(payload.len() - 264);
    std::fs::write(path("signed"), signed).unwrap();
    std::fs::write(path("signature"), &signature[8..]).unwrap();
    std::fs::write(path("key"), key().public_key_to_pem().unwrap()).unwrap();
    let (key, signature) = (path("key"), path("signature"));
    let words = ["dgst", "-sha256", "-verify", &key, "-signature", &signature, &path("signed")];
    let out = std::process::Command::new("openssl").args(words).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "Verified OK\n", "{out:?}");
}

#[test]
fn every_byte_and_every_length_counts() {
    let (manifest, data, _) = small();
    let payload = assembled(&manifest, &data);
    let key = verifying(key());
    verify(&*payload, &key).unwrap();
    let mut changed = payload.clone();
    for at in 0..payload.len() {
        changed[at] ^= 1;
        assert!(verify(&*changed, &key).is_err(), "byte {at}");
        changed[at] ^= 1;
    }
    for length in 0..payload.len() {
        assert!(verify(&payload[..length], &key).is_err(), "length {length}");
    }
    let longer = [&payload[..], b"xyz"].concat();
    assert_eq!(verify(&*longer, &key).unwrap_err().to_string(), "found 3 trailing bytes");
    let other = PKey::from_rsa(openssl::rsa::Rsa::generate(2048).unwrap()).unwrap();
    assert!(matches!(verify(&*payload, &verifying(&other)), Err(Error::Signature)));
    assert!(VerifyingKey::from_pem(DEVELOPER_KEY.as_bytes()).is_ok());
}

#[test]
fn headers_that_lie_are_refused() {
    let header = |version: u64, length: u64| {
        let bytes = [&MAGIC[..], &version.to_be_bytes(), &length.to_be_bytes(), &[0xff; 64]].concat();
        verify(&*bytes, &verifying(key())).unwrap_err().to_string()
    };
    assert_eq!(header(2, 5), "payload version unsupported: 2");
    assert_eq!(header(1, 0), "missing manifest");
    assert_eq!(header(1, u64::MAX), format!("manifest of {} bytes is too long", u64::MAX));
    assert_eq!(header(1, 1000), "the payload ends early, in its manifest");
    assert_eq!(header(1, 64), "invalid manifest");
    for bytes in [&b""[..], b"CrAU", b"\x1f\x8b\x08aaaaaaaaaaaaaaaaaaaaaaaaa"] {
        let refused = verify(bytes, &verifying(key())).unwrap_err().to_string();
        assert_eq!(refused, "payload missing magic prefix");
    }
}

/// One change of the manifest by hand, and what is said about it: all but the change is right, the signature too.
#[test]
fn every_field_that_is_wrong_is_refused() {
    type Change = fn(&mut DeltaArchiveManifest);
    fn first(m: &mut DeltaArchiveManifest) -> &mut InstallOperation {
        &mut m.partition_operations[0]
    }
    fn second(m: &mut DeltaArchiveManifest) -> &mut InstallOperation {
        &mut m.partition_operations[1]
    }
    fn info(m: &mut DeltaArchiveManifest) -> &mut InstallInfo {
        m.new_partition_info.as_mut().unwrap()
    }
    let (manifest, data, image) = small();
    let (partition, kernel) = applied(&assembled(&manifest, &data)).unwrap();
    assert!(partition == image && kernel == noise(5000));

    let changes: &[(Change, &str)] = &[
        (|m| m.block_size = Some(512), "payload block size not 4096"),
        (|m| m.signatures_offset = Some(1), "expected signatures offset"),
        (|m| m.signatures_offset = None, "expected signatures offset"),
        (|m| m.signatures_size = Some(263), "invalid signatures"),
        (|m| m.signatures_size = Some(265), "ends early, in its signatures"),
        (|m| m.signatures_size = None, "no valid signatures found"),
        (|m| m.signatures_size = Some(1 << 40), "is too long"),
        (|m| first(m).r#type = OperationType::Move.into(), "operation 0: only full updates"),
        (|m| first(m).r#type = OperationType::Bsdiff.into(), "operation 0: only full updates"),
        (|m| first(m).r#type = 9, "operation 0: only full updates"),
        (|m| first(m).r#type = OperationType::ReplaceBz.into(), "operation 0: its data cannot be written"),
        (|m| second(m).r#type = OperationType::Replace.into(), "operation 1: there are fewer data"),
        (|m| first(m).data_offset = Some(1), "operation 0: expected payload data offset 0 not 1"),
        (|m| second(m).data_offset = None, "operation 1: expected payload data offset 4096 not 0"),
        (|m| first(m).data_length = Some(4095), "operation 0: the data do not have the hash"),
        (|m| second(m).data_length = Some(1 << 31), "ends early, in its data"),
        (|m| first(m).src_extents = vec![Extent::default()], "operation 0: replace contains source extents"),
        (|m| first(m).data_sha256_hash = None, "operation 0: missing payload data hash"),
        (|m| first(m).data_sha256_hash = Some(vec![]), "operation 0: the data do not have the hash"),
        (|m| first(m).data_sha256_hash = Some(vec![1; 32]), "operation 0: the data do not have the hash"),
        (|m| m.partition_operations.swap(0, 1), "operation 0: expected payload data offset"),
        (|m| first(m).dst_extents.clear(), "do not write the 12288 bytes of the partition"),
        (|m| first(m).dst_extents[0].num_blocks = Some(2), "do not write the 12288 bytes"),
        (|m| first(m).dst_extents[0].num_blocks = Some(u64::MAX), "do not write the 12288 bytes"),
        (|m| first(m).dst_extents[0].start_block = Some(3), "operation 0: an extent lies past the end"),
        (
            |m| first(m).dst_extents[0].start_block = Some(Extent::HOLE),
            "operation 0: an extent lies past the end",
        ),
        (|m| first(m).dst_extents[0].start_block = Some(0), "the partition written does not have the hash"),
        (|m| info(m).size = Some(12287), "operation 0: there are more data than blocks"),
        (|m| info(m).size = Some(1 << 60), "do not write the"),
        (|m| info(m).size = None, "does not say size and hash of the partition"),
        (|m| info(m).hash = None, "does not say size and hash of the partition"),
        (|m| info(m).hash = Some(vec![0; 32]), "the partition written does not have the hash"),
        (|m| info(m).hash = Some(vec![]), "the partition written does not have the hash"),
        (|m| m.new_partition_info = None, "does not say size and hash of the partition"),
        (|m| m.procedures[0].r#type = 7, "procedure of unknown type 7"),
        (|m| m.procedures[0].new_info = None, "does not say size and hash of the kernel"),
        (|m| m.procedures[0].new_info.as_mut().unwrap().size = Some(4096), "do not write the 4096 bytes"),
        (
            |m| m.procedures[0].new_info.as_mut().unwrap().size = Some(5001),
            "operation 2: there are fewer data",
        ),
        (
            |m| m.procedures[0].new_info.as_mut().unwrap().size = Some(4999),
            "operation 2: there are more data",
        ),
        (|m| m.procedures.push(InstallProcedure::default()), "two kernels"),
    ];
    for (at, (change, why)) in changes.iter().enumerate() {
        let mut changed = manifest.clone();
        change(&mut changed);
        let said =
            applied(&assembled(&changed, &data)).expect_err(&format!("change {at} ({why})")).to_string();
        assert!(said.contains(why), "change {at}: {said:?} has no {why:?}");
    }
    // The data of a compressed operation that end with something else are taken; more than its blocks are not.
    let mut packed = DeltaArchiveManifest { procedures: vec![], ..manifest.clone() };
    let mut bytes = data[..data.len() - 5000].to_vec();
    bytes.extend(b"tail");
    let operation = second(&mut packed);
    operation.data_length = operation.data_length.map(|n| n + 4);
    operation.data_sha256_hash = Some(sha256(&bytes[4096..]).to_vec());
    packed.signatures_offset = Some(bytes.len() as u64);
    assert!(applied(&assembled(&packed, &bytes)).unwrap().0 == image);
    second(&mut packed).dst_extents[0].num_blocks = Some(1);
    first(&mut packed).dst_extents.push(Extent { start_block: Some(1), num_blocks: Some(1) });
    assert!(applied(&assembled(&packed, &bytes)).is_err());
    // Errors show the operation.
    let mut changed = manifest.clone();
    second(&mut changed).data_offset = Some(1);
    let said = applied(&assembled(&changed, &data)).unwrap_err().to_string();
    assert!(said.contains("\ntype: REPLACE_BZ\ndata_offset: 1\n"), "{said}");
    assert!(said.contains("dst_extents {\n  start_block: 0\n  num_blocks: 2\n}\n"), "{said}");
}

#[test]
fn nothing_is_written_by_a_payload_that_nobody_signed() {
    let (manifest, data, _) = small();
    let mut payload = assembled(&manifest, &data);
    *payload.last_mut().unwrap() ^= 1;
    let partition = file(b"old");
    let targets = Targets { partition: &partition, kernel: None };
    assert!(matches!(apply(&file(&payload), &verifying(key()), &targets), Err(Error::Signature)));
    assert_eq!(content(&partition), b"old");
    let whole = assembled(&manifest, &data);
    let refused = apply(&file(&whole), &verifying(key()), &targets).unwrap_err().to_string();
    assert!(refused.contains("for which there is no place"), "{refused}");
    assert_eq!(content(&partition), b"old");
}

#[test]
fn a_folder_of_the_sdk_gets_its_update_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let pem = path("key.pem");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let make = || {
        let cancel = Default::default();
        runtime
            .block_on(full_update(folder.path(), &pem, &Generator::Builtin, &cancel))
            .map_err(|e| crate::text::chain(&e))
    };
    assert!(make().unwrap_err().contains("version.txt"));
    let versions =
        "COREOS_VERSION=1.2.3+x\nCOREOS_VERSION_ID=1.2.3\nCOREOS_BUILD_ID=x\nCOREOS_SDK_VERSION=1.0.0\n";
    std::fs::write(path("version.txt"), versions).unwrap();
    assert!(make().unwrap_err().contains("key.pem"));
    std::fs::write(&pem, key().private_key_to_pem_pkcs8().unwrap()).unwrap();
    assert!(make().unwrap_err().contains("coreos_production_update.bin"));
    let image = noise(3 * 4096);
    std::fs::write(path("coreos_production_update.bin"), &image).unwrap();
    std::fs::write(path("coreos_production_image.vmlinuz"), b"kernel").unwrap();
    let payload = make().unwrap();
    assert_eq!(payload, path("coreos_production_update.gz"));
    let bytes = std::fs::read(&payload).unwrap();
    assert!(applied(&bytes).unwrap() == (image, b"kernel".to_vec()));
    let text = std::fs::read_to_string(path("coreos_production_update.xml")).unwrap();
    let update = crate::omaha::Update::parse(text.as_bytes()).unwrap();
    assert_eq!((update.version.as_str(), update.app_id.as_str()), ("1.2.3+x", APP_ID));
    assert_eq!(update.packages.packages[0].size, bytes.len() as u64);

    // It is kept as long as its description fits, whatever the image is.
    let mark = |payload: &std::path::Path| std::fs::metadata(payload).unwrap().modified().unwrap();
    let before = mark(&payload);
    std::fs::write(path("coreos_production_update.bin"), vec![0; 4096]).unwrap();
    assert!(make().is_ok() && mark(&payload) == before);
    std::fs::write(&payload, b"something else").unwrap();
    make().unwrap();
    assert!(applied(&std::fs::read(&payload).unwrap()).unwrap().0 == [0; 4096]);
    let two = text
        .replace("</packages>", "<package name=\"x\" hash=\"\" size=\"0\" required=\"true\"/></packages>");
    std::fs::write(path("coreos_production_update.xml"), two).unwrap();
    assert!(make().unwrap_err().contains("contains 2 packages, expected 1"));
}

#[test]
fn dumps_are_in_the_text_format_of_protobuf() {
    let (payload, manifest) = made(&[0xff; 4096], Some(b"kernel"), Options::default());
    let mut text = Vec::new();
    dump(&file(&payload), &verifying(key()), &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.starts_with(
            "partition_operations {\n  type: REPLACE_BZ\n  data_offset: 0\n  data_length: 43\n  dst_extents {\n    \
             start_block: 0\n    num_blocks: 1\n  }\n  data_sha256_hash: \""
        ),
        "{text}"
    );
    assert!(text.contains("procedures {\n  type: KERNEL\n  operations {\n    type: REPLACE\n"), "{text}");
    assert!(text.contains("\nnoop_operations {\n") && text.contains("start_block: 18446744073709551615\n"));
    assert!(text.contains("\nsignatures {\n  version: 2\n  data: \""), "{text}");
    // Of what does not verify only the first part is written.
    let mut bad = assembled(&manifest, &[0; 51]);
    let mut text = Vec::new();
    dump(&file(&bad), &verifying(key()), &mut text).unwrap_err();
    assert!(
        text.starts_with(b"partition_operations {")
            && !String::from_utf8(text).unwrap().contains("\nsignatures {")
    );
    bad.truncate(30);
    assert!(dump(&file(&bad), &verifying(key()), Vec::new()).is_err());
}

#[test]
fn work_that_is_not_wanted_any_more_ends() {
    let options = Options::default();
    options.cancel.cancel();
    let (image, mut payload) = (file(&noise(4 * 4096)), Vec::new());
    let source = Source { partition: &image, kernel: None };
    assert!(generate(&source, key(), options, &mut payload).unwrap_err().is_interruption());
    assert!(payload.is_empty());
}
