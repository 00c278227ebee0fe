//! Image formats.
//!
//! Empty so far.
//! Not here: anything.
//! Source: none yet.
