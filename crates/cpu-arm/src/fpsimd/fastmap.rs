//! Which FP words go to which helper of [`super::fast`], and those that need no helper at all.
//!
//! Source: Arm ARM (DDI 0487) C4.1.96. The words are known to be allocated.

use jit_ir::{Cond, Lane, Opcode, Ty, Val};
use softfloat::{F32, F64};

use super::inline::put64;
use super::scalar::expand_imm;
use crate::helpers::HelperId as Id;
use crate::state::v_slot;
use crate::translate::Ctx;

/// Reads a scalar, zero-extended.
fn scalar(t: &mut Ctx<'_>, double: bool, n: u32) -> Val {
    if double {
        return t.b.get(v_slot(n), Ty::I64);
    }
    let v = t.b.get(v_slot(n), Ty::I32);
    t.b.zext(v)
}

/// Emits a fast form of an FP word; false = there is none.
pub(super) fn translate(word: u32, t: &mut Ctx<'_>) -> bool {
    match word >> 22 & 3 {
        ty @ (0 | 1) if word >> 24 & 0x7f == 0x1e && word >> 21 & 1 != 0 => {
            scalar_fp(word, ty != 0, t)
        }
        ty @ (0 | 1) if word >> 24 == 0x1f => {
            t.b.call_void(if ty != 0 { Id::FusedD } else { Id::FusedS } as u16, &[], word);
            true
        }
        _ if word >> 31 == 0 && word >> 28 & 1 == 0 => vector_fp(word, t),
        _ if word >> 30 == 1 && word >> 28 & 1 != 0 => scalar_simd(word, t),
        _ => false,
    }
}

fn scalar_fp(word: u32, double: bool, t: &mut Ctx<'_>) -> bool {
    let general = word & 0x7f20_fc00 == 0x1e20_0000;
    if general {
        return with_general(word, double, t);
    }
    if word >> 31 != 0 {
        return false;
    }
    match word >> 10 & 3 {
        1 => {
            compare_if(word, double, t);
            true
        }
        2 => two_source(word, double, t),
        3 => select(word, double, t),
        0 if word & 0xfc07 == 0x2000 => {
            let id = if double { Id::CompareD } else { Id::CompareS };
            let r = t.b.call(id as u16, &[], word);
            let r = t.b.trunc(r);
            let cc = t.b.cc_from_nzcv(r);
            t.b.set_cc(cc);
            true
        }
        0 if word & 0x1fe0 == 0x1000 => {
            let v = expand_imm(if double { F64 } else { F32 }, word >> 13 & 0xff);
            let v = t.b.c64(v);
            put64(t, word & 31, v);
            true
        }
        0 if word & 0x7c00 == 0x4000 => one_source(word, double, t),
        _ => false,
    }
}

/// The scalar forms of Advanced SIMD instructions.
fn scalar_simd(word: u32, t: &mut Ctx<'_>) -> bool {
    let ids = match word & 0xffbf_fc00 {
        0x5e21_d800 | 0x7e21_d800 => [Id::FromInt1S, Id::FromInt1D],
        0x5ea1_b800 => [Id::ToInt1S, Id::ToInt1D],
        0x7e30_d800 => [Id::PairSumS, Id::PairSumD],
        _ => return false,
    };
    t.b.call_void(ids[(word >> 22 & 1) as usize] as u16, &[], word);
    true
}

/// FCCMP, FCCMPE.
fn compare_if(word: u32, double: bool, t: &mut Ctx<'_>) {
    let holds = match Cond::from_bits(word >> 12 & 15) {
        Some(cond) => {
            let cc = t.b.get_cc();
            t.b.cond_val(Ty::I64, cc, cond)
        }
        None => t.b.c64(1),
    };
    let id = if double { Id::CompareIfD } else { Id::CompareIfS };
    let r = t.b.call(id as u16, &[holds], word);
    let r = t.b.trunc(r);
    let cc = t.b.cc_from_nzcv(r);
    t.b.set_cc(cc);
}

fn with_general(word: u32, double: bool, t: &mut Ctx<'_>) -> bool {
    let (rd, rn) = (word & 31, word >> 5 & 31);
    match (word >> 19 & 3, word >> 16 & 7) {
        (0, 2 | 3) => {
            let x = t.x(rn);
            let id = if double { Id::FromIntD } else { Id::FromIntS };
            let r = t.b.call(id as u16, &[x], word);
            put64(t, rd, r);
        }
        (_, 0 | 1) => {
            let id = if double { Id::ToIntD } else { Id::ToIntS };
            let r = t.b.call(id as u16, &[], word);
            t.set_reg(rd, r);
        }
        _ => return false,
    }
    true
}

fn two_source(word: u32, double: bool, t: &mut Ctx<'_>) -> bool {
    const IDS: [[Id; 9]; 2] = [
        [Id::MulS, Id::DivS, Id::AddS, Id::SubS, Id::MaxS, Id::MinS, Id::MaxS, Id::MinS, Id::NMulS],
        [Id::MulD, Id::DivD, Id::AddD, Id::SubD, Id::MaxD, Id::MinD, Id::MaxD, Id::MinD, Id::NMulD],
    ];
    let Some(id) = IDS[usize::from(double)].get((word >> 12 & 15) as usize) else { return false };
    t.b.call_void(*id as u16, &[], word);
    true
}

