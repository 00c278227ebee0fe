//! Memory accesses that the inline path does not do: TLB fills, MMIO, page crossings, alignment
//! checks, atomics, writes to pages with translated code.
//!
//! UNSAFE: reads and writes guest RAM through host addresses that the flat view vouches for; the
//! view is kept by the vCPU while it runs. Guest RAM is shared with other vCPUs, so accesses are
//! volatile or atomic.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use guest_ram::RamBlock;
use jit_ir::env::TAG_INVALID;
use jit_ir::{AccessKind, JitCpu, MemDesc, MemFault, PhysMem};
use memory::{FlatView, Size, TxAttrs};

use crate::ram::Ram;
use crate::tlb::{L2Entry, flag};
use crate::vcpu::Core;

/// Physical memory for page walks.
pub(crate) struct Phys<'a> {
    /// As all see it.
    pub(crate) plain: &'a FlatView,
    /// As the secure world does.
    pub(crate) secure: &'a FlatView,
    /// The RAM of both.
    pub(crate) ram: &'a mut Ram,
}

impl Phys<'_> {
    fn at(&mut self, pa: u64, secure: bool) -> Option<crate::ram::At> {
        let view = if secure { self.secure } else { self.plain };
        self.ram.at(view, secure, pa)
    }
}

impl PhysMem for Phys<'_> {
    fn read(&mut self, pa: u64, bytes: u32, secure: bool) -> Option<u64> {
        let ram = self.at(pa, secure).filter(|r| r.len >= u64::from(bytes))?;
        // SAFETY: `bytes` bytes of RAM at `host`.
        Some(unsafe { read_ram(ram.host as *const u8, bytes) as u64 })
    }

    fn cas64(&mut self, pa: u64, old: u64, new: u64, secure: bool) -> Option<bool> {
        let ram = self.at(pa, secure).filter(|r| r.len >= 8 && !r.readonly && pa & 7 == 0)?;
        // SAFETY: an aligned word of writable RAM.
        let word = unsafe { &*(ram.host as *const AtomicU64) };
        Some(word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok())
    }
}

/// Reads 1 to 16 bytes; single-copy atomic for naturally aligned ones
/// (16 on hosts that can).
///
/// # Safety
/// `bytes` bytes at `at` must be mapped.
unsafe fn read_ram(at: *const u8, bytes: u32) -> u128 {
    // SAFETY: the caller's promise; unaligned reads go bytewise or as one host access.
    unsafe {
        match bytes {
            1 => u128::from((*at.cast::<AtomicU8>()).load(Ordering::Acquire)),
            2 if at.addr() & 1 == 0 => {
                u128::from((*at.cast::<AtomicU16>()).load(Ordering::Acquire))
            }
            4 if at.addr() & 3 == 0 => {
                u128::from((*at.cast::<AtomicU32>()).load(Ordering::Acquire))
            }
            8 if at.addr() & 7 == 0 => {
                u128::from((*at.cast::<AtomicU64>()).load(Ordering::Acquire))
            }
            2 => u128::from(at.cast::<u16>().read_unaligned()),
            4 => u128::from(at.cast::<u32>().read_unaligned()),
            8 => u128::from(at.cast::<u64>().read_unaligned()),
            16 if at.addr() & 15 == 0 && host::wide_atomic::is_lock_free() => {
                host::wide_atomic::load(at.cast_mut().cast())
            }
            _ => at.cast::<u128>().read_unaligned(),
        }
    }
}

