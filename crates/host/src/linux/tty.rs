//! Terminals: raw mode with a guard that restores (termios(3)).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios, isatty,
    tcgetattr, tcgetwinsize, tcsetattr,
};

/// Whether `fd` is a terminal.
pub fn is_terminal(fd: impl AsFd) -> bool {
    isatty(fd)
}

/// Columns and rows of a terminal.
pub fn window_size(fd: impl AsFd) -> Option<(u16, u16)> {
    let size = tcgetwinsize(fd).ok()?;
    Some((size.ws_col, size.ws_row))
}

/// Switches a descriptor between blocking and non-blocking.
pub fn set_nonblocking(fd: impl AsFd, on: bool) -> io::Result<()> {
    let mut flags = fcntl_getfl(&fd)?;
    flags.set(OFlags::NONBLOCK, on);
    Ok(fcntl_setfl(&fd, flags)?)
}

/// Waits until `fd` takes more output or `timeout_ms` pass; false on timeout.
pub fn wait_writable(fd: impl AsFd, timeout_ms: i64) -> bool {
    let time = rustix::time::Timespec {
        tv_sec: timeout_ms / 1000,
        tv_nsec: (timeout_ms % 1000) * 1_000_000,
    };
    let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
    poll(&mut fds, Some(&time)).is_ok_and(|n| n > 0)
}

/// Terminals in raw mode, as they were found.
static FOUND: std::sync::Mutex<Vec<(OwnedFd, Termios)>> = std::sync::Mutex::new(Vec::new());

/// Puts all terminals back as they were found; for the last steps of the process and for panics,
/// when the owner of a [`RawMode`] may never be dropped.
pub fn restore_terminals() {
    if let Ok(mut found) = FOUND.try_lock() {
        for (fd, before) in found.drain(..).rev() {
            let _ = tcsetattr(&fd, OptionalActions::Now, &before);
        }
    }
}

/// A terminal in raw mode; dropping it restores the former mode.
#[derive(Debug)]
pub struct RawMode {
    fd: OwnedFd,
    before: Termios,
    raw: Termios,
}

impl RawMode {
    /// Makes the terminal raw. With `signals`, Ctrl-C and friends still signal.
    pub fn enter(fd: impl AsFd, signals: bool) -> io::Result<RawMode> {
        let fd = rustix::io::fcntl_dupfd_cloexec(fd, 3)?;
        let before = tcgetattr(&fd)?;
        let mut raw = before.clone();
        raw.input_modes &= !(InputModes::IGNBRK
            | InputModes::BRKINT
            | InputModes::PARMRK
            | InputModes::ISTRIP
            | InputModes::INLCR
            | InputModes::IGNCR
            | InputModes::ICRNL
            | InputModes::IXON);
        raw.output_modes |= OutputModes::OPOST;
        raw.local_modes &=
            !(LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::IEXTEN);
        raw.local_modes.set(LocalModes::ISIG, signals);
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        if let (Ok(fd), Ok(mut found)) = (fd.try_clone(), FOUND.lock()) {
            found.push((fd, before.clone()));
        }
        tcsetattr(&fd, OptionalActions::Now, &raw)?;
        Ok(RawMode { fd, before, raw })
    }

    /// Sets raw mode again, as is needed after a stop and continue.
    pub fn again(&self) {
        let _ = tcsetattr(&self.fd, OptionalActions::Now, &self.raw);
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.fd, OptionalActions::Now, &self.before);
    }
}

/// Reads from a descriptor without a buffer of our own.
pub fn read_fd(fd: impl AsFd, out: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::read(fd, out)?)
}
