//! A machine's state as one stream: a sealed container, sections in it, and pages of RAM.
//!
//! Layers, outermost first:
//! * [`seal`]: pieces of 1 MiB, each with a SHA-256 digest of everything up to it, so that damage
//!   anywhere is found before anything is believed;
//! * [`section`]: named parts of bounded length (the machine, each device, each CPU);
//! * [`ram`]: blocks of RAM as runs of pages that are not all zero.
//!
//! Whoever loads reads the stream twice: once to check all of it, once to apply it. Nothing here
//! knows devices or where streams are kept.
//!
//! Not here: QEMU's own stream, migration between hosts, RAM that changes while it is saved.

pub mod ram;
pub mod seal;
pub mod section;

use std::io;

/// Why a stream cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is not what was written.
    #[error("the machine's state is damaged: {0}")]
    Damaged(&'static str),
    /// It is whole, and not of this machine.
    #[error("{0}")]
    Mismatch(String),
}

/// What of loading can fail.
pub type Result<T> = std::result::Result<T, StreamError>;
