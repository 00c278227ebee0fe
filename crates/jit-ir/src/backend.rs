//! The contract between a host back end and the engine (`accel-jit`).
//!
//! Generated code runs with the state pointer in a host register of the back end's choice. At every
//! block boundary pinned guest registers are in their host registers and all other guest state is in
//! memory. The engine never looks at generated code; it calls [`Runtime::enter`], patches jumps
//! through [`HostBackend::patch`], and offers the functions of [`RuntimeCalls`].
//!
//! # Block exits
//! * `Page(off)`: a patchable jump. Unpatched it leads to a stub that stores `off` to `env.offset`, the
//!   site's address to `env.patch_site` and goes to the lookup thunk. Backward exits (target at or
//!   before the block's start) first test `env.request` and go to the unpatched stub (with
//!   `patch_site` = 0) when it is negative.
//! * `Rel`, `Indirect`, `Return`: inline look-up in the code TLB: entry index is the VA page number
//!   modulo [`CODE_TLB`]; it hits if `tag == (va & !0xffc) | env.code_slot`; the host code is at
//!   `env.code_base + entries[(va & 0xffc) / 4]` unless that is 0. On a hit `env.page` = `va & !0xfff`.
//!   On a miss `env.page`, `env.offset` are set (`patch_site` = 0) and the lookup thunk runs. These
//!   exits test `env.request` too. `Return` first compares with the ring's top entry and pops it.
//! * `Runtime(off)`: sets `env.offset` and leaves. `RuntimePcSet`: leaves. `Helper`: sets `env.offset`,
//!   calls the helper, leaves.
//! * The lookup thunk calls [`RuntimeCalls::lookup`]; a result of 0 leaves, else it jumps there.
//!
//! # Faulting ops
//! Before an op that may fault, all non-pinned dirty guest registers and flags are in memory, and the
//! slow path stores the instruction's page offset to `env.offset`. After a runtime or helper call that
//! may exit, `env.helper_exit != 0` leaves the block (the engine clears it).

use crate::block::Block;
use crate::helper::HelperDesc;
use crate::opt::{Liveness, Passes};
use crate::state::StateLayout;

/// Entries of the code TLB (a power of two).
pub const CODE_TLB: usize = 1024;

/// The code area is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeFull;

/// Where code is written: the writable view of memory that is executed at another address.
pub struct CodeBuf<'a> {
    bytes: &'a mut [u8],
    len: usize,
    exec_base: u64,
}

impl<'a> CodeBuf<'a> {
    /// A buffer over `bytes`, executed at `exec_base`.
    #[must_use]
    pub fn new(bytes: &'a mut [u8], exec_base: u64) -> Self {
        Self { bytes, len: 0, exec_base }
    }
    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }
    /// Nothing written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Address at which the next byte will be executed.
    #[must_use]
    pub fn here(&self) -> u64 {
        self.exec_base + self.len as u64
    }
    /// Room left.
    #[must_use]
    pub fn room(&self) -> usize {
        self.bytes.len() - self.len
    }
    /// Appends bytes.
    pub fn put(&mut self, code: &[u8]) -> Result<(), CodeFull> {
        let to = self.bytes.get_mut(self.len..self.len + code.len()).ok_or(CodeFull)?;
        to.copy_from_slice(code);
        self.len += code.len();
        Ok(())
    }
    /// Overwrites 4 bytes at an offset below [`Self::len`].
    pub fn set_u32(&mut self, at: usize, v: u32) {
        if let Some(to) = self.bytes.get_mut(at..at + 4) {
            to.copy_from_slice(&v.to_le_bytes());
        }
    }
    /// What was written.
    #[must_use]
    pub fn written(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Addresses of the engine's functions, all `extern "C"`, which on x86-64 Linux is the System V
/// convention. The first argument, called `engine`, is always the content of `env.engine`. `desc` = `MemDesc` bits. Wide (16-byte) values go through `env.wide`: results and stored or
/// expected values in `wide[0..2]`, new values of `cas` in `wide[2..4]`. Loads are extended to 64 bits
/// as the descriptor says (the caller truncates to I32). All may set `env.helper_exit`.
#[derive(Clone, Copy, Debug, Default)]
pub struct RuntimeCalls {
    /// fn(engine, va, desc) -> value
    pub load: u64,
    /// fn(engine, va, desc, value)
    pub store: u64,
    /// fn(engine, va, desc) -> value; sets the monitor
    pub load_ex: u64,
    /// fn(engine, va, desc, value) -> 0 stored, 1 not
    pub store_ex: u64,
    /// fn(engine, va, desc | kind << 16, value) -> old
    pub rmw: u64,
    /// fn(engine, va, desc, expected, new) -> old
    pub cas: u64,
    /// fn(engine) -> host address to continue at for the PC in `env`, 0 = leave. Patches
    /// `env.patch_site` when that is allowed.
    pub lookup: u64,
    /// fn(engine) -> host address to continue at after a helper changed PC or mode, 0 = leave. State and
    /// PC are exact. No address (0): always leave.
    pub resume: u64,
}

/// What a back end needs to emit its thunks.
#[derive(Clone, Copy)]
pub struct RuntimeCx {
    /// The guest's state table.
    pub layout: &'static StateLayout,
    /// The engine's functions.
    pub calls: RuntimeCalls,
    /// Optimisations.
    pub passes: Passes,
}

/// Addresses of the thunks.
#[derive(Clone, Debug, Default)]
pub struct Runtime {
    /// `extern "C" fn(state: *mut u8, code: u64)`: runs from `code` until something leaves.
    pub enter: u64,
    /// The back end's other thunks, by its own numbering.
    pub thunks: Vec<u64>,
}

/// One block to emit.
#[derive(Clone, Copy)]
pub struct BlockCx<'a> {
    /// The block.
    pub block: &'a Block,
    /// Result of the backward pass.
    pub live: &'a Liveness,
    /// The guest's state table.
    pub layout: &'static StateLayout,
    /// The guest's helpers.
    pub helpers: &'a [HelperDesc],
    /// Optimisations.
    pub passes: Passes,
    /// The thunks.
    pub runtime: &'a Runtime,
    /// What the block takes off [`crate::JitEnv::budget`] when it is entered; 0 = it does not look there.
    pub count: u32,
    /// Every memory access is made by the functions of [`RuntimeCalls`], which can then log it.
    pub log: bool,
    /// The block may jump to itself without a look-up.
    pub loops: bool,
}

/// Emits code for one kind of host.
pub trait HostBackend: Send + Sync {
    /// Name (`x86_64`).
    fn name(&self) -> &'static str;
    /// Whether this host can run its code.
    fn usable(&self) -> Result<(), String>;
    /// Emits the thunks at the start of a code area.
    fn emit_runtime(&self, cx: &RuntimeCx, out: &mut CodeBuf<'_>) -> Result<Runtime, CodeFull>;
    /// Emits a block at `out.here()`, which is its entry.
    fn emit_block(&self, cx: &BlockCx<'_>, out: &mut CodeBuf<'_>) -> Result<(), CodeFull>;
    /// The 4 bytes to store (aligned) at `site`, an address that an exit stub put in `env.patch_site`,
    /// so that the exit jumps to `target`.
    fn patch(&self, site: u64, target: u64) -> u32;
    /// Disassembles emitted code for `-d out_asm`.
    fn disassemble(&self, code: &[u8], at: u64) -> String;
}
