//! Block exits, the return ring, and the code behind the block.

use std::mem::offset_of;

use jit_ir::env::{RING, RingEntry};
use jit_ir::opt::{Liveness, Passes};
use jit_ir::{Block, Exit, Op, Opcode, Ty, Val};

use crate::asm::{Mem, RAX, RBP, RCX, RDI, RDX, alu, cc, shift};
use crate::emit::Emit;
use crate::memory::{NewPage, Slow, Source, Target};
use crate::thunks::{self, env, id};

/// Code to be emitted behind the block.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stub {
    /// A memory access that missed the TLB.
    Memory { jump: usize, back: usize, slow: Slow },
    /// A memory access whose group's check failed; `hit` is where the access begins, `clear` the
    /// group's slot if it was the first.
    Single { jump: usize, hit: usize, back: usize, slow: Slow, clear: Option<u8> },
    /// The same where rsi is to be 0 afterwards.
    Shared { jump: usize, back: usize, slow: Slow },
    /// An unpatched direct jump, whose displacement is at `field`.
    Unpatched { field: usize, to: u32 },
    /// Request pending at a backward jump.
    Request { jump: usize, to: u32 },
    /// Floating point that the host does not do as the guest would.
    Fp { jump: usize, back: usize, desc: u16, from: [Source; 3], to: Target },
    /// A constant that the instruction with its displacement at `field` loads.
    Literal { field: usize, value: u128 },
    /// No budget for the block: undoes and leaves.
    Budget { jump: usize },
    /// A check at the head of a loop that failed.
    HeadCheck { jump: usize, back: usize, n: usize },
    /// A request at the head of a loop.
    LeaveLoop { jump: usize },
    /// An access in a loop that went to another page than before; `hit` and `clear` as above.
    NewPage { jump: usize, hit: usize, back: usize, slow: Slow, new: NewPage, clear: Option<u8> },
    /// An exit that a conditional jump leads to.
    Leave { jump: usize, exit: Exit },
    /// Where a return that the ring predicted goes on; `field` is that of a `lea`.
    Return { field: usize, to: u32 },
}

/// A return whose target is a guest's address without its tag. The ring's addresses have none, so the guest's
/// is compared with them as it is, and loses its tag where they differ.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Untag {
    /// The guest's address.
    pub(crate) from: Val,
    /// Its bits 0 to 55, sign-extended.
    sign: Val,
    /// The target: that, or it and `from`.
    to: Val,
}

impl Untag {
    /// That of a block, whose ops then wait for its end.
    pub(crate) fn find(block: &Block, live: &Liveness) -> Option<Self> {
        let at = block.ops.len().checked_sub(1)?;
        let exit = block.ops.get(at).filter(|op| op.code == Opcode::ExitTo)?;
        let Some(Exit::Return(to)) = block.exits.get(exit.imm as usize).copied() else {
            return None;
        };
        let code = |v: Val| block.ops.get(v.index());
        let sign = match code(to)? {
            op if op.code == Opcode::And => op.b,
            _ => to,
        };
        let is_sign = |op: &&Op| op.code == Opcode::Sbfx && op.aux == 56 << 8;
        let from = code(sign).filter(is_sign)?.a;
        let fits = sign == to || code(to)?.a == from;
        let last = |v: Val| live.last.get(v.index()).copied();
        let alone = last(to) == u16::try_from(at).ok()
            && (sign == to || last(sign) == Some(to.0))
            && last(from).is_some_and(|n| n <= to.0);
        (fits && alone).then_some(Self { from, sign, to })
    }

    /// Whether op `i` waits.
    pub(crate) fn holds(&self, i: u16) -> bool {
        i == self.sign.0 || i == self.to.0
    }
}

/// `env.ring_top` counts bytes.
const RING_STEP: i32 = size_of::<RingEntry>() as i32;
const RING_MASK: i32 = (RING as i32 - 1) * RING_STEP;

/// First page offset that is not in the page.
const PAGE: u32 = 4096;

