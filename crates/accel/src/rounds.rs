//! All vCPUs in turns on one thread (`thread=single`, `-icount`).
//!
//! Each vCPU runs until it has nothing to do or its slice is over: with an instruction counter that is a
//! number of instructions, which the vCPU itself counts; without, a second thread kicks every 10 ms. When
//! none can run, [`Pace::idle`] says how long the next timer is away.
//!
//! Lock order: as in `threads`; [`Event`] is taken alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use device::{Request, RunControl};
use parking_lot::{Condvar, Mutex};

use crate::debug::RunAs;
use crate::threads::{Exit, Gate, Kicker, Shared, trace_fatal};

/// Without an instruction counter, how long a vCPU runs while others may want to.
const SLICE: Duration = Duration::from_millis(10);

/// What moves the guest's time while no vCPU has anything to do.
pub trait Pace: Send + Sync {
    /// How long to wait for the next timer; `None` = until something happens.
    fn idle(&self) -> Option<Duration>;
    /// The wait is over; `full` = nothing happened before its end.
    fn idled(&self, waited: Duration, full: bool);
}

/// Something that happened; remembered until it is waited for.
#[derive(Default)]
pub(crate) struct Event {
    happened: Mutex<bool>,
    changed: Condvar,
}

impl Event {
    pub(crate) fn set(&self) {
        *self.happened.lock() = true;
        self.changed.notify_all();
    }

    fn clear(&self) {
        *self.happened.lock() = false;
    }

    /// Whether it happened within the time.
    fn wait(&self, limit: Option<Duration>) -> bool {
        #[expect(clippy::disallowed_methods, reason = "a wait of the host's thread, in host time")]
        let until = limit.and_then(|l| Instant::now().checked_add(l));
        let mut happened = self.happened.lock();
        while !*happened {
            match until {
                None => self.changed.wait(&mut happened),
                Some(until) => {
                    if self.changed.wait_until(&mut happened, until).timed_out() {
                        break;
                    }
                }
            }
        }
        std::mem::take(&mut *happened)
    }
}

/// What the thread works with.
pub(crate) struct Rounds {
    pub(crate) gate: Arc<Gate>,
    pub(crate) vcpus: Vec<Shared>,
    pub(crate) kickers: Vec<Kicker>,
    pub(crate) event: Arc<Event>,
    pub(crate) pace: Option<Arc<dyn Pace>>,
    pub(crate) run: Arc<dyn RunControl>,
    /// The vCPU whose turn it is.
    pub(crate) current: Arc<AtomicUsize>,
}

impl Rounds {
    /// The thread.
    pub(crate) fn body(&self) {
        let mut halted = vec![false; self.vcpus.len()];
        while self.gate.enter_any() {
            while !self.gate.is_closed() {
                if !self.round(&mut halted) && !self.gate.is_closed() {
                    self.idle(&halted);
                }
            }
            self.gate.leave();
        }
    }

    /// One turn for each; whether any had something to do.
    fn round(&self, halted: &mut [bool]) -> bool {
        let mut busy = false;
        for (n, halted) in halted.iter_mut().enumerate() {
            if self.gate.is_closed() {
                return busy;
            }
            let how = self.gate.plan_of(n);
            if how == RunAs::Stay || (*halted && how == RunAs::Run && !self.kickers[n].take()) {
                continue;
            }
            self.current.store(n, Ordering::Release);
            let exit = {
                let mut v = self.vcpus[n].lock();
                v.set_step(how == RunAs::Step);
                let exit = v.run();
                v.set_step(false);
                exit
            };
            *halted = exit == Exit::Halted;
            busy |= !*halted;
            match exit {
                Exit::Interrupted | Exit::Halted => {}
                Exit::Debug(stop) => {
                    self.gate.hold(n);
                    self.gate.tell(n, stop);
                }
                Exit::Fatal(why) => {
                    trace_fatal(&why);
                    self.gate.hold(n);
                    self.run.request(Request::Stop);
                }
            }
        }
        busy
    }

    fn idle(&self, halted: &[bool]) {
        // What happened before the last round was seen by it, or is still in a vCPU's own flag.
        self.event.clear();
        let woken =
            |n: usize| halted[n] && self.kickers[n].is_set() && self.gate.plan_of(n) != RunAs::Stay;
        if (0..halted.len()).any(woken) || self.gate.is_closed() {
            return;
        }
        let limit = self.pace.as_ref().and_then(|p| p.idle());
        #[expect(clippy::disallowed_methods, reason = "how long the host's thread was idle")]
        let began = Instant::now();
        let happened = self.event.wait(limit);
        if let Some(pace) = &self.pace {
            pace.idled(began.elapsed(), !happened);
        }
    }

    /// The thread that ends slices; until the gate is closed for good.
    pub(crate) fn slices(gate: &Gate, kickers: &[Kicker], current: &AtomicUsize) {
        while gate.wait_slice(SLICE) {
            if let Some(kicker) = kickers.get(current.load(Ordering::Acquire)) {
                kicker.interrupt();
            }
        }
    }
}
