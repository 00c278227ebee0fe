//! Saved state of devices and CPUs: a self-describing, versioned, length-limited stream.
//!
//! The register struct of a device *is* the saved type: deriving [`VmState`] saves every field by
//! name and gives the [`StateSchema`] that golden files watch and that prints a device's registers.
//! A load builds a new value, validates it, and only then replaces the old one, so that a broken
//! stream cannot leave a half-loaded device.
//!
//! Not here: the outer migration stream with its RAM pages (crate `migration`), and compatibility
//! with QEMU's stream.
//!
//! Format (little-endian): a value is a tag byte and a payload; see [`tag`]. A record is its name,
//! its version and the length of its body, a body is a list of named values.

mod field;
mod reader;
mod schema;
mod state;
mod writer;

pub use field::Field;
pub use reader::StateReader;
pub use schema::{FieldSchema, StateSchema};
pub use state::{Migration, Saved, VmState};
pub use writer::StateWriter;

/// Tag bytes of values.
pub mod tag {
    /// `false` or `true` as one byte.
    pub const BOOL: u8 = b'B';
    /// An integer: a byte with its width in bytes (high bit: signed), then the bytes.
    pub const INT: u8 = b'I';
    /// Bytes: length as `u32`, the bytes.
    pub const BYTES: u8 = b'Y';
    /// A list: count as `u32`, the values.
    pub const LIST: u8 = b'L';
    /// Absent.
    pub const NONE: u8 = b'N';
    /// Present: the value.
    pub const SOME: u8 = b'O';
    /// A record: name (length byte and text), version as `u32`, length of the body as `u32`, body.
    pub const RECORD: u8 = b'R';
    /// A member of a record's body: name (length byte and text), value.
    pub const MEMBER: u8 = b'M';
}

/// Why a stream was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The record has a version that this program does not know.
    #[error("unknown version {0}")]
    UnknownVersion(u32),
    /// A value is not allowed.
    #[error("invalid state: {0}")]
    Invalid(&'static str),
    /// Something else was expected.
    #[error("expected {expected}, found {found}")]
    Mismatch {
        /// What this program wanted.
        expected: String,
        /// What the stream has.
        found: String,
    },
    /// The stream ends inside a value.
    #[error("the stream ends too early")]
    Truncated,
    /// A length or count is above its bound.
    #[error("{found} elements where at most {limit} fit")]
    TooLong {
        /// What the stream has.
        found: usize,
        /// The bound.
        limit: usize,
    },
    /// Bytes are left at the end.
    #[error("{0} bytes too many")]
    Trailing(usize),
    /// Where in the state the trouble is.
    #[error("{at}: {source}")]
    At {
        /// Name of the record or member.
        at: String,
        /// The trouble.
        source: Box<LoadError>,
    },
}

impl LoadError {
    /// Puts the name of a record or member in front.
    #[must_use]
    pub fn at(self, name: &str) -> Self {
        match self {
            Self::At { at, source } => Self::At { at: format!("{name}.{at}"), source },
            other => Self::At { at: name.to_owned(), source: Box::new(other) },
        }
    }
}
