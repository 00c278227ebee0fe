//! What happens when the guest resets, powers off, panics or lets its watchdog expire.

use derive::Qapi;

/// What a reset of the guest does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(name = "RebootAction")]
pub enum RebootAction {
    /// It resets.
    #[default]
    Reset,
    /// It ends the emulator.
    Shutdown,
}

/// What powering off does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(name = "ShutdownAction")]
pub enum ShutdownAction {
    /// It ends the emulator.
    #[default]
    Poweroff,
    /// The guest stays, stopped.
    Pause,
}

/// What a panic of the guest does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(name = "PanicAction")]
pub enum PanicAction {
    /// The guest stays, stopped.
    Pause,
    /// It ends the emulator.
    #[default]
    Shutdown,
    /// It ends the emulator with status 1.
    ExitFailure,
    /// Nothing.
    None,
}

/// What an expired watchdog does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(name = "WatchdogAction")]
pub enum WatchdogAction {
    /// It resets.
    #[default]
    Reset,
    /// It asks the guest to power off.
    Shutdown,
    /// It ends the emulator.
    Poweroff,
    /// The guest stays, stopped.
    Pause,
    /// A line in the log.
    Debug,
    /// Nothing.
    None,
    /// A non-maskable interrupt.
    InjectNmi,
}

/// All of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Actions {
    /// On reset.
    pub reboot: RebootAction,
    /// On power-off.
    pub shutdown: ShutdownAction,
    /// On panic.
    pub panic: PanicAction,
    /// On an expired watchdog.
    pub watchdog: WatchdogAction,
}
