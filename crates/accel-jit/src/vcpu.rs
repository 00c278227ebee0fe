//! One vCPU: run loop, code look-up, translation.
//!
//! UNSAFE: enters generated code; hands its own address to the engine functions that generated code
//! calls back (`calls`). The CPU object and the core are separate heap allocations that both live as
//! long as the vCPU, and only the vCPU's thread touches them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use accel::{Exit, Kicker, Vcpu};
use jit_ir::backend::BlockCx;
use jit_ir::cpu::TlbTag;
use jit_ir::env::{LoopPage, MERGED, MMUS, PAGES, RING, RingEntry};
use jit_ir::helper::StateMem;
use jit_ir::opt::{self, Liveness};
use jit_ir::{AccessKind, Builder, JitCpu, MemFault, Services, TranslateCx, Wake};
use memory::{AddressSpace, FlatView};

use crate::cache::{PageCode, RamPage};
use crate::codetlb::{CodeSpace, CodeTlbs};
use crate::debug::Stops;
use crate::engine::Engine;
use crate::exclusive::{Message, Peer};
use crate::icount;
use crate::interp::InterpMachine;
use crate::l1::L1;
use crate::log;
use crate::ram::Ram;
use crate::services::OwnedPhys;
use crate::tlb::{Forget, L2, flag};
use crate::tlb_check::TlbCheck;
use crate::verify::{Log, Verify};

/// Bytes of a page, from a block's start, that the translator sees.
const WINDOW: usize = 512;

/// The engine's side of a vCPU.
pub(crate) struct Core {
    pub(crate) engine: Arc<Engine>,
    pub(crate) peer: Arc<Peer>,
    pub(crate) l1: L1,
    pub(crate) l2: L2,
    /// The view that the translations were made with; it holds the RAM that the TLBs point to.
    pub(crate) view: Arc<FlatView>,
    /// The secure world's, where that differs.
    pub(crate) secure_view: Option<Arc<FlatView>>,
    /// The views' RAM, whose blocks entries of the second level name.
    pub(crate) ram: Ram,
    pub(crate) tags: [TlbTag; MMUS],
    pub(crate) code_tlbs: CodeTlbs,
    /// What the code TLB in use is for.
    space: CodeSpace,
    builder: Builder,
    live: Liveness,
    /// Copy of the page being translated, from the block's start on.
    page_bytes: Box<[u8; 4096]>,
    pub(crate) vals: Vec<u128>,
    /// Translations are void (other threads' messages, memory map): look-ups leave first.
    pub(crate) must_leave: bool,
    /// Broadcast maintenance was sent since the last `sync`.
    pub(crate) unsynced: bool,
    pub(crate) walker: OwnedPhys,
    /// Number of the CPU, which devices see as the requester (banked GICv2 registers).
    pub(crate) index: u16,
    /// Debug events.
    pub(crate) stops: Stops,
    /// The block that runs is logged.
    pub(crate) log: Option<Log>,
    /// Generated code and interpreter differ: the report.
    pub(crate) wrong: Option<String>,
    /// The TLBs are looked at now and then.
    pub(crate) check: Option<Box<TlbCheck>>,
}

/// A vCPU.
pub struct JitVcpu {
    pub(crate) cpu: Box<dyn JitCpu>,
    pub(crate) core: Box<Core>,
}

impl Core {
    fn new(engine: &Arc<Engine>, l1: L1, peer: Arc<Peer>) -> Self {
        Self {
            builder: Builder::new(
                engine.translator.layout(),
                engine.translator.helpers(),
                engine.options.passes,
            ),
            view: engine.memory.view(),
            secure_view: engine.secure_memory.as_ref().map(AddressSpace::view),
            ram: Ram::default(),
            engine: Arc::clone(engine),
            peer,
            l1,
            l2: L2::new(),
            tags: [TlbTag::default(); MMUS],
            code_tlbs: CodeTlbs::new(),
            space: CodeSpace::default(),
            live: Liveness::default(),
            page_bytes: Box::new([0; 4096]),
            vals: Vec::new(),
            must_leave: false,
            unsynced: false,
            walker: {
                let plain = engine.memory.view();
                let secure =
                    engine.secure_memory.as_ref().map_or_else(|| plain.clone(), AddressSpace::view);
                OwnedPhys(plain, secure, Ram::default())
            },
            index: 0,
            stops: Stops::default(),
            log: None,
            wrong: None,
            check: TlbCheck::new(engine.options.check_tlb),
        }
    }

