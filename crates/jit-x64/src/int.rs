//! Integer ops.

use jit_ir::{Op, Opcode, Ty, Val};

use crate::asm::{Mem, RAX, RCX, RDX, alu, cc, shift, unary};
use crate::emit::Emit;

impl Emit<'_> {
    pub(crate) fn int_op(&mut self, i: u16, op: &Op) {
        match op.code {
            Opcode::Add => self.add(i, op),
            Opcode::Sub => self.sub(i, op),
            Opcode::And => self.bitwise(i, op, alu::AND),
            Opcode::Or => self.bitwise(i, op, alu::OR),
            Opcode::Xor => self.bitwise(i, op, alu::XOR),
            Opcode::AddC => self.add_carry(i, op),
            Opcode::AndNot => self.and_not(i, op),
            Opcode::Not => {
                let d = self.copied(op);
                self.asm.unary(unary::NOT, Self::wide(op.ty), d);
                self.def(i, d);
            }
            Opcode::Mul => self.mul(i, op),
            Opcode::MulHiU | Opcode::MulHiS => self.mul_high(i, op),
            Opcode::DivU | Opcode::DivS => self.divide(i, op),
            Opcode::Shl | Opcode::Shr | Opcode::Sar | Opcode::Ror => self.shift(i, op),
            Opcode::Extr => self.extract(i, op),
            Opcode::Ubfx => self.ubfx(i, op),
            Opcode::Sbfx => self.sbfx(i, op),
            Opcode::Bfi => self.bfi(i, op),
            Opcode::Zext32 => self.zext(i, op),
            Opcode::Trunc => {
                let r = self.al.root(op.a);
                self.al.alias(i, r);
            }
            Opcode::Sext32 => {
                let a = self.gpr(op.a);
                let d = self.dst(0);
                self.asm.movsx(true, 2, d, a);
                self.def(i, d);
            }
            Opcode::Clz => self.clz(i, op),
            Opcode::Rbit => self.rbit(i, op),
            Opcode::Rev => self.rev(i, op),
            _ => debug_assert!(false, "{} is not an integer op", op.code.text()),
        }
    }

    /// A register for the result that holds a copy of operand a; flags are not touched.
    fn copied(&mut self, op: &Op) -> u8 {
        let a = self.gpr(op.a);
        let d = self.dst(0);
        if d != a {
            self.asm.mov(Self::wide(op.ty), d, a);
        }
        d
    }

    /// Like [`Self::copied`], in a register other than that of operand b, which is given too.
    fn copied_beside(&mut self, op: &Op) -> (u8, u8) {
        let (a, b) = (self.gpr(op.a), self.gpr(op.b));
        let d = self.dst(1 << b);
        if d != a {
            self.asm.mov(Self::wide(op.ty), d, a);
        }
        (d, b)
    }

    fn add(&mut self, i: u16, op: &Op) {
        let w = Self::wide(op.ty);
        let wanted = self.wanted();
        if wanted.is_some() {
            self.clobber_flags();
        }
        let imm = self.al.imm32(self.block, op.b);
        let a = self.gpr(op.a);
        let b = if imm.is_none() { self.gpr(op.b) } else { a };
        self.keep_operands(a, imm.ok_or(b));
        let d = self.dst(0);
        match (wanted, imm) {
            (None, Some(v)) => self.asm.lea(w, d, Mem::new(a, v)),
            (None, None) => self.asm.lea(w, d, Mem::indexed(a, b, 0)),
            (Some(_), Some(v)) => {
                if d != a {
                    self.asm.mov(w, d, a);
                }
                self.asm.alu_imm(alu::ADD, w, d, v);
            }
            (Some(_), None) if d == b => self.asm.alu(alu::ADD, w, d, a),
            (Some(_), None) => {
                if d != a {
                    self.asm.mov(w, d, a);
                }
                self.asm.alu(alu::ADD, w, d, b);
            }
        }
        self.def(i, d);
        if let Some(f) = wanted {
            self.flags_are(f, false);
        }
    }

    fn sub(&mut self, i: u16, op: &Op) {
        let w = Self::wide(op.ty);
        let wanted = self.wanted();
        let imm = self.al.imm32(self.block, op.b);
        if let (None, Some(v)) = (wanted, imm)
            && v != i32::MIN
        {
            let a = self.gpr(op.a);
            let d = self.dst(0);
            self.asm.lea(w, d, Mem::new(a, -v));
            return self.def(i, d);
        }
        self.clobber_flags();
        let a = self.gpr(op.a);
        let b = self.second(op.b);
        self.keep_operands(a, b);
        if !self.al.is_used(i) {
            self.compare(w, a, b);
        } else {
            let d = self.dst(b.map_or_else(|b| 1 << b, |_| 0));
            if d != a {
                self.asm.mov(w, d, a);
            }
            match b {
                Ok(v) => self.asm.alu_imm(alu::SUB, w, d, v),
                Err(b) => self.asm.alu(alu::SUB, w, d, b),
            }
            self.def(i, d);
        }
        if let Some(f) = wanted {
            self.flags_are(f, true);
        }
    }

    fn bitwise(&mut self, i: u16, op: &Op, code: u8) {
        let w = Self::wide(op.ty);
        self.clobber_flags();
        let imm = self.al.imm32(self.block, op.b);
        let a = self.gpr(op.a);
        let b = if imm.is_none() { self.gpr(op.b) } else { a };
        self.keep_operands(a, imm.ok_or(b));
        let wanted = self.wanted();
        if wanted.is_some() && !self.al.is_used(i) {
            match imm {
                Some(v) => self.asm.test_imm(w, a, v),
                None => self.asm.test(w, a, b),
            }
        } else {
            let d = self.dst(0);
            match imm {
                None if d == b => self.asm.alu(code, w, d, a),
                _ => {
                    if d != a {
                        self.asm.mov(w, d, a);
                    }
                    match imm {
                        Some(v) => self.asm.alu_imm(code, w, d, v),
                        None => self.asm.alu(code, w, d, b),
                    }
                }
            }
            self.def(i, d);
        }
        if let Some(f) = wanted {
            self.flags_are(f, false);
        }
    }

    fn and_not(&mut self, i: u16, op: &Op) {
        let w = Self::wide(op.ty);
        self.clobber_flags();
        let (a, b) = (self.gpr(op.a), self.gpr(op.b));
        if self.features.bmi1 {
            let d = self.dst(0);
            self.asm.andn(w, d, b, a);
            return self.def(i, d);
        }
        let t = self.temp();
        self.asm.mov(w, t, b);
        self.asm.unary(unary::NOT, w, t);
        self.asm.alu(alu::AND, w, t, a);
        self.def(i, t);
    }

    fn mul(&mut self, i: u16, op: &Op) {
        let w = Self::wide(op.ty);
        if self.features.bmi2 && self.flags_needed() {
            return self.mul_beside_flags(i, op, false);
        }
        self.clobber_flags();
        if let Some(v) = self.al.imm32(self.block, op.b) {
            let a = self.gpr(op.a);
            let d = self.dst(0);
            self.asm.imul_imm(w, d, a, v);
            return self.def(i, d);
        }
        let (a, b) = (self.gpr(op.a), self.gpr(op.b));
        let d = self.dst(0);
        if d == b {
            self.asm.imul(w, d, a);
        } else {
            if d != a {
                self.asm.mov(w, d, a);
            }
            self.asm.imul(w, d, b);
        }
        self.def(i, d);
    }

    /// A product that leaves the host flags alone: sums of many words go on in the carry.
    fn mul_beside_flags(&mut self, i: u16, op: &Op, high: bool) {
        let w = Self::wide(op.ty);
        self.take(RDX);
        let (a, b) = (self.gpr(op.a), self.gpr(op.b));
        let d = self.dst(1 << RDX);
        if a != RDX {
            self.asm.mov(w, RDX, a);
        }
        if high {
            self.asm.mulx(w, d, d, b);
        } else {
            let t = self.temp();
            self.asm.mulx(w, t, d, b);
        }
        self.def(i, d);
    }

    fn mul_high(&mut self, i: u16, op: &Op) {
        if self.features.bmi2 && op.code == Opcode::MulHiU && self.flags_needed() {
            return self.mul_beside_flags(i, op, true);
        }
        self.clobber_flags();
        self.take(RAX);
        self.take(RDX);
        let (a, b) = (self.gpr(op.a), self.gpr(op.b));
        self.asm.mov(true, RAX, a);
        let code = if op.code == Opcode::MulHiU { unary::MUL } else { unary::IMUL };
        self.asm.unary(code, true, b);
        self.def(i, RDX);
    }

    fn divide(&mut self, i: u16, op: &Op) {
        let w = Self::wide(op.ty);
        let signed = op.code == Opcode::DivS;
        self.clobber_flags();
        self.take(RAX);
        self.take(RDX);
        let (a, b) = (self.gpr(op.a), self.gpr(op.b));
        self.asm.mov(w, RAX, a);
        self.asm.test(w, b, b);
        let by_zero = self.asm.jcc_short(cc::E);
        let mut by_minus_one = None;
        if signed {
            self.asm.alu_imm(alu::CMP, w, b, -1);
            by_minus_one = Some(self.asm.jcc_short(cc::E));
            self.asm.cqo(w);
            self.asm.unary(unary::IDIV, w, b);
        } else {
            self.asm.alu(alu::XOR, false, RDX, RDX);
            self.asm.unary(unary::DIV, w, b);
        }
        let done = self.asm.jmp_short();
        let mut negated = None;
        if let Some(at) = by_minus_one {
            self.asm.bind_short(at);
            self.asm.unary(unary::NEG, w, RAX);
            negated = Some(self.asm.jmp_short());
        }
        self.asm.bind_short(by_zero);
        self.asm.alu(alu::XOR, false, RAX, RAX);
        self.asm.bind_short(done);
        if let Some(at) = negated {
            self.asm.bind_short(at);
        }
        self.def(i, RAX);
    }

    fn shift(&mut self, i: u16, op: &Op) {
        let w = Self::wide(op.ty);
        let code = match op.code {
            Opcode::Shl => shift::SHL,
            Opcode::Shr => shift::SHR,
            Opcode::Sar => shift::SAR,
            _ => shift::ROR,
        };
        if let Some(n) = self.al.constant(self.block, op.b) {
            let n = (n & if w { 63 } else { 31 }) as u8;
            self.clobber_flags();
            return self.shift_const(i, op, code, n);
        }
        if self.features.bmi2 && code != shift::ROR {
            let (a, b) = (self.gpr(op.a), self.gpr(op.b));
            let d = self.dst(0);
            self.asm.shift_x(code, w, d, a, b);
            return self.def(i, d);
        }
        self.clobber_flags();
        self.take(RCX);
        let (a, b) = (self.gpr(op.a), self.gpr(op.b));
        self.asm.mov(false, RCX, b);
        let d = self.dst(1 << RCX);
        if d != a {
            self.asm.mov(w, d, a);
        }
        self.asm.shift_cl(code, w, d);
        self.def(i, d);
    }

    fn shift_const(&mut self, i: u16, op: &Op, code: u8, n: u8) {
        let w = Self::wide(op.ty);
        let a = self.gpr(op.a);
        let d = self.dst(0);
        if n != 0 && code == shift::ROR && self.features.bmi2 && d != a {
            self.asm.rorx(w, d, a, n);
        } else {
            if d != a || !w {
                self.asm.mov(w, d, a);
            }
            if n != 0 {
                self.asm.shift(code, w, d, n);
            }
        }
        self.def(i, d);
    }

    fn extract(&mut self, i: u16, op: &Op) {
        let w = Self::wide(op.ty);
        let n = (op.aux & if w { 63 } else { 31 }) as u8;
        self.clobber_flags();
        let (a, b) = (self.gpr(op.a), self.gpr(op.b));
        if n == 0 || a == b {
            let d = self.dst(0);
            self.asm.mov(w, d, b);
            if n != 0 {
                self.asm.shift(shift::ROR, w, d, n);
            }
            return self.def(i, d);
        }
        let d = self.dst(1 << a);
        if d != b {
            self.asm.mov(w, d, b);
        }
        self.asm.shrd(w, d, a, n);
        self.def(i, d);
    }

    /// lsb, width and the register width of a field op; the width never reaches past the register.
    fn field(op: &Op) -> (u8, u8, u8) {
        let bits: u16 = if op.ty == Ty::I32 { 32 } else { 64 };
        let lsb = (op.aux & 0xff).min(bits - 1);
        let len = (op.aux >> 8).clamp(1, bits).min(bits - lsb);
        (lsb as u8, len as u8, bits as u8)
    }

    fn ubfx(&mut self, i: u16, op: &Op) {
        let (lsb, len, bits) = Self::field(op);
        let w = bits == 64;
        let a = self.gpr(op.a);
        let d = match (lsb, len) {
            (0, 8) => {
                let d = self.dst(0);
                self.asm.movzx(0, d, a);
                d
            }
            (0, 16) => {
                let d = self.dst(0);
                self.asm.movzx(1, d, a);
                d
            }
            (0, 32) => {
                let d = self.dst(0);
                self.asm.mov(false, d, a);
                d
            }
            _ => {
                self.unlock(a);
                self.clobber_flags();
                let d = self.copied(op);
                if lsb + len < bits && len < 32 {
                    if lsb != 0 {
                        self.asm.shift(shift::SHR, w, d, lsb);
                    }
                    let mask = ((1u64 << len) - 1) as i32;
                    self.asm.alu_imm(alu::AND, false, d, mask);
                } else {
                    let up = bits - lsb - len;
                    if up != 0 {
                        self.asm.shift(shift::SHL, w, d, up);
                    }
                    if up + lsb != 0 {
                        self.asm.shift(shift::SHR, w, d, up + lsb);
                    }
                }
                d
            }
        };
        self.def(i, d);
    }

    fn sbfx(&mut self, i: u16, op: &Op) {
        let (lsb, len, bits) = Self::field(op);
        if u16::from(len) < (op.aux >> 8).clamp(1, 64) && op.aux >> 8 != 0 {
            // The field reaches past the register, where zeros are.
            return self.ubfx(i, op);
        }
        let w = bits == 64;
        if (lsb, len, w) == (0, 32, false) {
            return self.ubfx(i, op);
        }
        let narrow = match (lsb, len) {
            (0, 8) => Some(0),
            (0, 16) => Some(1),
            (0, 32) => Some(2),
            _ => None,
        };
        if let Some(log2) = narrow {
            let a = self.gpr(op.a);
            let d = self.dst(0);
            self.asm.movsx(w, log2, d, a);
            return self.def(i, d);
        }
        self.clobber_flags();
        let d = self.copied(op);
        let up = bits - lsb - len;
        if up != 0 {
            self.asm.shift(shift::SHL, w, d, up);
        }
        if up + lsb != 0 {
            self.asm.shift(shift::SAR, w, d, up + lsb);
        }
        self.def(i, d);
    }

    /// Rotates the field to the bottom, shifts it out while the new one comes in at the top, rotates
    /// back.
    fn bfi(&mut self, i: u16, op: &Op) {
        let (lsb, len, bits) = Self::field(op);
        let w = bits == 64;
        self.clobber_flags();
        if len == bits {
            let b = self.gpr(op.b);
            let d = self.dst(0);
            self.asm.mov(w, d, b);
            return self.def(i, d);
        }
        let (d, b) = self.copied_beside(op);
        if lsb != 0 {
            self.asm.shift(shift::ROR, w, d, lsb);
        }
        self.asm.shrd(w, d, b, len);
        let back = (lsb + len) & (bits - 1);
        if back != 0 {
            self.asm.shift(shift::ROL, w, d, back);
        }
        self.def(i, d);
    }

    fn zext(&mut self, i: u16, op: &Op) {
        if self.is_clean(op.a) {
            let r = self.al.root(op.a);
            return self.al.alias(i, r);
        }
        let a = self.gpr(op.a);
        let d = self.dst(0);
        self.asm.mov(false, d, a);
        self.def(i, d);
    }

    fn clz(&mut self, i: u16, op: &Op) {
        let w = Self::wide(op.ty);
        self.clobber_flags();
        let a = self.gpr(op.a);
        if self.features.lzcnt {
            let d = self.dst(0);
            self.asm.lzcnt(w, d, a);
            return self.def(i, d);
        }
        let (t, d) = (self.temp(), self.temp());
        self.asm.mov_imm(t, u64::MAX);
        self.asm.bsr(w, d, a);
        self.asm.cmov(cc::E, w, d, t);
        self.asm.unary(unary::NEG, w, d);
        self.asm.alu_imm(alu::ADD, w, d, if w { 63 } else { 31 });
        self.def(i, d);
    }

    fn rbit(&mut self, i: u16, op: &Op) {
        let w = Self::wide(op.ty);
        self.clobber_flags();
        let a = self.gpr(op.a);
        let (d, t, m) = (self.temp(), self.temp(), self.temp());
        self.asm.mov(w, d, a);
        self.asm.bswap(w, d);
        let masks = [0x0f0f_0f0f_0f0f_0f0fu64, 0x3333_3333_3333_3333, 0x5555_5555_5555_5555];
        for (mask, n) in masks.into_iter().zip([4, 2, 1]) {
            self.asm.mov_imm(m, if w { mask } else { mask & 0xffff_ffff });
            self.swap_groups(w, d, t, m, n);
        }
        self.def(i, d);
    }

    /// d = (d & m) << n | d >> n & m.
    fn swap_groups(&mut self, w: bool, d: u8, t: u8, m: u8, n: u8) {
        self.asm.mov(w, t, d);
        self.asm.shift(shift::SHR, w, t, n);
        self.asm.alu(alu::AND, w, t, m);
        self.asm.alu(alu::AND, w, d, m);
        self.asm.shift(shift::SHL, w, d, n);
        self.asm.alu(alu::OR, w, d, t);
    }

    fn rev(&mut self, i: u16, op: &Op) {
        let w = Self::wide(op.ty);
        self.clobber_flags();
        if op.aux == 1 && w {
            let a = self.gpr(op.a);
            let (d, t, m) = (self.temp(), self.temp(), self.temp());
            self.asm.mov(true, d, a);
            self.asm.mov_imm(m, 0x00ff_00ff_00ff_00ff);
            self.swap_groups(true, d, t, m, 8);
            return self.def(i, d);
        }
        let d = self.copied(op);
        self.asm.bswap(w, d);
        if op.aux == 1 {
            self.asm.shift(shift::ROL, false, d, 16);
        } else if op.aux == 2 && w {
            self.asm.shift(shift::ROL, true, d, 32);
        }
        self.def(i, d);
    }

    /// Whether a value is zero, as host condition E.
    pub(crate) fn test_zero(&mut self, v: Val) {
        self.clobber_flags();
        let w = Self::wide(self.block.def(v).result_ty());
        let r = self.gpr(v);
        self.asm.test(w, r, r);
    }
}
