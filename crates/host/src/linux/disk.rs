//! What image files need beyond reading and writing: holes, space, byte locks.
//!
//! lseek(2) with `SEEK_DATA` and `SEEK_HOLE`, fallocate(2), and the locks of fcntl(2) that belong to
//! the open file description (`F_OFD_SETLK`), which other programs see as well. Errors are the
//! system's own; `EOPNOTSUPP` is left to the caller, who knows what to do instead. Not here: io_uring.
#![expect(unsafe_code, reason = "locks of the open file description have no safe call")]
// UNSAFE: fcntl reads and writes one struct on the stack.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

fn found(result: Result<u64, Errno>) -> io::Result<Option<u64>> {
    match result {
        Ok(at) => Ok(Some(at)),
        // ENXIO: nothing of the kind up to the end.
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// For opening files past the page cache (open(2)).
pub const O_DIRECT: i32 = libc::O_DIRECT;

/// The first byte at or behind `at` that is not in a hole.
///
/// # Errors
/// What the system says.
pub fn next_data(fd: impl AsFd, at: u64) -> io::Result<Option<u64>> {
    found(seek(fd, SeekFrom::Data(at)))
}

/// The first byte at or behind `at` that is in a hole, the end of the file being one.
///
/// # Errors
/// What the system says.
pub fn next_hole(fd: impl AsFd, at: u64) -> io::Result<Option<u64>> {
    found(seek(fd, SeekFrom::Hole(at)))
}

/// Length of a file or block device.
///
/// # Errors
/// What the system says.
pub fn file_length(fd: impl AsFd) -> io::Result<u64> {
    Ok(seek(fd, SeekFrom::End(0))?)
}

/// Gives the space of a range back; it reads as zeroes.
///
/// # Errors
/// What the system says; not every file system can.
pub fn punch_hole(fd: impl AsFd, at: u64, len: u64) -> io::Result<()> {
    Ok(fallocate(fd, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, len)?)
}

/// Makes a range zero and keeps its space.
///
/// # Errors
/// What the system says; not every file system can.
pub fn zero_range(fd: impl AsFd, at: u64, len: u64) -> io::Result<()> {
    Ok(fallocate(fd, FallocateFlags::ZERO_RANGE, at, len)?)
}

/// Lets the system copy between files, without the bytes passing through here; how many it did.
///
/// # Errors
/// What the system says; not between all files.
pub fn copy_range(
    from: impl AsFd,
    at: u64,
    to: impl AsFd,
    place: u64,
    len: usize,
) -> io::Result<usize> {
    let (mut at, mut place) = (at, place);
    Ok(rustix::fs::copy_file_range(from, Some(&mut at), to, Some(&mut place), len)?)
}

/// Takes space for a range.
///
/// # Errors
/// What the system says; not every file system can.
pub fn allocate(fd: impl AsFd, at: u64, len: u64) -> io::Result<()> {
    Ok(fallocate(fd, FallocateFlags::empty(), at, len)?)
}

fn lock_call(fd: BorrowedFd<'_>, command: i32, kind: i32, at: u64) -> io::Result<i32> {
    let start = libc::off_t::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
    let short = |value: i32| libc::c_short::try_from(value).unwrap_or(0);
    let mut lock = libc::flock {
        l_type: short(kind),
        l_whence: short(libc::SEEK_SET),
        l_start: start,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: the pointer is of the struct above, which lives through the call.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), command, &raw mut lock) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::from(lock.l_type)) }
}

/// Takes a shared lock on the byte `at`.
///
/// # Errors
/// Somebody has it exclusively, or the system cannot.
pub fn lock_byte(fd: impl AsFd, at: u64) -> io::Result<()> {
    lock_call(fd.as_fd(), libc::F_OFD_SETLK, libc::F_RDLCK, at).map(|_| ())
}

/// Gives the lock on the byte `at` up.
///
/// # Errors
/// What the system says.
pub fn unlock_byte(fd: impl AsFd, at: u64) -> io::Result<()> {
    lock_call(fd.as_fd(), libc::F_OFD_SETLK, libc::F_UNLCK, at).map(|_| ())
}

/// Whether another open file has any lock on the byte `at`.
///
/// # Errors
/// What the system says.
pub fn is_byte_locked(fd: impl AsFd, at: u64) -> io::Result<bool> {
    let kind = lock_call(fd.as_fd(), libc::F_OFD_GETLK, libc::F_WRLCK, at)?;
    Ok(kind != libc::F_UNLCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_of_another_description_are_seen() {
        let path = std::env::temp_dir().join(format!("tinamou-lock-{}", std::process::id()));
        let open = || {
            std::fs::File::options().create(true).truncate(false).read(true).write(true).open(&path)
        };
        let (a, b) = (open().unwrap(), open().unwrap());
        lock_byte(&a, 101).unwrap();
        assert!(is_byte_locked(&b, 101).unwrap() && !is_byte_locked(&b, 102).unwrap());
        assert!(!is_byte_locked(&a, 101).unwrap(), "one's own lock is no obstacle");
        unlock_byte(&a, 101).unwrap();
        assert!(!is_byte_locked(&b, 101).unwrap());
        std::fs::remove_file(path).unwrap();
    }
}
