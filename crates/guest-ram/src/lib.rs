//! Guest RAM: blocks of host memory and their dirty bitmaps.
//!
//! A [`RamBlock`] is a lazily touched mapping that the guest, devices and the
//! JIT share without locks. Every access from Rust is atomic at its natural size
//! (relaxed; bulk copies go word by word), because a vCPU may change the same
//! bytes at any moment; no reference into guest memory is ever made. Writes made
//! here mark 4 KiB pages dirty; code that writes through the raw pointer calls
//! [`RamBlock::mark_dirty`] itself. It knows no guest addresses: `memory` maps
//! blocks into address spaces. Sources: madvise(2), the Rust memory model.
// UNSAFE: guest memory is shared with other threads and generated code; raw
// pointers are bounds-checked against the mapping before each access.
#![expect(unsafe_code, reason = "raw access to shared guest memory")]

mod dirty;
mod slice;
mod watch;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

pub use dirty::{DirtyBitmap, PAGE_SHIFT, PAGE_SIZE};
pub use slice::{RamSlice, is_aligned, mark_read, read_from, submit, write_to};
pub use watch::Watch;

/// How a block is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct RamOptions {
    /// Back it with a memfd that other processes can map.
    pub shared: bool,
    /// Ask for transparent huge pages.
    pub huge: bool,
    /// Leave it out of core dumps.
    pub no_dump: bool,
}

/// One block of guest RAM or ROM.
#[derive(Debug)]
pub struct RamBlock {
    name: String,
    len: u64,
    map: host::Mapping,
    dirty: DirtyBitmap,
    watched: watch::Watched,
    rom: bool,
}

/// The access would leave the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfBlock;

impl RamBlock {
    /// Creates a zeroed block of `len` bytes.
    pub fn new(name: &str, len: u64, options: RamOptions) -> io::Result<Arc<RamBlock>> {
        let bytes = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let map = if options.shared {
            host::Mapping::memfd(name, bytes)?
        } else {
            host::Mapping::anonymous(bytes)?
        };
        if options.huge {
            map.advise_huge();
        }
        if options.no_dump {
            map.advise_no_dump();
        }
        RamBlock::of(name, len, map, false)
    }

    /// A block over a mapping; `rom` says that guests are not to write it.
    ///
    /// # Errors
    /// The mapping is shorter than `len`.
    pub fn of(name: &str, len: u64, map: host::Mapping, rom: bool) -> io::Result<Arc<RamBlock>> {
        if len > map.len() as u64 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let dirty = DirtyBitmap::new(len);
        let watched = watch::Watched::default();
        Ok(Arc::new(RamBlock { name: name.to_owned(), len, map, dirty, watched, rom }))
    }

    /// Whether guests are not to write it.
    #[must_use]
    pub fn is_rom(&self) -> bool {
        self.rom
    }