    /// The view of a world that the translations were made with. The secure one holds all that the other
    /// one does.
    pub(crate) fn view_of(&self, secure: bool) -> &Arc<FlatView> {
        match &self.secure_view {
            Some(view) if secure => view,
            _ => &self.view,
        }
    }

    /// Forgets what generated code remembers of pages and code beside its TLBs.
    pub(crate) fn clear_ring(cpu: &mut dyn JitCpu) {
        Self::clear_context(cpu);
        cpu.env().forget_jumps();
    }

    /// The part of that which another mode or address space must not find.
    pub(crate) fn clear_context(cpu: &mut dyn JitCpu) {
        Self::clear_pages(cpu);
        cpu.env().ring = [RingEntry { va: u64::MAX, host: 0 }; RING];
    }

    /// The part of that which is of pages with data.
    pub(crate) fn clear_pages(cpu: &mut dyn JitCpu) {
        cpu.env().merged = [0; MERGED];
        cpu.env().pages = [LoopPage::EMPTY; PAGES];
    }

    pub(crate) fn clear_code_tlb(&mut self) {
        self.code_tlbs.forget(Forget::ALL);
    }

    /// Forgets every translation.
    pub(crate) fn flush_all(&mut self, cpu: &mut dyn JitCpu) {
        self.l1.forget(Forget::ALL);
        self.l2.clear();
        self.clear_code_tlb();
        Self::clear_ring(cpu);
        self.note_flush(&jit_ir::TlbFlush { regimes: u32::MAX, ..Default::default() });
    }

    /// Forgets every translation if the memory map changed since the last time.
    pub(crate) fn follow_view(&mut self, cpu: &mut dyn JitCpu) {
        let engine = &self.engine;
        let stale = |space: &AddressSpace, view: &Arc<FlatView>| {
            (space.generation() != view.generation()).then(|| space.view())
        };
        let plain = stale(&engine.memory, &self.view);
        let secure = match (&engine.secure_memory, &self.secure_view) {
            (Some(space), Some(view)) => stale(space, view),
            _ => None,
        };
        if plain.is_none() && secure.is_none() {
            return;
        }
        // The old views go last: they hold what the TLBs point to.
        self.flush_all(cpu);
        self.ram = Ram::default();
        if let Some(view) = plain {
            self.view = view;
        }
        if secure.is_some() {
            self.secure_view = secure;
        }
        let (plain, secure) = self.views();
        self.walker = OwnedPhys(plain, secure, Ram::default());
    }

    pub(crate) fn handle_messages(&mut self, cpu: &mut dyn JitCpu) {
        if self.peer.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let messages = {
            let mut inbox = self.peer.inbox.lock();
            std::mem::take(&mut *inbox)
        };
        for m in messages {
            match m {
                Message::Flush(what) => self.flush_local(cpu, &what),
                Message::CodeChanged => Self::clear_ring(cpu),
                Message::CodeGone => {
                    self.clear_code_tlb();
                    Self::clear_ring(cpu);
                }
                Message::PointsChanged => self.reload_stops(cpu),
            }
        }
        let inbox = self.peer.inbox.lock();
        self.peer.waiting.store(inbox.len(), Ordering::SeqCst);
        drop(inbox);
        self.peer.done();
    }

    /// Brings the code TLB in line with the CPU's mode.
    #[inline(always)] // twice in the code, one of them hot
    pub(crate) fn update_mode(&mut self, cpu: &mut dyn JitCpu) {
        let mode = cpu.code_mode(0);
        let tag = cpu.tlb_tag(mode.mmu);
        if tag != self.tags[usize::from(mode.mmu & 15)] {
            // A reset changes the registers behind the tags without a helper's notice.
            self.context_changed(cpu, u16::MAX);
        }
        self.enter_space(cpu, CodeSpace { mode: mode.key, mmu: mode.mmu, tag });
    }

    #[inline]
    fn enter_space(&mut self, cpu: &mut dyn JitCpu, space: CodeSpace) {
        if self.space == space {
            return;
        }
        self.space = space;
        self.code_tlbs.enter(&space, cpu.env());
        Self::clear_context(cpu);
    }

