//! Small devices that fit nowhere else.
//!
//! One file per device, each with its properties, registers, reset and saved
//! state, and a `CLASS` that the catalog lists. What boards put into them goes
//! through small traits of the crate `device`. Boards create these devices by
//! type name.
//! Sources: named in each file.

pub mod edu;
pub mod fw_cfg;
pub mod ged;
pub mod gpio_key;
pub mod gpio_pwr;
pub mod loader;
mod memory_slots;
pub mod pc_dimm;
pub mod pci_testdev;
pub mod pl061;
