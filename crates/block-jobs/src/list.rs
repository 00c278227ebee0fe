//! All jobs, and what users ask of them.
//!
//! Everything here runs on the main loop. What may be asked in which state is one table
//! ([`allows`]); each change of a state is told at once, so that events come in order. A job
//! whose thread waits is cancelled before the command returns.
//! Not here: transactions of jobs.
//! Source: QEMU's QMP reference (job.json); events and messages of QEMU 10.0.

use std::sync::{Arc, Weak};

use block::Node;
use parking_lot::{Condvar, Mutex};
use qapi::{Class, Error, Result};

use crate::job::{Failure, Job, JobError, JobType, OnJobError, State, Status, Work, run};

/// How a job is made.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its id.
    pub id: String,
    /// What it does.
    pub kind: JobType,
    /// Bytes per second; 0: no limit. Negative ones are refused.
    pub speed: i64,
    /// What is done about errors.
    pub on_error: OnJobError,
    /// Its result is put in place without being asked for.
    pub auto_finalize: bool,
    /// It is forgotten at its end.
    pub auto_dismiss: bool,
    /// The disk it works for: when its device goes, and the drive with it, the job is cancelled.
    pub nodes: Vec<Weak<Node>>,
}

/// What is told about jobs.
#[derive(Clone, Debug)]
pub enum Told {
    /// A job has another state.
    Status(String, Status),
    /// A job can be completed.
    Ready(About),
    /// A job can be finalized.
    Pending(String, JobType),
    /// A job ended, well or with an error.
    Completed(About),
    /// A job was cancelled.
    Cancelled(About),
    /// A request of a job failed.
    Error {
        /// The job.
        id: String,
        /// It was a write.
        write: bool,
        /// What is done about it.
        verdict: JobError,
    },
}

/// A job as it is now.
#[derive(Clone, Debug)]
pub struct About {
    /// Its id.
    pub id: String,
    /// What it does.
    pub kind: JobType,
    /// Its state.
    pub status: Status,
    /// Done of `total`.
    pub current: u64,
    /// To do.
    pub total: u64,
    /// Bytes per second; 0: no limit.
    pub speed: u64,
    /// It was paused.
    pub paused: bool,
    /// It is at work right now.
    pub busy: bool,
    /// 0 ok, 1 failed, 2 no space.
    pub io_status: u8,
    /// Why it failed.
    pub error: Option<String>,
    /// See [`Spec`].
    pub auto_finalize: bool,
    /// See [`Spec`].
    pub auto_dismiss: bool,
}

/// What is asked of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Cancel,
    Pause,
    Resume,
    SetSpeed,
    Complete,
    Finalize,
    Dismiss,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Verb::Cancel => "cancel",
            Verb::Pause => "pause",
            Verb::Resume => "resume",
            Verb::SetSpeed => "set-speed",
            Verb::Complete => "complete",
            Verb::Finalize => "finalize",
            Verb::Dismiss => "dismiss",
        }
    }
}

fn allows(status: Status, verb: Verb) -> bool {
    use Status::{Concluded, Created, Paused, Pending, Ready, Running, Standby, Waiting};
    match verb {
        Verb::Cancel => {
            matches!(status, Created | Running | Paused | Ready | Standby | Waiting | Pending)
        }
        Verb::Pause | Verb::Resume | Verb::SetSpeed => {
            matches!(status, Created | Running | Paused | Ready | Standby)
        }
        Verb::Complete => matches!(status, Ready | Standby),
        Verb::Finalize => status == Pending,
        Verb::Dismiss => status == Concluded,
    }
}

type Post = Box<dyn Fn(Box<dyn FnOnce() + Send>) + Send + Sync>;
type Tell = Box<dyn Fn(&Told) + Send + Sync>;

pub(crate) struct Inner {
    all: Mutex<Vec<Arc<Job>>>,
    /// Runs a call on the main loop.
    post: Post,
    tell: Tell,
    this: Weak<Inner>,
}

/// The jobs of a program.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

fn about(job: &Job, state: &State) -> About {
    About {
        id: job.id.clone(),
        kind: job.kind,
        status: state.status.unwrap_or(Status::Created),
        current: state.current,
        total: state.total,
        speed: state.speed,
        paused: state.user_paused,
        busy: !state.parked,
        io_status: state.io_status,
        error: state.error.clone(),
        auto_finalize: state.auto_finalize,
        auto_dismiss: state.auto_dismiss,
    }
}

