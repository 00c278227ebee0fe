//! Values, types and texts of the control interfaces.
//!
//! Everything that a person or a management program says to Tinamou (QMP, the command line, the
//! human monitor) becomes a [`Value`], is checked against a [`TypeInfo`] and turned into a Rust
//! type by [`Qapi`]. The same [`TypeInfo`] prints the help texts and the introspection schema, so
//! that what is accepted, what is documented and what is announced cannot differ.
//!
//! Not here: the derive macro (crate `derive`), commands (`vmm`), the wire protocol (`monitor`).
//!
//! Sources: RFC 8259 (JSON), the QMP specification and the key=value syntax of QEMU's manual, and
//! the observable behaviour of QEMU 10.0.2 for error texts and the order of checks.

mod error;
mod help;
mod info;
pub mod json;
pub mod keyval;
mod number;
pub mod schema;
mod typed;
mod value;

pub use error::{Class, Error, Result};
pub use help::{member_lines, option_lines};
pub use info::{Kind, Member, TypeInfo, TypeRef, Variant};
pub use number::{Size, parse_int, parse_size};
pub use typed::{Array, Qapi, take_known, take_member};
pub use value::{Source, Value};
