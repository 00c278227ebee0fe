//! The guest's own breakpoints, watchpoints and software step (Arm ARM D2).
//!
//! The engine asks for the addresses that the registers cover ([`ArmCpu::covered`]) and comes back when
//! one is reached; here is decided whether an exception is due: enables, security state, exception
//! level, byte address select, linked context breakpoints. Routing is by MDCR_EL2.TDE and HCR_EL2.TGE,
//! masking by the OS lock, OS double lock and PSTATE.D.
//! Not modelled: context breakpoints that are not linked to, address mismatch, VMID matching (both as
//! in QEMU), external debug, MDCR_EL3.SDD beyond what Secure state needs.

use jit_ir::{AccessKind, DebugPoints, MemFault};

use crate::exception::ec;
use crate::state::ArmCpu;
use crate::sysreg::Reg;

/// Breakpoint register pairs (value, control).
const BREAKPOINTS: [(Reg, Reg); 6] = [
    (Reg::DBGBVR0_EL1, Reg::DBGBCR0_EL1),
    (Reg::DBGBVR1_EL1, Reg::DBGBCR1_EL1),
    (Reg::DBGBVR2_EL1, Reg::DBGBCR2_EL1),
    (Reg::DBGBVR3_EL1, Reg::DBGBCR3_EL1),
    (Reg::DBGBVR4_EL1, Reg::DBGBCR4_EL1),
    (Reg::DBGBVR5_EL1, Reg::DBGBCR5_EL1),
];
/// Watchpoint register pairs.
const WATCHPOINTS: [(Reg, Reg); 4] = [
    (Reg::DBGWVR0_EL1, Reg::DBGWCR0_EL1),
    (Reg::DBGWVR1_EL1, Reg::DBGWCR1_EL1),
    (Reg::DBGWVR2_EL1, Reg::DBGWCR2_EL1),
    (Reg::DBGWVR3_EL1, Reg::DBGWCR3_EL1),
];

/// In `MemFault::code`: a watchpoint, not an abort.
pub(crate) const WATCHPOINT: u64 = 1 << 16;
/// Debug exception status code (DFSC, IFSC).
const DEBUG_STATUS: u64 = 0x22;

fn bit(v: u64, n: u32) -> bool {
    v >> n & 1 != 0
}

fn extended(v: u64, bits: u32) -> u64 {
    ((v << (64 - bits)) as i64 >> (64 - bits)) as u64
}

/// First address and length of a watchpoint; `None` = no bytes.
fn range(value: u64, control: u64) -> Option<(u64, u64)> {
    let base = extended(value & !3, 56);
    let mask = control >> 24 & 31;
    match mask {
        0 => {}
        1 | 2 => return None, // reserved
        n => return Some((base & !((1 << n) - 1), 1 << n)),
    }
    // BAS: the first run of ones; DBGWVR[2] = 1 leaves four bytes.
    let bas = (control >> 5 & 0xff) & if bit(value, 2) { 0xf } else { 0xff };
    if bas == 0 {
        return None;
    }
    let first = u64::from(bas.trailing_zeros());
    let len = u64::from((bas >> first).trailing_ones());
    Some((base.wrapping_add(first), len))
}

impl ArmCpu {
    /// The level that debug exceptions go to.
    #[must_use]
    pub fn debug_target(&self) -> u8 {
        let tde = bit(self.sys(Reg::MDCR_EL2), 8) || bit(self.hcr(), 27);
        if self.el2_enabled() && tde { 2 } else { 1 }
    }

    /// Debug exceptions other than BRK can be generated here (AArch64.GenerateDebugExceptions).
    #[must_use]
    pub fn debug_open(&self) -> bool {
        let locked = bit(self.sys(Reg::OSLSR_EL1), 1) || bit(self.sys(Reg::OSDLR_EL1), 0);
        let target = self.debug_target();
        let el = self.pstate.el;
        // MDCR_EL3.SDD: Secure state only if allowed.
        let barred = self.is_secure() && (el == 3 || bit(self.sys(Reg::MDCR_EL3), 16));
        if locked || barred || el > target {
            return false;
        }
        let kde = bit(self.sys(Reg::MDSCR_EL1), 13) && self.pstate.daif & 8 == 0;
        el < target || kde
    }

    /// Breakpoint and watchpoint exceptions are on (MDSCR_EL1.MDE).
    fn monitor(&self) -> bool {
        bit(self.sys(Reg::MDSCR_EL1), 15)
    }

    /// What the registers cover, whatever the state the CPU is in.
    #[must_use]
    pub(crate) fn covered(&self) -> DebugPoints {
        let mut points = DebugPoints::default();
        if !self.monitor() || bit(self.sys(Reg::OSLSR_EL1), 1) {
            return points;
        }
        for (value, control) in BREAKPOINTS {
            let (v, c) = (self.sys(value), self.sys(control));
            // Types 0 and 1: address match, alone or linked.
            if bit(c, 0) && matches!(c >> 20 & 15, 0 | 1) {
                points.breaks.push(extended(v & !3, 56));
            }
        }
        for (value, control) in WATCHPOINTS {
            let (v, c) = (self.sys(value), self.sys(control));
            points.watches.extend(range(v, c).filter(|_| bit(c, 0)));
        }
        points
    }

