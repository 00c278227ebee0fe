//! Descriptors by number, pseudo-terminals and named pipes.
#![expect(unsafe_code, reason = "borrowing a descriptor by its number")]
// UNSAFE: the number is only given to the kernel for duplication, which checks it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// A duplicate of the open descriptor of a number.
///
/// # Errors
/// There is none.
pub fn duplicate_number(number: i32) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: used for the one call below only; a number that is not open is its error.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
}

/// Writes to a descriptor.
pub fn write_fd(fd: impl AsFd, data: &[u8]) -> io::Result<usize> {
    Ok(rustix::io::write(fd, data)?)
}

/// Opens a pseudo-terminal; gives its master, raw and non-blocking, and the path of the slave.
pub fn open_pty() -> io::Result<(OwnedFd, String)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let path = ptsname(&master, Vec::new())?.to_string_lossy().into_owned();
    let mut modes = rustix::termios::tcgetattr(&master)?;
    modes.make_raw();
    rustix::termios::tcsetattr(&master, rustix::termios::OptionalActions::Now, &modes)?;
    crate::set_nonblocking(&master, true)?;
    Ok((master, path))
}

/// Whether nobody has the other end of a pseudo-terminal open.
#[must_use]
pub fn is_hung_up(fd: impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(&fd, PollFlags::empty())];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_err() || fds[0].revents().contains(PollFlags::HUP)
}

/// Opens a named pipe or character device for reading and writing, non-blocking.
pub fn open_pipe(path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Whether a descriptor was opened for writing.
#[must_use]
pub fn is_writable(fd: impl AsFd) -> bool {
    let mode = rustix::fs::fcntl_getfl(fd).map(|flags| flags & OFlags::RWMODE);
    mode.is_ok_and(|mode| mode == OFlags::RDWR || mode == OFlags::WRONLY)
}
