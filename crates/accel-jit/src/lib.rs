//! `-accel tcg`: runs guests by translation, on every host.
//!
//! Blocks of IR come from the guest's translator and go to a host back end, or to the interpreter
//! where there is none. This crate owns what is between: code by physical page ([`cache`]), the TLBs
//! ([`l1`], [`tlb`], [`codetlb`]), slow memory accesses ([`access`]), the run loop ([`vcpu`]), stopping the world
//! ([`exclusive`]). Thread per vCPU.
//!
//! Debug events are in [`debug`].
//!
//! What runs where is [`accel::Threads`]'s; instruction counting is in `icount`.
//!
//! Not built: record and replay, plugins.

mod access;
mod cache;
mod calls;
mod codetlb;
mod debug;
mod engine;
mod exclusive;
mod icount;
mod info;
mod interp;
mod l1;
mod log;
mod perf;
mod ram;
mod services;
mod tlb;
mod tlb_check;
mod vcpu;
mod verify;

use std::sync::Arc;

use accel::{
    Accel, AccelVm, DebugError, DebugSink, GuestArch, RunAs, Threads, Vcpu, VcpuThreads, VmConfig,
    WatchKind, Watchpoint,
};
use jit_ir::backend::{HostBackend, RuntimeCx};
use jit_ir::opt::Passes;
use jit_ir::{JitCpu, Translator};
use parking_lot::Mutex;

use cache::{Cache, CodePages};
use engine::{Engine, MapListener, Native, Options};
use exclusive::World;

pub use vcpu::JitVcpu;

/// Default size of the code area in MiB.
const DEFAULT_TB_SIZE: usize = 256;

/// The accelerator; back ends in order of preference.
pub struct JitAccel {
    /// Host back ends that are built in.
    pub backends: &'static [&'static dyn HostBackend],
}

struct JitVm {
    engine: Arc<Engine>,
    /// Kept: address spaces hold it weakly.
    _map: Arc<dyn memory::Listener>,
    threads: VcpuThreads,
}

struct Parsed {
    options: Options,
    tb_mib: usize,
    /// `thread`, if given: single.
    single: Option<bool>,
    backend: Option<String>,
    /// `verify`: one block of so many, 0 = none.
    verify: u32,
    /// `-perfmap`, `-jitdump`.
    perf: (bool, bool),
    count_helpers: bool,
}

fn bad(name: &str, what: &str) -> qapi::Error {
    qapi::Error::generic(format!("Parameter '{name}' expects {what}"))
}

fn parse(options: &[(String, String)]) -> qapi::Result<Parsed> {
    let mut p = Parsed {
        options: Options { passes: Passes::all(), max_insns: 64, check_tlb: 0 },
        tb_mib: DEFAULT_TB_SIZE,
        single: None,
        backend: None,
        verify: 0,
        perf: (false, false),
        count_helpers: false,
    };
    for (name, value) in options {
        match (name.as_str(), value.as_str()) {
            ("thread", "multi") => p.single = Some(false),
            ("thread", "single") => p.single = Some(true),
            ("thread", other) => {
                return Err(qapi::Error::generic(format!("Invalid 'thread' setting {other}")));
            }
            ("tb-size", v) => {
                p.tb_mib = v
                    .parse()
                    .ok()
                    .filter(|n| (1..=1024).contains(n))
                    .ok_or_else(|| bad(name, "a number of MiB from 1 to 1024"))?;
            }
            ("one-insn-per-tb", "on") => p.options.max_insns = 1,
            ("one-insn-per-tb", "off") | ("split-wx", "on" | "off") => {}
            ("one-insn-per-tb" | "split-wx", _) => return Err(bad(name, "'on' or 'off'")),
            ("verify", v) => {
                p.verify = v.parse().map_err(|_| bad(name, "a number of blocks, or 0"))?;
            }
            ("x-perfmap", "on") => p.perf.0 = true,
            ("x-jitdump", "on") => p.perf.1 = true,
            ("x-count-helpers", "on") => p.count_helpers = true,
            ("x-perfmap" | "x-jitdump" | "x-count-helpers", "off") => {}
            ("x-perfmap" | "x-jitdump" | "x-count-helpers", _) => {
                return Err(bad(name, "'on' or 'off'"));
            }
            ("x-check-tlb", v) => {
                p.options.check_tlb =
                    v.parse().map_err(|_| bad(name, "a number of fills, or 0"))?;
            }
            ("x-backend", v) => p.backend = Some(v.to_owned()),
            ("x-passes", v) => {
                let bits = v.parse().map_err(|_| bad(name, "a bit mask"))?;
                p.options.passes = Passes::from_bits_truncate(bits);
            }
            _ => {
                return Err(qapi::Error::generic(format!("Property 'tcg-accel.{name}' not found")));
            }
        }
    }
    Ok(p)
}

