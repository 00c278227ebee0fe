//! PMU registers as system registers: encodings, traps, what EL0 may do.
//!
//! Traps: PMUSERENR_EL0 for EL0, MDCR_EL2.TPM and TPMCR, MDCR_EL3.TPM; MDCR_EL2.HPMN hides counters
//! from EL1 and EL0. Not here: counting (`crate::pmu`).
//! Source: Arm ARM (DDI 0487) D19.5.

use super::{Changed, Reg, Trap};
use crate::pmu::{COUNTERS, CYCLES, Gate, MASK};
use crate::state::ArmCpu;

/// A PMU register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pm {
    Control,
    /// Enables (0), overflows (1), interrupts (2); write sets or clears.
    Bits(u8, bool),
    SoftwareIncrement,
    Select,
    Common(u8),
    Value(usize),
    Filter(usize),
    SelectedValue,
    SelectedFilter,
    UserEnable,
    Machine,
}

fn register(enc: u16) -> Option<Pm> {
    let (op0, op1, crn, crm, op2) =
        (enc >> 14, enc >> 11 & 7, enc >> 7 & 15, enc >> 3 & 15, enc & 7);
    if op0 != 3 {
        return None;
    }
    let n = usize::from((crm & 3) << 3 | op2);
    Some(match (op1, crn, crm, op2) {
        (3, 9, 12, 0) => Pm::Control,
        (3, 9, 12, 1) => Pm::Bits(0, true),
        (3, 9, 12, 2) => Pm::Bits(0, false),
        (3, 9, 12, 3) => Pm::Bits(1, false),
        (3, 9, 12, 4) => Pm::SoftwareIncrement,
        (3, 9, 12, 5) => Pm::Select,
        (3, 9, 12, 6 | 7) => Pm::Common(op2 as u8 - 6),
        (3, 9, 13, 0) => Pm::Value(CYCLES),
        (3, 9, 13, 1) => Pm::SelectedFilter,
        (3, 9, 13, 2) => Pm::SelectedValue,
        (3, 9, 14, 0) => Pm::UserEnable,
        (3, 9, 14, 3) => Pm::Bits(1, true),
        (0, 9, 14, 1) => Pm::Bits(2, true),
        (0, 9, 14, 2) => Pm::Bits(2, false),
        (0, 9, 14, 6) => Pm::Machine,
        (3, 14, 8..=11, _) if n < COUNTERS => Pm::Value(n),
        (3, 14, 15, 7) => Pm::Filter(CYCLES),
        (3, 14, 12..=15, _) if n < COUNTERS => Pm::Filter(n),
        _ => return None,
    })
}

impl ArmCpu {
    /// Tells the PMU where the CPU is.
    pub(crate) fn update_pmu(&self) {
        let mdcr = self.sys(Reg::MDCR_EL2);
        let el2 = self.el2_enabled();
        let at_el2 = self.pstate.el == 2;
        let mdcr3 = self.sys(Reg::MDCR_EL3);
        let secure = self.is_secure();
        let spme_off = self.features.el3 && secure && mdcr3 >> 17 & 1 == 0;
        self.system.pmu.set_gate(Gate {
            el: self.pstate.el,
            secure,
            hpmn: if el2 { mdcr & 31 } else { COUNTERS as u64 },
            hpme: mdcr >> 7 & 1 != 0,
            prohibited: (at_el2 && mdcr >> 17 & 1 != 0) || spme_off,
            cycles_prohibited: at_el2 && mdcr >> 23 & 1 != 0,
        });
    }

    /// Counters that this level sees.
    fn visible_counters(&self) -> u64 {
        let hpmn = self.sys(Reg::MDCR_EL2) & 31;
        let limited = self.pstate.el < 2 && self.el2_enabled();
        if limited { hpmn.min(COUNTERS as u64) } else { COUNTERS as u64 }
    }

    fn visible_mask(&self) -> u64 {
        1 << 31 | ((1 << self.visible_counters()) - 1)
    }

