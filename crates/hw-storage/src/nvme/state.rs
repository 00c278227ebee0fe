//! Registers and queues of a controller, and how commands are taken and answered.
//!
//! All of it is one record behind one lock, held only for RAM of the guest. A submission queue has
//! at most as many commands under way as it has entries; answers that find a full completion queue
//! wait for its doorbell. Not here: what commands do.
//! Source: NVM Express Base 2.0, chapters 3 and 4.

use std::collections::VecDeque;

use derive::VmState;
use device::DmaView;

use super::status;

/// Bytes of a command and of an answer.
pub(super) const COMMAND: u64 = 64;
pub(super) const ANSWER: u64 = 16;
/// Most asynchronous event requests (AERL is zero's based).
pub(super) const MAX_EVENTS: usize = 4;

/// A submission queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, VmState)]
#[vmstate(name = "nvme-sq", version = 1)]
pub(super) struct Submission {
    pub(super) id: u16,
    pub(super) completion: u16,
    pub(super) base: u64,
    pub(super) entries: u32,
    pub(super) head: u32,
    pub(super) tail: u32,
    /// Commands that are not answered.
    pub(super) open: u32,
    /// Somebody takes commands from it.
    pub(super) busy: bool,
}

/// An answer that waits for room.
#[derive(Clone, Debug, Default, PartialEq, Eq, VmState)]
#[vmstate(name = "nvme-answer", version = 1)]
pub(super) struct Answer {
    pub(super) queue: u16,
    pub(super) id: u16,
    pub(super) result: u32,
    pub(super) status: u16,
}

/// A completion queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, VmState)]
#[vmstate(name = "nvme-cq", version = 1)]
pub(super) struct Completion {
    pub(super) id: u16,
    pub(super) vector: u16,
    pub(super) interrupts: bool,
    pub(super) base: u64,
    pub(super) entries: u32,
    pub(super) head: u32,
    pub(super) tail: u32,
    pub(super) phase: bool,
    #[vmstate(max = 65536)]
    pub(super) waiting: Vec<Answer>,
}

/// The controller's registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, VmState)]
#[vmstate(name = "nvme", version = 1, validate = State::check)]
pub(super) struct State {
    pub(super) cc: u32,
    pub(super) csts: u32,
    pub(super) aqa: u32,
    pub(super) asq: u64,
    pub(super) acq: u64,
    pub(super) masked: u32,
    #[vmstate(max = 65536)]
    pub(super) submissions: Vec<Submission>,
    #[vmstate(max = 65536)]
    pub(super) completions: Vec<Completion>,
    /// Identifiers of the requests for events that wait.
    #[vmstate(max = 4)]
    pub(super) asked: Vec<u16>,
    /// Events that nobody asked for yet.
    #[vmstate(max = 64)]
    pub(super) events: Vec<u32>,
    /// Kinds of events that were told and whose log was not read.
    pub(super) silent: u8,
    pub(super) threshold: u16,
    pub(super) over_threshold: u16,
    pub(super) under_threshold: u16,
    pub(super) event_config: u32,
    pub(super) atomicity: u32,
    pub(super) timestamp: u64,
    /// The guest's clock when the timestamp was set.
    pub(super) timestamp_set: u64,
    pub(super) error_recovery: u32,
    pub(super) volatile_off: bool,
}

impl State {
    fn check(&self) -> Result<(), vmstate::LoadError> {
        let fits = |entries: u32, place: u32| (2..=65536).contains(&entries) && place < entries;
        let submissions = self.submissions.iter().all(|q| {
            fits(q.entries, q.head) && fits(q.entries, q.tail) && q.open <= q.entries && !q.busy
        });
        let completions =
            self.completions.iter().all(|q| fits(q.entries, q.head) && fits(q.entries, q.tail));
        if submissions && completions {
            return Ok(());
        }
        Err(vmstate::LoadError::Invalid("a queue is not as long as its indices"))
    }

    pub(super) fn submission(&mut self, id: u16) -> Option<&mut Submission> {
        self.submissions.iter_mut().find(|q| q.id == id)
    }

    pub(super) fn completion(&mut self, id: u16) -> Option<&mut Completion> {
        self.completions.iter_mut().find(|q| q.id == id)
    }

