//! Floating point on the host's unit, where that is exact.
//!
//! Each helper knows its operation and format from its type parameters and takes register numbers from
//! the instruction word. It computes with the host's arithmetic and keeps the result only if that is
//! certainly what the guest would get, flags included: FPCR has its default rounding and no flushing, the
//! result is normal (above the smallest normal number, so that no tininess rule matters) or an exact zero,
//! and the operation is exact or FPSR.IXC is set already. Otherwise the generic executor does it.
//! Rust code runs in the default floating-point environment, and `mul_add` is exactly rounded on every
//! host.
//!
//! Not here: which words come here (`fastmap`), half precision, NaNs, denormal results.

use std::ops::{Add, Div, Mul, Neg, Sub};

use jit_ir::HelperCx;
use jit_ir::helper::{FastFp, FpKind};
use softfloat::{F32, F64, Format, Order, Rounding, Status, flag};

use crate::state::{ArmCpu, v_slot};

type Cx<'a, 'b> = &'a mut HelperCx<'b, ArmCpu>;

/// FPCR: RMode, FZ, and the bits of FEAT_AFP.
const CONTROL: u32 = 7 << 22 | 7;

/// A host floating-point type.
pub(crate) trait Real:
    Copy
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    /// The same format in integers.
    const FORMAT: Format;
    /// Products and quotients of at least this magnitude have representable rounding errors.
    const ERROR_FITS: Self;
    const ZERO: Self;
    /// Lane `i` of a register.
    fn lane(v: u128, i: u32) -> Self;
    fn word(self) -> u64;
    /// self * a + b with one rounding.
    fn fused(self, a: Self, b: Self) -> Self;
    fn root(self) -> Self;
    /// Magnitude above the smallest normal number and below infinity.
    fn safe(self) -> bool;
    fn magnitude(self) -> Self;
    fn widen(self) -> f64;
    fn from_f64(v: f64) -> Self;
    fn from_i128(v: i128) -> Self;
    fn is_zero(self) -> bool {
        self == Self::ZERO
    }
    fn is_nan(self) -> bool {
        self.partial_cmp(&self).is_none()
    }
}

macro_rules! real {
    ($t:ty, $bits:ty, $format:expr, $fits:expr) => {
        impl Real for $t {
            const FORMAT: Format = $format;
            const ERROR_FITS: Self = $fits;
            const ZERO: Self = 0.0;
            #[inline]
            fn lane(v: u128, i: u32) -> Self {
                Self::from_bits((v >> (<$bits>::BITS * i)) as $bits)
            }
            #[inline]
            fn word(self) -> u64 {
                u64::from(self.to_bits())
            }
            #[inline]
            fn fused(self, a: Self, b: Self) -> Self {
                self.mul_add(a, b)
            }
            #[inline]
            fn root(self) -> Self {
                self.sqrt()
            }
            #[inline]
            fn safe(self) -> bool {
                self.abs() > Self::MIN_POSITIVE && self.abs() < Self::INFINITY
            }
            #[inline]
            fn magnitude(self) -> Self {
                self.abs()
            }
            #[inline]
            fn widen(self) -> f64 {
                self.into()
            }
            #[inline]
            fn from_f64(v: f64) -> Self {
                v as Self
            }
            #[inline]
            fn from_i128(v: i128) -> Self {
                match i64::try_from(v) {
                    Ok(v) => v as Self,
                    Err(_) => v as u64 as Self,
                }
            }
        }
    };
}
real!(f32, u32, F32, 1e-20);
real!(f64, u64, F64, 1e-250);

/// An operation on two values (one-operand ones ignore the second).
pub(crate) trait Op2 {
    fn run<R: Real>(n: R, m: R) -> R;
    /// The result is right and raises no flag but inexact.
    fn ok<R: Real>(n: R, m: R, r: R) -> bool;
    /// The result is exact (false if in doubt).
    fn exact<R: Real>(n: R, m: R, r: R) -> bool;
}

/// Whether the rounding error of `n + m = r` is zero.
fn sum_exact<R: Real>(n: R, m: R, r: R) -> bool {
    let part = r - n;
    ((n - (r - part)) + (m - part)).is_zero()
}

