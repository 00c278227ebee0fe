//! The gdb remote serial protocol: a debugger outside the guest.
//!
//! [`Stub`] is one session over a character stream (`-gdb`, `-s`). CPUs are threads of
//! one process; breakpoints, watchpoints and steps are the accelerator's
//! ([`accel::debug`]); the guest stops and goes through the machine's run state, so
//! monitors see it. Memory is virtual as the selected CPU sees it, or physical after
//! `maint packet Qqemu.PhyMemMode:1`. `monitor` runs a line of the human monitor.
//! Not here: reverse execution, non-stop mode, file transfer, more than one process.
//! Sources: the gdb manual, "Remote Protocol"; QEMU's manual, "GDB usage".

mod hex;
mod packet;
mod query;
mod session;

pub use packet::{Event, Reader};
pub use session::Stub;
