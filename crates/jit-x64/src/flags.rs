//! Guest flags: in the host flags as long as nothing clobbers them, else as a stored image.
//!
//! The image is what `lahf; seto al` give, with C in the guest's sense. Images are kept in memory
//! only, in a spill slot or in the guest's flags slot.

use jit_ir::opt::Passes;
use jit_ir::state::image;
use jit_ir::{Cond, Op, Opcode, Ty, Val};

use crate::alloc::{Alloc, FLAGS_SLOT, NONE, SPILL_SLOTS};
use crate::asm::{Mem, RAX, alu, cc, shift};
use crate::emit::Emit;

/// What the host flags and the guest's flags slot hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flags {
    /// Root whose flags the host flags are, or `NONE`.
    live: u16,
    /// The host's carry is the opposite of C.
    inverted: bool,
    /// The host flags are those of a floating-point compare; with the operands exchanged.
    compared: Option<bool>,
    /// Root whose image the guest's flags slot is, or `NONE`.
    in_slot: u16,
}

impl Default for Flags {
    fn default() -> Self {
        Self { live: NONE, inverted: false, compared: None, in_slot: NONE }
    }
}

/// Bits of the image for `pext` and `pdep`, lowest first: V C Z N.
const IMAGE_BITS: u64 = (image::N | image::Z | image::C | image::V) as u64;

