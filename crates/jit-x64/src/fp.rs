//! Floating point in place of helper calls, where the host's result is the guest's ([`FastFp`]).
//!
//! Each op tests the guest's control and flag words, computes with SSE2 (or FMA3) in the lowest lane, and
//! looks at the exponent of the result: 2 or more below the largest is certainly normal. Whatever fails a
//! test continues in a stub that calls the helper, which starts over. Operands and results are in memory, as
//! all vector slots are at op boundaries. MXCSR keeps the value of ordinary programs: nearest, no flushing.

use jit_ir::Op;
use jit_ir::helper::{FastFp, FpKind};
use jit_ir::state::FpControl;

use crate::asm::{Enc, Mem, RAX, alu, cc, shift};
use crate::emit::Emit;
use crate::exits::Stub;

/// The two formats' prefixes, exponent places and masks.
struct Shape {
    prefix: u8,
    exponent_at: u8,
    exponent_max: i32,
}

fn shape(double: bool) -> Shape {
    if double {
        Shape { prefix: 0xf2, exponent_at: 52, exponent_max: 0x7ff }
    } else {
        Shape { prefix: 0xf3, exponent_at: 23, exponent_max: 0xff }
    }
}

impl Emit<'_> {
    /// Emits the fast form of a helper call; false = there is none on this host.
    pub(crate) fn fp_in_place(
        &mut self,
        i: u16,
        op: &Op,
        f: FastFp,
        control: FpControl,
        entry: u64,
    ) -> bool {
        if matches!(f.kind, FpKind::Fused { .. }) && !self.features.fma {
            return false;
        }
        let keep_xmm = self.al.xmm_live();
        self.take(RAX);
        self.asm.load(false, RAX, self.state(i64::from(control.plain.0)));
        self.asm.test_imm(false, RAX, control.plain.1 as i32);
        let odd = self.asm.jcc(cc::NE);
        let jumps = if let FpKind::Compare { zero } = f.kind {
            [odd, self.fp_compare(f, zero), 0]
        } else {
            self.asm.test_byte(self.state(i64::from(control.inexact.0)), control.inexact.1);
            let exact = self.asm.jcc(cc::E);
            [odd, exact, self.fp_compute(f)]
        };
        let back = self.asm.pos();
        self.stubs.push(Stub::Fp { jumps, back, entry, imm: op.call_imm(), keep_xmm });
        if op.ty != jit_ir::Ty::None && self.al.is_used(i) {
            self.def(i, RAX);
        }
        true
    }

    fn fp_load(&mut self, double: bool, x: u8, m: Mem) {
        if double {
            self.asm.sse(Enc(0xf3, 1, 0x7e), x, m);
        } else {
            self.asm.movq_to_xmm(false, x, m);
        }
    }

    /// Computes and stores; the jump of an unusual result.
    fn fp_compute(&mut self, f: FastFp) -> usize {
        let s = shape(f.double);
        let x = self.temp_xmm();
        let slot = |e: &Self, at: u32| e.state(i64::from(at));
        let (n, m, a, d) = (slot(self, f.n), slot(self, f.m), slot(self, f.a), slot(self, f.d));
        match f.kind {
            FpKind::Fused { neg_n, neg_a } => {
                let (y, z) = (self.temp_xmm(), self.temp_xmm());
                self.fp_load(f.double, x, a);
                self.fp_load(f.double, y, n);
                self.fp_load(f.double, z, m);
                self.asm.fused(f.double, neg_n, neg_a, x, y, z);
            }
            FpKind::Sqrt => {
                self.fp_load(f.double, x, n);
                self.asm.sse(Enc(s.prefix, 1, 0x51), x, x);
            }
            kind => {
                let opcode = match kind {
                    FpKind::Add => 0x58,
                    FpKind::Sub => 0x5c,
                    FpKind::Mul => 0x59,
                    _ => 0x5e,
                };
                self.fp_load(f.double, x, n);
                self.asm.sse(Enc(s.prefix, 1, opcode), x, m);
            }
        }
        self.asm.movq_from_xmm(f.double, RAX, x);
        self.asm.shift(shift::SHR, f.double, RAX, s.exponent_at);
        self.asm.alu_imm(alu::AND, false, RAX, s.exponent_max);
        self.asm.alu_imm(alu::SUB, false, RAX, 2);
        self.asm.alu_imm(alu::CMP, false, RAX, s.exponent_max - 3);
        let unusual = self.asm.jcc(cc::A);
        self.asm.store128(d, x);
        unusual
    }

    /// Compares; rax = N Z C V in bits 31..28. The jump of unordered operands.
    fn fp_compare(&mut self, f: FastFp, zero: bool) -> usize {
        let x = self.temp_xmm();
        let t = self.temp();
        self.fp_load(f.double, x, self.state(i64::from(f.n)));
        let ucomis = Enc(if f.double { 0x66 } else { 0 }, 1, 0x2e);
        self.asm.mov_imm(RAX, 2 << 28);
        self.asm.mov_imm(t, 6 << 28);
        if zero {
            let z = self.temp_xmm();
            self.asm.sse(Enc(0x66, 1, 0xef), z, z);
            self.asm.sse(ucomis, x, z);
        } else {
            self.asm.sse(ucomis, x, self.state(i64::from(f.m)));
        }
        let unordered = self.asm.jcc(cc::P);
        self.asm.cmov(cc::E, false, RAX, t);
        self.asm.mov_imm(t, 8 << 28);
        self.asm.cmov(cc::B, false, RAX, t);
        unordered
    }
}
