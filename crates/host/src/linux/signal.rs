//! Termination signals as a descriptor (signalfd(2)), and the one that ends programs at a limit.
#![expect(unsafe_code, reason = "signalfd and the signal mask")]
// UNSAFE: rustix has no signalfd; these are the libc calls themselves.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A signal the emulator reacts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: Ctrl-C on the terminal.
    Interrupt,
    /// SIGTERM: asked to end.
    Terminate,
    /// SIGHUP: the terminal is gone.
    Hangup,
    /// SIGCONT: continued after a stop (terminal modes must be set again).
    Continue,
}

impl Signal {
    /// The host's number.
    #[must_use]
    pub fn number(self) -> i32 {
        match self {
            Signal::Interrupt => libc::SIGINT,
            Signal::Terminate => libc::SIGTERM,
            Signal::Hangup => libc::SIGHUP,
            Signal::Continue => libc::SIGCONT,
        }
    }

    fn from_number(n: u32) -> Option<Signal> {
        [Signal::Interrupt, Signal::Terminate, Signal::Hangup, Signal::Continue]
            .into_iter()
            .find(|s| s.number().unsigned_abs() == n)
    }
}

/// A write beyond the largest file this process may make is an error (EFBIG) and not the process's
/// end (setrlimit(2), `RLIMIT_FSIZE`). Processes started later have it so too.
pub fn outlive_file_limits() {
    // SAFETY: ignoring a signal installs no handler.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Delivers signals by a readable descriptor instead of handlers.
///
/// Make it before any thread starts: threads inherit the blocked mask.
#[derive(Debug)]
pub struct SignalWatch(OwnedFd);

impl SignalWatch {
    /// Blocks `signals` in this thread and opens a descriptor for them.
    pub fn new(signals: &[Signal]) -> io::Result<SignalWatch> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set it is given.
        let mut set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            set.assume_init()
        };
        for s in signals {
            // SAFETY: the set is initialised and the number is a valid signal.
            unsafe { libc::sigaddset(&raw mut set, s.number()) };
        }
        // SAFETY: both calls only read the initialised set.
        let fd = unsafe {
            let e = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            if e != 0 {
                return Err(io::Error::from_raw_os_error(e));
            }
            libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: signalfd returned a new descriptor that nobody else owns.
        Ok(SignalWatch(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next pending signal and the process that sent it.
    #[must_use]
    pub fn next(&self) -> Option<(Signal, u32)> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer is `size` writable bytes; the kernel writes whole records.
        let n = unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        if usize::try_from(n) != Ok(size) {
            return None;
        }
        // SAFETY: every bit pattern is valid for this struct of integers.
        let info = unsafe { info.assume_init() };
        Some((Signal::from_number(info.ssi_signo)?, info.ssi_pid))
    }
}

impl AsFd for SignalWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
