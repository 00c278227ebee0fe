//! Single and double precision as IR, for the mode in which FPCR asks for nothing special.
//!
//! Scalars are vectors whose rest is zero, so that registers are read and written whole. Words that are
//! not here go to the executor: half precision, fixed point (but from general registers), estimates and
//! steps, FMULX, FCVTXN, FRINT32 and FRINT64, complex arithmetic.
//! Source: Arm ARM (DDI 0487) C4.1.96, C7.2. The words are known to be allocated.

use jit_ir::fp::{FpDesc, FpOp, FpRounding, FpShape};
use jit_ir::{Cond, Lane, Opcode, Ty, Val};
use softfloat::{F32, F64};

use super::inline::{constant, put64};
use super::scalar::expand_imm;
use super::vector::halves;
use crate::translate::Ctx;

/// An instruction's format, lanes and registers.
struct Word {
    double: bool,
    shape: FpShape,
    rd: u32,
    rn: u32,
    rm: u32,
}

impl Word {
    fn new(w: u32, shape: FpShape) -> Self {
        let (rd, rn, rm) = (w & 31, w >> 5 & 31, w >> 16 & 31);
        Self { double: w >> 22 & 1 != 0, shape, rd, rn, rm }
    }

    fn desc(&self, op: FpOp) -> FpDesc {
        FpDesc::new(op, self.double, self.shape)
    }

    fn lane(&self) -> Lane {
        if self.double { Lane::D } else { Lane::S }
    }

    fn fp1(&self, t: &mut Ctx<'_>, op: FpOp, a: Val) -> Val {
        t.b.fp(self.desc(op), a, Val::NONE, Val::NONE)
    }

    fn fp2(&self, t: &mut Ctx<'_>, op: FpOp, a: Val, b: Val) -> Val {
        t.b.fp(self.desc(op), a, b, Val::NONE)
    }

    /// The signs of the lanes (all other bits if not `sign`); zero above a scalar.
    fn mask(&self, t: &mut Ctx<'_>, sign: bool) -> Val {
        let bits = if self.double { 1 << 63 } else { 0x8000_0000_8000_0000 };
        let bits = if sign { bits } else { !bits };
        match self.shape {
            FpShape::Scalar if !self.double => constant(t, bits & 0xffff_ffff, 0),
            FpShape::Scalar | FpShape::Half => constant(t, bits, 0),
            _ => constant(t, bits, bits),
        }
    }

    /// The lanes of the shape, the rest zero.
    fn lanes(&self, t: &mut Ctx<'_>, v: Val) -> Val {
        match self.shape {
            FpShape::Scalar if !self.double => {
                let m = constant(t, 0xffff_ffff, 0);
                t.b.vector(Opcode::VAnd, Lane::B, v, m)
            }
            FpShape::Scalar | FpShape::Half => t.b.vector(Opcode::VLow64, Lane::B, v, Val::NONE),
            _ => v,
        }
    }

    fn abs(&self, t: &mut Ctx<'_>, v: Val) -> Val {
        let m = self.mask(t, false);
        t.b.vector(Opcode::VAnd, Lane::B, v, m)
    }

    /// Changes the signs of lanes; the rest becomes zero.
    fn neg(&self, t: &mut Ctx<'_>, v: Val) -> Val {
        let (v, m) = (self.lanes(t, v), self.mask(t, true));
        t.b.vector(Opcode::VXor, Lane::B, v, m)
    }
}

/// Emits an FP word; false = not one of these.
pub(super) fn translate(word: u32, t: &mut Ctx<'_>) -> bool {
    if word >> 24 & 0x1f == 0x1e && word >> 21 & 1 != 0 && word >> 30 & 1 == 0 {
        return match word >> 22 & 3 {
            0 | 1 if word >> 29 & 1 == 0 => scalar(word, t),
            _ => false,
        };
    }
    if word >> 24 == 0x1f {
        return word >> 22 & 3 < 2 && fused(word, t);
    }
    if word >> 31 != 0 {
        return false;
    }
    let scalar = word >> 28 & 1 != 0;
    if scalar && word >> 30 == 0 {
        return false;
    }
    let shape = match (scalar, word >> 30 & 1) {
        (true, _) => FpShape::Scalar,
        (_, 0) => FpShape::Half,
        _ => FpShape::Full,
    };
    // Scalar words differ from those of 64-bit vectors by two bits.
    let word = if scalar { word & !(5 << 28) } else { word & !(1 << 30) };
    let w = Word::new(word, shape);
    if scalar && pair(word, &w, t) {
        return true;
    }
    three_same(word, &w, t)
        || element(word, &w, t)
        || two(word, &w, t)
        || (!scalar && (resize(word, &w, t) || across(word, &w, t)))
}

