//! Requests of devices: straight to the host's file where it can be, else on worker threads.
//!
//! A [`Lane`] belongs to an event loop and has a ring of the host. A read or write whose bytes lie
//! in one piece in a host file ([`crate::BlockDriver::resolve`]) goes into the ring with the guest's
//! memory as its buffer; what the kernel can do at once is done when [`Lane::flush`] returns, for
//! the rest the loop is woken. Everything else, and everything on a host without rings, runs on the
//! pool with the drivers' blocking calls, in pieces of bounded size.
//! Not here: order among requests (there is none, as with a real disk), throttling.
//! Source: docs/adr/0013; io_uring(7).

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use evloop::{Handle, Watch};
use guest_ram::RamSlice;
use host::{Interest, Ring, RingDone, RingOp};
use parking_lot::Mutex;

use crate::driver::Resolved;
use crate::node::Node;
use crate::pool::Pool;

/// Requests that fit into a ring before the kernel is called.
const ENTRIES: u32 = 256;
/// Bytes that are copied at once where a request cannot go without a copy.
const PIECE: usize = 1 << 20;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Reads into the memory.
    Read,
    /// Writes from the memory.
    Write,
    /// Makes a range zero.
    WriteZeroes {
        /// Its space may be given back.
        unmap: bool,
    },
    /// Gives a range up.
    Discard,
    /// Puts everything on the disk.
    Flush,
}

/// Called when a request is done, on any thread and with no lock held.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// A request of a device.
pub struct Request {
    /// What.
    pub op: Op,
    /// First byte.
    pub at: u64,
    /// Bytes; for reads and writes the length of `memory`.
    pub len: u64,
    /// Where the bytes are.
    pub memory: Vec<RamSlice>,
    /// Everything is on the disk before it is done.
    pub through: bool,
    /// How many requests of the guest it is: neighbours may be made as one.
    pub parts: u32,
    /// Told when it is done.
    pub done: Done,
}

/// A request that the kernel has.
struct Pending {
    request: Request,
    node: Arc<Node>,
    resolved: Resolved,
}

/// The way of an event loop to the disks.
pub struct Lane {
    ring: Option<Ring>,
    pending: Mutex<HashMap<u64, Pending>>,
    next: AtomicU64,
    pool: Arc<Pool>,
    watch: OnceLock<Watch>,
}

impl Lane {
    /// A lane whose completions come on `handle`'s thread, or in [`Lane::flush`].
    #[must_use]
    pub fn new(handle: &Handle, pool: Arc<Pool>) -> Arc<Lane> {
        let lane = Arc::new(Lane {
            ring: Ring::new(ENTRIES).ok(),
            pending: Mutex::default(),
            next: AtomicU64::new(0),
            pool,
            watch: OnceLock::new(),
        });
        if let Some(ring) = &lane.ring {
            let (weak, event) = (Arc::downgrade(&lane), ring.event().clone());
            let watched = handle.watch(event.clone(), Interest::READ, move |_| {
                event.clear();
                if let Some(lane) = weak.upgrade() {
                    lane.reap();
                }
            });
            match watched {
                Ok(watch) => _ = lane.watch.set(watch),
                // Nobody would hear of completions.
                Err(_) => return Lane::without_ring(lane.pool.clone()),
            }
        }
        lane
    }

    /// A lane that uses the pool only.
    #[must_use]
    pub fn without_ring(pool: Arc<Pool>) -> Arc<Lane> {
        Arc::new(Lane {
            ring: None,
            pending: Mutex::default(),
            next: AtomicU64::new(0),
            pool,
            watch: OnceLock::new(),
        })
    }

    /// Begins a request of a node; [`Lane::flush`] makes the kernel see it.
    pub(crate) fn start(&self, node: Arc<Node>, request: Request) {
        let write = request.op == Op::Write;
        let direct = matches!(request.op, Op::Read | Op::Write) && request.len > 0;
        let found = if direct && !(write && request.through) {
            node.resolve(request.at, request.len, write)
        } else {
            None
        };
        let fits = |r: &Resolved| {
            r.align <= 1
                || (r.at.is_multiple_of(r.align.into())
                    && guest_ram::is_aligned(&request.memory, r.align as usize))
        };
        let Some(resolved) = found.filter(fits) else {
            return self.pool.submit(move || run_on(&node, request));
        };
        let Some(ring) = self.ring.as_ref().filter(|_| resolved.ring) else {
            return self.pool.submit(move || finish_direct(&node, request, &resolved, 0));
        };
        let op = if write { RingOp::Write } else { RingOp::Read };
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        let (file, at) = (resolved.file.clone(), resolved.at);
        // A copy of the list: the pending one may be taken as soon as the ring has it.
        let memory = request.memory.clone();
        self.pending.lock().insert(token, Pending { request, node, resolved });
        if guest_ram::submit(ring, op, (&file, at), &memory, token).is_err()
            && let Some(Pending { request, node, resolved }) = self.pending.lock().remove(&token)
        {
            self.pool.submit(move || finish_direct(&node, request, &resolved, 0));
        }
    }

    /// Gives the kernel what was begun, and finishes what it did at once.
    pub fn flush(&self) {
        if let Some(ring) = &self.ring
            && !self.pending.lock().is_empty()
        {
            let mut done = Vec::new();
            let taken = ring.enter(&mut done);
            self.after(taken, done);
        }
    }

