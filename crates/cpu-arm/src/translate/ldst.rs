//! Loads and stores of general registers.
//!
//! Order everywhere: SP check, address, access, loaded register, base register; so a fault leaves
//! both as they were. Not here: exclusives and atomics, SIMD&FP registers.
//! Source: Arm ARM (DDI 0487) C6.2 (LDR, STR, LDP, … pages) and C3.2.

use jit_ir::{MemDesc, Ty, Val};

use super::Ctx;
use crate::decode::base::{ArgImmSMRnRtW, ArgLdlit, ArgLdst, ArgLdstR, ArgLdstp, ArgRcpc};
use crate::helpers::HelperId;

/// Address of an access: base plus a distance that the access itself adds, and the new base.
pub(super) struct Address {
    pub(super) at: Val,
    pub(super) offset: i32,
    writeback: Option<(u32, i64)>,
    base: Val,
}

impl Ctx<'_> {
    /// Address of the immediate forms; `mode` as in the table (0 offset, 1 post, 3 pre).
    pub(super) fn address(&mut self, rn: u32, imm: i64, mode: u32) -> Address {
        let base = self.base(rn);
        let offset = if mode == 1 { 0 } else { imm as i32 };
        let writeback = (mode != 0).then_some((rn, imm));
        Address { at: base, offset, writeback, base }
    }

    pub(super) fn write_back(&mut self, a: &Address) {
        if let Some((rn, imm)) = a.writeback {
            let v = self.b.add_imm(a.base, imm);
            self.set_base(rn, v, imm);
        }
    }

    /// Loads into a general register. `sext`: sign-extend, to 64 bits if `x`.
    fn load_to(&mut self, rt: u32, at: Val, offset: i32, desc: MemDesc, sext: u32, x: u32) {
        let v = self.load_value(at, offset, desc, sext, x);
        self.set_reg(rt, v);
    }

    fn load_value(&mut self, at: Val, offset: i32, desc: MemDesc, sext: u32, x: u32) -> Val {
        let ty = if sext != 0 && x == 0 { Ty::I32 } else { Ty::I64 };
        let desc = if sext != 0 { desc.signed() } else { desc };
        self.b.load(ty, at, offset, desc)
    }

    fn store_from(&mut self, rt: u32, at: Val, offset: i32, desc: MemDesc) {
        let v = if desc.log2() == 3 { self.x(rt) } else { self.w(rt) };
        self.b.store(at, offset, v, desc);
    }

    fn ldst_desc(&self, a: &ArgLdst) -> MemDesc {
        let mmu = if a.user != 0 { self.key.unpriv_mmu() } else { self.key.mmu() };
        self.mem_as(a.sz, mmu)
    }

    pub(super) fn ldr_imm(&mut self, a: &ArgLdst) -> bool {
        let at = self.address(a.rn, a.imm, a.mode);
        let desc = self.ldst_desc(a);
        self.load_to(a.rt, at.at, at.offset, desc, a.sext, a.x);
        self.write_back(&at);
        true
    }

    pub(super) fn str_imm(&mut self, a: &ArgLdst) -> bool {
        let at = self.address(a.rn, a.imm, a.mode);
        let desc = self.ldst_desc(a);
        self.store_from(a.rt, at.at, at.offset, desc);
        self.write_back(&at);
        true
    }

    /// Base plus extended, shifted register.
    pub(super) fn reg_address(&mut self, a: &ArgLdstR) -> Val {
        let base = self.base(a.rn);
        let m = match a.opt {
            2 => self.extended(1, a.rm, 2, 0),
            6 => self.extended(1, a.rm, 6, 0),
            _ => self.x(a.rm),
        };
        let m =
            if a.s != 0 && a.sz != 0 { self.b.shift_imm(jit_ir::Opcode::Shl, m, a.sz) } else { m };
        self.b.add(base, m)
    }

    pub(super) fn ldr_reg(&mut self, a: &ArgLdstR) -> bool {
        let at = self.reg_address(a);
        let desc = self.mem(a.sz);
        self.load_to(a.rt, at, 0, desc, a.sext, a.x);
        true
    }

    pub(super) fn str_reg(&mut self, a: &ArgLdstR) -> bool {
        let at = self.reg_address(a);
        let desc = self.mem(a.sz);
        self.store_from(a.rt, at, 0, desc);
        true
    }

    pub(super) fn ldr_literal(&mut self, a: &ArgLdlit) -> bool {
        let at = self.pc(a.imm);
        let desc = self.mem(a.sz);
        self.load_to(a.rt, at, 0, desc, a.sext, 1);
        true
    }

    /// LDP, LDNP, LDPSW.
    pub(super) fn ldp(&mut self, a: &ArgLdstp) -> bool {
        let at = self.address(a.rn, a.imm, a.mode);
        let desc = self.mem(a.sz);
        let first = self.load_value(at.at, at.offset, desc, a.sext, 1);
        let second = self.load_value(at.at, at.offset + (1 << a.sz), desc, a.sext, 1);
        self.set_reg(a.rt, first);
        self.set_reg(a.rt2, second);
        self.write_back(&at);
        true
    }

    /// STP, STNP.
    pub(super) fn stp(&mut self, a: &ArgLdstp) -> bool {
        let at = self.address(a.rn, a.imm, a.mode);
        let desc = self.mem(a.sz);
        self.store_from(a.rt, at.at, at.offset, desc);
        self.store_from(a.rt2, at.at, at.offset + (1 << a.sz), desc);
        self.write_back(&at);
        true
    }

    /// LDRAA, LDRAB.
    pub(super) fn ldra(&mut self, a: &ArgImmSMRnRtW) -> bool {
        if !self.isa.pauth {
            return false;
        }
        let base = self.base(a.rn);
        let zero = self.b.c64(0);
        let base = self.b.call(HelperId::PacAuth as u16, &[base, zero], 2 + a.m);
        let at = self.b.add_imm(base, a.imm);
        let desc = self.mem(3);
        self.load_to(a.rt, at, 0, desc, 0, 1);
        if a.w != 0 {
            // The authenticated base may differ from the old one in its top bits only.
            self.set_base(a.rn, at, a.imm);
        }
        true
    }

    /// LDAPUR and its signed forms.
    pub(super) fn ldapur(&mut self, a: &ArgRcpc) -> bool {
        if !self.isa.rcpc2 {
            return false;
        }
        let at = self.base(a.rn);
        let desc = self.mem_strict(a.sz).acquire();
        self.load_to(a.rt, at, a.imm as i32, desc, a.sext, a.x);
        true
    }

    pub(super) fn stlur(&mut self, a: &ArgRcpc) -> bool {
        if !self.isa.rcpc2 {
            return false;
        }
        let at = self.base(a.rn);
        let desc = self.mem_strict(a.sz).release();
        self.store_from(a.rt, at, a.imm as i32, desc);
        true
    }

    /// LDAR, LDLAR, LDAPR.
    pub(super) fn load_acquire(&mut self, sz: u32, rn: u32, rt: u32) -> bool {
        let at = self.base(rn);
        let desc = self.mem_strict(sz).acquire();
        self.load_to(rt, at, 0, desc, 0, 0);
        true
    }

    /// STLR, STLLR.
    pub(super) fn store_release(&mut self, sz: u32, rn: u32, rt: u32) -> bool {
        let at = self.base(rn);
        let desc = self.mem_strict(sz).release();
        self.store_from(rt, at, 0, desc);
        true
    }
}