    /// The page object of the page that holds `pc`.
    #[inline(always)] // twice in the code, one of them hot
    pub(crate) fn code_page(
        &mut self,
        cpu: &mut dyn JitCpu,
        pc: u64,
    ) -> Result<Arc<PageCode>, MemFault> {
        if let Some(page) = self.code_tlbs.page(pc) {
            return Ok(Arc::clone(page));
        }
        let e = self.fill(cpu, pc, AccessKind::Exec, self.space.mmu)?;
        if e.host == 0 {
            return Err(cpu.bus_fault(pc, e.pa, AccessKind::Exec));
        }
        let key = if e.code_attr == 0 { self.space.mode } else { cpu.code_mode(e.code_attr).key };
        let key = key | self.stops.of_page(pc).0;
        let engine = Arc::clone(&self.engine);
        let (block, offset) =
            self.ram_of(&e).ok_or_else(|| cpu.bus_fault(pc, e.pa, AccessKind::Exec))?;
        let ram = RamPage { host: e.host, block: Arc::downgrade(block), offset };
        let page = engine.cache.lock().page(&ram, key);
        if self.code_tlbs.runs_on(pc) {
            Self::clear_ring(cpu);
        }
        if !log::wants_every_block() {
            let global = e.flags & flag::GLOBAL != 0;
            self.code_tlbs.put(pc, &page, &self.space, global);
        }
        Ok(page)
    }

    /// The entry for the PC if code TLB and page table have it.
    fn quick(&self, pc: u64) -> Option<u32> {
        let entry = self.code_tlbs.page(pc)?.entry(pc & 0xfff).load(Ordering::Acquire);
        (entry != 0 && pc & 3 == 0).then_some(entry)
    }

    /// The entry for the PC in `env` (offset from the code base, or interpreter block + 1), translating
    /// if need be; `None`: leave to the run loop.
    pub(crate) fn find(&mut self, cpu: &mut dyn JitCpu) -> Option<(Arc<PageCode>, u32)> {
        let pc = cpu.env().pc();
        cpu.env().set_pc(pc);
        if pc & 3 != 0 {
            cpu.env().kick();
            return None;
        }
        let at_stop = self.stops.at_stop(pc);
        if at_stop && self.stopped_at(cpu, pc) {
            return None;
        }
        let page = match self.code_page(cpu, pc) {
            Ok(p) => p,
            Err(fault) => {
                cpu.raise(fault);
                return None;
            }
        };
        if at_stop {
            return self.single(&page, pc);
        }
        let entry = page.entry(pc & 0xfff).load(Ordering::Acquire);
        if entry != 0 {
            return Some((page, entry));
        }
        let max_insns = self.engine.options.max_insns;
        let stops = self.stops.of_page(pc).1;
        let entry = self.translate(&page, pc, max_insns, &stops)?;
        Some((page, entry))
    }

