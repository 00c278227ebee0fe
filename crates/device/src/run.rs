//! What devices may ask of the machine's run state.

/// Why the machine is shut down or reset; names as in QMP's `ShutdownCause`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An error of the host.
    HostError,
    /// QMP `quit`.
    HostQmpQuit,
    /// QMP `system_reset`.
    HostQmpSystemReset,
    /// A signal, such as SIGTERM.
    HostSignal,
    /// A window was closed, or Ctrl-A x.
    HostUi,
    /// The guest powered off.
    GuestShutdown,
    /// The guest asked for a reset.
    GuestReset,
    /// The guest panicked.
    GuestPanic,
    /// Part of the machine was reset.
    SubsystemReset,
    /// A snapshot is being loaded.
    SnapshotLoad,
}

impl Cause {
    /// The QMP name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Cause::HostError => "host-error",
            Cause::HostQmpQuit => "host-qmp-quit",
            Cause::HostQmpSystemReset => "host-qmp-system-reset",
            Cause::HostSignal => "host-signal",
            Cause::HostUi => "host-ui",
            Cause::GuestShutdown => "guest-shutdown",
            Cause::GuestReset => "guest-reset",
            Cause::GuestPanic => "guest-panic",
            Cause::SubsystemReset => "subsystem-reset",
            Cause::SnapshotLoad => "snapshot-load",
        }
    }

    /// Whether the guest caused it.
    #[must_use]
    pub fn is_guest(self) -> bool {
        matches!(
            self,
            Cause::GuestShutdown | Cause::GuestReset | Cause::GuestPanic | Cause::SubsystemReset
        )
    }
}

/// A wish for the main loop; taken up after the caller returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Power off.
    Shutdown(Cause),
    /// Reset the machine.
    Reset(Cause),
    /// Press the power button.
    Powerdown,
    /// Stop the virtual machine, as the monitor's `stop`.
    Stop,
    /// End the emulator with this status, as a test program in the guest asks.
    Exit(u8),
}

/// Takes requests from any thread and never blocks.
pub trait RunControl: Send + Sync {
    /// Notes the request; it is carried out by the main loop.
    fn request(&self, request: Request);
}
