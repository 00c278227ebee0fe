//! What the engine does for helpers.

use std::sync::Arc;

use jit_ir::env::MMUS;
use jit_ir::{JitCpu, MemDesc, MemFault, PhysMem, Services, TlbFlush};
use memory::FlatView;

use crate::access::Phys;
use crate::exclusive::Message;
use crate::ram::Ram;
use crate::vcpu::Core;

/// A walker that owns its views: as all see memory, and as the secure world does.
pub(crate) struct OwnedPhys(pub(crate) Arc<FlatView>, pub(crate) Arc<FlatView>, pub(crate) Ram);

impl OwnedPhys {
    fn phys(&mut self) -> Phys<'_> {
        Phys { plain: &self.0, secure: &self.1, ram: &mut self.2 }
    }
}

impl PhysMem for OwnedPhys {
    fn read(&mut self, pa: u64, bytes: u32, secure: bool) -> Option<u64> {
        self.phys().read(pa, bytes, secure)
    }
    fn cas64(&mut self, pa: u64, old: u64, new: u64, secure: bool) -> Option<bool> {
        self.phys().cas64(pa, old, new, secure)
    }
}

impl Core {
    pub(crate) fn flush_local(&mut self, cpu: &mut dyn JitCpu, what: &TlbFlush) {
        Self::clear_pages(cpu);
        self.note_flush(what);
        self.peer.count(&self.peer.flushes);
        let what = self.l2.flush(what);
        self.l1.forget(what);
        if self.code_tlbs.forget(what) {
            Self::clear_ring(cpu);
        }
    }
}

impl Services for Core {
    fn load(&mut self, cpu: &mut dyn JitCpu, va: u64, desc: MemDesc) -> Result<u128, MemFault> {
        self.do_load(cpu, va, desc)
    }
    fn store(
        &mut self,
        cpu: &mut dyn JitCpu,
        va: u64,
        value: u128,
        desc: MemDesc,
    ) -> Result<(), MemFault> {
        self.do_store(cpu, va, value, desc)
    }
    fn rmw(
        &mut self,
        cpu: &mut dyn JitCpu,
        va: u64,
        desc: MemDesc,
        f: &mut dyn FnMut(u128) -> Option<u128>,
    ) -> Result<u128, MemFault> {
        self.do_rmw(cpu, va, desc, f)
    }
    fn zero(&mut self, cpu: &mut dyn JitCpu, va: u64, len: u64, mmu: u8) -> Result<(), MemFault> {
        self.do_zero(cpu, va, len, mmu)
    }
    fn phys(&mut self) -> &mut dyn PhysMem {
        let (plain, secure) = self.views();
        self.walker = OwnedPhys(plain, secure, Ram::default());
        &mut self.walker
    }
    fn tlb_flush(&mut self, cpu: &mut dyn JitCpu, what: TlbFlush) {
        self.flush_local(cpu, &what);
        if what.broadcast {
            let peers = self.engine.peers.lock();
            for p in peers.iter().filter(|p| !Arc::ptr_eq(p, &self.peer)) {
                p.post(Message::Flush(what));
            }
            self.unsynced = peers.len() > 1;
        }
    }
    fn code_changed(&mut self, cpu: &mut dyn JitCpu, va: u64, len: u64) {
        if len <= 4096 && len.is_power_of_two() {
            self.code_line_changed(cpu, va, len);
        }
    }
    fn debug_changed(&mut self, cpu: &mut dyn JitCpu) {
        self.reload_stops(cpu);
    }
    fn sync(&mut self, cpu: &mut dyn JitCpu) {
        if !std::mem::take(&mut self.unsynced) {
            return;
        }
        let peers = self.engine.peers.lock().clone();
        self.peer.wait_for(&peers);
        self.handle_messages(cpu);
    }
    fn context_changed(&mut self, cpu: &mut dyn JitCpu, mmu_mask: u16) {
        let mut changed = false;
        for mmu in (0..MMUS).filter(|mmu| mmu_mask >> mmu & 1 != 0) {
            let tag = cpu.tlb_tag(mmu as u8);
            if tag != self.tags[mmu] {
                self.tags[mmu] = tag;
                changed = true;
                if self.l1.switch(mmu as u8, tag) {
                    cpu.env().tlb[mmu] = self.l1.place(mmu as u8);
                }
            }
        }
        if changed {
            Self::clear_context(cpu);
        }
    }
}
