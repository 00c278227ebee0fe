//! What is asked of jobs: `job-*`, `block-job-*`, `query-jobs`, `query-block-jobs`; their events.
//!
//! [`serve`] gives the machine its jobs and turns what they tell into events. Transactions of jobs
//! and `block-job-change` are not built.

use std::sync::Arc;

use block_jobs::{About, JobError, JobType, Jobs, Status as JobStatus, Told};
use derive::Qapi;
use qapi::{Error, Qapi as _, Result};

use super::super::QmpCommand;
use crate::Vm;

/// How a device's or job's last requests went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Qapi)]
pub(crate) enum BlockDeviceIoStatus {
    /// Well.
    Ok,
    /// Not.
    Failed,
    /// There was no space left.
    Nospace,
}

/// What `JOB_STATUS_CHANGE` says.
#[derive(Qapi)]
pub(crate) struct JobStatusChange {
    /// Its state.
    status: JobStatus,
    /// The job.
    id: String,
}

/// What `BLOCK_JOB_COMPLETED`, `_CANCELLED` and `_READY` say.
#[derive(Qapi)]
pub(crate) struct BlockJobEnd {
    /// The job.
    device: String,
    /// To do.
    len: u64,
    /// Done.
    offset: u64,
    /// Bytes per second; 0: no limit.
    speed: u64,
    /// What the job does.
    r#type: JobType,
    /// Why it failed.
    error: Option<String>,
}

impl BlockJobEnd {
    fn of(about: &About, with_error: bool) -> BlockJobEnd {
        BlockJobEnd {
            r#type: about.kind,
            device: about.id.clone(),
            len: about.total,
            offset: about.current,
            speed: about.speed,
            error: about.error.clone().filter(|_| with_error),
        }
    }
}

/// What `BLOCK_JOB_PENDING` says.
#[derive(Qapi)]
pub(crate) struct BlockJobPending {
    /// What the job does.
    r#type: JobType,
    /// The job.
    id: String,
}

/// What `BLOCK_JOB_ERROR` says.
#[derive(Qapi)]
pub(crate) struct BlockJobError {
    /// The job.
    device: String,
    /// `read` or `write`.
    operation: String,
    /// What is done about it.
    action: String,
}

