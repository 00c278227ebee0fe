//! Tests that run generated code.
#![expect(unsafe_code, reason = "enters generated code")]

mod chaining;
mod fp;
mod loops;
mod machine;
mod random;
