//! Host clocks (clock_gettime(2)).
// UNSAFE: the C library's local time.
#![expect(unsafe_code, reason = "localtime_r")]

use rustix::time::{ClockId, Timespec, clock_gettime};

fn nanos(t: Timespec) -> i64 {
    t.tv_sec.saturating_mul(1_000_000_000).saturating_add(t.tv_nsec)
}

/// The system's number of the calling thread.
#[must_use]
pub fn thread_id() -> i64 {
    i64::from(rustix::thread::gettid().as_raw_pid())
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

/// Seconds to add to UTC for the host's local time, now (localtime_r(3)).
#[must_use]
pub fn local_offset_seconds() -> i64 {
    let now: libc::time_t = clock_gettime(ClockId::Realtime).tv_sec;
    // SAFETY: all-zero is a valid `tm`; its pointer members may be null.
    let mut parts: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of the right types; localtime_r keeps neither.
    let done = unsafe { libc::localtime_r(&raw const now, &raw mut parts) };
    if done.is_null() { 0 } else { parts.tm_gmtoff }
}
