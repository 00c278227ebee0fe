//! What the vCPUs of a VM share.
//!
//! Lock order: `peers` before a peer's inbox; `cache` is taken with neither held.
//! UNSAFE: none.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use device::RunControl;
use guest_ram::Watch;
use jit_ir::backend::{HostBackend, Runtime};
use jit_ir::opt::Passes;
use jit_ir::{HelperDesc, Translator};
use memory::{AddressSpace, FlatRange, FlatView, Listener};
use parking_lot::Mutex;

use crate::cache::{Cache, CodePages, RamPage};
use crate::debug::Debug;
use crate::exclusive::{Message, Peer, World};
use crate::icount::Icount;
use crate::perf::Perf;
use crate::tlb_check::Checked;
use crate::verify::Verify;

/// Options of `-accel tcg`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Optimisations in use.
    pub(crate) passes: Passes,
    /// Guest instructions per block at most (`one-insn-per-tb`).
    pub(crate) max_insns: u32,
    /// Fills of the first-level TLB between looks at all of it (`x-check-tlb`), 0 = none.
    pub(crate) check_tlb: u32,
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
    /// Instructions make the guest's time.
    pub(crate) icount: Option<Arc<Icount>>,
    /// Files for `perf`.
    pub(crate) perf: Option<Perf>,
    /// The helpers as generated code calls them, if their calls are counted.
    pub(crate) counted: Option<Vec<HelperDesc>>,
    /// What `x-check-tlb` did.
    pub(crate) checked: Checked,
    /// Blocks are executed twice.
    pub(crate) verify: Option<Verify>,
    /// Where the end of the emulator is asked for.
    pub(crate) run: Arc<dyn RunControl>,
}

impl Engine {
    /// From now on writes to this page are noticed, whoever makes them. `me` = the vCPU that translates;
    /// others that wrote to it leave their loops, which may remember that the page can be written.
    pub(crate) fn protect_code(self: &Arc<Self>, ram: &RamPage, me: &Arc<Peer>) {
        if let Some(block) = ram.block.upgrade() {
            let me = Arc::downgrade(self);
            let watch: Weak<dyn Watch> = me;
            block.watch_page(ram.offset, &watch);
        }
        if self.code_pages.add(ram.host) {
            for p in &*self.peers.lock() {
                if p.l1.protect(ram.host) && !Arc::ptr_eq(p, me) {
                    p.kick();
                }
            }
        }
    }

    /// Bytes of one page, by host address, were written, and the page may hold translated code. `me` = the
    /// vCPU that did it, which forgets its predicted returns itself. True: no code is left there, so later
    /// writes need not be noticed.
    pub(crate) fn code_written(&self, at: u64, len: u64, me: Option<&Arc<Peer>>) -> bool {
        let mut cache = self.cache.lock();
        let (dropped, empty) = cache.written(at, len);
        if empty {
            self.code_pages.remove(at & !0xfff);
        }
        drop(cache);
        if dropped {
            for p in &*self.peers.lock() {
                if me.is_none_or(|me| !Arc::ptr_eq(p, me)) {
                    p.post(Message::CodeChanged);
                }
            }
        }
        empty
    }
}

impl Watch for Engine {
    fn written(&self, at: u64, len: u64) {
        let mut at = at;
        let end = at.saturating_add(len);
        while at < end {
            let next = ((at | 0xfff) + 1).min(end);
            if self.code_pages.contains(at & !0xfff) {
                self.code_written(at, next - at, None);
            }
            at = next;
        }
    }

    fn taken(&self) {
        let peers = self.peers.lock().clone();
        for p in &peers {
            p.l1.protect_all();
            p.kick();
        }
        // A store between its check of the tag and its write is over once its vCPU was outside.
        for p in &peers {
            let rounds = p.rounds.load(Ordering::SeqCst);
            while p.in_code.load(Ordering::SeqCst) && p.rounds.load(Ordering::SeqCst) == rounds {
                p.kick();
                std::thread::yield_now();
            }
        }
    }
}

/// Follows the memory map: whoever runs translated code leaves it and forgets its translations. The view
/// that each vCPU keeps until then holds the RAM that its TLBs point to.
pub(crate) struct MapListener(pub(crate) Weak<Engine>);

impl Listener for MapListener {
    fn changed(&self, _: &Arc<FlatView>, _: &[FlatRange], _: &[FlatRange]) {
        let Some(engine) = self.0.upgrade() else { return };
        for p in &*engine.peers.lock() {
            p.kick();
        }
    }
}
