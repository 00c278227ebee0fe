//! Breakpoints, watchpoints and single steps: those of a debugger outside and the guest's own.
//!
//! Pages with breakpoints are translated anew, as a variant of their own (bits of the cache key), in
//! which no block runs into a stop address and no stop address has an entry. So whatever reaches one
//! comes to [`Core::find`], which asks here. Pages with watched bytes stay out of the first-level TLB,
//! so their accesses come to `access`, which asks here too. Guests without stops pay nothing.
//!
//! A single instruction (a step, or a stop address whose conditions do not hold) is translated as a
//! block of its own kind that is never linked from or to anything.
//! UNSAFE: none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use accel::debug::MAX_POINTS;
use accel::{DebugError, DebugStop, Watchpoint};
use jit_ir::{AccessKind, DebugPoints, JitCpu, MemFault};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::cache::PageCode;
use crate::exclusive::Message;
use crate::vcpu::{Core, JitVcpu};

/// Key bit of blocks that hold one instruction and are never linked.
pub(crate) const SINGLE: u64 = 1 << 39;
/// Key bits of the variant: which set of stop addresses the page was translated for.
const VARIANT_AT: u32 = 40;
const VARIANTS: u32 = 1 << 20;

/// The debugger's points.
#[derive(Clone, Debug, Default)]
pub(crate) struct Points {
    breaks: Vec<u64>,
    watches: Vec<Watchpoint>,
}

/// What a VM's vCPUs share.
#[derive(Default)]
pub(crate) struct Debug {
    points: Mutex<Arc<Points>>,
    /// Numbers of sets of stop addresses.
    variants: Mutex<FxHashMap<Vec<u64>, u32>>,
    next: AtomicU32,
}

impl Debug {
    fn variant(&self, stops: &[u64]) -> u32 {
        if stops.is_empty() {
            return 0;
        }
        let mut known = self.variants.lock();
        if let Some(n) = known.get(stops) {
            return *n;
        }
        // A guest may make up any number of sets; old numbers only cost a new translation.
        if known.len() >= 4096 {
            known.clear();
        }
        let n = self.next.fetch_add(1, Ordering::Relaxed) % (VARIANTS - 1) + 1;
        known.insert(stops.to_vec(), n);
        n
    }

    fn change(
        &self,
        f: impl FnOnce(&mut Points) -> Result<(), DebugError>,
    ) -> Result<(), DebugError> {
        let mut held = self.points.lock();
        let mut next = Points::clone(&held);
        f(&mut next)?;
        *held = Arc::new(next);
        Ok(())
    }

    pub(crate) fn insert_break(&self, addr: u64) -> Result<(), DebugError> {
        self.change(|p| match p.breaks.binary_search(&addr) {
            Ok(_) => Ok(()),
            Err(_) if p.breaks.len() >= MAX_POINTS => Err(DebugError::Invalid),
            Err(at) => {
                p.breaks.insert(at, addr);
                Ok(())
            }
        })
    }

    pub(crate) fn remove_break(&self, addr: u64) -> Result<(), DebugError> {
        self.change(|p| {
            let at = p.breaks.binary_search(&addr).map_err(|_| DebugError::NotFound)?;
            p.breaks.remove(at);
            Ok(())
        })
    }

    pub(crate) fn insert_watch(&self, w: Watchpoint) -> Result<(), DebugError> {
        self.change(|p| {
            let bad = w.len == 0 || w.addr.checked_add(w.len - 1).is_none();
            if bad || p.watches.len() >= MAX_POINTS {
                return Err(DebugError::Invalid);
            }
            if !p.watches.contains(&w) {
                p.watches.push(w);
            }
            Ok(())
        })
    }

    pub(crate) fn remove_watch(&self, w: Watchpoint) -> Result<(), DebugError> {
        self.change(|p| {
            let at = p.watches.iter().position(|o| *o == w).ok_or(DebugError::NotFound)?;
            p.watches.remove(at);
            Ok(())
        })
    }

    pub(crate) fn clear(&self) {
        *self.points.lock() = Arc::default();
    }
}

/// One vCPU's side.
#[derive(Default)]
pub(crate) struct Stops {
    points: Arc<Points>,
    guest: DebugPoints,
    /// All stop addresses, sorted.
    breaks: Vec<u64>,
    variant: u32,
    watching: bool,
    /// The run loop must look: there is a hit or a step to make.
    pub(crate) pending: bool,
    /// The run loop executes one instruction.
    pub(crate) step: bool,
    /// The block to run is a single one: look-ups leave.
    pub(crate) single: bool,
    /// What stopped this vCPU.
    pub(crate) hit: Option<DebugStop>,
}

/// Bits 55..0, extended: addresses compare without their tag.
fn untagged(va: u64) -> u64 {
    ((va << 8) as i64 >> 8) as u64
}

impl Stops {
    /// Stop addresses in the page of `va`, as page offsets.
    fn offsets(&self, va: u64) -> Vec<u32> {
        let page = va & !0xfff;
        let on_page = |a: &&u64| **a & !0xfff == page;
        self.breaks.iter().filter(on_page).map(|a| (a & 0xfff) as u32).collect()
    }