impl Inner {
    pub(crate) fn tell(&self, told: &Told) {
        (self.tell)(told);
    }

    /// Runs `f` on the main loop, if the job is still there then.
    pub(crate) fn later(&self, id: &str, f: impl FnOnce(&Inner, &Arc<Job>) + Send + 'static) {
        let (this, id) = (self.this.clone(), id.to_owned());
        (self.post)(Box::new(move || {
            let Some(list) = this.upgrade() else { return };
            let found = list.all.lock().iter().find(|job| job.id == id).cloned();
            if let Some(job) = found {
                f(&list, &job);
            }
        }));
    }

    fn set(&self, job: &Job, status: Status) {
        job.state.lock().status = Some(status);
        self.tell(&Told::Status(job.id.clone(), status));
    }

    fn status(job: &Job) -> Status {
        job.state.lock().status.unwrap_or(Status::Created)
    }

    /// The thread waits because the job was paused.
    pub(crate) fn enter_pause(&self, job: &Job) {
        let state = job.state.lock();
        let wanted = state.user_paused && state.parked && !state.finished;
        let status = state.status;
        drop(state);
        match status {
            Some(Status::Running) if wanted => self.set(job, Status::Paused),
            Some(Status::Ready) if wanted => self.set(job, Status::Standby),
            _ => {}
        }
    }

    fn leave_pause(&self, job: &Job) {
        let mut state = job.state.lock();
        state.user_paused = false;
        state.io_status = 0;
        let status = state.status;
        drop(state);
        match status {
            Some(Status::Paused) => self.set(job, Status::Running),
            Some(Status::Standby) => self.set(job, Status::Ready),
            _ => {}
        }
        job.wake.notify_all();
    }

    /// The work may be ended now.
    pub(crate) fn ready(&self, job: &Job) {
        if Self::status(job) == Status::Running {
            self.set(job, Status::Ready);
            let now = about(job, &job.state.lock());
            self.tell(&Told::Ready(now));
        }
    }

    /// The thread ended.
    pub(crate) fn settle(&self, job: &Arc<Job>) {
        let mut state = job.state.lock();
        let Some(result) = state.result.take() else { return };
        let cancelled = state.cancelled;
        drop(state);
        match result {
            Ok(()) if !cancelled => {}
            Ok(()) | Err(Failure::Cancelled) => return self.abort(job, None),
            Err(Failure::Failed(error)) => return self.abort(job, Some(error.desc)),
        }
        self.set(job, Status::Waiting);
        self.set(job, Status::Pending);
        if job.state.lock().auto_finalize {
            self.finalize(job);
        } else if job.kind.is_block_job() {
            self.tell(&Told::Pending(job.id.clone(), job.kind));
        }
    }

    fn finalize(&self, job: &Arc<Job>) {
        let work = job.state.lock().work.take();
        let Some(mut work) = work else { return };
        match work.finish(job) {
            Ok(()) => {
                drop(work);
                if job.kind.is_block_job() {
                    let now = about(job, &job.state.lock());
                    self.tell(&Told::Completed(now));
                }
                self.conclude(job);
            }
            Err(error) => {
                job.state.lock().work = Some(work);
                self.abort(job, Some(error.desc));
            }
        }
    }

    /// Ends a job; without an error it was cancelled.
    fn abort(&self, job: &Arc<Job>, error: Option<String>) {
        let work = job.state.lock().work.take();
        self.set(job, Status::Aborting);
        if let Some(mut work) = work {
            work.abort();
        }
        let cancelled = error.is_none();
        job.state.lock().error = error.or_else(|| Some("Operation canceled".into()));
        if job.kind.is_block_job() {
            let now = about(job, &job.state.lock());
            self.tell(&if cancelled { Told::Cancelled(now) } else { Told::Completed(now) });
        }
        self.conclude(job);
    }

    fn conclude(&self, job: &Arc<Job>) {
        self.set(job, Status::Concluded);
        if job.state.lock().auto_dismiss {
            self.dismiss(job);
        }
    }

    fn dismiss(&self, job: &Arc<Job>) {
        self.set(job, Status::Null);
        self.all.lock().retain(|other| !Arc::ptr_eq(other, job));
    }

