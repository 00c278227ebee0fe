//! By indexed element: vector and scalar.

use softfloat::{F16, F32, F64, Format};

use super::three::dot;
use super::{Exec, lane, lanes, set_lane};
use crate::decode::fpsimd as d;

impl Exec<'_> {
    /// Element number and register for lanes of `bits` bits; `None` = no such index.
    fn index(a: &d::ArgElem, bits: u32) -> Option<(u32, u32)> {
        match bits {
            16 => Some((a.h << 2 | a.l << 1 | a.m, a.rm)),
            32 => Some((a.h << 1 | a.l, a.m << 4 | a.rm)),
            64 if a.l == 0 => Some((a.h, a.m << 4 | a.rm)),
            _ => None,
        }
    }

    fn element(&self, a: &d::ArgElem, bits: u32) -> Option<u64> {
        let (i, reg) = Self::index(a, bits)?;
        Some(lane(self.v(reg), bits, i))
    }

    pub(super) fn elem(&mut self, a: &d::ArgElem, scalar: bool) -> bool {
        let fp = self.elem_format(a);
        match (a.u, a.op) {
            (_, 1 | 5 | 9) if a.u == 0 || a.op == 9 => match fp {
                Some(f) => self.elem_fp(a, f, scalar),
                None => false,
            },
            (0, 0 | 4) | (1, 8 | 12) if !scalar && a.size == 2 => self.elem_fmlal(a),
            (1, 1 | 3 | 5 | 7) if !scalar => self.elem_complex(a),
            (_, 14) if !scalar && a.size == 2 && self.features.dotprod() => {
                let Some(m) = self.element(a, 32) else { return false };
                let unsigned = a.u != 0;
                self.map3(32, lanes(32, a.q), (a.rd, a.rn, a.rn), |_, d, n, _| {
                    dot(d, n, m, unsigned)
                })
            }
            (0, 15) if !scalar => self.elem_matrix(a),
            _ if a.size == 1 || a.size == 2 => self.elem_int(a, scalar),
            _ => false,
        }
    }

    fn elem_format(&self, a: &d::ArgElem) -> Option<Format> {
        match a.size {
            0 if self.features.fp16() => Some(F16),
            2 => Some(F32),
            3 if a.q != 0 => Some(F64),
            _ => None,
        }
    }

    fn elem_fp(&mut self, a: &d::ArgElem, f: Format, scalar: bool) -> bool {
        let bits = f.bits();
        let Some(m) = self.element(a, bits) else { return false };
        let count = if scalar { 1 } else { lanes(bits, a.q) };
        self.map3(bits, count, (a.rd, a.rn, a.rn), |e, d, n, _| match a.op {
            1 => e.fp.mul_add(f, d, n, m),
            5 => e.fp.mul_add(f, d, n ^ f.sign_bit(), m),
            _ if a.u != 0 => e.fp.mul_extended(f, n, m),
            _ => e.fp.mul(f, n, m),
        })
    }

    /// FMLAL, FMLSL (low half), FMLAL2, FMLSL2.
    fn elem_fmlal(&mut self, a: &d::ArgElem) -> bool {
        if !self.features.fhm() {
            return false;
        }
        let m = lane(self.v(a.rm), 16, a.h << 2 | a.l << 1 | a.m);
        let (d, n) = (self.v(a.rd), self.v(a.rn));
        let count = lanes(32, a.q);
        let base = if a.u != 0 { count } else { 0 };
        let mut out = 0;
        for i in 0..count {
            let x = lane(n, 16, base + i);
            let r = self.widening_mul_add(lane(d, 32, i), x, m, a.op & 4 != 0);
            set_lane(&mut out, 32, i, r);
        }
        self.set_v(a.rd, out);
        true
    }

    fn elem_complex(&mut self, a: &d::ArgElem) -> bool {
        let f = match a.size {
            1 if self.features.fp16() => F16,
            2 if a.q != 0 && a.l == 0 => F32,
            _ => return false,
        };
        if !self.features.fcma() || (f == F16 && a.h != 0 && a.q == 0) {
            return false;
        }
        let bits = f.bits();
        let (i, reg) =
            if f == F16 { (a.h << 1 | a.l, a.m << 4 | a.rm) } else { (a.h, a.m << 4 | a.rm) };
        let m = self.v(reg);
        let m = (lane(m, bits, 2 * i), lane(m, bits, 2 * i + 1));
        let (d, n) = (self.v(a.rd), self.v(a.rn));
        let mut out = 0;
        for i in 0..lanes(bits, a.q) / 2 {
            let pair = |v: u128| (lane(v, bits, 2 * i), lane(v, bits, 2 * i + 1));
            let (re, im) = self.complex_mul_add(f, a.op >> 1 & 3, pair(d), pair(n), m);
            set_lane(&mut out, bits, 2 * i, re);
            set_lane(&mut out, bits, 2 * i + 1, im);
        }
        self.set_v(a.rd, out);
        true
    }

    fn elem_int(&mut self, a: &d::ArgElem, scalar: bool) -> bool {
        let bits = 8u32 << a.size;
        let u = a.u != 0;
        let Some(m) = self.element(a, bits) else { return false };
        let count = if scalar { 1 } else { lanes(bits, a.q) };
        let regs = (a.rd, a.rn, a.rn);
        match (a.op, u) {
            (0 | 4, true) if !scalar => self.map3(bits, count, regs, |_, d, n, _| {
                let p = n.wrapping_mul(m);
                if a.op == 0 { d.wrapping_add(p) } else { d.wrapping_sub(p) }
            }),
            (8, false) if !scalar => self.map1(bits, count, (a.rd, a.rn), |_, n| n.wrapping_mul(m)),
            (12 | 13, false) => {
                let round = a.op == 13;
                self.map1(bits, count, (a.rd, a.rn), |e, n| e.doubling_high(n, m, bits, round))
            }
            (13 | 15, true) if self.features.rdm() => {
                let sub = a.op == 15;
                self.map3(bits, count, regs, |e, d, n, _| e.doubling_acc(d, n, m, bits, sub))
            }
            (2 | 6 | 10, _) if !scalar => self.elem_long(a, m, scalar),
            (3 | 7 | 11, false) => self.elem_long(a, m, scalar),
            _ => false,
        }
    }

    fn elem_long(&mut self, a: &d::ArgElem, m: u64, scalar: bool) -> bool {
        let bits = 8u32 << a.size;
        // The opcodes of "three different" are these plus what the position encodes.
        let op = match a.op {
            2 => 8,
            3 => 9,
            6 => 10,
            7 => 11,
            10 => 12,
            _ => 13,
        };
        let shift = if scalar { 0 } else { 64 * a.q };
        let (d, n) = (self.v(a.rd), self.v(a.rn) >> shift);
        let count = if scalar { 1 } else { 64 / bits };
        let mut out = 0;
        for i in 0..count {
            let acc = lane(d, 2 * bits, i);
            let r = self.long_lane(op, a.u != 0, bits, acc, lane(n, bits, i), m);
            set_lane(&mut out, 2 * bits, i, r);
        }
        self.set_v(a.rd, out);
        true
    }
}
