//! Vectored reads and writes of raw memory (preadv(2), pwritev(2), readv(2), writev(2)).
//!
//! Guest memory may change at any time, so no Rust slice may be made of it and the standard
//! library's vectored calls cannot be used. [`RawSlice`] is an address and a length; whoever
//! makes one promises that the memory stays. The crate `guest-ram` makes them from RAM blocks
//! and offers the safe calls. Not here: io_uring.
#![expect(unsafe_code, reason = "the kernel reads and writes raw memory")]
// UNSAFE: the promise that the memory is valid was made when each slice was made.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// For opening files that must not block (open(2)).
pub const O_NONBLOCK: i32 = libc::O_NONBLOCK;

/// Most slices that one call takes (IOV_MAX of Linux).
pub const MAX_SLICES: usize = 1024;

/// A piece of memory that a vectored call reads or writes.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct RawSlice(libc::iovec);

impl RawSlice {
    /// A piece of memory.
    ///
    /// # Safety
    /// The memory must be readable and writable for as long as the value is used, and nobody may
    /// hold a Rust reference into it.
    #[must_use]
    pub unsafe fn new(ptr: *mut u8, len: usize) -> RawSlice {
        RawSlice(libc::iovec { iov_base: ptr.cast(), iov_len: len })
    }
}

fn count(slices: &[RawSlice]) -> libc::c_int {
    libc::c_int::try_from(slices.len().min(MAX_SLICES)).unwrap_or(0)
}

fn offset(at: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(at).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn retry(mut call: impl FnMut() -> libc::ssize_t) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(n) => return Ok(n),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// Reads into the slices, from byte `at` of the file on or from a stream; how much was read.
///
/// # Errors
/// What the system says. At most [`MAX_SLICES`] slices are looked at.
pub fn read_vectored(
    fd: BorrowedFd<'_>,
    slices: &[RawSlice],
    at: Option<u64>,
) -> io::Result<usize> {
    let (fd, first, n) = (fd.as_raw_fd(), slices.as_ptr().cast::<libc::iovec>(), count(slices));
    let at = at.map(offset).transpose()?;
    retry(|| match at {
        // SAFETY: `first` are `n` iovecs (RawSlice is transparent) of memory that stays.
        Some(at) => unsafe { libc::preadv(fd, first, n, at) },
        // SAFETY: as above.
        None => unsafe { libc::readv(fd, first, n) },
    })
}

/// Writes the slices, from byte `at` of the file on or to a stream; how much was written.
///
/// # Errors
/// What the system says. At most [`MAX_SLICES`] slices are looked at.
pub fn write_vectored(
    fd: BorrowedFd<'_>,
    slices: &[RawSlice],
    at: Option<u64>,
) -> io::Result<usize> {
    let (fd, first, n) = (fd.as_raw_fd(), slices.as_ptr().cast::<libc::iovec>(), count(slices));
    let at = at.map(offset).transpose()?;
    retry(|| match at {
        // SAFETY: as in `read_vectored`.
        Some(at) => unsafe { libc::pwritev(fd, first, n, at) },
        // SAFETY: as above.
        None => unsafe { libc::writev(fd, first, n) },
    })
}
