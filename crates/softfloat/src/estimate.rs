//! Reciprocal and reciprocal square root estimates and steps (Arm ARM: FPRecipEstimate,
//! FPRSqrtEstimate, FPRecipStepFused, FPRSqrtStepFused, FPRecpX).

use crate::{Class, F16, Format, Num, Rounding, Status, flag};

/// RecipEstimate: 256..511 in, 256..511 out.
fn recip_estimate(a: u32) -> u32 {
    let a = a * 2 + 1;
    let b = (1 << 19) / a;
    b.div_ceil(2)
}

/// RecipSqrtEstimate: 128..511 in, 256..511 out.
fn rsqrt_estimate(a: u32) -> u32 {
    let a = if a < 256 { a * 2 + 1 } else { (a >> 1 << 1) * 2 + 2 };
    let mut b = 512u32;
    while u64::from(a) * u64::from(b + 1) * u64::from(b + 1) < 1 << 28 {
        b += 1;
    }
    b.div_ceil(2)
}

/// URECPE.
#[must_use]
pub fn recip_estimate_u32(v: u32) -> u32 {
    if v >> 31 == 0 { u32::MAX } else { recip_estimate(v >> 23) << 23 }
}

/// URSQRTE.
#[must_use]
pub fn rsqrt_estimate_u32(v: u32) -> u32 {
    if v >> 30 == 0 { u32::MAX } else { rsqrt_estimate(v >> 23) << 23 }
}

/// Fraction aligned to 52 bits, as the pseudocode has it.
fn fraction52(f: Format, v: u64) -> u64 {
    (v & ((1 << f.frac) - 1)) << (52 - f.frac)
}

impl Status {
    /// FRECPE.
    pub fn recip_estimate(&mut self, f: Format, v: u64) -> u64 {
        let sign = v & f.sign_bit() != 0;
        let n = match self.unpack(f, v) {
            Class::Nan => return self.nan_of(f, &[v]),
            Class::Inf(s) => return f.zero(s),
            Class::Zero(s) => {
                self.raise(flag::DZC);
                return f.infinity(s);
            }
            Class::Finite(n) => n,
        };
        // Below 2^-128 (for binary32) the reciprocal overflows.
        if n.exp < -f.bias() - 1 {
            let to_infinity = match self.rounding {
                Rounding::Up => !sign,
                Rounding::Down => sign,
                Rounding::Zero => false,
                _ => true,
            };
            self.raise(flag::OFC | flag::IXC);
            return if to_infinity { f.infinity(sign) } else { f.max(sign) };
        }
        let flushing = if f == F16 { self.flush16 } else { self.flush };
        let largest = f.bias() - 1;
        if flushing && n.exp >= largest {
            self.raise(flag::UFC);
            return f.zero(sign);
        }
        let mut fraction = fraction52(f, v);
        let mut exp = (v >> f.frac & ((1 << f.exp) - 1)) as i32;
        if exp == 0 {
            if fraction >> 51 == 0 {
                exp = -1;
                fraction = fraction << 2 & ((1 << 52) - 1);
            } else {
                fraction = fraction << 1 & ((1 << 52) - 1);
            }
        }
        let scaled = 256 | (fraction >> 44) as u32;
        let mut result = 2 * f.bias() - 1 - exp;
        let estimate = recip_estimate(scaled);
        let mut fraction = u64::from(estimate & 255) << 44;
        if result == 0 {
            fraction = 1 << 51 | fraction >> 1;
        } else if result == -1 {
            fraction = 1 << 50 | fraction >> 2;
            result = 0;
        }
        f.zero(sign) | (result as u64) << f.frac | fraction >> (52 - f.frac)
    }

    /// FRSQRTE.
    pub fn rsqrt_estimate(&mut self, f: Format, v: u64) -> u64 {
        let class = self.unpack(f, v);
        match class {
            Class::Nan => return self.nan_of(f, &[v]),
            Class::Zero(s) => {
                self.raise(flag::DZC);
                return f.infinity(s);
            }
            _ if v & f.sign_bit() != 0 => return self.invalid(f),
            Class::Inf(_) => return f.zero(false),
            Class::Finite(_) => {}
        }
        let mut fraction = fraction52(f, v);
        let mut exp = (v >> f.frac & ((1 << f.exp) - 1)) as i32;
        if exp == 0 {
            while fraction >> 51 & 1 == 0 {
                fraction <<= 1;
                exp -= 1;
            }
            fraction = fraction << 1 & ((1 << 52) - 1);
        }
        let scaled = if exp & 1 == 0 {
            256 | (fraction >> 44) as u32
        } else {
            128 | (fraction >> 45) as u32
        };
        let result = (3 * f.bias() - 1 - exp) >> 1;
        let estimate = u64::from(rsqrt_estimate(scaled) & 255);
        (result as u64) << f.frac | estimate << (f.frac - 8)
    }

    /// FRECPX.
    pub fn recip_exponent(&mut self, f: Format, v: u64) -> u64 {
        let flushed = self.flush_input(f, v);
        if f.is_nan(v) {
            return self.nan_of(f, &[v]);
        }
        let exp = flushed >> f.frac & ((1 << f.exp) - 1);
        let max = (1 << f.exp) - 1;
        let new = if exp == 0 { max - 1 } else { !exp & max };
        v & f.sign_bit() | new << f.frac
    }

    fn step(&mut self, f: Format, a: u64, b: u64, three: bool) -> u64 {
        let a = a ^ f.sign_bit();
        let (x, y) = (self.unpack(f, a), self.unpack(f, b));
        if f.is_nan(a) || f.is_nan(b) {
            return self.nan_of(f, &[a, b]);
        }
        let constant =
            if three { f.power_of_two(0) | 1 << (f.frac - 1) } else { f.power_of_two(1) };
        match (x, y) {
            (Class::Inf(_), Class::Zero(_)) | (Class::Zero(_), Class::Inf(_)) => constant,
            (Class::Inf(s), _) => f.infinity(s != (b & f.sign_bit() != 0)),
            (_, Class::Inf(s)) => f.infinity(s != (a & f.sign_bit() != 0)),
            (Class::Finite(m), Class::Finite(n)) => self.step_sum(f, m, n, three),
            _ => constant,
        }
    }

    /// 2 + m * n, or (3 + m * n) / 2.
    fn step_sum(&mut self, f: Format, m: Num, n: Num, three: bool) -> u64 {
        let wide = |v: u64| match Self::classify(f, v) {
            Class::Finite(n) => n,
            _ => Num { sign: false, exp: 0, sig: 0 },
        };
        let constant = if three {
            wide(f.power_of_two(1) | 1 << (f.frac - 1))
        } else {
            wide(f.power_of_two(1))
        };
        let mut s = crate::arith::exact_mul_add(constant, m, n);
        if s.sig == 0 {
            return f.zero(self.rounding == Rounding::Down);
        }
        if three {
            s.exp -= 1;
        }
        self.round(f, s)
    }

    /// FRECPS: 2 - a * b, fused.
    pub fn recip_step(&mut self, f: Format, a: u64, b: u64) -> u64 {
        self.step(f, a, b, false)
    }

    /// FRSQRTS: (3 - a * b) / 2, fused.
    pub fn rsqrt_step(&mut self, f: Format, a: u64, b: u64) -> u64 {
        self.step(f, a, b, true)
    }
}
