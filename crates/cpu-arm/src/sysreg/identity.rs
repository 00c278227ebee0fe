//! The identification space: op0 = 3, op1 = 0, 1 or 3, CRn = 0.
//!
//! Values come from the model; EL2, EL3 and the GIC's system registers add their fields when they are
//! there. Traps: HCR_EL2.TID1 to TID4; reads from EL0 take EC 0x18 with FEAT_IDST, else EC 0.
//! Not here: SMCCC identification, GMID_EL1, SMIDR_EL1 (MTE and SME are not built).
//! Source: Arm ARM (DDI 0487) D19.2, D19.3.

use cpu::encoding;

use super::{Reg, Trap};
use crate::state::ArmCpu;

const MIDR: u16 = encoding(3, 0, 0, 0, 0);
const MPIDR: u16 = encoding(3, 0, 0, 0, 5);
const REVIDR: u16 = encoding(3, 0, 0, 0, 6);
const CCSIDR: u16 = encoding(3, 1, 0, 0, 0);
const CLIDR: u16 = encoding(3, 1, 0, 0, 1);
const AIDR: u16 = encoding(3, 1, 0, 0, 7);
const CSSELR: u16 = encoding(3, 2, 0, 0, 0);
const CTR: u16 = encoding(3, 3, 0, 0, 1);
const DCZID: u16 = encoding(3, 3, 0, 0, 7);

/// CRm and op2 of ID_PFR0_EL1 to ID_AA64MMFR4_EL1 and the reserved encodings among them.
fn feature_id(enc: u16) -> Option<(u16, u16)> {
    let crm = enc >> 3 & 15;
    (enc & !0x7f == encoding(3, 0, 0, 0, 0) && (1..=7).contains(&crm)).then_some((crm, enc & 7))
}

/// A read that FEAT_IDST reports as a system register trap.
pub(super) fn in_id_space(enc: u16) -> bool {
    let op1 = enc >> 11 & 7;
    enc >> 14 == 3 && matches!(op1, 0 | 1 | 3) && enc >> 7 & 15 == 0 && enc >> 3 & 15 <= 7
}

impl ArmCpu {
    fn has_gic_registers(&self) -> bool {
        self.system.shared.gic.get().is_some()
    }

    fn aarch32_id(&self, crm: u16, op2: u16) -> u64 {
        let f = &self.features;
        let row = f.id.aarch32.get(usize::from(crm.wrapping_sub(1)));
        let v = u64::from(row.and_then(|r| r.get(usize::from(op2))).copied().unwrap_or(0));
        match (crm, op2) {
            (1, 1) => {
                // Security and Virtualization speak of AArch32 at EL1.
                let levels = u64::from(f.el2) << 12 | u64::from(f.el3) << 4;
                let levels = if v & 1 != 0 { levels } else { 0 };
                v | levels | u64::from(self.has_gic_registers()) << 28
            }
            (1, 2) if f.el3 => v | (v & 15) << 4,
            _ => v,
        }
    }

    fn id_register(&self, crm: u16, op2: u16) -> u64 {
        let id = &self.features.id;
        match (crm, op2) {
            (1..=3, _) => self.aarch32_id(crm, op2),
            (4, 0) => self.features.pfr0() | u64::from(self.has_gic_registers()) << 24,
            (4, 1) => id.pfr1,
            (5, 0) => id.dfr0,
            (6, 0) => id.isar0,
            (6, 1) => id.isar1,
            (6, 2) => id.isar2,
            (7, 0) => id.mmfr0,
            (7, 1) => id.mmfr1,
            (7, 2) => id.mmfr2,
            (7, 3) => id.mmfr3,
            _ => 0,
        }
    }

    /// Traps of the ID space and of CSSELR_EL1, for reads and (CSSELR) writes.
    pub(super) fn check_identity(&self, enc: u16) -> Result<(), Trap> {
        let el = self.pstate.el;
        if el > 1 || !self.el2_enabled() || (el == 0 && self.e2h_tge()) {
            return Ok(());
        }
        let hcr = self.hcr();
        let on = |bit: u32| hcr >> bit & 1 != 0;
        let trapped = match enc {
            REVIDR | AIDR => on(16),
            CTR => on(17),
            CCSIDR | CLIDR | CSSELR => on(17) || on(49),
            _ => feature_id(enc).is_some() && on(18),
        };
        if trapped { Err(Trap::To(2)) } else { Ok(()) }
    }

    /// The value of an ID register, `None` for other encodings.
    pub(super) fn read_identity(&self, enc: u16) -> Option<Result<u64, Trap>> {
        let id = &self.features.id;
        let virt = self.pstate.el == 1 && self.el2_enabled();
        let v = match enc {
            MIDR if virt => self.sys(Reg::VPIDR_EL2),
            MIDR => id.midr,
            MPIDR if virt => self.sys(Reg::VMPIDR_EL2),
            MPIDR => self.system.mpidr,
            REVIDR => id.revidr,
            CCSIDR => match self.sys(Reg::CSSELR_EL1) & 15 {
                0 => id.ccsidr[0],
                1 => id.ccsidr[1],
                2 => id.ccsidr[2],
                _ => 0,
            },
            CLIDR => id.clidr,
            AIDR => 0,
            CTR if self.pstate.el == 0 && self.sctlr() >> 15 & 1 == 0 => {
                return Some(Err(Trap::To(self.el0_trap_target())));
            }
            CTR => id.ctr,
            DCZID => {
                let at_el0 = self.pstate.el == 0;
                let denied = at_el0 && self.sctlr() >> 14 & 1 == 0;
                let below = at_el0 && !self.e2h_tge() || self.pstate.el == 1;
                let trapped = below && self.hcr() >> 28 & 1 != 0;
                id.dczid | u64::from(denied || trapped) << 4
            }
            _ => {
                let (crm, op2) = feature_id(enc)?;
                self.id_register(crm, op2)
            }
        };
        Some(self.check_identity(enc).map(|()| v))
    }
}
