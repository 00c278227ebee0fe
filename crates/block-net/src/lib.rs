//! Block drivers that talk to servers.
//!
//! Here: `nbd`, a client of the network block device protocol, over TCP and sockets of the host.
//! What a server says is hostile: lengths are bounded, handles must be known, and a reply that makes
//! no sense ends the connection and never the program.
//! Not here: TLS, other protocols (http, ssh, iscsi), servers.
//! Source: the NBD protocol description; QEMU's manual, `nbd`.

pub mod nbd;
