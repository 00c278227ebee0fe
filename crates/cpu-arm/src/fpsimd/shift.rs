//! Shifts by immediate and fixed-point conversions: vector and scalar; modified immediates.

use softfloat::{F16, F32, F64, Rounding};

use super::scalar::expand_imm;
use super::{Exec, lane, lanes, number, ones, set_lane, sx};
use crate::decode::fpsimd as d;

impl Exec<'_> {
    pub(super) fn shift(&mut self, a: &d::ArgShift, scalar: bool) -> bool {
        let immh = a.immhb >> 3;
        if immh == 0 {
            return false;
        }
        let size = 31 - immh.leading_zeros();
        let bits = 8u32 << size;
        match a.op {
            16..=19 => self.shift_narrow(a, bits, scalar),
            20 => !scalar && self.shift_long(a, bits),
            28 | 31 => self.fixed_point(a, bits, scalar),
            _ => self.shift_same(a, bits, scalar),
        }
    }

    fn shift_same(&mut self, a: &d::ArgShift, bits: u32, scalar: bool) -> bool {
        let u = a.u != 0;
        let saturating = matches!(a.op, 12 | 14);
        let exists = match a.op {
            0 | 2 | 4 | 6 | 10 | 14 => true,
            8 | 12 => u,
            _ => false,
        };
        if !exists || (bits == 64 && a.q == 0) || (scalar && !saturating && bits != 64) {
            return false;
        }
        let right = 2 * bits - a.immhb;
        let left = a.immhb.wrapping_sub(bits);
        let count = if scalar { 1 } else { lanes(bits, a.q) };
        let mask = ones(bits);
        self.map3(bits, count, (a.rd, a.rn, a.rn), |e, d, n, _| {
            let round = matches!(a.op, 4 | 6);
            match a.op {
                0 | 2 | 4 | 6 => {
                    let r = e.shift_by(n, -(right as i32), bits, (!u, round, false));
                    if matches!(a.op, 2 | 6) { d.wrapping_add(r) } else { r }
                }
                8 if right == 64 => d,
                8 => d & !(mask >> right) | n >> right,
                10 if u => d & !(mask << left & mask) | n << left,
                10 => n << left,
                12 => {
                    let v = i128::from(sx(n, bits)) << left;
                    e.sat(v, bits, false)
                }
                _ => {
                    let v = number(n, bits, !u) << left;
                    e.sat(v, bits, !u)
                }
            }
        })
    }

    fn shift_narrow(&mut self, a: &d::ArgShift, bits: u32, scalar: bool) -> bool {
        let u = a.u != 0;
        if bits == 64 || (scalar && a.op < 18 && !u) {
            return false;
        }
        let n = self.v(a.rn);
        let by = 2 * bits - a.immhb;
        let round = if a.op & 1 != 0 { 1i128 << (by - 1) } else { 0 };
        let count = if scalar { 1 } else { 64 / bits };
        let mut out = 0;
        for i in 0..count {
            let v = lane(n, 2 * bits, i);
            let r = match (a.op & 2 != 0, u) {
                (false, false) => ((number(v, 2 * bits, false) + round) >> by) as u64,
                (false, true) => self.sat((number(v, 2 * bits, true) + round) >> by, bits, false),
                (true, _) => self.sat((number(v, 2 * bits, !u) + round) >> by, bits, !u),
            };
            set_lane(&mut out, bits, i, r);
        }
        self.set_half(a.rd, if scalar { 0 } else { a.q }, out);
        true
    }

    fn shift_long(&mut self, a: &d::ArgShift, bits: u32) -> bool {
        if bits == 64 {
            return false;
        }
        let n = self.v(a.rn) >> (64 * a.q);
        let by = a.immhb - bits;
        let mut out = 0;
        for i in 0..64 / bits {
            let v = number(lane(n, bits, i), bits, a.u == 0) << by;
            set_lane(&mut out, 2 * bits, i, v as u64);
        }
        self.set_v(a.rd, out);
        true
    }

    fn fixed_point(&mut self, a: &d::ArgShift, bits: u32, scalar: bool) -> bool {
        let f = match bits {
            16 if self.features.fp16() => F16,
            32 => F32,
            64 if a.q != 0 => F64,
            _ => return false,
        };
        let fbits = 2 * bits - a.immhb;
        let signed = a.u == 0;
        let count = if scalar { 1 } else { lanes(bits, a.q) };
        self.map1(bits, count, (a.rd, a.rn), |e, n| {
            if a.op == 28 {
                let v = if signed { sx(n, bits) as u64 } else { n };
                e.fp.from_int(f, v, signed, fbits)
            } else {
                e.fp.to_int(f, n, bits, signed, fbits, Rounding::Zero)
            }
        })
    }

    pub(super) fn modified_immediate(&mut self, a: &d::ArgAbcCmodeDefghO2OpQRd) -> bool {
        let imm = a.abc << 5 | a.defgh;
        if a.o2 != 0 {
            // FMOV (vector, half precision).
            if a.cmode != 15 || a.op != 0 || !self.features.fp16() {
                return false;
            }
            let v = u128::from(expand_imm(F16, imm)) * 0x0001_0001_0001_0001_0001_0001_0001_0001;
            self.set_q(a.rd, a.q, v);
            return true;
        }
        let Some(word) = expand_word(a.cmode, a.op, imm) else { return false };
        if a.cmode == 15 && a.op == 1 && a.q == 0 {
            return false;
        }
        let v = u128::from(word) | u128::from(word) << 64;
        let old = self.v(a.rd);
        let logic = a.cmode & 1 != 0 && a.cmode < 12;
        let r = match (logic, a.op) {
            (true, 0) => old | v,
            (true, _) => old & !v,
            (false, 1) if a.cmode < 14 => !v,
            _ => v,
        };
        self.set_q(a.rd, a.q, r);
        true
    }
}

/// AdvSIMDExpandImm, before the inversion of MVNI and BIC.
pub(super) fn expand_word(cmode: u32, op: u32, imm: u32) -> Option<u64> {
    let i = u64::from(imm);
    let twice = |v: u64| v << 32 | v;
    Some(match cmode >> 1 {
        n @ 0..=3 => twice(i << (8 * n)),
        n @ 4..=5 => (i << (8 * (n - 4))) * 0x0001_0001_0001_0001,
        6 if cmode & 1 == 0 => twice(i << 8 | 0xff),
        6 => twice(i << 16 | 0xffff),
        _ if cmode & 1 == 0 && op == 0 => i * 0x0101_0101_0101_0101,
        _ if cmode & 1 == 0 => {
            (0..8).filter(|n| i >> n & 1 != 0).fold(0, |v, n| v | 0xff << (8 * n))
        }
        _ if op == 0 => twice(expand_imm(F32, imm)),
        _ => expand_imm(F64, imm),
    })
}
