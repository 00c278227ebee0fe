//! Where values are: the register allocator of one forward pass.
//!
//! Every value belongs to a *root*, the value whose storage it shares (width changes that cost nothing
//! and repeated reads of a guest register share). A root is in a register, in a spill slot, in both,
//! or is a constant. Pinned guest registers are registers that an op boundary always finds holding
//! their guest register; a root may live in one as long as the guest register keeps that value.
//! Moves made here never change the host flags.

use jit_ir::opt::Liveness;
use jit_ir::{Block, Opcode, Ty, Val};

use crate::asm::{Asm, Mem, RAX, RCX, RDI, RDX, RSI, RSP};
use crate::memory::merged;

/// No register, owner or slot.
pub(crate) const NONE: u16 = jit_ir::opt::NO_OP;
const NO_REG: u8 = 0xff;
/// `spill` of flags values whose image is in the guest's flags slot.
pub(crate) const FLAGS_SLOT: u16 = NONE - 1;
/// First XMM register in register numbers of this module.
pub(crate) const XMM: u8 = 16;
/// Spill slots of 16 bytes in the stack frame of the entry thunk.
pub(crate) const SPILL_SLOTS: u16 = 8192;

/// Registers that guest registers can be pinned to, by rank.
pub(crate) const PIN_REGS: [u8; 9] = [3, 12, 13, 14, 15, 8, 9, 10, 11];
/// Registers that calls may change, without the pinned ones.
const LOCAL: [u8; 5] = [RDX, RCX, RAX, RDI, RSI];
/// General registers that the platform's functions may change.
pub(crate) const CALLER_SAVED: u32 = 0b1111_1100_0111;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) root: u16,
    /// Of a root: index of the last op that uses it.
    pub(crate) last: u16,
    pub(crate) spill: u16,
    /// The `flags` op that comes right after this op and names it, or `NONE`.
    pub(crate) flags_of: u16,
    pub(crate) reg: u8,
}

/// See [`Alloc::shared`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared {
    pub(crate) slot: u8,
    /// The slot does not hold it yet.
    pub(crate) unsaved: bool,
}

/// The state of allocation at one op.
#[derive(Debug, Default)]
pub(crate) struct Alloc {
    pub(crate) vals: Vec<Slot>,
    /// Root in each register: 16 general, 16 XMM.
    pub(crate) own: Vec<u16>,
    /// Registers that the current op uses.
    pub(crate) locked: u32,
    /// Pinned registers.
    pub(crate) pinned: u32,
    /// Registers that may be handed out, in order of preference.
    order: Vec<u8>,
    /// Root of each spill slot.
    spills: Vec<u16>,
    /// Out of spill slots: the block cannot be emitted.
    pub(crate) overflow: bool,
    /// The current op.
    pub(crate) at: u16,
    /// In a loop: the page slot whose addend is in rsi.
    pub(crate) addend: Option<u8>,
    /// Outside loops: rsi is what the slot of a group of accesses is to hold.
    pub(crate) shared: Option<Shared>,
}

fn bit(reg: u8) -> u32 {
    1 << reg
}

impl Alloc {
    /// The first `pins` registers that can be pinned.
    pub(crate) fn pinned_mask(pins: usize) -> u32 {
        PIN_REGS[..pins].iter().fold(0, |m, r| m | bit(*r))
    }

    /// Prepares for a block with these pinned registers.
    pub(crate) fn start(&mut self, live: &Liveness, pinned: u32) {
        self.own.clear();
        self.own.resize(32, NONE);
        self.pinned = pinned;
        self.order.clear();
        self.order.extend_from_slice(&LOCAL);
        self.order.extend(PIN_REGS.iter().rev().filter(|r| pinned & bit(**r) == 0));
        self.spills.clear();
        self.overflow = false;
        self.addend = None;
        self.shared = None;
        self.locked = 0;
        self.vals.clear();
        let lives = live.last.iter().zip(&live.flags_of).enumerate();
        let slot = |(i, (last, flags_of)): (usize, (&u16, &u16))| Slot {
            root: i as u16,
            last: *last,
            spill: NONE,
            flags_of: *flags_of,
            reg: NO_REG,
        };
        self.vals.extend(lives.map(slot));
    }

