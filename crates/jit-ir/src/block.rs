//! A translated block: ops plus its exits.

use crate::op::{Op, Val};

/// Where control goes when it leaves a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A guest instruction of the same page, by page offset (chainable by a direct jump).
    Page(u32),
    /// Another page: VA of the current code page plus this distance.
    Rel(i64),
    /// A computed VA.
    Indirect(Val),
    /// A computed VA that the return ring predicts.
    Return(Val),
    /// To the run loop with PC = page + offset: the mode may have changed (system register
    /// write), or the guest asks for it (barrier, wait).
    Runtime(u32),
    /// To the run loop; a helper has set PC and state already (exception, exception return).
    RuntimePcSet,
    /// Calls a helper (MAY_EXIT effects, three zero arguments) with PC = page + `offset`, then
    /// leaves to the run loop: faults that a cheap inline test found.
    Helper {
        /// Helper index.
        helper: u16,
        /// Its immediate argument.
        imm: u32,
        /// Page offset of the instruction.
        offset: u32,
    },
}

/// A block of ops.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Block {
    /// The ops; an op's value is named by its index here.
    pub ops: Vec<Op>,
    /// Exits, named by index.
    pub exits: Vec<Exit>,
    /// Page offset of the first instruction.
    pub start: u32,
    /// Guest code bytes covered from `start`.
    pub len: u32,
    /// Guest instructions.
    pub insns: u32,
}

impl Block {
    /// Empties the block for re-use.
    pub fn clear(&mut self) {
        self.ops.clear();
        self.exits.clear();
        (self.start, self.len, self.insns) = (0, 0, 0);
    }

    /// The op that defines `v`.
    #[must_use]
    pub fn def(&self, v: Val) -> &Op {
        &self.ops[v.index()]
    }
}
