//! The backward pass: liveness, dead ops, dead guest-state writes.

use bitflags::bitflags;

use crate::block::{Block, Exit};
use crate::builder::size_of;
use crate::helper::{Effects, HelperDesc};
use crate::op::{Op, Opcode, Val};
use crate::state::StateLayout;

bitflags! {
    /// Optimisations; each can be switched off (`-accel tcg,x-passes=…` and the tests do).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Passes: u32 {
        /// Constant and identity folding in the builder.
        const FOLD = 1;
        /// Guest slots already read or written are not read again.
        const FORWARD = 2;
        /// Ops without use are dropped.
        const DEAD_OPS = 4;
        /// Guest-state writes that nothing can observe are dropped.
        const DEAD_STORES = 8;
        /// Host back end: compare-and-branch fusion and flags kept in the host's flags register.
        const FLAGS = 16;
        /// Host back end: pinned guest registers.
        const PINS = 32;
        /// Direct jumps between blocks.
        const CHAIN = 64;
        /// Return ring.
        const RING = 128;
        /// Host back end: one TLB check for accesses near each other.
        const MERGE = 256;
        /// Host back end: blocks that lead to themselves keep guest registers and pages.
        const LOOPS = 512;
        /// Jump cache.
        const JUMPS = 1024;
    }
}

impl Default for Passes {
    fn default() -> Self {
        Self::all()
    }
}

/// Result of [`run`].
#[derive(Default, Debug)]
pub struct Liveness {
    /// False for removed ops.
    pub keep: Vec<bool>,
    /// For each op the index of the last kept op that reads its value, its own index if none does. A
    /// `FlagsOf` that does not come right after the arithmetic reads that one's operands.
    pub last: Vec<u16>,
    /// The `FlagsOf` that comes right after an op and names it, or [`NO_OP`].
    pub flags_of: Vec<u16>,
    /// Scratch: values that later ops use.
    used: Vec<bool>,
    /// Scratch: see [`Dead`].
    ranges: Vec<(u32, u32)>,
}

/// No op, in [`Liveness::flags_of`].
pub const NO_OP: u16 = u16::MAX;

impl Liveness {
    fn restart(&mut self, n: usize) {
        self.keep.clear();
        self.keep.resize(n, true);
        self.used.clear();
        self.used.resize(n, false);
        self.last.clear();
        self.last.extend((0..n).map(|i| i as u16));
        self.flags_of.clear();
        self.flags_of.resize(n, NO_OP);
        self.ranges.clear();
    }
}

/// Slots whose present content will certainly be overwritten before anyone looks.
struct Dead<'a> {
    /// Offset of the first slot, and a bit for each of the 64 words from there on.
    first: u32,
    words: u64,
    /// Others: offset and length.
    ranges: &'a mut Vec<(u32, u32)>,
    flags: bool,
}

impl Dead<'_> {
    /// The words that a range touches, and whether all of it is among the 64.
    fn mask(&self, offset: u32, bytes: u32) -> (u64, bool) {
        let (from, to) = (offset.max(self.first), (offset + bytes).min(self.first + 64 * 8));
        if from >= to {
            return (0, false);
        }
        let (from, to) = (from - self.first, to - self.first);
        let mask = (!0 << (from / 8)) & (!0 >> (63 - (to - 1) / 8));
        (mask, to - from == bytes)
    }
    fn add(&mut self, offset: u32, bytes: u32) {
        match self.mask(offset, bytes) {
            (mask, true) if mask.count_ones() * 8 == bytes => self.words |= mask,
            _ => self.ranges.push((offset, bytes)),
        }
    }
    fn covers(&self, offset: u32, bytes: u32) -> bool {
        let (mask, inside) = self.mask(offset, bytes);
        inside && self.words & mask == mask
            || self.ranges.iter().any(|(o, n)| *o <= offset && offset + bytes <= o + n)
    }
    fn observe(&mut self, offset: u32, bytes: u32) {
        self.words &= !self.mask(offset, bytes).0;
        self.ranges.retain(|(o, n)| o + n <= offset || *o >= offset + bytes);
    }
    fn observe_all(&mut self) {
        (self.words, self.flags) = (0, false);
        self.ranges.clear();
    }
}

