//! Arm machines.
//!
//! One folder per machine: a table of slots, the creation steps as small
//! functions, and the device tree made from what was created. Devices are created
//! by type name and wired by port, so this crate depends on no device crate.
//! CPUs come from the guest architecture in the catalog. Sources: QEMU 10.0's
//! documentation of the board and its observable behaviour (`info mtree`,
//! `dumpdtb`), the Devicetree Specification and Linux's device tree bindings.

pub mod virt;
