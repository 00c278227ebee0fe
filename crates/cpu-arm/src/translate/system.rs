//! System instructions: hints, barriers, PSTATE, system registers.
//!
//! What needs the CPU's state beyond registers is a helper call; after anything that may change the
//! mode the block ends and the run loop looks again. System registers that are plain storage are
//! read and written in place, as `crate::sysreg` says.
//! Source: Arm ARM (DDI 0487) C5, C6.2, D19.

use jit_ir::{MemDesc, Ty, Val};

use super::Ctx;
use crate::decode::base::{ArgMsrImm, ArgSys};
use crate::helpers::HelperId;
use crate::state::{FPCR_SLOT, FPSR_BITS, FPSR_SLOT};
use crate::sysreg;

/// NZCV as a system register: S3_3_C4_C2_0.
const NZCV: u32 = encoding(3, 3, 4, 2, 0);
/// FPCR.
const FPCR: u32 = encoding(3, 3, 4, 4, 0);
/// FPSR.
const FPSR: u32 = encoding(3, 3, 4, 4, 1);
/// CurrentEL.
const CURRENT_EL: u32 = encoding(3, 0, 4, 2, 2);
/// DC ZVA.
const DC_ZVA: u32 = encoding(1, 3, 7, 4, 1);

const fn encoding(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> u32 {
    op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}

impl Ctx<'_> {
    // ------------------------------------------------------------ hints and barriers

    /// WFI (0), WFE (1), WFIT (2), WFET (3): the helper moves the PC on.
    pub(super) fn wait(&mut self, form: u32, timeout: Option<u32>) -> bool {
        if timeout.is_some() && !self.isa.wfxt {
            return false;
        }
        if self.key.step() {
            // Waking at once is allowed, and lets the step exception come.
            return true;
        }
        self.clear_btype();
        let args: Vec<Val> = timeout.map(|rt| self.x(rt)).into_iter().collect();
        self.b.call_void(HelperId::Wait as u16, &args, form);
        self.leave(jit_ir::Exit::RuntimePcSet);
        true
    }

    pub(super) fn yield_(&mut self) -> bool {
        if self.key.step() {
            return true;
        }
        self.clear_btype();
        self.b.call_void(HelperId::Yield as u16, &[], 0);
        self.leave(jit_ir::Exit::RuntimePcSet);
        true
    }

    pub(super) fn event(&mut self, local: u32) -> bool {
        self.b.call_void(HelperId::Event as u16, &[], local);
        true
    }

    pub(super) fn dsb(&mut self) -> bool {
        self.b.fence(3);
        self.b.call_void(HelperId::Dsb as u16, &[], 0);
        true
    }

    pub(super) fn dmb(&mut self, crm: u32) -> bool {
        self.b.fence(match crm & 3 {
            1 => 1,
            2 => 2,
            _ => 3,
        });
        true
    }

    // ------------------------------------------------------------ PSTATE

    /// MSR (immediate): op1, op2 say which field; `privileged` fields are undefined at EL0.
    pub(super) fn msr_imm(
        &mut self,
        op1: u32,
        op2: u32,
        has: bool,
        privileged: bool,
        a: &ArgMsrImm,
    ) -> bool {
        if !has || (privileged && self.key.el() == 0) {
            return false;
        }
        // The helper leaves by itself when the mode changed or an interrupt is due.
        self.b.call_void(HelperId::MsrImm as u16, &[], op1 << 7 | op2 << 4 | a.imm);
        true
    }

    // ------------------------------------------------------------ system registers

    pub(super) fn mrs(&mut self, a: &ArgSys) -> bool {
        let enc = encoding(a.op0, a.op1, a.crn, a.crm, a.op2);
        if (enc == FPCR || enc == FPSR) && !self.fp_check() {
            return true;
        }
        let v = match enc {
            FPCR => self.b.get(FPCR_SLOT, Ty::I32),
            FPSR => {
                self.b.fp_sync();
                self.b.get(FPSR_SLOT, Ty::I32)
            }
            NZCV => {
                let cc = self.b.get_cc();
                self.b.nzcv_of(cc)
            }
            CURRENT_EL if self.key.el() != 0 => {
                let el = self.key.el();
                self.b.c64(u64::from(el) << 2)
            }
            _ => match sysreg::inline_slot(enc as u16, self.key, false) {
                Some(slot) => self.b.get(slot, Ty::I64),
                None => self.b.call(HelperId::Mrs as u16, &[], enc | a.rt << 16),
            },
        };
        self.set_reg(a.rt, v);
        true
    }

    pub(super) fn msr(&mut self, a: &ArgSys) -> bool {
        let enc = encoding(a.op0, a.op1, a.crn, a.crm, a.op2);
        if (enc == FPCR || enc == FPSR) && !self.fp_check() {
            return true;
        }
        let v = self.x(a.rt);
        if enc == FPSR {
            let v = self.b.trunc(v);
            let v = self.b.and_imm(v, u64::from(FPSR_BITS));
            self.b.fp_sync();
            self.b.set(FPSR_SLOT, v);
        } else if enc == NZCV {
            let v = self.b.trunc(v);
            let cc = self.b.cc_from_nzcv(v);
            self.b.set_cc(cc);
        } else if let Some(slot) = sysreg::inline_slot(enc as u16, self.key, true) {
            self.b.set(slot, v);
        } else {
            // The helper leaves by itself when the mode changed or an interrupt is due.
            self.b.call_void(HelperId::Msr as u16, &[v], enc | a.rt << 16);
        }
        true
    }

    /// SYS: cache, TLB and address translation operations.
    pub(super) fn sys(&mut self, a: &ArgSys) -> bool {
        let enc = encoding(a.op0, a.op1, a.crn, a.crm, a.op2);
        let v = self.x(a.rt);
        if enc == DC_ZVA && self.key.zva_ok() {
            let zero = self.b.constant(Ty::I64, 0);
            self.b.store(v, 0, zero, MemDesc::clears64(self.key.mmu()));
            return true;
        }
        if enc == DC_ZVA {
            self.b.call_void(HelperId::DcZva as u16, &[v], enc | a.rt << 16);
            return true;
        }
        self.b.call_void(HelperId::SysInsn as u16, &[v], enc | a.rt << 16);
        // Changes of translations and of code take effect at the ISB that must follow.
        true
    }
}
