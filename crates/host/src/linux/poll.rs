//! Readiness polling (epoll(7)).
//!
//! One system call for each wait: the event that wakes a waiting thread is edge-triggered and never
//! read, and the limit of a wait goes with it (epoll_pwait2(2), Linux 5.11; on older systems ppoll(2)
//! waits for the set of descriptors).

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;

use super::event::EventFd;

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

    fn flags(self) -> epoll::EventFlags {
        use epoll::EventFlags as F;
        let read = if self.read { F::IN | F::RDHUP | F::PRI } else { F::empty() };
        read | if self.write { F::OUT } else { F::empty() }
    }

    fn of(flags: epoll::EventFlags) -> Interest {
        use epoll::EventFlags as F;
        let ended = F::HUP | F::ERR;
        Interest {
            read: flags.intersects(F::IN | F::RDHUP | F::PRI | ended),
            write: flags.intersects(F::OUT | ended),
        }
    }
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
    /// Stays open as long as it is registered.
    fd: Arc<dyn AsFd + Send + Sync>,
    /// Regular files cannot be polled: they are always ready.
    always: bool,
    interest: Interest,
}

/// The key of the event that wakes.
const WAKE: u64 = u64::MAX;
/// Most events of one wait.
const BATCH: usize = 256;

/// Level-triggered readiness of many descriptors.
pub struct Poller {
    set: OwnedFd,
    wake: EventFd,
    sources: Mutex<HashMap<usize, Source>>,
    /// How many of the sources are always ready.
    always: AtomicUsize,
    /// The system has no wait with a limit in nanoseconds.
    old: AtomicBool,
}

impl Poller {
    /// Creates an empty poller.
    pub fn new() -> io::Result<Poller> {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = EventFd::new()?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&set, &wake, epoll::EventData::new_u64(WAKE), flags)?;
        let (sources, always) = (Mutex::default(), AtomicUsize::new(0));
        Ok(Poller { set, wake, sources, always, old: AtomicBool::new(false) })
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
        let data = epoll::EventData::new_u64(key as u64);
        let always = match epoll::add(&self.set, (*fd).as_fd(), data, interest.flags()) {
            Ok(()) => false,
            Err(Errno::PERM) => true,
            Err(e) => return Err(e.into()),
        };
        sources.insert(key, Source { fd, always, interest });
        if always {
            self.always.fetch_add(1, Ordering::SeqCst);
            drop(sources);
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
        let data = epoll::EventData::new_u64(key as u64);
        Ok(epoll::modify(&self.set, (*source.fd).as_fd(), data, interest.flags())?)
    }

    /// Stops watching `key`.
    pub fn delete(&self, key: usize) {
        let mut sources = self.sources();
        let Some(source) = sources.remove(&key) else { return };
        if source.always {
            self.always.fetch_sub(1, Ordering::SeqCst);
        } else {
            _ = epoll::delete(&self.set, (*source.fd).as_fd());
        }
        // It may be closed here, which may take long.
        drop(sources);
    }

    /// Makes a concurrent or the next `wait` return at once.
    pub fn notify(&self) {
        self.wake.signal();
    }

    /// Sources that are always ready and wanted.
    fn ready_always(&self) -> Vec<PollEvent> {
        if self.always.load(Ordering::SeqCst) == 0 {
            return Vec::new();
        }
        let sources = self.sources();
        let wanted = sources.iter().filter(|(_, s)| s.always && s.interest != Interest::NONE);
        wanted.map(|(&key, s)| PollEvent { key, ready: s.interest }).collect()
    }

    /// Waits for readiness, a notification or the timeout.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<Vec<PollEvent>> {
        let mut out = self.ready_always();
        let timeout = if out.is_empty() { timeout } else { Some(Duration::ZERO) };
        let mut events = Vec::with_capacity(BATCH);
        match self.wait_for(&mut events, timeout) {
            Ok(()) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let found = events.iter().filter_map(|event: &epoll::Event| {
            // By value: the kernel's structure is packed.
            let (flags, data) = (event.flags, event.data);
            let key = usize::try_from(data.u64()).ok().filter(|_| data.u64() != WAKE)?;
            Some(PollEvent { key, ready: Interest::of(flags) })
        });
        out.extend(found);
        Ok(out)
    }

    fn wait_for(
        &self,
        events: &mut Vec<epoll::Event>,
        timeout: Option<Duration>,
    ) -> Result<(), Errno> {
        const ZERO: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        let limit = timeout.map(|t| Timespec {
            tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: t.subsec_nanos().into(),
        });
        if !self.old.load(Ordering::Relaxed) {
            match epoll::wait(&self.set, spare_capacity(events), limit.as_ref()) {
                Err(Errno::NOSYS | Errno::PERM) => self.old.store(true, Ordering::Relaxed),
                other => return other.map(|_| ()),
            }
        }
        self.wait_old(events, limit.as_ref(), &ZERO)
    }

    /// The same where a wait knows whole milliseconds only.
    fn wait_old(
        &self,
        events: &mut Vec<epoll::Event>,
        limit: Option<&Timespec>,
        zero: &Timespec,
    ) -> Result<(), Errno> {
        let mut sets = [PollFd::new(&self.set, PollFlags::IN)];
        if limit != Some(zero) && poll(&mut sets, limit)? == 0 {
            return Ok(());
        }
        epoll::wait(&self.set, spare_capacity(events), Some(zero)).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poller() -> (Poller, Arc<EventFd>) {
        let (poller, event) = (Poller::new().unwrap(), Arc::new(EventFd::new().unwrap()));
        poller.add(7, event.clone(), Interest::READ).unwrap();
        (poller, event)
    }

    #[test]
    fn what_is_ready_is_told_until_it_is_not_wanted() {
        let (poller, event) = poller();
        assert_eq!(poller.wait(Some(Duration::ZERO)).unwrap(), []);
        event.signal();
        for _ in 0..2 {
            let ready = PollEvent { key: 7, ready: Interest::READ };
            assert_eq!(poller.wait(None).unwrap(), [ready]);
        }
        poller.modify(7, Interest::NONE).unwrap();
        assert_eq!(poller.wait(Some(Duration::ZERO)).unwrap(), []);
        poller.modify(7, Interest { read: true, write: true }).unwrap();
        assert_eq!(poller.wait(None).unwrap().len(), 1);
        poller.delete(7);
        assert_eq!(poller.wait(Some(Duration::ZERO)).unwrap(), []);
        assert!(poller.modify(7, Interest::READ).is_err());
    }

    #[test]
    fn a_notification_ends_one_wait() {
        let (poller, _event) = poller();
        for old in [false, true] {
            poller.old.store(old, Ordering::Relaxed);
            poller.notify();
            assert_eq!(poller.wait(None).unwrap(), []);
            let begin = crate::monotonic_ns();
            assert_eq!(poller.wait(Some(Duration::from_micros(1500))).unwrap(), []);
            assert!(crate::monotonic_ns() - begin >= 1_500_000, "the second one waits");
        }
    }

    #[test]
    fn files_are_always_ready() {
        let (poller, event) = poller();
        let file = Arc::new(std::fs::File::open("/proc/self/exe").unwrap());
        poller.add(8, file, Interest::READ).unwrap();
        event.signal();
        let mut keys: Vec<_> = poller.wait(None).unwrap().iter().map(|e| e.key).collect();
        keys.sort_unstable();
        assert_eq!(keys, [7, 8]);
        poller.delete(8);
        assert_eq!(poller.wait(None).unwrap().len(), 1);
    }
}