    /// The security, mode control of a control register admits this state (`el` as accesses see it).
    fn admitted(&self, control: u64, el: u8) -> bool {
        let (pac, hmc, ssc) = (control >> 1 & 3, bit(control, 13), control >> 14 & 3);
        let secure = self.is_secure();
        let state = match ssc {
            0 => true,
            1 => !secure,
            2 => secure,
            _ => hmc,
        };
        let level = match el {
            3 | 2 => hmc,
            1 => bit(pac, 0),
            _ => bit(pac, 1),
        };
        state && level
    }

    /// The context breakpoint that a linked one names matches.
    fn linked(&self, control: u64) -> bool {
        let Some((value, link)) = BREAKPOINTS.get((control >> 16 & 15) as usize) else {
            return false;
        };
        let (v, c) = (self.sys(*value), self.sys(*link));
        // Only the context-aware ones (the last two) can be linked to.
        let aware = (control >> 16 & 15) >= 4;
        let el = self.pstate.el;
        let own = if el == 2 || self.e2h_tge() { Reg::CONTEXTIDR_EL2 } else { Reg::CONTEXTIDR_EL1 };
        match c >> 20 & 15 {
            // Linked context: not at EL2 and EL3 but with VHE.
            3 => aware && bit(c, 0) && el < 3 && v as u32 == self.sys(own) as u32,
            7 => aware && bit(c, 0) && el < 2 && v as u32 == self.sys(Reg::CONTEXTIDR_EL1) as u32,
            13 => aware && bit(c, 0) && v as u32 == self.sys(Reg::CONTEXTIDR_EL2) as u32,
            _ => false,
        }
    }

    /// Takes the breakpoint exception at the PC if one is due.
    pub(crate) fn take_breakpoint(&mut self) -> bool {
        // A software step exception goes first.
        if !self.monitor() || !self.debug_open() || (self.steps() && !self.pstate.ss) {
            return false;
        }
        let pc = extended(self.env.pc(), 56);
        let hit = BREAKPOINTS.iter().any(|(value, control)| {
            let (v, c) = (self.sys(*value), self.sys(*control));
            let kind = c >> 20 & 15;
            bit(c, 0)
                && matches!(kind, 0 | 1)
                && extended(v & !3, 56) == pc
                && self.admitted(c, self.pstate.el)
                && (kind == 0 || self.linked(c))
        });
        if hit {
            let target = self.debug_target();
            let class = ec::BREAKPOINT_LOWER + u64::from(target == self.pstate.el);
            self.take_sync(target, class, DEBUG_STATUS);
        }
        hit
    }

    /// The watchpoint that an access hits.
    pub(crate) fn watch_hit(&mut self, va: u64, len: u64, kind: AccessKind) -> Option<MemFault> {
        if !self.monitor() || !self.debug_open() {
            return None;
        }
        let at = extended(va, 56);
        let end = at.wrapping_add(len.max(1) - 1);
        let wanted = if kind == AccessKind::Write { 2 } else { 1 };
        let hit = WATCHPOINTS.iter().find_map(|(value, control)| {
            let (v, c) = (self.sys(*value), self.sys(*control));
            let (start, n) = range(v, c)?;
            let last = start.wrapping_add(n - 1);
            let on = bit(c, 0) && c >> 3 & wanted != 0 && self.admitted(c, self.pstate.el);
            let linked = !bit(c, 20) || self.linked(c);
            (on && linked && at <= last && start <= end).then_some(start.max(at))
        })?;
        let far = va & !0xff_ffff_ffff_ffff | hit & 0xff_ffff_ffff_ffff;
        Some(MemFault { va: far, code: WATCHPOINT | DEBUG_STATUS, extra: 0, kind })
    }

    /// Takes the exception for what [`ArmCpu::watch_hit`] found.
    pub(crate) fn take_watchpoint(&mut self, f: MemFault) {
        let target = self.debug_target();
        let class = ec::WATCHPOINT_LOWER + u64::from(target == self.pstate.el);
        self.set_far(target, f.va);
        let wnr = u64::from(f.kind == AccessKind::Write) << 6;
        self.take_sync(target, class, DEBUG_STATUS | wnr);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_address_select_and_mask_give_ranges() {
        assert_eq!(range(0x1000, 0xff << 5), Some((0x1000, 8)));
        assert_eq!(range(0x1000, 0x0c << 5), Some((0x1002, 2)));
        assert_eq!(range(0x1004, 0xff << 5), Some((0x1004, 4)));
        assert_eq!(range(0x1000, 0), None);
        assert_eq!(range(0x1234, 12 << 24 | 0xff << 5), Some((0x1000, 0x1000)));
        assert_eq!(range(0x1000, 1 << 24 | 0xff << 5), None);
        assert_eq!(range(0x00ff_ffff_ffff_f000, 0xff << 5), Some((0xffff_ffff_ffff_f000, 8)));
    }
}
