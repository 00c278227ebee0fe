//! Hosts that the JIT can write code for.

use jit_ir::backend::HostBackend;

/// The hosts' back ends, the preferred one first.
pub static JIT_HOSTS: &[&dyn HostBackend] = &[&jit_x64::BACKEND];
