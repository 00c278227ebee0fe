//! Integer vector instructions as IR.
//!
//! Every function gets an allocated word and says whether it emitted it. What is missing here (saturating
//! and rounding forms, shifts by register, multi-register tables) goes to the executor.
//! Source: Arm ARM (DDI 0487) C7.2.

use jit_ir::{Lane, Opcode, Val};

use super::inline::{put, put64};
use crate::translate::Ctx;

/// Register fields, Q, U and size of a vector word.
struct Word {
    q: u32,
    u: bool,
    size: u32,
    rd: u32,
    rn: u32,
    rm: u32,
}

impl Word {
    fn new(w: u32) -> Self {
        let (rd, rn, rm) = (w & 31, w >> 5 & 31, w >> 16 & 31);
        Self { q: w >> 30 & 1, u: w >> 29 & 1 != 0, size: w >> 22 & 3, rd, rn, rm }
    }

    fn lane(&self) -> Lane {
        Lane::ALL[self.size as usize & 3]
    }
}

/// The lane of twice the width.
fn wider(lane: Lane) -> Lane {
    Lane::ALL[(lane as usize + 1).min(3)]
}

fn op2(t: &mut Ctx<'_>, code: Opcode, lane: Lane, a: Val, b: Val) -> Val {
    t.b.vector(code, lane, a, b)
}

fn op1(t: &mut Ctx<'_>, code: Opcode, lane: Lane, a: Val) -> Val {
    t.b.vector(code, lane, a, Val::NONE)
}

fn shift(t: &mut Ctx<'_>, code: Opcode, lane: Lane, n: u32, a: Val) -> Val {
    if n == 0 { a } else { t.b.vector_imm(code, lane, n, a) }
}

fn zero(t: &mut Ctx<'_>) -> Val {
    let z = t.b.c64(0);
    t.b.v_from64(z, z)
}

fn not(t: &mut Ctx<'_>, a: Val) -> Val {
    let ones = op2(t, Opcode::VCmpEq, Lane::S, a, a);
    op2(t, Opcode::VXor, Lane::B, a, ones)
}

/// m & a | !m & b.
fn blend(t: &mut Ctx<'_>, m: Val, a: Val, b: Val) -> Val {
    let x = op2(t, Opcode::VAnd, Lane::B, a, m);
    let y = op2(t, Opcode::VAndNot, Lane::B, b, m);
    op2(t, Opcode::VOr, Lane::B, x, y)
}

/// a > b.
fn greater(t: &mut Ctx<'_>, lane: Lane, unsigned: bool, a: Val, b: Val) -> Val {
    if !unsigned {
        return op2(t, Opcode::VCmpGt, lane, a, b);
    }
    if lane == Lane::D {
        let top = t.b.c64(1 << 63);
        let top = t.b.v_dup(Lane::D, top);
        let a = op2(t, Opcode::VXor, lane, a, top);
        let b = op2(t, Opcode::VXor, lane, b, top);
        return op2(t, Opcode::VCmpGt, lane, a, b);
    }
    let least = op2(t, Opcode::VMinU, lane, a, b);
    let le = op2(t, Opcode::VCmpEq, lane, least, a);
    not(t, le)
}

/// a >= b.
fn at_least(t: &mut Ctx<'_>, lane: Lane, unsigned: bool, a: Val, b: Val) -> Val {
    if unsigned && lane != Lane::D {
        let most = op2(t, Opcode::VMaxU, lane, a, b);
        return op2(t, Opcode::VCmpEq, lane, most, a);
    }
    let less = greater(t, lane, unsigned, b, a);
    not(t, less)
}

/// Low half of the lane-wise product; not 64-bit lanes.
fn multiply(t: &mut Ctx<'_>, lane: Lane, a: Val, b: Val) -> Val {
    if lane != Lane::B {
        return op2(t, Opcode::VMul, lane, a, b);
    }
    let even = op2(t, Opcode::VMul, Lane::H, a, b);
    let (x, y) = (shift(t, Opcode::VShr, Lane::H, 8, a), shift(t, Opcode::VShr, Lane::H, 8, b));
    let odd = op2(t, Opcode::VMul, Lane::H, x, y);
    let even = shift(t, Opcode::VShl, Lane::H, 8, even);
    let even = shift(t, Opcode::VShr, Lane::H, 8, even);
    let odd = shift(t, Opcode::VShl, Lane::H, 8, odd);
    op2(t, Opcode::VOr, Lane::H, even, odd)
}

