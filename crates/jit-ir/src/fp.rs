//! Floating-point ops: their encoding and what they compute.
//!
//! The rules are those of the Arm ARM's shared pseudocode with FPCR = 0 (rounding to nearest, no
//! flushing, NaNs propagate, tininess before rounding): a front end emits these ops only in a mode where
//! that holds. Besides its value an op raises cumulative exception flags. They are or-ed into the guest's
//! flags word ([`crate::state::FpControl`]); a back end may hold them elsewhere until generated code is
//! left or [`crate::Opcode::FpSync`] is executed.
//!
//! Not here: half precision, other rounding modes (helpers of the guest), other guests' NaN rules.

use softfloat::{F32, F64, Format, Order, Rounding, Status};

/// What a floating-point op does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FpOp {
    /// a + b.
    Add,
    /// a - b.
    Sub,
    /// a * b.
    Mul,
    /// a / b.
    Div,
    /// Maximum, NaNs propagate.
    Max,
    /// Minimum, NaNs propagate.
    Min,
    /// Maximum, a quiet NaN loses against a number.
    MaxNum,
    /// Minimum, a quiet NaN loses against a number.
    MinNum,
    /// Mask of a == b; only signalling NaNs are invalid.
    Eq,
    /// Mask of a >= b.
    Ge,
    /// Mask of a > b.
    Gt,
    /// Square root.
    Sqrt,
    /// To an integral value as [`FpDesc::rounding`] says.
    Round,
    /// As `Round`, raising inexact.
    RoundExact,
    /// Single to double: the lowest lane, or the two lowest ones.
    Widen,
    /// Double to single, into the low lanes.
    Narrow,
    /// From signed integers of the same width.
    FromS,
    /// From unsigned integers of the same width.
    FromU,
    /// To signed integers of the same width, saturating, as [`FpDesc::rounding`] says.
    ToS,
    /// To unsigned integers of the same width, saturating.
    ToU,
    /// a * b + c, rounded once.
    MulAdd,
    /// -a * b + c.
    NegMulAdd,
    /// a * b - c.
    MulSub,
    /// -a * b - c.
    NegMulSub,
    /// Flags of a compare; only signalling NaNs are invalid.
    Compare,
    /// Flags of a compare; all NaNs are invalid.
    CompareSignalling,
}

impl FpOp {
    /// All in encoding order.
    pub const ALL: [Self; 26] = [
        Self::Add,
        Self::Sub,
        Self::Mul,
        Self::Div,
        Self::Max,
        Self::Min,
        Self::MaxNum,
        Self::MinNum,
        Self::Eq,
        Self::Ge,
        Self::Gt,
        Self::Sqrt,
        Self::Round,
        Self::RoundExact,
        Self::Widen,
        Self::Narrow,
        Self::FromS,
        Self::FromU,
        Self::ToS,
        Self::ToU,
        Self::MulAdd,
        Self::NegMulAdd,
        Self::MulSub,
        Self::NegMulSub,
        Self::Compare,
        Self::CompareSignalling,
    ];
}

/// Lanes that an op computes; the rest of its result is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FpShape {
    /// The lowest lane.
    Scalar,
    /// The lanes of the low 64 bits.
    Half,
    /// All.
    Full,
    /// The lowest lane, to or from an integer outside vectors.
    General,
}

/// Rounding of [`FpOp::Round`], [`FpOp::ToS`] and [`FpOp::ToU`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FpRounding {
    /// To nearest, ties to even.
    Even,
    /// Toward plus infinity.
    Up,
    /// Toward minus infinity.
    Down,
    /// Toward zero.
    Zero,
    /// To nearest, ties away from zero.
    Away,
}

/// An op in 12 bits: what it does, format, lanes (`aux` of the op).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FpDesc(pub u16);

impl FpDesc {
    const DOUBLE: u16 = 1 << 5;
    const WIDE: u16 = 1 << 8;

    /// An op on doubles or singles ([`FpOp::Widen`], [`FpOp::Narrow`]: the operand's format).
    #[must_use]
    pub fn new(op: FpOp, double: bool, shape: FpShape) -> Self {
        let format = if double { Self::DOUBLE } else { 0 };
        Self(op as u16 | format | (shape as u16) << 6)
    }
    /// With a rounding ([`FpRounding::Even`] otherwise).
    #[must_use]
    pub fn rounded(self, mode: FpRounding) -> Self {
        Self(self.0 | (mode as u16) << 9)
    }
    /// The general integer has 64 bits.
    #[must_use]
    pub fn with_wide(self, wide: bool) -> Self {
        Self(self.0 | if wide { Self::WIDE } else { 0 })
    }
    /// What it does.
    #[must_use]
    pub fn op(self) -> FpOp {
        FpOp::ALL[usize::from(self.0 & 31).min(FpOp::ALL.len() - 1)]
    }
    /// The operands are doubles.
    #[must_use]
    pub fn double(self) -> bool {
        self.0 & Self::DOUBLE != 0
    }
    /// Which lanes.
    #[must_use]
    pub fn shape(self) -> FpShape {
        match self.0 >> 6 & 3 {
            0 => FpShape::Scalar,
            1 => FpShape::Half,
            2 => FpShape::Full,
            _ => FpShape::General,
        }
    }
    /// The general integer has 64 bits.
    #[must_use]
    pub fn wide(self) -> bool {
        self.0 & Self::WIDE != 0
    }
    /// The rounding.
    #[must_use]
    pub fn rounding(self) -> FpRounding {
        match self.0 >> 9 & 7 {
            0 => FpRounding::Even,
            1 => FpRounding::Up,
            2 => FpRounding::Down,
            3 => FpRounding::Zero,
            _ => FpRounding::Away,
        }
    }

