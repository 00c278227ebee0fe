//! Progress of a command: one line that is written over (`-p`).
//!
//! The form is QEMU's: `    (12.34/100%)` and a carriage return, at the begin, when a hundredth
//! more is done, and at the end, which adds a line end. Not here: signals that ask for a line.
//! Source: `qemu-img convert -p`, as observed.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::say;

/// Where a command is.
pub(crate) struct Progress {
    on: bool,
    total: u64,
    done: AtomicU64,
    /// Hundredths shown last.
    shown: AtomicU64,
}

fn line(percent: f64) {
    say(&format!("    ({percent:.2}/100%)\r"));
}

impl Progress {
    /// Begins; `total` is what there is to do.
    pub(crate) fn new(on: bool, total: u64) -> Progress {
        if on {
            line(0.0);
        }
        Progress { on, total, done: AtomicU64::new(0), shown: AtomicU64::new(0) }
    }

    /// So much more is done.
    pub(crate) fn add(&self, by: u64) {
        let done = self.done.fetch_add(by, Ordering::Relaxed).saturating_add(by).min(self.total);
        self.at(done, self.total);
    }

    /// So much of so much is done.
    pub(crate) fn at(&self, done: u64, total: u64) {
        if !self.on || total == 0 {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
        let percent = done as f64 * 100.0 / total as f64;
        let step = u64::try_from(u128::from(done) * 100 / u128::from(total)).unwrap_or(100);
        if self.shown.swap(step, Ordering::Relaxed) != step {
            line(percent);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.on {
            line(100.0);
            say("\n");
        }
    }
}
