//! One block: the walk over its ops, guest state and helper calls.
//!
//! Invariant at every op boundary: pinned guest registers are in their host registers, all other
//! guest state is in memory (`set` writes through), so exits and faulting ops need no fix-up.

use jit_ir::backend::BlockCx;
use jit_ir::opt::Passes;
use jit_ir::{Block, Effects, Op, Opcode, Ty, Val};

use crate::CpuFeatures;
use crate::alloc::{Alloc, CALLER_SAVED, NONE, PIN_REGS, SPILL_SLOTS, XMM};
use crate::asm::{Asm, Mem, RAX, RBP, RCX, RDI, RDX, RSI, alu, cc};
use crate::exits::{Stub, Untag};
use crate::flags::Flags;
use crate::loops::Loop;
use crate::merge::Groups;
use crate::thunks::{self, env, id};

/// Buffers that blocks share.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) asm: Asm,
    pub(crate) al: Alloc,
    pub(crate) stubs: Vec<Stub>,
    pub(crate) groups: Groups,
    pub(crate) lp: Loop,
}

/// Emission of one block.
pub(crate) struct Emit<'a> {
    pub(crate) cx: BlockCx<'a>,
    pub(crate) block: &'a Block,
    pub(crate) asm: Asm,
    pub(crate) al: Alloc,
    pub(crate) stubs: Vec<Stub>,
    /// Accesses that share TLB checks.
    pub(crate) groups: Groups,
    /// Where a loop keeps guest registers.
    pub(crate) lp: Loop,
    pub(crate) features: CpuFeatures,
    pub(crate) flags: Flags,
    /// Page offset of the current guest instruction.
    pub(crate) offset: u32,
    /// rbp minus the state pointer.
    bias: i32,
    /// State offsets of pinned registers.
    pub(crate) pins: &'a [u64],
    /// How the target of the return at the end comes from a guest's address.
    pub(crate) untag: Option<Untag>,
}

impl<'a> Emit<'a> {
    pub(crate) fn new(
        cx: BlockCx<'a>,
        features: CpuFeatures,
        scratch: &mut Scratch,
        base: u64,
    ) -> Self {
        let Scratch { mut asm, al, mut stubs, mut groups, lp } = std::mem::take(scratch);
        let pins = cx.runtime.thunks.get(id::PINS + 1..).unwrap_or(&[]);
        asm.restart(base);
        stubs.clear();
        if cx.passes.contains(Passes::MERGE) {
            groups.find(cx.block, &cx.live.keep);
        } else {
            groups.clear();
        }
        let bias = thunks::bias(cx.layout);
        let (block, flags) = (cx.block, Flags::default());
        let offset = block.start;
        let mut e = Self {
            cx,
            block,
            asm,
            al,
            stubs,
            groups,
            lp,
            features,
            flags,
            offset,
            bias,
            pins,
            untag: Untag::find(cx.block, cx.live),
        };
        e.find_loop();
        e.start_alloc(Alloc::pinned_mask(pins.len()));
        e
    }

    /// Begins the walk with these pinned registers.
    pub(crate) fn start_alloc(&mut self, pinned: u32) {
        self.al.start(self.cx.live, pinned);
        if let Some(u) = &self.untag {
            self.al.slot(u.from.0).last = self.block.ops.len() as u16 - 1;
        }
    }

    pub(crate) fn thunk(&self, id: usize) -> u64 {
        self.cx.runtime.thunks.get(id).copied().unwrap_or(0)
    }

    pub(crate) fn pass(&self, p: Passes) -> bool {
        self.cx.passes.contains(p)
    }

    /// Emits the whole block.
    pub(crate) fn run(&mut self) {
        if self.cx.count != 0 {
            self.take_budget();
        }
        self.ops();
        self.emit_stubs();
        if self.begin_loop() {
            self.ops();
            self.emit_stubs();
            self.emit_sync();
        }
    }

    fn ops(&mut self) {
        let n = self.block.ops.len();
        for i in 0..n {
            if !self.cx.live.keep[i] {
                continue;
            }
            let op = &self.block.ops[i];
            match op.code {
                Opcode::InsnStart => {
                    self.offset = op.imm as u32;
                    continue;
                }
                Opcode::Const => continue,
                _ => {}
            }
            self.al.at = i as u16;
            self.al.locked = 0;
            let late = self.untag.as_ref().is_some_and(|u| u.holds(i as u16));
            if !late && !self.is_settled(op) {
                self.op(i as u16, op);
            }
        }
    }