/// |a - b|, 8 to 32 bits.
fn distance(t: &mut Ctx<'_>, lane: Lane, unsigned: bool, a: Val, b: Val) -> Val {
    let (max, min) = min_max(unsigned);
    let (x, y) = (op2(t, max, lane, a, b), op2(t, min, lane, a, b));
    op2(t, Opcode::VSub, lane, x, y)
}

fn min_max(unsigned: bool) -> (Opcode, Opcode) {
    if unsigned { (Opcode::VMaxU, Opcode::VMinU) } else { (Opcode::VMaxS, Opcode::VMinS) }
}

/// Even and odd lanes of the concatenation of two operands of the instruction's width.
pub(super) fn halves(t: &mut Ctx<'_>, lane: Lane, q: u32, n: Val, m: Val) -> (Val, Val) {
    let (n, m) = if q != 0 {
        (n, m)
    } else {
        let both = op2(t, Opcode::VZipLo, Lane::D, n, m);
        (both, both)
    };
    (op2(t, Opcode::VEven, lane, n, m), op2(t, Opcode::VOdd, lane, n, m))
}

/// Emits IR for an allocated word; false = not one of these.
pub(super) fn translate(word: u32, t: &mut Ctx<'_>) -> bool {
    let w = Word::new(word);
    if word >> 31 != 0 || word >> 25 & 7 != 7 || word >> 28 & 1 != 0 {
        return false;
    }
    match (word >> 24 & 1, word >> 21 & 1, word >> 10 & 3) {
        (0, 1, 1 | 3) => three_same(&w, word >> 11 & 31, t),
        (0, 1, 2) if word >> 17 & 15 == 0 => two(&w, word >> 12 & 31, t),
        (0, 1, 2) if word >> 17 & 15 == 8 => across(&w, word >> 12 & 31, t),
        (0, 1, 2) if word & 0xffff_cc00 == 0x4e28_4800 => aes(&w, word >> 12 & 3, t),
        (0, 1, 0) if word >> 12 & 15 == 14 => polynomial(&w, t),
        (0, 1, 0) => long(&w, word >> 12 & 15, t),
        (0, 0, _) => moves(word, &w, t),
        (1, _, 1 | 3) if word >> 23 & 1 == 0 && word >> 19 & 15 != 0 => shifts(word, &w, t),
        (1, _, 0 | 2) => element(word, &w, t),
        _ => false,
    }
}

fn three_same(w: &Word, op: u32, t: &mut Ctx<'_>) -> bool {
    let lane = w.lane();
    let (n, m) = (t.v(w.rn), t.v(w.rm));
    let (max, min) = min_max(w.u);
    let v = match op {
        3 => return logic(w, n, m, t),
        0 | 2 | 4 => halving(t, w, op, n, m),
        6 => greater(t, lane, w.u, n, m),
        7 => at_least(t, lane, w.u, n, m),
        12 => op2(t, max, lane, n, m),
        13 => op2(t, min, lane, n, m),
        14 => distance(t, lane, w.u, n, m),
        15 => {
            let x = distance(t, lane, w.u, n, m);
            let d = t.v(w.rd);
            op2(t, Opcode::VAdd, lane, d, x)
        }
        17 if !w.u => {
            let both = op2(t, Opcode::VAnd, lane, n, m);
            let z = zero(t);
            let none = op2(t, Opcode::VCmpEq, lane, both, z);
            not(t, none)
        }
        18 => {
            let p = multiply(t, lane, n, m);
            let d = t.v(w.rd);
            op2(t, if w.u { Opcode::VSub } else { Opcode::VAdd }, lane, d, p)
        }
        19 if !w.u => multiply(t, lane, n, m),
        20 | 21 | 23 => {
            let code = match op {
                20 => max,
                21 => min,
                _ => Opcode::VAdd,
            };
            let (even, odd) = halves(t, lane, w.q, n, m);
            op2(t, code, lane, even, odd)
        }
        _ => return false,
    };
    put(t, w.rd, w.q, v);
    true
}

