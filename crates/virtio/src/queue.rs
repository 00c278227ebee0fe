//! Virtqueues as devices use them: take chains, give them back, interrupt.
//!
//! Everything in the rings is hostile. Indices wrap, chains are bounded, tables
//! lie in RAM or the queue is broken: it then gives nothing until it is reset,
//! and the device says that it needs a reset (2.1.2).

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use derive::VmState;
use device::Dma;
use parking_lot::Mutex;

use crate::chain::{Chain, Descriptor, INDIRECT, MAX_DESCRIPTORS, NEXT};
use crate::feature;
use crate::irq::Irq;
use crate::mem::{self, Bad};
use crate::packed::Packed;
use crate::split::Split;

/// No MSI-X vector.
pub const NO_VECTOR: u16 = 0xffff;

/// A queue's configuration and position.
#[derive(Clone, Debug, Default, PartialEq, Eq, VmState)]
#[vmstate(name = "virtqueue", version = 1)]
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
    /// Negotiated features.
    pub(crate) features: u64,
    pub(crate) broken: bool,
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
}

/// One virtqueue.
pub struct Queue {
    max: u16,
    dma: Dma,
    irq: Arc<Irq>,
    state: Mutex<QueueState>,
}

impl Queue {
    pub(crate) fn new(max: u16, dma: Dma, irq: Arc<Irq>) -> Arc<Queue> {
        Arc::new(Queue { max, dma, irq, state: Mutex::new(QueueState::reset(max)) })
    }

    /// Most entries.
    #[must_use]
    pub fn max(&self) -> u16 {
        self.max
    }

    /// A copy of the state.
    #[must_use]
    pub fn state(&self) -> QueueState {
        self.state.lock().clone()
    }

    pub(crate) fn change<R>(&self, f: impl FnOnce(&mut QueueState) -> R) -> R {
        f(&mut self.state.lock())
    }

    pub(crate) fn reset(&self) {
        *self.state.lock() = QueueState::reset(self.max);
    }

    /// Whether the driver's settings can be used at all.
    pub(crate) fn is_sane(s: &QueueState, max: u16) -> bool {
        let packed = s.has(feature::RING_PACKED);
        s.size != 0 && s.size <= max && (packed || s.size.is_power_of_two())
    }

    fn with<R>(&self, s: &mut QueueState, result: Result<R, Bad>) -> Option<R> {
        match result {
            Ok(r) => Some(r),
            Err(Bad(why)) => {
                trace::guest_error!("virtio: {why}");
                s.broken = true;
                self.irq.needs_reset();
                None
            }
        }
    }

    /// Takes the next chain, if there is one.
    #[must_use]
    pub fn pop(&self) -> Option<Chain> {
        let mut s = self.state.lock();
        if !s.enabled || s.broken || !Queue::is_sane(&s, self.max) {
            return None;
        }
        let result = if s.has(feature::RING_PACKED) {
            Packed(&self.dma).pop(&mut s)
        } else {
            Split(&self.dma).pop(&mut s)
        };
        self.with(&mut s, result).flatten()
    }

    /// Bytes that the next chain has room for; `None` when there is no chain.
    #[must_use]
    pub fn next_room(&self) -> Option<usize> {
        let chain = self.pop()?;
        self.unpop(&chain);
        Some(chain.writable_len())
    }

    /// Puts back the chain taken last, as if it had not been taken.
    pub fn unpop(&self, chain: &Chain) {
        let mut s = self.state.lock();
        if !s.enabled {
            return; // reset meanwhile
        }
        if s.has(feature::RING_PACKED) {
            Packed::unpop(&mut s, chain.entries);
        } else {
            s.avail = s.avail.wrapping_sub(1);
        }
    }

    /// Gives a chain back with the number of bytes written into it.
    #[expect(clippy::needless_pass_by_value, reason = "a chain is given back once")]
    pub fn push(&self, chain: Chain, written: usize) {
        let mut s = self.state.lock();
        if !s.enabled || s.broken {
            return;
        }
        let written = u32::try_from(written).unwrap_or(u32::MAX);
        let result = if s.has(feature::RING_PACKED) {
            Packed(&self.dma).push(&mut s, &chain, written)
        } else {
            Split(&self.dma).push(&mut s, chain.id, written)
        };
        self.with(&mut s, result);
    }

    /// Interrupts the driver if it wants to know about what was pushed.
    pub fn signal(&self) {
        let vector = {
            let mut s = self.state.lock();
            if !s.enabled || s.broken || s.unsignalled == 0 {
                return;
            }
            fence(Ordering::SeqCst);
            let result = if s.has(feature::RING_PACKED) {
                Packed(&self.dma).wants_signal(&mut s)
            } else {
                Split(&self.dma).wants_signal(&mut s)
            };
            s.unsignalled = 0;
            s.fresh = false;
            match self.with(&mut s, result) {
                Some(true) => s.vector,
                _ => return,
            }
        };
        self.irq.queue(vector);
    }
}

/// Adds the descriptors of an indirect table (2.7.5.3, 2.8.7).
pub(crate) fn add_indirect(
    dma: &Dma,
    chain: &mut Chain,
    table: Descriptor,
    packed: bool,
) -> Result<(), Bad> {
    let count = u64::from(table.len) / 16;
    if count == 0 || !u64::from(table.len).is_multiple_of(16) {
        return Err(Bad("an indirect table has an odd length"));
    }
    let mut index = 0;
    for _ in 0..=MAX_DESCRIPTORS {
        let at = table.addr.wrapping_add(index * 16);
        let d = if packed { Descriptor::packed(dma, at)? } else { Descriptor::split(dma, at)? };
        if d.flags & INDIRECT != 0 {
            return Err(Bad("an indirect table in an indirect table"));
        }
        chain.add(d)?;
        index = if packed {
            index + 1
        } else if d.flags & NEXT != 0 {
            if u64::from(d.extra) >= count {
                return Err(Bad("an indirect table's next is beyond its end"));
            }
            d.extra.into()
        } else {
            return Ok(());
        };
        if index >= count {
            return Ok(());
        }
    }
    Err(Bad("an indirect table loops"))
}

pub(crate) fn put16(dma: &Dma, at: u64, value: u16) -> Result<(), Bad> {
    mem::store(dma, at, 2, value.into())
}
