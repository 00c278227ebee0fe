//! Groups of limits, and slots for disks that keep them (`block_set_io_throttle`, `-drive
//! throttling.*`).
//!
//! A group ([`IoGroup`]) is made by a slot, or is an object (`throttle-group`); slots and nodes of the
//! driver `throttle` find it by its name and share its buckets ([`Limits`]). A slot with limits queues its requests; a
//! thread of its own lets one after the other go when the buckets have room. A drained section
//! lets all that are queued go at once.
//! Not here: nodes of the driver `throttle`, whose requests wait on their threads.
//! Source: QEMU's manual (`-drive throttling.*`), messages of QEMU 10.0.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use qapi::{Error, Result};

use crate::backend::Backend;
use crate::engine::{Lane, Op, Request};
use crate::filters::throttle::{Limits, Rules, ThrottleGroup};
use crate::graph::Graph;

/// A group of slots and nodes.
pub struct IoGroup {
    name: String,
    now: Mutex<(Rules, u64, Arc<Limits>)>,
    /// The limits are others now.
    changed: Condvar,
    /// Slots that keep them.
    queues: Mutex<Vec<Weak<Queue>>>,
}

impl IoGroup {
    /// A group with these limits.
    ///
    /// # Errors
    /// They contradict one another.
    pub fn new(name: &str, rules: &Rules, op_size: u64) -> Result<Arc<IoGroup>> {
        let limits = Arc::new(Limits::new(rules, op_size)?);
        let now = Mutex::new((*rules, op_size, limits));
        Ok(Arc::new(IoGroup {
            name: name.to_owned(),
            now,
            changed: Condvar::new(),
            queues: Mutex::default(),
        }))
    }

    /// Changes the limits; requests that wait wait for the new ones.
    ///
    /// # Errors
    /// They contradict one another; nothing is changed then.
    pub fn set(&self, rules: &Rules, op_size: u64) -> Result<()> {
        let limits = Arc::new(Limits::new(rules, op_size)?);
        *self.now.lock() = (*rules, op_size, limits);
        self.changed.notify_all();
        let mut queues = self.queues.lock();
        queues.retain(|queue| queue.strong_count() > 0);
        let queues: Vec<_> = queues.iter().filter_map(Weak::upgrade).collect();
        for queue in queues {
            // Who looked at the limits before waits by now.
            drop(queue.state.lock());
            queue.wake.notify_all();
        }
        Ok(())
    }

    /// Waits until a request may go.
    pub fn wait(&self, writes: bool, bytes: u64) {
        let mut now = self.now.lock();
        loop {
            let time = now.2.delay(writes, bytes);
            if time <= 0.0 {
                return;
            }
            let time = Duration::from_secs_f64(time.min(3600.0));
            self.changed.wait_for(&mut now, time);
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Its limits, and the bytes that count as one request (0: any).
    #[must_use]
    pub fn rules(&self) -> (Rules, u64) {
        let now = self.now.lock();
        (now.0, now.1)
    }
    fn limits(&self) -> Arc<Limits> {
        self.now.lock().2.clone()
    }
}

/// Requests that wait for their turn.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    group: Option<Arc<IoGroup>>,
    /// The object that the group is, which stays meanwhile.
    object: Option<Arc<device::Object>>,
    waiting: VecDeque<(Arc<Lane>, Request)>,
    thread: bool,
    ended: bool,
}

impl Queue {
    pub(crate) fn group(&self) -> Option<Arc<IoGroup>> {
        self.state.lock().group.clone()
    }

    /// Queues a request, or gives it back when there are no limits.
    pub(crate) fn push(&self, lane: &Arc<Lane>, request: Request) -> Option<Request> {
        let mut state = self.state.lock();
        if !state.thread || (state.group.is_none() && state.waiting.is_empty()) {
            return Some(request);
        }
        state.waiting.push_back((lane.clone(), request));
        drop(state);
        self.wake.notify_all();
        None
    }

