//! `-accel tcg,x-check-tlb=N`: after every Nth fill of the first-level TLB, all entries of the tables in use are
//! looked at, and with every Nth look-up the page of code that it found.
//!
//! Two questions are asked of an entry. *May it be there?* A plain list of all walks ([`Model`]) is kept,
//! from which maintenance takes what the guest named, by a search through all of it; an entry whose walk is not in the
//! list (same context, same page of RAM, enough permission) survived maintenance or a change of context. *Is it
//! true?* The guest's tables are walked again, without writing to them: a walk that ends at another page of RAM
//! is an error of ours, as long as the guest breaks before it makes (Arm ARM D8.17.1); one that faults, or
//! permits less, is not, since tables may change before maintenance. A write that would take the inline path
//! although its page is clean or holds translated code is an error too.
//!
//! What another vCPU asked for and this one has not done yet makes a look impossible: it is skipped. What
//! is found ends the emulator with status 1. Each look costs a walk per entry, some 0.1 us.
//!
//! Not modelled: maintenance by ASID or VMID beyond what `TlbFlush` says.
//! UNSAFE: none.

use std::sync::atomic::{AtomicU64, Ordering};

use jit_ir::cpu::TlbTag;
use jit_ir::env::MMUS;
use jit_ir::{AccessKind, JitCpu, PhysMem, TlbFlush};
use rustc_hash::FxHashMap;

use crate::access::Phys;
use crate::l1::L1Entry;
use crate::ram::Ram;
use crate::tlb::{L2Entry, flag};
use crate::vcpu::Core;

/// Bits of an address that maintenance compares.
const VA_BITS: u64 = 0x00ff_ffff_ffff_ffff;
/// Walks in the list at most; beyond it everything is forgotten.
const MOST: usize = 200_000;

/// A walk that was made.
#[derive(Clone, Copy, Debug)]
struct Known {
    asid: u16,
    host: u64,
    flags: u8,
    size_log2: u8,
}

/// Page, mmu index, regime, VMID.
type Key = (u64, u8, u8, u16);

/// All walks that may still be used.
#[derive(Default)]
struct Model {
    walks: FxHashMap<Key, Vec<Known>>,
}

impl Model {
    fn insert(&mut self, e: &L2Entry, mmu: u8, tag: TlbTag, size_log2: u8) {
        let list = self.walks.entry((e.page, mmu, tag.regime, tag.vmid)).or_default();
        list.retain(|k| k.asid != tag.asid);
        list.push(Known { asid: tag.asid, host: e.host, flags: e.flags, size_log2 });
    }

    fn flush(&mut self, what: &TlbFlush) {
        let goes = |key: &Key, k: &Known| {
            let (page, _, regime, vmid) = *key;
            let start = page & VA_BITS & !((1u64 << k.size_log2.clamp(12, 52)) - 1);
            let len = 1u64 << k.size_log2.clamp(12, 52);
            let in_range = what.va.is_none_or(|(va, bytes)| {
                let va = va & VA_BITS & !0xfff;
                va < start.saturating_add(len) && start < va.saturating_add(bytes)
            });
            let global = k.flags & flag::GLOBAL != 0;
            let asid = what.asid.is_none_or(|a| if global { what.globals } else { a == k.asid });
            let regimes = what.regimes >> (regime & 3) & 1 != 0;
            regimes && in_range && asid && what.vmid.is_none_or(|v| v == vmid)
        };
        self.walks.retain(|key, list| {
            list.retain(|k| !goes(key, k));
            !list.is_empty()
        });
    }

    /// Whether a page may be used in this context, with these permissions.
    fn allows(&self, page: u64, mmu: u8, tag: TlbTag, host: u64, want: u8) -> bool {
        let list = self.walks.get(&(page, mmu, tag.regime, tag.vmid));
        list.into_iter().flatten().any(|k| {
            let mine = k.asid == tag.asid || k.flags & flag::GLOBAL != 0;
            mine && k.host == host && k.flags & want == want && k.flags & flag::STRICT == 0
        })
    }
}

/// One vCPU's side.
pub(crate) struct TlbCheck {
    every: u32,
    fills: u32,
    lookups: u32,
    model: Model,
}

/// Numbers for `info jit`.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub(crate) entries: AtomicU64,
    pub(crate) skipped: AtomicU64,
}

/// Physical memory that a walk does not write.
struct ReadOnly<'a>(Phys<'a>);

impl PhysMem for ReadOnly<'_> {
    fn read(&mut self, pa: u64, bytes: u32, secure: bool) -> Option<u64> {
        self.0.read(pa, bytes, secure)
    }
    fn cas64(&mut self, pa: u64, old: u64, _: u64, secure: bool) -> Option<bool> {
        self.0.read(pa, 8, secure).map(|now| now == old)
    }
}