/// Runs the backward pass.
pub fn run(
    block: &Block,
    layout: &StateLayout,
    helpers: &[HelperDesc],
    passes: Passes,
    out: &mut Liveness,
) {
    let ops = &block.ops[..];
    out.restart(ops.len());
    let Liveness { keep, last, flags_of, used, ranges } = out;
    let first = layout.slots.first().map_or(0, |s| s.offset);
    let mut dead = Dead { first, words: 0, ranges, flags: false };
    let mut uses = Uses { ops, used, last };
    let drop_ops = passes.contains(Passes::DEAD_OPS);
    let drop_stores = passes.contains(Passes::DEAD_STORES);
    // The `FlagsOf` that was just seen, and what it names.
    let mut flags = None;
    for (i, op) in ops.iter().enumerate().rev() {
        if drop_ops && !uses.used[i] && !op.code.must_stay()
            || drop_stores && !track(op, layout, helpers, &mut dead)
        {
            keep[i] = false;
            continue;
        }
        match flags.take() {
            Some((at, v)) if v == Val(i as u16) => flags_of[i] = at,
            Some((at, v)) => block.def(v).each_operand(|v| uses.reads(v, at)),
            None => {}
        }
        if op.code == Opcode::FlagsOf {
            uses.keeps(op.a);
            flags = Some((i as u16, op.a));
            continue;
        }
        op.each_operand(|v| uses.add(v, i as u16));
        if op.code.is_exit()
            && let Some(Exit::Indirect(v) | Exit::Return(v)) = block.exits.get(op.imm as usize)
        {
            uses.add(*v, i as u16);
        }
    }
}

/// Which values are used, and where last.
struct Uses<'a> {
    ops: &'a [Op],
    used: &'a mut [bool],
    last: &'a mut [u16],
}

impl Uses<'_> {
    fn keeps(&mut self, v: Val) {
        if let Some(u) = self.used.get_mut(v.index()) {
            *u = true;
        }
    }

    fn reads(&mut self, v: Val, at: u16) {
        if let Some(last) = self.last.get_mut(v.index()) {
            *last = at.max(*last);
        }
    }

    /// Op `at` has `v` as an operand.
    fn add(&mut self, v: Val, at: u16) {
        self.keeps(v);
        self.reads(v, at);
        // Flags are recomputed from the operands of their arithmetic op when they were clobbered.
        let mut cc = v;
        while let Some(op) = self.ops.get(cc.index())
            && op.code == Opcode::FlagsOf
        {
            self.keeps(op.a);
            let Some(arith) = self.ops.get(op.a.index()) else { break };
            self.keeps(arith.a);
            self.keeps(arith.b);
            if arith.code != Opcode::AddC {
                break;
            }
            cc = arith.c();
            self.keeps(cc);
        }
    }
}

/// Updates `dead` across `op`; false if `op` is a write that nobody sees.
fn track(op: &Op, layout: &StateLayout, helpers: &[HelperDesc], dead: &mut Dead<'_>) -> bool {
    let at = op.imm as u32;
    match op.code {
        Opcode::Set => {
            let bytes = size_of(op.ty);
            if dead.covers(at, bytes) {
                return false;
            }
            if layout.in_vectors(at, bytes) || layout.general_at(at).is_some() {
                dead.add(at, bytes);
            }
        }
        Opcode::SetCc => {
            if dead.flags {
                return false;
            }
            dead.flags = true;
        }
        Opcode::Get => dead.observe(at, size_of(op.ty)),
        Opcode::GetCc => dead.flags = false,
        Opcode::Call => {
            let fx = helpers.get(usize::from(op.aux)).map_or(Effects::ALL, |h| h.effects);
            if fx.contains(Effects::MAY_EXIT) {
                dead.observe_all();
            }
            if fx.contains(Effects::READS_GENERAL) {
                dead.flags = false;
                let (v, len) = layout.vectors;
                dead.words = 0;
                dead.ranges.retain(|(o, _)| *o >= v && *o < v + len);
            }
            if fx.contains(Effects::READS_VECTOR) {
                let (v, len) = layout.vectors;
                dead.observe(v, len);
            }
        }
        c if c.may_fault() || c.is_exit() => dead.observe_all(),
        _ => {}
    }
    true
}
