//! Host clocks (clock_gettime(2)).

use rustix::time::{ClockId, Timespec, clock_gettime};

fn nanos(t: Timespec) -> i64 {
    t.tv_sec.saturating_mul(1_000_000_000).saturating_add(t.tv_nsec)
}

/// Nanoseconds of a clock that never jumps or goes back.
#[must_use]
pub fn monotonic_ns() -> u64 {
    u64::try_from(nanos(clock_gettime(ClockId::Monotonic))).unwrap_or(0)
}

/// Nanoseconds since 1970-01-01 UTC by the host's wall clock.
#[must_use]
pub fn realtime_ns() -> i64 {
    nanos(clock_gettime(ClockId::Realtime))
}
