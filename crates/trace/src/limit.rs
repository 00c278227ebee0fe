//! Rate limit of one log statement.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Messages one place may write per second.
const PER_SECOND: u32 = 50;

/// Counts what one place in the source wrote in the current second.
pub struct Limit {
    second: AtomicU64,
    passed: AtomicU32,
    lost: AtomicU32,
}

impl Limit {
    /// A fresh limit; made by the macros.
    #[must_use]
    pub const fn new() -> Limit {
        Limit { second: AtomicU64::new(0), passed: AtomicU32::new(0), lost: AtomicU32::new(0) }
    }

    /// `Some(messages lost before)` when this one may be written.
    pub fn pass(&self) -> Option<u32> {
        self.pass_at(host::monotonic_ns() / 1_000_000_000)
    }

    fn pass_at(&self, second: u64) -> Option<u32> {
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.passed.store(0, Ordering::Relaxed);
        }
        if self.passed.fetch_add(1, Ordering::Relaxed) < PER_SECOND {
            Some(self.lost.swap(0, Ordering::Relaxed))
        } else {
            self.lost.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

impl Default for Limit {
    fn default() -> Limit {
        Limit::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flood_is_cut_and_counted() {
        let l = Limit::new();
        let passed = (0..200).filter(|_| l.pass_at(1).is_some()).count();
        assert_eq!(passed, PER_SECOND as usize);
        assert_eq!(l.pass_at(2), Some(200 - PER_SECOND));
    }
}