    fn check_pmu(&self, r: Pm, write: bool) -> Result<(), Trap> {
        let el = self.pstate.el;
        if el == 0 {
            let user = self.sys(Reg::PMUSERENR_EL0);
            let on = |bit: u32| user >> bit & 1 != 0;
            let allowed = match r {
                Pm::UserEnable if !write => true,
                Pm::UserEnable => false,
                Pm::Bits(2, _) | Pm::Machine => return Err(Trap::Undefined),
                Pm::SoftwareIncrement => on(0) || on(1),
                Pm::Value(CYCLES) if !write => on(0) || on(2),
                Pm::Value(n) if n != CYCLES && !write => on(0) || on(3),
                Pm::SelectedValue if !write => on(0) || on(3),
                Pm::Select => on(0) || on(3),
                _ => on(0),
            };
            if !allowed {
                return Err(Trap::To(self.el0_trap_target()));
            }
        }
        let mdcr = self.sys(Reg::MDCR_EL2);
        let tpm = mdcr >> 6 & 1 != 0 || (r == Pm::Control && mdcr >> 5 & 1 != 0);
        if el < 2 && self.el2_enabled() && tpm {
            return Err(Trap::To(2));
        }
        let tpm3 = self.features.el3 && el < 3 && self.sys(Reg::MDCR_EL3) >> 6 & 1 != 0;
        if tpm3 { Err(Trap::To(3)) } else { Ok(()) }
    }

    /// The counter that PMSELR_EL0 names.
    fn selected(&self) -> Option<usize> {
        match self.sys(Reg::PMSELR_EL0) & 31 {
            31 => Some(CYCLES),
            n if n < self.visible_counters() => Some(n as usize),
            _ => None,
        }
    }

    /// PMCEID0 and PMCEID1.
    fn common_events(&self, which: u8) -> u64 {
        let v = self.features.id.dfr0 >> 8 & 15;
        match which {
            0 => 1 << 0x11 | 1 | u64::from(self.system.pmu.counts_instructions()) << 8,
            _ => {
                // Stalls: front end and back end from PMUv3p1, STALL from PMUv3p4 on.
                let first = if v >= 4 { 1 << 3 | 1 << 4 } else { 0 };
                first | if v >= 5 { 1 << 28 } else { 0 }
            }
        }
    }

    pub(super) fn read_pmu(&mut self, enc: u16) -> Option<Result<u64, Trap>> {
        let r = register(enc).filter(|_| self.features.pmu())?;
        if r == Pm::SoftwareIncrement || (r == Pm::Machine && self.features.id.dfr0 >> 8 & 15 < 5) {
            return None;
        }
        if let Err(trap) = self.check_pmu(r, false) {
            return Some(Err(trap));
        }
        self.update_pmu();
        let pmu = &self.system.pmu;
        let mask = self.visible_mask();
        Some(Ok(match r {
            Pm::Control => self.features.pmcr | self.visible_counters() << 11 | pmu.control(),
            Pm::Bits(which, _) => pmu.bits(which) & mask,
            Pm::Select => self.sys(Reg::PMSELR_EL0),
            Pm::Common(which) => self.common_events(which),
            Pm::Value(n) => pmu.value(n),
            Pm::Filter(n) => pmu.filter(n),
            // PMXEVCNTR of the cycle counter is constrained unpredictable: zero.
            Pm::SelectedValue => {
                self.selected().filter(|n| *n != CYCLES).map_or(0, |n| pmu.value(n))
            }
            Pm::SelectedFilter => self.selected().map_or(0, |n| pmu.filter(n)),
            Pm::UserEnable => self.sys(Reg::PMUSERENR_EL0),
            Pm::SoftwareIncrement | Pm::Machine => 0,
        }))
    }

    pub(super) fn write_pmu(&mut self, enc: u16, v: u64) -> Option<Result<Changed, Trap>> {
        let r = register(enc).filter(|_| self.features.pmu())?;
        if matches!(r, Pm::Common(_) | Pm::Machine) {
            return None;
        }
        if let Err(trap) = self.check_pmu(r, true) {
            return Some(Err(trap));
        }
        self.update_pmu();
        let mask = self.visible_mask() & MASK;
        let pmu = &self.system.pmu;
        match r {
            Pm::Control => pmu.set_control(v),
            Pm::Bits(which, set) => pmu.set_bits(which, v & mask, set),
            Pm::SoftwareIncrement => pmu.software_increment(v & mask),
            Pm::Value(n) => pmu.set_value(n, v),
            Pm::Filter(n) => pmu.set_filter(n, v),
            Pm::SelectedValue => {
                if let Some(n) = self.selected().filter(|n| *n != CYCLES) {
                    pmu.set_value(n, v);
                }
            }
            Pm::SelectedFilter => {
                if let Some(n) = self.selected() {
                    pmu.set_filter(n, v);
                }
            }
            Pm::Select => self.set_sys(Reg::PMSELR_EL0, v & 31),
            Pm::UserEnable => self.set_sys(Reg::PMUSERENR_EL0, v & 15),
            Pm::Common(_) | Pm::Machine => {}
        }
        self.system.pmu_live = self.system.pmu.in_use();
        Some(Ok(Changed { irqs: true, ..Changed::default() }))
    }
}
