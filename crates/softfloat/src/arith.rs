//! Addition, multiplication, division, square root, fused multiply-add, comparison, minimum and
//! maximum.

use crate::{Class, Format, LEAD, Num, Rounding, Status, flag, shift_jam};

/// Order of two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// First is less.
    Less,
    /// Equal.
    Equal,
    /// First is greater.
    Greater,
    /// At least one NaN.
    Unordered,
}

fn any_nan(f: Format, v: &[u64]) -> bool {
    v.iter().any(|v| f.is_nan(*v))
}

/// Exact sum of two numbers with sticky bit; sign of an exact zero is left to the caller.
fn sum(a: Num, b: Num) -> Num {
    let (big, small) = if (a.exp, a.sig) >= (b.exp, b.sig) { (a, b) } else { (b, a) };
    let low = shift_jam(small.sig, (big.exp - small.exp).min(200) as u32);
    let sig = if big.sign == small.sign { big.sig + low } else { big.sig - low };
    Num { sign: big.sign, exp: big.exp, sig }
}

impl Status {
    fn zero_sum(&self, f: Format) -> u64 {
        f.zero(self.rounding == Rounding::Down)
    }

    /// a + b.
    pub fn add(&mut self, f: Format, a: u64, b: u64) -> u64 {
        let (x, y) = (self.unpack(f, a), self.unpack(f, b));
        if any_nan(f, &[a, b]) {
            return self.nan_of(f, &[a, b]);
        }
        match (x, y) {
            (Class::Inf(s), Class::Inf(t)) if s != t => self.invalid(f),
            (Class::Inf(s), _) | (_, Class::Inf(s)) => f.infinity(s),
            (Class::Zero(s), Class::Zero(t)) if s == t => f.zero(s),
            (Class::Zero(_), Class::Zero(_)) => self.zero_sum(f),
            (Class::Zero(_), Class::Finite(n)) | (Class::Finite(n), Class::Zero(_)) => {
                self.round(f, n)
            }
            (Class::Finite(m), Class::Finite(n)) => {
                let s = sum(m, n);
                if s.sig == 0 { self.zero_sum(f) } else { self.round(f, s) }
            }
            _ => f.default_nan(),
        }
    }

    /// a - b.
    pub fn sub(&mut self, f: Format, a: u64, b: u64) -> u64 {
        if any_nan(f, &[a, b]) {
            self.unpack(f, a);
            self.unpack(f, b);
            return self.nan_of(f, &[a, b]);
        }
        self.add(f, a, b ^ f.sign_bit())
    }

    /// a * b.
    pub fn mul(&mut self, f: Format, a: u64, b: u64) -> u64 {
        self.product(f, a, b, false)
    }

    /// a * b where 0 * infinity is 2.0 with the product's sign (Arm FMULX).
    pub fn mul_extended(&mut self, f: Format, a: u64, b: u64) -> u64 {
        self.product(f, a, b, true)
    }

    fn product(&mut self, f: Format, a: u64, b: u64, extended: bool) -> u64 {
        let (x, y) = (self.unpack(f, a), self.unpack(f, b));
        if any_nan(f, &[a, b]) {
            return self.nan_of(f, &[a, b]);
        }
        let sign = (a ^ b) & f.sign_bit() != 0;
        match (x, y) {
            (Class::Inf(_), Class::Zero(_)) | (Class::Zero(_), Class::Inf(_)) if extended => {
                f.zero(sign) | f.power_of_two(1)
            }
            (Class::Inf(_), Class::Zero(_)) | (Class::Zero(_), Class::Inf(_)) => self.invalid(f),
            (Class::Inf(_), _) | (_, Class::Inf(_)) => f.infinity(sign),
            (Class::Zero(_), _) | (_, Class::Zero(_)) => f.zero(sign),
            (Class::Finite(m), Class::Finite(n)) => self.round(f, multiply(m, n)),
            _ => f.default_nan(),
        }
    }

    /// a / b.
    pub fn div(&mut self, f: Format, a: u64, b: u64) -> u64 {
        let (x, y) = (self.unpack(f, a), self.unpack(f, b));
        if any_nan(f, &[a, b]) {
            return self.nan_of(f, &[a, b]);
        }
        let sign = (a ^ b) & f.sign_bit() != 0;
        match (x, y) {
            (Class::Inf(_), Class::Inf(_)) | (Class::Zero(_), Class::Zero(_)) => self.invalid(f),
            (Class::Inf(_), _) => f.infinity(sign),
            (_, Class::Zero(_)) => {
                self.raise(flag::DZC);
                f.infinity(sign)
            }
            (Class::Zero(_), _) | (_, Class::Inf(_)) => f.zero(sign),
            (Class::Finite(m), Class::Finite(n)) => {
                // 62 quotient bits are more than any format needs.
                let (p, q) = (m.sig, n.sig >> 62);
                let (quotient, rest) = (p / q, p % q);
                let sig = quotient << 1 | u128::from(rest != 0);
                // quotient's unit is 2^62; one more bit for the sticky one.
                self.round(f, Num { sign, exp: m.exp - n.exp + LEAD as i32 - 63, sig })
            }
            _ => f.default_nan(),
        }
    }

