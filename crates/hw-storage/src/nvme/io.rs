//! Commands of I/O queues: reads, writes, and what else is done to blocks.
//!
//! They go to the block layer with the guest's memory as their buffers and are answered in any
//! order, on the thread of the lane. Compare reads into memory of its own. Fused commands, copies,
//! reservations, zones and metadata are not modelled: they are refused.
//! Source: NVM Command Set 1.0, chapter 3.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use block::{Op, Request};
use guest_ram::{RamBlock, RamOptions, RamSlice};
use parking_lot::Mutex;

use super::ns::Namespace;
use super::status::{self, Status};
use super::{Command, Nvme};

// Opcodes.
const FLUSH: u8 = 0x00;
const WRITE: u8 = 0x01;
const READ: u8 = 0x02;
const COMPARE: u8 = 0x05;
const WRITE_ZEROES: u8 = 0x08;
const DATASET: u8 = 0x09;
const VERIFY: u8 = 0x0c;
/// Force unit access.
const FUA: u32 = 1 << 30;
/// Write zeroes: the blocks may be given back.
const DEALLOCATE: u32 = 1 << 25;
/// Most bytes that are compared at once where transfers have no limit.
const MOST_COMPARED: u64 = 16 << 20;
/// Bytes of a transfer at most, whatever MDTS allows: each page of one costs the host memory.
const MOST_MOVED: u64 = 1 << 30;

/// Several requests that are one command.
struct Group {
    left: AtomicUsize,
    status: Mutex<Status>,
    command: Command,
    controller: Arc<Nvme>,
}

impl Group {
    fn done(&self, result: Result<(), Status>) {
        if let Err(status) = result {
            *self.status.lock() = status;
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let status = *self.status.lock();
            let outcome = if status == status::OK { Ok(0) } else { Err(status) };
            self.controller.end(&self.command, outcome);
        }
    }
}

fn failed(op: Op, error: &io::Error) -> Status {
    match (op, error.kind()) {
        (_, io::ErrorKind::Unsupported) => status::OPCODE,
        (Op::Read, _) => status::READ_ERROR,
        (Op::Flush, _) => status::INTERNAL,
        _ => status::WRITE_FAULT,
    }
}

/// The blocks of a command as bytes.
fn range(n: &Namespace, first: u64, count: u64) -> Result<(u64, u64), Status> {
    let last = first.checked_add(count).filter(|last| *last <= n.blocks());
    last.map(|_| (first << n.shift, count << n.shift)).ok_or(status::RANGE)
}

impl Nvme {
    /// Begins a command.
    pub(super) fn io(&self, command: Command) {
        if let Err(status) = self.begin(&command) {
            self.finish(&command, Err(status));
        }
    }

    fn begin(&self, c: &Command) -> Result<(), Status> {
        if c.opcode == FLUSH && c.nsid == u32::MAX {
            return self.flush(c, &self.spaces());
        }
        if c.nsid == 0 || c.nsid > super::identify::MOST_NAMESPACES {
            return Err(status::NAMESPACE);
        }
        let n = self.namespace(c.nsid).ok_or(status::FIELD)?;
        if c.flags & 3 != 0 {
            return Err(status::FUSED);
        }
        let writes = matches!(c.opcode, WRITE | WRITE_ZEROES | DATASET);
        if writes && n.read_only {
            return Err(status::READ_ONLY);
        }
        let first = u64::from(c.dw[0]) | u64::from(c.dw[1]) << 32;
        let count = u64::from(c.dw[2] & 0xffff) + 1;
        match c.opcode {
            FLUSH => self.flush(c, &[n]),
            READ | WRITE => {
                self.check_len(count << n.shift)?;
                let (at, len) = range(&n, first, count)?;
                let memory = self.pieces(c, len, c.opcode == READ)?;
                let op = if c.opcode == READ { Op::Read } else { Op::Write };
                self.submit(c, &n, (op, at, len), memory);
                Ok(())
            }
            COMPARE => self.compare(c, &n, (first, count)),
            WRITE_ZEROES => {
                let (at, len) = range(&n, first, count)?;
                let op = Op::WriteZeroes { unmap: c.dw[2] & DEALLOCATE != 0 };
                self.submit(c, &n, (op, at, len), Vec::new());
                Ok(())
            }
            DATASET => self.dataset(c, &n),
            VERIFY => {
                range(&n, first, count)?;
                self.finish(c, Ok(0));
                Ok(())
            }
            _ => Err(status::OPCODE),
        }
    }

    fn check_len(&self, len: u64) -> Result<(), Status> {
        let most = match self.props.mdts {
            0 => MOST_MOVED,
            shift => 4096u64.checked_shl(shift.into()).unwrap_or(MOST_MOVED).min(MOST_MOVED),
        };
        if len > most { Err(status::FIELD) } else { Ok(()) }
    }

    /// Writes reach the disk at once without a cache, or when the command says so.
    fn through(&self, c: &Command) -> bool {
        c.dw[2] & FUA != 0 || !self.is_cached(&self.state.lock())
    }

