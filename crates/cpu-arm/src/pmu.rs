//! Performance monitors, PMUv3 (Arm ARM D13): the cycle counter and six event counters.
//!
//! Events as QEMU 10.0 counts them: SW_INCR (0x00), CPU_CYCLES (0x11, one per nanosecond of guest time),
//! INST_RETIRED (0x08, those of all CPUs) where instructions are counted, which is with `-icount`, and the
//! stall events of PMUv3p4 (0x23, 0x24, 0x3c), which never occur. An overflow raises the `pmu` output.
//! Counters with a rate are kept as differences to the guest's clock: counting costs nothing.
//! Not modelled: PMEVTYPER.MT, chained counters, HCR-based secure filtering beyond MDCR_EL2.HPME and
//! MDCR_EL3.SPME, freezing on overflow.

use std::sync::{Arc, Weak};

use device::IrqOut;
use evloop::{Clock, Timer};
use parking_lot::Mutex;

/// Event counters.
pub const COUNTERS: usize = 6;
/// Index of the cycle counter, also its bit in the enable registers.
pub const CYCLES: usize = 31;
const SLOTS: usize = COUNTERS + 1;
/// Implemented bits of the enable and overflow registers.
pub const MASK: u64 = (1 << 31) | ((1 << COUNTERS) - 1);

/// PMCR_EL0.E, P, C, D, X, DP, LC, LP.
mod pmcr {
    pub(super) const E: u64 = 1;
    pub(super) const P: u64 = 1 << 1;
    pub(super) const C: u64 = 1 << 2;
    pub(super) const D: u64 = 1 << 3;
    pub(super) const LC: u64 = 1 << 6;
    pub(super) const LP: u64 = 1 << 7;
    pub(super) const WRITABLE: u64 = 0xff & !(P | C);
}

/// What decides whether an event counts now, from the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    /// Exception level.
    pub el: u8,
    /// Secure state.
    pub secure: bool,
    /// MDCR_EL2.HPMN and HPME; HPMN = [`COUNTERS`] without EL2.
    pub hpmn: u64,
    /// Counters from HPMN on are enabled.
    pub hpme: bool,
    /// MDCR_EL2.HPMD, or MDCR_EL3.SPME = 0 in Secure state: events are prohibited here.
    pub prohibited: bool,
    /// Cycles are prohibited with PMCR_EL0.DP (MDCR_EL2.HCCD and the like).
    pub cycles_prohibited: bool,
}

#[derive(Clone, Debug, Default)]
struct Regs {
    pmcr: u64,
    enabled: u64,
    overflow: u64,
    inten: u64,
    /// PMEVTYPERn; the last is PMCCFILTR.
    types: [u64; SLOTS],
    /// Values, those that run as of `since`.
    values: [u64; SLOTS],
    /// Which slots run with the clock.
    running: [bool; SLOTS],
    since: u64,
    /// Instructions at the same time.
    steps: u64,
    /// Instructions are counted.
    counted: bool,
    gate: Gate,
    /// PMUv3p5: event counters have 64 bits, whatever overflow means.
    wide: bool,
}

/// The registers of a PMU as they are saved.
#[derive(Clone, Debug, Default, PartialEq, Eq, derive::VmState)]
#[vmstate(name = "arm-pmu", version = 1)]
pub struct PmuState {
    /// PMCR_EL0 without its constant fields.
    pub pmcr: u64,
    /// PMCNTENSET.
    pub enabled: u64,
    /// PMOVSSET.
    pub overflow: u64,
    /// PMINTENSET.
    pub inten: u64,
    /// PMEVTYPERn, PMCCFILTR.
    pub types: [u64; SLOTS],
    /// PMEVCNTRn, PMCCNTR.
    pub values: [u64; SLOTS],
}

/// The PMU of one CPU.
pub struct Pmu {
    clock: Clock,
    regs: Mutex<Regs>,
    alarm: Timer,
    /// Overflow interrupt.
    pub out: Arc<IrqOut>,
}

fn slot(n: usize) -> usize {
    if n == CYCLES { COUNTERS } else { n.min(COUNTERS - 1) }
}

fn bit(slot: usize) -> u64 {
    if slot == COUNTERS { 1 << CYCLES } else { 1 << slot }
}