fn product_exact<R: Real>(n: R, m: R, r: R) -> bool {
    n.is_zero() || m.is_zero() || (r.magnitude() > R::ERROR_FITS && n.fused(m, -r).is_zero())
}

macro_rules! op2 {
    ($(#[$d:meta] $name:ident: |$n:ident, $m:ident, $r:ident| $run:expr, $ok:expr, $exact:expr;)*) => {$(
        #[$d]
        pub(crate) struct $name;
        impl Op2 for $name {
            #[inline]
            fn run<R: Real>($n: R, $m: R) -> R { let _ = $m; $run }
            #[inline]
            fn ok<R: Real>($n: R, $m: R, $r: R) -> bool { let _ = ($n, $m, $r); $ok }
            #[inline]
            fn exact<R: Real>($n: R, $m: R, $r: R) -> bool { let _ = ($n, $m, $r); $exact }
        }
    )*};
}

op2! {
    /// n + m.
    Plus: |n, m, r| n + m, r.safe() | r.is_zero(), sum_exact(n, m, r);
    /// n - m.
    Minus: |n, m, r| n - m, r.safe() | r.is_zero(), sum_exact(n, -m, r);
    /// n * m.
    Times: |n, m, r| n * m, r.safe() | (r.is_zero() & (n.is_zero() | m.is_zero())),
        product_exact(n, m, r);
    /// -(n * m).
    NegTimes: |n, m, r| -(n * m), r.safe() | (r.is_zero() & (n.is_zero() | m.is_zero())),
        product_exact(n, m, -r);
    /// n / m.
    Over: |n, m, r| n / m, r.safe() | (r.is_zero() & n.is_zero()),
        n.is_zero() || (n.magnitude() > R::ERROR_FITS && r.fused(m, -n).is_zero());
    /// Square root of n.
    Root: |n, m, r| n.root(), r.safe() | n.is_zero(),
        n.is_zero() || (n > R::ERROR_FITS && r.fused(r, -n).is_zero());
    /// Maximum.
    Max: |n, m, r| if n > m { n } else { m }, ordered(n, m), true;
    /// Minimum.
    Min: |n, m, r| if n < m { n } else { m }, ordered(n, m), true;
}

/// No NaN and not two zeros, whose signs would matter.
fn ordered<R: Real>(n: R, m: R) -> bool {
    !(n.is_nan() || m.is_nan() || n.is_zero() && m.is_zero())
}

fn field(w: u32, at: u32) -> usize {
    (w >> at & 31) as usize
}

/// The host's arithmetic is the guest's.
fn plain(cpu: &ArmCpu) -> bool {
    cpu.fpcr & CONTROL == 0
}

fn inexact_seen(cpu: &ArmCpu) -> bool {
    cpu.fpsr & flag::IXC != 0
}

#[cold]
fn slow(cx: Cx<'_, '_>, w: u32) -> u64 {
    super::helper(cx, [0, 0, 0, u64::from(w)])
}

/// What a scalar word computes, for back ends.
fn described(w: u32, kind: FpKind) -> Option<FastFp> {
    let slot = |at: u32| v_slot(w >> at & 31);
    let (d, n, m, a) = (slot(0), slot(5), slot(16), slot(10));
    Some(FastFp { kind, double: w >> 22 & 1 != 0, d, n, m, a })
}

/// FADD, FSUB, FMUL, FDIV, FSQRT (scalar).
pub(crate) fn arithmetic(w: u32) -> Option<FastFp> {
    let two = w >> 10 & 3 == 2;
    let kind = match w >> 12 & 15 {
        0 if two => FpKind::Mul,
        1 if two => FpKind::Div,
        2 if two => FpKind::Add,
        3 if two => FpKind::Sub,
        _ if !two && w >> 15 & 63 == 3 => FpKind::Sqrt,
        _ => return None,
    };
    described(w, kind)
}

/// FMADD, FMSUB, FNMADD, FNMSUB.
pub(crate) fn fused_of(w: u32) -> Option<FastFp> {
    let (o1, o0) = (w >> 21 & 1 != 0, w >> 15 & 1 != 0);
    described(w, FpKind::Fused { neg_n: o1 != o0, neg_a: o1 })
}

