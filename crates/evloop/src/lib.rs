//! Event loop, clocks and timers.
//!
//! [`EventLoop`] belongs to one thread (the main loop or an I/O thread) and runs
//! three kinds of work: watchers of descriptors, timers that came due, and calls
//! posted by other threads through a [`Handle`]. [`Clock`] is the only source of
//! time for devices: the guest's clock, which stops with the machine, or one set
//! by hand in tests. Besides `accel`, this is the only crate that starts threads
//! ([`spawn`]). It is not an async runtime, and knows nothing of devices.
//! The design is our own.

mod clock;
mod timer;
mod watch;

use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use host::{Interest, Poller};
use parking_lot::Mutex;

pub use clock::Clock;
pub use host::Interest as Readiness;
pub use timer::Timer;
pub use watch::Watch;

/// A call posted to a loop.
pub type Call = Box<dyn FnOnce() + Send>;
type Callback = Arc<Mutex<Box<dyn FnMut(Interest) + Send>>>;

/// What every handle of one loop shares.
pub(crate) struct Shared {
    pub(crate) poller: Poller,
    calls: Mutex<VecDeque<Call>>,
    watchers: Mutex<HashMap<usize, Callback>>,
    clocks: Mutex<Vec<Clock>>,
    next_key: AtomicUsize,
    quit: AtomicBool,
    sleeping: AtomicBool,
}

/// A way to reach a loop from any thread.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

/// As [`Handle`], but does not keep the loop's shared part alive.
#[derive(Clone)]
pub(crate) struct WeakHandle(Weak<Shared>);

impl WeakHandle {
    pub(crate) fn wake(&self) {
        if let Some(shared) = self.0.upgrade() {
            Handle(shared).wake();
        }
    }
}

impl Handle {
    /// Runs `f` on the loop's thread, soon, after all calls posted before.
    pub fn call(&self, f: Call) {
        self.0.calls.lock().push_back(f);
        self.wake();
    }

    /// Makes the loop go round once, for instance to see a changed deadline.
    pub fn wake(&self) {
        if self.0.sleeping.swap(false, Ordering::SeqCst) {
            self.0.poller.notify();
        }
    }

    /// Makes [`EventLoop::run`] return.
    pub fn quit(&self) {
        self.0.quit.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Calls `f` on the loop's thread whenever `fd` is ready, until the returned
    /// guard is dropped.
    pub fn watch(
        &self,
        fd: Arc<dyn std::os::fd::AsFd + Send + Sync>,
        interest: Interest,
        f: impl FnMut(Interest) + Send + 'static,
    ) -> io::Result<Watch> {
        let key = self.0.next_key.fetch_add(1, Ordering::Relaxed);
        self.0.watchers.lock().insert(key, Arc::new(Mutex::new(Box::new(f))));
        match self.0.poller.add(key, fd, interest) {
            Ok(()) => Ok(Watch::new(self.clone(), key)),
            Err(e) => {
                self.0.watchers.lock().remove(&key);
                Err(e)
            }
        }
    }

    /// Lets this loop fire the timers of `clock`.
    pub fn serve_clock(&self, clock: &Clock) {
        clock.served_by(WeakHandle(Arc::downgrade(&self.0)));
        self.0.clocks.lock().push(clock.clone());
        self.wake();
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.0
    }

    pub(crate) fn forget(&self, key: usize) {
        self.0.poller.delete(key);
        self.0.watchers.lock().remove(&key);
    }
}

/// A loop; the thread that runs it owns it.
pub struct EventLoop {
    handle: Handle,
}

impl EventLoop {
    /// Creates a loop with nothing to do.
    pub fn new() -> io::Result<EventLoop> {
        Ok(EventLoop {
            handle: Handle(Arc::new(Shared {
                poller: Poller::new()?,
                calls: Mutex::default(),
                watchers: Mutex::default(),
                clocks: Mutex::default(),
                next_key: AtomicUsize::new(0),
                quit: AtomicBool::new(false),
                sleeping: AtomicBool::new(false),
            })),
        })
    }

