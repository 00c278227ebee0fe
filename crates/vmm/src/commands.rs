//! QMP commands: a command is a struct of its arguments, and its documentation is the help.
//!
//! One file per area; [`COMMANDS`] lists what exists, and only what works.

mod balloon;
mod block;
mod chardev;
mod control;
mod cpu_model;
mod devices;
mod facts;
mod fd;
mod machine;
mod memory;
mod migration;
mod net;
mod pci;
mod qom;
mod run;
mod vm_snapshot;

use qapi::{Error, Qapi, Result, Source, TypeRef, Value};

use crate::Vm;

/// A QMP command.
pub trait QmpCommand: Qapi {
    /// The name on the wire.
    const NAME: &'static str;
    /// What management programs may find out about it (`features` of the schema).
    const FEATURES: &'static [&'static str] = &[];
    /// It may be sent out of band.
    const OOB: bool = false;
    /// What it gives back.
    type Returns: Qapi;
    /// Carries it out.
    fn run(self, vm: &Vm) -> Result<Self::Returns>;
}

/// A command without its types.
pub struct Command {
    /// The name on the wire.
    pub name: &'static str,
    /// Type of the arguments.
    pub args: TypeRef,
    /// Type of the reply.
    pub returns: TypeRef,
    /// Features in the schema.
    pub features: &'static [&'static str],
    /// It may be sent out of band.
    pub oob: bool,
    /// Converts, carries out, converts back.
    pub run: fn(&Vm, Value) -> Result<Value>,
}

impl Command {
    /// The erased form of a command.
    pub const fn of<C: QmpCommand>() -> Self {
        Self {
            name: C::NAME,
            args: C::type_info,
            returns: <C::Returns as Qapi>::type_info,
            features: C::FEATURES,
            oob: C::OOB,
            run: |vm, args| {
                let command = C::from_value(args, Source::Json)?;
                command.run(vm).map(|reply| reply.to_value())
            },
        }
    }
}