/// Writes 1 to 16 bytes, likewise.
///
/// # Safety
/// `bytes` bytes at `at` must be mapped and writable.
unsafe fn write_ram(at: *mut u8, bytes: u32, v: u128) {
    // SAFETY: the caller's promise.
    unsafe {
        match bytes {
            1 => (*at.cast::<AtomicU8>()).store(v as u8, Ordering::Release),
            2 if at.addr() & 1 == 0 => (*at.cast::<AtomicU16>()).store(v as u16, Ordering::Release),
            4 if at.addr() & 3 == 0 => (*at.cast::<AtomicU32>()).store(v as u32, Ordering::Release),
            8 if at.addr() & 7 == 0 => (*at.cast::<AtomicU64>()).store(v as u64, Ordering::Release),
            2 => at.cast::<u16>().write_unaligned(v as u16),
            4 => at.cast::<u32>().write_unaligned(v as u32),
            8 => at.cast::<u64>().write_unaligned(v as u64),
            _ => at.cast::<u128>().write_unaligned(v),
        }
    }
}

/// Compare-and-swap of 1 to 16 bytes inside one aligned 16-byte granule; the old content.
///
/// # Safety
/// The 16-byte granule around `at` must be mapped and writable.
unsafe fn cas_ram(at: *mut u8, bytes: u32, old: u128, new: u128) -> u128 {
    macro_rules! cas {
        ($atomic:ty, $int:ty) => {{
            // SAFETY: aligned, by the arm's guard; mapped, by the caller's promise.
            let word = unsafe { &*at.cast::<$atomic>() };
            let r =
                word.compare_exchange(old as $int, new as $int, Ordering::SeqCst, Ordering::SeqCst);
            return u128::from(r.unwrap_or_else(|now| now));
        }};
    }
    match bytes {
        1 => cas!(AtomicU8, u8),
        2 if at.addr() & 1 == 0 => cas!(AtomicU16, u16),
        4 if at.addr() & 3 == 0 => cas!(AtomicU32, u32),
        8 if at.addr() & 7 == 0 => cas!(AtomicU64, u64),
        _ => {}
    }
    let shift = 8 * (at.addr() & 15) as u32;
    let granule = at.map_addr(|a| a & !15).cast::<u128>();
    let mask = if bytes >= 16 { u128::MAX } else { ((1u128 << (8 * bytes)) - 1) << shift };
    // SAFETY: the caller's promise.
    let mut now = unsafe { granule.read_volatile() };
    loop {
        if now & mask != old << shift & mask {
            return (now & mask) >> shift;
        }
        let next = now & !mask | new << shift & mask;
        // SAFETY: aligned and mapped.
        let seen = unsafe { host::wide_atomic::cas(granule, now, next) };
        if seen == now {
            return (now & mask) >> shift;
        }
        now = seen;
    }
}

fn mask_of(bytes: u32) -> u128 {
    if bytes >= 16 { u128::MAX } else { (1 << (8 * bytes)) - 1 }
}

fn swap(bytes: u32, v: u128) -> u128 {
    v.swap_bytes() >> (128 - 8 * bytes)
}

/// Extends a loaded value as the descriptor says.
pub(crate) fn extend(desc: MemDesc, v: u128) -> u128 {
    if !desc.is_signed() || desc.log2() >= 3 {
        return v;
    }
    let unused = 64 - 8 * desc.bytes();
    u128::from((((v as u64) << unused) as i64 >> unused) as u64)
}

impl Core {
    /// The views of both worlds that the translations were made with.
    pub(crate) fn views(&self) -> (Arc<FlatView>, Arc<FlatView>) {
        (Arc::clone(self.view_of(false)), Arc::clone(self.view_of(true)))
    }

    /// The block of an entry, and the offset of its page there.
    pub(crate) fn ram_of(&self, e: &L2Entry) -> Option<(&Arc<RamBlock>, u64)> {
        let block = self.ram.block(e.block)?;
        Some((block, e.host.wrapping_sub(block.host_ptr() as u64)))
    }

