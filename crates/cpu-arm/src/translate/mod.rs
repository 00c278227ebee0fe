//! A64 instructions to IR.
//!
//! [`ArmTranslator`] walks one block; [`Ctx`] is what the instruction functions see: the builder, the
//! mode the block is made for, the instruction's place. `dispatch` connects the decoder's methods to
//! the functions of the other files. Data-processing words of FP and AdvSIMD go to `crate::fpsimd`.
//! Not here: what helpers do (exceptions, system registers, pointer authentication).
//!
//! Source: Arm ARM (DDI 0487), chapters C6 and C7 (instructions), J1 (shared pseudocode).

mod alu;
mod atomics;
mod branch;
mod dispatch;
mod isa;
mod ldst;
mod ldst_simd;
mod pauth;
mod structures;
mod system;
#[cfg(test)]
mod tests;

use std::mem::offset_of;

use jit_ir::{
    Builder, Cond, Exit, HelperDesc, JitEnv, MemDesc, Opcode, StateLayout, TranslateCx, Translator,
    Ty, Val,
};

pub use isa::Isa;

use crate::decode::base;
use crate::features::Features;
use crate::helpers::{HELPERS, HelperId};
use crate::state::{BTYPE_SLOT, LAYOUT, ModeKey, mmu_index, v_slot, x_slot};

/// Guest instructions in one block.
const MAX_INSNS: u32 = 64;
/// Conditional exits in one block, besides the last.
const MAX_BRANCHES: u32 = 7;
/// Bytes of a page, as offsets.
const PAGE: i64 = 4096;
/// State offset of `JitEnv::page`.
const ENV_PAGE: u32 = (offset_of!(crate::state::ArmCpu, env) + offset_of!(JitEnv, page)) as u32;

/// The translator of one VM's CPU model.
#[derive(Clone, Debug)]
pub struct ArmTranslator {
    isa: Isa,
    features: Features,
}

impl ArmTranslator {
    /// A translator for CPUs with these instruction set features.
    #[must_use]
    pub fn new(isa: Isa) -> Self {
        Self { isa, features: Features::max() }
    }

    /// A translator for a CPU model.
    #[must_use]
    pub fn for_model(features: &Features) -> Self {
        Self { isa: Isa::from_id(&features.id), features: *features }
    }
}

/// Where the block loop goes after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// To the following instruction.
    Next,
    /// To a later instruction of the page.
    Jump(u32),
    /// Nowhere: the final exit is there.
    End,
}

/// Everything an instruction function works with.
pub struct Ctx<'a> {
    /// The block.
    pub b: &'a mut Builder,
    /// The mode it is made for.
    pub key: ModeKey,
    /// What the CPU implements.
    pub isa: &'a Isa,
    /// The CPU model.
    pub features: &'a Features,
    /// Page offset of the instruction.
    offset: u32,
    flow: Flow,
    /// BTYPE may be set: only during the block's first instruction.
    btype_live: bool,
    /// The SP in use is known to be a multiple of 16.
    sp_aligned: bool,
    branches: u32,
    /// The last instruction was a load-exclusive.
    load_exclusive: bool,
}

impl Translator for ArmTranslator {
    fn layout(&self) -> &'static StateLayout {
        &LAYOUT
    }

    fn helpers(&self) -> &'static [HelperDesc] {
        HELPERS
    }

    fn translate(&self, cx: &mut TranslateCx<'_>) {
        let key = ModeKey(cx.key);
        let (page, start) = (cx.page, cx.start);
        let max = if key.step() { 1 } else { cx.max_insns.clamp(1, MAX_INSNS) };
        let mut t = Ctx {
            b: &mut *cx.b,
            key,
            isa: &self.isa,
            features: &self.features,
            offset: start,
            flow: Flow::Next,
            btype_live: self.isa.bti,
            sp_aligned: !key.sp_check(),
            branches: 0,
            load_exclusive: false,
        };
        for n in 1.. {
            t.instruction(word_at(page, t.offset));
            let next = match t.flow {
                Flow::Next => t.offset + 4,
                Flow::Jump(to) => to,
                Flow::End => return,
            };
            let branches = if cx.count { 1 } else { MAX_BRANCHES };
            let full = n >= max || t.branches >= branches || t.b.is_full();
            if full || next as usize >= page.len() || cx.stops.contains(&next) {
                t.leave(exit_at(i64::from(next)));
                return;
            }
            t.offset = next;
        }
    }

    fn disassemble(&self, bytes: &[u8], pc: u64) -> String {
        let word = bytes.first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
        format!("{word:08x}  {}", crate::disassembly::disassemble(word, pc))
    }
}

