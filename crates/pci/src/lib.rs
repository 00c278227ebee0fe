//! PCI: functions with their configuration space, and the bus they sit on.
//!
//! A [`Function`] holds configuration space with its write masks, maps its base
//! address regions as the guest moves them, and sends interrupts by MSI-X or INTx.
//! A [`PciBus`] finds functions by device and function number and joins their
//! interrupt pins. Host bridges give a bus its windows. Not here: bridges and
//! express ports, MSI (only MSI-X), hotplug.
//! Sources: PCI Local Bus 3.0 and PCI Express Base specifications.

mod bus;
mod function;
mod msix;

pub use bus::{Host, PciBus};
pub use function::{Bar, Function, Identity};
pub use msix::Msix;

use derive::Qapi;

/// Properties that every PCI device has.
#[derive(Clone, Debug, Qapi)]
pub struct Common {
    /// Slot and optional function number, example: 06.0 or 06
    pub addr: Option<String>,
    /// Whether the device has other functions
    #[qapi(default = false)]
    pub multifunction: bool,
}