    /// Square root.
    pub fn sqrt(&mut self, f: Format, a: u64) -> u64 {
        let x = self.unpack(f, a);
        if f.is_nan(a) {
            return self.nan_of(f, &[a]);
        }
        match x {
            Class::Zero(s) => f.zero(s),
            Class::Inf(false) => f.infinity(false),
            Class::Finite(n) if !n.sign => {
                // sig * 2^(exp - 125); make the exponent even, then sqrt(sig) has 63 bits.
                let odd = (n.exp - LEAD as i32).rem_euclid(2) != 0;
                let (v, e) = if odd {
                    (n.sig << 1, n.exp - LEAD as i32 - 1)
                } else {
                    (n.sig, n.exp - LEAD as i32)
                };
                let root = v.isqrt();
                let sig = root << 1 | u128::from(root * root != v);
                self.round(f, Num { sign: false, exp: e / 2 - 1 + LEAD as i32, sig })
            }
            _ => self.invalid(f),
        }
    }

    /// addend + a * b, rounded once.
    pub fn mul_add(&mut self, f: Format, addend: u64, a: u64, b: u64) -> u64 {
        let (z, x, y) = (self.unpack(f, addend), self.unpack(f, a), self.unpack(f, b));
        let invalid_product =
            matches!((x, y), (Class::Inf(_), Class::Zero(_)) | (Class::Zero(_), Class::Inf(_)));
        if any_nan(f, &[addend, a, b]) {
            let result = self.nan_of(f, &[addend, a, b]);
            if invalid_product && f.is_nan(addend) && !f.is_snan(addend) {
                return self.invalid(f);
            }
            return result;
        }
        let sign = (a ^ b) & f.sign_bit() != 0;
        let infinite_product = matches!(x, Class::Inf(_)) || matches!(y, Class::Inf(_));
        match z {
            _ if invalid_product => self.invalid(f),
            Class::Inf(s) if infinite_product && s != sign => self.invalid(f),
            Class::Inf(s) => f.infinity(s),
            _ if infinite_product => f.infinity(sign),
            _ => self.fused(f, z, x, y, sign),
        }
    }

    fn fused(&mut self, f: Format, z: Class, x: Class, y: Class, sign: bool) -> u64 {
        match (z, x, y) {
            (Class::Finite(c), Class::Finite(m), Class::Finite(n)) => {
                let s = sum(normal(multiply(m, n)), c);
                if s.sig == 0 { self.zero_sum(f) } else { self.round(f, s) }
            }
            (_, Class::Finite(m), Class::Finite(n)) => self.round(f, multiply(m, n)),
            (Class::Finite(c), _, _) => self.round(f, c),
            (Class::Zero(s), _, _) if s == sign => f.zero(s),
            _ => self.zero_sum(f),
        }
    }

    /// Compares; a quiet NaN is invalid only when `signalling`.
    pub fn compare(&mut self, f: Format, a: u64, b: u64, signalling: bool) -> Order {
        let (x, y) = (self.flush_input(f, a), self.flush_input(f, b));
        if any_nan(f, &[a, b]) {
            if signalling || f.is_snan(a) || f.is_snan(b) {
                self.raise(flag::IOC);
            }
            return Order::Unordered;
        }
        let key = |v: u64| {
            let magnitude = (v & (f.sign_bit() - 1)) as i64;
            if v & f.sign_bit() != 0 { -magnitude } else { magnitude }
        };
        match key(x).cmp(&key(y)) {
            std::cmp::Ordering::Less => Order::Less,
            std::cmp::Ordering::Equal => Order::Equal,
            std::cmp::Ordering::Greater => Order::Greater,
        }
    }

    fn pick(&mut self, f: Format, a: u64, b: u64, max: bool) -> u64 {
        let (x, y) = (self.flush_input(f, a), self.flush_input(f, b));
        if any_nan(f, &[a, b]) {
            return self.nan_of(f, &[a, b]);
        }
        match self.compare(f, x, y, false) {
            // Zeros of both signs: -0 is less.
            Order::Equal if max => x & y,
            Order::Equal => x | y,
            Order::Less => {
                if max {
                    y
                } else {
                    x
                }
            }
            _ => {
                if max {
                    x
                } else {
                    y
                }
            }
        }
    }

    /// Maximum; NaNs propagate.
    pub fn max(&mut self, f: Format, a: u64, b: u64) -> u64 {
        self.pick(f, a, b, true)
    }

    /// Minimum; NaNs propagate.
    pub fn min(&mut self, f: Format, a: u64, b: u64) -> u64 {
        self.pick(f, a, b, false)
    }

    /// Maximum (or minimum); a quiet NaN loses against a number.
    pub fn number(&mut self, f: Format, a: u64, b: u64, max: bool) -> u64 {
        let quiet = |v: u64| f.is_nan(v) && !f.is_snan(v);
        let loser = f.infinity(max);
        let (mut x, mut y) = (a, b);
        if quiet(a) && !f.is_nan(b) {
            x = loser;
        } else if quiet(b) && !f.is_nan(a) {
            y = loser;
        }
        self.pick(f, x, y, max)
    }
}

fn multiply(m: Num, n: Num) -> Num {
    // At most 53 significant bits each: 62-bit halves lose nothing.
    let sig = (m.sig >> 63) * (n.sig >> 63);
    // (2^62)^2 = 2^124 stands for 2^(exp sum).
    Num { sign: m.sign != n.sign, exp: m.exp + n.exp + 1, sig }
}

/// Moves the leading bit to its place.
fn normal(n: Num) -> Num {
    if n.sig == 0 {
        return n;
    }
    let lead = 127 - n.sig.leading_zeros();
    let sig = if lead > LEAD { shift_jam(n.sig, lead - LEAD) } else { n.sig << (LEAD - lead) };
    Num { exp: n.exp + lead as i32 - LEAD as i32, sig, ..n }
}

/// c + m * n exactly, with sticky bit.
pub(crate) fn exact_mul_add(c: Num, m: Num, n: Num) -> Num {
    sum(normal(multiply(m, n)), c)
}