    /// Finds or makes the translation of a page for an access.
    pub(crate) fn fill(
        &mut self,
        cpu: &mut dyn JitCpu,
        va: u64,
        kind: AccessKind,
        mmu: u8,
    ) -> Result<L2Entry, MemFault> {
        let want = match kind {
            AccessKind::Read => flag::READ,
            AccessKind::Write => flag::WRITE,
            AccessKind::Exec => flag::EXEC,
        };
        let tag = self.tags[usize::from(mmu & 15)];
        let e = match self.l2.probe(va, mmu, tag) {
            Some(e) if e.flags & want != 0 => e,
            _ => self.walk(cpu, va, kind, mmu)?,
        };
        if kind != AccessKind::Exec && e.host != 0 && e.flags & flag::WATCHED == 0 {
            self.install(cpu, &e, va, mmu, kind);
            self.peer.count(&self.peer.fills);
            self.check_fill(cpu);
        }
        Ok(e)
    }

    fn walk(
        &mut self,
        cpu: &mut dyn JitCpu,
        va: u64,
        kind: AccessKind,
        mmu: u8,
    ) -> Result<L2Entry, MemFault> {
        self.follow_view(cpu);
        let secure = self.secure_view.as_ref().unwrap_or(&self.view);
        let mut mem = Phys { plain: &self.view, secure, ram: &mut self.ram };
        let m = cpu.translate(va, kind, mmu, &mut mem)?;
        let mut flags = 0;
        for (on, bit) in [
            (m.read, flag::READ),
            (m.write, flag::WRITE),
            (m.exec, flag::EXEC),
            (m.global, flag::GLOBAL),
            (m.strict_align, flag::STRICT),
            (m.secure, flag::SECURE),
        ] {
            flags |= if on { bit } else { 0 };
        }
        if self.stops.watches(va) {
            flags |= flag::WATCHED;
        }
        let pa = m.pa & !0xfff;
        let ram = mem.at(pa, m.secure).filter(|r| r.len >= 4096);
        if ram.is_some_and(|r| r.readonly) {
            flags |= flag::ROM;
        }
        let (host, block) = ram.map_or((0, 0), |r| (r.host, r.block));
        let e = L2Entry {
            page: va & !0xfff,
            pa,
            host,
            block,
            flags,
            code_attr: m.code_attr,
            ..L2Entry::default()
        };
        self.peer.count(&self.peer.walks);
        self.note_walk(&e, mmu, m.size_log2);
        if !m.volatile {
            let tag = self.tags[usize::from(mmu & 15)];
            self.l2.insert(e, mmu, tag, m.size_log2);
        }
        Ok(e)
    }

    /// Puts a RAM page into the first level.
    fn install(&mut self, cpu: &mut dyn JitCpu, e: &L2Entry, va: u64, mmu: u8, kind: AccessKind) {
        let (n, global) = (usize::from(mmu & 15), e.flags & flag::GLOBAL != 0);
        if self.l1.before_fill(mmu, va, self.tags[n], global) {
            cpu.env().tlb[n] = self.l1.place(mmu);
        }
        let page = va & !0xfff;
        let plain = e.flags & flag::STRICT == 0;
        let read = if e.flags & flag::READ != 0 && plain { page } else { TAG_INVALID };
        // Generated code takes a page that may be written for one that may be read.
        let both = flag::READ | flag::WRITE;
        let may_write = e.flags & (both | flag::ROM) == both && plain && self.note_write(e, kind);
        if may_write && self.l1.will_write(e.host, va) {
            cpu.env().kick();
        }
        let slot = self.l1.slot(mmu, va);
        // The order lets `protect` and this agree: it sets the page's bit in `code_pages`, then looks for
        // the entry; here the entry is written, then that bit is looked at. So with
        // `will_write`.
        slot.write.store(TAG_INVALID, Ordering::Relaxed);
        slot.read.store(TAG_INVALID, Ordering::Relaxed);
        slot.addend.store(e.host.wrapping_sub(page), Ordering::Relaxed);
        slot.page.store(e.host, Ordering::SeqCst);
        slot.read.store(read, Ordering::Relaxed);
        if may_write {
            slot.write.store(page, Ordering::SeqCst);
            // Asked again, since the dirty bits may have been taken before the entry could be seen.
            let taken = !self.note_write(e, kind);
            if taken || self.engine.code_pages.contains(e.host) {
                slot.write.fetch_or(TAG_INVALID, Ordering::SeqCst);
            }
        }
    }

