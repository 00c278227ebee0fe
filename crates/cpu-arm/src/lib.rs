//! The Arm guest CPUs (AArch64).
//!
//! `decode` holds the generated decoders; `translate` turns instructions into IR; `state` is the state
//! struct and `helpers` the table of functions that translated code calls.
//! Not here: the execution loop and the software TLB (`accel-jit`), the GIC (`hw-intc`).
//!
//! Sources: Arm Architecture Reference Manual for A-profile (DDI 0487), observed behaviour of QEMU.

pub mod arch;
pub mod attributes;
pub mod cpu;
pub mod debug;
pub mod decode;
pub mod disassembly;
pub mod exception;
mod expansion;
pub mod features;
pub mod fpsimd;
mod gdb;
pub mod helpers;
mod log;
pub mod mmu;
pub mod models;
pub mod pauth;
pub mod pmu;
mod props;
pub mod qarma;
pub mod saved;
pub mod state;
pub mod syndrome;
pub mod sysreg;
pub mod system;
pub mod translate;

pub use helpers::{HELPERS, HelperId};
pub use state::{ArmCpu, LAYOUT, ModeKey};