    /// A handle for this and other threads.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until [`Handle::quit`].
    pub fn run(&mut self) -> io::Result<()> {
        while !self.handle.0.quit.load(Ordering::SeqCst) {
            self.run_once(None)?;
        }
        self.handle.0.quit.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// As [`EventLoop::run`], but looks for work a while before it sleeps.
    pub fn run_polling(&mut self, how: Polling) -> io::Result<()> {
        let mut spin = 0;
        while !self.handle.0.quit.load(Ordering::SeqCst) {
            let start = host::monotonic_ns();
            let mut busy = false;
            while !busy && host::monotonic_ns().saturating_sub(start) < spin {
                busy = self.round(Some(Duration::ZERO))?;
                if self.handle.0.quit.load(Ordering::SeqCst) {
                    break;
                }
            }
            if !busy && !self.handle.0.quit.load(Ordering::SeqCst) {
                self.round(None)?;
            }
            spin = how.next(spin, host::monotonic_ns().saturating_sub(start));
        }
        self.handle.0.quit.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Waits at most `limit` for something to do, does it and returns.
    pub fn run_once(&mut self, limit: Option<Duration>) -> io::Result<()> {
        self.round(limit).map(|_| ())
    }

    /// One round; whether there was anything to do.
    fn round(&mut self, limit: Option<Duration>) -> io::Result<bool> {
        let shared = Arc::clone(&self.handle.0);
        shared.sleeping.store(true, Ordering::SeqCst);
        let busy = !shared.calls.lock().is_empty() || shared.quit.load(Ordering::SeqCst);
        let delay = if busy { Some(Duration::ZERO) } else { shared.delay(limit) };
        let events = shared.poller.wait(delay);
        shared.sleeping.store(false, Ordering::SeqCst);
        let events = events?;
        let mut found = !events.is_empty() || busy;
        for event in events {
            let callback = shared.watchers.lock().get(&event.key).cloned();
            if let Some(callback) = callback
                && let Some(mut f) = callback.try_lock()
            {
                f(event.ready);
            }
        }
        shared.fire_timers();
        found |= shared.run_calls();
        Ok(found)
    }
}

/// How long [`EventLoop::run_polling`] looks for work before it sleeps. The time adapts: it grows
/// when work came soon after falling asleep, and shrinks when polling was in vain.
#[derive(Clone, Copy, Debug, Default)]
pub struct Polling {
    /// Longest time in nanoseconds; 0: no polling.
    pub max_ns: u64,
    /// Factor of growth; 0: two.
    pub grow: u64,
    /// Divisor of shrinking; 0: to nothing at once.
    pub shrink: u64,
}

impl Polling {
    /// The first time that is tried.
    const FIRST_NS: u64 = 4000;

    fn next(self, spin: u64, waited: u64) -> u64 {
        if waited > self.max_ns {
            return spin.checked_div(self.shrink).unwrap_or(0);
        }
        if waited <= spin {
            return spin;
        }
        let factor = if self.grow == 0 { 2 } else { self.grow };
        let grown = if spin == 0 { Polling::FIRST_NS } else { spin.saturating_mul(factor) };
        grown.min(self.max_ns)
    }
}

impl Shared {
    /// How long the loop may sleep: the nearest deadline of all clocks.
    fn delay(&self, limit: Option<Duration>) -> Option<Duration> {
        let mut nearest: BinaryHeap<std::cmp::Reverse<Duration>> =
            limit.map(std::cmp::Reverse).into_iter().collect();
        for clock in self.clocks.lock().iter() {
            nearest.extend(clock.delay().map(std::cmp::Reverse));
        }
        nearest.pop().map(|r| r.0)
    }

    fn fire_timers(&self) {
        let clocks = self.clocks.lock().clone();
        for clock in clocks {
            clock.fire_due();
        }
    }

    fn run_calls(&self) -> bool {
        // Only what is there now: calls that post calls must not starve the rest.
        let count = self.calls.lock().len();
        for _ in 0..count {
            let Some(f) = self.calls.lock().pop_front() else { break };
            f();
        }
        count > 0
    }
}

/// Runs functions in threads of their own and waits for all; results in order.
pub fn scoped<T: Send, F: FnOnce() -> T + Send>(
    name: &str,
    calls: impl Iterator<Item = F>,
) -> Vec<T> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = calls
            .map(|call| {
                let builder = std::thread::Builder::new().name(name.to_owned());
                let call = Arc::new(Mutex::new(Some(call)));
                let run = call.clone();
                let started = builder.spawn_scoped(scope, move || run.lock().take().map(|f| f()));
                (started, call)
            })
            .collect();
        // Where no thread could be started, the call is made here.
        let done = threads.into_iter().filter_map(|(thread, call)| match thread {
            Ok(thread) => thread.join().ok().flatten(),
            Err(_) => call.lock().take().map(|f| f()),
        });
        done.collect()
    })
}

/// Starts a named thread. Nothing but this and `accel` may start any.
pub fn spawn<T: Send + 'static>(
    name: &str,
    f: impl FnOnce() -> T + Send + 'static,
) -> io::Result<std::thread::JoinHandle<T>> {
    #[expect(clippy::disallowed_methods, reason = "this is the place that starts threads")]
    std::thread::Builder::new().name(name.to_owned()).spawn(f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn calls_from_other_threads_run_in_order_on_the_loop() {
        let mut l = EventLoop::new().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (h, s) = (l.handle(), seen.clone());
        let t = spawn("poster", move || {
            for i in 0..10 {
                let s = s.clone();
                h.call(Box::new(move || s.lock().push(i)));
            }
            let h2 = h.clone();
            h.call(Box::new(move || h2.quit()));
        })
        .unwrap();
        l.run().unwrap();
        t.join().unwrap();
        assert_eq!(*seen.lock(), (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn readable_descriptor_calls_its_watcher_until_dropped() {
        let mut l = EventLoop::new().unwrap();
        let event = Arc::new(host::EventFd::new().unwrap());
        let count = Arc::new(AtomicU32::new(0));
        let (e, c) = (event.clone(), count.clone());
        let watch = l
            .handle()
            .watch(event.clone(), Interest::READ, move |_| {
                e.clear();
                c.fetch_add(1, Ordering::SeqCst);
            })
            .unwrap();
        event.signal();
        l.run_once(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 1);
        drop(watch);
        event.signal();
        l.run_once(Some(Duration::from_millis(1))).unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn host_timer_fires_on_the_loop() {
        let mut l = EventLoop::new().unwrap();
        let clock = Clock::guest();
        l.handle().serve_clock(&clock);
        clock.start();
        let h = l.handle();
        let timer = clock.timer(move || h.quit());
        timer.arm_at(clock.now_ns() + 2_000_000);
        l.run().unwrap();
        assert!(clock.now_ns() >= 2_000_000);
        assert_eq!(timer.deadline(), None);
    }
}
