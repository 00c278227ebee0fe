//! Machines.

/// Names of the machines.
pub static MACHINES: &[&str] = &[];