/// SHADD, UHADD, SRHADD, URHADD, SHSUB, UHSUB, from sum = 2 * (n & m) + (n ^ m) and its like.
fn halving(t: &mut Ctx<'_>, w: &Word, op: u32, n: Val, m: Val) -> Val {
    let lane = w.lane();
    let differ = op2(t, Opcode::VXor, lane, n, m);
    let half = shift(t, if w.u { Opcode::VShr } else { Opcode::VSar }, lane, 1, differ);
    match op {
        0 => {
            let both = op2(t, Opcode::VAnd, lane, n, m);
            op2(t, Opcode::VAdd, lane, both, half)
        }
        2 => {
            let either = op2(t, Opcode::VOr, lane, n, m);
            op2(t, Opcode::VSub, lane, either, half)
        }
        _ => {
            // n - m = (n ^ m) - 2 * (!n & m)
            let only = op2(t, Opcode::VAndNot, lane, m, n);
            op2(t, Opcode::VSub, lane, half, only)
        }
    }
}

fn logic(w: &Word, n: Val, m: Val, t: &mut Ctx<'_>) -> bool {
    let v = match (w.u, w.size) {
        (false, 3) => {
            let m = not(t, m);
            op2(t, Opcode::VOr, Lane::B, n, m)
        }
        (true, 1..=3) => {
            let d = t.v(w.rd);
            match w.size {
                1 => blend(t, d, n, m),
                2 => blend(t, m, n, d),
                _ => blend(t, m, d, n),
            }
        }
        _ => return false,
    };
    put(t, w.rd, w.q, v);
    true
}

fn two(w: &Word, op: u32, t: &mut Ctx<'_>) -> bool {
    let lane = w.lane();
    let n = t.v(w.rn);
    let v = match (op, w.u) {
        (0 | 1, _) => reverse(t, lane, if op == 1 { 16 } else { 64 >> u32::from(w.u) }, n),
        (2 | 6, _) => {
            let v = pair_sums(t, lane, w.u, n);
            if op == 2 {
                v
            } else {
                let d = t.v(w.rd);
                op2(t, Opcode::VAdd, wider(lane), d, v)
            }
        }
        (5, false) => count(t, n),
        (5, true) if w.size == 0 => not(t, n),
        (8..=10, _) => {
            let z = zero(t);
            match (op, w.u) {
                (8, false) => greater(t, lane, false, n, z),
                (8, true) => at_least(t, lane, false, n, z),
                (9, false) => op2(t, Opcode::VCmpEq, lane, n, z),
                (9, true) => at_least(t, lane, false, z, n),
                _ => greater(t, lane, false, z, n),
            }
        }
        (11, true) => {
            let z = zero(t);
            op2(t, Opcode::VSub, lane, z, n)
        }
        (11, false) => {
            let sign = shift(t, Opcode::VSar, lane, lane.bits(), n);
            let v = op2(t, Opcode::VXor, lane, n, sign);
            op2(t, Opcode::VSub, lane, v, sign)
        }
        (18, false) => {
            narrow(t, w, lane, n);
            return true;
        }
        (19, true) => {
            let v = widen(t, lane, w.q, true, n);
            let v = shift(t, Opcode::VShl, wider(lane), lane.bits(), v);
            t.set_v(w.rd, v);
            return true;
        }
        _ => return false,
    };
    put(t, w.rd, w.q, v);
    true
}

/// Lanes in reverse order within groups of bits.
fn reverse(t: &mut Ctx<'_>, lane: Lane, group: u32, n: Val) -> Val {
    let bytes = lane.bits() / 8;
    let last = group / lane.bits() - 1;
    let table = |from: u32| {
        (0..8).fold(0, |v, i| {
            let i = i + from;
            let source = ((i / bytes) ^ last) * bytes + i % bytes;
            v | u64::from(source) << (8 * (i - from))
        })
    };
    shuffle(t, n, table(0), table(8))
}

fn shuffle(t: &mut Ctx<'_>, n: Val, low: u64, high: u64) -> Val {
    let (low, high) = (t.b.c64(low), t.b.c64(high));
    let table = t.b.v_from64(low, high);
    op2(t, Opcode::VShuffle, Lane::B, n, table)
}