/// FCMP, FCMPE.
pub(crate) fn comparison(w: u32) -> Option<FastFp> {
    described(w, FpKind::Compare { zero: w >> 3 & 1 != 0 })
}

/// Scalar `rd = op(rn, rm)`.
pub(crate) fn scalar<O: Op2, R: Real>(cx: Cx<'_, '_>, args: [u64; 4]) -> u64 {
    let w = args[3] as u32;
    let cpu = &mut *cx.cpu;
    let (n, m) = (R::lane(cpu.v[field(w, 5)], 0), R::lane(cpu.v[field(w, 16)], 0));
    let r = O::run(n, m);
    if plain(cpu) && O::ok(n, m, r) && (inexact_seen(cpu) || O::exact(n, m, r)) {
        cpu.v[field(w, 0)] = u128::from(r.word());
        return 0;
    }
    slow(cx, w)
}

fn pack<R: Real, const L: usize>(r: [R; L]) -> u128 {
    r.iter().rev().fold(0, |v, x| v << (R::FORMAT.bits() % 128) | u128::from(x.word()))
}

fn unpack<R: Real, const L: usize>(v: u128) -> [R; L] {
    std::array::from_fn(|i| R::lane(v, i as u32))
}

/// `op` on all lanes; `None` if the executor has to do it.
fn lanes<O: Op2, R: Real, const L: usize>(cpu: &ArmCpu, n: [R; L], m: [R; L]) -> Option<u128> {
    let r: [R; L] = std::array::from_fn(|i| O::run(n[i], m[i]));
    let good = (0..L).fold(true, |ok, i| ok & O::ok(n[i], m[i], r[i]));
    let keep =
        plain(cpu) && good && (inexact_seen(cpu) || (0..L).all(|i| O::exact(n[i], m[i], r[i])));
    keep.then(|| pack(r))
}

/// Vector `rd = op(rn, rm)` on `L` lanes.
pub(crate) fn vector<O: Op2, R: Real, const L: usize>(cx: Cx<'_, '_>, args: [u64; 4]) -> u64 {
    let w = args[3] as u32;
    let (n, m) = (unpack(cx.cpu.v[field(w, 5)]), unpack(cx.cpu.v[field(w, 16)]));
    match lanes::<O, R, L>(cx.cpu, n, m) {
        Some(r) => cx.cpu.v[field(w, 0)] = r,
        None => return slow(cx, w),
    }
    0
}

/// The element operand of a by-element instruction.
fn element<R: Real>(cpu: &ArmCpu, w: u32) -> R {
    let (h, l) = (w >> 11 & 1, w >> 21 & 1);
    let i = if R::FORMAT == F32 { h << 1 | l } else { h };
    R::lane(cpu.v[field(w, 16)], i)
}

/// Vector `rd = op(rn, element)`.
pub(crate) fn by_element<O: Op2, R: Real, const L: usize>(cx: Cx<'_, '_>, args: [u64; 4]) -> u64 {
    let w = args[3] as u32;
    let (n, m) = (unpack(cx.cpu.v[field(w, 5)]), [element(cx.cpu, w); L]);
    match lanes::<O, R, L>(cx.cpu, n, m) {
        Some(r) => cx.cpu.v[field(w, 0)] = r,
        None => return slow(cx, w),
    }
    0
}

fn fused_exact<R: Real>(a: R, n: R, m: R, r: R) -> bool {
    let p = n * m;
    product_exact(n, m, p) && sum_exact(a, p, r)
}

fn fused_ok<R: Real>(a: R, n: R, m: R, r: R) -> bool {
    r.safe() || (r.is_zero() && fused_exact(a, n, m, r))
}

/// FMADD, FMSUB, FNMADD, FNMSUB.
pub(crate) fn fused<R: Real>(cx: Cx<'_, '_>, args: [u64; 4]) -> u64 {
    let w = args[3] as u32;
    let cpu = &mut *cx.cpu;
    let get = |at| R::lane(cpu.v[field(w, at)], 0);
    let (mut a, mut n, m) = (get(10), get(5), get(16));
    let (o1, o0) = (w >> 21 & 1, w >> 15 & 1);
    if o1 != 0 {
        a = -a;
    }
    if o1 != o0 {
        n = -n;
    }
    let r = n.fused(m, a);
    if plain(cpu) && fused_ok(a, n, m, r) && (inexact_seen(cpu) || fused_exact(a, n, m, r)) {
        cpu.v[field(w, 0)] = u128::from(r.word());
        return 0;
    }
    slow(cx, w)
}

