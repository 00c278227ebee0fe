//! Host back end for x86-64: IR blocks to machine code.
//!
//! It implements `jit_ir::backend::HostBackend` and nothing else: it writes bytes into a `CodeBuf` and
//! never runs them, so it has no `unsafe`. One forward pass per block allocates registers and emits
//! ([`emit`], [`alloc`]); rbp holds the state pointer, up to nine guest registers are pinned, rax, rcx,
//! rdx, rsi, rdi (and pins not in use) hold values inside a block. The design is `jit.md` sections 6.3,
//! 6.4 and 6.7; the encoder follows the Intel and AMD manuals.
//!
//! Not here: code memory, block look-up, the slow side of memory accesses (`accel-jit`).

mod alloc;
pub mod asm;
mod atomics;
mod emit;
mod exits;
mod flags;
mod fp;
mod held;
mod int;
mod loops;
mod memory;
mod merge;
mod pool;
mod thunks;
mod vector;

use std::cell::RefCell;
use std::fmt::Write as _;

use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter, Instruction};
use jit_ir::backend::{BlockCx, CodeBuf, CodeFull, HostBackend, Runtime, RuntimeCx};

use emit::{Emit, Scratch};

/// Optional instructions that emitted code may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuFeatures {
    /// ANDN.
    pub bmi1: bool,
    /// SHLX, RORX, PEXT, PDEP.
    pub bmi2: bool,
    /// LZCNT.
    pub lzcnt: bool,
    /// CMPXCHG16B.
    pub cmpxchg16b: bool,
    /// Fused multiply-add; with `avx` only.
    pub fma: bool,
    /// VEX forms (AVX2).
    pub avx: bool,
}

impl CpuFeatures {
    /// Those of this processor.
    #[must_use]
    pub fn probe() -> Self {
        let f = host::cpu::Features::probe();
        Self {
            bmi1: f.bmi1,
            bmi2: f.bmi2,
            lzcnt: f.lzcnt,
            cmpxchg16b: f.cmpxchg16b,
            fma: f.fma && f.avx2,
            avx: f.avx2,
        }
    }
}

/// The back end.
#[derive(Debug)]
pub struct X64 {
    features: Option<CpuFeatures>,
}

/// The back end with what this processor offers.
pub static BACKEND: X64 = X64 { features: None };

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl X64 {
    /// A back end that uses just these optional instructions.
    #[must_use]
    pub const fn with_features(features: CpuFeatures) -> Self {
        Self { features: Some(features) }
    }

    fn features(&self) -> CpuFeatures {
        use std::sync::OnceLock;
        static PROBED: OnceLock<CpuFeatures> = OnceLock::new();
        self.features.unwrap_or_else(|| *PROBED.get_or_init(CpuFeatures::probe))
    }
}

impl HostBackend for X64 {
    fn name(&self) -> &'static str {
        "x86_64"
    }

    fn usable(&self) -> Result<(), String> {
        if !cfg!(all(target_arch = "x86_64", unix)) {
            Err("this is not an x86-64 host".into())
        } else if !host::cpu::Features::probe().sse42 {
            Err("the processor lacks SSE4".into())
        } else {
            Ok(())
        }
    }

    fn emit_runtime(&self, cx: &RuntimeCx, out: &mut CodeBuf<'_>) -> Result<Runtime, CodeFull> {
        thunks::emit(cx, out)
    }

    fn emit_block(&self, cx: &BlockCx<'_>, out: &mut CodeBuf<'_>) -> Result<(), CodeFull> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut e = Emit::new(*cx, self.features(), scratch, out.here());
            e.run();
            let r = if e.al.overflow { Err(CodeFull) } else { out.put(&e.asm.code) };
            *scratch = Scratch { asm: e.asm, al: e.al, stubs: e.stubs, groups: e.groups, lp: e.lp };
            r
        })
    }

    fn patch(&self, site: u64, target: u64) -> u32 {
        target.wrapping_sub(site.wrapping_add(4)) as u32
    }

    fn disassemble(&self, code: &[u8], at: u64) -> String {
        const BYTES: usize = 8;
        let mut decoder = Decoder::with_ip(64, code, at, DecoderOptions::NONE);
        let mut formatter = GasFormatter::new();
        formatter.options_mut().set_gas_show_mnemonic_size_suffix(true);
        formatter.options_mut().set_first_operand_char_index(9);
        formatter.options_mut().set_space_after_operand_separator(true);
        formatter.options_mut().set_branch_leading_zeros(false);
        formatter.options_mut().set_uppercase_hex(false);
        let (mut text, mut line) = (String::new(), String::new());
        let mut insn = Instruction::default();
        while decoder.can_decode() {
            let start = decoder.position();
            decoder.decode_out(&mut insn);
            line.clear();
            formatter.format(&insn, &mut line);
            let bytes = code.get(start..decoder.position()).unwrap_or_default();
            for (n, part) in bytes.chunks(BYTES).enumerate() {
                let _ = write!(text, "{:#x}: ", insn.ip() + (n * BYTES) as u64);
                for b in part {
                    let _ = write!(text, " {b:02x}");
                }
                if n == 0 {
                    let _ = write!(text, "{:1$}{line}", "", 3 * (BYTES - part.len()) + 2);
                }
                text.push('\n');
            }
        }
        text
    }
}
