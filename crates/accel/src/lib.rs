//! Accelerators and guest architectures as machines and the control plane see them.
//!
//! A [`GuestArch`] makes CPUs; an [`Accel`] runs them. [`VcpuThreads`] is the run
//! loop that every accelerator shares: it starts, stops, halts and kicks, and knows nothing of how
//! a [`Vcpu`] executes.
//!
//! Not here: translation and TLBs (`accel-jit`), hypervisors (`accel-kvm`), guest CPUs (`cpu-*`).

pub mod debug;
mod rounds;
mod threads;

use std::sync::Arc;

use cpu::SystemRegisters;
use device::{IrqOut, IrqSink, RunControl};
use evloop::Clock;
pub use jit_ir::JitCpu;
use jit_ir::Translator;
use memory::AddressSpace;

pub use debug::{DebugError, DebugSink, DebugStop, RunAs, WatchKind, Watchpoint};
pub use rounds::Pace;
pub use threads::{Exit, Kicker, Threads, Vcpu, VcpuThreads};

/// How PSCI-like firmware calls reach the built-in implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirmwareCalls {
    /// The guest brings its own firmware.
    None,
    /// Arm HVC.
    Hvc,
    /// Arm SMC.
    Smc,
}

/// A CPU model that `-cpu` names.
#[derive(Clone, Copy, Debug)]
pub struct CpuModel {
    /// Name.
    pub name: &'static str,
    /// `compatible` in a device tree.
    pub compatible: &'static str,
    /// One line about it.
    pub summary: &'static str,
}

/// What the machine asks of its CPUs.
#[derive(Clone)]
pub struct CpuConfig {
    /// Model name.
    pub model: String,
    /// Properties after the model name, as given.
    pub props: Vec<(String, String)>,
    /// Hardware id of each CPU (MPIDR affinity on Arm), in CPU order; their number is the CPU count.
    pub ids: Vec<u64>,
    /// Virtualization extensions (Arm EL2).
    pub virtualization: bool,
    /// Secure state (Arm EL3).
    pub secure: bool,
    /// Built-in firmware interface.
    pub firmware_calls: FirmwareCalls,
    /// The guest's clock.
    pub clock: Clock,
    /// Power-off and reset requests.
    pub run: Arc<dyn RunControl>,
}

/// Where a CPU starts after reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Boot {
    /// Program counter.
    pub pc: u64,
    /// First argument register (device tree address of a directly booted kernel).
    pub arg: u64,
    /// Start as a kernel loader would leave the CPU (Arm: EL2 if there is one, else EL1) instead of at
    /// the highest level.
    pub as_kernel: bool,
    /// Off until another CPU turns it on.
    pub powered_off: bool,
}

/// A CPU as boards wire it; shared with the running vCPU.
pub trait CpuHandle: Send + Sync {
    /// Interrupt inputs, numbered as `device::cpu_input`.
    fn input(&self) -> Arc<dyn IrqSink>;
    /// An interrupt output by name (Arm: "cntp", "cntv", "cnthp", "cnthv", "cntps",
    /// and "pmu" if the CPU has one).
    fn output(&self, name: &str) -> Option<Arc<IrqOut>>;
    /// Attaches system registers that a device implements. Before the first run only.
    fn attach_system_registers(&self, bank: Arc<dyn SystemRegisters>);
    /// Sets where it starts; takes effect at the next reset.
    fn set_boot(&self, boot: Boot);
    /// Resets the CPU before its next instruction (any thread).
    fn reset(&self);
    /// Hardware id.
    fn id(&self) -> u64;
    /// Bits of a physical address.
    fn address_bits(&self) -> u32 {
        44
    }
    /// Its model.
    fn model(&self) -> &'static CpuModel;
}

/// A CPU ready to be run.
pub struct CpuUnit {
    /// The CPU object, moved to the vCPU thread.
    pub cpu: Box<dyn JitCpu>,
    /// Its handle.
    pub handle: Arc<dyn CpuHandle>,
}

/// The CPUs of a machine.
pub struct CpuSet {
    /// In CPU order.
    pub units: Vec<CpuUnit>,
    /// Translator for their model.
    pub translator: Arc<dyn Translator>,
}

