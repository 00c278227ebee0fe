//! A disk or CD drive: the commands of SBC-4, with those of SPC-5 that every unit has.
//!
//! Reads and writes go to the block layer with the guest's memory as it is. What follows a reset,
//! a change of medium or of length is told by the next command (unit attention). Errors of the
//! host become sense data unless the policy stops the machine.
//! Not here: reservations (accepted and without effect), protection information, COMPARE AND
//! WRITE, FORMAT UNIT beyond accepting it.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use block::{Backend, DiskProps, Lane, Op, Request};
use derive::VmState;
use guest_ram::RamSlice;
use parking_lot::Mutex;
use vmstate::{LoadError, StateReader, StateSchema, StateWriter, VmState as _};

use crate::cdb::{extent, number};
use crate::{Outcome, Sense, Task, Unit, inquiry, mode, multimedia};

/// What a unit says about itself.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// It is a CD drive.
    pub cd: bool,
    /// Media can be taken out.
    pub removable: bool,
    /// Its maker, at most 8 bytes.
    pub vendor: String,
    /// Its name, at most 16 bytes.
    pub product: String,
    /// Its version, at most 4 bytes.
    pub revision: String,
    /// Its serial number; empty for none.
    pub serial: String,
    /// How page 83 names it; empty for none.
    pub device_id: String,
    /// Its world-wide name; 0: none.
    pub wwn: u64,
    /// Its port's; 0: none.
    pub port_wwn: u64,
    /// Its port's number; 0: none.
    pub port_index: u16,
    /// Version of the standard in INQUIRY.
    pub version: u8,
    /// Turns per minute; 0: not told, 1: none.
    pub rotation: u16,
    /// It knows the bits DPO and FUA.
    pub dpofua: bool,
    /// Most bytes of one transfer.
    pub max_io_size: u64,
    /// Most bytes of one UNMAP.
    pub max_unmap_size: u64,
}

#[derive(Default)]
struct State {
    attention: Option<Sense>,
    /// The tray is open.
    open: bool,
    /// The guest locked the tray.
    locked: bool,
    /// What GET EVENT STATUS tells next.
    event: u8,
    /// The unit's number.
    lun: u16,
}

/// What is saved of a unit.
#[derive(VmState)]
#[vmstate(name = "scsi-disk", version = 1)]
struct Saved {
    attention: Option<(u8, u8, u8)>,
    open: bool,
    locked: bool,
    event: u8,
    cached: bool,
}

impl vmstate::Saved for Disk {
    fn schema(&self) -> &'static StateSchema {
        Saved::schema()
    }
    fn save(&self, w: &mut StateWriter) {
        let saved = {
            let State { attention, open, locked, event, .. } = &*self.state.lock();
            let cached = self.backend.write_cache.load(Ordering::Relaxed);
            let attention = attention.map(|Sense(key, code, more)| (key, code, more));
            Saved { attention, open: *open, locked: *locked, event: *event, cached }
        };
        saved.save(w);
    }
    fn load(&self, r: &mut StateReader<'_>, version: u32) -> Result<(), LoadError> {
        let Saved { attention, open, locked, event, cached } = Saved::load(r, version)?;
        if (open || locked || event != 0) && !self.about.removable {
            return Err(LoadError::Invalid("a disk that has no tray"));
        }
        let attention = attention.map(|(key, code, more)| Sense(key, code, more));
        let mut state = self.state.lock();
        *state = State { attention, open, locked, event, lun: state.lun };
        self.backend.write_cache.store(cached, Ordering::Relaxed);
        Ok(())
    }
}

type Told = Arc<dyn Fn(Sense) + Send + Sync>;

/// A disk or CD drive.
pub struct Disk {
    pub(crate) about: Identity,
    pub(crate) conf: DiskProps,
    pub(crate) backend: Arc<Backend>,
    cached_first: bool,
    state: Mutex<State>,
    told: Mutex<Option<Told>>,
    this: Weak<Disk>,
}

