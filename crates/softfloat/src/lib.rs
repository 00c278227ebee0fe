//! IEEE 754 binary floating point in integers, bit-exact, with flags and rounding modes.
//!
//! Values are raw bits in a `u64`; a [`Format`] says which of binary16, binary32, binary64 they are.
//! The exceptional behaviour is Arm's (Arm ARM, shared pseudocode FPAdd, FPMulAdd, FPRound…):
//! tininess before rounding, NaN propagation with signalling NaNs first, flush-to-zero, default NaN,
//! alternative half precision. Speed is not the aim: back ends compute inline and come here for the
//! odd cases.
//!
//! Not here: decimal formats, x87's 80 bits, binary128, trapped exceptions.

mod arith;
mod convert;
mod estimate;

pub use arith::Order;
pub use estimate::{recip_estimate_u32, rsqrt_estimate_u32};

/// Cumulative exception flags, at their FPSR positions.
pub mod flag {
    /// Invalid operation.
    pub const IOC: u32 = 1;
    /// Division by zero.
    pub const DZC: u32 = 2;
    /// Overflow.
    pub const OFC: u32 = 4;
    /// Underflow.
    pub const UFC: u32 = 8;
    /// Inexact.
    pub const IXC: u32 = 16;
    /// Input denormal.
    pub const IDC: u32 = 128;
}

/// Rounding mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To nearest, ties to even.
    NearestEven,
    /// Toward plus infinity.
    Up,
    /// Toward minus infinity.
    Down,
    /// Toward zero.
    Zero,
    /// To nearest, ties away from zero.
    NearestAway,
    /// To odd (inexact results get their low bit set).
    Odd,
}

impl Rounding {
    /// FPCR.RMode.
    #[must_use]
    pub fn from_bits(bits: u32) -> Self {
        match bits & 3 {
            0 => Self::NearestEven,
            1 => Self::Up,
            2 => Self::Down,
            _ => Self::Zero,
        }
    }
}

/// A binary interchange format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Exponent bits.
    pub exp: u32,
    /// Fraction bits.
    pub frac: u32,
}

/// binary16.
pub const F16: Format = Format { exp: 5, frac: 10 };
/// binary32.
pub const F32: Format = Format { exp: 8, frac: 23 };
/// BFloat16: binary32 without its lower 16 bits.
pub const BF16: Format = Format { exp: 8, frac: 7 };
/// binary64.
pub const F64: Format = Format { exp: 11, frac: 52 };

impl Format {
    /// Width in bits.
    #[must_use]
    pub fn bits(self) -> u32 {
        1 + self.exp + self.frac
    }
    /// Exponent bias.
    #[must_use]
    pub fn bias(self) -> i32 {
        (1 << (self.exp - 1)) - 1
    }
    /// The sign bit.
    #[must_use]
    pub fn sign_bit(self) -> u64 {
        1 << (self.exp + self.frac)
    }
    fn frac_mask(self) -> u64 {
        (1 << self.frac) - 1
    }
    fn max_exp(self) -> u64 {
        (1 << self.exp) - 1
    }
    /// Zero of a sign.
    #[must_use]
    pub fn zero(self, sign: bool) -> u64 {
        if sign { self.sign_bit() } else { 0 }
    }
    /// Infinity of a sign.
    #[must_use]
    pub fn infinity(self, sign: bool) -> u64 {
        self.zero(sign) | self.max_exp() << self.frac
    }
    /// Largest finite number of a sign.
    #[must_use]
    pub fn max(self, sign: bool) -> u64 {
        self.infinity(sign) - 1
    }
    /// The default NaN.
    #[must_use]
    pub fn default_nan(self) -> u64 {
        self.infinity(false) | self.quiet_bit()
    }
    fn quiet_bit(self) -> u64 {
        1 << (self.frac - 1)
    }
    /// Is any NaN.
    #[must_use]
    pub fn is_nan(self, v: u64) -> bool {
        v & (self.sign_bit() - 1) > self.infinity(false)
    }
    /// Is a signalling NaN.
    #[must_use]
    pub fn is_snan(self, v: u64) -> bool {
        self.is_nan(v) && v & self.quiet_bit() == 0
    }
    /// Magnitude 1.0 times 2 to `n` (in range).
    #[must_use]
    pub fn power_of_two(self, n: i32) -> u64 {
        ((n + self.bias()) as u64) << self.frac
    }
}

/// Control and accumulated flags.
#[derive(Clone, Copy, Debug)]
pub struct Status {
    /// Rounding mode.
    pub rounding: Rounding,
    /// Flush binary32 and binary64 denormals (FPCR.FZ).
    pub flush: bool,
    /// Flush binary16 denormals (FPCR.FZ16).
    pub flush16: bool,
    /// NaN results are the default NaN (FPCR.DN).
    pub default_nan: bool,
    /// Alternative half precision in conversions (FPCR.AHP).
    pub alternative_half: bool,
    /// Flags raised so far ([`flag`]).
    pub flags: u32,
}

impl Default for Status {
    fn default() -> Self {
        Self::from_fpcr(0)
    }
}

/// A finite number: value = sig * 2^(exp - 125), leading bit of `sig` at 125 unless it is 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Num {
    pub(crate) sign: bool,
    pub(crate) exp: i32,
    pub(crate) sig: u128,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Class {
    Zero(bool),
    Finite(Num),
    Inf(bool),
    Nan,
}

/// Position of the leading bit in [`Num::sig`].
pub(crate) const LEAD: u32 = 125;

