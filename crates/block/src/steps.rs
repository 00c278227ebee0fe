//! Steps of work in the background, which a drained section holds back.
//!
//! Jobs do their work in short steps ([`Steps::enter`]); between two the graph may change. Whoever
//! changes it holds new steps back and waits until none is under way ([`Steps::hold`]); sections
//! may lie within one another. A step never begins another one.
//! Not modelled: steps of one node only; all jobs of a graph stand still together.
//! Source: the design is our own; what drained sections are for: QEMU's block layer documentation.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

#[derive(Default)]
struct Counts {
    under_way: usize,
    held: usize,
}

/// The steps of a graph.
#[derive(Clone, Default)]
pub struct Steps(Arc<(Mutex<Counts>, Condvar)>);

/// A step that is under way; dropping it ends it.
pub struct Step(Steps);

/// No step begins while it lives.
pub struct Held(Steps);

impl Steps {
    /// Begins a step, when nobody holds them.
    #[must_use]
    pub fn enter(&self) -> Step {
        let mut counts = self.0.0.lock();
        while counts.held > 0 {
            self.0.1.wait(&mut counts);
        }
        counts.under_way += 1;
        Step(self.clone())
    }

    /// Holds new steps back and waits until none is under way.
    #[must_use]
    pub fn hold(&self) -> Held {
        let mut counts = self.0.0.lock();
        counts.held += 1;
        while counts.under_way > 0 {
            self.0.1.wait(&mut counts);
        }
        Held(self.clone())
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        let mut counts = self.0.0.0.lock();
        counts.under_way = counts.under_way.saturating_sub(1);
        self.0.0.1.notify_all();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut counts = self.0.0.0.lock();
        counts.held = counts.held.saturating_sub(1);
        self.0.0.1.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_held_section_waits_for_steps_and_keeps_new_ones_off() {
        let steps = Steps::default();
        let step = steps.enter();
        let (inside, other) = (Arc::new(AtomicBool::new(false)), steps.clone());
        let flag = inside.clone();
        let holder = evloop::spawn("holder", move || {
            let held = other.hold();
            flag.store(true, Ordering::SeqCst);
            held
        });
        assert!(!inside.load(Ordering::SeqCst));
        drop(step);
        let held = holder.unwrap().join().unwrap();
        assert!(inside.load(Ordering::SeqCst));
        let (other, done) = (steps.clone(), Arc::new(AtomicBool::new(false)));
        let flag = done.clone();
        let worker = evloop::spawn("worker", move || {
            let step = other.enter();
            flag.store(true, Ordering::SeqCst);
            drop(step);
        });
        assert!(!done.load(Ordering::SeqCst));
        drop(held);
        worker.unwrap().join().unwrap();
        assert!(done.load(Ordering::SeqCst));
    }
}
