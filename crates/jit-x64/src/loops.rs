//! Blocks that lead to themselves: loops.
//!
//! A loop has a code of its own for where guest registers are. It is set up at the block's entry, holds
//! from there at every op boundary, and is undone at each exit:
//! * guest registers (general ones and whole vectors) that the block uses often are in host registers,
//!   also such as do not have one elsewhere; they take the places of pinned ones that the block does not
//!   use, whose content is in memory meanwhile;
//! * accesses whose address moves in small steps remember their page ([`jit_ir::env::LoopPage`]).
//!
//! The first time around is not part of the loop: the block is emitted twice, first as any block is, whose
//! jumps back then lead into the loop. So blocks that hardly ever go back pay nothing, and the loop can rely
//! on what the first time did: constants written to system slots are there, and the flags of the last time
//! can be had from the operands of their instruction, which are kept, so the loop writes no
//! flags until it is left or interrupted.
//!
//! If all accesses of a loop remember pages and their addresses are known at the head, they are checked there:
//! the accesses themselves need no test then. If a check fails that a look into the TLB does not mend, the
//! next time around is done by the code for the first one.
//!
//! The jump back to the head tests for requests, as every backward jump does. Calls of the runtime for
//! memory accesses see exact state in memory: their stubs store what the loop changes first.
//!
//! A block in which a forward branch leaves for a place inside its own range is no loop of this kind: it
//! would be left and entered all the time.

use std::cell::Cell;
use std::mem::offset_of;

use jit_ir::env::LoopPage;
use jit_ir::opt::Passes;
use jit_ir::{Block, Effects, Exit, HelperDesc, Op, Opcode, StateLayout, Ty, Val};

use crate::alloc::{PIN_REGS, XMM};
use crate::asm::{Mem, RAX, RDI, RDX, RSI, alu, cc};
use crate::emit::Emit;
use crate::exits::Stub;
use crate::flags::Flags;
use crate::merge::{GroupCheck, Groups};
use crate::thunks::env;

/// Vector registers that a loop may hold all the time; the others are for values.
const VECTORS: usize = 10;
/// Steps from here on change pages too often to remember one.
const LONG_STEP: u64 = 1024;
/// A masked index below this hardly leaves its page.
const SMALL_INDEX: u64 = 1024;

/// Values of a block that are looked at to find steady addresses.
const LOOKS: u32 = 512;

/// A guest register that a host register holds throughout the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LoopPin {
    /// State offset.
    pub(crate) offset: i64,
    /// Host register; from [`XMM`] on vector ones.
    pub(crate) reg: u8,
    /// The register's place outside loops too.
    home: bool,
    /// The block changes it, or it is at home, where memory is never up to date.
    written: bool,
}

/// The slot that a value is the content of at the block's start.
fn at_head(block: &Block, keep: &[bool], v: Val) -> Option<i64> {
    let op = block.def(v);
    let changed =
        |(n, o): (usize, &Op)| keep[n] && o.code == Opcode::Set && o.imm == op.imm && n < v.index();
    let whole = op.code == Opcode::Get && op.ty == Ty::I64;
    (whole && !block.ops.iter().enumerate().any(changed)).then_some(op.imm)
}

fn root_of(block: &Block, keep: &[bool], v: Val) -> Option<Root> {
    if let Some(base) = at_head(block, keep, v) {
        return Some(Root { base, index: None });
    }
    let op = block.def(v);
    if op.code != Opcode::Add {
        return None;
    }
    let scaled = block.def(op.b);
    let (index, scale) = match scaled.code {
        Opcode::Shl => {
            (scaled.a, u8::try_from(constant(block, scaled.b)?).ok().filter(|n| *n < 4)?)
        }
        _ => (op.b, 0),
    };
    let base = at_head(block, keep, op.a)?;
    Some(Root { base, index: Some((at_head(block, keep, index)?, scale)) })
}

