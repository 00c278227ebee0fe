//! The accelerator: CPUs exist, but never run.

use std::sync::Arc;

use accel::{Accel, AccelVm, GuestArch, VmConfig};

/// `-accel qtest`.
pub struct Qtest;

/// The catalog's entry.
pub static ACCEL: Qtest = Qtest;

/// Keeps the CPUs, so that what is wired to them stays.
struct Idle(#[expect(dead_code, reason = "kept alive only")] parking_lot::Mutex<VmConfig>);

impl Accel for Qtest {
    fn name(&self) -> &'static str {
        "qtest"
    }

    fn summary(&self) -> &'static str {
        "no CPU runs; a test program drives devices through -qtest"
    }

    fn usable(&self, _: &dyn GuestArch) -> Result<(), String> {
        Ok(())
    }

    fn new_vm(&self, config: VmConfig) -> qapi::Result<Arc<dyn AccelVm>> {
        Ok(Arc::new(Idle(parking_lot::Mutex::new(config))))
    }
}

impl AccelVm for Idle {
    fn resume(&self) {}
    fn pause(&self) {}
    fn shutdown(&self) {}
}
