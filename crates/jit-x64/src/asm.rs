//! The x86-64 encoder: one method per instruction form that the back end emits.
//!
//! General registers and XMM registers are plain numbers 0..=15. `w` chooses 64-bit operands.
//! Vector instructions are in [`simd`].

mod simd;

/// rax.
pub const RAX: u8 = 0;
/// rcx.
pub const RCX: u8 = 1;
/// rdx.
pub const RDX: u8 = 2;
/// rbx.
pub const RBX: u8 = 3;
/// rsp.
pub const RSP: u8 = 4;
/// rbp.
pub const RBP: u8 = 5;
/// rsi.
pub const RSI: u8 = 6;
/// rdi.
pub const RDI: u8 = 7;
/// r8.
pub const R8: u8 = 8;
/// r12.
pub const R12: u8 = 12;
/// r13.
pub const R13: u8 = 13;
/// r14.
pub const R14: u8 = 14;
/// r15.
pub const R15: u8 = 15;

/// Number of the first ALU operation (`add`), in the order of the opcode map.
pub mod alu {
    /// add
    pub const ADD: u8 = 0;
    /// or
    pub const OR: u8 = 1;
    /// adc
    pub const ADC: u8 = 2;
    /// sbb
    pub const SBB: u8 = 3;
    /// and
    pub const AND: u8 = 4;
    /// sub
    pub const SUB: u8 = 5;
    /// xor
    pub const XOR: u8 = 6;
    /// cmp
    pub const CMP: u8 = 7;
}

/// Shift and rotate operations.
pub mod shift {
    /// rol
    pub const ROL: u8 = 0;
    /// ror
    pub const ROR: u8 = 1;
    /// shl
    pub const SHL: u8 = 4;
    /// shr
    pub const SHR: u8 = 5;
    /// sar
    pub const SAR: u8 = 7;
}

/// One-operand operations of opcode F7.
pub mod unary {
    /// not
    pub const NOT: u8 = 2;
    /// neg
    pub const NEG: u8 = 3;
    /// mul (rdx:rax)
    pub const MUL: u8 = 4;
    /// imul (rdx:rax)
    pub const IMUL: u8 = 5;
    /// div
    pub const DIV: u8 = 6;
    /// idiv
    pub const IDIV: u8 = 7;
}

/// Condition codes.
pub mod cc {
    /// overflow
    pub const O: u8 = 0;
    /// not overflow
    pub const NO: u8 = 1;
    /// below (carry)
    pub const B: u8 = 2;
    /// above or equal (no carry)
    pub const AE: u8 = 3;
    /// equal
    pub const E: u8 = 4;
    /// not equal
    pub const NE: u8 = 5;
    /// below or equal
    pub const BE: u8 = 6;
    /// above
    pub const A: u8 = 7;
    /// sign
    pub const S: u8 = 8;
    /// parity (unordered)
    pub const P: u8 = 10;
    /// no sign
    pub const NS: u8 = 9;
    /// less
    pub const L: u8 = 12;
    /// greater or equal
    pub const GE: u8 = 13;
    /// less or equal
    pub const LE: u8 = 14;
    /// greater
    pub const G: u8 = 15;
}

/// rsp cannot be an index; SIB says so by its number.
pub const NO_INDEX: u8 = RSP;

/// A memory operand `[base + index * scale + disp]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mem {
    /// Base register.
    pub base: u8,
    /// Index register; rsp = none.
    pub index: u8,
    /// log2 of the scale.
    pub scale: u8,
    /// Displacement.
    pub disp: i32,
}

impl Mem {
    /// `[base + disp]`.
    #[must_use]
    pub fn new(base: u8, disp: i32) -> Self {
        Self { base, index: NO_INDEX, scale: 0, disp }
    }
    /// `[base + index + disp]`.
    #[must_use]
    pub fn indexed(base: u8, index: u8, disp: i32) -> Self {
        Self { base, index, scale: 0, disp }
    }
    /// The same operand some bytes further.
    #[must_use]
    pub fn plus(self, bytes: i32) -> Self {
        Self { disp: self.disp.wrapping_add(bytes), ..self }
    }
}

