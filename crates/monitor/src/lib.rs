//! The monitors: QMP for programs, the human monitor for people.
//!
//! [`Qmp`] is a session of the QEMU Machine Protocol over a character stream: greeting,
//! capabilities negotiation, one reply per command with its `id`, events. [`Hmp`] is a line editor
//! and a table of commands whose `help` is generated from that table. Both run on the main loop
//! and do everything through the commands of crate `vmm`.
//!
//! Not here: the commands themselves; a thread of its own for out-of-band commands: `oob` is
//! offered, but such a command is carried out on the main loop like any other.
//!
//! Sources: the QMP specification of QEMU's manual and transcripts of QEMU 10.0.2.

mod block;
mod complete;
mod dump;
mod editor;
mod expression;
mod hmp;
mod info;
mod network;
mod objects;
mod output;
mod qmp;
mod qtree;
mod snapshots;

pub use editor::{Edit, Editor};
pub use hmp::{COMMANDS, Hmp, HumanCommand, run_line, split_line};
pub use qmp::Qmp;
