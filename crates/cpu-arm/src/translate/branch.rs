//! Branches, exception generation, returns.
//!
//! Conditional branches become side exits and the block goes on; unconditional ones end it, except
//! forward jumps inside the page, which the block follows. BTYPE and the return ring are kept here.
//! Not here: what the exception helpers do.
//! Source: Arm ARM (DDI 0487) C6.2, pseudocode BranchTo, AArch64.BranchAddr.

use jit_ir::{Cond, Exit, Opcode, Ty, Val};

use super::{Ctx, Flow, PAGE, exit_at};
use crate::decode::base::{
    ArgBitImmSNzRt, ArgBr, ArgBrpac, ArgCondImmS, ArgExc, ArgImmSNzRtSf, ArgM,
};
use crate::helpers::HelperId;
use crate::state::BTYPE_SLOT;

/// What a conditional branch tests.
#[derive(Clone, Copy)]
enum Test {
    Flags(Val, Cond),
    Zero(Val),
    NotZero(Val),
    Bit(Val, u32, bool),
}

/// Which instruction an indirect branch is, for BTYPE and the return ring.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Jump,
    Call,
    Return,
}

impl Ctx<'_> {
    fn target(&self, imm: i64) -> i64 {
        i64::from(self.offset) + imm
    }

    pub(super) fn b(&mut self, imm: i64) -> bool {
        let to = self.target(imm);
        if to > i64::from(self.offset) && to < PAGE && !self.key.step() {
            self.flow = Flow::Jump(to as u32);
        } else {
            self.leave(exit_at(to));
        }
        true
    }

    pub(super) fn bl(&mut self, imm: i64) -> bool {
        self.link();
        let to = self.target(imm);
        self.leave(exit_at(to));
        true
    }

    fn link(&mut self) {
        let next = self.pc(4);
        self.set_reg(30, next);
        let next = self.next();
        self.b.push_return(next);
    }

    fn branch_if(&mut self, test: Test, imm: i64) -> bool {
        let to = self.target(imm);
        if self.key.step() {
            let target = self.step_target(test, to);
            self.leave(Exit::Indirect(target));
            return true;
        }
        self.clear_btype();
        self.branches += 1;
        let exit = exit_at(to);
        match test {
            Test::Flags(cc, cond) => self.b.exit_cc(cc, cond, exit),
            Test::Zero(v) => self.b.exit_if(v, true, exit),
            Test::NotZero(v) => self.b.exit_if(v, false, exit),
            Test::Bit(v, bit, want) => self.b.exit_bit(v, bit, want, exit),
        }
        true
    }

    /// Where a conditional branch goes, as a value.
    fn step_target(&mut self, test: Test, to: i64) -> Val {
        let (v, cond) = match test {
            Test::Flags(cc, cond) => {
                let (yes, no) = (self.b.pc(to), self.pc(4));
                return self.b.select(cc, cond, yes, no);
            }
            Test::Zero(v) => (v, Cond::Eq),
            Test::NotZero(v) => (v, Cond::Ne),
            Test::Bit(v, bit, want) => {
                (self.b.ubfx(v, bit, 1), if want { Cond::Ne } else { Cond::Eq })
            }
        };
        let zero = self.b.constant(self.b.ty(v), 0);
        let (_, cc) = self.b.with_flags(Opcode::Sub, v, zero);
        let (yes, no) = (self.b.pc(to), self.pc(4));
        self.b.select(cc, cond, yes, no)
    }

    pub(super) fn b_cond(&mut self, a: &ArgCondImmS) -> bool {
        match Cond::from_bits(a.cond) {
            None => self.b(a.imm),
            Some(cond) => {
                let cc = self.b.get_cc();
                self.branch_if(Test::Flags(cc, cond), a.imm)
            }
        }
    }

    pub(super) fn cbz(&mut self, a: &ArgImmSNzRtSf) -> bool {
        let v = self.reg(a.sf, a.rt);
        self.branch_if(if a.nz != 0 { Test::NotZero(v) } else { Test::Zero(v) }, a.imm)
    }

    pub(super) fn tbz(&mut self, a: &ArgBitImmSNzRt) -> bool {
        let v = self.x(a.rt);
        self.branch_if(Test::Bit(v, a.bit, a.nz != 0), a.imm)
    }

    /// BR, BLR, RET once the target is known; `rn` decides BTYPE.
    fn indirect(&mut self, target: Val, rn: u32, kind: Kind) -> bool {
        let target = self.branch_address(target);
        if kind == Kind::Call {
            self.link();
        }
        let btype = match kind {
            Kind::Return => 0,
            Kind::Call => 2,
            Kind::Jump if self.key.guarded() && rn != 16 && rn != 17 => 3,
            Kind::Jump => 1,
        };
        if self.isa.bti && btype != 0 {
            let v = self.b.c32(btype);
            self.b.set(BTYPE_SLOT, v);
            self.btype_live = false;
        }
        self.leave(if kind == Kind::Return {
            Exit::Return(target)
        } else {
            Exit::Indirect(target)
        });
        true
    }

    pub(super) fn branch_reg(&mut self, a: &ArgBr, kind: Kind) -> bool {
        let target = self.x(a.rn);
        self.indirect(target, a.rn, kind)
    }

    /// BRAA, BRAAZ, BLRAA, BLRAAZ and the B-key forms.
    pub(super) fn branch_auth(&mut self, a: &ArgBrpac, zero: bool, kind: Kind) -> bool {
        if !self.isa.pauth {
            return false;
        }
        let target = self.x(a.rn);
        let modifier = if zero { self.b.c64(0) } else { self.x_sp(a.rm) };
        let target = self.pac_value(target, modifier, true, a.m);
        self.indirect(target, a.rn, kind)
    }

    /// RETAA, RETAB.
    pub(super) fn reta(&mut self, a: &ArgM) -> bool {
        if !self.isa.pauth {
            return false;
        }
        let (target, modifier) = (self.x(30), self.x_sp(31));
        let target = self.pac_value(target, modifier, true, a.m);
        self.indirect(target, 30, Kind::Return)
    }

    /// ERET (0), ERETAA (1), ERETAB (2).
    pub(super) fn eret(&mut self, form: u32) -> bool {
        if self.key.el() == 0 || (form != 0 && !self.isa.pauth) {
            return false;
        }
        self.clear_btype();
        self.raise(HelperId::Eret, form);
        true
    }

    /// SVC, HVC, SMC, BRK; undefined below `min_el`.
    pub(super) fn exception(&mut self, helper: HelperId, min_el: u8, a: &ArgExc) -> bool {
        if self.key.el() < min_el {
            return false;
        }
        if helper != HelperId::Brk {
            self.clear_btype();
        }
        self.raise(helper, a.imm);
        true
    }

    /// CSEL and its family: `cond ? rn : op(rm)`.
    pub(super) fn csel(&mut self, a: &crate::decode::base::ArgCsel, inv: bool, inc: bool) -> bool {
        let ty = Ctx::ty(a.sf);
        let cond = Cond::from_bits(a.cond);
        if let Some(cond) = cond
            && a.rn == 31
            && a.rm == 31
            && inv != inc
        {
            // CSET, CSETM.
            let cc = self.b.get_cc();
            let mut v = self.b.cond_val(ty, cc, cond.invert());
            if inv {
                let zero = self.b.constant(ty, 0);
                v = self.b.sub(zero, v);
            }
            self.set_reg(a.rd, v);
            return true;
        }
        let yes = self.reg(a.sf, a.rn);
        let v = match cond {
            None => yes,
            Some(cond) => {
                let no = self.csel_else(a.sf, a.rm, inv, inc);
                let cc = self.b.get_cc();
                self.b.select(cc, cond, yes, no)
            }
        };
        self.set_reg(a.rd, v);
        true
    }

    fn csel_else(&mut self, sf: u32, rm: u32, inv: bool, inc: bool) -> Val {
        let v = self.reg(sf, rm);
        match (inv, inc) {
            (false, false) => v,
            (false, true) => self.b.add_imm(v, 1),
            (true, false) => self.b.unary(Opcode::Not, 0, v),
            (true, true) => {
                let zero = self.b.constant(Ctx::ty(sf), 0);
                self.b.sub(zero, v)
            }
        }
    }

    /// ADR and ADRP.
    pub(super) fn adr(&mut self, rd: u32, imm: i64, page: bool) -> bool {
        let v = if page { self.b.pc(imm << 12) } else { self.pc(imm) };
        debug_assert_eq!(self.b.ty(v), Ty::I64);
        self.set_reg(rd, v);
        true
    }
}
