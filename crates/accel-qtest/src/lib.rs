//! The accelerator without a CPU, and the qtest protocol that stands in for one.
//!
//! A test program connects to a character stream and says one command per line: read and write
//! guest memory, move the guest's clock, watch interrupt outputs. Each line gets one reply that
//! starts with `OK` or `FAIL`; changes of watched lines come before it as `IRQ raise N` and
//! `IRQ lower N`.
//!
//! Not here: port I/O, RTAS, module loading and the other architecture-specific commands.
//! Interrupt lines are compared after each command, so a pulse that begins and ends within one
//! command is not seen.
//!
//! Sources: the qtest chapter of QEMU's developer manual and the replies of QEMU 10.0.2.

mod accel;
mod base64;
mod line;
mod server;
mod session;

pub use accel::{ACCEL, Qtest};
pub use line::Line;
pub use server::Server;
pub use session::{Irqs, Session};
