//! The catalog: one static table per kind of thing, naming every class.
//!
//! A new device, machine, guest, accelerator, JIT host, character or network back end is registered by one
//! line in one of these files and by nothing else. Explicit tables keep the order stable and "go
//! to definition" working, and tests can take every entry (`tests/every_device.rs`).
//!
//! Not here: anything but names. Nobody but the program `tinamou` depends on this crate.
//!
//! Sources: the architecture page (section 3.1).

mod accels;
mod chardev;
mod devices;
mod guests;
mod jit_hosts;
mod machines;
mod netdevs;
mod objects;

pub use accels::ACCELS;
pub use chardev::CHARDEVS;
pub use devices::DEVICES;
pub use guests::GUESTS;
pub use jit_hosts::JIT_HOSTS;
pub use machines::MACHINES;
pub use netdevs::NETDEVS;
pub use objects::{OBJECTS, object};

/// The tables that machines create from.
pub static CATALOG: machine::Catalog =
    machine::Catalog { devices: DEVICES, machines: MACHINES, guests: GUESTS };
