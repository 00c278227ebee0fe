//! PCI host bridges.
//!
//! One file per bridge. A bridge makes a bus (crate `pci`), offers the windows
//! that the board maps (configuration space, memory, I/O ports) and has four
//! interrupt outputs. Boards describe it to the guest; bridges know no addresses.
//! Sources: named in each file.

pub mod gpex;