fn fused_lanes<R: Real, const L: usize>(cx: Cx<'_, '_>, w: u32, m: [R; L], minus: bool) -> u64 {
    let cpu = &mut *cx.cpu;
    let a: [R; L] = unpack(cpu.v[field(w, 0)]);
    let mut n: [R; L] = unpack(cpu.v[field(w, 5)]);
    if minus {
        n = n.map(|x| -x);
    }
    let r: [R; L] = std::array::from_fn(|i| n[i].fused(m[i], a[i]));
    let ok = plain(cpu) && (0..L).all(|i| fused_ok(a[i], n[i], m[i], r[i]));
    if ok && (inexact_seen(cpu) || (0..L).all(|i| fused_exact(a[i], n[i], m[i], r[i]))) {
        cpu.v[field(w, 0)] = pack(r);
        return 0;
    }
    slow(cx, w)
}

/// FMLA, FMLS (vector).
pub(crate) fn fused_vector<R: Real, const L: usize>(cx: Cx<'_, '_>, args: [u64; 4]) -> u64 {
    let w = args[3] as u32;
    let m = unpack(cx.cpu.v[field(w, 16)]);
    fused_lanes::<R, L>(cx, w, m, w >> 23 & 1 != 0)
}

/// FMLA, FMLS (by element).
pub(crate) fn fused_element<R: Real, const L: usize>(cx: Cx<'_, '_>, args: [u64; 4]) -> u64 {
    let w = args[3] as u32;
    let m = [element(cx.cpu, w); L];
    fused_lanes::<R, L>(cx, w, m, w >> 14 & 1 != 0)
}

/// FCMP, FCMPE: gives N Z C V in bits 31..28.
pub(crate) fn compare<R: Real>(cx: Cx<'_, '_>, args: [u64; 4]) -> u64 {
    let w = args[3] as u32;
    let m = if w >> 3 & 1 != 0 { R::ZERO } else { R::lane(cx.cpu.v[field(w, 16)], 0) };
    order_of(cx.cpu, w, m)
}

/// FCCMP, FCCMPE: a = the condition holds; gives N Z C V in bits 31..28.
pub(crate) fn compare_if<R: Real>(cx: Cx<'_, '_>, args: [u64; 4]) -> u64 {
    let w = args[3] as u32;
    if args[0] == 0 {
        return u64::from(w & 15) << 28;
    }
    let m = R::lane(cx.cpu.v[field(w, 16)], 0);
    order_of(cx.cpu, w, m)
}

/// Compares Vn with `m`; bit 4 of the word: signalling.
fn order_of<R: Real>(cpu: &mut ArmCpu, w: u32, m: R) -> u64 {
    let n = R::lane(cpu.v[field(w, 5)], 0);
    let order = if plain(cpu) { n.partial_cmp(&m) } else { None };
    let nzcv = match order {
        Some(std::cmp::Ordering::Less) => 8,
        Some(std::cmp::Ordering::Equal) => 6,
        Some(std::cmp::Ordering::Greater) => 2,
        None => {
            let mut s = Status::from_fpcr(cpu.fpcr);
            let o = s.compare(R::FORMAT, n.word(), m.word(), w >> 4 & 1 != 0);
            cpu.fpsr |= s.flags;
            match o {
                Order::Less => 8,
                Order::Equal => 6,
                Order::Greater => 2,
                Order::Unordered => 3,
            }
        }
    };
    nzcv << 28
}

