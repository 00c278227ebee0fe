//! Accelerators, the preferred one first.

use accel::Accel;

/// All accelerators.
pub static ACCELS: &[&'static dyn Accel] = &[&accel_qtest::ACCEL];