/// What an entry permits inline.
#[derive(Clone, Copy)]
struct Live {
    page: u64,
    host: u64,
    kind: AccessKind,
}

fn live(e: &L1Entry, kind: AccessKind) -> Option<Live> {
    let tag = if kind == AccessKind::Write { &e.write } else { &e.read };
    let page = tag.load(Ordering::Relaxed);
    let host = page.wrapping_add(e.addend.load(Ordering::Relaxed));
    (page & 0xfff == 0).then_some(Live { page, host, kind })
}

impl TlbCheck {
    pub(crate) fn new(every: u32) -> Option<Box<Self>> {
        let new = |every| Box::new(Self { every, fills: 0, lookups: 0, model: Model::default() });
        (every != 0).then(|| new(every))
    }
}

impl Core {
    /// A walk was made for `e`.
    pub(crate) fn note_walk(&mut self, e: &L2Entry, mmu: u8, size_log2: u8) {
        let tag = self.tags[usize::from(mmu & 15)];
        if let Some(c) = &mut self.check {
            c.model.insert(e, mmu, tag, size_log2);
        }
    }

    /// Maintenance was done.
    pub(crate) fn note_flush(&mut self, what: &TlbFlush) {
        if let Some(c) = &mut self.check {
            c.model.flush(what);
        }
    }

    /// A page was put into the first level.
    pub(crate) fn check_fill(&mut self, cpu: &mut dyn JitCpu) {
        let Some(c) = &mut self.check else { return };
        c.fills += 1;
        if c.fills < c.every {
            return;
        }
        c.fills = 0;
        if c.model.walks.len() > MOST {
            self.flush_all(cpu);
            return;
        }
        if !self.may_check() {
            return;
        }
        let mut entries = 0;
        for mmu in 0..MMUS as u8 {
            let tag = cpu.tlb_tag(mmu);
            if tag != self.tags[usize::from(mmu)] {
                continue;
            }
            let all: Vec<_> = {
                let table = self.l1.in_use(mmu).iter();
                table
                    .flat_map(|e| [live(e, AccessKind::Read), live(e, AccessKind::Write)])
                    .collect()
            };
            for l in all.into_iter().flatten() {
                entries += 1;
                if let Some(why) = self.wrong_entry(cpu, l, mmu, tag) {
                    self.found(cpu, &why);
                    return;
                }
            }
        }
        self.engine.checked.entries.fetch_add(entries, Ordering::Relaxed);
    }

    /// Code at the PC was looked up.
    pub(crate) fn check_lookup(&mut self, cpu: &mut dyn JitCpu) {
        let Some(c) = &mut self.check else { return };
        c.lookups += 1;
        if c.lookups < c.every {
            return;
        }
        c.lookups = 0;
        let (pc, mode) = (cpu.env().pc(), cpu.code_mode(0));
        if !self.may_check() || cpu.tlb_tag(mode.mmu) != self.tags[usize::from(mode.mmu & 15)] {
            return;
        }
        let Ok(page) = self.code_page(cpu, pc) else { return };
        let host = page.ram.host;
        if let Some(other) =
            self.walk_again(cpu, pc, AccessKind::Exec, mode.mmu).filter(|h| *h != host)
        {
            self.found(cpu, &format!("code at {pc:#x}: page {host:#x}, walk {other:#x}"));
        }
        self.engine.checked.entries.fetch_add(1, Ordering::Relaxed);
    }

    /// Nothing is on its way here that would change the answer.
    fn may_check(&self) -> bool {
        let quiet = self.peer.waiting.load(Ordering::SeqCst) == 0
            && self.engine.memory.generation() == self.view_of(false).generation();
        if !quiet {
            self.engine.checked.skipped.fetch_add(1, Ordering::Relaxed);
        }
        quiet
    }

    /// Host address of the page that the guest's tables give now; `None` = a fault, or no RAM.
    fn walk_again(
        &mut self,
        cpu: &mut dyn JitCpu,
        va: u64,
        kind: AccessKind,
        mmu: u8,
    ) -> Option<u64> {
        let (view, secure) = self.views();
        let mut ram = Ram::default();
        let mut memory = ReadOnly(Phys { plain: &view, secure: &secure, ram: &mut ram });
        let m = cpu.translate(va, kind, mmu, &mut memory).ok()?;
        let ram = if m.secure { secure.ram_at(m.pa & !0xfff) } else { view.ram_at(m.pa & !0xfff) };
        Some(ram?.host as u64)
    }

