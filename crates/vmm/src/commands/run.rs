//! Commands that start, stop and end the guest.

use derive::Qapi;
use device::{Cause, Request};
use qapi::{Error, Result};

use super::QmpCommand;
use crate::{PanicAction, RebootAction, RunState, ShutdownAction, Vm, WatchdogAction};

/// Resume guest execution.
#[derive(Qapi)]
pub(super) struct Cont;

impl QmpCommand for Cont {
    const NAME: &'static str = "cont";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        vm.cont()
    }
}

/// Stop guest execution.
#[derive(Qapi)]
pub(super) struct Stop;

impl QmpCommand for Stop {
    const NAME: &'static str = "stop";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        vm.stop(RunState::Paused);
        Ok(())
    }
}

/// End the emulator at once.
#[derive(Qapi)]
pub(super) struct Quit;

impl QmpCommand for Quit {
    const NAME: &'static str = "quit";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        vm.request(Request::Shutdown(Cause::HostQmpQuit));
        Ok(())
    }
}

/// Reset the machine.
#[derive(Qapi)]
pub(super) struct SystemReset;

impl QmpCommand for SystemReset {
    const NAME: &'static str = "system_reset";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        vm.request(Request::Reset(Cause::HostQmpSystemReset));
        Ok(())
    }
}

/// Ask the guest to power off, as its power button would.
#[derive(Qapi)]
pub(super) struct SystemPowerdown;

impl QmpCommand for SystemPowerdown {
    const NAME: &'static str = "system_powerdown";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        vm.request(Request::Powerdown);
        Ok(())
    }
}

/// Say what happens when the guest resets, powers off, panics or lets its watchdog expire.
#[derive(Qapi)]
pub(super) struct SetAction {
    /// On reset.
    reboot: Option<RebootAction>,
    /// On power-off.
    shutdown: Option<ShutdownAction>,
    /// On panic.
    panic: Option<PanicAction>,
    /// On an expired watchdog.
    watchdog: Option<WatchdogAction>,
}

impl QmpCommand for SetAction {
    const NAME: &'static str = "set-action";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        vm.set_actions(|actions| {
            actions.reboot = self.reboot.unwrap_or(actions.reboot);
            actions.shutdown = self.shutdown.unwrap_or(actions.shutdown);
            actions.panic = self.panic.unwrap_or(actions.panic);
            actions.watchdog = self.watchdog.unwrap_or(actions.watchdog);
        });
        Ok(())
    }
}

/// Say what happens when the guest's watchdog expires.
#[derive(Qapi)]
pub(super) struct WatchdogSetAction {
    /// What happens.
    action: WatchdogAction,
}

impl QmpCommand for WatchdogSetAction {
    const NAME: &'static str = "watchdog-set-action";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        vm.set_actions(|actions| actions.watchdog = self.action);
        Ok(())
    }
}

/// Wake the guest from suspend.
#[derive(Qapi)]
pub(super) struct SystemWakeup;

impl QmpCommand for SystemWakeup {
    const NAME: &'static str = "system_wakeup";
    type Returns = ();
    fn run(self, _: &Vm) -> Result<()> {
        Err(Error::generic("wake-up from suspend is not supported by this guest"))
    }
}

/// The run state.
#[derive(Qapi)]
pub(super) struct StatusInfo {
    /// The state by name.
    status: RunState,
    /// Whether guest code runs.
    running: bool,
}

/// Tell the run state.
#[derive(Qapi)]
pub(super) struct QueryStatus;

impl QmpCommand for QueryStatus {
    const NAME: &'static str = "query-status";
    type Returns = StatusInfo;
    fn run(self, vm: &Vm) -> Result<StatusInfo> {
        let status = vm.state();
        Ok(StatusInfo { status, running: status == RunState::Running })
    }
}