/// Register or memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rm {
    /// A register.
    R(u8),
    /// Memory.
    M(Mem),
    /// A constant at an address near the code; `.1` bytes of immediate operands follow.
    Pool(u64, u8),
}

impl From<Mem> for Rm {
    fn from(m: Mem) -> Self {
        Self::M(m)
    }
}

impl From<u8> for Rm {
    fn from(r: u8) -> Self {
        Self::R(r)
    }
}

/// Mandatory prefix, opcode map (0 = one byte, 1 = 0F, 2 = 0F38, 3 = 0F3A) and opcode.
#[derive(Clone, Copy, Debug)]
pub struct Enc(pub u8, pub u8, pub u8);

impl Enc {
    /// The opcode's bytes, first byte lowest, and their number in bits.
    #[inline(always)] // a constant nearly everywhere
    fn opcode(self) -> (u32, u32) {
        let last = u32::from(self.2);
        match self.1 {
            0 => (last, 8),
            1 => (0x0f | last << 8, 16),
            2 => (0x380f | last << 16, 24),
            _ => (0x3a0f | last << 16, 24),
        }
    }
}

/// The start of an instruction being put together: bytes, first byte lowest, and their number in bits. In
/// a register: bytes that are stored one by one and read back together stall the host. Prefix, REX, three
/// bytes of opcode, ModRM and SIB make seven bytes at most.
#[derive(Clone, Copy)]
struct Head(u64, u32);

impl Head {
    /// What precedes ModRM.
    #[inline(always)]
    fn new(prefix: u8, opcode: (u32, u32), rex: u8, needs_rex: bool) -> Self {
        let mut head = Self(0, 0);
        if prefix != 0 {
            head = Self(u64::from(prefix), 8);
        }
        if rex != 0 || needs_rex {
            head = head.b(0x40 | rex);
        }
        head.bytes(opcode.0, opcode.1)
    }

    #[inline(always)]
    fn bytes(self, bytes: u32, bits: u32) -> Self {
        Self(self.0 | u64::from(bytes).wrapping_shl(self.1), self.1.wrapping_add(bits))
    }

    #[inline(always)]
    fn b(self, byte: u8) -> Self {
        self.bytes(u32::from(byte), 8)
    }

    /// ModRM, SIB and the displacement's length in bytes.
    #[inline(always)]
    fn memory(self, reg: u8, m: Mem) -> (Self, usize) {
        let (reg, base) = ((reg & 7) << 3, m.base & 7);
        let (mode, len) = if m.disp != i32::from(m.disp as i8) {
            (0x80, 4)
        } else if m.disp != 0 || base == RBP {
            (0x40, 1)
        } else {
            (0x00, 0)
        };
        if m.index == NO_INDEX && base != RSP {
            return (self.b(mode | reg | base), len);
        }
        let sib = m.scale << 6 | (m.index & 7) << 3 | base;
        (self.bytes(u32::from(mode | reg | RSP) | u32::from(sib) << 8, 16), len)
    }
}

/// The code being written.
#[derive(Default, Debug)]
pub struct Asm {
    /// Bytes so far.
    pub code: Vec<u8>,
    /// Address at which the first byte will be executed.
    pub base: u64,
}

impl Asm {
    /// Starts over for code at `base`.
    pub fn restart(&mut self, base: u64) {
        self.code.clear();
        self.base = base;
    }
    /// Bytes so far.
    #[must_use]
    pub fn pos(&self) -> usize {
        self.code.len()
    }
    /// Address of the next byte.
    #[must_use]
    pub fn here(&self) -> u64 {
        self.base + self.code.len() as u64
    }
    fn b(&mut self, byte: u8) {
        self.code.push(byte);
    }
    fn imm32(&mut self, v: i32) {
        self.code.extend_from_slice(&v.to_le_bytes());
    }

    /// REX.R, REX.X and REX.B.
    #[inline(always)]
    fn high_bits(reg: u8, rm: Rm) -> (u8, u8, u8) {
        match rm {
            Rm::R(r) => (reg >> 3, 0, r >> 3),
            Rm::Pool(..) => (reg >> 3, 0, 0),
            Rm::M(m) => (reg >> 3, m.index >> 3, m.base >> 3),
        }
    }

