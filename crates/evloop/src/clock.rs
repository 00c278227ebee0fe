//! Clocks: the guest's time, which can be stopped, or a test's.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::WeakHandle;
use crate::timer::{Timer, TimerCore};

/// What moves a counted clock.
struct Count {
    now: Box<dyn Fn() -> u64 + Send + Sync>,
    steps: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Told when an earlier deadline came up.
    sooner: Box<dyn Fn() + Send + Sync>,
}

/// A clock in nanoseconds with timers on it. Cloning gives the same clock.
#[derive(Clone)]
pub struct Clock(Arc<Core>);

struct Core {
    /// False: time moves only by [`Clock::advance`].
    host_driven: bool,
    /// Odd while `running` and `base` change, so readers take no lock.
    sequence: AtomicU32,
    running: AtomicBool,
    /// Running: guest time minus host time (wrapping). Stopped: guest time.
    base: AtomicU64,
    writer: Mutex<()>,
    /// A counted clock's count; `base` is added to it.
    count: OnceLock<Count>,
    counted: bool,
    timers: Mutex<BTreeMap<(u64, usize), Weak<TimerCore>>>,
    server: Mutex<Option<WeakHandle>>,
}

impl Clock {
    fn new(host_driven: bool, running: bool) -> Clock {
        Clock::make(host_driven, running, false)
    }

    fn make(host_driven: bool, running: bool, counted: bool) -> Clock {
        let base = if running { host::monotonic_ns().wrapping_neg() } else { 0 };
        Clock(Arc::new(Core {
            host_driven,
            sequence: AtomicU32::new(0),
            running: AtomicBool::new(running),
            base: AtomicU64::new(base),
            writer: Mutex::new(()),
            count: OnceLock::new(),
            counted,
            timers: Mutex::default(),
            server: Mutex::default(),
        }))
    }

    /// A guest's clock: at zero and stopped until [`Clock::start`].
    #[must_use]
    pub fn guest() -> Clock {
        Clock::new(true, false)
    }

    /// A clock that runs with the host from zero and never stops.
    #[must_use]
    pub fn host() -> Clock {
        Clock::new(true, true)
    }

    /// A clock that moves only by [`Clock::advance`]; for tests.
    #[must_use]
    pub fn manual() -> Clock {
        Clock::new(false, false)
    }

    /// A clock whose time is a count of something (executed instructions); zero until
    /// [`Clock::count_with`]. Whoever counts calls [`Clock::fire_counted`]; no loop serves its timers.
    #[must_use]
    pub fn counted() -> Clock {
        Clock::make(false, false, true)
    }

    /// Sets what a counted clock counts: the time, the steps that it is made of, and who is told when
    /// a timer is armed that is due before all others. Once only.
    pub fn count_with(
        &self,
        now: impl Fn() -> u64 + Send + Sync + 'static,
        steps: impl Fn() -> u64 + Send + Sync + 'static,
        sooner: impl Fn() + Send + Sync + 'static,
    ) {
        let (now, steps) = (Box::new(now), Box::new(steps));
        _ = self.0.count.set(Count { now, steps, sooner: Box::new(sooner) });
    }

