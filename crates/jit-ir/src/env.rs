//! The part of the CPU state that the engine and generated code own.
//!
//! The guest embeds one [`JitEnv`] in its `#[repr(C)]` state struct and never looks inside, except
//! for the PC. Offsets are taken with `offset_of!` by host backends. All raw addresses in here are
//! written and dereferenced by `accel-jit` and generated code alone.

use std::sync::atomic::{AtomicI32, Ordering};

use crate::helper::Services;

/// Number of translation regimes (mmu indices).
pub const MMUS: usize = 16;
/// Slots of merged access checks.
pub const MERGED: usize = 8;
/// Pages that accesses of a loop remember.
pub const PAGES: usize = 8;
/// Entries of the return ring (a power of two).
pub const RING: usize = 16;

/// One second of the inline TLB: tag compares equal to the page VA only if the access needs no
/// help; flag bits in the low 12 bits make it fail.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TlbEntry {
    /// Page VA for reads, or something that never compares equal.
    pub read: u64,
    /// Page VA for writes, likewise.
    pub write: u64,
    /// Host address minus guest VA.
    pub addend: u64,
    /// Physical page address (engine's own use).
    pub pa: u64,
}

/// A tag that never equals a page address.
pub const TAG_INVALID: u64 = 0xfff;

impl TlbEntry {
    /// Matches nothing.
    pub const EMPTY: Self = Self { read: TAG_INVALID, write: TAG_INVALID, addend: 0, pa: 0 };
}

/// Where a regime's table is: entry = base + ((va >> 12) * 32 & mask).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TlbTable {
    /// (entries - 1) * 32.
    pub mask: u64,
    /// Host address of the first [`TlbEntry`].
    pub base: u64,
}

/// One entry of the code TLB: VA page -> entry table of the page's translations.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CodeTlbEntry {
    /// VA page | code slot id (low 12 bits); `u64::MAX` = empty.
    pub tag: u64,
    /// Host address of the page's entry table: 1024 x u32, offset of the block's host code from
    /// the code base (0 = not translated), indexed by page offset / 4.
    pub entries: u64,
}

/// One entry of the return ring.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RingEntry {
    /// Return VA; `u64::MAX` = empty.
    pub va: u64,
    /// Host code to continue at (expects `page` to be set).
    pub host: u64,
}

/// Entries of the jump cache (a power of two).
pub const JUMPS: usize = 4096;

/// One entry of the jump cache: where computed branches went.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct JumpEntry {
    /// Target VA.
    pub va: u64,
    /// Its host code, from the code base.
    pub code: u32,
    /// Counts only while this is [`JitEnv::jump_epoch`].
    pub epoch: u32,
}

impl JumpEntry {
    /// Of no epoch.
    pub const EMPTY: Self = Self { va: 0, code: 0, epoch: 0 };
}

/// A page that an access in a loop went to last: an access at `va` goes there again if
/// `va - tag < limit` (unsigned).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct LoopPage {
    /// VA of the page.
    pub tag: u64,
    /// First offset in the page at which the access, with all that it stands for, does not fit; 0 =
    /// nothing is remembered.
    pub limit: u64,
    /// Host address minus VA.
    pub addend: u64,
}

impl LoopPage {
    /// Remembers nothing.
    pub const EMPTY: Self = Self { tag: 0, limit: 0, addend: 0 };
}

/// Engine state inside the CPU state. What translated code names most comes first: instructions that
/// reach it are short.
#[repr(C)]
#[derive(Debug)]
pub struct JitEnv {
    /// Negative: leave at the next poll.
    pub request: AtomicI32,
    /// Epoch of the entries of the jump cache that count, never 0. Every mode and address space has its
    /// own.
    pub jump_epoch: u32,
    /// Set by helpers: leave after the helper returns.
    pub helper_exit: u32,
    /// The newest epoch.
    jump_newest: u32,
    /// VA of the current code page.
    pub page: u64,
    /// Offset of the current instruction from `page`; exact whenever the engine or a helper
    /// that may fault runs. PC = page + offset (may exceed the page by design).
    pub offset: u64,
    /// Host address that entry-table offsets count from.
    pub code_base: u64,
    /// The newest ring entry: its distance from the first in bytes.
    pub ring_top: u64,
    /// Host back end: host address minus VA for accesses that share a TLB check, 0 = none. Zeroed by
    /// the engine when it forgets TLB entries.
    pub merged: [u64; MERGED],
    /// Inline TLBs.
    pub tlb: [TlbTable; MMUS],
    /// Host back end: pages of a loop's accesses; a loop empties those it uses when it is entered, the
    /// engine when it forgets TLB entries.
    pub pages: [LoopPage; PAGES],
    /// Code slot id: low 12 bits of code-TLB tags.
    pub code_slot: u64,
    /// Host address of the code TLB (array of [`CodeTlbEntry`]).
    pub code_tlb: u64,
    /// With an instruction counter: instructions that may still be executed. A block takes its own off
    /// when it is entered, and leaves instead if there are not as many.
    pub budget: AtomicI32,
    /// Set when a block left for want of budget.
    pub budget_short: u32,
    /// Return ring.
    pub ring: [RingEntry; RING],
    /// Exclusive monitor: VA, `u64::MAX` = clear.
    pub excl_addr: u64,
    /// Exclusive monitor: value, low and high.
    pub excl_value: [u64; 2],
    /// Which exit was taken, for chaining: host address to patch, 0 = none.
    pub patch_site: u64,
    /// Argument and result area of memory slow paths (16-byte values).
    pub wide: [u64; 4],
    /// Operands and result of floating-point ops that generated code calls for.
    pub fp: crate::fp::FpArea,
    /// Host back end: an op's [`crate::fp::FpDesc`] on its way to [`crate::fp::slow`].
    pub fp_desc: u64,
    /// Host back end: image of the host's floating-point control and flags.
    pub host_fp: u64,
    /// Host address of the running vCPU's engine object.
    pub engine: u64,
    /// Scratch of the host backend (spills).
    pub spill: [u64; 128],
    /// Host return state of the entry thunk (stack pointer).
    pub host_sp: u64,
    /// Jump cache; generated code fills it from the code TLB.
    pub jumps: [JumpEntry; JUMPS],
    /// How often all entries were forgotten.
    jump_era: u64,
    /// Counters for `info jit`: slow memory accesses, helper calls, dispatch misses.
    pub counters: [u64; 4],
    services: Option<ServicesPtr>,
}