impl Parsed {
    fn verify(
        &self,
        native: bool,
        counts: bool,
        translator: &dyn Translator,
    ) -> qapi::Result<Option<verify::Verify>> {
        match self.verify {
            0 => Ok(None),
            _ if !native => {
                Err(qapi::Error::generic("verify compares generated code; there is none"))
            }
            2.. if counts => Err(qapi::Error::generic("With icount, verify must be 1")),
            every => Ok(verify::Verify::new(every, translator)),
        }
    }
}

impl JitAccel {
    fn pick(&self, wanted: Option<&str>) -> qapi::Result<Option<&'static dyn HostBackend>> {
        match wanted {
            Some("interp") => Ok(None),
            Some(name) => {
                let found = self.backends.iter().find(|b| b.name() == name).copied();
                let b = found.ok_or_else(|| bad("x-backend", "'interp' or a built-in back end"))?;
                b.usable().map_err(qapi::Error::generic)?;
                Ok(Some(b))
            }
            None => Ok(self.backends.iter().find(|b| b.usable().is_ok()).copied()),
        }
    }
}

impl Accel for JitAccel {
    fn name(&self) -> &'static str {
        "tcg"
    }

    fn summary(&self) -> &'static str {
        "translation to host code, or interpretation where no host back end is built in"
    }

    fn usable(&self, _: &dyn GuestArch) -> Result<(), String> {
        Ok(())
    }

    fn new_vm(&self, config: VmConfig) -> qapi::Result<Arc<dyn AccelVm>> {
        let mut parsed = parse(&config.options)?;
        if log::wants_every_block() {
            parsed.options.passes.remove(Passes::RING);
        }
        if config.icount.is_some() && parsed.single == Some(false) {
            return Err(qapi::Error::generic("No MTTCG when icount is enabled"));
        }
        let Some(translator) = config.translator else {
            return Ok(Arc::new(Idle));
        };
        let backend = self.pick(parsed.backend.as_deref())?;
        let fail = |e: std::io::Error| {
            qapi::Error::generic(format!("cannot allocate {} MiB for code: {e}", parsed.tb_mib))
        };
        let make = if parsed.perf.0 { Cache::nameless } else { Cache::new };
        let mut cache = make(parsed.tb_mib << 20).map_err(fail)?;
        let native = match backend {
            None => None,
            Some(backend) => {
                let cx = RuntimeCx {
                    layout: translator.layout(),
                    calls: calls::table(),
                    passes: parsed.options.passes,
                };
                let runtime = cache
                    .emit_runtime(|out| {
                        // Keeps offset 0 free: it means "not translated".
                        out.put(&[0xcc; 16])?;
                        backend.emit_runtime(&cx, out)
                    })
                    .map_err(|_| qapi::Error::generic("tb-size is too small"))?;
                Some(Native { backend, runtime, code_base: cache.base() })
            }
        };
        let verify = parsed.verify(native.is_some(), config.icount.is_some(), &*translator)?;
        let perf = perf::Perf::open(parsed.perf.0, parsed.perf.1)
            .map_err(|(file, e)| qapi::Error::generic(format!("cannot write {file}: {e}")))?;
        if let (Some(perf), Some(native)) = (&perf, &native) {
            let (at, len) = (native.code_base, cache.usage_of_runtime());
            perf.note("tcg-prologue-buffer", at, cache.code(0, len));
        }
        let counted = if parsed.count_helpers { perf::counted(&*translator) } else { None };
        let engine = Arc::new(Engine {
            translator,
            memory: config.memory,
            secure_memory: config.secure_memory,
            options: parsed.options,
            native,
            cache: Mutex::new(cache),
            code_pages: CodePages::new(),
            peers: Mutex::default(),
            world: World::default(),
            debug: debug::Debug::default(),
            icount: config.icount.map(icount::Icount::new),
            checked: tlb_check::Checked::default(),
            perf,
            counted,
            verify,
            run: Arc::clone(&config.run),
        });
        let how = match (&engine.icount, parsed.single) {
            (Some(icount), _) => {
                icount::attach(&engine, icount);
                Threads::Single(Some(Arc::clone(icount) as Arc<dyn accel::Pace>))
            }
            (None, Some(true)) => Threads::Single(None),
            (None, _) => Threads::Multi,
        };
        let map: Arc<dyn memory::Listener> = Arc::new(MapListener(Arc::downgrade(&engine)));
        engine.memory.listen(&map);
        if let Some(secure) = &engine.secure_memory {
            secure.listen(&map);
        }
        let vcpus = config
            .cpus
            .into_iter()
            .map(|cpu| Box::new(JitVcpu::new(&engine, cpu)) as Box<dyn Vcpu>)
            .collect();
        let threads = VcpuThreads::new(vcpus, &config.run, how);
        Ok(Arc::new(JitVm { engine, _map: map, threads }))
    }
}

