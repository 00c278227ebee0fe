//! Runs a block with the back end and with the interpreter on two copies of a small machine.

use std::mem::offset_of;

use host::DualMapping;
use jit_interp::{Machine, Next};
use jit_ir::backend::{BlockCx, CODE_TLB, CodeBuf, HostBackend, Runtime, RuntimeCalls, RuntimeCx};
use jit_ir::env::{CodeTlbEntry, LoopPage, TAG_INVALID, TlbEntry, TlbTable};
use jit_ir::helper::StateMem;
use jit_ir::opt::{self, Liveness, Passes};
use jit_ir::random::Rng;
use jit_ir::toy::{HELPERS, LAYOUT, ToyCpu};
use jit_ir::{
    Block, Exit, JitCpu, JitEnv, MemDesc, MemFault, PhysMem, RmwKind, Services, TlbFlush, eval,
};
use jit_x64::X64;

/// First VA of the guest's memory.
pub(crate) const MEMORY: u64 = 0x7_0000;
/// Its size.
pub(crate) const MEMORY_LEN: usize = 4 * 4096;
const TLB_ENTRIES: usize = 8;
/// Page of the code.
pub(crate) const PAGE: u64 = 0xffff_8000_1234_5000;

/// The machine around a CPU.
pub(crate) struct World {
    pub(crate) cpu: Box<ToyCpu>,
    pub(crate) memory: Vec<u8>,
    tlb: Vec<TlbEntry>,
    rng: Rng,
    fault_page: u64,
    /// Page and offset that were looked up, and the site to patch.
    pub(crate) looked_up: Option<(u64, u64, u64)>,
    /// Translated addresses for the look-up: VA and host address.
    pub(crate) blocks: Vec<(u64, u64)>,
    /// Number of look-ups.
    pub(crate) lookups: usize,
    /// Executable and writable address of the code, for patching; 0 = do not.
    pub(crate) area: (u64, u64),
    code_tlb: Vec<CodeTlbEntry>,
    /// Entry tables by page.
    entries: Vec<(u64, Box<[u32; 1024]>)>,
}

struct NoServices;

impl Services for NoServices {
    fn load(&mut self, _: &mut dyn JitCpu, _: u64, _: MemDesc) -> Result<u128, MemFault> {
        unreachable!()
    }
    fn store(&mut self, _: &mut dyn JitCpu, _: u64, _: u128, _: MemDesc) -> Result<(), MemFault> {
        unreachable!()
    }
    fn rmw(
        &mut self,
        _: &mut dyn JitCpu,
        _: u64,
        _: MemDesc,
        _: &mut dyn FnMut(u128) -> Option<u128>,
    ) -> Result<u128, MemFault> {
        unreachable!()
    }
    fn zero(&mut self, _: &mut dyn JitCpu, _: u64, _: u64, _: u8) -> Result<(), MemFault> {
        unreachable!()
    }
    fn phys(&mut self) -> &mut dyn PhysMem {
        unreachable!()
    }
    fn tlb_flush(&mut self, _: &mut dyn JitCpu, _: TlbFlush) {}
    fn sync(&mut self, _: &mut dyn JitCpu) {}
    fn context_changed(&mut self, _: &mut dyn JitCpu, _: u16) {}
}

static mut SERVICES: NoServices = NoServices;

fn mask(desc: MemDesc) -> u128 {
    if desc.log2() == 4 { u128::MAX } else { (1 << (8 * desc.bytes())) - 1 }
}

