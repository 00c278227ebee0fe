//! Reads and writes of files that do not wait: io_uring(7).
//!
//! A [`Ring`] takes reads and writes of raw memory, gives them to the kernel together
//! ([`Ring::enter`]) and gives back what is done ([`Ring::reap`]), by the number it was submitted
//! with. What could be done at once is given back by `enter`; for the rest an event descriptor tells.
//! What a request needs (file, list of pieces, whoever keeps the memory) is kept until it is done.
//! Not here: registered files and buffers, polled rings.
#![expect(unsafe_code, reason = "the kernel reads and writes memory until a request is done")]
// UNSAFE: everything that a request names is kept in `Inner::kept` until its completion was seen.

use std::any::Any;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, PoisonError};

use io_uring::{IoUring, opcode, types};

use super::event::EventFd;
use super::iov::{MAX_SLICES, RawSlice};

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingOp {
    /// Reads into memory.
    Read,
    /// Writes from memory.
    Write,
}

/// A request that is done.
#[derive(Debug)]
pub struct RingDone {
    /// The number it was submitted with.
    pub token: u64,
    /// Bytes that were moved.
    pub result: io::Result<usize>,
}

/// What must stay until a request is done.
struct Kept {
    _file: Arc<File>,
    _slices: Vec<RawSlice>,
    _owner: Box<dyn Any + Send>,
}

// SAFETY: RawSlice is an address and a length; the memory may be used from any thread by the
// promise made when it was created, and Kept never looks into it.
unsafe impl Send for Kept {}

struct Inner {
    ring: IoUring,
    kept: HashMap<u64, Kept>,
}

/// A ring.
pub struct Ring {
    inner: Mutex<Inner>,
    event: Arc<EventFd>,
}

