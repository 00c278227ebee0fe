//! Image formats: drivers that give a file below them a structure.
//!
//! One file or folder per format; each opens a node on the child `file`, and registers one class
//! in the crate `catalog-block`. Everything in an image is hostile: offsets and lengths are checked
//! before use, tables are bounded, damage is an error of the request and never of the program.
//! Here: `qcow2`, `luks`. Not here: other formats of QEMU (vmdk, vdi, vhdx, ...).
//! Source: QEMU's published description of each format.

pub mod luks;
pub mod qcow2;