impl Emit<'_> {
    pub(crate) fn flag_op(&mut self, i: u16, op: &Op) {
        match op.code {
            Opcode::GetCc => match self.flags.in_slot {
                r if self.al.lives(r) => self.al.alias(i, r),
                _ => {
                    self.flags.in_slot = i;
                    self.al.slot(i).spill = FLAGS_SLOT;
                }
            },
            Opcode::SetCc => self.set_cc(op),
            Opcode::FlagsOf => {
                if self.flags.live != i && self.al.slot(i).spill == NONE {
                    self.recompute(i, op);
                }
            }
            Opcode::CcFromNzcv => self.cc_from_nzcv(i, op),
            Opcode::NzcvOf => self.nzcv_of(i, op),
            Opcode::Ccmp => self.ccmp(i, op),
            Opcode::CondVal => {
                let cond = self.cond(op.a, op.cond());
                let d = self.dst(0);
                self.set_bool(cond, d);
                self.def(i, d);
            }
            Opcode::Select => self.select(i, op),
            _ => self.cmp_set(i, op),
        }
    }

    /// d = condition ? 1 : 0 without touching the flags.
    fn set_bool(&mut self, cond: u8, d: u8) {
        self.asm.setcc(cond, d);
        self.asm.movzx(0, d, d);
    }

    /// Declares that the host flags are those of root `i`.
    pub(crate) fn flags_are(&mut self, i: u16, inverted: bool) {
        self.flags = Flags { live: i, inverted, compared: None, ..self.flags };
        if !self.pass(Passes::FLAGS) {
            self.save_image();
            self.flags.live = NONE;
        }
    }

    /// Declares that the host flags are those of ucomis or comis for root `i`.
    pub(crate) fn compared(&mut self, i: u16, swapped: bool) {
        self.flags = Flags { live: i, inverted: false, compared: Some(swapped), ..self.flags };
        if !self.pass(Passes::FLAGS) {
            self.save_image();
            self.flags.live = NONE;
        }
    }

    /// The flags op that wants the flags of the current op right after it.
    pub(crate) fn wanted(&self) -> Option<u16> {
        Some(self.al.vals[usize::from(self.al.at)].flags_of).filter(|w| *w != NONE)
    }

    /// To be called before host flags change: keeps what is needed after the current op.
    pub(crate) fn clobber_flags(&mut self) {
        if self.flags.live != NONE {
            self.keep_flags();
            self.flags.live = NONE;
        }
    }

    /// Whether the host flags are of use after the current op.
    pub(crate) fn flags_needed(&self) -> bool {
        self.flags.live != NONE && self.al.lives(self.flags.live)
    }

    /// Makes sure that flags needed after the current op have an image.
    fn keep_flags(&mut self) {
        let r = self.flags.live;
        if self.al.lives(r) && self.al.slot(r).spill == NONE && !self.keep_compared(r) {
            self.save_image();
        }
    }

    /// Keeps the operands of flags instead of an image, so that [`Self::revive`] can compare them again, if
    /// they are still there. That is shorter than making an image and looking into it.
    fn keep_compared(&mut self, r: u16) -> bool {
        let (op, last) = (self.block.ops[usize::from(r)], self.al.slot(r).last);
        if op.code != Opcode::FlagsOf {
            return false;
        }
        let def = *self.block.def(op.a);
        if !matches!(def.code, Opcode::Sub | Opcode::And) {
            return false;
        }
        let roots = [self.al.root(def.a), self.al.root(def.b)];
        let is_const = |root: u16| self.block.ops[usize::from(root)].code == Opcode::Const;
        if !roots.iter().all(|v| is_const(*v) || self.al.reg(*v).is_some()) {
            return false;
        }
        for root in roots {
            let s = self.al.slot(root);
            s.last = s.last.max(last);
        }
        true
    }

    /// Makes flags without an image the host's again.
    fn revive(&mut self, r: u16) {
        let op = self.block.ops[usize::from(r)];
        if self.flags.live == r || self.al.slot(r).spill != NONE || op.code != Opcode::FlagsOf {
            return;
        }
        let locked = self.al.locked;
        self.recompute(r, &op);
        self.al.locked = locked;
    }

    /// Stores the host flags to a spill slot.
    fn save_image(&mut self) {
        let r = self.flags.live;
        let was_locked = self.al.locked;
        self.image_to_ax();
        let s = self.al.new_spill(r);
        self.asm.store_sized(1, Alloc::spill_mem(s), RAX);
        self.al.locked = was_locked;
    }

    /// Takes rax for the image of the host flags.
    fn image_to_ax(&mut self) {
        self.take(RAX);
        if let Some(swapped) = self.flags.compared {
            return self.compare_image(swapped);
        }
        self.straighten();
        self.asm.flags_to_ax();
    }

    /// ax = the image of a floating-point compare's flags; leaves the host flags alone.
    fn compare_image(&mut self, swapped: bool) {
        let t = self.temp();
        let (above, below) = if swapped { (image::N, image::C) } else { (image::C, image::N) };
        self.asm.mov_imm(RAX, u64::from(above));
        let cases = [(cc::B, below), (cc::E, image::Z | image::C), (cc::P, image::C | image::V)];
        for (code, v) in cases {
            self.asm.mov_imm(t, u64::from(v));
            self.asm.cmov(code, false, RAX, t);
        }
        self.unlock(t);
    }

    /// Gives up host flags that are not those of an integer op, for an image of them.
    fn leave_compare(&mut self) {
        let r = self.flags.live;
        if self.al.slot(r).spill == NONE {
            self.save_image();
        }
        self.flags.live = NONE;
    }

    /// Makes the host's carry equal to C.
    fn straighten(&mut self) {
        if self.flags.inverted {
            self.asm.cmc();
            self.flags.inverted = false;
        }
    }

    fn slot_mem(&self) -> Mem {
        self.state(i64::from(self.cx.layout.flags))
    }

    /// Where the image of a root is.
    fn image(&mut self, root: u16) -> Mem {
        let s = self.al.slot(root).spill;
        debug_assert!(s != NONE, "flags v{root} are nowhere");
        if s < SPILL_SLOTS { Alloc::spill_mem(s) } else { self.slot_mem() }
    }

    /// The flags slot is about to change: saves the image in it if that is still needed and is not
    /// that of `except`.
    pub(crate) fn rescue_flags_slot(&mut self, except: u16) {
        let r = std::mem::replace(&mut self.flags.in_slot, NONE);
        if r == NONE || r == except || self.al.slot(r).spill != FLAGS_SLOT {
            return;
        }
        self.al.slot(r).spill = NONE;
        if !self.al.lives(r) || self.flags.live == r {
            return;
        }
        let (t, m) = (self.temp(), self.slot_mem());
        self.asm.movzx(1, t, m);
        let s = self.al.new_spill(r);
        self.asm.store_sized(1, Alloc::spill_mem(s), t);
        self.unlock(t);
    }

    fn set_cc(&mut self, op: &Op) {
        if self.flags_wait() {
            return;
        }
        let r = self.al.root(op.a);
        if self.flags.in_slot == r && self.al.slot(r).spill == FLAGS_SLOT {
            return;
        }
        self.rescue_flags_slot(r);
        self.revive(r);
        let slot = self.slot_mem();
        if self.flags.live == r {
            self.image_to_ax();
            self.asm.store_sized(1, slot, RAX);
        } else {
            let m = self.image(r);
            let t = self.temp();
            self.asm.movzx(1, t, m);
            self.asm.store_sized(1, slot, t);
        }
        if self.al.slot(r).spill == NONE {
            self.al.slot(r).spill = FLAGS_SLOT;
            self.flags.in_slot = r;
        }
    }

    /// Evaluates a condition: the host condition under which it holds. Changes the host flags unless
    /// they are those of `v` already; to be called before operands are fetched.
    pub(crate) fn cond(&mut self, v: Val, cond: Cond) -> u8 {
        let r = self.al.root(v);
        if self.flags.live == r
            && let Some(swapped) = self.flags.compared
        {
            match compared_cond(cond, swapped) {
                Some(code) => return code,
                None => self.leave_compare(),
            }
        }
        self.revive(r);
        if self.flags.live != r {
            self.clobber_flags();
            let m = self.image(r);
            let single = match cond {
                Cond::Eq | Cond::Ne => Some((1, image::Z >> 8)),
                Cond::Hs | Cond::Lo => Some((1, image::C >> 8)),
                Cond::Mi | Cond::Pl => Some((1, image::N >> 8)),
                Cond::Vs | Cond::Vc => Some((0, image::V)),
                _ => None,
            };
            if let Some((byte, mask)) = single {
                self.asm.test_byte(m.plus(byte), mask as u8);
                return if cond as u8 & 1 == 0 { cc::NE } else { cc::E };
            }
            self.take(RAX);
            self.asm.movzx(1, RAX, m);
            self.asm.ax_to_flags(false);
            self.unlock(RAX);
            self.flags = Flags { live: r, inverted: false, compared: None, ..self.flags };
        }
        if matches!(cond, Cond::Hi | Cond::Ls) && !self.flags.inverted {
            self.asm.cmc();
            self.flags.inverted = true;
        }
        let code = host_cond(cond, self.flags.inverted);
        if !self.pass(Passes::FLAGS) {
            self.flags.live = NONE;
        }
        code
    }

    /// Puts C of a value into the host's carry; other host flags change.
    fn carry(&mut self, v: Val) {
        let r = self.al.root(v);
        self.revive(r);
        if self.flags.live == r && self.flags.compared.is_some() {
            self.leave_compare();
        }
        if self.flags.live == r {
            self.keep_flags();
            self.straighten();
        } else {
            self.clobber_flags();
            let m = self.image(r);
            self.asm.bt_word(m, 8);
        }
        self.flags.live = NONE;
    }

    /// a + b + C.
    pub(crate) fn add_carry(&mut self, i: u16, op: &Op) {
        let w = Self::wide(op.ty);
        self.carry(op.c());
        let imm = self.al.imm32(self.block, op.b);
        let a = self.gpr(op.a);
        let b = if imm.is_none() { self.gpr(op.b) } else { a };
        let d = self.dst(0);
        match imm {
            Some(v) => {
                if d != a {
                    self.asm.mov(w, d, a);
                }
                self.asm.alu_imm(alu::ADC, w, d, v);
            }
            None if d == b => self.asm.alu(alu::ADC, w, d, a),
            None => {
                if d != a {
                    self.asm.mov(w, d, a);
                }
                self.asm.alu(alu::ADC, w, d, b);
            }
        }
        self.def(i, d);
        if let Some(f) = self.wanted() {
            self.flags_are(f, false);
        }
    }

    /// Flags of an op that was not emitted right before, or are no longer there.
    fn recompute(&mut self, i: u16, op: &Op) {
        let def = *self.block.def(op.a);
        let w = Self::wide(def.ty);
        if def.code == Opcode::AddC {
            self.carry(def.c());
        } else {
            self.clobber_flags();
        }
        let a = self.gpr(def.a);
        let b = match self.al.imm32(self.block, def.b) {
            Some(v) if def.code == Opcode::Sub => {
                self.asm.alu_imm(alu::CMP, w, a, v);
                return self.flags_are(i, true);
            }
            Some(v) if def.code == Opcode::And => {
                self.asm.test_imm(w, a, v);
                return self.flags_are(i, false);
            }
            _ => self.gpr(def.b),
        };
        match def.code {
            Opcode::Sub => self.asm.alu(alu::CMP, w, a, b),
            Opcode::And => self.asm.test(w, a, b),
            code => {
                let t = self.temp();
                self.asm.mov(w, t, a);
                self.asm.alu(if code == Opcode::Add { alu::ADD } else { alu::ADC }, w, t, b);
            }
        }
        self.flags_are(i, def.code == Opcode::Sub);
    }

    /// Emits a compare of an operand with another or with a constant.
    pub(crate) fn compare(&mut self, w: bool, a: u8, b: Result<i32, u8>) {
        match b {
            Ok(0) => self.asm.alu_imm(alu::CMP, w, a, 0),
            Ok(v) => self.asm.alu_imm(alu::CMP, w, a, v),
            Err(b) => self.asm.alu(alu::CMP, w, a, b),
        }
    }

    /// The second operand of a compare.
    pub(crate) fn second(&mut self, v: Val) -> Result<i32, u8> {
        match self.al.imm32(self.block, v) {
            Some(c) => Ok(c),
            None => Err(self.gpr(v)),
        }
    }

    fn ccmp(&mut self, i: u16, op: &Op) {
        let (add, w) = (op.aux >> 8 & 1 != 0, op.aux >> 9 & 1 != 0);
        let skip = self.cond(op.c(), op.cond().invert());
        self.keep_flags_of(op.c());
        self.take(RAX);
        let a = self.gpr(op.a);
        let b = self.second(op.b);
        let t = if add { self.temp() } else { a };
        if add {
            self.asm.mov(w, t, a);
        }
        let to_constant = self.asm.jcc_short(skip);
        match (add, b) {
            (false, b) => self.compare(w, a, b),
            (true, Ok(v)) => self.asm.alu_imm(alu::ADD, w, t, v),
            (true, Err(b)) => self.asm.alu(alu::ADD, w, t, b),
        }
        let done = self.asm.jmp_short();
        self.asm.bind_short(to_constant);
        let flip = if add { 0 } else { image::C };
        let constant = image::from_nzcv(u32::from(op.aux >> 4) & 15) ^ flip;
        self.asm.mov_imm(RAX, u64::from(constant));
        self.asm.ax_to_flags(true);
        self.asm.bind_short(done);
        self.unlock(RAX);
        self.flags_are(i, !add);
    }

    /// Saves the flags of `v`, which are the host flags if they are anywhere else than in an image,
    /// for uses after the current op. Keeps the host flags' Z, N, V and C or its inverse.
    fn keep_flags_of(&mut self, v: Val) {
        let r = self.al.root(v);
        if self.flags.live == r && self.al.lives(r) && self.al.slot(r).spill == NONE {
            let inverted = self.flags.inverted;
            self.save_image();
            if inverted {
                // The condition was chosen for the inverted carry.
                self.asm.cmc();
            }
        }
        self.flags.live = NONE;
    }

    fn select(&mut self, i: u16, op: &Op) {
        let cond = self.cond(op.c(), op.cond());
        if op.ty == Ty::V128 {
            let (a, b) = (self.xmm(op.a), self.xmm(op.b));
            let d = self.dst_xmm(Some(a));
            if d != b {
                self.asm.movdqa(d, b);
            }
            let skip = self.asm.jcc_short(cond ^ 1);
            self.asm.movdqa(d, a);
            self.asm.bind_short(skip);
            return self.def_xmm(i, d);
        }
        let w = Self::wide(op.ty);
        let (a, b) = (self.gpr(op.a), self.gpr(op.b));
        let d = self.dst(0);
        if d == a {
            self.asm.cmov(cond ^ 1, w, d, b);
        } else {
            if d != b {
                self.asm.mov(w, d, b);
            }
            self.asm.cmov(cond, w, d, a);
        }
        self.def(i, d);
    }

    fn cmp_set(&mut self, i: u16, op: &Op) {
        self.clobber_flags();
        let a = self.gpr(op.a);
        let b = self.second(op.b);
        self.compare(Self::wide(op.ty), a, b);
        let d = self.dst(0);
        self.set_bool(host_cond(op.cond(), true), d);
        self.def(i, d);
    }

    fn nzcv_of(&mut self, i: u16, op: &Op) {
        let r = self.al.root(op.a);
        self.revive(r);
        if self.flags.live == r {
            self.keep_flags();
            self.image_to_ax();
            self.flags.live = NONE;
        } else {
            self.clobber_flags();
            let m = self.image(r);
            self.take(RAX);
            self.asm.movzx(1, RAX, m);
        }
        let t = self.temp();
        if self.features.bmi2 {
            self.asm.mov_imm(t, IMAGE_BITS);
            self.asm.pext(t, RAX, t);
            self.asm.shift(shift::SHL, false, t, 28);
        } else {
            let u = self.temp();
            self.asm.mov(false, t, RAX);
            self.asm.alu_imm(alu::AND, false, t, 0xc000);
            self.asm.shift(shift::SHL, false, t, 16);
            self.asm.mov(false, u, RAX);
            self.asm.alu_imm(alu::AND, false, u, i32::from(image::C));
            self.asm.shift(shift::SHL, false, u, 21);
            self.asm.alu(alu::OR, false, t, u);
            self.asm.alu_imm(alu::AND, false, RAX, 1);
            self.asm.shift(shift::SHL, false, RAX, 28);
            self.asm.alu(alu::OR, false, t, RAX);
        }
        self.def(i, t);
    }

    fn cc_from_nzcv(&mut self, i: u16, op: &Op) {
        self.clobber_flags();
        let a = self.gpr(op.a);
        let (t, u) = (self.temp(), self.temp());
        self.asm.mov(false, t, a);
        if self.features.bmi2 {
            self.asm.shift(shift::SHR, false, t, 28);
            self.asm.mov_imm(u, IMAGE_BITS);
            self.asm.pdep(t, t, u);
        } else {
            self.asm.shift(shift::SHR, false, t, 16);
            self.asm.alu_imm(alu::AND, false, t, 0xc000);
            for (bit, to) in [(29, 8), (28, 0)] {
                self.asm.mov(false, u, a);
                self.asm.shift(shift::SHR, false, u, bit - to);
                self.asm.alu_imm(alu::AND, false, u, 1 << to);
                self.asm.alu(alu::OR, false, t, u);
            }
        }
        let s = self.al.new_spill(i);
        self.asm.store_sized(1, Alloc::spill_mem(s), t);
    }
}

