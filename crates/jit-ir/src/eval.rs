//! Values of pure ops: the one definition that constant folding and the interpreter use.

use crate::aes;
use crate::op::{Cond, Lane, Op, Opcode, RmwKind, Ty};

/// Keeps the low 32 bits of an I32 value.
#[must_use]
pub fn narrow(ty: Ty, v: u64) -> u64 {
    if ty == Ty::I32 { v & 0xffff_ffff } else { v }
}

fn width(ty: Ty) -> u32 {
    if ty == Ty::I32 { 32 } else { 64 }
}

fn sext(ty: Ty, v: u64) -> i64 {
    if ty == Ty::I32 { i64::from(v as u32 as i32) } else { v as i64 }
}

fn low_mask(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// N Z C V (bits 3..0) of x + y + carry at this width.
#[must_use]
pub fn add_flags(ty: Ty, x: u64, y: u64, carry: bool) -> u32 {
    let (x, y) = (narrow(ty, x), narrow(ty, y));
    let wide = u128::from(x) + u128::from(y) + u128::from(carry);
    let r = narrow(ty, wide as u64);
    let top = width(ty) - 1;
    let n = r >> top & 1;
    let c = (wide >> width(ty)) as u64 & 1;
    let v = ((x ^ r) & (y ^ r)) >> top & 1;
    (n << 3 | u64::from(r == 0) << 2 | c << 1 | v) as u32
}

/// N Z of r, C = V = 0.
#[must_use]
pub fn logic_flags(ty: Ty, r: u64) -> u32 {
    let r = narrow(ty, r);
    ((r >> (width(ty) - 1) & 1) << 3 | u64::from(r == 0) << 2) as u32
}

/// Flags of a defining op of [`Opcode::FlagsOf`]; `c` is the incoming N Z C V.
#[must_use]
pub fn flags_of(def: &Op, a: u64, b: u64, c: u32) -> u32 {
    match def.code {
        Opcode::Add => add_flags(def.ty, a, b, false),
        Opcode::Sub => add_flags(def.ty, a, !b, true),
        Opcode::AddC => add_flags(def.ty, a, b, c & 2 != 0),
        _ => logic_flags(def.ty, a & b),
    }
}

/// Integer compare by the flags of a - b.
#[must_use]
pub fn compare(ty: Ty, cond: Cond, a: u64, b: u64) -> bool {
    cond.holds(add_flags(ty, a, !b, true))
}

/// Flags of a [`Opcode::Ccmp`].
#[must_use]
pub fn ccmp(op: &Op, a: u64, b: u64, nzcv: u32) -> u32 {
    let ty = if op.aux >> 9 & 1 != 0 { Ty::I64 } else { Ty::I32 };
    if !op.cond().holds(nzcv) {
        return u32::from(op.aux >> 4) & 15;
    }
    if op.aux >> 8 & 1 != 0 { add_flags(ty, a, b, false) } else { add_flags(ty, a, !b, true) }
}

/// One step of a read-modify-write on `bytes` bytes.
#[must_use]
pub fn rmw(kind: RmwKind, bytes: u32, old: u64, b: u64) -> u64 {
    let bits = bytes * 8;
    let sx = |v: u64| (v << (64 - bits)) as i64;
    let (old, b) = (old & low_mask(bits), b & low_mask(bits));
    let r = match kind {
        RmwKind::Add => old.wrapping_add(b),
        RmwKind::Clr => old & !b,
        RmwKind::Xor => old ^ b,
        RmwKind::Or => old | b,
        RmwKind::SMax => {
            if sx(old) >= sx(b) {
                old
            } else {
                b
            }
        }
        RmwKind::SMin => {
            if sx(old) <= sx(b) {
                old
            } else {
                b
            }
        }
        RmwKind::UMax => old.max(b),
        RmwKind::UMin => old.min(b),
        RmwKind::Swap => b,
    };
    r & low_mask(bits)
}

fn field(aux: u16) -> (u32, u32) {
    (u32::from(aux & 0xff).min(63), u32::from(aux >> 8).clamp(1, 64))
}

fn shifts(code: Opcode, ty: Ty, a: u64, b: u64) -> u64 {
    let w = width(ty);
    let n = (b % u64::from(w)) as u32;
    match code {
        Opcode::Shl => a << n,
        Opcode::Shr => a >> n,
        Opcode::Sar => (sext(ty, a) >> n) as u64,
        _ if w == 32 => u64::from((a as u32).rotate_right(n)),
        _ => a.rotate_right(n),
    }
}

fn divide(code: Opcode, ty: Ty, a: u64, b: u64) -> u64 {
    if b == 0 {
        0
    } else if code == Opcode::DivU {
        a / b
    } else {
        sext(ty, a).wrapping_div(sext(ty, b)) as u64
    }
}

fn reverse_groups(ty: Ty, a: u64, log2: u16) -> u64 {
    let whole = a.swap_bytes();
    match (log2, ty) {
        (1, _) => (a & 0x00ff_00ff_00ff_00ff) << 8 | a >> 8 & 0x00ff_00ff_00ff_00ff,
        (2, Ty::I64) => whole.rotate_left(32),
        (_, Ty::I32) => u64::from((a as u32).swap_bytes()),
        _ => whole,
    }
}

/// Value of a pure integer op, or `None` if it is not one.
#[must_use]
pub fn integer(op: &Op, a: u64, b: u64) -> Option<u64> {
    let ty = op.ty;
    let (a, b) = (narrow(ty, a), narrow(ty, b));
    let w = width(ty);
    let r = match op.code {
        Opcode::Const => op.imm as u64,
        Opcode::Add => a.wrapping_add(b),
        Opcode::Sub => a.wrapping_sub(b),
        Opcode::And => a & b,
        Opcode::Or => a | b,
        Opcode::Xor => a ^ b,
        Opcode::AndNot => a & !b,
        Opcode::Not => !a,
        Opcode::Mul => a.wrapping_mul(b),
        Opcode::MulHiU => ((u128::from(a) * u128::from(b)) >> 64) as u64,
        Opcode::MulHiS => ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64,
        Opcode::DivU | Opcode::DivS => divide(op.code, ty, a, b),
        Opcode::Shl | Opcode::Shr | Opcode::Sar | Opcode::Ror => shifts(op.code, ty, a, b),
        Opcode::Extr => {
            let n = u32::from(op.aux) % w;
            if n == 0 { b } else { b >> n | a << (w - n) }
        }
        Opcode::Ubfx => {
            let (lsb, n) = field(op.aux);
            a >> lsb & low_mask(n)
        }
        Opcode::Sbfx => {
            let (lsb, n) = field(op.aux);
            ((a >> lsb << (64 - n)) as i64 >> (64 - n)) as u64
        }
        Opcode::Bfi => {
            let (lsb, n) = field(op.aux);
            let m = low_mask(n) << lsb;
            a & !m | b << lsb & m
        }
        Opcode::Clz => {
            u64::from(if w == 32 { (a as u32).leading_zeros() } else { a.leading_zeros() })
        }
        Opcode::Rbit if w == 32 => u64::from((a as u32).reverse_bits()),
        Opcode::Rbit => a.reverse_bits(),
        Opcode::Rev => reverse_groups(ty, a, op.aux),
        _ => return None,
    };
    Some(narrow(ty, r))
}

/// Value of a width conversion, or `None` if `op` is not one.
#[must_use]
pub fn convert(op: &Op, a: u64) -> Option<u64> {
    Some(match op.code {
        Opcode::Zext32 | Opcode::Trunc => a & 0xffff_ffff,
        Opcode::Sext32 => i64::from(a as u32 as i32) as u64,
        _ => return None,
    })
}

fn lanes(lane: Lane, a: u128, b: u128, f: impl Fn(u64, u64) -> u64) -> u128 {
    let bits = lane.bits();
    let mask = low_mask(bits);
    (0..128 / bits).fold(0, |acc, i| {
        let at = i * bits;
        let r = f((a >> at) as u64 & mask, (b >> at) as u64 & mask) & mask;
        acc | u128::from(r) << at
    })
}

/// Value of a pure vector op on vectors.
#[must_use]
pub fn vector(op: &Op, a: u128, b: u128) -> Option<u128> {
    let lane = op.lane();
    Some(match op.code {
        Opcode::VAnd => a & b,
        Opcode::VOr => a | b,
        Opcode::VXor => a ^ b,
        Opcode::VAndNot => a & !b,
        Opcode::VAdd => lanes(lane, a, b, u64::wrapping_add),
        Opcode::VSub => lanes(lane, a, b, u64::wrapping_sub),
        Opcode::VCmpEq => lanes(lane, a, b, |x, y| if x == y { u64::MAX } else { 0 }),
        Opcode::VMinU => lanes(lane, a, b, u64::min),
        Opcode::VMaxU => lanes(lane, a, b, u64::max),
        Opcode::VLow64 => a & u128::from(u64::MAX),
        Opcode::VMulU32 => lanes(Lane::D, a, b, |x, y| low32(x) * low32(y)),
        Opcode::VMulS32 => {
            lanes(Lane::D, a, b, |x, y| (sext(Ty::I32, x) * sext(Ty::I32, y)) as u64)
        }
        Opcode::VShuffle | Opcode::VExt => bytes(op, a, b),
        Opcode::VAesEnc => aes::encrypt(a),
        Opcode::VAesDec => aes::decrypt(a),
        Opcode::VAesMix => aes::mix(a),
        Opcode::VAesUnmix => aes::unmix(a),
        Opcode::VAesRound => aes::mix(aes::encrypt(a)),
        Opcode::VAesUnround => aes::unmix(aes::decrypt(a)),
        Opcode::VClMul => {
            let by = 64 * (op.aux & 1);
            aes::carryless((a >> by) as u64, (b >> by) as u64)
        }
        _ => return signed_vector(op, a, b).or_else(|| moved(op, a, b)),
    })
}

fn low32(v: u64) -> u64 {
    v & 0xffff_ffff
}

fn signed(lane: Lane, v: u64) -> i64 {
    let by = 64 - lane.bits();
    (v << by) as i64 >> by
}

/// Lane-wise ops that know signs, and shifts.
fn signed_vector(op: &Op, a: u128, b: u128) -> Option<u128> {
    let (lane, n) = (op.lane(), op.vector_imm());
    let s = |v| signed(lane, v);
    let fits = n < lane.bits();
    Some(match op.code {
        Opcode::VCmpGt => lanes(lane, a, b, |x, y| if s(x) > s(y) { u64::MAX } else { 0 }),
        Opcode::VMinS => lanes(lane, a, b, |x, y| s(x).min(s(y)) as u64),
        Opcode::VMaxS => lanes(lane, a, b, |x, y| s(x).max(s(y)) as u64),
        Opcode::VMul => lanes(lane, a, b, u64::wrapping_mul),
        Opcode::VShl => lanes(lane, a, 0, |x, _| if fits { x << n } else { 0 }),
        Opcode::VShr => lanes(lane, a, 0, |x, _| if fits { x >> n } else { 0 }),
        Opcode::VSar => lanes(lane, a, 0, |x, _| (s(x) >> n.min(63)) as u64),
        _ => return None,
    })
}

/// Shuffles by bytes.
fn bytes(op: &Op, a: u128, b: u128) -> u128 {
    let (x, y) = (a.to_le_bytes(), b.to_le_bytes());
    u128::from_le_bytes(std::array::from_fn(|i| {
        if op.code == Opcode::VExt {
            let at = i + usize::from(op.aux & 15);
            if at < 16 { x[at] } else { y[at - 16] }
        } else if y[i] & 0x80 != 0 {
            0
        } else {
            x[usize::from(y[i] & 15)]
        }
    }))
}

/// Ops that move lanes.
fn moved(op: &Op, a: u128, b: u128) -> Option<u128> {
    let lane = op.lane();
    let (bits, half) = (lane.bits(), 64 / lane.bits());
    let get = |v: u128, i: u32| (v >> (bits * (i % (2 * half)))) as u64 & low_mask(bits);
    let build = |wide: u32, f: &dyn Fn(u32) -> u64| {
        (0..128 / wide).fold(0, |v, i| v | u128::from(f(i) & low_mask(wide)) << (wide * i))
    };
    let pick = |i: u32, first: u32| get(if i & 1 == 0 { a } else { b }, first + i / 2);
    let split = |i: u32, odd: u32| get(if i < half { a } else { b }, 2 * (i % half) + odd);
    let wide = (2 * bits).min(64);
    Some(match op.code {
        Opcode::VZipLo => build(bits, &|i| pick(i, 0)),
        Opcode::VZipHi => build(bits, &|i| pick(i, half)),
        Opcode::VEven => build(bits, &|i| split(i, 0)),
        Opcode::VOdd => build(bits, &|i| split(i, 1)),
        Opcode::VSxt => build(wide, &|i| signed(lane, get(a, i)) as u64),
        Opcode::VUxt => build(wide, &|i| get(a, i)),
        Opcode::VLane => u128::from(get(a, op.vector_imm())),
        Opcode::VSetLane => {
            let at = bits * (op.vector_imm() % (2 * half));
            a & !(u128::from(low_mask(bits)) << at) | (b & u128::from(low_mask(bits))) << at
        }
        Opcode::VDupLane => build(bits, &|_| get(a, op.vector_imm())),
        _ => return None,
    })
}

/// The low bits of `a` in every lane.
#[must_use]
pub fn dup(lane: Lane, a: u64) -> u128 {
    lanes(lane, 0, 0, |_, _| a)
}
