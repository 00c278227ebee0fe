//! FP and SIMD instructions that become IR instead of a helper call: moves, bitwise operations, and
//! the integer operations that the IR has.

use jit_ir::{Lane, Opcode, Ty, Val};

use super::shift::expand_word;
use crate::state::v_slot;
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
            let v = t.b.get(v_slot(rn), Ty::I64);
            t.set_reg(rd, v);
        }
        0x1e27_0000 => {
            let w = t.w(rn);
            let x = t.b.zext(w);
            put64(t, rd, x);
        }
        0x1e26_0000 => {
            let v = t.b.get(v_slot(rn), Ty::I32);
            t.set_reg(rd, v);
        }
        // FMOV (register), double and single.
        0x1e60_4000 => {
            let v = t.b.get(v_slot(rn), Ty::I64);
            put64(t, rd, v);
        }
        0x1e20_4000 => {
            let v = t.b.get(v_slot(rn), Ty::I32);
            let v = t.b.zext(v);
            put64(t, rd, v);
        }
        _ => return copies(word, t) || three_same(word, t) || immediate(word, t),
    }
    true
}

fn copies(word: u32, t: &mut Ctx<'_>) -> bool {
    let (rd, rn, q) = (word & 31, word >> 5 & 31, word >> 30 & 1);
    let (imm5, index) = (word >> 16 & 31, word >> 20 & 1);
    if word & 0xbfe0_fc00 == 0x0e00_0c00 {
        // DUP (general).
        let lane = Lane::ALL[imm5.trailing_zeros().min(3) as usize];
        let x = t.x(rn);
        let v = t.b.v_dup(lane, x);
        put(t, rd, q, v);
        return true;
    }
    match word & 0xffef_fc00 {
        // UMOV Xd, Vn.D[index]
        0x4e08_3c00 => {
            let v = t.b.get(v_slot(rn) + 8 * index, Ty::I64);
            t.set_reg(rd, v);
            true
        }
        // INS Vd.D[index], Xn
        0x4e08_1c00 => {
            let x = t.x(rn);
            t.b.set(v_slot(rd) + 8 * index, x);
            true
        }
        _ => elements(word, t),
    }
}

/// UMOV, SMOV, INS (general and element) of other sizes: fields of the 64-bit halves.
fn elements(word: u32, t: &mut Ctx<'_>) -> bool {
    let (rd, rn, q, imm5) = (word & 31, word >> 5 & 31, word >> 30 & 1, word >> 16 & 31);
    let size = imm5.trailing_zeros().min(3);
    let bits = 8 << size;
    let place = |byte: u32| (byte & 8, 8 * (byte & 7));
    let (half, at) = place(imm5 >> (size + 1) << size);
    match word & 0xbfe0_fc00 {
        0x0e00_2c00 | 0x0e00_3c00 => {
            let v = t.b.get(v_slot(rn) + half, Ty::I64);
            let signed = word & 0x1000 == 0;
            let v = if signed { t.b.sbfx(v, at, bits) } else { t.b.ubfx(v, at, bits) };
            let narrow = signed && q == 0;
            let v = if narrow { t.b.ubfx(v, 0, 32) } else { v };
            t.set_reg(rd, v);
            true
        }
        0x0e00_1c00 => {
            let x = t.x(rn);
            insert(t, rd, half, at, bits, x);
            true
        }
        _ if word & 0xffe0_8400 == 0x6e00_0400 => {
            let (from, shift) = place((word >> 11 & 15) >> size << size);
            let v = t.b.get(v_slot(rn) + from, Ty::I64);
            let v = if bits == 64 { v } else { t.b.ubfx(v, shift, bits) };
            insert(t, rd, half, at, bits, v);
            true
        }
        _ => false,
    }
}

fn insert(t: &mut Ctx<'_>, rd: u32, half: u32, at: u32, bits: u32, v: Val) {
    let slot = v_slot(rd) + half;
    let v = if bits == 64 {
        v
    } else {
        let old = t.b.get(slot, Ty::I64);
        t.b.bfi(old, v, at, bits)
    };
    t.b.set(slot, v);
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
    let lo = t.b.c64(v);
    let hi = t.b.c64(if q != 0 { v } else { 0 });
    let v = t.b.v_from64(lo, hi);
    t.set_v(rd, v);
    true
}
