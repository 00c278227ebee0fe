//! `commit` of the active layer: what the layers hold goes into a base while the guest writes on;
//! then the disk stands on the base.
//!
//! A filter (`mirror_top`) notes what is written, after it was written; what is noted is copied.
//! When nothing, or little that changes all the time, is left the job is ready. Asked to complete, the last notes are copied while
//! nothing is under way, and the base takes the layer's place.
//! Not modelled: copying several pieces at once.
//! Source: QEMU's QMP reference, block-commit.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use block::{Blocker, Graph, Node};
use parking_lot::Mutex;
use qapi::{Error, Result};

use crate::commit::{Committing, between, failed, lengthen};
use crate::copy::{Held, Told, copy, held, reading};
use crate::filter::{Dirty, MIRROR, Placed, Shared};
use crate::job::{Failure, Job, JobError, Pace, Work};

/// Between two looks for new writes.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes that may be left for the drained section at the end: a guest that writes without end must
/// not keep the job from it.
const REST: u64 = 16 << 20;

struct Active {
    graph: Arc<Graph>,
    what: Committing,
    filter: Placed,
    base_was_read_only: bool,
    blocker: Option<Blocker>,
}

/// Prepares filter and base; the job is started with the work that comes back.
///
/// # Errors
/// The base cannot be written or be made long enough, or the filter's name is taken.
pub fn prepare(graph: &Arc<Graph>, what: Committing) -> Result<Box<dyn Work>> {
    let base_was_read_only = what.base.is_read_only();
    let _still = graph.drain();
    graph.set_read_only(&what.base, false)?;
    let back = |_: &Error| {
        if base_was_read_only {
            _ = graph.set_read_only(&what.base, true);
        }
    };
    lengthen(&what.base, what.top.len()).inspect_err(back)?;
    let shared = Shared { dirty: Some(Mutex::default()), ..Shared::default() };
    let name = what.filter_name.as_deref();
    let filter = Placed::over(graph, &MIRROR, name, ("backing", &what.top), shared);
    let filter = filter.inspect_err(back)?;
    let mut nodes = between(&filter.filter, &what.base);
    nodes.push(what.root.clone());
    let blocker = Some(graph.block(&nodes, "block device is in use by block job: commit"));
    Ok(Box::new(Active { graph: graph.clone(), what, filter, base_was_read_only, blocker }))
}

impl Active {
    fn dirty<T>(&self, f: impl FnOnce(&mut Dirty) -> T) -> Option<T> {
        self.filter.shared.dirty.as_ref().map(|dirty| f(&mut dirty.lock()))
    }

    fn take(&self, from: u64) -> Option<(u64, u64)> {
        self.dirty(|dirty| dirty.take(from)).flatten()
    }

    /// Copies a range, whatever it holds.
    fn copy(&self, at: u64, len: u64) -> std::result::Result<(), Told> {
        let (top, base) = (&self.what.top, &self.what.base);
        let end = at.saturating_add(len).min(top.len());
        let mut at = at;
        while at < end {
            let (what, run) = held(Some(top.clone()), Some(base), at, end - at).map_err(reading)?;
            copy(top, base, what, at, run)?;
            at += run;
        }
        Ok(())
    }

    /// Notes everything that the layers hold.
    fn look(&self, job: &Job) -> std::result::Result<(), Failure> {
        let (top, base) = (&self.what.top, &self.what.base);
        let mut at = 0;
        while at < top.len() {
            if job.breathe(0) == Pace::Cancelled {
                return Err(Failure::Cancelled);
            }
            let _step = self.graph.steps.enter();
            let (what, run) = held(Some(top.clone()), Some(base), at, top.len() - at)?;
            if what != Held::Nothing {
                self.dirty(|dirty| dirty.set(at, run));
            }
            at += run;
        }
        job.set_total(self.dirty(|dirty| dirty.bytes()).unwrap_or(0));
        self.filter.shared.more.store(0, Ordering::Relaxed);
        Ok(())
    }

    fn end(&mut self) {
        if self.base_was_read_only {
            _ = self.graph.set_read_only(&self.what.base, true);
        }
        self.blocker = None;
    }
}

impl Work for Active {
    fn run(&mut self, job: &Job) -> std::result::Result<(), Failure> {
        self.look(job)?;
        let (mut cursor, mut copied, mut ready) = (0, 0, false);
        // What was there at the beginning.
        let mut first = self.dirty(|dirty| dirty.bytes()).unwrap_or(0);
        loop {
            if first == 0 && self.dirty(|dirty| dirty.bytes()).is_some_and(|left| left <= REST) {
                if ready && job.is_asked_to_complete() {
                    return Ok(());
                }
                if !ready {
                    job.be_ready();
                    ready = true;
                }
            }
            if job.breathe(copied) == Pace::Cancelled {
                return Err(Failure::Cancelled);
            }
            copied = 0;
            job.add_total(self.filter.shared.more.swap(0, Ordering::Relaxed));
            let step = self.graph.steps.enter();
            match self.take(cursor) {
                Some((at, len)) => {
                    let done = self.copy(at, len);
                    drop(step);
                    match done {
                        Ok(()) => {
                            (cursor, copied) = (at + len, len);
                            first = first.saturating_sub(len);
                            job.add_progress(len);
                        }
                        Err((write, error)) => {
                            self.dirty(|dirty| dirty.set(at, len));
                            if job.decide(write, &error) == JobError::Report {
                                return Err(error.into());
                            }
                            job.idle(LOOK);
                        }
                    }
                }
                None => {
                    drop(step);
                    first = 0;
                    if ready {
                        job.idle(LOOK);
                    } else {
                        self.what.base.flush()?;
                    }
                }
            }
        }
    }

    fn finish(&mut self, job: &Job) -> Result<()> {
        let graph = self.graph.clone();
        let _still = graph.drain();
        while let Some((at, len)) = self.take(0) {
            self.copy(at, len).map_err(|(_, error)| failed(error))?;
        }
        let base: &Arc<Node> = &self.what.base;
        base.flush().map_err(failed)?;
        if job.is_asked_to_leave() {
            self.filter.remove();
            self.end();
            return Ok(());
        }
        let filter = &self.filter.filter;
        filter.replace_by(base, &[filter]);
        self.blocker = None;
        Ok(())
    }

    fn abort(&mut self) {
        let graph = self.graph.clone();
        let _still = graph.drain();
        self.filter.remove();
        self.end();
    }
}
