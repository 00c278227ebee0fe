//! Readiness polling: a safe face on `polling`, which wants unsafe to add.
#![expect(unsafe_code, reason = "polling::Poller::add_with_mode")]
// UNSAFE: a descriptor must stay open while it is registered; the poller keeps
// a reference to its owner for exactly that time.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use polling::{Event, Events, PollMode};

/// What a watcher waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Interest {
    /// Data or end of file can be read.
    pub read: bool,
    /// Data can be written.
    pub write: bool,
}

impl Interest {
    /// Readable only.
    pub const READ: Interest = Interest { read: true, write: false };
    /// Writable only.
    pub const WRITE: Interest = Interest { read: false, write: true };
    /// Registered, but waiting for nothing.
    pub const NONE: Interest = Interest { read: false, write: false };
}

/// One descriptor's readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollEvent {
    /// The key given when it was added.
    pub key: usize,
    /// What it is ready for.
    pub ready: Interest,
}

struct Source {
    fd: Arc<dyn AsFd + Send + Sync>,
    /// Regular files cannot be polled: they are always ready.
    always: bool,
    interest: Interest,
}

/// Level-triggered readiness of many descriptors.
pub struct Poller {
    inner: polling::Poller,
    sources: Mutex<HashMap<usize, Source>>,
}

impl Poller {
    /// Creates an empty poller.
    pub fn new() -> io::Result<Poller> {
        Ok(Poller { inner: polling::Poller::new()?, sources: Mutex::default() })
    }

    fn sources(&self) -> std::sync::MutexGuard<'_, HashMap<usize, Source>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts watching `fd` under `key`, which must not be in use.
    pub fn add(
        &self,
        key: usize,
        fd: Arc<dyn AsFd + Send + Sync>,
        interest: Interest,
    ) -> io::Result<()> {
        let mut sources = self.sources();
        if sources.contains_key(&key) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let event = Event::new(key, interest.read, interest.write);
        let borrowed = (*fd).as_fd();
        // SAFETY: `sources` keeps the descriptor's owner alive until `delete`.
        let added = unsafe { self.inner.add_with_mode(&borrowed, event, PollMode::Level) };
        let always = match added {
            Ok(()) => false,
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => true,
            Err(e) => return Err(e),
        };
        sources.insert(key, Source { fd, always, interest });
        drop(sources);
        if always {
            self.notify();
        }
        Ok(())
    }

    /// Changes what `key` waits for.
    pub fn modify(&self, key: usize, interest: Interest) -> io::Result<()> {
        let mut sources = self.sources();
        let source = sources.get_mut(&key).ok_or(io::ErrorKind::NotFound)?;
        source.interest = interest;
        if source.always {
            drop(sources);
            self.notify();
            return Ok(());
        }
        let event = Event::new(key, interest.read, interest.write);
        self.inner.modify_with_mode((*source.fd).as_fd(), event, PollMode::Level)
    }

    /// Stops watching `key`.
    pub fn delete(&self, key: usize) {
        if let Some(source) = self.sources().remove(&key)
            && !source.always
        {
            let _ = self.inner.delete((*source.fd).as_fd());
        }
    }

    /// Makes a concurrent or the next `wait` return at once.
    pub fn notify(&self) {
        let _ = self.inner.notify();
    }

    /// Waits for readiness, a notification or the timeout.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<Vec<PollEvent>> {
        let always: Vec<PollEvent> = self
            .sources()
            .iter()
            .filter(|(_, s)| s.always && s.interest != Interest::NONE)
            .map(|(&key, s)| PollEvent { key, ready: s.interest })
            .collect();
        let timeout = if always.is_empty() { timeout } else { Some(Duration::ZERO) };
        let mut events = Events::new();
        match self.inner.wait(&mut events, timeout) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        let mut out = always;
        out.extend(events.iter().map(|e| PollEvent {
            key: e.key,
            ready: Interest { read: e.readable, write: e.writable },
        }));
        Ok(out)
    }
}
