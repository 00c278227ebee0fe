//! Exclusives and atomics inline: the TLB check for writes, then a locked instruction.
//!
//! Only naturally aligned little-endian accesses of up to 8 bytes are done here; the others, and misses,
//! go to the runtime. A locked instruction is a full barrier, so acquire and release need nothing more.

use jit_ir::{Op, RmwKind, Ty};

use crate::asm::{Mem, RAX, RDI, RSI, alu, cc, unary};
use crate::emit::Emit;
use crate::exits::Stub;
use crate::memory::{Function, Slow, Source, Target};
use crate::thunks::env;

impl Emit<'_> {
    fn slow_atomic(&self, op: &Op, function: Function, base: u8, value: Source) -> Slow {
        Slow {
            function,
            base,
            imm: 0,
            arg: self.argument_of(op),
            value,
            new: Source::None,
            target: Target::None,
            keep_xmm: self.vectors_live(),
        }
    }

    fn miss(&mut self, jump: usize, slow: Slow) {
        let back = self.asm.pos();
        self.stubs.push(Stub::Memory { jump, back, slow });
    }

    pub(crate) fn load_exclusive(&mut self, i: u16, op: &Op) {
        let base = self.gpr(op.a);
        let d = self.dst(1 << base);
        let w = Self::wide(op.ty);
        let slow = Slow {
            target: Target::Reg(d, w),
            ..self.slow_atomic(op, Function::LoadEx, base, Source::None)
        };
        let jump = self.probe(base, 0, op.mem(), false, true);
        let m = Mem::indexed(base, RSI, 0);
        match op.mem().log2() {
            n @ 0..=1 => self.asm.movzx(n, d, m),
            n => self.asm.load(n == 3, d, m),
        }
        self.asm.store(true, env!(excl_value), d);
        self.asm.store(true, env!(excl_addr), base);
        self.miss(jump, slow);
        self.def(i, d);
    }

    pub(crate) fn store_exclusive(&mut self, i: u16, op: &Op) {
        self.take(RAX);
        let base = self.gpr(op.a);
        let b = self.gpr(op.b);
        let slow = Slow {
            target: Target::Reg(RDI, false),
            ..self.slow_atomic(op, Function::StoreEx, base, Source::Reg(b))
        };
        self.asm.alu(alu::CMP, true, base, env!(excl_addr));
        let not_held = self.asm.jcc(cc::NE);
        let jump = self.probe(base, 0, op.mem(), true, true);
        self.asm.load(true, RAX, env!(excl_value));
        self.asm.lock_cmpxchg(op.mem().log2(), Mem::indexed(base, RSI, 0), b);
        self.asm.bind(not_held);
        self.asm.store_imm(3, env!(excl_addr), -1);
        self.asm.setcc(cc::NE, RDI);
        self.asm.movzx(0, RDI, RDI);
        self.miss(jump, slow);
        self.def(i, RDI);
    }

    /// Whether [`Self::rmw`] does this op.
    pub(crate) fn rmw_inline(op: &Op) -> bool {
        op.mem().log2() >= 2 || !matches!(op.rmw(), RmwKind::SMax | RmwKind::SMin)
    }

    pub(crate) fn rmw(&mut self, i: u16, op: &Op) {
        let log2 = op.mem().log2();
        let exchange = matches!(op.rmw(), RmwKind::Add | RmwKind::Swap);
        if !exchange {
            self.take(RAX);
        }
        let base = self.gpr(op.a);
        let b = self.gpr(op.b);
        let d = if exchange { RDI } else { RAX };
        let slow = Slow {
            target: Target::Reg(d, Self::wide(op.ty)),
            ..self.slow_atomic(op, Function::Rmw, base, Source::Reg(b))
        };
        let jump = self.probe(base, 0, op.mem(), true, true);
        let m = Mem::indexed(base, RSI, 0);
        if exchange {
            self.asm.mov(true, RDI, b);
            if op.rmw() == RmwKind::Add {
                self.asm.lock_xadd(log2, m, RDI);
            } else {
                self.asm.xchg(log2, m, RDI);
            }
            if log2 < 2 {
                self.asm.movzx(log2, RDI, RDI);
            }
        } else {
            match log2 {
                0..=1 => self.asm.movzx(log2, RAX, m),
                _ => self.asm.load(log2 == 3, RAX, m),
            }
            let again = self.asm.pos();
            self.combine(op.rmw(), log2, b);
            self.asm.lock_cmpxchg(log2, m, RDI);
            self.asm.jcc_to(cc::NE, self.asm.base + again as u64);
        }
        self.miss(jump, slow);
        self.def(i, d);
    }

    /// rdi = the new value from the old one in rax and the operand.
    fn combine(&mut self, kind: RmwKind, log2: u32, b: u8) {
        let w = log2 == 3;
        match log2 {
            0..=1 => self.asm.movzx(log2, RDI, b),
            _ => self.asm.mov(w, RDI, b),
        }
        let keep_old = match kind {
            RmwKind::Clr => {
                self.asm.unary(unary::NOT, w, RDI);
                return self.asm.alu(alu::AND, w, RDI, RAX);
            }
            RmwKind::Xor => return self.asm.alu(alu::XOR, w, RDI, RAX),
            RmwKind::Or => return self.asm.alu(alu::OR, w, RDI, RAX),
            RmwKind::SMax => cc::L,
            RmwKind::SMin => cc::G,
            RmwKind::UMax => cc::B,
            _ => cc::A,
        };
        self.asm.alu(alu::CMP, w, RDI, RAX);
        self.asm.cmov(keep_old, w, RDI, RAX);
    }

    pub(crate) fn compare_and_swap(&mut self, i: u16, op: &Op) {
        let log2 = op.mem().log2();
        self.take(RAX);
        let expected = self.gpr(op.b);
        self.asm.mov(op.ty == Ty::I64, RAX, expected);
        self.unlock(expected);
        let base = self.gpr(op.a);
        let new = self.gpr(op.c());
        let slow = Slow {
            target: Target::Reg(RAX, Self::wide(op.ty)),
            new: Source::Reg(new),
            ..self.slow_atomic(op, Function::Cas, base, Source::Reg(RAX))
        };
        let jump = self.probe(base, 0, op.mem(), true, true);
        self.asm.lock_cmpxchg(log2, Mem::indexed(base, RSI, 0), new);
        match log2 {
            0..=1 => self.asm.movzx(log2, RAX, RAX),
            2 => self.asm.mov(false, RAX, RAX),
            _ => {}
        }
        self.miss(jump, slow);
        self.def(i, RAX);
    }
}
