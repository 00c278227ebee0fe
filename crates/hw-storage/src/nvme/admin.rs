//! Commands of the admin queue: queues, identify, features, logs, events.
//!
//! Every command is answered at once but requests for events. Not modelled: formatting, firmware,
//! security, directives, namespace management, doorbell buffers: they are refused as unknown, and
//! Identify says that they are not there.
//! Sources: NVM Express Base 2.0, chapter 5; values of QEMU 10.0.

use super::identify;
use super::state::{Answer, Completion, MAX_EVENTS, State, Submission};
use super::status::{self, Status};
use super::{Command, Nvme};

// Opcodes.
const DELETE_SQ: u8 = 0x00;
const CREATE_SQ: u8 = 0x01;
const LOG_PAGE: u8 = 0x02;
const DELETE_CQ: u8 = 0x04;
const CREATE_CQ: u8 = 0x05;
const IDENTIFY: u8 = 0x06;
const ABORT: u8 = 0x08;
const SET_FEATURES: u8 = 0x09;
const GET_FEATURES: u8 = 0x0a;
const EVENT: u8 = 0x0c;

// Features (5.27).
const ARBITRATION: u8 = 0x01;
const POWER: u8 = 0x02;
const TEMPERATURE: u8 = 0x04;
const RECOVERY: u8 = 0x05;
const WRITE_CACHE: u8 = 0x06;
const QUEUES: u8 = 0x07;
const COALESCING: u8 = 0x08;
const VECTORS: u8 = 0x09;
const ATOMICITY: u8 = 0x0a;
const EVENTS: u8 = 0x0b;
const TIMESTAMP: u8 = 0x0e;
/// The default threshold and what the sensor says, in kelvins.
const WARM: u16 = 0x157;
const NOW: u16 = 0x143;
const PAGE: usize = 4096;

/// What a command comes to.
pub(super) type Outcome = Result<u32, Status>;

fn low16(value: u32) -> u16 {
    u16::try_from(value & 0xffff).unwrap_or(0)
}

impl Nvme {
    /// Carries out a command; `None`: it is answered later.
    pub(super) fn admin(&self, c: &Command) -> Option<Outcome> {
        if c.flags & 3 != 0 {
            return Some(Err(status::FUSED));
        }
        if c.flags >> 6 != 0 && c.opcode != EVENT {
            return Some(Err(status::FIELD));
        }
        Some(match c.opcode {
            DELETE_SQ => self.delete_submission(low16(c.dw[0])),
            CREATE_SQ => self.create_submission(c),
            DELETE_CQ => self.delete_completion(low16(c.dw[0])),
            CREATE_CQ => self.create_completion(c),
            IDENTIFY => self.identify(c),
            // 5.1: nothing is ever aborted.
            ABORT => Ok(1),
            GET_FEATURES => self.feature(c),
            SET_FEATURES => self.set_feature(c),
            LOG_PAGE => self.log(c),
            EVENT => return self.ask_event(c),
            _ => Err(status::OPCODE),
        })
    }

    fn ask_event(&self, c: &Command) -> Option<Outcome> {
        let mut state = self.state.lock();
        if state.asked.len() >= MAX_EVENTS {
            return Some(Err(status::TOO_MANY_EVENTS));
        }
        state.asked.push(c.id);
        drop(state);
        self.tell_events();
        None
    }

    fn create_completion(&self, c: &Command) -> Outcome {
        let (id, entries) = (low16(c.dw[0]), (c.dw[0] >> 16) + 1);
        let (flags, vector) = (c.dw[1] & 0xffff, low16(c.dw[1] >> 16));
        let mut state = self.state.lock();
        if id == 0 || u32::from(id) > self.queues || state.completion(id).is_some() {
            return Err(status::QUEUE);
        }
        if !(2..=self.most_entries()).contains(&entries) {
            return Err(status::QUEUE_SIZE);
        }
        if !c.prp1.is_multiple_of(self.page(state.cc)) {
            return Err(status::OFFSET);
        }
        if vector > self.most_vector() {
            return Err(status::VECTOR);
        }
        if flags & 1 == 0 {
            return Err(status::FIELD);
        }
        state.completions.push(Completion {
            id,
            vector,
            interrupts: flags & 2 != 0,
            base: c.prp1,
            entries,
            phase: true,
            ..Completion::default()
        });
        Ok(0)
    }

    fn create_submission(&self, c: &Command) -> Outcome {
        let (id, entries) = (low16(c.dw[0]), (c.dw[0] >> 16) + 1);
        let completion = low16(c.dw[1] >> 16);
        let mut state = self.state.lock();
        if completion == 0 || state.completion(completion).is_none() {
            return Err(status::NO_COMPLETION);
        }
        if id == 0 || u32::from(id) > self.queues || state.submission(id).is_some() {
            return Err(status::QUEUE);
        }
        if !(2..=self.most_entries()).contains(&entries) {
            return Err(status::QUEUE_SIZE);
        }
        if !c.prp1.is_multiple_of(self.page(state.cc)) {
            return Err(status::OFFSET);
        }
        if c.dw[1] & 1 == 0 {
            return Err(status::FIELD);
        }
        let queue = Submission { id, completion, base: c.prp1, entries, ..Submission::default() };
        state.submissions.push(queue);
        Ok(0)
    }

