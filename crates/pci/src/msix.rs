//! MSI-X (PCI 3.0, section 6.8.2): the table and the messages.

use std::sync::{Arc, OnceLock};

use derive::VmState;
use device::{Access, AddressSpace, BusFault, Front, Mmio, Size, TxAttrs};
use parking_lot::Mutex;

use crate::Function;
use crate::bus::Requester;

const ENTRY: usize = 16;
const MASKED: u32 = 1;

/// Table, pending bits and the switches of the capability.
#[derive(Clone, Debug, Default, VmState)]
#[vmstate(name = "msix", version = 1)]
pub(crate) struct State {
    #[vmstate(max = 2048)]
    pub(crate) table: Vec<[u32; 4]>,
    #[vmstate(max = 2048)]
    pub(crate) pending: Vec<bool>,
    pub(crate) enabled: bool,
    pub(crate) masked: bool,
}

/// The MSI-X side of a function.
pub struct Msix {
    vectors: u16,
    pub(crate) state: Mutex<State>,
    pub(crate) space: OnceLock<AddressSpace>,
    /// Whose messages they are: an ITS looks at it.
    pub(crate) requester: OnceLock<Requester>,
    /// The IOMMU that messages go through.
    pub(crate) front: OnceLock<Front>,
    /// Where the table is in its base address region.
    table: u32,
    /// The pending bits, from the table on.
    pending: u32,
}

impl Msix {
    /// A table of this many vectors.
    #[must_use]
    pub fn new(vectors: u16) -> Arc<Msix> {
        // In the upper half of 4 KiB where that is possible, else right behind the table.
        Msix::at(vectors, (0, (u32::from(vectors) * 16).max(2048)))
    }

    /// The same at an offset of its region, with the pending bits at a distance from the table.
    #[must_use]
    pub fn at(vectors: u16, (table, pending): (u32, u32)) -> Arc<Msix> {
        let msix = Msix {
            vectors,
            table,
            pending,
            state: Mutex::default(),
            space: OnceLock::new(),
            requester: OnceLock::new(),
            front: OnceLock::new(),
        };
        msix.reset();
        Arc::new(msix)
    }

    /// Number of vectors.
    #[must_use]
    pub fn vectors(&self) -> u16 {
        self.vectors
    }

    pub(crate) fn reset(&self) {
        let count = usize::from(self.vectors);
        let table = vec![[0, 0, 0, MASKED]; count];
        *self.state.lock() = State { table, pending: vec![false; count], ..State::default() };
    }

    pub(crate) fn control(&self, enabled: bool, masked: bool) {
        {
            let mut state = self.state.lock();
            state.enabled = enabled;
            state.masked = masked;
        }
        self.send_pending();
    }

    /// Whether the function uses messages and not its pin.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.state.lock().enabled
    }

    /// Sends a vector's message, or notes it while it is masked. Call it without locks: the
    /// message may be addressed to any device.
    pub fn send(&self, vector: u16) {
        let message = {
            let mut state = self.state.lock();
            let index = usize::from(vector);
            let Some([low, high, data, control]) = state.table.get(index).copied() else { return };
            if control & MASKED != 0 || state.masked {
                if let Some(pending) = state.pending.get_mut(index) {
                    *pending = true;
                }
                return;
            }
            (u64::from(high) << 32 | u64::from(low), data)
        };
        if let Some(space) = self.space.get() {
            let requester = self.requester.get().map_or(0, Requester::id);
            let attrs = TxAttrs { requester, ..TxAttrs::default() };
            let addr = message.0 & !3;
            let addr = match self.front.get() {
                None => Some(addr),
                Some(front) => Function::message_address(front, addr),
            };
            let Some(addr) = addr else { return };
            _ = space.write_uint(addr, Size::B4, message.1.into(), attrs);
        }
    }

    fn send_pending(&self) {
        let due: Vec<u16> = {
            let mut state = self.state.lock();
            if !state.enabled || state.masked {
                return;
            }
            let State { table, pending, .. } = &mut *state;
            (0u16..)
                .zip(table.iter().zip(pending))
                .filter(|(_, ([.., control], p))| **p && control & MASKED == 0)
                .map(|(vector, (_, p))| {
                    *p = false;
                    vector
                })
                .collect()
        };
        for vector in due {
            self.send(vector);
        }
    }

    /// Offset of the pending bits behind the table in its region.
    #[must_use]
    pub fn pending_offset(&self) -> u32 {
        self.pending
    }

    /// Offset of the table in its base address region.
    #[must_use]
    pub fn table_offset(&self) -> u32 {
        self.table
    }

    /// Bytes of the region for table and pending bits.
    #[must_use]
    pub fn region_len(&self) -> u64 {
        let bits = u64::from(self.vectors).next_multiple_of(64) / 8;
        (u64::from(self.pending_offset()) + bits).next_power_of_two().max(0x1000)
    }
}

impl Mmio for Msix {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        let offset = usize::try_from(at.offset).unwrap_or(usize::MAX);
        let state = self.state.lock();
        let pending_at = self.pending_offset() as usize;
        if offset >= pending_at {
            let first = offset.saturating_sub(pending_at).saturating_mul(8);
            let bits = state.pending.iter().skip(first).take(32).enumerate();
            return Ok(bits.fold(0, |word, (i, p)| word | u64::from(*p) << i));
        }
        let word = state.table.get(offset / ENTRY).and_then(|e| e.get(offset % ENTRY / 4));
        Ok(word.copied().unwrap_or(0).into())
    }

    fn write(&self, at: Access, value: u64) -> Result<(), BusFault> {
        let offset = usize::try_from(at.offset).unwrap_or(usize::MAX);
        {
            let mut state = self.state.lock();
            let entry = state.table.get_mut(offset / ENTRY);
            let Some(word) = entry.and_then(|e| e.get_mut(offset % ENTRY / 4)) else {
                return Ok(());
            };
            *word = u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        }
        self.send_pending();
        Ok(())
    }
}
