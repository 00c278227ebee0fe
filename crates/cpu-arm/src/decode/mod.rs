//! Generated decoders.
//!
//! One module per table; each has argument structs, the trait `Trans`, `decode`, `PATTERNS`, `name_of`,
//! `print` and `random`. The tables name instructions and their fields; what an instruction does, and
//! whether a reserved combination of its fields is undefined, is decided in `translate`.
//! `base` has the base set and all loads and stores, `fpsimd` FP and AdvSIMD data processing.
//!
//! Source: Arm ARM (DDI 0487) chapter C4, "A64 instruction set encoding".

pub mod base;
pub mod fpsimd;

#[cfg(test)]
mod tests;
