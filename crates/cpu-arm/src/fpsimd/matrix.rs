//! BFloat16 and 8-bit integer dot products and matrix products.
//!
//! BFDOT and BFMMLA work with FPCR.EBF = 0: round to odd, denormals flushed both ways, default NaN, no
//! flags; FEAT_EBF16 is not built. BFMLAL, BFCVT and BFCVTN follow FPCR like other arithmetic.
//! Source: Arm ARM (DDI 0487) C7.2, J1.3 (BFDotAdd, BFMulH, BFAdd, BFRound, FPConvertBF).

use softfloat::{BF16, F32};

use super::{Exec, lane, lanes, number, set_lane};
use crate::decode::fpsimd as d;

const DEFAULT_NAN: u32 = 0x7fc0_0000;

/// A binary32 operand with denormals flushed.
fn operand(v: u32) -> f64 {
    let f = f32::from_bits(v);
    if f.is_subnormal() { f64::from(0f32.copysign(f)) } else { f64::from(f) }
}

/// To binary32, rounding to odd; what is too small becomes zero, what is too large infinity.
fn to_odd(v: f64) -> u32 {
    let bits = v.to_bits();
    let sign = (bits >> 63) as u32 * 0x8000_0000;
    if v.is_nan() {
        return DEFAULT_NAN;
    }
    let exp = (bits >> 52 & 0x7ff) as i32 - 1023;
    match exp {
        _ if v.is_infinite() || exp > 127 => sign | 0x7f80_0000,
        ..-126 => sign,
        _ => {
            let kept = (bits >> 29 & 0x7f_ffff) as u32;
            let inexact = bits & 0x1fff_ffff != 0;
            sign | ((exp + 127) as u32) << 23 | kept | u32::from(inexact)
        }
    }
}

/// The sum of two binary32 values, rounded to odd.
fn add(a: u32, b: u32) -> u32 {
    let (x, y) = (operand(a), operand(b));
    let s = x + y;
    if !s.is_finite() {
        return to_odd(s);
    }
    // What the sum lost (TwoSum); it is exact, as binary32 values are far from binary64's limits.
    let back = s - x;
    let lost = (x - (s - back)) + (y - back);
    if lost == 0.0 || s.to_bits() & 1 != 0 {
        return to_odd(s);
    }
    let toward_zero = (lost < 0.0) == (s > 0.0);
    to_odd(f64::from_bits(if toward_zero { s.to_bits() - 1 } else { s.to_bits() + 1 }))
}

fn mul(a: u64, b: u64) -> u32 {
    // 8 by 8 bits of significand: exact.
    to_odd(operand((a as u32) << 16) * operand((b as u32) << 16))
}

/// BFDotAdd on pairs packed in 32 bits.
fn dot(acc: u64, n: u64, m: u64) -> u64 {
    let (low, high) = (mul(n & 0xffff, m & 0xffff), mul(n >> 16 & 0xffff, m >> 16 & 0xffff));
    u64::from(add(acc as u32, add(low, high)))
}

/// Four products of bytes added to `acc`.
fn dot8(acc: u64, n: u64, m: u64, n_signed: bool, m_signed: bool) -> u64 {
    let byte = |v: u64, k: u32, signed| number(v >> (8 * k), 8, signed);
    let sum: i128 = (0..4).map(|k| byte(n, k, n_signed) * byte(m, k, m_signed)).sum();
    acc.wrapping_add(sum as u64) & 0xffff_ffff
}

