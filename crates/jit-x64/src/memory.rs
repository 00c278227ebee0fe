//! Memory ops: the inline TLB check and the calls of the runtime.
//!
//! An access that the inline check does not settle continues in a stub behind the block, which calls a
//! thunk with rsi = VA, rdi = value and the descriptor on the stack; the result comes in rdi. rsi and
//! rdi are therefore the scratch registers of the check, and everything that allocation does for the op
//! is emitted before the check, so that both ways see the same registers.

use std::mem::offset_of;

use jit_ir::env::{LoopPage, TlbEntry, TlbTable};
use jit_ir::{MemDesc, Op, Opcode, Ty};

use crate::alloc::Shared;
use crate::asm::{Enc, Mem, RDI, RSI, alu, cc};
use crate::emit::Emit;
use crate::exits::Stub;
use crate::loops::page_slot;
use crate::merge::Role;
use crate::thunks::{arg, env, id, tlb_entry};
use crate::vector::PXOR;

/// A value on its way to the runtime.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source {
    None,
    Reg(u8),
    Imm(i32),
    Xmm(u8),
}

/// Where a result goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    None,
    Reg(u8, bool),
    Xmm(u8),
}

/// Index of a memory function among the thunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    Load,
    Store,
    LoadEx,
    StoreEx,
    Rmw,
    Cas,
}

/// A call of the runtime for an access.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slow {
    pub(crate) function: Function,
    pub(crate) base: u8,
    pub(crate) imm: i32,
    pub(crate) arg: u32,
    pub(crate) value: Source,
    /// New value of a compare-and-swap.
    pub(crate) new: Source,
    pub(crate) target: Target,
    pub(crate) keep_xmm: bool,
}

/// Where the check of an access leads.
#[derive(Clone, Copy, Debug)]
struct Check {
    /// The jump of a miss.
    jump: usize,
    role: Role,
    /// Where the access itself begins.
    hit: usize,
    /// What it remembers of pages, in a loop.
    page: Option<NewPage>,
}

/// A remembered page: slot, where its check goes on, what bytes it covers, for writing too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewPage {
    slot: u8,
    hit: usize,
    span: (i32, i32),
    write: bool,
}

/// Where the content of a group's slot is.
pub(crate) fn merged(slot: u8) -> Mem {
    env!(merged).plus(i32::from(slot) * 8)
}

impl Slow {
    fn log2(&self) -> u32 {
        self.arg & 7
    }

    fn desc(&self) -> MemDesc {
        MemDesc(self.arg as u16 & ((1 << arg::DESC_BITS) - 1))
    }
}

