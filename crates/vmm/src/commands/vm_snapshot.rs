//! `snapshot-save`, `snapshot-load`, `snapshot-delete`: snapshots of the whole machine as jobs.
//!
//! A job's thread only waits for the main loop, where machines are stopped and changed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use block_jobs::{Failure, Job, JobType, OnJobError, Pace, Spec, Work};
use derive::Qapi;
use qapi::{Error, Result};

use super::{QmpCommand, jobs};
use crate::Vm;
use crate::snapshot::{self, Disks};

type Call = Box<dyn FnOnce(&Vm) -> Result<()> + Send>;

/// Something that is done on the main loop as a job.
struct OnMainLoop {
    vm: Weak<Vm>,
    handle: evloop::Handle,
    call: Option<Call>,
}

impl Work for OnMainLoop {
    fn total(&self) -> u64 {
        1
    }
    fn run(&mut self, job: &Job) -> std::result::Result<(), Failure> {
        let Some(call) = self.call.take() else { return Ok(()) };
        let (tell, told) = channel();
        let given_up = Arc::new(AtomicBool::new(false));
        let (vm, stop) = (self.vm.clone(), given_up.clone());
        self.handle.call(Box::new(move || {
            if let Some(vm) = vm.upgrade().filter(|_| !stop.load(Ordering::SeqCst)) {
                // Nobody listens to a job that was cancelled.
                _ = tell.send(call(&vm));
            }
        }));
        loop {
            // The main loop may itself wait for this job to be cancelled.
            match told.recv_timeout(Duration::from_millis(50)) {
                Ok(done) => {
                    job.add_progress(1);
                    return done.map_err(Failure::Failed);
                }
                Err(RecvTimeoutError::Timeout) if job.breathe(0) == Pace::On => {}
                Err(_) => {
                    given_up.store(true, Ordering::SeqCst);
                    return Err(Failure::Cancelled);
                }
            }
        }
    }
}

fn start(
    vm: &Vm,
    (id, kind): (String, JobType),
    call: impl FnOnce(&Vm) -> Result<()> + Send + 'static,
) -> Result<()> {
    let spec = Spec {
        id,
        kind,
        speed: 0,
        on_error: OnJobError::Report,
        nodes: Vec::new(),
        auto_finalize: true,
        auto_dismiss: false,
    };
    let work = OnMainLoop { vm: vm.weak(), handle: vm.handle.clone(), call: Some(Box::new(call)) };
    jobs(vm)?.start(spec, || Ok(Box::new(work)))
}

/// Save the machine's state and its disks in an internal snapshot.
#[derive(Qapi)]
pub(crate) struct SnapshotSave {
    /// The job's id.
    job_id: String,
    /// The snapshot's name.
    tag: String,
    /// The node that holds the machine's state.
    vmstate: String,
    /// The nodes that take part.
    devices: Vec<String>,
}

impl QmpCommand for SnapshotSave {
    const NAME: &'static str = "snapshot-save";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        let SnapshotSave { job_id, tag, vmstate, devices } = self;
        start(vm, (job_id, JobType::SnapshotSave), move |vm| {
            let disks = Disks::named(vm, &devices, Some(&vmstate))?;
            snapshot::save(vm, &disks, Some(&tag), false)
        })
    }
}

/// Go back to an internal snapshot of the machine's state and its disks.
#[derive(Qapi)]
pub(crate) struct SnapshotLoad {
    /// The job's id.
    job_id: String,
    /// The snapshot's name.
    tag: String,
    /// The node that holds the machine's state.
    vmstate: String,
    /// The nodes that take part.
    devices: Vec<String>,
}

impl QmpCommand for SnapshotLoad {
    const NAME: &'static str = "snapshot-load";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        let SnapshotLoad { job_id, tag, vmstate, devices } = self;
        start(vm, (job_id, JobType::SnapshotLoad), move |vm| {
            let disks = Disks::named(vm, &devices, Some(&vmstate))?;
            snapshot::load(vm, &disks, &tag)
        })
    }
}

/// Delete an internal snapshot.
#[derive(Qapi)]
pub(crate) struct SnapshotDelete {
    /// The job's id.
    job_id: String,
    /// The snapshot's name.
    tag: String,
    /// The nodes that take part.
    devices: Vec<String>,
}

impl QmpCommand for SnapshotDelete {
    const NAME: &'static str = "snapshot-delete";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        let SnapshotDelete { job_id, tag, devices } = self;
        start(vm, (job_id, JobType::SnapshotDelete), move |vm| {
            let disks = Disks::named(vm, &devices, None)?;
            disks.delete(&tag)
        })
    }
}

/// What the human monitor says of snapshots.
///
/// # Errors
/// A disk cannot hold them, or there is none.
pub fn snapshot_text(vm: &Vm) -> Result<String> {
    let disks = Disks::to_list(vm)?;
    let Some(holder) = disks.state() else { return Err(Error::generic("no disk")) };
    let all: Vec<_> = holder.snapshots().into_iter().filter(|s| disks.all_have(&s.name)).collect();
    let table = block::describe::snapshot_table;
    let mut out = String::new();
    let partial: Vec<_> = disks
        .all
        .iter()
        .map(|disk| {
            let odd = disk.snapshots().into_iter().filter(|s| !disks.all_have(&s.name));
            (disk, odd.collect::<Vec<_>>())
        })
        .filter(|(_, odd)| !odd.is_empty())
        .collect();
    if all.is_empty() && partial.is_empty() {
        return Ok("There is no snapshot available.\n".into());
    }
    out.push_str("List of snapshots present on all disks:\n");
    out += &if all.is_empty() { "None\n".into() } else { table(&all, false) };
    for (disk, odd) in partial {
        let name = &disk.drive;
        out += &format!("\nList of partial (non-loadable) snapshots on '{name}':\n");
        out += &table(&odd, true);
    }
    Ok(out)
}