impl Emit<'_> {
    pub(crate) fn exit_op(&mut self, op: &Op) {
        let Some(exit) = self.block.exits.get(op.imm as usize).copied() else { return };
        let taken = match op.code {
            Opcode::ExitIfCc => self.cond(op.a, op.cond()),
            Opcode::ExitIfNz => {
                self.test_zero(op.a);
                cc::NE
            }
            Opcode::ExitIfZ => {
                self.test_zero(op.a);
                cc::E
            }
            Opcode::ExitIfBit => {
                self.clobber_flags();
                let r = self.gpr(op.a);
                let bit = (op.aux & 63) as u8;
                let w = bit >= 32 || self.block.def(op.a).result_ty() == Ty::I64 && bit >= 31;
                self.asm.bt(w, r, bit);
                if op.aux >> 8 != 0 { cc::B } else { cc::AE }
            }
            _ => return self.leave(exit),
        };
        match exit {
            Exit::Page(to) if self.is_first() && to == self.block.start => self.jump_in_if(taken),
            Exit::Page(to) if self.lp.active && to == self.block.start => {
                let skip = self.asm.jcc_short(taken ^ 1);
                self.jump_back();
                self.asm.bind_short(skip);
            }
            Exit::Page(to) if !self.lp.active && to < PAGE && to > self.block.start => {
                self.asm.align_field(2);
                let field = self.asm.jcc(taken);
                self.stubs.push(Stub::Unpatched { field, to });
            }
            Exit::Indirect(v) | Exit::Return(v) => {
                self.gpr(v);
                let skip = self.asm.jcc(taken ^ 1);
                self.leave(exit);
                self.asm.bind(skip);
            }
            _ => {
                let jump = self.asm.jcc(taken);
                self.stubs.push(Stub::Leave { jump, exit });
            }
        }
    }

    pub(crate) fn store_offset(&mut self, offset: u32) {
        self.asm.store_imm(3, env!(offset), offset as i32);
    }

    /// rax = the VA of an exit.
    fn target_to_rax(&mut self, v: Val) {
        let r = self.gpr(v);
        if r != RAX {
            self.asm.mov(true, RAX, r);
        }
    }

    /// Emits the code of an exit. Nothing is allocated after it on this path.
    fn leave(&mut self, exit: Exit) {
        let untag = self.untag.filter(|u| exit == Exit::Return(u.to));
        if let Exit::Indirect(v) | Exit::Return(v) = exit {
            self.target_to_rax(untag.map_or(v, |u| u.from));
        }
        if exit == Exit::Page(self.block.start) {
            if self.is_first() {
                return self.jump_in();
            }
            if self.lp.active {
                return self.jump_back();
            }
        }
        self.undo_loop();
        match exit {
            Exit::Page(to) if to < PAGE => self.leave_to(to),
            Exit::Page(to) => self.leave(Exit::Rel(i64::from(to))),
            Exit::Rel(distance) => {
                self.asm.load(true, RAX, env!(page));
                if let Ok(d) = i32::try_from(distance) {
                    self.asm.lea(true, RAX, Mem::new(RAX, d));
                } else {
                    self.asm.mov_imm(RCX, distance as u64);
                    self.asm.alu(alu::ADD, true, RAX, RCX);
                }
                self.dispatch();
            }
            Exit::Indirect(_) => self.dispatch(),
            Exit::Return(_) => {
                if self.pass(Passes::RING) {
                    self.pop_return();
                }
                if let Some(u) = untag {
                    self.untag_rax(&u);
                }
                self.dispatch();
            }
            Exit::Runtime(offset) => {
                self.store_offset(offset);
                self.asm.jmp_to(self.thunk(id::LEAVE));
            }
            Exit::RuntimePcSet => self.asm.jmp_to(self.thunk(id::LEAVE)),
            Exit::Helper { helper, imm, offset } => {
                let entry = self.cx.helpers.get(usize::from(helper));
                self.store_offset(offset);
                self.asm.mov_imm(RDI, u64::from(imm));
                self.asm.mov_imm(RAX, entry.map_or(0, |h| h.entry as usize as u64));
                self.asm.jmp_to(self.thunk(id::CALL_EXIT));
            }
        }
    }

    fn untag_rax(&mut self, u: &Untag) {
        let r = if u.sign == u.to { RAX } else { RCX };
        if r != RAX {
            self.asm.mov(true, r, RAX);
        }
        self.asm.shift(shift::SHL, true, r, 8);
        self.asm.shift(shift::SAR, true, r, 8);
        if r != RAX {
            self.asm.alu(alu::AND, true, RAX, r);
        }
    }

    /// A patchable jump inside the page.
    fn leave_to(&mut self, to: u32) {
        if to <= self.block.start {
            self.asm.alu_imm(alu::CMP, false, env!(request), 0);
            let jump = self.asm.jcc(cc::S);
            self.stubs.push(Stub::Request { jump, to });
        }
        self.asm.align_field(1);
        let field = self.asm.jmp();
        self.unpatched(field, to);
    }

    /// What an unpatched jump leads to.
    fn unpatched(&mut self, field: usize, to: u32) {
        let back = u16::try_from(self.asm.pos() + 5 - field);
        match (u16::try_from(to), back) {
            (Ok(to), Ok(back)) => self.link(to, back),
            _ => {
                self.asm.lea_back(RAX, field);
                self.store_offset(to);
                self.asm.jmp_to(self.thunk(id::LOOKUP));
            }
        }
    }

    /// Looks up the code at an offset in the page and patches the displacement so many bytes back from
    /// behind the call, 0 = none.
    pub(crate) fn link(&mut self, to: u16, back: u16) {
        self.asm.call_to(self.thunk(id::LINK));
        self.asm.code.extend_from_slice(&to.to_le_bytes());
        self.asm.code.extend_from_slice(&back.to_le_bytes());
    }

    fn dispatch(&mut self) {
        if self.pass(Passes::JUMPS) {
            let miss = self.thunk(id::DISPATCH);
            return thunks::dispatch_jump(&mut self.asm, miss);
        }
        let miss = self.thunk(id::LOOKUP_VA);
        thunks::dispatch_code(&mut self.asm, miss, false);
    }

    fn ring(index: u8, field: usize) -> Mem {
        Mem::indexed(RBP, index, env!(ring).plus(field as i32).disp)
    }

    /// The register that holds page + `imm` already: the guest's link register was just set to it.
    fn link_value(&self, imm: i64) -> Option<u8> {
        let at = usize::from(self.al.at);
        let near = (at.saturating_sub(4)..at).rev().filter(|n| self.cx.live.keep[*n]);
        let is_link = |n: &usize| {
            let op = &self.block.ops[*n];
            op.code == Opcode::Pc && op.imm == imm
        };
        let v = near.into_iter().find(is_link)?;
        self.al.reg(self.al.root(Val(v as u16)))
    }

    /// Records a return address.
    pub(crate) fn push_return(&mut self, op: &Op) {
        if !self.pass(Passes::RING) {
            return;
        }
        self.clobber_flags();
        let va = match self.link_value(op.imm) {
            Some(r) => {
                self.al.locked |= 1 << r;
                r
            }
            None => {
                let v = self.temp();
                self.asm.load(true, v, env!(page));
                self.add_far(v, op.imm);
                v
            }
        };
        let (n, host) = (self.temp(), self.temp());
        self.asm.load(false, n, env!(ring_top));
        self.asm.alu_imm(alu::ADD, false, n, RING_STEP);
        self.asm.alu_imm(alu::AND, false, n, RING_MASK);
        self.asm.store(true, env!(ring_top), n);
        self.asm.store(true, Self::ring(n, offset_of!(RingEntry, va)), va);
        let field = self.asm.lea_rip(host);
        self.asm.store(true, Self::ring(n, offset_of!(RingEntry, host)), host);
        self.stubs.push(Stub::Return { field, to: op.imm as u32 });
    }

    /// Goes to the ring's newest entry if that is for the address in rax; else falls through. An empty
    /// entry has a VA that a guest may return to all the same, but no host address. Requests wait for
    /// the loop that the guest may be in: it has another way back than returns to where calls were.
    fn pop_return(&mut self) {
        self.asm.load(false, RCX, env!(ring_top));
        self.asm.alu(alu::CMP, true, RAX, Self::ring(RCX, offset_of!(RingEntry, va)));
        let other = self.asm.jcc_short(cc::NE);
        self.asm.load(true, RDX, Self::ring(RCX, offset_of!(RingEntry, host)));
        self.asm.test(true, RDX, RDX);
        let empty = self.asm.jcc_short(cc::E);
        self.asm.alu_imm(alu::SUB, false, RCX, RING_STEP);
        self.asm.alu_imm(alu::AND, false, RCX, RING_MASK);
        self.asm.store(true, env!(ring_top), RCX);
        self.asm.alu_imm(alu::AND, true, RAX, -4096);
        self.asm.store(true, env!(page), RAX);
        self.asm.jmp_reg(RDX);
        for at in [other, empty] {
            self.asm.bind_short(at);
        }
    }

    /// Emits what the block refers to.
    pub(crate) fn emit_stubs(&mut self) {
        // The last ones: they change what the others rely on.
        self.stubs.sort_by_key(|s| matches!(s, Stub::Return { .. }));
        let mut n = 0;
        while let Some(stub) = self.stubs.get(n).copied() {
            n += 1;
            match stub {
                Stub::Memory { jump, back, slow } => {
                    self.asm.bind(jump);
                    self.slow(&slow);
                    self.asm.jmp_to(self.asm.base + back as u64);
                }
                Stub::Single { jump, hit, back, slow, clear } => {
                    self.asm.bind(jump);
                    self.single(hit, &slow, clear);
                    self.asm.jmp_to(self.asm.base + back as u64);
                }
                Stub::Shared { jump, back, slow } => {
                    self.asm.bind(jump);
                    self.single_of_group(&slow);
                    self.asm.jmp_to(self.asm.base + back as u64);
                }
                Stub::HeadCheck { jump, back, n } => self.head_check(jump, back, n),
                Stub::LeaveLoop { jump } => {
                    self.asm.bind(jump);
                    self.leave_loop();
                }
                Stub::NewPage { jump, hit, back, slow, new, clear } => {
                    self.new_page(jump, &slow, new);
                    match clear {
                        Some(_) => self.single(hit, &slow, clear),
                        None => self.slow(&slow),
                    }
                    self.asm.jmp_to(self.asm.base + back as u64);
                }
                Stub::Unpatched { field, to } => {
                    self.asm.bind(field);
                    self.unpatched(field, to);
                }
                Stub::Request { jump, to } => {
                    self.asm.bind(jump);
                    self.link(to as u16, 0);
                }
                Stub::Fp { jump, back, desc, from, to } => {
                    self.asm.bind(jump);
                    self.fp_call(desc, from, to);
                    self.asm.jmp_to(self.asm.base + back as u64);
                }
                Stub::Literal { field, value } => {
                    self.asm.bind(field);
                    self.asm.code.extend_from_slice(&value.to_le_bytes());
                }
                Stub::Budget { jump } => {
                    self.asm.bind(jump);
                    self.asm.alu_imm(alu::ADD, false, env!(budget), self.cx.count as i32);
                    self.asm.store_imm(2, env!(budget_short), 1);
                    self.store_offset(self.block.start);
                    self.asm.jmp_to(self.thunk(id::LEAVE));
                }
                Stub::Leave { jump, exit } => {
                    self.asm.bind(jump);
                    self.leave(exit);
                }
                Stub::Return { field, to } => {
                    self.asm.bind(field);
                    // The set-up of a loop is long undone.
                    self.lp.active = false;
                    if to < PAGE {
                        self.leave_to(to);
                    } else {
                        // `env.page` is that of the return address already.
                        self.leave(Exit::Rel(i64::from(to % PAGE)));
                    }
                }
            }
        }
    }
}