    /// Dirty tracking: whether writes to the page may go past it, since it is known to be dirty. A write
    /// makes it so.
    fn note_write(&self, e: &L2Entry, kind: AccessKind) -> bool {
        let Some((block, offset)) = self.ram_of(e) else { return false };
        let dirty = block.dirty();
        if dirty.is_dirty(offset >> 12) {
            return true;
        }
        if kind == AccessKind::Write {
            dirty.mark(offset, 1);
        }
        kind == AccessKind::Write
    }

    fn check_alignment(
        &self,
        cpu: &mut dyn JitCpu,
        va: u64,
        desc: MemDesc,
        kind: AccessKind,
    ) -> Result<(), MemFault> {
        let size = u64::from(desc.bytes());
        let bad = (desc.is_aligned() && va & (size - 1) != 0)
            || (desc.is_within16() && (va & 15) + size > 16);
        if bad { Err(cpu.alignment_fault(va, kind)) } else { Ok(()) }
    }

    fn checked(
        &mut self,
        cpu: &mut dyn JitCpu,
        va: u64,
        desc: MemDesc,
        kind: AccessKind,
    ) -> Result<L2Entry, MemFault> {
        let e = self.fill(cpu, va, kind, desc.mmu())?;
        if e.flags & flag::STRICT != 0 && va & (u64::from(desc.bytes()) - 1) != 0 {
            return Err(cpu.alignment_fault(va, kind));
        }
        if e.flags & flag::WATCHED != 0 {
            self.check_watch(cpu, va, u64::from(desc.bytes()), kind)?;
        }
        Ok(e)
    }

    fn attrs(&self, e: &L2Entry) -> TxAttrs {
        let secure = e.flags & flag::SECURE != 0;
        TxAttrs { requester: self.index, secure, ..TxAttrs::default() }
    }

    fn mmio_read(
        &mut self,
        cpu: &mut dyn JitCpu,
        e: &L2Entry,
        va: u64,
        bytes: u32,
    ) -> Result<u128, MemFault> {
        let pa = e.pa | va & 0xfff;
        self.follow_view(cpu);
        let view = Arc::clone(self.view_of(e.flags & flag::SECURE != 0));
        let attrs = self.attrs(e);
        let fault = |cpu: &mut dyn JitCpu| cpu.bus_fault(va, pa, AccessKind::Read);
        let mut v = 0u128;
        let step = bytes.min(8);
        for n in 0..bytes / step {
            let size = Size::from_bytes(u64::from(step)).ok_or_else(|| fault(cpu))?;
            let at = pa + u64::from(n * step);
            let read = || view.read(at, size, attrs);
            let word = host::cpu::keep_fp_state(read).map_err(|_| fault(cpu))?;
            v |= u128::from(word) << (64 * n);
        }
        Ok(v)
    }

    fn mmio_write(
        &mut self,
        cpu: &mut dyn JitCpu,
        e: &L2Entry,
        va: u64,
        bytes: u32,
        v: u128,
    ) -> Result<(), MemFault> {
        let pa = e.pa | va & 0xfff;
        self.follow_view(cpu);
        let view = Arc::clone(self.view_of(e.flags & flag::SECURE != 0));
        let attrs = self.attrs(e);
        let fault = |cpu: &mut dyn JitCpu| cpu.bus_fault(va, pa, AccessKind::Write);
        let step = bytes.min(8);
        for n in 0..bytes / step {
            let size = Size::from_bytes(u64::from(step)).ok_or_else(|| fault(cpu))?;
            let at = pa + u64::from(n * step);
            let word = (v >> (64 * n)) as u64 & size.mask();
            let write = || view.write(at, size, word, attrs);
            host::cpu::keep_fp_state(write).map_err(|_| fault(cpu))?;
        }
        // The write may have changed the memory map; the next instruction sees the new one.
        self.follow_view(cpu);
        Ok(())
    }

