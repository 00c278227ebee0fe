//! Memory mappings with RAII (mmap(2), memfd_create(2)).
#![expect(unsafe_code, reason = "mapping and unmapping memory")]
// UNSAFE: mmap and munmap are raw system calls; the types own what they map.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{NonNull, null_mut};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// Size of a host page in bytes.
#[must_use]
pub fn page_size() -> usize {
    rustix::param::page_size()
}

fn round_up(len: usize) -> io::Result<usize> {
    let page = page_size();
    match len.checked_next_multiple_of(page) {
        Some(0) | None => Err(io::Error::from(io::ErrorKind::InvalidInput)),
        Some(len) => Ok(len),
    }
}

/// An owned mapping of memory, readable and writable, unmapped on drop.
///
/// It hands out raw pointers only: other threads and the guest may change the
/// bytes at any time, so no reference may be made from them.
#[derive(Debug)]
pub struct Mapping {
    ptr: NonNull<u8>,
    len: usize,
    fd: Option<OwnedFd>,
}

// SAFETY: a mapping is plain process memory, valid from every thread; all
// access goes through raw pointers whose users carry their own obligations.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps zeroed private memory that costs nothing until it is touched.
    pub fn anonymous(len: usize) -> io::Result<Mapping> {
        let len = round_up(len)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing.
        let ptr =
            unsafe { mmap_anonymous(null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags)? };
        Mapping::own(ptr, len, None)
    }

    /// Maps a new memfd, which other mappings or processes can share.
    pub fn memfd(name: &str, len: usize) -> io::Result<Mapping> {
        let len = round_up(len)?;
        let fd = memfd_create(name, MemfdFlags::CLOEXEC)?;
        ftruncate(&fd, len as u64)?;
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing.
        let ptr = unsafe {
            mmap(null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags, fd.as_fd(), 0)?
        };
        Mapping::own(ptr, len, Some(fd))
    }

    fn own(ptr: *mut c_void, len: usize, fd: Option<OwnedFd>) -> io::Result<Mapping> {
        let ptr = NonNull::new(ptr.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { ptr, len, fd })
    }

    /// First byte of the mapping.
    #[must_use]
    pub fn ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// Length in bytes, a multiple of the page size.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Always false: an empty mapping cannot be made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The descriptor behind a memfd mapping.
    #[must_use]
    pub fn fd(&self) -> Option<&OwnedFd> {
        self.fd.as_ref()
    }

    /// Asks for transparent huge pages; failure is harmless and ignored.
    pub fn advise_huge(&self) {
        // SAFETY: the range is ours and the advice changes no contents.
        let _ = unsafe { madvise(self.ptr().cast(), self.len, Advice::LinuxHugepage) };
    }

    /// Keeps the range out of core dumps; failure is harmless and ignored.
    pub fn advise_no_dump(&self) {
        // SAFETY: the range is ours and the advice changes no contents.
        let _ = unsafe { madvise(self.ptr().cast(), self.len, Advice::LinuxDontDump) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is exactly what mmap returned; holders of raw
        // pointers had to keep the owner alive.
        let _ = unsafe { munmap(self.ptr().cast(), self.len) };
    }
}

/// One piece of memory seen twice: writable here, executable there.
///
/// A JIT writes code through [`DualMapping::rw`] and runs it at
/// [`DualMapping::rx`], so no page is ever writable and executable at once.
#[derive(Debug)]
pub struct DualMapping {
    rw: Mapping,
    rx: NonNull<u8>,
}

// SAFETY: as for `Mapping`.
unsafe impl Send for DualMapping {}
// SAFETY: as for `Mapping`.
unsafe impl Sync for DualMapping {}

impl DualMapping {
    /// Creates both views of `len` bytes of zeroed memory.
    pub fn new(name: &str, len: usize) -> io::Result<DualMapping> {
        let rw = Mapping::memfd(name, len)?;
        let fd = rw.fd().ok_or(io::ErrorKind::Unsupported)?;
        let prot = ProtFlags::READ | ProtFlags::EXEC;
        // SAFETY: a fresh mapping at an address of the kernel's choice; that it
        // aliases the RW view is this type's purpose and both are raw memory.
        let rx = unsafe { mmap(null_mut(), rw.len(), prot, MapFlags::SHARED, fd.as_fd(), 0)? };
        let rx = NonNull::new(rx.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(DualMapping { rw, rx })
    }

    /// First byte of the writable view.
    #[must_use]
    pub fn rw(&self) -> *mut u8 {
        self.rw.ptr()
    }

    /// First byte of the executable view.
    #[must_use]
    pub fn rx(&self) -> *const u8 {
        self.rx.as_ptr()
    }

    /// Length of each view in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rw.len()
    }

    /// Always false: an empty mapping cannot be made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }
}

impl Drop for DualMapping {
    fn drop(&mut self) {
        // SAFETY: the range is what mmap returned for this view.
        let _ = unsafe { munmap(self.rx.as_ptr().cast(), self.rw.len()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anonymous_memory_is_zero_and_writable() {
        let m = Mapping::anonymous(10_000).unwrap();
        assert_eq!(m.len() % page_size(), 0);
        // SAFETY: in bounds of a live mapping.
        unsafe {
            assert_eq!(m.ptr().add(9999).read(), 0);
            m.ptr().add(9999).write(7);
            assert_eq!(m.ptr().add(9999).read(), 7);
        }
    }

    #[test]
    fn dual_views_show_the_same_bytes() {
        let m = DualMapping::new("test", 4096).unwrap();
        // SAFETY: in bounds of live mappings.
        unsafe {
            m.rw().add(5).write_volatile(0x5a);
            assert_eq!(m.rx().add(5).read_volatile(), 0x5a);
        }
    }

    #[test]
    fn empty_mapping_is_refused() {
        assert!(Mapping::anonymous(0).is_err());
    }
}
