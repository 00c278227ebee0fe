//! Counts what is under way, for who must wait until nothing is.
//!
//! A format that lets requests go to its file by themselves ([`crate::BlockDriver::resolve`]) gives
//! each a [`Flight`]; before it moves or frees clusters it keeps new ones off by a lock of its own
//! and waits until the count is zero. Ending a flight never blocks.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// The count.
#[derive(Clone, Default)]
pub struct Flights(Arc<(Mutex<usize>, Condvar)>);

/// One that is under way; dropping it ends it.
pub struct Flight(Flights);

impl Flights {
    /// Begins one.
    #[must_use]
    pub fn begin(&self) -> Flight {
        *self.0.0.lock() += 1;
        Flight(self.clone())
    }

    /// Waits until there is none; the caller keeps new ones from beginning.
    pub fn wait(&self) {
        let mut count = self.0.0.lock();
        while *count > 0 {
            self.0.1.wait(&mut count);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut count = self.0.0.0.lock();
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.0.0.1.notify_all();
        }
    }
}