// -------------------------------------------------------------------- scalar

fn scalar(word: u32, t: &mut Ctx<'_>) -> bool {
    let w = Word::new(word, FpShape::Scalar);
    if word & 0xfc00 == 0 {
        return with_general(word, &w, t);
    }
    if word >> 31 != 0 {
        return false;
    }
    match word >> 10 & 3 {
        1 => compare_if(word, &w, t),
        2 => return two_source(word, &w, t),
        3 => select(word, &w, t),
        _ if word & 0xfc07 == 0x2000 => {
            let n = t.v(w.rn);
            let m = if word & 8 != 0 { constant(t, 0, 0) } else { t.v(w.rm) };
            let cc = compare(word, &w, t, n, m);
            t.b.set_cc(cc);
        }
        _ if word & 0x1fe0 == 0x1000 => {
            let v = expand_imm(if w.double { F64 } else { F32 }, word >> 13 & 0xff);
            let v = constant(t, v, 0);
            t.set_v(w.rd, v);
        }
        _ if word & 0x7c00 == 0x4000 => return one_source(word, &w, t),
        _ => return false,
    }
    true
}

/// Flags of n against m; bit 4 of the word: signalling.
fn compare(word: u32, w: &Word, t: &mut Ctx<'_>, n: Val, m: Val) -> Val {
    let signalling = word >> 4 & 1 != 0;
    let op = if signalling { FpOp::CompareSignalling } else { FpOp::Compare };
    w.fp2(t, op, n, m)
}

/// FCCMP, FCCMPE: what is not to be compared is replaced by zeros, which raise nothing.
fn compare_if(word: u32, w: &Word, t: &mut Ctx<'_>) {
    let (n, m) = (t.v(w.rn), t.v(w.rm));
    let Some(cond) = Cond::from_bits(word >> 12 & 15) else {
        let cc = compare(word, w, t, n, m);
        return t.b.set_cc(cc);
    };
    let cc = t.b.get_cc();
    let zero = t.b.c64(0);
    let [n, m] = [n, m].map(|v| {
        let x = t.b.v_get64(v, 0);
        let x = t.b.select(cc, cond, x, zero);
        t.b.v_from64(x, zero)
    });
    let compared = compare(word, w, t, n, m);
    let compared = t.b.nzcv_of(compared);
    let other = t.b.c32((word & 15) << 28);
    let flags = t.b.select(cc, cond, compared, other);
    let cc = t.b.cc_from_nzcv(flags);
    t.b.set_cc(cc);
}

fn select(word: u32, w: &Word, t: &mut Ctx<'_>) {
    let (n, m) = (t.v(w.rn), t.v(w.rm));
    let Some(cond) = Cond::from_bits(word >> 12 & 15) else {
        let v = w.lanes(t, n);
        return t.set_v(w.rd, v);
    };
    let cc = t.b.get_cc();
    let (n, m) = (t.b.v_get64(n, 0), t.b.v_get64(m, 0));
    let v = t.b.select(cc, cond, n, m);
    let v = if w.double { v } else { t.b.ubfx(v, 0, 32) };
    put64(t, w.rd, v);
}

