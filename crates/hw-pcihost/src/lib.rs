//! PCI host bridges, and bridges and ports between buses.
//!
//! One file per bridge. A host bridge makes a bus (crate `pci`), offers the windows
//! that the board maps (configuration space, memory, I/O ports) and has four
//! interrupt outputs. Boards describe it to the guest; bridges know no addresses.
//! Ports and bridges are PCI devices with a bus of their own.
//! Sources: named in each file.

pub mod conventional;
pub mod gpex;
mod port;
pub mod pxb;
pub mod root_port;
pub mod switch;