fn word_at(page: &[u8], offset: u32) -> u32 {
    let bytes = page.get(offset as usize..).and_then(|b| b.first_chunk());
    bytes.map_or(0, |b| u32::from_le_bytes(*b))
}

/// The exit to a distance from the page start.
fn exit_at(to: i64) -> Exit {
    if (0..PAGE).contains(&to) { Exit::Page(to as u32) } else { Exit::Rel(to) }
}

impl<'a> Ctx<'a> {
    fn instruction(&mut self, word: u32) {
        self.b.insn(self.offset, 4);
        self.flow = Flow::Next;
        if self.key.illegal() {
            self.raise(HelperId::IllegalState, 0);
            return;
        }
        if self.btype_live && self.key.guarded() {
            self.check_btype(word);
        }
        let known = base::decode(word, self);
        let known = known || (word >> 25 & 7 == 7 && crate::fpsimd::translate(word, self));
        if !known {
            self.raise(HelperId::Undefined, 0);
        }
        if self.flow != Flow::End {
            self.clear_btype();
        }
    }

    // ------------------------------------------------------------ registers

    /// Xn, or 0 for 31.
    pub fn x(&mut self, n: u32) -> Val {
        if n == 31 { self.b.c64(0) } else { self.b.get(x_slot(n), Ty::I64) }
    }

    /// Wn, or 0 for 31.
    pub fn w(&mut self, n: u32) -> Val {
        let x = self.x(n);
        self.b.trunc(x)
    }

    /// Xn, or SP for 31.
    pub fn x_sp(&mut self, n: u32) -> Val {
        self.b.get(x_slot(n), Ty::I64)
    }

    /// Xn or Wn.
    pub fn reg(&mut self, sf: u32, n: u32) -> Val {
        if sf != 0 { self.x(n) } else { self.w(n) }
    }

    /// Xn or Wn, SP or WSP for 31.
    pub fn reg_sp(&mut self, sf: u32, n: u32) -> Val {
        let x = self.x_sp(n);
        if sf != 0 { x } else { self.b.trunc(x) }
    }

    fn widen(&mut self, v: Val) -> Val {
        if self.b.ty(v) == Ty::I32 { self.b.zext(v) } else { v }
    }

    /// Writes Xn (an I32 value zero-extended); 31 is discarded.
    pub fn set_reg(&mut self, n: u32, v: Val) {
        if n != 31 {
            let v = self.widen(v);
            self.b.set(x_slot(n), v);
        }
    }

    /// Writes Xn or SP (an I32 value zero-extended).
    pub fn set_reg_sp(&mut self, n: u32, v: Val) {
        if n == 31 {
            self.sp_aligned = !self.key.sp_check();
        }
        let v = self.widen(v);
        self.b.set(x_slot(n), v);
    }

    /// Writes base register n moved by `by` (a known distance).
    fn set_base(&mut self, n: u32, v: Val, by: i64) {
        let keeps = self.sp_aligned && by & 15 == 0;
        self.set_reg_sp(n, v);
        if n == 31 && keeps {
            self.sp_aligned = true;
        }
    }

    /// Vn.
    pub fn v(&mut self, n: u32) -> Val {
        self.b.get(v_slot(n), Ty::V128)
    }

    /// Writes Vn.
    pub fn set_v(&mut self, n: u32, v: Val) {
        self.b.set(v_slot(n), v);
    }

    /// Integer type of a width flag.
    #[must_use]
    pub fn ty(sf: u32) -> Ty {
        if sf != 0 { Ty::I64 } else { Ty::I32 }
    }

    /// Address of the instruction plus `by`.
    pub fn pc(&mut self, by: i64) -> Val {
        let at = i64::from(self.offset) + by;
        self.b.pc(at)
    }

    fn next(&self) -> u32 {
        self.offset + 4
    }

    // ------------------------------------------------------------ exits and exceptions

    /// Calls a helper that takes an exception, and ends the block.
    pub fn raise(&mut self, helper: HelperId, imm: u32) {
        self.b.call_void(helper as u16, &[], imm);
        self.b.exit(Exit::RuntimePcSet);
        self.flow = Flow::End;
    }

    /// The exit that calls an exception helper at this instruction.
    fn trap_exit(&self, helper: HelperId) -> Exit {
        Exit::Helper { helper: helper as u16, imm: 0, offset: self.offset }
    }

    /// PSTATE.BTYPE = 0, if it could be anything else.
    fn clear_btype(&mut self) {
        if self.btype_live {
            let zero = self.b.c32(0);
            self.b.set(BTYPE_SLOT, zero);
            self.btype_live = false;
        }
    }