fn tell(vm: &Vm, told: &Told) {
    let (name, data) = match told {
        Told::Status(id, status) => {
            let data = JobStatusChange { id: id.clone(), status: *status };
            ("JOB_STATUS_CHANGE", data.to_value())
        }
        Told::Ready(about) => ("BLOCK_JOB_READY", BlockJobEnd::of(about, false).to_value()),
        Told::Completed(about) => ("BLOCK_JOB_COMPLETED", BlockJobEnd::of(about, true).to_value()),
        Told::Cancelled(about) => ("BLOCK_JOB_CANCELLED", BlockJobEnd::of(about, false).to_value()),
        Told::Pending(id, kind) => {
            let data = BlockJobPending { r#type: *kind, id: id.clone() };
            ("BLOCK_JOB_PENDING", data.to_value())
        }
        Told::Error { id, write, verdict } => {
            let action = match verdict {
                JobError::Report => "report",
                JobError::Ignore => "ignore",
                JobError::Stop => "stop",
            };
            let operation = if *write { "write" } else { "read" };
            let data = BlockJobError {
                device: id.clone(),
                operation: operation.into(),
                action: action.into(),
            };
            ("BLOCK_JOB_ERROR", data.to_value())
        }
    };
    vm.emit(name, Some(data));
}

/// Gives the machine its jobs.
pub(crate) fn serve(vm: &Arc<Vm>) {
    let (handle, weak) = (vm.handle.clone(), Arc::downgrade(vm));
    let jobs = Jobs::new(
        move |call| handle.call(call),
        move |told| {
            if let Some(vm) = weak.upgrade() {
                tell(&vm, told);
            }
        },
    );
    vm.services.add(jobs);
}

/// The machine's jobs.
pub(crate) fn jobs(vm: &Vm) -> Result<Jobs> {
    vm.services.find::<Jobs>().ok_or_else(|| Error::generic("there is no storage"))
}

/// A device with a disk ended: a drive (`-drive`) ends with it, and so do its jobs. Nodes of the
/// user's own (`-blockdev`) stay, with their jobs.
pub(crate) fn drop_drive(vm: &Vm, record: &device::Record) {
    let slot = record.ability::<block::Slotted>();
    let graph = vm.services.find::<Arc<block::Graph>>();
    let (Some(slot), Some(graph)) = (slot, graph) else { return };
    let id = slot.backend().name();
    if id.is_empty() {
        return;
    }
    if let (Ok(jobs), Some(node)) = (jobs(vm), slot.backend().node()) {
        jobs.cancel_on(&node);
    }
    graph.remove_drive(id);
}

/// A job.
#[derive(Qapi)]
pub(crate) struct JobInfo {
    /// Its id.
    id: String,
    /// What it does.
    r#type: JobType,
    /// Its state.
    status: JobStatus,
    /// Done.
    current_progress: u64,
    /// To do.
    total_progress: u64,
    /// Why it failed.
    error: Option<String>,
}

/// List the jobs.
#[derive(Qapi)]
pub(crate) struct QueryJobs;

impl QmpCommand for QueryJobs {
    const NAME: &'static str = "query-jobs";
    type Returns = Vec<JobInfo>;
    fn run(self, vm: &Vm) -> Result<Vec<JobInfo>> {
        let info = |about: About| JobInfo {
            id: about.id,
            r#type: about.kind,
            status: about.status,
            current_progress: about.current,
            total_progress: about.total,
            error: about.error,
        };
        Ok(jobs(vm)?.list().into_iter().map(info).collect())
    }
}

/// A job that works on a disk.
#[derive(Qapi)]
pub(crate) struct BlockJobInfo {
    /// What it does.
    r#type: JobType,
    /// Its id.
    device: String,
    /// To do.
    len: u64,
    /// Done.
    offset: u64,
    /// It is at work right now.
    busy: bool,
    /// It was paused.
    paused: bool,
    /// Bytes per second; 0: no limit.
    speed: u64,
    /// How its last requests went.
    io_status: BlockDeviceIoStatus,
    /// It can be completed.
    ready: bool,
    /// Its state.
    status: JobStatus,
    /// Its result is put in place without being asked for.
    auto_finalize: bool,
    /// It is forgotten at its end.
    auto_dismiss: bool,
    /// Why it failed.
    error: Option<String>,
}

/// List the jobs that work on disks.
#[derive(Qapi)]
pub(crate) struct QueryBlockJobs;

impl QmpCommand for QueryBlockJobs {
    const NAME: &'static str = "query-block-jobs";
    type Returns = Vec<BlockJobInfo>;
    fn run(self, vm: &Vm) -> Result<Vec<BlockJobInfo>> {
        let info = |about: About| BlockJobInfo {
            r#type: about.kind,
            device: about.id,
            len: about.total,
            offset: about.current,
            busy: about.busy,
            paused: about.paused,
            speed: about.speed,
            io_status: match about.io_status {
                0 => BlockDeviceIoStatus::Ok,
                2 => BlockDeviceIoStatus::Nospace,
                _ => BlockDeviceIoStatus::Failed,
            },
            ready: matches!(about.status, JobStatus::Ready | JobStatus::Standby),
            status: about.status,
            auto_finalize: about.auto_finalize,
            auto_dismiss: about.auto_dismiss,
            error: about.error,
        };
        let all = jobs(vm)?.list().into_iter();
        Ok(all.filter(|about| about.kind.is_block_job()).map(info).collect())
    }
}

macro_rules! asks {
    ($doc:literal, $type:ident, $name:literal, $id:ident, $block:literal, $verb:ident) => {
        #[doc = $doc]
        #[derive(Qapi)]
        pub(crate) struct $type {
            /// The job.
            $id: String,
        }

        impl QmpCommand for $type {
            const NAME: &'static str = $name;
            type Returns = ();
            fn run(self, vm: &Vm) -> Result<()> {
                jobs(vm)?.$verb(&self.$id, $block)
            }
        }
    };
}

asks!("Pause a job.", JobPause, "job-pause", id, false, pause);
asks!("Let a job go on.", JobResume, "job-resume", id, false, resume);
asks!("Let a job that is ready end.", JobComplete, "job-complete", id, false, complete);
asks!("Put a job's result in place.", JobFinalize, "job-finalize", id, false, finalize);
asks!("Forget a job that is over.", JobDismiss, "job-dismiss", id, false, dismiss);
asks!("Pause a block job.", BlockJobPause, "block-job-pause", device, true, pause);
asks!("Let a block job go on.", BlockJobResume, "block-job-resume", device, true, resume);
asks!(
    "Let a block job that is ready end.",
    BlockJobComplete,
    "block-job-complete",
    device,
    true,
    complete
);
asks!(
    "Put a block job's result in place.",
    BlockJobFinalize,
    "block-job-finalize",
    id,
    true,
    finalize
);
asks!("Forget a block job that is over.", BlockJobDismiss, "block-job-dismiss", id, true, dismiss);

/// Cancel a job.
#[derive(Qapi)]
pub(crate) struct JobCancel {
    /// The job.
    id: String,
}

impl QmpCommand for JobCancel {
    const NAME: &'static str = "job-cancel";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        jobs(vm)?.cancel(&self.id, false, true)
    }
}

/// Cancel a block job.
#[derive(Qapi)]
pub(crate) struct BlockJobCancel {
    /// The job.
    device: String,
    /// Even if it is paused, or ready.
    force: Option<bool>,
}

impl QmpCommand for BlockJobCancel {
    const NAME: &'static str = "block-job-cancel";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        jobs(vm)?.cancel(&self.device, true, self.force.unwrap_or(false))
    }
}

/// Set a block job's speed.
#[derive(Qapi)]
pub(crate) struct BlockJobSetSpeed {
    /// The job.
    device: String,
    /// Bytes per second; 0: no limit.
    speed: i64,
}

impl QmpCommand for BlockJobSetSpeed {
    const NAME: &'static str = "block-job-set-speed";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        jobs(vm)?.set_speed(&self.device, self.speed)
    }
}
