//! Virtqueues as devices use them: take chains, give them back, interrupt.
//!
//! Everything in the rings is hostile. Indices wrap, chains are bounded, rings and
//! buffers lie in RAM or the device is broken: it then takes nothing until it is
//! reset, and says that it needs a reset (2.1.2). Each queue has one lock, taken for
//! one call and never while a device or an interrupt controller runs, so queues may
//! be used from any threads at once. A reset ends an epoch: what was taken before it
//! is never put into the rings that come after it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use derive::VmState;
use device::{Dma, DmaView};
use parking_lot::{Condvar, Mutex};

use crate::chain::{Buffers, Chain};
use crate::feature;
use crate::irq::Irq;
use crate::mem::Bad;
use crate::{packed, split};

/// Most entries that a driver can give any queue, as at the peer.
pub const MAX_SIZE: u16 = 1024;

/// No MSI-X vector.
pub const NO_VECTOR: u16 = 0xffff;

/// A queue's configuration and position.
#[derive(Clone, Debug, Default, PartialEq, Eq, VmState)]
#[vmstate(name = "virtqueue", version = 3, min_version = 3)]
pub struct QueueState {
    /// Entries.
    pub size: u16,
    /// The driver switched it on.
    pub enabled: bool,
    /// Descriptor area.
    pub desc: u64,
    /// Driver area.
    pub driver: u64,
    /// Device area.
    pub device: u64,
    /// MSI-X vector.
    pub vector: u16,
    /// Next entry to take.
    pub(crate) avail: u16,
    /// Next entry to give back.
    pub(crate) used: u16,
    /// Wrap counter of `avail` (packed).
    pub(crate) avail_wrap: bool,
    /// Wrap counter of `used` (packed).
    pub(crate) used_wrap: bool,
    /// Entries given back since the last look at whether to interrupt.
    pub(crate) unsignalled: u16,
    /// Nothing was ever signalled, so that the first time always is.
    pub(crate) fresh: bool,
    /// The driver is asked not to notify.
    pub(crate) quiet: bool,
    /// Negotiated features.
    pub(crate) features: u64,
    /// Chains that are with the device; only in saved states.
    #[vmstate(max = 1024)]
    chains: Vec<SavedChain>,
}

/// A chain that is with the device, as it is saved: rings may hold it no more.
#[derive(Clone, Debug, Default, PartialEq, Eq, VmState)]
#[vmstate(name = "virtqueue-chain", version = 1)]
struct SavedChain {
    id: u16,
    entries: u16,
    written: Option<u32>,
    /// Address, length, and whether the device writes.
    #[vmstate(max = 1024)]
    buffers: Vec<(u64, u32, bool)>,
}

impl QueueState {
    /// The state after a reset.
    #[must_use]
    pub fn reset(max: u16) -> QueueState {
        QueueState {
            size: max,
            vector: NO_VECTOR,
            avail_wrap: true,
            used_wrap: true,
            fresh: true,
            ..QueueState::default()
        }
    }

    pub(crate) fn has(&self, bit: u64) -> bool {
        self.features & bit != 0
    }

    pub(crate) fn is_packed(&self) -> bool {
        self.has(feature::RING_PACKED)
    }

    /// Whether the driver's settings can be used at all.
    pub(crate) fn is_sane(&self) -> bool {
        // 2.7: the size of a split ring is a power of two.
        self.size != 0 && self.size <= MAX_SIZE && (self.is_packed() || self.size.is_power_of_two())
    }

    /// Whether loaded positions make sense together.
    pub(crate) fn is_consistent(&self) -> bool {
        if self.chains.len() > usize::from(self.size) {
            return false;
        }
        if self.is_packed() {
            return self.avail < self.size.max(1) && self.used < self.size.max(1);
        }
        self.avail.wrapping_sub(self.used) <= self.size
    }
}

