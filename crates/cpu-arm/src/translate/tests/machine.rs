//! A small evaluator of IR blocks for the translator's tests.
//!
//! Runs one block over a byte image of the state struct and one stretch of memory, with the values of
//! `jit_ir::eval`. Helpers are not called: those that compute have stand-ins here, the others are noted
//! and end the run if they are exceptions. `jit-interp` is the real interpreter; this one needs no CPU.
//! Source: the descriptions of the ops in `jit_ir::op`.

use jit_ir::state::image;
use jit_ir::{Block, Builder, Effects, Exit, MemDesc, Op, Opcode, TranslateCx, Translator, Ty};
use jit_ir::{eval, opt::Passes, verify};

use crate::helpers::HELPERS;
use crate::state::{FPSR_SLOT, LAYOUT, ModeKey, v_slot, x_slot};
use crate::translate::{ArmTranslator, Isa};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Control is at this address.
    Pc(u64),
    /// A helper that never returns: its name and immediate, and the PC.
    Helper(&'static str, u64, u64),
    /// An access outside memory.
    Fault(u64),
    /// A misaligned access.
    Align(u64),
}

pub(super) struct Machine {
    pub(super) state: Vec<u8>,
    pub(super) mem: Vec<u8>,
    pub(super) mem_base: u64,
    pub(super) key: ModeKey,
    pub(super) isa: Isa,
    /// Bytes of the page that the translator is given.
    pub(super) seen: usize,
    /// Helper calls that were not stood in for.
    pub(super) calls: Vec<(&'static str, [u64; 4])>,
    excl: Option<(u64, u128)>,
}

fn mask(bytes: u32) -> u128 {
    if bytes >= 16 { u128::MAX } else { (1 << (8 * bytes)) - 1 }
}

impl Machine {
    pub(super) fn new() -> Self {
        Self {
            state: vec![0; LAYOUT.size as usize],
            mem: vec![0; 4096],
            mem_base: 0x1_0000,
            key: ModeKey::default().with_el(1).with_mmu(1).with_sp_check(true).with_zva_ok(true),
            isa: Isa::ALL,
            seen: 4096,
            calls: Vec::new(),
            excl: None,
        }
    }

    fn bytes(&self, at: u32, n: u32) -> u128 {
        let slice = &self.state[at as usize..(at + n) as usize];
        slice.iter().rev().fold(0, |v, b| v << 8 | u128::from(*b))
    }

    fn put(&mut self, at: u32, n: u32, v: u128) {
        let slice = &mut self.state[at as usize..(at + n) as usize];
        slice.copy_from_slice(&v.to_le_bytes()[..n as usize]);
    }

    pub(super) fn x(&self, n: u32) -> u64 {
        self.bytes(x_slot(n), 8) as u64
    }
    pub(super) fn set_x(&mut self, n: u32, v: u64) {
        self.put(x_slot(n), 8, u128::from(v));
    }
    pub(super) fn v(&self, n: u32) -> u128 {
        self.bytes(v_slot(n), 16)
    }
    pub(super) fn set_v(&mut self, n: u32, v: u128) {
        self.put(v_slot(n), 16, v);
    }
    /// N Z C V in bits 3..0.
    pub(super) fn nzcv(&self) -> u32 {
        image::to_nzcv(self.bytes(LAYOUT.flags, 2) as u16)
    }
    pub(super) fn set_nzcv(&mut self, v: u32) {
        self.put(LAYOUT.flags, 2, u128::from(image::from_nzcv(v)));
    }
    pub(super) fn slot32(&self, at: u32) -> u32 {
        self.bytes(at, 4) as u32
    }
    pub(super) fn set_slot32(&mut self, at: u32, v: u32) {
        self.put(at, 4, u128::from(v));
    }

    /// Translates the words as if at `pc` and runs the block once, with and without folding.
    pub(super) fn block(&self, words: &[u32], pc: u64, passes: Passes) -> Block {
        let mut page = vec![0u8; 4096];
        let start = (pc & 0xfff) as usize;
        for (i, w) in words.iter().enumerate() {
            page[start + 4 * i..start + 4 * i + 4].copy_from_slice(&w.to_le_bytes());
        }
        let mut b = Builder::new(&LAYOUT, HELPERS, passes);
        b.begin(start as u32);
        let max_insns = words.len() as u32;
        let mut cx = TranslateCx {
            count: false,
            b: &mut b,
            key: self.key.0,
            page: &page[..self.seen],
            start: start as u32,
            max_insns,
            stops: &[],
        };
        ArmTranslator::new(self.isa).translate(&mut cx);
        verify::verify(b.block(), &LAYOUT, HELPERS).expect("well-formed");
        b.block().clone()
    }

    pub(super) fn run(&mut self, words: &[u32], pc: u64) -> Stop {
        let block = self.block(words, pc, Passes::all());
        self.execute(&block, pc)
    }

    fn value(vals: &[u128], op: &Op, n: usize) -> u128 {
        let v = [op.a, op.b, op.c()][n];
        vals.get(v.index()).copied().unwrap_or(0)
    }

