//! What the vCPUs of a VM share.
//!
//! Lock order: `peers` before a peer's inbox; `cache` is taken with neither held.
//! UNSAFE: none.

use std::sync::Arc;

use jit_ir::backend::{HostBackend, Runtime};
use jit_ir::opt::Passes;
use jit_ir::Translator;
use memory::AddressSpace;
use parking_lot::Mutex;

use crate::cache::{Cache, CodePages};
use crate::debug::Debug;
use crate::exclusive::{Message, Peer, World};

/// Options of `-accel tcg`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Optimisations in use.
    pub(crate) passes: Passes,
    /// Guest instructions per block at most (`one-insn-per-tb`).
    pub(crate) max_insns: u32,
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
    /// As the secure world sees it.
    pub(crate) secure_memory: Option<AddressSpace>,
    pub(crate) options: Options,
    /// `None`: interpreter.
    pub(crate) native: Option<Native>,
    pub(crate) cache: Mutex<Cache>,
    pub(crate) code_pages: CodePages,
    pub(crate) peers: Mutex<Vec<Arc<Peer>>>,
    pub(crate) world: World,
    pub(crate) debug: Debug,
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
}
