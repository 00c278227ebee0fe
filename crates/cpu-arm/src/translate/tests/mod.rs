//! Tests of the translator: instructions in, registers out.
//!
//! `machine` runs blocks; `oracle` compares with recorded cases; `cases` are written by hand; `simd` compares
//! the IR of FP and Advanced SIMD words with the executor.
//! Every block also passes the IR verifier.
//! Source: Arm ARM (DDI 0487).

mod cases;
mod machine;
mod oracle;
mod pac;
mod simd;
