//! Network cards of real hardware.
//!
//! One folder per device, each with its properties, registers, reset and saved state, and a `CLASS`
//! that the catalog lists. Frames come from and go to a [`net::Link`]. Virtio's card is in
//! `hw-virtio`. Sources: named in each file.

pub mod e1000e;