impl Emit<'_> {
    pub(crate) fn memory_op(&mut self, i: u16, op: &Op) {
        if self.lp.checks_at_head() {
            return self.checked_access(i, op);
        }
        self.clobber_flags();
        match (self.groups.role(i), self.al.shared) {
            (Role::Later { slot }, Some(s)) if s.slot == slot => self.al.locked |= 1 << RSI,
            _ => self.take(RSI),
        }
        self.take(RDI);
        let desc = op.mem();
        let log2 = desc.log2();
        let simple = !self.cx.log
            && !desc.is_big_endian()
            && if op.ty == Ty::V128 { (2..=4).contains(&log2) } else { log2 <= 3 };
        let atomic = simple && op.ty != Ty::V128 && !desc.is_signed();
        match op.code {
            Opcode::Store if desc.is_clear64() && !self.cx.log => self.clear64(op),
            Opcode::Load if simple => self.load(i, op),
            Opcode::Store if simple => self.store(i, op),
            Opcode::Load => self.by_runtime(i, op, Function::Load),
            Opcode::Store => self.by_runtime(i, op, Function::Store),
            Opcode::LoadEx if atomic => self.load_exclusive(i, op),
            Opcode::StoreEx if atomic => self.store_exclusive(i, op),
            Opcode::Rmw if atomic && Self::rmw_inline(op) => self.rmw(i, op),
            Opcode::Cas if atomic => self.compare_and_swap(i, op),
            Opcode::LoadEx => self.by_runtime(i, op, Function::LoadEx),
            Opcode::StoreEx => self.by_runtime(i, op, Function::StoreEx),
            Opcode::Rmw => self.by_runtime(i, op, Function::Rmw),
            _ => self.by_runtime(i, op, Function::Cas),
        }
        if op.code == Opcode::Store && desc.is_release() {
            self.asm.barrier();
        }
    }

    /// An access that was checked at the head of the loop. rsi keeps the addend of its page for the next.
    fn checked_access(&mut self, i: u16, op: &Op) {
        self.groups.role(i);
        let slot = self.groups.page(i).unwrap_or(0);
        if self.al.addend != Some(slot) {
            self.take(RSI);
            self.asm.load(true, RSI, page_slot(slot, offset_of!(LoopPage, addend)));
            self.al.addend = Some(slot);
        }
        self.al.locked |= 1 << RSI;
        if op.code == Opcode::Load {
            return self.load(i, op);
        }
        if op.mem().is_release() {
            self.clobber_flags();
        }
        self.store(i, op);
        if op.mem().is_release() {
            self.asm.barrier();
        }
    }

    pub(crate) fn argument_of(&self, op: &Op) -> u32 {
        let kind = if op.code == Opcode::Rmw { op.rmw() as u32 } else { 0 };
        let desc = u32::from(op.aux) & ((1 << arg::DESC_BITS) - 1);
        desc | kind << arg::KIND | (self.offset & 0x3fff) << arg::OFFSET
    }

    /// Base register and displacement of an access that may reach `bytes` further.
    fn address(&mut self, op: &Op) -> (u8, i32) {
        let a = self.gpr(op.a);
        let imm = if matches!(op.code, Opcode::Load | Opcode::Store) { op.imm } else { 0 };
        match i32::try_from(imm).ok().filter(|d| d.checked_add(16).is_some()) {
            Some(d) => (a, d),
            None => {
                let t = self.temp();
                self.asm.mov_imm(t, imm as u64);
                self.asm.lea(true, t, Mem::indexed(t, a, 0));
                (t, 0)
            }
        }
    }

    /// Emits the TLB check of an access; gives the place of the jump that a miss takes. On a hit rsi is
    /// host address minus VA. `exact`: unaligned accesses count as misses.
    pub(crate) fn probe(
        &mut self,
        base: u8,
        imm: i32,
        desc: MemDesc,
        write: bool,
        exact: bool,
    ) -> usize {
        let size = desc.bytes() as i32;
        let (reach, low) = if exact { (0, size - 1) } else { (size - 1, 0) };
        self.check((base, imm), reach, low, desc.mmu(), write)
    }

    /// [`Self::probe`] of the bytes from the address to `reach` further; the bits in `low` must be 0.
    pub(crate) fn check(
        &mut self,
        (base, imm): (u8, i32),
        reach: i32,
        low: i32,
        mmu: u8,
        write: bool,
    ) -> usize {
        if imm + reach == 0 {
            self.asm.mov(true, RDI, base);
        } else {
            self.asm.lea(true, RDI, Mem::new(base, imm + reach));
        }
        if imm == 0 {
            self.asm.mov(false, RSI, base);
        } else {
            self.asm.lea(false, RSI, Mem::new(base, imm));
        }
        let table = env!(tlb).plus(i32::from(mmu) * size_of::<TlbTable>() as i32);
        tlb_entry(&mut self.asm, table, low, write);
        let miss = self.asm.jcc(cc::NE);
        self.asm.load(true, RSI, Mem::new(RSI, offset_of!(TlbEntry, addend) as i32));
        miss
    }

    /// Emits what an access checks, alone or with others; on a hit rsi is host address minus VA.
    fn check_shared(&mut self, i: u16, slow: &Slow, desc: MemDesc, write: bool) -> Check {
        let (base, imm) = (slow.base, slow.imm);
        let role = self.groups.role(i);
        if self.lp.checks_at_head() {
            return Check { jump: 0, role, hit: 0, page: None };
        }
        let slot = if self.lp.active { self.groups.page(i) } else { None };
        let (span, write) = match role {
            Role::First { low, high, write, .. } => ((low, high), write),
            Role::Later { slot } => {
                if self.al.shared.is_none() {
                    self.asm.load(true, RSI, merged(slot));
                }
                self.share(i, slot, false);
                self.asm.test(true, RSI, RSI);
                let jump = self.asm.jcc(cc::E);
                return Check { jump, role, hit: self.asm.pos(), page: None };
            }
            Role::Alone => ((0, desc.bytes() as i32 - 1), write),
        };
        let (low, high) = span;
        let (jump, page) = match (slot, role) {
            (Some(slot), _) => {
                let jump = self.remembered(slot, base, imm + low);
                (jump, Some(NewPage { slot, hit: self.asm.pos(), span, write }))
            }
            (None, Role::Alone) => (self.probe(base, imm, desc, write, Self::exact(desc)), None),
            (None, _) => (self.check((base, imm + low), high - low, 0, desc.mmu(), write), None),
        };
        if let Role::First { slot, .. } = role {
            if self.lp.active {
                self.asm.store(true, merged(slot), RSI);
            } else {
                self.share(i, slot, true);
            }
        }
        Check { jump, role, hit: self.asm.pos(), page }
    }

    /// rsi holds the addend of a group, of which op `i` is an access, or 0.
    fn share(&mut self, i: u16, slot: u8, unsaved: bool) {
        if self.lp.active || !self.groups.goes_on(i) {
            self.al.shared = None;
        } else if self.al.shared.is_none() {
            self.al.shared = Some(Shared { slot, unsaved });
        }
    }

    /// Tests for the page that a loop's access went to before; gives the place of the jump that another
    /// page takes.
    fn remembered(&mut self, slot: u8, base: u8, imm: i32) -> usize {
        if imm == 0 {
            self.asm.mov(true, RDI, base);
        } else {
            self.asm.lea(true, RDI, Mem::new(base, imm));
        }
        self.asm.alu(alu::SUB, true, RDI, page_slot(slot, offset_of!(LoopPage, tag)));
        self.asm.load(true, RSI, page_slot(slot, offset_of!(LoopPage, addend)));
        self.asm.alu(alu::CMP, true, RDI, page_slot(slot, offset_of!(LoopPage, limit)));
        self.asm.jcc(cc::AE)
    }

    /// The code of an access to another page than before: looks it up and remembers it.
    pub(crate) fn new_page(&mut self, jump: usize, slow: &Slow, new: NewPage) {
        self.asm.bind(jump);
        let (low, high) = new.span;
        let desc = slow.desc();
        let miss = self.check((slow.base, slow.imm + low), high - low, 0, desc.mmu(), new.write);
        self.asm.store(true, page_slot(new.slot, offset_of!(LoopPage, addend)), RSI);
        self.asm.lea(true, RDI, Mem::new(slow.base, slow.imm + low));
        self.asm.alu_imm(alu::AND, true, RDI, -4096);
        self.asm.store(true, page_slot(new.slot, offset_of!(LoopPage, tag)), RDI);
        let limit = 4096 - (high - low);
        self.asm.store_imm(3, page_slot(new.slot, offset_of!(LoopPage, limit)), limit);
        self.asm.jmp_to(self.asm.base + new.hit as u64);
        self.asm.bind(miss);
    }

    /// Notes the code behind the block for an access.
    fn behind(&mut self, check: Check, slow: Slow) {
        if self.lp.checks_at_head() {
            return;
        }
        let back = self.asm.pos();
        let Check { jump, role, hit, page } = check;
        let clear = if let Role::First { slot, .. } = role { Some(slot) } else { None };
        self.stubs.push(match (page, role) {
            (Some(new), _) => Stub::NewPage { jump, hit, back, slow, new, clear },
            (None, Role::Alone) => Stub::Memory { jump, back, slow },
            (None, _) if self.al.shared.is_some() => Stub::Shared { jump, back, slow },
            (None, _) => Stub::Single { jump, hit, back, slow, clear },
        });
    }

    /// The code of an access whose group's check failed and goes on in rsi: a check of its own.
    pub(crate) fn single_of_group(&mut self, slow: &Slow) {
        self.own_check(slow);
        let miss = self.asm.jcc_short(cc::NE);
        self.access(slow);
        let done = self.asm.jmp_short();
        self.asm.bind_short(miss);
        self.slow_at_rsi(slow);
        self.asm.bind_short(done);
        self.asm.alu(alu::XOR, false, RSI, RSI);
    }

    /// rsi = the address; its own check.
    fn own_check(&mut self, slow: &Slow) {
        let desc = slow.desc();
        let write = slow.function == Function::Store;
        self.asm.lea(true, RSI, Mem::new(slow.base, slow.imm));
        self.asm.call_to(self.thunk(id::probe(desc.mmu(), desc.log2(), write)));
    }

    /// The code of an access whose group's check failed: a check of its own.
    pub(crate) fn single(&mut self, hit: usize, slow: &Slow, clear: Option<u8>) {
        if let Some(slot) = clear {
            self.asm.store_imm(3, merged(slot), 0);
        }
        self.own_check(slow);
        self.asm.jcc_to(cc::E, self.asm.base + hit as u64);
        self.sync_loop();
        self.slow_at_rsi(slow);
    }

    fn exact(desc: MemDesc) -> bool {
        desc.is_aligned() || desc.is_within16()
    }

    fn load(&mut self, i: u16, op: &Op) {
        let desc = op.mem();
        let (base, imm) = self.address(op);
        let target = if op.ty == Ty::V128 {
            Target::Xmm(self.dst_xmm(None))
        } else {
            Target::Reg(self.dst(0), Self::wide(op.ty))
        };
        let slow = Slow {
            function: Function::Load,
            base,
            imm,
            arg: self.argument_of(op),
            value: Source::None,
            new: Source::None,
            target,
            keep_xmm: self.vectors_live(),
        };
        let check = self.check_shared(i, &slow, desc, false);
        self.access(&slow);
        match target {
            Target::Xmm(x) => self.def_xmm(i, x),
            Target::Reg(r, _) => self.def(i, r),
            Target::None => {}
        }
        self.behind(check, slow);
    }

    fn store(&mut self, i: u16, op: &Op) {
        let desc = op.mem();
        let (base, imm) = self.address(op);
        let value = if op.ty == Ty::V128 {
            Source::Xmm(self.xmm(op.b))
        } else {
            match self.al.imm32(self.block, op.b) {
                Some(v) => Source::Imm(v),
                None => Source::Reg(self.gpr(op.b)),
            }
        };
        let slow = Slow {
            function: Function::Store,
            base,
            imm,
            arg: self.argument_of(op),
            value,
            new: Source::None,
            target: Target::None,
            keep_xmm: self.vectors_live(),
        };
        let check = self.check_shared(i, &slow, desc, true);
        self.access(&slow);
        self.behind(check, slow);
    }

    /// A load or store itself, with host address minus VA in rsi.
    fn access(&mut self, s: &Slow) {
        let (m, desc) = (Mem::indexed(s.base, RSI, s.imm), s.desc());
        let log2 = desc.log2();
        match (s.target, s.value) {
            (Target::Xmm(x), _) => match log2 {
                2 => self.asm.movq_to_xmm(false, x, m),
                3 => self.asm.sse(Enc(0xf3, 1, 0x7e), x, m),
                _ => self.asm.load128(x, m),
            },
            (Target::Reg(r, w), _) => match (log2, desc.is_signed()) {
                (n @ 0..=1, false) => self.asm.movzx(n, r, m),
                (n @ 0..=1, true) => self.asm.movsx(w, n, r, m),
                (2, true) if w => self.asm.movsx(true, 2, r, m),
                (2, _) => self.asm.load(false, r, m),
                _ => self.asm.load(w, r, m),
            },
            (Target::None, Source::Xmm(x)) => match log2 {
                2 => self.asm.movq_from_xmm(false, m, x),
                3 => self.asm.sse(Enc(0x66, 1, 0xd6), x, m),
                _ => self.asm.store128(m, x),
            },
            (Target::None, Source::Imm(v)) => self.asm.store_imm(log2, m, v),
            (Target::None, Source::Reg(r)) => self.asm.store_sized(log2, m, r),
            (Target::None, Source::None) => {}
        }
    }

    /// See [`MemDesc::clears64`].
    fn clear64(&mut self, op: &Op) {
        let (base, imm) = self.address(op);
        let x = self.temp_xmm();
        let slow = Slow {
            function: Function::Store,
            base,
            imm,
            arg: self.argument_of(op),
            value: Source::Imm(0),
            new: Source::None,
            target: Target::None,
            keep_xmm: self.vectors_live(),
        };
        let jump = self.check((base, imm), 0, 0, op.mem().mmu(), true);
        self.asm.lea(true, RDI, Mem::indexed(base, RSI, imm));
        self.asm.alu_imm(alu::AND, true, RDI, -64);
        self.asm.sse(PXOR, x, x);
        for n in 0..4 {
            self.asm.store128(Mem::new(RDI, 16 * n), x);
        }
        self.stubs.push(Stub::Memory { jump, back: self.asm.pos(), slow });
    }

    /// An access that always calls the runtime.
    fn by_runtime(&mut self, i: u16, op: &Op, function: Function) {
        let (base, imm) = self.address(op);
        let vector = op.ty == Ty::V128;
        let wide_memory = op.mem().log2() == 4;
        let value = match function {
            Function::Load | Function::LoadEx => Source::None,
            _ if vector => Source::Xmm(self.xmm(op.b)),
            _ => Source::Reg(self.gpr(op.b)),
        };
        let new = match function {
            Function::Cas if vector => Source::Xmm(self.xmm(op.c())),
            Function::Cas => Source::Reg(self.gpr(op.c())),
            _ => Source::None,
        };
        let target = match function {
            Function::Store => Target::None,
            Function::StoreEx => Target::Reg(RDI, false),
            _ if vector => Target::Xmm(self.dst_xmm(None)),
            _ => Target::Reg(RDI, Self::wide(op.ty) && !wide_memory),
        };
        let slow = Slow {
            function,
            base,
            imm,
            arg: self.argument_of(op),
            value,
            new,
            target,
            keep_xmm: self.vectors_live(),
        };
        self.slow(&slow);
        match target {
            Target::None => {}
            Target::Reg(r, _) => self.def(i, r),
            Target::Xmm(x) => self.def_xmm(i, x),
        }
    }

    /// Whether vector registers hold something that is needed after the current op.
    pub(crate) fn vectors_live(&self) -> bool {
        self.al.xmm_live() || self.lp.active && self.lp.has_vectors()
    }

    /// Calls the runtime.
    pub(crate) fn slow(&mut self, s: &Slow) {
        self.sync_loop();
        if s.imm == 0 {
            self.asm.mov(true, RSI, s.base);
        } else {
            self.asm.lea(true, RSI, Mem::new(s.base, s.imm));
        }
        self.slow_at_rsi(s);
    }

    /// [`Self::slow`] once rsi is the address and what a loop keeps is where the runtime expects it.
    fn slow_at_rsi(&mut self, s: &Slow) {
        let wide = env!(wide);
        match s.new {
            Source::Reg(r) => self.asm.store(true, wide.plus(16), r),
            Source::Xmm(x) => self.asm.store128(wide.plus(16), x),
            _ => {}
        }
        match s.value {
            Source::None => {}
            Source::Reg(r) => self.asm.mov(true, RDI, r),
            Source::Imm(v) => self.asm.mov_imm(RDI, v as i64 as u64),
            Source::Xmm(x) if s.log2() == 4 => self.asm.store128(wide, x),
            Source::Xmm(x) => self.asm.movq_from_xmm(true, RDI, x),
        }
        self.asm.push_imm(s.arg as i32);
        let first = if self.lp.active { id::LOOP_MEMORY } else { id::MEMORY };
        let thunk = first + 2 * s.function as usize + usize::from(s.keep_xmm);
        self.asm.call_to(self.thunk(thunk));
        match s.target {
            Target::None => {}
            Target::Reg(r, true) if r == RDI => {}
            Target::Reg(r, w) => self.asm.mov(w, r, RDI),
            Target::Xmm(x) if s.log2() == 4 => self.asm.load128(x, wide),
            Target::Xmm(x) => self.asm.movq_to_xmm(true, x, RDI),
        }
    }
}
