//! "Three same": vector and scalar.

use softfloat::{F16, F32, F64, Format, Order};

use super::{Exec, lane, lanes, number, ones, set_lane, sx};
use crate::decode::fpsimd as d;

/// Polynomial product of `bits`-bit numbers.
pub(super) fn poly_mul(a: u64, b: u64, bits: u32) -> u128 {
    (0..bits).filter(|i| b >> i & 1 != 0).fold(0, |r, i| r ^ u128::from(a) << i)
}

impl Exec<'_> {
    /// Shift by the signed low byte of `by`; left when positive.
    pub(super) fn shift_by(
        &mut self,
        v: u64,
        by: i32,
        bits: u32,
        (signed, round, saturate): (bool, bool, bool),
    ) -> u64 {
        let x = number(v, bits, signed);
        let r = if by >= 0 {
            if by >= 64 {
                if x == 0 || !saturate {
                    0
                } else if x < 0 {
                    i128::MIN >> 1
                } else {
                    i128::MAX >> 1
                }
            } else {
                x << by
            }
        } else {
            let n = (-by).min(100) as u32;
            let half = if round { 1i128 << (n - 1) } else { 0 };
            (x + half) >> n
        };
        if saturate { self.sat(r, bits, signed) } else { r as u64 & ones(bits) }
    }

    /// One lane of an integer operation; `None` = not an integer operation of this kind.
    fn three_lane(&mut self, op: u32, u: bool, bits: u32, n: u64, m: u64) -> Option<u64> {
        let s = !u;
        let (x, y) = (number(n, bits, s), number(m, bits, s));
        let all = |c: bool| if c { ones(bits) } else { 0 };
        let by = i32::from(m as u8 as i8);
        Some(match op {
            0 => ((x + y) >> 1) as u64,
            1 => self.sat(x + y, bits, s),
            2 => ((x + y + 1) >> 1) as u64,
            4 => ((x - y) >> 1) as u64,
            5 => self.sat(x - y, bits, s),
            6 => all(x > y),
            7 => all(x >= y),
            8 => self.shift_by(n, by, bits, (s, false, false)),
            9 => self.shift_by(n, by, bits, (s, false, true)),
            10 => self.shift_by(n, by, bits, (s, true, false)),
            11 => self.shift_by(n, by, bits, (s, true, true)),
            12 => x.max(y) as u64,
            13 => x.min(y) as u64,
            14 => (x - y).unsigned_abs() as u64,
            16 if u => n.wrapping_sub(m),
            16 => n.wrapping_add(m),
            17 if u => all(n == m),
            17 => all(n & m != 0),
            19 if u => poly_mul(n, m, bits) as u64,
            19 => n.wrapping_mul(m),
            22 => self.doubling_high(n, m, bits, u),
            _ => return None,
        })
    }

    /// SQDMULH (or SQRDMULH) of a lane.
    pub(super) fn doubling_high(&mut self, n: u64, m: u64, bits: u32, round: bool) -> u64 {
        let p = 2 * i128::from(sx(n, bits)) * i128::from(sx(m, bits));
        let half = if round { 1i128 << (bits - 1) } else { 0 };
        self.sat((p + half) >> bits, bits, true)
    }

    /// SQRDMLAH, SQRDMLSH of a lane.
    pub(super) fn doubling_acc(&mut self, d: u64, n: u64, m: u64, bits: u32, sub: bool) -> u64 {
        let p = 2 * i128::from(sx(n, bits)) * i128::from(sx(m, bits));
        let p = if sub { -p } else { p };
        let sum = (i128::from(sx(d, bits)) << bits) + p + (1i128 << (bits - 1));
        self.sat(sum >> bits, bits, true)
    }

    pub(super) fn three_int(&mut self, a: &d::ArgRrr, scalar: bool) -> bool {
        let (u, bits) = (a.u != 0, 8u32 << a.size);
        let count = if scalar { 1 } else { lanes(bits, a.q) };
        let regs = (a.rd, a.rn, a.rm);
        let legal = match a.op {
            _ if a.size == 3 && a.q == 0 => false,
            0 | 2 | 4 | 12..=14 => a.size < 3 && !scalar,
            1 | 5 | 9 | 11 => true,
            6..=8 | 10 | 16 | 17 => !scalar || a.size == 3,
            15 | 18 => a.size < 3 && !scalar,
            19 => !scalar && if u { a.size == 0 } else { a.size < 3 },
            20 | 21 => !scalar && a.size < 3,
            22 => a.size == 1 || a.size == 2,
            23 => !scalar && !u,
            _ => false,
        };
        if !legal {
            return false;
        }
        match a.op {
            15 => self.map3(bits, count, regs, |_, d, n, m| {
                let (x, y) = (number(n, bits, !u), number(m, bits, !u));
                d.wrapping_add((x - y).unsigned_abs() as u64)
            }),
            18 => self.map3(bits, count, regs, |_, d, n, m| {
                let p = n.wrapping_mul(m);
                if u { d.wrapping_sub(p) } else { d.wrapping_add(p) }
            }),
            20 | 21 | 23 => self.pairwise(bits, count, regs, |_, n, m| {
                let (x, y) = (number(n, bits, !u), number(m, bits, !u));
                match a.op {
                    20 => x.max(y) as u64,
                    21 => x.min(y) as u64,
                    _ => n.wrapping_add(m),
                }
            }),
            op => {
                self.map2(bits, count, regs, |e, n, m| e.three_lane(op, u, bits, n, m).unwrap_or(0))
            }
        }
    }

    /// Adjacent pairs of the concatenation of Vm and Vn.
    pub(super) fn pairwise(
        &mut self,
        bits: u32,
        count: u32,
        (rd, rn, rm): (u32, u32, u32),
        mut f: impl FnMut(&mut Self, u64, u64) -> u64,
    ) -> bool {
        let (n, m) = (self.v(rn), self.v(rm));
        let mut out = 0;
        for i in 0..count {
            let (src, at) = if 2 * i < count { (n, 2 * i) } else { (m, 2 * i - count) };
            let r = f(self, lane(src, bits, at), lane(src, bits, at + 1));
            set_lane(&mut out, bits, i, r);
        }
        self.set_v(rd, out);
        true
    }

    pub(super) fn logic(&mut self, a: &d::ArgRrr) -> bool {
        let (d, n, m) = (self.v(a.rd), self.v(a.rn), self.v(a.rm));
        let r = match (a.u, a.size) {
            (0, 0) => n & m,
            (0, 1) => n & !m,
            (0, 2) => n | m,
            (0, _) => n | !m,
            (_, 0) => n ^ m,
            (_, 1) => d & n | !d & m,
            (_, 2) => m & n | !m & d,
            _ => m & d | !m & n,
        };
        self.set_q(a.rd, a.q, r);
        true
    }

    fn fp_order(&mut self, f: Format, op: u32, u: bool, hi: bool, n: u64, m: u64) -> u64 {
        let (n, m, signalling) = match (op, u) {
            (4, false) => (n, m, false),
            (5, _) => (n & !f.sign_bit(), m & !f.sign_bit(), true),
            _ => (n, m, true),
        };
        let o = self.fp.compare(f, n, m, signalling);
        let yes = match (op, u, hi) {
            (4, false, _) => o == Order::Equal,
            (_, _, true) => o == Order::Greater,
            _ => o == Order::Greater || o == Order::Equal,
        };
        if yes { ones(f.bits()) } else { 0 }
    }

    /// One lane of an FP operation; `op` is the opcode's low three bits, `hi` size bit 1.
    fn fp_lane(
        &mut self,
        f: Format,
        (op, u, hi): (u32, bool, bool),
        n: u64,
        m: u64,
    ) -> Option<u64> {
        let s = &mut self.fp;
        Some(match (op, u, hi) {
            (0, _, _) => s.number(f, n, m, !hi),
            (2, false, false) | (2, true, false) => s.add(f, n, m),
            (2, false, true) => s.sub(f, n, m),
            (2, true, true) => s.sub(f, n, m) & !f.sign_bit(),
            (3, false, false) => s.mul_extended(f, n, m),
            (3, true, false) => s.mul(f, n, m),
            (4, false, false) | (4, true, _) | (5, true, _) => self.fp_order(f, op, u, hi, n, m),
            (6, _, false) => s.max(f, n, m),
            (6, _, true) => s.min(f, n, m),
            (7, false, false) => s.recip_step(f, n, m),
            (7, false, true) => s.rsqrt_step(f, n, m),
            (7, true, false) => s.div(f, n, m),
            _ => return None,
        })
    }

    /// FP "three same" in a format; `op` = low three bits of the opcode, `hi` = size bit 1.
    pub(super) fn three_fp(
        &mut self,
        f: Format,
        what: (u32, bool, bool),
        q: u32,
        scalar: bool,
        regs: (u32, u32, u32),
    ) -> bool {
        let (op, u, hi) = what;
        let bits = f.bits();
        if bits == 64 && q == 0 {
            return false;
        }
        let count = if scalar { 1 } else { lanes(bits, q) };
        if op == 1 {
            return !u
                && !scalar
                && self.map3(bits, count, regs, |e, d, n, m| {
                    let n = if hi { n ^ f.sign_bit() } else { n };
                    e.fp.mul_add(f, d, n, m)
                });
        }
        let pair = u && matches!(op, 0 | 6) || (op, u, hi) == (2, true, false);
        let scalar_ok = matches!(
            (op, u, hi),
            (2, true, true)
                | (3, false, false)
                | (4, false, false)
                | (4, true, _)
                | (5, true, _)
                | (7, false, _)
        );
        if scalar && !scalar_ok || self.fp_probe(f, what).is_none() {
            return false;
        }
        if pair {
            self.pairwise(bits, count, regs, |e, n, m| e.fp_lane(f, what, n, m).unwrap_or(0))
        } else {
            self.map2(bits, count, regs, |e, n, m| e.fp_lane(f, what, n, m).unwrap_or(0))
        }
    }

    /// Whether the operation exists, without touching the flags.
    fn fp_probe(&mut self, f: Format, what: (u32, bool, bool)) -> Option<()> {
        let saved = self.fp;
        let r = self.fp_lane(f, what, 0, 0);
        self.fp = saved;
        r.map(|_| ())
    }

    pub(super) fn three(&mut self, a: &d::ArgRrr, scalar: bool) -> bool {
        match a.op {
            3 if !scalar => self.logic(a),
            25 | 29 if !scalar && self.is_fmlal(a) => self.fmlal(a),
            24..=31 => {
                let f = Self::vector_format(a.size);
                let what = (a.op & 7, a.u != 0, a.size & 2 != 0);
                self.three_fp(f, what, a.q, scalar, (a.rd, a.rn, a.rm))
            }
            _ => self.three_int(a, scalar),
        }
    }

    fn is_fmlal(&self, a: &d::ArgRrr) -> bool {
        self.features.fhm() && a.size & 1 == 0 && (a.op == 29) == (a.u == 0)
    }

    /// FMLAL, FMLAL2, FMLSL, FMLSL2.
    fn fmlal(&mut self, a: &d::ArgRrr) -> bool {
        let (d, n, m) = (self.v(a.rd), self.v(a.rn), self.v(a.rm));
        let sub = a.size & 2 != 0;
        let count = lanes(32, a.q);
        let base = if a.u != 0 { count } else { 0 };
        let mut out = 0;
        for i in 0..count {
            let (x, y) = (lane(n, 16, base + i), lane(m, 16, base + i));
            let r = self.widening_mul_add(lane(d, 32, i), x, y, sub);
            set_lane(&mut out, 32, i, r);
        }
        self.set_v(a.rd, out);
        true
    }

    /// FPMulAddH: binary32 + binary16 * binary16.
    pub(super) fn widening_mul_add(&mut self, d: u64, n: u64, m: u64, sub: bool) -> u64 {
        let n = if sub { n ^ F16.sign_bit() } else { n };
        if [d].iter().any(|v| F32.is_nan(*v)) || F16.is_nan(n) || F16.is_nan(m) {
            // NaNs propagate from the widened operands; the addend comes first.
            let (flush16, alt) = (self.fp.flush16, self.fp.alternative_half);
            (self.fp.flush16, self.fp.alternative_half) = (false, false);
            let widen = |v: u64| widen_nan(v);
            let r = self.fp.mul_add(F32, d, widen(n), widen(m));
            (self.fp.flush16, self.fp.alternative_half) = (flush16, alt);
            return r;
        }
        let mut exact = self.fp;
        (exact.alternative_half, exact.flags) = (false, 0);
        let n = exact.flush_input(F16, n);
        let m = exact.flush_input(F16, m);
        let (n, m) = (exact.convert(F16, F32, n), exact.convert(F16, F32, m));
        self.fp.mul_add(F32, d, n, m)
    }

    pub(super) fn three_16(&mut self, a: &d::ArgAOpQRdRmRnU, scalar: bool) -> bool {
        self.features.fp16()
            && self.three_fp(F16, (a.op, a.u != 0, a.a != 0), a.q, scalar, (a.rd, a.rn, a.rm))
    }

    pub(super) fn three_extra(&mut self, a: &d::ArgRrr, scalar: bool) -> bool {
        let bits = 8u32 << a.size;
        let regs = (a.rd, a.rn, a.rm);
        if !scalar && let Some(done) = self.three_matrix(a) {
            return done;
        }
        match (a.op, a.u) {
            (0 | 1, 1) if self.features.rdm() && matches!(a.size, 1 | 2) => {
                let count = if scalar { 1 } else { lanes(bits, a.q) };
                let sub = a.op == 1;
                self.map3(bits, count, regs, |e, d, n, m| e.doubling_acc(d, n, m, bits, sub))
            }
            (2, u) if !scalar && self.features.dotprod() && a.size == 2 => {
                self.map3(32, lanes(32, a.q), regs, |_, d, n, m| dot(d, n, m, u != 0))
            }
            (8..=12 | 14, 1) if !scalar && self.features.fcma() && a.size > 0 => self.complex(a),
            _ => false,
        }
    }

    fn complex(&mut self, a: &d::ArgRrr) -> bool {
        let f = match a.size {
            1 if self.features.fp16() => F16,
            2 => F32,
            3 if a.q != 0 => F64,
            _ => return false,
        };
        let (d, n, m) = (self.v(a.rd), self.v(a.rn), self.v(a.rm));
        let bits = f.bits();
        let mut out = 0;
        for i in 0..lanes(bits, a.q) / 2 {
            let pair = |v: u128| (lane(v, bits, 2 * i), lane(v, bits, 2 * i + 1));
            let (re, im) = if a.op < 12 {
                self.complex_mul_add(f, a.op & 3, pair(d), pair(n), pair(m))
            } else {
                // FCADD: rotate by 90 (12) or 270 (14) degrees.
                let (nr, ni) = pair(n);
                let (mr, mi) = pair(m);
                let neg = |v: u64| v ^ f.sign_bit();
                let (x, y) = if a.op == 12 { (neg(mi), mr) } else { (mi, neg(mr)) };
                (self.fp.add(f, nr, x), self.fp.add(f, ni, y))
            };
            set_lane(&mut out, bits, 2 * i, re);
            set_lane(&mut out, bits, 2 * i + 1, im);
        }
        self.set_q(a.rd, a.q, out);
        true
    }

    /// FCMLA of one complex number; `rot` in units of 90 degrees.
    pub(super) fn complex_mul_add(
        &mut self,
        f: Format,
        rot: u32,
        d: (u64, u64),
        n: (u64, u64),
        m: (u64, u64),
    ) -> (u64, u64) {
        let neg = |v: u64| v ^ f.sign_bit();
        let (x, a, b) = match rot {
            0 => (n.0, m.0, m.1),
            1 => (n.1, neg(m.1), m.0),
            2 => (n.0, neg(m.0), neg(m.1)),
            _ => (n.1, m.1, neg(m.0)),
        };
        (self.fp.mul_add(f, d.0, x, a), self.fp.mul_add(f, d.1, x, b))
    }
}

fn widen_nan(v: u64) -> u64 {
    // Exact widening of any binary16 that keeps signalling NaNs signalling.
    let (sign, exp, frac) = (v >> 15 & 1, v >> 10 & 31, v & 0x3ff);
    if exp == 31 {
        return sign << 31 | 0xff << 23 | frac << 13;
    }
    let mut s = softfloat::Status::default();
    s.convert(F16, F32, v)
}

/// Four-byte dot product added to `d`.
pub(super) fn dot(d: u64, n: u64, m: u64, unsigned: bool) -> u64 {
    let sum: i128 = (0..4)
        .map(|i| {
            let at = |v: u64| number(v >> (8 * i), 8, !unsigned);
            at(n) * at(m)
        })
        .sum();
    d.wrapping_add(sum as u64) & 0xffff_ffff
}