impl Exec<'_> {
    /// The BFloat16 and Int8 instructions among "three same extra"; `None` = another one.
    pub(super) fn three_matrix(&mut self, a: &d::ArgRrr) -> Option<bool> {
        let (bf16, i8mm) = (self.features.bf16(), self.features.i8mm());
        let regs = (a.rd, a.rn, a.rm);
        Some(match (a.op, a.u, a.size) {
            (15, 1, 1) if bf16 => self.map3(32, lanes(32, a.q), regs, |_, d, n, m| dot(d, n, m)),
            (15, 1, 3) if bf16 => {
                let m = self.v(a.rm);
                self.mul_long_bf16(a.q, a.rd, a.rn, |i| lane(m, 16, i))
            }
            (13, 1, 1) if bf16 && a.q != 0 => self.matrix(regs, |acc, n, m| {
                let half = dot(acc, n & 0xffff_ffff, m & 0xffff_ffff);
                dot(half, n >> 32, m >> 32)
            }),
            (3, 0, 2) if i8mm => {
                self.map3(32, lanes(32, a.q), regs, |_, d, n, m| dot8(d, n, m, false, true))
            }
            (4 | 5, u, 2) if i8mm && a.q != 0 && (a.op == 4 || u == 0) => {
                let (n_signed, m_signed) = (a.op == 4 && u == 0, u == 0);
                self.matrix(regs, |acc, n, m| {
                    let half = dot8(acc, n, m, n_signed, m_signed);
                    dot8(half, n >> 32, m >> 32, n_signed, m_signed)
                })
            }
            _ => return None,
        })
    }

    /// The same by element.
    pub(super) fn elem_matrix(&mut self, a: &d::ArgElem) -> bool {
        let word = lane(self.v(a.m << 4 | a.rm), 32, a.h << 1 | a.l);
        let regs = (a.rd, a.rn, a.rn);
        let count = lanes(32, a.q);
        match a.size {
            0 | 2 if self.features.i8mm() => {
                let signed = a.size == 0;
                self.map3(32, count, regs, |_, d, n, _| dot8(d, n, word, signed, !signed))
            }
            1 if self.features.bf16() => self.map3(32, count, regs, |_, d, n, _| dot(d, n, word)),
            3 if self.features.bf16() => {
                let m = lane(self.v(a.rm), 16, a.h << 2 | a.l << 1 | a.m);
                self.mul_long_bf16(a.q, a.rd, a.rn, |_| m)
            }
            _ => false,
        }
    }

    /// BFMLALB (even elements), BFMLALT (odd elements).
    fn mul_long_bf16(&mut self, top: u32, rd: u32, rn: u32, m: impl Fn(u32) -> u64) -> bool {
        let (d, n) = (self.v(rd), self.v(rn));
        let mut out = 0;
        for i in 0..4 {
            let at = 2 * i + top;
            let r = self.fp.mul_add(F32, lane(d, 32, i), lane(n, 16, at) << 16, m(at) << 16);
            set_lane(&mut out, 32, i, r);
        }
        self.set_v(rd, out);
        true
    }

    /// 2x2 result, rows of `n` by rows of `m`, 64 bits each.
    fn matrix(&mut self, r: (u32, u32, u32), f: impl Fn(u64, u64, u64) -> u64) -> bool {
        let (d, n, m) = (self.v(r.0), self.v(r.1), self.v(r.2));
        let mut out = 0;
        for i in 0..4 {
            let v = f(lane(d, 32, i), lane(n, 64, i >> 1), lane(m, 64, i & 1));
            set_lane(&mut out, 32, i, v);
        }
        self.set_v(r.0, out);
        true
    }

    /// BFCVTN, BFCVTN2.
    pub(super) fn narrow_bf16(&mut self, q: u32, rd: u32, rn: u32) -> bool {
        let n = self.v(rn);
        let mut half = 0;
        for i in 0..4 {
            let r = self.fp.convert(F32, BF16, lane(n, 32, i));
            set_lane(&mut half, 16, i, r);
        }
        let low = self.v(rd) & u128::from(u64::MAX);
        self.set_v(rd, if q != 0 { low | half << 64 } else { half });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f(v: f32) -> u32 {
        v.to_bits()
    }

    #[test]
    fn sums_round_to_odd() {
        assert_eq!(add(f(1.0), f(2.0)), f(3.0));
        // 1 + 2^-30 is inexact: the last bit is set; so is 1 - 2^-30 from below.
        assert_eq!(add(f(1.0), f(2f32.powi(-30))), f(1.0) + 1);
        assert_eq!(add(f(1.0), f(-2f32.powi(-30))), f(1.0) - 1);
        assert_eq!(add(f(1.0), f(2f32.powi(-120))), f(1.0) + 1);
        assert_eq!(add(f(1.5), f(-1.5)), 0);
        assert_eq!(add(0x8000_0000, 0x8000_0001), 0x8000_0000, "denormals are zeros");
        assert_eq!(add(f(f32::MAX), f(f32::MAX)), f(f32::INFINITY));
        assert_eq!(add(f(f32::INFINITY), f(f32::NEG_INFINITY)), DEFAULT_NAN);
    }

    #[test]
    fn products_flush() {
        assert_eq!(mul(0x3f80, 0xc000), f(-2.0));
        assert_eq!(mul(0x0080, 0x3f00), 0, "2^-126 / 2 is too small");
        assert_eq!(mul(0x7f80, 0), DEFAULT_NAN);
    }
}
