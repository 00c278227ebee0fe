//! `-accel tcg,verify=N`: one of N blocks is executed twice and the two ends are compared.
//!
//! Such a block is emitted in a flavour of its own (cache key [`VERIFY`]): memory is accessed by the functions
//! in `calls` only, helpers that may leave are called through [`numbered`], and both write what they did
//! into a [`Log`]. It runs once by generated code; then registers go back, and the interpreter runs the
//! block's IR as it was before any optimisation, with loads, stores and such helpers answered from the log. So
//! nothing happens twice that others could see. Addresses, values and order must be those of the log; where
//! a fault or a helper lets the guest see its registers, and at the end, all registers must be the same. Helpers
//! that only compute are executed by both.
//!
//! The flavour leaves at the end of each block: nothing is found in the code TLB, and returns are not predicted. Blocks that
//! loop to themselves may go round, until the log has [`EVENTS`] or a request comes; the interpreter goes round as
//! often.
//! Other blocks count down from N in `JitEnv::budget`, so which blocks are looked at does not
//! depend on how they are linked; with N = 1 all are.
//!
//! Not covered: the inline path of accesses and atomics (the flavour has none; `tlb_check` looks at the
//! TLB itself), links between blocks, and what `log` cannot see: helpers' own work.
//! UNSAFE: copies the plain part of the state struct of the CPU that runs on this thread; entry points
//! that generated code calls.

use std::cell::Cell;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jit_interp::{Machine, Next};
use jit_ir::backend::BlockCx;
use jit_ir::helper::StateMem;
use jit_ir::opt::{self, Liveness, Passes};
use jit_ir::{
    Block, Builder, Effects, HelperDesc, JitCpu, MemDesc, MemFault, RmwKind, SlotClass,
    StateLayout, TranslateCx, Translator,
};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::cache::PageCode;
use crate::engine::Engine;
use crate::vcpu::{Core, JitVcpu};

/// Key bit of blocks in the flavour.
pub(crate) const VERIFY: u64 = 1 << 38;
/// Cumulative floating-point flags ([`jit_ir::state::FpControl`]).
const FP_FLAGS: u8 = 31;
/// Events of a loop after which it is asked to leave.
const EVENTS: usize = 256;
/// Rounds of a loop at most that are executed again.
const ROUNDS: u64 = 20_000_000;
/// A code slot that no entry of the code TLB has.
const NO_SLOT: u64 = 2;

/// Which access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Load,
    Store,
    LoadEx,
    StoreEx,
    Rmw(RmwKind),
    Cas,
}

/// What generated code did outside of itself.
#[derive(Debug)]
enum Event {
    Access { kind: Access, va: u64, desc: MemDesc, value: u128, new: u128, end: End },
    Helper { index: u16, args: [u64; 4], value: u64, before: Image, after: Image, left: bool },
}

/// How an access ended.
#[derive(Debug)]
enum End {
    Done(u128),
    /// The guest takes an exception; its registers then.
    Fault(Image),
}

impl Event {
    fn text(&self) -> String {
        match self {
            Self::Access { kind, va, desc, value, new, end } => {
                let end = match end {
                    End::Done(v) => format!("{v:#x}"),
                    End::Fault(_) => "a fault".to_owned(),
                };
                access_text(*kind, (*va, *desc), (*value, *new)) + " -> " + &end
            }
            Self::Helper { index, args, value, left, .. } => {
                let left = if *left { ", left" } else { "" };
                format!("helper {index} {args:x?} -> {value:#x}{left}")
            }
        }
    }
}

fn access_text(kind: Access, (va, desc): (u64, MemDesc), (value, new): (u128, u128)) -> String {
    match kind {
        Access::Load | Access::LoadEx => format!("{kind:?} of {desc:?} at {va:#x}"),
        Access::Cas => format!("{kind:?} of {desc:?} at {va:#x}: {value:#x}, {new:#x}"),
        _ => format!("{kind:?} of {desc:?} at {va:#x}: {value:#x}"),
    }
}

