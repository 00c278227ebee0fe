//! What managers ask of migration: abilities, the state of the last one, and events of `savevm`.
//!
//! There is no migration between hosts; the one ability is `events`, which tells of the machine's
//! state being saved in a snapshot.
//! Source: QEMU's QMP reference (migration.json); replies and events of QEMU 10.0.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use derive::Qapi;
use qapi::{Qapi as _, Result};

use super::QmpCommand;
use crate::Vm;

/// What migration can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Qapi)]
enum MigrationCapability {
    /// Events tell how far it is.
    Events,
}

/// An ability of migration.
#[derive(Qapi)]
pub(crate) struct MigrationCapabilityStatus {
    /// Its name.
    capability: MigrationCapability,
    /// Whether it is on.
    state: bool,
}

/// Where migration, or saving, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Qapi)]
pub(crate) enum MigrationStatus {
    /// It begins.
    Setup,
    /// It is over and well.
    Completed,
    /// It failed.
    Failed,
}

/// What was asked for, and how the last one went.
#[derive(Default)]
pub(crate) struct MigrationState {
    events: AtomicBool,
    /// 0: there was none; else one more than the number of the status.
    last: AtomicU8,
}

const STATES: [MigrationStatus; 3] =
    [MigrationStatus::Setup, MigrationStatus::Completed, MigrationStatus::Failed];

impl MigrationState {
    /// Notes a status and tells it where that is asked for.
    pub(crate) fn enter(&self, vm: &Vm, status: MigrationStatus) {
        let number = STATES.iter().zip(1..).find(|(known, _)| **known == status);
        self.last.store(number.map_or(0, |(_, n)| n), Ordering::Relaxed);
        if self.events.load(Ordering::Relaxed) {
            vm.emit("MIGRATION", Some(Migration { status }.to_value()));
        }
    }

    /// Tells that RAM is gone through once.
    pub(crate) fn pass(&self, vm: &Vm, pass: i64) {
        if self.events.load(Ordering::Relaxed) {
            vm.emit("MIGRATION_PASS", Some(MigrationPass { pass }.to_value()));
        }
    }
}

/// What `MIGRATION` says.
#[derive(Qapi)]
pub(crate) struct Migration {
    /// Where it is.
    status: MigrationStatus,
}

/// What `MIGRATION_PASS` says.
#[derive(Qapi)]
pub(crate) struct MigrationPass {
    /// The number of the pass, from 1.
    pass: i64,
}

/// List the abilities of migration.
#[derive(Qapi)]
pub(super) struct QueryMigrateCapabilities;

impl QmpCommand for QueryMigrateCapabilities {
    const NAME: &'static str = "query-migrate-capabilities";
    type Returns = Vec<MigrationCapabilityStatus>;
    fn run(self, vm: &Vm) -> Result<Vec<MigrationCapabilityStatus>> {
        let state = vm.migration.events.load(Ordering::Relaxed);
        Ok(vec![MigrationCapabilityStatus { capability: MigrationCapability::Events, state }])
    }
}

/// Switch abilities of migration on or off.
#[derive(Qapi)]
pub(super) struct MigrateSetCapabilities {
    /// Which.
    capabilities: Vec<MigrationCapabilityStatus>,
}

impl QmpCommand for MigrateSetCapabilities {
    const NAME: &'static str = "migrate-set-capabilities";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        for MigrationCapabilityStatus { capability: MigrationCapability::Events, state } in
            self.capabilities
        {
            vm.migration.events.store(state, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// How the last migration, or saving of the machine's state, went.
#[derive(Qapi)]
pub(crate) struct MigrationInfo {
    /// Where it is; absent if there was none.
    status: Option<MigrationStatus>,
}

/// Tell how the last migration went.
#[derive(Qapi)]
pub(super) struct QueryMigrate;

impl QmpCommand for QueryMigrate {
    const NAME: &'static str = "query-migrate";
    type Returns = MigrationInfo;
    fn run(self, vm: &Vm) -> Result<MigrationInfo> {
        let last = vm.migration.last.load(Ordering::Relaxed);
        let status = usize::from(last).checked_sub(1).and_then(|at| STATES.get(at)).copied();
        Ok(MigrationInfo { status })
    }
}
