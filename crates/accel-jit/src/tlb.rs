//! The second level of a vCPU's software TLB; the first is in [`crate::l1`].
//!
//! Set-associative, tagged with regime, ASID and VMID, never flushed by a context switch. Invalidation by
//! ASID, VMID or regime raises a floor below which entries are stale. It grows while pages push each
//! other out fast.
//!
//! Entries of blocks larger than a page are pages all the same; the blocks are remembered as ranges, and
//! maintenance by an address in one of them forgets the regime.
//!
//! UNSAFE: none.

use jit_ir::TlbFlush;
use jit_ir::cpu::TlbTag;

/// Sets of the second level, at first and at most.
const L2_SETS: (usize, usize) = (1024, 8192);
const WAYS: usize = 4;
/// A table whose entries are pushed out as often as it has entries within this time grows.
pub(crate) const FAST_NS: u64 = 100_000_000;
/// Ranges of blocks per regime that are kept apart as far as they are.
const RANGES: usize = 64;
/// Bits 12..56 of an address: what maintenance by VA compares.
pub(crate) const VA_BITS: u64 = 0x00ff_ffff_ffff_f000;

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

/// What is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forget {
    /// Pages of a VA range (start, length), in every address space.
    Pages(u64, u64),
    /// Everything of these regimes (bit mask), but with `asid` only what is bound to it, and with `vmid`
    /// only what is of it.
    Spaces { regimes: u32, asid: Option<u16>, vmid: Option<u16> },
}

impl Forget {
    /// Everything.
    pub(crate) const ALL: Self = Self::Spaces { regimes: u32::MAX, asid: None, vmid: None };

    /// Whether it takes in an address space, and how much of that: all, since its entries are either
    /// bound to `tag`'s ASID (`bound`) or, if not, global.
    pub(crate) fn takes(self, tag: TlbTag, bound: bool) -> bool {
        let Self::Spaces { regimes, asid, vmid } = self else { return false };
        regimes >> (tag.regime & 3) & 1 != 0
            && asid.is_none_or(|a| bound && a == tag.asid)
            && vmid.is_none_or(|v| v == tag.vmid)
    }
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
        // Neighbours become one range; when there are many, those that are near each other.
        let gap = if list.len() < RANGES { 0 } else { 1 << 32 };
        if let Some((s, n)) = list.iter_mut().find(|(s, n)| {
            start <= s.saturating_add(*n).saturating_add(gap)
                && *s <= start.saturating_add(len + gap)
        }) {
            let end = (*s + *n).max(start + len);
            *s = (*s).min(start);
            *n = end - *s;
        } else if list.len() < RANGES {
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
                        self.large[r & 3].clear();
                    }
                }
            }
        }
        match self.epoch.checked_add(1) {
            Some(e) => self.epoch = e,
            None => self.clear(),
        }
    }

    /// Forgets; gives what of it the first level and code TLBs must forget.
    pub(crate) fn flush(&mut self, what: &TlbFlush) -> Forget {
        if let Some((va, len)) = what.va
            && len <= 64 * 4096
            && !self.in_large(what.regimes, va, len)
        {
            for n in 0..len.div_ceil(4096) {
                self.drop_page(va.wrapping_add(n * 4096));
            }
            return Forget::Pages(va, len);
        }
        // By an address in a block: any part of it may be there, under whichever ASID.
        let by_asid = what.va.is_none() && !what.globals;
        let what = TlbFlush { asid: what.asid.filter(|_| by_asid), globals: false, ..*what };
        self.raise_floors(&what);
        Forget::Spaces { regimes: what.regimes, asid: what.asid, vmid: what.vmid }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::with_sets(self.entries.len());
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
    fn it_grows_under_pressure() {
        let mut l2 = L2::new();
        for n in 0..40_000 {
            l2.insert(entry(n << 12, flag::READ), 0, tag(1), 12);
        }
        assert!(l2.entries.len() > L2_SETS.0);
        assert!(l2.probe(39_999 << 12, 0, tag(1)).is_some());
    }

    #[test]
    fn only_addresses_in_blocks_forget_the_regime() {
        let mut l2 = L2::new();
        let page = |va| TlbFlush { regimes: 1, va: Some((va, 4096)), ..TlbFlush::default() };
        let all = Forget::Spaces { regimes: 1, asid: None, vmid: None };
        l2.insert(entry(0x40_0000, flag::READ), 0, tag(1), 21);
        l2.insert(entry(0x60_0000, flag::READ), 0, tag(1), 21);
        l2.insert(entry(0x100_0000, flag::READ), 0, tag(1), 12);
        assert_eq!(l2.flush(&page(0x80_0000)), Forget::Pages(0x80_0000, 4096), "behind them");
        assert_eq!(l2.flush(&page(0x3f_f000)), Forget::Pages(0x3f_f000, 4096), "before them");
        assert!(l2.probe(0x60_0000, 0, tag(1)).is_some());
        assert_eq!(l2.flush(&page(0x7f_f000)), all);
        assert!(l2.probe(0x40_0000, 0, tag(1)).is_none());
        assert!(l2.probe(0x100_0000, 0, tag(1)).is_none());
        // With the entries the blocks are gone.
        assert_eq!(l2.flush(&page(0x7f_f000)), Forget::Pages(0x7f_f000, 4096));
        // Scattered ones stay apart up to a number, and are still found beyond it.
        for n in 0..200u64 {
            l2.insert(entry(n << 34, flag::READ), 0, tag(1), 21);
        }
        assert!(l2.large[0].len() <= RANGES);
        assert_eq!(l2.flush(&page(199 << 34 | 0x1000)), all);
        assert!(l2.probe(199 << 34, 0, tag(1)).is_none());
    }

    #[test]
    fn an_asid_flush_spares_globals_and_other_asids() {
        let mut l2 = L2::new();
        l2.insert(entry(0x1000, flag::READ), 0, tag(1), 12);
        l2.insert(entry(0x2000, flag::READ), 0, tag(2), 12);
        l2.insert(entry(0x3000, flag::READ | flag::GLOBAL), 0, tag(1), 12);
        let all = l2.flush(&TlbFlush { regimes: 1, asid: Some(1), ..TlbFlush::default() });
        assert_eq!(all, Forget::Spaces { regimes: 1, asid: Some(1), vmid: None });
        assert!(all.takes(tag(1), true) && !all.takes(tag(2), true) && !all.takes(tag(1), false));
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
        assert_eq!(l2.flush(&what(0x1000)), Forget::Pages(0x1000, 4096));
        assert!(l2.probe(tagged, 0, tag(1)).is_none());
        let inside = l2.flush(&what(0x5f_f000));
        assert!(inside.takes(tag(1), true) && inside.takes(tag(9), false), "the 2 MiB block");
        assert!(l2.probe(0x40_0000, 0, tag(1)).is_none());
    }
}
