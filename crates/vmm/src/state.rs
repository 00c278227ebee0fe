//! Run states.

use derive::Qapi;

/// What the virtual machine is doing; names as in QMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Qapi)]
#[qapi(name = "RunState")]
pub enum RunState {
    /// Not started yet, or reset while stopped.
    Prelaunch,
    /// Guest code runs.
    Running,
    /// Stopped by an operator.
    Paused,
    /// The guest powered off and the emulator stays (`-no-shutdown`).
    Shutdown,
    /// An error of the emulator or the host stopped it.
    InternalError,
    /// The guest panicked.
    GuestPanicked,
    /// A request of a disk failed, and the policy says to stop.
    IoError,
    /// A debugger stopped it.
    Debug,
    /// Its state is being saved.
    SaveVm,
    /// Its state is being loaded.
    RestoreVm,
}

impl RunState {
    /// The name in QMP and in `info status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prelaunch => "prelaunch",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Shutdown => "shutdown",
            Self::InternalError => "internal-error",
            Self::GuestPanicked => "guest-panicked",
            Self::IoError => "io-error",
            Self::Debug => "debug",
            Self::SaveVm => "save-vm",
            Self::RestoreVm => "restore-vm",
        }
    }

    /// Whether the guest must be reset before it can run again.
    pub fn needs_reset(self) -> bool {
        matches!(self, Self::Shutdown | Self::InternalError)
    }
}
