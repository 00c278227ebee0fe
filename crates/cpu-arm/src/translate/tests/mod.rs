//! Tests of the translator: instructions in, registers out.
//!
//! `machine` runs blocks; `oracle` compares with recorded cases; `cases` are written by hand.
//! Every block also passes the IR verifier.
//! Source: Arm ARM (DDI 0487).

mod cases;
mod machine;
mod oracle;
mod pac;
