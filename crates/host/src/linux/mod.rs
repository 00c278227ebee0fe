//! The Linux implementation of the host layer.

pub(crate) mod datagram;
pub(crate) mod disk;
pub(crate) mod event;
pub(crate) mod fd;
pub(crate) mod iov;
pub(crate) mod mem;
pub(crate) mod poll;
pub(crate) mod random;
pub(crate) mod ring;
pub(crate) mod session;
pub(crate) mod signal;
pub(crate) mod tap;
pub(crate) mod time;
pub(crate) mod tty;