    fn reap(&self) {
        let Some(ring) = &self.ring else { return };
        let mut done = Vec::new();
        let taken = ring.reap(&mut done);
        self.after(taken, done);
    }

    fn after(&self, taken: io::Result<()>, done: Vec<RingDone>) {
        // What the kernel does not take now it gets from the loop: nobody else may come again.
        if taken.is_err()
            && let Some(ring) = &self.ring
        {
            ring.event().signal();
            std::thread::yield_now();
        }
        self.finish(done);
    }

    fn finish(&self, done: Vec<RingDone>) {
        for RingDone { token, result } in done {
            let pending = self.pending.lock().remove(&token);
            if let Some(pending) = pending {
                self.complete(pending, result);
            }
        }
    }

    fn complete(&self, pending: Pending, result: io::Result<usize>) {
        let Pending { request, node, resolved } = pending;
        let read = request.op == Op::Read;
        let whole = usize::try_from(request.len).unwrap_or(usize::MAX);
        match result {
            Ok(n) => {
                if read {
                    guest_ram::mark_read(&request.memory, n);
                }
                if n >= whole {
                    drop(resolved);
                    node.count(&request.op, request.len);
                    return (request.done)(Ok(()));
                }
                if !read && resolved.cut_is_full {
                    drop(resolved);
                    return (request.done)(Err(io::ErrorKind::StorageFull.into()));
                }
                // The end of the file, or an interrupted transfer: the blocking way goes on.
                self.pool.submit(move || finish_direct(&node, request, &resolved, n));
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) =>
            {
                self.pool.submit(move || finish_direct(&node, request, &resolved, 0));
            }
            Err(error) => {
                drop(resolved);
                (request.done)(Err(error));
            }
        }
    }

    /// Runs what follows a request on a thread of the pool: a request may be done while the one
    /// before it is being finished, and so on without end.
    pub fn later(&self, work: impl FnOnce() + Send + 'static) {
        self.pool.submit(work);
    }
}

/// The rest of a list of pieces.
fn rest(memory: &[RamSlice], mut skip: usize) -> Vec<RamSlice> {
    let mut out = Vec::new();
    for slice in memory {
        if skip >= slice.len() {
            skip -= slice.len();
        } else {
            out.push(slice.part(skip, usize::MAX));
            skip = 0;
        }
    }
    out
}

/// Moves bytes between a host file and guest memory with blocking calls.
fn transfer(file: &File, at: u64, memory: &[RamSlice], from: usize, read: bool) -> io::Result<()> {
    let total: usize = memory.iter().map(RamSlice::len).sum();
    let mut done = from;
    while done < total {
        let left = rest(memory, done);
        let place = Some(at.saturating_add(done as u64));
        let moved = if read {
            guest_ram::read_from(file.as_fd(), &left, place)
        } else {
            guest_ram::write_to(file.as_fd(), &left, place)
        };
        match moved {
            // Behind the end of a file are zeroes.
            Ok(0) if read => {
                for slice in &left {
                    let zeroes = vec![0; slice.len().min(PIECE)];
                    let mut at = 0;
                    while at < slice.len() {
                        at += slice.part(at, PIECE).write(&zeroes).max(1);
                    }
                }
                return Ok(());
            }
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn finish_direct(node: &Arc<Node>, request: Request, resolved: &Resolved, from: usize) {
    let read = request.op == Op::Read;
    let result = transfer(&resolved.file, resolved.at, &request.memory, from, read);
    if result.is_ok() {
        node.count(&request.op, request.len);
    }
    (request.done)(result);
}

fn run_on(node: &Arc<Node>, request: Request) {
    let Request { op, at, len, memory, through, done, .. } = request;
    let result = perform(node, op, (at, len), &memory);
    let writes = !matches!(op, Op::Read | Op::Flush);
    done(if through && writes { result.and_then(|()| node.flush()) } else { result });
}

/// Carries a request out with the node's blocking calls.
fn perform(node: &Node, op: Op, (at, len): (u64, u64), memory: &[RamSlice]) -> io::Result<()> {
    match op {
        Op::Read | Op::Write => {
            let whole = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
            let mut bytes = vec![0; whole.min(PIECE)];
            let mut done = 0;
            while done < whole {
                let n = (whole - done).min(PIECE);
                let piece = bytes.get_mut(..n).unwrap_or_default();
                if op == Op::Read {
                    node.read(at + done as u64, piece)?;
                    scatter(memory, done, piece);
                } else {
                    gather(memory, done, piece);
                    node.write(at + done as u64, piece)?;
                }
                done += n;
            }
            Ok(())
        }
        Op::WriteZeroes { unmap } => node.write_zeroes(at, len, unmap),
        Op::Discard => node.discard(at, len),
        Op::Flush => node.flush(),
    }
}

fn scatter(memory: &[RamSlice], skip: usize, data: &[u8]) {
    let mut done = 0;
    for slice in rest(memory, skip) {
        let Some(left) = data.get(done..).filter(|left| !left.is_empty()) else { return };
        done += slice.write(left);
    }
}

fn gather(memory: &[RamSlice], skip: usize, into: &mut [u8]) {
    let mut done = 0;
    for slice in rest(memory, skip) {
        let Some(left) = into.get_mut(done..).filter(|left| !left.is_empty()) else { return };
        done += slice.read(left);
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
