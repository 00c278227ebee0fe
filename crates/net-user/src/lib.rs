//! User-mode networking (`-netdev user`): a network for a guest without any privilege.
//!
//! The guest sees a router with DHCP (of IPv6 without addresses), a name server, TFTP and IPv6
//! advertisements; its TCP
//! connections, UDP datagrams and echoes leave the host through ordinary sockets, and ports of
//! the host lead to it (`hostfwd`). The TCP end is our own; long segments
//! (TSO) go in both directions unsplit, so the cost is per 64 KiB and not per 1460 bytes.
//! Everything of the guest and everything from outside is untrusted: each parser takes any
//! bytes, and tables, buffers and time are bounded.
//! Not modelled: SMB, urgent data, IP options, ICMP errors of the outside, multicast.
//! Sources: the RFCs named in each file; QEMU's manual ("network options") and its observable
//! behaviour for addresses, defaults and texts.

mod arp;
mod char_bridge;
mod command;
mod config;
mod conns;
mod dhcp;
mod dhcp6;
mod flows;
mod forward;
mod icmp;
mod icmp6;
mod info;
mod map;
mod out;
mod reassembly;
mod resolver;
mod ring;
mod saved;
mod stack;
mod tcp;
#[cfg(test)]
mod tests;
mod tftp;
mod user;
mod wire;

pub use config::{Text, UserArgs};
pub use user::User;
