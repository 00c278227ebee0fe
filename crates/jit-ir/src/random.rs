//! Random well-formed blocks for differential tests of host back ends.

use crate::block::Exit;
use crate::builder::Builder;
use crate::fp::{FpDesc, FpOp, FpShape};
use crate::op::{Cond, Lane, MemDesc, Opcode, RmwKind, Ty, Val};
use crate::state::SlotClass;

/// A small deterministic generator (xorshift64*).
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// Seeds the generator; any value is fine.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }
    /// The next value.
    #[expect(clippy::should_implement_trait, reason = "endless, so `Option` would only be noise")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.next() >> 33) as usize) % n.max(1)
    }
    /// A value that likes corners.
    pub fn value(&mut self) -> u64 {
        let r = self.next();
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << (r & 63),
            3 => (1u64 << (r & 63)).wrapping_sub(1),
            4 => r as u32 as i32 as i64 as u64,
            5 => r & 0xff,
            6 => u64::from(r as u32),
            _ => r,
        }
    }
    /// A double or single that likes corners.
    pub fn float(&mut self, double: bool) -> u64 {
        let r = self.next();
        let (bits, frac) = if double { (64, 52) } else { (32, 23) };
        let (sign, low) = (1u64 << (bits - 1), (1u64 << frac) - 1);
        let infinity = (sign - 1) & !low;
        let one = infinity >> 1 & !low;
        let small = r >> 8 & 3;
        let v = match self.below(16) {
            0 => 0,
            1 => infinity,
            2 => infinity | 1 << (frac - 1) | r & 0xff,
            3 => infinity | (r & 0xff) + 1,
            4 => r & 0xfff,
            5 => (1 << frac) + small,
            6 => (1 << frac) - 1 - small,
            7 => infinity - 1 - small,
            8 | 9 => one + small,
            10 => one - 1 - small,
            11 => one + (small << frac) + (r >> 12 & 3) * (1 << (frac - 2)),
            12 => (one + (1 << frac) * (28 + r % 40)) & (sign - 1) | r & low,
            13 => one / 2 + (r & low),
            14 => (1 << frac) * (r % 60) + (r >> 20 & low),
            _ => r & (sign - 1),
        };
        let v = v | if self.below(2) == 0 { sign } else { 0 };
        v & if double { u64::MAX } else { 0xffff_ffff }
    }
    /// A vector of doubles or singles.
    pub fn floats(&mut self, double: bool) -> [u64; 2] {
        [(); 2].map(|()| {
            if double { self.float(true) } else { self.float(false) | self.float(false) << 32 }
        })
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// What the generator may use besides pure ops.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// Ops to aim for.
    pub ops: usize,
    /// Guest addresses are `base + (value & mask)`; `None` = no memory ops.
    pub memory: Option<(u64, u64)>,
    /// mmu index of memory ops.
    pub mmu: u8,
    /// Helpers with PURE effects that take three arguments.
    pub helpers: Vec<u16>,
}

struct Gen<'a> {
    b: &'a mut Builder,
    rng: &'a mut Rng,
    shape: &'a Shape,
    pools: [Vec<Val>; 4],
    /// The last address.
    near: Option<Val>,
}

const INT2: &[Opcode] = &[
    Opcode::Add,
    Opcode::Sub,
    Opcode::And,
    Opcode::Or,
    Opcode::Xor,
    Opcode::AndNot,
    Opcode::Mul,
    Opcode::DivU,
    Opcode::DivS,
    Opcode::Shl,
    Opcode::Shr,
    Opcode::Sar,
    Opcode::Ror,
];
const VEC2: &[Opcode] = &[
    Opcode::VAnd,
    Opcode::VOr,
    Opcode::VXor,
    Opcode::VAndNot,
    Opcode::VAdd,
    Opcode::VSub,
    Opcode::VCmpEq,
];

