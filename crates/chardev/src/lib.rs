//! Character back ends.
//!
//! A back end is the host's end of a byte stream whose other end is a device, a
//! monitor or a multiplexer. Each kind is one file with its arguments as a
//! `#[derive(Qapi)]` struct and a [`ChardevClass`]; [`Chardevs`] is the table of
//! those that exist. Input runs on the main loop and only while the front end
//! has room; output is written at once by whoever sends, and never waits. The short forms of
//! `-serial` and `-monitor` are rewritten to the same arguments by [`legacy`].
//! Not here: the guest's side (`device::CharPort`), TLS and web sockets.
//! Sources: QEMU 10.0's manual (invocation, "character device options") and its
//! observable behaviour.

mod common;
mod endpoint;
mod file;
mod front;
mod legacy;
mod mux;
mod null;
mod pty;
mod ringbuf;
mod socket;
mod stdio;
mod table;
mod telnet;
mod testdev;
mod udp;

pub use common::Common;
pub use device::{CharBackend, CharEvent, CharPort, CharReceiver};
pub use file::FileArgs;
pub use front::Front;
pub use legacy::{Legacy, legacy};
pub use mux::{Mux, MuxArgs};
pub use null::NullArgs;
pub use pty::{PipeArgs, PtyArgs};
pub use ringbuf::{Ringbuf, RingbufArgs};
pub use socket::SocketArgs;
pub use stdio::StdioArgs;
pub use table::{CLASSES, Chardev, ChardevClass, ChardevInfo, Chardevs, Context, FindFd, Open};
pub use testdev::TestdevArgs;
pub use udp::UdpArgs;