/// A value as an immediate operand.
fn constant(block: &Block, v: Val) -> Option<i32> {
    let op = block.def(v);
    match op.ty {
        _ if op.code != Opcode::Const => None,
        Ty::I32 => Some(op.imm as i32),
        _ => i32::try_from(op.imm).ok(),
    }
}

#[derive(Clone, Copy)]
struct Use {
    offset: i64,
    vector: bool,
    count: u32,
    written: bool,
}

/// What a loop keeps where.
#[derive(Default)]
pub(crate) struct Loop {
    /// The block is a loop.
    pub(crate) active: bool,
    pub(crate) pins: Vec<LoopPin>,
    /// Pinned registers that other guest registers took: host register and state offset.
    displaced: Vec<(u8, i64)>,
    /// Slots for pages in use.
    pages: usize,
    /// Position of the code after the set-up.
    head: usize,
    /// Calls of the subroutine that stores what the loop changes.
    sync_calls: Vec<usize>,
    uses: Vec<Use>,
    /// The block is being emitted for its first time around: its jumps into the loop.
    first: bool,
    into: Vec<usize>,
    /// How the flags can be had.
    flags: Option<LoopFlags>,
    /// The checks at the head that stand for those of the accesses; empty: the accesses check themselves.
    heads: Vec<(Root, GroupCheck)>,
    /// System slots that the first time around has written.
    settled: Vec<i64>,
}

/// An address from guest registers as they are at the head: state offsets and the scale (log2) of the second.
#[derive(Clone, Copy, Debug)]
struct Root {
    base: i64,
    index: Option<(i64, u8)>,
}

/// The only instruction of a loop that writes flags.
#[derive(Clone, Copy)]
struct LoopFlags {
    /// The op that computes.
    arith: u16,
    /// The op that writes the guest's flags.
    set: u16,
    code: Opcode,
    wide: bool,
    /// Second operand if it is a constant.
    right: Option<i32>,
}

/// Where the operands of the flags are.
const LEFT: Mem = env!(spill);
const RIGHT: Mem = Mem { disp: LEFT.disp + 8, ..LEFT };

/// A page slot's field.
pub(crate) fn page_slot(n: u8, field: usize) -> Mem {
    env!(pages).plus((usize::from(n) * size_of::<LoopPage>() + field) as i32)
}

impl Loop {
    /// Forgets the last block.
    pub(crate) fn clear(&mut self) {
        self.active = false;
        self.pins.clear();
        self.displaced.clear();
        self.uses.clear();
        self.pages = 0;
        self.first = false;
        self.into.clear();
        self.sync_calls.clear();
        self.flags = None;
        self.settled.clear();
        self.heads.clear();
    }

    /// Moves the checks of all accesses to the head if that can be.
    fn find_heads(&mut self, block: &Block, keep: &[bool], groups: &Groups) {
        let kept = || block.ops.iter().enumerate().filter(|(i, _)| keep[*i]);
        let alone = |(i, o): (usize, &Op)| {
            o.code == Opcode::Call || o.code.may_fault() && !groups.holds(i as u16)
        };
        if kept().any(alone) {
            return;
        }
        let Some(checks) = groups.checks() else { return };
        for c in checks {
            let Some(root) = root_of(block, keep, c.root) else {
                self.heads.clear();
                return;
            };
            self.heads.push((root, c));
        }
    }

    /// Whether accesses are checked at the head.
    pub(crate) fn checks_at_head(&self) -> bool {
        self.active && !self.heads.is_empty()
    }