impl Gen<'_> {
    fn pool(ty: Ty) -> usize {
        match ty {
            Ty::I32 => 0,
            Ty::V128 => 2,
            Ty::Cc => 3,
            _ => 1,
        }
    }
    fn keep(&mut self, v: Val) {
        let ty = self.b.ty(v);
        if ty != Ty::None {
            self.pools[Self::pool(ty)].push(v);
        }
    }
    /// Some value of a type; recent ones are preferred so that old ones die.
    fn any(&mut self, ty: Ty) -> Val {
        let n = self.pools[Self::pool(ty)].len();
        if n == 0 || self.rng.below(12) == 0 {
            let v = self.fresh(ty);
            self.keep(v);
            return v;
        }
        let span = if self.rng.below(4) == 0 { n } else { n.min(6) };
        let back = self.rng.below(span);
        self.pools[Self::pool(ty)][n - 1 - back]
    }
    fn fresh(&mut self, ty: Ty) -> Val {
        match ty {
            Ty::I32 => {
                let v = self.rng.value() as u32;
                self.b.c32(v)
            }
            Ty::V128 if self.rng.below(2) == 0 => {
                let double = self.rng.below(2) == 0;
                let [lo, hi] = self.rng.floats(double).map(|v| self.b.c64(v));
                self.b.v_from64(lo, hi)
            }
            Ty::V128 => {
                let (lo, hi) = (self.any(Ty::I64), self.any(Ty::I64));
                self.b.v_from64(lo, hi)
            }
            Ty::Cc => self.b.get_cc(),
            _ if self.rng.below(3) > 0 => {
                let at = self.general();
                self.b.get(at, Ty::I64)
            }
            _ => {
                let v = self.rng.value();
                self.b.c64(v)
            }
        }
    }
    fn general(&mut self) -> u32 {
        let all = self.b.layout().slots;
        let n = all.iter().filter(|s| s.class == SlotClass::General).count();
        let k = self.rng.below(n);
        all.iter().filter(|s| s.class == SlotClass::General).nth(k).map_or(0, |s| s.offset)
    }
    fn cond(&mut self) -> Cond {
        self.rng.pick(&Cond::ALL)
    }
    fn int_ty(&mut self) -> Ty {
        self.rng.pick(&[Ty::I32, Ty::I64])
    }
    fn integer(&mut self) -> Val {
        let ty = self.int_ty();
        let a = self.any(ty);
        let w = if ty == Ty::I32 { 32 } else { 64 };
        let lsb = self.rng.below(w) as u32;
        let len = 1 + self.rng.below(w - lsb as usize) as u32;
        match self.rng.below(9) {
            0 => self.b.ubfx(a, lsb, len),
            1 => self.b.sbfx(a, lsb, len),
            2 => {
                let c = self.any(ty);
                self.b.bfi(a, c, lsb, len)
            }
            3 => {
                let code = self.rng.pick(&[Opcode::Not, Opcode::Clz, Opcode::Rbit]);
                self.b.unary(code, 0, a)
            }
            4 => {
                let log2 = 1 + self.rng.below(if w == 32 { 2 } else { 3 }) as u16;
                self.b.unary(Opcode::Rev, log2, a)
            }
            5 => {
                let c = self.any(ty);
                self.b.binary_aux(Opcode::Extr, lsb as u16, a, c)
            }
            6 => {
                let (x, y) = (self.any(Ty::I64), self.any(Ty::I64));
                let code = self.rng.pick(&[Opcode::MulHiU, Opcode::MulHiS]);
                self.b.binary(code, x, y)
            }
            7 => {
                let (x, y) = (self.any(Ty::I32), self.any(Ty::I64));
                match self.rng.below(3) {
                    0 => self.b.zext(x),
                    1 => self.b.sext(x),
                    _ => self.b.trunc(y),
                }
            }
            _ => {
                let (code, c) = (self.rng.pick(INT2), self.any(ty));
                self.b.binary(code, a, c)
            }
        }
    }
    fn flags(&mut self) -> Val {
        let ty = self.int_ty();
        let (a, c) = (self.any(ty), self.any(ty));
        match self.rng.below(9) {
            0 | 1 => {
                let code = self.rng.pick(&[Opcode::Add, Opcode::Sub, Opcode::And]);
                let (v, cc) = self.b.with_flags(code, a, c);
                self.keep(v);
                cc
            }
            2 => {
                let cc = self.any(Ty::Cc);
                let (v, cc) = self.b.add_carry(a, c, cc);
                self.keep(v);
                cc
            }
            3 => {
                let x = self.any(Ty::I32);
                self.b.cc_from_nzcv(x)
            }
            4 => {
                let cc = self.any(Ty::Cc);
                let (add, cond, nzcv) = (self.rng.below(2) == 0, self.cond(), self.rng.below(16));
                self.b.ccmp(add, a, c, cc, cond, nzcv as u32)
            }
            5 => {
                let cc = self.any(Ty::Cc);
                self.b.nzcv_of(cc)
            }
            6 => {
                let (cc, cond) = (self.any(Ty::Cc), self.cond());
                self.b.cond_val(ty, cc, cond)
            }
            7 => {
                let (cc, cond) = (self.any(Ty::Cc), self.cond());
                self.b.select(cc, cond, a, c)
            }
            _ => {
                use Cond::{Eq, Ge, Gt, Hi, Hs, Le, Lo, Ls, Lt, Ne};
                let cond = self.rng.pick(&[Eq, Ne, Hs, Lo, Hi, Ls, Ge, Lt, Gt, Le]);
                self.b.cmp_set(cond, a, c)
            }
        }
    }
    fn vector(&mut self) -> Val {
        let (a, c) = (self.any(Ty::V128), self.any(Ty::V128));
        let lane = self.rng.pick(&Lane::ALL);
        if self.rng.below(2) == 0 {
            return self.vector_moves(lane, a, c);
        }
        match self.rng.below(6) {
            0 => {
                let word = self.rng.below(2) as u16;
                self.b.v_get64(a, word)
            }
            1 => {
                let x = self.any(Ty::I64);
                self.b.v_dup(lane, x)
            }
            2 => {
                let lane = self.rng.pick(&[Lane::B, Lane::H, Lane::S]);
                let code =
                    self.rng.pick(&[Opcode::VMinU, Opcode::VMaxU, Opcode::VMinS, Opcode::VMaxS]);
                self.b.vector(code, lane, a, c)
            }
            3 if self.rng.below(2) == 0 => {
                let n = self.rng.below(128 / lane.bits() as usize) as u32;
                if self.rng.below(2) == 0 {
                    return self.b.v_lane(lane, n, a);
                }
                let x = self.any(Ty::I64);
                self.b.v_set_lane(lane, n, a, x)
            }
            3 => self.b.vector(Opcode::VLow64, lane, a, Val::NONE),
            _ => {
                let code = self.rng.pick(VEC2);
                self.b.vector(code, lane, a, c)
            }
        }
    }
    fn vector_moves(&mut self, lane: Lane, a: Val, c: Val) -> Val {
        use Opcode::{VCmpGt, VDupLane, VEven, VMul, VMulS32, VMulU32, VOdd, VSar, VShl, VShr};
        use Opcode::{VShuffle, VSxt, VUxt, VZipHi, VZipLo};
        match self.rng.below(6) {
            0 => {
                let n = self.rng.below(16) as u32;
                self.b.v_ext(a, c, n)
            }
            1 => {
                let code = self.rng.pick(&[VShl, VShr, VSar]);
                let n = self.rng.below(lane.bits() as usize + 1) as u32;
                self.b.vector_imm(code, lane, n, a)
            }
            2 => {
                let n = self.rng.below(128 / lane.bits() as usize) as u32;
                self.b.vector_imm(VDupLane, lane, n, a)
            }
            3 => {
                let lane = self.rng.pick(&[Lane::B, Lane::H, Lane::S]);
                let code = self.rng.pick(&[VSxt, VUxt]);
                self.b.vector(code, lane, a, Val::NONE)
            }
            4 => {
                let lane = self.rng.pick(&[Lane::H, Lane::S]);
                let code = self.rng.pick(&[VMul, VMulU32, VMulS32, VShuffle]);
                self.b.vector(code, lane, a, c)
            }
            _ => {
                let code = self.rng.pick(&[VZipLo, VZipHi, VEven, VOdd, VCmpGt]);
                self.b.vector(code, lane, a, c)
            }
        }
    }
    fn fp(&mut self) -> Val {
        let d = FpDesc(self.rng.next() as u16 & 0x1ff | (self.rng.below(5) as u16) << 9);
        let op = d.op();
        let double = match op {
            FpOp::Widen => false,
            FpOp::Narrow => true,
            _ => d.double(),
        };
        let (a, c) = (self.any(Ty::V128), self.any(Ty::V128));
        if self.rng.below(4) == 0 {
            let ty = self.int_ty();
            match op {
                FpOp::ToS | FpOp::ToU => {
                    return self.b.fp_to_int(op, double, d.rounding(), ty, a);
                }
                FpOp::FromS | FpOp::FromU => {
                    let x = self.any(ty);
                    return self.b.fp_from_int(op, double, x);
                }
                _ => {}
            }
        }
        let resized = matches!(op, FpOp::Widen | FpOp::Narrow);
        let compare = matches!(op, FpOp::Compare | FpOp::CompareSignalling);
        let shape = match d.shape() {
            _ if compare => FpShape::Scalar,
            FpShape::General => FpShape::Full,
            FpShape::Half if double || resized => FpShape::Full,
            shape => shape,
        };
        let d = FpDesc::new(op, double, shape).rounded(d.rounding());
        match op {
            FpOp::MulAdd | FpOp::NegMulAdd | FpOp::MulSub | FpOp::NegMulSub => {
                let x = self.any(Ty::V128);
                self.b.fp(d, a, c, x)
            }
            _ if compare || (op as u8) < FpOp::Sqrt as u8 => self.b.fp(d, a, c, Val::NONE),
            _ => self.b.fp(d, a, Val::NONE, Val::NONE),
        }
    }
    fn state(&mut self) {
        match self.rng.below(6) {
            0 => {
                let cc = self.any(Ty::Cc);
                self.b.set_cc(cc);
            }
            1 => {
                let (at, len) = self.b.layout().vectors;
                let ty = self.rng.pick(&[Ty::V128, Ty::I64, Ty::I32]);
                let n = crate::builder::size_of(ty);
                let at = at + self.rng.below((len / n) as usize) as u32 * n;
                if self.rng.below(2) == 0 {
                    let v = self.b.get(at, ty);
                    self.keep(v);
                } else {
                    let v = self.any(ty);
                    self.b.set(at, v);
                }
            }
            _ => {
                let (at, v) = (self.general(), self.any(Ty::I64));
                self.b.set(at, v);
            }
        }
    }
    fn memory(&mut self, base: u64, mask: u64) {
        let addr = match self.near {
            // Near an earlier one, so that back ends can share checks.
            Some(near) if self.rng.below(3) > 0 => {
                let away = self.rng.below(160) as i64 - 80;
                if away % 3 == 0 { near } else { self.b.add_imm(near, away) }
            }
            _ => {
                let raw = self.any(Ty::I64);
                let low = self.b.and_imm(raw, mask);
                self.b.add_imm(low, base as i64)
            }
        };
        self.near = (self.rng.below(8) > 0).then_some(addr);
        let log2 = self.rng.below(5) as u32;
        let ty = match log2 {
            4 => Ty::V128,
            3 => Ty::I64,
            _ => self.int_ty(),
        };
        let scalar = matches!(log2, 2 | 3) && self.rng.below(3) == 0;
        let plain = if scalar { Ty::V128 } else { ty };
        let mut desc = MemDesc::new(log2, self.shape.mmu);
        let offset = self.rng.below(64) as i32 - 32;
        match self.rng.below(8) {
            0 if log2 < 4 => {
                let (kind, v) = (self.rng.pick(&RmwKind::ALL), self.any(ty));
                let v = self.b.rmw(kind, addr, v, desc);
                self.keep(v);
            }
            1 => {
                let (e, n) = (self.any(ty), self.any(ty));
                let v = self.b.cas(addr, e, n, desc);
                self.keep(v);
            }
            2 => {
                let v = self.b.load_ex(ty, addr, desc);
                self.keep(v);
                let n = self.any(ty);
                let s = self.b.store_ex(addr, n, desc);
                self.keep(s);
            }
            3 | 4 => {
                let v = self.any(plain);
                self.b.store(addr, offset, v, desc);
            }
            _ => {
                if log2 < 3 && !scalar && self.rng.below(2) == 0 {
                    desc = desc.signed();
                }
                let v = self.b.load(plain, addr, offset, desc);
                self.keep(v);
            }
        }
    }
    fn exit(&mut self) {
        let exit = Exit::Page(self.rng.below(1024) as u32 * 4);
        let ty = self.int_ty();
        match self.rng.below(4) {
            0 => {
                let v = self.any(ty);
                let zero = self.rng.below(2) == 0;
                self.b.exit_if(v, zero, exit);
            }
            1 => {
                let v = self.any(ty);
                let bit = self.rng.below(if ty == Ty::I32 { 32 } else { 64 }) as u32;
                let want = self.rng.below(2) == 0;
                self.b.exit_bit(v, bit, want, exit);
            }
            _ => {
                let (cc, cond) = (self.any(Ty::Cc), self.cond());
                self.b.exit_cc(cc, cond, exit);
            }
        }
    }
    fn step(&mut self) {
        match self.rng.below(28) {
            24..=26 => {
                let v = self.fp();
                self.keep(v);
            }
            27 if self.b.layout().fp.is_some() && self.rng.below(4) == 0 => self.b.fp_sync(),
            0..=8 => {
                let v = self.integer();
                self.keep(v);
            }
            9..=12 => {
                let v = self.flags();
                self.keep(v);
            }
            13..=14 => {
                let v = self.vector();
                self.keep(v);
            }
            15..=18 => self.state(),
            19..=20 => {
                if let Some((base, mask)) = self.shape.memory {
                    self.memory(base, mask);
                }
            }
            21 if !self.shape.helpers.is_empty() => {
                let h = self.rng.pick(&self.shape.helpers);
                let args = [self.any(Ty::I64), self.any(Ty::I32), self.any(Ty::I64)];
                let imm = self.rng.next() as u32;
                let v = self.b.call(h, &args, imm);
                self.keep(v);
            }
            22 if self.rng.below(3) == 0 => self.exit(),
            _ => {
                let at = self.general();
                let v = self.b.get(at, Ty::I64);
                self.keep(v);
            }
        }
    }
}

/// Fills `b` with a random block that starts at page offset 0.
pub fn block(b: &mut Builder, rng: &mut Rng, shape: &Shape) {
    b.begin(0);
    let mut g = Gen { b, rng, shape, pools: Default::default(), near: None };
    for n in 0..shape.ops {
        if n % 6 == 0 {
            g.b.insn((n as u32 / 6 % 1024) * 4, 4);
        }
        g.step();
    }
    let exit = match g.rng.below(4) {
        0 => Exit::Indirect(g.any(Ty::I64)),
        1 => Exit::Rel(g.rng.value() as i32 as i64),
        2 => Exit::Runtime(64),
        _ => Exit::Page(128),
    };
    g.b.exit(exit);
}