    /// What the block costs is taken off the budget.
    fn take_budget(&mut self) {
        self.asm.alu_imm(alu::SUB, false, env!(budget), self.cx.count as i32);
        let jump = self.asm.jcc(cc::S);
        self.stubs.push(Stub::Budget { jump });
    }

    fn op(&mut self, i: u16, op: &Op) {
        match op.code {
            Opcode::Get => self.get(i, op),
            Opcode::Set => self.set(op),
            Opcode::Pc => {
                let d = self.dst(0);
                self.asm.load(true, d, env!(page));
                self.add_far(d, op.imm);
                self.def(i, d);
            }
            Opcode::GetCc
            | Opcode::SetCc
            | Opcode::FlagsOf
            | Opcode::CcFromNzcv
            | Opcode::NzcvOf
            | Opcode::Ccmp
            | Opcode::CondVal
            | Opcode::Select
            | Opcode::CmpSet => self.flag_op(i, op),
            Opcode::Load
            | Opcode::Store
            | Opcode::LoadEx
            | Opcode::StoreEx
            | Opcode::Rmw
            | Opcode::Cas => self.memory_op(i, op),
            Opcode::ClearEx => self.asm.store_imm(3, env!(excl_addr), -1),
            Opcode::Fence => {
                if op.aux & 3 == 3 {
                    self.clobber_flags();
                    self.asm.barrier();
                }
            }
            Opcode::Call => self.call(i, op),
            Opcode::PushReturn => self.push_return(op),
            c if c.is_fp() => self.fp_op(i, op),
            c if c.is_vector() => self.vector_op(i, op),
            c if c.is_exit() => self.exit_op(op),
            _ => self.int_op(i, op),
        }
    }

    // Allocation with this block's buffers.

    pub(crate) fn gpr(&mut self, v: Val) -> u8 {
        self.al.gpr(&mut self.asm, self.block, v)
    }
    pub(crate) fn xmm(&mut self, v: Val) -> u8 {
        self.al.xmm(&mut self.asm, self.block, v)
    }
    pub(crate) fn temp(&mut self) -> u8 {
        self.al.temp(&mut self.asm, self.block)
    }
    pub(crate) fn take(&mut self, r: u8) {
        self.al.take(&mut self.asm, self.block, r);
    }
    pub(crate) fn unlock(&mut self, r: u8) {
        self.al.locked &= !(1 << r);
    }
    /// Declares the register that holds the value of op `i`.
    pub(crate) fn def(&mut self, i: u16, reg: u8) {
        self.al.set_owner(reg, i);
    }
    pub(crate) fn def_xmm(&mut self, i: u16, reg: u8) {
        self.al.set_owner(reg + XMM, i);
    }
    pub(crate) fn dst_xmm(&mut self, avoid: Option<u8>) -> u8 {
        let avoid = avoid.map_or(0, |x| 1 << (x + XMM));
        if self.lp.active
            && let Some(p) = self.destined().filter(|p| *p >= XMM)
            && avoid >> p & 1 == 0
        {
            self.al.vacate(&mut self.asm, self.block, p);
            self.al.locked |= 1 << p;
            return p - XMM;
        }
        self.al.dst_xmm(&mut self.asm, self.block, avoid)
    }
    pub(crate) fn temp_xmm(&mut self) -> u8 {
        self.al.temp_xmm(&mut self.asm, self.block)
    }
    /// A register for the result of the current op: the pinned one that it will be moved to, that of
    /// a dying operand, or a free one; none of `avoid`. Operands must have been fetched.
    pub(crate) fn dst(&mut self, avoid: u32) -> u8 {
        if let Some(p) = self.destined().filter(|p| *p < XMM)
            && avoid >> p & 1 == 0
        {
            self.al.vacate(&mut self.asm, self.block, p);
            self.al.locked |= 1 << p;
            return p;
        }
        self.al.dst_local(&mut self.asm, self.block, avoid)
    }

