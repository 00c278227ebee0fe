//! Loads and stores of SIMD&FP registers, and the AdvSIMD structure loads and stores.
//!
//! A scalar load clears the rest of the register. Structure accesses go element by element unless
//! they are plain little-endian copies. FP traps come before the SP check and the access.
//! Not here: data processing (`crate::fpsimd`).
//! Source: Arm ARM (DDI 0487) C7.2 (LDR (immediate, SIMD&FP), LD1 to LD4, ST1 to ST4 pages).

use jit_ir::{Lane, Opcode, Ty, Val};

use super::Ctx;
use crate::decode::base::{ArgLdlit, ArgLdst, ArgLdstR, ArgLdstp, ArgVmult, ArgVone};

impl Ctx<'_> {
    /// Loads `1 << sz` bytes as a whole vector register value.
    fn load_v(&mut self, sz: u32, at: Val, offset: i32) -> Val {
        let desc = self.mem(sz);
        if sz >= 2 {
            return self.b.load(Ty::V128, at, offset, desc);
        }
        let lo = self.b.load(Ty::I64, at, offset, desc);
        let hi = self.b.c64(0);
        self.b.v_from64(lo, hi)
    }

    fn store_v(&mut self, sz: u32, rt: u32, at: Val, offset: i32) {
        let desc = self.mem(sz);
        let mut v = self.v(rt);
        if sz < 2 {
            v = self.b.v_get64(v, 0);
            v = self.b.trunc(v);
        }
        self.b.store(at, offset, v, desc);
    }

    pub(super) fn ldr_v(&mut self, a: &ArgLdst) -> bool {
        if self.fp_check() {
            let at = self.address(a.rn, a.imm, a.mode);
            let v = self.load_v(a.sz, at.at, at.offset);
            self.set_v(a.rt, v);
            self.write_back(&at);
        }
        true
    }

    pub(super) fn str_v(&mut self, a: &ArgLdst) -> bool {
        if self.fp_check() {
            let at = self.address(a.rn, a.imm, a.mode);
            self.store_v(a.sz, a.rt, at.at, at.offset);
            self.write_back(&at);
        }
        true
    }

    pub(super) fn ldr_v_reg(&mut self, a: &ArgLdstR) -> bool {
        if self.fp_check() {
            let at = self.reg_address(a);
            let v = self.load_v(a.sz, at, 0);
            self.set_v(a.rt, v);
        }
        true
    }

    pub(super) fn str_v_reg(&mut self, a: &ArgLdstR) -> bool {
        if self.fp_check() {
            let at = self.reg_address(a);
            self.store_v(a.sz, a.rt, at, 0);
        }
        true
    }

    pub(super) fn ldr_v_literal(&mut self, a: &ArgLdlit) -> bool {
        if self.fp_check() {
            let at = self.pc(a.imm);
            let v = self.load_v(a.sz, at, 0);
            self.set_v(a.rt, v);
        }
        true
    }

    pub(super) fn ldp_v(&mut self, a: &ArgLdstp) -> bool {
        if self.fp_check() {
            let at = self.address(a.rn, a.imm, a.mode);
            let first = self.load_v(a.sz, at.at, at.offset);
            let second = self.load_v(a.sz, at.at, at.offset + (1 << a.sz));
            self.set_v(a.rt, first);
            self.set_v(a.rt2, second);
            self.write_back(&at);
        }
        true
    }

    pub(super) fn stp_v(&mut self, a: &ArgLdstp) -> bool {
        if self.fp_check() {
            let at = self.address(a.rn, a.imm, a.mode);
            self.store_v(a.sz, a.rt, at.at, at.offset);
            self.store_v(a.sz, a.rt2, at.at, at.offset + (1 << a.sz));
            self.write_back(&at);
        }
        true
    }

    // ------------------------------------------------------------ structures

    /// Whole registers may be copied as one access.
    fn plain_copy(&self) -> bool {
        !self.key.big_endian() && !self.key.align_check()
    }

    /// Post-index: by rm, or by the size of the transfer.
    fn post_index(&mut self, post: u32, rn: u32, rm: u32, base: Val, bytes: u32) {
        if post == 0 {
            return;
        }
        if rm == 31 {
            let v = self.b.add_imm(base, i64::from(bytes));
            self.set_base(rn, v, i64::from(bytes));
        } else {
            let m = self.x(rm);
            let v = self.b.add(base, m);
            self.set_reg_sp(rn, v);
        }
    }

    fn mult_ok(a: &ArgVmult) -> bool {
        a.q != 0 || a.sz != 3 || a.selem == 1
    }

    /// LD1 (1 to 4 registers), LD2, LD3, LD4.
    pub(super) fn ld_mult(&mut self, a: &ArgVmult) -> bool {
        if !Self::mult_ok(a) {
            return false;
        }
        if !self.fp_check() {
            return true;
        }
        let base = self.base(a.rn);
        let bytes = 8u32 << a.q;
        let regs = if a.selem == 1 && self.plain_copy() {
            (0..a.rpt).map(|r| self.load_v(3 + a.q, base, (r * bytes) as i32)).collect()
        } else {
            self.load_elements(a, base, bytes)
        };
        for (r, v) in (0..).zip(regs) {
            self.set_v((a.rt + r) & 31, v);
        }
        self.post_index(a.post, a.rn, a.rm, base, bytes * a.rpt * a.selem);
        true
    }

    /// Offset of an element: sequence r, structure member s, element e.
    fn element_offset(a: &ArgVmult, r: u32, e: u32, s: u32) -> i32 {
        let elements = (8u32 << a.q) >> a.sz;
        (((r * elements + e) * a.selem + s) << a.sz) as i32
    }

    fn load_elements(&mut self, a: &ArgVmult, base: Val, bytes: u32) -> Vec<Val> {
        let desc = self.mem(a.sz);
        let per_word = 8u32 >> a.sz;
        let count = a.rpt * a.selem;
        let zero = self.b.c64(0);
        let mut words = vec![[zero; 2]; count as usize];
        for r in 0..a.rpt {
            for e in 0..bytes >> a.sz {
                for s in 0..a.selem {
                    let at = Self::element_offset(a, r, e, s);
                    let v = self.b.load(Ty::I64, base, at, desc);
                    let v = self.b.shift_imm(Opcode::Shl, v, (e % per_word) * (8 << a.sz));
                    let index = (r * a.selem + s) as usize;
                    let word =
                        words.get_mut(index).and_then(|w| w.get_mut((e / per_word) as usize));
                    if let Some(word) = word {
                        *word = self.b.binary(Opcode::Or, *word, v);
                    }
                }
            }
        }
        words.into_iter().map(|[lo, hi]| self.b.v_from64(lo, hi)).collect()
    }

    /// ST1 (1 to 4 registers), ST2, ST3, ST4.
    pub(super) fn st_mult(&mut self, a: &ArgVmult) -> bool {
        if !Self::mult_ok(a) {
            return false;
        }
        if !self.fp_check() {
            return true;
        }
        let base = self.base(a.rn);
        let bytes = 8u32 << a.q;
        if a.selem == 1 && self.plain_copy() {
            for r in 0..a.rpt {
                self.store_v(3 + a.q, (a.rt + r) & 31, base, (r * bytes) as i32);
            }
        } else {
            for r in 0..a.rpt {
                for e in 0..bytes >> a.sz {
                    for s in 0..a.selem {
                        let reg = (a.rt + r * a.selem + s) & 31;
                        let at = Self::element_offset(a, r, e, s);
                        self.store_element(a.sz, reg, e, base, at);
                    }
                }
            }
        }
        self.post_index(a.post, a.rn, a.rm, base, bytes * a.rpt * a.selem);
        true
    }

    fn store_element(&mut self, sz: u32, reg: u32, index: u32, base: Val, at: i32) {
        let desc = self.mem(sz);
        let bit = index << (3 + sz);
        let v = self.v(reg);
        let word = self.b.v_get64(v, (bit / 64) as u16);
        let v = if sz == 3 { word } else { self.b.ubfx(word, bit % 64, 8 << sz) };
        let v = if sz == 3 { v } else { self.b.trunc(v) };
        self.b.store(base, at, v, desc);
    }

    /// LD1 to LD4, one lane.
    pub(super) fn ld_one(&mut self, a: &ArgVone) -> bool {
        if !self.fp_check() {
            return true;
        }
        let base = self.base(a.rn);
        let desc = self.mem(a.sz);
        let loaded: Vec<Val> =
            (0..a.selem).map(|s| self.b.load(Ty::I64, base, (s << a.sz) as i32, desc)).collect();
        for (s, v) in (0..).zip(loaded) {
            self.insert((a.rt + s) & 31, a.sz, a.index, v);
        }
        self.post_index(a.post, a.rn, a.rm, base, a.selem << a.sz);
        true
    }

    /// Replaces one lane of a register.
    fn insert(&mut self, reg: u32, sz: u32, index: u32, v: Val) {
        let bit = index << (3 + sz);
        let old = self.v(reg);
        let lo = self.b.v_get64(old, 0);
        let hi = self.b.v_get64(old, 1);
        let word = if bit < 64 { lo } else { hi };
        let word = if sz == 3 { v } else { self.b.bfi(word, v, bit % 64, 8 << sz) };
        let new = if bit < 64 { self.b.v_from64(word, hi) } else { self.b.v_from64(lo, word) };
        self.set_v(reg, new);
    }

    /// ST1 to ST4, one lane.
    pub(super) fn st_one(&mut self, a: &ArgVone) -> bool {
        if !self.fp_check() {
            return true;
        }
        let base = self.base(a.rn);
        for s in 0..a.selem {
            self.store_element(a.sz, (a.rt + s) & 31, a.index, base, (s << a.sz) as i32);
        }
        self.post_index(a.post, a.rn, a.rm, base, a.selem << a.sz);
        true
    }

    /// LD1R to LD4R.
    pub(super) fn ld_rep(&mut self, a: &ArgVone) -> bool {
        if !self.fp_check() {
            return true;
        }
        let base = self.base(a.rn);
        let desc = self.mem(a.sz);
        let lane = Lane::ALL.get(a.sz as usize).copied().unwrap_or(Lane::D);
        let loaded: Vec<Val> =
            (0..a.selem).map(|s| self.b.load(Ty::I64, base, (s << a.sz) as i32, desc)).collect();
        for (s, v) in (0..).zip(loaded) {
            let mut v = self.b.v_dup(lane, v);
            if a.q == 0 {
                v = self.b.vector(Opcode::VLow64, lane, v, Val::NONE);
            }
            self.set_v((a.rt + s) & 31, v);
        }
        self.post_index(a.post, a.rn, a.rm, base, a.selem << a.sz);
        true
    }
}
