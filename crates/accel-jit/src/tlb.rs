//! The two software TLBs of a vCPU.
//!
//! First level: one direct-mapped table per mmu index that generated code probes inline. Tags hold
//! the VA with its top byte as the guest used it, so tagged pointers need no masking; maintenance
//! by VA ignores the top byte. Other threads may set the slow flag in write tags (translated pages).
//!
//! Second level: set-associative, tagged with regime, ASID and VMID, never flushed by a context
//! switch. Invalidation by ASID, VMID or regime raises a floor below which entries are stale.
//!
//! UNSAFE: none; the tables are atomics whose address generated code reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jit_ir::TlbFlush;
use jit_ir::cpu::TlbTag;
use jit_ir::env::{MMUS, TAG_INVALID};

/// Entries per first-level table.
pub(crate) const L1_SIZE: usize = 256;
const SETS: usize = 1024;
const WAYS: usize = 4;
/// Bits 12..56 of an address: what maintenance by VA compares.
const VA_BITS: u64 = 0x00ff_ffff_ffff_f000;

/// A first-level entry, laid out as [`jit_ir::env::TlbEntry`].
#[repr(C)]
pub(crate) struct L1Entry {
    pub(crate) read: AtomicU64,
    pub(crate) write: AtomicU64,
    pub(crate) addend: AtomicU64,
    pub(crate) pa: AtomicU64,
}

impl L1Entry {
    fn clear(&self) {
        self.read.store(TAG_INVALID, Ordering::Relaxed);
        self.write.store(TAG_INVALID, Ordering::Relaxed);
        self.pa.store(u64::MAX, Ordering::Relaxed);
    }
}

/// All first-level tables of a vCPU; shared so that other threads can protect pages.
pub(crate) struct L1 {
    entries: Box<[L1Entry]>,
}

impl L1 {
    pub(crate) fn new() -> Arc<Self> {
        let one = |_| L1Entry {
            read: AtomicU64::new(TAG_INVALID),
            write: AtomicU64::new(TAG_INVALID),
            addend: AtomicU64::new(0),
            pa: AtomicU64::new(u64::MAX),
        };
        Arc::new(Self { entries: (0..MMUS * L1_SIZE).map(one).collect() })
    }

    /// Address of a table for generated code.
    pub(crate) fn base(&self, mmu: usize) -> u64 {
        std::ptr::from_ref(&self.entries[(mmu % MMUS) * L1_SIZE]) as u64
    }

    pub(crate) fn slot(&self, mmu: u8, va: u64) -> &L1Entry {
        let n = (va >> 12) as usize & (L1_SIZE - 1);
        &self.entries[usize::from(mmu & 15) * L1_SIZE + n]
    }

    pub(crate) fn clear_table(&self, mmu: usize) {
        for e in &self.entries[mmu * L1_SIZE..(mmu + 1) * L1_SIZE] {
            e.clear();
        }
    }

    /// Makes writes to a physical page take the slow path (any thread).
    pub(crate) fn protect(&self, pa: u64) {
        for e in &self.entries {
            if e.pa.load(Ordering::Relaxed) == pa {
                e.write.fetch_or(TAG_INVALID, Ordering::SeqCst);
            }
        }
    }

    fn clear_va(&self, mmu: u8, va: u64) {
        let e = self.slot(mmu, va);
        let hit = |t: &AtomicU64| (t.load(Ordering::Relaxed) ^ va) & VA_BITS == 0;
        if hit(&e.read) || hit(&e.write) {
            e.clear();
        }
    }
}

/// Permissions and properties of a second-level entry.
pub(crate) mod flag {
    pub(crate) const READ: u8 = 1;
    pub(crate) const WRITE: u8 = 2;
    pub(crate) const EXEC: u8 = 4;
    pub(crate) const GLOBAL: u8 = 8;
    pub(crate) const STRICT: u8 = 16;
    pub(crate) const SECURE: u8 = 32;
    pub(crate) const ROM: u8 = 64;
    /// Has watched bytes: never in the first level.
    pub(crate) const WATCHED: u8 = 128;
}