/// Where in a list of pieces the first `len` bytes end; `None`: there are fewer.
fn first(memory: &[RamSlice], len: u64) -> Option<Vec<RamSlice>> {
    let mut left = usize::try_from(len).ok()?;
    let mut out = Vec::new();
    for slice in memory {
        if left == 0 {
            break;
        }
        let part = slice.part(0, left);
        left -= part.len();
        out.push(part);
    }
    (left == 0).then_some(out)
}

impl Disk {
    /// A unit in front of a slot.
    #[must_use]
    pub fn new(about: Identity, conf: DiskProps, backend: Arc<Backend>) -> Arc<Disk> {
        let cached = backend.write_cache.load(Ordering::Relaxed);
        Arc::new_cyclic(|this| Disk {
            about,
            conf,
            backend,
            cached_first: cached,
            state: Mutex::new(State { attention: Some(Sense::RESET), ..State::default() }),
            told: Mutex::default(),
            this: this.clone(),
        })
    }

    pub(crate) fn kind(&self) -> u8 {
        if self.about.cd { 5 } else { 0 }
    }
    pub(crate) fn lun(&self) -> u16 {
        self.state.lock().lun
    }
    /// Sets the unit's number.
    pub fn set_lun(&self, lun: u16) {
        self.state.lock().lun = lun;
    }
    /// Bytes of a block.
    pub(crate) fn block(&self) -> u64 {
        if self.about.cd { 2048 } else { self.conf.logical() }
    }
    pub(crate) fn blocks(&self) -> u64 {
        self.backend.len() / self.block()
    }
    pub(crate) fn is_read_only(&self) -> bool {
        self.about.cd || self.backend.is_read_only()
    }
    pub(crate) fn has_medium(&self) -> bool {
        self.backend.node().is_some() && !self.state.lock().open
    }
    /// Bytes of the unit of discards; 0: none.
    pub(crate) fn discard_unit(&self) -> u64 {
        match self.conf.discard_granularity.0 {
            unit if unit == u64::from(u32::MAX) => self.block().max(4096),
            unit => unit,
        }
    }
    /// Whether the tray is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state.lock().open
    }
    /// Whether the guest locked the tray.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.state.lock().locked
    }
    pub(crate) fn lock_tray(&self, on: bool) {
        self.state.lock().locked = on;
    }
    /// Moves the tray.
    pub fn set_open(&self, open: bool) {
        let mut state = self.state.lock();
        state.open = open;
        if !open {
            // Media event: new medium.
            state.event = 2;
            state.attention = Some(Sense::MEDIUM_CHANGED);
        }
    }
    /// Asks the guest to let the medium go.
    pub fn ask_to_open(&self) {
        self.state.lock().event = 1;
    }
    /// The event that GET EVENT STATUS tells, and forgets it.
    pub(crate) fn take_event(&self) -> u8 {
        std::mem::take(&mut self.state.lock().event)
    }
    /// The next command is told, and the driver if it wants to know.
    pub fn attention(&self, sense: Sense) {
        self.state.lock().attention = Some(sense);
        let told = self.told.lock().clone();
        if let Some(told) = told {
            told(sense);
        }
    }

    pub(crate) fn fail(&self, task: Task, sense: Sense) {
        task.finish(Outcome::failed(sense));
    }

    fn ready(&self) -> Result<(), Sense> {
        if self.is_open() {
            return Err(Sense::TRAY_OPEN);
        }
        if self.backend.node().is_none() { Err(Sense::NO_MEDIUM) } else { Ok(()) }
    }

    /// Hands a request to the block layer; `moved` bytes count as moved when it is done.
    fn ask(
        &self,
        lane: &Arc<Lane>,
        (op, at, len): (Op, u64, u64),
        memory: Vec<RamSlice>,
        done: Box<dyn FnOnce(io::Result<()>) + Send>,
    ) {
        let through = !self.backend.write_cache.load(Ordering::Relaxed);
        self.backend.submit(lane, Request { op, at, len, memory, through, parts: 1, done });
    }

    fn end(task: Task, moved: u64) -> Box<dyn FnOnce(io::Result<()>) + Send> {
        Box::new(move |result: io::Result<()>| {
            task.finish(match result {
                Ok(()) => Outcome::good(moved),
                Err(error) => Outcome::failed(Sense::of(&error)),
            });
        })
    }

    /// The bytes of a range of blocks.
    fn range(&self, at: u64, count: u64) -> Result<(u64, u64), Sense> {
        let end = at.checked_add(count).ok_or(Sense::LBA_OUT_OF_RANGE)?;
        if end > self.blocks() {
            return Err(Sense::LBA_OUT_OF_RANGE);
        }
        Ok((at * self.block(), count * self.block()))
    }

    fn transfer(&self, lane: &Arc<Lane>, task: Task, op: Op) -> Result<(), (Task, Sense)> {
        let (at, count) = extent(&task.cdb);
        let write = op == Op::Write;
        if write && self.is_read_only() {
            return Err((task, Sense::WRITE_PROTECTED));
        }
        // RDPROTECT, WRPROTECT: no protection information here.
        if task.byte(0) >> 5 != 0 && task.byte(1) & 0xe0 != 0 {
            return Err((task, Sense::INVALID_FIELD));
        }
        let (at, len) = match self.range(at, count) {
            Ok(range) => range,
            Err(sense) => return Err((task, sense)),
        };
        let memory = first(if write { &task.from_driver } else { &task.to_driver }, len);
        let Some(memory) = memory else { return Err((task, Sense::INVALID_FIELD)) };
        if len == 0 {
            task.finish(Outcome::good(0));
            return Ok(());
        }
        // FUA: the data is on the disk when the command ends.
        let fua = write && task.byte(0) >> 5 != 0 && task.byte(1) & 8 != 0;
        let Some(this) = self.this.upgrade().filter(|_| fua) else {
            self.ask(lane, (op, at, len), memory, Disk::end(task, len));
            return Ok(());
        };
        let way = lane.clone();
        let flush = Box::new(move |result: io::Result<()>| match result {
            Ok(()) => {
                this.ask(&way, (Op::Flush, 0, 0), Vec::new(), Disk::end(task, len));
                way.flush();
            }
            Err(error) => task.finish(Outcome::failed(Sense::of(&error))),
        });
        self.ask(lane, (op, at, len), memory, flush);
        Ok(())
    }

    fn write_same(&self, lane: &Arc<Lane>, task: Task) -> Result<(), (Task, Sense)> {
        if self.is_read_only() {
            return Err((task, Sense::WRITE_PROTECTED));
        }
        let (at, count) = extent(&task.cdb);
        // ANCHOR, or no range at all.
        if task.byte(1) & 0x10 != 0 || count == 0 {
            return Err((task, Sense::INVALID_FIELD));
        }
        let (at, len) = match self.range(at, count) {
            Ok(range) => range,
            Err(sense) => return Err((task, sense)),
        };
        let block = usize::try_from(self.block()).unwrap_or(512);
        let data = task.sent(block);
        let unmap = task.byte(1) & 8 != 0;
        if data.iter().all(|byte| *byte == 0) {
            let moved = data.len() as u64;
            let op = Op::WriteZeroes { unmap };
            self.ask(lane, (op, at, len), Vec::new(), Disk::end(task, moved));
            return Ok(());
        }
        let source = first(&task.from_driver, self.block());
        let Some(source) = source else { return Err((task, Sense::INVALID_FIELD)) };
        // The same block many times: as many pieces as fit into one request, one after the other.
        self.repeat(lane, task, source, (at, len));
        Ok(())
    }

    fn repeat(&self, lane: &Arc<Lane>, task: Task, source: Vec<RamSlice>, (at, left): (u64, u64)) {
        const AT_ONCE: usize = 256;
        let per = (AT_ONCE / source.len().max(1)).max(1);
        let count = (left / self.block()).min(per as u64);
        let len = count * self.block();
        let mut memory = Vec::new();
        for _ in 0..count {
            memory.extend(source.iter().cloned());
        }
        let Some(this) = self.this.upgrade() else { return };
        let (way, block) = (lane.clone(), self.block());
        let next = Box::new(move |result: io::Result<()>| match result {
            Ok(()) if left > len => way.clone().later(move || {
                this.repeat(&way, task, source, (at + len, left - len));
                way.flush();
            }),
            Ok(()) => task.finish(Outcome::good(block)),
            Err(error) => task.finish(Outcome::failed(Sense::of(&error))),
        });
        self.ask(lane, (Op::Write, at, len), memory, next);
    }

    fn unmap(&self, lane: &Arc<Lane>, task: Task) -> Result<(), (Task, Sense)> {
        if task.byte(1) & 1 != 0 {
            return Err((task, Sense::INVALID_FIELD));
        }
        let data = task.sent(1 << 16);
        if data.is_empty() {
            task.finish(Outcome::good(0));
            return Ok(());
        }
        let listed = usize::try_from(number(&data, 2, 2)).unwrap_or(0);
        if data.len() < 8 + listed || listed & 15 != 0 {
            return Err((task, Sense::PARAMETER_LENGTH));
        }
        if self.is_read_only() {
            return Err((task, Sense::WRITE_PROTECTED));
        }
        let mut ranges = Vec::new();
        for entry in data.get(8..8 + listed).unwrap_or_default().chunks_exact(16) {
            match self.range(number(entry, 0, 8), number(entry, 8, 4)) {
                Ok(range) => ranges.push(range),
                Err(sense) => return Err((task, sense)),
            }
        }
        self.discard_all(lane, task, ranges);
        Ok(())
    }

    fn discard_all(&self, lane: &Arc<Lane>, task: Task, mut ranges: Vec<(u64, u64)>) {
        let (Some((at, len)), Some(this)) = (ranges.pop(), self.this.upgrade()) else {
            return task.finish(Outcome::good(0));
        };
        let way = lane.clone();
        let next = Box::new(move |result: io::Result<()>| match result {
            Ok(()) => way.clone().later(move || {
                this.discard_all(&way, task, ranges);
                way.flush();
            }),
            Err(error) => task.finish(Outcome::failed(Sense::of(&error))),
        });
        self.ask(lane, (Op::Discard, at, len), Vec::new(), next);
    }

    fn capacity(&self, task: Task) {
        let last = self.blocks().saturating_sub(1);
        let block = u32::try_from(self.block()).unwrap_or(0).to_be_bytes();
        if task.byte(0) == 0x25 {
            let mut out = u32::try_from(last).unwrap_or(u32::MAX).to_be_bytes().to_vec();
            out.extend(block);
            return task.give(&out, 8);
        }
        let allowed = usize::try_from(number(&task.cdb, 10, 4)).unwrap_or(usize::MAX);
        let mut out = last.to_be_bytes().to_vec();
        out.extend(block);
        let exponent = (self.conf.physical() / self.conf.logical()).trailing_zeros();
        let thin = if self.discard_unit() > 0 && !self.about.cd { 0x80 } else { 0 };
        out.extend([0, u8::try_from(exponent).unwrap_or(0), thin, 0]);
        out.resize(32, 0);
        task.give(&out, allowed);
    }

    fn start_stop(&self, task: Task) {
        let (eject, start) = (task.byte(4) & 2 != 0, task.byte(4) & 1 != 0);
        if !(self.about.removable && eject && task.byte(4) >> 4 == 0) {
            return task.finish(Outcome::good(0));
        }
        if !start && !self.is_open() && self.is_locked() {
            return self.fail(task, Sense::REMOVAL_PREVENTED);
        }
        self.set_open(!start);
        task.finish(Outcome::good(0));
    }

    /// Commands that need a medium.
    fn medium(&self, lane: &Arc<Lane>, task: Task) {
        if let Err(sense) = self.ready() {
            return self.fail(task, sense);
        }
        let done = match task.byte(0) {
            0x00 => {
                task.finish(Outcome::good(0));
                Ok(())
            }
            0x08 | 0x28 | 0xa8 | 0x88 => self.transfer(lane, task, Op::Read),
            0x0a | 0x2a | 0xaa | 0x8a | 0x2e | 0xae | 0x8e => self.transfer(lane, task, Op::Write),
            0x25 | 0x9e => {
                self.capacity(task);
                Ok(())
            }
            0x35 | 0x91 => {
                self.ask(lane, (Op::Flush, 0, 0), Vec::new(), Disk::end(task, 0));
                Ok(())
            }
            0x41 | 0x93 => self.write_same(lane, task),
            0x42 => self.unmap(lane, task),
            // Verify without comparing, seek, format: nothing to do.
            0x2f | 0xaf | 0x8f if task.byte(1) & 6 == 0 => self.check_range(task),
            0x2b | 0x04 => {
                task.finish(Outcome::good(0));
                Ok(())
            }
            _ => Err((task, Sense::INVALID_OPCODE)),
        };
        if let Err((task, sense)) = done {
            self.fail(task, sense);
        }
    }

    fn check_range(&self, task: Task) -> Result<(), (Task, Sense)> {
        let (at, count) = extent(&task.cdb);
        match self.range(at, count) {
            Ok(_) => {
                task.finish(Outcome::good(0));
                Ok(())
            }
            Err(sense) => Err((task, sense)),
        }
    }

    /// REQUEST SENSE: what waits to be told.
    fn sense(&self, task: Task) {
        let pending = self.state.lock().attention.take();
        let allowed = usize::from(task.byte(4));
        task.give(&pending.unwrap_or(Sense::NONE).bytes(), allowed);
    }
}