    /// Finds the instruction that writes the flags, if it is one whose operands are enough and nobody reads
    /// flags from memory.
    fn find_flags(&mut self, block: &Block, keep: &[bool]) {
        let mut found = None;
        let mut last_observer = 0;
        for (i, op) in block.ops.iter().enumerate().filter(|(i, _)| keep[*i]) {
            match op.code {
                Opcode::GetCc | Opcode::Call => return,
                Opcode::SetCc if found.is_some() => return,
                Opcode::SetCc => {
                    let cc = block.def(op.a);
                    let arith = cc.a.0;
                    let behind =
                        op.a.0 == arith.wrapping_add(1) && last_observer < usize::from(arith);
                    if cc.code != Opcode::FlagsOf || !behind {
                        return;
                    }
                    let def = block.def(cc.a);
                    if !matches!(def.code, Opcode::Add | Opcode::Sub | Opcode::And)
                        || !keep[usize::from(arith)]
                        || block.def(def.a).code == Opcode::Const
                    {
                        return;
                    }
                    let (code, wide) = (def.code, def.ty != Ty::I32);
                    let right = constant(block, def.b);
                    let set = i as u16;
                    found = Some(LoopFlags { arith, set, code, wide, right });
                }
                c if c.may_fault() || c.is_exit() => last_observer = i,
                _ => {}
            }
        }
        self.flags = found;
    }

    /// Finds the system slots that only ever get one constant.
    fn find_settled(&mut self, block: &Block, keep: &[bool], layout: &StateLayout) {
        let ops = || block.ops.iter().zip(keep).filter(|(_, k)| **k).map(|(o, _)| o);
        if ops().any(|o| o.code == Opcode::Call) {
            return;
        }
        for op in ops().filter(|o| o.code == Opcode::Set) {
            let at = op.imm as u32;
            let bytes = if op.ty == Ty::V128 { 16 } else { 8 };
            let other = |o: &Op| {
                matches!(o.code, Opcode::Get | Opcode::Set)
                    && o.imm.abs_diff(op.imm) < 16
                    && (o.code == Opcode::Get || !std::ptr::eq(o, op))
            };
            if block.def(op.a).code == Opcode::Const
                && layout.general_at(at).is_none()
                && !layout.in_vectors(at, bytes)
                && !ops().any(other)
            {
                self.settled.push(op.imm);
            }
        }
    }

    /// The host registers that the loop holds.
    pub(crate) fn mask(&self) -> u32 {
        self.pins.iter().fold(0, |m, p| m | 1 << p.reg)
    }

    pub(crate) fn has_vectors(&self) -> bool {
        self.pins.iter().any(|p| p.reg >= XMM)
    }

    /// Whether the block may be a loop, and whether its vectors may be in registers.
    fn fits(block: &Block, keep: &[bool], helpers: &[HelperDesc]) -> Option<bool> {
        if !block.exits.contains(&Exit::Page(block.start)) {
            return None;
        }
        let (mut back, mut vectors, mut last) = (false, true, 0);
        for (op, _) in block.ops.iter().zip(keep).filter(|(_, k)| **k) {
            match op.code {
                Opcode::InsnStart => last = last.max(op.imm as u32),
                Opcode::Call => {
                    let fx = helpers.get(usize::from(op.aux)).map_or(Effects::ALL, |h| h.effects);
                    let full = Effects::READS_GENERAL | Effects::WRITES_GENERAL | Effects::MAY_EXIT;
                    if fx.intersects(full) {
                        return None;
                    }
                    vectors = false;
                }
                _ => {}
            }
        }
        for (op, _) in block.ops.iter().zip(keep).filter(|(o, k)| **k && o.code.is_exit()) {
            if let Some(Exit::Page(to)) = block.exits.get(op.imm as usize) {
                back |= *to == block.start;
                if *to > block.start && *to <= last {
                    return None;
                }
            }
        }
        back.then_some(vectors)
    }

