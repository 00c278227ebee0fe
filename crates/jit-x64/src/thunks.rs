//! The code at the start of a code area: entry, exit, look-up, and calls of the runtime.
//!
//! Stack inside a block: 16-byte aligned, spill slots upward from rsp. Thunks that a block calls see
//! rsp = 8 modulo 16. A runtime function or helper that wants to leave never returns to the block:
//! the stack pointer of the entry thunk is in `env.host_sp`.

use std::mem::offset_of;

use jit_ir::StateLayout;
use jit_ir::backend::{CodeBuf, CodeFull, Runtime, RuntimeCx};
use jit_ir::env::{JUMPS, JumpEntry, MMUS, TlbEntry, TlbTable};
use jit_ir::opt::Passes;

use crate::alloc::{CALLER_SAVED, PIN_REGS, SPILL_SLOTS};
use crate::asm::{
    Asm, Mem, NO_INDEX, R8, R12, R13, R14, R15, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP, Rm, alu,
    cc, shift,
};
use crate::pool::{self, Pool};

/// Indices into [`Runtime::thunks`].
pub(crate) mod id {
    /// Stores the pinned registers and goes on where the runtime says, or leaves.
    pub(crate) const LEAVE: usize = 0;
    /// Looks up the code for `env`'s PC; rax = address to patch or 0.
    pub(crate) const LOOKUP: usize = 1;
    /// Sets `env`'s PC to rax and looks up.
    pub(crate) const LOOKUP_VA: usize = 2;
    /// Goes to the code for address rax through the code TLB, and notes it in the jump cache.
    pub(crate) const DISPATCH: usize = 3;
    /// Calls helper rax that knows nothing of general registers.
    pub(crate) const CALL_PURE: usize = 4;
    /// Calls helper rax with exact state; goes on as LEAVE does if it says so.
    pub(crate) const CALL_FULL: usize = 5;
    /// Calls helper rax with exact state and goes on as LEAVE does.
    pub(crate) const CALL_EXIT: usize = 6;
    /// Memory functions, two each (the second preserves vector registers): load, store, load_ex,
    /// store_ex, rmw, cas.
    pub(crate) const MEMORY: usize = 7;
    /// Does the floating-point op in `env`; preserves all registers.
    pub(crate) const FP_SLOW: usize = 19;
    /// Brings the guest's floating-point flags up to date; preserves all registers.
    pub(crate) const FP_SYNC: usize = 20;
    /// The constants of [`crate::pool`].
    pub(crate) const POOL: usize = 21;
    /// As [`MEMORY`], for loops: the state in memory is exact, and every register is preserved.
    pub(crate) const LOOP_MEMORY: usize = 22;
    /// The TLB check of an access to the address in rsi; equal: a hit, rsi is host address minus VA, else
    /// it stays. Changes rsi and rdi alone. By translation regime, log2 of the size and kind ([`probe`]).
    pub(crate) const PROBES: usize = 34;
    /// [`LOOKUP`] for a jump that can be patched. Called; the words behind the call are the offset in the
    /// page and how far back from here the jump's displacement is, 0 = none.
    pub(crate) const LINK: usize = PROBES + MMUS * SIZES * 2;
    /// Number of pinned registers, then their state offsets.
    pub(crate) const PINS: usize = LINK + 1;

    use jit_ir::env::MMUS;

    /// Sizes that accesses have in place.
    const SIZES: usize = 5;

    /// Which of [`PROBES`] an access needs; `log2` up to 4.
    pub(crate) fn probe(mmu: u8, log2: u32, write: bool) -> usize {
        PROBES + (usize::from(mmu & 15) * SIZES + log2 as usize) * 2 + usize::from(write)
    }
}

/// Layout of the argument that a block pushes for a memory thunk.
pub(crate) mod arg {
    /// Bits of the descriptor.
    pub(crate) const DESC_BITS: u32 = 13;
    /// Where the read-modify-write kind is.
    pub(crate) const KIND: u32 = 13;
    /// Where the page offset is.
    pub(crate) const OFFSET: u32 = 17;
}

const FRAME: i32 = SPILL_SLOTS as i32 * 16 + 8;
const SAVED: [u8; 6] = [RBX, RBP, R12, R13, R14, R15];

