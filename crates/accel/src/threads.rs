//! One host thread per vCPU: start, stop, halt, kick.
//!
//! Lock order: `Gate::state` before `Kicker::flag`; neither is held while guest code runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use device::{Request, RunControl};
use parking_lot::{Condvar, Mutex};

/// Why a vCPU came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Nothing to do until a kick.
    Halted,
    /// It was kicked or its time was up.
    Interrupted,
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
}

#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
    /// Mirrors `!running || quit`, for a look without lock.
    closed: AtomicBool,
}

impl Gate {
    /// Waits until vCPUs may run; false = end of the thread.
    fn enter(&self) -> bool {
        let mut s = self.state.lock();
        while !s.running && !s.quit {
            self.changed.wait(&mut s);
        }
        if !s.quit {
            s.executing += 1;
        }
        !s.quit
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
            let body = move || thread_body(&gate, &own, &waker, &*run);
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
        self.gate.state.lock().running = true;
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

fn thread_body(gate: &Gate, vcpu: &Mutex<Box<dyn Vcpu>>, waker: &Kicker, run: &dyn RunControl) {
    while gate.enter() {
        let mut v = vcpu.lock();
        let mut fatal = None;
        while !gate.closed.load(Ordering::Acquire) {
            match v.run() {
                Exit::Interrupted => {}
                Exit::Halted => waker.wait(),
                Exit::Fatal(why) => {
                    fatal = Some(why);
                    break;
                }
            }
        }
        drop(v);
        gate.leave();
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
