//! The A64 fpsimd set and all loads and stores: `fpsimd.decode`.
//!
//! Everything below comes from the table; see the crate `decodetree` for what is generated.
//! It covers Armv8.0 to 8.5 plus WFxT, DSB nXS, LRCPC2, FlagM2 and HBC of later versions; memory
//! tagging, MOPS, LS64, SVE and SME are not in it, so their words are undefined.
//! Source: Arm ARM (DDI 0487) chapter C4.

include!(concat!(env!("OUT_DIR"), "/fpsimd.rs"));