/// A second-level entry.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct L2Entry {
    /// VA of the page, top byte included.
    pub(crate) page: u64,
    /// Physical page.
    pub(crate) pa: u64,
    /// Host address of the page, 0 = not RAM.
    pub(crate) host: u64,
    pub(crate) epoch: u32,
    pub(crate) asid: u16,
    pub(crate) vmid: u16,
    pub(crate) regime: u8,
    pub(crate) mmu: u8,
    /// Bits of [`flag`].
    pub(crate) flags: u8,
    /// Guest's code attribute.
    pub(crate) code_attr: u8,
}

/// The second level.
pub(crate) struct L2 {
    entries: Vec<[L2Entry; WAYS]>,
    next_way: u8,
    epoch: u32,
    floor_regime: [u32; 32],
    floor_asid: Vec<u32>,
    floor_vmid: Vec<u32>,
    /// VA ranges mapped by blocks larger than a page, per base regime.
    large: [Vec<(u64, u64)>; 4],
}

fn set_of(page: u64) -> usize {
    let n = page >> 12;
    (n ^ n >> 10) as usize & (SETS - 1)
}

impl L2 {
    pub(crate) fn new() -> Self {
        Self {
            entries: vec![[L2Entry::default(); WAYS]; SETS],
            next_way: 0,
            epoch: 1,
            floor_regime: [0; 32],
            floor_asid: vec![0; 256],
            floor_vmid: vec![0; 256],
            large: Default::default(),
        }
    }

    fn valid(&self, e: &L2Entry) -> bool {
        let asid_ok =
            e.flags & flag::GLOBAL != 0 || e.epoch > self.floor_asid[usize::from(e.asid as u8)];
        e.epoch > self.floor_regime[usize::from(e.regime & 31)]
            && asid_ok
            && e.epoch > self.floor_vmid[usize::from(e.vmid as u8)]
    }

    /// The entry for a page in this context.
    pub(crate) fn probe(&self, va: u64, mmu: u8, tag: TlbTag) -> Option<L2Entry> {
        let page = va & !0xfff;
        let fits = |e: &&L2Entry| {
            e.page == page
                && e.mmu == mmu
                && e.epoch != 0
                && e.regime == tag.regime
                && e.vmid == tag.vmid
                && (e.asid == tag.asid || e.flags & flag::GLOBAL != 0)
        };
        self.entries[set_of(page)].iter().find(fits).filter(|e| self.valid(e)).copied()
    }

    /// Adds an entry (replacing the one for the same page and context).
    pub(crate) fn insert(&mut self, mut e: L2Entry, mmu: u8, tag: TlbTag, size_log2: u8) {
        (e.epoch, e.mmu) = (self.epoch, mmu);
        (e.regime, e.asid, e.vmid) = (tag.regime, tag.asid, tag.vmid);
        if size_log2 > 12 {
            self.note_large(e.page, size_log2, tag.regime);
        }
        let set = &mut self.entries[set_of(e.page)];
        let same = |o: &L2Entry| {
            o.page == e.page && o.mmu == mmu && o.asid == e.asid && o.regime == e.regime
        };
        let way = set.iter().position(same).unwrap_or_else(|| {
            self.next_way = (self.next_way + 1) % WAYS as u8;
            usize::from(self.next_way)
        });
        set[way] = e;
    }

    fn note_large(&mut self, page: u64, log2: u8, regime: u8) {
        let len = 1u64 << log2.min(48);
        let start = page & VA_BITS & !(len - 1);
        let list = &mut self.large[usize::from(regime & 3)];
        if list.iter().any(|(s, n)| start >= *s && start + len <= s + n) {
            return;
        }
        if let Some((s, n)) = list.iter_mut().find(|(s, n)| {
            let gap = 1 << 32;
            start <= s.saturating_add(*n).saturating_add(gap)
                && *s <= start.saturating_add(len + gap)
        }) {
            let end = (*s + *n).max(start + len);
            *s = (*s).min(start);
            *n = end - *s;
        } else if list.len() < 16 {
            list.push((start, len));
        } else {
            *list = vec![(0, VA_BITS + 0x1000)];
        }
    }