/// FCMEQ, FCMGE, FCMGT (vector, register).
pub(crate) fn relation<R: Real, const L: usize>(cx: Cx<'_, '_>, args: [u64; 4]) -> u64 {
    let w = args[3] as u32;
    let cpu = &mut *cx.cpu;
    let n: [R; L] = unpack(cpu.v[field(w, 5)]);
    let m: [R; L] = unpack(cpu.v[field(w, 16)]);
    if !plain(cpu) || (0..L).any(|i| n[i].is_nan() | m[i].is_nan()) {
        return slow(cx, w);
    }
    let bits = R::FORMAT.bits();
    let holds = |i: usize| match (w >> 29 & 1, w >> 23 & 1) {
        (0, _) => n[i] == m[i],
        (_, 0) => n[i] >= m[i],
        _ => n[i] > m[i],
    };
    let mask = |i: usize| if holds(i) { u128::from(super::ones(bits)) } else { 0 };
    cpu.v[field(w, 0)] = (0..L).fold(0, |v, i| v | mask(i) << (bits * i as u32));
    0
}

/// FCVT between single and double.
pub(crate) fn convert<F: Real, T: Real>(cx: Cx<'_, '_>, args: [u64; 4]) -> u64 {
    let w = args[3] as u32;
    let cpu = &mut *cx.cpu;
    let n = F::lane(cpu.v[field(w, 5)], 0).widen();
    let r = T::from_f64(n);
    let ok = r.safe() || n == 0.0;
    if plain(cpu) && ok && (inexact_seen(cpu) || r.widen() == n) {
        cpu.v[field(w, 0)] = u128::from(r.word());
        return 0;
    }
    slow(cx, w)
}

/// SCVTF, UCVTF from a general register: a = value; gives the result.
pub(crate) fn from_int<R: Real>(cx: Cx<'_, '_>, args: [u64; 4]) -> u64 {
    let (x, w) = (args[0], args[3] as u32);
    let signed = w >> 16 & 1 == 0;
    let value = match (w >> 31, signed) {
        (0, true) => i128::from(x as u32 as i32),
        (0, false) => i128::from(x as u32),
        (_, true) => i128::from(x as i64),
        _ => i128::from(x),
    };
    let r = R::from_i128(value);
    let exact = || value.unsigned_abs() <= if R::FORMAT == F32 { 1 << 24 } else { 1 << 53 };
    if plain(cx.cpu) && (exact() || inexact_seen(cx.cpu)) {
        return r.word();
    }
    let mut s = Status::from_fpcr(cx.cpu.fpcr);
    let r = s.from_int(R::FORMAT, value as u64, signed, 0);
    cx.cpu.fpsr |= s.flags;
    r
}

/// FCVTZS, FCVTMS… to a general register (all rounding modes but ties-away); gives the result.
pub(crate) fn to_int<R: Real>(cx: Cx<'_, '_>, args: [u64; 4]) -> u64 {
    let w = args[3] as u32;
    let cpu = &mut *cx.cpu;
    let n = R::lane(cpu.v[field(w, 5)], 0);
    let (v, wide, signed) = (n.widen(), w >> 31 != 0, w >> 16 & 1 == 0);
    // Toward zero within 32 bits (64 when wide) is what the host does.
    let limit = if wide { 9_223_372_036_854_775_808.0 } else { 2_147_483_648.0 };
    if plain(cpu) && w >> 19 & 3 == 3 && signed && v.abs() < limit {
        let r = v as i64;
        if r as f64 != v {
            cpu.fpsr |= flag::IXC;
        }
        return if wide { r as u64 } else { u64::from(r as u32) };
    }
    let mut s = Status::from_fpcr(cpu.fpcr);
    let mode = Rounding::from_bits(w >> 19);
    let r = s.to_int(R::FORMAT, n.word(), if wide { 64 } else { 32 }, signed, 0, mode);
    cpu.fpsr |= s.flags;
    r
}

/// SCVTF, UCVTF (vector).
pub(crate) fn from_int_lanes<R: Real, const L: usize>(cx: Cx<'_, '_>, args: [u64; 4]) -> u64 {
    let w = args[3] as u32;
    let cpu = &mut *cx.cpu;
    let n: [R; L] = unpack(cpu.v[field(w, 5)]);
    let bits = R::FORMAT.bits();
    let value = n.map(|x| super::number(x.word(), bits, w >> 29 & 1 == 0));
    let limit = if R::FORMAT == F32 { 1 << 24 } else { 1 << 53 };
    let exact = || value.iter().all(|v| v.unsigned_abs() <= limit);
    if plain(cpu) && (inexact_seen(cpu) || exact()) {
        cpu.v[field(w, 0)] = pack(value.map(R::from_i128));
        return 0;
    }
    slow(cx, w)
}