/// Bits set per byte: two look-ups of four bits.
fn count(t: &mut Ctx<'_>, n: Val) -> Val {
    let (low, high) = (t.b.c64(0x0302_0201_0201_0100), t.b.c64(0x0403_0302_0302_0201));
    let table = t.b.v_from64(low, high);
    let mask = t.b.c64(0x0f0f_0f0f_0f0f_0f0f);
    let mask = t.b.v_dup(Lane::D, mask);
    let upper = shift(t, Opcode::VShr, Lane::H, 4, n);
    let (x, y) =
        (op2(t, Opcode::VAnd, Lane::B, n, mask), op2(t, Opcode::VAnd, Lane::B, upper, mask));
    let x = op2(t, Opcode::VShuffle, Lane::B, table, x);
    let y = op2(t, Opcode::VShuffle, Lane::B, table, y);
    op2(t, Opcode::VAdd, Lane::B, x, y)
}

/// Sums of adjacent lanes in lanes of twice the width.
fn pair_sums(t: &mut Ctx<'_>, lane: Lane, unsigned: bool, n: Val) -> Val {
    let (wide, bits) = (wider(lane), lane.bits());
    let code = if unsigned { Opcode::VShr } else { Opcode::VSar };
    let even = shift(t, Opcode::VShl, wide, bits, n);
    let even = shift(t, code, wide, bits, even);
    let odd = shift(t, code, wide, bits, n);
    op2(t, Opcode::VAdd, wide, even, odd)
}

/// Writes the low halves of double-width lanes to the lower or (Q) upper half of Vd.
fn narrow(t: &mut Ctx<'_>, w: &Word, lane: Lane, wide: Val) {
    let v = op2(t, Opcode::VEven, lane, wide, wide);
    if w.q == 0 {
        return put(t, w.rd, 0, v);
    }
    let d = t.v(w.rd);
    let v = op2(t, Opcode::VZipLo, Lane::D, d, v);
    t.set_v(w.rd, v);
}

/// The lower or (`upper`) upper half of the lanes, extended.
fn widen(t: &mut Ctx<'_>, lane: Lane, upper: u32, unsigned: bool, n: Val) -> Val {
    let n = if upper != 0 { t.b.v_ext(n, n, 8) } else { n };
    op1(t, if unsigned { Opcode::VUxt } else { Opcode::VSxt }, lane, n)
}

fn across(w: &Word, op: u32, t: &mut Ctx<'_>) -> bool {
    let n = t.v(w.rn);
    let (max, min) = min_max(w.u);
    let (code, lane, n) = match (op, w.u) {
        (3, _) => (Opcode::VAdd, wider(w.lane()), pair_sums(t, w.lane(), w.u, n)),
        (10, _) => (max, w.lane(), n),
        (26, _) => (min, w.lane(), n),
        (27, false) => (Opcode::VAdd, w.lane(), n),
        _ => return false,
    };
    let mut v = n;
    let mut by = if w.q != 0 { 8 } else { 4 };
    while by * 8 >= lane.bits() {
        let other = t.b.v_ext(v, v, by);
        v = op2(t, code, lane, v, other);
        by /= 2;
    }
    let r = t.b.v_get64(v, 0);
    let r = if lane == Lane::D { r } else { t.b.ubfx(r, 0, lane.bits()) };
    put64(t, w.rd, r);
    true
}

/// Operations on widened operands, and ADDHN, SUBHN.
fn long(w: &Word, op: u32, t: &mut Ctx<'_>) -> bool {
    if w.size == 3 {
        return false;
    }
    let (lane, wide) = (w.lane(), wider(w.lane()));
    let (n, m) = (t.v(w.rn), t.v(w.rm));
    if matches!(op, 4 | 6) {
        if w.u {
            return false;
        }
        let v = op2(t, if op == 4 { Opcode::VAdd } else { Opcode::VSub }, wide, n, m);
        let v = shift(t, Opcode::VShr, wide, lane.bits(), v);
        narrow(t, w, lane, v);
        return true;
    }
    let m = widen(t, lane, w.q, w.u, m);
    let n = if matches!(op, 1 | 3) { n } else { widen(t, lane, w.q, w.u, n) };
    let v = match op {
        0 | 1 => op2(t, Opcode::VAdd, wide, n, m),
        2 | 3 => op2(t, Opcode::VSub, wide, n, m),
        5 | 7 => {
            // The difference of extended lanes has its sign in the wider lane.
            let x = op2(t, Opcode::VSub, wide, n, m);
            let sign = shift(t, Opcode::VSar, wide, wide.bits(), x);
            let x = op2(t, Opcode::VXor, wide, x, sign);
            op2(t, Opcode::VSub, wide, x, sign)
        }
        8 | 10 | 12 => product(t, lane, w.u, n, m),
        _ => return false,
    };
    accumulate(t, w.rd, wide, matches!(op, 5 | 8), op == 10, v);
    true
}

