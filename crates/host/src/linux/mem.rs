//! Memory mappings with RAII (mmap(2), memfd_create(2)).
#![expect(unsafe_code, reason = "mapping and unmapping memory")]
// UNSAFE: mmap and munmap are raw system calls; the types own what they map.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{NonNull, null_mut};

use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate, memfd_create,
};
use rustix::mm::{
    Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags, madvise, mmap, mmap_anonymous,
    mprotect, mremap, munmap,
};

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
    /// Byte of the descriptor's file at which the mapping begins.
    offset: u64,
    shared: bool,
}

/// How a memfd is made (memfd_create(2)).
#[derive(Clone, Copy, Debug, Default)]
pub struct Memfd {
    /// Forbid changes of its length.
    pub seal: bool,
    /// Use huge pages, of this size or (0) of the system's default size.
    pub huge: Option<u64>,
    /// See writes of others, and show them ours.
    pub shared: bool,
    /// Set swap space or huge pages aside.
    pub reserve: bool,
}

/// Where pages are taken from (mbind(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// These nodes if possible.
    Preferred,
    /// These nodes only.
    Bind,
    /// These nodes in turn.
    Interleave,
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
        Mapping::own(ptr, len, None, false)
    }

    /// Maps zeroed memory; `shared` with children, `reserve` with swap space set aside.
    pub fn anonymous_with(len: usize, shared: bool, reserve: bool) -> io::Result<Mapping> {
        let len = round_up(len)?;
        let flags = Mapping::flags(shared, reserve);
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing.
        let ptr =
            unsafe { mmap_anonymous(null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags)? };
        Mapping::own(ptr, len, None, shared)
    }

    /// Maps a file from byte `offset` on, which must be a multiple of the page size. The memory is
    /// always writable; writes reach the file only where it is `shared`.
    pub fn file(
        fd: OwnedFd,
        offset: u64,
        len: usize,
        shared: bool,
        reserve: bool,
    ) -> io::Result<Mapping> {
        let len = round_up(len)?;
        let flags = Mapping::flags(shared, reserve);
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing here.
        let ptr = unsafe {
            mmap(null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags, fd.as_fd(), offset)?
        };
        let mut map = Mapping::own(ptr, len, Some(fd), shared)?;
        map.offset = offset;
        Ok(map)
    }

    /// Maps a new memfd in one of its many forms.
    pub fn memfd_with(name: &str, len: usize, how: Memfd) -> io::Result<Mapping> {
        let mut flags = MemfdFlags::CLOEXEC;
        if how.seal {
            flags |= MemfdFlags::ALLOW_SEALING;
        }
        let mut len = round_up(len)?;
        if let Some(size) = how.huge {
            flags |= MemfdFlags::HUGETLB;
            if size > 1 {
                // Bits 26 to 31: log2 of the page size.
                flags |= MemfdFlags::from_bits_retain(size.trailing_zeros() << 26);
                let size = usize::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?;
                len = len.checked_next_multiple_of(size).ok_or(io::ErrorKind::InvalidInput)?;
            }
        }
        let fd = memfd_create(name, flags)?;
        ftruncate(&fd, len as u64)?;
        if how.seal {
            fcntl_add_seals(&fd, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        }
        Mapping::file(fd, 0, len, how.shared, how.reserve)
    }

    fn flags(shared: bool, reserve: bool) -> MapFlags {
        let kind = if shared { MapFlags::SHARED } else { MapFlags::PRIVATE };
        if reserve { kind } else { kind | MapFlags::NORESERVE }
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
        Mapping::own(ptr, len, Some(fd), true)
    }

    fn own(ptr: *mut c_void, len: usize, fd: Option<OwnedFd>, shared: bool) -> io::Result<Mapping> {
        let ptr = NonNull::new(ptr.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { ptr, len, fd, offset: 0, shared })
    }

    /// The address of a range, if it lies in the mapping.
    fn range(&self, at: usize, len: usize) -> io::Result<*mut c_void> {
        let end = at.checked_add(len).filter(|end| *end <= self.len);
        end.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.ptr().wrapping_add(at).cast())
    }

    /// Gives whole pages back to the system; they read as zeroes from then on.
    ///
    /// # Errors
    /// The range is not in the mapping or not whole pages; it is a private mapping of a file,
    /// whose pages would show the file again.
    pub fn discard(&self, at: usize, len: usize) -> io::Result<()> {
        let ptr = self.range(at, len)?;
        if !at.is_multiple_of(page_size()) || !len.is_multiple_of(page_size()) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match &self.fd {
            Some(fd) if self.shared => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                Ok(fallocate(fd, flags, self.offset + at as u64, len as u64)?)
            }
            Some(_) => Err(io::ErrorKind::Unsupported.into()),
            None => {
                let how = if self.shared { Advice::LinuxRemove } else { Advice::LinuxDontNeed };
                // SAFETY: the range is ours; its users read raw bytes and may find zeroes.
                unsafe { madvise(ptr, len, how)? };
                Ok(())
            }
        }
    }

    /// Touches whole pages so that they exist.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn populate(&self, at: usize, len: usize) -> io::Result<()> {
        let ptr = self.range(at, len)?;
        // SAFETY: the range is ours and populating changes no contents.
        unsafe { madvise(ptr, len, Advice::LinuxPopulateWrite)? };
        Ok(())
    }

    /// Lets the kernel share equal pages, or not; failure is harmless and ignored.
    pub fn advise_mergeable(&self, on: bool) {
        let how = if on { Advice::LinuxMergeable } else { Advice::LinuxUnmergeable };
        // SAFETY: the range is ours and the advice changes no contents.
        let _ = unsafe { madvise(self.ptr().cast(), self.len, how) };
    }

    /// Says which nodes pages come from; node numbers below 1024.
    ///
    /// # Errors
    /// What the system says, for instance that a node does not exist.
    pub fn bind(&self, policy: Policy, nodes: &[u16]) -> io::Result<()> {
        const BITS: u16 = 1024;
        // mbind(2): pages that are there already are moved, or it fails.
        const MPOL_MF_STRICT: libc::c_uint = 1;
        const MPOL_MF_MOVE: libc::c_uint = 2;
        let mut mask = [0u64; BITS as usize / 64];
        for node in nodes {
            let word = mask.get_mut(usize::from(*node) / 64).ok_or(io::ErrorKind::InvalidInput)?;
            *word |= 1 << (node % 64);
        }
        let mode = match policy {
            Policy::Preferred => libc::MPOL_PREFERRED,
            Policy::Bind => libc::MPOL_BIND,
            Policy::Interleave => libc::MPOL_INTERLEAVE,
        };
        // SAFETY: the range is ours, the mask has as many bits as are said, and the call changes
        // no contents.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.ptr(),
                self.len,
                mode,
                mask.as_ptr(),
                libc::c_ulong::from(BITS) + 1,
                MPOL_MF_STRICT | MPOL_MF_MOVE,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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

    /// What is mapped and from where on, when others can see writes to it.
    #[must_use]
    pub fn shared_fd(&self) -> Option<(std::os::fd::BorrowedFd<'_>, u64)> {
        self.fd.as_ref().filter(|_| self.shared).map(|fd| (fd.as_fd(), self.offset))
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

/// Size of a huge page.
pub const HUGE: usize = 2 << 20;

/// Maps a whole shared file at an address that is a multiple of [`HUGE`].
fn map_aligned(fd: &OwnedFd, len: usize, prot: ProtFlags) -> io::Result<NonNull<u8>> {
    let room = len.checked_add(HUGE).ok_or(io::ErrorKind::InvalidInput)?;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a fresh mapping at an address of the kernel's choice, which only reserves addresses.
    let all = unsafe { mmap_anonymous(null_mut(), room, ProtFlags::empty(), flags)? };
    let skip = (all as usize).wrapping_neg() % HUGE;
    let flags = MapFlags::SHARED | MapFlags::NORESERVE | MapFlags::FIXED;
    // SAFETY: replaces part of the mapping that was just made; nothing refers to it yet.
    let ptr = unsafe { mmap(all.cast::<u8>().add(skip).cast(), len, prot, flags, fd.as_fd(), 0)? };
    // SAFETY: what was reserved before and behind it; nothing refers to it.
    unsafe {
        if skip > 0 {
            munmap(all, skip)?;
        }
        let behind = skip + len;
        if room > behind {
            munmap(all.cast::<u8>().add(behind).cast(), room - behind)?;
        }
    }
    NonNull::new(ptr.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
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
        let fd = memfd_create(name, MemfdFlags::CLOEXEC)?;
        let len = round_up(len)?;
        ftruncate(&fd, len as u64)?;
        let rx = map_aligned(&fd, len, ProtFlags::READ | ProtFlags::EXEC)?;
        let rw = map_aligned(&fd, len, ProtFlags::READ | ProtFlags::WRITE)?;
        let rw = Mapping::own(rw.as_ptr().cast(), len, Some(fd), true)?;
        Ok(DualMapping { rw, rx })
    }

    /// Asks for one page of [`HUGE`] bytes behind the part of both views that holds the byte at `at`
    /// (madvise(2), MADV_COLLAPSE), since code from all over takes many places in an instruction TLB.
    /// Failure is harmless and ignored.
    pub fn make_huge(&self, at: usize) {
        let start = at & !(HUGE - 1);
        if start.checked_add(HUGE).is_none_or(|end| end > self.len()) {
            return;
        }
        for view in [self.rw().cast_const(), self.rx()] {
            // SAFETY: inside the mapping; the advice changes no contents.
            unsafe { libc::madvise(view.add(start).cast_mut().cast(), HUGE, libc::MADV_COLLAPSE) };
        }
    }

    /// Likewise, of memory without a name: `perf` takes that for generated code and looks into its map.
    pub fn nameless(len: usize) -> io::Result<DualMapping> {
        let rw = Mapping::anonymous_with(len, true, false)?;
        // SAFETY: an old length of 0 makes a second mapping of the same shared pages (mremap(2)) at an address of
        // the kernel's choice, as wanted here.
        let rx = unsafe { mremap(rw.ptr().cast(), 0, rw.len(), MremapFlags::MAYMOVE)? };
        // SAFETY: the fresh mapping, which nothing refers to yet.
        unsafe { mprotect(rx, rw.len(), MprotectFlags::READ | MprotectFlags::EXEC)? };
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

/// Maps the first page of a file executable for the life of the process: how `perf` learns of a file that describes
/// generated code (jitdump-specification.txt of Linux, "The jitdump file": its marker).
pub fn mark_code_file(file: impl AsFd) -> io::Result<()> {
    let prot = ProtFlags::READ | ProtFlags::EXEC;
    // SAFETY: a fresh mapping at an address of the kernel's choice, which nobody reads or runs.
    unsafe { mmap(null_mut(), 4096, prot, MapFlags::PRIVATE, file.as_fd(), 0)? };
    Ok(())
}

impl Drop for DualMapping {
    fn drop(&mut self) {
        // SAFETY: the range is what mmap returned for this view.
        let _ = unsafe { munmap(self.rx.as_ptr().cast(), self.rw.len()) };
    }
}

/// Locks what the process has mapped and will map in memory; with `on_fault` pages only once they
/// are touched.
///
/// # Errors
/// The limit of locked memory is too low.
pub fn lock_memory(on_fault: bool) -> io::Result<()> {
    use rustix::mm::{MlockAllFlags, mlockall};
    let mut flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE;
    if on_fault {
        flags |= MlockAllFlags::ONFAULT;
    }
    Ok(mlockall(flags)?)
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
