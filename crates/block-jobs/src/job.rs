//! One job: its state, and what its thread asks between two steps.
//!
//! The thread never changes [`Status`]; it waits ([`Job::breathe`]) and the main loop tells the
//! others. The speed is kept by waiting after each step as long as its bytes take.
//! Not here: who may ask for what in which state (`list.rs`).
//! Source: QEMU's QMP reference, JobStatus.

#![expect(clippy::disallowed_methods, reason = "speed is kept in the host's time")]

use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use derive::Qapi;
use parking_lot::{Condvar, Mutex, MutexGuard};
use qapi::{Error, Result};

use crate::list::{Inner, Told};

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Qapi)]
pub enum JobType {
    /// Merge into the base.
    Commit,
    /// Merge from below.
    Stream,
    /// Make an image.
    Create,
    /// Save the machine.
    SnapshotSave,
    /// Go back to a saved machine.
    SnapshotLoad,
    /// Delete a saved machine.
    SnapshotDelete,
}

impl JobType {
    /// Whether it is one of those that `query-block-jobs` shows and that have events of their own.
    #[must_use]
    pub fn is_block_job(self) -> bool {
        matches!(self, JobType::Stream | JobType::Commit)
    }

    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            JobType::Stream => "stream",
            JobType::Commit => "commit",
            JobType::Create => "create",
            JobType::SnapshotSave => "snapshot-save",
            JobType::SnapshotLoad => "snapshot-load",
            JobType::SnapshotDelete => "snapshot-delete",
        }
    }
}

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Qapi)]
#[qapi(name = "JobStatus")]
pub enum Status {
    /// Not begun.
    Created,
    /// At work.
    Running,
    /// Waits to be resumed.
    Paused,
    /// Can be completed.
    Ready,
    /// Ready and paused.
    Standby,
    /// Waits for others.
    Waiting,
    /// Waits to be finalized.
    Pending,
    /// Being undone.
    Aborting,
    /// Over.
    Concluded,
    /// Forgotten.
    Null,
}

impl Status {
    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Ready => "ready",
            Status::Standby => "standby",
            Status::Waiting => "waiting",
            Status::Pending => "pending",
            Status::Aborting => "aborting",
            Status::Concluded => "concluded",
            Status::Null => "null",
        }
    }
}

/// What a job does about an error of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnJobError {
    /// It ends.
    #[default]
    Report,
    /// It goes on.
    Ignore,
    /// It ends, or pauses when there is no space left.
    Enospc,
    /// It pauses.
    Stop,
}

/// An error of a request and what is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobError {
    /// The job ends.
    Report,
    /// The job goes on.
    Ignore,
    /// The job pauses and tries again.
    Stop,
}

/// Why work ended early.
#[derive(Debug)]
pub enum Failure {
    /// It was cancelled.
    Cancelled,
    /// Something went wrong.
    Failed(Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Failed(Error::generic(host::reason(&error)))
    }
}

/// Whether work goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// It does.
    On,
    /// It was cancelled.
    Cancelled,
}

/// What a job does, in its three parts.
pub trait Work: Send {
    /// How much there is to do, as far as it is known before the beginning.
    fn total(&self) -> u64 {
        0
    }
    /// Does the work, on a thread of its own.
    ///
    /// # Errors
    /// Cancelled or failed.
    fn run(&mut self, job: &Job) -> std::result::Result<(), Failure>;
    /// Puts the result into the graph, on the main loop.
    ///
    /// # Errors
    /// It cannot; [`Work::abort`] follows.
    fn finish(&mut self, job: &Job) -> Result<()> {
        _ = job;
        Ok(())
    }
    /// Puts the graph back as it was, on the main loop.
    fn abort(&mut self) {}
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) status: Option<Status>,
    pub(crate) user_paused: bool,
    /// The thread waits where its status may change.
    pub(crate) parked: bool,
    pub(crate) cancelled: bool,
    /// Asked to end well.
    pub(crate) complete: bool,
    /// Asked to end without putting its result in place.
    pub(crate) leave: bool,
    pub(crate) speed: u64,
    pub(crate) current: u64,
    pub(crate) total: u64,
    /// 0 ok, 1 failed, 2 no space.
    pub(crate) io_status: u8,
    pub(crate) error: Option<String>,
    pub(crate) until: Option<Instant>,
    pub(crate) result: Option<std::result::Result<(), Failure>>,
    pub(crate) finished: bool,
    pub(crate) work: Option<Box<dyn Work>>,
    pub(crate) auto_finalize: bool,
    pub(crate) auto_dismiss: bool,
}

/// A job.
pub struct Job {
    pub(crate) nodes: Vec<Weak<block::Node>>,
    pub(crate) id: String,
    pub(crate) kind: JobType,
    pub(crate) on_error: OnJobError,
    pub(crate) state: Mutex<State>,
    pub(crate) wake: Condvar,
    pub(crate) list: Weak<Inner>,
}

