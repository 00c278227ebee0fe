//! The first level of a vCPU's software TLB: direct-mapped tables that generated code probes inline.
//!
//! Tags hold the VA with its top byte as the guest used it, so tagged pointers need no masking;
//! maintenance by VA ignores the top byte. Other threads may set the slow flag in write tags (translated
//! pages).
//!
//! An mmu index has a small pool of tables, one per address space: when the ASID, VMID or regime behind
//! the index changes, generated code is given another table instead of an empty one. A table belongs to
//! a regime and VMID; it is bound to an ASID by the first entry that is not global, so kernels whose
//! entries are all global keep one table whatever runs. Maintenance looks into all of them.
//!
//! A table grows while pages push each other out fast, and shrinks when it is cleared nearly empty time
//! and again.
//!
//! UNSAFE: none; the tables are atomics whose address generated code reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use jit_ir::cpu::TlbTag;
use jit_ir::env::{MMUS, TAG_INVALID, TlbTable};
use parking_lot::Mutex;

use crate::tlb::{FAST_NS, Forget, VA_BITS};

/// Entries of a table, at first and at most.
const SIZES: (usize, usize) = (256, 16384);
/// Tables of an mmu index at most.
const POOL: usize = 8;

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

fn entry_of(t: &[L1Entry], va: u64) -> &L1Entry {
    &t[(va >> 12) as usize & (t.len() - 1)]
}

/// Places of [`SharedL1::writable`].
const WRITABLE: usize = 1 << 16;
/// Content of such a place: nothing, entries at several places of tables; else the number of the entry in
/// the largest table, + 1.
const NOWHERE: u16 = 0;
const SOMEWHERE: u16 = u16::MAX;

/// What other threads see of a vCPU's first level.
pub(crate) struct SharedL1 {
    tables: Mutex<Vec<Table>>,
    /// Where in the tables the pages are, by a hash of the host address, that were put in to be written.
    /// Set by the vCPU alone, before the entry. Most pages that get code are nowhere or at one place.
    writable: Box<[AtomicU16]>,
}

impl SharedL1 {
    fn new() -> Self {
        let writable = (0..WRITABLE).map(|_| AtomicU16::new(NOWHERE)).collect();
        Self { tables: Mutex::default(), writable }
    }

    fn place(&self, page: u64) -> &AtomicU16 {
        &self.writable[(page >> 12) as usize & (WRITABLE - 1)]
    }

    /// Whether the page's place was free.
    fn note(&self, page: u64, va: u64) -> bool {
        let number = ((va >> 12) as usize & (SIZES.1 - 1)) as u16 + 1;
        let place = self.place(page);
        let before = place.load(Ordering::Relaxed);
        if before != number && before != SOMEWHERE {
            let now = if before == NOWHERE { number } else { SOMEWHERE };
            place.store(now, Ordering::SeqCst);
        }
        before == NOWHERE
    }

    /// Makes the places those of the entries that are there; how many.
    fn gather(&self) -> usize {
        let tables = self.tables.lock();
        self.writable.iter().for_each(|p| p.store(NOWHERE, Ordering::SeqCst));
        let note = |e: &&L1Entry| {
            let va = e.write.load(Ordering::Relaxed);
            va & TAG_INVALID == 0 && self.note(e.page.load(Ordering::Relaxed), va)
        };
        tables.iter().flat_map(|t| t.iter()).filter(note).count()
    }

    /// Makes writes to a page, by host address, take the slow path (any thread). False: they did already.
    pub(crate) fn protect(&self, page: u64) -> bool {
        let protect = |e: &L1Entry| {
            if e.page.load(Ordering::Relaxed) == page {
                e.write.fetch_or(TAG_INVALID, Ordering::SeqCst);
            }
        };
        let tables = self.tables.lock();
        match self.place(page).load(Ordering::SeqCst) {
            NOWHERE => return false,
            SOMEWHERE => tables.iter().flat_map(|t| t.iter()).for_each(protect),
            n => tables.iter().for_each(|t| protect(entry_of(t, u64::from(n - 1) << 12))),
        }
        true
    }

