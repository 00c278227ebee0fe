//! Statistics of the last seconds of a slot: least, greatest and mean time of its requests.
//!
//! Each kind of request has two windows that are as long as the interval and begin half of it apart.
//! What is told comes from the older one, so it looks back between half the interval and all of it.
//! Source: QEMU's QMP reference, BlockDeviceTimedStats.

/// The requests of one window.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    least: u64,
    most: u64,
    sum: u64,
    count: u64,
    end: u64,
}

impl Window {
    /// Begins anew when its time is over.
    fn turn(&mut self, length: u64, now: u64) {
        if now < self.end {
            return;
        }
        let behind = (now - self.end) / length.max(1) + 1;
        let end = self.end.saturating_add(behind.saturating_mul(length));
        *self = Window { end, ..Window::default() };
    }
}

/// Least, greatest and mean time in nanoseconds, and the mean number of requests under way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Times {
    /// Shortest.
    pub least: u64,
    /// Longest.
    pub most: u64,
    /// Mean.
    pub mean: u64,
    /// Requests under way.
    pub depth: f64,
}

/// One interval: reads, writes, flushes.
#[derive(Debug)]
pub struct Interval {
    /// Nanoseconds.
    length: u64,
    kinds: [[Window; 2]; 3],
}

impl Interval {
    /// An interval of so many seconds.
    #[must_use]
    pub fn new(seconds: u32, now: u64) -> Interval {
        let length = u64::from(seconds) * 1_000_000_000;
        let window = |end| Window { end, ..Window::default() };
        let pair = [window(now + length / 2), window(now + length)];
        Interval { length, kinds: [pair; 3] }
    }

    /// Its length in seconds.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.length / 1_000_000_000
    }

    pub(crate) fn add(&mut self, kind: usize, time: u64, now: u64) {
        for window in self.kinds.get_mut(kind).into_iter().flatten() {
            window.turn(self.length, now);
            window.least = if window.count == 0 { time } else { window.least.min(time) };
            window.most = window.most.max(time);
            window.sum = window.sum.saturating_add(time);
            window.count += 1;
        }
    }

    /// What is told of a kind: 0 reads, 1 writes, 2 flushes.
    pub fn times(&mut self, kind: usize, now: u64) -> Times {
        let Some(pair) = self.kinds.get_mut(kind) else { return Times::default() };
        for window in pair.iter_mut() {
            window.turn(self.length, now);
        }
        let Some(older) = pair.iter().min_by_key(|window| window.end) else {
            return Times::default();
        };
        let since = self.length.saturating_sub(older.end.saturating_sub(now));
        #[expect(clippy::cast_precision_loss, reason = "a mean is shown")]
        let depth = if since == 0 { 0.0 } else { older.sum as f64 / since as f64 };
        let mean = older.sum.checked_div(older.count).unwrap_or(0);
        Times { least: older.least, most: older.most, mean, depth }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_forgets_after_its_time() {
        let second = 1_000_000_000;
        let mut interval = Interval::new(10, 0);
        interval.add(0, 100, second);
        interval.add(0, 300, 2 * second);
        let times = interval.times(0, 3 * second);
        assert_eq!((times.least, times.most, times.mean), (100, 300, 200));
        assert_eq!(interval.times(1, 3 * second), Times::default());
        // The first window is over, the second still knows.
        interval.add(0, 500, 6 * second);
        let times = interval.times(0, 7 * second);
        assert_eq!((times.least, times.most, times.mean), (100, 500, 300));
        let times = interval.times(0, 12 * second);
        assert_eq!((times.least, times.most), (500, 500));
        assert_eq!(interval.times(0, 100 * second), Times::default());
    }
}