    /// Cancels at once what waits, the rest soon.
    fn cancel(&self, job: &Arc<Job>) {
        let mut state = job.state.lock();
        let waits = state.parked && !matches!(state.status, Some(Status::Ready | Status::Standby));
        state.cancelled = true;
        let over = matches!(state.status, Some(Status::Waiting | Status::Pending));
        let paused = state.user_paused;
        drop(state);
        if over {
            return self.abort(job, None);
        }
        if paused {
            self.leave_pause(job);
        }
        job.wake.notify_all();
        if waits {
            self.wait(job);
        }
    }

    fn wait(&self, job: &Arc<Job>) {
        let mut state = job.state.lock();
        while !state.finished {
            job.wake.wait(&mut state);
        }
        drop(state);
        self.settle(job);
    }
}

impl Jobs {
    /// No jobs. `post` runs a call on the main loop, soon; `tell` hears of events.
    #[must_use]
    pub fn new(
        post: impl Fn(Box<dyn FnOnce() + Send>) + Send + Sync + 'static,
        tell: impl Fn(&Told) + Send + Sync + 'static,
    ) -> Jobs {
        Jobs(Arc::new_cyclic(|this| Inner {
            all: Mutex::default(),
            post: Box::new(post),
            tell: Box::new(tell),
            this: this.clone(),
        }))
    }

    /// Whether a job can have this id.
    ///
    /// # Errors
    /// It is none, or taken.
    pub fn check(&self, spec: &Spec) -> Result<()> {
        if !qapi::keyval::is_identifier(&spec.id) {
            return Err(Error::generic(format!("Invalid job ID '{}'", spec.id)));
        }
        if self.find(&spec.id).is_some() {
            return Err(Error::generic(format!("Job ID '{}' already in use", spec.id)));
        }
        Ok(())
    }

    /// Makes a job; `make` prepares its work, then it begins.
    ///
    /// # Errors
    /// The id is none or taken, the speed is negative, or what `make` says.
    pub fn start(&self, spec: Spec, make: impl FnOnce() -> Result<Box<dyn Work>>) -> Result<()> {
        self.check(&spec)?;
        let state = State {
            auto_finalize: spec.auto_finalize,
            auto_dismiss: spec.auto_dismiss,
            speed: u64::try_from(spec.speed).unwrap_or(0),
            ..State::default()
        };
        let job = Arc::new(Job {
            id: spec.id,
            kind: spec.kind,
            on_error: spec.on_error,
            nodes: spec.nodes,
            state: Mutex::new(state),
            wake: Condvar::new(),
            list: Arc::downgrade(&self.0),
        });
        self.0.all.lock().push(job.clone());
        self.0.set(&job, Status::Created);
        let work = if spec.speed < 0 {
            Err(Error::generic("Parameter 'speed' expects a non-negative value"))
        } else {
            make()
        };
        let work = work.inspect_err(|_| self.0.dismiss(&job))?;
        job.state.lock().total = work.total();
        self.0.set(&job, Status::Running);
        let runner = job.clone();
        if let Err(error) = evloop::spawn("block-job", move || run(&runner, work)) {
            self.0.dismiss(&job);
            return Err(Error::generic(host::reason(&error)));
        }
        Ok(())
    }