/// The host condition for a guest condition on host flags.
pub(crate) fn host_cond(cond: Cond, inverted: bool) -> u8 {
    match cond {
        Cond::Eq => cc::E,
        Cond::Ne => cc::NE,
        Cond::Hs => {
            if inverted {
                cc::AE
            } else {
                cc::B
            }
        }
        Cond::Lo => {
            if inverted {
                cc::B
            } else {
                cc::AE
            }
        }
        Cond::Mi => cc::S,
        Cond::Pl => cc::NS,
        Cond::Vs => cc::O,
        Cond::Vc => cc::NO,
        Cond::Hi => cc::A,
        Cond::Ls => cc::BE,
        Cond::Ge => cc::GE,
        Cond::Lt => cc::L,
        Cond::Gt => cc::G,
        Cond::Le => cc::LE,
    }
}

/// The host condition for a guest condition after ucomis or comis, if one will do.
fn compared_cond(cond: Cond, swapped: bool) -> Option<u8> {
    Some(match (cond, swapped) {
        (Cond::Vs, _) => cc::P,
        (Cond::Vc, _) => cc::P ^ 1,
        (Cond::Gt, false) | (Cond::Mi | Cond::Lo, true) => cc::A,
        (Cond::Le, false) | (Cond::Pl | Cond::Hs, true) => cc::BE,
        (Cond::Ge, false) | (Cond::Ls, true) => cc::AE,
        (Cond::Lt, false) | (Cond::Hi, true) => cc::B,
        _ => return None,
    })
}