    pub(crate) fn root(&self, v: Val) -> u16 {
        self.vals[v.index()].root
    }

    pub(crate) fn slot(&mut self, root: u16) -> &mut Slot {
        &mut self.vals[usize::from(root)]
    }

    /// Makes `v` (the current op) share the storage of `with`.
    pub(crate) fn alias(&mut self, v: u16, with: u16) {
        let last = self.vals[usize::from(v)].last;
        self.vals[usize::from(v)].root = with;
        let s = self.slot(with);
        s.last = s.last.max(last);
    }

    /// Whether a root is used after the current op.
    pub(crate) fn lives(&self, root: u16) -> bool {
        root != NONE && self.vals[usize::from(root)].last > self.at
    }

    /// Whether the current op's own value is used at all.
    pub(crate) fn is_used(&self, v: u16) -> bool {
        self.vals[usize::from(v)].last > v
    }

    pub(crate) fn spill_mem(slot: u16) -> Mem {
        Mem::new(RSP, i32::from(slot) * 16)
    }

    /// Gives a root a spill slot: a new one or that of a root that is dead.
    pub(crate) fn new_spill(&mut self, root: u16) -> u16 {
        let dead = |r: &u16| self.vals[usize::from(*r)].last < self.at;
        let slot = match self.spills.iter().position(dead) {
            Some(s) => {
                let old = std::mem::replace(&mut self.spills[s], root);
                self.slot(old).spill = NONE;
                s as u16
            }
            None if self.spills.len() == usize::from(SPILL_SLOTS) => {
                self.overflow = true;
                0
            }
            None => {
                self.spills.push(root);
                self.spills.len() as u16 - 1
            }
        };
        self.slot(root).spill = slot;
        slot
    }

    /// Whether a register holds nothing that the current op or a later one needs.
    fn is_free(&self, reg: u8) -> bool {
        let root = self.own[usize::from(reg)];
        root == NONE || self.vals[usize::from(root)].last < self.at
    }

    /// Breaks the tie between a register and its owner.
    fn disown(&mut self, reg: u8) -> u16 {
        let root = std::mem::replace(&mut self.own[usize::from(reg)], NONE);
        if root != NONE {
            self.slot(root).reg = NO_REG;
        }
        root
    }

    pub(crate) fn set_owner(&mut self, reg: u8, root: u16) {
        self.lose_addend(reg);
        let old = self.own[usize::from(reg)];
        if old != NONE && old != root {
            self.slot(old).reg = NO_REG;
        }
        let s = self.slot(root).reg;
        if s != NO_REG && s != reg {
            self.own[usize::from(s)] = NONE;
        }
        self.own[usize::from(reg)] = root;
        self.slot(root).reg = reg;
    }

    pub(crate) fn reg(&self, root: u16) -> Option<u8> {
        Some(self.vals[usize::from(root)].reg).filter(|r| *r != NO_REG)
    }

    fn store_spill(&mut self, asm: &mut Asm, root: u16, reg: u8) {
        if self.vals[usize::from(root)].spill != NONE {
            return;
        }
        let s = self.new_spill(root);
        if reg >= XMM {
            asm.store128(Self::spill_mem(s), reg - XMM);
        } else {
            asm.store(true, Self::spill_mem(s), reg);
        }
    }

    fn first_free(&self, avoid: u32) -> Option<u8> {
        let busy = self.locked | avoid | if self.shared.is_some() { bit(RSI) } else { 0 };
        self.order.iter().copied().find(|r| busy & bit(*r) == 0 && self.is_free(*r))
    }

    /// Makes a register's owner give it up, keeping the value if it is still needed.
    pub(crate) fn move_out(&mut self, asm: &mut Asm, block: &Block, reg: u8) {
        let root = self.disown(reg);
        if root == NONE {
            return;
        }
        let s = self.vals[usize::from(root)];
        if s.last < self.at || block.ops[usize::from(root)].code == Opcode::Const || s.spill != NONE
        {
            return;
        }
        let to = if reg >= XMM { self.free_xmm() } else { self.first_free(bit(reg)) };
        match to {
            Some(to) if to >= XMM => asm.movdqa(to - XMM, reg - XMM),
            Some(to) => asm.mov(true, to, reg),
            None => return self.store_spill(asm, root, reg),
        }
        if let Some(to) = to {
            self.set_owner(to, root);
        }
    }