    /// The job of this id.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<Arc<Job>> {
        self.0.all.lock().iter().find(|job| job.id == id).cloned()
    }

    /// All jobs as they are now, the youngest first.
    #[must_use]
    pub fn list(&self) -> Vec<About> {
        let all = self.0.all.lock().clone();
        all.iter().rev().map(|job| about(job, &job.state.lock())).collect()
    }

    /// The job of an id; `block`: asked for as a block job.
    fn job(&self, id: &str, block: bool) -> Result<Arc<Job>> {
        let found = self.find(id).filter(|job| !block || job.kind.is_block_job());
        found.ok_or_else(|| {
            if block {
                Error::new(Class::DeviceNotActive, format!("Block job '{id}' not found"))
            } else {
                Error::generic("Job not found")
            }
        })
    }

    fn asked(&self, id: &str, block: bool, verb: Verb) -> Result<Arc<Job>> {
        let job = self.job(id, block)?;
        let status = Inner::status(&job);
        if !allows(status, verb) {
            return Err(Error::generic(format!(
                "Job '{id}' in state '{}' cannot accept command verb '{}'",
                status.word(),
                verb.word()
            )));
        }
        Ok(job)
    }

    /// Pauses a job.
    ///
    /// # Errors
    /// There is none, or not in this state.
    pub fn pause(&self, id: &str, block: bool) -> Result<()> {
        let job = self.asked(id, block, Verb::Pause)?;
        let mut state = job.state.lock();
        if state.user_paused {
            return Err(Error::generic("Job is already paused"));
        }
        state.user_paused = true;
        drop(state);
        job.wake.notify_all();
        self.0.enter_pause(&job);
        Ok(())
    }

    /// Lets a job go on.
    ///
    /// # Errors
    /// There is none, or it was not paused.
    pub fn resume(&self, id: &str, block: bool) -> Result<()> {
        let job = self.job(id, block)?;
        if !job.state.lock().user_paused {
            return Err(Error::generic("Can't resume a job that was not paused"));
        }
        self.asked(id, block, Verb::Resume)?;
        self.0.leave_pause(&job);
        Ok(())
    }

    /// Cancels a job. A job that is ready ends well without `force`, its result is left out.
    ///
    /// # Errors
    /// There is none, it is paused, or over.
    pub fn cancel(&self, id: &str, block: bool, force: bool) -> Result<()> {
        let job = self.job(id, block)?;
        if block && !force && job.state.lock().user_paused {
            let text = format!("The block job for device '{id}' is currently paused");
            return Err(Error::generic(text));
        }
        self.asked(id, block, Verb::Cancel)?;
        if !force && Inner::status(&job) == Status::Ready {
            job.state.lock().leave = true;
            job.wake.notify_all();
            return Ok(());
        }
        self.0.cancel(&job);
        Ok(())
    }

    /// Lets a job that is ready end.
    ///
    /// # Errors
    /// There is none, or it is not ready.
    pub fn complete(&self, id: &str, block: bool) -> Result<()> {
        let job = self.asked(id, block, Verb::Complete)?;
        let mut state = job.state.lock();
        if state.cancelled || state.leave {
            return Err(Error::generic(format!("The active block job '{id}' cannot be completed")));
        }
        state.complete = true;
        drop(state);
        job.wake.notify_all();
        Ok(())
    }

    /// Puts a job's result in place.
    ///
    /// # Errors
    /// There is none, or it is not pending.
    pub fn finalize(&self, id: &str, block: bool) -> Result<()> {
        let job = self.asked(id, block, Verb::Finalize)?;
        self.0.finalize(&job);
        Ok(())
    }

    /// Forgets a job.
    ///
    /// # Errors
    /// There is none, or it is not over.
    pub fn dismiss(&self, id: &str, block: bool) -> Result<()> {
        let job = self.asked(id, block, Verb::Dismiss)?;
        self.0.dismiss(&job);
        Ok(())
    }

    /// Sets a block job's speed in bytes per second; 0: no limit.
    ///
    /// # Errors
    /// There is none, it is over, or the speed is negative.
    pub fn set_speed(&self, id: &str, speed: i64) -> Result<()> {
        let job = self.asked(id, true, Verb::SetSpeed)?;
        let speed = u64::try_from(speed)
            .map_err(|_| Error::generic("Parameter 'speed' expects a non-negative value"))?;
        let mut state = job.state.lock();
        state.speed = speed;
        state.until = None;
        drop(state);
        job.wake.notify_all();
        Ok(())
    }

    /// Cancels the jobs that work for a disk, which goes.
    pub fn cancel_on(&self, disk: &Arc<Node>) {
        let all = self.0.all.lock().clone();
        let known =
            |job: &Job, node: &Node| job.nodes.iter().any(|n| std::ptr::eq(n.as_ptr(), node));
        for job in all {
            let concerned = known(&job, disk) || known(&job, &disk.skip_filters());
            if concerned && allows(Inner::status(&job), Verb::Cancel) {
                self.0.cancel(&job);
            }
        }
    }

    /// Ends all jobs and waits for their ends: the program ends.
    pub fn cancel_all(&self) {
        let all = self.0.all.lock().clone();
        for job in all {
            if allows(Inner::status(&job), Verb::Cancel) {
                self.0.cancel(&job);
                if !matches!(Inner::status(&job), Status::Concluded | Status::Null) {
                    self.0.wait(&job);
                }
            }
        }
    }
}