    /// Whether a value's register is known to have zeros above bit 31.
    pub(crate) fn is_clean(&self, v: Val) -> bool {
        self.block.def(v).code != Opcode::Trunc
    }

    pub(crate) fn wide(ty: Ty) -> bool {
        ty != Ty::I32
    }

    /// r += constant; leaves the flags alone.
    pub(crate) fn add_far(&mut self, r: u8, imm: i64) {
        if imm == 0 {
            return;
        }
        if let Ok(d) = i32::try_from(imm) {
            self.asm.lea(true, r, Mem::new(r, d));
        } else {
            let t = self.temp();
            self.asm.mov_imm(t, imm as u64);
            self.asm.lea(true, r, Mem::indexed(r, t, 0));
            self.unlock(t);
        }
    }

    // Guest state.

    pub(crate) fn state(&self, offset: i64) -> Mem {
        Mem::new(RBP, offset as i32 - self.bias)
    }

    pub(crate) fn pin_of(&self, offset: i64) -> Option<u8> {
        if self.lp.active {
            return self.lp.pins.iter().find(|p| p.offset == offset).map(|p| p.reg);
        }
        let n = self.pins.iter().position(|o| *o as i64 == offset)?;
        PIN_REGS.get(n).copied()
    }

    /// The pinned register that the value of the current op is about to be written to, if nothing
    /// between could see the register's old content.
    fn destined(&self) -> Option<u8> {
        let at = usize::from(self.al.at);
        if !self.al.is_used(at as u16) {
            return None;
        }
        let mut v = at as u16;
        for j in at + 1..(at + 9).min(self.block.ops.len()) {
            if !self.cx.live.keep[j] {
                continue;
            }
            let op = &self.block.ops[j];
            match op.code {
                Opcode::Set if op.a.0 == v => return self.pin_of(op.imm),
                Opcode::Zext32 if op.a.0 == v => v = j as u16,
                Opcode::FlagsOf | Opcode::SetCc | Opcode::Const => {}
                _ => return None,
            }
        }
        None
    }

    fn get(&mut self, i: u16, op: &Op) {
        if let Some(p) = self.pin_of(op.imm) {
            match self.al.own[usize::from(p)] {
                NONE => self.al.set_owner(p, i),
                root => self.al.alias(i, root),
            }
            return;
        }
        let m = self.state(op.imm);
        if op.ty == Ty::V128 {
            let d = self.dst_xmm(None);
            self.asm.load128(d, m);
            return self.def_xmm(i, d);
        }
        let d = self.dst(0);
        self.asm.load(Self::wide(op.ty), d, m);
        self.def(i, d);
    }

    fn set(&mut self, op: &Op) {
        let Some(p) = self.pin_of(op.imm) else { return self.set_memory(op) };
        let root = self.al.root(op.a);
        if self.al.reg(root) == Some(p) {
            return;
        }
        if let Some(c) = self.al.constant(self.block, op.a) {
            self.al.vacate(&mut self.asm, self.block, p);
            return self.asm.mov_imm(p, c);
        }
        if p >= XMM {
            let s = self.xmm(op.a);
            self.al.vacate(&mut self.asm, self.block, p);
            self.asm.movdqa(p - XMM, s);
            if self.al.pinned >> (s + XMM) & 1 == 0 {
                self.al.set_owner(p, root);
            }
            return;
        }
        let s = self.gpr(op.a);
        self.al.vacate(&mut self.asm, self.block, p);
        self.asm.mov(true, p, s);
        if self.al.pinned >> s & 1 == 0 {
            self.al.set_owner(p, root);
        }
    }

    fn set_memory(&mut self, op: &Op) {
        let m = self.state(op.imm);
        if op.ty == Ty::V128 {
            let s = self.xmm(op.a);
            return self.asm.store128(m, s);
        }
        let log2 = if op.ty == Ty::I32 { 2 } else { 3 };
        match self.al.imm32(self.block, op.a) {
            Some(v) => self.asm.store_imm(log2, m, v),
            None => {
                let s = self.gpr(op.a);
                self.asm.store(log2 == 3, m, s);
            }
        }
    }

    // Helpers.

