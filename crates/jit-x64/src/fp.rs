//! Floating-point ops on the host's unit.
//!
//! MXCSR rounds to nearest, flushes nothing and masks everything; its sticky bits are the guest's flags
//! that are not in the guest's state yet. After an op whose result may differ from the guest's a test
//! leads to a stub that has `jit_ir::fp::slow` do the op again from its operands, which are therefore
//! never overwritten. The cases are
//! * NaN results: sign of the default NaN, order of propagation;
//! * results of the magnitude of the smallest normal number after an op that rounds near it: the guest
//!   detects tininess before rounding, the host after.
//!
//! In both the flags that the host has raised by then are among those of the guest, because an invalid
//! operation is one on both sides and what is tiny after rounding was so before. Conversions to integers
//! test for the host's mark of what does not fit; min, max and unsigned conversions test their operands
//! first, since the host would raise more than the guest.
//!
//! Source: Intel SDM volume 1 chapters 4.9, 11.5 and 14.4, volume 2; Arm ARM, shared pseudocode.

use jit_ir::fp::{FpDesc, FpOp, FpRounding, FpShape};
use jit_ir::{Cond, Op, Opcode, Val};

use crate::asm::{Enc, Rm, alu, cc};
use crate::emit::Emit;
use crate::exits::Stub;
use crate::memory::{Source, Target};
use crate::pool::Pool;
use crate::thunks::{env, id};

const AND: Enc = Enc(0, 1, 0x54);
const OR: Enc = Enc(0, 1, 0x56);
const XOR: Enc = Enc(0, 1, 0x57);
const MOVQ: Enc = Enc(0xf3, 1, 0x7e);
const INSERTPS: Enc = Enc(0x66, 3, 0x21);
const PTEST: Enc = Enc(0x66, 2, 0x17);
const PCMPEQD: Enc = Enc(0x66, 1, 0x76);
const PAND: Enc = Enc(0x66, 1, 0xdb);
const PUNPCKLQDQ: Enc = Enc(0x66, 1, 0x6c);
const CVTDQ2PS: Enc = Enc(0, 1, 0x5b);
/// cmpps predicates.
const EQUAL: u8 = 0;
const LESS: u8 = 1;
const LESS_EQUAL: u8 = 2;
const UNORDERED: u8 = 3;
const EQUAL_UNORDERED: u8 = 8;

/// Mandatory prefix of packed and scalar forms in both formats.
fn prefix(packed: bool, double: bool) -> u8 {
    match (packed, double) {
        (true, false) => 0,
        (true, true) => 0x66,
        (false, false) => 0xf3,
        (false, true) => 0xf2,
    }
}

fn packed(d: FpDesc) -> bool {
    matches!(d.shape(), FpShape::Half | FpShape::Full)
}