    /// An instruction with ModRM; `byte` = the register operands are 8-bit ones that need REX for
    /// numbers 4..=7.
    #[inline(always)] // which of the three it is, callers know
    fn put(&mut self, e: Enc, w: bool, byte: bool, reg: u8, rm: Rm) {
        let w = u8::from(w) << 3;
        match rm {
            Rm::R(r) => self.put_register(e.0, e.opcode(), w, byte, reg, r),
            Rm::M(m) => self.put_memory(e.0, e.opcode(), w, byte, reg, m),
            Rm::Pool(to, more) => {
                let head = Head::new(e.0, e.opcode(), w | reg >> 3 << 2, false);
                self.append_pool(head, reg, to, more);
            }
        }
    }

    fn put_register(&mut self, prefix: u8, op: (u32, u32), w: u8, byte: bool, reg: u8, r: u8) {
        let head = Head::new(prefix, op, w | reg >> 3 << 2 | r >> 3, byte && (reg >= 4 || r >= 4));
        self.append(head.b(0xc0 | (reg & 7) << 3 | r & 7));
    }

    fn put_memory(&mut self, prefix: u8, op: (u32, u32), w: u8, byte: bool, reg: u8, m: Mem) {
        let rex = w | reg >> 3 << 2 | m.index >> 3 << 1 | m.base >> 3;
        self.append_memory(Head::new(prefix, op, rex, byte && reg >= 4), reg, m);
    }

    #[inline(always)]
    fn append(&mut self, head: Head) {
        let end = self.code.len().wrapping_add((head.1 >> 3) as usize);
        self.code.extend_from_slice(&head.0.to_le_bytes());
        self.code.truncate(end);
    }

    #[inline(always)]
    fn append_memory(&mut self, head: Head, reg: u8, m: Mem) {
        let (head, len) = head.memory(reg, m);
        let disp = u64::from(m.disp as u32);
        if head.1 <= 32 {
            let all = head.0 | disp.wrapping_shl(head.1);
            return self.append(Head(all, head.1.wrapping_add((len as u32) << 3)));
        }
        self.append(head);
        self.append(Head(disp, (len as u32) << 3));
    }

    /// The operand is a constant at `to`; `more` bytes of the instruction follow the displacement.
    fn append_pool(&mut self, head: Head, reg: u8, to: u64, more: u8) {
        self.append(head.b((reg & 7) << 3 | RBP));
        let next = self.here().wrapping_add(4 + u64::from(more));
        self.imm32(to.wrapping_sub(next) as i32);
    }

    /// A VEX-coded general instruction; `pp`: 0 none, 1 = 66, 2 = F3, 3 = F2.
    fn vex(&mut self, (map, pp, opcode): (u8, u8, u8), w: bool, v: u8, reg: u8, rm: Rm) {
        let (r, x, b) = Self::high_bits(reg, rm);
        let head = Head(0, 0);
        let head = if x == 0 && b == 0 && map == 1 && !w {
            head.b(0xc5).b((r ^ 1) << 7 | (v ^ 15) << 3 | pp)
        } else {
            let head = head.b(0xc4).b((r ^ 1) << 7 | (x ^ 1) << 6 | (b ^ 1) << 5 | map);
            head.b(u8::from(w) << 7 | (v ^ 15) << 3 | pp)
        };
        let head = head.b(opcode);
        match rm {
            Rm::R(s) => self.append(head.b(0xc0 | (reg & 7) << 3 | s & 7)),
            Rm::M(m) => self.append_memory(head, reg, m),
            Rm::Pool(to, more) => self.append_pool(head, reg, to, more),
        }
    }