    /// The next command of a queue; the queue stays busy until there is none.
    pub(super) fn take(&mut self, id: u16, view: &mut DmaView) -> Option<Vec<u8>> {
        let full = |s: &State, completion: u16| {
            s.completions.iter().any(|c| c.id == completion && !c.waiting.is_empty())
        };
        let stalled = {
            let completion = self.submission(id)?.completion;
            full(self, completion)
        };
        let queue = self.submission(id)?;
        if queue.head == queue.tail || queue.open >= queue.entries || stalled {
            queue.busy = false;
            return None;
        }
        let at = queue.base.wrapping_add(u64::from(queue.head) * COMMAND);
        queue.head = (queue.head + 1) % queue.entries;
        queue.open += 1;
        let mut out = vec![0; 64];
        let mut slices = Vec::new();
        if view.map(at, COMMAND, false, &mut slices).is_ok() {
            let mut done = 0;
            for slice in &slices {
                done += out.get_mut(done..).map_or(0, |rest| slice.read(rest));
            }
        }
        Some(out)
    }

    /// Puts an answer into its queue, or notes it. The vector to interrupt with, if any.
    pub(super) fn answer(&mut self, answer: Answer, view: &mut DmaView) -> Option<u16> {
        let completion = self.submission(answer.queue)?.completion;
        let queue = self.completion(completion)?;
        queue.waiting.push(answer);
        self.deliver(completion, view)
    }

    /// Puts what waits into a queue as far as there is room.
    pub(super) fn deliver(&mut self, id: u16, view: &mut DmaView) -> Option<u16> {
        let index = self.completions.iter().position(|q| q.id == id)?;
        let mut queue = self.completions.get(index)?.clone();
        let mut waiting: VecDeque<Answer> = std::mem::take(&mut queue.waiting).into();
        let mut put = false;
        while (queue.tail + 1) % queue.entries != queue.head {
            let Some(answer) = waiting.pop_front() else { break };
            let head = match self.submission(answer.queue) {
                Some(from) => {
                    from.open = from.open.saturating_sub(1);
                    from.head
                }
                None => 0,
            };
            let place = queue.base.wrapping_add(u64::from(queue.tail) * ANSWER);
            let mut bytes = answer.result.to_le_bytes().to_vec();
            bytes.extend([0; 4]);
            bytes.extend(u16::try_from(head & 0xffff).unwrap_or(0).to_le_bytes());
            bytes.extend(answer.queue.to_le_bytes());
            bytes.extend(answer.id.to_le_bytes());
            bytes.extend((answer.status << 1 | u16::from(queue.phase)).to_le_bytes());
            let mut slices = Vec::new();
            if view.map(place, ANSWER, true, &mut slices).is_ok() {
                let mut done = 0;
                for slice in &slices {
                    done += bytes.get(done..).map_or(0, |rest| slice.write(rest));
                }
            }
            queue.tail = (queue.tail + 1) % queue.entries;
            if queue.tail == 0 {
                queue.phase = !queue.phase;
            }
            put = true;
        }
        queue.waiting = waiting.into();
        let vector = (put && queue.interrupts).then_some(queue.vector);
        *self.completions.get_mut(index)? = queue;
        vector
    }

    /// Queues that may have commands to take.
    pub(super) fn ready(&self, completion: u16) -> Vec<u16> {
        let due = |q: &&Submission| q.completion == completion && q.head != q.tail && !q.busy;
        self.submissions.iter().filter(due).map(|q| q.id).collect()
    }

    /// The level of the pin: an answer that was not taken, with a vector that is not masked.
    pub(super) fn pin(&self) -> bool {
        let due = |q: &Completion| {
            let open = 1u32.checked_shl(q.vector.into()).is_none_or(|bit| self.masked & bit == 0);
            q.interrupts && q.head != q.tail && open
        };
        self.completions.iter().any(due)
    }

    /// Notes an event (3.9 of the I/O part: type, information, log page); it is told when asked.
    pub(super) fn event(&mut self, kind: u8, info: u8, log: u8) {
        const MOST: usize = 64;
        if self.silent & 1u8.checked_shl(kind.into()).unwrap_or(0) == 0 && self.events.len() < MOST
        {
            self.events.push(u32::from_le_bytes([kind, info, log, 0]));
        }
    }

    /// The answers to requests for events that are due.
    pub(super) fn due_events(&mut self) -> Vec<Answer> {
        let mut out = Vec::new();
        while !self.asked.is_empty() && !self.events.is_empty() {
            let (id, event) = (self.asked.remove(0), self.events.remove(0));
            let kind = event.to_le_bytes()[0];
            self.silent |= 1u8.checked_shl(kind.into()).unwrap_or(0);
            self.events.retain(|other| other.to_le_bytes()[0] != kind);
            out.push(Answer { queue: 0, id, result: event, status: status::OK });
        }
        out
    }
}
