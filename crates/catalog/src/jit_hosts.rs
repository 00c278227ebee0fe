//! Hosts that the JIT can write code for.

/// Names of the hosts' back ends.
pub static JIT_HOSTS: &[&str] = &[];