/// A guest architecture.
pub trait GuestArch: Send + Sync {
    /// Name as in `qemu-system-NAME`.
    fn name(&self) -> &'static str;
    /// CPU models, in the order of `-cpu help`.
    fn models(&self) -> &'static [CpuModel];
    /// Names and values of a model's properties once those asked for are applied, for
    /// `query-cpu-model-expansion`; `None`: no such model.
    fn expand(
        &self,
        model: &str,
        props: &[(String, String)],
    ) -> Option<qapi::Result<Vec<(&'static str, bool)>>>;
    /// Makes the CPUs. Errors name the unknown model or property and what would be right.
    fn new_cpus(&self, config: &CpuConfig) -> qapi::Result<CpuSet>;
}

/// `-icount`: instructions make the guest's time.
#[derive(Clone)]
pub struct Icount {
    /// An instruction takes 2^shift nanoseconds.
    pub shift: u32,
    /// Whether time without work is waited for (else it is skipped).
    pub sleep: bool,
    /// The guest's clock, a [`Clock::counted`] one.
    pub clock: Clock,
}

/// What an accelerator needs to make a VM.
pub struct VmConfig {
    /// Instructions make the guest's time.
    pub icount: Option<Icount>,
    /// Physical memory as CPUs see it.
    pub memory: AddressSpace,
    /// The same for accesses of the secure world, where that differs.
    pub secure_memory: Option<AddressSpace>,
    /// Options after the accelerator's name (`thread=multi`, `tb-size=64`…), as given.
    pub options: Vec<(String, String)>,
    /// CPUs; empty for machines without.
    pub cpus: Vec<Box<dyn JitCpu>>,
    /// Translator of their model, if there are CPUs.
    pub translator: Option<Arc<dyn Translator>>,
    /// Power-off and stop requests (a vCPU that cannot go on stops the VM).
    pub run: Arc<dyn RunControl>,
}

/// A way to run guests.
pub trait Accel: Send + Sync {
    /// `-accel` name.
    fn name(&self) -> &'static str;
    /// One line about it.
    fn summary(&self) -> &'static str;
    /// Whether it can run this architecture on this host; the error says why not.
    fn usable(&self, arch: &dyn GuestArch) -> Result<(), String>;
    /// Makes a VM whose vCPUs wait for [`AccelVm::resume`].
    fn new_vm(&self, config: VmConfig) -> qapi::Result<Arc<dyn AccelVm>>;
}

/// A VM of an accelerator.
pub trait AccelVm: Send + Sync {
    /// Lets the vCPUs run.
    fn resume(&self);
    /// Stops all vCPUs; returns when none executes guest code.
    fn pause(&self);
    /// Ends all vCPU threads.
    fn shutdown(&self);
    /// The host's number of each vCPU's thread, in CPU order; empty if they have none.
    fn thread_ids(&self) -> Vec<i64> {
        Vec::new()
    }
    /// Text of `info jit`.
    fn info(&self) -> String {
        String::new()
    }
    /// Text of `info registers` for a CPU; only while paused.
    fn registers(&self, cpu: usize) -> Option<String> {
        let _ = cpu;
        None
    }
    /// The instruction in these bytes as monitors show it: its bytes and what it does.
    fn disassemble(&self, pc: u64, bytes: &[u8]) -> Option<String> {
        let _ = (pc, bytes);
        None
    }
    // ------------------------------------------------------------ debugger (see [`debug`])

    /// Sets who is told about stops; `None` = nobody.
    fn set_debug_sink(&self, sink: Option<Arc<dyn DebugSink>>) {
        drop(sink);
    }
    /// Stops vCPUs before they execute the instruction at this virtual address; a second insertion of
    /// the same address counts once. Only while paused.
    ///
    /// # Errors
    /// Stops are not supported, or there are too many.
    fn insert_breakpoint(&self, addr: u64) -> Result<(), DebugError> {
        let _ = addr;
        Err(DebugError::Unsupported)
    }
    /// Takes a breakpoint back. Only while paused.
    ///
    /// # Errors
    /// It is not inserted.
    fn remove_breakpoint(&self, addr: u64) -> Result<(), DebugError> {
        let _ = addr;
        Err(DebugError::NotFound)
    }
    /// Stops vCPUs before they access bytes of `[addr, addr + len)`. Only while paused.
    ///
    /// # Errors
    /// Stops are not supported, the range is empty or wraps, or there are too many.
    fn insert_watchpoint(&self, addr: u64, len: u64, kind: WatchKind) -> Result<(), DebugError> {
        let _ = (addr, len, kind);
        Err(DebugError::Unsupported)
    }
    /// Takes a watchpoint back. Only while paused.
    ///
    /// # Errors
    /// It is not inserted.
    fn remove_watchpoint(&self, addr: u64, len: u64, kind: WatchKind) -> Result<(), DebugError> {
        let _ = (addr, len, kind);
        Err(DebugError::NotFound)
    }
    /// Takes all points back (the debugger detached). Only while paused.
    fn clear_debug_points(&self) {}
    /// As [`AccelVm::resume`], but each vCPU as `plan` says, by CPU index; those beyond its end run.
    /// Holds until the next resume.
    fn resume_as(&self, plan: &[RunAs]) {
        let _ = plan;
        self.resume();
    }
    /// Runs `f` on a CPU object, for registers and saved state; only while paused. False: no such CPU.
    fn with_cpu(&self, cpu: usize, f: &mut dyn FnMut(&mut dyn JitCpu)) -> bool {
        let _ = (cpu, f);
        false
    }
    /// Reads guest memory by virtual address as `cpu` would in its current state, without permission
    /// checks of the current level's privilege beyond what a privileged load has, and without stops,
    /// MMIO or other effects. False: some byte is not mapped RAM. Only while paused.
    fn read_virtual(&self, cpu: usize, va: u64, bytes: &mut [u8]) -> bool {
        let _ = (cpu, va, bytes);
        false
    }
    /// Writes guest memory likewise, read-only pages included; translated code there is dropped.
    fn write_virtual(&self, cpu: usize, va: u64, bytes: &[u8]) -> bool {
        let _ = (cpu, va, bytes);
        false
    }
}