    fn submit(
        &self,
        c: &Command,
        n: &Arc<Namespace>,
        (op, at, len): (Op, u64, u64),
        memory: Vec<RamSlice>,
    ) {
        let (Some(this), Some(lane)) = (self.this.upgrade(), self.lane.clone()) else {
            return self.finish(c, Err(status::INTERNAL));
        };
        let (command, through) = (c.clone(), self.through(c));
        *self.working.lock() += 1;
        let done = Box::new(move |result: io::Result<()>| {
            this.end(&command, result.map(|()| 0).map_err(|error| failed(op, &error)));
        });
        n.backend.submit(&lane, Request { op, at, len, memory, through, parts: 1, done });
    }

    /// Begins several requests that are answered once.
    fn group(&self, c: &Command, all: Vec<(Arc<Namespace>, Op, u64, u64)>) {
        let (Some(controller), Some(lane)) = (self.this.upgrade(), self.lane.clone()) else {
            return self.finish(c, Err(status::INTERNAL));
        };
        if all.is_empty() {
            return self.finish(c, Ok(0));
        }
        *self.working.lock() += 1;
        let group = Arc::new(Group {
            left: AtomicUsize::new(all.len()),
            status: Mutex::new(status::OK),
            command: c.clone(),
            controller,
        });
        for (n, op, at, len) in all {
            let group = group.clone();
            let done = Box::new(move |result: io::Result<()>| {
                group.done(result.map_err(|error| failed(op, &error)));
            });
            let request =
                Request { op, at, len, memory: Vec::new(), through: false, parts: 1, done };
            n.backend.submit(&lane, request);
        }
    }

    fn flush(&self, c: &Command, spaces: &[Arc<Namespace>]) -> Result<(), Status> {
        self.group(c, spaces.iter().map(|n| (n.clone(), Op::Flush, 0, 0)).collect());
        Ok(())
    }

    /// 3.2.3: up to 256 ranges; only giving blocks back does something, and only hints.
    fn dataset(&self, c: &Command, n: &Arc<Namespace>) -> Result<(), Status> {
        const GIVE_BACK: u32 = 1 << 2;
        let count = u64::from(c.dw[0] & 0xff) + 1;
        let mut bytes = Vec::new();
        for piece in self.pieces(c, count * 16, false)? {
            let mut part = vec![0; piece.len()];
            piece.read(&mut part);
            bytes.append(&mut part);
        }
        let mut all = Vec::new();
        if c.dw[1] & GIVE_BACK != 0 {
            for entry in bytes.chunks_exact(16) {
                let (head, first) = entry.split_at(8);
                let first = u64::from_le_bytes(first.try_into().unwrap_or_default());
                let blocks = head.get(4..).and_then(|b| b.first_chunk());
                let blocks = u64::from(blocks.map_or(0, |b| u32::from_le_bytes(*b)));
                if let Ok((at, len)) = range(n, first, blocks)
                    && len > 0
                {
                    all.push((n.clone(), Op::Discard, at, len));
                }
            }
        }
        self.group(c, all);
        Ok(())
    }

    fn compare(
        &self,
        c: &Command,
        n: &Arc<Namespace>,
        (first, count): (u64, u64),
    ) -> Result<(), Status> {
        self.check_len(count << n.shift)?;
        let (at, len) = range(n, first, count)?;
        if len > MOST_COMPARED {
            return Err(status::FIELD);
        }
        let theirs = self.pieces(c, len, false)?;
        let size = len.next_multiple_of(4096);
        let block = RamBlock::new("nvme-compare", size, RamOptions::default());
        let block = block.map_err(|_| status::INTERNAL)?;
        let all = usize::try_from(len).map_err(|_| status::FIELD)?;
        let ours = RamSlice::new(block, 0, all).map_err(|_| status::INTERNAL)?;
        let (Some(this), Some(lane)) = (self.this.upgrade(), self.lane.clone()) else {
            return Err(status::INTERNAL);
        };
        let (command, read) = (c.clone(), ours.clone());
        *self.working.lock() += 1;
        let done = Box::new(move |result: io::Result<()>| {
            let outcome = match result {
                Err(error) => Err(failed(Op::Read, &error)),
                Ok(()) if same(&ours, &theirs) => Ok(0),
                Ok(()) => Err(status::DIFFERS),
            };
            this.end(&command, outcome);
        });
        let request =
            Request { op: Op::Read, at, len, memory: vec![read], through: false, parts: 1, done };
        n.backend.submit(&lane, request);
        Ok(())
    }
}

fn same(ours: &RamSlice, theirs: &[RamSlice]) -> bool {
    let mut at = 0;
    theirs.iter().all(|piece| {
        let (mut a, mut b) = (vec![0; piece.len()], vec![0; piece.len()]);
        piece.read(&mut a);
        ours.part(at, piece.len()).read(&mut b);
        at += piece.len();
        a == b
    })
}
