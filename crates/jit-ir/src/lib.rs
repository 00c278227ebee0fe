//! The intermediate representation between guest decoders and host backends.
//!
//! A [`Block`] is a linear list of 16-byte [`Op`]s in SSA form: an op's value is named by its
//! index. It is an extended basic block of one guest page: one entry, side exits, one end.
//! Guest registers are [`Slot`]s (byte offsets into the guest's state struct), so nothing here
//! knows Arm, x86 or RISC-V. The same block is run by the interpreter (`jit-interp`, the oracle)
//! and compiled by host backends (`jit-x64`).
//!
//! Not here: decoding (guest crates), code emission (host crates), block lookup, chaining and
//! the TLB (`accel-jit`).

pub mod aes;
pub mod backend;
pub mod block;
pub mod builder;
pub mod cpu;
pub mod env;
pub mod eval;
pub mod fp;
pub mod helper;
pub mod op;
pub mod opt;
pub mod random;
pub mod state;
pub mod text;
pub mod toy;
pub mod verify;

pub use block::{Block, Exit};
pub use builder::Builder;
pub use cpu::{
    AccessKind, CodeMode, DebugPoints, JitCpu, MemFault, PageMap, PhysMem, TranslateCx, Translator,
    Wake,
};
pub use env::JitEnv;
pub use helper::{Effects, Helper, HelperCx, HelperDesc, Services, TlbFlush};
pub use op::{Cond, Lane, MemDesc, Op, Opcode, RmwKind, Ty, Val};
pub use state::{Slot, SlotClass, StateLayout};
