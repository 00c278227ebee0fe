//! The code TLBs of a vCPU: VA page to the entry table of its translations, probed by generated code.
//!
//! There is a small pool of them, one per mode and address space, as in [`crate::l1`]: neither a change
//! of the exception level nor of the ASID forgets what another one looked up. A table is bound to an ASID
//! by the first page that is not global.
//!
//! UNSAFE: none; generated code reads the tables, which are written on its own thread.

use std::sync::Arc;

use jit_ir::backend::CODE_TLB;
use jit_ir::cpu::TlbTag;
use jit_ir::env::{CodeTlbEntry, JitEnv};

use crate::cache::PageCode;
use crate::tlb::{Forget, VA_BITS};

const NO_ENTRY: CodeTlbEntry = CodeTlbEntry { tag: u64::MAX, entries: 0 };
/// Tables at most.
const POOL: usize = 24;
/// Bits of [`Seen`].
const SEEN: usize = 1 << 16;

/// Which VA pages code was looked up on, by a hash: maintenance of other pages leaves jump caches and
/// predicted returns alone. Pages that no table holds any more stay until the bits are gathered again.
struct Seen {
    words: Box<[u64]>,
    bits: usize,
}

impl Seen {
    fn new() -> Self {
        Self { words: vec![0; SEEN / 64].into_boxed_slice(), bits: 0 }
    }

    fn place(va: u64) -> (usize, u64) {
        let n = (va & VA_BITS) >> 12;
        let n = (n ^ n >> 16 ^ n >> 32) as usize & (SEEN - 1);
        (n / 64, 1 << (n % 64))
    }

    fn add(&mut self, va: u64) {
        let (word, bit) = Self::place(va);
        self.bits += usize::from(self.words[word] & bit == 0);
        self.words[word] |= bit;
    }

    fn has(&self, va: u64) -> bool {
        let (word, bit) = Self::place(va);
        self.words[word] & bit != 0
    }
}

/// What code is looked up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct CodeSpace {
    /// Mode key.
    pub(crate) mode: u64,
    /// mmu index of fetches.
    pub(crate) mmu: u8,
    pub(crate) tag: TlbTag,
}

struct Table {
    of: CodeSpace,
    bound: bool,
    filled: bool,
    chosen: u64,
    /// Its part of the jump cache, while it is not in use.
    jumps: (u64, u32),
    entries: Box<[CodeTlbEntry]>,
    /// The page objects behind `entries`, same index.
    pages: Vec<Option<Arc<PageCode>>>,
}

impl Table {
    fn new(of: CodeSpace) -> Self {
        let entries = vec![NO_ENTRY; CODE_TLB].into_boxed_slice();
        let pages = vec![None; CODE_TLB];
        Self { of, bound: false, filled: false, chosen: 0, jumps: (0, 0), entries, pages }
    }

    fn fits(&self, s: &CodeSpace) -> bool {
        let a = (self.of.mode, self.of.mmu, self.of.tag.regime, self.of.tag.vmid);
        a == (s.mode, s.mmu, s.tag.regime, s.tag.vmid)
            && (!self.bound || self.of.tag.asid == s.tag.asid)
    }

    fn clear(&mut self) {
        (self.bound, self.jumps) = (false, (0, 0));
        if std::mem::take(&mut self.filled) {
            self.entries.fill(NO_ENTRY);
            self.pages.fill(None);
        }
    }
}

fn index(va: u64) -> usize {
    (va >> 12) as usize & (CODE_TLB - 1)
}

/// The pool.
pub(crate) struct CodeTlbs {
    tables: Vec<Table>,
    current: usize,
    clock: u64,
    seen: Seen,
}

impl CodeTlbs {
    pub(crate) fn new() -> Self {
        let tables = vec![Table::new(CodeSpace::default())];
        Self { tables, current: 0, clock: 0, seen: Seen::new() }
    }

    /// Address of the table in use, and the slot id in the low 12 bits of its tags.
    pub(crate) fn place(&self) -> (u64, u64) {
        (self.tables[self.current].entries.as_ptr() as u64, self.slot())
    }

    fn slot(&self) -> u64 {
        (self.current as u64 + 1) << 2
    }

    /// Goes to the table of a space and tells generated code; whether it is another one.
    pub(crate) fn enter(&mut self, to: &CodeSpace, env: &mut JitEnv) -> bool {
        let before = self.current;
        self.tables[before].jumps = env.jump_mark();
        let moved = self.switch(to);
        if moved {
            env.use_jumps(self.tables[self.current].jumps);
            (env.code_tlb, env.code_slot) = self.place();
        }
        moved
    }

