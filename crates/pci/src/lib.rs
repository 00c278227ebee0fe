//! PCI: functions with their configuration space, and the bus they sit on.
//!
//! A [`Function`] holds configuration space with its write masks, maps its base
//! address regions as the guest moves them, and sends interrupts by MSI-X or INTx.
//! A [`PciBus`] finds functions by device and function number and joins their
//! interrupt pins. Host bridges give a bus its windows. Not here: bridges and
//! express ports and their capabilities (functions sit on the root bus and are
//! conventional there), expansion ROMs, hotplug.
//! Sources: PCI Local Bus 3.0 and PCI Express Base specifications.

mod bus;
mod function;
mod listing;
mod msix;
mod props;

pub use bus::{Host, PciBus};
pub use function::{Bar, ConfigHook, Function, Identity};
pub use listing::{FunctionInfo, RegionInfo};
pub use msix::Msix;
pub use props::{Addr, BusNumber, Common};
