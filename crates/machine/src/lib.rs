//! Machines: their classes, and helpers that create and wire devices by name.
//!
//! A machine type describes its map as a table of [`Slot`]s and fills a
//! [`Board`], which creates devices by type name from the [`Catalog`], maps their
//! banks, wires their lines and collects everything into a [`Machine`] that the
//! control plane runs. Machines never depend on device crates. The machine
//! `none` is here; others live in `machine-*`. Not here: running CPUs (`accel`),
//! run states (`vmm`). Sources: the design pages (architecture, section 3.3).

mod board;
mod class;
mod config;
mod none;
pub mod numa;

pub use board::{Board, Machine, PowerButton, Slot, slot};
pub use class::{Catalog, MachineClass, MachineType};
pub use config::{BootFiles, BootOptions, Host, MachineConfig, Topology};
pub use none::CLASS as NONE;
