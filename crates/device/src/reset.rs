//! Resetting many devices at once.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::class::{Device, Reset};

/// The devices of a machine, in creation order. Does not own them.
#[derive(Default)]
pub struct ResetTree(Mutex<Vec<Weak<dyn Device>>>);

impl ResetTree {
    /// Adds a device behind those already there.
    pub fn add(&self, device: &Arc<dyn Device>) {
        self.0.lock().push(Arc::downgrade(device));
    }

    /// The devices that still exist.
    #[must_use]
    pub fn devices(&self) -> Vec<Arc<dyn Device>> {
        let mut list = self.0.lock();
        list.retain(|d| d.strong_count() > 0);
        list.iter().filter_map(Weak::upgrade).collect()
    }

    /// Resets all and drives nothing: states are loaded next.
    pub fn reset_only(&self, kind: Reset) {
        for device in self.devices() {
            device.reset(kind);
        }
    }

    /// Resets all, then lets all drive their outputs again.
    pub fn reset(&self, kind: Reset) {
        self.reset_only(kind);
        self.settle();
    }

    /// Lets all devices derive outputs and timers from their state, as after
    /// loading saved state.
    pub fn settle(&self) {
        for device in self.devices() {
            device.settle();
        }
    }
}