/// The events of one block.
#[derive(Debug, Default)]
pub(crate) struct Log(Vec<Event>);

/// Registers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Image {
    plain: Vec<u8>,
    pc: u64,
    exclusive: [u64; 3],
}

fn state(cpu: &mut dyn JitCpu, layout: &StateLayout) -> StateMem {
    // SAFETY: the state struct is in the CPU object, which this thread runs; it is used before any
    // reference into the struct is.
    unsafe { StateMem::new(cpu.state_ptr(), layout.size as usize) }
}

impl Image {
    fn take(cpu: &mut dyn JitCpu, layout: &StateLayout) -> Self {
        let (at, len) = layout.plain;
        let mut plain = vec![0; len as usize];
        state(cpu, layout).copy_out(at as usize, &mut plain);
        let env = cpu.env();
        let exclusive = [env.excl_addr, env.excl_value[0], env.excl_value[1]];
        Self { plain, pc: env.pc(), exclusive }
    }

    fn put(&self, cpu: &mut dyn JitCpu, layout: &StateLayout) {
        state(cpu, layout).copy_in(layout.plain.0 as usize, &self.plain);
        let env = cpu.env();
        env.set_pc(self.pc);
        env.excl_addr = self.exclusive[0];
        env.excl_value = [self.exclusive[1], self.exclusive[2]];
    }

    /// Bytes of the state at an offset from its start.
    fn bytes(&self, layout: &StateLayout, at: u32, len: usize) -> &[u8] {
        let at = at.wrapping_sub(layout.plain.0) as usize;
        self.plain.get(at..at.saturating_add(len)).unwrap_or(&[])
    }

    fn number(&self, layout: &StateLayout, at: u32, len: usize) -> u128 {
        let mut all = [0; 16];
        all.iter_mut().zip(self.bytes(layout, at, len)).for_each(|(to, from)| *to = *from);
        u128::from_le_bytes(all)
    }

    /// The byte with the cumulative floating-point flags, if the guest has one.
    fn fp_flags(&mut self, layout: &StateLayout) -> Option<&mut u8> {
        let at = layout.fp?.flags.checked_sub(layout.plain.0)?;
        self.plain.get_mut(at as usize)
    }

    /// With floating-point flags of `other` as well: while a block runs, some are still in the host's register.
    fn with_fp_flags_of(&self, other: &mut Self, layout: &StateLayout) -> Self {
        let mut all = self.clone();
        if let (Some(mine), Some(more)) = (all.fp_flags(layout), other.fp_flags(layout)) {
            *mine |= *more & FP_FLAGS;
        }
        all
    }

    /// What differs from `other`, a line each; `self` is generated code's.
    fn differences(&self, other: &Self, layout: &StateLayout) -> Vec<String> {
        let mut lines = Vec::new();
        if self == other {
            return lines;
        }
        let mut seen = vec![false; self.plain.len()];
        let mut line = |name: &str, a: u128, b: u128| {
            if a != b {
                lines.push(format!("{name}: generated code {a:#x}, interpreter {b:#x}"));
            }
        };
        for slot in layout.slots {
            let len = if slot.class == SlotClass::Vector { 16 } else { 8 };
            line(
                slot.name,
                self.number(layout, slot.offset, len),
                other.number(layout, slot.offset, len),
            );
            let at = slot.offset.wrapping_sub(layout.plain.0) as usize;
            seen.iter_mut().skip(at).take(len).for_each(|s| *s = true);
        }
        let nzcv = |i: &Self| {
            u128::from(jit_ir::state::image::to_nzcv(i.number(layout, layout.flags, 2) as u16))
        };
        line("nzcv", nzcv(self), nzcv(other));
        let at = layout.flags.wrapping_sub(layout.plain.0) as usize;
        seen.iter_mut().skip(at).take(2).for_each(|s| *s = true);
        for (n, (a, b)) in self.plain.iter().zip(&other.plain).enumerate() {
            if seen[n] || a == b {
                continue;
            }
            let (a, b) = (*a, *b);
            line(
                &format!("byte {:#x} of the state", n + layout.plain.0 as usize),
                a.into(),
                b.into(),
            );
        }
        line("pc", self.pc.into(), other.pc.into());
        line("exclusive address", self.exclusive[0].into(), other.exclusive[0].into());
        if self.exclusive[0] != u64::MAX {
            line("exclusive value", self.exclusive[1].into(), other.exclusive[1].into());
        }
        lines
    }

