//! One host thread per vCPU: start, stop, halt, kick.
//!
//! Lock order: `Gate::state` before `Kicker::flag`; neither is held while guest code runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use device::{Request, RunControl};
use jit_ir::JitCpu;
use parking_lot::{Condvar, Mutex};

use crate::debug::{DebugSink, DebugStop, RunAs};

/// Why a vCPU came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Nothing to do until a kick.
    Halted,
    /// It was kicked or its time was up.
    Interrupted,
    /// A debugger's point was reached or a step was made.
    Debug(DebugStop),
    /// It cannot go on; the text says why.
    Fatal(String),
}

/// One virtual CPU of an accelerator.
pub trait Vcpu: Send {
    /// Runs guest code until something is to be done.
    fn run(&mut self) -> Exit;
    /// A function that makes `run` return soon (any thread).
    fn kicker(&self) -> Arc<dyn Fn() + Send + Sync>;
    /// Called once on the vCPU's thread with what wakes it from a halt.
    fn attach(&mut self, kicker: Kicker);
    /// Whether the next `run` executes one instruction and comes back with [`Exit::Debug`].
    fn set_step(&mut self, step: bool) {
        let _ = step;
    }
    /// The CPU object.
    fn cpu(&mut self) -> Option<&mut dyn JitCpu> {
        None
    }
    /// See [`crate::AccelVm::read_virtual`].
    fn read_virtual(&mut self, va: u64, bytes: &mut [u8]) -> bool {
        let _ = (va, bytes);
        false
    }
    /// See [`crate::AccelVm::write_virtual`].
    fn write_virtual(&mut self, va: u64, bytes: &[u8]) -> bool {
        let _ = (va, bytes);
        false
    }
    /// Register dump.
    fn registers(&mut self) -> String {
        String::new()
    }
}

#[derive(Default)]
struct KickState {
    flag: Mutex<bool>,
    wake: Condvar,
    interrupt: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
}

/// Wakes one vCPU, whether it runs or is halted.
#[derive(Clone, Default)]
pub struct Kicker(Arc<KickState>);

impl Kicker {
    /// Wakes it.
    pub fn kick(&self) {
        let interrupt = self.0.interrupt.lock().clone();
        if let Some(f) = interrupt {
            f();
        }
        let mut flag = self.0.flag.lock();
        *flag = true;
        self.0.wake.notify_one();
    }

    fn wait(&self) {
        let mut flag = self.0.flag.lock();
        while !*flag {
            self.0.wake.wait(&mut flag);
        }
        *flag = false;
    }
}

#[derive(Default)]
struct GateState {
    running: bool,
    quit: bool,
    executing: usize,
    /// What each vCPU does since the last resume; those beyond the end run.
    plan: Vec<RunAs>,
}

#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
    /// Mirrors `!running || quit`, for a look without lock.
    closed: AtomicBool,
    /// Who hears of debug stops.
    sink: Mutex<Option<Arc<dyn DebugSink>>>,
}

impl Gate {
    /// Waits until vCPU `n` may run, and says how; `None` = end of the thread.
    fn enter(&self, n: usize) -> Option<RunAs> {
        let mut s = self.state.lock();
        loop {
            if s.quit {
                return None;
            }
            let how = s.plan.get(n).copied().unwrap_or_default();
            if s.running && how != RunAs::Stay {
                s.executing += 1;
                return Some(how);
            }
            self.changed.wait(&mut s);
        }
    }

    /// vCPU `n` stays outside until the next resume.
    fn hold(&self, n: usize) {
        let mut s = self.state.lock();
        if s.plan.len() <= n {
            s.plan.resize(n + 1, RunAs::Run);
        }
        s.plan[n] = RunAs::Stay;
    }

    fn leave(&self) {
        self.state.lock().executing -= 1;
        self.changed.notify_all();
    }
}

type Shared = Arc<Mutex<Box<dyn Vcpu>>>;