/// A chain that is with the device, in the order of taking.
struct Taken {
    ticket: u64,
    /// With [`feature::IN_ORDER`]: given back, but not its turn yet.
    written: Option<u32>,
    id: u16,
    entries: u16,
    buffers: Vec<(u64, u32, bool)>,
    /// It was loaded, and the device does not know of it yet.
    loaded: bool,
}

struct Inner {
    state: QueueState,
    view: DmaView,
    /// Grows with every reset; chains of older epochs are void.
    epoch: u64,
    next_ticket: u64,
    taken: VecDeque<Taken>,
    paused: bool,
}

/// Puts entries into the ring and shows them to the driver together.
fn give(view: &mut DmaView, state: &mut QueueState, due: &[Taken]) -> Result<(), Bad> {
    let mut shown = Vec::new();
    for Taken { id, entries, written, .. } in due {
        let written = written.unwrap_or(0);
        if state.is_packed() {
            shown.push(packed::push(view, state, (*id, *entries), written)?);
        } else {
            split::push(view, state, *id, written)?;
        }
    }
    if state.is_packed() { packed::publish(view, &shown) } else { split::publish(view, state) }
}

/// One virtqueue.
pub struct Queue {
    max: u16,
    irq: Arc<Irq>,
    inner: Mutex<Inner>,
    /// A chain came back or was dropped.
    returned: Condvar,
}

impl Queue {
    pub(crate) fn new(max: u16, dma: &Dma, irq: Arc<Irq>) -> Arc<Queue> {
        let inner = Inner {
            state: QueueState::reset(max),
            view: dma.view(),
            epoch: 0,
            next_ticket: 0,
            taken: VecDeque::new(),
            paused: false,
        };
        Arc::new(Queue { max, irq, inner: Mutex::new(inner), returned: Condvar::new() })
    }

    /// Entries after a reset.
    #[must_use]
    pub fn max(&self) -> u16 {
        self.max
    }

    /// A copy of the state.
    #[must_use]
    pub fn state(&self) -> QueueState {
        self.inner.lock().state.clone()
    }

    pub(crate) fn change<R>(&self, f: impl FnOnce(&mut QueueState) -> R) -> R {
        f(&mut self.inner.lock().state)
    }

    /// Replaces the state, as loading does.
    pub(crate) fn replace(&self, mut state: QueueState) {
        self.close();
        let mut inner = self.inner.lock();
        for SavedChain { id, entries, written, buffers } in std::mem::take(&mut state.chains) {
            let ticket = inner.next_ticket;
            inner.next_ticket += 1;
            inner.taken.push_back(Taken { ticket, written, id, entries, buffers, loaded: true });
        }
        inner.state = state;
    }

    /// The state with the chains that are with the device.
    pub(crate) fn saved(&self) -> QueueState {
        let inner = self.inner.lock();
        let chains = inner.taken.iter().map(|taken| SavedChain {
            id: taken.id,
            entries: taken.entries,
            written: taken.written,
            buffers: taken.buffers.clone(),
        });
        QueueState { chains: chains.collect(), ..inner.state.clone() }
    }

    /// The chains that were with the device when the loaded state was saved, once.
    pub(crate) fn restored(self: &Arc<Self>) -> Vec<Chain> {
        let mut inner = self.inner.lock();
        let Inner { view, epoch, taken, .. } = &mut *inner;
        let mut all = Vec::new();
        for entry in taken.iter_mut().filter(|entry| entry.loaded && entry.written.is_none()) {
            entry.loaded = false;
            let made = Buffers::listed(view, (entry.id, entry.entries), &entry.buffers);
            let Some(buffers) = self.checked(made) else { break };
            all.push(Chain::new(buffers, self.clone(), *epoch, entry.ticket));
        }
        all
    }