    /// Like [`Self::move_out`] for a pinned register about to be overwritten: a value whose last use
    /// is the current op stays readable there.
    pub(crate) fn vacate(&mut self, asm: &mut Asm, block: &Block, pin: u8) {
        let root = self.own[usize::from(pin)];
        if root == NONE {
            return;
        }
        if self.lives(root) {
            self.move_out(asm, block, pin);
        } else {
            self.disown(pin);
        }
    }

    fn victim(&self, block: &Block, candidates: impl Iterator<Item = u8>) -> Option<u8> {
        let cost = |r: u8| {
            let root = usize::from(self.own[usize::from(r)]);
            let s = self.vals[root];
            let free = s.spill != NONE || block.ops[root].code == Opcode::Const;
            (free, s.last)
        };
        candidates.filter(|r| self.locked & bit(*r) == 0).max_by_key(|r| cost(*r))
    }

    /// Takes some register for the current op.
    pub(crate) fn temp(&mut self, asm: &mut Asm, block: &Block) -> u8 {
        let free = self.first_free(0).or_else(|| {
            self.shared?;
            self.release_shared(asm);
            self.first_free(0)
        });
        let r = match free {
            Some(r) => {
                self.disown(r);
                r
            }
            None => {
                let r = self.victim(block, self.order.iter().copied());
                debug_assert!(r.is_some(), "all registers are locked");
                let r = r.unwrap_or(RAX);
                self.drop_reg(asm, block, r);
                r
            }
        };
        self.lose_addend(r);
        self.locked |= bit(r);
        r
    }

    /// rsi is about to change.
    pub(crate) fn release_shared(&mut self, asm: &mut Asm) {
        if let Some(Shared { slot, unsaved: true }) = self.shared.take() {
            asm.store(true, merged(slot), RSI);
        }
    }

    fn lose_addend(&mut self, reg: u8) {
        if reg == RSI {
            self.addend = None;
        }
    }

    /// Spills the owner of a register.
    fn drop_reg(&mut self, asm: &mut Asm, block: &Block, r: u8) {
        let root = self.disown(r);
        if root == NONE {
            return;
        }
        let s = self.vals[usize::from(root)];
        if s.last >= self.at && block.ops[usize::from(root)].code != Opcode::Const {
            self.store_spill(asm, root, r);
        }
    }

    /// Takes one particular unpinned register; before any operand of the op is fetched.
    pub(crate) fn take(&mut self, asm: &mut Asm, block: &Block, r: u8) {
        if r == RSI {
            self.release_shared(asm);
        }
        self.lose_addend(r);
        self.locked |= bit(r);
        self.move_out(asm, block, r);
    }

    /// Puts a value into a general register for reading.
    pub(crate) fn gpr(&mut self, asm: &mut Asm, block: &Block, v: Val) -> u8 {
        let root = self.root(v);
        if let Some(r) = self.reg(root) {
            self.locked |= bit(r);
            return r;
        }
        let op = &block.ops[usize::from(root)];
        let r = self.temp(asm, block);
        let spill = self.vals[usize::from(root)].spill;
        if op.code == Opcode::Const {
            asm.mov_imm(r, op.imm as u64);
        } else if spill < SPILL_SLOTS {
            asm.load(true, r, Self::spill_mem(spill));
        } else {
            debug_assert!(false, "value v{root} is nowhere");
        }
        self.set_owner(r, root);
        r
    }

    /// The constant that a value is, narrowed to its type.
    pub(crate) fn constant(&self, block: &Block, v: Val) -> Option<u64> {
        let op = &block.ops[usize::from(self.root(v))];
        let c = (op.code == Opcode::Const).then_some(op.imm as u64)?;
        Some(if block.def(v).result_ty() == Ty::I32 { c & 0xffff_ffff } else { c })
    }