    fn format(self) -> Format {
        if self.double() { F64 } else { F32 }
    }

    fn mode(self) -> Rounding {
        match self.rounding() {
            FpRounding::Even => Rounding::NearestEven,
            FpRounding::Up => Rounding::Up,
            FpRounding::Down => Rounding::Down,
            FpRounding::Zero => Rounding::Zero,
            FpRounding::Away => Rounding::NearestAway,
        }
    }
}

fn ones(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

fn sign_extend(v: u64, bits: u32) -> u64 {
    ((v << (64 - bits)) as i64 >> (64 - bits)) as u64
}

fn order(s: &mut Status, f: Format, a: u64, b: u64, signalling: bool) -> u64 {
    match s.compare(f, a, b, signalling) {
        Order::Less => 8,
        Order::Equal => 6,
        Order::Greater => 2,
        Order::Unordered => 3,
    }
}

/// One lane.
fn lane(s: &mut Status, d: FpDesc, [a, b, c]: [u64; 3]) -> u64 {
    let f = d.format();
    let mask = |yes: bool| if yes { ones(f.bits()) } else { 0 };
    let negated = a ^ f.sign_bit();
    match d.op() {
        FpOp::Add => s.add(f, a, b),
        FpOp::Sub => s.sub(f, a, b),
        FpOp::Mul => s.mul(f, a, b),
        FpOp::Div => s.div(f, a, b),
        FpOp::Max => s.max(f, a, b),
        FpOp::Min => s.min(f, a, b),
        FpOp::MaxNum => s.number(f, a, b, true),
        FpOp::MinNum => s.number(f, a, b, false),
        FpOp::Eq => mask(s.compare(f, a, b, false) == Order::Equal),
        FpOp::Ge => mask(matches!(s.compare(f, a, b, true), Order::Equal | Order::Greater)),
        FpOp::Gt => mask(s.compare(f, a, b, true) == Order::Greater),
        FpOp::Sqrt => s.sqrt(f, a),
        FpOp::Round => s.round_to_integral(f, a, d.mode(), false),
        FpOp::RoundExact => s.round_to_integral(f, a, d.mode(), true),
        FpOp::Widen => s.convert(F32, F64, a),
        FpOp::Narrow => s.convert(F64, F32, a),
        FpOp::FromS => s.from_int(f, sign_extend(a, f.bits()), true, 0),
        FpOp::FromU => s.from_int(f, a, false, 0),
        FpOp::ToS => s.to_int(f, a, f.bits(), true, 0, d.mode()),
        FpOp::ToU => s.to_int(f, a, f.bits(), false, 0, d.mode()),
        FpOp::MulAdd => s.mul_add(f, c, a, b),
        FpOp::NegMulAdd => s.mul_add(f, c, negated, b),
        FpOp::MulSub => s.mul_add(f, c ^ f.sign_bit(), a, b),
        FpOp::NegMulSub => s.mul_add(f, c ^ f.sign_bit(), negated, b),
        FpOp::Compare => order(s, f, a, b, false),
        FpOp::CompareSignalling => order(s, f, a, b, true),
    }
}

/// To or from an integer outside vectors.
fn general(s: &mut Status, d: FpDesc, a: u64) -> u64 {
    let f = d.format();
    let bits = if d.wide() { 64 } else { 32 };
    match d.op() {
        FpOp::FromS => s.from_int(f, sign_extend(a, bits), true, 0),
        FpOp::FromU => s.from_int(f, a & ones(bits), false, 0),
        op => s.to_int(f, a & ones(f.bits()), bits, op == FpOp::ToS, 0, d.mode()),
    }
}

/// Value of an op (a compare: bits 3..0 = N Z C V) and the flags that it raises, at the positions of
/// [`softfloat::flag`].
#[must_use]
pub fn compute(d: FpDesc, v: [u128; 3]) -> (u128, u32) {
    let mut s = Status::default();
    if d.shape() == FpShape::General {
        let r = general(&mut s, d, v[0] as u64);
        return (u128::from(r), s.flags);
    }
    let (from, to) = match d.op() {
        FpOp::Widen => (32, 64),
        FpOp::Narrow => (64, 32),
        _ => (d.format().bits(), d.format().bits()),
    };
    let lanes = match d.shape() {
        FpShape::Full => 128 / from.max(to),
        FpShape::Half => 64 / from.max(to),
        _ => 1,
    };
    let mut out = 0;
    for i in 0..lanes {
        let r = lane(&mut s, d, v.map(|x| (x >> (from * i)) as u64 & ones(from)));
        out |= u128::from(r) << (to * i);
    }
    (out, s.flags)
}

/// Operands and result of an op that generated code leaves to [`slow`]: three 16-byte values, low word
/// first; the result replaces the first.
pub type FpArea = [u64; 6];

/// Does an op (the bits of its [`FpDesc`]) for generated code; gives the flags that it raises.
pub extern "C" fn slow(area: &mut FpArea, desc: u64) -> u64 {
    let v = [0, 2, 4].map(|n| u128::from(area[n]) | u128::from(area[n + 1]) << 64);
    let (r, flags) = compute(FpDesc(desc as u16), v);
    (area[0], area[1]) = (r as u64, (r >> 64) as u64);
    u64::from(flags)
}
