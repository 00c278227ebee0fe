//! Accelerators, the preferred one first.

use accel::Accel;
use accel_jit::JitAccel;

/// All accelerators.
pub static ACCELS: &[&'static dyn Accel] = &[&TCG, &accel_qtest::ACCEL];

static TCG: JitAccel = JitAccel { backends: crate::JIT_HOSTS };