/// The vCPU threads of a VM.
pub struct VcpuThreads {
    gate: Arc<Gate>,
    kickers: Vec<Kicker>,
    vcpus: Vec<Shared>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

impl VcpuThreads {
    /// Spawns a stopped thread for each vCPU.
    #[must_use]
    pub fn new(vcpus: Vec<Box<dyn Vcpu>>, run: &Arc<dyn RunControl>) -> Self {
        let gate = Arc::new(Gate::default());
        gate.closed.store(true, Ordering::Release);
        let mut this =
            Self { gate, kickers: Vec::new(), vcpus: Vec::new(), threads: Mutex::default() };
        for (n, mut vcpu) in vcpus.into_iter().enumerate() {
            let kicker = Kicker::default();
            *kicker.0.interrupt.lock() = Some(vcpu.kicker());
            vcpu.attach(kicker.clone());
            let vcpu: Shared = Arc::new(Mutex::new(vcpu));
            let (gate, run) = (Arc::clone(&this.gate), Arc::clone(run));
            let (own, waker) = (Arc::clone(&vcpu), kicker.clone());
            let body = move || thread_body(n, &gate, &own, &waker, &*run);
            let name = format!("CPU {n}/TCG");
            // The one place besides the event loop that may spawn.
            #[expect(clippy::disallowed_methods, reason = "vCPU threads are made here")]
            let spawned = std::thread::Builder::new().name(name).spawn(body);
            if let Ok(t) = spawned {
                this.threads.lock().push(t);
            }
            this.kickers.push(kicker);
            this.vcpus.push(vcpu);
        }
        this
    }

    /// Lets them run.
    pub fn resume(&self) {
        self.resume_as(&[]);
    }

    /// Lets them run, step or stay, by index; those beyond the end run.
    pub fn resume_as(&self, plan: &[RunAs]) {
        let mut s = self.gate.state.lock();
        s.running = true;
        s.plan = plan.to_vec();
        drop(s);
        self.gate.closed.store(false, Ordering::Release);
        self.gate.changed.notify_all();
    }

    fn kick_all(&self) {
        for k in &self.kickers {
            k.kick();
        }
    }

    /// Stops them; returns when none executes. Must not be called from a vCPU thread.
    pub fn pause(&self) {
        self.gate.state.lock().running = false;
        self.gate.closed.store(true, Ordering::Release);
        self.kick_all();
        let mut s = self.gate.state.lock();
        while s.executing > 0 {
            self.gate.changed.wait(&mut s);
        }
    }

    /// Ends the threads.
    pub fn shutdown(&self) {
        self.gate.state.lock().quit = true;
        self.gate.closed.store(true, Ordering::Release);
        self.gate.changed.notify_all();
        self.kick_all();
        for t in self.threads.lock().drain(..) {
            // A vCPU thread that panicked has already printed why.
            let _ = t.join();
        }
    }

    /// Sets who hears of debug stops.
    pub fn set_debug_sink(&self, sink: Option<Arc<dyn DebugSink>>) {
        *self.gate.sink.lock() = sink;
    }

    /// Runs `f` on a vCPU; only while paused.
    pub fn with<T>(&self, cpu: usize, f: impl FnOnce(&mut dyn Vcpu) -> T) -> Option<T> {
        self.vcpus.get(cpu).map(|v| f(&mut **v.lock()))
    }
}

impl Drop for VcpuThreads {
    fn drop(&mut self) {
        self.shutdown();
    }
}

fn thread_body(
    n: usize,
    gate: &Gate,
    vcpu: &Mutex<Box<dyn Vcpu>>,
    waker: &Kicker,
    run: &dyn RunControl,
) {
    while let Some(how) = gate.enter(n) {
        let mut v = vcpu.lock();
        v.set_step(how == RunAs::Step);
        let (mut fatal, mut stop) = (None, None);
        while !gate.closed.load(Ordering::Acquire) {
            match v.run() {
                Exit::Interrupted => {}
                Exit::Halted => waker.wait(),
                Exit::Debug(why) => {
                    stop = Some(why);
                    break;
                }
                Exit::Fatal(why) => {
                    fatal = Some(why);
                    break;
                }
            }
        }
        v.set_step(false);
        drop(v);
        if stop.is_some() {
            gate.hold(n);
        }
        gate.leave();
        if let Some(stop) = stop {
            let sink = gate.sink.lock().clone();
            if let Some(sink) = sink {
                sink.stopped(n, stop);
            }
        }
        if let Some(why) = fatal {
            trace_fatal(&why);
            run.request(Request::Stop);
            let mut s = gate.state.lock();
            while !s.quit {
                gate.changed.wait(&mut s);
            }
        }
    }
}

#[expect(clippy::print_stderr, reason = "the person must see why the machine stopped")]
fn trace_fatal(why: &str) {
    eprintln!("tinamou: a vCPU stopped: {why}");
}
