//! Flags of loops that need no copies of their operands.
//!
//! A loop's flags are made from the operands of its one compare when somebody asks. Mostly these are still
//! in guest registers then, which the loop keeps in host registers.

use jit_ir::{Block, Op, Opcode, Ty, Val};

use crate::alloc::XMM;
use crate::loops::LoopPin;

/// Which pinned registers hold the operands of a loop's flags.
pub(crate) struct Held<'a> {
    pub(crate) block: &'a Block,
    pub(crate) keep: &'a [bool],
    pub(crate) pins: &'a [LoopPin],
    /// The operands have 64 bits.
    pub(crate) wide: bool,
}

impl Held<'_> {
    fn sets(&self) -> impl Iterator<Item = (usize, &Op)> {
        let ops = self.block.ops.iter().enumerate();
        ops.filter(|(n, op)| self.keep[*n] && op.code == Opcode::Set)
    }

    /// Whether the block changes the slot once.
    fn is_once(&self, slot: i64) -> bool {
        self.sets().filter(|(_, op)| op.imm == slot).count() == 1
    }

    fn pin(&self, slot: i64) -> Option<u8> {
        self.pins.iter().find(|p| p.offset == slot && p.reg < XMM).map(|p| p.reg)
    }

    /// The slot that a value, or that of which it is the low half, is read from.
    fn source(&self, v: Val) -> Option<i64> {
        let op = self.block.ops.get(v.index())?;
        match op.code {
            Opcode::Trunc if !self.wide => self.source(op.a),
            Opcode::Get if op.ty == Ty::I64 => Some(op.imm),
            _ => None,
        }
    }

    /// The register that holds an operand of op `arith` from then on: its guest register never changes, or
    /// only between the last op that looks at the flags, `seen`, and that one.
    pub(crate) fn content(&self, v: Val, arith: u16, seen: usize) -> Option<u8> {
        if let Some(slot) = self.source(v)
            && !self.sets().any(|(_, op)| op.imm == slot)
        {
            return self.pin(slot);
        }
        let def = self.block.ops.get(v.index())?;
        let whole = if def.code == Opcode::Trunc && !self.wide { def.a } else { v };
        let (n, set) = self.sets().find(|(_, op)| op.a == whole)?;
        let once = self.is_once(set.imm);
        (once && n > seen && n < usize::from(arith)).then(|| self.pin(set.imm)).flatten()
    }

    /// The register that the result of op `arith` goes to, whose second operand is the constant `right`, and
    /// what the first operand is more than that.
    pub(crate) fn before(&self, arith: u16, right: Option<i32>) -> Option<(u8, i32)> {
        let op = self.block.ops.get(usize::from(arith))?;
        let plus = match op.code {
            Opcode::Sub => right?,
            Opcode::Add => right?.checked_neg()?,
            _ => return None,
        };
        let slot = self.source(op.a)?;
        let (n, set) = self.sets().find(|(_, op)| op.imm == slot)?;
        let to = self.block.def(set.a);
        let sum = if to.code == Opcode::Zext32 && !self.wide { to.a } else { set.a };
        let between = self.block.ops.get(usize::from(arith)..n)?;
        let looks = between.iter().any(|op| op.code.may_fault() || op.code.is_exit());
        let once = self.is_once(slot);
        (sum.0 == arith && !looks && once).then(|| self.pin(slot)).flatten().map(|r| (r, plus))
    }
}
