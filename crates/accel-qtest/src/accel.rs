//! The accelerator: CPUs exist, but never run.

use std::sync::Arc;

use accel::{Accel, AccelVm, GuestArch, JitCpu, VmConfig};

/// `-accel qtest`.
pub struct Qtest;

/// The catalog's entry.
pub static ACCEL: Qtest = Qtest;

/// Keeps the CPUs, so that what is wired to them stays.
struct Idle(parking_lot::Mutex<VmConfig>);

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
    fn with_cpu(&self, cpu: usize, f: &mut dyn FnMut(&mut dyn JitCpu)) -> bool {
        let mut config = self.0.lock();
        let Some(cpu) = config.cpus.get_mut(cpu) else { return false };
        f(&mut **cpu);
        true
    }
}
