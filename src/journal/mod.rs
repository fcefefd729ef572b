//! The guest's journal: parsed, made readable, and recorded.

mod export;
mod format;
mod record;

pub use export::{Entry, Error, FIELD_LIMIT, Parser};
pub use format::Formatter;
pub use record::{Following, Recorder, TEXT_FILE};