    /// Makes all writes take the slow path (any thread).
    pub(crate) fn protect_all(&self) {
        for e in self.tables.lock().iter().flat_map(|t| t.iter()) {
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

/// A table and what it is of.
struct Space {
    table: Table,
    mmu: u8,
    /// `asid` counts if `bound`.
    tag: TlbTag,
    bound: bool,
    /// When it was last chosen.
    chosen: u64,
    uses: Use,
}

impl Space {
    fn fits(&self, mmu: u8, tag: TlbTag) -> bool {
        let same = (self.tag.regime, self.tag.vmid) == (tag.regime, tag.vmid);
        self.mmu == mmu && same && (!self.bound || self.tag.asid == tag.asid)
    }

    fn clear(&mut self) {
        self.bound = false;
        if self.uses.fills == 0 {
            return;
        }
        self.table.iter().for_each(L1Entry::clear);
        let len = self.table.len();
        let empty = len > SIZES.0 && self.uses.fills < len / 8;
        self.uses.idle = if empty { self.uses.idle + 1 } else { 0 };
        self.uses.fills = 0;
    }
}

/// The first level of a vCPU.
pub(crate) struct L1 {
    none: Table,
    spaces: Vec<Space>,
    /// The table in use, per mmu index.
    current: [Option<u16>; MMUS],
    clock: u64,
    shared: Arc<SharedL1>,
    /// Places in use of `shared.writable`.
    noted: usize,
}

impl L1 {
    pub(crate) fn new() -> Self {
        let shared = Arc::new(SharedL1::new());
        let (spaces, current) = (Vec::new(), [None; MMUS]);
        Self { none: table(1), spaces, current, clock: 0, shared, noted: 0 }
    }

    pub(crate) fn shared(&self) -> Arc<SharedL1> {
        Arc::clone(&self.shared)
    }

    fn space(&self, mmu: u8) -> Option<usize> {
        self.current[usize::from(mmu & 15)].map(usize::from)
    }

    fn table(&self, mmu: u8) -> &Table {
        self.space(mmu).map_or(&self.none, |n| &self.spaces[n].table)
    }

    /// Where the table of an mmu index is, for generated code.
    pub(crate) fn place(&self, mmu: u8) -> TlbTable {
        let t = self.table(mmu);
        TlbTable { mask: (t.len() as u64 - 1) * 32, base: t.as_ptr() as u64 }
    }

    /// The table that generated code looks into.
    pub(crate) fn in_use(&self, mmu: u8) -> &[L1Entry] {
        self.table(mmu)
    }

    /// The entry for a page in the table in use.
    pub(crate) fn slot(&self, mmu: u8, va: u64) -> &L1Entry {
        entry_of(self.table(mmu), va)
    }

    /// A page, by host address, is about to be put in so that it can be written; before its entry says so.
    /// True: pages that are in no table any more are forgotten, and loops that remember one must end.
    pub(crate) fn will_write(&mut self, page: u64, va: u64) -> bool {
        self.noted += usize::from(self.shared.note(page, va));
        if self.noted <= WRITABLE / 2 {
            return false;
        }
        self.noted = self.shared.gather();
        self.noted += usize::from(self.shared.note(page, va));
        true
    }

    /// The entries for a page in all tables.
    pub(crate) fn slots(&self, va: u64) -> impl Iterator<Item = &L1Entry> {
        self.spaces.iter().map(move |s| entry_of(&s.table, va))
    }

    /// The address space behind an mmu index changed to `tag`; whether generated code must be told
    /// another place.
    pub(crate) fn switch(&mut self, mmu: u8, tag: TlbTag) -> bool {
        let before = self.space(mmu);
        if before.is_none() {
            // Not in use: chosen with the first entry.
            return false;
        }
        self.choose(mmu, tag);
        self.space(mmu) != before
    }

    fn choose(&mut self, mmu: u8, tag: TlbTag) {
        let fitting =
            |bound: bool| self.spaces.iter().position(|s| s.bound == bound && s.fits(mmu, tag));
        let n = match fitting(true).or_else(|| fitting(false)) {
            Some(n) => n,
            None => self.make(mmu, tag),
        };
        self.clock += 1;
        self.spaces[n].chosen = self.clock;
        self.current[usize::from(mmu & 15)] = Some(n as u16);
    }

    /// An empty table for an address space: a new one, or the one that was not chosen for longest.
    fn make(&mut self, mmu: u8, tag: TlbTag) -> usize {
        let own = self.spaces.iter().enumerate().filter(|(_, s)| s.mmu == mmu);
        let oldest = own.clone().min_by_key(|(_, s)| s.chosen).map(|(n, _)| n);
        if let Some(n) = oldest.filter(|_| own.count() >= POOL) {
            let s = &mut self.spaces[n];
            s.clear();
            s.tag = tag;
            return n;
        }
        let table = table(SIZES.0);
        self.shared.tables.lock().push(Arc::clone(&table));
        let (bound, chosen, uses) = (false, 0, Use::default());
        self.spaces.push(Space { table, mmu, tag, bound, chosen, uses });
        self.spaces.len() - 1
    }

    /// A page is about to be put in: whether the table was made, grew or shrank, so that generated code
    /// must be told its place.
    pub(crate) fn before_fill(&mut self, mmu: u8, va: u64, tag: TlbTag, global: bool) -> bool {
        let made = self.space(mmu).is_none();
        if made {
            self.choose(mmu, tag);
        }
        let Some(n) = self.space(mmu) else { return false };
        let s = &mut self.spaces[n];
        if !global && !s.bound {
            (s.bound, s.tag) = (true, tag);
        }
        let len = s.table.len();
        let old = entry_of(&s.table, va).read.load(Ordering::Relaxed);
        let pushes = old & 0xfff == 0 && old != va & !0xfff;
        let u = &mut s.uses;
        u.fills += 1;
        if u.idle >= 8 {
            self.resize(n, len / 2);
            return true;
        }
        if !pushes {
            return made;
        }
        u.pushed += 1;
        if u.pushed < len || len >= SIZES.1 {
            return made;
        }
        let now = host::monotonic_ns();
        let fast = now.wrapping_sub(u.since) < FAST_NS;
        (u.since, u.pushed) = (now, 0);
        if fast {
            self.resize(n, len * 2);
        }
        fast || made
    }

    fn resize(&mut self, n: usize, entries: usize) {
        let new = table(entries);
        self.shared.tables.lock()[n] = Arc::clone(&new);
        let s = &mut self.spaces[n];
        s.table = new;
        s.uses = Use { since: host::monotonic_ns(), fills: 1, ..Use::default() };
    }

    /// Forgets entries of every table.
    pub(crate) fn forget(&mut self, what: Forget) {
        if let Forget::Pages(va, len) = what {
            (0..len.div_ceil(4096)).for_each(|n| self.forget_page(va.wrapping_add(n * 4096)));
            return;
        }
        for s in &mut self.spaces {
            if what.takes(s.tag, s.bound) {
                s.clear();
            }
        }
    }

    fn forget_page(&self, va: u64) {
        let hit = |t: &AtomicU64| (t.load(Ordering::Relaxed) ^ va) & VA_BITS == 0;
        for e in self.slots(va) {
            if hit(&e.read) || hit(&e.write) {
                e.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(asid: u16) -> TlbTag {
        TlbTag { regime: 0, asid, vmid: 0 }
    }

    fn fill(l1: &mut L1, va: u64, asid: u16, global: bool) -> bool {
        let moved = l1.before_fill(0, va, tag(asid), global);
        l1.slot(0, va).read.store(va & !0xfff, Ordering::Relaxed);
        moved
    }

    fn has(l1: &L1, va: u64) -> bool {
        l1.slot(0, va).read.load(Ordering::Relaxed) == va & !0xfff
    }

    #[test]
    fn tables_grow_under_pressure_and_shrink_when_idle() {
        let mut l1 = L1::new();
        assert!(fill(&mut l1, 0x1000, 1, false));
        for round in 0..8u64 {
            (0..1024).for_each(|n| _ = fill(&mut l1, n << 12 | round << 40, 1, false));
        }
        let grown = l1.table(0).len();
        assert!(grown >= 1024, "{grown}");
        assert_eq!(l1.shared().tables.lock()[0].len(), grown);
        for n in 0..10 {
            // The first finds it in use, the others nearly empty.
            l1.forget(Forget::ALL);
            assert_eq!(fill(&mut l1, 0x1000, 1, false), n == 8, "{n}");
        }
        assert_eq!(l1.table(0).len(), grown / 2);
    }

    #[test]
    fn address_spaces_keep_their_entries() {
        let mut l1 = L1::new();
        fill(&mut l1, 0x1000, 1, false);
        assert!(l1.switch(0, tag(2)));
        assert!(!has(&l1, 0x1000));
        fill(&mut l1, 0x2000, 2, false);
        assert!(l1.switch(0, tag(1)));
        assert!(has(&l1, 0x1000) && !has(&l1, 0x2000));
        // More than the pool holds: the one that was away for longest is forgotten, not taken over.
        for asid in 3..3 + POOL as u16 {
            l1.switch(0, tag(asid));
            assert!(!has(&l1, 0x1000) && !has(&l1, 0x2000));
            fill(&mut l1, 0x3000, asid, false);
        }
        assert_eq!(l1.spaces.len(), POOL);
        l1.switch(0, tag(1));
        assert!(!has(&l1, 0x1000) && !has(&l1, 0x3000));
    }

    #[test]
    fn global_entries_are_of_every_asid() {
        let mut l1 = L1::new();
        fill(&mut l1, 0x1000, 1, true);
        assert!(!l1.switch(0, tag(2)), "the same table");
        assert!(has(&l1, 0x1000));
        fill(&mut l1, 0x2000, 2, false);
        assert!(l1.switch(0, tag(1)));
        assert!(!has(&l1, 0x2000), "bound to the other one by now");
        let other = TlbTag { vmid: 1, ..tag(2) };
        assert!(l1.switch(0, other));
        assert!(!has(&l1, 0x1000) && !has(&l1, 0x2000));
        let other = TlbTag { regime: 8, ..tag(2) };
        assert!(l1.switch(0, other));
        assert!(!has(&l1, 0x1000) && !has(&l1, 0x2000));
    }

    #[test]
    fn maintenance_reaches_tables_that_are_not_in_use() {
        let flushes = [
            (Forget::Pages(0x1000, 4096), false),
            (Forget::Pages(0x0fff_0000_0000_1000 << 12 >> 12, 4096), true),
            (Forget::Pages(0, 0x3000), false),
            (Forget::Pages(0x2000, 0x3000), true),
            (Forget::ALL, false),
            (Forget::Spaces { regimes: 1, asid: Some(1), vmid: Some(0) }, false),
            (Forget::Spaces { regimes: 1, asid: Some(2), vmid: None }, true),
            (Forget::Spaces { regimes: 1, asid: None, vmid: Some(1) }, true),
            (Forget::Spaces { regimes: 2, asid: None, vmid: None }, true),
        ];
        for (what, kept) in flushes {
            let mut l1 = L1::new();
            fill(&mut l1, 0x1000, 1, false);
            l1.switch(0, tag(2));
            fill(&mut l1, 0x9000, 2, false);
            l1.forget(what);
            l1.switch(0, tag(1));
            assert_eq!(has(&l1, 0x1000), kept, "{what:?}");
        }
        // An ASID's entries go, the global ones of the same regime stay.
        let mut l1 = L1::new();
        fill(&mut l1, 0x1000, 1, true);
        l1.forget(Forget::Spaces { regimes: 1, asid: Some(1), vmid: None });
        assert!(has(&l1, 0x1000));
    }

    fn fill_for_write(l1: &mut L1, va: u64, page: u64) {
        fill(l1, va, 1, false);
        l1.will_write(page, va);
        let e = l1.slot(0, va);
        e.write.store(va, Ordering::Relaxed);
        e.page.store(page, Ordering::Relaxed);
    }

    fn may_write(l1: &L1, va: u64) -> bool {
        l1.slot(0, va).write.load(Ordering::Relaxed) == va
    }

    #[test]
    fn other_threads_protect_every_table() {
        let mut l1 = L1::new();
        fill_for_write(&mut l1, 0x1000, 0x7000);
        l1.switch(0, tag(2));
        assert!(!l1.shared().protect(0x8000), "never written");
        l1.switch(0, tag(1));
        assert!(may_write(&l1, 0x1000));
        l1.switch(0, tag(2));
        assert!(l1.shared().protect(0x7000));
        l1.switch(0, tag(1));
        assert_eq!(l1.slot(0, 0x1000).write.load(Ordering::Relaxed), 0x1fff);
    }

    #[test]
    fn pages_are_protected_wherever_they_are() {
        let mut l1 = L1::new();
        // Another page of the same place, and one at two addresses.
        fill_for_write(&mut l1, 0x1000, 0x7000);
        fill_for_write(&mut l1, 0x2000, 0x7000 + ((WRITABLE as u64) << 12));
        fill_for_write(&mut l1, 0x3000, 0x9000);
        fill_for_write(&mut l1, 0x4000, 0x9000);
        fill_for_write(&mut l1, 0x8_0005_5000, 0xa000);
        for page in [0x7000, 0x9000, 0xa000] {
            assert!(l1.shared().protect(page));
        }
        assert!(may_write(&l1, 0x2000));
        for va in [0x1000, 0x3000, 0x4000, 0x8_0005_5000] {
            assert!(!may_write(&l1, va), "{va:#x}");
        }
    }

    #[test]
    fn pages_are_protected_however_many_were_written() {
        let mut l1 = L1::new();
        fill_for_write(&mut l1, 0x1000, 0x7000);
        // More than half the places: they are gathered again, and the page's is among them.
        let first = WRITABLE as u64;
        let gathered = (first..first * 2).filter(|n| l1.will_write(n << 12 | 1 << 40, n << 12));
        assert_eq!(gathered.count(), 2);
        assert!(l1.noted <= WRITABLE / 2, "{}", l1.noted);
        assert!(l1.shared().protect(0x7000));
        assert!(!may_write(&l1, 0x1000));
    }
}
