//! Interrupt controllers.
//!
//! One folder per controller with its properties, registers, reset and saved
//! state, and a `CLASS` that the catalog lists. Boards create them by type name,
//! wire shared and private inputs through `device::IrqController`, and attach
//! system-register interfaces through `cpu::SystemRegisters`.
//! Sources: named in each folder (Arm IHI 0069 for GICv3, IHI 0048 for GICv2).

mod encoding;
pub mod gicv2;
pub mod gicv2m;
pub mod gicv3;
pub mod its;
mod virt;
mod word;

/// Interrupt number that stands for "nothing pending".
const SPURIOUS: u32 = 1023;
/// Private interrupt that announces virtual interface maintenance.
const MAINTENANCE: u32 = 25;
