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
use jit_ir::env::CodeTlbEntry;

use crate::cache::PageCode;
use crate::tlb::{Forget, VA_BITS};

const NO_ENTRY: CodeTlbEntry = CodeTlbEntry { tag: u64::MAX, entries: 0 };
/// Tables at most.
const POOL: usize = 24;

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
    entries: Box<[CodeTlbEntry]>,
    /// The page objects behind `entries`, same index.
    pages: Vec<Option<Arc<PageCode>>>,
}

impl Table {
    fn new(of: CodeSpace) -> Self {
        let entries = vec![NO_ENTRY; CODE_TLB].into_boxed_slice();
        let pages = vec![None; CODE_TLB];
        Self { of, bound: false, filled: false, chosen: 0, entries, pages }
    }

    fn fits(&self, s: &CodeSpace) -> bool {
        let a = (self.of.mode, self.of.mmu, self.of.tag.regime, self.of.tag.vmid);
        a == (s.mode, s.mmu, s.tag.regime, s.tag.vmid)
            && (!self.bound || self.of.tag.asid == s.tag.asid)
    }

    fn clear(&mut self) {
        self.bound = false;
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
}

impl CodeTlbs {
    pub(crate) fn new() -> Self {
        Self { tables: vec![Table::new(CodeSpace::default())], current: 0, clock: 0 }
    }

    /// Address of the table in use, and the slot id in the low 12 bits of its tags.
    pub(crate) fn place(&self) -> (u64, u64) {
        (self.tables[self.current].entries.as_ptr() as u64, self.slot())
    }

    fn slot(&self) -> u64 {
        (self.current as u64 + 1) << 2
    }

    /// Goes to the table of a space; whether it is another one.
    pub(crate) fn switch(&mut self, to: &CodeSpace) -> bool {
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

    /// Puts a page into the table in use, which is of the space `of`.
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

    /// Forgets pages of every table.
    pub(crate) fn forget(&mut self, what: Forget) {
        if let Forget::Pages(va, len) = what {
            for at in (0..len.div_ceil(4096)).map(|n| va.wrapping_add(n * 4096)) {
                let n = index(at);
                let hit = |t: &&mut Table| (t.entries[n].tag ^ at) & VA_BITS == 0;
                for t in self.tables.iter_mut().filter(hit) {
                    t.entries[n] = NO_ENTRY;
                    t.pages[n] = None;
                }
            }
            return;
        }
        for t in &mut self.tables {
            if what.takes(t.of.tag, t.bound) {
                t.clear();
            }
        }
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
            t.put(0x5000, &page, &space(1, 1), false);
            t.switch(&space(2, 2));
            t.forget(what);
            t.switch(&space(1, 1));
            assert_eq!(t.page(0x5000).is_some(), kept, "{what:?}");
        }
    }
}