/// A VM without CPUs.
struct Idle;

impl AccelVm for Idle {
    fn resume(&self) {}
    fn pause(&self) {}
    fn shutdown(&self) {}
}

impl JitVm {
    fn points(
        &self,
        f: impl FnOnce(&debug::Debug) -> Result<(), DebugError>,
    ) -> Result<(), DebugError> {
        f(&self.engine.debug)?;
        debug::announce(&self.engine);
        Ok(())
    }
}

impl AccelVm for JitVm {
    fn resume(&self) {
        self.threads.resume();
    }
    fn pause(&self) {
        self.threads.pause();
    }
    fn shutdown(&self) {
        self.threads.shutdown();
    }
    fn set_debug_sink(&self, sink: Option<Arc<dyn DebugSink>>) {
        self.threads.set_debug_sink(sink);
    }
    fn insert_breakpoint(&self, addr: u64) -> Result<(), DebugError> {
        self.points(|d| d.insert_break(addr))
    }
    fn remove_breakpoint(&self, addr: u64) -> Result<(), DebugError> {
        self.points(|d| d.remove_break(addr))
    }
    fn insert_watchpoint(&self, addr: u64, len: u64, kind: WatchKind) -> Result<(), DebugError> {
        self.points(|d| d.insert_watch(Watchpoint { addr, len, kind }))
    }
    fn remove_watchpoint(&self, addr: u64, len: u64, kind: WatchKind) -> Result<(), DebugError> {
        self.points(|d| d.remove_watch(Watchpoint { addr, len, kind }))
    }
    fn clear_debug_points(&self) {
        self.engine.debug.clear();
        debug::announce(&self.engine);
    }
    fn resume_as(&self, plan: &[RunAs]) {
        self.threads.resume_as(plan);
    }
    fn with_cpu(&self, cpu: usize, f: &mut dyn FnMut(&mut dyn JitCpu)) -> bool {
        let done = self.threads.with(cpu, |v| {
            let Some(cpu) = v.cpu() else { return false };
            cpu.catch_up();
            f(cpu);
            true
        });
        let done = done.unwrap_or(false);
        // Whatever was changed: translations and stop addresses are looked up anew.
        if let Some(peer) = self.engine.peers.lock().get(cpu) {
            let all = jit_ir::TlbFlush { regimes: u32::MAX, ..Default::default() };
            peer.post(exclusive::Message::Flush(all));
            peer.post(exclusive::Message::PointsChanged);
        }
        done
    }
    fn read_virtual(&self, cpu: usize, va: u64, bytes: &mut [u8]) -> bool {
        self.threads.with(cpu, |v| v.read_virtual(va, bytes)).unwrap_or(false)
    }
    fn write_virtual(&self, cpu: usize, va: u64, bytes: &[u8]) -> bool {
        self.threads.with(cpu, |v| v.write_virtual(va, bytes)).unwrap_or(false)
    }
    fn disassemble(&self, pc: u64, bytes: &[u8]) -> Option<String> {
        Some(self.engine.translator.disassemble(bytes, pc))
    }
    fn thread_ids(&self) -> Vec<i64> {
        self.threads.ids()
    }
    fn info(&self) -> String {
        info::text(&self.engine)
    }
}