impl Ring {
    /// A ring with room for `entries` requests between two calls of [`Ring::enter`].
    ///
    /// # Errors
    /// The system has no rings, or gives none.
    pub fn new(entries: u32) -> io::Result<Ring> {
        let ring = IoUring::new(entries)?;
        let event = Arc::new(EventFd::new()?);
        ring.submitter().register_eventfd(event.as_fd().as_raw_fd())?;
        Ok(Ring { inner: Mutex::new(Inner { ring, kept: HashMap::new() }), event })
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Becomes readable when something was done later than in [`Ring::enter`].
    #[must_use]
    pub fn event(&self) -> &Arc<EventFd> {
        &self.event
    }

    /// Puts a request into the ring; `owner` keeps the memory of `slices`. The number must not be
    /// that of a request that is not done yet.
    ///
    /// # Errors
    /// There are too many slices, the number is taken, or the kernel takes no more.
    pub fn submit(
        &self,
        op: RingOp,
        (file, at): (&Arc<File>, u64),
        slices: Vec<RawSlice>,
        owner: Box<dyn Any + Send>,
        token: u64,
    ) -> io::Result<()> {
        let mut inner = self.inner();
        let Inner { ring, kept } = &mut *inner;
        if slices.len() > MAX_SLICES || kept.contains_key(&token) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let fd = types::Fd(file.as_raw_fd());
        let (first, n) = (slices.as_ptr().cast::<libc::iovec>(), slices.len());
        let n = u32::try_from(n).map_err(|_| io::ErrorKind::InvalidInput)?;
        let entry = match op {
            RingOp::Read => opcode::Readv::new(fd, first, n).offset(at).build(),
            RingOp::Write => opcode::Writev::new(fd, first, n).offset(at).build(),
        };
        let entry = entry.user_data(token);
        // SAFETY: the file, the list and the memory stay until the completion was seen: they are in
        // `kept`, from which only `reap` takes them and which `drop` waits for.
        if unsafe { ring.submission().push(&entry) }.is_err() {
            ring.submit()?;
            // SAFETY: as above.
            if unsafe { ring.submission().push(&entry) }.is_err() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        kept.insert(token, Kept { _file: file.clone(), _slices: slices, _owner: owner });
        Ok(())
    }

    /// Gives the kernel what was submitted, and adds what is done by then to `done`; the event
    /// descriptor is not bothered for those.
    ///
    /// # Errors
    /// What the system says when it takes nothing more now; the requests stay in the ring, and the
    /// caller has to come again.
    pub fn enter(&self, done: &mut Vec<RingDone>) -> io::Result<()> {
        let mut inner = self.inner();
        inner.ring.completion().disable_eventfd();
        let result = inner.submit_all(done);
        // Before the look: what comes after it must be told.
        inner.ring.completion().enable_eventfd();
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        inner.reap(done);
        result
    }

    /// Gives the kernel what was submitted and waits until something is done, for threads that have
    /// a ring to themselves: others that use it wait as well.
    ///
    /// # Errors
    /// As of [`Ring::enter`]; an interrupted wait is none.
    pub fn wait(&self, done: &mut Vec<RingDone>) -> io::Result<()> {
        let mut inner = self.inner();
        inner.reap(done);
        let most = if done.is_empty() && !inner.kept.is_empty() { 1 } else { 0 };
        inner.ring.completion().disable_eventfd();
        let taken = inner.ring.submit_and_wait(most);
        inner.ring.completion().enable_eventfd();
        inner.reap(done);
        match taken {
            Err(error) if done.is_empty() && error.kind() != io::ErrorKind::Interrupted => {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Adds what is done to `done`; gives the kernel what it did not take before.
    ///
    /// # Errors
    /// As of [`Ring::enter`].
    pub fn reap(&self, done: &mut Vec<RingDone>) -> io::Result<()> {
        let mut inner = self.inner();
        inner.reap(done);
        let settled = inner.settled();
        drop(inner);
        if settled { Ok(()) } else { self.enter(done) }
    }
}

impl Inner {
    /// Whether the kernel has all requests and all completions are in the ring.
    fn settled(&mut self) -> bool {
        let queue = self.ring.submission();
        queue.is_empty() && !queue.cq_overflow()
    }

    /// One call may take only a part: the kernel stops at a request that it refuses, and keeps
    /// completions back that found no room until it is called again.
    fn submit_all(&mut self, done: &mut Vec<RingDone>) -> io::Result<()> {
        loop {
            let before = done.len();
            let taken = match self.ring.submit() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                taken => taken,
            };
            self.reap(done);
            if self.settled() {
                return Ok(());
            }
            let moved = done.len() > before || matches!(taken, Ok(1..));
            if !moved {
                return Err(taken.err().unwrap_or_else(|| io::ErrorKind::WouldBlock.into()));
            }
        }
    }

    fn reap(&mut self, done: &mut Vec<RingDone>) {
        let Inner { ring, kept } = self;
        for entry in ring.completion() {
            let token = entry.user_data();
            kept.remove(&token);
            let result = usize::try_from(entry.result())
                .map_err(|_| io::Error::from_raw_os_error(entry.result().saturating_neg()));
            done.push(RingDone { token, result });
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut done = Vec::new();
        loop {
            let mut inner = self.inner();
            inner.reap(&mut done);
            if inner.kept.is_empty() {
                return;
            }
            // What is under way would write into memory that others get: wait for it.
            match inner.ring.submit_and_wait(1) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    drop(inner);
                    // No way to wait: rather lose the memory than have it overwritten.
                    std::mem::forget(std::mem::take(&mut self.inner().kept));
                    return;
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek as _, Write as _};

    #[test]
    fn reads_and_writes_end_with_their_numbers_and_errors() {
        let path = std::env::temp_dir().join(format!("tinamou-ring-{}", std::process::id()));
        let open = || {
            let mut how = File::options();
            how.create(true).truncate(true).read(true).write(true).open(&path)
        };
        let mut file = open().unwrap();
        std::fs::remove_file(&path).unwrap();
        file.write_all(b"hello").unwrap();
        file.rewind().unwrap();
        let file = Arc::new(file);
        let Ok(ring) = Ring::new(4) else { return };
        let map = Arc::new(super::super::mem::Mapping::anonymous(4096).unwrap());
        // SAFETY: the mapping is kept by the request and by this test.
        let piece = |at: usize, len| unsafe { RawSlice::new(map.ptr().add(at), len) };
        let owner = || Box::new(map.clone());
        ring.submit(RingOp::Read, (&file, 0), vec![piece(0, 3), piece(100, 20)], owner(), 7)
            .unwrap();
        let same = ring.submit(RingOp::Read, (&file, 0), vec![piece(0, 3)], owner(), 7);
        assert!(same.is_err(), "a number is taken");
        let read_only = Arc::new(File::open("/dev/null").unwrap());
        ring.submit(RingOp::Write, (&read_only, 0), vec![piece(0, 3)], owner(), 8).unwrap();
        let mut done = Vec::new();
        ring.enter(&mut done).unwrap();
        while done.len() < 2 {
            ring.reap(&mut done).unwrap();
        }
        done.sort_by_key(|d| d.token);
        assert!(matches!(&done[0], RingDone { token: 7, result: Ok(5) }), "{done:?}");
        assert!(done[1].token == 8 && done[1].result.is_err());
        // More completions than the ring has room for: none is lost.
        for n in 0..40 {
            ring.submit(RingOp::Read, (&file, 0), vec![piece(0, 3)], owner(), n).unwrap();
        }
        done.clear();
        while done.len() < 40 {
            ring.reap(&mut done).unwrap();
        }
        // Waiting needs no turning.
        ring.submit(RingOp::Read, (&file, 0), vec![piece(0, 3)], owner(), 99).unwrap();
        done.clear();
        ring.wait(&mut done).unwrap();
        assert!(matches!(&done[..], [RingDone { token: 99, result: Ok(3) }]), "{done:?}");
        // Many more than there are entries, and some left to the drop.
        for n in 0..50 {
            ring.submit(RingOp::Read, (&file, 0), vec![piece(0, 3)], owner(), n).unwrap();
        }
        drop(ring);
        assert_eq!(Arc::strong_count(&map), 1);
    }
}
