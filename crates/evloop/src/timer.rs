//! One-shot timers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::Clock;

static NEXT_ID: AtomicUsize = AtomicUsize::new(0);

pub(crate) struct TimerCore {
    call: Box<dyn Fn() + Send + Sync>,
    deadline: Mutex<Option<u64>>,
}

impl TimerCore {
    pub(crate) fn fire(&self) {
        // A timer re-armed while it was being taken off the list has a later
        // entry there; a cancelled one has no deadline.
        if self.deadline.lock().take().is_some() {
            (self.call)();
        }
    }
}

/// A one-shot timer on a [`Clock`]; dropping it disarms it. The callback runs on
/// the loop that serves the clock, with no lock of this crate held.
pub struct Timer {
    clock: Clock,
    id: usize,
    core: Arc<TimerCore>,
}

impl Timer {
    pub(crate) fn new(clock: Clock, call: Box<dyn Fn() + Send + Sync>) -> Timer {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Timer { clock, id, core: Arc::new(TimerCore { call, deadline: Mutex::new(None) }) }
    }

    /// Fires once the clock reaches `at`; replaces an earlier deadline.
    pub fn arm_at(&self, at: u64) {
        let mut deadline = self.core.deadline.lock();
        if *deadline == Some(at) {
            return;
        }
        if let Some(old) = deadline.replace(at) {
            self.clock.disarm(old, self.id);
        }
        self.clock.arm(at, self.id, Arc::downgrade(&self.core));
    }

    /// Forgets the deadline.
    pub fn cancel(&self) {
        if let Some(old) = self.core.deadline.lock().take() {
            self.clock.disarm(old, self.id);
        }
    }

    /// When it will fire.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        *self.core.deadline.lock()
    }

    /// The clock it is on.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.cancel();
    }
}
