//! SCSI: what controllers and logical units are to each other, and the commands of disks.
//!
//! A controller turns what its driver asks for into a [`Task`] for a [`Unit`]; the unit moves data
//! between the disk and the guest's memory and gives an [`Outcome`]. [`Targets`] is the bus of a
//! controller: it gives units their addresses. [`Disk`] carries out the block commands (SBC) and
//! those of CD drives (MMC).
//! Not here: the devices (`hw-storage`), controllers (`hw-virtio`), tapes, pass-through, tagged
//! order, persistent reservations, tasks that are really aborted (they are waited for).
//! Sources: SPC-5, SBC-4, MMC-6, SAM-5.

mod cdb;
mod disk;
mod inquiry;
mod mode;
mod multimedia;
mod targets;

use std::io;
use std::sync::Arc;

use block::{Backend, Lane};
use guest_ram::RamSlice;

pub use disk::{Disk, Identity};
pub use targets::{Address, Plugged, Targets};

/// Status codes (SAM-5, 5.3.1).
pub mod status {
    /// Done.
    pub const GOOD: u8 = 0;
    /// Failed; the sense data says why.
    pub const CHECK_CONDITION: u8 = 2;
}

/// Why a command failed (SPC-5, 4.4): key, code, qualifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense(pub u8, pub u8, pub u8);

impl Sense {
    /// No error.
    pub const NONE: Sense = Sense(0, 0, 0);
    /// The drive is empty.
    pub const NO_MEDIUM: Sense = Sense(2, 0x3a, 0);
    /// The drive is empty and open.
    pub const TRAY_OPEN: Sense = Sense(2, 0x3a, 2);
    /// The command is not known.
    pub const INVALID_OPCODE: Sense = Sense(5, 0x20, 0);
    /// Behind the end.
    pub const LBA_OUT_OF_RANGE: Sense = Sense(5, 0x21, 0);
    /// A field of the command makes no sense.
    pub const INVALID_FIELD: Sense = Sense(5, 0x24, 0);
    /// There is no such unit.
    pub const NO_UNIT: Sense = Sense(5, 0x25, 0);
    /// A field of the parameters makes no sense.
    pub const INVALID_PARAMETER: Sense = Sense(5, 0x26, 0);
    /// The parameters are too short or too long.
    pub const PARAMETER_LENGTH: Sense = Sense(5, 0x1a, 0);
    /// The tray is locked.
    pub const REMOVAL_PREVENTED: Sense = Sense(5, 0x53, 2);
    /// Another medium may be in.
    pub const MEDIUM_CHANGED: Sense = Sense(6, 0x28, 0);
    /// The unit was reset.
    pub const RESET: Sense = Sense(6, 0x29, 0);
    /// The disk has another length.
    pub const CAPACITY_CHANGED: Sense = Sense(6, 0x2a, 9);
    /// Other units are on the bus.
    pub const UNITS_CHANGED: Sense = Sense(6, 0x3f, 0x0e);
    /// Writes are refused.
    pub const WRITE_PROTECTED: Sense = Sense(7, 0x27, 0);
    /// There is no space left.
    pub const SPACE_ALLOC_FAILED: Sense = Sense(7, 0x27, 7);
    /// The host could not read or write.
    pub const IO_ERROR: Sense = Sense(0xb, 0, 6);

    /// In the fixed format (SPC-5, 4.4.3).
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        let mut out = vec![0; 18];
        for (at, byte) in [(0, 0x70), (2, self.0), (7, 10), (12, self.1), (13, self.2)] {
            if let Some(place) = out.get_mut(at) {
                *place = byte;
            }
        }
        out
    }

    fn of(error: &io::Error) -> Sense {
        match error.kind() {
            io::ErrorKind::InvalidInput => Sense::INVALID_FIELD,
            io::ErrorKind::StorageFull => Sense::SPACE_ALLOC_FAILED,
            _ => Sense::IO_ERROR,
        }
    }
}

/// How a task ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Its status.
    pub status: u8,
    /// Sense data; empty for none.
    pub sense: Vec<u8>,
    /// Bytes that were moved.
    pub moved: u64,
}

impl Outcome {
    pub(crate) fn good(moved: u64) -> Outcome {
        Outcome { status: status::GOOD, sense: Vec::new(), moved }
    }
    /// A command that failed.
    #[must_use]
    pub fn failed(sense: Sense) -> Outcome {
        Outcome { status: status::CHECK_CONDITION, sense: sense.bytes(), moved: 0 }
    }
}

/// A command for a unit.
pub struct Task {
    /// The command, filled with zeroes.
    pub cdb: [u8; 32],
    /// Which unit the driver means at this target.
    pub lun: u16,
    /// What the unit may write.
    pub to_driver: Vec<RamSlice>,
    /// What the unit may read.
    pub from_driver: Vec<RamSlice>,
    /// It was begun before, and waited for the machine when its state was saved.
    pub again: bool,
    /// Told when it is done, on any thread and with no lock held.
    pub done: Box<dyn FnOnce(Outcome) + Send>,
}

impl Task {
    pub(crate) fn byte(&self, at: usize) -> u8 {
        self.cdb.get(at).copied().unwrap_or(0)
    }

    /// Ends it.
    pub fn finish(self, outcome: Outcome) {
        (self.done)(outcome);
    }

    /// Gives bytes, as many as there is room for.
    pub(crate) fn give(self, data: &[u8], allowed: usize) {
        let mut done = 0;
        let data = data.get(..allowed.min(data.len())).unwrap_or(data);
        for slice in &self.to_driver {
            let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) else { break };
            done += slice.write(rest);
        }
        self.finish(Outcome::good(done as u64));
    }

    /// As a unit's answer: bytes, at most `allowed` of them.
    pub fn reply(self, data: &[u8], allowed: usize) {
        self.give(data, allowed);
    }

    /// What the driver sends, at most `limit` bytes.
    pub(crate) fn sent(&self, limit: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for slice in &self.from_driver {
            let mut part = vec![0; slice.len().min(limit - out.len())];
            slice.read(&mut part);
            out.append(&mut part);
        }
        out
    }
}

/// A logical unit as controllers see it.
pub trait Unit: Send + Sync {
    /// Begins a command; [`Lane::flush`] makes the host see its requests.
    fn execute(self: Arc<Self>, lane: &Arc<Lane>, task: Task);
    /// Back to the state after power-on; waits for what is under way.
    fn reset(&self);
    /// Waits for what is under way; what waits for the machine to go on fails.
    fn wait(&self);
    /// Waits until everything is done or waits for the machine to go on.
    fn quiesce(&self);
    /// Its disk.
    fn backend(&self) -> &Arc<Backend>;
    /// Who is told that something happened that drivers want to know of.
    fn on_event(&self, told: Arc<dyn Fn(Sense) + Send + Sync>);
}