impl Regs {
    /// Whether the filter and the enables let this slot count here.
    fn counts(&self, n: usize) -> bool {
        let g = &self.gate;
        let upper = n < COUNTERS && n as u64 >= g.hpmn;
        let on = if upper { g.hpme } else { self.pmcr & pmcr::E != 0 };
        let banned = match n {
            COUNTERS => g.cycles_prohibited || (g.prohibited && self.pmcr >> 5 & 1 != 0),
            _ => g.prohibited && !upper,
        };
        if !on || banned || self.enabled & bit(n) == 0 {
            return false;
        }
        let t = self.types[n];
        let b = |at: u32| t >> at & 1 != 0;
        let (p, u, nsk, nsu, nsh, m) = (b(31), b(30), b(29), b(28), b(27), b(26));
        let filtered = match (g.el, g.secure) {
            (0, true) => u,
            (0, false) => u != nsu,
            (1, true) => p,
            (1, false) => p != nsk,
            (2, _) => !nsh,
            _ => m != p,
        };
        !filtered
    }

    fn is_cycles(&self, n: usize) -> bool {
        n == COUNTERS || self.types[n] & 0xffff == 0x11
    }

    fn is_instructions(&self, n: usize) -> bool {
        n != COUNTERS && self.types[n] & 0xffff == 0x08 && self.counted
    }

    /// Bits before the overflow flag is set.
    fn width(&self, n: usize) -> u32 {
        let long = if n == COUNTERS { self.pmcr & pmcr::LC } else { self.pmcr & pmcr::LP };
        if long != 0 { 64 } else { 32 }
    }

    /// Cycles in a span of nanoseconds.
    fn scaled(&self, n: usize, span: u64) -> u64 {
        let divided = n == COUNTERS && self.pmcr & (pmcr::D | pmcr::LC) == pmcr::D;
        if divided { span / 64 } else { span }
    }

    fn add(&mut self, n: usize, by: u64) {
        let old = self.values[n];
        let new = old.wrapping_add(by);
        let width = self.width(n);
        let over = if width == 64 { new < old } else { (old & 0xffff_ffff) + by > 0xffff_ffff };
        // Before PMUv3p5 event counters have 32 bits.
        self.values[n] =
            if self.wide || width == 64 || n == COUNTERS { new } else { new & 0xffff_ffff };
        if over {
            self.overflow |= bit(n);
        }
    }

    /// Brings running slots up to `now`.
    fn sync(&mut self, now: u64, steps: u64) {
        let span = now.saturating_sub(self.since);
        let done = steps.saturating_sub(self.steps);
        (self.since, self.steps) = (now, steps);
        for n in 0..SLOTS {
            let by = if self.is_instructions(n) { done } else { self.scaled(n, span) };
            if self.running[n] && by > 0 {
                self.add(n, by);
            }
        }
    }

    /// Nanoseconds until the next overflow of a slot that runs; fewer for instructions, which take one
    /// at least.
    fn next_overflow(&self) -> Option<u64> {
        let left = |n: usize| {
            let room = match self.width(n) {
                64 => u64::MAX - self.values[n],
                _ => 0xffff_ffff - (self.values[n] & 0xffff_ffff),
            };
            let cycles = room.saturating_add(1);
            if self.scaled(n, 64) == 1 { cycles.saturating_mul(64) } else { cycles }
        };
        (0..SLOTS).filter(|n| self.running[*n]).map(left).min()
    }
}