    /// Gives whole host pages back to the host; they read as zeroes from then on.
    ///
    /// # Errors
    /// The range is not in the block or not whole pages; the block's memory cannot be given back.
    pub fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.at(offset, len).map_err(|_| io::ErrorKind::InvalidInput)?;
        let index = |n: u64| usize::try_from(n).map_err(|_| io::ErrorKind::InvalidInput);
        self.map.discard(index(offset)?, index(len)?)?;
        self.mark_dirty(offset, len);
        Ok(())
    }

    /// The block's name, as migration and monitors show it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the block has no bytes (it never does).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What other processes map to share it, and where in it the block begins; `None`: it is private.
    #[must_use]
    pub fn shared_fd(&self) -> Option<(std::os::fd::BorrowedFd<'_>, u64)> {
        self.map.shared_fd()
    }

    /// First byte. Whoever writes through it marks pages dirty.
    #[must_use]
    pub fn host_ptr(&self) -> *mut u8 {
        self.map.ptr()
    }

    /// The pages written since they were last taken.
    #[must_use]
    pub fn dirty(&self) -> &DirtyBitmap {
        &self.dirty
    }

    /// Notes that bytes were written through the raw pointer, and tells who watches them.
    #[inline]
    pub fn mark_dirty(&self, offset: u64, len: u64) {
        self.dirty.mark(offset, len);
        self.watched.written(self.host_ptr().addr(), offset, len);
    }

    /// From now on `watch` is told of writes to the page at `offset` that go through this type or that
    /// [`RamBlock::mark_dirty`] reports. One watcher for a block: that of the first call stays.
    pub fn watch_page(&self, offset: u64, watch: &std::sync::Weak<dyn Watch>) {
        self.watched.add(self.len, offset, watch);
    }

    /// Ends [`RamBlock::watch_page`] for a page.
    pub fn forget_page(&self, offset: u64) {
        self.watched.remove(offset);
    }

    /// As [`DirtyBitmap::take`], and makes writers who go past this type (translated code) report the
    /// first write to each page again. A write that was on its way is either in what the caller copies
    /// after this returns, or reported. Must not be called with a device's lock held.
    pub fn take_dirty(&self, f: impl FnMut(u64)) {
        self.dirty.take(f);
        self.watched.taken();
    }

    fn at(&self, offset: u64, len: u64) -> Result<*mut u8, OutOfBlock> {
        let end = offset.checked_add(len).ok_or(OutOfBlock)?;
        if end > self.len {
            return Err(OutOfBlock);
        }
        let offset = usize::try_from(offset).map_err(|_| OutOfBlock)?;
        // SAFETY: offset + len is inside the mapping, which is at least `len` long.
        Ok(unsafe { self.map.ptr().add(offset) })
    }

    /// Reads 1, 2, 4 or 8 bytes, little-endian; atomic when aligned.
    pub fn load(&self, offset: u64, size: u32) -> Result<u64, OutOfBlock> {
        let p = self.at(offset, u64::from(size))?;
        if !offset.is_multiple_of(u64::from(size.max(1))) {
            let mut bytes = [0; 8];
            let part = bytes.get_mut(..size as usize).ok_or(OutOfBlock)?;
            self.read(offset, part)?;
            return Ok(u64::from_le_bytes(bytes));
        }
        // SAFETY: in bounds and aligned (blocks start on a page); atomics allow
        // concurrent change; the mapping lives as long as self.
        unsafe {
            Ok(match size {
                1 => AtomicU8::from_ptr(p).load(Ordering::Relaxed).into(),
                2 => u16::from_le(AtomicU16::from_ptr(p.cast()).load(Ordering::Relaxed)).into(),
                4 => u32::from_le(AtomicU32::from_ptr(p.cast()).load(Ordering::Relaxed)).into(),
                8 => u64::from_le(AtomicU64::from_ptr(p.cast()).load(Ordering::Relaxed)),
                _ => return Err(OutOfBlock),
            })
        }
    }

    /// Writes 1, 2, 4 or 8 bytes, little-endian; atomic when aligned.
    #[expect(clippy::cast_possible_truncation, reason = "the size says how much is kept")]
    pub fn store(&self, offset: u64, size: u32, value: u64) -> Result<(), OutOfBlock> {
        let p = self.at(offset, u64::from(size))?;
        if !offset.is_multiple_of(u64::from(size.max(1))) {
            let bytes = value.to_le_bytes();
            return self.write(offset, bytes.get(..size as usize).ok_or(OutOfBlock)?);
        }
        // SAFETY: as in `load`.
        unsafe {
            match size {
                1 => AtomicU8::from_ptr(p).store(value as u8, Ordering::Relaxed),
                2 => AtomicU16::from_ptr(p.cast()).store((value as u16).to_le(), Ordering::Relaxed),
                4 => AtomicU32::from_ptr(p.cast()).store((value as u32).to_le(), Ordering::Relaxed),
                8 => AtomicU64::from_ptr(p.cast()).store(value.to_le(), Ordering::Relaxed),
                _ => return Err(OutOfBlock),
            }
        }
        self.mark_dirty(offset, u64::from(size));
        Ok(())
    }

    /// Copies out of the block.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), OutOfBlock> {
        let mut p = self.at(offset, out.len() as u64)?.cast_const();
        let (head, rest) = out.split_at_mut(p.align_offset(8).min(out.len()));
        let (words, tail) = rest.as_chunks_mut::<8>();
        // SAFETY: `p` walks over exactly out.len() in-bounds bytes; words are
        // aligned after the head; atomics allow concurrent change.
        unsafe {
            for byte in head {
                *byte = AtomicU8::from_ptr(p.cast_mut()).load(Ordering::Relaxed);
                p = p.add(1);
            }
            for word in words {
                *word =
                    AtomicU64::from_ptr(p.cast_mut().cast()).load(Ordering::Relaxed).to_ne_bytes();
                p = p.add(8);
            }
            for byte in tail {
                *byte = AtomicU8::from_ptr(p.cast_mut()).load(Ordering::Relaxed);
                p = p.add(1);
            }
        }
        Ok(())
    }

    /// Copies into the block.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), OutOfBlock> {
        let mut p = self.at(offset, data.len() as u64)?;
        let (head, rest) = data.split_at(p.align_offset(8).min(data.len()));
        let (words, tail) = rest.as_chunks::<8>();
        // SAFETY: as in `read`.
        unsafe {
            for &byte in head {
                AtomicU8::from_ptr(p).store(byte, Ordering::Relaxed);
                p = p.add(1);
            }
            for word in words {
                AtomicU64::from_ptr(p.cast()).store(u64::from_ne_bytes(*word), Ordering::Relaxed);
                p = p.add(8);
            }
            for &byte in tail {
                AtomicU8::from_ptr(p).store(byte, Ordering::Relaxed);
                p = p.add(1);
            }
        }
        self.mark_dirty(offset, data.len() as u64);
        Ok(())
    }

    /// Sets every byte of a range.
    pub fn fill(&self, offset: u64, len: u64, byte: u8) -> Result<(), OutOfBlock> {
        self.at(offset, len)?;
        let chunk = [byte; 4096];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(chunk.len() as u64);
            let part = chunk.get(..usize::try_from(n).unwrap_or(0)).ok_or(OutOfBlock)?;
            self.write(offset + done, part)?;
            done += n;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> Arc<RamBlock> {
        RamBlock::new("t", 0x3000, RamOptions::default()).unwrap()
    }

    #[test]
    fn sizes_round_trip_little_endian() {
        let b = block();
        b.store(8, 8, 0x1122_3344_5566_7788).unwrap();
        assert_eq!(b.load(8, 1), Ok(0x88));
        assert_eq!(b.load(10, 2), Ok(0x5566));
        assert_eq!(b.load(12, 4), Ok(0x1122_3344));
        assert_eq!(b.load(9, 4), Ok(0x4455_6677));
        b.store(3, 4, 0xdead_beef).unwrap();
        assert_eq!(b.load(3, 4), Ok(0xdead_beef));
    }

    #[test]
    fn access_past_the_end_is_refused() {
        let b = block();
        assert_eq!(b.load(0x2fff, 2), Err(OutOfBlock));
        assert_eq!(b.load(u64::MAX, 8), Err(OutOfBlock));
        assert_eq!(b.write(0x2fff, &[1, 2]), Err(OutOfBlock));
        assert_eq!(b.load(0, 3), Err(OutOfBlock));
    }

    #[test]
    fn discarded_pages_read_as_zeroes() {
        for shared in [false, true] {
            let b =
                RamBlock::new("t", 0x3000, RamOptions { shared, ..Default::default() }).unwrap();
            b.fill(0, 0x3000, 0x55).unwrap();
            b.discard(0x1000, 0x1000).unwrap();
            assert_eq!(b.load(0xff8, 8), Ok(0x5555_5555_5555_5555));
            assert_eq!((b.load(0x1000, 8), b.load(0x1ff8, 8)), (Ok(0), Ok(0)));
            assert_eq!(b.load(0x2000, 8), Ok(0x5555_5555_5555_5555));
            assert!(b.discard(0x2000, 0x2000).is_err());
            assert!(b.discard(0x801, 0x1000).is_err());
        }
    }

    #[test]
    fn bulk_copies_keep_every_byte_and_mark_pages() {
        let b = block();
        let data: Vec<u8> = (0..=255).cycle().take(5001).collect();
        b.dirty().take(|_| {});
        b.write(3, &data).unwrap();
        let mut back = vec![0; data.len()];
        b.read(3, &mut back).unwrap();
        assert_eq!(back, data);
        let mut pages = Vec::new();
        b.dirty().take(|p| pages.push(p));
        assert_eq!(pages, [0, 1]);
        b.fill(0x1000, 0x2000, 0xff).unwrap();
        assert_eq!(b.load(0x2ff8, 8), Ok(u64::MAX));
    }
}
