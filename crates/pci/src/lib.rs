//! PCI: functions with their configuration space, and the buses they sit on.
//!
//! A [`Function`] holds configuration space with its write masks, maps its base
//! address regions as the guest moves them, and sends interrupts by MSI-X, MSI or INTx.
//! A [`PciBus`] finds functions by bus, device and function number and joins their
//! interrupt pins. A [`Bridge`] leads to a further bus through its windows; a port's slot lets
//! devices come and go, as a [`Shpc`] does for a bridge. Host bridges give a root bus its windows. Not here:
//! SR-IOV.
//! Sources: PCI Local Bus 3.0, PCI-to-PCI Bridge Architecture 1.2 and PCI Express Base.

mod bridge;
mod bus;
mod config;
mod express;
mod function;
mod iommu;
mod listing;
mod msix;
mod props;
mod rom;
mod shpc;
mod slot;

pub use bridge::{Bridge, Header, SlotParts};
pub use bus::{Host, PciBus, RootTraits, Site};
pub use express::{Express, Link, Role, SlotTraits};
pub use function::{Bar, ConfigHook, Function, Identity};
pub use iommu::Iommu;
pub use listing::{BridgeInfo, FunctionInfo, RegionInfo};
pub use msix::Msix;
pub use props::{Addr, BusNumber, Common};
pub use shpc::Shpc;