    fn switch(&mut self, to: &CodeSpace) -> bool {
        let before = self.current;
        let fitting = |bound: bool| self.tables.iter().position(|t| t.bound == bound && t.fits(to));
        self.current = match fitting(true).or_else(|| fitting(false)) {
            Some(n) => n,
            None => self.make(to),
        };
        self.clock += 1;
        self.tables[self.current].chosen = self.clock;
        self.current != before
    }

    fn make(&mut self, to: &CodeSpace) -> usize {
        if self.tables.len() < POOL {
            self.tables.push(Table::new(*to));
            return self.tables.len() - 1;
        }
        let oldest = (0..POOL).min_by_key(|n| self.tables[*n].chosen).unwrap_or(0);
        self.tables[oldest].clear();
        self.tables[oldest].of = *to;
        oldest
    }

    /// The page object for the page of `pc`, if the table in use has it.
    pub(crate) fn page(&self, pc: u64) -> Option<&Arc<PageCode>> {
        let (t, n) = (self.tables.get(self.current)?, index(pc));
        let hit = t.entries.get(n)?.tag == pc & !0xfff | self.slot();
        t.pages.get(n).filter(|_| hit)?.as_ref()
    }

    /// Code on the page of `pc` is about to run. True: jump caches and predicted returns must be forgotten,
    /// since pages that are in no table any more are not known to hold code from here on.
    pub(crate) fn runs_on(&mut self, pc: u64) -> bool {
        self.seen.add(pc);
        if self.seen.bits <= SEEN / 2 {
            return false;
        }
        self.seen = Seen::new();
        let tags = self.tables.iter().flat_map(|t| t.entries.iter().map(|e| e.tag));
        tags.filter(|t| *t != NO_ENTRY.tag).for_each(|t| self.seen.add(t));
        self.seen.add(pc);
        true
    }

    /// Puts a page into the table in use, which is of the space `of`; after [`Self::runs_on`].
    pub(crate) fn put(&mut self, pc: u64, page: &Arc<PageCode>, of: &CodeSpace, global: bool) {
        let tag = pc & !0xfff | self.slot();
        let t = &mut self.tables[self.current];
        if !global && !t.bound {
            (t.bound, t.of) = (true, *of);
        }
        t.filled = true;
        t.entries[index(pc)] = CodeTlbEntry { tag, entries: page.entries.as_ptr() as u64 };
        t.pages[index(pc)] = Some(Arc::clone(page));
    }