/// Distance of the address in rbp from [`JitEnv`]: what the front end puts before that is near too.
const BASE: i32 = 40;

/// rbp minus the state pointer.
pub(crate) fn bias(layout: &StateLayout) -> i32 {
    layout.env as i32 + BASE
}

/// Memory operand of a field of [`JitEnv`].
pub(crate) const fn env_mem(offset: usize) -> Mem {
    Mem { base: RBP, index: NO_INDEX, scale: 0, disp: offset as i32 - BASE }
}

macro_rules! env {
    ($($field:tt)*) => { $crate::thunks::env_mem(std::mem::offset_of!(jit_ir::JitEnv, $($field)*)) };
}
pub(crate) use env;

struct Thunks<'a> {
    asm: Asm,
    cx: &'a RuntimeCx,
    pins: Vec<(u8, Mem)>,
    /// Leaves without storing pinned registers.
    leave_as_is: u64,
    /// The constants of [`crate::pool`].
    pool: u64,
    /// Goes on where the runtime says, likewise.
    resume: u64,
}

/// Emits all thunks.
pub(crate) fn emit(cx: &RuntimeCx, out: &mut CodeBuf<'_>) -> Result<Runtime, CodeFull> {
    let slots = cx.layout.pinned();
    let slots = if cx.passes.contains(Passes::PINS) { &slots[..] } else { &[] };
    let bias = bias(cx.layout);
    let pins: Vec<(u8, Mem)> = PIN_REGS
        .iter()
        .zip(slots)
        .map(|(r, s)| (*r, Mem::new(RBP, s.offset as i32 - bias)))
        .collect();
    let asm = Asm { code: Vec::new(), base: out.here() };
    let mut t = Thunks { asm, cx, pins, leave_as_is: 0, pool: 0, resume: 0 };
    t.pool = t.here();
    for word in pool::CONTENT.as_flattened() {
        t.asm.code.extend_from_slice(&word.to_le_bytes());
    }
    let enter = t.enter();
    let mut thunks = vec![0; id::PINS];
    t.leave(&mut thunks);
    t.lookup(&mut thunks);
    t.calls(&mut thunks);
    let calls = &cx.calls;
    let functions = [calls.load, calls.store, calls.load_ex, calls.store_ex, calls.rmw, calls.cas];
    for (n, f) in functions.into_iter().enumerate() {
        for vectors in [false, true] {
            let k = 2 * n + usize::from(vectors);
            thunks[id::MEMORY + k] = t.memory(f, n == 5, vectors, false);
            thunks[id::LOOP_MEMORY + k] = t.memory(f, n == 5, vectors, true);
        }
    }
    t.probes(&mut thunks);
    t.fp(&mut thunks);
    thunks[id::POOL] = t.pool;
    let dispatch = t.here();
    thunks[id::DISPATCH] = dispatch;
    dispatch_code(&mut t.asm, thunks[id::LOOKUP_VA], cx.passes.contains(Passes::JUMPS));
    thunks.push(t.pins.len() as u64);
    thunks.extend(slots.iter().take(t.pins.len()).map(|s| u64::from(s.offset)));
    out.put(&t.asm.code)?;
    Ok(Runtime { enter, thunks })
}

/// rcx = distance of the jump cache's entry for the address in rax: targets within 8 bytes share one.
fn jump_index(asm: &mut Asm) {
    let entry = size_of::<JumpEntry>() as i32;
    asm.lea(false, RCX, Mem::indexed(RAX, RAX, 0));
    asm.alu_imm(alu::AND, false, RCX, (JUMPS as i32 - 1) * entry);
}

fn jump_entry(field: usize) -> Mem {
    Mem::indexed(RBP, RCX, env!(jumps).plus(field as i32).disp)
}

/// The rest of a dispatch: rcx = offset of the code, rax = address.
fn go(asm: &mut Asm) {
    asm.alu_imm(alu::AND, true, RAX, -4096);
    asm.store(true, env!(page), RAX);
    asm.alu(alu::ADD, true, RCX, env!(code_base));
    asm.jmp_reg(RCX);
}

