//! FP and SIMD instructions that become IR instead of a helper call: moves, bitwise operations, and
//! the integer operations that the IR has.

use jit_ir::{Lane, Opcode, Val};

use super::shift::expand_word;
use crate::translate::Ctx;

/// Writes a 64- or 128-bit result.
pub(super) fn put(t: &mut Ctx<'_>, rd: u32, q: u32, v: Val) {
    let v = if q != 0 { v } else { t.b.vector(Opcode::VLow64, Lane::B, v, Val::NONE) };
    t.set_v(rd, v);
}

/// Writes a 64-bit result, zero-extended.
pub(super) fn put64(t: &mut Ctx<'_>, rd: u32, lo: Val) {
    let zero = t.b.c64(0);
    let v = t.b.v_from64(lo, zero);
    t.set_v(rd, v);
}

/// A constant vector.
pub(super) fn constant(t: &mut Ctx<'_>, low: u64, high: u64) -> Val {
    let (low, high) = (t.b.c64(low), t.b.c64(high));
    t.b.v_from64(low, high)
}

/// Emits IR for an allocated word; false = not one of the inline ones.
pub(super) fn translate(word: u32, t: &mut Ctx<'_>) -> bool {
    let (rd, rn) = (word & 31, word >> 5 & 31);
    match word & 0xffff_fc00 {
        // FMOV between registers of the two files.
        0x9e67_0000 => {
            let x = t.x(rn);
            put64(t, rd, x);
        }
        0x9e66_0000 => {
            let v = t.v(rn);
            let v = t.b.v_get64(v, 0);
            t.set_reg(rd, v);
        }
        0x1e27_0000 => {
            let w = t.w(rn);
            let x = t.b.zext(w);
            put64(t, rd, x);
        }
        0x1e26_0000 => {
            let v = t.v(rn);
            let v = t.b.v_lane(Lane::S, 0, v);
            t.set_reg(rd, v);
        }
        // FMOV between a general register and the upper half.
        0x9eae_0000 => {
            let v = t.v(rn);
            let v = t.b.v_get64(v, 1);
            t.set_reg(rd, v);
        }
        0x9eaf_0000 => {
            let (d, x) = (t.v(rd), t.x(rn));
            let v = t.b.v_set_lane(Lane::D, 1, d, x);
            t.set_v(rd, v);
        }
        // FMOV (register), double and single.
        0x1e60_4000 => {
            let v = t.v(rn);
            put(t, rd, 0, v);
        }
        0x1e20_4000 => {
            let (v, m) = (t.v(rn), constant(t, 0xffff_ffff, 0));
            let v = t.b.vector(Opcode::VAnd, Lane::B, v, m);
            t.set_v(rd, v);
        }
        _ => return copies(word, t) || three_same(word, t) || immediate(word, t),
    }
    true
}

fn copies(word: u32, t: &mut Ctx<'_>) -> bool {
    let (rd, rn, q) = (word & 31, word >> 5 & 31, word >> 30 & 1);
    let imm5 = word >> 16 & 31;
    if word & 0xbfe0_fc00 == 0x0e00_0c00 {
        // DUP (general).
        let lane = Lane::ALL[imm5.trailing_zeros().min(3) as usize];
        let x = t.x(rn);
        let v = t.b.v_dup(lane, x);
        put(t, rd, q, v);
        return true;
    }
    elements(word, t)
}

/// UMOV, SMOV, INS (general and element).
fn elements(word: u32, t: &mut Ctx<'_>) -> bool {
    let (rd, rn, q, imm5) = (word & 31, word >> 5 & 31, word >> 30 & 1, word >> 16 & 31);
    let size = imm5.trailing_zeros().min(3);
    let (lane, bits) = (Lane::ALL[size as usize], 8 << size);
    let index = imm5 >> (size + 1);
    match word & 0xbfe0_fc00 {
        0x0e00_2c00 | 0x0e00_3c00 => {
            let v = t.v(rn);
            let v = t.b.v_lane(lane, index, v);
            let signed = word & 0x1000 == 0;
            let v = if signed { t.b.sbfx(v, 0, bits) } else { v };
            let v = if signed && q == 0 { t.b.ubfx(v, 0, 32) } else { v };
            t.set_reg(rd, v);
        }
        0x0e00_1c00 => {
            let (d, x) = (t.v(rd), t.x(rn));
            let v = t.b.v_set_lane(lane, index, d, x);
            t.set_v(rd, v);
        }
        _ if word & 0xffe0_8400 == 0x6e00_0400 => {
            let from = (word >> 11 & 15) >> size;
            let (d, n) = (t.v(rd), t.v(rn));
            let x = t.b.v_lane(lane, from, n);
            let v = t.b.v_set_lane(lane, index, d, x);
            t.set_v(rd, v);
        }
        _ => return false,
    }
    true
}

fn three_same(word: u32, t: &mut Ctx<'_>) -> bool {
    let (rd, rn, rm, q) = (word & 31, word >> 5 & 31, word >> 16 & 31, word >> 30 & 1);
    let size = word >> 22 & 3;
    let lane = Lane::ALL[size as usize];
    let code = match (word & 0xbf20_fc00, size) {
        (0x0e20_1c00, 0) => Opcode::VAnd,
        (0x0e20_1c00, 1) => Opcode::VAndNot,
        (0x0e20_1c00, 2) => Opcode::VOr,
        (0x2e20_1c00, 0) => Opcode::VXor,
        (0x0e20_8400, _) => Opcode::VAdd,
        (0x2e20_8400, _) => Opcode::VSub,
        (0x2e20_8c00, _) => Opcode::VCmpEq,
        (0x2e20_6400, 0..=2) => Opcode::VMaxU,
        (0x2e20_6c00, 0..=2) => Opcode::VMinU,
        _ => return false,
    };
    let (n, m) = (t.v(rn), t.v(rm));
    let v = if code == Opcode::VOr && rn == rm { n } else { t.b.vector(code, lane, n, m) };
    put(t, rd, q, v);
    true
}

/// MOVI, MVNI and FMOV (vector, immediate).
fn immediate(word: u32, t: &mut Ctx<'_>) -> bool {
    if word & 0x9ff8_0c00 != 0x0f00_0400 {
        return false;
    }
    let (cmode, op, q, rd) = (word >> 12 & 15, word >> 29 & 1, word >> 30 & 1, word & 31);
    let imm = (word >> 16 & 7) << 5 | word >> 5 & 31;
    let logic = cmode & 1 != 0 && cmode < 12;
    let Some(v) = expand_word(cmode, op, imm).filter(|_| !logic) else { return false };
    let v = if op == 1 && cmode < 14 { !v } else { v };
    let v = constant(t, v, if q != 0 { v } else { 0 });
    t.set_v(rd, v);
    true
}