impl Job {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
    /// Sets how much there is to do.
    pub fn set_total(&self, total: u64) {
        self.state.lock().total = total;
    }
    /// There is more to do.
    pub fn add_total(&self, more: u64) {
        let mut state = self.state.lock();
        state.total = state.total.saturating_add(more);
    }
    /// Some is done.
    pub fn add_progress(&self, done: u64) {
        let mut state = self.state.lock();
        state.current = state.current.saturating_add(done);
    }
    /// Whether it is asked to end well.
    #[must_use]
    pub fn is_asked_to_complete(&self) -> bool {
        let state = self.state.lock();
        state.complete || state.leave
    }
    /// Whether its result is not wanted.
    #[must_use]
    pub fn is_asked_to_leave(&self) -> bool {
        self.state.lock().leave
    }

    /// Between two steps: waits while the job is paused, and as long as the bytes of the last step
    /// take at the job's speed.
    pub fn breathe(&self, bytes: u64) -> Pace {
        let mut state = self.state.lock();
        if state.speed > 0 && bytes > 0 {
            #[expect(clippy::cast_precision_loss, reason = "a share of a second")]
            let time = (bytes as f64 / state.speed as f64).min(1e6);
            let from = state.until.map_or_else(Instant::now, |until| until.max(Instant::now()));
            state.until = Some(from + Duration::from_secs_f64(time));
        }
        loop {
            if state.cancelled {
                state.parked = false;
                return Pace::Cancelled;
            }
            if state.user_paused {
                self.park(&mut state);
                self.wake.wait(&mut state);
                continue;
            }
            let now = Instant::now();
            match state.until.filter(|until| *until > now) {
                Some(until) => {
                    state.parked = true;
                    self.wake.wait_for(&mut state, until - now);
                }
                None => {
                    state.parked = false;
                    return Pace::On;
                }
            }
        }
    }

    /// Waits a little, or until something is asked for.
    pub fn idle(&self, time: Duration) {
        let mut state = self.state.lock();
        let asked = state.complete || state.leave || state.cancelled || state.user_paused;
        if !asked {
            state.parked = true;
            self.wake.wait_for(&mut state, time);
            state.parked = false;
        }
    }

    /// The work may be ended now.
    pub fn be_ready(&self) {
        if let Some(list) = self.list.upgrade() {
            list.later(&self.id, |list, job| list.ready(job));
        }
    }

    fn park(&self, state: &mut MutexGuard<'_, State>) {
        if !state.parked
            && let Some(list) = self.list.upgrade()
        {
            list.later(&self.id, |list, job| list.enter_pause(job));
        }
        state.parked = true;
    }

    /// Decides about an error of a request and tells it; `Stop` pauses.
    pub fn decide(&self, write: bool, error: &io::Error) -> JobError {
        let no_space = error.kind() == io::ErrorKind::StorageFull;
        let verdict = match self.on_error {
            OnJobError::Ignore => JobError::Ignore,
            OnJobError::Stop => JobError::Stop,
            OnJobError::Enospc if no_space => JobError::Stop,
            _ => JobError::Report,
        };
        let mut state = self.state.lock();
        if verdict == JobError::Stop {
            // A second stop keeps the first reason.
            if state.io_status == 0 {
                state.io_status = if no_space { 2 } else { 1 };
            }
            state.user_paused = true;
        }
        drop(state);
        if let Some(list) = self.list.upgrade() {
            list.later(&self.id, move |list, job| {
                list.tell(&Told::Error { id: job.id.clone(), write, verdict });
            });
        }
        verdict
    }
}

/// Tells the main loop that the thread ended, however it did.
struct End {
    job: Arc<Job>,
    work: Option<Box<dyn Work>>,
    result: std::result::Result<(), Failure>,
}

impl Drop for End {
    fn drop(&mut self) {
        let mut state = self.job.state.lock();
        state.result = Some(std::mem::replace(&mut self.result, Ok(())));
        state.work = self.work.take();
        state.finished = true;
        state.parked = true;
        drop(state);
        self.job.wake.notify_all();
        if let Some(list) = self.job.list.upgrade() {
            list.later(&self.job.id, |list, job| list.settle(job));
        }
    }
}

/// A job's thread.
pub(crate) fn run(job: &Arc<Job>, work: Box<dyn Work>) {
    let broken = Err(Failure::Failed(Error::generic("the job's thread broke off")));
    let mut end = End { job: job.clone(), work: Some(work), result: broken };
    let first = job.breathe(0);
    if let Some(work) = &mut end.work {
        end.result = if first == Pace::On { work.run(job) } else { Err(Failure::Cancelled) };
    }
}