    /// Ends the block; while single-stepping, with the step exception at the target.
    fn leave(&mut self, exit: Exit) {
        self.clear_btype();
        let exit = if self.key.step() { self.step_exit(exit) } else { exit };
        self.b.exit(exit);
        self.flow = Flow::End;
    }

    fn step_exit(&mut self, exit: Exit) -> Exit {
        let imm = u32::from(self.load_exclusive);
        let target = match exit {
            Exit::RuntimePcSet | Exit::Helper { .. } => return exit,
            Exit::Page(o) | Exit::Runtime(o) => {
                return Exit::Helper { helper: HelperId::StepDone as u16, imm, offset: o };
            }
            Exit::Rel(d) => self.b.pc(d),
            Exit::Indirect(v) | Exit::Return(v) => v,
        };
        self.b.set(ENV_PAGE, target);
        Exit::Helper { helper: HelperId::StepDone as u16, imm, offset: 0 }
    }

    /// Ends the block after this instruction, through the run loop: the mode may have changed.
    pub fn leave_to_runtime(&mut self) {
        let next = self.next();
        self.leave(Exit::Runtime(next));
    }

    /// False, and the trap is emitted, if FP/SIMD instructions trap.
    pub fn fp_check(&mut self) -> bool {
        let el = self.key.fp_trap();
        if el != 0 {
            self.raise(HelperId::FpTrap, u32::from(el));
        }
        el == 0
    }

    // ------------------------------------------------------------ memory

    /// An ordinary access of `1 << log2` bytes, aligned to its size only if SCTLR.A is set.
    pub fn mem(&self, log2: u32) -> MemDesc {
        self.mem_as(log2, self.key.mmu())
    }

    fn mem_as(&self, log2: u32, mmu: u8) -> MemDesc {
        let d = MemDesc::new(log2, mmu);
        let d = if self.key.align_check() { d.aligned() } else { d };
        if self.key.big_endian() && log2 > 0 { d.big_endian() } else { d }
    }

    /// An access that must be aligned (exclusive, atomic, ordered): within 16 bytes is enough with
    /// FEAT_LSE2.
    fn mem_strict(&self, log2: u32) -> MemDesc {
        let d = self.mem(log2);
        if self.isa.lse2 && !self.key.align_check() { d.within16() } else { d.aligned() }
    }

    /// The SP alignment check of a base register.
    pub fn check_sp(&mut self, n: u32) {
        if n != 31 || self.sp_aligned {
            return;
        }
        let (sp, low) = (self.x_sp(31), self.b.c64(15));
        let (_, cc) = self.b.with_flags(Opcode::And, sp, low);
        let exit = self.trap_exit(HelperId::SpAlignment);
        self.b.exit_cc(cc, Cond::Ne, exit);
        self.sp_aligned = true;
    }

    /// A base register, checked.
    pub fn base(&mut self, n: u32) -> Val {
        self.check_sp(n);
        self.x_sp(n)
    }

    // ------------------------------------------------------------ branch targets

    /// Faults unless the block's first instruction is a landing pad for BTYPE (BRK and HLT always are).
    fn check_btype(&mut self, word: u32) {
        let refused = match word {
            w if w & 0xffe0_001f == 0xd420_0000 || w & 0xffe0_001f == 0xd440_0000 => return,
            // BTI, BTI c, BTI j, BTI jc.
            w if w & 0xffff_ff3f == 0xd503_241f => match w >> 6 & 3 {
                0 => None,
                1 => Some(3),
                2 => Some(2),
                _ => return,
            },
            // PACIASP, PACIBSP.
            w if w & 0xffff_ffbf == 0xd503_233f && self.isa.pauth => {
                if !self.key.bt() {
                    return;
                }
                Some(3)
            }
            _ => None,
        };
        let btype = self.b.get(BTYPE_SLOT, Ty::I32);
        let bad = match refused {
            None => btype,
            Some(n) => {
                let n = self.b.c32(n);
                self.b.cmp_set(Cond::Eq, btype, n)
            }
        };
        let exit = self.trap_exit(HelperId::BranchTarget);
        self.b.exit_if(bad, false, exit);
    }

    /// A computed branch target without its tag (AArch64.BranchAddr).
    pub fn branch_address(&mut self, v: Val) -> Val {
        let (low, high) = (self.key.tbi0(), self.key.tbi1());
        let one_range = matches!(self.key.mmu(), mmu_index::E2 | mmu_index::E3);
        match (low, high) {
            (false, false) => v,
            (true, _) if one_range => self.b.ubfx(v, 0, 56),
            (true, true) => self.b.sbfx(v, 0, 56),
            _ => {
                let s = self.b.sbfx(v, 0, 56);
                let code = if low { Opcode::And } else { Opcode::Or };
                self.b.binary(code, v, s)
            }
        }
    }
}