    fn call(&mut self, i: u16, op: &Op) {
        let helper = self.cx.helpers.get(usize::from(op.aux));
        let fx = helper.map_or(Effects::ALL, |h| h.effects);
        let entry = helper.map_or(0, |h| h.entry as usize as u64);
        let general = Effects::READS_GENERAL | Effects::WRITES_GENERAL | Effects::MAY_EXIT;
        let full = fx.intersects(general);
        self.clobber_flags();
        self.al.release_shared(&mut self.asm);
        if fx.contains(Effects::WRITES_GENERAL) {
            self.rescue_flags_slot(NONE);
        }
        let saved = CALLER_SAVED & !self.al.pinned | 0xffff << XMM;
        self.al.spill_all(&mut self.asm, self.block, saved);
        if fx.intersects(Effects::WRITES_GENERAL) {
            self.al.spill_all(&mut self.asm, self.block, self.al.pinned);
        }
        self.call_arguments(op);
        self.asm.mov_imm(RDI, u64::from(op.call_imm()));
        if full {
            self.asm.store_imm(3, env!(offset), self.offset as i32);
        }
        let host_fp = fx.contains(Effects::HOST_FP);
        if host_fp {
            self.asm.stmxcsr(env!(host_fp));
        }
        self.asm.mov_imm(RAX, entry);
        self.asm.call_to(self.thunk(if full { id::CALL_FULL } else { id::CALL_PURE }));
        if host_fp {
            self.asm.ldmxcsr(env!(host_fp));
        }
        self.al.forget(saved);
        if fx.intersects(Effects::WRITES_GENERAL) {
            self.al.forget(self.al.pinned);
        }
        if op.ty != Ty::None && self.al.is_used(i) {
            self.al.locked = 1 << RAX;
            self.def(i, RAX);
        }
    }

    /// Moves the arguments of a helper to rsi, rdx, rcx (the thunk takes the immediate in edi). Their present registers are about to die.
    fn call_arguments(&mut self, op: &Op) {
        const TO: [u8; 3] = [RSI, RDX, RCX];
        let vals = [op.a, op.b, op.c()];
        let mut source = [None; 3];
        for n in 0..3 {
            let v = vals[n];
            if v == Val::NONE {
                continue;
            }
            source[n] = self.al.reg(self.al.root(v));
        }
        let mut pending = [true; 3];
        while let Some(n) = Self::next_argument(&source, &pending) {
            let blocked = (0..3).any(|m| m != n && pending[m] && source[m] == Some(TO[n]));
            if blocked {
                // A cycle: free the target through rax.
                self.asm.mov(true, RAX, TO[n]);
                for s in &mut source {
                    if *s == Some(TO[n]) {
                        *s = Some(RAX);
                    }
                }
            }
            self.argument(TO[n], vals[n], source[n]);
            pending[n] = false;
        }
    }

    /// An argument that can be moved now, or any if all wait for each other.
    fn next_argument(source: &[Option<u8>; 3], pending: &[bool; 3]) -> Option<usize> {
        const TO: [u8; 3] = [RSI, RDX, RCX];
        let ready = |n: &usize| (0..3).all(|m| m == *n || !pending[m] || source[m] != Some(TO[*n]));
        let mut waiting = (0..3).filter(|n| pending[*n]);
        waiting.clone().find(ready).or_else(|| waiting.next())
    }

    fn argument(&mut self, to: u8, v: Val, from: Option<u8>) {
        if v == Val::NONE {
            return self.asm.mov_imm(to, 0);
        }
        let ty = self.block.def(v).result_ty();
        if let Some(c) = self.al.constant(self.block, v) {
            return self.asm.mov_imm(to, c);
        }
        let spill = self.al.vals[usize::from(self.al.root(v))].spill;
        match (ty, from) {
            (Ty::Cc | Ty::None, _) => self.asm.mov_imm(to, 0),
            (Ty::V128, Some(x)) => self.asm.movq_from_xmm(true, to, x - XMM),
            (Ty::I32, Some(r)) => self.asm.mov(false, to, r),
            (_, Some(r)) if r == to => {}
            (_, Some(r)) => self.asm.mov(true, to, r),
            (_, None) if spill < SPILL_SLOTS => {
                self.asm.load(ty != Ty::I32, to, Alloc::spill_mem(spill));
            }
            _ => debug_assert!(false, "argument v{} is nowhere", v.0),
        }
    }
}