impl World {
    /// A machine with random content.
    pub(crate) fn new(seed: u64) -> Box<Self> {
        let mut rng = Rng::new(seed);
        let mut cpu = Box::new(ToyCpu::default());
        for r in &mut cpu.r {
            *r = rng.value();
        }
        for (n, v) in cpu.v.iter_mut().enumerate() {
            let [lo, hi] = match n % 3 {
                0 => [rng.value(), rng.value()],
                kind => rng.floats(kind == 1),
            };
            *v = u128::from(hi) << 64 | u128::from(lo);
        }
        // Bits without meaning are set at random.
        cpu.flags = rng.next() as u16;
        let memory = (0..MEMORY_LEN).map(|_| rng.next() as u8).collect();
        let fault_page =
            if rng.below(3) == 0 { MEMORY + 4096 * rng.below(4) as u64 } else { u64::MAX };
        let tlb = vec![TlbEntry::EMPTY; TLB_ENTRIES];
        let request = if rng.below(8) == 0 { -1 } else { 0 };
        let mut w = Box::new(Self {
            cpu,
            memory,
            tlb,
            rng,
            fault_page,
            looked_up: None,
            blocks: Vec::new(),
            lookups: 0,
            area: (0, 0),
            code_tlb: vec![CodeTlbEntry { tag: u64::MAX, entries: 0 }; CODE_TLB],
            entries: Vec::new(),
        });
        for n in 0..4 {
            if w.rng.below(2) == 0 {
                w.fill(MEMORY + n * 4096);
            }
        }
        let world = std::ptr::from_mut(&mut *w) as u64;
        let env = &mut w.cpu.env;
        env.engine = world;
        env.page = PAGE;
        env.tlb = [TlbTable { mask: (TLB_ENTRIES as u64 - 1) * 32, base: 0 }; 16];
        for t in &mut env.tlb {
            t.base = w.tlb.as_ptr() as u64;
        }
        // Nothing is taken from what an earlier block left.
        env.merged = [0x1234_5678_9abc; jit_ir::env::MERGED];
        let page = LoopPage { tag: MEMORY, limit: 4096, addend: 0x1234_5678_9abc };
        env.pages = [page; jit_ir::env::PAGES];
        env.request.store(request, std::sync::atomic::Ordering::Relaxed);
        env.code_tlb = w.code_tlb.as_ptr() as u64;
        env.code_slot = 0x104;
        env.set_services(&raw mut SERVICES as *mut (dyn Services + 'static));
        w
    }

    /// Puts translated code into the code TLB.
    pub(crate) fn map_code(&mut self, va: u64, host: u64) {
        let (page, base) = (va & !0xfff, self.area.0);
        if base == 0 {
            return;
        }
        let n = self.entries.iter().position(|e| e.0 == page).unwrap_or_else(|| {
            self.entries.push((page, Box::new([0; 1024])));
            self.entries.len() - 1
        });
        let table = &mut self.entries[n].1;
        table[(va & 0xfff) as usize / 4] = (host - base) as u32;
        let at = (va >> 12) as usize & (CODE_TLB - 1);
        self.code_tlb[at] = CodeTlbEntry { tag: page | 0x104, entries: table.as_ptr() as u64 };
        self.cpu.env.code_base = base;
    }

    /// Puts a page into the TLB, sometimes for one kind of access only.
    fn fill(&mut self, va: u64) {
        let page = va & !0xfff;
        if page == self.fault_page || page.wrapping_sub(MEMORY) >= MEMORY_LEN as u64 {
            return;
        }
        let host = self.memory.as_ptr() as u64 + (page - MEMORY);
        let kind = self.rng.below(4);
        let tag = |on: bool| if on { page } else { page | TAG_INVALID };
        self.tlb[(page >> 12) as usize % TLB_ENTRIES] = TlbEntry {
            read: tag(kind != 1),
            write: tag(kind != 2),
            addend: host.wrapping_sub(page),
            pa: 0,
        };
    }

    fn raise(&mut self, va: u64) {
        let c = &mut *self.cpu;
        c.faults = c.faults.wrapping_mul(31).wrapping_add(va);
        // An exception may change registers.
        c.r[2] ^= va;
        c.r[9] ^= va;
        c.env.helper_exit = 1;
    }

    fn check(&mut self, va: u64, desc: MemDesc) -> Option<usize> {
        let size = u64::from(desc.bytes());
        if self.rng.below(2) == 0 {
            self.fill(va);
        }
        let bad = desc.is_aligned() && va & (size - 1) != 0
            || desc.is_within16() && (va & 15) + size > 16;
        let at = va.wrapping_sub(MEMORY);
        let last = va.wrapping_add(size - 1);
        let faulting = va & !0xfff == self.fault_page || last & !0xfff == self.fault_page;
        if bad || faulting || at > (MEMORY_LEN as u64 - size) {
            self.raise(va);
            return None;
        }
        Some(at as usize)
    }

    fn read(&self, at: usize, desc: MemDesc) -> u128 {
        let n = desc.bytes() as usize;
        let mut b = [0; 16];
        b[..n].copy_from_slice(&self.memory[at..at + n]);
        if desc.is_big_endian() {
            b[..n].reverse();
        }
        u128::from_le_bytes(b)
    }

    fn write(&mut self, at: usize, desc: MemDesc, v: u128) {
        let n = desc.bytes() as usize;
        let mut b = v.to_le_bytes();
        if desc.is_big_endian() {
            b[..n].reverse();
        }
        self.memory[at..at + n].copy_from_slice(&b[..n]);
    }
}

impl World {
    fn do_load(&mut self, va: u64, desc: MemDesc) -> Option<u128> {
        let at = self.check(va, desc)?;
        let v = self.read(at, desc);
        if desc.is_signed() && desc.log2() < 3 {
            let unused = 64 - 8 * desc.bytes();
            return Some(u128::from((((v as u64) << unused) as i64 >> unused) as u64));
        }
        Some(v)
    }
    fn do_store(&mut self, va: u64, desc: MemDesc, value: u128) -> Option<()> {
        let at = self.check(va, desc)?;
        self.write(at, desc, value);
        Some(())
    }
    fn do_load_ex(&mut self, va: u64, desc: MemDesc) -> Option<u128> {
        let v = self.do_load(va, desc)?;
        self.cpu.env.excl_addr = va;
        self.cpu.env.excl_value = [v as u64, (v >> 64) as u64];
        Some(v)
    }
    fn do_store_ex(&mut self, va: u64, desc: MemDesc, value: u128) -> Option<u64> {
        let env = &mut self.cpu.env;
        let held = env.excl_addr == va;
        let expected = u128::from(env.excl_value[0]) | u128::from(env.excl_value[1]) << 64;
        env.clear_exclusive();
        if !held {
            return Some(1);
        }
        let old = self.do_cas(va, desc, expected, value)?;
        Some(u64::from(old != expected & mask(desc)))
    }
    fn granule(&mut self, va: u64, desc: MemDesc) -> Option<usize> {
        if (va & 15) + u64::from(desc.bytes()) > 16 {
            self.raise(va);
            return None;
        }
        self.check(va, desc)
    }
    fn do_rmw(&mut self, va: u64, desc: MemDesc, kind: RmwKind, value: u64) -> Option<u64> {
        let at = self.granule(va, desc)?;
        let old = self.read(at, desc) as u64;
        self.write(at, desc, u128::from(eval::rmw(kind, desc.bytes(), old, value)));
        Some(old)
    }
    fn do_cas(&mut self, va: u64, desc: MemDesc, expected: u128, new: u128) -> Option<u128> {
        let at = self.granule(va, desc)?;
        let old = self.read(at, desc);
        if old == expected & mask(desc) {
            self.write(at, desc, new);
        }
        Some(old)
    }
}

impl Machine for World {
    fn load(&mut self, va: u64, desc: MemDesc) -> Option<u128> {
        self.do_load(va, desc)
    }
    fn store(&mut self, va: u64, desc: MemDesc, value: u128) -> bool {
        self.do_store(va, desc, value).is_some()
    }
    fn load_ex(&mut self, va: u64, desc: MemDesc) -> Option<u128> {
        self.do_load_ex(va, desc)
    }
    fn store_ex(&mut self, va: u64, desc: MemDesc, value: u128) -> Option<u64> {
        self.do_store_ex(va, desc, value)
    }
    fn rmw(&mut self, va: u64, desc: MemDesc, kind: RmwKind, value: u64) -> Option<u64> {
        self.do_rmw(va, desc, kind, value)
    }
    fn cas(&mut self, va: u64, desc: MemDesc, expected: u128, new: u128) -> Option<u128> {
        self.do_cas(va, desc, expected, new)
    }
    fn helper(&mut self, index: u16, args: [u64; 4]) -> (u64, bool) {
        let state = self.cpu.state_ptr();
        // SAFETY: the state of this machine's CPU, with services set.
        let v = unsafe { HELPERS[usize::from(index)].call(state, args) };
        (v, std::mem::take(&mut self.cpu.env.helper_exit) != 0)
    }
    fn set_offset(&mut self, offset: u32) {
        self.cpu.env.offset = u64::from(offset);
    }
    fn clear_ex(&mut self) {
        self.cpu.env.clear_exclusive();
    }
}

fn wide(w: &World, at: usize) -> u128 {
    u128::from(w.cpu.env.wide[at]) | u128::from(w.cpu.env.wide[at + 1]) << 64
}

fn operand(w: &World, desc: MemDesc, v: u64, at: usize) -> u128 {
    if desc.log2() == 4 { wide(w, at) } else { u128::from(v) }
}

fn result(w: &mut World, desc: MemDesc, v: Option<u128>) -> u64 {
    let v = v.unwrap_or(0x5555);
    if desc.log2() == 4 {
        (w.cpu.env.wide[0], w.cpu.env.wide[1]) = (v as u64, (v >> 64) as u64);
    }
    v as u64
}

/// Overwrites what a function may overwrite.
fn scramble() {
    // SAFETY: declares what it changes.
    unsafe {
        std::arch::asm!(
            "mov rcx, -1", "mov rdx, -2", "mov rsi, -3", "mov rdi, -4", "mov r8, -5", "mov r9, -6",
            "mov r10, -7", "mov r11, -8", "pcmpeqd xmm0, xmm0", "movdqa xmm1, xmm0",
            "movdqa xmm2, xmm0", "movdqa xmm3, xmm0", "movdqa xmm4, xmm0", "movdqa xmm5, xmm0",
            "movdqa xmm6, xmm0", "movdqa xmm7, xmm0", "movdqa xmm8, xmm0", "movdqa xmm9, xmm0",
            out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _, out("r8") _, out("r9") _,
            out("r10") _, out("r11") _, out("xmm0") _, out("xmm1") _, out("xmm2") _,
            out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _,
        );
    }
}

extern "C" fn load(w: &mut World, va: u64, desc: u64) -> u64 {
    let desc = MemDesc(desc as u16);
    let v = w.do_load(va, desc);
    scramble();
    result(w, desc, v)
}
extern "C" fn store(w: &mut World, va: u64, desc: u64, value: u64) {
    let desc = MemDesc(desc as u16);
    let v = operand(w, desc, value, 0);
    w.do_store(va, desc, v);
    scramble();
}
extern "C" fn load_ex(w: &mut World, va: u64, desc: u64) -> u64 {
    let desc = MemDesc(desc as u16);
    let v = w.do_load_ex(va, desc);
    scramble();
    result(w, desc, v)
}
extern "C" fn store_ex(w: &mut World, va: u64, desc: u64, value: u64) -> u64 {
    let desc = MemDesc(desc as u16);
    let v = operand(w, desc, value, 0);
    let r = w.do_store_ex(va, desc, v).unwrap_or(0);
    scramble();
    r
}
extern "C" fn rmw(w: &mut World, va: u64, desc: u64, value: u64) -> u64 {
    let kind = RmwKind::ALL[(desc >> 16) as usize];
    let r = w.do_rmw(va, MemDesc(desc as u16), kind, value).unwrap_or(0);
    scramble();
    r
}
extern "C" fn cas(w: &mut World, va: u64, desc: u64, expected: u64, new: u64) -> u64 {
    let desc = MemDesc(desc as u16);
    let (e, n) = (operand(w, desc, expected, 0), operand(w, desc, new, 2));
    let v = w.do_cas(va, desc, e, n);
    scramble();
    result(w, desc, v)
}
extern "C" fn lookup(w: &mut World) -> u64 {
    let env = &w.cpu.env;
    let (page, offset, site) = (env.page, env.offset, env.patch_site);
    w.looked_up = Some((page, offset, site));
    w.lookups += 1;
    scramble();
    if env.request.load(std::sync::atomic::Ordering::Relaxed) < 0 {
        return 0;
    }
    let va = page.wrapping_add(offset);
    let Some((_, host)) = w.blocks.iter().find(|b| b.0 == va).copied() else { return 0 };
    w.cpu.env.set_pc(va);
    w.map_code(va, host);
    if site != 0 && w.area.1 != 0 {
        assert!(va & !0xfff == page, "a direct jump to another page");
        patch(site, host, w.area);
    }
    host
}

/// Stores a jump as the engine does.
fn patch(site: u64, target: u64, (rx, rw): (u64, u64)) {
    assert!(site.is_multiple_of(4), "site {site:#x} is not aligned");
    let word = jit_x64::BACKEND.patch(site, target);
    // SAFETY: a word of emitted code.
    unsafe { ((site - rx + rw) as *mut u32).write_volatile(word) };
}

/// A code area with the thunks of one configuration.
pub(crate) struct Code {
    pub(crate) backend: &'static X64,
    pub(crate) passes: Passes,
    /// Blocks may jump to themselves without a look-up.
    pub(crate) loops: bool,
    area: DualMapping,
    pub(crate) runtime: Runtime,
    pub(crate) used: usize,
    live: Liveness,
    /// Start and length of the last block.
    pub(crate) last: (usize, usize),
}

impl Code {
    pub(crate) fn new(backend: &'static X64, passes: Passes) -> Self {
        let area = DualMapping::new("jit-x64-test", 4 << 20).expect("code memory");
        let runtime = Runtime::default();
        let live = Liveness::default();
        let mut c =
            Self { backend, passes, loops: false, area, runtime, used: 0, live, last: (0, 0) };
        let calls = RuntimeCalls {
            load: load as *const () as u64,
            store: store as *const () as u64,
            load_ex: load_ex as *const () as u64,
            store_ex: store_ex as *const () as u64,
            rmw: rmw as *const () as u64,
            cas: cas as *const () as u64,
            lookup: lookup as *const () as u64,
            resume: 0,
        };
        let cx = RuntimeCx { layout: &LAYOUT, calls, passes };
        c.runtime = c.put(|out| backend.emit_runtime(&cx, out)).1;
        c
    }

    fn put<T>(
        &mut self,
        f: impl FnOnce(&mut CodeBuf<'_>) -> Result<T, jit_ir::backend::CodeFull>,
    ) -> (u64, T) {
        let at = self.used.next_multiple_of(16);
        // SAFETY: unused bytes of the area's writable view.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(self.area.rw().add(at), self.area.len() - at) };
        let base = self.area.rx() as u64 + at as u64;
        let mut out = CodeBuf::new(bytes, base);
        let r = f(&mut out).expect("room");
        self.used = at + out.len();
        self.last = (at, out.len());
        (base, r)
    }

    /// Emits a block; the address of its code.
    pub(crate) fn emit(&mut self, block: &Block) -> u64 {
        if self.used > 3 << 20 {
            self.used = 64 << 10;
        }
        let mut live = std::mem::take(&mut self.live);
        opt::run(block, &LAYOUT, HELPERS, self.passes, &mut live);
        let runtime = self.runtime.clone();
        let cx = BlockCx {
            count: 0,
            log: false,
            loops: self.loops,
            block,
            live: &live,
            layout: &LAYOUT,
            helpers: HELPERS,
            passes: self.passes,
            runtime: &runtime,
        };
        let backend = self.backend;
        let (at, ()) = self.put(|out| backend.emit_block(&cx, out));
        self.live = live;
        at
    }

    /// Disassembly of the block emitted last.
    pub(crate) fn listing(&self) -> String {
        let (at, len) = self.last;
        // SAFETY: bytes written by `put`.
        let bytes = unsafe { std::slice::from_raw_parts(self.area.rw().add(at), len) };
        self.backend.disassemble(bytes, self.area.rx() as u64 + at as u64)
    }

    /// Runs from `code`.
    pub(crate) fn enter(&self, w: &mut World, code: u64) {
        let state = w.cpu.state_ptr();
        // SAFETY: the entry thunk and a block of this area.
        unsafe {
            let f: extern "C" fn(*mut u8, u64) = std::mem::transmute(self.runtime.enter as usize);
            f(state, code);
        }
    }

    /// Executable and writable address of the area.
    pub(crate) fn area(&self) -> (u64, u64) {
        (self.area.rx() as u64, self.area.rw() as u64)
    }
}

/// Runs a block on the interpreter.
pub(crate) fn interpret(block: &Block, w: &mut World) -> Next {
    // SAFETY: the CPU outlives the run; nothing else refers into it meanwhile.
    let state = unsafe { StateMem::new(w.cpu.state_ptr(), LAYOUT.size as usize) };
    jit_interp::run(block, state, &LAYOUT, w, PAGE, &mut Vec::new())
}

fn compare_exit(next: Next, i: &World, n: &World) -> Result<(), String> {
    let env: &JitEnv = &n.cpu.env;
    let want = match next {
        Next::Page(o) => (true, PAGE.wrapping_add(u64::from(o))),
        Next::Va(va) => (true, va),
        Next::Runtime(o) => (false, PAGE.wrapping_add(u64::from(o))),
        Next::RuntimePcSet => (false, PAGE.wrapping_add(i.cpu.env.offset)),
    };
    let pc = n.looked_up.map_or(env.page.wrapping_add(env.offset), |l| l.0.wrapping_add(l.1));
    let got = (n.looked_up.is_some(), pc);
    let exact = match next {
        Next::Va(va) => n.looked_up.is_some_and(|l| l.0 == va & !0xfff),
        _ => env.page == PAGE,
    };
    if got == want && exact {
        return Ok(());
    }
    Err(format!("exit {next:?}: want (looked up, pc) = {want:x?}, got {got:x?}"))
}

/// Compares two machines after a block.
pub(crate) fn compare(next: Next, i: &World, n: &World) -> Result<(), String> {
    compare_exit(next, i, n)?;
    for (k, (a, b)) in i.cpu.r.iter().zip(&n.cpu.r).enumerate() {
        if a != b {
            return Err(format!("r{k}: want {a:#x}, got {b:#x}"));
        }
    }
    for (k, (a, b)) in i.cpu.v.iter().zip(&n.cpu.v).enumerate() {
        if a != b {
            return Err(format!("v{k}: want {a:#x}, got {b:#x}"));
        }
    }
    let bits = 0xc101;
    let (a, b) = (i.cpu.flags & bits, n.cpu.flags & bits);
    if a != b {
        return Err(format!("flags: want {a:#x}, got {b:#x}"));
    }
    if i.cpu.fpsr != n.cpu.fpsr {
        return Err(format!("fpsr: want {:#x}, got {:#x}", i.cpu.fpsr, n.cpu.fpsr));
    }
    if i.cpu.faults != n.cpu.faults {
        return Err("faults differ".into());
    }
    if let Some(at) = i.memory.iter().zip(&n.memory).position(|(a, b)| a != b) {
        return Err(format!("memory at {:#x}", MEMORY + at as u64));
    }
    if i.cpu.env.excl_addr != n.cpu.env.excl_addr {
        return Err("exclusive monitor differs".into());
    }
    Ok(())
}

/// Runs a block both ways; what differs.
pub(crate) fn differ(code: &mut Code, block: &Block, seed: u64) -> Result<(), String> {
    let (mut i, mut n) = (World::new(seed), World::new(seed));
    let next = interpret(block, &mut i);
    let at = code.emit(block);
    code.enter(&mut n, at);
    let pc_set = block.exits.contains(&Exit::RuntimePcSet);
    if pc_set && next == Next::RuntimePcSet {
        // The exit does not say where the PC is.
        n.cpu.env.offset = i.cpu.env.offset;
    }
    compare(next, &i, &n)
}

/// Where the general registers are, for building blocks by hand.
pub(crate) const fn r(n: u32) -> u32 {
    offset_of!(ToyCpu, r) as u32 + 8 * n
}
