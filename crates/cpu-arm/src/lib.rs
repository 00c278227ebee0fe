//! The Arm guest CPUs (AArch64).
//!
//! `decode` holds the generated decoders; `translate` turns instructions into IR.
//! Not here: the execution loop and the software TLB (`accel-jit`), the GIC (`hw-intc`).
//!
//! Sources: Arm Architecture Reference Manual for A-profile (DDI 0487), observed behaviour of QEMU.

pub mod decode;