fn with_general(word: u32, w: &Word, t: &mut Ctx<'_>) -> bool {
    let wide = word >> 31 != 0;
    let unsigned = word >> 16 & 1 != 0;
    match (word >> 19 & 3, word >> 16 & 7) {
        (0, 2 | 3) => {
            let x = if wide { t.x(w.rn) } else { t.w(w.rn) };
            let op = if unsigned { FpOp::FromU } else { FpOp::FromS };
            let v = t.b.fp_from_int(op, w.double, x);
            t.set_v(w.rd, v);
        }
        (mode, op @ (0 | 1 | 4 | 5)) => {
            let mode = match (op, mode) {
                (4 | 5, _) => FpRounding::Away,
                (_, 0) => FpRounding::Even,
                (_, 1) => FpRounding::Up,
                (_, 2) => FpRounding::Down,
                _ => FpRounding::Zero,
            };
            let n = t.v(w.rn);
            let op = if unsigned { FpOp::ToU } else { FpOp::ToS };
            let ty = if wide { Ty::I64 } else { Ty::I32 };
            let r = t.b.fp_to_int(op, w.double, mode, ty, n);
            t.set_reg(w.rd, r);
        }
        _ => return false,
    }
    true
}

fn two_source(word: u32, w: &Word, t: &mut Ctx<'_>) -> bool {
    const OPS: [FpOp; 9] = [
        FpOp::Mul,
        FpOp::Div,
        FpOp::Add,
        FpOp::Sub,
        FpOp::Max,
        FpOp::Min,
        FpOp::MaxNum,
        FpOp::MinNum,
        FpOp::Mul,
    ];
    let n = (word >> 12 & 15) as usize;
    let Some(op) = OPS.get(n) else { return false };
    let (a, b) = (t.v(w.rn), t.v(w.rm));
    let v = w.fp2(t, *op, a, b);
    let v = if n == 8 { w.neg(t, v) } else { v };
    t.set_v(w.rd, v);
    true
}

/// FMADD, FMSUB, FNMADD, FNMSUB.
fn fused(word: u32, t: &mut Ctx<'_>) -> bool {
    let w = Word::new(word, FpShape::Scalar);
    let op = match (word >> 21 & 1, word >> 15 & 1) {
        (0, 0) => FpOp::MulAdd,
        (0, _) => FpOp::NegMulAdd,
        (_, 0) => FpOp::NegMulSub,
        _ => FpOp::MulSub,
    };
    let (n, m, a) = (t.v(w.rn), t.v(w.rm), t.v(word >> 10 & 31));
    let v = t.b.fp(w.desc(op), n, m, a);
    t.set_v(w.rd, v);
    true
}

fn one_source(word: u32, w: &Word, t: &mut Ctx<'_>) -> bool {
    let n = t.v(w.rn);
    let round =
        |t: &mut Ctx<'_>, op, mode| t.b.fp(w.desc(op).rounded(mode), n, Val::NONE, Val::NONE);
    let v = match (word >> 15 & 63, w.double) {
        (0, _) => w.lanes(t, n),
        (1, _) => w.abs(t, n),
        (2, _) => w.neg(t, n),
        (3, _) => w.fp1(t, FpOp::Sqrt, n),
        (4, true) => w.fp1(t, FpOp::Narrow, n),
        (5, false) => w.fp1(t, FpOp::Widen, n),
        (8 | 15, _) => round(t, FpOp::Round, FpRounding::Even),
        (9, _) => round(t, FpOp::Round, FpRounding::Up),
        (10, _) => round(t, FpOp::Round, FpRounding::Down),
        (11, _) => round(t, FpOp::Round, FpRounding::Zero),
        (12, _) => round(t, FpOp::Round, FpRounding::Away),
        (14, _) => round(t, FpOp::RoundExact, FpRounding::Even),
        _ => return false,
    };
    t.set_v(w.rd, v);
    true
}

// -------------------------------------------------------------------- vectors, and scalars as such

