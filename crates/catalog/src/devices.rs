//! Devices.

use device::DeviceClass;

/// All device classes, sorted by crate and name.
pub static DEVICES: &[&DeviceClass] = &[];