    /// All that wait.
    pub(crate) fn take(&self) -> VecDeque<(Arc<Lane>, Request)> {
        std::mem::take(&mut self.state.lock().waiting)
    }

    pub(crate) fn end(&self) {
        self.state.lock().ended = true;
        self.wake.notify_all();
    }

    /// Lets requests go in their order, each when there is room.
    fn run(&self, backend: &Weak<Backend>) {
        let mut state = self.state.lock();
        // The first one's share was taken.
        let mut paid = false;
        while !state.ended {
            let Some((_, request)) = state.waiting.front() else {
                paid = false;
                self.wake.wait(&mut state);
                continue;
            };
            let (writes, bytes) = (request.op != Op::Read, request.len);
            let limited = request.op != Op::Flush;
            if let Some(group) = state.group.clone().filter(|_| limited && !paid) {
                let time = group.limits().delay(writes, bytes);
                if time > 0.0 {
                    let time = Duration::from_secs_f64(time.min(3600.0));
                    self.wake.wait_for(&mut state, time);
                    continue;
                }
                paid = true;
            }
            let Some((lane, request)) = state.waiting.pop_front() else { continue };
            paid = false;
            drop(state);
            let Some(backend) = backend.upgrade() else { return };
            backend.pass(&lane, request);
            lane.flush();
            drop(backend);
            state = self.state.lock();
        }
    }
}

impl Backend {
    /// The group whose limits it keeps.
    #[must_use]
    pub fn io_group(&self) -> Option<Arc<IoGroup>> {
        self.queue.group()
    }
}

/// A group, and the object that it is.
pub(crate) type Found = (Arc<IoGroup>, Option<Arc<device::Object>>);

impl Graph {
    /// The group that slots made and use, by its name.
    #[must_use]
    pub fn slots_group(&self, name: &str) -> Option<Arc<IoGroup>> {
        let mut groups = self.io_groups.lock();
        groups.retain(|group| group.strong_count() > 0);
        groups.iter().filter_map(Weak::upgrade).find(|known| known.name == name)
    }

    /// The group of this name, with its object if it is one.
    pub(crate) fn io_group(&self, name: &str) -> Option<Found> {
        if let Some(found) = self.slots_group(name) {
            return Some((found, None));
        }
        let keys = self.keys();
        let object = keys.objects()?.find(name)?;
        let ThrottleGroup(group) = object.ability()?;
        Some((group, Some(object)))
    }

    /// Sets the limits of a slot's group; without any the slot leaves it.
    ///
    /// # Errors
    /// The limits contradict one another, or no thread can be started.
    pub fn limit(
        &self,
        backend: &Arc<Backend>,
        group: &str,
        rules: &Rules,
        op_size: u64,
    ) -> Result<()> {
        let queue = &backend.queue;
        if rules.iter().all(|limit| limit.average <= 0.0) {
            Limits::new(rules, op_size)?;
            {
                let mut state = queue.state.lock();
                (state.group, state.object) = (None, None);
            }
            queue.wake.notify_all();
            return Ok(());
        }
        let (group, object) = match self.io_group(group) {
            Some((found, object)) => {
                found.set(rules, op_size)?;
                (found, object)
            }
            None => {
                let made = IoGroup::new(group, rules, op_size)?;
                self.io_groups.lock().push(Arc::downgrade(&made));
                (made, None)
            }
        };
        {
            let mut queues = group.queues.lock();
            if !queues.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(queue))) {
                queues.push(Arc::downgrade(queue));
            }
        }
        let mut state = queue.state.lock();
        (state.group, state.object) = (Some(group), object);
        if !state.thread {
            let (queue, weak) = (queue.clone(), Arc::downgrade(backend));
            evloop::spawn("block-limits", move || queue.run(&weak))
                .map_err(|error| Error::generic(host::reason(&error)))?;
            state.thread = true;
        }
        drop(state);
        queue.wake.notify_all();
        Ok(())
    }
}