fn three_same(word: u32, w: &Word, t: &mut Ctx<'_>) -> bool {
    let (op, pairs) = match word & 0xbfa0_fc00 {
        0x0e20_d400 => (FpOp::Add, false),
        0x0ea0_d400 | 0x2ea0_d400 => (FpOp::Sub, false),
        0x2e20_dc00 => (FpOp::Mul, false),
        0x2e20_fc00 => (FpOp::Div, false),
        0x0e20_f400 => (FpOp::Max, false),
        0x0ea0_f400 => (FpOp::Min, false),
        0x0e20_c400 => (FpOp::MaxNum, false),
        0x0ea0_c400 => (FpOp::MinNum, false),
        0x0e20_e400 => (FpOp::Eq, false),
        0x2e20_e400 | 0x2e20_ec00 => (FpOp::Ge, false),
        0x2ea0_e400 | 0x2ea0_ec00 => (FpOp::Gt, false),
        0x2e20_d400 => (FpOp::Add, true),
        0x2e20_f400 => (FpOp::Max, true),
        0x2ea0_f400 => (FpOp::Min, true),
        0x2e20_c400 => (FpOp::MaxNum, true),
        0x2ea0_c400 => (FpOp::MinNum, true),
        0x0e20_cc00 => (FpOp::MulAdd, false),
        0x0ea0_cc00 => (FpOp::NegMulAdd, false),
        _ => return false,
    };
    let (mut n, mut m) = (t.v(w.rn), t.v(w.rm));
    if pairs {
        let q = u32::from(w.shape == FpShape::Full);
        (n, m) = halves(t, w.lane(), q, n, m);
    }
    let magnitudes = word & 0x2000_fc00 == 0x2000_ec00;
    if magnitudes {
        (n, m) = (w.abs(t, n), w.abs(t, m));
    }
    let v = if matches!(op, FpOp::MulAdd | FpOp::NegMulAdd) {
        let d = t.v(w.rd);
        t.b.fp(w.desc(op), n, m, d)
    } else {
        w.fp2(t, op, n, m)
    };
    // FABD
    let v = if word & 0xbfa0_fc00 == 0x2ea0_d400 { w.abs(t, v) } else { v };
    t.set_v(w.rd, v);
    true
}

/// FMLA, FMLS, FMUL by element.
fn element(word: u32, w: &Word, t: &mut Ctx<'_>) -> bool {
    let op = match word & 0xbf80_f400 {
        0x0f80_1000 => FpOp::MulAdd,
        0x0f80_5000 => FpOp::NegMulAdd,
        0x0f80_9000 => FpOp::Mul,
        _ => return false,
    };
    let (h, l) = (word >> 11 & 1, word >> 21 & 1);
    let index = if w.double { h } else { h << 1 | l };
    let (n, m) = (t.v(w.rn), t.v(w.rm));
    let scalar = w.shape == FpShape::Scalar;
    let m =
        if scalar && index == 0 { m } else { t.b.vector_imm(Opcode::VDupLane, w.lane(), index, m) };
    let v = if op == FpOp::Mul {
        w.fp2(t, op, n, m)
    } else {
        let d = t.v(w.rd);
        t.b.fp(w.desc(op), n, m, d)
    };
    t.set_v(w.rd, v);
    true
}

fn two(word: u32, w: &Word, t: &mut Ctx<'_>) -> bool {
    let key = word & 0xbfbf_fc00;
    let (op, mode) = match key {
        0x2ea1_f800 => (FpOp::Sqrt, FpRounding::Even),
        0x0e21_d800 => (FpOp::FromS, FpRounding::Even),
        0x2e21_d800 => (FpOp::FromU, FpRounding::Even),
        0x0e21_a800 => (FpOp::ToS, FpRounding::Even),
        0x0e21_b800 => (FpOp::ToS, FpRounding::Down),
        0x0ea1_a800 => (FpOp::ToS, FpRounding::Up),
        0x0ea1_b800 => (FpOp::ToS, FpRounding::Zero),
        0x0e21_c800 => (FpOp::ToS, FpRounding::Away),
        0x2e21_a800 => (FpOp::ToU, FpRounding::Even),
        0x2e21_b800 => (FpOp::ToU, FpRounding::Down),
        0x2ea1_a800 => (FpOp::ToU, FpRounding::Up),
        0x2ea1_b800 => (FpOp::ToU, FpRounding::Zero),
        0x2e21_c800 => (FpOp::ToU, FpRounding::Away),
        0x0e21_8800 | 0x2ea1_9800 => (FpOp::Round, FpRounding::Even),
        0x0e21_9800 => (FpOp::Round, FpRounding::Down),
        0x0ea1_8800 => (FpOp::Round, FpRounding::Up),
        0x0ea1_9800 => (FpOp::Round, FpRounding::Zero),
        0x2e21_8800 => (FpOp::Round, FpRounding::Away),
        0x2e21_9800 => (FpOp::RoundExact, FpRounding::Even),
        _ => return signs(key, w, t) || with_zero(key, w, t),
    };
    let n = t.v(w.rn);
    let v = t.b.fp(w.desc(op).rounded(mode), n, Val::NONE, Val::NONE);
    t.set_v(w.rd, v);
    true
}