    fn in_large(&self, regimes: u32, va: u64, len: u64) -> bool {
        let (from, to) = (va & VA_BITS, (va & VA_BITS).saturating_add(len));
        (0..4usize)
            .filter(|r| regimes >> r & 1 != 0)
            .flat_map(|r| &self.large[r])
            .any(|(s, n)| from < s + n && *s < to)
    }

    fn drop_page(&mut self, va: u64) {
        // Tagged pointers land in the same set: the hash uses low page bits and their neighbours only
        // for untagged addresses, so look at each way of both sets.
        for page in [va & !0xfff, va & VA_BITS, va | 0xff << 56] {
            for e in &mut self.entries[set_of(page)] {
                if (e.page ^ va) & VA_BITS == 0 {
                    e.epoch = 0;
                }
            }
        }
    }

    fn raise_floors(&mut self, what: &TlbFlush) {
        let epoch = self.epoch;
        match (what.asid, what.vmid) {
            (Some(asid), _) if !what.globals => {
                self.floor_asid[usize::from(asid as u8)] = epoch;
            }
            (_, Some(vmid)) if vmid != 0 => self.floor_vmid[usize::from(vmid as u8)] = epoch,
            _ => {
                for r in 0..32usize {
                    if what.regimes >> (r & 3) & 1 != 0 {
                        self.floor_regime[r] = epoch;
                    }
                }
            }
        }
        match self.epoch.checked_add(1) {
            Some(e) => self.epoch = e,
            None => *self = Self::new(),
        }
    }

    /// Forgets; returns true if whole first-level tables must go too, false if only the VA pages.
    pub(crate) fn flush(&mut self, what: &TlbFlush) -> bool {
        if let Some((va, len)) = what.va
            && len <= 64 * 4096
            && !self.in_large(what.regimes, va, len)
        {
            for n in 0..len.div_ceil(4096) {
                self.drop_page(va.wrapping_add(n * 4096));
            }
            return false;
        }
        let everything = TlbFlush { asid: None, ..*what };
        self.raise_floors(if what.va.is_some() { &everything } else { what });
        true
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::new();
    }
}

/// Forgets a small VA range in the first level.
pub(crate) fn clear_l1_range(l1: &L1, va: u64, len: u64) {
    for n in 0..len.div_ceil(4096) {
        for mmu in 0..MMUS as u8 {
            l1.clear_va(mmu, va.wrapping_add(n * 4096));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(asid: u16) -> TlbTag {
        TlbTag { regime: 0, asid, vmid: 0 }
    }
    fn entry(page: u64, flags: u8) -> L2Entry {
        L2Entry { page, flags, ..L2Entry::default() }
    }

    #[test]
    fn an_asid_flush_spares_globals_and_other_asids() {
        let mut l2 = L2::new();
        l2.insert(entry(0x1000, flag::READ), 0, tag(1), 12);
        l2.insert(entry(0x2000, flag::READ), 0, tag(2), 12);
        l2.insert(entry(0x3000, flag::READ | flag::GLOBAL), 0, tag(1), 12);
        let all = l2.flush(&TlbFlush { regimes: 1, asid: Some(1), ..TlbFlush::default() });
        assert!(all);
        assert!(l2.probe(0x1000, 0, tag(1)).is_none());
        assert!(l2.probe(0x2000, 0, tag(2)).is_some());
        assert!(l2.probe(0x3000, 0, tag(7)).is_some());
    }

    #[test]
    fn a_va_flush_drops_tagged_aliases_and_blocks() {
        let mut l2 = L2::new();
        let tagged = 0xab00_0000_0000_1000;
        l2.insert(entry(tagged, flag::READ), 0, tag(1), 12);
        l2.insert(entry(0x40_0000, flag::READ), 0, tag(1), 21);
        let what = |va| TlbFlush { regimes: 1, va: Some((va, 4096)), ..TlbFlush::default() };
        assert!(!l2.flush(&what(0x1000)));
        assert!(l2.probe(tagged, 0, tag(1)).is_none());
        assert!(l2.flush(&what(0x5f_f000)), "inside the 2 MiB block");
        assert!(l2.probe(0x40_0000, 0, tag(1)).is_none());
    }
}
