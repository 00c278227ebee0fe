//! Commands about the memory balloon.

use std::sync::Arc;

use derive::Qapi;
use device::Balloon as Ability;
use qapi::{Class, Error, Result};

use super::QmpCommand;
use crate::Vm;

/// The balloon of the machine, if it has one.
pub(crate) fn find(vm: &Vm) -> Result<Arc<dyn Ability>> {
    let all = vm.machine().map(|machine| machine.devices.all()).unwrap_or_default();
    let found = all.iter().find_map(|record| record.ability::<Arc<dyn Ability>>());
    let missing = "No balloon device has been activated";
    found.ok_or_else(|| Error::new(Class::DeviceNotActive, missing))
}

/// Ask the guest to keep so much of its memory and give the rest back.
#[derive(Qapi)]
pub(super) struct Balloon {
    /// Bytes it keeps.
    value: i64,
}

impl QmpCommand for Balloon {
    const NAME: &'static str = "balloon";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        let balloon = find(vm)?;
        let bytes = u64::try_from(self.value).ok().filter(|bytes| *bytes > 0);
        let bytes = bytes.ok_or_else(|| Error::expects("value", "a size"))?;
        balloon.set_target(bytes);
        Ok(())
    }
}

/// How much memory the guest has.
#[derive(Qapi)]
pub(crate) struct BalloonInfo {
    /// Bytes.
    pub(crate) actual: u64,
}

/// Tell how much memory the guest has.
#[derive(Qapi)]
pub(super) struct QueryBalloon;

impl QmpCommand for QueryBalloon {
    const NAME: &'static str = "query-balloon";
    type Returns = BalloonInfo;
    fn run(self, vm: &Vm) -> Result<BalloonInfo> {
        Ok(BalloonInfo { actual: find(vm)?.actual() })
    }
}