/// FABS, FNEG.
fn signs(key: u32, w: &Word, t: &mut Ctx<'_>) -> bool {
    let n = t.v(w.rn);
    let v = match key {
        0x0ea0_f800 => w.abs(t, n),
        0x2ea0_f800 => w.neg(t, n),
        _ => return false,
    };
    t.set_v(w.rd, v);
    true
}

/// FCMEQ, FCMGE, FCMGT, FCMLE, FCMLT with zero.
fn with_zero(key: u32, w: &Word, t: &mut Ctx<'_>) -> bool {
    let (op, swap) = match key {
        0x0ea0_c800 => (FpOp::Gt, false),
        0x2ea0_c800 => (FpOp::Ge, false),
        0x0ea0_d800 => (FpOp::Eq, false),
        0x2ea0_d800 => (FpOp::Ge, true),
        0x0ea0_e800 => (FpOp::Gt, true),
        _ => return false,
    };
    let (n, z) = (t.v(w.rn), constant(t, 0, 0));
    let v = if swap { w.fp2(t, op, z, n) } else { w.fp2(t, op, n, z) };
    t.set_v(w.rd, v);
    true
}

/// The op of FADDP, FMAXP and their like by opcode and size, scalar or across lanes.
fn pair_op(key: u32) -> Option<FpOp> {
    Some(match key {
        0x2e30_d800 => FpOp::Add,
        0x2e30_f800 => FpOp::Max,
        0x2eb0_f800 => FpOp::Min,
        0x2e30_c800 => FpOp::MaxNum,
        0x2eb0_c800 => FpOp::MinNum,
        _ => return None,
    })
}

/// Scalar pairwise.
fn pair(word: u32, w: &Word, t: &mut Ctx<'_>) -> bool {
    let Some(op) = pair_op(word & 0xbfbf_fc00) else { return false };
    let n = t.v(w.rn);
    let m = t.b.vector_imm(Opcode::VDupLane, w.lane(), 1, n);
    let v = w.fp2(t, op, n, m);
    t.set_v(w.rd, v);
    true
}

/// FMAXV, FMINV, FMAXNMV, FMINNMV: of four singles.
fn across(word: u32, w: &Word, t: &mut Ctx<'_>) -> bool {
    let op = match pair_op(word & 0xbfbf_fc00) {
        Some(op) if op != FpOp::Add => op,
        _ => return false,
    };
    let n = t.v(w.rn);
    let (even, odd) = halves(t, Lane::S, 1, n, n);
    let d = FpDesc::new(op, false, FpShape::Half);
    let v = t.b.fp(d, even, odd, Val::NONE);
    let other = t.b.vector_imm(Opcode::VDupLane, Lane::S, 1, v);
    let v = t.b.fp(FpDesc::new(op, false, FpShape::Scalar), v, other, Val::NONE);
    t.set_v(w.rd, v);
    true
}

/// FCVTL, FCVTN between single and double.
fn resize(word: u32, w: &Word, t: &mut Ctx<'_>) -> bool {
    let upper = w.shape == FpShape::Full;
    let n = t.v(w.rn);
    let v = match word & 0xbfff_fc00 {
        0x0e61_7800 => {
            let n = if upper { t.b.v_ext(n, n, 8) } else { n };
            t.b.fp(FpDesc::new(FpOp::Widen, false, FpShape::Full), n, Val::NONE, Val::NONE)
        }
        0x0e61_6800 => {
            let d = FpDesc::new(FpOp::Narrow, true, FpShape::Full);
            let v = t.b.fp(d, n, Val::NONE, Val::NONE);
            if upper {
                let d = t.v(w.rd);
                t.b.vector(Opcode::VZipLo, Lane::D, d, v)
            } else {
                v
            }
        }
        _ => return false,
    };
    t.set_v(w.rd, v);
    true
}
