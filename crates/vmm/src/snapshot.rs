//! Snapshots of the whole machine: an internal snapshot of every disk, one of which also holds the
//! machine's state ([`crate::saved`]).
//!
//! A state that is loaded is read through and checked before anything changes; a damaged one, or one
//! of another machine, leaves the running machine as it is.
//! Not here: the commands (`commands/vm_snapshot.rs`).
//! Source: QEMU's manual (VM snapshots), QMP reference (migration.json); messages of QEMU 10.0.

use std::sync::Arc;

use block::{Graph, Node, Snapshot, SnapshotChange};
use qapi::{Error, Result};

use crate::commands::MigrationStatus;
use crate::saved::{self, Source};
use crate::{RunState, Vm};

/// A disk that takes part.
pub struct Disk {
    /// What messages call it: the drive, else the node.
    pub name: String,
    /// The drive's id; empty for a node alone.
    pub drive: String,
    /// The format's node, which takes snapshots.
    node: Arc<Node>,
}

impl Disk {
    fn of(drive: &str, top: &Arc<Node>) -> Disk {
        let name = if drive.is_empty() { top.name() } else { drive };
        Disk { name: name.to_owned(), drive: drive.to_owned(), node: top.skip_filters() }
    }

    fn can_snapshot(&self) -> bool {
        self.node.class().name == "qcow2" && self.node.child("data-file").is_none()
    }

    /// Its snapshots.
    #[must_use]
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.node.driver().format_info().snapshots
    }

    /// The snapshot of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Snapshot> {
        self.snapshots().into_iter().find(|snapshot| snapshot.name == name)
    }

    fn change(&self, verb: &str, change: &SnapshotChange) -> Result<()> {
        self.node.driver().change_snapshot(change).map_err(|error| {
            let (name, why) = (&self.name, host::reason(&error));
            Error::generic(format!("Error while {verb} snapshot on '{name}': {why}"))
        })
    }
}

/// The disks of a snapshot and the one that holds the machine's state.
pub struct Disks {
    /// Those that are written to.
    pub all: Vec<Disk>,
    /// Index of the one with the state.
    state: usize,
    graph: Arc<Graph>,
}

const NO_ROOM: &str = "no block device can store vmstate for snapshot";

impl Disks {
    /// All disks that somebody could write to.
    ///
    /// # Errors
    /// One of them cannot hold snapshots, or there is none.
    pub fn all(vm: &Vm) -> Result<Disks> {
        let disks = Disks::collect(vm)?;
        if let Some(disk) = disks.all.iter().find(|disk| !disk.can_snapshot()) {
            let name = &disk.name;
            let text = format!("Device '{name}' is writable but does not support snapshots");
            return Err(Error::generic(text));
        }
        if disks.all.is_empty() { Err(Error::generic(NO_ROOM)) } else { Ok(disks) }
    }

    /// As [`Disks::all`] for a list of snapshots, which disks without any do not keep from being
    /// shown.
    ///
    /// # Errors
    /// No disk can hold the machine's state.
    pub fn to_list(vm: &Vm) -> Result<Disks> {
        let disks = Disks::collect(vm)?;
        let state = disks.all.iter().position(Disk::can_snapshot);
        let state = state.ok_or_else(|| Error::generic(NO_ROOM))?;
        Ok(Disks { state, ..disks })
    }

    /// All disks that somebody could write to.
    fn collect(vm: &Vm) -> Result<Disks> {
        let graph = vm.services.find::<Arc<Graph>>();
        let graph = graph.ok_or_else(|| Error::generic(NO_ROOM))?;
        let mut all: Vec<Disk> = Vec::new();
        let mut seen: Vec<Arc<Node>> = Vec::new();
        for backend in graph.backends() {
            if let Some(top) = backend.node().filter(|node| !node.is_read_only()) {
                all.push(Disk::of(backend.name(), &top));
                seen.push(top);
            }
        }
        // Nodes that no drive or disk has in a slot: those of flash, and those that wait for a use.
        let nodes = graph.nodes();
        for node in nodes.iter().filter(|node| !node.is_read_only()) {
            let is = |other: &Arc<Node>| Arc::ptr_eq(other, node);
            let below = nodes.iter().any(|user| user.children().iter().any(|(_, child)| is(child)));
            if !below && !seen.iter().any(is) {
                all.push(Disk::of("", node));
            }
        }
        Ok(Disks { all, state: 0, graph })
    }

    /// The nodes of these names; `state` names the one that holds the machine's state.
    ///
    /// # Errors
    /// A node does not exist or cannot hold snapshots; the one with the state is not among them.
    pub fn named(vm: &Vm, names: &[String], state: Option<&str>) -> Result<Disks> {
        let graph = vm.services.find::<Arc<Graph>>();
        let graph = graph.ok_or_else(|| Error::generic(NO_ROOM))?;
        let mut all = Vec::new();
        for name in names {
            let node = graph.backend(name);
            let node =
                node.ok_or_else(|| Error::generic(format!("No block device node '{name}'")))?;
            let disk = Disk::of("", &node);
            if !disk.can_snapshot() || node.is_read_only() {
                let text = format!("Device '{name}' is writable but does not support snapshots");
                return Err(Error::generic(text));
            }
            all.push(disk);
        }
        let found = match state {
            Some(state) => names.iter().position(|name| name == state),
            None => Some(0),
        };
        let found = found.filter(|n| *n < all.len()).ok_or_else(|| {
            let state = state.unwrap_or_default();
            Error::generic(format!("vmstate block device '{state}' does not exist"))
        });
        Ok(Disks { all, state: found?, graph })
    }