/// Goes to the code for the address in rax by the jump cache. What is not there goes to `miss`, the
/// address of the DISPATCH thunk. Changes rax, rcx, rdx.
pub(crate) fn dispatch_jump(asm: &mut Asm, miss: u64) {
    asm.alu_imm(alu::CMP, false, env!(request), 0);
    asm.jcc_to(cc::S, miss);
    jump_index(asm);
    asm.load(false, RDX, env!(jump_epoch));
    asm.alu(alu::CMP, true, RAX, jump_entry(offset_of!(JumpEntry, va)));
    asm.jcc_to(cc::NE, miss);
    asm.alu(alu::CMP, false, RDX, jump_entry(offset_of!(JumpEntry, epoch)));
    asm.jcc_to(cc::NE, miss);
    asm.load(false, RCX, jump_entry(offset_of!(JumpEntry, code)));
    go(asm);
}

/// Goes to the code for the address in rax through the code TLB; `miss` = address of the LOOKUP_VA
/// thunk. `fill`: puts it into the jump cache. Changes rax, rcx, rdx, and rsi to fill.
pub(crate) fn dispatch_code(asm: &mut Asm, miss: u64, fill: bool) {
    let entry = size_of::<jit_ir::env::CodeTlbEntry>() as i32;
    let index_mask = (jit_ir::backend::CODE_TLB as i32 - 1) * entry;
    let shift = 12 - entry.trailing_zeros() as u8;
    asm.alu_imm(alu::CMP, false, env!(request), 0);
    asm.jcc_to(cc::S, miss);
    asm.mov(false, RCX, RAX);
    asm.shift(shift::SHR, false, RCX, shift);
    asm.alu_imm(alu::AND, false, RCX, index_mask);
    asm.alu(alu::ADD, true, RCX, env!(code_tlb));
    asm.mov(true, RDX, RAX);
    asm.alu_imm(alu::AND, true, RDX, !0xffc);
    asm.alu(alu::OR, true, RDX, env!(code_slot));
    asm.alu(alu::CMP, true, RDX, Mem::new(RCX, offset_of!(jit_ir::env::CodeTlbEntry, tag) as i32));
    asm.jcc_to(cc::NE, miss);
    asm.load(true, RDX, Mem::new(RCX, offset_of!(jit_ir::env::CodeTlbEntry, entries) as i32));
    asm.mov(false, RCX, RAX);
    asm.alu_imm(alu::AND, false, RCX, 0xffc);
    asm.load(false, RCX, Mem::indexed(RDX, RCX, 0));
    asm.test(false, RCX, RCX);
    asm.jcc_to(cc::E, miss);
    if fill {
        asm.mov(false, RSI, RCX);
        jump_index(asm);
        asm.store(true, jump_entry(offset_of!(JumpEntry, va)), RAX);
        asm.store(false, jump_entry(offset_of!(JumpEntry, code)), RSI);
        asm.load(false, RDX, env!(jump_epoch));
        asm.store(false, jump_entry(offset_of!(JumpEntry, epoch)), RDX);
        asm.mov(false, RCX, RSI);
    }
    go(asm);
}

/// Compares the page of the address in rdi, with the bits `low` of it, with the tag of the entry for the address
/// in esi. Equal: a hit. rsi = the entry.
pub(crate) fn tlb_entry(asm: &mut Asm, table: Mem, low: i32, write: bool) {
    let entry_log2 = size_of::<TlbEntry>().trailing_zeros() as u8;
    asm.shift(shift::SHR, false, RSI, 12 - entry_log2);
    asm.alu(alu::AND, false, RSI, table.plus(offset_of!(TlbTable, mask) as i32));
    asm.alu_imm(alu::AND, true, RDI, -4096 | low);
    asm.alu(alu::ADD, true, RSI, table.plus(offset_of!(TlbTable, base) as i32));
    let tag = if write { offset_of!(TlbEntry, write) } else { offset_of!(TlbEntry, read) };
    asm.alu(alu::CMP, true, RDI, Mem::new(RSI, tag as i32));
}

