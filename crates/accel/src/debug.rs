//! Stops for a debugger outside the guest: breakpoints, watchpoints, single steps.
//!
//! A debugger (the gdb stub) works through [`crate::AccelVm`]:
//!
//! 1. It registers a [`DebugSink`] once. Points are inserted and removed while the VM is paused.
//! 2. `resume_as` lets each vCPU run, step one instruction, or stay where it is.
//! 3. A vCPU that reaches a point, or has made its step, stays outside guest code and tells the sink
//!    on its own thread, with [`DebugStop`]. The sink must not block: it passes the event to the main
//!    loop, which pauses the others (`AccelVm::pause`) and talks to the debugger.
//! 4. `AccelVm::with_cpu` reaches the CPU object (registers, guest memory) while paused.
//!
//! Rules, those of QEMU's stub for Arm guests: a breakpoint stops before its instruction, also when the
//! VM is resumed right on it (a debugger removes it and steps first); a step runs the instruction at the
//! PC even if a breakpoint is there. A watchpoint stops before the access, PC at the instruction that
//! would make it; the access has not happened, and happens when that instruction is stepped or resumed
//! with the watchpoint removed. A step takes no interrupt; a synchronous exception counts as the step.
//! Addresses are virtual and match in every address space and at every exception level.
//!
//! Not here: breakpoint registers of the guest's own architecture (those are the CPU's), breakpoints
//! by physical address, conditions, counts.

/// Which accesses a watchpoint stops at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchKind {
    /// Loads (gdb `Z3`).
    Read,
    /// Stores (gdb `Z2`).
    Write,
    /// Both (gdb `Z4`).
    Access,
}

impl WatchKind {
    /// Whether an access of this direction counts.
    #[must_use]
    pub fn covers(self, write: bool) -> bool {
        match self {
            Self::Read => !write,
            Self::Write => write,
            Self::Access => true,
        }
    }
}

/// A watched range of virtual addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watchpoint {
    /// First byte.
    pub addr: u64,
    /// Bytes, at least 1.
    pub len: u64,
    /// Accesses.
    pub kind: WatchKind,
}

impl Watchpoint {
    /// Whether `[addr, addr + len)` touches the range. Ranges do not wrap around the address space.
    #[must_use]
    pub fn touches(&self, addr: u64, len: u64) -> bool {
        let end = self.addr.saturating_add(self.len);
        addr < end && self.addr < addr.saturating_add(len)
    }
}

/// Why a vCPU stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebugStop {
    /// The PC is at a breakpoint; its instruction was not executed.
    Breakpoint {
        /// The PC.
        addr: u64,
    },
    /// The instruction at the PC is about to make a watched access.
    Watchpoint {
        /// The point.
        point: Watchpoint,
        /// Address of the access.
        addr: u64,
        /// The access is a store.
        write: bool,
    },
    /// One instruction was executed.
    Step,
}

/// What a vCPU does after [`crate::AccelVm::resume_as`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunAs {
    /// Runs.
    #[default]
    Run,
    /// Executes one instruction, then reports [`DebugStop::Step`]. A vCPU that is powered off or waits
    /// for an interrupt that is not there reports at once.
    Step,
    /// Stays stopped.
    Stay,
}

/// Who is told about stops.
pub trait DebugSink: Send + Sync {
    /// A vCPU stopped and waits for the next resume. Called on the vCPU's thread; must not block.
    fn stopped(&self, cpu: usize, stop: DebugStop);
}

/// Why a point was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebugError {
    /// The accelerator has no such stops.
    Unsupported,
    /// A length of 0, a range that wraps, or more points than [`MAX_POINTS`].
    Invalid,
    /// No such point is inserted.
    NotFound,
}

/// Most breakpoints and most watchpoints at a time.
pub const MAX_POINTS: usize = 4096;