    pub(super) fn execute(&mut self, block: &Block, pc: u64) -> Stop {
        let page = pc & !0xfff;
        let mut vals = vec![0u128; block.ops.len()];
        let mut at = pc;
        for (i, op) in block.ops.iter().enumerate() {
            let [a, b, c] = [0, 1, 2].map(|n| Self::value(&vals, op, n));
            if op.code == Opcode::InsnStart {
                at = page.wrapping_add(op.imm as u64);
                continue;
            }
            if op.code.is_exit() {
                if self.taken(op, a) {
                    return self.leave(block.exits[op.imm as usize], &vals, page);
                }
                continue;
            }
            match self.op(block, op, [a, b, c], &vals, page, at) {
                Ok(v) => vals[i] = v,
                Err(stop) => return stop,
            }
        }
        unreachable!("verified: ends with an exit")
    }

    fn taken(&self, op: &Op, a: u128) -> bool {
        match op.code {
            Opcode::ExitIfCc => op.cond().holds(a as u32),
            Opcode::ExitIfNz => a != 0,
            Opcode::ExitIfZ => a == 0,
            Opcode::ExitIfBit => (a >> (op.aux & 63) & 1 != 0) == (op.aux >> 8 != 0),
            _ => true,
        }
    }

    fn leave(&self, exit: Exit, vals: &[u128], page: u64) -> Stop {
        match exit {
            Exit::Page(o) | Exit::Runtime(o) => Stop::Pc(page + u64::from(o)),
            Exit::Rel(d) => Stop::Pc(page.wrapping_add_signed(d)),
            Exit::Indirect(v) | Exit::Return(v) => Stop::Pc(vals[v.index()] as u64),
            Exit::RuntimePcSet => Stop::Pc(u64::MAX),
            Exit::Helper { helper, imm, offset } => Stop::Helper(
                HELPERS[usize::from(helper)].name,
                u64::from(imm),
                page + u64::from(offset),
            ),
        }
    }

    fn op(
        &mut self,
        block: &Block,
        op: &Op,
        [a, b, c]: [u128; 3],
        vals: &[u128],
        page: u64,
        at: u64,
    ) -> Result<u128, Stop> {
        if let Some(v) = eval::integer(op, a as u64, b as u64) {
            return Ok(u128::from(v));
        }
        if let Some(v) = eval::convert(op, a as u64) {
            return Ok(u128::from(v));
        }
        if let Some(v) = eval::vector(op, a, b) {
            return Ok(v);
        }
        let slot = op.imm as u32;
        let size = jit_ir::builder::size_of(op.ty);
        Ok(match op.code {
            Opcode::Get => self.bytes(slot, size),
            Opcode::Set => {
                self.put(slot, size, a);
                0
            }
            Opcode::GetCc => u128::from(self.nzcv()),
            Opcode::SetCc => {
                self.set_nzcv(a as u32);
                0
            }
            Opcode::Pc => u128::from(page.wrapping_add(op.imm as u64)),
            Opcode::AddC => {
                let r = (a as u64).wrapping_add(b as u64).wrapping_add(c as u64 >> 1 & 1);
                u128::from(eval::narrow(op.ty, r))
            }
            Opcode::FlagsOf => {
                let def = block.def(op.a);
                let [x, y, z] = [0, 1, 2].map(|n| Self::value(vals, def, n));
                u128::from(eval::flags_of(def, x as u64, y as u64, z as u32))
            }
            Opcode::CcFromNzcv => a >> 28 & 15,
            Opcode::NzcvOf => (a & 15) << 28,
            Opcode::Ccmp => u128::from(eval::ccmp(op, a as u64, b as u64, c as u32)),
            Opcode::CondVal => u128::from(op.cond().holds(a as u32)),
            Opcode::Select if op.cond().holds(c as u32) => a,
            Opcode::Select => b,
            Opcode::CmpSet => u128::from(eval::compare(op.ty, op.cond(), a as u64, b as u64)),
            Opcode::VFrom64 => a | b << 64,
            Opcode::VGet64 => u128::from((a >> (64 * (op.aux & 1))) as u64),
            Opcode::VSha256 => jit_ir::sha::rounds(a, b, c, op.aux & 1 != 0),
            Opcode::VDup => eval::dup(op.lane(), a as u64),
            Opcode::Call => return self.call(op, [a, b, c], at),
            Opcode::Fence | Opcode::PushReturn | Opcode::FpSync => 0,
            code if code.is_fp() => {
                let (v, flags) = jit_ir::fp::compute(op.fp(), [a, b, c]);
                self.set_slot32(FPSR_SLOT, self.slot32(FPSR_SLOT) | flags);
                v
            }
            Opcode::ClearEx => {
                self.excl = None;
                0
            }
            _ => return self.memory(op, [a, b, c]),
        })
    }