    /// Forgets pages of every table. Whether jump caches and predicted returns may lead to some of them.
    pub(crate) fn forget(&mut self, what: Forget) -> bool {
        let Forget::Pages(va, len) = what else {
            let current = &self.tables[self.current];
            let hit = what.takes(current.of.tag, current.bound);
            for t in self.tables.iter_mut().filter(|t| what.takes(t.of.tag, t.bound)) {
                t.clear();
            }
            return hit;
        };
        let pages = (0..len.div_ceil(4096)).map(|n| va.wrapping_add(n * 4096));
        let mut hit = false;
        for at in pages.filter(|at| self.seen.has(*at)) {
            hit = true;
            let n = index(at);
            let same = |t: &&mut Table| (t.entries[n].tag ^ at) & VA_BITS == 0;
            for t in self.tables.iter_mut().filter(same) {
                t.entries[n] = NO_ENTRY;
                t.pages[n] = None;
            }
        }
        hit
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use super::*;
    use crate::cache::{Cache, RamPage};

    fn space(mode: u64, asid: u16) -> CodeSpace {
        CodeSpace { mode, mmu: 1, tag: TlbTag { regime: 0, asid, vmid: 0 } }
    }

    fn a_page() -> Arc<PageCode> {
        let ram = RamPage { host: 0x1000, block: Weak::new(), offset: 0 };
        Cache::new(1 << 20).unwrap().page(&ram, 7)
    }

    #[test]
    fn modes_and_address_spaces_keep_their_pages() {
        let (mut t, page) = (CodeTlbs::new(), a_page());
        t.switch(&space(1, 1));
        t.put(0x5000, &page, &space(1, 1), false);
        let first = t.place();
        for other in [space(2, 1), space(1, 2)] {
            assert!(t.switch(&other));
            assert!(t.page(0x5000).is_none());
            assert_ne!(t.place(), first);
        }
        assert!(t.switch(&space(1, 1)));
        assert!(t.page(0x5008).is_some() && t.page(0x6000).is_none());
        assert_eq!(t.place(), first);
        // More than the pool holds.
        for n in 0..POOL as u16 {
            t.switch(&space(1, 100 + n));
            assert!(t.page(0x5000).is_none());
            t.put(0x7000, &page, &space(1, 100 + n), false);
        }
        t.switch(&space(1, 1));
        assert!(t.page(0x5000).is_none() && t.page(0x7000).is_none());
    }

    #[test]
    fn the_jump_cache_is_of_a_table_until_it_is_forgotten() {
        let (mut t, page, mut env) = (CodeTlbs::new(), a_page(), JitEnv::default());
        let epoch = |t: &mut CodeTlbs, env: &mut JitEnv, s: CodeSpace| {
            t.enter(&s, env);
            t.put(0x5000, &page, &s, false);
            env.jump_epoch
        };
        let one = epoch(&mut t, &mut env, space(1, 1));
        let two = epoch(&mut t, &mut env, space(2, 1));
        assert_ne!(one, two);
        assert_eq!(epoch(&mut t, &mut env, space(1, 1)), one);
        env.forget_jumps();
        let after = env.jump_epoch;
        assert!(![one, two].contains(&after));
        let two_after = epoch(&mut t, &mut env, space(2, 1));
        assert!(![one, two, after].contains(&two_after));
        assert_eq!(epoch(&mut t, &mut env, space(1, 1)), after);
        // A table that becomes another space's takes no entries along.
        let mut seen = vec![after, two_after];
        for n in 0..2 * POOL as u16 {
            let e = epoch(&mut t, &mut env, space(1, 100 + n));
            assert!(!seen.contains(&e));
            seen.push(e);
        }
        assert!(!seen.contains(&epoch(&mut t, &mut env, space(1, 1))));
    }

    #[test]
    fn global_pages_are_of_every_asid() {
        let (mut t, page) = (CodeTlbs::new(), a_page());
        t.switch(&space(1, 1));
        t.put(0x5000, &page, &space(1, 1), true);
        assert!(!t.switch(&space(1, 2)));
        assert!(t.page(0x5000).is_some());
        t.put(0x6000, &page, &space(1, 2), false);
        assert!(t.switch(&space(1, 1)));
        assert!(t.page(0x6000).is_none());
        let vm = CodeSpace { tag: TlbTag { vmid: 3, ..space(1, 1).tag }, ..space(1, 1) };
        assert!(t.switch(&vm));
        assert!(t.page(0x5000).is_none());
    }

    #[test]
    fn maintenance_reaches_tables_that_are_not_in_use() {
        let asid = |a| Forget::Spaces { regimes: 1, asid: Some(a), vmid: None };
        let all = Forget::ALL;
        let pages = Forget::Pages;
        let cases = [
            (pages(0x5000, 4096), false),
            (pages(0x3000, 0x3000), false),
            (pages(0x6000, 4096), true),
            (asid(1), false),
            (asid(2), true),
            (all, false),
        ];
        let page = a_page();
        for (what, kept) in cases {
            let mut t = CodeTlbs::new();
            t.switch(&space(1, 1));
            t.runs_on(0x5000);
            t.put(0x5000, &page, &space(1, 1), false);
            t.switch(&space(2, 2));
            t.forget(what);
            t.switch(&space(1, 1));
            assert_eq!(t.page(0x5000).is_some(), kept, "{what:?}");
        }
    }

    #[test]
    fn maintenance_of_what_holds_no_code_says_so() {
        let (mut t, page) = (CodeTlbs::new(), a_page());
        t.switch(&space(1, 1));
        assert!(!t.runs_on(0x5000));
        t.put(0x5000, &page, &space(1, 1), false);
        let asid = |a| Forget::Spaces { regimes: 1, asid: Some(a), vmid: None };
        assert!(!t.forget(Forget::Pages(0x6000, 0x8000)));
        assert!(!t.forget(asid(2)));
        assert!(t.forget(Forget::Pages(0x4000, 0x2000)));
        // The page may be in jump caches though its place in the table was taken, or cleared.
        t.put(0x5000 + ((CODE_TLB as u64) << 12), &page, &space(1, 1), false);
        assert!(t.forget(Forget::Pages(0x5000, 4096)));
        // Not in use: its part of the jump cache goes when it is entered.
        t.switch(&space(2, 2));
        assert!(!t.forget(asid(1)) && t.forget(Forget::ALL));
    }

    #[test]
    fn pages_with_code_are_known_however_many_there_were() {
        let (mut t, page) = (CodeTlbs::new(), a_page());
        t.switch(&space(1, 1));
        t.runs_on(0x5000);
        t.put(0x5000, &page, &space(1, 1), false);
        let mut gathered = 0;
        for n in 0..SEEN as u64 {
            let at = n << 12 | 1 << 40;
            if t.runs_on(at) {
                gathered += 1;
                assert!(t.forget(Forget::Pages(at, 4096)), "the one about to run");
            }
        }
        assert_eq!(gathered, 2);
        assert!(t.forget(Forget::Pages(0x5000, 4096)), "in a table");
        assert!(!t.forget(Forget::Pages(1 << 40, 4096)), "long gone");
    }
}