impl Unit for Disk {
    fn execute(self: Arc<Self>, lane: &Arc<Lane>, mut task: Task) {
        let (command, told) = (self.backend.command(), task.done);
        task.done = Box::new(move |outcome| {
            told(outcome);
            drop(command);
        });
        let opcode = task.byte(0);
        let known = task.lun == self.lun();
        match opcode {
            0x12 => return inquiry::inquiry(&self, task),
            0x03 if known => return self.sense(task),
            0x03 => {
                let allowed = usize::from(task.byte(4));
                return task.give(&Sense::NO_UNIT.bytes(), allowed);
            }
            _ if !known => return self.fail(task, Sense::NO_UNIT),
            // Polling for events is no reason to hear of others.
            0x4a | 0x46 => {}
            // It was told, or there was nothing, when the command came first.
            _ if task.again => {}
            _ => {
                let pending = self.state.lock().attention.take();
                if let Some(sense) = pending {
                    return self.fail(task, sense);
                }
            }
        }
        match opcode {
            0x1a | 0x5a => mode::sense(&self, task),
            0x15 | 0x55 => mode::select(&self, task),
            0x1b => self.start_stop(task),
            0x1e => {
                self.lock_tray(task.byte(4) & 1 != 0);
                task.finish(Outcome::good(0));
            }
            0x16 | 0x17 | 0x56 | 0x57 | 0x01 => task.finish(Outcome::good(0)),
            0x9e if task.byte(1) & 0x1f != 0x10 => self.fail(task, Sense::INVALID_FIELD),
            _ if self.about.cd && multimedia::knows(opcode) => multimedia::execute(&self, task),
            _ => self.medium(lane, task),
        }
    }

    fn reset(&self) {
        self.wait();
        let mut state = self.state.lock();
        state.attention = Some(Sense::RESET);
        state.locked = false;
        drop(state);
        let cached = self.cached_first;
        self.backend.write_cache.store(cached, Ordering::Relaxed);
    }

    fn wait(&self) {
        self.backend.give_up();
    }

    fn quiesce(&self) {
        self.backend.quiesce();
    }

    fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    fn on_event(&self, told: Arc<dyn Fn(Sense) + Send + Sync>) {
        *self.told.lock() = Some(told);
    }
}