    fn call(&mut self, op: &Op, [a, b, c]: [u128; 3], at: u64) -> Result<u128, Stop> {
        let name = HELPERS[usize::from(op.aux)].name;
        let args = [a as u64, b as u64, c as u64, u64::from(op.call_imm())];
        let fx = HELPERS[usize::from(op.aux)].effects;
        Ok(u128::from(match name {
            "Crc32" => crc32(args),
            "PacAdd" | "PacAuth" => args[0] ^ (args[1] << 52) ^ (args[3] + 1) << 48,
            "PacStrip" => args[0] & 0xffff_ffff_ffff,
            "PacGa" => (args[0] ^ args[1]) << 32,
            "Mrs" => args[3] << 4,
            "Dsb" | "Event" | "DcZva" | "Msr" | "SysInsn" | "MsrImm" | "Wait" | "Yield"
            | "Simd" | "SimdGeneral" => {
                self.calls.push((name, args));
                0
            }
            // Floating point, which this machine does not compute.
            _ if !fx.contains(Effects::MAY_EXIT) => {
                assert!(fx.contains(Effects::WRITES_VECTOR), "{name}");
                0
            }
            _ => {
                return Err(Stop::Helper(name, args[3], at));
            }
        }))
    }

    fn check(&self, va: u64, desc: MemDesc) -> Result<usize, Stop> {
        let n = u64::from(desc.bytes());
        if desc.is_aligned() && !va.is_multiple_of(n) || desc.is_within16() && va % 16 + n > 16 {
            return Err(Stop::Align(va));
        }
        let at = va.wrapping_sub(self.mem_base) as usize;
        let end = at.checked_add(n as usize).ok_or(Stop::Fault(va))?;
        if end <= self.mem.len() { Ok(at) } else { Err(Stop::Fault(va)) }
    }

    fn load(&self, va: u64, desc: MemDesc) -> Result<u128, Stop> {
        let at = self.check(va, desc)?;
        let slice = &self.mem[at..at + desc.bytes() as usize];
        let le = slice.iter().rev().fold(0, |v, b| v << 8 | u128::from(*b));
        Ok(if desc.is_big_endian() { le.swap_bytes() >> (128 - 8 * desc.bytes()) } else { le })
    }

    fn store(&mut self, va: u64, v: u128, desc: MemDesc) -> Result<(), Stop> {
        if desc.is_clear64() {
            let at = self.check(va & !63, desc)?;
            self.mem[at..at + 64].fill(0);
            return Ok(());
        }
        let at = self.check(va, desc)?;
        let v = if desc.is_big_endian() { v.swap_bytes() >> (128 - 8 * desc.bytes()) } else { v };
        self.mem[at..at + desc.bytes() as usize]
            .copy_from_slice(&v.to_le_bytes()[..desc.bytes() as usize]);
        Ok(())
    }

    fn memory(&mut self, op: &Op, [a, b, c]: [u128; 3]) -> Result<u128, Stop> {
        let desc = op.mem();
        let offset =
            if matches!(op.code, Opcode::Load | Opcode::Store) { op.imm as u64 } else { 0 };
        let va = (a as u64).wrapping_add(offset);
        let m = mask(desc.bytes());
        match op.code {
            Opcode::Load => {
                let v = self.load(va, desc)?;
                let shift = 128 - 8 * desc.bytes();
                let signed = ((v << shift) as i128 >> shift) as u128;
                let v = if desc.is_signed() { signed } else { v };
                Ok(match op.ty {
                    Ty::I32 => v & mask(4),
                    Ty::I64 => v & mask(8),
                    _ => v,
                })
            }
            Opcode::LoadEx => {
                let v = self.load(va, desc)?;
                self.excl = Some((va, v));
                Ok(v)
            }
            Opcode::Store => self.store(va, b, desc).map(|()| 0),
            Opcode::StoreEx => {
                let held = self.excl.take();
                if held.is_none_or(|(at, _)| at != va) {
                    return Ok(1);
                }
                if held.is_some_and(|(_, v)| self.load(va, desc) == Ok(v)) {
                    return self.store(va, b, desc).map(|()| 0);
                }
                Ok(1)
            }
            Opcode::Rmw => {
                let old = self.load(va, desc)?;
                let new = eval::rmw(op.rmw(), desc.bytes(), old as u64, b as u64);
                self.store(va, u128::from(new), desc)?;
                Ok(old)
            }
            Opcode::Cas => {
                let old = self.load(va, desc)?;
                if old == b & m {
                    self.store(va, c, desc)?;
                }
                Ok(old)
            }
            other => panic!("evaluator lacks {other:?}"),
        }
    }
}

/// Bitwise CRC of the low bytes, as the helper's description says.
fn crc32(a: [u64; 4]) -> u64 {
    let poly: u32 = if a[3] >> 4 & 1 != 0 { 0x82f6_3b78 } else { 0xedb8_8320 };
    let mut crc = a[0] as u32;
    for i in 0..1u32 << (a[3] & 3) {
        crc ^= u32::from((a[1] >> (8 * i)) as u8);
        for _ in 0..8 {
            crc = crc >> 1 ^ (poly & (crc & 1).wrapping_neg());
        }
    }
    u64::from(crc)
}