    /// Counts the uses of guest registers.
    fn count(&mut self, block: &Block, keep: &[bool], layout: &StateLayout, vectors: bool) {
        let mut partial = 0u32;
        let (start, len) = layout.vectors;
        for (op, _) in block.ops.iter().zip(keep).filter(|(_, k)| **k) {
            let written = match op.code {
                Opcode::Get => false,
                Opcode::Set => true,
                _ => continue,
            };
            let offset = op.imm;
            let within = (op.imm as u32).wrapping_sub(start);
            let vector = within < len;
            if vector && (op.ty != Ty::V128 || within % 16 != 0) {
                partial |= 1 << (within / 16).min(31);
                continue;
            }
            let plain = if vector { vectors } else { op.ty == Ty::I64 };
            if !plain {
                continue;
            }
            match self.uses.iter_mut().find(|u| u.offset == offset) {
                Some(u) => {
                    u.count += 1;
                    u.written |= written;
                }
                None => self.uses.push(Use { offset, vector, count: 1, written }),
            }
        }
        self.uses.retain(|u| {
            if u.vector {
                let n = (u.offset as u32).wrapping_sub(start) / 16;
                partial >> n.min(31) & 1 == 0
            } else {
                layout.general_at(u.offset as u32).is_some()
            }
        });
        self.uses.sort_by_key(|u| std::cmp::Reverse(u.count));
    }

    /// Gives guest registers their places; whether that is worth something.
    fn assign(&mut self, homes: &[u64]) -> bool {
        let used = |at: &u64| self.uses.iter().any(|u| u.offset == *at as i64);
        let mut free: Vec<(u8, i64)> = PIN_REGS
            .iter()
            .zip(homes)
            .filter(|(_, at)| !used(at))
            .map(|(r, at)| (*r, *at as i64))
            .collect();
        let mut vector = XMM + 16 - VECTORS as u8;
        for u in &self.uses {
            let home = homes.iter().position(|at| *at as i64 == u.offset);
            let (offset, written) = (u.offset, u.written);
            if u.vector {
                if vector < XMM + 16 {
                    self.pins.push(LoopPin { offset, reg: vector, home: false, written });
                    vector += 1;
                }
            } else if home.is_none()
                && let Some((reg, at)) = free.pop()
            {
                self.displaced.push((reg, at));
                self.pins.push(LoopPin { offset, reg, home: false, written });
            }
        }
        let gained = !self.pins.is_empty();
        for (reg, at) in PIN_REGS.iter().zip(homes) {
            if !self.displaced.iter().any(|d| d.0 == *reg) {
                let offset = *at as i64;
                self.pins.push(LoopPin { offset, reg: *reg, home: true, written: true });
            }
        }
        gained
    }
}

/// Which addresses move in small steps from one time around to the next.
struct Steady<'a> {
    block: &'a Block,
    keep: &'a [bool],
    /// Values that may still be looked at: a guest can write sums of sums that have thousands of ways down.
    left: Cell<u32>,
}

impl Steady<'_> {
    /// What a slot holds the next time, if the block changes it.
    fn next(&self, slot: i64) -> Option<Val> {
        let set = |n: &usize| {
            let op = &self.block.ops[*n];
            self.keep[*n] && op.code == Opcode::Set && op.imm == slot
        };
        (0..self.block.ops.len()).rev().find(set).map(|n| self.block.ops[n].a)
    }

    fn constant(&self, v: Val) -> Option<u64> {
        let op = self.block.ops.get(v.index())?;
        (op.code == Opcode::Const).then_some(op.imm as u64)
    }

    fn is(&self, v: Val, slots: &mut Vec<i64>, depth: u32) -> bool {
        let Some(left) = self.left.get().checked_sub(1).filter(|_| depth < 12) else {
            return false;
        };
        self.left.set(left);
        let Some(op) = self.block.ops.get(v.index()) else { return false };
        let short = |v: Val| self.constant(v).is_none_or(|c| (c as i64).unsigned_abs() < LONG_STEP);
        match op.code {
            Opcode::Const | Opcode::Pc => true,
            Opcode::Get if slots.contains(&op.imm) => true,
            Opcode::Get => match self.next(op.imm) {
                None => true,
                Some(next) => {
                    slots.push(op.imm);
                    let steady = self.is(next, slots, depth + 1);
                    slots.pop();
                    steady
                }
            },
            Opcode::Add | Opcode::Sub => {
                (slots.is_empty() || short(op.a) && short(op.b))
                    && self.is(op.a, slots, depth + 1)
                    && self.is(op.b, slots, depth + 1)
            }
            Opcode::Shl => self.constant(op.b).is_some() && self.is(op.a, slots, depth + 1),
            Opcode::Zext32 | Opcode::Sext32 | Opcode::Trunc => self.is(op.a, slots, depth + 1),
            Opcode::Ubfx => 1u64 << (op.aux >> 8).min(63) <= SMALL_INDEX,
            Opcode::And => {
                let small = |v| self.constant(v).is_some_and(|c| c < SMALL_INDEX);
                small(op.a) || small(op.b)
            }
            _ => false,
        }
    }
}

