//! Stopping all vCPUs for a moment, and messages between them.
//!
//! A vCPU says `in_code` before it runs generated code and takes it back afterwards. Whoever wants
//! the world to stand still sets `wanted`, kicks everybody and waits until nobody is inside; vCPUs
//! that want in wait meanwhile. Broadcast TLB maintenance goes to the others' inboxes, which they
//! empty whenever they are outside; DSB waits until they have ([`Peer::wait_for`]).
//!
//! UNSAFE: none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use jit_ir::TlbFlush;
use parking_lot::{Condvar, Mutex};

use crate::l1::SharedL1;

/// A message to another vCPU.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Message {
    /// Forget translations.
    Flush(TlbFlush),
    /// Translated code was invalidated: predicted returns are void.
    CodeChanged,
    /// A generation of code was dropped: code TLBs are void too.
    CodeGone,
    /// The debugger's points changed.
    PointsChanged,
}

/// What other threads see of a vCPU.
pub(crate) struct Peer {
    /// Runs, or is about to run, generated code.
    pub(crate) in_code: AtomicBool,
    /// Messages to handle before the next entry.
    pub(crate) inbox: Mutex<Vec<Message>>,
    /// Number of messages waiting.
    pub(crate) waiting: AtomicUsize,
    /// First-level TLB.
    pub(crate) l1: Arc<SharedL1>,
    /// Waits at a DSB: no access is under way, and messages are handled before the next one.
    quiet: AtomicBool,
    /// Those that sleep until messages are handled.
    sleepers: AtomicUsize,
    handled: (Mutex<()>, Condvar),
    /// How often generated code was left.
    pub(crate) rounds: AtomicU64,
    /// Look-ups that generated code asked for, and those that found a block; written by the vCPU alone.
    pub(crate) lookups: AtomicU64,
    pub(crate) hits: AtomicU64,
    /// Accesses that the runtime made, fills of the first-level TLB, walks, and TLB maintenance, likewise.
    pub(crate) slow: AtomicU64,
    pub(crate) fills: AtomicU64,
    pub(crate) walks: AtomicU64,
    pub(crate) flushes: AtomicU64,
    /// `JitEnv::request` of the CPU; null when the vCPU is gone.
    request: AtomicPtr<std::sync::atomic::AtomicI32>,
}

impl Peer {
    pub(crate) fn new(l1: Arc<SharedL1>) -> Arc<Self> {
        Arc::new(Self {
            in_code: AtomicBool::new(false),
            inbox: Mutex::default(),
            waiting: AtomicUsize::new(0),
            l1,
            quiet: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            handled: Default::default(),
            rounds: AtomicU64::new(0),
            lookups: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            slow: AtomicU64::new(0),
            fills: AtomicU64::new(0),
            walks: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            request: AtomicPtr::default(),
        })
    }

    /// Sets where a kick is to be written.
    pub(crate) fn set_request(&self, at: *mut std::sync::atomic::AtomicI32) {
        self.request.store(at, Ordering::Release);
    }

    /// Makes the vCPU leave generated code soon.
    pub(crate) fn kick(&self) {
        let at = self.request.load(Ordering::Acquire);
        if !at.is_null() {
            // SAFETY: points into the CPU object of a vCPU, which `JitVcpu::drop` unregisters under
            // no concurrent kicks: peers and kickers are only used while the VM lives.
            unsafe { &*at }.store(-1, Ordering::Release);
        }
    }

    /// Adds one to a number that only this vCPU's thread writes.
    pub(crate) fn count(&self, number: &AtomicU64) {
        number.store(number.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    pub(crate) fn post(&self, m: Message) {
        let mut inbox = self.inbox.lock();
        inbox.push(m);
        self.waiting.store(inbox.len(), Ordering::SeqCst);
        drop(inbox);
        self.kick();
    }

    /// No access of this vCPU uses what its messages tell it to forget.
    fn is_done(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0
            || !self.in_code.load(Ordering::SeqCst)
            || self.quiet.load(Ordering::SeqCst)
    }

    /// To be called after each change that makes [`Self::is_done`] true.
    pub(crate) fn done(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(self.handled.0.lock());
            self.handled.1.notify_all();
        }
    }

    /// Sleeps until this vCPU has handled what was posted: it may have no processor to run on, and
    /// asking again and again would keep it from one.
    fn wait_until_done(&self) {
        for _ in 0..SPINS {
            if self.is_done() {
                return;
            }
            std::hint::spin_loop();
        }
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let mut guard = self.handled.0.lock();
        while !self.is_done() {
            self.handled.1.wait(&mut guard);
        }
        drop(guard);
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Waits until the others have handled what was posted to them. This vCPU counts as done meanwhile, so
    /// two that wait for each other go on; the caller handles its messages afterwards.
    pub(crate) fn wait_for(&self, peers: &[Arc<Self>]) {
        self.quiet.store(true, Ordering::SeqCst);
        self.done();
        for p in peers.iter().filter(|p| !std::ptr::eq(&***p, self)) {
            p.wait_until_done();
        }
        self.quiet.store(false, Ordering::SeqCst);
    }
}

/// Looks before sleeping: about what a vCPU that runs needs to come to its next test for requests.
const SPINS: u32 = 200;

/// The stop-the-world lock.
#[derive(Default)]
pub(crate) struct World {
    wanted: AtomicBool,
    turn: Mutex<()>,
}

impl World {
    /// Waits for permission to enter generated code.
    pub(crate) fn enter(&self, me: &Peer) {
        loop {
            me.in_code.store(true, Ordering::SeqCst);
            if !self.wanted.load(Ordering::SeqCst) {
                return;
            }
            me.in_code.store(false, Ordering::SeqCst);
            me.done();
            drop(self.turn.lock());
        }
    }

    /// Generated code was left.
    pub(crate) fn leave(&self, me: &Peer) {
        me.rounds.fetch_add(1, Ordering::SeqCst);
        me.in_code.store(false, Ordering::SeqCst);
        me.done();
    }

    /// Runs `f` while no vCPU is in generated code. The caller must not be inside.
    pub(crate) fn exclusive<T>(&self, peers: &[Arc<Peer>], f: impl FnOnce() -> T) -> T {
        let _turn = self.turn.lock();
        self.wanted.store(true, Ordering::SeqCst);
        for p in peers {
            p.kick();
            while p.in_code.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        }
        let r = f();
        self.wanted.store(false, Ordering::SeqCst);
        r
    }
}
