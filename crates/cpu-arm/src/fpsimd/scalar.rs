//! Scalar floating point.

use softfloat::{BF16, F16, F32, F64, Format, Order, Rounding};

use super::{Exec, ones, scalar_format};
use crate::decode::fpsimd as d;

/// N Z C V of a comparison.
fn nzcv(o: Order) -> u32 {
    match o {
        Order::Equal => 6,
        Order::Less => 8,
        Order::Greater => 2,
        Order::Unordered => 3,
    }
}

/// Expands an 8-bit FP immediate (VFPExpandImm).
pub(super) fn expand_imm(f: Format, imm: u32) -> u64 {
    let imm = u64::from(imm);
    let (sign, b, low) = (imm >> 7 & 1, imm >> 6 & 1, imm & 63);
    let exp_low = low >> 4;
    let high = if b != 0 { ones(f.exp - 3) } else { 0 };
    let exp = (b ^ 1) << (f.exp - 1) | high << 2 | exp_low;
    sign << (f.bits() - 1) | exp << f.frac | (low & 15) << (f.frac - 4)
}

impl Exec<'_> {
    /// A scalar format that the CPU implements.
    pub(super) fn format(&self, ty: u32) -> Option<Format> {
        scalar_format(ty).filter(|f| *f != F16 || self.features.fp16())
    }

    pub(super) fn s(&self, f: Format, n: u32) -> u64 {
        self.v(n) as u64 & ones(f.bits())
    }

    pub(super) fn set_s(&mut self, n: u32, v: u64) {
        self.set_v(n, u128::from(v));
    }

    pub(super) fn fix(&mut self, a: &d::ArgOpRdRmodeRnScaleSfTy) -> bool {
        let Some(f) = self.format(a.ty) else { return false };
        if a.sf == 0 && a.scale < 32 {
            return false;
        }
        self.general = true;
        let fbits = 64 - a.scale;
        match (a.rmode, a.op) {
            (0, 2 | 3) => self.integer_to_fp(f, a.sf, a.op == 2, fbits, (a.rd, a.rn)),
            (3, 0 | 1) => {
                self.fp_to_integer(f, a.sf, a.op == 0, fbits, Rounding::Zero, (a.rd, a.rn))
            }
            _ => false,
        }
    }

    fn integer_to_fp(
        &mut self,
        f: Format,
        sf: u32,
        signed: bool,
        fbits: u32,
        (rd, rn): (u32, u32),
    ) -> bool {
        let x = self.x(rn);
        let v = match (sf, signed) {
            (0, true) => i64::from(x as u32 as i32) as u64,
            (0, false) => u64::from(x as u32),
            _ => x,
        };
        let r = self.fp.from_int(f, v, signed, fbits);
        self.set_s(rd, r);
        true
    }

    fn fp_to_integer(
        &mut self,
        f: Format,
        sf: u32,
        signed: bool,
        fbits: u32,
        mode: Rounding,
        (rd, rn): (u32, u32),
    ) -> bool {
        let bits = if sf != 0 { 64 } else { 32 };
        let v = self.s(f, rn);
        let r = self.fp.to_int(f, v, bits, signed, fbits, mode);
        self.set_x(rd, r);
        true
    }

    pub(super) fn int(&mut self, a: &d::ArgOpRdRmodeRnSfTy) -> bool {
        self.general = true;
        match (a.rmode, a.op) {
            (_, 6 | 7) => self.fmov_general(a),
            (mode, 0 | 1) => {
                let Some(f) = self.format(a.ty) else { return false };
                let mode = Rounding::from_bits(mode);
                self.fp_to_integer(f, a.sf, a.op == 0, 0, mode, (a.rd, a.rn))
            }
            (0, 2 | 3) => {
                let Some(f) = self.format(a.ty) else { return false };
                self.integer_to_fp(f, a.sf, a.op == 2, 0, (a.rd, a.rn))
            }
            (0, 4 | 5) => {
                let Some(f) = self.format(a.ty) else { return false };
                self.fp_to_integer(f, a.sf, a.op == 4, 0, Rounding::NearestAway, (a.rd, a.rn))
            }
            _ => false,
        }
    }

    fn fmov_general(&mut self, a: &d::ArgOpRdRmodeRnSfTy) -> bool {
        let to_vector = a.op == 7;
        match (a.sf, a.ty, a.rmode) {
            (0, 1, 3) if a.op == 6 && self.features.jscvt() => {
                let v = self.s(F64, a.rn);
                let (r, exact) = self.fp.to_int_js(F64, v);
                self.set_x(a.rd, u64::from(r));
                if let Some(c) = self.go() {
                    c.set_nzcv(if exact { 4 } else { 0 });
                }
                true
            }
            (0, 0, 0) => self.move_between(to_vector, a, 32),
            (1, 1, 0) => self.move_between(to_vector, a, 64),
            (_, 3, 0) if self.features.fp16() => self.move_between(to_vector, a, 16),
            (1, 2, 1) => {
                if to_vector {
                    let low = self.v(a.rd) & u128::from(u64::MAX);
                    let v = low | u128::from(self.x(a.rn)) << 64;
                    self.set_v(a.rd, v);
                } else {
                    let v = (self.v(a.rn) >> 64) as u64;
                    self.set_x(a.rd, v);
                }
                true
            }
            _ => false,
        }
    }

    fn move_between(&mut self, to_vector: bool, a: &d::ArgOpRdRmodeRnSfTy, bits: u32) -> bool {
        if to_vector {
            let v = self.x(a.rn) & ones(bits);
            self.set_s(a.rd, v);
        } else {
            let v = self.v(a.rn) as u64 & ones(bits);
            self.set_x(a.rd, v);
        }
        true
    }

    pub(super) fn one_source(&mut self, a: &d::ArgOpRdRnTy) -> bool {
        if (a.ty, a.op) == (1, 6) && self.features.bf16() {
            // BFCVT
            let v = self.s(F32, a.rn);
            let r = self.fp.convert(F32, BF16, v);
            self.set_s(a.rd, r);
            return true;
        }
        let Some(f) = self.format(a.ty) else { return false };
        if matches!(a.op, 4 | 5 | 7) {
            // Precision conversions: FCVT to single, double, half; half needs no FP16.
            let to = match a.op {
                4 => F32,
                5 => F64,
                _ => F16,
            };
            if to == f {
                return false;
            }
            let v = self.s(f, a.rn);
            let r = self.fp.convert(f, to, v);
            self.set_s(a.rd, r);
            return true;
        }
        let v = self.s(f, a.rn);
        let current = self.fp.rounding;
        let r = match a.op {
            0 => v,
            1 => v & !f.sign_bit(),
            2 => v ^ f.sign_bit(),
            3 => self.fp.sqrt(f, v),
            8 => self.fp.round_to_integral(f, v, Rounding::NearestEven, false),
            9 => self.fp.round_to_integral(f, v, Rounding::Up, false),
            10 => self.fp.round_to_integral(f, v, Rounding::Down, false),
            11 => self.fp.round_to_integral(f, v, Rounding::Zero, false),
            12 => self.fp.round_to_integral(f, v, Rounding::NearestAway, false),
            14 => self.fp.round_to_integral(f, v, current, true),
            15 => self.fp.round_to_integral(f, v, current, false),
            16..=19 if self.features.frintts() && f != F16 => {
                let bits = if a.op >= 18 { 64 } else { 32 };
                let mode = if a.op & 1 == 0 { Rounding::Zero } else { current };
                self.fp.round_to_int_range(f, v, bits, mode)
            }
            _ => return false,
        };
        self.set_s(a.rd, r);
        true
    }

    /// Half precision to and from single and double exists without FP16 arithmetic.
    pub(super) fn one_source_any(&mut self, a: &d::ArgOpRdRnTy) -> bool {
        if a.ty == 3 && !self.features.fp16() && matches!(a.op, 4 | 5) {
            let to = if a.op == 4 { F32 } else { F64 };
            let v = self.s(F16, a.rn);
            let r = self.fp.convert(F16, to, v);
            self.set_s(a.rd, r);
            return true;
        }
        self.one_source(a)
    }

    fn set_flags(&mut self, v: u32) {
        if let Some(c) = self.go() {
            c.set_nzcv(v);
        }
    }

    pub(super) fn cmp(&mut self, a: &d::ArgOpRmRnTy) -> bool {
        let Some(f) = self.format(a.ty) else { return false };
        self.general = true;
        let zero = a.op & 1 != 0;
        let (n, m) = (self.s(f, a.rn), if zero { 0 } else { self.s(f, a.rm) });
        let r = self.fp.compare(f, n, m, a.op & 2 != 0);
        self.set_flags(nzcv(r));
        true
    }

    pub(super) fn ccmp(&mut self, a: &d::ArgCondNzcvOpRmRnTy) -> bool {
        let Some(f) = self.format(a.ty) else { return false };
        self.general = true;
        if self.holds(a.cond) {
            let (n, m) = (self.s(f, a.rn), self.s(f, a.rm));
            let r = self.fp.compare(f, n, m, a.op != 0);
            self.set_flags(nzcv(r));
        } else {
            self.set_flags(a.nzcv);
        }
        true
    }

    fn holds(&self, cond: u32) -> bool {
        let flags = self.cpu.as_ref().map_or(0, |c| c.nzcv());
        jit_ir::Cond::from_bits(cond).is_none_or(|c| c.holds(flags))
    }

    pub(super) fn csel(&mut self, a: &d::ArgCondRdRmRnTy) -> bool {
        let Some(f) = self.format(a.ty) else { return false };
        self.general = true;
        let v = if self.holds(a.cond) { self.s(f, a.rn) } else { self.s(f, a.rm) };
        self.set_s(a.rd, v);
        true
    }

    pub(super) fn imm(&mut self, a: &d::ArgImmRdTy) -> bool {
        let Some(f) = self.format(a.ty) else { return false };
        self.set_s(a.rd, expand_imm(f, a.imm));
        true
    }

    pub(super) fn two_source(&mut self, a: &d::ArgOpRdRmRnTy) -> bool {
        let Some(f) = self.format(a.ty) else { return false };
        let (n, m) = (self.s(f, a.rn), self.s(f, a.rm));
        let s = &mut self.fp;
        let r = match a.op {
            0 => s.mul(f, n, m),
            1 => s.div(f, n, m),
            2 => s.add(f, n, m),
            3 => s.sub(f, n, m),
            4 => s.max(f, n, m),
            5 => s.min(f, n, m),
            6 => s.number(f, n, m, true),
            7 => s.number(f, n, m, false),
            8 => {
                let p = s.mul(f, n, m);
                p ^ f.sign_bit()
            }
            _ => return false,
        };
        self.set_s(a.rd, r);
        true
    }

    pub(super) fn three_source(&mut self, a: &d::ArgO0O1RaRdRmRnTy) -> bool {
        let Some(f) = self.format(a.ty) else { return false };
        let (mut ra, mut n, m) = (self.s(f, a.ra), self.s(f, a.rn), self.s(f, a.rm));
        if a.o1 != 0 {
            ra ^= f.sign_bit();
        }
        if a.o1 != a.o0 {
            n ^= f.sign_bit();
        }
        let r = self.fp.mul_add(f, ra, n, m);
        self.set_s(a.rd, r);
        true
    }
}
