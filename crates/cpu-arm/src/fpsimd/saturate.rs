//! Saturating and rounding integer vector instructions as IR.
//!
//! What saturates sets FPSR.QC, found from a mask of the lanes that did.
//! Not here: shifts by register, doubling multiplications, lanes of scalars narrower than 64 bits.
//! Source: Arm ARM (DDI 0487) C7.2.

use jit_ir::{Cond, Lane, Opcode, Ty, Val};

use super::QC;
use super::inline::{constant, put};
use super::vector::{Word, blend, greater, narrow, not, op2, shift, wider};
use crate::state::FPSR_SLOT;
use crate::translate::Ctx;

/// The same number in every lane.
fn every(t: &mut Ctx<'_>, lane: Lane, v: u64) -> Val {
    let v = jit_ir::eval::dup(lane, v);
    constant(t, v as u64, (v >> 64) as u64)
}

/// Sets FPSR.QC if any bit of the mask is set, of its low half if not `q`.
fn note(t: &mut Ctx<'_>, q: u32, mask: Val) {
    let low = t.b.v_get64(mask, 0);
    let any = if q != 0 {
        let high = t.b.v_get64(mask, 1);
        t.b.binary(Opcode::Or, low, high)
    } else {
        low
    };
    let zero = t.b.c64(0);
    let any = t.b.cmp_set(Cond::Ne, any, zero);
    let by = t.b.c64(u64::from(QC.trailing_zeros()));
    let bit = t.b.binary(Opcode::Shl, any, by);
    let bit = t.b.trunc(bit);
    // Helpers and floating-point ops write the other flags in place.
    t.b.forget(FPSR_SLOT, 4);
    let old = t.b.get(FPSR_SLOT, Ty::I32);
    let new = t.b.binary(Opcode::Or, old, bit);
    t.b.set(FPSR_SLOT, new);
}

/// SQADD, UQADD, SQSUB, UQSUB.
pub(super) fn sum(t: &mut Ctx<'_>, w: &Word, subtract: bool, n: Val, m: Val) {
    let lane = w.lane();
    let r = op2(t, if subtract { Opcode::VSub } else { Opcode::VAdd }, lane, n, m);
    let (v, mask) = match (w.u, subtract) {
        (true, false) => {
            let over = greater(t, lane, true, n, r);
            (op2(t, Opcode::VOr, lane, r, over), over)
        }
        (true, true) => {
            let under = greater(t, lane, true, m, n);
            (op2(t, Opcode::VAndNot, lane, r, under), under)
        }
        (false, _) => {
            // The result's sign is wrong: it differs from n's, and m's says that it must not.
            let other = if subtract { n } else { r };
            let x = op2(t, Opcode::VXor, lane, n, r);
            let y = op2(t, Opcode::VXor, lane, m, other);
            let wrong = op2(t, Opcode::VAnd, lane, x, y);
            let wrong = shift(t, Opcode::VSar, lane, lane.bits(), wrong);
            let sign = shift(t, Opcode::VSar, lane, lane.bits(), n);
            let most = every(t, lane, (1 << (lane.bits() - 1)) - 1);
            let limit = op2(t, Opcode::VXor, lane, sign, most);
            (blend(t, wrong, limit, r), wrong)
        }
    };
    note(t, w.q, mask);
    put(t, w.rd, w.q, v);
}

/// min(a, b) or max(a, b) of any lane.
fn bound(t: &mut Ctx<'_>, lane: Lane, unsigned: bool, max: bool, a: Val, b: Val) -> Val {
    if lane == Lane::D {
        let above = greater(t, lane, unsigned, a, b);
        return if max { blend(t, above, a, b) } else { blend(t, above, b, a) };
    }
    let code = match (max, unsigned) {
        (true, true) => Opcode::VMaxU,
        (true, false) => Opcode::VMaxS,
        (false, true) => Opcode::VMinU,
        (false, false) => Opcode::VMinS,
    };
    op2(t, code, lane, a, b)
}

/// Double-width lanes saturated to `w`'s: signed or unsigned, to signed or unsigned.
pub(super) fn narrowed(
    t: &mut Ctx<'_>,
    w: &Word,
    lane: Lane,
    (from_u, to_u): (bool, bool),
    n: Val,
) {
    let (wide, bits) = (wider(lane), lane.bits());
    let most = if to_u { (1u64 << bits) - 1 } else { (1 << (bits - 1)) - 1 };
    let high = every(t, wide, most);
    let mut v = bound(t, wide, from_u, false, n, high);
    if !from_u {
        let least = if to_u { 0 } else { (1u64 << (bits - 1)).wrapping_neg() };
        let low = every(t, wide, least);
        v = bound(t, wide, false, true, v, low);
    }
    let same = op2(t, Opcode::VCmpEq, wide, v, n);
    let changed = not(t, same);
    note(t, 1, changed);
    narrow(t, w, lane, v);
}

/// Lanes shifted right by 1 to all their bits, rounded to nearest.
fn rounded(t: &mut Ctx<'_>, lane: Lane, unsigned: bool, n: u32, v: Val) -> Val {
    let code = if unsigned { Opcode::VShr } else { Opcode::VSar };
    let half = shift(t, code, lane, n - 1, v);
    let one = every(t, lane, 1);
    let half = op2(t, Opcode::VAnd, lane, half, one);
    let whole = t.b.vector_imm(code, lane, n, v);
    op2(t, Opcode::VAdd, lane, whole, half)
}

/// Shifts by immediate that round or saturate; `right` counts for the lane of the instruction.
pub(super) fn shifts(t: &mut Ctx<'_>, w: &Word, op: u32, lane: Lane, right: u32, n: Val) -> bool {
    match (op, w.u) {
        (4 | 6, u) => {
            let v = rounded(t, lane, u, right, n);
            let v = if op == 6 {
                let d = t.v(w.rd);
                op2(t, Opcode::VAdd, lane, d, v)
            } else {
                v
            };
            put(t, w.rd, w.q, v);
        }
        (17, false) => {
            let v = rounded(t, wider(lane), true, right, n);
            narrow(t, w, lane, v);
        }
        (16..=19, u) => {
            let unsigned = u && op >= 18;
            let wide = wider(lane);
            let v = if op & 1 != 0 {
                rounded(t, wide, unsigned, right, n)
            } else {
                let code = if unsigned { Opcode::VShr } else { Opcode::VSar };
                shift(t, code, wide, right, n)
            };
            narrowed(t, w, lane, (unsigned, u), v);
        }
        _ => return false,
    }
    true
}