    pub(crate) fn translate(
        &mut self,
        page: &Arc<PageCode>,
        pc: u64,
        max_insns: u32,
        stops: &[u32],
    ) -> Option<u32> {
        let start = (pc & 0xfff) as u32;
        let engine = Arc::clone(&self.engine);
        let began = host::monotonic_ns();
        let mut cache = engine.cache.lock();
        let known = page.entry(u64::from(start)).load(Ordering::Acquire);
        if known != 0 {
            return Some(known);
        }
        if cache.is_over() {
            self.must_leave = true;
            return None;
        }
        if !page.has_blocks() {
            engine.protect_code(&page.ram, &self.peer);
        }
        // Blocks never go back, and seldom far.
        let end = (start as usize + WINDOW).min(4096);
        let window = self.page_bytes.get_mut(start as usize & !7..end)?;
        page.ram.block.upgrade()?.read(page.ram.offset + u64::from(start & !7), window).ok()?;
        let bytes = &self.page_bytes[..end];
        self.builder.begin(start);
        let b = &mut self.builder;
        let count = engine.icount.is_some();
        let loops = !count && stops.is_empty() && max_insns > 1 && !log::wants_every_block();
        let mut cx = TranslateCx { b, key: page.key, page: bytes, start, max_insns, count, stops };
        engine.translator.translate(&mut cx);
        let layout = engine.translator.layout();
        let helpers = engine.translator.helpers();
        #[cfg(debug_assertions)]
        if let Err(e) = jit_ir::verify::verify(self.builder.block(), layout, helpers) {
            panic!("{e}\n{}", jit_ir::text::print(self.builder.block()));
        }
        engine.log_guest(bytes, pc, self.builder.block());
        let block = self.builder.block();
        let mut size = 0;
        let entry = match &engine.native {
            None => cache.add_block(block),
            Some(native) => {
                opt::run(block, layout, helpers, engine.options.passes, &mut self.live);
                let cost = engine.verify.as_ref().map_or(0, Verify::cost);
                let cx = BlockCx {
                    count: if count { block.insns } else { cost },
                    log: false,
                    loops,
                    block,
                    live: &self.live,
                    layout,
                    helpers: engine.counted.as_deref().unwrap_or(helpers),
                    passes: engine.options.passes,
                    runtime: &native.runtime,
                };
                let emitted = cache.emit(|out| {
                    native.backend.emit_block(&cx, out)?;
                    Ok(out.written().len())
                });
                match emitted {
                    Ok((at, len)) => {
                        size = len;
                        let code = cache.code(at, len);
                        if let Some(perf) = &engine.perf {
                            perf.block(pc, native.code_base + u64::from(at), code);
                        }
                        engine.log_host(
                            pc,
                            block,
                            &self.live,
                            native.code_base + u64::from(at),
                            code,
                        );
                        at
                    }
                    Err(_) => {
                        self.must_leave = true;
                        return None;
                    }
                }
            }
        };
        cache.publish(page, block, entry, size);
        cache.stats.translate_ns += host::monotonic_ns() - began;
        Some(entry)
    }

    /// The mode key of the code in use.
    pub(crate) fn mode_key(&self) -> u64 {
        self.space.mode
    }

    /// Host address for generated code to go on at, 0 = leave. Patches the exit that asked.
    pub(crate) fn lookup(&mut self, cpu: &mut dyn JitCpu) -> u64 {
        let site = std::mem::take(&mut cpu.env().patch_site);
        self.peer.count(&self.peer.lookups);
        let stay = !self.must_leave && !self.stops.single && self.log.is_none();
        if cpu.env().request.load(Ordering::Acquire) < 0 || !stay {
            return 0;
        }
        self.check_lookup(cpu);
        let entry = match self.quick(cpu.env().pc()) {
            Some(entry) => {
                self.peer.count(&self.peer.hits);
                entry
            }
            None => match self.find(cpu) {
                Some((_, entry)) => entry,
                None => return 0,
            },
        };
        let pc = cpu.env().pc();
        cpu.env().set_pc(pc);
        let engine = Arc::clone(&self.engine);
        let Some(native) = &engine.native else { return 0 };
        let target = native.code_base + u64::from(entry);
        self.log_run(cpu, entry);
        if site != 0
            && !trace::enabled(trace::Mask::NOCHAIN)
            && !self.stops.single
            && self.engine.options.passes.contains(opt::Passes::CHAIN)
        {
            let word = native.backend.patch(site, target);
            engine.cache.lock().patch(site, word);
        }
        target
    }
}

impl Core {
    /// Host address to go on at after a helper took an exception, returned from one or changed the mode;
    /// 0 = the run loop has something to do. Instruction counting is settled there.
    pub(crate) fn resume(&mut self, cpu: &mut dyn JitCpu) -> u64 {
        let env = cpu.env();
        env.helper_exit = 0;
        if env.request.load(Ordering::Acquire) < 0
            || self.must_leave
            || self.stops.single
            || self.log.is_some()
            || env.budget_short != 0
            || self.stops.pending
            || self.engine.icount.is_some()
            || !cpu.goes_on()
        {
            return 0;
        }
        self.update_mode(cpu);
        let pc = cpu.env().pc();
        cpu.env().set_pc(pc);
        let entry = match self.quick(pc) {
            Some(entry) => entry,
            None => match self.find(cpu) {
                Some((_, entry)) => entry,
                None => return 0,
            },
        };
        self.log_run(cpu, entry);
        self.engine.native.as_ref().map_or(0, |n| n.code_base + u64::from(entry))
    }
}