    /// Whether the time is a count.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        self.0.counted
    }

    /// Steps (executed instructions) of a counted clock so far; 0 of others.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.0.count.get().map_or(0, |c| (c.steps)())
    }

    /// Fires what is due on a counted clock, on the caller's thread.
    pub fn fire_counted(&self) {
        if self.0.counted {
            self.fire_at(self.now_ns());
        }
    }

    /// The time in nanoseconds since the clock's start.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        let core = &*self.0;
        if core.counted {
            let counted = core.count.get().map_or(0, |c| (c.now)());
            return core.base.load(Ordering::Relaxed).wrapping_add(counted);
        }
        loop {
            let before = core.sequence.load(Ordering::Acquire);
            let running = core.running.load(Ordering::Relaxed);
            let base = core.base.load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            if before & 1 == 0 && core.sequence.load(Ordering::Relaxed) == before {
                return if running { base.wrapping_add(host::monotonic_ns()) } else { base };
            }
            std::hint::spin_loop();
        }
    }

    /// Whether time passes.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.0.running.load(Ordering::Acquire)
    }

    fn change(&self, running: bool, now: u64) {
        let core = &*self.0;
        if core.counted {
            let counted = core.count.get().map_or(0, |c| (c.now)());
            core.base.store(now.wrapping_sub(counted), Ordering::Release);
            return;
        }
        core.sequence.fetch_add(1, Ordering::AcqRel);
        core.running.store(running, Ordering::Release);
        let base = if running { now.wrapping_sub(host::monotonic_ns()) } else { now };
        core.base.store(base, Ordering::Release);
        core.sequence.fetch_add(1, Ordering::AcqRel);
    }

    /// Lets time pass (no effect on a manual clock).
    pub fn start(&self) {
        {
            let _writer = self.0.writer.lock();
            if self.0.host_driven && !self.is_running() {
                self.change(true, self.now_ns());
            }
        }
        self.wake_server();
    }

    /// Freezes time; timers do not fire until [`Clock::start`].
    pub fn stop(&self) {
        let _writer = self.0.writer.lock();
        if self.is_running() {
            self.change(false, self.now_ns());
        }
    }

    /// Sets the time, as loading saved state does.
    pub fn set_ns(&self, now: u64) {
        {
            let _writer = self.0.writer.lock();
            self.change(self.is_running(), now);
        }
        self.wake_server();
    }

    /// Moves a stopped or manual clock and fires what comes due, in order.
    pub fn advance(&self, ns: u64) {
        let goal = self.now_ns().saturating_add(ns);
        loop {
            let next = self.0.timers.lock().keys().next().map(|k| k.0);
            match next {
                Some(at) if at <= goal => {
                    self.set_ns(at.max(self.now_ns()));
                    self.fire_at(at);
                }
                _ => break,
            }
        }
        self.set_ns(goal);
    }

    /// Creates a disarmed timer that calls `f` on the serving loop.
    #[must_use]
    pub fn timer(&self, f: impl Fn() + Send + Sync + 'static) -> Timer {
        Timer::new(self.clone(), Box::new(f))
    }

    /// The earliest deadline of all timers.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.0.timers.lock().keys().next().map(|k| k.0)
    }

    pub(crate) fn served_by(&self, server: WeakHandle) {
        *self.0.server.lock() = Some(server);
    }

    fn wake_server(&self) {
        let server = self.0.server.lock().clone();
        if let Some(server) = server {
            server.wake();
        }
    }

    /// Host time until the next timer, if time passes and one is armed.
    pub(crate) fn delay(&self) -> Option<Duration> {
        if !self.is_running() {
            return None;
        }
        let at = self.next_deadline()?;
        Some(Duration::from_nanos(at.saturating_sub(self.now_ns())))
    }

    pub(crate) fn fire_due(&self) {
        if self.is_running() {
            self.fire_at(self.now_ns());
        }
    }

    fn fire_at(&self, now: u64) {
        loop {
            let due = {
                let mut timers = self.0.timers.lock();
                match timers.first_key_value() {
                    Some((key, _)) if key.0 <= now => timers.pop_first(),
                    _ => None,
                }
            };
            let Some((_, timer)) = due else { return };
            if let Some(timer) = timer.upgrade() {
                timer.fire();
            }
        }
    }

    pub(crate) fn arm(&self, at: u64, id: usize, timer: Weak<TimerCore>) {
        let first = {
            let mut timers = self.0.timers.lock();
            timers.insert((at, id), timer);
            timers.keys().next() == Some(&(at, id))
        };
        if first && let Some(count) = self.0.count.get() {
            (count.sooner)();
        } else if first {
            self.wake_server();
        }
    }

    pub(crate) fn disarm(&self, at: u64, id: usize) {
        self.0.timers.lock().remove(&(at, id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manual_clock_fires_timers_in_order_at_their_time() {
        let clock = Clock::manual();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let make = |tag: u32| {
            let (seen, clock) = (seen.clone(), clock.clone());
            let c = clock.clone();
            clock.timer(move || seen.lock().push((tag, c.now_ns())))
        };
        let (a, b) = (make(1), make(2));
        a.arm_at(200);
        b.arm_at(100);
        clock.advance(150);
        assert_eq!(*seen.lock(), [(2, 100)]);
        clock.advance(150);
        assert_eq!(*seen.lock(), [(2, 100), (1, 200)]);
        assert_eq!(clock.now_ns(), 300);
    }

    #[test]
    fn cancelled_and_dropped_timers_do_not_fire() {
        let clock = Clock::manual();
        let hit = Arc::new(AtomicBool::new(false));
        let h = hit.clone();
        let t = clock.timer(move || h.store(true, Ordering::SeqCst));
        t.arm_at(10);
        t.cancel();
        clock.advance(20);
        t.arm_at(30);
        drop(t);
        clock.advance(20);
        assert!(!hit.load(Ordering::SeqCst));
    }

    #[test]
    fn a_counted_clock_is_its_count() {
        let clock = Clock::counted();
        let (count, sooner) = (Arc::new(AtomicU64::new(7)), Arc::new(AtomicU64::new(0)));
        let (c, s) = (count.clone(), sooner.clone());
        let told = move || _ = s.fetch_add(1, Ordering::Relaxed);
        clock.count_with(move || c.load(Ordering::Relaxed), || 3, told);
        assert!(clock.is_counted() && clock.steps() == 3);
        assert_eq!(clock.now_ns(), 7);
        let fired = Arc::new(AtomicU64::new(0));
        let (f, at) = (fired.clone(), clock.clone());
        let t = clock.timer(move || f.store(at.now_ns(), Ordering::Relaxed));
        t.arm_at(100);
        assert_eq!(sooner.load(Ordering::Relaxed), 1);
        clock.start();
        clock.fire_counted();
        assert_eq!(fired.load(Ordering::Relaxed), 0);
        count.store(100, Ordering::Relaxed);
        clock.fire_counted();
        assert_eq!(fired.load(Ordering::Relaxed), 100);
        clock.set_ns(5);
        count.store(101, Ordering::Relaxed);
        assert_eq!(clock.now_ns(), 6);
    }

    #[test]
    fn stopped_guest_clock_stands_still() {
        let clock = Clock::guest();
        assert_eq!(clock.now_ns(), 0);
        clock.start();
        while clock.now_ns() == 0 {}
        clock.stop();
        let now = clock.now_ns();
        assert_eq!(clock.now_ns(), now);
        clock.set_ns(5);
        assert_eq!(clock.now_ns(), 5);
    }
}
