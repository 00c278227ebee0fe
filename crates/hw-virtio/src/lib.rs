//! Virtio devices.
//!
//! One file per device: configuration space, features and what it does with its
//! queues. Transports are the crate `virtio`; these devices do not know which one
//! carries them, and each is registered once per way it can be plugged in. Back
//! ends are the crates `chardev` and `host`.
//! Source: Virtual I/O Device (VIRTIO) Version 1.3, section 5.

pub mod balloon;
pub mod blk;
mod merge;
pub mod net;
pub mod pci;
pub mod rng;
pub mod scsi;
pub mod serial;
pub mod serial_port;
pub mod ways;