/// AESE, AESD, AESMC, AESIMC on hosts that can.
fn aes(w: &Word, op: u32, t: &mut Ctx<'_>) -> bool {
    if !host::cpu::Features::probe().aes {
        return false;
    }
    let n = t.v(w.rn);
    let (code, n) = match op {
        0 | 1 => {
            let d = t.v(w.rd);
            let x = op2(t, Opcode::VXor, Lane::B, d, n);
            (if op == 0 { Opcode::VAesEnc } else { Opcode::VAesDec }, x)
        }
        2 => (Opcode::VAesMix, n),
        _ => (Opcode::VAesUnmix, n),
    };
    let v = op1(t, code, Lane::B, n);
    t.set_v(w.rd, v);
    true
}

/// PMULL of 64-bit numbers on hosts that can.
fn polynomial(w: &Word, t: &mut Ctx<'_>) -> bool {
    if w.size != 3 || !host::cpu::Features::probe().pclmulqdq {
        return false;
    }
    let (n, m) = (t.v(w.rn), t.v(w.rm));
    let v = t.b.v_clmul(n, m, w.q);
    t.set_v(w.rd, v);
    true
}

/// The product of extended lanes; `lane` is the narrow one.
fn product(t: &mut Ctx<'_>, lane: Lane, unsigned: bool, n: Val, m: Val) -> Val {
    let code = match (lane, unsigned) {
        (Lane::S, true) => Opcode::VMulU32,
        (Lane::S, false) => Opcode::VMulS32,
        _ => Opcode::VMul,
    };
    op2(t, code, wider(lane), n, m)
}

fn accumulate(t: &mut Ctx<'_>, rd: u32, lane: Lane, add: bool, sub: bool, v: Val) {
    let v = if add || sub {
        let d = t.v(rd);
        op2(t, if sub { Opcode::VSub } else { Opcode::VAdd }, lane, d, v)
    } else {
        v
    };
    t.set_v(rd, v);
}

fn moves(word: u32, w: &Word, t: &mut Ctx<'_>) -> bool {
    let imm = word >> 11 & 15;
    if word & 0xbfe0_8400 == 0x2e00_0000 {
        // EXT
        let (n, m) = (t.v(w.rn), t.v(w.rm));
        let v = if w.q != 0 {
            t.b.v_ext(n, m, imm)
        } else {
            let both = op2(t, Opcode::VZipLo, Lane::D, n, m);
            t.b.v_ext(both, both, imm)
        };
        put(t, w.rd, w.q, v);
        return true;
    }
    if word & 0xbf20_8c00 == 0x0e00_0800 {
        return permute(word >> 12 & 7, w, t);
    }
    match word & 0xbfe0_fc00 {
        0x0e00_0400 => {
            // DUP (element)
            let size = w.rm.trailing_zeros().min(3);
            let n = t.v(w.rn);
            let v =
                t.b.vector_imm(Opcode::VDupLane, Lane::ALL[size as usize], w.rm >> (size + 1), n);
            put(t, w.rd, w.q, v);
            true
        }
        0x0e00_0000 => {
            // TBL with one register: numbers above 15 give zero.
            let (n, m) = (t.v(w.rn), t.v(w.rm));
            let limit = t.b.c64(0x1010_1010_1010_1010);
            let limit = t.b.v_dup(Lane::D, limit);
            let above = at_least(t, Lane::B, true, m, limit);
            let at = op2(t, Opcode::VOr, Lane::B, m, above);
            let v = op2(t, Opcode::VShuffle, Lane::B, n, at);
            put(t, w.rd, w.q, v);
            true
        }
        _ => false,
    }
}

