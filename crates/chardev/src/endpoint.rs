//! An open stream of the host: output that never waits, input with flow control.
//!
//! Output that the host does not take at once is kept, up to [`LIMIT`] bytes, and
//! written when the host is ready; beyond that [`Endpoint::send`] refuses, and the
//! front end hears [`CharEvent::Writable`] when there is room again. So a peer that
//! never reads costs a bounded amount of memory and nobody's time.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use device::CharEvent;
use evloop::{Handle, Readiness, Watch};
use parking_lot::Mutex;

use crate::front::Front;

/// Bytes of output that are kept.
pub(crate) const LIMIT: usize = 1 << 20;
/// Descriptors that are kept until somebody takes them.
const MAX_FDS: usize = 16;

/// One direction-less end: what is read and written.
pub(crate) trait Raw: AsFd + Send + Sync {
    fn read(&self, out: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
        _ = fds;
        host::read_fd(self, out)
    }
    fn write(&self, data: &[u8]) -> io::Result<usize> {
        host::write_fd(self, data)
    }
}

impl Raw for OwnedFd {}

impl Raw for host::socket::Stream {
    fn read(&self, out: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
        let (n, mut new) = self.receive(out)?;
        fds.append(&mut new);
        Ok(n)
    }
}

/// Changes input before the front end sees it (telnet); gives what to answer.
pub(crate) type Filter = Box<dyn FnMut(&mut Vec<u8>) -> Vec<u8> + Send>;
type Ended = Box<dyn Fn() + Send + Sync>;

pub(crate) struct Endpoint {
    weak: Weak<Endpoint>,
    handle: Handle,
    pub(crate) front: Front,
    ended: Ended,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    input: Option<Arc<dyn Raw>>,
    output: Option<Arc<dyn Raw>>,
    input_watch: Option<Watch>,
    output_watch: Option<Watch>,
    queue: VecDeque<u8>,
    refused: bool,
    fds: Vec<OwnedFd>,
    filter: Option<Filter>,
}

impl Endpoint {
    /// An end without a stream; `ended` is called on the loop when a stream ended.
    pub(crate) fn new(handle: &Handle, ended: impl Fn() + Send + Sync + 'static) -> Arc<Endpoint> {
        Arc::new_cyclic(|weak| Endpoint {
            weak: weak.clone(),
            handle: handle.clone(),
            front: Front::default(),
            ended: Box::new(ended),
            state: Mutex::default(),
        })
    }

    /// Takes a stream over; `output` must be another descriptor than `input`, and both
    /// non-blocking.
    pub(crate) fn open(
        &self,
        input: Arc<dyn Raw>,
        output: Arc<dyn Raw>,
        filter: Option<Filter>,
    ) -> io::Result<()> {
        let interest =
            if self.front.receiver().is_some() { Readiness::READ } else { Readiness::NONE };
        let weak = self.weak.clone();
        let input_watch =
            self.handle.watch(Arc::new(Shared(input.clone())), interest, move |_| {
                if let Some(this) = weak.upgrade() {
                    this.readable();
                }
            })?;
        let weak = self.weak.clone();
        let shared = Arc::new(Shared(output.clone()));
        let output_watch = self.handle.watch(shared, Readiness::NONE, move |_| {
            if let Some(this) = weak.upgrade() {
                this.writable();
            }
        })?;
        *self.state.lock() = State {
            input: Some(input),
            output: Some(output),
            input_watch: Some(input_watch),
            output_watch: Some(output_watch),
            filter,
            ..State::default()
        };
        Ok(())
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state.lock().output.is_some()
    }

    /// Lets go of the stream. Whether there was one.
    pub(crate) fn close(&self) -> bool {
        let gone = std::mem::take(&mut *self.state.lock());
        gone.output.is_some()
    }

    fn ended(&self) {
        if self.close() {
            (self.ended)();
        }
    }