impl JitVcpu {
    pub(crate) fn new(engine: &Arc<Engine>, mut cpu: Box<dyn JitCpu>) -> Self {
        let l1 = L1::new();
        let peer = Peer::new(l1.shared());
        let mut core = Box::new(Core::new(engine, l1, Arc::clone(&peer)));
        let env = cpu.env();
        for mmu in 0..MMUS {
            env.tlb[mmu] = core.l1.place(mmu as u8);
        }
        (env.code_tlb, env.code_slot) = core.code_tlbs.place();
        env.code_base = engine.native.as_ref().map_or(0, |n| n.code_base);
        peer.set_request(&raw mut env.request);
        let mut peers = engine.peers.lock();
        core.index = u16::try_from(peers.len()).unwrap_or(u16::MAX);
        peers.push(peer);
        drop(peers);
        for mmu in 0..MMUS as u8 {
            core.tags[usize::from(mmu)] = cpu.tlb_tag(mmu);
        }
        Self { cpu, core }
    }

    fn outside(&mut self) {
        if self.core.must_leave {
            self.core.must_leave = false;
            self.flush_code();
        }
        let cpu = &mut *self.cpu;
        self.core.handle_messages(cpu);
        self.core.follow_view(cpu);
    }

    /// The code area is full: makes room while nobody runs generated code.
    fn flush_code(&mut self) {
        let engine = Arc::clone(&self.core.engine);
        let peers = engine.peers.lock().clone();
        engine.world.exclusive(&peers, || {
            engine.cache.lock().evict(&engine.code_pages);
            for p in &peers {
                p.post(Message::CodeGone);
            }
        });
    }

    /// Runs guest code from the PC until something leaves.
    fn execute(&mut self, native: bool) {
        let pc = self.cpu.env().pc();
        self.cpu.env().set_pc(pc);
        if native && self.verified(pc) {
            return;
        }
        if native && let Some(entry) = self.core.quick(pc) {
            self.core.log_run(&mut *self.cpu, entry);
            self.run_native(entry);
        } else if let Some((page, entry)) = self.core.find(&mut *self.cpu) {
            self.run_entry(native, page, entry);
        }
        self.core.stops.single = false;
    }

    #[inline(always)] // twice in the code, one of them hot
    pub(crate) fn run_entry(&mut self, native: bool, page: Arc<PageCode>, entry: u32) {
        self.core.log_run(&mut *self.cpu, entry);
        if native {
            self.run_native(entry);
        } else {
            self.run_interpreted(page, entry);
        }
    }

    /// Reports what was hit, or executes the debugger's step.
    #[cold]
    fn debug_event(&mut self, native: bool) -> Exit {
        let stops = &mut self.core.stops;
        stops.pending = stops.step;
        match stops.hit.take() {
            Some(stop) => Exit::Debug(stop),
            None if stops.step => self.run_step(native),
            None => Exit::Interrupted,
        }
    }

    /// One instruction for the debugger.
    fn run_step(&mut self, native: bool) -> Exit {
        let engine = Arc::clone(&self.core.engine);
        self.cpu.env().helper_exit = 0;
        engine.world.enter(&self.core.peer);
        self.core.handle_messages(&mut *self.cpu);
        if let Some(icount) = &engine.icount {
            icount.grant_one(self.cpu.env());
        }
        self.step_once(native);
        self.cpu.env().helper_exit = 0;
        if let Some(icount) = &engine.icount {
            icount.settle(self.cpu.env());
        }
        engine.world.leave(&self.core.peer);
        self.outside();
        self.core.stops.hit = None;
        Exit::Debug(accel::DebugStop::Step)
    }

