//! FP and Advanced SIMD data processing and cryptography: `fpsimd.decode`.
//!
//! Everything below comes from the table; see the crate `decodetree` for what is generated. One
//! pattern per encoding group; `crate::fpsimd` decides the opcodes inside a group.
//! Source: Arm ARM (DDI 0487) C4.1.96.

include!(concat!(env!("OUT_DIR"), "/fpsimd.rs"));