impl Emit<'_> {
    pub(crate) fn fp_op(&mut self, i: u16, op: &Op) {
        match op.code {
            Opcode::FpCmp => self.fp_compare(i, op),
            Opcode::FpToInt => self.fp_to_general(i, op),
            Opcode::FpFromInt => self.fp_from_general(i, op),
            Opcode::FpSync => {
                self.clobber_flags();
                self.asm.call_to(self.thunk(id::FP_SYNC));
            }
            Opcode::Fp3 if self.features.fma => self.fused(i, op),
            _ => self.fp_vector(i, op),
        }
    }

    fn fp_vector(&mut self, i: u16, op: &Op) {
        let d = op.fp();
        match d.op() {
            FpOp::Add => self.binary(i, op, 0x58, true, false),
            FpOp::Sub => self.binary(i, op, 0x5c, false, false),
            FpOp::Mul => self.binary(i, op, 0x59, true, true),
            FpOp::Div => self.binary(i, op, 0x5e, false, true),
            FpOp::Max | FpOp::MaxNum => self.extreme(i, op, 0x5f, AND),
            FpOp::Min | FpOp::MinNum => self.extreme(i, op, 0x5d, OR),
            FpOp::Eq => self.relation(i, op, EQUAL, false),
            FpOp::Gt => self.relation(i, op, LESS, true),
            FpOp::Ge => self.relation(i, op, LESS_EQUAL, true),
            FpOp::Sqrt => self.root(i, op),
            FpOp::Round | FpOp::RoundExact if d.rounding() != FpRounding::Away => {
                self.integral(i, op);
            }
            FpOp::Widen => self.widen(i, op),
            FpOp::Narrow => self.narrow(i, op),
            FpOp::FromS | FpOp::FromU => self.from_lanes(i, op),
            FpOp::ToS => self.to_lanes(i, op),
            _ => self.by_function(i, op),
        }
    }

    // ---------------------------------------------------------------- operands and results

    /// d = a op b; `d` is not `b` unless the host has VEX.
    fn three(&mut self, e: Enc, d: u8, a: u8, b: impl Into<Rm>) {
        if self.features.avx {
            return self.asm.avx(e, d, a, b);
        }
        if d != a {
            self.asm.movdqa(d, a);
        }
        self.asm.sse(e, d, b);
    }

    fn three_imm(&mut self, e: Enc, d: u8, a: u8, b: impl Into<Rm>, imm: u8) {
        if self.features.avx {
            return self.asm.avx_imm(e, d, a, b, imm);
        }
        if d != a {
            self.asm.movdqa(d, a);
        }
        self.asm.sse_imm(e, d, b, imm);
    }

    /// d = op s, all of `d` being written.
    fn two(&mut self, e: Enc, d: u8, s: u8) {
        if self.features.avx { self.asm.avx(e, d, 0, s) } else { self.asm.sse(e, d, s) }
    }

    /// The lowest lane of `d` = op s, the rest zero; `d` is not `s`.
    fn lowest(&mut self, e: Enc, d: u8, s: u8) {
        self.three(XOR, d, d, d);
        self.three(e, d, d, s);
    }

    /// Whether a vector is known to be zero above its low 32 (64 if `double`) bits.
    fn is_scalar(&self, v: Val, double: bool) -> bool {
        let op = self.block.def(v);
        match op.code {
            Opcode::Fp1 | Opcode::Fp2 | Opcode::Fp3 => {
                let d = op.fp();
                let wide = match d.op() {
                    FpOp::Widen => true,
                    FpOp::Narrow => false,
                    _ => d.double(),
                };
                match d.shape() {
                    FpShape::Scalar => double || !wide,
                    FpShape::Half => double,
                    _ => double && d.op() == FpOp::Narrow,
                }
            }
            Opcode::FpFromInt => double || !op.fp().double(),
            Opcode::VLow64 => double,
            Opcode::Load => op.mem().log2() <= if double { 3 } else { 2 },
            Opcode::VFrom64 => double && self.al.constant(self.block, op.b) == Some(0),
            _ => false,
        }
    }

    /// Fetches an operand; of low halves the upper half is made zero.
    fn fp_in(&mut self, d: FpDesc, v: Val) -> u8 {
        let x = self.xmm(v);
        if d.shape() != FpShape::Half || self.is_scalar(v, true) {
            return x;
        }
        let t = self.temp_xmm();
        self.two(MOVQ, t, x);
        t
    }

    /// Clears what is above the lowest lane.
    fn zero_rest(&mut self, double: bool, x: u8) {
        if double { self.two(MOVQ, x, x) } else { self.three_imm(INSERTPS, x, x, x, 0x0e) }
    }

    /// The jump for results that the host may not have right: NaNs and, if `tiny`, the smallest normal
    /// magnitude.
    fn unusual(&mut self, packed: bool, double: bool, x: u8, tiny: bool) -> usize {
        let (abs, min) = if double { (Pool::AbsD, Pool::MinD) } else { (Pool::AbsS, Pool::MinS) };
        let ucomis = Enc(if double { 0x66 } else { 0 }, 1, 0x2e);
        if !packed && !tiny {
            self.two(ucomis, x, x);
            return self.asm.jcc(cc::P);
        }
        let t = self.temp_xmm();
        if !packed {
            let (abs, min) = (self.pool(abs), self.pool(min));
            self.three(AND, t, x, abs);
            if self.features.avx {
                self.asm.avx(ucomis, t, 0, min);
            } else {
                self.asm.sse(ucomis, t, min);
            }
            return self.asm.jcc(cc::E);
        }
        let compare = Enc(if double { 0x66 } else { 0 }, 1, 0xc2);
        if tiny {
            let (abs, min) = (self.pool(abs), self.pool_at(min, 0, 1));
            self.three(AND, t, x, abs);
            if self.features.avx {
                self.asm.avx_imm(compare, t, t, min, EQUAL_UNORDERED);
            } else {
                let u = self.temp_xmm();
                self.asm.movdqa(u, t);
                self.asm.sse_imm(compare, t, min, EQUAL);
                self.asm.sse_imm(compare, u, u, UNORDERED);
                self.asm.sse(OR, t, u);
            }
        } else {
            self.three_imm(compare, t, x, x, UNORDERED);
        }
        self.two(PTEST, t, t);
        self.asm.jcc(cc::NE)
    }

    /// Notes the code behind the block of an op; it continues at the present place.
    fn redo(&mut self, jump: usize, d: FpDesc, from: [Source; 3], to: Target) {
        let back = self.asm.pos();
        self.stubs.push(Stub::Fp { jump, back, desc: d.0, from, to });
    }

    /// Calls [`jit_ir::fp::slow`].
    pub(crate) fn fp_call(&mut self, desc: u16, from: [Source; 3], to: Target) {
        for (n, s) in from.into_iter().enumerate() {
            let m = env!(fp).plus(16 * n as i32);
            match s {
                Source::Xmm(x) => self.asm.store128(m, x),
                Source::Reg(r) => self.asm.store(true, m, r),
                Source::None | Source::Imm(_) => {}
            }
        }
        self.asm.store_imm(2, env!(fp_desc), i32::from(desc));
        self.asm.call_to(self.thunk(id::FP_SLOW));
        match to {
            Target::Xmm(x) => self.asm.load128(x, env!(fp)),
            Target::Reg(r, w) => self.asm.load(w, r, env!(fp)),
            Target::None => {}
        }
    }

    /// An op that has no better form.
    fn by_function(&mut self, i: u16, op: &Op) {
        self.clobber_flags();
        let mut from = [Source::None; 3];
        for (s, v) in from.iter_mut().zip(op.operands()) {
            *s = Source::Xmm(self.xmm(v));
        }
        let x = self.temp_xmm();
        self.fp_call(op.aux, from, Target::Xmm(x));
        self.def_xmm(i, x);
    }

    // ---------------------------------------------------------------- arithmetic

    fn binary(&mut self, i: u16, op: &Op, opcode: u8, commutes: bool, tiny: bool) {
        self.clobber_flags();
        let d = op.fp();
        let (packed, double) = (packed(d), d.double());
        let (a, b) = (self.fp_in(d, op.a), self.fp_in(d, op.b));
        let from = [Source::Xmm(a), Source::Xmm(b), Source::None];
        let mut clean = packed || self.is_scalar(op.a, double);
        let (mut first, mut second) = (a, b);
        if !clean && commutes && self.is_scalar(op.b, double) {
            (first, second, clean) = (b, a, true);
        }
        let x = self.temp_xmm();
        if d.op() == FpOp::Div && d.shape() == FpShape::Half {
            // No division of zero by zero.
            let (t, ones) = (self.temp_xmm(), self.pool(Pool::OneHigh));
            self.three(OR, t, second, ones);
            second = t;
        }
        self.three(Enc(prefix(packed, double), 1, opcode), x, first, second);
        if !clean {
            self.zero_rest(double, x);
        }
        let jump = self.unusual(packed, double, x, tiny);
        self.redo(jump, d, from, Target::Xmm(x));
        self.def_xmm(i, x);
    }

    fn fused(&mut self, i: u16, op: &Op) {
        self.clobber_flags();
        let d = op.fp();
        let (packed, double) = (packed(d), d.double());
        let (a, b) = (self.fp_in(d, op.a), self.fp_in(d, op.b));
        let c = self.fp_in(d, op.c());
        let kind = match d.op() {
            FpOp::MulAdd => 0x8,
            FpOp::MulSub => 0xa,
            FpOp::NegMulAdd => 0xc,
            _ => 0xe,
        } | u8::from(!packed);
        let x = self.temp_xmm();
        let scalar = |e: &Self, v| packed || e.is_scalar(v, double);
        // The rest of the result is that of the operand that is overwritten.
        let (form, start, y, z) = if scalar(self, op.c()) {
            (0xb0, c, a, b)
        } else if scalar(self, op.a) {
            (0xa0, a, b, c)
        } else if scalar(self, op.b) {
            (0xa0, b, a, c)
        } else {
            (0xb0, c, a, b)
        };
        self.asm.movdqa(x, start);
        self.asm.avx_wide(Enc(0x66, 2, form | kind), double, x, y, z);
        let clean = [op.a, op.b, op.c()].into_iter().any(|v| scalar(self, v));
        if !clean {
            self.zero_rest(double, x);
        } else if d.shape() == FpShape::Half && d.op() == FpOp::NegMulSub {
            // -0 * 0 - 0
            self.two(MOVQ, x, x);
        }
        let jump = self.unusual(packed, double, x, true);
        let from = [Source::Xmm(a), Source::Xmm(b), Source::Xmm(c)];
        self.redo(jump, d, from, Target::Xmm(x));
        self.def_xmm(i, x);
    }

    /// Min and max: the host gives the second operand of two zeros.
    fn extreme(&mut self, i: u16, op: &Op, opcode: u8, join: Enc) {
        self.clobber_flags();
        let d = op.fp();
        let (packed, double) = (packed(d), d.double());
        let (a, b) = (self.fp_in(d, op.a), self.fp_in(d, op.b));
        let (x, t) = (self.temp_xmm(), self.temp_xmm());
        let p = prefix(true, double);
        let jump = if packed {
            self.three_imm(Enc(p, 1, 0xc2), t, a, b, UNORDERED);
            self.two(PTEST, t, t);
            self.asm.jcc(cc::NE)
        } else {
            self.two(Enc(p, 1, 0x2e), a, b);
            self.asm.jcc(cc::P)
        };
        let e = Enc(prefix(packed, double), 1, opcode);
        self.three(e, t, a, b);
        self.three(e, x, b, a);
        self.three(join, x, x, t);
        let scalar = |v| packed || self.is_scalar(v, double);
        if !(scalar(op.a) && scalar(op.b)) {
            self.zero_rest(double, x);
        }
        let from = [Source::Xmm(a), Source::Xmm(b), Source::None];
        self.redo(jump, d, from, Target::Xmm(x));
        self.def_xmm(i, x);
    }

    /// Masks; signalling predicates exist for less only.
    fn relation(&mut self, i: u16, op: &Op, predicate: u8, swap: bool) {
        let d = op.fp();
        let (packed, double) = (packed(d), d.double());
        let (a, b) = (self.fp_in(d, op.a), self.fp_in(d, op.b));
        let (first, second) = if swap { (b, a) } else { (a, b) };
        let x = self.temp_xmm();
        self.three_imm(Enc(prefix(packed, double), 1, 0xc2), x, first, second, predicate);
        if d.shape() == FpShape::Half {
            self.two(MOVQ, x, x);
        } else if !packed {
            self.zero_rest(double, x);
        }
        self.def_xmm(i, x);
    }

    fn root(&mut self, i: u16, op: &Op) {
        self.clobber_flags();
        let d = op.fp();
        let (packed, double) = (packed(d), d.double());
        let a = self.fp_in(d, op.a);
        let x = self.temp_xmm();
        let e = Enc(prefix(packed, double), 1, 0x51);
        if packed {
            self.two(e, x, a)
        } else {
            self.lowest(e, x, a)
        }
        let jump = self.unusual(packed, double, x, false);
        self.redo(jump, d, [Source::Xmm(a), Source::None, Source::None], Target::Xmm(x));
        self.def_xmm(i, x);
    }

    // ---------------------------------------------------------------- conversions

    /// The constant operand of roundps and its like.
    fn round_imm(mode: FpRounding, exact: bool) -> u8 {
        let quiet = if exact { 0 } else { 8 };
        quiet
            | match mode {
                FpRounding::Down => 1,
                FpRounding::Up => 2,
                FpRounding::Zero => 3,
                FpRounding::Even | FpRounding::Away => 0,
            }
    }

    fn integral(&mut self, i: u16, op: &Op) {
        let d = op.fp();
        let a = self.fp_in(d, op.a);
        let x = self.temp_xmm();
        let imm = Self::round_imm(d.rounding(), d.op() == FpOp::RoundExact);
        self.round(packed(d), d.double(), x, a, imm);
        self.def_xmm(i, x);
    }

    fn round(&mut self, packed: bool, double: bool, x: u8, a: u8, imm: u8) {
        let opcode = 0x08 + u8::from(double) + if packed { 0 } else { 2 };
        let e = Enc(0x66, 3, opcode);
        if !packed {
            self.three(XOR, x, x, x);
        }
        match (self.features.avx, packed) {
            (true, true) => self.asm.avx_imm(e, x, 0, a, imm),
            (true, false) => self.asm.avx_imm(e, x, x, a, imm),
            _ => self.asm.sse_imm(e, x, a, imm),
        }
    }

    fn widen(&mut self, i: u16, op: &Op) {
        let d = op.fp();
        let a = self.xmm(op.a);
        let x = self.temp_xmm();
        let e = Enc(prefix(packed(d), false), 1, 0x5a);
        if packed(d) {
            self.two(e, x, a)
        } else {
            self.lowest(e, x, a)
        }
        self.def_xmm(i, x);
    }

    fn narrow(&mut self, i: u16, op: &Op) {
        self.clobber_flags();
        let d = op.fp();
        let a = self.xmm(op.a);
        let x = self.temp_xmm();
        let e = Enc(prefix(packed(d), true), 1, 0x5a);
        if packed(d) {
            self.two(e, x, a)
        } else {
            self.lowest(e, x, a)
        }
        let jump = self.unusual(packed(d), false, x, true);
        self.redo(jump, d, [Source::Xmm(a), Source::None, Source::None], Target::Xmm(x));
        self.def_xmm(i, x);
    }

    /// x = the general register as a scalar.
    fn convert_in(&mut self, wide: bool, double: bool, x: u8, r: u8) {
        self.three(XOR, x, x, x);
        self.asm.int_to_fp(wide, double, x, r);
    }

    fn from_lanes(&mut self, i: u16, op: &Op) {
        let d = op.fp();
        let unsigned = d.op() == FpOp::FromU;
        match (packed(d), d.double()) {
            (_, true) if unsigned => return self.by_function(i, op),
            (true, false) if unsigned => return self.from_unsigned_singles(i, op),
            _ => {}
        }
        let a = self.fp_in(d, op.a);
        let x = self.temp_xmm();
        if packed(d) && !d.double() {
            self.two(CVTDQ2PS, x, a);
            return self.def_xmm(i, x);
        }
        let g = self.temp();
        self.asm.movq_from_xmm(d.double(), g, a);
        self.convert_in(d.double() || unsigned, d.double(), x, g);
        if packed(d) {
            let t = self.temp_xmm();
            self.asm.pextrq(g, a, 1);
            self.convert_in(true, true, t, g);
            self.asm.sse(PUNPCKLQDQ, x, t);
        }
        self.def_xmm(i, x);
    }

    /// In halves of 16 bits, which are exact; their sum is rounded once.
    fn from_unsigned_singles(&mut self, i: u16, op: &Op) {
        let a = self.fp_in(op.fp(), op.a);
        let (x, t) = (self.temp_xmm(), self.temp_xmm());
        let (low, scale) = (self.pool(Pool::Low16), self.pool(Pool::Two16));
        self.three(PAND, x, a, low);
        self.two(CVTDQ2PS, x, x);
        self.asm.movdqa(t, a);
        self.asm.sse_imm(Enc(0x66, 1, 0x72), 2, t, 16);
        self.two(CVTDQ2PS, t, t);
        self.three(Enc(0, 1, 0x59), t, t, scale);
        self.three(Enc(0, 1, 0x58), x, x, t);
        self.def_xmm(i, x);
    }

    fn to_lanes(&mut self, i: u16, op: &Op) {
        let d = op.fp();
        let truncating = match d.rounding() {
            FpRounding::Zero => true,
            FpRounding::Even => false,
            _ => return self.by_function(i, op),
        };
        self.clobber_flags();
        let a = self.fp_in(d, op.a);
        let from = [Source::Xmm(a), Source::None, Source::None];
        let x = self.temp_xmm();
        if packed(d) && !d.double() {
            let (t, mark) = (self.temp_xmm(), self.pool(Pool::IndefiniteS));
            self.two(Enc(if truncating { 0xf3 } else { 0x66 }, 1, 0x5b), x, a);
            self.three(PCMPEQD, t, x, mark);
            self.two(PTEST, t, t);
            let jump = self.asm.jcc(cc::NE);
            self.redo(jump, d, from, Target::Xmm(x));
            return self.def_xmm(i, x);
        }
        let (g, h) = (self.temp(), self.temp());
        self.asm.fp_to_int(d.double(), d.double(), truncating, g, a);
        if packed(d) {
            self.two(Enc(0x66, 1, 0x6f), x, a);
            self.three(Enc(0x66, 1, 0x6d), x, x, x);
            self.asm.fp_to_int(true, true, truncating, h, x);
        }
        self.asm.movq_to_xmm(d.double(), x, g);
        self.asm.alu_imm(alu::CMP, d.double(), g, 1);
        if packed(d) {
            self.asm.pinsrq(x, h, 1);
            // Either overflow: the second test runs if the first did not find one.
            let first = self.asm.jcc(cc::O);
            self.asm.alu_imm(alu::CMP, true, h, 1);
            let second = self.asm.jcc(cc::O);
            self.redo(first, d, from, Target::Xmm(x));
            self.redo(second, d, from, Target::Xmm(x));
        } else {
            let jump = self.asm.jcc(cc::O);
            self.redo(jump, d, from, Target::Xmm(x));
        }
        self.def_xmm(i, x);
    }

    fn fp_from_general(&mut self, i: u16, op: &Op) {
        let d = op.fp();
        let unsigned = d.op() == FpOp::FromU;
        if unsigned && d.wide() {
            return self.fp_from_unsigned64(i, op);
        }
        let a = self.gpr(op.a);
        let x = self.temp_xmm();
        if unsigned {
            let t = self.temp();
            self.asm.mov(false, t, a);
            self.convert_in(true, d.double(), x, t);
        } else {
            self.convert_in(d.wide(), d.double(), x, a);
        }
        self.def_xmm(i, x);
    }

    fn fp_from_unsigned64(&mut self, i: u16, op: &Op) {
        self.clobber_flags();
        let d = op.fp();
        let a = self.gpr(op.a);
        let x = self.temp_xmm();
        self.asm.test(true, a, a);
        let jump = self.asm.jcc(cc::S);
        self.convert_in(true, d.double(), x, a);
        self.redo(jump, d, [Source::Reg(a), Source::None, Source::None], Target::Xmm(x));
        self.def_xmm(i, x);
    }

    fn fp_to_general(&mut self, i: u16, op: &Op) {
        self.clobber_flags();
        let d = op.fp();
        let (double, w) = (d.double(), Self::wide(op.ty));
        let a = self.xmm(op.a);
        let from = [Source::Xmm(a), Source::None, Source::None];
        let t = self.temp_xmm();
        let g = self.temp();
        let r = self.dst(0);
        let to = Target::Reg(r, w);
        match (d.op(), d.rounding()) {
            (FpOp::ToS, mode @ (FpRounding::Zero | FpRounding::Even)) => {
                self.asm.fp_to_int(w, double, mode == FpRounding::Zero, r, a);
                self.asm.alu_imm(alu::CMP, w, r, 1);
                let jump = self.asm.jcc(cc::O);
                self.redo(jump, d, from, to);
            }
            (FpOp::ToS, mode @ (FpRounding::Up | FpRounding::Down)) => {
                self.round(false, double, t, a, Self::round_imm(mode, false));
                self.asm.fp_to_int(w, double, true, r, t);
                self.asm.alu_imm(alu::CMP, w, r, 1);
                let jump = self.asm.jcc(cc::O);
                // Truncation of the operand raises inexact.
                self.asm.fp_to_int(w, double, true, g, a);
                self.redo(jump, d, from, to);
            }
            (FpOp::ToU, FpRounding::Zero) => {
                // Bits of a non-negative number below the limit are below those of the limit.
                let limits = if double { Pool::LimitsD } else { Pool::LimitsS };
                let limit = self.pool_at(limits, if w { 8 } else { 0 }, 0);
                self.asm.movq_from_xmm(double, g, a);
                self.asm.alu(alu::CMP, double, g, limit);
                let jump = self.asm.jcc(cc::AE);
                self.asm.fp_to_int(true, double, true, r, a);
                self.redo(jump, d, from, to);
            }
            _ => self.fp_call(op.aux, from, to),
        }
        self.def(i, r);
    }

    // ---------------------------------------------------------------- compares

    fn fp_compare(&mut self, i: u16, op: &Op) {
        self.clobber_flags();
        let d = op.fp();
        let (a, b) = (self.xmm(op.a), self.xmm(op.b));
        let opcode = if d.op() == FpOp::Compare { 0x2e } else { 0x2f };
        let swapped = self.wants_swapped(i);
        let (x, y) = if swapped { (b, a) } else { (a, b) };
        self.two(Enc(prefix(true, d.double()), 1, opcode), x, y);
        self.compared(i, swapped);
    }

    /// Whether the first consumer of a compare's flags reads them more easily with the operands
    /// exchanged.
    fn wants_swapped(&self, i: u16) -> bool {
        let from = usize::from(i) + 1;
        for op in self.block.ops.iter().skip(from).take(12) {
            let used = match op.code {
                Opcode::ExitIfCc | Opcode::CondVal => op.a.0 == i,
                Opcode::Select | Opcode::Ccmp => op.c().0 == i,
                _ => false,
            };
            if used {
                use Cond::{Hi, Hs, Lo, Ls, Mi, Pl};
                return matches!(op.cond(), Mi | Pl | Hi | Ls | Hs | Lo);
            }
        }
        false
    }
}