    fn crosses(va: u64, bytes: u32) -> bool {
        (va & 0xfff) + u64::from(bytes) > 4096
    }

    /// See [`jit_ir::Services::load`].
    pub(crate) fn do_load(
        &mut self,
        cpu: &mut dyn JitCpu,
        va: u64,
        desc: MemDesc,
    ) -> Result<u128, MemFault> {
        let bytes = desc.bytes();
        self.check_alignment(cpu, va, desc, AccessKind::Read)?;
        let v = if Self::crosses(va, bytes) {
            self.load_split(cpu, va, desc)?
        } else {
            let e = self.checked(cpu, va, desc, AccessKind::Read)?;
            if e.host == 0 {
                self.mmio_read(cpu, &e, va, bytes)?
            } else {
                // SAFETY: inside the RAM page of `e`, which the current view maps.
                unsafe { read_ram((e.host + (va & 0xfff)) as *const u8, bytes) }
            }
        };
        let v = if desc.is_big_endian() { swap(bytes, v) } else { v };
        Ok(extend(desc, v))
    }

    fn load_split(
        &mut self,
        cpu: &mut dyn JitCpu,
        va: u64,
        desc: MemDesc,
    ) -> Result<u128, MemFault> {
        self.checked(cpu, va, desc, AccessKind::Read)?;
        let second = (va | 0xfff).wrapping_add(1);
        self.fill(cpu, second, AccessKind::Read, desc.mmu())?;
        let byte = MemDesc::new(0, desc.mmu());
        let mut v = 0;
        for n in 0..desc.bytes() {
            v |= self.do_load(cpu, va.wrapping_add(u64::from(n)), byte)? << (8 * n);
        }
        Ok(v)
    }

    /// RAM was written, after the walk for a write: code that was made from it goes.
    fn wrote(&mut self, cpu: &mut dyn JitCpu, e: &L2Entry, va: u64, len: u64) {
        // The bytes before the look at the bit: a translation in progress elsewhere sees either.
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.engine.code_pages.contains(e.host) {
            let engine = Arc::clone(&self.engine);
            let empty = engine.code_written(e.host | va & 0xfff, len, Some(&self.peer));
            Self::clear_ring(cpu);
            if empty {
                // Later writes may be inline again.
                for slot in self.l1.slots(va) {
                    if slot.page.load(Ordering::Relaxed) == e.host {
                        slot.clear();
                    }
                }
            }
        }
    }

    /// Guest code in a range of one page is said to have changed: what was made from it goes even if no
    /// write was noticed (a write that another CPU had begun before the page was protected).
    pub(crate) fn code_line_changed(&mut self, cpu: &mut dyn JitCpu, va: u64, len: u64) {
        let mmu = cpu.code_mode(0).mmu;
        let tag = self.tags[usize::from(mmu & 15)];
        let Some(e) = self.l2.probe(va, mmu, tag).filter(|e| e.host != 0) else { return };
        if self.engine.code_pages.contains(e.host) {
            self.wrote(cpu, &e, va & !(len - 1), len);
        }
    }

