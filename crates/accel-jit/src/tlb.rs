//! The two software TLBs of a vCPU.
//!
//! First level: one direct-mapped table per mmu index that generated code probes inline. Tags hold
//! the VA with its top byte as the guest used it, so tagged pointers need no masking; maintenance
//! by VA ignores the top byte. Other threads may set the slow flag in write tags (translated pages).
//! A table is made when its mmu index is first used, and grows while pages push each other out fast.
//!
//! Second level: set-associative, tagged with regime, ASID and VMID, never flushed by a context
//! switch. Invalidation by ASID, VMID or regime raises a floor below which entries are stale. It grows
//! likewise.
//!
//! UNSAFE: none; the tables are atomics whose address generated code reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jit_ir::TlbFlush;
use jit_ir::cpu::TlbTag;
use jit_ir::env::{MMUS, TAG_INVALID, TlbTable};
use parking_lot::Mutex;

/// Entries of a first-level table, at first and at most.
const L1_SIZES: (usize, usize) = (256, 16384);
/// Sets of the second level, at first and at most.
const L2_SETS: (usize, usize) = (1024, 8192);
const WAYS: usize = 4;
/// A table whose entries are pushed out as often as it has entries within this time grows.
const FAST_NS: u64 = 100_000_000;
/// Bits 12..56 of an address: what maintenance by VA compares.
const VA_BITS: u64 = 0x00ff_ffff_ffff_f000;

/// A first-level entry, laid out as [`jit_ir::env::TlbEntry`].
#[repr(C)]
pub(crate) struct L1Entry {
    pub(crate) read: AtomicU64,
    pub(crate) write: AtomicU64,
    pub(crate) addend: AtomicU64,
    /// Host address of the page.
    pub(crate) page: AtomicU64,
}

impl L1Entry {
    fn new() -> Self {
        Self {
            read: AtomicU64::new(TAG_INVALID),
            write: AtomicU64::new(TAG_INVALID),
            addend: AtomicU64::new(0),
            page: AtomicU64::new(u64::MAX),
        }
    }

    pub(crate) fn clear(&self) {
        self.read.store(TAG_INVALID, Ordering::Relaxed);
        self.write.store(TAG_INVALID, Ordering::Relaxed);
        self.page.store(u64::MAX, Ordering::Relaxed);
    }
}

type Table = Arc<[L1Entry]>;

fn table(entries: usize) -> Table {
    (0..entries).map(|_| L1Entry::new()).collect()
}

/// What other threads see of a vCPU's first level.
pub(crate) struct SharedL1(Mutex<Vec<Table>>);

impl SharedL1 {
    /// Makes writes to a page, by host address, take the slow path (any thread).
    pub(crate) fn protect(&self, page: u64) {
        for e in self.0.lock().iter().flat_map(|t| t.iter()) {
            if e.page.load(Ordering::Relaxed) == page {
                e.write.fetch_or(TAG_INVALID, Ordering::SeqCst);
            }
        }
    }

