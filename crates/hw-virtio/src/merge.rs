//! Neighbouring reads or writes of one queue become one request of the block layer.
//!
//! What a run over the queue takes is collected as long as it goes in one direction; then it is
//! sorted by its place, and what begins where the one before ends goes with it. The parts end
//! together, with one result. Not here: overlapping ones, which stay as they are.
//! Source: QEMU's `request-merging`, `rd_merged` and `wr_merged` of `query-blockstats`.

use block::Op;
use guest_ram::RamSlice;
use virtio::Chain;

/// Most requests that are collected.
const MOST: usize = 32;
/// Most bytes of one request of the block layer.
const LONGEST: u64 = 32 << 20;

/// A read or write of the guest.
pub(crate) struct Transfer {
    pub(crate) op: Op,
    pub(crate) at: u64,
    pub(crate) len: u64,
    pub(crate) memory: Vec<RamSlice>,
    /// The guest's chain and how much room it has before the status.
    pub(crate) chain: (Chain, usize),
}

/// One request of the block layer.
pub(crate) struct Joined {
    pub(crate) op: Op,
    pub(crate) at: u64,
    pub(crate) len: u64,
    pub(crate) memory: Vec<RamSlice>,
    pub(crate) chains: Vec<(Chain, usize)>,
}

/// What was collected.
#[derive(Default)]
pub(crate) struct Batch(Vec<Transfer>);

impl Batch {
    /// Adds a transfer; what was collected before, if this one cannot be together with it.
    pub(crate) fn add(&mut self, transfer: Transfer) -> Vec<Joined> {
        let other = self.0.first().is_some_and(|first| first.op != transfer.op);
        let before = if other || self.0.len() >= MOST { self.take(true) } else { Vec::new() };
        self.0.push(transfer);
        before
    }

    /// All that was collected; with `merge` neighbours are one.
    pub(crate) fn take(&mut self, merge: bool) -> Vec<Joined> {
        let mut all = std::mem::take(&mut self.0);
        if merge {
            all.sort_by_key(|transfer| transfer.at);
        }
        let mut out: Vec<Joined> = Vec::with_capacity(all.len());
        for Transfer { op, at, len, memory, chain } in all {
            match out.last_mut() {
                Some(last)
                    if merge
                        && last.at.checked_add(last.len) == Some(at)
                        && last.len.saturating_add(len) <= LONGEST
                        && last.memory.len() + memory.len() <= host::MAX_SLICES =>
                {
                    last.len += len;
                    last.memory.extend(memory);
                    last.chains.push(chain);
                }
                _ => out.push(Joined { op, at, len, memory, chains: vec![chain] }),
            }
        }
        out
    }
}