    fn delete_submission(&self, id: u16) -> Outcome {
        if id == 0 || self.state.lock().submission(id).is_none() {
            return Err(status::QUEUE);
        }
        // 5.5: what is under way is answered first.
        self.wait();
        let mut state = self.state.lock();
        for queue in &mut state.completions {
            queue.waiting.retain(|answer| answer.queue != id);
        }
        state.submissions.retain(|q| q.id != id);
        Ok(0)
    }

    fn delete_completion(&self, id: u16) -> Outcome {
        let mut state = self.state.lock();
        if id == 0 || state.completion(id).is_none() {
            return Err(status::NO_COMPLETION);
        }
        if state.submissions.iter().any(|q| q.completion == id) {
            return Err(status::IN_USE);
        }
        state.completions.retain(|q| q.id != id);
        drop(state);
        self.drive_pin();
        Ok(0)
    }

    fn identify(&self, c: &Command) -> Outcome {
        let (cns, controller) = (c.dw[0] & 0xff, c.dw[0] >> 16);
        let set = c.dw[1] >> 24;
        let space = || self.namespace(c.nsid);
        let valid = c.nsid != 0 && c.nsid <= identify::MOST_NAMESPACES;
        let of_space = |page: fn(&super::ns::Namespace) -> Vec<u8>| {
            if !valid {
                return Err(status::NAMESPACE);
            }
            // 5.17.2.1: all zeroes for one that is not there.
            Ok(space().map_or_else(|| vec![0; PAGE], |n| page(&n)))
        };
        let page = match cns {
            0 | 0x11 => of_space(identify::namespace)?,
            1 => identify::controller(&self.props),
            2 | 0x10 if c.nsid >= 0xffff_fffe => return Err(status::NAMESPACE),
            2 | 0x10 => identify::list(self.ids().into_iter().filter(|id| *id > c.nsid)),
            3 if valid && space().is_some() => of_space(identify::names)?,
            3 => return Err(if valid { status::FIELD } else { status::NAMESPACE }),
            5 if set == 0 => of_space(|_| vec![0; PAGE])?,
            6 if set == 0 => identify::command_set(&self.props),
            8 => of_space(|_| vec![0; PAGE])?,
            0x12 | 0x13 => identify::controllers(controller),
            0x1c => identify::sets(),
            _ => return Err(status::FIELD),
        };
        self.give(c, &page)
    }

    /// Copies to where the command says.
    fn give(&self, c: &Command, data: &[u8]) -> Outcome {
        let pieces = self.pieces(c, data.len() as u64, true)?;
        let mut done = 0;
        for piece in &pieces {
            done += data.get(done..).map_or(0, |rest| piece.write(rest));
        }
        Ok(0)
    }

    fn feature(&self, c: &Command) -> Outcome {
        let (feature, select) = (c.dw[0].to_le_bytes()[0], c.dw[0] >> 8 & 7);
        let state = self.state.lock().clone();
        let first = State::default();
        let from = if select == 0 { &state } else { &first };
        let changeable = 4;
        let (value, abilities) = match feature {
            ARBITRATION => (7, 0),
            POWER | COALESCING => (0, 0),
            VECTORS => {
                let vector = c.dw[1] & 0xffff;
                if vector > u32::from(self.most_vector()) {
                    return Err(status::FIELD);
                }
                // Only the admin queue's vector is never coalesced.
                (vector | if vector == 0 { 1 << 16 } else { 0 }, 0)
            }
            TEMPERATURE => {
                let threshold = match (c.dw[1] >> 16 & 15, c.dw[1] >> 20 & 3) {
                    (0 | 1, 0) if select == 0 => state.threshold(true),
                    (0 | 1, 0) => WARM,
                    (0 | 1, 1) if select == 0 => state.threshold(false),
                    _ => 0,
                };
                (threshold.into(), changeable)
            }
            RECOVERY => {
                if c.nsid == 0 || c.nsid > identify::MOST_NAMESPACES {
                    return Err(status::NAMESPACE);
                }
                // Bit 1: for each namespace.
                (from.error_recovery, changeable | 2)
            }
            WRITE_CACHE => (u32::from(select == 0 && self.is_cached(&state)), changeable),
            QUEUES => ((self.queues - 1) | (self.queues - 1) << 16, changeable),
            ATOMICITY => (from.atomicity, changeable),
            EVENTS => (from.event_config, changeable),
            TIMESTAMP => {
                if select == 0 {
                    self.give(c, &self.timestamp(&state).to_le_bytes())?;
                }
                (0, changeable)
            }
            _ => return Err(status::FIELD),
        };
        match select {
            0..=2 => Ok(value),
            3 => Ok(abilities),
            _ => Err(status::FIELD),
        }
    }