    fn wrong_entry(
        &mut self,
        cpu: &mut dyn JitCpu,
        l: Live,
        mmu: u8,
        tag: TlbTag,
    ) -> Option<String> {
        let Live { page, host, kind } = l;
        let name =
            format!("{kind:?} of page {page:#x}, mmu index {mmu}, {tag:?}, host page {host:#x}");
        let want = if kind == AccessKind::Write { flag::WRITE } else { flag::READ };
        let model = &self.check.as_ref()?.model;
        if !model.allows(page, mmu, tag, host, want) {
            let list = model.walks.get(&(page, mmu, tag.regime, tag.vmid));
            return Some(format!("{name}: no walk in force permits it; known: {list:x?}"));
        }
        if let Some(other) = self.walk_again(cpu, page, kind, mmu).filter(|h| *h != host) {
            return Some(format!("{name}: a walk gives {other:#x}"));
        }
        if kind == AccessKind::Write {
            return self.unnoticed_write(page, mmu, host).map(|why| format!("{name}: {why}"));
        }
        None
    }

    /// Why writes to the page must not go past the engine.
    fn unnoticed_write(&self, page: u64, mmu: u8, host: u64) -> Option<&'static str> {
        let holds = |b: &&std::sync::Arc<guest_ram::RamBlock>| {
            let start = b.host_ptr() as u64;
            host >= start && host - start < b.len()
        };
        let block = (0..).map_while(|n| self.ram.block(n)).find(holds)?;
        let clean = !block.dirty().is_dirty((host - block.host_ptr() as u64) >> 12);
        if !clean && !self.engine.code_pages.contains(host) {
            return None;
        }
        // Somebody may be about to take the permission away: under the lock it is done.
        let _cache = self.engine.cache.lock();
        if self.l1.slot(mmu, page).write.load(Ordering::SeqCst) != page {
            return None;
        }
        if self.engine.code_pages.contains(host) {
            return Some("the page holds translated code");
        }
        clean.then_some("the page is clean")
    }

    fn found(&mut self, cpu: &mut dyn JitCpu, why: &str) {
        self.wrong =
            Some(format!("x-check-tlb: CPU {} at {:#x}: {why}", self.index, cpu.env().pc()));
        cpu.env().kick();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: TlbTag = TlbTag { regime: 0, asid: 1, vmid: 0 };

    fn entry(page: u64, flags: u8) -> L2Entry {
        L2Entry { page, host: page + 0x7000_0000, flags, ..L2Entry::default() }
    }

    fn with(flags: u8, size_log2: u8, what: TlbFlush) -> bool {
        let mut m = Model::default();
        m.insert(&entry(0x40_3000, flags), 0, TAG, size_log2);
        assert!(m.allows(0x40_3000, 0, TAG, 0x7040_3000, flag::READ));
        m.flush(&what);
        m.allows(0x40_3000, 0, TAG, 0x7040_3000, flag::READ)
    }

    #[test]
    fn the_list_loses_what_maintenance_names() {
        let all = TlbFlush { regimes: 1, ..TlbFlush::default() };
        let va = |va| TlbFlush { va: Some((va, 4096)), ..all };
        let (plain, global) = (flag::READ, flag::READ | flag::GLOBAL);
        assert!(!with(plain, 12, all));
        assert!(with(plain, 12, TlbFlush { regimes: 2, ..all }));
        assert!(!with(plain, 12, va(0x40_3000)));
        assert!(!with(plain, 12, va(0xab00_0000_0040_3000)), "the top byte does not count");
        assert!(with(plain, 12, va(0x40_4000)));
        assert!(!with(plain, 21, va(0x5f_f000)), "in the same block");
        assert!(with(plain, 21, va(0x60_0000)));
        let asid = |asid, globals| TlbFlush { asid: Some(asid), globals, ..all };
        assert!(!with(plain, 12, asid(1, false)));
        assert!(with(plain, 12, asid(2, false)));
        assert!(with(global, 12, asid(1, false)));
        assert!(!with(global, 12, asid(2, true)));
        assert!(with(plain, 12, TlbFlush { vmid: Some(1), ..all }));
        assert!(!with(plain, 12, TlbFlush { vmid: Some(0), ..all }));
    }

    #[test]
    fn only_the_same_context_and_page_is_allowed() {
        let mut m = Model::default();
        m.insert(&entry(0x1000, flag::READ), 0, TAG, 12);
        m.insert(&entry(0x2000, flag::READ | flag::GLOBAL), 0, TAG, 12);
        let other = TlbTag { asid: 2, ..TAG };
        assert!(!m.allows(0x1000, 0, other, 0x7000_1000, flag::READ));
        assert!(m.allows(0x2000, 0, other, 0x7000_2000, flag::READ));
        assert!(!m.allows(0x1000, 1, TAG, 0x7000_1000, flag::READ));
        assert!(!m.allows(0x1000, 0, TAG, 0x7000_3000, flag::READ), "another page of RAM");
        assert!(!m.allows(0x1000, 0, TAG, 0x7000_1000, flag::WRITE));
    }
}