    /// Whether every disk has a snapshot of this name.
    #[must_use]
    pub fn all_have(&self, name: &str) -> bool {
        self.all.iter().all(|disk| disk.find(name).is_some())
    }

    /// The disk with the machine's state.
    #[must_use]
    pub fn state(&self) -> Option<&Disk> {
        self.all.get(self.state)
    }

    fn state_disk(&self) -> Result<&Disk> {
        self.state().ok_or_else(|| Error::generic(NO_ROOM))
    }

    /// Deletes the snapshot of this name where it is.
    ///
    /// # Errors
    /// An image cannot be written.
    pub fn delete(&self, name: &str) -> Result<()> {
        let _still = self.graph.drain();
        for disk in &self.all {
            // Several may have one name; each is named by its number.
            while let Some(found) = disk.find(name) {
                disk.change("deleting", &SnapshotChange::Delete(found.id))?;
            }
        }
        Ok(())
    }
}

/// A name for a snapshot that was given none.
fn made_up_name() -> String {
    let seconds = host::realtime_ns().div_euclid(1_000_000_000);
    let seconds = seconds + host::local_offset_seconds();
    let (year, month, day, second) = block::describe::civil(seconds);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("vm-{year:04}{month:02}{day:02}{h:02}{m:02}{s:02}")
}

/// Stops the guest while `f` runs.
fn stopped(vm: &Vm, state: RunState, f: impl FnOnce() -> Result<()>) -> Result<()> {
    let running = vm.state() == RunState::Running;
    vm.stop(state);
    if !running {
        // One that never ran has nothing paused.
        vm.pause_devices();
    }
    let done = f();
    // A guest whose RAM was replaced by half does not go on.
    if running && vm.state() == state {
        vm.cont()?;
    }
    done
}

/// Takes a snapshot; with `overwrite` one of the same name goes before.
///
/// # Errors
/// A device cannot be saved, the name is taken, an image is full.
pub fn save(vm: &Vm, disks: &Disks, name: Option<&str>, overwrite: bool) -> Result<()> {
    if let Some(name) = name {
        if overwrite {
            disks.delete(name)?;
        } else if disks.all.iter().any(|disk| disk.find(name).is_some()) {
            let text = format!("Snapshot '{name}' already exists in one or more devices");
            return Err(Error::generic(text));
        }
    }
    let name = name.map_or_else(made_up_name, str::to_owned);
    let now = host::realtime_ns();
    stopped(vm, RunState::SaveVm, || {
        let holder = disks.state_disk()?;
        let mut put = |at: u64, bytes: &[u8]| holder.node.driver().write_vm_state(at, bytes);
        vm.migration.enter(vm, MigrationStatus::Setup);
        let saved = saved::save(vm, &mut put);
        let status =
            if saved.is_ok() { MigrationStatus::Completed } else { MigrationStatus::Failed };
        if saved.is_ok() {
            vm.migration.pass(vm, 1);
        }
        vm.migration.enter(vm, status);
        let vm_state = saved?;
        let about = Snapshot {
            name: name.clone(),
            seconds: u32::try_from(now.div_euclid(1_000_000_000)).unwrap_or(0),
            nanoseconds: u32::try_from(now.rem_euclid(1_000_000_000)).unwrap_or(0),
            clock: vm.clock.now_ns(),
            icount: if vm.clock.is_counted() { vm.clock.steps() } else { u64::MAX },
            ..Snapshot::default()
        };
        let _still = disks.graph.drain();
        for (n, disk) in disks.all.iter().enumerate() {
            let vm_state = if n == disks.state { vm_state } else { 0 };
            let change = SnapshotChange::Create(Snapshot { vm_state, ..about.clone() });
            if let Err(error) = disk.change("creating", &change) {
                // None at all rather than some.
                for done in disks.all.iter().take(n) {
                    if let Some(found) = done.find(&name) {
                        _ = done.change("deleting", &SnapshotChange::Delete(found.id));
                    }
                }
                return Err(error);
            }
        }
        Ok(())
    })
}

/// Goes back to a snapshot.
///
/// # Errors
/// There is none, or it is damaged or of another machine: everything is as it was. An image that
/// cannot be written leaves the machine stopped.
pub fn load(vm: &Vm, disks: &Disks, name: &str) -> Result<()> {
    if !disks.all_have(name) {
        let text = format!("Snapshot '{name}' does not exist in one or more devices");
        return Err(Error::generic(text));
    }
    let holder = disks.state_disk()?;
    let about = holder.find(name).unwrap_or_default();
    if about.vm_state == 0 {
        return Err(Error::generic(
            "This is a disk-only snapshot. Revert to it  offline using qemu-img",
        ));
    }
    stopped(vm, RunState::RestoreVm, || {
        let read =
            |at: u64, into: &mut [u8]| holder.node.driver().read_vm_state(&about.id, at, into);
        let checked = saved::check(vm, Source { get: &mut { read }, len: about.vm_state })?;
        let _still = disks.graph.drain();
        saved::load_states(vm, &checked)?;
        // From here on the old machine is gone.
        let done = disks.all.iter().try_for_each(|disk| {
            let id = disk.find(name).map(|found| found.id).unwrap_or_default();
            disk.change("reverting to", &SnapshotChange::Apply(id))
        });
        let done = done
            .and_then(|()| saved::load_ram(vm, Source { get: &mut { read }, len: about.vm_state }));
        done.inspect_err(|_| vm.give_up(RunState::InternalError))
    })
}
