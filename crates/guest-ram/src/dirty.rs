//! One bit per 4 KiB page that was written.

use std::sync::atomic::{AtomicU64, Ordering};

/// log2 of the page size the bitmap counts in.
pub const PAGE_SHIFT: u32 = 12;
/// The page size the bitmap counts in.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

/// A bitmap that any thread sets and one consumer takes.
#[derive(Debug)]
pub struct DirtyBitmap {
    words: Box<[AtomicU64]>,
}

impl DirtyBitmap {
    /// A clean bitmap for `len` bytes.
    #[must_use]
    pub fn new(len: u64) -> DirtyBitmap {
        let words = len.div_ceil(PAGE_SIZE).div_ceil(64);
        DirtyBitmap { words: (0..words).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Sets the pages that `len` bytes at `offset` touch.
    #[inline]
    pub fn mark(&self, offset: u64, len: u64) {
        if len == 0 {
            return;
        }
        let last = offset.saturating_add(len - 1) >> PAGE_SHIFT;
        for page in offset >> PAGE_SHIFT..=last {
            let Some(word) = usize::try_from(page / 64).ok().and_then(|i| self.words.get(i)) else {
                return;
            };
            let bit = 1 << (page % 64);
            // Most marks hit a page that is dirty already: look before writing.
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::Release);
            }
        }
    }

    /// Whether a page is dirty.
    #[must_use]
    pub fn is_dirty(&self, page: u64) -> bool {
        usize::try_from(page / 64)
            .ok()
            .and_then(|i| self.words.get(i))
            .is_some_and(|w| w.load(Ordering::Acquire) & (1 << (page % 64)) != 0)
    }

    /// Clears the bitmap and calls `f` with each page that was dirty.
    pub fn take(&self, mut f: impl FnMut(u64)) {
        for (i, word) in (0u64..).zip(&self.words) {
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut bits = word.swap(0, Ordering::AcqRel);
            while bits != 0 {
                f(i * 64 + u64::from(bits.trailing_zeros()));
                bits &= bits - 1;
            }
        }
    }
}
