//! Machines.

use machine::MachineClass;

/// All machines, sorted by name.
pub static MACHINES: &[&MachineClass] = &[&machine::NONE, &machine_arm::virt::CLASS];