    fn text(&self, layout: &StateLayout) -> String {
        let mut t = format!("pc={:#018x}", self.pc);
        for (n, slot) in layout.slots.iter().enumerate() {
            let len = if slot.class == SlotClass::Vector { 16 } else { 8 };
            t.push(if n % 4 == 0 { '\n' } else { ' ' });
            _ = write!(t, "{}={:#x}", slot.name, self.number(layout, slot.offset, len));
        }
        t.push('\n');
        t
    }
}

/// What a block of the flavour was made from.
struct Made {
    pc: u64,
    /// Generated code may go round.
    loops: bool,
    guest: String,
    /// As the interpreter runs it.
    plain: Block,
    optimised: String,
    host: String,
}

/// What the vCPUs of a VM share for this.
pub(crate) struct Verify {
    /// One block of this many.
    pub(crate) every: u32,
    helpers: Vec<HelperDesc>,
    /// Blocks of the flavour by entry. Those of dropped generations are replaced when their places are used again.
    made: Mutex<FxHashMap<u32, Arc<Made>>>,
    /// Blocks that were looked at.
    pub(crate) done: std::sync::atomic::AtomicU64,
}

thread_local! {
    /// The vCPU whose block is being logged on this thread.
    static RUNNING: Cell<*mut JitVcpu> = const { Cell::new(std::ptr::null_mut()) };
}

/// Calls helper `N` and logs it.
unsafe extern "C" fn logged<const N: usize>(at: *mut u8, a: u64, b: u64, c: u64, imm: u64) -> u64 {
    let running = RUNNING.get();
    // SAFETY: `run_verified` sets it for this thread while generated code runs, which alone calls this;
    // the reference ends before the helper makes its own.
    let v = unsafe { &mut *running };
    let translator = Arc::clone(&v.core.engine.translator);
    let before = Image::take(&mut *v.cpu, translator.layout());
    let helper = translator.helpers()[N];
    let args = [a, b, c, imm];
    // SAFETY: `at` is the state pointer that generated code passed.
    let value = unsafe { helper.call(at, args) };
    // SAFETY: as above; the helper has returned.
    let v = unsafe { &mut *running };
    let after = Image::take(&mut *v.cpu, translator.layout());
    let left = v.cpu.env().helper_exit != 0;
    if let Some(log) = &mut v.core.log {
        log.0.push(Event::Helper { index: N as u16, args, value, before, after, left });
    }
    value
}

/// A list of entries of a function with a helper's number as constant parameter.
macro_rules! numbered {
    ($f:ident) => {{
        let mut all: Vec<jit_ir::helper::HelperEntry> = Vec::new();
        $crate::verify::numbered!(@ all, $f, 0 16 32 48 64 80 96 112 128 144 160 176 192 208 224 240);
        all
    }};
    (@ $to:ident, $f:ident, $($base:literal)*) => {
        $($to.extend([
            $f::<{ $base }> as jit_ir::helper::HelperEntry, $f::<{ $base + 1 }>, $f::<{ $base + 2 }>,
            $f::<{ $base + 3 }>, $f::<{ $base + 4 }>, $f::<{ $base + 5 }>, $f::<{ $base + 6 }>,
            $f::<{ $base + 7 }>, $f::<{ $base + 8 }>, $f::<{ $base + 9 }>, $f::<{ $base + 10 }>,
            $f::<{ $base + 11 }>, $f::<{ $base + 12 }>, $f::<{ $base + 13 }>, $f::<{ $base + 14 }>,
            $f::<{ $base + 15 }>,
        ]);)*
    };
}

