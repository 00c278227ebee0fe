//! Conversions: between formats, to and from integers, to integral values.

use crate::{Class, F16, Format, LEAD, Num, Rounding, Status, flag};

/// Rounds sig / 2^shift to an integer; (value, inexact).
fn to_integral(sig: u128, shift: u32, sign: bool, mode: Rounding) -> (u128, bool) {
    if shift == 0 {
        return (sig, false);
    }
    let jammed = shift > 127;
    let (whole, rest, half) = if jammed {
        (0, u128::from(sig != 0), 2)
    } else {
        (sig >> shift, sig & ((1 << shift) - 1), 1u128 << (shift - 1))
    };
    let up = match mode {
        Rounding::NearestEven => rest > half || (rest == half && whole & 1 != 0),
        Rounding::NearestAway => rest >= half,
        Rounding::Up => rest != 0 && !sign,
        Rounding::Down => rest != 0 && sign,
        Rounding::Zero => false,
        Rounding::Odd => rest != 0 && whole & 1 == 0,
    };
    (whole + u128::from(up), rest != 0)
}

impl Status {
    /// To another format. binary16 follows FPCR.AHP.
    pub fn convert(&mut self, from: Format, to: Format, v: u64) -> u64 {
        let alternative = self.alternative_half;
        let from_alt = from == F16 && alternative;
        let to_alt = to == F16 && alternative;
        let sign = v & from.sign_bit() != 0;
        // binary16 denormals are never flushed by conversions.
        let class = if from == F16 { Self::classify(from, v) } else { self.unpack(from, v) };
        let class = match class {
            Class::Inf(_) | Class::Nan if from_alt => {
                let sig = u128::from(v & from.frac_mask() | 1 << from.frac) << (LEAD - from.frac);
                Class::Finite(Num { sign, exp: 16, sig })
            }
            c => c,
        };
        match class {
            Class::Nan => self.convert_nan(from, to, v, to_alt),
            Class::Inf(_) if to_alt => {
                self.raise(flag::IOC);
                to.zero(sign) | (to.sign_bit() - 1)
            }
            Class::Inf(s) => to.infinity(s),
            Class::Zero(s) => to.zero(s),
            Class::Finite(n) if to_alt => self.round_alternative(n),
            Class::Finite(n) => {
                let saved = self.flush16;
                self.flush16 = false;
                let r = self.round(to, n);
                self.flush16 = saved;
                r
            }
        }
    }

    fn convert_nan(&mut self, from: Format, to: Format, v: u64, to_alt: bool) -> u64 {
        let sign = v & from.sign_bit() != 0;
        if from.is_snan(v) || to_alt {
            self.raise(flag::IOC);
        }
        if to_alt {
            return to.zero(sign);
        }
        if self.default_nan {
            return to.default_nan();
        }
        let frac = v & from.frac_mask();
        let moved = if to.frac >= from.frac {
            frac << (to.frac - from.frac)
        } else {
            frac >> (from.frac - to.frac)
        };
        to.infinity(sign) | moved | to.quiet_bit()
    }

    /// binary16 without infinities and NaNs: exponent 31 is a number, overflow saturates.
    fn round_alternative(&mut self, n: Num) -> u64 {
        let wide = Format { exp: 6, frac: 10 };
        let before = self.flags;
        // The wider exponent has another bias: move the number, denormals stay where they are because
        // the value is scaled by the difference of the lowest exponents.
        let scale = (1 - wide.bias()) - (1 - F16.bias());
        let r = self.round(wide, Num { exp: n.exp + scale, ..n });
        let magnitude = r & (wide.sign_bit() - 1);
        if magnitude >= 1 << 15 {
            self.flags = before | flag::IOC;
            return F16.zero(n.sign) | 0x7fff;
        }
        F16.zero(n.sign) | magnitude
    }

