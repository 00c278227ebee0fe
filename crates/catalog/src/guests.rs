//! Guest architectures.

use accel::GuestArch;

/// All guests.
pub static GUESTS: &[&'static dyn GuestArch] = &[&cpu_arm::arch::ARCH];
