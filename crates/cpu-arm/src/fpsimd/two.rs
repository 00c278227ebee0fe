//! "Two-register miscellaneous": vector and scalar.

use softfloat::{F16, F32, F64, Format, Order, Rounding};

use super::{Exec, lane, lanes, number, ones, set_lane, sx};
use crate::decode::fpsimd as d;

impl Exec<'_> {
    pub(super) fn two(&mut self, a: &d::ArgRr, scalar: bool) -> bool {
        if !scalar && (a.op, a.u, a.size) == (22, 0, 2) && self.features.bf16() {
            return self.narrow_bf16(a.q, a.rd, a.rn);
        }
        let (u, bits) = (a.u != 0, 8u32 << a.size);
        let count = if scalar { 1 } else { lanes(bits, a.q) };
        let whole = scalar || a.size < 3 || a.q != 0;
        let regs = (a.rd, a.rn);
        match a.op {
            0..=2 | 4..=6 if scalar => false,
            0 => self.reverse(a, if u { 32 } else { 64 }),
            1 => !u && self.reverse(a, 16),
            2 | 6 => self.add_long_pairs(a),
            3 => {
                whole
                    && self.map3(bits, count, (a.rd, a.rn, a.rn), |e, d, n, _| {
                        // SUQADD, USQADD: the other operand has the other signedness.
                        let sum = number(d, bits, !u) + number(n, bits, u);
                        e.sat(sum, bits, !u)
                    })
            }
            4 => {
                a.size < 3
                    && self.map1(bits, count, regs, |_, n| {
                        let n = n & ones(bits);
                        let v = if u { n } else { (n ^ (sx(n, bits) >> 63) as u64) & ones(bits) };
                        u64::from(v.leading_zeros() - (64 - bits)) - u64::from(!u)
                    })
            }
            5 => self.count_not_rbit(a),
            7 => {
                whole
                    && self.map1(bits, count, regs, |e, n| {
                        let x = i128::from(sx(n, bits));
                        e.sat(if u || x < 0 { -x } else { x }, bits, true)
                    })
            }
            8..=10 => self.compare_zero(a, scalar),
            11 => {
                (whole && (!scalar || a.size == 3))
                    && self.map1(bits, count, regs, |_, n| {
                        let x = sx(n, bits);
                        if u || x < 0 { x.wrapping_neg() as u64 } else { x as u64 }
                    })
            }
            18 | 20 => self.narrow_int(a, scalar),
            19 => u && !scalar && a.size < 3 && self.shift_left_long(a),
            _ => self.two_fp_any(a, scalar),
        }
    }

    fn reverse(&mut self, a: &d::ArgRr, group: u32) -> bool {
        let bits = 8u32 << a.size;
        if bits >= group {
            return false;
        }
        let n = self.v(a.rn);
        let per = group / bits;
        let mut out = 0;
        for i in 0..lanes(bits, a.q) {
            set_lane(&mut out, bits, i, lane(n, bits, i ^ (per - 1)));
        }
        self.set_v(a.rd, out);
        true
    }

    fn add_long_pairs(&mut self, a: &d::ArgRr) -> bool {
        if a.size == 3 {
            return false;
        }
        let (bits, signed) = (8u32 << a.size, a.u == 0);
        let (d, n) = (self.v(a.rd), self.v(a.rn));
        let mut out = 0;
        for i in 0..lanes(2 * bits, a.q) {
            let x = number(lane(n, bits, 2 * i), bits, signed)
                + number(lane(n, bits, 2 * i + 1), bits, signed);
            let acc = if a.op == 6 { lane(d, 2 * bits, i) } else { 0 };
            set_lane(&mut out, 2 * bits, i, acc.wrapping_add(x as u64));
        }
        self.set_v(a.rd, out);
        true
    }

    fn count_not_rbit(&mut self, a: &d::ArgRr) -> bool {
        let regs = (a.rd, a.rn);
        let count = lanes(8, a.q);
        match (a.u, a.size) {
            (0, 0) => self.map1(8, count, regs, |_, n| u64::from(n.count_ones())),
            (1, 0) => self.map1(8, count, regs, |_, n| !n),
            (1, 1) => self.map1(8, count, regs, |_, n| u64::from((n as u8).reverse_bits())),
            _ => false,
        }
    }

    fn compare_zero(&mut self, a: &d::ArgRr, scalar: bool) -> bool {
        let (u, bits) = (a.u != 0, 8u32 << a.size);
        if (a.size == 3 && a.q == 0) || (scalar && a.size != 3) || (a.op == 10 && u) {
            return false;
        }
        let count = if scalar { 1 } else { lanes(bits, a.q) };
        self.map1(bits, count, (a.rd, a.rn), |_, n| {
            let x = sx(n, bits);
            let yes = match (a.op, u) {
                (8, false) => x > 0,
                (8, true) => x >= 0,
                (9, false) => x == 0,
                (9, true) => x <= 0,
                _ => x < 0,
            };
            if yes { ones(bits) } else { 0 }
        })
    }

    /// XTN, SQXTUN (18), SQXTN, UQXTN (20).
    fn narrow_int(&mut self, a: &d::ArgRr, scalar: bool) -> bool {
        if a.size == 3 || (scalar && a.op == 18 && a.u == 0) {
            return false;
        }
        let bits = 8u32 << a.size;
        let n = self.v(a.rn);
        let count = if scalar { 1 } else { 64 / bits };
        let mut out = 0;
        for i in 0..count {
            let v = lane(n, 2 * bits, i);
            let r = match (a.op, a.u) {
                (18, 0) => v,
                (18, _) => self.sat(number(v, 2 * bits, true), bits, false),
                (_, u) => self.sat(number(v, 2 * bits, u == 0), bits, u == 0),
            };
            set_lane(&mut out, bits, i, r);
        }
        self.set_half(a.rd, if scalar { 0 } else { a.q }, out);
        true
    }

    /// Writes a narrow result to the low half, or (q) into the high half keeping the low one.
    pub(super) fn set_half(&mut self, rd: u32, q: u32, half: u128) {
        let half = half & u128::from(u64::MAX);
        let v = if q != 0 { self.v(rd) & u128::from(u64::MAX) | half << 64 } else { half };
        self.set_v(rd, v);
    }

    fn shift_left_long(&mut self, a: &d::ArgRr) -> bool {
        let bits = 8u32 << a.size;
        let n = self.v(a.rn) >> (64 * a.q);
        let mut out = 0;
        for i in 0..64 / bits {
            set_lane(&mut out, 2 * bits, i, lane(n, bits, i) << bits);
        }
        self.set_v(a.rd, out);
        true
    }

    fn two_fp_any(&mut self, a: &d::ArgRr, scalar: bool) -> bool {
        match (a.op, a.size & 2) {
            (22, 0) => self.narrow_fp(a, scalar),
            (23, 0) if a.u == 0 && !scalar => self.widen_fp(a),
            (28, 2) if !scalar && a.size == 2 => {
                let rsqrt = a.u != 0;
                self.map1(32, lanes(32, a.q), (a.rd, a.rn), |_, n| {
                    let n = n as u32;
                    u64::from(if rsqrt {
                        softfloat::rsqrt_estimate_u32(n)
                    } else {
                        softfloat::recip_estimate_u32(n)
                    })
                })
            }
            (22 | 23, _) | (28, 2) => false,
            _ => {
                let f = Self::vector_format(a.size);
                self.two_fp(f, (a.op, a.u != 0, a.size & 2 != 0), a.q, scalar, (a.rd, a.rn))
            }
        }
    }

    /// FCVTN, FCVTXN.
    fn narrow_fp(&mut self, a: &d::ArgRr, scalar: bool) -> bool {
        let odd = a.u != 0;
        if (odd && a.size & 1 == 0) || (scalar && !odd) {
            return false;
        }
        let (from, to) = if a.size & 1 != 0 { (F64, F32) } else { (F32, F16) };
        let n = self.v(a.rn);
        let count = if scalar { 1 } else { 64 / to.bits() };
        let mut out = 0;
        for i in 0..count {
            let v = lane(n, from.bits(), i);
            let r = if odd {
                self.fp.convert_to_odd(from, to, v)
            } else {
                self.fp.convert(from, to, v)
            };
            set_lane(&mut out, to.bits(), i, r);
        }
        self.set_half(a.rd, if scalar { 0 } else { a.q }, out);
        true
    }

    /// FCVTL.
    fn widen_fp(&mut self, a: &d::ArgRr) -> bool {
        let (from, to) = if a.size & 1 != 0 { (F32, F64) } else { (F16, F32) };
        let n = self.v(a.rn) >> (64 * a.q);
        let mut out = 0;
        for i in 0..128 / to.bits() {
            let r = self.fp.convert(from, to, lane(n, from.bits(), i));
            set_lane(&mut out, to.bits(), i, r);
        }
        self.set_v(a.rd, out);
        true
    }

    /// The rounding mode of a conversion or FRINT opcode; `None` = the current one (with inexact for
    /// FRINTX).
    fn conversion_mode(op: u32, hi: bool) -> Rounding {
        match (op & 1, hi) {
            (0, false) => Rounding::NearestEven,
            (1, false) => Rounding::Down,
            (0, true) => Rounding::Up,
            _ => Rounding::Zero,
        }
    }

    fn two_fp_lane(&mut self, f: Format, (op, u, hi): (u32, bool, bool), v: u64) -> Option<u64> {
        let current = self.fp.rounding;
        let bits = f.bits();
        let s = &mut self.fp;
        Some(match (op, u, hi) {
            (12..=14, _, true) => return self.fp_compare_zero(f, op, u, v),
            (15, false, true) => v & !f.sign_bit(),
            (15, true, true) => v ^ f.sign_bit(),
            (24 | 25, false, _) => s.round_to_integral(f, v, Self::conversion_mode(op, hi), false),
            (24, true, false) => s.round_to_integral(f, v, Rounding::NearestAway, false),
            (25, true, false) => s.round_to_integral(f, v, current, true),
            (25, true, true) => s.round_to_integral(f, v, current, false),
            (26 | 27, _, _) => s.to_int(f, v, bits, !u, 0, Self::conversion_mode(op, hi)),
            (28, _, false) => s.to_int(f, v, bits, !u, 0, Rounding::NearestAway),
            (29, _, false) => {
                let x = if u { v } else { sx(v, bits) as u64 };
                s.from_int(f, x, !u, 0)
            }
            (29, false, true) => s.recip_estimate(f, v),
            (29, true, true) => s.rsqrt_estimate(f, v),
            (30 | 31, _, false) if f != F16 && self.features.frintts() => {
                let mode = if u { current } else { Rounding::Zero };
                s.round_to_int_range(f, v, if op == 31 { 64 } else { 32 }, mode)
            }
            (31, true, true) => s.sqrt(f, v),
            (31, false, true) => s.recip_exponent(f, v),
            _ => return None,
        })
    }

    fn fp_compare_zero(&mut self, f: Format, op: u32, u: bool, v: u64) -> Option<u64> {
        let signalling = op != 13 || u;
        let o = self.fp.compare(f, v, 0, signalling);
        let yes = match (op, u) {
            (12, false) => o == Order::Greater,
            (12, true) => matches!(o, Order::Greater | Order::Equal),
            (13, false) => o == Order::Equal,
            (13, true) => matches!(o, Order::Less | Order::Equal),
            (14, false) => o == Order::Less,
            _ => return None,
        };
        Some(if yes { ones(f.bits()) } else { 0 })
    }

    pub(super) fn two_fp(
        &mut self,
        f: Format,
        what: (u32, bool, bool),
        q: u32,
        scalar: bool,
        regs: (u32, u32),
    ) -> bool {
        let bits = f.bits();
        let (op, u, hi) = what;
        let scalar_only = (op, u, hi) == (31, false, true);
        let scalar_ok = matches!((op, hi), (12..=14, true) | (26 | 27, _) | (28, false) | (29, _))
            || scalar_only;
        if (bits == 64 && q == 0) || (scalar && !scalar_ok) || (!scalar && scalar_only) {
            return false;
        }
        let saved = self.fp;
        let exists = self.two_fp_lane(f, what, 0).is_some();
        self.fp = saved;
        let count = if scalar { 1 } else { lanes(bits, q) };
        exists && self.map1(bits, count, regs, |e, n| e.two_fp_lane(f, what, n).unwrap_or(0))
    }

    pub(super) fn two_16(&mut self, a: &d::ArgAOpQRdRnU, scalar: bool) -> bool {
        let what = (a.op, a.u != 0, a.a != 0);
        self.features.fp16() && self.two_fp(F16, what, a.q, scalar, (a.rd, a.rn))
    }
}
