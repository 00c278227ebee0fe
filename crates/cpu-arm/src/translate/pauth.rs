//! Pointer authentication instructions.
//!
//! Codes of instruction keys are computed in place where the mode key allows it (the algorithm is the
//! implementation-defined one, nothing traps); a wrong one leaves the block for the exception. All else
//! calls `crate::pauth`, whose formulas these are.
//! Source: Arm ARM (DDI 0487) D8.10, pseudocode AddPAC, Auth.

use jit_ir::{Exit, Opcode, Ty, Val};

use super::Ctx;
use crate::decode::base::{ArgB, ArgPac, ArgRrr};
use crate::helpers::HelperId;
use crate::pauth::{InlinePac, MIX, TURN};
use crate::state::sys_slot;
use crate::sysreg::Reg;

/// Bit 55: which range a pointer belongs to.
const RANGE: u64 = 1 << 55;
/// The top byte.
const TAG: u64 = 0xff << 56;

impl Ctx<'_> {
    /// The result of adding (`auth` = false) or checking a code.
    pub(super) fn pac_value(&mut self, pointer: Val, modifier: Val, auth: bool, key: u32) -> Val {
        let how = match key {
            0 => self.key.pac_a(),
            1 => self.key.pac_b(),
            _ => InlinePac::Ask as u8,
        };
        if how == InlinePac::Off as u8 {
            return pointer;
        }
        if how == InlinePac::Compute as u8 && self.key.pac_bottom() != 0 {
            return self.pac_in_place(pointer, modifier, auth, key);
        }
        let helper = if auth { HelperId::PacAuth } else { HelperId::PacAdd };
        self.b.call(helper as u16, &[pointer, modifier], key)
    }

    fn pac_in_place(&mut self, pointer: Val, modifier: Val, auth: bool, key: u32) -> Val {
        let (tbi0, tbi1) = (self.key.tbi0(), self.key.tbi1());
        let bottom = u32::from(self.key.pac_bottom());
        // All ones for pointers of the upper range.
        let top = self.b.shift_imm(Opcode::Shl, pointer, 8);
        let upper = self.b.shift_imm(Opcode::Sar, top, 63);
        let short = RANGE - (1u64 << bottom);
        let mask = match (tbi0, tbi1) {
            (true, true) => self.b.c64(short),
            (false, false) => self.b.c64(short | TAG),
            _ => {
                let tag = self.b.and_imm(upper, TAG);
                let fixed = self.b.c64(if tbi0 { short } else { short | TAG });
                self.b.binary(Opcode::Xor, fixed, tag)
            }
        };
        let range = self.b.c64(RANGE);
        let replaced = self.b.binary(Opcode::Or, mask, range);
        // What the address is extended by. Without a tag bit 63 says it to the adding forms.
        let sign = if auth || (tbi0 && tbi1) {
            upper
        } else {
            let bit63 = self.b.shift_imm(Opcode::Sar, pointer, 63);
            match (tbi0, tbi1) {
                (true, _) => self.b.binary(Opcode::And, upper, bit63),
                (_, true) => self.b.binary(Opcode::Or, upper, bit63),
                _ => bit63,
            }
        };
        let other = self.b.binary(Opcode::Xor, pointer, sign);
        let change = self.b.binary(Opcode::And, other, replaced);
        let base = self.b.binary(Opcode::Xor, pointer, change);
        let code = self.pac_mix(base, modifier, key);
        let code = self.b.binary(Opcode::And, code, mask);
        if auth {
            let wrong = self.b.binary(Opcode::Xor, code, change);
            let (helper, offset) = (HelperId::PacFail as u16, self.offset);
            self.b.exit_if(wrong, false, Exit::Helper { helper, imm: key, offset });
            return base;
        }
        // The pointer's own bits with the code, but bit 55 as it was extended.
        let moved = self.b.and_imm(change, RANGE);
        let v = self.b.binary(Opcode::Xor, pointer, moved);
        self.b.binary(Opcode::Xor, v, code)
    }

    fn pac_mix(&mut self, data: Val, modifier: Val, key: u32) -> Val {
        let (low, high) = match key {
            0 => (Reg::APIAKEYLO_EL1, Reg::APIAKEYHI_EL1),
            _ => (Reg::APIBKEYLO_EL1, Reg::APIBKEYHI_EL1),
        };
        let low = self.b.get(sys_slot(low), Ty::I64);
        let high = self.b.get(sys_slot(high), Ty::I64);
        let mix = MIX.map(|m| self.b.c64(m));
        let a = self.b.binary(Opcode::Xor, data, low);
        let a = self.b.binary(Opcode::Xor, a, mix[0]);
        let b = self.b.binary(Opcode::Xor, modifier, high);
        let b = self.b.binary(Opcode::Xor, b, mix[1]);
        let one = self.b.c64(1);
        let b = self.b.binary(Opcode::Or, b, one);
        let (lo, hi) = (self.b.binary(Opcode::Mul, a, b), self.b.binary(Opcode::MulHiU, a, b));
        let v = self.b.binary(Opcode::Xor, lo, hi);
        let turned = self.b.shift_imm(Opcode::Ror, modifier, TURN);
        self.b.binary(Opcode::Xor, v, turned)
    }

    /// PACIA to AUTDB; `key` 0 IA, 1 IB, 2 DA, 3 DB.
    pub(super) fn pac(&mut self, a: &ArgPac, auth: bool, key: u32) -> bool {
        if !self.isa.pauth {
            return false;
        }
        let modifier = if a.z != 0 { self.b.c64(0) } else { self.x_sp(a.rn) };
        self.pac_into(a.rd, modifier, auth, key);
        true
    }

    fn pac_into(&mut self, rd: u32, modifier: Val, auth: bool, key: u32) {
        let pointer = self.x(rd);
        let v = self.pac_value(pointer, modifier, auth, key);
        self.set_reg(rd, v);
    }

    /// The forms in the hint space, NOPs without the feature. `rm`: none = zero, 31 = SP.
    pub(super) fn pac_hint(&mut self, a: &ArgB, rd: u32, rm: Option<u32>, auth: bool) -> bool {
        if self.isa.pauth {
            let modifier = match rm {
                None => self.b.c64(0),
                Some(n) => self.x_sp(n),
            };
            self.pac_into(rd, modifier, auth, a.b);
        }
        true
    }

    pub(super) fn xpac(&mut self, rd: u32, data: u32, hint: bool) -> bool {
        if self.isa.pauth {
            let pointer = self.x(rd);
            let v = self.b.call(HelperId::PacStrip as u16, &[pointer], data);
            self.set_reg(rd, v);
        }
        self.isa.pauth || hint
    }

    pub(super) fn pacga(&mut self, a: &ArgRrr) -> bool {
        if !self.isa.pacga {
            return false;
        }
        let (n, m) = (self.x(a.rn), self.x_sp(a.rm));
        let v = self.b.call(HelperId::PacGa as u16, &[n, m], 0);
        self.set_reg(a.rd, v);
        true
    }
}