fn select(word: u32, double: bool, t: &mut Ctx<'_>) -> bool {
    let (rd, rn, rm) = (word & 31, word >> 5 & 31, word >> 16 & 31);
    let (n, m) = (scalar(t, double, rn), scalar(t, double, rm));
    let v = match Cond::from_bits(word >> 12 & 15) {
        Some(cond) => {
            let cc = t.b.get_cc();
            t.b.select(cc, cond, n, m)
        }
        None => n,
    };
    put64(t, rd, v);
    true
}

fn one_source(word: u32, double: bool, t: &mut Ctx<'_>) -> bool {
    let (rd, rn) = (word & 31, word >> 5 & 31);
    let sign = if double { 1 << 63 } else { 1 << 31 };
    let id = match (word >> 15 & 63, double) {
        (1, _) => {
            let v = scalar(t, double, rn);
            let v = t.b.and_imm(v, sign - 1);
            put64(t, rd, v);
            return true;
        }
        (2, _) => {
            let v = scalar(t, double, rn);
            let s = t.b.c64(sign);
            let v = t.b.binary(Opcode::Xor, v, s);
            put64(t, rd, v);
            return true;
        }
        (3, false) => Id::SqrtS,
        (3, true) => Id::SqrtD,
        (4, true) => Id::CvtDS,
        (5, false) => Id::CvtSD,
        (8..=12 | 14 | 15, false) => Id::RintS,
        (8..=12 | 14 | 15, true) => Id::RintD,
        _ => return false,
    };
    t.b.call_void(id as u16, &[], word);
    true
}

/// The helper of a vector shape: 2S, 4S, 2D.
fn shape(word: u32, ids: [Id; 3]) -> Option<Id> {
    match (word >> 22 & 1, word >> 30 & 1) {
        (0, 0) => Some(ids[0]),
        (0, _) => Some(ids[1]),
        (_, 1) => Some(ids[2]),
        _ => None,
    }
}

fn vector_fp(word: u32, t: &mut Ctx<'_>) -> bool {
    let ids = match word & 0xbfa0_fc00 {
        0x0e20_d400 => [Id::Add2S, Id::Add4S, Id::Add2D],
        0x0ea0_d400 => [Id::Sub2S, Id::Sub4S, Id::Sub2D],
        0x2e20_dc00 => [Id::Mul2S, Id::Mul4S, Id::Mul2D],
        0x2e20_fc00 => [Id::Div2S, Id::Div4S, Id::Div2D],
        0x0e20_cc00 | 0x0ea0_cc00 => [Id::Fused2S, Id::Fused4S, Id::Fused2D],
        0x0e20_f400 | 0x0e20_c400 => [Id::Max2S, Id::Max4S, Id::Max2D],
        0x0ea0_f400 | 0x0ea0_c400 => [Id::Min2S, Id::Min4S, Id::Min2D],
        0x0e20_e400 | 0x2e20_e400 | 0x2ea0_e400 => [Id::Rel2S, Id::Rel4S, Id::Rel2D],
        _ => return by_element(word, t) || two(word, t),
    };
    let Some(id) = shape(word, ids) else { return false };
    t.b.call_void(id as u16, &[], word);
    true
}

fn by_element(word: u32, t: &mut Ctx<'_>) -> bool {
    let ids = match word & 0xbf80_f400 {
        0x0f80_1000 | 0x0f80_5000 => [Id::FusedE2S, Id::FusedE4S, Id::FusedE2D],
        0x0f80_9000 => [Id::MulE2S, Id::MulE4S, Id::MulE2D],
        _ => return false,
    };
    let Some(id) = shape(word, ids) else { return false };
    t.b.call_void(id as u16, &[], word);
    true
}

fn two(word: u32, t: &mut Ctx<'_>) -> bool {
    let resized = match word & 0xbfff_fc00 {
        0x0e61_7800 => Some(Id::CvtLong),
        0x0e61_6800 => Some(Id::CvtNarrow),
        _ => None,
    };
    if let Some(id) = resized {
        t.b.call_void(id as u16, &[], word);
        return true;
    }
    let ids = match word & 0xbfbf_fc00 {
        0x2ea1_f800 => [Id::Sqrt2S, Id::Sqrt4S, Id::Sqrt2D],
        0x0e21_d800 | 0x2e21_d800 => [Id::FromInt2S, Id::FromInt4S, Id::FromInt2D],
        0x0ea1_b800 => [Id::ToInt2S, Id::ToInt4S, Id::ToInt2D],
        0x2ea0_f800 => return sign_op(word, Opcode::VXor, t),
        0x0ea0_f800 => return sign_op(word, Opcode::VAndNot, t),
        _ => return false,
    };
    let Some(id) = shape(word, ids) else { return false };
    t.b.call_void(id as u16, &[], word);
    true
}

/// FNEG, FABS (vector).
fn sign_op(word: u32, code: Opcode, t: &mut Ctx<'_>) -> bool {
    let sign = if word >> 22 & 1 != 0 { 1 << 63 } else { 0x8000_0000_8000_0000 };
    let x = t.b.c64(sign);
    let m = t.b.v_dup(Lane::D, x);
    let n = t.v(word >> 5 & 31);
    let v = t.b.vector(code, Lane::B, n, m);
    super::inline::put(t, word & 31, word >> 30 & 1, v);
    true
}