/// All commands.
pub static COMMANDS: &[Command] = &[
    Command::of::<fd::AddFd>(),
    Command::of::<block::create::BlockdevCreate>(),
    Command::of::<block::jobs::BlockJobCancel>(),
    Command::of::<block::jobs::BlockJobComplete>(),
    Command::of::<block::jobs::BlockJobDismiss>(),
    Command::of::<block::jobs::BlockJobFinalize>(),
    Command::of::<block::jobs::BlockJobPause>(),
    Command::of::<block::jobs::BlockJobResume>(),
    Command::of::<block::jobs::BlockJobSetSpeed>(),
    Command::of::<block::jobs::JobCancel>(),
    Command::of::<block::jobs::JobComplete>(),
    Command::of::<block::jobs::JobDismiss>(),
    Command::of::<block::jobs::JobFinalize>(),
    Command::of::<block::jobs::JobPause>(),
    Command::of::<block::jobs::JobResume>(),
    Command::of::<block::jobs::QueryBlockJobs>(),
    Command::of::<block::jobs::QueryJobs>(),
    Command::of::<block::layers::BlockCommit>(),
    Command::of::<block::layers::BlockStream>(),
    Command::of::<block::change::BlockdevReopen>(),
    Command::of::<block::layers::ChangeBackingFile>(),
    Command::of::<block::internal::BlockdevSnapshotDeleteInternalSync>(),
    Command::of::<block::internal::BlockdevSnapshotInternalSync>(),
    Command::of::<block::limits::BlockSetIoThrottle>(),
    Command::of::<block::limits::BlockSetWriteThreshold>(),
    Command::of::<block::change::BlockResize>(),
    Command::of::<block::change::BlockdevAdd>(),
    Command::of::<block::change::BlockdevChangeMedium>(),
    Command::of::<block::change::BlockdevCloseTray>(),
    Command::of::<block::change::BlockdevDel>(),
    Command::of::<block::change::BlockdevInsertMedium>(),
    Command::of::<block::change::BlockdevOpenTray>(),
    Command::of::<block::change::BlockdevRemoveMedium>(),
    Command::of::<block::change::Eject>(),
    Command::of::<block::snapshot::BlockdevSnapshot>(),
    Command::of::<block::snapshot::BlockdevSnapshotSync>(),
    Command::of::<block::snapshot::Transaction>(),
    Command::of::<block::info::QueryBlock>(),
    Command::of::<block::info::QueryNamedBlockNodes>(),
    Command::of::<block::stats::QueryBlockstats>(),
    Command::of::<fd::Closefd>(),
    Command::of::<fd::Getfd>(),
    Command::of::<fd::QueryFdsets>(),
    Command::of::<fd::RemoveFd>(),
    Command::of::<chardev::ChardevAdd>(),
    Command::of::<chardev::ChardevRemove>(),
    Command::of::<chardev::ChardevSendBreak>(),
    Command::of::<chardev::QueryChardev>(),
    Command::of::<chardev::QueryChardevBackends>(),
    Command::of::<chardev::RingbufRead>(),
    Command::of::<chardev::RingbufWrite>(),
    Command::of::<run::Cont>(),
    Command::of::<devices::DeviceAdd>(),
    Command::of::<devices::DeviceDel>(),
    Command::of::<devices::DeviceListProperties>(),
    Command::of::<machine::Dumpdtb>(),
    Command::of::<control::HumanMonitorCommand>(),
    Command::of::<qom::ObjectAdd>(),
    Command::of::<qom::ObjectDel>(),
    Command::of::<control::QmpCapabilities>(),
    Command::of::<qom::QomGet>(),
    Command::of::<qom::QomList>(),
    Command::of::<qom::QomListProperties>(),
    Command::of::<qom::QomListTypes>(),
    Command::of::<qom::QomSet>(),
    Command::of::<control::QueryCommandLineOptions>(),
    Command::of::<control::QueryCommands>(),
    Command::of::<net::AnnounceSelf>(),
    Command::of::<net::NetdevAdd>(),
    Command::of::<net::NetdevDel>(),
    Command::of::<net::QueryRxFilter>(),
    Command::of::<net::SetLink>(),
    Command::of::<machine::QueryCpuDefinitions>(),
    Command::of::<machine::QueryCpusFast>(),
    Command::of::<machine::QueryKvm>(),
    Command::of::<machine::QueryMachines>(),
    Command::of::<facts::InjectNmi>(),
    Command::of::<facts::QueryCurrentMachine>(),
    Command::of::<facts::QueryDisplayOptions>(),
    Command::of::<facts::QueryGicCapabilities>(),
    Command::of::<facts::QueryHotpluggableCpus>(),
    Command::of::<facts::QueryIothreads>(),
    Command::of::<migration::MigrateSetCapabilities>(),
    Command::of::<migration::QueryMigrate>(),
    Command::of::<migration::QueryMigrateCapabilities>(),
    Command::of::<facts::QueryTpmModels>(),
    Command::of::<facts::QueryTpmTypes>(),
    Command::of::<facts::QueryYank>(),
    Command::of::<facts::Yank>(),
    Command::of::<balloon::Balloon>(),
    Command::of::<balloon::QueryBalloon>(),
    Command::of::<cpu_model::QueryCpuModelExpansion>(),
    Command::of::<memory::Memsave>(),
    Command::of::<pci::QueryPci>(),
    Command::of::<memory::Pmemsave>(),
    Command::of::<memory::QueryMemdev>(),
    Command::of::<memory::QueryAcpiOspmStatus>(),
    Command::of::<memory::QueryMemoryDevices>(),
    Command::of::<memory::QueryMemorySizeSummary>(),
    Command::of::<control::QueryName>(),
    Command::of::<control::QueryQmpSchema>(),
    Command::of::<run::QueryStatus>(),
    Command::of::<machine::QueryTarget>(),
    Command::of::<control::QueryUuid>(),
    Command::of::<control::QueryVersion>(),
    Command::of::<run::Quit>(),
    Command::of::<run::SetAction>(),
    Command::of::<vm_snapshot::SnapshotDelete>(),
    Command::of::<vm_snapshot::SnapshotLoad>(),
    Command::of::<vm_snapshot::SnapshotSave>(),
    Command::of::<run::Stop>(),
    Command::of::<run::SystemPowerdown>(),
    Command::of::<run::SystemReset>(),
    Command::of::<run::SystemWakeup>(),
    Command::of::<run::WatchdogSetAction>(),
    Command::of::<block::debug::XDebugQueryBlockGraph>(),
];

pub use self::pci::{pci_buses, pci_class_name};
pub use ::pci::FunctionInfo;
pub(crate) use balloon::{BalloonInfo, find as find_balloon};
pub(crate) use block::change::{BlockIoError, TrayMoved};
pub use block::commit_now::commit_now;
pub use block::io::io_command;
pub(crate) use block::jobs::{
    BlockJobEnd, BlockJobError, BlockJobPending, JobStatusChange, drop_drive, jobs,
    serve as serve_jobs,
};
pub(crate) use block::limits::BlockWriteThreshold;
pub use control::{Version, VersionInfo, version};
pub(crate) use devices::{DeviceDeleted, tell_deleted};
pub(crate) use memory::AcpiDeviceOst;
pub use memory::modules;
pub(crate) use migration::{Migration, MigrationPass, MigrationState, MigrationStatus};
pub use net::{Card, cards};
pub(crate) use net::{RxFilterChanged, StreamConnected, StreamDisconnected};
pub use qom::add_object;
pub use vm_snapshot::snapshot_text;

/// Carries out a command by name.
pub fn execute(vm: &Vm, name: &str, args: Value) -> Result<Value> {
    let command = COMMANDS.iter().find(|command| command.name == name);
    let value = (command.ok_or_else(|| Error::command_not_found(name))?.run)(vm, args)?;
    Ok(if block::order::is_ordered(name) { block::order::order(value) } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_name_of_its_own_and_documentation() {
        for (at, command) in COMMANDS.iter().enumerate() {
            assert!(!(command.args)().doc.is_empty(), "{} has no documentation", command.name);
            let next = COMMANDS.get(at + 1).map_or("\u{7f}", |next| next.name);
            assert!(!COMMANDS[..at].iter().any(|c| c.name == command.name), "{next}");
        }
    }
}