    /// Milliseconds, and in bits 51 to 49 that the guest set it.
    fn timestamp(&self, state: &State) -> u64 {
        let passed = self.clock.now_ns().saturating_sub(state.timestamp_set) / 1_000_000;
        let set = u64::from(state.timestamp != 0) << 49;
        (state.timestamp.saturating_add(passed) & 0xffff_ffff_ffff) | set
    }

    fn set_feature(&self, c: &Command) -> Outcome {
        const SAVE: u32 = 1 << 31;
        let feature = c.dw[0].to_le_bytes()[0];
        if c.dw[0] & SAVE != 0 {
            return Err(NOT_SAVEABLE);
        }
        let value = c.dw[1];
        match feature {
            ARBITRATION | POWER | COALESCING | VECTORS => return Err(status::NOT_CHANGEABLE),
            TEMPERATURE => {
                let mut state = self.state.lock();
                match (value >> 16 & 15, value >> 20 & 3) {
                    (0 | 15, 0) => state.over_threshold = low16(value),
                    (0 | 15, 1) => state.under_threshold = low16(value),
                    _ => return Err(status::FIELD),
                }
                let warm = state.threshold(true) <= NOW || state.threshold(false) >= NOW;
                if warm && state.event_config & 2 != 0 {
                    // Health: the temperature passed a threshold.
                    state.event(1, 1, 2);
                }
            }
            RECOVERY => {
                if c.nsid != u32::MAX && self.namespace(c.nsid).is_none() {
                    return Err(status::NAMESPACE);
                }
                self.state.lock().error_recovery = value;
            }
            WRITE_CACHE => self.state.lock().volatile_off = value & 1 == 0,
            QUEUES => {
                if value & 0xffff == 0xffff || value >> 16 == 0xffff {
                    return Err(status::FIELD);
                }
                return Ok((self.queues - 1) | (self.queues - 1) << 16);
            }
            ATOMICITY => self.state.lock().atomicity = value & 1,
            EVENTS => self.state.lock().event_config = value,
            TIMESTAMP => {
                let mut bytes = [0; 8];
                let mut done = 0;
                for piece in self.pieces(c, 8, false)? {
                    done += bytes.get_mut(done..).map_or(0, |rest| piece.read(rest));
                }
                let mut state = self.state.lock();
                state.timestamp = u64::from_le_bytes(bytes) & 0xffff_ffff_ffff;
                state.timestamp_set = self.clock.now_ns();
            }
            _ => return Err(status::FIELD),
        }
        self.tell_events();
        Ok(0)
    }

    fn log(&self, c: &Command) -> Outcome {
        const ERRORS: u32 = 1;
        const HEALTH: u32 = 2;
        const FIRMWARE: u32 = 3;
        const CHANGED: u32 = 4;
        const EFFECTS: u32 = 5;
        const MOST: usize = 1 << 20;
        let numbers = u64::from(c.dw[0] >> 16) | u64::from(c.dw[1] & 0xffff) << 16;
        let len = usize::try_from((numbers + 1) * 4).unwrap_or(MOST).min(MOST);
        let offset = u64::from(c.dw[2]) | u64::from(c.dw[3]) << 32;
        if !offset.is_multiple_of(4) {
            return Err(status::FIELD);
        }
        let page = match c.dw[0] & 0xff {
            ERRORS => vec![0; 64],
            HEALTH if c.nsid == 0 && offset == 0 => return Err(status::NAMESPACE),
            HEALTH => self.health(NOW),
            FIRMWARE => identify::firmware(),
            CHANGED => self.changed_list(),
            EFFECTS => identify::effects(),
            _ => return Err(status::FIELD),
        };
        let rest = usize::try_from(offset).ok().and_then(|at| page.get(at..));
        let rest = rest.filter(|rest| !rest.is_empty()).ok_or(status::FIELD)?;
        let data = rest.get(..len).unwrap_or(rest);
        self.give(c, data)?;
        if c.dw[0] & 0x8000 == 0 {
            // Reading it lets events of its kind come again.
            let kind = match c.dw[0] & 0xff {
                ERRORS => 1u8,
                HEALTH => 2,
                CHANGED => 4,
                _ => 0,
            };
            self.state.lock().silent &= !kind;
        }
        Ok(0)
    }

    pub(super) fn tell_events(&self) {
        let due = self.state.lock().due_events();
        for answer in due {
            self.answer(answer);
        }
    }

    pub(super) fn finish(&self, c: &Command, outcome: Outcome) {
        let (result, status) = match outcome {
            Ok(result) => (result, status::OK),
            Err(status) => (0, status),
        };
        self.answer(Answer { queue: c.queue, id: c.id, result, status });
    }
}

/// 3.3.3.2.2: the feature cannot be saved.
const NOT_SAVEABLE: Status = 0x410d;

impl State {
    fn threshold(&self, over: bool) -> u16 {
        match (over, self.over_threshold) {
            (true, 0) => WARM,
            (true, set) => set,
            (false, _) => self.under_threshold,
        }
    }
}