    /// See [`jit_ir::Services::store`].
    pub(crate) fn do_store(
        &mut self,
        cpu: &mut dyn JitCpu,
        va: u64,
        value: u128,
        desc: MemDesc,
    ) -> Result<(), MemFault> {
        if desc.is_clear64() {
            let fault = |f| MemFault { va, ..f };
            return self.do_zero(cpu, va & !63, 64, desc.mmu()).map_err(fault);
        }
        let bytes = desc.bytes();
        self.check_alignment(cpu, va, desc, AccessKind::Write)?;
        let v = value & mask_of(bytes);
        let v = if desc.is_big_endian() { swap(bytes, v) } else { v };
        if Self::crosses(va, bytes) {
            self.checked(cpu, va, desc, AccessKind::Write)?;
            let second = (va | 0xfff).wrapping_add(1);
            self.fill(cpu, second, AccessKind::Write, desc.mmu())?;
            let byte = MemDesc::new(0, desc.mmu());
            for n in 0..bytes {
                self.do_store(cpu, va.wrapping_add(u64::from(n)), v >> (8 * n), byte)?;
            }
            return Ok(());
        }
        let e = self.checked(cpu, va, desc, AccessKind::Write)?;
        if e.host == 0 {
            return self.mmio_write(cpu, &e, va, bytes, v);
        }
        if e.flags & flag::ROM != 0 {
            // Ignored, or it goes to a ROM device.
            return self.mmio_write(cpu, &e, va, bytes, v);
        }
        // SAFETY: inside the writable RAM page of `e`.
        unsafe { write_ram((e.host + (va & 0xfff)) as *mut u8, bytes, v) };
        self.wrote(cpu, &e, va, u64::from(bytes));
        if desc.is_release() {
            std::sync::atomic::fence(Ordering::SeqCst);
        }
        Ok(())
    }

    /// See [`jit_ir::Services::rmw`].
    pub(crate) fn do_rmw(
        &mut self,
        cpu: &mut dyn JitCpu,
        va: u64,
        desc: MemDesc,
        f: &mut dyn FnMut(u128) -> Option<u128>,
    ) -> Result<u128, MemFault> {
        let bytes = desc.bytes();
        // As observed of QEMU: what must be naturally aligned reports the misalignment of its load,
        // what must only stay in 16 bytes (FEAT_LSE2, but for pairs of 16) that of a store.
        let as_load = bytes == 16 || desc.is_aligned();
        let first = if as_load { AccessKind::Read } else { AccessKind::Write };
        self.check_alignment(cpu, va, desc, first)?;
        if (va & 15) + u64::from(bytes) > 16 {
            return Err(cpu.alignment_fault(va, first));
        }
        // Both permissions are needed; the write decides what is reported.
        self.checked(cpu, va, desc, AccessKind::Read)?;
        let e = self.checked(cpu, va, desc, AccessKind::Write)?;
        let order = |v: u128| if desc.is_big_endian() { swap(bytes, v) } else { v };
        if e.host == 0 || e.flags & flag::ROM != 0 {
            let plain = MemDesc::new(desc.log2(), desc.mmu());
            let old = self.do_load(cpu, va, plain)?;
            if let Some(new) = f(order(old)) {
                self.do_store(cpu, va, order(new & mask_of(bytes)), plain)?;
            }
            return Ok(order(old));
        }
        let at = (e.host + (va & 0xfff)) as *mut u8;
        loop {
            // SAFETY: inside the writable RAM page of `e`, and not across a 16-byte granule.
            let old = unsafe { read_ram(at, bytes) };
            let Some(new) = f(order(old)) else { return Ok(order(old)) };
            // SAFETY: likewise.
            let seen = unsafe { cas_ram(at, bytes, old, order(new & mask_of(bytes))) };
            if seen == old {
                self.wrote(cpu, &e, va, u64::from(bytes));
                return Ok(order(old));
            }
        }
    }