pub(crate) use numbered;

impl Verify {
    /// For a guest; `None`: its helpers have higher numbers than [`numbered`].
    pub(crate) fn new(every: u32, translator: &dyn Translator) -> Option<Self> {
        let entries = numbered!(logged);
        let logged = |(n, h): (usize, &HelperDesc)| {
            let mut h = *h;
            if h.effects.contains(Effects::MAY_EXIT) {
                h.entry = *entries.get(n)?;
            }
            Some(h)
        };
        let helpers = translator.helpers().iter().enumerate().map(logged).collect::<Option<_>>()?;
        Some(Self { every, helpers, made: Mutex::default(), done: 0.into() })
    }

    /// What an ordinary block takes off the budget.
    pub(crate) fn cost(&self) -> u32 {
        u32::from(self.every > 1)
    }
}

impl Core {
    /// Whether the next block is to be looked at.
    pub(crate) fn verify_due(&mut self, cpu: &mut dyn JitCpu) -> bool {
        let Some(verify) = &self.engine.verify else { return false };
        if verify.every <= 1 {
            return true;
        }
        let env = cpu.env();
        let due =
            std::mem::take(&mut env.budget_short) != 0 || env.budget.load(Ordering::Relaxed) <= 0;
        if due {
            let rest = i32::try_from(verify.every - 1).unwrap_or(i32::MAX);
            env.budget.store(rest, Ordering::Relaxed);
        }
        due
    }

    /// Notes an access before its fault is raised.
    pub(crate) fn log_access(
        &mut self,
        cpu: &mut dyn JitCpu,
        kind: Access,
        (va, desc): (u64, MemDesc),
        (value, new): (u128, u128),
        end: Result<u128, MemFault>,
    ) {
        let Some(log) = &mut self.log else { return };
        let end = match end {
            Ok(v) => End::Done(v),
            Err(_) => End::Fault(Image::take(cpu, self.engine.translator.layout())),
        };
        log.0.push(Event::Access { kind, va, desc, value, new, end });
        if log.0.len() >= EVENTS {
            cpu.env().kick();
        }
    }

    /// The block of the flavour for the PC.
    fn verified_block(&mut self, page: &PageCode, pc: u64) -> Option<(u32, Arc<Made>)> {
        let engine = Arc::clone(&self.engine);
        let verify = engine.verify.as_ref()?;
        let own = engine.cache.lock().page(&page.ram, page.key | VERIFY);
        let entry = match own.entry(pc & 0xfff).load(Ordering::Acquire) {
            0 => self.translate_verified(&engine, verify, &own, pc)?,
            known => known,
        };
        let made = Arc::clone(verify.made.lock().get(&entry)?);
        Some((entry, made))
    }

