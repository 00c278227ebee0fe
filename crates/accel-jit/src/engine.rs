//! What the vCPUs of a VM share.
//!
//! Lock order: `peers` before a peer's inbox; `cache` is taken with neither held.
//! UNSAFE: none.

use std::sync::Arc;

use jit_ir::backend::{HostBackend, Runtime};
use jit_ir::opt::Passes;
use jit_ir::{Block, Translator};
use memory::AddressSpace;
use parking_lot::Mutex;

use crate::cache::{Cache, CodePages};
use crate::exclusive::{Message, Peer, World};

/// Options of `-accel tcg`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Optimisations in use.
    pub(crate) passes: Passes,
    /// Guest instructions per block at most (`one-insn-per-tb`).
    pub(crate) max_insns: u32,
    /// Print guest code and IR of each block (`-d in_asm,op`).
    pub(crate) log: bool,
}

/// The native back end, set up.
pub(crate) struct Native {
    pub(crate) backend: &'static dyn HostBackend,
    pub(crate) runtime: Runtime,
    pub(crate) code_base: u64,
}

/// Shared engine state.
pub(crate) struct Engine {
    pub(crate) translator: Arc<dyn Translator>,
    pub(crate) memory: AddressSpace,
    pub(crate) options: Options,
    /// `None`: interpreter.
    pub(crate) native: Option<Native>,
    pub(crate) cache: Mutex<Cache>,
    pub(crate) code_pages: CodePages,
    pub(crate) peers: Mutex<Vec<Arc<Peer>>>,
    pub(crate) world: World,
}

impl Engine {
    /// From now on writes to this physical page are noticed.
    pub(crate) fn protect_code(&self, pa: u64) {
        if self.code_pages.add(pa) {
            for p in &*self.peers.lock() {
                p.l1.protect(pa);
            }
        }
    }

    /// A write to a page that may hold translated code. True: no code is left there, so later writes
    /// need not be noticed.
    pub(crate) fn code_written(&self, pa: u64, len: u64, me: &Arc<Peer>) -> bool {
        let mut cache = self.cache.lock();
        let (dropped, empty) = cache.written(pa, len);
        if empty {
            self.code_pages.remove(pa);
        }
        drop(cache);
        if dropped {
            for p in &*self.peers.lock() {
                if !Arc::ptr_eq(p, me) {
                    p.post(Message::CodeChanged);
                }
            }
        }
        empty
    }

    pub(crate) fn log_block(&self, page: &[u8], start: u32, block: &Block) {
        if !self.options.log {
            return;
        }
        let mut at = start as usize;
        let mut text = String::new();
        while at < (start + block.len) as usize && at + 4 <= page.len() {
            let insn = self.translator.disassemble(&page[at..at + 4], at as u64);
            text.push_str(&format!("{at:#05x}: {insn}\n"));
            at += 4;
        }
        crate::log_text(&format!("IN:\n{text}OP:\n{}", jit_ir::text::print(block)));
    }
}
