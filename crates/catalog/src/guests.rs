//! Guest architectures.

use accel::GuestArch;

/// A guest that can be run.
pub struct Guest {
    /// Its architecture.
    pub arch: &'static dyn GuestArch,
}

/// All guests.
pub static GUESTS: &[Guest] = &[Guest { arch: &cpu_arm::arch::ARCH }];