/// Shifts right; lost bits stick to bit 0.
pub(crate) fn shift_jam(v: u128, n: u32) -> u128 {
    if n == 0 {
        v
    } else if n > 127 {
        u128::from(v != 0)
    } else {
        v >> n | u128::from(v & ((1 << n) - 1) != 0)
    }
}

impl Status {
    /// From FPCR; no flags raised.
    #[must_use]
    pub fn from_fpcr(fpcr: u32) -> Self {
        Self {
            rounding: Rounding::from_bits(fpcr >> 22),
            flush: fpcr >> 24 & 1 != 0,
            flush16: fpcr >> 19 & 1 != 0,
            default_nan: fpcr >> 25 & 1 != 0,
            alternative_half: fpcr >> 26 & 1 != 0,
            flags: 0,
        }
    }

    pub(crate) fn raise(&mut self, flags: u32) {
        self.flags |= flags;
    }

    fn flushes(&self, f: Format) -> bool {
        if f == F16 { self.flush16 } else { self.flush }
    }

    /// Flushes a denormal input to zero if that is on.
    pub fn flush_input(&mut self, f: Format, v: u64) -> u64 {
        let magnitude = v & (f.sign_bit() - 1);
        if magnitude != 0 && magnitude >> f.frac == 0 && self.flushes(f) {
            if f != F16 {
                self.raise(flag::IDC);
            }
            return v & f.sign_bit();
        }
        v
    }

    pub(crate) fn unpack(&mut self, f: Format, v: u64) -> Class {
        let v = self.flush_input(f, v);
        Self::classify(f, v)
    }

    /// Unpacks without flushing.
    pub(crate) fn classify(f: Format, v: u64) -> Class {
        let sign = v & f.sign_bit() != 0;
        let (e, frac) = (v >> f.frac & f.max_exp(), v & f.frac_mask());
        if e == f.max_exp() {
            return if frac == 0 { Class::Inf(sign) } else { Class::Nan };
        }
        if e == 0 && frac == 0 {
            return Class::Zero(sign);
        }
        let (sig, exp) =
            if e == 0 { (frac, 1 - f.bias()) } else { (frac | 1 << f.frac, e as i32 - f.bias()) };
        let lead = 63 - sig.leading_zeros();
        let exp = exp - (f.frac as i32 - lead as i32);
        Class::Finite(Num { sign, exp, sig: u128::from(sig) << (LEAD - lead) })
    }

    /// Result for operands of which at least one is a NaN: the first signalling one, else the first.
    pub(crate) fn nan_of(&mut self, f: Format, operands: &[u64]) -> u64 {
        let signalling = operands.iter().find(|v| f.is_snan(**v));
        if signalling.is_some() {
            self.raise(flag::IOC);
        }
        let chosen = signalling.or_else(|| operands.iter().find(|v| f.is_nan(**v)));
        match chosen {
            Some(v) if !self.default_nan => v | f.quiet_bit(),
            _ => f.default_nan(),
        }
    }

    pub(crate) fn invalid(&mut self, f: Format) -> u64 {
        self.raise(flag::IOC);
        f.default_nan()
    }

    fn overflow(&mut self, f: Format, sign: bool) -> u64 {
        self.raise(flag::OFC | flag::IXC);
        let to_infinity = match self.rounding {
            Rounding::NearestEven | Rounding::NearestAway => true,
            Rounding::Up => !sign,
            Rounding::Down => sign,
            Rounding::Zero | Rounding::Odd => false,
        };
        if to_infinity { f.infinity(sign) } else { f.max(sign) }
    }

    /// Rounds the exact value sig * 2^(exp - 125) into a format. `sig` may be 0 or have its leading
    /// bit anywhere; bit 0 may be a sticky bit.
    pub(crate) fn round(&mut self, f: Format, n: Num) -> u64 {
        if n.sig == 0 {
            return f.zero(n.sign);
        }
        let lead = 127 - n.sig.leading_zeros();
        let exp = n.exp + lead as i32 - LEAD as i32;
        let sig = if lead > LEAD { shift_jam(n.sig, lead - LEAD) } else { n.sig << (LEAD - lead) };
        let lowest = 1 - f.bias();
        let tiny = exp < lowest;
        if tiny && self.flushes(f) {
            self.raise(flag::UFC);
            return f.zero(n.sign);
        }
        let extra = if tiny { (lowest - exp).min(200) as u32 } else { 0 };
        let shift = (LEAD - f.frac + extra).min(127);
        let sig = if LEAD - f.frac + extra > 127 { 1 } else { sig };
        let rest = sig & ((1u128 << shift) - 1);
        let half = 1u128 << (shift - 1);
        let mut m = (sig >> shift) as u64;
        let inexact = rest != 0;
        m += u64::from(match self.rounding {
            Rounding::NearestEven => rest > half || (rest == half && m & 1 != 0),
            Rounding::NearestAway => rest >= half,
            Rounding::Up => inexact && !n.sign,
            Rounding::Down => inexact && n.sign,
            Rounding::Zero => false,
            Rounding::Odd => inexact && m & 1 == 0,
        });
        // A carry into the next binade, or from denormal to normal, happens in the addition.
        let biased = if tiny { 0 } else { (exp + f.bias()) as u64 };
        let magnitude = if tiny { m } else { (biased << f.frac) + (m - (1 << f.frac)) };
        if magnitude >= f.infinity(false) {
            return self.overflow(f, n.sign);
        }
        if inexact {
            self.raise(flag::IXC | if tiny { flag::UFC } else { 0 });
        }
        f.zero(n.sign) | magnitude
    }
}

#[cfg(test)]
mod tests;