    fn translate_verified(
        &mut self,
        engine: &Arc<Engine>,
        verify: &Verify,
        page: &Arc<PageCode>,
        pc: u64,
    ) -> Option<u32> {
        let native = engine.native.as_ref()?;
        let mut cache = engine.cache.lock();
        if cache.is_over() {
            self.must_leave = true;
            return None;
        }
        engine.protect_code(&page.ram, &self.peer);
        let mut bytes = [0u8; 4096];
        page.ram.block.upgrade()?.read(page.ram.offset, &mut bytes).ok()?;
        let (layout, helpers) = (engine.translator.layout(), engine.translator.helpers());
        // Both go on in code that is not of this flavour.
        let past = Passes::RING | Passes::JUMPS;
        let passes = engine.options.passes.difference(past);
        let stops = self.stops.of_page(pc).1;
        let build = |passes| {
            let mut b = Builder::new(layout, helpers, passes);
            let start = (pc & 0xfff) as u32;
            b.begin(start);
            engine.translator.translate(&mut TranslateCx {
                b: &mut b,
                key: page.key,
                page: &bytes,
                start,
                max_insns: engine.options.max_insns,
                count: engine.icount.is_some(),
                stops: &stops,
            });
            b
        };
        let (builder, plain) = (build(passes), build(Passes::empty()));
        let block = builder.block();
        // One that had to end early, as its IR is longer.
        let same = plain.block().len == block.len;
        let plain = if same { plain.block().clone() } else { block.clone() };
        let to_start = |e: &jit_ir::Exit| *e == jit_ir::Exit::Page(block.start);
        let loops = engine.icount.is_none()
            && stops.is_empty()
            && engine.options.max_insns > 1
            && block.exits.iter().any(to_start);
        let mut live = Liveness::default();
        opt::run(block, layout, helpers, passes, &mut live);
        let cx = BlockCx {
            count: if engine.icount.is_some() { block.insns } else { 0 },
            log: true,
            loops,
            block,
            live: &live,
            layout,
            helpers: &verify.helpers,
            passes,
            runtime: &native.runtime,
        };
        let emitted = cache.emit(|out| {
            native.backend.emit_block(&cx, out)?;
            Ok(out.written().len())
        });
        let Ok((entry, len)) = emitted else {
            self.must_leave = true;
            return None;
        };
        let code = cache.code(entry, len);
        let made = Made {
            pc,
            loops,
            guest: engine.guest_text(&bytes, pc, block),
            plain,
            optimised: kept(block, &live),
            host: native.backend.disassemble(code, native.code_base + u64::from(entry)),
        };
        verify.made.lock().insert(entry, Arc::new(made));
        cache.publish(page, block, entry, len);
        Some(entry)
    }
}

/// The ops that the backward pass kept.
pub(crate) fn kept(block: &Block, live: &Liveness) -> String {
    let mut text = String::new();
    for (i, op) in block.ops.iter().enumerate() {
        if live.keep.get(i).copied().unwrap_or(false) {
            _ = writeln!(text, "{}", jit_ir::text::print_op(i, op));
        }
    }
    text
}

/// Answers the interpreter from the log.
struct Replay<'a> {
    cpu: &'a mut dyn JitCpu,
    layout: &'static StateLayout,
    helpers: &'static [HelperDesc],
    events: std::slice::Iter<'a, Event>,
    /// The block was left where the log says, by a fault or a helper: what came then is generated code's.
    left: bool,
    wrong: Vec<String>,
    /// Of a loop: differences after the round in which the log ended, and rounds.
    first: Vec<String>,
    rounds: u64,
}

impl Replay<'_> {
    fn differ<T>(&mut self, ours: &str, theirs: Option<&Event>) -> Option<T> {
        let theirs = theirs.map_or("it left".to_owned(), Event::text);
        self.wrong.push(format!("generated code: {theirs}; interpreter: {ours}"));
        None
    }

    /// The block came back to its own start: whether generated code left here, which it does for requests.
    fn round_is_last(&mut self, after: &Image, start: u64) -> bool {
        self.rounds += 1;
        self.cpu.env().set_pc(start);
        if !self.wrong.is_empty() || self.rounds >= ROUNDS {
            return true;
        }
        if self.events.len() != 0 {
            return false;
        }
        let differences = after.differences(&Image::take(self.cpu, self.layout), self.layout);
        let same = differences.is_empty();
        if self.first.is_empty() {
            self.first = differences;
        }
        same
    }

    /// Like [`Self::same_registers`] inside a block. Gives the floating-point flags that generated code has not put
    /// into the state yet.
    fn same_inside(&mut self, theirs: &Image, when: &str) -> u8 {
        let mut ours = Image::take(self.cpu, self.layout);
        let all = theirs.with_fp_flags_of(&mut ours, self.layout);
        self.same_registers(&all, when);
        let mut theirs = theirs.clone();
        let pair = ours.fp_flags(self.layout).zip(theirs.fp_flags(self.layout));
        pair.map_or(0, |(a, b)| *a & !*b & FP_FLAGS)
    }

    fn same_registers(&mut self, theirs: &Image, when: &str) {
        let ours = Image::take(self.cpu, self.layout);
        let lines = theirs.differences(&ours, self.layout);
        self.wrong.extend(lines.into_iter().map(|l| format!("{when}: {l}")));
    }

    fn access(
        &mut self,
        kind: Access,
        (va, desc): (u64, MemDesc),
        (value, new): (u128, u128),
    ) -> Option<u128> {
        let name = access_text(kind, (va, desc), (value, new));
        match self.events.next() {
            Some(Event::Access { kind: k, va: a, desc: d, value: v, new: n, end })
                if (*k, *a, *d) == (kind, va, desc)
                    && ((v ^ value) | (n ^ new)) & mask_of(desc) == 0 =>
            {
                match end {
                    End::Done(result) => Some(*result),
                    End::Fault(image) => {
                        self.same_inside(image, "at the fault");
                        self.left = true;
                        None
                    }
                }
            }
            other => self.differ(&name, other),
        }
    }
}