    pub(crate) fn take_fd(&self) -> Option<OwnedFd> {
        let mut state = self.state.lock();
        if state.fds.is_empty() { None } else { Some(state.fds.remove(0)) }
    }

    fn readable(&self) {
        let Some(input) = self.state.lock().input.clone() else { return };
        let mut buffer = vec![0; 4096];
        let room = self.front.room().min(buffer.len());
        if room == 0 {
            if let Some(watch) = &self.state.lock().input_watch {
                watch.set_interest(Readiness::NONE);
            }
            // A vCPU may have made room, and said so, between the two.
            if self.front.room() > 0 {
                self.accept_input();
            }
            return;
        }
        let mut fds = Vec::new();
        buffer.truncate(room);
        match input.read(&mut buffer, &mut fds) {
            Ok(n) if n > 0 => {
                buffer.truncate(n);
                let answer = self.arrived(&mut buffer, fds);
                if !answer.is_empty() {
                    self.send(&answer);
                }
                self.front.receive(&buffer);
            }
            Err(e) if is_temporary(&e) => {}
            _ => self.ended(),
        }
    }

    /// Notes what came with the bytes, filters them and gives what to answer.
    fn arrived(&self, bytes: &mut Vec<u8>, fds: Vec<OwnedFd>) -> Vec<u8> {
        let mut state = self.state.lock();
        if !fds.is_empty() {
            state.fds.extend(fds);
            let excess = state.fds.len().saturating_sub(MAX_FDS);
            state.fds.drain(..excess);
        }
        state.filter.as_mut().map_or_else(Vec::new, |filter| filter(bytes))
    }

    fn writable(&self) {
        let again = {
            let mut state = self.state.lock();
            let Some(output) = state.output.clone() else { return };
            drain(&mut state.queue, &*output);
            if state.queue.is_empty()
                && let Some(watch) = &state.output_watch
            {
                watch.set_interest(Readiness::NONE);
            }
            state.refused && state.queue.len() < LIMIT / 2
        };
        if again {
            self.state.lock().refused = false;
            self.front.event(CharEvent::Writable);
        }
    }

    /// Sends bytes; how many were taken. Without a stream all vanish.
    pub(crate) fn send(&self, data: &[u8]) -> usize {
        let mut state = self.state.lock();
        let Some(output) = state.output.clone() else { return data.len() };
        let mut sent = 0;
        if state.queue.is_empty() {
            sent = write_some(&*output, data);
        }
        let rest = data.get(sent..).unwrap_or_default();
        let kept = rest.len().min(LIMIT.saturating_sub(state.queue.len()));
        state.queue.extend(rest.get(..kept).unwrap_or_default());
        if kept < rest.len() {
            state.refused = true;
        }
        if !state.queue.is_empty()
            && let Some(watch) = &state.output_watch
        {
            watch.set_interest(Readiness::WRITE);
        }
        sent + kept
    }

    pub(crate) fn accept_input(&self) {
        if let Some(watch) = &self.state.lock().input_watch {
            watch.set_interest(Readiness::READ);
        }
    }
}

/// A shared end as the loop watches it.
struct Shared(Arc<dyn Raw>);

impl AsFd for Shared {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn is_temporary(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Writes as much as the host takes now. An end that is gone takes all: the reading side
/// notices the end and cleans up.
fn write_some(output: &dyn Raw, data: &[u8]) -> usize {
    let mut sent = 0;
    while let Some(rest) = data.get(sent..).filter(|rest| !rest.is_empty()) {
        match output.write(rest) {
            Ok(n) if n > 0 => sent += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            _ => return data.len(),
        }
    }
    sent
}

fn drain(queue: &mut VecDeque<u8>, output: &dyn Raw) {
    loop {
        let part = queue.as_slices().0;
        if part.is_empty() {
            return;
        }
        let n = write_some(output, part);
        let whole = n == part.len();
        queue.drain(..n);
        if !whole {
            return;
        }
    }
}