    /// See [`jit_ir::Services::zero`].
    pub(crate) fn do_zero(
        &mut self,
        cpu: &mut dyn JitCpu,
        va: u64,
        len: u64,
        mmu: u8,
    ) -> Result<(), MemFault> {
        let slot = self.l1.slot(mmu, va);
        if slot.write.load(Ordering::Relaxed) == va & !0xfff && (va & 0xfff) + len <= 4096 {
            let at = va.wrapping_add(slot.addend.load(Ordering::Relaxed)) as *mut u8;
            // SAFETY: inside a page that generated code may write to in the same way.
            unsafe { std::ptr::write_bytes(at, 0, len as usize) };
            return Ok(());
        }
        let e = self.fill(cpu, va, AccessKind::Write, mmu)?;
        if e.flags & flag::STRICT != 0 {
            return Err(cpu.alignment_fault(va, AccessKind::Write));
        }
        if e.flags & flag::WATCHED != 0 {
            self.check_watch(cpu, va, len, AccessKind::Write)?;
        }
        if e.host == 0 {
            for n in 0..len / 8 {
                self.do_store(cpu, va.wrapping_add(8 * n), 0, MemDesc::new(3, mmu))?;
            }
            return Ok(());
        }
        if e.flags & flag::ROM == 0 && (va & 0xfff) + len <= 4096 {
            // SAFETY: inside the writable RAM page of `e`.
            unsafe { std::ptr::write_bytes((e.host + (va & 0xfff)) as *mut u8, 0, len as usize) };
            self.wrote(cpu, &e, va, len);
        }
        Ok(())
    }
    /// Copies guest memory by virtual address for a debugger: no stops, no MMIO. False: not mapped.
    pub(crate) fn peek(&mut self, cpu: &mut dyn JitCpu, va: u64, bytes: &mut [u8]) -> bool {
        let mmu = cpu.code_mode(0).mmu;
        for (n, b) in bytes.iter_mut().enumerate() {
            let at = va.wrapping_add(n as u64);
            let Ok(e) = self.inspect(cpu, at, mmu) else { return false };
            // SAFETY: inside the RAM page of `e`, which the current view maps.
            *b = unsafe { read_ram((e.host + (at & 0xfff)) as *const u8, 1) } as u8;
        }
        true
    }

    /// Writes guest memory likewise, read-only pages of the guest included.
    pub(crate) fn poke(&mut self, cpu: &mut dyn JitCpu, va: u64, bytes: &[u8]) -> bool {
        let mmu = cpu.code_mode(0).mmu;
        for (n, b) in bytes.iter().enumerate() {
            let at = va.wrapping_add(n as u64);
            let Ok(e) = self.inspect(cpu, at, mmu) else { return false };
            if e.flags & flag::ROM != 0 {
                return false;
            }
            // SAFETY: inside the writable RAM page of `e`.
            unsafe { write_ram((e.host + (at & 0xfff)) as *mut u8, 1, u128::from(*b)) };
            self.note_write(&e, AccessKind::Write);
            self.wrote(cpu, &e, at, 1);
        }
        true
    }

    /// The RAM page of an address, by a walk that leaves no trace in the TLBs.
    fn inspect(&mut self, cpu: &mut dyn JitCpu, va: u64, mmu: u8) -> Result<L2Entry, ()> {
        let tag = self.tags[usize::from(mmu & 15)];
        let e = match self.l2.probe(va, mmu, tag) {
            Some(e) => e,
            None => {
                let (view, secure) = self.views();
                let kinds = [AccessKind::Read, AccessKind::Exec];
                let mut mem = Phys { plain: &view, secure: &secure, ram: &mut self.ram };
                let walk = |k| cpu.translate(va, k, mmu, &mut mem).ok();
                let m = kinds.into_iter().find_map(walk).ok_or(())?;
                let pa = m.pa & !0xfff;
                let ram = mem.at(pa, m.secure).filter(|r| r.len >= 4096).ok_or(())?;
                let flags = if ram.readonly { flag::ROM } else { 0 };
                L2Entry {
                    block: ram.block,
                    page: va & !0xfff,
                    pa,
                    host: ram.host,
                    flags,
                    ..L2Entry::default()
                }
            }
        };
        if e.host == 0 { Err(()) } else { Ok(e) }
    }
}
