//! Storage that is soldered to the board: flash chips.
//!
//! One file per device, each with its properties, registers, reset and saved
//! state, and a `CLASS` that the catalog lists. Contents come from and go to a
//! [`device::Storage`], which the block layer (or a test) provides. Disks with
//! controllers of their own are not here. Sources: named in each file.

mod cfi;
pub mod pflash_cfi01;