    pub(crate) fn run_native(&mut self, entry: u32) {
        let Some(native) = &self.core.engine.native else { return };
        let code = native.code_base + u64::from(entry);
        let enter = native.runtime.enter;
        let state = self.cpu.state_ptr();
        let core: *mut Core = &raw mut *self.core;
        let this: *mut Self = self;
        // SAFETY: `this` and `core` stay valid and are touched only through these pointers until
        // generated code returns.
        unsafe {
            (*this).cpu.env().engine = this as u64;
            (*this).cpu.env().set_services(core as *mut (dyn Services + 'static));
        }
        // SAFETY: `enter` is the thunk that the back end emitted with this signature, `code` an entry of
        // the same area, and the code area is not emptied while `in_code` is set.
        unsafe {
            let f: extern "C" fn(*mut u8, u64) = std::mem::transmute(enter as usize);
            f(state, code);
        }
    }

    fn run_interpreted(&mut self, page: Arc<PageCode>, entry: u32) {
        let engine = Arc::clone(&self.core.engine);
        let layout = engine.translator.layout();
        let helpers = engine.translator.helpers();
        let core: *mut Core = &raw mut *self.core;
        self.cpu.env().set_services(core as *mut (dyn Services + 'static));
        // SAFETY: the state struct lives in `self.cpu`; the interpreter holds no reference into it.
        let state = unsafe { StateMem::new(self.cpu.state_ptr(), layout.size as usize) };
        let mut vals = std::mem::take(&mut self.core.vals);
        let (mut page, mut entry) = (page, entry);
        loop {
            let block = engine.cache.lock().blocks.get(entry as usize - 1).cloned();
            let Some(block) = block else { break };
            if engine.icount.is_some() && !icount::take(self.cpu.env(), block.insns) {
                break;
            }
            let va = self.cpu.env().page;
            let mut m = InterpMachine { core: &mut self.core, cpu: &mut *self.cpu, helpers, state };
            match jit_interp::run(&block, state, layout, &mut m, va, &mut vals) {
                jit_interp::Next::Page(o) => self.cpu.env().offset = u64::from(o),
                jit_interp::Next::Va(va) => self.cpu.env().set_pc(va),
                jit_interp::Next::Runtime(o) => {
                    self.cpu.env().offset = u64::from(o);
                    break;
                }
                jit_interp::Next::RuntimePcSet => break,
            }
            if self.cpu.env().request.load(Ordering::Acquire) < 0 || self.core.stops.single {
                break;
            }
            match self.core.find(&mut *self.cpu) {
                Some(next) => {
                    (page, entry) = next;
                    self.core.log_run(&mut *self.cpu, entry);
                }
                None => break,
            }
        }
        drop(page);
        self.core.vals = vals;
    }
}

impl Vcpu for JitVcpu {
    fn run(&mut self) -> Exit {
        let engine = Arc::clone(&self.core.engine);
        let native = engine.native.is_some();
        loop {
            let kicked = self.cpu.env().request.swap(0, Ordering::AcqRel) < 0;
            self.outside();
            if self.core.stops.pending {
                return self.debug_event(native);
            }
            if let Some(icount) = &engine.icount {
                icount.fire();
            }
            if self.cpu.poll() == Wake::Halt {
                return Exit::Halted;
            }
            // Taking an interrupt in `poll` sets it; left on, the first helper of the handler would
            // be taken for one that left its block, and run twice (ICC_IAR reads have effects).
            self.cpu.env().helper_exit = 0;
            // Before guest code: the request is consumed, so a guest that loops would run on.
            if kicked {
                return Exit::Interrupted;
            }
            engine.world.enter(&self.core.peer);
            self.core.handle_messages(&mut *self.cpu);
            self.core.update_mode(&mut *self.cpu);
            if let Some(icount) = &engine.icount {
                icount.grant(self.cpu.env());
            }
            self.execute(native);
            self.cpu.env().helper_exit = 0;
            engine.world.leave(&self.core.peer);
            if let Some(report) = self.core.wrong.take() {
                engine.run.request(device::Request::Exit(1));
                return Exit::Fatal(report);
            }
            if let Some(icount) = &engine.icount
                && icount.settle(self.cpu.env())
            {
                return Exit::Interrupted;
            }
        }
    }

    fn kicker(&self) -> Arc<dyn Fn() + Send + Sync> {
        let peer = Arc::clone(&self.core.peer);
        Arc::new(move || peer.kick())
    }

    fn set_step(&mut self, step: bool) {
        self.core.stops.step = step;
        self.core.stops.pending = step || self.core.stops.hit.is_some();
    }

    fn cpu(&mut self) -> Option<&mut dyn JitCpu> {
        Some(&mut *self.cpu)
    }

    fn read_virtual(&mut self, va: u64, bytes: &mut [u8]) -> bool {
        self.core.peek(&mut *self.cpu, va, bytes)
    }

    fn write_virtual(&mut self, va: u64, bytes: &[u8]) -> bool {
        self.core.poke(&mut *self.cpu, va, bytes)
    }

    fn attach(&mut self, kicker: Kicker) {
        self.cpu.set_kick(Arc::new(move || kicker.kick()));
    }
}

impl Drop for JitVcpu {
    fn drop(&mut self) {
        self.core.peer.set_request(std::ptr::null_mut());
    }
}
