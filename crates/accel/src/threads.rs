//! The threads that run vCPUs, one each or one for all: start, stop, halt, kick.
//!
//! Lock order: `Gate::state` before `Kicker::flag`; neither is held while guest code runs.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use device::{Request, RunControl};
use jit_ir::JitCpu;
use parking_lot::{Condvar, Mutex};

use crate::debug::{DebugSink, DebugStop, RunAs};
use crate::rounds::{Event, Pace, Rounds};

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
    /// Where vCPUs share a thread: what wakes that.
    shared: OnceLock<Arc<Event>>,
}

/// Wakes one vCPU, whether it runs or is halted.
#[derive(Clone, Default)]
pub struct Kicker(Arc<KickState>);

impl Kicker {
    /// Wakes it.
    pub fn kick(&self) {
        self.interrupt();
        let mut flag = self.0.flag.lock();
        *flag = true;
        self.0.wake.notify_one();
        drop(flag);
        if let Some(event) = self.0.shared.get() {
            event.set();
        }
    }

    /// Makes it come back if it runs.
    pub(crate) fn interrupt(&self) {
        let interrupt = self.0.interrupt.lock().clone();
        if let Some(f) = interrupt {
            f();
        }
    }

    /// Whether it was woken since the last time.
    pub(crate) fn take(&self) -> bool {
        std::mem::take(&mut *self.0.flag.lock())
    }

    pub(crate) fn is_set(&self) -> bool {
        *self.0.flag.lock()
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
pub(crate) struct Gate {
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

    /// Waits until vCPUs may run; false = end of the thread.
    pub(crate) fn enter_any(&self) -> bool {
        let mut s = self.state.lock();
        while !s.running && !s.quit {
            self.changed.wait(&mut s);
        }
        if !s.quit {
            s.executing += 1;
        }
        !s.quit
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn plan_of(&self, n: usize) -> RunAs {
        self.state.lock().plan.get(n).copied().unwrap_or_default()
    }

    /// Waits for the end of a slice of running time; false = end of the thread.
    pub(crate) fn wait_slice(&self, slice: Duration) -> bool {
        let mut s = self.state.lock();
        while !s.running && !s.quit {
            self.changed.wait(&mut s);
        }
        if !s.quit {
            _ = self.changed.wait_for(&mut s, slice);
        }
        !s.quit
    }

    pub(crate) fn tell(&self, n: usize, stop: DebugStop) {
        let sink = self.sink.lock().clone();
        if let Some(sink) = sink {
            sink.stopped(n, stop);
        }
    }

    /// vCPU `n` stays outside until the next resume.
    pub(crate) fn hold(&self, n: usize) {
        let mut s = self.state.lock();
        if s.plan.len() <= n {
            s.plan.resize(n + 1, RunAs::Run);
        }
        s.plan[n] = RunAs::Stay;
    }

    pub(crate) fn leave(&self) {
        self.state.lock().executing -= 1;
        self.changed.notify_all();
    }
}

pub(crate) type Shared = Arc<Mutex<Box<dyn Vcpu>>>;

/// The vCPU threads of a VM.
pub struct VcpuThreads {
    gate: Arc<Gate>,
    kickers: Vec<Kicker>,
    vcpus: Vec<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The host's number of each vCPU's thread, in CPU order.
    ids: Mutex<Vec<i64>>,
}

/// How vCPUs are put on threads.
#[derive(Clone, Default)]
pub enum Threads {
    /// One each.
    #[default]
    Multi,
    /// All on one, in turns; with a pace if instructions make the guest's time.
    Single(Option<Arc<dyn Pace>>),
}

/// A thread and the host's number of it.
fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> Option<(JoinHandle<()>, i64)> {
    let (tell, told) = std::sync::mpsc::channel();
    let body = move || {
        _ = tell.send(host::thread_id());
        body();
    };
    // The one place besides the event loop that may spawn.
    #[expect(clippy::disallowed_methods, reason = "vCPU threads are made here")]
    let thread = std::thread::Builder::new().name(name).spawn(body).ok()?;
    Some((thread, told.recv().unwrap_or(0)))
}

impl VcpuThreads {
    /// Spawns the stopped threads.
    #[must_use]
    pub fn new(vcpus: Vec<Box<dyn Vcpu>>, run: &Arc<dyn RunControl>, how: Threads) -> Self {
        let gate = Arc::new(Gate::default());
        gate.closed.store(true, Ordering::Release);
        let mut this = Self {
            gate,
            kickers: Vec::new(),
            vcpus: Vec::new(),
            threads: Mutex::default(),
            ids: Mutex::default(),
        };
        for mut vcpu in vcpus {
            let kicker = Kicker::default();
            *kicker.0.interrupt.lock() = Some(vcpu.kicker());
            vcpu.attach(kicker.clone());
            this.kickers.push(kicker);
            this.vcpus.push(Arc::new(Mutex::new(vcpu)));
        }
        match how {
            Threads::Multi => this.one_each(run),
            Threads::Single(pace) => this.one_for_all(run, pace),
        }
        this
    }

    fn one_each(&self, run: &Arc<dyn RunControl>) {
        for (n, (vcpu, kicker)) in self.vcpus.iter().zip(&self.kickers).enumerate() {
            let (gate, run) = (Arc::clone(&self.gate), Arc::clone(run));
            let (own, waker) = (Arc::clone(vcpu), kicker.clone());
            let body = move || thread_body(n, &gate, &own, &waker, &*run);
            self.keep(spawn(format!("CPU {n}/TCG"), body), 1);
        }
    }

    fn one_for_all(&self, run: &Arc<dyn RunControl>, pace: Option<Arc<dyn Pace>>) {
        let (event, current) = (Arc::new(Event::default()), Arc::new(AtomicUsize::new(0)));
        for k in &self.kickers {
            _ = k.0.shared.set(Arc::clone(&event));
        }
        let slices = pace.is_none() && self.vcpus.len() > 1;
        let rounds = Rounds {
            gate: Arc::clone(&self.gate),
            vcpus: self.vcpus.clone(),
            kickers: self.kickers.clone(),
            event,
            pace,
            run: Arc::clone(run),
            current: Arc::clone(&current),
        };
        self.keep(spawn("ALL CPUs/TCG".into(), move || rounds.body()), self.vcpus.len());
        if slices {
            let (gate, kickers) = (Arc::clone(&self.gate), self.kickers.clone());
            let body = move || Rounds::slices(&gate, &kickers, &current);
            self.keep(spawn("TCG slices".into(), body), 0);
        }
    }

    /// Keeps a thread, which runs so many vCPUs.
    fn keep(&self, spawned: Option<(JoinHandle<()>, i64)>, cpus: usize) {
        let Some((thread, id)) = spawned else { return };
        self.threads.lock().push(thread);
        self.ids.lock().extend(std::iter::repeat_n(id, cpus));
    }

    /// The host's number of each vCPU's thread, in CPU order.
    #[must_use]
    pub fn ids(&self) -> Vec<i64> {
        self.ids.lock().clone()
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
            gate.tell(n, stop);
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
pub(crate) fn trace_fatal(why: &str) {
    eprintln!("tinamou: a vCPU stopped: {why}");
}
