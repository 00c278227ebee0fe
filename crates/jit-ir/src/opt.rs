//! The backward pass: liveness, dead ops, dead guest-state writes.

use bitflags::bitflags;

use crate::block::{Block, Exit};
use crate::builder::size_of;
use crate::helper::{Effects, HelperDesc};
use crate::op::{Op, Opcode, Ty, Val};
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

/// Result of [`run`]: for each op the index of the last op that uses its value (its own index if
/// none), and whether the op is to be emitted.
#[derive(Default, Debug)]
pub struct Liveness {
    /// Last use of each value.
    pub last_use: Vec<u16>,
    /// False for removed ops.
    pub keep: Vec<bool>,
    /// Scratch: values that later ops use.
    used: Vec<bool>,
    /// Scratch: see [`Dead`].
    ranges: Vec<(u32, u32)>,
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
    let n = block.ops.len();
    out.last_use.clear();
    out.last_use.extend((0..n).map(|i| i as u16));
    out.keep.clear();
    out.keep.resize(n, true);
    out.used.clear();
    out.used.resize(n, false);
    let used = &mut out.used;
    let first = layout.slots.first().map_or(0, |s| s.offset);
    out.ranges.clear();
    let mut dead = Dead { first, words: 0, ranges: &mut out.ranges, flags: false };
    for i in (0..n).rev() {
        let op = &block.ops[i];
        let removable = !op.code.has_effect() && !op.code.is_exit();
        if removable && !used[i] && passes.contains(Passes::DEAD_OPS) {
            out.keep[i] = false;
            continue;
        }
        if passes.contains(Passes::DEAD_STORES) && !track(op, layout, helpers, &mut dead) {
            out.keep[i] = false;
            continue;
        }
        mark_uses(block, op, i, used, &mut out.last_use);
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

fn mark_uses(block: &Block, op: &Op, i: usize, used: &mut [bool], last: &mut [u16]) {
    let mut mark = |v: Val| {
        let at = v.index();
        if at < used.len() {
            if !used[at] {
                last[at] = i as u16;
            }
            used[at] = true;
        }
    };
    op.each_operand(|v| {
        mark(v);
        // Flags are recomputed from the operands of their arithmetic op when they were clobbered.
        let mut cc = v;
        while block.ops[cc.index()].result_ty() == Ty::Cc
            && block.ops[cc.index()].code == Opcode::FlagsOf
        {
            let arith = &block.ops[block.ops[cc.index()].a.index()];
            mark(block.ops[cc.index()].a);
            mark(arith.a);
            mark(arith.b);
            if arith.code != Opcode::AddC {
                break;
            }
            cc = arith.c();
            mark(cc);
        }
    });
    if op.code.is_exit()
        && let Some(Exit::Indirect(v) | Exit::Return(v)) = block.exits.get(op.imm as usize)
    {
        mark(*v);
    }
}
