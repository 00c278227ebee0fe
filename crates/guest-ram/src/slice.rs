//! Pieces of RAM blocks as buffers of devices: scatter-gather without copies.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::{OutOfBlock, RamBlock};

/// A piece of a block. It keeps the block, so it can be handed to any thread.
#[derive(Clone, Debug)]
pub struct RamSlice {
    block: Arc<RamBlock>,
    offset: u64,
    len: usize,
}

impl RamSlice {
    /// A piece of a block.
    pub fn new(block: Arc<RamBlock>, offset: u64, len: usize) -> Result<RamSlice, OutOfBlock> {
        block.at(offset, len as u64)?;
        Ok(RamSlice { block, offset, len })
    }

    /// The block.
    #[must_use]
    pub fn block(&self) -> &Arc<RamBlock> {
        &self.block
    }

    /// Where in the block it begins.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The part of at most `len` bytes from `skip` on.
    #[must_use]
    pub fn part(&self, skip: usize, len: usize) -> RamSlice {
        let skip = skip.min(self.len);
        let len = len.min(self.len - skip);
        RamSlice { block: self.block.clone(), offset: self.offset + skip as u64, len }
    }

    /// Copies out, from the slice's start on; how much.
    pub fn read(&self, out: &mut [u8]) -> usize {
        let n = out.len().min(self.len);
        let part = out.get_mut(..n).unwrap_or_default();
        if self.block.read(self.offset, part).is_ok() { n } else { 0 }
    }

    /// Copies in, to the slice's start; how much.
    pub fn write(&self, data: &[u8]) -> usize {
        let n = data.len().min(self.len);
        let part = data.get(..n).unwrap_or_default();
        if self.block.write(self.offset, part).is_ok() { n } else { 0 }
    }

    /// The piece for vectored calls of the host.
    fn raw(&self) -> host::RawSlice {
        let ptr = self.block.at(self.offset, self.len as u64).unwrap_or(std::ptr::null_mut());
        let len = if ptr.is_null() { 0 } else { self.len };
        // SAFETY: in bounds of the block, which `self` keeps; callers keep `self` meanwhile; no
        // reference into guest memory is ever made.
        unsafe { host::RawSlice::new(ptr, len) }
    }
}

fn raw(slices: &[RamSlice]) -> Vec<host::RawSlice> {
    slices.iter().take(host::MAX_SLICES).map(RamSlice::raw).collect()
}

/// Reads from a file (at byte `at`) or a stream straight into RAM and marks it dirty; how many
/// bytes, which may be fewer than there is room for.
///
/// # Errors
/// What the system says.
pub fn read_from(fd: BorrowedFd<'_>, slices: &[RamSlice], at: Option<u64>) -> io::Result<usize> {
    let n = host::read_vectored(fd, &raw(slices), at)?;
    mark_read(slices, n);
    Ok(n)
}

/// Puts a request for a file (at byte `at`) into a ring; the pieces are kept until it is done. After
/// a read the caller marks what was read ([`mark_read`]).
///
/// # Errors
/// As [`host::Ring::submit`].
pub fn submit(
    ring: &host::Ring,
    op: host::RingOp,
    file: (&Arc<std::fs::File>, u64),
    slices: &[RamSlice],
    token: u64,
) -> io::Result<()> {
    if slices.len() > host::MAX_SLICES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    ring.submit(op, file, raw(slices), Box::new(slices.to_vec()), token)
}

/// Marks the first `n` bytes of the pieces dirty.
pub fn mark_read(slices: &[RamSlice], n: usize) {
    let mut rest = n;
    for slice in slices {
        let now = rest.min(slice.len);
        slice.block.mark_dirty(slice.offset, now as u64);
        rest -= now;
        if rest == 0 {
            break;
        }
    }
}

/// Whether all pieces begin and end at multiples of `align` in the host's memory.
#[must_use]
pub fn is_aligned(slices: &[RamSlice], align: usize) -> bool {
    slices.iter().all(|slice| {
        let at = slice.block.host_ptr().addr() as u64 + slice.offset;
        at.is_multiple_of(align as u64) && slice.len.is_multiple_of(align)
    })
}

/// Writes RAM straight to a file (at byte `at`) or a stream; how many bytes were taken.
///
/// # Errors
/// What the system says.
pub fn write_to(fd: BorrowedFd<'_>, slices: &[RamSlice], at: Option<u64>) -> io::Result<usize> {
    host::write_vectored(fd, &raw(slices), at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RamOptions;
    use std::io::Write;
    use std::os::fd::AsFd;

    #[test]
    fn files_are_read_into_pieces_and_written_from_them() {
        let block = RamBlock::new("t", 0x4000, RamOptions::default()).unwrap();
        let piece = |offset, len| RamSlice::new(block.clone(), offset, len).unwrap();
        let pieces = [piece(0x0fff, 3), piece(0x3000, 5)];
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"..abcdefgh").unwrap();
        block.dirty().take(|_| {});
        assert_eq!(read_from(file.as_fd(), &pieces, Some(2)).unwrap(), 8);
        let mut out = [0; 5];
        block.read(0x3000, &mut out).unwrap();
        assert_eq!(&out, b"defgh");
        let mut pages = Vec::new();
        block.dirty().take(|page| pages.push(page));
        assert_eq!(pages, [0, 1, 3]);
        assert_eq!(write_to(file.as_fd(), &pieces, Some(100)).unwrap(), 8);
        let again = [piece(0x2000, 8)];
        assert_eq!(read_from(file.as_fd(), &again, Some(100)).unwrap(), 8);
        let mut out = [0; 8];
        assert_eq!((again[0].read(&mut out), &out), (8, b"abcdefgh"));
        assert!(RamSlice::new(block.clone(), 0x3fff, 2).is_err());
        assert!(RamSlice::new(block, u64::MAX, 1).is_err());
    }
}