/// FCVTZS (vector).
pub(crate) fn to_int_lanes<R: Real, const L: usize>(cx: Cx<'_, '_>, args: [u64; 4]) -> u64 {
    let w = args[3] as u32;
    let cpu = &mut *cx.cpu;
    let n: [f64; L] = unpack::<R, L>(cpu.v[field(w, 5)]).map(R::widen);
    let bits = R::FORMAT.bits();
    let limit = if bits == 64 { 9_223_372_036_854_775_808.0 } else { 2_147_483_648.0 };
    if !plain(cpu) || !n.iter().all(|v| v.abs() < limit) {
        return slow(cx, w);
    }
    let r = n.map(|v| v as i64);
    if (0..L).any(|i| r[i] as f64 != n[i]) {
        cpu.fpsr |= flag::IXC;
    }
    let lane = |v: i64| u128::from(v as u64 & super::ones(bits));
    cpu.v[field(w, 0)] = (0..L).fold(0, |v, i| v | lane(r[i]) << (bits * i as u32));
    0
}

/// FRINTN, P, M, Z, A, X, I (scalar).
pub(crate) fn integral<R: Real>(cx: Cx<'_, '_>, args: [u64; 4]) -> u64 {
    let w = args[3] as u32;
    let cpu = &mut *cx.cpu;
    let n = R::lane(cpu.v[field(w, 5)], 0).widen();
    if !plain(cpu) || n.is_nan() {
        return slow(cx, w);
    }
    // Integral values of a narrow format are the same in double.
    let r = match w >> 15 & 7 {
        1 => n.ceil(),
        2 => n.floor(),
        3 => n.trunc(),
        4 => n.round(),
        _ => n.round_ties_even(),
    };
    if w >> 15 & 7 == 6 && r != n {
        cpu.fpsr |= flag::IXC;
    }
    cpu.v[field(w, 0)] = u128::from(R::from_f64(r).word());
    0
}

/// FADDP (scalar).
pub(crate) fn pair_sum<R: Real>(cx: Cx<'_, '_>, args: [u64; 4]) -> u64 {
    let w = args[3] as u32;
    let [n, m]: [R; 2] = unpack(cx.cpu.v[field(w, 5)]);
    match lanes::<Plus, R, 1>(cx.cpu, [n], [m]) {
        Some(r) => cx.cpu.v[field(w, 0)] = r,
        None => return slow(cx, w),
    }
    0
}

/// FCVTL, FCVTL2 from single to double.
pub(crate) fn convert_long(cx: Cx<'_, '_>, args: [u64; 4]) -> u64 {
    let w = args[3] as u32;
    let cpu = &mut *cx.cpu;
    let n: [f32; 2] = unpack(cpu.v[field(w, 5)] >> (64 * (w >> 30 & 1)));
    if !plain(cpu) || n.iter().any(|x| x.is_nan()) {
        return slow(cx, w);
    }
    cpu.v[field(w, 0)] = pack(n.map(f64::from));
    0
}

/// FCVTN, FCVTN2 from double to single.
pub(crate) fn convert_narrow(cx: Cx<'_, '_>, args: [u64; 4]) -> u64 {
    let w = args[3] as u32;
    let cpu = &mut *cx.cpu;
    let n: [f64; 2] = unpack(cpu.v[field(w, 5)]);
    let r = n.map(|x| x as f32);
    let ok = (0..2).all(|i| r[i].safe() || n[i].is_zero());
    if !plain(cpu) || !ok || !(inexact_seen(cpu) || (0..2).all(|i| f64::from(r[i]) == n[i])) {
        return slow(cx, w);
    }
    let (rd, half) = (field(w, 0), pack(r));
    let low = cpu.v[rd] & u128::from(u64::MAX);
    cpu.v[rd] = if w >> 30 & 1 != 0 { low | half << 64 } else { half };
    0
}

#[cfg(test)]
#[path = "fast_tests.rs"]
mod tests;