impl Thunks<'_> {
    fn probes(&mut self, thunks: &mut [u64]) {
        for mmu in 0..MMUS as u8 {
            let table = env!(tlb).plus(i32::from(mmu) * size_of::<TlbTable>() as i32);
            for log2 in 0..=4 {
                for write in [false, true] {
                    thunks[id::probe(mmu, log2, write)] = self.asm.here();
                    self.asm.push(RSI);
                    self.asm.lea(true, RDI, Mem::new(RSI, (1 << log2) - 1));
                    tlb_entry(&mut self.asm, table, 0, write);
                    let miss = self.asm.jcc_short(cc::NE);
                    self.asm.load(true, RSI, Mem::new(RSI, offset_of!(TlbEntry, addend) as i32));
                    // As the rest, it leaves the flags alone.
                    self.asm.lea(true, RSP, Mem::new(RSP, 8));
                    self.asm.ret();
                    self.asm.bind_short(miss);
                    self.asm.pop(RSI);
                    self.asm.ret();
                }
            }
        }
    }

    fn here(&mut self) -> u64 {
        while self.asm.here() & 15 != 0 {
            self.asm.code.push(0xcc);
        }
        self.asm.here()
    }

    fn enter(&mut self) -> u64 {
        let at = self.here();
        for r in SAVED {
            self.asm.push(r);
        }
        self.asm.lea(true, RBP, Mem::new(RDI, bias(self.cx.layout)));
        self.asm.alu_imm(alu::SUB, true, RSP, FRAME);
        self.asm.store(true, env!(host_sp), RSP);
        let control = self.pool_constant(Pool::Control);
        self.asm.ldmxcsr(control);
        self.reload(u32::MAX);
        self.asm.jmp_reg(RSI);
        at
    }

    fn store_pins(&mut self, mask: u32) {
        for (r, m) in &self.pins {
            if mask >> r & 1 != 0 {
                self.asm.store(true, *m, *r);
            }
        }
    }

    fn reload(&mut self, mask: u32) {
        for (r, m) in &self.pins {
            if mask >> r & 1 != 0 {
                self.asm.load(true, *r, *m);
            }
        }
    }

    fn leave(&mut self, thunks: &mut [u64]) {
        thunks[id::LEAVE] = self.here();
        self.store_pins(u32::MAX);
        self.resume = self.asm.here();
        if self.cx.calls.resume != 0 {
            // A helper of a block was called from below its frame.
            self.asm.load(true, RSP, env!(host_sp));
            self.asm.load(true, RDI, env!(engine));
            self.call(self.cx.calls.resume);
            self.asm.test(true, RAX, RAX);
            let stay = self.asm.jcc(cc::E);
            self.reload(u32::MAX);
            self.asm.jmp_reg(RAX);
            self.asm.bind(stay);
        }
        self.leave_as_is = self.asm.here();
        self.merge_fp_flags();
        self.asm.load(true, RSP, env!(host_sp));
        self.asm.alu_imm(alu::ADD, true, RSP, FRAME);
        for r in SAVED.iter().rev() {
            self.asm.pop(*r);
        }
        self.asm.ret();
    }

    fn lookup(&mut self, thunks: &mut [u64]) {
        thunks[id::LINK] = self.here();
        self.asm.pop(RCX);
        self.asm.movzx(1, RAX, Mem::new(RCX, 0));
        self.asm.store(true, env!(offset), RAX);
        self.asm.movzx(1, RDX, Mem::new(RCX, 2));
        self.asm.mov_imm(RAX, 0);
        self.asm.test(false, RDX, RDX);
        let none = self.asm.jcc(cc::E);
        self.asm.mov(true, RAX, RCX);
        self.asm.alu(alu::SUB, true, RAX, RDX);
        let linked = self.asm.jmp();
        thunks[id::LOOKUP_VA] = self.here();
        self.asm.mov(false, RCX, RAX);
        self.asm.alu_imm(alu::AND, true, RAX, -4096);
        self.asm.alu_imm(alu::AND, false, RCX, 0xfff);
        self.asm.store(true, env!(page), RAX);
        self.asm.store(true, env!(offset), RCX);
        self.asm.mov_imm(RAX, 0);
        let common = self.asm.here();
        self.asm.bind(none);
        self.asm.bind(linked);
        thunks[id::LOOKUP] = common;
        self.asm.store(true, env!(patch_site), RAX);
        self.store_pins(u32::MAX);
        self.asm.load(true, RDI, env!(engine));
        self.call(self.cx.calls.lookup);
        self.asm.test(true, RAX, RAX);
        self.asm.jcc_to(cc::E, self.leave_as_is);
        self.reload(u32::MAX);
        self.asm.jmp_reg(RAX);
    }

    fn call(&mut self, function: u64) {
        self.asm.mov_imm(RAX, function);
        self.asm.call_reg(RAX);
    }

    fn leave_if_asked(&mut self) {
        self.asm.alu_imm(alu::CMP, false, env!(helper_exit), 0);
        self.asm.jcc_to(cc::NE, self.resume);
    }

    fn calls(&mut self, thunks: &mut [u64]) {
        let state = Mem::new(RBP, -bias(self.cx.layout));
        thunks[id::CALL_FULL] = self.here();
        self.store_pins(u32::MAX);
        self.asm.mov(false, R8, RDI);
        self.asm.lea(true, RDI, state);
        self.asm.alu_imm(alu::SUB, true, RSP, 8);
        self.asm.call_reg(RAX);
        self.asm.alu_imm(alu::ADD, true, RSP, 8);
        self.leave_if_asked();
        self.reload(u32::MAX);
        self.asm.ret();
        // In a loop pinned registers hold others than their own: the stack keeps them.
        thunks[id::CALL_PURE] = self.here();
        let kept: Vec<u8> =
            self.pins.iter().map(|p| p.0).filter(|r| CALLER_SAVED >> r & 1 != 0).collect();
        let pad = if kept.len().is_multiple_of(2) { 8 } else { 0 };
        for r in &kept {
            self.asm.push(*r);
        }
        self.asm.mov(false, R8, RDI);
        self.asm.lea(true, RDI, state);
        self.asm.alu_imm(alu::SUB, true, RSP, pad);
        self.asm.call_reg(RAX);
        self.asm.alu_imm(alu::ADD, true, RSP, pad);
        for r in kept.iter().rev() {
            self.asm.pop(*r);
        }
        self.asm.ret();
        thunks[id::CALL_EXIT] = self.here();
        self.store_pins(u32::MAX);
        self.asm.mov(false, R8, RDI);
        self.asm.lea(true, RDI, state);
        for r in [RSI, RDX, RCX] {
            self.asm.mov_imm(r, 0);
        }
        self.asm.call_reg(RAX);
        self.asm.jmp_to(self.resume);
    }

    /// The word of the guest's floating-point flags.
    fn fp_flags(&self) -> Option<Mem> {
        let offset = self.cx.layout.fp?.flags;
        Some(Mem::new(RBP, offset as i32 - bias(self.cx.layout)))
    }

    /// Adds the host's flags to the guest's; changes rax and rcx.
    fn merge_fp_flags(&mut self) {
        let Some(flags) = self.fp_flags() else { return };
        self.asm.stmxcsr(env!(host_fp));
        self.asm.load(false, RAX, env!(host_fp));
        // Invalid, denormal operand (not the guest's), zero divide, overflow, underflow, precision.
        self.asm.alu_imm(alu::AND, false, RAX, 0x3d);
        let none = self.asm.jcc_short(cc::E);
        self.asm.mov(false, RCX, RAX);
        self.asm.alu_imm(alu::AND, false, RCX, 1);
        self.asm.shift(shift::SHR, false, RAX, 1);
        self.asm.alu(alu::OR, false, RAX, RCX);
        self.asm.alu(alu::OR, false, RAX, flags);
        self.asm.store(false, flags, RAX);
        self.asm.bind_short(none);
    }

    fn pool_constant(&self, p: Pool) -> Rm {
        Rm::Pool(self.pool + 16 * p as u64, 0)
    }

    fn fp(&mut self, thunks: &mut [u64]) {
        thunks[id::FP_SYNC] = self.here();
        self.asm.push(RAX);
        self.asm.push(RCX);
        self.merge_fp_flags();
        let control = self.pool_constant(Pool::Control);
        self.asm.ldmxcsr(control);
        self.asm.pop(RCX);
        self.asm.pop(RAX);
        self.asm.ret();
        thunks[id::FP_SLOW] = self.here();
        let saved: Vec<u8> = (0..16u8).filter(|r| CALLER_SAVED >> r & 1 != 0).collect();
        for r in &saved {
            self.asm.push(*r);
        }
        let area = 256 + if saved.len().is_multiple_of(2) { 8 } else { 0 };
        self.asm.alu_imm(alu::SUB, true, RSP, area);
        for x in 0..16u8 {
            self.asm.store128(Mem::new(RSP, 16 * i32::from(x)), x);
        }
        self.asm.lea(true, RDI, env!(fp));
        self.asm.load(false, RSI, env!(fp_desc));
        self.call(jit_ir::fp::slow as *const () as u64);
        if let Some(flags) = self.fp_flags() {
            self.asm.alu(alu::OR, false, RAX, flags);
            self.asm.store(false, flags, RAX);
        }
        for x in 0..16u8 {
            self.asm.load128(x, Mem::new(RSP, 16 * i32::from(x)));
        }
        self.asm.alu_imm(alu::ADD, true, RSP, area);
        for r in saved.iter().rev() {
            self.asm.pop(*r);
        }
        self.asm.ret();
    }

    /// A memory function: rsi = VA, rdi = value (or expected value; the new one is in `env.wide[2]`),
    /// descriptor and page offset on the stack. Result in rdi; changes rsi; preserves all else. `in_loop`:
    /// pinned registers hold whatever they hold, and the state is exact.
    fn memory(&mut self, function: u64, cas: bool, vectors: bool, in_loop: bool) -> u64 {
        let at = self.here();
        let pinned = self.pins.iter().fold(0u32, |m, (r, _)| m | 1 << r);
        let pinned = if in_loop { 0 } else { pinned };
        let saved: Vec<u8> = (0..16u8)
            .filter(|r| ![RSI, RDI].contains(r) && (CALLER_SAVED & !pinned) >> r & 1 != 0)
            .collect();
        for r in &saved {
            self.asm.push(*r);
        }
        let pushed = 8 * saved.len() as i32;
        let pad = if saved.len().is_multiple_of(2) { 0 } else { 8 };
        let area = pad + if vectors { 256 } else { 0 };
        if area != 0 {
            self.asm.alu_imm(alu::SUB, true, RSP, area);
        }
        if vectors {
            for x in 0..16u8 {
                self.asm.store128(Mem::new(RSP, 16 * i32::from(x)), x);
            }
        }
        if !in_loop {
            self.store_pins(u32::MAX);
        }
        self.asm.load(false, RDX, Mem::new(RSP, area + pushed + 8));
        self.asm.mov(false, RCX, RDX);
        self.asm.shift(shift::SHR, false, RCX, arg::OFFSET as u8);
        self.asm.store(true, env!(offset), RCX);
        self.asm.mov(false, RAX, RDX);
        self.asm.alu_imm(alu::AND, false, RDX, (1 << arg::DESC_BITS) - 1);
        self.asm.shift(shift::SHR, false, RAX, arg::KIND as u8);
        self.asm.alu_imm(alu::AND, false, RAX, 15);
        self.asm.shift(shift::SHL, false, RAX, 16);
        self.asm.alu(alu::OR, false, RDX, RAX);
        self.asm.mov(true, RCX, RDI);
        if cas {
            self.asm.load(true, R8, env!(wide).plus(16));
        }
        self.asm.load(true, RDI, env!(engine));
        self.call(function);
        self.leave_if_asked();
        self.asm.mov(true, RDI, RAX);
        if !in_loop {
            self.reload(CALLER_SAVED);
        }
        if vectors {
            for x in 0..16u8 {
                self.asm.load128(x, Mem::new(RSP, 16 * i32::from(x)));
            }
        }
        if area != 0 {
            self.asm.alu_imm(alu::ADD, true, RSP, area);
        }
        for r in saved.iter().rev() {
            self.asm.pop(*r);
        }
        self.asm.ret_drop(8);
        at
    }
}
