//! Who wants to know of writes to RAM: translated code made from a page is void once the page changes,
//! whoever wrote it (a device by DMA as much as another CPU).
//!
//! A bitmap of 4 KiB pages, one watcher for each block. Writers look at the bitmap after they wrote; the
//! watcher sets a page's bit before it reads the page. Either the writer sees the bit or the watcher sees
//! the bytes. Not here: writes of guest CPUs, which their accelerator notices itself.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock, Weak};

use crate::dirty::{PAGE_SHIFT, PAGE_SIZE};

/// Who is told.
pub trait Watch: Send + Sync {
    /// Bytes from host address `at` on, in one page or more of which one is watched, were written. Called
    /// on the writer's thread, with whatever locks it holds: only the watcher's own locks may be taken.
    fn written(&self, at: u64, len: u64);
    /// The dirty bits were taken: writes are to be reported anew.
    fn taken(&self);
}

#[derive(Default)]
pub(crate) struct Watched {
    inner: OnceLock<Pages>,
}

struct Pages {
    words: Box<[AtomicU64]>,
    watch: Weak<dyn Watch>,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.inner.get().is_some() { "watched" } else { "not watched" })
    }
}

impl Watched {
    fn place(&self, offset: u64) -> Option<(&AtomicU64, u64)> {
        let page = offset >> PAGE_SHIFT;
        let word = self.inner.get()?.words.get(usize::try_from(page / 64).ok()?)?;
        Some((word, 1 << (page % 64)))
    }

    pub(crate) fn add(&self, len: u64, offset: u64, watch: &Weak<dyn Watch>) {
        let words = len.div_ceil(PAGE_SIZE).div_ceil(64);
        let make = || Pages {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
            watch: Weak::clone(watch),
        };
        self.inner.get_or_init(make);
        if let Some((word, bit)) = self.place(offset) {
            word.fetch_or(bit, Ordering::SeqCst);
        }
    }

    pub(crate) fn remove(&self, offset: u64) {
        if let Some((word, bit)) = self.place(offset) {
            word.fetch_and(!bit, Ordering::SeqCst);
        }
    }

    fn watcher(&self) -> Option<Arc<dyn Watch>> {
        self.inner.get()?.watch.upgrade()
    }

    #[inline]
    pub(crate) fn written(&self, base: usize, offset: u64, len: u64) {
        if self.inner.get().is_some() && len > 0 {
            self.look(base, offset, len);
        }
    }

    #[cold]
    fn look(&self, base: usize, offset: u64, len: u64) {
        // The bytes before the look at the bits.
        fence(Ordering::SeqCst);
        let last = offset.saturating_add(len - 1) >> PAGE_SHIFT;
        let watched = |page: u64| {
            self.place(page << PAGE_SHIFT)
                .is_some_and(|(word, bit)| word.load(Ordering::SeqCst) & bit != 0)
        };
        if (offset >> PAGE_SHIFT..=last).any(watched)
            && let Some(watch) = self.watcher()
        {
            watch.written((base as u64).wrapping_add(offset), len);
        }
    }

    pub(crate) fn taken(&self) {
        if let Some(watch) = self.watcher() {
            watch.taken();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RamBlock, RamOptions};
    use std::sync::Mutex;

    #[derive(Default)]
    struct Seen(Mutex<Vec<(u64, u64)>>);
    impl Watch for Seen {
        fn written(&self, at: u64, len: u64) {
            self.0.lock().unwrap().push((at, len));
        }
        fn taken(&self) {
            self.0.lock().unwrap().push((0, 0));
        }
    }

    #[test]
    fn writes_to_watched_pages_are_told_whatever_way_they_come() {
        let block = RamBlock::new("t", 0x4000, RamOptions::default()).unwrap();
        let seen = Arc::new(Seen::default());
        let watch: Arc<dyn Watch> = seen.clone();
        block.write(0x1000, &[1]).unwrap();
        block.watch_page(0x1234, &Arc::downgrade(&watch));
        let base = block.host_ptr() as u64;
        block.write(0x2000, &[1, 2]).unwrap();
        block.write(0xfff, &[1, 2]).unwrap();
        block.store(0x1ff8, 8, 5).unwrap();
        block.mark_dirty(0x1800, 3);
        let want = [(base + 0xfff, 2), (base + 0x1ff8, 8), (base + 0x1800, 3)];
        assert_eq!(std::mem::take(&mut *seen.0.lock().unwrap()), want);
        block.forget_page(0x1000);
        block.write(0x1000, &[1]).unwrap();
        assert!(seen.0.lock().unwrap().is_empty());
        block.take_dirty(|_| {});
        assert_eq!(*seen.0.lock().unwrap(), [(0, 0)]);
    }
}
