//! Storage: flash chips that are soldered to the board, and disks on a SCSI bus.
//!
//! One file per device, each with its properties, registers, reset and saved
//! state, and a `CLASS` that the catalog lists. Contents come from and go to a
//! [`device::Storage`], which the block layer (or a test) provides. Disks use
//! the block layer. Controllers are not here. Sources: named in each file.

mod cfi;
pub mod nvme;
pub mod pflash_cfi01;
pub mod scsi_disk;
