//! Serial ports.
//!
//! One file per device, each with its properties, registers, reset and saved
//! state, and a `CLASS` that the catalog lists. Devices here turn register
//! accesses into bytes on a `CharPort` and back; back ends (terminals, sockets)
//! are the crate `chardev`. Boards create these devices by type name.
//! Sources: named in each file.

pub mod pl011;
