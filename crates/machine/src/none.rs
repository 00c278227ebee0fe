//! Machine `none`: nothing at all, for asking questions over QMP.

use derive::Qapi;

use crate::board::Board;
use crate::class::{MachineClass, MachineType};

/// The class for the catalog.
pub static CLASS: MachineClass = MachineClass::of::<None>();

/// Properties of `none`.
#[derive(Clone, Debug, Default, Qapi)]
pub(crate) struct Props {}

struct None;

impl MachineType for None {
    const NAME: &'static str = "none";
    const SUMMARY: &'static str = "empty machine";
    const ARCH: Option<&'static str> = Option::None;
    const DEFAULT_CPU: Option<&'static str> = Option::None;
    const MAX_CPUS: u32 = 1;
    const DEFAULT_RAM: u64 = 0;
    type Props = Props;

    fn create(_: Props, _: &mut Board<'_>) -> qapi::Result<()> {
        Ok(())
    }
}