#[derive(Clone, Copy, Debug)]
struct ServicesPtr(*mut (dyn Services + 'static));
// SAFETY: the pointer is only dereferenced by helper trampolines on the thread that runs the vCPU;
// the engine sets it before it enters generated code on that thread.
unsafe impl Send for ServicesPtr {}

impl Default for JitEnv {
    fn default() -> Self {
        Self {
            request: AtomicI32::new(0),
            jump_epoch: 1,
            helper_exit: 0,
            jump_newest: 1,
            page: 0,
            offset: 0,
            code_base: 0,
            ring_top: 0,
            merged: [0; MERGED],
            tlb: [TlbTable { mask: 0, base: 0 }; MMUS],
            pages: [LoopPage::EMPTY; PAGES],
            code_slot: 0,
            code_tlb: 0,
            budget: AtomicI32::new(0),
            budget_short: 0,
            ring: [RingEntry { va: u64::MAX, host: 0 }; RING],
            excl_addr: u64::MAX,
            excl_value: [0; 2],
            patch_site: 0,
            wide: [0; 4],
            fp: [0; 6],
            fp_desc: 0,
            host_fp: 0,
            engine: 0,
            spill: [0; 128],
            host_sp: 0,
            jumps: [JumpEntry::EMPTY; JUMPS],
            jump_era: 1,
            counters: [0; 4],
            services: None,
        }
    }
}

impl JitEnv {
    /// The guest's program counter (exact outside generated code and in helpers that declare
    /// [`crate::Effects::MAY_EXIT`]).
    #[must_use]
    pub fn pc(&self) -> u64 {
        self.page.wrapping_add(self.offset)
    }

    /// Sets the program counter.
    pub fn set_pc(&mut self, pc: u64) {
        self.page = pc & !0xfff;
        self.offset = pc & 0xfff;
    }

    fn new_jump_epoch(&mut self) -> u32 {
        self.jump_newest = match self.jump_newest.checked_add(1) {
            Some(n) => n,
            None => {
                self.jumps = [JumpEntry::EMPTY; JUMPS];
                self.jump_era += 1;
                1
            }
        };
        self.jump_newest
    }

    /// Forgets the jump cache, of all modes and address spaces.
    pub fn forget_jumps(&mut self) {
        self.jump_era += 1;
        self.jump_epoch = self.new_jump_epoch();
    }

    /// What the jump cache holds now, for [`JitEnv::use_jumps`].
    #[must_use]
    pub fn jump_mark(&self) -> (u64, u32) {
        (self.jump_era, self.jump_epoch)
    }

    /// Goes to what the jump cache held at a mark, or to nothing if it was forgotten since (or never was:
    /// the default mark).
    pub fn use_jumps(&mut self, mark: (u64, u32)) {
        self.jump_epoch = if mark.0 == self.jump_era { mark.1 } else { self.new_jump_epoch() };
    }

    /// Makes generated code return to the run loop when the running helper returns.
    pub fn exit_after_helper(&mut self) {
        self.helper_exit = 1;
    }

    /// Asks the vCPU to leave generated code at its next poll (any thread).
    pub fn kick(&self) {
        self.request.store(-1, Ordering::Release);
    }

    /// Clears the exclusive monitor.
    pub fn clear_exclusive(&mut self) {
        self.excl_addr = u64::MAX;
    }

    /// Sets the object that helpers of this CPU reach as [`Services`]. The engine calls it before
    /// each entry into generated code and keeps the object alive and otherwise untouched meanwhile.
    pub fn set_services(&mut self, services: *mut (dyn Services + 'static)) {
        self.services = Some(ServicesPtr(services));
    }

    pub(crate) fn services(&self) -> Option<*mut (dyn Services + 'static)> {
        self.services.map(|s| s.0)
    }
}