fn mask_of(desc: MemDesc) -> u128 {
    if desc.log2() >= 4 { u128::MAX } else { (1 << (8 * desc.bytes())) - 1 }
}

impl Machine for Replay<'_> {
    fn load(&mut self, va: u64, desc: MemDesc) -> Option<u128> {
        self.access(Access::Load, (va, desc), (0, 0))
    }
    fn store(&mut self, va: u64, desc: MemDesc, value: u128) -> bool {
        self.access(Access::Store, (va, desc), (value, 0)).is_some()
    }
    fn load_ex(&mut self, va: u64, desc: MemDesc) -> Option<u128> {
        let v = self.access(Access::LoadEx, (va, desc), (0, 0))?;
        let env = self.cpu.env();
        (env.excl_addr, env.excl_value) = (va, [v as u64, (v >> 64) as u64]);
        Some(v)
    }
    fn store_ex(&mut self, va: u64, desc: MemDesc, value: u128) -> Option<u64> {
        let v = self.access(Access::StoreEx, (va, desc), (value, 0))?;
        self.cpu.env().clear_exclusive();
        Some(v as u64)
    }
    fn rmw(&mut self, va: u64, desc: MemDesc, kind: RmwKind, value: u64) -> Option<u64> {
        self.access(Access::Rmw(kind), (va, desc), (value.into(), 0)).map(|v| v as u64)
    }
    fn cas(&mut self, va: u64, desc: MemDesc, expected: u128, new: u128) -> Option<u128> {
        self.access(Access::Cas, (va, desc), (expected, new))
    }
    fn helper(&mut self, index: u16, args: [u64; 4]) -> (u64, bool) {
        let Some(h) = self.helpers.get(usize::from(index)) else { return (0, true) };
        if !h.effects.contains(Effects::MAY_EXIT) {
            // SAFETY: the state pointer of the CPU that this thread runs, with its services set by
            // `run_native`; no reference into it is held.
            return (unsafe { h.call(self.cpu.state_ptr(), args) }, false);
        }
        match self.events.next() {
            Some(Event::Helper { index: i, args: a, value, before, after, left })
                if (*i, *a) == (index, args) =>
            {
                let pending = self.same_inside(before, h.name);
                self.left = *left;
                if !left {
                    let mut after = after.clone();
                    if let Some(flags) = after.fp_flags(self.layout) {
                        *flags |= pending;
                    }
                    after.put(self.cpu, self.layout);
                }
                (*value, *left)
            }
            other => {
                self.differ::<()>(&format!("helper {index} ({}) {args:x?}", h.name), other);
                (0, true)
            }
        }
    }
    fn set_offset(&mut self, offset: u32) {
        self.cpu.env().offset = u64::from(offset);
    }
    fn clear_ex(&mut self) {
        self.cpu.env().clear_exclusive();
    }
}