    /// What the cache key of a page gets in addition, and the page's stops.
    #[inline]
    pub(crate) fn of_page(&self, va: u64) -> (u64, Vec<u32>) {
        if self.breaks.is_empty() {
            return (0, Vec::new());
        }
        let offsets = self.offsets(va);
        let variant = if offsets.is_empty() { 0 } else { u64::from(self.variant) };
        (variant << VARIANT_AT, offsets)
    }

    #[inline]
    pub(crate) fn at_stop(&self, pc: u64) -> bool {
        !self.breaks.is_empty() && self.breaks.binary_search(&pc).is_ok()
    }

    /// Whether the page of `va` has watched bytes.
    pub(crate) fn watches(&self, va: u64) -> bool {
        if !self.watching {
            return false;
        }
        let page = untagged(va) & !0xfff;
        let external = self.points.watches.iter().any(|w| w.touches(page, 4096));
        let touches = |(start, len): &(u64, u64)| {
            *start < page.saturating_add(4096) && page < start.saturating_add(*len)
        };
        external || self.guest.watches.iter().any(touches)
    }
}

impl Core {
    /// The points changed, the debugger's or the guest's: translations that do not know go.
    pub(crate) fn reload_stops(&mut self, cpu: &mut dyn JitCpu) {
        let points = Arc::clone(&self.engine.debug.points.lock());
        let guest = cpu.debug_points();
        let s = &mut self.stops;
        if s.guest == guest && Arc::ptr_eq(&s.points, &points) {
            return;
        }
        let mut breaks: Vec<u64> = points.breaks.iter().chain(&guest.breaks).copied().collect();
        breaks.sort_unstable();
        breaks.dedup();
        s.watching = !points.watches.is_empty() || !guest.watches.is_empty();
        s.variant = self.engine.debug.variant(&breaks);
        (s.breaks, s.points, s.guest) = (breaks, points, guest);
        self.flush_all(cpu);
    }

    /// The PC is at a stop address. True: leave, something stopped or the guest took an exception.
    #[cold]
    pub(crate) fn stopped_at(&mut self, cpu: &mut dyn JitCpu, pc: u64) -> bool {
        if self.stops.points.breaks.binary_search(&pc).is_ok() && !self.stops.step {
            self.stops.hit = Some(DebugStop::Breakpoint { addr: pc });
            self.stops.pending = true;
            cpu.env().kick();
            return true;
        }
        cpu.breakpoint()
    }

    /// A block of the one instruction at `pc`, linked to nothing.
    #[cold]
    pub(crate) fn single(&mut self, page: &Arc<PageCode>, pc: u64) -> Option<(Arc<PageCode>, u32)> {
        let engine = Arc::clone(&self.engine);
        let own = engine.cache.lock().page(&page.ram, page.key | SINGLE);
        let known = own.entry(pc & 0xfff).load(Ordering::Acquire);
        self.stops.single = true;
        let entry = match known {
            0 => self.translate(&own, pc, 1, &[])?,
            entry => entry,
        };
        Some((own, entry))
    }

    /// Looks at an access to a watched page before it is made.
    #[cold]
    pub(crate) fn check_watch(
        &mut self,
        cpu: &mut dyn JitCpu,
        va: u64,
        len: u64,
        kind: AccessKind,
    ) -> Result<(), MemFault> {
        let write = kind == AccessKind::Write;
        let at = untagged(va);
        let watches = &self.stops.points.watches;
        let found = watches.iter().find(|w| w.kind.covers(write) && w.touches(at, len));
        if let Some(point) = found.filter(|_| !self.stops.step) {
            self.stops.hit = Some(DebugStop::Watchpoint { point: *point, addr: va, write });
            self.stops.pending = true;
            cpu.env().kick();
            return Err(MemFault { va, code: MemFault::DEBUG_STOP, extra: 0, kind });
        }
        cpu.watchpoint(va, len, kind).map_or(Ok(()), Err)
    }
}

impl JitVcpu {
    /// Executes one instruction and no interrupt.
    #[cold]
    pub(crate) fn step_once(&mut self, native: bool) {
        let cpu = &mut *self.cpu;
        let core = &mut *self.core;
        if !cpu.runnable() {
            return;
        }
        core.update_mode(cpu);
        // Inline look-ups of the block must miss, or it would not stay at one instruction.
        core.clear_code_tlb();
        Core::clear_ring(cpu);
        let pc = cpu.env().pc();
        cpu.env().set_pc(pc);
        if pc & 3 != 0 || (core.stops.at_stop(pc) && core.stopped_at(cpu, pc)) {
            // The exception is the step.
            _ = cpu.poll();
            return;
        }
        let found = match core.code_page(cpu, pc) {
            Ok(page) => core.single(&page, pc),
            Err(fault) => {
                cpu.raise(fault);
                None
            }
        };
        core.clear_code_tlb();
        if let Some((page, entry)) = found {
            self.run_entry(native, page, entry);
        }
        self.core.stops.single = false;
    }
}

/// Tells all vCPUs that the debugger's points changed.
pub(crate) fn announce(engine: &crate::engine::Engine) {
    for p in &*engine.peers.lock() {
        p.post(Message::PointsChanged);
    }
}