    /// mov d, s
    pub fn mov(&mut self, w: bool, d: u8, s: u8) {
        self.put(Enc(0, 0, 0x89), w, false, s, Rm::R(d));
    }
    /// mov d, constant; leaves the flags alone.
    pub fn mov_imm(&mut self, d: u8, v: u64) {
        if let Ok(v) = u32::try_from(v) {
            if d >= 8 {
                self.b(0x41);
            }
            self.b(0xb8 | d & 7);
            self.imm32(v as i32);
        } else if let Ok(v) = i32::try_from(v as i64) {
            self.put(Enc(0, 0, 0xc7), true, false, 0, Rm::R(d));
            self.imm32(v);
        } else {
            self.b(0x48 | d >> 3);
            self.b(0xb8 | d & 7);
            self.code.extend_from_slice(&v.to_le_bytes());
        }
    }
    /// mov d, [m]
    pub fn load(&mut self, w: bool, d: u8, m: Mem) {
        self.put(Enc(0, 0, 0x8b), w, false, d, m.into());
    }
    /// mov [m], s with 4 or 8 bytes
    pub fn store(&mut self, w: bool, m: Mem, s: u8) {
        self.put(Enc(0, 0, 0x89), w, false, s, m.into());
    }
    /// mov [m], s with 1 << log2 bytes
    pub fn store_sized(&mut self, log2: u32, m: Mem, s: u8) {
        match log2 {
            0 => self.put(Enc(0, 0, 0x88), false, true, s, m.into()),
            1 => self.put(Enc(0x66, 0, 0x89), false, false, s, m.into()),
            _ => self.store(log2 == 3, m, s),
        }
    }
    /// mov [m], constant with 1 << log2 bytes (8: sign-extended)
    pub fn store_imm(&mut self, log2: u32, m: Mem, v: i32) {
        match log2 {
            0 => {
                self.put(Enc(0, 0, 0xc6), false, false, 0, m.into());
                self.b(v as u8);
            }
            1 => {
                self.put(Enc(0x66, 0, 0xc7), false, false, 0, m.into());
                self.code.extend_from_slice(&(v as u16).to_le_bytes());
            }
            _ => {
                self.put(Enc(0, 0, 0xc7), log2 == 3, false, 0, m.into());
                self.imm32(v);
            }
        }
    }
    /// movzx d, byte (log2 0) or word (log2 1)
    pub fn movzx(&mut self, log2: u32, d: u8, s: impl Into<Rm>) {
        let s = s.into();
        let byte = log2 == 0 && matches!(s, Rm::R(r) if r >= 4);
        self.put(Enc(0, 1, 0xb6 | log2 as u8), false, byte, d, s);
    }
    /// movsx d, byte, word or double word
    pub fn movsx(&mut self, w: bool, log2: u32, d: u8, s: impl Into<Rm>) {
        let s = s.into();
        if log2 == 2 {
            return self.put(Enc(0, 0, 0x63), w, false, d, s);
        }
        let byte = log2 == 0 && matches!(s, Rm::R(r) if r >= 4);
        self.put(Enc(0, 1, 0xbe | log2 as u8), w, byte, d, s);
    }
    /// lea d, [m]
    pub fn lea(&mut self, w: bool, d: u8, m: Mem) {
        self.put(Enc(0, 0, 0x8d), w, false, d, m.into());
    }
    /// lea d, [rip + …] with the displacement to be set by [`Self::bind`]; gives its place.
    pub fn lea_rip(&mut self, d: u8) -> usize {
        self.b(0x48 | (d >> 3) << 2);
        self.b(0x8d);
        self.b((d & 7) << 3 | 5);
        self.imm32(0);
        self.pos() - 4
    }
    /// lea d, [rip + …] of an earlier place in the code.
    pub fn lea_back(&mut self, d: u8, place: usize) {
        let at = self.lea_rip(d);
        let distance = (place as i64 - (at as i64 + 4)) as i32;
        if let Some(to) = self.code.get_mut(at..at + 4) {
            to.copy_from_slice(&distance.to_le_bytes());
        }
    }
    /// op d, s (ALU)
    pub fn alu(&mut self, op: u8, w: bool, d: u8, s: impl Into<Rm>) {
        self.put(Enc(0, 0, op << 3 | 3), w, false, d, s.into());
    }
    /// op d, constant (ALU)
    pub fn alu_imm(&mut self, op: u8, w: bool, d: impl Into<Rm>, v: i32) {
        if let Ok(v) = i8::try_from(v) {
            self.put(Enc(0, 0, 0x83), w, false, op, d.into());
            self.b(v as u8);
        } else {
            self.put(Enc(0, 0, 0x81), w, false, op, d.into());
            self.imm32(v);
        }
    }
    /// op al, constant (ALU)
    pub fn alu_al(&mut self, op: u8, v: u8) {
        self.b(op << 3 | 4);
        self.b(v);
    }
    /// test d, s
    pub fn test(&mut self, w: bool, d: u8, s: u8) {
        self.put(Enc(0, 0, 0x85), w, false, s, Rm::R(d));
    }
    /// test d, constant
    pub fn test_imm(&mut self, w: bool, d: u8, v: i32) {
        self.put(Enc(0, 0, 0xf7), w, false, 0, Rm::R(d));
        self.imm32(v);
    }
    /// test byte [m], constant
    pub fn test_byte(&mut self, m: Mem, v: u8) {
        self.put(Enc(0, 0, 0xf6), false, false, 0, m.into());
        self.b(v);
    }
    /// op d, count (shift)
    pub fn shift(&mut self, op: u8, w: bool, d: u8, count: u8) {
        self.put(Enc(0, 0, 0xc1), w, false, op, Rm::R(d));
        self.b(count);
    }
    /// op d, cl (shift)
    pub fn shift_cl(&mut self, op: u8, w: bool, d: u8) {
        self.put(Enc(0, 0, 0xd3), w, false, op, Rm::R(d));
    }
    /// shrd d, s, count
    pub fn shrd(&mut self, w: bool, d: u8, s: u8, count: u8) {
        self.put(Enc(0, 1, 0xac), w, false, s, Rm::R(d));
        self.b(count);
    }
    /// op d (not, neg, mul, imul, div, idiv)
    pub fn unary(&mut self, op: u8, w: bool, d: u8) {
        self.put(Enc(0, 0, 0xf7), w, false, op, Rm::R(d));
    }
    /// imul d, s
    pub fn imul(&mut self, w: bool, d: u8, s: u8) {
        self.put(Enc(0, 1, 0xaf), w, false, d, Rm::R(s));
    }
    /// imul d, s, constant
    pub fn imul_imm(&mut self, w: bool, d: u8, s: u8, v: i32) {
        self.put(Enc(0, 0, 0x69), w, false, d, Rm::R(s));
        self.imm32(v);
    }
    /// cdq / cqo
    pub fn cqo(&mut self, w: bool) {
        if w {
            self.b(0x48);
        }
        self.b(0x99);
    }
    /// bswap d
    pub fn bswap(&mut self, w: bool, d: u8) {
        let rex = u8::from(w) << 3 | d >> 3;
        if rex != 0 {
            self.b(0x40 | rex);
        }
        self.b(0x0f);
        self.b(0xc8 | d & 7);
    }
    /// bt d, bit
    pub fn bt(&mut self, w: bool, d: u8, bit: u8) {
        self.put(Enc(0, 1, 0xba), w, false, 4, Rm::R(d));
        self.b(bit);
    }
    /// bt word [m], bit
    pub fn bt_word(&mut self, m: Mem, bit: u8) {
        self.put(Enc(0x66, 1, 0xba), false, false, 4, m.into());
        self.b(bit);
    }
    /// bsr d, s
    pub fn bsr(&mut self, w: bool, d: u8, s: u8) {
        self.put(Enc(0, 1, 0xbd), w, false, d, Rm::R(s));
    }
    /// lzcnt d, s
    pub fn lzcnt(&mut self, w: bool, d: u8, s: u8) {
        self.put(Enc(0xf3, 1, 0xbd), w, false, d, Rm::R(s));
    }
    /// setcc d (8-bit)
    pub fn setcc(&mut self, cc: u8, d: u8) {
        self.put(Enc(0, 1, 0x90 | cc), false, d >= 4, 0, Rm::R(d));
    }
    /// cmovcc d, s
    pub fn cmov(&mut self, cc: u8, w: bool, d: u8, s: u8) {
        self.put(Enc(0, 1, 0x40 | cc), w, false, d, Rm::R(s));
    }
    /// lahf; seto al: the flags image in ax.
    pub fn flags_to_ax(&mut self) {
        self.b(0x9f);
        self.setcc(cc::O, RAX);
    }
    /// and al, 1; add al, 0x7f; sahf: the flags from an image in ax.
    pub fn ax_to_flags(&mut self, exact: bool) {
        if !exact {
            self.alu_al(alu::AND, 1);
        }
        self.alu_al(alu::ADD, 0x7f);
        self.b(0x9e);
    }
    /// cmc
    pub fn cmc(&mut self) {
        self.b(0xf5);
    }
    /// andn d, a, b = !a & b
    pub fn andn(&mut self, w: bool, d: u8, a: u8, b: u8) {
        self.vex((2, 0, 0xf2), w, a, d, Rm::R(b));
    }
    /// shlx, shrx or sarx d, a, count (op = a [`shift`] number)
    pub fn shift_x(&mut self, op: u8, w: bool, d: u8, a: u8, count: u8) {
        let pp = match op {
            shift::SHL => 1,
            shift::SHR => 3,
            _ => 2,
        };
        self.vex((2, pp, 0xf7), w, count, d, Rm::R(a));
    }
    /// mulx hi, lo, s: rdx * s; leaves the flags alone.
    pub fn mulx(&mut self, w: bool, hi: u8, lo: u8, s: u8) {
        self.vex((2, 3, 0xf6), w, lo, hi, Rm::R(s));
    }
    /// rorx d, s, count
    pub fn rorx(&mut self, w: bool, d: u8, s: u8, count: u8) {
        self.vex((3, 3, 0xf0), w, 0, d, Rm::R(s));
        self.b(count);
    }
    /// pext d, a, mask
    pub fn pext(&mut self, d: u8, a: u8, mask: u8) {
        self.vex((2, 2, 0xf5), false, a, d, Rm::R(mask));
    }
    /// pdep d, a, mask
    pub fn pdep(&mut self, d: u8, a: u8, mask: u8) {
        self.vex((2, 3, 0xf5), false, a, d, Rm::R(mask));
    }
    /// push r
    pub fn push(&mut self, r: u8) {
        if r >= 8 {
            self.b(0x41);
        }
        self.b(0x50 | r & 7);
    }
    /// pop r
    pub fn pop(&mut self, r: u8) {
        if r >= 8 {
            self.b(0x41);
        }
        self.b(0x58 | r & 7);
    }
    /// push constant
    pub fn push_imm(&mut self, v: i32) {
        self.b(0x68);
        self.imm32(v);
    }
    /// ret
    pub fn ret(&mut self) {
        self.b(0xc3);
    }
    /// ret, dropping bytes of arguments
    pub fn ret_drop(&mut self, bytes: u16) {
        self.b(0xc2);
        self.code.extend_from_slice(&bytes.to_le_bytes());
    }
    /// jmp r
    pub fn jmp_reg(&mut self, r: u8) {
        self.put(Enc(0, 0, 0xff), false, false, 4, Rm::R(r));
    }
    /// call r
    pub fn call_reg(&mut self, r: u8) {
        self.put(Enc(0, 0, 0xff), false, false, 2, Rm::R(r));
    }
    fn rel(&mut self, target: u64) {
        let from = self.here() + 4;
        self.imm32(target.wrapping_sub(from) as i32);
    }
    /// jmp to an address
    pub fn jmp_to(&mut self, target: u64) {
        self.b(0xe9);
        self.rel(target);
    }
    /// call an address
    pub fn call_to(&mut self, target: u64) {
        self.b(0xe8);
        self.rel(target);
    }
    /// jcc to an address
    pub fn jcc_to(&mut self, cc: u8, target: u64) {
        self.b(0x0f);
        self.b(0x80 | cc);
        self.rel(target);
    }
    /// jcc forward; gives the place for [`Self::bind`].
    pub fn jcc(&mut self, cc: u8) -> usize {
        self.b(0x0f);
        self.b(0x80 | cc);
        self.imm32(0);
        self.pos() - 4
    }
    /// jmp forward; gives the place for [`Self::bind`].
    pub fn jmp(&mut self) -> usize {
        self.b(0xe9);
        self.imm32(0);
        self.pos() - 4
    }
    /// call forward; gives the place of its displacement.
    pub fn call(&mut self) -> usize {
        self.b(0xe8);
        self.imm32(0);
        self.pos() - 4
    }
    /// Lets a forward reference lead here.
    pub fn bind(&mut self, at: usize) {
        let d = (self.pos() - at - 4) as u32;
        if let Some(to) = self.code.get_mut(at..at + 4) {
            to.copy_from_slice(&d.to_le_bytes());
        }
    }
    /// Short jcc forward; for [`Self::bind_short`].
    pub fn jcc_short(&mut self, cc: u8) -> usize {
        self.b(0x70 | cc);
        self.b(0);
        self.pos() - 1
    }
    /// Short jmp forward; for [`Self::bind_short`].
    pub fn jmp_short(&mut self) -> usize {
        self.b(0xeb);
        self.b(0);
        self.pos() - 1
    }
    /// Lets a short forward reference lead here.
    pub fn bind_short(&mut self, at: usize) {
        let d = self.pos() - at - 1;
        debug_assert!(d < 128, "short jump over {d} bytes");
        if let Some(to) = self.code.get_mut(at) {
            *to = d as u8;
        }
    }
    /// Pads so that the 4 bytes after the next `opcode_bytes` are aligned.
    pub fn align_field(&mut self, opcode_bytes: u64) {
        let n = (self.here() + opcode_bytes).wrapping_neg() & 3;
        self.code.extend_from_slice(match n {
            0 => &[],
            1 => &[0x90],
            2 => &[0x66, 0x90],
            _ => &[0x0f, 0x1f, 0x00],
        });
    }
    /// Fills up to a multiple of 16 bytes with instructions that do nothing.
    pub fn align_code(&mut self) {
        let mut n = self.here().wrapping_neg() as usize & 15;
        while n > 0 {
            const NOPS: [&[u8]; 8] = [
                &[0x90],
                &[0x66, 0x90],
                &[0x0f, 0x1f, 0x00],
                &[0x0f, 0x1f, 0x40, 0],
                &[0x0f, 0x1f, 0x44, 0, 0],
                &[0x66, 0x0f, 0x1f, 0x44, 0, 0],
                &[0x0f, 0x1f, 0x80, 0, 0, 0, 0],
                &[0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
            ];
            let nop = NOPS[n.min(8) - 1];
            self.code.extend_from_slice(nop);
            n -= nop.len();
        }
    }
    /// lock or dword [rsp], 0: a full barrier.
    pub fn barrier(&mut self) {
        self.b(0xf0);
        self.alu_imm(alu::OR, false, Mem::new(RSP, 0), 0);
    }
    /// lock cmpxchg [m], s (1 << log2 bytes)
    pub fn lock_cmpxchg(&mut self, log2: u32, m: Mem, s: u8) {
        self.b(0xf0);
        let e = if log2 == 1 { 0x66 } else { 0 };
        let opcode = if log2 == 0 { 0xb0 } else { 0xb1 };
        self.put(Enc(e, 1, opcode), log2 == 3, log2 == 0, s, m.into());
    }
    /// lock xadd [m], s (1 << log2 bytes)
    pub fn lock_xadd(&mut self, log2: u32, m: Mem, s: u8) {
        self.b(0xf0);
        let e = if log2 == 1 { 0x66 } else { 0 };
        let opcode = if log2 == 0 { 0xc0 } else { 0xc1 };
        self.put(Enc(e, 1, opcode), log2 == 3, log2 == 0, s, m.into());
    }
    /// xchg [m], s (1 << log2 bytes)
    pub fn xchg(&mut self, log2: u32, m: Mem, s: u8) {
        let e = if log2 == 1 { 0x66 } else { 0 };
        let opcode = if log2 == 0 { 0x86 } else { 0x87 };
        self.put(Enc(e, 0, opcode), log2 == 3, log2 == 0, s, m.into());
    }
    /// lock cmpxchg16b [m]
    pub fn lock_cmpxchg16b(&mut self, m: Mem) {
        self.b(0xf0);
        self.put(Enc(0, 1, 0xc7), true, false, 1, m.into());
    }
}