impl Emit<'_> {
    /// Finds out whether the block is a loop worth the set-up.
    pub(crate) fn find_loop(&mut self) {
        self.lp.clear();
        if !self.cx.loops || !self.pass(Passes::LOOPS | Passes::CHAIN) {
            return;
        }
        // A function that calls itself seldom goes around often, and each time it comes back.
        if self.block.ops.iter().any(|op| op.code == Opcode::PushReturn) {
            return;
        }
        let keep = &self.cx.live.keep[..];
        let Some(vectors) = Loop::fits(self.block, keep, self.cx.helpers) else { return };
        self.lp.count(self.block, keep, self.cx.layout, vectors);
        let gained = self.lp.assign(self.pins);
        let steady = Steady { block: self.block, keep, left: Cell::new(LOOKS) };
        self.lp.pages = self.groups.remember_pages(|v| steady.is(v, &mut Vec::new(), 0));
        self.lp.find_flags(self.block, keep);
        self.lp.find_settled(self.block, keep, self.cx.layout);
        if self.lp.pages > 0 && !self.cx.log {
            self.lp.find_heads(self.block, keep, &self.groups);
        }
        self.lp.first = gained || self.lp.pages > 0 || self.lp.flags.is_some();
        if !self.lp.first {
            self.lp.clear();
        }
    }

    /// The block was emitted for its first time around: prepares for the loop. False if it is none.
    pub(crate) fn begin_loop(&mut self) -> bool {
        if !std::mem::take(&mut self.lp.first) {
            return false;
        }
        self.lp.active = true;
        self.start_alloc(self.lp.mask());
        self.stubs.clear();
        self.groups.restart();
        self.flags = Flags::default();
        self.offset = self.block.start;
        for n in 0..self.lp.into.len() {
            self.asm.bind(self.lp.into[n]);
        }
        self.enter_loop();
        true
    }

    /// A jump back in the first time around.
    pub(crate) fn jump_in(&mut self) {
        let at = self.asm.jmp();
        self.lp.into.push(at);
    }

    /// The same if a condition holds.
    pub(crate) fn jump_in_if(&mut self, cond: u8) {
        let at = self.asm.jcc(cond);
        self.lp.into.push(at);
    }

    /// Whether the code is that of a loop's first time around.
    pub(crate) fn is_first(&self) -> bool {
        self.lp.first
    }

    /// Whether an op's effect is there since the first time around.
    pub(crate) fn is_settled(&self, op: &Op) -> bool {
        self.lp.active && op.code == Opcode::Set && self.lp.settled.contains(&op.imm)
    }

    /// Whether the loop writes these flags only when they are asked for.
    pub(crate) fn flags_wait(&self) -> bool {
        self.lp.active && self.lp.flags.is_some_and(|f| f.set == self.al.at)
    }

    /// Keeps the operands of the current op if it makes the loop's flags.
    pub(crate) fn keep_operands(&mut self, a: u8, b: Result<i32, u8>) {
        let Some(f) = self.lp.flags.filter(|f| f.arith == self.al.at) else { return };
        self.asm.store(true, LEFT, a);
        match b {
            _ if f.right.is_some() => {}
            Ok(v) => self.asm.store_imm(3, RIGHT, v),
            Err(b) => self.asm.store(true, RIGHT, b),
        }
    }

    /// Writes the flags of the last instruction that made any to the guest's slot. Changes rdi and the host's
    /// flags.
    fn settle_flags(&mut self) {
        let Some(f) = self.lp.flags else { return };
        let (w, left, right) = (f.wide, LEFT, RIGHT);
        self.asm.mov(true, RDI, RAX);
        self.asm.load(w, RAX, left);
        match (f.code, f.right) {
            (Opcode::Sub, Some(v)) => self.asm.alu_imm(alu::CMP, w, RAX, v),
            (Opcode::Sub, None) => self.asm.alu(alu::CMP, w, RAX, right),
            (code, right_imm) => {
                let op = if code == Opcode::Add { alu::ADD } else { alu::AND };
                match right_imm {
                    Some(v) => self.asm.alu_imm(op, w, RAX, v),
                    None => self.asm.alu(op, w, RAX, right),
                }
            }
        }
        if f.code == Opcode::Sub {
            self.asm.cmc();
        }
        self.asm.flags_to_ax();
        let slot = self.state(i64::from(self.cx.layout.flags));
        self.asm.store_sized(1, slot, RAX);
        self.asm.mov(true, RAX, RDI);
    }

    /// The set-up at the block's entry.
    fn enter_loop(&mut self) {
        for n in 0..self.lp.displaced.len() {
            let (reg, at) = self.lp.displaced[n];
            self.asm.store(true, self.state(at), reg);
        }
        for n in 0..self.lp.pins.len() {
            let LoopPin { offset, reg, home, .. } = self.lp.pins[n];
            match home {
                true => {}
                false if reg >= XMM => self.asm.load128(reg - XMM, self.state(offset)),
                false => self.asm.load(true, reg, self.state(offset)),
            }
        }
        for n in 0..self.lp.pages {
            self.asm.store_imm(3, page_slot(n as u8, offset_of!(LoopPage, limit)), 0);
        }
        self.asm.align_code();
        self.lp.head = self.asm.pos();
        for n in 0..self.lp.heads.len() {
            let (root, c) = self.lp.heads[n];
            self.root_to(RDI, root, c.low);
            self.asm.alu(alu::SUB, true, RDI, page_slot(c.slot, offset_of!(LoopPage, tag)));
            self.asm.alu(alu::CMP, true, RDI, page_slot(c.slot, offset_of!(LoopPage, limit)));
            let jump = self.asm.jcc(cc::AE);
            self.stubs.push(Stub::HeadCheck { jump, back: self.asm.pos(), n });
        }
    }

    /// d = an address known at the head, and some bytes. Changes rsi.
    fn root_to(&mut self, d: u8, root: Root, plus: i32) {
        let reg = |e: &mut Self, slot: i64, free: u8| match e.pin_of(slot) {
            Some(r) => r,
            None => {
                let m = e.state(slot);
                e.asm.load(true, free, m);
                free
            }
        };
        let base = reg(self, root.base, d);
        match root.index {
            None => self.asm.lea(true, d, Mem::new(base, plus)),
            Some((slot, scale)) => {
                let index = reg(self, slot, RSI);
                self.asm.lea(true, d, Mem { base, index, scale, disp: plus });
            }
        }
    }

    /// A check at the head failed: looks the page up. If that fails too, the code for the first time around
    /// goes on.
    pub(crate) fn head_check(&mut self, jump: usize, back: usize, n: usize) {
        self.asm.bind(jump);
        let (root, c) = self.lp.heads[n];
        self.root_to(RDX, root, c.low);
        let reach = c.high - c.low;
        let miss = self.check((RDX, 0), reach, 0, c.mmu, c.write);
        self.asm.store(true, page_slot(c.slot, offset_of!(LoopPage, addend)), RSI);
        self.asm.alu_imm(alu::AND, true, RDX, -4096);
        self.asm.store(true, page_slot(c.slot, offset_of!(LoopPage, tag)), RDX);
        self.asm.store_imm(3, page_slot(c.slot, offset_of!(LoopPage, limit)), 4096 - reach);
        self.asm.jmp_to(self.asm.base + back as u64);
        self.asm.bind(miss);
        self.undo_loop();
        // It comes back here without a jump that looks for requests.
        self.asm.alu_imm(alu::CMP, false, env!(request), 0);
        self.asm.jcc_to(cc::NS, self.asm.base);
        self.look_up_start();
    }

    /// Jumps to the head of the loop, or leaves there if somebody asks for it.
    pub(crate) fn jump_back(&mut self) {
        self.asm.alu_imm(alu::CMP, false, env!(request), 0);
        self.asm.jcc_to(cc::NS, self.asm.base + self.lp.head as u64);
        let jump = self.asm.jmp();
        self.stubs.push(Stub::LeaveLoop { jump });
    }

    fn store_pin(&mut self, p: LoopPin) {
        let m = self.state(p.offset);
        if p.reg >= XMM {
            self.asm.store128(m, p.reg - XMM);
        } else {
            self.asm.store(true, m, p.reg);
        }
    }

    /// Undoes the set-up. Changes no register but those with places outside loops and rdi.
    pub(crate) fn undo_loop(&mut self) {
        if !self.lp.active {
            return;
        }
        self.settle_flags();
        for n in 0..self.lp.pins.len() {
            let p = self.lp.pins[n];
            if p.written && !p.home {
                self.store_pin(p);
            }
        }
        for n in 0..self.lp.displaced.len() {
            let (reg, at) = self.lp.displaced[n];
            self.asm.load(true, reg, self.state(at));
        }
    }

    /// The subroutine that makes the state in memory exact.
    pub(crate) fn emit_sync(&mut self) {
        if self.lp.sync_calls.is_empty() {
            return;
        }
        for n in 0..self.lp.sync_calls.len() {
            self.asm.bind(self.lp.sync_calls[n]);
        }
        self.settle_flags();
        for n in 0..self.lp.pins.len() {
            let p = self.lp.pins[n];
            if p.written {
                self.store_pin(p);
            }
        }
        self.asm.ret();
    }

    /// Calls it.
    pub(crate) fn sync_loop(&mut self) {
        if self.lp.active {
            let at = self.asm.call();
            self.lp.sync_calls.push(at);
        }
    }

    /// What a request at the head leads to.
    pub(crate) fn leave_loop(&mut self) {
        self.undo_loop();
        self.look_up_start();
    }

    fn look_up_start(&mut self) {
        self.link(self.block.start as u16, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// v0 = a register, each further value the sum of the last one with itself.
    fn sums(count: u16) -> Block {
        let mut ops = vec![Op::new(Opcode::Get, Ty::I64)];
        for n in 0..count {
            let mut op = Op::new(Opcode::Add, Ty::I64);
            (op.a, op.b) = (Val(n), Val(n));
            ops.push(op);
        }
        Block { ops, ..Block::default() }
    }

    fn steady(count: u16) -> (bool, u32) {
        let block = sums(count);
        let keep = vec![true; block.ops.len()];
        let s = Steady { block: &block, keep: &keep, left: Cell::new(LOOKS) };
        let is = s.is(Val(count), &mut Vec::new(), 0);
        (is, LOOKS - s.left.get())
    }

    #[test]
    fn looking_for_steady_addresses_comes_to_an_end() {
        assert_eq!(steady(3), (true, 15));
        assert_eq!(steady(11), (false, LOOKS), "4095 looks without a bound");
    }
}
