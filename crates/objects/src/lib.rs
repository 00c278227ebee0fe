//! Objects that users make (`-object`, `object-add`).
//!
//! One file per family: entropy (`rng-random`, `rng-builtin`), secrets, I/O threads, memory. Each
//! has QEMU's property names, defaults and messages, and offers what it can do by type (see
//! `device::Entropy` and its neighbours). Not here: thread contexts, so `prealloc-context` names
//! none; persistent memory (`pmem=on` is refused); alignments beyond the host's page size.
//! Sources: QEMU's manual page, "Generic object creation"; the installed QEMU's answers.

pub mod base64;
mod help;
pub mod iothread;
pub mod memory;
pub mod rng;
pub mod secret;
pub mod throttle;

pub use help::{help, type_name};