impl JitVcpu {
    /// If the block at the PC is to be looked at, executes it so; whether it did. A difference is in
    /// `Core::wrong` then.
    pub(crate) fn verified(&mut self, pc: u64) -> bool {
        let (cpu, core) = (&mut *self.cpu, &mut *self.core);
        if !core.verify_due(cpu) || pc & 3 != 0 || core.stops.at_stop(pc) {
            return false;
        }
        let Ok(page) = core.code_page(cpu, pc) else { return false };
        match core.verified_block(&page, pc) {
            Some((entry, made)) => self.run_verified(entry, &made),
            // No room: the run loop makes some.
            None if self.core.must_leave => {}
            None => return false,
        }
        true
    }

    fn run_verified(&mut self, entry: u32, made: &Made) {
        let engine = Arc::clone(&self.core.engine);
        let (layout, helpers) = (engine.translator.layout(), engine.translator.helpers());
        let before = Image::take(&mut *self.cpu, layout);
        self.core.log = Some(Log::default());
        self.cpu.env().code_slot = NO_SLOT;
        self.cpu.env().helper_exit = 0;
        RUNNING.set(self);
        self.run_native(entry);
        RUNNING.set(std::ptr::null_mut());
        self.cpu.env().code_slot = self.core.code_tlbs.place().1;
        let log = self.core.log.take().unwrap_or_default();
        if engine.icount.is_some() && self.cpu.env().budget_short != 0 {
            return;
        }
        let after = Image::take(&mut *self.cpu, layout);
        let env = self.cpu.env();
        let kept = (env.page, env.offset, env.helper_exit);
        before.put(&mut *self.cpu, layout);
        let page = self.cpu.env().page;
        let mem = state(&mut *self.cpu, layout);
        let mut m = Replay {
            cpu: &mut *self.cpu,
            layout,
            helpers,
            events: log.0.iter(),
            left: false,
            wrong: Vec::new(),
            first: Vec::new(),
            rounds: 0,
        };
        let start = page.wrapping_add(u64::from(made.plain.start));
        let next = loop {
            let next = jit_interp::run(&made.plain, mem, layout, &mut m, page, &mut self.core.vals);
            let again = made.loops && next == Next::Page(made.plain.start);
            if !again || m.round_is_last(&after, start) {
                break next;
            }
        };
        match next {
            Next::Page(o) | Next::Runtime(o) => m.cpu.env().set_pc(page.wrapping_add(u64::from(o))),
            Next::Va(va) => m.cpu.env().set_pc(va),
            Next::RuntimePcSet => {}
        }
        if let Some(more) = m.events.next().filter(|_| m.wrong.is_empty()) {
            m.differ::<()>("it left", Some(more));
        }
        if !m.left && m.wrong.is_empty() {
            m.same_registers(&after, "at the end");
        } else if !m.wrong.is_empty() {
            // Of a loop that was left at its head, there is more to say about the round after the last event.
            m.wrong.splice(0..0, std::mem::take(&mut m.first));
        }
        let ours = Image::take(m.cpu, layout);
        let wrong = m.wrong;
        after.put(&mut *self.cpu, layout);
        let env = self.cpu.env();
        (env.page, env.offset, env.helper_exit) = kept;
        if let Some(verify) = &engine.verify {
            verify.done.fetch_add(1, Ordering::Relaxed);
        }
        if !wrong.is_empty() {
            let states = [&before, &after, &ours].map(|i| i.text(layout));
            let events: Vec<_> = log.0.iter().map(Event::text).collect();
            self.core.wrong = Some(report(made, &wrong, &events.join("\n"), &states));
        }
    }
}

fn report(made: &Made, wrong: &[String], log: &str, states: &[String; 3]) -> String {
    let [before, after, ours] = states;
    format!(
        "verify: generated code and interpreter differ in the block at {:#x}\n{}\n\nIN:\n{}\nOP:\n{}\n\
         OP after optimization and liveness analysis:\n{}\nOUT:\n{}\nLOG:\n{log}\n\
         Registers before:\n{before}\nafter generated code:\n{after}\nafter the interpreter:\n{ours}",
        made.pc,
        wrong.join("\n"),
        made.guest,
        jit_ir::text::print(&made.plain),
        made.optimised,
        made.host,
    )
}