    /// Switches the queue off and ends the epoch: from now on nothing is taken from the rings
    /// and nothing put into them. The settings stay.
    pub(crate) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.state.enabled = false;
        inner.epoch += 1;
        inner.taken.clear();
        self.returned.notify_all();
    }

    pub(crate) fn reset(&self) {
        self.close();
        self.inner.lock().state = QueueState::reset(self.max);
    }

    /// The next entry to take, for who serves the rings elsewhere.
    #[must_use]
    pub fn position(&self) -> u16 {
        self.inner.lock().state.avail
    }

    /// Goes on from an entry behind which everything was given back.
    pub fn set_position(&self, position: u16) {
        let mut inner = self.inner.lock();
        (inner.state.avail, inner.state.used) = (position, position);
    }

    /// Where the split ring's device area says that all before was given back.
    #[must_use]
    pub fn finished(&self) -> u16 {
        let mut inner = self.inner.lock();
        let Inner { state, view, .. } = &mut *inner;
        // 2.7.8: the index is behind the flags.
        let range = view.ram_at(state.device.wrapping_add(2));
        let mut bytes = [0; 2];
        let read = range.and_then(|range| range.block.read(range.offset, &mut bytes).ok());
        read.map_or(state.used, |()| u16::from_le_bytes(bytes))
    }

    /// Interrupts the driver, who was asked before. Call it without locks.
    pub fn interrupt(&self) {
        let vector = {
            let inner = self.inner.lock();
            inner.state.enabled.then_some(inner.state.vector)
        };
        if let Some(vector) = vector {
            self.irq.queue(vector);
        }
    }

    /// While paused, nothing is taken.
    pub(crate) fn set_paused(&self, on: bool) {
        self.inner.lock().paused = on;
    }

    /// Chains that are with the device.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.inner.lock().taken.len()
    }

    /// Waits until no chain of the present epoch is with the device. For devices that work on
    /// threads of their own, from [`crate::VirtioDevice::stop_queue`] or when they are paused;
    /// the calling thread must not be the one that gives chains back.
    pub fn wait_idle(&self) {
        let mut inner = self.inner.lock();
        while !inner.taken.is_empty() {
            self.returned.wait(&mut inner);
        }
    }

    fn checked<R>(&self, result: Result<R, Bad>) -> Option<R> {
        result.map_err(|Bad(why)| self.irq.needs_reset(why)).ok()
    }

    /// Takes the next chain, if there is one.
    #[must_use]
    pub fn pop(self: &Arc<Self>) -> Option<Chain> {
        let mut inner = self.inner.lock();
        let Inner { state, view, epoch, next_ticket, taken, paused } = &mut *inner;
        if !state.enabled || *paused || !self.irq.is_usable() || !state.is_sane() {
            return None;
        }
        let result = if state.is_packed() {
            packed::pop(view, state)
        } else if taken.len() >= usize::from(state.size) {
            Err(Bad("more chains are taken than the queue has entries"))
        } else {
            split::pop(view, state)
        };
        let mut buffers = self.checked(result).flatten()?;
        let (id, entries) = (buffers.id, buffers.entries);
        let listed = std::mem::take(&mut buffers.listed);
        taken.push_back(Taken {
            ticket: *next_ticket,
            written: None,
            id,
            entries,
            buffers: listed,
            loaded: false,
        });
        let chain = Chain::new(buffers, self.clone(), *epoch, *next_ticket);
        *next_ticket += 1;
        Some(chain)
    }

    /// Whether [`Queue::pop`] has nothing to take.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let mut inner = self.inner.lock();
        let Inner { state, view, .. } = &mut *inner;
        if !state.enabled || !self.irq.is_usable() || !state.is_sane() {
            return true;
        }
        let found = if state.is_packed() {
            packed::is_empty(view, state)
        } else {
            split::is_empty(view, state)
        };
        self.checked(found).unwrap_or(true)
    }

    /// Bytes that the next chain has room for; `None` when there is no chain.
    #[must_use]
    pub fn next_room(self: &Arc<Self>) -> Option<usize> {
        let chain = self.pop()?;
        let room = chain.writable_len();
        self.unpop(chain);
        Some(room)
    }

    /// Puts back the chain taken last, as if it had not been taken.
    pub fn unpop(&self, mut chain: Chain) {
        let mut inner = self.inner.lock();
        let Inner { state, epoch, taken, .. } = &mut *inner;
        let is_last = taken.back().is_some_and(|t| t.ticket == chain.ticket);
        if chain.epoch == *epoch && is_last {
            taken.pop_back();
            if state.is_packed() {
                packed::unpop(state, chain.entries());
            } else {
                state.avail = state.avail.wrapping_sub(1);
            }
        }
        chain.settle();
        self.returned.notify_all();
    }

    /// Gives a chain back with the number of bytes written into it. A chain that was taken
    /// before a reset is forgotten.
    pub fn push(&self, chain: Chain, written: usize) {
        self.push_all([(chain, written)]);
    }

    /// As [`Queue::push`] for several chains, which the driver sees all at once: for what is
    /// spread over more than one.
    pub fn push_all(&self, chains: impl IntoIterator<Item = (Chain, usize)>) {
        let mut inner = self.inner.lock();
        let mut due = Vec::new();
        for (mut chain, written) in chains {
            chain.settle();
            let Inner { state, epoch, taken, .. } = &mut *inner;
            if chain.epoch != *epoch || !state.enabled || !self.irq.is_usable() {
                continue;
            }
            let written = u32::try_from(written).unwrap_or(u32::MAX);
            let Some(at) = taken.iter().position(|t| t.ticket == chain.ticket) else { continue };
            if state.has(feature::IN_ORDER) {
                if let Some(entry) = taken.get_mut(at) {
                    entry.written = Some(written);
                }
                while taken.front().is_some_and(|t| t.written.is_some()) {
                    due.extend(taken.pop_front());
                }
            } else if let Some(entry) = taken.remove(at) {
                due.push(Taken { written: Some(written), ..entry });
            }
        }
        let Inner { state, view, .. } = &mut *inner;
        if !due.is_empty() {
            self.checked(give(view, state, &due));
        }
        self.returned.notify_all();
    }

    /// A chain was dropped without being given back: the driver never sees it again.
    pub(crate) fn forget(&self, epoch: u64, ticket: u64) {
        let mut inner = self.inner.lock();
        if inner.epoch == epoch {
            inner.taken.retain(|t| t.ticket != ticket);
        }
        self.returned.notify_all();
    }

    /// Asks the driver to notify or not to (2.7.10, 2.8.10.1), for instance while the device
    /// polls. After switching it on look again: `true` says that there is something to take.
    pub fn set_notification(&self, on: bool) -> bool {
        let mut inner = self.inner.lock();
        let Inner { state, view, .. } = &mut *inner;
        if !state.enabled || !self.irq.is_usable() || !state.is_sane() {
            return false;
        }
        state.quiet = !on;
        let armed =
            if state.is_packed() { packed::arm(view, state) } else { split::arm(view, state) };
        fence(Ordering::SeqCst);
        let empty = |view, state: &mut QueueState| {
            if state.is_packed() {
                packed::is_empty(view, state)
            } else {
                split::is_empty(view, state)
            }
        };
        let result = armed.and_then(|()| empty(view, state));
        on && self.checked(result).is_some_and(|empty| !empty)
    }

    /// Interrupts the driver if it wants to know about what was pushed. Call it without locks:
    /// the driver decides which device an interrupt message reaches.
    pub fn signal(&self) {
        if let Some(vector) = self.due() {
            self.irq.queue(vector);
        }
        self.irq.tell_broken();
    }

    /// The vector to interrupt with, if the driver is to be interrupted.
    fn due(&self) -> Option<u16> {
        let mut inner = self.inner.lock();
        let Inner { state, view, taken, .. } = &mut *inner;
        if !state.enabled || !self.irq.is_usable() || state.unsignalled == 0 {
            return None;
        }
        fence(Ordering::SeqCst);
        let result = if state.is_packed() {
            packed::wants_signal(view, state)
        } else {
            split::wants_signal(view, state, taken.is_empty())
        };
        state.unsignalled = 0;
        state.fresh = false;
        self.checked(result)?.then_some(state.vector)
    }
}
