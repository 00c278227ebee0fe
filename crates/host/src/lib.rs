//! Thin safe layer over the host operating system.
//!
//! Everything the emulator wants from the host goes through here: memory
//! mappings, event descriptors, readiness polling, sockets, terminals, signals,
//! time and CPU features. One folder per host system (`linux/`); the names
//! exported here are the same on each. It holds no policy and knows nothing of
//! guests. Sources: the Linux manual pages (mmap(2), memfd_create(2),
//! signalfd(2), termios(3), epoll(7)) and the documentation of `rustix`.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
use linux as system;

pub mod cpu;
pub mod error;
pub mod socket;
pub mod wide_atomic;

pub use error::reason;
pub use system::datagram::{DatagramError, datagram_error, keep_datagram_errors};
pub use system::disk::{
    O_DIRECT, allocate, copy_range, file_length, is_byte_locked, lock_byte, next_data, next_hole,
    punch_hole, unlock_byte, zero_range,
};
pub use system::event::EventFd;
pub use system::fd::{duplicate_number, is_hung_up, is_writable, open_pipe, open_pty, write_fd};
pub use system::iov::{MAX_SLICES, O_NONBLOCK, RawSlice, read_vectored, write_vectored};
pub use system::mem::{
    DualMapping, HUGE, Mapping, Memfd, Policy, lock_memory, mark_code_file, page_size,
};
pub use system::poll::{Interest, PollEvent, Poller};
pub use system::random::fill_random;
pub use system::ring::{Ring, RingDone, RingOp};
pub use system::session::{detach_stdio, new_session};
pub use system::signal::{Signal, SignalWatch, outlive_file_limits};
pub use system::tap::{TAP_HEADER, open_tap, set_tap_buffer, set_tap_offloads, tap_name};
pub use system::time::{local_offset_seconds, monotonic_ns, realtime_ns, thread_id};
pub use system::tty::{
    RawMode, is_terminal, read_fd, restore_terminals, set_nonblocking, wait_writable, window_size,
};