    /// To an integer of `bits` bits (saturating), of v * 2^fbits.
    pub fn to_int(
        &mut self,
        f: Format,
        v: u64,
        bits: u32,
        signed: bool,
        fbits: u32,
        mode: Rounding,
    ) -> u64 {
        let mask = if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
        let limits = |sign: bool| match (signed, sign) {
            (true, true) => 1u64 << (bits - 1),
            (true, false) => mask >> 1,
            (false, true) => 0,
            (false, false) => mask,
        };
        let n = match self.unpack(f, v) {
            Class::Zero(_) => return 0,
            Class::Nan => {
                self.raise(flag::IOC);
                return 0;
            }
            Class::Inf(s) => {
                self.raise(flag::IOC);
                return limits(s);
            }
            Class::Finite(n) => n,
        };
        let exp = n.exp + fbits as i32;
        if exp > 66 {
            self.raise(flag::IOC);
            return limits(n.sign);
        }
        let (m, inexact) = to_integral(n.sig, (LEAD as i32 - exp) as u32, n.sign, mode);
        let fits = match (signed, n.sign) {
            (true, true) => m <= 1 << (bits - 1),
            (true, false) => m < 1 << (bits - 1),
            (false, true) => m == 0,
            (false, false) => m <= u128::from(mask),
        };
        if !fits {
            self.raise(flag::IOC);
            return limits(n.sign);
        }
        if inexact {
            self.raise(flag::IXC);
        }
        let m = m as u64;
        (if n.sign { m.wrapping_neg() } else { m }) & mask
    }

    /// From an integer, divided by 2^fbits.
    pub fn from_int(&mut self, f: Format, v: u64, signed: bool, fbits: u32) -> u64 {
        let sign = signed && (v as i64) < 0;
        let magnitude = if sign { v.wrapping_neg() } else { v };
        if magnitude == 0 {
            return 0;
        }
        self.round(f, Num { sign, exp: LEAD as i32 - fbits as i32, sig: u128::from(magnitude) })
    }

    /// To an integral value of the same format; `exact` raises inexact (FRINTX).
    pub fn round_to_integral(&mut self, f: Format, v: u64, mode: Rounding, exact: bool) -> u64 {
        let n = match self.unpack(f, v) {
            Class::Nan => return self.nan_of(f, &[v]),
            Class::Inf(s) => return f.infinity(s),
            Class::Zero(s) => return f.zero(s),
            Class::Finite(n) => n,
        };
        if n.exp >= f.frac as i32 {
            return v;
        }
        let (m, inexact) = to_integral(n.sig, (LEAD as i32 - n.exp) as u32, n.sign, mode);
        if inexact && exact {
            self.raise(flag::IXC);
        }
        let saved = self.flags;
        let r = self.round(f, Num { sign: n.sign, exp: LEAD as i32, sig: m });
        self.flags = saved;
        r
    }

    /// FRINT32, FRINT64: like [`Self::round_to_integral`], but what does not fit a signed integer of
    /// `bits` bits becomes its most negative value, invalid.
    pub fn round_to_int_range(&mut self, f: Format, v: u64, bits: u32, mode: Rounding) -> u64 {
        let out = f.zero(true) | f.power_of_two(bits as i32 - 1);
        match self.unpack(f, v) {
            Class::Nan | Class::Inf(_) => {
                self.raise(flag::IOC);
                out
            }
            Class::Zero(s) => f.zero(s),
            Class::Finite(n) => {
                let fits = n.exp < 66 && {
                    let shift = (LEAD as i32 - n.exp) as u32;
                    let (m, _) = to_integral(n.sig, shift, n.sign, mode);
                    m < 1 << (bits - 1) || (n.sign && m == 1 << (bits - 1))
                };
                if !fits {
                    self.raise(flag::IOC);
                    return out;
                }
                self.round_to_integral(f, v, mode, true)
            }
        }
    }

    /// FJCVTZS: to 32 bits modulo 2^32, toward zero; (value, exact).
    pub fn to_int_js(&mut self, f: Format, v: u64) -> (u32, bool) {
        match self.unpack(f, v) {
            // Minus zero converts, but not exactly.
            Class::Zero(s) => (0, !s),
            Class::Nan | Class::Inf(_) => {
                self.raise(flag::IOC);
                (0, false)
            }
            Class::Finite(n) => {
                let shift = LEAD as i32 - n.exp;
                let (m, inexact) = if shift < 0 {
                    let up = (-shift).min(127) as u32;
                    (if up > 40 { 0 } else { n.sig << up }, false)
                } else {
                    to_integral(n.sig, shift as u32, n.sign, Rounding::Zero)
                };
                let in_range = n.exp < 31 || (n.exp == 31 && n.sign && m == 1 << 31);
                if !in_range {
                    self.raise(flag::IOC);
                } else if inexact {
                    self.raise(flag::IXC);
                }
                let m = m as u32;
                (if n.sign { m.wrapping_neg() } else { m }, in_range && !inexact)
            }
        }
    }

    /// To binary32 rounding to odd (FCVTXN).
    pub fn convert_to_odd(&mut self, from: Format, to: Format, v: u64) -> u64 {
        let saved = self.rounding;
        self.rounding = Rounding::Odd;
        let r = self.convert(from, to, v);
        self.rounding = saved;
        r
    }
}
