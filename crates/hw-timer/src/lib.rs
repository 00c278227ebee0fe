//! Timers and clocks.
//!
//! One file per device, each with its properties, registers, reset and saved
//! state, and a `CLASS` that the catalog lists. Time comes only from the guest's
//! clock and the wall clock that `device::World` carries, so tests move it by
//! hand. Boards create these devices by type name.
//! Sources: named in each file.

pub mod pl031;
