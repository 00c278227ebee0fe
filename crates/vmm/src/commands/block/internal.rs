//! Internal snapshots of disks: `blockdev-snapshot-internal-sync` and its deletion.
//!
//! They hold the disk alone, not the machine.

use std::sync::Arc;

use block::{Node, Snapshot, SnapshotChange};
use derive::Qapi;
use qapi::{Error, Result};

use super::super::QmpCommand;
use super::graph;
use super::info::{SnapshotInfo, snapshot};
use super::layers::root_of;
use crate::Vm;

/// Take an internal snapshot of a disk.
#[derive(Clone, Qapi)]
pub(crate) struct BlockdevSnapshotInternalSync {
    /// The drive or root node.
    pub(super) device: String,
    /// The snapshot's name.
    pub(super) name: String,
}

fn root(vm: &Vm, device: &str) -> Result<Arc<Node>> {
    root_of(&*graph(vm)?, device).unwrap_or_else(|| {
        let text = format!("Cannot find device='{device}' nor node-name='{device}'");
        Err(Error::generic(text))
    })
}

fn busy(vm: &Vm, node: &Arc<Node>) -> Result<()> {
    let graph = graph(vm)?;
    match graph.why_blocked(node) {
        Some(why) => {
            let name = graph.name_of(node);
            Err(Error::generic(format!("Node '{name}' is busy: {why}")))
        }
        None => Ok(()),
    }
}

impl BlockdevSnapshotInternalSync {
    /// Takes it; nothing is under way. The image and the snapshot's id come back.
    pub(super) fn take(&self, vm: &Vm) -> Result<(Arc<Node>, String)> {
        let (device, name) = (&self.device, &self.name);
        let node = root(vm, device)?;
        busy(vm, &node)?;
        let node = node.skip_filters();
        if node.is_read_only() {
            return Err(Error::generic(format!("Device '{device}' is read only")));
        }
        let format = node.class().name;
        if format != "qcow2" {
            return Err(Error::generic(format!(
                "Block format '{format}' used by device '{device}' does not support internal snapshots"
            )));
        }
        if name.is_empty() {
            return Err(Error::generic("Name is empty"));
        }
        let known = node.driver().format_info().snapshots;
        if known.iter().any(|snapshot| snapshot.name == *name) {
            return Err(Error::generic(format!(
                "Snapshot with name '{name}' already exists on device '{device}'"
            )));
        }
        let now = host::realtime_ns();
        let seconds = u32::try_from(now.div_euclid(1_000_000_000)).unwrap_or(0);
        let nanoseconds = u32::try_from(now.rem_euclid(1_000_000_000)).unwrap_or(0);
        let about = Snapshot {
            name: name.clone(),
            seconds,
            nanoseconds,
            clock: vm.clock.now_ns(),
            icount: if vm.clock.is_counted() { vm.clock.steps() } else { u64::MAX },
            ..Snapshot::default()
        };
        let change = SnapshotChange::Create(about);
        node.driver().change_snapshot(&change).map_err(|error| {
            let why = host::reason(&error);
            Error::generic(format!(
                "Failed to create snapshot '{name}' on device '{device}': {why}"
            ))
        })?;
        let all = node.driver().format_info().snapshots;
        let made = all.into_iter().find(|snapshot| snapshot.name == *name);
        Ok((node, made.map(|snapshot| snapshot.id).unwrap_or_default()))
    }
}

impl QmpCommand for BlockdevSnapshotInternalSync {
    const NAME: &'static str = "blockdev-snapshot-internal-sync";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        let graph = graph(vm)?;
        let _still = graph.drain();
        self.take(vm).map(|_| ())
    }
}

/// Delete an internal snapshot of a disk.
#[derive(Qapi)]
pub(crate) struct BlockdevSnapshotDeleteInternalSync {
    /// The drive or root node.
    device: String,
    /// The snapshot's number.
    id: Option<String>,
    /// The snapshot's name.
    name: Option<String>,
}

impl QmpCommand for BlockdevSnapshotDeleteInternalSync {
    const NAME: &'static str = "blockdev-snapshot-delete-internal-sync";
    type Returns = SnapshotInfo;
    fn run(self, vm: &Vm) -> Result<SnapshotInfo> {
        let device = &self.device;
        let node = root(vm, device)?;
        if self.id.is_none() && self.name.is_none() {
            return Err(Error::generic("Name or id must be provided"));
        }
        busy(vm, &node)?;
        let node = node.skip_filters();
        if node.class().name != "qcow2" {
            let text = "Failed to get a snapshot list: Operation not supported";
            return Err(Error::generic(text));
        }
        let known = node.driver().format_info().snapshots;
        let found = known.into_iter().find(|snapshot| {
            self.id.as_ref().is_none_or(|id| snapshot.id == *id)
                && self.name.as_ref().is_none_or(|name| snapshot.name == *name)
        });
        let found = found.ok_or_else(|| {
            let word = |given: &Option<String>| given.clone().unwrap_or_else(|| "null".into());
            Error::generic(format!(
                "Snapshot with id '{}' and name '{}' does not exist on device '{device}'",
                word(&self.id),
                word(&self.name)
            ))
        })?;
        let graph = graph(vm)?;
        let _still = graph.drain();
        let change = SnapshotChange::Delete(found.id.clone());
        node.driver()
            .change_snapshot(&change)
            .map_err(|error| Error::generic(host::reason(&error)))?;
        Ok(snapshot(&found))
    }
}