fn permute(op: u32, w: &Word, t: &mut Ctx<'_>) -> bool {
    let lane = w.lane();
    let (n, m) = (t.v(w.rn), t.v(w.rm));
    let v = match op {
        1 | 5 => {
            let (even, odd) = halves(t, lane, w.q, n, m);
            if op == 1 { even } else { odd }
        }
        3 => op2(t, Opcode::VZipLo, lane, n, m),
        7 if w.q != 0 => op2(t, Opcode::VZipHi, lane, n, m),
        7 => {
            let v = op2(t, Opcode::VZipLo, lane, n, m);
            t.b.v_ext(v, v, 8)
        }
        2 if lane == Lane::D => op2(t, Opcode::VZipLo, lane, n, m),
        6 if lane == Lane::D => op2(t, Opcode::VZipHi, lane, n, m),
        2 | 6 => {
            let (wide, bits) = (wider(lane), lane.bits());
            let (x, y) = if op == 2 {
                let x = shift(t, Opcode::VShl, wide, bits, n);
                (shift(t, Opcode::VShr, wide, bits, x), m)
            } else {
                let y = shift(t, Opcode::VShr, wide, bits, m);
                (shift(t, Opcode::VShr, wide, bits, n), y)
            };
            let y = shift(t, Opcode::VShl, wide, bits, y);
            op2(t, Opcode::VOr, wide, x, y)
        }
        _ => return false,
    };
    put(t, w.rd, w.q, v);
    true
}

fn shifts(word: u32, w: &Word, t: &mut Ctx<'_>) -> bool {
    let immhb = word >> 16 & 127;
    let size = 31 - (immhb >> 3).leading_zeros();
    let lane = Lane::ALL[size as usize & 3];
    let bits = lane.bits();
    let (right, left) = (2 * bits - immhb, immhb - bits);
    let n = t.v(w.rn);
    let code = if w.u { Opcode::VShr } else { Opcode::VSar };
    let v = match (word >> 11 & 31, w.u) {
        (0, _) => shift(t, code, lane, right, n),
        (2, _) => {
            let v = shift(t, code, lane, right, n);
            let d = t.v(w.rd);
            op2(t, Opcode::VAdd, lane, d, v)
        }
        (8, true) => {
            // SRI: the top `right` bits stay.
            let d = t.v(w.rd);
            let v = shift(t, Opcode::VShr, lane, right, n);
            let kept = shift(t, Opcode::VShr, lane, bits - right, d);
            let kept = shift(t, Opcode::VShl, lane, bits - right, kept);
            op2(t, Opcode::VOr, lane, kept, v)
        }
        (10, false) => shift(t, Opcode::VShl, lane, left, n),
        (10, true) => {
            // SLI: the low `left` bits stay.
            let d = t.v(w.rd);
            let v = shift(t, Opcode::VShl, lane, left, n);
            let kept = t.b.vector_imm(Opcode::VShl, lane, bits - left, d);
            let kept = t.b.vector_imm(Opcode::VShr, lane, bits - left, kept);
            op2(t, Opcode::VOr, lane, kept, v)
        }
        (16, false) => {
            let v = shift(t, Opcode::VShr, wider(lane), right, n);
            narrow(t, w, lane, v);
            return true;
        }
        (20, u) => {
            let v = widen(t, lane, w.q, u, n);
            let v = shift(t, Opcode::VShl, wider(lane), left, v);
            t.set_v(w.rd, v);
            return true;
        }
        _ => return false,
    };
    put(t, w.rd, w.q, v);
    true
}

/// MUL, MLA, MLS and the long multiplications by element.
fn element(word: u32, w: &Word, t: &mut Ctx<'_>) -> bool {
    let (h, l, m) = (word >> 11 & 1, word >> 21 & 1, word >> 20 & 1);
    let (lane, index, reg) = match w.size {
        1 => (Lane::H, h << 2 | l << 1 | m, w.rm & 15),
        2 => (Lane::S, h << 1 | l, w.rm),
        _ => return false,
    };
    let op = word >> 12 & 15;
    let long = matches!((op, w.u), (2 | 6 | 10, _));
    if !long && !matches!((op, w.u), (0 | 4, true) | (8, false)) {
        return false;
    }
    let (n, x) = (t.v(w.rn), t.v(reg));
    let x = t.b.vector_imm(Opcode::VDupLane, lane, index, x);
    if long {
        let n = widen(t, lane, w.q, w.u, n);
        let x = widen(t, lane, 0, w.u, x);
        let v = product(t, lane, w.u, n, x);
        accumulate(t, w.rd, wider(lane), op == 2, op == 6, v);
        return true;
    }
    let p = op2(t, Opcode::VMul, lane, n, x);
    let v = if op == 8 {
        p
    } else {
        let d = t.v(w.rd);
        op2(t, if op == 0 { Opcode::VAdd } else { Opcode::VSub }, lane, d, p)
    };
    put(t, w.rd, w.q, v);
    true
}
