//! Events that go to every QMP client.

use device::Cause;
use qapi::{Qapi as _, TypeRef, Value};

/// An event with its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The name.
    pub name: &'static str,
    /// The data; `None` when the event has none.
    pub data: Option<Value>,
    /// Host time, nanoseconds since 1970.
    pub at: i64,
}

impl Event {
    /// The event as it goes over the wire.
    pub fn to_value(&self) -> Value {
        let time = Value::map([
            ("seconds", Value::Int(self.at.div_euclid(1_000_000_000))),
            ("microseconds", Value::Int(self.at.rem_euclid(1_000_000_000) / 1000)),
        ]);
        let mut value = Value::map([("timestamp", time), ("event", Value::from(self.name))]);
        if let Some(data) = &self.data {
            value.set("data", data.clone());
        }
        value
    }
}

/// Takes events; called on the main loop.
pub trait EventSink: Send + Sync {
    /// An event happened.
    fn event(&self, event: &Event);
}

/// Data of `SHUTDOWN` and `RESET`.
#[derive(derive::Qapi)]
pub(crate) struct CauseData {
    /// Whether the guest asked for it.
    pub(crate) guest: bool,
    /// Why.
    pub(crate) reason: ShutdownCause,
}

/// Why the machine is shut down or reset.
#[derive(derive::Qapi)]
pub(crate) enum ShutdownCause {
    /// An error of the host.
    HostError,
    /// QMP `quit`.
    HostQmpQuit,
    /// QMP `system_reset`.
    HostQmpSystemReset,
    /// A signal.
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

impl From<Cause> for ShutdownCause {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::HostError => Self::HostError,
            Cause::HostQmpQuit => Self::HostQmpQuit,
            Cause::HostQmpSystemReset => Self::HostQmpSystemReset,
            Cause::HostSignal => Self::HostSignal,
            Cause::HostUi => Self::HostUi,
            Cause::GuestShutdown => Self::GuestShutdown,
            Cause::GuestReset => Self::GuestReset,
            Cause::GuestPanic => Self::GuestPanic,
            Cause::SubsystemReset => Self::SubsystemReset,
            Cause::SnapshotLoad => Self::SnapshotLoad,
        }
    }
}

/// Every event with the type of its data, for the schema.
pub static EVENTS: &[(&str, TypeRef)] = &[
    ("ACPI_DEVICE_OST", crate::commands::AcpiDeviceOst::type_info),
    ("BALLOON_CHANGE", crate::commands::BalloonInfo::type_info),
    ("BLOCK_IO_ERROR", crate::commands::BlockIoError::type_info),
    ("BLOCK_JOB_CANCELLED", crate::commands::BlockJobEnd::type_info),
    ("BLOCK_JOB_COMPLETED", crate::commands::BlockJobEnd::type_info),
    ("BLOCK_JOB_ERROR", crate::commands::BlockJobError::type_info),
    ("BLOCK_JOB_PENDING", crate::commands::BlockJobPending::type_info),
    ("BLOCK_JOB_READY", crate::commands::BlockJobEnd::type_info),
    ("JOB_STATUS_CHANGE", crate::commands::JobStatusChange::type_info),
    ("BLOCK_WRITE_THRESHOLD", crate::commands::BlockWriteThreshold::type_info),
    ("DEVICE_TRAY_MOVED", crate::commands::TrayMoved::type_info),
    ("DEVICE_DELETED", crate::commands::DeviceDeleted::type_info),
    ("MIGRATION", crate::commands::Migration::type_info),
    ("MIGRATION_PASS", crate::commands::MigrationPass::type_info),
    ("NETDEV_STREAM_CONNECTED", crate::commands::StreamConnected::type_info),
    ("NETDEV_STREAM_DISCONNECTED", crate::commands::StreamDisconnected::type_info),
    ("NIC_RX_FILTER_CHANGED", crate::commands::RxFilterChanged::type_info),
    ("SHUTDOWN", CauseData::type_info),
    ("POWERDOWN", <()>::type_info),
    ("RESET", CauseData::type_info),
    ("STOP", <()>::type_info),
    ("RESUME", <()>::type_info),
];