    /// The constant as a sign-extended 32-bit immediate of an instruction of `ty`'s width.
    pub(crate) fn imm32(&self, block: &Block, v: Val) -> Option<i32> {
        let c = self.constant(block, v)?;
        if block.def(v).result_ty() == Ty::I32 {
            Some(c as u32 as i32)
        } else {
            i32::try_from(c as i64).ok()
        }
    }

    fn free_xmm(&self) -> Option<u8> {
        let busy = self.locked | self.pinned;
        (XMM..32).find(|r| busy & bit(*r) == 0 && self.is_free(*r))
    }

    /// Takes some XMM register (0..16) for the current op.
    pub(crate) fn temp_xmm(&mut self, asm: &mut Asm, block: &Block) -> u8 {
        let r = match self.free_xmm() {
            Some(r) => {
                self.disown(r);
                r
            }
            None => {
                let pinned = self.pinned;
                let r = self.victim(block, (XMM..32).filter(|r| pinned & bit(*r) == 0));
                debug_assert!(r.is_some(), "all vector registers are locked");
                let r = r.unwrap_or(XMM);
                self.drop_reg(asm, block, r);
                r
            }
        };
        self.locked |= bit(r);
        r - XMM
    }

    /// Puts a vector into an XMM register (0..16) for reading.
    pub(crate) fn xmm(&mut self, asm: &mut Asm, block: &Block, v: Val) -> u8 {
        let root = self.root(v);
        if let Some(r) = self.reg(root) {
            self.locked |= bit(r);
            return r - XMM;
        }
        let r = self.temp_xmm(asm, block);
        let spill = self.vals[usize::from(root)].spill;
        debug_assert!(spill < SPILL_SLOTS, "vector v{root} is nowhere");
        asm.load128(r, Self::spill_mem(spill));
        self.set_owner(r + XMM, root);
        r
    }

    /// Takes an XMM register for the result of the current op, that of a dying operand if possible.
    pub(crate) fn dst_xmm(&mut self, asm: &mut Asm, block: &Block, avoid: u32) -> u8 {
        let op = &block.ops[usize::from(self.at)];
        for v in op.operands() {
            let root = self.root(v);
            if let Some(r) = self.reg(root)
                && r >= XMM
                && (avoid | self.pinned) & bit(r) == 0
                && !self.lives(root)
            {
                self.disown(r);
                self.locked |= bit(r);
                return r - XMM;
            }
        }
        self.temp_xmm(asm, block)
    }

    /// Takes a general register that is not pinned for the result of the current op.
    pub(crate) fn dst_local(&mut self, asm: &mut Asm, block: &Block, avoid: u32) -> u8 {
        let op = &block.ops[usize::from(self.at)];
        for v in op.operands() {
            let root = self.root(v);
            if let Some(r) = self.reg(root)
                && r < XMM
                && (avoid | self.pinned) & bit(r) == 0
                && !self.lives(root)
            {
                self.disown(r);
                self.locked |= bit(r);
                return r;
            }
        }
        self.temp(asm, block)
    }

    /// Spills everything in the registers of `mask` that is needed after the current op or by it.
    pub(crate) fn spill_all(&mut self, asm: &mut Asm, block: &Block, mask: u32) {
        for r in 0..32u8 {
            if mask & bit(r) == 0 || self.own[usize::from(r)] == NONE {
                continue;
            }
            let root = self.own[usize::from(r)];
            if self.lives(root) && block.ops[usize::from(root)].code != Opcode::Const {
                self.store_spill(asm, root, r);
            }
        }
    }

    /// Forgets registers that a call changed.
    pub(crate) fn forget(&mut self, mask: u32) {
        for r in (0..32u8).filter(|r| mask & bit(*r) != 0) {
            self.disown(r);
        }
    }

    /// Whether an XMM register holds something that is needed after the current op.
    pub(crate) fn xmm_live(&self) -> bool {
        self.own[usize::from(XMM)..].iter().any(|r| self.lives(*r))
    }
}
