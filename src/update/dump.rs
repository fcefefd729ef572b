//! Payloads as text: the text format of protobuf.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Seek as _, Write};

use super::manifest::{
    DeltaArchiveManifest, Extent, InstallInfo, InstallOperation, InstallProcedure, OperationType,
    ProcedureType, Signatures,
};
use super::{Error, VerifyingKey, read};

/// Extents of an operation that messages show; there may be thousands.
const SHOWN: usize = 8;

/// Writes what a payload says of itself, verifies it, and writes its signatures.
///
/// # Errors
/// When it is no payload, or does not verify; what it says of itself is written nevertheless.
pub fn dump(mut payload: &File, key: &VerifyingKey, mut out: impl Write) -> Result<(), Error> {
    let mut put = |fill: &dyn Fn(&mut Text)| {
        let mut text = Text::new(usize::MAX);
        fill(&mut text);
        out.write_all(text.out.as_bytes()).map_err(Error::io("write the text"))
    };
    let metadata = read::metadata(payload)?;
    put(&|text| text.manifest(&metadata.manifest))?;
    payload.rewind().map_err(Error::io("read the payload"))?;
    let verified = read::verify(payload, key)?;
    let signatures = read::signatures(payload, &verified)?;
    put(&|text| text.signatures(&signatures))
}

impl InstallOperation {
    /// The operation as text, for messages.
    pub fn to_text(&self) -> String {
        let mut text = Text::new(SHOWN);
        text.operation(self);
        text.out
    }
}

/// A message as it is written.
struct Text {
    out: String,
    depth: usize,
    extents: usize,
}

impl Text {
    fn new(extents: usize) -> Self {
        Self { out: String::new(), depth: 0, extents }
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "{:1$}{text}", "", 2 * self.depth);
    }

    fn field(&mut self, name: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.line(format_args!("{name}: {value}"));
        }
    }

    /// Bytes, in quotes; all but plain characters as octal numbers.
    fn bytes(&mut self, name: &str, value: Option<&Vec<u8>>) {
        let Some(bytes) = value else { return };
        let mut quoted = String::new();
        for &byte in bytes {
            let _ = match byte {
                b'"' | b'\\' => write!(quoted, "\\{}", char::from(byte)),
                b' '..=b'~' => write!(quoted, "{}", char::from(byte)),
                byte => write!(quoted, "\\{byte:03o}"),
            };
        }
        self.line(format_args!("{name}: \"{quoted}\""));
    }

    fn message(&mut self, name: &str, fields: impl FnOnce(&mut Self)) {
        self.line(format_args!("{name} {{"));
        self.depth += 1;
        fields(self);
        self.depth -= 1;
        self.line(format_args!("}}"));
    }

    fn manifest(&mut self, manifest: &DeltaArchiveManifest) {
        for operation in &manifest.partition_operations {
            self.message("partition_operations", |text| text.operation(operation));
        }
        for operation in &manifest.noop_operations {
            self.message("noop_operations", |text| text.operation(operation));
        }
        self.field("block_size", manifest.block_size);
        self.field("signatures_offset", manifest.signatures_offset);
        self.field("signatures_size", manifest.signatures_size);
        self.info("old_partition_info", manifest.old_partition_info.as_ref());
        self.info("new_partition_info", manifest.new_partition_info.as_ref());
        for procedure in &manifest.procedures {
            self.message("procedures", |text| text.procedure(procedure));
        }
    }

    fn procedure(&mut self, procedure: &InstallProcedure) {
        let kind = ProcedureType::try_from(procedure.r#type);
        self.field("type", Some(kind.map_or_else(|_| procedure.r#type.to_string(), |_| "KERNEL".into())));
        for operation in &procedure.operations {
            self.message("operations", |text| text.operation(operation));
        }
        self.info("old_info", procedure.old_info.as_ref());
        self.info("new_info", procedure.new_info.as_ref());
    }

    fn operation(&mut self, operation: &InstallOperation) {
        let kind = match OperationType::try_from(operation.r#type) {
            Ok(OperationType::Replace) => "REPLACE".to_owned(),
            Ok(OperationType::ReplaceBz) => "REPLACE_BZ".to_owned(),
            Ok(OperationType::Move) => "MOVE".to_owned(),
            Ok(OperationType::Bsdiff) => "BSDIFF".to_owned(),
            Err(_) => operation.r#type.to_string(),
        };
        self.field("type", Some(kind));
        self.field("data_offset", operation.data_offset);
        self.field("data_length", operation.data_length);
        self.extents("src_extents", &operation.src_extents);
        self.field("src_length", operation.src_length);
        self.extents("dst_extents", &operation.dst_extents);
        self.field("dst_length", operation.dst_length);
        self.bytes("data_sha256_hash", operation.data_sha256_hash.as_ref());
    }

    fn extents(&mut self, name: &str, extents: &[Extent]) {
        for extent in extents.iter().take(self.extents) {
            self.message(name, |text| {
                text.field("start_block", extent.start_block);
                text.field("num_blocks", extent.num_blocks);
            });
        }
    }

    fn info(&mut self, name: &str, info: Option<&InstallInfo>) {
        if let Some(info) = info {
            self.message(name, |text| {
                text.field("size", info.size);
                text.bytes("hash", info.hash.as_ref());
            });
        }
    }

    fn signatures(&mut self, signatures: &Signatures) {
        for signature in &signatures.signatures {
            self.message("signatures", |text| {
                text.field("version", signature.version);
                text.bytes("data", signature.data.as_ref());
            });
        }
    }
}
