//! Blocks that lead to themselves: loops.
//!
//! A loop has a code of its own for where guest registers are. It is set up at the block's entry, holds
//! from there at every op boundary, and is undone at each exit:
//! * guest registers (general ones and whole vectors) that the block uses often are in host registers,
//!   also such as do not have one elsewhere; they take the places of pinned ones that the block does not
//!   use, whose content is in memory meanwhile;
//! * accesses whose address moves in small steps remember their page ([`jit_ir::env::LoopPage`]).
//!
//! The jump back to the head tests for requests, as every backward jump does. Calls of the runtime for
//! memory accesses see exact state in memory: their stubs store what the loop changes first.
//!
//! A block in which a forward branch leaves for a place inside its own range is no loop of this kind: it
//! would be left and entered all the time.

use std::mem::offset_of;

use jit_ir::env::LoopPage;
use jit_ir::opt::Passes;
use jit_ir::{Block, Effects, Exit, HelperDesc, Opcode, StateLayout, Ty, Val};

use crate::alloc::{PIN_REGS, XMM};
use crate::asm::{Mem, RAX, alu, cc};
use crate::emit::Emit;
use crate::exits::Stub;
use crate::thunks::{env, id};

/// Vector registers that a loop may hold all the time; the others are for values.
const VECTORS: usize = 10;
/// Steps from here on change pages too often to remember one.
const LONG_STEP: u64 = 1024;
/// A masked index below this hardly leaves its page.
const SMALL_INDEX: u64 = 1024;

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
    /// Position of the subroutine that stores what the loop changes.
    sync: usize,
    uses: Vec<Use>,
}

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
                && u.count > 1
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
        let Some(op) = self.block.ops.get(v.index()).filter(|_| depth < 12) else { return false };
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
        let keep = &self.cx.live.keep[..];
        let Some(vectors) = Loop::fits(self.block, keep, self.cx.helpers) else { return };
        self.lp.count(self.block, keep, self.cx.layout, vectors);
        let gained = self.lp.assign(self.pins);
        let steady = Steady { block: self.block, keep };
        self.lp.pages = self.groups.remember_pages(|v| steady.is(v, &mut Vec::new(), 0));
        self.lp.active = gained || self.lp.pages > 0;
        if !self.lp.active {
            self.lp.clear();
        }
    }

    /// The set-up at the block's entry.
    pub(crate) fn enter_loop(&mut self) {
        if !self.lp.active {
            return;
        }
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
        let over = self.asm.jmp();
        self.emit_sync();
        self.asm.align_code();
        self.asm.bind(over);
        self.lp.head = self.asm.pos();
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

    /// Undoes the set-up. Changes no register but those with places outside loops, and no flags.
    pub(crate) fn undo_loop(&mut self) {
        if !self.lp.active {
            return;
        }
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
    fn emit_sync(&mut self) {
        self.lp.sync = self.asm.pos();
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
            self.asm.call_to(self.asm.base + self.lp.sync as u64);
        }
    }

    /// What a request at the head leads to.
    pub(crate) fn leave_loop(&mut self) {
        self.undo_loop();
        self.store_offset(self.block.start);
        self.asm.mov_imm(RAX, 0);
        self.asm.jmp_to(self.thunk(id::LOOKUP));
    }
}
