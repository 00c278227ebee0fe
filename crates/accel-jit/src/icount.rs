//! `-icount`: the guest's time is the number of executed instructions, times 2^shift nanoseconds, plus
//! the time that was skipped or slept while nothing was to be done.
//!
//! All vCPUs share a thread. Before one runs, it is granted a budget: as far as the next timer, and no
//! further than a slice. Blocks take their instructions off `JitEnv::budget` when they are entered. Timers
//! fire on this thread, between runs, at exact counts; a timer that is armed to be the next one ends the
//! run. Nothing here reads the host's time, so a guest without input does the same in every run.
//!
//! Known inexactness: a block whose instruction faults counts as executed whole, and reads of the time
//! inside a block see its end. Both are the same in every run. Up to 63 instructions before a timer are
//! skipped over when the next block is longer.
//!
//! Not modelled: `shift=auto`, `align=on`, record and replay.
//! UNSAFE: reads the budget of the running vCPU through a pointer that `grant` sets and `settle` takes
//! back, on the one thread that runs vCPUs; other threads only look through it meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering};
use std::time::Duration;

use jit_ir::JitEnv;
use parking_lot::Mutex;

use crate::engine::Engine;

/// Instructions until the next vCPU has its turn.
const SLICE: u64 = 50_000;
/// Instructions of a block at most, beyond which a wait for the next timer is not skipped.
const BLOCK: u64 = 64;

/// The counter of a VM.
pub(crate) struct Icount {
    config: accel::Icount,
    /// Instructions of finished runs.
    done: AtomicU64,
    /// Nanoseconds that passed without instructions.
    skipped: AtomicU64,
    /// The current run: what it was granted, and where the rest is.
    granted: AtomicI32,
    left: Mutex<Option<Left>>,
    running: AtomicPtr<AtomicI32>,
}

/// What is left of the slice of the vCPU whose turn it is.
#[derive(Clone, Copy)]
struct Left(u64);

/// Lets the guest's clock count.
pub(crate) fn attach(engine: &Arc<Engine>, icount: &Arc<Icount>) {
    let (counter, engine) = (Arc::downgrade(icount), Arc::downgrade(engine));
    let now = move || counter.upgrade().map_or(0, |i| i.now());
    let sooner = move || {
        if let Some(engine) = engine.upgrade() {
            for p in &*engine.peers.lock() {
                if p.in_code.load(Ordering::SeqCst) {
                    p.kick();
                }
            }
        }
    };
    let counter = Arc::downgrade(icount);
    let steps = move || counter.upgrade().map_or(0, |i| i.executed());
    icount.config.clock.count_with(now, steps, sooner);
}

/// For the interpreter: takes a block's instructions off the budget; false = there are not as many.
pub(crate) fn take(env: &mut JitEnv, insns: u32) -> bool {
    let left = env.budget.load(Ordering::Relaxed);
    let rest = left.saturating_sub(insns as i32);
    if rest < 0 {
        env.budget_short = 1;
        return false;
    }
    env.budget.store(rest, Ordering::Relaxed);
    true
}

impl Icount {
    pub(crate) fn new(config: accel::Icount) -> Arc<Self> {
        Arc::new(Self {
            config,
            done: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            granted: AtomicI32::new(0),
            left: Mutex::new(None),
            running: AtomicPtr::default(),
        })
    }

    /// Executed instructions.
    pub(crate) fn executed(&self) -> u64 {
        let at = self.running.load(Ordering::Acquire);
        let now = if at.is_null() {
            0
        } else {
            // SAFETY: set by `grant` to the budget of a vCPU that lives as long as the VM, and taken back
            // by `settle`.
            let left = unsafe { &*at }.load(Ordering::Relaxed);
            self.granted.load(Ordering::Relaxed).saturating_sub(left).max(0)
        };
        self.done.load(Ordering::Relaxed).wrapping_add(now as u64)
    }

    fn now(&self) -> u64 {
        let insns = self.executed() << self.config.shift;
        insns.wrapping_add(self.skipped.load(Ordering::Relaxed))
    }

    /// Fires the timers that are due.
    pub(crate) fn fire(&self) {
        self.config.clock.fire_counted();
    }

    fn until_next(&self) -> Option<u64> {
        let at = self.config.clock.next_deadline()?;
        Some(at.saturating_sub(self.config.clock.now_ns()))
    }

    /// Gives the vCPU its budget.
    pub(crate) fn grant(&self, env: &mut JitEnv) {
        let short = std::mem::take(&mut env.budget_short) != 0;
        let mut slice = self.left.lock();
        let rest = slice.get_or_insert(Left(SLICE)).0;
        let shift = self.config.shift;
        let mut n = self.until_next().map_or(rest, |ns| ns.div_ceil(1 << shift).min(rest));
        if short && n < BLOCK {
            if n < rest {
                // The next block reaches beyond the timer: its time comes now.
                self.skipped.fetch_add(n << shift, Ordering::Relaxed);
                drop(slice);
                self.fire();
                env.kick();
                n = 0;
            } else {
                // The end of the slice: it may be a little longer.
                n = BLOCK;
            }
        }
        self.begin(env, n);
    }

    /// For a debugger's step.
    pub(crate) fn grant_one(&self, env: &mut JitEnv) {
        self.begin(env, 1);
    }

    fn begin(&self, env: &mut JitEnv, n: u64) {
        let n = i32::try_from(n).unwrap_or(i32::MAX);
        env.budget.store(n, Ordering::Relaxed);
        self.granted.store(n, Ordering::Relaxed);
        self.running.store(&raw mut env.budget, Ordering::Release);
    }

    /// The vCPU came back; whether its slice is over.
    pub(crate) fn settle(&self, env: &mut JitEnv) -> bool {
        let used = self.granted.load(Ordering::Relaxed) - env.budget.load(Ordering::Relaxed);
        let used = u64::try_from(used).unwrap_or(0);
        self.running.store(std::ptr::null_mut(), Ordering::Release);
        self.done.fetch_add(used, Ordering::Relaxed);
        let mut slice = self.left.lock();
        let rest = slice.map_or(SLICE, |l| l.0).saturating_sub(used);
        *slice = (rest >= BLOCK).then_some(Left(rest));
        rest < BLOCK
    }
}

impl accel::Pace for Icount {
    fn idle(&self) -> Option<Duration> {
        *self.left.lock() = None;
        let ns = self.until_next()?;
        if self.config.sleep {
            return Some(Duration::from_nanos(ns));
        }
        self.skipped.fetch_add(ns, Ordering::Relaxed);
        self.fire();
        Some(Duration::ZERO)
    }

    fn idled(&self, waited: Duration, full: bool) {
        if self.config.sleep {
            let ns = self.until_next().unwrap_or(0);
            let waited = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
            self.skipped.fetch_add(if full { ns } else { ns.min(waited) }, Ordering::Relaxed);
        }
        self.fire();
    }
}