    /// Makes all writes take the slow path (any thread).
    pub(crate) fn protect_all(&self) {
        for e in self.0.lock().iter().flat_map(|t| t.iter()) {
            e.write.fetch_or(TAG_INVALID, Ordering::SeqCst);
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Use {
    /// Entries filled since the table was last cleared.
    fills: usize,
    /// Entries of other pages pushed out since `since`.
    pushed: usize,
    since: u64,
    /// How often in a row it was cleared nearly empty.
    idle: u8,
}

/// The first level of a vCPU.
pub(crate) struct L1 {
    tables: Vec<Table>,
    uses: [Use; MMUS],
    shared: Arc<SharedL1>,
}

impl L1 {
    pub(crate) fn new() -> Self {
        let none = table(1);
        let tables = vec![none; MMUS];
        let shared = Arc::new(SharedL1(Mutex::new(tables.clone())));
        Self { tables, uses: [Use::default(); MMUS], shared }
    }

    pub(crate) fn shared(&self) -> Arc<SharedL1> {
        Arc::clone(&self.shared)
    }

    /// Where a table is, for generated code.
    pub(crate) fn place(&self, mmu: usize) -> TlbTable {
        let t = &self.tables[mmu % MMUS];
        TlbTable { mask: (t.len() as u64 - 1) * 32, base: t.as_ptr() as u64 }
    }

    /// The table that generated code looks into.
    pub(crate) fn in_use(&self, mmu: u8) -> &[L1Entry] {
        &self.tables[usize::from(mmu & 15)]
    }

    pub(crate) fn slot(&self, mmu: u8, va: u64) -> &L1Entry {
        let t = &self.tables[usize::from(mmu & 15)];
        &t[(va >> 12) as usize & (t.len() - 1)]
    }

    /// A page is about to be put in: whether the table was made, grew or shrank, so that generated code
    /// must be told its place.
    pub(crate) fn before_fill(&mut self, mmu: u8, va: u64) -> bool {
        let n = usize::from(mmu & 15);
        let len = self.tables[n].len();
        if len == 1 {
            self.resize(n, L1_SIZES.0);
            return true;
        }
        let old = self.slot(mmu, va);
        let other = |tag: u64| tag & 0xfff == 0 && tag != va & !0xfff;
        let pushes = other(old.read.load(Ordering::Relaxed));
        let u = &mut self.uses[n];
        u.fills += 1;
        if u.idle >= 8 {
            u.idle = 0;
            self.resize(n, len / 2);
            return true;
        }
        if !pushes {
            return false;
        }
        u.pushed += 1;
        if u.pushed < len || len >= L1_SIZES.1 {
            return false;
        }
        let now = host::monotonic_ns();
        let fast = now.wrapping_sub(u.since) < FAST_NS;
        (u.since, u.pushed) = (now, 0);
        if fast {
            self.resize(n, len * 2);
        }
        fast
    }

    fn resize(&mut self, mmu: usize, entries: usize) {
        let new = table(entries);
        self.shared.0.lock()[mmu] = Arc::clone(&new);
        self.tables[mmu] = new;
        self.uses[mmu] = Use { since: host::monotonic_ns(), ..Use::default() };
    }

    pub(crate) fn clear_table(&mut self, mmu: usize) {
        let t = &self.tables[mmu];
        t.iter().for_each(L1Entry::clear);
        let u = &mut self.uses[mmu];
        let empty = t.len() > L1_SIZES.0 && u.fills < t.len() / 8;
        u.idle = if empty { u.idle + 1 } else { 0 };
        u.fills = 0;
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
    /// Index of the RAM block among the vCPU's.
    pub(crate) block: u16,
}

/// The second level.
pub(crate) struct L2 {
    entries: Vec<[L2Entry; WAYS]>,
    pushed: usize,
    since: u64,
    next_way: u8,
    epoch: u32,
    floor_regime: [u32; 32],
    floor_asid: Vec<u32>,
    floor_vmid: Vec<u32>,
    /// VA ranges mapped by blocks larger than a page, per base regime.
    large: [Vec<(u64, u64)>; 4],
}

fn set_of(page: u64, sets: usize) -> usize {
    let n = page >> 12;
    (n ^ n >> 10) as usize & (sets - 1)
}

impl L2 {
    pub(crate) fn new() -> Self {
        Self::with_sets(L2_SETS.0)
    }

    fn with_sets(sets: usize) -> Self {
        Self {
            entries: vec![[L2Entry::default(); WAYS]; sets],
            pushed: 0,
            since: 0,
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
        self.entries[set_of(page, self.entries.len())]
            .iter()
            .find(fits)
            .filter(|e| self.valid(e))
            .copied()
    }

    /// Adds an entry (replacing the one for the same page and context).
    pub(crate) fn insert(&mut self, mut e: L2Entry, mmu: u8, tag: TlbTag, size_log2: u8) {
        (e.epoch, e.mmu) = (self.epoch, mmu);
        (e.regime, e.asid, e.vmid) = (tag.regime, tag.asid, tag.vmid);
        if size_log2 > 12 {
            self.note_large(e.page, size_log2, tag.regime);
        }
        let n = set_of(e.page, self.entries.len());
        let same = |o: &L2Entry| {
            o.page == e.page && o.mmu == mmu && o.asid == e.asid && o.regime == e.regime
        };
        let set = self.entries[n];
        let found = set.iter().position(same);
        let way = found.or_else(|| set.iter().position(|o| o.epoch == 0 || !self.valid(o)));
        let way = way.unwrap_or_else(|| {
            self.pushed += 1;
            self.next_way = (self.next_way + 1) % WAYS as u8;
            usize::from(self.next_way)
        });
        self.entries[n][way] = e;
        if self.pushed >= self.entries.len() * WAYS / 2 {
            self.grow();
        }
    }

    fn grow(&mut self) {
        let now = host::monotonic_ns();
        let fast = now.wrapping_sub(self.since) < FAST_NS;
        (self.since, self.pushed) = (now, 0);
        let sets = self.entries.len() * 2;
        if !fast || sets > L2_SETS.1 {
            return;
        }
        let old = std::mem::replace(&mut self.entries, vec![[L2Entry::default(); WAYS]; sets]);
        for e in old.into_iter().flatten().filter(|e| e.epoch != 0) {
            let set = &mut self.entries[set_of(e.page, sets)];
            if let Some(free) = set.iter_mut().find(|o| o.epoch == 0) {
                *free = e;
            }
        }
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
            let sets = self.entries.len();
            for e in &mut self.entries[set_of(page, sets)] {
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
            None => self.clear(),
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
        *self = Self::with_sets(self.entries.len());
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
    fn tables_grow_under_pressure_and_shrink_when_idle() {
        let mut l1 = L1::new();
        let fill = |l1: &mut L1, va: u64| {
            let moved = l1.before_fill(0, va);
            l1.slot(0, va).read.store(va, Ordering::Relaxed);
            moved
        };
        assert!(fill(&mut l1, 0x1000));
        for round in 0..8u64 {
            (0..1024).for_each(|n| _ = fill(&mut l1, n << 12 | round << 40));
        }
        let grown = l1.tables[0].len();
        assert!(grown >= 1024, "{grown}");
        let _ = l1.shared().0.lock()[0].len();
        // The first may still find it in use.
        for _ in 0..9 {
            l1.clear_table(0);
        }
        assert!(fill(&mut l1, 0));
        assert_eq!(l1.tables[0].len(), grown / 2);
        let mut l2 = L2::new();
        for n in 0..40_000 {
            l2.insert(entry(n << 12, flag::READ), 0, tag(1), 12);
        }
        assert!(l2.entries.len() > L2_SETS.0);
        assert!(l2.probe(39_999 << 12, 0, tag(1)).is_some());
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
