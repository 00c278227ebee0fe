//! `-d in_asm,op,op_opt,out_asm,exec,cpu,nochain`.
//!
//! The frames around the text are QEMU's: `IN:` after a line of dashes with one line for each guest
//! instruction (address, bytes, text), `OP:` and `OP after optimization and liveness analysis:` with
//! this engine's own intermediate code, `OUT: [size=N]` with host code, `Trace CPU: HOST [MODE/PC/…]`
//! before a block that was looked up. As there, jumps that were linked show nothing, unless `nochain`
//! is on. `-dfilter` limits all of them to guest addresses.
//!
//! While `exec`, `cpu` or `nochain` is on, generated code finds nothing by itself, so every block comes
//! to the look-up; blocks that were linked before the mask was set stay linked.
//! UNSAFE: none.

use std::fmt::Write as _;

use jit_ir::opt::Liveness;
use jit_ir::{Block, JitCpu};
use trace::Mask;

use crate::engine::Engine;
use crate::vcpu::Core;
use crate::verify::kept;

/// Items that want to see each block before it runs.
const RUNNING: Mask = Mask::EXEC.union(Mask::CPU).union(Mask::NOCHAIN);

/// Whether generated code must come back at the end of each block.
pub(crate) fn wants_every_block() -> bool {
    trace::enabled(RUNNING)
}

impl Engine {
    /// What the guest's block is; `pc` is its virtual address.
    pub(crate) fn log_guest(&self, page: &[u8], pc: u64, block: &Block) {
        if !trace::enabled(Mask::IN_ASM | Mask::OP) || !trace::in_filter(pc) {
            return;
        }
        let mut text = String::new();
        if trace::enabled(Mask::IN_ASM) {
            text.push_str("----------------\nIN: \n");
            text.push_str(&self.guest_text(page, pc, block));
            text.push('\n');
        }
        if trace::enabled(Mask::OP) {
            _ = writeln!(text, "OP:\n{}", jit_ir::text::print(block));
        }
        trace::write(format_args!("{text}"));
    }

    /// The guest's instructions, a line each.
    pub(crate) fn guest_text(&self, page: &[u8], pc: u64, block: &Block) -> String {
        let mut text = String::new();
        let end = (block.start + block.len) as usize;
        for at in (block.start as usize..end).step_by(4) {
            let Some(bytes) = page.get(at..at + 4) else { break };
            let va = (pc & !0xfff).wrapping_add(at as u64);
            // Writing to a string cannot fail.
            _ = writeln!(text, "{va:#010x}:  {}", self.translator.disassemble(bytes, va));
        }
        text
    }

    /// What became of it.
    pub(crate) fn log_host(&self, pc: u64, block: &Block, live: &Liveness, at: u64, code: &[u8]) {
        if !trace::enabled(Mask::OP_OPT | Mask::OUT_ASM) || !trace::in_filter(pc) {
            return;
        }
        let mut text = String::new();
        if trace::enabled(Mask::OP_OPT) {
            text.push_str("OP after optimization and liveness analysis:\n");
            text.push_str(&kept(block, live));
            text.push('\n');
        }
        if let Some(native) = self.native.as_ref().filter(|_| trace::enabled(Mask::OUT_ASM)) {
            _ = writeln!(text, "OUT: [size={}]\n  -- guest addr {pc:#018x}", code.len());
            _ = writeln!(text, "{}", native.backend.disassemble(code, at));
        }
        trace::write(format_args!("{text}"));
    }
}

impl Core {
    /// A block is about to run.
    pub(crate) fn log_run(&mut self, cpu: &mut dyn JitCpu, entry: u32) {
        if !trace::enabled(Mask::EXEC | Mask::CPU) {
            return;
        }
        let pc = cpu.env().pc();
        if !trace::in_filter(pc) {
            return;
        }
        let base = self.engine.native.as_ref().map_or(0, |n| n.code_base);
        let mut text = String::new();
        if trace::enabled(Mask::EXEC) {
            let (key, slot) = (self.mode_key(), cpu.env().code_slot);
            let host = base + u64::from(entry);
            let high = key >> 32;
            _ = writeln!(
                text,
                "Trace {}: {host:#x} [{high:08x}/{pc:016x}/{:08x}/{slot:08x}] ",
                self.index, key as u32
            );
        }
        if trace::enabled(Mask::CPU) {
            text.push_str(&cpu.log_text(trace::enabled(Mask::FPU)));
        }
        trace::write(format_args!("{text}"));
    }
}