impl Pmu {
    /// A PMU on the guest's clock; `wide`: PMUv3p5 event counters.
    #[must_use]
    pub fn new(clock: &Clock, wide: bool) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<Self>| {
            let me = me.clone();
            let alarm = clock.timer(move || {
                if let Some(p) = me.upgrade() {
                    p.change(|_| {});
                }
            });
            let counted = clock.is_counted();
            let regs = Mutex::new(Regs { wide, counted, ..Regs::default() });
            Self { clock: clock.clone(), regs, alarm, out: IrqOut::new() }
        })
    }

    /// Changes registers with counters up to date, then works out what runs and what is due.
    fn change<T>(&self, f: impl FnOnce(&mut Regs) -> T) -> T {
        let now = self.clock.now_ns();
        let steps = self.clock.steps();
        let mut r = self.regs.lock();
        r.sync(now, steps);
        let result = f(&mut r);
        for n in 0..SLOTS {
            r.running[n] = (r.is_cycles(n) || r.is_instructions(n)) && r.counts(n);
        }
        let asserted = r.overflow & r.inten & MASK != 0 && r.pmcr & pmcr::E != 0;
        self.out.set(asserted);
        match r.next_overflow().and_then(|ns| now.checked_add(ns)) {
            Some(at) if at < i64::MAX as u64 => self.alarm.arm_at(at),
            _ => self.alarm.cancel(),
        }
        result
    }

    /// Where the CPU is now; call before any access and when the level changes while in use.
    pub fn set_gate(&self, gate: Gate) {
        if self.regs.lock().gate != gate {
            self.change(|r| r.gate = gate);
        }
    }

    /// Instructions are counted.
    #[must_use]
    pub fn counts_instructions(&self) -> bool {
        self.clock.is_counted()
    }

    /// Something is enabled, so level changes matter.
    #[must_use]
    pub fn in_use(&self) -> bool {
        let r = self.regs.lock();
        r.enabled != 0
    }

    /// PMCR_EL0's variable bits.
    #[must_use]
    pub fn control(&self) -> u64 {
        self.regs.lock().pmcr
    }

    /// Writes PMCR_EL0.
    pub fn set_control(&self, v: u64) {
        self.change(|r| {
            if v & pmcr::C != 0 {
                r.values[COUNTERS] = 0;
            }
            if v & pmcr::P != 0 {
                r.values[..COUNTERS].fill(0);
            }
            r.pmcr = v & pmcr::WRITABLE;
        });
    }

    /// PMCNTEN (0), PMOVS (1), PMINTEN (2).
    #[must_use]
    pub fn bits(&self, which: u8) -> u64 {
        self.change(|r| match which {
            0 => r.enabled,
            1 => r.overflow,
            _ => r.inten,
        })
    }

    /// Sets or clears bits of the same.
    pub fn set_bits(&self, which: u8, v: u64, set: bool) {
        self.change(|r| {
            let reg = match which {
                0 => &mut r.enabled,
                1 => &mut r.overflow,
                _ => &mut r.inten,
            };
            *reg = if set { *reg | v & MASK } else { *reg & !v };
        });
    }

    /// A counter's value; [`CYCLES`] is PMCCNTR.
    #[must_use]
    pub fn value(&self, n: usize) -> u64 {
        self.change(|r| r.values[slot(n)])
    }

    /// Writes a counter.
    pub fn set_value(&self, n: usize, v: u64) {
        let event = n != CYCLES;
        self.change(|r| {
            r.values[slot(n)] = if event && !r.wide { v & 0xffff_ffff } else { v };
        });
    }

    /// PMEVTYPERn; [`CYCLES`] is PMCCFILTR.
    #[must_use]
    pub fn filter(&self, n: usize) -> u64 {
        self.regs.lock().types[slot(n)]
    }

    /// Writes it.
    pub fn set_filter(&self, n: usize, v: u64) {
        let mask = if n == CYCLES { 0xfc00_0000 } else { 0xfe00_ffff };
        self.change(|r| r.types[slot(n)] = v & mask);
    }

    /// PMSWINC_EL0.
    pub fn software_increment(&self, v: u64) {
        self.change(|r| {
            for n in 0..COUNTERS {
                if v >> n & 1 != 0 && r.types[n] & 0xffff == 0 && r.counts(n) {
                    r.add(n, 1);
                }
            }
        });
    }

    /// Cold state.
    pub fn reset(&self) {
        self.load(&PmuState::default());
    }

    /// The registers.
    #[must_use]
    pub fn save(&self) -> PmuState {
        self.change(|r| PmuState {
            pmcr: r.pmcr,
            enabled: r.enabled,
            overflow: r.overflow,
            inten: r.inten,
            types: r.types,
            values: r.values,
        })
    }

    /// Replaces the registers.
    pub fn load(&self, s: &PmuState) {
        self.change(|r| {
            r.pmcr = s.pmcr & pmcr::WRITABLE;
            (r.enabled, r.overflow, r.inten) =
                (s.enabled & MASK, s.overflow & MASK, s.inten & MASK);
            (r.types, r.values) = (s.types, s.values);
        });
    }
}
