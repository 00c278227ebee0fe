//! Machines.

use machine::MachineClass;
use machine_arm::virt;

/// All machines.
pub static MACHINES: &[&MachineClass] = &[
    &machine::NONE,
    &virt::CLASSES[0],
    &virt::CLASSES[1],
    &virt::CLASSES[2],
    &virt::CLASSES[3],
    &virt::CLASSES[4],
    &virt::CLASSES[5],
    &virt::CLASSES[6],
    &virt::CLASSES[7],
    &virt::CLASSES[8],
    &virt::CLASSES[9],
    &virt::CLASSES[10],
    &virt::CLASSES[11],
    &virt::CLASSES[12],
    &virt::CLASSES[13],
    &virt::CLASSES[14],
    &virt::CLASSES[15],
    &virt::CLASSES[16],
    &virt::CLASSES[17],
    &virt::CLASSES[18],
    &virt::CLASSES[19],
    &virt::CLASSES[20],
    &virt::CLASSES[21],
    &virt::CLASSES[22],
    &virt::CLASSES[23],
    &virt::CLASSES[24],
    &virt::CLASSES[25],
    &virt::CLASSES[26],
    &virt::CLASSES[27],
];
