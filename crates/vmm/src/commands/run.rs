//! Commands that start, stop and end the guest.

use derive::Qapi;
use device::{Cause, Request};
use qapi::Result;

use super::QmpCommand;
use crate::{RunState, Vm};

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
